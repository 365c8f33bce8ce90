//! `clusterway demo`: two embedded clusters behind one gateway, to look at and to try things on.

use std::{ffi::OsString, io::Write as _, net::SocketAddr, process::ExitCode};

use anyhow::Context as _;
use clap::Args;
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

use crate::demo::{
    fleet::{CLUSTERS, Fleet},
    tour,
};

/// The flags of `clusterway demo`.
#[derive(Args, Clone, Debug)]
pub(super) struct DemoFlags {
    /// Show what the gateway does with a client of our own, and end; needs no kubectl
    #[arg(long, conflicts_with = "command")]
    tour: bool,

    /// Address and port of the gateway; port 0 takes any that is free
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Run this with KUBECONFIG set, and end with its exit code
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Starts the fleet, does what was asked for, and cleans up.
pub(super) fn run(flags: DemoFlags) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(demo(flags));
    runtime.shutdown_background();
    outcome
}

async fn demo(flags: DemoFlags) -> anyhow::Result<ExitCode> {
    // Only for its owner, and gone with the demo.
    let folder =
        tempfile::Builder::new().prefix("clusterway-demo-").tempdir().context("no temporary folder")?;
    let fleet = Fleet::start(folder.path(), flags.listen).await?;
    let outcome = match flags.command.split_first() {
        Some((program, arguments)) => command(&fleet, program, arguments).await,
        None if flags.tour => tour::run(&fleet, &mut std::io::stdout()).await.map(|()| {
            println!("{}", invitation(&fleet, false));
            ExitCode::SUCCESS
        }),
        None => stay(&fleet).await,
    };
    fleet.stop().await;
    outcome
}

/// Runs a command of the user's with `KUBECONFIG` set. Ctrl-C goes to it too; the demo ends when it ends.
async fn command(fleet: &Fleet, program: &OsString, arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    let mut child = Command::new(program)
        .args(arguments)
        .env("KUBECONFIG", &fleet.kubeconfig)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.context("cannot wait for the command")?,
            interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot watch for ctrl-c")?,
            // Meant for the demo: what it runs ends with it, and its files go.
            _ = terminate.recv() => child.start_kill().context("cannot end the command")?,
        }
    };
    // Ended by a signal: as shells have it, 128 and its number.
    let code =
        status.code().or_else(|| std::os::unix::process::ExitStatusExt::signal(&status).map(|n| 128 + n));
    Ok(ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

async fn stay(fleet: &Fleet) -> anyhow::Result<ExitCode> {
    println!("{}", invitation(fleet, true));
    std::io::stdout().flush().context("standard output")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot watch for ctrl-c")?,
        _ = terminate.recv() => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn invitation(fleet: &Fleet, running: bool) -> String {
    let [east, west] = CLUSTERS;
    let (how, end) = match running {
        true => (
            format!("export KUBECONFIG={}\n\n", fleet.kubeconfig.display()),
            format!(
                "\n\nClusters {east} and {west} are behind https://{}. Ctrl-C ends the demo.",
                fleet.address
            ),
        ),
        false => ("Now with kubectl: start `clusterway demo` and try\n\n".to_owned(), String::new()),
    };
    let tries = [
        format!("kubectl --context {east} get pods -A -o wide"),
        format!("kubectl --context {west} get deployments -w"),
        format!("kubectl --context {east} logs -f deployment/web"),
        format!("kubectl --context {east} exec -it deployment/web -- sh"),
        format!("kubectl --context {west} scale deployment/web --replicas 5"),
        format!("kubectl --context {west} auth whoami"),
    ];
    format!("{how}{}{end}", tries.map(|line| format!("  {line}")).join("\n"))
}
