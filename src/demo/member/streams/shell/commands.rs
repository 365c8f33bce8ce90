//! The built-in commands about files and the shell itself, and the table of all of them.

use std::{sync::Arc, time::Duration};

use super::{
    super::{
        files::{FileError, Kind, Metadata},
        pipe::{Input, WriteError},
    },
    Shell, Stdio, archive, text,
};

/// All commands.
pub(super) const NAMES: &[&str] = &[
    "[",
    "bash",
    "cat",
    "cd",
    "clear",
    "command",
    "date",
    "echo",
    "env",
    "exec",
    "exit",
    "export",
    "false",
    "head",
    "hostname",
    "id",
    "ls",
    "mkdir",
    "pwd",
    "rm",
    "sh",
    "sha256sum",
    "sleep",
    "tail",
    "tar",
    "test",
    "touch",
    "true",
    "uname",
    "unset",
    "wc",
    "whoami",
];

/// How a command ends: its exit status, unless nobody could hear it.
pub(super) type Ended = Result<i32, WriteError>;

/// Runs command `name`.
pub(super) async fn run(shell: &mut Shell, name: &str, arguments: &[String], stdio: &Stdio) -> Ended {
    match name {
        "cat" => text::cat(shell, arguments, stdio).await,
        "echo" => text::echo(arguments, stdio).await,
        "head" => text::head(shell, arguments, stdio).await,
        "tail" => text::tail(shell, arguments, stdio).await,
        "wc" => text::wc(shell, arguments, stdio).await,
        "sha256sum" => text::sha256sum(shell, arguments, stdio).await,
        "tar" => archive::tar(shell, arguments, stdio).await,
        "sh" | "bash" => shell.nested(arguments, stdio).await,
        "ls" => ls(shell, arguments, stdio).await,
        "mkdir" => mkdir(shell, arguments, stdio).await,
        "rm" => rm(shell, arguments, stdio).await,
        "touch" => touch(shell, arguments, stdio).await,
        "cd" => cd(shell, arguments, stdio).await,
        "test" => Ok(test(shell, arguments)),
        "[" => match arguments.split_last() {
            Some((last, condition)) if last == "]" => Ok(test(shell, condition)),
            _ => stdio.complain(2, "sh: [: missing ]").await,
        },
        "env" => env(shell, arguments, stdio).await,
        "export" => export(shell, arguments, stdio).await,
        "unset" => {
            for name in arguments {
                shell.variables.remove(name);
                shell.exported.remove(name);
            }
            Ok(0)
        }
        "exec" => match arguments.split_first() {
            Some((name, rest)) => {
                let status = if shell.knows(name) {
                    shell.invoke(name, rest, stdio).await
                } else {
                    stdio.complain(super::NOT_FOUND, format!("sh: exec: {name}: not found")).await?
                };
                shell.exit = Some(status);
                Ok(status)
            }
            None => Ok(0),
        },
        "exit" => {
            let status = match arguments.first() {
                None => shell.status,
                Some(status) => match status.parse::<i32>() {
                    Ok(status) => status & 0xff,
                    Err(_) => stdio.complain(2, format!("sh: exit: Illegal number: {status}")).await?,
                },
            };
            shell.exit = Some(status);
            Ok(status)
        }
        "command" => command(shell, arguments, stdio).await,
        "date" => date(arguments, stdio).await,
        "sleep" => sleep(arguments, stdio).await,
        "clear" => stdio.output.write("\x1b[H\x1b[2J").await.map(|()| 0),
        "hostname" => stdio.say(&shell.container.pod).await,
        "pwd" => stdio.say(&shell.directory).await,
        "whoami" => stdio.say("root").await,
        "id" => stdio.say("uid=0(root) gid=0(root) groups=0(root)").await,
        "uname" => uname(shell, arguments, stdio).await,
        "true" => Ok(0),
        "false" => Ok(1),
        // `knows` is asked before anything is run.
        _ => Ok(super::NOT_FOUND),
    }
}

/// Splits arguments into single-letter options and the rest; an option that is not in `known` is the error.
pub(super) fn options<'a>(arguments: &'a [String], known: &str) -> Result<(Vec<char>, Vec<&'a str>), char> {
    let mut letters = Vec::new();
    let mut rest = Vec::new();
    let mut ended = false;
    for argument in arguments {
        match argument.strip_prefix('-') {
            Some("-") if !ended => ended = true,
            Some(options) if !ended && !options.is_empty() => {
                for letter in options.chars() {
                    if !known.contains(letter) {
                        return Err(letter);
                    }
                    letters.push(letter);
                }
            }
            _ => rest.push(argument.as_str()),
        }
    }
    Ok((letters, rest))
}

/// Says that `name` has no option `letter`.
pub(super) async fn unknown_option(name: &str, letter: char, stdio: &Stdio) -> Ended {
    stdio.complain(1, format!("{name}: unrecognized option: {letter}")).await
}

async fn ls(shell: &Shell, arguments: &[String], stdio: &Stdio) -> Ended {
    let (options, mut paths) = match options(arguments, "laA1dhR") {
        Ok(parsed) => parsed,
        Err(letter) => return unknown_option("ls", letter, stdio).await,
    };
    let long = options.contains(&'l');
    if paths.is_empty() {
        paths.push(".");
    }
    let mut status = 0;
    let several = paths.len() > 1;
    for path in paths {
        let full = shell.path(path);
        let found = list(shell, &full, options.contains(&'d'));
        match found {
            Err(error) => status = stdio.complain(1, format!("ls: {path}: {error}")).await?,
            Ok(None) => {
                let metadata = shell.container.files().stat(&full);
                if let Ok(metadata) = metadata {
                    stdio.say(line(path, metadata, long)).await?;
                }
            }
            Ok(Some(entries)) => {
                if several {
                    stdio.say(format!("{path}:")).await?;
                }
                for (name, metadata) in entries {
                    if !name.starts_with('.') || options.iter().any(|option| matches!(option, 'a' | 'A')) {
                        stdio.say(line(&name, metadata, long)).await?;
                    }
                }
            }
        }
    }
    Ok(status)
}

/// What is in `path`; `None` if it stands for itself.
fn list(shell: &Shell, path: &str, itself: bool) -> Result<Option<Vec<(String, Metadata)>>, FileError> {
    let files = shell.container.files();
    match files.stat(path)?.kind {
        Kind::Directory if !itself => files.list(path).map(Some),
        _ => Ok(None),
    }
}

fn line(name: &str, metadata: Metadata, long: bool) -> String {
    if !long {
        return name.to_owned();
    }
    let kind = if metadata.kind == Kind::Directory { 'd' } else { '-' };
    let bits: String = (0..9)
        .map(|bit| if metadata.mode & (0o400 >> bit) == 0 { '-' } else { ['r', 'w', 'x'][bit % 3] })
        .collect();
    let modified = i64::try_from(metadata.modified)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .unwrap_or_default()
        .strftime("%b %e %H:%M");
    format!("{kind}{bits} 1 root root {:>8} {modified} {name}", metadata.length)
}

async fn mkdir(shell: &Shell, arguments: &[String], stdio: &Stdio) -> Ended {
    let (options, paths) = match options(arguments, "p") {
        Ok(parsed) => parsed,
        Err(letter) => return unknown_option("mkdir", letter, stdio).await,
    };
    let mut status = 0;
    for path in paths {
        let made = shell.container.files().make_directory(&shell.path(path), options.contains(&'p'));
        if let Err(error) = made {
            status = stdio.complain(1, format!("mkdir: can't create directory '{path}': {error}")).await?;
        }
    }
    Ok(status)
}

async fn rm(shell: &Shell, arguments: &[String], stdio: &Stdio) -> Ended {
    let (options, paths) = match options(arguments, "rRf") {
        Ok(parsed) => parsed,
        Err(letter) => return unknown_option("rm", letter, stdio).await,
    };
    let recursive = options.iter().any(|option| matches!(option, 'r' | 'R'));
    let mut status = 0;
    for path in paths {
        let removed = shell.container.files().remove(&shell.path(path), recursive);
        match removed {
            Err(FileError::NotFound) if options.contains(&'f') => {}
            Err(error) => status = stdio.complain(1, format!("rm: can't remove '{path}': {error}")).await?,
            Ok(()) => {}
        }
    }
    Ok(status)
}

async fn touch(shell: &Shell, arguments: &[String], stdio: &Stdio) -> Ended {
    let mut status = 0;
    for path in arguments {
        let touched = {
            let full = shell.path(path);
            let mut files = shell.container.files();
            // Appending nothing is what moves the time of a file that is there.
            match files.append(&full, b"") {
                Err(FileError::NotFound) => files.create(&full, 0o644),
                Err(FileError::IsADirectory) => Ok(()),
                other => other,
            }
        };
        if let Err(error) = touched {
            status = stdio.complain(1, format!("touch: {path}: {error}")).await?;
        }
    }
    Ok(status)
}

async fn cd(shell: &mut Shell, arguments: &[String], stdio: &Stdio) -> Ended {
    let home = shell.variable("HOME");
    let path = arguments.first().map_or(home.as_str(), String::as_str);
    let full = shell.path(path);
    let found = shell.container.files().stat(&full);
    match found.and_then(|found| match found.kind {
        Kind::Directory => Ok(()),
        Kind::File => Err(FileError::NotADirectory),
    }) {
        Ok(()) => {
            shell.directory = full;
            Ok(0)
        }
        Err(error) => stdio.complain(2, format!("sh: cd: can't cd to {path}: {error}")).await,
    }
}

/// `test`: the usual questions about files, texts and numbers.
fn test(shell: &Shell, arguments: &[String]) -> i32 {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let stat = |path: &str| shell.container.files().stat(&shell.path(path)).ok();
    let number = |text: &str| text.trim().parse::<i64>().ok();
    let answer = match words[..] {
        ["!", ref rest @ ..] => {
            let rest: Vec<String> = rest.iter().map(|word| (*word).to_owned()).collect();
            return match test(shell, &rest) {
                0 => 1,
                1 => 0,
                status => status,
            };
        }
        [] => false,
        [text] => !text.is_empty(),
        ["-d", path] => stat(path).is_some_and(|found| found.kind == Kind::Directory),
        ["-f", path] => stat(path).is_some_and(|found| found.kind == Kind::File),
        ["-e" | "-r" | "-w", path] => stat(path).is_some(),
        ["-x", path] => stat(path).is_some_and(|found| found.mode & 0o111 != 0),
        ["-s", path] => stat(path).is_some_and(|found| found.length > 0),
        ["-n", text] => !text.is_empty(),
        ["-z", text] => text.is_empty(),
        ["-t", _] => shell.terminal.is_some(),
        [left, "=" | "==", right] => left == right,
        [left, "!=", right] => left != right,
        [left, operator, right] => match (number(left), operator, number(right)) {
            (Some(left), "-eq", Some(right)) => left == right,
            (Some(left), "-ne", Some(right)) => left != right,
            (Some(left), "-lt", Some(right)) => left < right,
            (Some(left), "-le", Some(right)) => left <= right,
            (Some(left), "-gt", Some(right)) => left > right,
            (Some(left), "-ge", Some(right)) => left >= right,
            _ => return 2,
        },
        _ => return 2,
    };
    i32::from(!answer)
}

async fn env(shell: &Shell, arguments: &[String], stdio: &Stdio) -> Ended {
    let mut child = match shell.fork() {
        Ok(child) => child,
        Err(trouble) => return stdio.complain(2, format!("env: {trouble}")).await,
    };
    let mut arguments = arguments;
    while let Some((first, rest)) = arguments.split_first()
        && let Some((name, value)) = first.split_once('=')
    {
        if let Err(trouble) = child.export(name, value.to_owned()) {
            return stdio.complain(2, format!("env: {trouble}")).await;
        }
        arguments = rest;
    }
    match arguments.split_first() {
        Some((name, rest)) if child.knows(name) => Ok(child.invoke(name, rest, stdio).await),
        Some((name, _)) => {
            stdio.complain(super::NOT_FOUND, format!("env: can't execute '{name}': not found")).await
        }
        None => {
            for name in &child.exported {
                stdio.say(format!("{name}={}", child.variable(name))).await?;
            }
            Ok(0)
        }
    }
}

async fn export(shell: &mut Shell, arguments: &[String], stdio: &Stdio) -> Ended {
    if arguments.is_empty() {
        for name in &shell.exported {
            stdio.say(format!("export {name}='{}'", shell.variable(name))).await?;
        }
    }
    for argument in arguments {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => (argument.as_str(), shell.variable(argument)),
        };
        if let Err(trouble) = shell.export(name, value) {
            return stdio.complain(2, format!("sh: export: {trouble}")).await;
        }
    }
    Ok(0)
}

async fn command(shell: &mut Shell, arguments: &[String], stdio: &Stdio) -> Ended {
    match arguments.split_first() {
        Some((option, names)) if option == "-v" || option == "-V" => {
            let mut status = 0;
            for name in names {
                if shell.knows(name) {
                    stdio.say(format!("/bin/{}", super::base_name(name))).await?;
                } else {
                    status = super::NOT_FOUND;
                }
            }
            Ok(status)
        }
        Some((name, rest)) if shell.knows(name) => Ok(shell.invoke(name, rest, stdio).await),
        Some((name, _)) => stdio.complain(super::NOT_FOUND, format!("sh: {name}: not found")).await,
        None => Ok(0),
    }
}

async fn date(arguments: &[String], stdio: &Stdio) -> Ended {
    let mut format = "%a %b %e %H:%M:%S UTC %Y";
    for argument in arguments {
        match argument.strip_prefix('+') {
            Some(wanted) => format = wanted,
            None if argument == "-u" => {}
            None => return stdio.complain(1, format!("date: not supported here: {argument}")).await,
        }
    }
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    match jiff::fmt::strtime::format(format, &now) {
        Ok(text) => stdio.say(text).await,
        Err(error) => stdio.complain(1, format!("date: {format}: {error}")).await,
    }
}

async fn sleep(arguments: &[String], stdio: &Stdio) -> Ended {
    let mut total = 0.0;
    for argument in arguments {
        let (number, unit) = match argument.char_indices().next_back() {
            Some((at, 's')) => (&argument[..at], 1.0),
            Some((at, 'm')) => (&argument[..at], 60.0),
            Some((at, 'h')) => (&argument[..at], 3600.0),
            Some((at, 'd')) => (&argument[..at], 86400.0),
            _ => (argument.as_str(), 1.0),
        };
        match number.parse::<f64>() {
            Ok(number) if number >= 0.0 => total += number * unit,
            _ => return stdio.complain(1, format!("sleep: invalid number '{argument}'")).await,
        }
    }
    if arguments.is_empty() {
        return stdio.complain(1, "sleep: how long?").await;
    }
    tokio::time::sleep(Duration::try_from_secs_f64(total).unwrap_or(Duration::MAX)).await;
    Ok(0)
}

async fn uname(shell: &Shell, arguments: &[String], stdio: &Stdio) -> Ended {
    match arguments.first().map(String::as_str) {
        None | Some("-s") => stdio.say("Linux").await,
        Some("-n") => stdio.say(&shell.container.pod).await,
        Some("-r") => stdio.say("0.0.0-clusterway-demo").await,
        Some("-m") => stdio.say("x86_64").await,
        _ => stdio.say(format!("Linux {} 0.0.0-clusterway-demo x86_64 Linux", shell.container.pod)).await,
    }
}

/// The inputs that a filter reads: the named files, `-` and nothing at all being standard input.
pub(super) fn inputs(
    shell: &Shell,
    paths: &[&str],
    stdio: &Stdio,
) -> Vec<(String, Result<super::SharedInput, String>)> {
    if paths.is_empty() {
        return vec![("-".to_owned(), Ok(Arc::clone(&stdio.input)))];
    }
    paths
        .iter()
        .map(|path| match *path {
            "-" | "/dev/stdin" => ((*path).to_owned(), Ok(Arc::clone(&stdio.input))),
            path => (path.to_owned(), shell.open(path).map(Input::shared)),
        })
        .collect()
}
