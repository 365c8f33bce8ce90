//! Bodies in both directions, their ends, and the time that a response head may take.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use upgrade_aware_proxy::{BodyError, PoolConfig, Protocol, SendError};

use crate::support::{
    HEAD, Pool, eventually, fed_body,
    frames::{CANCEL, NO_ERROR, ScriptedMember, Seen},
    get,
    member::Member,
    next_data, patiently, post, read, request,
};

const BLINK: Duration = Duration::from_millis(100);

async fn scripted() -> (ScriptedMember, Pool) {
    let member = ScriptedMember::start().await;
    let pool = Pool::new(member.address(), Protocol::Http2, PoolConfig::default());
    (member, pool)
}

#[tokio::test]
async fn body_goes_there_and_back() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let member = match protocol {
            Protocol::Http1 => Member::http1().await,
            Protocol::Http2 => Member::http2(100).await,
        };
        let pool = Pool::new(member.address, protocol, PoolConfig::default());
        assert_eq!(read(pool.send(post("/echo", "payload")).await.unwrap()).await, "payload");

        let (feeder, body) = fed_body();
        let mut echo = pool.send(request(Method::PUT, "/echo", body)).await.unwrap().into_body();
        for chunk in ["one", "two"] {
            feeder.send(Ok(Bytes::from_static(chunk.as_bytes()))).await.unwrap();
            assert_eq!(next_data(&mut echo).await, chunk);
        }
        drop(feeder);
        assert!(patiently(echo.collect()).await.unwrap().to_bytes().is_empty());
        eventually("the streams are given back", || pool.in_flight() == 0).await;
    }
}

#[tokio::test]
async fn reset_without_an_error_is_no_end_of_a_body() {
    let (member, pool) = scripted().await;
    for code in [NO_ERROR, CANCEL] {
        let sent = pool.spawn_get("/");
        let mut connection = member.accept(1).await;
        assert_eq!(connection.request().await, 1);
        connection.head(1).await;
        connection.data(1, b"half", false).await;
        let mut body = patiently(sent).await.unwrap().unwrap().into_body();
        assert_eq!(next_data(&mut body).await, "half");
        connection.reset(1, code).await;
        let error = patiently(body.frame()).await.expect("looks like a clean end").unwrap_err();
        assert_eq!(matches!(error, BodyError::Truncated), code == NO_ERROR, "{error}");
        drop(body);
        connection.go_away(1, NO_ERROR).await;
        eventually("the connection is gone", || pool.connections() == 0).await;
    }
}

#[tokio::test]
async fn response_that_ends_before_the_upload_is_complete_all_the_same() {
    let (member, pool) = scripted().await;
    let (feeder, body) = fed_body();
    let (answer, mut connection) = tokio::join!(pool.send(request(Method::POST, "/", body)), async {
        let mut connection = member.accept(100).await;
        assert_eq!(connection.next().await, Seen::Request { stream: 1, end: false });
        connection.head(1).await;
        connection.data(1, b"too large", true).await;
        connection
    });
    assert_eq!(read(answer.unwrap()).await, "too large");
    // The peer still counts the stream: it is half open.
    assert_eq!(pool.in_flight(), 1);
    connection.reset(1, NO_ERROR).await;
    eventually("the stream is given back", || pool.in_flight() == 0).await;
    patiently(feeder.closed()).await;
}

#[tokio::test]
async fn dropped_response_stops_an_upload_that_goes_on() {
    let (member, pool) = scripted().await;
    let (feeder, body) = fed_body();
    let (answer, mut connection) = tokio::join!(pool.send(request(Method::POST, "/", body)), async {
        let mut connection = member.accept(100).await;
        assert_eq!(connection.request().await, 1);
        connection.head(1).await;
        connection
    });
    drop(answer.unwrap());
    assert!(matches!(connection.next().await, Seen::Reset { stream: 1, .. }));
    patiently(feeder.closed()).await;
    eventually("the stream is given back", || pool.in_flight() == 0).await;
}

#[tokio::test]
async fn body_of_the_client_that_fails_is_told_apart() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let member = match protocol {
            Protocol::Http1 => Member::http1().await,
            Protocol::Http2 => Member::http2(100).await,
        };
        let pool = Pool::new(member.address, protocol, PoolConfig::default());
        let (feeder, body) = fed_body();
        feeder.send(Err(std::io::Error::other("client hung up"))).await.unwrap();
        match pool.send(request(Method::POST, "/hang", body)).await {
            Err(SendError::RequestBody(why)) => assert!(why.contains("client hung up"), "{why}"),
            other => panic!("{other:?}"),
        }
        eventually("the stream is given back", || pool.in_flight() == 0).await;
    }
}

#[tokio::test]
async fn response_head_that_does_not_come_times_out_and_is_cancelled() {
    let (member, pool) = scripted().await;
    let (answer, mut connection) = tokio::join!(pool.upstream.send(get("/"), BLINK), async {
        let mut connection = member.accept(100).await;
        assert_eq!(connection.request().await, 1);
        connection
    });
    match answer {
        Err(SendError::HeadTimeout(limit)) => assert_eq!(limit, BLINK),
        other => panic!("{other:?}"),
    }
    assert_eq!(connection.next().await, Seen::Reset { stream: 1, code: CANCEL });
    assert_eq!(pool.connections(), 1);
}

#[tokio::test]
async fn upload_that_moves_is_not_cut_by_the_head_timeout() {
    let member = Member::http2(100).await;
    let pool = Pool::new(member.address, Protocol::Http2, PoolConfig::default());
    // A body that takes several head timeouts, at a pace well within one; the answer comes when it is complete.
    let (feeder, body) = fed_body();
    let fed = tokio::spawn(async move {
        for _ in 0..8 {
            tokio::time::sleep(BLINK / 2).await;
            feeder.send(Ok(Bytes::from_static(b"piece "))).await.unwrap();
        }
    });
    let answer = pool.upstream.send(request(Method::POST, "/collect", body), BLINK * 2).await.unwrap();
    assert_eq!(read(answer).await, "piece ".repeat(8));
    fed.await.unwrap();
}

#[tokio::test]
async fn upload_that_stands_still_is_cut_by_the_head_timeout() {
    let member = Member::http2(100).await;
    let pool = Pool::new(member.address, Protocol::Http2, PoolConfig::default());
    let (feeder, body) = fed_body();
    feeder.send(Ok(Bytes::from_static(b"piece"))).await.unwrap();
    let answer = pool.upstream.send(request(Method::POST, "/collect", body), BLINK).await;
    assert!(matches!(answer, Err(SendError::HeadTimeout(_))), "{answer:?}");
    patiently(feeder.closed()).await;
}

#[tokio::test]
async fn waiting_for_a_stream_is_not_counted_against_the_head_timeout() {
    let member = Member::http2(1).await;
    let config = PoolConfig { max_connections: 1, busy_wait: HEAD, ..PoolConfig::default() };
    let pool = Pool::new(member.address, Protocol::Http2, config);
    let watch = pool.get("/watch").await.unwrap();
    let waited = tokio::time::Instant::now();
    let (answer, ()) = tokio::join!(patiently(pool.upstream.send(get("/"), BLINK)), async {
        eventually("the head timeout has passed", || waited.elapsed() > BLINK * 2).await;
        drop(watch);
    });
    assert_eq!(read(answer.unwrap()).await, "hello");
}
