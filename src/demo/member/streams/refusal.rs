//! What the streaming endpoints refuse, as kube-apiserver and the kubelet word it.

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::json;
use upgrade_aware_proxy::ResponseBody;

/// Why a stream is not opened. Everything here becomes a `Status`.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// The pod has no container of that name.
    #[error("container {container} is not valid for pod {pod}")]
    UnknownContainer {
        /// The name that was asked for.
        container: String,
        /// The pod's name.
        pod: String,
    },
    /// The pod has several containers and none was named.
    #[error("a container name must be specified for pod {pod}, choose one of: [{choices}]")]
    WhichContainer {
        /// The pod's name.
        pod: String,
        /// Its containers' names.
        choices: String,
    },
    /// The container does not run yet.
    #[error("container \"{container}\" in pod \"{pod}\" is waiting to start: ContainerCreating")]
    NotStarted {
        /// The container's name.
        container: String,
        /// The pod's name.
        pod: String,
    },
    /// `previous=true`: demo containers never restart.
    #[error("previous terminated container \"{container}\" in pod \"{pod}\" not found")]
    NoPrevious {
        /// The container's name.
        container: String,
        /// The pod's name.
        pod: String,
    },
    /// A query parameter that is no number or no time.
    #[error("{0}")]
    Parameter(String),
    /// Query parameters that are understood but not allowed.
    #[error("PodLogOptions \"{pod}\" is invalid: {problem}")]
    Invalid {
        /// The pod's name.
        pod: String,
        /// What is wrong with which parameter.
        problem: String,
    },
    /// Neither stdin nor stdout nor stderr.
    #[error("you must specify at least 1 of stdin, stdout, stderr")]
    NoStream,
    /// An exec without command.
    #[error("you must specify a command: the query needs at least one command=")]
    NoCommand,
    /// Not an upgrade at all, or to something unknown.
    #[error("Upgrade request required")]
    NoUpgrade,
    /// A WebSocket handshake that RFC 6455 does not know.
    #[error("websocket handshake: {0}")]
    Handshake(&'static str),
    /// No stream protocol was offered.
    #[error("unable to upgrade: header X-Stream-Protocol-Version is required")]
    NoProtocol,
    /// No offered stream protocol is served.
    #[error(
        "unable to upgrade: unable to negotiate protocol: client supports [{offered}], server accepts [{served}]"
    )]
    Protocol {
        /// What the client offered.
        offered: String,
        /// What is served here.
        served: String,
    },
}

impl Refusal {
    fn code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Invalid { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "Invalid"),
            Self::Protocol { .. } => (StatusCode::FORBIDDEN, "Forbidden"),
            _ => (StatusCode::BAD_REQUEST, "BadRequest"),
        }
    }

    /// The HTTP answer.
    pub(super) fn into_response(self) -> Response<ResponseBody> {
        let (code, reason) = self.code();
        let status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.to_string(),
            "reason": reason,
            "code": code.as_u16(),
        });
        let mut response = Response::new(ResponseBody::full(status.to_string()));
        *response.status_mut() = code;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Self::Protocol { served, .. } = &self {
            let name = HeaderName::from_static("x-accepted-stream-protocol-versions");
            for protocol in served.split(' ').filter_map(|protocol| HeaderValue::from_str(protocol).ok()) {
                headers.append(name.clone(), protocol);
            }
        }
        response
    }
}
