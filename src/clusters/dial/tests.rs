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

fn self_signed(edit: impl FnOnce(&mut CertificateParams)) -> (CertificateDer<'static>, ServerConfig) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    edit(&mut params);
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    (certificate.clone(), plain(vec![certificate], key))
}

fn port(address: &str) -> &str {
    address.rsplit_once(':').unwrap().1
}

#[tokio::test]
async fn a_self_signed_authority_may_be_the_servers_own_certificate_if_it_is_the_configured_one() {
    let (certificate, config) = self_signed(|_| {});
    let address = member(config).await;
    let url = format!("https://localhost:{}", port(&address));
    let pinned = Trust::Authorities(vec![certificate]);
    assert!(dial(&spec(&url, pinned.clone()), Purpose::Pooled).await.is_ok());
    let other = Trust::Authorities(vec![self_signed(|_| {}).0]);
    assert_eq!(refused(&spec(&url, other)).await.0, DialStage::Tls);
    let (stage, message) = refused(&spec(&format!("https://127.0.0.1:{}", port(&address)), pinned)).await;
    assert!(stage == DialStage::Tls && message.contains("x509: "), "another name: {message}");
}

#[tokio::test]
async fn a_self_signed_authority_in_the_place_of_a_server_is_still_checked_for_dates_and_purpose() {
    type Edit = fn(&mut CertificateParams);
    let expired: Edit = |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let future: Edit = |params| params.not_before = rcgen::date_time_ymd(2999, 1, 1);
    let for_clients: Edit =
        |params| params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    for (what, edit) in [("expired", expired), ("not valid yet", future), ("for clients", for_clients)] {
        let (certificate, config) = self_signed(edit);
        let url = format!("https://localhost:{}", port(&member(config).await));
        let (stage, message) = refused(&spec(&url, Trust::Authorities(vec![certificate]))).await;
        assert!(stage == DialStage::Tls && message.contains("x509: "), "{what}: {message}");
    }
}

/// An address that swallows packets: nobody accepts, and no more connections fit into the queue.
async fn black_hole() -> (socket2::Socket, SocketAddr, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        queued.push(stream.unwrap());
    }
    (socket, address, queued)
}

#[tokio::test]
async fn an_address_that_swallows_packets_leaves_time_for_the_next_one() {
    let (_socket, swallowing, _queued) = black_hole().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let answering = listener.local_addr().unwrap();
    let spec = spec("http://east", Trust::SystemRoots);
    let timeouts = DialTimeouts { connect: Duration::from_secs(5), ..DialTimeouts::default() };
    let dialer = MemberDialer::new(&spec, timeouts).unwrap();
    let deadline = Instant::now() + timeouts.connect;
    let stream = dialer.connect_to(&[swallowing, answering], deadline).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), answering);
}

#[tokio::test]
async fn an_address_that_swallows_packets_reads_like_go() {
    let (_socket, swallowing, _queued) = black_hole().await;
    let spec = spec(&format!("http://{swallowing}"), Trust::SystemRoots);
    let timeouts = DialTimeouts { connect: Duration::from_millis(50), ..DialTimeouts::default() };
    let error = MemberDialer::new(&spec, timeouts).unwrap().dial(Purpose::Pooled).await.unwrap_err();
    assert!(matches!(error, DialError::TimedOut { stage: DialStage::Connect, .. }), "{error}");
    assert_eq!(error.to_string(), format!("dial tcp {swallowing}: i/o timeout"));
}

#[test]
fn what_resolvers_say_is_said_in_gos_words() {
    for (said, read) in [
        ("failed to lookup address information: Name or service not known", "no such host"),
        ("failed to lookup address information: No address associated with hostname", "no such host"),
        (
            "failed to lookup address information: nodename nor servname provided, or not known",
            "no such host",
        ),
        ("failed to lookup address information: Temporary failure in name resolution", "server misbehaving"),
        ("failed to lookup address information: System error", "the name could not be resolved"),
    ] {
        assert_eq!(describe_lookup(&io::Error::other(said)), read, "{said}");
    }
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
