use serde_json::{Value, json};

use super::*;

mod model;

const RBAC: &str = "rbac.authorization.k8s.io";

fn documents(objects: &[Value]) -> Vec<Document> {
    let document = |(index, object): (usize, &Value)| {
        let mut value = object.clone();
        let kind = value["kind"].as_str().unwrap_or("ClusterRole").to_owned();
        let api_version = value["apiVersion"].as_str().unwrap_or("rbac.authorization.k8s.io/v1").to_owned();
        value["kind"] = json!(kind);
        value["apiVersion"] = json!(api_version);
        Document { origin: format!("rbac.yaml, document {}", index + 1), kind, api_version, value }
    };
    objects.iter().enumerate().map(document).collect()
}

fn compile(objects: &[Value]) -> (Policy, Vec<String>) {
    let (policy, problems) = Policy::compile(&documents(objects));
    (policy, problems.iter().map(ToString::to_string).collect())
}

fn role(name: &str, labels: Value, cluster: &str) -> Value {
    json!({"kind": "ClusterRole", "metadata": {"name": name, "labels": labels}, "rules": [{
        "verbs": ["get"], "apiGroups": ["cluster.core.oam.dev"],
        "resources": ["clustergateways/proxy"], "resourceNames": [cluster]}]})
}

fn binding(role: &str, subject: Value) -> Value {
    json!({"kind": "ClusterRoleBinding", "metadata": {"name": format!("{role}-binding")}, "subjects": [subject],
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role}})
}

fn decide(policy: &Policy, user: &str, groups: &[&str], cluster: &str) -> Decision {
    let groups = groups.iter().map(ToString::to_string).collect();
    let caller = Caller { name: user.into(), groups, ..Caller::default() };
    let attributes = Attributes::Resource {
        verb: "get",
        group: "cluster.core.oam.dev",
        resource: "clustergateways",
        subresource: "proxy",
        name: cluster,
    };
    policy.decide(&caller, &attributes)
}

fn may_get(policy: &Policy, user: &str, groups: &[&str], cluster: &str) -> bool {
    decide(policy, user, groups, cluster).is_allowed()
}

#[test]
fn nobody_may_do_anything_by_default_not_even_masters() {
    let (policy, _) = compile(&[role("east", json!({}), "east")]);
    assert!(!may_get(&policy, "admin", &["system:masters"], "east"));
}

#[test]
fn users_groups_and_service_accounts_are_bound_by_name() {
    let (policy, problems) = compile(&[
        role("a", json!({}), "a"),
        role("b", json!({}), "b"),
        role("c", json!({}), "c"),
        binding("a", json!({"kind": "User", "name": "tom", "apiGroup": RBAC})),
        binding("b", json!({"kind": "Group", "name": "dev"})),
        binding("c", json!({"kind": "ServiceAccount", "name": "ci", "namespace": "build"})),
    ]);
    assert_eq!(problems, [""; 0]);
    assert!(may_get(&policy, "tom", &[], "a"));
    assert!(!may_get(&policy, "tom", &[], "b"));
    assert!(!may_get(&policy, "dev", &[], "b"));
    assert!(may_get(&policy, "ann", &["ops", "dev"], "b"));
    assert!(may_get(&policy, "system:serviceaccount:build:ci", &[], "c"));
    assert!(!may_get(&policy, "ci", &[], "c"));
}

#[test]
fn a_decision_names_the_binding_that_allows_it() {
    let (policy, _) =
        compile(&[role("east", json!({}), "east"), binding("east", json!({"kind": "User", "name": "tom"}))]);
    assert_eq!(decide(&policy, "tom", &[], "east"), Decision::Allow { by: "east-binding".into() });
    assert_eq!(decide(&policy, "tom", &[], "west"), Decision::Deny);
}

#[test]
fn api_groups_may_be_left_out_where_an_api_server_fills_them_in() {
    let mut short = binding("east", json!({"kind": "User", "name": "tom", "apiGroup": ""}));
    short["roleRef"] = json!({"kind": "ClusterRole", "name": "east"});
    let (policy, problems) = compile(&[role("east", json!({}), "east"), short]);
    assert_eq!(problems, [""; 0]);
    assert!(may_get(&policy, "tom", &[], "east"));
}

#[test]
fn paths_that_are_no_resources_have_rules_of_their_own() {
    let metrics = json!({"metadata": {"name": "metrics"},
        "rules": [{"verbs": ["get"], "nonResourceURLs": ["/metrics"]}]});
    let (policy, _) = compile(&[metrics, binding("metrics", json!({"kind": "User", "name": "prometheus"}))]);
    let caller = Caller { name: "prometheus".into(), ..Caller::default() };
    let get = |path| policy.decide(&caller, &Attributes::NonResource { verb: "get", path }).is_allowed();
    assert!(get("/metrics"));
    assert!(!get("/debug"));
}

#[test]
fn aggregated_roles_have_the_rules_of_those_they_select_and_not_their_own() {
    let aggregating = json!({"metadata": {"name": "all"},
        "aggregationRule": {"clusterRoleSelectors": [
            {"matchLabels": {"tier": "prod"}},
            {"matchExpressions": [{"key": "nested", "operator": "Exists"}]}]},
        "rules": [{"verbs": ["get"], "apiGroups": ["*"], "resources": ["*"]}]});
    let nested = json!({"metadata": {"name": "nested", "labels": {"nested": "yes"}},
        "aggregationRule": {"clusterRoleSelectors": [
            {"matchExpressions": [{"key": "tier", "operator": "In", "values": ["test"]}]},
            {"matchExpressions": [{"key": "nested", "operator": "Exists"}]}]}});
    let (policy, problems) = compile(&[
        aggregating,
        nested,
        role("prod", json!({"tier": "prod"}), "prod"),
        role("test", json!({"tier": "test"}), "test"),
        role("other", json!({"tier": "dev"}), "other"),
        binding("all", json!({"kind": "User", "name": "tom"})),
    ]);
    assert_eq!(problems, [""; 0]);
    assert!(may_get(&policy, "tom", &[], "prod"));
    assert!(may_get(&policy, "tom", &[], "test"));
    assert!(!may_get(&policy, "tom", &[], "other"));
    assert!(!may_get(&policy, "tom", &[], "anything"));
}

#[test]
fn a_binding_with_a_mistake_grants_nothing_to_anybody_and_names_the_field() {
    let tom = json!({"kind": "User", "name": "tom"});
    let with = |subject: Value| {
        let mut binding = binding("east", tom.clone());
        binding["subjects"] = json!([tom, subject]);
        binding
    };
    let referring = |key: &str, value: &str| {
        let mut binding = binding("east", tom.clone());
        binding["roleRef"][key] = json!(value);
        binding
    };
    let mut misspelt = binding("east", tom.clone());
    misspelt["subject"] = json!([]);
    let mut unnamed = binding("east", tom.clone());
    unnamed["metadata"] = json!({});
    for (binding, field) in [
        (with(json!({"kind": "ServiceAccount", "name": "ci"})), "subjects[1].namespace"),
        (with(json!({"kind": "ServiceAccount", "name": "a:b", "namespace": "x"})), "subjects[1].name"),
        (
            with(json!({"kind": "ServiceAccount", "name": "ci", "namespace": "x", "apiGroup": RBAC})),
            "subjects[1].apiGroup",
        ),
        (with(json!({"kind": "Group", "name": "dev", "apiGroup": "example.com"})), "subjects[1].apiGroup"),
        (with(json!({"kind": "Group", "name": ""})), "subjects[1].name"),
        (with(json!({"kind": "Robot", "name": "r2"})), "subjects[1].kind"),
        (with(json!({"kind": "User", "name": "x", "nam": "y"})), "subjects.1.nam"),
        (referring("kind", "Role"), "roleRef.kind"),
        (referring("apiGroup", "example.com"), "roleRef.apiGroup"),
        (referring("name", ""), "roleRef.name"),
        (misspelt, "\"subject\""),
        (unnamed, "metadata.name"),
    ] {
        let (policy, problems) = compile(&[role("east", json!({}), "east"), binding]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("rbac.yaml, document 2: "), "{problems:?}");
        assert!(problems[0].contains(field), "{field}: {problems:?}");
        assert!(!may_get(&policy, "tom", &["dev", ""], "east"), "{field}");
    }
}

#[test]
fn a_role_with_a_mistake_does_not_exist_and_names_the_field() {
    let ruled = |rule: Value| json!({"metadata": {"name": "x"}, "rules": [rule]});
    let selecting = |selectors: Value| json!({"metadata": {"name": "x"}, "aggregationRule": {"clusterRoleSelectors": selectors}});
    let expression = |expression: Value| selecting(json!([{"matchExpressions": [expression]}]));
    for (role, field) in [
        // Misspelt, it would be a rule for every cluster.
        (
            ruled(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "resourcNames": ["east"]})),
            "rules.0.resourcNames",
        ),
        (ruled(json!({"verbs": [], "apiGroups": ["*"], "resources": ["*"]})), "rules[0].verbs"),
        (ruled(json!({"verbs": ["get"], "resources": ["*"]})), "rules[0].apiGroups"),
        (ruled(json!({"verbs": ["get"], "apiGroups": ["*"]})), "rules[0].resources"),
        (
            ruled(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "nonResourceURLs": ["*"]})),
            "rules[0].nonResourceURLs",
        ),
        (ruled(json!({"verbs": "get", "apiGroups": ["*"], "resources": ["*"]})), "cannot be understood"),
        (selecting(json!([])), "aggregationRule.clusterRoleSelectors"),
        (expression(json!({"key": "a", "operator": "NotIn"})), "clusterRoleSelectors[0].matchExpressions"),
        (expression(json!({"key": "a", "operator": "Exists", "values": ["x"]})), "matchExpressions"),
        (expression(json!({"key": "a", "operator": "Like", "values": ["x"]})), "matchExpressions"),
        (expression(json!({"key": "a b", "operator": "DoesNotExist"})), "matchExpressions"),
        (expression(json!({"key": "a", "operator": "NotIn", "values": ["x y"]})), "matchExpressions"),
        (selecting(json!([{"matchLabels": {"a": "b c"}}])), "clusterRoleSelectors[0].matchLabels"),
        (json!({"metadata": {"name": "x", "labels": {"a": "b c"}}}), "metadata.labels"),
        (json!({"metadata": {"name": "x", "labels": {"a": 1}}}), "cannot be understood"),
        (json!({"metadata": {"name": "x/y"}}), "metadata.name"),
    ] {
        let everything = json!({"metadata": {"name": "everything"},
            "rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]});
        let (policy, problems) =
            compile(&[role, everything, binding("x", json!({"kind": "User", "name": "tom"}))]);
        assert_eq!(problems.len(), 2, "the role and the binding to it: {problems:?}");
        assert!(problems[0].starts_with("rbac.yaml, document 1: "), "{problems:?}");
        assert!(problems[0].contains(field), "{field}: {problems:?}");
        assert!(problems[1].contains("there is no ClusterRole \"x\""), "{problems:?}");
        assert!(!may_get(&policy, "tom", &[], "east"), "{field}");
    }
}

#[test]
fn two_objects_of_one_kind_and_name_grant_nothing_and_both_places_are_named() {
    let tom = json!({"kind": "User", "name": "tom"});
    let east = || role("east", json!({}), "east");
    let (policy, problems) = compile(&[
        east(),
        binding("east", tom.clone()),
        binding("east", json!({"kind": "User", "name": "ann"})),
    ]);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("rbac.yaml, document 2 and in rbac.yaml, document 3"), "{problems:?}");
    assert!(!may_get(&policy, "tom", &[], "east") && !may_get(&policy, "ann", &[], "east"));
    let (policy, problems) = compile(&[east(), east(), binding("east", tom)]);
    assert!(problems[0].contains("rbac.yaml, document 1 and in rbac.yaml, document 2"), "{problems:?}");
    assert!(!may_get(&policy, "tom", &[], "east"));
}

#[test]
fn what_has_no_effect_is_reported_and_other_objects_are_not() {
    let (_, problems) = compile(&[
        json!({"kind": "RoleBinding", "metadata": {"name": "x"}}),
        json!({"kind": "ClusterRole", "apiVersion": "rbac.authorization.k8s.io/v1beta1", "metadata": {"name": "x"}}),
        json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "x"}}),
        json!({"kind": "ClusterRole", "apiVersion": "example.com/v1", "metadata": {"name": "x"}}),
    ]);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("write a ClusterRoleBinding instead"), "{problems:?}");
    assert!(problems[1].contains("v1beta1 ClusterRole"), "{problems:?}");
}

#[test]
fn what_kubectl_get_prints_is_understood() {
    let (policy, problems) = compile(&[
        json!({"metadata": {"name": "east", "uid": "1", "resourceVersion": "2", "creationTimestamp": null,
            "labels": {}, "annotations": {"a": "b"}, "generation": 1,
            "managedFields": [{"apiVersion": "rbac.authorization.k8s.io/v1", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:rules": {}}, "manager": "kubectl", "operation": "Update",
                "time": "2026-11-23T00:00:00Z"}]},
            "rules": [{"verbs": ["get"], "apiGroups": ["*"], "resources": ["*"], "resourceNames": []}]}),
        binding("east", json!({"kind": "User", "name": "tom", "apiGroup": RBAC})),
    ]);
    assert_eq!(problems, [""; 0]);
    assert!(may_get(&policy, "tom", &[], "east"));
}
