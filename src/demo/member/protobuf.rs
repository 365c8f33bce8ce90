//! The protobuf that kubectl's typed commands send: `kubectl create configmap` and its like, and the reviews of
//! `kubectl auth`.
//!
//! A reader of the wire format with the messages that these commands use, by the field numbers of Kubernetes' published
//! `generated.proto` files. A field that is not known here is refused, so that nothing is lost in silence.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";

/// A body that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtobufError {
    /// Not Kubernetes' envelope, or cut short.
    #[error("the body is not a protobuf message of Kubernetes")]
    Malformed,
    /// A kind whose messages are not known here.
    #[error("{0} is not understood as protobuf here; send it as JSON (kubectl apply does)")]
    Kind(String),
    /// A field that is not known here.
    #[error("field {0} of {1} is not understood as protobuf here; send it as JSON (kubectl apply does)")]
    Field(u64, &'static str),
}

/// A message and its fields by number.
struct Message {
    name: &'static str,
    fields: &'static [(u64, &'static str, Type)],
}

enum Type {
    Text,
    Number,
    Flag,
    Texts,
    TextMap,
    BytesMap,
    QuantityMap,
    IntOrText,
    One(&'static Message),
    Many(&'static Message),
    /// What clients leave empty and the server fills in.
    Ignored,
}

use Type::{BytesMap, Flag, Ignored, IntOrText, Many, Number, One, QuantityMap, Text, TextMap, Texts};

static OWNER: Message = Message {
    name: "OwnerReference",
    fields: &[
        (5, "apiVersion", Text),
        (1, "kind", Text),
        (3, "name", Text),
        (4, "uid", Text),
        (6, "controller", Flag),
        (7, "blockOwnerDeletion", Flag),
    ],
};
static METADATA: Message = Message {
    name: "ObjectMeta",
    fields: &[
        (1, "name", Text),
        (2, "generateName", Text),
        (3, "namespace", Text),
        (4, "selfLink", Ignored),
        (5, "uid", Text),
        (6, "resourceVersion", Text),
        (7, "generation", Ignored),
        (8, "creationTimestamp", Ignored),
        (11, "labels", TextMap),
        (12, "annotations", TextMap),
        (13, "ownerReferences", Many(&OWNER)),
        (14, "finalizers", Texts),
    ],
};
static CONFIG_MAP: Message = Message {
    name: "ConfigMap",
    fields: &[
        (1, "metadata", One(&METADATA)),
        (2, "data", TextMap),
        (3, "binaryData", BytesMap),
        (4, "immutable", Flag),
    ],
};
static SECRET: Message = Message {
    name: "Secret",
    fields: &[
        (1, "metadata", One(&METADATA)),
        (2, "data", BytesMap),
        (3, "type", Text),
        (4, "stringData", TextMap),
        (5, "immutable", Flag),
    ],
};
static NAMESPACE_SPEC: Message = Message { name: "NamespaceSpec", fields: &[(1, "finalizers", Texts)] };
static NAMESPACE: Message = Message {
    name: "Namespace",
    fields: &[(1, "metadata", One(&METADATA)), (2, "spec", One(&NAMESPACE_SPEC)), (3, "status", Ignored)],
};
static LOCAL_REFERENCE: Message = Message { name: "LocalObjectReference", fields: &[(1, "name", Text)] };
static SERVICE_ACCOUNT: Message = Message {
    name: "ServiceAccount",
    fields: &[
        (1, "metadata", One(&METADATA)),
        (3, "imagePullSecrets", Many(&LOCAL_REFERENCE)),
        (4, "automountServiceAccountToken", Flag),
    ],
};
static SERVICE_PORT: Message = Message {
    name: "ServicePort",
    fields: &[
        (1, "name", Text),
        (2, "protocol", Text),
        (3, "port", Number),
        (4, "targetPort", IntOrText),
        (5, "nodePort", Number),
        (6, "appProtocol", Text),
    ],
};
static SERVICE_SPEC: Message = Message {
    name: "ServiceSpec",
    fields: &[
        (1, "ports", Many(&SERVICE_PORT)),
        (2, "selector", TextMap),
        (3, "clusterIP", Text),
        (4, "type", Text),
        (5, "externalIPs", Texts),
        (7, "sessionAffinity", Text),
        (8, "loadBalancerIP", Text),
        (10, "externalName", Text),
        (11, "externalTrafficPolicy", Text),
        (12, "healthCheckNodePort", Number),
        (13, "publishNotReadyAddresses", Flag),
        (17, "ipFamilyPolicy", Text),
        (18, "clusterIPs", Texts),
        (19, "ipFamilies", Texts),
        (22, "internalTrafficPolicy", Text),
    ],
};
static SERVICE: Message = Message {
    name: "Service",
    fields: &[(1, "metadata", One(&METADATA)), (2, "spec", One(&SERVICE_SPEC)), (3, "status", Ignored)],
};
static CONTAINER_PORT: Message = Message {
    name: "ContainerPort",
    fields: &[
        (1, "name", Text),
        (2, "hostPort", Number),
        (3, "containerPort", Number),
        (4, "protocol", Text),
        (5, "hostIP", Text),
    ],
};
static ENVIRONMENT: Message = Message { name: "EnvVar", fields: &[(1, "name", Text), (2, "value", Text)] };
static RESOURCES: Message = Message {
    name: "ResourceRequirements",
    fields: &[(1, "limits", QuantityMap), (2, "requests", QuantityMap)],
};
static CONTAINER: Message = Message {
    name: "Container",
    fields: &[
        (1, "name", Text),
        (2, "image", Text),
        (3, "command", Texts),
        (4, "args", Texts),
        (5, "workingDir", Text),
        (6, "ports", Many(&CONTAINER_PORT)),
        (7, "env", Many(&ENVIRONMENT)),
        (8, "resources", One(&RESOURCES)),
        (13, "terminationMessagePath", Text),
        (14, "imagePullPolicy", Text),
        (16, "stdin", Flag),
        (17, "stdinOnce", Flag),
        (18, "tty", Flag),
        (20, "terminationMessagePolicy", Text),
    ],
};
static POD_SPEC: Message = Message {
    name: "PodSpec",
    fields: &[
        (2, "containers", Many(&CONTAINER)),
        (3, "restartPolicy", Text),
        (4, "terminationGracePeriodSeconds", Number),
        (6, "dnsPolicy", Text),
        (7, "nodeSelector", TextMap),
        (8, "serviceAccountName", Text),
        (9, "serviceAccount", Text),
        (10, "nodeName", Text),
        (11, "hostNetwork", Flag),
        (12, "hostPID", Flag),
        (13, "hostIPC", Flag),
        (15, "imagePullSecrets", Many(&LOCAL_REFERENCE)),
        (16, "hostname", Text),
        (17, "subdomain", Text),
        (19, "schedulerName", Text),
        (20, "initContainers", Many(&CONTAINER)),
        (24, "priorityClassName", Text),
    ],
};
static POD_TEMPLATE: Message = Message {
    name: "PodTemplateSpec",
    fields: &[(1, "metadata", One(&METADATA)), (2, "spec", One(&POD_SPEC))],
};
static POD: Message = Message {
    name: "Pod",
    fields: &[(1, "metadata", One(&METADATA)), (2, "spec", One(&POD_SPEC)), (3, "status", Ignored)],
};
static REQUIREMENT: Message = Message {
    name: "LabelSelectorRequirement",
    fields: &[(1, "key", Text), (2, "operator", Text), (3, "values", Texts)],
};
static LABEL_SELECTOR: Message = Message {
    name: "LabelSelector",
    fields: &[(1, "matchLabels", TextMap), (2, "matchExpressions", Many(&REQUIREMENT))],
};
static ROLLING_UPDATE: Message = Message {
    name: "RollingUpdateDeployment",
    fields: &[(1, "maxUnavailable", IntOrText), (2, "maxSurge", IntOrText)],
};
static STRATEGY: Message = Message {
    name: "DeploymentStrategy",
    fields: &[(1, "type", Text), (2, "rollingUpdate", One(&ROLLING_UPDATE))],
};
static DEPLOYMENT_SPEC: Message = Message {
    name: "DeploymentSpec",
    fields: &[
        (1, "replicas", Number),
        (2, "selector", One(&LABEL_SELECTOR)),
        (3, "template", One(&POD_TEMPLATE)),
        (4, "strategy", One(&STRATEGY)),
        (5, "minReadySeconds", Number),
        (6, "revisionHistoryLimit", Number),
        (7, "paused", Flag),
        (9, "progressDeadlineSeconds", Number),
    ],
};
static DEPLOYMENT: Message = Message {
    name: "Deployment",
    fields: &[(1, "metadata", One(&METADATA)), (2, "spec", One(&DEPLOYMENT_SPEC)), (3, "status", Ignored)],
};
static SELF_REVIEW: Message =
    Message { name: "SelfSubjectReview", fields: &[(1, "metadata", One(&METADATA)), (2, "status", Ignored)] };
/// Everybody may do everything, so what is asked about does not matter.
static ACCESS_REVIEW: Message = Message {
    name: "SelfSubjectAccessReview",
    fields: &[(1, "metadata", One(&METADATA)), (2, "spec", Ignored), (3, "status", Ignored)],
};
static RULES_REVIEW: Message = Message {
    name: "SelfSubjectRulesReview",
    fields: &[(1, "metadata", One(&METADATA)), (2, "spec", Ignored), (3, "status", Ignored)],
};

static KINDS: [&Message; 10] = [
    &CONFIG_MAP,
    &SECRET,
    &NAMESPACE,
    &SERVICE_ACCOUNT,
    &SERVICE,
    &POD,
    &DEPLOYMENT,
    &SELF_REVIEW,
    &ACCESS_REVIEW,
    &RULES_REVIEW,
];

/// The object in a body, as its JSON would be.
///
/// # Errors
/// [`ProtobufError`].
pub(crate) fn object(body: &[u8]) -> Result<Value, ProtobufError> {
    let envelope = body.strip_prefix(MAGIC).ok_or(ProtobufError::Malformed)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields(envelope) {
        match field? {
            (1, Wire::Bytes(type_meta)) => {
                for field in Fields(type_meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => api_version = self::text(text)?,
                        (2, Wire::Bytes(text)) => kind = self::text(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let message =
        KINDS.iter().find(|message| message.name == kind).ok_or_else(|| ProtobufError::Kind(kind.clone()))?;
    let mut object = message.read(raw)?;
    object.insert("apiVersion".to_owned(), json!(api_version));
    object.insert("kind".to_owned(), json!(kind));
    Ok(Value::Object(object))
}

impl Message {
    /// Leaves out what is empty, as the JSON of Go's `omitempty` does.
    fn read(&self, bytes: &[u8]) -> Result<Map<String, Value>, ProtobufError> {
        let mut object = Map::new();
        for field in Fields(bytes) {
            let (number, wire) = field?;
            let known = self.fields.iter().find(|(of, ..)| *of == number);
            let (_, name, kind) = known.ok_or(ProtobufError::Field(number, self.name))?;
            match (kind, wire) {
                (Ignored, _) | (Text, Wire::Bytes([])) => {}
                (Text, Wire::Bytes(bytes)) => drop(object.insert((*name).to_owned(), json!(text(bytes)?))),
                // Also numbers of zero: those that a client sends it has set.
                (Number, Wire::Number(number)) => {
                    drop(object.insert((*name).to_owned(), json!(number.cast_signed())))
                }
                (Flag, Wire::Number(0)) => {}
                (Flag, Wire::Number(_)) => drop(object.insert((*name).to_owned(), json!(true))),
                (IntOrText, Wire::Bytes(bytes)) => {
                    drop(object.insert((*name).to_owned(), int_or_text(bytes)?))
                }
                (Texts, Wire::Bytes(bytes)) => push(&mut object, name, json!(text(bytes)?)),
                (Many(message), Wire::Bytes(bytes)) => {
                    push(&mut object, name, Value::Object(message.read(bytes)?))
                }
                (One(message), Wire::Bytes(bytes)) => {
                    let inner = message.read(bytes)?;
                    if !inner.is_empty() {
                        object.insert((*name).to_owned(), Value::Object(inner));
                    }
                }
                (TextMap | BytesMap | QuantityMap, Wire::Bytes(bytes)) => {
                    let (key, value) = entry(bytes)?;
                    let value = match kind {
                        BytesMap => STANDARD.encode(value),
                        QuantityMap => Fields(value).next().map_or_else(
                            || Ok(String::new()),
                            |field| match field? {
                                (1, Wire::Bytes(bytes)) => text(bytes),
                                _ => Err(ProtobufError::Malformed),
                            },
                        )?,
                        _ => text(value)?,
                    };
                    let map = object.entry(*name).or_insert_with(|| json!({}));
                    map[key] = json!(value);
                }
                _ => return Err(ProtobufError::Malformed),
            }
        }
        Ok(object)
    }
}

fn push(object: &mut Map<String, Value>, name: &str, item: Value) {
    if let Some(items) = object.entry(name).or_insert_with(|| json!([])).as_array_mut() {
        items.push(item);
    }
}

fn entry(bytes: &[u8]) -> Result<(String, &[u8]), ProtobufError> {
    let (mut key, mut value) = (String::new(), &[][..]);
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(bytes)) => key = text(bytes)?,
            (2, Wire::Bytes(bytes)) => value = bytes,
            _ => return Err(ProtobufError::Malformed),
        }
    }
    Ok((key, value))
}

fn int_or_text(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number, mut string) = (false, 0, String::new());
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Number(kind)) => is_text = kind == 1,
            (2, Wire::Number(value)) => number = value.cast_signed(),
            (3, Wire::Bytes(bytes)) => string = text(bytes)?,
            _ => return Err(ProtobufError::Malformed),
        }
    }
    Ok(if is_text { json!(string) } else { json!(number) })
}

fn text(bytes: &[u8]) -> Result<String, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Malformed)
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message in the order they were written.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Wire::Bytes(bytes)
            }
            _ => return None,
        };
        Some((tag >> 3, wire))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), ProtobufError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or(ProtobufError::Malformed))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        field.extend(bytes);
        field
    }

    fn envelope(kind: &str, raw: &[u8]) -> Vec<u8> {
        let type_meta = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &type_meta), field(2, raw)].concat()
    }

    #[test]
    fn a_config_map_reads_as_its_json() {
        let metadata = [field(1, b"a"), field(2, b""), field(8, b"")].concat();
        let entry = [field(1, b"k"), field(2, b"v")].concat();
        let body = envelope("ConfigMap", &[field(1, &metadata), field(2, &entry)].concat());
        assert_eq!(
            object(&body).unwrap(),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}})
        );
    }

    #[test]
    fn what_is_not_known_is_refused_and_not_lost() {
        assert_eq!(
            object(&envelope("ConfigMap", &field(9, b"x"))),
            Err(ProtobufError::Field(9, "ConfigMap"))
        );
        assert_eq!(object(&envelope("Widget", b"")), Err(ProtobufError::Kind("Widget".into())));
        assert_eq!(object(b"{}"), Err(ProtobufError::Malformed));
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_an_error_at_worst(raw in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = object(&envelope("Deployment", &raw));
            let _ = object(&[MAGIC, &raw].concat());
        }
    }
}
