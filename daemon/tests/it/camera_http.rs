//! Cameras over HTTP: snapshots of a real lighttpd that asks for Digest, of a real nginx with TLS
//! and Basic, and of a server with the quirks of cameras.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use digest_auth::{Algorithm, AlgorithmType};

use crate::camera_programs::{Board, shown_by_processes};
use crate::edge::{Nginx, free_port};
use crate::support::{photo, text, wait_for};

const USER: &str = "betrachter";

/// lighttpd with one picture and a login by Digest; killed when dropped.
struct Lighttpd {
    folder: tempfile::TempDir,
    port: u16,
    process: Option<Child>,
}

impl Lighttpd {
    fn start(password: &str) -> Self {
        let mut server = Self {
            folder: tempfile::tempdir().unwrap(),
            port: free_port(),
            process: None,
        };
        server.lock(password);
        fs::create_dir(server.folder.path().join("www")).unwrap();
        server.show("obama_1.jpg");
        server.run();
        server
    }

    /// Sets the password, which lighttpd reads for each request.
    fn lock(&self, password: &str) {
        let sha256 = Algorithm::new(AlgorithmType::SHA2_256, false);
        let sum = sha256.hash_str(&format!("{USER}:cam:{password}"));
        let file = self.folder.path().join("users");
        fs::write(file, format!("{USER}:cam:{sum}\n")).unwrap();
    }

    /// Replaces the picture.
    fn show(&self, name: &str) {
        let part = self.folder.path().join("part");
        fs::copy(photo(name), &part).unwrap();
        fs::rename(part, self.folder.path().join("www/snap.jpg")).unwrap();
    }

    fn run(&mut self) {
        let (folder, port) = (self.folder.path().display(), self.port);
        let file = self.folder.path().join("lighttpd.conf");
        let text = format!(
            "server.modules = (\"mod_auth\", \"mod_authn_file\", \"mod_staticfile\")\n\
             server.document-root = \"{folder}/www\"\n\
             server.bind = \"127.0.0.1\"\n\
             server.port = {port}\n\
             server.errorlog = \"{folder}/log\"\n\
             mimetype.assign = (\".jpg\" => \"image/jpeg\")\n\
             auth.backend = \"htdigest\"\n\
             auth.backend.htdigest.userfile = \"{folder}/users\"\n\
             auth.require = (\"/\" => (\"method\" => \"digest\", \"realm\" => \"cam\", \
             \"require\" => \"valid-user\", \"algorithm\" => \"SHA-256\"))\n"
        );
        fs::write(&file, text).unwrap();
        let mut process = Command::new("lighttpd")
            .args(["-D", "-f", file.to_str().unwrap()])
            .stdin(Stdio::null())
            .spawn()
            .expect("lighttpd is not installed; ./dev test installs it");
        wait_for("lighttpd", || {
            if process.try_wait().unwrap().is_some() {
                panic!("{}", self.log());
            }
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
        });
        self.process = Some(process);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

impl Drop for Lighttpd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A section of a camera that takes every picture that it gets.
fn section(name: &str, url: &str, lines: &str) -> String {
    format!(
        "[[camera]]\nname = \"{name}\"\nurl = \"{url}\"\nrate = 10\nevery = \"100ms\"\nburst = 1\n\
         stall_after = \"2s\"\n{lines}\n"
    )
}

/// A board with these cameras and no engine.
fn board(sections: &str) -> Board {
    let mut board = Board::new();
    board.daemon.configuration(sections);
    board.daemon.set("models.pack", "\"/nowhere/pack\"");
    board.daemon.set("log.level", "debug");
    board
}

#[test]
fn snapshots_with_digest_come_through_restarts_and_passwords() {
    let (first, second) = ("pw-digest-51fe", "pw-digest-77ab");
    let mut server = Lighttpd::start(first);
    let url = format!("http://127.0.0.1:{}/snap.jpg?key=pw-digest", server.port);
    let password = tempfile::NamedTempFile::new().unwrap();
    fs::write(&password, format!("{first}\n")).unwrap();
    let file = password.path().display();
    let login = format!("username = \"{USER}\"\npassword_file = \"{file}\"");
    let mut board = board(&section("yard", &url, &login));
    board.daemon.start();
    let taken = |count: usize| {
        wait_for(&format!("{count} pictures"), || {
            (board.pictures("yard") == count).then_some(())
        });
    };
    taken(1);
    // The same picture is not taken again; lighttpd tells by its ETag.
    server.show("biden_1.jpg");
    taken(2);
    let is_shown = |board: &Board| {
        let mut shown = shown_by_processes("pw-digest");
        shown.extend(shown_by_processes(USER));
        for path in ["/v1/status", "/v1/images", "/", "/metrics"] {
            let text = board.daemon.get_text(path);
            if text.contains("pw-digest") || text.contains(USER) {
                shown.push(path.into());
            }
        }
        shown
    };
    assert_eq!(is_shown(&board), Vec::<String>::new());

    server.kill();
    board.says("yard", "degraded", "refused: http://127.0.0.1:");
    server.show("obama_2.jpg");
    server.run();
    taken(3);
    board.says("yard", "ok", "taken");

    server.lock(second);
    let said = board.says("yard", "degraded", "unauthorised: http://127.0.0.1:");
    assert_eq!(
        said.matches("refuses user and password").count(),
        1,
        "{said}"
    );
    assert_eq!(is_shown(&board), Vec::<String>::new());
    let begun = Instant::now();
    fs::write(&password, second).unwrap();
    server.show("noface.jpg");
    taken(4);
    board.says("yard", "ok", "taken");
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(45), "after {waited:?}");
    // Two on the connection that was open, since its nonce could have been too old, and one by the
    // process after that: lighttpd delays its refusal for longer than `stall_after`.
    let refused = server.log().matches("wrong password").count();
    assert!(refused <= 3, "cameras lock accounts: {refused} tries");
    let log = board.daemon.log();
    assert!(!log.contains("pw-digest") && !log.contains(USER), "{log}");
    let sends = format!("http://127.0.0.1:{} sends ", server.port);
    assert!(log.contains(&sends), "{log}");
}

/// Makes a certificate for another name and its key; returns the certificate's SHA-256.
fn certificate(folder: &Path) -> String {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    openssl(
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=camera -keyout key.pem -out cert.pem",
    );
    let shown = openssl("x509 -in cert.pem -noout -fingerprint -sha256");
    shown.trim().rsplit('=').next().unwrap().to_owned()
}

#[test]
fn snapshots_over_tls_are_taken_of_the_right_camera_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let fingerprint = certificate(folder.path());
    fs::write(
        folder.path().join("users"),
        format!("{USER}:{{PLAIN}}pw-basic\n"),
    )
    .unwrap();
    fs::copy(photo("obama_1.jpg"), folder.path().join("snap.jpg")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path(), mode).unwrap();
    let port = free_port();
    let lines = format!(
        "server {{ listen 127.0.0.1:{port} ssl; root {path}; ssl_certificate {path}/cert.pem; \
         ssl_certificate_key {path}/key.pem; auth_basic cam; auth_basic_user_file {path}/users; }}"
    );
    let _server = Nginx::running(&lines, port);
    let url = format!("https://{USER}:pw-basic@127.0.0.1:{port}/snap.jpg");
    let pinned = format!("fingerprint = \"{fingerprint}\"");
    let given = format!("ca_file = \"{path}/cert.pem\"");
    let other = format!("fingerprint = \"{}\"", "00".repeat(32));
    let sections = [
        section("pinned", &url, &pinned),
        section("given", &url, &given),
        section("other", &url, &other),
        section("public", &url, ""),
    ];
    let mut board = board(&sections.concat());
    board.daemon.start();
    for camera in ["pinned", "given"] {
        wait_for(camera, || (board.pictures(camera) == 1).then_some(()));
    }
    for camera in ["other", "public"] {
        let said = board.says(camera, "degraded", "untrusted: ");
        assert!(said.contains(&fingerprint), "{said}");
    }
    assert_eq!(shown_by_processes("pw-basic"), Vec::<String>::new());
    let log = board.daemon.log();
    assert!(!log.contains("pw-basic"), "{log}");
}

/// A camera that answers by the quirk of this number, with two photographs in turn.
struct Odd {
    port: u16,
    quirk: Arc<AtomicUsize>,
}

const QUIRKS: usize = 9;

impl Odd {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let quirk = Arc::new(AtomicUsize::new(0));
        let photos = ["obama_1.jpg", "biden_1.jpg"].map(|name| fs::read(photo(name)).unwrap());
        let photos = Arc::new(photos);
        let (now, count) = (quirk.clone(), Arc::new(AtomicUsize::new(0)));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (now, count, photos) = (now.clone(), count.clone(), photos.clone());
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    while head(&mut stream) {
                        let quirk = now.load(Ordering::Relaxed);
                        let next = || &photos[count.fetch_add(1, Ordering::Relaxed) % 2][..];
                        let goes_on = answer(quirk, next, &mut stream, || {
                            now.load(Ordering::Relaxed) == quirk
                        });
                        if !goes_on {
                            break;
                        }
                    }
                });
            }
        });
        Self { port, quirk }
    }
}

/// Reads the head of a request; false if there is none.
fn head(stream: &mut TcpStream) -> bool {
    let mut read = Vec::new();
    let mut byte = [0];
    while !read.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => read.push(byte[0]),
            _ => return false,
        }
    }
    true
}

/// Answers by a quirk; false if the connection is to be closed. `more`: this quirk is still wanted.
fn answer<'p>(
    quirk: usize,
    next: impl Fn() -> &'p [u8],
    stream: &mut TcpStream,
    more: impl Fn() -> bool,
) -> bool {
    let stale = b"\0\0the rest of an older picture\xFF\xD9";
    let mut say = |header: &str, parts: &[&[u8]]| {
        let head = format!("HTTP/1.1 200 OK\r\n{header}\r\n");
        stream
            .write_all(&[head.as_bytes(), &parts.concat()].concat())
            .is_ok()
    };
    let length = |bytes: usize| format!("Content-Length: {bytes}\r\n");
    let photo = next();
    match quirk {
        0 => say(
            &(length(photo.len()) + "Content-Type: text/html\r\n"),
            &[photo],
        ),
        1 => say(&length(photo.len() + stale.len()), &[photo, stale]),
        2 => {
            say("", &[photo]);
            false
        }
        3 => {
            say(&length(photo.len()), &[photo]);
            false
        }
        4 => say(&length(photo.len()), &[photo, stale]),
        5 => {
            let size = format!("{:x}\r\n", photo.len());
            let parts: [&[u8]; 3] = [size.as_bytes(), photo, b"\r\n0\r\n\r\n"];
            say("Transfer-Encoding: chunked\r\n", &parts)
        }
        _ => {
            let (kind, end, with_length) = match quirk {
                6 => ("multipart/x-mixed-replace; boundary=--frame", "\r\n", true),
                7 => ("multipart/x-mixed-replace;boundary=\"other\"", "\n", false),
                _ => ("image/jpeg", "\r\n", false),
            };
            let mut went = say(&format!("Content-Type: {kind}\r\n"), &[]);
            while went && more() {
                let photo = next();
                let length = match with_length {
                    true => format!("Content-Length: {}{end}", photo.len()),
                    false => String::new(),
                };
                let head = format!("--frame{end}Content-Type: image/jpeg{end}{length}{end}");
                went = stream.write_all(&[head.as_bytes(), photo].concat()).is_ok();
                std::thread::sleep(Duration::from_millis(50));
            }
            false
        }
    }
}

#[test]
fn pictures_of_cameras_with_quirks_arrive() {
    let server = Odd::start();
    let url = format!("http://127.0.0.1:{}/", server.port);
    let mut board = board(&section("odd", &url, ""));
    board.daemon.start();
    for quirk in 0..QUIRKS {
        server.quirk.store(quirk, Ordering::Relaxed);
        // The first ones may be of the quirk before.
        board.more_pictures("odd", 5);
    }
    let log = board.daemon.log();
    assert!(!log.contains("broken frame"), "{log}");
}
