//! A client on hyper for either version, one connection each.

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Http,
    body::{TestBody, empty},
    front::Front,
};

/// One connection to a front server; it is cut when dropped.
pub(crate) struct Client {
    sender: Sender,
    authority: String,
    _connection: AbortOnDropHandle<()>,
}

enum Sender {
    One(http1::SendRequest<TestBody>),
    Two(http2::SendRequest<TestBody>),
}

impl Client {
    pub(crate) async fn of(front: &Front) -> Self {
        let stream = TcpStream::connect(front.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let io = TokioIo::new(stream);
        let (sender, connection) = match front.http {
            Http::One => {
                let (sender, connection) = http1::handshake(io).await.unwrap();
                (Sender::One(sender), tokio::spawn(async move { connection.await.unwrap_or(()) }))
            }
            Http::Two => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder.max_header_list_size(2 << 20);
                let (sender, connection) = builder.handshake(io).await.unwrap();
                (Sender::Two(sender), tokio::spawn(async move { connection.await.unwrap_or(()) }))
            }
        };
        let authority = front.address.to_string();
        Self { sender, authority, _connection: AbortOnDropHandle::new(connection) }
    }

    /// Sends `request`, whose URI is a path; fails as hyper does.
    pub(crate) async fn send(&mut self, mut request: Request<TestBody>) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::One(sender) => {
                request.headers_mut().insert("host", self.authority.parse().unwrap());
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Two(sender) => {
                *request.uri_mut() = format!("http://{}{}", self.authority, request.uri()).parse().unwrap();
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Response<Incoming> {
        self.send(Request::get(path).body(empty()).unwrap()).await.unwrap()
    }
}

/// The whole body as text; panics if it breaks off.
pub(crate) async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// The next data as text; `None` at the end, an error if the body broke.
pub(crate) async fn next(response: &mut Response<Incoming>) -> Option<hyper::Result<String>> {
    loop {
        let data = match response.body_mut().frame().await? {
            Ok(frame) => frame.into_data().expect("data"),
            Err(error) => return Some(Err(error)),
        };
        // HTTP/2 ends a stream with an empty frame.
        if !data.is_empty() {
            return Some(Ok(String::from_utf8(data.to_vec()).unwrap()));
        }
    }
}
