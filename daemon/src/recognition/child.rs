//! The engine as a child process: started, watched, killed. Not for calling it, nor for deciding when to start it again.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kith_vision::{Device, Precision};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{ChildStderr, ChildStdin, Command};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::client::Client;

/// How often a starting engine is asked whether it is there.
const LOOK: Duration = Duration::from_millis(20);
/// For an engine that was told to go.
const FAREWELL: Duration = Duration::from_secs(1);
/// The running program, even when an upgrade has replaced its file.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// How to start an engine.
#[derive(Debug, Clone)]
pub struct ChildSettings {
    /// Where the networks run.
    pub device: Device,
    /// Its socket.
    pub socket: PathBuf,
    /// Arguments that give it this daemon's configuration.
    pub configuration: Vec<String>,
    /// Time to load and warm the models.
    pub start_deadline: Duration,
}

/// A running engine process. Dropping it kills the process.
pub struct Child {
    /// Its process number.
    pub pid: u32,
    kill: CancellationToken,
    ended: CancellationToken,
    how: Arc<Mutex<String>>,
    stdin: Mutex<Option<ChildStdin>>,
    _watch: AbortOnDropHandle<()>,
}

impl Child {
    /// Starts an engine and waits until it serves; the error says why it does not.
    pub async fn start(
        settings: &ChildSettings,
        precision: Option<Precision>,
        time_precisions: bool,
    ) -> Result<(Self, Client), String> {
        // One that was killed leaves its socket; connecting to it must fail until the new one listens.
        let _ = std::fs::remove_file(&settings.socket);
        let mut command = Command::new(THIS_PROGRAM);
        command.arg0("kithd").args(&settings.configuration).args(["engine", "--supervised", "--device"]);
        command.arg(settings.device.to_string()).arg("--socket").arg(&settings.socket);
        if let Some(precision) = precision {
            command.arg("--precision").arg(precision.to_string());
        }
        if time_precisions {
            command.arg("--time-precisions");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        // The daemon alone speaks to systemd.
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        // Ctrl-C at a terminal is for the daemon, which lets the engine finish first.
        command.process_group(0);
        let mut process = command.spawn().map_err(|error| format!("the engine process cannot be started: {error}"))?;
        let (stdin, stderr) = (process.stdin.take(), process.stderr.take());
        let (kill, ended) = (CancellationToken::new(), CancellationToken::new());
        let how = Arc::new(Mutex::new(String::new()));
        let pid = process.id().unwrap_or_default();
        let watch = tokio::spawn({
            let (kill, ended, how) = (kill.clone(), ended.clone(), Arc::clone(&how));
            async move {
                let mut last_words = String::new();
                let exit = {
                    let talk = pass_on(stderr, &mut last_words);
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
                *how.lock().unwrap_or_else(PoisonError::into_inner) = in_words(exit, &last_words);
                ended.cancel();
            }
        });
        let child = Self { pid, kill, ended, how, stdin: Mutex::new(stdin), _watch: AbortOnDropHandle::new(watch) };
        let client = tokio::select! {
            client = tokio::time::timeout(settings.start_deadline, serving(&settings.socket)) => client,
            () = child.ended.cancelled() => return Err(child.how()),
        };
        match client {
            Ok(client) => Ok((child, client)),
            Err(_) => {
                child.kill.cancel();
                Err(format!("it was not ready within {:?} and was killed", settings.start_deadline))
            }
        }
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
        self.how.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets it end by itself, and kills it when it does not.
    pub async fn stop(&self) {
        drop(self.stdin.lock().unwrap_or_else(PoisonError::into_inner).take());
        if tokio::time::timeout(FAREWELL, self.ended()).await.is_err() {
            self.kill();
            // One that hangs in the driver cannot even be killed; it must not hold the guard as well.
            if tokio::time::timeout(FAREWELL, self.ended()).await.is_err() {
                tracing::error!("the engine process {} does not end, not even when killed", self.pid);
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

async fn serving(socket: &Path) -> Client {
    loop {
        if let Ok(client) = Client::to_socket(socket).await
            && client.ready().await.is_ok()
        {
            return client;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What it says on standard error goes to our log; the last line may be the reason of its end.
async fn pass_on(stderr: Option<ChildStderr>, last_words: &mut String) {
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
                tracing::info!("engine: {}", text.trim_start());
                continue;
            }
            "DEBUG" | "TRACE" => {
                tracing::debug!("engine: {}", text.trim_start());
                continue;
            }
            "ERROR" => tracing::error!("engine: {}", text.trim_start()),
            "WARN" => tracing::warn!("engine: {}", text.trim_start()),
            // Not of our log: a library's last words, or a panic's.
            _ => tracing::warn!("engine: {line}"),
        }
        *last_words = line.to_string();
    }
}

fn in_words(exit: std::io::Result<ExitStatus>, last_words: &str) -> String {
    use std::os::unix::process::ExitStatusExt;
    let how = match exit {
        Ok(status) => match (status.signal(), status.code()) {
            (Some(signal), _) => format!("the engine process was ended by signal {signal}"),
            (_, Some(code)) => format!("the engine process ended with exit code {code}"),
            _ => "the engine process ended".into(),
        },
        Err(error) => format!("the engine process is lost: {error}"),
    };
    match last_words.strip_prefix("kithd: ").unwrap_or(last_words) {
        "" => how,
        words => format!("{how}: {words}"),
    }
}
