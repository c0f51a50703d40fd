//! Turns the file into one checked config made of each room's own, and tells every fault at once.
