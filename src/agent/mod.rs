//! The one place where parts are built, started, watched and stopped; signals and systemd notices live here.
