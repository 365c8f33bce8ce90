//! Much at once: large answers, many watches, readers that stall.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::support::{
    double::{Double, DoubleBody, stream, whole},
    gateway::{ADMIN, Gateway, Setup},
    kubectl::Kubectl,
    members::Demo,
    soon,
};

const MIB: u64 = 1 << 20;
const CHUNK: usize = 64 << 10;

/// A member whose `/list` is 60 MiB long; how much of it has been taken is counted.
async fn member_with_a_long_list() -> (Double, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    let member = Double::start(move |request| {
        let counter = Arc::clone(&counter);
        async move {
            if request.uri().path() != "/list" {
                return Response::new(whole("{}"));
            }
            let (sender, body) = stream();
            tokio::spawn(async move {
                for number in 0..LIST_CHUNKS {
                    if sender.send(chunk(number)).await.is_err() {
                        return;
                    }
                    counter.fetch_add(CHUNK, Ordering::SeqCst);
                }
            });
            Response::new(body)
        }
    })
    .await;
    (member, taken)
}

const LIST_CHUNKS: usize = 60 * (1 << 20) / CHUNK;

/// Different for every number, so that nothing can be lost or swapped unseen.
fn chunk(number: usize) -> Bytes {
    let seed = number as u64;
    (0..CHUNK as u64 / 8)
        .flat_map(|at| (seed << 32 | at).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect()
}

fn hash_of_the_list() -> Vec<u8> {
    let mut hash = Context::new(&SHA256);
    (0..LIST_CHUNKS).for_each(|number| hash.update(&chunk(number)));
    hash.finish().as_ref().to_vec()
}

async fn hash(mut body: Incoming) -> Vec<u8> {
    let mut hash = Context::new(&SHA256);
    while let Some(frame) = soon("more of the list", body.frame()).await {
        hash.update(&frame.unwrap().into_data().unwrap());
    }
    hash.finish().as_ref().to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_60_mib_arrives_whole_and_leaves_no_trace_in_memory() {
    let (member, _) = member_with_a_long_list().await;
    let gateway = Setup::new().cluster(&member.cluster("east")).start();
    let admin = gateway.client(ADMIN);
    let expected = hash_of_the_list();
    let (mut http1, http2) = (admin.http1().await, admin.http2().await);
    let request = |path| admin.request(Method::GET, path);
    assert_eq!(http1.send(request("/clusters/east/api")).await.status, StatusCode::OK);
    assert_eq!(http2.send(request("/clusters/east/api")).await.status, StatusCode::OK);
    let before = gateway.process.resident_bytes();

    let list = http1.start(request("/clusters/east/list")).await.unwrap();
    assert!(hash(list.into_body()).await == expected, "over HTTP/1.1");
    let list = http2.start(request("/clusters/east/list")).await.unwrap();
    assert!(hash(list.into_body()).await == expected, "over HTTP/2");

    let grown = gateway.process.peak_bytes().saturating_sub(before);
    assert!(grown < 32 * MIB, "the gateway grew by {} KiB", grown >> 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_gets_60_mib_of_objects_through_a_gateway_that_stays_small() {
    let test = "kubectl_gets_60_mib_of_objects_through_a_gateway_that_stays_small";
    let Some(kubectl) = Kubectl::newest(test) else { return };
    let demo = Demo::start().await;
    demo.member.seed_config_maps(60, 1 << 20);
    let kubectl = demo.session(&kubectl, ADMIN);
    kubectl.run("get namespaces").ok();
    let before = demo.gateway.process.resident_bytes();
    let names = kubectl.run("get configmaps --chunk-size=0 -o name").ok();
    assert_eq!(names.lines().filter(|name| name.starts_with("configmap/large-")).count(), 60);
    let grown = demo.gateway.process.peak_bytes().saturating_sub(before);
    assert!(grown < 32 * MIB, "the gateway grew by {} KiB", grown >> 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_pauses_holds_up_its_member_and_not_the_gateways_memory() {
    let (member, taken) = member_with_a_long_list().await;
    let gateway = Setup::new().cluster(&member.cluster("east")).start();
    let admin = gateway.client(ADMIN);
    assert_eq!(admin.get("/clusters/east/api").await.status, StatusCode::OK);
    let before = gateway.process.resident_bytes();

    let request = admin.request(Method::GET, "/clusters/east/list");
    let over_http1 = admin.http1().await.start(request.clone()).await.unwrap();
    let over_http2 = admin.http2().await.start(request).await.unwrap();
    until_it_rests(&taken).await;
    let rested = taken.load(Ordering::SeqCst) as u64;
    assert!(rested < 60 * MIB, "{rested} bytes of twice 60 MiB were taken though nobody reads");
    let grown = gateway.process.peak_bytes().saturating_sub(before);
    assert!(grown < 32 * MIB, "the gateway grew by {} KiB", grown >> 10);

    let expected = hash_of_the_list();
    assert!(hash(over_http1.into_body()).await == expected, "over HTTP/1.1");
    assert!(hash(over_http2.into_body()).await == expected, "over HTTP/2");
}

/// Waits until `counter` has not moved for a good while.
async fn until_it_rests(counter: &AtomicUsize) {
    let mut last = (counter.load(Ordering::SeqCst), 0);
    while last.0 == 0 || last.1 < 20 {
        tokio::time::sleep(Duration::from_millis(25)).await;
        let now = counter.load(Ordering::SeqCst);
        last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
    }
}

/// A member whose answers below `/watch/` go on until the test ends them.
struct Streams {
    member: Double,
    open: Arc<Mutex<HashMap<String, mpsc::Sender<Bytes>>>>,
}

impl Streams {
    async fn start() -> Self {
        let open = Arc::new(Mutex::new(HashMap::new()));
        let kept = Arc::clone(&open);
        let member = Double::start(move |request| {
            let path = request.uri().path().to_owned();
            let body: DoubleBody = if path.starts_with("/watch/") {
                let (sender, body) = stream();
                kept.lock().unwrap().insert(path, sender);
                body
            } else {
                whole("{}")
            };
            async { Response::new(body) }
        })
        .await;
        Self { member, open }
    }

    fn sender(&self, path: &str) -> mpsc::Sender<Bytes> {
        self.open.lock().unwrap()[path].clone()
    }
}

async fn watch(gateway: &Gateway, path: &str) -> Incoming {
    let admin = gateway.client(ADMIN);
    let request = admin.request(Method::GET, &format!("/clusters/east{path}"));
    let answer = admin.http1().await.start(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer.into_body()
}

async fn next(body: &mut Incoming) -> Bytes {
    soon("the next event", body.frame()).await.expect("no end").unwrap().into_data().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_follower_of_small_lines_disturbs_no_neighbour() {
    let streams = Streams::start().await;
    let gateway = Setup::new().cluster(&streams.member.cluster("east")).start();
    let paused = watch(&gateway, "/watch/log").await;
    let mut neighbour = watch(&gateway, "/watch/neighbour").await;
    assert_eq!(streams.member.connections(), 1, "both share a connection, or nothing would be tested");

    let (log, events) = (streams.sender("/watch/log"), streams.sender("/watch/neighbour"));
    let line = Bytes::from(vec![b'x'; 100]);
    let mut lines = 0_u64;
    // Until the member cannot send any more: by then everything between it and the paused reader is full.
    while tokio::time::timeout(Duration::from_secs(1), log.send(line.clone()))
        .await
        .is_ok_and(|sent| sent.is_ok())
    {
        lines += 1;
        if lines.is_multiple_of(10_000) {
            events.send("tick".into()).await.unwrap();
            assert_eq!(next(&mut neighbour).await, "tick", "after {lines} lines");
        }
        assert!(lines < 1_000_000, "100 MB went to a reader who does not read");
    }
    assert!(!log.is_closed(), "the paused follower was cut off after {lines} lines");
    events.send("still here".into()).await.unwrap();
    assert_eq!(next(&mut neighbour).await, "still here", "after {lines} lines");
    assert_eq!(gateway.client(ADMIN).get("/clusters/east/api").await.status, StatusCode::OK);
    assert_eq!(streams.member.connections(), 1, "the connection was replaced");
    drop(paused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_ends_its_stream_at_the_member() {
    let streams = Streams::start().await;
    let gateway = Setup::new().cluster(&streams.member.cluster("east")).start();
    let mut body = watch(&gateway, "/watch/a").await;
    let events = streams.sender("/watch/a");
    events.send("event".into()).await.unwrap();
    assert_eq!(next(&mut body).await, "event");
    drop(body);
    streams.open.lock().unwrap().clear();
    soon("the end at the member", events.closed()).await;
}
