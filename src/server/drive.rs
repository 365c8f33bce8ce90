//! One connection from its handshake to its end.

use std::{
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Instant,
};

use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use upgrade_aware_proxy::Protocol;

use super::{
    Handler, Limits,
    activity::{Activity, Verdict},
    handler,
    socket::{Held, Socket},
};
use crate::connection::Connection;

/// Serves one connection. Whatever goes wrong on it ends here.
pub(super) async fn connection<H: Handler>(
    stream: TcpStream,
    held: Held,
    tls: Arc<ServerConfig>,
    limits: Arc<Limits>,
    handler: Arc<H>,
    closing: CancellationToken,
) {
    let Ok(peer) = stream.peer_addr() else { return };
    let socket = Socket::new(stream, held);
    let reports = socket.activity();
    let Some(stream) = handshake(socket, peer, tls, &limits, &closing).await else { return };

    let session = stream.get_ref().1;
    let protocol = match session.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        _ => Protocol::Http1,
    };
    let certificates =
        session.peer_certificates().unwrap_or_default().iter().map(|der| der.clone().into_owned()).collect();
    let connection = Arc::new(Connection::new(peer, protocol, certificates, closing));
    let activity = Arc::new(Activity::new(protocol));
    // It has just been made, so there is nothing in it yet.
    let _ = reports.set(Arc::clone(&activity));

    let service = {
        let (connection, activity) = (Arc::clone(&connection), Arc::clone(&activity));
        // Boxed, as it is several KiB: hyper moves it a few times on its way into a task, and would keep room for it
        // while the body is sent, which for a watch is hours.
        service_fn(move |request| {
            let (handler, connection) = (Arc::clone(&handler), Arc::clone(&connection));
            Box::pin(handler::answer(handler, request, connection, Arc::clone(&activity)))
        })
    };
    match protocol {
        Protocol::Http1 => {
            let http = http1(&limits).serve_connection(TokioIo::new(stream), service).with_upgrades();
            drive(http, &connection, &activity, &limits).await;
        }
        Protocol::Http2 => {
            let http = http2(&limits).serve_connection(TokioIo::new(stream), service);
            drive(http, &connection, &activity, &limits).await;
        }
    }
}

async fn handshake(
    socket: Socket,
    peer: SocketAddr,
    tls: Arc<ServerConfig>,
    limits: &Limits,
    closing: &CancellationToken,
) -> Option<TlsStream<Socket>> {
    let accept = TlsAcceptor::from(tls).accept(socket);
    let outcome = tokio::select! {
        biased;
        () = closing.cancelled() => return None,
        outcome = tokio::time::timeout(limits.tls_handshake, accept) => outcome,
    };
    match outcome {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            debug!(%peer, %error, "TLS handshake failed");
            None
        }
        Err(_) => {
            debug!(%peer, "TLS handshake took too long");
            None
        }
    }
}

/// hyper's own time limits for HTTP/1.1 stay off: [`Activity`] has them, and tells idle from slow.
fn http1(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .max_headers(limits.max_headers)
        .max_header_size(limits.max_header_bytes as usize)
        .max_buf_size((limits.max_header_bytes as usize).max(64 << 10))
        // A client that closes its sending side gives up its request, as Go's server sees it.
        .half_close(false);
    builder
}

fn http2(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let (ping, answer) = limits.http2_ping;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.http2_streams)
        .initial_stream_window_size(limits.http2_stream_window)
        .initial_connection_window_size(limits.http2_connection_window)
        .max_header_list_size(limits.max_header_bytes)
        .max_send_buf_size(limits.http2_send_buffer)
        .keep_alive_interval(ping)
        .keep_alive_timeout(answer);
    builder
}

/// An HTTP connection that can be told to end when its requests are answered.
trait Finish: Future<Output = hyper::Result<()>> {
    fn finish(self: Pin<&mut Self>);
}

macro_rules! finish {
    ($($connection:tt)*) => {
        impl<S, B> Finish for $($connection)*
        where
            S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B> + 'static,
            S::Error: Into<upgrade_aware_proxy::BoxError>,
            S::Future: Send + 'static,
            B: http_body::Body + Send + 'static,
            B::Data: Send,
            B::Error: Into<upgrade_aware_proxy::BoxError>,
        {
            fn finish(self: Pin<&mut Self>) {
                self.graceful_shutdown();
            }
        }
    };
}

finish!(http1::UpgradeableConnection<TokioIo<TlsStream<Socket>>, S>);
finish!(http2::Connection<TokioIo<TlsStream<Socket>>, S, TokioExecutor>);

async fn drive(http: impl Finish, connection: &Connection, activity: &Activity, limits: &Limits) {
    let mut http = pin!(http);
    let mut finishing = None;
    let look = |finishing| activity.verdict(limits, Instant::now(), finishing);
    let first = match look(finishing) {
        Verdict::Fine(at) => at,
        _ => Instant::now(),
    };
    let mut next_look = pin!(tokio::time::sleep_until(first.into()));
    loop {
        let told = tokio::select! {
            biased;
            ended = http.as_mut() => {
                if let Err(error) = ended {
                    debug!(peer = %connection.peer(), error = &error as &dyn std::error::Error, "connection ended");
                }
                return;
            }
            () = connection.closing().cancelled(), if finishing.is_none() => true,
            () = next_look.as_mut() => false,
        };
        if told {
            http.as_mut().finish();
            finishing = Some(Instant::now());
        }
        match look(finishing) {
            Verdict::Fine(at) => next_look.as_mut().reset(at.into()),
            Verdict::Finish(reason) => {
                debug!(peer = %connection.peer(), reason, "closing");
                http.as_mut().finish();
                finishing = Some(Instant::now());
                next_look.as_mut().reset(tokio::time::Instant::now());
            }
            Verdict::Drop(reason) => {
                debug!(peer = %connection.peer(), reason, "dropping");
                return;
            }
        }
    }
}
