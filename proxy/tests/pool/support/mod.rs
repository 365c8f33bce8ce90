//! Members that behave, a member whose frames are scripted, and a dialer that counts.

pub(crate) mod frames;
pub(crate) mod lines;
pub(crate) mod member;

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use upgrade_aware_proxy::{
    Dial, DialError, DialStage, Dialed, PoolConfig, PooledBody, Protocol, Purpose, RequestBody, SendError,
    Upstream,
};

/// Nothing in these tests takes that long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// A response head timeout that is not the subject of the test.
pub(crate) const HEAD: Duration = Duration::from_secs(15);

pub(crate) struct CountingDialer {
    address: SocketAddr,
    protocol: Protocol,
    dials: AtomicUsize,
    fails: AtomicBool,
}

impl CountingDialer {
    pub(crate) fn new(address: SocketAddr, protocol: Protocol) -> Arc<Self> {
        Arc::new(Self { address, protocol, dials: AtomicUsize::new(0), fails: AtomicBool::new(false) })
    }

    pub(crate) fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }

    pub(crate) fn fail_from_now_on(&self) {
        self.fails.store(true, Ordering::SeqCst);
    }
}

impl Dial for CountingDialer {
    fn dial(&self, _: Purpose) -> Pin<Box<dyn Future<Output = Result<Dialed, DialError>> + Send + '_>> {
        Box::pin(async {
            self.dials.fetch_add(1, Ordering::SeqCst);
            let failed = |reason: String| DialError::failed(DialStage::Connect, reason);
            if self.fails.load(Ordering::SeqCst) {
                return Err(failed("told to fail".to_owned()));
            }
            let io = TcpStream::connect(self.address).await.map_err(|error| failed(error.to_string()))?;
            io.set_nodelay(true).unwrap();
            Ok(Dialed { io: Box::new(io), protocol: self.protocol })
        })
    }
}

/// An upstream and the dialer that it uses.
pub(crate) struct Pool {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) dialer: Arc<CountingDialer>,
}

impl Pool {
    pub(crate) fn new(address: SocketAddr, protocol: Protocol, config: PoolConfig) -> Self {
        let dialer = CountingDialer::new(address, protocol);
        let upstream = Upstream::new(Arc::clone(&dialer) as Arc<dyn Dial>, config);
        Self { upstream, dialer }
    }

    pub(crate) async fn send(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<PooledBody>, SendError> {
        patiently(self.upstream.send(request, HEAD)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Response<PooledBody>, SendError> {
        self.send(get(path)).await
    }

    /// The body of a GET that must succeed.
    pub(crate) async fn text(&self, path: &str) -> String {
        read(self.get(path).await.unwrap()).await
    }

    /// Sends a GET in a task of its own.
    pub(crate) fn spawn_get(
        &self,
        path: &str,
    ) -> tokio::task::JoinHandle<Result<Response<PooledBody>, SendError>> {
        let upstream = Arc::clone(&self.upstream);
        let request = get(path);
        tokio::spawn(async move { upstream.send(request, HEAD).await })
    }

    pub(crate) fn connections(&self) -> usize {
        self.upstream.stats().connections
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.upstream.stats().in_flight
    }
}

pub(crate) fn get(path: &str) -> Request<RequestBody> {
    request(Method::GET, path, RequestBody::empty())
}

pub(crate) fn post(path: &str, body: &'static str) -> Request<RequestBody> {
    request(
        Method::POST,
        path,
        RequestBody::new(http_body_util::Full::new(Bytes::from_static(body.as_bytes()))),
    )
}

pub(crate) fn request(method: Method, path: &str, body: RequestBody) -> Request<RequestBody> {
    Request::builder().method(method).uri(format!("http://member.test:6443{path}")).body(body).unwrap()
}

/// A body that is fed by the test; it ends when the feeder is dropped.
pub(crate) fn fed_body() -> (mpsc::Sender<Result<Bytes, std::io::Error>>, RequestBody) {
    let (feeder, mut chunks) = mpsc::channel(1);
    let stream = futures_util::stream::poll_fn(move |cx| {
        chunks.poll_recv(cx).map(|chunk: Option<Result<Bytes, std::io::Error>>| {
            chunk.map(|chunk| chunk.map(http_body::Frame::data))
        })
    });
    (feeder, RequestBody::new(StreamBody::new(stream)))
}

/// The rest of a body, as text.
pub(crate) async fn read(response: Response<PooledBody>) -> String {
    let bytes = patiently(response.into_body().collect()).await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The next piece of a body.
pub(crate) async fn next_data(body: &mut PooledBody) -> Bytes {
    patiently(body.frame()).await.expect("the body ended").unwrap().into_data().unwrap()
}

pub(crate) async fn patiently<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("took too long")
}

/// Waits for something that announces itself to nobody.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waited = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("never: {what}"));
}
