//! Clusterway: one door to every Kubernetes cluster.
//!
//! The binary is thin; everything lives here so that tests and benchmarks can build a gateway of their own. The
//! floors, top to bottom: `cli`, then `demo` and `server`, then `gateway`, `api`, then `identity`, `access` and
//! `forward`, then `clusters`, then `manifests`, `config` and the crates `upgrade_aware_proxy` and
//! `clusterway_certs`. Nothing imports upward.

#![forbid(unsafe_code)]

pub mod access;
pub mod api;
pub mod app;
pub mod cli;
pub mod clusters;
pub mod config;
pub mod connection;
#[cfg(feature = "demo")]
pub mod demo;
pub mod files;
pub mod forward;
pub mod gateway;
pub mod identity;
pub mod manifests;
pub mod open_files;
pub mod server;
pub mod standalone;
pub mod telemetry;
