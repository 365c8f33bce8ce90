//! A gateway, built from its configuration: what `clusterway serve` runs and the demo embeds.
//!
//! Everything that can fail at start fails in [`App::build`], before anything is served.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use clusterway_certs::{ClientAuthority, Reload, ServerTls, ServingSource, StateDirectory};
use tokio::{net::TcpListener, time::MissedTickBehavior};
use tracing::{error, info};
use upgrade_aware_proxy::{PoolConfig, Timeouts, Tunnels};

use crate::{
    access::Access,
    clusters::{DialTimeouts, Reach, Registry},
    config::{Config, MemberLimits, Serving},
    forward::Forwarder,
    gateway::{
        Gateway,
        authenticate::{Authenticator, StaticTokens},
    },
    open_files,
    server::{self, Limits, Shutdown},
    standalone::Files,
};

/// How often files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// A gateway that is bound to its address and knows its clusters.
#[derive(Debug)]
pub struct App {
    config: Config,
    listener: TcpListener,
    address: SocketAddr,
    credentials: Credentials,
    files: Files,
    registry: Arc<Registry>,
    access: Arc<Access>,
}

impl App {
    /// Reads every file once and binds the address.
    ///
    /// # Errors
    /// Whatever keeps it from serving: an address in use, certificates or tokens that cannot be read. Clusters that
    /// cannot be used are no such reason; they are logged and refused by name.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        let credentials = Credentials::load(&config)?;
        let registry = Registry::new(reach(config.member));
        let access = Arc::new(Access::new());
        let files = Files::new(&config, Arc::clone(&registry), Arc::clone(&access));
        let files =
            tokio::task::spawn_blocking(move || polled(files)).await.context("cannot read the manifests")?;
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("cannot listen on {} (--listen)", config.listen))?;
        let address = listener.local_addr().context("cannot tell the address listened on")?;
        Ok(Self { config, listener, address, credentials, files, registry, access })
    }

    /// The address it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` says to drain, and drains.
    pub async fn run(self, shutdown: Shutdown) {
        info!(address = %self.address, version = env!("CARGO_PKG_VERSION"), "serving");
        let Self { config, listener, credentials, files, registry, access, .. } = self;
        let limits = Limits {
            max_connections: open_files::connections_that_fit(config.max_connections),
            drain: config.drain,
            ..Limits::default()
        };
        let tunnels = Tunnels { shutdown: shutdown.cut_token().clone(), ..Tunnels::default() };
        let gateway = Gateway {
            authenticator: credentials.authenticator(),
            access,
            registry,
            forwarder: Forwarder::new(timeouts(config.member), tunnels),
            shutdown: shutdown.clone(),
        };
        let tls = Arc::clone(&credentials.tls);
        let following = tokio::spawn(follow(Followed { credentials, files, reported: Default::default() }));
        server::serve(listener, move || tls.current(), limits, Arc::new(gateway), shutdown).await;
        following.abort();
        info!("stopped");
    }
}

fn reach(limits: MemberLimits) -> Reach {
    Reach {
        pool: PoolConfig { max_connections: limits.connections, ..PoolConfig::default() },
        dial: DialTimeouts { connect: limits.dial, tls: limits.tls },
    }
}

fn timeouts(limits: MemberLimits) -> Timeouts {
    Timeouts { response_head: limits.response_head, upgrade_head: limits.upgrade_head, ..Timeouts::default() }
}

fn polled(mut files: Files) -> Files {
    files.poll();
    files
}

/// Everything that is read again while the gateway runs.
struct Followed {
    credentials: Credentials,
    files: Files,
    reported: [Option<String>; 3],
}

/// Takes up changed files until aborted. A bad file is reported once, and what was good stays in use.
async fn follow(mut followed: Followed) {
    let mut ticks = tokio::time::interval(RELOAD_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let polled = tokio::task::spawn_blocking(move || {
            followed.files.poll();
            for ((what, outcome), reported) in
                followed.credentials.reload().into_iter().zip(&mut followed.reported)
            {
                report(what, outcome, reported);
            }
            followed
        });
        match polled.await {
            Ok(still) => followed = still,
            Err(error) => return error!(%error, "files are not followed any more; please report this"),
        }
    }
}

/// What clients are shown and what they have to show.
#[derive(Debug)]
struct Credentials {
    tls: Arc<ServerTls>,
    clients: Option<Arc<ClientAuthority>>,
    tokens: Option<Arc<StaticTokens>>,
}

impl Credentials {
    fn load(config: &Config) -> anyhow::Result<Self> {
        let clients = config.client_ca_file.as_ref().map(ClientAuthority::from_file).transpose();
        let clients = clients.context("--client-ca-file")?.map(Arc::new);
        let tokens = config.token_auth_file.as_ref().map(StaticTokens::from_file).transpose();
        let tokens = tokens.context("--token-auth-file")?.map(Arc::new);
        let (source, flag) = match &config.serving {
            Serving::Files { certificate, key } => (
                ServingSource::Files { certificate: certificate.clone(), key: key.clone() },
                "--tls-cert-file",
            ),
            Serving::StateDirectory { path, names } => {
                let directory = StateDirectory::open(path).context("--state-dir")?;
                info!(
                    ca = %directory.authority_file().display(),
                    "serving with a certificate of our own authority; clients need this ca file"
                );
                (
                    ServingSource::StateDirectory { directory: Arc::new(directory), names: names.clone() },
                    "--tls-san or --state-dir",
                )
            }
        };
        let tls = Arc::new(ServerTls::new(source, clients.clone()).context(flag)?);
        Ok(Self { tls, clients, tokens })
    }

    fn authenticator(&self) -> Authenticator {
        Authenticator::new(self.clients.clone(), self.tokens.clone())
    }

    /// The trust in clients comes before the listener's configuration, which contains it.
    fn reload(&self) -> [(&'static str, Result<Reload, String>); 3] {
        let clients = self.clients.as_ref().map_or(Ok(Reload::Unchanged), |clients| clients.reload());
        let tokens = self.tokens.as_ref().map_or(Ok(Reload::Unchanged), |tokens| tokens.reload());
        [
            ("client authorities", clients.map_err(|error| error.to_string())),
            ("bearer tokens", tokens.map_err(|error| error.to_string())),
            ("serving certificate", self.tls.reload().map_err(|error| error.to_string())),
        ]
    }
}

fn report(what: &str, outcome: Result<Reload, String>, reported: &mut Option<String>) {
    match outcome {
        Ok(Reload::Changed) => {
            *reported = None;
            info!("{what}: changed, and in use");
        }
        Ok(Reload::Unchanged) => {
            if reported.take().is_some() {
                info!("{what}: back to what is in use");
            }
        }
        Err(error) => {
            if reported.as_ref() != Some(&error) {
                error!(%error, "{what}: not taken up; the last good version stays in use");
                *reported = Some(error);
            }
        }
    }
}
