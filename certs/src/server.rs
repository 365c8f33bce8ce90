//! What a listener shows: its certificate, replaced while it runs.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use rustls::{
    ServerConfig,
    server::danger::ClientCertVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{
    CertError, ClientAuthority, StateDirectory, danger::UnverifiedClientCertificates, pem, provider,
};

/// Where a listener's certificate comes from.
#[derive(Debug)]
pub enum ServingSource {
    /// PEM files as cert-manager and kube-apiserver have them. The certificate file holds the chain, leaf first.
    Files {
        /// The certificate chain.
        certificate: PathBuf,
        /// The private key.
        key: PathBuf,
    },
    /// Issued by the authority in the state directory, and again long before it runs out.
    StateDirectory {
        /// The directory.
        directory: Arc<StateDirectory>,
        /// The DNS names and IP addresses it is for.
        names: Vec<String>,
    },
}

/// What became of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// Nothing has changed.
    Unchanged,
    /// There is something new, and it is in use.
    Changed,
}

/// A listener's TLS configuration, replaced as a whole when a certificate or the trust in clients changes.
///
/// As a whole, because a resumed session skips the certificate: a session ticket of the old configuration would
/// otherwise outlive the certificate it was made under. Connections that are open stay open; their client
/// certificates are judged per request (see [`UnverifiedClientCertificates`]).
pub struct ServerTls {
    source: ServingSource,
    clients: Option<Arc<ClientAuthority>>,
    current: RwLock<Arc<ServerConfig>>,
    loaded: Mutex<Loaded>,
}

#[derive(PartialEq, Eq)]
struct Loaded {
    certificate: Vec<u8>,
    key: Vec<u8>,
    trust: u64,
}

impl ServerTls {
    /// Loads the certificate. Clients are asked for certificates if there is an authority that could vouch for
    /// them.
    ///
    /// # Errors
    /// [`CertError`], naming the file.
    pub fn new(source: ServingSource, clients: Option<Arc<ClientAuthority>>) -> Result<Self, CertError> {
        let loaded = Loaded::read(&source, clients.as_deref())?;
        let config = loaded.config(&source, clients.as_deref())?;
        Ok(Self { source, clients, current: RwLock::new(Arc::new(config)), loaded: Mutex::new(loaded) })
    }

    /// What to accept the next connection with.
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at everything again: files, the time left, and the trust in clients (which is reloaded by its owner).
    /// With an error the last good configuration stays in use.
    ///
    /// # Errors
    /// [`CertError`], naming the file.
    pub fn reload(&self) -> Result<Reload, CertError> {
        let fresh = Loaded::read(&self.source, self.clients.as_deref())?;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if fresh == *loaded {
            return Ok(Reload::Unchanged);
        }
        let config = fresh.config(&self.source, self.clients.as_deref())?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        *loaded = fresh;
        Ok(Reload::Changed)
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Loaded {
    fn read(source: &ServingSource, clients: Option<&ClientAuthority>) -> Result<Self, CertError> {
        let trust = clients.map_or(0, ClientAuthority::generation);
        let (certificate, key) = match source {
            ServingSource::Files { certificate, key } => (pem::read(certificate)?, pem::read(key)?),
            ServingSource::StateDirectory { directory, names } => {
                let both = directory.serving(names)?;
                (both.clone(), both)
            }
        };
        Ok(Self { certificate, key, trust })
    }

    fn config(
        &self,
        source: &ServingSource,
        clients: Option<&ClientAuthority>,
    ) -> Result<ServerConfig, CertError> {
        let (certificate_origin, key_origin) = source.origins();
        let chain = pem::certificates(&self.certificate, &certificate_origin)?;
        let key = pem::private_key(&self.key, &key_origin)?;
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                CertError::KeyMismatch { certificate: certificate_origin, key: key_origin }
            }
            other => CertError::Malformed { origin: certificate_origin, reason: other.to_string() },
        })?;
        let verifier = clients.map(|clients| {
            Arc::new(UnverifiedClientCertificates::new(clients.hints())) as Arc<dyn ClientCertVerifier>
        });
        server_config(certified, verifier)
    }
}

impl ServingSource {
    /// Where certificate and key come from, for people.
    fn origins(&self) -> (String, String) {
        match self {
            Self::Files { certificate, key } => {
                (certificate.display().to_string(), key.display().to_string())
            }
            Self::StateDirectory { directory, .. } => {
                let file = directory.serving_file().display().to_string();
                (file.clone(), file)
            }
        }
    }
}

/// A listener's configuration: TLS 1.2 and 1.3, ALPN `h2` before `http/1.1`, and certificates of clients judged by
/// `clients` if there is one.
///
/// # Errors
/// [`CertError::Tls`].
pub fn server_config(
    certified: CertifiedKey,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, CertError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{Authority, Issued};

    struct Files {
        folder: tempfile::TempDir,
        authority: Authority,
    }

    impl Files {
        fn new() -> Self {
            let files =
                Self { folder: tempfile::tempdir().unwrap(), authority: Authority::new("serving").unwrap() };
            files.write(&files.issue());
            files
        }

        fn issue(&self) -> Issued {
            self.authority.issue_server(&["localhost"]).unwrap()
        }

        fn write(&self, issued: &Issued) {
            fs::write(self.certificate(), issued.certificate_pem()).unwrap();
            fs::write(self.key(), issued.key_pem()).unwrap();
        }

        fn certificate(&self) -> PathBuf {
            self.folder.path().join("tls.crt")
        }

        fn key(&self) -> PathBuf {
            self.folder.path().join("tls.key")
        }

        fn tls(&self) -> Result<ServerTls, CertError> {
            ServerTls::new(ServingSource::Files { certificate: self.certificate(), key: self.key() }, None)
        }
    }

    #[test]
    fn a_replaced_pair_is_taken_up() {
        let files = Files::new();
        let tls = files.tls().unwrap();
        let before = tls.current();
        assert_eq!(tls.reload().unwrap(), Reload::Unchanged);
        files.write(&files.issue());
        assert_eq!(tls.reload().unwrap(), Reload::Changed);
        assert!(!Arc::ptr_eq(&before, &tls.current()));
        assert_eq!(tls.reload().unwrap(), Reload::Unchanged);
    }

    #[test]
    fn a_half_replaced_pair_keeps_the_old_one_until_it_is_whole() {
        let files = Files::new();
        let tls = files.tls().unwrap();
        let before = tls.current();
        let fresh = files.issue();
        fs::write(files.certificate(), fresh.certificate_pem()).unwrap();
        let error = tls.reload().unwrap_err();
        assert!(matches!(error, CertError::KeyMismatch { .. }), "{error}");
        assert!(error.to_string().contains("tls.key"), "{error}");
        assert!(Arc::ptr_eq(&before, &tls.current()));
        files.write(&fresh);
        assert_eq!(tls.reload().unwrap(), Reload::Changed);
    }

    #[test]
    fn a_missing_file_keeps_the_old_pair_and_is_named() {
        let files = Files::new();
        let tls = files.tls().unwrap();
        fs::remove_file(files.key()).unwrap();
        assert!(tls.reload().unwrap_err().to_string().contains("tls.key"));
        assert!(files.tls().unwrap_err().to_string().contains("tls.key"));
    }

    #[test]
    fn changed_trust_in_clients_makes_a_new_configuration() {
        let files = Files::new();
        let bundle = files.folder.path().join("clients.crt");
        fs::write(&bundle, Authority::new("old").unwrap().certificate_pem()).unwrap();
        let clients = Arc::new(ClientAuthority::from_file(&bundle).unwrap());
        let source = ServingSource::Files { certificate: files.certificate(), key: files.key() };
        let tls = ServerTls::new(source, Some(Arc::clone(&clients))).unwrap();
        fs::write(&bundle, Authority::new("new").unwrap().certificate_pem()).unwrap();
        assert_eq!(tls.reload().unwrap(), Reload::Unchanged);
        clients.reload().unwrap();
        assert_eq!(tls.reload().unwrap(), Reload::Changed);
    }

    #[test]
    fn a_state_directory_serves_without_any_files_given() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Arc::new(StateDirectory::open(folder.path()).unwrap());
        let source = ServingSource::StateDirectory { directory, names: vec!["localhost".to_owned()] };
        let tls = ServerTls::new(source, None).unwrap();
        assert_eq!(tls.reload().unwrap(), Reload::Unchanged);
        fs::remove_file(folder.path().join("serving.pem")).unwrap();
        assert_eq!(tls.reload().unwrap(), Reload::Changed);
    }
}
