//! `kithd engine`: loads the models, confines itself, and serves pictures on a unix socket until
//! its parent is gone. It runs before any runtime exists, because the confinement binds only
//! threads made afterwards.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use kith_vision::{Device, Pack, Precision, Vision};
use tokio_stream::wrappers::UnixListenerStream;

use super::confine::{Profile, confine};
use super::service::{Service, Timed};
use super::{Engine, EngineSettings, load_pack};
use crate::child;
use crate::config::Models;
use crate::rpc::recognizer::PrecisionTiming;
use crate::rpc::recognizer::recognizer_server::RecognizerServer;
use crate::rpc::{CONNECTION_WINDOW, ENVELOPE, FRAME, STREAM_WINDOW};

/// Arguments of `kithd engine`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Device of the networks: cpu or cuda
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Unix socket to serve on; an existing one is replaced
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Overrides models.precision
    #[arg(long, value_name = "int8|float32|float16")]
    precision: Option<Precision>,
    /// Times every precision on this board while it serves, for Describe
    #[arg(long)]
    time_precisions: bool,
    /// Ends when standard input closes or the parent dies
    #[arg(long)]
    supervised: bool,
}

/// Serves until the parent is gone, or for ever without one.
pub fn run(args: &Args, models: &Models, settings: &EngineSettings) -> anyhow::Result<()> {
    if args.supervised {
        child::die_with_parent()?;
    }
    child::give_way();
    let pack = load_pack(models)?;
    // The timing comes later, when files are no longer accessible.
    let kept = if args.time_precisions {
        Some(pack.in_memory()?)
    } else {
        None
    };
    let engine = Engine::load(
        pack,
        args.precision.or(models.precision),
        args.device,
        settings,
    )?;
    let listener =
        bind(&args.socket).with_context(|| format!("cannot serve on {}", args.socket.display()))?;
    let profile = match args.device {
        Device::Cpu => Profile::Cpu,
        Device::Cuda => Profile::Cuda {
            cache: cache_folder(),
        },
    };
    // After this nothing can be opened, and new threads are confined too.
    let confinement = confine(&profile);
    tracing::info!(
        "serving {} on {}, {confinement}",
        engine.description(),
        args.socket.display()
    );
    if args.supervised {
        std::thread::spawn(child::end_with_standard_input);
    }
    let timed = Arc::new(OnceLock::<Timed>::new());
    if let Some(pack) = kept {
        let (engine, timed) = (engine.clone(), Arc::clone(&timed));
        std::thread::spawn(move || time_precisions(&engine, &pack, &timed));
    }
    let service = RecognizerServer::new(Service::new(engine, confinement.to_string(), timed))
        .max_decoding_message_size(settings.limits.max_bytes.saturating_add(ENVELOPE))
        .max_encoding_message_size(usize::MAX);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(settings.threads + 1)
        // On a GPU each thread makes its own stream at its first picture, so threads are kept.
        .thread_keep_alive(Duration::from_secs(u32::MAX.into()))
        .build()?;
    runtime.block_on(async {
        let incoming = UnixListenerStream::new(tokio::net::UnixListener::from_std(listener)?);
        tonic::transport::Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .add_service(service)
            .serve_with_incoming(incoming)
            .await?;
        anyhow::Ok(())
    })
}

/// Binds the socket, replacing one left by a dead engine; only its owner may connect to it.
fn bind(socket: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Finds the best precision on this board, while pictures are served already.
fn time_precisions(engine: &Engine, pack: &Pack, timed: &OnceLock<Timed>) {
    let current = engine.precision();
    let found = match engine.compare(pack) {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!("the precisions could not be timed, {current} stays: {error}");
            let _ = timed.set(Timed {
                timings: Vec::new(),
                advised: current.to_string(),
            });
            return;
        }
    };
    for (precision, error) in &found.failed {
        tracing::warn!("{precision} cannot run here: {error}");
    }
    let advised = found.better.as_ref().map_or(current, Vision::precision);
    let timings = found.trials.iter().map(|trial| PrecisionTiming {
        precision: trial.precision.to_string(),
        micros: trial.median.as_micros() as u64,
        within_tolerance: trial.within_tolerance,
    });
    // Only this thread sets it.
    let _ = timed.set(Timed {
        timings: timings.collect(),
        advised: advised.to_string(),
    });
}

/// Returns the folder in which tract keeps compiled CUDA kernels.
fn cache_folder() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(home)
        .unwrap_or_else(|| PathBuf::from(".cache"))
}
