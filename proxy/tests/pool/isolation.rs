//! What happens to one stream does not happen to its neighbours.

use http_body_util::BodyExt as _;
use upgrade_aware_proxy::{PoolConfig, Protocol};

use crate::support::{
    Pool, eventually,
    frames::{CANCEL, ScriptedMember, Seen},
    member::Member,
    next_data, patiently,
};

fn pool(member: &Member) -> Pool {
    Pool::new(member.address, Protocol::Http2, PoolConfig::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_reader_of_small_frames_does_not_break_its_neighbours() {
    let member = Member::http2(100).await;
    let pool = pool(&member);
    let mut watch = pool.get("/watch").await.unwrap().into_body();
    assert_eq!(next_data(&mut watch).await, "event\n");
    // 30 000 frames of 100 bytes: three stalled readers fill their windows with frames that are not read.
    let mut stalled = Vec::new();
    for _ in 0..3 {
        stalled.push(pool.get("/chunks/30000/100").await.unwrap().into_body());
    }
    // As much again passes by, so the frames of the stalled ones are here as far as they will ever be.
    assert_eq!(pool.text("/chunks/30000/100").await.len(), 3_000_000);
    member.event();
    assert_eq!(next_data(&mut watch).await, "event\n");
    for body in stalled {
        assert_eq!(patiently(body.collect()).await.unwrap().to_bytes().len(), 3_000_000);
    }
    assert_eq!(member.accepted(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_of_large_bodies_hold_up_nobody_else() {
    let member = Member::http2(100).await;
    let pool = pool(&member);
    let mut slow = Vec::new();
    for _ in 0..20 {
        slow.push(pool.get("/list/20000000").await.unwrap().into_body());
    }
    for _ in 0..3 {
        assert_eq!(pool.text("/list/5000000").await.len(), 5_000_000);
    }
    let finished = patiently(slow.pop().unwrap().collect()).await.unwrap();
    assert_eq!(finished.to_bytes().len(), 20_000_000);
    assert_eq!(member.accepted(), 1);
}

#[tokio::test]
async fn dropped_body_cancels_its_stream_and_no_other() {
    let member = ScriptedMember::start().await;
    let pool = Pool::new(member.address(), Protocol::Http2, PoolConfig::default());
    let one = pool.spawn_get("/one");
    let mut connection = member.accept(100).await;
    assert_eq!(connection.request().await, 1);
    connection.head(1).await;
    let two = pool.spawn_get("/two");
    assert_eq!(connection.request().await, 3);
    connection.head(3).await;
    let one = patiently(one).await.unwrap().unwrap();
    let mut two = patiently(two).await.unwrap().unwrap().into_body();
    drop(one);
    assert_eq!(connection.next().await, Seen::Reset { stream: 1, code: CANCEL });
    assert_eq!(pool.in_flight(), 1);
    connection.data(3, b"alive", false).await;
    assert_eq!(next_data(&mut two).await, "alive");
}

#[tokio::test]
async fn dropped_request_cancels_its_stream() {
    let member = ScriptedMember::start().await;
    let pool = Pool::new(member.address(), Protocol::Http2, PoolConfig::default());
    let sent = pool.spawn_get("/");
    let mut connection = member.accept(100).await;
    assert_eq!(connection.request().await, 1);
    sent.abort();
    assert_eq!(connection.next().await, Seen::Reset { stream: 1, code: CANCEL });
    eventually("the stream is given back", || pool.in_flight() == 0).await;
    assert_eq!(pool.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_clients_that_go_away_leave_the_connection_alone() {
    let member = Member::http2(100).await;
    let pool = pool(&member);
    let mut watch = pool.get("/watch").await.unwrap().into_body();
    assert_eq!(next_data(&mut watch).await, "event\n");
    // Each leaves while frames are on their way to it.
    for _ in 0..1500 {
        let mut body = pool.get("/chunks/60/100").await.unwrap().into_body();
        next_data(&mut body).await;
    }
    member.event();
    assert_eq!(next_data(&mut watch).await, "event\n");
    assert_eq!(member.accepted(), 1);
}
