//! Deployments, ReplicaSets, StatefulSets and DaemonSets.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::{Value, json};

use super::{create, delete, name, namespace, owned, update};
use crate::demo::member::{
    clock, lifecycle,
    resources::{DAEMON_SETS, DEPLOYMENTS, NODES, PODS, REPLICA_SETS, Resource, STATEFUL_SETS},
    store::Store,
};

const HASH: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";

pub(super) fn reconcile(store: &Store) {
    for deployment in store.list(&DEPLOYMENTS, None).0 {
        self::deployment(store, &deployment);
    }
    for set in store.list(&REPLICA_SETS, None).0 {
        replica_set(store, &set);
    }
    for set in store.list(&STATEFUL_SETS, None).0 {
        stateful_set(store, &set);
    }
    for set in store.list(&DAEMON_SETS, None).0 {
        daemon_set(store, &set);
    }
}

/// The ReplicaSet of the current template has all replicas, every older one none.
fn deployment(store: &Store, deployment: &Value) {
    let hash = template_hash(&deployment["spec"]["template"]);
    let sets = owned(store, &REPLICA_SETS, deployment);
    let revision_of = |set: &Value| -> u64 {
        set["metadata"]["annotations"][REVISION]
            .as_str()
            .and_then(|revision| revision.parse().ok())
            .unwrap_or(0)
    };
    let newest = sets.iter().map(|set| revision_of(set)).max().unwrap_or(0);
    let current = sets.iter().find(|set| set["metadata"]["labels"][HASH] == hash);
    let revision = match current {
        Some(set) if revision_of(set) == newest => newest,
        _ => newest + 1,
    };
    let replicas = deployment["spec"]["replicas"].clone();
    match current {
        None => {
            create(store, &REPLICA_SETS, namespace(deployment), new_replica_set(deployment, &hash, revision))
        }
        Some(set) => update(store, &REPLICA_SETS, set, |set| {
            scale(set, &replicas);
            set["metadata"]["annotations"][REVISION] = json!(revision.to_string());
        }),
    }
    for set in sets.iter().filter(|set| set["metadata"]["labels"][HASH] != hash) {
        update(store, &REPLICA_SETS, set, |set| scale(set, &json!(0)));
    }
    let sets = owned(store, &REPLICA_SETS, deployment);
    let sum = |field: &str| sets.iter().filter_map(|set| set["status"][field].as_u64()).sum::<u64>();
    let updated = sets
        .iter()
        .find(|set| set["metadata"]["labels"][HASH] == hash)
        .and_then(|set| set["status"]["replicas"].as_u64())
        .unwrap_or(0);
    let (all, ready) = (sum("replicas"), sum("readyReplicas"));
    let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(0);
    update(store, &DEPLOYMENTS, deployment, |deployment| {
        deployment["metadata"]["annotations"][REVISION] = json!(revision.to_string());
        let complete = updated == wanted && ready >= wanted;
        let conditions = [
            condition(deployment, "Available", ready >= wanted, "MinimumReplicasAvailable"),
            condition(
                deployment,
                "Progressing",
                true,
                if complete { "NewReplicaSetAvailable" } else { "ReplicaSetUpdated" },
            ),
        ];
        deployment["status"] = counts(&[
            ("replicas", all),
            ("updatedReplicas", updated),
            ("readyReplicas", ready),
            ("availableReplicas", ready),
            ("unavailableReplicas", wanted.saturating_sub(ready)),
        ]);
        deployment["status"]["observedGeneration"] = deployment["metadata"]["generation"].clone();
        deployment["status"]["conditions"] = json!(conditions);
    });
}

fn new_replica_set(deployment: &Value, hash: &str, revision: u64) -> Value {
    let mut template = deployment["spec"]["template"].clone();
    template["metadata"]["labels"][HASH] = json!(hash);
    let mut selector = deployment["spec"]["selector"].clone();
    selector["matchLabels"][HASH] = json!(hash);
    json!({
        "metadata": {
            "name": format!("{}-{hash}", name(deployment)), "labels": template["metadata"]["labels"],
            "annotations": {REVISION: revision.to_string()}, "ownerReferences": [reference(&DEPLOYMENTS, deployment)],
        },
        "spec": {"replicas": deployment["spec"]["replicas"], "selector": selector, "template": template},
    })
}

fn replica_set(store: &Store, set: &Value) {
    let pods = owned(store, &PODS, set);
    let wanted = wanted(set);
    for _ in pods.len()..wanted {
        create(
            store,
            &PODS,
            namespace(set),
            new_pod(&REPLICA_SETS, set, format!("{}-{}", name(set), lifecycle::suffix(5))),
        );
    }
    for pod in pods.iter().rev().take(pods.len().saturating_sub(wanted)) {
        delete(store, &PODS, pod);
    }
    let (all, ready) = running(store, set);
    update(store, &REPLICA_SETS, set, |set| {
        set["status"] = counts(&[
            ("replicas", all),
            ("fullyLabeledReplicas", all),
            ("readyReplicas", ready),
            ("availableReplicas", ready),
        ]);
        set["status"]["observedGeneration"] = set["metadata"]["generation"].clone();
    });
}

/// Pods have numbers for names and go in reverse; a changed template replaces them.
fn stateful_set(store: &Store, set: &Value) {
    let revision = format!("{}-{}", name(set), template_hash(&set["spec"]["template"]));
    let pods = owned(store, &PODS, set);
    let ordinal =
        |pod: &Value| name(pod).rsplit_once('-').and_then(|(_, ordinal)| ordinal.parse::<usize>().ok());
    for pod in &pods {
        let surplus = ordinal(pod).is_none_or(|ordinal| ordinal >= wanted(set));
        if surplus || pod["metadata"]["labels"]["controller-revision-hash"] != revision {
            delete(store, &PODS, pod);
        }
    }
    for ordinal in 0..wanted(set) {
        let mut pod = new_pod(&STATEFUL_SETS, set, format!("{}-{ordinal}", name(set)));
        pod["metadata"]["labels"]["controller-revision-hash"] = json!(revision);
        pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"] = pod["metadata"]["name"].clone();
        create(store, &PODS, namespace(set), pod);
    }
    let (all, ready) = running(store, set);
    update(store, &STATEFUL_SETS, set, |set| {
        set["status"] = counts(&[
            ("replicas", all),
            ("readyReplicas", ready),
            ("currentReplicas", all),
            ("updatedReplicas", all),
            ("availableReplicas", ready),
        ]);
        set["status"]["observedGeneration"] = set["metadata"]["generation"].clone();
        set["status"]["currentRevision"] = json!(revision);
        set["status"]["updateRevision"] = json!(revision);
    });
}

/// One pod per node.
fn daemon_set(store: &Store, set: &Value) {
    let hash = template_hash(&set["spec"]["template"]);
    let nodes = store.list(&NODES, None).0;
    let pods = owned(store, &PODS, set);
    for pod in pods.iter().filter(|pod| pod["metadata"]["labels"]["controller-revision-hash"] != hash) {
        delete(store, &PODS, pod);
    }
    for node in &nodes {
        let there =
            owned(store, &PODS, set).iter().any(|pod| pod["spec"]["nodeName"] == node["metadata"]["name"]);
        if !there {
            let mut pod = new_pod(&DAEMON_SETS, set, format!("{}-{}", name(set), lifecycle::suffix(5)));
            pod["metadata"]["labels"]["controller-revision-hash"] = json!(hash);
            pod["spec"]["nodeName"] = node["metadata"]["name"].clone();
            create(store, &PODS, namespace(set), pod);
        }
    }
    let (all, ready) = running(store, set);
    let wanted = nodes.len() as u64;
    update(store, &DAEMON_SETS, set, |set| {
        set["status"] = json!({
            "desiredNumberScheduled": wanted, "currentNumberScheduled": all, "numberMisscheduled": 0, "numberReady": ready,
            "updatedNumberScheduled": all, "numberAvailable": ready, "observedGeneration": set["metadata"]["generation"],
        });
    });
}

fn new_pod(resource: &Resource, owner: &Value, name: String) -> Value {
    let template = &owner["spec"]["template"];
    json!({
        "metadata": {
            "name": name, "labels": template["metadata"]["labels"], "annotations": template["metadata"]["annotations"],
            "ownerReferences": [reference(resource, owner)],
        },
        "spec": template["spec"],
    })
}

fn reference(resource: &Resource, owner: &Value) -> Value {
    json!({
        "apiVersion": resource.api_version(), "kind": resource.kind, "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true,
    })
}

fn wanted(object: &Value) -> usize {
    object["spec"]["replicas"].as_u64().and_then(|replicas| usize::try_from(replicas).ok()).unwrap_or(0)
}

fn running(store: &Store, owner: &Value) -> (u64, u64) {
    let pods = owned(store, &PODS, owner);
    let ready = pods.iter().filter(|pod| pod["status"]["phase"] == "Running").count();
    (pods.len() as u64, ready as u64)
}

fn scale(set: &mut Value, replicas: &Value) {
    if set["spec"]["replicas"] != *replicas {
        set["spec"]["replicas"] = replicas.clone();
        set["metadata"]["generation"] = json!(set["metadata"]["generation"].as_u64().unwrap_or(0) + 1);
    }
}

/// Kubernetes leaves counts of zero out.
fn counts(fields: &[(&str, u64)]) -> Value {
    fields
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(field, count)| ((*field).to_owned(), json!(count)))
        .collect()
}

/// A condition; its times stay while its status does.
fn condition(object: &Value, kind: &str, holds: bool, reason: &str) -> Value {
    let status = if holds { "True" } else { "False" };
    let before =
        super::items(&object["status"]["conditions"]).iter().find(|condition| condition["type"] == kind);
    let unchanged = before.filter(|before| before["status"] == status && before["reason"] == reason);
    let now = clock::now();
    let time = |field: &str| unchanged.map_or_else(|| json!(now), |before| before[field].clone());
    json!({
        "type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": time("lastTransitionTime"),
        "lastUpdateTime": time("lastUpdateTime"),
    })
}

fn template_hash(template: &Value) -> String {
    let mut hasher = DefaultHasher::new();
    template.to_string().hash(&mut hasher);
    format!("{:010x}", hasher.finish() & 0xff_ffff_ffff)
}
