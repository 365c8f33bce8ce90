//! The proxy between real sockets: one module per capability.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

mod support;

mod dialing;
mod headers;
mod limits;
mod paths;
mod plain;
mod redirects;
mod shutdown;
mod smuggling;
mod tunnel;
mod upgrade;
