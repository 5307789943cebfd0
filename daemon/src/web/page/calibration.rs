//! The calibration page: what the gallery says about the threshold, with distances within and
//! between people and the errors by threshold.

use askama::Template;
use axum::extract::State;

use super::{Frame, Page, Visit, filled, frame};
use crate::api::View;
use crate::people::{Calibration, CalibrationPoint};
use crate::web::charts::{self, Chart, Mark, round_up, tick};
use crate::web::format;

/// Smallest error rate drawn; smaller ones lie at the bottom.
const LOWEST: f64 = 0.0001;

#[derive(Template)]
#[template(path = "calibration.html")]
struct CalibrationPage {
    frame: Frame,
    /// The calibration; `None` while the model pack is not loaded.
    found: Option<Found>,
}

struct Found {
    calibration: Calibration,
    people: String,
    pictures: String,
    genuine: String,
    impostors: String,
    threshold: String,
    known_below: String,
    unknown_above: String,
    /// Number of strangers that get a name and that are known; empty if unknown.
    strangers: String,
    /// Reason for that threshold, or for the lack of one, as a sentence.
    reason: String,
    now: Option<Errors>,
    recommended: Option<Errors>,
    charts: Vec<Chart>,
}

struct Errors {
    threshold: String,
    mistaken: String,
    missed: String,
}

/// `GET /calibration`.
pub async fn show(State(view): State<View>, visit: Visit) -> Page {
    let calibration = view.people.calibration().await;
    let page = CalibrationPage {
        frame: frame(&view, visit, "calibration"),
        found: calibration.map(Found::from),
    };
    Ok(filled(&page))
}

impl From<Calibration> for Found {
    fn from(calibration: Calibration) -> Self {
        Self {
            people: format::counted(calibration.people as u64, "person", "people"),
            pictures: format::counted(calibration.pictures as u64, "picture", "pictures"),
            genuine: format::number(calibration.genuine as u64),
            impostors: format::number(calibration.impostors as u64),
            threshold: format::distance(calibration.threshold.into()),
            known_below: format::distance(calibration.known_below.into()),
            unknown_above: format::distance(calibration.unknown_above.into()),
            strangers: calibration
                .strangers_named
                .zip(calibration.strangers_known)
                .map_or_else(String::new, |(named, known)| {
                    format!(
                        "{} get a name, {} are known",
                        format::percent(named),
                        format::percent(known)
                    )
                }),
            reason: sentence(&calibration.reason),
            now: calibration.now.map(Errors::from),
            recommended: calibration.recommended.map(Errors::from),
            charts: [histogram(&calibration), curves(&calibration)]
                .into_iter()
                .flatten()
                .collect(),
            calibration,
        }
    }
}

/// Adds a capital letter and a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.trim_end_matches('.').chars();
    letters.next().map_or_else(String::new, |first| {
        format!("{}{}.", first.to_uppercase(), letters.as_str())
    })
}

impl From<CalibrationPoint> for Errors {
    fn from(point: CalibrationPoint) -> Self {
        Self {
            threshold: format::distance(point.threshold.into()),
            mistaken: format::percent(point.fmr),
            missed: format::percent(point.fnmr),
        }
    }
}

/// Marks the threshold in use and the recommended one; a single mark if they are equal.
fn marks(calibration: &Calibration, frame: &charts::Frame) -> Vec<Mark> {
    let now = frame.mark("now", calibration.threshold.into(), "now".into());
    let recommended = calibration.recommended.map(|point| point.threshold);
    match recommended.filter(|recommended| (recommended - calibration.threshold).abs() > 0.0005) {
        Some(recommended) => {
            let mut other = frame.mark("recommended", recommended.into(), "recommended".into());
            // Labels that lie too close would overlap.
            let away = if recommended > calibration.threshold {
                (5.0, "start")
            } else {
                (-5.0, "end")
            };
            other.label = (other.x + away.0, away.1);
            let mut now = now;
            let away = if away.1 == "start" {
                (-5.0, "end")
            } else {
                (5.0, "start")
            };
            now.label = (now.x + away.0, away.1);
            vec![now, other]
        }
        None => vec![now],
    }
}

/// Labels every fifth.
fn columns(frame: &charts::Frame, right: f64) -> Vec<(f64, &'static str, String)> {
    let fifths = (0..)
        .map(|place| f64::from(place) / 5.0)
        .take_while(|value| *value <= right);
    fifths
        .map(|value| (frame.x(value), "middle", tick(value)))
        .collect()
}

fn share(share: f64) -> String {
    format!("{}\u{a0}%", tick(share * 100.0))
}

fn histogram(calibration: &Calibration) -> Option<Chart> {
    let right = f64::from(*calibration.bins.last()?);
    let shares = || {
        calibration
            .genuine_share
            .iter()
            .chain(&calibration.impostor_share)
    };
    let top = round_up(shares().copied().fold(0.0, f64::max), 0.01);
    let frame = charts::Frame::new(0.0, right, top);
    let bars = |shares: &[f64]| {
        let edges = calibration.bins.iter().map(|edge| f64::from(*edge));
        let lefts = std::iter::once(0.0).chain(edges.clone());
        let bars: Vec<_> = lefts
            .zip(edges)
            .zip(shares)
            .map(|((left, right), share)| (left, right, *share))
            .collect();
        frame.bars(&bars)
    };
    let common = |shares: &[f64]| {
        let edges =
            std::iter::once(0.0).chain(calibration.bins.iter().map(|edge| f64::from(*edge)));
        let most = edges
            .clone()
            .zip(edges.skip(1))
            .zip(shares)
            .max_by(|a, b| a.1.total_cmp(b.1));
        let most = most.filter(|(_, share)| **share > 0.0);
        most.map(|((low, high), _)| format!("from {low:.2} to {high:.2}"))
    };
    let summary = |kind: &str, shares: &[f64]| match common(shares) {
        Some(distance) => format!("Most pairs of {kind} are {distance} apart."),
        None => format!("There is no pair of {kind}."),
    };
    Some(Chart {
        id: "chart-distances",
        title: "Share of pairs over their distance",
        summary: format!(
            "{} {}",
            summary("one person", &calibration.genuine_share),
            summary("two people", &calibration.impostor_share)
        ),
        from: 0.0,
        shapes: vec![
            ("bars unknown", bars(&calibration.impostor_share)),
            ("bars known", bars(&calibration.genuine_share)),
        ],
        rows: frame.rows(share),
        columns: columns(&frame, right),
        marks: marks(calibration, &frame),
        legend: vec![("known", "one person"), ("unknown", "two people")],
    })
}

fn curves(calibration: &Calibration) -> Option<Chart> {
    let right = calibration.curve.last()?.threshold.into();
    let frame = charts::Frame::logarithmic(0.0, right, LOWEST, 1.0);
    let line = |rate: fn(&CalibrationPoint) -> f64| {
        let points = calibration
            .curve
            .iter()
            .map(|point| (point.threshold.into(), Some(rate(point))));
        frame.line(&points.collect::<Vec<_>>())
    };
    let at = |name: &str, point: Option<CalibrationPoint>| {
        point.map(Errors::from).map_or_else(String::new, |errors| {
            format!(
                "At the {name} threshold {}, {} of strangers pass and {} of true pairs are missed. ",
                errors.threshold, errors.mistaken, errors.missed
            )
        })
    };
    Some(Chart {
        id: "chart-errors",
        title: "Errors over the threshold",
        summary: match (calibration.now, calibration.recommended) {
            (None, None) => "There are too few pairs to say what to expect of a threshold.".into(),
            (now, recommended) => {
                format!("{}{}", at("present", now), at("recommended", recommended))
            }
        },
        from: 0.0,
        shapes: vec![
            ("line bad", line(|point| point.fmr)),
            ("line s1", line(|point| point.fnmr)),
        ],
        rows: [1.0, 0.1, 0.01, 0.001]
            .map(|rate| (frame.y(rate), share(rate)))
            .into(),
        columns: columns(&frame, right),
        marks: marks(calibration, &frame),
        legend: vec![("bad", "strangers that pass"), ("s1", "true pairs missed")],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calibration(recommended: Option<f32>) -> Calibration {
        let point = |threshold| CalibrationPoint {
            threshold,
            fmr: 0.02,
            fnmr: 0.0,
        };
        Calibration {
            people: 2,
            pictures: 4,
            genuine: 2,
            impostors: 4,
            threshold: 0.6,
            caution: None,
            known_below: 0.55,
            unknown_above: 0.63,
            strangers_known: None,
            strangers_named: None,
            now: Some(point(0.6)),
            recommended: recommended.map(point),
            reason: "lower it".into(),
            bins: vec![0.5, 1.0],
            genuine_share: vec![1.0, 0.0],
            impostor_share: vec![0.25, 0.75],
            curve: vec![point(0.0), point(1.0)],
        }
    }

    #[test]
    fn the_present_and_the_advised_threshold_are_marked_and_named() {
        let found = Found::from(calibration(Some(0.5)));
        assert_eq!(found.reason, "Lower it.");
        for chart in &found.charts {
            let words: Vec<_> = chart
                .marks
                .iter()
                .map(|mark| (mark.word.as_str(), mark.label.1))
                .collect();
            assert_eq!(
                words,
                [("now", "start"), ("recommended", "end")],
                "words beside each other stand apart"
            );
        }
        let summaries: String = found
            .charts
            .iter()
            .map(|chart| chart.summary.as_str())
            .collect();
        assert!(
            summaries.contains("Most pairs of one person are from 0.00 to 0.50 apart.")
                && summaries.contains("recommended threshold 0.500, 2.0")
        );
        let alone = Found::from(Calibration {
            people: 1,
            genuine_share: vec![0.0, 0.0],
            ..calibration(None)
        });
        assert_eq!(alone.people, "1 person");
        assert!(
            alone.charts[0]
                .summary
                .starts_with("There is no pair of one person. Most")
        );
        let same = Found::from(calibration(Some(0.6)));
        assert!(
            same.charts.iter().all(|chart| chart.marks.len() == 1),
            "one mark where both are the same"
        );
        assert!(
            Found::from(Calibration::default()).charts.is_empty(),
            "an empty gallery has no charts"
        );
    }
}
