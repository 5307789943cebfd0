//! A child process of this program, an engine or a camera: starting it, passing on its log,
//! watching and killing it; and, in the child, ending together with the daemon. Talking to the
//! child and restarting it are elsewhere.

use std::ffi::OsStr;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::allocator::{self, THIS_PROGRAM};

/// Time for a child to end after it was asked to.
const FAREWELL: Duration = Duration::from_secs(1);
/// Prefix that `main` writes before a program's last error.
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

/// The exit of a process; empty while it runs.
#[derive(Default)]
struct End {
    how: String,
    /// The process's own reason for giving up.
    complaint: Option<String>,
}

impl Child {
    /// Starts this program with `arguments` and the configuration that `configuration` names.
    /// `what` is its kind, for sentences ("engine"); its lines appear in our log under `name`.
    pub fn spawn<S: AsRef<OsStr>>(
        what: &'static str,
        name: &str,
        configuration: &[String],
        arguments: impl IntoIterator<Item = S>,
        stdout: Stdio,
    ) -> Result<(Self, Option<ChildStdout>), String> {
        Self::spawn_with(what, name, configuration, arguments, [], stdout)
    }

    /// The same, with these further variables of its environment.
    pub fn spawn_with<S: AsRef<OsStr>>(
        what: &'static str,
        name: &str,
        configuration: &[String],
        arguments: impl IntoIterator<Item = S>,
        environment: impl IntoIterator<Item = (&'static str, String)>,
        stdout: Stdio,
    ) -> Result<(Self, Option<ChildStdout>), String> {
        let mut command = Command::new(THIS_PROGRAM);
        command.arg0("kithd").args(configuration).args(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // Only the daemon speaks to systemd.
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        command.envs(allocator::OF_A_CHILD).envs(environment);
        // Ctrl-C at a terminal is meant for the daemon, which lets an engine finish first.
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
                                // The process may be gone already; the wait below tells.
                                let _ = process.start_kill();
                                kill_group(pid);
                                break process.wait().await;
                            }
                            exit = process.wait() => {
                                kill_group(pid);
                                // Its last lines may still be in the pipe.
                                let _ = tokio::time::timeout(FAREWELL, async { if talking { talk.await } }).await;
                                break exit;
                            }
                        }
                    }
                };
                *end.lock() = End {
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

    /// Kills the process; [`Self::ended`] resolves when it is gone.
    pub fn kill(&self) {
        self.kill.cancel();
    }

    /// Resolves when the process is gone.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Describes how the process ended; empty while it runs.
    pub fn how(&self) -> String {
        self.end.lock().how.clone()
    }

    /// Returns the process's own reason for giving up, if it gave one.
    pub fn complaint(&self) -> Option<String> {
        self.end.lock().complaint.clone()
    }

    /// Lets the process end by itself, and kills it if it does not.
    pub async fn stop(&self) {
        drop(self.stdin.lock().take());
        if tokio::time::timeout(FAREWELL, self.ended()).await.is_err() {
            self.kill();
            // A process stuck in a driver cannot even be killed; the daemon's stop must not hang
            // with it.
            if tokio::time::timeout(FAREWELL, self.ended()).await.is_err() {
                tracing::error!(
                    "the {} process {} did not end although it was killed",
                    self.what,
                    self.pid
                );
            }
        }
    }

    /// Returns its resident memory in bytes; `None` when it is gone.
    pub fn resident_bytes(&self) -> Option<u64> {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.pid)).ok()?;
        let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }
}

/// Kills what a process has started and left behind: its group has its number.
fn kill_group(pid: u32) {
    let group = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(group) = group {
        // Usually nothing is left.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Returns the processor time of a process so far, and its group; `None` when it is gone.
pub fn cpu_and_group(pid: u32) -> Option<(Duration, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain blanks. After it: state, parent, group, …
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let ticks = number(11)? + number(12)?;
    let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    Some((
        Duration::from_secs_f64(seconds),
        u32::try_from(number(2)?).ok()?,
    ))
}

/// Copies its standard error to our log; the last line may be the reason of its end.
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
            // A line at INFO does not explain an end.
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
            // The caller reports the complaint.
            _ if line.starts_with(COMPLAINT) => tracing::debug!("{name}: {line}"),
            // Any other format: the last words of a library or a panic.
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

/// Asks the kernel to end this process when its parent dies: a stopped or stuck process reads no
/// pipe.
pub fn die_with_parent() -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .context("cannot ask for the parent's death signal")
}

/// Gives page, broker and queue priority over this process. When memory runs out, the kernel ends
/// the engine or camera rather than the daemon.
pub fn give_way() {
    // Some systems forbid it; nothing depends on it.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    let _ = rustix::process::nice(5);
}

/// Ends this process when standard input closes: the parent holds the other end as long as it
/// lives.
pub fn end_with_standard_input() {
    // The input is ignored, and an error is an end too.
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    std::process::exit(0);
}
