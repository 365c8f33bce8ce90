//! The books of a pool: which connections there are, how many streams are lent, and who waits for one.
//!
//! Pure bookkeeping: nothing here dials, spawns or wakes anybody.

use std::collections::VecDeque;

use hyper::client::conn::http2;
use tokio::{runtime::Handle, sync::oneshot, time::Instant};

use super::{
    PoolConfig,
    lease::{Http1, Lease, Stream},
    upload::Outgoing,
};
use crate::{DialError, Protocol};

/// What an API server allows per connection, and what a new connection is expected to bring until the target's own
/// number is known.
const EXPECTED_STREAMS: usize = 100;

/// A floor that every connection passes.
pub(super) const ANY: u64 = 0;

pub(super) struct Books {
    /// Those that take requests, in the order of their numbers.
    pub(super) http2: Vec<Http2>,
    /// The most recently used last.
    pub(super) idle_http1: Vec<IdleHttp1>,
    /// Sockets: lent, idle, and those that left the lists above but still serve their last streams.
    pub(super) open: usize,
    /// Dials under way.
    pub(super) dialing: usize,
    /// HTTP/2 connections whose SETTINGS are not here yet.
    pub(super) settling: usize,
    /// HTTP/1.1 connections whose exchange is over and that will be ready in a moment.
    pub(super) returning: usize,
    /// Streams lent.
    pub(super) lent: usize,
    /// What the last dial found.
    pub(super) protocol: Option<Protocol>,
    /// How many streams a new HTTP/2 connection is expected to bring.
    pub(super) expected_streams: usize,
    /// The oldest first, tickets ascending.
    pub(super) waiters: VecDeque<Waiter>,
    pub(super) last_ticket: u64,
    /// The number of the next connection.
    pub(super) next_id: u64,
    /// When the last dial ahead of need failed.
    pub(super) dial_ahead_failed: Option<Instant>,
    /// Whether a reaper is about.
    pub(super) reaping: bool,
    pub(super) closed: bool,
    /// Where dials run. Bodies may be dropped outside of any runtime.
    pub(super) runtime: Option<Handle>,
    /// To be dropped once the lock is released: a connection's end comes back to the books.
    pub(super) discarded: Discarded,
}

/// An HTTP/2 connection that takes requests.
pub(super) struct Http2 {
    pub(super) id: u64,
    pub(super) sender: http2::SendRequest<Outgoing>,
    pub(super) in_flight: usize,
    /// The peer's SETTINGS_MAX_CONCURRENT_STREAMS, at most our own limit; 1 until SETTINGS are here.
    pub(super) limit: usize,
    /// Until SETTINGS are here. Dropped when they are, or when the connection is gone.
    pub(super) settling: Option<oneshot::Sender<()>>,
    pub(super) idle_since: Instant,
}

pub(super) struct IdleHttp1 {
    pub(super) connection: Http1,
    pub(super) since: Instant,
}

pub(super) struct Waiter {
    pub(super) ticket: u64,
    /// Only a connection with at least this number will do.
    pub(super) floor: u64,
    pub(super) grant: oneshot::Sender<Result<Lease, DialError>>,
}

#[derive(Default)]
pub(super) struct Discarded {
    http1: Vec<IdleHttp1>,
    http2: Vec<Http2>,
}

impl Books {
    pub(super) fn new(config: &PoolConfig) -> Self {
        Self {
            http2: Vec::new(),
            idle_http1: Vec::new(),
            open: 0,
            dialing: 0,
            settling: 0,
            returning: 0,
            lent: 0,
            protocol: None,
            expected_streams: EXPECTED_STREAMS.min(config.max_streams_per_connection),
            waiters: VecDeque::new(),
            last_ticket: 0,
            next_id: ANY + 1,
            dial_ahead_failed: None,
            reaping: false,
            closed: false,
            runtime: None,
            discarded: Discarded::default(),
        }
    }

    /// Takes a stream of a connection with at least the number `floor`.
    ///
    /// Which HTTP/2 connection? The emptiest one; of several, the oldest. Alternatives:
    ///  - the fullest one that has room: packs watches on few connections and lets the others drain, but then every
    ///    GET shares a connection with almost a hundred watches and with their fate (GOAWAY, a lost packet);
    ///  - the most recently used one: the same in the end, and needs an order to be kept;
    ///  - round robin: keeps every connection of a past burst busy, so none is ever idle;
    ///  - lanes for watches and for short requests: the pool would have to know which is which.
    ///
    /// The emptiest keeps short requests away from crowded connections without knowing them, and as it prefers the
    /// oldest among equals, a quiet target falls back to one connection and the others idle out.
    ///
    /// HTTP/1.1 connections are taken most recently used first, for the same reason.
    pub(super) fn take(&mut self, floor: u64) -> Option<Stream> {
        let emptiest = self
            .http2
            .iter_mut()
            .filter(|connection| connection.id >= floor && connection.in_flight < connection.limit)
            .filter(|connection| !connection.sender.is_closed())
            .min_by_key(|connection| connection.in_flight);
        if let Some(connection) = emptiest {
            connection.in_flight += 1;
            self.lent += 1;
            return Some(Stream::Http2 { id: connection.id, sender: connection.sender.clone() });
        }
        // One that died while idle leaves by itself when its driver ends.
        let index = self.idle_http1.iter().rposition(|IdleHttp1 { connection, .. }| {
            let fresh_enough = floor == ANY || (connection.id >= floor && !connection.reused);
            // A connection that was never used is not "ready" before its driver has run once.
            let alive =
                !connection.sender.is_closed() && (!connection.reused || connection.sender.is_ready());
            fresh_enough && alive
        })?;
        self.lent += 1;
        Some(Stream::Http1(self.idle_http1.remove(index).connection))
    }

    /// Books a stream as returned; gives back what is of no further use.
    pub(super) fn put_back(&mut self, stream: Stream, used: bool) -> Option<Stream> {
        self.lent -= 1;
        match stream {
            Stream::Http2 { id, .. } => {
                if let Some(connection) = self.http2.iter_mut().find(|connection| connection.id == id) {
                    connection.in_flight -= 1;
                    if connection.in_flight == 0 {
                        connection.idle_since = Instant::now();
                    }
                }
                Some(stream)
            }
            Stream::Http1(connection) if !used => {
                self.idle_http1.push(IdleHttp1 { connection, since: Instant::now() });
                None
            }
            Stream::Http1(_) => Some(stream),
        }
    }

    /// Discards the idle connections that `since` picks by the moment they became idle.
    pub(super) fn discard_idle(&mut self, since: impl Fn(Instant) -> bool) {
        self.discarded.http1.extend(self.idle_http1.extract_if(.., |idle| since(idle.since)));
        self.discarded.http2.extend(
            self.http2.extract_if(.., |connection| connection.is_idle() && since(connection.idle_since)),
        );
    }

    /// Discards the HTTP/1.1 connection that has idled longest.
    pub(super) fn discard_oldest_http1(&mut self) {
        if !self.idle_http1.is_empty() {
            self.discarded.http1.push(self.idle_http1.remove(0));
        }
    }

    /// Discards an idle HTTP/1.1 connection.
    pub(super) fn discard_http1(&mut self, id: u64) {
        self.discarded.http1.extend(self.idle_http1.extract_if(.., |idle| idle.connection.id == id));
    }

    /// Discards an HTTP/2 connection: nobody sends on it any more. Whether its SETTINGS were still to come.
    pub(super) fn discard_http2(&mut self, id: u64) -> Option<bool> {
        let index = self.http2.iter().position(|connection| connection.id == id)?;
        let connection = self.http2.remove(index);
        let unsettled = connection.settling.is_some();
        self.settling -= usize::from(unsettled);
        self.discarded.http2.push(connection);
        Some(unsettled)
    }

    /// Discards every HTTP/2 connection whose SETTINGS are here.
    pub(super) fn discard_settled_http2(&mut self) {
        self.discarded.http2.extend(self.http2.extract_if(.., |connection| connection.settling.is_none()));
    }

    pub(super) fn idle_http1_moments(&self) -> impl Iterator<Item = Instant> {
        self.idle_http1.iter().map(|idle| idle.since)
    }

    pub(super) fn idle_http2_moments(&self) -> impl Iterator<Item = Instant> {
        self.http2.iter().filter(|connection| connection.is_idle()).map(|connection| connection.idle_since)
    }

    /// Whether there is a connection that may come to idle in these books.
    pub(super) fn has_connections(&self) -> bool {
        !(self.http2.is_empty() && self.idle_http1.is_empty())
    }

    /// Whether no further connection may be opened.
    pub(super) fn is_full(&self, config: &PoolConfig) -> bool {
        // A target that allows no streams at all is not going to be helped by more connections.
        let barred = self.http2.last().is_some_and(|newest| newest.limit == 0);
        barred || self.open + self.dialing >= config.max_connections
    }

    /// How many waiters the connections on their way will serve.
    pub(super) fn provided(&self) -> usize {
        let opening = (self.dialing + self.settling).saturating_mul(self.streams_per_dial());
        opening.saturating_add(self.returning)
    }

    pub(super) fn streams_per_dial(&self) -> usize {
        match self.protocol {
            Some(Protocol::Http2) => self.expected_streams,
            Some(Protocol::Http1) => 1,
            // One dial tells; everybody waits for it.
            None => usize::MAX,
        }
    }

    /// Where in the queue `ticket` stands.
    pub(super) fn place_of(&self, ticket: u64) -> Option<usize> {
        self.waiters.binary_search_by_key(&ticket, |waiter| waiter.ticket).ok()
    }

    /// Whether all HTTP/2 connections, and there are some, will be full soon.
    pub(super) fn is_nearly_full(&self) -> bool {
        !self.http2.is_empty() && self.http2.iter().all(Http2::is_nearly_full)
    }
}

impl Http2 {
    fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.settling.is_none()
    }

    fn is_nearly_full(&self) -> bool {
        let headroom = self.limit / 10;
        headroom > 0 && self.in_flight + headroom > self.limit
    }
}
