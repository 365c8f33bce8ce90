//! What well-behaved clients see.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use ::http::{Request, Response, StatusCode, Version, header};
use clusterway_certs::Authority;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use upgrade_aware_proxy::{Protocol, ResponseBody};

use super::support::{Running, get, hello, soon, text, tls};
use crate::server::{Connection, Limits};

async fn protocol_and_version(
    request: Request<Incoming>,
    connection: Arc<Connection>,
) -> Response<ResponseBody> {
    Response::new(ResponseBody::full(format!("{:?} {:?}", connection.protocol(), request.version())))
}

#[tokio::test]
async fn alpn_decides_between_http1_and_http2() {
    let server = Running::start(Limits::default(), protocol_and_version).await;
    let both = server.tls(&["h2", "http/1.1"]).await;
    assert_eq!(both.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));

    let mut http1 = server.http1().await;
    let response = http1.sender.send_request(get("/")).await.unwrap();
    assert_eq!(text(response).await, format!("{:?} {:?}", Protocol::Http1, Version::HTTP_11));

    let mut http2 = server.http2().await;
    let response = http2.sender.send_request(get("/")).await.unwrap();
    assert_eq!(text(response).await, format!("{:?} {:?}", Protocol::Http2, Version::HTTP_2));
}

#[tokio::test]
async fn without_alpn_it_is_http1() {
    let server = Running::start(Limits::default(), hello).await;
    let mut stream = server.tls(&[]).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon("the answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("hello"), "{answer}");
}

/// As a front proxy sends a user of very many groups: one line each.
fn with_groups(count: usize) -> Request<http_body_util::Empty<bytes::Bytes>> {
    let mut request = get("/");
    for group in 0..count {
        let value = format!("organisation:department:team-{group:05}").parse().unwrap();
        request.headers_mut().append("x-remote-group", value);
    }
    request
}

async fn count_groups(request: Request<Incoming>, _: Arc<Connection>) -> Response<ResponseBody> {
    let groups = request.headers().get_all("x-remote-group").iter().count();
    Response::new(ResponseBody::full(groups.to_string()))
}

#[tokio::test]
async fn users_of_600_groups_are_served_over_http1_and_http2() {
    let server = Running::start(Limits::default(), count_groups).await;
    let mut http1 = server.http1().await;
    let response = http1.sender.send_request(with_groups(600)).await.unwrap();
    assert_eq!(text(response).await, "600");
    let mut http2 = server.http2().await;
    let response = http2.sender.send_request(with_groups(600)).await.unwrap();
    assert_eq!(text(response).await, "600");
}

#[tokio::test]
async fn a_head_past_the_limit_is_answered_431() {
    let server = Running::start(Limits { max_header_bytes: 64 << 10, ..Limits::default() }, hello).await;
    let mut http1 = server.http1().await;
    let response = http1.sender.send_request(with_groups(3000)).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let mut http2 = server.http2().await;
    let answer = http2.sender.send_request(with_groups(3000)).await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 431));
    let response = server.http2().await.sender.send_request(with_groups(100)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_panic_is_a_500_and_the_connection_goes_on() {
    async fn moody(request: Request<Incoming>, _: Arc<Connection>) -> Response<ResponseBody> {
        assert!(request.uri().path() != "/panic", "as asked");
        Response::new(ResponseBody::full("fine"))
    }
    let server = Running::start(Limits::default(), moody).await;
    let mut http1 = server.http1().await;
    let response = http1.sender.send_request(get("/panic")).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    response.into_body().collect().await.unwrap();
    assert_eq!(text(http1.sender.send_request(get("/")).await.unwrap()).await, "fine");
    let mut http2 = server.http2().await;
    let response = http2.sender.send_request(get("/panic")).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(text(http2.sender.send_request(get("/")).await.unwrap()).await, "fine");
}

#[tokio::test]
async fn client_certificates_reach_the_handler() {
    async fn certificates(_: Request<Incoming>, connection: Arc<Connection>) -> Response<ResponseBody> {
        let name = connection
            .client_certificates()
            .first()
            .map(|leaf| clusterway_certs::Subject::of(leaf).unwrap().common_name);
        Response::new(ResponseBody::full(name.unwrap_or_else(|| "nobody".to_owned())))
    }
    let server = Running::start(Limits::default(), certificates).await;
    assert_eq!(text(server.http1().await.sender.send_request(get("/")).await.unwrap()).await, "nobody");

    let jane = Authority::new("anybody").unwrap().issue_client("jane", &["dev"]).unwrap();
    let mut stream = server.tls_as(&["http/1.1"], Some(&jane)).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("jane"), "{answer}");
}

#[tokio::test]
async fn the_next_connection_has_the_configuration_of_its_moment() {
    let authority = Authority::new("server tests").unwrap();
    let configurations = [Arc::new(tls(&authority)), Arc::new(tls(&authority))];
    let accepted = AtomicUsize::new(0);
    let next = move || Arc::clone(&configurations[accepted.fetch_add(1, Ordering::Relaxed) % 2]);
    let server = Running::start_with(authority, next, Limits::default(), hello).await;
    let first = server.tls(&[]).await;
    let second = server.tls(&[]).await;
    let shown = |stream: &tokio_rustls::client::TlsStream<_>| {
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    };
    assert_ne!(shown(&first), shown(&second));
}

#[tokio::test]
async fn a_connection_told_to_close_ends_after_its_answer() {
    async fn unwelcome(_: Request<Incoming>, connection: Arc<Connection>) -> Response<ResponseBody> {
        connection.close_when_answered();
        Response::new(ResponseBody::full("go away"))
    }
    let server = Running::start(Limits::default(), unwelcome).await;
    let mut http1 = server.http1().await;
    assert_eq!(text(http1.sender.send_request(get("/")).await.unwrap()).await, "go away");
    soon("the end of the connection", http1.connection).await.unwrap().unwrap();
    let mut http2 = server.http2().await;
    assert_eq!(text(http2.sender.send_request(get("/")).await.unwrap()).await, "go away");
    soon("the end of the connection", http2.connection).await.unwrap().unwrap();
}

/// Switches protocols and echoes.
async fn echo(mut request: Request<Incoming>, _: Arc<Connection>) -> Response<ResponseBody> {
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = hyper_util::rt::TokioIo::new(upgraded.await.unwrap());
        let mut buffer = [0; 64];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            stream.write_all(&buffer[..read]).await.unwrap();
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "echo")
        .body(ResponseBody::empty())
        .unwrap()
}

#[tokio::test]
async fn tunnels_outlive_every_limit_on_requests_and_count_as_connections() {
    let short = std::time::Duration::from_millis(500);
    let limits = Limits {
        request_head: short,
        idle: short,
        write_stall: short,
        max_connections: 2,
        ..Limits::default()
    };
    let server = Running::start(limits, echo).await;
    let mut tunnel = server.tls(&["http/1.1"]).await;
    tunnel
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tunnel.read_u8().await.unwrap());
    }
    // Each of these has the second place of two, and is dropped when the limits strike.
    for _ in 0..3 {
        let mut silent = soon("a free place", server.tls(&["http/1.1"])).await;
        assert!(!matches!(soon("the end", silent.read(&mut [0; 8])).await, Ok(1..)));
        tunnel.write_all(b"ping").await.unwrap();
        let mut answer = [0; 4];
        soon("the echo", tunnel.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"ping");
    }
}
