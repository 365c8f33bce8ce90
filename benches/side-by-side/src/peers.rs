//! The proxies under test: how each is configured, started and asked for its version.
//!
//! All of them show the same client certificate to the member and check its certificate. HAProxy, nginx and
//! `kubectl proxy` only pass requests on; Clusterway also authenticates the caller, decides by RBAC rules and
//! replaces the caller's credential by impersonation headers.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use tokio::time::{Instant, sleep};

use crate::load::{self, Target};
use crate::pki::Pki;
use crate::process::{Pinned, find, output};

/// The caller's token at every target; only Clusterway looks at it.
const TOKEN: &str = "0d6e7c1f-side-by-side";
/// How long a peer may need until it answers.
const START: Duration = Duration::from_secs(20);

/// A column of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Peer {
    /// No proxy at all: what the machine and the load can do.
    Direct,
    /// `clusterway serve` with a directory of manifests.
    Clusterway,
    /// HAProxy, HTTP/2 to the member: what Clusterway is compared with.
    Haproxy,
    /// HAProxy, HTTP/1.1 to the member.
    HaproxyH1,
    /// nginx, HTTP/1.1 to the member.
    Nginx,
    /// `kubectl proxy`, plain HTTP towards the client.
    KubectlProxy,
}

impl Peer {
    /// Its name in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Clusterway => "Clusterway",
            Self::Haproxy => "HAProxy→h2",
            Self::HaproxyH1 => "HAProxy→h1",
            Self::Nginx => "nginx",
            Self::KubectlProxy => "kubectl proxy (plain)",
        }
    }

    /// What to do when its program is missing.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::Direct => "nothing",
            Self::Clusterway => "cargo build --release",
            Self::Haproxy | Self::HaproxyH1 => "apt-get install haproxy && systemctl disable --now haproxy",
            Self::Nginx => "apt-get install nginx-light && systemctl disable --now nginx",
            Self::KubectlProxy => "install kubectl, or name one with --kubectl",
        }
    }
}

/// A peer whose program is there.
pub(crate) struct Installed {
    pub(crate) peer: Peer,
    pub(crate) version: String,
    program: PathBuf,
}

impl Installed {
    /// Looks for a peer's program and asks it for its version. `Direct` has neither.
    pub(crate) async fn find(peer: Peer, program: &str) -> Result<Self> {
        if peer == Peer::Direct {
            return Ok(Self { peer, version: "–".to_owned(), program: PathBuf::new() });
        }
        let program = find(program).with_context(|| format!("{program} is not installed"))?;
        let path = program.to_string_lossy();
        let (arguments, mark): (&[&str], _) = match peer {
            Peer::Haproxy | Peer::HaproxyH1 => (&["-v"], "HAProxy version "),
            Peer::Nginx => (&["-v"], "nginx version: nginx/"),
            Peer::KubectlProxy => (&["version", "--client"], "Client Version: "),
            Peer::Clusterway | Peer::Direct => (&["--version"], "clusterway "),
        };
        let text = output(&path, arguments).await?;
        let version = text
            .lines()
            .find_map(|line| line.split_once(mark)?.1.split_whitespace().next())
            .with_context(|| format!("{path} does not say its version: {text}"))?;
        Ok(Self { peer, version: version.to_owned(), program })
    }

    /// Writes the configuration, starts the peer on `cores` and waits until it answers.
    pub(crate) async fn start(&self, pki: &Pki, member: u16, cores: &str) -> Result<Running> {
        let port = free_port()?;
        let directory =
            pki.directory().join(self.peer.name().replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
        fs::create_dir_all(&directory)?;
        let place = Place { pki, directory: &directory, member, port };
        let (arguments, target) = match self.peer {
            Peer::Direct => {
                let target = Target::tls(pki, member, "", TOKEN)?;
                return Ok(Running { process: None, target });
            }
            Peer::Clusterway => (place.clusterway()?, Target::tls(pki, port, "/clusters/bench", TOKEN)?),
            Peer::Haproxy => (place.haproxy("h2")?, Target::tls(pki, port, "", TOKEN)?),
            Peer::HaproxyH1 => (place.haproxy("http/1.1")?, Target::tls(pki, port, "", TOKEN)?),
            Peer::Nginx => (place.nginx()?, Target::tls(pki, port, "", TOKEN)?),
            Peer::KubectlProxy => (place.kubectl_proxy()?, Target::plain(port, "", TOKEN)?),
        };
        let command: Vec<_> =
            std::iter::once(self.program.to_string_lossy().into_owned()).chain(arguments).collect();
        let log = directory.join("stderr.log");
        let mut process = Pinned::start(cores, &command, log, (Stdio::null(), Stdio::null()))?;
        if let Err(error) = until_it_answers(&target).await {
            bail!("{} does not answer: {error:#}; {}", self.peer.name(), process.last_words());
        }
        Ok(Running { process: Some(process), target })
    }
}

/// A started peer.
pub(crate) struct Running {
    /// None for `direct`.
    pub(crate) process: Option<Pinned>,
    pub(crate) target: Target,
}

async fn until_it_answers(target: &Target) -> Result<()> {
    let deadline = Instant::now() + START;
    loop {
        match load::probe(target).await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Where one peer's files and ports are.
struct Place<'a> {
    pki: &'a Pki,
    directory: &'a Path,
    member: u16,
    port: u16,
}

impl Place<'_> {
    fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn haproxy(&self, alpn: &str) -> Result<Vec<String>> {
        let Self { member, port, .. } = self;
        let (ca, client, server) = (self.pki.ca(), self.pki.bundle("client"), self.pki.bundle("server"));
        let (ca, client, server) = (ca.display(), client.display(), server.display());
        let to_member = format!(
            "server member 127.0.0.1:{member} ssl verify required ca-file {ca} crt {client} verifyhost localhost"
        );
        // An upgrade needs HTTP/1.1 all the way: 2.6 would turn it into an extended CONNECT on HTTP/2.
        let config = format!(
            "global\n  nbthread 1\n  maxconn 4000\n\
             defaults\n  mode http\n  http-reuse always\n  timeout connect 5s\n  timeout client 60s\n  \
             timeout server 60s\n  timeout tunnel 60s\n\
             frontend front\n  bind 127.0.0.1:{port} ssl crt {server} alpn h2,http/1.1\n  \
             use_backend upgrades if {{ req.hdr(upgrade) -m found }}\n  default_backend member\n\
             backend member\n  {to_member} alpn {alpn}\n\
             backend upgrades\n  {to_member} alpn http/1.1\n"
        );
        Ok(vec!["-db".to_owned(), "-f".to_owned(), self.write("haproxy.cfg", &config)?])
    }

    fn nginx(&self) -> Result<Vec<String>> {
        let Self { member, port, .. } = self;
        let (ca, directory) = (self.pki.ca(), self.directory.display());
        let ca = ca.display();
        let [certificate, key] = [self.pki.certificate("server"), self.pki.key("server")];
        let [client, client_key] = [self.pki.certificate("client"), self.pki.key("client")];
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("  {name}_temp_path {directory}/{name};\n"))
            .concat();
        let config = format!(
            "daemon off;\nmaster_process off;\nworker_processes 1;\npid {directory}/pid;\nerror_log stderr;\n\
             events {{ worker_connections 4096; }}\nhttp {{\n{temporary}  access_log off;\n  \
             keepalive_requests 1000000000;\n  \
             map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}\n  \
             upstream member {{ server 127.0.0.1:{member}; keepalive 512; keepalive_requests 1000000000; }}\n  \
             server {{\n    listen 127.0.0.1:{port} ssl http2;\n    \
             ssl_certificate {};\n    ssl_certificate_key {};\n    ssl_protocols TLSv1.2 TLSv1.3;\n    \
             location / {{\n      proxy_pass https://member;\n      proxy_http_version 1.1;\n      \
             proxy_buffering off;\n      proxy_request_buffering off;\n      \
             proxy_set_header Connection $connection_upgrade;\n      proxy_set_header Upgrade $http_upgrade;\n      \
             proxy_ssl_name localhost;\n      proxy_ssl_verify on;\n      proxy_ssl_trusted_certificate {ca};\n      \
             proxy_ssl_protocols TLSv1.2 TLSv1.3;\n      \
             proxy_ssl_certificate {};\n      proxy_ssl_certificate_key {};\n    }}\n  }}\n}}\n",
            certificate.display(),
            key.display(),
            client.display(),
            client_key.display(),
        );
        let config = self.write("nginx.conf", &config)?;
        Ok(["-e", "stderr", "-c", &config].map(str::to_owned).to_vec())
    }

    fn kubectl_proxy(&self) -> Result<Vec<String>> {
        let Self { member, port, .. } = self;
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: bench\n\
             contexts: [{{name: bench, context: {{cluster: bench, user: bench}}}}]\n\
             clusters: [{{name: bench, cluster: {{server: 'https://127.0.0.1:{member}', certificate-authority: {}}}}}]\n\
             users: [{{name: bench, user: {{client-certificate: {}, client-key: {}}}}}]\n",
            self.pki.ca().display(),
            self.pki.certificate("client").display(),
            self.pki.key("client").display(),
        );
        let config = self.write("kubeconfig", &config)?;
        // Without --disable-filter it refuses exec, which the upgraded streams go through.
        Ok(vec![
            format!("--kubeconfig={config}"),
            "proxy".to_owned(),
            format!("--port={port}"),
            "--disable-filter=true".to_owned(),
        ])
    }

    fn clusterway(&self) -> Result<Vec<String>> {
        let manifests = self.directory.join("manifests");
        fs::create_dir_all(&manifests)?;
        self.write("manifests/cluster.yaml", &self.cluster_secret()?)?;
        self.write("manifests/access.yaml", ACCESS)?;
        let tokens = self.write("tokens.csv", &format!("{TOKEN},jane,1001,\"developers,on-call\"\n"))?;
        let [certificate, key] = [self.pki.certificate("server"), self.pki.key("server")];
        Ok(vec![
            "serve".to_owned(),
            // The peers write none either.
            "--no-access-log".to_owned(),
            format!("--listen=127.0.0.1:{}", self.port),
            format!("--tls-cert-file={}", certificate.display()),
            format!("--tls-private-key-file={}", key.display()),
            format!("--token-auth-file={tokens}"),
            format!("--manifests={}", manifests.display()),
        ])
    }

    fn cluster_secret(&self) -> Result<String> {
        let files = [self.pki.ca(), self.pki.certificate("client"), self.pki.key("client")];
        let mut text = format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: bench\n  labels:\n    \
             cluster.core.oam.dev/cluster-credential-type: X509Certificate\n\
             stringData:\n  endpoint: https://127.0.0.1:{}\n",
            self.member
        );
        for (name, file) in ["ca.crt", "tls.crt", "tls.key"].into_iter().zip(files) {
            let indented = fs::read_to_string(file)?.replace('\n', "\n    ");
            text += &format!("  {name}: |\n    {}\n", indented.trim_end());
        }
        Ok(text)
    }
}

/// What lets the caller through: one role, bound to one of the caller's groups.
const ACCESS: &str = "\
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: bench}
rules:
- apiGroups: [cluster.core.oam.dev]
  resources: [clustergateways/proxy]
  resourceNames: [bench]
  verbs: [get, create]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: bench}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: bench}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: developers}
";
