//! One exec or attach: a command in a container, its standard streams, and how it ended. Knows no wire protocol.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::{
    container::Container,
    logs::{self, Clock},
    pipe::{DEPTH, Input, Output},
    shell::{self, INTERRUPTED, Shell, Stdio, Terminal, TerminalSize},
    terminal,
};

/// What a client asked for.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// Where it runs.
    pub(super) container: Arc<Container>,
    /// What runs; `None` attaches to what already does.
    pub(super) command: Option<Vec<String>>,
    /// Which streams there are.
    pub(super) streams: Streams,
    /// When the container started.
    pub(super) started: Clock,
}

/// The streams that a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Streams {
    /// Standard input.
    pub(super) stdin: bool,
    /// Standard output.
    pub(super) stdout: bool,
    /// Standard error; never with a terminal, which has only one output.
    pub(super) stderr: bool,
    /// A terminal.
    pub(super) tty: bool,
}

/// The client's end of the streams.
pub(super) struct Client {
    /// What it types; dropping it is the end of file.
    pub(super) stdin: Option<mpsc::Sender<Bytes>>,
    /// What it is shown.
    pub(super) stdout: mpsc::Receiver<Bytes>,
    /// What it is told of errors.
    pub(super) stderr: mpsc::Receiver<Bytes>,
    /// The size of its terminal.
    pub(super) size: Arc<TerminalSize>,
}

/// The client's end of `request`, and the future that is the command and ends with its exit status. Dropping the
/// future kills the command.
pub(super) fn start(request: Request) -> (Client, impl Future<Output = i32> + Send) {
    let (stdin, typed) = mpsc::channel(DEPTH);
    let (output, stdout) = mpsc::channel(DEPTH);
    let (error, stderr) = mpsc::channel(DEPTH);
    let size = Arc::new(TerminalSize::default());
    let client =
        Client { stdin: request.streams.stdin.then_some(stdin), stdout, stderr, size: Arc::clone(&size) };
    let typed = request.streams.stdin.then_some(typed);
    (client, run(request, typed, output, error, size))
}

async fn run(
    request: Request,
    typed: Option<mpsc::Receiver<Bytes>>,
    output: mpsc::Sender<Bytes>,
    error: mpsc::Sender<Bytes>,
    size: Arc<TerminalSize>,
) -> i32 {
    let wanted = request.streams;
    let sink = |wanted: bool, sender| if wanted { Output::Pipe(sender) } else { Output::Null };
    if !wanted.tty {
        let input = typed.map_or_else(Input::empty, Input::pipe).shared();
        let stdio = Stdio { input, output: sink(wanted.stdout, output), error: sink(wanted.stderr, error) };
        return command(&request, None, &stdio).await;
    }
    let screen = if wanted.stdout { Output::Terminal(output.clone()) } else { Output::Null };
    let (interrupts, interrupted) = watch::channel(0);
    let terminal = Terminal { size, interrupts: interrupted };
    let Some(keys) = typed else {
        let stdio = Stdio { input: Input::empty().shared(), output: screen.clone(), error: screen };
        return command(&request, Some(terminal), &stdio).await;
    };
    let (lines, read) = mpsc::channel(terminal::TYPED_AHEAD);
    let stdio = Stdio { input: Input::pipe(read).shared(), output: screen.clone(), error: screen };
    let driver = async {
        terminal::run(keys, lines, output, interrupts).await;
        // The keyboard went away; the command sees the end of its input and decides.
        std::future::pending::<i32>().await
    };
    tokio::select! {
        status = command(&request, Some(terminal), &stdio) => status,
        status = driver => status,
    }
}

async fn command(request: &Request, terminal: Option<Terminal>, stdio: &Stdio) -> i32 {
    let Some(command) = request.command.as_ref().or(request.container.interactive.as_ref()) else {
        let attached = attach(request, stdio);
        return shell::interruptible(&mut terminal.clone(), attached).await.unwrap_or(INTERRUPTED);
    };
    let mut shell = Shell::new(Arc::clone(&request.container), terminal.clone());
    if is_shell(command) {
        // It deals with `^C` by itself.
        return shell.execute(command, stdio).await;
    }
    shell::interruptible(&mut terminal.clone(), shell.execute(command, stdio)).await.unwrap_or(INTERRUPTED)
}

fn is_shell(command: &[String]) -> bool {
    command.len() == 1 && command[0].rsplit('/').next().is_some_and(|name| matches!(name, "sh" | "bash"))
}

/// The container's own process: its log from now on. What is typed is read and forgotten.
async fn attach(request: &Request, stdio: &Stdio) -> i32 {
    let ticking = async {
        let mut tick = request.started.ticks();
        loop {
            tick += 1;
            request.started.until(tick).await;
            let line = logs::line(&request.container.pod, &request.container.name, tick);
            if stdio.output.write(format!("{line}\n")).await.is_err() {
                return 0;
            }
        }
    };
    let reading = async {
        while stdio.input.lock().await.next().await.is_some() {}
        std::future::pending::<i32>().await
    };
    tokio::select! {
        status = ticking => status,
        status = reading => status,
    }
}

/// The exit status of a command whose container was removed under it, as after SIGKILL.
pub(super) const KILLED: i32 = 137;

/// How `status` is told on the error channel of protocol v4 and later.
pub(super) fn outcome(status: i32) -> Value {
    if status == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit status {status}"),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": status.to_string()}]},
    })
}
