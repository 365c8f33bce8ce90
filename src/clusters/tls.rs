//! How a member proves who it is, and how the gateway proves itself to it.
//!
//! One `ClientConfig` per cluster, so that sessions resume within a cluster and never across two. What skips a check
//! stands in [`danger`] and nowhere else.

use std::sync::{Arc, OnceLock};

use rustls::{
    ClientConfig, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::CryptoProvider,
};
use rustls_pki_types::ServerName;

use super::{ClusterSpec, Trust};

/// A cluster whose TLS material cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TlsError {
    /// No authority of the system can be used.
    #[error("the system has no usable root certificates ({0}); give the cluster a ca.crt")]
    NoSystemRoots(String),
    /// The cluster's authorities cannot be used.
    #[error("ca.crt: {0}")]
    Authorities(String),
    /// The client certificate and its key do not go together, or cannot be used.
    #[error("client certificate: {0}")]
    ClientCertificate(String),
    /// The name to verify is none.
    #[error(
        "{0:?} is neither a DNS name nor an IP address; set tls-server-name to the name in the certificate"
    )]
    ServerName(String),
}

/// The TLS side of one cluster.
#[derive(Clone, Debug)]
pub struct MemberTls {
    /// Offers no ALPN by itself; the dialer does, per connection.
    pub config: Arc<ClientConfig>,
    /// What the certificate must be for, and SNI where it is a DNS name.
    pub server_name: ServerName<'static>,
}

impl MemberTls {
    /// Builds it from a cluster's definition.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(spec: &ClusterSpec) -> Result<Self, TlsError> {
        let builder = ClientConfig::builder_with_provider(clusterway_certs::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Authorities(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier(&spec.trust)?);
        let config = match &spec.credential.certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => builder
                .with_client_auth_cert(certificate.chain.clone(), certificate.key.clone_key())
                .map_err(|error| TlsError::ClientCertificate(error.to_string()))?,
        };
        let host = spec.endpoint.authority.host();
        // IPv6 literals stand in brackets in an authority, and nowhere else.
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = spec.server_name.as_deref().unwrap_or(host);
        let server_name =
            ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName(name.to_owned()))?;
        Ok(Self { config: Arc::new(config), server_name })
    }
}

fn verifier(trust: &Trust) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let provider = clusterway_certs::provider();
    match trust {
        Trust::DangerSkipVerification => Ok(Arc::new(danger::NoVerification::new(provider))),
        Trust::SystemRoots => system_verifier(provider),
        Trust::Authorities(authorities) => {
            let mut roots = RootCertStore::empty();
            for authority in authorities {
                roots.add(authority.clone()).map_err(|error| TlsError::Authorities(error.to_string()))?;
            }
            let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| TlsError::Authorities(error.to_string()))?;
            Ok(Arc::new(pinned::PinnedOr { inner, pinned: authorities.clone() }))
        }
    }
}

/// Reading and parsing the system's authorities takes long, and hundreds of clusters may want them. A failure is not
/// kept: it can be cured by installing some.
fn system_verifier(provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    static VERIFIER: OnceLock<Arc<WebPkiServerVerifier>> = OnceLock::new();
    if let Some(verifier) = VERIFIER.get() {
        return Ok(Arc::clone(verifier) as _);
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(|_| {
            let reason = found.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string);
            TlsError::NoSystemRoots(reason)
        })?;
    Ok(Arc::clone(VERIFIER.get_or_init(|| verifier)) as _)
}

/// A self-signed `CA:TRUE` certificate used as the server's own, as home-made and edge clusters do. Go accepts it when
/// it is itself a configured authority; webpki answers `CaUsedAsEndEntity`.
mod pinned {
    use std::sync::Arc;

    use rustls::{
        CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme,
        client::{
            WebPkiServerVerifier,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        server::ParsedCertificate,
    };
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
    use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

    /// The ordinary verification, and byte equality with a configured authority where that fails for `CA:TRUE` alone.
    #[derive(Debug)]
    pub(super) struct PinnedOr {
        pub(super) inner: Arc<WebPkiServerVerifier>,
        pub(super) pinned: Vec<CertificateDer<'static>>,
    }

    impl ServerCertVerifier for PinnedOr {
        fn verify_server_cert(
            &self,
            end_entity: &CertificateDer<'_>,
            intermediates: &[CertificateDer<'_>],
            server_name: &ServerName<'_>,
            ocsp_response: &[u8],
            now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            let verified =
                self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
            match verified {
                Err(error)
                    if is_ca_as_end_entity(&error) && self.pinned.iter().any(|pin| pin == end_entity) =>
                {
                    check_purpose_and_dates(end_entity, now)?;
                    rustls::client::verify_server_name(
                        &ParsedCertificate::try_from(end_entity)?,
                        server_name,
                    )?;
                    Ok(ServerCertVerified::assertion())
                }
                verified => verified,
            }
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.inner.verify_tls12_signature(message, certificate, signature)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.inner.verify_tls13_signature(message, certificate, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.inner.supported_verify_schemes()
        }
    }

    fn is_ca_as_end_entity(error: &Error) -> bool {
        let Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) = error else {
            return false;
        };
        cause.to_string().contains("CaUsedAsEndEntity")
    }

    fn check_purpose_and_dates(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
        let bad_encoding = || Error::InvalidCertificate(CertificateError::BadEncoding);
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| bad_encoding())?;
        let usages = parsed.extended_key_usage().map_err(|_| bad_encoding())?;
        if usages.is_some_and(|usages| !usages.value.server_auth && !usages.value.any) {
            return Err(Error::InvalidCertificate(CertificateError::InvalidPurpose));
        }
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let validity = parsed.validity();
        if now < validity.not_before.timestamp() {
            Err(Error::InvalidCertificate(CertificateError::NotValidYet))
        } else if now > validity.not_after.timestamp() {
            Err(Error::InvalidCertificate(CertificateError::Expired))
        } else {
            Ok(())
        }
    }
}

/// What weakens TLS. Reached only through `insecure-skip-tls-verify`.
pub mod danger {
    use std::sync::Arc;

    use rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    };
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    /// Believes any certificate. The other side still proves that it holds the certificate's key.
    #[derive(Debug)]
    pub struct NoVerification {
        provider: Arc<CryptoProvider>,
    }

    impl NoVerification {
        /// With the signature algorithms of `provider`.
        pub fn new(provider: Arc<CryptoProvider>) -> Self {
            Self { provider }
        }
    }

    impl ServerCertVerifier for NoVerification {
        fn verify_server_cert(
            &self,
            _end_entity: &CertificateDer<'_>,
            _intermediates: &[CertificateDer<'_>],
            _server_name: &ServerName<'_>,
            _ocsp_response: &[u8],
            _now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(
                message,
                certificate,
                signature,
                &self.provider.signature_verification_algorithms,
            )
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(
                message,
                certificate,
                signature,
                &self.provider.signature_verification_algorithms,
            )
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    }
}
