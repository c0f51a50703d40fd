//! The command line: arguments in, text and exit codes out. The work is done by `agent`.
