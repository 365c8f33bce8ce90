//! A real kube-apiserver on a real etcd as the member. Skipped, and said so, without `KUBEBUILDER_ASSETS`.

use std::{path::Path, sync::Arc};

use crate::{
    matrix::{self, Schema},
    support::{
        control_plane::ControlPlane,
        gateway::{ADMIN, Gateway, READER, Setup},
        kubectl::{Kubectl, Session},
    },
    watches,
};

/// The control plane as cluster `real`, where group `dev` administrates.
struct World {
    plane: Arc<ControlPlane>,
    gateway: Gateway,
    kubectl: Kubectl,
}

impl World {
    fn start(test: &str) -> Option<Self> {
        let plane = ControlPlane::shared(test)?;
        let kubectl = Kubectl::newest(test)?;
        let gateway = Setup::new().cluster(&plane.cluster("real")).start();
        let world = Self { plane, gateway, kubectl };
        // Whoever comes first makes it.
        let administrator = world.plane.administrator(&world.kubectl);
        let made = administrator.run("create clusterrolebinding dev --clusterrole=cluster-admin --group=dev");
        assert!(made.code == Some(0) || made.stderr.contains("already exists"), "{made:?}");
        Some(world)
    }

    fn at(&self, kubeconfig: &Path) -> Session {
        self.kubectl.at(kubeconfig)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_works_against_a_real_api_server_as_if_it_stood_in_front_of_it() {
    let test = "kubectl_works_against_a_real_api_server_as_if_it_stood_in_front_of_it";
    let Some(world) = World::start(test) else { return };
    std::thread::scope(|scope| {
        for (number, kubectl) in Kubectl::versions(test, 27).into_iter().enumerate() {
            // Both addresses of a cluster in turns.
            let kubeconfig = match number % 2 {
                0 => world.gateway.kubeconfig(ADMIN, "real"),
                _ => world.gateway.hub_style_kubeconfig(ADMIN, "real"),
            };
            scope.spawn(move || matrix::objects(&kubectl.at(&kubeconfig), Schema::Served));
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_api_server_sees_the_caller_himself() {
    let Some(world) = World::start("a_real_api_server_sees_the_caller_himself") else { return };
    let by_token = world.at(&world.gateway.kubeconfig(READER, "real"));
    let groups = ["ops", "größe, \"quoted\"", "x y"];
    let by_certificate =
        world.at(&world.gateway.certificate_kubeconfig("jürgen <j@example.com>", &groups, "real"));
    // Who is not known to the gateway at all is not even asked.
    assert!(by_certificate.run("create configmap x").err().contains("cannot create resource"));
    world.gateway.write_manifest(
        "more.yaml",
        &crate::support::gateway::rule(
            "more",
            &["*"],
            Some(&["real"]),
            &[("Group", "ops"), ("Group", "readers")],
        ),
    );
    for (kubectl, name, expected) in
        [(&by_token, "reader", &["readers"][..]), (&by_certificate, "jürgen <j@example.com>", &groups[..])]
    {
        let said = kubectl.until("auth whoami -o json", |_| true);
        let user = serde_json::from_str::<serde_json::Value>(&said).unwrap()["status"]["userInfo"].clone();
        assert_eq!(user["username"], name, "{user}");
        let mut expected: Vec<_> = expected.to_vec();
        expected.push("system:authenticated");
        assert_eq!(user["groups"], serde_json::json!(expected), "{user}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_caller_may_do_in_a_cluster_is_up_to_that_cluster() {
    let Some(world) = World::start("what_a_caller_may_do_in_a_cluster_is_up_to_that_cluster") else { return };
    let reader = world.at(&world.gateway.kubeconfig(READER, "real"));
    let refused = reader.run("get configmaps -n kube-system").err();
    assert!(
        refused.contains(r#"User "reader" cannot list resource "configmaps" in API group """#),
        "the member's own words: {refused}"
    );
    let administrator = world.plane.administrator(&world.kubectl);
    administrator.run("create role readers -n kube-system --verb=get,list --resource=configmaps").ok();
    administrator.run("create rolebinding readers -n kube-system --role=readers --group=readers").ok();
    reader.until("get configmaps -n kube-system", |seen| seen.contains("extension-apiserver-authentication"));
    let secrets = reader.run("get secrets -n kube-system").err();
    assert!(secrets.contains("Forbidden") && secrets.contains("\"secrets\""), "{secrets}");
    let writing = reader.run("create configmap x -n kube-system").err();
    assert!(writing.contains("clustergateways/proxy"), "the gateway lets him only read: {writing}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_api_server_serves_350_watches_and_answers_meanwhile() {
    let Some(world) = World::start("a_real_api_server_serves_350_watches_and_answers_meanwhile") else {
        return;
    };
    watches::serve_and_answer_meanwhile(&world.gateway, "real", world.plane.port).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_side_apply_and_custom_resources_work_on_a_real_api_server() {
    let Some(world) = World::start("server_side_apply_and_custom_resources_work_on_a_real_api_server") else {
        return;
    };
    let admin = world.at(&world.gateway.kubeconfig(ADMIN, "real"));
    let definition = serde_json::json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "doors.proof.example.com"},
        "spec": {
            "group": "proof.example.com", "scope": "Namespaced",
            "names": {"plural": "doors", "singular": "door", "kind": "Door"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true}}}],
        },
    });
    admin.run_with(definition.to_string().as_bytes(), "apply --server-side -f -").ok();
    admin.run("wait --for=condition=Established crd/doors.proof.example.com --timeout=60s").ok();
    let door = |colour: &str| {
        serde_json::json!({"apiVersion": "proof.example.com/v1", "kind": "Door",
            "metadata": {"name": "front"}, "spec": {"colour": colour}})
        .to_string()
    };
    admin.run_with(door("red").as_bytes(), "apply --server-side --field-manager=one -f -").ok();
    let conflict =
        admin.run_with(door("blue").as_bytes(), "apply --server-side --field-manager=two -f -").err();
    assert!(conflict.contains("conflict"), "{conflict}");
    admin
        .run_with(door("blue").as_bytes(), "apply --server-side --field-manager=two --force-conflicts -f -")
        .ok();
    assert_eq!(admin.run("get door front -o jsonpath={.spec.colour}").ok(), "blue");
    assert!(admin.run("explain door").ok().contains("Door"));
}
