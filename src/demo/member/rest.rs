//! The REST interface over the store: lists, objects, and what is done to them.

mod delete;

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Limited, StreamBody};
use serde_json::{Value, json};
use upgrade_aware_proxy::{BoxError, ResponseBody};

use super::{
    clock,
    failure::Failure,
    lifecycle,
    negotiate::{self, Form},
    patch, protobuf,
    request::{Query, ResourcePath},
    resources::{self, Resource},
    selectors::Selector,
    store::{Key, Outcome, Store},
    table::{self, Include},
    watch,
};

/// The longest body, as a kube-apiserver has it.
const LONGEST_BODY: usize = 3 << 20;
/// Bytes of a list that are serialised at a time.
const CHUNK: usize = 64 << 10;

type Answer = Result<Response<ResponseBody>, Failure>;

/// A request for objects, taken apart.
pub(crate) struct Call<'a> {
    pub(crate) store: &'a Arc<Store>,
    pub(crate) path: ResourcePath,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
}

impl Call<'_> {
    /// Answers it.
    pub(crate) async fn answer<B>(self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let method = request.method().clone();
        let body = read(request.into_body()).await?;
        let name = self.path.name.as_deref();
        match (method, name, self.path.subresource.as_deref()) {
            (Method::GET | Method::HEAD, None, None) if self.query.flag("watch") => self.watch(),
            (Method::GET | Method::HEAD, None, None) => self.list(),
            (Method::POST, None, None) => self.create(&self.parse(&body)?),
            (Method::DELETE, None, None) => self.delete_collection(&body),
            (Method::GET | Method::HEAD, Some(name), None | Some("status")) => {
                let object = self.get(name)?;
                self.one(StatusCode::OK, &object)
            }
            (Method::PUT, Some(name), None) => self.replace(name, self.parse(&body)?),
            (Method::PATCH, Some(name), None) => self.patch(name, &body),
            (Method::DELETE, Some(name), None) => self.delete(name, &body),
            (Method::PUT, Some(name), Some("status")) if self.path.resource.status => {
                let update = self.parse(&body)?;
                self.rewrite(name, |before| lifecycle::with_status(self.path.resource, before, &update))
            }
            (Method::PATCH, Some(name), Some("status")) if self.path.resource.status => self
                .rewrite(name, |before| {
                    lifecycle::with_status(self.path.resource, before, &self.patched(before, &body)?)
                }),
            (method, Some(name), Some("scale")) if self.path.resource.scale => {
                self.scale(&method, name, &body)
            }
            (_, Some(_), Some("finalize")) => Err(Failure::method_not_allowed()),
            (_, _, Some(_)) => Err(Failure::no_such_path()),
            _ => Err(Failure::method_not_allowed()),
        }
    }

    fn namespace(&self) -> &str {
        self.path.namespace.as_deref().unwrap_or_default()
    }

    fn get(&self, name: &str) -> Result<Arc<Value>, Failure> {
        let found = self.store.get(self.path.resource, self.namespace(), name);
        found.ok_or_else(|| Failure::not_found(self.path.resource, name))
    }

    fn selector(&self) -> Result<Selector, Failure> {
        let fields = self.query.text("fieldSelector");
        Selector::parse(self.path.resource, self.query.text("labelSelector"), fields)
    }

    fn list(&self) -> Answer {
        let selector = self.selector()?;
        if let ("Exact", Some(wanted)) =
            (self.query.text("resourceVersionMatch"), self.query.number("resourceVersion")?)
        {
            self.store.reaches(wanted)?;
        }
        let (mut objects, mut version) = self.store.list(self.path.resource, self.path.namespace.as_deref());
        objects.retain(|object| selector.matches(object));
        if let Some((of, after)) = Continue::read(self.query.text("continue"))? {
            self.store.reaches(of)?;
            version = of;
            objects.retain(|object| key(object) > after);
        }
        let limit = self.query.number("limit")?.filter(|limit| *limit > 0);
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok())
            && objects.len() > limit
        {
            let rest = objects.split_off(limit);
            if let Some(last) = objects.last() {
                metadata["continue"] = json!(Continue::write(version, key(last)));
            }
            if selector.is_empty() {
                metadata["remainingItemCount"] = json!(rest.len());
            }
        }
        match negotiate::form(&self.headers)? {
            Form::Table => {
                let include = Include::of(self.query.text("includeObject"));
                let objects: Vec<&Value> = objects.iter().map(Arc::as_ref).collect();
                let mut table = table::table(self.path.resource, &objects, include, true);
                table["metadata"] = metadata;
                Ok(json_response(StatusCode::OK, &table))
            }
            Form::PartialMetadata => {
                let items: Vec<Value> = objects.iter().map(|object| table::partial(object)).collect();
                let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata, "items": items});
                Ok(json_response(StatusCode::OK, &list))
            }
            Form::Object => Ok(streamed_list(self.path.resource, &metadata, objects)),
        }
    }

    fn watch(&self) -> Answer {
        let resource = self.path.resource;
        let options = watch::Options {
            resource,
            namespace: self.path.namespace.clone(),
            selector: self.selector()?,
            version: self.query.number("resourceVersion")?,
            bookmarks: self.query.flag("allowWatchBookmarks"),
            initial_events: self.query.flag("sendInitialEvents"),
            timeout: self.query.number("timeoutSeconds")?.map(Duration::from_secs),
        };
        let form = negotiate::form(&self.headers)?;
        let include = Include::of(self.query.text("includeObject"));
        let mut first = true;
        let body = watch::body(self.store, options, move |object| match form {
            Form::Object => object.clone(),
            Form::PartialMetadata => table::partial(object),
            Form::Table => table::table(resource, &[object], include, std::mem::take(&mut first)),
        })?;
        let mut response = Response::new(body);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }

    fn create(&self, object: &Value) -> Answer {
        let resource = self.path.resource;
        if resource.namespaced && self.path.namespace.is_none() {
            return Err(Failure::method_not_allowed());
        }
        if resource.namespaced && self.store.get(&resources::NAMESPACES, "", self.namespace()).is_none() {
            return Err(Failure::not_found(&resources::NAMESPACES, self.namespace()));
        }
        let mut object = lifecycle::created(resource, self.path.namespace.as_deref(), object.clone())?;
        patch::record_update(&Value::Null, &mut object, &self.manager(), &clock::now());
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let created = self.store.change(resource, self.namespace(), &name, |before| match before {
            Some(_) => Err(Failure::already_exists(resource, &name)),
            None if self.query.dry_run() => Ok(Outcome::Keep),
            None => Ok(Outcome::Put(object.clone())),
        })?;
        self.one(StatusCode::CREATED, created.as_deref().unwrap_or(&object))
    }

    fn replace(&self, name: &str, update: Value) -> Answer {
        self.rewrite(name, |before| {
            let mut after = lifecycle::updated(self.path.resource, before, update)?;
            patch::record_update(before, &mut after, &self.manager(), &clock::now());
            Ok(after)
        })
    }

    fn patch(&self, name: &str, body: &[u8]) -> Answer {
        if self.content_type() == "application/apply-patch+yaml" {
            return self.apply(name, body);
        }
        self.rewrite(name, |before| {
            let mut after = lifecycle::updated(self.path.resource, before, self.patched(before, body)?)?;
            patch::record_update(before, &mut after, &self.manager(), &clock::now());
            Ok(after)
        })
    }

    fn patched(&self, before: &Value, body: &[u8]) -> Result<Value, Failure> {
        const ACCEPTED: &str = "application/json-patch+json, application/merge-patch+json, \
                                application/strategic-merge-patch+json, application/apply-patch+yaml";
        let patch = parse_body(body)?;
        let patched = match self.content_type() {
            "application/json-patch+json" => patch::json_patch(before, &patch),
            "application/merge-patch+json" => patch::merge_patch(before, &patch),
            "application/strategic-merge-patch+json" => {
                patch::strategic(self.path.resource.kind, before, &patch)
            }
            other => return Err(Failure::unsupported_media_type(other, ACCEPTED)),
        };
        let name = before["metadata"]["name"].as_str().unwrap_or_default();
        patched.map_err(|error| Failure::invalid(self.path.resource, name, &error.to_string()))
    }

    /// Server-side apply: creates what is not there.
    fn apply(&self, name: &str, body: &[u8]) -> Answer {
        let resource = self.path.resource;
        let applied = parse_body(body)?;
        let manager = self.query.text("fieldManager");
        if manager.is_empty() {
            return Err(Failure::bad_request(
                "PatchOptions: fieldManager: Required value: is required for apply patch",
            ));
        }
        let mut created = false;
        let mut answer = Value::Null;
        let stored = self.store.change(resource, self.namespace(), name, |before| {
            let merged =
                patch::apply(before, &applied, manager, self.query.flag("force"), None, &clock::now());
            let merged = merged.map_err(|error| apply_failure(resource, name, &error))?;
            let mut after = match before {
                Some(before) => lifecycle::updated(resource, before, merged)?,
                None => {
                    created = true;
                    let mut merged = merged;
                    merged["metadata"]["name"] = json!(name);
                    lifecycle::created(resource, self.path.namespace.as_deref(), merged)?
                }
            };
            if before.is_none() {
                after["metadata"]["name"] = json!(name);
            }
            answer = after.clone();
            Ok::<_, Failure>(if self.query.dry_run() { Outcome::Keep } else { Outcome::Put(after) })
        })?;
        let code = if created { StatusCode::CREATED } else { StatusCode::OK };
        let stored = stored.filter(|_| !self.query.dry_run());
        self.one(code, stored.as_deref().unwrap_or(&answer))
    }

    fn scale(&self, method: &Method, name: &str, body: &[u8]) -> Answer {
        match *method {
            Method::GET | Method::HEAD => {
                let object = self.get(name)?;
                self.one(StatusCode::OK, &scale_of(&object))
            }
            Method::PUT | Method::PATCH => {
                let mut scaled = Value::Null;
                let change = |before: &Value| {
                    let scale = if *method == Method::PUT {
                        parse_body(body)?
                    } else {
                        self.patched(&scale_of(before), body)?
                    };
                    let mut after = before.clone();
                    after["spec"]["replicas"] = json!(scale["spec"]["replicas"].as_u64().unwrap_or(0));
                    lifecycle::updated(self.path.resource, before, after)
                };
                self.rewrite_with(name, change, |object| scaled = scale_of(object))?;
                self.one(StatusCode::OK, &scaled)
            }
            _ => Err(Failure::method_not_allowed()),
        }
    }

    fn rewrite(&self, name: &str, change: impl FnOnce(&Value) -> Result<Value, Failure>) -> Answer {
        let mut answer = Value::Null;
        self.rewrite_with(name, change, |object| answer = object.clone())?;
        self.one(StatusCode::OK, &answer)
    }

    fn rewrite_with(
        &self,
        name: &str,
        change: impl FnOnce(&Value) -> Result<Value, Failure>,
        show: impl FnOnce(&Value),
    ) -> Result<(), Failure> {
        let resource = self.path.resource;
        let mut planned = Value::Null;
        let stored = self.store.change(resource, self.namespace(), name, |before| {
            let after = change(before.ok_or_else(|| Failure::not_found(resource, name))?)?;
            planned = after.clone();
            Ok::<_, Failure>(match self.query.dry_run() {
                true => Outcome::Keep,
                false if lifecycle::is_released(&after) => Outcome::Delete,
                false => Outcome::Put(after),
            })
        })?;
        let stored = stored.filter(|_| !self.query.dry_run() && !lifecycle::is_released(&planned));
        show(stored.as_deref().unwrap_or(&planned));
        Ok(())
    }

    fn one(&self, code: StatusCode, object: &Value) -> Answer {
        Ok(match negotiate::form(&self.headers)? {
            Form::Object => json_response(code, object),
            Form::PartialMetadata => json_response(code, &table::partial(object)),
            Form::Table => {
                let include = Include::of(self.query.text("includeObject"));
                let mut table = table::table(self.path.resource, &[object], include, true);
                table["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
                json_response(code, &table)
            }
        })
    }

    fn parse(&self, body: &[u8]) -> Result<Value, Failure> {
        match self.content_type() {
            "" | "application/json" | "application/yaml" => parse_body(body),
            protobuf::MEDIA_TYPE => {
                protobuf::object(body).map_err(|error| Failure::bad_request(error.to_string()))
            }
            other => Err(Failure::unsupported_media_type(other, "application/json, application/yaml")),
        }
    }

    fn content_type(&self) -> &str {
        let value =
            self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim()
    }

    /// The field manager: what the request says, else the client's program.
    fn manager(&self) -> String {
        let named = self.query.text("fieldManager");
        if !named.is_empty() {
            return named.to_owned();
        }
        let agent =
            self.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("unknown");
        agent.split('/').next().unwrap_or("unknown").to_owned()
    }
}

fn apply_failure(resource: &Resource, name: &str, error: &patch::ApplyError) -> Failure {
    match error {
        patch::ApplyError::Conflict { .. } => {
            Failure::new(StatusCode::CONFLICT, "Conflict", format!("Apply failed with 1 conflict: {error}"))
        }
        other => Failure::invalid(resource, name, &other.to_string()),
    }
}

/// Where a list goes on.
struct Continue;

impl Continue {
    fn write(version: u64, last: Key) -> String {
        URL_SAFE_NO_PAD.encode(json!([version, last.0, last.1]).to_string())
    }

    fn read(token: &str) -> Result<Option<(u64, Key)>, Failure> {
        if token.is_empty() {
            return Ok(None);
        }
        let bad = || Failure::bad_request("continue key is not valid: the list must begin again without it");
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?;
        let (version, namespace, name) = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        Ok(Some((version, (namespace, name))))
    }
}

fn key(object: &Value) -> Key {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

fn scale_of(object: &Value) -> Value {
    let labels = object["spec"]["selector"]["matchLabels"].as_object();
    let selector: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let metadata = &object["metadata"];
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": object["spec"]["replicas"].as_u64().unwrap_or(0)},
        "status": {"replicas": object["status"]["replicas"].as_u64().unwrap_or(0), "selector": selector.join(",")},
    })
}

/// Serialises a list while it is sent, so that a large one does not stand in memory twice.
fn streamed_list(resource: &Resource, metadata: &Value, objects: Vec<Arc<Value>>) -> Response<ResponseBody> {
    let head = format!(
        r#"{{"kind":"{}List","apiVersion":"{}","metadata":{metadata},"items":["#,
        resource.kind,
        resource.api_version()
    );
    let state = (Some(head), VecDeque::from(objects), false);
    let chunks = stream::unfold(state, |(mut head, mut objects, ended)| async move {
        if ended {
            return None;
        }
        let mut chunk = BytesMut::with_capacity(CHUNK);
        let mut first = false;
        if let Some(head) = head.take() {
            chunk.put(head.as_bytes());
            first = true;
        }
        while let Some(object) = objects.pop_front() {
            if !std::mem::take(&mut first) {
                chunk.put_u8(b',');
            }
            chunk.put(object.to_string().as_bytes());
            if chunk.len() >= CHUNK {
                break;
            }
        }
        let ended = objects.is_empty();
        if ended {
            chunk.put(&b"]}\n"[..]);
        }
        Some((Ok::<_, Infallible>(Frame::data(chunk.freeze())), (None, objects, ended)))
    });
    let mut response = Response::new(ResponseBody::new(StreamBody::new(Box::pin(chunks))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A JSON answer.
pub(crate) fn json_response(code: StatusCode, value: &Value) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(value.to_string()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Reads a body to its end.
///
/// # Errors
/// 413 when it is too long, 400 when it breaks off.
pub(crate) async fn read<B>(body: B) -> Result<Bytes, Failure>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    match Limited::new(body, LONGEST_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            let message = format!("Request entity too large: limit is {LONGEST_BODY}");
            Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message))
        }
        Err(error) => Err(Failure::bad_request(format!("the body broke off: {error}"))),
    }
}

/// JSON, or the YAML that JSON is.
///
/// # Errors
/// 400.
pub(crate) fn parse_body(body: &[u8]) -> Result<Value, Failure> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let text = std::str::from_utf8(body).map_err(|_| Failure::bad_request("the body is not UTF-8"))?;
    serde_saphyr::from_str(text).map_err(|error| {
        Failure::bad_request(format!("the body is neither JSON nor YAML: {}", error.without_snippet()))
    })
}
