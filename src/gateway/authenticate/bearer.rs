//! Where bearer tokens stand in a request.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header};

use crate::identity::WEBSOCKET_BEARER_PREFIX;

/// The token of `Authorization: Bearer …` (RFC 6750, section 2.1; the scheme in any case). `None` when there is none:
/// other schemes are not ours to judge.
pub(super) fn in_authorization(headers: &HeaderMap) -> Option<Result<Cow<'_, str>, &'static str>> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return Some(Err("there is more than one Authorization header"));
    }
    let value = value.as_bytes().trim_ascii();
    let end_of_scheme = value.iter().position(|byte| *byte == b' ').unwrap_or(value.len());
    let (scheme, rest) = value.split_at(end_of_scheme);
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return None;
    }
    let token = match str::from_utf8(rest.trim_ascii()) {
        Ok(token) if !token.is_empty() && !token.contains(' ') => Ok(Cow::Borrowed(token)),
        Ok("") => Err("the bearer token is empty"),
        _ => Err("the bearer token holds blanks or is not text"),
    };
    Some(token)
}

/// The token that a WebSocket client, which in a browser cannot set `Authorization`, offers as a subprotocol
/// (kubernetes/kubernetes#47740): base64url without padding, and only next to a protocol that can really be spoken,
/// since the server must not select the token.
pub(super) fn in_websocket_protocols(headers: &HeaderMap) -> Option<Result<Cow<'_, str>, &'static str>> {
    if !is_websocket(headers) {
        return None;
    }
    let mut token = None;
    let mut others = false;
    let protocols = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii);
    for protocol in protocols.filter(|protocol| !protocol.is_empty()) {
        match protocol.strip_prefix(WEBSOCKET_BEARER_PREFIX.as_bytes()) {
            None => others = true,
            Some(_) if token.is_some() => {
                return Some(Err("there is more than one bearer token subprotocol"));
            }
            Some(encoded) => token = Some(encoded),
        }
    }
    let encoded = token?;
    if !others {
        return Some(Err("a bearer token subprotocol needs another subprotocol beside it"));
    }
    let decoded = URL_SAFE_NO_PAD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    Some(match decoded {
        Some(token) if !token.is_empty() => Ok(Cow::Owned(token)),
        _ => Err("the bearer token subprotocol is not base64url of a token"),
    })
}

fn is_websocket(headers: &HeaderMap) -> bool {
    let names = |name, token: &[u8]| {
        headers
            .get_all(name)
            .iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
            .any(|value| value.trim_ascii().eq_ignore_ascii_case(token))
    };
    names(header::CONNECTION, b"upgrade") && names(header::UPGRADE, b"websocket")
}
