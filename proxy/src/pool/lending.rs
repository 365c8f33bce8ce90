//! Who gets which stream, who waits, and when a connection is opened.
//!
//! All books are behind one `std` mutex. It is held for a few comparisons and never across an `.await`; an async
//! mutex, or atomic counters per connection, would cost more and allow states in which the sums do not add up.

use std::{
    future::Future,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::client::conn::http2;
use tokio::{runtime::Handle, sync::oneshot, time::Instant};

use super::{
    PoolConfig, PoolStats,
    books::{ANY, Books, Http2, IdleHttp1, Waiter},
    lease::{Http1, Lease, Stream},
    tasks,
    upload::Outgoing,
};
use crate::{Dial, DialError, DialStage, Protocol};

/// An idle timeout that can be added to any moment.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What all parts of an upstream share.
pub(super) struct Pool {
    pub(super) dialer: Arc<dyn Dial>,
    pub(super) config: PoolConfig,
    books: Mutex<Books>,
}

/// What a request for a stream leads to.
pub(super) enum Acquired {
    Lease(Lease),
    Queued(Place),
}

/// A place in the queue. Dropping it leaves the queue.
pub(super) struct Place {
    pool: Arc<Pool>,
    ticket: u64,
    pub(super) granted: oneshot::Receiver<Result<Lease, DialError>>,
}

impl Pool {
    pub(super) fn new(dialer: Arc<dyn Dial>, mut config: PoolConfig) -> Arc<Self> {
        config.max_connections = config.max_connections.max(1);
        config.max_streams_per_connection = config.max_streams_per_connection.max(1);
        config.idle_timeout = config.idle_timeout.min(FOREVER);
        let books = Mutex::new(Books::new(&config));
        Arc::new(Self { dialer, config, books })
    }

    /// Opens the books; what was discarded meanwhile is dropped after they are closed again.
    fn with_books<T>(&self, work: impl FnOnce(&mut Books) -> T) -> T {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut books);
        let discarded = mem::take(&mut books.discarded);
        drop(books);
        drop(discarded);
        result
    }

    pub(super) fn stats(&self) -> PoolStats {
        self.with_books(|books| PoolStats { connections: books.open, in_flight: books.lent })
    }

    /// A stream, or a place in the queue for one, on a connection with at least the number `floor`.
    pub(super) fn acquire(self: &Arc<Self>, floor: u64) -> Acquired {
        self.with_books(|books| {
            if let Some(stream) = books.take(floor) {
                self.dial_ahead(books);
                return Acquired::Lease(Lease::new(Arc::clone(self), stream, books.next_id));
            }
            books.runtime = Some(Handle::current());
            let (grant, granted) = oneshot::channel();
            books.last_ticket += 1;
            let ticket = books.last_ticket;
            books.waiters.push_back(Waiter { ticket, floor, grant });
            self.dial_for_waiters(books);
            Acquired::Queued(Place { pool: Arc::clone(self), ticket, granted })
        })
    }

    /// Takes a stream back. An HTTP/1.1 connection that is still `used` is closed. `announced` says that it was
    /// announced as [`returning`](Self::returning).
    pub(super) fn give_back(self: &Arc<Self>, stream: Stream, used: bool, announced: bool) {
        let useless = self.with_books(|books| {
            books.returning -= usize::from(announced);
            let useless = books.put_back(stream, used);
            self.serve(books);
            useless
        });
        drop(useless);
    }

    /// An HTTP/1.1 connection will be given back in a moment: nobody needs to dial instead.
    pub(super) fn returning(&self) {
        self.with_books(|books| books.returning += 1);
    }

    /// Gives what there is to those who wait, and dials for the rest.
    fn serve(self: &Arc<Self>, books: &mut Books) {
        let mut index = 0;
        while let Some(&Waiter { floor, .. }) = books.waiters.get(index) {
            let Some(stream) = books.take(floor) else {
                if floor == ANY {
                    break;
                }
                index += 1;
                continue;
            };
            let lease = Lease::new(Arc::clone(self), stream, books.next_id);
            let Some(waiter) = books.waiters.remove(index) else { break };
            if let Err(Ok(lease)) = waiter.grant.send(Ok(lease)) {
                // The waiter has just gone away.
                lease.into_stream().and_then(|stream| books.put_back(stream, false));
            }
        }
        self.dial_for_waiters(books);
        if books.closed {
            books.discard_idle(|_| true);
        } else if !books.reaping && books.has_connections() {
            books.reaping = true;
            spawn(books, tasks::reap(Arc::downgrade(self), self.config.idle_timeout));
        }
    }

    /// Dials until every waiter is provided for, or no more connections may be opened.
    fn dial_for_waiters(self: &Arc<Self>, books: &mut Books) {
        while books.provided() < books.waiters.len() {
            if books.is_full(&self.config) {
                // Whoever must have a fresh connection cannot use an idle one, so that one makes room.
                if books.waiters.iter().any(|waiter| waiter.floor > ANY) {
                    books.discard_oldest_http1();
                }
                return;
            }
            self.dial(books);
        }
    }

    /// Opens a connection before the present ones are full, so that nobody has to wait for it.
    fn dial_ahead(self: &Arc<Self>, books: &mut Books) {
        let wanted = !books.closed
            && books.dialing + books.settling == 0
            && books.is_nearly_full()
            && !books.is_full(&self.config)
            && books.dial_ahead_failed.is_none_or(|at| at.elapsed() >= self.config.busy_wait);
        if wanted {
            self.dial(books);
        }
    }

    fn dial(self: &Arc<Self>, books: &mut Books) {
        books.dialing += 1;
        spawn(books, tasks::dial(Arc::clone(self)));
    }

    /// A dial has succeeded: counts the connection and numbers it.
    pub(super) fn opened(&self) -> u64 {
        self.with_books(|books| {
            books.dialing -= 1;
            books.open += 1;
            let id = books.next_id;
            books.next_id += 1;
            id
        })
    }

    pub(super) fn add_http1(self: &Arc<Self>, connection: Http1) {
        self.with_books(|books| {
            books.protocol = Some(Protocol::Http1);
            books.idle_http1.push(IdleHttp1 { connection, since: Instant::now() });
            self.serve(books);
        });
    }

    /// Adds a connection that serves one request until its SETTINGS are here. Then `settling` is dropped.
    pub(super) fn add_http2(
        self: &Arc<Self>,
        id: u64,
        sender: http2::SendRequest<Outgoing>,
        settling: oneshot::Sender<()>,
    ) {
        let dead = self.with_books(|books| {
            books.protocol = Some(Protocol::Http2);
            books.settling += 1;
            let dead = sender.is_closed();
            let settling = Some(settling);
            let connection =
                Http2 { id, sender, in_flight: 0, limit: 1, settling, idle_since: Instant::now() };
            let index = books.http2.partition_point(|other| other.id < id);
            books.http2.insert(index, connection);
            if !dead {
                self.serve(books);
            }
            dead
        });
        if dead {
            // It ended before it was in the books.
            self.retire(id);
        }
    }

    /// The peer of an HTTP/2 connection allows so many streams.
    pub(super) fn peer_limit(self: &Arc<Self>, id: u64, limit: usize) {
        let limit = limit.min(self.config.max_streams_per_connection);
        self.with_books(|books| {
            let Some(connection) = books.http2.iter_mut().find(|connection| connection.id == id) else {
                return;
            };
            connection.limit = limit;
            if connection.settling.take().is_some() {
                books.settling -= 1;
            }
            books.expected_streams = limit.max(1);
            self.serve(books);
        });
    }

    /// An HTTP/2 connection takes no further requests; its streams finish.
    pub(super) fn retire(self: &Arc<Self>, id: u64) {
        self.with_books(|books| match books.discard_http2(id) {
            Some(true) => {
                let message = "the target closed the connection before its HTTP/2 SETTINGS came";
                self.fail_waiters(books, &DialError::failed(DialStage::Http, message));
            }
            Some(false) => self.dial_for_waiters(books),
            None => {}
        });
    }

    /// No SETTINGS came in time: whoever got the first stream may go on, nobody else waits for this connection.
    pub(super) fn settling_timed_out(self: &Arc<Self>, id: u64) {
        let after = self.config.ping_timeout;
        self.with_books(|books| {
            let unsettled =
                books.http2.iter().any(|connection| connection.id == id && connection.settling.is_some());
            if unsettled {
                books.discard_http2(id);
                let message = format!("the target sent no HTTP/2 SETTINGS within {after:?}");
                self.fail_waiters(books, &DialError::TimedOut { stage: DialStage::Http, message, after });
            }
        });
    }

    /// A dial has failed.
    pub(super) fn dial_failed(self: &Arc<Self>, error: &DialError) {
        self.with_books(|books| {
            books.dialing -= 1;
            if books.waiters.is_empty() {
                books.dial_ahead_failed = Some(Instant::now());
            }
            self.fail_waiters(books, error);
        });
    }

    /// Those for whom a failed connection was meant, the oldest ones, get the error.
    fn fail_waiters(self: &Arc<Self>, books: &mut Books, error: &DialError) {
        let unprovided = books.waiters.len().saturating_sub(books.provided());
        for waiter in books.waiters.drain(..unprovided.min(books.streams_per_dial())) {
            // Fails only when the waiter has just gone away.
            let _ = waiter.grant.send(Err(error.clone()));
        }
        self.dial_for_waiters(books);
    }

    /// The socket of a connection is closed.
    pub(super) fn closed(self: &Arc<Self>, id: u64) {
        self.retire(id);
        self.with_books(|books| {
            books.open -= 1;
            books.discard_http1(id);
            self.dial_for_waiters(books);
        });
    }

    /// Takes the pool out of use. What idles is closed; what is busy leaves the books and is closed when its last
    /// stream ends. A request that comes later nevertheless is served by a connection that is not kept.
    pub(super) fn close(&self) {
        self.with_books(|books| {
            books.closed = true;
            books.discard_idle(|_| true);
            books.discard_settled_http2();
        });
    }

    /// Closes what has idled for too long. When to come again; `None` when there is nothing left to look after.
    pub(super) fn reap(&self, now: Instant) -> Option<Instant> {
        let timeout = self.config.idle_timeout;
        self.with_books(|books| {
            books.discard_idle(|since| since + timeout <= now);
            books.reaping = books.has_connections();
            let oldest = books.idle_http1_moments().chain(books.idle_http2_moments()).min();
            books.reaping.then(|| oldest.unwrap_or(now) + timeout)
        })
    }
}

/// Spawns from anywhere, also from a `drop` outside of the runtime.
fn spawn(books: &Books, task: impl Future<Output = ()> + Send + 'static) {
    if let Some(runtime) = &books.runtime {
        runtime.spawn(task);
    }
}

impl Place {
    /// The number of connections, if nothing that is under way will serve this place.
    pub(super) fn is_hopeless(&self) -> Option<usize> {
        self.pool.with_books(|books| {
            let place = books.place_of(self.ticket)?;
            (books.is_full(&self.pool.config) && place >= books.provided()).then_some(books.open)
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let waiter = self.pool.with_books(|books| {
            let place = books.place_of(self.ticket)?;
            books.waiters.remove(place)
        });
        drop(waiter);
    }
}
