//! The board's edge to the network: numbers of connections, proxies and dashboards with their
//! defaults, host names, readers that go away, and a generated client.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::{TestDaemon, full, part_is_ok, photo, text, wait_for};

/// nginx with its defaults and these lines in its `http` section, on ports of its own; ended when
/// dropped.
pub struct Nginx {
    folder: tempfile::TempDir,
    process: Child,
}

impl Nginx {
    pub fn running(lines: &str, port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {}/{kind};", folder.path().display()));
        let file = folder.path().join("nginx.conf");
        let text = format!(
            "pid {0}/pid; error_log {0}/log; events {{}}\nhttp {{ access_log off; {1}\n{lines}\n}}\n",
            folder.path().display(),
            paths.concat()
        );
        std::fs::write(&file, text).unwrap();
        // Started by root, nginx runs its worker as another user.
        std::fs::set_permissions(
            folder.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        let process = Command::new("nginx")
            .args(["-g", "daemon off;", "-c", file.to_str().unwrap()])
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx is not installed; ./dev test installs it");
        let mut nginx = Self { folder, process };
        wait_for("nginx", || {
            if nginx.process.try_wait().unwrap().is_some() {
                panic!(
                    "{}",
                    std::fs::read_to_string(nginx.folder.path().join("log")).unwrap_or_default()
                );
            }
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
        });
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The worker ends with nginx only after SIGTERM.
        let _ = Command::new("kill")
            .args(["-TERM", &self.process.id().to_string()])
            .status();
        let _ = self.process.wait();
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Returns an address by which others could reach this machine, if it has one; sends nothing.
fn own_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("203.0.113.1:9").ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(address)
            if !address.ip().is_loopback() && !address.ip().is_unspecified() =>
        {
            Some(*address.ip())
        }
        _ => None,
    }
}

/// Runs `curl`; returns the status and all output, head included.
fn curl(arguments: &[&str]) -> (u16, String) {
    let output = Command::new("curl")
        .args(["--silent", "--include", "--max-time", "20"])
        .args(arguments)
        .output()
        .unwrap();
    let said = text(&output);
    let status = said
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    (status, said)
}

/// Returns the private memory of a process in KiB.
fn resident_kib(pid: u32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn more_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    )
    .unwrap();
}

fn grpc_board() -> (TestDaemon, SocketAddr) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut daemon = TestDaemon::new();
    daemon.set("facerecog.listen", &address.to_string());
    daemon.start();
    wait_for("the port", || TcpStream::connect(address).ok());
    (daemon, address)
}

#[test]
fn idle_grpc_connections_leave_the_page_answering() {
    more_files();
    let (daemon, address) = grpc_board();
    let idle: Vec<_> = (0..1100)
        .map(|number| {
            let stream = TcpStream::connect(address).unwrap();
            if number % 100 == 0 {
                assert_eq!(daemon.get_text("/healthz"), "ok\n", "with {number} of them");
            }
            stream
        })
        .collect();
    let files = || {
        std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
            .unwrap()
            .count()
    };
    wait_for("all but some to be given up", || {
        (files() < 400).then_some(())
    });
    assert_eq!(
        daemon.get("/v1/status")["parts"]["facerecog"]["condition"],
        "ok"
    );
    assert_eq!(daemon.post_path(&daemon.put("noface.jpg", "a.jpg")), 1);
    drop(idle);
}

#[test]
fn streams_on_one_grpc_connection_are_bounded() {
    let (daemon, address) = grpc_board();
    let before = resident_kib(daemon.pid());
    let mut block = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &str| {
        block.extend_from_slice(name);
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    };
    literal(&[0x04], "/facerecog.Identify/Identify");
    literal(&[0x01], "board");
    literal(&[0x0f, 0x10], "application/grpc");
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let streams = if full() { 100_000 } else { 10_000 };
    let mut sent = 0;
    // The client reconnects after each disconnection, as an attacker would.
    for _ in 0..20 {
        let mut connection = TcpStream::connect(address).unwrap();
        connection
            .set_write_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let mut reading = connection.try_clone().unwrap();
        let answers = std::thread::spawn(move || std::io::copy(&mut reading, &mut std::io::sink()));
        let mut alive = connection
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .is_ok()
            && connection.write_all(&frame(4, 0, 0, &[])).is_ok();
        let mut number = 1;
        while alive && sent < streams {
            // A connection that is left open.
            alive = connection.write_all(&frame(1, 4, number, &block)).is_ok();
            (number, sent) = (number + 2, sent + 1);
        }
        let _ = connection.shutdown(std::net::Shutdown::Both);
        let _ = answers.join();
    }
    let grown = resident_kib(daemon.pid()) - before;
    println!("{sent} streams took {grown} KiB");
    assert!(
        sent > 2000 && grown < 20 << 10,
        "{sent} streams took {grown} KiB"
    );
    assert_eq!(daemon.get_text("/healthz"), "ok\n");
}

#[test]
fn a_board_that_may_open_few_files_says_so() {
    let mut daemon = TestDaemon::new();
    let kithd = daemon.command();
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -n 512; exec \"$0\" \"$@\" run"])
        .arg(kithd.get_program())
        .args(kithd.get_args());
    let variables = kithd
        .get_envs()
        .filter_map(|(name, value)| Some((name, value?)));
    let mut process = limited
        .envs(variables)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let said = wait_for("the part to say so", || {
        let status: serde_json::Value =
            serde_json::from_slice(&daemon.kithd(["status", "--json"]).stdout).ok()?;
        status["parts"]["open files"]["text"]
            .as_str()
            .map(String::from)
    });
    assert!(
        said.contains("only 512 files") && said.contains("LimitNOFILE=4096"),
        "{said}"
    );
    process.kill().unwrap();
    process.wait().unwrap();
    daemon.start();
    assert!(daemon.get("/v1/status")["parts"]["open files"].is_null());
}

#[test]
fn open_pages_of_a_few_addresses_leave_some_for_others() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let folder = tempfile::tempdir().unwrap();
    let mut greedy = Vec::new();
    for (last, count) in [(2, 86), (3, 86), (4, 86)] {
        let out = folder.path().join(last.to_string());
        let process = Command::new("curl")
            .args([
                "--silent",
                "--no-buffer",
                "--parallel",
                "--parallel-max",
                "100",
                "--parallel-immediate",
            ])
            .args([
                "--interface",
                &format!("127.0.0.{last}"),
                "--max-time",
                "60",
            ])
            .arg(daemon.url(&format!("/events?[1-{count}]")))
            .stdout(std::fs::File::create(&out).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        greedy.push((process, out, count));
    }
    for (_, out, count) in &greedy {
        wait_for("their streams", || {
            let said = std::fs::read_to_string(out).unwrap();
            (said.matches("event: changed").count() >= *count).then_some(())
        });
    }
    for _ in 0..8 {
        let (status, said) = curl(&[
            "--no-buffer",
            "--max-time",
            "2",
            "--interface",
            "127.0.0.5",
            &daemon.url("/events"),
        ]);
        assert!(status == 200 && said.contains("event: changed"), "{said}");
        assert!(
            said.to_lowercase().contains("x-accel-buffering: no"),
            "{said}"
        );
    }
    for (mut process, ..) in greedy {
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

#[test]
fn behind_nginx_with_its_defaults_the_page_is_live() {
    let mut daemon = TestDaemon::new();
    daemon.set("http.base_path", "/whole");
    daemon.start();
    let port = free_port();
    let lines = format!(
        "server {{ listen {port}; location / {{ proxy_pass http://{0}; }} location /kithd/ {{ proxy_pass http://{0}/; }} }}",
        daemon.address()
    );
    let _nginx = Nginx::running(&lines, port);
    let at = |path: &str| format!("http://127.0.0.1:{port}{path}");
    for path in ["/events", "/kithd/events", "/whole/events"] {
        let (_, said) = curl(&["--no-buffer", "--max-time", "3", &at(path)]);
        assert!(said.contains("event: changed"), "{path}: {said}");
    }
    // Clients behind the proxy are not the board itself.
    let body = serde_json::json!({ "path": daemon.put("noface.jpg", "a.jpg") }).to_string();
    let (status, said) = curl(&["--data", &body, &at("/image/post")]);
    assert!(
        status == 401 && said.contains("by a proxy") && said.contains("http.open_submit"),
        "{said}"
    );
    let bearer = format!("Authorization: Bearer {}", daemon.token());
    assert_eq!(
        curl(&["--header", &bearer, "--data", &body, &at("/image/post")]).0,
        202
    );
    assert_eq!(
        daemon.post_path(&daemon.put("noface.jpg", "b.jpg")),
        2,
        "a program on the board still needs none"
    );
    let (status, said) = curl(&["--header", "Accept: text/html", &at("/kithd/people/1")]);
    assert!(
        status == 404 && said.contains("href=\"../people\"") && !said.contains("href=\"/"),
        "{said}"
    );
    let (_, said) = curl(&[
        "--data",
        &format!("token={}&next=/people", daemon.token()),
        &at("/kithd/login"),
    ]);
    assert!(
        said.contains("Location: ./people") || said.contains("location: ./people"),
        "{said}"
    );
    assert!(
        said.contains("kithd_session=") && !said.contains("Path="),
        "{said}"
    );
    crate::page::browse(
        "proxy.mjs",
        &[
            &at("/kithd/"),
            &daemon.token(),
            photo("biden_1.jpg").to_str().unwrap(),
        ],
    );
    let (_, said) = curl(&["--header", "Accept: text/html", &at("/whole/people/1")]);
    assert!(
        said.contains("href=\"../people\"") && said.contains("Joe"),
        "{said}"
    );
    assert_eq!(curl(&["--data", &body, &at("/whole/image/post")]).0, 401);
    assert_eq!(
        curl(&[&at("/whole/v1/backup")]).0,
        401,
        "the guard stands before it"
    );
}

#[test]
fn the_page_is_shown_in_frames_of_named_pages_only() {
    let port = free_port();
    let mut daemon = TestDaemon::new();
    daemon.start();
    let page = |daemon: &TestDaemon| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(
            folder.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        let id = daemon.post_path(&daemon.put("noface.jpg", "framed.jpg"));
        daemon.ended(id);
        // Another site, not only another port.
        let base = daemon.url("/").replace("127.0.0.1", "localhost");
        let html = format!(
            "<iframe src=\"{base}\"></iframe><img src=\"{base}v1/images/{id}/thumbnail.jpg\">"
        );
        std::fs::write(folder.path().join("index.html"), html).unwrap();
        let lines = format!(
            "types {{ text/html html; }} server {{ listen {port}; root {}; }}",
            folder.path().display()
        );
        (Nginx::running(&lines, port), folder)
    };
    let panel = format!("http://127.0.0.1:{port}");
    let served = page(&daemon);
    crate::page::browse("frame.mjs", &[&panel, "refused"]);
    drop(served);
    daemon.stop();
    daemon.set("http.frame_ancestors", &format!("[\"{panel}\"]"));
    daemon.start();
    let _served = page(&daemon);
    crate::page::browse("frame.mjs", &[&panel, "shown"]);
}

#[test]
fn the_boards_own_addresses_are_its_own_through_a_proxy_too() {
    let Some(address) = own_address() else {
        println!("not run: this machine has no address but its own loopback");
        return;
    };
    let mut daemon = TestDaemon::new();
    daemon.set("http.listen", "0.0.0.0:0");
    daemon.start();
    let own = daemon.address().rsplit(':').next().unwrap().to_string();
    let port = free_port();
    let lines = format!(
        "server {{ listen {port}; location / {{ proxy_pass http://127.0.0.1:{own}; proxy_set_header Host $http_host; }} }}"
    );
    let _nginx = Nginx::running(&lines, port);
    assert_eq!(curl(&[&format!("http://{address}:{port}/")]).0, 200);
    assert_eq!(
        curl(&[
            "--header",
            &format!("Host: {address}"),
            &format!("http://127.0.0.1:{own}/")
        ])
        .0,
        200
    );
    // A program on the board that uses this address.
    let body = serde_json::json!({ "path": daemon.put("noface.jpg", "a.jpg") }).to_string();
    assert_eq!(
        curl(&[
            "--data",
            &body,
            &format!("http://{address}:{own}/image/post")
        ])
        .0,
        202
    );
    assert_eq!(
        curl(&[
            "--data",
            &body,
            &format!("http://{address}:{port}/image/post")
        ])
        .0,
        401
    );
    assert_eq!(
        curl(&[
            "--header",
            "Host: 203.0.113.9",
            &format!("http://127.0.0.1:{own}/")
        ])
        .0,
        421
    );
}

#[test]
fn a_wrong_host_name_is_named_on_page_in_log_and_by_doctor() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    for _ in 0..5 {
        let header = "Host: gate.fritz.box:8000";
        let (status, said) = curl(&[
            "--header",
            header,
            "--header",
            "Accept: text/html",
            &daemon.url("/people"),
        ]);
        assert!(
            status == 421 && said.contains("gate.fritz.box") && said.contains("http.names"),
            "{said}"
        );
    }
    let said = wait_for("the log", || {
        Some(daemon.log()).filter(|log| log.contains("gate.fritz.box"))
    });
    assert!(
        said.matches("gate.fritz.box").count() == 1 && said.contains("http.names"),
        "{said}"
    );
    let said = text(&daemon.kithd(["doctor"]));
    assert!(
        said.contains("names that are not its own: gate.fritz.box")
            && said.contains("add it to http.names"),
        "{said}"
    );
}

#[test]
fn commands_whose_reader_goes_away_end_quietly() {
    let mut daemon = TestDaemon::new();
    daemon.enroll_everybody();
    let backup = daemon.folder.path().join("backup").display().to_string();
    let saved = daemon.kithd(["backup", &backup]);
    assert!(saved.status.success(), "{}", text(&saved));
    let picture = photo("obama_2.jpg").display().to_string();
    let unread = |daemon: &TestDaemon, arguments: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = daemon
            .command()
            .args(arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(141), "{arguments:?}: {said}");
        assert!(
            !said.contains("panic") && !said.contains("Broken pipe"),
            "{arguments:?}: {said}"
        );
    };
    for arguments in [
        &["people"][..],
        &["status"],
        &["status", "--json"],
        &["check-config"],
        &["completion", "bash"],
        &["identify", &picture],
        &["calibrate"],
        &["token"],
        &["doctor"],
        &["camera", "list"],
        &["restore", "--yes", &backup],
        &["restore", "--yes", "--json", &backup],
    ] {
        unread(&daemon, arguments);
    }
    daemon.start();
    part_is_ok(&daemon, "engine");
    unread(&daemon, &["people"]);
    unread(&daemon, &["restore", "--yes", &backup]);
    assert_eq!(daemon.sql("select count(*) from person"), ["3"]);
    unread(&daemon, &["breaker"]);
    assert_eq!(daemon.get_text("/healthz"), "ok\n");
}

#[test]
fn a_client_generated_in_python_lists_enrols_and_submits() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.dev/openapi-client/bin");
    let programs =
        std::env::var("KITHD_OPENAPI_CLIENT").unwrap_or_else(|_| own.display().to_string());
    let generator = Path::new(&programs).join("openapi-python-client");
    assert!(
        generator.is_file(),
        "openapi-python-client is not installed; ./dev test installs it"
    );
    let mut daemon = TestDaemon::new();
    daemon.start();
    let document = daemon.folder.path().join("openapi.json");
    let described = daemon.get_text("/openapi.json");
    // Generators support no arrays with items of different types.
    assert!(
        !described.contains("\"prefixItems\"") && !described.contains("\"items\":false"),
        "{described}"
    );
    std::fs::write(&document, described).unwrap();
    let made = Command::new(generator)
        .current_dir(daemon.folder.path())
        .args([
            "generate",
            "--meta",
            "none",
            "--output-path",
            "kithd_client",
            "--path",
        ])
        .arg(&document)
        .output()
        .unwrap();
    let said = text(&made);
    assert!(made.status.success(), "{said}");
    for left_out in [
        "Endpoint will not be generated",
        "Unsupported content type",
        "ERROR",
    ] {
        assert!(!said.contains(left_out), "{said}");
    }
    part_is_ok(&daemon, "engine");
    let used = Command::new(Path::new(&programs).join("python3"))
        .env("PYTHONPATH", daemon.folder.path())
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client.py"))
        .args([&daemon.url(""), &daemon.token()])
        .args([photo("obama_1.jpg"), photo("obama_2.jpg")])
        .output()
        .unwrap();
    assert!(used.status.success(), "{}", text(&used));
    println!("{}", text(&used));
}

#[test]
fn http_1_0_requests_without_a_host_are_told_what_is_missing() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let mut stream = TcpStream::connect(daemon.address()).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.contains("400") && answer.contains("must name its host"),
        "{answer}"
    );
}
