//! `kithd bench`: measurements of the board: engine stages, intake, memory, disk, gallery.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, anyhow};
use serde_json::json;

use super::{OwnEngines, load, matching, own_engine, page, speed, writes};
use crate::config::Config;
use crate::engine_process::load_pack;
use crate::engines::Picture;

/// Measurements of `kithd bench`.
#[derive(Debug, clap::Subcommand)]
pub enum Bench {
    /// Measures the time of each stage for one picture on one thread
    Engine {
        /// A picture; without one, the bundled face in 640×480
        picture: Option<PathBuf>,
        /// Number of rounds
        #[arg(long, default_value_t = 50)]
        rounds: usize,
        /// Answers as JSON
        #[arg(long)]
        json: bool,
    },
    /// Measures everything worth comparing between boards; prints a block to paste into a report
    Board {
        /// Rounds of a 640×480 picture; large pictures get a fifth as many
        #[arg(long, default_value_t = 30)]
        rounds: usize,
        /// Answers as JSON
        #[arg(long)]
        json: bool,
    },
    /// Measures the time of each network alone on one thread
    Networks {
        /// Number of rounds
        #[arg(long, default_value_t = 50)]
        rounds: usize,
        /// Answers as JSON
        #[arg(long)]
        json: bool,
    },
    /// Measures the cost of the process boundary: the same picture in this process and in an engine
    /// process, in turn
    Boundary {
        /// Number of rounds
        #[arg(long, default_value_t = 200)]
        rounds: usize,
        /// Answers as JSON
        #[arg(long)]
        json: bool,
    },
    /// Writes the picture that the other benches use: the bundled face in a 640×480 JPEG
    Picture {
        /// File to write
        file: PathBuf,
    },
    /// Measures accepted pictures per second by HTTP and MQTT, each committed to disk
    Intake(load::Intake),
    /// Measures the time to search one face in a large gallery, on one core
    Match(matching::Match),
    /// Measures memory (PSS of all processes) idle, at work, and during large uploads
    Memory(load::Memory),
    /// Measures how fast page and list answer with a million images in the database while pictures
    /// are processed
    Page(page::Page),
    /// Measures bytes written to the disk for each identified picture, by all processes
    Writes(writes::Writes),
}

/// Measures and prints.
pub async fn run(config: &Config, bench: Bench) -> anyhow::Result<ExitCode> {
    match bench {
        Bench::Engine {
            picture,
            rounds,
            json,
        } => {
            let bytes = match picture {
                Some(path) => std::fs::read(&path).with_context(|| path.display().to_string())?,
                None => bench_picture(config)?,
            };
            let config = config.clone();
            tokio::task::spawn_blocking(move || speed::engine(&config, &bytes, rounds, json))
                .await??;
        }
        Bench::Board { rounds, json } => speed::board(config, rounds, json).await?,
        Bench::Networks { rounds, json } => {
            let config = config.clone();
            tokio::task::spawn_blocking(move || speed::networks(&config, rounds, json)).await??;
        }
        // Runs as a task, as the dispatcher calls the engine.
        Bench::Boundary { rounds, json } => {
            tokio::spawn(boundary(config.clone(), rounds.max(1), json)).await??;
        }
        Bench::Picture { file } => {
            std::fs::write(&file, bench_picture(config)?)
                .with_context(|| file.display().to_string())?;
        }
        Bench::Intake(intake) => load::intake(config, intake).await?,
        Bench::Match(args) => {
            tokio::task::spawn_blocking(move || matching::matching(&args)).await??;
        }
        Bench::Memory(memory) => load::memory(config, memory, bench_picture(config)?).await?,
        Bench::Page(args) => page::page(config, args, bench_picture(config)?).await?,
        Bench::Writes(args) => writes::writes(config, args, bench_picture(config)?).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn bench_picture(config: &Config) -> anyhow::Result<Vec<u8>> {
    speed::one_face(&load_pack(&config.models)?)
}

/// Measures both sides in turn, so that other load on the machine affects both alike.
async fn boundary(mut config: Config, rounds: usize, as_json: bool) -> anyhow::Result<()> {
    // Both sides use the same precision, whatever this board would choose.
    if config.models.precision.is_none() {
        let precision = load_pack(&config.models)?.default_precision(config.engine.device);
        config.models.precision = Some(precision);
        config
            .arguments
            .extend(["--set".into(), format!("models.precision={precision}")]);
    }
    let picture = Picture {
        bytes: bench_picture(&config)?.into(),
        path: None,
    };
    let (inside, engines) = (
        own_engine(&config).await?,
        OwnEngines::start(&config).await?,
    );
    let across = async || {
        engines
            .engines
            .recognise(None, &picture)
            .await
            .map_err(|error| anyhow!(error.verdict().sentence))
    };
    inside.recognise(picture.bytes.clone()).await?;
    across().await?;
    let mut times = [Vec::with_capacity(rounds), Vec::with_capacity(rounds)];
    for _ in 0..rounds {
        let begun = Instant::now();
        inside.recognise(picture.bytes.clone()).await?;
        times[0].push(begun.elapsed());
        let begun = Instant::now();
        across().await?;
        times[1].push(begun.elapsed());
    }
    engines.stop().await;
    // Compare pair by pair: a temporary slowdown affects both of a pair.
    let mut ratios: Vec<f64> = times[0]
        .iter()
        .zip(&times[1])
        .map(|(inside, across)| across.as_secs_f64() / inside.as_secs_f64())
        .collect();
    ratios.sort_by(f64::total_cmp);
    let overhead = ratios[ratios.len() / 2] - 1.0;
    let [inside, across] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e3
    });
    if as_json {
        println!(
            "{}",
            json!({ "rounds": rounds, "inside_ms": inside, "across_ms": across, "overhead": overhead })
        );
    } else {
        println!(
            "medians of {rounds} in turn: {inside:.2} ms in this process, {across:.2} ms in an engine process"
        );
        println!(
            "the boundary costs {:.1} % (median of the pairs)",
            100.0 * overhead
        );
    }
    Ok(())
}
