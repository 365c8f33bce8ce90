//! What a member gets, byte for byte, and what it never gets.

use http::{Method, StatusCode};

use crate::support::{
    gateway::{ADMIN, Cluster, GATEWAY_TOKEN, Gateway, Setup},
    raw_member::{RawMember, Recorded, Reply, ok},
};

const PREFIXES: [&str; 2] =
    ["/clusters/east", "/apis/cluster.core.oam.dev/v1alpha1/clustergateways/east/proxy"];

async fn gateway_and_member(
    answer: impl Fn(&Recorded) -> Reply + Send + Sync + 'static,
) -> (Gateway, RawMember) {
    let member = RawMember::start(answer).await;
    let gateway = Setup::new().cluster(&Cluster::of("east", &member)).start();
    (gateway, member)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn path_and_query_reach_the_member_byte_for_byte() {
    let (gateway, member) = gateway_and_member(|_| ok("{}")).await;
    let admin = gateway.client(ADMIN);
    let tails = [
        ("", "/"),
        ("/", "/"),
        ("?", "/?"),
        ("/api/v1/pods", "/api/v1/pods"),
        ("/api/v1/pods/", "/api/v1/pods/"),
        ("/api/v1/pods?", "/api/v1/pods?"),
        ("//api///v1//", "//api///v1//"),
        ("/a%2Fb%2fc/%C3%A4/%7e~", "/a%2Fb%2fc/%C3%A4/%7e~"),
        ("/x?z=1&a=2&z=3&flag&empty=&plus=a+b&%zz;=y", "/x?z=1&a=2&z=3&flag&empty=&plus=a+b&%zz;=y"),
        ("/x?dryRun=All&__dryRun=x&impersonate=true", "/x?dryRun=All&__dryRun=x&impersonate=true"),
        ("/x?back=/../..&to=https://elsewhere/", "/x?back=/../..&to=https://elsewhere/"),
        ("/services/http:web:80/proxy/...;v=1/'()*!$,=:@", "/services/http:web:80/proxy/...;v=1/'()*!$,=:@"),
        ("/x%00%0d%0a%20%", "/x%00%0d%0a%20%"),
        (r"/a|b^{c}[d]\e?x=`y|{z}", r"/a|b^{c}[d]\e?x=`y|{z}"),
    ];
    for prefix in PREFIXES {
        for (tail, expected) in tails {
            let before = member.requests().len();
            let answer = admin
                .raw(&format!(
                    "GET {prefix}{tail} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {{token}}\r\n\
                     Connection: close\r\n\r\n"
                ))
                .await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{prefix}{tail}: {answer}");
            assert_eq!(member.requests()[before].target(), expected, "{prefix}{tail}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_base_path_of_an_endpoint_stands_in_front() {
    let member = RawMember::start(|_| ok("{}")).await;
    let cluster = Cluster::of("east", &member).endpoint(&format!("{}/k8s/clusters/c-1/", member.url()));
    let gateway = Setup::new().cluster(&cluster).start();
    let admin = gateway.client(ADMIN);
    for (tail, expected) in
        [("", "/k8s/clusters/c-1/"), ("/api//x/?y=%2F", "/k8s/clusters/c-1/api//x/?y=%2F")]
    {
        let before = member.requests().len();
        assert_eq!(admin.get(&format!("/clusters/east{tail}")).await.status, StatusCode::OK);
        assert_eq!(member.requests()[before].target(), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_sees_the_caller_and_the_gateways_credential_and_nothing_the_caller_made_up() {
    let (gateway, member) = gateway_and_member(|_| ok("{}")).await;
    let answer = gateway
        .client(ADMIN)
        .raw(
            "GET /clusters/east/api HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n\
             Accept: application/json\r\nUser-Agent: proof/1\r\nX-Custom: kept\r\nx-custom: twice\r\n\
             X-Remote-User: root\r\nX-Remote-Group: system:masters\r\nX-Remote-Extra-Scopes: all\r\n\
             X_Remote_User: root\r\nX-Remote_Group: system:masters\r\n\
             Cookie: session=1\r\nX-Forwarded-For: 10.1.1.1\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Uri: /evil\r\n\
             Forwarded: for=10.1.1.1\r\nX-Real-IP: 10.1.1.1\r\nProxy-Authorization: Basic Zm9v\r\n\
             Proxy-Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nTE: gzip\r\n\
             Connection: close, X-Hop\r\nX-Hop: only for the gateway\r\n\r\n",
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let request = member.only_request();
    assert_eq!(request.line(), "GET /api HTTP/1.1");
    assert_eq!(
        request.names(),
        [
            "accept",
            "authorization",
            "host",
            "impersonate-group",
            "impersonate-uid",
            "impersonate-user",
            "user-agent",
            "x-custom",
            "x-forwarded-for"
        ]
    );
    assert_eq!(request.values("host"), [member.address.to_string()]);
    assert_eq!(request.values("authorization"), [format!("Bearer {GATEWAY_TOKEN}")]);
    assert_eq!(request.values("impersonate-user"), ["admin"]);
    assert_eq!(request.values("impersonate-uid"), [format!("uid-of-{ADMIN}")]);
    assert_eq!(request.values("impersonate-group"), ["dev"]);
    assert_eq!(request.values("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(request.values("x-custom"), ["kept", "twice"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_header_cannot_take_away_the_identity() {
    let (gateway, member) = gateway_and_member(|_| ok("{}")).await;
    for connection in [
        "close, Impersonate-User, Impersonate-Group, Impersonate-Uid, Authorization, X-Forwarded-For, Host",
        "close\r\nConnection: impersonate-user\r\nConnection: IMPERSONATE-GROUP,authorization , ,impersonate-uid",
        "close, keep-alive, Impersonate_User, \tImpersonate-Group\t",
    ] {
        let before = member.requests().len();
        let answer = gateway
            .client(ADMIN)
            .raw(&format!(
                "GET /clusters/east/api HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {{token}}\r\n\
                 Connection: {connection}\r\n\r\n"
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{connection}: {answer}");
        let request = &member.requests()[before];
        assert_eq!(request.values("impersonate-user"), ["admin"], "{connection}");
        assert_eq!(request.values("impersonate-group"), ["dev"], "{connection}");
        assert_eq!(request.values("impersonate-uid").len(), 1, "{connection}");
        assert_eq!(request.values("authorization"), [format!("Bearer {GATEWAY_TOKEN}")], "{connection}");
        assert_eq!(request.values("host"), [member.address.to_string()], "{connection}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_with_two_framings_never_reaches_a_member() {
    let (gateway, member) = gateway_and_member(|_| ok("{}")).await;
    let smuggled = "GET /clusters/east/smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    for framing in [
        "Content-Length: 4\r\nContent-Length: 5",
        "Content-Length: +4",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunke",
        "Transfer-Encoding : chunked",
    ] {
        let answer = gateway
            .client(ADMIN)
            .raw(&format!(
                "POST /clusters/east/api HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {{token}}\r\n\
                 {framing}\r\nConnection: close\r\n\r\n0\r\n\r\n{smuggled}"
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 400 ") || answer.is_empty(), "{framing}: {answer}");
    }
    assert!(member.requests().is_empty(), "{:?}", member.requests());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_arrive_as_they_were_sent() {
    let (gateway, member) = gateway_and_member(|_| ok("{}")).await;
    let admin = gateway.client(ADMIN);
    let json = r#"{"kind":"ConfigMap", "data": {"ä": "\u00e4"}}"#;
    let mut request = admin.request(Method::POST, "/clusters/east/api/v1/namespaces/default/configmaps");
    request.headers_mut().insert("content-type", "application/json".parse().unwrap());
    *request.body_mut() = json.into();
    assert_eq!(admin.send(request).await.status, StatusCode::OK);
    let recorded = member.only_request();
    assert_eq!(recorded.line(), "POST /api/v1/namespaces/default/configmaps HTTP/1.1");
    assert_eq!(recorded.body, json.as_bytes());
    assert_eq!(recorded.values("content-length"), [json.len().to_string()]);
    assert!(recorded.values("transfer-encoding").is_empty());

    let answer = admin
        .raw(
            "PUT /clusters/east/chunked HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n\
             Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let recorded = &member.requests()[1];
    assert_eq!(recorded.values("transfer-encoding"), ["chunked"]);
    assert!(recorded.values("content-length").is_empty());
    let body = String::from_utf8_lossy(&recorded.body);
    let data: String = body.split("\r\n").skip(1).step_by(2).collect();
    assert_eq!(data, "hello world", "{body:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_back_as_the_member_gave_them() {
    let (gateway, _member) = gateway_and_member(|request| match request.target() {
        "/odd" => Reply::Send(
            b"HTTP/1.1 422 Odd\r\nContent-Type: application/vnd.kubernetes.protobuf\r\nAudit-Id: 1\r\nAudit-Id: 2\r\n\
              Warning: 299 - \"old\"\r\nX-Kubernetes-Pf-Flowschema-Uid: f\r\nSet-Cookie: a=b\r\nContent-Length: 5\r\n\
              Connection: X-Mine\r\nX-Mine: hop\r\n\r\nk8s\0\xff"
                .to_vec(),
        ),
        "/empty" => Reply::Send(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        "/unchanged" => Reply::Send(b"HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n".to_vec()),
        _ => ok("{}"),
    })
    .await;
    let admin = gateway.client(ADMIN);
    let answer = admin.get("/clusters/east/odd").await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(&answer.body[..], b"k8s\0\xff");
    assert_eq!(answer.headers.get_all("audit-id").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(answer.headers["warning"], "299 - \"old\"");
    assert_eq!(answer.headers["content-length"], "5");
    assert!(!answer.headers.contains_key("x-mine"), "{:?}", answer.headers);
    assert!(!answer.headers.contains_key("clusterway-hop"), "the member's answer is the member's");
    assert_eq!(admin.get("/clusters/east/empty").await.status, StatusCode::NO_CONTENT);
    let unchanged = admin.get("/clusters/east/unchanged").await;
    assert_eq!(
        (unchanged.status, &unchanged.headers["etag"]),
        (StatusCode::NOT_MODIFIED, &"\"1\"".parse().unwrap())
    );
    let head = admin.send(admin.request(Method::HEAD, "/clusters/east/unchanged")).await;
    assert_eq!(head.status, StatusCode::NOT_MODIFIED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_is_passed_on_below_the_members_prefix_only() {
    let (gateway, member) = gateway_and_member(|request| {
        let to = match request.target() {
            "/same" => "/api/v1/?x=1",
            "/elsewhere" => "https://elsewhere.example/api",
            "/schemeless" => "//elsewhere.example/api",
            _ => "/../../clusters/west/api",
        };
        Reply::Send(format!("HTTP/1.1 307 Go\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").into_bytes())
    })
    .await;
    let admin = gateway.client(ADMIN);
    for prefix in PREFIXES {
        let same = admin.get(&format!("{prefix}/same")).await;
        assert_eq!(same.status, StatusCode::TEMPORARY_REDIRECT);
        assert_eq!(same.headers["location"], format!("{prefix}/api/v1/?x=1"));
    }
    for path in ["/clusters/east/elsewhere", "/clusters/east/schemeless", "/clusters/east/upwards"] {
        let answer = admin.get(path).await;
        let (code, hop, message) = answer.refusal();
        assert_eq!((code, hop.as_str()), (502, "member"), "{path}: {message}");
        assert!(
            !message.contains("elsewhere.example") && !answer.headers.contains_key("location"),
            "{answer:?}"
        );
    }
    assert_eq!(member.requests().len(), 5, "no redirect was followed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_carries_every_byte_both_ways_and_only_the_gateways_credential() {
    let (gateway, member) = gateway_and_member(|_| {
        Reply::SendAndEcho(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
              X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\nEARLY"
                .to_vec(),
        )
    })
    .await;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = gateway.anonymous().tls().await.unwrap();
    let head = format!(
        "POST /clusters/east/api/v1/namespaces/a/pods/b/exec?command=sh&stdin=true HTTP/1.1\r\nHost: gateway\r\n\
         Authorization: Bearer {ADMIN}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nCookie: a=b\r\n\
         X-Stream-Protocol-Version: v4.channel.k8s.io\r\nX-Remote-User: root\r\n\
         Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.c2VjcmV0, v5.channel.k8s.io\r\n\
         Content-Length: 0\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    crate::support::soon("the 101 and what came with it", async {
        while !answer.ends_with(b"EARLY") {
            assert_ne!(
                stream.read_buf(&mut answer).await.unwrap(),
                0,
                "{}",
                String::from_utf8_lossy(&answer)
            );
        }
    })
    .await;
    let text = String::from_utf8(answer).unwrap().to_ascii_lowercase();
    assert!(text.starts_with("http/1.1 101 "), "{text}");
    assert!(text.contains("\r\nupgrade: spdy/3.1\r\n") && text.contains("v4.channel.k8s.io"), "{text}");

    let sent: Vec<u8> = (0..200_000_u32).map(|number| (number % 251) as u8).collect();
    let (mut reading, mut writing) = tokio::io::split(stream);
    let data = sent.clone();
    let writer = tokio::spawn(async move {
        writing.write_all(&data).await.unwrap();
        writing.shutdown().await.unwrap();
    });
    let mut echoed = Vec::new();
    crate::support::soon("the echo and its end", reading.read_to_end(&mut echoed)).await.unwrap();
    writer.await.unwrap();
    assert!(echoed == sent, "{} of {} bytes, or others", echoed.len(), sent.len());

    let request = member.only_request();
    assert!(request.body == sent);
    assert_eq!(request.target(), "/api/v1/namespaces/a/pods/b/exec?command=sh&stdin=true");
    assert_eq!(request.values("authorization"), [format!("Bearer {GATEWAY_TOKEN}")]);
    assert_eq!(request.values("impersonate-user"), ["admin"]);
    assert_eq!(request.values("upgrade"), ["SPDY/3.1"]);
    assert_eq!(request.values("sec-websocket-protocol"), ["v5.channel.k8s.io"]);
    for gone in ["cookie", "x-remote-user"] {
        assert!(request.values(gone).is_empty(), "{gone}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_refused_upgrade_nothing_more_reaches_the_member() {
    let (gateway, member) = gateway_and_member(|_| {
        Reply::Send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nbarred".to_vec())
    })
    .await;
    let answer = gateway
        .client(ADMIN)
        .raw(
            "GET /clusters/east/api/v1/namespaces/a/pods/b/exec HTTP/1.1\r\nHost: gateway\r\n\
             Authorization: Bearer {token}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n\
             GET /api/v1/secrets HTTP/1.1\r\nHost: member\r\n\r\n",
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.ends_with("barred"), "{answer}");
    assert_eq!(member.requests().len(), 1, "{:?}", member.requests());
    assert!(!member.only_request().target().contains("secrets"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_the_member_breaks_off_arrives_broken() {
    let (gateway, member) = gateway_and_member(|request| {
        let framing = if request.target() == "/chunked" {
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
        } else {
            "Content-Length: 10\r\n\r\nhello"
        };
        Reply::SendAndClose(format!("HTTP/1.1 200 OK\r\n{framing}").into_bytes())
    })
    .await;
    use http_body_util::BodyExt as _;
    let admin = gateway.client(ADMIN);
    for path in ["/clusters/east/chunked", "/clusters/east/counted"] {
        // Broken is what it must be; if it breaks at once, not even the head need arrive.
        let request = admin.request(Method::GET, path);
        if let Ok(answer) = admin.http1().await.start(request.clone()).await {
            assert!(
                answer.into_body().collect().await.is_err(),
                "{path} over HTTP/1.1 ended as if it were whole"
            );
        }
        if let Ok(answer) = admin.http2().await.start(request).await {
            assert!(
                answer.into_body().collect().await.is_err(),
                "{path} over HTTP/2 ended as if it were whole"
            );
        }
    }
    assert!(member.requests().len() >= 4, "{:?}", member.requests());
}
