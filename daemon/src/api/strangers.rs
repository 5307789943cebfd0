//! `/v1/strangers`: groups of unknown faces listed, shown, named, ignored; and single faces named
//! or marked as not a person. The page's forms for the same.

use axum::Json;
use axum::extract::rejection::{FormRejection, JsonRejection, PathRejection};
use axum::extract::{Form, Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::people::forms::Named;
use super::people::{PersonName, wrong_body};
use super::request::{Asked, Id, digits, limit};
use super::{Api, View, back};
use crate::domain::{ImageId, Outcome, PersonId};
use crate::people::{NamedStranger, RelabelError};
use crate::problem::Problem;
use crate::store::{Came, StrangerFace, StrangerId, StrangerRow};

/// Filter for groups of strangers, and position in the list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct StrangerQuery {
    /// Lists the ignored groups instead of the others.
    ignored: Option<bool>,
    /// Lists only groups that came in more than one sighting (true), or only the others (false).
    returned: Option<bool>,
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
#[utoipa::path(get, operation_id = "strangers", path = "/v1/strangers", tag = "strangers", params(StrangerQuery),
    responses((status = 200, body = StrangerPage), Problem))]
pub async fn list(
    State(view): State<View>,
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
    let came = match query.returned {
        None => Came::Ever,
        Some(true) => Came::Again,
        Some(false) => Came::Once,
    };
    let (strangers, next) = view
        .store
        .stranger_groups(
            query.ignored.unwrap_or(false),
            came,
            cursor.transpose()?,
            limit,
        )
        .await?;
    Ok(Json(StrangerPage {
        strangers,
        next_cursor: next.map(|(image, id)| format!("{image}-{id}")),
    }))
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
#[utoipa::path(get, operation_id = "stranger", path = "/v1/strangers/{id}", tag = "strangers", params(("id" = i64, Path, minimum = 1)),
    responses((status = 200, body = StrangerDetail), Problem))]
pub async fn show(State(view): State<View>, Id(id): Id) -> Result<Json<StrangerDetail>, Problem> {
    let stranger = view.store.stranger(id).await?;
    let stranger = stranger.ok_or_else(|| no_stranger(id))?;
    Ok(Json(StrangerDetail {
        stranger,
        members: view.store.stranger_faces(id, None, 200).await?,
    }))
}

/// The problem for a group that does not exist.
pub fn no_stranger(id: StrangerId) -> Problem {
    Problem::not_found(format!(
        "There is no stranger {id}; perhaps it was named, or its faces are gone."
    ))
}

/// Name for a stranger or a face.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Name {
    /// Name of the person, who is added if unknown.
    #[schema(inline)]
    name: PersonName,
    /// Enrols faces even if they are another enrolled person's.
    #[serde(default)]
    anyway: bool,
}

/// Names a group: its best faces enrol the person, all its past faces get the name, and the group
/// is dissolved.
///
/// Published results stay as they are.
#[utoipa::path(post, path = "/v1/strangers/{id}/name", tag = "strangers", params(("id" = i64, Path, minimum = 1)),
    request_body = Name, responses((status = 200, body = NamedStranger), Problem))]
pub async fn name(
    State(api): State<Api>,
    Id(id): Id,
    body: Result<Json<Name>, JsonRejection>,
) -> Result<Json<NamedStranger>, Problem> {
    let Json(Name {
        name: PersonName(name),
        anyway,
    }) = body.map_err(|error| wrong_body(&error))?;
    give_name(&api, id, name, anyway).await.map(Json)
}

async fn give_name(
    api: &Api,
    id: StrangerId,
    name: String,
    anyway: bool,
) -> Result<NamedStranger, Problem> {
    let people = api.loaded()?;
    people
        .name_stranger(id, &name, anyway)
        .await
        .map_err(Problem::from)
}

/// Setting of a group.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ignored {
    ignored: bool,
}

/// Sets whether a group is ignored.
#[utoipa::path(patch, path = "/v1/strangers/{id}", tag = "strangers", params(("id" = i64, Path, minimum = 1)),
    request_body = Ignored, responses((status = 200, body = StrangerRow), Problem))]
pub async fn ignore(
    State(api): State<Api>,
    Id(id): Id,
    body: Result<Json<Ignored>, JsonRejection>,
) -> Result<Json<StrangerRow>, Problem> {
    let Json(Ignored { ignored }) = body.map_err(|error| wrong_body(&error))?;
    api.people.ignore_stranger(id, ignored).await?;
    api.people
        .store
        .stranger(id)
        .await?
        .map(Json)
        .ok_or_else(|| no_stranger(id))
}

/// Person of a face.
#[derive(Serialize, ToSchema)]
pub struct FacePerson {
    person_id: PersonId,
}

/// Names a face: enrols it as the person and labels it.
#[utoipa::path(post, path = "/v1/images/{id}/faces/{number}/person", tag = "people",
    params(("id" = i64, Path, minimum = 1), ("number" = i32, Path, minimum = 1)),
    request_body = Name, responses((status = 200, body = FacePerson), Problem))]
pub async fn name_face(
    State(api): State<Api>,
    Id(id): Id,
    number: Result<Path<(String, u32)>, PathRejection>,
    body: Result<Json<Name>, JsonRejection>,
) -> Result<Json<FacePerson>, Problem> {
    let number = face(number)?;
    let Json(Name {
        name: PersonName(name),
        anyway,
    }) = body.map_err(|error| wrong_body(&error))?;
    give_face_a_name(&api, id, number, name, anyway)
        .await
        .map(|person_id| Json(FacePerson { person_id }))
}

async fn give_face_a_name(
    api: &Api,
    image: ImageId,
    face: u32,
    name: String,
    anyway: bool,
) -> Result<PersonId, Problem> {
    let people = api.loaded()?;
    people
        .enroll_face(image, face, &name, anyway)
        .await
        .map_err(Problem::from)
}

/// New outcome of a face.
#[derive(Serialize, ToSchema)]
pub struct FaceOutcome {
    outcome: Outcome,
}

/// Marks a face as *not this person*.
///
/// The face is judged again, and similar faces are not taken for this person any more.
#[utoipa::path(delete, path = "/v1/images/{id}/faces/{number}/person", tag = "people",
    params(("id" = i64, Path, minimum = 1), ("number" = i32, Path, minimum = 1)),
    responses((status = 200, body = FaceOutcome), Problem))]
pub async fn not_this_person(
    State(api): State<Api>,
    Id(id): Id,
    number: Result<Path<(String, u32)>, PathRejection>,
) -> Result<Json<FaceOutcome>, Problem> {
    take_name_away(&api, id, face(number)?)
        .await
        .map(|outcome| Json(FaceOutcome { outcome }))
}

async fn take_name_away(api: &Api, image: ImageId, face: u32) -> Result<Outcome, Problem> {
    let people = api.loaded()?;
    people
        .not_this_person(image, face)
        .await
        .map_err(Problem::from)
}

fn face(number: Result<Path<(String, u32)>, PathRejection>) -> Result<u32, Problem> {
    let number = number
        .ok()
        .map(|Path((_, number))| number)
        .filter(|number| *number > 0);
    number.ok_or_else(|| Problem::bad_request("A face is named by its number, from 1."))
}

impl From<RelabelError> for Problem {
    fn from(error: RelabelError) -> Self {
        let status = match error {
            RelabelError::NotFound => StatusCode::NOT_FOUND,
            RelabelError::Refused(_) => StatusCode::CONFLICT,
            RelabelError::Ours(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, format!("{error:#}."))
    }
}

// The page's forms.

/// `POST /strangers/{id}/name`.
pub async fn name_form(
    State(api): State<Api>,
    Id(id): Id,
    form: Result<Form<Named>, FormRejection>,
) -> Response {
    let told = match form {
        Ok(Form(Named { name, anyway })) => give_name(&api, id, name, anyway.is_some()).await,
        Err(error) => Err(Problem::bad_request(error.body_text())),
    };
    match told {
        Ok(named) => {
            let faces = if named.faces == 1 {
                "1 past face has".into()
            } else {
                format!("{} past faces have", named.faces)
            };
            back(
                &format!("/people/{}", named.person_id),
                Ok(&format!("{faces} the name now.")),
            )
        }
        Err(problem) => back(&format!("/strangers/{id}"), Err(problem)),
    }
}

/// `POST /strangers/{id}/ignore`.
pub async fn ignore_form(State(api): State<Api>, Id(id): Id) -> Response {
    let told = api
        .people
        .ignore_stranger(id, true)
        .await
        .map_err(Problem::from);
    back("/strangers", told.map(|()| "The stranger is ignored."))
}

/// `POST /strangers/{id}/watch`.
pub async fn watch_form(State(api): State<Api>, Id(id): Id) -> Response {
    let told = api
        .people
        .ignore_stranger(id, false)
        .await
        .map_err(Problem::from);
    back(
        "/strangers",
        told.map(|()| "The stranger is no longer ignored."),
    )
}

/// `POST /images/{id}/faces/{number}/person`.
pub async fn name_face_form(
    State(api): State<Api>,
    Id(id): Id,
    number: Result<Path<(String, u32)>, PathRejection>,
    form: Result<Form<Named>, FormRejection>,
) -> Response {
    let told = async {
        let Form(Named { name, anyway }) =
            form.map_err(|error| Problem::bad_request(error.body_text()))?;
        give_face_a_name(&api, id, face(number)?, name, anyway.is_some()).await
    };
    back(
        &format!("/images/{id}"),
        told.await.map(|_| "The face is enrolled and named."),
    )
}

/// `POST /images/{id}/faces/{number}/not-this-person`.
pub async fn not_this_person_form(
    State(api): State<Api>,
    Id(id): Id,
    number: Result<Path<(String, u32)>, PathRejection>,
) -> Response {
    let told = async { take_name_away(&api, id, face(number)?).await };
    back(
        &format!("/images/{id}"),
        told.await.map(|_| "The face is marked as not this person."),
    )
}
