//! `kithd camera`: lists the cameras with their formats, and takes one picture to look at.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use kith_pictures::shot::PixelFormat;
use tokio::process::ChildStdout;
use tokio::time::timeout;

use crate::camera_process::wire::{self, Message, WireError};
use crate::camera_process::{self, Found};
use crate::child::Child;
use crate::config::{self, Config};

/// Time for all cameras of a board to report their formats.
const ASKING: Duration = Duration::from_secs(20);
/// Time from opening a camera to its first picture.
const DEADLINE: Duration = Duration::from_secs(20);
/// Time for a process to end after it has closed its output.
const FAREWELL: Duration = Duration::from_secs(2);
/// Largest resolution that is chosen for a camera without configuration.
const USUAL: (u32, u32) = (1280, 720);

/// Subcommands of `kithd camera`.
#[derive(Debug, clap::Subcommand)]
pub enum Camera {
    /// Lists the cameras of this board and what they offer
    List,
    /// Takes one picture into a file; the daemon must not be using the camera
    Snapshot(SnapshotArgs),
    /// Takes pictures for the daemon, which starts and stops it by itself
    #[command(hide = true)]
    Run(camera_process::Args),
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
    /// File for the JPEG; - is standard output
    #[arg(short, long, value_name = "FILE", default_value = "snapshot.jpg")]
    output: PathBuf,
}

/// Runs the camera process; returns only when it has failed.
pub fn process(config: &Config, args: &camera_process::Args) -> anyhow::Result<()> {
    camera_process::run(configured(config, &args.name)?, config.intake.max_bytes)
}

/// Executes a subcommand.
pub async fn run(config: &Config, command: Camera) -> anyhow::Result<ExitCode> {
    match command {
        Camera::List => list().await,
        Camera::Snapshot(args) => snapshot(config, &args).await,
        Camera::Run(_) => unreachable!("it needs no runtime and has ended"),
    }
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

/// Lists the cameras on a separate thread: a wedged camera never answers.
async fn found() -> anyhow::Result<Vec<Found>> {
    let asking = tokio::task::spawn_blocking(camera_process::found);
    Ok(timeout(ASKING, asking)
        .await
        .context("a camera does not answer; unplug it and plug it in again")??)
}

async fn list() -> anyhow::Result<ExitCode> {
    let found = found().await?;
    if found.is_empty() {
        println!("No camera was found. A USB camera shows up here when it is plugged in.");
        return Ok(ExitCode::SUCCESS);
    }
    for camera in found {
        println!("{}  {}", camera.device.display(), camera.name);
        for link in &camera.links {
            println!("  {}", link.display());
        }
        match &camera.offers {
            Err(error) => println!("  {error}"),
            Ok(offers) => {
                println!("  {:<10} {:<12} frames a second", "format", "resolution");
                for offer in offers.iter().filter(|offer| offer.usable) {
                    let (width, height) = offer.size;
                    let rates: Vec<_> = offer.rates.iter().map(ToString::to_string).collect();
                    println!(
                        "  {:<10} {:<12} {}",
                        offer.format,
                        format!("{width}x{height}"),
                        rates.join(" ")
                    );
                }
                let mut others: Vec<_> = offers
                    .iter()
                    .filter(|offer| !offer.usable)
                    .map(|offer| &offer.format)
                    .collect();
                others.dedup();
                if !others.is_empty() {
                    println!("  and {} formats that kithd cannot use", others.len());
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn snapshot(config: &Config, args: &SnapshotArgs) -> anyhow::Result<ExitCode> {
    let settings = match (&args.camera, &args.device, config.cameras.as_slice()) {
        (Some(name), ..) => configured(config, name)?.clone(),
        (None, Some(device), _) => unconfigured(Some(device)).await?,
        (None, None, []) => unconfigured(None).await?,
        (None, None, [only]) => only.clone(),
        (None, None, _) => bail!("several cameras are configured; say which with --camera NAME"),
    };
    let config::Camera {
        device,
        width,
        height,
        rate,
        format,
        ..
    } = &settings;
    // Start the same process that takes pictures for the daemon, with an order to take one at once.
    let section = format!(
        "camera=[{{name=\"snapshot\",device=\"{}\",resolution=\"{width}x{height}\",rate={rate},format=\"{}\",\
         every=\"1s\",burst=1}}]",
        device.display(),
        format.name(),
    );
    let mut configuration = config.arguments.clone();
    configuration.extend(["--set".into(), section]);
    let arguments = ["camera", "run", "--name", "snapshot"];
    let (child, stdout) = Child::spawn(
        "camera",
        "camera",
        &configuration,
        arguments,
        Stdio::piped(),
    )
    .map_err(|why| anyhow!(why))?;
    let stdout = stdout.context("the camera process has no output")?;
    let picture = match timeout(DEADLINE, first_picture(stdout, settings.max_frame_bytes())).await {
        Ok(Ok(picture)) => picture,
        Ok(Err(error @ WireError::Nonsense(_))) => bail!("the camera process: {error}"),
        Ok(Err(WireError::Ended(_))) => {
            // Its reason arrives when it ends.
            let _ = timeout(FAREWELL, child.ended()).await;
            bail!(child.complaint().unwrap_or_else(|| child.how()));
        }
        Err(_) => bail!("{} sent no picture within {DEADLINE:?}", device.display()),
    };
    child.kill();
    if args.output == Path::new("-") {
        std::io::stdout().write_all(&picture)?;
        return Ok(ExitCode::SUCCESS);
    }
    let output = args.output.display();
    std::fs::write(&args.output, &picture)
        .with_context(|| format!("{output} cannot be written"))?;
    println!(
        "{output}: {width}x{height}, {} KiB, from {}",
        picture.len().div_ceil(1024),
        device.display()
    );
    Ok(ExitCode::SUCCESS)
}

async fn first_picture(mut stdout: ChildStdout, max_bytes: usize) -> Result<Vec<u8>, WireError> {
    loop {
        if let (Message::Frame { .. }, picture) = wire::read(&mut stdout, max_bytes).await? {
            return Ok(picture);
        }
    }
}

/// Returns the best settings of a camera that is not configured.
async fn unconfigured(device: Option<&Path>) -> anyhow::Result<config::Camera> {
    let found = found().await?;
    // The camera may be named by any link to it.
    let node = device.map(|device| {
        device
            .canonicalize()
            .unwrap_or_else(|_| device.to_path_buf())
    });
    let Some(found) = found
        .into_iter()
        .find(|found| node.as_ref().is_none_or(|node| found.device == *node))
    else {
        match device {
            Some(device) => {
                bail!(
                    "{} does not exist or is not a camera; kithd camera list shows the cameras",
                    device.display()
                )
            }
            None => bail!("no camera was found"),
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
    Ok(config::Camera {
        name: "snapshot".into(),
        device: found.device,
        width: offer.size.0,
        height: offer.size.1,
        rate: offer.rates.first().copied().unwrap_or(15),
        format,
        every: Some(Duration::from_secs(1)),
        motion: false,
        motion_area: 100,
        cool_down: Duration::ZERO,
        burst: 1,
        stall_after: DEADLINE,
    })
}
