//! The pages of people: the list, and each person's enrolled pictures with remarks.

use std::collections::HashMap;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::{Ago, Frame, Number, Page, Visit, filled, frame, notice};
use crate::api::View;
use crate::api::request::cut;
use crate::domain::{ImageId, PersonId};
use crate::people::PictureRemark;
use crate::problem::Problem;
use crate::store::{PersonPicture, PersonRow};
use crate::web::format;

const PER_PAGE: usize = 60;
/// Pictures of a person on one page.
const PICTURES: usize = 100;

#[derive(Template)]
#[template(path = "people.html")]
struct PeoplePage {
    frame: Frame,
    people: Vec<Person>,
    /// Text to find in names.
    name: String,
    /// True on the first page.
    first: bool,
    /// Cursor of the next page.
    later: Option<String>,
}

#[derive(Template)]
#[template(path = "person.html")]
struct PersonPage {
    frame: Frame,
    person: Person,
    pictures: Vec<Picture>,
    /// The last of these pictures, if more follow.
    later: Option<i64>,
    /// People to merge with, for visitors who may do so.
    others: Vec<(PersonId, String)>,
    /// True if the gallery could be asked for remarks.
    judged: bool,
}

struct Person {
    id: PersonId,
    name: String,
    pictures: u32,
    best: Option<i64>,
    last: Option<(ImageId, Ago)>,
}

struct Picture {
    picture: PersonPicture,
    quality: String,
    added: Ago,
    remarks: Vec<Remark>,
}

/// A remark on a picture: the text before a link, the link, and the text after it.
struct Remark {
    kind: &'static str,
    before: String,
    link: Option<(String, String)>,
    after: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    name: String,
    /// Number and name of the last person on the previous page.
    after: String,
}

/// `GET /people`: lists all people by name.
pub async fn list(
    State(view): State<View>,
    visit: Visit,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Page {
    let Query(asked) =
        asked.map_err(|_| Problem::bad_request("Each field of the search can be given once."))?;
    let after = match asked.after.as_str() {
        "" => None,
        text => {
            let parsed = text
                .split_once('-')
                .and_then(|(id, name)| Some((name.to_owned(), id.parse().ok()?)));
            let wrong = || {
                Problem::bad_request(format!(
                    "\"after\" must come from the link on another page, not \"{text}\"."
                ))
            };
            Some(parsed.ok_or_else(wrong)?)
        }
    };
    let first = after.is_none();
    let frame = frame(&view, visit, "people");
    let mut people = view
        .store
        .people_named(&asked.name, after, PER_PAGE + 1)
        .await?;
    let later = cut(&mut people, PER_PAGE).map(|last| format!("{}-{}", last.id, last.name));
    let page = PeoplePage {
        people: people
            .into_iter()
            .map(|row| Person::new(row, &frame))
            .collect(),
        name: asked.name,
        first,
        later,
        frame,
    };
    Ok(filled(&page))
}

/// Position in a person's pictures.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Behind {
    after: Option<i64>,
}

/// `GET /people/{id}`: shows a person with their enrolled pictures.
pub async fn one(
    State(view): State<View>,
    visit: Visit,
    number: Result<Number, Problem>,
    behind: Result<Query<Behind>, QueryRejection>,
) -> Page {
    let Number(id) = number?;
    let Query(Behind { after }) =
        behind.map_err(|_| Problem::bad_request("\"after\" is the number of a picture."))?;
    let Some(person) = view.store.person(id).await? else {
        let sentence = format!(
            "There is nobody with the number {id}. The person may have been erased or merged into another."
        );
        return Ok(notice(StatusCode::NOT_FOUND, sentence));
    };
    let frame = frame(&view, visit, "people");
    let mut pictures = view.store.person_pictures(id, after, PICTURES + 1).await?;
    let later = cut(&mut pictures, PICTURES).map(|last| last.id);
    let judged = view.people.threshold().is_some();
    let remarks = view.people.remarks(id).await;
    let mut others = match frame.visit.csrf {
        Some(_) => view.store.person_names().await?,
        None => Vec::new(),
    };
    others.retain(|(other, _)| *other != id);
    let page = PersonPage {
        person: Person::new(person, &frame),
        pictures: described(pictures, &remarks, &frame),
        later,
        others,
        judged,
        frame,
    };
    Ok(filled(&page))
}

impl Person {
    fn new(row: PersonRow, frame: &Frame) -> Self {
        Self {
            id: row.id,
            name: row.name,
            pictures: row.pictures,
            best: row.best_picture,
            last: row.last_image.zip(row.last_seen_ms.map(|at| frame.ago(at))),
        }
    }
}

fn described(
    pictures: Vec<PersonPicture>,
    remarks: &[(i64, PictureRemark)],
    frame: &Frame,
) -> Vec<Picture> {
    let names: HashMap<_, _> = pictures
        .iter()
        .map(|picture| (picture.id, picture.image_name.clone()))
        .collect();
    pictures
        .into_iter()
        .map(|picture| Picture {
            quality: format!("{:.2}", picture.quality),
            added: frame.ago(picture.created_at_ms),
            remarks: remarks
                .iter()
                .filter(|(id, _)| *id == picture.id)
                .map(|(_, one)| remark(one, &names))
                .collect(),
            picture,
        })
        .collect()
}

fn remark(remark: &PictureRemark, names: &HashMap<i64, String>) -> Remark {
    match remark {
        PictureRemark::Redundant { like, distance } => Remark {
            kind: "redundant",
            before: "adds nothing: almost the same as ".into(),
            link: Some((
                format!("#picture-{like}"),
                names.get(like).cloned().unwrap_or_else(|| "another".into()),
            )),
            after: format!(" (distance {})", format::distance((*distance).into())),
        },
        PictureRemark::Outlier { distance } => Remark {
            kind: "outlier",
            before: "does not look like the others".into(),
            link: None,
            after: format!(
                " (nearest at distance {})",
                format::distance((*distance).into())
            ),
        },
        PictureRemark::LooksLike {
            person_id,
            name,
            distance,
        } => Remark {
            kind: "looks like another person",
            before: "near to ".into(),
            link: Some((format!("/people/{person_id}"), name.clone())),
            after: format!(
                " (distance {}): matches may be mixed up",
                format::distance((*distance).into())
            ),
        },
    }
}
