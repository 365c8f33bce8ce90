//! What every source translates its objects into: one cluster, validated, without any I/O.

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use http::uri::{Authority, Scheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::{ExposeSecret as _, SecretString};
use upgrade_aware_proxy::BasePath;

/// A cluster's name: a DNS-1123 subdomain, so that it is safe in paths, Secrets and labels alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(Arc<str>);

/// Not a [`ClusterName`].
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "{0:?} is not a cluster name: use lower-case letters, digits, '-' and '.', starting and ending with a letter or \
     digit, at most 253 of them"
)]
pub struct InvalidName(pub String);

impl ClusterName {
    /// Checks `name` against RFC 1123's rules for subdomains, as Kubernetes does for object names.
    ///
    /// # Errors
    /// [`InvalidName`].
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        if Self::is_valid(name) { Ok(Self(name.into())) } else { Err(InvalidName(name.to_owned())) }
    }

    /// Whether `name` could name a cluster.
    pub fn is_valid(name: &str) -> bool {
        name.len() <= 253
            && name.split('.').all(|label| {
                let bytes = label.as_bytes();
                let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
                bytes.first().is_some_and(alphanumeric)
                    && bytes.last().is_some_and(alphanumeric)
                    && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
            })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ClusterName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One member: where it is, how to trust it, with which credential, and as whom callers arrive there.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterSpec {
    /// The name in paths.
    pub name: ClusterName,
    /// Where its API server is.
    pub endpoint: Endpoint,
    /// The name its certificate must carry, and SNI, when that is not the endpoint's host.
    pub server_name: Option<String>,
    /// Who may vouch for its certificate.
    pub trust: Trust,
    /// What the gateway itself shows the member.
    pub credential: Credential,
    /// As whom callers arrive.
    pub identity: IdentityMode,
    /// Labels, those of the cluster-gateway format included.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Where this definition stands, for people: `clusters/east.yaml, document 2` or `~/.kube/config, context east`.
    pub defined_in: String,
}

impl ClusterSpec {
    /// Whether a connection opened for `other` is just what one opened for this would be: to the same place, verified
    /// the same way, with the same client certificate. Everything else is sent with each request.
    pub fn has_connections_of(&self, other: &Self) -> bool {
        let place = |spec: &Self| (spec.endpoint.scheme.clone(), spec.endpoint.authority.clone());
        place(self) == place(other)
            && self.server_name == other.server_name
            && self.trust == other.trust
            && self.credential.certificate == other.credential.certificate
    }

    /// The file its token is in, if it is in one.
    pub fn token_file(&self) -> Option<&Path> {
        match &self.credential.token {
            Some(TokenSource::File(path)) => Some(path),
            _ => None,
        }
    }
}

/// The base URL of a member's API server, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `https`, or `http` for local doubles.
    pub scheme: Scheme,
    /// `host[:port]`, without user info.
    pub authority: Authority,
    /// What stands in front of every path (`/k8s/clusters/c-1`).
    pub base_path: BasePath,
}

/// Who may vouch for a member's serving certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The authorities of the operating system.
    SystemRoots,
    /// Exactly these.
    Authorities(Vec<CertificateDer<'static>>),
    /// Nobody needs to. Whoever sits on the network path then gets the credential.
    DangerSkipVerification,
}

/// What the gateway shows a member. Either, both (as client-go sends them), or nothing, in which case the cluster is
/// listed and every request to it is refused.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Credential {
    /// A bearer token.
    pub token: Option<TokenSource>,
    /// A client certificate.
    pub certificate: Option<ClientCertificate>,
}

impl Credential {
    /// Whether there is nothing to show.
    pub fn is_empty(&self) -> bool {
        self.token.is_none() && self.certificate.is_none()
    }
}

/// Where a bearer token comes from.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// Written in the definition.
    Inline(SecretString),
    /// In a file that is read again when it changes.
    File(PathBuf),
}

impl PartialEq for TokenSource {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Inline(left), Self::Inline(right)) => left.expose_secret() == right.expose_secret(),
            (Self::File(left), Self::File(right)) => left == right,
            _ => false,
        }
    }
}

/// A client certificate with its key.
#[derive(Clone)]
pub struct ClientCertificate {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: Arc<PrivateKeyDer<'static>>,
}

impl PartialEq for ClientCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain && self.key.secret_der() == other.key.secret_der()
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

/// As whom callers arrive at a member; annotation `cluster.core.oam.dev/identity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdentityMode {
    /// As themselves: the gateway's credential impersonates the caller.
    #[default]
    Impersonate,
    /// As the gateway: its credential as it is.
    Gateway,
    /// Not at all.
    Deny,
}
