//! Port-forward: every port of every demo pod sends back what it gets.
//!
//! A forwarded connection is two SPDY streams with the same `requestID`: `error`, then `data`. They come over plain
//! SPDY/3.1 (`portforward.k8s.io`) or inside the binary messages of a WebSocket (`SPDY/3.1+portforward.k8s.io`).

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _, stream::FuturesUnordered};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::{
    pipe::CHUNK,
    remote_command::fail,
    spdy::{self, Gone, Stream},
    websocket,
};

/// The stream protocol over SPDY.
pub(super) const PROTOCOL: &str = "portforward.k8s.io";
/// The stream protocol over WebSocket.
pub(super) const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";

/// How many connections may wait for their second stream, or be open.
const MOST_CONNECTIONS: usize = 128;

/// Echoes on all ports for the client at the other end of `io`, until it leaves or `killed`.
pub(super) async fn serve<T>(io: T, killed: CancellationToken)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let served = spdy::serve(io, |streams| async move {
        tokio::select! {
            () = forward(streams) => {}
            () = killed.cancelled() => {}
        }
    });
    if let Err(error) = served.await {
        tracing::debug!(%error, "a port-forward of a demo pod broke off");
    }
}

/// The same inside the binary messages of a WebSocket on `io`.
pub(super) async fn serve_tunnel<T>(io: T, killed: CancellationToken)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut stream) = websocket::server(io).await.split();
    let (near, far) = tokio::io::duplex(2 * CHUNK);
    let (mut read, mut write) = tokio::io::split(far);
    let inbound = async {
        while let Some(Ok(message)) = stream.next().await {
            let payload = match message {
                Message::Binary(payload) => payload,
                Message::Text(text) => Bytes::from(text),
                _ => continue,
            };
            if write.write_all(&payload).await.is_err() {
                break;
            }
        }
    };
    let outbound = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(length @ 1..) = read.read(&mut buffer).await {
            if sink.send(Message::binary(buffer[..length].to_vec())).await.is_err() {
                return;
            }
        }
        let _ = sink.close().await;
    };
    let pumping = async {
        tokio::select! {
            () = inbound => {}
            () = outbound => {}
        }
    };
    // Either the client leaves, and with it its streams; or we end, and what we said last still goes out.
    tokio::select! {
        () = pumping => {}
        () = serve(near, killed) => {}
    }
}

async fn forward(mut streams: mpsc::Receiver<Stream>) {
    // Error streams whose data stream has not come yet.
    let mut waiting: HashMap<String, Stream> = HashMap::new();
    let mut connections = FuturesUnordered::new();
    loop {
        let stream = tokio::select! {
            stream = streams.recv() => stream,
            Some(_) = connections.next() => continue,
        };
        let Some(stream) = stream else { return };
        let request = stream.headers.get("requestid").unwrap_or_default().to_owned();
        let full = waiting.len() + connections.len() >= MOST_CONNECTIONS;
        match stream.headers.get("streamtype") {
            Some("error") if !full => {
                waiting.insert(request, stream);
            }
            Some("data") if !full => {
                let error = waiting.remove(&request);
                connections.push(echo(stream, error).boxed());
            }
            _ => {
                if stream.outgoing.refuse().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// One connection to a port: everything comes back, then the end.
async fn echo(mut data: Stream, error: Option<Stream>) -> Result<(), Gone> {
    let port = data.headers.get("port").unwrap_or_default();
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        if let Some(error) = error {
            fail(&error.outgoing, format!("unable to forward port: invalid port {port:?}")).await?;
        }
        return data.outgoing.finish().await;
    }
    while let Some(bytes) = data.incoming.recv().await {
        data.outgoing.send(bytes).await?;
    }
    data.outgoing.finish().await?;
    if let Some(error) = error {
        error.outgoing.finish().await?;
    }
    Ok(())
}
