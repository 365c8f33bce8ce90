//! The upgrade path: one HTTP/1.1 connection per upgrade, and a tunnel only behind a 101 that was asked for.
//!
//! Whatever else the target answers, neither connection is used again: a client that keeps talking on a connection
//! whose upgrade was refused would talk to the target with this proxy's credentials (CVE-2018-1002105).

use std::{
    any::Any,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE},
};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, client::conn::http1, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{
    io::AsyncWriteExt as _,
    time::{Instant, Sleep, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle, task::TaskTracker};

use crate::{
    BoxError, BoxIo, ProxyError, RequestBody, ResponseBody, Target, Timeouts, headers, path, tunnel,
};

/// Longest response head that a target may answer to an upgrade, and most bytes buffered for it.
const MAX_HEAD_BYTES: usize = 256 * 1024;

/// Most response header lines.
const MAX_HEADERS: usize = 1024;

/// How long the two ends of a cancelled tunnel have to take the news.
const FAREWELL: Duration = Duration::from_secs(1);

/// The tunnels of a [`Proxy`](crate::Proxy), for a server that shuts down.
///
/// hyper's own graceful shutdown knows nothing of upgraded connections. To drain: stop accepting, close the tracker
/// and wait for it as long as you like, then cancel the token and wait for the tracker once more.
#[derive(Clone, Debug, Default)]
pub struct Tunnels {
    /// Counts the tunnels; [`TaskTracker::len`] is how many there are.
    pub tracker: TaskTracker,
    /// Ends them all, and keeps new ones from starting.
    pub shutdown: CancellationToken,
}

/// Put into the extensions of an upgrade request, it is dropped when the tunnel has ended (or none came to be):
/// for gauges, audit records and everything else that must not close when the 101 is sent.
#[derive(Clone)]
pub struct TunnelGuard(#[expect(dead_code, reason = "held for its drop")] Arc<dyn Any + Send + Sync>);

impl TunnelGuard {
    /// Keeps `held` for as long as the tunnel lives.
    pub fn new(held: impl Any + Send + Sync) -> Self {
        Self(Arc::new(held))
    }
}

impl fmt::Debug for TunnelGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TunnelGuard")
    }
}

/// Forwards an upgrade request that asks for `protocol`.
///
/// # Errors
/// [`ProxyError`]; the client's connection must be closed then.
pub(crate) async fn forward<B>(
    mut request: Request<B>,
    protocol: HeaderValue,
    target: Target,
    timeouts: Timeouts,
    tunnels: &Tunnels,
) -> Result<Response<ResponseBody>, ProxyError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    // A target must not act on a request whose answer cannot reach the client.
    if request.extensions().get::<OnUpgrade>().is_none() {
        return Err(ProxyError::NotUpgradable);
    }
    if tunnels.shutdown.is_cancelled() {
        return Err(ProxyError::ShuttingDown);
    }
    let client = hyper::upgrade::on(&mut request);
    let guard = request.extensions_mut().remove::<TunnelGuard>();
    let outgoing = assemble(request, &protocol, &target)?;

    let io = target.upstream.dial_upgrade().await?;
    let (mut response, connection) = ask(io, outgoing, timeouts.upgrade_head).await?;
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        accept(&mut response, &protocol)?;
        let target = hyper::upgrade::on(&mut response);
        let tunnel =
            Tunnel { client, target, connection, guard, shutdown: tunnels.shutdown.clone(), timeouts };
        tunnels.tracker.spawn(tunnel.run());
        return Ok(response.map(|_| ResponseBody::empty()));
    }
    if !status.is_client_error() && !status.is_server_error() {
        return Err(ProxyError::InvalidUpgradeStatus { status });
    }
    headers::prepare_response(response.headers_mut());
    let deadline = Box::pin(sleep(timeouts.upgrade_head));
    Ok(response.map(|body| ResponseBody::new(Refusal { body, deadline, _connection: connection })))
}

/// The request as it is written to the target, in origin form.
fn assemble<B>(
    request: Request<B>,
    protocol: &HeaderValue,
    target: &Target,
) -> Result<Request<RequestBody>, ProxyError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let path = path::outgoing(target, request.uri())?;
    let (mut head, body) = request.into_parts();
    headers::prepare_request(&mut head.headers, &target.authority, &target.edits, Some(protocol.clone()))?;
    let edits = target.edits.clone();
    let body = RequestBody::with_trailers(body, move |trailers| headers::strip_trailers(trailers, &edits));
    if head.method == Method::GET && !body.is_end_stream() && !head.headers.contains_key(CONTENT_LENGTH) {
        // hyper leaves away the body of a GET unless its framing is spelled out.
        let chunked = HeaderValue::from_static("chunked");
        head.headers
            .try_insert(TRANSFER_ENCODING, chunked)
            .map_err(|error| ProxyError::Assembly(error.to_string()))?;
    }
    let mut outgoing = Request::new(body);
    *outgoing.method_mut() = head.method;
    *outgoing.uri_mut() = Uri::from(path);
    *outgoing.version_mut() = Version::HTTP_11;
    *outgoing.headers_mut() = head.headers;
    Ok(outgoing)
}

/// Sends `request` over `io` and waits for a final answer; hyper skips interim ones.
async fn ask(
    io: BoxIo,
    request: Request<RequestBody>,
    limit: Duration,
) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), ProxyError> {
    let exchange = async {
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            .max_header_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .handshake(TokioIo::new(io))
            .await?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "upgrade connection failed");
            }
        }));
        Ok((sender.send_request(request).await?, connection))
    };
    timeout(limit, exchange).await.map_err(|_| ProxyError::ResponseHeadTimeout(limit))?.map_err(
        |error: hyper::Error| {
            let message = describe(&error);
            if error.is_user() { ProxyError::RequestBody(message) } else { ProxyError::Broken(message) }
        },
    )
}

/// Checks that a 101 switches to what was asked for, and makes its head the client's.
fn accept(response: &mut Response<Incoming>, asked: &HeaderValue) -> Result<(), ProxyError> {
    let mut lines = response.headers().get_all(UPGRADE).iter();
    let got = match (lines.next(), lines.next()) {
        (Some(got), None) if got.as_bytes().eq_ignore_ascii_case(asked.as_bytes()) => got.clone(),
        (got, _) => {
            let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            return Err(ProxyError::WrongUpgradeProtocol { asked: text(asked), got: got.map(text) });
        }
    };
    let headers = response.headers_mut();
    headers::strip_hop_by_hop(headers);
    headers.remove(CONTENT_LENGTH);
    for (name, value) in [(CONNECTION, HeaderValue::from_static("Upgrade")), (UPGRADE, got)] {
        headers.try_insert(name, value).map_err(|error| ProxyError::Broken(error.to_string()))?;
    }
    *response.version_mut() = Version::HTTP_11;
    Ok(())
}

/// A hyper error with its causes, since its own text names only the operation.
pub(crate) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.ends_with(&text) {
            message = format!("{message}: {text}");
        }
        cause = error.source();
    }
    message
}

/// An accepted upgrade, from the 101 on.
struct Tunnel {
    client: OnUpgrade,
    target: OnUpgrade,
    /// Drives the target's connection until it is handed over.
    connection: AbortOnDropHandle<()>,
    guard: Option<TunnelGuard>,
    shutdown: CancellationToken,
    timeouts: Timeouts,
}

impl Tunnel {
    async fn run(self) {
        let Self { client, target, connection, guard, shutdown, timeouts } = self;
        let _guard = guard;
        // The client's half is there once the 101 is written, which a client that does not read can hold up.
        let limit = Instant::now() + timeouts.upgrade_head;
        let both = timeout_at(limit, async { tokio::try_join!(client, target) });
        let (client, target) = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            both = both => match both {
                Ok(Ok(both)) => both,
                Ok(Err(error)) => return tracing::debug!(%error, "a side was gone before the tunnel began"),
                Err(_) => return tracing::debug!("the client did not take its 101"),
            },
        };
        // Its task has ended; the handle would keep the memory.
        drop(connection);
        let (mut client, mut target) = (TokioIo::new(client), TokioIo::new(target));
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {
                let farewell = async { tokio::join!(client.shutdown(), target.shutdown()) };
                let _best_effort = timeout(FAREWELL, farewell).await;
                tracing::debug!("tunnel ended by shutdown");
            }
            moved = tunnel::run(&mut client, &mut target, timeouts.half_close_grace) => {
                tracing::debug!(to_target = moved.to_target, to_client = moved.to_client, "tunnel ended");
            }
        }
    }
}

/// The body of a refused upgrade. Its connection closes with it, and it must end in time: a target that never finishes
/// saying no would hold two connections for ever.
struct Refusal {
    body: Incoming,
    deadline: Pin<Box<Sleep>>,
    _connection: AbortOnDropHandle<()>,
}

impl Body for Refusal {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        self.deadline.as_mut().poll(cx).map(|()| Some(Err("the refused upgrade's body took too long".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
