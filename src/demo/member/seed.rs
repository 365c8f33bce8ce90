//! What a new member holds, so that there is something to see.

use serde_json::{Value, json};

use super::{
    clock, lifecycle,
    resources::{CONFIG_MAPS, DEPLOYMENTS, NAMESPACES, NODES, Resource, SERVICE_ACCOUNTS, SERVICES},
    store::{Outcome, Store},
};

/// Fills the store of the member called `cluster`.
pub(super) fn fill(store: &Store, cluster: &str) {
    for namespace in ["default", "kube-public", "kube-system"] {
        put(store, &NAMESPACES, None, json!({"metadata": {"name": namespace}}));
        put(store, &SERVICE_ACCOUNTS, Some(namespace), json!({"metadata": {"name": "default"}}));
    }
    for number in 1..=2 {
        put(store, &NODES, None, node(cluster, number));
    }
    put(
        store,
        &SERVICES,
        Some("default"),
        json!({
            "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "targetPort": 6443}]},
        }),
    );
    put(
        store,
        &CONFIG_MAPS,
        Some("kube-system"),
        json!({
            "metadata": {"name": "about"}, "data": {"cluster": cluster, "what": "an embedded member of the clusterway demo"},
        }),
    );
    put(store, &DEPLOYMENTS, Some("default"), deployment("web", 2, "nginx:1.29"));
    put(store, &DEPLOYMENTS, Some("kube-system"), deployment("coredns", 1, "coredns/coredns:1.12.1"));
}

fn deployment(name: &str, replicas: u32, image: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [
                {"name": name, "image": image, "ports": [{"containerPort": 80}]}]}},
        },
    })
}

fn node(cluster: &str, number: u32) -> Value {
    let name = format!("{cluster}-node-{number}");
    let now = clock::now();
    json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}},
        "spec": {"podCIDR": format!("10.244.{number}.0/24")},
        "status": {
            "capacity": {"cpu": "4", "memory": "16Gi", "pods": "110"},
            "allocatable": {"cpu": "4", "memory": "16Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "in memory",
                "lastHeartbeatTime": now, "lastTransitionTime": now}],
            "addresses": [{"type": "InternalIP", "address": format!("10.0.0.{number}")}, {"type": "Hostname", "address": name}],
            "nodeInfo": {"kubeletVersion": "v1.33.0", "osImage": "Clusterway demo", "kernelVersion": "none",
                "containerRuntimeVersion": "demo://1", "operatingSystem": "linux", "architecture": "amd64",
                "machineID": "", "systemUUID": "", "bootID": "", "kubeProxyVersion": ""},
        },
    })
}

fn put(store: &Store, resource: &'static Resource, namespace: Option<&str>, object: Value) {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    // What stands above is valid; were it not, it would be missing, and the tests would say so.
    let Ok(object) = lifecycle::created(resource, namespace, object) else { return };
    let write = |_: Option<&Value>| Ok::<_, std::convert::Infallible>(Outcome::Put(object));
    let Ok(_) = store.change(resource, namespace.unwrap_or_default(), &name, write);
}
