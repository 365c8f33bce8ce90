//! Draining: the server waits for tunnels, or ends them.

use tokio::sync::mpsc;
use upgrade_aware_proxy::{PlainErrors, Proxy, Timeouts, TunnelGuard, Tunnels, UpgradeProtocols};

use crate::support::{
    Http,
    front::{Front, proxy_with, target},
    member::RawMember,
    soon,
};

const REQUEST: &str = "GET /exec HTTP/1.1\r\nHost: f\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

async fn echo() -> RawMember {
    RawMember::scripted(|mut socket| async move {
        socket.head().await.unwrap();
        socket
            .send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
        loop {
            let byte = socket.bytes(1).await;
            if byte.is_empty() || !socket.try_send(&byte).await {
                return;
            }
        }
    })
    .await
}

#[tokio::test]
async fn server_can_wait_for_its_tunnels() {
    let member = echo().await;
    let tunnels = Tunnels::default();
    let front =
        Front::start(Http::One, proxy_with(Timeouts::default(), tunnels.clone()), target(member.dial()))
            .await;
    let mut client = front.socket().await;
    assert_eq!(client.ask(REQUEST).await.status, 101);
    assert_eq!(tunnels.tracker.len(), 1);

    tunnels.tracker.close();
    let waiting = tokio::spawn({
        let tracker = tunnels.tracker.clone();
        async move { tracker.wait().await }
    });
    client.send("x").await;
    assert_eq!(client.bytes(1).await, b"x");
    assert!(!waiting.is_finished());
    drop(client);
    soon(waiting).await.unwrap();
}

#[tokio::test]
async fn server_can_end_its_tunnels_and_starts_no_more() {
    let member = echo().await;
    let tunnels = Tunnels::default();
    let front =
        Front::start(Http::One, proxy_with(Timeouts::default(), tunnels.clone()), target(member.dial()))
            .await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = front.socket().await;
        assert_eq!(client.ask(REQUEST).await.status, 101);
        clients.push(client);
    }
    let mut late = front.socket().await;
    tunnels.tracker.close();
    tunnels.shutdown.cancel();
    soon(tunnels.tracker.wait()).await;
    for client in &mut clients {
        assert_eq!(client.rest().await, b"");
    }
    let answer = late.ask(REQUEST).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(member.connections(), 20);
}

#[tokio::test]
async fn guard_is_dropped_with_the_tunnel_and_not_with_the_answer() {
    let member = echo().await;
    let proxy = Proxy::new(PlainErrors, UpgradeProtocols::default(), Timeouts::default(), Tunnels::default());
    let target = target(member.dial());
    let (alive, mut ended) = mpsc::channel::<()>(1);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(TunnelGuard::new(alive.clone()));
            let (proxy, target) = (proxy.clone(), target.clone());
            async move { Ok::<_, std::convert::Infallible>(proxy.forward(request, target).await) }
        });
        let server = hyper::server::conn::http1::Builder::new();
        server.serve_connection(hyper_util::rt::TokioIo::new(stream), service).with_upgrades().await.unwrap();
    });
    let mut client = crate::support::raw::Socket::connect(address).await;
    assert_eq!(client.ask(REQUEST).await.status, 101);
    soon(serving).await.unwrap();
    assert_eq!(ended.try_recv(), Err(mpsc::error::TryRecvError::Empty));
    drop(client);
    assert_eq!(soon(ended.recv()).await, None);
}
