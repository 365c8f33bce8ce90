//! How many files, and so sockets, this process may have open.
//!
//! When they run out, nothing can be read or dialed any more: not the file either that withdraws somebody's rights. So
//! clients never get all of them.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one, and says how many client connections fit: at most `wanted`, and at most three
/// quarters of all files. The rest is for members, tunnels and files.
pub fn connections_that_fit(wanted: usize) -> usize {
    let limit = raised();
    let room = share(limit);
    if room < wanted {
        tracing::warn!(
            wanted,
            room,
            open_files = limit,
            "--max-connections is more than the limit on open files allows; raise the limit (ulimit -Hn)"
        );
    }
    wanted.min(room)
}

fn raised() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        // Some systems have a ceiling below the hard limit that they say they have.
        Err(error) => {
            tracing::debug!(%error, "cannot raise the limit on open files");
            current
        }
    }
}

/// `None` is no limit.
fn share(limit: Option<u64>) -> usize {
    limit.and_then(|limit| usize::try_from(limit / 4 * 3).ok()).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_never_get_all_files() {
        assert_eq!(share(Some(64)), 48);
        assert_eq!(share(Some(0)), 1);
        assert_eq!(share(None), usize::MAX);
    }

    #[test]
    fn the_soft_limit_is_raised() {
        connections_that_fit(1);
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
    }
}
