//! `/v1/backup` saves and restores the whole board as one file; `/v1/people/export` and `/import`
//! carry people alone from board to board.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Api;
use super::request::Asked;
use crate::backup::{Backup, BackupError};
use crate::domain::{PersonId, PictureBytes};
use crate::people::{Imported, Restored};
use crate::problem::Problem;

/// Media type of SQLite files.
const SQLITE: &str = "application/vnd.sqlite3";

/// Returns the whole board as one file: people with their pictures, images and results.
///
/// Needs the token, because the file holds everybody.
#[utoipa::path(get, path = "/v1/backup", tag = "board",
    responses((status = 200, content_type = "application/vnd.sqlite3", body = PictureBytes), Problem))]
pub async fn save(State(api): State<Api>) -> Result<Response, Problem> {
    let backup = api
        .people
        .backup()
        .await
        .map_err(|error| problem(&error.into()))?;
    Ok(file(backup, "kithd-backup.kithd"))
}

/// Replaces the board's data by a backup.
///
/// Data that is not in the backup is gone, except unfinished images. People who were erased on this
/// board stay erased.
#[utoipa::path(put, path = "/v1/backup", tag = "board", request_body(content((PictureBytes = "application/octet-stream"))),
    responses((status = 200, body = Restored), Problem))]
pub async fn restore(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Restored>, Problem> {
    api.people
        .restore(length(&headers), body.into_data_stream())
        .await
        .map(Json)
        .map_err(|error| problem(&error))
}

/// Choice of the people to export.
#[derive(serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Exported {
    /// Number of a person; all people if absent.
    #[param(minimum = 1)]
    person: Option<PersonId>,
}

/// Returns people with pictures, embeddings and counter-examples as one file, for another board.
///
/// Needs the token.
#[utoipa::path(get, path = "/v1/people/export", tag = "people", params(Exported),
    responses((status = 200, content_type = "application/vnd.sqlite3", body = PictureBytes), Problem))]
pub async fn export(
    State(api): State<Api>,
    Asked(who): Asked<Exported>,
) -> Result<Response, Problem> {
    if let Some(person) = who.person
        && api.view.store.person(person).await?.is_none()
    {
        return Err(Problem::not_found(format!("there is no person {person}")));
    }
    let backup = api
        .people
        .export(who.person)
        .await
        .map_err(|error| problem(&error.into()))?;
    Ok(file(backup, "people.kithd"))
}

/// Adds the people of an export or a backup.
///
/// People already on this board get the pictures they lack. People who were erased on this board
/// stay erased.
#[utoipa::path(post, path = "/v1/people/import", tag = "people",
    request_body(content((PictureBytes = "application/octet-stream"))),
    responses((status = 200, body = Imported), Problem))]
pub async fn import(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Imported>, Problem> {
    api.people
        .import(length(&headers), body.into_data_stream())
        .await
        .map(Json)
        .map_err(|error| problem(&error))
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn file(backup: Backup, name: &str) -> Response {
    let headers = [
        (header::CONTENT_LENGTH, backup.bytes().to_string()),
        (header::CONTENT_TYPE, SQLITE.into()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{name}\""),
        ),
        (header::CACHE_CONTROL, "no-store".into()),
    ];
    (headers, Body::from_stream(backup.stream())).into_response()
}

fn problem(error: &anyhow::Error) -> Problem {
    let status = match error.downcast_ref::<BackupError>() {
        Some(BackupError::NoRoom { .. }) => StatusCode::INSUFFICIENT_STORAGE,
        Some(error) if error.is_refusal() => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Problem::new(status, format!("{error:#}"))
}
