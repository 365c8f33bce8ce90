//! A small HTTPS client that shows answers as they are.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use clusterway_certs::Issued;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::soon;

/// Speaks to one address and trusts one authority.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    token: Option<String>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An open HTTP/1.1 connection.
pub struct Http1(http1::SendRequest<Full<Bytes>>);

/// An open HTTP/2 connection.
#[derive(Clone)]
pub struct Http2(http2::SendRequest<Full<Bytes>>);

impl Client {
    /// A client for `address`; `identity` is its client certificate.
    pub fn new(address: SocketAddr, authority: &CertificateDer<'static>, identity: Option<&Issued>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone()).unwrap();
        let config = |alpn: &[u8]| {
            let builder = ClientConfig::builder_with_provider(clusterway_certs::provider())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots.clone());
            let mut config = match identity {
                Some(issued) => {
                    builder.with_client_auth_cert(issued.chain().to_vec(), issued.key().clone_key()).unwrap()
                }
                None => builder.with_no_client_auth(),
            };
            config.alpn_protocols = vec![alpn.to_vec()];
            Arc::new(config)
        };
        Self { address, http1: config(b"http/1.1"), http2: config(b"h2"), token: None }
    }

    /// The same, with a bearer token in every request that has no `Authorization` of its own.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    async fn connect(&self, tls: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let name = self.address.ip().into();
        TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await
    }

    /// A TLS connection for HTTP/1.1 in which nothing has been said yet.
    pub async fn tls(&self) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect(&self.http1).await
    }

    /// Opens an HTTP/1.1 connection.
    pub async fn http1(&self) -> Http1 {
        let io = TokioIo::new(soon("connect", self.connect(&self.http1)).await.unwrap());
        let (sender, connection) = http1::Builder::new().max_headers(4096).handshake(io).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        Http1(sender)
    }

    /// Opens an HTTP/2 connection.
    pub async fn http2(&self) -> Http2 {
        let io = TokioIo::new(soon("connect", self.connect(&self.http2)).await.unwrap());
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(1 << 20)
            .initial_stream_window_size(1 << 20)
            .handshake(io)
            .await
            .unwrap();
        tokio::spawn(connection);
        Http2(sender)
    }

    /// A request with this client's credential.
    pub fn request(&self, method: Method, path: &str) -> Request<Full<Bytes>> {
        let mut request = Request::builder().method(method).uri(format!("https://{}{path}", self.address));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.body(Full::default()).unwrap()
    }

    /// The whole answer to a GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// The whole answer to a GET, if the connection comes about.
    pub async fn try_get(&self, path: &str) -> Option<Answer> {
        let io = TokioIo::new(self.connect(&self.http1).await.ok()?);
        let (sender, connection) = http1::Builder::new().handshake(io).await.ok()?;
        tokio::spawn(connection);
        let answer = Http1(sender).start(self.request(Method::GET, path)).await.ok()?;
        Some(Answer::of(answer).await)
    }

    /// The whole answer to `request`, over an HTTP/1.1 connection of its own.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let mut connection = self.http1().await;
        connection.send(request).await
    }

    /// Everything that comes back for `request`, byte for byte, until the other side closes. `{token}` in it stands
    /// for this client's credential.
    pub async fn raw(&self, request: &str) -> String {
        let mut stream = soon("connect", self.tls()).await.unwrap();
        let request = request.replace("{token}", self.token.as_deref().unwrap_or_default());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A close without close_notify is a close as well.
        let _ = soon("the end of the connection", stream.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Http1 {
    /// Sends `request`; the body of the answer is still to come.
    pub async fn start(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        soon("a free connection", self.0.ready()).await?;
        let (mut head, body) = request.into_parts();
        let authority = head.uri.authority().unwrap().to_string();
        head.headers.entry("host").or_insert(authority.parse().unwrap());
        head.uri = head.uri.path_and_query().unwrap().as_str().parse().unwrap();
        soon("an answer", self.0.send_request(Request::from_parts(head, body))).await
    }

    /// Sends `request` and collects the answer.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer {
        Answer::of(self.start(request).await.unwrap()).await
    }
}

impl Http2 {
    /// Sends `request`; the body of the answer is still to come.
    pub async fn start(&self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        let mut sender = self.0.clone();
        soon("a free stream", sender.ready()).await?;
        soon("an answer", sender.send_request(request)).await
    }

    /// Sends `request` and collects the answer.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        Answer::of(self.start(request).await.unwrap()).await
    }
}

impl Answer {
    async fn of(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let body = soon("the whole answer", body.collect()).await.unwrap().to_bytes();
        Self { status: head.status, headers: head.headers, body }
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The code and the message of a `Status` of Clusterway's own, and the hop it names; its parts must agree.
    #[track_caller]
    pub fn refusal(&self) -> (u16, String, String) {
        let status = self.json();
        assert_eq!(status["kind"], "Status", "{status}");
        assert_eq!(status["status"], "Failure", "{status}");
        assert_eq!(status["code"], self.status.as_u16(), "{status}");
        let hop = self.headers.get("clusterway-hop").expect("a refusal of Clusterway names the hop");
        assert_eq!(status["details"]["causes"][0]["message"], hop.to_str().unwrap(), "{status}");
        (
            self.status.as_u16(),
            hop.to_str().unwrap().to_owned(),
            status["message"].as_str().unwrap().to_owned(),
        )
    }
}
