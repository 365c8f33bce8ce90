//! What a request is for, read once from its raw, still percent-encoded path.
//!
//! Before the member's tail only the exact shape counts: every other spelling is no route of ours, so that nobody can
//! be authorised for one thing and served another. The tail belongs to the member and keeps its bytes; only dot
//! segments are refused, since a later normaliser could walk out of the member's prefix with them.

use http::{Method, Uri, uri::PathAndQuery};

use crate::clusters::ClusterName;

const GROUP_PREFIX: &str = "/apis/cluster.core.oam.dev/v1alpha1/clustergateways/";
const SHORT_PREFIX: &str = "/clusters/";

/// What a request is for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// `/healthz`, `/livez` or `/readyz`, by name without the slash.
    Health(&'a str),
    /// A request to a member.
    Member(MemberRoute<'a>),
    /// Nothing of ours.
    Unknown,
}

/// A request to a member.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MemberRoute<'a> {
    /// The cluster's name; well formed, not necessarily known.
    pub(crate) cluster: &'a str,
    /// Everything up to the tail: the path under which the caller sees the member, without a trailing slash.
    pub(crate) prefix: &'a str,
    /// The path at the member, percent-encoded as it came. Empty or starting with `/`.
    pub(crate) tail: &'a str,
    query: Option<&'a str>,
}

/// A tail that is not forwarded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidTail {
    /// `.` or `..` as a segment, in any spelling.
    #[error("the path holds a dot segment ({0:?}); send it resolved")]
    DotSegment(String),
    /// Not a path after the prefix was taken off.
    #[error("the path cannot be forwarded: {0}")]
    Malformed(String),
}

impl<'a> Route<'a> {
    /// Reads the route of `uri`.
    pub(crate) fn of(uri: &'a Uri) -> Self {
        let path = uri.path();
        if let Some(health @ ("healthz" | "livez" | "readyz")) = path.strip_prefix('/') {
            return Self::Health(health);
        }
        let member = |name_and_tail: &'a str, after_name: &str| {
            let (cluster, rest) =
                name_and_tail.split_at(name_and_tail.find('/').unwrap_or(name_and_tail.len()));
            let tail = rest.strip_prefix(after_name)?;
            let exact = ClusterName::is_valid(cluster) && (tail.is_empty() || tail.starts_with('/'));
            let prefix = &path[..path.len() - tail.len()];
            exact.then_some(Self::Member(MemberRoute { cluster, prefix, tail, query: uri.query() }))
        };
        path.strip_prefix(GROUP_PREFIX)
            .and_then(|rest| member(rest, "/proxy"))
            .or_else(|| path.strip_prefix(SHORT_PREFIX).and_then(|rest| member(rest, "")))
            .unwrap_or(Self::Unknown)
    }
}

impl MemberRoute<'_> {
    /// Path and query as the member gets them, byte for byte; an empty tail asks for `/`.
    ///
    /// # Errors
    /// [`InvalidTail`] for dot segments.
    pub(crate) fn path_and_query(&self) -> Result<PathAndQuery, InvalidTail> {
        if let Some(segment) = segments(self.tail).find(|segment| is_dot_segment(segment)) {
            return Err(InvalidTail::DotSegment(segment.to_owned()));
        }
        let path = if self.tail.is_empty() { "/" } else { self.tail };
        let parsed = match self.query {
            // The one allocation that forwarding a path costs: `http` offers no view into the caller's own.
            Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
            None => PathAndQuery::try_from(path),
        };
        parsed.map_err(|error| InvalidTail::Malformed(error.to_string()))
    }

    /// Whether the tail asks for a stream into a container: exec, attach or port-forward, at the API server or, by way
    /// of `nodes/proxy`, at a kubelet. Any segment counts, decoded and in any case; a false alarm costs a caller one
    /// more right, a miss would hand out a shell (kubernetes/kubernetes#133515).
    pub(crate) fn is_container_stream(&self) -> bool {
        segments(self.tail).any(|segment| {
            ["exec", "attach", "portforward"].iter().any(|stream| is_decoded_name(segment, stream.as_bytes()))
        })
    }
}

/// The RBAC verb of `method` on `clustergateways/proxy`; `None` for methods no API server serves.
pub(crate) fn verb(method: &Method) -> Option<&'static str> {
    match *method {
        Method::GET | Method::HEAD | Method::OPTIONS => Some("get"),
        Method::POST => Some("create"),
        Method::PUT => Some("update"),
        Method::PATCH => Some("patch"),
        Method::DELETE => Some("delete"),
        _ => None,
    }
}

/// The segments of a raw path as the most generous reader could split it: at `/` and `\`, encoded or not.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(path);
    std::iter::from_fn(move || {
        let path = rest?;
        let bytes = path.as_bytes();
        let separator = (0..bytes.len()).find_map(|at| match decode(&bytes[at..]) {
            Some((b'/' | b'\\', width)) => Some((at, width)),
            _ => None,
        });
        let (segment, after) = match separator {
            Some((at, width)) => (&path[..at], Some(&path[at + width..])),
            None => (path, None),
        };
        rest = after;
        Some(segment)
    })
}

fn is_dot_segment(segment: &str) -> bool {
    is_decoded_name(segment, b".") || is_decoded_name(segment, b"..")
}

/// Whether a segment decodes to `plain`, in any case, with or without `;` parameters behind it: some servers drop those
/// before they look at a name.
fn is_decoded_name(encoded: &str, plain: &[u8]) -> bool {
    let mut rest = encoded.as_bytes();
    for expected in plain {
        match decode(rest) {
            Some((byte, width)) if byte.eq_ignore_ascii_case(expected) => rest = &rest[width..],
            _ => return false,
        }
    }
    matches!(decode(rest), None | Some((b';', _)))
}

/// The first byte of `encoded`, percent-decoded, and how many bytes it took.
fn decode(encoded: &[u8]) -> Option<(u8, usize)> {
    let hex = |digit: u8| char::from(digit).to_digit(16);
    match *encoded {
        [b'%', high, low, ..] => match (hex(high), hex(low)) {
            #[expect(clippy::cast_possible_truncation, reason = "two hexadecimal digits are one byte")]
            (Some(high), Some(low)) => Some(((high * 16 + low) as u8, 3)),
            _ => Some((b'%', 1)),
        },
        [byte, ..] => Some((byte, 1)),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    fn forwarded(text: &str) -> Option<String> {
        let uri = uri(text);
        match Route::of(&uri) {
            Route::Member(route) => Some(format!("{} {}", route.cluster, route.path_and_query().ok()?)),
            _ => None,
        }
    }

    #[test]
    fn both_spellings_reach_the_member_with_the_tail_untouched() {
        for prefix in ["/apis/cluster.core.oam.dev/v1alpha1/clustergateways/east/proxy", "/clusters/east"] {
            for (tail, at_member) in [
                ("", "/"),
                ("/", "/"),
                ("?a=1", "/?a=1"),
                ("/api/v1/pods?", "/api/v1/pods?"),
                ("/api//v1/", "/api//v1/"),
                ("/a%2Fb/%C3%A4?x=%zz;y&flag&b=+", "/a%2Fb/%C3%A4?x=%zz;y&flag&b=+"),
                (
                    "/api/v1/namespaces/a/services/http:x:80/proxy/..x/...",
                    "/api/v1/namespaces/a/services/http:x:80/proxy/..x/...",
                ),
            ] {
                assert_eq!(
                    forwarded(&format!("{prefix}{tail}")),
                    Some(format!("east {at_member}")),
                    "{prefix}{tail}"
                );
            }
        }
    }

    #[test]
    fn every_other_spelling_before_the_tail_is_no_route() {
        for path in [
            "/apis/cluster.core.oam.dev/v1alpha1/clustergateways",
            "/apis/cluster.core.oam.dev/v1alpha1/clustergateways/east",
            "/apis/cluster.core.oam.dev/v1alpha1/clustergateways/east/proxyx",
            "/apis/cluster.core.oam.dev/v1alpha1/clustergateways/east/health",
            "/apis/cluster.core.oam.dev/v1alpha1/clustergateways//proxy/x",
            "/apis/cluster.core.oam.dev/v1alpha1/clustergateways/east//proxy/x",
            "/apis/cluster.core.oam.dev/v1alpha1/clustergateways/east%2Fproxy/x",
            "/apis/cluster.core.oam.dev/v1alpha1/clustergateways/e%61st/proxy/x",
            "/apis/cluster.core.oam.dev/v1alpha1/clustergateways/../proxy/x",
            "/apis/cluster.core.oam.dev/v1alpha1/clustergateways/EAST/proxy/x",
            "/apis/cluster.core.oam.dev/v1alpha1/watch/clustergateways/east/proxy/x",
            "/apis/cluster.core.oam.dev/v1alpha1/proxy/clustergateways/east/proxy/x",
            "/apis/cluster.core.oam.dev/v1alpha1/namespaces/ns/clustergateways/east/proxy/x",
            "//apis/cluster.core.oam.dev/v1alpha1/clustergateways/east/proxy/x",
            "/apis//v1alpha1/clustergateways/east/proxy/x",
            "/apis/cluster.core.oam.dev/v1alpha1/clustergateways/east/proxy%2Fx",
            "/clusters",
            "/clusters/",
            "/clusters//api",
            "/clusters/../east/api",
            "/clusters/e%2Fast",
            "//clusters/east",
            "/Clusters/east",
            "/healthz/",
            "/",
            "/healthz/x",
        ] {
            assert_eq!(Route::of(&uri(path)), Route::Unknown, "{path}");
        }
    }

    #[test]
    fn health_endpoints_are_routes() {
        assert_eq!(Route::of(&uri("/readyz?verbose")), Route::Health("readyz"));
    }

    #[test]
    fn dot_segments_are_refused_in_every_spelling() {
        for tail in [
            "/..",
            "/.",
            "/../x",
            "/a/./b",
            "/a/../..",
            "/%2e%2e/x",
            "/.%2E/x",
            "/%2e",
            "/a%2f..%2fb",
            "/a%2F%2e%2e",
            "/a%5c..%5cb",
            "/..%2f",
            "/..;/x",
            "/.;a=b",
            "/%2e%2e%3bx/y",
            "/x/..?y",
        ] {
            let uri = uri(&format!("/clusters/east{tail}"));
            let Route::Member(route) = Route::of(&uri) else { panic!("{tail} is a member route") };
            assert!(matches!(route.path_and_query(), Err(InvalidTail::DotSegment(_))), "{tail}");
        }
    }

    #[test]
    fn container_streams_are_recognised_in_every_spelling() {
        for (tail, expected) in [
            ("/api/v1/namespaces/a/pods/b/exec", true),
            ("/api/v1/namespaces/a/pods/b/exec/", true),
            ("/api/v1/namespaces/a/pods/b/%65xec", true),
            ("/api/v1/namespaces/a/pods/b%2Fexec", true),
            ("/api/v1/namespaces/a/pods/b/exec;x", true),
            ("/api/v1/namespaces/a/pods/b/exec%3Bx=y", true),
            ("/api/v1/namespaces/a/pods/b/attach", true),
            ("/api/v1/namespaces/a/pods/b/portforward", true),
            ("/api/v1/nodes/n/proxy/portForward/a/b", true),
            ("/api/v1/namespaces/a/pods/b/log", false),
            ("/api/v1/namespaces/a/pods/executor", false),
            ("", false),
        ] {
            let uri = uri(&format!("/clusters/east{tail}"));
            let Route::Member(route) = Route::of(&uri) else { panic!("{tail} is a member route") };
            assert_eq!(route.is_container_stream(), expected, "{tail}");
        }
    }

    proptest! {
        #[test]
        fn any_tail_is_forwarded_byte_for_byte_or_refused(tail in "(/[!-~&&[^?#]]{0,12}){1,5}", query in "(\\?[!-~&&[^#]]{0,20})?") {
            let Ok(uri) = format!("/clusters/east{tail}{query}").parse::<Uri>() else { return Ok(()) };
            let Route::Member(route) = Route::of(&uri) else { panic!("always a member route") };
            match route.path_and_query() {
                Ok(forwarded) => prop_assert_eq!(forwarded.as_str(), format!("{tail}{query}")),
                Err(error) => prop_assert!(matches!(error, InvalidTail::DotSegment(_)), "{}", error),
            }
        }

        #[test]
        fn no_forwarded_tail_walks_upwards_once_decoded(tail in "(/|%2[fF]|%5[cC]|\\.|%2[eE]|a){0,12}") {
            let Ok(uri) = format!("/clusters/east/{tail}").parse::<Uri>() else { return Ok(()) };
            let Route::Member(route) = Route::of(&uri) else { panic!("always a member route") };
            if route.path_and_query().is_ok() {
                let decoded = percent_encoding::percent_decode_str(route.tail).decode_utf8_lossy().into_owned();
                prop_assert!(!decoded.split(['/', '\\']).any(|segment| matches!(segment, "." | "..")), "{}", decoded);
            }
        }
    }
}
