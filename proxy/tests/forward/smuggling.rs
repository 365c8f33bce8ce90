//! Messages whose end is in doubt: nobody behind the proxy may read a second request into them.

use http::{Request, Response};
use http_body_util::BodyExt as _;

use crate::support::{
    Http,
    body::full,
    client::Client,
    front::{Front, proxy, target},
    member::{HyperMember, RawMember},
    raw::{frame, header, headers},
    soon,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Writes `request` to a front and reads all that comes back until it closes or one answer is complete.
async fn ask(request: &str) -> (u16, String) {
    let member = RawMember::answering(OK).await;
    let front = Front::of(target(member.dial())).await;
    let mut client = front.socket().await;
    let answer = client.ask(request).await;
    (answer.status, member.received())
}

#[tokio::test]
async fn ambiguous_framing_is_refused() {
    for framing in [
        "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "Content-Length: 5, 6\r\n\r\nhello",
        "Content-Length: +5\r\n\r\nhello",
        "Content-Length: 0x5\r\n\r\nhello",
        "Content-Length: -1\r\n\r\n",
        "Transfer-Encoding: gzip\r\n\r\n",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "X-Folded: a\r\n b\r\n\r\n",
        "X-Nul: a\0b\r\n\r\n",
        "X Space: a\r\n\r\n",
    ] {
        let (status, received) = ask(&format!("POST / HTTP/1.1\r\nHost: f\r\n{framing}")).await;
        assert_eq!(status, 400, "{framing}");
        assert_eq!(received, "", "{framing}");
    }
    let (status, received) =
        ask("POST / HTTP/1.0\r\nHost: f\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").await;
    assert_eq!((status, received.as_str()), (400, ""));
}

#[tokio::test]
async fn length_beside_chunks_is_not_forwarded_and_ends_the_connection() {
    for framing in
        ["Content-Length: 4\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 4"]
    {
        let member = RawMember::answering(OK).await;
        let front = Front::of(target(member.dial())).await;
        let mut client = front.socket().await;
        client
            .send(format!(
                "POST /a HTTP/1.1\r\nHost: f\r\n{framing}\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: f\r\n\r\n"
            ))
            .await;
        assert_eq!(client.answer().await.status, 200);
        assert_eq!(client.rest().await, b"", "nothing more is served on such a connection");
        let asked = member.received();
        assert_eq!(header(&asked, "content-length"), None, "{asked}");
        assert!(!asked.contains("smuggled"), "{asked}");
    }
}

#[tokio::test]
async fn chunk_tricks_do_not_reach_the_member() {
    for body in [
        "5;\n\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nx",
        "5\r\nhelloXX0\r\n\r\n",
    ] {
        let member = RawMember::scripted(|mut socket| async move {
            let head = socket.head().await.unwrap();
            assert_eq!(socket.body(&head).await, None, "the body breaks off");
        })
        .await;
        let front = Front::of(target(member.dial())).await;
        let mut client = front.socket().await;
        client.send(format!("POST / HTTP/1.1\r\nHost: f\r\nTransfer-Encoding: chunked\r\n\r\n{body}")).await;
        let answer = client.rest().await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{body}");
    }
}

#[tokio::test]
async fn equal_lengths_arrive_as_one() {
    let (status, received) =
        ask("POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!(status, 200);
    assert_eq!(headers(&received, "content-length"), ["2"]);
    assert!(received.ends_with("\r\n\r\nhi"), "{received}");
}

#[tokio::test]
async fn http2_length_that_lies_breaks_the_upload() {
    for (declared, sent) in [("3", "longer"), ("30", "shorter")] {
        let member = RawMember::scripted(|mut socket| async move {
            let head = socket.head().await.unwrap();
            if socket.body(&head).await.is_some() {
                socket.send(OK).await;
            }
            assert!(!String::from_utf8(socket.rest().await).unwrap().contains("ger"));
        })
        .await;
        let front = Front::start(Http::Two, proxy(), target(member.dial())).await;
        let mut client = Client::of(&front).await;
        let request = Request::post("/").header("content-length", declared).body(lying(sent)).unwrap();
        let answer = soon(client.send(request)).await;
        assert!(answer.is_err() || !answer.unwrap().status().is_success(), "{declared}");
    }
}

/// A body that does not tell its length, so that the declared one is sent.
fn lying(bytes: &'static str) -> crate::support::body::TestBody {
    let (feed, body) = crate::support::body::fed();
    tokio::spawn(async move { feed.data(bytes).await });
    body
}

#[tokio::test]
async fn http2_upload_to_an_http1_member_has_exactly_one_framing() {
    for (length, expected) in [(Some("5"), "content-length"), (None, "transfer-encoding")] {
        let member = RawMember::answering(OK).await;
        let front = Front::start(Http::Two, proxy(), target(member.dial())).await;
        let mut request = Request::post("/").body(lying("hello")).unwrap();
        if let Some(length) = length {
            request.headers_mut().insert("content-length", length.parse().unwrap());
        }
        let answer = Client::of(&front).await.send(request).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
        let asked = member.received();
        let framings = ["content-length", "transfer-encoding"].map(|name| headers(&asked, name).len());
        assert_eq!(framings.iter().sum::<usize>(), 1, "{asked}");
        assert!(header(&asked, expected).is_some(), "{asked}");
    }
}

#[tokio::test]
async fn http2_request_that_names_its_connection_is_refused() {
    let member = HyperMember::start(Http::One, |_| async { Response::new(full("reached")) }).await;
    let front = Front::start(Http::Two, proxy(), target(member.dial())).await;
    let stream = tokio::net::TcpStream::connect(front.address).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for (name, value) in
        [("connection", "upgrade"), ("transfer-encoding", "chunked"), ("upgrade", "websocket")]
    {
        let request = Request::get("http://f/").header(name, value).body(()).unwrap();
        match sender.send_request(request, true) {
            // h2's client refuses to write it at all.
            Err(_) => {}
            Ok((answer, _)) => assert!(soon(answer).await.is_err(), "{name}"),
        }
        sender = soon(sender.ready()).await.unwrap();
    }
}

/// Sends an HTTP/2 request with one header, bytes as they are; whether it reached the member.
async fn http2_request_passes(path: &str, name: &str, value: &str) -> bool {
    let member = RawMember::answering(OK).await;
    let front = Front::start(Http::Two, proxy(), target(member.dial())).await;
    let mut client = front.socket().await;
    // Literals without indexing; 0x82 and 0x86 are `:method: GET` and `:scheme: http`.
    let literal = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let head =
        [b"\x82\x86\x04".to_vec(), literal(path), b"\x01\x01f\x00".to_vec(), literal(name), literal(value)];
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client.send(frame(4, 0, 0, b"")).await;
    client.send(frame(1, 5, 1, &head.concat())).await;
    // Until an answer, a reset, a GOAWAY or the end.
    loop {
        let header = client.bytes(9).await;
        let [_, _, length, kind, ..] = header[..] else { break };
        client.bytes(length.into()).await;
        if matches!(kind, 1 | 3 | 7) {
            break;
        }
    }
    member.connections() > 0
}

#[tokio::test]
async fn line_breaks_in_http2_fields_never_become_lines() {
    assert!(http2_request_passes("/a", "x-a", "b").await);
    for (path, name, value) in [
        ("/a HTTP/1.1\r\nX-Evil: 1", "x-a", "b"),
        ("/a\nb", "x-a", "b"),
        ("/a b", "x-a", "b"),
        ("/", "x-a", "b\r\nX-Evil: 1"),
        ("/", "x-a", "b\0"),
        ("/", "x-a: 1\r\nx-evil", "b"),
        ("/", "X-Upper", "b"),
    ] {
        assert!(!http2_request_passes(path, name, value).await, "{path:?} {name:?} {value:?}");
    }
}

#[tokio::test]
async fn second_answer_of_a_member_is_never_taken_for_another_requests() {
    let member = RawMember::answering(format!("{OK}HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother")).await;
    let front = Front::of(target(member.dial())).await;
    let mut client = front.socket().await;
    for _ in 0..5 {
        assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: f\r\n\r\n").await.text(), "ok");
    }
}

#[tokio::test]
async fn the_length_of_a_chunked_answer_is_not_believed() {
    for framing in
        ["Content-Length: 3\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 3"]
    {
        let answer = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        let member = RawMember::answering(&answer).await;
        for version in [Http::One, Http::Two] {
            let front = Front::start(version, proxy(), target(member.dial())).await;
            let request = Request::get("/").body(full("")).unwrap();
            let mut client = Client::of(&front).await;
            let body = client.send(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, "hello", "{framing}");
        }
    }
}
