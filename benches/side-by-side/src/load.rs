//! The load: a fixed number of clients, each sending its next request when the last one is answered.
//!
//! Everything runs on one thread, so that it fits on one core. Connections are made before the clock starts; what is
//! counted is what happens between two readings of the clock and of the proxy's CPU time.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use http::{HeaderValue, Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::member::{ECHO, FLOOD, LIST, LIST_BYTES, POD, POD_BYTES, WEBSOCKET_KEY};
use crate::pki::{H1, H2, Pki};
use crate::scenario::{Kind, Scenario};

/// How long a client may need for its last request after the clock has stopped.
const PATIENCE: Duration = Duration::from_secs(20);
/// Consecutive failures after which a client gives up.
const FAILURES: u32 = 5;
/// Receive windows of the load: large, so that it is never what a transfer waits for.
const WINDOW: u32 = 1 << 30;
/// Bytes of one message on the echo stream: about what a key press in a terminal makes.
const MESSAGE: usize = 64;

/// Where the load goes: the member itself or a proxy in front of it.
#[derive(Clone)]
pub(crate) struct Target {
    authority: String,
    prefix: String,
    tls: Option<(Arc<ClientConfig>, Arc<ClientConfig>)>,
    authorization: HeaderValue,
}

impl Target {
    /// A target behind TLS on a port of this machine; paths of the member start after `prefix`.
    pub(crate) fn tls(pki: &Pki, port: u16, prefix: &str, token: &str) -> Result<Self> {
        let tls = (pki.client_config(H1)?, pki.client_config(H2)?);
        Ok(Self { tls: Some(tls), ..Self::plain(port, prefix, token)? })
    }

    /// A target without TLS, which then speaks HTTP/1.1 only.
    pub(crate) fn plain(port: u16, prefix: &str, token: &str) -> Result<Self> {
        Ok(Self {
            authority: format!("127.0.0.1:{port}"),
            prefix: prefix.to_owned(),
            tls: None,
            authorization: format!("Bearer {token}").parse()?,
        })
    }

    /// Whether HTTP/2 can be spoken with it.
    pub(crate) fn speaks_h2(&self) -> bool {
        self.tls.is_some()
    }

    fn request(&self, version: Version, path: &str) -> Result<Request<Empty<Bytes>>> {
        let (prefix, authority) = (&self.prefix, &self.authority);
        let request = if version == Version::HTTP_2 {
            Request::get(format!("https://{authority}{prefix}{path}"))
        } else {
            Request::get(format!("{prefix}{path}")).header(HOST, authority)
        };
        Ok(request
            .header(AUTHORIZATION, self.authorization.clone())
            .header("accept", "application/json")
            .header("user-agent", "side-by-side/0.1")
            .body(Empty::new())?)
    }

    async fn dial(&self, version: Version) -> Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(&self.authority).await?;
        stream.set_nodelay(true)?;
        let Some((h1, h2)) = &self.tls else { return Ok(Box::new(stream)) };
        let (config, alpn) = if version == Version::HTTP_2 { (h2, H2) } else { (h1, H1) };
        let name = "127.0.0.1".try_into()?;
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
        let agreed = stream.get_ref().1.alpn_protocol();
        // A server may leave ALPN alone when it speaks HTTP/1.1 only.
        ensure!(agreed == Some(alpn) || (alpn == H1 && agreed.is_none()), "ALPN agreed on {agreed:?}");
        Ok(Box::new(stream))
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// What one scenario did within the measured time.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Answers, or round trips.
    pub(crate) operations: u64,
    /// Body bytes received.
    pub(crate) bytes: u64,
    /// Requests that failed, over the whole run.
    pub(crate) errors: u64,
    /// What the first of them said.
    pub(crate) first_error: Option<String>,
    /// By the clock on the wall.
    pub(crate) wall: Duration,
    /// By the proxy, its children included; zero where there is none.
    pub(crate) cpu: Duration,
    /// Median time of one operation.
    pub(crate) p50: Duration,
    /// 99th percentile of it.
    pub(crate) p99: Duration,
}

#[derive(Default)]
struct Counters {
    measuring: Cell<bool>,
    stop: Cell<bool>,
    operations: Cell<u64>,
    bytes: Cell<u64>,
    errors: Cell<u64>,
    first_error: RefCell<Option<String>>,
    latencies: RefCell<Vec<Duration>>,
}

impl Counters {
    fn operation(&self, began: Instant) {
        self.operations.set(self.operations.get() + 1);
        if self.measuring.get() {
            self.latencies.borrow_mut().push(began.elapsed());
        }
    }

    fn received(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
    }

    fn failed(&self, error: &anyhow::Error) {
        self.errors.set(self.errors.get() + 1);
        self.first_error.borrow_mut().get_or_insert_with(|| format!("{error:#}"));
    }
}

/// Asks for the pod once: whether the target is up and answers what it should.
pub(crate) async fn probe(target: &Target) -> Result<()> {
    let mut client = Client::connect(target, Version::HTTP_11).await?;
    client.exchange(target, POD, POD_BYTES, &Counters::default()).await
}

/// Runs one scenario: connect, warm up for a third of `duration`, measure for `duration`.
///
/// Must be called within a [`tokio::task::LocalSet`].
pub(crate) async fn run(
    target: &Target,
    scenario: &Scenario,
    duration: Duration,
    cpu: impl Fn() -> Result<Duration>,
) -> Result<Sample> {
    let counters = Rc::new(Counters::default());
    let mut clients = start(target, scenario, &counters).await?;

    sleep(duration / 3).await;
    counters.measuring.set(true);
    let (began, before, cpu_before) =
        (Instant::now(), (counters.operations.get(), counters.bytes.get()), cpu()?);
    sleep(duration).await;
    let (wall, cpu) = (began.elapsed(), cpu()?.saturating_sub(cpu_before));
    counters.measuring.set(false);
    let (operations, bytes) = (counters.operations.get() - before.0, counters.bytes.get() - before.1);
    counters.stop.set(true);

    if timeout(PATIENCE, async { while clients.join_next().await.is_some() {} }).await.is_err() {
        counters.failed(&anyhow::anyhow!("{} requests were never answered", clients.len()));
    }
    let mut latencies = counters.latencies.take();
    latencies.sort_unstable();
    Ok(Sample {
        operations,
        bytes,
        errors: counters.errors.get(),
        first_error: counters.first_error.take(),
        wall,
        cpu,
        p50: percentile(&latencies, 50),
        p99: percentile(&latencies, 99),
    })
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get(sorted.len() * percent / 100).copied().unwrap_or_default()
}

async fn start(target: &Target, scenario: &Scenario, counters: &Rc<Counters>) -> Result<JoinSet<()>> {
    let mut clients = JoinSet::new();
    for _ in 0..scenario.connections {
        match scenario.kind {
            Kind::Get | Kind::List => {
                let first = Client::connect(target, scenario.version).await?;
                for client in first.share(scenario.streams) {
                    let (target, counters) = (target.clone(), Rc::clone(counters));
                    let (path, size) =
                        if scenario.kind == Kind::Get { (POD, POD_BYTES) } else { (LIST, LIST_BYTES) };
                    clients.spawn_local(requests(client, target, path, size, counters));
                }
            }
            Kind::Flood => {
                let stream = upgraded(target, FLOOD).await?;
                clients.spawn_local(drain(stream, Rc::clone(counters)));
            }
            Kind::Echo => {
                let stream = upgraded(target, ECHO).await?;
                clients.spawn_local(round_trips(stream, Rc::clone(counters)));
            }
        }
    }
    Ok(clients)
}

/// One client's share of a connection.
enum Client {
    H1(http1::SendRequest<Empty<Bytes>>),
    H2(http2::SendRequest<Empty<Bytes>>),
}

impl Client {
    async fn connect(target: &Target, version: Version) -> Result<Self> {
        let io = TokioIo::new(target.dial(version).await.context("cannot connect")?);
        if version == Version::HTTP_2 {
            let mut http = http2::Builder::new(TokioExecutor::new());
            http.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
            let (client, connection) = http.handshake(io).await?;
            spawn_local(async { connection.await.ok() });
            Ok(Self::H2(client))
        } else {
            let (client, connection) = http1::handshake(io).await?;
            spawn_local(async { connection.await.ok() });
            Ok(Self::H1(client))
        }
    }

    /// `streams` clients on this one connection.
    fn share(self, streams: usize) -> Vec<Self> {
        match self {
            Self::H1(client) => vec![Self::H1(client)],
            Self::H2(client) => (0..streams).map(|_| Self::H2(client.clone())).collect(),
        }
    }

    fn version(&self) -> Version {
        match self {
            Self::H1(_) => Version::HTTP_11,
            Self::H2(_) => Version::HTTP_2,
        }
    }

    async fn exchange(
        &mut self,
        target: &Target,
        path: &str,
        size: usize,
        counters: &Counters,
    ) -> Result<()> {
        let request = target.request(self.version(), path)?;
        let mut response = match self {
            Self::H1(client) => {
                client.ready().await?;
                client.send_request(request).await?
            }
            Self::H2(client) => {
                client.ready().await?;
                client.send_request(request).await?
            }
        };
        let mut received = 0;
        while let Some(frame) = response.frame().await {
            if let Some(data) = frame?.data_ref() {
                received += data.len();
                counters.received(data.len());
            }
        }
        ensure!(response.status() == StatusCode::OK, "the answer is {}", response.status());
        ensure!(received == size, "the answer has {received} bytes instead of {size}");
        Ok(())
    }
}

async fn requests(mut client: Client, target: Target, path: &str, size: usize, counters: Rc<Counters>) {
    let mut failures = 0;
    while !counters.stop.get() && failures < FAILURES {
        let began = Instant::now();
        match client.exchange(&target, path, size, &counters).await {
            Ok(()) => {
                counters.operation(began);
                failures = 0;
            }
            Err(error) => {
                counters.failed(&error);
                failures += 1;
                match Client::connect(&target, client.version()).await {
                    Ok(fresh) => client = fresh,
                    Err(error) => counters.failed(&error),
                }
            }
        }
    }
}

async fn upgraded(target: &Target, path: &str) -> Result<Box<dyn Stream>> {
    let io = TokioIo::new(target.dial(Version::HTTP_11).await.context("cannot connect")?);
    let (mut client, connection) = http1::handshake(io).await?;
    spawn_local(async { connection.with_upgrades().await.ok() });
    let mut request = target.request(Version::HTTP_11, path)?;
    let headers = request.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert("sec-websocket-version", HeaderValue::from_static("13"));
    headers.insert("sec-websocket-key", HeaderValue::from_static(WEBSOCKET_KEY));
    headers.insert("sec-websocket-protocol", HeaderValue::from_static("v5.channel.k8s.io"));
    let response = client.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        bail!("the answer to an upgrade is {status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(Box::new(TokioIo::new(hyper::upgrade::on(response).await?)))
}

async fn drain(mut stream: Box<dyn Stream>, counters: Rc<Counters>) {
    let mut buffer = vec![0; 128 << 10];
    while !counters.stop.get() {
        match stream.read(&mut buffer).await {
            Ok(read @ 1..) => counters.received(read),
            Ok(0) => return counters.failed(&anyhow::anyhow!("the stream ended early")),
            Err(error) => return counters.failed(&error.into()),
        }
    }
}

async fn round_trips(mut stream: Box<dyn Stream>, counters: Rc<Counters>) {
    let mut buffer = [7; MESSAGE];
    while !counters.stop.get() {
        let began = Instant::now();
        let trip = async {
            stream.write_all(&buffer).await?;
            stream.flush().await?;
            stream.read_exact(&mut buffer).await
        };
        match trip.await {
            Ok(read) => {
                counters.received(read);
                counters.operation(began);
            }
            Err(error) => return counters.failed(&error.into()),
        }
    }
}
