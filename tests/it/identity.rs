//! As whom callers arrive at a member, and who may not arrive at all.

use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::support::{
    double::{Double, whole},
    gateway::{ADMIN, Cluster, GATEWAY_TOKEN, Setup, rule},
    raw_member::{RawMember, ok},
};

const PATH: &str = "/clusters/east/api";

async fn double() -> Double {
    Double::start(async |_| http::Response::new(whole("{}"))).await
}

fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().map(|value| String::from_utf8(value.as_bytes().to_vec()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_groups_arrive_letter_for_letter_over_both_protocols() {
    let (old, new) = (RawMember::start(|_| ok("{}")).await, double().await);
    let name = "ö. müller, \"tom\" 猫 <tom@example.com>";
    let groups = ["dev, ops", "größe: 1/2", "a  b", "\u{1f431}", "system:authenticated", "x;y=z\\"];
    let gateway = Setup::new()
        .cluster(&Cluster::of("old", &old))
        .cluster(&new.cluster("new"))
        .manifest("all.yaml", &rule("all", &["*"], None, &[("User", name)]))
        .start();
    let client = gateway.certified(name, &groups);
    let expected: Vec<&str> = groups.into_iter().filter(|group| *group != "system:authenticated").collect();
    for cluster in ["old", "new"] {
        let path = format!("/clusters/{cluster}/api");
        let request = client.request(Method::GET, &path);
        let answer = client.http1().await.send(request.clone()).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        assert_eq!(client.http2().await.send(request).await.status, StatusCode::OK);
    }
    assert_eq!(old.requests().len(), 2);
    for request in old.requests() {
        assert_eq!(request.values("impersonate-user"), [name]);
        assert_eq!(request.values("impersonate-group"), expected);
    }
    assert_eq!(new.heads().len(), 2);
    for head in new.heads() {
        assert_eq!(head.version, http::Version::HTTP_2);
        assert_eq!(values(&head.headers, "impersonate-user"), [name]);
        assert_eq!(values(&head.headers, "impersonate-group"), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_groups_arrive_in_order_over_both_protocols() {
    let (old, new) = (RawMember::start(|_| ok("{}")).await, double().await);
    let groups: Vec<String> = (0..600).map(|number| format!("team:with-a-longer-name:{number}")).collect();
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    let gateway = Setup::new()
        .cluster(&Cluster::of("old", &old))
        .cluster(&new.cluster("new"))
        .user("many", "jane", &groups)
        .manifest("all.yaml", &rule("all", &["*"], None, &[("Group", groups[599])]))
        .start();
    let by_token = gateway.client("many");
    let by_certificate = gateway.certified("jane", &groups);
    for client in [by_token, by_certificate] {
        for cluster in ["old", "new"] {
            let request = client.request(Method::GET, &format!("/clusters/{cluster}/api"));
            assert_eq!(client.http1().await.send(request.clone()).await.status, StatusCode::OK);
            assert_eq!(client.http2().await.send(request).await.status, StatusCode::OK);
        }
    }
    let seen_by_old = old.requests();
    assert_eq!((seen_by_old.len(), new.heads().len()), (4, 4));
    for request in &seen_by_old {
        assert_eq!(request.values("impersonate-group"), groups);
    }
    for head in new.heads() {
        assert_eq!(values(&head.headers, "impersonate-group"), groups);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identity_headers_of_a_caller_are_gone_over_http2_too() {
    let member = double().await;
    let gateway = Setup::new().cluster(&member.cluster("east")).start();
    let admin = gateway.client(ADMIN);
    let mut request = admin.request(Method::GET, PATH);
    for (name, value) in [
        ("x-remote-user", "root"),
        ("x-remote-group", "system:masters"),
        ("x_remote_user", "root"),
        ("cookie", "a=b"),
        ("x-forwarded-for", "10.1.1.1"),
        ("te", "trailers"),
        ("x-custom", "kept"),
    ] {
        request.headers_mut().append(name, HeaderValue::from_static(value));
    }
    assert_eq!(admin.http2().await.send(request).await.status, StatusCode::OK);
    let head = member.last_http2_head();
    assert_eq!(values(&head.headers, "authorization"), [format!("Bearer {GATEWAY_TOKEN}")]);
    assert_eq!(values(&head.headers, "impersonate-user"), ["admin"]);
    assert_eq!(values(&head.headers, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(values(&head.headers, "x-custom"), ["kept"]);
    for gone in ["x-remote-user", "x-remote-group", "x_remote_user", "cookie"] {
        assert!(!head.headers.contains_key(gone), "{gone}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_stands_for_its_common_name_and_organisations() {
    let member = double().await;
    let gateway = Setup::new()
        .cluster(&member.cluster("east"))
        .manifest("ops.yaml", &rule("ops", &["get"], Some(&["east"]), &[("Group", "ops")]))
        .start();
    assert_eq!(gateway.certified("jane", &["ops", "more"]).get(PATH).await.status, StatusCode::OK);
    let head = member.last_http2_head();
    assert_eq!(values(&head.headers, "impersonate-user"), ["jane"]);
    assert_eq!(values(&head.headers, "impersonate-group"), ["ops", "more"]);
    assert!(!head.headers.contains_key("impersonate-uid"));

    let (code, ..) = gateway.certified("jane", &["others"]).get(PATH).await.refusal();
    assert_eq!(code, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_an_unknown_authority_is_nobody() {
    let member = double().await;
    let gateway = Setup::new().cluster(&member.cluster("east")).start();
    let stranger =
        clusterway_certs::Authority::new("stranger").unwrap().issue_client("admin", &["dev"]).unwrap();
    let (code, ..) = gateway.certified_as(&stranger).get(PATH).await.refusal();
    assert_eq!(code, 401);
    assert!(member.heads().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_annotation_decides_whether_callers_arrive_as_themselves_as_the_gateway_or_not_at_all() {
    let member = double().await;
    let gateway = Setup::new()
        .cluster(&member.cluster("itself").identity("impersonate"))
        .cluster(&member.cluster("gateway").identity("gateway"))
        .cluster(&member.cluster("closed").identity("deny"))
        .start();
    let admin = gateway.client(ADMIN);
    assert_eq!(admin.get("/clusters/itself/api").await.status, StatusCode::OK);
    assert_eq!(values(&member.last_http2_head().headers, "impersonate-user"), ["admin"]);

    assert_eq!(admin.get("/clusters/gateway/api").await.status, StatusCode::OK);
    let head = member.last_http2_head();
    assert_eq!(values(&head.headers, "authorization"), [format!("Bearer {GATEWAY_TOKEN}")]);
    assert!(!head.headers.keys().any(|name| name.as_str().starts_with("impersonate")), "{head:?}");

    let (code, hop, message) = admin.get("/clusters/closed/api").await.refusal();
    assert_eq!((code, hop.as_str()), (403, "gateway"));
    assert!(message.contains("deny"), "{message}");
    assert_eq!(member.heads().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_that_would_mean_more_at_a_member_is_refused_before_anything_is_sent() {
    let member = double().await;
    let setup = Setup::new()
        .cluster(&member.cluster("east"))
        .user("masters", "tom", &["dev", "system:masters"])
        .user("account", "system:serviceaccount:default:tom", &["dev"])
        .user("accounts", "tom", &["dev", "system:serviceaccounts"])
        .user("accounts-of-one", "tom", &["dev", "system:serviceaccounts:kube-system"]);
    let gateway = setup.start();
    for token in ["masters", "account", "accounts", "accounts-of-one"] {
        let (code, hop, message) = gateway.client(token).get(PATH).await.refusal();
        assert_eq!((code, hop.as_str()), (403, "gateway"), "{token}: {message}");
        assert!(message.contains("may not be impersonated"), "{token}: {message}");
    }
    let (code, ..) = gateway.certified("tom", &["dev", "system:masters"]).get(PATH).await.refusal();
    assert_eq!(code, 403);
    assert!(member.heads().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_act_as_somebody_else_is_refused_before_anything_is_sent() {
    let member = double().await;
    let gateway = Setup::new().cluster(&member.cluster("east")).start();
    let admin = gateway.client(ADMIN);
    for (name, value) in [
        ("impersonate-user", "jane"),
        ("impersonate-group", "system:masters"),
        ("impersonate-uid", "1"),
        ("impersonate-extra-scopes", "all"),
        ("impersonate_user", "jane"),
    ] {
        let mut request = admin.request(Method::GET, PATH);
        request.headers_mut().append(name, HeaderValue::from_static(value));
        let (code, hop, message) = admin.send(request).await.refusal();
        assert_eq!((code, hop.as_str()), (403, "gateway"), "{name}: {message}");
        assert!(message.contains(name), "{name}: {message}");
    }
    assert!(member.heads().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_is_shown_to_members_that_know_it() {
    let member = RawMember::start(|_| ok("{}")).await;
    let issued = member.authority.issue_client("clusterway", &[]).unwrap();
    let cluster = Cluster::new("east", &member.url())
        .authority(&member.authority.certificate_pem())
        .certificate(&issued.certificate_pem(), &issued.key_pem());
    let gateway = Setup::new().cluster(&cluster).start();
    assert_eq!(gateway.client(ADMIN).get(PATH).await.status, StatusCode::OK);
    let request = member.only_request();
    assert!(request.values("authorization").is_empty(), "{request:?}");
    assert_eq!(request.values("impersonate-user"), ["admin"]);
    assert_eq!(request.client_common_name.as_deref(), Some("clusterway"));
}
