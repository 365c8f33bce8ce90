//! What clients that mean harm, or do not know better, cannot do.

use std::{sync::Arc, time::Duration};

use ::http::{Request, Response};
use bytes::Bytes;
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
};
use upgrade_aware_proxy::ResponseBody;

use super::support::{Running, get, hello, soon, stream, text};
use crate::server::{Connection, Limits, LongRunning};

const SHORT: Duration = Duration::from_millis(100);

fn ended<T>(read: &std::io::Result<T>) -> bool
where
    T: PartialEq<usize>,
{
    read.as_ref().map_or(true, |read| *read == 0)
}

#[tokio::test]
async fn a_client_that_never_begins_tls_is_dropped() {
    let server = Running::start(Limits { tls_handshake: SHORT, ..Limits::default() }, hello).await;
    let mut silent = server.tcp().await;
    let read = soon("the end", silent.read(&mut [0; 8])).await;
    assert!(ended(&read), "{read:?}");
}

#[tokio::test]
async fn a_client_that_is_silent_after_tls_is_dropped() {
    let server = Running::start(Limits { request_head: SHORT, ..Limits::default() }, hello).await;
    for alpn in ["http/1.1", "h2"] {
        let mut silent = server.tls(&[alpn]).await;
        let mut received = Vec::new();
        // HTTP/2 servers speak first; what matters is the end.
        let _ = soon("the end", silent.read_to_end(&mut received)).await;
        assert!(alpn == "h2" || received.is_empty(), "{received:?}");
    }
}

#[tokio::test]
async fn a_silent_client_holds_nobody_up() {
    let server = Running::start(Limits::default(), hello).await;
    let _without_tls = server.tcp().await;
    let _without_request = server.tls(&["http/1.1"]).await;
    assert_eq!(text(server.http1().await.sender.send_request(get("/")).await.unwrap()).await, "hello");
}

#[tokio::test]
async fn a_head_that_dribbles_in_is_dropped_also_after_a_good_request() {
    let server = Running::start(Limits { request_head: SHORT * 10, ..Limits::default() }, hello).await;
    let mut slow = server.tls(&["http/1.1"]).await;
    slow.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        answer.push(slow.read_u8().await.unwrap());
    }
    let (mut reader, mut writer) = tokio::io::split(slow);
    let dribble = tokio::spawn(async move {
        writer.write_all(b"GET / HTTP/1.1\r\n").await?;
        loop {
            writer.write_all(b"X-Slow: loris\r\n").await?;
            writer.flush().await?;
            tokio::time::sleep(SHORT / 10).await;
        }
        #[expect(unreachable_code, reason = "gives the task its type")]
        std::io::Result::Ok(())
    });
    let read = soon("the end", reader.read(&mut [0; 8])).await;
    assert!(ended(&read), "{read:?}");
    dribble.abort();
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_order() {
    let server = Running::start(Limits { idle: SHORT, ..Limits::default() }, hello).await;
    let mut http1 = server.http1().await;
    assert_eq!(text(http1.sender.send_request(get("/")).await.unwrap()).await, "hello");
    soon("the end", http1.connection).await.unwrap().unwrap();
    let mut http2 = server.http2().await;
    assert_eq!(text(http2.sender.send_request(get("/")).await.unwrap()).await, "hello");
    soon("the end", http2.connection).await.unwrap().unwrap();
}

#[tokio::test]
async fn clients_past_the_limit_wait_for_a_place() {
    let server = Running::start(Limits { max_connections: 1, ..Limits::default() }, hello).await;
    let mut first = server.http1().await;
    assert_eq!(text(first.sender.send_request(get("/")).await.unwrap()).await, "hello");
    let (first, second) = (first, server.http1());
    tokio::pin!(second);
    assert!(tokio::time::timeout(SHORT, second.as_mut()).await.is_err(), "there was no place");
    drop(first);
    let mut second = soon("a place", second).await;
    assert_eq!(text(second.sender.send_request(get("/")).await.unwrap()).await, "hello");
}

/// Answers with an endless body, of which the test gets the sending end.
fn endless(
    streams: mpsc::UnboundedSender<mpsc::Sender<Bytes>>,
) -> impl Fn(Request<Incoming>, Arc<Connection>) -> std::future::Ready<Response<ResponseBody>> {
    move |request, _| {
        let (sender, body) = stream();
        streams.send(sender).unwrap();
        let mut response = Response::new(body);
        if request.uri().path() == "/watch" {
            response.extensions_mut().insert(LongRunning);
        }
        std::future::ready(response)
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped_unless_the_answer_may_pause() {
    let (streams, mut started) = mpsc::unbounded_channel();
    let limits = Limits { write_stall: SHORT, ..Limits::default() };
    let server = Running::start(limits, endless(streams)).await;

    let mut paused = server.http1().await;
    let watch = paused.sender.send_request(get("/watch")).await.unwrap();
    let events = started.recv().await.unwrap();
    let mut stalled = server.http1().await;
    let list = stalled.sender.send_request(get("/list")).await.unwrap();
    let items = started.recv().await.unwrap();

    let chunk = Bytes::from(vec![0; 256 << 10]);
    let feed = |sender: mpsc::Sender<Bytes>, chunk: Bytes| async move {
        while sender.send(chunk.clone()).await.is_ok() {}
    };
    let watching = tokio::spawn(feed(events, chunk.clone()));
    soon("the end of the list", feed(items, chunk)).await;
    assert!(!watching.is_finished(), "a paused watch was dropped");
    watching.abort();
    drop((watch, list));
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
/// `:method GET`, `:scheme https`, `:path /` of HPACK's static table.
const SMALLEST_REQUEST: [u8; 3] = [0x82, 0x87, 0x84];

async fn preface(server: &Running) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let mut stream = server.tls(&["h2"]).await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream
}

/// Sends `frames` until the server has had enough; how many bytes it took, at most `at_most`.
async fn flood(
    stream: tokio_rustls::client::TlsStream<tokio::net::TcpStream>,
    mut frames: impl FnMut() -> Vec<u8>,
    at_most: usize,
) -> usize {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let closed = tokio::spawn(async move {
        let mut sink = vec![0; 16 << 10];
        while reader.read(&mut sink).await.is_ok_and(|read| read > 0) {}
    });
    let mut sent = 0;
    while sent < at_most && !closed.is_finished() {
        let bytes = frames();
        if soon("the server's decision", writer.write_all(&bytes)).await.is_err() {
            break;
        }
        sent += bytes.len();
    }
    soon("the end of the connection", closed).await.unwrap();
    sent
}

#[tokio::test]
async fn an_http2_client_that_gives_no_window_is_dropped() {
    // A short answer is enough to hold a place for ever, and asking for health needs no credential.
    let server = Running::start(Limits { write_stall: SHORT, ..Limits::default() }, hello).await;
    let mut stream = server.tls(&["h2"]).await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    // SETTINGS_INITIAL_WINDOW_SIZE = 0
    stream.write_all(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await.unwrap();
    stream.write_all(&frame(HEADERS, END_HEADERS | 1, 1, &SMALLEST_REQUEST)).await.unwrap();
    let mut received = Vec::new();
    let _ = soon("the end", stream.read_to_end(&mut received)).await;
}

#[tokio::test]
async fn endless_continuation_frames_end_the_connection() {
    let server = Running::start(Limits::default(), hello).await;
    let mut neighbour = server.http2().await;
    let mut stream = preface(&server).await;
    stream.write_all(&frame(HEADERS, 0, 1, &SMALLEST_REQUEST)).await.unwrap();
    // Literal header fields without indexing, so that nothing is cut short by HPACK's table.
    let field: Vec<u8> = [&[0x00, 1, b'x', 100][..], &[b'v'; 100]].concat();
    let payload = field.repeat(150);
    let sent = flood(stream, || frame(CONTINUATION, 0, 1, &payload), 64 << 20).await;
    assert!(sent < 16 << 20, "{sent} bytes of headers were taken");
    assert_eq!(text(neighbour.sender.send_request(get("/")).await.unwrap()).await, "hello");
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_end_the_connection() {
    async fn never(_: Request<Incoming>, _: Arc<Connection>) -> Response<ResponseBody> {
        std::future::pending().await
    }
    let server = Running::start(Limits::default(), never).await;
    let stream = preface(&server).await;
    let mut id = 1;
    let rapid = || {
        let mut bytes = Vec::new();
        for _ in 0..200 {
            bytes.extend(frame(HEADERS, END_HEADERS | 1, id, &SMALLEST_REQUEST));
            bytes.extend(frame(RST_STREAM, 0, id, &8u32.to_be_bytes()));
            id += 2;
        }
        bytes
    };
    let sent = flood(stream, rapid, 64 << 20).await;
    assert!(sent < 32 << 20, "{sent} bytes of resets were taken");
}
