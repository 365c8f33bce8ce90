//! Cluster Secrets in the format of KubeVela's cluster-gateway.
//!
//! The same Secret works in a folder of manifests and on a hub. One difference: a Secret without CA is verified with
//! the system's roots here, where cluster-gateway skips verification. Values of a Secret must never reach an error.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::SecretString;
use serde_json::{Map, Value};

use super::endpoint;
use crate::{
    clusters::{
        ClientCertificate, ClusterError, ClusterName, ClusterSpec, Credential, Definition, IdentityMode,
        TokenSource, Trust, Unusable, cluster,
    },
    manifests::Document,
};

/// The label that makes a Secret a cluster, and says what it authenticates with.
pub const CREDENTIAL_TYPE: &str = "cluster.core.oam.dev/cluster-credential-type";
/// The label for how the endpoint is reached.
pub const ENDPOINT_TYPE: &str = "cluster.core.oam.dev/cluster-endpoint-type";
/// The annotation for as whom callers arrive.
pub const IDENTITY: &str = "cluster.core.oam.dev/identity";

const NOT_A_STRING: &str = "it is not a string; quote it";

/// What of a cluster Secret cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// A key that is needed.
    #[error("{origin}: key {key:?} is missing or empty, and {needed_for} needs it")]
    Missing {
        /// Where the Secret stands.
        origin: String,
        /// The key.
        key: &'static str,
        /// What needs it.
        needed_for: String,
    },
    /// A key with a value that cannot be used.
    #[error("{origin}: {key:?}: {why}")]
    Invalid {
        /// Where the Secret stands.
        origin: String,
        /// The key, label or annotation.
        key: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// Keys that can be read and make no connection, or not together: a key that is not the certificate's, a token
    /// that no header can carry.
    #[error("{origin}: {why}")]
    Material {
        /// Where the Secret stands.
        origin: String,
        /// Which key, what is wrong and what to do.
        why: String,
    },
    /// Something that is meant, and that Clusterway does not do; or a choice that it does not know. Never guessed at,
    /// so no earlier version of the Secret stands in for it.
    #[error("{origin}: {key:?}: {why}")]
    Unsupported {
        /// Where the Secret stands.
        origin: String,
        /// The key, label or annotation.
        key: &'static str,
        /// What is not supported and what is.
        why: String,
    },
    /// It has no name, or one that cannot be a cluster's.
    #[error("{origin}: metadata.name: {why}")]
    Name {
        /// Where the Secret stands.
        origin: String,
        /// What is wrong.
        why: String,
    },
}

/// The cluster that `document` defines; `None` for everything that is not a cluster Secret.
///
/// # Errors
/// [`SecretError::Name`]: there is no name to list it under.
pub fn definition(document: &Document) -> Option<Result<Definition, SecretError>> {
    let read = read(document)?;
    Some(read.name.map(|name| match read.spec {
        Ok(spec) => Definition::Cluster(Box::new(spec)),
        Err(error) => Definition::Unusable(Unusable {
            name,
            defined_in: document.origin.clone(),
            reason: error.to_string(),
        }),
    }))
}

/// Whether `document`, if it is a cluster Secret, is a whole one.
///
/// # Errors
/// What is broken in it. That it asks for what is not supported is not broken.
pub fn check(document: &Document) -> Result<(), SecretError> {
    let Some(read) = read(document) else { return Ok(()) };
    read.name?;
    match read.spec {
        Ok(_) | Err(SecretError::Unsupported { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

struct Read {
    name: Result<ClusterName, SecretError>,
    spec: Result<ClusterSpec, SecretError>,
}

fn read(document: &Document) -> Option<Read> {
    let metadata = &document.value["metadata"];
    let is_cluster = document.kind == "Secret"
        && document.api_version == "v1"
        && metadata["labels"].get(CREDENTIAL_TYPE).is_some();
    if !is_cluster {
        return None;
    }
    let name = ClusterName::new(metadata["name"].as_str().unwrap_or_default())
        .map_err(|error| SecretError::Name { origin: document.origin.clone(), why: error.to_string() });
    let spec = name.clone().and_then(|name| Secret::new(document)?.spec(name));
    Some(Read { name, spec })
}

struct Secret<'a> {
    document: &'a Document,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

impl<'a> Secret<'a> {
    fn new(document: &'a Document) -> Result<Self, SecretError> {
        let labels = strings(document, "labels")?;
        let annotations = strings(document, "annotations")?;
        Ok(Self { document, labels, annotations })
    }

    fn spec(&self, name: ClusterName) -> Result<ClusterSpec, SecretError> {
        match self.labels.get(ENDPOINT_TYPE).map(String::as_str) {
            None | Some("Const") => {}
            Some(other) => {
                let why = format!("endpoint type {other:?} is not supported, only \"Const\" is");
                return Err(self.unsupported(ENDPOINT_TYPE, why));
            }
        }
        if self.text("proxy-url")?.is_some() {
            let why = "reaching a member through a proxy is not yet supported";
            return Err(self.unsupported("proxy-url", why));
        }
        let url = self.needed("endpoint", "a cluster")?;
        let spec = ClusterSpec {
            endpoint: endpoint(url.trim_end())
                .map_err(|error| self.invalid("endpoint", error.to_string()))?,
            server_name: self.text("tls-server-name")?.map(|name| name.trim().to_owned()),
            trust: self.trust()?,
            credential: self.credential()?,
            identity: self.identity()?,
            labels: self.labels.clone(),
            annotations: self.annotations.clone(),
            defined_in: self.document.origin.clone(),
            name,
        };
        let unusable = |error: ClusterError| SecretError::Material {
            origin: self.document.origin.clone(),
            why: error.to_string(),
        };
        cluster::check(&spec).map_err(unusable)?;
        Ok(spec)
    }

    fn trust(&self) -> Result<Trust, SecretError> {
        const SKIP: &str = "insecure-skip-tls-verify";
        let (key, bundle) = match self.bytes("ca.crt")? {
            Some(bundle) => ("ca.crt", Some(bundle)),
            None => ("ca", self.bytes("ca")?),
        };
        let skip = match self.text(SKIP)?.as_deref().map(str::trim) {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(self.invalid(SKIP, "write \"true\" or \"false\"")),
        };
        match bundle {
            Some(_) if skip => Err(self.invalid(SKIP, format!("it contradicts {key:?}: remove one of them"))),
            Some(bundle) => clusterway_certs::certificates(&bundle, key)
                .map(Trust::Authorities)
                .map_err(|error| self.invalid(key, error.to_string())),
            None if skip => Ok(Trust::DangerSkipVerification),
            None => Ok(Trust::SystemRoots),
        }
    }

    fn credential(&self) -> Result<Credential, SecretError> {
        let mut credential = Credential::default();
        match self.labels.get(CREDENTIAL_TYPE).map_or("", String::as_str) {
            // Without the key there is no credential; that is the cluster's to say when it is used.
            "ServiceAccountToken" => {
                credential.token =
                    self.text("token")?.map(|token| TokenSource::Inline(SecretString::from(token.trim())));
            }
            "X509Certificate" => {
                credential.certificate = self.certificate()?;
            }
            "Dynamic" => {
                let why = "credentials from commands (\"Dynamic\") are not yet supported";
                return Err(self.unsupported(CREDENTIAL_TYPE, why));
            }
            other => {
                let why = format!("{other:?} is none of \"ServiceAccountToken\" and \"X509Certificate\"");
                return Err(self.unsupported(CREDENTIAL_TYPE, why));
            }
        }
        Ok(credential)
    }

    fn certificate(&self) -> Result<Option<ClientCertificate>, SecretError> {
        let missing = |key, other: &str| SecretError::Missing {
            origin: self.document.origin.clone(),
            key,
            needed_for: format!("{other:?}"),
        };
        let (chain, key) = match (self.bytes("tls.crt")?, self.bytes("tls.key")?) {
            (None, None) => return Ok(None),
            (Some(chain), Some(key)) => (chain, key),
            (None, Some(_)) => return Err(missing("tls.crt", "tls.key")),
            (Some(_), None) => return Err(missing("tls.key", "tls.crt")),
        };
        let chain = clusterway_certs::certificates(&chain, "tls.crt")
            .map_err(|error| self.invalid("tls.crt", error.to_string()))?;
        let key = clusterway_certs::private_key(&key, "tls.key")
            .map_err(|error| self.invalid("tls.key", error.to_string()))?;
        Ok(Some(ClientCertificate { chain, key: key.into() }))
    }

    fn identity(&self) -> Result<IdentityMode, SecretError> {
        match self.annotations.get(IDENTITY).map(String::as_str) {
            None => Ok(IdentityMode::default()),
            Some("impersonate") => Ok(IdentityMode::Impersonate),
            Some("gateway") => Ok(IdentityMode::Gateway),
            Some("deny") => Ok(IdentityMode::Deny),
            Some(other) => Err(self.unsupported(
                IDENTITY,
                format!("{other:?} is none of \"impersonate\", \"gateway\" and \"deny\""),
            )),
        }
    }

    fn needed(&self, key: &'static str, needed_for: &str) -> Result<String, SecretError> {
        self.text(key)?.ok_or_else(|| SecretError::Missing {
            origin: self.document.origin.clone(),
            key,
            needed_for: needed_for.to_owned(),
        })
    }

    /// A value as text; `None` if it is absent or empty.
    fn text(&self, key: &str) -> Result<Option<String>, SecretError> {
        let Some(bytes) = self.bytes(key)? else { return Ok(None) };
        String::from_utf8(bytes).map(Some).map_err(|_| self.invalid(key, "it is not UTF-8"))
    }

    /// A value; `stringData` wins over `data`, as an API server merges them. `None` if it is absent or empty.
    fn bytes(&self, key: &str) -> Result<Option<Vec<u8>>, SecretError> {
        let bytes = match (self.field("stringData", key), self.field("data", key)) {
            (Some(Value::String(text)), _) => text.clone().into_bytes(),
            (None, Some(Value::String(encoded))) => {
                // kubectl and people wrap long lines.
                let compact: String = encoded.split_ascii_whitespace().collect();
                STANDARD
                    .decode(compact)
                    .map_err(|_| self.invalid(key, "it is not base64; plain text goes into stringData"))?
            }
            (None | Some(Value::Null), None | Some(Value::Null)) => return Ok(None),
            _ => return Err(self.invalid(key, NOT_A_STRING)),
        };
        Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    fn field(&self, map: &str, key: &str) -> Option<&Value> {
        self.document.value.get(map).and_then(Value::as_object).and_then(|map: &Map<_, _>| map.get(key))
    }

    fn unsupported(&self, key: &'static str, why: impl Into<String>) -> SecretError {
        SecretError::Unsupported { origin: self.document.origin.clone(), key, why: why.into() }
    }

    fn invalid(&self, key: &str, why: impl Into<String>) -> SecretError {
        SecretError::Invalid { origin: self.document.origin.clone(), key: key.to_owned(), why: why.into() }
    }
}

/// Labels or annotations. A value that is no string is refused and not passed over: `…/identity: false` would else
/// read like no such annotation. `null` is the empty string, as for an API server.
fn strings(document: &Document, what: &'static str) -> Result<BTreeMap<String, String>, SecretError> {
    let invalid = |key: String, why: &str| SecretError::Invalid {
        origin: document.origin.clone(),
        key,
        why: why.to_owned(),
    };
    match &document.value["metadata"][what] {
        Value::Null => Ok(BTreeMap::new()),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| match value {
                Value::String(text) => Ok((key.clone(), text.clone())),
                Value::Null => Ok((key.clone(), String::new())),
                // As whom callers arrive is never left to an earlier version.
                _ if key == IDENTITY => Err(SecretError::Unsupported {
                    origin: document.origin.clone(),
                    key: IDENTITY,
                    why: NOT_A_STRING.to_owned(),
                }),
                _ => Err(invalid(key.clone(), NOT_A_STRING)),
            })
            .collect(),
        _ => Err(invalid(format!("metadata.{what}"), "it is not a mapping of strings")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(mut secret: Value) -> Definition {
        secret["apiVersion"] = json!("v1");
        secret["kind"] = json!("Secret");
        if secret["metadata"]["name"].is_null() {
            secret["metadata"]["name"] = json!("east");
        }
        if secret["metadata"]["labels"].is_null() {
            secret["metadata"]["labels"] = json!({CREDENTIAL_TYPE: "ServiceAccountToken"});
        }
        let document = Document {
            origin: "east.yaml, document 1".into(),
            kind: "Secret".into(),
            api_version: "v1".into(),
            value: secret,
        };
        definition(&document).unwrap().unwrap()
    }

    fn spec(secret: Value) -> ClusterSpec {
        match read(secret) {
            Definition::Cluster(spec) => *spec,
            Definition::Unusable(unusable) => panic!("{unusable:?}"),
        }
    }

    fn reason(secret: Value) -> String {
        match read(secret) {
            Definition::Cluster(spec) => panic!("{spec:?}"),
            Definition::Unusable(unusable) => unusable.reason,
        }
    }

    #[test]
    fn a_token_secret_is_a_cluster() {
        let spec = spec(json!({
            "data": {"endpoint": STANDARD.encode("https://10.0.0.1:6443/base\n"), "token": STANDARD.encode("old")},
            "stringData": {"token": "s3cret\n", "tls-server-name": "kubernetes"},
        }));
        assert_eq!(
            (spec.endpoint.authority.as_str(), spec.endpoint.base_path.as_str()),
            ("10.0.0.1:6443", "/base")
        );
        assert_eq!(spec.credential.token, Some(TokenSource::Inline("s3cret".into())));
        assert_eq!(spec.server_name.as_deref(), Some("kubernetes"));
        assert_eq!((spec.trust, spec.identity), (Trust::SystemRoots, IdentityMode::Impersonate));
    }

    #[test]
    fn a_certificate_secret_is_a_cluster() {
        let authority = clusterway_certs::Authority::new("test").unwrap();
        let client = authority.issue_client("gateway", &[]).unwrap();
        let spec = spec(json!({
            "metadata": {"labels": {CREDENTIAL_TYPE: "X509Certificate"}, "annotations": {IDENTITY: "gateway"}},
            "stringData": {
                "endpoint": "https://x", "ca": authority.certificate_pem(),
                "tls.crt": client.certificate_pem(), "tls.key": client.key_pem(),
            },
        }));
        assert_eq!(spec.trust, Trust::Authorities(vec![authority.certificate().clone()]));
        assert_eq!(spec.credential.certificate.unwrap().chain.len(), client.chain().len());
        assert_eq!(spec.identity, IdentityMode::Gateway);
    }

    #[test]
    fn verification_is_skipped_only_when_asked_for_and_never_against_a_ca() {
        let skip = json!({"stringData": {"endpoint": "https://x", "insecure-skip-tls-verify": "true"}});
        assert_eq!(spec(skip).trust, Trust::DangerSkipVerification);
        let both = json!({"stringData": {"endpoint": "https://x", "ca.crt": "x", "insecure-skip-tls-verify": "true"}});
        assert!(reason(both).contains("contradicts"));
    }

    #[test]
    fn a_secret_without_credential_is_a_cluster_without_credential() {
        assert!(spec(json!({"stringData": {"endpoint": "https://x"}})).credential.is_empty());
    }

    #[test]
    fn what_cannot_be_used_names_place_and_key_and_shows_no_value() {
        for (secret, key) in [
            (json!({"stringData": {"token": "s3cret"}}), "endpoint"),
            (
                json!({"stringData": {"endpoint": "s3cret"}, "metadata": {"annotations": {IDENTITY: "anyone"}}}),
                "endpoint",
            ),
            (json!({"stringData": {"endpoint": "https://x", "token": 53}}), "token"),
            (json!({"data": {"endpoint": STANDARD.encode("https://x"), "token": "s3cret!"}}), "token"),
            (json!({"stringData": {"endpoint": "https://x", "ca.crt": "s3cret"}}), "ca.crt"),
            (json!({"stringData": {"endpoint": "https://x", "proxy-url": "http://u:s3cret@p"}}), "proxy-url"),
            (
                json!({"stringData": {"endpoint": "https://x"}, "metadata": {"annotations": {IDENTITY: "anyone"}}}),
                IDENTITY,
            ),
            (
                json!({"stringData": {"endpoint": "https://x"}, "metadata": {"labels": {CREDENTIAL_TYPE: "X509"}}}),
                CREDENTIAL_TYPE,
            ),
            (
                json!({"stringData": {"endpoint": "https://x"}, "metadata": {"labels": {CREDENTIAL_TYPE: "Dynamic"}}}),
                CREDENTIAL_TYPE,
            ),
            (
                json!({"stringData": {"endpoint": "https://x"}, "metadata": {"labels": {
                CREDENTIAL_TYPE: "ServiceAccountToken", ENDPOINT_TYPE: "ClusterProxy"}}}),
                ENDPOINT_TYPE,
            ),
        ] {
            let reason = reason(secret);
            assert!(reason.starts_with("east.yaml, document 1: ") && reason.contains(key), "{reason}");
            assert!(!reason.contains("53") && (key == "endpoint" || !reason.contains("s3cret")), "{reason}");
        }
    }

    #[test]
    fn labels_and_annotations_that_are_no_strings_are_refused_and_not_passed_over() {
        for value in [json!(false), json!(null), json!(["gateway"])] {
            let mut secret = json!({"stringData": {"endpoint": "https://x"}});
            secret["metadata"]["annotations"] = json!({IDENTITY: value});
            assert!(reason(secret).contains(IDENTITY), "{value}");
        }
        let labels = json!({CREDENTIAL_TYPE: 1});
        assert!(reason(json!({"metadata": {"labels": labels}})).contains(CREDENTIAL_TYPE));
        let annotations = json!("gateway");
        assert!(reason(json!({"metadata": {"annotations": annotations}})).contains("metadata.annotations"));
    }

    #[test]
    fn half_a_client_certificate_is_refused_by_naming_the_other_half() {
        for (given, missing) in [("tls.crt", "tls.key"), ("tls.key", "tls.crt")] {
            let labels = json!({CREDENTIAL_TYPE: "X509Certificate"});
            let data = json!({"endpoint": "https://x", given: "x"});
            let reason = reason(json!({"metadata": {"labels": labels}, "stringData": data}));
            assert!(reason.contains(&format!("key {missing:?} is missing")), "{reason}");
        }
    }

    #[test]
    fn only_what_is_broken_lets_an_earlier_version_stand_in() {
        let checked = |secret: Value| {
            let mut value = secret;
            value["metadata"]["name"] = json!("east");
            let document = Document {
                origin: "east.yaml, document 1".into(),
                kind: "Secret".into(),
                api_version: "v1".into(),
                value,
            };
            check(&document).is_ok()
        };
        let labels = |kind: &str| json!({"labels": {CREDENTIAL_TYPE: kind}});
        let whole = json!({"endpoint": "https://x"});
        assert!(checked(json!({"metadata": labels("ServiceAccountToken"), "stringData": whole})));
        assert!(checked(json!({"metadata": labels("Dynamic"), "stringData": whole})));
        for unknown in [json!("dney"), json!(false), json!(null)] {
            let mut identity = json!({"metadata": labels("ServiceAccountToken"), "stringData": whole});
            identity["metadata"]["annotations"] = json!({IDENTITY: unknown});
            assert!(
                checked(identity),
                "an identity that is not known is no reason to go on with the last one"
            );
        }
        assert!(!checked(json!({"metadata": labels("ServiceAccountToken"), "stringData": {}})));
        for (key, value) in
            [("ca.crt", "half a certif"), ("token", "two words"), ("tls-server-name", "no name")]
        {
            let broken = json!({"endpoint": "https://x", key: value});
            assert!(
                !checked(json!({"metadata": labels("ServiceAccountToken"), "stringData": broken})),
                "{key}"
            );
        }
    }

    #[test]
    fn other_objects_are_no_clusters() {
        let document = |value: Value| Document {
            origin: String::new(),
            kind: value["kind"].as_str().unwrap().into(),
            api_version: "v1".into(),
            value,
        };
        assert!(definition(&document(json!({"kind": "Secret", "metadata": {"name": "x"}}))).is_none());
        let labels = json!({CREDENTIAL_TYPE: "ServiceAccountToken"});
        assert!(
            definition(&document(json!({"kind": "ConfigMap", "metadata": {"labels": labels}}))).is_none()
        );
    }
}
