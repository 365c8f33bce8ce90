//! The way of a request, in order.

pub mod authenticate;
