//! One context: the cluster and user it names, wherever they are defined, as a cluster of ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kube::config::{AuthInfo, Cluster, Kubeconfig, NamedContext};
use secrecy::{ExposeSecret as _, SecretString};

use super::{CONTEXT, Contents};
use crate::clusters::{
    ClientCertificate, ClusterName, ClusterSpec, Credential, IdentityMode, TokenSource, Trust,
    cluster::check, sources::endpoint,
};

/// Why a context is no cluster.
pub(super) enum NoCluster {
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

/// All kubeconfigs by their path.
#[derive(Debug, Default)]
pub(super) struct Configs(BTreeMap<PathBuf, Kubeconfig>);

impl Configs {
    pub(super) fn get(&self, path: &Path) -> Option<&Kubeconfig> {
        self.0.get(path)
    }

    pub(super) fn insert(&mut self, path: PathBuf, config: Kubeconfig) {
        self.0.insert(path, config);
    }

    /// Every certificate and key that some of them names.
    pub(super) fn named_files(&self) -> BTreeSet<PathBuf> {
        let mut named = BTreeSet::new();
        for (path, config) in &self.0 {
            let clusters = config.clusters.iter().filter_map(|named| named.cluster.as_ref());
            let users = config.auth_infos.iter().filter_map(|named| named.auth_info.as_ref());
            let authorities = clusters.filter_map(|cluster| cluster.certificate_authority.as_deref());
            let own = users.flat_map(|user| [user.client_certificate.as_deref(), user.client_key.as_deref()]);
            let files = authorities.chain(own.flatten()).filter(|file| !file.is_empty());
            named.extend(files.map(|file| beside(path, file)));
        }
        named
    }

    /// The one definition that `pick` finds: in the file `from`, else in just one of the others. A `KUBECONFIG` of
    /// several files may define a context in one and its cluster in the next; kubectl would take the first of two.
    fn find<'a, T>(
        &'a self,
        from: &'a Path,
        what: &str,
        pick: impl Fn(&'a Kubeconfig) -> Option<&'a T>,
    ) -> Result<Defined<'a, T>, String> {
        if let Some(object) = self.get(from).and_then(&pick) {
            return Ok(Defined { path: from, object });
        }
        let others = self.0.iter().filter_map(|(path, config)| Some(Defined { path, object: pick(config)? }));
        let mut others: Vec<_> = others.collect();
        match (others.pop(), others.first()) {
            (None, _) => Err(format!("there is no {what}")),
            (Some(only), None) => Ok(only),
            (Some(last), Some(first)) => {
                let (first, last) = (first.path.display(), last.path.display());
                Err(format!(
                    "{what} is defined in {first} and in {last}; which one is meant is not guessed: rename one"
                ))
            }
        }
    }
}

/// A cluster or user, and the kubeconfig that defines it: relative paths start beside that.
struct Defined<'a, T> {
    path: &'a Path,
    object: &'a T,
}

fn beside(kubeconfig: &Path, file: &str) -> PathBuf {
    kubeconfig.parent().unwrap_or_else(|| Path::new("")).join(file)
}

pub(super) struct Context<'a> {
    pub(super) path: &'a Path,
    pub(super) configs: &'a Configs,
    pub(super) contents: &'a Contents,
    pub(super) context: &'a NamedContext,
}

impl Context<'_> {
    pub(super) fn spec(&self, name: &ClusterName, defined_in: &str) -> Result<ClusterSpec, NoCluster> {
        let context = self.context.context.as_ref().ok_or_else(|| "the context is empty".to_owned())?;
        let defined = self.configs.find(self.path, &format!("cluster {:?}", context.cluster), |config| {
            let named = config.clusters.iter().find(|named| named.name == context.cluster);
            named.and_then(|named| named.cluster.as_ref())
        })?;
        let cluster = defined.object;
        if cluster.proxy_url.as_ref().is_some_and(|url| !url.is_empty()) {
            let why = "proxy-url: reaching a member through a proxy is not yet supported";
            return Err(NoCluster::Unsupported(why.to_owned()));
        }
        let server = cluster.server.as_deref().unwrap_or_default();
        let mut annotations = BTreeMap::new();
        if self.context.name != name.as_str() {
            annotations.insert(CONTEXT.to_owned(), self.context.name.clone());
        }
        let spec = ClusterSpec {
            name: name.clone(),
            endpoint: endpoint(server).map_err(|error| format!("server: {error}"))?,
            server_name: cluster.tls_server_name.clone().filter(|name| !name.is_empty()),
            trust: self.trust(&defined)?,
            credential: self.credential(context.user.as_deref().unwrap_or_default())?,
            identity: IdentityMode::default(),
            labels: BTreeMap::new(),
            annotations,
            defined_in: defined_in.to_owned(),
        };
        check(&spec).map_err(|error| error.to_string())?;
        Ok(spec)
    }

    fn trust(&self, defined: &Defined<'_, Cluster>) -> Result<Trust, String> {
        let cluster = defined.object;
        let bundle = self.data_or_file(
            defined.path,
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
        let defined = self.configs.find(self.path, &format!("user {user:?}"), |config| {
            let named = config.auth_infos.iter().find(|named| named.name == user);
            named.and_then(|named| named.auth_info.as_ref())
        })?;
        let user = defined.object;
        let impersonates = user.impersonate.is_some()
            || user.impersonate_uid.is_some()
            || user.impersonate_groups.is_some()
            || user.impersonate_user_extra.is_some();
        let unsupported = [
            ("exec", user.exec.is_some()),
            ("auth-provider", user.auth_provider.is_some()),
            ("username and password", user.username.is_some() || user.password.is_some()),
            ("as (impersonation)", impersonates),
        ];
        if let Some((what, _)) = unsupported.into_iter().find(|(_, used)| *used) {
            return Err(NoCluster::Unsupported(format!(
                "users with {what} are not yet supported; use a token or a client certificate"
            )));
        }
        Ok(Credential { token: token(&defined), certificate: self.certificate(&defined)? })
    }

    fn certificate(&self, defined: &Defined<'_, AuthInfo>) -> Result<Option<ClientCertificate>, String> {
        let user = defined.object;
        let chain = self.data_or_file(
            defined.path,
            "client-certificate",
            user.client_certificate_data.as_deref(),
            user.client_certificate.as_deref(),
        )?;
        let key = self.data_or_file(
            defined.path,
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

    /// `…-data` wins over the file, as in client-go.
    fn data_or_file(
        &self,
        kubeconfig: &Path,
        key: &str,
        data: Option<&str>,
        file: Option<&str>,
    ) -> Result<Option<Vec<u8>>, String> {
        if let Some(data) = data.filter(|data| !data.is_empty()) {
            let compact: String = data.split_ascii_whitespace().collect();
            return STANDARD.decode(compact).map(Some).map_err(|_| format!("{key}-data: it is not base64"));
        }
        let Some(file) = file.filter(|file| !file.is_empty()) else { return Ok(None) };
        let path = beside(kubeconfig, file);
        match self.contents.get(&path) {
            Some(Ok(content)) => Ok(Some(content.clone())),
            Some(Err(why)) => Err(format!("{key}: {}: {why}", path.display())),
            None => Err(format!("{key}: {}: it is being written", path.display())),
        }
    }
}

/// client-go: a file wins over an inline token.
fn token(defined: &Defined<'_, AuthInfo>) -> Option<TokenSource> {
    let user = defined.object;
    if let Some(file) = user.token_file.as_deref().filter(|file| !file.is_empty()) {
        return Some(TokenSource::File(beside(defined.path, file)));
    }
    let token = user.token.as_ref().map(|token| token.expose_secret().trim())?;
    (!token.is_empty()).then(|| TokenSource::Inline(SecretString::from(token)))
}
