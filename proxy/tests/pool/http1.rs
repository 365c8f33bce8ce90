//! HTTP/1.1: one request at a time, connections kept alive.

use std::time::Duration;

use futures_util::future::join_all;
use http::{Method, Version};
use http_body_util::BodyExt as _;
use upgrade_aware_proxy::{PoolConfig, Protocol, RequestBody, SendError};

use crate::support::{
    Pool, eventually, fed_body, get,
    lines::{OK, RawMember},
    member::Member,
    next_data, patiently, post, read, request,
};

fn pool(member: &Member, max_connections: usize) -> Pool {
    let config =
        PoolConfig { max_connections, busy_wait: Duration::from_millis(100), ..PoolConfig::default() };
    Pool::new(member.address, Protocol::Http1, config)
}

fn raw_pool(member: &RawMember) -> Pool {
    Pool::new(member.address(), Protocol::Http1, PoolConfig::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_is_kept_alive_for_the_next_request() {
    let member = Member::http1().await;
    let pool = pool(&member, 10);
    for _ in 0..50 {
        assert_eq!(pool.text("/").await, "hello");
        assert_eq!(pool.text("/chunks/3/100").await.len(), 300);
    }
    assert_eq!(pool.dialer.dials(), 1);
}

#[tokio::test]
async fn concurrent_requests_get_a_connection_each() {
    let member = Member::http1().await;
    let pool = pool(&member, 200);
    let mut watches = Vec::new();
    for watch in join_all((0..30).map(|_| pool.get("/watch"))).await {
        let mut body = watch.unwrap().into_body();
        assert_eq!(next_data(&mut body).await, "event\n");
        watches.push(body);
    }
    assert_eq!(pool.connections(), 30);
    assert_eq!(pool.text("/").await, "hello");
    member.event();
    for body in &mut watches {
        assert_eq!(next_data(body).await, "event\n");
    }
}

#[tokio::test]
async fn ceiling_makes_wait_and_then_gives_up() {
    let member = Member::http1().await;
    let pool = pool(&member, 3);
    let mut watches = join_all((0..3).map(|_| pool.get("/watch"))).await;
    match pool.get("/").await {
        Err(SendError::Exhausted { connections: 3 }) => {}
        other => panic!("{other:?}"),
    }
    drop(watches.pop());
    assert_eq!(pool.text("/").await, "hello");
    eventually("the watch's connection is closed", || pool.connections() == 3).await;
}

#[tokio::test]
async fn burst_at_the_ceiling_is_served_by_the_connections_there_are() {
    let member = Member::http1().await;
    let config =
        PoolConfig { max_connections: 4, busy_wait: Duration::from_secs(15), ..PoolConfig::default() };
    let pool = Pool::new(member.address, Protocol::Http1, config);
    let answers = join_all((0..100).map(|_| pool.text("/"))).await;
    assert_eq!(answers, vec!["hello"; 100]);
    assert!(member.accepted() <= 4, "{} connections", member.accepted());
}

#[tokio::test]
async fn request_line_and_host_are_written_as_the_target_says() {
    let member = RawMember::start().await;
    let pool = raw_pool(&member);
    let path = "/api//v1/%2e%2E/a%2Fb/?q=%zz;x=+&&flag&";
    let mut request = get(path);
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().insert("host", "client.example".parse().unwrap());
    let upstream = std::sync::Arc::clone(&pool.upstream);
    let sent = tokio::spawn(async move { upstream.send(request, Duration::from_secs(15)).await });
    let mut connection = member.accept().await;
    assert_eq!(connection.head().await, format!("GET {path} HTTP/1.1\r\nhost: member.test:6443\r\n\r\n"));
    connection.write(OK).await;
    assert_eq!(read(patiently(sent).await.unwrap().unwrap()).await, "ok");
}

#[tokio::test]
async fn bodyless_get_on_a_stale_connection_is_sent_once_more() {
    for method in [Method::GET, Method::HEAD] {
        let member = RawMember::start().await;
        let pool = raw_pool(&member);
        let (first, mut connection) = tokio::join!(pool.get("/first"), async {
            let mut connection = member.accept().await;
            connection.head().await;
            connection.write(OK).await;
            connection
        });
        assert_eq!(read(first.unwrap()).await, "ok");
        eventually("the stream is given back", || pool.in_flight() == 0).await;

        let (second, ()) = tokio::join!(pool.send(request(method, "/second", RequestBody::empty())), async {
            connection.head().await;
            drop(connection);
            let mut connection = member.accept().await;
            assert!(connection.head().await.contains("/second"));
            connection.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        });
        assert_eq!(second.unwrap().status(), 200);
        assert_eq!(pool.dialer.dials(), 2);
    }
}

#[tokio::test]
async fn post_on_a_stale_connection_is_broken_and_never_repeated() {
    let member = RawMember::start().await;
    let pool = raw_pool(&member);
    let (first, mut connection) = tokio::join!(pool.get("/first"), async {
        let mut connection = member.accept().await;
        connection.head().await;
        connection.write(OK).await;
        connection
    });
    assert_eq!(read(first.unwrap()).await, "ok");
    eventually("the stream is given back", || pool.in_flight() == 0).await;

    for body in [RequestBody::empty(), post("/", "x").into_body()] {
        let (second, ()) = tokio::join!(pool.send(request(Method::POST, "/second", body)), async {
            connection.head().await;
            drop(connection);
        });
        assert!(matches!(second, Err(SendError::Broken(_))), "{second:?}");
        assert!(!member.has_been_dialed_again().await);
        let (again, accepted) = tokio::join!(pool.get("/"), async {
            let mut connection = member.accept().await;
            connection.head().await;
            connection.write(OK).await;
            connection
        });
        connection = accepted;
        assert_eq!(read(again.unwrap()).await, "ok");
        eventually("the stream is given back", || pool.in_flight() == 0).await;
    }
}

#[tokio::test]
async fn get_on_a_fresh_connection_is_not_repeated() {
    let member = RawMember::start().await;
    let pool = raw_pool(&member);
    let (answer, ()) = tokio::join!(pool.get("/"), async {
        let mut connection = member.accept().await;
        connection.head().await;
    });
    assert!(matches!(answer, Err(SendError::Broken(_))), "{answer:?}");
    assert_eq!(pool.dialer.dials(), 1);
}

#[tokio::test]
async fn all_idle_connections_stale_at_once_are_each_replaced() {
    let member = RawMember::start().await;
    let pool = raw_pool(&member);
    let serve_two = async {
        let mut connections = [member.accept().await, member.accept().await];
        for connection in &mut connections {
            connection.head().await;
        }
        for connection in &mut connections {
            connection.write(OK).await;
        }
        connections
    };
    let (one, two, connections) = tokio::join!(pool.get("/1"), pool.get("/2"), serve_two);
    assert_eq!((read(one.unwrap()).await, read(two.unwrap()).await), ("ok".to_owned(), "ok".to_owned()));
    eventually("the streams are given back", || pool.in_flight() == 0).await;

    let [mut older, mut newer] = connections;
    let (answer, ()) = tokio::join!(pool.get("/3"), async {
        // Whichever of the two is used: both close without an answer.
        tokio::select! { _ = older.head() => {}, _ = newer.head() => {} }
        drop((older, newer));
        let mut fresh = member.accept().await;
        assert!(fresh.head().await.contains("/3"));
        fresh.write(OK).await;
    });
    assert_eq!(read(answer.unwrap()).await, "ok");
    assert_eq!(pool.dialer.dials(), 3);
}

#[tokio::test]
async fn body_that_is_dropped_closes_its_connection() {
    let member = RawMember::start().await;
    let pool = raw_pool(&member);
    let (answer, mut connection) = tokio::join!(pool.get("/watch"), async {
        let mut connection = member.accept().await;
        connection.head().await;
        connection.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await;
        connection
    });
    let mut body = answer.unwrap().into_body();
    assert_eq!(next_data(&mut body).await, "x");
    drop(body);
    connection.closed().await;
    eventually("the connection is gone", || pool.connections() == 0).await;
    assert_eq!(pool.in_flight(), 0);
}

#[tokio::test]
async fn request_that_is_dropped_closes_its_connection() {
    let member = RawMember::start().await;
    let pool = raw_pool(&member);
    let sent = pool.spawn_get("/");
    let mut connection = member.accept().await;
    connection.head().await;
    sent.abort();
    connection.closed().await;
    eventually("the connection is gone", || pool.connections() == 0).await;
}

#[tokio::test]
async fn connection_is_not_used_again_before_its_upload_is_over() {
    let member = RawMember::start().await;
    let pool = raw_pool(&member);
    let (feeder, body) = fed_body();
    let (answer, mut first) = tokio::join!(pool.send(request(Method::POST, "/upload", body)), async {
        let mut connection = member.accept().await;
        connection.head().await;
        connection.write(OK).await;
        connection
    });
    assert_eq!(read(answer.unwrap()).await, "ok");
    let (answer, _second) = tokio::join!(pool.text("/meanwhile"), async {
        let mut connection = member.accept().await;
        assert!(connection.head().await.contains("/meanwhile"));
        connection.write(OK).await;
        connection
    });
    assert_eq!(answer, "ok");
    drop(feeder);
    assert_eq!(first.until("0\r\n\r\n").await, "0\r\n\r\n");
    eventually("both streams are given back", || pool.in_flight() == 0).await;
    assert_eq!(pool.connections(), 2);
}

#[tokio::test]
async fn connection_that_says_close_is_not_used_again() {
    let member = RawMember::start().await;
    let pool = raw_pool(&member);
    for _ in 0..2 {
        let (answer, _connection) = tokio::join!(pool.get("/"), async {
            let mut connection = member.accept().await;
            connection.head().await;
            connection.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
            connection
        });
        assert_eq!(read(answer.unwrap()).await, "ok");
    }
    assert_eq!(pool.dialer.dials(), 2);
}

#[tokio::test]
async fn body_that_the_member_breaks_off_is_an_error() {
    let member = RawMember::start().await;
    let pool = raw_pool(&member);
    for head in ["content-length: 10", "transfer-encoding: chunked"] {
        let (answer, ()) = tokio::join!(pool.get("/"), async {
            let mut connection = member.accept().await;
            connection.head().await;
            connection.write(&format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n")).await;
            connection.write(if head.contains("chunked") { "2\r\nok\r\n" } else { "ok" }).await;
        });
        patiently(answer.unwrap().into_body().collect()).await.unwrap_err();
        eventually("the connection is gone", || pool.connections() == 0).await;
    }
}

#[tokio::test]
async fn response_head_of_half_a_megabyte_passes() {
    let member = RawMember::start().await;
    let pool = raw_pool(&member);
    let (answer, ()) = tokio::join!(pool.get("/"), async {
        let mut connection = member.accept().await;
        connection.head().await;
        let headers: String = (0..250).map(|n| format!("x-{n}: {:0>2000}\r\n", n)).collect();
        connection.write(&format!("HTTP/1.1 200 OK\r\n{headers}content-length: 2\r\n\r\nok")).await;
    });
    let answer = answer.unwrap();
    assert_eq!(answer.headers().len(), 251);
    assert_eq!(read(answer).await, "ok");
}
