//! The shell of demo containers: runs scripts made of built-in commands, and nothing else.
//!
//! It must never start a process or read a variable of the user's machine. Its only world is the [`Container`].

mod archive;
mod commands;
mod expand;
mod parse;
mod text;
mod token;

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use futures_util::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use super::{
    container::Container,
    files,
    pipe::{DEPTH, Input, Output, SharedInput, WriteError},
};
use parse::{Command, Condition, Pipeline, Redirection, Script, Target};

/// The exit status of a command that nobody knows.
pub(super) const NOT_FOUND: i32 = 127;
/// The exit status of a command that `^C` ended.
pub(super) const INTERRUPTED: i32 = 130;
/// The exit status of a command that wrote where nobody read.
const BROKEN_PIPE: i32 = 141;
/// How deep `sh -c` may nest.
const DEEPEST: u8 = 16;
/// How long the words of one command may be together, in bytes, after variables are replaced.
const LONGEST_COMMAND: usize = 1 << 20;
/// The longest line of a script read from standard input, in bytes.
const LONGEST_LINE: usize = 64 << 10;

/// Standard input, output and error of a command.
#[derive(Clone)]
pub(super) struct Stdio {
    /// Descriptor 0.
    pub(super) input: SharedInput,
    /// Descriptor 1.
    pub(super) output: Output,
    /// Descriptor 2.
    pub(super) error: Output,
}

impl Stdio {
    /// Prints `line` and a newline.
    async fn say(&self, line: impl AsRef<str>) -> Result<i32, WriteError> {
        self.output.write(format!("{}\n", line.as_ref())).await?;
        Ok(0)
    }

    /// Complains in one line on standard error and is `status`.
    async fn complain(&self, status: i32, line: impl AsRef<str>) -> Result<i32, WriteError> {
        self.error.write(format!("{}\n", line.as_ref())).await?;
        Ok(status)
    }
}

/// The client's terminal: its size, and how often `^C` was typed.
#[derive(Clone, Debug)]
pub(super) struct Terminal {
    /// Width and height in characters, 0 where the client did not say.
    pub(super) size: Arc<TerminalSize>,
    /// Counts `^C`.
    pub(super) interrupts: watch::Receiver<u64>,
}

/// A terminal's width and height in characters.
#[derive(Debug, Default)]
pub(super) struct TerminalSize {
    columns: AtomicU32,
    lines: AtomicU32,
}

impl TerminalSize {
    /// Takes note of a new size.
    pub(super) fn set(&self, columns: u16, lines: u16) {
        self.columns.store(columns.into(), Ordering::Relaxed);
        self.lines.store(lines.into(), Ordering::Relaxed);
    }
}

/// Why a command of a script is not run; the text is what the shell says.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// The container has its most processes already.
    #[error("can't fork: Resource temporarily unavailable")]
    Fork,
    /// The variables would grow past their limit; which one was to be set.
    #[error("{0}: not enough memory for variables")]
    Variables(String),
    /// The words of a command are longer than [`LONGEST_COMMAND`].
    #[error("argument list too long")]
    Arguments,
    /// A file cannot be opened.
    #[error("{0}")]
    Redirection(String),
}

/// The state of one shell.
pub(super) struct Shell {
    container: Arc<Container>,
    terminal: Option<Terminal>,
    variables: BTreeMap<String, String>,
    exported: BTreeSet<String>,
    directory: String,
    /// `$0`, `$1`, …
    arguments: Vec<String>,
    status: i32,
    exit: Option<i32>,
    depth: u8,
    /// Its place among the container's processes; the first of a session has it for nothing.
    _process: Option<OwnedSemaphorePermit>,
}

impl Shell {
    /// A shell in `container`'s root directory with its environment.
    pub(super) fn new(container: Arc<Container>, terminal: Option<Terminal>) -> Self {
        let variables: BTreeMap<String, String> = container.environment.iter().cloned().collect();
        let exported = variables.keys().cloned().collect();
        Self {
            container,
            terminal,
            variables,
            exported,
            directory: "/".to_owned(),
            arguments: vec!["sh".to_owned()],
            status: 0,
            exit: None,
            depth: 0,
            _process: None,
        }
    }

    /// A copy that lives on by itself.
    fn fork(&self) -> Result<Self, Trouble> {
        let process = self.container.process().ok_or(Trouble::Fork)?;
        Ok(Self {
            container: Arc::clone(&self.container),
            terminal: self.terminal.clone(),
            variables: self.variables.clone(),
            exported: self.exported.clone(),
            directory: self.directory.clone(),
            arguments: self.arguments.clone(),
            status: self.status,
            exit: None,
            depth: self.depth,
            _process: Some(process),
        })
    }

    /// Runs `command` as an exec does, without looking at it as a script; its exit status.
    pub(super) async fn execute(&mut self, command: &[String], stdio: &Stdio) -> i32 {
        let Some((name, arguments)) = command.split_first() else { return 0 };
        if self.knows(name) {
            return self.invoke(name, arguments, stdio).await;
        }
        let message = format!(
            "OCI runtime exec failed: exec failed: unable to start container process: exec: \"{name}\": executable \
             file not found in $PATH (a demo container has only built-in commands: {})\n",
            commands::NAMES.join(" ")
        );
        let _ = stdio.error.write(message).await;
        NOT_FOUND
    }

    /// Whether there is a command `name`, as plain name or below one of the usual directories.
    fn knows(&self, name: &str) -> bool {
        commands::NAMES.contains(&base_name(name))
    }

    async fn invoke(&mut self, name: &str, arguments: &[String], stdio: &Stdio) -> i32 {
        let done: Result<i32, WriteError> =
            Box::pin(commands::run(self, base_name(name), arguments, stdio)).await;
        match done {
            Ok(status) => status,
            Err(WriteError::Closed) => BROKEN_PIPE,
            Err(error @ WriteError::File(_)) => {
                let _ = stdio.error.write(format!("{name}: write error: {error}\n")).await;
                1
            }
        }
    }

    /// Runs the text of a script; the status of its last command.
    fn script<'a>(
        &'a mut self,
        text: &'a str,
        stdio: &'a Stdio,
    ) -> Pin<Box<dyn Future<Output = i32> + Send + 'a>> {
        Box::pin(async move {
            match parse::parse(text) {
                Ok(script) => self.list(script, stdio).await,
                Err(error) => {
                    let _ = stdio.error.write(format!("sh: {error}\n")).await;
                    self.status = 2;
                }
            }
            self.status
        })
    }

    async fn list(&mut self, script: Script, stdio: &Stdio) {
        for (condition, pipeline) in script.0 {
            let wanted = match condition {
                Condition::Always => true,
                Condition::Success => self.status == 0,
                Condition::Failure => self.status != 0,
            };
            if wanted {
                let negated = pipeline.negated;
                let status = self.pipeline(pipeline, stdio).await;
                self.status = if negated { i32::from(status == 0) } else { status };
            }
            if self.exit.is_some() {
                return;
            }
        }
    }

    async fn pipeline(&mut self, pipeline: Pipeline, stdio: &Stdio) -> i32 {
        let mut commands = pipeline.commands;
        if commands.len() == 1 {
            // Alone, a command changes this shell: `cd`, `export`, `exit`.
            return match commands.pop() {
                Some(command) => self.tell(&command, stdio.clone()).await,
                None => 0,
            };
        }
        let last = commands.len() - 1;
        let mut input = Arc::clone(&stdio.input);
        let mut stages = Vec::with_capacity(commands.len());
        for (index, command) in commands.into_iter().enumerate() {
            let mut shell = match self.fork() {
                Ok(shell) => shell,
                Err(trouble) => {
                    let _ = stdio.error.write(format!("sh: {trouble}\n")).await;
                    return 2;
                }
            };
            let mut own = Stdio { input, ..stdio.clone() };
            input = Input::empty().shared();
            if index < last {
                let (sender, receiver) = mpsc::channel(DEPTH);
                own.output = Output::Pipe(sender);
                input = Input::pipe(receiver).shared();
            }
            stages.push(async move {
                let status = shell.tell(&command, own).await;
                shell.exit.unwrap_or(status)
            });
        }
        join_all(stages).await.pop().unwrap_or_default()
    }

    /// Runs `command`, or says why not.
    async fn tell(&mut self, command: &Command, stdio: Stdio) -> i32 {
        // A script can be long and never wait for anything.
        tokio::task::coop::consume_budget().await;
        let error = stdio.error.clone();
        match self.command(command, stdio).await {
            Ok(status) => status,
            Err(trouble) => {
                let _ = error.write(format!("sh: {trouble}\n")).await;
                if matches!(trouble, Trouble::Redirection(_)) { 1 } else { 2 }
            }
        }
    }

    async fn command(&mut self, command: &Command, mut stdio: Stdio) -> Result<i32, Trouble> {
        for redirection in &command.redirections {
            self.redirect(redirection, &mut stdio)?;
        }
        let mut room = LONGEST_COMMAND;
        let mut words = Vec::new();
        for word in &command.words {
            words.extend(self.expand(word, &mut room)?);
        }
        let mut assignments = Vec::new();
        for (name, word) in &command.assignments {
            assignments.push((name, self.expand(word, &mut room)?.join(" ")));
        }
        let Some((name, arguments)) = words.split_first() else {
            for (name, value) in assignments {
                self.set(name, value)?;
            }
            return Ok(0);
        };
        if !self.knows(name) {
            let _ = stdio.error.write(format!("sh: {name}: not found\n")).await;
            return Ok(NOT_FOUND);
        }
        if assignments.is_empty() {
            return Ok(self.invoke(name, arguments, &stdio).await);
        }
        let mut child = self.fork()?;
        for (name, value) in assignments {
            child.export(name, value)?;
        }
        Ok(child.invoke(name, arguments, &stdio).await)
    }

    fn redirect(&self, redirection: &Redirection, stdio: &mut Stdio) -> Result<(), Trouble> {
        let path = |word| Ok::<_, Trouble>(self.expand(word, &mut LONGEST_COMMAND.clone())?.join(" "));
        let output = match &redirection.target {
            Target::Read(word) => {
                stdio.input = self.open(&path(word)?).map_err(Trouble::Redirection)?.shared();
                return Ok(());
            }
            Target::Same(1) => stdio.output.clone(),
            Target::Same(_) => stdio.error.clone(),
            Target::Write(word) => self.create(&path(word)?, true).map_err(Trouble::Redirection)?,
            Target::Append(word) => self.create(&path(word)?, false).map_err(Trouble::Redirection)?,
        };
        match redirection.descriptor {
            2 => stdio.error = output,
            1 => stdio.output = output,
            _ => return Err(Trouble::Redirection("only 1> and 2> can be written to".to_owned())),
        }
        Ok(())
    }

    /// Opens `path` for reading; the error is a sentence.
    fn open(&self, path: &str) -> Result<Input, String> {
        let full = self.path(path);
        match full.as_str() {
            "/dev/null" => Ok(Input::empty()),
            "/dev/zero" => Ok(Input::zeroes()),
            _ => match self.container.files().read(&full) {
                Ok(content) => Ok(Input::of(bytes::Bytes::from_owner(Snapshot(content)))),
                Err(error) => Err(format!("can't open '{path}': {error}")),
            },
        }
    }

    /// Opens `path` for writing, empty if `truncate`; the error is a sentence.
    fn create(&self, path: &str, truncate: bool) -> Result<Output, String> {
        let full = self.path(path);
        if full == "/dev/null" {
            return Ok(Output::Null);
        }
        let mut files = self.container.files();
        let exists = files.stat(&full).is_ok_and(|found| found.kind == files::Kind::File);
        if truncate || !exists {
            files.create(&full, 0o644).map_err(|error| format!("can't create {path}: {error}"))?;
        }
        drop(files);
        Ok(Output::File(Arc::clone(&self.container), full))
    }

    /// `path` as an absolute one.
    fn path(&self, path: &str) -> String {
        files::resolve(&self.directory, path)
    }

    /// `sh`: `-c SCRIPT`, a script file, or line by line from standard input with a prompt on a terminal.
    async fn nested(&self, arguments: &[String], stdio: &Stdio) -> Result<i32, WriteError> {
        let mut shell = match self.fork() {
            Ok(shell) => shell,
            Err(trouble) => return stdio.complain(2, format!("sh: {trouble}")).await,
        };
        shell.depth += 1;
        shell.status = 0;
        if shell.depth > DEEPEST {
            return stdio.complain(2, "sh: nested too deeply").await;
        }
        let mut arguments = arguments.iter();
        let mut is_command = false;
        let first = loop {
            match arguments.next() {
                Some(option) if option.starts_with(['-', '+']) && option.len() > 1 => {
                    is_command |= !option.starts_with("--") && option.contains('c');
                }
                other => break other,
            }
        };
        let Some(first) = first else {
            if is_command {
                return stdio.complain(2, "sh: -c requires an argument").await;
            }
            return shell.interact(stdio).await;
        };
        let rest: Vec<String> = arguments.cloned().collect();
        if is_command {
            if !rest.is_empty() {
                shell.arguments = rest;
            }
            let status = shell.script(first, stdio).await;
            return Ok(shell.exit.unwrap_or(status));
        }
        let script = self.container.files().read(&self.path(first));
        match script {
            Ok(content) => {
                shell.arguments = std::iter::once(first.clone()).chain(rest).collect();
                let status = shell.script(&String::from_utf8_lossy(&content), stdio).await;
                Ok(shell.exit.unwrap_or(status))
            }
            Err(error) => stdio.complain(2, format!("sh: can't open '{first}': {error}")).await,
        }
    }

    /// Runs line by line what standard input says, until it ends or `exit`.
    async fn interact(&mut self, stdio: &Stdio) -> Result<i32, WriteError> {
        let mut terminal = self.terminal.clone();
        while self.exit.is_none() {
            if terminal.is_some() {
                stdio.output.write(format!("{} # ", self.directory)).await?;
            }
            let reading = async { stdio.input.lock().await.line(LONGEST_LINE).await };
            let Some(line) = interruptible(&mut terminal, reading).await else {
                // The terminal has already moved to a new line.
                self.status = INTERRUPTED;
                continue;
            };
            let Some(line) = line else {
                if terminal.is_some() {
                    stdio.output.write("exit\n").await?;
                }
                break;
            };
            let text = String::from_utf8_lossy(&line).into_owned();
            let running = self.script(&text, stdio);
            if interruptible(&mut terminal, running).await.is_none() {
                self.status = INTERRUPTED;
            }
        }
        Ok(self.exit.unwrap_or(self.status))
    }
}

/// Waits for `work`; `None` if `^C` is typed first.
pub(super) async fn interruptible<T>(
    terminal: &mut Option<Terminal>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let Some(terminal) = terminal else { return Some(work.await) };
    terminal.interrupts.mark_unchanged();
    let interrupted = async {
        if terminal.interrupts.changed().await.is_err() {
            // The client is gone, and with it whoever waits for this.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        () = interrupted => None,
        done = work => Some(done),
    }
}

fn base_name(name: &str) -> &str {
    ["/bin/", "/usr/bin/", "/usr/local/bin/"]
        .iter()
        .find_map(|directory| name.strip_prefix(directory))
        .unwrap_or(name)
}

/// A file's content, as bytes that nobody copies.
struct Snapshot(Arc<Vec<u8>>);

impl AsRef<[u8]> for Snapshot {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests;
