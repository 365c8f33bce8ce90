//! The member as a server: TLS, callers, and the way to the right handler.

use std::{
    collections::VecDeque,
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use clusterway_certs::{Authority, CertError, ClientAuthority, Issued, danger::UnverifiedClientCertificates};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use upgrade_aware_proxy::ResponseBody;

use super::{
    controllers, discovery,
    failure::Failure,
    lifecycle, negotiate, openapi, protobuf,
    request::{Path, Query, ResourcePath, User},
    resources,
    rest::{self, Call, json_response},
    seed,
    store::{Outcome, Store},
    streams::{Kind, Streams},
};
use crate::{
    connection::Connection,
    server::{self, Handler, Limits, LongRunning, Shutdown},
};

/// As many streams per connection as a real API server allows.
const HTTP2_STREAMS: u32 = 100;
/// How many requests are remembered.
const RECORDED: usize = 10_000;

/// How a member is to be.
#[derive(Clone, Debug)]
pub struct MemberConfig {
    /// The cluster's name; nodes are named after it.
    pub name: String,
    /// The address to listen on.
    pub listen: SocketAddr,
}

impl MemberConfig {
    /// A member on a free port of loopback.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), listen: SocketAddr::from(([127, 0, 0, 1], 0)) }
    }
}

/// Why a member cannot start.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// Its certificates cannot be made.
    #[error("cannot make the member's certificates: {0}")]
    Certificates(#[from] CertError),
    /// Its address cannot be had.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
}

/// A running member. It ends when this is dropped.
pub struct Member {
    address: SocketAddr,
    authority: Authority,
    gateway: Issued,
    api: Arc<Api>,
    shutdown: Shutdown,
    server: JoinHandle<()>,
    controllers: JoinHandle<()>,
}

/// One request that reached a member.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The method.
    pub method: Method,
    /// Path and query as they came.
    pub target: String,
    /// The headers as they came.
    pub headers: HeaderMap,
    /// As whom, after impersonation; `None` if that was refused.
    pub user: Option<User>,
    /// The client's address: one per connection.
    pub peer: SocketAddr,
}

struct Api {
    store: Arc<Store>,
    streams: Arc<Streams>,
    clients: ClientAuthority,
    recorded: Mutex<VecDeque<Recorded>>,
}

impl Member {
    /// Starts one.
    ///
    /// # Errors
    /// [`MemberError`].
    pub async fn start(config: MemberConfig) -> Result<Self, MemberError> {
        let authority = Authority::new(&config.name)?;
        let clients =
            ClientAuthority::from_pem(authority.certificate_pem().as_bytes(), "the member's authority")?;
        let names = [config.listen.ip().to_string(), "localhost".to_owned(), "kubernetes.default".to_owned()];
        let serving = authority.issue_server(&names)?;
        let gateway = authority.issue_client("clusterway-gateway", &["system:masters"])?;
        let verifier = Arc::new(UnverifiedClientCertificates::new(clients.hints()));
        let tls = Arc::new(clusterway_certs::server_config(serving.certified_key()?, Some(verifier))?);
        let listen = |error| MemberError::Listen { address: config.listen, error };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;

        let store = Arc::new(Store::default());
        seed::fill(&store, &config.name);
        let streams = Arc::new(Streams::new());
        controllers::pass(&store, &streams);
        let api = Arc::new(Api {
            store: Arc::clone(&store),
            streams: Arc::clone(&streams),
            clients,
            recorded: Mutex::default(),
        });
        let shutdown = Shutdown::new();
        let limits = Limits { http2_streams: HTTP2_STREAMS, ..Limits::default() };
        let server =
            server::serve(listener, move || Arc::clone(&tls), limits, Arc::clone(&api), shutdown.clone());
        Ok(Self {
            address,
            authority,
            gateway,
            api,
            shutdown,
            server: tokio::spawn(server),
            controllers: tokio::spawn(controllers::run(store, streams)),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The authority of its serving certificate and of its clients, PEM.
    pub fn ca_pem(&self) -> String {
        self.authority.certificate_pem()
    }

    /// Certificate and key, PEM, of a client that may do everything: what a gateway is given.
    pub fn gateway_certificate(&self) -> (String, String) {
        (self.gateway.certificate_pem(), self.gateway.key_pem())
    }

    /// Its objects.
    pub fn store(&self) -> &Arc<Store> {
        &self.api.store
    }

    /// The requests that it got, oldest first; the oldest of very many are forgotten.
    pub fn requests(&self) -> Vec<Recorded> {
        self.api.recorded().iter().cloned().collect()
    }

    /// Puts `count` ConfigMaps of about `bytes` bytes each into namespace `default`, named `large-0`, `large-1`, ….
    pub fn seed_config_maps(&self, count: usize, bytes: usize) {
        for number in 0..count {
            let name = format!("large-{number}");
            let object = json!({"metadata": {"name": name}, "data": {"filling": "x".repeat(bytes)}});
            let Ok(object) = lifecycle::created(&resources::CONFIG_MAPS, Some("default"), object) else {
                continue;
            };
            let write = |_: Option<&Value>| Ok::<_, std::convert::Infallible>(Outcome::Put(object));
            let Ok(_) = self.api.store.change(&resources::CONFIG_MAPS, "default", &name, write);
        }
    }

    /// Ends it now.
    pub async fn shutdown(mut self) {
        self.shutdown.cut();
        // One that has panicked has ended as well.
        let _ = (&mut self.server).await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.shutdown.cut();
        self.controllers.abort();
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Handler for Api {
    async fn handle(
        &self,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> Response<ResponseBody> {
        self.answer(request, &connection).await.unwrap_or_else(Failure::into_response)
    }
}

impl Api {
    fn recorded(&self) -> std::sync::MutexGuard<'_, VecDeque<Recorded>> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, request: &Request<Incoming>, user: Option<&User>, connection: &Connection) {
        let mut recorded = self.recorded();
        if recorded.len() >= RECORDED {
            recorded.pop_front();
        }
        recorded.push_back(Recorded {
            method: request.method().clone(),
            target: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
            headers: request.headers().clone(),
            user: user.cloned(),
            peer: connection.peer(),
        });
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
    ) -> Result<Response<ResponseBody>, Failure> {
        let user = self.user(request.headers(), connection);
        self.record(&request, user.as_ref().ok(), connection);
        let user = user?;
        let query = Query::of(request.uri());
        match Path::of(request.uri()) {
            Path::Other(path) => self.document(&path, &user, request).await,
            Path::Resource(path) => match path.subresource.as_deref() {
                Some("log" | "exec" | "attach" | "portforward") if path.resource.kind == "Pod" => {
                    self.stream(&path, request)
                }
                _ => {
                    let long = query.flag("watch");
                    let call = Call { store: &self.store, path, query, headers: request.headers().clone() };
                    let mut response = call.answer(request).await?;
                    if long {
                        response.extensions_mut().insert(LongRunning);
                    }
                    Ok(response)
                }
            },
        }
    }

    fn user(&self, headers: &HeaderMap, connection: &Connection) -> Result<User, Failure> {
        let unauthorized = |_| Failure::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized");
        let client = self.clients.verify(connection.client_certificates()).map_err(unauthorized)?;
        let mut groups = client.subject.organizations;
        groups.push("system:authenticated".to_owned());
        User::effective(User { name: client.subject.common_name, groups, ..User::default() }, headers)
    }

    fn stream(
        &self,
        path: &ResourcePath,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let name = path.name.as_deref().unwrap_or_default();
        let namespace = path.namespace.as_deref().unwrap_or_default();
        let pod = self.store.get(path.resource, namespace, name);
        let pod = pod.ok_or_else(|| Failure::not_found(path.resource, name))?;
        let kind = match path.subresource.as_deref() {
            Some("exec") => Kind::Exec,
            Some("attach") => Kind::Attach,
            Some("portforward") => Kind::PortForward,
            _ if !matches!(*request.method(), Method::GET | Method::HEAD) => {
                return Err(Failure::method_not_allowed());
            }
            _ => {
                let mut response = self.streams.logs(&pod, request.uri().query().unwrap_or_default());
                response.extensions_mut().insert(LongRunning);
                return Ok(response);
            }
        };
        Ok(self.streams.upgrade(kind, request, &pod))
    }

    /// Everything that is no object: discovery, OpenAPI, health, and reviews.
    async fn document(
        &self,
        path: &str,
        user: &User,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Failure> {
        if *request.method() == Method::POST {
            return self.review(path, user, request).await;
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Failure::method_not_allowed());
        }
        let path = path.trim_end_matches('/');
        match path {
            "/healthz" | "/livez" | "/readyz" => return Ok(Response::new(ResponseBody::full("ok"))),
            "/version" => return Ok(json_response(StatusCode::OK, &discovery::version())),
            "/openapi/v3" => return Ok(json_response(StatusCode::OK, &openapi::index())),
            "/openapi/v2" => return Ok(raw_json(openapi::v2())),
            _ => {}
        }
        if let Some(group_version) = path.strip_prefix("/openapi/v3/") {
            return openapi::document(group_version).map(raw_json).ok_or_else(Failure::no_such_path);
        }
        let aggregated = negotiate::aggregated_discovery(request.headers())
            .and_then(|version| Some((version, discovery::aggregated(path, version)?)));
        if let Some((version, document)) = aggregated {
            let media_type =
                format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
            return Ok(tagged(&document, &media_type, request.headers()));
        }
        let document = discovery::legacy(path).ok_or_else(Failure::no_such_path)?;
        Ok(json_response(StatusCode::OK, &document))
    }

    /// Reviews answer at once and are kept nowhere.
    async fn review(
        &self,
        path: &str,
        user: &User,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let status = match path {
            "/apis/authentication.k8s.io/v1/selfsubjectreviews" => json!({"userInfo": user.info()}),
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" => json!({"allowed": true}),
            "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews" => json!({
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}], "incomplete": false,
            }),
            _ => return Err(Failure::no_such_path()),
        };
        let media_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_protobuf = media_type.is_some_and(|media_type| media_type.starts_with(protobuf::MEDIA_TYPE));
        let body = rest::read(request.into_body()).await?;
        let mut review = if is_protobuf {
            protobuf::object(&body).map_err(|error| Failure::bad_request(error.to_string()))?
        } else {
            rest::parse_body(&body)?
        };
        if !review.is_object() {
            return Err(Failure::bad_request("the body is not a Kubernetes object"));
        }
        review["status"] = status;
        Ok(json_response(StatusCode::CREATED, &review))
    }
}

fn raw_json(bytes: bytes::Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A document that clients keep and ask for again by its tag.
fn tagged(document: &Value, media_type: &str, headers: &HeaderMap) -> Response<ResponseBody> {
    let text = document.to_string();
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let tag = format!("\"{:016X}\"", hasher.finish());
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = Response::new(if known { ResponseBody::empty() } else { ResponseBody::full(text) });
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    for (name, value) in
        [(header::ETAG, tag.as_str()), (header::CONTENT_TYPE, media_type), (header::VARY, "Accept")]
    {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
