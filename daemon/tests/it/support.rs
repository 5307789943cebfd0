//! Starts the built kithd in a folder of its own and talks to it as a user would; also photographs,
//! broker clients and waiting.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::broker::Mosquitto;

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

/// Labelled photographs that are not part of the repository; prints a line when they are missing.
pub fn shared_faces() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/faces");
    if !folder.is_dir() {
        println!("not run: the labelled photographs are not beside the repository");
        return None;
    }
    folder.canonicalize().ok()
}

/// Returns whether `./dev test --full` asks for the long counts.
pub fn full() -> bool {
    std::env::var_os("KITHD_FULL").is_some()
}

/// Waits until `condition` returns a value, a minute at most.
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

/// Runs a test once more, by its whole name, with mounts of its own, which end with it and which no
/// other process sees. Returns true in that second run, the one that does something.
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

/// The same with a network of its own that has loopback only, with every port free.
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

/// The same as a user who is subject to permissions, even if the tests run as root.
pub fn as_plain_user(test: &str) -> bool {
    unshared(test, &["--user", "--map-user=1234"])
}

/// The same with its own per-user limits of the kernel.
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

/// Mounts a file system in memory; only inside [`with_own_mounts`].
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
pub struct TestDaemon {
    pub folder: tempfile::TempDir,
    settings: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
    configuration: Option<PathBuf>,
    daemon: Option<Daemon>,
}

struct Daemon {
    process: Child,
    /// Without the last slash.
    page: String,
    log: Receiver<String>,
    lines: Vec<String>,
}

impl TestDaemon {
    /// Without a broker.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("inbox")).unwrap();
        let mut daemon = Self {
            folder,
            settings: BTreeMap::new(),
            environment: BTreeMap::new(),
            configuration: None,
            daemon: None,
        };
        let path = |name: &str| daemon.folder.path().join(name).display().to_string();
        let (state, inbox) = (path("state"), path("inbox"));
        daemon.set("state_dir", &state);
        daemon.set("intake.roots", &format!("[\"{inbox}\"]"));
        daemon.set("intake.disk_reserve", "0B");
        daemon.set("http.listen", "127.0.0.1:0");
        daemon.set("mqtt.enabled", "false");
        daemon.set("device", "board");
        daemon.set("retry.first_wait", "50ms");
        // Not measured in every test.
        daemon.set("models.precision", "int8");
        daemon
    }

    /// With a broker on a port.
    pub fn with_broker(port: u16) -> Self {
        let mut daemon = Self::new();
        daemon.set("mqtt.enabled", "true");
        daemon.set("mqtt.url", &format!("mqtt://127.0.0.1:{port}"));
        daemon
    }

    /// Started with everybody enrolled, its engine up, and connected to a broker.
    pub fn connected(broker: &Mosquitto) -> Self {
        let mut daemon = Self::with_broker(broker.port());
        daemon.start_with_everybody();
        daemon.wait_for_broker();
        daemon
    }

    pub fn set(&mut self, key: &str, value: &str) {
        self.settings.insert(key.into(), value.into());
    }

    /// Sets a key back to its default.
    pub fn unset(&mut self, key: &str) {
        self.settings.remove(key);
    }

    pub fn environment(&mut self, name: &str, value: &str) {
        self.environment.insert(name.into(), value.into());
    }

    /// Writes a configuration file, for what must not stand among the arguments.
    pub fn configuration(&mut self, text: &str) {
        let file = self.folder.path().join("kithd.toml");
        std::fs::write(&file, text).unwrap();
        self.configuration = Some(file);
    }

    /// Compiles a C file beside this one and preloads it into every process of kithd.
    pub fn preload(&mut self, source: &str) {
        let library = self.folder.path().join(source).with_extension("so");
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-w", "-o"])
            .arg(&library)
            .arg(
                Path::new(env!("CARGO_MANIFEST_DIR"))
                    .join("tests/it")
                    .join(source),
            )
            .status()
            .unwrap();
        assert!(status.success(), "cc could not compile {source}");
        self.environment("LD_PRELOAD", library.to_str().unwrap());
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
        if let Some(file) = &self.configuration {
            command.arg("--config").arg(file);
        }
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

    /// Starts the daemon with everybody enrolled and waits for its engine.
    pub fn start_with_everybody(&mut self) {
        self.enroll_everybody();
        self.start();
        part_is_ok(self, "engine");
        part_is_ok(self, "gallery");
    }

    /// Starts the daemon and waits for its broker.
    pub fn start_connected(&mut self) {
        self.start();
        self.wait_for_broker();
    }

    /// Waits for both connections: the one that takes pictures and the one that carries results.
    pub fn wait_for_broker(&self) {
        part_is_ok(self, "mqtt");
        part_is_ok(self, "mqtt out");
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

    /// A path in the state folder.
    pub fn state(&self, name: &str) -> PathBuf {
        self.folder.path().join("state").join(name)
    }

    /// Host and port of the page.
    pub fn address(&self) -> &str {
        self.daemon().page.split_once("://").unwrap().1
    }

    /// The administrator's token.
    pub fn token(&self) -> String {
        std::fs::read_to_string(self.state("token"))
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

    /// Kills it; to the database this is a power cut.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.process.kill().unwrap();
            daemon.process.wait().unwrap();
        }
    }

    /// Asks it to stop; returns its exit code.
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

    /// Puts a copy of a photograph into the inbox; returns its path.
    pub fn put(&self, photo_name: &str, name: &str) -> String {
        self.put_bytes(&std::fs::read(photo(photo_name)).unwrap(), name)
    }

    /// Puts bytes into the inbox; returns the path.
    pub fn put_bytes(&self, bytes: &[u8], name: &str) -> String {
        let target = self.folder.path().join("inbox").join(name);
        // A rename makes the file appear whole, as careful senders do.
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

    /// Posts a body; returns status and JSON.
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

    /// Posts one path in the origin's form; returns the id.
    pub fn post_path(&self, path: &str) -> i64 {
        let body = serde_json::json!({ "path": path }).to_string();
        let (status, answer) = self.post("/image/post", &[], body.as_bytes());
        assert_eq!(status, 202, "{answer}");
        answer["ids"][0].as_i64().unwrap()
    }

    /// Waits until an image has ended; returns its JSON.
    pub fn ended(&self, id: i64) -> Value {
        wait_for(&format!("image {id} to end"), || {
            let image = self.get(&format!("/v1/images/{id}"));
            matches!(image["state"].as_str(), Some("processed" | "failed")).then_some(image)
        })
    }

    /// Name of the person that an image shows, once it has ended.
    pub fn known(&self, picture: &str, as_file: &str) -> Value {
        let image = self.ended(self.post_path(&self.put(picture, as_file)));
        image["found"][0]["person"].clone()
    }

    /// Number of images that have ended.
    pub fn count_ended(&self) -> usize {
        let counts = &self.get("/v1/status")["counts"];
        (counts["processed"].as_u64().unwrap() + counts["failed"].as_u64().unwrap()) as usize
    }

    /// Waits until no image is unfinished.
    pub fn all_ended(&self) {
        wait_for("all images to end", || {
            let counts = &self.get("/v1/status")["counts"];
            (counts["pending"] == 0 && counts["processing"] == 0).then_some(())
        });
    }

    /// Waits until the broker has every result.
    pub fn all_sent(&self) {
        wait_for("the outbox to be empty", || {
            (self.get("/v1/status")["counts"]["unsent"] == 0).then_some(())
        });
    }

    /// Changes the database of a daemon that does not run, past kithd.
    pub fn change(&self, sql: &str) {
        let output = Command::new("sqlite3")
            .arg(self.state("kithd.db"))
            .arg(sql)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }

    /// Rows of the database, as sqlite3 prints them.
    pub fn sql(&self, query: &str) -> Vec<String> {
        let output = Command::new("sqlite3")
            .arg("-readonly")
            .arg(self.state("kithd.db"))
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

    /// Enrols the two portraits and the astronaut under their names. Before the first start this
    /// copies a gallery that a run of the tests prepares once.
    pub fn enroll_everybody(&self) {
        let state = self.folder.path().join("state");
        if state.exists() || self.settings.contains_key("models.pack") {
            return self.enroll_folder();
        }
        static GALLERY: LazyLock<Vec<u8>> = LazyLock::new(|| {
            let daemon = TestDaemon::new();
            daemon.enroll_folder();
            assert!(
                !daemon.state("kithd.db-wal").exists(),
                "the journal is not closed"
            );
            std::fs::read(daemon.state("kithd.db")).unwrap()
        });
        std::fs::create_dir(&state).unwrap();
        std::fs::write(self.state("kithd.db"), &*GALLERY).unwrap();
    }

    /// Enrols them by one `kithd enroll --folder`.
    fn enroll_folder(&self) {
        let known = self.folder.path().join("everybody");
        for (person, picture) in [
            ("Barack Obama", "obama_1.jpg"),
            ("Joe Biden", "biden_1.jpg"),
            ("Eileen Collins", "astronaut_1.jpg"),
        ] {
            let folder = known.join(person);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::copy(photo(picture), folder.join(picture)).unwrap();
        }
        let output = self.kithd(["enroll", "--folder", known.to_str().unwrap()]);
        assert!(output.status.success(), "{}", text(&output));
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns the sum in lower-case hex, as kithd writes it.
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

/// Returns everything a command printed.
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

/// Adds the options for a topic at a broker: QoS 1 and MQTT 5.
fn at_broker<'a>(command: &'a mut Command, port: u16, topic: &str) -> &'a mut Command {
    command
        .args(["-h", "127.0.0.1", "-q", "1", "-V", "5"])
        .args(["-p", &port.to_string(), "-t", topic])
}

/// Publishes by `mosquitto_pub`; returns once the broker has acknowledged.
pub fn publish(port: u16, topic: &str, message: &str) {
    publish_with(port, topic, &["-m", message]);
}

/// The same with other options.
pub fn publish_with(port: u16, topic: &str, options: &[&str]) {
    let status = at_broker(&mut Command::new("mosquitto_pub"), port, topic)
        .args(options)
        .status()
        .unwrap();
    assert!(status.success());
}

/// Asks by `mosquitto_rr`; returns correlation data and body of the answer.
pub fn ask(port: u16, topic: &str, options: &[&str]) -> (String, Value) {
    let output = at_broker(&mut Command::new("mosquitto_rr"), port, topic)
        .args(["-W", "60", "-e", "answers/here"])
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

/// Waits until a part of the status is ok.
pub fn part_is_ok(daemon: &TestDaemon, part: &str) {
    wait_for(part, || {
        (daemon.get("/v1/status")["parts"][part]["condition"] == "ok").then_some(())
    });
}

/// Returns the payload, as a [`Subscriber`] tells it, of the picture for Home Assistant while there is
/// no face.
pub fn no_face() -> String {
    let picture = include_bytes!("../../src/sinks/homeassistant/no_face.jpg");
    String::from_utf8_lossy(picture).into_owned()
}

/// A `mosquitto_sub` with its own session that collects every message of a topic with its retain
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
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "mosquitto_sub"]);
        let mut process = at_broker(&mut command, port, topic)
            .arg("-d")
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
        // With -d it prints when the broker has the subscription.
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

    /// Returns every message so far, its payload as text.
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

    /// Waits for so many messages; returns their payloads as JSON.
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
    // Tests look at the beginning of a picture only.
    String::from_utf8_lossy(&bytes).into_owned()
}
