//! `kithd-bench intake`: accepted paths per second by HTTP and MQTT, each committed to disk.

use std::time::{Duration, Instant};

use anyhow::bail;
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::Subject;
use crate::daemon::Daemon;
use crate::requests::{connect, request};

/// Most messages published ahead of their acceptance: mosquitto drops messages beyond its queue of
/// 1 000.
const AHEAD: usize = 500;

/// Arguments of `kithd-bench intake`.
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

/// Submits paths by HTTP from one and from many clients, and by MQTT from one publisher; each is
/// committed with FULL.
pub async fn intake(subject: &Subject, args: Intake) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut daemon = Daemon::start(subject, args.broker.as_deref(), folder.path(), None).await?;
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
        publish_paths(&daemon, broker, args.requests).await?;
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

async fn post_paths(address: &str, client: usize, count: usize) -> anyhow::Result<()> {
    let mut connection = connect(address).await?;
    for n in 0..count {
        let body = json!({ "path": format!("/unknown_images/{client}/{n}.jpg") }).to_string();
        request(&mut connection, "POST", "/image/post", body.into_bytes()).await?;
    }
    Ok(())
}

/// Publishes paths and waits until as many rows are accepted.
async fn publish_paths(daemon: &Daemon, broker: &str, count: usize) -> anyhow::Result<()> {
    let settings =
        kith_mqtt::Settings::new(broker.parse()?, format!("{}-publisher", daemon.device));
    let (publisher, _deliveries, _state, connection) = kith_mqtt::connect(settings);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(connection.run(async {
        let _ = stopped.await;
    }));
    publisher.connected().await?;
    let topic = format!("kithd/{}/image/post", daemon.device);
    let accepted = |status: &Value| {
        ["pending", "processing", "processed", "failed"]
            .iter()
            .filter_map(|state| status["counts"][state].as_u64())
            .sum::<u64>()
    };
    let mut client = connect(&daemon.address).await?;
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
