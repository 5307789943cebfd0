//! The page of an image: the picture with its faces, everything known of each, and the actions.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;

use super::images::Line;
use super::{Frame, Number, Page, Visit, filled, frame, notice, threshold};
use crate::api::View;
use crate::domain::{PersonId, Timings};
use crate::problem::Problem;
use crate::store::{FaceRow, ImageDetail};
use crate::web::format;

#[derive(Template)]
#[template(path = "image.html")]
struct ImagePage {
    frame: Frame,
    line: Line,
    image: ImageDetail,
    faces: Vec<Face>,
    stages: Vec<(&'static str, String)>,
    /// People to choose from, for visitors who may name a face.
    people: Vec<(PersonId, String)>,
    /// Height of the boxes' labels, in pixels of the picture.
    label: u32,
    live: bool,
}

struct Face {
    face: FaceRow,
    /// Left and top in whole pixels, width and height.
    bounds: [i64; 4],
    confidence: Option<&'static str>,
    distance: Option<String>,
    margin: Option<String>,
    score: String,
    quality: String,
    candidates: Vec<(PersonId, String, String)>,
}

/// `GET /images/{id}`: shows everything known of an image.
pub async fn show(State(view): State<View>, visit: Visit, number: Result<Number, Problem>) -> Page {
    let Number(id) = number?;
    let Some(image) = view.store.image(id).await? else {
        let sentence = format!("There is no image {id}. It may have been removed.");
        return Ok(notice(StatusCode::NOT_FOUND, sentence).into_response());
    };
    let frame = frame(&view, visit, "images");
    let people = match frame.visit.csrf {
        Some(_) => view.store.person_names().await?,
        None => Vec::new(),
    };
    let threshold = threshold(&view);
    let page = ImagePage {
        line: Line::new(image.image.clone(), threshold, frame.now_ms),
        faces: image
            .found
            .iter()
            .cloned()
            .map(|face| Face::new(face, threshold))
            .collect(),
        stages: image.timings.map(stages).unwrap_or_default(),
        people,
        label: image
            .image
            .width
            .unwrap_or(0)
            .max(image.image.height.unwrap_or(0))
            / 24,
        live: image.image.finished_at_ms.is_none(),
        image,
        frame,
    };
    Ok(filled(&page))
}

fn stages(timings: Timings) -> Vec<(&'static str, String)> {
    let Timings {
        decode_ms,
        detect_ms,
        align_ms,
        embed_ms,
        encode_ms,
    } = timings;
    [
        ("decode", decode_ms),
        ("detect", detect_ms),
        ("align", align_ms),
        ("embed", embed_ms),
        ("encode", encode_ms),
    ]
    .map(|(name, ms)| (name, format!("{ms:.1}\u{a0}ms")))
    .into()
}

impl Face {
    fn new(face: FaceRow, threshold: Option<f32>) -> Self {
        let [left, top, right, bottom] = face.bounds.map(|edge| edge.round() as i64);
        let outcome = face.outcome.parse().ok();
        let confidence = outcome.zip(face.distance);
        Self {
            bounds: [left, top, (right - left).max(1), (bottom - top).max(1)],
            confidence: confidence
                .map(|(outcome, distance)| format::confidence(outcome, distance, threshold)),
            distance: face.distance.map(format::distance),
            margin: face.margin.map(format::distance),
            score: format!("{:.2}", face.score),
            quality: format!("{:.2}", face.quality),
            candidates: face
                .candidates
                .iter()
                .filter_map(|candidate| {
                    let distance = format::distance(candidate.distance?.into());
                    Some((candidate.person_id, candidate.name.clone(), distance))
                })
                .collect(),
            face,
        }
    }
}
