//! Whether an object has the types its kind has. Behind this, everybody may rely on what is a map, a list or a number.

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
    core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, Secret, Service, ServiceAccount},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{failure::Failure, resources::Resource};

/// Says what has another type than it should have.
///
/// # Errors
/// 400, naming the first such field.
pub(crate) fn check(resource: &Resource, object: &Value) -> Result<(), Failure> {
    let checked = match resource.kind {
        "ConfigMap" => read::<ConfigMap>(object),
        "ControllerRevision" => read::<ControllerRevision>(object),
        "DaemonSet" => read::<DaemonSet>(object),
        "Deployment" => read::<Deployment>(object),
        "Endpoints" => read::<Endpoints>(object),
        "Event" => read::<Event>(object),
        "Namespace" => read::<Namespace>(object),
        "Node" => read::<Node>(object),
        "Pod" => read::<Pod>(object),
        "ReplicaSet" => read::<ReplicaSet>(object),
        "Secret" => read::<Secret>(object),
        "Service" => read::<Service>(object),
        "ServiceAccount" => read::<ServiceAccount>(object),
        "StatefulSet" => read::<StatefulSet>(object),
        _ => Ok(()),
    };
    checked.map_err(|error| {
        let (kind, version) = (resource.kind, resource.version);
        Failure::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {error}"))
    })
}

fn read<T: DeserializeOwned>(object: &Value) -> Result<(), serde_json::Error> {
    T::deserialize(object).map(|_| ())
}
