//! The client's body on its way into hyper, in a form that can be taken back.
//!
//! hyper swallows a request's body together with its head. A request that was surely not processed may be sent once
//! more, but only with the very same body, so the body stays here and hyper gets an [`Outgoing`] that reads through.
//! Whoever sends the request can tell whether a frame was taken, when the last one was, and why the body failed.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::lease::Lease;
use crate::{BoxError, RequestBody};

/// The sender's handle on a body that is not empty.
pub(super) struct Upload(Mutex<State>);

struct State {
    body: RequestBody,
    /// The attempt that may read. An older [`Outgoing`] may linger inside hyper; it gets an error.
    attempt: u32,
    /// Whether data or trailers have left the body, or it failed. Such a body cannot be sent again.
    touched: bool,
    /// Whether the body was read to its end.
    ended: bool,
    /// Whether hyper has let go of the body, at its end or before.
    released: bool,
    moved_at: Instant,
    error: Option<String>,
    waker: Option<Waker>,
    /// A stream whose response is over while the upload goes on: the peer still counts it, so the pool must too.
    held: Option<Lease>,
}

impl Upload {
    /// `None` for an empty body, which needs no handle: it can be sent any number of times.
    pub(super) fn new(body: RequestBody) -> Option<Arc<Self>> {
        if body.is_end_stream() {
            return None;
        }
        Some(Arc::new(Self(Mutex::new(State {
            body,
            attempt: 0,
            touched: false,
            ended: false,
            released: false,
            moved_at: Instant::now(),
            error: None,
            waker: None,
            held: None,
        }))))
    }

    /// The body for a further attempt. Every earlier one is cut off.
    pub(super) fn outgoing(this: Option<&Arc<Self>>) -> Outgoing {
        Outgoing(this.map(|upload| {
            let mut state = upload.lock();
            state.attempt += 1;
            state.released = false;
            state.moved_at = Instant::now();
            Attempt { upload: Arc::clone(upload), number: state.attempt }
        }))
    }

    /// Whether the body can be sent from its beginning.
    pub(super) fn is_untouched(&self) -> bool {
        !self.lock().touched
    }

    /// When a frame last left the body, or when it ended.
    pub(super) fn moved_at(&self) -> Instant {
        self.lock().moved_at
    }

    /// Why the client's body failed, if it did.
    pub(super) fn error(&self) -> Option<String> {
        self.lock().error.clone()
    }

    /// Makes hyper stop sending: nobody waits for the answer any more.
    pub(super) fn cancel(&self) {
        let mut state = self.lock();
        state.attempt += 1;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether hyper is done with the body.
    pub(super) fn is_over(&self) -> bool {
        self.lock().is_over()
    }

    /// Keeps `lease` until hyper is done with the body.
    pub(super) fn hold(&self, lease: Lease) {
        let mut state = self.lock();
        if !state.is_over() {
            state.held = Some(lease);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_over(&self) -> bool {
        self.ended || self.released
    }
}

/// What hyper sends.
pub(super) struct Outgoing(Option<Attempt>);

struct Attempt {
    upload: Arc<Upload>,
    number: u32,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(attempt) = &self.0 else { return Poll::Ready(None) };
        let mut state = attempt.upload.lock();
        if state.attempt != attempt.number {
            return Poll::Ready(Some(Err("the request was given up".into())));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(frame) = Pin::new(&mut state.body).poll_frame(cx) else {
            match &mut state.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => state.waker = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        };
        state.moved_at = Instant::now();
        match &frame {
            Some(Ok(_)) => {
                state.touched = true;
                state.ended = state.body.is_end_stream();
            }
            Some(Err(error)) => {
                state.touched = true;
                state.error = Some(error.to_string());
            }
            None => state.ended = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|attempt| {
            let state = attempt.upload.lock();
            state.ended || state.body.is_end_stream()
        })
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            None => SizeHint::with_exact(0),
            Some(attempt) => attempt.upload.lock().body.size_hint(),
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut state = self.upload.lock();
        if state.attempt != self.number {
            return;
        }
        state.released = true;
        let held = state.held.take();
        // Giving a stream back takes the pool's lock; never while holding this one.
        drop(state);
        drop(held);
    }
}
