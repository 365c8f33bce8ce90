//! The streaming endpoints of an embedded member: logs, exec, attach and port-forward, as kubectl expects them over
//! WebSocket and SPDY/3.1.
//!
//! Nothing of the user's machine is read or run: pods are a clock, a shell of built-in commands and a small tree of
//! files in memory (see [`Streams`]). A client can neither make this panic nor grow without bound.

mod container;
mod files;
mod logs;
mod pipe;
mod port_forward;
mod refusal;
mod remote_command;
mod session;
mod shell;
mod spdy;
mod terminal;
mod upgrade;
mod websocket;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use http::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};
use upgrade_aware_proxy::ResponseBody;

use container::Container;
use logs::Clock;
use refusal::Refusal;
use upgrade::Protocol;

/// Which streaming subresource of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `…/exec`
    Exec,
    /// `…/attach`
    Attach,
    /// `…/portforward`
    PortForward,
}

/// What the pods of one member hold besides their objects: files and running sessions. Dropping it ends all sessions.
#[derive(Default)]
pub struct Streams {
    pods: Mutex<HashMap<String, Arc<Pod>>>,
}

/// One pod, for as long as it exists.
struct Pod {
    containers: Vec<Arc<Container>>,
    started: Clock,
    gone: CancellationToken,
    /// Cancels `gone` when the last one lets go of the pod.
    _guard: DropGuard,
}

impl Streams {
    /// For a member without pods.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the sessions of the pod with this `metadata.uid` and drops its files. To be called when it is deleted.
    pub fn forget(&self, uid: &str) {
        let pod = self.lock().remove(uid);
        if let Some(pod) = pod {
            pod.gone.cancel();
        }
    }

    /// Forgets every pod whose `metadata.uid` `alive` does not know.
    pub fn keep(&self, alive: impl Fn(&str) -> bool) {
        let gone: Vec<Arc<Pod>> = self.lock().extract_if(|uid, _| !alive(uid)).map(|(_, pod)| pod).collect();
        for pod in gone {
            pod.gone.cancel();
        }
    }

    /// Answers `GET …/pods/{pod}/log?{query}`; `pod` is the whole object.
    pub fn logs(&self, pod: &Value, query: &str) -> Response<ResponseBody> {
        self.try_logs(pod, query).unwrap_or_else(Refusal::into_response)
    }

    fn try_logs(&self, object: &Value, query: &str) -> Result<Response<ResponseBody>, Refusal> {
        let options = logs::Options::parse(query)?;
        let pod = self.pod(object);
        let container = pod.container(object, options.container.as_deref())?;
        if object["status"]["phase"] == "Pending" {
            return Err(Refusal::NotStarted {
                container: container.name.clone(),
                pod: container.pod.clone(),
            });
        }
        logs::respond(&options, &container, pod.started, pod.gone.clone())
    }

    /// Answers an upgrade request on `…/pods/{pod}/exec`, `…/attach` or `…/portforward`; `pod` is the whole object.
    /// After the 101 the session runs by itself, on the runtime, until the command or the client or the pod is gone.
    pub fn upgrade<B>(&self, kind: Kind, mut request: Request<B>, pod: &Value) -> Response<ResponseBody> {
        let (protocol, response) = match upgrade::negotiate(kind, &request) {
            Ok(negotiated) => negotiated,
            Err(refusal) => return refusal.into_response(),
        };
        let (session, gone) = match self.session(kind, request.uri().query().unwrap_or_default(), pod) {
            Ok(session) => session,
            Err(refusal) => return refusal.into_response(),
        };
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let io = match upgraded.await {
                Ok(upgraded) => TokioIo::new(upgraded),
                Err(error) => {
                    tracing::debug!(%error, ?kind, "a client of a demo pod left before the upgrade");
                    return;
                }
            };
            match (protocol, session) {
                (Protocol::Channels(version), Some(session)) => {
                    websocket::serve(io, version, session, gone).await;
                }
                (Protocol::Spdy, Some(session)) => remote_command::serve(io, session, gone).await,
                (Protocol::Tunnel, _) => port_forward::serve_tunnel(io, gone).await,
                (Protocol::Spdy | Protocol::Channels(_), None) => port_forward::serve(io, gone).await,
            }
        });
        response
    }

    /// What exec or attach is to run (`None` for port-forward), and what ends it.
    fn session(
        &self,
        kind: Kind,
        query: &str,
        object: &Value,
    ) -> Result<(Option<session::Request>, CancellationToken), Refusal> {
        let pod = self.pod(object);
        if kind == Kind::PortForward {
            return Ok((None, pod.gone.clone()));
        }
        let mut name = None;
        let mut command = Vec::new();
        let mut streams = session::Streams { stdin: false, stdout: false, stderr: false, tty: false };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "container" => name = Some(value.into_owned()).filter(|name| !name.is_empty()),
                "command" => command.push(value.into_owned()),
                "stdin" => streams.stdin = logs::boolean(&value),
                "stdout" => streams.stdout = logs::boolean(&value),
                "stderr" => streams.stderr = logs::boolean(&value),
                "tty" => streams.tty = logs::boolean(&value),
                _ => {}
            }
        }
        streams.stderr &= !streams.tty;
        if !(streams.stdin || streams.stdout || streams.stderr) {
            return Err(Refusal::NoStream);
        }
        if kind == Kind::Exec && command.is_empty() {
            return Err(Refusal::NoCommand);
        }
        let container = pod.container(object, name.as_deref())?;
        if object["status"]["phase"] == "Pending" {
            return Err(Refusal::NotStarted {
                container: container.name.clone(),
                pod: container.pod.clone(),
            });
        }
        let command = (kind == Kind::Exec).then_some(command);
        let request = session::Request { container, command, streams, started: pod.started };
        Ok((Some(request), pod.gone.clone()))
    }

    fn pod(&self, object: &Value) -> Arc<Pod> {
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        let mut pods = self.lock();
        if let Some(pod) = pods.get(uid) {
            return Arc::clone(pod);
        }
        let pod = Arc::new(Pod::new(object));
        pods.insert(uid.to_owned(), Arc::clone(&pod));
        pod
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Pod>>> {
        // Each use is one map operation, complete in itself: a panic elsewhere leaves the map usable.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").field("pods", &self.lock().len()).finish()
    }
}

impl Pod {
    fn new(object: &Value) -> Self {
        let specs = object["spec"]["containers"].as_array().into_iter().flatten();
        let gone = CancellationToken::new();
        Self {
            containers: specs.map(|spec| Arc::new(Container::new(object, spec))).collect(),
            started: Clock::since(object["metadata"]["creationTimestamp"].as_str().unwrap_or_default()),
            _guard: gone.clone().drop_guard(),
            gone,
        }
    }

    /// The container called `name`, or the only one if there is no name.
    fn container(&self, object: &Value, name: Option<&str>) -> Result<Arc<Container>, Refusal> {
        let pod = || object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let found = match (name, &self.containers[..]) {
            (Some(name), containers) => containers
                .iter()
                .find(|container| container.name == name)
                .ok_or_else(|| Refusal::UnknownContainer { container: name.to_owned(), pod: pod() })?,
            (None, [only]) => only,
            (None, several) => {
                let choices: Vec<&str> = several.iter().map(|container| container.name.as_str()).collect();
                return Err(Refusal::WhichContainer { pod: pod(), choices: choices.join(" ") });
            }
        };
        Ok(Arc::clone(found))
    }
}

#[cfg(test)]
mod tests;
