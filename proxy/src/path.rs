//! The path and query on their way to the target: byte for byte, behind the target's base path.
//!
//! Nothing is cleaned, decoded or re-ordered. The one thing refused is a dot segment under a base path, in whatever
//! disguise: the base path is a boundary, and a target that normalises would step over it.

use http::{
    Uri,
    uri::{Parts, PathAndQuery},
};

use crate::{ProxyError, Target};

/// The path and query to ask `target` for, given the client's URI.
///
/// # Errors
/// [`ProxyError::UnforwardablePath`].
pub(crate) fn outgoing(target: &Target, client: &Uri) -> Result<PathAndQuery, ProxyError> {
    let unforwardable = |reason: &str| ProxyError::UnforwardablePath(reason.to_owned());
    let asked = target
        .path_and_query
        .as_ref()
        .or_else(|| client.path_and_query())
        .ok_or_else(|| unforwardable("the request has none"))?;
    let base = target.base_path.as_str();
    let join = |base: &[&str]| {
        PathAndQuery::try_from([base.concat().as_str(), asked.as_str()].concat())
            .map_err(|error| ProxyError::UnforwardablePath(error.to_string()))
    };
    if asked.as_str().starts_with('?') {
        // `GET http://host?query`: an empty path is the root (RFC 9110 §4.2.3).
        return join(&[base, "/"]);
    }
    if base.is_empty() {
        return Ok(asked.clone());
    }
    if !asked.as_str().starts_with('/') {
        return Err(unforwardable("it does not start with '/'"));
    }
    if has_dot_segments(asked.path()) {
        return Err(unforwardable("it holds a dot segment, and the target is confined to a base path"));
    }
    join(&[base])
}

/// `scheme://authority` in front of `path`.
///
/// # Errors
/// [`ProxyError::UnforwardablePath`].
pub(crate) fn absolute(target: &Target, path: PathAndQuery) -> Result<Uri, ProxyError> {
    let mut parts = Parts::default();
    parts.scheme = Some(target.scheme.clone());
    parts.authority = Some(target.authority.clone());
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|error| ProxyError::UnforwardablePath(error.to_string()))
}

/// Whether some normaliser could read `.` or `..` as a segment of `path`: literally, percent-encoded, between encoded
/// or backward slashes, or in front of `;` parameters.
pub(crate) fn has_dot_segments(path: &str) -> bool {
    let path = path.as_bytes();
    // Where a segment starts, and how many dots and nothing else it holds so far.
    let mut dots = Some(0);
    let mut rest = path;
    loop {
        let (byte, after) = match rest {
            [] => return dots.is_some_and(is_dot_segment),
            [b'%', high, low, after @ ..] => (decode(*high, *low), after),
            [byte, after @ ..] => (Some(*byte), after),
        };
        match byte {
            Some(b'/' | b'\\') => {
                if dots.is_some_and(is_dot_segment) {
                    return true;
                }
                dots = Some(0);
            }
            Some(b';') if dots.is_some_and(is_dot_segment) => return true,
            Some(b'.') => dots = dots.map(|count: u32| count.saturating_add(1)),
            _ => dots = None,
        }
        rest = after;
    }
}

fn is_dot_segment(dots: u32) -> bool {
    matches!(dots, 1 | 2)
}

fn decode(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

#[cfg(test)]
mod tests {
    use super::has_dot_segments;

    #[test]
    fn dot_segments_are_seen_in_every_disguise() {
        for path in [
            "/..",
            "/.",
            "/a/../b",
            "/a/./b",
            "/a/..",
            "/%2e%2e/b",
            "/%2E./b",
            "/.%2e",
            "/a%2f..%2fb",
            "/a%5C..%5cb",
            "/a\\..\\b",
            "/..;x=y/b",
            "/.;/b",
            "/..%3bx",
            "..",
        ] {
            assert!(has_dot_segments(path), "{path}");
        }
    }

    #[test]
    fn names_with_dots_are_no_dot_segments() {
        for path in [
            "/",
            "",
            "//",
            "/...",
            "/.a",
            "/a.",
            "/..a/b",
            "/a..b",
            "/%2e%2e%2e",
            "/%252e",
            "/.%",
            "/.%2",
            "/a;..",
        ] {
            assert!(!has_dot_segments(path), "{path}");
        }
    }
}
