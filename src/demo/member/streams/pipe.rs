//! Standard input and output of demo commands: bounded channels of byte chunks, files, and the two devices.
//!
//! Nothing here may hold more than a few chunks: a command that does not read stops the client that writes, and a
//! client that does not read stops the command.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Mutex, mpsc};

use super::{container::Container, files::FileError};

/// The longest chunk that travels through a pipe, in bytes.
pub(super) const CHUNK: usize = 32 << 10;
/// How many chunks a pipe holds.
pub(super) const DEPTH: usize = 8;

/// What a command reads.
pub(super) struct Input {
    source: Origin,
    buffered: Bytes,
}

enum Origin {
    Nothing,
    Zeroes,
    Pipe(mpsc::Receiver<Bytes>),
}

/// An [`Input`] that several commands read in turn, as the commands of one script do.
pub(super) type SharedInput = Arc<Mutex<Input>>;

impl Input {
    /// One that ends at once.
    pub(super) fn empty() -> Self {
        Self::of(Bytes::new())
    }

    /// One that is `bytes`.
    pub(super) fn of(bytes: Bytes) -> Self {
        Self { source: Origin::Nothing, buffered: bytes }
    }

    /// `/dev/zero`.
    pub(super) fn zeroes() -> Self {
        Self { source: Origin::Zeroes, buffered: Bytes::new() }
    }

    /// One that is written from elsewhere. An empty chunk is an end of file that more may follow, which is what
    /// `^D` on a terminal is.
    pub(super) fn pipe(receiver: mpsc::Receiver<Bytes>) -> Self {
        Self { source: Origin::Pipe(receiver), buffered: Bytes::new() }
    }

    /// For several readers.
    pub(super) fn shared(self) -> SharedInput {
        Arc::new(Mutex::new(self))
    }

    /// The next chunk, never empty; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        if !self.buffered.is_empty() {
            return Some(std::mem::take(&mut self.buffered));
        }
        match &mut self.source {
            Origin::Nothing => None,
            Origin::Zeroes => {
                // Always ready: without this an endless reader would never let go of its thread.
                tokio::task::yield_now().await;
                Some(Bytes::from_static(&[0; CHUNK]))
            }
            Origin::Pipe(receiver) => receiver.recv().await.filter(|chunk| !chunk.is_empty()),
        }
    }

    /// Puts back what was taken too much.
    pub(super) fn unread(&mut self, bytes: Bytes) {
        debug_assert!(self.buffered.is_empty(), "only what `next` gave is put back");
        self.buffered = bytes;
    }

    /// The next line, with its newline if it has one, cut at `longest` bytes; `None` at the end.
    pub(super) async fn line(&mut self, longest: usize) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        while let Some(mut chunk) = self.next().await {
            let end = chunk.iter().position(|byte| *byte == b'\n').map_or(chunk.len(), |at| at + 1);
            let room = longest.saturating_sub(line.len());
            let taken = chunk.split_to(end.min(room));
            line.extend_from_slice(&taken);
            self.unread(chunk);
            if line.ends_with(b"\n") || line.len() >= longest {
                return Some(line);
            }
        }
        Some(line).filter(|line| !line.is_empty())
    }

    /// Exactly `length` bytes, or as many as there are.
    pub(super) async fn exactly(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length.min(CHUNK));
        while bytes.len() < length {
            let Some(mut chunk) = self.next().await else { break };
            bytes.extend_from_slice(&chunk.split_to(chunk.len().min(length - bytes.len())));
            self.unread(chunk);
        }
        bytes
    }
}

/// Why a command could not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WriteError {
    /// Nobody reads any more: the next command of the pipeline ended, or the client went away.
    #[error("Broken pipe")]
    Closed,
    /// The file it goes to could not take it.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Where a command writes.
#[derive(Clone)]
pub(super) enum Output {
    /// `/dev/null`.
    Null,
    /// The next command, or the client.
    Pipe(mpsc::Sender<Bytes>),
    /// A client's terminal: every newline becomes carriage return and newline.
    Terminal(mpsc::Sender<Bytes>),
    /// The end of a file.
    File(Arc<Container>, String),
}

impl Output {
    /// Writes all of `bytes`, as soon as there is room for it.
    pub(super) async fn write(&self, bytes: impl Into<Bytes>) -> Result<(), WriteError> {
        let mut bytes: Bytes = bytes.into();
        match self {
            Self::Null => {
                tokio::task::yield_now().await;
                Ok(())
            }
            Self::File(container, path) => {
                tokio::task::yield_now().await;
                Ok(container.files().append(path, &bytes)?)
            }
            Self::Pipe(sender) => {
                while !bytes.is_empty() {
                    let chunk = bytes.split_to(bytes.len().min(CHUNK));
                    sender.send(chunk).await.map_err(|_| WriteError::Closed)?;
                }
                Ok(())
            }
            Self::Terminal(sender) => {
                while !bytes.is_empty() {
                    let chunk = with_carriage_returns(&bytes.split_to(bytes.len().min(CHUNK / 2)));
                    sender.send(chunk).await.map_err(|_| WriteError::Closed)?;
                }
                Ok(())
            }
        }
    }
}

fn with_carriage_returns(bytes: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(bytes.len() + 16);
    for byte in bytes {
        if *byte == b'\n' {
            out.push(b'\r');
        }
        out.push(*byte);
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_found_across_chunks() {
        let (sender, receiver) = mpsc::channel(8);
        for chunk in ["on", "e\ntwo\nth", "ree"] {
            sender.send(Bytes::from(chunk)).await.unwrap();
        }
        drop(sender);
        let mut input = Input::pipe(receiver);
        assert_eq!(input.line(100).await.unwrap(), b"one\n");
        assert_eq!(input.line(2).await.unwrap(), b"tw");
        assert_eq!(input.line(100).await.unwrap(), b"o\n");
        assert_eq!(input.exactly(2).await, b"th");
        assert_eq!(input.line(100).await.unwrap(), b"ree");
        assert_eq!(input.line(100).await, None);
    }

    #[tokio::test]
    async fn an_end_of_file_on_a_terminal_may_be_followed_by_more() {
        let (sender, receiver) = mpsc::channel(8);
        for chunk in ["one\n", "", "two\n"] {
            sender.send(Bytes::from(chunk)).await.unwrap();
        }
        let mut input = Input::pipe(receiver);
        assert_eq!(input.line(100).await.unwrap(), b"one\n");
        assert_eq!(input.line(100).await, None);
        assert_eq!(input.line(100).await.unwrap(), b"two\n");
    }

    #[tokio::test]
    async fn a_terminal_gets_carriage_returns_and_a_closed_pipe_is_an_error() {
        let (sender, mut receiver) = mpsc::channel(8);
        let output = Output::Terminal(sender);
        output.write("a\nb\n").await.unwrap();
        assert_eq!(receiver.recv().await.unwrap(), "a\r\nb\r\n");
        drop(receiver);
        assert_eq!(output.write("x").await, Err(WriteError::Closed));
    }
}
