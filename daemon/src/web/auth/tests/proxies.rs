//! Requests that come by proxies and dashboards.

use axum::http::{Version, header};
use axum::routing::get;

use super::*;

#[tokio::test]
async fn what_a_proxy_on_the_board_passes_on_is_not_the_boards_own() {
    let site = Site::new(true, false);
    let post = |address: &str| site.ask("POST", "/v1/images").from(address);
    // Programs on the board, by any of its addresses and names.
    assert_eq!(post("127.0.0.1").status().await, 200);
    assert_eq!(post("192.168.1.20").status().await, 200);
    assert_eq!(
        post("192.168.1.20")
            .header("host", "localhost:8000")
            .status()
            .await,
        200
    );
    assert_eq!(post("192.168.1.21").status().await, 401);
    // nginx adds no header, but uses the old version; HAProxy passes on the Host that it was asked
    // under.
    for address in ["127.0.0.1", "192.168.1.20"] {
        for host in [
            "localhost",
            "192.168.1.20",
            "192.168.1.20:80",
            "localhost:8080",
        ] {
            assert_eq!(
                post(address).header("host", host).status().await,
                401,
                "{host}"
            );
        }
        let mut old = post(address);
        *old.request.version_mut() = Version::HTTP_10;
        let response = old.send().await;
        assert_eq!(response.status(), 401);
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert!(
            String::from_utf8_lossy(&text).contains("by a proxy"),
            "{text:?}"
        );
    }
    let http = Http {
        proxies: vec![[127, 0, 0, 1].into()],
        ..Config::default().http
    };
    let access = Access::open(site._folder.path(), &http, Health::default());
    let (health, token) = (Health::default(), site.token.clone());
    let site = Site {
        access,
        token,
        health,
        _folder: site._folder,
    };
    assert_eq!(
        site.ask("POST", "/v1/images")
            .from("127.0.0.1")
            .status()
            .await,
        401
    );
    assert_eq!(
        site.ask("POST", "/v1/images")
            .from("::ffff:127.0.0.1")
            .status()
            .await,
        401
    );
    assert_eq!(
        site.ask("POST", "/v1/images")
            .from("192.168.1.20")
            .status()
            .await,
        200
    );
}

#[tokio::test]
async fn log_in_works_through_a_proxy_that_asks_under_another_host() {
    let folder = tempfile::tempdir().unwrap();
    let http = Http {
        names: vec!["board.example".into()],
        ..Config::default().http
    };
    let access = Access::open(folder.path(), &http, Health::default());
    let token = access.token(false).unwrap();
    let site = Site {
        access,
        token,
        health: Health::default(),
        _folder: folder,
    };
    let form = format!("token={}", site.token);
    let name = format!("http://{}.local", hostname());
    for (peer, origin, status) in [
        ("127.0.0.1", name.as_str(), 303),
        ("127.0.0.1", "http://192.168.1.20", 303),
        ("127.0.0.1", "https://board.example:8443", 303),
        ("192.168.1.9", "https://board.example", 303),
        ("127.0.0.1", "http://evil.example", 403),
        ("127.0.0.1", "http://localhost:3000", 403),
        ("192.168.1.9", name.as_str(), 403),
    ] {
        let asked = || {
            site.ask("POST", "/login")
                .from(peer)
                .header("host", "127.0.0.1:8000")
                .form(&form)
        };
        assert_eq!(
            asked().header("origin", origin).status().await,
            status,
            "{peer} {origin}"
        );
    }
    let (cookie, csrf) = site.log_in().await;
    let post = |host: &str, origin: &str| {
        let asked = site
            .ask("POST", &format!("/people?csrf={csrf}"))
            .header("cookie", &cookie)
            .from("127.0.0.1");
        asked.header("host", host).header("origin", origin)
    };
    assert_eq!(post("127.0.0.1:8000", &name).status().await, 200);
    assert_eq!(
        post("127.0.0.1:8000", "http://evil.example").status().await,
        403
    );
    assert_eq!(
        post("127.0.0.1:8000", "http://evil.example")
            .header("sec-fetch-site", "same-origin")
            .status()
            .await,
        200
    );
    assert_eq!(
        post("127.0.0.1:8000", &name)
            .header("sec-fetch-site", "cross-site")
            .status()
            .await,
        403
    );
}

#[tokio::test]
async fn frames_and_pictures_are_for_the_pages_that_were_named() {
    let site = Site::new(true, false);
    let response = site.ask("GET", "/").send().await;
    assert!(
        response.headers()["content-security-policy"]
            .to_str()
            .unwrap()
            .contains("frame-ancestors 'none'")
    );
    assert_eq!(
        response.headers()["cross-origin-resource-policy"],
        "same-origin"
    );
    let named = Framing::by(&["http://ha.lan:8123".into(), "https://ha.example".into()]);
    let picture = || async { ([(header::CONTENT_TYPE, "image/jpeg")], "jpeg") };
    let routes = Router::new()
        .route("/a.jpg", get(picture))
        .route("/", get(|| async { "page" }));
    for (url, policy) in [("/a.jpg", "cross-origin"), ("/", "same-origin")] {
        let request = Request::get(url).body(Body::empty()).unwrap();
        let response = crate::web::outermost(routes.clone(), named.clone())
            .oneshot(request)
            .await
            .unwrap();
        assert_eq!(response.headers()["cross-origin-resource-policy"], policy);
        let security = response.headers()["content-security-policy"]
            .to_str()
            .unwrap();
        assert!(
            security.ends_with("frame-ancestors 'self' http://ha.lan:8123 https://ha.example"),
            "{security}"
        );
    }
}
