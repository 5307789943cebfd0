//! `/v1/rejected`: MQTT messages that were refused and are kept: listed, shown, saved, sent again,
//! dropped. The page's forms for the same.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::request::{Asked, Id, PageQuery, cut};
use super::{Api, View, back, refused};
use crate::domain::{ImageId, PictureBytes};
use crate::problem::Problem;
use crate::sources::mqtt::Retried;
use crate::sources::rejected::RejectedError;
use crate::store::RejectedMessage;

/// A page of refused messages.
#[derive(Serialize, ToSchema)]
pub struct RejectedPage {
    /// Messages, newest first.
    messages: Vec<RejectedMessage>,
    /// Cursor of the next page; null on the last page.
    next_cursor: Option<i64>,
}

/// Lists MQTT messages that were refused and are kept, newest first.
#[utoipa::path(get, operation_id = "messages", path = "/v1/rejected", tag = "messages", params(PageQuery),
    responses((status = 200, body = RejectedPage), Problem))]
pub async fn list(
    State(view): State<View>,
    query: Asked<PageQuery>,
) -> Result<Json<RejectedPage>, Problem> {
    let (limit, cursor) = query.0.read()?;
    let mut messages = view.store.rejected_messages(cursor, limit + 1).await?;
    let next_cursor = cut(&mut messages, limit).map(|last| last.id);
    Ok(Json(RejectedPage {
        messages,
        next_cursor,
    }))
}

/// Returns a refused message, without its bytes.
#[utoipa::path(get, operation_id = "message", path = "/v1/rejected/{id}", tag = "messages", params(("id" = i64, Path, minimum = 1)),
    responses((status = 200, body = RejectedMessage), Problem))]
pub async fn show(State(view): State<View>, Id(id): Id) -> Result<Json<RejectedMessage>, Problem> {
    view.store
        .rejected_message(id)
        .await?
        .map(Json)
        .ok_or_else(|| no_message(id))
}

/// The problem for a message that does not exist.
pub fn no_message(id: i64) -> Problem {
    Problem::not_found(format!(
        "There is no rejected message {id}; it may have been sent again or dropped."
    ))
}

/// Images made of a rejected message.
#[derive(Serialize, ToSchema)]
pub struct Images {
    ids: Vec<ImageId>,
}

/// Number of messages that were dropped.
#[derive(Serialize, ToSchema)]
pub struct Dropped {
    dropped: usize,
}

/// Returns the bytes of a rejected message, unchanged.
///
/// Needs the token, because they may be anything.
#[utoipa::path(get, path = "/v1/rejected/{id}/payload", tag = "messages", params(("id" = i64, Path, minimum = 1)),
    responses((status = 200, content_type = "application/octet-stream", body = PictureBytes), Problem))]
pub async fn payload(State(api): State<Api>, Id(id): Id) -> Result<Response, Problem> {
    let rejected = &api.messages.rejected;
    let message = rejected
        .store
        .rejected_message(id)
        .await?
        .ok_or_else(|| no_message(id))?;
    let bytes = rejected
        .payload(&message)
        .await
        .map_err(|error| problem(&error))?
        .ok_or_else(|| incomplete(id))?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"rejected-{id}\""),
        ),
        (header::CACHE_CONTROL, "no-store".into()),
    ];
    Ok((headers, bytes).into_response())
}

/// Sends a rejected message through intake again.
///
/// It becomes images and is deleted, or is rejected again.
#[utoipa::path(post, path = "/v1/rejected/{id}/retry", tag = "messages", params(("id" = i64, Path, minimum = 1)),
    responses((status = 202, body = Images), Problem))]
pub async fn try_again(
    State(api): State<Api>,
    Id(id): Id,
) -> Result<(StatusCode, Json<Images>), Problem> {
    let ids = again(&api, id).await?;
    Ok((StatusCode::ACCEPTED, Json(Images { ids })))
}

/// Drops a rejected message.
#[utoipa::path(delete, path = "/v1/rejected/{id}", tag = "messages", params(("id" = i64, Path, minimum = 1)),
    responses((status = 204, description = "Gone"), Problem))]
pub async fn forget(State(api): State<Api>, Id(id): Id) -> Result<StatusCode, Problem> {
    remove(&api, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Drops all rejected messages.
#[utoipa::path(delete, path = "/v1/rejected", tag = "messages",
    responses((status = 200, body = Dropped), Problem))]
pub async fn forget_all(State(api): State<Api>) -> Result<Json<Dropped>, Problem> {
    Ok(Json(Dropped {
        dropped: remove_all(&api).await?,
    }))
}

/// `POST /rejected/{id}/retry`.
pub async fn try_again_form(State(api): State<Api>, Id(id): Id) -> Response {
    match again(&api, id).await {
        Ok(images) => match images.as_slice() {
            [image] => back(&format!("/images/{image}"), Ok("The message was accepted.")),
            images => back(
                "/",
                Ok(&format!(
                    "The message was accepted: {} images.",
                    images.len()
                )),
            ),
        },
        Err(problem) => back("/", Err(problem)),
    }
}

/// `POST /rejected/{id}/drop`.
pub async fn forget_form(State(api): State<Api>, Id(id): Id) -> Response {
    back(
        "/",
        remove(&api, id).await.map(|()| "The message was dropped."),
    )
}

/// `POST /rejected/drop`.
pub async fn forget_all_form(State(api): State<Api>) -> Response {
    back(
        "/",
        remove_all(&api)
            .await
            .map(|_| "The rejected messages were dropped."),
    )
}

async fn again(api: &Api, id: i64) -> Result<Vec<ImageId>, Problem> {
    match api
        .messages
        .retry(id)
        .await
        .map_err(|error| later(&error))?
    {
        Retried::Accepted(ids) => Ok(ids),
        Retried::NotFound => Err(no_message(id)),
        Retried::Incomplete => Err(incomplete(id)),
        Retried::Refused(reason) => Err(refused(&format!("It is refused again: {reason}"))),
        Retried::Later(reason) => Err(Problem::later(reason)),
    }
}

async fn remove(api: &Api, id: i64) -> Result<(), Problem> {
    let found = api
        .messages
        .rejected
        .forget(id)
        .await
        .map_err(|error| later(&error))?;
    found.then_some(()).ok_or_else(|| no_message(id))
}

async fn remove_all(api: &Api) -> Result<usize, Problem> {
    api.messages
        .rejected
        .forget_all()
        .await
        .map_err(|error| later(&error))
}

fn incomplete(id: i64) -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        format!(
            "Of the rejected message {id} only the beginning is kept; have its sender send it again."
        ),
    )
}

fn later(error: &RejectedError) -> Problem {
    Problem::later(format!("{error:#}."))
}

fn problem(error: &RejectedError) -> Problem {
    later(error)
}
