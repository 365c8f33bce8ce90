//! `clusterway serve` in a process of its own, with a folder that the test writes to.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use clusterway_certs::{Authority, Issued};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    PATIENCE,
    client::Client,
    process::{Process, eventually},
    raw_member::RawMember,
};

/// May do everything on every cluster. In group `dev`.
pub const ADMIN: &str = "admin-token";
/// May only `get`, on every cluster. In group `readers`.
pub const READER: &str = "reader-token";
/// Is known and may do nothing.
pub const NOBODY: &str = "nobody-token";
/// What the gateway shows to members that take a token.
pub const GATEWAY_TOKEN: &str = "the-gateways-own-token";

/// What a gateway starts with.
pub struct Setup {
    folder: TempDir,
    flags: Vec<String>,
    tokens: String,
    client_authority: Authority,
}

/// A running gateway; it ends with this value.
pub struct Gateway {
    pub process: Process,
    pub address: SocketAddr,
    folder: TempDir,
    authority: CertificateDer<'static>,
    client_authority: Authority,
    tokens: String,
}

/// A cluster's definition: a Secret in the format of cluster-gateway.
#[derive(Clone)]
pub struct Cluster {
    name: String,
    data: Vec<(&'static str, String)>,
    identity: Option<&'static str>,
}

impl Cluster {
    /// `name` at `endpoint`, without authority and without credential.
    pub fn new(name: &str, endpoint: &str) -> Self {
        Self { name: name.to_owned(), data: vec![("endpoint", endpoint.to_owned())], identity: None }
    }

    /// `member` with the gateway's token.
    pub fn of(name: &str, member: &RawMember) -> Self {
        Self::new(name, &member.url()).authority(&member.authority.certificate_pem()).token(GATEWAY_TOKEN)
    }

    /// The same name somewhere else.
    #[must_use]
    pub fn endpoint(self, endpoint: &str) -> Self {
        self.with("endpoint", endpoint)
    }

    /// Who vouches for the member's certificate, PEM.
    #[must_use]
    pub fn authority(self, pem: &str) -> Self {
        self.with("ca.crt", pem)
    }

    /// A bearer token as the credential.
    #[must_use]
    pub fn token(self, token: &str) -> Self {
        self.with("token", token)
    }

    /// A client certificate as the credential.
    #[must_use]
    pub fn certificate(self, certificate: &str, key: &str) -> Self {
        self.with("tls.crt", certificate).with("tls.key", key)
    }

    /// The annotation that says as whom callers arrive.
    #[must_use]
    pub fn identity(mut self, mode: &'static str) -> Self {
        self.identity = Some(mode);
        self
    }

    /// One more key of the Secret, or another value for it.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: &str) -> Self {
        self.data.retain(|(other, _)| *other != key);
        self.data.push((key, value.to_owned()));
        self
    }

    fn manifest(&self) -> String {
        let certificate = self.data.iter().any(|(key, _)| *key == "tls.crt");
        let kind = if certificate { "X509Certificate" } else { "ServiceAccountToken" };
        let data: serde_json::Map<String, Value> =
            self.data.iter().map(|(key, value)| ((*key).to_owned(), value.as_str().into())).collect();
        let mut secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": self.name,
                "labels": {"cluster.core.oam.dev/cluster-credential-type": kind},
            },
            "stringData": data,
        });
        if let Some(mode) = self.identity {
            secret["metadata"]["annotations"] = json!({"cluster.core.oam.dev/identity": mode});
        }
        secret.to_string()
    }
}

impl Setup {
    /// Users and rules as the constants above say, and no cluster.
    pub fn new() -> Self {
        let setup = Self {
            folder: tempfile::tempdir().unwrap(),
            flags: Vec::new(),
            tokens: String::new(),
            client_authority: Authority::new("callers").unwrap(),
        };
        fs::create_dir(setup.folder.path().join("manifests")).unwrap();
        setup
            .user(ADMIN, "admin", &["dev"])
            .user(READER, "reader", &["readers"])
            .user(NOBODY, "nobody", &[])
            .manifest("everything.yaml", &rule("everything", &["*"], None, &[("Group", "dev")]))
            .manifest("reading.yaml", &rule("reading", &["get"], None, &[("Group", "readers")]))
    }

    /// One more caller with a bearer token.
    #[must_use]
    pub fn user(mut self, token: &str, name: &str, groups: &[&str]) -> Self {
        self.tokens.push_str(&token_line(token, name, groups));
        self
    }

    /// One more cluster.
    #[must_use]
    pub fn cluster(self, cluster: &Cluster) -> Self {
        let file = format!("{}.yaml", cluster.name);
        self.manifest(&file, &cluster.manifest())
    }

    /// One more file in the manifests folder.
    #[must_use]
    pub fn manifest(self, file: &str, content: &str) -> Self {
        fs::write(self.folder.path().join("manifests").join(file), content).unwrap();
        self
    }

    /// One more flag, with its value.
    #[must_use]
    pub fn flag(mut self, flag: &str, value: impl ToString) -> Self {
        self.flags.extend([flag.to_owned(), value.to_string()]);
        self
    }

    /// The folder that everything is in; for files that flags name.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts the gateway and waits until it is ready.
    #[track_caller]
    pub fn start(self) -> Gateway {
        let path = |name: &str| self.folder.path().join(name);
        fs::write(path("tokens.csv"), &self.tokens).unwrap();
        fs::write(path("callers.crt"), self.client_authority.certificate_pem()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_clusterway"));
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(["--manifests".as_ref(), path("manifests").as_os_str()])
            .args(["--token-auth-file".as_ref(), path("tokens.csv").as_os_str()])
            .args(["--client-ca-file".as_ref(), path("callers.crt").as_os_str()])
            .args(&self.flags)
            .env_remove("RUST_LOG");
        let own_certificate = self.flags.iter().any(|flag| flag == "--tls-cert-file");
        if !own_certificate {
            command.args(["--state-dir".as_ref(), path("state").as_os_str()]);
        }
        let mut process = Process::start(command, &path("clusterway.log"));
        let address = eventually(PATIENCE, || {
            assert!(process.is_running(), "clusterway ended:\n{}", process.output());
            address_in(&process.output())
        })
        .unwrap_or_else(|| panic!("clusterway never said where it listens:\n{}", process.output()));
        let authority = path(if own_certificate { "serving-ca.crt" } else { "state/ca.crt" });
        let authority =
            clusterway_certs::certificates(&fs::read(authority).unwrap(), "ca.crt").unwrap().remove(0);
        Gateway {
            process,
            address,
            folder: self.folder,
            authority,
            client_authority: self.client_authority,
            tokens: self.tokens,
        }
    }
}

impl Gateway {
    /// A client with a bearer token.
    pub fn client(&self, token: &str) -> Client {
        self.anonymous().with_token(token)
    }

    /// A client that shows nothing.
    pub fn anonymous(&self) -> Client {
        Client::new(self.address, &self.authority, None)
    }

    /// A client with a certificate for `user` in `groups`.
    pub fn certified(&self, user: &str, groups: &[&str]) -> Client {
        let issued = self.client_authority.issue_client(user, groups).unwrap();
        Client::new(self.address, &self.authority, Some(&issued))
    }

    /// A client with a certificate of somebody else's making.
    pub fn certified_as(&self, issued: &Issued) -> Client {
        Client::new(self.address, &self.authority, Some(issued))
    }

    /// The authority of the gateway's certificate, PEM.
    pub fn authority_pem(&self) -> String {
        pem(&self.authority)
    }

    /// A kubeconfig for whoever has `token`, with `cluster` as its current context.
    pub fn kubeconfig(&self, token: &str, cluster: &str) -> PathBuf {
        self.write_kubeconfig(cluster, &format!("/clusters/{cluster}"), &json!({"token": token}))
    }

    /// The same by the path that a hub serves too.
    pub fn hub_style_kubeconfig(&self, token: &str, cluster: &str) -> PathBuf {
        let path = format!("/apis/cluster.core.oam.dev/v1alpha1/clustergateways/{cluster}/proxy");
        self.write_kubeconfig(cluster, &path, &json!({"token": token}))
    }

    /// The same for a caller with a client certificate.
    pub fn certificate_kubeconfig(&self, user: &str, groups: &[&str], cluster: &str) -> PathBuf {
        let issued = self.client_authority.issue_client(user, groups).unwrap();
        let credential = json!({
            "client-certificate-data": base64(issued.certificate_pem()),
            "client-key-data": base64(issued.key_pem()),
        });
        self.write_kubeconfig(cluster, &format!("/clusters/{cluster}"), &credential)
    }

    fn write_kubeconfig(&self, cluster: &str, path: &str, user: &Value) -> PathBuf {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": cluster,
            "clusters": [{"name": cluster, "cluster": {
                "server": format!("https://{}{path}", self.address),
                "certificate-authority-data": base64(self.authority_pem()),
            }}],
            "users": [{"name": "caller", "user": user}],
            "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": "caller"}}],
        });
        // A folder each, since kubectl keeps what it discovers beside it.
        let folder = tempfile::Builder::new().prefix("kube-").tempdir_in(self.folder.path()).unwrap().keep();
        let file = folder.join("config");
        fs::write(&file, config.to_string()).unwrap();
        file
    }

    /// A scratch path in this gateway's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Defines `cluster` anew, in one step.
    pub fn define(&self, cluster: &Cluster) {
        self.write_manifest(&format!("{}.yaml", cluster.name), &cluster.manifest());
    }

    /// Writes a file of the manifests folder in one step.
    pub fn write_manifest(&self, file: &str, content: &str) {
        self.replace(&format!("manifests/{file}"), content);
    }

    /// Removes a file of the manifests folder.
    pub fn remove_manifest(&self, file: &str) {
        fs::remove_file(self.folder.path().join("manifests").join(file)).unwrap();
    }

    /// Adds a caller to the token file.
    pub fn add_user(&mut self, token: &str, name: &str, groups: &[&str]) {
        self.tokens.push_str(&token_line(token, name, groups));
        self.replace("tokens.csv", &self.tokens);
    }

    fn replace(&self, file: &str, content: &str) {
        let next = self.folder.path().join("next");
        fs::write(&next, content).unwrap();
        fs::rename(next, self.folder.path().join(file)).unwrap();
    }

    /// Asks `path` as whoever has `token` until `wanted` accepts the answer; files take effect within a second or so.
    pub async fn until(
        &self,
        token: &str,
        path: &str,
        wanted: impl Fn(&super::client::Answer) -> bool,
    ) -> super::client::Answer {
        let client = self.client(token);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = client.get(path).await;
            if wanted(&answer) {
                return answer;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "never as wanted; last: {answer:?}\n{}",
                self.process.output()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the log holds `text`.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        eventually(PATIENCE, || self.process.output().contains(text).then_some(()))
            .unwrap_or_else(|| panic!("{text:?} is not in the log:\n{}", self.process.output()));
    }
}

/// A ClusterRole and its ClusterRoleBinding: `verbs` on the members named, or on all.
pub fn rule(name: &str, verbs: &[&str], clusters: Option<&[&str]>, subjects: &[(&str, &str)]) -> String {
    let api_group = "rbac.authorization.k8s.io";
    let mut allowed = json!({
        "apiGroups": ["cluster.core.oam.dev"], "resources": ["clustergateways/proxy"], "verbs": verbs,
    });
    if let Some(clusters) = clusters {
        allowed["resourceNames"] = json!(clusters);
    }
    let subjects: Vec<Value> = subjects
        .iter()
        .map(|(kind, name)| json!({"apiGroup": api_group, "kind": kind, "name": name}))
        .collect();
    let role = json!({
        "apiVersion": format!("{api_group}/v1"), "kind": "ClusterRole", "metadata": {"name": name},
        "rules": [allowed],
    });
    let binding = json!({
        "apiVersion": format!("{api_group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": api_group, "kind": "ClusterRole", "name": name},
        "subjects": subjects,
    });
    format!("{role}\n---\n{binding}\n")
}

fn token_line(token: &str, name: &str, groups: &[&str]) -> String {
    // CSV, with quotes in fields doubled.
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    format!("{token},{},uid-of-{token},{}\n", quoted(name), quoted(&groups.join(",")))
}

fn address_in(log: &str) -> Option<SocketAddr> {
    log.split("127.0.0.1:").skip(1).find_map(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        // A line that is still being written may end in the middle of the port.
        let whole = rest.len() > digits.len();
        digits.parse().ok().filter(|port| whole && *port != 0).map(|port: u16| ([127, 0, 0, 1], port).into())
    })
}

pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let lines: Vec<String> = base64(certificate)
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
