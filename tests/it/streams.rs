//! Streams into pods with the real kubectl, over WebSocket and SPDY/3.1: logs, exec, attach, cp, port-forward.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;

use crate::support::{
    gateway::{ADMIN, READER},
    kubectl::{Kubectl, Session},
    members::{Demo, in_namespace},
};

/// The first kubectl that can be told which protocol to use for exec and attach.
const CHOOSES: u32 = 29;
/// The first that forwards ports over WebSocket.
const FORWARDS_OVER_WEBSOCKET: u32 = 30;

const SIZE: usize = 5 << 20;

/// Bytes that no stream could mistake for something else without being found out.
fn random() -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    bytes
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A pod named `shell` of one container.
fn make_pod(kubectl: &Session) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shell"},
        "spec": {"containers": [{"name": "shell", "image": "busybox:1"}]},
    });
    kubectl.run_with(pod.to_string().as_bytes(), "create --validate=false -f -").ok();
    kubectl.run("wait --for=condition=Ready pod/shell --timeout=60s").ok();
}

/// All there is to see of streams, with one kubectl and one protocol.
fn every_stream(kubectl: &Session) {
    // Output, error output and exit codes.
    assert_eq!(kubectl.run("exec shell -- echo hello").ok(), "hello\n");
    let failed = kubectl.run("exec shell -- sh -c 'echo out; echo err >&2; exit 7'");
    assert_eq!((failed.code, failed.stdout.as_str()), (Some(7), "out\n"), "{}", failed.stderr);
    assert!(failed.stderr.starts_with("err\n"), "{}", failed.stderr);
    let unknown = kubectl.run("exec shell -- no-such-command");
    assert!(unknown.code.is_some_and(|code| code != 0), "{unknown:?}");

    // 5 MiB through stdin, counted there and brought back.
    let bytes = random();
    let counted = kubectl.run_with(&bytes, "exec -i shell -- sha256sum").ok();
    assert_eq!(counted.split_whitespace().next(), Some(sha256(&bytes).as_str()));
    let back = kubectl.run_with(&bytes, "exec -i shell -- cat");
    assert_eq!(back.code, Some(0), "{}", back.stderr);
    assert!(back.bytes == bytes, "{} of {SIZE} bytes came back, or others", back.bytes.len());

    // A terminal.
    let terminal = kubectl.run_in_terminal("echo one-$HOSTNAME-two\nexit 3\n", "exec -it shell -- sh");
    assert_eq!(terminal.code, Some(3), "{}", terminal.stdout);
    assert!(terminal.stdout.contains("one-shell-two"), "{}", terminal.stdout);

    // Files in both directions.
    fs::write(kubectl.folder().join("there"), &bytes).unwrap();
    kubectl.run("cp there shell:/tmp/there").ok();
    kubectl.run("cp shell:/tmp/there back").ok();
    assert!(fs::read(kubectl.folder().join("back")).unwrap() == bytes);

    logs(kubectl);
    let mut attached = kubectl.start("attach shell");
    attached.until("what the container prints", |seen| seen.lines().count() >= 2);
    port_forward(kubectl);
}

fn logs(kubectl: &Session) {
    let mut follower = kubectl.start("logs -f shell --tail=1");
    let lines = |seen: &str| seen.lines().count();
    follower.until("the first line", |seen| lines(seen) >= 1);
    follower.until("lines that were not there at the start", |seen| lines(seen) >= 3);
    assert_eq!(lines(&kubectl.run("logs shell --tail=1").ok()), 1);
}

fn port_forward(kubectl: &Session) {
    let mut forward = kubectl.start("port-forward pod/shell :80");
    let said = forward.until("the local port", |seen| seen.contains("->"));
    let port = said.split("127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap().parse::<u16>().unwrap();
    // One after the other and at the same time.
    for _ in 0..2 {
        let mut connections: Vec<TcpStream> =
            (0..3).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
        for (number, connection) in connections.iter_mut().enumerate() {
            connection.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            connection.write_all(format!("hello {number}").as_bytes()).unwrap();
        }
        for (number, connection) in connections.iter_mut().enumerate() {
            let mut answer = [0; 7];
            connection.read_exact(&mut answer).unwrap();
            assert_eq!(answer, format!("hello {number}").as_bytes());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stream_works_over_websocket() {
    let demo = Demo::start().await;
    let versions = Kubectl::versions("every_stream_works_over_websocket", CHOOSES);
    std::thread::scope(|scope| {
        for kubectl in versions {
            let session =
                demo.session(&kubectl, ADMIN).with_variable("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "true");
            let forwards = if kubectl.minor >= FORWARDS_OVER_WEBSOCKET { "true" } else { "false" };
            let session = session.with_variable("KUBECTL_PORT_FORWARD_WEBSOCKETS", forwards);
            scope.spawn(move || {
                let session = in_namespace(session, "websocket");
                make_pod(&session);
                every_stream(&session);
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stream_works_over_spdy() {
    let demo = Demo::start().await;
    let versions = Kubectl::versions("every_stream_works_over_spdy", 27);
    std::thread::scope(|scope| {
        for kubectl in versions {
            let session = demo
                .session(&kubectl, ADMIN)
                .with_variable("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false")
                .with_variable("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false");
            scope.spawn(move || {
                let session = in_namespace(session, "spdy");
                make_pod(&session);
                every_stream(&session);
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_only_read_reads_logs_and_gets_no_shell() {
    let test = "whoever_may_only_read_reads_logs_and_gets_no_shell";
    let Some(kubectl) = Kubectl::newest(test) else { return };
    let demo = Demo::start().await;
    make_pod(&demo.session(&kubectl, ADMIN));
    let reader = demo.session(&kubectl, READER);
    assert_eq!(reader.run("logs shell --tail=1").ok().lines().count(), 1);
    for protocol in ["true", "false"] {
        let reader = reader
            .clone()
            .with_variable("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", protocol)
            .with_variable("KUBECTL_PORT_FORWARD_WEBSOCKETS", protocol);
        for line in
            ["exec shell -- echo hello", "attach shell", "port-forward pod/shell :80", "cp shell:/etc/x x"]
        {
            let refused = reader.run(line).err();
            assert!(refused.contains("cannot create resource"), "{line}: {refused}");
        }
    }
}
