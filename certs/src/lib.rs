//! Certificates for Clusterway: what a listener shows, whom it trusts, and an authority of our own for those who
//! have none.
//!
//! Everything here is synchronous and pulls: files are read again when [`ServerTls::reload`] or
//! [`ClientAuthority::reload`] is called, and a bad file never replaces a good one. The cryptography is aws-lc-rs,
//! passed explicitly everywhere; no process-wide default is needed or touched.
//!
//! It must never put key material into an error, a log line or `Debug` output, and whatever weakens TLS stands in
//! [`danger`].

#![forbid(unsafe_code)]

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

mod authority;
mod client;
pub mod danger;
mod der;
mod error;
mod file;
mod pem;
mod server;
mod state;
mod subject;

pub use authority::{Authority, Issued};
pub use client::{ClientAuthority, ClientCertificateError, VerifiedClient};
pub use error::CertError;
pub use file::{read_file, read_text_file};
pub use pem::{certificates, private_key};
pub use server::{Reload, ServerTls, ServingSource, server_config};
pub use state::StateDirectory;
pub use subject::Subject;

/// The cryptography that every TLS configuration of Clusterway is built with: aws-lc-rs.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}
