//! Certificates on both sides, replaced while connections are open.

use std::{fs, path::PathBuf, sync::Arc};

use ::http::{Request, Response, StatusCode};
use bytes::Bytes;
use clusterway_certs::{Authority, ClientAuthority, Issued, Reload, ServerTls, ServingSource};
use http_body_util::Empty;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion, pki_types::ServerName, version,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use upgrade_aware_proxy::ResponseBody;

use super::support::{Running, get, soon, text};
use crate::{
    gateway::authenticate::{Authenticator, StaticTokens},
    server::{Connection, Limits},
};

/// A server whose certificates are files, and which answers with the caller's name and groups.
struct House {
    folder: tempfile::TempDir,
    clients: Arc<ClientAuthority>,
    client_authority: Authority,
    tls: Arc<ServerTls>,
    server: Running,
}

impl House {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let (authority, client_authority) =
            (Authority::new("serving").unwrap(), Authority::new("clients").unwrap());
        write_pair(&folder, &authority);
        fs::write(file("clients.crt"), client_authority.certificate_pem()).unwrap();
        fs::write(file("tokens.csv"), "t0ken,tom,1,ops\n").unwrap();

        let clients = Arc::new(ClientAuthority::from_file(file("clients.crt")).unwrap());
        let tokens = Arc::new(StaticTokens::from_file(file("tokens.csv")).unwrap());
        let source = ServingSource::Files { certificate: file("tls.crt"), key: file("tls.key") };
        let tls = Arc::new(ServerTls::new(source, Some(Arc::clone(&clients))).unwrap());
        let authenticator = Arc::new(Authenticator::new(Some(Arc::clone(&clients)), Some(tokens)));
        let who = move |request: Request<Incoming>, connection: Arc<Connection>| {
            let mut response = Response::default();
            match authenticator.authenticate(request.headers(), &connection) {
                Ok(caller) => {
                    *response.body_mut() =
                        ResponseBody::full(format!("{} in {}", caller.name, caller.groups.join("+")));
                }
                Err(_) => *response.status_mut() = StatusCode::UNAUTHORIZED,
            }
            std::future::ready(response)
        };
        let current = Arc::clone(&tls);
        let server = Running::start_with(authority, move || current.current(), Limits::default(), who).await;
        Self { folder, clients, client_authority, tls, server }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn http1(&self, client: Option<&Issued>) -> http1::SendRequest<Empty<Bytes>> {
        let stream = self.server.tls_as(&["http/1.1"], client).await;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }
}

fn write_pair(folder: &tempfile::TempDir, authority: &Authority) {
    let issued = authority.issue_server(&["localhost"]).unwrap();
    fs::write(folder.path().join("tls.crt"), issued.certificate_pem()).unwrap();
    fs::write(folder.path().join("tls.key"), issued.key_pem()).unwrap();
}

/// A client that keeps its session tickets, as every client does.
struct Client(TlsConnector);

impl Client {
    fn new(
        authority: &Authority,
        client: Option<&Issued>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(clusterway_certs::provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            Some(issued) => {
                builder.with_client_auth_cert(issued.chain().to_vec(), issued.key().clone_key()).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        Self(TlsConnector::from(Arc::new(config)))
    }

    async fn connect(&self, server: &Running) -> TlsStream<TcpStream> {
        let name = ServerName::try_from("localhost").unwrap();
        self.0.connect(name, server.tcp().await).await.unwrap()
    }

    /// Connects, asks who it is, and says how the handshake went.
    async fn ask(&self, server: &Running) -> (String, HandshakeKind) {
        let stream = self.connect(server).await;
        let kind = stream.get_ref().1.handshake_kind().unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        (text(sender.send_request(get("/")).await.unwrap()).await, kind)
    }
}

fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn client_certificates_make_callers_over_both_protocols() {
    let house = House::start().await;
    let jane = house.client_authority.issue_client("jane", &["dev", "ops"]).unwrap();
    let expected = "jane in dev+ops+system:authenticated";
    let mut http1 = house.http1(Some(&jane)).await;
    assert_eq!(text(http1.send_request(get("/")).await.unwrap()).await, expected);

    let stream = house.server.tls_as(&["h2"], Some(&jane)).await;
    let (mut http2, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(text(http2.send_request(get("/")).await.unwrap()).await, expected);
}

#[tokio::test]
async fn client_certificates_survive_resumption_and_tls_1_2() {
    let house = House::start().await;
    let jane = house.client_authority.issue_client("jane", &[]).unwrap();
    for version in [&version::TLS12, &version::TLS13] {
        let client = Client::new(&house.server.authority, Some(&jane), &[version]);
        let expected = "jane in system:authenticated";
        assert_eq!(client.ask(&house.server).await, (expected.to_owned(), HandshakeKind::Full));
        assert_eq!(client.ask(&house.server).await, (expected.to_owned(), HandshakeKind::Resumed));
    }
}

#[tokio::test]
async fn a_stranger_s_certificate_is_a_readable_401() {
    let house = House::start().await;
    let stranger = Authority::new("others").unwrap().issue_client("jane", &[]).unwrap();
    let mut client = house.http1(Some(&stranger)).await;
    assert_eq!(client.send_request(get("/")).await.unwrap().status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn changed_trust_reaches_connections_that_are_open() {
    let house = House::start().await;
    let jane = house.client_authority.issue_client("jane", &[]).unwrap();
    let mut open = house.http1(Some(&jane)).await;
    assert_eq!(open.send_request(get("/")).await.unwrap().status(), StatusCode::OK);

    fs::write(house.file("clients.crt"), Authority::new("new").unwrap().certificate_pem()).unwrap();
    assert_eq!(house.clients.reload().unwrap(), Reload::Changed);
    assert_eq!(open.send_request(get("/")).await.unwrap().status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_new_serving_certificate_is_shown_to_the_next_connection_and_not_avoided_by_resumption() {
    let house = House::start().await;
    let client = Client::new(&house.server.authority, None, &[&version::TLS13]);
    let before = shown(&client.connect(&house.server).await);
    let mut open = house.http1(None).await;

    write_pair(&house.folder, &house.server.authority);
    assert_eq!(house.tls.reload().unwrap(), Reload::Changed);
    let stream = client.connect(&house.server).await;
    assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    assert_ne!(shown(&stream), before);

    let mut request = get("/");
    request.headers_mut().insert("authorization", "Bearer t0ken".parse().unwrap());
    let answer = soon("an answer on the open connection", open.send_request(request)).await.unwrap();
    assert_eq!(text(answer).await, "tom in ops+system:authenticated");
}

#[tokio::test]
async fn a_broken_serving_certificate_leaves_the_old_one_in_place() {
    let house = House::start().await;
    let client = Client::new(&house.server.authority, None, &[&version::TLS13]);
    let before = shown(&client.connect(&house.server).await);
    fs::write(house.file("tls.crt"), "-----BEGIN CERTIFICATE-----\nbroken\n").unwrap();
    house.tls.reload().unwrap_err();
    assert_eq!(shown(&client.connect(&house.server).await), before);
}
