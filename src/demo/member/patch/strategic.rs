//! Strategic merge patches: like merge patches, but lists of named things are merged by name.
//!
//! See kubernetes/community, sig-api-machinery/strategic-merge-patch.md.

use serde_json::{Map, Value};

use super::{
    PatchError,
    schema::{self, ListKind},
};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Applies a strategic merge patch to an object of kind `kind`.
///
/// # Errors
/// [`PatchError`] for a patch that is no object, or directives that mean nothing.
pub fn strategic(_kind: &str, current: &Value, patch: &Value) -> Result<Value, PatchError> {
    let (Value::Object(current), Value::Object(patch)) = (current, patch) else {
        return Err(PatchError("a strategic merge patch must be an object".to_owned()));
    };
    Ok(Value::Object(merge_objects("", current, patch)?))
}

fn merge_objects(
    parent: &str,
    current: &Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<Map<String, Value>, PatchError> {
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => return Ok(without_directives(patch)),
        Some("delete") => return Ok(Map::new()),
        Some("merge") | None => {}
        Some(other) => return Err(PatchError(format!("unknown directive {DIRECTIVE}: {other}"))),
    }
    let mut merged = current.clone();
    if let Some(retained) = patch.get(RETAIN_KEYS).and_then(Value::as_array) {
        merged.retain(|key, _| retained.iter().any(|retained| retained == key));
    }
    for (key, doomed) in patch {
        if let Some(field) = key.strip_prefix(DELETE_PRIMITIVES)
            && let (Some(Value::Array(list)), Some(doomed)) = (merged.get_mut(field), doomed.as_array())
        {
            list.retain(|item| !doomed.contains(item));
        }
    }
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        let before = merged.get(key);
        let after = match (before, value) {
            (_, Value::Null) => {
                merged.remove(key);
                continue;
            }
            (Some(Value::Object(before)), Value::Object(patch)) => {
                Value::Object(merge_objects(key, before, patch)?)
            }
            (_, Value::Object(patch)) => Value::Object(merge_objects(key, &Map::new(), patch)?),
            (Some(Value::Array(before)), Value::Array(patch)) => {
                Value::Array(merge_lists(parent, key, before, patch)?)
            }
            (_, Value::Array(patch)) => Value::Array(merge_lists(parent, key, &[], patch)?),
            (_, plain) => plain.clone(),
        };
        merged.insert(key.clone(), after);
    }
    for (key, order) in patch {
        if let Some(field) = key.strip_prefix(SET_ORDER)
            && let (Some(Value::Array(list)), Some(order)) = (merged.get_mut(field), order.as_array())
        {
            sort(parent, field, list, order);
        }
    }
    Ok(merged)
}

fn merge_lists(
    parent: &str,
    field: &str,
    current: &[Value],
    patch: &[Value],
) -> Result<Vec<Value>, PatchError> {
    let replaces = patch.iter().any(|item| item[DIRECTIVE] == "replace");
    let kept = || patch.iter().filter(|item| item.get(DIRECTIVE).is_none()).cloned();
    match schema::list(parent, field) {
        ListKind::Atomic => Ok(kept().collect()),
        _ if replaces => Ok(kept().collect()),
        ListKind::Set => {
            let mut merged = current.to_vec();
            for item in patch {
                if !merged.contains(item) {
                    merged.push(item.clone());
                }
            }
            Ok(merged)
        }
        ListKind::Map(keys) => {
            let key = keys.first().copied().unwrap_or("name");
            let mut merged = current.to_vec();
            for item in patch {
                let Value::Object(change) = item else {
                    return Err(PatchError(format!("{field}: the elements must be objects with a {key}")));
                };
                let id = change
                    .get(key)
                    .ok_or_else(|| PatchError(format!("{field}: map does not contain key: {key}")))?;
                let at = merged.iter().position(|item| item[key] == *id);
                match (at, change.get(DIRECTIVE).and_then(Value::as_str)) {
                    (Some(at), Some("delete")) => drop(merged.remove(at)),
                    (None, Some("delete")) => {}
                    (Some(at), _) => {
                        if let Some(Value::Object(before)) = merged.get(at) {
                            let after = Value::Object(merge_objects(field, before, change)?);
                            merged[at] = after;
                        }
                    }
                    (None, _) => merged.push(Value::Object(merge_objects(field, &Map::new(), change)?)),
                }
            }
            Ok(merged)
        }
    }
}

/// Elements that `order` names come in its order; the others keep their place behind the one they stood behind.
fn sort(parent: &str, field: &str, list: &mut Vec<Value>, order: &[Value]) {
    let id = |item: &Value| match schema::list(parent, field) {
        ListKind::Map(keys) => keys.first().map(|key| item[*key].clone()).unwrap_or_default(),
        _ => item.clone(),
    };
    let rank = |item: &Value| {
        let wanted = id(item);
        order.iter().position(|ordered| *ordered == wanted || id(ordered) == wanted)
    };
    let mut last = 0;
    let mut ranked: Vec<(usize, Value)> = list
        .drain(..)
        .map(|item| {
            last = rank(&item).unwrap_or(last);
            (last, item)
        })
        .collect();
    // Stable: what is not ordered stays behind its predecessor.
    ranked.sort_by_key(|(rank, _)| *rank);
    list.extend(ranked.into_iter().map(|(_, item)| item));
}

fn without_directives(object: &Map<String, Value>) -> Map<String, Value> {
    object
        .iter()
        .filter(|(key, _)| !key.starts_with('$'))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pod() -> Value {
        json!({
            "metadata": {"labels": {"a": "1"}, "finalizers": ["x", "y"]},
            "spec": {"containers": [
                {"name": "web", "image": "nginx:1", "ports": [{"containerPort": 80, "protocol": "TCP"}], "args": ["a"]},
                {"name": "log", "image": "log:1", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
            ]},
        })
    }

    fn patched(patch: Value) -> Value {
        strategic("Pod", &pod(), &patch).unwrap()
    }

    #[test]
    fn a_patch_of_one_container_keeps_the_other() {
        let pod = patched(json!({"spec": {"containers": [{"name": "web", "image": "nginx:2"}]}}));
        assert_eq!(pod["spec"]["containers"][0]["image"], "nginx:2");
        assert_eq!(pod["spec"]["containers"][0]["ports"][0]["containerPort"], 80);
        assert_eq!(pod["spec"]["containers"][1]["image"], "log:1");
    }

    #[test]
    fn elements_are_added_deleted_and_replaced() {
        let pod = patched(json!({"spec": {"containers": [
            {"name": "log", "$patch": "delete"}, {"name": "new", "image": "x"}]}}));
        let names: Vec<_> =
            pod["spec"]["containers"].as_array().unwrap().iter().map(|item| item["name"].clone()).collect();
        assert_eq!(names, ["web", "new"]);
        let pod =
            patched(json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "only", "image": "x"}]}}));
        assert_eq!(pod["spec"]["containers"], json!([{"name": "only", "image": "x"}]));
        let pod = patched(json!({"spec": {"$patch": "replace", "nodeName": "n"}}));
        assert_eq!(pod["spec"], json!({"nodeName": "n"}));
    }

    #[test]
    fn plain_lists_are_replaced_and_sets_are_joined() {
        let pod =
            patched(json!({"metadata": {"finalizers": ["z"], "$deleteFromPrimitiveList/finalizers": ["x"]},
            "spec": {"containers": [{"name": "web", "args": ["b"]}]}}));
        assert_eq!(pod["spec"]["containers"][0]["args"], json!(["b"]));
        assert_eq!(pod["metadata"]["finalizers"], json!(["y", "z"]));
    }

    #[test]
    fn null_deletes_and_retained_keys_are_all_that_stays() {
        let pod = patched(json!({"metadata": {"labels": {"a": null, "b": "2"}}}));
        assert_eq!(pod["metadata"]["labels"], json!({"b": "2"}));
        let volume = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        let patch = json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]}});
        let volumes = strategic("Pod", &volume, &patch).unwrap();
        assert_eq!(volumes["spec"]["volumes"], json!([{"name": "v", "configMap": {"name": "c"}}]));
    }

    #[test]
    fn the_order_of_elements_is_the_patchs() {
        let pod = patched(json!({"spec": {
            "$setElementOrder/containers": [{"name": "log"}, {"name": "web"}],
            "containers": [{"name": "web", "image": "nginx:2"}]}}));
        assert_eq!(pod["spec"]["containers"][0]["name"], "log");
    }

    #[test]
    fn what_means_nothing_is_an_error() {
        for patch in
            [json!([]), json!({"spec": {"containers": [{"image": "x"}]}}), json!({"$patch": "explode"})]
        {
            assert!(strategic("Pod", &pod(), &patch).is_err(), "{patch}");
        }
    }

    proptest! {
        #[test]
        fn the_same_patch_twice_is_the_same_as_once(image in "[a-z]{1,5}", name in "(web|log|new)", label in "[a-c]") {
            let patch = json!({"metadata": {"labels": {label: "x"}}, "spec": {"containers": [{"name": name, "image": image}]}});
            let once = strategic("Pod", &pod(), &patch).unwrap();
            prop_assert_eq!(strategic("Pod", &once, &patch).unwrap(), once);
        }
    }
}
