//! The table of images with its filters and pages, and the things that need attention above it.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use serde::Deserialize;

use super::{Ago, Frame, Page, Visit, filled, frame, text, threshold, word};
use crate::api::View;
use crate::api::request::origin;
use crate::domain::{ImageId, Moment, Outcome, PersonId, Source, State as ImageState};
use crate::problem::Problem;
use crate::status::health::{Condition, Part};
use crate::store::{Counts, FaceBox, ImageFilter, ImageRow, RejectedMessage};
use crate::web::format;

const PER_PAGE: usize = 50;
const REJECTED_SHOWN: usize = 5;
/// Longest beginning of a rejected message, in characters.
const BEGINNING: usize = 160;
/// Names in a cell of the table before "and n more".
const NAMES: usize = 3;

#[derive(Template)]
#[template(path = "images.html")]
struct ImagesPage {
    frame: Frame,
    counts: Vec<Count>,
    /// False if MQTT is switched off, so the page gives no MQTT example.
    mqtt: bool,
    banners: BTreeMap<&'static str, Part>,
    lines: Vec<Line>,
    asked: Asked,
    /// The cameras to choose from; none unless there are several.
    cameras: Vec<String>,
    /// The people to choose from.
    people: Vec<(PersonId, String)>,
    no_people: bool,
    /// Set on older pages, which do not update themselves.
    before: Option<ImageId>,
    /// Addresses of the newest images, and of the next older page.
    newest: String,
    older: Option<String>,
    /// True if not all older images were searched for this page.
    unfinished: bool,
    rejected: Vec<Rejected>,
    /// Number of kept messages, and of messages dropped because there were too many.
    rejected_kept: String,
    rejected_dropped: Option<String>,
    /// Host and port that the reader used, for the examples on an empty board.
    host: String,
    /// MQTT topic that takes paths.
    topic: String,
}

/// The filter as it is in the form and the address. Its fields are text, so that empty fields are
/// valid and a mistake gets a sentence.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    state: String,
    outcome: String,
    person: String,
    source: String,
    camera: String,
    event: String,
    since: String,
    until: String,
    path: String,
    cursor: String,
}

struct Count {
    name: &'static str,
    class: &'static str,
    number: String,
    link: Option<&'static str>,
}

/// A row of the table as it is shown.
pub struct Line {
    pub id: ImageId,
    pub path: String,
    pub source: String,
    pub camera: Option<String>,
    pub event: Option<String>,
    pub names: Vec<Name>,
    /// Number of names that were left out.
    pub more: usize,
    pub faces: u32,
    pub outcome: Option<String>,
    pub state: String,
    pub reason: Option<String>,
    pub remark: Option<String>,
    pub attempts: u32,
    /// Confidence of the match in words, and the number behind it.
    pub confidence: Option<(&'static str, String)>,
    pub accepted: Ago,
    pub finished: Option<Moment>,
    pub duration: Option<String>,
    pub thumbnail: Option<Thumbnail>,
}

/// Size of the whole picture and positions of its faces.
pub struct Thumbnail {
    pub width: u32,
    pub height: u32,
    pub boxes: Vec<Square>,
}

/// A face's box in whole pixels.
pub struct Square {
    pub left: i64,
    pub top: i64,
    pub width: i64,
    pub height: i64,
    pub outcome: Outcome,
}

/// A person who is in an image, or may be.
pub struct Name {
    pub text: String,
    pub perhaps: bool,
}

struct Rejected {
    id: i64,
    received: Moment,
    topic: String,
    reason: String,
    /// Size and, if the sender gave one, content type.
    what: String,
    /// True if the message is complete and can be sent again.
    whole: bool,
    beginning: String,
}

/// `GET /`: shows the newest matching images, or those before an id.
pub async fn show(
    State(view): State<View>,
    visit: Visit,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Page {
    let Query(asked) =
        asked.map_err(|_| Problem::bad_request("Each field of the search can be given once."))?;
    let filter = asked.filter()?;
    let before = word::<ImageId>("cursor", &asked.cursor)?.filter(|id| *id > 0);
    let frame = frame(&view, visit, "images");
    let counts = view.store.counts().await?;
    let people = view.store.person_names().await?;
    let found = view.store.find_images(filter, before, PER_PAGE).await?;
    let rejected = if before.is_none() && counts.rejected_messages > 0 {
        view.store.rejected_messages(None, REJECTED_SHOWN).await?
    } else {
        Vec::new()
    };
    let mut banners = view.health.parts();
    let mqtt = banners
        .get("mqtt")
        .is_none_or(|part| part.condition != Condition::Off);
    banners.retain(|_, part| matches!(part.condition, Condition::Degraded | Condition::Starting));
    let threshold = threshold(&view);
    let page = ImagesPage {
        mqtt,
        counts: head(&counts),
        banners,
        lines: found
            .images
            .into_iter()
            .map(|row| Line::new(row, threshold, frame.now_ms).shortened())
            .collect(),
        cameras: cameras(&view, &asked).await?,
        no_people: people.is_empty(),
        people,
        newest: asked.address(None),
        older: found.next.map(|next| asked.address(Some(next))),
        unfinished: found.unfinished,
        asked,
        before,
        rejected: rejected.into_iter().map(Rejected::from).collect(),
        rejected_kept: format::number(counts.rejected_messages),
        rejected_dropped: (counts.rejected_dropped > 0)
            .then(|| format::number(counts.rejected_dropped)),
        host: host(&headers),
        topic: view.topic.clone(),
        frame,
    };
    Ok(filled(&page))
}

/// Returns the cameras to choose from: those configured, of the newest pictures, and searched for.
async fn cameras(view: &View, asked: &Asked) -> Result<Vec<String>, Problem> {
    let mut cameras = view.store.recent_cameras().await?;
    cameras.extend(view.cameras.iter().cloned());
    let searched = !asked.camera.is_empty();
    cameras.extend(searched.then(|| asked.camera.clone()));
    cameras.sort_unstable();
    cameras.dedup();
    if cameras.len() < 2 && !searched {
        cameras.clear();
    }
    Ok(cameras)
}

impl Asked {
    /// Returns true if any filter is set.
    fn anything(&self) -> bool {
        self.fields().iter().any(|(_, value)| !value.is_empty())
    }

    fn fields(&self) -> [(&'static str, &String); 9] {
        let Self {
            state,
            outcome,
            person,
            source,
            camera,
            event,
            since,
            until,
            path,
            cursor: _,
        } = self;
        [
            ("state", state),
            ("outcome", outcome),
            ("person", person),
            ("source", source),
            ("camera", camera),
            ("event", event),
            ("since", since),
            ("until", until),
            ("path", path),
        ]
    }

    /// Returns the address of a page with the same filter.
    fn address(&self, cursor: Option<ImageId>) -> String {
        super::address("/", &self.fields(), cursor)
    }

    fn filter(&self) -> Result<ImageFilter, Problem> {
        Ok(ImageFilter {
            state: word("state", &self.state)?,
            outcome: word("outcome", &self.outcome)?,
            person: word("person", &self.person)?,
            source: word("source", &self.source)?,
            camera: origin("camera", text(&self.camera))?,
            event: origin("event", text(&self.event))?,
            since_ms: moment(&self.since)?,
            until_ms: moment(&self.until)?,
            path: text(&self.path),
        })
    }

    /// Returns true if the form has this value selected.
    fn is(&self, field: &str, value: impl std::fmt::Display) -> bool {
        super::has(&self.fields(), field, value)
    }
}

/// Parses a form's field for date and time, in UTC.
fn moment(text: &str) -> Result<Option<i64>, Problem> {
    if text.is_empty() {
        Ok(None)
    } else {
        Ok(Some(crate::api::request::moment(text)?))
    }
}

fn head(counts: &Counts) -> Vec<Count> {
    let count = |name, class, number, link| Count {
        name,
        class,
        number: format::number(number),
        link,
    };
    let mut head = vec![
        count("pending", "", counts.pending, Some("/?state=pending")),
        count(
            "processing",
            "",
            counts.processing,
            Some("/?state=processing"),
        ),
        count("processed", "", counts.processed, Some("/?state=processed")),
        count(
            "failed",
            if counts.failed > 0 { "failed" } else { "" },
            counts.failed,
            Some("/?state=failed"),
        ),
        count("results unsent", "", counts.unsent, None),
        count("people", "", counts.people, Some("/people")),
    ];
    if counts.rejected_messages > 0 {
        head.push(count(
            "rejected messages",
            "",
            counts.rejected_messages,
            Some("/#rejected"),
        ));
    }
    head
}

/// Returns the host that the reader typed, so that the example commands work on their machine.
fn host(headers: &HeaderMap) -> String {
    let plain = |host: &&str| {
        host.chars()
            .all(|one| one.is_ascii_alphanumeric() || ".:-[]".contains(one))
    };
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .filter(plain);
    host.unwrap_or("127.0.0.1:8000").into()
}

impl Line {
    /// Makes the row with all its names.
    pub fn new(row: ImageRow, threshold: Option<f32>, now_ms: i64) -> Self {
        // A person seen twice is named once; a known person needs no "perhaps" as well.
        let mut names: Vec<Name> = Vec::new();
        let known = row.persons.into_iter().map(|text| Name {
            text,
            perhaps: false,
        });
        let guesses = row.perhaps.into_iter().map(|text| Name {
            text,
            perhaps: true,
        });
        for name in known.chain(guesses) {
            if !names.iter().any(|seen| seen.text == name.text) {
                names.push(name);
            }
        }
        let outcome = row
            .outcome
            .as_deref()
            .and_then(|outcome| outcome.parse().ok());
        let confidence = outcome.zip(row.distance).map(|(outcome, distance)| {
            (
                format::confidence(outcome, distance, threshold),
                format::distance(distance),
            )
        });
        let size = row
            .width
            .zip(row.height)
            .filter(|(width, height)| *width > 0 && *height > 0);
        let (width, height) = size.unwrap_or((1, 1));
        // Boxes need the picture's size as reference.
        let boxes = row
            .boxes
            .iter()
            .filter(|_| size.is_some())
            .map(Square::from)
            .collect();
        Self {
            id: row.id,
            path: row.path,
            source: row.source,
            camera: row.camera,
            event: row.event,
            names,
            more: 0,
            faces: row.faces,
            outcome: row.outcome,
            state: row.state,
            reason: row.reason,
            remark: row.remark,
            attempts: row.attempts,
            confidence,
            accepted: Ago::new(row.accepted_at_ms, now_ms),
            finished: row.finished_at_ms.map(Moment::from_ms),
            duration: row.duration_ms.map(format::duration),
            thumbnail: row.thumbnail.then_some(Thumbnail {
                width,
                height,
                boxes,
            }),
        }
    }

    /// Shortens the names to the first ones.
    fn shortened(mut self) -> Self {
        self.more = self.names.len().saturating_sub(NAMES);
        self.names.truncate(NAMES);
        self
    }
}

impl From<&FaceBox> for Square {
    fn from(face: &FaceBox) -> Self {
        let [left, top, right, bottom] = face.bounds.map(|edge| edge.round() as i64);
        Self {
            left,
            top,
            width: (right - left).max(1),
            height: (bottom - top).max(1),
            outcome: face.outcome,
        }
    }
}

impl From<RejectedMessage> for Rejected {
    fn from(message: RejectedMessage) -> Self {
        let mut beginning: String = message.beginning.chars().take(BEGINNING).collect();
        if beginning.len() < message.beginning.len() {
            beginning.push('…');
        }
        let mut what = format::counted(message.bytes, "byte", "bytes");
        if let Some(kind) = &message.content_type {
            what = format!("{what}, sent as {kind}");
        }
        Self {
            id: message.id,
            what,
            whole: message.whole,
            received: Moment::from_ms(message.received_at_ms),
            topic: message.topic,
            reason: message.reason,
            beginning,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_query_stays_in_the_address_of_the_next_page() {
        let asked = Asked {
            path: "a b&c=é/ü".into(),
            state: "failed".into(),
            ..Asked::default()
        };
        assert_eq!(
            asked.address(Some(7)),
            "/?state=failed&path=a%20b%26c%3D%C3%A9/%C3%BC&cursor=7"
        );
        assert!(asked.anything() && asked.is("state", ImageState::Failed));
        assert_eq!(Asked::default().address(None), "/");
        assert!(
            !Asked {
                cursor: "3".into(),
                ..Asked::default()
            }
            .anything()
        );
    }
}
