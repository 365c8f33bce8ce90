//! What a client may take from the server.

use std::time::Duration;

/// Limits of a server. The defaults are for direct users; values follow a kube-apiserver's where it has one.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once, tunnels included. Further clients wait in the listener's backlog.
    pub max_connections: usize,
    /// From the accepted connection to the end of the TLS handshake.
    pub tls_handshake: Duration,
    /// From the first byte of an HTTP/1.1 request head to its last, and from the handshake to the first byte of any
    /// kind.
    pub request_head: Duration,
    /// How long a connection without a request stays open.
    pub idle: Duration,
    /// How long a client may read nothing while there is something to write, be it that the socket is full or that
    /// its HTTP/2 streams have no window; except on answers marked [`LongRunning`](super::LongRunning) and after an
    /// upgrade.
    pub write_stall: Duration,
    /// Lines in an HTTP/1.1 request head. Front proxies send one line per group. hyper clears room for all of them
    /// with every request: measured, 768 cost 2 µs, 2048 cost 5 µs and 4096 between 10 and 48 µs.
    pub max_headers: usize,
    /// Bytes of a request head.
    pub max_header_bytes: u32,
    /// Concurrent HTTP/2 streams per connection.
    pub http2_streams: u32,
    /// Bytes of a request body in flight per HTTP/2 stream.
    pub http2_stream_window: u32,
    /// The same for all streams of one connection: what a client can make us hold in memory. Enough for many stalled
    /// uploads beside a running one (kubernetes/kubernetes#67902).
    pub http2_connection_window: u32,
    /// Bytes of answers that wait for the client's window, per HTTP/2 stream.
    pub http2_send_buffer: usize,
    /// How often an HTTP/2 client is asked whether it is still there, and how long it has to answer.
    pub http2_ping: (Duration, Duration),
    /// How long draining may take.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            tls_handshake: Duration::from_secs(10),
            request_head: Duration::from_secs(32),
            idle: Duration::from_secs(90),
            write_stall: Duration::from_secs(120),
            max_headers: 768,
            max_header_bytes: 1 << 20,
            http2_streams: 250,
            http2_stream_window: 1 << 20,
            http2_connection_window: 64 << 20,
            http2_send_buffer: 256 << 10,
            http2_ping: (Duration::from_secs(30), Duration::from_secs(15)),
            drain: Duration::from_secs(30),
        }
    }
}
