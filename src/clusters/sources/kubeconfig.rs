//! Kubeconfig files: every context is a cluster.
//!
//! These files are the operator's own, so paths in them are read (unlike in a Secret). What runs commands or needs a
//! browser is listed with the reason and not used. Values of credentials must never reach an error.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clusterway_certs::{read_file, read_text_file};
use kube::config::{AuthInfo, Cluster, Kubeconfig, NamedContext};
use secrecy::{ExposeSecret as _, SecretString};

use super::endpoint;
use crate::clusters::{
    ClientCertificate, ClusterName, ClusterSpec, Credential, Definition, IdentityMode, TokenSource, Trust,
    Unusable,
};

/// The annotation with a context's own name, where that is not a cluster name.
pub const CONTEXT: &str = "clusterway.dev/kubeconfig-context";

/// A kubeconfig that cannot be read at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KubeconfigError {
    /// The file cannot be read.
    #[error("{}: cannot read the file: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It is no kubeconfig.
    #[error("{}: not a kubeconfig: {why}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What, and where.
        why: String,
    },
    /// A context name of which nothing is left that could name a cluster.
    #[error("{}: context {context:?} cannot name a cluster; rename it (kubectl config rename-context)", path.display())]
    Name {
        /// The file.
        path: PathBuf,
        /// The context.
        context: String,
    },
    /// A context that cannot be used any more, for instance while a certificate beside it is being replaced.
    #[error("{reason}; its last good version stays in use")]
    Broken {
        /// File, context, key and reason.
        reason: String,
    },
}

/// Why a context is no cluster.
enum NoCluster {
    /// It is meant to be one, and something in it or in a file it names is wrong.
    Broken(String),
    /// It says what is meant, and that is not supported.
    Unsupported(String),
}

impl From<String> for NoCluster {
    fn from(why: String) -> Self {
        Self::Broken(why)
    }
}

/// A kubeconfig file and what it held when it was last looked at.
#[derive(Debug)]
pub struct KubeconfigFile {
    path: PathBuf,
    /// The last good version and the files it refers to are read again with every look, so that a rotated
    /// certificate counts as a change.
    good: Option<Kubeconfig>,
    definitions: Vec<Definition>,
    problems: Vec<KubeconfigError>,
}

impl KubeconfigFile {
    /// A file that has not been looked at yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), good: None, definitions: Vec::new(), problems: Vec::new() }
    }

    /// Looks again. True if anything is different, for better or worse. Blocks.
    pub fn poll(&mut self) -> bool {
        let mut problems = Vec::new();
        match read(&self.path) {
            Ok(config) => self.good = Some(config),
            Err(problem) => problems.push(problem),
        }
        let mut definitions = Vec::new();
        for found in self.good.iter().flat_map(|config| contexts(&self.path, config)) {
            match found {
                Ok(Found::Definition(definition)) => definitions.push(definition),
                Ok(Found::Broken(unusable)) => match self.last_good(&unusable) {
                    Some(spec) => {
                        definitions.push(Definition::Cluster(spec));
                        problems.push(KubeconfigError::Broken { reason: unusable.reason });
                    }
                    None => definitions.push(Definition::Unusable(unusable)),
                },
                Err(problem) => problems.push(problem),
            }
        }
        if definitions == self.definitions && problems == self.problems {
            return false;
        }
        (self.definitions, self.problems) = (definitions, problems);
        true
    }

    fn last_good(&self, now: &Unusable) -> Option<Box<ClusterSpec>> {
        self.definitions.iter().find_map(|definition| match definition {
            Definition::Cluster(spec) if spec.defined_in == now.defined_in => Some(spec.clone()),
            _ => None,
        })
    }

    /// What it defines; if it cannot be read, what its last good version did.
    pub fn definitions(&self) -> &[Definition] {
        &self.definitions
    }

    /// What cannot be read.
    pub fn problems(&self) -> &[KubeconfigError] {
        &self.problems
    }
}

fn read(path: &Path) -> Result<Kubeconfig, KubeconfigError> {
    let text = read_text_file(path)
        .map_err(|error| KubeconfigError::File { path: path.to_owned(), why: error.to_string() })?;
    // Without its snippet, and without the value that does not fit: either may be a credential.
    serde_saphyr::from_str(&text).map_err(|error| KubeconfigError::Syntax {
        path: path.to_owned(),
        why: match error.location() {
            Some(at) => format!("it cannot be understood at line {}, column {}", at.line(), at.column()),
            None => "it cannot be understood".to_owned(),
        },
    })
}

enum Found {
    Definition(Definition),
    Broken(Unusable),
}

fn contexts<'a>(
    path: &'a Path,
    config: &'a Kubeconfig,
) -> impl Iterator<Item = Result<Found, KubeconfigError>> + 'a {
    config.contexts.iter().map(move |context| {
        let name = cluster_name(&context.name)
            .ok_or_else(|| KubeconfigError::Name { path: path.to_owned(), context: context.name.clone() })?;
        let defined_in = format!("{}, context {:?}", path.display(), context.name);
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        let unusable = |why| Unusable {
            name: name.clone(),
            reason: format!("{defined_in}: {why}"),
            defined_in: defined_in.clone(),
        };
        Ok(match (Context { config, context, folder }).spec(&name, &defined_in) {
            Ok(spec) => Found::Definition(Definition::Cluster(Box::new(spec))),
            Err(NoCluster::Broken(why)) => Found::Broken(unusable(why)),
            Err(NoCluster::Unsupported(why)) => Found::Definition(Definition::Unusable(unusable(why))),
        })
    })
}

/// The cluster name for a context: itself where it can be, else lower case with every other character as `-`
/// (`arn:aws:eks:eu:1:cluster/Prod` is `arn-aws-eks-eu-1-cluster-prod`). Two contexts that come out the same are two
/// definitions of one name, which the registry refuses by naming both.
pub fn cluster_name(context: &str) -> Option<ClusterName> {
    if let Ok(name) = ClusterName::new(context) {
        return Some(name);
    }
    let mapped: String = context
        .chars()
        .map(|character| match character.to_ascii_lowercase() {
            safe @ ('a'..='z' | '0'..='9' | '.' | '-') => safe,
            _ => '-',
        })
        .collect();
    // Labels between dots may not start or end with a hyphen, nor be empty.
    let labels: Vec<&str> =
        mapped.split('.').map(|label| label.trim_matches('-')).filter(|label| !label.is_empty()).collect();
    ClusterName::new(&labels.join(".")).ok()
}

struct Context<'a> {
    config: &'a Kubeconfig,
    context: &'a NamedContext,
    folder: &'a Path,
}

impl Context<'_> {
    fn spec(&self, name: &ClusterName, defined_in: &str) -> Result<ClusterSpec, NoCluster> {
        let context = self.context.context.as_ref().ok_or_else(|| "the context is empty".to_owned())?;
        let cluster = self
            .config
            .clusters
            .iter()
            .find(|cluster| cluster.name == context.cluster)
            .and_then(|cluster| cluster.cluster.as_ref())
            .ok_or_else(|| format!("there is no cluster {:?}", context.cluster))?;
        if cluster.proxy_url.as_ref().is_some_and(|url| !url.is_empty()) {
            let why = "proxy-url: reaching a member through a proxy is not supported yet";
            return Err(NoCluster::Unsupported(why.to_owned()));
        }
        let server = cluster.server.as_deref().unwrap_or_default();
        let mut annotations = BTreeMap::new();
        if self.context.name != name.as_str() {
            annotations.insert(CONTEXT.to_owned(), self.context.name.clone());
        }
        Ok(ClusterSpec {
            name: name.clone(),
            endpoint: endpoint(server).map_err(|error| format!("server: {error}"))?,
            server_name: cluster.tls_server_name.clone().filter(|name| !name.is_empty()),
            trust: self.trust(cluster)?,
            credential: self.credential(context.user.as_deref().unwrap_or_default())?,
            identity: IdentityMode::default(),
            labels: BTreeMap::new(),
            annotations,
            defined_in: defined_in.to_owned(),
        })
    }

    fn trust(&self, cluster: &Cluster) -> Result<Trust, String> {
        let bundle = self.data_or_file(
            "certificate-authority",
            cluster.certificate_authority_data.as_deref(),
            cluster.certificate_authority.as_deref(),
        )?;
        let skip = cluster.insecure_skip_tls_verify.unwrap_or(false);
        match bundle {
            Some(_) if skip => {
                Err("insecure-skip-tls-verify contradicts certificate-authority: remove one of them"
                    .to_owned())
            }
            Some(bundle) => clusterway_certs::certificates(&bundle, "certificate-authority")
                .map(Trust::Authorities)
                .map_err(|error| error.to_string()),
            None if skip => Ok(Trust::DangerSkipVerification),
            None => Ok(Trust::SystemRoots),
        }
    }

    fn credential(&self, user: &str) -> Result<Credential, NoCluster> {
        if user.is_empty() {
            return Ok(Credential::default());
        }
        let user = self
            .config
            .auth_infos
            .iter()
            .find(|named| named.name == user)
            .and_then(|named| named.auth_info.as_ref())
            .ok_or_else(|| format!("there is no user {user:?}"))?;
        let unsupported = [
            ("exec", user.exec.is_some()),
            ("auth-provider", user.auth_provider.is_some()),
            ("username and password", user.username.is_some() || user.password.is_some()),
            ("as (impersonation)", user.impersonate.is_some()),
        ];
        if let Some((what, _)) = unsupported.into_iter().find(|(_, used)| *used) {
            return Err(NoCluster::Unsupported(format!(
                "users with {what} are not supported yet; use a token or a client certificate"
            )));
        }
        Ok(Credential { token: self.token(user), certificate: self.certificate(user)? })
    }

    /// client-go: a file wins over an inline token.
    fn token(&self, user: &AuthInfo) -> Option<TokenSource> {
        if let Some(file) = user.token_file.as_deref().filter(|file| !file.is_empty()) {
            return Some(TokenSource::File(self.folder.join(file)));
        }
        let token = user.token.as_ref().map(|token| token.expose_secret().trim())?;
        (!token.is_empty()).then(|| TokenSource::Inline(SecretString::from(token)))
    }

    fn certificate(&self, user: &AuthInfo) -> Result<Option<ClientCertificate>, String> {
        let chain = self.data_or_file(
            "client-certificate",
            user.client_certificate_data.as_deref(),
            user.client_certificate.as_deref(),
        )?;
        let key = self.data_or_file(
            "client-key",
            user.client_key_data.as_ref().map(|key| key.expose_secret()),
            user.client_key.as_deref(),
        )?;
        match (chain, key) {
            (None, None) => Ok(None),
            (Some(chain), Some(key)) => Ok(Some(ClientCertificate {
                chain: clusterway_certs::certificates(&chain, "client-certificate")
                    .map_err(|error| error.to_string())?,
                key: clusterway_certs::private_key(&key, "client-key")
                    .map_err(|error| error.to_string())?
                    .into(),
            })),
            (Some(_), None) => Err("client-certificate needs client-key as well".to_owned()),
            (None, Some(_)) => Err("client-key needs client-certificate as well".to_owned()),
        }
    }

    /// `…-data` wins over the file, as in client-go. Relative paths start at the kubeconfig's folder.
    fn data_or_file(
        &self,
        key: &str,
        data: Option<&str>,
        file: Option<&str>,
    ) -> Result<Option<Vec<u8>>, String> {
        if let Some(data) = data.filter(|data| !data.is_empty()) {
            let compact: String = data.split_ascii_whitespace().collect();
            return STANDARD.decode(compact).map(Some).map_err(|_| format!("{key}-data: it is not base64"));
        }
        let Some(file) = file.filter(|file| !file.is_empty()) else { return Ok(None) };
        let path = self.folder.join(file);
        read_file(&path).map(Some).map_err(|error| format!("{key}: {}: {error}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

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

    fn folder() -> (tempfile::TempDir, KubeconfigFile) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config"), CONFIG).unwrap();
        let authority = clusterway_certs::Authority::new("test").unwrap();
        fs::write(folder.path().join("ca.crt"), authority.certificate_pem()).unwrap();
        let file = KubeconfigFile::new(folder.path().join("config"));
        (folder, file)
    }

    fn spec<'a>(file: &'a KubeconfigFile, name: &str) -> &'a ClusterSpec {
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
                Definition::Unusable(unusable) => {
                    Some(unusable.reason.rsplit_once("\": ").unwrap().1.to_owned())
                }
                Definition::Cluster(_) => None,
            })
            .collect();
        assert_eq!(
            reasons,
            [
                "users with exec are not supported yet; use a token or a client certificate",
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
}
