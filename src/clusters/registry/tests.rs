use std::fs;

use secrecy::SecretString;

use super::*;
use crate::clusters::{Credential, IdentityMode, TokenSource, Trust, sources};

fn spec(name: &str, token: &str, defined_in: &str) -> ClusterSpec {
    ClusterSpec {
        name: ClusterName::new(name).unwrap(),
        endpoint: sources::endpoint("http://127.0.0.1:1").unwrap(),
        server_name: None,
        trust: Trust::SystemRoots,
        credential: Credential {
            token: Some(TokenSource::Inline(SecretString::from(token))),
            certificate: None,
        },
        identity: IdentityMode::default(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        defined_in: defined_in.to_owned(),
    }
}

fn cluster(name: &str, token: &str, defined_in: &str) -> Definition {
    Definition::Cluster(Box::new(spec(name, token, defined_in)))
}

fn with_token_file(name: &str, path: &std::path::Path) -> Definition {
    let mut spec = spec(name, "", "a");
    spec.credential.token = Some(TokenSource::File(path.to_owned()));
    Definition::Cluster(Box::new(spec))
}

fn found(definitions: Vec<Definition>) -> Found {
    Found { definitions, problems: Vec::new() }
}

fn ready(registry: &Registry, name: &str) -> Arc<Cluster> {
    match registry.get(name) {
        Lookup::Ready(cluster) => cluster,
        other => panic!("{other:?}"),
    }
}

fn reason(registry: &Registry, name: &str) -> String {
    match registry.get(name) {
        Lookup::Unusable(unusable) => unusable.reason.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_did_not_change_stays_as_it_is_and_what_is_gone_is_unknown() {
    let registry = Registry::new(Reach::default());
    registry.replace("a", found(vec![cluster("east", "1", "a"), cluster("west", "1", "a")]));
    let (east, west) = (ready(&registry, "east"), ready(&registry, "west"));
    registry.replace("a", found(vec![cluster("east", "1", "a"), cluster("west", "2", "a")]));
    assert!(Arc::ptr_eq(&east, &ready(&registry, "east")));
    assert!(!Arc::ptr_eq(&west, &ready(&registry, "west")));
    assert_eq!(ready(&registry, "west").authorization().unwrap(), "Bearer 2");
    registry.replace("a", found(vec![]));
    assert!(matches!(registry.get("east"), Lookup::Unknown));
}

#[test]
fn connections_survive_whatever_is_not_about_them() {
    let registry = Registry::new(Reach::default());
    registry.replace("a", found(vec![cluster("east", "1", "a, document 1")]));
    let before = ready(&registry, "east");
    let mut changed = spec("east", "2", "a, document 2");
    changed.labels.insert("tier".into(), "prod".into());
    changed.identity = IdentityMode::Deny;
    registry.replace("a", found(vec![Definition::Cluster(Box::new(changed))]));
    let after = ready(&registry, "east");
    assert!(Arc::ptr_eq(&before.upstream, &after.upstream));
    assert_eq!((after.spec.identity, &*after.spec.defined_in), (IdentityMode::Deny, "a, document 2"));
    assert_eq!(after.authorization().unwrap(), "Bearer 2");
}

#[test]
fn connections_to_another_place_or_verified_otherwise_are_new() {
    let changes: [fn(&mut ClusterSpec); 3] = [
        |spec| spec.endpoint = sources::endpoint("http://127.0.0.1:2").unwrap(),
        |spec| spec.trust = Trust::DangerSkipVerification,
        |spec| spec.server_name = Some("kubernetes".into()),
    ];
    for change in changes {
        let registry = Registry::new(Reach::default());
        registry.replace("a", found(vec![cluster("east", "1", "a")]));
        let before = ready(&registry, "east");
        let mut changed = spec("east", "1", "a");
        change(&mut changed);
        registry.replace("a", found(vec![Definition::Cluster(Box::new(changed))]));
        assert!(!Arc::ptr_eq(&before.upstream, &ready(&registry, "east").upstream));
    }
}

#[tokio::test]
async fn the_connections_of_what_is_gone_or_elsewhere_are_closed_and_no_others() {
    let member = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", member.local_addr().unwrap());
    let at_member = |name: &str, token: &str| {
        let mut spec = spec(name, token, "a");
        spec.endpoint = sources::endpoint(&url).unwrap();
        Definition::Cluster(Box::new(spec))
    };
    tokio::spawn(async move {
        loop {
            let (stream, _) = member.accept().await.unwrap();
            let service = hyper::service::service_fn(|_| async {
                Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    let registry = Registry::new(Reach::default());
    registry
        .replace("a", found(vec![at_member("gone", "1"), at_member("kept", "1"), at_member("moved", "1")]));
    let clusters = ["gone", "kept", "moved"].map(|name| ready(&registry, name));
    for cluster in &clusters {
        let request = http::Request::get(format!("{url}/")).body(upgrade_aware_proxy::RequestBody::empty());
        let limit = std::time::Duration::from_secs(10);
        let response = cluster.upstream.send(request.unwrap(), limit).await.unwrap();
        http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        assert_eq!(cluster.upstream.stats().connections, 1);
    }
    registry.replace("a", found(vec![at_member("kept", "2"), cluster("moved", "1", "a")]));
    for closed in [&clusters[0], &clusters[2]] {
        let is_closed = async {
            while closed.upstream.stats().connections > 0 {
                tokio::task::yield_now().await;
            }
        };
        let patience = std::time::Duration::from_secs(30);
        tokio::time::timeout(patience, is_closed).await.expect("its connection is closed");
    }
    assert_eq!(ready(&registry, "kept").upstream.stats().connections, 1);
}

#[test]
fn two_definitions_of_one_name_are_refused_by_naming_both_and_come_back_when_one_goes() {
    let registry = Registry::new(Reach::default());
    registry.replace("a", found(vec![cluster("east", "1", "a.yaml, document 1")]));
    registry.replace("b", found(vec![cluster("east", "1", "config, context \"east\"")]));
    let reason = reason(&registry, "east");
    assert!(reason.contains("a.yaml, document 1 and in config, context \"east\""), "{reason}");
    registry.replace("b", found(vec![]));
    ready(&registry, "east");
}

#[test]
fn a_definition_that_makes_no_cluster_is_listed_with_the_reason_and_without_the_token() {
    let registry = Registry::new(Reach::default());
    registry.replace("a", found(vec![cluster("east", "s3 cret", "a.yaml"), cluster("west", "1", "a.yaml")]));
    let reason = reason(&registry, "east");
    assert!(reason.starts_with("a.yaml: the token") && !reason.contains("cret"), "{reason}");
    let names: Vec<_> = registry.list().into_iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["east", "west"]);
}

#[test]
fn a_token_file_is_read_again_and_a_bad_one_is_told_while_the_last_good_token_stays() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "one\n").unwrap();
    let registry = Registry::new(Reach::default());
    registry.replace("a", found(vec![with_token_file("east", &file)]));
    let east = ready(&registry, "east");
    assert_eq!(east.authorization().unwrap(), "Bearer one");
    assert!(east.authorization().unwrap().is_sensitive());
    fs::write(&file, "two\n").unwrap();
    registry.refresh_tokens();
    assert_eq!(east.authorization().unwrap(), "Bearer two");
    for breaking in [Some("s3cret with spaces"), None] {
        match breaking {
            Some(token) => fs::write(&file, token).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        registry.refresh_tokens();
        assert_eq!(east.authorization().unwrap(), "Bearer two");
        let problems = registry.problems();
        assert!(problems.len() == 1 && problems[0].contains("token"), "{problems:?}");
        assert!(!problems[0].contains("s3cret"), "{problems:?}");
    }
    fs::write(&file, "three").unwrap();
    registry.refresh_tokens();
    assert_eq!(
        (registry.problems(), east.authorization().unwrap().as_bytes()),
        (vec![], &b"Bearer three"[..])
    );
    assert!(Arc::ptr_eq(&east, &ready(&registry, "east")));
}

#[test]
fn a_token_file_that_comes_late_makes_its_cluster_usable() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let registry = Registry::new(Reach::default());
    registry.replace("a", found(vec![with_token_file("east", &file)]));
    registry.refresh_tokens();
    assert!(reason(&registry, "east").contains("token file"));
    fs::write(&file, "late").unwrap();
    registry.refresh_tokens();
    assert_eq!(ready(&registry, "east").authorization().unwrap(), "Bearer late");
}

#[test]
fn what_sources_could_not_read_is_told() {
    let registry = Registry::new(Reach::default());
    registry.replace("a", Found { problems: vec!["a.yaml: broken".into()], ..Found::default() });
    registry.replace("b", Found { problems: vec!["b.yaml: broken".into()], ..Found::default() });
    assert_eq!(registry.problems(), ["a.yaml: broken", "b.yaml: broken"]);
    registry.replace("a", Found::default());
    assert_eq!(registry.problems(), ["b.yaml: broken"]);
}
