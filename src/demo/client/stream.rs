//! Answers that come line by line: logs and watches.

use bytes::{Bytes, BytesMut};
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::Value;

use super::{ClientError, LONGEST_BODY};

/// Lines of text as they come. Dropping it ends the request.
#[derive(Debug)]
pub struct Lines {
    path: String,
    body: Incoming,
    unread: BytesMut,
    /// How much of `unread` is known to hold no newline.
    searched: usize,
    ended: bool,
}

impl Lines {
    pub(super) fn new(path: &str, body: Incoming) -> Self {
        Self { path: path.to_owned(), body, unread: BytesMut::new(), searched: 0, ended: false }
    }

    /// The next line without its newline; `None` at the end.
    ///
    /// # Errors
    ///
    /// If the connection breaks or the line does not end.
    pub async fn next(&mut self) -> Result<Option<String>, ClientError> {
        Ok(self.line().await?.map(|line| String::from_utf8_lossy(&line).into_owned()))
    }

    async fn line(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            if let Some(at) = self.unread[self.searched..].iter().position(|byte| *byte == b'\n') {
                let mut line = self.unread.split_to(self.searched + at + 1);
                self.searched = 0;
                line.truncate(line.len() - 1);
                return Ok(Some(line.freeze()));
            }
            self.searched = self.unread.len();
            if self.searched > LONGEST_BODY {
                return Err(ClientError::Answer {
                    path: self.path.clone(),
                    problem: format!("a line of more than {} MiB", LONGEST_BODY >> 20),
                });
            }
            if self.ended {
                self.searched = 0;
                return Ok(Some(self.unread.split().freeze()).filter(|line| !line.is_empty()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.unread.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
                Some(Err(source)) => {
                    return Err(ClientError::Http { method: Method::GET, path: self.path.clone(), source });
                }
                None => self.ended = true,
            }
        }
    }
}

/// A watch. Dropping it ends the request.
#[derive(Debug)]
pub struct Watch(Lines);

/// What a watch tells.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Event {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The object, or a `Status` for `ERROR`.
    pub object: Value,
}

impl Watch {
    pub(super) fn new(lines: Lines) -> Self {
        Self(lines)
    }

    /// The next event; `None` when the server ends the watch.
    ///
    /// # Errors
    ///
    /// If the connection breaks or a line is no event.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        let Some(line) = self.0.line().await? else { return Ok(None) };
        serde_json::from_slice(&line).map(Some).map_err(|error| ClientError::Answer {
            path: self.0.path.clone(),
            problem: format!("a line is no watch event: {error}"),
        })
    }
}
