//! Plain requests, for every pair of HTTP versions.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use upgrade_aware_proxy::{BoxError, Timeouts, Tunnels};

use crate::support::{
    Http,
    body::{TestBody, empty, fed, full},
    client::{Client, next, text},
    front::{Front, proxy, proxy_with, target},
    member::{HyperMember, RawMember},
    over_all_versions,
    raw::{header, headers},
    soon,
};

over_all_versions!(
    request_and_answer_pass,
    body_streams_both_ways,
    trailers_pass_both_ways,
    head_has_the_length_and_no_body,
    bodiless_statuses_pass,
    ranges_and_options_pass,
    head_arrives_before_the_first_event_and_each_event_at_once,
    body_that_breaks_is_never_a_clean_end,
    sized_body_that_breaks_is_never_a_clean_end,
    dropping_the_answer_frees_the_member,
    leaving_before_the_answer_frees_the_member,
    upload_that_breaks_off_is_broken_for_the_member,
    stalled_reader_holds_up_the_member_and_loses_nothing,
    stalled_reader_does_not_delay_its_neighbour,
    silent_member_is_504,
    bodies_of_get_arrive,
);

async fn between<F, Fut>(front: Http, member: Http, handler: F) -> (Client, Front, HyperMember)
where
    F: Fn(Request<Incoming>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Response<TestBody>> + Send + 'static,
{
    let member = HyperMember::start(member, handler).await;
    let front = Front::start(front, proxy(), target(member.dial())).await;
    (Client::of(&front).await, front, member)
}

/// Tells through a channel that its owner was dropped.
struct Tell(mpsc::UnboundedSender<()>);

impl Drop for Tell {
    fn drop(&mut self) {
        let _nobody_asks = self.0.send(());
    }
}

async fn request_and_answer_pass(front: Http, member: Http) {
    let (mut client, _front, _member) = between(front, member, |request| async move {
        let seen = format!(
            "{} {} {:?} {:?}",
            request.method(),
            request.uri().path_and_query().unwrap(),
            request.headers().get_all("header1").iter().collect::<Vec<_>>(),
            request.headers().get("user-agent"),
        );
        Response::builder()
            .status(StatusCode::CREATED)
            .header("x-one", "1")
            .header("x-one", "2")
            .header("content-type", "Text/HTML")
            .body(full(seen))
            .unwrap()
    })
    .await;
    let request = Request::put("/some/path/?b=2&a=%31")
        .header("Header1", "x")
        .header("Header1", "y")
        .body(empty())
        .unwrap();
    let response = client.send(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(response.headers().get_all("x-one").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(response.headers()["content-type"], "Text/HTML");
    assert_eq!(text(response).await, "PUT /some/path/?b=2&a=%31 [\"x\", \"y\"] None");
}

async fn body_streams_both_ways(front: Http, member: Http) {
    let (mut client, _front, _member) = between(front, member, |request| async move {
        Response::new(request.into_body().map_err(BoxError::from).boxed_unsync())
    })
    .await;
    let (feed, body) = fed();
    let mut response = client.send(Request::post("/echo").body(body).unwrap()).await.unwrap();
    for part in ["first", "second", "third"] {
        assert!(feed.data(part).await);
        assert_eq!(next(&mut response).await.unwrap().unwrap(), part);
    }
    drop(feed);
    assert!(next(&mut response).await.is_none());
}

async fn trailers_pass_both_ways(front: Http, member: Http) {
    let (mut client, _front, _member) = between(front, member, |request| async move {
        let announced = request.headers().get(header::TE) == Some(&HeaderValue::from_static("trailers"));
        let trailers = request.into_body().collect().await.unwrap().trailers().cloned().unwrap_or_default();
        let (feed, body) = fed();
        tokio::spawn(async move {
            feed.data("data").await;
            feed.trailers(trailers).await;
        });
        let status = if announced { StatusCode::OK } else { StatusCode::BAD_REQUEST };
        Response::builder().status(status).header("trailer", "x-sum").body(body).unwrap()
    })
    .await;
    let (feed, body) = fed();
    let request = Request::post("/").header("te", "trailers").header("trailer", "x-sum").body(body).unwrap();
    let upload = async {
        feed.data("data").await;
        feed.trailers(HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("7"))]))
            .await;
        drop(feed);
    };
    let (response, ()) = tokio::join!(client.send(request), upload);
    let response = response.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "TE: trailers reaches the member");
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], "7");
    assert_eq!(body.to_bytes(), "data");
}

async fn head_has_the_length_and_no_body(front: Http, member: Http) {
    let (mut client, _front, _member) = between(front, member, |request| async move {
        assert_eq!(request.method(), Method::HEAD);
        Response::builder().header("content-length", "12345").body(empty()).unwrap()
    })
    .await;
    for _ in 0..2 {
        let response = client.send(Request::head("/").body(empty()).unwrap()).await.unwrap();
        assert_eq!(response.headers()["content-length"], "12345");
        assert_eq!(text(response).await, "");
    }
}

async fn bodiless_statuses_pass(front: Http, member: Http) {
    let (mut client, _front, _member) = between(front, member, |request| async move {
        let status = request.uri().path()[1..].parse::<u16>().unwrap();
        Response::builder().status(status).header("etag", "\"e\"").body(empty()).unwrap()
    })
    .await;
    for status in [204, 304, 204] {
        let response = client.get(&format!("/{status}")).await;
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["etag"], "\"e\"");
        assert_eq!(response.headers().get("content-length"), None);
        assert_eq!(text(response).await, "");
    }
}

async fn ranges_and_options_pass(front: Http, member: Http) {
    let (mut client, _front, _member) = between(front, member, |request| async move {
        if request.method() == Method::OPTIONS {
            return Response::builder().header("allow", "GET").body(empty()).unwrap();
        }
        assert_eq!(request.headers()["range"], "bytes=1-2");
        let answer = Response::builder().status(StatusCode::PARTIAL_CONTENT);
        answer.header("content-range", "bytes 1-2/4").body(full("bc")).unwrap()
    })
    .await;
    let options = client.send(Request::options("/x").body(empty()).unwrap()).await.unwrap();
    assert_eq!(options.headers()["allow"], "GET");
    let part =
        client.send(Request::get("/").header("range", "bytes=1-2").body(empty()).unwrap()).await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()["content-range"], "bytes 1-2/4");
    assert_eq!(text(part).await, "bc");
}

async fn head_arrives_before_the_first_event_and_each_event_at_once(front: Http, member: Http) {
    let (feeds, mut fed_by) = mpsc::unbounded_channel();
    let (mut client, _front, _member) = between(front, member, move |_| {
        let (feed, body) = fed();
        feeds.send(feed).unwrap();
        async move { Response::new(body) }
    })
    .await;
    let mut watch = client.get("/watch").await;
    assert_eq!(watch.status(), StatusCode::OK);
    let feed = fed_by.recv().await.unwrap();
    for event in ["ADDED\n", "MODIFIED\n", "DELETED\n"] {
        feed.data(event).await;
        assert_eq!(next(&mut watch).await.unwrap().unwrap(), event);
    }
    drop(feed);
    assert!(next(&mut watch).await.is_none(), "the watch ends as cleanly as it did at the member");
}

async fn body_that_breaks_is_never_a_clean_end(front: Http, member: Http) {
    broken(front, member, Response::builder()).await;
}

async fn sized_body_that_breaks_is_never_a_clean_end(front: Http, member: Http) {
    broken(front, member, Response::builder().header("content-length", "100")).await;
}

async fn broken(front: Http, member: Http, head: http::response::Builder) {
    let head = head.body(()).unwrap().into_parts().0;
    let (feeds, mut fed_by) = mpsc::unbounded_channel();
    let (mut client, _front, _member) = between(front, member, move |_| {
        let (feed, body) = fed();
        feeds.send(feed).unwrap();
        let response = Response::from_parts(head.clone(), body);
        async move { response }
    })
    .await;
    let mut response = client.get("/").await;
    let feed = fed_by.recv().await.unwrap();
    feed.data("half of it").await;
    assert_eq!(next(&mut response).await.unwrap().unwrap(), "half of it");
    feed.break_off().await;
    assert!(next(&mut response).await.expect("not a clean end").is_err());
}

async fn dropping_the_answer_frees_the_member(front: Http, member: Http) {
    let (feeds, mut fed_by) = mpsc::unbounded_channel();
    let (mut client, _front, _member) = between(front, member, move |_| {
        let (feed, body) = fed();
        feeds.send(feed).unwrap();
        async move { Response::new(body) }
    })
    .await;
    let mut response = client.get("/watch").await;
    let feed = fed_by.recv().await.unwrap();
    feed.data("event").await;
    assert_eq!(next(&mut response).await.unwrap().unwrap(), "event");
    drop(response);
    soon(feed.abandoned()).await;
}

async fn leaving_before_the_answer_frees_the_member(front: Http, member: Http) {
    let (asked, mut is_asked) = mpsc::unbounded_channel();
    let (gone, mut is_gone) = mpsc::unbounded_channel();
    let (mut client, _front, _member) = between(front, member, move |_| {
        let tell = Tell(gone.clone());
        asked.send(()).unwrap();
        async move {
            let _tell = tell;
            std::future::pending().await
        }
    })
    .await;
    {
        let answer = client.send(Request::get("/slow").body(empty()).unwrap());
        tokio::select! {
            _ = answer => panic!("nobody answers"),
            _ = is_asked.recv() => {}
        }
    }
    drop(client);
    soon(is_gone.recv()).await.unwrap();
}

async fn upload_that_breaks_off_is_broken_for_the_member(front: Http, member: Http) {
    let (outcomes, mut outcome) = mpsc::unbounded_channel();
    let (mut client, _front, _member) = between(front, member, move |request| {
        let outcomes = outcomes.clone();
        async move {
            let mut body = request.into_body();
            let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
            outcomes.send(Ok(first)).unwrap();
            let end = body.frame().await.expect("not a clean end");
            outcomes.send(end.map(|frame| frame.into_data().unwrap())).unwrap();
            Response::new(empty())
        }
    })
    .await;
    let (feed, body) = fed();
    let asking = tokio::spawn(async move { client.send(Request::post("/").body(body).unwrap()).await });
    feed.data("half").await;
    assert_eq!(outcome.recv().await.unwrap().unwrap(), "half");
    feed.break_off().await;
    assert!(soon(outcome.recv()).await.unwrap().is_err());
    assert!(asking.await.unwrap().is_err());
}

async fn stalled_reader_holds_up_the_member_and_loses_nothing(front: Http, member: Http) {
    const CHUNK: usize = 64 << 10;
    const CHUNKS: usize = 1024;
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let (mut client, _front, _member) = between(front, member, move |_| {
        let (feed, body) = fed();
        let counter = Arc::clone(&counter);
        tokio::spawn(async move {
            for index in 0..CHUNKS {
                feed.data(vec![index as u8; CHUNK]).await;
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        async move { Response::new(body) }
    })
    .await;
    let response = client.get("/big").await;
    // Waiting for what must not happen: there is no event for that.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(sent.load(Ordering::Relaxed) < CHUNKS, "all of it was taken though nobody reads");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.len(), CHUNK * CHUNKS);
    assert!(
        body.chunks(CHUNK).enumerate().all(|(index, chunk)| chunk.iter().all(|byte| *byte == index as u8))
    );
}

async fn stalled_reader_does_not_delay_its_neighbour(front: Http, member: Http) {
    let (mut stalled, front, _member) = between(front, member, |request| async move {
        let (feed, body) = fed();
        let endless = request.uri().path() == "/endless";
        tokio::spawn(async move { while feed.data(vec![0; 16 << 10]).await && endless {} });
        Response::new(body)
    })
    .await;
    let unread = stalled.get("/endless").await;
    let mut neighbour = Client::of(&front).await;
    for _ in 0..10 {
        assert_eq!(text(neighbour.get("/short").await).await.len(), 16 << 10);
    }
    drop(unread);
}

async fn silent_member_is_504(front: Http, member: Http) {
    let member = HyperMember::start(member, |_| std::future::pending()).await;
    let timeouts = Timeouts { response_head: Duration::from_millis(100), ..Timeouts::default() };
    let front = Front::start(front, proxy_with(timeouts, Tunnels::default()), target(member.dial())).await;
    let response = Client::of(&front).await.get("/").await;
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
}

async fn bodies_of_get_arrive(front: Http, member: Http) {
    let (mut client, _front, _member) = between(front, member, |request| async move {
        Response::new(full(request.into_body().collect().await.unwrap().to_bytes()))
    })
    .await;
    let sized = client.send(Request::get("/").body(full("sized")).unwrap()).await.unwrap();
    assert_eq!(text(sized).await, "sized");
    let (feed, body) = fed();
    let request = Request::get("/");
    // hyper's HTTP/1.1 client leaves away the body otherwise.
    let request = if front == Http::One { request.header("transfer-encoding", "chunked") } else { request };
    let upload = async {
        feed.data("chunked").await;
        drop(feed);
    };
    let (response, ()) = tokio::join!(client.send(request.body(body).unwrap()), upload);
    assert_eq!(text(response.unwrap()).await, "chunked");
}

#[tokio::test]
async fn trailers_that_nobody_announced_pass_over_http2() {
    let (mut client, _front, _member) = between(Http::Two, Http::Two, |_| async {
        let (feed, body) = fed();
        tokio::spawn(async move {
            feed.trailers(HeaderMap::from_iter([(
                "grpc-status".parse().unwrap(),
                HeaderValue::from_static("0"),
            )]))
            .await;
        });
        Response::new(body)
    })
    .await;
    let body = client.get("/").await.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn length_and_coding_arrive_as_they_were_sent() {
    let gzip = "\u{1f}not really gzip\u{8}";
    let chunks: String =
        gzip.chars().map(|byte| format!("1\r\n{byte}\r\n")).collect::<String>() + "0\r\n\r\n";
    let length = gzip.len();
    for (framing, wire, sized) in [
        (format!("Content-Length: {length}\r\n"), gzip, true),
        (format!("Content-Length: {length}\r\nContent-Encoding: gzip\r\n"), gzip, true),
        ("Transfer-Encoding: chunked\r\n".to_owned(), chunks.as_str(), false),
        ("Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n".to_owned(), chunks.as_str(), false),
    ] {
        let member = RawMember::scripted(|mut socket| async move {
            let head = socket.head().await.unwrap();
            let body = socket.body(&head).await.unwrap();
            socket.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())).await;
            socket.send(body).await;
        })
        .await;
        let front = Front::of(target(member.dial())).await;
        let mut client = front.socket().await;
        let answer = client
            .ask(format!("POST / HTTP/1.1\r\nHost: f\r\nConnection: close\r\n{framing}\r\n{wire}"))
            .await;
        assert_eq!(answer.text(), gzip, "{framing}");
        assert_eq!(client.rest().await, b"");
        let asked = member.received();
        assert_eq!(headers(&asked, "content-length").len(), usize::from(sized), "{asked}");
        assert_eq!(headers(&asked, "transfer-encoding").len(), usize::from(!sized), "{asked}");
        assert_eq!(header(&asked, "content-encoding").is_some(), framing.contains("gzip"), "{asked}");
        assert_eq!(header(&asked, "accept-encoding"), None, "{asked}");
    }
}

#[tokio::test]
async fn expectation_is_answered_here_and_not_forwarded() {
    let member = RawMember::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let front = Front::of(target(member.dial())).await;
    let mut client = front.socket().await;
    client.send("POST / HTTP/1.1\r\nHost: f\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body").await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(header(&member.received(), "expect"), None);
}

#[tokio::test]
async fn expectation_is_not_answered_when_the_member_cannot_be_reached() {
    let member = RawMember::answering("").await;
    let dial = member.dial();
    drop(member);
    let front = Front::of(target(dial)).await;
    let mut client = front.socket().await;
    let answer =
        client.ask("POST / HTTP/1.1\r\nHost: f\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().starts_with("dial tcp 127.0.0.1:"), "{}", answer.text());
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
}

#[tokio::test]
async fn interim_answers_of_the_member_are_consumed() {
    let member = RawMember::answering(
        "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let front = Front::of(target(member.dial())).await;
    let answer = front.socket().await.ask("GET / HTTP/1.1\r\nHost: f\r\n\r\n").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    assert_eq!(answer.header("link"), None);
}

#[tokio::test]
async fn http_10_on_either_side_is_understood() {
    let member = RawMember::scripted(|mut socket| async move {
        let head = socket.head().await.unwrap();
        assert!(head.starts_with("GET /old HTTP/1.1\r\n"), "{head}");
        socket.send("HTTP/1.0 200 OK\r\n\r\nold bytes").await;
    })
    .await;
    let front = Front::of(target(member.dial())).await;
    let mut modern = front.socket().await;
    let answer = modern.ask("GET /old HTTP/1.1\r\nHost: f\r\n\r\n").await;
    assert!(answer.head.starts_with("HTTP/1.1 200"), "{}", answer.head);
    assert_eq!(answer.text(), "old bytes");

    let mut old = front.socket().await;
    old.send("GET /old HTTP/1.0\r\n\r\n").await;
    let answer = String::from_utf8(old.rest().await).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nold bytes"), "{answer}");
}

#[tokio::test]
async fn methods_that_are_about_this_hop_are_refused() {
    let member = RawMember::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let front = Front::of(target(member.dial())).await;
    for request in
        ["CONNECT evil.example:443 HTTP/1.1\r\nHost: f\r\n\r\n", "TRACE / HTTP/1.1\r\nHost: f\r\n\r\n"]
    {
        assert_eq!(front.socket().await.ask(request).await.status, 405, "{request}");
    }
    assert_eq!(member.connections(), 0);
}

#[tokio::test]
async fn client_cannot_choose_who_is_dialed() {
    let member = RawMember::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let front = Front::of(target(member.dial())).await;
    let mut client = front.socket().await;
    let request =
        "GET http://evil.example:81/path?q HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: e\r\n\r\n";
    assert_eq!(client.ask(request).await.status, 200);
    let asked = member.received();
    assert!(asked.starts_with("GET /path?q HTTP/1.1\r\n"), "{asked}");
    assert_eq!(headers(&asked, "host"), ["member.test:8443"]);
}

#[tokio::test]
async fn failures_carry_their_error_for_metrics_and_audit() {
    let member = RawMember::answering("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").await;
    let dial = member.dial();
    let request = || Request::get("/").body(empty()).unwrap();
    let theirs = proxy().forward(request(), target(dial.clone())).await;
    assert_eq!(theirs.status(), StatusCode::BAD_GATEWAY);
    assert!(theirs.extensions().get::<upgrade_aware_proxy::ProxyError>().is_none());
    drop((theirs, member));
    let ours = proxy().forward(request(), target(dial)).await;
    assert_eq!(ours.status(), StatusCode::BAD_GATEWAY);
    assert!(ours.extensions().get::<upgrade_aware_proxy::ProxyError>().is_some());
}

#[tokio::test]
async fn one_proxy_value_serves_ten_thousand_requests_without_growing() {
    let member = HyperMember::start(Http::Two, |_| async { Response::new(full("ok")) }).await;
    let target = target(member.dial());
    let upstream = Arc::clone(&target.upstream);
    let front = Front::start(Http::Two, proxy(), target).await;
    let mut client = Client::of(&front).await;
    for _ in 0..10_000 {
        assert_eq!(text(client.get("/").await).await, "ok");
    }
    let stats = upstream.stats();
    assert_eq!(stats.in_flight, 0);
    assert_eq!(stats.connections, 1);
}

#[tokio::test]
async fn service_forwards_to_its_target() {
    use tower_service::Service as _;
    let member = RawMember::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let mut service = proxy().service(target(member.dial()));
    let response = service.call(Request::get("/x").body(empty()).unwrap()).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
    assert!(member.received().starts_with("GET /x HTTP/1.1\r\n"));
}
