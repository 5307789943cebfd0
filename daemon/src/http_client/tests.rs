//! Tests with small servers on sockets of their own, which say what real devices say.

use digest_auth::{AuthContext, AuthorizationHeader, HttpMethod};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::test_server::{Server, Then, address, field, request};
use super::*;

const TIMES: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    answer: Duration::from_secs(5),
    quiet: Duration::from_secs(5),
    body: Duration::from_secs(5),
};

fn login() -> Option<Login> {
    Some(Login {
        user: "cam".into(),
        password: "geheim".into(),
    })
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn unauthorised(challenges: &str) -> String {
    format!("HTTP/1.1 401 Unauthorized\r\n{challenges}\r\nContent-Length: 6\r\n\r\nlogin!")
}

fn client(server: &Server, login: Option<Login>) -> Client {
    Client::new(server.address.clone(), login, Trust::System, TIMES)
}

async fn text(client: &mut Client, path: &str) -> Result<String, HttpError> {
    let bytes = client
        .get(path, &[])
        .await?
        .success()?
        .bytes(100_000)
        .await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// True if the request holds the Digest of `login` to this nonce; its counter is returned.
fn digest_is_right(request: &str, nonce: &str) -> Option<u32> {
    let given = field(request, "authorization")?;
    let given = AuthorizationHeader::parse(given).ok()?;
    let (method, rest) = request.split_once(' ').unwrap();
    let path = rest.split(' ').next().unwrap();
    let method = HttpMethod::from(method);
    let context = AuthContext::new_with_method("cam", "geheim", path, None::<&[u8]>, method);
    let mut again = given.clone();
    again.digest(&context);
    (given.nonce == nonce && given.uri == path && again.response == given.response)
        .then_some(given.nc)
}

#[test]
fn a_url_is_split_into_address_path_and_login() {
    let (address, path, login) = parse("http://cam.lan").unwrap();
    assert_eq!(address.to_string(), "http://cam.lan:80");
    assert_eq!((path.as_str(), login), ("/", None));
    let (address, path, login) =
        parse(" HTTPS://a%40b:p%2Fw@x:y@[fe80::1]:8443/a%20b/ü?q=%20{1}#part ").unwrap();
    assert_eq!(address.to_string(), "https://[fe80::1]:8443");
    assert_eq!(address.host, "fe80::1");
    assert_eq!(path, "/a%20b/%C3%BC?q=%20%7B1%7D");
    let login = login.unwrap();
    assert_eq!(
        (login.user.as_str(), login.password.as_str()),
        ("a@b", "p/w@x:y")
    );
    assert_eq!(parse("http://cam?x=1").unwrap().1, "/?x=1");
    for wrong in [
        "",
        "cam.lan",
        "rtsp://cam.lan/1",
        "http://",
        "http:///x",
        "http://cam:0/",
        "http://cam:66000/",
        "http://cam:x/",
        "http://user:geh/eim@cam/",
        "http://a b/",
        "http://%ff:x@cam/",
    ] {
        let error = parse(wrong).unwrap_err();
        assert!(
            error.starts_with("must") || error.starts_with("has"),
            "{wrong}: {error}"
        );
        assert!(!error.contains("geh"), "{error}");
    }
}

#[tokio::test]
async fn no_login_path_or_query_stands_in_an_error() {
    let (_, _, login) = parse("http://cam:geheim@127.0.0.1/").unwrap();
    assert!(!format!("{login:?}").contains("cam"));
    assert!(!format!("{login:?}").contains("geheim"));
    let server = Server::start(|_| ("HTTP/1.1 404 Not Found\r\n\r\n".into(), Then::Close)).await;
    let mut client = client(&server, login);
    let error = text(&mut client, "/pfad?token=geheim").await.unwrap_err();
    let port = server.address.port;
    assert_eq!(
        error.to_string(),
        format!(
            "http://127.0.0.1:{port} answers 404 Not Found; check the path, and the log of that \
             device"
        )
    );
    assert!(!format!("{error:?}").contains("geheim"));
}

#[tokio::test]
async fn a_connection_is_kept_and_a_dead_one_replaced() {
    let mut count = 0;
    let server = Server::start(move |_| {
        count += 1;
        let then = if count == 2 { Then::Close } else { Then::Keep };
        (ok(&count.to_string()), then)
    })
    .await;
    let mut client = client(&server, None);
    for expected in ["1", "2", "3", "4"] {
        assert_eq!(text(&mut client, "/a?b=c").await.unwrap(), expected);
    }
    let seen = server.seen();
    let connections: Vec<_> = seen.iter().map(|(connection, _)| *connection).collect();
    assert_eq!(connections, [0, 0, 1, 1]);
    let head = &seen[0].1;
    assert!(head.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{head}");
    let host = format!("127.0.0.1:{}", server.address.port);
    assert_eq!(field(head, "host"), Some(host.as_str()));
}

#[tokio::test]
async fn a_request_that_died_on_a_kept_connection_is_sent_again() {
    let mut count = 0;
    let server = Server::start(move |_| {
        count += 1;
        match count {
            1 => (ok("1"), Then::Keep),
            2 | 4 => (String::new(), Then::Close),
            _ => (ok("3"), Then::Keep),
        }
    })
    .await;
    let mut client = client(&server, None);
    assert_eq!(text(&mut client, "/").await.unwrap(), "1");
    assert_eq!(text(&mut client, "/").await.unwrap(), "3", "sent again");
    let body = Bytes::from_static(b"{}");
    let sent = client.post("/p", "application/json", &[], body).await;
    assert!(matches!(sent, Err(HttpError::Ended(_))), "it may be done");
    let seen = server.seen();
    assert_eq!(seen.len(), 4);
    assert!(seen[3].1.ends_with("\r\n\r\n{}"));
    assert_eq!(field(&seen[3].1, "content-type"), Some("application/json"));
}

#[tokio::test]
async fn a_new_connection_without_an_answer_is_an_error_at_once() {
    let server = Server::start(|_| (String::new(), Then::Close)).await;
    let error = text(&mut client(&server, None), "/").await.unwrap_err();
    assert!(matches!(error, HttpError::Ended(_)), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn digest_is_counted_and_a_new_nonce_answered_once() {
    for (fields, counts) in [
        ("qop=\"auth\", algorithm=MD5", [1, 2, 1]),
        ("qop=\"auth,auth-int\"", [1, 2, 1]),
        ("algorithm=SHA-256, qop=auth", [1, 2, 1]),
        ("algorithm=MD5-sess, qop=\"auth\"", [1, 2, 1]),
        // RFC 2069 has no counter.
        ("opaque=\"x\"", [1, 1, 1]),
    ] {
        let (mut served, nonces) = (0, ["first", "first", "second"]);
        let server = Server::start(move |request| {
            let nonce = nonces[served.min(2)];
            match digest_is_right(request, nonce) {
                Some(count) => {
                    served += 1;
                    (ok(&count.to_string()), Then::Keep)
                }
                None => {
                    let challenge = format!(
                        "WWW-Authenticate: Digest realm=\"a, \\\"b\\\"\", nonce=\"{nonce}\", \
                         {fields}"
                    );
                    (unauthorised(&challenge), Then::Keep)
                }
            }
        })
        .await;
        let mut client = client(&server, login());
        for expected in counts {
            let got = text(&mut client, "/snap.jpg?channel=1").await.unwrap();
            assert_eq!(got, expected.to_string(), "{fields}");
        }
        let seen = server.seen();
        assert_eq!(seen.len(), 5, "{fields}: two challenges");
        assert!(seen.iter().all(|(connection, _)| *connection == 0));
        assert_eq!(field(&seen[0].1, "authorization"), None);
    }
}

#[tokio::test]
async fn a_wrong_password_is_tried_once() {
    for (stale, requests) in [("", 2), (", stale=TRUE", 3)] {
        let mut nonce = 0;
        let server = Server::start(move |_| {
            nonce += 1;
            let challenge = format!(
                "WWW-Authenticate: Digest realm=\"r\", nonce=\"{nonce}\", qop=\"auth\"{stale}"
            );
            (unauthorised(&challenge), Then::Close)
        })
        .await;
        let mut client = client(&server, login());
        let error = text(&mut client, "/").await.unwrap_err();
        assert!(matches!(error, HttpError::Unauthorised(..)), "{error}");
        assert!(error.to_string().contains("refuses user and password"));
        assert_eq!(server.seen().len(), requests, "{stale}");
    }
}

#[tokio::test]
async fn without_a_login_or_a_known_scheme_it_says_so() {
    let server = Server::start(|_| {
        let challenge = "WWW-Authenticate: NTLM\r\nWWW-Authenticate: Negotiate abc==";
        (unauthorised(challenge), Then::Keep)
    })
    .await;
    let error = text(&mut client(&server, None), "/").await.unwrap_err();
    assert!(error.to_string().contains("asks for a login; give"));
    let error = text(&mut client(&server, login()), "/").await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("of a kind that kithd does not know")
    );
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn basic_is_sent_only_where_nothing_better_is_asked_for() {
    for (challenges, right) in [
        (
            "WWW-Authenticate: Basic realm=\"x\"",
            "Basic Y2FtOmdlaGVpbQ==",
        ),
        (
            "WWW-Authenticate: Basic realm=\"x\", digest Realm=x,NONCE=\"n\" , qop = \"auth\"",
            "Digest username=\"cam\", realm=\"x\", nonce=\"n\"",
        ),
        (
            "WWW-Authenticate: Digest realm=\"x\", nonce=\"n\", algorithm=SHA-256\r\n\
             WWW-Authenticate: Digest realm=\"x\", nonce=\"m\", algorithm=\"md5\"\r\n\
             WWW-Authenticate: Digest realm=\"x\", nonce=\"o\", algorithm=FUTURE\r\n\
             WWW-Authenticate: Digest realm=\"x\", nonce=\"p\", qop=\"auth-int\"",
            "Digest username=\"cam\", realm=\"x\", nonce=\"n\"",
        ),
        (
            "WWW-Authenticate: Digest realm=\"T\u{fc}r\", nonce=\"n\", algorithm=\"md5\"",
            "Digest username=\"cam\", realm=\"T\u{fc}r\", nonce=\"n\"",
        ),
    ] {
        let server = Server::start(move |request| match field(request, "authorization") {
            Some(given) if given.starts_with(right) => (ok("in"), Then::Keep),
            _ => (unauthorised(challenges), Then::Keep),
        })
        .await;
        let mut client = client(&server, login());
        assert_eq!(text(&mut client, "/").await.unwrap(), "in", "{challenges}");
        assert_eq!(text(&mut client, "/").await.unwrap(), "in");
        let seen = server.seen();
        assert_eq!(field(&seen[0].1, "authorization"), None);
        assert_eq!(seen.len(), 3, "later requests need no challenge");
    }
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_host_only() {
    let server = Server::start(move |request| {
        let path = request.split(' ').nth(1).unwrap();
        let host = field(request, "host").unwrap();
        let to = match path {
            "/a/b?q" => "c?x#y".to_owned(),
            "/a/c?x" => format!("http://user:pw@{host}/d"),
            "/d" => "/e".into(),
            "/e" => return (ok("here"), Then::Keep),
            "/loop" => "/loop".into(),
            "/scheme" => format!("https://{host}/geheim"),
            "/other" => "//elsewhere.lan/geheim".into(),
            _ => "http://127.0.0.1:1/geheim".into(),
        };
        let answer = format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
        (answer, Then::Keep)
    })
    .await;
    let mut client = client(&server, login());
    assert_eq!(text(&mut client, "/a/b?q").await.unwrap(), "here");
    let error = text(&mut client, "/loop").await.unwrap_err();
    assert!(matches!(error, HttpError::SentInCircles(_)), "{error}");
    for (path, other) in [
        ("/scheme", "sends on to https://127.0.0.1:"),
        ("/other", "sends on to http://elsewhere.lan:80 "),
        ("/port", "sends on to http://127.0.0.1:1 "),
    ] {
        let error = text(&mut client, path).await.unwrap_err().to_string();
        assert!(error.contains(other), "{error}");
        assert!(!error.contains("geheim"), "{error}");
    }
    let seen = server.seen();
    let followed = seen[..4].iter().map(|(connection, _)| *connection);
    assert!(followed.eq([0; 4]), "on one connection");
}

#[tokio::test]
async fn answers_of_old_cameras_are_read() {
    for answer in [
        "HTTP/1.0 200 OK\r\n\r\nbody",
        "HTTP/1.1 200\r\nConnection: close\r\n\r\nbody",
        "HTTP/1.1 200 OK\nServer : thttpd\nConnection:close\n\nbody",
        "HTTP/1.1 200 OK\r\nno colon at all\r\nX-Folded: a\r\n b\r\nbad name: x\r\n\r\nbody",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 4\r\nConnection: keep-alive\r\n\r\nbody",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbodyand more",
    ] {
        let server = Server::start(move |_| (answer.into(), Then::Close)).await;
        let mut client = client(&server, None);
        for _ in 0..2 {
            let read = text(&mut client, "/").await;
            assert_eq!(read.unwrap(), "body", "{answer:?}");
        }
    }
}

#[tokio::test]
async fn heads_and_bodies_have_a_limit() {
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(300_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(200));
    for head in [endless, many] {
        let server = Server::start(move |_| (head.clone(), Then::Hang)).await;
        let error = text(&mut client(&server, None), "/").await.unwrap_err();
        assert!(matches!(error, HttpError::TooLarge(..)), "{error}");
    }
    let body = "x".repeat(100_001);
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        format!("400\r\n{}\r\n", "x".repeat(1024)).repeat(1000)
    );
    for answer in [ok(&body), chunked] {
        let server = Server::start(move |_| (answer.clone(), Then::Hang)).await;
        let error = text(&mut client(&server, None), "/").await.unwrap_err();
        assert!(matches!(error, HttpError::TooLarge(_, 100_000)), "{error}");
    }
}

#[tokio::test]
async fn a_silent_server_is_left() {
    let mut times = TIMES;
    times.answer = Duration::from_millis(100);
    times.quiet = Duration::from_millis(100);
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbody",
    ] {
        let server = Server::start(move |_| (answer.into(), Then::Hang)).await;
        let mut client = Client::new(server.address.clone(), None, Trust::System, times);
        let error = text(&mut client, "/").await.unwrap_err();
        assert!(matches!(error, HttpError::Stalled(..)), "{error}");
    }
}

#[tokio::test]
async fn a_body_that_trickles_ends_at_its_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = address(listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let mut times = TIMES;
    times.body = Duration::from_millis(200);
    let mut client = Client::new(address, None, Trust::System, times);
    let error = text(&mut client, "/").await.unwrap_err();
    assert!(matches!(error, HttpError::Stalled(..)), "{error}");
}

#[tokio::test]
async fn each_way_of_not_answering_has_its_name() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let get = async |url: &str| {
        let (address, path, login) = parse(url).unwrap();
        let mut client = Client::new(address, login, Trust::System, TIMES);
        text(&mut client, &path).await.unwrap_err()
    };
    let error = get(&format!("http://127.0.0.1:{port}/")).await;
    assert!(matches!(error, HttpError::Refused(_)), "{error}");
    let error = get("http://camera.invalid/").await;
    assert!(matches!(error, HttpError::NameNotFound(_)), "{error}");
    for banner in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "RTSP/1.0 400 Bad Request\r\n\r\n",
    ] {
        let server = Server::start(move |_| (banner.into(), Then::Close)).await;
        let error = get(&format!("{}/", server.address)).await;
        assert!(matches!(error, HttpError::NotHttp(..)), "{error}");
        let https = format!("https://127.0.0.1:{}/", server.address.port);
        let mut times = TIMES;
        times.connect = Duration::from_millis(300);
        let mut client = Client::new(
            parse(&https).unwrap().0,
            None,
            Trust::Fingerprint([0; 32]),
            times,
        );
        let error = text(&mut client, "/").await.unwrap_err();
        // This server waits for the end of a request's head.
        assert!(matches!(error, HttpError::Unreachable(..)), "{error}");
    }
    let server = Server::of_bytes(|_| (vec![0xFF; 5000], Then::Close)).await;
    let error = get(&format!("{}/", server.address)).await;
    assert!(matches!(error, HttpError::NotHttp(..)), "{error}");
}

/// A server with a certificate of its own for `name`; returns its address and certificate.
async fn encrypted(name: &str) -> (Address, rustls::pki_types::CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut address = address(listener.local_addr().unwrap().port());
    address.https = true;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            if request(&mut stream).await.is_some() {
                let _ = stream.write_all(ok("in").as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    (address, certificate)
}

#[tokio::test]
async fn certificates_are_trusted_by_authority_or_fingerprint() {
    use sha2::Digest;
    let (address, certificate) = encrypted("other.lan").await;
    let digest: [u8; 32] = sha2::Sha256::digest(&certificate).into();
    let shown: Vec<_> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    let shown = shown.join(":");
    let pem = tempfile::NamedTempFile::new().unwrap();
    let base64 = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &certificate);
    let text_of =
        |body: &str| format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
    std::fs::write(pem.path(), text_of(&base64)).unwrap();
    for trust in [
        Trust::Fingerprint(digest),
        Trust::of_fingerprint(&shown).unwrap(),
        Trust::of_fingerprint(&shown.replace(':', "").to_lowercase()).unwrap(),
        Trust::of_file(pem.path()).unwrap(),
    ] {
        let mut client = Client::new(address.clone(), None, trust, TIMES);
        assert_eq!(text(&mut client, "/").await.unwrap(), "in");
        assert_eq!(text(&mut client, "/").await.unwrap(), "in");
    }
    let (_, another) = encrypted("127.0.0.1").await;
    for trust in [Trust::Fingerprint([7; 32]), Trust::Ca(vec![another])] {
        let mut client = Client::new(address.clone(), None, trust, TIMES);
        let error = text(&mut client, "/").await.unwrap_err();
        assert!(matches!(error, HttpError::Untrusted(..)), "{error}");
        assert!(error.to_string().contains(&shown), "{error}");
    }
    assert_eq!(Trust::of_fingerprint(&shown[1..]), None);
    assert_eq!(Trust::of_fingerprint(&shown.replace('A', "\u{e4}")), None);
    std::fs::write(pem.path(), "nothing").unwrap();
    assert!(
        Trust::of_file(pem.path())
            .unwrap_err()
            .contains("no certificate")
    );
    assert!(Trust::of_file(std::path::Path::new("/nowhere")).is_err());
}

#[tokio::test]
async fn an_authority_vouches_for_its_names_only() {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    for (name, trusted) in [("127.0.0.1", true), ("camera.lan", false)] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let config = Trust::Ca(vec![authority.der().clone()])
            .config()
            .await
            .unwrap();
        let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        let (near, far) = tokio::io::duplex(65_536);
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        let connector = tokio_rustls::TlsConnector::from(config);
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let (_, connected) = tokio::join!(acceptor.accept(far), connector.connect(name, near));
        assert_eq!(connected.is_ok(), trusted);
    }
}
