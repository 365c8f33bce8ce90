//! Connections come and go: idle ones, dead ones, and those of an upstream that is closed.

use std::{sync::Arc, time::Duration};

use upgrade_aware_proxy::{PoolConfig, Protocol, SendError};

use crate::support::{
    Pool, eventually,
    frames::{ScriptedMember, Seen},
    get,
    lines::{OK, RawMember},
    member::Member,
    next_data, patiently, read,
};

const BLINK: Duration = Duration::from_millis(50);

#[tokio::test]
async fn idle_http2_connection_is_closed() {
    let member = ScriptedMember::start().await;
    let config = PoolConfig { idle_timeout: BLINK, ..PoolConfig::default() };
    let pool = Pool::new(member.address(), Protocol::Http2, config);
    let (answer, mut connection) = tokio::join!(pool.get("/"), async {
        let mut connection = member.accept(100).await;
        assert_eq!(connection.request().await, 1);
        connection.answer(1).await;
        connection
    });
    assert_eq!(answer.unwrap().status(), 200);
    assert_eq!(connection.next().await, Seen::GoAway);
    assert_eq!(connection.next().await, Seen::Closed);
    eventually("the connection is gone", || pool.connections() == 0).await;
}

#[tokio::test]
async fn idle_http1_connection_is_closed() {
    let member = RawMember::start().await;
    let config = PoolConfig { idle_timeout: BLINK, ..PoolConfig::default() };
    let pool = Pool::new(member.address(), Protocol::Http1, config);
    for _ in 0..2 {
        let (answer, mut connection) = tokio::join!(pool.text("/"), async {
            let mut connection = member.accept().await;
            connection.head().await;
            connection.write(OK).await;
            connection
        });
        assert_eq!(answer, "ok");
        connection.closed().await;
        eventually("the connection is gone", || pool.connections() == 0).await;
    }
}

#[tokio::test]
async fn busy_connection_is_not_idle() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let member = match protocol {
            Protocol::Http1 => Member::http1().await,
            Protocol::Http2 => Member::http2(100).await,
        };
        let config = PoolConfig { idle_timeout: Duration::from_millis(5), ..PoolConfig::default() };
        let pool = Pool::new(member.address, protocol, config);
        let mut watch = pool.get("/watch").await.unwrap().into_body();
        assert_eq!(next_data(&mut watch).await, "event\n");
        let quiet = tokio::time::Instant::now();
        eventually("ten idle timeouts have passed", || quiet.elapsed() > BLINK).await;
        member.event();
        assert_eq!(next_data(&mut watch).await, "event\n");
        assert_eq!(pool.dialer.dials(), 1);
    }
}

#[tokio::test]
async fn dead_peer_is_found_by_a_ping_that_is_not_answered() {
    let member = ScriptedMember::start().await;
    let config = PoolConfig { ping_interval: BLINK, ping_timeout: BLINK * 4, ..PoolConfig::default() };
    let pool = Pool::new(member.address(), Protocol::Http2, config);
    let watch = pool.spawn_get("/watch");
    let mut connection = member.accept(100).await;
    assert_eq!(connection.request().await, 1);
    connection.head(1).await;
    let mut watch = patiently(watch).await.unwrap().unwrap().into_body();
    let unanswered = pool.spawn_get("/");
    assert_eq!(connection.request().await, 3);

    // From here on the member reads, but says nothing.
    assert_eq!(connection.next().await, Seen::Ping);
    let broken = patiently(http_body_util::BodyExt::frame(&mut watch)).await.unwrap();
    broken.unwrap_err();
    let unanswered = patiently(unanswered).await.unwrap();
    assert!(matches!(unanswered, Err(SendError::Broken(_))), "{unanswered:?}");
    eventually("the connection is gone", || pool.connections() == 0).await;
    assert_eq!(pool.in_flight(), 0);
}

#[tokio::test]
async fn closed_upstream_lets_busy_connections_finish_and_closes_the_others() {
    let member = Member::http2(1).await;
    let pool = Pool::new(member.address, Protocol::Http2, PoolConfig::default());
    let mut watch = pool.get("/watch").await.unwrap().into_body();
    assert_eq!(next_data(&mut watch).await, "event\n");
    assert_eq!(pool.text("/").await, "hello");
    assert_eq!(pool.connections(), 2);

    pool.upstream.close();
    eventually("the idle connection is gone", || pool.connections() == 1).await;
    member.event();
    assert_eq!(next_data(&mut watch).await, "event\n");
    drop(watch);
    eventually("the busy connection is gone", || pool.connections() == 0).await;
}

#[tokio::test]
async fn request_after_close_is_served_by_a_connection_that_is_not_kept() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let member = match protocol {
            Protocol::Http1 => Member::http1().await,
            Protocol::Http2 => Member::http2(100).await,
        };
        let pool = Pool::new(member.address, protocol, PoolConfig::default());
        pool.upstream.close();
        for served in 1..3 {
            assert_eq!(pool.text("/").await, "hello");
            eventually("the connection is gone", || pool.connections() == 0).await;
            assert_eq!(pool.dialer.dials(), served);
        }
    }
}

#[tokio::test]
async fn dropping_the_upstream_closes_its_connections_but_not_its_bodies() {
    let member = ScriptedMember::start().await;
    let Pool { upstream, dialer } = Pool::new(member.address(), Protocol::Http2, PoolConfig::default());
    let sent = tokio::spawn({
        let upstream = Arc::clone(&upstream);
        async move { upstream.send(get("/"), Duration::from_secs(15)).await }
    });
    let mut connection = member.accept(100).await;
    assert_eq!(connection.request().await, 1);
    connection.head(1).await;
    let answer = patiently(sent).await.unwrap().unwrap();
    drop(upstream);
    connection.data(1, b"still here", true).await;
    assert_eq!(read(answer).await, "still here");
    assert_eq!(connection.next().await, Seen::GoAway);
    assert_eq!(connection.next().await, Seen::Closed);
    eventually("nothing holds the pool", || Arc::strong_count(&dialer) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_leave_nothing_behind() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let member = match protocol {
            Protocol::Http1 => Member::http1().await,
            Protocol::Http2 => Member::http2(100).await,
        };
        let pool = Arc::new(Pool::new(member.address, protocol, PoolConfig::default()));
        let workers: Vec<_> = (0..10)
            .map(|_| {
                let pool = Arc::clone(&pool);
                tokio::spawn(async move {
                    for _ in 0..1000 {
                        assert_eq!(pool.text("/").await, "hello");
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.await.unwrap();
        }
        eventually("all streams are given back", || pool.in_flight() == 0).await;
        assert_eq!(member.requests(), 10_000);
        let expected = if protocol == Protocol::Http2 { 1 } else { 20 };
        assert!(member.accepted() <= expected, "{} connections", member.accepted());
    }
}
