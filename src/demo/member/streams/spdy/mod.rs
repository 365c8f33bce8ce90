//! The server's side of SPDY/3.1, as far as Kubernetes still speaks it: streams with headers over one connection.
//!
//! kubectl up to 1.29 uses it for exec, attach and port-forward, later ones fall back to it, and all of them send it
//! inside WebSocket messages for port-forward. Like moby/spdystream, at the other end, it has no flow control:
//! a stream that is not read stops the connection. Nothing that a peer sends may panic or grow without bound.

mod frame;
mod headers;
#[cfg(test)]
pub(super) mod testing;

use std::{collections::HashMap, pin::pin};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
};

use super::{
    pipe::{CHUNK, DEPTH},
    websocket::{FAREWELL, PING_EVERY},
};
use frame::{Frame, Reader, Writer};
pub(super) use headers::Headers;

/// How many streams a peer may have open.
const MOST_STREAMS: usize = 256;

const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 3;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpdyError {
    /// The connection broke.
    #[error("SPDY connection: {0}")]
    Io(#[from] std::io::Error),
    /// Another protocol, or another version of this one.
    #[error("SPDY version {0} instead of 3")]
    Version(u16),
    /// A control frame that nobody sends with good intentions.
    #[error("SPDY control frame of {0} bytes")]
    TooLong(usize),
    /// A control frame that ends before its fields do.
    #[error("SPDY control frame is cut off")]
    CutOff,
    /// A header block that cannot be read or written.
    #[error("SPDY header block: {0}")]
    HeaderBlock(&'static str),
}

/// A stream that the peer opened.
pub(super) struct Stream {
    /// What it says of the stream.
    pub(super) headers: Headers,
    /// What it sends; ends with its FIN.
    pub(super) incoming: mpsc::Receiver<Bytes>,
    /// The way back.
    pub(super) outgoing: Outgoing,
}

/// Our half of a stream.
#[derive(Clone)]
pub(super) struct Outgoing {
    id: u32,
    frames: mpsc::Sender<Frame>,
}

/// The peer is gone.
#[derive(Debug, thiserror::Error)]
#[error("the peer is gone")]
pub(super) struct Gone;

impl Outgoing {
    /// Sends all of `bytes`.
    pub(super) async fn send(&self, mut bytes: Bytes) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let payload = bytes.split_to(bytes.len().min(CHUNK));
            self.frame(Frame::Data { id: self.id, fin: false, payload }).await?;
        }
        Ok(())
    }

    /// Ends our half.
    pub(super) async fn finish(&self) -> Result<(), Gone> {
        self.frame(Frame::Data { id: self.id, fin: true, payload: Bytes::new() }).await
    }

    /// Refuses the stream.
    pub(super) async fn refuse(&self) -> Result<(), Gone> {
        self.frame(Frame::RstStream { id: self.id, status: REFUSED_STREAM }).await
    }

    async fn frame(&self, frame: Frame) -> Result<(), Gone> {
        self.frames.send(frame).await.map_err(|_| Gone)
    }
}

/// Serves one connection: `handle` gets the peer's streams as they are opened. Returns when `handle` is done and
/// everything it sent is written, or when the peer is gone.
pub(super) async fn serve<T, F>(
    io: T,
    handle: impl FnOnce(mpsc::Receiver<Stream>) -> F,
) -> Result<(), SpdyError>
where
    T: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = ()>,
{
    let (mut read, write) = tokio::io::split(io);
    let (frames, written) = mpsc::channel(DEPTH);
    let (opened, streams) = mpsc::channel(DEPTH);
    let mut writing = pin!(write_frames(write, written));
    tokio::select! {
        () = handle(streams) => {}
        done = read_frames(&mut read, frames, opened) => return done,
        done = &mut writing => return done,
    }
    // All senders of frames are gone: what is queued is written and the connection closed on our side. The peer is
    // heard out meanwhile, because closing on unread bytes would reset the connection under what we sent.
    let hear_out = async {
        let _ = tokio::io::copy(&mut read, &mut tokio::io::sink()).await;
    };
    let farewell = async { tokio::join!(writing, hear_out).0 };
    tokio::time::timeout(FAREWELL, farewell).await.unwrap_or(Ok(()))
}

async fn write_frames<W: AsyncWrite + Unpin>(
    mut io: W,
    mut frames: mpsc::Receiver<Frame>,
) -> Result<(), SpdyError> {
    let mut writer = Writer::new()?;
    let mut ping = tokio::time::interval(PING_EVERY);
    ping.reset();
    // A server's pings have even ids.
    let mut ping_id = 0u32;
    loop {
        let frame = tokio::select! {
            frame = frames.recv() => frame,
            _ = ping.tick() => {
                ping_id = ping_id.wrapping_add(2);
                Some(Frame::Ping(ping_id))
            }
        };
        let Some(frame) = frame else { break };
        io.write_all(&writer.encode(&frame)?).await?;
        io.flush().await?;
    }
    Ok(io.shutdown().await?)
}

async fn read_frames<R: AsyncRead + Unpin>(
    io: R,
    frames: mpsc::Sender<Frame>,
    opened: mpsc::Sender<Stream>,
) -> Result<(), SpdyError> {
    let mut reader = Reader::new(io);
    // The streams whose peer has not sent FIN; `None` if nobody listens to it any more.
    let mut streams: HashMap<u32, Option<mpsc::Sender<Bytes>>> = HashMap::new();
    let mut last = 0;
    while let Some(frame) = reader.next().await? {
        let reply = match frame {
            Frame::SynStream { id, headers, fin } => {
                // A client's ids are odd and grow.
                let status = if id % 2 == 0 || id <= last {
                    Some(PROTOCOL_ERROR)
                } else if streams.len() >= MOST_STREAMS {
                    Some(REFUSED_STREAM)
                } else {
                    None
                };
                last = last.max(id);
                if let Some(status) = status {
                    Some(Frame::RstStream { id, status })
                } else {
                    let (sender, incoming) = mpsc::channel(DEPTH);
                    if !fin {
                        streams.insert(id, Some(sender));
                    }
                    let reply = Frame::SynReply { id, headers: Headers::default(), fin: false };
                    if frames.send(reply).await.is_err() {
                        return Ok(());
                    }
                    let outgoing = Outgoing { id, frames: frames.clone() };
                    if opened.send(Stream { headers, incoming, outgoing }).await.is_err() {
                        return Ok(());
                    }
                    None
                }
            }
            Frame::Data { id, fin, payload } => {
                if let Some(stream) = streams.get_mut(&id)
                    && !payload.is_empty()
                    && let Some(sender) = stream
                    && sender.send(payload).await.is_err()
                {
                    *stream = None;
                }
                if fin {
                    streams.remove(&id);
                }
                None
            }
            Frame::RstStream { id, .. } => {
                streams.remove(&id);
                None
            }
            // Odd ones are the peer's, to be sent back; even ones are answers to ours.
            Frame::Ping(id) if id % 2 == 1 => Some(Frame::Ping(id)),
            // A client says this when it is done with all of its streams.
            Frame::GoAway { .. } => return Ok(()),
            Frame::Ping(_) | Frame::SynReply { .. } | Frame::Other => None,
        };
        if let Some(reply) = reply
            && frames.send(reply).await.is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}
