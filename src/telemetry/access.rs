//! The access log: one line per request, written when its last byte is through.
//!
//! A watch is logged when it ends, not when it begins; a tunnel likewise. Of the request's target only the path is
//! logged: queries carry the commands of exec and, in bad hands, tokens.

use std::{
    fmt,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use upgrade_aware_proxy::{BoxError, ResponseBody};

use crate::{connection::Connection, identity::Caller};

/// The target of access lines in log directives; `--no-access-log` switches it off.
pub const TARGET: &str = "clusterway::access";

/// What is to be logged about one request. Clones are the same record; the line is written when the last one goes.
///
/// The way of a record: [`begin`](Self::begin) with the request, tell it [`caller`](Self::caller) and
/// [`cluster`](Self::cluster) as they become known, and send the answer through [`answer`](Self::answer). For an
/// upgrade give a clone to the tunnel (`TunnelGuard::new(record.clone())`).
#[derive(Clone)]
pub struct Record(Option<Arc<Facts>>);

struct Facts {
    began: Instant,
    peer: SocketAddr,
    method: Method,
    uri: Uri,
    caller: OnceLock<Arc<Caller>>,
    cluster: OnceLock<Box<str>>,
    /// Zero until there is an answer.
    status: AtomicU16,
    bytes: AtomicU64,
    complete: AtomicBool,
}

impl Record {
    /// Begins with the request's arrival. Costs nothing while access lines are switched off.
    pub fn begin<B>(request: &Request<B>, connection: &Connection) -> Self {
        if !tracing::enabled!(target: TARGET, tracing::Level::INFO) {
            return Self::none();
        }
        Self(Some(Arc::new(Facts {
            began: Instant::now(),
            peer: connection.peer(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            caller: OnceLock::new(),
            cluster: OnceLock::new(),
            status: AtomicU16::new(0),
            bytes: AtomicU64::new(0),
            complete: AtomicBool::new(false),
        })))
    }

    /// A record of which nothing is written.
    pub fn none() -> Self {
        Self(None)
    }

    /// Who is calling; the first to say so counts.
    pub fn caller(&self, caller: &Arc<Caller>) {
        if let Some(facts) = &self.0 {
            let _ = facts.caller.set(Arc::clone(caller));
        }
    }

    /// Which cluster it is for; the first to say so counts.
    pub fn cluster(&self, name: &str) {
        if let Some(facts) = &self.0 {
            let _ = facts.cluster.set(name.into());
        }
    }

    /// The answer, whose body keeps the record until it ends.
    pub fn answer(self, response: Response<ResponseBody>) -> Response<ResponseBody> {
        let Some(facts) = self.0 else { return response };
        facts.status.store(response.status().as_u16(), Relaxed);
        let (head, body) = response.into_parts();
        // Nothing is going to be read from these.
        let bodiless = facts.method == Method::HEAD
            || head.status == StatusCode::NO_CONTENT
            || head.status == StatusCode::NOT_MODIFIED
            || head.status == StatusCode::SWITCHING_PROTOCOLS;
        if bodiless || body.is_end_stream() {
            facts.complete.store(true, Relaxed);
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Response::from_parts(head, body);
            }
        }
        let expected = body.size_hint().exact();
        Response::from_parts(head, ResponseBody::new(LoggedBody { body, facts, expected }))
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").finish_non_exhaustive()
    }
}

impl Drop for Facts {
    fn drop(&mut self) {
        let status = Some(self.status.load(Relaxed)).filter(|status| *status != 0);
        let outcome = match (status, self.complete.load(Relaxed)) {
            (None, _) => "cancelled",
            (Some(_), false) => "aborted",
            (Some(_), true) => "complete",
        };
        let milliseconds = (self.began.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        // Values from outside are recorded as strings, which both formats escape.
        tracing::info!(
            target: TARGET,
            method = self.method.as_str(),
            path = self.uri.path(),
            status,
            outcome,
            cluster = self.cluster.get().map(|name| &**name),
            user = self.caller.get().map(|caller| caller.name.as_str()),
            duration_ms = milliseconds,
            bytes = self.bytes.load(Relaxed),
            peer = %self.peer,
            "request"
        );
    }
}

/// A body that counts what goes through it.
struct LoggedBody {
    body: ResponseBody,
    facts: Arc<Facts>,
    expected: Option<u64>,
}

impl Body for LoggedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let more = frame.data_ref().map_or(0, |data| data.len() as u64);
                let bytes = self.facts.bytes.fetch_add(more, Relaxed) + more;
                // A body of known length is not asked again after its last byte.
                if self.body.is_end_stream() || self.expected == Some(bytes) {
                    self.facts.complete.store(true, Relaxed);
                }
            }
            Poll::Ready(None) => self.facts.complete.store(true, Relaxed),
            Poll::Ready(Some(Err(_))) => self.facts.complete.store(false, Relaxed),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use http_body_util::{BodyExt as _, Empty, StreamBody};
    use serde_json::Value;
    use tokio_util::sync::CancellationToken;
    use upgrade_aware_proxy::Protocol;

    use super::{
        super::{
            LogFlags, LogFormat,
            tests::{logged, logged_with},
        },
        *,
    };

    fn begin(method: &str, uri: &str) -> Record {
        let request = Request::builder().method(method).uri(uri).body(Empty::<Bytes>::new()).unwrap();
        let peer = ([192, 0, 2, 1], 4711).into();
        Record::begin(&request, &Connection::new(peer, Protocol::Http1, Vec::new(), CancellationToken::new()))
    }

    fn line(work: impl FnOnce()) -> Value {
        let text = logged(LogFormat::Json, "info", work);
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("not one line: {text:?}"))
    }

    fn read(response: Response<ResponseBody>) {
        let _ = response.into_body().collect().now_or_never().unwrap();
    }

    #[test]
    fn a_line_says_who_asked_for_what_and_what_came_of_it() {
        let line = line(|| {
            let record = begin("GET", "https://localhost/clusters/east/api/v1/pods?limit=5");
            record.caller(&Arc::new(Caller { name: "jane".to_owned(), ..Caller::default() }));
            record.cluster("east");
            read(record.answer(Response::new(ResponseBody::full("hello"))));
        });
        for (field, value) in [
            ("method", "GET"),
            ("path", "/clusters/east/api/v1/pods"),
            ("outcome", "complete"),
            ("cluster", "east"),
            ("user", "jane"),
            ("peer", "192.0.2.1:4711"),
        ] {
            assert_eq!(line[field], value, "{field}");
        }
        assert_eq!(line["status"], 200);
        assert_eq!(line["bytes"], 5);
        assert!(line["duration_ms"].as_f64().is_some());
    }

    #[test]
    fn the_line_is_written_when_the_body_ends() {
        let text = logged(LogFormat::Text, "info", || {
            let response = begin("GET", "/").answer(Response::new(ResponseBody::full("hello")));
            tracing::info!("not yet");
            read(response);
        });
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].contains("not yet") && lines[1].contains("status=200"), "{text}");
    }

    #[test]
    fn queries_are_not_logged() {
        let text = logged(LogFormat::Text, "trace", || {
            read(begin("POST", "/exec?command=s3cret&token=s3cret").answer(Response::default()));
        });
        assert!(text.contains("/exec") && !text.contains("s3cret"), "{text}");
    }

    #[test]
    fn a_body_that_is_given_up_or_breaks_is_aborted() {
        let given_up = line(|| drop(begin("GET", "/").answer(Response::new(ResponseBody::full("hello")))));
        assert_eq!(given_up["outcome"], "aborted");
        let broken = line(|| {
            let frames = [Ok(Frame::data(Bytes::from("he"))), Err(BoxError::from("broke"))];
            let body = ResponseBody::new(StreamBody::new(futures_util::stream::iter(frames)));
            read(begin("GET", "/").answer(Response::new(body)));
        });
        assert_eq!(broken["outcome"], "aborted");
        assert_eq!(broken["bytes"], 2);
    }

    #[test]
    fn answers_without_a_body_are_complete() {
        let head = line(|| drop(begin("HEAD", "/").answer(Response::new(ResponseBody::full("hello")))));
        assert_eq!(head["outcome"], "complete");
        let empty = line(|| drop(begin("DELETE", "/").answer(Response::default())));
        assert_eq!(empty["outcome"], "complete");
    }

    #[test]
    fn a_request_that_is_never_answered_is_cancelled() {
        let line = line(|| drop(begin("GET", "/")));
        assert_eq!(line["outcome"], "cancelled");
        assert_eq!(line["status"], Value::Null);
    }

    #[test]
    fn a_tunnel_is_logged_when_it_ends() {
        let text = logged(LogFormat::Text, "info", || {
            let record = begin("GET", "/exec");
            let tunnel = record.clone();
            let mut response = Response::new(ResponseBody::empty());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            read(record.answer(response));
            tracing::info!("not yet");
            drop(tunnel);
        });
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].contains("not yet") && lines[1].contains("status=101"), "{text}");
    }

    #[test]
    fn names_cannot_forge_lines() {
        let text = logged(LogFormat::Text, "info", || {
            let record = begin("GET", "/");
            record.caller(&Arc::new(Caller { name: "eve\nINFO \u{1b}[31m".to_owned(), ..Caller::default() }));
            read(record.answer(Response::default()));
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn without_access_lines_the_body_is_left_alone() {
        let flags = LogFlags { log_format: LogFormat::Text, log_level: None, no_access_log: true };
        let text = logged_with(&flags, || {
            let record = begin("GET", "/");
            assert!(record.0.is_none());
            read(record.answer(Response::new(ResponseBody::full("hello"))));
        });
        assert_eq!(text, "");
    }
}
