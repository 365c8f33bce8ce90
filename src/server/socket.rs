//! The TCP socket under a connection: reports what moves, and holds the connection's place.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::activity::Activity;

/// A client that vanished without a word is noticed after about two minutes, also on tunnels and quiet watches.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Small writes go out at once; dead peers are found.
pub(super) fn configure(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// What a socket holds for as long as it is open, through an upgrade too.
pub(super) struct Held {
    _slot: OwnedSemaphorePermit,
    _open: TaskTrackerToken,
}

impl Held {
    pub(super) fn new(slot: OwnedSemaphorePermit, open: TaskTrackerToken) -> Self {
        Self { _slot: slot, _open: open }
    }
}

/// A TCP stream that reports to an [`Activity`] once it has one. Lies below TLS, so that "written" means taken by
/// the system.
pub(super) struct Socket {
    stream: TcpStream,
    activity: Arc<OnceLock<Arc<Activity>>>,
    _held: Held,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, held: Held) -> Self {
        Self { stream, activity: Arc::default(), _held: held }
    }

    /// Where to put the activity when the handshake is done and the stream lies inside TLS.
    pub(super) fn activity(&self) -> Arc<OnceLock<Arc<Activity>>> {
        Arc::clone(&self.activity)
    }

    fn note_write(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Some(activity) = self.activity.get() {
            match outcome {
                Poll::Pending => activity.is_blocked(),
                Poll::Ready(_) => activity.has_written(),
            }
        }
        outcome
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before
            && let Some(activity) = self.activity.get()
        {
            activity.has_read();
        }
        outcome
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note_write(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note_write(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
