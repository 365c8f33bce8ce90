//! Parse the command line, run the command.

use std::process::ExitCode;

fn main() -> ExitCode {
    clusterway::cli::run()
}
