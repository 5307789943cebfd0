//! Load on a daemon of its own, in a folder of its own: how fast pictures are accepted, and what memory it takes.
//!
//! Every request goes to the loopback address of the daemon started here, a bounded number of times.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::StreamExt;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::config::Config;
use crate::mqtt;

/// Messages published ahead of what is accepted: mosquitto drops what it would have to queue beyond 1 000.
const AHEAD: usize = 500;

/// What can be typed.
#[derive(Debug, clap::Args)]
pub struct Intake {
    /// Requests of each measurement
    #[arg(long, default_value_t = 2000)]
    requests: usize,
    /// Concurrent HTTP clients of the second measurement
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Broker for the MQTT measurement, for example mqtt://127.0.0.1:1883; without one it is left out
    #[arg(long)]
    broker: Option<String>,
    /// Answers as JSON
    #[arg(long)]
    json: bool,
}

/// What can be typed.
#[derive(Debug, clap::Args)]
pub struct Memory {
    /// Pictures to recognise
    #[arg(long, default_value_t = 200)]
    pictures: usize,
    /// Answers as JSON
    #[arg(long)]
    json: bool,
}

/// Paths by HTTP from one and from many clients, and by MQTT from one publisher; each committed with FULL.
pub async fn intake(config: &Config, args: Intake) -> anyhow::Result<()> {
    let mut daemon = Daemon::start(config, args.broker.as_deref()).await?;
    let mut rows = Vec::new();
    for clients in [1, args.clients] {
        let before = daemon.flushes().await?;
        let begun = Instant::now();
        let each = args.requests.div_ceil(clients);
        let work = (0..clients).map(|client| post_paths(&daemon.address, client, each));
        for done in futures_util::future::join_all(work).await {
            done?;
        }
        let accepted = each * clients;
        rows.push((format!("HTTP, {clients} clients"), accepted, begun.elapsed(), daemon.flushes().await? - before));
    }
    if let Some(broker) = &args.broker {
        let before = daemon.flushes().await?;
        let begun = Instant::now();
        daemon.publish_paths(broker, args.requests).await?;
        rows.push((
            "MQTT, 1 publisher, QoS 1".into(),
            args.requests,
            begun.elapsed(),
            daemon.flushes().await? - before,
        ));
    }
    daemon.stop().await?;
    let per_second = |accepted: usize, took: Duration| accepted as f64 / took.as_secs_f64();
    if args.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(name, accepted, took, flushes)| {
                json!({ "name": name, "accepted": accepted, "per_second": per_second(*accepted, *took),
                        "accepted_per_flush": *accepted as f64 / *flushes as f64 })
            })
            .collect();
        println!("{}", json!(rows));
    } else {
        for (name, accepted, took, flushes) in rows {
            println!(
                "{name:26} {accepted} accepted, {:8.0}/s, {:5.1} accepted per flush",
                per_second(accepted, took),
                accepted as f64 / flushes as f64
            );
        }
    }
    Ok(())
}

/// PSS of the daemon idle with its engine loaded, and the most seen while it recognises.
pub async fn memory(config: &Config, args: Memory, picture: Vec<u8>) -> anyhow::Result<()> {
    let mut daemon = Daemon::start(config, None).await?;
    let engine = daemon.wait_for_engine().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = daemon.pss_kib()?;
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
        println!("{}", json!({ "engine": engine, "idle_mib": mib(idle), "at_work_mib": mib(most) }));
    } else {
        println!("{engine}: PSS idle {:.1} MiB, at work {:.1} MiB ({} pictures)", mib(idle), mib(most), args.pictures);
    }
    Ok(())
}

/// A daemon in a temporary state folder on a free port.
struct Daemon {
    child: tokio::process::Child,
    address: String,
    device: String,
    _folder: tempfile::TempDir,
}

impl Daemon {
    async fn start(config: &Config, broker: Option<&str>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        // The port is free now; nobody else on a board asks for one in the next moment.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let device = format!("bench-{port}");
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        command.arg("run").kill_on_drop(true).stderr(Stdio::null());
        let mut set = |key: &str, value: &str| {
            command.arg("--set").arg(format!("{key}={value}"));
        };
        set("state_dir", &folder.path().to_string_lossy());
        set("http.listen", &address);
        set("log.level", "error");
        set("device", &device);
        set("mqtt.enabled", if broker.is_some() { "true" } else { "false" });
        set("recognition.threads", &config.recognition.threads.to_string());
        set("intake.max_pending", "10000000");
        if let Some(broker) = broker {
            set("mqtt.url", broker);
        }
        if let Some(precision) = config.models.precision {
            set("models.precision", precision.as_str());
        }
        if let Some(pack) = &config.models.pack {
            set("models.pack", &pack.to_string_lossy());
        }
        let child = command.spawn().context("the daemon could not be started")?;
        let daemon = Self { child, address, device, _folder: folder };
        for _ in 0..100 {
            if TcpStream::connect(&daemon.address).await.is_ok() {
                return Ok(daemon);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("the daemon did not come up within 10 s")
    }

    async fn wait_for_engine(&self) -> anyhow::Result<String> {
        let mut client = connect(&self.address).await?;
        for _ in 0..600 {
            let status = request(&mut client, "GET", "/v1/status", Vec::new()).await?;
            if status["parts"]["engine"]["condition"] == "ok" {
                return Ok(status["parts"]["engine"]["text"].as_str().unwrap_or("engine").into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("the engine did not come up within 60 s")
    }

    /// Flushed commits so far, from the metrics.
    async fn flushes(&self) -> anyhow::Result<u64> {
        let mut client = connect(&self.address).await?;
        let text = send(&mut client, "GET", "/metrics", Vec::new()).await?;
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find_map(|line| line.strip_prefix("kithd_store_flushes_total "));
        Ok(line.context("the metrics show no kithd_store_flushes_total")?.trim().parse::<f64>()? as u64)
    }

    /// Publishes and waits until as many rows are accepted.
    async fn publish_paths(&self, broker: &str, count: usize) -> anyhow::Result<()> {
        let settings = mqtt::Settings::new(broker.parse()?, format!("{}-publisher", self.device));
        let (publisher, _deliveries, _state, connection) = mqtt::connect(settings);
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
                    let payload = json!({ "path": format!("/unknown_images/mqtt/{n}.jpg") }).to_string();
                    publisher.publish(mqtt::Message {
                        topic: topic.clone(),
                        payload: payload.into_bytes(),
                        retain: false,
                        content_type: None,
                    })
                })
                .buffered(64);
            while let Some(published) = sent.next().await {
                published?;
            }
            done += chunk;
            let mut rounds = 0;
            while accepted(&request(&mut client, "GET", "/v1/status", Vec::new()).await?) < before + done as u64 {
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
        let pid = self.child.id().context("the daemon is gone")?;
        let mut sum = 0;
        let mut family = vec![pid];
        while let Some(pid) = family.pop() {
            let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
            let kib = pss.and_then(|rest| rest.split_whitespace().next()).context("smaps_rollup has no Pss")?;
            sum += kib.parse::<u64>()?;
            // Children belong to the thread that began them.
            for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
                let children = std::fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
                family.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            }
        }
        Ok(sum)
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        let pid = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
        rustix::process::kill_process(pid.context("the daemon is gone")?, rustix::process::Signal::TERM)?;
        let status = self.child.wait().await?;
        if !status.success() {
            bail!("the daemon ended with {status}");
        }
        Ok(())
    }
}

async fn post_paths(address: &str, client: usize, count: usize) -> anyhow::Result<()> {
    let mut connection = connect(address).await?;
    for n in 0..count {
        let body = json!({ "path": format!("/unknown_images/{client}/{n}.jpg") }).to_string();
        request(&mut connection, "POST", "/image/post", body.into_bytes()).await?;
    }
    Ok(())
}

async fn connect(address: &str) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with its sender, at the end of the measurement.
    tokio::spawn(connection);
    Ok(sender)
}

async fn request(
    client: &mut SendRequest<Full<Bytes>>,
    method: &str,
    uri: &str,
    body: Vec<u8>,
) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(&send(client, method, uri, body).await?)?)
}

async fn send(client: &mut SendRequest<Full<Bytes>>, method: &str, uri: &str, body: Vec<u8>) -> anyhow::Result<Bytes> {
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
        bail!("{method} {uri} was answered with {status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(body)
}
