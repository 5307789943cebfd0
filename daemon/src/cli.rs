//! The command line: what can be typed, and which part answers.

mod bench;
mod enroll;
mod eval;
mod identify;
mod load;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::app;
use crate::config::Config;
use crate::engine::{Engine, load_pack};

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
pub async fn run(cli: Cli, config: Config) -> anyhow::Result<ExitCode> {
    log_to_stderr(&config.log_level, matches!(cli.command, Command::Run));
    match cli.command {
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
fn log_to_stderr(level: &str, daemon: bool) {
    let level = if daemon { level } else { "warn" };
    // rumqttc logs what our connection says in words of its own.
    let filter = EnvFilter::new(format!("{level},rumqttc=error,tract_core=error,tract_linalg=error"));
    let format = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // The journal has its own clock.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        format.without_time().with_ansi(false).init();
    } else {
        format.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();
    }
}

/// An engine of the command's own.
async fn own_engine(config: &Config) -> anyhow::Result<Engine> {
    let (models, settings) = (config.models.clone(), app::engine_settings(config));
    let engine = tokio::task::spawn_blocking(move || {
        let pack = load_pack(models.pack.as_deref())?;
        Engine::load(pack, models.precision, settings)
    });
    Ok(engine.await.context("loading the engine panicked")??)
}
