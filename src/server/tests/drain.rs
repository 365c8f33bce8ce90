//! How the server goes down.

use std::{sync::Arc, time::Duration};

use ::http::{Request, Response};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::{
    net::TcpStream,
    sync::{Mutex, Semaphore, mpsc},
};
use upgrade_aware_proxy::ResponseBody;

use super::support::{PATIENCE, Running, get, soon, stream, text};
use crate::server::{Connection, Limits};

/// `/short` is answered when `let_go` says so; `/watch` goes on for as long as the test feeds it.
struct Work {
    started: mpsc::UnboundedSender<()>,
    let_go: Arc<Semaphore>,
    watch: Mutex<Option<ResponseBody>>,
}

impl crate::server::Handler for Work {
    async fn handle(&self, request: Request<Incoming>, _: Arc<Connection>) -> Response<ResponseBody> {
        self.started.send(()).unwrap();
        if request.uri().path() == "/watch" {
            return Response::new(self.watch.lock().await.take().unwrap());
        }
        self.let_go.acquire().await.unwrap().forget();
        Response::new(ResponseBody::full("done"))
    }
}

struct Busy {
    server: Running,
    started: mpsc::UnboundedReceiver<()>,
    let_go: Arc<Semaphore>,
    events: mpsc::Sender<Bytes>,
}

async fn start(drain: Duration) -> Busy {
    let (begun, started) = mpsc::unbounded_channel();
    let let_go = Arc::new(Semaphore::new(0));
    let (events, body) = stream();
    let work = Work { started: begun, let_go: Arc::clone(&let_go), watch: Mutex::new(Some(body)) };
    let server = Running::start(Limits { drain, ..Limits::default() }, work).await;
    Busy { server, started, let_go, events }
}

#[tokio::test]
async fn requests_in_flight_are_answered_and_nothing_new_is_taken_on() {
    let mut busy = start(PATIENCE).await;
    let mut http1 = busy.server.http1().await;
    let mut http2 = busy.server.http2().await;
    let idle = busy.server.http1().await;
    let (one, two) = (http1.sender.send_request(get("/short")), http2.sender.send_request(get("/short")));
    let answers = tokio::spawn(async move { (one.await.unwrap(), two.await.unwrap()) });
    busy.started.recv().await.unwrap();
    busy.started.recv().await.unwrap();

    busy.server.shutdown.drain();
    let _ = soon("the end of an idle connection", idle.connection).await;
    assert!(TcpStream::connect(busy.server.address).await.is_err(), "the listener is still open");
    assert!(!busy.server.ended.is_finished());

    busy.let_go.add_permits(2);
    let (one, two) = soon("the answers", answers).await.unwrap();
    assert_eq!(text(one).await, "done");
    assert_eq!(text(two).await, "done");
    soon("the server's end", busy.server.ended).await.unwrap();
    drop((http1, http2));
}

#[tokio::test]
async fn long_streams_have_the_drain_period_and_are_then_cut() {
    let mut busy = start(Duration::from_millis(300)).await;
    let mut http2 = busy.server.http2().await;
    let mut watch = http2.sender.send_request(get("/watch")).await.unwrap();
    busy.started.recv().await.unwrap();

    busy.server.shutdown.drain();
    busy.events.send("event".into()).await.unwrap();
    let event = soon("an event while draining", watch.frame()).await.unwrap().unwrap();
    assert_eq!(event.into_data().unwrap(), "event");

    let end = soon("the end of the watch", watch.frame()).await;
    assert!(end.is_some_and(|frame| frame.is_err()), "a cut watch must not look complete");
    soon("the server's end", busy.server.ended).await.unwrap();
    assert!(busy.server.shutdown.cut_token().is_cancelled());
}

#[tokio::test]
async fn cutting_ends_everything_at_once() {
    let mut busy = start(PATIENCE * 10).await;
    let mut http1 = busy.server.http1().await;
    let _watch = http1.sender.send_request(get("/watch")).await.unwrap();
    busy.started.recv().await.unwrap();
    busy.server.shutdown.drain();
    busy.server.shutdown.cut();
    soon("the server's end", busy.server.ended).await.unwrap();
    soon("the stream's end", busy.events.closed()).await;
}
