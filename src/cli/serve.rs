//! `clusterway serve`: one door, stand-alone.

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::{app::App, config::Config, server::Shutdown};

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
    let app = App::build(config).await?;
    app.run(shutdown).await;
    Ok(())
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
