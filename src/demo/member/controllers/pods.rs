//! Scheduler and kubelet in one: every pod gets a node and runs at once.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use serde_json::{Value, json};

use super::{items, update};
use crate::demo::member::{
    clock,
    resources::{NODES, PODS},
    store::Store,
    streams::Streams,
};

/// Starts pods that do not run yet, and ends the sessions of those that are gone.
pub(super) fn reconcile(store: &Store, streams: &Streams) {
    let pods = store.list(&PODS, None).0;
    let nodes = store.list(&NODES, None).0;
    for pod in pods.iter().filter(|pod| pod["status"]["phase"] == "Pending") {
        let index = usize::try_from(hash(&pod["metadata"]["uid"])).unwrap_or(0) % nodes.len().max(1);
        let node = nodes.get(index).map(|node| node["metadata"]["name"].clone());
        update(store, &PODS, pod, |pod| start(pod, node));
    }
    let alive: HashSet<&str> = pods.iter().filter_map(|pod| pod["metadata"]["uid"].as_str()).collect();
    streams.keep(|uid| alive.contains(uid));
}

fn start(pod: &mut Value, node: Option<Value>) {
    if pod["spec"]["nodeName"].is_null()
        && let Some(node) = node
    {
        pod["spec"]["nodeName"] = node;
    }
    let now = clock::now();
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    let statuses: Vec<Value> = items(&pod["spec"]["containers"])
        .iter()
        .map(|container| {
            json!({
                "name": container["name"], "image": container["image"], "imageID": "", "ready": true, "started": true,
                "restartCount": 0, "containerID": format!("demo://{}", hash(&json!([pod["metadata"]["uid"], container["name"]]))),
                "state": {"running": {"startedAt": now}}, "lastState": {},
            })
        })
        .collect();
    let address = hash(&pod["metadata"]["uid"]);
    let address = format!("10.244.{}.{}", address % 254 + 1, address / 254 % 254 + 1);
    let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
    pod["status"] = json!({
        "phase": "Running", "startTime": now, "hostIP": "10.0.0.1", "podIP": address, "podIPs": [{"ip": address}],
        "qosClass": "BestEffort", "containerStatuses": statuses,
        "conditions": conditions,
    });
}

fn hash(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.to_string().hash(&mut hasher);
    hasher.finish()
}
