//! The command line's side of the control socket: what commands ask the running daemon by `/v1`.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use axum::http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use percent_encoding::utf8_percent_encode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::io::ReaderStream;

use super::socket;
use crate::api::request::QUERY_VALUE;
use crate::domain::PersonId;
use crate::people::{EnrolmentReport, Forgotten, Imported, Restored};

const JSON: &str = "application/json";

/// Answer of the daemon that is no success.
#[derive(Debug, thiserror::Error)]
#[error("the daemon answers {status}: {}", .problem.detail)]
struct Refused {
    status: StatusCode,
    problem: Problem,
}

#[derive(Debug, Deserialize)]
struct Problem {
    detail: String,
    /// Outcome for a picture that was not enrolled.
    report: Option<EnrolmentReport>,
}

/// Answer to an enrolment.
#[derive(Deserialize)]
struct Enrolled {
    report: EnrolmentReport,
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
            "/v1/people",
            &[("name", person), ("file_name", name), ("anyway", anyway)],
        );
        let answer = self
            .send(
                Method::POST,
                &uri,
                "application/octet-stream",
                picture.into(),
            )
            .await;
        match answer {
            Ok(answer) => read::<Enrolled>(answer).await.map(|taken| taken.report),
            Err(error) => match error.downcast_ref() {
                Some(Refused {
                    problem:
                        Problem {
                            report: Some(report),
                            ..
                        },
                    ..
                }) => Ok(report.clone()),
                _ => Err(error),
            },
        }
    }

    /// Returns the number of the person with this name.
    async fn person(&self, name: &str) -> anyhow::Result<PersonId> {
        let found: Value = self.get(&uri("/v1/people", &[("name", name)])).await?;
        let id = found["people"][0]["id"].as_i64();
        id.ok_or_else(|| unknown_person(name))
    }

    /// Renames a person.
    pub async fn rename(&self, person: &str, name: &str) -> anyhow::Result<()> {
        let uri = format!("/v1/people/{}", self.person(person).await?);
        let body = json!({ "name": name }).to_string();
        drop(self.send(Method::PATCH, &uri, JSON, body.into()).await?);
        Ok(())
    }

    /// Merges one person into another.
    pub async fn merge(&self, person: &str, into: &str) -> anyhow::Result<()> {
        let uri = format!("/v1/people/{}/merge", self.person(person).await?);
        let body = json!({ "into": self.person(into).await? }).to_string();
        drop(self.send(Method::POST, &uri, JSON, body.into()).await?);
        Ok(())
    }

    /// Erases a person.
    pub async fn forget(&self, person: &str) -> anyhow::Result<Forgotten> {
        let uri = format!("/v1/people/{}", self.person(person).await?);
        self.delete(&uri).await
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
        let id = self.person(name).await?;
        self.save(&format!("/v1/people/export?person={id}"), to)
            .await
    }

    /// Saves the response of an API route to a file.
    pub async fn save(&self, uri: &str, to: &mut tokio::fs::File) -> anyhow::Result<u64> {
        let mut body = self.send(Method::GET, uri, JSON, Body::empty()).await?;
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
    pub async fn delete<T: DeserializeOwned>(&self, uri: &str) -> anyhow::Result<T> {
        read(self.send(Method::DELETE, uri, JSON, Body::empty()).await?).await
    }

    /// Replaces the board's data by a backup.
    pub async fn restore(&self, from: tokio::fs::File, bytes: u64) -> anyhow::Result<Restored> {
        self.give(Method::PUT, "/v1/backup", from, bytes).await
    }

    /// Adds the people of a file.
    pub async fn import(&self, from: tokio::fs::File, bytes: u64) -> anyhow::Result<Imported> {
        self.give(Method::POST, "/v1/people/import", from, bytes)
            .await
    }

    async fn give<T>(
        &self,
        method: Method,
        uri: &str,
        from: tokio::fs::File,
        bytes: u64,
    ) -> anyhow::Result<T>
    where
        T: DeserializeOwned,
    {
        // No more than announced, even if the file grows meanwhile.
        let from = from.take(bytes);
        let body = Body::from_stream(ReaderStream::with_capacity(from, 64 << 10));
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(CONTENT_LENGTH, bytes)
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(body)?;
        read(self.answer(request).await?).await
    }

    /// Sends POST with JSON to a route.
    pub async fn post<T: DeserializeOwned>(
        &self,
        uri: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let body = serde_json::to_vec(body)?;
        read(self.send(Method::POST, uri, JSON, body.into()).await?).await
    }

    /// Sends GET to a route.
    pub async fn get<T: DeserializeOwned>(&self, uri: &str) -> anyhow::Result<T> {
        read(self.send(Method::GET, uri, JSON, Body::empty()).await?).await
    }

    async fn send(
        &self,
        method: Method,
        uri: &str,
        content_type: &str,
        body: Body,
    ) -> anyhow::Result<Incoming> {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(CONTENT_TYPE, content_type)
            .body(body)?;
        self.answer(request).await
    }

    /// Sends a request and returns the body of a successful answer.
    async fn answer(&self, mut request: Request<Body>) -> anyhow::Result<Incoming> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .context("the daemon does not answer on its control socket")?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // The connection makes progress only while it is polled beside the request; it ends with
        // the answer.
        tokio::spawn(connection);
        let host = HeaderValue::from_static("localhost");
        request.headers_mut().insert(HOST, host);
        let response = sender
            .send_request(request)
            .await
            .context("the daemon closed the connection")?;
        let status = response.status();
        if !status.is_success() {
            let problem = read(response.into_body()).await;
            let problem = problem.unwrap_or_else(|_| Problem {
                detail: "no reason given".into(),
                report: None,
            });
            return Err(Refused { status, problem }.into());
        }
        Ok(response.into_body())
    }
}

/// Reads the JSON of an answer; an empty one is null.
async fn read<T: DeserializeOwned>(answer: Incoming) -> anyhow::Result<T> {
    let body = answer.collect().await?.to_bytes();
    let json: &[u8] = if body.is_empty() { b"null" } else { &body };
    Ok(serde_json::from_slice(json)?)
}

/// Error of a command that names a person who is not enrolled.
pub fn unknown_person(name: &str) -> anyhow::Error {
    anyhow!("nobody is enrolled as {name}; kithd people shows everybody")
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
