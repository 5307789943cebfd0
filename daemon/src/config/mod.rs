//! The configuration, checked: typed, complete, and with every problem reported at once.
//!
//! Resources that come and go (mounts, brokers, cameras) are not checked here: the daemon starts
//! whatever is missing.

mod camera;
mod frigate;
mod http;
mod mqtt;
mod notify;
mod raw;
mod retention;
mod url;

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

#[cfg(test)]
pub use camera::Access;
pub use camera::{Camera, Decoder, Producer, Size, Transport, Trust};
pub use frigate::Frigate;
pub use http::{Http, Tls};
use kith_vision::{Caution, Device, Matching, Pack, Precision};
pub use mqtt::{HomeAssistant, Mqtt, MqttCommand, Shared};
pub use notify::{Attach, Notify, Placeholder, Service};
pub use raw::{Problem, Raw};
pub use retention::{Caps, Retention};
pub use url::{PasswordFile, Url, read_password, without_secrets};

/// Path of the packaged configuration; read if it exists and no other file is named.
pub const SYSTEM_CONFIG: &str = "/etc/kithd/kithd.toml";

/// The daemon's complete configuration, with every default filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Name of this board in topics and on the page.
    pub device: String,
    /// Database (enrolment pictures included), gallery's backup, spool, rejected messages, token,
    /// control socket.
    pub state_dir: PathBuf,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: String,
    /// Page and API.
    pub http: Http,
    /// Broker.
    pub mqtt: Mqtt,
    /// Settings of the intake.
    pub intake: Intake,
    /// Watched folders.
    pub folders: Vec<Folder>,
    /// Cameras of this board.
    pub cameras: Vec<Camera>,
    /// Frigate, whose events bring pictures; `None` if it is not used.
    pub frigate: Option<Frigate>,
    /// Targets of notifications.
    pub notify: Vec<Notify>,
    /// Model pack and its networks.
    pub models: Models,
    /// Settings of the recognition.
    pub recognition: Recognition,
    /// Settings of the engine.
    pub engine: Engine,
    /// Settings of the circuit breaker.
    pub breaker: Breaker,
    /// Address of the legacy gRPC contract (facerecog); `None` if it is not served.
    pub facerecog_listen: Option<SocketAddr>,
    /// Retries and their end.
    pub retry: Retry,
    /// Time without a look after which a sighting ends.
    pub sighting_gap: Duration,
    /// Limits for kept data.
    pub retention: Retention,
    /// Time that a stop may take.
    pub drain: Duration,
    /// Arguments that let another process of this program read the same configuration.
    pub arguments: Vec<String>,
}

/// Settings of the intake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intake {
    /// Only paths below these are read.
    pub roots: Vec<PathBuf>,
    /// Largest picture.
    pub max_bytes: usize,
    /// Most unfinished images, not counting those that wait for their file; more are refused.
    pub max_pending: u64,
    /// Most images of one source that wait for their file or its root; more fail at once.
    pub max_missing: u64,
    /// Free disk space that is never used up.
    pub disk_reserve_bytes: u64,
}

/// A watched folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// Local, or on a mount.
    pub path: PathBuf,
    /// Action on a file when its image has ended.
    pub then: Then,
    /// Time without change in size and time after which a file is read.
    pub settle: Duration,
    /// Interval between two scans.
    pub poll: Duration,
    /// Interval between two scans of every file, which find files rewritten in place.
    pub full_scan: Duration,
    /// True if subfolders are included.
    pub recursive: bool,
    /// Patterns of names or of paths below the folder that are included; none means every picture.
    pub include: Vec<String>,
    /// Patterns that are excluded even if they match `include`.
    pub exclude: Vec<String>,
    /// Time after which a mount that does not answer is reported.
    pub report_after: Duration,
}

/// Action on a file when its image has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The file stays.
    Leave,
    /// The file is moved to `done/` or `failed/` in its folder.
    Move,
    /// The file is deleted if it was processed; otherwise it is moved to `failed/`.
    Delete,
}

/// Settings of the model pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Models {
    /// Folder of the model pack; `None`: the bundled one.
    pub pack: Option<PathBuf>,
    /// Precision; `None`: the pack's default.
    pub precision: Option<Precision>,
    /// True if an embedding is made from a face and its mirror image. `None`: the pack's default.
    pub flip: Option<bool>,
}

/// Settings of the primary engine and its fallback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// Device on which the networks of kithd's own engine run.
    pub device: Device,
    /// The engine to use instead of kithd's own.
    pub elsewhere: Option<Elsewhere>,
    /// True if an engine on the processor takes over while the breaker is open.
    pub fallback: bool,
    /// Memory beyond which kithd's own engine is restarted between pictures.
    pub memory_limit_bytes: u64,
    /// Time to load and warm the models.
    pub start_deadline: Duration,
}

/// An engine outside kithd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elsewhere {
    /// A server of `recognizer.proto` at `unix:/path` or `http://host:port`.
    Recognizer {
        /// Its address.
        address: String,
        /// True if it shares the mounts and gets paths instead of bytes.
        paths: bool,
    },
    /// A service of the legacy `facerecog.proto` at `http://host:port`.
    Facerecog {
        /// Its address.
        address: String,
    },
}

/// The circuit breaker's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// Consecutive failures that open it.
    pub failures: u32,
    /// Time before the first ping; doubles with each ping that fails.
    pub cool_down: Duration,
    /// Upper limit of the cool-down.
    pub longest_cool_down: Duration,
    /// A call that takes longer counts as a failure, though its result is kept.
    pub slow_call: Duration,
    /// Interval of self-tests while the engine works.
    pub self_test: Duration,
}

/// Settings for recognising one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Recognition {
    /// Pictures recognised at the same time.
    pub threads: usize,
    /// Rules that turn distances into names.
    pub judging: Judging,
    /// Smallest face looked for; `None`: the pack's.
    pub min_face_px: Option<usize>,
    /// Most faces per picture.
    pub max_faces: usize,
    /// True if pictures without a face are searched turned, too.
    pub turned: bool,
    /// Largest picture in memory; JPEGs may have more: see [`kith_pictures::decode::JPEG_TIMES`].
    pub max_pixels: u64,
    /// Base time for one picture.
    pub deadline: Duration,
    /// Additional time for each of its megapixels.
    pub deadline_per_megapixel: Duration,
    /// Time to read one file.
    pub read_deadline: Duration,
}

/// Rules that turn a distance into a name, as chosen by the operator.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Judging {
    /// Distance below which two pictures show one person, however many are enrolled; `None`: the
    /// pack's.
    pub threshold: Option<f32>,
    /// Caution against taking strangers for enrolled people, where the pack supports it.
    pub caution: Caution,
    /// True if pictures may show a person more than once, as with mirrors and screens.
    pub mirrors: bool,
}

impl Judging {
    /// Returns the rules for the distances of a pack.
    pub fn of(self, pack: &Pack) -> Matching {
        let matching = pack.matching().clone();
        match self.threshold {
            Some(threshold) => matching.with_threshold(threshold),
            None => matching,
        }
    }
}

/// Retries and their end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Failed attempts of the engine after which the image fails.
    pub attempts: u32,
    /// Wait after the first failure; doubles with each further one.
    pub first_wait: Duration,
    /// Longest wait.
    pub longest_wait: Duration,
    /// Time after which a file missing below a present root fails its image.
    pub missing_file: Duration,
    /// Time after which an absent root or mount fails its images.
    pub missing_root: Duration,
}

impl Config {
    /// Reads `file` (or the system's, if it exists) and the assignments of the command line.
    pub fn load(file: Option<&Path>, assignments: &[String]) -> Result<Self, Vec<Problem>> {
        let system = Path::new(SYSTEM_CONFIG);
        let file = file.or_else(|| system.exists().then_some(system));
        let mut raw = match file {
            None => Raw::default(),
            Some(path) => match std::fs::read_to_string(path) {
                Ok(text) => Raw::parse(&text),
                Err(error) => {
                    let rule = format!("{} cannot be read: {error}", path.display());
                    return Err(vec![Problem {
                        key: String::new(),
                        value: String::new(),
                        rule,
                    }]);
                }
            },
        };
        for assignment in assignments {
            raw.set(assignment);
        }
        let mut config = Self::check(raw).0?;
        config.arguments = file
            .iter()
            .flat_map(|file| ["--config".into(), file.display().to_string()])
            .collect();
        config.arguments.extend(
            assignments
                .iter()
                .flat_map(|assignment| ["--set".into(), assignment.clone()]),
        );
        Ok(config)
    }

    /// Checks what was typed and returns the configuration; also returns every known key.
    pub fn check(mut raw: Raw) -> (Result<Self, Vec<Problem>>, Vec<String>) {
        let state_dir = raw
            .text("state_dir")
            .map_or_else(default_state_dir, PathBuf::from);
        if !state_dir.is_absolute() {
            raw.problem("state_dir", state_dir.display(), "must be an absolute path");
        }
        let http = http::http(&mut raw);
        let mut config = Self {
            device: device(&mut raw),
            log_level: log_level(&mut raw),
            notify: notify::targets(&mut raw, &http),
            http,
            mqtt: mqtt::mqtt(&mut raw),
            intake: intake(&mut raw, &state_dir),
            folders: folders(&mut raw),
            cameras: camera::cameras(&mut raw),
            frigate: frigate::frigate(&mut raw),
            models: models(&mut raw),
            recognition: recognition(&mut raw),
            engine: engine(&mut raw),
            breaker: breaker(&mut raw),
            facerecog_listen: raw
                .text("facerecog.listen")
                .and_then(|text| address(&mut raw, "facerecog.listen", &text)),
            retry: retry(&mut raw),
            sighting_gap: raw.duration("sighting.gap", secs(60), secs(1)..=secs(3600)),
            retention: Retention::check(&mut raw),
            drain: raw.duration("stop.drain", secs(10), secs(1)..=secs(600)),
            arguments: Vec::new(),
            state_dir,
        };
        if config.mqtt.enabled
            && u64::from(config.mqtt.max_packet_bytes) < config.intake.max_bytes as u64
        {
            raw.problem(
                "mqtt.max_packet",
                config.mqtt.max_packet_bytes,
                "is smaller than intake.max_bytes, so the broker would silently drop pictures; raise it",
            );
        }
        // A watched folder may always be read.
        let unread = |folder: &&Folder| {
            !config
                .intake
                .roots
                .iter()
                .any(|root| folder.path.starts_with(root))
        };
        let watched: Vec<_> = config
            .folders
            .iter()
            .filter(unread)
            .map(|folder| folder.path.clone())
            .collect();
        config.intake.roots.extend(watched);
        let keys = raw.asked().map(String::from).collect();
        let problems = raw.into_problems();
        (
            if problems.is_empty() {
                Ok(config)
            } else {
                Err(problems)
            },
            keys,
        )
    }

    /// Returns the files with secrets that the configuration names.
    pub fn secret_files(&self) -> Vec<PathBuf> {
        let client = self.mqtt.tls.as_ref().and_then(|tls| tls.client.as_ref());
        let cameras = self.cameras.iter().map(|camera| &camera.producer);
        let page_key = match &self.http.tls {
            Tls::Files { key, .. } => Some(key),
            Tls::Off | Tls::SelfSigned => None,
        };
        let frigate = self.frigate.as_ref();
        let files = self
            .mqtt
            .password_file
            .iter()
            .chain(frigate.and_then(|frigate| frigate.password_file.as_ref()))
            .chain(client.map(|(_, key)| key))
            .chain(page_key)
            .chain(self.notify.iter().flat_map(Notify::secret_files))
            .map(PathBuf::as_path)
            .chain(cameras.filter_map(Producer::secret_files));
        files.map(Path::to_path_buf).collect()
    }

    /// Formats the text that `kithd: … has N problems` prints.
    pub fn problems_text(file: Option<&Path>, problems: &[Problem]) -> String {
        let source = file.unwrap_or(Path::new(SYSTEM_CONFIG)).display();
        let count = problems.len();
        let plural = if count == 1 { "problem" } else { "problems" };
        let mut text = format!("{source} has {count} {plural}");
        for problem in problems {
            text.push_str("\n  ");
            text.push_str(&problem.to_string());
        }
        text
    }
}

impl Default for Config {
    fn default() -> Self {
        // An empty configuration has no problems; a test checks that.
        Self::check(Raw::default())
            .0
            .unwrap_or_else(|problems| unreachable!("{problems:?}"))
    }
}

/// Returns the path of a secret that systemd passes to the service as a file (`LoadCredential=`),
/// if it does.
fn credential(name: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?);
    Some(folder.join(name)).filter(|file| file.exists())
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Returns systemd's state folder; else the system's for root and wherever kithd is installed as a
/// service; else the user's.
fn default_state_dir() -> PathBuf {
    let from = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(folder) = from("STATE_DIRECTORY") {
        return folder;
    }
    // A member of the group kithd means the running service, not a daemon of their own.
    if rustix::process::geteuid().is_root() || Path::new(SYSTEM_CONFIG).exists() {
        return "/var/lib/kithd".into();
    }
    from("XDG_STATE_HOME")
        .or_else(|| from("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(|| "/var/lib".into())
        .join("kithd")
}

fn device(raw: &mut Raw) -> String {
    let typed = raw.text("device");
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match typed {
        None => {
            let host = rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned();
            let name: String = host
                .chars()
                .map(|c| if allowed(c) { c } else { '-' })
                .take(64)
                .collect();
            if name.is_empty() {
                "kithd".into()
            } else {
                name
            }
        }
        Some(name) => {
            if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
                raw.problem(
                    "device",
                    format!("{name:?}"),
                    "must be 1 to 64 letters, digits, - or _: it is part of topics",
                );
            }
            name
        }
    }
}

fn log_level(raw: &mut Raw) -> String {
    let level = raw.text("log.level").unwrap_or_else(|| "info".into());
    if !["error", "warn", "info", "debug", "trace"].contains(&level.as_str()) {
        raw.problem(
            "log.level",
            format!("{level:?}"),
            "must be error, warn, info, debug or trace",
        );
    }
    level
}

fn address(raw: &mut Raw, key: &str, text: &str) -> Option<SocketAddr> {
    let parsed = text.parse().ok();
    if parsed.is_none() {
        raw.problem(
            key,
            format!("{text:?}"),
            "must be an address and port, for example \"127.0.0.1:8000\"",
        );
    }
    parsed
}

fn intake(raw: &mut Raw, state_dir: &Path) -> Intake {
    let inbox = state_dir.join("inbox");
    let roots = raw
        .texts("intake.roots")
        .map(|roots| roots.into_iter().map(PathBuf::from).collect())
        .unwrap_or_else(|| vec![inbox, "/srv/kithd/inbox".into(), "/unknown_images".into()]);
    for root in roots.iter().filter(|root| !is_plain(root)) {
        raw.problem(
            "intake.roots",
            format!("\"{}\"", root.display()),
            "each root must be an absolute folder other than /, without . or ..",
        );
    }
    Intake {
        roots,
        max_bytes: raw.size("intake.max_bytes", 64 << 20, 64 << 10..=256 << 20) as usize,
        max_pending: raw.number("intake.max_pending", 100_000, 1..=10_000_000),
        max_missing: raw.number("intake.max_missing", 100_000, 0..=10_000_000),
        disk_reserve_bytes: raw.size("intake.disk_reserve", 200 << 20, 0..=1 << 40),
    }
}

/// Returns true for an absolute path other than /, without . or ...
fn is_plain(path: &Path) -> bool {
    path.is_absolute()
        && path != Path::new("/")
        && path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

fn folders(raw: &mut Raw) -> Vec<Folder> {
    let mut folders: Vec<Folder> = Vec::new();
    for (at, mut table) in raw.tables("folder").into_iter().enumerate() {
        let folder = folder(&mut table);
        let twin = folders.iter().find(|other| {
            other.path.starts_with(&folder.path) || folder.path.starts_with(&other.path)
        });
        if let Some(other) = twin {
            let rule = format!(
                "is watched as part of {}; name one of them",
                other.path.display()
            );
            table.problem("path", folder.path.display(), rule);
        }
        raw.merge("folder", at, table);
        folders.push(folder);
    }
    folders
}

fn folder(raw: &mut Raw) -> Folder {
    let path = PathBuf::from(raw.text("path").unwrap_or_default());
    if !is_plain(&path) {
        raw.problem(
            "path",
            format!("\"{}\"", path.display()),
            "must be an absolute folder other than /, without . or ..",
        );
    }
    let then = match raw.text("then").as_deref() {
        None | Some("leave") => Then::Leave,
        Some("move") => Then::Move,
        Some("delete") => Then::Delete,
        Some(other) => {
            raw.problem(
                "then",
                format!("{other:?}"),
                "must be \"leave\", \"move\" or \"delete\"",
            );
            Then::Leave
        }
    };
    let mut patterns = |key: &str| {
        let patterns = raw.texts(key).unwrap_or_default();
        for pattern in &patterns {
            if let Err(error) = globset::Glob::new(pattern) {
                raw.problem(
                    key,
                    format!("{pattern:?}"),
                    format!("is not a pattern: {}", error.kind()),
                );
            }
        }
        patterns
    };
    Folder {
        include: patterns("include"),
        exclude: patterns("exclude"),
        path,
        then,
        settle: raw.duration("settle", secs(2), Duration::from_millis(50)..=secs(86_400)),
        poll: raw.duration("poll", secs(5), Duration::from_millis(100)..=secs(86_400)),
        full_scan: raw.duration("full_scan", secs(3600), secs(1)..=secs(30 * 86_400)),
        recursive: raw.flag("recursive", true),
        report_after: raw.duration(
            "report_after",
            secs(30),
            Duration::from_millis(100)..=secs(3600),
        ),
    }
}

fn models(raw: &mut Raw) -> Models {
    let pack = raw.text("models.pack").map(PathBuf::from);
    let precision = raw.text("models.precision").and_then(|text| {
        let parsed = text.parse();
        if parsed.is_err() {
            raw.problem(
                "models.precision",
                format!("{text:?}"),
                "must be \"int8\", \"float32\" or \"float16\"",
            );
        }
        parsed.ok()
    });
    Models {
        pack,
        precision,
        flip: raw.choice("models.flip"),
    }
}

fn recognition(raw: &mut Raw) -> Recognition {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = raw.number("recognition.threads", 0, 0..=256) as usize;
    let min_face_px = raw.number("recognition.min_face_px", 0, 0..=2000) as usize;
    if (1..12).contains(&min_face_px) {
        raw.problem(
            "recognition.min_face_px",
            min_face_px,
            "must be 0 (the pack's own) or at least 12",
        );
    }
    Recognition {
        threads: if threads == 0 { cores } else { threads },
        judging: Judging {
            threshold: raw
                .real("recognition.threshold", 0.01..=2.0)
                .map(|threshold| threshold as f32),
            caution: caution(raw),
            mirrors: raw.flag("recognition.mirrors", false),
        },
        min_face_px: (min_face_px > 0).then_some(min_face_px),
        max_faces: raw.number("recognition.max_faces", 100, 1..=1000) as usize,
        turned: raw.flag("recognition.turned", true),
        max_pixels: raw.number("recognition.max_pixels", 65_000_000, 100_000..=500_000_000),
        deadline: raw.duration("recognition.deadline", secs(20), secs(1)..=secs(600)),
        deadline_per_megapixel: raw.duration(
            "recognition.deadline_per_megapixel",
            secs(2),
            secs(0)..=secs(60),
        ),
        read_deadline: raw.duration("recognition.read_deadline", secs(15), secs(1)..=secs(600)),
    }
}

fn caution(raw: &mut Raw) -> Caution {
    let Some(text) = raw.text("recognition.caution") else {
        return Caution::default();
    };
    text.parse().unwrap_or_else(|_| {
        raw.problem(
            "recognition.caution",
            format!("{text:?}"),
            "must be \"strict\", \"balanced\" or \"lenient\"",
        );
        Caution::default()
    })
}

fn engine(raw: &mut Raw) -> Engine {
    let device = raw.text("engine.device").and_then(|text| {
        let parsed = text.parse().ok();
        if parsed.is_none() {
            raw.problem(
                "engine.device",
                format!("{text:?}"),
                "must be \"cpu\" or \"cuda\"",
            );
        }
        parsed
    });
    let device = device.unwrap_or(Device::Cpu);
    let paths = raw.flag("engine.send_paths", false);
    let protocol = raw.text("engine.protocol");
    let elsewhere = raw.text("engine.address").and_then(|address| {
        let http = address
            .strip_prefix("http://")
            .is_some_and(|host| !host.is_empty() && !host.contains('/'));
        let socket = address
            .strip_prefix("unix:")
            .is_some_and(|path| path.starts_with('/'));
        match protocol.as_deref().unwrap_or("recognizer") {
            "recognizer" if http || socket => Some(Elsewhere::Recognizer { address, paths }),
            "facerecog" if http => Some(Elsewhere::Facerecog { address }),
            "recognizer" => {
                raw.problem(
                    "engine.address",
                    address,
                    "must be \"unix:/path\" or \"http://host:port\"",
                );
                None
            }
            "facerecog" => {
                raw.problem(
                    "engine.address",
                    address,
                    "must be \"http://host:port\" for engine.protocol = \"facerecog\"",
                );
                None
            }
            other => {
                raw.problem(
                    "engine.protocol",
                    format!("{other:?}"),
                    "must be \"recognizer\" or \"facerecog\"",
                );
                None
            }
        }
    });
    if protocol.is_some() && elsewhere.is_none() {
        raw.problem(
            "engine.protocol",
            protocol.unwrap_or_default(),
            "needs engine.address as well",
        );
    }
    // CUDA compiles its kernels once, and its libraries alone take a gigabyte.
    let (start, memory) = if device == Device::Cuda {
        (secs(600), 4 << 30)
    } else {
        (secs(60), 1 << 30)
    };
    Engine {
        device,
        fallback: raw.flag("engine.fallback", device == Device::Cuda),
        elsewhere,
        memory_limit_bytes: raw.size("engine.memory_limit", memory, 64 << 20..=1 << 40),
        start_deadline: raw.duration("engine.start_deadline", start, secs(1)..=secs(3600)),
    }
}

fn breaker(raw: &mut Raw) -> Breaker {
    let breaker = Breaker {
        failures: raw.number("breaker.failures", 5, 1..=1000) as u32,
        cool_down: raw.duration(
            "breaker.cool_down",
            secs(10),
            Duration::from_millis(100)..=secs(3600),
        ),
        longest_cool_down: raw.duration(
            "breaker.longest_cool_down",
            secs(600),
            secs(1)..=secs(86_400),
        ),
        slow_call: raw.duration(
            "breaker.slow_call",
            secs(10),
            Duration::from_millis(10)..=secs(600),
        ),
        self_test: raw.duration("breaker.self_test", secs(300), secs(1)..=secs(86_400)),
    };
    if breaker.cool_down > breaker.longest_cool_down {
        let value = format!("{:?}", breaker.cool_down);
        raw.problem(
            "breaker.cool_down",
            value,
            "must not be longer than breaker.longest_cool_down",
        );
    }
    breaker
}

fn retry(raw: &mut Raw) -> Retry {
    let retry = Retry {
        attempts: raw.number("retry.attempts", 5, 1..=100) as u32,
        first_wait: raw.duration(
            "retry.first_wait",
            secs(2),
            Duration::from_millis(10)..=secs(3600),
        ),
        longest_wait: raw.duration(
            "retry.longest_wait",
            secs(300),
            Duration::from_millis(10)..=secs(86_400),
        ),
        missing_file: raw.duration(
            "retry.missing_file",
            secs(3600),
            secs(0)..=secs(30 * 86_400),
        ),
        missing_root: raw.duration(
            "retry.missing_root",
            secs(7 * 86_400),
            secs(0)..=secs(365 * 86_400),
        ),
    };
    if retry.first_wait > retry.longest_wait {
        raw.problem(
            "retry.first_wait",
            format!("{:?}", retry.first_wait),
            "must not be longer than retry.longest_wait",
        );
    }
    retry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> String {
        let problems = Config::check(Raw::parse(text)).0.unwrap_err();
        Config::problems_text(None, &problems)
    }

    #[test]
    fn nothing_typed_is_a_whole_configuration_on_loopback() {
        let config = Config::default();
        assert!(config.http.listen.ip().is_loopback());
        assert!(config.mqtt.enabled);
    }

    #[test]
    fn every_problem_is_told_at_once_with_key_value_rule_and_fix() {
        let text = problems(
            "log.level = \"loud\"\n[http]\nlisten = \"0.0.0.0:8o80\"\n[mqtt]\nkeep_alive = \"0s\"\nkeepalive = 3\n\
             [intake]\nroots = \"/srv\"\n[recognition]\nthreads = -1\n[brokers]\nx = 1\n",
        );
        for part in [
            "kithd.toml has 7 problems",
            "log.level = \"loud\": must be error, warn, info, debug or trace",
            "http.listen = \"0.0.0.0:8o80\": must be an address and port, for example \"127.0.0.1:8000\"",
            "mqtt.keep_alive = \"0s\": must be a time from 5s",
            "mqtt.keepalive = 3: is not a known key; did you mean mqtt.keep_alive?",
            "intake.roots = \"/srv\": must be a list of texts",
            "recognition.threads = -1: must be a whole number from 0 to 256",
            "brokers",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
    }

    #[test]
    fn impossible_combinations_are_refused() {
        let text = problems(
            "[mqtt]\nmax_packet = \"1MiB\"\npassword_file = \"/etc/x\"\n[retry]\nfirst_wait = \"1h\"\n[intake]\nroots = [\"/a/../b\", \"rel\", \"/\"]\n",
        );
        for part in [
            "mqtt.max_packet",
            "needs mqtt.username",
            "longer than retry.longest_wait",
            "\"/a/../b\"",
            "\"rel\"",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
    }

    #[test]
    fn broken_toml_is_one_problem_with_its_line() {
        let text = problems("[http\nlisten = 3");
        assert!(
            text.contains("has 1 problem") && text.contains("line 1"),
            "{text}"
        );
    }

    /// The shipped file is also the default configuration.
    #[test]
    fn the_shipped_file_shows_every_key_at_its_default() {
        let shipped = include_str!("../../../deploy/kithd.toml");
        let (config, keys) = Config::check(Raw::parse(shipped));
        assert_eq!(config.unwrap(), Config::default());
        for key in keys {
            let name = key.rsplit('.').next().unwrap();
            let shown = shipped.lines().any(|line| {
                let line = line.trim_start_matches(['#', ' ']);
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.trim_start().starts_with('='))
                    || line == format!("[[{name}]]")
            });
            assert!(shown, "deploy/kithd.toml does not show {key}");
        }
    }

    #[test]
    fn a_gpu_gets_a_fallback_and_time_to_compile_its_kernels() {
        let engine = |text: &str| Config::check(Raw::parse(text)).0.unwrap().engine;
        assert!(!engine("").fallback);
        let cuda = engine("[engine]\ndevice = \"cuda\"\n");
        assert_eq!((cuda.fallback, cuda.start_deadline), (true, secs(600)));
        assert!(!engine("[engine]\ndevice = \"cuda\"\nfallback = false\n").fallback);
    }

    #[test]
    fn engines_elsewhere_are_checked_as_text() {
        let elsewhere = |text: &str| {
            Config::check(Raw::parse(text))
                .0
                .map(|config| config.engine.elsewhere)
        };
        let address = "http://gpu-box:50052".to_string();
        let found = elsewhere("[engine]\naddress = \"http://gpu-box:50052\"\n").unwrap();
        assert_eq!(
            found,
            Some(Elsewhere::Recognizer {
                address: address.clone(),
                paths: false
            })
        );
        let found =
            elsewhere("[engine]\naddress = \"http://gpu-box:50052\"\nprotocol = \"facerecog\"\n")
                .unwrap();
        assert_eq!(found, Some(Elsewhere::Facerecog { address }));
        for wrong in [
            "gpu-box:50052",
            "https://gpu-box:1",
            "unix:relative",
            "http://",
        ] {
            assert!(
                elsewhere(&format!("[engine]\naddress = \"{wrong}\"\n")).is_err(),
                "{wrong}"
            );
        }
        assert!(problems("[engine]\nprotocol = \"facerecog\"\n").contains("needs engine.address"));
        assert!(problems("[breaker]\ncool_down = \"1h\"\n").contains("breaker.longest_cool_down"));
    }

    #[test]
    fn the_default_limits_are_those_that_decoding_is_tested_with() {
        let config = Config::default();
        assert_eq!(config.intake.max_bytes, 64 << 20);
        assert_eq!(config.recognition.max_pixels, 65_000_000);
    }

    #[test]
    fn watched_folders_are_roots_and_their_problems_say_which_one() {
        let config = Config::check(Raw::parse(
            "[[folder]]\npath = \"/mnt/nas\"\nthen = \"move\"\n",
        ))
        .0
        .unwrap();
        assert_eq!(config.folders[0].then, Then::Move);
        assert!(config.intake.roots.contains(&PathBuf::from("/mnt/nas")));
        let text = problems(
            "[[folder]]\npath = \"/mnt/nas\"\n[[folder]]\npath = \"/mnt/nas/a\"\nthen = \"burn\"\ninclude = [\"[\"]\npol = 3\n",
        );
        for part in [
            "has 4 problems",
            "folder[1].path = /mnt/nas/a: is watched as part of /mnt/nas",
            "folder[1].then = \"burn\": must be",
            "folder[1].include = \"[\": is not a pattern",
            "folder[1].pol = 3: is not a known key; did you mean poll?",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
        assert!(
            problems("folder = \"/mnt/nas\"\n").contains("must be written as sections [[folder]]")
        );
    }

    #[test]
    fn the_command_line_overrides_the_file() {
        let mut raw = Raw::parse("[mqtt]\nenabled = true\n");
        raw.set("mqtt.enabled=false");
        raw.set("http.listen=127.0.0.1:0");
        let config = Config::check(raw).0.unwrap();
        assert!(!config.mqtt.enabled);
        assert_eq!(config.http.listen.port(), 0);
    }
}
