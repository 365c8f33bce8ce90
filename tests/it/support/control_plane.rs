//! A real kube-apiserver on a real etcd, from `KUBEBUILDER_ASSETS` as envtest has it.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use serde_json::json;
use tempfile::TempDir;

use super::{
    client::Client,
    gateway::{Cluster, base64},
    kubectl::{Kubectl, Session},
    process::{Process, eventually},
};

/// A running control plane; it ends with this value.
pub struct ControlPlane {
    /// Where its API server listens, on loopback.
    pub port: u16,
    /// The authority of its serving certificate and of its clients, PEM.
    pub ca_pem: String,
    /// Client certificate and key of an administrator (`system:masters`), PEM.
    pub admin: (String, String),
    _api_server: Process,
    _etcd: Process,
    folder: TempDir,
}

impl ControlPlane {
    /// The one that tests running at the same time share; it ends with the last of them. Without
    /// `KUBEBUILDER_ASSETS` the test is skipped, loudly.
    pub fn shared(test: &str) -> Option<Arc<Self>> {
        static RUNNING: Mutex<Weak<ControlPlane>> = Mutex::new(Weak::new());
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let plane = match running.upgrade() {
            Some(plane) => plane,
            None => Arc::new(Self::start(test)?),
        };
        *running = Arc::downgrade(&plane);
        Some(plane)
    }

    fn start(test: &str) -> Option<Self> {
        let Some(assets) = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) else {
            super::skip(
                test,
                "no real control plane: set KUBEBUILDER_ASSETS to a folder with kube-apiserver and etcd",
            );
            return None;
        };
        for binary in ["etcd", "kube-apiserver"] {
            assert!(assets.join(binary).is_file(), "KUBEBUILDER_ASSETS={} has no {binary}", assets.display());
        }
        Some(Self::start_from(&assets))
    }

    fn start_from(assets: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::write(folder.path());
        let [etcd_port, peer_port, api_port] = free_ports();

        let mut etcd = Command::new(assets.join("etcd"));
        etcd.arg("--data-dir").arg(folder.path().join("etcd")).args([
            format!("--listen-client-urls=http://127.0.0.1:{etcd_port}"),
            format!("--advertise-client-urls=http://127.0.0.1:{etcd_port}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"),
            "--unsafe-no-fsync=true".to_owned(),
            "--log-level=warn".to_owned(),
        ]);
        let etcd = Process::start(etcd, &folder.path().join("etcd.log"));

        let file = |name: &str| folder.path().join(name).display().to_string();
        let mut api_server = Command::new(assets.join("kube-apiserver"));
        api_server.args([
            format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--secure-port={api_port}"),
            format!("--tls-cert-file={}", file("server.crt")),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--service-account-key-file={}", file("server.crt")),
            format!("--service-account-signing-key-file={}", file("server.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--allow-privileged=true".to_owned(),
            // No controller manager makes the default ServiceAccount that this plugin asks for.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ]);
        let mut api_server = Process::start(api_server, &folder.path().join("kube-apiserver.log"));

        let version = Command::new(assets.join("kube-apiserver")).arg("--version").output().unwrap();
        println!("kube-apiserver: {}", String::from_utf8_lossy(&version.stdout).trim());
        wait_until_ready(api_port, &pki, &mut api_server);
        Self {
            port: api_port,
            ca_pem: pki.ca_pem,
            admin: pki.admin,
            _api_server: api_server,
            _etcd: etcd,
            folder,
        }
    }

    /// Its definition as a cluster, with the administrator's certificate as the gateway's credential.
    pub fn cluster(&self, name: &str) -> Cluster {
        Cluster::new(name, &format!("https://127.0.0.1:{}", self.port))
            .authority(&self.ca_pem)
            .certificate(&self.admin.0, &self.admin.1)
    }

    /// `kubectl` as the administrator, without a gateway in between.
    pub fn administrator(&self, kubectl: &Kubectl) -> Session {
        let folder = tempfile::Builder::new().prefix("kube-").tempdir_in(self.folder.path()).unwrap().keep();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "direct",
            "clusters": [{"name": "direct", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority-data": base64(&self.ca_pem),
            }}],
            "users": [{"name": "admin", "user": {
                "client-certificate-data": base64(&self.admin.0), "client-key-data": base64(&self.admin.1),
            }}],
            "contexts": [{"name": "direct", "context": {"cluster": "direct", "user": "admin"}}],
        });
        fs::write(folder.join("config"), config.to_string()).unwrap();
        kubectl.at(&folder.join("config"))
    }
}

fn wait_until_ready(port: u16, pki: &Pki, api_server: &mut Process) {
    let authority = clusterway_certs::certificates(pki.ca_pem.as_bytes(), "ca.crt").unwrap().remove(0);
    let client = Client::new(([127, 0, 0, 1], port).into(), &authority, None);
    std::thread::scope(|scope| {
        // A thread of its own, as the test's is inside a runtime already.
        let waiting = scope.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            eventually(Duration::from_secs(90), || {
                assert!(api_server.is_running(), "kube-apiserver ended:\n{}", api_server.output());
                let answer = runtime.block_on(client.try_get("/readyz"));
                answer.is_some_and(|answer| answer.status.is_success()).then_some(())
            })
            .unwrap_or_else(|| panic!("kube-apiserver is not ready:\n{}", api_server.output()));
        });
        waiting.join().unwrap();
    });
}

struct Pki {
    ca_pem: String,
    admin: (String, String),
}

impl Pki {
    fn write(folder: &Path) -> Self {
        let ca_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut ca = named("control plane");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = Issuer::new(ca, ca_key);

        let mut server = named("kube-apiserver");
        server.subject_alt_names = ["127.0.0.1", "localhost"]
            .into_iter()
            .map(|name| match name.parse() {
                Ok(address) => rcgen::SanType::IpAddress(address),
                Err(_) => rcgen::SanType::DnsName(name.try_into().unwrap()),
            })
            .collect();
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let server = issue(&issuer, server);

        let mut admin = named("admin");
        admin.distinguished_name.push(DnType::OrganizationName, "system:masters");
        admin.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let admin = issue(&issuer, admin);

        for (name, content) in [("ca.crt", &ca_pem), ("server.crt", &server.0), ("server.key", &server.1)] {
            fs::write(folder.join(name), content).unwrap();
        }
        Self { ca_pem, admin }
    }
}

fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn issue(issuer: &Issuer<'_, KeyPair>, params: CertificateParams) -> (String, String) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    std::array::from_fn(|index| listeners[index].local_addr().unwrap().port())
}
