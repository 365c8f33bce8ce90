//! Where definitions of clusters come from. Each source translates foreign objects into the same
//! [`ClusterSpec`](super::ClusterSpec); none of them dials.

pub mod kubeconfig;
pub mod secret;

use http::Uri;
use upgrade_aware_proxy::BasePath;

use super::Endpoint;

/// An endpoint URL that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{url:?} is not an endpoint: {why}; write https://host[:port][/path]")]
pub struct InvalidEndpoint {
    url: String,
    why: &'static str,
}

/// Takes the base URL of an API server apart.
///
/// # Errors
/// [`InvalidEndpoint`].
pub fn endpoint(url: &str) -> Result<Endpoint, InvalidEndpoint> {
    // User info is a credential and has no place in an error.
    let shown = url.rsplit_once('@').map_or_else(|| url.to_owned(), |(_, rest)| format!("…@{rest}"));
    let invalid = |why| InvalidEndpoint { url: shown.clone(), why };
    let uri: Uri = url.parse().map_err(|_| invalid("it is not a URL"))?;
    let scheme = match uri.scheme_str() {
        Some("https") => http::uri::Scheme::HTTPS,
        Some("http") => http::uri::Scheme::HTTP,
        Some(_) => return Err(invalid("its scheme is neither https nor http")),
        None => return Err(invalid("it has no scheme")),
    };
    let authority = uri.authority().ok_or_else(|| invalid("it has no host"))?.clone();
    if authority.as_str().contains('@') {
        return Err(invalid("it holds user info, which belongs into the credential"));
    }
    if authority.host().is_empty() {
        return Err(invalid("it has no host"));
    }
    let port = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    if !port.is_empty() && authority.port_u16().is_none_or(|port| port == 0) {
        return Err(invalid("its port is no port"));
    }
    if uri.query().is_some() {
        return Err(invalid("it has a query"));
    }
    let base_path = BasePath::new(uri.path()).map_err(|_| invalid("its path is not a plain prefix"))?;
    Ok(Endpoint { scheme, authority, base_path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_keep_their_path_and_lose_one_trailing_slash() {
        for (url, base) in [
            ("https://10.0.0.1:6443", ""),
            ("https://10.0.0.1:6443/", ""),
            ("https://rancher/k8s/clusters/c-1/", "/k8s/clusters/c-1"),
            ("https://[::1]:6443/a%2Fb", "/a%2Fb"),
        ] {
            assert_eq!(endpoint(url).unwrap().base_path.as_str(), base, "{url}");
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_without_showing_passwords() {
        for url in [
            "",
            "10.0.0.1:6443",
            "ftp://x",
            "https://",
            "https://x/?a=1",
            "https://x/../y",
            "https://u:pw@x",
            "https://x:99999",
            "https://x:0",
            "https://x:",
            "https://x:https",
            "https://[::1",
            "https://x y",
        ] {
            let error = endpoint(url).unwrap_err().to_string();
            assert!(!error.contains("pw"), "{error}");
        }
    }
}
