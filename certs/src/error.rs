//! Everything that can be wrong with a certificate, a key or the place where they are kept.

use std::{io, path::PathBuf};

/// Why a certificate or key cannot be used.
///
/// `origin` says where it came from, for people: mostly a path. No variant ever carries key material. Messages are
/// complete: there is no `source()` to print after them.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A file could not be read.
    #[error("cannot read {}: {cause}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A file or directory could not be written.
    #[error("cannot write {}: {cause}", .path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// There is no `CERTIFICATE` block.
    #[error("{origin} holds no certificate (a PEM block \"BEGIN CERTIFICATE\")")]
    NoCertificate {
        /// Where it was looked for.
        origin: String,
    },
    /// There is no private key block.
    #[error(
        "{origin} holds no private key (a PEM block \"BEGIN PRIVATE KEY\", RSA, EC or PKCS#8, not encrypted)"
    )]
    NoKey {
        /// Where it was looked for.
        origin: String,
    },
    /// It is not PEM, or not a certificate, or a certificate that cannot serve as what it is meant for.
    #[error("{origin}: {reason}")]
    Malformed {
        /// Where it came from.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key do not belong together.
    #[error("the certificate in {certificate} and the private key in {key} do not belong together")]
    KeyMismatch {
        /// Where the certificate came from.
        certificate: String,
        /// Where the key came from.
        key: String,
    },
    /// Not usable as a subject alternative name.
    #[error("{0:?} is neither a DNS name nor an IP address, so no certificate can be issued for it")]
    InvalidName(String),
    /// A certificate could not be made.
    #[error("cannot issue a certificate: {0}")]
    Issue(String),
    /// The authority in the state directory is past its time.
    #[error(
        "the authority in {} has expired or will within 90 days: move the file away to have a new one made at the \
         next start, and hand its certificate to your clients", .path.display()
    )]
    AuthorityExpired {
        /// The file that holds it.
        path: PathBuf,
    },
    /// TLS cannot be set up with what was given.
    #[error("cannot set up TLS: {0}")]
    Tls(rustls::Error),
}

impl From<rustls::Error> for CertError {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error)
    }
}

impl From<rcgen::Error> for CertError {
    fn from(error: rcgen::Error) -> Self {
        Self::Issue(error.to_string())
    }
}
