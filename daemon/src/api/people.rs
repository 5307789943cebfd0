//! People: enrol, rename, merge and forget, and their pictures.

use axum::Json;
use axum::extract::rejection::{FormRejection, JsonRejection, PathRejection};
use axum::extract::{Form, Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::{Admin, back, on_its_own, refused};
use crate::domain::{PersonId, PictureBytes};
use crate::names;
use crate::people::{Enrolment, Report};
use crate::problem::Problem;
use crate::sources::http::LONGEST_NAME;
use crate::sources::upload::{Loaded, Spooled};
use crate::store::{Changed, PersonRow};
use crate::web::api::{Asked, Id, jpeg_number};

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
    report: Report,
}

/// Enrols a person from a picture: its bytes, or a form with one file.
///
/// Answers 201 if the picture was added, 200 if the same bytes were enrolled before.
#[utoipa::path(post, path = "/v1/people", tag = "people", params(Enrolled),
    request_body(content((PictureBytes = "application/octet-stream"))),
    responses((status = 201, body = EnrolledPerson), (status = 200, body = EnrolledPerson), Problem))]
pub async fn enroll(
    State(admin): State<Admin>,
    query: Asked<Enrolled>,
    request: Request,
) -> Result<(StatusCode, Json<EnrolledPerson>), Problem> {
    let Asked(Enrolled {
        name: PersonName(name),
        file_name,
        anyway,
    }) = query;
    let picture = admin.uploads.receive(request, file_name).await?.picture()?;
    let report = take(&admin, name, picture, anyway).await?;
    answer(&admin, report).await
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
    State(admin): State<Admin>,
    Id(id): Id,
    query: Asked<AnotherPicture>,
    request: Request,
) -> Result<(StatusCode, Json<EnrolledPerson>), Problem> {
    let name = person(&admin, id).await?.name;
    let Asked(AnotherPicture { file_name, anyway }) = query;
    let picture = admin.uploads.receive(request, file_name).await?.picture()?;
    let report = take(&admin, name, picture, anyway).await?;
    answer(&admin, report).await
}

async fn answer(
    admin: &Admin,
    report: Report,
) -> Result<(StatusCode, Json<EnrolledPerson>), Problem> {
    let status = match report.enrolment {
        Enrolment::Enrolled => StatusCode::CREATED,
        Enrolment::AlreadyThere => StatusCode::OK,
        Enrolment::Rejected => return Err(rejected(&report)),
    };
    let person = person(admin, report.person_id.unwrap_or_default()).await?;
    Ok((status, Json(EnrolledPerson { person, report })))
}

fn rejected(report: &Report) -> Problem {
    let why = report.remark.as_deref().unwrap_or("no reason was given");
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        format!("{} was not taken: {why}.", report.image_name),
    )
}

async fn take(
    admin: &Admin,
    name: String,
    picture: Spooled,
    anyway: bool,
) -> Result<Report, Problem> {
    let file_name = picture.name.clone();
    if file_name.chars().count() > LONGEST_NAME {
        return Err(refused("The file name of the picture is too long."));
    }
    let people = admin.loaded()?;
    let _turn = admin.engine_turn().await?;
    let Loaded { bytes, room } = admin.uploads.load(picture).await?;
    let enrolling = async move {
        let _room = room;
        people.enroll(&name, &file_name, bytes, anyway).await
    };
    on_its_own(enrolling)
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
    State(admin): State<Admin>,
    Id(id): Id,
    body: Result<Json<Rename>, JsonRejection>,
) -> Result<Json<PersonRow>, Problem> {
    let Json(Rename {
        name: PersonName(name),
    }) = body.map_err(|error| wrong_body(&error))?;
    change_name(&admin, id, name).await?;
    person(&admin, id).await.map(Json)
}

async fn change_name(admin: &Admin, id: PersonId, name: String) -> Result<(), Problem> {
    let people = admin.people.clone();
    changed(
        id,
        on_its_own(async move { people.rename(id, &name).await }).await,
    )
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
    State(admin): State<Admin>,
    Id(id): Id,
    body: Result<Json<Merge>, JsonRejection>,
) -> Result<Json<PersonRow>, Problem> {
    let Json(Merge { into }) = body.map_err(|error| wrong_body(&error))?;
    put_together(&admin, id, into).await?;
    person(&admin, into).await.map(Json)
}

async fn put_together(admin: &Admin, id: PersonId, into: PersonId) -> Result<(), Problem> {
    let people = admin.people.clone();
    changed(
        id,
        on_its_own(async move { people.merge(id, into).await }).await,
    )
}

/// Result of erasing a person.
#[derive(Serialize, ToSchema)]
pub struct Gone {
    /// Quarantined files in the state folder that may still hold the person's data.
    may_hold_them: Vec<String>,
}

/// Erases a person: embeddings, pictures, crops, thumbnails, kept bytes, unsent messages, the name
/// in past results, and the person's data in backups on this board.
///
/// A restore does not bring them back.
#[utoipa::path(delete, path = "/v1/people/{id}", tag = "people", params(("id" = i64, Path, minimum = 1)),
    responses((status = 200, body = Gone), Problem))]
pub async fn forget(State(admin): State<Admin>, Id(id): Id) -> Result<Json<Gone>, Problem> {
    erase(&admin, id)
        .await
        .map(|may_hold_them| Json(Gone { may_hold_them }))
}

async fn erase(admin: &Admin, id: PersonId) -> Result<Vec<String>, Problem> {
    let people = admin.people.clone();
    let erased = on_its_own(async move { people.forget_person(id).await }).await;
    let erased = erased
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}.")))?;
    erased
        .map(|erased| erased.may_hold_them)
        .ok_or_else(|| no_person(id))
}

/// Deletes an enrolled picture of a person.
#[utoipa::path(delete, path = "/v1/people/{id}/pictures/{file}", tag = "people",
    params(("id" = i64, Path, minimum = 1), ("file" = String, Path, pattern = "^[1-9][0-9]{0,17}\\.jpg$", example = "1.jpg")),
    responses((status = 204, description = "Gone"), Problem))]
pub async fn delete_picture(
    State(admin): State<Admin>,
    Id(id): Id,
    file: Result<Path<(String, String)>, PathRejection>,
) -> Result<StatusCode, Problem> {
    let picture = file.ok().and_then(|Path((_, file))| jpeg_number(&file));
    let picture = picture.ok_or_else(|| {
        Problem::bad_request("A picture is named by its number, as in \"1.jpg\".")
    })?;
    remove_picture(&admin, id, picture).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove_picture(admin: &Admin, id: PersonId, picture: i64) -> Result<(), Problem> {
    let people = admin.people.clone();
    changed(
        id,
        on_its_own(async move { people.delete_picture(id, picture).await }).await,
    )
}

async fn person(admin: &Admin, id: PersonId) -> Result<PersonRow, Problem> {
    admin
        .people
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

fn changed(id: PersonId, changed: anyhow::Result<Changed>) -> Result<(), Problem> {
    match changed {
        Ok(Changed::Done(())) => Ok(()),
        Ok(Changed::NotFound) => Err(no_person(id)),
        Ok(Changed::Refused(why)) => Err(Problem::new(
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

// The page's forms.

/// `POST /people`: a name, and one or several pictures.
pub async fn enroll_form(State(admin): State<Admin>, request: Request) -> Response {
    let told = upload(&admin, None, request).await;
    back("/people", told.as_deref().map_err(Clone::clone))
}

/// `POST /people/{id}/pictures`.
pub async fn add_picture_form(
    State(admin): State<Admin>,
    Id(id): Id,
    request: Request,
) -> Response {
    let told = async {
        let name = person(&admin, id).await?.name;
        upload(&admin, Some(name), request).await
    };
    back(
        &format!("/people/{id}"),
        told.await.as_deref().map_err(Clone::clone),
    )
}

/// Enrols every picture of a form; returns the outcomes as a sentence.
async fn upload(admin: &Admin, name: Option<String>, request: Request) -> Result<String, Problem> {
    let brought = admin.uploads.receive(request, None).await?;
    let field = |wanted: &str| {
        brought
            .fields
            .iter()
            .find(|(field, _)| field == wanted)
            .map(|(_, text)| text.clone())
    };
    let name = name
        .or_else(|| field("name"))
        .filter(|name| !names::clean(name).is_empty());
    let name = name.ok_or_else(|| refused("Give the name of the person on the picture."))?;
    // Browsers send a box only if it is ticked.
    let anyway = field("anyway").is_some();
    if brought.pictures.is_empty() {
        return Err(refused("Choose a picture."));
    }
    let (mut told, mut taken) = (Vec::new(), false);
    for picture in brought.pictures {
        let report = take(admin, name.clone(), picture, anyway).await?;
        let remark = report
            .remark
            .as_ref()
            .map_or_else(String::new, |remark| format!(" ({remark})"));
        taken |= report.enrolment != Enrolment::Rejected;
        told.push(match report.enrolment {
            Enrolment::Enrolled => format!("{} was taken{remark}.", report.image_name),
            Enrolment::AlreadyThere => format!("{} had been taken before.", report.image_name),
            Enrolment::Rejected => rejected(&report).into_parts().1,
        });
    }
    let told = told.join(" ");
    if taken { Ok(told) } else { Err(refused(&told)) }
}

/// A name from a form.
#[derive(Deserialize)]
pub struct Named {
    /// Name of the person.
    pub name: String,
    /// Present if its box is ticked.
    pub anyway: Option<String>,
}

/// `POST /people/{id}/rename`.
pub async fn rename_form(
    State(admin): State<Admin>,
    Id(id): Id,
    form: Result<Form<Named>, FormRejection>,
) -> Response {
    let told = match form {
        Ok(Form(Named { name, .. })) => change_name(&admin, id, name).await,
        Err(error) => Err(Problem::bad_request(error.body_text())),
    };
    back(
        &format!("/people/{id}"),
        told.map(|()| "The name is changed."),
    )
}

/// Number of a person from a form.
#[derive(Deserialize)]
pub struct Into {
    into: PersonId,
}

/// `POST /people/{id}/merge`.
pub async fn merge_form(
    State(admin): State<Admin>,
    Id(id): Id,
    form: Result<Form<Into>, FormRejection>,
) -> Response {
    let (place, told) = match form {
        Ok(Form(Into { into })) => match put_together(&admin, id, into).await {
            Ok(()) => (into, Ok("They are one person now.")),
            Err(problem) => (id, Err(problem)),
        },
        Err(error) => (id, Err(Problem::bad_request(error.body_text()))),
    };
    back(&format!("/people/{place}"), told)
}

/// `POST /people/{id}/forget`.
pub async fn forget_form(State(admin): State<Admin>, Id(id): Id) -> Response {
    match erase(&admin, id).await {
        Ok(aside) if aside.is_empty() => back("/people", Ok("The person is erased.")),
        Ok(aside) => {
            let text = format!(
                "The person is erased, but these damaged files may still hold them; delete them: {}.",
                aside.join(", ")
            );
            back("/people", Ok(&text))
        }
        Err(problem) => back(&format!("/people/{id}"), Err(problem)),
    }
}

/// `POST /people/{id}/pictures/{picture}/delete`.
pub async fn delete_picture_form(
    State(admin): State<Admin>,
    Id(id): Id,
    picture: Result<Path<(String, i64)>, PathRejection>,
) -> Response {
    let told = match picture {
        Ok(Path((_, picture))) => remove_picture(&admin, id, picture).await,
        Err(error) => Err(Problem::bad_request(error.body_text())),
    };
    back(
        &format!("/people/{id}"),
        told.map(|()| "The picture is erased."),
    )
}
