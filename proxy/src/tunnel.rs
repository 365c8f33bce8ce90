//! Moves bytes between two streams until both directions have ended.
//!
//! Each direction ends on its own: the end of one stream is passed on as a half-close and the other direction goes on,
//! so that a client that has said everything still gets its answer, and a slow reader gets all of it. Once one
//! direction is over, the other may pause for a bounded time only, or half-dead tunnels would pile up.
//!
//! It must never drop a byte that was read from one side while the other can still take it.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// Bytes per read: two full TLS records, and little enough to stay in a core's own cache between read and write.
const CHUNK: usize = 32 * 1024;

/// Reads of one direction before the others on this thread get their turn.
const READS_PER_POLL: usize = 32;

thread_local! {
    /// One buffer per thread serves all tunnels, since bytes only stay in it while a poll lasts. An idle tunnel thus
    /// holds no buffer at all, and a stalled one only what its reader has not taken yet.
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// How many bytes went each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) to_target: u64,
    pub(crate) to_client: u64,
}

/// Runs the tunnel. `grace` is how long one direction may stay without progress once the other has ended.
///
/// Both streams are still open for shutdown when it returns; the caller drops them.
pub(crate) async fn run<C, T>(client: &mut C, target: &mut T, grace: Duration) -> Moved
where
    C: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut to_target = Direction::default();
    let mut to_client = Direction::default();
    let mut patience = Patience::default();
    poll_fn(|cx| {
        let before = (to_target.moved, to_client.moved);
        let upward = to_target.poll(cx, client, target);
        let downward = to_client.poll(cx, target, client);
        if upward.is_ready() && downward.is_ready() {
            return Poll::Ready(());
        }
        if !to_target.is_over() && !to_client.is_over() {
            return Poll::Pending;
        }
        patience.poll(cx, grace, before != (to_target.moved, to_client.moved))
    })
    .await;
    Moved { to_target: to_target.moved, to_client: to_client.moved }
}

/// Runs out when nothing has moved for a while.
#[derive(Default)]
struct Patience {
    last_progress: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn poll(&mut self, cx: &mut Context<'_>, grace: Duration, progress: bool) -> Poll<()> {
        let now = Instant::now();
        if progress {
            self.last_progress = Some(now);
        }
        let deadline = *self.last_progress.get_or_insert(now) + grace;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            // Moving the timer on every byte would cost more than finding out late.
            timer.as_mut().reset(deadline);
        }
    }
}

/// One direction: what has been read and not yet written, and how far along it is.
#[derive(Default)]
struct Direction {
    unwritten: Vec<u8>,
    written: usize,
    unflushed: bool,
    moved: u64,
    state: State,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Bytes flow.
    #[default]
    Copying,
    /// The source has ended; its end is being passed on.
    Closing,
    /// Nobody takes the bytes any more. They are still read, since closing a socket over unread bytes resets it,
    /// and a reset throws away what is on its way in the other direction.
    Draining,
    /// Nothing more will come.
    Done,
}

impl Direction {
    fn is_over(&self) -> bool {
        matches!(self.state, State::Done | State::Draining)
    }

    /// Ready when nothing more will come of this direction.
    fn poll<S, D>(&mut self, cx: &mut Context<'_>, source: &mut S, sink: &mut D) -> Poll<()>
    where
        S: AsyncRead + Unpin,
        D: AsyncWrite + Unpin,
    {
        loop {
            match self.state {
                State::Copying => ready!(self.poll_copy(cx, source, sink)),
                State::Closing => {
                    // Whoever cannot be told any more does not need to be.
                    let _gone = ready!(Pin::new(&mut *sink).poll_shutdown(cx));
                    self.state = State::Done;
                }
                State::Draining => match ready!(poll_read(cx, source, |_, _| ())) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => self.state = State::Done,
                },
                State::Done => return Poll::Ready(()),
            }
        }
    }

    /// Copies until the state changes.
    fn poll_copy<S, D>(&mut self, cx: &mut Context<'_>, source: &mut S, sink: &mut D) -> Poll<()>
    where
        S: AsyncRead + Unpin,
        D: AsyncWrite + Unpin,
    {
        for _ in 0..READS_PER_POLL {
            ready!(self.poll_write_rest(cx, sink));
            if self.state != State::Copying {
                return Poll::Ready(());
            }
            let read = poll_read(cx, source, |cx, bytes| self.write_or_keep(cx, sink, bytes));
            match read {
                // A source that breaks has ended like any other, as far as this direction goes. The other one will find
                // out by itself: what it has for this stream cannot be written.
                Poll::Ready(Ok(0) | Err(_)) => self.state = State::Closing,
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => {
                    if self.unflushed {
                        match Pin::new(&mut *sink).poll_flush(cx) {
                            Poll::Ready(Ok(())) => self.unflushed = false,
                            Poll::Ready(Err(_)) => {
                                self.state = State::Draining;
                                return Poll::Ready(());
                            }
                            Poll::Pending => {}
                        }
                    }
                    return Poll::Pending;
                }
            }
            if self.state != State::Copying {
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes `bytes` as far as the sink takes them now and keeps the rest.
    fn write_or_keep<D: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, sink: &mut D, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match Pin::new(&mut *sink).poll_write(cx, bytes) {
                Poll::Ready(Ok(count @ 1..)) => {
                    bytes = bytes.get(count..).unwrap_or_default();
                    self.note_written(count);
                }
                Poll::Ready(_) => {
                    self.state = State::Draining;
                    return;
                }
                Poll::Pending => {
                    self.unwritten.extend_from_slice(bytes);
                    return;
                }
            }
        }
    }

    /// Ready when nothing that was read is left to be written, or can be.
    fn poll_write_rest<D: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, sink: &mut D) -> Poll<()> {
        while let Some(rest @ [_, ..]) = self.unwritten.get(self.written..) {
            match ready!(Pin::new(&mut *sink).poll_write(cx, rest)) {
                Ok(count @ 1..) => {
                    self.written += count;
                    self.note_written(count);
                }
                _ => {
                    self.state = State::Draining;
                    break;
                }
            }
        }
        // Gives the memory back: most tunnels stall once and then idle for hours.
        self.unwritten = Vec::new();
        self.written = 0;
        Poll::Ready(())
    }

    fn note_written(&mut self, count: usize) {
        self.unflushed = true;
        self.moved = self.moved.saturating_add(count as u64);
    }
}

/// Reads once and shows the bytes to `take`.
fn poll_read<S: AsyncRead + Unpin>(
    cx: &mut Context<'_>,
    source: &mut S,
    take: impl FnOnce(&mut Context<'_>, &[u8]),
) -> Poll<io::Result<usize>> {
    // Taken, not borrowed: a stream that itself runs a tunnel inside its poll finds none and makes its own.
    let mut scratch = SCRATCH.take().unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice());
    let mut buffer = ReadBuf::new(&mut scratch);
    let read = Pin::new(source).poll_read(cx, &mut buffer).map_ok(|()| {
        let bytes = buffer.filled();
        take(cx, bytes);
        bytes.len()
    });
    SCRATCH.set(Some(scratch));
    read
}

#[cfg(test)]
mod tests;
