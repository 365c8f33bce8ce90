//! One request and the head of its response: acquire a stream, send, and send once more where that is safe.
//!
//! A request is never sent twice when the target may have processed it the first time. There is one exception, which
//! every HTTP client makes (RFC 9110 §9.2.2): a bodyless GET or HEAD on a kept-alive HTTP/1.1 connection that is
//! closed before any answer, since closing an idle connection and using it cross each other all the time.

use std::{
    error::Error,
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use http::{
    HeaderValue, Method, Request, Response, Uri, Version, header,
    request::Parts,
    uri::{Authority, PathAndQuery},
};
use hyper::{body::Incoming, client::conn::TrySendError};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    SendError,
    body::PooledBody,
    books::ANY,
    error_chain,
    lease::{Lease, Stream},
    lending::{Acquired, Pool},
    upload::{Outgoing, Upload},
};
use crate::RequestBody;

/// Why an attempt brought no response.
struct Failure {
    error: SendError,
    /// The head, where hyper never wrote it.
    unwritten: Option<Parts>,
    again: Again,
}

/// Whether a failed attempt may be followed by another one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    Never,
    /// The target surely did not process the request.
    Unprocessed,
    /// The target may have seen the request, but it is safe to repeat.
    Repeatable,
}

pub(super) async fn send(
    pool: &Arc<Pool>,
    request: Request<RequestBody>,
    head_timeout: Duration,
) -> Result<Response<PooledBody>, SendError> {
    let (mut head, body) = request.into_parts();
    if head.uri.authority().is_none() {
        return Err(SendError::NotProcessed(format!(
            "the request's URI {} is not absolute",
            head.uri.path()
        )));
    }
    // Nothing of the client's connection belongs on this one.
    head.extensions.clear();
    let upload = Upload::new(body);
    let uri = head.uri.clone();

    let mut lease = acquire(pool, ANY).await?;
    // Opened after this request was first tried: that is what a fresh connection is.
    let fresh = lease.floor;
    // hyper does not give a written head back. Keep one where a second attempt is possible.
    let repeatable = upload.is_none() && matches!(head.method, Method::GET | Method::HEAD);
    let spare =
        if lease.is_http2() || (repeatable && lease.is_reused_http1()) { Some(head.clone()) } else { None };

    let mut failure = match attempt(&mut lease, head, upload.as_ref(), repeatable, head_timeout).await {
        Ok(response) => return Ok(pooled(response, lease, upload)),
        Err(failure) => failure,
    };
    drop(lease);

    let untouched = upload.as_ref().is_none_or(|upload| upload.is_untouched());
    let Some(mut head) = failure.unwritten.take().or(spare) else { return Err(failure.error) };
    if failure.again == Again::Never || !untouched {
        return Err(failure.error);
    }
    head.uri = uri;
    // Boxed, so that the future of every other request does not carry this one's size.
    Box::pin(send_again(pool, head, upload, fresh, failure, head_timeout)).await
}

/// The second and last attempt, on a connection with at least the number `fresh`.
async fn send_again(
    pool: &Arc<Pool>,
    head: Parts,
    upload: Option<Arc<Upload>>,
    fresh: u64,
    first: Failure,
    head_timeout: Duration,
) -> Result<Response<PooledBody>, SendError> {
    tracing::debug!(error = %first.error, "sending the request once more, on a fresh connection");
    // Whatever goes wrong now, the first attempt still decides what may be said about the request.
    let verdict = |second: SendError| match (first.again, &second) {
        (Again::Unprocessed, SendError::Dial(_) | SendError::Exhausted { .. }) => {
            SendError::NotProcessed(format!("{}; no fresh connection: {second}", first.error))
        }
        (
            Again::Repeatable,
            SendError::Dial(_) | SendError::Exhausted { .. } | SendError::NotProcessed(_),
        ) => SendError::Broken(format!("{}; once more: {second}", first.error)),
        _ => second,
    };
    let mut lease = acquire(pool, fresh).await.map_err(verdict)?;
    match attempt(&mut lease, head, upload.as_ref(), false, head_timeout).await {
        Ok(response) => Ok(pooled(response, lease, upload)),
        Err(second) => Err(verdict(second.error)),
    }
}

fn pooled(response: Response<Incoming>, lease: Lease, upload: Option<Arc<Upload>>) -> Response<PooledBody> {
    response.map(|body| PooledBody::new(body, lease, upload))
}

/// A stream, at once or after waiting for it. A wait for a connection that is being opened has no limit of its own,
/// the dialer has; a wait because no more connections may be opened ends after `busy_wait`.
async fn acquire(pool: &Arc<Pool>, floor: u64) -> Result<Lease, SendError> {
    let mut place = match pool.acquire(floor) {
        Acquired::Lease(lease) => return Ok(lease),
        Acquired::Queued(place) => place,
    };
    loop {
        tokio::select! {
            biased;
            granted = &mut place.granted => {
                // The sending half lives in the books, and every way out of them answers.
                let gone = || SendError::NotProcessed("the connection pool is gone".to_owned());
                return granted.map_err(|_| gone())?.map_err(SendError::Dial);
            }
            () = sleep(pool.config.busy_wait) => {
                if let Some(connections) = place.is_hopeless() {
                    return Err(SendError::Exhausted { connections });
                }
            }
        }
    }
}

async fn attempt(
    lease: &mut Lease,
    mut head: Parts,
    upload: Option<&Arc<Upload>>,
    repeatable: bool,
    head_timeout: Duration,
) -> Result<Response<Incoming>, Failure> {
    let reused = lease.is_reused_http1();
    let sent = match lease.stream() {
        Some(Stream::Http2 { sender, .. }) => {
            head.version = Version::HTTP_2;
            // `:authority` comes from the URI.
            head.headers.remove(header::HOST);
            let request = Request::from_parts(head, Upload::outgoing(upload));
            head_within(head_timeout, upload, pin!(sender.try_send_request(request))).await
        }
        Some(Stream::Http1(connection)) => {
            to_origin_form(&mut head);
            if upload.is_some() {
                frame_body_of_get(&mut head).map_err(Failure::of)?;
            }
            let request = Request::from_parts(head, Upload::outgoing(upload));
            head_within(head_timeout, upload, pin!(connection.sender.try_send_request(request))).await
        }
        // A lease in use always has its stream.
        None => return Err(Failure::of(SendError::NotProcessed("the stream is gone".to_owned()))),
    };
    match sent {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(judge(error, upload, repeatable && reused)),
        Err(elapsed) => Err(Failure::of(elapsed)),
    }
}

/// `GET /path?query`, with the authority in `Host`. Path and query stay what they are, byte for byte.
fn to_origin_form(head: &mut Parts) {
    head.version = Version::HTTP_11;
    let host = head.uri.authority().map(Authority::as_str).map(|authority| {
        // User information is for `Authorization`, never for `Host`.
        authority.rsplit_once('@').map_or(authority, |(_, host)| host)
    });
    if let Some(Ok(host)) = host.map(HeaderValue::from_str) {
        head.headers.insert(header::HOST, host);
    }
    let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    head.uri = Uri::from(path);
}

/// Spells out that a GET has a body of unknown length; hyper leaves the body away otherwise.
fn frame_body_of_get(head: &mut Parts) -> Result<(), SendError> {
    let unframed = matches!(head.method, Method::GET | Method::HEAD)
        && !head.headers.contains_key(header::CONTENT_LENGTH);
    if unframed {
        let chunked = HeaderValue::from_static("chunked");
        head.headers
            .try_insert(header::TRANSFER_ENCODING, chunked)
            .map_err(|error| SendError::NotProcessed(error.to_string()))?;
    }
    Ok(())
}

/// Waits for the response head, for `limit` from now on, or from the moment at which the upload last moved.
///
/// A large body may take as long as it likes while it moves: each frame that leaves it, and its end, starts the time
/// anew. A body that stands still, because the client does not send or the target does not read, does not.
async fn head_within<T>(
    limit: Duration,
    upload: Option<&Arc<Upload>>,
    mut response: Pin<&mut impl Future<Output = T>>,
) -> Result<T, SendError> {
    let mut from = Instant::now();
    loop {
        let Some(deadline) = from.checked_add(limit) else { return Ok(response.await) };
        if let Ok(done) = timeout_at(deadline, &mut response).await {
            return Ok(done);
        }
        match upload.map(|upload| upload.moved_at()) {
            Some(moved_at) if moved_at > from => from = moved_at,
            _ => return Err(SendError::HeadTimeout(limit)),
        }
    }
}

/// What a failed attempt means.
fn judge(
    mut error: TrySendError<Request<Outgoing>>,
    upload: Option<&Arc<Upload>>,
    repeatable: bool,
) -> Failure {
    if let Some(request) = error.take_message() {
        let reason = format!("never written: {}", error_chain(error.error()));
        let unwritten = Some(request.into_parts().0);
        return Failure { error: SendError::NotProcessed(reason), unwritten, again: Again::Unprocessed };
    }
    if let Some(reason) = upload.and_then(|upload| upload.error()) {
        return Failure::of(SendError::RequestBody(reason));
    }
    let error = error.into_error();
    let reason = error_chain(&error);
    if let Some(http2) = find_source::<h2::Error>(&error) {
        let no_error = http2.reason() == Some(h2::Reason::NO_ERROR);
        // h2 fails a stream with the peer's GOAWAY only if its number is above the last one the peer will process.
        let above_last = http2.is_remote() && http2.is_go_away();
        let refused =
            http2.is_remote() && http2.is_reset() && http2.reason() == Some(h2::Reason::REFUSED_STREAM);
        if refused || above_last {
            let again = if refused || no_error { Again::Unprocessed } else { Again::Never };
            return Failure { error: SendError::NotProcessed(reason), unwritten: None, again };
        }
    }
    let closed = error.is_incomplete_message() || find_source::<std::io::Error>(&error).is_some();
    let again = if repeatable && closed { Again::Repeatable } else { Again::Never };
    Failure { error: SendError::Broken(reason), unwritten: None, again }
}

impl Failure {
    /// A failure that is final.
    fn of(error: SendError) -> Self {
        Self { error, unwritten: None, again: Again::Never }
    }
}

fn find_source<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
