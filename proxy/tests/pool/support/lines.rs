//! A member whose HTTP/1.1 answers are written by the test.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::patiently;

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

pub(crate) struct RawMember {
    listener: TcpListener,
}

impl RawMember {
    pub(crate) async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub(crate) async fn accept(&self) -> Raw {
        Raw { io: patiently(self.listener.accept()).await.unwrap().0, read: Vec::new() }
    }

    /// Whether a further connection is waiting already.
    pub(crate) async fn has_been_dialed_again(&self) -> bool {
        futures_util::poll!(std::pin::pin!(self.listener.accept())).is_ready()
    }
}

pub(crate) struct Raw {
    io: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    /// The next request head, byte for byte, with its final empty line.
    pub(crate) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Everything up to and with `end`.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        patiently(async {
            loop {
                let text = String::from_utf8_lossy(&self.read).into_owned();
                if let Some(at) = text.find(end) {
                    let rest = self.read.split_off(at + end.len());
                    return String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap();
                }
                let read = self.io.read_buf(&mut self.read).await.unwrap();
                assert_ne!(read, 0, "closed after {text:?}");
            }
        })
        .await
    }

    pub(crate) async fn write(&mut self, text: &str) {
        self.io.write_all(text.as_bytes()).await.unwrap();
    }

    /// Waits for the client to close the connection.
    pub(crate) async fn closed(&mut self) {
        patiently(async {
            loop {
                match self.io.read_buf(&mut self.read).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
            }
        })
        .await;
    }
}
