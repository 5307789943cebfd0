//! Operators' actions on a rejected message: save its bytes, send it again, or drop it.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Admin, back, on_its_own, refused};
use crate::domain::{ImageId, PictureBytes};
use crate::problem::Problem;
use crate::sources::mqtt::Retried;
use crate::sources::rejected::RejectedError;
use crate::web::api::Id;
use crate::web::rejected::no_message;

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
pub async fn payload(State(admin): State<Admin>, Id(id): Id) -> Result<Response, Problem> {
    let rejected = &admin.messages.rejected;
    let message = rejected
        .store
        .rejected_message(id)
        .await?
        .ok_or_else(|| no_message(id))?;
    let bytes = rejected
        .payload(&message)
        .await
        .map_err(problem)?
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
    State(admin): State<Admin>,
    Id(id): Id,
) -> Result<(StatusCode, Json<Images>), Problem> {
    let ids = again(&admin, id).await?;
    Ok((StatusCode::ACCEPTED, Json(Images { ids })))
}

/// Drops a rejected message.
#[utoipa::path(delete, path = "/v1/rejected/{id}", tag = "messages", params(("id" = i64, Path, minimum = 1)),
    responses((status = 204, description = "Gone"), Problem))]
pub async fn forget(State(admin): State<Admin>, Id(id): Id) -> Result<StatusCode, Problem> {
    remove(&admin, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Drops all rejected messages.
#[utoipa::path(delete, path = "/v1/rejected", tag = "messages",
    responses((status = 200, body = Dropped), Problem))]
pub async fn forget_all(State(admin): State<Admin>) -> Result<Json<Dropped>, Problem> {
    Ok(Json(Dropped {
        dropped: remove_all(&admin).await?,
    }))
}

/// `POST /rejected/{id}/retry`.
pub async fn try_again_form(State(admin): State<Admin>, Id(id): Id) -> Response {
    match again(&admin, id).await {
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
pub async fn forget_form(State(admin): State<Admin>, Id(id): Id) -> Response {
    back(
        "/",
        remove(&admin, id)
            .await
            .map(|()| "The message was dropped."),
    )
}

/// `POST /rejected/drop`.
pub async fn forget_all_form(State(admin): State<Admin>) -> Response {
    back(
        "/",
        remove_all(&admin)
            .await
            .map(|_| "The rejected messages were dropped."),
    )
}

async fn again(admin: &Admin, id: i64) -> Result<Vec<ImageId>, Problem> {
    let door = admin.messages.clone();
    match on_its_own(async move { Ok(door.retry(id).await?) })
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

async fn remove(admin: &Admin, id: i64) -> Result<(), Problem> {
    let rejected = admin.messages.rejected.clone();
    let found = on_its_own(async move { Ok(rejected.forget(id).await?) })
        .await
        .map_err(|error| later(&error))?;
    found.then_some(()).ok_or_else(|| no_message(id))
}

async fn remove_all(admin: &Admin) -> Result<usize, Problem> {
    let rejected = admin.messages.rejected.clone();
    on_its_own(async move { Ok(rejected.forget_all().await?) })
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

fn later(error: &anyhow::Error) -> Problem {
    Problem::later(format!("{error:#}."))
}

fn problem(error: RejectedError) -> Problem {
    later(&error.into())
}
