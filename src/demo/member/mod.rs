//! An embedded member: a Kubernetes API server in memory, for the demo and the tests.
//!
//! It authenticates by client certificate, lets everybody who has one do everything (no RBAC), and honours
//! impersonation. It listens on loopback only, and nothing of the user's machine is ever read or run. What it does not
//! serve it says so, as a `Status`.

mod clock;
mod controllers;
mod discovery;
mod failure;
mod lifecycle;
mod negotiate;
pub mod openapi;
pub mod patch;
mod protobuf;
mod request;
pub mod resources;
mod rest;
mod seed;
mod selectors;
mod server;
mod store;
pub mod streams;
mod table;
mod types;
mod watch;

pub use request::User;
pub use server::{Member, MemberConfig, MemberError, Recorded};
pub use store::{Change, Outcome, Store};
