//! `GET …/pods/{pod}/log`: containers that say something every second.
//!
//! Nothing is stored: line *n* is what a container says *n* seconds after its start, so the history is the same
//! whenever one looks, costs no memory, and goes back [`HISTORY`] lines at most.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::StreamBody;
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;
use upgrade_aware_proxy::{BoxError, ResponseBody};

use super::{container::Container, refusal::Refusal};

/// How many lines a container's log goes back, at one line a second.
pub(super) const HISTORY: u64 = 3600;

/// What container `container` of `pod` says at tick `tick`.
pub(super) fn line(pod: &str, container: &str, tick: u64) -> String {
    format!("{pod}/{container}: tick {tick}")
}

/// When a container started, and with it when it says what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    started: Timestamp,
}

impl Clock {
    /// From a pod's creation time in RFC 3339; now if it is none.
    pub(super) fn since(created: &str) -> Self {
        Self { started: created.parse().unwrap_or_else(|_| Timestamp::now()) }
    }

    /// The last tick that has happened.
    pub(super) fn ticks(self) -> u64 {
        u64::try_from(Timestamp::now().duration_since(self.started).as_secs()).unwrap_or_default()
    }

    /// When tick `tick` happens.
    fn at(self, tick: u64) -> Timestamp {
        let after = SignedDuration::from_secs(i64::try_from(tick).unwrap_or(i64::MAX));
        self.started.saturating_add(after).unwrap_or(Timestamp::MAX)
    }

    /// Waits for tick `tick`.
    pub(super) async fn until(self, tick: u64) {
        let wait = self.at(tick).duration_since(Timestamp::now());
        tokio::time::sleep(Duration::try_from(wait).unwrap_or_default()).await;
    }
}

/// The query of a log request.
#[derive(Debug, Default)]
pub(super) struct Options {
    /// Which container.
    pub(super) container: Option<String>,
    follow: bool,
    timestamps: bool,
    previous: bool,
    tail: Option<i64>,
    since_seconds: Option<i64>,
    since_time: Option<Timestamp>,
    limit_bytes: Option<i64>,
}

impl Options {
    /// Reads `query`; unknown parameters are ignored, as kube-apiserver does.
    pub(super) fn parse(query: &str) -> Result<Self, Refusal> {
        let number = |value: &str| {
            value.parse::<i64>().map(Some).map_err(|_| {
                Refusal::Parameter(format!("strconv.ParseInt: parsing {value:?}: invalid syntax"))
            })
        };
        let mut options = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "container" => options.container = Some(value.into_owned()).filter(|name| !name.is_empty()),
                "follow" => options.follow = boolean(&value),
                "timestamps" => options.timestamps = boolean(&value),
                "previous" => options.previous = boolean(&value),
                "tailLines" => options.tail = number(&value)?,
                "sinceSeconds" => options.since_seconds = number(&value)?,
                "limitBytes" => options.limit_bytes = number(&value)?,
                "sinceTime" => {
                    let time = value.parse().map_err(|_| {
                        Refusal::Parameter(format!("parsing time {value:?} as RFC 3339: cannot parse"))
                    })?;
                    options.since_time = Some(time);
                }
                _ => {}
            }
        }
        Ok(options)
    }

    fn validate(&self, container: &Container) -> Result<(), Refusal> {
        let invalid = |problem: String| Err(Refusal::Invalid { pod: container.pod.clone(), problem });
        if let Some(tail) = self.tail.filter(|tail| *tail < 0) {
            return invalid(format!("tailLines: Invalid value: {tail}: must be greater than or equal to 0"));
        }
        if let Some(limit) = self.limit_bytes.filter(|limit| *limit < 1) {
            return invalid(format!("limitBytes: Invalid value: {limit}: must be greater than 0"));
        }
        if let Some(since) = self.since_seconds.filter(|since| *since < 1) {
            return invalid(format!("sinceSeconds: Invalid value: {since}: must be greater than 0"));
        }
        if self.since_seconds.is_some() && self.since_time.is_some() {
            return invalid(
                "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified".to_owned(),
            );
        }
        if self.previous {
            return Err(Refusal::NoPrevious {
                container: container.name.clone(),
                pod: container.pod.clone(),
            });
        }
        Ok(())
    }

    /// The first tick to show, of `last` that have happened.
    fn first(&self, clock: Clock, last: u64) -> u64 {
        let oldest = (last + 1).saturating_sub(HISTORY);
        let by_count = match self.tail {
            Some(tail) => (last + 1).saturating_sub(u64::try_from(tail).unwrap_or_default()),
            None => oldest,
        };
        let since = self.since_time.or_else(|| {
            let span = SignedDuration::from_secs(self.since_seconds?);
            Some(Timestamp::now().saturating_sub(span).unwrap_or(Timestamp::MIN))
        });
        let by_time = since.map_or(oldest, |since| {
            let millis = since.duration_since(clock.started).as_millis().max(0);
            u64::try_from(millis.div_euclid(1000) + i128::from(millis % 1000 != 0)).unwrap_or(u64::MAX)
        });
        oldest.max(by_count).max(by_time)
    }
}

/// How apimachinery reads a boolean of a query: anything but `false` and `0` is true, also nothing at all.
pub(super) fn boolean(value: &str) -> bool {
    !matches!(value.to_ascii_lowercase().as_str(), "false" | "0")
}

struct Reader {
    clock: Clock,
    pod: String,
    container: String,
    timestamps: bool,
    /// The next tick to show.
    next: u64,
    /// The last one that is ready.
    ready: u64,
    follow: Option<CancellationToken>,
    /// How many bytes may still be sent.
    left: u64,
}

impl Reader {
    /// Everything up to now, and with `follow` each further line as it comes.
    async fn chunk(mut self) -> Option<(Bytes, Self)> {
        let mut text = String::new();
        while text.is_empty() {
            if self.left == 0 {
                return None;
            }
            while self.next <= self.ready {
                if self.timestamps {
                    text.push_str(&format!("{:.9} ", self.clock.at(self.next)));
                }
                text.push_str(&line(&self.pod, &self.container, self.next));
                text.push('\n');
                self.next += 1;
            }
            if text.is_empty() {
                let gone = self.follow.as_ref()?;
                tokio::select! {
                    () = gone.cancelled() => return None,
                    () = self.clock.until(self.next) => self.ready = self.clock.ticks().max(self.next),
                }
            }
        }
        let mut bytes = Bytes::from(text);
        bytes.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= bytes.len() as u64;
        Some((bytes, self))
    }
}

/// The answer: the container's lines, and with `follow` more of them until the client leaves or `gone` is cancelled.
pub(super) fn respond(
    options: &Options,
    container: &Container,
    clock: Clock,
    gone: CancellationToken,
) -> Result<Response<ResponseBody>, Refusal> {
    options.validate(container)?;
    let ready = clock.ticks();
    let reader = Reader {
        clock,
        pod: container.pod.clone(),
        container: container.name.clone(),
        timestamps: options.timestamps,
        next: options.first(clock, ready),
        ready,
        follow: options.follow.then_some(gone),
        left: options.limit_bytes.and_then(|limit| u64::try_from(limit).ok()).unwrap_or(u64::MAX),
    };
    let chunks = stream::unfold(reader, |reader| async move {
        let (bytes, reader) = reader.chunk().await?;
        Some((Ok::<_, BoxError>(Frame::data(bytes)), reader))
    });
    let mut response = Response::new(ResponseBody::new(StreamBody::new(chunks)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::json;

    use super::*;

    fn container() -> Container {
        Container::new(&json!({"metadata": {"name": "web-0"}}), &json!({"name": "app"}))
    }

    fn started(seconds_ago: i64) -> Clock {
        Clock { started: Timestamp::now() - SignedDuration::from_millis(seconds_ago * 1000 + 500) }
    }

    async fn log(query: &str, clock: Clock) -> String {
        let options = Options::parse(query).unwrap();
        let response = respond(&options, &container(), clock, CancellationToken::new()).unwrap();
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    fn refused(query: &str) -> String {
        Options::parse(query)
            .and_then(|options| respond(&options, &container(), started(5), CancellationToken::new()))
            .unwrap_err()
            .to_string()
    }

    #[tokio::test]
    async fn history_starts_with_the_container_and_is_bounded() {
        let all = log("", started(3)).await;
        assert_eq!(all.lines().count(), 4);
        assert!(all.starts_with("web-0/app: tick 0\n") && all.ends_with("web-0/app: tick 3\n"), "{all}");
        let old = log("", started(10_000)).await;
        assert_eq!(old.lines().count() as u64, HISTORY);
        assert!(old.ends_with("tick 10000\n"));
    }

    #[tokio::test]
    async fn tail_since_and_limit_shorten_it() {
        assert_eq!(log("tailLines=2", started(9)).await, "web-0/app: tick 8\nweb-0/app: tick 9\n");
        assert_eq!(log("tailLines=0", started(9)).await, "");
        assert_eq!(log("sinceSeconds=2", started(9)).await, "web-0/app: tick 8\nweb-0/app: tick 9\n");
        assert_eq!(log("limitBytes=12", started(9)).await, "web-0/app: t");
        let clock = started(9);
        let since = clock.at(9);
        assert_eq!(log(&format!("sinceTime={since}"), clock).await, "web-0/app: tick 9\n");
    }

    #[tokio::test]
    async fn timestamps_are_those_of_the_ticks() {
        let clock = Clock::since("2026-01-02T03:04:05Z");
        let options = Options::parse("timestamps=true&tailLines=1").unwrap();
        let first = respond(&options, &container(), clock, CancellationToken::new()).unwrap();
        let text = first.into_body().collect().await.unwrap().to_bytes();
        let text = std::str::from_utf8(&text).unwrap();
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.ends_with(".000000000Z"), "{text}");
        assert!(rest.starts_with("web-0/app: tick "), "{text}");
    }

    #[tokio::test]
    async fn follow_goes_on_until_the_pod_is_gone() {
        let gone = CancellationToken::new();
        let options = Options::parse("follow&tailLines=1").unwrap();
        let response = respond(&options, &container(), started(3), gone.clone()).unwrap();
        let mut body = response.into_body();
        let mut next = async || body.frame().await.map(|frame| frame.unwrap().into_data().unwrap());
        assert_eq!(next().await.unwrap(), "web-0/app: tick 3\n");
        assert_eq!(next().await.unwrap(), "web-0/app: tick 4\n");
        gone.cancel();
        assert_eq!(next().await, None);
    }

    #[test]
    fn refusals_name_the_parameter() {
        assert!(refused("tailLines=x").contains("parsing \"x\""));
        assert!(refused("tailLines=-1").contains("tailLines: Invalid value: -1"));
        assert!(refused("sinceSeconds=0").contains("sinceSeconds"));
        assert!(refused("limitBytes=0").contains("limitBytes"));
        assert!(refused("sinceTime=yesterday").contains("yesterday"));
        assert!(refused("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z").contains("at most one"));
        assert!(refused("previous=true").contains("previous terminated container \"app\""));
    }
}
