//! The command line: what can be typed, and which part answers.

mod bench;
mod breaker;
mod enroll;
mod eval;
mod identify;
mod load;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::{Parser, Subcommand};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::app;
use crate::config::Config;
use crate::domain::BreakerCommand;
use crate::engine::{self, Engine, load_pack};
use crate::health::Health;
use crate::recognition::Guard;

/// Face identification for one board: pictures in by MQTT or HTTP, names out, nothing lost.
#[derive(Debug, Parser)]
#[command(name = "kithd", version)]
pub struct Cli {
    /// Configuration file [default: /etc/kithd/kithd.toml if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Sets one key of the configuration, for example --set http.listen=0.0.0.0:8000
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the daemon
    Run,
    /// Checks the configuration and says what is wrong with it
    CheckConfig,
    /// Turns pictures into faces on a socket; the daemon starts and stops it by itself
    Engine(engine::Args),
    /// Shows the circuit breaker around the engine, or tells it what to do
    Breaker {
        /// open: leave the engine alone; close: send it pictures again now; auto: after open, test it and go on
        command: Option<BreakerCommand>,
    },
    /// Makes people known, from pictures or a folder of known people
    Enroll(enroll::Args),
    /// Says who is in pictures; stores nothing and needs no daemon
    Identify(identify::Args),
    /// Shows what waits, what failed and the last results
    Status(status::Args),
    /// Measures accuracy on pairs of pictures
    Eval(eval::Args),
    /// Measures speed
    #[command(subcommand)]
    Bench(bench::Bench),
}

/// Does what was typed.
pub fn run(cli: Cli, config: Config) -> anyhow::Result<ExitCode> {
    let daemon = matches!(cli.command, Command::Run | Command::Engine(_));
    log_to_stderr(&config.log_level, daemon, matches!(cli.command, Command::Engine(_)));
    // What an engine gives up binds only threads made afterwards, so it makes its runtime itself.
    if let Command::Engine(args) = &cli.command {
        let settings = app::engine_settings(&config);
        engine::run(args, config.models.pack.as_deref(), config.models.precision, &settings)?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(command(cli, config));
    // A thread stuck in a network mount must not hold up the exit.
    runtime.shutdown_background();
    ended
}

async fn command(cli: Cli, config: Config) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Engine(_) => unreachable!("it needs no runtime and has ended"),
        Command::Breaker { command } => breaker::run(&config, command).await,
        Command::Run => app::run(config).await.map(|()| ExitCode::SUCCESS),
        Command::CheckConfig => {
            println!("The configuration is in order.");
            Ok(ExitCode::SUCCESS)
        }
        Command::Enroll(args) => enroll::run(&config, args).await,
        Command::Identify(args) => identify::run(&config, args).await,
        Command::Status(args) => status::run(&config, args).await,
        Command::Eval(args) => eval::run(&config, args).await,
        Command::Bench(bench) => bench::run(&config, bench).await,
    }
}

/// The daemon logs what its level says; a command only what went wrong, its answers are on standard output.
fn log_to_stderr(level: &str, daemon: bool, engine: bool) {
    let level = if daemon { level } else { "warn" };
    // rumqttc logs what our connection says in words of its own.
    let filter = EnvFilter::new(format!("{level},rumqttc=error,tract_core=error,tract_linalg=error"));
    let format = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // The journal has its own clock, and so has the daemon that passes its engine's lines on.
    if engine || std::env::var_os("JOURNAL_STREAM").is_some() {
        format.without_time().with_ansi(false).init();
    } else {
        format.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();
    }
}

/// An engine in the command's own process, for measuring.
async fn own_engine(config: &Config) -> anyhow::Result<Engine> {
    let (models, device, settings) = (config.models.clone(), config.engine.device, app::engine_settings(config));
    let engine = tokio::task::spawn_blocking(move || {
        let pack = load_pack(models.pack.as_deref())?;
        Engine::load(pack, models.precision, device, &settings)
    });
    Ok(engine.await.context("loading the engine panicked")??)
}

/// Engine processes of the command's own, for as long as it runs; nothing about them is kept.
struct OwnEngines {
    guard: Guard,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
    _sockets: TempDir,
}

impl OwnEngines {
    async fn start(config: &Config) -> anyhow::Result<Self> {
        let folder = config.models.pack.clone();
        let pack = tokio::task::spawn_blocking(move || load_pack(folder.as_deref())).await??;
        let sockets = tempfile::tempdir().context("no folder for the engine's socket")?;
        let settings = app::guard_settings(config, sockets.path());
        let guard = Guard::new(settings, Arc::new(pack), Health::default(), None);
        let stop = CancellationToken::new();
        let running = tokio::spawn(guard.clone().run(stop.clone()));
        let engines = Self { guard, stop, running, _sockets: sockets };
        engines.guard.started().await.map_err(|why| anyhow!(why))?;
        Ok(engines)
    }

    async fn stop(self) {
        self.stop.cancel();
        // It only takes the engines down; a panic there changes no answer.
        let _ = self.running.await;
    }
}
