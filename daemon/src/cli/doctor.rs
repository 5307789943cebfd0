//! `kithd doctor`: checks everything that the appliance depends on and says how to fix what is
//! wrong. Works with and without the daemon, and changes nothing.
//!
//! The running daemon's report about its parts is trusted; the rest is checked here, as the user
//! who runs the command.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use kith_mqtt::{Message, Settings, State};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::OwnEngines;
use super::camera::first_picture;
use crate::app;
use crate::config::{Config, Producer};
use crate::control::Client;
use crate::domain::{Moment, wall_clock_ms};
use crate::engine_process::load_pack;
use crate::files::disk::free_bytes;
use crate::queue::synchronised;
use crate::state_dir::open_to_others;
use crate::store::{
    StoreError, journal_bytes, journal_trouble, look_through, refuse_network_filesystem,
};
use crate::topics::Topics;

/// Time for a message to ourselves through the broker.
const ECHO: Duration = Duration::from_secs(3);
/// Time to wait for a mount, a camera or a broker before it is reported as not answering.
const PATIENCE: Duration = Duration::from_secs(10);
/// A clock before this date is wrong, since this program is newer. 2026-01-01.
const PLAUSIBLE_MS: i64 = 1_767_225_600_000;
/// The account and the unit of the package.
const SERVICE: &str = "kithd";

/// Arguments of `kithd doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Answers as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Warning,
    Problem,
}

/// A line of the report.
#[derive(Debug, Serialize)]
struct Finding {
    part: String,
    verdict: Verdict,
    text: String,
    /// Advice for the operator.
    advice: Option<String>,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, part: &str, text: impl Into<String>) {
        self.0.push(Finding {
            part: part.into(),
            verdict: Verdict::Ok,
            text: text.into(),
            advice: None,
        });
    }

    fn warning(&mut self, part: &str, text: impl Into<String>, advice: impl Into<String>) {
        let advice = Some(advice.into());
        self.0.push(Finding {
            part: part.into(),
            verdict: Verdict::Warning,
            text: text.into(),
            advice,
        });
    }

    fn problem(&mut self, part: &str, text: impl Into<String>, advice: impl Into<String>) {
        let advice = Some(advice.into());
        self.0.push(Finding {
            part: part.into(),
            verdict: Verdict::Problem,
            text: text.into(),
            advice,
        });
    }
}

/// Checks everything; fails if something needs fixing.
pub async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let mut found = Findings::default();
    found.ok("configuration", "in order");
    let daemon = service(config, &mut found).await;
    state_folder(config, &mut found);
    database(config, &mut found).await;
    disk(config, &mut found);
    models(config, daemon.is_some(), &mut found).await;
    for (part, path) in sources(config) {
        source(&part, path, &mut found).await;
    }
    cameras(config, daemon.is_some(), &mut found).await;
    broker(config, &mut found).await;
    frigate(config, &mut found).await;
    clock(&mut found);
    port(config, daemon.is_some(), &mut found).await;
    if let Some(status) = &daemon {
        parts(status, &mut found);
    }
    let well = found
        .0
        .iter()
        .all(|finding| finding.verdict != Verdict::Problem);
    if args.json {
        println!("{}", json!({ "ok": well, "findings": found.0 }));
    } else {
        show(&found.0);
    }
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn show(findings: &[Finding]) {
    for Finding {
        part,
        verdict,
        text,
        advice,
    } in findings
    {
        let word = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Problem => "PROBLEM",
        };
        println!("{word:8} {part}: {text}");
        if let Some(advice) = advice {
            println!("         {advice}");
        }
    }
    let count = |verdict| {
        findings
            .iter()
            .filter(|finding| finding.verdict == verdict)
            .count()
    };
    println!(
        "{} problems, {} warnings",
        count(Verdict::Problem),
        count(Verdict::Warning)
    );
}

/// Checks whether the daemon runs, and what systemd reports; returns the daemon's status if it
/// answers.
async fn service(config: &Config, found: &mut Findings) -> Option<Value> {
    let asked = async {
        let Some(client) = Client::connect(&config.state_dir).await? else {
            return anyhow::Ok(None);
        };
        let mut status: Value = client.get("/v1/status").await?;
        status["engine"] = client.get("/v1/breaker").await.unwrap_or(Value::Null);
        status["strange_names"] = client.get("/control/names").await?;
        Ok(Some(status))
    };
    let status = match timeout(PATIENCE, asked).await {
        Ok(Ok(Some(status))) => {
            found.ok(
                "daemon",
                format!(
                    "running, version {}",
                    status["version"].as_str().unwrap_or("?")
                ),
            );
            Some(status)
        }
        Ok(Ok(None)) => {
            found.warning(
                "daemon",
                "not running",
                "start it: sudo systemctl start kithd, or kithd run",
            );
            None
        }
        Ok(Err(error)) => {
            found.problem(
                "daemon",
                format!("{error:#}"),
                "run this with sudo, or restart it: sudo systemctl restart kithd",
            );
            None
        }
        Err(_) => {
            found.problem(
                "daemon",
                "it does not answer",
                "restart it: sudo systemctl restart kithd",
            );
            None
        }
    };
    if let Some(unit) = unit() {
        let is = |key: &str| {
            unit.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .unwrap_or("?")
        };
        let (active, file) = (is("ActiveState"), is("UnitFileState"));
        let text = format!("{active}, {file}");
        match (active, file) {
            ("failed", _) => found.problem(
                "unit",
                text,
                "journalctl -u kithd -p warning says why; then: sudo systemctl restart kithd",
            ),
            (_, "enabled") => found.ok("unit", text),
            _ => found.warning(
                "unit",
                text,
                "it is not started at boot: sudo systemctl enable --now kithd",
            ),
        }
    }
    status
}

/// Returns what systemd knows of the unit; `None` without systemd or without such a unit.
fn unit() -> Option<String> {
    let asked = [
        "show",
        SERVICE,
        "-p",
        "LoadState",
        "-p",
        "ActiveState",
        "-p",
        "UnitFileState",
    ];
    let output = Command::new("systemctl").args(asked).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && text.contains("LoadState=loaded")).then_some(text)
}

fn state_folder(config: &Config, found: &mut Findings) {
    let folder = &config.state_dir;
    let shown = folder.display();
    let metadata = match std::fs::metadata(folder) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return found.warning(
                "state folder",
                format!("{shown} is not there yet"),
                "kithd makes it when it starts",
            );
        }
        Err(error) => {
            return found.problem(
                "state folder",
                format!("{shown}: {error}"),
                "run this with sudo, or set state_dir",
            );
        }
    };
    if let Err(error @ StoreError::NetworkFilesystem { .. }) = refuse_network_filesystem(folder) {
        found.problem(
            "state folder",
            error.to_string(),
            "set state_dir to a folder on the board's own disk",
        );
    }
    if metadata.permissions().mode() & 0o007 != 0 {
        let advice = format!("it holds faces: sudo chmod o= {shown}");
        found.warning(
            "state folder",
            format!("{shown} is open to every user of this board"),
            advice,
        );
    } else {
        found.ok(
            "state folder",
            format!("{shown}, of user {}, closed to others", metadata.uid()),
        );
    }
    let open = open_to_others(folder);
    let open: Vec<_> = open
        .iter()
        .filter_map(|path| Some(path.file_name()?.to_string_lossy()))
        .collect();
    if !open.is_empty() {
        let text = format!("others of this board may read or write {}", open.join(", "));
        found.warning("state files", text, "restart kithd, which closes them");
    }
    // The token allows every change.
    let token = folder.join("token");
    if let Ok(metadata) = std::fs::metadata(&token) {
        let (mode, owner) = (metadata.permissions().mode() & 0o777, metadata.uid());
        if mode & 0o077 != 0
            || Some(owner) != std::fs::metadata(folder).ok().map(|folder| folder.uid())
        {
            let text = format!("{} can be read by others (mode {mode:o})", token.display());
            found.problem("token", text, "replace it: kithd token --new");
        } else {
            found.ok("token", "readable by its owner only");
        }
    }
}

async fn database(config: &Config, found: &mut Findings) {
    let folder = config.state_dir.clone();
    let looked = tokio::task::spawn_blocking(move || look_through(&folder)).await;
    match looked {
        Ok(Ok(None)) => found.warning(
            "database",
            "there is none yet",
            "kithd makes it when it starts",
        ),
        Ok(Ok(Some(database))) => {
            let journal = journal_bytes(&config.state_dir);
            let (file, rest) = (database.bytes >> 20, journal >> 20);
            found.ok(
                "database",
                format!(
                    "whole, schema {}, {file} MiB, journal {rest} MiB",
                    database.schema
                ),
            );
            if let Some(text) = journal_trouble(journal) {
                found.warning(
                    "journal",
                    text,
                    "end the program that reads it; until then it grows",
                );
            }
            if !database.damaged.is_empty() {
                let text = format!(
                    "an earlier one was damaged and was moved to {}",
                    database.damaged.join(", ")
                );
                found.warning(
                    "database",
                    text,
                    "the page says what was recovered; then move these files away",
                );
            }
        }
        Ok(Err(error @ StoreError::Corrupt(_))) => {
            let advice = "restart kithd: it moves the file aside and recovers what it can";
            found.problem("database", error.to_string(), advice);
        }
        Ok(Err(error @ StoreError::Newer { .. })) => {
            found.problem(
                "database",
                error.to_string(),
                "install the newer kithd again",
            );
        }
        Ok(Err(error @ StoreError::Development { .. })) => {
            found.problem(
                "database",
                error.to_string(),
                "move it away and enrol people again",
            );
        }
        Ok(Err(error)) => found.problem(
            "database",
            error.to_string(),
            "run this with sudo, or as the service's user",
        ),
        Err(error) => found.problem("database", error.to_string(), "try again"),
    }
}

fn disk(config: &Config, found: &mut Findings) {
    let mut folder = config.state_dir.as_path();
    while !folder.exists()
        && let Some(parent) = folder.parent()
    {
        folder = parent;
    }
    let Some(free) = free_bytes(folder) else {
        return found.warning(
            "disk",
            format!(
                "the free space on the disk of {} cannot be read",
                folder.display()
            ),
            "check it with df",
        );
    };
    let (free, reserve) = (free >> 20, config.intake.disk_reserve_bytes >> 20);
    let text = format!("{free} MiB free, intake.disk_reserve is {reserve} MiB");
    if free <= reserve {
        found.problem(
            "disk",
            text,
            "nothing is accepted: free some space, or lower the caps of [retention]",
        );
    } else if free < 2 * reserve {
        found.warning(
            "disk",
            text,
            "it is filling up: free some space, or lower the caps of [retention]",
        );
    } else {
        found.ok("disk", text);
    }
}

/// Checks the pack, and whether an engine passes the self-test with the bundled picture.
async fn models(config: &Config, running: bool, found: &mut Findings) {
    let wanted = config.models.clone();
    let loaded = tokio::task::spawn_blocking(move || load_pack(&wanted)).await;
    match loaded {
        Ok(Ok(pack)) => {
            let text = format!("{}: all files are there and have their sha256", pack.id());
            if pack.commercial_use() {
                found.ok("models", text);
            } else {
                found.warning("models", text, "its licence is for non-commercial use only");
            }
        }
        Ok(Err(error)) => {
            return found.problem(
                "models",
                error.to_string(),
                "install the package again, or set models.pack",
            );
        }
        Err(error) => {
            return found.problem("models", error.to_string(), "install the package again");
        }
    }
    if running {
        // The daemon reports the state of its engine itself.
        return;
    }
    match OwnEngines::start(config).await {
        Ok(engines) => {
            engines.stop().await;
            found.ok("engine", "starts, and recognises the bundled picture");
        }
        Err(error) => found.problem(
            "engine",
            format!("{error:#}"),
            "kithd bench board says more; see engine.* in the configuration",
        ),
    }
}

fn sources(config: &Config) -> Vec<(String, &Path)> {
    let watched = |root: &&PathBuf| config.folders.iter().any(|folder| folder.path == **root);
    let roots = config
        .intake
        .roots
        .iter()
        .filter(|root| !watched(root))
        .map(|root| ("root".to_string(), root.as_path()));
    let folders = config
        .folders
        .iter()
        .map(|folder| ("folder".to_string(), folder.path.as_path()));
    roots
        .chain(folders)
        .map(|(kind, path)| (format!("{kind} {}", path.display()), path))
        .collect()
}

async fn source(part: &str, path: &Path, found: &mut Findings) {
    let folder = path.to_path_buf();
    let look = tokio::task::spawn_blocking(move || {
        std::fs::read_dir(&folder).map(|mut entries| entries.next().is_none())
    });
    match timeout(PATIENCE, look).await {
        Err(_) => found.problem(
            part,
            "it does not answer",
            "is its server up? pictures below it wait meanwhile",
        ),
        Ok(Err(error)) => found.problem(part, error.to_string(), "try again"),
        Ok(Ok(Err(error))) if error.kind() == std::io::ErrorKind::NotFound => {
            let advice = "make it, mount it, or take it out of the configuration";
            // Some roots exist by default and are only permissions; a missing watched folder is a
            // problem.
            match part.starts_with("root") {
                true => found.warning(
                    part,
                    "it is not there; paths below it wait until it is",
                    advice,
                ),
                false => found.problem(part, "it is not there", advice),
            }
        }
        Ok(Ok(Err(error))) => {
            let advice = format!(
                "let the service's user read it, and: sudo kithd allow {}",
                path.display()
            );
            found.problem(part, error.to_string(), advice);
        }
        Ok(Ok(Ok(_))) => match Account::of(SERVICE) {
            Some(account) if !account.may_list(path) => {
                let text = format!("user {SERVICE}, which runs the service, may not read it");
                found.problem(
                    part,
                    text,
                    format!("sudo setfacl -R -m u:{SERVICE}:rX {}", path.display()),
                );
            }
            _ => found.ok(part, "there and readable"),
        },
    }
}

/// An account and its groups, from the tables; access control lists are not considered.
struct Account {
    uid: u32,
    groups: Vec<u32>,
}

impl Account {
    fn of(name: &str) -> Option<Self> {
        let people = std::fs::read_to_string("/etc/passwd").ok()?;
        let mut fields = people
            .lines()
            .find(|line| line.split(':').next() == Some(name))?
            .split(':')
            .skip(2);
        let (uid, group) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let listed = std::fs::read_to_string("/etc/group").unwrap_or_default();
        let member = |line: &str| {
            let fields: Vec<_> = line.split(':').collect();
            let in_it = fields.get(3)?.split(',').any(|member| member == name);
            in_it.then(|| fields.get(2)?.parse().ok()).flatten()
        };
        Some(Self {
            uid,
            groups: listed.lines().filter_map(member).chain([group]).collect(),
        })
    }

    fn may_list(&self, folder: &Path) -> bool {
        folder.ancestors().enumerate().all(|(depth, path)| {
            let Ok(metadata) = std::fs::metadata(path) else {
                return true;
            };
            let needed = if depth == 0 { 0o5 } else { 0o1 };
            let shift = match () {
                () if self.uid == metadata.uid() => 6,
                () if self.groups.contains(&metadata.gid()) => 3,
                () => 0,
            };
            (metadata.permissions().mode() >> shift) & needed == needed
        })
    }
}

async fn cameras(config: &Config, running: bool, found: &mut Findings) {
    for camera in &config.cameras {
        let part = format!("camera {}", camera.name);
        let Producer::V4l2 { device, .. } = &camera.producer else {
            // The daemon's word on it follows.
            if !running {
                match first_picture(config, camera).await {
                    Ok(bytes) => found.ok(
                        &part,
                        format!("{} sends pictures of {bytes} bytes", camera.producer),
                    ),
                    Err(why) => found.problem(
                        &part,
                        why,
                        "kithd camera try shows what a camera sends; see docs/cameras.md",
                    ),
                }
            }
            continue;
        };
        let device = device.clone();
        let look = tokio::task::spawn_blocking(move || {
            let kind = std::fs::metadata(&device)?.file_type();
            // Open it only to check the permission, not to take pictures: the daemon may be using
            // it.
            std::fs::File::options()
                .read(true)
                .write(true)
                .open(&device)
                .map(|_| kind.is_char_device())
        });
        let plug = "plug it in; kithd camera list shows what is there";
        match timeout(PATIENCE, look).await {
            Err(_) => found.problem(
                &part,
                "its driver does not answer",
                "unplug it and plug it in again",
            ),
            Ok(Ok(Ok(true))) if running => {} // The daemon's word on it follows.
            Ok(Ok(Ok(true))) => {
                found.ok(&part, format!("{} can be opened", camera.producer));
            }
            Ok(Ok(Ok(false))) => {
                found.problem(&part, format!("{} is no camera", camera.producer), plug);
            }
            Ok(Ok(Err(error))) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                let advice = "join the group video: sudo usermod -aG video kithd";
                found.problem(
                    &part,
                    format!("{} may not be opened by this user", camera.producer),
                    advice,
                );
            }
            Ok(Ok(Err(error))) => {
                found.problem(&part, format!("{}: {error}", camera.producer), plug);
            }
            Ok(Err(error)) => found.problem(&part, error.to_string(), "try again"),
        }
    }
}

/// Connects as the daemon would, under a client id of its own.
async fn broker(config: &Config, found: &mut Findings) {
    let part = "broker";
    if !config.mqtt.enabled {
        return found.ok(part, "MQTT is switched off in the configuration");
    }
    let settings = match app::broker_settings(config, "-doctor") {
        Ok(settings) => settings,
        Err(error) => {
            return found.problem(
                part,
                format!("{error:#}"),
                "run this with sudo, or fix mqtt.password_file",
            );
        }
    };
    let echo = Topics::new(&config.mqtt.prefix, &config.device).echo();
    let settings = Settings {
        subscriptions: vec![echo.clone()],
        ..settings
    };
    let client = settings.client_id.clone();
    let (publisher, mut deliveries, mut state, connection) = kith_mqtt::connect(settings);
    let (over, stop) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(connection.run(async { _ = stop.await }));
    let settled = state.wait_for(|state| !matches!(state, State::Connecting));
    let settled = timeout(PATIENCE, settled)
        .await
        .map(|state| state.map(|state| state.clone()));
    let address = &config.mqtt.broker;
    match settled {
        Ok(Ok(State::Connected { .. } | State::Hindered(_))) => {
            let word = uuid::Uuid::now_v7().simple().to_string();
            let message = Message {
                topic: echo.clone(),
                payload: word.clone().into_bytes(),
                ..Message::default()
            };
            let heard = async {
                publisher.publish(message).await?;
                while let Some(delivery) = deliveries.recv().await {
                    let own = *delivery.payload == *word.as_bytes();
                    delivery.settle();
                    if own {
                        break;
                    }
                }
                Ok::<_, kith_mqtt::PublishError>(())
            };
            let below = echo.trim_end_matches("echo");
            let advice = format!(
                "let its access list allow the clients kithd-{}, …-out and {client} to publish and to read {below}#",
                config.device
            );
            match timeout(ECHO, heard).await {
                Ok(Ok(())) => {
                    found.ok(
                        part,
                        format!(
                            "{address} accepts this board, and delivers what it publishes on {echo}"
                        ),
                    );
                }
                Ok(Err(error)) => {
                    found.warning(
                        part,
                        format!("{address} accepts this board, but does not let it publish on {echo}: {error}"),
                        advice,
                    );
                }
                // A broker cannot report in 3.1.1 that it refuses a message, and in neither version
                // that it withholds one.
                Err(_) => {
                    let text = format!(
                        "{address} accepts this board, but what it publishes on {echo} does not come back: publishing or reading \
                         is refused without a word"
                    );
                    found.warning(part, text, advice);
                }
            }
        }
        Ok(Ok(State::Refused { reason, .. })) => {
            let advice = "check mqtt.username and mqtt.password_file, and what the broker allows";
            found.problem(
                part,
                format!("{address} refuses this board: {reason}"),
                advice,
            );
        }
        Ok(Ok(State::Down { reason, .. })) => {
            let advice =
                "is the broker running, and mqtt.url right? everything else goes on meanwhile";
            found.problem(
                part,
                format!("no connection to {address}: {reason}"),
                advice,
            );
        }
        _ => found.problem(
            part,
            format!("{address} does not answer"),
            "is mqtt.url right, and the network up?",
        ),
    }
    // The channel is closed if the daemon's loop has ended already.
    let _ = over.send(());
    let _ = timeout(Duration::from_secs(2), running).await;
}

/// Asks Frigate, as the daemon does.
async fn frigate(config: &Config, found: &mut Findings) {
    let Some(settings) = &config.frigate else {
        return;
    };
    let part = "frigate server";
    match timeout(PATIENCE, crate::sources::frigate::check(settings)).await {
        Ok(Ok(text)) => found.ok(part, text),
        Ok(Err(error)) => {
            let advice =
                "check frigate.url and the login; docs/frigate.md says what each answer means";
            found.problem(part, error.to_string(), advice);
        }
        Err(_) => {
            let text = format!("{} does not answer", settings.address);
            found.problem(part, text, "is frigate.url right, and Frigate running?");
        }
    }
}

fn clock(found: &mut Findings) {
    let now_ms = wall_clock_ms();
    let text = Moment::from_ms(now_ms).text;
    if now_ms < PLAUSIBLE_MS {
        found.problem(
            "clock",
            format!("it says {text}"),
            "set it: sudo timedatectl set-ntp true",
        );
    } else if synchronised() {
        found.ok("clock", format!("synchronised: {text}"));
    } else {
        let advice = "nothing is removed by age before it is: sudo timedatectl set-ntp true; with chrony see docs/operations.md";
        found.warning(
            "clock",
            format!("{text}, not known to be synchronised"),
            advice,
        );
    }
}

async fn port(config: &Config, running: bool, found: &mut Findings) {
    if running {
        return; // The part `page` says so.
    }
    let listen = config.http.listen;
    match tokio::net::TcpListener::bind(listen).await {
        Ok(_) => found.ok("page", format!("{listen} is free")),
        Err(error) => {
            found.problem(
                "page",
                format!("cannot listen on {listen}: {error}"),
                "set http.listen to a free address",
            );
        }
    }
}

/// Adds the daemon's report of its parts. A part that was also checked here has two lines if it is
/// broken.
fn parts(status: &Value, found: &mut Findings) {
    if let Some(kept) = status["counts"]["rejected_messages"]
        .as_u64()
        .filter(|kept| *kept > 0)
    {
        let dropped = &status["counts"]["rejected_dropped"];
        let text = format!("{kept} are kept, {dropped} were dropped for lack of space");
        found.warning(
            "rejected messages",
            text,
            "kithd rejected shows why, sends them again or drops them",
        );
    }
    for (name, part) in status["parts"].as_object().into_iter().flatten() {
        let text = part["text"].as_str().unwrap_or("?");
        match part["condition"].as_str() {
            Some("ok") => found.ok(name, text),
            Some("degraded") => {
                found.problem(
                    name,
                    text,
                    "it is tried again by itself; the log says more: journalctl -u kithd",
                );
            }
            Some("starting") => found.warning(name, text, "look again in a minute"),
            _ => {}
        }
    }
    let strange: Vec<_> = status["strange_names"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !strange.is_empty() {
        let text = format!(
            "this board was requested under names that are not its own: {}",
            strange.join(", ")
        );
        found.warning(
            "names",
            text,
            "if one of them is meant to lead here, add it to http.names",
        );
    }
    if let Some(sentence) = status["engine"]["sentence"].as_str() {
        if status["engine"]["state"].as_str() == Some("closed") || sentence.starts_with("closed") {
            found.ok("circuit breaker", sentence);
        } else {
            found.problem("circuit breaker", sentence, "see kithd breaker");
        }
    }
}
