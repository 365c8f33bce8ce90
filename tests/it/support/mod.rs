//! What the integration tests share: kubectl, a real control plane, members that record, and a gateway that runs as
//! its own process.

pub mod client;
pub mod control_plane;
pub mod double;
pub mod gateway;
pub mod kubectl;
pub mod members;
pub mod process;
pub mod raw_member;

use std::{future::Future, io::Write as _, time::Duration};

/// Long enough for any machine; only a test that fails ever waits for all of it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Says, past the capture of the test harness, that `test` did not run and why.
pub fn skip(test: &str, why: &str) {
    // A closed stderr is no reason to fail.
    let _ = writeln!(std::io::stderr(), "\nSKIPPED {test}: {why}\n");
}

/// Waits for something that must happen.
#[track_caller]
pub fn soon<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let place = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(PATIENCE, future).await {
            Ok(output) => output,
            Err(_) => panic!("{place}: {what}: never happened"),
        }
    }
}
