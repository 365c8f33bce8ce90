//! From the upgrade request to the 101, or to the refusal.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, HeaderValue};
use tokio::io::{AsyncRead, ReadBuf};
use upgrade_aware_proxy::{
    Dial, DialError, DialStage, Dialed, HeaderEdits, PlainErrors, Protocol, Proxy, Purpose, Timeouts,
    Tunnels, UpgradeProtocols,
};

use crate::support::{
    Http,
    front::{Front, proxy, proxy_with, target},
    member::RawMember,
    raw::{Socket, header, headers},
    soon,
};

const WEBSOCKET: &str =
    "GET /exec HTTP/1.1\r\nHost: front\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// A member that switches to whatever is asked for and echoes behind `hello `.
async fn greeter() -> RawMember {
    RawMember::scripted(|mut socket| async move {
        let head = socket.head().await.unwrap();
        let protocol = header(&head, "upgrade").unwrap().to_owned();
        let answer =
            format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n");
        socket.send(answer).await;
        let name = socket.bytes(5).await;
        socket.send([b"hello ".as_slice(), &name].concat()).await;
        socket.rest().await;
    })
    .await
}

/// Asks a member that answers `answer` for a WebSocket.
async fn refused_with(answer: &str) -> (RawMember, Front, Socket) {
    let member = RawMember::answering(answer).await;
    let front = Front::of(target(member.dial())).await;
    let mut client = front.socket().await;
    client.send(WEBSOCKET).await;
    (member, front, client)
}

#[tokio::test]
async fn websocket_is_tunnelled() {
    let member = greeter().await;
    let front = Front::of(target(member.dial())).await;
    let mut client = front.socket().await;
    let answer = client.ask(WEBSOCKET).await;
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("connection"), Some("Upgrade"));
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    client.send("world").await;
    assert_eq!(client.bytes(11).await, b"hello world");
}

#[tokio::test]
async fn spdy_over_post_is_tunnelled_and_its_negotiation_headers_pass() {
    let member = RawMember::scripted(|mut socket| async move {
        socket.head().await.unwrap();
        socket
            .send(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n\
                 X-Stream-Protocol-Version: v4.channel.k8s.io\r\nSet-Cookie: a=b\r\n\r\n",
            )
            .await;
        let ping = socket.bytes(4).await;
        socket.send(ping).await;
        socket.rest().await;
    })
    .await;
    let front = Front::of(target(member.dial())).await;
    let mut client = front.socket().await;
    let answer = client
        .ask(
            "POST /exec?command=sh HTTP/1.1\r\nHost: front\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: v5.channel.k8s.io\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\
             Content-Length: 0\r\n\r\n",
        )
        .await;
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("x-stream-protocol-version"), Some("v4.channel.k8s.io"));
    assert_eq!(answer.header("set-cookie"), Some("a=b"));
    client.send("ping").await;
    assert_eq!(client.bytes(4).await, b"ping");

    let asked = member.received();
    assert!(asked.starts_with("POST /exec?command=sh HTTP/1.1\r\n"), "{asked}");
    assert_eq!(headers(&asked, "x-stream-protocol-version"), ["v5.channel.k8s.io", "v4.channel.k8s.io"]);
}

#[tokio::test]
async fn protocol_is_compared_without_case_and_passed_on_as_written() {
    let member = greeter().await;
    let front = Front::of(target(member.dial())).await;
    let mut client = front.socket().await;
    let request =
        "GET / HTTP/1.1\r\nHost: front\r\nConnection: keep-alive, UPGRADE\r\nUpgrade: WebSocket\r\n\r\n";
    assert_eq!(client.ask(request).await.status, 101);
    assert_eq!(header(&member.received(), "upgrade"), Some("WebSocket"));
    assert_eq!(header(&member.received(), "connection"), Some("Upgrade"));
}

#[tokio::test]
async fn upgrade_carries_the_targets_headers_and_none_of_the_connections() {
    let member = greeter().await;
    let mut target = target(member.dial());
    let mut set = HeaderMap::new();
    set.insert("authorization", HeaderValue::from_static("Bearer 1234"));
    target.edits = HeaderEdits { set, ..HeaderEdits::default() };
    let front = Front::of(target).await;
    let mut client = front.socket().await;
    let answer = client
        .ask(
            "GET / HTTP/1.1\r\nHost: front\r\nConnection: Upgrade, Authorization, X-Drop\r\nUpgrade: websocket\r\n\
             Authorization: Bearer mine\r\nX-Drop: 1\r\nX-Keep: 2\r\nKeep-Alive: 5\r\nProxy-Authorization: p\r\n\
             TE: trailers\r\nSec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )
        .await;
    assert_eq!(answer.status, 101);
    let asked = member.received();
    assert_eq!(headers(&asked, "authorization"), ["Bearer 1234"]);
    assert_eq!(headers(&asked, "host"), ["member.test:8443"]);
    assert_eq!(headers(&asked, "connection"), ["Upgrade"]);
    assert_eq!(header(&asked, "x-keep"), Some("2"));
    assert_eq!(header(&asked, "sec-websocket-key"), Some("k"));
    for gone in ["x-drop", "keep-alive", "proxy-authorization", "te"] {
        assert_eq!(header(&asked, gone), None, "{gone}");
    }
}

#[tokio::test]
async fn half_an_upgrade_is_refused_before_dialing_and_closes_the_connection() {
    let requests = [
        "GET / HTTP/1.1\r\nHost: f\r\nConnection: Upgrade\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: f\r\nConnection: Upgrade\r\nUpgrade:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: f\r\nConnection: Upgrade\r\nUpgrade: ,\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: f\r\nConnection: Upgrade\r\nUpgrade: websocket, SPDY/3.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: f\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: SPDY/3.1\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: f\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
        "CONNECT f:1 HTTP/1.1\r\nHost: f\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: f\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: f\r\nConnection: close\r\nConnection: x,\t upgrade\r\nUpgrade: TLS/1.0\r\n\r\n",
    ];
    for request in requests {
        let member = RawMember::answering(SWITCHING).await;
        let front = Front::of(target(member.dial())).await;
        let mut client = front.socket().await;
        client.send(format!("{request}GET /second HTTP/1.1\r\nHost: f\r\n\r\n")).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 400, "{request}");
        assert_eq!(answer.header("connection"), Some("close"), "{request}");
        assert_eq!(client.rest().await, b"", "{request}");
        assert_eq!(member.connections(), 0, "{request}");
    }
}

#[tokio::test]
async fn list_of_protocols_is_the_callers() {
    let member = greeter().await;
    let chat = UpgradeProtocols::new(["Chat/2"]);
    let proxy = Proxy::new(PlainErrors, chat, Timeouts::default(), Tunnels::default());
    let front = Front::start(Http::One, proxy, target(member.dial())).await;
    assert_eq!(front.socket().await.ask(WEBSOCKET).await.status, 400);
    assert_eq!(member.connections(), 0);
    assert_eq!(front.socket().await.ask(WEBSOCKET.replace("websocket", "chat/2")).await.status, 101);
}

#[tokio::test]
async fn what_only_looks_like_an_upgrade_is_a_plain_request() {
    let requests = [
        "GET /p HTTP/1.1\r\nHost: f\r\nConnection: xupgradex\r\nUpgrade: websocket\r\n\r\n",
        "GET /p HTTP/1.1\r\nHost: f\r\nConnection: keep-alive\r\nUpgrade: websocket\r\n\r\n",
        "GET /p HTTP/1.1\r\nHost: f\r\nUpgrade: websocket\r\n\r\n",
        "GET /p HTTP/1.1\r\nHost: f\r\nConnection: \"upgrade\"\r\nUpgrade: websocket\r\n\r\n",
        "GET /p HTTP/1.0\r\nHost: f\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ];
    for request in requests {
        let member = RawMember::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let front = Front::of(target(member.dial())).await;
        let answer = front.socket().await.ask(request).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{request}");
        let asked = member.received();
        assert_eq!(header(&asked, "upgrade"), None, "{request}");
        assert!(!asked.to_ascii_lowercase().contains("upgrade"), "{asked}");
    }
}

#[tokio::test]
async fn plain_request_is_never_switched() {
    let member = RawMember::answering(SWITCHING).await;
    let front = Front::of(target(member.dial())).await;
    let mut client = front.socket().await;
    let answer = client.ask("GET / HTTP/1.1\r\nHost: f\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.header("upgrade"), None);
}

#[tokio::test]
async fn refusal_is_relayed_and_ends_both_connections() {
    for status in ["400 Bad Request", "403 Forbidden", "500 Internal Server Error"] {
        let answer = format!("HTTP/1.1 {status}\r\nX-Why: policy\r\nContent-Length: 9\r\n\r\nsome data");
        let (member, _front, mut client) = refused_with(&answer).await;
        let answer = client.answer().await;
        assert_eq!(answer.status.to_string(), status[..3]);
        assert_eq!(answer.text(), "some data");
        assert_eq!(answer.header("x-why"), Some("policy"));
        assert_eq!(answer.header("connection"), Some("close"));
        client.try_send("GET /there HTTP/1.1\r\nHost: f\r\n\r\n").await;
        assert_eq!(client.rest().await, b"");
        assert!(!member.received().contains("/there"));
        assert_eq!(member.connections(), 1);
    }
}

#[tokio::test]
async fn request_pipelined_behind_a_refused_upgrade_reaches_nobody() {
    let member = RawMember::answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    let front = Front::of(target(member.dial())).await;
    let mut client = front.socket().await;
    client.send(format!("{WEBSOCKET}GET /evil HTTP/1.1\r\nHost: f\r\n\r\n")).await;
    assert_eq!(client.answer().await.status, 403);
    assert_eq!(client.rest().await, b"");
    assert!(!member.received().contains("/evil"));
}

#[tokio::test]
async fn members_connection_closes_after_a_refusal() {
    let (closed, mut is_closed) = tokio::sync::mpsc::channel(1);
    let member = RawMember::scripted(move |mut socket| {
        let closed = closed.clone();
        async move {
            socket.head().await.unwrap();
            socket.send("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
            socket.rest().await;
            closed.send(()).await.unwrap();
        }
    })
    .await;
    let front = Front::of(target(member.dial())).await;
    assert_eq!(front.socket().await.ask(WEBSOCKET).await.status, 404);
    soon(is_closed.recv()).await.unwrap();
}

#[tokio::test]
async fn refusal_may_be_framed_in_any_way() {
    let chunked =
        "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno \r\n4\r\nway!\r\n0\r\n\r\n";
    let (_member, _front, mut client) = refused_with(chunked).await;
    assert_eq!(client.answer().await.text(), "no way!");
    assert_eq!(client.rest().await, b"");

    let member = RawMember::scripted(|mut socket| async move {
        socket.head().await.unwrap();
        socket.send("HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\nuntil the end").await;
    })
    .await;
    let front = Front::of(target(member.dial())).await;
    let mut client = front.socket().await;
    assert_eq!(client.ask(WEBSOCKET).await.text(), "until the end");
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn bytes_behind_a_refusals_declared_body_are_not_relayed() {
    let (_member, _front, mut client) = refused_with(
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nonlyHTTP/1.1 200 OK\r\n\r\nsmuggled",
    )
    .await;
    assert_eq!(client.answer().await.text(), "only");
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn refusal_that_breaks_off_is_seen_as_broken() {
    let member = RawMember::scripted(|mut socket| async move {
        socket.head().await.unwrap();
        socket.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 10\r\n\r\nhalf").await;
    })
    .await;
    let front = Front::of(target(member.dial())).await;
    let mut client = front.socket().await;
    client.send(WEBSOCKET).await;
    let head = client.head().await.unwrap();
    assert_eq!(client.body(&head).await, None);
}

#[tokio::test]
async fn refusal_that_never_ends_is_cut() {
    let member = RawMember::scripted(|mut socket| async move {
        socket.head().await.unwrap();
        socket.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 10\r\n\r\nhalf").await;
        socket.rest().await;
    })
    .await;
    let timeouts = Timeouts { upgrade_head: Duration::from_secs(1), ..Timeouts::default() };
    let front =
        Front::start(Http::One, proxy_with(timeouts, Tunnels::default()), target(member.dial())).await;
    let mut client = front.socket().await;
    client.send(WEBSOCKET).await;
    let head = client.head().await.unwrap();
    assert_eq!(client.body(&head).await, None);
}

#[tokio::test]
async fn success_and_redirects_become_502_naming_the_status_and_nothing_else() {
    for (status, rest) in [
        ("200 OK", "X-Secret: s\r\nContent-Length: 6\r\n\r\nsecret"),
        ("204 No Content", "\r\n"),
        ("300 Multiple Choices", "Location: /secret\r\nContent-Length: 0\r\n\r\n"),
        ("302 Found", "Location: https://evil.example/secret\r\nContent-Length: 0\r\n\r\n"),
        ("304 Not Modified", "Location: /secret\r\n\r\n"),
        ("307 Temporary Redirect", "Location: //secret\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let (_member, _front, mut client) = refused_with(&format!("HTTP/1.1 {status}\r\n{rest}")).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 502, "{status}");
        assert_eq!(answer.text(), format!("invalid upgrade response: status code {}\n", &status[..3]));
        assert!(!answer.head.to_ascii_lowercase().contains("secret"), "{}", answer.head);
        assert_eq!(answer.header("location"), None);
        assert_eq!(client.rest().await, b"");
    }
}

#[tokio::test]
async fn switch_to_something_else_is_502() {
    for upgrade in
        ["", "Upgrade: h2c\r\n", "Upgrade: websocket, h2c\r\n", "Upgrade: websocket\r\nUpgrade: h2c\r\n"]
    {
        let answer = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n{upgrade}\r\n");
        let (_member, _front, mut client) = refused_with(&answer).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 502, "{upgrade}");
        assert!(answer.text().starts_with("invalid upgrade response: switched to"), "{}", answer.text());
        assert_eq!(client.rest().await, b"");
    }
}

#[tokio::test]
async fn interim_answers_are_skipped() {
    let answer =
        format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n{SWITCHING}");
    let (_member, _front, mut client) = refused_with(&answer).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("link"), None);
}

#[tokio::test]
async fn member_that_never_answers_is_504() {
    let member = RawMember::scripted(|mut socket| async move {
        socket.rest().await;
    })
    .await;
    let timeouts = Timeouts { upgrade_head: Duration::from_millis(100), ..Timeouts::default() };
    let front =
        Front::start(Http::One, proxy_with(timeouts, Tunnels::default()), target(member.dial())).await;
    let mut client = front.socket().await;
    let answer = client.ask(WEBSOCKET).await;
    assert_eq!(answer.status, 504);
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn endless_response_head_is_502() {
    let member = RawMember::scripted(|mut socket| async move {
        socket.head().await.unwrap();
        socket.send("HTTP/1.1 101 Switching Protocols\r\nX-Long: ").await;
        while socket.try_send([b'a'; 4096]).await {}
    })
    .await;
    let front = Front::of(target(member.dial())).await;
    assert_eq!(front.socket().await.ask(WEBSOCKET).await.status, 502);
}

#[tokio::test]
async fn endless_interim_answers_are_504() {
    let member = RawMember::scripted(|mut socket| async move {
        socket.head().await.unwrap();
        while socket.try_send("HTTP/1.1 102 Processing\r\n\r\n").await {}
    })
    .await;
    let timeouts = Timeouts { upgrade_head: Duration::from_millis(200), ..Timeouts::default() };
    let front =
        Front::start(Http::One, proxy_with(timeouts, Tunnels::default()), target(member.dial())).await;
    assert_eq!(front.socket().await.ask(WEBSOCKET).await.status, 504);
}

#[tokio::test]
async fn upgrades_body_is_the_members_and_the_tunnel_begins_behind_it() {
    for (framing, wire) in
        [("Content-Length: 5", "12345"), ("Transfer-Encoding: chunked", "2\r\n12\r\n3\r\n345\r\n0\r\n\r\n")]
    {
        for method in ["GET", "POST"] {
            let member = RawMember::scripted(|mut socket| async move {
                let head = socket.head().await.unwrap();
                assert_eq!(socket.body(&head).await.unwrap(), b"12345");
                socket.send(SWITCHING).await;
                let tunnelled = socket.bytes(5).await;
                socket.send(tunnelled).await;
            })
            .await;
            let front = Front::of(target(member.dial())).await;
            let mut client = front.socket().await;
            client
                .send(format!(
                    "{method} / HTTP/1.1\r\nHost: f\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{framing}\r\n\r\n\
                     {wire}after"
                ))
                .await;
            assert_eq!(client.answer().await.status, 101, "{method} {framing}");
            assert_eq!(client.rest().await, b"after", "{method} {framing}");
        }
    }
}

#[tokio::test]
async fn client_that_leaves_before_the_answer_takes_the_members_connection_with_it() {
    let (closed, mut is_closed) = tokio::sync::mpsc::channel(1);
    let (asked, mut is_asked) = tokio::sync::mpsc::channel(1);
    let member = RawMember::scripted(move |mut socket| {
        let (asked, closed) = (asked.clone(), closed.clone());
        async move {
            socket.head().await.unwrap();
            asked.send(()).await.unwrap();
            socket.rest().await;
            closed.send(()).await.unwrap();
        }
    })
    .await;
    let front = Front::of(target(member.dial())).await;
    let mut client = front.socket().await;
    client.send(WEBSOCKET).await;
    soon(is_asked.recv()).await.unwrap();
    drop(client);
    soon(is_closed.recv()).await.unwrap();
}

#[tokio::test]
async fn dial_that_fails_is_502_with_the_reason() {
    struct Broken;
    impl Dial for Broken {
        fn dial(&self, _: Purpose) -> Pin<Box<dyn Future<Output = Result<Dialed, DialError>> + Send + '_>> {
            Box::pin(async { Err(DialError::failed(DialStage::Proxy, "nasty error")) })
        }
    }
    let front = Front::of(target(Broken)).await;
    let mut client = front.socket().await;
    let answer = client.ask(WEBSOCKET).await;
    assert_eq!((answer.status, answer.text().as_str()), (502, "nasty error\n"));
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn connection_that_fails_at_once_is_502() {
    struct Unreadable;
    impl AsyncRead for Unreadable {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::Error::other("EXPECTED")))
        }
    }
    struct Failing;
    impl Dial for Failing {
        fn dial(&self, _: Purpose) -> Pin<Box<dyn Future<Output = Result<Dialed, DialError>> + Send + '_>> {
            let io = Box::new(tokio::io::join(Unreadable, tokio::io::sink()));
            Box::pin(async { Ok(Dialed { io, protocol: Protocol::Http1 }) })
        }
    }
    let front = Front::of(target(Failing)).await;
    let answer = front.socket().await.ask(WEBSOCKET).await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("EXPECTED"), "{}", answer.text());
}

#[tokio::test]
async fn request_whose_connection_cannot_be_upgraded_is_never_dialed() {
    let member = greeter().await;
    let target = target(member.dial());
    let request = http::Request::get("/")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .body(crate::support::body::empty())
        .unwrap();
    let response = proxy().forward(request, target).await;
    assert_eq!(response.status(), 500);
    assert_eq!(member.connections(), 0);
}
