//! `kithd status`: shows what waits, what failed and the last results, whether the daemon runs or
//! not.

use std::process::ExitCode;

use anyhow::bail;
use serde_json::{Value, json};

use crate::config::Config;
use crate::control::Client;
use crate::store::{Store, counts, newest_images};

/// Arguments of `kithd status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Number of recent images to show
    #[arg(long, default_value_t = 10)]
    last: usize,
    /// Answers as JSON
    #[arg(long)]
    json: bool,
}

/// Shows counts, parts and the last images.
pub async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&config.state_dir).await?;
    let (live, engine): (Option<Value>, Option<Value>) = match &client {
        // There is no breaker while the model pack is being loaded.
        Some(client) => (
            Some(client.get("/v1/status").await?),
            client.get("/v1/breaker").await.ok(),
        ),
        None => (None, None),
    };
    let Some(connection) = Store::open_for_reading(&config.state_dir)? else {
        bail!(
            "there is no database in {} yet: kithd has not run with this state_dir",
            config.state_dir.display()
        );
    };
    let counts = counts(&connection)?;
    let images = newest_images(&connection, None, args.last)?;
    let disk = live
        .as_ref()
        .map_or(Value::Null, |live| live["disk"].clone());
    let parts = live
        .as_ref()
        .map_or(Value::Null, |live| live["parts"].clone());
    if args.json {
        println!(
            "{}",
            json!({
                "running": live.is_some(),
                "counts": counts,
                "disk": disk,
                "parts": parts,
                "engine": engine,
                "images": images,
            })
        );
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "kithd {}",
        if live.is_some() {
            "is running"
        } else {
            "is not running"
        }
    );
    println!(
        "images: {} pending, {} processing, {} processed, {} failed · results not sent: {} · people: {} · rejected messages: {}",
        counts.pending,
        counts.processing,
        counts.processed,
        counts.failed,
        counts.unsent,
        counts.people,
        counts.rejected_messages
    );
    if let Some(free) = disk["free_bytes"].as_u64() {
        let used = ["database", "camera", "uploads"]
            .map(|kind| disk["used_bytes"][kind].as_u64().unwrap_or(0));
        println!(
            "disk: {} MiB free, {} MiB held by kithd",
            free >> 20,
            used.iter().sum::<u64>() >> 20
        );
    }
    if let Some(engine) = engine {
        println!("circuit breaker: {}", text(&engine["sentence"]));
    }
    for (name, part) in parts.as_object().into_iter().flatten() {
        println!(
            "{name}: {}: {}",
            text(&part["condition"]),
            text(&part["text"])
        );
    }
    for image in images {
        let end = match (&image.outcome, &image.reason) {
            (Some(outcome), _) => outcome.clone(),
            (None, Some(reason)) => format!("{}: {reason}", image.state),
            (None, None) => image.state.clone(),
        };
        let distance = image
            .distance
            .map_or_else(String::new, |distance| format!(" {distance:.3}"));
        let perhaps = image.perhaps.iter().map(|name| format!("perhaps {name}"));
        let names: Vec<_> = image.persons.iter().cloned().chain(perhaps).collect();
        println!(
            "#{} {} {end} {}{distance}",
            image.id,
            image.path,
            names.join(", ")
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}
