//! Where one request goes and how its head is edited on the way.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, uri::Authority, uri::Scheme};

use crate::Upstream;

/// Everything the proxy needs to know about where a request goes.
///
/// Cheap to build per request: the parts that do not change with the request are shared.
#[derive(Clone, Debug)]
pub struct Target {
    /// `http` or `https`; becomes `:scheme` on HTTP/2.
    pub scheme: Scheme,
    /// `host[:port]`; becomes `Host` and `:authority`.
    pub authority: Authority,
    /// Put in front of the forwarded path, byte for byte.
    pub base_path: BasePath,
    /// The path and query to ask for, still percent-encoded and forwarded byte for byte; starts with `/`.
    /// `None` takes the path and query of the request itself.
    pub path_and_query: Option<http::uri::PathAndQuery>,
    /// The path prefix under which the client sees this target, without a trailing slash. Redirects that stay
    /// inside the target are given back below it. Empty when the client's paths are the target's.
    pub client_prefix: Arc<str>,
    /// Header edits, applied after hop-by-hop headers are gone.
    pub edits: HeaderEdits,
    /// What to do with a redirect of the target.
    pub redirects: RedirectPolicy,
    /// The connections to the target.
    pub upstream: Arc<Upstream>,
}

impl Target {
    /// A target whose paths are the client's, with no header edits and the default policy for redirects. The fields
    /// are there to be changed.
    pub fn new(scheme: Scheme, authority: Authority, upstream: Arc<Upstream>) -> Self {
        Self {
            scheme,
            authority,
            base_path: BasePath::default(),
            path_and_query: None,
            client_prefix: Arc::default(),
            edits: HeaderEdits::default(),
            redirects: RedirectPolicy::default(),
            upstream,
        }
    }
}

/// A path prefix such as `/k8s/clusters/c-1`, or nothing. Never ends in a slash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BasePath(Arc<str>);

impl BasePath {
    /// Checks and normalises a prefix; one trailing slash is dropped, `/` and the empty string mean no prefix.
    ///
    /// # Errors
    /// [`InvalidTarget::BasePath`] when it does not start with `/`, carries a query or fragment, bytes that may not
    /// stand in a path, or dot segments.
    pub fn new(prefix: &str) -> Result<Self, InvalidTarget> {
        let trimmed = prefix.strip_suffix('/').unwrap_or(prefix);
        if trimmed.is_empty() {
            return Ok(Self::default());
        }
        let well_formed = trimmed.starts_with('/')
            && !trimmed.contains(['?', '#'])
            && http::uri::PathAndQuery::try_from(trimmed).is_ok()
            && !trimmed.split('/').any(|segment| matches!(segment, "." | ".."));
        if well_formed { Ok(Self(trimmed.into())) } else { Err(InvalidTarget::BasePath(prefix.to_owned())) }
    }

    /// The prefix, empty or starting with `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A [`Target`] that cannot be.
#[derive(Clone, Debug, thiserror::Error)]
pub enum InvalidTarget {
    /// Not usable as a path prefix.
    #[error("{0:?} is not a base path: it must start with '/', and hold no query, fragment or dot segment")]
    BasePath(String),
}

/// Edits to the outgoing head: remove first, then set.
///
/// Applied to plain requests and upgrades alike, after hop-by-hop headers and everything that a `Connection` value
/// names are gone, so nothing a client sends can take away what is set here (CVE-2021-31999).
#[derive(Clone, Debug, Default)]
pub struct HeaderEdits {
    /// Names to remove.
    pub remove: Vec<HeaderName>,
    /// Name prefixes to remove, in lower case. `-` in a prefix also matches `_`.
    pub remove_prefixes: Vec<&'static str>,
    /// Headers to set; several values of one name stay several lines. An earlier value of the name never survives.
    pub set: HeaderMap<HeaderValue>,
    /// `Sec-WebSocket-Protocol` tokens with this prefix are dropped (bearer tokens travel there).
    pub remove_websocket_protocol_prefix: Option<&'static str>,
}

/// What becomes of a redirect (300–399 with a `Location`) that the target answers to a plain request. The proxy
/// itself never follows one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedirectPolicy {
    /// Pass it on, path-only and below the client's prefix, if it stays inside the target; else answer 502
    /// (CVE-2022-3172).
    #[default]
    WithinTarget,
    /// Answer 502 to every one.
    Refuse,
    /// Pass every one on as it is. Only for targets that may send clients anywhere.
    Pass,
}

/// Time limits. What happens after the response head has no limit.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From the moment a stream to the target is ready until the response head is there.
    pub response_head: Duration,
    /// The same for an upgrade.
    pub upgrade_head: Duration,
    /// How long the second direction of a tunnel may stay without progress once the first has ended.
    pub half_close_grace: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            response_head: Duration::from_secs(65),
            upgrade_head: Duration::from_secs(30),
            half_close_grace: Duration::from_secs(30),
        }
    }
}

/// The upgrade protocols that are let through; anything else is refused before dialing.
#[derive(Clone, Debug)]
pub struct UpgradeProtocols(Vec<String>);

impl UpgradeProtocols {
    /// The protocols by their `Upgrade` token, compared without case.
    pub fn new<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Self {
        Self(tokens.into_iter().map(str::to_ascii_lowercase).collect())
    }

    /// Whether `token` is on the list.
    pub fn allows(&self, token: &str) -> bool {
        self.0.iter().any(|allowed| allowed.eq_ignore_ascii_case(token))
    }
}

impl Default for UpgradeProtocols {
    /// `websocket` and `SPDY/3.1`: what Kubernetes streams speak.
    fn default() -> Self {
        Self::new(["websocket", "SPDY/3.1"])
    }
}
