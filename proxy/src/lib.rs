//! A reverse proxy that understands protocol upgrades: what `UpgradeAwareHandler` is to Kubernetes in Go.
//!
//! [`Proxy::forward`] takes a request and a [`Target`] and answers with the target's response, streaming both
//! bodies with backpressure. Plain requests travel over an [`Upstream`], a pool of HTTP/2 and HTTP/1.1
//! connections; WebSocket and SPDY upgrades get a connection of their own and become tunnels once, and only
//! once, the target has answered 101.
//!
//! The crate knows HTTP and nothing else: no Kubernetes, no TLS (a [`Dial`] hands it ready byte streams), and no
//! policy about identity. What it guarantees to those who do have such a policy is the order of header edits:
//! hop-by-hop headers and everything a `Connection` value names go first, then what [`HeaderEdits`] removes, then
//! what it sets is set, and then the outgoing head is checked to really carry it.
//!
//! It must never follow a redirect, rewrite a body, or reuse a connection after an upgrade was refused.
//!
//! ```
//! use std::sync::Arc;
//!
//! use http::{HeaderValue, Request, Response, header::AUTHORIZATION, uri::{Authority, Scheme}};
//! use hyper::body::Incoming;
//! use upgrade_aware_proxy::{
//!     Dial, PlainErrors, PoolConfig, Proxy, ResponseBody, Target, Timeouts, Tunnels, UpgradeProtocols, Upstream,
//! };
//!
//! /// Once per process: the proxy keeps no state of its own, and clones share everything.
//! fn proxy(tunnels: &Tunnels) -> Proxy {
//!     Proxy::new(PlainErrors, UpgradeProtocols::default(), Timeouts::default(), tunnels.clone())
//! }
//!
//! /// Once per place to go to: the pool lives in here.
//! fn target(dialer: impl Dial, host: &str) -> Result<Target, http::uri::InvalidUri> {
//!     let upstream = Upstream::new(Arc::new(dialer), PoolConfig::default());
//!     Ok(Target::new(Scheme::HTTPS, Authority::try_from(host)?, upstream))
//! }
//!
//! /// Once per request: a client can neither send nor remove what is set here.
//! async fn handle(request: Request<Incoming>, proxy: &Proxy, target: &Target) -> Response<ResponseBody> {
//!     let mut target = target.clone();
//!     target.edits.remove_prefixes = vec!["impersonate-"];
//!     target.edits.set.insert(AUTHORIZATION, HeaderValue::from_static("Bearer of-the-gateway"));
//!     proxy.forward(request, target).await
//! }
//! ```
//!
//! # What a server around it must do
//!
//! - Serve HTTP/1.1 `with_upgrades()`, and give hyper a timer, or its header timeout does nothing.
//! - Raise hyper's limits on heads where users have many groups: 100 header lines and 16 KiB of HTTP/2 header list are
//!   the defaults.
//! - Bound what a client that reads slowly may hold: the proxy waits for it, however long it takes, and a body cannot
//!   tell a paused `logs -f` from an attack. The socket can.
//! - Count tunnels: see [`Tunnels`].

#![forbid(unsafe_code)]

mod body;
mod classify;
mod dial;
mod error;
mod headers;
mod path;
mod pool;
mod proxy;
mod redirect;
mod target;
mod tunnel;
mod upgrade;

pub use body::{BoxError, RequestBody, ResponseBody};
pub use classify::requested_upgrade;
pub use dial::{BoxIo, Dial, DialError, DialStage, Dialed, Io, Protocol, Purpose};
pub use error::{ErrorResponder, PlainErrors, ProxyError};
pub use pool::{BodyError, PoolConfig, PoolStats, PooledBody, SendError, Upstream};
pub use proxy::{Forward, Proxy};
pub use target::{BasePath, HeaderEdits, InvalidTarget, RedirectPolicy, Target, Timeouts, UpgradeProtocols};
pub use upgrade::{TunnelGuard, Tunnels};
