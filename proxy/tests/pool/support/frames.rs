//! A member whose HTTP/2 frames are written by the test, one by one.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::patiently;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const MAX_CONCURRENT_STREAMS: u16 = 3;

pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

pub(crate) struct ScriptedMember {
    listener: TcpListener,
}

/// A frame of the client that a script may care about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A request head.
    Request {
        stream: u32,
        end: bool,
    },
    Data {
        stream: u32,
        bytes: Vec<u8>,
        end: bool,
    },
    Reset {
        stream: u32,
        code: u32,
    },
    Ping,
    GoAway,
    /// The end of the connection.
    Closed,
}

impl ScriptedMember {
    pub(crate) async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The next connection, without a word said.
    pub(crate) async fn accept_silently(&self) -> Scripted {
        let (io, _) = patiently(self.listener.accept()).await.unwrap();
        io.set_nodelay(true).unwrap();
        let mut scripted = Scripted { io };
        let mut preface = [0; 24];
        patiently(scripted.io.read_exact(&mut preface)).await.unwrap();
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        scripted
    }

    /// The next connection, with SETTINGS sent.
    pub(crate) async fn accept(&self, max_streams: u32) -> Scripted {
        let mut scripted = self.accept_silently().await;
        scripted.settings(max_streams).await;
        scripted
    }
}

pub(crate) struct Scripted {
    io: TcpStream,
}

impl Scripted {
    pub(crate) async fn settings(&mut self, max_streams: u32) {
        let mut payload = MAX_CONCURRENT_STREAMS.to_be_bytes().to_vec();
        payload.extend(max_streams.to_be_bytes());
        self.write(SETTINGS, 0, 0, &payload).await;
    }

    /// `:status: 200`.
    pub(crate) async fn head(&mut self, stream: u32) {
        self.write(HEADERS, END_HEADERS, stream, &[0x88]).await;
    }

    /// `:status: 200` and no body.
    pub(crate) async fn answer(&mut self, stream: u32) {
        self.write(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88]).await;
    }

    pub(crate) async fn data(&mut self, stream: u32, bytes: &[u8], end: bool) {
        self.write(DATA, if end { END_STREAM } else { 0 }, stream, bytes).await;
    }

    pub(crate) async fn reset(&mut self, stream: u32, code: u32) {
        self.write(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }

    pub(crate) async fn go_away(&mut self, last_stream: u32, code: u32) {
        let mut payload = last_stream.to_be_bytes().to_vec();
        payload.extend(code.to_be_bytes());
        self.write(GOAWAY, 0, 0, &payload).await;
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.io.write_all(&frame).await.unwrap();
    }

    /// The next frame of interest; answers SETTINGS, skips what only moves windows.
    pub(crate) async fn next(&mut self) -> Seen {
        patiently(self.next_unhurried()).await
    }

    pub(crate) async fn next_unhurried(&mut self) -> Seen {
        loop {
            let mut head = [0; 9];
            if self.io.read_exact(&mut head).await.is_err() {
                return Seen::Closed;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; length as usize];
            self.io.read_exact(&mut payload).await.unwrap();
            let end = flags & END_STREAM != 0;
            match kind {
                SETTINGS if flags & ACK == 0 => self.write(SETTINGS, ACK, 0, &[]).await,
                SETTINGS | WINDOW_UPDATE => {}
                PING if flags & ACK == 0 => return Seen::Ping,
                HEADERS => return Seen::Request { stream, end },
                DATA => return Seen::Data { stream, bytes: payload, end },
                RST_STREAM => {
                    return Seen::Reset { stream, code: u32::from_be_bytes(payload.try_into().unwrap()) };
                }
                GOAWAY => return Seen::GoAway,
                other => panic!("unexpected frame of type {other}"),
            }
        }
    }

    /// The stream of the next request.
    pub(crate) async fn request(&mut self) -> u32 {
        match self.next().await {
            Seen::Request { stream, .. } => stream,
            other => panic!("expected a request, got {other:?}"),
        }
    }
}
