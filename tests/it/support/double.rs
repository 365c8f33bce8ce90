//! A member that speaks HTTP/2 and HTTP/1.1 and answers as a test says.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use clusterway_certs::{Authority, server_config};
use http::{Request, Response, Version, request::Parts};
use http_body::Frame;
use http_body_util::{Full, combinators::BoxBody};
use hyper::{
    body::{Body, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

use super::gateway::{Cluster, GATEWAY_TOKEN};

/// A body that tests can make in several ways.
pub type DoubleBody = BoxBody<Bytes, Infallible>;

/// Streams on one connection, as a kube-apiserver says.
const STREAMS: u32 = 100;

/// A member; it ends with this value.
pub struct Double {
    pub address: SocketAddr,
    pub authority: Authority,
    seen: Arc<Seen>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    heads: Mutex<Vec<Parts>>,
    connections: AtomicUsize,
}

impl Double {
    /// Starts one that answers as `answer` says.
    pub async fn start<F, R>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<DoubleBody>> + Send + 'static,
    {
        let authority = Authority::new("double").unwrap();
        let certified = authority.issue_server(&["127.0.0.1"]).unwrap().certified_key().unwrap();
        let mut tls = server_config(certified, None).unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, answer) = (Arc::new(Seen::default()), Arc::new(answer));
        let accepting = {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                // Dropped with the task, and with it every connection.
                let mut connections = tokio::task::JoinSet::new();
                loop {
                    let (tcp, _) = listener.accept().await.unwrap();
                    tcp.set_nodelay(true).unwrap();
                    let (acceptor, seen, answer) = (acceptor.clone(), Arc::clone(&seen), Arc::clone(&answer));
                    connections.spawn(async move {
                        let Ok(stream) = acceptor.accept(tcp).await else { return };
                        seen.connections.fetch_add(1, Ordering::SeqCst);
                        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                        let service = service_fn(move |request: Request<Incoming>| {
                            let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                            async move {
                                let (head, body) = request.into_parts();
                                seen.heads.lock().unwrap().push(head.clone());
                                Ok::<_, Infallible>(answer(Request::from_parts(head, body)).await)
                            }
                        });
                        let io = TokioIo::new(stream);
                        if h2 {
                            let mut builder = http2::Builder::new(TokioExecutor::new());
                            builder
                                .timer(TokioTimer::new())
                                .max_concurrent_streams(STREAMS)
                                .max_header_list_size(1 << 20);
                            let _ = builder.serve_connection(io, service).await;
                        } else {
                            let mut builder = http1::Builder::new();
                            builder.timer(TokioTimer::new()).max_headers(4096);
                            let _ = builder.serve_connection(io, service).with_upgrades().await;
                        }
                    });
                }
            })
        };
        Self { address, authority, seen, accepting }
    }

    /// Its definition under `name`.
    pub fn cluster(&self, name: &str) -> Cluster {
        Cluster::new(name, &format!("https://{}", self.address))
            .authority(&self.authority.certificate_pem())
            .token(GATEWAY_TOKEN)
    }

    /// The heads of the requests so far.
    pub fn heads(&self) -> Vec<Parts> {
        self.seen.heads.lock().unwrap().clone()
    }

    /// The head of the last request, which came over HTTP/2.
    #[track_caller]
    pub fn last_http2_head(&self) -> Parts {
        let head = self.heads().pop().expect("a request");
        assert_eq!(head.version, Version::HTTP_2);
        head
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A whole body.
pub fn whole(content: impl Into<Bytes>) -> DoubleBody {
    DoubleBody::new(Full::new(content.into()))
}

/// A body that goes on for as long as its sender lives.
pub fn stream() -> (mpsc::Sender<Bytes>, DoubleBody) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, DoubleBody::new(Stream(receiver)))
}

struct Stream(mpsc::Receiver<Bytes>);

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
