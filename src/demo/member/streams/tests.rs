//! Sockets on one side, a pod on the other.

use std::{
    net::SocketAddr,
    pin::{Pin, pin},
    task::Poll,
};

use aws_lc_rs::digest;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, service::service_fn, upgrade::Upgraded};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::{
    spdy::testing::{Client, Said},
    *,
};

type Io = TokioIo<Upgraded>;
type Socket = WebSocketStream<Io>;

const PODS: &str = "/api/v1/namespaces/default/pods/web-0";

/// A member with one pod, on a socket.
struct Served {
    address: SocketAddr,
    streams: Arc<Streams>,
    pod: Value,
}

async fn member() -> Served {
    let pod = json!({
        "metadata": {"name": "web-0", "namespace": "default", "uid": "1", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [
            {"name": "app"},
            {"name": "console", "stdin": true, "tty": true},
        ]},
        "status": {"phase": "Running"},
    });
    let streams = Arc::new(Streams::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = Served { address, streams: Arc::clone(&streams), pod: pod.clone() };
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let (streams, pod) = (Arc::clone(&streams), pod.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let path = request.uri().path().to_owned();
                let answer = match path.rsplit('/').next() {
                    Some("exec") => streams.upgrade(Kind::Exec, request, &pod),
                    Some("attach") => streams.upgrade(Kind::Attach, request, &pod),
                    Some("portforward") => streams.upgrade(Kind::PortForward, request, &pod),
                    _ => streams.logs(&pod, request.uri().query().unwrap_or_default()),
                };
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            tokio::spawn(async move {
                let connection = TokioIo::new(connection);
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(connection, service)
                    .with_upgrades()
                    .await;
            });
        }
    });
    served
}

impl Served {
    async fn request(&self, method: Method, tail: &str, headers: &[(&str, &str)]) -> Response<Incoming> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let mut request =
            Request::builder().method(method).uri(format!("{PODS}/{tail}")).header("host", "member");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap()
    }

    async fn websocket(&self, tail: &str, protocol: &str) -> Socket {
        let headers = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", protocol),
        ];
        let response = self.request(Method::GET, tail, &headers).await;
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
        let io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        WebSocketStream::from_raw_socket(io, Role::Client, None).await
    }

    async fn spdy(&self, tail: &str, protocol: &str) -> Client<Io> {
        let headers =
            [("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", protocol)];
        let response = self.request(Method::POST, tail, &headers).await;
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()["x-stream-protocol-version"], protocol);
        Client::new(TokioIo::new(hyper::upgrade::on(response).await.unwrap()))
    }

    async fn refused(&self, method: Method, tail: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let response = self.request(method, tail, headers).await;
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let status: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&status["kind"], &status["code"]), (&json!("Status"), &json!(code)));
        (code, status["message"].as_str().unwrap().to_owned())
    }

    fn sessions(&self) -> usize {
        let pod = self.streams.pod(&self.pod);
        pod.containers.iter().map(|container| Arc::strong_count(container) - 1).sum()
    }
}

/// What a session said on each channel, up to its close frame.
#[derive(Debug, Default)]
struct Heard {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    outcome: Vec<u8>,
    closed: bool,
}

impl Heard {
    fn stdout(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    fn outcome(&self) -> Value {
        serde_json::from_slice(&self.outcome).unwrap()
    }
}

async fn hear(socket: &mut Socket) -> Heard {
    let mut heard = Heard::default();
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Binary(bytes) => match bytes[0] {
                1 => heard.stdout.extend_from_slice(&bytes[1..]),
                2 => heard.stderr.extend_from_slice(&bytes[1..]),
                3 => heard.outcome.extend_from_slice(&bytes[1..]),
                other => panic!("a message on channel {other}"),
            },
            Message::Close(_) => heard.closed = true,
            _ => {}
        }
    }
    heard
}

fn on(channel: u8, payload: impl AsRef<[u8]>) -> Message {
    Message::binary([&[channel], payload.as_ref()].concat())
}

/// Reads from a terminal until it shows `text`.
async fn until(socket: &mut Socket, text: &str) -> String {
    let mut shown = String::new();
    while !shown.contains(text) {
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) if bytes[0] == 1 => {
                shown.push_str(std::str::from_utf8(&bytes[1..]).unwrap())
            }
            Some(Ok(_)) => {}
            other => panic!("{other:?} after {shown:?}"),
        }
    }
    shown
}

fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    bytes
}

const V5: &str = "v5.channel.k8s.io";

#[tokio::test]
async fn exec_tells_output_error_and_exit_code_apart() {
    let member = member().await;
    let query =
        "exec?container=app&stdout=true&stderr=true&command=sh&command=-c&command=echo+out%3B+nope%3B+exit+3";
    let mut socket = member.websocket(query, V5).await;
    assert_eq!(socket.next().await.unwrap().unwrap(), on(1, ""));
    let heard = hear(&mut socket).await;
    assert_eq!(heard.stdout, b"out\n");
    assert_eq!(heard.stderr, b"sh: nope: not found\n");
    assert_eq!(heard.outcome()["reason"], "NonZeroExitCode");
    assert_eq!(heard.outcome()["details"]["causes"], json!([{"reason": "ExitCode", "message": "3"}]));
    assert!(heard.closed);
}

#[tokio::test]
async fn stdin_arrives_byte_for_byte_and_can_be_closed() {
    let member = member().await;
    let query = "exec?container=app&stdin=true&stdout=true&command=sha256sum";
    let socket = member.websocket(query, V5).await;
    let input = random(5 << 20);
    let (mut sink, stream) = socket.split();
    for chunk in input.chunks(32 << 10) {
        sink.send(on(0, chunk)).await.unwrap();
    }
    // An empty message is not the end.
    sink.send(on(0, "")).await.unwrap();
    sink.send(on(255, [0])).await.unwrap();
    let heard = hear(&mut sink.reunite(stream).unwrap()).await;
    let hash: String =
        digest::digest(&digest::SHA256, &input).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(heard.stdout(), format!("{hash}  -\n"));
    assert_eq!(heard.outcome()["status"], "Success");
}

#[tokio::test]
async fn a_command_that_does_not_read_stops_the_client_that_writes() {
    let member = member().await;
    let pod = member.streams.pod(&member.pod);
    let request = session::Request {
        container: Arc::clone(&pod.containers[0]),
        command: Some(vec!["sleep".to_owned(), "1000".to_owned()]),
        streams: session::Streams { stdin: true, stdout: true, stderr: true, tty: false },
        started: pod.started,
    };
    let (near, far) = tokio::io::duplex(64 << 10);
    let mut server = pin!(websocket::serve(far, websocket::Version::V5, request, CancellationToken::new()));
    let mut client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
    let sent = std::cell::Cell::new(0);
    let mut writer = pin!(async {
        loop {
            client.send(on(0, [7; 32 << 10])).await.unwrap();
            sent.set(sent.get() + (32 << 10));
        }
    });
    // Both are polled in turns until neither gets any further.
    let mut idle = 0;
    std::future::poll_fn(|context| {
        while idle < 100 {
            let before = sent.get();
            let _: Poll<()> = Pin::new(&mut writer).poll(context);
            assert!(Pin::new(&mut server).poll(context).is_pending());
            idle = if sent.get() == before { idle + 1 } else { 0 };
            assert!(sent.get() < 4 << 20, "{} bytes are held for a command that does not read", sent.get());
        }
        Poll::Ready(())
    })
    .await;
}

#[tokio::test]
async fn a_terminal_echoes_knows_its_size_and_interrupts() {
    let member = member().await;
    let query = "exec?container=app&stdin=true&stdout=true&stderr=true&tty=true&command=sh";
    let mut socket = member.websocket(query, V5).await;
    until(&mut socket, "/ # ").await;
    socket.send(on(4, r#"{"Width":132,"Height":43}"#)).await.unwrap();
    socket.send(on(0, "echo $COLUMNSx$COLUMNS $LINES\r")).await.unwrap();
    let shown = until(&mut socket, "43\r\n/ # ").await;
    assert_eq!(shown, "echo $COLUMNSx$COLUMNS $LINES\r\n132 43\r\n/ # ");
    socket.send(on(0, "sleep 1000\r")).await.unwrap();
    until(&mut socket, "sleep 1000\r\n").await;
    socket.send(on(0, "\x03")).await.unwrap();
    until(&mut socket, "^C\r\n/ # ").await;
    socket.send(on(0, "echo $?\r")).await.unwrap();
    until(&mut socket, "130\r\n/ # ").await;
    socket.send(on(0, "\x04")).await.unwrap();
    let heard = hear(&mut socket).await;
    assert_eq!(
        (heard.stdout.as_slice(), heard.outcome()["status"].as_str()),
        (&b"exit\r\n"[..], Some("Success"))
    );
}

#[tokio::test]
async fn attach_finds_the_shell_of_an_interactive_container_and_the_log_of_another() {
    let member = member().await;
    let mut socket = member.websocket("attach?container=console&stdin=true&stdout=true&tty=true", V5).await;
    socket.send(on(0, "hostname\rexit 4\r")).await.unwrap();
    let heard = hear(&mut socket).await;
    assert!(heard.stdout().contains("\r\nweb-0\r\n"));
    assert_eq!(heard.outcome()["details"]["causes"][0]["message"], "4");
    let mut socket = member.websocket("attach?container=app&stdout=true&stderr=true", V5).await;
    until(&mut socket, "web-0/app: tick ").await;
}

#[tokio::test]
async fn older_channel_protocols_are_served_too() {
    let member = member().await;
    let query = "exec?container=app&stdout=true&stderr=true&command=false";
    let heard = hear(&mut member.websocket(query, "v4.channel.k8s.io").await).await;
    assert_eq!(heard.outcome()["details"]["causes"][0]["message"], "1");
    let heard = hear(&mut member.websocket(query, "channel.k8s.io").await).await;
    assert_eq!(heard.outcome, b"command terminated with exit code 1");
    // Closing a channel is not part of v4: there it is a message on an unknown channel.
    let query = "exec?container=app&stdin=true&stdout=true&command=head&command=-n&command=1";
    let mut socket = member.websocket(query, "v4.channel.k8s.io").await;
    socket.send(on(255, [0])).await.unwrap();
    socket.send(on(0, "still here\n")).await.unwrap();
    assert_eq!(hear(&mut socket).await.stdout, b"still here\n");
}

#[tokio::test]
async fn pings_are_answered() {
    let member = member().await;
    let mut socket = member.websocket("exec?container=app&stdin=true&stdout=true&command=cat", V5).await;
    socket.send(Message::Ping(Bytes::from_static(b"there?"))).await.unwrap();
    loop {
        if let Message::Pong(answer) = socket.next().await.unwrap().unwrap() {
            assert_eq!(answer, "there?");
            return;
        }
    }
}

#[tokio::test]
async fn hostile_messages_harm_only_their_own_session() {
    let member = member().await;
    let query = "exec?container=app&stdin=true&stdout=true&command=cat";
    for message in [
        Message::binary(vec![]),
        on(9, "?"),
        on(255, ""),
        on(255, [77]),
        on(4, "{"),
        on(4, r#"{"Width":99999999,"Height":-1}"#),
        Message::text("\u{0}text counts as bytes"),
    ] {
        let mut socket = member.websocket(query, V5).await;
        socket.send(message.clone()).await.unwrap();
        socket.send(on(0, "alive")).await.unwrap();
        socket.send(on(255, [0])).await.unwrap();
        let heard = hear(&mut socket).await;
        assert!(heard.stdout.ends_with(b"alive"), "{message:?}: {heard:?}");
    }
    let mut socket = member.websocket(query, V5).await;
    let _ = socket.send(Message::binary(vec![0; 5 << 20])).await;
    assert!(!hear(&mut socket).await.outcome.starts_with(b"{\"metadata\":{},\"status\":\"Success\""));
    let mut socket = member.websocket(query, V5).await;
    tokio::io::AsyncWriteExt::write_all(socket.get_mut(), &[0xff; 64]).await.unwrap();
    hear(&mut socket).await;
    let mut socket = member.websocket(query, V5).await;
    socket.send(on(255, [0])).await.unwrap();
    assert_eq!(hear(&mut socket).await.outcome()["status"], "Success");
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_command() {
    let member = member().await;
    let mut socket = member.websocket("exec?container=app&stdout=true&command=sleep&command=1000", V5).await;
    socket.next().await.unwrap().unwrap();
    assert!(member.sessions() > 0);
    drop(socket);
    while member.sessions() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn deleting_the_pod_ends_its_sessions_and_its_files() {
    let member = member().await;
    let query = "exec?container=app&stdout=true&command=sh&command=-c&command=echo+x+%3E+/tmp/x%3B+echo+ready%3B+sleep+1000";
    let mut socket = member.websocket(query, V5).await;
    until(&mut socket, "ready").await;
    let mut forward = member.spdy("portforward", "portforward.k8s.io").await;
    forward.ping(1).await;
    assert_eq!(forward.next().await, Some(Said::Pong(1)));
    let log = member.request(Method::GET, "log?container=app&follow=true", &[]).await;
    member.streams.forget("1");
    assert_eq!(hear(&mut socket).await.outcome()["details"]["causes"][0]["message"], "137");
    assert_eq!(forward.next().await, None);
    log.into_body().collect().await.unwrap();
    let query = "exec?container=app&stdout=true&stderr=true&command=cat&command=/tmp/x";
    let heard = hear(&mut member.websocket(query, V5).await).await;
    assert!(String::from_utf8(heard.stderr).unwrap().contains("No such file"));
}

#[tokio::test]
async fn what_cannot_be_streamed_is_refused_as_kubernetes_words_it() {
    let member = member().await;
    let upgrade = [
        ("connection", "Upgrade"),
        ("upgrade", "SPDY/3.1"),
        ("x-stream-protocol-version", "v4.channel.k8s.io"),
    ];
    for (tail, headers, code, message) in [
        ("log?container=nope", &[][..], 400, "container nope is not valid for pod web-0"),
        ("log", &[], 400, "a container name must be specified for pod web-0, choose one of: [app console]"),
        (
            "exec?container=nope&stdout=1&command=x",
            &upgrade,
            400,
            "container nope is not valid for pod web-0",
        ),
        (
            "exec?container=app&command=x",
            &upgrade,
            400,
            "you must specify at least 1 of stdin, stdout, stderr",
        ),
        ("exec?container=app&stdout=true", &upgrade, 400, "you must specify a command"),
        ("exec?container=app&stdout=true&command=x", &[], 400, "Upgrade request required"),
        ("exec?container=app&stdout=true&command=x", &upgrade[..2], 400, "X-Stream-Protocol-Version"),
        ("portforward", &upgrade, 403, "server accepts [portforward.k8s.io]"),
    ] {
        let (status, said) = member.refused(Method::GET, tail, headers).await;
        assert_eq!(status, code, "{tail}");
        assert!(said.contains(message), "{tail}: {said}");
    }
}

/// Reads until `ids` have all ended; what each said.
async fn streams_of(client: &mut Client<Io>, ids: &[u32]) -> Vec<Vec<u8>> {
    let mut said = vec![Vec::new(); ids.len()];
    let mut open = ids.len();
    while open > 0 {
        match client.next().await.expect("the server hangs up") {
            Said::Data(id, payload, fin) => {
                let index = ids.iter().position(|known| *known == id).unwrap();
                said[index].extend_from_slice(&payload);
                open -= usize::from(fin);
            }
            Said::Refused(id) => panic!("stream {id} is refused"),
            Said::Accepted(_) | Said::Pong(_) => {}
        }
    }
    said
}

#[tokio::test]
async fn exec_works_over_spdy_with_a_stream_for_each_purpose() {
    let member = member().await;
    let query = "exec?container=app&stdin=true&stdout=true&stderr=true&command=sh&command=-c&command=wc+-c%3B+nope%3B+exit+6";
    let mut client = member.spdy(query, "v4.channel.k8s.io").await;
    let error = client.open(&[("streamtype", "error")]).await;
    let stdin = client.open(&[("streamtype", "stdin")]).await;
    let stdout = client.open(&[("streamtype", "stdout")]).await;
    let stderr = client.open(&[("streamtype", "stderr")]).await;
    for id in [error, stdin, stdout, stderr] {
        assert_eq!(client.next().await, Some(Said::Accepted(id)));
    }
    client.send(stdin, vec![7; 100_000], false).await;
    client.send(stdin, "", true).await;
    let said = streams_of(&mut client, &[error, stdout, stderr]).await;
    let outcome: Value = serde_json::from_slice(&said[0]).unwrap();
    assert_eq!(outcome["details"]["causes"][0]["message"], "6");
    assert_eq!(said[1], b"100000\n");
    assert_eq!(said[2], b"sh: nope: not found\n");
    assert_eq!(client.next().await, None);
}

#[tokio::test]
async fn a_terminal_over_spdy_has_a_size() {
    let member = member().await;
    let query = "exec?container=app&stdin=true&stdout=true&tty=true&command=sh";
    let mut client = member.spdy(query, "v5.channel.k8s.io").await;
    let error = client.open(&[("streamtype", "error")]).await;
    let stdin = client.open(&[("streamtype", "stdin")]).await;
    let resize = client.open(&[("streamtype", "resize")]).await;
    let stdout = client.open(&[("streamtype", "stdout")]).await;
    client.send(resize, "{\"Width\":80,\"Height\":24}\n{\"Width\":9", false).await;
    client.send(resize, "1,\"Height\":25}\n", false).await;
    // The streams are separate: what was typed may be read before the size, so it is asked for until it is there.
    let mut shown = String::new();
    while !shown.contains("91 25\r\n") {
        client.send(stdin, "echo $COLUMNS $LINES\r", false).await;
        loop {
            if let Some(Said::Data(id, payload, _)) = client.next().await
                && id == stdout
            {
                shown.push_str(std::str::from_utf8(&payload).unwrap());
                break;
            }
        }
    }
    client.send(stdin, "\x15exit\r", false).await;
    let said = streams_of(&mut client, &[error, stdout]).await;
    assert_eq!(serde_json::from_slice::<Value>(&said[0]).unwrap()["status"], "Success");
}

async fn forwards(mut client: Client<Io>) {
    let headers = |kind, request| [("streamtype", kind), ("port", "8080"), ("requestid", request)];
    let mut ids = Vec::new();
    for request in ["0", "1"] {
        let error = client.open(&headers("error", request)).await;
        client.send(error, "", true).await;
        let data = client.open(&headers("data", request)).await;
        ids.push((error, data));
    }
    let [(error, data), (other_error, other_data)] = ids[..] else { unreachable!() };
    client.send(other_data, "hello", true).await;
    let said = streams_of(&mut client, &[other_error, other_data]).await;
    assert_eq!(said, [&b""[..], b"hello"]);
    client.send(data, "one", false).await;
    client.send(data, " two", true).await;
    assert_eq!(streams_of(&mut client, &[error, data]).await, [&b""[..], b"one two"]);
    let error = client.open(&[("streamtype", "error"), ("port", "70000"), ("requestid", "2")]).await;
    let data = client.open(&[("streamtype", "data"), ("port", "70000"), ("requestid", "2")]).await;
    let said = streams_of(&mut client, &[error, data]).await;
    assert_eq!(said, [&b"unable to forward port: invalid port \"70000\""[..], b""]);
}

#[tokio::test]
async fn ports_echo_over_spdy() {
    forwards(member().await.spdy("portforward", "portforward.k8s.io").await).await;
}

#[tokio::test]
async fn ports_echo_through_a_websocket() {
    let member = member().await;
    let mut socket = member.websocket("portforward", "SPDY/3.1+portforward.k8s.io").await;
    let (near, mut far) = tokio::io::duplex(64 << 10);
    let mut client = Client::new(near);
    let pump = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut buffer = [0; 1000];
        loop {
            tokio::select! {
                length = far.read(&mut buffer) => match length.unwrap() {
                    0 => return,
                    length => socket.send(Message::binary(buffer[..length].to_vec())).await.unwrap(),
                },
                message = socket.next() => match message {
                    Some(Ok(Message::Binary(bytes))) => far.write_all(&bytes).await.unwrap(),
                    Some(Ok(_)) => {}
                    _ => return,
                },
            }
        }
    });
    let error = client.open(&[("streamtype", "error"), ("port", "1"), ("requestid", "0")]).await;
    let data = client.open(&[("streamtype", "data"), ("port", "1"), ("requestid", "0")]).await;
    for id in [error, data] {
        assert_eq!(client.next().await, Some(Said::Accepted(id)));
    }
    let sent = random(100_000);
    for chunk in sent.chunks(10_000) {
        client.send(data, chunk.to_vec(), false).await;
        let mut echoed = Vec::new();
        while echoed.len() < chunk.len() {
            match client.next().await.unwrap() {
                Said::Data(id, payload, _) if id == data => echoed.extend_from_slice(&payload),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(echoed, chunk);
    }
    member.streams.forget("1");
    assert_eq!(client.next().await, None);
    drop(client);
    pump.await.unwrap();
}

#[tokio::test]
async fn hostile_spdy_harms_only_its_own_connection() {
    let member = member().await;
    for bytes in [&[0xff; 100][..], &[0x80, 3, 0, 1, 0, 0, 0, 20, 1], b"GET / HTTP/1.1\r\n\r\n"] {
        let headers = [
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "portforward.k8s.io"),
        ];
        let response = member.request(Method::POST, "portforward", &headers).await;
        let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        io.write_all(bytes).await.unwrap();
        io.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _ = io.read_to_end(&mut rest).await;
    }
    let mut client = member.spdy("portforward", "portforward.k8s.io").await;
    let unknown = client.open(&[("streamtype", "nonsense")]).await;
    assert_eq!(client.next().await, Some(Said::Accepted(unknown)));
    assert_eq!(client.next().await, Some(Said::Refused(unknown)));
    forwards(client).await;
}

#[tokio::test]
async fn a_followed_log_is_plain_text_line_by_line() {
    let member = member().await;
    let response = member.request(Method::GET, "log?container=app&follow=true&tailLines=1", &[]).await;
    assert_eq!(response.headers()["content-type"], "text/plain");
    let mut body = response.into_body();
    for _ in 0..2 {
        let line = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(line.starts_with(b"web-0/app: tick ") && line.ends_with(b"\n"), "{line:?}");
    }
}
