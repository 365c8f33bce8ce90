//! The command line: one file per command, and the exit codes.

#[cfg(feature = "demo")]
mod demo;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{
    config::{ConfigError, ServeFlags},
    telemetry::{self, LogError, LogFlags},
};

/// One door to every Kubernetes cluster.
#[derive(Parser, Debug)]
#[command(name = "clusterway", version, about, propagate_version = true, arg_required_else_help = true)]
struct CommandLine {
    #[command(flatten)]
    log: LogFlags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Serve the clusters of folders and kubeconfigs
    Serve(Box<ServeFlags>),
    /// Try it: two embedded clusters behind one gateway
    #[cfg(feature = "demo")]
    Demo(demo::DemoFlags),
    /// Print the version
    Version,
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The flags make no sense together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The logging flags make no sense.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Everything else.
    #[error("{0:#}")]
    Work(#[from] anyhow::Error),
}

impl Failure {
    /// 64 (`EX_USAGE` of sysexits.h) when other flags would help, else 1.
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Log(_) => ExitCode::from(USAGE),
            Self::Work(_) => ExitCode::FAILURE,
        }
    }
}

/// `EX_USAGE`.
const USAGE: u8 = 64;

/// Parses the command line and runs the command. The exit code is 0 for success, 64 for a command line or
/// configuration that cannot be, 1 for every other failure.
pub fn run() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => {
            // Nothing can be done about a standard output that is gone.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match execute(line) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("clusterway: {failure}");
            failure.exit_code()
        }
    }
}

fn execute(line: CommandLine) -> Result<ExitCode, Failure> {
    match line.command {
        Command::Serve(flags) => {
            let config = flags.resolve()?;
            let _logging = telemetry::init(&line.log, "info")?;
            serve::run(config)?;
        }
        #[cfg(feature = "demo")]
        Command::Demo(flags) => {
            let _logging = telemetry::init(&line.log, "warn")?;
            return Ok(demo::run(flags)?);
        }
        Command::Version => println!("clusterway {}", env!("CARGO_PKG_VERSION")),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_flag_of_serve_has_a_variable() {
        let command = CommandLine::command();
        let serve = command.find_subcommand("serve").unwrap();
        for flag in
            serve.get_arguments().filter_map(|argument| Some((argument.get_long()?, argument.get_env())))
        {
            let (name, variable) = flag;
            let expected = format!("CLUSTERWAY_{}", name.replace('-', "_").to_uppercase());
            assert_eq!(variable.map(|name| name.to_string_lossy().into_owned()), Some(expected), "--{name}");
        }
    }
}
