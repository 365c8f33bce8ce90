//! A member that speaks HTTP/1.1 by hand and keeps every byte it got.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use clusterway_certs::{Authority, server_config};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::soon;

/// A member that records. It ends with this value.
pub struct RawMember {
    pub address: SocketAddr,
    /// Vouches for its certificate.
    pub authority: Authority,
    seen: Arc<Seen>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Recorded>>,
    connections: AtomicUsize,
    changed: Notify,
}

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// From the method to the empty line.
    pub head: Vec<u8>,
    /// The body as it was on the wire: with its chunks, if it had any. Behind a 101, all that came through the tunnel.
    pub body: Vec<u8>,
    /// Whom the client certificate of the connection names, if there was one.
    pub client_common_name: Option<String>,
}

/// What the member does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Sends these bytes and waits for the next request.
    Send(Vec<u8>),
    /// Sends these bytes and closes.
    SendAndClose(Vec<u8>),
    /// Sends these bytes, then sends back whatever comes.
    SendAndEcho(Vec<u8>),
    /// Says nothing and keeps the connection.
    Silence,
}

/// A complete 200 with `body`.
pub fn ok(body: &str) -> Reply {
    Reply::Send(
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes(),
    )
}

impl RawMember {
    /// Starts one that answers as `answer` says.
    pub async fn start(answer: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) -> Self {
        let authority = Authority::new("raw member").unwrap();
        let certified = authority.issue_server(&["127.0.0.1"]).unwrap().certified_key().unwrap();
        let anybody = clusterway_certs::danger::UnverifiedClientCertificates::new(Vec::new());
        let mut tls = server_config(certified, Some(Arc::new(anybody))).unwrap();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let accepting = tokio::spawn(accept(listener, Arc::new(tls), Arc::clone(&seen), Arc::new(answer)));
        Self { address, authority, seen, accepting }
    }

    /// `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// What has come so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// The only request there was.
    #[track_caller]
    pub fn only_request(&self) -> Recorded {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests[0].clone()
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Waits until what it has seen satisfies `wanted`.
    pub async fn until(&self, what: &str, wanted: impl Fn(&[Recorded]) -> bool) {
        soon(what, async {
            loop {
                let changed = self.seen.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if wanted(&self.seen.requests.lock().unwrap()) {
                    return;
                }
                changed.await;
            }
        })
        .await;
    }
}

impl Drop for RawMember {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Recorded {
    /// The request line.
    pub fn line(&self) -> &str {
        self.lines()[0]
    }

    /// Path and query as they came.
    pub fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap()
    }

    /// All lines of the head. The tests' values are UTF-8.
    pub fn lines(&self) -> Vec<&str> {
        std::str::from_utf8(&self.head).unwrap().trim_end_matches("\r\n").split("\r\n").collect()
    }

    /// The values of header `name`, in order.
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.headers()
            .into_iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }

    /// The header names, in lower case, sorted, without repetitions.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.headers().iter().map(|(key, _)| key.to_ascii_lowercase()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Names and values. Nothing is trimmed but the one blank that follows a colon.
    pub fn headers(&self) -> Vec<(&str, &str)> {
        self.lines()[1..]
            .iter()
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name, value.strip_prefix(' ').unwrap_or(value)))
            .collect()
    }
}

async fn accept(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    seen: Arc<Seen>,
    answer: Arc<dyn Fn(&Recorded) -> Reply + Send + Sync>,
) {
    // Dropped with the task, and with it every connection.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let (tls, seen, answer) =
            (TlsAcceptor::from(Arc::clone(&tls)), Arc::clone(&seen), Arc::clone(&answer));
        connections.spawn(async move {
            // A client that does not trust the certificate leaves here.
            if let Ok(stream) = tls.accept(tcp).await {
                seen.connections.fetch_add(1, Ordering::SeqCst);
                let _ = converse(stream, &seen, &*answer).await;
            }
        });
    }
}

async fn converse(
    mut stream: TlsStream<TcpStream>,
    seen: &Seen,
    answer: &(dyn Fn(&Recorded) -> Reply + Send + Sync),
) -> std::io::Result<()> {
    let client_common_name = stream
        .get_ref()
        .1
        .peer_certificates()
        .map(|chain| clusterway_certs::Subject::of(&chain[0]).unwrap().common_name);
    let mut buffer = Vec::new();
    loop {
        let Some(mut request) = read_request(&mut stream, &mut buffer).await? else { return Ok(()) };
        request.client_common_name.clone_from(&client_common_name);
        let index = {
            let mut requests = seen.requests.lock().unwrap();
            requests.push(request.clone());
            requests.len() - 1
        };
        seen.changed.notify_waiters();
        match answer(&request) {
            Reply::Send(bytes) => {
                stream.write_all(&bytes).await?;
                stream.flush().await?;
            }
            Reply::SendAndClose(bytes) => {
                stream.write_all(&bytes).await?;
                return stream.shutdown().await;
            }
            Reply::SendAndEcho(bytes) => {
                stream.write_all(&bytes).await?;
                stream.flush().await?;
                return echo(stream, buffer, seen, index).await;
            }
            Reply::Silence => {}
        }
    }
}

async fn echo(
    mut stream: TlsStream<TcpStream>,
    mut buffer: Vec<u8>,
    seen: &Seen,
    index: usize,
) -> std::io::Result<()> {
    loop {
        if !buffer.is_empty() {
            seen.requests.lock().unwrap()[index].body.extend_from_slice(&buffer);
            seen.changed.notify_waiters();
            stream.write_all(&buffer).await?;
            stream.flush().await?;
            buffer.clear();
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return stream.shutdown().await;
        }
    }
}

/// One request with its body; `None` when the connection ends first.
async fn read_request(
    stream: &mut TlsStream<TcpStream>,
    buffer: &mut Vec<u8>,
) -> std::io::Result<Option<Recorded>> {
    let Some(head) = take_until(stream, buffer, b"\r\n\r\n").await? else { return Ok(None) };
    let mut request = Recorded { head, ..Recorded::default() };
    let length = request.values("content-length").first().map(|value| value.parse::<usize>().unwrap());
    if !request.values("transfer-encoding").is_empty() {
        let Some(body) = take_until(stream, buffer, b"0\r\n\r\n").await? else { return Ok(None) };
        request.body = body;
    } else if let Some(length) = length {
        while buffer.len() < length {
            if stream.read_buf(buffer).await? == 0 {
                return Ok(None);
            }
        }
        request.body = buffer.drain(..length).collect();
    }
    Ok(Some(request))
}

async fn take_until(
    stream: &mut TlsStream<TcpStream>,
    buffer: &mut Vec<u8>,
    end: &[u8],
) -> std::io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(at) = buffer.windows(end.len()).position(|window| window == end) {
            return Ok(Some(buffer.drain(..at + end.len()).collect()));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}
