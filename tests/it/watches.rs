//! Many watches on one member; for embedded members and for a real one.

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::support::{
    client::Http2,
    gateway::{ADMIN, Gateway},
    soon,
};

const WATCHES: usize = 350;

/// 350 watches on `cluster`, whose API server listens on `port`; each sees an event, and other requests are answered
/// in between.
pub async fn serve_and_answer_meanwhile(gateway: &Gateway, cluster: &str, port: u16) {
    let admin = gateway.client(ADMIN);
    let base = format!("/clusters/{cluster}/api/v1/namespaces/default/configmaps");
    // A client's own connections: 250 streams each is what the gateway grants.
    let connections = [admin.http2().await, admin.http2().await];
    let opened = (0..WATCHES).map(|number| {
        let connection: &Http2 = &connections[number % connections.len()];
        connection.start(admin.request(Method::GET, &format!("{base}?watch=true&number={number}")))
    });
    let mut watches: Vec<Incoming> = Vec::new();
    for answer in join_all(opened).await {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        watches.push(answer.into_body());
    }
    let at_member = established(gateway.process.id(), port);
    assert!(at_member >= 4, "{WATCHES} watches on {at_member} connections");

    let name = format!("seen-by-all-{}", gateway.address.port());
    let mut request = admin.request(Method::POST, &base);
    request.headers_mut().insert("content-type", "application/json".parse().unwrap());
    let object = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    *request.body_mut() = Bytes::from(object.to_string()).into();
    assert_eq!(admin.send(request).await.status, StatusCode::CREATED);
    let seen = watches.iter_mut().map(|watch| sees(watch, &name));
    soon("the event in each watch", join_all(seen)).await;

    for _ in 0..20 {
        assert_eq!(admin.get(&base).await.status, StatusCode::OK);
        assert_eq!(connections[0].send(admin.request(Method::GET, &base)).await.status, StatusCode::OK);
    }
    assert_eq!(
        admin.send(admin.request(Method::DELETE, &format!("{base}/{name}"))).await.status,
        StatusCode::OK
    );
}

async fn sees(watch: &mut Incoming, name: &str) {
    let mut text = String::new();
    while !text.contains(name) {
        let frame = watch.frame().await.expect("a watch goes on").unwrap();
        text.push_str(&String::from_utf8_lossy(&frame.into_data().unwrap()));
    }
}

/// Established TCP connections of process `id` to `port` on loopback.
pub fn established(id: u32, port: u16) -> usize {
    let remote = format!("0100007F:{port:04X}");
    let mine: Vec<String> = std::fs::read_dir(format!("/proc/{id}/fd"))
        .unwrap()
        .filter_map(|entry| Some(std::fs::read_link(entry.ok()?.path()).ok()?.to_string_lossy().into_owned()))
        .collect();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    // remote address, state (01 is ESTABLISHED), inode
    fields
        .filter(|line| {
            line[2] == remote && line[3] == "01" && mine.contains(&format!("socket:[{}]", line[9]))
        })
        .count()
}
