//! Watches: what is there, then what happens to it, one JSON object a line.

use std::{collections::VecDeque, convert::Infallible, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::Either, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use upgrade_aware_proxy::ResponseBody;

use super::{
    failure::Failure,
    resources::Resource,
    selectors::Selector,
    store::{Change, Store},
};

/// How often a watch that asked for it is told how far it is.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(30);
/// How long a watch lasts that does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// What a watch is about.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) resource: &'static Resource,
    pub(crate) namespace: Option<String>,
    pub(crate) selector: Selector,
    /// From where on; `None` and zero begin with everything there is.
    pub(crate) version: Option<u64>,
    pub(crate) bookmarks: bool,
    /// `sendInitialEvents=true`: everything there is, then a bookmark that says so.
    pub(crate) initial_events: bool,
    pub(crate) timeout: Option<Duration>,
}

struct Watch<R> {
    store: Arc<Store>,
    options: Options,
    render: R,
    version: u64,
    ready: VecDeque<Value>,
    deadline: Instant,
    next_bookmark: Instant,
    ended: bool,
}

/// The body of a watch. `render` gives an object the form that the client asked for.
///
/// # Errors
/// 410 when the history does not go back to the version.
pub(crate) fn body<R>(store: &Arc<Store>, options: Options, render: R) -> Result<ResponseBody, Failure>
where
    R: FnMut(&Value) -> Value + Send + 'static,
{
    let now = Instant::now();
    let mut watch = Watch {
        store: Arc::clone(store),
        version: 0,
        ready: VecDeque::new(),
        deadline: now + options.timeout.unwrap_or(DEFAULT_TIMEOUT),
        next_bookmark: now + BOOKMARK_INTERVAL,
        ended: false,
        options,
        render,
    };
    watch.begin()?;
    let lines = stream::unfold(watch, |mut watch| async move {
        let event = watch.next().await?;
        let mut line = event.to_string();
        line.push('\n');
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(line))), watch))
    });
    Ok(ResponseBody::new(StreamBody::new(lines.boxed())))
}

impl<R: FnMut(&Value) -> Value> Watch<R> {
    fn begin(&mut self) -> Result<(), Failure> {
        let from = self.options.version.filter(|version| *version != 0);
        if let Some(version) = from.filter(|_| !self.options.initial_events) {
            self.version = version;
            return self.catch_up();
        }
        let (objects, version) = self.store.list(self.options.resource, self.options.namespace.as_deref());
        self.version = version;
        for object in &objects {
            if !self.options.selector.matches(object) {
                continue;
            }
            let event = self.event("ADDED", object);
            self.ready.push_back(event);
        }
        if self.options.initial_events {
            let bookmark = self.bookmark(true);
            self.ready.push_back(bookmark);
        }
        Ok(())
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        let mut changed = self.store.subscribe();
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ended || Instant::now() >= self.deadline {
                return None;
            }
            if self.options.bookmarks && Instant::now() >= self.next_bookmark {
                self.next_bookmark = Instant::now() + BOOKMARK_INTERVAL;
                return Some(self.bookmark(false));
            }
            changed.mark_unchanged();
            if let Err(expired) = self.catch_up() {
                self.ended = true;
                return Some(json!({"type": "ERROR", "object": expired.status()}));
            }
            if !self.ready.is_empty() {
                continue;
            }
            let wake =
                if self.options.bookmarks { self.deadline.min(self.next_bookmark) } else { self.deadline };
            let moved = pin!(changed.changed());
            let slept = pin!(sleep_until(wake));
            if let Either::Left((Err(_), _)) = futures_util::future::select(moved, slept).await {
                return None;
            }
        }
    }

    fn catch_up(&mut self) -> Result<(), Failure> {
        let (changes, version) = self.store.since(self.options.resource, self.version)?;
        for change in &changes {
            if let Some(event) = self.translate(change) {
                self.ready.push_back(event);
            }
        }
        self.version = self.version.max(version);
        Ok(())
    }

    /// A change as this watch sees it: an object that comes to be selected is added, one that ceases to be is deleted.
    fn translate(&mut self, change: &Change) -> Option<Value> {
        let selected = |object: &Arc<Value>| {
            let namespace = object["metadata"]["namespace"].as_str();
            let here = self.options.namespace.as_deref().is_none_or(|wanted| namespace == Some(wanted));
            here && self.options.selector.matches(object)
        };
        let before = change.before.as_ref().filter(|object| selected(object));
        let after = change.after.as_ref().filter(|object| selected(object));
        match (before, after) {
            (None, Some(object)) => Some(self.event("ADDED", object)),
            (Some(_), Some(object)) => Some(self.event("MODIFIED", object)),
            (Some(object), None) => {
                let mut last = Value::clone(object);
                last["metadata"]["resourceVersion"] = json!(change.version.to_string());
                Some(self.event("DELETED", &last))
            }
            (None, None) => None,
        }
    }

    fn event(&mut self, kind: &str, object: &Value) -> Value {
        json!({"type": kind, "object": (self.render)(object)})
    }

    fn bookmark(&self, initial: bool) -> Value {
        let resource = self.options.resource;
        let mut metadata = json!({"resourceVersion": self.version.to_string(), "creationTimestamp": null});
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object =
            json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata});
        json!({"type": "BOOKMARK", "object": object})
    }
}
