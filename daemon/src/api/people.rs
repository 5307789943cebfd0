//! `/v1/people`: listed, shown, enrolled, renamed, merged, erased. The page's forms for the same
//! are in `people/forms.rs`.

pub mod forms;

use std::collections::HashMap;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::request::{Asked, Id, PageQuery, cut, jpeg_number, with_etag};
use super::{Api, View, refused};
use crate::domain::{PersonId, PictureBytes};
use crate::people::{Enrolment, EnrolmentReport, Forgotten, PictureRemark};
use crate::problem::Problem;
use crate::sources::http::LONGEST_NAME;
use crate::sources::upload::{Loaded, Spooled};
use crate::store::{PersonChange, PersonPicture, PersonRow};

/// Longest wait of an enrolment for a gallery that is being loaded.
const LOADING: Duration = Duration::from_secs(60);

/// A page of enrolled people.
#[derive(Serialize, ToSchema)]
#[schema(as = People)]
pub struct PeoplePage {
    /// People in the order they were enrolled.
    people: Vec<PersonRow>,
    /// Cursor of the next page; null on the last page.
    next_cursor: Option<PersonId>,
}

/// Position in the list of people, or a name.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct PeopleQuery {
    /// Most people in the answer; 50 by default.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// `next_cursor` of the previous page.
    #[param(minimum = 1)]
    cursor: Option<i64>,
    /// Only the person of this name, in any spelling.
    name: Option<String>,
}

/// Lists the enrolled people in the order they were enrolled, or the one of a name.
#[utoipa::path(get, operation_id = "people", path = "/v1/people", tag = "people", params(PeopleQuery),
    responses((status = 200, body = PeoplePage), Problem))]
pub async fn list(
    State(view): State<View>,
    query: Asked<PeopleQuery>,
) -> Result<Json<PeoplePage>, Problem> {
    let Asked(PeopleQuery {
        limit,
        cursor,
        name,
    }) = query;
    let (limit, cursor) = PageQuery { limit, cursor }.read()?;
    if let Some(name) = name {
        let mut people = Vec::new();
        if let Some(id) = view.store.person_named(name).await? {
            people.extend(view.store.person(id).await?);
        }
        return Ok(Json(PeoplePage {
            people,
            next_cursor: None,
        }));
    }
    let mut people = view.store.people_after(cursor, limit + 1).await?;
    let next_cursor = cut(&mut people, limit).map(|last| last.id);
    Ok(Json(PeoplePage {
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
#[utoipa::path(get, operation_id = "person", path = "/v1/people/{id}", tag = "people", params(("id" = i64, Path, minimum = 1), PageQuery),
    responses((status = 200, body = PersonDetail), Problem))]
pub async fn show(
    State(view): State<View>,
    Id(id): Id,
    query: Asked<PageQuery>,
) -> Result<Json<PersonDetail>, Problem> {
    let (limit, cursor) = query.0.read()?;
    let person = view.store.person(id).await?;
    let person = person.ok_or_else(|| Problem::not_found(format!("There is no person {id}.")))?;
    let mut remarks: HashMap<i64, Vec<PictureRemark>> = HashMap::new();
    for (picture, remark) in view.people.remarks(id).await {
        remarks.entry(picture).or_default().push(remark);
    }
    let mut pictures = view.store.person_pictures(id, cursor, limit + 1).await?;
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
#[utoipa::path(get, operation_id = "person_picture", path = "/v1/people/{id}/pictures/{file}", tag = "people",
    params(("id" = i64, Path, minimum = 1), ("file" = String, Path, pattern = "^[1-9][0-9]{0,17}\\.jpg$", example = "1.jpg")),
    responses((status = 200, content_type = "image/jpeg", body = PictureBytes), (status = 304, description = "Not changed"), Problem))]
pub async fn picture(
    State(view): State<View>,
    Id(id): Id,
    file: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let picture = file.ok().and_then(|Path((_, file))| jpeg_number(&file));
    let picture = picture.ok_or_else(|| {
        Problem::bad_request("A picture is named by its number, as in \"1.jpg\".")
    })?;
    let jpeg = view.store.person_crop(id, picture).await?;
    let jpeg = jpeg.ok_or_else(|| {
        Problem::not_found(format!("Person {id} has no picture {picture} to show."))
    })?;
    Ok(with_etag(&headers, "image/jpeg", jpeg))
}

/// Name of 1 to 200 letters, none of them a control character, and not only blanks.
#[derive(Deserialize)]
pub struct PersonName(pub String);

impl PartialSchema for PersonName {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .max_length(Some(200))
            .pattern(Some(
                r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$",
            ))
            .examples(["Ann"])
            .into()
    }
}

impl ToSchema for PersonName {}

/// Reads a whole number, which JSON may also write as 7.0.
pub fn whole<'de, D: serde::Deserializer<'de>>(number: D) -> Result<i64, D::Error> {
    let number = serde_json::Number::deserialize(number)?;
    let whole = number.as_i64().or_else(|| {
        // Below this limit every whole number has an exact `f64`.
        number
            .as_f64()
            .filter(|number| number.fract() == 0.0 && number.abs() < 9e15)
            .map(|number| number as i64)
    });
    whole.ok_or_else(|| serde::de::Error::custom(format!("{number} is not a whole number")))
}

/// Name and options of an enrolment.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Enrolled {
    /// Name of the person, who is added if unknown.
    #[param(inline)]
    name: PersonName,
    /// File name of the picture.
    #[param(max_length = 255)]
    file_name: Option<String>,
    /// Enrols the face even if it is another person's, or differs from the person's earlier
    /// pictures.
    #[serde(default)]
    anyway: bool,
}

/// Result of an enrolment.
#[derive(Serialize, ToSchema)]
pub struct EnrolledPerson {
    /// The person.
    person: PersonRow,
    /// Outcome for the picture, with remarks.
    report: EnrolmentReport,
}

/// Enrols a person from a picture: its bytes, or a form with one file.
///
/// Answers 201 if the picture was added, 200 if the same bytes were enrolled before.
#[utoipa::path(post, path = "/v1/people", tag = "people", params(Enrolled),
    request_body(content((PictureBytes = "application/octet-stream"))),
    responses((status = 201, body = EnrolledPerson), (status = 200, body = EnrolledPerson), Problem))]
pub async fn enroll(
    State(api): State<Api>,
    query: Asked<Enrolled>,
    request: Request,
) -> Result<(StatusCode, Json<EnrolledPerson>), Problem> {
    let Asked(Enrolled {
        name: PersonName(name),
        file_name,
        anyway,
    }) = query;
    let picture = api.uploads.receive(request, file_name).await?.picture()?;
    let report = take(&api, name, picture, anyway).await?;
    answer(&api, report).await
}

/// Options of a further picture.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct AnotherPicture {
    /// File name of the picture.
    #[param(max_length = 255)]
    file_name: Option<String>,
    /// Enrols the face even if it is another person's, or differs from the person's earlier
    /// pictures.
    #[serde(default)]
    anyway: bool,
}

/// Enrols another picture of a person.
#[utoipa::path(post, path = "/v1/people/{id}/pictures", tag = "people",
    params(("id" = i64, Path, minimum = 1), AnotherPicture), request_body(content((PictureBytes = "application/octet-stream"))),
    responses((status = 201, body = EnrolledPerson), (status = 200, body = EnrolledPerson), Problem))]
pub async fn add_picture(
    State(api): State<Api>,
    Id(id): Id,
    query: Asked<AnotherPicture>,
    request: Request,
) -> Result<(StatusCode, Json<EnrolledPerson>), Problem> {
    let name = person(&api, id).await?.name;
    let Asked(AnotherPicture { file_name, anyway }) = query;
    let picture = api.uploads.receive(request, file_name).await?.picture()?;
    let report = take(&api, name, picture, anyway).await?;
    answer(&api, report).await
}

pub(super) async fn answer(
    api: &Api,
    report: EnrolmentReport,
) -> Result<(StatusCode, Json<EnrolledPerson>), Problem> {
    let status = match report.enrolment {
        Enrolment::Enrolled => StatusCode::CREATED,
        Enrolment::AlreadyThere => StatusCode::OK,
        Enrolment::Rejected => return Err(rejected(&report)),
    };
    let person = person(api, report.person_id.unwrap_or_default()).await?;
    Ok((status, Json(EnrolledPerson { person, report })))
}

pub(super) fn rejected(report: &EnrolmentReport) -> Problem {
    let why = report.remark.as_deref().unwrap_or("no reason was given");
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        format!("{} was not taken: {why}.", report.image_name),
    )
    .with_report(json!(report))
}

pub(super) async fn take(
    api: &Api,
    name: String,
    picture: Spooled,
    anyway: bool,
) -> Result<EnrolmentReport, Problem> {
    let file_name = picture.name.clone();
    if file_name.chars().count() > LONGEST_NAME {
        return Err(refused("The file name of the picture is too long."));
    }
    // A gallery that is still being loaded is waited for: the first command on a board enrols.
    let _ = tokio::time::timeout(LOADING, api.people.loaded()).await;
    let people = api.loaded()?;
    let admission = people.engines.admit().await?;
    // The memory is reserved until the picture is enrolled.
    let Loaded {
        bytes,
        memory: _memory,
    } = api.uploads.load(picture).await?;
    people
        .enroll(&admission, &name, &file_name, bytes, anyway)
        .await
        .map_err(|error| Problem::later(format!("{error:#}")))
}

/// A new name.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    #[schema(inline)]
    name: PersonName,
}

/// Renames a person; past images show the new name.
#[utoipa::path(patch, path = "/v1/people/{id}", tag = "people", params(("id" = i64, Path, minimum = 1)),
    request_body = Rename, responses((status = 200, body = PersonRow), Problem))]
pub async fn rename(
    State(api): State<Api>,
    Id(id): Id,
    body: Result<Json<Rename>, JsonRejection>,
) -> Result<Json<PersonRow>, Problem> {
    let Json(Rename {
        name: PersonName(name),
    }) = body.map_err(|error| wrong_body(&error))?;
    change_name(&api, id, name).await?;
    person(&api, id).await.map(Json)
}

pub(super) async fn change_name(api: &Api, id: PersonId, name: String) -> Result<(), Problem> {
    changed(id, api.people.rename(id, &name).await)
}

/// The person to merge into.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Merge {
    /// Number of the person who stays.
    #[schema(minimum = 1)]
    #[serde(deserialize_with = "whole")]
    into: i64,
}

/// Merges a person into another: pictures and past images move, and the other's name stays.
#[utoipa::path(post, path = "/v1/people/{id}/merge", tag = "people", params(("id" = i64, Path, minimum = 1)),
    request_body = Merge, responses((status = 200, body = PersonRow), Problem))]
pub async fn merge(
    State(api): State<Api>,
    Id(id): Id,
    body: Result<Json<Merge>, JsonRejection>,
) -> Result<Json<PersonRow>, Problem> {
    let Json(Merge { into }) = body.map_err(|error| wrong_body(&error))?;
    put_together(&api, id, into).await?;
    person(&api, into).await.map(Json)
}

pub(super) async fn put_together(api: &Api, id: PersonId, into: PersonId) -> Result<(), Problem> {
    changed(id, api.people.merge(id, into).await)
}

/// Erases a person: embeddings, pictures, crops, thumbnails, kept bytes, unsent messages, the name
/// in past results, and the person's data in backups on this board.
///
/// A restore does not bring them back.
#[utoipa::path(delete, path = "/v1/people/{id}", tag = "people", params(("id" = i64, Path, minimum = 1)),
    responses((status = 200, body = Forgotten), Problem))]
pub async fn forget(State(api): State<Api>, Id(id): Id) -> Result<Json<Forgotten>, Problem> {
    erase(&api, id).await.map(Json)
}

pub(super) async fn erase(api: &Api, id: PersonId) -> Result<Forgotten, Problem> {
    let erased = api.people.forget_person(id).await;
    let erased = erased
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}.")))?;
    erased.ok_or_else(|| no_person(id))
}

/// Deletes an enrolled picture of a person.
#[utoipa::path(delete, path = "/v1/people/{id}/pictures/{file}", tag = "people",
    params(("id" = i64, Path, minimum = 1), ("file" = String, Path, pattern = "^[1-9][0-9]{0,17}\\.jpg$", example = "1.jpg")),
    responses((status = 204, description = "Gone"), Problem))]
pub async fn delete_picture(
    State(api): State<Api>,
    Id(id): Id,
    file: Result<Path<(String, String)>, PathRejection>,
) -> Result<StatusCode, Problem> {
    let picture = file.ok().and_then(|Path((_, file))| jpeg_number(&file));
    let picture = picture.ok_or_else(|| {
        Problem::bad_request("A picture is named by its number, as in \"1.jpg\".")
    })?;
    remove_picture(&api, id, picture).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove_picture(api: &Api, id: PersonId, picture: i64) -> Result<(), Problem> {
    changed(id, api.people.delete_picture(id, picture).await)
}

pub(super) async fn person(api: &Api, id: PersonId) -> Result<PersonRow, Problem> {
    api.people
        .store
        .person(id)
        .await?
        .ok_or_else(|| no_person(id))
}

fn no_person(id: PersonId) -> Problem {
    Problem::not_found(format!(
        "There is no person {id}, or they have no such picture."
    ))
}

fn changed(id: PersonId, changed: anyhow::Result<PersonChange>) -> Result<(), Problem> {
    match changed {
        Ok(PersonChange::Done) => Ok(()),
        Ok(PersonChange::NotFound) => Err(no_person(id)),
        Ok(PersonChange::Refused(why)) => Err(Problem::new(
            StatusCode::CONFLICT,
            format!("Not done: {why}."),
        )),
        Err(error) => Err(Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("{error:#}."),
        )),
    }
}

/// Returns the problem of a body that does not match the documentation.
pub fn wrong_body(error: &JsonRejection) -> Problem {
    Problem::bad_request(error.body_text())
}
