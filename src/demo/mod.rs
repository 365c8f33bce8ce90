//! Embedded members and what `clusterway demo` shows with them.
//!
//! Nothing here may run a command of the user's machine or listen anywhere but on loopback.

pub mod client;
pub mod fleet;
mod handshake;
pub mod member;
pub mod tour;
