//! Accepts TLS connections and speaks HTTP/1.1 and HTTP/2 on them.
//!
//! Knows nothing of what is served: a [`Handler`] answers. Serves Clusterway itself and the demo's members alike.
//!
//! What it must never do: let one connection hold up another (a handshake is never awaited in the accept loop), wait
//! without limit for a client that is silent, or go down with a handler that panics.

mod activity;
mod drive;
mod handler;
mod limits;
mod shutdown;
mod socket;
#[cfg(test)]
mod tests;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

pub use crate::connection::Connection;
pub use handler::{Handler, LongRunning};
pub use limits::Limits;
pub use shutdown::Shutdown;

/// How long to wait after the system refused a connection, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How often to say that the connection limit is reached.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(30);
/// How long cut connections and tunnels have to notice.
const CUT_GRACE: Duration = Duration::from_secs(2);

/// Serves `listener` until `shutdown` says to drain, then drains and returns.
///
/// `tls` gives the configuration for the next connection; its ALPN list decides which HTTP versions there are.
///
/// Draining: no connection is accepted any more, every open one ends when its requests are answered (HTTP/2 clients
/// get a GOAWAY), and what is still going on after [`Limits::drain`] (watches, `logs -f`, tunnels) is cut. Tunnels
/// that live in tasks of their own should watch [`Shutdown::cut_token`].
pub async fn serve<H: Handler>(
    listener: TcpListener,
    tls: impl Fn() -> Arc<ServerConfig> + Send,
    limits: Limits,
    handler: Arc<H>,
    shutdown: Shutdown,
) {
    let mut server = Server {
        slots: Arc::new(Semaphore::new(limits.max_connections.min(Semaphore::MAX_PERMITS))),
        limits: Arc::new(limits),
        handler,
        shutdown,
        open: TaskTracker::new(),
        tasks: JoinSet::new(),
        last_complaint: None,
    };
    server.accept_all(&listener, tls).await;
    drop(listener);
    server.drain().await;
}

struct Server<H> {
    limits: Arc<Limits>,
    handler: Arc<H>,
    shutdown: Shutdown,
    /// One permit per connection. It lives in the socket, so tunnels count for as long as they are open.
    slots: Arc<Semaphore>,
    /// Open sockets, tunnels included.
    open: TaskTracker,
    /// The tasks that drive connections.
    tasks: JoinSet<()>,
    last_complaint: Option<Instant>,
}

impl<H: Handler> Server<H> {
    async fn accept_all(&mut self, listener: &TcpListener, tls: impl Fn() -> Arc<ServerConfig>) {
        loop {
            let Some(slot) = self.free_slot().await else { return };
            let accepted = tokio::select! {
                biased;
                () = self.shutdown.draining() => return,
                accepted = listener.accept() => accepted,
            };
            self.reap();
            match accepted {
                Ok((stream, peer)) => {
                    if let Err(error) = socket::configure(&stream) {
                        debug!(%peer, %error, "cannot set socket options");
                    }
                    self.start(stream, slot, tls());
                }
                Err(error) if is_the_clients(&error) => {
                    debug!(%error, "a client left before it was accepted")
                }
                Err(error) => {
                    error!(%error, "cannot accept connections; if files ran out, raise the limit (ulimit -n)");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits for a free place among the connections; `None` when it is time to drain. Clients wait meanwhile in the
    /// listener's backlog.
    async fn free_slot(&mut self) -> Option<OwnedSemaphorePermit> {
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Some(slot);
        }
        if self.last_complaint.is_none_or(|last| last.elapsed() > COMPLAINT_INTERVAL) {
            self.last_complaint = Some(Instant::now());
            warn!(
                limit = self.limits.max_connections,
                "the limit of concurrent connections is reached; new clients wait until one closes"
            );
        }
        tokio::select! {
            biased;
            () = self.shutdown.draining() => None,
            slot = Arc::clone(&self.slots).acquire_owned() => slot.ok(),
        }
    }

    fn start(&mut self, stream: TcpStream, slot: OwnedSemaphorePermit, tls: Arc<ServerConfig>) {
        let (handler, limits) = (Arc::clone(&self.handler), Arc::clone(&self.limits));
        // A child, so that waiting on it is no point of contention between connections.
        let closing = self.shutdown.drain_token().child_token();
        let held = socket::Held::new(slot, self.open.token());
        self.tasks.spawn(drive::connection(stream, held, tls, limits, handler, closing));
    }

    /// Forgets tasks that have ended.
    fn reap(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                error!(%error, "a connection's task panicked; please report this");
            }
        }
    }

    async fn drain(mut self) {
        self.open.close();
        if !self.open.is_empty() {
            info!(connections = self.open.len(), "draining");
        }
        tokio::select! {
            biased;
            () = self.open.wait() => return,
            () = self.shutdown.cutting() => {}
            () = tokio::time::sleep(self.limits.drain) => {
                warn!(connections = self.open.len(), "cutting what is still open after the drain period");
            }
        }
        self.shutdown.cut();
        self.tasks.abort_all();
        if tokio::time::timeout(CUT_GRACE, self.open.wait()).await.is_err() {
            debug!(connections = self.open.len(), "left behind");
        }
    }
}

/// Whether a failed `accept` says something about one client rather than about us (accept(2)).
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
