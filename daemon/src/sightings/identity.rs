//! The identity of a sighting, by all its looks.
//!
//! Pure: embeddings in, judgement out, by the gallery of the `Matcher`. Not for which looks belong
//! together (`joining`).

use kith_vision::{Limits, Matching, VisionError};

use crate::domain::{Outcome, PersonId};
use crate::people::Matcher;
use crate::people::matcher::{Judgement, Snapshot};

/// All looks of a sighting as one. A poor look counts only until a good one comes: patterns that
/// are taken for faces resemble some person, and the more of them the surer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Template {
    /// Sum of the good looks' embeddings, each times its quality; without any, the last embedding.
    pub total: Vec<f32>,
    /// Sum of the good looks' qualities: about their number.
    pub weight: f32,
    /// Number of all looks.
    pub looks: u32,
}

impl Template {
    /// Adds a look. A face may be known from the quality `known_from`.
    pub fn add(&mut self, embedding: &[f32], quality: f32, known_from: f32) {
        self.looks += 1;
        let good = quality >= known_from;
        // Looks from another embedding space do not add up.
        let fits = self.total.len() == embedding.len();
        match (good, self.weight > 0.0 && fits) {
            (true, true) => {
                let values = self.total.iter_mut().zip(embedding);
                values.for_each(|(sum, value)| *sum += quality * value);
                self.weight += quality;
            }
            (true, false) => {
                self.total = embedding.iter().map(|value| quality * value).collect();
                self.weight = quality;
            }
            (false, true) => {}
            (false, false) => {
                self.total = embedding.to_vec();
                self.weight = 0.0;
            }
        }
    }

    /// Returns the weighted mean; `None` without an embedding.
    pub fn mean(&self) -> Option<Vec<f32>> {
        let weight = if self.weight > 0.0 { self.weight } else { 1.0 };
        (!self.total.is_empty()).then(|| self.total.iter().map(|value| value / weight).collect())
    }

    /// Returns the number of looks that the mean is worth, at least 1. Part of a look counts as one:
    /// the limits for more looks let fewer strangers pass.
    pub fn worth(&self) -> u32 {
        self.weight.ceil().max(1.0) as u32
    }
}

/// Judges a sighting by all its looks, in a picture in which `there` are present already. `present`
/// is the person that it is known as: kept unless the evidence against it is clear. Returns `None` without an embedding: then
/// looks can only be judged one by one.
///
/// # Errors
/// The embedding is not of the gallery's space.
pub fn judge(
    matcher: &Matcher,
    template: &Template,
    present: Option<PersonId>,
    there: &[PersonId],
) -> Result<Option<Judgement>, VisionError> {
    let Some(mean) = template.mean() else {
        return Ok(None);
    };
    let snapshot = matcher.snapshot();
    let limits = limits(matcher, &snapshot, template.worth());
    // A face is known by good looks only.
    let quality = if template.weight > 0.0 { 1.0 } else { 0.0 };
    let judged = matcher.judge_within(&snapshot, &limits, &mean, quality, there)?;
    let stays = present.filter(|person| matcher.mirrors() || !there.contains(person));
    let kept = stays.and_then(|person| keep(matcher.matching(), &limits, &judged, person));
    Ok(Some(kept.unwrap_or(judged)))
}

fn limits(matcher: &Matcher, snapshot: &Snapshot, looks: u32) -> Limits {
    let pictures = snapshot.gallery().len();
    matcher
        .matching()
        .limits(matcher.caution(), pictures, looks)
}

/// Returns the judgement that `present` is known still, unless the evidence against it is clear:
/// all looks as one give it no name at all; or they are known as another person, and nearer to that
/// one by more than lies between the limits of one face and of two.
fn keep(
    matching: &Matching,
    limits: &Limits,
    judged: &Judgement,
    present: PersonId,
) -> Option<Judgement> {
    let is_present = |person: PersonId| person == present;
    let named = judged.person.as_ref().map(|person| person.person_id);
    if judged.outcome == Outcome::Known && named.is_some_and(is_present) {
        return None;
    }
    let mut candidates = judged.candidates.iter();
    let own = candidates.find(|candidate| is_present(candidate.person_id))?;
    let others = judged
        .candidates
        .iter()
        .filter(|one| !is_present(one.person_id));
    let other = others
        .filter_map(|other| other.distance)
        .min_by(f32::total_cmp);
    let distance = own.distance?;
    let clear = matching.threshold - matching.linking_distance();
    let replaced = judged.outcome == Outcome::Known
        && other.is_some_and(|other| distance - other > clear.max(limits.min_margin));
    (distance <= limits.unknown_above && !replaced).then(|| Judgement {
        outcome: Outcome::Known,
        person: Some(own.clone()),
        distance: Some(distance),
        margin: other.map(|other| (other - distance).max(0.0)),
        candidates: judged.candidates.clone(),
        enrolled_image: None,
        taken: false,
    })
}

/// Judges the sightings of one picture, each with the person that it is known as: no person is in
/// it twice, unless there are mirrors. The nearer one has the name; it is taken from the one that
/// has it already only by a clear margin.
///
/// # Errors
/// An embedding is not of the gallery's space.
pub fn judge_all(
    matcher: &Matcher,
    sightings: &[(&Template, Option<PersonId>)],
) -> Result<Vec<Option<Judgement>>, VisionError> {
    let judge_without = |at: usize, there: &[PersonId]| {
        let (template, present) = sightings[at];
        judge(matcher, template, present, there)
    };
    let mut judged = Vec::with_capacity(sightings.len());
    for at in 0..sightings.len() {
        judged.push(judge_without(at, &[])?);
    }
    if matcher.mirrors() {
        return Ok(judged);
    }
    let person_of = |judgement: &Option<Judgement>| {
        let person = judgement.as_ref()?.person.as_ref()?;
        Some(person.person_id)
    };
    let advantage = matcher.matching().min_margin;
    let rank = |at: usize, judgement: &Option<Judgement>| {
        let judgement = judgement.as_ref()?;
        let person = judgement.person.as_ref()?.person_id;
        let has_it = sightings[at].1 == Some(person);
        let distance = judgement.distance.unwrap_or(f32::INFINITY);
        let distance = if has_it {
            distance - advantage
        } else {
            distance
        };
        Some((judgement.outcome as u8, distance))
    };
    let (mut given, mut open) = (Vec::new(), (0..judged.len()).collect::<Vec<_>>());
    loop {
        let named = open
            .iter()
            .filter_map(|at| Some((*at, rank(*at, &judged[*at])?)));
        let best = named.min_by(|(_, a), (_, b)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let Some((best, _)) = best else {
            return Ok(judged);
        };
        let person = person_of(&judged[best]);
        given.extend(person);
        open.retain(|at| *at != best);
        for &at in &open {
            if person_of(&judged[at]) == person {
                judged[at] = judge_without(at, &given)?;
            }
        }
    }
}

#[cfg(test)]
mod tests;
