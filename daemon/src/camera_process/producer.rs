//! Frame producers other than V4L2: a process that writes JPEGs to a pipe, which the camera process
//! reads.
//!
//! [`start`] is the camera process's side. [`run`] is the process itself: it gives up kithd's files,
//! new privileges, memory beyond a limit and half of the cores, and becomes the program that reads
//! the camera. Cameras with HTTP it reads itself.
//!
//! Its standard error is read by the camera process and never passed on as it is: programs repeat
//! addresses with passwords (`trouble`).

mod http;
mod programs;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdout, Command, Stdio};

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getpgrp, getpid, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::allocator::THIS_PROGRAM;
use crate::child;
use crate::config::{self, Config, Producer};
use crate::engine_process::{Profile, confine};
use http::HttpCamera;

/// Environment variable with the section of a camera that is in no configuration. It may contain a
/// password, which an argument would show to every user of the board.
pub const SECTION: &str = "KITHD_CAMERA";
/// Environment variables with the login for an operator's program.
const USER: &str = "KITHD_CAMERA_USERNAME";
const PASSWORD: &str = "KITHD_CAMERA_PASSWORD";

/// Arguments of `kithd camera run` and `kithd camera produce`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Name of the camera in the configuration
    #[arg(long)]
    pub name: String,
    /// Number of starts that brought no frame: each tries another way
    #[arg(long, default_value_t = 0)]
    pub attempt: u32,
}

/// Starts the process that writes the frames of this camera; returns its output and its words. It
/// ends with this process.
pub fn start(config: &Config, args: &Args) -> anyhow::Result<(ChildStdout, ChildStderr)> {
    guard()?;
    let mut process = Command::new(THIS_PROGRAM)
        .arg0("kithd")
        .args(&config.arguments)
        .args(["camera", "produce", "--name", &args.name])
        .args(["--attempt", &args.attempt.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("the frame producer cannot be started")?;
    let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
    stdout
        .zip(stderr)
        .context("the frame producer has no output")
}

/// Starts a process that kills the whole group once this process is gone. The producer's own signal
/// does not arrive where Landlock knows signals: this process, once confined, sends none. And the
/// programs that a producer starts never get one. The daemon kills the group too, unless it was
/// killed itself.
fn guard() -> anyhow::Result<()> {
    if getpgrp() != getpid() {
        // Started by hand: the group is not ours.
        return Ok(());
    }
    let guard = Command::new("/bin/sh")
        .args(["-c", "read _; kill -KILL 0"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("/bin/sh, which ends the frame producer, cannot be started")?;
    // Its input stays open until this process has ended, its last words included.
    std::mem::forget(guard.stdin);
    Ok(())
}

/// Becomes the program that writes this camera's frames, or writes them itself if the camera speaks
/// HTTP; returns only when that has failed.
pub fn run(config: &Config, camera: &config::Camera, args: &Args) -> anyhow::Result<()> {
    child::die_with_parent()?;
    child::give_way();
    leave_half_of_the_cores();
    let login = match &camera.producer {
        Producer::V4l2 { .. } | Producer::Libcamera { .. } | Producer::Argus { .. } => Ok(None),
        Producer::Rtsp { access, .. }
        | Producer::Http { access, .. }
        | Producer::Command { access, .. } => access.login(),
    };
    let login = login.map_err(anyhow::Error::msg)?;
    if let Producer::Http { url, trust, .. } = &camera.producer {
        let max_pixels = config.recognition.max_pixels;
        let limit = camera.max_frame_bytes(max_pixels);
        let max_bytes = config.intake.max_bytes.min(limit);
        let source = HttpCamera::new(url, login, trust.as_ref(), camera, max_bytes)?;
        give_up(config, camera)?;
        return http::run(source);
    }
    let program = programs::of(camera, login.as_ref(), args.attempt)?;
    give_up(config, camera)?;
    let mut command = Command::new(&program.path);
    command.args(&program.arguments).env_remove(SECTION);
    for name in ["CREDENTIALS_DIRECTORY", "STATE_DIRECTORY"] {
        command.env_remove(name);
    }
    if let (Producer::Command { .. }, Some(login)) = (&camera.producer, &login) {
        command
            .env(USER, &login.user)
            .env(PASSWORD, &login.password);
    }
    if let Some(input) = program.input {
        command.stdin(full_pipe(&input)?);
    }
    let error = command.exec();
    bail!("{} cannot be started: {error}", program.path.display())
}

/// Gives up kithd's files, new privileges and memory beyond the limit.
fn give_up(config: &Config, camera: &config::Camera) -> anyhow::Result<()> {
    let limit = Some(camera.memory);
    setrlimit(
        Resource::Data,
        Rlimit {
            current: limit,
            maximum: limit,
        },
    )
    .context("the memory of the frame producer cannot be limited")?;
    let confinement = confine(&Profile::Producer {
        hidden: secrets(config),
    });
    tracing::debug!("frame producer of {}: {confinement}", camera.producer);
    Ok(())
}

/// Returns a pipe's end with these bytes in it, which fit into a pipe.
fn full_pipe(bytes: &[u8]) -> anyhow::Result<Stdio> {
    let (reader, mut writer) = std::io::pipe().context("a pipe cannot be made")?;
    writer.write_all(bytes).context("a pipe cannot be filled")?;
    Ok(reader.into())
}

/// Returns the files and folders that no frame producer may read.
fn secrets(config: &Config) -> Vec<PathBuf> {
    let mut secrets = vec![
        config.state_dir.clone(),
        Path::new(config::SYSTEM_CONFIG).to_path_buf(),
    ];
    let named = config
        .arguments
        .windows(2)
        .filter(|pair| pair[0] == "--config")
        .map(|pair| PathBuf::from(&pair[1]));
    secrets.extend(named);
    secrets.extend(config.secret_files());
    secrets.extend(std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from));
    secrets
}

/// Keeps this process to the upper half of the cores, so that all producers together leave the
/// other half to the rest of kithd.
fn leave_half_of_the_cores() {
    let Ok(allowed) = sched_getaffinity(None) else {
        return;
    };
    let cores: Vec<_> = (0..CpuSet::MAX_CPU)
        .filter(|core| allowed.is_set(*core))
        .collect();
    let mut upper = CpuSet::new();
    for core in &cores[cores.len() / 2..] {
        upper.set(*core);
    }
    // Without it the producer still has the lowest priority.
    let _ = sched_setaffinity(None, &upper);
}

/// Returns where a program is installed.
pub fn installed(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.is_file());
    }
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}
