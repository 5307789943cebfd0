//! The engine alone: `kithd-bench engine` and `networks` in this process, and `boundary`, which
//! compares this process with an engine process.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use kith_vision::RUNTIME_VERSION;
use kithd::for_bench::{
    Client, Engine, NetworkRow, OF_A_CHILD, Picture, Recogniser, STAGES, Stages, load_pack, median,
    network_rows, on_cores, shortest,
};
use serde_json::json;
use tokio::process::{Child, Command};

use crate::Subject;

/// Longest time for the engine process to load its models, and for one picture.
const PATIENCE: Duration = Duration::from_secs(60);

/// Arguments of `kithd-bench engine`.
#[derive(Debug, clap::Args)]
pub struct Stage {
    /// A picture; without one, the bundled face in 640×480
    picture: Option<PathBuf>,
    /// Number of rounds
    #[arg(long, default_value_t = 50)]
    rounds: usize,
    /// Answers as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `kithd-bench networks`.
#[derive(Debug, clap::Args)]
pub struct Networks {
    /// Number of rounds
    #[arg(long, default_value_t = 50)]
    rounds: usize,
    /// Answers as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `kithd-bench boundary`.
#[derive(Debug, clap::Args)]
pub struct Boundary {
    /// Number of rounds
    #[arg(long, default_value_t = 200)]
    rounds: usize,
    /// Answers as JSON
    #[arg(long)]
    json: bool,
}

/// Measures one picture in the configured precision.
pub fn stages(subject: &Subject, args: &Stage) -> anyhow::Result<()> {
    let config = &subject.config;
    let bytes = match &args.picture {
        Some(path) => std::fs::read(path).with_context(|| path.display().to_string())?,
        None => subject.picture()?,
    };
    let pack = load_pack(&config.models)?;
    let device = config.engine.device;
    let precision = config
        .models
        .precision
        .unwrap_or_else(|| pack.default_precision(device));
    let begun = Instant::now();
    let recogniser = Recogniser::load(&pack, precision, device, &on_cores(config, 1))?;
    let load = begun.elapsed().as_secs_f64() * 1e3;
    let stages = Stages::measure(&recogniser, &bytes, args.rounds)?;
    if args.json {
        let mut answer = stages.json();
        answer["pack"] = json!(pack.id());
        answer["precision"] = json!(precision.as_str());
        answer["load_ms"] = json!(load);
        println!("{answer}");
        return Ok(());
    }
    let ((width, height), faces) = (stages.reply.size, stages.reply.faces.len());
    println!(
        "{} {precision}, {width}×{height}, {faces} faces, medians of {}, one thread",
        pack.id(),
        args.rounds
    );
    for (stage, times) in STAGES.iter().zip(&stages.times) {
        println!(
            "{stage:15} {:8.2} ms, shortest {:8.2} ms",
            median(times),
            shortest(times)
        );
    }
    println!("{:15} {load:8.2} ms", "load");
    Ok(())
}

/// Measures each network alone.
pub fn networks(subject: &Subject, args: &Networks) -> anyhow::Result<()> {
    let (config, rounds) = (&subject.config, args.rounds);
    let pack = load_pack(&config.models)?;
    let rows = network_rows(&pack, config, rounds)?;
    if args.json {
        println!(
            "{}",
            json!({ "pack": pack.id(), "runtime": RUNTIME_VERSION, "rounds": rounds, "networks": rows })
        );
        return Ok(());
    }
    for NetworkRow {
        network,
        precision,
        shape,
        median_ms,
        shortest_ms,
    } in rows
    {
        println!(
            "{network:10} {precision:8} {shape:>14} {median_ms:8.2} ms, shortest {shortest_ms:8.2} ms"
        );
    }
    Ok(())
}

/// Measures both sides in turn, so that other load on the machine affects both alike.
pub async fn boundary(mut subject: Subject, args: Boundary) -> anyhow::Result<()> {
    let rounds = args.rounds.max(1);
    let picture = Bytes::from(subject.picture()?);
    let config = &mut subject.config;
    let pack = load_pack(&config.models)?;
    let device = config.engine.device;
    // Both sides use the same precision, whatever this board would choose.
    let precision = config
        .models
        .precision
        .unwrap_or_else(|| pack.default_precision(device));
    config.models.precision = Some(precision);
    let settings = on_cores(config, config.recognition.threads);
    let sockets = tempfile::tempdir()?;
    let (mut process, client) = engine_process(&subject, sockets.path().join("engine")).await?;
    let loading = pack.clone();
    let inside = tokio::task::spawn_blocking(move || {
        Engine::load(loading, Some(precision), device, &settings)
    });
    let inside = inside.await??;
    let across = async || {
        let picture = Picture {
            bytes: picture.clone(),
            path: None,
            faces_only: false,
        };
        let answer = client.recognise(picture, &pack, PATIENCE).await;
        answer.map_err(|error| anyhow!(error.sentence))
    };
    inside.recognise(picture.clone(), false).await?;
    across().await?;
    let mut times = [Vec::with_capacity(rounds), Vec::with_capacity(rounds)];
    for _ in 0..rounds {
        let begun = Instant::now();
        inside.recognise(picture.clone(), false).await?;
        times[0].push(begun.elapsed());
        let begun = Instant::now();
        across().await?;
        times[1].push(begun.elapsed());
    }
    process.kill().await?;
    // Compare pair by pair: a temporary slowdown affects both of a pair.
    let mut ratios: Vec<f64> = times[0]
        .iter()
        .zip(&times[1])
        .map(|(inside, across)| across.as_secs_f64() / inside.as_secs_f64())
        .collect();
    ratios.sort_by(f64::total_cmp);
    let overhead = ratios[ratios.len() / 2] - 1.0;
    let [inside, across] = times.map(|mut times| {
        times.sort_unstable();
        median(&times)
    });
    if args.json {
        println!(
            "{}",
            json!({ "rounds": rounds, "inside_ms": inside, "across_ms": across, "overhead": overhead })
        );
        return Ok(());
    }
    println!(
        "medians of {rounds} in turn: {inside:.2} ms in this process, {across:.2} ms in an engine process"
    );
    println!(
        "the boundary costs {:.1} % (median of the pairs)",
        100.0 * overhead
    );
    Ok(())
}

/// Starts an engine process as the daemon does, and connects to it.
async fn engine_process(subject: &Subject, socket: PathBuf) -> anyhow::Result<(Child, Client)> {
    let Subject { config, kithd } = subject;
    let mut command = Command::new(kithd);
    command
        .args(&config.arguments)
        .arg("engine")
        .args(["--device", &config.engine.device.to_string()])
        .arg("--socket")
        .arg(&socket)
        .envs(OF_A_CHILD)
        .stderr(Stdio::null())
        .kill_on_drop(true);
    if let Some(precision) = config.models.precision {
        command.args(["--precision", precision.as_str()]);
    }
    let mut process = command
        .spawn()
        .with_context(|| format!("{} could not be started", kithd.display()))?;
    let begun = Instant::now();
    loop {
        if let Ok(client) = Client::to_socket(&socket).await
            && client.ready().await.is_ok()
        {
            return Ok((process, client));
        }
        if let Some(status) = process.try_wait()? {
            bail!("the engine process ended with {status}");
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "the engine process was not ready within {PATIENCE:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
