//! `/v1`: images, people and status as JSON, and the pictures the page shows. Errors are problem details.

use std::collections::HashMap;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{VERSION, Web, with_etag};
use crate::domain::ImageId;
use crate::health::Condition;
use crate::problem::Problem;
use crate::store::ImageDetail;

const DEFAULT_LIMIT: usize = 50;
const MOST: usize = 500;

/// A bad query string must become a problem too, so the fields are read as text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    before: Option<String>,
    limit: Option<String>,
}

/// `GET /v1/images`: newest first; `next_before` asks for the page that follows.
pub async fn images(
    State(web): State<Web>,
    query: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(page) =
        query.map_err(|_| Problem::bad_request("The query takes \"before\" and \"limit\", each once."))?;
    let before = page.before.map(|text| image_id(&text)).transpose()?;
    let limit = page.limit.map_or(Ok(DEFAULT_LIMIT), |text| {
        text.parse().ok().filter(|limit| (1..=MOST).contains(limit)).ok_or_else(|| {
            Problem::bad_request(format!("\"limit\" is a whole number from 1 to {MOST}, not \"{text}\"."))
        })
    })?;
    // One more than asked for tells whether another page follows.
    let mut images = web.store.images(before, limit + 1).await?;
    let more = images.len() > limit;
    images.truncate(limit);
    let next_before = images.last().filter(|_| more).map(|image| image.id);
    Ok(Json(json!({ "images": images, "next_before": next_before })))
}

/// `GET /v1/images/{id}`: the image with its faces in `found`.
pub async fn image(State(web): State<Web>, Id(id): Id) -> Result<Json<ImageDetail>, Problem> {
    web.store.image(id).await?.map(Json).ok_or_else(|| Problem::not_found(format!("There is no image {id}.")))
}

/// `GET /v1/images/{id}/thumbnail.jpg`.
pub async fn thumbnail(State(web): State<Web>, Id(id): Id, headers: HeaderMap) -> Result<Response, Problem> {
    let jpeg = web.store.thumbnail(id).await?;
    let jpeg = jpeg.ok_or_else(|| Problem::not_found(format!("Image {id} has no thumbnail.")))?;
    Ok(with_etag(&headers, "image/jpeg", jpeg))
}

/// `GET /v1/images/{id}/faces/{n}.jpg`: the aligned crop.
pub async fn face(
    State(web): State<Web>,
    Id(id): Id,
    file: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let number = file.ok().and_then(|Path((_, file))| file.strip_suffix(".jpg")?.parse::<u32>().ok());
    let number = number.filter(|number| *number > 0);
    let number = number.ok_or_else(|| Problem::bad_request("A face is named by its number, as in \"1.jpg\"."))?;
    let jpeg = web.store.crop(id, number).await?;
    let jpeg = jpeg.ok_or_else(|| Problem::not_found(format!("Image {id} has no face {number}.")))?;
    Ok(with_etag(&headers, "image/jpeg", jpeg))
}

/// `GET /v1/status`: counts, room on the disk, and what each part says of itself.
pub async fn status(State(web): State<Web>) -> Result<Json<Value>, Problem> {
    let counts = web.store.counts().await?;
    Ok(Json(json!({
        "device": web.device,
        "version": VERSION,
        "counts": counts,
        "disk": web.disk.report().await?,
        "parts": web.health.parts(),
    })))
}

/// `GET /v1/people`: everybody enrolled, by name.
pub async fn people(State(web): State<Web>) -> Result<Json<Value>, Problem> {
    Ok(Json(json!({ "people": web.store.people().await? })))
}

/// `GET /readyz`: whether pictures are accepted now, in the words of the intake.
pub async fn ready(State(web): State<Web>) -> (StatusCode, String) {
    match web.health.parts().get("intake") {
        Some(part) if part.condition == Condition::Ok => (StatusCode::OK, format!("{}\n", part.text)),
        Some(part) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", part.text)),
        None => (StatusCode::SERVICE_UNAVAILABLE, "The intake has not started yet.\n".into()),
    }
}

/// The `{id}` of a URL; whatever else stands there, bytes that are no text included, is a problem with a sentence.
pub struct Id(pub ImageId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<HashMap<String, String>>::from_request_parts(parts, state).await;
        let id = path.ok().and_then(|Path(mut path)| path.remove("id"));
        image_id(&id.unwrap_or_default()).map(Self)
    }
}

/// The id of an image as typed in a query.
pub fn image_id(text: &str) -> Result<ImageId, Problem> {
    text.parse()
        .ok()
        .filter(|id| *id > 0)
        .ok_or_else(|| Problem::bad_request(format!("An image's id is a whole number from 1, not \"{text}\".")))
}
