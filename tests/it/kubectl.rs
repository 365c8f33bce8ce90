//! What people do with kubectl, against an embedded member.

use serde_json::json;

use crate::{
    matrix::{self, Schema},
    support::{
        gateway::{ADMIN, READER, rule},
        kubectl::Kubectl,
        members::{Demo, in_namespace},
    },
    watches,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_works_against_an_embedded_member_as_against_an_api_server() {
    let test = "kubectl_works_against_an_embedded_member_as_against_an_api_server";
    let demo = Demo::start().await;
    std::thread::scope(|scope| {
        for (number, kubectl) in Kubectl::versions(test, 27).into_iter().enumerate() {
            // Both addresses of a cluster in turns.
            let kubeconfig = match number % 2 {
                0 => demo.gateway.kubeconfig(ADMIN, "east"),
                _ => demo.gateway.hub_style_kubeconfig(ADMIN, "east"),
            };
            // Before 1.29 the schema that apply and diff validate with is asked for as protobuf, which is not here.
            let schema = if kubectl.minor < 29 { Schema::Missing } else { Schema::Served };
            scope.spawn(move || matrix::objects(&kubectl.at(&kubeconfig), schema));
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_out_scales_and_goes() {
    let Some(kubectl) = Kubectl::newest("a_deployment_rolls_out_scales_and_goes") else { return };
    let demo = Demo::start().await;
    let kubectl = demo.session(&kubectl, ADMIN);
    kubectl.run("create deployment proof --image=nginx:1 --replicas=2").ok();
    assert!(
        kubectl.run("rollout status deployment/proof --timeout=60s").ok().contains("successfully rolled out")
    );
    let pods = kubectl.run("get pods -l app=proof -o wide").ok();
    assert!(pods.starts_with("NAME") && pods.contains("NODE"), "{pods}");
    assert_eq!(pods.matches("Running").count(), 2, "{pods}");
    kubectl.run("scale deployment proof --replicas=4").ok();
    kubectl.run("rollout status deployment/proof --timeout=60s").ok();
    kubectl.until("get pods -l app=proof --no-headers", |seen| seen.matches("Running").count() == 4);
    let replica_sets = kubectl.run("get replicasets -l app=proof -o json").json();
    assert_eq!(replica_sets["items"][0]["metadata"]["ownerReferences"][0]["kind"], "Deployment");
    kubectl.run("set image deployment/proof nginx=nginx:2").ok();
    kubectl.run("rollout status deployment/proof --timeout=60s").ok();
    kubectl.run("delete deployment proof").ok();
    kubectl.until("get pods -l app=proof -o name", str::is_empty);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_that_kubectl_makes_from_flags_arrive() {
    let demo = Demo::start().await;
    // From 1.32 on they travel as protobuf.
    for kubectl in Kubectl::versions("objects_that_kubectl_makes_from_flags_arrive", 30) {
        let kubectl = in_namespace(demo.session(&kubectl, ADMIN), "flags");
        let value = |what: &str, path: &str| kubectl.run(&format!("get {what} -o jsonpath={{{path}}}")).ok();
        kubectl.run("create configmap c --from-literal=colour=blue").ok();
        assert_eq!(value("configmap c", ".data.colour"), "blue");
        kubectl.run("create secret generic s --from-literal=key=value").ok();
        assert_eq!(value("secret s", ".data.key"), "dmFsdWU=");
        kubectl.run("create service clusterip web --tcp=80:8080").ok();
        assert_eq!(value("service web", ".spec.ports[0].targetPort"), "8080");
        kubectl.run("create deployment web --image=nginx:1 --port=80 --replicas=0").ok();
        assert_eq!(value("deployment web", ".spec.replicas"), "0");
        assert_eq!(value("deployment web", ".spec.template.spec.containers[0].ports[0].containerPort"), "80");
        kubectl.run("expose deployment web --name=exposed --target-port=http").ok();
        assert_eq!(value("service exposed", ".spec.ports[0].targetPort"), "http");
        kubectl.run("run once --image=busybox:1 --env=MODE=fast -- sleep 1").ok();
        assert_eq!(value("pod once", ".spec.containers[0].env[0].value"), "fast");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_member_sees_the_caller_and_not_the_gateway() {
    let test = "the_member_sees_the_caller_and_not_the_gateway";
    let demo = Demo::start().await;
    for kubectl in Kubectl::versions(test, 28) {
        let whoami = demo.session(&kubectl, ADMIN).run("auth whoami -o json").json();
        let user = &whoami["status"]["userInfo"];
        assert_eq!(
            (&user["username"], &user["groups"]),
            (&json!("admin"), &json!(["dev", "system:authenticated"]))
        );
        let can = demo.session(&kubectl, READER).run("auth can-i get pods").err();
        assert!(can.contains("cannot create resource"), "{can}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_selector_a_limit_and_an_explanation_reach_the_member() {
    let Some(kubectl) = Kubectl::newest("a_selector_a_limit_and_an_explanation_reach_the_member") else {
        return;
    };
    let demo = Demo::start().await;
    let kubectl = demo.session(&kubectl, ADMIN);
    kubectl.run("create namespace many").ok();
    for number in 0..7 {
        kubectl.run(&format!("-n many create configmap item-{number}")).ok();
    }
    kubectl.run("-n many label configmaps item-2 item-5 chosen=yes").ok();
    assert_eq!(
        kubectl.run("-n many get configmaps -l chosen=yes -o name").ok(),
        "configmap/item-2\nconfigmap/item-5\n"
    );
    let by_field = kubectl.run("-n many get configmaps --field-selector metadata.name=item-3 -o name").ok();
    assert_eq!(by_field, "configmap/item-3\n");
    let chunks = kubectl.run("-n many get configmaps --chunk-size=2 -o name").ok();
    assert_eq!(chunks.lines().filter(|line| line.contains("item-")).count(), 7);
    assert!(kubectl.run("explain deployment.spec.replicas").ok().contains("replicas"));
    assert!(kubectl.run("api-resources").ok().contains("deployments"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_the_gateway_is_what_kubectl_shows() {
    let Some(kubectl) = Kubectl::newest("a_refusal_of_the_gateway_is_what_kubectl_shows") else { return };
    let demo = Demo::start().await;
    let reader = demo.session(&kubectl, READER);
    reader.run("get pods").ok();
    let forbidden = reader.run("create configmap x").err();
    assert!(
        forbidden.contains("User \"reader\" cannot create resource \"clustergateways/proxy\""),
        "{forbidden}"
    );
    let wrong = demo.session(&kubectl, "wrong-token").run("get pods").err();
    assert!(wrong.contains("Unauthorized") || wrong.contains("logged in"), "{wrong}");
    // kubectl's discovery keeps only the code of an answer; a path of its own shows the message. Before 1.36 that path
    // is taken from the root of the server.
    let prefix =
        |cluster: &str| if kubectl.minor < 36 { format!("/clusters/{cluster}") } else { String::new() };
    let nowhere = kubectl.at(&demo.gateway.kubeconfig(ADMIN, "nowhere"));
    let unknown = nowhere.run(&format!("get --raw {}/version", prefix("nowhere"))).err();
    assert!(unknown.contains("no such cluster nowhere"), "{unknown}");
    let admin = demo.session(&kubectl, ADMIN);
    let other = admin.run(&format!("get --raw {}/version --as=jane", prefix("east"))).err();
    assert!(other.contains("act as somebody else"), "{other}");
    demo.gateway.write_manifest("readers.yaml", &rule("readers", &["create"], None, &[("Group", "readers")]));
    reader.until("create configmap x -o name", |seen| seen.contains("configmap/x"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_paths_lead_to_the_member() {
    let Some(kubectl) = Kubectl::newest("raw_paths_lead_to_the_member") else { return };
    let demo = Demo::start().await;
    // Before 1.36 kubectl drops the path of the server's address here, so it is written out where it is needed.
    let prefix = if kubectl.minor < 36 { "/clusters/east" } else { "" };
    let kubectl = demo.session(&kubectl, ADMIN);
    assert_eq!(kubectl.run(&format!("get --raw {prefix}/version")).json()["major"], "1");
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "raw"}}).to_string();
    let path = format!("{prefix}/api/v1/namespaces/default/configmaps");
    assert!(
        kubectl.run_with(object.as_bytes(), &format!("create --raw {path} -f -")).ok().contains("\"raw\"")
    );
    assert!(
        kubectl.run(&format!("get --raw {path}?fieldSelector=metadata.name%3Draw")).ok().contains("\"raw\"")
    );
    kubectl.run(&format!("delete --raw {path}/raw")).ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_member_serves_350_watches_and_answers_meanwhile() {
    let demo = Demo::start().await;
    watches::serve_and_answer_meanwhile(&demo.gateway, "east", demo.port()).await;
}
