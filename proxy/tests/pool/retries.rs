//! A request is sent once more only if the target surely did not process it and its body is whole.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Method;
use upgrade_aware_proxy::{PoolConfig, Protocol, SendError};

use crate::support::{
    Pool, fed_body,
    frames::{ENHANCE_YOUR_CALM, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM, Scripted, ScriptedMember, Seen},
    get,
    member::Member,
    patiently, post, read, request,
};

fn pool(member: &ScriptedMember) -> Pool {
    Pool::new(member.address(), Protocol::Http2, PoolConfig::default())
}

/// A connection that has served one request.
async fn warm_up(pool: &Pool, member: &ScriptedMember) -> Scripted {
    let (answer, connection) = tokio::join!(pool.get("/warm-up"), async {
        let mut connection = member.accept(100).await;
        assert_eq!(connection.request().await, 1);
        connection.answer(1).await;
        connection
    });
    assert_eq!(answer.unwrap().status(), 200);
    connection
}

#[tokio::test]
async fn refused_get_is_sent_once_more_on_a_fresh_connection() {
    let member = ScriptedMember::start().await;
    let pool = pool(&member);
    let mut first = warm_up(&pool, &member).await;
    let (answer, _second) = tokio::join!(pool.get("/"), async {
        let stream = first.request().await;
        first.reset(stream, REFUSED_STREAM).await;
        let mut second = member.accept(100).await;
        assert_eq!(second.next().await, Seen::Request { stream: 1, end: true });
        second.answer(1).await;
        second
    });
    assert_eq!(answer.unwrap().status(), 200);
    assert_eq!(pool.dialer.dials(), 2);
}

#[tokio::test]
async fn request_refused_twice_is_not_processed() {
    let member = ScriptedMember::start().await;
    let pool = pool(&member);
    let (answer, connections) = tokio::join!(pool.get("/"), async {
        let mut connections = Vec::new();
        for _ in 0..2 {
            let mut connection = member.accept(100).await;
            let stream = connection.request().await;
            connection.reset(stream, REFUSED_STREAM).await;
            connections.push(connection);
        }
        connections
    });
    assert!(matches!(answer, Err(SendError::NotProcessed(_))), "{answer:?}");
    assert_eq!(connections.len(), pool.dialer.dials());
}

#[tokio::test]
async fn many_refused_requests_share_one_fresh_connection() {
    let member = ScriptedMember::start().await;
    let pool = pool(&member);
    let mut first = warm_up(&pool, &member).await;
    let requests: Vec<_> = (0..20).map(|_| pool.spawn_get("/")).collect();
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(first.request().await);
    }
    for stream in streams {
        first.reset(stream, REFUSED_STREAM).await;
    }
    let mut second = member.accept(100).await;
    for _ in 0..20 {
        let stream = second.request().await;
        second.answer(stream).await;
    }
    for request in requests {
        assert_eq!(patiently(request).await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(pool.dialer.dials(), 2);
}

#[tokio::test]
async fn refused_post_with_an_untouched_body_is_sent_once_more() {
    let member = ScriptedMember::start().await;
    let pool = pool(&member);
    let (feeder, body) = fed_body();
    let (answer, ()) = tokio::join!(pool.send(request(Method::POST, "/", body)), async {
        let mut first = member.accept(100).await;
        assert_eq!(first.next().await, Seen::Request { stream: 1, end: false });
        first.reset(1, REFUSED_STREAM).await;
        let mut second = member.accept(100).await;
        assert_eq!(second.next().await, Seen::Request { stream: 1, end: false });
        feeder.send(Ok(Bytes::from_static(b"payload"))).await.unwrap();
        drop(feeder);
        assert_eq!(second.next().await, Seen::Data { stream: 1, bytes: b"payload".to_vec(), end: false });
        assert_eq!(second.next().await, Seen::Data { stream: 1, bytes: Vec::new(), end: true });
        second.answer(1).await;
    });
    assert_eq!(answer.unwrap().status(), 200);
}

#[tokio::test]
async fn refused_post_with_an_empty_body_is_sent_once_more() {
    let member = ScriptedMember::start().await;
    let pool = pool(&member);
    let (answer, ()) = tokio::join!(pool.send(post("/", "")), async {
        let mut first = member.accept(100).await;
        assert_eq!(first.next().await, Seen::Request { stream: 1, end: true });
        first.reset(1, REFUSED_STREAM).await;
        let mut second = member.accept(100).await;
        assert_eq!(second.next().await, Seen::Request { stream: 1, end: true });
        second.answer(1).await;
    });
    assert_eq!(answer.unwrap().status(), 200);
}

#[tokio::test]
async fn refused_post_with_a_touched_body_is_not_repeated() {
    let member = ScriptedMember::start().await;
    let pool = pool(&member);
    let (answer, ()) = tokio::join!(pool.send(post("/", "payload")), async {
        let mut first = member.accept(100).await;
        assert_eq!(first.request().await, 1);
        first.reset(1, REFUSED_STREAM).await;
    });
    assert!(matches!(answer, Err(SendError::NotProcessed(_))), "{answer:?}");
    assert_eq!(pool.dialer.dials(), 1);
}

#[tokio::test]
async fn requests_above_the_last_stream_of_a_goaway_are_sent_once_more_and_the_others_finish() {
    let member = ScriptedMember::start().await;
    let pool = pool(&member);
    let mut first = warm_up(&pool, &member).await;
    let list = pool.spawn_get("/list");
    assert_eq!(first.request().await, 3);
    let watch = pool.spawn_get("/watch");
    assert_eq!(first.request().await, 5);
    let late = pool.spawn_get("/late");
    assert_eq!(first.request().await, 7);
    first.go_away(5, NO_ERROR).await;

    let mut second = member.accept(100).await;
    assert_eq!(second.request().await, 1);
    second.answer(1).await;
    assert_eq!(patiently(late).await.unwrap().unwrap().status(), 200);

    first.head(3).await;
    first.data(3, b"items", true).await;
    first.head(5).await;
    first.data(5, b"event", false).await;
    assert_eq!(read(patiently(list).await.unwrap().unwrap()).await, "items");
    let watch = patiently(watch).await.unwrap().unwrap();

    // The connection takes no further requests, while its watch goes on.
    let after = pool.spawn_get("/after");
    assert_eq!(second.request().await, 3);
    second.answer(3).await;
    assert_eq!(patiently(after).await.unwrap().unwrap().status(), 200);
    assert_eq!(pool.connections(), 2);
    first.data(5, b"!", true).await;
    assert_eq!(read(watch).await, "event!");
    assert_eq!(first.next().await, Seen::GoAway);
    assert_eq!(first.next().await, Seen::Closed);
}

#[tokio::test]
async fn post_above_the_last_stream_of_a_goaway_is_not_processed() {
    let member = ScriptedMember::start().await;
    let pool = pool(&member);
    let mut first = warm_up(&pool, &member).await;
    let (answer, ()) = tokio::join!(pool.send(post("/", "payload")), async {
        assert_eq!(first.request().await, 3);
        first.go_away(1, NO_ERROR).await;
    });
    assert!(matches!(answer, Err(SendError::NotProcessed(_))), "{answer:?}");
    assert_eq!(pool.dialer.dials(), 1);
}

#[tokio::test]
async fn goaway_with_an_error_is_not_answered_with_another_attempt() {
    let member = ScriptedMember::start().await;
    let pool = pool(&member);
    let mut first = warm_up(&pool, &member).await;
    let (answer, ()) = tokio::join!(pool.get("/"), async {
        assert_eq!(first.request().await, 3);
        first.go_away(1, ENHANCE_YOUR_CALM).await;
    });
    assert!(matches!(answer, Err(SendError::NotProcessed(_))), "{answer:?}");
    assert_eq!(pool.dialer.dials(), 1);
}

#[tokio::test]
async fn goaway_without_a_request_in_flight_is_not_noticed_by_the_next_one() {
    let member = ScriptedMember::start().await;
    let pool = pool(&member);
    let mut first = warm_up(&pool, &member).await;
    first.go_away(1, NO_ERROR).await;
    assert_eq!(first.next().await, Seen::GoAway);
    assert_eq!(first.next().await, Seen::Closed);
    let (answer, ()) = tokio::join!(pool.send(post("/", "payload")), async {
        let mut second = member.accept(100).await;
        assert_eq!(second.request().await, 1);
        second.answer(1).await;
    });
    assert_eq!(answer.unwrap().status(), 200);
}

#[tokio::test]
async fn stream_that_is_reset_with_an_error_is_broken() {
    let member = ScriptedMember::start().await;
    let pool = pool(&member);
    let mut first = warm_up(&pool, &member).await;
    for request in [get("/"), post("/", "payload")] {
        let (answer, ()) = tokio::join!(pool.send(request), async {
            let stream = loop {
                if let Seen::Request { stream, .. } = first.next().await {
                    break stream;
                }
            };
            first.reset(stream, INTERNAL_ERROR).await;
        });
        assert!(matches!(answer, Err(SendError::Broken(_))), "{answer:?}");
    }
    assert_eq!(pool.dialer.dials(), 1);
}

#[tokio::test]
async fn connection_that_breaks_during_a_request_is_broken() {
    let member = ScriptedMember::start().await;
    let pool = pool(&member);
    for request in [get("/"), post("/", "payload")] {
        let (answer, ()) = tokio::join!(pool.send(request), async {
            let mut connection = member.accept(100).await;
            connection.request().await;
        });
        assert!(matches!(answer, Err(SendError::Broken(_))), "{answer:?}");
    }
    assert_eq!(pool.dialer.dials(), 2);
}

#[tokio::test]
async fn unprocessed_request_without_a_fresh_connection_stays_unprocessed() {
    let member = ScriptedMember::start().await;
    let pool = pool(&member);
    let mut first = warm_up(&pool, &member).await;
    pool.dialer.fail_from_now_on();
    let (answer, ()) = tokio::join!(pool.get("/"), async {
        let stream = first.request().await;
        first.reset(stream, REFUSED_STREAM).await;
    });
    match answer {
        Err(SendError::NotProcessed(why)) => {
            assert!(why.contains("refused") && why.contains("told to fail"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn refused_request_at_the_ceiling_is_not_processed() {
    let member = ScriptedMember::start().await;
    let config =
        PoolConfig { max_connections: 1, busy_wait: Duration::from_millis(50), ..PoolConfig::default() };
    let pool = Pool::new(member.address(), Protocol::Http2, config);
    let mut first = warm_up(&pool, &member).await;
    let (answer, ()) = tokio::join!(pool.get("/"), async {
        let stream = first.request().await;
        first.reset(stream, REFUSED_STREAM).await;
    });
    assert!(matches!(answer, Err(SendError::NotProcessed(_))), "{answer:?}");
    assert_eq!(pool.dialer.dials(), 1);
}

#[tokio::test]
async fn upload_in_flight_at_a_goaway_finishes() {
    let member = ScriptedMember::start().await;
    let pool = pool(&member);
    let (feeder, body) = fed_body();
    let (answer, ()) = tokio::join!(pool.send(request(Method::POST, "/", body)), async {
        let mut first = member.accept(100).await;
        assert_eq!(first.next().await, Seen::Request { stream: 1, end: false });
        first.go_away(1, NO_ERROR).await;
        feeder.send(Ok(Bytes::from_static(b"payload"))).await.unwrap();
        drop(feeder);
        assert_eq!(first.next().await, Seen::Data { stream: 1, bytes: b"payload".to_vec(), end: false });
        assert_eq!(first.next().await, Seen::Data { stream: 1, bytes: Vec::new(), end: true });
        first.answer(1).await;
        assert_eq!(first.next().await, Seen::GoAway);
    });
    assert_eq!(answer.unwrap().status(), 200);
    assert_eq!(pool.dialer.dials(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn member_that_restarts_all_the_time_never_sees_a_request_twice() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (member, served) = Member::restless(protocol, 50).await;
        let pool = Arc::new(Pool::new(member.address, protocol, PoolConfig::default()));
        let workers: Vec<_> = (0..20)
            .map(|worker| {
                let pool = Arc::clone(&pool);
                tokio::spawn(async move {
                    let mut succeeded = Vec::new();
                    for number in 0..100 {
                        let path = format!("/echo/post-{worker}-{number}");
                        if let Ok(answer) = pool.send(post(&path, "payload")).await {
                            assert_eq!(read(answer).await, "payload");
                            succeeded.push(path);
                        }
                    }
                    succeeded
                })
            })
            .collect();
        let mut succeeded = Vec::new();
        for worker in workers {
            succeeded.extend(worker.await.unwrap());
        }
        let mut served = served.lock().unwrap().clone();
        served.sort_unstable();
        assert!(member.accepted() > 10, "the member did not restart");
        let twice = served.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(twice, None);
        assert!(succeeded.iter().all(|path| served.binary_search(path).is_ok()));
        assert!(succeeded.len() > 1000, "only {} of 2000 succeeded", succeeded.len());
    }
}
