//! What can go wrong between our own client and a cluster.

use http::{Method, StatusCode};

/// Why a request of the demo's client failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not of the form `https://host:port/path`.
    #[error("{url:?} is no address of a cluster: {problem}")]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The certificate authority, the client certificate or its key cannot be used.
    #[error("{what} cannot be used: {problem}")]
    Credential {
        /// Which of them.
        what: &'static str,
        /// What is wrong with it; never its content.
        problem: String,
    },
    /// Nobody takes the connection.
    #[error("cannot connect to {authority}: {source}")]
    Connect {
        /// Host and port.
        authority: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The TLS handshake failed.
    #[error("TLS with {authority}: {source}")]
    Tls {
        /// Host and port.
        authority: String,
        /// The reason.
        source: std::io::Error,
    },
    /// Connecting took too long.
    #[error("{authority} did not take the connection within {seconds} s")]
    Slow {
        /// Host and port.
        authority: String,
        /// How long it had.
        seconds: u64,
    },
    /// The connection broke before or within the answer.
    #[error("{method} {path}: {source}")]
    Http {
        /// The request's method.
        method: Method,
        /// The request's path and query.
        path: String,
        /// The reason.
        source: hyper::Error,
    },
    /// The answer is an error; the message is that of its `Status`.
    #[error("{method} {path}: {code}: {message}")]
    Refused {
        /// The request's method.
        method: Method,
        /// The request's path and query.
        path: String,
        /// The HTTP status.
        code: StatusCode,
        /// The `Status`' message, or the start of the body.
        message: String,
    },
    /// The answer is not what was asked for.
    #[error("{path}: {problem}")]
    Answer {
        /// The request's path and query.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The WebSocket of an exec broke.
    #[error("{path}: {source}")]
    WebSocket {
        /// The request's path and query.
        path: String,
        /// The reason.
        source: Box<tokio_tungstenite::tungstenite::Error>,
    },
}
