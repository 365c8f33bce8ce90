//! Bodies that a test feeds by hand.

use bytes::Bytes;
use futures_util::stream;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use tokio::sync::mpsc;
use upgrade_aware_proxy::BoxError;

pub(crate) type TestBody = UnsyncBoxBody<Bytes, BoxError>;

pub(crate) fn empty() -> TestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> TestBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// The hand that feeds a body; dropping it ends the body cleanly.
pub(crate) struct Feed(mpsc::Sender<Result<Frame<Bytes>, BoxError>>);

impl Feed {
    /// False when the reader is gone.
    pub(crate) async fn data(&self, bytes: impl Into<Bytes>) -> bool {
        self.0.send(Ok(Frame::data(bytes.into()))).await.is_ok()
    }

    pub(crate) async fn trailers(&self, trailers: HeaderMap) {
        let _gone = self.0.send(Ok(Frame::trailers(trailers))).await;
    }

    pub(crate) async fn break_off(self) {
        let _gone = self.0.send(Err("the source broke".into())).await;
    }

    /// Resolves when the body is dropped by its reader.
    pub(crate) async fn abandoned(&self) {
        self.0.closed().await;
    }
}

/// A body of unknown length that holds at most one frame in advance.
pub(crate) fn fed() -> (Feed, TestBody) {
    let (sender, mut receiver) = mpsc::channel(1);
    let frames = stream::poll_fn(move |cx| receiver.poll_recv(cx));
    (Feed(sender), StreamBody::new(frames).boxed_unsync())
}
