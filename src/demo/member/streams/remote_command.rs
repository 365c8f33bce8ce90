//! Exec and attach over SPDY/3.1: one stream for each of error, stdin, stdout, stderr and resize, told apart by the
//! header `streamType` (k8s.io/kubelet, streaming protocol v4).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use super::{
    session::{self, Client, KILLED},
    shell::TerminalSize,
    spdy::{self, Gone, Outgoing, Stream},
    websocket::{Resize, feed},
};

/// The protocols that are served, best first; over SPDY they do not differ.
pub(super) const SERVED: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// How long a client has to open its streams.
const OPEN_WITHIN: Duration = Duration::from_secs(30);
/// The longest run of unread resize messages, in bytes.
const LONGEST_RESIZE: usize = 4096;

/// The streams of one session.
#[derive(Default)]
struct Opened {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

/// Runs `request` for the client at the other end of `io`, until the command ends, the client leaves, or `killed`.
pub(super) async fn serve<T>(io: T, request: session::Request, killed: CancellationToken)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let served = spdy::serve(io, |streams| async {
        // A peer that goes away has nobody to tell.
        let _ = run(streams, request, killed).await;
    });
    if let Err(error) = served.await {
        tracing::debug!(%error, "a SPDY session of a demo container broke off");
    }
}

async fn run(
    mut streams: mpsc::Receiver<Stream>,
    request: session::Request,
    killed: CancellationToken,
) -> Result<(), Gone> {
    let opened = tokio::time::timeout(OPEN_WITHIN, open(&mut streams, request.streams)).await;
    let Ok(Some(Opened { error: Some(error), stdin, stdout, stderr, resize })) = opened else {
        return Ok(());
    };
    let tty = request.streams.tty;
    let (client, command) = session::start(request);
    let Client { stdin: mut typed, stdout: shown, stderr: complained, size } = client;
    let command = async {
        tokio::select! {
            status = command => status,
            () = killed.cancelled() => KILLED,
        }
    };
    let typing = async {
        if let Some(mut stdin) = stdin {
            while let Some(bytes) = stdin.incoming.recv().await {
                feed(&mut typed, bytes).await;
            }
        }
        drop(typed);
        std::future::pending::<()>().await;
    };
    let resizing = async {
        if let Some(resize) = resize
            && tty
        {
            resizes(resize.incoming, &size).await;
        }
        std::future::pending::<()>().await;
    };
    let working = async {
        let (status, shown, complained) =
            tokio::join!(command, relay(shown, stdout.as_ref()), relay(complained, stderr.as_ref()));
        shown.and(complained).map(|()| status)
    };
    let status = tokio::select! {
        status = working => status?,
        () = typing => return Ok(()),
        () = resizing => return Ok(()),
    };
    for stream in [&stdout, &stderr].into_iter().flatten() {
        stream.outgoing.finish().await?;
    }
    error.outgoing.send(session::outcome(status).to_string().into()).await?;
    error.outgoing.finish().await
}

/// Waits for the streams that `wanted` and the protocol name; any other is refused.
async fn open(streams: &mut mpsc::Receiver<Stream>, wanted: session::Streams) -> Option<Opened> {
    let mut opened = Opened::default();
    loop {
        let complete = opened.error.is_some()
            && opened.stdin.is_some() == wanted.stdin
            && opened.stdout.is_some() == wanted.stdout
            && opened.stderr.is_some() == wanted.stderr
            && opened.resize.is_some() == wanted.tty;
        if complete {
            return Some(opened);
        }
        let stream = streams.recv().await?;
        let place = match stream.headers.get("streamtype") {
            Some("error") => &mut opened.error,
            Some("stdin") if wanted.stdin => &mut opened.stdin,
            Some("stdout") if wanted.stdout => &mut opened.stdout,
            Some("stderr") if wanted.stderr => &mut opened.stderr,
            Some("resize") if wanted.tty => &mut opened.resize,
            _ => {
                stream.outgoing.refuse().await.ok()?;
                continue;
            }
        };
        *place = Some(stream);
    }
}

async fn relay(mut chunks: mpsc::Receiver<Bytes>, to: Option<&Stream>) -> Result<(), Gone> {
    while let Some(chunk) = chunks.recv().await {
        if let Some(Stream { outgoing, .. }) = to {
            outgoing.send(chunk).await?;
        }
    }
    Ok(())
}

async fn resizes(mut incoming: mpsc::Receiver<Bytes>, size: &Arc<TerminalSize>) {
    let mut unread = Vec::new();
    while let Some(bytes) = incoming.recv().await {
        unread.extend_from_slice(&bytes);
        let mut sizes = serde_json::Deserializer::from_slice(&unread).into_iter::<Resize>();
        while let Some(Ok(resize)) = sizes.next() {
            resize.apply(size);
        }
        let read = sizes.byte_offset();
        unread.drain(..read);
        if unread.len() > LONGEST_RESIZE {
            return;
        }
    }
}

/// Our half of an error stream that says `message`.
pub(super) async fn fail(error: &Outgoing, message: String) -> Result<(), Gone> {
    error.send(message.into()).await?;
    error.finish().await
}
