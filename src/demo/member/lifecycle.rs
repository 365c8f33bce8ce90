//! What happens to an object on its way into the store: metadata, defaults, generations.
//!
//! Defaults are those that `kubectl diff` and the tables would miss; a real API server has many more.

use serde_json::{Map, Value, json};

use super::{clock, failure::Failure, resources::Resource, store::Outcome, types};

/// Makes `object` ready to be created.
///
/// # Errors
/// 400 and 422 for what cannot be stored.
pub(crate) fn created(
    resource: &Resource,
    namespace: Option<&str>,
    mut object: Value,
) -> Result<Value, Failure> {
    check_type(resource, &object)?;
    let metadata = metadata_of(&mut object)?;
    if let Some(namespace) = namespace {
        let named = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
        if !named.is_empty() && named != namespace {
            return Err(Failure::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        metadata.insert("namespace".into(), json!(namespace));
    } else {
        metadata.remove("namespace");
    }
    let name = metadata.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    if name.is_empty() {
        let prefix = metadata.get("generateName").and_then(Value::as_str).unwrap_or_default();
        if prefix.is_empty() {
            return Err(Failure::invalid(
                resource,
                "",
                "metadata.name: Required value: name or generateName is required",
            ));
        }
        let name = format!("{prefix}{}", suffix(5));
        metadata.insert("name".into(), json!(name));
    } else if !is_path_segment(&name) {
        return Err(Failure::invalid(
            resource,
            &name,
            "metadata.name: Invalid value: it must be a DNS-1123 subdomain",
        ));
    }
    metadata.insert("uid".into(), json!(uid()));
    metadata.insert("creationTimestamp".into(), json!(clock::now()));
    metadata.remove("deletionTimestamp");
    if has_generation(resource) {
        metadata.insert("generation".into(), json!(1));
    }
    // A status is what came of the object, and nothing has come of it yet. Nodes report theirs themselves.
    if resource.status
        && resource.kind != "Node"
        && let Some(object) = object.as_object_mut()
    {
        object.remove("status");
    }
    types::check(resource, &object)?;
    check_workload(resource, &object)?;
    defaults(resource, &mut object);
    Ok(object)
}

/// Makes `after` ready to take the place of `before`: what clients cannot change stays.
///
/// # Errors
/// 400, 409 and 422 for what cannot be stored.
pub(crate) fn updated(resource: &Resource, before: &Value, mut after: Value) -> Result<Value, Failure> {
    check_type(resource, &after)?;
    let name = before["metadata"]["name"].as_str().unwrap_or_default();
    let expected = after["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if !expected.is_empty() && before["metadata"]["resourceVersion"] != expected {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        return Err(Failure::conflict(resource, name, why));
    }
    let expected = after["metadata"]["uid"].as_str().unwrap_or_default();
    if !expected.is_empty() && before["metadata"]["uid"] != expected {
        return Err(Failure::conflict(
            resource,
            name,
            "Precondition failed: UID in precondition does not match",
        ));
    }
    let metadata = metadata_of(&mut after)?;
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "generation",
        "resourceVersion",
        "deletionTimestamp",
    ] {
        match &before["metadata"][field] {
            Value::Null => drop(metadata.remove(field)),
            value => drop(metadata.insert(field.into(), value.clone())),
        }
    }
    if resource.status && after.get("status") != before.get("status") {
        after["status"] = before["status"].clone();
        if after["status"].is_null() {
            after.as_object_mut().map(|object| object.remove("status"));
        }
    }
    types::check(resource, &after)?;
    check_workload(resource, &after)?;
    defaults(resource, &mut after);
    if has_generation(resource) && after["spec"] != before["spec"] {
        after["metadata"]["generation"] = json!(before["metadata"]["generation"].as_u64().unwrap_or(0) + 1);
    }
    Ok(after)
}

/// What becomes of `object` when it is deleted: one with finalizers is only marked, and goes with the last of them.
pub(crate) fn deleted(object: &Value) -> Outcome {
    let metadata = &object["metadata"];
    if metadata["finalizers"].as_array().is_none_or(Vec::is_empty) {
        return Outcome::Delete;
    }
    if metadata["deletionTimestamp"].is_string() {
        return Outcome::Keep;
    }
    let mut marked = object.clone();
    marked["metadata"]["deletionTimestamp"] = json!(clock::now());
    marked["metadata"]["deletionGracePeriodSeconds"] = json!(0);
    Outcome::Put(marked)
}

/// Whether `object` has been deleted and nothing holds it any longer.
pub(crate) fn is_released(object: &Value) -> bool {
    let metadata = &object["metadata"];
    metadata["deletionTimestamp"].is_string() && metadata["finalizers"].as_array().is_none_or(Vec::is_empty)
}

/// Puts only the status of `update` into `before`.
///
/// # Errors
/// 400 for what is no status of this kind.
pub(crate) fn with_status(resource: &Resource, before: &Value, update: &Value) -> Result<Value, Failure> {
    let mut after = before.clone();
    after["status"] = update["status"].clone();
    types::check(resource, &after)?;
    Ok(after)
}

fn check_type(resource: &Resource, object: &Value) -> Result<(), Failure> {
    let kind = object["kind"].as_str().unwrap_or(resource.kind);
    let api_version = resource.api_version();
    let version = object["apiVersion"].as_str().unwrap_or(&api_version);
    if kind != resource.kind || version != api_version {
        return Err(Failure::bad_request(format!(
            "{version}, Kind={kind} in the body does not match the expected {api_version}, Kind={}",
            resource.kind
        )));
    }
    Ok(())
}

/// What a workload's fields must agree on.
fn check_workload(resource: &Resource, object: &Value) -> Result<(), Failure> {
    if !matches!(resource.kind, "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet") {
        return Ok(());
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let invalid = |problem: &str| Err(Failure::invalid(resource, name, problem));
    let spec = &object["spec"];
    if let Some(replicas) = spec["replicas"].as_i64().filter(|replicas| *replicas < 0) {
        let problem = format!("spec.replicas: Invalid value: {replicas}: must be greater than or equal to 0");
        return invalid(&problem);
    }
    let labels = &spec["template"]["metadata"]["labels"];
    for (key, value) in spec["selector"]["matchLabels"].as_object().into_iter().flatten() {
        if labels.get(key) != Some(value) {
            let problem = format!(
                "spec.template.metadata.labels: Invalid value: {labels}: `selector` does not match template `labels`"
            );
            return invalid(&problem);
        }
    }
    Ok(())
}

fn metadata_of(object: &mut Value) -> Result<&mut Map<String, Value>, Failure> {
    let not_an_object = || Failure::bad_request("the body is not a Kubernetes object");
    let object = object.as_object_mut().ok_or_else(not_an_object)?;
    object.entry("metadata").or_insert_with(|| json!({})).as_object_mut().ok_or_else(not_an_object)
}

fn is_path_segment(name: &str) -> bool {
    name.len() <= 253
        && !matches!(name, "." | "..")
        && !name.contains(['/', '%'])
        && !name.chars().any(char::is_whitespace)
}

fn has_generation(resource: &Resource) -> bool {
    resource.group == "apps"
}

fn defaults(resource: &Resource, object: &mut Value) {
    object["kind"] = json!(resource.kind);
    object["apiVersion"] = json!(resource.api_version());
    match resource.kind {
        "Pod" => {
            pod_spec(&mut object["spec"]);
            set_default(object, "/status", || json!({"phase": "Pending"}));
        }
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => workload(resource, object),
        "Namespace" => {
            set_default(object, "/spec", || json!({"finalizers": ["kubernetes"]}));
            set_default(object, "/status", || json!({"phase": "Active"}));
            let name = object["metadata"]["name"].clone();
            set_default(object, "/metadata/labels/kubernetes.io~1metadata.name", || name);
        }
        "Service" => service(object),
        "Secret" => {
            set_default(object, "/type", || json!("Opaque"));
            secret_string_data(object);
        }
        _ => {}
    }
}

fn workload(resource: &Resource, object: &mut Value) {
    if resource.kind != "DaemonSet" {
        set_default(object, "/spec/replicas", || json!(1));
    }
    match resource.kind {
        "Deployment" => {
            set_default(object, "/spec/strategy/type", || json!("RollingUpdate"));
            if object["spec"]["strategy"]["type"] == "RollingUpdate" {
                set_default(object, "/spec/strategy/rollingUpdate/maxSurge", || json!("25%"));
                set_default(object, "/spec/strategy/rollingUpdate/maxUnavailable", || json!("25%"));
            }
            set_default(object, "/spec/revisionHistoryLimit", || json!(10));
            set_default(object, "/spec/progressDeadlineSeconds", || json!(600));
        }
        "StatefulSet" => {
            set_default(object, "/spec/podManagementPolicy", || json!("OrderedReady"));
            set_default(object, "/spec/revisionHistoryLimit", || json!(10));
            set_default(object, "/spec/updateStrategy/type", || json!("RollingUpdate"));
        }
        "DaemonSet" => {
            set_default(object, "/spec/revisionHistoryLimit", || json!(10));
            set_default(object, "/spec/updateStrategy/type", || json!("RollingUpdate"));
        }
        _ => {}
    }
    if object["spec"]["template"].is_object() {
        pod_spec(&mut object["spec"]["template"]["spec"]);
    }
    set_default(object, "/status", || json!({}));
}

fn pod_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    set_default(spec, "/restartPolicy", || json!("Always"));
    set_default(spec, "/terminationGracePeriodSeconds", || json!(30));
    set_default(spec, "/dnsPolicy", || json!("ClusterFirst"));
    set_default(spec, "/schedulerName", || json!("default-scheduler"));
    set_default(spec, "/securityContext", || json!({}));
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            let latest = container["image"]
                .as_str()
                .is_none_or(|image| !image.contains(':') || image.ends_with(":latest"));
            set_default(container, "/imagePullPolicy", || {
                json!(if latest { "Always" } else { "IfNotPresent" })
            });
            set_default(container, "/terminationMessagePath", || json!("/dev/termination-log"));
            set_default(container, "/terminationMessagePolicy", || json!("File"));
            set_default(container, "/resources", || json!({}));
            for port in container["ports"].as_array_mut().into_iter().flatten() {
                set_default(port, "/protocol", || json!("TCP"));
            }
        }
    }
    // Reading a list that is not there has put a null in its place.
    if let Some(spec) = spec.as_object_mut() {
        spec.retain(|_, value| !value.is_null());
        for list in ["containers", "initContainers"] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(container) = container.as_object_mut() {
                    container.retain(|_, value| !value.is_null());
                }
            }
        }
    }
}

fn service(object: &mut Value) {
    set_default(object, "/spec/type", || json!("ClusterIP"));
    set_default(object, "/spec/sessionAffinity", || json!("None"));
    set_default(object, "/spec/internalTrafficPolicy", || json!("Cluster"));
    set_default(object, "/spec/ipFamilyPolicy", || json!("SingleStack"));
    set_default(object, "/spec/ipFamilies", || json!(["IPv4"]));
    let address = format!("10.96.{}.{}", random_byte(), random_byte());
    set_default(object, "/spec/clusterIP", || json!(address));
    let address = object["spec"]["clusterIP"].clone();
    set_default(object, "/spec/clusterIPs", || json!([address]));
    set_default(object, "/status", || json!({"loadBalancer": {}}));
    for port in object["spec"].get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        set_default(port, "/protocol", || json!("TCP"));
        let number = port["port"].clone();
        set_default(port, "/targetPort", || number);
    }
}

/// `stringData` is only ever written.
fn secret_string_data(object: &mut Value) {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let Some(Value::Object(plain)) = object.as_object_mut().and_then(|object| object.remove("stringData"))
    else {
        return;
    };
    for (key, value) in plain {
        object["data"][key] = json!(STANDARD.encode(value.as_str().unwrap_or_default()));
    }
}

/// Sets the field at a JSON pointer if it is absent; makes the objects on the way.
fn set_default(object: &mut Value, pointer: &str, value: impl FnOnce() -> Value) {
    let mut place = object;
    for step in pointer.split('/').skip(1) {
        if !matches!(place, Value::Object(_) | Value::Null) {
            return;
        }
        place = &mut place[step.replace("~1", "/")];
    }
    if place.is_null() {
        *place = value();
    }
}

/// A version 4 UUID.
pub(crate) fn uid() -> String {
    let mut bytes = random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// What generated names end in.
pub(crate) fn suffix(length: usize) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    random()
        .iter()
        .take(length)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

fn random_byte() -> u8 {
    random()[0]
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    // Names and identifiers of a demo: without random numbers they are all alike, which only clashes visibly.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::member::resources::{CONFIG_MAPS, DEPLOYMENTS, PODS, SECRETS};

    fn deployment() -> Value {
        json!({"metadata": {"name": "web"}, "spec": {"template": {"spec": {"containers": [{"name": "a", "image": "x"}]}}}})
    }

    #[test]
    fn defaults_are_the_same_the_second_time() {
        let once = created(&DEPLOYMENTS, Some("default"), deployment()).unwrap();
        assert_eq!(once["spec"]["replicas"], 1);
        let again = updated(&DEPLOYMENTS, &once, once.clone()).unwrap();
        assert_eq!(again, once);
    }

    #[test]
    fn a_changed_spec_is_a_new_generation_and_status_is_not_for_everybody() {
        let before = created(&DEPLOYMENTS, Some("default"), deployment()).unwrap();
        let mut change = before.clone();
        change["spec"]["replicas"] = json!(3);
        change["status"] = json!({"replicas": 9});
        let after = updated(&DEPLOYMENTS, &before, change).unwrap();
        assert_eq!(after["metadata"]["generation"], 2);
        assert_eq!(after["status"], json!({}));
    }

    #[test]
    fn a_status_that_is_sent_along_is_not_kept() {
        let pod =
            json!({"metadata": {"name": "a"}, "spec": {"containers": []}, "status": {"phase": "Running"}});
        assert_eq!(created(&PODS, Some("default"), pod).unwrap()["status"]["phase"], "Pending");
    }

    #[test]
    fn old_versions_conflict() {
        let mut before = created(&CONFIG_MAPS, Some("default"), json!({"metadata": {"name": "a"}})).unwrap();
        before["metadata"]["resourceVersion"] = json!("7");
        let mut change = before.clone();
        change["metadata"]["resourceVersion"] = json!("6");
        assert_eq!(updated(&CONFIG_MAPS, &before, change).unwrap_err().code, 409);
    }

    #[test]
    fn string_data_becomes_data() {
        let secret = json!({"metadata": {"name": "a"}, "stringData": {"k": "v"}});
        let secret = created(&SECRETS, Some("default"), secret).unwrap();
        assert_eq!((secret["data"]["k"].as_str(), secret.get("stringData")), (Some("dg=="), None));
    }

    #[test]
    fn fields_of_another_type_are_refused_before_controllers_meet_them() {
        let before = created(&DEPLOYMENTS, Some("default"), deployment()).unwrap();
        for (pointer, value) in [
            ("/metadata/annotations", json!(["a"])),
            ("/metadata/labels", json!("a")),
            ("/spec/replicas", json!("three")),
            ("/spec/strategy", json!("a")),
            ("/spec/template/metadata", json!({"labels": [1]})),
            ("/spec/template/spec/containers", json!("a")),
        ] {
            let mut after = before.clone();
            set_default(&mut after, pointer, || Value::Null);
            *after.pointer_mut(pointer).unwrap() = value;
            assert_eq!(updated(&DEPLOYMENTS, &before, after.clone()).unwrap_err().code, 400, "{pointer}");
            assert!(created(&DEPLOYMENTS, Some("default"), after).is_err(), "{pointer}");
        }
        assert!(with_status(&DEPLOYMENTS, &before, &json!({"status": "a"})).is_err());
        assert!(with_status(&DEPLOYMENTS, &before, &json!({"status": {"replicas": 1}})).is_ok());
    }

    #[test]
    fn an_object_with_finalizers_goes_with_the_last_of_them() {
        let object = json!({"metadata": {"name": "a", "finalizers": ["a.b/c"]}});
        let Outcome::Put(mut marked) = deleted(&object) else { panic!("it is only marked") };
        assert!(matches!(deleted(&marked), Outcome::Keep));
        assert!(!is_released(&marked));
        marked["metadata"]["finalizers"] = json!([]);
        assert!(is_released(&marked));
        assert!(matches!(deleted(&json!({"metadata": {"name": "a"}})), Outcome::Delete));
    }

    #[test]
    fn a_workload_that_could_not_find_its_pods_is_invalid() {
        let mut object = deployment();
        object["spec"]["selector"] = json!({"matchLabels": {"app": "a"}});
        assert_eq!(created(&DEPLOYMENTS, Some("default"), object.clone()).unwrap_err().code, 422);
        object["spec"]["template"]["metadata"] = json!({"labels": {"app": "a"}});
        let before = created(&DEPLOYMENTS, Some("default"), object).unwrap();
        let mut after = before.clone();
        after["spec"]["replicas"] = json!(-1);
        assert_eq!(updated(&DEPLOYMENTS, &before, after).unwrap_err().code, 422);
    }

    #[test]
    fn what_is_no_such_object_is_refused() {
        for object in [
            json!([]),
            json!({"metadata": 1}),
            json!({"kind": "Pod"}),
            json!({}),
            json!({"metadata": {"name": "a/b"}}),
        ] {
            assert!(created(&CONFIG_MAPS, Some("default"), object).is_err());
        }
    }
}
