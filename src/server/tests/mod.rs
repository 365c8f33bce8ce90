//! The server on real sockets with real TLS.

mod drain;
mod hostile;
mod http;
mod support;
mod trust;
