//! Dialing over real sockets and real TLS.

use std::sync::Arc;

use clusterway_certs::{Authority, Issued};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::clusters::{ClientCertificate, ClusterName, Credential, IdentityMode, Trust, sources};

fn spec(url: &str, trust: Trust) -> ClusterSpec {
    ClusterSpec {
        name: ClusterName::new("east").unwrap(),
        endpoint: sources::endpoint(url).unwrap(),
        server_name: None,
        trust,
        credential: Credential::default(),
        identity: IdentityMode::default(),
        labels: Default::default(),
        annotations: Default::default(),
        defined_in: "test".into(),
    }
}

/// A TLS server that answers every connection with one byte; returns its `host:port`.
async fn member(config: ServerConfig) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = stream.write_all(b"!").await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    address
}

fn plain(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(clusterway_certs::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

fn serving(issued: &Issued) -> ServerConfig {
    plain(issued.chain().to_vec(), issued.key().clone_key())
}

fn trusting(authority: &Authority) -> Trust {
    Trust::Authorities(vec![authority.certificate().clone()])
}

async fn dial(spec: &ClusterSpec, purpose: Purpose) -> Result<Dialed, DialError> {
    MemberDialer::new(spec, DialTimeouts::default()).unwrap().dial(purpose).await
}

async fn refused(spec: &ClusterSpec) -> (DialStage, String) {
    let error = dial(spec, Purpose::Pooled).await.unwrap_err();
    (error.stage(), error.to_string())
}

#[tokio::test]
async fn pooled_connections_speak_h2_and_upgrades_http1() {
    let authority = Authority::new("east").unwrap();
    let address = member(serving(&authority.issue_server(&["127.0.0.1"]).unwrap())).await;
    let spec = spec(&format!("https://{address}"), trusting(&authority));
    assert_eq!(dial(&spec, Purpose::Pooled).await.unwrap().protocol, Protocol::Http2);
    assert_eq!(dial(&spec, Purpose::Upgrade).await.unwrap().protocol, Protocol::Http1);
    assert_eq!(dial(&spec, Purpose::Pooled).await.unwrap().protocol, Protocol::Http2);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let (authority, other) = (Authority::new("east").unwrap(), Authority::new("other").unwrap());
    let address = member(serving(&authority.issue_server(&["127.0.0.1"]).unwrap())).await;
    for trust in [trusting(&other), Trust::SystemRoots] {
        let (stage, message) = refused(&spec(&format!("https://{address}"), trust)).await;
        assert_eq!(stage, DialStage::Tls);
        assert!(message.contains("x509: ") && message.contains(&address), "{message}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_needs_tls_server_name() {
    let authority = Authority::new("east").unwrap();
    let address = member(serving(&authority.issue_server(&["kubernetes.default"]).unwrap())).await;
    let mut spec = spec(&format!("https://{address}"), trusting(&authority));
    assert_eq!(refused(&spec).await.0, DialStage::Tls);
    spec.server_name = Some("kubernetes.default".into());
    assert!(dial(&spec, Purpose::Pooled).await.is_ok());
    spec.server_name = Some("kubernetes.evil".into());
    assert_eq!(refused(&spec).await.0, DialStage::Tls);
}

#[tokio::test]
async fn verification_is_skipped_only_where_the_definition_says_so() {
    let authority = Authority::new("east").unwrap();
    let address = member(serving(&authority.issue_server(&["elsewhere"]).unwrap())).await;
    let spec = spec(&format!("https://{address}"), Trust::DangerSkipVerification);
    assert!(dial(&spec, Purpose::Pooled).await.is_ok());
}

#[tokio::test]
async fn the_gateway_shows_its_client_certificate() {
    let authority = Authority::new("east").unwrap();
    let issued = authority.issue_server(&["127.0.0.1"]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), clusterway_certs::provider());
    let config = ServerConfig::builder_with_provider(clusterway_certs::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(issued.chain().to_vec(), issued.key().clone_key())
        .unwrap();
    let address = member(config).await;
    let mut spec = spec(&format!("https://{address}"), trusting(&authority));
    let client = authority.issue_client("gateway", &[]).unwrap();
    spec.credential.certificate =
        Some(ClientCertificate { chain: client.chain().to_vec(), key: Arc::new(client.key().clone_key()) });
    let mut connection = dial(&spec, Purpose::Pooled).await.unwrap();
    // In TLS 1.3 a client learns only from the first read whether its certificate was taken.
    let mut byte = [0];
    tokio::io::AsyncReadExt::read_exact(&mut connection.io, &mut byte).await.unwrap();
    spec.credential.certificate = None;
    let mut connection = dial(&spec, Purpose::Pooled).await.unwrap();
    assert!(tokio::io::AsyncReadExt::read_exact(&mut connection.io, &mut byte).await.is_err());
}

#[tokio::test]
async fn a_self_signed_authority_may_be_the_servers_own_certificate_if_it_is_the_configured_one() {
    let self_signed = |name: &str| {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        (certificate, PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())))
    };
    let (certificate, key) = self_signed("localhost");
    let address = member(plain(vec![certificate.clone()], key)).await;
    let port = address.rsplit_once(':').unwrap().1;
    let pinned = Trust::Authorities(vec![certificate]);
    assert!(dial(&spec(&format!("https://localhost:{port}"), pinned.clone()), Purpose::Pooled).await.is_ok());
    let other = Trust::Authorities(vec![self_signed("localhost").0]);
    assert_eq!(refused(&spec(&format!("https://localhost:{port}"), other)).await.0, DialStage::Tls);
    assert_eq!(refused(&spec(&format!("https://127.0.0.1:{port}"), pinned)).await.0, DialStage::Tls);
}

#[tokio::test]
async fn a_closed_port_reads_like_go() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (stage, message) = refused(&spec(&format!("https://{address}"), Trust::DangerSkipVerification)).await;
    assert_eq!(stage, DialStage::Connect);
    assert_eq!(message, format!("dial tcp {address}: connect: connection refused"));
}

#[tokio::test]
async fn an_unknown_host_reads_like_go() {
    let (stage, message) =
        refused(&spec("https://no-such-host.invalid", Trust::DangerSkipVerification)).await;
    assert_eq!(stage, DialStage::Connect);
    assert!(message.starts_with("dial tcp: lookup no-such-host.invalid: "), "{message}");
}

#[tokio::test]
async fn a_member_that_never_shakes_hands_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let spec = spec(&format!("https://{}", listener.local_addr().unwrap()), Trust::DangerSkipVerification);
    let timeouts = DialTimeouts { tls: Duration::from_millis(50), ..DialTimeouts::default() };
    let error = MemberDialer::new(&spec, timeouts).unwrap().dial(Purpose::Pooled).await.unwrap_err();
    assert!(matches!(error, DialError::TimedOut { stage: DialStage::Tls, .. }), "{error}");
}

#[tokio::test]
async fn plain_http_needs_no_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let spec = spec(&format!("http://{}", listener.local_addr().unwrap()), Trust::SystemRoots);
    assert_eq!(dial(&spec, Purpose::Pooled).await.unwrap().protocol, Protocol::Http1);
}
