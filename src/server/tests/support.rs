//! A running server and clients for it.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use ::http::{Request, Response};
use bytes::Bytes;
use clusterway_certs::{Authority, Issued, server_config};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore, ServerConfig, pki_types::ServerName};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use upgrade_aware_proxy::{BoxError, ResponseBody};

use crate::server::{Connection, Handler, Limits, Shutdown, serve};

/// Long enough for any machine; only ever waited for by a test that fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for something that must happen.
pub(super) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    let Ok(output) = tokio::time::timeout(PATIENCE, future).await else { panic!("{what}: never happened") };
    output
}

pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) authority: Authority,
    pub(super) shutdown: Shutdown,
    pub(super) ended: JoinHandle<()>,
}

impl Running {
    pub(super) async fn start<H: Handler>(limits: Limits, handler: H) -> Self {
        let authority = Authority::new("server tests").unwrap();
        let tls = Arc::new(tls(&authority));
        Self::start_with(authority, move || Arc::clone(&tls), limits, handler).await
    }

    pub(super) async fn start_with<H: Handler>(
        authority: Authority,
        tls: impl Fn() -> Arc<ServerConfig> + Send + 'static,
        limits: Limits,
        handler: H,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let ended = tokio::spawn(serve(listener, tls, limits, Arc::new(handler), shutdown.clone()));
        Self { address, authority, shutdown, ended }
    }

    pub(super) async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub(super) async fn tls(&self, alpn: &[&str]) -> TlsStream<TcpStream> {
        self.tls_as(alpn, None).await
    }

    pub(super) async fn tls_as(&self, alpn: &[&str], client: Option<&Issued>) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.certificate().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(clusterway_certs::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match client {
            Some(issued) => {
                builder.with_client_auth_cert(issued.chain().to_vec(), issued.key().clone_key()).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, self.tcp().await).await.unwrap()
    }

    pub(super) async fn http1(&self) -> Http1 {
        let (sender, connection) =
            http1::Builder::new().handshake(TokioIo::new(self.tls(&["http/1.1"]).await)).await.unwrap();
        Http1 { sender, connection: tokio::spawn(connection.with_upgrades()) }
    }

    pub(super) async fn http2(&self) -> Http2 {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(1 << 20)
            .handshake(TokioIo::new(self.tls(&["h2"]).await))
            .await
            .unwrap();
        Http2 { sender, connection: tokio::spawn(connection) }
    }
}

pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<Empty<Bytes>>,
    pub(super) connection: JoinHandle<hyper::Result<()>>,
}

pub(super) struct Http2 {
    pub(super) sender: http2::SendRequest<Empty<Bytes>>,
    pub(super) connection: JoinHandle<hyper::Result<()>>,
}

pub(super) fn tls(authority: &Authority) -> ServerConfig {
    let certified = authority.issue_server(&["localhost", "127.0.0.1"]).unwrap().certified_key().unwrap();
    let any = clusterway_certs::danger::UnverifiedClientCertificates::new(Vec::new());
    server_config(certified, Some(Arc::new(any))).unwrap()
}

pub(super) fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("https://localhost{path}")).body(Empty::new()).unwrap()
}

pub(super) async fn text(response: Response<Incoming>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Answers every request with `hello`.
pub(super) async fn hello(_: Request<Incoming>, _: Arc<Connection>) -> Response<ResponseBody> {
    Response::new(ResponseBody::full("hello"))
}

/// A body that goes on for as long as its sender lives, and whose end the sender notices.
pub(super) struct Stream(mpsc::Receiver<Bytes>);

pub(super) fn stream() -> (mpsc::Sender<Bytes>, ResponseBody) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, ResponseBody::new(Stream(receiver)))
}

impl Body for Stream {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
