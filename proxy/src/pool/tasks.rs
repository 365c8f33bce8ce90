//! The tasks of a pool: one per dial, and one that closes idle connections.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout},
};

use super::{
    connect::{self, OpenGuard, Opened},
    lending::Pool,
};
use crate::{DialError, DialStage};

/// Opens one connection and adds it to the pool. Nobody in particular owns a dial: whoever waits for a stream takes
/// it first, and if all of them have gone away the connection stays for the next one.
pub(super) async fn dial(pool: Arc<Pool>) {
    let pending = Pending(Some(pool));
    let Some(pool) = &pending.0 else { return };
    match connect::open(pool).await {
        Ok(opened) => {
            if let Some(pool) = pending.succeed() {
                add(pool, opened).await;
            }
        }
        Err(error) => pending.fail(&error),
    }
}

async fn add(pool: Arc<Pool>, opened: Opened) {
    let id = pool.opened();
    let guard = OpenGuard::new(&pool, id);
    match opened {
        Opened::Http1(sender, connection) => {
            pool.add_http1(connect::drive_http1(guard, sender, connection));
        }
        Opened::Http2(sender, parts) => {
            connect::drive_http2(guard, parts);
            let (settling, settled) = oneshot::channel();
            pool.add_http2(id, sender, settling);
            if timeout(pool.config.ping_timeout, settled).await.is_err() {
                pool.settling_timed_out(id);
            }
        }
    }
}

/// A dial under way. Were the dialer to panic, those who wait for it would still be told.
struct Pending(Option<Arc<Pool>>);

impl Pending {
    fn succeed(mut self) -> Option<Arc<Pool>> {
        self.0.take()
    }

    fn fail(mut self, error: &DialError) {
        if let Some(pool) = self.0.take() {
            pool.dial_failed(error);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(pool) = self.0.take() {
            pool.dial_failed(&DialError::failed(DialStage::Connect, "the dialer gave up without an error"));
        }
    }
}

/// Closes connections that idle, until there are none or the pool is gone. One timer for all of them instead of one
/// per request: it is set for the moment at which the first one may expire.
pub(super) async fn reap(pool: Weak<Pool>, idle_timeout: Duration) {
    let mut next = Instant::now() + idle_timeout;
    loop {
        sleep_until(next).await;
        let Some(pool) = pool.upgrade() else { return };
        match pool.reap(Instant::now()) {
            Some(at) => next = at,
            None => return,
        }
    }
}
