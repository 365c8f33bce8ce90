//! Opening a connection and driving it.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll},
};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;

use super::{PoolConfig, error_chain, lease::Http1, lending::Pool, upload::Outgoing};
use crate::{BoxIo, DialError, DialStage, Dialed, Protocol, Purpose};

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

/// Credit per stream: on a path of 50 ms round trip, 2 MiB let one LIST run at 40 MB/s.
const STREAM_WINDOW: u32 = 2 * MIB;
/// Memory is bounded by the stream windows. The connection's window only has to be large: h2 closes a connection
/// whose unread small DATA frames use up a budget of half this window, so with a smaller one a single paused
/// `logs -f` takes its neighbours down (RUSTSEC-2026-0258).
const CONNECTION_WINDOW: u32 = 1 << 30;
/// What a Kubernetes API server uses, so that a large LIST costs few frames.
const FRAME_SIZE: u32 = 256 * KIB;
/// Response heads; what a Kubernetes API server allows for request heads.
const HEADER_LIST_SIZE: u32 = MIB;
const HTTP1_BUFFER: usize = MIB as usize;
/// hyper clears room for all of them with every response: measured, 4096 cost 10 µs and more.
const HTTP1_HEADERS: usize = 256;
/// Frames of a stream that we have reset may arrive for a while. h2 remembers that many such streams for that long;
/// frames of a forgotten one count as errors, and too many errors close the connection under everybody's feet
/// (h2 remembers 50 for one second, and bears 1024 errors in a connection's life). Clients of a gateway go away all
/// the time, so be generous.
const RESET_STREAMS: usize = 4096;
const RESET_STREAM_MEMORY: std::time::Duration = std::time::Duration::from_secs(30);
const RESET_STREAM_ERRORS: usize = 1 << 20;
/// Stands for "no SETTINGS yet" in hyper's stream limit: no peer can say this number on a 64-bit machine. The pool
/// itself sends a single request until it has the peer's own limit; more would risk REFUSED_STREAM. The obvious
/// initial limit of 1 could not be told from a peer that says 1.
pub(super) const UNSETTLED: usize = usize::MAX - 1;

type Http1Connection = http1::Connection<TokioIo<BoxIo>, Outgoing>;
type Http2Connection = http2::Connection<TokioIo<BoxIo>, Outgoing, Executor>;

/// A connection after its handshake, not yet driven.
pub(super) enum Opened {
    Http1(http1::SendRequest<Outgoing>, Box<Http1Connection>),
    Http2(http2::SendRequest<Outgoing>, Http2Parts),
}

/// The two futures of an HTTP/2 connection in hyper.
pub(super) struct Http2Parts {
    /// Turns requests into streams.
    requests: Http2Connection,
    /// Moves frames.
    frames: Option<Frames>,
}

type Frames = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Dials and shakes hands.
pub(super) async fn open(pool: &Pool) -> Result<Opened, DialError> {
    let Dialed { io, protocol } = pool.dialer.dial(Purpose::Pooled).await?;
    let io = TokioIo::new(io);
    let failed = |error: hyper::Error| {
        DialError::failed(DialStage::Http, format!("HTTP handshake: {}", error_chain(&error)))
    };
    match protocol {
        Protocol::Http1 => {
            let (sender, connection) = http1::Builder::new()
                .max_headers(HTTP1_HEADERS)
                .max_buf_size(HTTP1_BUFFER)
                .max_header_size(HTTP1_BUFFER)
                .handshake(io)
                .await
                .map_err(failed)?;
            Ok(Opened::Http1(sender, Box::new(connection)))
        }
        Protocol::Http2 => {
            let executor = Executor::default();
            let handshake = http2_builder(&pool.config, executor.clone()).handshake(io);
            let limit = pool.config.ping_timeout;
            let (sender, requests) = timeout(limit, handshake)
                .await
                .map_err(|_| DialError::TimedOut {
                    stage: DialStage::Http,
                    message: "sending the HTTP/2 preface timed out".to_owned(),
                    after: limit,
                })?
                .map_err(failed)?;
            let frames = executor.take_frames();
            Ok(Opened::Http2(sender, Http2Parts { requests, frames }))
        }
    }
}

fn http2_builder(config: &PoolConfig, executor: Executor) -> http2::Builder<Executor> {
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .initial_max_send_streams(UNSETTLED)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_SIZE)
        .max_header_list_size(HEADER_LIST_SIZE)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .reset_stream_duration(RESET_STREAM_MEMORY)
        .max_local_error_reset_streams(RESET_STREAM_ERRORS)
        .keep_alive_interval(config.ping_interval)
        .keep_alive_timeout(config.ping_timeout)
        .keep_alive_while_idle(true);
    builder
}

/// Counts one open connection of the pool; dropped when its socket is closed.
pub(super) struct OpenGuard {
    pool: Weak<Pool>,
    id: u64,
}

impl OpenGuard {
    pub(super) fn new(pool: &Arc<Pool>, id: u64) -> Self {
        Self { pool: Arc::downgrade(pool), id }
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.closed(self.id);
        }
    }
}

/// Drives an HTTP/1.1 connection in a task of its own.
pub(super) fn drive_http1(
    guard: OpenGuard,
    sender: http1::SendRequest<Outgoing>,
    connection: Box<Http1Connection>,
) -> Http1 {
    let id = guard.id;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(connection = id, error = error_chain(&error), "HTTP/1.1 connection ended");
        }
        drop(guard);
    });
    Http1::new(id, sender, driver.abort_handle())
}

/// Drives an HTTP/2 connection in a task of its own.
///
/// hyper would put the two futures of the connection in two tasks. In one task, a request goes out in the same turn
/// that takes it from the queue, and what the peer says (a new stream limit, GOAWAY) is known in the same turn that
/// reads it; hyper's own request task is not even woken by that.
pub(super) fn drive_http2(guard: OpenGuard, parts: Http2Parts) {
    let Http2Parts { requests, mut frames } = parts;
    let mut requests = Requests { connection: Some(requests), limit: UNSETTLED, guard };
    tokio::spawn(async move {
        poll_fn(|cx| {
            requests.poll(cx);
            let ended = match &mut frames {
                Some(frames) => frames.as_mut().poll(cx).is_ready(),
                None => requests.connection.is_none(),
            };
            if ended {
                return Poll::Ready(());
            }
            requests.poll(cx);
            requests.publish_limit();
            Poll::Pending
        })
        .await;
        // First the sockets, then the count.
        drop(frames);
        drop(requests.connection.take());
        drop(requests);
    });
}

struct Requests {
    /// `None` once no further request can be sent: GOAWAY, or the pool let go of the connection.
    connection: Option<Http2Connection>,
    limit: usize,
    guard: OpenGuard,
}

impl Requests {
    fn poll(&mut self, cx: &mut Context<'_>) {
        let Some(connection) = &mut self.connection else { return };
        let Poll::Ready(ended) = Pin::new(connection).poll(cx) else { return };
        if let Err(error) = ended {
            tracing::debug!(
                connection = self.guard.id,
                error = error_chain(&error),
                "HTTP/2 connection ended"
            );
        }
        self.connection = None;
        if let Some(pool) = self.guard.pool.upgrade() {
            pool.retire(self.guard.id);
        }
    }

    fn publish_limit(&mut self) {
        let Some(connection) = &self.connection else { return };
        let limit = connection.current_max_send_streams();
        if limit == self.limit {
            return;
        }
        self.limit = limit;
        if let Some(pool) = self.guard.pool.upgrade() {
            pool.peer_limit(self.guard.id, limit);
        }
    }
}

/// Keeps the first future that hyper wants to have run, which is the one that moves frames, and spawns the others,
/// one or two per request. Should hyper ever change that order, everything still runs; only limits would be learnt
/// late, and the tests say so.
#[derive(Clone, Default)]
struct Executor {
    first: Arc<Mutex<First>>,
}

#[derive(Default)]
enum First {
    #[default]
    Expected,
    Kept(Frames),
    Taken,
}

impl Executor {
    fn take_frames(&self) -> Option<Frames> {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *first, First::Taken) {
            First::Kept(frames) => Some(frames),
            First::Expected | First::Taken => None,
        }
    }
}

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*first, First::Expected) {
            *first = First::Kept(Box::pin(future));
        } else {
            drop(first);
            tokio::spawn(future);
        }
    }
}
