//! Trust in client certificates.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use rustls::{
    DistinguishedName, RootCertStore,
    pki_types::{CertificateDer, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

use crate::{CertError, Reload, Subject, pem, provider, subject};

/// The authorities whose client certificates are believed.
///
/// Every change of trust has a new [`generation`](Self::generation): whoever keeps the outcome of a verification
/// must keep the generation *from before* it, and verify again once it has moved on.
#[derive(Debug)]
pub struct ClientAuthority {
    file: Option<PathBuf>,
    trust: RwLock<Arc<Trust>>,
    generation: AtomicU64,
}

#[derive(Debug)]
struct Trust {
    bundle: Vec<u8>,
    verifier: Arc<dyn ClientCertVerifier>,
    hints: Vec<DistinguishedName>,
}

/// A client certificate whose chain leads to a trusted authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedClient {
    /// Whom it names.
    pub subject: Subject,
    /// When the first certificate of the chain runs out; what was concluded from it must not be used any longer.
    pub not_after: SystemTime,
}

/// Why a client certificate is not believed. Fit for logs; says nothing secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientCertificateError {
    /// The client showed none.
    #[error("no client certificate was shown")]
    Missing,
    /// Expired, of an unknown authority, not meant for clients, or malformed.
    #[error("the client certificate is not valid: {0}")]
    Untrusted(String),
}

impl ClientAuthority {
    /// Trusts the certificates in the PEM file at `path`, which [`reload`](Self::reload) reads again.
    ///
    /// # Errors
    /// [`CertError`], naming the file.
    pub fn from_file(path: impl Into<PathBuf>) -> Result<Self, CertError> {
        let path = path.into();
        let trust = Trust::new(pem::read(&path)?, &path.display().to_string())?;
        Ok(Self::with(Some(path), trust))
    }

    /// Trusts the certificates in `bundle`; `origin` names it in errors.
    ///
    /// # Errors
    /// [`CertError`].
    pub fn from_pem(bundle: &[u8], origin: &str) -> Result<Self, CertError> {
        Ok(Self::with(None, Trust::new(bundle.to_vec(), origin)?))
    }

    fn with(file: Option<PathBuf>, trust: Trust) -> Self {
        Self { file, trust: RwLock::new(Arc::new(trust)), generation: AtomicU64::new(0) }
    }

    /// The file behind it, if there is one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Reads the file again. With an error everything stays as it was.
    ///
    /// # Errors
    /// [`CertError`], naming the file.
    pub fn reload(&self) -> Result<Reload, CertError> {
        let Some(file) = &self.file else { return Ok(Reload::Unchanged) };
        let bundle = pem::read(file)?;
        if bundle == self.trust().bundle {
            return Ok(Reload::Unchanged);
        }
        let trust = Arc::new(Trust::new(bundle, &file.display().to_string())?);
        *self.trust.write().unwrap_or_else(PoisonError::into_inner) = trust;
        // After the new trust is in place: whoever sees the new number verifies with the new trust.
        self.generation.fetch_add(1, Ordering::Release);
        Ok(Reload::Changed)
    }

    /// Counts the changes of trust.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Verifies a chain as a client showed it, leaf first: signatures, dates, and that the leaf may be a client's
    /// (extended key usage, where it has one, includes `clientAuth`; as `crypto/x509` decides for kube-apiserver).
    ///
    /// # Errors
    /// [`ClientCertificateError`].
    pub fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<VerifiedClient, ClientCertificateError> {
        let (leaf, intermediates) = chain.split_first().ok_or(ClientCertificateError::Missing)?;
        let untrusted = ClientCertificateError::Untrusted;
        self.trust()
            .verifier
            .verify_client_cert(leaf, intermediates, UnixTime::now())
            .map_err(|error| untrusted(error.to_string()))?;
        let mut first_end = subject::not_after(leaf).map_err(untrusted)?;
        for intermediate in intermediates {
            first_end = first_end.min(subject::not_after(intermediate).map_err(untrusted)?);
        }
        Ok(VerifiedClient { subject: Subject::of(leaf).map_err(untrusted)?, not_after: first_end })
    }

    /// The subjects of the trusted authorities, for the listener's certificate request.
    pub fn hints(&self) -> Vec<DistinguishedName> {
        self.trust().hints.clone()
    }

    fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.trust.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Trust {
    fn new(bundle: Vec<u8>, origin: &str) -> Result<Self, CertError> {
        let mut roots = RootCertStore::empty();
        for (index, certificate) in pem::certificates(&bundle, origin)?.into_iter().enumerate() {
            roots.add(certificate).map_err(|error| CertError::Malformed {
                origin: origin.to_owned(),
                reason: format!("certificate {} cannot be used as an authority: {error}", index + 1),
            })?;
        }
        let hints = roots.subjects();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| CertError::Malformed { origin: origin.to_owned(), reason: error.to_string() })?;
        Ok(Self { bundle, verifier, hints })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Authority;

    fn trust(authority: &Authority) -> ClientAuthority {
        ClientAuthority::from_pem(authority.certificate_pem().as_bytes(), "test").unwrap()
    }

    #[test]
    fn the_subject_of_a_trusted_certificate_is_given() {
        let authority = Authority::new("clients").unwrap();
        let issued = authority.issue_client("jane", &["dev", "ops"]).unwrap();
        let client = trust(&authority).verify(issued.chain()).unwrap();
        assert_eq!(client.subject.common_name, "jane");
        assert_eq!(client.subject.organizations, ["dev", "ops"]);
        assert!(client.not_after > SystemTime::now());
    }

    #[test]
    fn certificates_of_other_authorities_are_refused() {
        let issued = Authority::new("others").unwrap().issue_client("jane", &[]).unwrap();
        let error = trust(&Authority::new("clients").unwrap()).verify(issued.chain()).unwrap_err();
        assert!(matches!(error, ClientCertificateError::Untrusted(_)), "{error}");
    }

    #[test]
    fn an_authority_of_the_same_name_is_another_authority() {
        let issued = Authority::new("clients").unwrap().issue_client("jane", &[]).unwrap();
        trust(&Authority::new("clients").unwrap()).verify(issued.chain()).unwrap_err();
    }

    #[test]
    fn serving_certificates_are_no_client_certificates() {
        let authority = Authority::new("clients").unwrap();
        let issued = authority.issue_server(&["jane"]).unwrap();
        trust(&authority).verify(issued.chain()).unwrap_err();
    }

    #[test]
    fn no_certificate_is_not_an_untrusted_one() {
        let authority = trust(&Authority::new("clients").unwrap());
        assert_eq!(authority.verify(&[]), Err(ClientCertificateError::Missing));
    }

    #[test]
    fn a_changed_bundle_changes_trust_and_a_broken_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clients.crt");
        let (old, new) = (Authority::new("old").unwrap(), Authority::new("new").unwrap());
        let of_old = old.issue_client("jane", &[]).unwrap();
        let of_new = new.issue_client("jane", &[]).unwrap();

        std::fs::write(&path, old.certificate_pem()).unwrap();
        let trust = ClientAuthority::from_file(&path).unwrap();
        assert_eq!(trust.reload().unwrap(), Reload::Unchanged);
        assert_eq!(trust.generation(), 0);

        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nbroken").unwrap();
        assert!(trust.reload().unwrap_err().to_string().contains("clients.crt"));
        trust.verify(of_old.chain()).unwrap();
        assert_eq!(trust.generation(), 0);

        std::fs::write(&path, new.certificate_pem()).unwrap();
        assert_eq!(trust.reload().unwrap(), Reload::Changed);
        assert_eq!(trust.generation(), 1);
        trust.verify(of_old.chain()).unwrap_err();
        trust.verify(of_new.chain()).unwrap();
    }
}
