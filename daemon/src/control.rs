//! The control socket: HTTP on a unix socket in the state folder, for the command line of the same
//! board.
//!
//! Every user who may open the socket may change things; the LAN never reaches these routes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::BodyExt;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use percent_encoding::utf8_percent_encode;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use crate::api::request::QUERY_VALUE;
use crate::http_server::{ACCEPT_AGAIN, HEAD};
use crate::people::{EnrolmentReport, Forgotten, Imported, People, Restored};
use crate::problem::Problem;
use crate::sources::upload::{Loaded, Uploads};
use crate::status::health::{Condition, Health};
use crate::store::PersonChange;
use crate::web::auth::Access;

/// Time that a command waits for an engine that is still loading.
const ENGINE_WAIT: Duration = Duration::from_secs(60);

/// Simultaneous connections of commands.
const MOST: usize = 64;

/// Returns the path of a state folder's socket.
pub fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// Everything that the control routes need.
#[derive(Clone)]
pub struct Control {
    /// Adds people, changes and erases them.
    pub people: People,
    /// Spools pictures that come with a request.
    pub uploads: Uploads,
    /// Holds the administrator's token.
    pub access: Access,
}

/// Builds the routes that change things.
pub fn router(control: Control) -> Router {
    Router::new()
        .route("/control/enroll", post(enroll))
        .route("/control/token", post(token))
        .route("/control/names", get(strange_names))
        .route("/control/people/id", get(number))
        .route("/control/people/rename", post(rename))
        .route("/control/people/merge", post(merge))
        .route("/control/people/forget", post(forget))
        .with_state(control)
}

#[derive(Serialize, Deserialize)]
struct EnrollQuery {
    person: String,
    name: String,
    anyway: bool,
}

async fn enroll(
    State(control): State<Control>,
    Query(query): Query<EnrollQuery>,
    request: Request,
) -> Result<Json<EnrolmentReport>, Problem> {
    if tokio::time::timeout(ENGINE_WAIT, control.people.loaded())
        .await
        .is_err()
    {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the engine is not up; kithd status says why",
        ));
    }
    let picture = control
        .uploads
        .receive(request, Some(query.name))
        .await?
        .picture()?;
    let name = picture.name.clone();
    let admission = control.people.engines.admit().await?;
    // The memory is reserved until the picture is enrolled.
    let Loaded {
        bytes,
        memory: _memory,
    } = control.uploads.load(picture).await?;
    control
        .people
        .enroll(&admission, &query.person, &name, bytes, query.anyway)
        .await
        .map(Json)
        .map_err(|error| failed(&error))
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
    State(control): State<Control>,
    Json(question): Json<TokenQuestion>,
) -> Result<Json<TokenAnswer>, Problem> {
    let asked = tokio::task::spawn_blocking(move || control.access.token(question.replace)).await;
    let failed = |error: String| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error);
    let token = asked
        .map_err(|panic| failed(panic.to_string()))?
        .map_err(|error| failed(error.to_string()))?;
    Ok(Json(TokenAnswer { token }))
}

/// Returns the names under which the board was asked that are not its own, for the doctor.
async fn strange_names(State(control): State<Control>) -> Json<Vec<String>> {
    Json(control.access.strange_names())
}

/// People as a command names them.
#[derive(Serialize, Deserialize)]
struct Names {
    person: String,
    /// The new name, or the person that the first is merged into.
    other: Option<String>,
}

async fn number(
    State(control): State<Control>,
    Query(names): Query<Names>,
) -> Result<Json<i64>, Problem> {
    named(&control, &names.person).await.map(Json)
}

async fn rename(
    State(control): State<Control>,
    Query(names): Query<Names>,
) -> Result<Json<()>, Problem> {
    let id = named(&control, &names.person).await?;
    let name = names.other.unwrap_or_default();
    let renaming = control.people.rename(id, &name);
    changed(renaming.await.map_err(|error| failed(&error))?)
}

async fn merge(
    State(control): State<Control>,
    Query(names): Query<Names>,
) -> Result<Json<()>, Problem> {
    let id = named(&control, &names.person).await?;
    let into = named(&control, names.other.as_deref().unwrap_or_default()).await?;
    let merging = control.people.merge(id, into);
    changed(merging.await.map_err(|error| failed(&error))?)
}

async fn forget(
    State(control): State<Control>,
    Query(names): Query<Names>,
) -> Result<Json<Forgotten>, Problem> {
    let name = names.person.clone();
    let forgetting = control.people.forget(&name);
    let forgotten = forgetting.await.map_err(|error| failed(&error))?;
    forgotten
        .map(Json)
        .ok_or_else(|| unknown_person(&names.person))
}

async fn named(control: &Control, name: &str) -> Result<i64, Problem> {
    control
        .people
        .store
        .person_named(name.into())
        .await?
        .ok_or_else(|| unknown_person(name))
}

fn unknown_person(name: &str) -> Problem {
    Problem::not_found(format!(
        "nobody is enrolled as {name}; kithd people shows everybody"
    ))
}

fn changed(changed: PersonChange) -> Result<Json<()>, Problem> {
    match changed {
        PersonChange::Done => Ok(Json(())),
        PersonChange::NotFound => Err(Problem::not_found("there is no such person any more")),
        PersonChange::Refused(why) => Err(Problem::new(StatusCode::CONFLICT, why)),
    }
}

fn failed(error: &anyhow::Error) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"))
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

/// A command's connection to the running daemon.
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Connects; `None` when no daemon runs on this state folder.
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
    pub async fn enroll(
        &self,
        person: &str,
        name: &str,
        picture: Vec<u8>,
        anyway: bool,
    ) -> anyhow::Result<EnrolmentReport> {
        let anyway = if anyway { "true" } else { "false" };
        let uri = uri(
            "/control/enroll",
            &[("person", person), ("name", name), ("anyway", anyway)],
        );
        self.request(hyper::Method::POST, &uri, picture).await
    }

    /// Renames a person.
    pub async fn rename(&self, person: &str, name: &str) -> anyhow::Result<()> {
        let uri = uri(
            "/control/people/rename",
            &[("person", person), ("other", name)],
        );
        self.request(hyper::Method::POST, &uri, Vec::new()).await
    }

    /// Merges one person into another.
    pub async fn merge(&self, person: &str, into: &str) -> anyhow::Result<()> {
        let uri = uri(
            "/control/people/merge",
            &[("person", person), ("other", into)],
        );
        self.request(hyper::Method::POST, &uri, Vec::new()).await
    }

    /// Erases a person.
    pub async fn forget(&self, person: &str) -> anyhow::Result<Forgotten> {
        self.request(
            hyper::Method::POST,
            &uri("/control/people/forget", &[("person", person)]),
            Vec::new(),
        )
        .await
    }

    /// Writes a backup of everything; fails if it is not complete.
    pub async fn backup(&self, to: &mut tokio::fs::File) -> anyhow::Result<u64> {
        self.save("/v1/backup", to)
            .await
            .context("the backup is incomplete; kithd's log says why")
    }

    /// Writes all people, or one, as a file for another board.
    pub async fn export(
        &self,
        person: Option<&str>,
        to: &mut tokio::fs::File,
    ) -> anyhow::Result<u64> {
        let Some(name) = person else {
            return self.save("/v1/people/export", to).await;
        };
        let id: i64 = self
            .get(&uri("/control/people/id", &[("person", name)]))
            .await?;
        self.save(
            &uri("/v1/people/export", &[("person", &id.to_string())]),
            to,
        )
        .await
    }

    /// Saves the response of an API route to a file.
    pub async fn save(&self, uri: &str, to: &mut tokio::fs::File) -> anyhow::Result<u64> {
        let mut body = self.send(hyper::Method::GET, uri, Body::empty()).await?;
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame
                .context("the daemon closed the connection before the end")?
                .into_data()
            else {
                continue;
            };
            to.write_all(&data).await?;
            bytes += data.len() as u64;
        }
        Ok(bytes)
    }

    /// Sends DELETE to a route and returns its answer.
    pub async fn delete(&self, uri: &str) -> anyhow::Result<serde_json::Value> {
        let answer = self.send(hyper::Method::DELETE, uri, Body::empty()).await?;
        let body = answer.collect().await?.to_bytes();
        Ok(if body.is_empty() {
            serde_json::Value::Null
        } else {
            serde_json::from_slice(&body)?
        })
    }

    /// Replaces the board's data by a backup.
    pub async fn restore(&self, from: tokio::fs::File, bytes: u64) -> anyhow::Result<Restored> {
        self.give(hyper::Method::PUT, "/v1/backup", from, bytes)
            .await
    }

    /// Adds the people of a file.
    pub async fn import(&self, from: tokio::fs::File, bytes: u64) -> anyhow::Result<Imported> {
        self.give(hyper::Method::POST, "/v1/people/import", from, bytes)
            .await
    }

    async fn give<T>(
        &self,
        method: hyper::Method,
        uri: &str,
        from: tokio::fs::File,
        bytes: u64,
    ) -> anyhow::Result<T>
    where
        T: serde::de::DeserializeOwned,
    {
        // No more than announced, even if the file grows meanwhile.
        let from = from.take(bytes);
        let body = Body::from_stream(ReaderStream::with_capacity(from, 64 << 10));
        let answer = self.send_sized(method, uri, Some(bytes), body).await?;
        Ok(serde_json::from_slice(&answer.collect().await?.to_bytes())?)
    }

    /// Sends POST to a route of the page's API.
    pub async fn post<T: serde::de::DeserializeOwned>(
        &self,
        uri: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        self.request(hyper::Method::POST, uri, serde_json::to_vec(body)?)
            .await
    }

    /// Sends GET to a route of the page's API.
    pub async fn get<T: serde::de::DeserializeOwned>(&self, uri: &str) -> anyhow::Result<T> {
        self.request(hyper::Method::GET, uri, Vec::new()).await
    }

    async fn request<T>(&self, method: hyper::Method, uri: &str, body: Vec<u8>) -> anyhow::Result<T>
    where
        T: serde::de::DeserializeOwned,
    {
        let answer = self.send(method, uri, body.into()).await?;
        Ok(serde_json::from_slice(&answer.collect().await?.to_bytes())?)
    }

    async fn send(
        &self,
        method: hyper::Method,
        uri: &str,
        body: Body,
    ) -> anyhow::Result<hyper::body::Incoming> {
        self.send_sized(method, uri, None, body).await
    }

    /// Sends a request and returns the body of a successful answer.
    async fn send_sized(
        &self,
        method: hyper::Method,
        uri: &str,
        bytes: Option<u64>,
        body: Body,
    ) -> anyhow::Result<hyper::body::Incoming> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .context("the daemon does not answer on its control socket")?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // The connection makes progress only while it is polled beside the request; it ends with
        // the answer.
        tokio::spawn(connection);
        let mut request = hyper::Request::builder();
        if let Some(bytes) = bytes {
            request = request.header(hyper::header::CONTENT_LENGTH, bytes);
        }
        let request = request
            .method(method)
            .uri(uri)
            .header(hyper::header::HOST, "localhost")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(body)?;
        let response = sender
            .send_request(request)
            .await
            .context("the daemon closed the connection")?;
        let status = response.status();
        if !status.is_success() {
            let body = response.into_body().collect().await?.to_bytes();
            let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            bail!(
                "the daemon answers {status}: {}",
                problem["detail"].as_str().unwrap_or("no reason given")
            );
        }
        Ok(response.into_body())
    }
}

fn uri(path: &str, query: &[(&str, &str)]) -> String {
    let mut uri = format!("{path}?");
    for (key, value) in query {
        uri.push_str(key);
        uri.push('=');
        uri.extend(utf8_percent_encode(value, QUERY_VALUE));
        uri.push('&');
    }
    uri.trim_end_matches('&').to_string()
}
