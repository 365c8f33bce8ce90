//! How the gateway ends, and how it takes new certificates without ending.

use std::{fs, sync::Arc, time::Duration};

use clusterway_certs::Authority;
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
};

use crate::support::{
    PATIENCE,
    client::Client,
    double::{Double, stream, whole},
    gateway::{ADMIN, Cluster, Setup},
    raw_member::{RawMember, Reply},
    soon,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_finishes_what_is_short_cuts_what_is_long_and_exits_0() {
    let release = Arc::new(Semaphore::new(0));
    let (asked, gate) = (Arc::new(Semaphore::new(0)), Arc::clone(&release));
    let arrived = Arc::clone(&asked);
    let (events, watched) = stream();
    let watched = std::sync::Mutex::new(Some(watched));
    let member = Double::start(move |request| {
        let watch = (request.uri().path() == "/watch").then(|| watched.lock().unwrap().take().unwrap());
        let (gate, arrived) = (Arc::clone(&gate), Arc::clone(&arrived));
        async move {
            if let Some(body) = watch {
                return Response::new(body);
            }
            arrived.add_permits(1);
            gate.acquire().await.unwrap().forget();
            Response::new(whole("short"))
        }
    })
    .await;
    let shell = RawMember::start(|_| {
        Reply::SendAndEcho(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n$ "
                .to_vec(),
        )
    })
    .await;
    let mut gateway = Setup::new()
        .cluster(&member.cluster("east"))
        .cluster(&Cluster::of("shell", &shell))
        .flag("--drain", "2s")
        .start();
    let admin = gateway.client(ADMIN);
    let mut watch = admin.http1().await;
    let mut watch =
        watch.start(admin.request(Method::GET, "/clusters/east/watch")).await.unwrap().into_body();
    let mut exec = admin.tls().await.unwrap();
    exec.write_all(
        format!(
            "POST /clusters/shell/api/v1/namespaces/a/pods/b/exec HTTP/1.1\r\nHost: g\r\nContent-Length: 0\r\n\
             Authorization: Bearer {ADMIN}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"
        )
        .as_bytes(),
    )
    .await
    .unwrap();
    let mut screen = Vec::new();
    while !screen.ends_with(b"$ ") {
        assert_ne!(soon("the prompt", exec.read_buf(&mut screen)).await.unwrap(), 0, "{screen:?}");
    }
    let short = tokio::spawn({
        let admin = admin.clone();
        async move { admin.get("/clusters/east/short").await }
    });
    soon("the short request at the member", asked.acquire()).await.unwrap().forget();

    gateway.process.signal("TERM");
    let address = gateway.address;
    soon("the listener to close", async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // Long streams go on while the drain lasts.
    events.send("an event while draining".into()).await.unwrap();
    let event = soon("an event while draining", watch.frame()).await.unwrap().unwrap();
    assert_eq!(event.into_data().unwrap(), "an event while draining");
    exec.write_all(b"ls\n").await.unwrap();
    while !screen.ends_with(b"ls\n") {
        assert_ne!(
            soon("the echo while draining", exec.read_buf(&mut screen)).await.unwrap(),
            0,
            "{screen:?}"
        );
    }
    release.add_permits(1);
    let short = soon("the short request", short).await.unwrap();
    assert_eq!((short.status, short.text()), (StatusCode::OK, "short"));

    let status = gateway.process.wait(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", gateway.process.output());
    let ending = soon("the end of the watch", watch.frame()).await;
    assert!(ending.is_some_and(|frame| frame.is_err()), "a watch that was cut must not look complete");
    let _ = soon("the end of the shell", exec.read_to_end(&mut screen)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_work_sigterm_ends_at_once() {
    let mut gateway = Setup::new().flag("--drain", "10m").start();
    let idle = gateway.client(ADMIN).http2().await;
    assert_eq!(idle.send(gateway.client(ADMIN).request(Method::GET, "/readyz")).await.status, StatusCode::OK);
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.wait(PATIENCE).code(), Some(0), "{}", gateway.process.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sigterm_ends_the_drain() {
    let member = Double::start(|_| async {
        let (sender, body) = stream();
        // Never ends on its own.
        tokio::spawn(async move { sender.closed().await });
        Response::new(body)
    })
    .await;
    let mut gateway = Setup::new().cluster(&member.cluster("east")).flag("--drain", "10m").start();
    let admin = gateway.client(ADMIN);
    let mut connection = admin.http1().await;
    let watch = connection.start(admin.request(Method::GET, "/clusters/east/watch")).await.unwrap();
    gateway.process.signal("TERM");
    let address = gateway.address;
    soon("the listener to close", async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(gateway.process.is_running(), "{}", gateway.process.output());
    gateway.process.signal("TERM");
    gateway.process.wait(PATIENCE);
    drop(watch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_serving_certificate_is_shown_without_a_restart_and_a_broken_one_is_not() {
    let authority = Authority::new("serving").unwrap();
    let setup = Setup::new();
    let (certificate, key) = (setup.folder().join("serving.crt"), setup.folder().join("serving.key"));
    let issue = || authority.issue_server(&["127.0.0.1"]).unwrap();
    let first = issue();
    fs::write(setup.folder().join("serving-ca.crt"), authority.certificate_pem()).unwrap();
    fs::write(&certificate, first.certificate_pem()).unwrap();
    fs::write(&key, first.key_pem()).unwrap();
    let gateway = setup
        .flag("--tls-cert-file", certificate.display())
        .flag("--tls-private-key-file", key.display())
        .start();
    assert_eq!(shown(&gateway.client(ADMIN)).await, first.chain()[0]);
    let mut open = gateway.client(ADMIN).http1().await;
    let health = || gateway.client(ADMIN).request(Method::GET, "/healthz");
    assert_eq!(open.send(health()).await.status, StatusCode::OK);

    let second = issue();
    fs::write(&certificate, second.certificate_pem()).unwrap();
    fs::write(&key, second.key_pem()).unwrap();
    soon("the new certificate", async {
        while shown(&gateway.client(ADMIN)).await != second.chain()[0] {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(open.send(health()).await.status, StatusCode::OK, "an open connection goes on");

    fs::write(&key, "not a key").unwrap();
    gateway.wait_for_log("serving.key");
    assert_eq!(shown(&gateway.client(ADMIN)).await, second.chain()[0], "the last good one stays");
}

/// The certificate that a new client is shown.
async fn shown(client: &Client) -> rustls::pki_types::CertificateDer<'static> {
    let stream = soon("connect", client.tls()).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}
