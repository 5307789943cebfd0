//! The command line: its arguments, and the module that executes each command.

mod allow;
mod backup;
pub mod bench;
mod breaker;
mod calibrate;
mod camera;
mod describe;
mod doctor;
mod enroll;
mod eval;
mod forget;
mod identify;
mod notify;
mod people;
mod rejected;
mod status;
mod token;

use std::any::Any;
use std::panic::UnwindSafe;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::{Parser, Subcommand};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::allocator;
use crate::app;
use crate::config::Config;
use crate::control::unknown_person;
use crate::domain::{BreakerCommand, PersonId};
use crate::engine_process::{self, Engine, load_pack};
use crate::engines::{self, Engines};
use crate::people::People;
use crate::state_dir::StateDir;
use crate::status::health::Health;

/// Exit code that a shell reports for a program ended by SIGPIPE.
const EXIT_BROKEN_PIPE: u8 = 128 + 13;

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
    /// Lets the daemon read pictures below a folder, or write there too: configuration and unit, as
    /// root
    Allow(allow::Args),
    /// Turns pictures into faces on a socket; the daemon starts and stops it by itself
    Engine(engine_process::Args),
    /// Lists cameras, or takes one picture with one
    #[command(subcommand)]
    Camera(camera::Camera),
    /// Shows the circuit breaker around the engine, or sets it
    Breaker {
        /// open: stop using the engine; close: use it again now; auto: after open, test it and
        /// close if that succeeds
        command: Option<BreakerCommand>,
    },
    /// Makes people known, from pictures or a folder of known people
    Enroll(enroll::Args),
    /// Shows who is enrolled, renames a person, or makes two people one
    People(people::Args),
    /// Erases a person: pictures, embeddings, and their face and name in past results
    Forget(forget::Args),
    /// Saves the database and the enrolled pictures in one file, while the daemon runs or not
    Backup(backup::BackupArgs),
    /// Replaces everything on this board by a backup; people who were erased here stay erased
    Restore(backup::RestoreArgs),
    /// Lists MQTT messages that were refused, saves one, sends one again or drops it
    Rejected(rejected::Args),
    /// Lists the targets of notifications and their state, or sends a test to one
    Notify(notify::Args),
    /// Says who is in pictures; stores nothing and needs no daemon
    Identify(identify::Args),
    /// Checks everything that the board depends on and says what to do about it
    Doctor(doctor::Args),
    /// Shows what waits, what failed and the last results
    Status(status::Args),
    /// Shows the administrator's token for the page and the API, or replaces it
    Token(token::Args),
    /// Shows what the enrolled pictures say about the threshold, and which one to use
    Calibrate(calibrate::Args),
    /// Measures accuracy on pairs of pictures, or how well people are told from strangers
    Eval(eval::Args),
    /// Measures the speed of this board
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Writes the completion script of a shell to standard output
    Completion {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Writes the man pages into a folder, for packages
    #[command(hide = true)]
    Man {
        /// Created if it does not exist
        folder: PathBuf,
    },
}

/// Executes a command.
pub fn run(cli: Cli, config: Config) -> anyhow::Result<ExitCode> {
    if matches!(cli.command, Command::Run) {
        allocator::give_back();
    }
    let child = matches!(
        cli.command,
        Command::Engine(_) | Command::Camera(camera::Camera::Run(_) | camera::Camera::Produce(_))
    );
    log(
        &config.log_level,
        child || matches!(cli.command, Command::Run),
        child,
    );
    // The confinement of an engine or a camera process applies only to threads made afterwards, so
    // each makes its own runtime.
    if let Command::Camera(camera @ (camera::Camera::Run(_) | camera::Camera::Produce(_))) =
        &cli.command
    {
        camera::process(&config, camera)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Engine(args) = &cli.command {
        let settings = app::engine_settings(&config);
        engine_process::run(args, &config.models, &settings)?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(command(cli, config));
    // A thread stuck in a network mount must not delay the exit.
    runtime.shutdown_background();
    ended.or_else(|error| match error.downcast_ref::<std::io::Error>() {
        Some(written) if written.kind() == std::io::ErrorKind::BrokenPipe => {
            Ok(ExitCode::from(EXIT_BROKEN_PIPE))
        }
        _ => Err(error),
    })
}

/// Runs a command and ends quietly if its output is closed, as after `| head -1`: `print!` and
/// `println!` panic then.
pub fn while_somebody_reads(answer: impl FnOnce() -> ExitCode + UnwindSafe) -> ExitCode {
    let unread = |panic: &(dyn Any + Send)| {
        let text = panic.downcast_ref::<String>();
        text.is_some_and(|text| {
            text.starts_with("failed printing to std") && text.contains("Broken pipe")
        })
    };
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !unread(panic.payload()) {
            tell(panic);
        }
    }));
    match std::panic::catch_unwind(answer) {
        Ok(code) => code,
        Err(panic) if unread(&*panic) => ExitCode::from(EXIT_BROKEN_PIPE),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

async fn command(cli: Cli, config: Config) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Engine(_) => unreachable!("it needs no runtime and has ended"),
        Command::Camera(command) => camera::run(&config, command).await,
        Command::Breaker { command } => breaker::run(&config, command).await,
        Command::Run => app::run(config).await.map(|()| ExitCode::SUCCESS),
        Command::Allow(args) => allow::run(&config, cli.config.as_deref(), &args),
        Command::Completion { shell } => describe::completion(shell),
        Command::Man { folder } => describe::man(&folder),
        Command::CheckConfig => {
            println!("The configuration is in order.");
            Ok(ExitCode::SUCCESS)
        }
        Command::Enroll(args) => enroll::run(&config, args).await,
        Command::People(args) => people::run(&config, args).await,
        Command::Forget(args) => forget::run(&config, args).await,
        Command::Backup(args) => backup::save(&config, args).await,
        Command::Restore(args) => backup::restore(&config, args).await,
        Command::Rejected(args) => rejected::run(&config, args).await,
        Command::Notify(args) => notify::run(&config, args).await,
        Command::Identify(args) => identify::run(&config, args).await,
        Command::Doctor(args) => doctor::run(&config, args).await,
        Command::Status(args) => status::run(&config, args).await,
        Command::Token(args) => token::run(&config, &args).await,
        Command::Calibrate(args) => calibrate::run(&config, &args),
        Command::Eval(args) => eval::run(&config, args).await,
        Command::Bench(bench) => bench::run(&config, bench).await,
    }
}

/// Starts the log: the daemon logs at its configured level, a command only warnings and errors,
/// since its answers are on standard output.
///
/// Writes to the journal if systemd has connected standard error to it, with priorities and a field
/// KITHD_… for every value; else to standard error. The lines of an engine or a camera process go
/// to the daemon, which passes them on.
fn log(level: &str, daemon: bool, child: bool) {
    let level = if daemon { level } else { "warn" };
    // rumqttc logs connection errors that our connection reports itself.
    let filter = EnvFilter::new(format!(
        "{level},rumqttc=error,tract_core=error,tract_linalg=error"
    ));
    if !child
        && stderr_is_the_journal()
        && let Ok(journal) = tracing_journald::layer()
    {
        let journal = journal
            .with_field_prefix(Some("KITHD".into()))
            .with_syslog_identifier("kithd".into())
            .with_priority_mappings(PriorityMappings {
                info: Priority::Informational,
                ..PriorityMappings::new()
            });
        tracing_subscriber::registry()
            .with(filter)
            .with(journal)
            .init();
        return;
    }
    let format = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    if child {
        format.without_time().with_ansi(false).init();
    } else {
        format
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init();
    }
}

/// Writes the program's last error to standard error; in the journal each line is an error
/// (sd-daemon(3)).
pub fn complain(text: &str) {
    let mark = if stderr_is_the_journal() { "<3>" } else { "" };
    eprintln!("{mark}kithd: {}", text.replace('\n', &format!("\n{mark}")));
}

/// Returns true if standard error is the journal. `$JOURNAL_STREAM` names device and inode of the
/// journal's socket; a child process may inherit it although its standard error goes elsewhere
/// (systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else {
        return false;
    };
    rustix::fs::fstat(std::io::stderr())
        .is_ok_and(|stat| stream.to_string_lossy() == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Loads an engine in the command's own process, for measuring.
async fn own_engine(config: &Config) -> anyhow::Result<Engine> {
    let (models, device, settings) = (
        config.models.clone(),
        config.engine.device,
        app::engine_settings(config),
    );
    let engine = tokio::task::spawn_blocking(move || {
        let pack = load_pack(&models)?;
        Engine::load(pack, models.precision, device, &settings)
    });
    Ok(engine.await.context("loading the engine panicked")??)
}

/// Asks for confirmation at the terminal; any answer but yes changes nothing, and says so.
fn confirmed(question: &str) -> std::io::Result<bool> {
    use std::io::{BufRead, Write};
    print!("{question} [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    let yes = matches!(answer.trim().to_lowercase().as_str(), "y" | "yes");
    if !yes {
        println!("Nothing was changed.");
    }
    Ok(yes)
}

/// The gallery without a daemon: the state folder's lock, and the one who changes people in it.
async fn own_gallery(config: &Config) -> anyhow::Result<(StateDir, People)> {
    let (engines, _) = Engines::new(
        engines::Settings::of(config, &config.state_dir),
        Health::default(),
        None,
    );
    own_people(config, engines).await
}

async fn own_people(config: &Config, engines: Engines) -> anyhow::Result<(StateDir, People)> {
    let held = StateDir::hold(&config.state_dir)?;
    let (store, damaged) = crate::recovery::open(&config.state_dir).await?;
    if let Some(banner) = damaged {
        eprintln!("{banner}");
    }
    let people = People::new(store, engines, &config.state_dir, &config.device);
    Ok((held, people))
}

/// Engine processes that exist only while this command runs; nothing about them is stored.
struct OwnEngines {
    engines: Engines,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
    _sockets: TempDir,
}

impl OwnEngines {
    async fn start(config: &Config) -> anyhow::Result<Self> {
        let models = config.models.clone();
        let pack = tokio::task::spawn_blocking(move || load_pack(&models)).await??;
        let sockets = tempfile::tempdir().context("no folder for the engine's socket")?;
        let settings = engines::Settings::of(config, sockets.path());
        let (engines, supervisor) = Engines::new(settings, Health::default(), None);
        let stop = CancellationToken::new();
        let running = tokio::spawn(supervisor.run_with(Arc::new(pack), stop.clone()));
        let own = Self {
            engines,
            stop,
            running,
            _sockets: sockets,
        };
        own.engines.started().await.map_err(|why| anyhow!(why))?;
        Ok(own)
    }

    async fn stop(self) {
        self.stop.cancel();
        // This only stops the engines; a panic there changes no answer.
        let _ = self.running.await;
    }
}

/// Returns the number of the person with this name.
async fn person_id(people: &People, name: &str) -> anyhow::Result<PersonId> {
    let found = people.store.person_named(name.into()).await?;
    found.ok_or_else(|| unknown_person(name))
}
