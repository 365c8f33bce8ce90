//! Members that are ordinary hyper servers.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, sync::broadcast, task::JoinSet};
use upgrade_aware_proxy::Protocol;

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What every member serves:
/// `/watch` one event at once and one per [`Member::event`]; `/list/<n>` n bytes; `/chunks/<n>/<size>` n small frames;
/// `/echo` the request's body as it comes; `/collect` the request's body once it is complete; `/hang` nothing;
/// anything else `hello`.
pub(crate) struct Member {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    watches: Arc<AtomicUsize>,
    events: broadcast::Sender<()>,
    _tasks: JoinSet<()>,
}

#[derive(Clone)]
struct Shared {
    requests: Arc<AtomicUsize>,
    watches: Arc<AtomicUsize>,
    events: broadcast::Sender<()>,
}

impl Member {
    /// A member that, every so many requests, asks all its connections to end, as an API server does when it restarts.
    /// What it served is in the returned list, by path.
    pub(crate) async fn restless(protocol: Protocol, every: usize) -> (Self, Arc<Mutex<Vec<String>>>) {
        let served = Arc::new(Mutex::new(Vec::new()));
        let (restart, _) = broadcast::channel::<()>(1024);
        let list = Arc::clone(&served);
        let member = Self::start(move |io, shared| {
            let (list, restart) = (Arc::clone(&list), restart.clone());
            async move {
                let mut restarts = restart.subscribe();
                let service = service_fn(move |request: Request<Incoming>| {
                    list.lock().unwrap().push(request.uri().path().to_owned());
                    if list.lock().unwrap().len().is_multiple_of(every) {
                        let _ = restart.send(());
                    }
                    serve(request, shared.clone())
                });
                match protocol {
                    Protocol::Http1 => {
                        let mut connection = pin!(http1::Builder::new().serve_connection(io, service));
                        tokio::select! { _ = &mut connection => return, _ = restarts.recv() => {} }
                        connection.as_mut().graceful_shutdown();
                        let _ = connection.await;
                    }
                    Protocol::Http2 => {
                        let builder = http2::Builder::new(TokioExecutor::new());
                        let mut connection = pin!(builder.serve_connection(io, service));
                        tokio::select! { _ = &mut connection => return, _ = restarts.recv() => {} }
                        connection.as_mut().graceful_shutdown();
                        let _ = connection.await;
                    }
                }
            }
        })
        .await;
        (member, served)
    }

    /// An HTTP/2 member that allows `max_streams` streams per connection.
    pub(crate) async fn http2(max_streams: u32) -> Self {
        Self::start(move |io, shared| async move {
            let service = service_fn(move |request| serve(request, shared.clone()));
            let _ = http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(max_streams)
                .max_send_buf_size(64 * 1024)
                .serve_connection(io, service)
                .await;
        })
        .await
    }

    pub(crate) async fn http1() -> Self {
        Self::start(move |io, shared| async move {
            let service = service_fn(move |request| serve(request, shared.clone()));
            let _ = http1::Builder::new().serve_connection(io, service).await;
        })
        .await
    }

    async fn start<F>(serve: impl Fn(TokioIo<tokio::net::TcpStream>, Shared) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let (events, _) = broadcast::channel(16);
        let shared = Shared { requests: Arc::default(), watches: Arc::default(), events: events.clone() };
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let (accepted, shared) = (Arc::clone(&accepted), shared.clone());
            async move {
                let mut connections = JoinSet::new();
                loop {
                    let (io, _) = listener.accept().await.unwrap();
                    accepted.fetch_add(1, Ordering::SeqCst);
                    io.set_nodelay(true).unwrap();
                    connections.spawn(serve(TokioIo::new(io), shared.clone()));
                }
            }
        });
        Self { address, accepted, requests: shared.requests, watches: shared.watches, events, _tasks: tasks }
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Requests seen so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Watches that are being served right now.
    pub(crate) fn watches(&self) -> usize {
        self.watches.load(Ordering::SeqCst)
    }

    /// Sends an event to every watch.
    pub(crate) fn event(&self) {
        self.events.send(()).unwrap();
    }
}

struct Watching(Arc<AtomicUsize>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(request: Request<Incoming>, shared: Shared) -> Result<Response<Body>, Infallible> {
    shared.requests.fetch_add(1, Ordering::SeqCst);
    let path = request.uri().path().to_owned();
    let numbers: Vec<usize> = path.split('/').filter_map(|part| part.parse().ok()).collect();
    Ok(Response::new(match (path.split('/').nth(1), numbers.as_slice()) {
        (Some("watch"), _) => watch(&shared),
        (Some("list"), [bytes]) => full(vec![b'x'; *bytes]),
        (Some("chunks"), [count, size]) => chunks(*count, *size),
        (Some("echo"), _) => request.into_body().map_err(|error| panic!("{error}")).boxed_unsync(),
        (Some("collect"), _) => match request.into_body().collect().await {
            Ok(body) => full(body.to_bytes()),
            Err(_) => full("broken"),
        },
        (Some("hang"), _) => std::future::pending().await,
        _ => full("hello"),
    }))
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

fn watch(shared: &Shared) -> Body {
    shared.watches.fetch_add(1, Ordering::SeqCst);
    let watching = Watching(Arc::clone(&shared.watches));
    let events = shared.events.subscribe();
    let stream =
        futures_util::stream::unfold((events, watching, true), |(mut events, watching, first)| async move {
            if !first {
                events.recv().await.ok()?;
            }
            let frame = Frame::data(Bytes::from_static(b"event\n"));
            Some((Ok(frame), (events, watching, false)))
        });
    StreamBody::new(stream).boxed_unsync()
}

/// `count` frames of `size` bytes, each sent by itself.
fn chunks(count: usize, size: usize) -> Body {
    let stream = futures_util::stream::unfold(0, move |sent| async move {
        tokio::task::yield_now().await;
        (sent < count).then(|| (Ok(Frame::data(Bytes::from(vec![b'c'; size]))), sent + 1))
    });
    StreamBody::new(stream).boxed_unsync()
}
