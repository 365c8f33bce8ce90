//! What becomes of a redirect that the target answers.
//!
//! A redirect can make a client carry its credentials somewhere else (CVE-2022-3172), and through an aggregator it
//! is the hub that is led astray. So by default only a `Location` that stays inside the target is passed on, and
//! only as a path below the client's own prefix: it names no host, so it cannot lead to another one.

use http::{
    HeaderValue, StatusCode,
    header::LOCATION,
    response,
    uri::{Authority, PathAndQuery},
};

use crate::{ProxyError, RedirectPolicy, Target};

/// Applies the target's policy to a response head. `asked` is the path and query that the target was asked for.
///
/// # Errors
/// [`ProxyError::RedirectRefused`].
pub(crate) fn apply(
    target: &Target,
    asked: &PathAndQuery,
    head: &mut response::Parts,
) -> Result<(), ProxyError> {
    if !head.status.is_redirection() || !head.headers.contains_key(LOCATION) {
        return Ok(());
    }
    if target.redirects == RedirectPolicy::Pass {
        return Ok(());
    }
    if head.status == StatusCode::NOT_MODIFIED {
        // No redirect; nobody follows it, and nobody needs its Location (kubernetes/kubernetes#112524).
        head.headers.remove(LOCATION);
        return Ok(());
    }
    let refused = ProxyError::RedirectRefused { status: head.status };
    if target.redirects == RedirectPolicy::Refuse {
        return Err(refused);
    }
    let mut locations = head.headers.get_all(LOCATION).iter();
    let (Some(location), None) = (locations.next(), locations.next()) else {
        return Err(refused);
    };
    let inside = within(target, asked, location.as_bytes()).and_then(|path| HeaderValue::try_from(path).ok());
    let Some(inside) = inside else {
        return Err(refused);
    };
    head.headers.insert(LOCATION, inside);
    Ok(())
}

/// The path at which the client finds `location`, if that is inside the target.
fn within(target: &Target, asked: &PathAndQuery, location: &[u8]) -> Option<String> {
    // Browsers read a backslash as a slash and skip tabs; nothing honest holds either.
    if location.iter().any(|byte| *byte == b'\\' || byte.is_ascii_control()) {
        return None;
    }
    let location = escape(location);
    let (location, fragment) = split_before(&location, '#');
    let (location, query) = split_before(location, '?');

    let path = match own_path(target, location)? {
        "" if query.is_empty() => {
            return client_path(
                target,
                asked.path(),
                asked.query().map(|query| format!("?{query}")),
                fragment,
            );
        }
        "" => asked.path().to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        relative => {
            let parent = asked.path().rsplit_once('/').map_or("", |(parent, _)| parent);
            format!("{parent}/{relative}")
        }
    };
    client_path(target, &path, Some(query.to_owned()), fragment)
}

/// The path of a reference without query and fragment, if scheme and authority are absent or the target's.
fn own_path<'l>(target: &Target, location: &'l str) -> Option<&'l str> {
    let rest = match location.split_once(':') {
        // RFC 3986 §4.2: a colon after the first slash belongs to the path.
        Some((scheme, rest)) if !scheme.contains('/') => {
            if !scheme.eq_ignore_ascii_case(target.scheme.as_str()) || !rest.starts_with("//") {
                return None;
            }
            rest
        }
        _ => location,
    };
    let Some(rest) = rest.strip_prefix("//") else {
        return Some(rest);
    };
    let (authority, path) = split_before(rest, '/');
    let authority: Authority = authority.parse().ok()?;
    let own = &target.authority;
    let default_port = if target.scheme == http::uri::Scheme::HTTPS { 443 } else { 80 };
    let same = !authority.as_str().contains('@')
        && authority.host().eq_ignore_ascii_case(own.host())
        && authority.port_u16().unwrap_or(default_port) == own.port_u16().unwrap_or(default_port);
    same.then_some(if path.is_empty() { "/" } else { path })
}

/// Moves a path of the target below the client's prefix; `None` if it is outside the base path.
fn client_path(target: &Target, path: &str, query: Option<String>, fragment: &str) -> Option<String> {
    let path = remove_dot_segments(path)?;
    let tail = path.strip_prefix(target.base_path.as_str())?;
    if !tail.is_empty() && !tail.starts_with('/') {
        return None;
    }
    let mut client = format!("{}{tail}", target.client_prefix);
    if client.is_empty() {
        client.push('/');
    }
    // `//host` would name another host after all.
    if !client.starts_with('/') || client.starts_with("//") {
        return None;
    }
    Some(client + &query.unwrap_or_default() + fragment)
}

/// RFC 3986 §5.2.4 for an absolute path. `None` if it climbs above the root or hides dot segments behind escapes.
fn remove_dot_segments(path: &str) -> Option<String> {
    if !crate::path::has_dot_segments(path) {
        return Some(path.to_owned());
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.strip_prefix('/')?.split('/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop()?;
                }
                if segments.peek().is_none() {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    let path = format!("/{}", kept.join("/"));
    (!crate::path::has_dot_segments(&path)).then_some(path)
}

/// Percent-encodes what may not stand in a URI reference; escapes that are there stay as they are.
fn escape(reference: &[u8]) -> String {
    let mut escaped = String::with_capacity(reference.len());
    for byte in reference {
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}') {
            escaped.push(char::from(*byte));
        } else {
            escaped.push('%');
            for digit in [byte >> 4, byte & 0xf] {
                escaped.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
            }
        }
    }
    escaped
}

/// What comes before `delimiter`, and the rest with it.
fn split_before(text: &str, delimiter: char) -> (&str, &str) {
    text.split_at(text.find(delimiter).unwrap_or(text.len()))
}
