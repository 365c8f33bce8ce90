//! The way of a request, in order: route → authenticate → authorise → look up → identify → forward → record.
//!
//! Nothing here may answer for a member, and nothing may be forwarded that has not gone through every step.

pub mod authenticate;
mod refusal;
mod route;

use std::sync::Arc;

use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use upgrade_aware_proxy::{ResponseBody, TunnelGuard, requested_upgrade};

use self::{
    authenticate::Authenticator,
    refusal::Refusal,
    route::{MemberRoute, Route},
};
use crate::{
    access::{Access, Attributes},
    api::{
        Hop, Reason, Status, health,
        status::{GROUP, HOP_HEADER},
    },
    clusters::{Lookup, Registry},
    connection::Connection,
    forward::{Destination, Forwarder},
    identity::Caller,
    server::{Handler, LongRunning, Shutdown},
    telemetry::access::Record,
};

/// Everything a request needs on its way.
#[derive(Debug)]
pub struct Gateway {
    /// Who is calling.
    pub authenticator: Authenticator,
    /// What callers may do.
    pub access: Arc<Access>,
    /// Which members there are.
    pub registry: Arc<Registry>,
    /// The way to them.
    pub forwarder: Forwarder,
    /// `/readyz` fails from the moment this drains.
    pub shutdown: Shutdown,
}

impl Handler for Gateway {
    async fn handle(
        &self,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> Response<ResponseBody> {
        let record = Record::begin(&request, &connection);
        let upgrade = request.headers().contains_key(header::UPGRADE);
        let answer = self.answer(request, &connection, &record).await;
        let response = answer.unwrap_or_else(|Refused { refusal, connection }| {
            tracing::debug!(%refusal, "refused");
            let mut response = refusal.status().into_response();
            // A client that hoped for a tunnel may have sent what belongs into it already: nobody reads on.
            if let Some(connection) =
                connection.or_else(|| upgrade.then(|| HeaderValue::from_static("close")))
            {
                response.headers_mut().insert(header::CONNECTION, connection);
            }
            response
        });
        record.answer(response)
    }

    fn panicked(&self) -> Response<ResponseBody> {
        let message = "an internal error; the gateway's log has the details";
        Status::new(StatusCode::INTERNAL_SERVER_ERROR, Reason::InternalError, Hop::Gateway, message)
            .into_response()
    }
}

impl Gateway {
    async fn answer(
        &self,
        mut request: Request<Incoming>,
        connection: &Connection,
        record: &Record,
    ) -> Result<Response<ResponseBody>, Refused> {
        // Cheap: the bytes are shared.
        let uri = request.uri().clone();
        let route = Route::of(&uri);
        if let Route::Health(endpoint) = route {
            return Ok(self.health(endpoint, uri.query()));
        }
        let caller = self.authenticator.authenticate(request.headers(), connection).map_err(|why| {
            tracing::debug!(%why, peer = %connection.peer(), "unauthenticated");
            connection.close_when_answered();
            Refusal::Unauthenticated
        })?;
        record.caller(&caller);
        let Route::Member(route) = route else {
            return Err(Refusal::NoSuchPath { path: uri.path().to_owned() }.into());
        };
        record.cluster(route.cluster);
        self.authorise(&request, &route, &caller)?;
        refuse_impersonation(&request, &caller)?;

        let cluster = match self.registry.get(route.cluster) {
            Lookup::Ready(cluster) => cluster,
            Lookup::Unusable(entry) => {
                let cluster = route.cluster.to_owned();
                return Err(Refusal::Unusable { cluster, reason: entry.reason.clone() }.into());
            }
            Lookup::Unknown => return Err(Refusal::NoSuchCluster(route.cluster.to_owned()).into()),
        };
        let destination = Destination {
            cluster: &cluster,
            path_and_query: route.path_and_query().map_err(Refusal::Tail)?,
            prefix: route.prefix,
        };
        if request.headers().contains_key(header::UPGRADE) {
            // The access line of a tunnel is written when the tunnel ends.
            request.extensions_mut().insert(TunnelGuard::new(record.clone()));
        }
        let forwarded =
            self.forwarder.forward(request, destination, &caller, connection.peer_address().clone()).await;
        let mut response = forwarded.map_err(|failed| Refused {
            refusal: Refusal::Forward { cluster: route.cluster.to_owned(), error: failed.error },
            connection: failed.connection,
        })?;
        // Only Clusterway says which hop failed.
        response.headers_mut().remove(HOP_HEADER);
        if is_long_running(&uri) {
            response.extensions_mut().insert(LongRunning);
        }
        Ok(response)
    }

    fn health(&self, endpoint: &str, query: Option<&str>) -> Response<ResponseBody> {
        let ping = health::Check { name: "ping", ok: true };
        let shutdown = health::Check { name: "shutdown", ok: !self.shutdown.is_draining() };
        match endpoint {
            "readyz" => health::respond(endpoint, query, &[ping, shutdown]),
            _ => health::respond(endpoint, query, &[ping]),
        }
    }

    /// One review for the method's verb, and one more for streams into containers.
    fn authorise<B>(
        &self,
        request: &Request<B>,
        route: &MemberRoute<'_>,
        caller: &Caller,
    ) -> Result<(), Refusal> {
        let verb = route::verb(request.method())
            .ok_or_else(|| Refusal::MethodNotAllowed(request.method().clone()))?;
        // Any hint of an upgrade counts here: what the proxy then does not take for one costs only the second review.
        let upgrade = request.headers().contains_key(header::UPGRADE)
            || !matches!(requested_upgrade(request), Ok(None));
        self.review(verb, route, caller, "")?;
        if upgrade && verb != "create" && route.is_container_stream() {
            self.review("create", route, caller, ": a stream into a container needs it whatever the method")?;
        }
        Ok(())
    }

    fn review(
        &self,
        verb: &'static str,
        route: &MemberRoute<'_>,
        caller: &Caller,
        why: &'static str,
    ) -> Result<(), Refusal> {
        let attributes = Attributes::Resource {
            verb,
            group: GROUP,
            resource: "clustergateways",
            subresource: "proxy",
            name: route.cluster,
        };
        if self.access.decide(caller, &attributes).is_allowed() {
            return Ok(());
        }
        Err(Refusal::Forbidden { user: caller.name.clone(), verb, cluster: route.cluster.to_owned(), why })
    }
}

/// A refusal and what it means for the caller's connection.
struct Refused {
    refusal: Refusal,
    connection: Option<HeaderValue>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, connection: None }
    }
}

/// `kubectl --as` asks to be somebody else, often somebody with fewer rights. Doing it as oneself instead is not what
/// was asked for, so it is refused until it can be checked.
fn refuse_impersonation<B>(request: &Request<B>, caller: &Caller) -> Result<(), Refusal> {
    let asked = request.headers().keys().find(|name| {
        let name = name.as_str().as_bytes();
        name.len() >= 12 && name[..11].eq_ignore_ascii_case(b"impersonate") && matches!(name[11], b'-' | b'_')
    });
    match asked {
        None => Ok(()),
        Some(header) => {
            Err(Refusal::Impersonation { user: caller.name.clone(), header: header.as_str().to_owned() })
        }
    }
}

/// Whether a reader may pause as long as it likes: a watch or a followed log. A wrong guess only moves the limit on
/// readers that stand still, so the query is read generously.
fn is_long_running(uri: &Uri) -> bool {
    uri.query().is_some_and(|query| {
        query.split('&').any(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, "true"));
            matches!(key, "watch" | "follow") && !matches!(value, "false" | "0")
        })
    })
}
