//! Compares a face that is to be enrolled with the gallery: does it belong to another person, and
//! does it resemble the pictures of its own? `matcher` names faces found in images.

use kith_vision::calibration::redundant_below;
use kith_vision::{Limits, VisionError};

use crate::domain::{NamedCandidate, PersonId};
use crate::people::Matcher;

/// Distance, in thresholds, from which a face differs from the person's earlier pictures. Of 518
/// labelled pairs of one person, none is as far apart by dlib's or SFace's embeddings; of pictures
/// given to the wrong person, 63 % (dlib) and 91 % (SFace) are.
const ANOTHER_FACE: f32 = 1.25;

/// A face, compared with the gallery.
#[derive(Debug, Clone)]
pub(super) struct Resemblance {
    /// File name and distance of the person's nearest picture; `None` if they have no picture yet.
    own: Option<(String, f32)>,
    /// The nearest other person without a counter-example like this face.
    other: Option<NamedCandidate>,
    threshold: f32,
    redundant_below: f32,
    limits: Limits,
}

impl Resemblance {
    /// Compares a face with the gallery, to enrol it as a person, who may be new.
    pub(super) fn of(
        matcher: &Matcher,
        embedding: &[f32],
        person: Option<PersonId>,
    ) -> Result<Self, VisionError> {
        let snapshot = matcher.snapshot();
        let own = match person {
            Some(person) => snapshot.gallery().nearest_of_person(embedding, person)?,
            None => None,
        };
        let own = own.map(|own| {
            (
                snapshot
                    .image_name(own.picture)
                    .unwrap_or_default()
                    .to_string(),
                own.distance,
            )
        });
        let nearest = matcher.nearest(&snapshot, embedding, 2)?;
        let other = nearest
            .iter()
            .find(|candidate| Some(candidate.person) != person);
        let other = other.map(|candidate| snapshot.named(candidate));
        let (threshold, metric) = (matcher.matching().threshold, matcher.matching().metric);
        let redundant_below = redundant_below(metric, threshold);
        Ok(Self {
            own,
            other,
            threshold,
            redundant_below,
            limits: snapshot.limits(),
        })
    }

    /// Returns the distance to the person's own pictures, if it is below the threshold.
    pub(super) fn own_distance(&self) -> Option<f32> {
        self.own
            .as_ref()
            .map(|own| own.1)
            .filter(|distance| *distance < self.threshold)
    }

    /// Returns the person this face belongs to instead: near enough to be known, and nearer than
    /// the person's own pictures.
    pub(super) fn somebody_else(&self) -> Option<&NamedCandidate> {
        let other = self.other.as_ref()?;
        let distance = other.distance?;
        let known = distance < self.limits.known_below;
        let as_near = self
            .own
            .as_ref()
            .is_some_and(|own| own.1 <= distance + self.limits.min_margin);
        (known && !as_near).then_some(other)
    }

    /// Returns another person it resembles, clearly or perhaps.
    pub(super) fn resembles(&self) -> Option<&NamedCandidate> {
        let may_be = |distance: f32| distance <= self.limits.unknown_above;
        self.other
            .as_ref()
            .filter(|other| other.distance.is_some_and(may_be))
    }

    /// Returns the reason why it should not be enrolled as this person.
    pub(super) fn objection(&self, name: &str) -> Option<String> {
        if let Some(other) = self.somebody_else() {
            return Some(format!(
                "this face is {}; enrol it as {}",
                described(other),
                other.name
            ));
        }
        let (image, distance) = self.own.as_ref()?;
        (*distance > ANOTHER_FACE * self.threshold).then(|| {
            format!(
                "this is another face than in the earlier pictures of {name} (distance {distance:.2} to the nearest, {image}); \
                 crop the picture to {name}"
            )
        })
    }

    /// Returns remarks for the operator once it is enrolled as this person.
    pub(super) fn remarks(&self, name: &str) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Some(other) = self.resembles() {
            remarks.push(format!(
                "the face resembles {}: the two may be mixed up",
                described(other)
            ));
        }
        if let Some((image, distance)) = &self.own {
            if *distance < self.redundant_below {
                remarks.push(format!(
                    "it adds nothing: the same face as {image}, distance {distance:.2}"
                ));
            } else if *distance > self.limits.unknown_above {
                remarks.push(format!(
                    "it does not resemble the earlier pictures of {name} (distance {distance:.2} to the nearest, {image})"
                ));
            }
        }
        remarks
    }
}

/// Returns name and distance, as sentences give them.
pub(super) fn described(person: &NamedCandidate) -> String {
    let distance = person
        .distance
        .map_or_else(String::new, |distance| format!(" (distance {distance:.2})"));
    format!("{}{distance}", person.name)
}
