//! What the tests stand on: members that record what they get, a front server around the proxy, and clients.

pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod front;
pub(crate) mod member;
pub(crate) mod raw;
pub(crate) mod tls;

use std::{future::Future, time::Duration};

/// Ends a test that hangs with a message instead of never.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("it should have happened by now")
}

/// One of the two HTTP versions that a hop can speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Http {
    One,
    Two,
}

/// Emits every named `async fn(front: Http, member: Http)` as four tests.
macro_rules! over_all_versions {
    ($($test:ident),* $(,)?) => {$(
        mod $test {
            use crate::support::Http::{One, Two};

            #[tokio::test]
            async fn h1_to_h1() { crate::support::soon(super::$test(One, One)).await; }
            #[tokio::test]
            async fn h1_to_h2() { crate::support::soon(super::$test(One, Two)).await; }
            #[tokio::test]
            async fn h2_to_h1() { crate::support::soon(super::$test(Two, One)).await; }
            #[tokio::test]
            async fn h2_to_h2() { crate::support::soon(super::$test(Two, Two)).await; }
        }
    )*};
}
pub(crate) use over_all_versions;
