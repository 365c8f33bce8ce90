//! What Clusterway itself refuses or fails, and how it says so.

use std::time::Duration;

use http::{Method, StatusCode};
use tokio::net::TcpListener;

use crate::support::{
    gateway::{ADMIN, Cluster, Gateway, NOBODY, READER, Setup, rule},
    raw_member::{RawMember, Reply, ok},
};

const PATH: &str = "/clusters/east/api";

async fn gateway_and_member() -> (Gateway, RawMember) {
    let member = RawMember::start(|_| ok("{}")).await;
    let gateway = Setup::new().cluster(&Cluster::of("east", &member)).start();
    (gateway, member)
}

/// An upgrade to a shell, as kubectl asks for one.
fn exec(method: &str, protocol: &str, stream: &str) -> String {
    format!(
        "{method} /clusters/east/api/v1/namespaces/a/pods/b/{stream} HTTP/1.1\r\nHost: gateway\r\n\
         Authorization: Bearer {{token}}\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nContent-Length: 0\r\n\r\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_valid_credential_everything_is_401() {
    let (gateway, member) = gateway_and_member().await;
    let nobody = gateway.anonymous();
    for path in [
        PATH,
        "/clusters/nowhere/api",
        "/apis/cluster.core.oam.dev/v1alpha1/clustergateways/east/proxy/",
        "/x",
    ] {
        let (code, hop, _) = nobody.get(path).await.refusal();
        assert_eq!((code, hop.as_str()), (401, "gateway"), "{path}");
    }
    for authorization in
        ["Bearer wrong", "Bearer ", "Basic YWRtaW46YWRtaW4=", &format!("Bearer {ADMIN}x"), ADMIN]
    {
        let mut request = nobody.request(Method::GET, PATH);
        request.headers_mut().insert("authorization", authorization.parse().unwrap());
        let (code, _, message) = nobody.send(request).await.refusal();
        assert_eq!(code, 401, "{authorization}");
        assert!(!message.contains(ADMIN), "a credential is never repeated: {message}");
    }
    assert!(member.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_rule_a_caller_is_told_what_he_may_not_do() {
    let (gateway, member) = gateway_and_member().await;
    let answer = gateway.client(NOBODY).get(PATH).await;
    let (code, hop, message) = answer.refusal();
    assert_eq!((code, hop.as_str()), (403, "gateway"));
    assert_eq!(
        message,
        "clustergateways.cluster.core.oam.dev \"east\" is forbidden: User \"nobody\" cannot get resource \
         \"clustergateways/proxy\" in API group \"cluster.core.oam.dev\" at the cluster scope"
    );
    assert_eq!(answer.json()["details"]["name"], "east");
    assert_eq!(answer.json()["reason"], "Forbidden");
    assert!(member.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_method_needs_its_verb() {
    let member = RawMember::start(|_| ok("{}")).await;
    let verbs = ["get", "create", "update", "patch", "delete"];
    let mut setup = Setup::new().cluster(&Cluster::of("east", &member));
    for verb in verbs {
        let manifest = rule(verb, &[verb], Some(&["east"]), &[("User", &format!("may-{verb}"))]);
        setup = setup.user(&format!("token-{verb}"), &format!("may-{verb}"), &[]);
        setup = setup.manifest(&format!("{verb}.yaml"), &manifest);
    }
    let gateway = setup.start();
    for verb in verbs {
        let client = gateway.client(&format!("token-{verb}"));
        for (method, needed) in [
            ("GET", "get"),
            ("HEAD", "get"),
            ("OPTIONS", "get"),
            ("POST", "create"),
            ("PUT", "update"),
            ("PATCH", "patch"),
            ("DELETE", "delete"),
        ] {
            let answer = client.send(client.request(method.parse().unwrap(), PATH)).await;
            let expected = if verb == needed { StatusCode::OK } else { StatusCode::FORBIDDEN };
            assert_eq!(answer.status, expected, "{method} with the right to {verb}");
        }
    }
    let admin = gateway.client(ADMIN);
    for method in ["TRACE", "PROPFIND", "get"] {
        let answer = admin.send(admin.request(method.parse().unwrap(), PATH)).await;
        assert_eq!(answer.refusal().0, 405, "{method}");
    }
    assert_eq!(member.requests().len(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_for_one_cluster_opens_no_other() {
    let member = RawMember::start(|_| ok("{}")).await;
    let gateway = Setup::new()
        .cluster(&Cluster::of("east", &member))
        .cluster(&Cluster::of("west", &member))
        .user("token", "tom", &[])
        .manifest("tom.yaml", &rule("tom", &["get"], Some(&["east"]), &[("User", "tom")]))
        .start();
    let tom = gateway.client("token");
    assert_eq!(tom.get("/clusters/east/api").await.status, StatusCode::OK);
    for path in ["/clusters/west/api", "/apis/cluster.core.oam.dev/v1alpha1/clustergateways/west/proxy/api"] {
        assert_eq!(tom.get(path).await.refusal().0, 403, "{path}");
    }
    assert_eq!(tom.get("/clusters/nowhere/api").await.refusal().0, 403, "not even whether it exists");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_into_a_container_needs_create_whatever_its_method() {
    let (gateway, member) = gateway_and_member().await;
    let reader = gateway.client(READER);
    for stream in ["exec", "attach", "portforward", "%65xec", "EXEC?command=sh", "exec/", "x/../exec"] {
        for protocol in ["websocket", "SPDY/3.1", "websocket, SPDY/3.1"] {
            let answer = reader.raw(&exec("GET", protocol, stream)).await;
            let refused = answer.starts_with("HTTP/1.1 403 ") && answer.contains("cannot create resource");
            assert!(refused, "{stream} over {protocol}: {answer}");
        }
    }
    let nodes = exec("GET", "websocket", "exec").replace("namespaces/a/pods/b", "nodes/n/proxy");
    assert!(reader.raw(&nodes).await.starts_with("HTTP/1.1 403 "));
    let hidden = exec("GET", "websocket", "exec").replace("Connection: Upgrade\r\n", "Connection: close\r\n");
    assert!(reader.raw(&hidden).await.starts_with("HTTP/1.1 403 "));
    assert!(member.requests().is_empty(), "{:?}", member.requests());
    assert_eq!(member.connections(), 0, "not even dialed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_to_anything_but_websocket_and_spdy_is_400_without_a_dial() {
    let (gateway, member) = gateway_and_member().await;
    let admin = gateway.client(ADMIN);
    for protocol in ["h2c", "TLS/1.2", "foo", "websocket, foo"] {
        let answer = admin.raw(&exec("GET", protocol, "exec")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{protocol}: {answer}");
        assert!(answer.contains("\"kind\":\"Status\""), "{protocol}: {answer}");
    }
    assert_eq!(member.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_cluster_is_404_in_the_words_that_kubevela_knows() {
    let (gateway, _member) = gateway_and_member().await;
    for path in
        ["/clusters/nowhere/api", "/apis/cluster.core.oam.dev/v1alpha1/clustergateways/nowhere/proxy/api"]
    {
        let (code, hop, message) = gateway.client(ADMIN).get(path).await.refusal();
        assert_eq!((code, hop.as_str(), message.as_str()), (404, "gateway", "no such cluster nowhere"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_exact_paths_lead_to_a_member() {
    let (gateway, member) = gateway_and_member().await;
    let admin = gateway.client(ADMIN);
    let group = "/apis/cluster.core.oam.dev/v1alpha1";
    for path in [
        "/".to_owned(),
        "/api".to_owned(),
        "//clusters/east/api".to_owned(),
        "/Clusters/east/api".to_owned(),
        "/clusters/EAST/api".to_owned(),
        "/clusters//east/api".to_owned(),
        "/clusters/e%61st/api".to_owned(),
        "/clusters/x/../east/api".replace("x/..", "%2e"),
        format!("{group}/clustergateways/east/proxyx/api"),
        format!("{group}/clustergateways/east%2Fproxy/api"),
        format!("{group}/clustergateways//proxy/api"),
        format!("{group}/watch/clustergateways/east/proxy/api"),
        format!("{group}/proxy/clustergateways/east/proxy/api"),
        format!("{group}/namespaces/a/clustergateways/east/proxy/api"),
        format!("/{group}/clustergateways/east/proxy/api"),
        format!("{group}/ClusterGateways/east/proxy/api"),
    ] {
        let answer = admin
            .raw(&format!(
                "GET {path} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {{token}}\r\nConnection: close\r\n\r\n"
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
    assert!(member.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dot_segments_are_400_in_every_spelling() {
    let (gateway, member) = gateway_and_member().await;
    let admin = gateway.client(ADMIN);
    for tail in [
        "/..",
        "/.",
        "/a/../b",
        "/%2e%2e/x",
        "/.%2E",
        "/a%2f..%2fb",
        "/a%5C..%5cb",
        "/a/..?x=y",
        "/../../west/api",
    ] {
        let answer = admin
            .raw(&format!(
                "GET /clusters/east{tail} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {{token}}\r\n\
                 Connection: close\r\n\r\n"
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("dot segment"), "{tail}: {answer}");
    }
    assert!(member.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_down_is_502_at_hop_dial() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let cluster = Cluster::new("east", &format!("https://{free}")).token("t");
    let gateway = Setup::new().cluster(&cluster).start();
    let (code, hop, message) = gateway.client(ADMIN).get(PATH).await.refusal();
    assert_eq!((code, hop.as_str()), (502, "dial"));
    assert!(message.contains("dial tcp") && message.contains(&free.to_string()), "{message}");
    assert!(message.contains("\"east\""), "{message}");
    assert!(gateway.client(ADMIN).get("/readyz").await.status.is_success(), "the door itself stays open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_nobody_vouches_for_is_502_at_hop_tls_and_never_sees_the_credential() {
    let member = RawMember::start(|_| ok("{}")).await;
    let stranger = RawMember::start(|_| ok("{}")).await;
    let cluster = Cluster::of("east", &member);
    let gateway = Setup::new()
        .cluster(&cluster.clone().authority(&stranger.authority.certificate_pem()))
        .cluster(&Cluster::new("public", &member.url()).token("t"))
        .cluster(&Cluster::of("renamed", &member).with("tls-server-name", "somebody.example"))
        .cluster(
            &Cluster::new("unchecked", &member.url()).token("t").with("insecure-skip-tls-verify", "true"),
        )
        .start();
    let admin = gateway.client(ADMIN);
    for name in ["east", "public", "renamed"] {
        let (code, hop, message) = admin.get(&format!("/clusters/{name}/api")).await.refusal();
        assert_eq!((code, hop.as_str()), (502, "tls"), "{name}: {message}");
    }
    assert!(member.requests().is_empty());
    assert_eq!(admin.get("/clusters/unchecked/api").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_says_nothing_is_504() {
    let member = RawMember::start(|_| Reply::Silence).await;
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let deaf_address = deaf.local_addr().unwrap();
    let gateway = Setup::new()
        .cluster(&Cluster::of("east", &member))
        .cluster(&Cluster::new("deaf", &format!("https://{deaf_address}")).token("t"))
        .flag("--response-head-timeout", "1s")
        .flag("--upgrade-head-timeout", "1s")
        .flag("--tls-timeout", "1s")
        .start();
    let admin = gateway.client(ADMIN);
    let (code, hop, message) = admin.get(PATH).await.refusal();
    assert_eq!((code, hop.as_str()), (504, "member"), "{message}");
    let upgrade = admin.raw(&exec("GET", "websocket", "exec")).await;
    assert!(upgrade.starts_with("HTTP/1.1 504 "), "{upgrade}");
    let (code, hop, message) = admin.get("/clusters/deaf/api").await.refusal();
    assert_eq!((code, hop.as_str()), (502, "tls"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_has_come_may_be_followed_by_silence_for_as_long_as_it_takes() {
    let (events, body) = crate::support::double::stream();
    let body = std::sync::Mutex::new(Some(body));
    let member = crate::support::double::Double::start(move |_| {
        let body = body.lock().unwrap().take().expect("one request");
        async { http::Response::new(body) }
    })
    .await;
    let gateway =
        Setup::new().cluster(&member.cluster("east")).flag("--response-head-timeout", "200ms").start();
    let admin = gateway.client(ADMIN);
    let mut connection = admin.http1().await;
    let mut watch = connection.start(admin.request(Method::GET, "/clusters/east/api?watch=1")).await.unwrap();
    // Not to synchronise: the silence is what is tested.
    tokio::time::sleep(Duration::from_secs(1)).await;
    events.send("event".into()).await.unwrap();
    use http_body_util::BodyExt as _;
    let frame = crate::support::soon("the event", watch.frame()).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "event");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_a_credential_is_500_and_nothing_is_sent() {
    let member = RawMember::start(|_| ok("{}")).await;
    let cluster = Cluster::new("east", &member.url()).authority(&member.authority.certificate_pem());
    let gateway = Setup::new().cluster(&cluster).start();
    let (code, hop, message) = gateway.client(ADMIN).get(PATH).await.refusal();
    assert_eq!((code, hop.as_str()), (500, "credential"), "{message}");
    assert!(message.contains("\"east\""), "{message}");
    assert!(member.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_may_have_been_processed_is_502_and_is_not_sent_twice() {
    let member = RawMember::start(|request| match request.line() {
        line if line.starts_with("POST") => Reply::SendAndClose(Vec::new()),
        _ => ok("{}"),
    })
    .await;
    let gateway = Setup::new().cluster(&Cluster::of("east", &member)).start();
    let admin = gateway.client(ADMIN);
    let answer = admin.send(admin.request(Method::POST, PATH)).await;
    let (code, hop, message) = answer.refusal();
    assert_eq!((code, hop.as_str()), (502, "member"), "{message}");
    assert!(!answer.headers.contains_key("retry-after"), "nobody knows whether it was processed: {answer:?}");
    assert_eq!(member.requests().len(), 1, "and it was not sent twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_connections_are_all_busy_is_503_and_worth_another_try() {
    let member = RawMember::start(|_| Reply::Silence).await;
    let gateway =
        Setup::new().cluster(&Cluster::of("east", &member)).flag("--connections-per-member", 1).start();
    let admin = gateway.client(ADMIN);
    let mut busy = admin.http1().await;
    let busy = tokio::spawn({
        let request = admin.request(Method::GET, PATH);
        async move { busy.start(request).await }
    });
    member.until("the first request", |requests| requests.len() == 1).await;
    let answer = admin.get(PATH).await;
    let (code, hop, message) = answer.refusal();
    assert_eq!((code, hop.as_str()), (503, "gateway"), "{message}");
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.json()["details"]["retryAfterSeconds"], 1);
    assert_eq!(member.requests().len(), 1, "surely not sent");
    busy.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_the_only_thing_that_anybody_may_ask() {
    let (gateway, member) = gateway_and_member().await;
    for path in ["/healthz", "/livez", "/readyz"] {
        let answer = gateway.anonymous().get(path).await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "ok"), "{path}");
        assert!(gateway.anonymous().get(&format!("{path}?verbose")).await.text().contains("[+]ping ok"));
    }
    assert_eq!(gateway.anonymous().get("/readyz/x").await.refusal().0, 401);
    assert!(member.requests().is_empty());
}
