//! Names that operators give to faces found in images: naming, ignoring or watching a group, naming
//! a face, and *not this person*. Past faces get the new label. Published results stay as they are:
//! a result says what was known at its time.
//!
//! `enroll` takes pictures that are given for enrolment; `strangers` forms the groups.

use kith_vision::Metric;
use kith_vision::calibration::redundant_below;

use crate::domain::{ImageId, Outcome, PersonId, sha256};
use crate::files::file_name;
use crate::names;
use crate::people::enroll::{ANYWAY, refresh};
use crate::people::resemblance::Resemblance;
use crate::people::{GalleryNotLoaded, Matcher, People};
use crate::store::{EnrolledPicture, PersonBeside, Relabel, StoreError, StoredFace, StrangerId};

/// Most faces of a group that are enrolled.
const PICTURES: usize = 5;
/// Number of the group's best faces among which they are chosen.
const CHOSEN_FROM: usize = 100;
/// Faces relabelled by one operation of the writer, so that others need not wait long.
const BATCH: usize = 100;
/// Box of the face in a crop: the whole crop.
const CROP_BOUNDS: [f32; 4] = [0.0, 0.0, 150.0, 150.0];

/// Reasons why a label was not changed.
#[derive(Debug, thiserror::Error)]
pub enum RelabelError {
    /// There is no such group, image or face.
    #[error("nothing with this number exists any more")]
    NotFound,
    /// The request cannot be fulfilled; the sentence is for the user.
    #[error("{0}")]
    Refused(String),
    /// Disk or engine failed.
    #[error(transparent)]
    Ours(#[from] anyhow::Error),
}

impl From<GalleryNotLoaded> for RelabelError {
    fn from(error: GalleryNotLoaded) -> Self {
        Self::Ours(error.into())
    }
}

impl From<StoreError> for RelabelError {
    fn from(error: StoreError) -> Self {
        Self::Ours(error.into())
    }
}

/// Result of naming a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct NamedStranger {
    /// Number of the person.
    pub person_id: PersonId,
    /// Faces of the group that were enrolled.
    pub pictures: usize,
    /// Past faces that got the name.
    pub faces: usize,
}

impl People {
    /// Makes a group of strangers a person, or adds it to an existing person: enrols its best
    /// faces, different ones if possible, labels its past faces, and dissolves the group. Faces of
    /// another person are not enrolled, unless `anyway`; if all are, the request is refused. Where
    /// the person is in the picture already, a face stays without the name.
    pub async fn name_stranger(
        &self,
        id: StrangerId,
        name: &str,
        anyway: bool,
    ) -> Result<NamedStranger, RelabelError> {
        let name = names::given_to_person(name).map_err(RelabelError::Refused)?;
        let matcher = self.matcher()?;
        let _turn = self.turn.lock().await;
        if self.store.stranger(id).await?.is_none() {
            return Err(RelabelError::NotFound);
        }
        let best = self
            .store
            .best_stranger_faces(id, matcher.space().into(), CHOSEN_FROM)
            .await?;
        if best.is_empty() {
            return Err(RelabelError::Refused(
                "no face that is still kept of this group can be enrolled".into(),
            ));
        }
        let matching = matcher.matching();
        let best = if anyway {
            best
        } else {
            self.nobody_elses(&matcher, best, &name).await?
        };
        let person = self.store.person_named(name.clone()).await?;
        let (free, taken) = self.one_a_picture(&matcher, best, person).await?;
        if free.is_empty()
            && let Some((face, other)) = taken.first()
        {
            return Err(in_the_picture(&matcher, person, &name, face, *other));
        }
        let mut pictures = Vec::with_capacity(PICTURES);
        for face in differing(
            free,
            matching.metric,
            redundant_below(matching.metric, matching.threshold),
        ) {
            pictures.push(picture_of(&face));
        }
        let (person_id, pictures) = match self.store.name_stranger(id, name, pictures).await? {
            Ok(named) => named.ok_or(RelabelError::NotFound)?,
            Err(holder) => {
                return Err(RelabelError::Refused(format!(
                    "the best faces of this group are enrolled as {holder} already; give it that name, or delete them there \
                     first"
                )));
            }
        };
        refresh(&self.store, &matcher).await?;
        let faces = self.relabel_group(&matcher, id, person_id).await?;
        Ok(NamedStranger {
            person_id,
            pictures,
            faces,
        })
    }

    /// Sets whether a group of strangers is ignored.
    pub async fn ignore_stranger(&self, id: StrangerId, ignored: bool) -> Result<(), RelabelError> {
        if self.store.ignore_stranger(id, ignored).await? {
            Ok(())
        } else {
            Err(RelabelError::NotFound)
        }
    }

    /// Enrols a face found in an image as a new or existing person and labels it. A face of another
    /// person is refused, unless `anyway`, and so is a second face of one person in a picture,
    /// unless pictures show mirrors.
    pub async fn enroll_face(
        &self,
        image: ImageId,
        number: u32,
        name: &str,
        anyway: bool,
    ) -> Result<PersonId, RelabelError> {
        let name = names::given_to_person(name).map_err(RelabelError::Refused)?;
        let matcher = self.matcher()?;
        let _turn = self.turn.lock().await;
        let face = self.usable_face(&matcher, image, number).await?;
        if face.quality < matcher.known_from() {
            return Err(RelabelError::Refused(
                "this face is too poor to identify anyone".into(),
            ));
        }
        if !anyway {
            self.nobody_elses(&matcher, vec![face.clone()], &name)
                .await?;
        }
        let person = self.store.person_named(name.clone()).await?;
        let (_, taken) = self
            .one_a_picture(&matcher, vec![face.clone()], person)
            .await?;
        if let Some((face, other)) = taken.first() {
            return Err(in_the_picture(&matcher, person, &name, face, *other));
        }
        let label = Relabel {
            image_id: image,
            number,
            outcome: Outcome::Known,
            person_id: None,
            distance: Some(0.0),
            margin: None,
            candidates: face.candidates.clone(),
        };
        let picture = picture_of(&face);
        let person = match self.store.enroll_face(name, picture, label).await? {
            Ok(person) => person.ok_or(RelabelError::NotFound)?,
            Err(holder) => {
                return Err(RelabelError::Refused(format!(
                    "this very face is enrolled as {holder}; delete it there first"
                )));
            }
        };
        refresh(&self.store, &matcher).await?;
        self.others_are_not(&matcher, person, image, number).await?;
        Ok(person)
    }

    /// Records that a face is not the person it was taken for, removes it from that person's
    /// enrolled pictures, and judges it again. Returns the new outcome.
    pub async fn not_this_person(
        &self,
        image: ImageId,
        number: u32,
    ) -> Result<Outcome, RelabelError> {
        let matcher = self.matcher()?;
        let _turn = self.turn.lock().await;
        let face = self.usable_face(&matcher, image, number).await?;
        let Some(person) = face.person_id else {
            return Err(RelabelError::Refused(
                "this face is not taken for anybody".into(),
            ));
        };
        let space = matcher.space();
        let (embedding, crop) = (face.embedding.clone(), face.crop.clone());
        self.store
            .add_counter_example(person, space.into(), embedding, crop, sha256(&face.crop))
            .await?;
        refresh(&self.store, &matcher).await?;
        let label = self.judged_again(&matcher, &face).await?;
        let outcome = label.outcome;
        self.store.relabel(vec![label]).await?;
        Ok(outcome)
    }

    /// Continues the naming of groups that a full disk or a restart interrupted.
    pub async fn finish_naming(&self, matcher: &Matcher) -> anyhow::Result<()> {
        for (id, person) in self.store.named_strangers().await? {
            let _turn = self.turn.lock().await;
            self.relabel_group(matcher, id, person).await?;
        }
        Ok(())
    }

    async fn relabel_group(
        &self,
        matcher: &Matcher,
        id: StrangerId,
        person: PersonId,
    ) -> anyhow::Result<usize> {
        let snapshot = matcher.snapshot();
        let pictures: Vec<&[f32]> = snapshot
            .gallery()
            .pictures()
            .filter(|picture| picture.0 == person)
            .map(|picture| picture.2)
            .collect();
        let mut count = 0;
        loop {
            let faces = self.store.some_stranger_faces(id, BATCH).await?;
            if faces.is_empty() {
                return Ok(count);
            }
            let metric = matcher.matching().metric;
            // A face of another embedding space has no distance, but keeps the name the operator
            // gave.
            let distance = |face: &StoredFace| {
                let alike = (face.space == matcher.space()).then_some(face.embedding.as_slice());
                alike.and_then(|face| {
                    pictures
                        .iter()
                        .map(|it| metric.distance(it, face))
                        .min_by(f32::total_cmp)
                })
            };
            let mut faces = faces;
            faces.sort_by(|a, b| {
                let at = |face| distance(face).unwrap_or(f32::INFINITY);
                at(a).total_cmp(&at(b))
            });
            let (faces, taken) = self.one_a_picture(matcher, faces, Some(person)).await?;
            count += faces.len();
            let labels = faces.iter().map(|face| {
                let distance = distance(face);
                let others: Vec<_> = face
                    .candidates
                    .iter()
                    .filter(|one| one.0 != person)
                    .copied()
                    .collect();
                let next = others.first().and_then(|next| next.1);
                Relabel {
                    image_id: face.image_id,
                    number: face.number,
                    outcome: Outcome::Known,
                    person_id: Some(person),
                    distance,
                    margin: distance.zip(next).map(|(distance, next)| next - distance),
                    candidates: std::iter::once((person, distance)).chain(others).collect(),
                }
            });
            self.store.relabel(labels.collect()).await?;
            for (face, _) in taken {
                let mut label = self.judged_again(matcher, &face).await?;
                if label.outcome == Outcome::Unknown {
                    // It leaves the group, and is no stranger: it is like the person beside it.
                    label.outcome = Outcome::Uncertain;
                }
                self.store.relabel(vec![label]).await?;
            }
            for face in faces {
                self.others_are_not(matcher, person, face.image_id, face.number)
                    .await?;
            }
            if self.store.person(person).await?.is_none() {
                // The person was erased meanwhile.
                return Ok(count);
            }
        }
    }

    /// Splits faces, the likeliest first, into those that can be this person, and those that cannot
    /// because another face of their picture is: a person is in a picture at most once, unless
    /// pictures show mirrors.
    async fn one_a_picture(
        &self,
        matcher: &Matcher,
        faces: Vec<StoredFace>,
        person: Option<PersonId>,
    ) -> Result<(Vec<StoredFace>, Vec<(StoredFace, u32)>), StoreError> {
        if matcher.mirrors() {
            return Ok((faces, Vec::new()));
        }
        let (mut free, mut taken) = (Vec::<StoredFace>::with_capacity(faces.len()), Vec::new());
        for face in faces {
            let here = free.iter().find(|other| other.image_id == face.image_id);
            let other = match here {
                Some(other) => Some(other.number),
                None => {
                    let beside = self.store.people_beside(face.image_id, face.number).await?;
                    let them = |it: &&PersonBeside| it.known && Some(it.person_id) == person;
                    beside.iter().find(them).map(|other| other.number)
                }
            };
            match other {
                Some(other) => taken.push((face, other)),
                None => free.push(face),
            }
        }
        Ok((free, taken))
    }

    /// Judges again the other faces of a picture that may be the same person.
    async fn others_are_not(
        &self,
        matcher: &Matcher,
        person: PersonId,
        image: ImageId,
        number: u32,
    ) -> anyhow::Result<()> {
        if matcher.mirrors() {
            return Ok(());
        }
        let mut labels = Vec::new();
        for other in self.store.people_beside(image, number).await? {
            if other.person_id == person
                && !other.known
                && let Some(face) = self.store.stored_face(image, other.number).await?
            {
                labels.push(self.judged_again(matcher, &face).await?);
            }
        }
        Ok(self.store.relabel(labels).await?)
    }

    /// Judges a stored face again, in its picture.
    async fn judged_again(&self, matcher: &Matcher, face: &StoredFace) -> anyhow::Result<Relabel> {
        let (image_id, number) = (face.image_id, face.number);
        if face.embedding.is_empty() || face.space != matcher.space() {
            // It cannot be compared.
            return Ok(Relabel {
                image_id,
                number,
                outcome: Outcome::Uncertain,
                person_id: None,
                distance: None,
                margin: None,
                candidates: face.candidates.clone(),
            });
        }
        let there: Vec<_> = self
            .store
            .people_beside(image_id, number)
            .await?
            .iter()
            .map(|other| other.person_id)
            .collect();
        let judged = matcher.judge(&face.embedding, face.quality, &there)?;
        Ok(Relabel {
            image_id,
            number,
            outcome: judged.outcome,
            person_id: judged.person.map(|person| person.person_id),
            distance: judged.distance,
            margin: judged.margin,
            candidates: judged
                .candidates
                .iter()
                .map(|one| (one.person_id, one.distance))
                .collect(),
        })
    }

    /// Keeps the faces that are not clearly another person's; refuses if none is left.
    async fn nobody_elses(
        &self,
        matcher: &Matcher,
        faces: Vec<StoredFace>,
        name: &str,
    ) -> Result<Vec<StoredFace>, RelabelError> {
        let person = self.store.person_named(name.into()).await?;
        let (mut left, mut objection) = (Vec::with_capacity(faces.len()), None);
        for face in faces {
            let resemblance =
                Resemblance::of(matcher, &face.embedding, person).map_err(anyhow::Error::from)?;
            match resemblance.somebody_else() {
                None => left.push(face),
                Some(_) => objection = objection.or_else(|| resemblance.objection(name)),
            }
        }
        match objection.filter(|_| left.is_empty()) {
            Some(why) => Err(RelabelError::Refused(format!(
                "{why}, say first that it is not them, {ANYWAY}"
            ))),
            None => Ok(left),
        }
    }

    /// Returns a face with embedding and crop in the gallery's embedding space.
    async fn usable_face(
        &self,
        matcher: &Matcher,
        image: ImageId,
        number: u32,
    ) -> Result<StoredFace, RelabelError> {
        let face = self
            .store
            .stored_face(image, number)
            .await?
            .ok_or(RelabelError::NotFound)?;
        if face.embedding.is_empty() || face.crop.is_empty() {
            return Err(RelabelError::Refused(
                "the crop of this face is no longer kept".into(),
            ));
        }
        if face.space != matcher.space() {
            let sentence = "this face was found with another model pack and cannot be compared; send the picture again";
            return Err(RelabelError::Refused(sentence.into()));
        }
        Ok(face)
    }
}

/// Refuses a face of a picture in which another face is this person.
fn in_the_picture(
    matcher: &Matcher,
    person: Option<PersonId>,
    typed: &str,
    face: &StoredFace,
    other: u32,
) -> RelabelError {
    let snapshot = matcher.snapshot();
    let name = person
        .and_then(|person| snapshot.name(person))
        .unwrap_or(typed);
    RelabelError::Refused(format!(
        "face {other} of image {} is {name} already, and a person is in a picture once; say first that face {other} is \
         not {name}, or set recognition.mirrors = true if your pictures show mirrors or screens",
        face.image_id
    ))
}

/// Makes an enrolment picture of a crop, so that another model pack can embed it again.
fn picture_of(face: &StoredFace) -> EnrolledPicture {
    EnrolledPicture {
        image_name: file_name(face.path.as_ref()),
        sha256: sha256(&face.crop),
        picture: face.crop.clone(),
        bounds: CROP_BOUNDS,
        quality: face.quality,
        crop: face.crop.clone(),
        embedding: face.embedding.clone(),
        space: face.space.clone(),
    }
}

/// Chooses the best faces that differ from each other, and fills up with others if they are too
/// few.
fn differing(best: Vec<StoredFace>, metric: Metric, near: f32) -> Vec<StoredFace> {
    let (mut taken, mut alike) = (Vec::<StoredFace>::new(), Vec::new());
    for face in best {
        let differs = taken
            .iter()
            .all(|other| metric.distance(&other.embedding, &face.embedding) >= near);
        if differs {
            taken.push(face);
        } else {
            alike.push(face);
        }
    }
    taken.extend(alike);
    taken.truncate(PICTURES);
    taken
}
