//! The daemon as systemd sees it: readiness, status, watchdog and stop over a real notification
//! socket; its unit, its credentials, and the commands a package and its administrator call. Under
//! a real systemd: `deploy/vm`.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::broker::Mosquitto;
use crate::support::{TestDaemon, text, wait_for};

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
/// Short, so that a test sees many of its intervals.
const WATCHDOG: Duration = Duration::from_secs(2);

/// The socket on which systemd listens for readiness.
struct Systemd {
    socket: UnixDatagram,
    said: Vec<String>,
}

impl Systemd {
    /// Points the daemon to this socket.
    fn around(daemon: &mut TestDaemon) -> Self {
        let path = daemon.folder.path().join("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        daemon.environment("NOTIFY_SOCKET", path.to_str().unwrap());
        daemon.environment("WATCHDOG_USEC", &WATCHDOG.as_micros().to_string());
        Self {
            socket,
            said: Vec::new(),
        }
    }

    /// Returns every line so far.
    fn said(&mut self) -> &[String] {
        let mut buffer = [0; 8192];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            self.said.extend(
                std::str::from_utf8(&buffer[..length])
                    .unwrap()
                    .lines()
                    .map(String::from),
            );
        }
        &self.said
    }

    fn wait(&mut self, what: &str) {
        wait_for(what, || {
            self.said()
                .iter()
                .any(|line| line.starts_with(what))
                .then_some(())
        });
    }

    fn fed(&mut self) -> usize {
        self.said()
            .iter()
            .filter(|line| *line == "WATCHDOG=1")
            .count()
    }

    /// Waits until the watchdog was fed twice more, since one feeding may have been in flight.
    fn wait_until_fed_again(&mut self) {
        let before = self.fed();
        wait_for("the watchdog to be fed", || {
            (self.fed() >= before + 2).then_some(())
        });
    }
}

fn parts(daemon: &TestDaemon) -> Value {
    daemon.get("/v1/status")["parts"].clone()
}

/// A part that is broken has reported, too.
#[test]
fn systemd_hears_ready_once_all_parts_have_reported() {
    let mut daemon = TestDaemon::with_broker(1);
    daemon.set("models.pack", "\"/nowhere/pack\"");
    daemon.set("facerecog.listen", "127.0.0.1:0");
    let mut systemd = Systemd::around(&mut daemon);
    daemon.start();
    systemd.wait("READY=1");
    let parts = parts(&daemon);
    for (part, condition) in [
        ("engine", "degraded"),
        ("mqtt", "degraded"),
        ("page", "ok"),
        ("intake", "ok"),
        ("facerecog", "ok"),
    ] {
        assert_eq!(parts[part]["condition"], condition, "{part} in {parts}");
    }
    wait_for("the status line", || {
        systemd
            .said()
            .iter()
            .rev()
            .find(|line| line.starts_with("STATUS="))
            .cloned()
            .filter(|line| {
                line.starts_with(
                    "STATUS=no pictures wait; degraded: engine (the model pack cannot be used",
                ) && line.contains("; degraded: mqtt (")
            })
    });
    systemd.wait_until_fed_again();
    assert_eq!(daemon.stop(), Some(0));
    let said = systemd.said();
    assert_eq!(said.iter().filter(|line| *line == "READY=1").count(), 1);
    let stopping = said
        .iter()
        .position(|line| line == "STOPPING=1")
        .expect("it did not say that it stops");
    // stop.drain and what comes after it.
    assert!(
        said[stopping..]
            .iter()
            .any(|line| line == "EXTEND_TIMEOUT_USEC=25000000"),
        "{said:?}"
    );
}

#[test]
fn ready_waits_for_the_engine_and_the_watchdog_does_not() {
    let mut daemon = TestDaemon::new();
    let mut systemd = Systemd::around(&mut daemon);
    daemon.start();
    systemd.wait("READY=1");
    assert_eq!(parts(&daemon)["engine"]["condition"], "ok");
    assert_eq!(parts(&daemon)["mqtt"]["condition"], "off");
    let pid = daemon.get("/v1/breaker")["primary"]["pid"].to_string();
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    for name in ["NOTIFY_SOCKET=", "WATCHDOG_USEC="] {
        let inherited = environment
            .windows(name.len())
            .any(|part| part == name.as_bytes());
        assert!(
            !inherited,
            "the engine has {name}: its words to systemd would pass for the daemon's"
        );
    }
    assert!(
        Command::new("kill")
            .args(["-STOP", &pid])
            .status()
            .unwrap()
            .success()
    );
    systemd.wait_until_fed_again();
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn the_watchdog_is_not_fed_while_the_writer_thread_hangs() {
    let mut daemon = TestDaemon::new();
    daemon.preload("slow_sync.c");
    let hang = daemon.folder.path().join("hang");
    daemon.environment("SYNC_HANG", hang.to_str().unwrap());
    let mut systemd = Systemd::around(&mut daemon);
    daemon.start();
    systemd.wait("READY=1");
    systemd.wait_until_fed_again();
    std::fs::write(&hang, "").unwrap();
    let (url, path) = (daemon.url("/image/post"), daemon.put("noface.jpg", "a.jpg"));
    let accepting = std::thread::spawn(move || {
        let agent: ureq::Agent = ureq::Agent::config_builder().build().into();
        agent
            .post(&url)
            .send(serde_json::json!({ "path": path }).to_string().as_bytes())
            .unwrap()
            .status()
            .as_u16()
    });
    wait_for("the watchdog's complaint", || {
        daemon.log().contains("from: writer thread").then_some(())
    });
    let fed = systemd.fed();
    let complaints =
        |daemon: &mut TestDaemon| daemon.log().matches("the watchdog is not fed").count();
    let before = complaints(&mut daemon);
    wait_for("another complaint", || {
        (complaints(&mut daemon) > before).then_some(())
    });
    assert_eq!(
        systemd.fed(),
        fed,
        "it was fed although the writer thread hangs"
    );
    std::fs::remove_file(&hang).unwrap();
    systemd.wait_until_fed_again();
    assert_eq!(accepting.join().unwrap(), 202);
}

#[test]
fn the_brokers_password_may_come_as_a_credential_of_systemd() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("passwords");
    let made = Command::new("mosquitto_passwd")
        .args(["-b", "-c"])
        .arg(&file)
        .args(["kithd", "secret"])
        .status();
    assert!(made.unwrap().success());
    let passwords = std::fs::read_to_string(file).unwrap();
    let broker = Mosquitto::running_with(
        "allow_anonymous false\npassword_file passwords",
        &[("passwords", &passwords)],
    );
    let mut daemon = TestDaemon::with_broker(broker.port());
    let credentials = daemon.folder.path().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    std::fs::write(credentials.join("kithd.mqtt-password"), "secret\n").unwrap();
    daemon.environment("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap());
    daemon.set("mqtt.username", "kithd");
    daemon.start();
    wait_for("the connection", || {
        (parts(&daemon)["mqtt"]["condition"] == "ok").then_some(())
    });
}

#[test]
fn allow_adds_a_root_with_its_drop_in_and_takes_both_back() {
    let daemon = TestDaemon::new();
    let (config, units) = (
        daemon.folder.path().join("kithd.toml"),
        daemon.folder.path().join("units"),
    );
    std::fs::copy(Path::new(DEPLOY).join("kithd.toml"), &config).unwrap();
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o640)).unwrap();
    let kithd = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_kithd"))
            .arg("--config")
            .arg(&config)
            .args(arguments)
            .args(["--units", units.to_str().unwrap()])
            .output()
            .unwrap();
        (output.status.success(), text(&output))
    };
    let drop_in = |name: &str| std::fs::read_to_string(units.join("kithd.service.d").join(name));
    let roots = || {
        let text = std::fs::read_to_string(&config).unwrap();
        text.lines()
            .find(|line| line.starts_with("roots = "))
            .unwrap_or_default()
            .to_string()
    };

    let (done, said) = kithd(&["allow", "/home/anna/pictures"]);
    assert!(
        done && said.contains("kithd may read pictures below /home/anna/pictures"),
        "{said}"
    );
    assert!(said.contains("is not there now"), "{said}");
    assert!(
        roots()
            .ends_with(r#"/inbox", "/srv/kithd/inbox", "/unknown_images", "/home/anna/pictures"]"#),
        "{}",
        roots()
    );
    let name = "allow-home-anna-pictures.conf";
    assert!(
        drop_in(name).unwrap().ends_with(
            "[Service]\nProtectHome=tmpfs\nBindReadOnlyPaths=\"-/home/anna/pictures\"\n"
        )
    );
    let (done, said) = kithd(&["allow", "/home/anna/pictures", "--write"]);
    assert!(done && said.contains("read and write"), "{said}");
    assert!(
        drop_in(name)
            .unwrap()
            .ends_with("BindPaths=\"-/home/anna/pictures\"\n")
    );
    assert_eq!(roots().matches("/home/anna").count(), 1);
    assert!(kithd(&["allow", "/mnt/nas/inbox"]).0);
    assert!(
        drop_in("allow-mnt-nas-inbox.conf").is_err(),
        "what the unit shows anyway needs no drop-in"
    );
    assert_eq!(
        std::fs::metadata(&config).unwrap().permissions().mode() & 0o777,
        0o640
    );
    let verified = Command::new("systemd-analyze").arg("--version").output();
    assert!(
        verified.is_ok(),
        "systemd-analyze is not installed; ./dev test installs it"
    );

    let (done, said) = kithd(&["allow", "/home/anna/pictures", "--remove"]);
    assert!(done && said.contains("no longer read"), "{said}");
    assert!(
        drop_in(name).is_err()
            && !roots().contains("/home/anna")
            && roots().contains("/mnt/nas/inbox")
    );
    let (done, said) = kithd(&["allow", "/etc/ssl"]);
    assert!(!done && said.contains("belongs to the system"), "{said}");
    let check = Command::new(env!("CARGO_BIN_EXE_kithd"))
        .arg("--config")
        .arg(&config)
        .arg("check-config")
        .output();
    assert!(check.unwrap().status.success());
}

/// The unit with one of its drop-ins, as installed; the program's path is one that exists here.
fn installed(folder: &Path, drop_in: Option<&str>) -> std::path::PathBuf {
    let unit = folder.join("kithd.service");
    let text = std::fs::read_to_string(Path::new(DEPLOY).join("systemd/kithd.service")).unwrap();
    std::fs::write(
        &unit,
        text.replace("/usr/bin/kithd", env!("CARGO_BIN_EXE_kithd")),
    )
    .unwrap();
    let drop_ins = folder.join("kithd.service.d");
    let _ = std::fs::remove_dir_all(&drop_ins);
    std::fs::create_dir(&drop_ins).unwrap();
    if let Some(name) = drop_in {
        std::fs::copy(
            Path::new(DEPLOY).join("systemd").join(name),
            drop_ins.join(name),
        )
        .unwrap();
    }
    unit
}

#[test]
fn the_unit_is_valid_and_its_exposure_stays_within_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    // Tenths. 0.2 of each are for sched_setaffinity, by which frame producers leave half of the
    // cores; CUDA states its own in its drop-in.
    for (drop_in, most) in [
        (None, 14),
        (Some("nfs.conf"), 14),
        (Some("camera.conf"), 18),
        (Some("argus.conf"), 18),
        (Some("cuda.conf"), 16),
    ] {
        let unit = installed(folder.path(), drop_in);
        let output = Command::new("systemd-analyze")
            .args([
                "security",
                "--offline=true",
                "--no-pager",
                &format!("--threshold={most}"),
            ])
            .arg(&unit)
            .output()
            .expect("systemd-analyze is not installed; ./dev test installs it");
        assert!(
            output.status.success(),
            "more than {most} tenths with {drop_in:?}:\n{}",
            text(&output)
        );
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&unit)
            .output()
            .unwrap();
        let complaints = text(&output);
        let ours: Vec<_> = complaints
            .lines()
            .filter(|line| line.contains("kithd"))
            .collect();
        assert!(
            output.status.success() && ours.is_empty(),
            "{drop_in:?}: {complaints}"
        );
    }
}

#[test]
fn packages_get_completions_and_a_man_page_per_command() {
    let daemon = TestDaemon::new();
    let completion = daemon.kithd(["completion", "bash"]);
    assert!(completion.status.success());
    let script = daemon.folder.path().join("kithd.bash");
    std::fs::write(&script, &completion.stdout).unwrap();
    assert!(
        Command::new("bash")
            .arg("-n")
            .arg(&script)
            .status()
            .unwrap()
            .success()
    );
    let folder = daemon.folder.path().join("man");
    assert!(
        daemon
            .kithd(["man", folder.to_str().unwrap()])
            .status
            .success()
    );
    let help = text(&daemon.kithd(["--help"]));
    let commands = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1);
    let commands = commands
        .take_while(|line| line.starts_with("  "))
        .filter(|line| !line.starts_with("   "));
    let mut pages = 0;
    for command in commands
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
    {
        let page = std::fs::read_to_string(folder.join(format!("kithd-{command}.1")))
            .unwrap_or_else(|_| {
                panic!("there is no page for kithd {command}");
            });
        assert!(page.contains(".TH"), "{page}");
        pages += 1;
    }
    assert!(pages >= 10, "help shows only {pages} commands:\n{help}");
    assert!(
        std::fs::read_to_string(folder.join("kithd.1"))
            .unwrap()
            .contains("face")
    );
    assert!(!folder.join("kithd-man.1").exists());
}
