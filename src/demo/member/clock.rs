//! Times as Kubernetes writes them.

use jiff::Timestamp;

/// Now, to the second: `2026-11-22T10:00:00Z`.
pub(crate) fn now() -> String {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// Whole seconds since then; `None` for what is no time.
pub(crate) fn seconds_since(timestamp: &str) -> Option<u64> {
    let then: Timestamp = timestamp.parse().ok()?;
    u64::try_from(Timestamp::now().as_second() - then.as_second()).ok()
}
