//! Proxies 127.0.0.1:8080 to a plain HTTP/1.1 server: `cargo run --example plain -- 127.0.0.1:8000`.

use std::{env, error::Error, future::Future, pin::Pin, sync::Arc};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use upgrade_aware_proxy::{
    Dial, DialError, DialStage::Connect, Dialed, PlainErrors, PoolConfig, Protocol, Proxy, Purpose, Target,
    Timeouts, Tunnels, UpgradeProtocols, Upstream,
};

struct Tcp(String);

impl Dial for Tcp {
    fn dial(&self, _: Purpose) -> Pin<Box<dyn Future<Output = Result<Dialed, DialError>> + Send + '_>> {
        Box::pin(async {
            let dialed = TcpStream::connect(&self.0).await;
            let dialed = dialed.map(|tcp| Dialed { io: Box::new(tcp), protocol: Protocol::Http1 });
            dialed.map_err(|error| DialError::failed(Connect, format!("dial tcp {}: {error}", self.0)))
        })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = env::args().nth(1).ok_or("which server? Give host:port")?;
    let upstream = Upstream::new(Arc::new(Tcp(server.clone())), PoolConfig::default());
    let target = Target::new(http::uri::Scheme::HTTP, server.parse()?, upstream);
    let proxy = Proxy::new(PlainErrors, UpgradeProtocols::default(), Timeouts::default(), Tunnels::default());
    let service = TowerToHyperService::new(proxy.service(target));
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    loop {
        let io = TokioIo::new(listener.accept().await?.0);
        let mut server = http1::Builder::new();
        tokio::spawn(server.timer(TokioTimer::new()).serve_connection(io, service.clone()).with_upgrades());
    }
}
