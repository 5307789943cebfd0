//! `kithd camera`: lists the cameras with their formats (`list`, and `onvif` for those of the
//! network), takes one picture to look at, and tries an address.

mod list;
mod onvif;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use kith_pictures::mjpeg;
use kith_pictures::shot::PixelFormat;
use tokio::process::ChildStdout;
use tokio::time::timeout;

use crate::camera_process::wire::{self, Message, WireError};
use crate::camera_process::{self, Found};
use crate::child::{self, Child};
use crate::config::{self, Config};

/// Time for all cameras of a board to report their formats.
const ASKING: Duration = Duration::from_secs(20);
/// Time from opening a camera to its first picture, and between two.
const DEADLINE: Duration = Duration::from_secs(20);
/// Time for a process to end after it has closed its output.
const FAREWELL: Duration = Duration::from_secs(2);
/// Largest resolution that is chosen for a camera without configuration.
const USUAL: (u32, u32) = (1280, 720);

/// Subcommands of `kithd camera`.
#[derive(Debug, clap::Subcommand)]
pub enum Camera {
    /// Lists the cameras of this board and what they offer, or those of the network
    List(list::ListArgs),
    /// Takes one picture into a file; the daemon must not be using a camera of this board
    Snapshot(SnapshotArgs),
    /// Says what a camera of the network sends, and what it costs
    Try(TryArgs),
    /// Takes pictures for the daemon, which starts and stops it by itself
    #[command(hide = true)]
    Run(camera_process::Args),
    /// Writes a camera's frames for the process that takes pictures
    #[command(hide = true)]
    Produce(camera_process::Args),
}

/// Arguments of `kithd camera snapshot`.
#[derive(Debug, clap::Args)]
pub struct SnapshotArgs {
    /// Name of a configured camera [default: the only one, else the first that is plugged in]
    #[arg(long, value_name = "NAME", conflicts_with = "device")]
    camera: Option<String>,
    /// A camera that is not configured, for example /dev/video0
    #[arg(long, value_name = "PATH")]
    device: Option<PathBuf>,
    #[command(flatten)]
    address: Address,
    /// File for the JPEG; - is standard output
    #[arg(short, long, value_name = "FILE", default_value = "snapshot.jpg")]
    output: PathBuf,
}

/// The address of a camera that is not configured.
#[derive(Debug, clap::Args)]
struct Address {
    /// A camera of the network that is not configured, for example rtsp://192.168.1.20/stream1
    #[arg(long, value_name = "URL", conflicts_with_all = ["camera", "device"])]
    url: Option<String>,
    #[command(flatten)]
    login: LoginArgs,
}

/// The login of a camera that is not configured. The password is no argument: every user of the
/// board could read it.
#[derive(Debug, clap::Args)]
struct LoginArgs {
    /// User name, if the address does not contain it
    #[arg(long, value_name = "USER")]
    username: Option<String>,
    /// File with the password
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
}

/// Arguments of `kithd camera try`.
#[derive(Debug, clap::Args)]
pub struct TryArgs {
    /// Address, for example rtsp://192.168.1.20/stream1, or the name of a configured camera
    camera: String,
    #[command(flatten)]
    login: LoginArgs,
    /// Seconds to watch it
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=600))]
    seconds: u64,
}

/// Runs the camera process or the frame producer; returns only when it has failed.
pub fn process(config: &Config, command: &Camera) -> anyhow::Result<()> {
    match command {
        Camera::Run(args) => camera_process::run(config, &started(config, &args.name)?, args),
        Camera::Produce(args) => {
            camera_process::produce(config, &started(config, &args.name)?, args)
        }
        _ => unreachable!("it is a command of the operator"),
    }
}

/// Executes a subcommand.
pub async fn run(config: &Config, command: Camera) -> anyhow::Result<ExitCode> {
    match command {
        Camera::List(args) => list::run(&args).await,
        Camera::Snapshot(args) => snapshot(config, &args).await,
        Camera::Try(args) => attempt(config, &args).await,
        Camera::Run(_) | Camera::Produce(_) => unreachable!("it needs no runtime and has ended"),
    }
}

/// Returns the camera that this process was started for: the one in its environment, or one of the
/// configuration.
fn started(config: &Config, name: &str) -> anyhow::Result<config::Camera> {
    match std::env::var(camera_process::SECTION) {
        Ok(section) => of_section(&section),
        Err(_) => configured(config, name).cloned(),
    }
}

fn of_section(section: &str) -> anyhow::Result<config::Camera> {
    config::Camera::only(section).map_err(|problems| {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        anyhow!(problems.join("; "))
    })
}

fn configured<'a>(config: &'a Config, name: &str) -> anyhow::Result<&'a config::Camera> {
    config
        .cameras
        .iter()
        .find(|camera| camera.name == name)
        .ok_or_else(|| {
            let names: Vec<_> = config
                .cameras
                .iter()
                .map(|camera| camera.name.as_str())
                .collect();
            let known = if names.is_empty() {
                "none".into()
            } else {
                names.join(", ")
            };
            anyhow!(
                "there is no [[camera]] named {name:?} in the configuration; named there: {known}"
            )
        })
}

/// A camera whose process was started for a command.
struct Started {
    child: Child,
    stdout: ChildStdout,
    /// Most bytes of a frame.
    limit: usize,
    /// The camera, for sentences.
    shown: String,
}

/// A message of the camera process, or the end of it in words.
type Said = Result<(Message, Vec<u8>), String>;

impl Started {
    /// Starts the same process that takes pictures for the daemon, with an order to take them as
    /// fast as they come, or as `every` says.
    fn new(config: &Config, section: &str, every: &str) -> anyhow::Result<Self> {
        let section = format!("[[camera]]\nevery = \"{every}\"\nburst = 1\n{section}");
        let camera = of_section(&section)?;
        let arguments = ["camera", "run", "--name", "snapshot"];
        let environment = [(camera_process::SECTION, section)];
        let (child, stdout) = Child::spawn_with(
            "camera",
            "camera",
            &config.arguments,
            arguments,
            environment,
            Stdio::piped(),
        )
        .map_err(|why| anyhow!(why))?;
        let max_pixels = config.recognition.max_pixels;
        Ok(Self {
            child,
            stdout: stdout.context("the camera process has no output")?,
            limit: camera.max_frame_bytes(max_pixels),
            shown: camera.producer.to_string(),
        })
    }

    /// Waits for the next message.
    async fn next(&mut self) -> Said {
        match timeout(DEADLINE, wire::read(&mut self.stdout, self.limit)).await {
            Ok(Ok(said)) => Ok(said),
            Ok(Err(error @ WireError::Nonsense(_))) => Err(format!("the camera process: {error}")),
            Ok(Err(WireError::Ended(_))) => {
                // Its reason arrives when it ends.
                let _ = timeout(FAREWELL, self.child.ended()).await;
                Err(self.child.complaint().unwrap_or_else(|| self.child.how()))
            }
            Err(_) => Err(format!(
                "stalled: {} sent no picture within {DEADLINE:?}",
                self.shown
            )),
        }
    }

    /// Waits for the next picture.
    async fn picture(&mut self) -> Result<Vec<u8>, String> {
        loop {
            if let (Message::Frame { .. }, picture) = self.next().await? {
                return Ok(picture);
            }
        }
    }
}

/// Lists the cameras on a separate thread: a wedged camera never answers.
async fn found() -> anyhow::Result<Vec<Found>> {
    let asking = tokio::task::spawn_blocking(camera_process::found);
    Ok(timeout(ASKING, asking)
        .await
        .context("a camera does not answer; unplug it and plug it in again")??)
}

/// Returns a text of a device for the terminal: one line of at most 200 characters, without control
/// characters and those that turn or hide others.
fn shown(text: &str) -> String {
    use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let seen = words.chars().map(|c| match c.general_category_group() {
        GeneralCategoryGroup::Other => '\u{FFFD}',
        _ => c,
    });
    seen.take(200).collect()
}

async fn snapshot(config: &Config, args: &SnapshotArgs) -> anyhow::Result<ExitCode> {
    let section = match (&args.camera, &args.device, &args.address.url) {
        (Some(name), ..) => configured(config, name)?.section.0.clone(),
        (None, Some(device), _) => unconfigured(Some(device)).await?,
        (None, None, Some(url)) => of_address(url, &args.address.login),
        (None, None, None) => match config.cameras.as_slice() {
            [] => unconfigured(None).await?,
            [only] => only.section.0.clone(),
            _ => bail!("several cameras are configured; say which with --camera NAME"),
        },
    };
    let mut camera = Started::new(config, &section, "1s")?;
    let picture = camera.picture().await.map_err(|why| anyhow!(why))?;
    camera.child.kill();
    if args.output == Path::new("-") {
        std::io::stdout().write_all(&picture)?;
        return Ok(ExitCode::SUCCESS);
    }
    let output = args.output.display();
    std::fs::write(&args.output, &picture)
        .with_context(|| format!("{output} cannot be written"))?;
    let (width, height) = mjpeg::size(&picture).unwrap_or_default();
    println!(
        "{output}: {width}x{height}, {} KiB, from {}",
        picture.len().div_ceil(1024),
        camera.shown
    );
    Ok(ExitCode::SUCCESS)
}

/// Takes one picture with a configured camera; returns its bytes, or why there is none.
pub async fn first_picture(config: &Config, camera: &config::Camera) -> Result<usize, String> {
    let started = Started::new(config, &camera.section.0, "1s");
    let mut camera = started.map_err(|error| format!("{error:#}"))?;
    Ok(camera.picture().await?.len())
}

/// Returns the section of a camera of the network.
fn of_address(url: &str, login: &LoginArgs) -> String {
    let mut section = toml::Table::new();
    let mut set = |key: &str, value: &str| section.insert(key.into(), value.into());
    set("name", "snapshot");
    set("url", url);
    if let Some(user) = &login.username {
        set("username", user);
    }
    if let Some(file) = &login.password_file {
        set("password_file", &file.to_string_lossy());
    }
    section.to_string()
}

/// Watches a camera for a while and says what came.
async fn attempt(config: &Config, args: &TryArgs) -> anyhow::Result<ExitCode> {
    let section = if args.camera.contains("://") {
        // The rate of most cameras.
        format!("rate = 30\n{}", of_address(&args.camera, &args.login))
    } else {
        configured(config, &args.camera)?.section.0.clone()
    };
    let begun = Instant::now();
    let mut camera = Started::new(config, &section, "100ms")?;
    let (mut frames, mut bytes) = (0, 0);
    let (first, codec, size) = loop {
        match camera.next().await.map_err(|why| anyhow!(why))? {
            (
                Message::Begins {
                    codec,
                    width,
                    height,
                },
                _,
            ) => break (begun.elapsed(), codec, (width, height)),
            (Message::Frame { .. }, picture) => {
                let size = mjpeg::size(&picture).unwrap_or_default();
                break (begun.elapsed(), String::new(), size);
            }
            _ => {}
        }
    };
    let (until, watched) = (
        Instant::now() + Duration::from_secs(args.seconds),
        Instant::now(),
    );
    let before = cpu_of_group(camera.child.pid);
    let (mut counted, mut pictures) = (None, 0_u64);
    while Instant::now() < until {
        match camera.next().await.map_err(|why| anyhow!(why))? {
            (Message::Alive { frames: now, .. }, _) => {
                let since = *counted.get_or_insert(now);
                frames = now - since;
            }
            (Message::Frame { .. }, picture) => {
                pictures += 1;
                bytes += picture.len();
            }
            _ => {}
        }
    }
    let seconds = watched.elapsed().as_secs_f64();
    let used = cpu_of_group(camera.child.pid).saturating_sub(before);
    camera.child.kill();
    let (width, height) = size;
    println!("{}", camera.shown);
    println!("  size              {width}x{height}");
    if !codec.is_empty() {
        println!("  codec             {codec}");
    }
    println!(
        "  rate              {:.1} frames a second",
        frames as f64 / seconds
    );
    // No stream says when a frame was taken by a clock that could be compared with the board's.
    println!(
        "  latency           {:.1} s to the first frame",
        first.as_secs_f64()
    );
    let kib = bytes.checked_div(pictures as usize).unwrap_or_default() / 1024;
    println!("  JPEG              {kib} KiB");
    if let Some(each) = used.checked_div(frames.try_into().unwrap_or(0)) {
        println!(
            "  processor         {:.1} ms a frame",
            each.as_secs_f64() * 1000.0
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the processor time of a process and of those it has started.
fn cpu_of_group(group: u32) -> Duration {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let used = processes.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let (cpu, its_group) = child::cpu_and_group(pid)?;
        (its_group == group).then_some(cpu)
    });
    used.sum()
}

/// Returns the section of a camera of this board that is not configured, with its best settings.
async fn unconfigured(device: Option<&Path>) -> anyhow::Result<String> {
    let found = found().await?;
    // The camera may be named by any link to it.
    let node = device.map(|device| {
        device
            .canonicalize()
            .unwrap_or_else(|_| device.to_path_buf())
    });
    let Some(found) = found.into_iter().find(|found| match &node {
        Some(node) => found.device == *node,
        None => found.stack().is_none(),
    }) else {
        match device {
            Some(device) => {
                bail!(
                    "{} does not exist or is not a camera; kithd camera list shows the cameras",
                    device.display()
                )
            }
            None => bail!("no V4L2 camera was found; kithd camera list shows the others"),
        }
    };
    let offers = found.offers?;
    let usable = offers.iter().filter_map(|offer| {
        let (format, _) = PixelFormat::ALL
            .into_iter()
            .find(|(_, name)| *name == offer.format)?;
        Some((offer, format))
    });
    // Prefer JPEG to raw, then the largest resolution within the limit.
    let best = usable.max_by_key(|(offer, format)| {
        let pixels = i64::from(offer.size.0) * i64::from(offer.size.1);
        let fits = offer.size.0 <= USUAL.0 && offer.size.1 <= USUAL.1;
        (
            fits,
            *format == PixelFormat::Mjpeg,
            if fits { pixels } else { -pixels },
        )
    });
    let Some((offer, format)) = best else {
        bail!(
            "{} offers nothing that kithd can use",
            found.device.display()
        )
    };
    let (width, height) = offer.size;
    Ok(format!(
        "name = \"snapshot\"\ndevice = \"{}\"\nresolution = \"{width}x{height}\"\nrate = {}\nformat = \"{}\"\n",
        found.device.display(),
        offer.rates.first().copied().unwrap_or(15),
        format.name(),
    ))
}
