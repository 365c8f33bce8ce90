//! A server around the proxy, as a gateway would run it.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;
use upgrade_aware_proxy::{
    Dial, PlainErrors, PoolConfig, Proxy, Target, Timeouts, Tunnels, UpgradeProtocols, Upstream,
};

use super::{Http, raw::Socket};

/// The name under which the proxy knows its member; nothing resolves it.
pub(crate) const AUTHORITY: &str = "member.test:8443";

/// A target with nothing special about it.
pub(crate) fn target(dial: impl Dial) -> Target {
    let upstream = Upstream::new(Arc::new(dial), PoolConfig::default());
    Target::new(http::uri::Scheme::HTTP, AUTHORITY.parse().unwrap(), upstream)
}

pub(crate) fn proxy() -> Proxy {
    proxy_with(Timeouts::default(), Tunnels::default())
}

pub(crate) fn proxy_with(timeouts: Timeouts, tunnels: Tunnels) -> Proxy {
    Proxy::new(PlainErrors, UpgradeProtocols::default(), timeouts, tunnels)
}

/// A listening server. It is gone when dropped, and with it its connections.
pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    pub(crate) http: Http,
    _accepting: AbortOnDropHandle<()>,
}

impl Front {
    /// HTTP/1.1 in front of `target`.
    pub(crate) async fn of(target: Target) -> Self {
        Self::start(Http::One, proxy(), target).await
    }

    pub(crate) async fn start(http: Http, proxy: Proxy, target: Target) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(http, stream, proxy.clone(), target.clone()));
            }
        });
        Self { address, http, _accepting: AbortOnDropHandle::new(accepting) }
    }

    pub(crate) async fn socket(&self) -> Socket {
        Socket::connect(self.address).await
    }
}

async fn serve(http: Http, stream: TcpStream, proxy: Proxy, target: Target) {
    stream.set_nodelay(true).unwrap();
    let service = service_fn(move |request: Request<Incoming>| {
        let (proxy, target) = (proxy.clone(), target.clone());
        async move { Ok::<_, Infallible>(proxy.forward(request, target).await) }
    });
    let io = TokioIo::new(stream);
    let _client_gone = match http {
        Http::One => {
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).max_headers(4096).max_buf_size(2 << 20);
            server.serve_connection(io, service).with_upgrades().await
        }
        Http::Two => {
            let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            server.timer(TokioTimer::new()).max_header_list_size(2 << 20);
            server.serve_connection(io, service).await
        }
    };
}
