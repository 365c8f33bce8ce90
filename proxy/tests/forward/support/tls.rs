//! A TLS dialer as a user of the crate would write it, and certificates for it.

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs::default_provider},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, server::TlsStream};
use tokio_util::task::AbortOnDropHandle;
use upgrade_aware_proxy::{Dial, DialError, DialStage, Dialed, Protocol, Purpose};

const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// A TLS member whose certificate names `example.com` and `127.0.0.1`.
pub(crate) struct TlsMember {
    pub(crate) address: SocketAddr,
    pub(crate) certificate: CertificateDer<'static>,
    _accepting: AbortOnDropHandle<()>,
}

impl TlsMember {
    /// Offers `alpn` in this order of preference and runs `script` on every connection that shook hands.
    pub(crate) async fn scripted<F, Fut>(alpn: &[&str], script: F) -> Self
    where
        F: Fn(TlsStream<TcpStream>) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let names = vec!["example.com".to_owned(), "127.0.0.1".to_owned()];
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
        let certificate = cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(VERSIONS)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        config.alpn_protocols = protocols(alpn);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, script) = (acceptor.clone(), script.clone());
                connections.spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        script(stream).await;
                    }
                });
            }
        });
        Self { address, certificate, _accepting: AbortOnDropHandle::new(accepting) }
    }
}

fn protocols(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

/// Dials a fixed address with TLS: one client configuration for both purposes, the ALPN offer set per connection.
#[derive(Clone)]
pub(crate) struct TlsDial {
    pub(crate) address: SocketAddr,
    pub(crate) name: ServerName<'static>,
    pub(crate) config: Arc<ClientConfig>,
}

impl TlsDial {
    /// Trusts the member's own certificate.
    pub(crate) fn trusting(member: &TlsMember) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(member.certificate.clone()).unwrap();
        Self::with_roots(member, roots)
    }

    pub(crate) fn with_roots(member: &TlsMember, roots: RootCertStore) -> Self {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(VERSIONS)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { address: member.address, name: member.address.ip().into(), config: Arc::new(config) }
    }

    /// Trusts whatever answers.
    pub(crate) fn insecure(member: &TlsMember) -> Self {
        let provider = Arc::new(default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(VERSIONS)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustAnything(provider)))
            .with_no_client_auth();
        Self { address: member.address, name: member.address.ip().into(), config: Arc::new(config) }
    }

    pub(crate) fn named(mut self, name: &str) -> Self {
        self.name = ServerName::try_from(name.to_owned()).unwrap();
        self
    }
}

impl Dial for TlsDial {
    fn dial(&self, purpose: Purpose) -> Pin<Box<dyn Future<Output = Result<Dialed, DialError>> + Send + '_>> {
        let alpn: &[&str] = match purpose {
            Purpose::Pooled => &["h2", "http/1.1"],
            Purpose::Upgrade => &["http/1.1"],
        };
        Box::pin(async move {
            let tcp = TcpStream::connect(self.address).await.map_err(|error| {
                DialError::failed(DialStage::Connect, format!("dial tcp {}: {error}", self.address))
            })?;
            let connector = TlsConnector::from(Arc::clone(&self.config));
            let offer = connector.with_alpn(protocols(alpn));
            let tls = offer.connect(self.name.clone(), tcp).await.map_err(|error| {
                DialError::failed(DialStage::Tls, format!("tls {}: {error}", self.address))
            })?;
            let protocol = match tls.get_ref().1.alpn_protocol() {
                Some(b"h2") => Protocol::Http2,
                _ => Protocol::Http1,
            };
            Ok(Dialed { io: Box::new(tls), protocol })
        })
    }
}

#[derive(Debug)]
struct TrustAnything(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
