//! Server-side apply: fields have owners, and what an owner no longer applies goes.
//!
//! Structured merge without a schema of types: lists are merged as `schema` says, everything else by field.

use serde_json::{Map, Value, json};

use super::{
    managed,
    schema::{self, ListKind},
};

/// An apply that cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Somebody else owns the field and it would change.
    #[error("conflict with {manager:?}: {field}")]
    Conflict {
        /// Who owns it.
        manager: String,
        /// The field.
        field: String,
    },
    /// Not an object that can be applied.
    #[error("{0}")]
    Invalid(String),
}

/// Applies `applied` as `manager` to `current`, or creates it.
///
/// # Errors
/// [`ApplyError`].
pub fn apply(
    current: Option<&Value>,
    applied: &Value,
    manager: &str,
    force: bool,
    _subresource: Option<&str>,
    now: &str,
) -> Result<Value, ApplyError> {
    if !applied.is_object() {
        return Err(ApplyError::Invalid("the applied configuration must be an object".to_owned()));
    }
    if applied["metadata"]["managedFields"].as_array().is_some_and(|fields| !fields.is_empty()) {
        return Err(ApplyError::Invalid("metadata.managedFields must be nil".to_owned()));
    }
    let set = managed::fields(applied);
    let empty = json!({"apiVersion": applied["apiVersion"], "kind": applied["kind"]});
    let current = current.unwrap_or(&empty);

    let mut entries = managed::entries(current);
    let is_own = |entry: &Value| entry["manager"] == manager && entry["operation"] == "Apply";
    let mut merged = merge("", current, applied);
    for entry in entries.iter_mut().filter(|entry| !is_own(entry)) {
        let taken = changed_fields(&managed::intersect(&set, &entry["fieldsV1"]), current, &merged);
        if taken.as_object().is_none_or(Map::is_empty) {
            continue;
        }
        if !force {
            let field = managed::common(&taken, &taken).into_iter().next().unwrap_or_default();
            let manager = entry["manager"].as_str().unwrap_or_default().to_owned();
            return Err(ApplyError::Conflict { manager, field });
        }
        entry["fieldsV1"] = managed::subtract(&entry["fieldsV1"], &taken);
    }

    let before =
        entries.iter().find(|entry| is_own(entry)).map(|entry| entry["fieldsV1"].clone()).unwrap_or_default();
    let mut dropped = managed::subtract(&before, &set);
    for entry in entries.iter().filter(|entry| !is_own(entry)) {
        dropped = managed::subtract(&dropped, &entry["fieldsV1"]);
    }
    remove(&mut merged, &dropped);

    entries.retain(|entry| {
        !is_own(entry) && entry["fieldsV1"].as_object().is_some_and(|fields| !fields.is_empty())
    });
    entries.push(managed::entry(manager, "Apply", &applied["apiVersion"], set, now));
    merged["metadata"]["managedFields"] = Value::Array(entries);
    Ok(merged)
}

fn changed_fields(set: &Value, before: &Value, after: &Value) -> Value {
    let mut changed = Map::new();
    for (step, child) in set.as_object().into_iter().flatten() {
        let (old, new) = (managed::at(before, step), managed::at(after, step));
        if old == new {
            continue;
        }
        if child.as_object().is_none_or(Map::is_empty) {
            changed.insert(step.clone(), json!({}));
            continue;
        }
        let inner = changed_fields(child, &old, &new);
        if inner.as_object().is_some_and(|inner| !inner.is_empty()) {
            changed.insert(step.clone(), inner);
        }
    }
    Value::Object(changed)
}

fn merge(parent: &str, current: &Value, applied: &Value) -> Value {
    let (Value::Object(current), Value::Object(applied)) = (current, applied) else { return applied.clone() };
    let mut merged = current.clone();
    for (field, value) in applied {
        let after = match (merged.get(field), value) {
            (Some(before @ Value::Object(_)), Value::Object(_)) => merge(field, before, value),
            (Some(Value::Array(before)), Value::Array(items)) => merge_list(parent, field, before, items),
            _ => value.clone(),
        };
        merged.insert(field.clone(), after);
    }
    Value::Object(merged)
}

fn merge_list(parent: &str, field: &str, before: &[Value], applied: &[Value]) -> Value {
    let mut merged = before.to_vec();
    match schema::list(parent, field) {
        ListKind::Atomic => return Value::Array(applied.to_vec()),
        ListKind::Set => {
            for item in applied {
                if !merged.contains(item) {
                    merged.push(item.clone());
                }
            }
        }
        ListKind::Map(keys) => {
            for item in applied {
                // A key that is left out (`protocol`) has a default in the stored object.
                let same =
                    |other: &Value| keys.iter().all(|key| item[*key].is_null() || other[*key] == item[*key]);
                match merged.iter().position(same) {
                    Some(at) => {
                        let after = merge(field, &merged[at], item);
                        merged[at] = after;
                    }
                    None => merged.push(item.clone()),
                }
            }
        }
    }
    Value::Array(merged)
}

/// Takes the leaves of `set` out of `value`, and list elements and objects that are empty then.
fn remove(value: &mut Value, set: &Value) {
    for (step, child) in set.as_object().into_iter().flatten() {
        let leaf = child.as_object().is_none_or(Map::is_empty);
        match step.split_once(':') {
            Some(("f", field)) => {
                let Some(object) = value.as_object_mut() else { continue };
                if leaf {
                    object.remove(field);
                } else if let Some(inner) = object.get_mut(field) {
                    remove(inner, child);
                    let empty = inner.as_object().is_some_and(Map::is_empty)
                        || inner.as_array().is_some_and(Vec::is_empty);
                    if empty {
                        object.remove(field);
                    }
                }
            }
            Some(("k", _)) => {
                let element = managed::at(value, step);
                let Some(items) = value.as_array_mut() else { continue };
                let Some(at) = items.iter().position(|item| *item == element) else { continue };
                // Whoever owned the keys of an element owned the element.
                let Ok(Value::Object(keys)) = serde_json::from_str::<Value>(&step[2..]) else { continue };
                let whole = leaf || keys.keys().all(|key| child.get(format!("f:{key}")).is_some());
                if whole {
                    items.remove(at);
                } else if let Some(item) = items.get_mut(at) {
                    remove(item, child);
                }
            }
            Some(("v", text)) => {
                if let (Some(items), Ok(gone)) = (value.as_array_mut(), serde_json::from_str::<Value>(text)) {
                    items.retain(|item| *item != gone);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::member::patch::record_update;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn config(data: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
    }

    fn applied(
        current: Option<&Value>,
        data: Value,
        manager: &str,
        force: bool,
    ) -> Result<Value, ApplyError> {
        apply(current, &config(data), manager, force, None, NOW)
    }

    #[test]
    fn what_is_no_longer_applied_goes_and_what_others_own_stays() {
        let one = applied(None, json!({"a": "1", "b": "1"}), "one", false).unwrap();
        let two = applied(Some(&one), json!({"c": "2", "b": "1"}), "two", false).unwrap();
        let one = applied(Some(&two), json!({"a": "1"}), "one", false).unwrap();
        assert_eq!(one["data"], json!({"a": "1", "b": "1", "c": "2"}));
        let one = applied(Some(&one), json!({}), "one", false).unwrap();
        assert_eq!(one["data"], json!({"b": "1", "c": "2"}));
    }

    #[test]
    fn somebody_elses_field_is_a_conflict_unless_forced() {
        let one = applied(None, json!({"a": "1"}), "one", false).unwrap();
        let conflict = applied(Some(&one), json!({"a": "2"}), "two", false).unwrap_err();
        assert_eq!(conflict, ApplyError::Conflict { manager: "one".into(), field: ".data.a".into() });
        let two = applied(Some(&one), json!({"a": "2"}), "two", true).unwrap();
        assert_eq!(two["data"]["a"], "2");
        let one = applied(Some(&two), json!({}), "one", false).unwrap();
        assert_eq!(one["data"]["a"], "2");
    }

    #[test]
    fn an_update_takes_the_fields_that_it_changes() {
        let one = applied(None, json!({"a": "1", "b": "1"}), "one", false).unwrap();
        let mut edited = one.clone();
        edited["data"]["a"] = json!("9");
        record_update(&one, &mut edited, "editor", NOW);
        let conflict = applied(Some(&edited), json!({"a": "1", "b": "1"}), "one", false).unwrap_err();
        assert!(matches!(conflict, ApplyError::Conflict { manager, .. } if manager == "editor"));
    }

    #[test]
    fn containers_are_merged_by_name() {
        let pod = |containers: Value| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"containers": containers}})
        };
        let both = json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]);
        let first = apply(None, &pod(both), "one", false, None, NOW).unwrap();
        let second =
            apply(Some(&first), &pod(json!([{"name": "b", "image": "2"}])), "one", false, None, NOW).unwrap();
        assert_eq!(second["spec"]["containers"], json!([{"name": "b", "image": "2"}]));
    }
}
