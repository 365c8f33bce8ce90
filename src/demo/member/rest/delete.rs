//! Deleting, and what `DeleteOptions` ask for: tries only, preconditions, orphans.

use http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Call, json_response, key, parse_body, streamed_list};
use crate::demo::member::{
    failure::Failure,
    lifecycle, protobuf, resources,
    store::{Outcome, Store},
};

/// What a deletion asks for, in the body or in the query.
struct Options {
    body: Value,
    dry_run: bool,
    orphan: bool,
}

impl Call<'_> {
    fn options(&self, body: &[u8]) -> Result<Options, Failure> {
        // Options in protobuf come from typed clients, which ask for nothing special here.
        let plain = body.is_empty() || self.content_type() == protobuf::MEDIA_TYPE;
        let body = if plain { Value::Null } else { parse_body(body)? };
        Ok(Options {
            dry_run: self.query.dry_run() || body["dryRun"].as_array().is_some_and(|list| !list.is_empty()),
            orphan: body["orphanDependents"] == true
                || body["propagationPolicy"] == "Orphan"
                || self.query.text("propagationPolicy") == "Orphan",
            body,
        })
    }

    pub(super) fn delete(&self, name: &str, body: &[u8]) -> Answer {
        let resource = self.path.resource;
        let options = self.options(body)?;
        let before = self.get(name)?;
        let check = |now: &Value| {
            for (field, what) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
                let expected = &options.body["preconditions"][field];
                if expected.is_string() && *expected != now["metadata"][field] {
                    let why = format!("Precondition failed: {what} in precondition does not match");
                    return Err(Failure::conflict(resource, name, &why));
                }
            }
            Ok(())
        };
        check(&before)?;
        if options.orphan && !options.dry_run {
            disown(self.store, &before);
        }
        self.store.change(resource, self.namespace(), name, |now| {
            let Some(now) = now else { return Err(Failure::not_found(resource, name)) };
            check(now)?;
            Ok(if options.dry_run { Outcome::Keep } else { lifecycle::deleted(now) })
        })?;
        Ok(json_response(
            StatusCode::OK,
            &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": {"name": name, "group": resource.group, "kind": resource.plural,
                    "uid": before["metadata"]["uid"]}}),
        ))
    }

    pub(super) fn delete_collection(&self, body: &[u8]) -> Answer {
        let resource = self.path.resource;
        let options = self.options(body)?;
        let selector = self.selector()?;
        let (mut objects, version) = self.store.list(resource, self.path.namespace.as_deref());
        objects.retain(|object| selector.matches(object));
        for object in objects.iter().filter(|_| !options.dry_run) {
            if options.orphan {
                disown(self.store, object);
            }
            let (namespace, name) = key(object);
            self.store.change(resource, &namespace, &name, |now| {
                Ok::<_, Failure>(now.map_or(Outcome::Keep, lifecycle::deleted))
            })?;
        }
        Ok(streamed_list(resource, &json!({"resourceVersion": version.to_string()}), objects))
    }
}

/// Takes `owner` out of what it owns, so that nothing goes with it.
fn disown(store: &Store, owner: &Value) {
    let uid = &owner["metadata"]["uid"];
    let owned = |object: &Value| {
        object["metadata"]["ownerReferences"]
            .as_array()
            .is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == *uid))
    };
    for resource in resources::ALL {
        for object in store.list(resource, None).0.iter().filter(|object| owned(object)) {
            let (namespace, name) = key(object);
            let decide = |now: Option<&Value>| {
                let Some(mut now) = now.cloned() else {
                    return Ok::<_, std::convert::Infallible>(Outcome::Keep);
                };
                if let Some(owners) = now["metadata"]["ownerReferences"].as_array_mut() {
                    owners.retain(|owner| owner["uid"] != *uid);
                }
                Ok(Outcome::Put(now))
            };
            let Ok(_) = store.change(resource, &namespace, &name, decide);
        }
    }
}
