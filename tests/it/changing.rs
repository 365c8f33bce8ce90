//! What changes while the gateway runs: clusters, credentials, rules, callers.

use std::fs;

use http::{Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::json;

use crate::support::{
    double::{Double, stream, whole},
    gateway::{ADMIN, Cluster, Setup, rule},
    raw_member::{RawMember, ok},
    soon,
};

const PATH: &str = "/clusters/east/api";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_can_be_added_and_removed_while_others_are_in_use() {
    let (events, watched) = stream();
    let watched = std::sync::Mutex::new(Some(watched));
    let member = Double::start(move |request| {
        let body = match request.uri().path() {
            "/watch" => watched.lock().unwrap().take().unwrap(),
            _ => whole("{}"),
        };
        async { Response::new(body) }
    })
    .await;
    let gateway = Setup::new().cluster(&member.cluster("east")).start();
    let admin = gateway.client(ADMIN);
    let mut connection = admin.http1().await;
    let request = admin.request(Method::GET, "/clusters/east/watch");
    let mut watch = connection.start(request).await.unwrap().into_body();

    assert_eq!(admin.get("/clusters/west/api").await.refusal().0, 404);
    gateway.define(&member.cluster("west"));
    gateway.until(ADMIN, "/clusters/west/api", |answer| answer.status == StatusCode::OK).await;
    events.send("one".into()).await.unwrap();
    assert_eq!(soon("an event", watch.frame()).await.unwrap().unwrap().into_data().unwrap(), "one");

    gateway.remove_manifest("east.yaml");
    let gone = gateway.until(ADMIN, PATH, |answer| answer.status != StatusCode::OK).await;
    assert_eq!(gone.refusal(), (404, "gateway".into(), "no such cluster east".into()));
    assert_eq!(admin.get("/clusters/west/api").await.status, StatusCode::OK);
    events.send("two".into()).await.unwrap();
    let event = soon("an event after the removal", watch.frame()).await.unwrap().unwrap();
    assert_eq!(event.into_data().unwrap(), "two", "what runs goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_credential_and_a_changed_address_take_effect() {
    let (first, second) = (RawMember::start(|_| ok("{}")).await, RawMember::start(|_| ok("{}")).await);
    let gateway = Setup::new().cluster(&Cluster::of("east", &first)).start();
    assert_eq!(gateway.client(ADMIN).get(PATH).await.status, StatusCode::OK);
    gateway.define(&Cluster::of("east", &first).token("new-token"));
    gateway
        .until(ADMIN, PATH, |_| {
            first.requests().last().unwrap().values("authorization") == ["Bearer new-token"]
        })
        .await;
    gateway.define(&Cluster::of("east", &second));
    gateway.until(ADMIN, PATH, |_| !second.requests().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_definition_is_reported_and_its_last_good_version_stays() {
    let member = RawMember::start(|_| ok("{}")).await;
    let gateway = Setup::new().cluster(&Cluster::of("east", &member)).start();
    assert_eq!(gateway.client(ADMIN).get(PATH).await.status, StatusCode::OK);

    gateway.define(&Cluster::of("east", &member).endpoint("ftp://nowhere").token("leaky-token"));
    gateway.wait_for_log("endpoint");
    gateway.write_manifest("more.yaml", "kind: Secret\n  broken: [");
    gateway.wait_for_log("more.yaml");
    assert!(gateway.process.output().contains("east.yaml"), "{}", gateway.process.output());
    assert!(!gateway.process.output().contains("leaky-token"), "{}", gateway.process.output());
    assert_eq!(gateway.client(ADMIN).get(PATH).await.status, StatusCode::OK);

    gateway.define(&Cluster::of("east", &member).token("repaired"));
    gateway
        .until(ADMIN, PATH, |_| {
            member.requests().last().unwrap().values("authorization") == ["Bearer repaired"]
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_definitions_of_one_cluster_are_named_both() {
    let member = RawMember::start(|_| ok("{}")).await;
    let gateway = Setup::new().cluster(&Cluster::of("east", &member)).start();
    let again = fs::read_to_string(gateway.path("manifests/east.yaml")).unwrap();
    gateway.write_manifest("again.yaml", &again);
    let answer = gateway.until(ADMIN, PATH, |answer| answer.status != StatusCode::OK).await;
    let (code, hop, message) = answer.refusal();
    assert_eq!((code, hop.as_str()), (500, "gateway"), "{message}");
    assert!(message.contains("again.yaml") && message.contains("east.yaml"), "{message}");
    gateway.remove_manifest("again.yaml");
    gateway.until(ADMIN, PATH, |answer| answer.status == StatusCode::OK).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_rules_and_callers_take_effect() {
    let member = RawMember::start(|_| ok("{}")).await;
    let mut gateway = Setup::new().cluster(&Cluster::of("east", &member)).start();
    assert_eq!(gateway.client("late-token").get(PATH).await.refusal().0, 401);
    gateway.add_user("late-token", "late", &["latecomers"]);
    gateway.until("late-token", PATH, |answer| answer.status == StatusCode::FORBIDDEN).await;
    gateway.write_manifest("late.yaml", &rule("late", &["get"], None, &[("Group", "latecomers")]));
    gateway.until("late-token", PATH, |answer| answer.status == StatusCode::OK).await;
    gateway.remove_manifest("late.yaml");
    gateway.until("late-token", PATH, |answer| answer.status == StatusCode::FORBIDDEN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_aggregate_and_wildcards_count_as_in_kubernetes() {
    let member = RawMember::start(|_| ok("{}")).await;
    let api = "rbac.authorization.k8s.io";
    let objects = [
        json!({"apiVersion": format!("{api}/v1"), "kind": "ClusterRole", "metadata": {"name": "parts"},
               "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"part": "yes"}}]}, "rules": []}),
        json!({"apiVersion": format!("{api}/v1"), "kind": "ClusterRole",
               "metadata": {"name": "part", "labels": {"part": "yes"}},
               "rules": [{"apiGroups": ["*"], "resources": ["*/proxy"], "verbs": ["get"]}]}),
        json!({"apiVersion": format!("{api}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": "parts"},
               "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": "parts"},
               "subjects": [{"apiGroup": api, "kind": "Group", "name": "system:authenticated"}]}),
    ];
    let manifest = objects.map(|object| object.to_string()).join("\n---\n");
    let gateway = Setup::new()
        .cluster(&Cluster::of("east", &member))
        .user("tom-token", "tom", &[])
        .manifest("parts.yaml", &manifest)
        .start();
    let tom = gateway.client("tom-token");
    assert_eq!(tom.get(PATH).await.status, StatusCode::OK);
    assert_eq!(tom.send(tom.request(Method::POST, PATH)).await.refusal().0, 403);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projected_volume_that_swaps_its_link_is_followed() {
    use std::os::unix::fs::symlink;
    let member = RawMember::start(|_| ok("{}")).await;
    let gateway = Setup::new().cluster(&Cluster::of("east", &member)).start();
    // As the kubelet lays out a projected Secret: file → ..data/file, ..data → a folder of its own per version.
    let manifests = gateway.path("manifests");
    let definition = fs::read_to_string(manifests.join("east.yaml")).unwrap();
    for (version, name) in [("..one", "north"), ("..two", "south")] {
        fs::create_dir(manifests.join(version)).unwrap();
        let content = definition.replace("\"east\"", &format!("\"{name}\""));
        fs::write(manifests.join(version).join("moving.yaml"), content).unwrap();
    }
    symlink("..one", manifests.join("..data")).unwrap();
    symlink("..data/moving.yaml", manifests.join("moving.yaml")).unwrap();
    gateway.until(ADMIN, "/clusters/north/api", |answer| answer.status == StatusCode::OK).await;
    symlink("..two", manifests.join("..data_tmp")).unwrap();
    fs::rename(manifests.join("..data_tmp"), manifests.join("..data")).unwrap();
    gateway.until(ADMIN, "/clusters/south/api", |answer| answer.status == StatusCode::OK).await;
    gateway.until(ADMIN, "/clusters/north/api", |answer| answer.status == StatusCode::NOT_FOUND).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_context_of_a_kubeconfig_is_a_cluster() {
    let member = RawMember::start(|_| ok("{}")).await;
    let setup = Setup::new();
    let folder = setup.folder().to_owned();
    fs::write(folder.join("member-ca.crt"), member.authority.certificate_pem()).unwrap();
    fs::write(folder.join("token"), "from-a-file").unwrap();
    let config = json!({
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": member.url(), "certificate-authority": "member-ca.crt"}}],
        "users": [
            {"name": "by-file", "user": {"tokenFile": "token"}},
            {"name": "by-plugin", "user": {"exec": {
                "apiVersion": "client.authentication.k8s.io/v1", "command": "aws", "interactiveMode": "Never"}}},
        ],
        "contexts": [
            {"name": "north", "context": {"cluster": "c", "user": "by-file"}},
            {"name": "Admin@South", "context": {"cluster": "c", "user": "by-file"}},
            {"name": "plugin", "context": {"cluster": "c", "user": "by-plugin"}},
        ],
    });
    fs::write(folder.join("kubeconfig"), config.to_string()).unwrap();
    let gateway = setup.flag("--kubeconfig", folder.join("kubeconfig").display()).start();
    let admin = gateway.client(ADMIN);
    assert_eq!(admin.get("/clusters/north/api").await.status, StatusCode::OK);
    assert_eq!(member.only_request().values("authorization"), ["Bearer from-a-file"]);

    let (code, hop, message) = admin.get("/clusters/plugin/api").await.refusal();
    assert_eq!((code, hop.as_str()), (500, "gateway"), "{message}");
    assert!(message.contains("exec"), "{message}");
    gateway.wait_for_log("Admin@South");

    fs::write(gateway.path("token"), "rotated").unwrap();
    gateway
        .until(ADMIN, "/clusters/north/api", |_| {
            member.requests().last().unwrap().values("authorization") == ["Bearer rotated"]
        })
        .await;
}
