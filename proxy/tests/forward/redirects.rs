//! Redirects of the member, as the client sees them.

use upgrade_aware_proxy::{BasePath, RedirectPolicy, Target};

use crate::support::{
    front::{Front, target},
    member::RawMember,
    raw::Answer,
};

async fn answer(redirects: RedirectPolicy, answer: &str) -> Answer {
    let member = RawMember::answering(answer).await;
    let target = Target {
        redirects,
        base_path: BasePath::new("/base").unwrap(),
        client_prefix: "/clusters/east/proxy".into(),
        path_and_query: Some("/some/page?old".parse().unwrap()),
        ..target(member.dial())
    };
    let front = Front::of(target).await;
    front.socket().await.ask("GET /clusters/east/proxy/some/page?old HTTP/1.1\r\nHost: f\r\n\r\n").await
}

async fn redirected_to(location: &str) -> Option<String> {
    let redirect = format!("HTTP/1.1 301 Moved\r\nLocation: {location}\r\nContent-Length: 5\r\n\r\nmoved");
    let answer = answer(RedirectPolicy::WithinTarget, &redirect).await;
    if answer.status == 301 {
        assert_eq!(answer.text(), "moved");
        return Some(answer.header("location").unwrap().to_owned());
    }
    assert_eq!(answer.status, 502);
    assert_eq!(answer.header("location"), None);
    assert_eq!(
        answer.text(),
        "the target answered with a redirect (status code 301), which is not permitted\n"
    );
    None
}

#[tokio::test]
async fn redirect_inside_the_target_is_passed_on_as_a_path() {
    for (location, expected) in [
        ("/base/redirected/target/", "/clusters/east/proxy/redirected/target/"),
        ("/base/", "/clusters/east/proxy/"),
        ("/base", "/clusters/east/proxy"),
        ("/base/a?b=c;d#e", "/clusters/east/proxy/a?b=c;d#e"),
        ("http://member.test:8443/base/a%2Fb", "/clusters/east/proxy/a%2Fb"),
        ("HTTP://MEMBER.test:8443/base/a", "/clusters/east/proxy/a"),
        ("//member.test:8443/base/a", "/clusters/east/proxy/a"),
        ("other", "/clusters/east/proxy/some/other"),
        ("../up/", "/clusters/east/proxy/up/"),
        ("./here", "/clusters/east/proxy/some/here"),
        ("?new", "/clusters/east/proxy/some/page?new"),
        ("#part", "/clusters/east/proxy/some/page?old#part"),
        ("/base//evil.example", "/clusters/east/proxy//evil.example"),
        ("/base/<script>\"x\" y", "/clusters/east/proxy/%3Cscript%3E%22x%22%20y"),
        ("/base/caf\u{e9}", "/clusters/east/proxy/caf%C3%A9"),
    ] {
        assert_eq!(redirected_to(location).await.as_deref(), Some(expected), "{location}");
    }
}

#[tokio::test]
async fn redirect_out_of_the_target_is_502() {
    for location in [
        "https://evil.example/base/",
        "http://evil.example/base/",
        "//evil.example/base/",
        "https://member.test:8443/base/",
        "http://member.test/base/",
        "http://member.test:8443@evil.example/base/",
        "http://user@member.test:8443/base/",
        "http://member.test:8443.evil.example/base/",
        "http:/base/",
        "http:base",
        "javascript:alert(1)",
        "data:text/html,x",
        "/",
        "/other",
        "/basement/",
        "/base/../other",
        "/base/%2e%2e/other",
        "/base/..%2fother",
        "../../../other",
        "../../../../base/over/the/root",
        "\\\\evil.example",
        "/\\evil.example",
        "/base/\\..\\..",
        "http://member.test:8443",
        "http://member.test:8443\t/base/",
    ] {
        assert_eq!(redirected_to(location).await, None, "{location}");
    }
}

#[tokio::test]
async fn several_locations_are_502() {
    let redirect =
        "HTTP/1.1 302 Found\r\nLocation: /base/a\r\nLocation: //evil.example\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(answer(RedirectPolicy::WithinTarget, redirect).await.status, 502);
}

#[tokio::test]
async fn not_modified_always_passes() {
    for policy in [RedirectPolicy::WithinTarget, RedirectPolicy::Refuse, RedirectPolicy::Pass] {
        let plain = answer(policy, "HTTP/1.1 304 Not Modified\r\nETag: \"e\"\r\n\r\n").await;
        assert_eq!((plain.status, plain.header("etag")), (304, Some("\"e\"")));
    }
    for policy in [RedirectPolicy::WithinTarget, RedirectPolicy::Refuse] {
        let located =
            answer(policy, "HTTP/1.1 304 Not Modified\r\nLocation: https://evil.example\r\n\r\n").await;
        assert_eq!((located.status, located.header("location")), (304, None));
    }
}

#[tokio::test]
async fn policy_decides_about_redirects_and_about_nothing_else() {
    let inside = "HTTP/1.1 307 Temporary\r\nLocation: /base/a\r\nContent-Length: 2\r\n\r\nok";
    let outside = "HTTP/1.1 301 Moved\r\nLocation: https://else.example/\r\nContent-Length: 2\r\n\r\nok";
    let bare = "HTTP/1.1 300 Multiple Choices\r\nContent-Length: 2\r\n\r\nok";
    let created = "HTTP/1.1 201 Created\r\nLocation: https://else.example/\r\nContent-Length: 2\r\n\r\nok";
    for (policy, statuses) in [
        (RedirectPolicy::WithinTarget, [307, 502, 300, 201]),
        (RedirectPolicy::Refuse, [502, 502, 300, 201]),
        (RedirectPolicy::Pass, [307, 301, 300, 201]),
    ] {
        for (response, status) in [inside, outside, bare, created].into_iter().zip(statuses) {
            let answer = answer(policy, response).await;
            assert_eq!(answer.status, status, "{policy:?} {response}");
            if status != 502 {
                assert_eq!(answer.text(), "ok");
            }
        }
    }
    let passed = answer(RedirectPolicy::Pass, outside).await;
    assert_eq!(passed.header("location"), Some("https://else.example/"));
}

#[tokio::test]
async fn redirect_is_never_followed() {
    let member = RawMember::answering(
        "HTTP/1.1 302 Found\r\nLocation: http://member.test:8443/next\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    let front = Front::of(target(member.dial())).await;
    let answer = front.socket().await.ask("GET / HTTP/1.1\r\nHost: f\r\n\r\n").await;
    assert_eq!((answer.status, answer.header("location")), (302, Some("/next")));
    assert_eq!(member.received().matches("HTTP/1.1").count(), 1);
}

#[tokio::test]
async fn redirect_to_a_double_slash_is_502_where_the_client_would_read_a_host() {
    for location in ["http://member.test:8443//evil.example", "////evil.example", "/.//evil.example"] {
        let member = RawMember::answering(format!(
            "HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        ))
        .await;
        let front = Front::of(target(member.dial())).await;
        let answer = front.socket().await.ask("GET / HTTP/1.1\r\nHost: f\r\n\r\n").await;
        assert_eq!((answer.status, answer.header("location")), (502, None), "{location}");
    }
}
