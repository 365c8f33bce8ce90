//! Members: a scripted one on a raw socket that records every byte, and one on hyper for either version.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
};

use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;
use upgrade_aware_proxy::{Dial, DialError, DialStage, Dialed, Protocol, Purpose};

use super::{Http, body::TestBody, raw::Socket};

type Records = Arc<Mutex<Vec<Arc<Mutex<Vec<u8>>>>>>;

/// A member that runs a script on every connection. It is gone when dropped.
pub(crate) struct RawMember {
    pub(crate) address: SocketAddr,
    records: Records,
    _accepting: AbortOnDropHandle<()>,
}

impl RawMember {
    pub(crate) async fn scripted<F, Fut>(script: F) -> Self
    where
        F: Fn(Socket) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let records = Records::default();
        let accepted = Arc::clone(&records);
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let socket = Socket::new(stream);
                accepted.lock().unwrap().push(socket.record());
                connections.spawn(script(socket));
            }
        });
        Self { address, records, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// A member that answers every request with the same bytes and keeps listening on the connection.
    pub(crate) async fn answering(answer: impl Into<String>) -> Self {
        let answer: Arc<str> = answer.into().into();
        Self::scripted(move |mut socket| {
            let answer = Arc::clone(&answer);
            async move {
                while let Some(head) = socket.head().await {
                    if socket.body(&head).await.is_none() || !socket.try_send(&*answer).await {
                        break;
                    }
                }
            }
        })
        .await
    }

    /// How many connections were accepted.
    pub(crate) fn connections(&self) -> usize {
        self.records.lock().unwrap().len()
    }

    /// Everything that arrived so far, all connections in the order of their coming.
    pub(crate) fn received(&self) -> String {
        let records = self.records.lock().unwrap();
        let bytes = records.iter().flat_map(|record| record.lock().unwrap().clone()).collect();
        String::from_utf8(bytes).expect("requests in tests are text")
    }

    pub(crate) fn dial(&self) -> TcpDial {
        TcpDial::new(self.address, Http::One)
    }
}

/// What a member on hyper does with a request.
type Handler =
    dyn Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Response<TestBody>> + Send>> + Send + Sync;

/// A well-behaved member that speaks one HTTP version.
pub(crate) struct HyperMember {
    pub(crate) address: SocketAddr,
    http: Http,
    _accepting: AbortOnDropHandle<()>,
}

impl HyperMember {
    pub(crate) async fn start<F, Fut>(http: Http, handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Response<TestBody>> + Send + 'static,
    {
        let handler: Arc<Handler> = Arc::new(move |request| Box::pin(handler(request)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let handler = Arc::clone(&handler);
                let service = service_fn(move |request| {
                    let answer = handler(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                connections.spawn(async move {
                    let io = TokioIo::new(stream);
                    let _client_gone = match http {
                        Http::One => {
                            let mut server = hyper::server::conn::http1::Builder::new();
                            server.max_headers(4096).max_buf_size(2 << 20);
                            server.serve_connection(io, service).await
                        }
                        Http::Two => {
                            let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                            server.max_header_list_size(2 << 20);
                            server.serve_connection(io, service).await
                        }
                    };
                });
            }
        });
        Self { address, http, _accepting: AbortOnDropHandle::new(accepting) }
    }

    pub(crate) fn dial(&self) -> TcpDial {
        TcpDial::new(self.address, self.http)
    }
}

/// Dials a fixed address over plain TCP.
#[derive(Clone)]
pub(crate) struct TcpDial {
    address: SocketAddr,
    http: Http,
}

impl TcpDial {
    pub(crate) fn new(address: SocketAddr, http: Http) -> Self {
        Self { address, http }
    }
}

impl Dial for TcpDial {
    fn dial(&self, purpose: Purpose) -> Pin<Box<dyn Future<Output = Result<Dialed, DialError>> + Send + '_>> {
        Box::pin(async move {
            let stream = TcpStream::connect(self.address).await.map_err(|error| {
                DialError::failed(DialStage::Connect, format!("dial tcp {}: {error}", self.address))
            })?;
            stream.set_nodelay(true).unwrap();
            let protocol = match (purpose, self.http) {
                (Purpose::Pooled, Http::Two) => Protocol::Http2,
                _ => Protocol::Http1,
            };
            Ok(Dialed { io: Box::new(stream), protocol })
        })
    }
}
