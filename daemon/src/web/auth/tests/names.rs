//! Names of the board, and those of others.

use super::super::policy::{STRANGE, STRANGE_LETTERS};
use super::*;

#[tokio::test]
async fn other_host_names_are_refused_before_anything_else() {
    let site = Site::new(true, true);
    for (host, status) in [
        ("localhost:1", 200),
        ("127.0.0.1", 200),
        ("evil.example:8000", 421),
        ("192.168.1.21", 421),
        ("a b", 421),
    ] {
        for url in ["/", "/healthz", "/login", "/assets/x"] {
            assert_eq!(
                site.ask("GET", url)
                    .header("host", host)
                    .bearer(&site.token)
                    .status()
                    .await,
                status,
                "{host}{url}"
            );
        }
        assert_eq!(
            site.ask("POST", "/v1/images")
                .header("host", host)
                .status()
                .await,
            status,
            "{host}"
        );
    }
    let mut asked = site.ask("GET", "/");
    asked
        .request
        .headers_mut()
        .append("host", HeaderValue::from_static(BOARD));
    assert_eq!(asked.status().await, 400, "two of them");
    // A request as to a proxy: the name in its first line counts.
    assert_eq!(site.ask("GET", "http://evil.example/").status().await, 421);
    let page = site
        .ask("GET", "/")
        .header("host", "evil.example")
        .header("accept", "text/html")
        .send()
        .await;
    assert!(
        page.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/html")
    );
}

#[tokio::test]
async fn a_name_that_is_not_the_boards_is_said_with_the_key() {
    let site = Site::new(true, false);
    for name in ["door.fritz.box:8000", "door.fritz.box", "rebound.example"] {
        let response = site
            .ask("GET", "/v1/images")
            .header("host", name)
            .send()
            .await;
        assert_eq!(response.status(), 421);
        let text = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(
            text.contains(name.split(':').next().unwrap()) && text.contains("http.names"),
            "{text}"
        );
    }
    assert_eq!(
        site.access.strange_names(),
        ["door.fritz.box", "rebound.example"]
    );
    for number in 0..100 {
        site.ask("GET", "/")
            .header("host", &format!("{number}{}", "x".repeat(500)))
            .send()
            .await;
        site.ask("GET", "/")
            .header("host", &format!("<{number}>"))
            .send()
            .await;
    }
    let names = site.access.strange_names();
    assert!(
        names.len() == STRANGE && names.iter().all(|name| name.len() <= STRANGE_LETTERS),
        "{names:?}"
    );
}
