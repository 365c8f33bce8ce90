//! What Clusterway does, seen from outside: real kubectl and raw clients, through the real `clusterway serve` in a
//! process of its own, in front of embedded members, of a member that records every byte, and of a real
//! kube-apiserver where `KUBEBUILDER_ASSETS` has one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "a test that cannot go on should stop, and nothing here is an interface"
)]

mod bytes;
mod changing;
mod demo;
mod identity;
mod kubectl;
mod load;
mod matrix;
mod real;
mod refusals;
mod shutdown;
mod streams;
mod support;
mod watches;
