//! `clusterway serve`: one door, stand-alone.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use clusterway_certs::{ClientAuthority, Reload, ServerTls, ServingSource, StateDirectory};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::MissedTickBehavior,
};
use tracing::{error, info, warn};
use upgrade_aware_proxy::ResponseBody;

use crate::{
    api::{
        Hop, Reason, Status,
        health::{self, Check},
    },
    config::{Config, Serving},
    connection::Connection,
    gateway::authenticate::{Authenticator, StaticTokens},
    server::{self, Limits, Shutdown},
    telemetry::access::Record,
};

/// Files that hold credentials are looked at this often (issue 2: at most 1 s apart).
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// Serves until a signal says to stop.
pub(super) fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(serve(config));
    // Whatever still blocks (a name being resolved, a file being read) must not keep the process.
    runtime.shutdown_background();
    outcome
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let shutdown = Shutdown::new();
    stop_on_signals(shutdown.clone())?;
    let credentials = Credentials::load(&config)?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {} (--listen)", config.listen))?;
    let address = listener.local_addr().context("cannot tell the address listened on")?;
    info!(%address, version = env!("CARGO_PKG_VERSION"), "serving");
    let limits = Limits { max_connections: config.max_connections, drain: config.drain, ..Limits::default() };

    let handler = handler(credentials.authenticator(), shutdown.clone());
    let tls = Arc::clone(&credentials.tls);
    let reloading = tokio::spawn(credentials.keep_fresh());
    server::serve(listener, move || tls.current(), limits, Arc::new(handler), shutdown).await;
    reloading.abort();
    info!("stopped");
    Ok(())
}

/// Says how the gateway is, and that it has nothing else yet.
fn handler(authenticator: Authenticator, shutdown: Shutdown) -> impl server::Handler {
    let authenticator = Arc::new(authenticator);
    move |request: Request<Incoming>, connection: Arc<Connection>| {
        let (authenticator, shutdown) = (Arc::clone(&authenticator), shutdown.clone());
        async move {
            let record = Record::begin(&request, &connection);
            let response = answer(&authenticator, &shutdown, &record, &request, &connection);
            record.answer(response)
        }
    }
}

fn answer(
    authenticator: &Authenticator,
    shutdown: &Shutdown,
    record: &Record,
    request: &Request<Incoming>,
    connection: &Connection,
) -> Response<ResponseBody> {
    let query = request.uri().query();
    match request.uri().path() {
        "/healthz" | "/livez" => return health::respond("livez", query, &[]),
        "/readyz" => {
            let check = Check { name: "shutdown", ok: !shutdown.is_draining() };
            return health::respond("readyz", query, &[check]);
        }
        _ => {}
    }
    let (code, reason, message) = match authenticator.authenticate(request.headers(), connection) {
        Ok(caller) => {
            record.caller(&caller);
            (StatusCode::NOT_FOUND, Reason::NotFound, "there is nothing at this path".to_owned())
        }
        Err(error) => {
            connection.close_when_answered();
            (StatusCode::UNAUTHORIZED, Reason::Unauthorized, error.to_string())
        }
    };
    Status::new(code, reason, Hop::Gateway, message).into_response()
}

/// What clients are shown and what they have to show.
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

    /// Takes up changed files until aborted. A bad file is reported once, and what was good stays in use.
    async fn keep_fresh(self) {
        let mut ticks = tokio::time::interval(RELOAD_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let credentials = Arc::new(self);
        let mut reported = [const { None }; 3];
        loop {
            ticks.tick().await;
            let reloading = Arc::clone(&credentials);
            let Ok(outcomes) = tokio::task::spawn_blocking(move || reloading.reload()).await else { return };
            for ((what, outcome), reported) in outcomes.into_iter().zip(&mut reported) {
                report(what, outcome, reported);
            }
        }
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

/// The first SIGTERM or SIGINT drains; the second ends the process at once.
fn stop_on_signals(shutdown: Shutdown) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    tokio::spawn(async move {
        loop {
            let number = tokio::select! {
                _ = terminate.recv() => SignalKind::terminate(),
                _ = interrupt.recv() => SignalKind::interrupt(),
            };
            if shutdown.is_draining() {
                warn!("second signal: ending at once");
                std::process::exit(128 + number.as_raw_value());
            }
            info!("draining; a second signal ends at once");
            shutdown.drain();
        }
    });
    Ok(())
}
