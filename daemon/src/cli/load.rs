//! Load on a temporary daemon in its own folder: the rate at which it accepts pictures, and its
//! memory. Bytes written to disk are measured by `writes`.
//!
//! Every request goes to the loopback address of the daemon started here, a bounded number of
//! times.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use futures_util::StreamExt;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::config::Config;
use crate::domain::wall_clock_ms;
use crate::engine_process::load_pack;
use crate::store::{Size, fill};

/// Most messages published ahead of their acceptance: mosquitto drops messages beyond its queue of
/// 1 000.
const AHEAD: usize = 500;

/// Arguments of `kithd bench intake`.
#[derive(Debug, clap::Args)]
pub struct Intake {
    /// Requests of each measurement
    #[arg(long, default_value_t = 2000)]
    requests: usize,
    /// Concurrent HTTP clients of the second measurement
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Broker for the MQTT measurement, for example mqtt://127.0.0.1:1883; without one it is left
    /// out
    #[arg(long)]
    broker: Option<String>,
    /// Answers as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `kithd bench memory`.
#[derive(Debug, clap::Args)]
pub struct Memory {
    /// Pictures to recognise
    #[arg(long, default_value_t = 200)]
    pictures: usize,
    /// People in the gallery
    #[arg(long, default_value_t = 0)]
    people: i64,
    /// Answers as JSON
    #[arg(long)]
    json: bool,
}

/// Submits paths by HTTP from one and from many clients, and by MQTT from one publisher; each is
/// committed with FULL.
pub async fn intake(config: &Config, args: Intake) -> anyhow::Result<()> {
    let mut daemon = Daemon::start(config, args.broker.as_deref()).await?;
    let mut rows = Vec::new();
    for clients in [1, args.clients] {
        let before = daemon.commits().await?;
        let begun = Instant::now();
        let each = args.requests.div_ceil(clients);
        let work = (0..clients).map(|client| post_paths(&daemon.address, client, each));
        for done in futures_util::future::join_all(work).await {
            done?;
        }
        let accepted = each * clients;
        rows.push((
            format!("HTTP, {clients} clients"),
            accepted,
            begun.elapsed(),
            daemon.commits().await? - before,
        ));
    }
    if let Some(broker) = &args.broker {
        let before = daemon.commits().await?;
        let begun = Instant::now();
        daemon.publish_paths(broker, args.requests).await?;
        rows.push((
            "MQTT, 1 publisher, QoS 1".into(),
            args.requests,
            begun.elapsed(),
            daemon.commits().await? - before,
        ));
    }
    daemon.stop().await?;
    let per_second = |accepted: usize, took: Duration| accepted as f64 / took.as_secs_f64();
    if args.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(name, accepted, took, commits)| {
                json!({ "name": name, "accepted": accepted, "per_second": per_second(*accepted, *took),
                        "accepted_per_commit": *accepted as f64 / *commits as f64 })
            })
            .collect();
        println!("{}", json!(rows));
    } else {
        for (name, accepted, took, commits) in rows {
            println!(
                "{name:26} {accepted} accepted, {:8.0}/s, {:5.1} accepted per commit",
                per_second(accepted, took),
                accepted as f64 / commits as f64
            );
        }
    }
    Ok(())
}

/// Uploads of the second measurement of memory, and their size.
const UPLOADS: usize = 60;
const UPLOAD_BYTES: usize = 20 << 20;

/// Measures PSS of the daemon idle with its engine loaded, and the maximum while it recognises;
/// then the maximum during large uploads, each without its last byte, and the PSS 10 s after they
/// broke off.
pub async fn memory(config: &Config, args: Memory, picture: Vec<u8>) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    if args.people > 0 {
        let size = Size {
            images: 0,
            faces: 0,
            people: args.people,
        };
        let pack = load_pack(&config.models).map_err(|error| anyhow!(error))?;
        fill(folder.path(), size, pack.space(), wall_clock_ms())?;
    }
    let mut daemon = Daemon::start_in(config, None, folder.path(), None).await?;
    let engine = daemon.wait_for_engine().await?;
    let idle = settled(&daemon).await?;
    let address = daemon.address.clone();
    let uploads = (0..UPLOADS).map(|_| begin_upload(&address, &picture));
    let mut uploads = std::pin::pin!(futures_util::future::try_join_all(uploads));
    let mut uploading = 0;
    let uploads = loop {
        uploading = uploading.max(daemon.pss_kib()?);
        if let Ok(begun) = tokio::time::timeout(Duration::from_millis(50), &mut uploads).await {
            break begun?;
        }
    };
    // Time to read the data that is still in the sockets.
    tokio::time::sleep(Duration::from_secs(2)).await;
    uploading = uploading.max(daemon.pss_kib()?);
    drop(uploads);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let after = daemon.pss_kib()?;
    let mut client = connect(&daemon.address).await?;
    for _ in 0..args.pictures {
        request(&mut client, "POST", "/v1/images", picture.clone()).await?;
    }
    let mut most = 0;
    loop {
        most = most.max(daemon.pss_kib()?);
        let status = request(&mut client, "GET", "/v1/status", Vec::new()).await?;
        if status["counts"]["processed"].as_u64() == Some(args.pictures as u64) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    daemon.stop().await?;
    let mib = |kib: u64| kib as f64 / 1024.0;
    if args.json {
        let (uploading, after) = (mib(uploading), mib(after));
        println!(
            "{}",
            json!({ "engine": engine, "idle_mib": mib(idle), "at_work_mib": mib(most),
                    "uploading_mib": uploading, "after_uploads_mib": after })
        );
    } else {
        println!(
            "{engine}: PSS idle {:.1} MiB, at work {:.1} MiB ({} pictures, {} people)",
            mib(idle),
            mib(most),
            args.pictures,
            args.people
        );
        println!(
            "{UPLOADS} uploads of {} MiB under way: {:.1} MiB; 10 s after: {:.1} MiB",
            UPLOAD_BYTES >> 20,
            mib(uploading),
            mib(after)
        );
    }
    Ok(())
}

/// Waits until memory has stayed the same for five seconds, and returns it (PSS, KiB). After its
/// first start the engine measures its precisions, then starts again with the best of them.
async fn settled(daemon: &Daemon) -> anyhow::Result<u64> {
    let mut first = daemon.pss_kib()?;
    let mut since = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = daemon.pss_kib()?;
        if now.abs_diff(first) > 1024 {
            (first, since) = (now, Instant::now());
        } else if since.elapsed() > Duration::from_secs(5) {
            return Ok(now);
        }
    }
}

/// Sends a picture of the largest size except for its last byte.
async fn begin_upload(address: &str, picture: &[u8]) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "POST /v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: {UPLOAD_BYTES}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(picture).await?;
    let zeros = vec![0; 64 << 10];
    let mut left = UPLOAD_BYTES.saturating_sub(picture.len() + 1);
    while left > 0 {
        let sent = left.min(zeros.len());
        stream.write_all(&zeros[..sent]).await?;
        left -= sent;
    }
    Ok(stream)
}

/// A daemon in a state folder of its own on a free port.
pub struct Daemon {
    child: tokio::process::Child,
    /// Address of its HTTP server.
    pub address: String,
    device: String,
    settings: Vec<String>,
    _folder: Option<tempfile::TempDir>,
}

/// Bytes written by the daemon and its children since each began.
pub struct Written {
    /// Written to disks, as the kernel counts: pages of the page cache made dirty.
    pub written: u64,
    /// Passed to write(2) and the like, for any file or socket.
    pub passed: u64,
}

impl Daemon {
    async fn start(config: &Config, broker: Option<&str>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let daemon = Self::start_in(config, broker, folder.path(), None).await?;
        Ok(Self {
            _folder: Some(folder),
            ..daemon
        })
    }

    /// Starts a daemon with this state folder, which reads pictures below `root`.
    pub async fn start_in(
        config: &Config,
        broker: Option<&str>,
        state_dir: &Path,
        root: Option<&Path>,
    ) -> anyhow::Result<Self> {
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
        let mut command = command(&settings)?;
        let child = command
            .arg("run")
            .spawn()
            .context("the daemon could not be started")?;
        let daemon = Self {
            child,
            address,
            device,
            settings,
            _folder: None,
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
    pub fn command(&self) -> anyhow::Result<tokio::process::Command> {
        command(&self.settings)
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

    /// Returns the number of commits to disk so far, from the metrics.
    pub async fn commits(&self) -> anyhow::Result<u64> {
        let mut client = connect(&self.address).await?;
        let text = send(&mut client, "GET", "/metrics", Vec::new()).await?;
        let text = String::from_utf8_lossy(&text);
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("kithd_store_commits_total "));
        Ok(line
            .context("the metrics show no kithd_store_commits_total")?
            .trim()
            .parse::<f64>()? as u64)
    }

    /// Publishes paths and waits until as many rows are accepted.
    async fn publish_paths(&self, broker: &str, count: usize) -> anyhow::Result<()> {
        let settings =
            kith_mqtt::Settings::new(broker.parse()?, format!("{}-publisher", self.device));
        let (publisher, _deliveries, _state, connection) = kith_mqtt::connect(settings);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = tokio::spawn(connection.run(async {
            let _ = stopped.await;
        }));
        publisher.connected().await?;
        let topic = format!("kithd/{}/image/post", self.device);
        let accepted = |status: &Value| {
            ["pending", "processing", "processed", "failed"]
                .iter()
                .filter_map(|state| status["counts"][state].as_u64())
                .sum::<u64>()
        };
        let mut client = connect(&self.address).await?;
        let before = accepted(&request(&mut client, "GET", "/v1/status", Vec::new()).await?);
        let mut done = 0;
        while done < count {
            let chunk = AHEAD.min(count - done);
            let mut sent = futures_util::stream::iter(done..done + chunk)
                .map(|n| {
                    let payload =
                        json!({ "path": format!("/unknown_images/mqtt/{n}.jpg") }).to_string();
                    publisher.publish(kith_mqtt::Message {
                        topic: topic.clone(),
                        payload: payload.into_bytes(),
                        ..kith_mqtt::Message::default()
                    })
                })
                .buffered(64);
            while let Some(published) = sent.next().await {
                published?;
            }
            done += chunk;
            let mut rounds = 0;
            while accepted(&request(&mut client, "GET", "/v1/status", Vec::new()).await?)
                < before + done as u64
            {
                rounds += 1;
                if rounds > 6000 {
                    bail!("not all published paths were accepted within a minute");
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        let _ = stop.send(());
        running.await?;
        Ok(())
    }

    fn pss_kib(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for pid in self.family()? {
            // A process that ended after it was listed has no memory; one that is being forgotten
            // has an empty file.
            let rollup =
                std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
            let kib = pss.and_then(|rest| rest.split_whitespace().next());
            sum += kib.map_or(Ok(0), str::parse::<u64>)?;
        }
        Ok(sum)
    }

    /// Returns the bytes written so far by all its processes.
    pub fn written(&self) -> anyhow::Result<Written> {
        written(&self.family()?)
    }

    /// Returns the process numbers of the daemon and its children.
    fn family(&self) -> anyhow::Result<Vec<u32>> {
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

fn command(settings: &[String]) -> anyhow::Result<tokio::process::Command> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command
        .args(settings)
        .kill_on_drop(true)
        .stderr(Stdio::null());
    Ok(command)
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

async fn post_paths(address: &str, client: usize, count: usize) -> anyhow::Result<()> {
    let mut connection = connect(address).await?;
    for n in 0..count {
        let body = json!({ "path": format!("/unknown_images/{client}/{n}.jpg") }).to_string();
        request(&mut connection, "POST", "/image/post", body.into_bytes()).await?;
    }
    Ok(())
}

/// Opens an HTTP connection.
pub async fn connect(address: &str) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // The connection ends with its sender, at the end of the measurement.
    tokio::spawn(connection);
    Ok(sender)
}

/// Sends a request and returns the JSON of the answer; an error status is an error.
pub async fn request(
    client: &mut SendRequest<Full<Bytes>>,
    method: &str,
    uri: &str,
    body: Vec<u8>,
) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(
        &send(client, method, uri, body).await?,
    )?)
}

async fn send(
    client: &mut SendRequest<Full<Bytes>>,
    method: &str,
    uri: &str,
    body: Vec<u8>,
) -> anyhow::Result<Bytes> {
    let request = hyper::Request::builder()
        .method(method)
        .uri(uri)
        .header(hyper::header::HOST, "127.0.0.1")
        .body(Full::new(Bytes::from(body)))?;
    client.ready().await?;
    let response = client.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        bail!(
            "{method} {uri} was answered with {status}: {}",
            String::from_utf8_lossy(&body)
        );
    }
    Ok(body)
}
