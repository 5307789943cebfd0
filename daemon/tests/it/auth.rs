//! Access on the LAN: the token, logging in, other sites, encryption; and clients that are too
//! many, too slow or too large.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{TestDaemon, text, wait_for};

/// An HTTP answer in parts.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn of(bytes: &[u8]) -> Self {
        let whole = String::from_utf8_lossy(bytes).into_owned();
        let (head, body) = whole.split_once("\r\n\r\n").unwrap_or((&whole, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or(0);
        Self {
            status,
            head: head.to_lowercase(),
            body: body.into(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Sends a request as written and adds only Host, Connection and Content-Length.
fn ask(daemon: &TestDaemon, line: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut stream = TcpStream::connect(daemon.address()).unwrap();
    let mut request = format!(
        "{line} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    if !headers.iter().any(|(name, _)| *name == "Host") {
        request.push_str(&format!("Host: {}\r\n", daemon.address()));
    }
    headers
        .iter()
        .for_each(|(name, value)| request.push_str(&format!("{name}: {value}\r\n")));
    request.push_str(&format!("\r\n{body}"));
    // A refused request may be closed before all of it is read.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Answer::of(&answer)
}

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

fn curl(arguments: &[&str]) -> (bool, String) {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "30"])
        .args(arguments)
        .output();
    let output = output.expect("curl is not installed; ./dev test installs it");
    (output.status.success(), text(&output))
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The old token is worth nothing once it is replaced.
#[test]
fn a_token_is_made_at_the_first_start_and_guards_changes() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let file = daemon.state("token");
    assert_eq!(mode(&file), 0o600);
    let shown = |arguments: &[&str]| {
        let output = daemon.kithd(arguments);
        assert!(output.status.success(), "{}", text(&output));
        (
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (first, where_used) = shown(&["token"]);
    assert_eq!(first.trim(), daemon.token());
    assert!(where_used.contains(&daemon.url("/")), "{where_used}");

    let breaker = |token: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [
            ("Authorization", bearer.as_str()),
            ("Content-Type", "application/json"),
        ];
        ask(
            &daemon,
            "POST /v1/breaker",
            &headers[usize::from(token.is_empty())..],
            r#"{"command":"auto"}"#,
        )
    };
    let refused = breaker("");
    assert_eq!(
        (refused.status, refused.header("www-authenticate")),
        (401, Some("bearer realm=\"kithd\""))
    );
    let problem: Value = serde_json::from_str(&refused.body).unwrap();
    assert!(
        problem["detail"].as_str().unwrap().contains("kithd token"),
        "{problem}"
    );
    wait_for("the engine", || {
        (breaker(first.trim()).status == 200).then_some(())
    });
    assert_eq!(breaker("wrong").status, 401);
    assert_eq!(ask(&daemon, "GET /v1/backup", &[], "").status, 401);
    assert_eq!(ask(&daemon, "DELETE /v1/images/1", &[], "").status, 401);

    let (second, _) = shown(&["token", "--new"]);
    assert_ne!(second, first);
    assert_eq!(
        (
            breaker(first.trim()).status,
            breaker(second.trim()).status,
            mode(&file)
        ),
        (401, 200, 0o600)
    );
    daemon.stop();
    let output = daemon.kithd(["token"]);
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        second,
        "shown without the daemon, too"
    );
    let (third, _) = (
        String::from_utf8(daemon.kithd(["token", "--new"]).stdout).unwrap(),
        (),
    );
    daemon.start();
    assert!(third != second && third.trim() == daemon.token());
    let log = daemon.log();
    assert!(
        [first, second, third]
            .iter()
            .all(|token| !log.contains(token.trim())),
        "a token is in the log"
    );
}

#[test]
fn people_log_in_and_out_by_a_form_and_other_sites_cannot() {
    let mut daemon = TestDaemon::new();
    daemon.set("http.open_read", "false");
    daemon.start();
    let page = ask(
        &daemon,
        "GET /?state=failed",
        &[("Accept", "text/html")],
        "",
    );
    assert_eq!(
        (page.status, page.header("location")),
        (303, Some("./login?next=/%3fstate%3dfailed"))
    );
    assert_eq!(ask(&daemon, "GET /v1/images", &[], "").status, 401);
    assert_eq!(ask(&daemon, "GET /healthz", &[], "").status, 200);
    let form = ask(
        &daemon,
        "GET /login?next=/%3Fstate%3Dfailed",
        &[("Accept", "text/html")],
        "",
    );
    assert!(
        form.status == 200 && form.body.contains("value=\"/?state=failed\""),
        "{}",
        form.body
    );
    assert!(
        form.header("content-security-policy")
            .unwrap()
            .contains("form-action 'self'")
    );
    let wrong = ask(&daemon, "POST /login", &[FORM], "token=wrong");
    assert!(
        wrong.status == 401 && wrong.body.contains("not the administrator"),
        "{}",
        wrong.body
    );
    let right = format!("token={}&next=%2F%3Fstate%3Dfailed", daemon.token());
    let elsewhere = ask(
        &daemon,
        "POST /login",
        &[FORM, ("Origin", "http://evil.example")],
        &right,
    );
    assert_eq!(
        (elsewhere.status, elsewhere.header("set-cookie")),
        (403, None)
    );
    let in_ = ask(&daemon, "POST /login", &[FORM], &right);
    assert_eq!(
        (in_.status, in_.header("location")),
        (303, Some("./?state=failed"))
    );
    // `ask` returns the head in lower case; the cookie is needed as sent.
    let mut stream = TcpStream::connect(daemon.address()).unwrap();
    let request = format!(
        "POST /login HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{}: {}\r\nContent-Length: {}\r\n\r\n{right}",
        daemon.address(),
        FORM.0,
        FORM.1,
        right.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let cookie = answer
        .split("set-cookie: ")
        .nth(1)
        .unwrap()
        .split("\r\n")
        .next()
        .unwrap();
    assert!(
        cookie.contains("; HttpOnly; SameSite=Strict") && !cookie.contains("Secure"),
        "{cookie}"
    );
    let cookie = ("Cookie", cookie.split(';').next().unwrap());

    assert_eq!(ask(&daemon, "GET /", &[cookie], "").status, 200);
    let login = ask(&daemon, "GET /login", &[cookie], "").body;
    let out = login
        .split("action=\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    assert!(out.starts_with("./logout?csrf="), "{out}");
    let out = &out[1..];
    let own = ("Origin", daemon.url(""));
    let own = (own.0, own.1.as_str());
    let breaker = out.replace("/logout", "/v1/breaker");
    let kind = ("Content-Type", "application/json");
    let tell = |target: &str, origin: (&str, &str)| {
        ask(
            &daemon,
            &format!("POST {target}"),
            &[cookie, kind, origin],
            r#"{"command":"auto"}"#,
        )
        .status
    };
    wait_for("the engine", || (tell(&breaker, own) == 200).then_some(()));
    for origin in ["http://evil.example", "null", "http://127.0.0.1:1"] {
        assert_eq!(tell(&breaker, ("Origin", origin)), 403, "{origin}");
    }
    assert_eq!(tell(&breaker, ("Sec-Fetch-Site", "cross-site")), 403);
    assert_eq!(
        tell("/v1/breaker", own),
        403,
        "without what the form must carry"
    );
    assert_eq!(
        ask(&daemon, &format!("POST {out}"), &[cookie], "").status,
        403
    );
    let gone = ask(&daemon, &format!("POST {out}"), &[cookie, own], "");
    assert_eq!((gone.status, gone.header("location")), (303, Some("./")));
    assert_eq!(
        tell(&breaker, own),
        401,
        "the cookie that was kept is worth nothing"
    );
    assert_eq!(ask(&daemon, "GET /v1/images", &[cookie], "").status, 401);
}

#[test]
fn pictures_need_no_token_from_the_board_except_by_other_sites() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let body = serde_json::json!({ "path": daemon.put("noface.jpg", "a.jpg") }).to_string();
    let post = |headers: &[(&str, &str)]| ask(&daemon, "POST /image/post", headers, &body).status;
    assert_eq!(post(&[]), 202);
    assert_eq!(post(&[("Origin", &daemon.url(""))]), 202);
    assert_eq!(
        post(&[
            ("Origin", "https://evil.example"),
            ("Content-Type", "text/plain")
        ]),
        403
    );
    assert_eq!(post(&[("Sec-Fetch-Site", "cross-site")]), 403);
    assert_eq!(
        post(&[("X-Forwarded-For", "192.168.1.9")]),
        401,
        "by a proxy, it is from the LAN"
    );
    let bearer = format!("Bearer {}", daemon.token());
    assert_eq!(
        post(&[
            ("X-Forwarded-For", "192.168.1.9"),
            ("Authorization", &bearer)
        ]),
        202
    );
    daemon.stop();
    daemon.set("http.open_submit", "true");
    daemon.start();
    let post = |headers: &[(&str, &str)]| ask(&daemon, "POST /image/post", headers, &body).status;
    assert_eq!(post(&[("X-Forwarded-For", "192.168.1.9")]), 202);
    assert_eq!(post(&[("Origin", "https://evil.example")]), 403);
}

#[test]
fn the_board_answers_to_its_own_names_only() {
    let mut daemon = TestDaemon::new();
    daemon.set("http.names", "[\"kithd.example\"]");
    daemon.start();
    let port = daemon.address().split_once(':').unwrap().1.to_string();
    let hostname = text(&Command::new("uname").arg("-n").output().unwrap())
        .trim()
        .to_string();
    let first = hostname.split('.').next().unwrap();
    for host in [
        "localhost",
        "127.0.0.1",
        "kithd.example",
        &hostname,
        &format!("{first}.local"),
    ] {
        assert_eq!(
            ask(&daemon, "GET /", &[("Host", host)], "").status,
            200,
            "{host}"
        );
        assert_eq!(
            ask(&daemon, "GET /", &[("Host", &format!("{host}:{port}"))], "").status,
            200,
            "{host}"
        );
    }
    // DNS rebinding: an attacker's name leads to the board.
    for host in [
        "rebound.example",
        &format!("rebound.example:{port}"),
        "127.0.0.1.evil.example",
        "192.0.2.7",
    ] {
        let answer = ask(&daemon, "GET /", &[("Host", host)], "");
        assert_eq!(answer.status, 421, "{host}");
        let name = host.split(':').next().unwrap();
        assert!(
            answer.body.contains("http.names") && answer.body.contains(name),
            "{}",
            answer.body
        );
    }
    let twice = ask(
        &daemon,
        "GET /",
        &[("Host", "localhost"), ("Host", "rebound.example")],
        "",
    );
    assert_eq!(twice.status, 400);
}

#[test]
fn wrong_tokens_lock_nobody_out_and_are_said_now_and_then() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    for _ in 0..40 {
        assert_eq!(
            ask(&daemon, "POST /login", &[FORM], "token=guess").status,
            401
        );
        assert_eq!(
            ask(
                &daemon,
                "GET /v1/images",
                &[("Authorization", "Bearer guess")],
                ""
            )
            .status,
            401
        );
    }
    let right = format!("token={}", daemon.token());
    assert_eq!(ask(&daemon, "POST /login", &[FORM], &right).status, 303);
    let (status, _) = daemon.post_as_admin(
        "/v1/images",
        &[("content-type", "text/plain")],
        b"no picture",
    );
    assert_ne!(status, 401);
    let said = wait_for("the log", || {
        Some(daemon.log()).filter(|log| log.contains("wrong tokens were sent"))
    });
    assert_eq!(said.matches("wrong tokens were sent").count(), 1, "{said}");
}

#[test]
fn half_sent_requests_and_idle_connections_block_no_page() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let mut half = Vec::new();
    for number in 0..600 {
        let mut stream = TcpStream::connect(daemon.address()).unwrap();
        // The board may have closed it to make room.
        let _ = stream.write_all(
            format!(
                "GET / HTTP/1.1\r\nHost: {}\r\nX-Slow: {number}",
                daemon.address()
            )
            .as_bytes(),
        );
        half.push(stream);
        if number % 50 == 0 {
            assert_eq!(
                ask(&daemon, "GET /", &[], "").status,
                200,
                "with {number} of them"
            );
        }
    }
    assert_eq!(ask(&daemon, "GET /", &[], "").status, 200);
    let open = |stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        matches!((&mut &*stream).read(&mut [0; 64]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    };
    wait_for("the oldest to be given up", || {
        (half.iter().filter(|stream| open(stream)).count() <= 128).then_some(())
    });
    assert!(open(&half[599]), "the newest is still waited for");
}

#[test]
fn one_busy_address_keeps_no_other_from_the_page() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let head = format!(
        "POST /v1/images HTTP/1.1\r\nHost: {}\r\nContent-Type: image/jpeg\r\nContent-Length: 99999\r\n\r\nx",
        daemon.address()
    );
    let mut slow = Vec::new();
    let mut add = || {
        let mut stream = TcpStream::connect(daemon.address()).unwrap();
        let _ = stream.write_all(head.as_bytes());
        slow.push(stream);
    };
    (0..128).for_each(|_| add());
    let turned_away = wait_for("it to be turned away", || {
        // Replaces a connection that had not begun yet and gave way to the last request.
        add();
        let answer = ask(&daemon, "GET /healthz", &[], "");
        (answer.status != 200).then_some(answer)
    });
    assert!(
        matches!(turned_away.status, 503 | 0),
        "{}",
        turned_away.head
    );
    let (done, said) = curl(&[
        "--interface",
        "127.0.0.2",
        "--header",
        "Host: localhost",
        &daemon.url("/healthz"),
    ]);
    assert!(done && said == "ok\n", "{said}");
    drop(slow);
    wait_for("it to be let in again", || {
        (ask(&daemon, "GET /healthz", &[], "").status == 200).then_some(())
    });
}

#[test]
fn too_large_heads_and_forms_are_refused_with_their_status() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let long = "x".repeat(40_000);
    assert_eq!(ask(&daemon, "GET /", &[("X-Long", &long)], "").status, 431);
    assert_eq!(
        ask(&daemon, &format!("GET /{long}"), &[], "").status / 100,
        4
    );
    let many: Vec<_> = (0..200).map(|_| ("X-Many", "1")).collect();
    assert_eq!(ask(&daemon, "GET /", &many, "").status, 431);
    let form = format!("token={}", "x".repeat(5000));
    assert_eq!(ask(&daemon, "POST /login", &[FORM], &form).status, 413);
    assert_eq!(ask(&daemon, "GET /", &[], "").status, 200);
}

#[test]
fn the_page_can_be_encrypted_with_the_boards_own_certificate() {
    let mut daemon = TestDaemon::new();
    daemon.set("http.tls", "self-signed");
    daemon.start();
    let file = daemon.state("certificate.pem");
    assert_eq!(mode(&file), 0o600);
    let port = daemon.address().split_once(':').unwrap().1.to_string();
    let trusting = ["--cacert", file.to_str().unwrap()];
    for host in ["localhost", "127.0.0.1"] {
        let (done, said) =
            curl(&[&trusting[..], &[&format!("https://{host}:{port}/healthz")]].concat());
        assert!(done && said == "ok\n", "{said}");
    }
    let form = format!("token={}", daemon.token());
    let (_, head) = curl(&[
        "--insecure",
        "--include",
        "--data",
        &form,
        &daemon.url("/login"),
    ]);
    assert!(
        head.contains("__Host-kithd_session=") && head.contains("; Secure"),
        "{head}"
    );

    let certificate = Command::new("openssl")
        .args([
            "x509",
            "-noout",
            "-fingerprint",
            "-sha256",
            "-in",
            file.to_str().unwrap(),
        ])
        .output()
        .unwrap();
    let fingerprint = text(&certificate)
        .trim()
        .split_once('=')
        .unwrap()
        .1
        .to_string();
    let shown = text(&daemon.kithd(["token"]));
    assert!(
        shown.contains(&daemon.url("/")) && shown.contains(&fingerprint),
        "{shown} lacks {fingerprint}"
    );
    let offered = Command::new("sh")
        .args([
            "-c",
            &format!(
                "openssl s_client -connect {} -tls1_2 </dev/null | openssl x509 -noout -fingerprint -sha256",
                daemon.address()
            ),
        ])
        .output()
        .unwrap();
    assert!(text(&offered).contains(&fingerprint), "{}", text(&offered));
    let (done, said) = curl(&[&format!("http://{}/", daemon.address())]);
    assert!(done && said.contains("write https://"), "{said}");
    daemon.stop();
    let before = std::fs::read(&file).unwrap();
    daemon.start();
    assert_eq!(std::fs::read(&file).unwrap(), before, "it is kept");
}

#[test]
fn a_missing_certificate_degrades_only_the_page_while_missing() {
    let mut daemon = TestDaemon::new();
    let (certificate, key) = (
        daemon.folder.path().join("page.pem"),
        daemon.folder.path().join("page.key"),
    );
    daemon.set(
        "http.certificate",
        &format!("{:?}", certificate.display().to_string()),
    );
    daemon.set("http.key", &format!("{:?}", key.display().to_string()));
    let mut child = daemon.spawn(["run"]);
    let part = || {
        let output = daemon.kithd(["status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["parts"]["page"].clone()
    };
    wait_for("the page to be degraded", || {
        (part()["condition"] == "degraded").then_some(())
    });
    assert!(
        part()["text"]
            .as_str()
            .unwrap()
            .contains("page.pem cannot be read"),
        "{}",
        part()
    );
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
        ])
        .args([
            "subjectAltName=DNS:localhost",
            "-keyout",
            key.to_str().unwrap(),
            "-out",
            certificate.to_str().unwrap(),
        ])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", text(&made));
    wait_for("the page", || (part()["condition"] == "ok").then_some(()));
    let url = part()["text"]
        .as_str()
        .unwrap()
        .split(',')
        .next()
        .unwrap()
        .to_string();
    let port = url.trim_end_matches('/').rsplit(':').next().unwrap();
    let (done, said) = curl(&[
        "--cacert",
        certificate.to_str().unwrap(),
        &format!("https://localhost:{port}/healthz"),
    ]);
    assert!(done && said == "ok\n", "{said}");
    child.kill().unwrap();
    child.wait().unwrap();
}
