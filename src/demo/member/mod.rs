//! An embedded member: a Kubernetes API server in memory.

pub mod streams;
