//! A temporary daemon in its own folder: its start and stop, its memory and the bytes it writes.
//!
//! It listens on a loopback address. What is sent to it is up to each measurement.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::Subject;
use crate::requests::{connect, request, send};

/// A daemon in a state folder of its own on a free port.
pub struct Daemon {
    child: Child,
    /// Address of its HTTP server.
    pub address: String,
    /// Name of the board, the middle of its topics.
    pub device: String,
    program: PathBuf,
    settings: Vec<String>,
}

/// Bytes written by the daemon and its children since each began.
pub struct Written {
    /// Written to disks, as the kernel counts: pages of the page cache made dirty.
    pub written: u64,
    /// Passed to write(2) and the like, for any file or socket.
    pub passed: u64,
}

impl Daemon {
    /// Starts a daemon with this state folder, which reads pictures below `root`.
    pub async fn start(
        subject: &Subject,
        broker: Option<&str>,
        state_dir: &Path,
        root: Option<&Path>,
    ) -> anyhow::Result<Self> {
        Self::start_with(subject, broker, state_dir, root, &[]).await
    }

    /// The same, with these further assignments of its configuration.
    pub async fn start_with(
        subject: &Subject,
        broker: Option<&str>,
        state_dir: &Path,
        root: Option<&Path>,
        further: &[String],
    ) -> anyhow::Result<Self> {
        let config = &subject.config;
        // The port is free now, and no other program is likely to take it in the next moment.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let address = format!("127.0.0.1:{port}");
        let device = format!("bench-{port}");
        let mut settings = Vec::new();
        let mut set =
            |key: &str, value: &str| settings.extend(["--set".into(), format!("{key}={value}")]);
        set("state_dir", &state_dir.to_string_lossy());
        set("http.listen", &address);
        // The benches' requests do not name its port, as those of programs on the board would.
        set("http.open_submit", "true");
        set("log.level", "error");
        set("device", &device);
        set(
            "mqtt.enabled",
            if broker.is_some() { "true" } else { "false" },
        );
        set(
            "recognition.threads",
            &config.recognition.threads.to_string(),
        );
        set("intake.max_pending", "10000000");
        // Retention must delete nothing during the measurement.
        for (kind, all) in [
            ("images.age", "0s"),
            ("images.count", "0"),
            ("images.bytes", "0B"),
            ("thumbnails.age", "0s"),
        ] {
            set(&format!("retention.{kind}"), all);
        }
        if let Some(root) = root {
            set("intake.roots", &json!([root]).to_string());
        }
        if let Some(broker) = broker {
            set("mqtt.url", broker);
        }
        if let Some(precision) = config.models.precision {
            set("models.precision", precision.as_str());
        }
        if let Some(flip) = config.models.flip {
            set("models.flip", if flip { "true" } else { "false" });
        }
        if let Some(pack) = &config.models.pack {
            set("models.pack", &pack.to_string_lossy());
        }
        settings.extend(further.iter().flat_map(|set| ["--set".into(), set.clone()]));
        let child = command(&subject.kithd, &settings)
            .arg("run")
            .spawn()
            .with_context(|| {
                let program = subject.kithd.display();
                format!("{program} could not be started; build it, or name another with --kithd")
            })?;
        let daemon = Self {
            child,
            address,
            device,
            program: subject.kithd.clone(),
            settings,
        };
        for _ in 0..100 {
            if TcpStream::connect(&daemon.address).await.is_ok() {
                return Ok(daemon);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("the daemon did not come up within 10 s")
    }

    /// Returns a kithd command with this daemon's settings.
    pub fn command(&self) -> Command {
        command(&self.program, &self.settings)
    }

    /// Waits until its engine is up, and returns the engine's description.
    pub async fn wait_for_engine(&self) -> anyhow::Result<String> {
        let mut client = connect(&self.address).await?;
        for _ in 0..600 {
            let status = request(&mut client, "GET", "/v1/status", Vec::new()).await?;
            if status["parts"]["engine"]["condition"] == "ok" {
                return Ok(status["parts"]["engine"]["text"]
                    .as_str()
                    .unwrap_or("engine")
                    .into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("the engine did not come up within 60 s")
    }

    /// Returns the metrics.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        let mut client = connect(&self.address).await?;
        let text = send(&mut client, "GET", "/metrics", Vec::new()).await?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Returns the number of commits to disk so far, from the metrics.
    pub async fn commits(&self) -> anyhow::Result<u64> {
        let text = self.metrics().await?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("kithd_store_commits_total "));
        Ok(line
            .context("the metrics show no kithd_store_commits_total")?
            .trim()
            .parse::<f64>()? as u64)
    }

    /// Returns the memory of all its processes, pages shared among them counted once.
    pub fn pss_kib(&self) -> anyhow::Result<u64> {
        self.family()?.into_iter().map(Self::pss_of).sum()
    }

    /// Returns the memory of one process, its part of shared pages included.
    pub fn pss_of(pid: u32) -> anyhow::Result<u64> {
        // A process that ended after it was listed has no memory; one that is being forgotten has
        // an empty file.
        let rollup =
            std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib = pss.and_then(|rest| rest.split_whitespace().next());
        Ok(kib.map_or(Ok(0), str::parse::<u64>)?)
    }

    /// Returns the bytes written so far by all its processes.
    pub fn written(&self) -> anyhow::Result<Written> {
        written(&self.family()?)
    }

    /// Returns the process numbers of the daemon and its children.
    pub fn family(&self) -> anyhow::Result<Vec<u32>> {
        let mut family = vec![self.child.id().context("the daemon is gone")?];
        let mut next = 0;
        while let Some(pid) = family.get(next) {
            // The kernel lists children by the thread that started them.
            for thread in std::fs::read_dir(format!("/proc/{pid}/task"))
                .into_iter()
                .flatten()
                .flatten()
            {
                let children =
                    std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
                family.extend(
                    children
                        .split_whitespace()
                        .filter_map(|child| child.parse::<u32>().ok()),
                );
            }
            next += 1;
        }
        Ok(family)
    }

    fn terminate(&self) -> anyhow::Result<rustix::process::Pid> {
        let pid = self
            .child
            .id()
            .and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
        let pid = pid.context("the daemon is gone")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        Ok(pid)
    }

    /// Stops the daemon.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.terminate()?;
        self.ended().await
    }

    async fn ended(&mut self) -> anyhow::Result<()> {
        let status = self.child.wait().await?;
        if !status.success() {
            bail!("the daemon ended with {status}");
        }
        Ok(())
    }

    /// Stops the daemon and returns what all its processes wrote, up to its end.
    pub async fn stop_and_count(&mut self) -> anyhow::Result<Written> {
        let family = self.family()?;
        let children = written(&family[1..])?;
        let pid = self.terminate()?;
        // The ended process keeps its counters only until its status is collected.
        let ended = tokio::task::spawn_blocking(move || {
            use rustix::process::{WaitId, WaitIdOptions, waitid};
            waitid(
                WaitId::Pid(pid),
                WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
            )
        });
        ended.await??;
        let own = written(&family[..1])?;
        self.ended().await?;
        Ok(Written {
            written: own.written + children.written,
            passed: own.passed + children.passed,
        })
    }
}

fn command(program: &Path, settings: &[String]) -> Command {
    let mut command = Command::new(program);
    command
        .args(settings)
        .kill_on_drop(true)
        .stderr(Stdio::null());
    command
}

fn written(family: &[u32]) -> anyhow::Result<Written> {
    let mut sum = Written {
        written: 0,
        passed: 0,
    };
    for pid in family {
        let file = format!("/proc/{pid}/io");
        let io = std::fs::read_to_string(&file).with_context(|| file.clone())?;
        let number = |key: &str| -> anyhow::Result<u64> {
            let value = io.lines().find_map(|line| line.strip_prefix(key));
            Ok(value
                .with_context(|| format!("{file} has no {key}"))?
                .trim()
                .parse()?)
        };
        sum.written += number("write_bytes:")?;
        sum.passed += number("wchar:")?;
    }
    Ok(sum)
}
