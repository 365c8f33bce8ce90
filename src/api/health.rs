//! `/healthz`, `/livez` and `/readyz`: the only paths that answer anybody.
//!
//! They say how Clusterway is, never how its members are: a member that is down must not take the door down
//! (kubernetes/kubernetes#60807).

use http::{HeaderValue, Response, StatusCode, header};
use upgrade_aware_proxy::ResponseBody;

/// One named check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// Whether it passes.
    pub ok: bool,
}

/// Answers endpoint `endpoint` (`healthz`, `livez`, `readyz`) as a Kubernetes API server does: 200 `ok`, or 500 with
/// the failed checks; `?verbose` lists every check.
pub fn respond(endpoint: &str, query: Option<&str>, checks: &[Check]) -> Response<ResponseBody> {
    let healthy = checks.iter().all(|check| check.ok);
    let verbose = query
        .is_some_and(|query| query.split('&').any(|pair| pair == "verbose" || pair.starts_with("verbose=")));
    let text = if healthy && !verbose {
        "ok".to_owned()
    } else {
        let mut text: String = checks
            .iter()
            .map(|check| match check.ok {
                true => format!("[+]{} ok\n", check.name),
                false => format!("[-]{} failed: reason withheld\n", check.name),
            })
            .collect();
        text.push_str(endpoint);
        text.push_str(if healthy { " check passed\n" } else { " check failed\n" });
        text
    };
    let mut response = Response::new(ResponseBody::full(text));
    if !healthy {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn body(response: Response<ResponseBody>) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    const PING: Check = Check { name: "ping", ok: true };
    const SHUTDOWN: Check = Check { name: "shutdown", ok: false };

    #[tokio::test]
    async fn healthy_is_ok_and_verbose_lists_the_checks() {
        assert_eq!(body(respond("healthz", None, &[PING])).await, "ok");
        assert_eq!(
            body(respond("healthz", Some("verbose"), &[PING])).await,
            "[+]ping ok\nhealthz check passed\n"
        );
    }

    #[tokio::test]
    async fn a_failed_check_is_500_and_named() {
        let response = respond("readyz", None, &[PING, SHUTDOWN]);
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(
            body(response).await,
            "[+]ping ok\n[-]shutdown failed: reason withheld\nreadyz check failed\n"
        );
    }
}
