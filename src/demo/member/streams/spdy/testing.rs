//! The client's side of SPDY/3.1, for tests.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};

use super::{
    Headers,
    frame::{Frame, Reader, Writer},
};

/// A client on one connection.
pub(in super::super) struct Client<T> {
    reader: Reader<ReadHalf<T>>,
    writer: Writer,
    io: WriteHalf<T>,
    next: u32,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Client<T> {
    pub(in super::super) fn new(io: T) -> Self {
        let (read, write) = tokio::io::split(io);
        Self { reader: Reader::new(read), writer: Writer::new().unwrap(), io: write, next: 1 }
    }

    /// Opens a stream with `headers`; its id.
    pub(in super::super) async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.write(&Frame::SynStream { id, headers: Headers(headers), fin: false }).await;
        id
    }

    pub(in super::super) async fn send(&mut self, id: u32, payload: impl Into<Bytes>, fin: bool) {
        self.write(&Frame::Data { id, fin, payload: payload.into() }).await;
    }

    pub(in super::super) async fn ping(&mut self, id: u32) {
        self.write(&Frame::Ping(id)).await;
    }

    async fn write(&mut self, frame: &Frame) {
        let bytes = self.writer.encode(frame).unwrap();
        self.io.write_all(&bytes).await.unwrap();
        self.io.flush().await.unwrap();
    }

    /// The next thing that the server says; `None` when it hangs up.
    pub(in super::super) async fn next(&mut self) -> Option<Said> {
        loop {
            return Some(match self.reader.next().await.ok()?? {
                Frame::SynReply { id, .. } => Said::Accepted(id),
                Frame::RstStream { id, .. } => Said::Refused(id),
                Frame::Data { id, fin, payload } => Said::Data(id, payload, fin),
                Frame::Ping(id) if id % 2 == 1 => Said::Pong(id),
                _ => continue,
            });
        }
    }
}

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Said {
    Accepted(u32),
    Refused(u32),
    Data(u32, Bytes, bool),
    Pong(u32),
}
