//! Objects as rows: what kubectl prints.

use serde_json::{Value, json};

use super::{clock, resources::Resource};

/// A column: name, type, and whether only `-o wide` shows it.
struct Column {
    name: &'static str,
    wide: bool,
    cell: fn(&Value) -> Value,
}

const fn column(name: &'static str, cell: fn(&Value) -> Value) -> Column {
    Column { name, wide: false, cell }
}

const fn wide(name: &'static str, cell: fn(&Value) -> Value) -> Column {
    Column { name, wide: true, cell }
}

/// How much of each object goes with its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    /// `includeObject=Metadata`, the default.
    Metadata,
    /// `includeObject=Object`.
    Object,
    /// `includeObject=None`.
    Nothing,
}

impl Include {
    /// Reads `includeObject`.
    pub(crate) fn of(text: &str) -> Self {
        match text {
            "Object" => Self::Object,
            "None" => Self::Nothing,
            _ => Self::Metadata,
        }
    }
}

/// A Table of `objects`. Watches leave the columns out after their first event.
pub(crate) fn table(resource: &Resource, objects: &[&Value], include: Include, with_columns: bool) -> Value {
    let columns = columns(resource);
    let definitions: Vec<Value> = if with_columns {
        columns
            .iter()
            .map(|column| {
                let format = if column.name == "Name" { "name" } else { "" };
                json!({
                    "name": column.name, "type": "string", "format": format, "description": column.name,
                    "priority": i32::from(column.wide),
                })
            })
            .collect()
    } else {
        Vec::new()
    };
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let cells: Vec<Value> = columns.iter().map(|column| (column.cell)(object)).collect();
            match include {
                Include::Nothing => json!({"cells": cells}),
                Include::Object => json!({"cells": cells, "object": object}),
                Include::Metadata => json!({"cells": cells, "object": partial(object)}),
            }
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": definitions, "rows": rows,
    })
}

/// Only the metadata.
pub(crate) fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

const NAME: Column = column("Name", |object| object["metadata"]["name"].clone());
const AGE: Column = column("Age", |object| json!(age(&object["metadata"]["creationTimestamp"])));

fn columns(resource: &Resource) -> Vec<Column> {
    match resource.kind {
        "Pod" => vec![
            NAME,
            column("Ready", ready),
            column("Status", pod_status),
            column("Restarts", |pod| json!(restarts(pod).to_string())),
            AGE,
            wide("IP", |pod| text_or(&pod["status"]["podIP"], "<none>")),
            wide("Node", |pod| text_or(&pod["spec"]["nodeName"], "<none>")),
            wide("Nominated Node", |pod| text_or(&pod["status"]["nominatedNodeName"], "<none>")),
            wide("Readiness Gates", |_| json!("<none>")),
        ],
        "Node" => vec![
            NAME,
            column("Status", node_status),
            column("Roles", |_| json!("<none>")),
            AGE,
            column("Version", |node| node["status"]["nodeInfo"]["kubeletVersion"].clone()),
            wide("Internal-IP", |node| text_or(&node["status"]["addresses"][0]["address"], "<none>")),
            wide("OS-Image", |node| node["status"]["nodeInfo"]["osImage"].clone()),
            wide("Kernel-Version", |node| node["status"]["nodeInfo"]["kernelVersion"].clone()),
            wide("Container-Runtime", |node| node["status"]["nodeInfo"]["containerRuntimeVersion"].clone()),
        ],
        "Namespace" => {
            vec![NAME, column("Status", |object| text_or(&object["status"]["phase"], "Active")), AGE]
        }
        "Deployment" => vec![
            NAME,
            column("Ready", |object| {
                json!(of(&object["status"]["readyReplicas"], &object["spec"]["replicas"]))
            }),
            column("Up-to-date", |object| number(&object["status"]["updatedReplicas"])),
            column("Available", |object| number(&object["status"]["availableReplicas"])),
            AGE,
            wide("Containers", |object| containers(object, "name")),
            wide("Images", |object| containers(object, "image")),
            wide("Selector", |object| json!(pairs(&object["spec"]["selector"]["matchLabels"]))),
        ],
        "ReplicaSet" => vec![
            NAME,
            column("Desired", |object| number(&object["spec"]["replicas"])),
            column("Current", |object| number(&object["status"]["replicas"])),
            column("Ready", |object| number(&object["status"]["readyReplicas"])),
            AGE,
            wide("Containers", |object| containers(object, "name")),
            wide("Images", |object| containers(object, "image")),
            wide("Selector", |object| json!(pairs(&object["spec"]["selector"]["matchLabels"]))),
        ],
        "StatefulSet" => vec![
            NAME,
            column("Ready", |object| {
                json!(of(&object["status"]["readyReplicas"], &object["spec"]["replicas"]))
            }),
            AGE,
            wide("Containers", |object| containers(object, "name")),
            wide("Images", |object| containers(object, "image")),
        ],
        "DaemonSet" => vec![
            NAME,
            column("Desired", |object| number(&object["status"]["desiredNumberScheduled"])),
            column("Current", |object| number(&object["status"]["currentNumberScheduled"])),
            column("Ready", |object| number(&object["status"]["numberReady"])),
            column("Up-to-date", |object| number(&object["status"]["updatedNumberScheduled"])),
            column("Available", |object| number(&object["status"]["numberAvailable"])),
            column("Node Selector", |object| {
                json!(pairs(&object["spec"]["template"]["spec"]["nodeSelector"]))
            }),
            AGE,
            wide("Containers", |object| containers(object, "name")),
            wide("Images", |object| containers(object, "image")),
            wide("Selector", |object| json!(pairs(&object["spec"]["selector"]["matchLabels"]))),
        ],
        "Service" => vec![
            NAME,
            column("Type", |object| text_or(&object["spec"]["type"], "ClusterIP")),
            column("Cluster-IP", |object| text_or(&object["spec"]["clusterIP"], "None")),
            column("External-IP", |_| json!("<none>")),
            column("Port(s)", |object| json!(ports(&object["spec"]["ports"]))),
            AGE,
            wide("Selector", |object| json!(pairs(&object["spec"]["selector"]))),
        ],
        "ConfigMap" => vec![
            NAME,
            column("Data", |object| {
                json!((count(&object["data"]) + count(&object["binaryData"])).to_string())
            }),
            AGE,
        ],
        "Secret" => vec![
            NAME,
            column("Type", |object| text_or(&object["type"], "Opaque")),
            column("Data", |object| json!(count(&object["data"]).to_string())),
            AGE,
        ],
        "ServiceAccount" => {
            vec![NAME, column("Secrets", |object| json!(count(&object["secrets"]).to_string())), AGE]
        }
        "Endpoints" => vec![NAME, column("Endpoints", |_| json!("<none>")), AGE],
        "Event" => vec![
            column("Last Seen", |event| json!(age(&event["lastTimestamp"]))),
            column("Type", |event| event["type"].clone()),
            column("Reason", |event| event["reason"].clone()),
            column("Object", |event| {
                let object = &event["involvedObject"];
                let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
                json!(format!("{kind}/{}", object["name"].as_str().unwrap_or_default()))
            }),
            column("Message", |event| event["message"].clone()),
        ],
        _ => vec![NAME, AGE],
    }
}

fn ready(pod: &Value) -> Value {
    let statuses = items(&pod["status"]["containerStatuses"]);
    let ready = statuses.iter().filter(|status| status["ready"] == true).count();
    json!(format!("{ready}/{}", items(&pod["spec"]["containers"]).len()))
}

fn pod_status(pod: &Value) -> Value {
    if pod["metadata"]["deletionTimestamp"].is_string() {
        return json!("Terminating");
    }
    text_or(&pod["status"]["phase"], "Pending")
}

fn restarts(pod: &Value) -> u64 {
    items(&pod["status"]["containerStatuses"])
        .iter()
        .filter_map(|status| status["restartCount"].as_u64())
        .sum()
}

fn node_status(node: &Value) -> Value {
    let ready = items(&node["status"]["conditions"])
        .iter()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    let schedulable = if node["spec"]["unschedulable"] == true { ",SchedulingDisabled" } else { "" };
    json!(format!("{}{schedulable}", if ready { "Ready" } else { "NotReady" }))
}

fn containers(object: &Value, field: &str) -> Value {
    let containers = items(&object["spec"]["template"]["spec"]["containers"]);
    let fields: Vec<&str> = containers.iter().filter_map(|container| container[field].as_str()).collect();
    json!(fields.join(","))
}

fn ports(ports: &Value) -> String {
    let ports: Vec<String> = items(ports)
        .iter()
        .map(|port| format!("{}/{}", port["port"], port["protocol"].as_str().unwrap_or("TCP")))
        .collect();
    if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") }
}

fn pairs(map: &Value) -> String {
    let pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn count(value: &Value) -> usize {
    value.as_object().map_or_else(|| items(value).len(), serde_json::Map::len)
}

fn number(value: &Value) -> Value {
    json!(value.as_u64().unwrap_or(0).to_string())
}

fn of(part: &Value, whole: &Value) -> String {
    format!("{}/{}", part.as_u64().unwrap_or(0), whole.as_u64().unwrap_or(0))
}

fn text_or(value: &Value, default: &str) -> Value {
    json!(value.as_str().filter(|text| !text.is_empty()).unwrap_or(default))
}

fn age(timestamp: &Value) -> String {
    timestamp.as_str().and_then(clock::seconds_since).map_or_else(|| "<unknown>".to_owned(), duration)
}

/// As kubectl shortens durations: two units at most, fewer the longer it is.
fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |big: u64, big_unit, small: u64, small_unit| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small}{small_unit}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, 'm', seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, 'h', minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, 'd', hours % 24, 'h'),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::member::resources::PODS;

    #[test]
    fn durations_read_as_kubectl_writes_them() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (700, "11m"),
            (11_000, "3h3m"),
            (30_000, "8h"),
            (200_000, "2d7h"),
            (900_000, "10d"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn a_pod_is_a_row_with_wide_columns_last() {
        let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{}, {}], "nodeName": "n1"},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [{"ready": true, "restartCount": 2}]}});
        let table = table(&PODS, &[&pod], Include::Metadata, true);
        assert_eq!(
            table["rows"][0]["cells"],
            json!(["web", "1/2", "Running", "2", "<unknown>", "10.0.0.1", "n1", "<none>", "<none>"])
        );
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(table["columnDefinitions"][5]["priority"], 1);
    }
}
