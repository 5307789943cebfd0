//! `kithd breaker`: shows the circuit breaker's state and reason, and sends it an operator's
//! command. Needs the running daemon.

use std::process::ExitCode;

use anyhow::Context;
use serde_json::Value;

use crate::config::Config;
use crate::control::Client;
use crate::domain::BreakerCommand;

/// Sends the command to the breaker, if there is one, and shows its state.
pub async fn run(config: &Config, command: Option<BreakerCommand>) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&config.state_dir).await?;
    let client = client.context("kithd is not running, so there is no engine to guard")?;
    let now: Value = match command {
        Some(command) => {
            client
                .post("/v1/breaker", &serde_json::json!({ "command": command }))
                .await?
        }
        None => client.get("/v1/breaker").await?,
    };
    println!(
        "circuit breaker: {}",
        now["sentence"].as_str().unwrap_or("?")
    );
    Ok(ExitCode::SUCCESS)
}
