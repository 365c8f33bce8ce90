//! Everything that can keep a request from being answered by its target.

use std::time::Duration;

use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
};

use crate::{DialError, ResponseBody};

/// Why the proxy answers instead of the target.
///
/// Every answer that the proxy itself gives carries the error in its [extensions](Response::extensions), so that
/// metrics and audit can tell it from an answer of the target.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The request asks for an upgrade that is malformed: `Connection: upgrade` without an `Upgrade` header, several
    /// protocols, or a method other than GET and POST.
    #[error("malformed upgrade request: {0}")]
    MalformedUpgrade(&'static str),
    /// The `Upgrade` protocol is not on the allow-list. Nothing was dialed.
    #[error("upgrade to {protocol:?} is not supported")]
    UpgradeNotAllowed {
        /// What was asked for.
        protocol: String,
    },
    /// The connection that the request came on cannot be handed over: it is not hyper's HTTP/1.1 server, it is served
    /// without upgrades, or something took the upgrade before. Nothing was dialed.
    #[error("the client's connection cannot be upgraded")]
    NotUpgradable,
    /// CONNECT and TRACE are about the connection to this proxy, not about the target; a TRACE would even show the
    /// client the credentials that were set for the target. Nothing was sent.
    #[error("method {0} is not forwarded")]
    MethodNotForwarded(Method),
    /// The request's path and query cannot be asked of the target. Nothing was sent.
    #[error("the request path cannot be forwarded: {0}")]
    UnforwardablePath(String),
    /// The proxy is shutting down and starts no further tunnel.
    #[error("shutting down")]
    ShuttingDown,
    /// A header that [`HeaderEdits`](crate::HeaderEdits) sets was not on the outgoing head. Nothing was sent.
    #[error("the outgoing request could not be assembled: {0}")]
    Assembly(String),
    /// No connection could be opened.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// Every connection the ceiling allows is full, and none became free in time.
    #[error("all {connections} connections are busy")]
    Exhausted {
        /// The ceiling.
        connections: usize,
    },
    /// The target surely did not process the request; the client may send it again.
    #[error("the connection closed before the request was processed: {0}")]
    NotProcessed(String),
    /// The exchange broke after the request may have been processed.
    #[error("the connection broke before the answer: {0}")]
    Broken(String),
    /// The response head did not come in time.
    #[error("no answer within {}s", .0.as_secs())]
    ResponseHeadTimeout(Duration),
    /// The request body could not be read from the client.
    #[error("the request body broke off: {0}")]
    RequestBody(String),
    /// The target answered an upgrade with neither 101 nor an error.
    #[error("invalid upgrade response: status code {}", .status.as_u16())]
    InvalidUpgradeStatus {
        /// What it answered.
        status: StatusCode,
    },
    /// The target switched to a protocol that was not asked for.
    #[error("invalid upgrade response: switched to {got:?}, asked for {asked:?}")]
    WrongUpgradeProtocol {
        /// The `Upgrade` of the request.
        asked: String,
        /// The `Upgrade` of the 101, if it had one.
        got: Option<String>,
    },
    /// The target redirected to where the client may not be sent (CVE-2022-3172).
    #[error("the target answered with a redirect (status code {}), which is not permitted", .status.as_u16())]
    RedirectRefused {
        /// The redirect's status.
        status: StatusCode,
    },
}

impl ProxyError {
    /// The status code for the client.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::MalformedUpgrade(_)
            | Self::UpgradeNotAllowed { .. }
            | Self::UnforwardablePath(_)
            | Self::RequestBody(_) => StatusCode::BAD_REQUEST,
            Self::MethodNotForwarded(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Assembly(_) | Self::NotUpgradable => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Exhausted { .. } | Self::NotProcessed(_) | Self::ShuttingDown => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::ResponseHeadTimeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Dial(_)
            | Self::Broken(_)
            | Self::InvalidUpgradeStatus { .. }
            | Self::WrongUpgradeProtocol { .. }
            | Self::RedirectRefused { .. } => StatusCode::BAD_GATEWAY,
        }
    }

    /// How long a client should wait before it tries again; `None` where trying again is no cure or not safe.
    pub fn retry_after(&self) -> Option<Duration> {
        (self.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(1))
    }
}

/// Turns a [`ProxyError`] into the answer the client gets.
pub trait ErrorResponder: Send + Sync + 'static {
    /// The answer. Its connection is closed by the proxy where the error leaves it unusable.
    fn respond(&self, error: &ProxyError) -> Response<ResponseBody>;
}

/// Answers every failure in a line of plain text.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainErrors;

impl ErrorResponder for PlainErrors {
    fn respond(&self, error: &ProxyError) -> Response<ResponseBody> {
        // Parts of the message may come from the client; a browser must not take them for markup.
        let text = error.to_string().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let mut response = Response::new(ResponseBody::full(text + "\n"));
        *response.status_mut() = error.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn plain_errors_hold_no_markup() {
        let error = ProxyError::UpgradeNotAllowed { protocol: "<script>&".to_owned() };
        let response = PlainErrors.respond(&error);
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(response.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(text, "upgrade to \"&lt;script&gt;&amp;\" is not supported\n");
    }
}
