//! A member that is ready to be used: its definition, its connections, its credential.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use secrecy::ExposeSecret as _;
use upgrade_aware_proxy::{PoolConfig, Upstream};

use super::{ClusterSpec, DialTimeouts, MemberDialer, TlsError, TokenSource};

/// A member that is ready to be used.
pub struct Cluster {
    /// Its definition.
    pub spec: ClusterSpec,
    /// Its connections. They are opened with this cluster's credential and belong to no other.
    pub upstream: Arc<Upstream>,
    authorization: ArcSwapOption<HeaderValue>,
}

/// How members are reached, the same for all.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Limits of the connection pools.
    pub pool: PoolConfig,
    /// Limits of dialing.
    pub dial: DialTimeouts,
}

/// A definition that no cluster can be made of.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Its TLS material cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Its token cannot be read.
    #[error("token file {path}: {error}")]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Its token cannot be sent.
    #[error("the token is empty or holds characters that no header can carry; write it without line breaks")]
    Token,
}

impl Cluster {
    /// Makes it ready. No connection is opened; a token file is read, so this may block.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn new(spec: ClusterSpec, reach: &Reach) -> Result<Self, ClusterError> {
        let dialer = MemberDialer::new(&spec, reach.dial)?;
        Self::over(Upstream::new(Arc::new(dialer), reach.pool.clone()), spec)
    }

    /// Makes it ready in the place of `before`, whose connections it goes on using if they are the same: a token or a
    /// label is no reason to open new ones.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn succeeding(before: &Self, spec: ClusterSpec, reach: &Reach) -> Result<Self, ClusterError> {
        if spec.has_connections_of(&before.spec) {
            Self::over(Arc::clone(&before.upstream), spec)
        } else {
            Self::new(spec, reach)
        }
    }

    fn over(upstream: Arc<Upstream>, spec: ClusterSpec) -> Result<Self, ClusterError> {
        let authorization = match &spec.credential.token {
            None => None,
            Some(TokenSource::Inline(token)) => Some(bearer(token.expose_secret())?),
            Some(TokenSource::File(path)) => {
                let token = clusterway_certs::read_text_file(path)
                    .map_err(|error| ClusterError::TokenFile { path: path.clone(), error })?;
                Some(bearer(token.trim())?)
            }
        };
        Ok(Self { spec, upstream, authorization: ArcSwapOption::new(authorization.map(Arc::new)) })
    }

    /// The `Authorization` header for this member; marked sensitive. Does no I/O.
    pub fn authorization(&self) -> Option<HeaderValue> {
        self.authorization.load().as_deref().cloned()
    }

    /// The file its token is in, if it is in one.
    pub fn token_file(&self) -> Option<&Path> {
        self.spec.token_file()
    }

    /// Shows `token`, the new content of its token file, from now on.
    ///
    /// # Errors
    /// [`ClusterError::Token`]; the token that was good before stays in use.
    pub fn renew_token(&self, token: &[u8]) -> Result<(), ClusterError> {
        let token = std::str::from_utf8(token).map_err(|_| ClusterError::Token)?;
        self.authorization.store(Some(Arc::new(bearer(token.trim())?)));
        Ok(())
    }
}

/// Whether a cluster could be made of `spec`, as far as that is in `spec` alone: token files and the system's
/// authorities may come and go without it.
///
/// # Errors
/// [`ClusterError`].
pub(super) fn check(spec: &ClusterSpec) -> Result<(), ClusterError> {
    match MemberDialer::new(spec, DialTimeouts::default()) {
        Ok(_) | Err(TlsError::NoSystemRoots(_)) => {}
        Err(error) => return Err(error.into()),
    }
    match &spec.credential.token {
        Some(TokenSource::Inline(token)) => bearer(token.expose_secret()).map(drop),
        _ => Ok(()),
    }
}

fn bearer(token: &str) -> Result<HeaderValue, ClusterError> {
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(ClusterError::Token);
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| ClusterError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("name", &self.spec.name).finish_non_exhaustive()
    }
}
