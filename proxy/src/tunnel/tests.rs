use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufStream, DuplexStream, duplex},
    time::Instant,
};

use super::{Moved, SCRATCH, run};

const GRACE: Duration = Duration::from_secs(30);

/// The outer ends of a running tunnel whose streams hold `capacity` bytes each.
fn tunnel(capacity: usize) -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<Moved>) {
    let (client, mut client_side) = duplex(capacity);
    let (target, mut target_side) = duplex(capacity);
    let running = tokio::spawn(async move { run(&mut client_side, &mut target_side, GRACE).await });
    (client, target, running)
}

#[tokio::test]
async fn bytes_are_counted_each_way() {
    let (mut client, mut target, running) = tunnel(4);
    let (client_says, target_says) = ("a longer question", "an answer");
    let mut got = (String::new(), String::new());
    tokio::join!(
        async {
            client.write_all(client_says.as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            client.read_to_string(&mut got.0).await.unwrap();
        },
        async {
            target.read_to_string(&mut got.1).await.unwrap();
            target.write_all(target_says.as_bytes()).await.unwrap();
            target.shutdown().await.unwrap();
        }
    );
    assert_eq!((got.0.as_str(), got.1.as_str()), (target_says, client_says));
    let moved = running.await.unwrap();
    assert_eq!(moved, Moved { to_target: client_says.len() as u64, to_client: target_says.len() as u64 });
}

#[tokio::test(start_paused = true)]
async fn bytes_are_flushed_when_no_more_come() {
    let (mut client, client_side) = duplex(64);
    let (mut target, target_side) = duplex(64);
    // As TLS streams do, these keep what is written until they are flushed.
    let (mut client_side, mut target_side) = (BufStream::new(client_side), BufStream::new(target_side));
    tokio::spawn(async move { run(&mut client_side, &mut target_side, GRACE).await });
    let exchange = async {
        let mut got = [0; 4];
        client.write_all(b"ping").await.unwrap();
        target.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ping");
        target.write_all(b"pong").await.unwrap();
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"pong");
    };
    tokio::time::timeout(GRACE, exchange).await.expect("the bytes are kept back");
}

#[tokio::test(start_paused = true)]
async fn silent_half_ends_after_the_grace_and_not_before() {
    let (mut client, _target, running) = tunnel(64);
    let start = Instant::now();
    client.shutdown().await.unwrap();
    running.await.unwrap();
    assert_eq!(start.elapsed(), GRACE);
}

#[tokio::test(start_paused = true)]
async fn progress_renews_the_grace() {
    let (mut client, mut target, running) = tunnel(64);
    let start = Instant::now();
    client.shutdown().await.unwrap();
    for _ in 0..10 {
        tokio::time::sleep(GRACE / 2).await;
        target.write_all(b"x").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'x');
    }
    running.await.unwrap();
    assert_eq!(start.elapsed(), GRACE * 6);
}

#[tokio::test(start_paused = true)]
async fn open_tunnel_may_idle_for_days() {
    let (mut client, mut target, running) = tunnel(64);
    tokio::time::sleep(Duration::from_secs(3 * 24 * 3600)).await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(target.read_u8().await.unwrap(), b'x');
    assert!(!running.is_finished());
}

#[tokio::test(start_paused = true)]
async fn reader_that_has_finished_and_stalls_is_given_up() {
    let (mut client, mut target, running) = tunnel(4);
    client.shutdown().await.unwrap();
    target.write_all(b"12345678").await.unwrap();
    let start = Instant::now();
    let moved = running.await.unwrap();
    assert_eq!(start.elapsed(), GRACE);
    assert_eq!(moved.to_client, 4);
}

#[tokio::test]
async fn idle_tunnels_hold_no_buffers() {
    let (mut client, mut target, _running) = tunnel(1 << 20);
    client.write_all(&[7; 100_000]).await.unwrap();
    target.read_exact(&mut [0; 100_000]).await.unwrap();
    // This runtime has one thread, and so all its tunnels have one buffer, which waits here for the next of them.
    let scratch = SCRATCH.take().expect("the buffer is back");
    assert_eq!(scratch.len(), super::CHUNK);
    SCRATCH.set(Some(scratch));
}
