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
