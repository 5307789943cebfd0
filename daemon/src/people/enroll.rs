//! Enrolment: takes one picture of one person into the gallery, or gives the reason why not.
//!
//! The picture is kept in the database, so that another model pack can embed it again. Its face is
//! compared with all enrolled people first: a face of another person is refused, unless the
//! operator insists.

use anyhow::{anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::domain::{NamedCandidate, PersonId, sha256};
use crate::engine_process::FoundFace;
use crate::engines::client::{EngineReply, Picture};
use crate::engines::{Admission, Recognised};
use crate::names;
use crate::people::matcher::LeftOut;
use crate::people::resemblance::{Resemblance, described};
use crate::people::{Matcher, People};
use crate::queue::Failure;
use crate::store::{EnrolledPicture, Store};

/// Longest wait of an enrolment for an engine that is starting.
const ENGINE_WAIT: std::time::Duration = std::time::Duration::from_secs(60);

/// Ratio by which the largest of several faces must exceed the next to be taken, unless it alone is
/// in the middle.
const DOMINANT: f32 = 2.0;

/// A face below this quality, or below this width in pixels, is a weak reference: 7 % of 343
/// labelled pictures.
const WEAK_QUALITY: f32 = 0.85;
const WEAK_WIDTH: f32 = 64.0;

/// Advice to repeat the enrolment of a face that the gallery contradicts.
pub(super) const ANYWAY: &str =
    "or, if you are sure, send it again with anyway (--anyway, anyway=true, \"anyway\": true)";

/// Result of enrolling one picture, as the closing table shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EnrolmentReport {
    /// File name.
    pub image_name: String,
    /// Name of the person to enrol.
    pub person: String,
    /// Number of the person, if enrolled.
    pub person_id: Option<PersonId>,
    /// Enrolled, already there, or rejected.
    pub enrolment: Enrolment,
    /// Reason of a rejection, or a remark.
    pub remark: Option<String>,
    /// Another person that the face resembles.
    pub resembles: Option<NamedCandidate>,
}

/// Outcome of an enrolment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Enrolment {
    /// The picture is in the gallery.
    Enrolled,
    /// The same bytes were enrolled before.
    AlreadyThere,
    /// The picture was refused; the remark says why.
    Rejected,
}

impl People {
    /// Enrols the face of a picture; with `anyway`, even if the gallery contradicts. Returns `Err`
    /// if disk or engine fail; a rejected picture is a report.
    pub async fn enroll(
        &self,
        admission: &Admission,
        person: &str,
        image_name: &str,
        bytes: Vec<u8>,
        anyway: bool,
    ) -> anyhow::Result<EnrolmentReport> {
        let mut report = EnrolmentReport {
            image_name: names::of_picture(image_name),
            person: names::clean(person),
            person_id: None,
            enrolment: Enrolment::Rejected,
            remark: None,
            resembles: None,
        };
        let person = match names::given_to_person(person) {
            Ok(person) => person,
            Err(why) => {
                return Ok(EnrolmentReport {
                    remark: Some(why),
                    ..report
                });
            }
        };
        let matcher = self.matcher()?;
        let _turn = self.turn.lock().await;
        let started = tokio::time::timeout(ENGINE_WAIT, self.engines.started()).await;
        let started = started.unwrap_or_else(|_| Err("the engine is still being started".into()));
        started.map_err(|why| anyhow!("the picture cannot be enrolled now: {why}"))?;
        let picture = Picture {
            bytes: bytes.clone().into(),
            path: None,
            faces_only: false,
        };
        let reply = match self.engines.recognise(admission, None, &picture).await {
            Ok(Recognised {
                answer: EngineReply::Faces(reply),
                ..
            }) => reply,
            Ok(Recognised {
                answer: EngineReply::Name(_),
                ..
            }) => {
                bail!("the configured engine names people itself; enrol them there")
            }
            Err(Failure::Unreadable { why, .. }) => {
                return Ok(EnrolmentReport {
                    remark: Some(why),
                    ..report
                });
            }
            Err(failure) => bail!(failure.verdict().sentence),
        };
        report.person_id = self.store.person_named(person.clone()).await?;
        let beside = |face: FoundFace| {
            let resemblance = Resemblance::of(&matcher, &face.embedding, report.person_id);
            resemblance.map(|resemblance| Beside { face, resemblance })
        };
        let faces = reply
            .faces
            .into_iter()
            .map(beside)
            .collect::<Result<Vec<_>, _>>()?;
        let Chosen {
            face: Beside { face, resemblance },
            remark,
        } = match choose(faces, reply.size, &person, anyway) {
            Ok(chosen) => chosen,
            Err(Refused { why, resembles }) => {
                return Ok(EnrolmentReport {
                    remark: Some(why),
                    resembles,
                    ..report
                });
            }
        };
        report.resembles = resemblance.resembles().cloned();
        if let Some(objection) = face.objection {
            return Ok(EnrolmentReport {
                remark: Some(objection),
                ..report
            });
        }
        if let Some(objection) = resemblance.objection(&person).filter(|_| !anyway) {
            return Ok(EnrolmentReport {
                remark: Some(format!("{objection}, {ANYWAY}")),
                ..report
            });
        }
        let mut remarks: Vec<String> = remark.into_iter().collect();
        remarks.extend(weakness(face.quality, face.bounds));
        let picture = EnrolledPicture {
            image_name: report.image_name.clone(),
            sha256: sha256(&bytes),
            picture: bytes,
            bounds: face.bounds,
            quality: face.quality,
            crop: face.crop,
            embedding: face.embedding,
            space: matcher.space().into(),
        };
        let enrolled = match self.store.enroll(person, picture).await? {
            Ok(enrolled) => enrolled,
            Err(holder) => {
                return Ok(EnrolmentReport {
                    remark: Some(format!("the same picture is enrolled as {holder}")),
                    ..report
                });
            }
        };
        // The picture may have been a counter-example of this person until now.
        refresh(&self.store, &matcher).await?;
        report.enrolment = if enrolled.added {
            Enrolment::Enrolled
        } else {
            Enrolment::AlreadyThere
        };
        if enrolled.added {
            remarks.extend(resemblance.remarks(&enrolled.name));
        }
        report.remark = (!remarks.is_empty()).then(|| remarks.join("; "));
        Ok(EnrolmentReport {
            person: enrolled.name,
            person_id: Some(enrolled.person_id),
            ..report
        })
    }
}

/// A face of a picture, with its resemblance to enrolled people.
struct Beside {
    face: FoundFace,
    resemblance: Resemblance,
}

/// The face to enrol, with a remark if there was a choice.
struct Chosen {
    face: Beside,
    remark: Option<String>,
}

/// Reason why no face of a picture can be enrolled, with the person it is instead.
struct Refused {
    why: String,
    resembles: Option<NamedCandidate>,
}

/// Loads the gallery into memory, one call at a time, so that an older state does not replace a
/// newer one. Damaged rows are set aside; `keep_gallery` embeds them again.
pub async fn refresh(store: &Store, matcher: &Matcher) -> anyhow::Result<()> {
    let _turn = matcher.turn().await;
    let pictures = store.gallery(matcher.space().into()).await?;
    let LeftOut {
        pictures,
        counter_examples,
    } = matcher.replace(
        pictures,
        store.counter_examples(matcher.space().into()).await?,
    );
    if pictures.is_empty() && counter_examples.is_empty() {
        return Ok(());
    }
    for (person, picture) in &pictures {
        tracing::error!(
            person,
            picture,
            "the embedding of an enrolled picture is damaged; it is made anew"
        );
    }
    for id in &counter_examples {
        tracing::error!(
            counter_example = id,
            "the embedding of a counter-example is damaged; it is made anew"
        );
    }
    let pictures = pictures.into_iter().map(|(_, picture)| picture).collect();
    Ok(store
        .set_vectors_aside(matcher.space().into(), pictures, counter_examples)
        .await?)
}

/// Chooses among several faces: the one like the person's pictures, else the one that stands out
/// among those of no other person.
fn choose(
    mut faces: Vec<Beside>,
    (width, height): (u32, u32),
    person: &str,
    anyway: bool,
) -> Result<Chosen, Refused> {
    let area = |it: &Beside| {
        (it.face.bounds[2] - it.face.bounds[0]) * (it.face.bounds[3] - it.face.bounds[1])
    };
    let (width, height) = (width as f32, height as f32);
    let refused = |why: String, resembles: Option<&NamedCandidate>| Refused {
        why,
        resembles: resembles.cloned(),
    };
    faces.sort_by(|a, b| area(b).total_cmp(&area(a)));
    let count = faces.len();
    if count == 1
        && let Some(face) = faces.pop()
    {
        return Ok(Chosen { face, remark: None });
    }
    let own = |it: &Beside| it.resemblance.own_distance();
    let theirs = (0..count)
        .filter_map(|at| Some((at, own(&faces[at])?)))
        .min_by(|a, b| a.1.total_cmp(&b.1));
    if let Some((at, _)) = theirs {
        let face = faces.swap_remove(at);
        let place = place(&face.face, width, height);
        let remark = format!(
            "{count} faces were found; the one like the earlier pictures of {person}, {place}, was taken"
        );
        return Ok(Chosen {
            face,
            remark: Some(remark),
        });
    }
    let (free, others): (Vec<_>, Vec<_>) = faces
        .into_iter()
        .partition(|it| anyway || it.resemblance.somebody_else().is_none());
    let left_out: Vec<_> = others
        .iter()
        .filter_map(|it| it.resemblance.somebody_else())
        .collect();
    let names = left_out
        .iter()
        .map(|other| described(other))
        .collect::<Vec<_>>()
        .join(", ");
    let rival = free
        .get(1)
        .map(|rival| (area(rival), over_centre(&rival.face, width, height)));
    let alone = free.len() == 1;
    let Some(face) = free.into_iter().next() else {
        return Err(match left_out.first() {
            None => refused("no face was found".into(), None),
            Some(first) => {
                let why = format!(
                    "{count} faces were found, and each is somebody else: {names}; crop the picture, {ANYWAY}"
                );
                refused(why, Some(first))
            }
        });
    };
    let stands_out = rival.is_none_or(|(rival_area, rival_over_centre)| {
        (over_centre(&face.face, width, height) && !rival_over_centre)
            || area(&face) >= DOMINANT * rival_area
    });
    if !stands_out {
        let why =
            format!("{count} faces were found and none stands out; crop the picture to the person");
        return Err(refused(why, left_out.first().copied()));
    }
    let place = place(&face.face, width, height);
    let remark = match (left_out.is_empty(), alone) {
        (true, _) => format!("{count} faces were found; the largest, {place}, was taken"),
        (false, true) => {
            format!(
                "{count} faces were found; the one that is nobody else's, {place}, was taken; not {names}"
            )
        }
        (false, false) => {
            format!(
                "{count} faces were found; the largest that is nobody else's, {place}, was taken; not {names}"
            )
        }
    };
    Ok(Chosen {
        face,
        remark: Some(remark),
    })
}

/// Returns a remark on a face so weak that its person may be missed.
fn weakness(quality: f32, [left, _, right, _]: [f32; 4]) -> Option<String> {
    let width = right - left;
    if width < WEAK_WIDTH {
        return Some(format!(
            "a weak reference: the face is only {width:.0} pixels wide, better are {WEAK_WIDTH} or more"
        ));
    }
    (quality < WEAK_QUALITY).then(|| {
        format!(
            "a weak reference: its quality is {quality:.2}; a sharp face in full light is better"
        )
    })
}

/// Returns true if a face covers the middle of the picture, as in a portrait.
fn over_centre(face: &FoundFace, width: f32, height: f32) -> bool {
    let [left, top, right, bottom] = face.bounds;
    (left..right).contains(&(width / 2.0)) && (top..bottom).contains(&(height / 2.0))
}

fn place(face: &FoundFace, width: f32, height: f32) -> String {
    let third = |low: f32, high: f32, whole: f32, names: [&'static str; 3]| {
        let middle = (low + high) / 2.0 / whole;
        names[if middle < 1.0 / 3.0 {
            0
        } else {
            usize::from(middle > 2.0 / 3.0) + 1
        }]
    };
    let across = third(
        face.bounds[0],
        face.bounds[2],
        width,
        ["left", "centre", "right"],
    );
    let down = third(
        face.bounds[1],
        face.bounds[3],
        height,
        ["upper", "middle", "lower"],
    );
    format!("{down} {across}")
}

#[cfg(test)]
mod tests;
