//! A real mosquitto on a free loopback port. Not for messages to it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A broker with its own folder; killed when dropped.
pub struct Mosquitto {
    folder: TempDir,
    port: u16,
    process: Option<Child>,
}

impl Mosquitto {
    /// A running broker that keeps sessions and messages across a kill.
    pub fn running() -> Self {
        Self::running_with("", &[])
    }

    /// The same with further lines of configuration and the files they name, relative to the
    /// broker's folder.
    pub fn running_with(configuration: &str, files: &[(&str, &str)]) -> Self {
        let mut broker = Self::absent_with(configuration, files);
        broker.start();
        broker
    }

    /// A broker whose port is known but which does not run yet.
    #[allow(dead_code)] // the integration tests share this file and begin with one that runs
    pub fn absent() -> Self {
        Self::absent_with("", &[])
    }

    fn absent_with(configuration: &str, files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        // Run as root, mosquitto would change to a user that cannot write here; otherwise `user` is
        // ignored. Saving every second is what lets a session survive kill -9; saving "on changes"
        // leaves messages out.
        let full = format!(
            "user root\nlistener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n\
             persistence true\npersistence_location ./\nautosave_interval 1\n{configuration}\n"
        );
        fs::write(folder.path().join("mosquitto.conf"), full).unwrap();
        Self {
            folder,
            port,
            process: None,
        }
    }

    /// The port it listens on, the same across restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts or restarts it and waits until it accepts connections.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "already running");
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .unwrap();
        let mut process = Command::new(program())
            .args(["-v", "-c", "mosquitto.conf"])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = process.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "mosquitto did not start:\n{}",
                self.log()
            );
            sleep(Duration::from_millis(20));
        }
        self.process = Some(process);
    }

    /// Kills it.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Stops it by SIGTERM.
    #[allow(dead_code)] // the connection's own tests share this file and only kill
    pub fn terminate(&mut self) {
        if let Some(mut process) = self.process.take() {
            assert!(
                Command::new("kill")
                    .arg(process.id().to_string())
                    .status()
                    .unwrap()
                    .success()
            );
            process.wait().unwrap();
        }
    }

    /// Replaces one of its files and has it read them again.
    #[allow(dead_code)] // the connection's own tests share this file and change none
    pub fn reload(&self, file: &str, content: &str) {
        let reloads = || self.log().matches("Reloading config").count();
        let before = reloads();
        fs::write(self.folder.path().join(file), content).unwrap();
        let pid = self.process.as_ref().unwrap().id().to_string();
        assert!(
            Command::new("kill")
                .args(["-HUP", &pid])
                .status()
                .unwrap()
                .success()
        );
        // It logs this before it reads them, and takes no message in between.
        let deadline = Instant::now() + Duration::from_secs(10);
        while reloads() == before {
            assert!(
                Instant::now() < deadline,
                "mosquitto did not read {file} again:\n{}",
                self.log()
            );
            sleep(Duration::from_millis(20));
        }
    }

    /// Waits until these words, a client's id or a payload, are on its disk, where a kill leaves
    /// them.
    pub fn wait_for_saved(&self, words: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let saved = || fs::read(self.folder.path().join("mosquitto.db")).unwrap_or_default();
        while !saved()
            .windows(words.len())
            .any(|part| part == words.as_bytes())
        {
            assert!(
                Instant::now() < deadline,
                "mosquitto did not save {words:?}:\n{}",
                self.log()
            );
            sleep(Duration::from_millis(20));
        }
    }

    /// Returns its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns the path of the plugin that can refuse subscriptions, if it is installed.
#[allow(dead_code)] // the integration tests share this file and need no access lists
pub fn dynamic_security_plugin() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib")
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    let mut plugins = folders.map(|folder| folder.join("mosquitto_dynamic_security.so"));
    plugins.find(|plugin| plugin.exists())
}

/// Debian installs it outside an ordinary user's search path.
fn program() -> &'static str {
    [
        "/usr/sbin/mosquitto",
        "/usr/local/sbin/mosquitto",
        "/opt/homebrew/sbin/mosquitto",
    ]
    .into_iter()
    .find(|path| fs::exists(path).unwrap_or(false))
    .unwrap_or("mosquitto")
}

/// Returns a port below the kernel's range for outgoing connections, so that no connection takes it
/// while the broker is down.
pub fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(20_000..30_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
