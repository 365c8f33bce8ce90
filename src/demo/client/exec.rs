//! Exec over a WebSocket with `v5.channel.k8s.io`.

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Method, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error as WebSocketError, Message, protocol::Role},
};

use super::{Client, ClientError, LONGEST_BODY};
use crate::demo::handshake;

const PROTOCOL: &str = "v5.channel.k8s.io";
/// How many bytes of standard input go into one message.
const CHUNK: usize = 32 << 10;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const CLOSE: u8 = 255;

/// What to run, and where.
#[derive(Clone, Debug, Default)]
pub struct Exec<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod.
    pub pod: &'a str,
    /// The container; may be empty if the pod has only one.
    pub container: &'a str,
    /// The command and its arguments.
    pub command: &'a [&'a str],
    /// What it reads; `None` leaves it without standard input.
    pub stdin: Option<Bytes>,
}

/// How a command ended and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Client {
    /// Runs a command in a container and waits for its end.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; a command that ends with another exit code than 0 is none.
    pub async fn exec(&self, exec: Exec<'_>) -> Result<Output, ClientError> {
        let path = path(&exec);
        let mut key = [0; 16];
        let problem = |problem: &str| ClientError::Answer { path: path.clone(), problem: problem.to_owned() };
        rand::fill(&mut key).map_err(|_| problem("the system has no random numbers"))?;
        let key = BASE64.encode(key);
        let headers = [
            (header::CONNECTION, "Upgrade"),
            (header::UPGRADE, "websocket"),
            (header::SEC_WEBSOCKET_VERSION, "13"),
            (header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL),
            (header::SEC_WEBSOCKET_KEY, &key),
        ];
        let response = self.request(Method::GET, &path, &headers, None).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(problem(&format!("{} instead of a WebSocket", response.status())));
        }
        let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
        if accepted.map(HeaderValue::as_bytes) != Some(handshake::accept(key.as_bytes()).as_bytes()) {
            return Err(problem("the WebSocket handshake is answered for another key"));
        }
        let chosen = response.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
        if chosen.is_none_or(|chosen| chosen != PROTOCOL) {
            return Err(problem(&format!("the server speaks {chosen:?} instead of {PROTOCOL}")));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|source| ClientError::Http {
            method: Method::GET,
            path: path.clone(),
            source,
        })?;
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
        let (mut sink, mut stream) = socket.split();
        let typing = async {
            if let Some(mut stdin) = exec.stdin {
                while !stdin.is_empty() {
                    let chunk = stdin.split_to(stdin.len().min(CHUNK));
                    sink.send(message(STDIN, &chunk)).await?;
                }
                sink.send(message(CLOSE, &[STDIN])).await?;
            }
            Ok::<(), WebSocketError>(())
        };
        let mut output = Output { code: 0, stdout: Vec::new(), stderr: Vec::new() };
        let mut outcome = Vec::new();
        let reading = async {
            while let Some(message) = stream.next().await {
                let bytes = match message {
                    Ok(Message::Binary(bytes)) => bytes,
                    Ok(Message::Close(_)) => break,
                    Ok(_) => continue,
                    // Once the outcome is known, how the connection ends does not matter.
                    Err(_) if !outcome.is_empty() => break,
                    Err(error) => return Err(error),
                };
                let Some((channel, payload)) = bytes.split_first() else { continue };
                let channel = match *channel {
                    STDOUT => &mut output.stdout,
                    STDERR => &mut output.stderr,
                    ERROR => &mut outcome,
                    _ => continue,
                };
                if channel.len() + payload.len() > LONGEST_BODY {
                    break;
                }
                channel.extend_from_slice(payload);
            }
            Ok(())
        };
        // A command may end without reading all of its input: then writing fails, and what was read still counts.
        let (_, read) = tokio::join!(typing, reading);
        read.map_err(|source| ClientError::WebSocket { path: path.clone(), source: Box::new(source) })?;
        output.code = code(&outcome).map_err(|text| problem(&text))?;
        Ok(output)
    }
}

fn path(exec: &Exec<'_>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if !exec.container.is_empty() {
        query.append_pair("container", exec.container);
    }
    for word in exec.command {
        query.append_pair("command", word);
    }
    query.append_pair("stdout", "true").append_pair("stderr", "true");
    if exec.stdin.is_some() {
        query.append_pair("stdin", "true");
    }
    format!("/api/v1/namespaces/{}/pods/{}/exec?{}", exec.namespace, exec.pod, query.finish())
}

/// The exit code in a `Status`; the error is a sentence.
fn code(outcome: &[u8]) -> Result<i32, String> {
    if outcome.is_empty() {
        return Err("the connection ended before the command did".to_owned());
    }
    let status: Value =
        serde_json::from_slice(outcome).map_err(|error| format!("its outcome is no Status: {error}"))?;
    if status["status"] == "Success" {
        return Ok(0);
    }
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    causes
        .filter(|cause| cause["reason"] == "ExitCode")
        .find_map(|cause| cause["message"].as_str()?.parse().ok())
        .ok_or_else(|| status["message"].as_str().unwrap_or("the command failed, nobody says how").to_owned())
}

fn message(channel: u8, payload: &[u8]) -> Message {
    let mut bytes = BytesMut::with_capacity(payload.len() + 1);
    bytes.put_u8(channel);
    bytes.extend_from_slice(payload);
    Message::Binary(bytes.freeze())
}
