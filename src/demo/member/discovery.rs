//! What there is: discovery, legacy and aggregated, and the version.

use serde_json::{Value, json};

use super::resources::{self, Resource};

/// A resource without objects: something is posted and something comes back.
struct Review {
    group: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
}

const REVIEWS: [Review; 3] = [
    Review {
        group: "authentication.k8s.io",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
        kind: "SelfSubjectReview",
    },
    Review {
        group: "authorization.k8s.io",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        kind: "SelfSubjectAccessReview",
    },
    Review {
        group: "authorization.k8s.io",
        plural: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        kind: "SelfSubjectRulesReview",
    },
];

/// The API groups but the core one; all are `v1`.
const GROUPS: [&str; 3] = ["apps", "authentication.k8s.io", "authorization.k8s.io"];

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const SUBRESOURCE_VERBS: [&str; 3] = ["get", "patch", "update"];

/// `/version`. The member is as old as the oldest kubectl that it serves in full.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": "v1.33.0+clusterway-demo", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// The legacy document at `path`, if there is one.
pub(crate) fn legacy(path: &str) -> Option<Value> {
    match path.trim_matches('/').split('/').collect::<Vec<_>>().as_slice() {
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        ["api", "v1"] => Some(resource_list("")),
        ["apis"] => Some(json!({
            "kind": "APIGroupList", "apiVersion": "v1", "groups": GROUPS.map(group),
        })),
        ["apis", name] if GROUPS.contains(name) => {
            let mut group = group(name);
            group["kind"] = json!("APIGroup");
            group["apiVersion"] = json!("v1");
            Some(group)
        }
        ["apis", name, "v1"] if GROUPS.contains(name) => Some(resource_list(name)),
        _ => None,
    }
}

/// The aggregated document of `/api` or `/apis`.
pub(crate) fn aggregated(path: &str, version: &str) -> Option<Value> {
    let items: Vec<Value> = match path.trim_matches('/') {
        "api" => vec![aggregated_group("")],
        "apis" => GROUPS.map(aggregated_group).into(),
        _ => return None,
    };
    Some(json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items,
    }))
}

fn group(name: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

fn resource_list(group: &str) -> Value {
    let mut resources = Vec::new();
    for resource in resources::ALL.into_iter().filter(|resource| resource.group == group) {
        resources.push(json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": VERBS, "shortNames": resource.short_names, "categories": resource.categories,
        }));
        for sub in subresources(resource) {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, sub.name), "singularName": "",
                "namespaced": resource.namespaced, "kind": sub.kind, "verbs": sub.verbs,
            });
            if sub.name == "scale" {
                entry["group"] = json!("autoscaling");
                entry["version"] = json!("v1");
            }
            resources.push(entry);
        }
    }
    for review in REVIEWS.iter().filter(|review| review.group == group) {
        resources.push(json!({
            "name": review.plural, "singularName": review.singular, "namespaced": false, "kind": review.kind,
            "verbs": ["create"],
        }));
    }
    let group_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
}

fn aggregated_group(group: &str) -> Value {
    let kind = |group: &str, kind: &str| json!({"group": group, "version": "v1", "kind": kind});
    let mut entries = Vec::new();
    for resource in resources::ALL.into_iter().filter(|resource| resource.group == group) {
        let subresources: Vec<Value> = subresources(resource)
            .into_iter()
            .map(|sub| {
                let of = if sub.name == "scale" { "autoscaling" } else { resource.group };
                json!({"subresource": sub.name, "responseKind": kind(of, sub.kind), "verbs": sub.verbs})
            })
            .collect();
        entries.push(json!({
            "resource": resource.plural, "responseKind": kind(group, resource.kind),
            "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": resource.singular, "verbs": VERBS, "shortNames": resource.short_names,
            "categories": resource.categories, "subresources": subresources,
        }));
    }
    for review in REVIEWS.iter().filter(|review| review.group == group) {
        entries.push(json!({
            "resource": review.plural, "responseKind": kind(group, review.kind), "scope": "Cluster",
            "singularResource": review.singular, "verbs": ["create"],
        }));
    }
    let version = json!({"version": "v1", "resources": entries, "freshness": "Current"});
    json!({"metadata": if group.is_empty() { json!({}) } else { json!({"name": group}) }, "versions": [version]})
}

struct Subresource {
    name: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
}

fn subresources(resource: &Resource) -> Vec<Subresource> {
    let mut found = Vec::new();
    if resource.status {
        found.push(Subresource { name: "status", kind: resource.kind, verbs: &SUBRESOURCE_VERBS });
    }
    if resource.scale {
        found.push(Subresource { name: "scale", kind: "Scale", verbs: &SUBRESOURCE_VERBS });
    }
    if resource.kind == "Pod" {
        found.push(Subresource { name: "log", kind: "Pod", verbs: &["get"] });
        for (name, kind) in [
            ("exec", "PodExecOptions"),
            ("attach", "PodAttachOptions"),
            ("portforward", "PodPortForwardOptions"),
        ] {
            found.push(Subresource { name, kind, verbs: &["create", "get"] });
        }
    }
    found
}
