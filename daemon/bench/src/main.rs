//! `kithd-bench`: measurements for kithd's developers: the engine's stages, the gallery, and a
//! temporary daemon under load. Users have `kithd bench board`.
#![forbid(unsafe_code)]

mod cameras;
mod daemon;
mod engine;
mod fill;
mod intake;
mod matching;
mod memory;
mod page;
mod requests;
mod sightings;
mod writes;

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::{Parser, Subcommand};
use kithd::for_bench::{Config, load_pack, one_face};
use tracing_subscriber::EnvFilter;

/// Measures kithd: its engine, its gallery, and a daemon under load.
#[derive(Debug, Parser)]
#[command(name = "kithd-bench", version)]
struct Cli {
    /// Configuration file of kithd [default: /etc/kithd/kithd.toml if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one key of the configuration, for example --set models.precision=int8
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Program to start as daemon and engine [default: the kithd beside this program]
    #[arg(long, global = true, value_name = "FILE")]
    kithd: Option<PathBuf>,
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Measures what cameras cost, or how long a frame takes to its result on MQTT
    Cameras(cameras::Cameras),
    /// Measures the time of each stage for one picture on one thread
    Engine(engine::Stage),
    /// Measures the time of each network alone on one thread
    Networks(engine::Networks),
    /// Measures the cost of the process boundary: the same picture in this process and in an engine
    /// process, in turn
    Boundary(engine::Boundary),
    /// Writes the picture that the benches use: the bundled face in a 640×480 JPEG
    Picture {
        /// File to write
        file: PathBuf,
    },
    /// Measures accepted pictures per second by HTTP and MQTT, each committed to disk
    Intake(intake::Intake),
    /// Measures the time to search one face in a large gallery, on one core
    Match(matching::Match),
    /// Measures memory (PSS of all processes) idle, at work, and during large uploads
    Memory(memory::Memory),
    /// Measures how fast page and list answer with a million images in the database while pictures
    /// are processed
    Page(page::Page),
    /// Shows visits of people beside the sightings that they become, in streams made of photographs
    Sightings(sightings::Sightings),
    /// Measures bytes written to the disk for each identified picture, by all processes
    Writes(writes::Writes),
}

/// The measured program and its configuration.
#[derive(Debug, Clone)]
struct Subject {
    config: Config,
    kithd: PathBuf,
}

impl Subject {
    fn of(cli: &Cli) -> anyhow::Result<Self> {
        let file = cli.config.as_deref();
        let config = Config::load(file, &cli.set)
            .map_err(|problems| anyhow!(Config::problems_text(file, &problems)))?;
        let kithd = match &cli.kithd {
            Some(program) => program.clone(),
            None => std::env::current_exe()?.with_file_name("kithd"),
        };
        Ok(Self { config, kithd })
    }

    /// Returns the bundled face in a 640×480 JPEG.
    fn picture(&self) -> anyhow::Result<Vec<u8>> {
        one_face(&load_pack(&self.config.models)?)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("warn,tract_core=error,tract_linalg=error"))
        .with_writer(std::io::stderr)
        .init();
    let subject = Subject::of(&cli)?;
    match cli.bench {
        Bench::Cameras(args) => cameras::cameras(subject, args).await,
        Bench::Engine(args) => {
            tokio::task::spawn_blocking(move || engine::stages(&subject, &args)).await?
        }
        Bench::Networks(args) => {
            tokio::task::spawn_blocking(move || engine::networks(&subject, &args)).await?
        }
        // Runs as a task, as the dispatcher calls the engine.
        Bench::Boundary(args) => tokio::spawn(engine::boundary(subject, args)).await?,
        Bench::Picture { file } => std::fs::write(&file, subject.picture()?)
            .with_context(|| format!("{} cannot be written", file.display())),
        Bench::Intake(args) => intake::intake(&subject, args).await,
        Bench::Match(args) => {
            tokio::task::spawn_blocking(move || matching::matching(&args)).await?
        }
        Bench::Memory(args) => memory::memory(&subject, args).await,
        Bench::Page(args) => page::page(&subject, args).await,
        Bench::Sightings(args) => {
            tokio::task::spawn_blocking(move || sightings::sightings(&subject, &args)).await?
        }
        Bench::Writes(args) => writes::writes(subject, args).await,
    }
}
