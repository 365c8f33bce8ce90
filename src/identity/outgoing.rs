//! The one place where the headers are assembled that tell a member who is asking.
//!
//! It starts from nothing of what the caller sent: every inbound identity header is on the removal list, whatever the
//! mode. Anything about a caller that could not arrive at the member exactly as it is refuses the request.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use upgrade_aware_proxy::HeaderEdits;

use super::Caller;
use crate::clusters::IdentityMode;

/// Bearer tokens of WebSocket clients that cannot set headers travel as a subprotocol with this prefix
/// (kubernetes/kubernetes#47740).
pub const WEBSOCKET_BEARER_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

const IMPERSONATE_USER: HeaderName = HeaderName::from_static("impersonate-user");
const IMPERSONATE_GROUP: HeaderName = HeaderName::from_static("impersonate-group");
const IMPERSONATE_UID: HeaderName = HeaderName::from_static("impersonate-uid");
const IMPERSONATE_EXTRA: &str = "impersonate-extra-";

/// What a caller must not bring along: credentials meant for us, and anything a member or something in front of it
/// could take for an identity or for the address of the caller.
const INBOUND_PREFIXES: [&str; 3] = ["impersonate-", "x-remote-", "x-forwarded-"];

/// A caller that cannot be shown to the member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The cluster's mode is `deny`.
    #[error("cluster {0:?} admits nobody: its identity mode is \"deny\"")]
    Denied(String),
    /// A user that may not be impersonated.
    #[error("user {user:?} may not be impersonated on a member: {why}")]
    User {
        /// The name.
        user: String,
        /// The rule.
        why: &'static str,
    },
    /// A group that may not be impersonated.
    #[error("user {user:?} may not be impersonated on a member: group {group:?} {why}")]
    Group {
        /// The caller.
        user: String,
        /// The group.
        group: String,
        /// The rule.
        why: &'static str,
    },
    /// A value that no header can carry unchanged.
    #[error(
        "the {part} of user {user:?} cannot be sent in a header: it is empty, starts or ends with a blank, or holds a control character"
    )]
    Unsendable {
        /// The caller.
        user: String,
        /// Which part: `name`, `uid`, `group` or `extra`.
        part: &'static str,
    },
    /// More headers than a message can hold.
    #[error("user {0:?} has too many groups and extra values to be sent")]
    TooMany(String),
}

/// The header edits that make `caller` arrive at cluster `cluster` as `mode` says, with the gateway's own credential
/// `authorization` where it has one.
///
/// `system:authenticated` is never sent, since the member adds it; extras of `authentication.kubernetes.io` describe
/// the caller's credential and are dropped.
///
/// # Errors
/// [`IdentityError`]: the request must not be forwarded.
pub fn header_edits(
    cluster: &str,
    mode: IdentityMode,
    caller: &Caller,
    authorization: Option<HeaderValue>,
) -> Result<HeaderEdits, IdentityError> {
    let mut set = match mode {
        IdentityMode::Deny => return Err(IdentityError::Denied(cluster.to_owned())),
        IdentityMode::Gateway => HeaderMap::new(),
        IdentityMode::Impersonate => impersonation(caller)?,
    };
    if let Some(authorization) = authorization {
        insert(&mut set, caller, header::AUTHORIZATION, authorization)?;
    }
    Ok(HeaderEdits {
        remove: vec![
            header::AUTHORIZATION,
            header::COOKIE,
            header::FORWARDED,
            HeaderName::from_static("x-real-ip"),
        ],
        remove_prefixes: INBOUND_PREFIXES.to_vec(),
        set,
        remove_websocket_protocol_prefix: Some(WEBSOCKET_BEARER_PREFIX),
    })
}

fn impersonation(caller: &Caller) -> Result<HeaderMap, IdentityError> {
    check_user(caller)?;
    let mut headers = HeaderMap::with_capacity(4 + caller.groups.len());
    insert(&mut headers, caller, IMPERSONATE_USER, value(caller, "name", &caller.name)?)?;
    if let Some(uid) = &caller.uid {
        insert(&mut headers, caller, IMPERSONATE_UID, value(caller, "uid", uid)?)?;
    }
    for group in caller.groups.iter().filter(|group| *group != "system:authenticated") {
        check_group(caller, group)?;
        insert(&mut headers, caller, IMPERSONATE_GROUP, value(caller, "group", group)?)?;
    }
    for (key, values) in &caller.extra {
        if key.starts_with("authentication.kubernetes.io/") {
            continue;
        }
        let name = extra_header(caller, key)?;
        for extra in values {
            insert(&mut headers, caller, name.clone(), value(caller, "extra", extra)?)?;
        }
    }
    Ok(headers)
}

/// Names that would mean something else, or too much, at a member.
fn check_user(caller: &Caller) -> Result<(), IdentityError> {
    let why = match caller.name.as_str() {
        "" => "it has no name",
        "system:anonymous" => "nobody is not somebody",
        name if name.starts_with("system:serviceaccount:") => {
            "a ServiceAccount's name means another account on every cluster"
        }
        _ => return Ok(()),
    };
    Err(IdentityError::User { user: caller.name.clone(), why })
}

fn check_group(caller: &Caller, group: &str) -> Result<(), IdentityError> {
    let why = match group {
        "system:masters" => "passes every authorisation check there",
        "system:unauthenticated" => "is for those who are nobody",
        _ if group == "system:serviceaccounts" || group.starts_with("system:serviceaccounts:") => {
            "means other accounts on every cluster"
        }
        _ => return Ok(()),
    };
    Err(IdentityError::Group { user: caller.name.clone(), group: group.to_owned(), why })
}

/// A header value that arrives as it was sent. HTTP trims blanks around values, so ` admin` would arrive as `admin`.
fn value(caller: &Caller, part: &'static str, text: &str) -> Result<HeaderValue, IdentityError> {
    let unsendable = || IdentityError::Unsendable { user: caller.name.clone(), part };
    let blank = |byte: Option<&u8>| matches!(byte, None | Some(b' ' | b'\t'));
    if blank(text.as_bytes().first()) || blank(text.as_bytes().last()) {
        return Err(unsendable());
    }
    HeaderValue::from_bytes(text.as_bytes()).map_err(|_| unsendable())
}

/// `Impersonate-Extra-<key>` with the key percent-encoded as client-go does: every byte that is no token character,
/// and `%` itself. Keys lose their case on the way, so one that has any is refused.
fn extra_header(caller: &Caller, key: &str) -> Result<HeaderName, IdentityError> {
    let unsendable = || IdentityError::Unsendable { user: caller.name.clone(), part: "extra" };
    if key.is_empty() || key.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(unsendable());
    }
    let mut name = String::with_capacity(IMPERSONATE_EXTRA.len() + key.len() + 8);
    name.push_str(IMPERSONATE_EXTRA);
    for byte in key.bytes() {
        if byte != b'%' && is_token(byte) {
            name.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(name, "%{byte:02x}");
        }
    }
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| unsendable())
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn insert(
    headers: &mut HeaderMap,
    caller: &Caller,
    name: HeaderName,
    mut value: HeaderValue,
) -> Result<(), IdentityError> {
    if name == header::AUTHORIZATION {
        value.set_sensitive(true);
    }
    match headers.try_append(name, value) {
        Ok(_) => Ok(()),
        Err(_) => Err(IdentityError::TooMany(caller.name.clone())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn caller(name: &str, groups: &[&str]) -> Caller {
        Caller {
            name: name.into(),
            groups: groups.iter().map(ToString::to_string).collect(),
            ..Caller::default()
        }
    }

    fn impersonate(caller: &Caller) -> Result<HeaderEdits, IdentityError> {
        header_edits(
            "east",
            IdentityMode::Impersonate,
            caller,
            Some(HeaderValue::from_static("Bearer gateway")),
        )
    }

    fn values(edits: &HeaderEdits, name: &str) -> Vec<String> {
        edits
            .set
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8(value.as_bytes().to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn the_caller_arrives_with_name_uid_groups_and_extra() {
        let mut tom = caller("tom", &["dev", "a,b", "öl", "system:authenticated"]);
        tom.uid = Some("7".into());
        tom.extra.insert("example.com/scopes".into(), vec!["read".into(), "write".into()]);
        tom.extra.insert("authentication.kubernetes.io/credential-id".into(), vec!["JTI=1".into()]);
        let edits = impersonate(&tom).unwrap();
        assert_eq!(values(&edits, "impersonate-user"), ["tom"]);
        assert_eq!(values(&edits, "impersonate-uid"), ["7"]);
        assert_eq!(values(&edits, "impersonate-group"), ["dev", "a,b", "öl"]);
        assert_eq!(values(&edits, "impersonate-extra-example.com%2fscopes"), ["read", "write"]);
        assert_eq!(values(&edits, "authorization"), ["Bearer gateway"]);
        assert_eq!(edits.set.len(), 8);
    }

    #[test]
    fn the_gateways_mode_sends_its_credential_and_nothing_about_the_caller() {
        let edits =
            header_edits("east", IdentityMode::Gateway, &caller("tom", &["system:masters"]), None).unwrap();
        assert!(edits.set.is_empty());
        assert!(edits.remove_prefixes.contains(&"impersonate-"));
    }

    #[test]
    fn deny_admits_nobody() {
        let denied = header_edits("east", IdentityMode::Deny, &caller("tom", &[]), None);
        assert_eq!(denied.unwrap_err(), IdentityError::Denied("east".into()));
    }

    #[test]
    fn names_with_power_or_another_meaning_at_the_member_are_refused() {
        for user in ["", "system:anonymous", "system:serviceaccount:default:tom"] {
            assert!(matches!(impersonate(&caller(user, &[])), Err(IdentityError::User { .. })), "{user}");
        }
        for group in [
            "system:masters",
            "system:unauthenticated",
            "system:serviceaccounts",
            "system:serviceaccounts:kube-system",
        ] {
            assert!(
                matches!(impersonate(&caller("tom", &["dev", group])), Err(IdentityError::Group { .. })),
                "{group}"
            );
        }
    }

    #[test]
    fn what_a_header_would_change_is_refused() {
        for odd in [" tom", "tom ", "\ttom", "to\r\nImpersonate-Group: system:masters", "to\0m"] {
            assert!(
                matches!(impersonate(&caller(odd, &[])), Err(IdentityError::Unsendable { part: "name", .. })),
                "{odd:?}"
            );
            assert!(
                matches!(
                    impersonate(&caller("tom", &[odd])),
                    Err(IdentityError::Unsendable { part: "group", .. })
                ),
                "{odd:?}"
            );
        }
        assert!(matches!(impersonate(&caller("tom", &[""])), Err(IdentityError::Unsendable { .. })));
        let mut tom = caller("tom", &[]);
        tom.extra.insert("Scopes".into(), vec!["x".into()]);
        assert!(matches!(impersonate(&tom), Err(IdentityError::Unsendable { part: "extra", .. })));
    }

    #[test]
    fn more_headers_than_a_message_can_hold_are_an_error_and_no_panic() {
        let mut tom = caller("tom", &[]);
        tom.extra = (0..40_000).map(|number| (format!("key{number}"), vec!["x".to_owned()])).collect();
        assert_eq!(impersonate(&tom).unwrap_err(), IdentityError::TooMany("tom".into()));
    }

    proptest! {
        #[test]
        fn whatever_is_sent_is_exactly_the_caller(
            name in "\\PC{1,20}",
            uid in proptest::option::of("\\PC{0,12}"),
            groups in proptest::collection::vec("\\PC{0,16}|system:authenticated|system:masters", 0..6),
            extra in proptest::collection::btree_map("\\PC{0,12}", proptest::collection::vec("\\PC{0,8}", 0..3), 0..4),
        ) {
            let caller = Caller { name, uid, groups, extra };
            let Ok(edits) = impersonate(&caller) else { return Ok(()) };
            prop_assert_eq!(values(&edits, "impersonate-user"), [caller.name.clone()]);
            prop_assert_eq!(values(&edits, "impersonate-uid"), caller.uid.iter().cloned().collect::<Vec<_>>());
            let sent: Vec<_> = caller.groups.iter().filter(|group| *group != "system:authenticated").cloned().collect();
            prop_assert!(!sent.iter().any(|group| group == "system:masters"));
            prop_assert_eq!(values(&edits, "impersonate-group"), sent);
            let mut read: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (name, value) in &edits.set {
                if let Some(key) = name.as_str().strip_prefix(IMPERSONATE_EXTRA) {
                    let key = percent_encoding::percent_decode_str(key).decode_utf8().unwrap().into_owned();
                    read.entry(key).or_default().push(String::from_utf8(value.as_bytes().to_vec()).unwrap());
                }
            }
            let expected: BTreeMap<_, _> = caller.extra.into_iter().filter(|(_, values)| !values.is_empty()).collect();
            prop_assert_eq!(read, expected);
        }
    }
}
