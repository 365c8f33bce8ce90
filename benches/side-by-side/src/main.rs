//! Clusterway and its peers, side by side: small requests, a large list and an upgraded stream through each of them
//! in turns on the same core, counted per second of CPU time that the proxy used.
//!
//! One run needs at least two cores; with four, the member has two, the proxy one and the load one. What the numbers
//! mean is written in `docs/performance.md`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum as _};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::task::LocalSet;

mod load;
mod member;
mod peers;
mod pki;
mod process;
mod report;
mod scenario;

use peers::{Installed, Peer};
use pki::Pki;
use process::Pinned;
use report::Samples;
use scenario::Scenario;

/// What ratios are relative to.
const BASELINE: Peer = Peer::Haproxy;

#[derive(Parser)]
#[command(about = "Clusterway and its peers in turns on one core: requests and bytes per CPU-second")]
struct Cli {
    #[command(subcommand)]
    hidden: Option<Hidden>,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand)]
enum Hidden {
    /// The member double, started by the benchmark itself
    #[command(hide = true)]
    Member { pki: PathBuf },
}

#[derive(Args)]
struct Options {
    /// One short round: is everything there, is the order of magnitude right
    #[arg(long)]
    quick: bool,
    /// How often every peer has its turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds each scenario is measured
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Which peers, in the order of the columns
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Peer::value_variants().to_vec())]
    peers: Vec<Peer>,
    /// Only scenarios whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// This clusterway, instead of building one with the release profile
    #[arg(long, value_name = "PROGRAM")]
    clusterway: Option<String>,
    #[arg(long, value_name = "PROGRAM", default_value = "haproxy")]
    haproxy: String,
    #[arg(long, value_name = "PROGRAM", default_value = "nginx")]
    nginx: String,
    #[arg(long, value_name = "PROGRAM", default_value = "kubectl")]
    kubectl: String,
    /// Cores of the proxy, the member and the load, as `taskset -c` takes them
    #[arg(long, num_args = 3, value_names = ["PROXY", "MEMBER", "LOAD"])]
    cores: Option<Vec<String>>,
    /// What cargo passes to every benchmark; ignored
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.hidden {
        Some(Hidden::Member { pki }) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(member::run(&Pki::open(&pki)))
        }
        None => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(LocalSet::new().run_until(async {
                tokio::select! {
                    result = bench(cli.options) => result,
                    _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
                }
            }))
        }
    }
}

async fn bench(mut options: Options) -> Result<()> {
    if options.quick {
        (options.rounds, options.seconds) = (1, options.seconds.min(0.5));
    }
    let cores = Cores::choose(options.cores.take())?;
    let scenarios: Vec<Scenario> =
        scenario::ALL.into_iter().filter(|scenario| scenario.name.contains(&options.only)).collect();
    ensure!(!scenarios.is_empty(), "no scenario has {:?} in its name", options.only);

    let (installed, mut complaints) = find_peers(&options).await;
    let directory = tempfile::tempdir()?;
    let pki = Pki::create(directory.path())?;
    process::pin_self(&cores.load).await?;
    let (member, port) = start_member(&pki, &cores.member).await?;

    let load_before = load_average();
    let mut results = Results::default();
    for round in 0..options.rounds {
        for peer in &installed {
            progress(&format!("round {} of {}: {}", round + 1, options.rounds, peer.peer.name()));
            let turn = Turn { peer, pki: &pki, port, cores: &cores.proxy, seconds: options.seconds };
            if let Err(error) = turn.take(&scenarios, &mut results).await {
                complaints.push(format!("{} in round {}: {error:#}", peer.peer.name(), round + 1));
            }
        }
    }
    member.stop().await?;

    complaints.extend(report::complaints(&scenarios, &results.samples));
    let head = head(&options, &cores, &installed, &results, &load_before).await?;
    let peers: Vec<_> = installed.iter().map(|installed| installed.peer).collect();
    let text = format!(
        "{head}\nPer CPU-second of the proxy, as a ratio to {baseline} (in parentheses: requests, bytes or round \
         trips per CPU-second). Largest distance of a round from its median: {spread:.0} %.\n\n{efficiency}\n\
         By the clock on the wall (p50/p99 of one operation):\n\n{throughput}",
        baseline = BASELINE.name(),
        spread = report::spread(&scenarios, &results.samples),
        efficiency = report::efficiency(&scenarios, &peers, BASELINE, &results.samples),
        throughput = report::throughput(&scenarios, &peers, &results.samples),
    );
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())?;
    for complaint in &complaints {
        writeln!(out, "\n⚠ {complaint}")?;
    }
    Ok(())
}

/// Everything measured.
#[derive(Default)]
struct Results {
    samples: Samples,
    /// The most memory each peer ever had resident, in KiB.
    peak_memory: std::collections::BTreeMap<Peer, u64>,
}

/// One peer's turn in one round: a fresh process, all scenarios.
struct Turn<'a> {
    peer: &'a Installed,
    pki: &'a Pki,
    port: u16,
    cores: &'a str,
    seconds: f64,
}

impl Turn<'_> {
    async fn take(&self, scenarios: &[Scenario], results: &mut Results) -> Result<()> {
        let peer = self.peer.peer;
        let running = self.peer.start(self.pki, self.port, self.cores).await?;
        let cpu = || match &running.process {
            Some(process) => Ok(process.usage()?.cpu),
            None => Ok(Duration::ZERO),
        };
        for (row, scenario) in scenarios.iter().enumerate() {
            if scenario.version == http::Version::HTTP_2 && !running.target.speaks_h2() {
                continue;
            }
            let duration = Duration::from_secs_f64(self.seconds);
            let sample = load::run(&running.target, scenario, duration, cpu)
                .await
                .with_context(|| scenario.name.to_owned())?;
            results.samples.entry((row, peer)).or_default().push(sample);
        }
        if let Some(process) = running.process {
            let peak = results.peak_memory.entry(peer).or_default();
            *peak = process.usage()?.peak_memory.max(*peak);
            process.stop().await?;
        }
        Ok(())
    }
}

/// Who runs where, as `taskset -c` takes it.
struct Cores {
    proxy: String,
    member: String,
    load: String,
}

impl Cores {
    fn choose(given: Option<Vec<String>>) -> Result<Self> {
        if let Some([proxy, member, load]) = given.as_deref() {
            return Ok(Self { proxy: proxy.clone(), member: member.clone(), load: load.clone() });
        }
        let available = std::thread::available_parallelism()?.get();
        ensure!(available > 1, "one core cannot be shared fairly: the proxy needs one for itself");
        let (proxy, member, load) = match available {
            2 => ("1", "0", "0"),
            3 => ("2", "0", "1"),
            _ => ("2", "0-1", "3"),
        };
        Ok(Self { proxy: proxy.to_owned(), member: member.to_owned(), load: load.to_owned() })
    }
}

/// The peers that can run, and what to say about those that cannot.
async fn find_peers(options: &Options) -> (Vec<Installed>, Vec<String>) {
    let (mut installed, mut missing) = (Vec::new(), Vec::new());
    for peer in &options.peers {
        let found = match peer {
            Peer::Clusterway => match clusterway(options.clusterway.as_deref()).await {
                Ok(program) => Installed::find(*peer, &program).await,
                Err(error) => Err(error),
            },
            Peer::Haproxy | Peer::HaproxyH1 => Installed::find(*peer, &options.haproxy).await,
            Peer::Nginx => Installed::find(*peer, &options.nginx).await,
            Peer::KubectlProxy => Installed::find(*peer, &options.kubectl).await,
            Peer::Direct => Installed::find(*peer, "").await,
        };
        match found {
            Ok(peer) => installed.push(peer),
            Err(error) => {
                let complaint =
                    format!("{} is MISSING from this run: {error:#}. Try: {}", peer.name(), peer.remedy());
                progress(&complaint);
                missing.push(complaint);
            }
        }
    }
    (installed, missing)
}

/// The given program, or a fresh release build.
async fn clusterway(given: Option<&str>) -> Result<String> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    progress("building clusterway with the release profile");
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let status = Command::new("cargo")
        .args(["build", "--release", "--package", "clusterway", "--bin", "clusterway"])
        .current_dir(root)
        .status()
        .await
        .context("cannot run cargo")?;
    ensure!(status.success(), "clusterway does not build");
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| format!("{root}/target"));
    Ok(format!("{target}/release/clusterway"))
}

async fn start_member(pki: &Pki, cores: &str) -> Result<(Pinned, u16)> {
    let program = std::env::current_exe()?;
    let command = [program.as_path(), "member".as_ref(), pki.directory()]
        .map(|part| part.to_string_lossy().into_owned());
    let log = pki.directory().join("member.log");
    let mut member = Pinned::start(cores, &command, log, (Stdio::piped(), Stdio::piped()))?;
    let out = member.child().stdout.take().context("the member has no output")?;
    let port = BufReader::new(out).lines().next_line().await?.unwrap_or_default().parse();
    let port = port.with_context(|| format!("the member does not start: {}", member.last_words()))?;
    Ok((member, port))
}

async fn head(
    options: &Options,
    cores: &Cores,
    installed: &[Installed],
    results: &Results,
    load_before: &str,
) -> Result<String> {
    let date = process::output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]).await?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut text = format!(
        "{} · {} · Linux {} · proxy on core {}, member on {}, load on {} · {} rounds of {} s · load average {} \
         before, {} after\n\n",
        date.trim(),
        processor(),
        kernel.trim(),
        cores.proxy,
        cores.member,
        cores.load,
        options.rounds,
        options.seconds,
        load_before,
        load_average(),
    );
    text.push_str("| peer | version | peak memory |\n| --- | --- | --- |\n");
    for Installed { peer, version, .. } in installed {
        let memory = results.peak_memory.get(peer);
        let memory = memory.map_or_else(|| "–".to_owned(), |kib| format!("{} MiB", kib / 1024));
        writeln!(text, "| {} | {version} | {memory} |", peer.name())?;
    }
    Ok(text)
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, model)| model.to_owned())
}

/// Of the last minute: whether the machine has other work.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("?").to_owned()
}

/// Standard output is for the tables.
fn progress(text: &str) {
    writeln!(std::io::stderr(), "{text}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The double and the load against each other; peers are not needed for that.
    #[tokio::test]
    async fn every_scenario_runs_without_errors_against_the_member() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::create(directory.path()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = load::Target::tls(&pki, port, "", "token").unwrap();
        let scenarios = LocalSet::new();
        scenarios
            .run_until(async {
                tokio::task::spawn_local(async move { member::serve(listener, &pki).await.unwrap() });
                for scenario in scenario::ALL {
                    let none = || Ok(Duration::ZERO);
                    let sample =
                        load::run(&target, &scenario, Duration::from_millis(300), none).await.unwrap();
                    assert_eq!(sample.first_error, None, "{}", scenario.name);
                    assert!(sample.bytes > 0, "{}: {sample:?}", scenario.name);
                }
            })
            .await;
    }
}
