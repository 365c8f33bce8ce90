//! From a request to a caller.
//!
//! Credentials are tried in a kube-apiserver's order: client certificate, then bearer token in `Authorization`, then
//! bearer token as a WebSocket subprotocol. What one of them says against a caller does not keep the next from
//! speaking for it; but when none does and any was shown, the request is refused. A bad credential must never make
//! anybody anonymous, and nothing that was shown is ever logged.

mod bearer;
mod tokens;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use clusterway_certs::{ClientAuthority, VerifiedClient};
use http::HeaderMap;

pub use tokens::{StaticTokens, TokenFileError};

use crate::{
    connection::{CertificateCaller, Connection},
    identity::Caller,
};

/// Kubernetes' group of everybody who has proven to be somebody.
pub const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Which credential a caller has shown, as a kube-apiserver notes it for its audit log; stays inside the gateway.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
/// How long a certificate that was not believed is not looked at again. Its time may yet come.
const DISBELIEF: Duration = Duration::from_secs(60);

/// Knows who may call, and how they prove it.
#[derive(Debug, Default)]
pub struct Authenticator {
    clients: Option<Arc<ClientAuthority>>,
    tokens: Option<Arc<StaticTokens>>,
}

/// Why a request has no caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unauthenticated {
    /// Nothing was shown. Whether that is enough is up to what is asked for.
    #[error("no credential was shown: use a client certificate or a bearer token")]
    NoCredential,
    /// Something was shown, and none of it accepted. The reasons are for logs, not for clients; they hold no secrets.
    #[error("the credential was not accepted: {}", .0.join("; "))]
    Rejected(Vec<Arc<str>>),
}

impl Authenticator {
    /// Believes client certificates that `clients` vouches for, and `tokens`.
    pub fn new(clients: Option<Arc<ClientAuthority>>, tokens: Option<Arc<StaticTokens>>) -> Self {
        Self { clients, tokens }
    }

    /// Who sent a request with these `headers` over this `connection`.
    ///
    /// # Errors
    /// [`Unauthenticated`]; the connection should then be closed once the refusal is sent (see
    /// [`Connection::close_when_answered`]).
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        connection: &Connection,
    ) -> Result<Arc<Caller>, Unauthenticated> {
        let mut reasons: Vec<Arc<str>> = Vec::new();
        match self.by_certificate(connection) {
            Some(Ok(caller)) => return Ok(caller),
            Some(Err(reason)) => reasons.push(reason),
            None => {}
        }
        for shown in [bearer::in_authorization(headers), bearer::in_websocket_protocols(headers)] {
            match shown.map(|shown| shown.and_then(|token| self.by_token(&token))) {
                Some(Ok(caller)) => return Ok(caller),
                Some(Err(reason)) => reasons.push(reason.into()),
                None => {}
            }
        }
        Err(if reasons.is_empty() {
            Unauthenticated::NoCredential
        } else {
            Unauthenticated::Rejected(reasons)
        })
    }

    /// `None` when no certificate was shown, none was asked for, or it names no user.
    fn by_certificate(&self, connection: &Connection) -> Option<Result<Arc<Caller>, Arc<str>>> {
        let clients = self.clients.as_ref()?;
        if connection.client_certificates().is_empty() {
            return None;
        }
        let now = SystemTime::now();
        // Before the verification: trust that changes meanwhile makes the conclusion old at once.
        let generation = clients.generation();
        if let Some(kept) = connection.certificate_caller().as_ref()
            && kept.generation == generation
            && now < kept.not_after
        {
            return kept.outcome.clone().transpose();
        }
        let conclusion = match clients.verify(connection.client_certificates()) {
            Ok(client) => CertificateCaller {
                generation,
                not_after: client.not_after,
                outcome: Ok(caller_of(&client, &connection.client_certificates()[0])),
            },
            Err(error) => CertificateCaller {
                generation,
                not_after: now + DISBELIEF,
                outcome: Err(error.to_string().into()),
            },
        };
        let outcome = conclusion.outcome.clone();
        connection.keep_certificate_caller(Arc::new(conclusion));
        outcome.transpose()
    }

    fn by_token(&self, token: &str) -> Result<Arc<Caller>, &'static str> {
        let tokens = self.tokens.as_ref().ok_or("a bearer token was shown, but no tokens are configured")?;
        tokens.caller(token).ok_or("the bearer token is unknown")
    }
}

/// Whom a certificate names: `CN` is the user, every `O` a group. Nobody without a `CN`.
fn caller_of(client: &VerifiedClient, leaf: &[u8]) -> Option<Arc<Caller>> {
    let subject = &client.subject;
    if subject.common_name.is_empty() {
        return None;
    }
    let fingerprint: String =
        digest(&SHA256, leaf).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Some(Arc::new(authenticated(Caller {
        name: subject.common_name.clone(),
        uid: None,
        groups: subject.organizations.clone(),
        extra: BTreeMap::from([(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={fingerprint}")])]),
    })))
}

/// Adds the group that comes with success.
fn authenticated(mut caller: Caller) -> Caller {
    if !caller.groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED) {
        caller.groups.push(AUTHENTICATED.to_owned());
    }
    caller
}

#[cfg(test)]
mod tests;
