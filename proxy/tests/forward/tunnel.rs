//! What happens to bytes once the 101 is through.

use std::time::Duration;

use upgrade_aware_proxy::{Timeouts, Tunnels};

use crate::support::{
    Http,
    front::{Front, proxy_with, target},
    member::RawMember,
    raw::Socket,
    soon,
};

const REQUEST: &str = "POST /attach HTTP/1.1\r\nHost: f\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";

/// Both ends of a tunnel, and what must stay alive for it.
struct Tunnel {
    client: Socket,
    member: Socket,
    _front: Front,
    _member: RawMember,
}

async fn tunnel(timeouts: Timeouts) -> Tunnel {
    let (hand_over, mut handed_over) = tokio::sync::mpsc::channel(1);
    let member = RawMember::scripted(move |mut socket| {
        let hand_over = hand_over.clone();
        async move {
            socket.head().await.unwrap();
            socket.send(SWITCHING).await;
            assert!(hand_over.send(socket).await.is_ok());
        }
    })
    .await;
    let front =
        Front::start(Http::One, proxy_with(timeouts, Tunnels::default()), target(member.dial())).await;
    let mut client = front.socket().await;
    assert_eq!(client.ask(REQUEST).await.status, 101);
    let member_end = handed_over.recv().await.unwrap();
    Tunnel { client, member: member_end, _front: front, _member: member }
}

/// Bytes that repeat only after a prime length, so that a lost or doubled piece shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

#[tokio::test]
async fn bytes_sent_right_behind_the_request_arrive() {
    let member = RawMember::scripted(|mut socket| async move {
        socket.head().await.unwrap();
        socket.send(SWITCHING).await;
        assert_eq!(socket.bytes(14).await, b"PIPELINED,MORE");
        socket.send("seen").await;
    })
    .await;
    let front = Front::of(target(member.dial())).await;
    let mut client = front.socket().await;
    client.send(format!("{REQUEST}PIPELINED")).await;
    client.send(",MORE").await;
    assert_eq!(client.answer().await.status, 101);
    assert_eq!(client.rest().await, b"seen");
}

#[tokio::test]
async fn bytes_sent_with_the_101_arrive_in_one_piece_or_byte_by_byte() {
    for piece in [usize::MAX, 1] {
        let member = RawMember::scripted(move |mut socket| async move {
            socket.head().await.unwrap();
            let early = format!("HTTP/1.1 100 Continue\r\n\r\n{SWITCHING}EARLY BYTES");
            for part in early.as_bytes().chunks(piece.min(early.len())) {
                socket.send(part).await;
                tokio::task::yield_now().await;
            }
        })
        .await;
        let front = Front::of(target(member.dial())).await;
        let mut client = front.socket().await;
        assert_eq!(client.ask(REQUEST).await.status, 101);
        assert_eq!(client.rest().await, b"EARLY BYTES");
    }
}

#[tokio::test]
async fn member_answers_after_the_client_has_finished() {
    let Tunnel { mut client, mut member, _front, _member } = tunnel(Timeouts::default()).await;
    client.send("question").await;
    client.finish().await;
    assert_eq!(member.rest().await, b"question");
    member.send("answer").await;
    drop(member);
    assert_eq!(client.rest().await, b"answer");
}

#[tokio::test]
async fn client_is_heard_after_the_member_has_finished() {
    let Tunnel { mut client, mut member, _front, _member } = tunnel(Timeouts::default()).await;
    member.send("done").await;
    member.finish().await;
    assert_eq!(client.rest().await, b"done");
    client.send("thanks").await;
    client.finish().await;
    assert_eq!(member.rest().await, b"thanks");
}

#[tokio::test]
async fn slow_reader_gets_every_byte_after_the_member_is_gone() {
    let Tunnel { mut client, mut member, _front, _member } = tunnel(Timeouts::default()).await;
    let sent = pattern(10 << 20);
    let expected = sent.clone();
    let sender = tokio::spawn(async move {
        member.send(sent).await;
    });
    let mut got = client.bytes(1).await;
    assert!(!sender.is_finished(), "the member waits for the reader");
    got.extend(client.rest().await);
    assert!(got == expected, "{} bytes arrived", got.len());
}

#[tokio::test]
async fn slow_reader_that_keeps_talking_gets_every_byte_after_the_member_has_finished() {
    let Tunnel { mut client, mut member, _front, _member } = tunnel(Timeouts::default()).await;
    let sent = pattern(10 << 20);
    let expected = sent.clone();
    let sender = tokio::spawn(async move {
        member.send(sent).await;
        member.finish().await;
        member.rest().await
    });
    let mut got = Vec::new();
    while got.len() < expected.len() {
        client.send("ping").await;
        got.extend(client.bytes(256 << 10).await);
    }
    assert!(got == expected);
    client.finish().await;
    assert_eq!(client.rest().await, b"");
    assert_eq!(soon(sender).await.unwrap(), b"ping".repeat(40));
}

#[tokio::test]
async fn bulk_flows_both_ways_at_once() {
    let Tunnel { mut client, mut member, _front, _member } = tunnel(Timeouts::default()).await;
    let (up, down) = (pattern(5 << 20), pattern(7 << 20));
    let exchange = async {
        let (mut client_reads, mut member_reads) = (client.split(), member.split());
        tokio::join!(
            client_reads.1.send(&up),
            member_reads.1.send(&down),
            client_reads.0.expect(&down),
            member_reads.0.expect(&up),
        );
    };
    soon(exchange).await;
}

#[tokio::test]
async fn member_that_only_finished_does_not_keep_a_silent_client_for_ever() {
    let timeouts = Timeouts { half_close_grace: Duration::from_millis(100), ..Timeouts::default() };
    let Tunnel { client: _client, mut member, _front, _member } = tunnel(timeouts).await;
    member.finish().await;
    assert_eq!(member.rest().await, b"");
}

#[tokio::test]
async fn client_that_only_finished_does_not_keep_a_silent_member_for_ever() {
    let timeouts = Timeouts { half_close_grace: Duration::from_millis(100), ..Timeouts::default() };
    let Tunnel { mut client, member: _silent, _front, _member } = tunnel(timeouts).await;
    client.finish().await;
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn reset_of_one_side_ends_the_other_at_once() {
    let Tunnel { client, mut member, _front, _member } = tunnel(Timeouts::default()).await;
    client.reset();
    member.rest().await;

    let Tunnel { mut client, member, _front, _member } = tunnel(Timeouts::default()).await;
    member.reset();
    client.rest().await;
}

#[tokio::test]
async fn idle_tunnel_stays_open() {
    let limit = Duration::from_millis(500);
    let timeouts = Timeouts { upgrade_head: limit, half_close_grace: limit, ..Timeouts::default() };
    let Tunnel { mut client, mut member, _front, _member } = tunnel(timeouts).await;
    // That nothing happens has no event to wait for.
    tokio::time::sleep(limit + limit / 2).await;
    client.send("ping").await;
    assert_eq!(member.bytes(4).await, b"ping");
    member.send("pong").await;
    assert_eq!(client.bytes(4).await, b"pong");
}
