//! What people do with kubectl that any API server answers; the same steps for embedded members and for a real one.

use serde_json::{Value, json};

use crate::support::kubectl::Session;

/// A namespace of its own per kubectl, so that several can be tried on one member.
pub fn namespace(kubectl: &Session) -> String {
    format!("matrix-{}", kubectl.minor())
}

fn deployment(images: [&str; 2]) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [
                    {"name": "server", "image": images[0], "env": [{"name": "MODE", "value": "fast"}],
                     "ports": [{"containerPort": 80}]},
                    {"name": "sidecar", "image": images[1]},
                ]},
            },
        },
    })
}

fn images(deployment: &Value) -> Vec<(&str, &str)> {
    deployment["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|container| (container["name"].as_str().unwrap(), container["image"].as_str().unwrap()))
        .collect()
}

/// Whether the server has the OpenAPI document that this kubectl validates with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    Served,
    Missing,
}

/// Everything but what needs pods that run.
pub fn objects(kubectl: &Session, schema: Schema) {
    let namespace = namespace(kubectl);
    let run = |line: &str| kubectl.run(&format!("-n {namespace} {line}"));
    let feed = |stdin: &Value, line: &str| {
        kubectl.run_with(stdin.to_string().as_bytes(), &format!("-n {namespace} {line}"))
    };
    run(&format!("create namespace {namespace}")).ok();
    assert!(run("get namespaces").ok().contains(&namespace));

    // Create, and see it in every form.
    run("create configmap settings --from-literal=colour=blue --from-literal=size=big").ok();
    assert_eq!(run("get configmap settings -o jsonpath={.data.colour}").ok(), "blue");
    assert_eq!(run("get configmap settings -o json").json()["data"]["size"], "big");
    let table = run("get configmaps settings").ok();
    assert!(table.starts_with("NAME") && table.contains("DATA") && table.contains("settings"), "{table}");
    let duplicate = run("create configmap settings").err();
    assert!(duplicate.contains("already exists"), "the member's own refusal is shown: {duplicate}");
    let missing = run("get configmap nowhere").err();
    assert!(missing.contains("Error from server (NotFound)"), "{missing}");

    // Apply, again, and again with one of two containers changed.
    let apply = match schema {
        Schema::Served => "apply -f -",
        Schema::Missing => "apply --validate=false -f -",
    };
    assert!(feed(&deployment(["nginx:1", "busybox:1"]), apply).ok().contains("created"));
    assert!(feed(&deployment(["nginx:1", "busybox:1"]), apply).ok().contains("unchanged"));
    if schema == Schema::Served {
        let diff = feed(&deployment(["nginx:1", "busybox:1"]), "diff -f -");
        assert_eq!((diff.code, diff.stdout.as_str()), (Some(0), ""), "{}", diff.stderr);
        let diff = feed(&deployment(["nginx:2", "busybox:1"]), "diff -f -");
        assert_eq!(diff.code, Some(1), "{}", diff.stderr);
        assert!(diff.stdout.contains("nginx:2"), "{}", diff.stdout);
    }
    assert!(feed(&deployment(["nginx:2", "busybox:1"]), apply).ok().contains("configured"));
    let applied = run("get deployment web -o json").json();
    assert_eq!(images(&applied), [("server", "nginx:2"), ("sidecar", "busybox:1")]);
    let set = run("set image deployment/web sidecar=busybox:2");
    assert!(set.ok().contains("image updated"));
    let changed = run("get deployment web -o json").json();
    assert_eq!(images(&changed), [("server", "nginx:2"), ("sidecar", "busybox:2")]);
    assert_eq!(changed["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"], "fast");
    let wide = run("get deployments -o wide").ok();
    assert!(wide.contains("CONTAINERS") && wide.contains("server,sidecar"), "{wide}");

    // Every kind of patch.
    run(r#"patch deployment web --type=merge -p {"metadata":{"annotations":{"a":"1"}}}"#).ok();
    run(r#"patch deployment web --type=json -p [{"op":"add","path":"/metadata/annotations/b","value":"2"}]"#)
        .ok();
    let strategic = r#"{"spec":{"template":{"spec":{"containers":[{"name":"server","image":"nginx:3"}]}}}}"#;
    run(&format!("patch deployment web -p {strategic}")).ok();
    let patched = run("get deployment web -o json").json();
    assert_eq!(images(&patched), [("server", "nginx:3"), ("sidecar", "busybox:2")]);
    assert_eq!(
        (&patched["metadata"]["annotations"]["a"], &patched["metadata"]["annotations"]["b"]),
        (&"1".into(), &"2".into())
    );
    run("label deployment web tier=front").ok();
    assert!(run("get deployments -l tier=front -o name").ok().contains("deployment.apps/web"));
    assert_eq!(run("get deployments -l tier=back -o name").ok(), "");
    run("annotate deployment web a-").ok();

    // Scale by the subresource.
    run("scale deployment web --replicas=3 --current-replicas=1").ok();
    assert_eq!(run("get deployment web -o jsonpath={.spec.replicas}").ok(), "3");

    watch(kubectl, &namespace);

    // Delete one, and all of a kind.
    run("delete deployment web").ok();
    assert!(run("get deployment web").err().contains("NotFound"));
    run("delete configmaps settings watched").ok();
    run(&format!("delete namespace {namespace} --wait=false")).ok();
}

/// `get -w` shows what happens while it runs.
fn watch(kubectl: &Session, namespace: &str) {
    let run = |line: &str| kubectl.run(&format!("-n {namespace} {line}"));
    let mut watch = kubectl.start(&format!("-n {namespace} get configmaps -w --output-watch-events"));
    watch.until("what is there already", |seen| seen.contains("settings"));
    run("create configmap watched").ok();
    watch.until("the new one", |seen| line_with(seen, "ADDED", "watched"));
    run("label configmap watched seen=yes").ok();
    watch.until("the change", |seen| line_with(seen, "MODIFIED", "watched"));
    run("delete configmap watched").ok();
    watch.until("the end", |seen| line_with(seen, "DELETED", "watched"));
    run("create configmap watched").ok();
}

fn line_with(text: &str, first: &str, second: &str) -> bool {
    text.lines().any(|line| line.contains(first) && line.contains(second))
}
