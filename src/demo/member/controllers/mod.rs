//! The loops that make workloads out of objects: owners get what they own, pods get to run, what lost its owner goes.
//!
//! Level-triggered like the real ones: each pass looks at everything there is and changes what is not as it should be.
//! A pass over a settled store changes nothing.

mod pods;
mod workloads;

use std::{collections::HashSet, sync::Arc};

use serde_json::Value;

use super::{
    lifecycle,
    resources::{self, Resource},
    store::{Outcome, Store},
    streams::Streams,
};

/// Runs them until the store is gone or this is dropped.
pub(crate) async fn run(store: Arc<Store>, streams: Arc<Streams>) {
    let mut changed = store.subscribe();
    loop {
        changed.mark_unchanged();
        pass(&store, &streams);
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// One pass over everything.
pub(crate) fn pass(store: &Store, streams: &Streams) {
    namespaces(store);
    workloads::reconcile(store);
    collect_garbage(store);
    pods::reconcile(store, streams);
}

/// What is left in namespaces that are gone.
fn namespaces(store: &Store) {
    let (namespaces, _) = store.list(&resources::NAMESPACES, None);
    let names: HashSet<&str> =
        namespaces.iter().filter_map(|object| object["metadata"]["name"].as_str()).collect();
    for resource in resources::ALL.into_iter().filter(|resource| resource.namespaced) {
        for object in store.list(resource, None).0 {
            if !names.contains(namespace(&object)) {
                delete(store, resource, &object);
            }
        }
    }
}

/// Objects whose owners are all gone.
fn collect_garbage(store: &Store) {
    let mut uids = HashSet::new();
    for resource in resources::ALL {
        uids.extend(
            store
                .list(resource, None)
                .0
                .iter()
                .filter_map(|object| object["metadata"]["uid"].as_str().map(str::to_owned)),
        );
    }
    for resource in resources::ALL {
        for object in store.list(resource, None).0 {
            let owners = items(&object["metadata"]["ownerReferences"]);
            let alive = |owner: &Value| owner["uid"].as_str().is_some_and(|uid| uids.contains(uid));
            if !owners.is_empty() && !owners.iter().any(alive) {
                delete(store, resource, &object);
            }
        }
    }
}

fn delete(store: &Store, resource: &'static Resource, object: &Value) {
    let uid = &object["metadata"]["uid"];
    let decide = |now: Option<&Value>| {
        Ok::<_, std::convert::Infallible>(match now {
            // Not one that has taken its name meanwhile.
            Some(now) if now["metadata"]["uid"] == *uid => lifecycle::deleted(now),
            _ => Outcome::Keep,
        })
    };
    let Ok(_) = store.change(resource, namespace(object), name(object), decide);
}

/// Writes what `change` makes of the object as it is now.
fn update(store: &Store, resource: &'static Resource, object: &Value, change: impl FnOnce(&mut Value)) {
    let decide = |now: Option<&Value>| {
        Ok::<_, std::convert::Infallible>(match now {
            None => Outcome::Keep,
            Some(now) => {
                let mut now = now.clone();
                change(&mut now);
                Outcome::Put(now)
            }
        })
    };
    let Ok(_) = store.change(resource, namespace(object), name(object), decide);
}

/// Creates it unless something of that name is there.
fn create(store: &Store, resource: &'static Resource, namespace: &str, object: Value) {
    let Ok(object) = super::lifecycle::created(resource, Some(namespace), object) else { return };
    let name = name(&object).to_owned();
    let decide = |now: Option<&Value>| {
        Ok::<_, std::convert::Infallible>(if now.is_some() { Outcome::Keep } else { Outcome::Put(object) })
    };
    let Ok(_) = store.change(resource, namespace, &name, decide);
}

/// The objects of a kind that `owner` controls, oldest first.
fn owned(store: &Store, resource: &Resource, owner: &Value) -> Vec<Arc<Value>> {
    let uid = &owner["metadata"]["uid"];
    let mut objects = store.list(resource, Some(namespace(owner))).0;
    objects.retain(|object| {
        items(&object["metadata"]["ownerReferences"]).iter().any(|owner| owner["uid"] == *uid)
    });
    objects.sort_by_key(|object| version(object));
    objects
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse().ok()).unwrap_or(0)
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
