//! How a byte stream to the target is opened.
//!
//! The proxy never dials by itself: whoever builds an [`Upstream`](crate::Upstream) injects a [`Dial`], so that
//! TLS, forward proxies and reverse tunnels serve plain requests and upgrades alike (upstream Kubernetes ignores
//! `proxy-url` on upgrades, kubernetes/kubernetes#120318).

use std::{fmt, future::Future, io, pin::Pin, time::Duration};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::BoxError;

/// A duplex byte stream, as hyper and the tunnels need it.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// An owned byte stream of any kind.
pub type BoxIo = Box<dyn Io>;

/// What a new connection is for; decides the ALPN offer of a TLS dialer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A pooled connection for plain requests: offer `h2` and `http/1.1`.
    Pooled,
    /// One upgrade: offer `http/1.1` only. `Upgrade` does not exist in HTTP/2.
    Upgrade,
}

/// The HTTP version a dialed connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1: one request at a time.
    Http1,
    /// HTTP/2: many streams at a time.
    Http2,
}

/// A connection that is ready for its first request.
pub struct Dialed {
    /// The byte stream, TLS already established where there is any.
    pub io: BoxIo,
    /// What was negotiated. For [`Purpose::Upgrade`] this must be [`Protocol::Http1`].
    pub protocol: Protocol,
}

impl fmt::Debug for Dialed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialed").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

/// Opens connections to one target. Deadlines for each stage are the dialer's own business.
pub trait Dial: Send + Sync + 'static {
    /// Opens one connection.
    ///
    /// # Errors
    /// [`DialError`], naming the stage that failed.
    fn dial(&self, purpose: Purpose) -> Pin<Box<dyn Future<Output = Result<Dialed, DialError>> + Send + '_>>;
}

/// The stage in which a dial failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DialStage {
    /// Name resolution and the TCP connection.
    Connect,
    /// A forward proxy or tunnel on the way.
    Proxy,
    /// The TLS handshake.
    Tls,
    /// The HTTP/2 preface and settings.
    Http,
}

/// Why no connection could be opened.
///
/// Clonable, since everybody who waited for one shared dial gets the same answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DialError {
    /// The stage failed.
    #[error("{message}")]
    Failed {
        /// Where it failed.
        stage: DialStage,
        /// What failed, complete with the address and the cause.
        message: String,
    },
    /// The stage did not finish in time.
    #[error("{message}")]
    TimedOut {
        /// Where the time went.
        stage: DialStage,
        /// What was being done, complete with the address.
        message: String,
        /// The limit.
        after: Duration,
    },
}

impl DialError {
    /// A failure of `stage`, worded by the dialer.
    pub fn failed(stage: DialStage, message: impl Into<String>) -> Self {
        Self::Failed { stage, message: message.into() }
    }

    /// The stage in which it happened.
    pub fn stage(&self) -> DialStage {
        match self {
            Self::Failed { stage, .. } | Self::TimedOut { stage, .. } => *stage,
        }
    }
}

impl From<DialError> for io::Error {
    fn from(error: DialError) -> Self {
        Self::other(BoxError::from(error))
    }
}
