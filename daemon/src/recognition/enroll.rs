//! Enrolment: one picture of one person into the gallery, or a reason why not.
//!
//! The picture is kept, so that another model pack can embed it again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{anyhow, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::client::{Answer, Picture};
use super::guard::Recognised;
use super::{Matcher, Ready};
use crate::domain::hex;
use crate::engine::FoundFace;
use crate::names;
use crate::queue::Failure;
use crate::sources::write_durably;
use crate::store::{EnrolledFace, EnrolledPicture, Store, StoreError};

/// Folder of kept enrolment pictures below the state folder.
pub const PEOPLE: &str = "people";

/// How long an enrolment waits for an engine that is being started.
const ENGINE_WAIT: std::time::Duration = std::time::Duration::from_secs(60);

/// Several faces: the largest is taken if it alone is in the middle, or is this much larger than the next.
const DOMINANT: f32 = 2.0;

/// What became of one picture, as the closing table shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Report {
    /// File name.
    pub image_name: String,
    /// Who it was for.
    pub person: String,
    /// Taken, there already, or rejected.
    pub enrolment: Enrolment,
    /// Reason or remark.
    pub remark: Option<String>,
}

/// Taken or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Enrolment {
    /// In the gallery now.
    Enrolled,
    /// The same bytes were enrolled before.
    AlreadyThere,
    /// Not taken; the remark says why.
    Rejected,
}

/// Enrols through one engine into one store.
#[derive(Clone)]
pub struct Enroller {
    /// The gallery's home.
    pub store: Store,
    /// Where pictures are kept.
    pub state_dir: PathBuf,
    /// Name of the board, for its backups.
    pub device: String,
    /// One after the other, in the order of the calls: who is enrolled and then erased is erased.
    pub turn: Arc<tokio::sync::Mutex<()>>,
    /// Changes when somebody was erased: what shows faces elsewhere is to be cleared.
    pub erasures: watch::Sender<u64>,
    /// Changes when a backup was taken in: what was read into memory before is behind.
    pub restores: watch::Sender<u64>,
}

impl Enroller {
    /// One for all who enrol, change and erase: clones share its turn.
    pub fn new(store: Store, state_dir: &Path, device: &str) -> Self {
        let (state_dir, device) = (state_dir.into(), device.into());
        Self {
            store,
            state_dir,
            device,
            turn: Arc::default(),
            erasures: watch::Sender::default(),
            restores: watch::Sender::default(),
        }
    }

    /// Enrols the face of a picture. `Err` is ours to mend (disk, engine), a rejected picture is a report.
    pub async fn enroll(
        &self,
        up: &Arc<Ready>,
        person: &str,
        image_name: &str,
        bytes: Vec<u8>,
    ) -> anyhow::Result<Report> {
        let report = |enrolment, remark| {
            let (image_name, person) = (image_name.to_string(), person.to_string());
            Ok(Report { image_name, person, enrolment, remark })
        };
        let person = &names::clean(person);
        if let Some(why) = objection_to_name(person) {
            return report(Enrolment::Rejected, Some(why));
        }
        let _turn = self.turn.lock().await;
        let started = tokio::time::timeout(ENGINE_WAIT, up.guard.started()).await;
        let started = started.unwrap_or_else(|_| Err("the engine is still being started".into()));
        started.map_err(|why| anyhow!("nobody can be enrolled now: {why}"))?;
        let picture = Picture { bytes: bytes.clone().into(), path: None };
        let reply = match up.guard.recognise(None, &picture).await {
            Ok(Recognised { answer: Answer::Faces(reply), .. }) => reply,
            Ok(Recognised { answer: Answer::Name(_), .. }) => {
                bail!("the configured engine names people itself; enrol them there")
            }
            Err(Failure::Unreadable { why, .. }) => return report(Enrolment::Rejected, Some(why)),
            Err(failure) => bail!(failure.verdict().sentence),
        };
        let (face, note) = match choose(reply.faces, reply.size) {
            Ok(chosen) => chosen,
            Err(why) => return report(Enrolment::Rejected, Some(why)),
        };
        if let Some(objection) = face.objection {
            return report(Enrolment::Rejected, Some(objection));
        }
        let sha256 = hex(&Sha256::digest(&bytes));
        let file = format!("{PEOPLE}/{sha256}");
        keep(&self.state_dir, &file, bytes).await?;
        let picture = EnrolledPicture {
            image_name: image_name.into(),
            sha256,
            file,
            bounds: face.bounds,
            quality: face.quality,
            crop: face.crop,
            embedding: face.embedding,
            space: up.matcher.space().into(),
        };
        match self.store.enroll(person.into(), picture).await? {
            EnrolledFace::Added => {
                refresh(&self.store, &up.matcher).await?;
                report(Enrolment::Enrolled, note)
            }
            EnrolledFace::AlreadyThere { person: holder } if holder == *person => {
                // Somebody may have said that this face is not them.
                refresh(&self.store, &up.matcher).await?;
                report(Enrolment::AlreadyThere, note)
            }
            EnrolledFace::AlreadyThere { person: holder } => {
                report(Enrolment::Rejected, Some(format!("the same picture is enrolled as {holder}")))
            }
        }
    }
}

/// Takes the store's gallery into memory, one at a time: an older reading must not replace a newer one.
pub(super) async fn refresh(store: &Store, matcher: &Matcher) -> anyhow::Result<()> {
    let _turn = matcher.turn().await;
    let pictures = store.gallery(matcher.space().into()).await?;
    matcher.replace(pictures, store.counter_examples(matcher.space().into()).await?)?;
    Ok(())
}

/// Why nobody can be called that.
pub(super) fn objection_to_name(name: &str) -> Option<String> {
    let bad = names::clean(name).is_empty() || name.chars().count() > 200 || name.contains(char::is_control);
    bad.then(|| "a person's name must have 1 to 200 characters".into())
}

pub(super) async fn keep(state_dir: &Path, file: &str, bytes: Vec<u8>) -> anyhow::Result<()> {
    let target = state_dir.join(file);
    tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(target.parent().unwrap_or(Path::new("/")))?;
        write_durably(&target, &bytes)
    })
    .await?
    .map_err(|source| StoreError::Io { path: state_dir.join(file), source })?;
    Ok(())
}

/// The face to enrol, with a remark when there was a choice; `Err` says why there is none.
fn choose(mut faces: Vec<FoundFace>, (width, height): (u32, u32)) -> Result<(FoundFace, Option<String>), String> {
    let area = |face: &FoundFace| (face.bounds[2] - face.bounds[0]) * (face.bounds[3] - face.bounds[1]);
    faces.sort_by(|a, b| area(b).total_cmp(&area(a)));
    let count = faces.len();
    let (width, height) = (width as f32, height as f32);
    let rival = faces.get(1).map(|rival| (area(rival), over_centre(rival, width, height)));
    let Some(largest) = faces.into_iter().next() else { return Err("no face was found".into()) };
    let Some((rival_area, rival_over_centre)) = rival else { return Ok((largest, None)) };
    let in_the_middle = over_centre(&largest, width, height) && !rival_over_centre;
    if in_the_middle || area(&largest) >= DOMINANT * rival_area {
        let place = place(&largest, width, height);
        Ok((largest, Some(format!("{count} faces were found; the largest, {place}, was taken"))))
    } else {
        Err(format!("{count} faces were found and none stands out; crop the picture to the person"))
    }
}

/// Whether a face lies over the middle of the picture, where a portrait has its subject.
fn over_centre(face: &FoundFace, width: f32, height: f32) -> bool {
    let [left, top, right, bottom] = face.bounds;
    (left..right).contains(&(width / 2.0)) && (top..bottom).contains(&(height / 2.0))
}

fn place(face: &FoundFace, width: f32, height: f32) -> String {
    let third = |low: f32, high: f32, whole: f32, names: [&'static str; 3]| {
        let middle = (low + high) / 2.0 / whole;
        names[if middle < 1.0 / 3.0 { 0 } else { usize::from(middle > 2.0 / 3.0) + 1 }]
    };
    let across = third(face.bounds[0], face.bounds[2], width, ["left", "centre", "right"]);
    let down = third(face.bounds[1], face.bounds[3], height, ["upper", "middle", "lower"]);
    format!("{down} {across}")
}

/// Who a file of a folder of known people belongs to: its sub-folder, else its name without `_1`.
pub fn person_of(folder: &Path, file: &Path) -> Option<String> {
    let below = file.strip_prefix(folder).ok()?;
    let mut parents = below.parent()?.components();
    if let Some(sub) = parents.next() {
        return Some(sub.as_os_str().to_string_lossy().into_owned());
    }
    let stem = file.file_stem()?.to_string_lossy().into_owned();
    let name = match stem.rsplit_once(['_', '-', ' ']) {
        Some((name, number)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => &stem,
    };
    (!name.trim().is_empty()).then(|| name.trim().to_string())
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn of_several_faces_the_dominant_one_is_taken_and_said() {
        let small = face([0.0, 0.0, 10.0, 10.0]);
        let large = face([70.0, 70.0, 99.0, 99.0]);
        let (chosen, remark) = choose(vec![small, large.clone()], (100, 100)).unwrap();
        assert_eq!(chosen.bounds, large.bounds);
        assert_eq!(remark.unwrap(), "2 faces were found; the largest, lower right, was taken");
    }

    #[test]
    fn faces_of_one_size_and_no_face_are_rejected_with_the_reason() {
        let faces = vec![face([0.0, 0.0, 10.0, 10.0]), face([50.0, 0.0, 61.0, 11.0])];
        assert!(choose(faces, (100, 100)).unwrap_err().contains("2 faces were found and none stands out"));
        assert_eq!(choose(vec![], (100, 100)).unwrap_err(), "no face was found");
    }

    #[test]
    fn names_come_from_sub_folders_and_numbered_files() {
        let person = |file: &str| person_of(Path::new("/k"), Path::new(file));
        assert_eq!(person("/k/hannibal_1.jpg").unwrap(), "hannibal");
        assert_eq!(person("/k/john smith-02.png").unwrap(), "john smith");
        assert_eq!(person("/k/Ada.jpg").unwrap(), "Ada");
        assert_eq!(person("/k/Ada Lovelace/2019/x.jpg").unwrap(), "Ada Lovelace");
        assert_eq!(person("/k/_1.jpg"), None);
    }
}
