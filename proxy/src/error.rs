//! Everything that can keep a request from being answered by its target.

use std::time::Duration;

use http::{Response, StatusCode};

use crate::{DialError, ResponseBody};

/// Why the proxy answers instead of the target.
#[derive(Debug, thiserror::Error)]
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
    /// A header that [`HeaderEdits`](crate::HeaderEdits) sets was not on the outgoing head, or path and query cannot
    /// be forwarded. Nothing was sent.
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
            Self::MalformedUpgrade(_) | Self::UpgradeNotAllowed { .. } | Self::RequestBody(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::Assembly(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Exhausted { .. } | Self::NotProcessed(_) => StatusCode::SERVICE_UNAVAILABLE,
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
        matches!(self, Self::Exhausted { .. } | Self::NotProcessed(_)).then_some(Duration::from_secs(1))
    }
}

/// Turns a [`ProxyError`] into the answer the client gets.
pub trait ErrorResponder: Send + Sync + 'static {
    /// The answer. Its connection is closed by the proxy where the error leaves it unusable.
    fn respond(&self, error: &ProxyError) -> Response<ResponseBody>;
}
