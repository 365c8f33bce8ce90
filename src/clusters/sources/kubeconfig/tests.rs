use std::fs;

use super::*;
use crate::clusters::{ClusterName, TokenSource, Trust};

const CONFIG: &str = r#"
apiVersion: v1
kind: Config
clusters:
- name: c
  cluster: {server: "https://10.0.0.1:6443", tls-server-name: kubernetes, certificate-authority: ca.crt}
- name: skip
  cluster: {server: "https://10.0.0.2", insecure-skip-tls-verify: true}
users:
- name: token
  user: {token: s3cret}
- name: file
  user: {tokenFile: token}
- name: exec
  user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: aws}}
contexts:
- name: east
  context: {cluster: c, user: token}
- name: arn:aws:eks:eu:1:cluster/Prod
  context: {cluster: skip, user: file}
- name: plugin
  context: {cluster: c, user: exec}
- name: dangling
  context: {cluster: gone, user: token}
"#;

fn folder() -> (tempfile::TempDir, Kubeconfigs) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config"), CONFIG).unwrap();
    let authority = clusterway_certs::Authority::new("test").unwrap();
    fs::write(folder.path().join("ca.crt"), authority.certificate_pem()).unwrap();
    let file = Kubeconfigs::new([folder.path().join("config")]);
    (folder, file)
}

fn spec<'a>(file: &'a Kubeconfigs, name: &str) -> &'a ClusterSpec {
    file.definitions()
        .iter()
        .find_map(|definition| match definition {
            Definition::Cluster(spec) if spec.name.as_str() == name => Some(&**spec),
            _ => None,
        })
        .unwrap()
}

#[test]
fn every_context_is_a_cluster_under_a_name_that_fits_a_path() {
    let (folder, mut file) = folder();
    assert!(file.poll());
    let east = spec(&file, "east");
    assert_eq!(east.server_name.as_deref(), Some("kubernetes"));
    assert!(matches!(&east.trust, Trust::Authorities(authorities) if authorities.len() == 1));
    assert_eq!(east.credential.token, Some(TokenSource::Inline("s3cret".into())));
    let prod = spec(&file, "arn-aws-eks-eu-1-cluster-prod");
    assert_eq!(prod.annotations[CONTEXT], "arn:aws:eks:eu:1:cluster/Prod");
    assert_eq!(prod.credential.token, Some(TokenSource::File(folder.path().join("token"))));
    assert_eq!(prod.trust, Trust::DangerSkipVerification);
    assert!(!file.poll());
}

#[test]
fn contexts_that_cannot_be_used_are_listed_with_the_reason() {
    let (_folder, mut file) = folder();
    file.poll();
    let reasons: Vec<_> = file
        .definitions()
        .iter()
        .filter_map(|definition| match definition {
            Definition::Unusable(unusable) => Some(unusable.reason.rsplit_once("\": ").unwrap().1.to_owned()),
            Definition::Cluster(_) => None,
        })
        .collect();
    assert_eq!(
        reasons,
        [
            "users with exec are not yet supported; use a token or a client certificate",
            "there is no cluster \"gone\""
        ]
    );
}

#[test]
fn a_changed_authority_file_is_a_change_and_a_broken_config_keeps_the_last_good_one() {
    let (folder, mut file) = folder();
    file.poll();
    let before = spec(&file, "east").trust.clone();
    let authority = clusterway_certs::Authority::new("next").unwrap();
    fs::write(folder.path().join("ca.crt"), authority.certificate_pem()).unwrap();
    assert!(file.poll());
    assert_ne!(spec(&file, "east").trust, before);
    fs::write(folder.path().join("config"), "contexts: [{name: x, context: {cluster: {s3cret: 1}}}]")
        .unwrap();
    assert!(file.poll());
    assert!(!file.poll());
    assert_eq!(spec(&file, "east").name.as_str(), "east");
    let problem = file.problems()[0].to_string();
    assert!(problem.contains("not a kubeconfig") && !problem.contains("s3cret"), "{problem}");
}

#[test]
fn a_context_that_breaks_keeps_its_last_good_version_until_it_says_something_else() {
    let (folder, mut file) = folder();
    file.poll();
    let before = spec(&file, "east").clone();
    fs::write(folder.path().join("ca.crt"), "half a certif").unwrap();
    assert!(file.poll());
    assert!(!file.poll());
    assert_eq!(*spec(&file, "east"), before);
    let problem = file.problems()[0].to_string();
    assert!(problem.contains("\"east\"") && problem.contains("certificate-authority"), "{problem}");
    let authority = clusterway_certs::Authority::new("next").unwrap();
    fs::write(folder.path().join("ca.crt"), authority.certificate_pem()).unwrap();
    let plugin = CONFIG.replace("{cluster: c, user: token}", "{cluster: c, user: exec}");
    fs::write(folder.path().join("config"), plugin).unwrap();
    assert!(file.poll());
    assert!(file.definitions().iter().all(|definition| match definition {
        Definition::Cluster(spec) => spec.name.as_str() != "east",
        Definition::Unusable(_) => true,
    }));
}

proptest::proptest! {
    #[test]
    fn any_context_name_maps_to_a_cluster_name_or_none(context in "\\PC{0,40}") {
        if let Some(name) = cluster_name(&context) {
            proptest::prop_assert!(ClusterName::is_valid(name.as_str()));
            proptest::prop_assert_eq!(cluster_name(name.as_str()), Some(name));
        }
    }
}

fn written(files: &[(&str, &str)]) -> (tempfile::TempDir, Kubeconfigs) {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let paths = files.iter().map(|(name, _)| folder.path().join(name));
    let mut configs = Kubeconfigs::new(paths.collect::<Vec<_>>());
    configs.poll();
    (folder, configs)
}

fn reason(configs: &Kubeconfigs) -> &str {
    match configs.definitions() {
        [Definition::Unusable(unusable)] => &unusable.reason,
        other => panic!("{other:?}"),
    }
}

const CLUSTER: &str = "clusters: [{name: c, cluster: {server: https://x}}]";
const USER: &str = "users: [{name: u, user: {tokenFile: token}}]";
const EAST: &str = "contexts: [{name: east, context: {cluster: c, user: u}}]";

#[test]
fn a_context_may_have_its_cluster_and_user_in_other_files_whose_paths_stay_theirs() {
    let (folder, configs) = written(&[("contexts", EAST), ("a/clusters", CLUSTER), ("b/users", USER)]);
    let east = spec(&configs, "east");
    assert_eq!(east.endpoint.authority, "x");
    assert_eq!(east.credential.token, Some(TokenSource::File(folder.path().join("b/token"))));
}

#[test]
fn a_file_of_its_own_comes_before_all_others() {
    let own = format!("{CLUSTER}\n{USER}\n{EAST}");
    let other = CLUSTER.replace("https://x", "https://other");
    let (_folder, configs) = written(&[("other", &other), ("own", &own)]);
    assert_eq!(spec(&configs, "east").endpoint.authority, "x");
}

#[test]
fn two_other_files_that_define_the_same_cluster_are_both_named() {
    let (_folder, configs) =
        written(&[("contexts", EAST), ("one", CLUSTER), ("two", CLUSTER), ("users", USER)]);
    let reason = reason(&configs);
    assert!(reason.contains("/one and in /") || reason.contains("/one and in"), "{reason}");
    assert!(reason.contains("/two; which one"), "{reason}");
}

#[test]
fn a_client_certificate_whose_key_has_not_come_yet_lets_the_last_good_one_stand_in() {
    let authority = clusterway_certs::Authority::new("test").unwrap();
    let (old, new) =
        (authority.issue_client("old", &[]).unwrap(), authority.issue_client("new", &[]).unwrap());
    let user = "users: [{name: u, user: {client-certificate: crt, client-key: key}}]";
    let (folder, mut configs) = written(&[("config", &format!("{CLUSTER}\n{user}\n{EAST}"))]);
    assert!(reason(&configs).contains("client-certificate: "));
    let write = |name: &str, content: String| fs::write(folder.path().join(name), content).unwrap();
    write("crt", old.certificate_pem());
    write("key", old.key_pem());
    assert!(configs.poll());
    let before = spec(&configs, "east").clone();
    write("crt", new.certificate_pem());
    assert!(configs.poll());
    assert_eq!(*spec(&configs, "east"), before);
    assert!(configs.problems()[0].to_string().contains("client certificate"), "{:?}", configs.problems());
    write("key", new.key_pem());
    assert!(configs.poll());
    let after = spec(&configs, "east").credential.certificate.as_ref().unwrap();
    assert_eq!((after.chain.as_slice(), configs.problems().len()), (new.chain(), 0));
}

#[test]
fn what_kubectl_writes_without_contexts_is_no_mistake() {
    let (_folder, configs) =
        written(&[("config", "apiVersion: v1\nclusters: null\ncontexts: null\nusers: null\n")]);
    assert_eq!((configs.definitions(), configs.problems()), (&[][..], &[][..]));
}

#[test]
fn a_file_that_is_not_there_is_told_and_taken_up_when_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    let mut configs = Kubeconfigs::new([path.clone(), path.clone()]);
    assert!(configs.poll());
    assert!(configs.problems()[0].to_string().contains("cannot read the file"));
    fs::write(&path, format!("{CLUSTER}\n{USER}\n{EAST}")).unwrap();
    assert!(configs.poll());
    assert_eq!((configs.definitions().len(), configs.problems().len()), (1, 0));
}

#[test]
fn what_is_no_yaml_is_told_with_the_reason_and_what_is_no_kubeconfig_without_the_value() {
    for (text, told) in [
        ("users: [{name: \"s3cret", "at line 1"),
        ("a: 1\n  b: s3cret", "mapping values are not allowed"),
        ("users: {name: s3cret}", "line 1, column 8: not what belongs there"),
    ] {
        let (_folder, configs) = written(&[("config", text)]);
        let problem = configs.problems()[0].to_string();
        assert!(problem.contains(told) && !problem.contains("s3cret"), "{problem}");
    }
}
