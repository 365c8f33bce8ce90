//! The demo's fleet: two embedded members and a stand-alone gateway in front, described by the very files that a
//! user would write.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::member::{Member, MemberConfig};
use crate::{
    app::App,
    clusters::sources::secret::CREDENTIAL_TYPE,
    config::{Config, MemberLimits, Serving},
    server::Shutdown,
};

/// The members.
pub const CLUSTERS: [&str; 2] = ["east", "west"];
/// The user whom the rules let in.
pub const USER: &str = "tom";
/// The user who is known and may do nothing.
pub const STRANGER: &str = "eve";

/// A running fleet. Its files go with the folder it was started in.
#[derive(Debug)]
pub struct Fleet {
    /// The gateway's address.
    pub address: SocketAddr,
    /// A kubeconfig with a context for every cluster.
    pub kubeconfig: PathBuf,
    /// The authority of the gateway's certificate, PEM.
    pub ca_pem: String,
    /// [`USER`]'s bearer token.
    pub token: String,
    /// [`STRANGER`]'s bearer token.
    pub strangers_token: String,
    members: Vec<Member>,
    gateway: JoinHandle<()>,
    shutdown: Shutdown,
}

impl Fleet {
    /// Starts it with all its files below `folder`, the gateway at `listen`.
    ///
    /// # Errors
    /// When an address is taken or a file cannot be written.
    pub async fn start(folder: &Path, listen: SocketAddr) -> anyhow::Result<Self> {
        let manifests = folder.join("manifests");
        fs::create_dir_all(&manifests).with_context(|| format!("cannot make {}", manifests.display()))?;
        let mut members = Vec::new();
        for name in CLUSTERS {
            let member =
                Member::start(MemberConfig::named(name)).await.with_context(|| format!("member {name}"))?;
            write(&manifests.join(format!("{name}.json")), &cluster_secret(name, &member))?;
            members.push(member);
        }
        write(&manifests.join("rbac.json"), &rules())?;
        let (token, strangers_token) = (random_token()?, random_token()?);
        let tokens = folder.join("tokens.csv");
        let lines = format!("{token},{USER},1001,\"demo\"\n{strangers_token},{STRANGER},1002,\"visitors\"\n");
        fs::write(&tokens, lines).with_context(|| format!("cannot write {}", tokens.display()))?;

        let state = folder.join("state");
        let app = App::build(config(listen, manifests, tokens, state.clone())).await?;
        let address = app.address();
        let ca_pem = fs::read_to_string(state.join("ca.crt")).context("the gateway's authority")?;
        let kubeconfig = folder.join("kubeconfig");
        write(&kubeconfig, &kubeconfig_document(address, &ca_pem, &token))?;
        let shutdown = Shutdown::new();
        let gateway = tokio::spawn(app.run(shutdown.clone()));
        Ok(Self { address, kubeconfig, ca_pem, token, strangers_token, members, gateway, shutdown })
    }

    /// The address of a cluster for kubectl and other clients.
    pub fn server(&self, cluster: &str) -> String {
        server(self.address, cluster)
    }

    /// The embedded members, in the order of [`CLUSTERS`].
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Stops everything, without waiting for long streams.
    pub async fn stop(self) {
        self.shutdown.cut();
        // A gateway task that has panicked has stopped as well.
        let _ = self.gateway.await;
        for member in self.members {
            member.shutdown().await;
        }
    }
}

fn config(listen: SocketAddr, manifests: PathBuf, tokens: PathBuf, state: PathBuf) -> Config {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let own = listen.ip().to_string();
    Config {
        listen,
        serving: Serving::StateDirectory { path: state, names: names.into_iter().chain([own]).collect() },
        client_ca_file: None,
        token_auth_file: Some(tokens),
        manifests: vec![manifests],
        kubeconfigs: Vec::new(),
        member: MemberLimits::default(),
        max_connections: 1000,
        drain: std::time::Duration::from_secs(5),
    }
}

fn cluster_secret(name: &str, member: &Member) -> Value {
    let (certificate, key) = member.gateway_certificate();
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "labels": {CREDENTIAL_TYPE: "X509Certificate"}},
        "stringData": {
            "endpoint": format!("https://{}", member.address()),
            "ca.crt": member.ca_pem(), "tls.crt": certificate, "tls.key": key,
        },
    })
}

/// Group `demo` may do everything on every cluster; nobody else anything.
fn rules() -> Value {
    json!({
        "apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "demo"},
             "rules": [{"apiGroups": ["cluster.core.oam.dev"], "resources": ["clustergateways/proxy"], "verbs": ["*"]}]},
            {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "demo"},
             "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "demo"},
             "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "demo"}]},
        ],
    })
}

fn kubeconfig_document(address: SocketAddr, ca_pem: &str, token: &str) -> Value {
    let clusters: Vec<Value> = CLUSTERS
        .iter()
        .map(|name| {
            json!({"name": name, "cluster": {
                "server": server(address, name), "certificate-authority-data": STANDARD.encode(ca_pem)}})
        })
        .collect();
    let contexts: Vec<Value> = CLUSTERS
        .iter()
        .map(|name| json!({"name": name, "context": {"cluster": name, "user": USER}}))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": CLUSTERS[0],
        "clusters": clusters, "contexts": contexts, "users": [{"name": USER, "user": {"token": token}}],
    })
}

fn server(address: SocketAddr, cluster: &str) -> String {
    format!("https://{address}/clusters/{cluster}")
}

/// 128 random bits: other users of this machine can reach the port, but must not get in.
fn random_token() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("no random numbers to be had"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// JSON is YAML, also to kubectl.
fn write(path: &Path, document: &Value) -> anyhow::Result<()> {
    fs::write(path, format!("{document:#}\n")).with_context(|| format!("cannot write {}", path.display()))
}
