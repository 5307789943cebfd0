//! Operators' changes to one image: retry and forget.

use anyhow::bail;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Admin, back, on_its_own};
use crate::domain::{ImageId, State as ImageState};
use crate::problem::Problem;
use crate::queue::QueueError;
use crate::store::Told;
use crate::web::api::Id;

/// An image that was put back into the queue.
#[derive(Serialize, ToSchema)]
pub struct Waiting {
    id: ImageId,
    state: ImageState,
}

/// Queues a failed image again, with all attempts.
///
/// Its next result names the result that it replaces.
#[utoipa::path(post, path = "/v1/images/{id}/retry", tag = "images", params(("id" = i64, Path, minimum = 1)),
    responses((status = 202, body = Waiting), Problem))]
pub async fn try_again(
    State(admin): State<Admin>,
    Id(id): Id,
) -> Result<(StatusCode, Json<Waiting>), Problem> {
    again(&admin, id).await?;
    Ok((
        StatusCode::ACCEPTED,
        Json(Waiting {
            id,
            state: ImageState::Pending,
        }),
    ))
}

/// Forgets an image: its row, faces, crops, thumbnail, kept bytes, counter-examples, and the result
/// if no broker has it yet.
#[utoipa::path(delete, path = "/v1/images/{id}", tag = "images", params(("id" = i64, Path, minimum = 1)),
    responses((status = 204, description = "Gone"), Problem))]
pub async fn forget(State(admin): State<Admin>, Id(id): Id) -> Result<StatusCode, Problem> {
    remove(&admin, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /images/{id}/retry`.
pub async fn try_again_form(State(admin): State<Admin>, Id(id): Id) -> Response {
    back(
        &format!("/images/{id}"),
        again(&admin, id).await.map(|()| "It is tried again."),
    )
}

/// `POST /images/{id}/forget`.
pub async fn forget_form(State(admin): State<Admin>, Id(id): Id) -> Response {
    match remove(&admin, id).await {
        Ok(()) => back("/", Ok(&format!("Image {id} is forgotten."))),
        Err(problem) => back(&format!("/images/{id}"), Err(problem)),
    }
}

async fn again(admin: &Admin, id: ImageId) -> Result<(), Problem> {
    match admin.queue.try_again(id).await? {
        Told::Done { .. } => Ok(()),
        Told::NotFound => Err(no_image(id)),
        Told::Not(state) => Err(conflict(format!(
            "Image {id} is {state}; only a failed image can be tried again."
        ))),
        Told::BytesGone => Err(conflict(format!(
            "The bytes of image {id} are no longer kept; send it again."
        ))),
    }
}

async fn remove(admin: &Admin, id: ImageId) -> Result<(), Problem> {
    let (queue, people) = (admin.queue.clone(), admin.people.clone());
    let removed = on_its_own(async move {
        let told = queue.remove(id).await?;
        if let Told::Done {
            counter_examples, ..
        } = &told
        {
            if let Some(error) = people.store.delete_discarded().await? {
                bail!(
                    "the image is forgotten, but its picture cannot be deleted yet ({error}); that is tried again"
                );
            }
            if *counter_examples > 0 {
                people.forget_counter_examples().await?;
            }
            // Older copies of the database and the journal must not hold erased data.
            people.delete_copies_before()?;
            if !people.store.empty_journal().await? {
                bail!(
                    "the image is forgotten, but the journal of the database is being read and still holds it for a while"
                );
            }
        }
        anyhow::Ok(told)
    });
    match removed
        .await
        .map_err(|error| Problem::later(format!("{error:#}.")))?
    {
        Told::Done { .. } => Ok(()),
        Told::NotFound => Err(no_image(id)),
        Told::Not(_) | Told::BytesGone => Err(conflict(format!(
            "Image {id} is being processed; try again in a moment."
        ))),
    }
}

/// Returns the problem of an unknown image.
pub fn no_image(id: ImageId) -> Problem {
    Problem::not_found(format!("There is no image {id}; it may have been removed."))
}

fn conflict(sentence: String) -> Problem {
    Problem::new(StatusCode::CONFLICT, sentence)
}

impl From<QueueError> for Problem {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Store(error) => error.into(),
            other => Self::new(StatusCode::INTERNAL_SERVER_ERROR, other.to_string()),
        }
    }
}
