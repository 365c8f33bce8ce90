//! The client against a TLS server with a demo pod behind it.

use std::net::SocketAddr;

use http_body_util::StreamBody;
use hyper::service::service_fn;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::{ServerConfig, server::WebPkiClientVerifier};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use upgrade_aware_proxy::{BoxError, ResponseBody};

use super::*;
use crate::demo::member::streams::{Kind, Streams};

struct Served {
    address: SocketAddr,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Served {
    fn client(&self, token: &str) -> Client {
        self.as_who(&Credential::Token(token.to_owned().into()))
    }

    fn as_who(&self, credential: &Credential) -> Client {
        let base = format!("https://{}/clusters/east/", self.address);
        Client::new(&base, self.authority.pem().as_bytes(), credential).unwrap()
    }
}

fn answer(value: &Value) -> Response<ResponseBody> {
    Response::new(ResponseBody::full(value.to_string()))
}

/// Answers what the tests ask for; the caller is known by token `good` or by any client certificate.
fn respond(request: Request<Incoming>, certificate: bool, streams: &Streams) -> Response<ResponseBody> {
    let path = request.uri().path_and_query().unwrap().to_string();
    let known = certificate
        || request.headers().get(header::AUTHORIZATION).is_some_and(|value| value == "Bearer good");
    if !known {
        let mut response = answer(&json!({"kind": "Status", "message": "who are you?"}));
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        return response;
    }
    let pod = json!({
        "metadata": {"name": "web-0", "namespace": "default", "uid": "1", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "app"}]},
        "status": {"phase": "Running"},
    });
    let path = path.strip_prefix("/clusters/east/api/v1/namespaces/default/pods").unwrap();
    match (request.method(), path) {
        (&Method::GET, "/web-0") => answer(&pod),
        (&Method::GET, "?limit=5")
            if request.headers()[header::ACCEPT].to_str().unwrap().contains("as=Table") =>
        {
            answer(&json!({"columnDefinitions": [{"name": "Name"}], "rows": [{"cells": ["web-0"]}]}))
        }
        (&Method::GET, "?resourceVersion=5&watch=true") => {
            let halves =
                ["{\"type\":\"ADDED\",\"object\":{\"a\"", ":1}}\n{\"type\":\"DELETED\",\"object\":{}}"];
            let frames = halves.map(|half| Ok::<_, BoxError>(http_body::Frame::data(Bytes::from(half))));
            Response::new(ResponseBody::new(StreamBody::new(futures_util::stream::iter(frames))))
        }
        (&Method::POST, "") => {
            let mut response = answer(&pod);
            *response.status_mut() = StatusCode::CREATED;
            response
        }
        (&Method::GET, path) if path.starts_with("/web-0/exec?") => {
            streams.upgrade(Kind::Exec, request, &pod)
        }
        (&Method::GET, path) if path.starts_with("/web-0/log?") => {
            streams.logs(&pod, request.uri().query().unwrap_or_default())
        }
        _ => {
            let mut response = Response::new(ResponseBody::full("nothing here"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

async fn serve() -> Served {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let streams = Arc::new(Streams::new());
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let (acceptor, streams) = (acceptor.clone(), Arc::clone(&streams));
            tokio::spawn(async move {
                let Ok(connection) = acceptor.accept(connection).await else { return };
                let certificate = connection.get_ref().1.peer_certificates().is_some();
                let service = service_fn(move |request| {
                    let response = respond(request, certificate, &streams);
                    async move { Ok::<_, std::convert::Infallible>(response) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(connection), service)
                    .with_upgrades()
                    .await;
            });
        }
    });
    Served { address, authority }
}

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn objects_and_tables_are_got() {
    let client = serve().await.client("good");
    let pod = client.get(&format!("{PODS}/web-0")).await.unwrap();
    assert_eq!(pod["metadata"]["name"], "web-0");
    let table = client.table(&format!("{PODS}?limit=5")).await.unwrap();
    assert_eq!(table.to_string(), "NAME\nweb-0\n");
    assert_eq!(client.create(PODS, &pod).await.unwrap(), pod);
}

#[tokio::test]
async fn a_watch_gives_events_across_frames_and_ends() {
    let client = serve().await.client("good");
    let mut watch = client.watch(&format!("{PODS}?resourceVersion=5")).await.unwrap();
    let added = Event { kind: "ADDED".to_owned(), object: json!({"a": 1}) };
    assert_eq!(watch.next().await.unwrap(), Some(added));
    assert_eq!(watch.next().await.unwrap().unwrap().kind, "DELETED");
    assert_eq!(watch.next().await.unwrap(), None);
}

#[tokio::test]
async fn logs_come_line_by_line() {
    let client = serve().await.client("good");
    let mut lines = client.logs("default", "web-0", "follow=true&tailLines=1").await.unwrap();
    for _ in 0..2 {
        assert!(lines.next().await.unwrap().unwrap().starts_with("web-0/app: tick "));
    }
}

#[tokio::test]
async fn exec_gives_outputs_and_exit_code() {
    let client = serve().await.client("good");
    let exec = Exec {
        namespace: "default",
        pod: "web-0",
        container: "app",
        command: &["sh", "-c", "wc -c; echo 'a&b' >&2; exit 3"],
        stdin: Some(Bytes::from(vec![7; 200_000])),
    };
    let output = client.exec(exec).await.unwrap();
    assert_eq!(output, Output { code: 3, stdout: b"200000\n".to_vec(), stderr: b"a&b\n".to_vec() });
    let early = Exec {
        namespace: "default",
        pod: "web-0",
        command: &["true"],
        stdin: Some(Bytes::from(vec![7; 8 << 20])),
        ..Exec::default()
    };
    assert_eq!(client.exec(early).await.unwrap().code, 0);
    let unknown =
        Exec { namespace: "default", pod: "web-0", container: "nope", command: &["true"], stdin: None };
    let error = client.exec(unknown).await.unwrap_err().to_string();
    assert!(error.contains("container nope is not valid for pod web-0"), "{error}");
}

#[tokio::test]
async fn a_client_certificate_is_a_credential_too() {
    let served = serve().await;
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let chain = params.signed_by(&key, &served.authority).unwrap().pem().into_bytes();
    let client = served.as_who(&Credential::Certificate { chain, key: key.serialize_pem().into() });
    assert_eq!(client.get(&format!("{PODS}/web-0")).await.unwrap()["metadata"]["name"], "web-0");
}

#[tokio::test]
async fn failures_name_what_and_where_but_no_secret() {
    let served = serve().await;
    let said = |error: ClientError| format!("{error} {error:?}");
    let error = said(served.client("very-secret").get(&format!("{PODS}/web-0")).await.unwrap_err());
    assert!(error.contains("401") && error.contains("who are you?") && error.contains("/web-0"), "{error}");
    assert!(
        !error.contains("very-secret")
            && !format!("{:?}", served.client("very-secret")).contains("very-secret")
    );
    let error = said(served.client("good").get(&format!("{PODS}/other")).await.unwrap_err());
    assert!(error.contains("404") && error.contains("nothing here"), "{error}");

    let other = serve().await;
    let token = Credential::Token("good".to_owned().into());
    let stranger =
        Client::new(&format!("https://{}", served.address), other.authority.pem().as_bytes(), &token)
            .unwrap();
    assert!(said(stranger.get("/api").await.unwrap_err()).starts_with("TLS with 127.0.0.1:"));

    for (base, authorities) in
        [("http://h", "x"), ("https://", "x"), ("https://h/?x", "x"), ("https://h", "")]
    {
        assert!(Client::new(base, authorities.as_bytes(), &token).is_err(), "{base}");
    }
}
