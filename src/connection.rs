//! What is known about the connection a request came over.
//!
//! Made by the server, read by whoever wants to know who is calling. Nothing a client *says* in a request belongs
//! in here, only what TCP and TLS have established.

use std::{fmt, net::SocketAddr, sync::Arc, time::SystemTime};

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use rustls_pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;
use upgrade_aware_proxy::Protocol;

use crate::identity::Caller;

/// A client's connection.
pub struct Connection {
    peer: SocketAddr,
    peer_address: HeaderValue,
    protocol: Protocol,
    client_certificates: Vec<CertificateDer<'static>>,
    certificate_caller: ArcSwapOption<CertificateCaller>,
    closing: CancellationToken,
}

/// What was concluded from the client certificate of a connection, so that its chain is verified once and not with
/// every request.
#[derive(Clone, Debug)]
pub struct CertificateCaller {
    /// The generation of the trust it was concluded under.
    pub generation: u64,
    /// It must not be used any longer than this.
    pub not_after: SystemTime,
    /// Whom the certificate names (nobody, if it has no common name), or why it is not believed.
    pub outcome: Result<Option<Arc<Caller>>, Arc<str>>,
}

impl Connection {
    /// A connection from `peer`. `client_certificates` are as the client showed them, leaf first; it has proven to
    /// hold the leaf's key, but nobody has looked yet at who issued it.
    pub fn new(
        peer: SocketAddr,
        protocol: Protocol,
        client_certificates: Vec<CertificateDer<'static>>,
        closing: CancellationToken,
    ) -> Self {
        // Digits, dots, colons and letters are a header value; the fallback is never used.
        let peer_address = HeaderValue::try_from(peer.ip().to_canonical().to_string())
            .unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        Self {
            peer,
            peer_address,
            protocol,
            client_certificates,
            certificate_caller: ArcSwapOption::empty(),
            closing,
        }
    }

    /// The other end.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The other end's address without its port, for `X-Forwarded-For`; made once per connection.
    pub fn peer_address(&self) -> &HeaderValue {
        &self.peer_address
    }

    /// What ALPN agreed on.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The client's certificates, *unverified*, leaf first; empty if it showed none.
    pub fn client_certificates(&self) -> &[CertificateDer<'static>] {
        &self.client_certificates
    }

    /// The conclusion that was kept with [`keep_certificate_caller`](Self::keep_certificate_caller).
    pub fn certificate_caller(&self) -> arc_swap::Guard<Option<Arc<CertificateCaller>>> {
        self.certificate_caller.load()
    }

    /// Keeps a conclusion for the requests to come.
    pub fn keep_certificate_caller(&self, conclusion: Arc<CertificateCaller>) {
        self.certificate_caller.store(Some(conclusion));
    }

    /// Ends the connection as soon as the requests on it are answered: no keep-alive on HTTP/1.1, GOAWAY on HTTP/2.
    ///
    /// For callers that could not be authenticated, as a kube-apiserver treats them: whoever has no business here
    /// pays for a new connection with every try (CVE-2023-44487).
    pub fn close_when_answered(&self) {
        self.closing.cancel();
    }

    /// Cancelled when the connection is to end.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.closing
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .field("protocol", &self.protocol)
            .field("client_certificates", &self.client_certificates.len())
            .finish_non_exhaustive()
    }
}
