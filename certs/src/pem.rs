//! PEM files and blocks.

use std::path::Path;

use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{Error as PemError, PemObject as _},
};

use crate::{CertError, read_file};

/// The certificates in `pem`, in their order. Other blocks are passed over.
///
/// # Errors
/// [`CertError::NoCertificate`] or [`CertError::Malformed`], naming `origin`.
pub fn certificates(pem: &[u8], origin: &str) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| malformed(origin, &error))?;
    if chain.is_empty() { Err(CertError::NoCertificate { origin: origin.to_owned() }) } else { Ok(chain) }
}

/// The first private key in `pem`: PKCS#8, PKCS#1 or SEC 1, not encrypted.
///
/// # Errors
/// [`CertError::NoKey`] or [`CertError::Malformed`], naming `origin` and never the content.
pub fn private_key(pem: &[u8], origin: &str) -> Result<PrivateKeyDer<'static>, CertError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        PemError::NoItemsFound => CertError::NoKey { origin: origin.to_owned() },
        other => malformed(origin, &other),
    })
}

/// All of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, CertError> {
    read_file(path).map_err(|cause| CertError::Read { path: path.to_owned(), cause })
}

/// The library's messages can quote the offending line; these name only its kind.
fn malformed(origin: &str, error: &PemError) -> CertError {
    let reason = match error {
        PemError::MissingSectionEnd { .. } => "a PEM block has no end line",
        PemError::IllegalSectionStart { .. } => "a PEM block starts with a malformed line",
        PemError::Base64Decode(_) => "a PEM block is not valid base64",
        _ => "not valid PEM",
    };
    CertError::Malformed { origin: origin.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_named() {
        let error = certificates(b"no certificate here", "east.crt").unwrap_err();
        assert!(error.to_string().starts_with("east.crt holds no certificate"), "{error}");
    }

    #[test]
    fn a_broken_key_is_named_and_not_shown() {
        let pem = b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0!!!\n-----END PRIVATE KEY-----\n";
        let error = private_key(pem, "tls.key").unwrap_err();
        assert_eq!(error.to_string(), "tls.key: a PEM block is not valid base64");
        assert!(!format!("{error:?}").contains("c2VjcmV0"));
    }

    #[test]
    fn a_certificate_is_not_taken_for_a_key() {
        let authority = crate::Authority::new("test").unwrap();
        let error = private_key(authority.certificate_pem().as_bytes(), "ca.crt").unwrap_err();
        assert!(matches!(error, CertError::NoKey { .. }), "{error}");
    }
}
