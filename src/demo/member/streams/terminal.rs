//! What the kernel's terminal driver does between a keyboard and a command: echo, line editing, `^C` and `^D`.
//!
//! A client that asks for a terminal sends single keys and shows only what comes back; without this nobody would see
//! what he types. Full-screen programs do not exist here, so there is only the line mode.

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

/// The longest line one may type, as Linux has it.
const LONGEST_LINE: usize = 4096;
/// How many lines may wait for a command to read them.
pub(super) const TYPED_AHEAD: usize = 256;

/// What a key press leads to.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    /// To be shown.
    Echo(Vec<u8>),
    /// A complete line, or what was typed before `^D`; empty is an end of file.
    Input(Vec<u8>),
    /// `^C`
    Interrupt,
}

/// Turns keys into lines.
#[derive(Debug, Default)]
struct LineEditor {
    line: Vec<u8>,
    escape: Escape,
    after_return: bool,
}

/// Where in an escape sequence (an arrow key, say) the editor is; such sequences are swallowed.
#[derive(Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Started,
    Sequence,
    OneMore,
}

impl LineEditor {
    fn feed(&mut self, keys: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for key in keys {
            self.key(*key, &mut events);
        }
        events
    }

    fn key(&mut self, key: u8, events: &mut Vec<Event>) {
        match (&self.escape, key) {
            (Escape::Started, b'[') => return self.escape = Escape::Sequence,
            (Escape::Started, b'O') => return self.escape = Escape::OneMore,
            (Escape::Started | Escape::OneMore, _) | (Escape::Sequence, 0x40..=0x7e) => {
                return self.escape = Escape::None;
            }
            (Escape::Sequence, _) => return,
            (Escape::None, _) => {}
        }
        let newline_of_return = std::mem::take(&mut self.after_return) && key == b'\n';
        match key {
            b'\n' if newline_of_return => {}
            b'\r' | b'\n' => {
                self.after_return = key == b'\r';
                self.line.push(b'\n');
                echo(events, b"\r\n");
                events.push(Event::Input(std::mem::take(&mut self.line)));
            }
            // ^C
            0x03 => {
                self.line.clear();
                echo(events, b"^C\r\n");
                events.push(Event::Interrupt);
            }
            // ^D
            0x04 => events.push(Event::Input(std::mem::take(&mut self.line))),
            // Backspace
            0x08 | 0x7f => self.erase(events),
            // ^U
            0x15 => {
                while !self.line.is_empty() {
                    self.erase(events);
                }
            }
            // ^W
            0x17 => {
                while self.line.last().is_some_and(u8::is_ascii_whitespace) {
                    self.erase(events);
                }
                while self.line.last().is_some_and(|byte| !byte.is_ascii_whitespace()) {
                    self.erase(events);
                }
            }
            0x1b => self.escape = Escape::Started,
            // Any other control character, tab included, rings the bell.
            0x00..=0x1f => echo(events, b"\x07"),
            _ if self.line.len() + 1 >= LONGEST_LINE => echo(events, b"\x07"),
            _ => {
                self.line.push(key);
                echo(events, &[key]);
            }
        }
    }

    /// Takes the last character back, all bytes of it.
    fn erase(&mut self, events: &mut Vec<Event>) {
        while let Some(byte) = self.line.pop() {
            if byte & 0xc0 != 0x80 {
                echo(events, b"\x08 \x08");
                return;
            }
        }
    }
}

fn echo(events: &mut Vec<Event>, bytes: &[u8]) {
    match events.last_mut() {
        Some(Event::Echo(before)) => before.extend_from_slice(bytes),
        _ => events.push(Event::Echo(bytes.to_vec())),
    }
}

/// Stands between the client's keys and the command until either goes away. Lines that find no room because the
/// command does not read are dropped with a bell, so that `^C` always gets through.
pub(super) async fn run(
    mut keys: mpsc::Receiver<Bytes>,
    lines: mpsc::Sender<Bytes>,
    screen: mpsc::Sender<Bytes>,
    interrupts: watch::Sender<u64>,
) {
    let mut editor = LineEditor::default();
    while let Some(pressed) = keys.recv().await {
        for event in editor.feed(&pressed) {
            match event {
                Event::Echo(bytes) => {
                    if screen.send(bytes.into()).await.is_err() {
                        return;
                    }
                }
                Event::Interrupt => interrupts.send_modify(|count| *count += 1),
                Event::Input(line) => match lines.try_send(line.into()) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        let _ = screen.send(Bytes::from_static(b"\x07")).await;
                    }
                    Err(mpsc::error::TrySendError::Closed(_)) => return,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown, and what the command reads.
    fn type_keys(keys: &[u8]) -> (String, Vec<String>) {
        let mut editor = LineEditor::default();
        let (mut shown, mut read) = (Vec::new(), Vec::new());
        for key in keys.chunks(1) {
            for event in editor.feed(key) {
                match event {
                    Event::Echo(bytes) => shown.extend(bytes),
                    Event::Input(line) => read.push(String::from_utf8(line).unwrap()),
                    Event::Interrupt => read.push("^C".to_owned()),
                }
            }
        }
        (String::from_utf8(shown).unwrap(), read)
    }

    #[test]
    fn keys_are_echoed_and_lines_delivered_at_return() {
        assert_eq!(type_keys(b"ls\r"), ("ls\r\n".to_owned(), vec!["ls\n".to_owned()]));
        assert_eq!(type_keys(b"a\r\nb\n").1, ["a\n", "b\n"]);
    }

    #[test]
    fn backspace_takes_back_whole_characters_and_stops_at_the_start() {
        let (shown, read) = type_keys("xä\x7f\x7f\x7fy\r".as_bytes());
        assert_eq!(read, ["y\n"]);
        assert_eq!(shown, "xä\x08 \x08\x08 \x08y\r\n");
        assert_eq!(type_keys(b"echo one\x17two\r").1, ["echo two\n"]);
        assert_eq!(type_keys(b"rm -rf\x15ls\r").1, ["ls\n"]);
    }

    #[test]
    fn control_c_drops_the_line_and_control_d_ends_the_input() {
        assert_eq!(type_keys(b"abc\x03d\r").1, ["^C", "d\n"]);
        assert_eq!(type_keys(b"\x04").1, [""]);
        assert_eq!(type_keys(b"ab\x04\x04").1, ["ab", ""]);
    }

    #[test]
    fn arrow_keys_leave_no_trace() {
        assert_eq!(type_keys(b"\x1b[Al\x1b[1;5Cs\x1bOP\r"), ("ls\r\n".to_owned(), vec!["ls\n".to_owned()]));
    }

    #[tokio::test]
    async fn control_c_gets_through_when_nobody_reads() {
        let (keys, typed) = mpsc::channel(1);
        let (lines, _unread) = mpsc::channel(1);
        let (screen, mut shown) = mpsc::channel(64);
        let (interrupts, mut interrupted) = watch::channel(0);
        let driver = tokio::spawn(run(typed, lines, screen, interrupts));
        for key in ["a\r", "b\r", "c\r", "\x03"] {
            keys.send(Bytes::from(key)).await.unwrap();
        }
        interrupted.changed().await.unwrap();
        drop(keys);
        driver.await.unwrap();
        let mut all = Vec::new();
        while let Some(bytes) = shown.recv().await {
            all.extend_from_slice(&bytes);
        }
        assert_eq!(String::from_utf8(all).unwrap(), "a\r\nb\r\n\x07c\r\n\x07^C\r\n");
    }
}
