//! `kithd notify`: the targets of notifications and their state, and a test of one. Tests without
//! the daemon as well.

use std::process::ExitCode;

use anyhow::bail;
use serde_json::{Value, json};

use crate::config::Config;
use crate::control::Client;
use crate::domain::Moment;
use crate::sinks;

/// Arguments of `kithd notify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Lists the targets and their state
    List {
        /// Answers as JSON
        #[arg(long)]
        json: bool,
    },
    /// Sends a test notification to a target, and says what happened
    Test {
        /// Name of the target
        name: String,
    },
}

/// Executes a subcommand; without one, lists the targets.
pub async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&config.state_dir).await?;
    match args.what.unwrap_or(What::List { json: false }) {
        What::List { json } => list(config, client, json).await,
        What::Test { name } => test(config, client, &name).await,
    }
}

async fn list(config: &Config, client: Option<Client>, json: bool) -> anyhow::Result<ExitCode> {
    let running = client.is_some();
    let list: Value = match client {
        Some(client) => client.get("/v1/notify").await?,
        None => {
            let target = |target: &crate::config::Notify| {
                json!({
                    "name": target.name,
                    "service": target.service.as_str(),
                    "address": target.address.to_string(),
                })
            };
            json!({ "targets": config.notify.iter().map(target).collect::<Vec<_>>() })
        }
    };
    if json {
        println!("{list}");
        return Ok(ExitCode::SUCCESS);
    }
    let targets = list["targets"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if targets.is_empty() {
        println!("There are no targets; docs/notifications.md says how to add one.");
    }
    for target in targets {
        let text = |key: &str| target[key].as_str().unwrap_or("?");
        println!(
            "{}: {} at {}",
            text("name"),
            text("service"),
            text("address")
        );
        if !running {
            continue;
        }
        let count = |key: &str| target[key].as_u64().unwrap_or(0);
        let last = match target["last_sent_ms"].as_i64() {
            Some(ms) => format!(", the last at {}", Moment::from_ms(ms).text),
            None => String::new(),
        };
        println!(
            "  since the start {} sent{last}, {} refused, {} given up; {} wait",
            count("sent"),
            count("refused"),
            count("expired"),
            count("waiting")
        );
        if let Some(trouble) = target["trouble"].as_str() {
            println!("  {trouble}");
        }
    }
    if !running && !targets.is_empty() {
        println!("kithd is not running, so nothing is sent.");
    }
    Ok(ExitCode::SUCCESS)
}

async fn test(config: &Config, client: Option<Client>, name: &str) -> anyhow::Result<ExitCode> {
    let configured = config.notify.iter().find(|target| target.name == name);
    let text = match (client, configured) {
        (_, None) => {
            let names: Vec<_> = config
                .notify
                .iter()
                .map(|target| target.name.as_str())
                .collect();
            match names.is_empty() {
                true => bail!("the configuration has no section [[notify]]"),
                false => bail!(
                    "there is no target {name:?}; there are: {}",
                    names.join(", ")
                ),
            }
        }
        (Some(client), Some(_)) => {
            let uri = format!("/v1/notify/{name}/test");
            let answer: Value = client.post(&uri, &json!({})).await?;
            answer["text"].as_str().unwrap_or("?").to_owned()
        }
        (None, Some(target)) => {
            let tested = sinks::notify::test(target, config.device.clone()).await;
            tested.map_err(anyhow::Error::msg)?
        }
    };
    println!("{name}: {text}.");
    Ok(ExitCode::SUCCESS)
}
