//! Upgrades and plain requests over an injected dialer with TLS.
//!
//! Forward proxies (HTTP CONNECT, SOCKS5) are dialers too, and come with the dialers of the gateway.

use std::sync::Arc;

use rustls::RootCertStore;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{
    front::{Front, target},
    tls::{TlsDial, TlsMember},
};

const UPGRADE: &str = "GET /exec HTTP/1.1\r\nHost: f\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Answers the upgrade with 101, then greets, naming the ALPN protocol of the connection.
async fn greeter(alpn: &[&str]) -> TlsMember {
    TlsMember::scripted(alpn, |mut stream| async move {
        let negotiated =
            stream.get_ref().1.alpn_protocol().map_or_else(|| "none".into(), String::from_utf8_lossy);
        let negotiated = negotiated.into_owned();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let mut name = [0; 5];
        stream.read_exact(&mut name).await.unwrap();
        let name = String::from_utf8_lossy(&name).into_owned();
        stream.write_all(format!("hello {name} over {negotiated}").as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    })
    .await
}

/// What the member says to `world`, or the error's text.
async fn greeting(dial: TlsDial) -> Result<String, String> {
    let front = Front::of(target(dial)).await;
    let mut client = front.socket().await;
    let answer = client.ask(UPGRADE).await;
    if answer.status != 101 {
        assert_eq!(answer.status, 502);
        return Err(answer.text());
    }
    client.send("world").await;
    Ok(String::from_utf8(client.rest().await).unwrap())
}

#[tokio::test]
async fn upgrade_speaks_http1_though_the_member_prefers_http2() {
    let member = greeter(&["h2", "http/1.1"]).await;
    let dial = TlsDial::trusting(&member);
    let before = format!("{:?}", dial.config.alpn_protocols);
    let config = Arc::clone(&dial.config);
    assert_eq!(greeting(dial).await.unwrap(), "hello world over http/1.1");
    assert_eq!(format!("{:?}", config.alpn_protocols), before, "the shared configuration is not touched");
}

#[tokio::test]
async fn upgrade_works_where_there_is_no_alpn() {
    let member = greeter(&[]).await;
    assert_eq!(greeting(TlsDial::trusting(&member)).await.unwrap(), "hello world over none");
}

#[tokio::test]
async fn certificate_decides_whether_anything_is_sent() {
    let member = greeter(&["http/1.1"]).await;
    let hello = "hello world over http/1.1";
    assert_eq!(greeting(TlsDial::insecure(&member)).await.unwrap(), hello);
    assert_eq!(greeting(TlsDial::insecure(&member).named("bogus.example")).await.unwrap(), hello);
    assert_eq!(greeting(TlsDial::trusting(&member)).await.unwrap(), hello);
    assert_eq!(greeting(TlsDial::trusting(&member).named("example.com")).await.unwrap(), hello);

    let error = greeting(TlsDial::trusting(&member).named("bogus.example")).await.unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
    let error = greeting(TlsDial::with_roots(&member, RootCertStore::empty())).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn plain_requests_use_http2_beside_the_upgrades_http1() {
    let member = TlsMember::scripted(&["h2", "http/1.1"], |mut stream| async move {
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                body.send_data("over h2".into(), true).unwrap();
            }
        } else {
            let mut head = [0; 4096];
            let _length = stream.read(&mut head).await.unwrap();
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\n\r\nover h1").await.unwrap();
        }
    })
    .await;
    let front = Front::of(target(TlsDial::trusting(&member))).await;
    let mut client = front.socket().await;
    let get = "GET / HTTP/1.1\r\nHost: f\r\n\r\n";
    assert_eq!(client.ask(get).await.text(), "over h2");
    assert_eq!(front.socket().await.ask(UPGRADE).await.text(), "over h1");
    assert_eq!(client.ask(get).await.text(), "over h2");
}

#[tokio::test]
async fn half_close_travels_through_tls() {
    let member = TlsMember::scripted(&["http/1.1"], |mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let mut question = String::new();
        stream.read_to_string(&mut question).await.unwrap();
        stream.write_all(format!("you said {question}").as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    })
    .await;
    let front = Front::of(target(TlsDial::trusting(&member))).await;
    let mut client = front.socket().await;
    assert_eq!(client.ask(UPGRADE).await.status, 101);
    client.send("all of this").await;
    client.finish().await;
    assert_eq!(client.rest().await, b"you said all of this");
}
