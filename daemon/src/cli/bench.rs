//! `kithd bench`: what the board does, in numbers: the engine's stages, the intake, the memory, the disk, the gallery.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use image::{ImageFormat, RgbImage, imageops};
use serde_json::json;

use super::{OwnEngines, load, matching, own_engine, page, writes};
use crate::app;
use crate::config::Config;
use crate::engine::{Recogniser, Reply, load_pack};
use crate::recognition::Picture;

/// What can be measured.
#[derive(Debug, clap::Subcommand)]
pub enum Bench {
    /// Time of each stage for one picture on one thread
    Engine {
        /// A picture; without one, the bundled face in 640×480
        picture: Option<PathBuf>,
        /// How often
        #[arg(long, default_value_t = 50)]
        rounds: usize,
        /// Answers as JSON
        #[arg(long)]
        json: bool,
    },
    /// What the process boundary costs: the same picture in this process and in an engine process, in turn
    Boundary {
        /// How often
        #[arg(long, default_value_t = 200)]
        rounds: usize,
        /// Answers as JSON
        #[arg(long)]
        json: bool,
    },
    /// Writes the picture that the other benches use: the bundled face in a 640×480 JPEG
    Picture {
        /// Where to
        file: PathBuf,
    },
    /// Accepted pictures per second by HTTP and MQTT, each committed to disk
    Intake(load::Intake),
    /// Time to look for one face in a large gallery, on one core
    Match(matching::Match),
    /// Memory (PSS of all processes) idle and at work
    Memory(load::Memory),
    /// How fast page and list answer with a million images in the database, while pictures are processed
    Page(page::Page),
    /// Bytes written to the disk for each picture that is identified, by all processes
    Writes(writes::Writes),
}

/// Measures and prints.
pub async fn run(config: &Config, bench: Bench) -> anyhow::Result<ExitCode> {
    match bench {
        Bench::Engine { picture, rounds, json } => {
            let bytes = match picture {
                Some(path) => std::fs::read(&path).with_context(|| path.display().to_string())?,
                None => bench_picture(config)?,
            };
            let config = config.clone();
            tokio::task::spawn_blocking(move || stages(&config, &bytes, rounds.max(1), json)).await??;
        }
        // As a task, which is how the dispatcher calls the engine.
        Bench::Boundary { rounds, json } => tokio::spawn(boundary(config.clone(), rounds.max(1), json)).await??,
        Bench::Picture { file } => {
            std::fs::write(&file, bench_picture(config)?).with_context(|| file.display().to_string())?;
        }
        Bench::Intake(intake) => load::intake(config, intake).await?,
        Bench::Match(args) => tokio::task::spawn_blocking(move || matching::matching(&args)).await??,
        Bench::Memory(memory) => load::memory(config, memory, bench_picture(config)?).await?,
        Bench::Page(args) => page::page(config, args, bench_picture(config)?).await?,
        Bench::Writes(args) => writes::writes(config, args, bench_picture(config)?).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The pack's self-test face, 480 pixels high, in the middle of a plain 640×480 picture.
pub fn bench_picture(config: &Config) -> anyhow::Result<Vec<u8>> {
    let pack = load_pack(&config.models)?;
    let face = image::load_from_memory(&pack.self_test_picture()?)?.into_rgb8();
    let face = imageops::resize(&face, 480, 480, imageops::FilterType::CatmullRom);
    let mut picture = RgbImage::from_pixel(640, 480, image::Rgb([96, 104, 112]));
    imageops::overlay(&mut picture, &face, 80, 0);
    let mut jpeg = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut jpeg, ImageFormat::Jpeg)?;
    Ok(jpeg.into_inner())
}

/// In turn, so that whatever else the machine does falls on both alike.
async fn boundary(mut config: Config, rounds: usize, as_json: bool) -> anyhow::Result<()> {
    // The same precision on both sides, whatever this board would choose.
    if config.models.precision.is_none() {
        let precision = load_pack(&config.models)?.default_precision(config.engine.device);
        config.models.precision = Some(precision);
        config.arguments.extend(["--set".into(), format!("models.precision={precision}")]);
    }
    let picture = Picture { bytes: bench_picture(&config)?.into(), path: None };
    let (inside, engines) = (own_engine(&config).await?, OwnEngines::start(&config).await?);
    let across =
        async || engines.guard.recognise(None, &picture).await.map_err(|error| anyhow!(error.verdict().sentence));
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
    // Pair by pair: whatever slows the machine for a while slows both of a pair.
    let mut ratios: Vec<f64> =
        times[0].iter().zip(&times[1]).map(|(inside, across)| across.as_secs_f64() / inside.as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    let overhead = ratios[ratios.len() / 2] - 1.0;
    let [inside, across] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e3
    });
    if as_json {
        println!("{}", json!({ "rounds": rounds, "inside_ms": inside, "across_ms": across, "overhead": overhead }));
    } else {
        println!("medians of {rounds} in turn: {inside:.2} ms in this process, {across:.2} ms in an engine process");
        println!("the boundary costs {:.1} % (median of the pairs)", 100.0 * overhead);
    }
    Ok(())
}

fn stages(config: &Config, bytes: &[u8], rounds: usize, as_json: bool) -> anyhow::Result<()> {
    let pack = load_pack(&config.models)?;
    let precision = config.models.precision.unwrap_or_else(|| pack.default_precision(config.engine.device));
    let begun = Instant::now();
    let recogniser = Recogniser::load(&pack, precision, config.engine.device, &app::engine_settings(config))?;
    let load = begun.elapsed();
    let mut replies: Vec<(Duration, Reply)> = Vec::with_capacity(rounds);
    recogniser.recognise(bytes)?; // plans for this picture's size are made on first sight
    for _ in 0..rounds {
        let begun = Instant::now();
        let reply = recogniser.recognise(bytes)?;
        replies.push((begun.elapsed(), reply));
    }
    let median = |of: &dyn Fn(&(Duration, Reply)) -> Duration| {
        let mut times: Vec<_> = replies.iter().map(of).collect();
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e3
    };
    let rows = [
        ("decode", median(&|r| r.1.times.decode)),
        ("detect", median(&|r| r.1.times.detect)),
        ("align", median(&|r| r.1.times.align)),
        ("embed", median(&|r| r.1.times.embed)),
        ("encode", median(&|r| r.1.times.encode)),
        ("whole", median(&|r| r.0)),
    ];
    let (width, height) = replies[0].1.size;
    let faces = replies[0].1.faces.len();
    if as_json {
        let stages: serde_json::Map<_, _> = rows.iter().map(|(name, ms)| ((*name).into(), json!(ms))).collect();
        println!(
            "{}",
            json!({ "pack": pack.id(), "precision": precision.as_str(), "width": width, "height": height,
                "faces": faces, "rounds": rounds, "load_ms": load.as_secs_f64() * 1e3, "median_ms": stages })
        );
        return Ok(());
    }
    println!("{} {}, {width}×{height}, {faces} faces, medians of {rounds}, one thread", pack.id(), precision.as_str());
    for (name, ms) in rows {
        println!("{name:8} {ms:8.2} ms");
    }
    println!("load     {:8.2} ms", load.as_secs_f64() * 1e3);
    Ok(())
}
