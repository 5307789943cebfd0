//! Starts the built kithd in a folder of its own and asks it things, the way a user would.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};

const PATIENCE: Duration = Duration::from_secs(60);

/// Public-domain photographs of this repository.
pub fn photo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/photos")
        .join(name)
}

/// The folder of a bundled model pack.
pub fn pack(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../models/packs")
        .join(name)
        .display()
        .to_string()
}

/// Labelled photographs that are not part of the repository; says so when they are not there.
pub fn shared_faces() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/faces");
    if !folder.is_dir() {
        println!("not run: the labelled photographs are not beside the repository");
        return None;
    }
    folder.canonicalize().ok()
}

/// Returns true if `./dev test --full` asks for the long counts.
pub fn full() -> bool {
    std::env::var_os("KITHD_FULL").is_some()
}

/// Waits until `condition` gives something.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "waited {PATIENCE:?} in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a test once more, by its whole name, with mounts of its own: they go with it and nobody
/// else sees them. True in that second run, which is the one to do something.
pub fn with_own_mounts(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    unshared(
        test,
        if root {
            &["--mount"]
        } else {
            &["--map-root-user", "--mount"]
        },
    )
}

/// The same with a network of its own as well, of which only loopback is there: every port is free.
pub fn with_own_network(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    let own = ["--mount", "--net", "--map-root-user"];
    let inside = unshared(test, if root { &own[..2] } else { &own });
    if inside {
        assert!(
            Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status()
                .unwrap()
                .success()
        );
    }
    inside
}

/// The same as a user bound by file permissions, even if run as root.
pub fn as_plain_user(test: &str) -> bool {
    unshared(test, &["--user", "--map-user=1234"])
}

/// The same with limits of its own for what a user may have of the kernel.
pub fn with_own_limits(test: &str) -> bool {
    unshared(test, &["--user", "--map-root-user"])
}

fn unshared(test: &str, how: &[&str]) -> bool {
    const INSIDE: &str = "KITHD_UNSHARED";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let output = Command::new("unshare")
        .args(how)
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = text(&output);
    println!("{said}");
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{test} by unshare {how:?}: {}",
        output.status
    );
    false
}

/// Mounts a file system in memory; only where [`with_own_mounts`] says so.
pub fn mount_memory(place: &Path, size: &str) {
    std::fs::create_dir_all(place).unwrap();
    let options = format!("size={size},mode=0750");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
        .arg(place)
        .status()
        .unwrap();
    assert!(mounted.success());
}

/// A folder for one test: state, inbox, settings; and the daemon in it, if it runs.
pub struct Board {
    pub folder: tempfile::TempDir,
    settings: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
    daemon: Option<Daemon>,
}

struct Daemon {
    process: Child,
    /// Without the last slash.
    page: String,
    log: Receiver<String>,
    lines: Vec<String>,
}

impl Board {
    /// Without a broker.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("inbox")).unwrap();
        let mut board = Self {
            folder,
            settings: BTreeMap::new(),
            environment: BTreeMap::new(),
            daemon: None,
        };
        let path = |name: &str| board.folder.path().join(name).display().to_string();
        let (state, inbox) = (path("state"), path("inbox"));
        board.set("state_dir", &state);
        board.set("intake.roots", &format!("[\"{inbox}\"]"));
        board.set("intake.disk_reserve", "0B");
        board.set("http.listen", "127.0.0.1:0");
        board.set("mqtt.enabled", "false");
        board.set("device", "board");
        board.set("retry.first_wait", "50ms");
        // Not measured in every test.
        board.set("models.precision", "int8");
        board
    }

    /// With a broker on a port.
    pub fn with_broker(port: u16) -> Self {
        let mut board = Self::new();
        board.set("mqtt.enabled", "true");
        board.set("mqtt.url", &format!("mqtt://127.0.0.1:{port}"));
        board
    }

    pub fn set(&mut self, key: &str, value: &str) {
        self.settings.insert(key.into(), value.into());
    }

    /// Back to the default.
    pub fn unset(&mut self, key: &str) {
        self.settings.remove(key);
    }

    pub fn environment(&mut self, name: &str, value: &str) {
        self.environment.insert(name.into(), value.into());
    }

    /// Runs one command of kithd with this board's settings to its end.
    pub fn kithd<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// Starts one command with this board's settings.
    pub fn spawn<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Child {
        self.command()
            .args(arguments)
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kithd"));
        for (key, value) in &self.settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        // The build may lie outside the source tree, where the program cannot find its packs by
        // itself.
        command.env(
            "KITHD_PACKS",
            concat!(env!("CARGO_MANIFEST_DIR"), "/../models/packs"),
        );
        command.envs(&self.environment);
        command
    }

    /// Starts the daemon and waits until the page listens.
    pub fn start(&mut self) {
        let mut process = self
            .command()
            .arg("run")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, log) = channel();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        std::thread::spawn(move || {
            stderr
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        let mut lines = Vec::new();
        let page = wait_for("the page's address in the log", || {
            if let Some(status) = process.try_wait().unwrap() {
                lines.extend(log.try_iter());
                panic!("kithd ended with {status}:\n{}", lines.join("\n"));
            }
            lines.extend(log.try_iter());
            lines.iter().find_map(|line| {
                let (_, rest) = line.split_once("page and API on ")?;
                Some(rest.trim_end_matches('/').to_string())
            })
        });
        self.daemon = Some(Daemon {
            process,
            page,
            log,
            lines,
        });
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("the daemon was not started")
    }

    pub fn pid(&self) -> u32 {
        self.daemon().process.id()
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.daemon().page)
    }

    /// Host and port of the page.
    pub fn address(&self) -> &str {
        self.daemon().page.split_once("://").unwrap().1
    }

    /// The administrator's token.
    pub fn token(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("state/token"))
            .unwrap()
            .trim()
            .into()
    }

    /// Returns the log so far.
    pub fn log(&mut self) -> String {
        let daemon = self.daemon.as_mut().expect("the daemon was not started");
        daemon.lines.extend(daemon.log.try_iter());
        daemon.lines.join("\n")
    }

    /// Kills it as a power cut would, from the database's point of view.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.process.kill().unwrap();
            daemon.process.wait().unwrap();
        }
    }

    /// Asks it to stop and gives its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let mut daemon = self.daemon.take()?;
        let pid = daemon.process.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        let status = wait_for("kithd to stop", || daemon.process.try_wait().unwrap());
        if !status.success() {
            daemon.lines.extend(daemon.log.iter());
            println!("kithd ended with {status}:\n{}", daemon.lines.join("\n"));
        }
        status.code()
    }

    /// Puts a copy of a photograph into the inbox and gives its path.
    pub fn put(&self, photo_name: &str, name: &str) -> String {
        self.put_bytes(&std::fs::read(photo(photo_name)).unwrap(), name)
    }

    /// Puts bytes into the inbox and gives the path.
    pub fn put_bytes(&self, bytes: &[u8], name: &str) -> String {
        let target = self.folder.path().join("inbox").join(name);
        // Whole or not at all, as a careful sender does it.
        let part = self.folder.path().join("part");
        std::fs::write(&part, bytes).unwrap();
        std::fs::rename(&part, &target).unwrap();
        target.display().to_string()
    }

    pub fn get(&self, path: &str) -> Value {
        agent()
            .get(self.url(path))
            .call()
            .unwrap()
            .body_mut()
            .read_json()
            .unwrap()
    }

    pub fn get_text(&self, path: &str) -> String {
        agent()
            .get(self.url(path))
            .call()
            .unwrap()
            .body_mut()
            .read_to_string()
            .unwrap()
    }

    /// Posts a body and gives status and JSON.
    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, Value) {
        let mut request = agent().post(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = request.send(body).unwrap();
        let status = response.status().as_u16();
        (
            status,
            response.body_mut().read_json().unwrap_or(Value::Null),
        )
    }

    /// The same with the administrator's token.
    pub fn post_as_admin(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, Value) {
        let bearer = format!("Bearer {}", self.token());
        self.post(
            path,
            &[&[("authorization", bearer.as_str())], headers].concat(),
            body,
        )
    }

    /// Posts one path the origin's way and gives the id.
    pub fn post_path(&self, path: &str) -> i64 {
        let body = serde_json::json!({ "path": path }).to_string();
        let (status, answer) = self.post("/image/post", &[], body.as_bytes());
        assert_eq!(status, 202, "{answer}");
        answer["ids"][0].as_i64().unwrap()
    }

    /// Waits until an image has ended and gives all of it.
    pub fn ended(&self, id: i64) -> Value {
        wait_for(&format!("image {id} to end"), || {
            let image = self.get(&format!("/v1/images/{id}"));
            matches!(image["state"].as_str(), Some("processed" | "failed")).then_some(image)
        })
    }

    /// Rows of the database, as sqlite3 prints them.
    pub fn sql(&self, query: &str) -> Vec<String> {
        let database = self.folder.path().join("state/kithd.db");
        let output = Command::new("sqlite3")
            .arg("-readonly")
            .arg(database)
            .arg(query)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(String::from)
            .collect()
    }

    /// Enrols the two portraits and the astronaut under their names.
    pub fn enroll_everybody(&self) {
        for (person, picture) in [
            ("Barack Obama", "obama_1.jpg"),
            ("Joe Biden", "biden_1.jpg"),
            ("Eileen Collins", "astronaut_1.jpg"),
        ] {
            let picture = photo(picture);
            let output = self.kithd(["enroll", "--person", person, picture.to_str().unwrap()]);
            assert!(output.status.success(), "{}", text(&output));
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns the sum in kithd's notation.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// An embedding as the database holds it: little-endian float32, and the first four bytes of their
/// sha256.
pub fn sealed(vector: &[f32]) -> Vec<u8> {
    let mut bytes: Vec<u8> = vector
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let seal = Sha256::digest(&bytes);
    bytes.extend(&seal[..4]);
    bytes
}

/// Everything a command printed.
pub fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .build()
        .into()
}

/// `mosquitto_pub`, acknowledged by the broker when it returns.
pub fn publish(port: u16, topic: &str, message: &str) {
    publish_with(port, topic, &["-m", message]);
}

/// The same with other options.
pub fn publish_with(port: u16, topic: &str, options: &[&str]) {
    let port = port.to_string();
    let status = Command::new("mosquitto_pub")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-q",
            "1",
            "-V",
            "5",
            "-t",
            topic,
        ])
        .args(options)
        .status()
        .unwrap();
    assert!(status.success());
}

/// `mosquitto_rr`: asks, and gives correlation data and body of the answer.
pub fn ask(port: u16, topic: &str, options: &[&str]) -> (String, Value) {
    let port = port.to_string();
    let output = Command::new("mosquitto_rr")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-q",
            "1",
            "-V",
            "5",
            "-W",
            "60",
            "-t",
            topic,
            "-e",
            "answers/here",
        ])
        .args([
            "-D",
            "publish",
            "correlation-data",
            "question-7",
            "-F",
            "%D %p",
        ])
        .args(options)
        .output()
        .unwrap();
    let text = text(&output);
    let (correlation, body) = text
        .split_once(' ')
        .unwrap_or_else(|| panic!("no answer: {text}"));
    (
        correlation.into(),
        serde_json::from_str(body).unwrap_or_else(|_| panic!("no JSON: {text}")),
    )
}

/// Waits until a part of the board says that it works.
pub fn part_is_ok(board: &Board, part: &str) {
    wait_for(part, || {
        (board.get("/v1/status")["parts"][part]["condition"] == "ok").then_some(())
    });
}

/// `mosquitto_sub` with a session of its own: collects every message of a topic, with its retain
/// flag.
pub struct Subscriber {
    process: Child,
    lines: Receiver<String>,
    seen: Vec<Value>,
}

impl Subscriber {
    pub fn new(port: u16, topic: &str) -> Self {
        Self::with_session(port, topic, &[])
    }

    /// Subscribes with a session that the broker keeps, so that nothing is missed while broker or
    /// connection are away.
    pub fn lasting(port: u16, topic: &str, client_id: &str) -> Self {
        Self::with_session(port, topic, &["-c", "-x", "600", "-i", client_id])
    }

    fn with_session(port: u16, topic: &str, session: &[&str]) -> Self {
        let port = port.to_string();
        let mut process = Command::new("stdbuf")
            .args([
                "-oL",
                "mosquitto_sub",
                "-h",
                "127.0.0.1",
                "-p",
                &port,
                "-q",
                "1",
                "-V",
                "5",
                "-t",
                topic,
                "-d",
            ])
            .args(session)
            .args([
                "-F",
                "MESSAGE {\"topic\":\"%t\",\"retain\":%r,\"expiry\":\"%E\",\"payload\":\"%X\"}",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        // -d makes it say when the broker has the subscription.
        let mut subscriber = Self {
            process,
            lines,
            seen: Vec::new(),
        };
        wait_for("the subscription", || {
            subscriber
                .lines
                .try_iter()
                .any(|line| line.contains("SUBACK"))
                .then_some(())
        });
        subscriber.seen.clear();
        subscriber
    }

    /// Every message so far, its payload as text.
    pub fn messages(&mut self) -> &[Value] {
        for line in self.lines.try_iter() {
            if let Some(json) = line.strip_prefix("MESSAGE ") {
                let mut message: Value = serde_json::from_str(json).unwrap();
                message["payload"] = unhex(message["payload"].as_str().unwrap()).into();
                self.seen.push(message);
            }
        }
        &self.seen
    }

    /// Waits for so many messages and gives their payloads as JSON.
    pub fn wait(&mut self, count: usize) -> Vec<Value> {
        wait_for(&format!("{count} messages"), || {
            (self.messages().len() >= count).then_some(())
        });
        self.seen
            .iter()
            .map(|message| serde_json::from_str(message["payload"].as_str().unwrap()).unwrap())
            .collect()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn unhex(text: &str) -> String {
    let bytes: Vec<u8> = (0..text.len() / 2)
        .map(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap())
        .collect();
    // The beginning of a picture suffices.
    String::from_utf8_lossy(&bytes).into_owned()
}
