//! Who is believed to be whom.

use std::fs;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clusterway_certs::{Authority, Issued, Reload};
use http::{HeaderName, HeaderValue};
use rustls_pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;
use upgrade_aware_proxy::Protocol;

use super::*;

struct House {
    folder: tempfile::TempDir,
    authority: Authority,
    authenticator: Authenticator,
}

impl House {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("clients").unwrap();
        fs::write(folder.path().join("clients.crt"), authority.certificate_pem()).unwrap();
        fs::write(folder.path().join("tokens.csv"), "g00d,tom,7,\"dev,ops\"\n").unwrap();
        let clients = ClientAuthority::from_file(folder.path().join("clients.crt")).unwrap();
        let tokens = StaticTokens::from_file(folder.path().join("tokens.csv")).unwrap();
        let authenticator = Authenticator::new(Some(Arc::new(clients)), Some(Arc::new(tokens)));
        Self { folder, authority, authenticator }
    }

    fn jane(&self) -> Issued {
        self.authority.issue_client("jane", &["dev", "system:nodes"]).unwrap()
    }

    fn who(&self, headers: &[(&'static str, &str)], chain: &[CertificateDer<'static>]) -> String {
        match self.authenticator.authenticate(&header_map(headers), &connection(chain)) {
            Ok(caller) => caller.name.clone(),
            Err(Unauthenticated::NoCredential) => "nobody".to_owned(),
            Err(Unauthenticated::Rejected(reasons)) => format!("401: {}", reasons.join("; ")),
        }
    }
}

fn connection(chain: &[CertificateDer<'static>]) -> Connection {
    let peer = ([127, 0, 0, 1], 1).into();
    Connection::new(peer, Protocol::Http1, chain.to_vec(), CancellationToken::new())
}

fn header_map(headers: &[(&'static str, &str)]) -> HeaderMap {
    headers
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
        .fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
}

#[test]
fn certificates_name_user_and_groups() {
    let house = House::new();
    let jane = house.jane();
    let caller = house.authenticator.authenticate(&HeaderMap::new(), &connection(jane.chain())).unwrap();
    assert_eq!(caller.name, "jane");
    assert_eq!(caller.groups, ["dev", "system:nodes", "system:authenticated"]);
    assert_eq!(caller.uid, None);
    assert!(caller.extra[CREDENTIAL_ID][0].starts_with("X509SHA256="));
}

#[test]
fn a_certificate_is_verified_once_per_connection() {
    let house = House::new();
    let jane = house.jane();
    let connection = connection(jane.chain());
    let first = house.authenticator.authenticate(&HeaderMap::new(), &connection).unwrap();
    let second = house.authenticator.authenticate(&HeaderMap::new(), &connection).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
}

#[test]
fn changed_trust_reaches_connections_that_are_open() {
    let house = House::new();
    let jane = house.jane();
    let connection = connection(jane.chain());
    house.authenticator.authenticate(&HeaderMap::new(), &connection).unwrap();

    let clients = house.authenticator.clients.as_ref().unwrap();
    let path = house.folder.path().join("clients.crt");
    fs::write(&path, Authority::new("others").unwrap().certificate_pem()).unwrap();
    assert_eq!(clients.reload().unwrap(), Reload::Changed);
    let refused = house.authenticator.authenticate(&HeaderMap::new(), &connection).unwrap_err();
    assert!(matches!(refused, Unauthenticated::Rejected(_)), "{refused:?}");

    fs::write(&path, house.authority.certificate_pem()).unwrap();
    assert_eq!(clients.reload().unwrap(), Reload::Changed);
    house.authenticator.authenticate(&HeaderMap::new(), &connection).unwrap();
}

#[test]
fn a_conclusion_past_its_time_is_not_used() {
    let house = House::new();
    let stranger = Authority::new("others").unwrap().issue_client("jane", &[]).unwrap();
    let connection = connection(stranger.chain());
    let kept = |not_after| {
        let outcome = Ok(Some(Arc::new(Caller { name: "kept".to_owned(), ..Caller::default() })));
        connection.keep_certificate_caller(Arc::new(CertificateCaller { generation: 0, not_after, outcome }));
        house.authenticator.authenticate(&HeaderMap::new(), &connection)
    };
    assert_eq!(kept(SystemTime::now() + Duration::from_secs(60)).unwrap().name, "kept");
    assert!(matches!(kept(SystemTime::now()), Err(Unauthenticated::Rejected(_))));
}

#[test]
fn a_certificate_without_common_name_names_nobody() {
    let house = House::new();
    let nameless = house.authority.issue_client("", &["dev"]).unwrap();
    assert_eq!(house.who(&[], nameless.chain()), "nobody");
    assert_eq!(house.who(&[("authorization", "Bearer g00d")], nameless.chain()), "tom");
}

#[test]
fn without_any_credential_there_is_nobody() {
    let house = House::new();
    assert_eq!(house.who(&[], &[]), "nobody");
    for other in ["Basic dG9tOmcwMGQ=", "Bearerg00d", "g00d", "Negotiate g00d"] {
        assert_eq!(house.who(&[("authorization", other)], &[]), "nobody", "{other}");
    }
}

#[test]
fn bearer_tokens_are_read_as_a_kube_apiserver_reads_them() {
    let house = House::new();
    for good in ["Bearer g00d", "bearer g00d", "BEARER  g00d  "] {
        assert_eq!(house.who(&[("authorization", good)], &[]), "tom", "{good:?}");
    }
    for bad in ["Bearer", "Bearer ", "Bearer G00D", "Bearer g00d2", "Bearer g00", "Bearer g00d x"] {
        let who = house.who(&[("authorization", bad)], &[]);
        assert!(who.starts_with("401"), "{bad:?}: {who}");
    }
    let twice = [("authorization", "Bearer g00d"), ("authorization", "Bearer g00d")];
    assert!(house.who(&twice, &[]).starts_with("401"));
}

#[test]
fn one_good_credential_is_enough() {
    let house = House::new();
    let jane = house.jane();
    let stranger = Authority::new("others").unwrap().issue_client("eve", &[]).unwrap();
    let (good, bad) = (("authorization", "Bearer g00d"), ("authorization", "Bearer bad"));
    assert_eq!(house.who(&[good], jane.chain()), "jane");
    assert_eq!(house.who(&[bad], jane.chain()), "jane");
    assert_eq!(house.who(&[good], stranger.chain()), "tom");
    let refused = house.who(&[bad], stranger.chain());
    assert!(refused.contains("certificate") && refused.contains("unknown"), "{refused}");
    assert!(house.who(&[], stranger.chain()).starts_with("401"));
}

#[test]
fn tokens_are_refused_where_there_are_none() {
    let house = House::new();
    let jane = house.jane();
    let nothing = Authenticator::default();
    let shown = header_map(&[("authorization", "Bearer g00d")]);
    assert!(matches!(nothing.authenticate(&shown, &connection(&[])), Err(Unauthenticated::Rejected(_))));
    let by_certificate = nothing.authenticate(&HeaderMap::new(), &connection(jane.chain()));
    assert_eq!(by_certificate, Err(Unauthenticated::NoCredential));
}

fn websocket(house: &House, protocols: &[&str]) -> String {
    let mut headers = vec![("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
    headers.extend(protocols.iter().map(|&line| ("sec-websocket-protocol", line)));
    house.who(&headers, &[])
}

#[test]
fn websocket_clients_may_show_their_token_as_a_subprotocol() {
    let house = House::new();
    let shown =
        |token: &str| format!("base64url.bearer.authorization.k8s.io.{}", URL_SAFE_NO_PAD.encode(token));
    let good = shown("g00d");
    assert_eq!(websocket(&house, &[&format!("v5.channel.k8s.io, {good}")]), "tom");
    assert_eq!(websocket(&house, &[&good, "v5.channel.k8s.io"]), "tom");
    assert_eq!(websocket(&house, &["v5.channel.k8s.io"]), "nobody");
    for bad in [
        good.clone(),
        format!("{good},"),
        format!("{good}, {good}, v5.channel.k8s.io"),
        format!("{}, v5.channel.k8s.io", shown("bad")),
        format!("{}, v5.channel.k8s.io", shown("")),
        "base64url.bearer.authorization.k8s.io.!!, v5.channel.k8s.io".to_owned(),
        format!("{good}=, v5.channel.k8s.io"),
    ] {
        let who = websocket(&house, &[&bad]);
        assert!(who.starts_with("401"), "{bad:?}: {who}");
    }
    let plain = [("sec-websocket-protocol", &*format!("v5.channel.k8s.io, {good}"))];
    assert_eq!(house.who(&plain, &[]), "nobody", "not a WebSocket request");
}

#[test]
fn reasons_hold_no_secret() {
    let house = House::new();
    let encoded = URL_SAFE_NO_PAD.encode("s3cret");
    let subprotocol = format!("base64url.bearer.authorization.k8s.io.{encoded}, v5.channel.k8s.io");
    let headers = header_map(&[
        ("authorization", "Bearer s3cret"),
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-protocol", &subprotocol),
    ]);
    let refused = house.authenticator.authenticate(&headers, &connection(&[])).unwrap_err();
    for text in [refused.to_string(), format!("{refused:?}"), format!("{:?}", house.authenticator)] {
        assert!(!text.contains("s3cret") && !text.contains(&encoded), "{text}");
    }
}
