//! What Clusterway says about itself while it runs.
//!
//! Logs go to standard error. Nothing in here, and nothing that is handed to it, may hold a token, an
//! `Authorization` header, or the command of an exec.

pub mod access;

use std::io::{self, IsTerminal as _};

use clap::{Args, ValueEnum};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, filter::ParseError, fmt::MakeWriter};

/// How logs are written. Flags of every command.
#[derive(Args, Clone, Debug)]
pub struct LogFlags {
    /// How log lines are written
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        env = "CLUSTERWAY_LOG_FORMAT",
        default_value = "text",
        help_heading = "Logging"
    )]
    pub log_format: LogFormat,

    /// error, warn, info, debug or trace; or directives such as "info,clusterway::access=off" [default: info; warn
    /// for the demo]
    #[arg(long, global = true, value_name = "LEVEL", env = "CLUSTERWAY_LOG_LEVEL", help_heading = "Logging")]
    pub log_level: Option<String>,

    /// Leave out the log line per request
    #[arg(long, global = true, env = "CLUSTERWAY_NO_ACCESS_LOG", help_heading = "Logging")]
    pub no_access_log: bool,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Why logging cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a level and not directives.
    #[error(
        "--log-level {level:?} is neither a level (error, warn, info, debug, trace) nor directives: {cause}"
    )]
    Level {
        /// What was given.
        level: String,
        /// What is wrong with it.
        cause: ParseError,
    },
    /// Logging has begun already.
    #[error("logging has been set up already")]
    Again,
}

/// Writes what is still on its way when it goes; to be kept until the process ends.
#[derive(Debug)]
#[must_use = "log lines are lost once this is gone"]
pub struct Logging(#[expect(dead_code, reason = "held for its drop")] WorkerGuard);

/// Begins to log to standard error, from `default_level` on unless the flags say otherwise. Once per process.
///
/// A thread of its own writes the lines: a system call per request, under the lock of standard error, costs a tenth of
/// the throughput. No line is dropped; who logs faster than can be written waits.
///
/// # Errors
/// [`LogError`].
pub fn init(flags: &LogFlags, default_level: &str) -> Result<Logging, LogError> {
    let colours = io::stderr().is_terminal();
    let (writer, guard) = NonBlockingBuilder::default().lossy(false).finish(io::stderr());
    tracing::subscriber::set_global_default(subscriber(flags, default_level, writer, colours)?)
        .map_err(|_| LogError::Again)?;
    Ok(Logging(guard))
}

fn subscriber<W>(
    flags: &LogFlags,
    default_level: &str,
    writer: W,
    colours: bool,
) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, LogError>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let level = flags.log_level.as_deref().unwrap_or(default_level);
    let filter = filter(level, !flags.no_access_log)
        .map_err(|cause| LogError::Level { level: level.to_owned(), cause })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match flags.log_format {
        LogFormat::Text => Box::new(builder.with_ansi(colours).finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).with_current_span(false).finish()),
    })
}

/// A bare level is meant for Clusterway, not for the libraries below it: some of those write down whole messages when
/// they are asked for details.
fn filter(level: &str, access_log: bool) -> Result<EnvFilter, ParseError> {
    let mut directives = if level.contains(['=', ',']) || matches!(level, "off" | "error" | "warn") {
        level.to_owned()
    } else {
        format!("warn,clusterway={level},clusterway_certs={level},upgrade_aware_proxy={level}")
    };
    if !access_log {
        directives.push_str(&format!(",{}=off", access::TARGET));
    }
    EnvFilter::try_new(directives)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Log output kept in memory.
    #[derive(Clone, Default)]
    pub(super) struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Kept {
        pub(super) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged while `work` runs, with a subscriber as `init` would set it.
    pub(super) fn logged(log_format: LogFormat, log_level: &str, work: impl FnOnce()) -> String {
        logged_with(
            &LogFlags { log_format, log_level: Some(log_level.to_owned()), no_access_log: false },
            work,
        )
    }

    pub(super) fn logged_with(flags: &LogFlags, work: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = subscriber(flags, "info", move || writer.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, work);
        kept.text()
    }

    #[test]
    fn a_level_is_for_clusterway_and_not_for_its_libraries() {
        let text = logged(LogFormat::Text, "debug", || {
            tracing::debug!("ours");
            tracing::debug!(target: "h2::proto", "theirs");
            tracing::warn!(target: "h2::proto", "their warning");
        });
        assert!(text.contains("ours") && text.contains("their warning"), "{text}");
        assert!(!text.contains("theirs"), "{text}");
    }

    #[test]
    fn directives_are_taken_as_they_are() {
        let text = logged(LogFormat::Text, "off,h2=debug", || {
            tracing::error!("ours");
            tracing::debug!(target: "h2::proto", "theirs");
        });
        assert!(!text.contains("ours") && text.contains("theirs"), "{text}");
    }

    #[test]
    fn json_lines_are_objects_with_the_fields_on_top() {
        let text = logged(LogFormat::Json, "info", || tracing::info!(cluster = "east", "hello"));
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["cluster"], "east");
        assert_eq!(line["message"], "hello");
    }

    #[test]
    fn nonsense_is_refused_by_the_flag_s_name() {
        let flags = LogFlags {
            log_format: LogFormat::Text,
            log_level: Some("loud".to_owned()),
            no_access_log: false,
        };
        let error = subscriber(&flags, "info", io::stderr, false).err().unwrap().to_string();
        assert!(error.starts_with("--log-level \"loud\""), "{error}");
    }
}
