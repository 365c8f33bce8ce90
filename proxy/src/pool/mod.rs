//! The connections to one target: an [`Upstream`].

mod body;
mod books;
mod connect;
mod exchange;
mod lease;
mod lending;
mod tasks;
mod upload;

use std::{error::Error, fmt, sync::Arc, time::Duration};

use http::{Request, Response};

pub use self::body::{BodyError, PooledBody};
use self::lending::Pool;
use crate::{BoxIo, Dial, DialError, Purpose, RequestBody};

/// Limits of an [`Upstream`].
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Most connections at a time.
    pub max_connections: usize,
    /// HTTP/2: most streams on one connection, where the target allows more or does not say. Keeps what shares the
    /// fate of one connection (GOAWAY, a lost packet, one core) small.
    pub max_streams_per_connection: usize,
    /// How long a request waits for a stream once `max_connections` are full.
    pub busy_wait: Duration,
    /// Connections without a request are closed after this long.
    pub idle_timeout: Duration,
    /// HTTP/2: quiet time before a ping.
    pub ping_interval: Duration,
    /// HTTP/2: time for the answer to a ping before the connection counts as dead; also the time for the first
    /// SETTINGS of a new connection.
    pub ping_timeout: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            max_connections: 200,
            max_streams_per_connection: 100,
            busy_wait: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(90),
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(15),
        }
    }
}

/// A look at an [`Upstream`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Open connections.
    pub connections: usize,
    /// Requests whose response body has not ended.
    pub in_flight: usize,
}

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection could be opened. The request was not sent.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// All connections were busy for `busy_wait`. The request was not sent.
    #[error("all {connections} connections are busy")]
    Exhausted {
        /// How many there are.
        connections: usize,
    },
    /// The target surely did not process the request (never written, REFUSED_STREAM, GOAWAY), and it could not be
    /// sent once more, or that failed too.
    #[error("not processed: {0}")]
    NotProcessed(String),
    /// The target may have processed the request.
    #[error("broken: {0}")]
    Broken(String),
    /// The response head did not come in time.
    #[error("no response within {0:?}")]
    HeadTimeout(Duration),
    /// The client's body failed while it was sent.
    #[error("the request body failed: {0}")]
    RequestBody(String),
}

/// The pooled connections to one target, and the way to open more.
///
/// HTTP/2 where the target speaks it, HTTP/1.1 with keep-alive where not; the injected [`Dial`] finds out. Several
/// HTTP/2 connections are used side by side, each for at most as many streams as the target allows, and a further one
/// is opened before the present ones are full. Dropping the last handle is the same as [`close`](Self::close).
///
/// Must be used inside a tokio runtime.
pub struct Upstream {
    pool: Arc<Pool>,
}

impl Upstream {
    /// A pool without connections; they are opened on demand.
    pub fn new(dialer: Arc<dyn Dial>, config: PoolConfig) -> Arc<Self> {
        Arc::new(Self { pool: Pool::new(dialer, config) })
    }

    /// Sends a plain request and waits for the response head, at most `head_timeout` from the moment a stream is
    /// ready, or from the moment at which the request's body last moved: an upload that makes progress may take its
    /// time. The URI of `request` is absolute; `Host`, `:authority` and the version are set to fit the connection.
    ///
    /// Dropping the future, or the body of the response, cancels the exchange at once.
    ///
    /// # Errors
    /// [`SendError`]; it tells whether the target may have processed the request.
    pub async fn send(
        &self,
        request: Request<RequestBody>,
        head_timeout: Duration,
    ) -> Result<Response<PooledBody>, SendError> {
        exchange::send(&self.pool, request, head_timeout).await
    }

    /// Opens a connection of its own for one upgrade. It never joins the pool.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial_upgrade(&self) -> Result<BoxIo, DialError> {
        Ok(self.pool.dialer.dial(Purpose::Upgrade).await?.io)
    }

    /// How many connections and requests there are right now.
    pub fn stats(&self) -> PoolStats {
        self.pool.stats()
    }

    /// Takes the target out of use: idle connections close now, busy ones when their last response ends.
    ///
    /// A request that is sent nevertheless, by somebody who still has a handle, gets a connection that is closed
    /// after it.
    pub fn close(&self) {
        self.pool.close();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.pool.close();
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// An error with all its causes: hyper's own messages name only the outermost one.
fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
