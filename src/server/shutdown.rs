//! How a server is told to stop.

use tokio_util::sync::CancellationToken;

/// Two steps down: first drain, then cut. Clones share their state; several servers can stop together.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    cut: CancellationToken,
}

impl Shutdown {
    /// Nothing has been said yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Finish what goes on and take on nothing new.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Drop everything now.
    pub fn cut(&self) {
        self.drain.cancel();
        self.cut.cancel();
    }

    /// Whether it is time to finish; then readiness checks should fail.
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Waits for [`drain`](Self::drain).
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Waits for [`cut`](Self::cut).
    pub async fn cutting(&self) {
        self.cut.cancelled().await;
    }

    /// Cancelled by [`drain`](Self::drain).
    pub fn drain_token(&self) -> &CancellationToken {
        &self.drain
    }

    /// Cancelled by [`cut`](Self::cut), at the end of the drain period at the latest. For tunnels and other streams
    /// that live in tasks of their own.
    pub fn cut_token(&self) -> &CancellationToken {
        &self.cut
    }
}
