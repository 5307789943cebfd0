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
mod tests {
    use std::path::Path;

    use super::*;

    fn face(bounds: [f32; 4]) -> FoundFace {
        FoundFace {
            bounds,
            landmarks: [[0.0; 2]; 5],
            score: 1.0,
            quality: 1.0,
            objection: None,
            measures: None,
            embedding: vec![],
            crop: vec![],
        }
    }

    /// Faces of one picture, each with its embedding. Biden (1) is enrolled, and with `obama` also
    /// Obama (2).
    fn beside(obama: bool, faces: &[([f32; 4], [f32; 2])]) -> Vec<Beside> {
        let pack = kith_vision::Pack::load(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/packs/dlib-mtcnn"),
        );
        let matcher = Matcher::new(&pack.unwrap(), Default::default());
        let long = |[x, y]: [f32; 2]| [vec![x, y], vec![0.0; matcher.dimension() - 2]].concat();
        let row = |person_id, name: &str, at| crate::store::GalleryRow {
            person_id,
            name: name.into(),
            person_image_id: person_id,
            image_name: format!("{name}.jpg"),
            embedding: long(at),
        };
        let mut rows = vec![row(1, "Biden", [1.0, 0.0])];
        rows.extend(obama.then(|| row(2, "Obama", [0.0, 1.0])));
        matcher.replace(rows, Vec::new());
        let beside = |(bounds, at): &([f32; 4], [f32; 2])| Beside {
            face: face(*bounds),
            resemblance: Resemblance::of(&matcher, &long(*at), obama.then_some(2)).unwrap(),
        };
        faces.iter().map(beside).collect()
    }

    const SMALL: [f32; 4] = [0.0, 0.0, 10.0, 10.0];
    const LARGE: [f32; 4] = [70.0, 70.0, 99.0, 99.0];
    const BIDEN: [f32; 2] = [0.9, 0.1];
    const OBAMA: [f32; 2] = [0.1, 0.9];
    const STRANGER: [f32; 2] = [-1.0, -1.0];

    fn taken(faces: Vec<Beside>, anyway: bool) -> Result<([f32; 4], String), String> {
        let chosen = choose(faces, (100, 100), "Obama", anyway).map_err(|refused| refused.why)?;
        Ok((chosen.face.face.bounds, chosen.remark.unwrap_or_default()))
    }

    #[test]
    fn of_several_faces_the_dominant_one_is_taken_and_said() {
        let faces = beside(false, &[(SMALL, STRANGER), (LARGE, OBAMA)]);
        let remark = "2 faces were found; the largest, lower right, was taken";
        assert_eq!(taken(faces, false).unwrap(), (LARGE, remark.into()));
    }

    #[test]
    fn the_face_like_the_earlier_pictures_is_taken_however_small() {
        let faces = beside(
            true,
            &[
                (SMALL, OBAMA),
                (LARGE, BIDEN),
                ([20.0, 20.0, 60.0, 60.0], STRANGER),
            ],
        );
        let (bounds, remark) = taken(faces, false).unwrap();
        assert_eq!(bounds, SMALL);
        assert!(
            remark.contains("the one like the earlier pictures of Obama, upper left"),
            "{remark}"
        );
    }

    #[test]
    fn a_face_of_somebody_else_is_never_taken_unless_told() {
        let group = [(SMALL, OBAMA), (LARGE, BIDEN)];
        let (bounds, remark) = taken(beside(false, &group), false).unwrap();
        assert_eq!(bounds, SMALL);
        assert!(
            remark.contains("nobody else's, upper left, was taken; not Biden (distance 0.14)"),
            "{remark}"
        );
        assert_eq!(taken(beside(false, &group), true).unwrap().0, LARGE);
        let two = [(SMALL, BIDEN), (LARGE, BIDEN)];
        let why = taken(beside(false, &two), false).unwrap_err();
        assert!(
            why.starts_with(
                "2 faces were found, and each is somebody else: Biden (distance 0.14), Biden"
            ),
            "{why}"
        );
        let alone = &beside(true, &[(LARGE, BIDEN)])[0].resemblance;
        assert_eq!(
            alone.objection("Obama").unwrap(),
            "this face is Biden (distance 0.14); enrol it as Biden"
        );
    }

    #[test]
    fn faces_of_one_size_and_no_face_are_rejected_with_the_reason() {
        let faces = beside(
            false,
            &[(SMALL, STRANGER), ([50.0, 0.0, 61.0, 11.0], OBAMA)],
        );
        assert!(
            taken(faces, false)
                .unwrap_err()
                .contains("2 faces were found and none stands out")
        );
        assert_eq!(taken(vec![], false).unwrap_err(), "no face was found");
    }

    #[test]
    fn what_the_earlier_pictures_say_is_remarked_or_refused() {
        let said = |at| {
            let resemblance = beside(true, &[(LARGE, at)]).remove(0).resemblance;
            (
                resemblance.objection("Obama"),
                resemblance.remarks("Obama").join("; "),
            )
        };
        let (objection, remarks) = said([0.0, 1.05]);
        assert_eq!(
            (objection, remarks.as_str()),
            (
                None,
                "it adds nothing: the same face as Obama.jpg, distance 0.05"
            )
        );
        assert_eq!(said([0.0, 1.3]), (None, String::new()));
        let (objection, remarks) = said([0.0, 1.5]);
        assert!(
            objection.is_none() && remarks.starts_with("it does not resemble the earlier pictures"),
            "{remarks}"
        );
        assert!(
            said([0.0, 2.0])
                .0
                .unwrap()
                .starts_with("this is another face than in the earlier pictures of Obama")
        );
    }

    #[test]
    fn a_small_or_poor_face_is_a_weak_reference() {
        assert!(
            weakness(0.97, [0.0, 0.0, 45.0, 60.0])
                .unwrap()
                .contains("only 45 pixels wide")
        );
        assert!(
            weakness(0.7, [0.0, 0.0, 90.0, 99.0])
                .unwrap()
                .contains("0.70")
        );
        assert_eq!(weakness(0.9, [0.0, 0.0, 90.0, 99.0]), None);
    }
}
