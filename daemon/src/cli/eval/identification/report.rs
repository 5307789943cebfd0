//! Figures of `kithd eval --gallery`, as text and as JSON.

use std::collections::BTreeSet;

use kith_vision::Caution;
use kith_vision::evaluation::identification::{Outcomes, Searches};
use kith_vision::evaluation::{Estimate, Sample, estimate};
use serde::Serialize;

use super::People;
use crate::cli::eval::subjects::Half;

/// Shares of strangers with a match (FPIR) at which missed people are reported.
const RATES: [f64; 4] = [0.1, 0.03, 0.01, 0.003];
/// The FPIR at which groups are reported.
const RATE: f64 = 0.01;
/// Fewest strangers beyond the threshold that suffice to place it.
const FEW: f64 = 10.0;

/// The printed figures; in JSON, shares are from 0 to 1, and a share of nothing is null.
#[derive(Serialize)]
pub struct Report {
    /// Pack, precision and device.
    pub engine: String,
    /// The people that were used.
    pub half: Half,
    /// Enrolled people.
    pub people: usize,
    /// Enrolled pictures.
    pub pictures: usize,
    /// Pictures without a face: of the gallery, and of the probes.
    pub without_face: [usize; 2],
    /// Figures by the number enrolled.
    pub sizes: Vec<Size>,
    /// Figures by group.
    pub groups: Vec<Group>,
}

/// Figures of the galleries with one number of people.
#[derive(Serialize)]
pub struct Size {
    enrolled: usize,
    /// Pictures that are searched for as one.
    looks: u32,
    galleries: usize,
    pictures: usize,
    searches_for_enrolled: usize,
    searches_for_strangers: usize,
    rank_1: Figure,
    fnir: Vec<Missed>,
    cautions: Vec<Cautious>,
}

#[derive(Serialize)]
struct Figure {
    value: f64,
    interval: [f64; 2],
}

#[derive(Serialize)]
struct Missed {
    fpir: f64,
    threshold: f32,
    value: f64,
    interval: [f64; 2],
    /// True if there are too few strangers to trust the threshold.
    few: bool,
}

/// Results with the pack's own thresholds.
#[derive(Serialize)]
struct Cautious {
    caution: Caution,
    strangers_known: Figure,
    strangers_named: Figure,
    known: Figure,
    named: f64,
    mistaken: f64,
}

/// Results of a group, at the threshold where one in a hundred of all strangers has a match.
#[derive(Serialize)]
pub struct Group {
    group: String,
    searches_for_enrolled: usize,
    fnir: f64,
    searches_for_strangers: usize,
    fpir: f64,
}

impl From<Estimate> for Figure {
    fn from(estimate: Estimate) -> Self {
        Self {
            value: estimate.value,
            interval: [estimate.low, estimate.high],
        }
    }
}

impl Size {
    /// Computes the figures, with intervals over draws of the `people`.
    pub fn new(enrolled: usize, looks: u32, searches: &Searches, people: usize) -> Self {
        let everybody = Sample::everybody(people);
        let strangers = searches.count(false) * searches.galleries();
        let missed = |fpir| {
            let found = Figure::from(estimate(people, |sample| {
                searches.fnir(searches.threshold(fpir, sample), sample)
            }));
            Missed {
                fpir,
                threshold: searches.threshold(fpir, &everybody),
                value: found.value,
                interval: found.interval,
                few: fpir * (strangers as f64) < FEW,
            }
        };
        let cautious = |caution| {
            let figure = |of: fn(Outcomes) -> f64| {
                Figure::from(estimate(people, |sample| {
                    of(searches.outcomes(caution, sample))
                }))
            };
            let Outcomes {
                named, mistaken, ..
            } = searches.outcomes(caution, &everybody);
            Cautious {
                caution,
                strangers_known: figure(|outcomes| outcomes.strangers_known),
                strangers_named: figure(|outcomes| outcomes.strangers_named),
                known: figure(|outcomes| outcomes.known),
                named,
                mistaken,
            }
        };
        Self {
            enrolled,
            looks,
            galleries: searches.galleries(),
            pictures: searches.pictures(),
            searches_for_enrolled: searches.count(true),
            searches_for_strangers: searches.count(false),
            rank_1: estimate(people, |sample| searches.rank_1(sample)).into(),
            // Without strangers there is no rate of them.
            fnir: if strangers > 0 {
                RATES.map(missed).into()
            } else {
                Vec::new()
            },
            cautions: Caution::ALL.map(cautious).into(),
        }
    }
}

/// Groups in the largest gallery in which strangers were searched.
pub fn groups(people: &People, measured: &[(usize, u32, Searches)]) -> Vec<Group> {
    let names: BTreeSet<&String> = people.groups.iter().flatten().collect();
    let largest = measured
        .iter()
        .rev()
        .find(|(_, _, searches)| searches.count(false) > 0);
    let Some((_, _, searches)) = largest else {
        return Vec::new();
    };
    let everybody = Sample::everybody(people.groups.len());
    let threshold = searches.threshold(RATE, &everybody);
    let group = |name: &String| {
        let theirs = searches.about(|person| people.groups[person as usize].as_ref() == Some(name));
        Group {
            group: name.clone(),
            searches_for_enrolled: theirs.count(true),
            fnir: theirs.fnir(threshold, &everybody),
            searches_for_strangers: theirs.count(false),
            fpir: theirs.fpir(threshold, &everybody),
        }
    };
    names.into_iter().map(group).collect()
}

/// Formats a share as per cent, or a dash if its base is empty.
fn percent(share: f64) -> String {
    if share.is_finite() {
        format!("{:.2} %", 100.0 * share)
    } else {
        "–".into()
    }
}

impl Figure {
    fn text(&self) -> String {
        let [low, high] = self.interval.map(|share| 100.0 * share);
        if self.value.is_finite() {
            format!("{} [{low:.2}, {high:.2}]", percent(self.value))
        } else {
            percent(self.value)
        }
    }
}

impl Report {
    /// Formats the figures for a terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, rest: String| {
            text.push_str(format!("{name:<18} {rest}").trim_end());
            text.push('\n');
        };
        line("engine", self.engine.clone());
        let half = match self.half {
            Half::All => "",
            Half::Tuning => ", the tuning half",
            Half::Report => ", the report half",
        };
        let [gallery, asked] = self.without_face;
        line(
            "gallery",
            format!(
                "{} people, {} pictures, no face found in {gallery}{half}",
                self.people, self.pictures
            ),
        );
        line(
            "asked about",
            format!("no face found in {asked}: missed, or unknown"),
        );
        line("", "In brackets: 95 % of 1000 draws of the people.".into());
        for size in &self.sizes {
            let Size {
                enrolled,
                looks,
                galleries,
                pictures,
                searches_for_enrolled,
                searches_for_strangers,
                ..
            } = size;
            line("", String::new());
            let draws = if *galleries == 1 {
                String::new()
            } else {
                format!(", mean of {galleries} draws")
            };
            let looks = if *looks == 1 {
                String::new()
            } else {
                format!(" by {looks} looks each")
            };
            line(
                "enrolled",
                format!(
                    "{enrolled} people, {pictures} pictures; {searches_for_enrolled} searches for them, \
                     {searches_for_strangers} for strangers{looks}{draws}"
                ),
            );
            line("rank 1", size.rank_1.text());
            for missed in &size.fnir {
                let found = Figure {
                    value: missed.value,
                    interval: missed.interval,
                }
                .text();
                let few = if missed.few {
                    ", from too few strangers to trust"
                } else {
                    ""
                };
                line(
                    &format!("FNIR at FPIR {} %", 100.0 * missed.fpir),
                    format!("{found} at {:.3}{few}", missed.threshold),
                );
            }
            for Cautious {
                caution,
                strangers_known,
                strangers_named,
                known,
                named,
                mistaken,
            } in &size.cautions
            {
                line(
                    &caution.to_string(),
                    format!(
                        "strangers known {}, named {}",
                        strangers_known.text(),
                        strangers_named.text()
                    ),
                );
                let (named, mistaken) = (percent(*named), percent(*mistaken));
                line(
                    "",
                    format!(
                        "people known {}, named {named}, named wrong {mistaken}",
                        known.text()
                    ),
                );
            }
        }
        if !self.groups.is_empty() {
            line("", String::new());
            line(
                "groups",
                format!(
                    "in the largest gallery with strangers, where {} % of all strangers have a match",
                    100.0 * RATE
                ),
            );
        }
        for Group {
            group,
            searches_for_enrolled,
            fnir,
            searches_for_strangers,
            fpir,
        } in &self.groups
        {
            let (fnir, fpir) = (percent(*fnir), percent(*fpir));
            line(
                &format!("  {group}"),
                format!(
                    "FNIR {fnir} of {searches_for_enrolled} searches, FPIR {fpir} of {searches_for_strangers}"
                ),
            );
        }
        text
    }
}
