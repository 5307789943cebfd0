//! `/v1`, the reading routes: images, people, strangers and status as JSON, and the pictures the
//! page shows. Errors are problem details. Routes that change something are in `api`.

use std::collections::HashMap;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime, PrimitiveDateTime, Time};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::breaker::{self, Engines};
use super::{VERSION, Web, cut, rejected, with_etag};
use crate::domain::{ImageId, Outcome, PersonId, PictureBytes, Source, State as ImageState};
use crate::people::{Calibration, PictureRemark};
use crate::problem::Problem;
use crate::status::disk::DiskReport;
use crate::status::health::{Condition, Part};
use crate::status::thermal::BoardReport;
use crate::store::{
    Counts, ImageDetail, ImageFilter, ImageRow, PersonPicture, PersonRow, StrangerFace, StrangerId,
    StrangerRow,
};

const DEFAULT_LIMIT: u32 = 50;
const MOST: u32 = 500;

/// The reading routes.
pub fn routes() -> OpenApiRouter<Web> {
    OpenApiRouter::new()
        .routes(routes!(images))
        .routes(routes!(image))
        .routes(routes!(thumbnail))
        .routes(routes!(face))
        .routes(routes!(people))
        .routes(routes!(person))
        .routes(routes!(person_picture))
        .routes(routes!(strangers))
        .routes(routes!(stranger))
        .routes(routes!(calibration))
        .routes(routes!(breaker::show))
        .routes(routes!(rejected::messages))
        .routes(routes!(rejected::message))
        .routes(routes!(status))
}

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
async fn images(
    State(web): State<Web>,
    query: Asked<ImageQuery>,
) -> Result<Json<ImagePage>, Problem> {
    let Asked(query) = query;
    let limit = limit(query.limit)?;
    let cursor = query
        .cursor
        .map(|cursor| number(cursor, "cursor"))
        .transpose()?;
    let found = web
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
            since_ms: self.since.map(|text| rfc3339(&text)).transpose()?,
            until_ms: self.until.map(|text| rfc3339(&text)).transpose()?,
            path: self.path,
        })
    }
}

/// Returns one image, with its faces in `found`.
#[utoipa::path(get, path = "/v1/images/{id}", tag = "images", params(("id" = i64, Path, minimum = 1)),
    responses((status = 200, body = ImageDetail), Problem))]
async fn image(State(web): State<Web>, Id(id): Id) -> Result<Json<ImageDetail>, Problem> {
    web.store
        .image(id)
        .await?
        .map(Json)
        .ok_or_else(|| Problem::not_found(format!("There is no image {id}.")))
}

/// Returns the thumbnail of an image.
#[utoipa::path(get, path = "/v1/images/{id}/thumbnail.jpg", tag = "images", params(("id" = i64, Path, minimum = 1)),
    responses((status = 200, content_type = "image/jpeg", body = PictureBytes), (status = 304, description = "Not changed"), Problem))]
async fn thumbnail(
    State(web): State<Web>,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let jpeg = web.store.thumbnail(id).await?;
    let jpeg = jpeg.ok_or_else(|| Problem::not_found(format!("Image {id} has no thumbnail.")))?;
    Ok(with_etag(&headers, "image/jpeg", jpeg))
}

/// Returns the aligned crop of a face by its number: `1.jpg` is the best.
#[utoipa::path(get, path = "/v1/images/{id}/faces/{file}", tag = "images",
    params(("id" = i64, Path, minimum = 1), ("file" = String, Path, pattern = "^[1-9][0-9]{0,8}\\.jpg$", example = "1.jpg")),
    responses((status = 200, content_type = "image/jpeg", body = PictureBytes), (status = 304, description = "Not changed"), Problem))]
async fn face(
    State(web): State<Web>,
    Id(id): Id,
    file: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let number = file.ok().and_then(|Path((_, file))| jpeg_number(&file));
    let number = number.and_then(|number| u32::try_from(number).ok());
    let number = number
        .ok_or_else(|| Problem::bad_request("A face is named by its number, as in \"1.jpg\"."))?;
    let jpeg = web.store.crop(id, number).await?;
    let jpeg =
        jpeg.ok_or_else(|| Problem::not_found(format!("Image {id} has no face {number}.")))?;
    Ok(with_etag(&headers, "image/jpeg", jpeg))
}

/// Parses the number in "7.jpg", accepting only its canonical spelling.
pub fn jpeg_number(file: &str) -> Option<i64> {
    let digits = file.strip_suffix(".jpg")?;
    let number = digits.parse().ok().filter(|number| *number > 0)?;
    (digits == format!("{number}")).then_some(number)
}

/// Position in a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct PageQuery {
    /// Most entries in the answer; 50 by default.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// `next_cursor` of the previous page.
    #[param(minimum = 1)]
    cursor: Option<i64>,
}

impl PageQuery {
    /// Returns the limit and the cursor.
    pub fn read(self) -> Result<(usize, Option<i64>), Problem> {
        let limit = limit(self.limit)?;
        let cursor = self
            .cursor
            .map(|cursor| number(cursor, "cursor"))
            .transpose()?;
        Ok((limit, cursor))
    }
}

/// A page of enrolled people.
#[derive(Serialize, ToSchema)]
pub struct People {
    /// People in the order they were enrolled.
    people: Vec<PersonRow>,
    /// Cursor of the next page; null on the last page.
    next_cursor: Option<PersonId>,
}

/// Lists the enrolled people, in the order they were enrolled.
#[utoipa::path(get, path = "/v1/people", tag = "people", params(PageQuery),
    responses((status = 200, body = People), Problem))]
async fn people(State(web): State<Web>, query: Asked<PageQuery>) -> Result<Json<People>, Problem> {
    let (limit, cursor) = query.0.read()?;
    let mut people = web.store.people_after(cursor, limit + 1).await?;
    let next_cursor = cut(&mut people, limit).map(|last| last.id);
    Ok(Json(People {
        people,
        next_cursor,
    }))
}

/// A person with their enrolled pictures.
#[derive(Serialize, ToSchema)]
pub struct PersonDetail {
    /// The person.
    #[serde(flatten)]
    person: PersonRow,
    /// Pictures, oldest first.
    images: Vec<EnrolledPicture>,
    /// Cursor of the next pictures; null on the last page.
    next_cursor: Option<i64>,
}

/// An enrolled picture with remarks.
#[derive(Serialize, ToSchema)]
pub struct EnrolledPicture {
    /// The picture.
    #[serde(flatten)]
    picture: PersonPicture,
    /// Remarks from comparing it with all other pictures.
    remarks: Vec<PictureRemark>,
}

/// Returns a person and the pictures they were enrolled from, with remarks on each.
#[utoipa::path(get, path = "/v1/people/{id}", tag = "people", params(("id" = i64, Path, minimum = 1), PageQuery),
    responses((status = 200, body = PersonDetail), Problem))]
async fn person(
    State(web): State<Web>,
    Id(id): Id,
    query: Asked<PageQuery>,
) -> Result<Json<PersonDetail>, Problem> {
    let (limit, cursor) = query.0.read()?;
    let person = web.store.person(id).await?;
    let person = person.ok_or_else(|| Problem::not_found(format!("There is no person {id}.")))?;
    let mut remarks: HashMap<i64, Vec<PictureRemark>> = HashMap::new();
    for (picture, remark) in web.people.remarks(id).await {
        remarks.entry(picture).or_default().push(remark);
    }
    let mut pictures = web.store.person_pictures(id, cursor, limit + 1).await?;
    let next_cursor = cut(&mut pictures, limit).map(|last| last.id);
    let images = pictures.into_iter().map(|picture| {
        let remarks = remarks.remove(&picture.id).unwrap_or_default();
        EnrolledPicture { picture, remarks }
    });
    Ok(Json(PersonDetail {
        person,
        images: images.collect(),
        next_cursor,
    }))
}

/// Returns the aligned face of an enrolled picture.
#[utoipa::path(get, path = "/v1/people/{id}/pictures/{file}", tag = "people",
    params(("id" = i64, Path, minimum = 1), ("file" = String, Path, pattern = "^[1-9][0-9]{0,17}\\.jpg$", example = "1.jpg")),
    responses((status = 200, content_type = "image/jpeg", body = PictureBytes), (status = 304, description = "Not changed"), Problem))]
async fn person_picture(
    State(web): State<Web>,
    Id(id): Id,
    file: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let picture = file.ok().and_then(|Path((_, file))| jpeg_number(&file));
    let picture = picture.ok_or_else(|| {
        Problem::bad_request("A picture is named by its number, as in \"1.jpg\".")
    })?;
    let jpeg = web.store.person_crop(id, picture).await?;
    let jpeg = jpeg.ok_or_else(|| {
        Problem::not_found(format!("Person {id} has no picture {picture} to show."))
    })?;
    Ok(with_etag(&headers, "image/jpeg", jpeg))
}

/// Filter for groups of strangers, and position in the list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct StrangerQuery {
    /// Lists the ignored groups instead of the others.
    ignored: Option<bool>,
    /// Most groups in the answer; 50 by default.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// `next_cursor` of the previous page.
    #[param(pattern = "^[0-9]{1,18}-[0-9]{1,18}$")]
    cursor: Option<String>,
}

/// A page of groups.
#[derive(Serialize, ToSchema)]
pub struct StrangerPage {
    /// Groups, the most recently seen first.
    strangers: Vec<StrangerRow>,
    /// Cursor of the next page; null on the last page.
    next_cursor: Option<String>,
}

/// Lists unknown faces grouped by likeness.
#[utoipa::path(get, path = "/v1/strangers", tag = "strangers", params(StrangerQuery),
    responses((status = 200, body = StrangerPage), Problem))]
async fn strangers(
    State(web): State<Web>,
    query: Asked<StrangerQuery>,
) -> Result<Json<StrangerPage>, Problem> {
    let Asked(query) = query;
    let limit = limit(query.limit)?;
    let cursor = query.cursor.map(|text| {
        let parsed = text
            .split_once('-')
            .and_then(|(image, id)| Some((digits(image)?, digits(id)?)));
        parsed.ok_or_else(|| {
            Problem::bad_request("\"cursor\" must be the \"next_cursor\" of another page.")
        })
    });
    let mut strangers = web
        .store
        .stranger_groups(
            query.ignored.unwrap_or(false),
            cursor.transpose()?,
            limit + 1,
        )
        .await?;
    let next_cursor =
        cut(&mut strangers, limit).map(|last| format!("{}-{}", last.last_image, last.id));
    Ok(Json(StrangerPage {
        strangers,
        next_cursor,
    }))
}

fn digits(text: &str) -> Option<i64> {
    let digits = (1..=18).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// A group with the newest of its faces.
#[derive(Serialize, ToSchema)]
pub struct StrangerDetail {
    /// The group.
    #[serde(flatten)]
    stranger: StrangerRow,
    /// Faces, those of the newest images first.
    members: Vec<StrangerFace>,
}

/// Returns a group with the newest 200 of its faces.
#[utoipa::path(get, path = "/v1/strangers/{id}", tag = "strangers", params(("id" = i64, Path, minimum = 1)),
    responses((status = 200, body = StrangerDetail), Problem))]
async fn stranger(State(web): State<Web>, Id(id): Id) -> Result<Json<StrangerDetail>, Problem> {
    let stranger = web.store.stranger(id).await?;
    let stranger = stranger.ok_or_else(|| no_stranger(id))?;
    Ok(Json(StrangerDetail {
        stranger,
        members: web.store.stranger_faces(id, None, 200).await?,
    }))
}

/// The problem for a group that does not exist.
pub fn no_stranger(id: StrangerId) -> Problem {
    Problem::not_found(format!(
        "There is no stranger {id}; perhaps it was named, or its faces are gone."
    ))
}

/// Returns what the gallery says about the threshold.
#[utoipa::path(get, path = "/v1/calibration", tag = "board", responses((status = 200, body = Calibration), Problem))]
async fn calibration(State(web): State<Web>) -> Result<Json<Calibration>, Problem> {
    let calibration = web.people.calibration().await;
    calibration
        .map(Json)
        .ok_or_else(|| Problem::later("The gallery is not loaded yet; /v1/health says why."))
}

/// State of the board.
#[derive(Serialize, ToSchema)]
pub struct Status {
    device: String,
    version: &'static str,
    counts: Counts,
    disk: DiskReport,
    board: BoardReport,
    /// State of each part.
    #[schema(value_type = HashMap<String, Part>)]
    parts: std::collections::BTreeMap<&'static str, Part>,
    /// Breaker and engines, once the model pack is loaded.
    engine: Engines,
}

/// Returns counts, disk space, temperature, engine, and the state of each part.
#[utoipa::path(get, path = "/v1/health", tag = "board", responses((status = 200, body = Status), Problem))]
pub async fn status(State(web): State<Web>) -> Result<Json<Status>, Problem> {
    Ok(Json(Status {
        counts: web.store.counts().await?,
        disk: web.disk.report().await?,
        board: web.board.report().await,
        parts: web.health.parts(),
        engine: Engines::from(web.people.engines.report()),
        device: web.device,
        version: VERSION,
    }))
}

/// `GET /readyz`: says if pictures are accepted now, in the intake's words. Degraded parts appear
/// by name only, since the route needs no token.
pub async fn ready(State(web): State<Web>) -> (StatusCode, String) {
    let parts = web.health.parts();
    let (status, text) = match parts.get("intake") {
        Some(part) if part.condition == Condition::Ok => (StatusCode::OK, part.text.as_str()),
        Some(part) => (StatusCode::SERVICE_UNAVAILABLE, part.text.as_str()),
        None => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The intake has not started yet.",
        ),
    };
    let degraded = parts
        .iter()
        .filter(|(name, part)| **name != "intake" && part.condition == Condition::Degraded);
    // Only the kind of a folder or a camera, not its name.
    let mut degraded: Vec<_> = degraded
        .filter_map(|(name, _)| name.split(' ').next())
        .collect();
    degraded.dedup();
    let rest = if degraded.is_empty() {
        String::new()
    } else {
        format!("degraded: {}\n", degraded.join(", "))
    };
    (status, format!("{text}\n{rest}"))
}

/// A parsed query; an invalid one becomes a problem with a sentence.
pub struct Asked<T>(pub T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        query
            .map(|Query(query)| Self(query))
            .map_err(|error| Problem::bad_request(format!("{}.", error.body_text())))
    }
}

/// The `{id}` of a URL; anything else, even bytes that are no text, becomes a problem with a
/// sentence.
pub struct Id(pub i64);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<HashMap<String, String>>::from_request_parts(parts, state).await;
        let id = path
            .ok()
            .and_then(|Path(mut path)| path.remove("id"))
            .unwrap_or_default();
        let parsed = id
            .parse()
            .ok()
            .filter(|number| *number > 0 && id == format!("{number}"));
        parsed.map(Self).ok_or_else(|| {
            Problem::bad_request(format!("An id is a whole number from 1, not \"{id}\"."))
        })
    }
}

/// Checks an id in a query.
fn number(number: i64, name: &str) -> Result<i64, Problem> {
    let refused = || {
        Problem::bad_request(format!(
            "\"{name}\" is a whole number from 1, not {number}."
        ))
    };
    (number > 0).then_some(number).ok_or_else(refused)
}

/// Checks the limit of a list.
fn limit(limit: Option<u32>) -> Result<usize, Problem> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    let refused = || {
        Problem::bad_request(format!(
            "\"limit\" is a whole number from 1 to {MOST}, not {limit}."
        ))
    };
    (1..=MOST)
        .contains(&limit)
        .then_some(limit as usize)
        .ok_or_else(refused)
}

fn milliseconds(moment: OffsetDateTime) -> Option<i64> {
    i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok()
}

fn rfc3339(text: &str) -> Result<i64, Problem> {
    let parsed = OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .and_then(milliseconds);
    let refused = || {
        Problem::bad_request(format!(
            "A moment is written like 2026-11-24T07:21:05Z, not \"{text}\"."
        ))
    };
    parsed.ok_or_else(refused)
}

/// Parses a moment as browsers' forms send it: a date with or without a time, UTC; or RFC 3339.
pub fn moment(text: &str) -> Result<i64, Problem> {
    let minutes = format_description!("[year]-[month]-[day]T[hour]:[minute]");
    let seconds = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
    let day = format_description!("[year]-[month]-[day]");
    let typed = PrimitiveDateTime::parse(text, seconds)
        .or_else(|_| PrimitiveDateTime::parse(text, minutes))
        .or_else(|_| Date::parse(text, day).map(|day| day.with_time(Time::MIDNIGHT)));
    typed
        .ok()
        .and_then(|typed| milliseconds(typed.assume_utc()))
        .map_or_else(|| rfc3339(text), Ok)
}

/// Adds ETags to JSON, and answers 304 if the client has the same already.
pub async fn etags(request: Request, next: Next) -> Response {
    let get = request.method() == axum::http::Method::GET;
    let headers = request.headers().clone();
    let response = next.run(request).await;
    let json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/json");
    if !get || !json || response.status() != StatusCode::OK {
        return response;
    }
    // Our own answers are complete in memory already.
    match response.into_body().collect().await {
        Ok(body) => with_etag(&headers, "application/json", body.to_bytes()),
        Err(_) => Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The answer could not be completed.",
        )
        .into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_machines_browsers_and_people_write_them() {
        let ms = |text: &str| moment(text).unwrap();
        assert_eq!(ms("1970-01-02T00:00:00Z"), 86_400_000);
        assert_eq!(ms("1970-01-02T01:00:00.5+01:00"), 86_400_500);
        assert_eq!(ms("1970-01-02T00:00"), 86_400_000);
        assert_eq!(ms("1970-01-02"), 86_400_000);
        for text in [
            "",
            "yesterday",
            "86400000",
            "1970-13-01",
            "1970-01-02T25:00",
        ] {
            assert!(moment(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_picture_has_one_name() {
        assert_eq!(jpeg_number("7.jpg"), Some(7));
        for file in ["07.jpg", "+7.jpg", "0.jpg", "7.png", ".jpg"] {
            assert_eq!(jpeg_number(file), None, "{file}");
        }
    }
}
