//! The one form in which Clusterway refuses or fails: a Kubernetes `Status` in JSON.
//!
//! kubectl and client-go print `message` and act on `code` and `reason`; plain text would reach people as "the server
//! is currently unable to handle the request". A `Status` must never carry a token, a key or a response of a member.

use std::{fmt, time::Duration};

use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use upgrade_aware_proxy::ResponseBody;

/// The API group in which clusters are `clustergateways`.
pub const GROUP: &str = "cluster.core.oam.dev";

/// The answer header that names the [`Hop`] that failed; kept in step with `details.causes`.
pub const HOP_HEADER: &str = "clusterway-hop";

/// A refusal or failure, as `meta/v1` writes it.
#[derive(Clone, Debug)]
pub struct Status {
    /// The HTTP status code.
    pub code: StatusCode,
    /// The machine-readable reason.
    pub reason: Reason,
    /// For people: what was wrong, where, and what to do.
    pub message: String,
    /// The cluster it is about.
    pub cluster: Option<String>,
    /// Where on the way it happened.
    pub hop: Hop,
    /// How long to wait before trying again. client-go retries by itself when this is set, so it is only set where
    /// trying again is safe.
    pub retry_after: Option<Duration>,
}

/// Where on the way from the caller to the member a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    /// In Clusterway itself, before anything was sent.
    Gateway,
    /// The gateway's credential for the member.
    Credential,
    /// Name resolution and the TCP connection to the member.
    Dial,
    /// The TLS handshake with the member.
    Tls,
    /// The member's API server, or the connection to it after it was made.
    Member,
}

impl Hop {
    /// The name in documents, headers, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Credential => "credential",
            Self::Dial => "dial",
            Self::Tls => "tls",
            Self::Member => "member",
        }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `metav1.StatusReason`, as far as Clusterway uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub enum Reason {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    InternalError,
    /// A member that cannot be reached or breaks off. Kubernetes has no reason for 502; clients go by the code.
    BadGateway,
    ServiceUnavailable,
    Timeout,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    kind: &'static str,
    api_version: &'static str,
    metadata: Empty,
    status: &'static str,
    message: &'a str,
    reason: Reason,
    details: Details<'a>,
    code: u16,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Details<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    causes: [Cause; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
}

#[derive(Serialize)]
struct Cause {
    reason: &'static str,
    message: &'static str,
}

impl Status {
    /// A status without cluster and without retry.
    pub fn new(code: StatusCode, reason: Reason, hop: Hop, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), cluster: None, hop, retry_after: None }
    }

    /// The same, about `cluster`.
    #[must_use]
    pub fn about(mut self, cluster: impl Into<String>) -> Self {
        self.cluster = Some(cluster.into());
        self
    }

    /// The JSON document.
    pub fn to_json(&self) -> Vec<u8> {
        let document = Document {
            kind: "Status",
            api_version: "v1",
            metadata: Empty {},
            status: "Failure",
            message: &self.message,
            reason: self.reason,
            details: Details {
                name: self.cluster.as_deref(),
                group: self.cluster.is_some().then_some(GROUP),
                kind: self.cluster.is_some().then_some("clustergateways"),
                causes: [Cause { reason: "FailedHop", message: self.hop.as_str() }],
                retry_after_seconds: self.retry_after.map(|wait| wait.as_secs().max(1)),
            },
            code: self.code.as_u16(),
        };
        // Strings and numbers under string keys: there is nothing in it that could fail to serialise.
        serde_json::to_vec(&document).unwrap_or_default()
    }

    /// The HTTP answer.
    pub fn into_response(self) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::full(self.to_json()));
        *response.status_mut() = self.code;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(HOP_HEADER, HeaderValue::from_static(self.hop.as_str()));
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_names_code_reason_cluster_and_hop() {
        let status = Status::new(
            StatusCode::BAD_GATEWAY,
            Reason::BadGateway,
            Hop::Dial,
            "dial tcp 10.0.0.1:6443: refused",
        )
        .about("east");
        let json: serde_json::Value = serde_json::from_slice(&status.to_json()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "dial tcp 10.0.0.1:6443: refused", "reason": "BadGateway", "code": 502,
                "details": {
                    "name": "east", "group": "cluster.core.oam.dev", "kind": "clustergateways",
                    "causes": [{"reason": "FailedHop", "message": "dial"}]
                }
            })
        );
    }

    #[test]
    fn waiting_is_announced_in_header_and_document_alike() {
        let mut status =
            Status::new(StatusCode::SERVICE_UNAVAILABLE, Reason::ServiceUnavailable, Hop::Member, "busy");
        status.retry_after = Some(Duration::from_millis(200));
        assert!(String::from_utf8(status.to_json()).unwrap().contains(r#""retryAfterSeconds":1"#));
        assert_eq!(status.into_response().headers()[header::RETRY_AFTER], "1");
    }
}
