//! The real kubectl, in every version this machine has.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    PATIENCE,
    process::{Process, eventually},
};

/// Set by CI: a missing kubectl is then a failure, not a skip.
const REQUIRE: &str = "CLUSTERWAY_REQUIRE_KUBECTL";

/// One kubectl binary.
#[derive(Clone, Debug)]
pub struct Kubectl {
    /// The binary.
    pub path: PathBuf,
    /// Its minor version: 32 for 1.32.
    pub minor: u32,
}

/// Every kubectl there is, oldest first: the `kubectl.1.NN` on PATH or beside what `kubectl` links to, and `kubectl`
/// itself. In this order, since a `kubectl` beside them may be one that picks among them by asking the server.
static ALL: LazyLock<Vec<Kubectl>> = LazyLock::new(|| {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let linked = folders.iter().filter_map(|folder| folder.join("kubectl").canonicalize().ok());
    let beside: Vec<PathBuf> = linked.filter_map(|binary| Some(binary.parent()?.to_owned())).collect();
    folders.extend(beside);
    folders.extend(std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from));
    let names = (27..60).map(|minor| format!("kubectl.1.{minor}")).chain(["kubectl".to_owned()]);
    let mut found: Vec<Kubectl> = names
        .filter_map(|name| folders.iter().map(|folder| folder.join(&name)).find(|binary| binary.is_file()))
        .filter_map(|path| Some(Kubectl { minor: minor_version(&path)?, path }))
        .collect();
    found.sort_by_key(|kubectl| kubectl.minor);
    found.dedup_by_key(|kubectl| kubectl.minor);
    found
});

fn minor_version(path: &Path) -> Option<u32> {
    let output = Command::new(path).args(["version", "--client", "-o", "json"]).output().ok()?;
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    version["clientVersion"]["minor"].as_str()?.trim_end_matches('+').parse().ok()
}

impl Kubectl {
    /// The newest one, at least 1.30. Without one the test is skipped loudly, or fails where CI requires it.
    pub fn newest(test: &str) -> Option<Self> {
        Self::versions(test, 30).pop()
    }

    /// All from 1.`oldest` on, oldest first; empty (and said so) when there is none.
    pub fn versions(test: &str, oldest: u32) -> Vec<Self> {
        let found: Vec<Self> = ALL.iter().filter(|kubectl| kubectl.minor >= oldest).cloned().collect();
        if found.is_empty() {
            let why = format!("no kubectl of version 1.{oldest} or later on PATH");
            assert!(std::env::var_os(REQUIRE).is_none(), "{test}: {why}, and {REQUIRE} is set");
            super::skip(test, &why);
        }
        found
    }

    /// This kubectl with `kubeconfig`.
    pub fn at(&self, kubeconfig: &Path) -> Session {
        Session { kubectl: self.clone(), kubeconfig: kubeconfig.to_owned(), environment: Vec::new() }
    }
}

/// A kubectl with a kubeconfig. Command lines are split at blanks that are not between single quotes.
#[derive(Clone, Debug)]
pub struct Session {
    kubectl: Kubectl,
    kubeconfig: PathBuf,
    environment: Vec<(&'static str, &'static str)>,
}

impl Session {
    /// The minor version of its kubectl.
    pub fn minor(&self) -> u32 {
        self.kubectl.minor
    }

    /// The folder of its kubeconfig; a place for files.
    pub fn folder(&self) -> &Path {
        self.kubeconfig.parent().unwrap()
    }

    /// The same with one more variable.
    #[must_use]
    pub fn with_variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    /// A command with a discovery cache of its own and nothing else of the user's.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.kubectl.path);
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.folder())
            .env("KUBECACHEDIR", self.folder().join(format!("cache-{}", self.minor())))
            .env_remove("HTTPS_PROXY")
            .env_remove("https_proxy")
            .envs(self.environment.iter().copied())
            .current_dir(self.folder())
            .stdin(Stdio::null())
            .args(words(line));
        command
    }

    /// Runs it to its end.
    pub fn run(&self, line: &str) -> Outcome {
        Outcome::of(line, self.command(line).output().unwrap())
    }

    /// Runs it with `stdin`.
    pub fn run_with(&self, stdin: &[u8], line: &str) -> Outcome {
        feed(self.command(line), line, stdin)
    }

    /// Runs it in a terminal of its own, with `typed` as what is typed. What it shows is in `stdout`.
    pub fn run_in_terminal(&self, typed: &str, line: &str) -> Outcome {
        let plain = self.command("");
        let mut command = Command::new("script");
        command.args(["-qec", &format!("{} {line}", self.kubectl.path.display()), "/dev/null"]);
        command.current_dir(self.folder());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        feed(command, line, typed.as_bytes())
    }

    /// Starts it in the background; what it prints goes to a file beside the kubeconfig.
    pub fn start(&self, line: &str) -> Process {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        Process::start(self.command(line), &self.folder().join(format!("{number}.log")))
    }

    /// Waits until it prints something that `wanted` accepts.
    #[track_caller]
    pub fn until(&self, line: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut last = None;
        eventually(PATIENCE, || {
            let outcome = self.run(line);
            let accepted = outcome.code == Some(0) && wanted(&outcome.stdout);
            if accepted {
                return Some(outcome.stdout);
            }
            last = Some(outcome);
            None
        })
        .unwrap_or_else(|| panic!("kubectl {line} never showed what was waited for; last: {last:?}"))
    }
}

fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (number, part) in line.split('\'').enumerate() {
        match number % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

fn feed(mut command: Command, line: &str, stdin: &[u8]) -> Outcome {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A kubectl that failed early closes its stdin; what it printed says why.
        scope.spawn(move || drop(pipe.write_all(stdin)));
        Outcome::of(line, child.wait_with_output().unwrap())
    })
}

/// What a finished kubectl said.
#[derive(Debug)]
pub struct Outcome {
    /// What it was asked.
    pub line: String,
    /// Exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// The same as bytes.
    pub bytes: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    fn of(line: &str, output: Output) -> Self {
        Self {
            line: line.to_owned(),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            bytes: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Its stdout, if it succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "kubectl {} failed:\n{}\n{}", self.line, self.stdout, self.stderr);
        self.stdout
    }

    /// Its stdout as JSON, if it succeeded.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let line = self.line.clone();
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("kubectl {line}: {error}: {text}"))
    }

    /// Its stderr, if it failed.
    #[track_caller]
    pub fn err(self) -> String {
        assert_ne!(self.code, Some(0), "kubectl {} succeeded:\n{}\n{}", self.line, self.stdout, self.stderr);
        self.stderr
    }
}
