//! As whom, and where: turns a request into one that a member gets, and hands it to the proxy.
//!
//! This is the only caller of [`Proxy::forward`], so nothing reaches a member without the edits of [`identity`].

use std::sync::Arc;

use http::{HeaderValue, Request, Response, uri::PathAndQuery};
use hyper::body::Incoming;
use upgrade_aware_proxy::{
    HeaderEdits, PlainErrors, Proxy, ProxyError, ResponseBody, Target, Timeouts, Tunnels, UpgradeProtocols,
};

use crate::{
    clusters::{Cluster, IdentityMode},
    identity::{self, Caller, IdentityError},
};

/// Forwards requests to members.
#[derive(Clone, Debug)]
pub struct Forwarder {
    proxy: Proxy,
}

/// One request's way: where it goes and under which address its caller sees that place.
#[derive(Clone, Debug)]
pub struct Destination<'a> {
    /// The member.
    pub cluster: &'a Cluster,
    /// Path and query at the member.
    pub path_and_query: PathAndQuery,
    /// The caller's path prefix for the member, without a trailing slash.
    pub prefix: &'a str,
}

/// Why a request was not answered by its member.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The cluster's definition has no credential. Nothing was sent.
    #[error("cluster {cluster:?} has no credential: give {defined_in} a token or a client certificate")]
    NoCredential {
        /// The cluster.
        cluster: String,
        /// Where it is defined.
        defined_in: String,
    },
    /// The caller cannot be shown to the member. Nothing was sent.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// On the way to the member, or there.
    #[error(transparent)]
    Proxy(ProxyError),
}

impl Forwarder {
    /// A forwarder whose tunnels are counted in `tunnels`.
    pub fn new(timeouts: Timeouts, tunnels: Tunnels) -> Self {
        Self { proxy: Proxy::new(PlainErrors, UpgradeProtocols::default(), timeouts, tunnels) }
    }

    /// Forwards `request` as `caller`.
    ///
    /// The member's answer comes back as it is. A failed exchange is an error, together with the head of the proxy's
    /// own answer, whose `Connection` header must be kept: after a refused upgrade the connection is not usable.
    ///
    /// # Errors
    /// [`ForwardError`].
    pub async fn forward(
        &self,
        request: Request<Incoming>,
        destination: Destination<'_>,
        caller: &Caller,
        forwarded_for: HeaderValue,
    ) -> Result<Response<ResponseBody>, Failed> {
        let Destination { cluster, path_and_query, prefix } = destination;
        let edits = edits(cluster, caller, forwarded_for)?;
        let target = Target {
            scheme: cluster.spec.endpoint.scheme.clone(),
            authority: cluster.spec.endpoint.authority.clone(),
            base_path: cluster.spec.endpoint.base_path.clone(),
            path_and_query: Some(path_and_query),
            client_prefix: prefix.into(),
            edits,
            redirects: upgrade_aware_proxy::RedirectPolicy::WithinTarget,
            upstream: Arc::clone(&cluster.upstream),
        };
        let mut response = self.proxy.forward(request, target).await;
        match response.extensions_mut().remove::<ProxyError>() {
            None => Ok(response),
            Some(error) => {
                let connection = response.headers_mut().remove(http::header::CONNECTION);
                Err(Failed { error: ForwardError::Proxy(error), connection })
            }
        }
    }
}

/// A [`ForwardError`] and what it means for the caller's connection.
#[derive(Debug)]
pub struct Failed {
    /// What failed.
    pub error: ForwardError,
    /// The `Connection` header that the answer must carry.
    pub connection: Option<HeaderValue>,
}

impl<E: Into<ForwardError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { error: error.into(), connection: None }
    }
}

fn edits(
    cluster: &Cluster,
    caller: &Caller,
    forwarded_for: HeaderValue,
) -> Result<HeaderEdits, ForwardError> {
    let spec = &cluster.spec;
    if spec.identity != IdentityMode::Deny && spec.credential.is_empty() {
        return Err(ForwardError::NoCredential {
            cluster: spec.name.to_string(),
            defined_in: spec.defined_in.clone(),
        });
    }
    let mut edits =
        identity::header_edits(spec.name.as_str(), spec.identity, caller, cluster.authorization())?;
    // A member's audit log takes the caller's address from here (`sourceIPs`); what callers send was removed.
    edits.set.insert("x-forwarded-for", forwarded_for);
    Ok(edits)
}
