//! Tests of the access layer without a socket, with a route that returns what it learns of the
//! visitor.

mod login;
mod names;
mod proxies;

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Extension};
use axum::http::{HeaderValue, StatusCode};
use axum::routing::any;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::refusal::BEARER;
use super::*;
use crate::config::Config;
use crate::http_server::Arrival;
use crate::web::visitor::Visitor;

const BOARD: &str = "192.168.1.20:8000";

struct Site {
    access: Access,
    token: String,
    health: Health,
    _folder: tempfile::TempDir,
}

/// A request being built.
struct Ask<'a> {
    site: &'a Site,
    request: Request,
}

impl Site {
    fn new(open_read: bool, open_submit: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let http = Http {
            open_read,
            open_submit,
            ..Config::default().http
        };
        let health = Health::default();
        let access = Access::open(folder.path(), &http, health.clone());
        let token = access.token(false).unwrap();
        Self {
            access,
            token,
            health,
            _folder: folder,
        }
    }

    /// Makes a request as a program on the LAN sends it.
    fn ask(&self, method: &str, url: &str) -> Ask<'_> {
        let mut request = Request::builder()
            .method(method)
            .uri(url)
            .body(Body::empty())
            .unwrap();
        request.extensions_mut().insert(Arrival {
            local: BOARD.parse().unwrap(),
            encrypted: false,
        });
        Ask {
            site: self,
            request,
        }
        .header("host", BOARD)
        .from("192.168.1.9")
    }

    async fn log_in(&self) -> (String, String) {
        let form = format!("token={}&next=/people", self.token);
        let response = self.ask("POST", "/login").form(&form).send().await;
        assert_eq!(
            (response.status(), &response.headers()["location"]),
            (StatusCode::SEE_OTHER, &"./people".parse().unwrap())
        );
        let cookie = response.headers()["set-cookie"]
            .to_str()
            .unwrap()
            .to_string();
        assert!(
            cookie.ends_with("; HttpOnly; SameSite=Strict; Max-Age=604800")
                && !cookie.contains("Path"),
            "{cookie}"
        );
        let cookie = cookie.split(';').next().unwrap().to_string();
        let csrf = self
            .ask("GET", "/page")
            .header("cookie", &cookie)
            .text()
            .await;
        (cookie, csrf.strip_prefix("csrf ").unwrap().to_string())
    }
}

impl Ask<'_> {
    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.request
            .headers_mut()
            .insert(name, HeaderValue::from_str(value).unwrap());
        self
    }

    fn from(mut self, address: &str) -> Self {
        self.request
            .extensions_mut()
            .insert(ConnectInfo(SocketAddr::new(
                address.parse().unwrap(),
                40000,
            )));
        self
    }

    fn encrypted(mut self) -> Self {
        self.request.extensions_mut().insert(Arrival {
            local: BOARD.parse().unwrap(),
            encrypted: true,
        });
        self
    }

    fn form(mut self, form: &str) -> Self {
        *self.request.body_mut() = Body::from(form.to_string());
        self.header("content-type", "application/x-www-form-urlencoded")
    }

    fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    async fn send(self) -> Response {
        let told = |visitor: Extension<Visitor>| async move {
            visitor
                .csrf
                .clone()
                .map_or_else(|| "nobody".into(), |csrf| format!("csrf {csrf}"))
        };
        let routes = Router::new()
            .route("/", any(told))
            .route("/{*rest}", any(told));
        super::super::guarded(routes, self.site.access.clone())
            .oneshot(self.request)
            .await
            .unwrap()
    }

    async fn status(self) -> u16 {
        self.send().await.status().as_u16()
    }

    async fn text(self) -> String {
        let response = self.send().await;
        assert_eq!(response.status(), StatusCode::OK);
        String::from_utf8(
            response
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes()
                .to_vec(),
        )
        .unwrap()
    }
}

#[tokio::test]
async fn by_default_all_may_look_and_changes_need_the_token() {
    let site = Site::new(true, false);
    for url in [
        "/",
        "/images/1",
        "/v1/images",
        "/metrics",
        "/login",
        "/nothing",
    ] {
        assert!(!site.ask("GET", url).text().await.is_empty(), "{url}");
        assert_eq!(site.ask("HEAD", url).status().await, 200, "{url}");
    }
    for (method, url) in [
        ("GET", "/v1/backup"),
        ("HEAD", "/v1/backup"),
        ("PUT", "/v1/backup"),
        ("POST", "/v1/breaker"),
        ("DELETE", "/v1/images/1"),
        ("PATCH", "/v1/people/1"),
        ("OPTIONS", "/v1/people/1"),
        ("POST", "/image/post"),
        ("POST", "/v1/images"),
        ("POST", "/logout"),
        ("POST", "/nothing"),
    ] {
        let response = site.ask(method, url).send().await;
        assert_eq!(response.status(), 401, "{method} {url}");
        assert_eq!(
            response.headers()["www-authenticate"],
            "Bearer realm=\"kithd\""
        );
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        assert!(response.headers().contains_key("content-security-policy"));
        assert_eq!(
            site.ask(method, url).bearer(&site.token).status().await / 100,
            if url == "/logout" { 3 } else { 2 }
        );
        assert_eq!(
            site.ask(method, url)
                .header("authorization", &format!("bearer  {}", site.token))
                .status()
                .await
                / 100,
            if url == "/logout" { 3 } else { 2 }
        );
    }
    assert!(
        site.health.parts()["access"]
            .text
            .contains("every change needs the token")
    );
}

#[tokio::test]
async fn looking_can_be_closed_and_then_needs_the_token() {
    let site = Site::new(false, false);
    for url in ["/healthz", "/readyz", "/assets/style.css", "/login"] {
        assert_eq!(site.ask("GET", url).status().await, 200, "{url}");
    }
    for url in [
        "/",
        "/v1/images",
        "/events",
        "/metrics",
        "/loginx",
        "/healthz/x",
    ] {
        assert_eq!(site.ask("GET", url).status().await, 401, "{url}");
        assert_eq!(
            site.ask("GET", url).bearer(&site.token).status().await,
            200,
            "{url}"
        );
    }
    let response = site
        .ask("GET", "/?state=failed&path=a%20b")
        .header("accept", "text/html")
        .send()
        .await;
    assert_eq!(response.status(), 303);
    assert_eq!(
        response.headers()["location"],
        "./login?next=%2F%3Fstate%3Dfailed%26path%3Da%2520b".replace("%2F", "/")
    );
    let response = site
        .ask("GET", "/v1/images")
        .header("accept", "text/html")
        .send()
        .await;
    assert_eq!(response.status(), 401, "the API asks nobody to log in");
    let (cookie, _) = site.log_in().await;
    assert!(
        site.ask("GET", "/")
            .header("cookie", &cookie)
            .text()
            .await
            .starts_with("csrf ")
    );
}

#[tokio::test]
async fn pictures_need_no_token_from_the_board_but_from_web_pages() {
    let site = Site::new(true, false);
    for url in ["/image/post", "/images/post", "/v1/images", "/v1/identify"] {
        let here = || site.ask("POST", url).from("127.0.0.1");
        assert_eq!(here().status().await, 200);
        assert_eq!(site.ask("POST", url).from("::1").status().await, 200);
        assert_eq!(
            site.ask("POST", url)
                .from("::ffff:127.0.0.1")
                .status()
                .await,
            200
        );
        assert_eq!(
            here()
                .header("origin", &format!("http://{BOARD}"))
                .status()
                .await,
            200
        );
        assert_eq!(here().header("sec-fetch-site", "none").status().await, 200);
        for (name, value) in [
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("origin", "http://192.168.1.20:9000"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert_eq!(
                here().header(name, value).status().await,
                403,
                "{name}: {value}"
            );
        }
        for name in request::FORWARDED {
            assert_eq!(
                here().header(name, "192.168.1.9").status().await,
                401,
                "{name}"
            );
        }
    }
    assert_eq!(
        site.ask("POST", "/v1/breaker")
            .from("127.0.0.1")
            .status()
            .await,
        401
    );
    let site = Site::new(true, true);
    assert_eq!(site.ask("POST", "/v1/images").status().await, 200);
    assert_eq!(
        site.ask("POST", "/v1/images")
            .header("origin", "http://evil.example")
            .status()
            .await,
        403
    );
    assert_eq!(site.ask("POST", "/v1/people").status().await, 401);
    assert_eq!(site.ask("DELETE", "/v1/images").status().await, 401);
}

#[tokio::test]
async fn the_token_is_taken_as_a_password_of_anybody() {
    let site = Site::new(false, false);
    let basic = |user: &str, password: &str| {
        format!(
            "Basic {}",
            BASE64_STANDARD.encode(format!("{user}:{password}"))
        )
    };
    for user in ["admin", "", "camera 1", "ü"] {
        let post = || {
            site.ask("POST", "/v1/images")
                .header("authorization", &basic(user, &site.token))
        };
        assert_eq!(post().status().await, 200, "{user}");
        assert_eq!(
            site.ask("GET", "/v1/backup")
                .header("authorization", &basic(user, &site.token))
                .status()
                .await,
            200
        );
        // A browser that has learned the password sends it for every page.
        assert_eq!(
            post()
                .header("origin", "http://evil.example")
                .status()
                .await,
            403
        );
        assert_eq!(
            post().header("sec-fetch-site", "cross-site").status().await,
            403
        );
    }
    for wrong in [
        basic("admin", "guess"),
        basic(&site.token, ""),
        "Basic !".into(),
        "Basic".into(),
    ] {
        assert_eq!(
            site.ask("POST", "/v1/images")
                .header("authorization", &wrong)
                .status()
                .await,
            401,
            "{wrong}"
        );
    }
    let response = site.ask("POST", "/v1/images").send().await;
    let ways: Vec<_> = response
        .headers()
        .get_all("www-authenticate")
        .iter()
        .map(|way| way.to_str().unwrap())
        .collect();
    assert!(
        ways.len() == 2 && ways[1].starts_with("Basic realm"),
        "{ways:?}"
    );
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&text);
    assert!(
        text.contains("Authorization: Bearer TOKEN")
            && text.contains("password of Basic authentication"),
        "{text}"
    );
    // Browsers would show their own dialog over an open page.
    let response = site.ask("GET", "/events").send().await;
    assert_eq!(
        response
            .headers()
            .get_all("www-authenticate")
            .iter()
            .count(),
        1
    );
    // A proxy's own password is not ours.
    let site = Site::new(true, false);
    assert_eq!(
        site.ask("GET", "/")
            .header("authorization", &basic("ann", "of the proxy"))
            .status()
            .await,
        200
    );
    assert_eq!(
        site.ask("POST", "/v1/images")
            .header("authorization", &basic("ann", "x"))
            .status()
            .await,
        401
    );
}

#[tokio::test]
async fn a_token_in_an_address_is_no_token_and_the_ways_are_named() {
    let site = Site::new(false, false);
    for (method, path) in [
        ("POST", "/v1/images"),
        ("GET", "/v1/backup"),
        ("POST", "/v1/breaker"),
    ] {
        for query in ["token", "access_token", "api_key", "password"] {
            // It would stand in the logs of every proxy.
            let answer = site
                .ask(method, &format!("{path}?{query}={}", site.token))
                .send()
                .await;
            assert_eq!(answer.status(), 401, "{path}?{query}");
            let body = axum::body::to_bytes(answer.into_body(), 1 << 16).await;
            let body = String::from_utf8(body.unwrap().to_vec()).unwrap();
            assert!(
                body.contains("Authorization: Bearer") && body.contains("password"),
                "{path}?{query}: {body}"
            );
        }
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_made_is_reported_and_made_later() {
    let folder = tempfile::tempdir().unwrap();
    let (away, health) = (folder.path().join("away"), Health::default());
    let access = Access::open(&away, &Config::default().http, health.clone());
    assert_eq!(health.parts()["access"].condition, Condition::Degraded);
    let site = Site {
        access,
        token: String::new(),
        health,
        _folder: folder,
    };
    assert_eq!(site.ask("GET", "/v1/backup").bearer("").status().await, 401);
    assert_eq!(site.ask("GET", "/").status().await, 200);
    std::fs::create_dir(&away).unwrap();
    assert_eq!(
        site.ask("GET", "/v1/backup").bearer("guess").status().await,
        401
    );
    assert_eq!(site.health.parts()["access"].condition, Condition::Ok);
    let token = std::fs::read_to_string(away.join("token")).unwrap();
    assert_eq!(
        site.ask("GET", "/v1/backup")
            .bearer(token.trim())
            .status()
            .await,
        200
    );
}
