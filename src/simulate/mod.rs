//! A simulated plant and its meters on a real Modbus/TCP socket: for the demo, for training and for tests.
