//! A process of this program beside the daemon, an engine or a camera: started, its words passed
//! on, watched, killed. And its own side of that: how it ends with the daemon. Not for talking to
//! it, nor for deciding when to start it again.

use std::ffi::OsStr;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::allocator;

/// For one that was told to go.
const FAREWELL: Duration = Duration::from_secs(1);
/// The running program, even when an upgrade has replaced its file.
pub const THIS_PROGRAM: &str = "/proc/self/exe";
/// What a program's own complaint begins with: `main` writes it.
const COMPLAINT: &str = "kithd: ";

/// A running process. Dropping it kills the process.
pub struct Child {
    /// Its process number.
    pub pid: u32,
    what: &'static str,
    kill: CancellationToken,
    ended: CancellationToken,
    end: Arc<Mutex<End>>,
    stdin: Mutex<Option<ChildStdin>>,
    _watch: AbortOnDropHandle<()>,
}

/// How it ended; empty while it runs.
#[derive(Default)]
struct End {
    how: String,
    /// Why it gave up, in its own words.
    complaint: Option<String>,
}

impl Child {
    /// Starts this program with `arguments`, on the configuration that `configuration` names.
    /// `what` is its kind, for sentences ("engine"); its lines are in our log under `name`.
    pub fn spawn<S: AsRef<OsStr>>(
        what: &'static str,
        name: &str,
        configuration: &[String],
        arguments: impl IntoIterator<Item = S>,
        stdout: Stdio,
    ) -> Result<(Self, Option<ChildStdout>), String> {
        let mut command = Command::new(THIS_PROGRAM);
        command.arg0("kithd").args(configuration).args(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // The daemon alone speaks to systemd.
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        command.envs(allocator::OF_A_CHILD);
        // Ctrl-C at a terminal is for the daemon, which lets an engine finish first.
        command.process_group(0);
        let mut process = command
            .spawn()
            .map_err(|error| format!("the {what} process cannot be started: {error}"))?;
        let (stdin, stdout, stderr) = (
            process.stdin.take(),
            process.stdout.take(),
            process.stderr.take(),
        );
        let (kill, ended) = (CancellationToken::new(), CancellationToken::new());
        let end = Arc::new(Mutex::new(End::default()));
        let pid = process.id().unwrap_or_default();
        let watch = tokio::spawn({
            let (kill, ended, end, name) = (
                kill.clone(),
                ended.clone(),
                Arc::clone(&end),
                name.to_string(),
            );
            async move {
                let mut last_words = String::new();
                let exit = {
                    let talk = pass_on(&name, stderr, &mut last_words);
                    tokio::pin!(talk);
                    let mut talking = true;
                    loop {
                        tokio::select! {
                            () = &mut talk, if talking => talking = false,
                            () = kill.cancelled() => {
                                // Gone already, or gone now; the wait tells.
                                let _ = process.start_kill();
                                break process.wait().await;
                            }
                            exit = process.wait() => {
                                // What it said last may still be in the pipe.
                                let _ = tokio::time::timeout(FAREWELL, async { if talking { talk.await } }).await;
                                break exit;
                            }
                        }
                    }
                };
                *end.lock().unwrap_or_else(PoisonError::into_inner) = End {
                    how: in_words(what, exit, &last_words),
                    complaint: last_words.strip_prefix(COMPLAINT).map(String::from),
                };
                ended.cancel();
            }
        });
        let stdin = Mutex::new(stdin);
        Ok((
            Self {
                pid,
                what,
                kill,
                ended,
                end,
                stdin,
                _watch: AbortOnDropHandle::new(watch),
            },
            stdout,
        ))
    }

    /// Kills it; [`Self::ended`] tells when it is gone.
    pub fn kill(&self) {
        self.kill.cancel();
    }

    /// Resolves when it is gone.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// How it ended, in words; empty while it runs.
    pub fn how(&self) -> String {
        self.end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .how
            .clone()
    }

    /// Why it gave up, in its own words, if it did.
    pub fn complaint(&self) -> Option<String> {
        self.end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .complaint
            .clone()
    }

    /// Lets it end by itself, and kills it when it does not.
    pub async fn stop(&self) {
        drop(
            self.stdin
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        if tokio::time::timeout(FAREWELL, self.ended()).await.is_err() {
            self.kill();
            // One that hangs in a driver cannot even be killed; it must not hold whoever stops it
            // as well.
            if tokio::time::timeout(FAREWELL, self.ended()).await.is_err() {
                tracing::error!(
                    "the {} process {} does not end, not even when killed",
                    self.what,
                    self.pid
                );
            }
        }
    }

    /// Memory it holds in RAM, in bytes; `None` when it is gone.
    pub fn resident_bytes(&self) -> Option<u64> {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.pid)).ok()?;
        let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }
}

/// What it says on standard error goes to our log; the last line may be the reason of its end.
async fn pass_on(name: &str, stderr: Option<ChildStderr>, last_words: &mut String) {
    let Some(stderr) = stderr else { return };
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let (level, text) = line.split_once(' ').unwrap_or(("", line));
        match level {
            // What it says while all is well explains no end.
            "INFO" => {
                tracing::info!("{name}: {}", text.trim_start());
                continue;
            }
            "DEBUG" | "TRACE" => {
                tracing::debug!("{name}: {}", text.trim_start());
                continue;
            }
            "ERROR" => tracing::error!("{name}: {}", text.trim_start()),
            "WARN" => tracing::warn!("{name}: {}", text.trim_start()),
            // Its complaint, which whoever started it will tell.
            _ if line.starts_with(COMPLAINT) => tracing::debug!("{name}: {line}"),
            // Not of our log: a library's last words, or a panic's.
            _ => tracing::warn!("{name}: {line}"),
        }
        *last_words = line.to_string();
    }
}

fn in_words(what: &str, exit: std::io::Result<ExitStatus>, last_words: &str) -> String {
    use std::os::unix::process::ExitStatusExt;
    let how = match exit {
        Ok(status) => match (status.signal(), status.code()) {
            (Some(signal), _) => format!("the {what} process was ended by signal {signal}"),
            (_, Some(code)) => format!("the {what} process ended with exit code {code}"),
            _ => format!("the {what} process ended"),
        },
        Err(error) => format!("the {what} process is lost: {error}"),
    };
    match last_words.strip_prefix(COMPLAINT).unwrap_or(last_words) {
        "" => how,
        words => format!("{how}: {words}"),
    }
}

/// Has the kernel end this process when the one that started it dies: one that is stopped or stuck
/// reads no pipe.
pub fn die_with_parent() -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .context("cannot ask for the parent's death signal")
}

/// Page, broker and queue come before pictures, and when memory runs out a picture is lost rather
/// than the daemon.
pub fn give_way() {
    // Not everywhere allowed, nowhere needed.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    let _ = rustix::process::nice(5);
}

/// Ends this process when standard input closes: the parent holds the other end for as long as it
/// lives.
pub fn end_with_standard_input() {
    // What comes is of no interest, an error is an end too.
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    std::process::exit(0);
}
