//! What a request asks of the member: path, query and caller, taken apart.

use std::collections::BTreeMap;

use http::{HeaderMap, Uri};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{failure::Failure, resources::Resource};

/// What a path means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// Objects of a kind, or one of them, or a subresource of one.
    Resource(ResourcePath),
    /// Everything else, decoded.
    Other(String),
}

/// `/api/v1/namespaces/{namespace}/{resource}/{name}/{subresource}` in its variations.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(crate) resource: &'static Resource,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

impl Path {
    /// Reads the path as a kube-apiserver does: split, then decoded.
    pub(crate) fn of(uri: &Uri) -> Self {
        let segments: Vec<String> = uri
            .path()
            .split('/')
            .skip(1)
            .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
            .collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let resource = match segments.as_slice() {
            ["api", version @ "v1", rest @ ..] => resource("", version, rest),
            ["apis", group, version, rest @ ..] => resource(group, version, rest),
            _ => None,
        };
        resource.map_or_else(|| Self::Other(format!("/{}", segments.join("/"))), Self::Resource)
    }
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Option<ResourcePath> {
    let (namespace, rest) = match rest {
        // `namespaces/{name}` and its subresources are about the namespace itself.
        ["namespaces", _, "status" | "finalize"] | ["namespaces"] | ["namespaces", _] => (None, rest),
        ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
        rest => (None, rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, None, None),
        [plural, name] => (*plural, Some(*name), None),
        [plural, name, subresource] => (*plural, Some(*name), Some(*subresource)),
        _ => return None,
    };
    let resource = Resource::find(group, version, plural)?;
    if namespace.is_some() && !resource.namespaced {
        return None;
    }
    let owned = |text: &str| text.to_owned();
    Some(ResourcePath { resource, namespace, name: name.map(owned), subresource: subresource.map(owned) })
}

/// The query, decoded. Of repeated keys the first counts.
#[derive(Debug, Default)]
pub(crate) struct Query(BTreeMap<String, String>);

impl Query {
    /// Reads it.
    pub(crate) fn of(uri: &Uri) -> Self {
        let mut query = BTreeMap::new();
        for (key, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            query.entry(key.into_owned()).or_insert_with(|| value.into_owned());
        }
        Self(query)
    }

    /// A value; empty if there is none.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    /// Whether a flag is set.
    pub(crate) fn flag(&self, key: &str) -> bool {
        matches!(self.text(key), "true" | "1" | "True" | "TRUE")
    }

    /// A number.
    ///
    /// # Errors
    /// 400.
    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>, Failure> {
        match self.text(key) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| Failure::bad_request(format!("{key}: {text:?} is not a number"))),
        }
    }

    /// `dryRun=All`.
    pub(crate) fn dry_run(&self) -> bool {
        self.text("dryRun") == "All"
    }
}

/// As whom a request is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The UID.
    pub uid: String,
    /// The groups, `system:authenticated` included.
    pub groups: Vec<String>,
    /// The extras.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// The user after impersonation: `authenticated` if the request asks for nobody else.
    ///
    /// # Errors
    /// 400 for impersonation without a user, as a kube-apiserver answers it.
    pub(crate) fn effective(authenticated: Self, headers: &HeaderMap) -> Result<Self, Failure> {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let name = headers.get("impersonate-user").map(text).unwrap_or_default();
        let mut groups: Vec<String> = headers.get_all("impersonate-group").iter().map(text).collect();
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (header, value) in headers {
            if let Some(key) = header.as_str().strip_prefix("impersonate-extra-") {
                let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
                extra.entry(key).or_default().push(text(value));
            }
        }
        let uid = headers.get("impersonate-uid").map(text).unwrap_or_default();
        if name.is_empty() {
            if groups.is_empty() && extra.is_empty() && uid.is_empty() {
                return Ok(authenticated);
            }
            return Err(Failure::bad_request(
                "requested impersonation of groups, a uid or extra without impersonating a user",
            ));
        }
        if !groups.iter().any(|group| group == "system:authenticated") {
            groups.push("system:authenticated".to_owned());
        }
        Ok(Self { name, uid, groups, extra })
    }

    /// `userInfo` of a review.
    pub(crate) fn info(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = json!(self.uid);
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str) -> String {
        match Path::of(&path.parse().unwrap()) {
            Path::Resource(path) => format!(
                "{} {:?} {:?} {:?}",
                path.resource.kind,
                path.namespace.as_deref().unwrap_or("-"),
                path.name.as_deref().unwrap_or("-"),
                path.subresource.as_deref().unwrap_or("-")
            ),
            Path::Other(path) => path,
        }
    }

    #[test]
    fn paths_are_read_as_a_kube_apiserver_reads_them() {
        for (path, expected) in [
            ("/api/v1/pods", r#"Pod "-" "-" "-""#),
            ("/api/v1/namespaces/a/pods/b/log?x", r#"Pod "a" "b" "log""#),
            ("/apis/apps/v1/namespaces/a/deployments/b/scale", r#"Deployment "a" "b" "scale""#),
            ("/api/v1/namespaces", r#"Namespace "-" "-" "-""#),
            ("/api/v1/namespaces/a", r#"Namespace "-" "a" "-""#),
            ("/api/v1/namespaces/a/status", r#"Namespace "-" "a" "status""#),
            ("/api/v1/nodes/n%2Fx", r#"Node "-" "n/x" "-""#),
            ("/api/v1/namespaces/a/nodes", "/api/v1/namespaces/a/nodes"),
            ("/apis/apps/v1", "/apis/apps/v1"),
            ("/version", "/version"),
        ] {
            assert_eq!(read(path), expected, "{path}");
        }
    }
}
