//! `kithd rejected`: MQTT messages that were refused and are kept. Needs the running daemon, which
//! processes a message that is sent again.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::config::Config;
use crate::control::Client;
use crate::domain::Moment;

/// Arguments of `kithd rejected`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Lists messages, newest first
    List {
        /// Answers as JSON
        #[arg(long)]
        json: bool,
    },
    /// Shows a message: its topic, why it was refused, and how it begins
    Show {
        /// Its number in the list
        id: u64,
    },
    /// Writes the bytes of a message to a new file
    Save {
        /// Its number in the list
        id: u64,
        /// File to write
        file: PathBuf,
    },
    /// Processes a message again: it becomes an image, or is refused again
    Retry {
        /// Its number in the list
        id: u64,
    },
    /// Drops one message, or all
    Drop {
        /// Its number in the list
        #[arg(required_unless_present = "all")]
        id: Option<u64>,
        /// Drops all messages
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
}

/// Executes a subcommand; without one, lists the messages.
pub async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&config.state_dir).await?;
    let client =
        client.context("kithd is not running; start it first: sudo systemctl start kithd")?;
    match args.what.unwrap_or(What::List { json: false }) {
        What::List { json } => list(&client, json).await?,
        What::Show { id } => show(&client.get(&format!("/v1/rejected/{id}")).await?, true),
        What::Save { id, file } => save(&client, id, file).await?,
        What::Retry { id } => {
            let taken: Value = client
                .post(&format!("/v1/rejected/{id}/retry"), &json!({}))
                .await?;
            let ids: Vec<_> = taken["ids"]
                .as_array()
                .into_iter()
                .flatten()
                .map(Value::to_string)
                .collect();
            println!("The message was accepted as image {}.", ids.join(", "));
        }
        What::Drop { id: Some(id), .. } => {
            client.delete::<()>(&format!("/v1/rejected/{id}")).await?;
            println!("Dropped.");
        }
        What::Drop { id: None, .. } => {
            let dropped: Value = client.delete("/v1/rejected").await?;
            println!("{} dropped.", dropped["dropped"]);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &Client, as_json: bool) -> anyhow::Result<()> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page: Value = client
            .get(&format!("/v1/rejected?limit=500{cursor}"))
            .await?;
        all.extend(page["messages"].as_array().cloned().unwrap_or_default());
        match page["next_cursor"].as_i64() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    if as_json {
        println!("{}", json!({ "messages": all }));
        return Ok(());
    }
    all.iter().for_each(|message| show(message, false));
    let status: Value = client.get("/v1/status").await?;
    let counts = &status["counts"];
    println!(
        "{} kept, {} bytes; dropped for lack of space: {}",
        all.len(),
        counts["rejected_bytes"],
        counts["rejected_dropped"]
    );
    Ok(())
}

fn show(message: &Value, beginning: bool) {
    let text = |name: &str| message[name].as_str().unwrap_or("");
    let received = Moment::from_ms(message["received_at_ms"].as_i64().unwrap_or(0)).text;
    let kind = message["content_type"]
        .as_str()
        .map_or_else(String::new, |kind| format!(", sent as {kind:?}"));
    let whole = if message["whole"] == true {
        ""
    } else {
        ", only its beginning is kept"
    };
    println!(
        "#{} {received} {:?} {} bytes{kind}{whole}",
        message["id"],
        text("topic"),
        message["bytes"]
    );
    println!("    {}", text("reason"));
    if beginning {
        // Escaped: the text may hold control characters, and this may be a terminal.
        println!("    it begins: {:?}", text("beginning"));
    }
}

async fn save(client: &Client, id: u64, file: PathBuf) -> anyhow::Result<()> {
    let mut to = tokio::fs::File::create_new(&file)
        .await
        .with_context(|| file.display().to_string())?;
    let saved = async {
        let bytes = client
            .save(&format!("/v1/rejected/{id}/payload"), &mut to)
            .await?;
        to.flush().await?;
        anyhow::Ok(bytes)
    };
    match saved.await {
        Ok(bytes) => println!("{bytes} bytes are in {}.", file.display()),
        Err(error) => {
            // The file holds an incomplete answer.
            let _ = tokio::fs::remove_file(&file).await;
            bail!(error)
        }
    }
    Ok(())
}
