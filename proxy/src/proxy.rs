//! The proxy itself: sorts upgrades from plain requests, forwards, and answers for everything that fails.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, RETRY_AFTER},
};
use http_body::Body;
use tower_service::Service;

use crate::{
    BoxError, ErrorResponder, ProxyError, RequestBody, ResponseBody, SendError, Target, Timeouts, Tunnels,
    UpgradeProtocols, classify, headers, path, redirect, upgrade,
};

/// A reverse proxy for plain requests and upgrades.
///
/// It keeps no state per request and none per target: one value serves any number of both, and clones share
/// everything.
#[derive(Clone)]
pub struct Proxy {
    responder: Arc<dyn ErrorResponder>,
    shared: Arc<Shared>,
}

struct Shared {
    protocols: UpgradeProtocols,
    timeouts: Timeouts,
    tunnels: Tunnels,
}

impl Proxy {
    /// A proxy that answers its failures through `responder`, lets `protocols` through, and accounts for its tunnels
    /// in `tunnels`.
    pub fn new(
        responder: impl ErrorResponder,
        protocols: UpgradeProtocols,
        timeouts: Timeouts,
        tunnels: Tunnels,
    ) -> Self {
        Self { responder: Arc::new(responder), shared: Arc::new(Shared { protocols, timeouts, tunnels }) }
    }

    /// The same proxy, answering its failures through another responder: one that knows the request, for example.
    #[must_use]
    pub fn with_responder(&self, responder: impl ErrorResponder) -> Self {
        Self { responder: Arc::new(responder), shared: Arc::clone(&self.shared) }
    }

    /// Forwards `request` to `target` and answers with the target's response.
    ///
    /// The head arrives with its hop-by-hop headers stripped and `target.edits` applied; bodies stream. Dropping the
    /// future or the response's body cancels the exchange at once. For upgrades, `request` must come from hyper's
    /// HTTP/1.1 server, served with upgrades; the tunnel then outlives this call. `X-Forwarded-*` is the caller's
    /// business: the proxy does not invent any, and passes on what it finds.
    ///
    /// Every failure is the responder's answer, with the [`ProxyError`] in its extensions.
    pub async fn forward<B>(&self, request: Request<B>, target: Target) -> Response<ResponseBody>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let version = request.version();
        let upgrade = classify::allowed_upgrade(&request, &self.shared.protocols);
        // Nothing may follow on a connection on which an upgrade was tried and is no tunnel.
        let close = !matches!(upgrade, Ok(None)) && version <= Version::HTTP_11;
        let answer = match upgrade {
            Ok(Some(protocol)) => {
                let Shared { timeouts, tunnels, .. } = &*self.shared;
                // Boxed: upgrades are rare, and their future is several times the size of a plain request's.
                Box::pin(upgrade::forward(request, protocol, target, *timeouts, tunnels)).await
            }
            Ok(None) => self.forward_plain(request, target).await,
            Err(error) => Err(error),
        };
        let mut response = answer.unwrap_or_else(|error| self.respond(error));
        if close && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// A [`tower_service::Service`] that forwards everything to `target`.
    pub fn service(&self, target: Target) -> Forward {
        Forward { proxy: self.clone(), target }
    }

    async fn forward_plain<B>(
        &self,
        request: Request<B>,
        mut target: Target,
    ) -> Result<Response<ResponseBody>, ProxyError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
            return Err(ProxyError::MethodNotForwarded(request.method().clone()));
        }
        let asked = path::outgoing(&target, request.uri())?;
        let (mut head, body) = request.into_parts();
        headers::prepare_request(&mut head.headers, &target.authority, &target.edits, None)?;
        // The extensions stay here: they are the server's and the caller's, and some mean something to hyper's client.
        let edits = std::mem::take(&mut target.edits);
        let body =
            RequestBody::with_trailers(body, move |trailers| headers::strip_trailers(trailers, &edits));
        let mut outgoing = Request::new(body);
        *outgoing.method_mut() = head.method;
        *outgoing.uri_mut() = path::absolute(&target, asked.clone())?;
        *outgoing.headers_mut() = head.headers;

        let response = target.upstream.send(outgoing, self.shared.timeouts.response_head).await?;
        let (mut head, body) = response.into_parts();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(ProxyError::Broken("it switched protocols without being asked to".to_owned()));
        }
        redirect::apply(&target, &asked, &mut head)?;
        headers::prepare_response(&mut head.headers);
        // The version of the target's hop; on the client's the server knows better.
        head.version = Version::HTTP_11;
        Ok(Response::from_parts(head, body.into()))
    }

    /// The one place where a failure becomes an answer.
    fn respond(&self, error: ProxyError) -> Response<ResponseBody> {
        let mut response = self.responder.respond(&error);
        if let Some(wait) = error.retry_after()
            && !response.headers().contains_key(RETRY_AFTER)
        {
            response.headers_mut().insert(RETRY_AFTER, wait.as_secs().into());
        }
        response.extensions_mut().insert(error);
        response
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("protocols", &self.shared.protocols)
            .field("timeouts", &self.shared.timeouts)
            .finish_non_exhaustive()
    }
}

/// [`Proxy::forward`] to one target as a service.
#[derive(Clone, Debug)]
pub struct Forward {
    proxy: Proxy,
    target: Target,
}

impl<B> Service<Request<B>> for Forward
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Self { proxy, target } = self.clone();
        Box::pin(async move { Ok(proxy.forward(request, target).await) })
    }
}

impl From<SendError> for ProxyError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Dial(error) => Self::Dial(error),
            SendError::Exhausted { connections } => Self::Exhausted { connections },
            SendError::NotProcessed(why) => Self::NotProcessed(why),
            SendError::Broken(why) => Self::Broken(why),
            SendError::HeadTimeout(limit) => Self::ResponseHeadTimeout(limit),
            SendError::RequestBody(why) => Self::RequestBody(why),
        }
    }
}
