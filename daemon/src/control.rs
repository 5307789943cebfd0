//! The control socket: HTTP on a unix socket in the state folder, for the command line of the same board.
//!
//! Who may open the socket may change things; the LAN never reaches these routes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::health::{Condition, Health};
use crate::problem::Problem;
use crate::recognition::{Enroller, ReadyWatch, Report};
use crate::web::auth::Access;

/// How long a command waits for an engine that is still loading.
const ENGINE_WAIT: Duration = Duration::from_secs(60);

/// Where the socket of a state folder is.
pub fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// What the control routes work with.
#[derive(Clone)]
pub struct Control {
    /// Adds people.
    pub enroller: Enroller,
    /// The engine, once it is up.
    pub ready: ReadyWatch,
    /// Largest picture.
    pub max_bytes: usize,
    /// Has the administrator's token.
    pub access: Access,
}

/// Routes that change things.
pub fn router(control: Control) -> Router {
    Router::new()
        .route("/control/enroll", post(enroll))
        .route("/control/token", post(token))
        .layer(DefaultBodyLimit::max(control.max_bytes))
        .with_state(control)
}

#[derive(Serialize, Deserialize)]
struct EnrollQuery {
    person: String,
    name: String,
}

async fn enroll(
    State(control): State<Control>,
    Query(query): Query<EnrollQuery>,
    picture: Bytes,
) -> Result<Json<Report>, Problem> {
    let mut ready = control.ready.clone();
    let up = match tokio::time::timeout(ENGINE_WAIT, ready.wait_for(Option::is_some)).await {
        Ok(Ok(up)) => up.clone(),
        _ => None,
    };
    let Some(up): Option<Arc<_>> = up else {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the engine is not up; kithd status says why"));
    };
    // On its own: a command broken off between commit and gallery must not leave the person unknown.
    let enrolling =
        tokio::spawn(async move { control.enroller.enroll(&up, &query.person, &query.name, picture.into()).await });
    let report = enrolling.await.unwrap_or_else(|panic| Err(panic.into()));
    report.map(Json).map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")))
}

/// What `kithd token` asks for.
#[derive(Serialize, Deserialize)]
pub struct TokenQuestion {
    /// The token is to be replaced first.
    pub replace: bool,
}

/// And what it is told.
#[derive(Serialize, Deserialize)]
pub struct TokenAnswer {
    /// As it is sent by clients.
    pub token: String,
}

async fn token(
    State(control): State<Control>,
    Json(question): Json<TokenQuestion>,
) -> Result<Json<TokenAnswer>, Problem> {
    let asked = tokio::task::spawn_blocking(move || control.access.token(question.replace)).await;
    let failed = |error: String| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error);
    let token = asked.map_err(|panic| failed(panic.to_string()))?.map_err(|error| failed(error.to_string()))?;
    Ok(Json(TokenAnswer { token }))
}

/// Serves the socket until stopped. A socket left by a killed daemon is replaced: the state folder's lock is held.
pub async fn serve(state_dir: PathBuf, routes: Router, health: Health, stop: CancellationToken) -> anyhow::Result<()> {
    let path = socket(&state_dir);
    let listener = match bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            let text = format!("commands cannot reach this daemon: {}: {error}", path.display());
            tracing::error!("{text}");
            health.set("control", Condition::Degraded, text);
            stop.cancelled().await;
            return Ok(());
        }
    };
    axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await?;
    // Gone already if somebody cleaned up; either way commands now see that no daemon runs.
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

/// A command's connection to the running daemon.
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// `None` when no daemon runs on this state folder.
    pub async fn connect(state_dir: &Path) -> anyhow::Result<Option<Self>> {
        let socket = socket(state_dir);
        match UnixStream::connect(&socket).await {
            Ok(_) => Ok(Some(Self { socket })),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                bail!(
                    "{} may not be opened by this user; run the command with sudo or join the group of that file",
                    socket.display()
                )
            }
            Err(_) => Ok(None),
        }
    }

    /// Enrols a picture in the running daemon.
    pub async fn enroll(&self, person: &str, name: &str, picture: Vec<u8>) -> anyhow::Result<Report> {
        let mut uri = String::from("/control/enroll?");
        for (key, value) in [("person", person), ("name", name)] {
            uri.push_str(key);
            uri.push('=');
            value.bytes().for_each(|byte| uri.push_str(&format!("%{byte:02X}")));
            uri.push('&');
        }
        self.request(hyper::Method::POST, uri.trim_end_matches('&'), picture).await
    }

    /// Tells a route of the page's API something.
    pub async fn post<T: serde::de::DeserializeOwned>(&self, uri: &str, body: &impl Serialize) -> anyhow::Result<T> {
        self.request(hyper::Method::POST, uri, serde_json::to_vec(body)?).await
    }

    /// A route of the page's API.
    pub async fn get<T: serde::de::DeserializeOwned>(&self, uri: &str) -> anyhow::Result<T> {
        self.request(hyper::Method::GET, uri, Vec::new()).await
    }

    async fn request<T>(&self, method: hyper::Method, uri: &str, body: Vec<u8>) -> anyhow::Result<T>
    where
        T: serde::de::DeserializeOwned,
    {
        let stream = UnixStream::connect(&self.socket).await.context("the daemon went away")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = hyper::Request::builder()
            .method(method)
            .uri(uri)
            .header(hyper::header::HOST, "localhost")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
        };
        // The connection only makes progress while it is polled beside the request.
        let (status, body) = tokio::select! {
            answer = exchange => answer?,
            broken = connection => bail!("the daemon hung up: {:?}", broken.err()),
        };
        if !status.is_success() {
            let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            bail!("the daemon answers {status}: {}", problem["detail"].as_str().unwrap_or("no reason given"));
        }
        Ok(serde_json::from_slice(&body)?)
    }
}
