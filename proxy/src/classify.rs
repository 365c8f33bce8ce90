//! Which requests are upgrades. Decided once, by the letter of the RFC, before anything is dialed.
//!
//! Upstream Kubernetes takes any request whose `Connection` contains the letters `upgrade` for one; that lets a client
//! choose the upgrade path, with its different header handling, for any request. Here a request is an upgrade only
//! if nothing about it is in doubt, and what is half an upgrade is refused.

use http::{HeaderValue, Method, Request, Version, header::UPGRADE};

use crate::{ProxyError, UpgradeProtocols, headers};

/// The `Upgrade` protocol that `request` asks for, as it was written; `None` for a plain request.
///
/// A request asks for an upgrade if it is HTTP/1.1 and a `Connection` value has the token `upgrade`. An `Upgrade`
/// header without that token, or on another HTTP version, means nothing (RFC 9110 §7.8) and is stripped on the way.
///
/// # Errors
/// [`ProxyError::MalformedUpgrade`] for an upgrade without protocol, with several, or with a method other than GET
/// and POST. Whether the protocol is let through is not looked at.
pub fn requested_upgrade<B>(request: &Request<B>) -> Result<Option<&HeaderValue>, ProxyError> {
    if request.version() != Version::HTTP_11 || !headers::connection_asks_for_upgrade(request.headers()) {
        return Ok(None);
    }
    let mut lines = request.headers().get_all(UPGRADE).iter();
    let protocol = lines.next().ok_or(ProxyError::MalformedUpgrade("no Upgrade header names a protocol"))?;
    if lines.next().is_some() || protocol.as_bytes().contains(&b',') {
        return Err(ProxyError::MalformedUpgrade("more than one protocol is named"));
    }
    if headers::tokens(request.headers(), &UPGRADE).next().is_none() {
        return Err(ProxyError::MalformedUpgrade("the Upgrade header is empty"));
    }
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return Err(ProxyError::MalformedUpgrade("the method must be GET or POST"));
    }
    Ok(Some(protocol))
}

/// As [`requested_upgrade`], and the protocol is on the list.
pub(crate) fn allowed_upgrade<B>(
    request: &Request<B>,
    allowed: &UpgradeProtocols,
) -> Result<Option<HeaderValue>, ProxyError> {
    let Some(protocol) = requested_upgrade(request)? else {
        return Ok(None);
    };
    if protocol.to_str().is_ok_and(|token| allowed.allows(token)) {
        Ok(Some(protocol.clone()))
    } else {
        Err(ProxyError::UpgradeNotAllowed {
            protocol: String::from_utf8_lossy(protocol.as_bytes()).into_owned(),
        })
    }
}
