//! OpenAPI v3 of what the member serves, from the types of k8s-openapi: what `kubectl explain` prints and `kubectl apply`
//! validates against.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::LazyLock,
};

use bytes::Bytes;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        authentication::v1::SelfSubjectReview,
        authorization::v1::{SelfSubjectAccessReview, SelfSubjectRulesReview},
        core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, Secret, Service, ServiceAccount},
    },
    apimachinery::pkg::apis::meta::v1::{DeleteOptions, Status},
};
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::resources::{self, Resource};

/// The groups that have a document.
const DOCUMENTS: [&str; 4] =
    ["api/v1", "apis/apps/v1", "apis/authentication.k8s.io/v1", "apis/authorization.k8s.io/v1"];

/// Fields that are merged by key, as the real documents say it: type, field, key.
const MERGED: [(&str, &str, &str); 13] = [
    ("PodSpec", "containers", "name"),
    ("PodSpec", "initContainers", "name"),
    ("PodSpec", "ephemeralContainers", "name"),
    ("PodSpec", "volumes", "name"),
    ("PodSpec", "imagePullSecrets", "name"),
    ("PodSpec", "hostAliases", "ip"),
    ("PodSpec", "topologySpreadConstraints", "topologyKey"),
    ("Container", "env", "name"),
    ("Container", "ports", "containerPort"),
    ("Container", "volumeMounts", "mountPath"),
    ("Container", "volumeDevices", "devicePath"),
    ("ServiceSpec", "ports", "port"),
    ("ServiceAccount", "secrets", "name"),
];

static BUILT: LazyLock<HashMap<&'static str, Bytes>> =
    LazyLock::new(|| DOCUMENTS.iter().map(|name| (*name, Bytes::from(build(name).to_string()))).collect());

/// `/openapi/v3`: where the documents are. The hash changes when a document does.
pub fn index() -> Value {
    let paths: Map<String, Value> = DOCUMENTS
        .iter()
        .map(|name| {
            let mut hasher = DefaultHasher::new();
            BUILT.get(name).hash(&mut hasher);
            let url = format!("/openapi/v3/{name}?hash={:016X}", hasher.finish());
            ((*name).to_owned(), json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

/// `/openapi/v3/{name}` as JSON, built once.
pub fn document(name: &str) -> Option<Bytes> {
    BUILT.get(name).cloned()
}

/// `/openapi/v2`: the definitions alone. kubectl up to 1.28 asks for protobuf, which is not served.
pub fn v2() -> Bytes {
    static V2: LazyLock<Bytes> = LazyLock::new(|| {
        let definitions: BTreeMap<String, Value> = DOCUMENTS.iter().flat_map(|name| schemas(name)).collect();
        let text = json!({
            "swagger": "2.0", "info": {"title": "Clusterway demo member", "version": "v1.33.0"}, "paths": {},
            "definitions": definitions,
        })
        .to_string();
        Bytes::from(text.replace("#/components/schemas/", "#/definitions/"))
    });
    V2.clone()
}

fn build(name: &str) -> Value {
    let mut paths = Map::new();
    for resource in resources::ALL.into_iter().filter(|resource| document_of(resource) == name) {
        add_paths(resource, &mut paths);
    }
    json!({
        "openapi": "3.0.0", "info": {"title": "Clusterway demo member", "version": "v1.33.0"}, "paths": paths,
        "components": {"schemas": schemas(name)},
    })
}

fn document_of(resource: &Resource) -> String {
    if resource.group.is_empty() {
        "api/v1".to_owned()
    } else {
        format!("apis/{}/{}", resource.group, resource.version)
    }
}

/// Every schema of a document, by the name that Kubernetes gives it.
fn schemas(name: &str) -> BTreeMap<String, Value> {
    let settings = SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = false);
    let mut generator = settings.into_generator();
    match name {
        "api/v1" => {
            generator.subschema_for::<Namespace>();
            generator.subschema_for::<Node>();
            generator.subschema_for::<Pod>();
            generator.subschema_for::<ConfigMap>();
            generator.subschema_for::<Secret>();
            generator.subschema_for::<Service>();
            generator.subschema_for::<ServiceAccount>();
            generator.subschema_for::<Event>();
            generator.subschema_for::<Endpoints>();
        }
        "apis/apps/v1" => {
            generator.subschema_for::<Deployment>();
            generator.subschema_for::<ReplicaSet>();
            generator.subschema_for::<StatefulSet>();
            generator.subschema_for::<DaemonSet>();
        }
        "apis/authentication.k8s.io/v1" => drop(generator.subschema_for::<SelfSubjectReview>()),
        _ => {
            generator.subschema_for::<SelfSubjectAccessReview>();
            generator.subschema_for::<SelfSubjectRulesReview>();
        }
    }
    generator.subschema_for::<Status>();
    generator.subschema_for::<DeleteOptions>();
    finish(generator)
}

fn finish(mut generator: SchemaGenerator) -> BTreeMap<String, Value> {
    let definitions = generator.take_definitions(true);
    definitions.into_iter().map(|(name, schema)| (name.clone(), annotate(&name, schema))).collect()
}

fn annotate(name: &str, mut schema: Value) -> Value {
    let kind = name.rsplit('.').next().unwrap_or_default();
    for (_, field, key) in MERGED.iter().filter(|(of, ..)| *of == kind) {
        let property = &mut schema["properties"][*field];
        if property.is_object() {
            property["x-kubernetes-patch-merge-key"] = json!(key);
            property["x-kubernetes-patch-strategy"] = json!("merge");
            property["x-kubernetes-list-type"] = json!("map");
            property["x-kubernetes-list-map-keys"] = json!([key]);
        }
    }
    if let Some(resource) = resources::ALL.into_iter().find(|resource| {
        let group = if resource.group.is_empty() { "core" } else { resource.group };
        name == format!("io.k8s.api.{group}.{}.{}", resource.version, resource.kind)
    }) {
        schema["x-kubernetes-group-version-kind"] = json!([kind_of(resource)]);
    }
    schema
}

fn kind_of(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

fn add_paths(resource: &Resource, paths: &mut Map<String, Value>) {
    let group = if resource.group.is_empty() { "core" } else { resource.group };
    let schema = format!("#/components/schemas/io.k8s.api.{group}.{}.{}", resource.version, resource.kind);
    let content = json!({"application/json": {"schema": {"$ref": schema}}});
    let operation = |action: &str, body: Option<&[&str]>| {
        let mut operation = json!({
            "operationId": format!("{action}{}", resource.kind), "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": kind_of(resource),
            "responses": {"200": {"description": "OK", "content": content}},
        });
        if let Some(media_types) = body {
            let types: Map<String, Value> = media_types
                .iter()
                .map(|media_type| ((*media_type).to_owned(), json!({"schema": {"$ref": schema}})))
                .collect();
            operation["requestBody"] = json!({"content": types});
            operation["parameters"] = json!(["dryRun", "fieldManager", "fieldValidation"].map(|name| {
                json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}})
            }));
        }
        operation
    };
    let base = format!("/{}", document_of(resource));
    let collection = if resource.namespaced {
        format!("{base}/namespaces/{{namespace}}/{}", resource.plural)
    } else {
        format!("{base}/{}", resource.plural)
    };
    const JSON: &[&str] = &["application/json"];
    const PATCHES: &[&str] = &[
        "application/apply-patch+yaml",
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
    ];
    paths.insert(
        format!("{collection}/{{name}}"),
        json!({
            "get": operation("get", None), "put": operation("put", Some(JSON)), "patch": operation("patch", Some(PATCHES)),
            "delete": operation("delete", None),
        }),
    );
    paths.insert(collection, json!({"get": operation("list", None), "post": operation("post", Some(JSON))}));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_schema_with_its_fields() {
        for resource in resources::ALL {
            let document: Value = serde_json::from_slice(&document(&document_of(resource)).unwrap()).unwrap();
            let schemas = document["components"]["schemas"].as_object().unwrap();
            let of_kind = schemas
                .values()
                .find(|schema| schema["x-kubernetes-group-version-kind"] == json!([kind_of(resource)]));
            assert!(of_kind.unwrap()["properties"]["metadata"].is_object(), "{}", resource.kind);
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        for name in DOCUMENTS {
            let text = String::from_utf8(document(name).unwrap().to_vec()).unwrap();
            let document: Value = serde_json::from_str(&text).unwrap();
            for reference in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
                let target = reference.split('"').next().unwrap();
                assert!(document["components"]["schemas"][target].is_object(), "{name}: {target}");
            }
        }
    }

    #[test]
    fn containers_are_merged_by_name() {
        let document: Value = serde_json::from_slice(&document("apis/apps/v1").unwrap()).unwrap();
        let containers =
            &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert!(containers["description"].as_str().unwrap().contains("containers"));
    }
}
