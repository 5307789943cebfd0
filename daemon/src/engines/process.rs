//! The engine as a child process: started, and waited for until it serves. Not for calling it, nor
//! for deciding when to start it again; `crate::child` is what it has in common with other
//! processes.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kith_vision::{Device, Precision};

use crate::child::Child;
use crate::engines::client::Client;

/// How often a starting engine is asked whether it is there.
const LOOK: Duration = Duration::from_millis(20);

/// How to start an engine.
#[derive(Debug, Clone)]
pub struct ChildSettings {
    /// Where the networks run.
    pub device: Device,
    /// Its socket.
    pub socket: PathBuf,
    /// Arguments that give it this daemon's configuration.
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
    // One that was killed leaves its socket; connecting to it must fail until the new one listens.
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
