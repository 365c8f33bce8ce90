//! Path and query, byte for byte.

use std::sync::LazyLock;

use proptest::prelude::*;
use upgrade_aware_proxy::{BasePath, Target};

use crate::support::{
    Http,
    client::Client,
    front::{Front, proxy, target},
    member::RawMember,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Asks for `path` on a plain request and on an upgrade; what arrived, or the status of the refusal.
async fn asked_for(base: &str, path: &str) -> Result<String, u16> {
    let mut seen = Vec::new();
    for (answer, upgrade) in [(OK, ""), (SWITCHING, "Connection: Upgrade\r\nUpgrade: websocket\r\n")] {
        let member = RawMember::answering(answer).await;
        let target = Target { base_path: BasePath::new(base).unwrap(), ..target(member.dial()) };
        let front = Front::of(target).await;
        let answer =
            front.socket().await.ask(format!("GET {path} HTTP/1.1\r\nHost: f\r\n{upgrade}\r\n")).await;
        seen.push(match answer.status {
            200 | 101 => Ok(member.received().split(' ').nth(1).unwrap().to_owned()),
            refused => {
                assert_eq!(member.connections(), 0);
                Err(refused)
            }
        });
    }
    assert_eq!(seen[0], seen[1], "both paths treat {path} alike");
    seen.remove(0)
}

#[tokio::test]
async fn path_and_query_arrive_unchanged() {
    for path in [
        "/",
        "//",
        "/path/to/test",
        "/some/path/",
        "//double//slash//",
        "/%2F%2f/%41/%00/%zz/%",
        "/a;b=c/d,e/@:!$&'()*+=",
        "/caf%C3%A9",
        "/?",
        "/x?",
        "/?a=1&b=2;c=3&flag&&=&a=1",
        "/?q=%zz+%20+?&/../",
        "/../a/./b/..",
        "/%2e%2e/x",
        "/a\\b|c^d{e}\"f",
        "/caf\u{e9}?na\u{ef}ve",
    ] {
        assert_eq!(asked_for("", path).await.as_deref(), Ok(path));
    }
    let long = format!("/?q={}", "x".repeat(8 << 10));
    assert_eq!(asked_for("", &long).await, Ok(long));
}

#[tokio::test]
async fn base_path_is_put_in_front() {
    for (base, path, expected) in [
        ("/base", "/base", "/base/base"),
        ("/base", "/base/", "/base/base/"),
        ("/base/", "/", "/base/"),
        ("/base", "//a", "/base//a"),
        ("/base", "/a%2Fb?", "/base/a%2Fb?"),
        ("/x%2Fy", "/z", "/x%2Fy/z"),
        ("/", "/z", "/z"),
        ("", "/z", "/z"),
        ("/base", "/?/../x", "/base/?/../x"),
    ] {
        assert_eq!(asked_for(base, path).await.as_deref(), Ok(expected), "{base} + {path}");
    }
}

#[tokio::test]
async fn nothing_climbs_out_of_the_base_path() {
    for path in [
        "/..",
        "/../x",
        "/a/../../x",
        "/%2e%2e/x",
        "/.%2E",
        "/..%2fx",
        "/a%5c..%5Cx",
        "/..;/x",
        "/./x",
        "/a/.",
    ] {
        assert_eq!(asked_for("/base", path).await, Err(400), "{path}");
    }
    assert_eq!(asked_for("/base", "*").await, Err(400));
}

#[tokio::test]
async fn empty_path_is_asked_as_root_without_a_redirect() {
    assert_eq!(asked_for("", "http://f").await.as_deref(), Ok("/"));
    assert_eq!(asked_for("/base", "http://f?q").await.as_deref(), Ok("/base/?q"));
}

#[tokio::test]
async fn options_of_the_whole_server_pass() {
    let member = RawMember::answering(OK).await;
    let front = Front::of(target(member.dial())).await;
    assert_eq!(front.socket().await.ask("OPTIONS * HTTP/1.1\r\nHost: f\r\n\r\n").await.status, 200);
    assert!(member.received().starts_with("OPTIONS * HTTP/1.1\r\n"), "{}", member.received());
}

#[tokio::test]
async fn target_may_say_what_to_ask_for() {
    let member = RawMember::answering(OK).await;
    let mut target = target(member.dial());
    target.base_path = BasePath::new("/k8s").unwrap();
    target.path_and_query = Some("/api/v1/pods?limit=1".parse().unwrap());
    let front = Front::of(target).await;
    let answer = front.socket().await.ask("GET /clusters/c/proxy/api?x HTTP/1.1\r\nHost: f\r\n\r\n").await;
    assert_eq!(answer.status, 200);
    assert!(
        member.received().starts_with("GET /k8s/api/v1/pods?limit=1 HTTP/1.1\r\n"),
        "{}",
        member.received()
    );
}

/// One runtime for all cases of a property.
static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| tokio::runtime::Runtime::new().unwrap());

/// What RFC 3986 allows in a path or a query, and what clients send besides.
fn path_and_query() -> impl Strategy<Value = String> {
    (
        "(/[a-zA-Z0-9._~!$&'()*+,;=:@%/\\\\|^{}\"\\[\\]\u{e9}-]{0,40}){1,4}",
        "(\\?[a-zA-Z0-9._~!$&'()*+,;=:@%/?|^`{}\\\\\u{e9}-]{0,60})?",
    )
        .prop_map(|(path, query)| path + &query)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_path_and_query_arrives_unchanged(path in path_and_query()) {
        RUNTIME.block_on(async {
            assert_eq!(asked_for("", &path).await.as_deref(), Ok(path.as_str()));
        });
    }

    #[test]
    fn any_path_and_query_from_http2_arrives_unchanged(path in path_and_query()) {
        // hyper's client builds a Uri of it first, which is what is under test only on the way out.
        prop_assume!(path.parse::<http::Uri>().is_ok_and(|uri| uri.to_string() == path));
        prop_assume!(!path.starts_with("//"));
        RUNTIME.block_on(async {
            let member = RawMember::answering(OK).await;
            let front = Front::start(Http::Two, proxy(), target(member.dial())).await;
            let answer = Client::of(&front).await.get(&path).await;
            assert_eq!(answer.status(), 200);
            let asked = member.received();
            assert_eq!(asked.split(' ').nth(1), Some(path.as_str()));
        });
    }
}
