//! Tests of the access layer without a socket, with a route that returns what it learns of the
//! visitor.

use axum::body::Body;
use axum::http::HeaderValue;
use axum::routing::any;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::config::Config;

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
            cookie.ends_with("; Max-Age=604800; HttpOnly; SameSite=Strict")
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
        for name in FORWARDED {
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
async fn a_logged_in_user_changes_things_only_by_our_own_forms() {
    let site = Site::new(true, false);
    let (cookie, csrf) = site.log_in().await;
    let own = format!("http://{BOARD}");
    let post = |url: &str| {
        site.ask("POST", url)
            .header("cookie", &format!("other=1; {cookie}"))
    };
    let signed = format!("/people?csrf={csrf}");
    assert_eq!(post(&signed).header("origin", &own).status().await, 200);
    assert_eq!(
        post(&signed)
            .header("sec-fetch-site", "same-origin")
            .status()
            .await,
        200
    );
    assert_eq!(
        post("/people?a=b")
            .header("origin", &own)
            .header("x-csrf-token", &csrf)
            .status()
            .await,
        200
    );
    // A proxy that encrypts passes on the name it was asked by.
    assert_eq!(
        post(&signed)
            .header("host", "localhost")
            .header("origin", "https://localhost")
            .status()
            .await,
        200
    );
    assert_eq!(post(&signed).status().await, 403, "no browser says nothing");
    for origin in [
        "null",
        "http://evil.example",
        "http://192.168.1.20",
        "http://192.168.1.20:8001",
        "ftp://192.168.1.20:8000",
        "",
    ] {
        assert_eq!(
            post(&signed).header("origin", origin).status().await,
            403,
            "{origin}"
        );
    }
    assert_eq!(
        post(&signed)
            .header("sec-fetch-site", "cross-site")
            .status()
            .await,
        403
    );
    assert_eq!(
        post(&signed)
            .header("origin", &own)
            .header("sec-fetch-site", "cross-site")
            .status()
            .await,
        403
    );
    for url in [
        "/people".to_string(),
        "/people?csrf=".into(),
        format!("/people?csrf={csrf}x"),
        format!("/people?csrf={}", &csrf[1..]),
    ] {
        assert_eq!(
            post(&url).header("origin", &own).status().await,
            403,
            "{url}"
        );
    }
    // The CSRF token of another session is not valid.
    let (_, theirs) = site.log_in().await;
    assert_eq!(
        post(&format!("/people?csrf={theirs}"))
            .header("origin", &own)
            .status()
            .await,
        403
    );
    // Over TLS, an unencrypted page of the same name is another origin, and the cookie has another
    // name.
    let secure = format!("__Host-{cookie}");
    let over_tls = |origin: &str| {
        site.ask("POST", &signed)
            .encrypted()
            .header("cookie", &secure)
            .header("origin", origin)
    };
    assert_eq!(over_tls(&format!("https://{BOARD}")).status().await, 200);
    assert_eq!(over_tls(&own).status().await, 403);
    assert_eq!(
        site.ask("GET", "/v1/backup")
            .encrypted()
            .header("cookie", &cookie)
            .status()
            .await,
        401
    );

    let response = post(&format!("/logout?csrf={csrf}"))
        .header("origin", &own)
        .send()
        .await;
    assert_eq!(response.status(), 303);
    assert!(
        response.headers()["set-cookie"]
            .to_str()
            .unwrap()
            .starts_with("kithd_session=; Max-Age=0")
    );
    assert_eq!(
        post(&signed).header("origin", &own).status().await,
        401,
        "a cookie that was kept is worth nothing"
    );
}

#[tokio::test]
async fn a_new_token_ends_the_old_one_and_whoever_used_it() {
    let site = Site::new(true, false);
    let (cookie, _) = site.log_in().await;
    let asked = || site.ask("GET", "/v1/backup").header("cookie", &cookie);
    assert_eq!(asked().status().await, 200);
    let new = site.access.token(true).unwrap();
    assert_eq!(asked().status().await, 401);
    assert_eq!(
        site.ask("GET", "/v1/backup")
            .bearer(&site.token)
            .status()
            .await,
        401
    );
    assert_eq!(
        site.ask("GET", "/v1/backup").bearer(&new).status().await,
        200
    );
    assert_eq!(site.access.token(false).unwrap(), new);
}

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
async fn logging_in_leads_only_to_our_own_pages_and_not_from_others() {
    let site = Site::new(true, false);
    for (next, place) in [
        ("/strangers/7%3Fa%3Db", "./strangers/7?a=b"),
        ("%2F%2Fevil.example", "./"),
        ("%2F%5Cevil.example", "./"),
        ("https%3A%2F%2Fevil.example", "./"),
        ("%2Fa%0d%0aSet-Cookie%3A%20x%3Dy", "./"),
        ("%2Fm%C3%BCnch%20en", "./m%C3%BCnch%20en"),
        ("", "./"),
    ] {
        let form = format!("next={next}&token={}", site.token);
        let response = site.ask("POST", "/login").form(&form).send().await;
        assert_eq!(
            (
                response.status().as_u16(),
                response.headers()["location"].to_str().unwrap()
            ),
            (303, place),
            "{next}"
        );
    }
    let form = format!("token={}", site.token);
    assert_eq!(
        site.ask("POST", "/login")
            .form(&form)
            .header("origin", "http://evil.example")
            .status()
            .await,
        403
    );
    assert_eq!(site.ask("POST", "/login").form("").status().await, 422);
    let response = site
        .ask("POST", "/login")
        .form(&form)
        .encrypted()
        .send()
        .await;
    let cookie = response.headers()["set-cookie"].to_str().unwrap();
    assert!(
        cookie.starts_with("__Host-kithd_session=")
            && cookie.ends_with("SameSite=Strict; Path=/; Secure"),
        "{cookie}"
    );
}

#[tokio::test]
async fn wrong_tokens_lock_nobody_out() {
    let site = Site::new(true, false);
    for _ in 0..300 {
        let response = site
            .ask("POST", "/login")
            .from("192.168.1.66")
            .form("token=guess&next=/people")
            .send()
            .await;
        assert_eq!(
            (
                response.status().as_u16(),
                &response.headers()["www-authenticate"]
            ),
            (401, &BEARER)
        );
        assert_eq!(
            site.ask("GET", "/v1/images")
                .from("192.168.1.66")
                .bearer("guess")
                .status()
                .await,
            401
        );
    }
    let page = site
        .ask("POST", "/login")
        .form("token=guess&next=/people")
        .send()
        .await;
    let page = String::from_utf8(
        page.into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .to_vec(),
    )
    .unwrap();
    assert!(
        page.contains("That is not the administrator") && page.contains("value=\"/people\""),
        "{page}"
    );
    let form = format!("token={}", site.token);
    assert_eq!(
        site.ask("POST", "/login")
            .from("192.168.1.66")
            .form(&form)
            .status()
            .await,
        303
    );
    assert_eq!(
        site.ask("GET", "/v1/backup")
            .from("192.168.1.66")
            .bearer(&site.token)
            .status()
            .await,
        200
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
        let response = super::super::outermost(routes.clone(), named.clone())
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
