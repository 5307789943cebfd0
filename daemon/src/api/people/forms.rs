//! The page's forms about people. Each returns to a page with a sentence.

use axum::extract::rejection::{FormRejection, PathRejection};
use axum::extract::{Form, Path, Request, State};
use axum::response::Response;
use serde::Deserialize;

use super::{change_name, erase, person, put_together, rejected, remove_picture, take};
use crate::api::request::Id;
use crate::api::{Api, back, refused};
use crate::domain::PersonId;
use crate::names;
use crate::people::Enrolment;
use crate::problem::Problem;

/// `POST /people`: a name, and one or several pictures.
pub async fn enroll(State(api): State<Api>, request: Request) -> Response {
    let told = upload(&api, None, request).await;
    back("/people", told.as_deref().map_err(Clone::clone))
}

/// `POST /people/{id}/pictures`.
pub async fn add_picture(State(api): State<Api>, Id(id): Id, request: Request) -> Response {
    let told = async {
        let name = person(&api, id).await?.name;
        upload(&api, Some(name), request).await
    };
    back(
        &format!("/people/{id}"),
        told.await.as_deref().map_err(Clone::clone),
    )
}

/// Enrols every picture of a form; returns the outcomes as a sentence.
async fn upload(api: &Api, name: Option<String>, request: Request) -> Result<String, Problem> {
    let brought = api.uploads.receive(request, None).await?;
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
    let name = name.ok_or_else(|| refused("Say who is on the picture."))?;
    // A box that is not ticked is not sent.
    let anyway = field("anyway").is_some();
    if brought.pictures.is_empty() {
        return Err(refused("Choose a picture."));
    }
    let (mut told, mut taken) = (Vec::new(), false);
    for picture in brought.pictures {
        let report = take(api, name.clone(), picture, anyway).await?;
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
pub async fn rename(
    State(api): State<Api>,
    Id(id): Id,
    form: Result<Form<Named>, FormRejection>,
) -> Response {
    let told = match form {
        Ok(Form(Named { name, .. })) => change_name(&api, id, name).await,
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
pub async fn merge(
    State(api): State<Api>,
    Id(id): Id,
    form: Result<Form<Into>, FormRejection>,
) -> Response {
    let (place, told) = match form {
        Ok(Form(Into { into })) => match put_together(&api, id, into).await {
            Ok(()) => (into, Ok("They are one person now.")),
            Err(problem) => (id, Err(problem)),
        },
        Err(error) => (id, Err(Problem::bad_request(error.body_text()))),
    };
    back(&format!("/people/{place}"), told)
}

/// `POST /people/{id}/forget`.
pub async fn forget(State(api): State<Api>, Id(id): Id) -> Response {
    match erase(&api, id).await {
        Ok(gone) if gone.may_hold_them.is_empty() => back("/people", Ok("The person is erased.")),
        Ok(gone) => {
            let text = format!(
                "The person is erased, but may still be in what was moved aside: {}.",
                gone.may_hold_them.join(", ")
            );
            back("/people", Ok(&text))
        }
        Err(problem) => back(&format!("/people/{id}"), Err(problem)),
    }
}

/// `POST /people/{id}/pictures/{picture}/delete`.
pub async fn delete_picture(
    State(api): State<Api>,
    Id(id): Id,
    picture: Result<Path<(String, i64)>, PathRejection>,
) -> Response {
    let told = match picture {
        Ok(Path((_, picture))) => remove_picture(&api, id, picture).await,
        Err(error) => Err(Problem::bad_request(error.body_text())),
    };
    back(
        &format!("/people/{id}"),
        told.map(|()| "The picture is erased."),
    )
}
