//! Exec and attach over WebSocket: one channel byte in front of every message.
//!
//! Protocols `v5.channel.k8s.io`, `v4.channel.k8s.io` and `channel.k8s.io` (KEP-4006; k8s.io/client-go
//! tools/remotecommand). Messages come from anybody: a channel that does not exist is ignored, a message that is too
//! long ends the connection.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _, stream::SplitStream};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    pipe::CHUNK,
    session::{self, KILLED},
    shell::TerminalSize,
};

/// The longest message taken from a client, in bytes; kubectl sends 32 KiB at a time.
const LONGEST_MESSAGE: usize = 4 << 20;
/// How often the client's presence is tested, for sessions in which it says nothing.
pub(super) const PING_EVERY: Duration = Duration::from_secs(5);
/// How long a client has to answer our close frame.
pub(super) const FAREWELL: Duration = Duration::from_secs(5);

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Followed by a channel: that channel is closed. Since v5.
const CLOSE: u8 = 255;

/// Versions of the channel protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// `v5.channel.k8s.io`: as v4, and stdin can be closed.
    V5,
    /// `v4.channel.k8s.io`: the outcome is a `Status` in JSON.
    V4,
    /// `channel.k8s.io`: the outcome is text.
    V1,
}

impl Version {
    /// Names, best first.
    pub(super) const SERVED: [(&'static str, Self); 3] =
        [("v5.channel.k8s.io", Self::V5), ("v4.channel.k8s.io", Self::V4), ("channel.k8s.io", Self::V1)];
}

/// A WebSocket on a connection on which the handshake is done.
pub(super) async fn server<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> WebSocketStream<T> {
    let config = WebSocketConfig::default()
        .read_buffer_size(CHUNK)
        .write_buffer_size(0)
        .max_write_buffer_size(LONGEST_MESSAGE)
        .max_message_size(Some(LONGEST_MESSAGE))
        .max_frame_size(Some(LONGEST_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// Runs `request` for the client at the other end of `io`, until the command ends, the client leaves, or `killed`.
pub(super) async fn serve<T>(io: T, version: Version, request: session::Request, killed: CancellationToken)
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut sink, stream) = server(io).await.split();
    let streams = request.streams;
    let (client, command) = session::start(request);
    let session::Client { stdin, mut stdout, mut stderr, size } = client;

    let mut inbound = pin!(receive(stream, version, stdin, size));
    let command = async {
        Ok(tokio::select! {
            status = command => status,
            () = killed.cancelled() => KILLED,
        })
    };
    let outbound = async {
        // kube-apiserver opens with an empty message on the first open channel; clients wait for it.
        let first = if streams.stdout {
            STDOUT
        } else if streams.stderr {
            STDERR
        } else {
            ERROR
        };
        sink.send(message(first, &[])).await?;
        let mut ping = tokio::time::interval(PING_EVERY);
        let (mut out, mut err) = (true, true);
        while out || err {
            tokio::select! {
                chunk = stdout.recv(), if out => match chunk {
                    Some(chunk) => sink.send(message(STDOUT, &chunk)).await?,
                    None => out = false,
                },
                chunk = stderr.recv(), if err => match chunk {
                    Some(chunk) => sink.send(message(STDERR, &chunk)).await?,
                    None => err = false,
                },
                _ = ping.tick() => sink.send(Message::Ping(Bytes::new())).await?,
            }
        }
        Ok::<_, tokio_tungstenite::tungstenite::Error>(sink)
    };

    let worked = tokio::select! {
        worked = async { tokio::try_join!(command, outbound) } => worked,
        () = &mut inbound => return,
    };
    let Ok((status, mut sink)) = worked else { return };
    let outcome = match version {
        Version::V5 | Version::V4 => session::outcome(status).to_string(),
        Version::V1 if status == 0 => String::new(),
        Version::V1 => format!("command terminated with exit code {status}"),
    };
    let close = Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }));
    let farewell = async {
        if !outcome.is_empty() {
            sink.send(message(ERROR, outcome.as_bytes())).await?;
        }
        sink.send(close).await?;
        inbound.await;
        Ok::<_, tokio_tungstenite::tungstenite::Error>(())
    };
    // A client that went away meanwhile has nobody to tell.
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}

/// Takes what the client sends until it leaves.
async fn receive<T: AsyncRead + AsyncWrite + Unpin>(
    mut stream: SplitStream<WebSocketStream<T>>,
    version: Version,
    mut stdin: Option<mpsc::Sender<Bytes>>,
    size: Arc<TerminalSize>,
) {
    while let Some(Ok(message)) = stream.next().await {
        let mut payload = match message {
            Message::Binary(payload) => payload,
            Message::Text(text) => Bytes::from(text),
            // Pings are answered by the library.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            // The library answers it with the next read, which then ends.
            Message::Close(_) => continue,
        };
        if payload.is_empty() {
            continue;
        }
        match payload.split_to(1)[0] {
            STDIN => feed(&mut stdin, payload).await,
            RESIZE => resize(&size, &payload),
            CLOSE if version == Version::V5 && payload[..] == [STDIN] => stdin = None,
            _ => {}
        }
    }
}

/// Hands `bytes` to the command in pieces, waiting for it; what it does not want to read is thrown away.
pub(super) async fn feed(stdin: &mut Option<mpsc::Sender<Bytes>>, mut bytes: Bytes) {
    while let Some(sender) = stdin
        && !bytes.is_empty()
    {
        if sender.send(bytes.split_to(bytes.len().min(CHUNK))).await.is_err() {
            *stdin = None;
        }
    }
}

/// A terminal size as client-go writes it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Resize {
    width: u16,
    height: u16,
}

impl Resize {
    /// Makes it the size of the terminal.
    pub(super) fn apply(&self, size: &TerminalSize) {
        size.set(self.width, self.height);
    }
}

fn resize(size: &TerminalSize, payload: &[u8]) {
    if let Ok(resize) = serde_json::from_slice::<Resize>(payload) {
        resize.apply(size);
    }
}

fn message(channel: u8, payload: &[u8]) -> Message {
    let mut bytes = BytesMut::with_capacity(payload.len() + 1);
    bytes.put_u8(channel);
    bytes.extend_from_slice(payload);
    Message::Binary(bytes.freeze())
}
