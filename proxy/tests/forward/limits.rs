//! Large and endless things.

use http::{HeaderValue, Request, Response};

use crate::support::{
    Http,
    body::{empty, full},
    client::{Client, text},
    front::{Front, proxy, target},
    member::{HyperMember, RawMember, TcpDial},
    over_all_versions,
    raw::{frame, headers},
    soon,
};

over_all_versions!(thousand_groups_arrive, large_answer_head_arrives);

/// A caller with 1,000 groups of 900 bytes, as front-proxy or impersonation headers carry them.
fn groups() -> Vec<HeaderValue> {
    (0..1000).map(|index| HeaderValue::try_from(format!("{index:0>900}")).unwrap()).collect()
}

async fn thousand_groups_arrive(front: Http, member: Http) {
    let member = HyperMember::start(member, |request| async move {
        let arrived = request.headers().get_all("impersonate-group");
        Response::new(full(if arrived.iter().eq(&groups()) {
            "all of them, in order"
        } else {
            "something else"
        }))
    })
    .await;
    let mut target = target(member.dial());
    for group in groups() {
        target.edits.set.append("impersonate-group", group);
    }
    let front = Front::start(front, proxy(), target).await;
    let mut client = Client::of(&front).await;
    let mut request = Request::get("/").body(empty()).unwrap();
    for group in groups() {
        request.headers_mut().append("x-remote-group", group);
    }
    assert_eq!(text(client.send(request).await.unwrap()).await, "all of them, in order");
}

async fn large_answer_head_arrives(front: Http, member: Http) {
    let member = HyperMember::start(member, |_| async {
        let mut response = Response::new(empty());
        for index in 0..90 {
            response.headers_mut().append("set-cookie", format!("{index:0>1000}").parse().unwrap());
        }
        response
    })
    .await;
    let front = Front::start(front, proxy(), target(member.dial())).await;
    let response = Client::of(&front).await.get("/").await;
    assert_eq!(response.headers().get_all("set-cookie").iter().count(), 90);
}

#[tokio::test]
async fn thousand_groups_arrive_on_an_upgrade() {
    let member = RawMember::answering(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    )
    .await;
    let mut target = target(member.dial());
    for group in groups() {
        target.edits.set.append("impersonate-group", group);
    }
    let front = Front::of(target).await;
    let mut request = "GET / HTTP/1.1\r\nHost: f\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n".to_owned();
    for group in groups() {
        request += &format!("X-Remote-Group: {}\r\n", group.to_str().unwrap());
    }
    let answer = front.socket().await.ask(request + "\r\n").await;
    assert_eq!(answer.status, 101);
    let asked = member.received();
    assert!(headers(&asked, "impersonate-group").into_iter().eq(groups()), "all, exactly, in order");
}

#[tokio::test]
async fn endless_head_of_a_plain_answer_is_502() {
    let member = RawMember::scripted(|mut socket| async move {
        socket.head().await.unwrap();
        socket.send("HTTP/1.1 200 OK\r\nX-Long: ").await;
        while socket.try_send([b'a'; 4096]).await {}
    })
    .await;
    let front = Front::of(target(member.dial())).await;
    assert_eq!(front.socket().await.ask("GET / HTTP/1.1\r\nHost: f\r\n\r\n").await.status, 502);
}

#[tokio::test]
async fn endless_continuation_frames_of_a_member_are_502() {
    let member = RawMember::scripted(|mut socket| async move {
        socket.send(frame(4, 0, 0, b"")).await;
        // The client's preface, then its frames until the head of its request.
        socket.bytes(24).await;
        loop {
            let header = socket.bytes(9).await;
            let [_, high, low, kind, ..] = header[..] else { return };
            socket.bytes(usize::from(high) << 8 | usize::from(low)).await;
            if kind == 1 {
                break;
            }
        }
        // A never-indexed header without END_HEADERS, and on and on.
        socket.send(frame(1, 0, 1, b"\x88\x10\x01a\x01b")).await;
        while socket.try_send(frame(9, 0, 1, b"\x10\x01a\x01b").repeat(100)).await {}
    })
    .await;
    let front = Front::of(target(TcpDial::new(member.address, Http::Two))).await;
    let answer = soon(async { front.socket().await.ask("GET / HTTP/1.1\r\nHost: f\r\n\r\n").await }).await;
    assert_eq!(answer.status, 502);
}

#[tokio::test]
async fn absurd_number_of_headers_is_an_answer_and_not_a_panic() {
    let member = RawMember::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let mut target = target(member.dial());
    target.edits.set.insert("x-mine", HeaderValue::from_static("1"));
    let mut request = Request::get("/").body(empty()).unwrap();
    for index in 0..24_576 {
        let name = http::HeaderName::try_from(format!("x-{index}")).unwrap();
        if request.headers_mut().try_append(name, HeaderValue::from_static("")).is_err() {
            break;
        }
    }
    let answer = proxy().forward(request, target).await;
    assert_eq!(answer.status(), 500);
    assert_eq!(member.connections(), 0);
}
