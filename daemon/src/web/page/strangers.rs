//! The pages of strangers: unknown faces without a name yet, grouped by likeness.

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::{Ago, Frame, Number, Page, Visit, filled, frame, notice};
use crate::api::View;
use crate::api::request::cut;
use crate::domain::PersonId;
use crate::problem::Problem;
use crate::status::health::Condition;
use crate::store::{Came, StrangerFace, StrangerRow};
use crate::web::format;

const PER_PAGE: usize = 48;
/// Strangers who came once beside the others.
const ONCE: usize = 24;
const FACES: usize = 96;

#[derive(Template)]
#[template(path = "strangers.html")]
struct StrangersPage {
    frame: Frame,
    /// Strangers who came more than once; on the pages of the others, those.
    strangers: Vec<Stranger>,
    /// Strangers who came once, folded away.
    once: Vec<Stranger>,
    /// True if there are more of them.
    more_once: bool,
    ignored: bool,
    /// True on the pages of those who came once.
    only_once: bool,
    first: bool,
    /// Cursor of the next groups.
    older: Option<String>,
    people: Vec<(PersonId, String)>,
    /// Message of the part that groups them, if it does not work.
    trouble: Option<String>,
}

#[derive(Template)]
#[template(path = "stranger.html")]
struct StrangerPage {
    frame: Frame,
    stranger: Stranger,
    faces: Vec<(StrangerFace, Ago)>,
    older: Option<i64>,
    people: Vec<(PersonId, String)>,
}

struct Stranger {
    row: StrangerRow,
    faces: String,
    /// Number of their visits, in words.
    often: String,
    first: Ago,
    last: Ago,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    ignored: Option<String>,
    once: Option<String>,
    /// Last image and number of a group, as "4711-12"; for the faces of one group, an image.
    before: String,
}

fn read(asked: Result<Query<Asked>, QueryRejection>) -> Result<Asked, Problem> {
    let asked = asked.map_err(|_| {
        Problem::bad_request("\"ignored\", \"once\" and \"before\" can be given once.")
    });
    asked.map(|Query(asked)| asked)
}

/// `GET /strangers`: lists the groups, the most recently seen first; those who came once apart.
pub async fn list(
    State(view): State<View>,
    visit: Visit,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Page {
    let asked = read(asked)?;
    let before = match asked.before.as_str() {
        "" => None,
        text => {
            let (image, id) = text.rsplit_once('-').unwrap_or_default();
            let place = image.parse().ok().zip(id.parse().ok());
            Some(place.ok_or_else(|| {
                Problem::bad_request("\"before\" is taken from the link to the older ones.")
            })?)
        }
    };
    let (ignored, only_once) = (asked.ignored.is_some(), asked.once.is_some());
    let frame = frame(&view, visit, "strangers");
    let groups = |came, before, limit| view.store.stranger_groups(ignored, came, before, limit);
    let came = if only_once { Came::Once } else { Came::Again };
    let (rows, next) = groups(came, before, PER_PAGE).await?;
    let (once, further) = match only_once || before.is_some() {
        true => (Vec::new(), None),
        false => groups(Came::Once, None, ONCE).await?,
    };
    let shown = |row| Stranger::new(row, &frame);
    let page = StrangersPage {
        older: next.map(|(image, id)| format!("{image}-{id}")),
        strangers: rows.into_iter().map(shown).collect(),
        once: once.into_iter().map(shown).collect(),
        more_once: further.is_some(),
        only_once,
        ignored,
        first: before.is_none(),
        people: names(&view, &frame).await?,
        trouble: view
            .health
            .parts()
            .remove("strangers")
            .filter(|part| part.condition == Condition::Degraded)
            .map(|part| part.text),
        frame,
    };
    Ok(filled(&page))
}

/// `GET /strangers/{id}`: shows the faces of a group.
pub async fn one(
    State(view): State<View>,
    visit: Visit,
    number: Result<Number, Problem>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Page {
    let (Number(id), asked) = (number?, read(asked)?);
    let before = match asked.before.as_str() {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|_| Problem::bad_request("\"before\" is the number of an image."))?,
        ),
    };
    let Some(stranger) = view.store.stranger(id).await? else {
        let sentence = format!(
            "There is no stranger {id}. The group may have a name now, be merged with another, or have lost its faces to retention."
        );
        return Ok(notice(StatusCode::NOT_FOUND, sentence));
    };
    let frame = frame(&view, visit, "strangers");
    let mut faces = view.store.stranger_faces(id, before, FACES + 1).await?;
    let page = StrangerPage {
        stranger: Stranger::new(stranger, &frame),
        older: cut(&mut faces, FACES).map(|last| last.image_id),
        faces: faces
            .into_iter()
            .map(|face| (face, frame.ago(face.accepted_at_ms)))
            .collect(),
        people: names(&view, &frame).await?,
        frame,
    };
    Ok(filled(&page))
}

/// Returns names to choose from, for visitors who may name a face.
async fn names(view: &View, frame: &Frame) -> Result<Vec<(PersonId, String)>, Problem> {
    match frame.visit.csrf {
        Some(_) => Ok(view.store.person_names().await?),
        None => Ok(Vec::new()),
    }
}

impl Stranger {
    fn new(row: StrangerRow, frame: &Frame) -> Self {
        Self {
            faces: format::counted(row.faces.into(), "face", "faces"),
            often: match row.sightings {
                0 | 1 => "came once".into(),
                2 => "came twice".into(),
                times => format!("came {} times", format::number(times.into())),
            },
            first: frame.ago(row.first_seen_ms),
            last: frame.ago(row.last_seen_ms),
            row,
        }
    }
}
