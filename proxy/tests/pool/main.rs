//! The connection pool on real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

mod support;

mod bodies;
mod http1;
mod http2;
mod isolation;
mod lifecycle;
mod retries;
