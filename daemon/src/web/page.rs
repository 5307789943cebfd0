//! The pages people look at: the status table and the details of one image. Complete without JavaScript.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use serde::Deserialize;

use super::api::Id;
use super::assets::{ASSETS, Assets};
use super::wording;
use super::{VERSION, Web};
use crate::domain::{ImageId, Moment};
use crate::health::{Condition, Part};
use crate::problem::Problem;
use crate::store::{Counts, FaceRow, ImageDetail, ImageRow, RejectedMessage};

const PER_PAGE: usize = 50;
const REJECTED_SHOWN: usize = 5;
/// Longest beginning of a rejected message, in characters.
const BEGINNING: usize = 160;
/// Names in a cell of the table before "and n more".
const NAMES: usize = 3;

/// What every page has around it.
struct Frame {
    assets: &'static Assets,
    version: &'static str,
    device: String,
    /// What recognises, once it is up.
    engine: Option<String>,
}

#[derive(Template)]
#[template(path = "images.html")]
struct ImagesPage {
    frame: Frame,
    counts: Vec<Count>,
    people: u64,
    /// False when MQTT is switched off: then nothing may be promised about it.
    mqtt: bool,
    banners: BTreeMap<&'static str, Part>,
    lines: Vec<Line>,
    /// Set on older pages, which stand still.
    before: Option<ImageId>,
    older: Option<ImageId>,
    rejected: Vec<Rejected>,
    /// Host and port the reader used, for the lines of the empty table.
    host: String,
    /// Takes paths by MQTT.
    topic: String,
}

#[derive(Template)]
#[template(path = "image.html")]
struct ImagePage {
    frame: Frame,
    line: Line,
    image: ImageDetail,
    faces: Vec<Face>,
    /// Radius-like length of the picture: labels of the boxes are sized by it.
    label: u32,
    live: bool,
}

#[derive(Template)]
#[template(path = "notice.html")]
struct NoticePage {
    frame: Frame,
    title: &'static str,
    sentence: String,
}

struct Count {
    name: &'static str,
    class: &'static str,
    number: String,
    link: Option<&'static str>,
}

/// A line of the table as it reads.
struct Line {
    id: ImageId,
    path: String,
    source: String,
    names: Vec<Name>,
    /// How many names were left out.
    more: usize,
    faces: u32,
    outcome: Option<String>,
    state: String,
    reason: Option<String>,
    attempts: u32,
    distance: Option<String>,
    accepted: Moment,
    finished: Option<Moment>,
    duration: Option<String>,
    thumbnail: bool,
}

struct Face {
    face: FaceRow,
    /// Whole pixels.
    bounds: [i64; 4],
    distance: Option<String>,
    margin: Option<String>,
    score: String,
    quality: String,
    candidates: Vec<(String, String)>,
}

struct Rejected {
    received: Moment,
    topic: String,
    reason: String,
    beginning: String,
}

#[derive(Deserialize)]
pub struct Place {
    before: Option<String>,
}

/// `GET /`: the newest images, or those before an id.
pub async fn images(
    State(web): State<Web>,
    place: Result<Query<Place>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let before = place.map_or(Some(String::new()), |Query(place)| place.before);
    let image_id = |text: String| {
        let refused = || Problem::bad_request(format!("An image's id is a whole number from 1, not \"{text}\"."));
        text.parse().ok().filter(|id| *id > 0).ok_or_else(refused)
    };
    let before = match before.map(image_id).transpose() {
        Ok(before) => before,
        Err(problem) => return failed(problem),
    };
    table(&web, before, &headers).await.unwrap_or_else(failed)
}

async fn table(web: &Web, before: Option<ImageId>, headers: &HeaderMap) -> Result<Response, Problem> {
    let counts = web.store.counts().await?;
    // One more than shown tells whether older ones follow.
    let mut images = web.store.images(before, PER_PAGE + 1).await?;
    let more = images.len() > PER_PAGE;
    images.truncate(PER_PAGE);
    let rejected = if before.is_none() && counts.rejected_messages > 0 {
        web.store.rejected_messages(REJECTED_SHOWN).await?
    } else {
        Vec::new()
    };
    let mut banners = web.health.parts();
    let mqtt = banners.get("mqtt").is_none_or(|part| part.condition != Condition::Off);
    banners.retain(|_, part| matches!(part.condition, Condition::Degraded | Condition::Starting));
    let page = ImagesPage {
        frame: frame(web),
        people: counts.people,
        mqtt,
        counts: head(&counts),
        banners,
        older: images.last().filter(|_| more).map(|image| image.id),
        lines: images.into_iter().map(Line::from).collect(),
        before,
        rejected: rejected.into_iter().map(Rejected::from).collect(),
        host: host(headers),
        topic: web.topic.clone(),
    };
    Ok(show(StatusCode::OK, &page))
}

/// `GET /images/{id}`: everything known of one image.
pub async fn image(State(web): State<Web>, id: Result<Id, Problem>) -> Response {
    let id = match id {
        Ok(Id(id)) => id,
        Err(problem) => return failed(problem),
    };
    let image = match web.store.image(id).await.map_err(Problem::from) {
        Ok(Some(image)) => image,
        Ok(None) => return notice(StatusCode::NOT_FOUND, format!("There is no image {id}. It may have been removed.")),
        Err(problem) => return failed(problem),
    };
    let page = ImagePage {
        frame: frame(&web),
        line: Line::all_names(image.image.clone()),
        faces: image.found.iter().cloned().map(Face::from).collect(),
        label: image.image.width.unwrap_or(0).max(image.image.height.unwrap_or(0)) / 24,
        live: image.image.finished_at_ms.is_none(),
        image,
    };
    show(StatusCode::OK, &page)
}

/// A page that only says one thing.
pub fn notice(status: StatusCode, sentence: String) -> Response {
    let title = status.canonical_reason().unwrap_or("Error");
    let frame = Frame { assets: &ASSETS, version: VERSION, device: String::new(), engine: None };
    show(status, &NoticePage { frame, title, sentence })
}

fn failed(problem: Problem) -> Response {
    let (status, sentence) = problem.into_parts();
    notice(status, sentence)
}

fn show(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => (status, Html(html)).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot fill in a page");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "The page could not be made.").into_response()
        }
    }
}

fn frame(web: &Web) -> Frame {
    let report = web.desk.borrow().as_ref().map(|desk| (desk.report)());
    let engine = report.filter(|report| report.primary.up).map(|report| report.primary.name());
    Frame { assets: &ASSETS, version: VERSION, device: web.device.clone(), engine }
}

fn head(counts: &Counts) -> Vec<Count> {
    let count = |name, class, number, link| Count { name, class, number: wording::number(number), link };
    let mut head = vec![
        count("pending", "", counts.pending, None),
        count("processing", "", counts.processing, None),
        count("processed", "", counts.processed, None),
        count("failed", if counts.failed > 0 { "failed" } else { "" }, counts.failed, None),
        count("results unsent", "", counts.unsent, None),
        count("people", "", counts.people, None),
    ];
    if counts.rejected_messages > 0 {
        head.push(count("rejected messages", "", counts.rejected_messages, Some("/#rejected")));
    }
    head
}

/// What the reader typed to get here, so that the example commands work from where they sit.
fn host(headers: &HeaderMap) -> String {
    let plain = |host: &&str| host.chars().all(|one| one.is_ascii_alphanumeric() || ".:-[]".contains(one));
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).filter(plain);
    host.unwrap_or("127.0.0.1:8000").into()
}

/// Who is in an image, or may be.
struct Name {
    text: String,
    perhaps: bool,
}

impl Line {
    fn all_names(row: ImageRow) -> Self {
        // A person seen twice is named once; somebody known needs no "perhaps" as well.
        let mut names: Vec<Name> = Vec::new();
        let known = row.persons.into_iter().map(|text| Name { text, perhaps: false });
        let guesses = row.perhaps.into_iter().map(|text| Name { text, perhaps: true });
        for name in known.chain(guesses) {
            if !names.iter().any(|seen| seen.text == name.text) {
                names.push(name);
            }
        }
        Self {
            id: row.id,
            path: row.path,
            source: row.source,
            names,
            more: 0,
            faces: row.faces,
            outcome: row.outcome,
            state: row.state,
            reason: row.reason,
            attempts: row.attempts,
            distance: row.distance.map(wording::distance),
            accepted: Moment::from_ms(row.accepted_at_ms),
            finished: row.finished_at_ms.map(Moment::from_ms),
            duration: row.duration_ms.map(wording::duration),
            thumbnail: row.thumbnail,
        }
    }
}

impl From<ImageRow> for Line {
    fn from(row: ImageRow) -> Self {
        let mut line = Self::all_names(row);
        line.more = line.names.len().saturating_sub(NAMES);
        line.names.truncate(NAMES);
        line
    }
}

impl From<FaceRow> for Face {
    fn from(face: FaceRow) -> Self {
        Self {
            bounds: face.bounds.map(|edge| edge.round() as i64),
            distance: face.distance.map(wording::distance),
            margin: face.margin.map(wording::distance),
            score: format!("{:.2}", face.score),
            quality: format!("{:.2}", face.quality),
            candidates: face
                .candidates
                .iter()
                .filter_map(|candidate| Some((candidate.name.clone(), wording::distance(candidate.distance?.into()))))
                .collect(),
            face,
        }
    }
}

impl From<RejectedMessage> for Rejected {
    fn from(message: RejectedMessage) -> Self {
        let mut beginning: String = message.payload.chars().take(BEGINNING).collect();
        if beginning.len() < message.payload.len() {
            beginning.push('…');
        }
        Self {
            received: Moment::from_ms(message.received_at_ms),
            topic: message.topic,
            reason: message.reason,
            beginning,
        }
    }
}
