//! Who owns which field: `metadata.managedFields`, in the FieldsV1 format.
//!
//! A field set is a tree: `f:name` is a field, `k:{"name":"web"}` an element of a list with keys, `v:value` a member of a
//! set, and an empty object a leaf.

use serde_json::{Map, Value, json};

use super::schema::{self, ListKind};

/// Fields that nobody owns: the server writes them.
const SYSTEM: [&str; 8] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "selfLink",
];

/// The fields that `object` sets.
pub(super) fn fields(object: &Value) -> Value {
    let mut set = tree("", object);
    if let Some(set) = set.as_object_mut() {
        for field in ["f:apiVersion", "f:kind"] {
            set.remove(field);
        }
        if let Some(metadata) = set.get_mut("f:metadata").and_then(Value::as_object_mut) {
            metadata.retain(|field, _| !SYSTEM.contains(&field.trim_start_matches("f:")));
            if metadata.is_empty() {
                set.remove("f:metadata");
            }
        }
    }
    set
}

fn tree(parent: &str, value: &Value) -> Value {
    let Value::Object(object) = value else { return json!({}) };
    let mut set = Map::new();
    for (field, value) in object {
        let child = match value {
            Value::Array(items) => list(parent, field, items),
            value => tree(field, value),
        };
        set.insert(format!("f:{field}"), child);
    }
    Value::Object(set)
}

fn list(parent: &str, field: &str, items: &[Value]) -> Value {
    match schema::list(parent, field) {
        ListKind::Atomic => json!({}),
        ListKind::Set => items.iter().map(|item| (format!("v:{item}"), json!({}))).collect(),
        ListKind::Map(keys) => items.iter().map(|item| (element(keys, item), tree(field, item))).collect(),
    }
}

/// `k:{…}` of a list element.
pub(super) fn element(keys: &[&str], item: &Value) -> String {
    let id: Map<String, Value> = keys
        .iter()
        .filter(|key| !item[**key].is_null())
        .map(|key| ((*key).to_owned(), item[*key].clone()))
        .collect();
    format!("k:{}", Value::Object(id))
}

/// The leaves of `left` that `right` has as well, as paths.
pub(super) fn common(left: &Value, right: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(left, right, String::new(), &mut found);
    found
}

fn walk(left: &Value, right: &Value, path: String, found: &mut Vec<String>) {
    let (Some(left), Some(right)) = (left.as_object(), right.as_object()) else { return };
    for (step, child) in left {
        let Some(other) = right.get(step) else { continue };
        let shown = match step.split_once(':') {
            Some(("f", field)) => format!("{path}.{field}"),
            Some(("k", key)) => format!("{path}[{key}]"),
            _ => format!("{path}[{step}]"),
        };
        if child.as_object().is_none_or(Map::is_empty) || other.as_object().is_none_or(Map::is_empty) {
            found.push(shown);
        } else {
            walk(child, other, shown, found);
        }
    }
}

/// Keeps `managedFields` of `after` right when `manager` has written it by other means than apply: it owns what it has
/// changed, and those who owned that before do not any more.
pub fn record_update(before: &Value, after: &mut Value, manager: &str, now: &str) {
    let changed = difference(&fields(after), before, after);
    let removed = |owned: &Value| subtract(owned, &changed);
    let mut entries: Vec<Value> = entries(before)
        .into_iter()
        .filter_map(|mut entry| {
            let left = removed(&entry["fieldsV1"]);
            let present = intersect(&left, &fields(after));
            if present.as_object().is_none_or(Map::is_empty) {
                return None;
            }
            entry["fieldsV1"] = present;
            Some(entry)
        })
        .collect();
    if changed.as_object().is_some_and(|changed| !changed.is_empty()) {
        let own =
            entries.iter_mut().find(|entry| entry["manager"] == manager && entry["operation"] == "Update");
        match own {
            Some(entry) => {
                entry["fieldsV1"] = union(&entry["fieldsV1"], &changed);
                entry["time"] = json!(now);
            }
            None => entries.push(entry(manager, "Update", &after["apiVersion"], changed, now)),
        }
    }
    after["metadata"]["managedFields"] = Value::Array(entries);
}

pub(super) fn entries(object: &Value) -> Vec<Value> {
    object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default()
}

pub(super) fn entry(manager: &str, operation: &str, api_version: &Value, fields: Value, now: &str) -> Value {
    json!({
        "manager": manager, "operation": operation, "apiVersion": api_version, "time": now, "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    })
}

/// The part of `set` whose values are not the same in both objects.
fn difference(set: &Value, before: &Value, after: &Value) -> Value {
    let mut changed = Map::new();
    for (step, child) in set.as_object().into_iter().flatten() {
        let (old, new) = (at(before, step), at(after, step));
        if old == new {
            continue;
        }
        let leaf = child.as_object().is_none_or(Map::is_empty);
        let inner = if leaf { json!({}) } else { difference(child, &old, &new) };
        if leaf || inner.as_object().is_some_and(|inner| !inner.is_empty()) {
            changed.insert(step.clone(), inner);
        }
    }
    Value::Object(changed)
}

/// What a step of a field set leads to.
pub(super) fn at(value: &Value, step: &str) -> Value {
    match step.split_once(':') {
        Some(("f", field)) => value[field].clone(),
        Some(("k", key)) => {
            let Ok(Value::Object(key)) = serde_json::from_str(key) else { return Value::Null };
            let matches = |item: &&Value| key.iter().all(|(field, wanted)| item[field] == *wanted);
            value.as_array().and_then(|items| items.iter().find(matches)).cloned().unwrap_or_default()
        }
        Some(("v", text)) => {
            let Ok(wanted) = serde_json::from_str::<Value>(text) else { return Value::Null };
            value
                .as_array()
                .and_then(|items| items.iter().find(|item| **item == wanted))
                .cloned()
                .unwrap_or_default()
        }
        _ => Value::Null,
    }
}

/// What is in both.
pub(super) fn intersect(left: &Value, right: &Value) -> Value {
    combine(left, right, |left, right| match (left, right) {
        (Some(left), Some(right)) => Some(intersect(left, right)),
        _ => None,
    })
}

/// What is in either.
pub(super) fn union(left: &Value, right: &Value) -> Value {
    combine(left, right, |left, right| match (left, right) {
        (Some(left), Some(right)) => Some(union(left, right)),
        (one, other) => one.or(other).cloned(),
    })
}

/// What is in `left` and not in `right`.
pub(super) fn subtract(left: &Value, right: &Value) -> Value {
    combine(left, right, |left, right| {
        let (left, Some(right)) = (left?, right) else { return left.cloned() };
        if right.as_object().is_none_or(Map::is_empty) {
            // Whoever owns an empty map owns none of what others have put into it.
            return left.as_object().is_some_and(|left| !left.is_empty()).then(|| left.clone());
        }
        let rest = subtract(left, right);
        (!rest.as_object().is_none_or(Map::is_empty)).then_some(rest)
    })
}

fn combine(
    left: &Value,
    right: &Value,
    decide: impl Fn(Option<&Value>, Option<&Value>) -> Option<Value>,
) -> Value {
    let empty = Map::new();
    let (left, right) = (left.as_object().unwrap_or(&empty), right.as_object().unwrap_or(&empty));
    let mut combined = Map::new();
    for step in left.keys().chain(right.keys().filter(|step| !left.contains_key(*step))) {
        if let Some(value) = decide(left.get(step), right.get(step)) {
            combined.insert(step.clone(), value);
        }
    }
    Value::Object(combined)
}
