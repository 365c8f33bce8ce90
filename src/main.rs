//! Parse the command line, run the command.

fn main() {}
