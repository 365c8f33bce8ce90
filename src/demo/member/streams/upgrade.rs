//! From an HTTP request to an upgraded connection: which protocol, and the 101 that says so.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use upgrade_aware_proxy::ResponseBody;

use super::{Kind, port_forward, refusal::Refusal, remote_command, websocket::Version};
use crate::demo::handshake;

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// How the two ends will talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// One channel byte in front of every WebSocket message.
    Channels(Version),
    /// Port-forward's SPDY frames inside WebSocket messages.
    Tunnel,
    /// SPDY/3.1 on the connection itself.
    Spdy,
}

/// Chooses the protocol for `request` and makes the 101 for it.
pub(super) fn negotiate<B>(
    kind: Kind,
    request: &Request<B>,
) -> Result<(Protocol, Response<ResponseBody>), Refusal> {
    let headers = request.headers();
    let asks_for = |protocol: &str| {
        tokens(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
            && tokens(headers, &header::UPGRADE).any(|token| token.eq_ignore_ascii_case(protocol))
    };
    if asks_for("websocket") {
        websocket(kind, request)
    } else if asks_for("SPDY/3.1") {
        spdy(kind, headers)
    } else {
        Err(Refusal::NoUpgrade)
    }
}

fn websocket<B>(kind: Kind, request: &Request<B>) -> Result<(Protocol, Response<ResponseBody>), Refusal> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(Refusal::Handshake("the method must be GET"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refusal::Handshake("Sec-WebSocket-Version must be 13"));
    }
    let key =
        headers.get(header::SEC_WEBSOCKET_KEY).ok_or(Refusal::Handshake("Sec-WebSocket-Key is missing"))?;
    let served: Vec<(&'static str, Protocol)> = match kind {
        Kind::PortForward => vec![(port_forward::TUNNEL_PROTOCOL, Protocol::Tunnel)],
        Kind::Exec | Kind::Attach => {
            Version::SERVED.iter().map(|(name, version)| (*name, Protocol::Channels(*version))).collect()
        }
    };
    let offered: Vec<&str> = tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL).collect();
    let (name, protocol) = choose(&offered, &served)?;
    let mut response = switching("websocket");
    let headers = response.headers_mut();
    if let Ok(accept) = HeaderValue::try_from(handshake::accept(key.as_bytes())) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    Ok((protocol, response))
}

fn spdy(kind: Kind, headers: &HeaderMap) -> Result<(Protocol, Response<ResponseBody>), Refusal> {
    let offered: Vec<&str> = tokens(headers, &STREAM_PROTOCOL).collect();
    if offered.is_empty() {
        return Err(Refusal::NoProtocol);
    }
    let served: &[&'static str] = match kind {
        Kind::PortForward => &[port_forward::PROTOCOL],
        Kind::Exec | Kind::Attach => &remote_command::SERVED,
    };
    let served: Vec<_> = served.iter().map(|name| (*name, Protocol::Spdy)).collect();
    let (name, protocol) = choose(&offered, &served)?;
    let mut response = switching("SPDY/3.1");
    response.headers_mut().insert(STREAM_PROTOCOL, HeaderValue::from_static(name));
    Ok((protocol, response))
}

/// The first offer that is served, as kube-apiserver and the kubelet choose.
fn choose(
    offered: &[&str],
    served: &[(&'static str, Protocol)],
) -> Result<(&'static str, Protocol), Refusal> {
    offered.iter().find_map(|offer| served.iter().find(|(name, _)| name == offer)).copied().ok_or_else(|| {
        Refusal::Protocol {
            offered: offered.join(" "),
            served: served.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" "),
        }
    })
}

fn switching(protocol: &'static str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
    response
}

/// All comma-separated tokens of all values of header `name`.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    const WEBSOCKET: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    #[test]
    fn the_handshake_is_that_of_rfc_6455() {
        let offer =
            ("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.abc, v4.channel.k8s.io");
        let request = request(&[&WEBSOCKET[..], &[offer]].concat());
        let (protocol, response) = negotiate(Kind::Exec, &request).unwrap();
        assert_eq!(protocol, Protocol::Channels(Version::V4));
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers()["sec-websocket-protocol"], "v4.channel.k8s.io");
    }

    #[test]
    fn spdy_takes_the_first_offer_it_serves() {
        let headers = [
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v9.channel.k8s.io"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ];
        let (protocol, response) = negotiate(Kind::Attach, &request(&headers)).unwrap();
        assert_eq!(protocol, Protocol::Spdy);
        assert_eq!(response.headers()["x-stream-protocol-version"], "v4.channel.k8s.io");
        let refused = negotiate(Kind::PortForward, &request(&headers)).unwrap_err().into_response();
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        assert_eq!(refused.headers()["x-accepted-stream-protocol-versions"], "portforward.k8s.io");
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        for headers in [
            &[][..],
            &[("connection", "Upgrade")],
            &[("upgrade", "websocket")],
            &[("connection", "Upgrade"), ("upgrade", "h2c")],
            &[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")],
            &WEBSOCKET[..],
            &WEBSOCKET[..3],
        ] {
            assert!(negotiate(Kind::Exec, &request(headers)).is_err(), "{headers:?}");
        }
    }
}
