//! The engine as a child process: starts it and waits until it serves. `crate::child` has what it
//! shares with other child processes; the supervisor decides when to start it again.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kith_vision::{Device, Precision};

use crate::child::Child;
use crate::engines::client::Client;

/// Interval at which a starting engine is polled.
const LOOK: Duration = Duration::from_millis(20);

/// Settings of an engine process.
#[derive(Debug, Clone)]
pub struct ChildSettings {
    /// Device for the networks.
    pub device: Device,
    /// Path of its socket.
    pub socket: PathBuf,
    /// Arguments that pass this daemon's configuration on.
    pub configuration: Vec<String>,
    /// Time to load and warm the models.
    pub start_deadline: Duration,
}

/// Starts an engine and waits until it serves; the error says why it does not.
pub async fn start(
    settings: &ChildSettings,
    precision: Option<Precision>,
    time_precisions: bool,
) -> Result<(Child, Client), String> {
    // A killed engine leaves its socket behind. Connections must fail until the new engine listens.
    let _ = std::fs::remove_file(&settings.socket);
    let mut arguments: Vec<_> = ["engine", "--supervised", "--device"]
        .map(Into::into)
        .into();
    arguments.extend([
        settings.device.to_string().into(),
        "--socket".into(),
        settings.socket.clone().into_os_string(),
    ]);
    if let Some(precision) = precision {
        arguments.extend(["--precision".into(), precision.to_string().into()]);
    }
    if time_precisions {
        arguments.push("--time-precisions".into());
    }
    let (child, _) = Child::spawn(
        "engine",
        "engine",
        &settings.configuration,
        arguments,
        Stdio::null(),
    )?;
    let client = tokio::select! {
        client = tokio::time::timeout(settings.start_deadline, serving(&settings.socket)) => client,
        () = child.ended() => return Err(child.how()),
    };
    match client {
        Ok(client) => Ok((child, client)),
        Err(_) => {
            child.kill();
            Err(format!(
                "it was not ready within {:?} and was killed",
                settings.start_deadline
            ))
        }
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
