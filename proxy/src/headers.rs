//! What happens to a head on its way through: hop-by-hop headers go, the target's edits are applied and checked.
//!
//! The order is the point. A client decides what `Connection` names, so everything it names must be gone before
//! anything is set on its behalf; otherwise `Connection: Impersonate-User` would delete the very header that says
//! who it is (CVE-2021-31999 and its many relatives). Nothing here may panic on input: names and counts come from
//! the network.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        CONNECTION, CONTENT_LENGTH, EXPECT, HOST, InvalidHeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
        SEC_WEBSOCKET_PROTOCOL, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
    uri::Authority,
};

use crate::{HeaderEdits, ProxyError};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Headers of one connection (RFC 9110 §7.6.1, and `HTTP2-Settings` of the abandoned h2c upgrade).
///
/// `Trailer` is not among them: RFC 9110 §6.6.2 lets it pass, and hyper sends only trailers that it announces.
static HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HTTP2_SETTINGS,
];

/// Headers that no edit may set, since they frame the message or belong to the connection: a wrong one would let the
/// target and the proxy disagree about where the request ends.
static NEVER_SET: [HeaderName; 10] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    CONTENT_LENGTH,
    HOST,
    EXPECT,
];

/// Makes the client's headers the target's: strips, edits, verifies.
///
/// `upgrade` is the protocol of an upgrade request; it alone survives of the connection's headers. `Host` becomes the
/// target's authority.
///
/// # Errors
/// [`ProxyError::Assembly`] when what `edits` sets could not be put there exactly. Nothing may be sent then.
pub(crate) fn prepare_request(
    headers: &mut HeaderMap,
    authority: &Authority,
    edits: &HeaderEdits,
    upgrade: Option<HeaderValue>,
) -> Result<(), ProxyError> {
    let takes_trailers = tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case(b"trailers"));
    if headers.contains_key(TRANSFER_ENCODING) {
        // RFC 9112 §6.3: the length is a lie then, and must not travel on.
        headers.remove(CONTENT_LENGTH);
    }
    strip_hop_by_hop(headers);
    headers.remove(EXPECT);

    let put =
        |headers: &mut HeaderMap, name, value| headers.try_insert(name, value).map_err(too_many).map(drop);
    put(headers, HOST, host(authority)?)?;
    if let Some(protocol) = upgrade {
        put(headers, CONNECTION, HeaderValue::from_static("Upgrade"))?;
        put(headers, UPGRADE, protocol)?;
    } else if takes_trailers {
        put(headers, TE, HeaderValue::from_static("trailers"))?;
    }

    remove(headers, edits);
    set(headers, edits)?;
    verify(headers, edits)
}

/// Makes the target's headers the client's.
pub(crate) fn prepare_response(headers: &mut HeaderMap) {
    if headers.contains_key(TRANSFER_ENCODING) {
        // As in a request: it says nothing about the body that was read.
        headers.remove(CONTENT_LENGTH);
    }
    strip_hop_by_hop(headers);
}

/// Removes what belongs to one connection only, and all that any `Connection` value names.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Most heads carry none of them, and comparing names is cheaper than looking each of them up.
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return;
    }
    // A name that is none cannot be in the map.
    let named: Vec<HeaderName> =
        tokens(headers, &CONNECTION).filter_map(|token| header_name(token).ok()).collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Removes from a request's trailers what could not have come in its head: what the edits remove or set, and what
/// frames the message or belongs to the connection.
///
/// A target that merges trailers into the head, as RFC 9110 §6.5.1 warns of, would otherwise find there what was kept
/// out of it, `Impersonate-User` for example.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap, edits: &HeaderEdits) {
    let doomed: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| {
            HOP_BY_HOP.contains(name)
                || NEVER_SET.contains(name)
                || edits.remove.contains(name)
                || edits.set.contains_key(*name)
                || is_removed(name, edits)
        })
        .cloned()
        .collect();
    for name in doomed {
        trailers.remove(name);
    }
}

/// Whether any `Connection` value holds exactly the token `upgrade`.
pub(crate) fn connection_asks_for_upgrade(headers: &HeaderMap) -> bool {
    tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case(b"upgrade"))
}

/// The non-empty list members of every line of `name` (RFC 9110 §5.6.1), without the white space around them.
pub(crate) fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(trim)
        .filter(|token| !token.is_empty())
}

fn remove(headers: &mut HeaderMap, edits: &HeaderEdits) {
    for name in &edits.remove {
        headers.remove(name);
    }
    let doomed: Vec<HeaderName> = headers.keys().filter(|name| is_removed(name, edits)).cloned().collect();
    for name in doomed {
        headers.remove(name);
    }
    if let Some(prefix) = edits.remove_websocket_protocol_prefix {
        remove_websocket_protocols(headers, prefix);
    }
}

/// Whether `name` falls to a prefix, or is the underscore variant of a name that is removed or set: CGI-like targets
/// cannot tell `X_Remote_User` from `X-Remote-User`.
fn is_removed(name: &HeaderName, edits: &HeaderEdits) -> bool {
    let bytes = name.as_str().as_bytes();
    edits.remove_prefixes.iter().any(|prefix| starts_with_variant(bytes, prefix.as_bytes()))
        || bytes.contains(&b'_')
            && edits
                .remove
                .iter()
                .chain(edits.set.keys())
                .any(|other| *other != name && is_variant(bytes, other.as_str().as_bytes()))
}

fn starts_with_variant(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len()).is_some_and(|head| is_variant(head, prefix))
}

/// Equal but for case and for which of `-` and `_` was used.
fn is_variant(left: &[u8], right: &[u8]) -> bool {
    let fold = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    left.len() == right.len() && left.iter().map(fold).eq(right.iter().map(fold))
}

/// Drops the `Sec-WebSocket-Protocol` tokens that start with `prefix`; the others and their order stay.
fn remove_websocket_protocols(headers: &mut HeaderMap, prefix: &str) {
    let is_doomed = |token: &[u8]| {
        token.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    if !tokens(headers, &SEC_WEBSOCKET_PROTOCOL).any(is_doomed) {
        return;
    }
    let kept: Vec<&[u8]> =
        tokens(headers, &SEC_WEBSOCKET_PROTOCOL).filter(|token| !is_doomed(token)).collect();
    // Parts of valid values joined by a comma are a valid value; should that ever fail, no protocol is sent at all.
    let kept = HeaderValue::from_bytes(&kept.join(b", ".as_slice())).ok().filter(|value| !value.is_empty());
    match (kept, headers.get_mut(SEC_WEBSOCKET_PROTOCOL)) {
        (Some(value), Some(_)) => {
            // Replaces every line of a name that is there: the map does not grow.
            headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
        }
        _ => {
            headers.remove(SEC_WEBSOCKET_PROTOCOL);
        }
    }
}

fn set(headers: &mut HeaderMap, edits: &HeaderEdits) -> Result<(), ProxyError> {
    if let Some(name) = edits.set.keys().find(|name| NEVER_SET.contains(name)) {
        return Err(ProxyError::Assembly(format!("header edits may not set {name}: it frames the message")));
    }
    // The values of one name come one after the other; the first replaces whatever the client had sent.
    let mut last = None;
    for (name, value) in &edits.set {
        let value = value.clone();
        if last == Some(name) {
            headers.try_append(name, value).map_err(too_many)?;
        } else {
            headers.try_insert(name, value).map_err(too_many)?;
        }
        last = Some(name);
    }
    Ok(())
}

/// The last look before anything is sent. It fails closed: a request without the identity it was given would run as
/// whoever the connection's credential is.
fn verify(headers: &HeaderMap, edits: &HeaderEdits) -> Result<(), ProxyError> {
    for name in edits.set.keys() {
        if !headers.get_all(name).iter().eq(edits.set.get_all(name).iter()) {
            return Err(ProxyError::Assembly(format!("header {name} is not what the target's edits set")));
        }
    }
    match headers.keys().find(|name| is_removed(name, edits) && !edits.set.contains_key(*name)) {
        Some(name) => Err(ProxyError::Assembly(format!("header {name} was removed and is still there"))),
        None => Ok(()),
    }
}

/// The authority without user information, which is for `Authorization` and never for `Host`.
fn host(authority: &Authority) -> Result<HeaderValue, ProxyError> {
    let authority = authority.as_str();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    HeaderValue::try_from(host)
        .map_err(|_| ProxyError::Assembly("the target's authority is no header value".to_owned()))
}

fn header_name(token: &[u8]) -> Result<HeaderName, InvalidHeaderName> {
    HeaderName::from_bytes(token)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
fn too_many(error: http::header::MaxSizeReached) -> ProxyError {
    ProxyError::Assembly(format!("too many headers: {error}"))
}

/// Without optional white space (RFC 9110 §5.6.3): spaces and tabs, nothing else.
fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests;
