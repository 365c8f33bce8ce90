//! Our own small Kubernetes client: what `clusterway demo --tour` does where there is no kubectl.
//!
//! It goes through the gateway's front door like anybody else: TLS, a bearer token or a client certificate, HTTP/1.1.
//! It must not know anything of the gateway or the members but their address, and it never prints a credential.

mod error;
mod exec;
mod stream;
mod table;

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

pub use error::ClientError;
pub use exec::{Exec, Output};
pub use stream::{Event, Lines, Watch};
pub use table::{Column, Row, Table};

/// The longest answer that is held in memory, in bytes.
const LONGEST_BODY: usize = 64 << 20;
/// How long connecting and the TLS handshake may take together.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

const JSON: &str = "application/json";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// Who the client is.
#[derive(Debug)]
pub enum Credential {
    /// A bearer token.
    Token(SecretString),
    /// A client certificate.
    Certificate {
        /// The certificate and its intermediates in PEM.
        chain: Vec<u8>,
        /// The private key in PEM.
        key: SecretString,
    },
}

/// A client of one cluster. Every request is a connection of its own.
#[derive(Clone)]
pub struct Client {
    /// `host:port`
    authority: String,
    host: ServerName<'static>,
    /// What stands in front of every path; without a trailing slash.
    prefix: String,
    authorization: Option<HeaderValue>,
    tls: TlsConnector,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("authority", &self.authority)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the cluster at `base` (`https://host:port/prefix`), whose certificate is signed by an authority in
    /// `authorities` (PEM).
    ///
    /// # Errors
    ///
    /// If the address is none, or a certificate or key cannot be read.
    pub fn new(base: &str, authorities: &[u8], credential: &Credential) -> Result<Self, ClientError> {
        let address = |problem: String| ClientError::Address { url: base.to_owned(), problem };
        let uri: Uri = base.parse().map_err(|error: http::uri::InvalidUri| address(error.to_string()))?;
        if uri.scheme_str() != Some("https") || uri.query().is_some() {
            return Err(address("it must be https://host:port/path".to_owned()));
        }
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let server_name =
            ServerName::try_from(host.to_owned()).map_err(|error| address(error.to_string()))?;
        let port = uri.port_u16().unwrap_or(443);
        Ok(Self {
            authority: match &server_name {
                ServerName::IpAddress(rustls_pki_types::IpAddr::V6(_)) => format!("[{host}]:{port}"),
                _ => format!("{host}:{port}"),
            },
            host: server_name,
            prefix: uri.path().trim_end_matches('/').to_owned(),
            authorization: authorization(credential)?,
            tls: TlsConnector::from(Arc::new(tls(authorities, credential)?)),
        })
    }

    /// `GET path` as JSON. A path starts with `/api` or `/apis` and may have a query.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; an answer other than 2xx is [`ClientError::Refused`].
    pub async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.call(Method::GET, path, None).await
    }

    /// `POST path` with an object; the created object.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, ClientError> {
        self.call(Method::POST, path, Some(object)).await
    }

    /// `DELETE path`; what the server answers.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn delete(&self, path: &str) -> Result<Value, ClientError> {
        self.call(Method::DELETE, path, None).await
    }

    /// `GET path` as a table that the server makes.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), and if the server does not make tables.
    pub async fn table(&self, path: &str) -> Result<Table, ClientError> {
        let response = self.request(Method::GET, path, &[(header::ACCEPT, TABLE)], None).await?;
        parse(path, &body(&Method::GET, path, response).await?)
    }

    /// Watches `path`, to which `watch=true` is added.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn watch(&self, path: &str) -> Result<Watch, ClientError> {
        let path = format!("{path}{}watch=true", if path.contains('?') { '&' } else { '?' });
        let response = self.request(Method::GET, &path, &[(header::ACCEPT, JSON)], None).await?;
        Ok(Watch::new(Lines::new(&path, response.into_body())))
    }

    /// The log of a container; `query` is that of the request, `follow=true&tailLines=5` for example.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn logs(&self, namespace: &str, pod: &str, query: &str) -> Result<Lines, ClientError> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/log?{query}");
        let response = self.request(Method::GET, &path, &[], None).await?;
        Ok(Lines::new(&path, response.into_body()))
    }

    async fn call(&self, method: Method, path: &str, object: Option<&Value>) -> Result<Value, ClientError> {
        let response = self.request(method.clone(), path, &[(header::ACCEPT, JSON)], object).await?;
        parse(path, &body(&method, path, response).await?)
    }

    /// Sends a request on a connection of its own; an answer of 4xx or 5xx is an error.
    async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        object: Option<&Value>,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut request =
            Request::new(Full::new(object.map_or_else(Bytes::new, |object| object.to_string().into())));
        *request.method_mut() = method.clone();
        *request.uri_mut() =
            format!("{}{path}", self.prefix).parse().map_err(|error: http::uri::InvalidUri| {
                ClientError::Address { url: path.to_owned(), problem: error.to_string() }
            })?;
        let own = [(header::HOST, self.authority.as_str()), (header::USER_AGENT, "clusterway-demo")];
        for (name, value) in own.iter().chain(headers) {
            let value = HeaderValue::from_str(value).map_err(|error| ClientError::Address {
                url: path.to_owned(),
                problem: format!("header {name}: {error}"),
            })?;
            request.headers_mut().insert(name.clone(), value);
        }
        if object.is_some() {
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
        }
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
        }
        let failed = |source| ClientError::Http { method: method.clone(), path: path.to_owned(), source };
        let io = TokioIo::new(self.connect().await?);
        let (mut sender, connection) = http1::handshake(io).await.map_err(failed)?;
        // It ends when the answer's body or the upgraded connection is dropped.
        tokio::spawn(connection.with_upgrades());
        let response = sender.send_request(request).await.map_err(failed)?;
        let code = response.status();
        if code.is_client_error() || code.is_server_error() {
            let body = body(&method, path, response).await?;
            let message = message(&body);
            return Err(ClientError::Refused { method, path: path.to_owned(), code, message });
        }
        if code != StatusCode::SWITCHING_PROTOCOLS && !code.is_success() {
            return Err(ClientError::Answer {
                path: path.to_owned(),
                problem: format!("unexpected answer {code}"),
            });
        }
        Ok(response)
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, ClientError> {
        let connecting = async {
            let connected = TcpStream::connect(&self.authority).await;
            let stream = connected
                .map_err(|source| ClientError::Connect { authority: self.authority.clone(), source })?;
            // Requests are small and waited for.
            let _ = stream.set_nodelay(true);
            let secured = self.tls.connect(self.host.clone(), stream).await;
            secured.map_err(|source| ClientError::Tls { authority: self.authority.clone(), source })
        };
        tokio::time::timeout(CONNECT_WITHIN, connecting).await.unwrap_or_else(|_| {
            Err(ClientError::Slow { authority: self.authority.clone(), seconds: CONNECT_WITHIN.as_secs() })
        })
    }
}

async fn body(method: &Method, path: &str, response: Response<Incoming>) -> Result<Bytes, ClientError> {
    match Limited::new(response.into_body(), LONGEST_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(match error.downcast::<hyper::Error>() {
            Ok(source) => {
                ClientError::Http { method: method.clone(), path: path.to_owned(), source: *source }
            }
            Err(error) => ClientError::Answer { path: path.to_owned(), problem: error.to_string() },
        }),
    }
}

fn parse<T: serde::de::DeserializeOwned>(path: &str, body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body)
        .map_err(|error| ClientError::Answer { path: path.to_owned(), problem: error.to_string() })
}

/// The message of a `Status`, or the start of whatever else it is.
fn message(body: &[u8]) -> String {
    let status: Value = serde_json::from_slice(body).unwrap_or_default();
    match status["message"].as_str() {
        Some(message) => message.to_owned(),
        None => String::from_utf8_lossy(body).trim().chars().take(200).collect(),
    }
}

fn authorization(credential: &Credential) -> Result<Option<HeaderValue>, ClientError> {
    let Credential::Token(token) = credential else { return Ok(None) };
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())).map_err(|_| {
        ClientError::Credential { what: "the token", problem: "it is no header value".to_owned() }
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn tls(authorities: &[u8], credential: &Credential) -> Result<ClientConfig, ClientError> {
    let unusable = |what| move |problem: String| ClientError::Credential { what, problem };
    let mut roots = RootCertStore::empty();
    let authority = unusable("the certificate authority");
    for certificate in CertificateDer::pem_slice_iter(authorities) {
        let certificate = certificate.map_err(|error| authority(error.to_string()))?;
        roots.add(certificate).map_err(|error| authority(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(authority("there is no certificate in it".to_owned()));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("TLS")(error.to_string()))?
        .with_root_certificates(roots);
    let mut config = match credential {
        Credential::Token(_) => builder.with_no_client_auth(),
        Credential::Certificate { chain, key } => {
            let certificate = unusable("the client certificate");
            let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
                .collect::<Result<_, _>>()
                .map_err(|error| certificate(error.to_string()))?;
            let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes())
                // What the parser says may quote the key.
                .map_err(|_| unusable("the client key")("it is no private key in PEM".to_owned()))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| certificate(error.to_string()))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests;
