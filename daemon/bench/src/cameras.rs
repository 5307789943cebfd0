//! `kithd-bench cameras`: what cameras cost (processor, memory, frames), and how long a frame takes
//! from its arrival to its result on MQTT.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use image::{ImageFormat, Rgb};
use kithd::for_bench::{cpu_and_group, load_pack, median};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::Subject;
use crate::daemon::Daemon;
use crate::requests::{connect, request};

/// Longest wait for a result.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time between two samples of memory.
const SAMPLE: Duration = Duration::from_secs(2);

/// Arguments of `kithd-bench cameras`.
#[derive(Debug, clap::Args)]
pub struct Cameras {
    /// Address of a stream; several are used in turn. Without one the delay of frames is measured
    #[arg(long, value_name = "URL")]
    url: Vec<String>,
    /// Cameras that watch the streams
    #[arg(long, default_value_t = 8)]
    cameras: usize,
    /// Further keys of each camera, as TOML
    #[arg(
        long,
        value_name = "KEYS",
        default_value = "rate = 5, motion = true, every = \"10s\""
    )]
    keys: String,
    /// Seconds to measure
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Frames whose delay is measured
    #[arg(long, default_value_t = 200)]
    frames: u32,
    /// Broker that receives the results
    #[arg(long, default_value = "mqtt://127.0.0.1:1883")]
    broker: String,
    /// Answers as JSON
    #[arg(long)]
    json: bool,
}

/// Processor time and memory of processes of one kind.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    processes: u32,
    cpu: Duration,
    pss_kib: u64,
}

/// Measures cameras that watch streams, or the delay of single frames.
pub async fn cameras(mut subject: Subject, args: Cameras) -> anyhow::Result<()> {
    // Choosing a precision by measurement would restart the engine during the count.
    let config = &mut subject.config;
    if config.models.precision.is_none() {
        let pack = load_pack(&config.models)?;
        config.models.precision = Some(pack.default_precision(config.engine.device));
    }
    if args.url.is_empty() {
        delay(&subject, &args).await
    } else {
        load(&subject, &args).await
    }
}

async fn load(subject: &Subject, args: &Cameras) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let sections: Vec<_> = args
        .url
        .iter()
        .cycle()
        .take(args.cameras)
        .enumerate()
        .map(|(n, url)| format!("{{name = \"c{n}\", url = {}, {}}}", json!(url), args.keys))
        .collect();
    let section = format!("camera=[{}]", sections.join(", "));
    let mut daemon =
        Daemon::start_with(subject, Some(&args.broker), folder.path(), None, &[section]).await?;
    daemon.wait_for_engine().await?;
    let mut client = connect(&daemon.address).await?;
    let running = |status: &Value| {
        let ok = |n: &usize| status["parts"][format!("camera c{n}")]["condition"] == "ok";
        (0..args.cameras).filter(ok).count()
    };
    let begun = Instant::now();
    loop {
        let status = request(&mut client, "GET", "/v1/status", Vec::new()).await?;
        if running(&status) == args.cameras {
            break;
        }
        if begun.elapsed() > PATIENCE {
            bail!(
                "of {} cameras {} run: {}",
                args.cameras,
                running(&status),
                status["parts"]
            );
        }
        sleep(Duration::from_millis(100)).await;
    }
    let before = costs(&daemon)?;
    let begun = Instant::now();
    let mut memory = Memory::default();
    while begun.elapsed() < Duration::from_secs(args.seconds) {
        memory.sample(&daemon, begun.elapsed())?;
        sleep(SAMPLE).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let after = costs(&daemon)?;
    // The daemon has closed the idle connection.
    let mut client = connect(&daemon.address).await?;
    let status = request(&mut client, "GET", "/v1/status", Vec::new()).await?;
    let metrics = daemon.metrics().await?;
    daemon.stop().await?;
    let rows: BTreeMap<_, _> = after
        .iter()
        .map(|(kind, cost)| {
            let used = cost
                .cpu
                .saturating_sub(before.get(kind).map_or(Duration::ZERO, |cost| cost.cpu));
            let share = 100.0 * used.as_secs_f64() / seconds;
            (*kind, (cost.processes, share, cost.pss_kib as f64 / 1024.0))
        })
        .collect();
    let frames: Vec<_> = metrics
        .lines()
        .filter(|line| line.starts_with("kithd_camera_"))
        .map(String::from)
        .collect();
    if args.json {
        println!(
            "{}",
            json!({ "seconds": seconds, "parts": rows, "counts": status["counts"], "metrics": frames,
                    "quarters_mib": memory.quarters(args.seconds) })
        );
        return Ok(());
    }
    println!(
        "{} cameras for {seconds:.0} s; {} run at the end; images: {}",
        args.cameras,
        running(&status),
        status["counts"]
    );
    println!("{:<16} processes  % of a core   PSS MiB", "part");
    for (kind, (processes, share, mib)) in &rows {
        println!("{kind:<16} {processes:>9} {share:>12.1} {mib:>9.1}");
    }
    let quarters: Vec<_> = memory
        .quarters(args.seconds)
        .iter()
        .map(|mib| format!("{mib:.1}"))
        .collect();
    println!(
        "memory of all in each quarter, at most: {} MiB",
        quarters.join(", ")
    );
    for line in frames {
        println!("{line}");
    }
    Ok(())
}

/// Memory of all processes (PSS) over time.
#[derive(Default)]
struct Memory(Vec<(Duration, u64)>);

impl Memory {
    fn sample(&mut self, daemon: &Daemon, at: Duration) -> anyhow::Result<()> {
        self.0.push((at, daemon.pss_kib()?));
        Ok(())
    }

    /// Returns the most of each quarter of the time, in MiB.
    fn quarters(&self, seconds: u64) -> [f64; 4] {
        let mut most = [0.0_f64; 4];
        for (at, kib) in &self.0 {
            let quarter = (4.0 * at.as_secs_f64() / seconds as f64) as usize;
            let mib = *kib as f64 / 1024.0;
            most[quarter.min(3)] = most[quarter.min(3)].max(mib);
        }
        most
    }
}

/// Returns the cost of each kind of process of the daemon.
fn costs(daemon: &Daemon) -> anyhow::Result<BTreeMap<&'static str, Cost>> {
    let mut costs: BTreeMap<_, Cost> = BTreeMap::new();
    for pid in daemon.family()? {
        let read =
            |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let command = read("cmdline");
        let kind = match () {
            () if command.contains("\0camera\0run") => "camera processes",
            () if command.contains("\0engine\0") => "engine",
            () if command.contains("kithd\0") && !command.contains("\0camera\0produce") => "daemon",
            () => "frame producers",
        };
        let cost = costs.entry(kind).or_default();
        cost.processes += 1;
        cost.cpu += cpu_and_group(pid).map_or(Duration::ZERO, |(cpu, _)| cpu);
        cost.pss_kib += Daemon::pss_of(pid)?;
    }
    Ok(costs)
}

/// Hands single frames to a camera, each after the result of the one before, and measures the time
/// to the result.
async fn delay(subject: &Subject, args: &Cameras) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let pipe = folder.path().join("frames");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    let state = folder.path().join("state");
    std::fs::create_dir(&state)?;
    let section = format!(
        "camera=[{{name = \"c\", command = [\"cat\", {}], every = \"100ms\", burst = 1, stall_after = \"1h\"}}]",
        json!(pipe)
    );
    let mut daemon =
        Daemon::start_with(subject, Some(&args.broker), &state, None, &[section]).await?;
    daemon.wait_for_engine().await?;
    let mut settings =
        kith_mqtt::Settings::new(args.broker.parse()?, format!("{}-listener", daemon.device));
    settings.subscriptions = vec![format!("kithd/{}/result", daemon.device)];
    settings.session_expiry = Duration::ZERO;
    let (publisher, mut deliveries, _state, connection) = kith_mqtt::connect(settings);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(connection.run(async {
        let _ = stopped.await;
    }));
    publisher.connected().await?;
    let delays = frame_delays(subject, &pipe, args.frames, &mut deliveries).await;
    let _ = stop.send(());
    running.await?;
    daemon.stop().await?;
    let mut delays = delays?;
    delays.sort_unstable();
    let at_99 = delays[delays.len() * 99 / 100].as_secs_f64() * 1e3;
    let middle = median(&delays);
    if args.json {
        println!(
            "{}",
            json!({ "frames": delays.len(), "median_ms": middle, "p99_ms": at_99 })
        );
    } else {
        println!(
            "from a frame's arrival to its result on MQTT: median {middle:.0} ms, 99th percentile {at_99:.0} ms ({} \
             frames of 640x480 with one face, one after another)",
            delays.len()
        );
    }
    Ok(())
}

/// Returns the delays.
async fn frame_delays(
    subject: &Subject,
    pipe: &Path,
    frames: u32,
    deliveries: &mut kith_mqtt::Deliveries,
) -> anyhow::Result<Vec<Duration>> {
    let mut picture = image::load_from_memory(&subject.picture()?)?.into_rgb8();
    let opening = pipe.to_path_buf();
    // Opening waits for the reader.
    let mut pipe =
        tokio::task::spawn_blocking(move || std::fs::File::options().write(true).open(opening))
            .await??;
    let mut delays = Vec::new();
    for n in 0..frames {
        // Each frame is another picture.
        let shade = (n % 256) as u8;
        picture.put_pixel(n % 8, 0, Rgb([shade, 255 - shade, 128]));
        let mut frame = Cursor::new(Vec::new());
        picture.write_to(&mut frame, ImageFormat::Jpeg)?;
        // The interval of the camera's pictures has passed.
        sleep(Duration::from_millis(150)).await;
        pipe.write_all(frame.get_ref())?;
        let sent = Instant::now();
        let result = timeout(PATIENCE, deliveries.recv())
            .await
            .context("a frame brought no result")?
            .context("the connection to the broker ended")?;
        delays.push(sent.elapsed());
        let result_of = result.payload.clone();
        result.settle();
        let result: Value = serde_json::from_slice(&result_of)?;
        if result["faces"].as_array().is_none_or(Vec::is_empty) {
            bail!("the frame's face was not found: {result}");
        }
    }
    Ok(delays)
}
