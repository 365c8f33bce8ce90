//! What becomes of headers on the wire. That no set of headers can cheat is a property test beside the code.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use upgrade_aware_proxy::{HeaderEdits, Target};

use crate::support::{
    Http,
    body::{fed, full},
    client::{Client, text},
    front::{Front, proxy, target},
    member::{HyperMember, RawMember},
    over_all_versions,
    raw::{header, headers},
};

over_all_versions!(trailers_carry_no_identity);

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Identity as a gateway would assert it.
fn identity() -> HeaderEdits {
    let mut set = HeaderMap::new();
    for (name, value) in [
        ("authorization", "Bearer gateway"),
        ("impersonate-user", "alice"),
        ("impersonate-group", "one"),
        ("impersonate-group", "two,with comma"),
        ("impersonate-extra-scopes", "view"),
    ] {
        set.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    HeaderEdits {
        remove: vec![http::header::COOKIE],
        remove_prefixes: vec!["impersonate-", "x-remote-"],
        set,
        remove_websocket_protocol_prefix: Some("base64url.bearer.authorization.k8s.io."),
    }
}

fn impersonating(member: &RawMember) -> Target {
    Target { edits: identity(), ..target(member.dial()) }
}

/// Sends the header lines on a plain request and on an upgrade, and hands both heads to the check.
async fn on_both_paths(lines: &str, check: impl Fn(&str)) {
    for (answer, upgrade) in [(OK, ""), (SWITCHING, "Connection: Upgrade\r\nUpgrade: websocket\r\n")] {
        let member = RawMember::answering(answer).await;
        let front = Front::of(impersonating(&member)).await;
        let answer =
            front.socket().await.ask(format!("GET / HTTP/1.1\r\nHost: f\r\n{upgrade}{lines}\r\n")).await;
        assert!(matches!(answer.status, 200 | 101), "{}", answer.text());
        check(&member.received());
    }
}

fn assert_identity(head: &str) {
    assert_eq!(headers(head, "authorization"), ["Bearer gateway"], "{head}");
    assert_eq!(headers(head, "impersonate-user"), ["alice"], "{head}");
    assert_eq!(headers(head, "impersonate-group"), ["one", "two,with comma"], "{head}");
    assert_eq!(headers(head, "impersonate-extra-scopes"), ["view"], "{head}");
}

#[tokio::test]
async fn connection_cannot_take_identity_away() {
    for name in ["Impersonate-User", "impersonate-group", "AUTHORIZATION", "Impersonate-Extra-Scopes"] {
        for lines in [
            format!("Connection: {name}\r\n"),
            format!("Connection: close, {name}\r\n"),
            format!("Connection: keep-alive\r\nConnection: {name}\r\n"),
            format!("Connection:  \t{name} \t,\r\n"),
            format!("Connection: ,,{name},,\r\n"),
            format!("Connection: {name}\r\n{name}: mine\r\n"),
        ] {
            on_both_paths(&lines, assert_identity).await;
        }
    }
}

#[tokio::test]
async fn identity_that_the_client_claims_never_arrives() {
    let lines = "Impersonate-User: admin\r\nIMPERSONATE-GROUP: system:masters\r\nImpersonate-Uid: 0\r\n\
                 Impersonate_User: admin\r\nImpersonate_Extra_Scopes: all\r\nimpersonate-Extra_Scopes: all\r\n\
                 X-Remote-User: admin\r\nX_Remote_Group: system:masters\r\nx-remote-extra-a: b\r\n\
                 Authorization: Bearer mine\r\nAuthorization: Basic mine\r\nCookie: session=1\r\n";
    on_both_paths(lines, |head| {
        assert_identity(head);
        let lower = head.to_ascii_lowercase();
        for gone in [
            "admin",
            "masters",
            "impersonate_",
            "extra_scopes",
            "x-remote",
            "x_remote",
            "mine",
            "cookie",
            "uid",
        ] {
            assert!(!lower.contains(gone), "{gone} in {head}");
        }
    })
    .await;
}

#[tokio::test]
async fn all_that_any_connection_line_names_is_gone() {
    let lines = "Connection: x-a\r\nConnection: keep-alive ,\tX-B\r\nX-A: 1\r\nX-B: 2\r\nX-B: 3\r\nX-C: 4\r\n\
                 Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic p\r\n\
                 Proxy-Authenticate: Basic\r\nTE: gzip\r\nHTTP2-Settings: AAA\r\n";
    on_both_paths(lines, |head| {
        for gone in [
            "x-a",
            "x-b",
            "keep-alive",
            "proxy-connection",
            "proxy-authorization",
            "proxy-authenticate",
            "te",
        ] {
            assert_eq!(header(head, gone), None, "{head}");
        }
        assert_eq!(header(head, "http2-settings"), None, "{head}");
        assert_eq!(header(head, "x-c"), Some("4"), "{head}");
    })
    .await;
}

#[tokio::test]
async fn bearer_token_among_websocket_protocols_stays_here() {
    let lines = "Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.dG9r, v5.channel.k8s.io\r\n\
                 Sec-WebSocket-Protocol: v4.channel.k8s.io,BASE64URL.bearer.authorization.k8s.io.x\r\n";
    on_both_paths(lines, |head| {
        assert_eq!(headers(head, "sec-websocket-protocol"), ["v5.channel.k8s.io, v4.channel.k8s.io"]);
    })
    .await;
    on_both_paths("Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.dG9r\r\n", |head| {
        assert_eq!(header(head, "sec-websocket-protocol"), None);
    })
    .await;
    let untouched = "Sec-WebSocket-Protocol: a ,b\r\nSec-WebSocket-Protocol: c\r\n";
    on_both_paths(untouched, |head| assert_eq!(headers(head, "sec-websocket-protocol"), ["a ,b", "c"])).await;
}

#[tokio::test]
async fn everything_else_arrives_as_it_was_sent() {
    let lines = "X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\nVia: 1.1 hub\r\nAudit-ID: 7\r\n\
                 Accept: a, b\r\nX-Bytes: caf\u{e9}\r\nX-Empty:\r\nAccept-Encoding: br\r\n";
    on_both_paths(lines, |head| {
        assert_eq!(
            headers(head, "x-forwarded-for"),
            ["10.0.0.1", "10.0.0.2"],
            "nothing is invented or folded"
        );
        for (name, value) in [
            ("via", "1.1 hub"),
            ("audit-id", "7"),
            ("accept", "a, b"),
            ("x-bytes", "caf\u{e9}"),
            ("x-empty", ""),
        ] {
            assert_eq!(header(head, name), Some(value));
        }
        assert_eq!(header(head, "accept-encoding"), Some("br"));
        assert_eq!(header(head, "user-agent"), None);
    })
    .await;
}

#[tokio::test]
async fn answer_loses_its_connections_headers_and_nothing_else() {
    let member = RawMember::answering(
        "HTTP/1.1 200 All Good\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\n\
         Proxy-Authenticate: Basic\r\nUpgrade: h2c\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
         Access-Control-Allow-Origin: *\r\nAudit-Id: 7\r\nCache-Control: no-cache\r\nServer: member\r\n\
         Location: /not-a-redirect\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let front = Front::of(target(member.dial())).await;
    let answer = front.socket().await.ask("GET / HTTP/1.1\r\nHost: f\r\n\r\n").await;
    for gone in ["x-hop", "keep-alive", "proxy-authenticate", "upgrade", "connection"] {
        assert_eq!(answer.header(gone), None, "{}", answer.head);
    }
    assert!(answer.head.starts_with("HTTP/1.1 200 All Good\r\n"), "{}", answer.head);
    assert_eq!(headers(&answer.head, "set-cookie"), ["a=1", "b=2"]);
    for (name, value) in [
        ("access-control-allow-origin", "*"),
        ("audit-id", "7"),
        ("cache-control", "no-cache"),
        ("server", "member"),
        ("location", "/not-a-redirect"),
    ] {
        assert_eq!(headers(&answer.head, name), [value]);
    }
}

#[tokio::test]
async fn edits_that_would_frame_the_message_are_refused_and_nothing_is_sent() {
    for name in ["connection", "content-length", "transfer-encoding", "host", "upgrade", "te"] {
        let member = RawMember::answering(OK).await;
        let mut target = target(member.dial());
        target.edits.set.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        let front = Front::of(target).await;
        let answer = front.socket().await.ask("GET / HTTP/1.1\r\nHost: f\r\n\r\n").await;
        assert_eq!(answer.status, 500);
        assert!(answer.text().contains(name), "{}", answer.text());
        assert_eq!(member.connections(), 0);
    }
}

/// A target that merges trailers into the head must not find there what was kept out of it.
async fn trailers_carry_no_identity(front: Http, member: Http) {
    let member = HyperMember::start(member, |request| async move {
        let body = request.into_body().collect().await.unwrap();
        let mut names: Vec<_> =
            body.trailers().into_iter().flat_map(HeaderMap::keys).map(HeaderName::as_str).collect();
        names.sort_unstable();
        Response::new(full(names.join(" ")))
    })
    .await;
    let target = Target { edits: identity(), ..target(member.dial()) };
    let front = Front::start(front, proxy(), target).await;
    let names =
        ["impersonate-user", "impersonate_uid", "x-remote-user", "authorization", "cookie", "host", "x-sum"];
    let (feed, body) = fed();
    let request =
        Request::post("/").header("te", "trailers").header("trailer", names.join(", ")).body(body).unwrap();
    let upload = async {
        feed.data("data").await;
        let value = HeaderValue::from_static("root");
        feed.trailers(names.iter().map(|name| (HeaderName::from_static(name), value.clone())).collect())
            .await;
        drop(feed);
    };
    let mut client = Client::of(&front).await;
    let (response, ()) = tokio::join!(client.send(request), upload);
    assert_eq!(text(response.unwrap()).await, "x-sum");
}
