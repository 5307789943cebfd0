//! The control socket: `/v1` and the page on a unix socket in the state folder, for the command line
//! of the same board, which `client` is. The token is shown here only.
//!
//! Every user who may open the socket may change things; the LAN never reaches it.

mod client;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
pub use client::{Client, unknown_person};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::http_server::{ACCEPT_AGAIN, HEAD, WriteTimeout};
use crate::problem::Problem;
use crate::status::health::{Condition, Health};
use crate::web::auth::Access;

/// Simultaneous connections of commands.
const MOST: usize = 64;

/// Returns the path of a state folder's socket.
pub fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// Builds the routes that only commands of this board have; all others are those of the LAN.
pub fn router(access: Access) -> Router {
    Router::new()
        .route("/control/token", post(token))
        .route("/control/names", get(strange_names))
        .with_state(access)
}

/// The request of `kithd token`.
#[derive(Serialize, Deserialize)]
pub struct TokenQuestion {
    /// Replaces the token first.
    pub replace: bool,
}

/// The answer to `kithd token`.
#[derive(Serialize, Deserialize)]
pub struct TokenAnswer {
    /// The token as clients send it.
    pub token: String,
}

async fn token(
    State(access): State<Access>,
    Json(question): Json<TokenQuestion>,
) -> Result<Json<TokenAnswer>, Problem> {
    let asked = tokio::task::spawn_blocking(move || access.token(question.replace)).await;
    let failed = |error: String| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error);
    let token = asked
        .map_err(|panic| failed(panic.to_string()))?
        .map_err(|error| failed(error.to_string()))?;
    Ok(Json(TokenAnswer { token }))
}

/// Returns the names under which the board was asked that are not its own, for the doctor.
async fn strange_names(State(access): State<Access>) -> Json<Vec<String>> {
    Json(access.strange_names())
}

/// Serves the socket until stopped. A socket left by a killed daemon is replaced: this process
/// holds the state folder's lock.
pub async fn serve(
    state_dir: PathBuf,
    routes: Router,
    health: Health,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let path = socket(&state_dir);
    let listener = match bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            let text = format!(
                "commands cannot reach this daemon: {}: {error}",
                path.display()
            );
            tracing::error!("{text}");
            health.set("control", Condition::Degraded, text);
            stop.cancelled().await;
            return Ok(());
        }
    };
    let (places, open) = (Arc::new(Semaphore::new(MOST)), GracefulShutdown::new());
    let accepted = async || {
        // The semaphore is never closed. Further connections wait in the kernel's backlog.
        let place = Arc::clone(&places).acquire_owned().await;
        (place, listener.accept().await)
    };
    while let Some((place, stream)) = stop.run_until_cancelled(accepted()).await {
        let Ok((stream, _)) = stream else {
            tokio::time::sleep(ACCEPT_AGAIN).await;
            continue;
        };
        let service = TowerToHyperService::new(routes.clone());
        // Any request may be refused before it is read to its end, so each connection lingers.
        let unread = Arc::new(AtomicBool::new(true));
        let stream = WriteTimeout::new(stream, unread, Arc::default());
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let serving = open.watch(serving);
        tokio::spawn(async move {
            let _place = place;
            // A broken connection concerns only its command.
            let _ = serving.await;
        });
    }
    drop(listener);
    open.shutdown().await;
    // The file may have been removed already; either way commands now see that no daemon runs.
    let _ = std::fs::remove_file(path);
    Ok(())
}

fn bind(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}
