//! `/v1/images`: listed, shown, tried again, forgotten; and the page's forms for the same.

use anyhow::bail;
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::request::{Asked, Id, jpeg_number, limit, number, origin, rfc3339, with_etag};
use super::{Api, View, back};
use crate::domain::{ImageId, Outcome, PictureBytes, Source, State as ImageState};
use crate::problem::Problem;
use crate::queue::QueueError;
use crate::store::{ImageChange, ImageDetail, ImageFilter, ImageRow};

/// Filter for images, and position in the list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct ImageQuery {
    /// Only images in this state.
    #[param(inline)]
    state: Option<ImageState>,
    /// Only images with this outcome.
    #[param(inline)]
    outcome: Option<Outcome>,
    /// Only images with a face that is this person, by number, or may be.
    #[param(minimum = 1)]
    person: Option<i64>,
    /// Only images from this source.
    #[param(inline)]
    source: Option<Source>,
    /// Only images that this camera took, by its name.
    #[param(pattern = "^[A-Za-z0-9._-]{1,64}$")]
    camera: Option<String>,
    /// Only images of this event, by the id that the sending system gave.
    #[param(pattern = "^[A-Za-z0-9._-]{1,64}$")]
    event: Option<String>,
    /// Only images accepted at this moment of the board's clock or later: RFC 3339.
    #[param(format = DateTime)]
    since: Option<String>,
    /// Only images accepted before this moment.
    #[param(format = DateTime)]
    until: Option<String>,
    /// Only images with this text in their path.
    #[param(max_length = 1000)]
    path: Option<String>,
    /// Most images in the answer; 50 by default.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// `next_cursor` of the previous page.
    #[param(minimum = 1)]
    cursor: Option<i64>,
}

/// A page of images.
#[derive(Serialize, ToSchema)]
pub struct ImagePage {
    /// Images, newest first.
    images: Vec<ImageRow>,
    /// Cursor of the next page; null on the last page.
    next_cursor: Option<ImageId>,
    /// True if there may be more matches than returned, because only a limited number of images is
    /// searched at a time: go on with `next_cursor`.
    unfinished: bool,
}

/// Lists images, newest first.
#[utoipa::path(get, path = "/v1/images", tag = "images", params(ImageQuery),
    responses((status = 200, body = ImagePage), Problem))]
pub async fn images(
    State(view): State<View>,
    query: Asked<ImageQuery>,
) -> Result<Json<ImagePage>, Problem> {
    let Asked(query) = query;
    let limit = limit(query.limit)?;
    let cursor = query
        .cursor
        .map(|cursor| number(cursor, "cursor"))
        .transpose()?;
    let found = view
        .store
        .find_images(query.filter()?, cursor, limit)
        .await?;
    Ok(Json(ImagePage {
        images: found.images,
        next_cursor: found.next,
        unfinished: found.unfinished,
    }))
}

impl ImageQuery {
    fn filter(self) -> Result<ImageFilter, Problem> {
        if self
            .path
            .as_ref()
            .is_some_and(|path| path.chars().count() > 1000)
        {
            return Err(Problem::bad_request("\"path\" has at most 1 000 letters."));
        }
        Ok(ImageFilter {
            state: self.state,
            outcome: self.outcome,
            person: self
                .person
                .map(|person| number(person, "person"))
                .transpose()?,
            source: self.source,
            camera: origin("camera", self.camera)?,
            event: origin("event", self.event)?,
            since_ms: self.since.map(|text| rfc3339(&text)).transpose()?,
            until_ms: self.until.map(|text| rfc3339(&text)).transpose()?,
            path: self.path,
        })
    }
}

/// Returns one image, with its faces in `found`.
#[utoipa::path(get, path = "/v1/images/{id}", tag = "images", params(("id" = i64, Path, minimum = 1)),
    responses((status = 200, body = ImageDetail), Problem))]
pub async fn image(State(view): State<View>, Id(id): Id) -> Result<Json<ImageDetail>, Problem> {
    view.store
        .image(id)
        .await?
        .map(Json)
        .ok_or_else(|| Problem::not_found(format!("There is no image {id}.")))
}

/// Returns the thumbnail of an image.
#[utoipa::path(get, path = "/v1/images/{id}/thumbnail.jpg", tag = "images", params(("id" = i64, Path, minimum = 1)),
    responses((status = 200, content_type = "image/jpeg", body = PictureBytes), (status = 304, description = "Not changed"), Problem))]
pub async fn thumbnail(
    State(view): State<View>,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let jpeg = view.store.thumbnail(id).await?;
    let jpeg = jpeg.ok_or_else(|| Problem::not_found(format!("Image {id} has no thumbnail.")))?;
    Ok(with_etag(&headers, "image/jpeg", jpeg))
}

/// Returns the aligned crop of a face by its number: `1.jpg` is the best.
#[utoipa::path(get, path = "/v1/images/{id}/faces/{file}", tag = "images",
    params(("id" = i64, Path, minimum = 1), ("file" = String, Path, pattern = "^[1-9][0-9]{0,8}\\.jpg$", example = "1.jpg")),
    responses((status = 200, content_type = "image/jpeg", body = PictureBytes), (status = 304, description = "Not changed"), Problem))]
pub async fn face(
    State(view): State<View>,
    Id(id): Id,
    file: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let number = file.ok().and_then(|Path((_, file))| jpeg_number(&file));
    let number = number.and_then(|number| u32::try_from(number).ok());
    let number = number
        .ok_or_else(|| Problem::bad_request("A face is named by its number, as in \"1.jpg\"."))?;
    let jpeg = view.store.crop(id, number).await?;
    let jpeg =
        jpeg.ok_or_else(|| Problem::not_found(format!("Image {id} has no face {number}.")))?;
    Ok(with_etag(&headers, "image/jpeg", jpeg))
}

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
    State(api): State<Api>,
    Id(id): Id,
) -> Result<(StatusCode, Json<Waiting>), Problem> {
    again(&api, id).await?;
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
pub async fn forget(State(api): State<Api>, Id(id): Id) -> Result<StatusCode, Problem> {
    remove(&api, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /images/{id}/retry`.
pub async fn try_again_form(State(api): State<Api>, Id(id): Id) -> Response {
    back(
        &format!("/images/{id}"),
        again(&api, id).await.map(|()| "It is tried again."),
    )
}

/// `POST /images/{id}/forget`.
pub async fn forget_form(State(api): State<Api>, Id(id): Id) -> Response {
    match remove(&api, id).await {
        Ok(()) => back("/", Ok(&format!("Image {id} is forgotten."))),
        Err(problem) => back(&format!("/images/{id}"), Err(problem)),
    }
}

async fn again(api: &Api, id: ImageId) -> Result<(), Problem> {
    match api.queue.try_again(id).await? {
        ImageChange::Done { .. } => Ok(()),
        ImageChange::NotFound => Err(no_image(id)),
        ImageChange::Not(state) => Err(conflict(format!(
            "Image {id} is {state}; only a failed image can be tried again."
        ))),
        ImageChange::BytesGone => Err(conflict(format!(
            "The bytes of image {id} are no longer kept; send it again."
        ))),
    }
}

async fn remove(api: &Api, id: ImageId) -> Result<(), Problem> {
    let told = erase(api, id).await;
    match told.map_err(|error| Problem::later(format!("{error:#}.")))? {
        ImageChange::Done { .. } => Ok(()),
        ImageChange::NotFound => Err(no_image(id)),
        ImageChange::Not(_) | ImageChange::BytesGone => Err(conflict(format!(
            "Image {id} is being processed; try again in a moment."
        ))),
    }
}

/// Forgets an image and erases it from the spool, older copies of the database and the journal.
async fn erase(api: &Api, id: ImageId) -> anyhow::Result<ImageChange> {
    let people = &api.people;
    let told = api.queue.remove(id).await?;
    let ImageChange::Done { counter_examples } = told else {
        return Ok(told);
    };
    if let Some(error) = people.store.delete_discarded().await? {
        bail!(
            "the image is forgotten, but its picture cannot be deleted yet ({error}); that is tried again"
        );
    }
    if counter_examples > 0 {
        people.forget_counter_examples().await?;
    }
    people.delete_copies_before()?;
    if !people.store.empty_journal().await? {
        bail!(
            "the image is forgotten, but the journal of the database is being read and still holds it for a while"
        );
    }
    Ok(told)
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
