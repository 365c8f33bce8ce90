use http::{HeaderMap, HeaderName, HeaderValue, uri::Authority};
use proptest::prelude::*;

use super::{connection_asks_for_upgrade, prepare_request, strip_hop_by_hop};
use crate::{HeaderEdits, ProxyError};

fn authority() -> Authority {
    Authority::from_static("member.test:6443")
}

const PREFIXES: [&str; 2] = ["impersonate-", "x-remote-"];

/// Names that meet often: hop-by-hop ones, ones that edits remove or set, their variants, and harmless ones.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "connection",
            "keep-alive",
            "proxy-connection",
            "proxy-authorization",
            "te",
            "transfer-encoding",
            "upgrade",
            "trailer",
            "expect",
            "host",
            "content-length",
            "authorization",
            "cookie",
            "impersonate-user",
            "impersonate_user",
            "impersonate-group",
            "Impersonate-Extra-a_b",
            "x-remote-user",
            "x_remote-user",
            "x-a",
            "x_a",
            "accept",
            "http2-settings",
        ])
        .prop_map(str::to_owned),
        "[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,12}",
    ]
}

/// A `Connection` value: names in any case, spaces, tabs, empty members, and things that are no names.
fn connection_value() -> impl Strategy<Value = String> {
    prop::collection::vec(
        (
            "[ \t]{0,2}",
            prop_oneof![4 => name(), 1 => Just(String::new()), 1 => "[ -~]{0,8}"],
            "[ \t]{0,2}",
            any::<bool>(),
        ),
        0..6,
    )
    .prop_map(|members| {
        let member = |(before, name, after, upper): &(String, String, String, bool)| {
            let name = if *upper { name.to_uppercase() } else { name.clone() };
            format!("{before}{name}{after}")
        };
        members.iter().map(member).collect::<Vec<_>>().join(",")
    })
}

fn headers() -> impl Strategy<Value = HeaderMap> {
    let line = prop_oneof![
        2 => (name(), "[ -~]{0,12}"),
        1 => (Just("Connection".to_owned()), connection_value()),
    ];
    prop::collection::vec(line, 0..24).prop_map(|lines| {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value.trim()).unwrap());
        }
        map
    })
}

fn edits() -> impl Strategy<Value = HeaderEdits> {
    let settable = prop::sample::select(vec![
        "authorization",
        "impersonate-user",
        "impersonate-group",
        "x-remote-user",
        "x-a",
        "accept",
        "cookie",
    ]);
    let set = prop::collection::vec((settable, "[ -~]{0,8}"), 0..6);
    let remove = prop::sample::subsequence(vec!["authorization", "cookie", "x-a"], 0..=3);
    (set, remove).prop_map(|(set, remove)| {
        let mut edits = HeaderEdits {
            remove: remove.into_iter().map(HeaderName::from_static).collect(),
            remove_prefixes: PREFIXES.to_vec(),
            ..HeaderEdits::default()
        };
        for (name, value) in set {
            edits.set.append(HeaderName::from_static(name), HeaderValue::try_from(value.trim()).unwrap());
        }
        edits
    })
}

/// What any `Connection` line names, found the slow and obvious way.
fn named(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all("connection")
        .iter()
        .flat_map(|value| value.to_str().unwrap().split(','))
        .map(|token| token.trim_matches([' ', '\t']).to_lowercase())
        .collect()
}

/// With `-` for every `_`.
fn folded(name: &str) -> String {
    name.replace('_', "-")
}

proptest! {
    #[test]
    fn nothing_named_survives_and_what_edits_set_is_exact(
        sent in headers(),
        edits in edits(),
        upgrade in any::<bool>(),
    ) {
        let protocol = upgrade.then(|| HeaderValue::from_static("websocket"));
        let mut outgoing = sent.clone();
        prepare_request(&mut outgoing, &authority(), &edits, protocol).unwrap();

        for name in edits.set.keys() {
            let got: Vec<_> = outgoing.get_all(name).iter().collect();
            let set: Vec<_> = edits.set.get_all(name).iter().collect();
            prop_assert_eq!(got, set);
        }
        let connection: Vec<_> = outgoing.get_all("connection").iter().collect();
        prop_assert_eq!(connection, if upgrade { vec!["Upgrade"] } else { vec![] });

        let named = named(&sent);
        let removed: Vec<_> = edits.remove.iter().chain(edits.set.keys()).map(|name| folded(name.as_str())).collect();
        for name in outgoing.keys().filter(|name| !edits.set.contains_key(*name)) {
            let name = name.as_str();
            let ours = upgrade && ["connection", "upgrade"].contains(&name) || ["te", "host"].contains(&name);
            prop_assert!(ours || !named.contains(&name.to_owned()), "{} was named", name);
            prop_assert!(!PREFIXES.iter().any(|prefix| folded(name).starts_with(prefix)), "{} has a prefix", name);
            prop_assert!(!removed.contains(&folded(name)), "{} is a variant", name);
            prop_assert!(ours || sent.get_all(name).iter().eq(outgoing.get_all(name).iter()), "{} changed", name);
        }
        for gone in ["keep-alive", "proxy-connection", "proxy-authorization", "transfer-encoding", "expect"] {
            prop_assert!(!outgoing.contains_key(gone));
        }
        prop_assert!(outgoing.get_all("host").iter().eq(["member.test:6443"]));
        prop_assert!(outgoing.get("te").is_none_or(|te| te == "trailers" && !upgrade));
    }

    #[test]
    fn what_nobody_names_stays(sent in headers()) {
        let mut outgoing = sent.clone();
        prepare_request(&mut outgoing, &authority(), &HeaderEdits::default(), None).unwrap();
        let named = named(&sent);
        for name in ["accept", "authorization", "cookie", "impersonate-user", "x-a", "x_a", "trailer"] {
            if !named.contains(&name.to_owned()) {
                prop_assert!(sent.get_all(name).iter().eq(outgoing.get_all(name).iter()));
            }
        }
    }

    #[test]
    fn answer_loses_what_is_named_and_only_that(sent in headers()) {
        let mut left = sent.clone();
        strip_hop_by_hop(&mut left);
        let named = named(&sent);
        for name in sent.keys() {
            let hop = super::HOP_BY_HOP.contains(name) || named.contains(&name.as_str().to_owned());
            prop_assert_eq!(left.contains_key(name), !hop, "{}", name);
        }
    }

    #[test]
    fn upgrade_is_a_whole_token(value in connection_value()) {
        let mut headers = HeaderMap::new();
        headers.insert("connection", HeaderValue::try_from(value.trim()).unwrap());
        prop_assert_eq!(connection_asks_for_upgrade(&headers), named(&headers).contains(&"upgrade".to_owned()));
    }
}

#[test]
fn trailers_are_asked_for_only_if_the_client_takes_them() {
    for (sent, expected) in [
        ("trailers", Some("trailers")),
        ("gzip, Trailers", Some("trailers")),
        ("trailersx", None),
        ("trailers;q=0.5", None),
        ("gzip", None),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("te", HeaderValue::from_static(sent));
        headers.insert("connection", HeaderValue::from_static("TE"));
        prepare_request(&mut headers, &authority(), &HeaderEdits::default(), None).unwrap();
        assert_eq!(headers.get("te").map(|value| value.to_str().unwrap()), expected, "{sent}");
        assert!(!headers.contains_key("connection"));
    }
}

#[test]
fn length_that_chunks_contradict_is_dropped() {
    let mut headers = HeaderMap::new();
    headers.insert("content-length", HeaderValue::from_static("5"));
    prepare_request(&mut headers, &authority(), &HeaderEdits::default(), None).unwrap();
    assert!(headers.contains_key("content-length"));
    headers.insert("transfer-encoding", HeaderValue::from_static("chunked"));
    prepare_request(&mut headers, &authority(), &HeaderEdits::default(), None).unwrap();
    assert_eq!(headers.keys().collect::<Vec<_>>(), ["host"]);
}

#[test]
fn edits_that_frame_the_message_are_refused() {
    for name in super::NEVER_SET.clone() {
        let mut edits = HeaderEdits::default();
        edits.set.insert(name.clone(), HeaderValue::from_static("x"));
        let refused = prepare_request(&mut HeaderMap::new(), &authority(), &edits, None);
        assert!(matches!(refused, Err(ProxyError::Assembly(why)) if why.contains(name.as_str())));
    }
}

#[test]
fn full_map_is_an_error_and_no_panic() {
    let mut headers = HeaderMap::new();
    for index in 0.. {
        let name = HeaderName::try_from(format!("x-{index}")).unwrap();
        if headers.try_append(name, HeaderValue::from_static("")).is_err() {
            break;
        }
    }
    let mut edits = HeaderEdits::default();
    edits.set.insert("authorization", HeaderValue::from_static("x"));
    assert!(matches!(
        prepare_request(&mut headers, &authority(), &edits, None),
        Err(ProxyError::Assembly(_))
    ));
}
