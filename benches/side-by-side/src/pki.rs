//! The certificates of one run, as files, because HAProxy, nginx and kubectl take files.
//!
//! One authority signs all of them: the member's and the proxies' serving certificates and one client certificate,
//! which every proxy shows to the member and the load shows to whoever it talks to.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clusterway_certs::{Authority, Issued, certificates, private_key, provider};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// ALPN name of HTTP/1.1.
pub(crate) const H1: &[u8] = b"http/1.1";
/// ALPN name of HTTP/2.
pub(crate) const H2: &[u8] = b"h2";

/// A directory that [`Pki::create`] has filled.
#[derive(Clone)]
pub(crate) struct Pki {
    directory: PathBuf,
}

impl Pki {
    /// Makes the authority and everything below it.
    pub(crate) fn create(directory: &Path) -> Result<Self> {
        let pki = Self { directory: directory.to_owned() };
        let authority = Authority::new("side-by-side")?;
        fs::write(pki.ca(), authority.certificate_pem())?;
        pki.write("server", &authority.issue_server(&["127.0.0.1", "localhost"])?)?;
        pki.write("client", &authority.issue_client("clusterway", &["system:masters"])?)?;
        Ok(pki)
    }

    /// Takes up a directory that another process has filled.
    pub(crate) fn open(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    fn write(&self, name: &str, issued: &Issued) -> Result<()> {
        fs::write(self.certificate(name), issued.certificate_pem())?;
        fs::write(self.key(name), issued.key_pem())?;
        fs::write(self.bundle(name), issued.certificate_pem() + &issued.key_pem())?;
        Ok(())
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    pub(crate) fn certificate(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.pem"))
    }

    pub(crate) fn key(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}-key.pem"))
    }

    /// Certificate and key in one file, as HAProxy wants them.
    pub(crate) fn bundle(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}-bundle.pem"))
    }

    fn roots(&self) -> Result<Arc<RootCertStore>> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&read(&self.ca())?, "ca.pem")? {
            roots.add(certificate)?;
        }
        Ok(Arc::new(roots))
    }

    /// How the load talks to proxies and to the member.
    pub(crate) fn client_config(&self, alpn: &[u8]) -> Result<Arc<ClientConfig>> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(
                certificates(&read(&self.certificate("client"))?, "client.pem")?,
                private_key(&read(&self.key("client"))?, "client-key.pem")?,
            )?;
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(Arc::new(config))
    }

    /// How the member listens: a client certificate is required, as proxies use one towards real members.
    pub(crate) fn member_config(&self) -> Result<Arc<ServerConfig>> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider()).build()?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                certificates(&read(&self.certificate("server"))?, "server.pem")?,
                private_key(&read(&self.key("server"))?, "server-key.pem")?,
            )?;
        config.alpn_protocols = vec![H2.to_vec(), H1.to_vec()];
        Ok(Arc::new(config))
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
