//! Processes of the benchmark: started on their own cores, and asked for the CPU time they have used.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

/// Linux counts process times in hundredths of a second towards user space, whatever the kernel's own tick is.
const TICKS_PER_SECOND: u64 = 100;

/// A process on its own cores that is killed when this is dropped.
pub(crate) struct Pinned {
    child: Child,
    log: PathBuf,
}

impl Pinned {
    /// Starts `command` on `cores` (as `taskset -c` takes them), its standard error in the file `log`.
    pub(crate) fn start(
        cores: &str,
        command: &[String],
        log: PathBuf,
        stdio: (Stdio, Stdio),
    ) -> Result<Self> {
        let child = Command::new("taskset")
            .args(["-c", cores])
            .args(command)
            .stdin(stdio.0)
            .stdout(stdio.1)
            .stderr(File::create(&log)?)
            .kill_on_drop(true)
            .spawn()
            .context("cannot run taskset (Debian package util-linux)")?;
        Ok(Self { child, log })
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// What it wrote to standard error last, and how it ended if it did.
    pub(crate) fn last_words(&mut self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(8).collect();
        let end = match self.child.try_wait() {
            Ok(Some(status)) => format!("it ended with {status}"),
            _ => "it is still running".to_owned(),
        };
        let words = lines.into_iter().rev().collect::<Vec<_>>().join("\n    ");
        format!("{end}; its last lines:\n    {words}")
    }

    /// What it and its descendants have used so far.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let id = self.child.id().context("the process is gone")?;
        Ok(tree(id)?.into_iter().filter_map(|id| Usage::of(id).ok()).fold(Usage::default(), Usage::plus))
    }

    /// Ends it and waits for that.
    pub(crate) async fn stop(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// Resources used by processes since they started.
#[derive(Clone, Copy, Default)]
pub(crate) struct Usage {
    /// CPU time, user and system.
    pub(crate) cpu: Duration,
    /// The most memory ever resident, in KiB.
    pub(crate) peak_memory: u64,
}

impl Usage {
    fn of(id: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        Ok(Self {
            cpu: Stat::parse(&stat).context("a line of /proc/PID/stat that proc(5) does not describe")?.cpu,
            peak_memory: status
                .lines()
                .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
                .unwrap_or(0),
        })
    }

    fn plus(self, other: Self) -> Self {
        Self { cpu: self.cpu + other.cpu, peak_memory: self.peak_memory + other.peak_memory }
    }
}

/// The fields of /proc/PID/stat that matter here.
struct Stat {
    parent: u32,
    cpu: Duration,
}

impl Stat {
    /// The second field is the program's name in parentheses and may hold anything; the rest is separated by blanks.
    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            cpu: Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND),
        })
    }
}

/// `root` and everything that descends from it.
fn tree(root: u32) -> Result<Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may end between the two reads.
        let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else { continue };
        if let Some(stat) = Stat::parse(&stat) {
            children.entry(stat.parent).or_default().push(id);
        }
    }
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(id) = tree.get(next) {
        let below = children.remove(id).unwrap_or_default();
        tree.extend(below);
        next += 1;
    }
    Ok(tree)
}

/// Moves this process, all its threads, to `cores`.
pub(crate) async fn pin_self(cores: &str) -> Result<()> {
    output("taskset", &["-a", "-c", "-p", cores, &std::process::id().to_string()]).await.map(drop)
}

/// What a program prints, standard output and error together.
pub(crate) async fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| format!("cannot run {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{program} {} failed: {}", arguments.join(" "), text.trim());
    }
    Ok(text.into_owned())
}

/// Where `program` is: a path as it stands, a name on `PATH` or where Debian keeps daemons.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|directory| Path::new(&directory).join(program))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_whatever_the_program_is_called() {
        let line = "42 (odd) name) S 7 42 42 0 -1 4194560 1 0 0 0 150 50 9 9 20 0 1 0 100 1000 10 18446744073709551615";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.parent, stat.cpu), (7, Duration::from_secs(2)));
    }

    #[test]
    fn descendants_count_as_the_process_itself() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(tree(std::process::id()).unwrap().contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
