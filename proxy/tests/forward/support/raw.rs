//! Sockets without any HTTP library in between: what is written is what travels, what is read is what came.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::soon;

/// One end of a connection; everything read is also kept in `record`.
pub(crate) struct Socket {
    stream: TcpStream,
    unread: Vec<u8>,
    record: Arc<Mutex<Vec<u8>>>,
}

/// A response as it stood on the wire.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The first value of a header in the text of a head.
pub(crate) fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    headers(head, name).into_iter().next()
}

/// All values of a header in the text of a head.
pub(crate) fn headers<'h>(head: &'h str, name: &str) -> Vec<&'h str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}

/// A short HTTP/2 frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

impl Socket {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).await.unwrap())
    }

    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, unread: Vec::new(), record: Arc::default() }
    }

    pub(crate) fn record(&self) -> Arc<Mutex<Vec<u8>>> {
        Arc::clone(&self.record)
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// As `send`, for bytes that the other side may refuse.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Ends the sending direction only.
    pub(crate) async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Closes with a reset instead of an orderly end.
    pub(crate) fn reset(self) {
        #[expect(deprecated, reason = "it is the reset that is wanted, and zero linger does not block")]
        self.stream.set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }

    /// Reads more; false at the end of the stream or when it breaks.
    async fn fill(&mut self) -> bool {
        let before = self.unread.len();
        let read = self.stream.read_buf(&mut self.unread).await.unwrap_or(0);
        self.record.lock().unwrap().extend_from_slice(&self.unread[before..]);
        read > 0
    }

    /// The next head, up to and with its blank line; `None` if the stream ends before.
    pub(crate) async fn head(&mut self) -> Option<String> {
        soon(async {
            loop {
                if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                    let head = self.unread.drain(..end + 4).collect();
                    return Some(String::from_utf8(head).expect("heads in tests are text"));
                }
                if !self.fill().await {
                    return None;
                }
            }
        })
        .await
    }

    /// Exactly `count` bytes, or fewer at the end of the stream.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        soon(async {
            while self.unread.len() < count && self.fill().await {}
            self.unread.drain(..count.min(self.unread.len())).collect()
        })
        .await
    }

    /// Everything up to the end of the stream.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        soon(async { while self.fill().await {} }).await;
        std::mem::take(&mut self.unread)
    }

    /// The body of a message with this head. `None` if it breaks off.
    pub(crate) async fn body(&mut self, head: &str) -> Option<Vec<u8>> {
        if header(head, "transfer-encoding").is_some_and(|coding| coding.ends_with("chunked")) {
            return self.chunked().await;
        }
        let Some(length) = header(head, "content-length") else {
            return Some(Vec::new());
        };
        let length = length.parse().unwrap();
        let body = self.bytes(length).await;
        (body.len() == length).then_some(body)
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        while !line.ends_with("\r\n") {
            line.push(char::from(*self.bytes(1).await.first()?));
        }
        line.truncate(line.len() - 2);
        Some(line)
    }

    async fn chunked(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(&self.line().await?, 16).unwrap();
            if size == 0 {
                while !self.line().await?.is_empty() {}
                return Some(body);
            }
            let chunk = self.bytes(size + 2).await;
            body.extend_from_slice(chunk.strip_suffix(b"\r\n")?);
        }
    }

    /// The next response with its whole body.
    pub(crate) async fn answer(&mut self) -> Answer {
        let head = self.head().await.expect("an answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let has_body = !matches!(status, 101 | 204 | 304);
        let body = if has_body { self.body(&head).await.expect("a whole body") } else { Vec::new() };
        Answer { status, head, body }
    }

    /// Sends a request and reads the answer.
    pub(crate) async fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        self.send(request).await;
        self.answer().await
    }
}

/// The two directions of a socket, for talking and listening at once.
pub(crate) struct Reading<'s>(tokio::net::tcp::ReadHalf<'s>);

pub(crate) struct Writing<'s>(tokio::net::tcp::WriteHalf<'s>);

impl Socket {
    /// Only while nothing is buffered.
    pub(crate) fn split(&mut self) -> (Reading<'_>, Writing<'_>) {
        assert!(self.unread.is_empty());
        let (reading, writing) = self.stream.split();
        (Reading(reading), Writing(writing))
    }
}

impl Reading<'_> {
    pub(crate) async fn expect(&mut self, expected: &[u8]) {
        let mut got = vec![0; expected.len()];
        self.0.read_exact(&mut got).await.unwrap();
        assert!(got == expected, "the bytes differ");
    }
}

impl Writing<'_> {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }
}
