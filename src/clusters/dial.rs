//! How a member's API server is reached: TCP, then TLS where its endpoint is `https`.
//!
//! The address comes from the cluster's definition and from nowhere else; nothing a caller or a member says can make
//! the gateway dial another one. Errors read like Go's, since KubeVela looks for `dial tcp` in them.

use std::{error::Error as _, fmt, future::Future, io, net::SocketAddr, pin::Pin, time::Duration};

use http::uri::Scheme;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;
use upgrade_aware_proxy::{Dial, DialError, DialStage, Dialed, Protocol, Purpose};

use super::{ClusterSpec, MemberTls, TlsError};

/// Idle time before the first keep-alive probe, and between probes. Finds dead peers on connections that have no
/// HTTP/2 pings: HTTP/1.1 and tunnels.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The least time that an address gets while there is that much left.
const MIN_SHARE: Duration = Duration::from_secs(2);

/// Time limits of one dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DialTimeouts {
    /// Name resolution and the TCP connection.
    pub connect: Duration,
    /// The TLS handshake.
    pub tls: Duration,
}

impl Default for DialTimeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), tls: Duration::from_secs(10) }
    }
}

/// Dials one member.
#[derive(Debug)]
pub struct MemberDialer {
    host: String,
    port: u16,
    tls: Option<MemberTls>,
    timeouts: DialTimeouts,
}

impl MemberDialer {
    /// A dialer for the member that `spec` defines.
    ///
    /// # Errors
    /// [`TlsError`] when its TLS material cannot be used.
    pub fn new(spec: &ClusterSpec, timeouts: DialTimeouts) -> Result<Self, TlsError> {
        let https = spec.endpoint.scheme == Scheme::HTTPS;
        let authority = &spec.endpoint.authority;
        Ok(Self {
            host: authority.host().trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: authority.port_u16().unwrap_or(if https { 443 } else { 80 }),
            tls: if https { Some(MemberTls::new(spec)?) } else { None },
            timeouts,
        })
    }

    async fn open(&self, purpose: Purpose) -> Result<Dialed, DialError> {
        let stream = self.connect().await?;
        let Some(tls) = &self.tls else {
            return Ok(Dialed { io: Box::new(stream), protocol: Protocol::Http1 });
        };
        let protocols: &[&[u8]] = match purpose {
            Purpose::Pooled => &[b"h2", b"http/1.1"],
            Purpose::Upgrade => &[b"http/1.1"],
        };
        let protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let connector = TlsConnector::from(tls.config.clone());
        let limit = self.timeouts.tls;
        let handshake = connector.with_alpn(protocols).connect(tls.server_name.clone(), stream);
        let handshake = timeout(limit, handshake).await;
        let stream = match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let message =
                    format!("tls: handshake with {}:{}: {}", self.host, self.port, describe_tls(&error));
                return Err(DialError::failed(DialStage::Tls, message));
            }
            Err(_) => {
                let message =
                    format!("tls: handshake with {}:{} timed out after {limit:?}", self.host, self.port);
                return Err(DialError::TimedOut { stage: DialStage::Tls, message, after: limit });
            }
        };
        let protocol = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Protocol::Http2,
            _ => Protocol::Http1,
        };
        Ok(Dialed { io: Box::new(stream), protocol })
    }

    async fn connect(&self) -> Result<TcpStream, DialError> {
        let deadline = Instant::now() + self.timeouts.connect;
        let lookup = timeout_at(deadline, lookup_host((self.host.as_str(), self.port))).await;
        let addresses: Vec<SocketAddr> = match lookup {
            Err(_) => return Err(self.timed_out(&format!("lookup {}", self.host))),
            Ok(Err(error)) => return Err(self.lookup_failed(describe_lookup(&error))),
            Ok(Ok(addresses)) => addresses.collect(),
        };
        self.connect_to(&addresses, deadline).await
    }

    /// Tries one address after the other. Each gets its share of the time, as in Go: one that swallows packets must
    /// not use up what the next one needs. If none answers, what the first one said is the error.
    async fn connect_to(&self, addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, DialError> {
        let mut first_error = None;
        for (index, address) in addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let others = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
            let share = (left / others).max(MIN_SHARE).min(left);
            let error = match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    configure(&stream);
                    return Ok(stream);
                }
                Ok(Err(error)) => {
                    let message = format!("dial tcp {address}: connect: {}", describe_io(&error));
                    DialError::failed(DialStage::Connect, message)
                }
                Err(_) => self.timed_out(address),
            };
            first_error.get_or_insert(error);
        }
        Err(first_error.unwrap_or_else(|| self.lookup_failed("no such host")))
    }

    fn timed_out(&self, at: &dyn fmt::Display) -> DialError {
        DialError::TimedOut {
            stage: DialStage::Connect,
            message: format!("dial tcp {at}: i/o timeout"),
            after: self.timeouts.connect,
        }
    }

    fn lookup_failed(&self, why: &str) -> DialError {
        DialError::failed(DialStage::Connect, format!("dial tcp: lookup {}: {why}", self.host))
    }
}

impl Dial for MemberDialer {
    fn dial(&self, purpose: Purpose) -> Pin<Box<dyn Future<Output = Result<Dialed, DialError>> + Send + '_>> {
        Box::pin(self.open(purpose))
    }
}

/// Both options only make a good connection better; a kernel without them is no reason to fail.
fn configure(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    if let Err(error) =
        stream.set_nodelay(true).and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive))
    {
        tracing::debug!(%error, "cannot set socket options");
    }
}

/// In Go's words. The system's resolver reports through text alone: there is no kind and no code in the error.
fn describe_lookup(error: &io::Error) -> &'static str {
    let text = error.to_string();
    let unknown = ["not known", "No address associated", "no such host"];
    if unknown.iter().any(|words| text.contains(words)) {
        "no such host"
    } else if text.contains("Temporary failure") {
        "server misbehaving"
    } else {
        "the name could not be resolved"
    }
}

/// In Go's words where it has some.
fn describe_io(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        _ => error.to_string(),
    }
}

/// The cause in rustls' words, which hold no secrets; certificates are `x509:` as Go has it.
fn describe_tls(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => format!("x509: {why}"),
        Some(other) => other.to_string(),
        None => error.source().map_or_else(|| error.to_string(), ToString::to_string),
    }
}

#[cfg(test)]
mod tests;
