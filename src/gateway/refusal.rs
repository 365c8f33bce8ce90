//! Everything that keeps a request from being answered by its member, and the one place where that becomes a `Status`.

use http::{Method, StatusCode};
use upgrade_aware_proxy::{DialStage, ProxyError};

use super::route::InvalidTail;
use crate::{
    api::{Hop, Reason, Status, status::GROUP},
    forward::ForwardError,
};

/// Why Clusterway answers instead of the member.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Not a path of ours.
    #[error(
        "the server could not find the requested resource: {path:?} is neither \
         /apis/{GROUP}/v1alpha1/clustergateways/{{cluster}}/proxy/… nor /clusters/{{cluster}}/…"
    )]
    NoSuchPath {
        /// The path as it came.
        path: String,
    },
    /// A method that no RBAC verb stands for.
    #[error("method {0} is not supported on clustergateways/proxy")]
    MethodNotAllowed(Method),
    /// No credential, or none that is valid.
    #[error("Unauthorized")]
    Unauthenticated,
    /// RBAC does not allow it.
    #[error(
        "clustergateways.{GROUP} {cluster:?} is forbidden: User {user:?} cannot {verb} resource \
         \"clustergateways/proxy\" in API group \"{GROUP}\" at the cluster scope{why}"
    )]
    Forbidden {
        /// The caller.
        user: String,
        /// What was asked for.
        verb: &'static str,
        /// Where.
        cluster: String,
        /// A hint, with its punctuation; empty where the sentence says it all.
        why: &'static str,
    },
    /// No definition has this name. KubeVela looks for the first three words.
    #[error("no such cluster {0}")]
    NoSuchCluster(String),
    /// Defined, but not in a way that can be used.
    #[error("cluster {cluster:?} cannot be used: {reason}")]
    Unusable {
        /// The cluster.
        cluster: String,
        /// What is wrong, where, and what to do.
        reason: String,
    },
    /// A path that is not forwarded.
    #[error(transparent)]
    Tail(InvalidTail),
    /// `Impersonate-*` from a caller.
    #[error(
        "user {user:?} asks to act as somebody else (header {header:?}), which is not supported yet: send the request \
         without it"
    )]
    Impersonation {
        /// The caller.
        user: String,
        /// The first header that asks.
        header: String,
    },
    /// While it was made ready for the member, on the way there, or there.
    #[error("cluster {cluster:?}: {error}")]
    Forward {
        /// The cluster.
        cluster: String,
        /// What happened.
        error: ForwardError,
    },
}

impl Refusal {
    /// What the caller is told.
    pub(crate) fn status(&self) -> Status {
        let (code, reason, hop) = self.kind();
        let mut status = Status::new(code, reason, hop, self.to_string());
        status.cluster = self.cluster().map(str::to_owned);
        if let Self::Forward { error: ForwardError::Proxy(error), .. } = self {
            status.retry_after = error.retry_after();
        }
        status
    }

    fn kind(&self) -> (StatusCode, Reason, Hop) {
        match self {
            Self::NoSuchPath { .. } | Self::NoSuchCluster(_) => {
                (StatusCode::NOT_FOUND, Reason::NotFound, Hop::Gateway)
            }
            Self::MethodNotAllowed(_) => {
                (StatusCode::METHOD_NOT_ALLOWED, Reason::MethodNotAllowed, Hop::Gateway)
            }
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, Reason::Unauthorized, Hop::Gateway),
            Self::Forbidden { .. } | Self::Impersonation { .. } => {
                (StatusCode::FORBIDDEN, Reason::Forbidden, Hop::Gateway)
            }
            Self::Unusable { .. } => (StatusCode::INTERNAL_SERVER_ERROR, Reason::InternalError, Hop::Gateway),
            Self::Tail(_) => (StatusCode::BAD_REQUEST, Reason::BadRequest, Hop::Gateway),
            Self::Forward { error, .. } => match error {
                ForwardError::NoCredential { .. } => {
                    (StatusCode::INTERNAL_SERVER_ERROR, Reason::InternalError, Hop::Credential)
                }
                ForwardError::Identity(_) => (StatusCode::FORBIDDEN, Reason::Forbidden, Hop::Gateway),
                ForwardError::Proxy(error) => (error.status(), reason_for(error.status()), hop_of(error)),
            },
        }
    }

    fn cluster(&self) -> Option<&str> {
        match self {
            Self::NoSuchCluster(cluster)
            | Self::Forbidden { cluster, .. }
            | Self::Unusable { cluster, .. }
            | Self::Forward { cluster, .. } => Some(cluster),
            _ => None,
        }
    }
}

fn reason_for(code: StatusCode) -> Reason {
    match code {
        StatusCode::BAD_REQUEST => Reason::BadRequest,
        StatusCode::BAD_GATEWAY => Reason::BadGateway,
        StatusCode::SERVICE_UNAVAILABLE => Reason::ServiceUnavailable,
        StatusCode::GATEWAY_TIMEOUT => Reason::Timeout,
        _ => Reason::InternalError,
    }
}

fn hop_of(error: &ProxyError) -> Hop {
    match error {
        ProxyError::Dial(dial) => match dial.stage() {
            DialStage::Connect | DialStage::Proxy => Hop::Dial,
            DialStage::Tls => Hop::Tls,
            DialStage::Http => Hop::Member,
        },
        ProxyError::MalformedUpgrade(_)
        | ProxyError::UpgradeNotAllowed { .. }
        | ProxyError::NotUpgradable
        | ProxyError::MethodNotForwarded(_)
        | ProxyError::UnforwardablePath(_)
        | ProxyError::ShuttingDown
        | ProxyError::Assembly(_)
        | ProxyError::Exhausted { .. }
        | ProxyError::RequestBody(_) => Hop::Gateway,
        // Whatever else there is has happened after the member was reached.
        _ => Hop::Member,
    }
}

#[cfg(test)]
mod tests {
    use upgrade_aware_proxy::DialError;

    use super::*;

    #[test]
    fn a_dial_failure_is_502_at_hop_dial_and_keeps_the_words_kubevela_matches() {
        let dial = DialError::failed(DialStage::Connect, "dial tcp 127.0.0.1:1: connect: connection refused");
        let status =
            Refusal::Forward { cluster: "east".into(), error: ForwardError::Proxy(dial.into()) }.status();
        assert_eq!((status.code, status.hop), (StatusCode::BAD_GATEWAY, Hop::Dial));
        assert_eq!(status.message, r#"cluster "east": dial tcp 127.0.0.1:1: connect: connection refused"#);
        assert_eq!(status.cluster.as_deref(), Some("east"));
    }

    #[test]
    fn an_unknown_cluster_is_404_in_the_words_kubevela_matches() {
        let status = Refusal::NoSuchCluster("nowhere".into()).status();
        assert_eq!(
            (status.code, status.message.as_str()),
            (StatusCode::NOT_FOUND, "no such cluster nowhere")
        );
    }

    #[test]
    fn forbidden_reads_like_kubernetes() {
        let forbidden =
            Refusal::Forbidden { user: "tom".into(), verb: "create", cluster: "east".into(), why: "" };
        assert_eq!(
            forbidden.status().message,
            r#"clustergateways.cluster.core.oam.dev "east" is forbidden: User "tom" cannot create resource "clustergateways/proxy" in API group "cluster.core.oam.dev" at the cluster scope"#
        );
    }

    #[test]
    fn only_what_is_safe_to_repeat_asks_to_be_repeated() {
        let wait = |error| {
            Refusal::Forward { cluster: "east".into(), error: ForwardError::Proxy(error) }
                .status()
                .retry_after
        };
        assert!(wait(ProxyError::NotProcessed("REFUSED_STREAM".into())).is_some());
        assert!(wait(ProxyError::Exhausted { connections: 200 }).is_some());
        assert!(wait(ProxyError::Broken("reset".into())).is_none());
    }
}
