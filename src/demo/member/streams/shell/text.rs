//! The built-in filters: each reads, in chunks, and writes.

use std::collections::VecDeque;

use aws_lc_rs::digest;
use bytes::Bytes;

use super::{
    Shell, Stdio,
    commands::{Ended, inputs, options, unknown_option},
};

/// The longest line that `head` and `tail` take as one, in bytes.
const LONGEST_LINE: usize = 1 << 20;
/// How much `tail` may remember, in bytes.
const LONGEST_TAIL: usize = 4 << 20;
/// How many pieces `tail` may remember.
const MOST_PIECES: usize = 64 << 10;

/// `echo`, with `-n` and `-e` for what people use of it.
pub(super) async fn echo(arguments: &[String], stdio: &Stdio) -> Ended {
    let (mut newline, mut escapes, mut from) = (true, false, 0);
    for argument in arguments {
        match argument.as_str() {
            "-n" => newline = false,
            "-e" => escapes = true,
            "-ne" | "-en" => (newline, escapes) = (false, true),
            "-E" => escapes = false,
            _ => break,
        }
        from += 1;
    }
    let mut text = arguments[from..].join(" ");
    if escapes {
        text = text.replace("\\n", "\n").replace("\\t", "\t").replace("\\r", "\r").replace("\\\\", "\\");
    }
    if newline {
        text.push('\n');
    }
    stdio.output.write(text).await.map(|()| 0)
}

/// `cat`
pub(super) async fn cat(shell: &Shell, arguments: &[String], stdio: &Stdio) -> Ended {
    let (_, paths) = match options(arguments, "u") {
        Ok(parsed) => parsed,
        Err(letter) => return unknown_option("cat", letter, stdio).await,
    };
    let mut status = 0;
    for (_, input) in inputs(shell, &paths, stdio) {
        match input {
            Err(message) => status = stdio.complain(1, format!("cat: {message}")).await?,
            Ok(input) => {
                let mut input = input.lock().await;
                while let Some(chunk) = input.next().await {
                    stdio.output.write(chunk).await?;
                }
            }
        }
    }
    Ok(status)
}

/// What `head` and `tail` were asked for.
struct Span<'a> {
    /// Bytes instead of lines.
    bytes: bool,
    /// How many.
    count: usize,
    /// Counted from the start (`tail -n +3`).
    from_start: bool,
    paths: Vec<&'a str>,
}

/// Reads `-n N`, `-nN`, `-N`, `-c N` and `-c+N`; the error is the argument that is none of these.
fn span(arguments: &[String]) -> Result<Span<'_>, &str> {
    let mut span = Span { bytes: false, count: 10, from_start: false, paths: Vec::new() };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let Some(option) = argument.strip_prefix('-').filter(|option| !option.is_empty()) else {
            span.paths.push(argument);
            continue;
        };
        let number = match option.strip_prefix(['n', 'c']) {
            Some(rest) => {
                span.bytes = option.starts_with('c');
                if rest.is_empty() { arguments.next().map_or("", String::as_str) } else { rest }
            }
            None => option,
        };
        span.from_start = number.starts_with('+');
        span.count = number.trim_start_matches(['+', '-']).parse().map_err(|_| argument.as_str())?;
    }
    Ok(span)
}

/// `head`
pub(super) async fn head(shell: &Shell, arguments: &[String], stdio: &Stdio) -> Ended {
    let span = match span(arguments) {
        Ok(span) => span,
        Err(argument) => return stdio.complain(1, format!("head: invalid argument '{argument}'")).await,
    };
    let mut status = 0;
    for (_, input) in inputs(shell, &span.paths, stdio) {
        let input = match input {
            Ok(input) => input,
            Err(message) => {
                status = stdio.complain(1, format!("head: {message}")).await?;
                continue;
            }
        };
        let mut input = input.lock().await;
        let mut left = span.count;
        while left > 0 {
            if span.bytes {
                let Some(mut chunk) = input.next().await else { break };
                let wanted = chunk.split_to(chunk.len().min(left));
                left -= wanted.len();
                input.unread(chunk);
                stdio.output.write(wanted).await?;
            } else {
                let Some(line) = input.line(LONGEST_LINE).await else { break };
                left -= 1;
                stdio.output.write(line).await?;
            }
        }
    }
    Ok(status)
}

/// `tail`; `-f` is not for here, where no file grows by itself.
pub(super) async fn tail(shell: &Shell, arguments: &[String], stdio: &Stdio) -> Ended {
    let span = match span(arguments) {
        Ok(span) => span,
        Err(argument) => return stdio.complain(1, format!("tail: invalid argument '{argument}'")).await,
    };
    let mut status = 0;
    for (_, input) in inputs(shell, &span.paths, stdio) {
        let input = match input {
            Ok(input) => input,
            Err(message) => {
                status = stdio.complain(1, format!("tail: {message}")).await?;
                continue;
            }
        };
        let mut input = input.lock().await;
        if span.from_start {
            // `+1` is everything.
            let mut skip = span.count.saturating_sub(1);
            while skip > 0 {
                if span.bytes {
                    let Some(mut chunk) = input.next().await else { break };
                    skip -= chunk.split_to(chunk.len().min(skip)).len();
                    input.unread(chunk);
                } else if input.line(LONGEST_LINE).await.is_some() {
                    skip -= 1;
                } else {
                    break;
                }
            }
            while let Some(chunk) = input.next().await {
                stdio.output.write(chunk).await?;
            }
            continue;
        }
        let mut kept: VecDeque<Bytes> = VecDeque::new();
        let mut held = 0;
        loop {
            let next =
                if span.bytes { input.next().await } else { input.line(LONGEST_LINE).await.map(Bytes::from) };
            let Some(next) = next else { break };
            held += next.len();
            kept.push_back(next);
            loop {
                let first = kept.front().map_or(0, Bytes::len);
                let too_many = if span.bytes { held - first >= span.count } else { kept.len() > span.count };
                if kept.is_empty() || !(too_many || held > LONGEST_TAIL || kept.len() > MOST_PIECES) {
                    break;
                }
                held -= first;
                kept.pop_front();
            }
        }
        let surplus = if span.bytes { held.saturating_sub(span.count) } else { 0 };
        for (index, chunk) in kept.into_iter().enumerate() {
            let from = if index == 0 { surplus.min(chunk.len()) } else { 0 };
            stdio.output.write(chunk.slice(from..)).await?;
        }
    }
    Ok(status)
}

/// `wc`
pub(super) async fn wc(shell: &Shell, arguments: &[String], stdio: &Stdio) -> Ended {
    let (options, paths) = match options(arguments, "lwc") {
        Ok(parsed) => parsed,
        Err(letter) => return unknown_option("wc", letter, stdio).await,
    };
    let mut status = 0;
    for (name, input) in inputs(shell, &paths, stdio) {
        let input = match input {
            Ok(input) => input,
            Err(message) => {
                status = stdio.complain(1, format!("wc: {message}")).await?;
                continue;
            }
        };
        let (mut lines, mut words, mut bytes, mut in_word) = (0u64, 0u64, 0u64, false);
        let mut input = input.lock().await;
        while let Some(chunk) = input.next().await {
            bytes += chunk.len() as u64;
            for byte in &chunk {
                lines += u64::from(*byte == b'\n');
                let space = byte.is_ascii_whitespace();
                words += u64::from(!space && !in_word);
                in_word = !space;
            }
        }
        let counts = [('l', lines), ('w', words), ('c', bytes)];
        let wanted = counts.iter().filter(|(letter, _)| options.is_empty() || options.contains(letter));
        let mut columns: Vec<String> = wanted.map(|(_, count)| count.to_string()).collect();
        if name != "-" {
            columns.push(name);
        }
        stdio.say(columns.join(" ")).await?;
    }
    Ok(status)
}

/// `sha256sum`
pub(super) async fn sha256sum(shell: &Shell, arguments: &[String], stdio: &Stdio) -> Ended {
    let (_, paths) = match options(arguments, "b") {
        Ok(parsed) => parsed,
        Err(letter) => return unknown_option("sha256sum", letter, stdio).await,
    };
    let mut status = 0;
    for (name, input) in inputs(shell, &paths, stdio) {
        match input {
            Err(message) => status = stdio.complain(1, format!("sha256sum: {message}")).await?,
            Ok(input) => {
                let mut hash = digest::Context::new(&digest::SHA256);
                let mut input = input.lock().await;
                while let Some(chunk) = input.next().await {
                    hash.update(&chunk);
                }
                let hash: String = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
                stdio.say(format!("{hash}  {name}")).await?;
            }
        }
    }
    Ok(status)
}
