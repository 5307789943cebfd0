//! `kithd token`: shows the administrator's token, or replaces it, whether the daemon runs or not.

use std::process::ExitCode;

use serde_json::Value;

use crate::config::Config;
use crate::control::{Client, TokenAnswer, TokenQuestion};
use crate::state_dir::StateDir;
use crate::web::auth;

/// Arguments of `kithd token`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Replaces the token: the old one and all sessions become invalid
    #[arg(long)]
    new: bool,
}

/// Prints only the token on standard output, and where it is used on standard error.
pub async fn run(config: &Config, args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(client) = Client::connect(&config.state_dir).await? {
        let question = TokenQuestion { replace: args.new };
        let TokenAnswer { token } = client.post("/control/token", &question).await?;
        println!("{token}");
        let status: Value = client.get("/v1/status").await?;
        eprintln!(
            "for the page and API: {}",
            status["parts"]["page"]["text"]
                .as_str()
                .unwrap_or("not up yet")
        );
    } else {
        let _held = StateDir::hold(&config.state_dir)?;
        println!("{}", auth::token(&config.state_dir, args.new)?);
    }
    Ok(ExitCode::SUCCESS)
}
