//! The member double: as fast as hyper gets, so that the proxy in front is what is measured.
//!
//! It speaks TLS with client certificates, HTTP/2 with the limits a real API server announces, and HTTP/1.1. It runs
//! as its own process on its own cores and lives until its standard input closes.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::pki::{H2, Pki};

/// Path of the 2 KB pod.
pub(crate) const POD: &str = "/api/v1/namespaces/default/pods/small";
/// Path of the 50 MiB list.
pub(crate) const LIST: &str = "/api/v1/pods";
/// Path of the upgraded stream that returns what it gets.
pub(crate) const ECHO: &str = "/api/v1/namespaces/default/pods/small/exec?command=echo";
/// Path of the upgraded stream that sends as fast as it can.
pub(crate) const FLOOD: &str = "/api/v1/namespaces/default/pods/small/exec?command=flood";

/// Bytes in the pod.
pub(crate) const POD_BYTES: usize = 2048;
/// Bytes in the list.
pub(crate) const LIST_BYTES: usize = 50 << 20;

/// Bytes that the list and the flood hand over at a time.
const CHUNK: usize = 64 << 10;
/// What kube-apiserver announces as SETTINGS_MAX_CONCURRENT_STREAMS.
const STREAMS: u32 = 100;

/// The key that RFC 6455 gives as an example, and the answer to it: the tunnels here are opaque.
pub(crate) const WEBSOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const WEBSOCKET_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Serves until standard input closes; the first line of standard output is the port.
pub(crate) async fn run(pki: &Pki) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?.port())?;
    let (gone, parent) = oneshot::channel();
    std::thread::spawn(move || {
        // Nothing is ever written to it; it ends when the parent does.
        std::io::stdin().read_to_end(&mut Vec::new()).ok();
        gone.send(()).ok();
    });
    tokio::select! {
        served = serve(listener, pki) => served,
        _ = parent => Ok(()),
    }
}

/// Serves for ever.
pub(crate) async fn serve(listener: TcpListener, pki: &Pki) -> Result<()> {
    let acceptor = TlsAcceptor::from(pki.member_config()?);
    let documents = Arc::new(Documents::new());
    loop {
        let (stream, _) = listener.accept().await?;
        let (acceptor, documents) = (acceptor.clone(), Arc::clone(&documents));
        // A connection that fails is the proxy's to report.
        tokio::spawn(async move { serve_connection(stream, acceptor, documents).await.ok() });
    }
}

async fn serve_connection(stream: TcpStream, acceptor: TlsAcceptor, documents: Arc<Documents>) -> Result<()> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let h2 = stream.get_ref().1.alpn_protocol() == Some(H2);
    let service = service_fn(move |request| {
        let response = respond(request, &documents);
        async move { Ok::<_, Infallible>(response) }
    });
    let io = TokioIo::new(stream);
    if h2 {
        let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        http.max_concurrent_streams(STREAMS).serve_connection(io, service).await?;
    } else {
        let http = hyper::server::conn::http1::Builder::new();
        http.serve_connection(io, service).with_upgrades().await?;
    }
    Ok(())
}

struct Documents {
    pod: Bytes,
    chunk: Bytes,
}

impl Documents {
    fn new() -> Self {
        let head = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"small","annotations":{"fill":""#;
        let tail = r#""}}}"#;
        let fill = "x".repeat(POD_BYTES - head.len() - tail.len());
        Self {
            pod: Bytes::from(format!("{head}{fill}{tail}")),
            chunk: Bytes::from(r#"{"kind":"Pod","apiVersion":"v1"},"#.repeat(CHUNK)).slice(..CHUNK),
        }
    }
}

type Answer = Response<Either<Full<Bytes>, Repeat>>;

fn respond(request: Request<Incoming>, documents: &Documents) -> Answer {
    let flood = request.uri().query() == Some("command=flood");
    match request.uri().path() {
        POD => json(Either::Left(Full::new(documents.pod.clone()))),
        LIST => json(Either::Right(Repeat { chunk: documents.chunk.clone(), left: LIST_BYTES })),
        "/version" => json(Either::Left(Full::from(r#"{"major":"1","minor":"33","gitVersion":"v1.33.0"}"#))),
        _ if request.headers().contains_key(UPGRADE) => upgrade(request, flood, documents.chunk.clone()),
        _ => {
            let mut response = Response::new(Either::Left(Full::default()));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

/// The headers that a real API server puts on every answer.
fn json(body: Either<Full<Bytes>, Repeat>) -> Answer {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert("audit-id", HeaderValue::from_static("0b5a1d2c-6f0e-4d3b-9a55-3f0f4f0a7c11"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let id = HeaderValue::from_static("97a4f2a5-2f65-4a7c-8d8b-1d5a6c0f5f0e");
    headers.insert("x-kubernetes-pf-flowschema-uid", id.clone());
    headers.insert("x-kubernetes-pf-prioritylevel-uid", id);
    response
}

fn upgrade(mut request: Request<Incoming>, flood: bool, chunk: Bytes) -> Answer {
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        // It ends when the other side goes away, with an error or without.
        let Ok(upgraded) = upgraded.await else { return };
        if flood { send(upgraded, &chunk).await } else { echo(upgraded).await }
    });
    let mut response = Response::new(Either::Left(Full::default()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert("sec-websocket-accept", HeaderValue::from_static(WEBSOCKET_ACCEPT));
    headers.insert("sec-websocket-protocol", HeaderValue::from_static("v5.channel.k8s.io"));
    response
}

async fn send(upgraded: Upgraded, chunk: &[u8]) {
    let mut io = TokioIo::new(upgraded);
    while io.write_all(chunk).await.is_ok() {}
}

async fn echo(upgraded: Upgraded) {
    let mut io = TokioIo::new(upgraded);
    let mut buffer = vec![0; CHUNK];
    while let Ok(read @ 1..) = io.read(&mut buffer).await {
        if io.write_all(&buffer[..read]).await.is_err() || io.flush().await.is_err() {
            return;
        }
    }
}

/// A body of `left` bytes without a Content-Length, as API servers send long lists.
pub(crate) struct Repeat {
    chunk: Bytes,
    left: usize,
}

impl Body for Repeat {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let size = self.left.min(self.chunk.len());
        if size == 0 {
            return Poll::Ready(None);
        }
        self.left -= size;
        Poll::Ready(Some(Ok(Frame::data(self.chunk.slice(..size)))))
    }
}
