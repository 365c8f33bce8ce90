//! Streams are counted, and connections opened before anybody queues.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::future::join_all;
use upgrade_aware_proxy::{
    Dial, DialError, DialStage, Dialed, PoolConfig, Protocol, Purpose, SendError, Upstream,
};

use crate::support::{
    HEAD, Pool, eventually,
    frames::{ScriptedMember, Seen},
    get,
    member::Member,
    next_data, patiently, read,
};

fn pool(member: &Member) -> Pool {
    Pool::new(member.address, Protocol::Http2, PoolConfig::default())
}

#[tokio::test]
async fn burst_on_a_cold_pool_shares_one_connection() {
    let member = Member::http2(100).await;
    let pool = pool(&member);
    let answers = join_all((0..50).map(|_| pool.text("/"))).await;
    assert_eq!(answers, vec!["hello"; 50]);
    assert_eq!(pool.dialer.dials(), 1);
}

#[tokio::test]
async fn sequential_requests_share_one_connection() {
    let member = Member::http2(100).await;
    let pool = pool(&member);
    for _ in 0..100 {
        pool.text("/").await;
    }
    assert_eq!(pool.dialer.dials(), 1);
    assert_eq!(pool.in_flight(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_never_starve_a_get() {
    let member = Member::http2(100).await;
    let pool = pool(&member);
    let mut watches = Vec::new();
    for response in join_all((0..350).map(|_| pool.get("/watch"))).await {
        let mut body = response.unwrap().into_body();
        assert_eq!(next_data(&mut body).await, "event\n");
        watches.push(body);
    }
    assert_eq!(pool.in_flight(), 350);
    for _ in 0..20 {
        assert_eq!(pool.text("/").await, "hello");
    }
    member.event();
    for body in &mut watches {
        assert_eq!(next_data(body).await, "event\n");
    }
    assert!((4..=6).contains(&member.accepted()), "{} connections", member.accepted());
    assert_eq!(pool.connections(), member.accepted());
    drop(watches);
    eventually("all watches are cancelled", || member.watches() == 0).await;
    assert_eq!(pool.in_flight(), 0);
}

#[tokio::test]
async fn next_connection_is_opened_before_the_last_one_is_full() {
    let member = Member::http2(100).await;
    let pool = pool(&member);
    let mut watches = Vec::new();
    for _ in 0..91 {
        watches.push(pool.get("/watch").await.unwrap());
    }
    eventually("a second connection is there", || pool.connections() == 2).await;
}

#[tokio::test]
async fn burst_beyond_a_small_limit_opens_as_many_connections_as_it_takes() {
    let member = Member::http2(10).await;
    let pool = pool(&member);
    let watches = join_all((0..45).map(|_| pool.get("/watch"))).await;
    assert!(watches.iter().all(Result::is_ok));
    assert_eq!(pool.in_flight(), 45);
    assert!((5..=7).contains(&member.accepted()), "{} connections", member.accepted());
}

#[tokio::test]
async fn own_limit_holds_where_the_peer_has_none() {
    let member = Member::http2(u32::MAX).await;
    let config = PoolConfig { max_streams_per_connection: 5, ..PoolConfig::default() };
    let pool = Pool::new(member.address, Protocol::Http2, config);
    let watches = join_all((0..20).map(|_| pool.get("/watch"))).await;
    assert!(watches.iter().all(Result::is_ok));
    assert_eq!(member.accepted(), 4);
}

#[tokio::test]
async fn one_request_goes_out_before_settings_and_the_others_wait_for_them() {
    let member = ScriptedMember::start().await;
    let pool = Pool::new(member.address(), Protocol::Http2, PoolConfig::default());
    let requests: Vec<_> = (0..3).map(|_| pool.spawn_get("/")).collect();
    let mut connection = member.accept_silently().await;
    assert_eq!(connection.next().await, Seen::Request { stream: 1, end: true });
    connection.settings(100).await;
    assert_eq!(connection.next().await, Seen::Request { stream: 3, end: true });
    assert_eq!(connection.next().await, Seen::Request { stream: 5, end: true });
    for stream in [1, 3, 5] {
        connection.answer(stream).await;
    }
    for request in requests {
        assert_eq!(patiently(request).await.unwrap().unwrap().status(), 200);
    }
}

#[tokio::test]
async fn peer_that_never_sends_settings_fails_those_who_wait() {
    let member = ScriptedMember::start().await;
    let config = PoolConfig { ping_timeout: Duration::from_millis(100), ..PoolConfig::default() };
    let pool = Pool::new(member.address(), Protocol::Http2, config);
    let first = pool.spawn_get("/");
    let mut connection = member.accept_silently().await;
    assert_eq!(connection.request().await, 1);
    let second = pool.get("/").await;
    match second {
        Err(SendError::Dial(error @ DialError::TimedOut { .. })) => {
            assert_eq!(error.stage(), DialStage::Http)
        }
        other => panic!("{other:?}"),
    }
    // The one that was sent may still be answered.
    connection.settings(100).await;
    connection.answer(1).await;
    assert_eq!(patiently(first).await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn limit_that_the_peer_raises_serves_those_who_wait() {
    let member = ScriptedMember::start().await;
    let config =
        PoolConfig { max_connections: 1, busy_wait: Duration::from_secs(15), ..PoolConfig::default() };
    let pool = Pool::new(member.address(), Protocol::Http2, config);
    let first = pool.spawn_get("/");
    let mut connection = member.accept(1).await;
    assert_eq!(connection.request().await, 1);
    connection.head(1).await;
    let first = patiently(first).await.unwrap().unwrap();
    let second = pool.spawn_get("/");
    connection.settings(2).await;
    assert_eq!(connection.request().await, 3);
    connection.data(1, b"one", true).await;
    connection.answer(3).await;
    assert_eq!(read(first).await, "one");
    assert_eq!(patiently(second).await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn limit_that_the_peer_lowers_is_kept() {
    let member = ScriptedMember::start().await;
    let config =
        PoolConfig { max_connections: 1, busy_wait: Duration::from_millis(50), ..PoolConfig::default() };
    let pool = Pool::new(member.address(), Protocol::Http2, config);
    let first = pool.spawn_get("/");
    let mut connection = member.accept(100).await;
    assert_eq!(connection.request().await, 1);
    connection.settings(1).await;
    connection.head(1).await;
    let first = patiently(first).await.unwrap().unwrap();
    match pool.get("/").await {
        Err(SendError::Exhausted { connections: 1 }) => {}
        other => panic!("{other:?}"),
    }
    connection.data(1, b"one", true).await;
    assert_eq!(read(first).await, "one");
    let second = pool.spawn_get("/");
    assert_eq!(connection.request().await, 3);
    connection.answer(3).await;
    assert_eq!(patiently(second).await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn full_pool_makes_wait_and_then_gives_up() {
    let member = Member::http2(2).await;
    let config =
        PoolConfig { max_connections: 2, busy_wait: Duration::from_millis(100), ..PoolConfig::default() };
    let pool = Pool::new(member.address, Protocol::Http2, config);
    let mut watches = join_all((0..4).map(|_| pool.get("/watch"))).await;
    match pool.get("/").await {
        Err(SendError::Exhausted { connections: 2 }) => {}
        other => panic!("{other:?}"),
    }
    drop(watches.pop());
    assert_eq!(pool.text("/").await, "hello");
    assert_eq!(pool.dialer.dials(), 2);
}

#[tokio::test]
async fn stream_that_ends_in_time_serves_the_one_who_waits() {
    let member = Member::http2(1).await;
    let config =
        PoolConfig { max_connections: 1, busy_wait: Duration::from_secs(15), ..PoolConfig::default() };
    let pool = Pool::new(member.address, Protocol::Http2, config);
    let watch = pool.get("/watch").await.unwrap();
    let waiting = pool.spawn_get("/");
    tokio::task::yield_now().await;
    drop(watch);
    assert_eq!(read(patiently(waiting).await.unwrap().unwrap()).await, "hello");
}

#[tokio::test]
async fn failed_dial_is_told_to_everybody_who_waited_for_it() {
    let member = Member::http2(100).await;
    let pool = pool(&member);
    pool.dialer.fail_from_now_on();
    for answer in join_all((0..20).map(|_| pool.get("/"))).await {
        assert!(matches!(answer, Err(SendError::Dial(DialError::Failed { .. }))), "{answer:?}");
    }
    assert_eq!(pool.dialer.dials(), 1);
}

#[tokio::test]
async fn waiter_that_goes_away_leaves_its_place_to_the_next() {
    let member = Member::http2(1).await;
    let config =
        PoolConfig { max_connections: 1, busy_wait: Duration::from_secs(15), ..PoolConfig::default() };
    let pool = Pool::new(member.address, Protocol::Http2, config);
    let watch = pool.get("/watch").await.unwrap();
    let [gone, waiting] = [pool.spawn_get("/"), pool.spawn_get("/")];
    tokio::task::yield_now().await;
    gone.abort();
    gone.await.unwrap_err();
    drop(watch);
    assert_eq!(read(patiently(waiting).await.unwrap().unwrap()).await, "hello");
    assert_eq!(pool.in_flight(), 0);
}

#[tokio::test]
async fn dialer_that_panics_fails_those_who_waited_for_it() {
    struct Panics;
    impl Dial for Panics {
        fn dial(&self, _: Purpose) -> Pin<Box<dyn Future<Output = Result<Dialed, DialError>> + Send + '_>> {
            panic!("the dialer panics");
        }
    }
    let upstream = Upstream::new(Arc::new(Panics), PoolConfig::default());
    let answer = patiently(upstream.send(get("/"), HEAD)).await;
    assert!(matches!(answer, Err(SendError::Dial(_))), "{answer:?}");
}
