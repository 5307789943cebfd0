//! The charts of the health page: queue, throughput, stages, temperature and circuit breaker over
//! a period. `web::charts` draws the shapes.

use super::{MINUTE_MS, opened};
use crate::domain::BreakerState;
use crate::store::{BreakerChange, HistoryRow};
use crate::web::charts::{self, Chart, round_up, tick};
use crate::web::format;

const STAGES: [(&str, &str); 5] = [
    ("s1", "decode"),
    ("s2", "detect"),
    ("s3", "align"),
    ("s4", "embed"),
    ("s5", "encode"),
];

/// The period that is drawn, in minutes since 1970.
pub struct Period {
    /// First minute.
    pub from: i64,
    /// Last minute.
    pub to: i64,
    /// Minutes that make one point.
    pub step: i64,
    /// Length.
    pub hours: i64,
}

type Points = Vec<(f64, Option<f64>)>;

impl Period {
    /// Makes a point for every step from the recorded minutes; none if nothing was recorded.
    fn points(&self, rows: &[HistoryRow], value: impl Fn(&[HistoryRow]) -> Option<f64>) -> Points {
        let mut rest = rows;
        let steps = (self.from + 1..=self.to).step_by(self.step as usize);
        steps
            .map(|minute| {
                let end = minute + self.step;
                rest = &rest[rest.partition_point(|row| row.minute < minute)..];
                let (now, later) = rest.split_at(rest.partition_point(|row| row.minute < end));
                rest = later;
                let middle = minute as f64 + (self.step - 1) as f64 / 2.0;
                (
                    middle.min(self.to as f64),
                    if now.is_empty() { None } else { value(now) },
                )
            })
            .collect()
    }

    fn columns(&self, frame: &charts::Frame) -> Vec<(f64, &'static str, String)> {
        let word = |back: i64| match back {
            0 => "now".into(),
            back if back % 1440 == 0 => format!("{} d ago", back / 1440),
            back if back % 60 == 0 => format!("{} h ago", back / 60),
            back => format!("{back} min ago"),
        };
        let minutes = self.hours * 60;
        let places = [minutes, minutes * 2 / 3, minutes / 3, 0];
        frame.columns(
            places
                .map(|back| ((self.to - back) as f64, word(back)))
                .into(),
        )
    }

    fn frame(&self, top: f64) -> charts::Frame {
        charts::Frame::new(self.from as f64, self.to as f64, top)
    }
}

/// Draws every chart of a period.
pub fn drawn(
    period: &Period,
    rows: &[HistoryRow],
    changes: &[BreakerChange],
    breaker: Option<BreakerState>,
) -> Vec<Chart> {
    let mut charts = vec![
        queue(period, rows),
        throughput(period, rows),
        stages(period, rows),
    ];
    charts.extend(temperature(period, rows));
    charts.push(breaker_bands(period, changes, breaker));
    charts
}

fn highest<'a>(points: impl IntoIterator<Item = &'a (f64, Option<f64>)>) -> f64 {
    points
        .into_iter()
        .filter_map(|(_, value)| *value)
        .fold(0.0, f64::max)
}

fn last(points: &Points) -> Option<f64> {
    points.iter().rev().find_map(|(_, value)| *value)
}

fn queue(period: &Period, rows: &[HistoryRow]) -> Chart {
    let pending = period.points(rows, |rows| {
        rows.iter().map(|row| row.pending as f64).reduce(f64::max)
    });
    let most = highest(&pending);
    let frame = period.frame(round_up(most, 4.0));
    let now = last(&pending).map_or_else(|| "unknown".into(), tick);
    Chart {
        id: "chart-queue",
        title: "Pictures waiting",
        summary: format!("Waiting now: {now}; at most {}.", tick(most)),
        from: 0.0,
        shapes: vec![
            ("area s1", frame.filled(&pending)),
            ("line s1", frame.line(&pending)),
        ],
        rows: frame.rows(tick),
        columns: period.columns(&frame),
        marks: Vec::new(),
        legend: Vec::new(),
    }
}

fn throughput(period: &Period, rows: &[HistoryRow]) -> Chart {
    let rate = |count: fn(&HistoryRow) -> u64| {
        period.points(rows, move |rows| {
            Some(rows.iter().map(|row| count(row) as f64).sum::<f64>() / rows.len() as f64)
        })
    };
    let (accepted, processed, failed) = (
        rate(|row| row.accepted),
        rate(|row| row.processed),
        rate(|row| row.failed),
    );
    let most = highest(accepted.iter().chain(&processed).chain(&failed));
    let frame = period.frame(round_up(most, 4.0));
    let total = |count: fn(&HistoryRow) -> u64| format::number(rows.iter().map(count).sum());
    Chart {
        id: "chart-throughput",
        title: "Pictures per minute",
        summary: format!(
            "Accepted in all: {}, processed {}, failed {}.",
            total(|row| row.accepted),
            total(|row| row.processed),
            total(|row| row.failed)
        ),
        from: 0.0,
        shapes: vec![
            ("area s1", frame.filled(&processed)),
            ("line s1", frame.line(&processed)),
            ("line s2", frame.line(&accepted)),
            ("line bad", frame.line(&failed)),
        ],
        rows: frame.rows(tick),
        columns: period.columns(&frame),
        marks: Vec::new(),
        legend: vec![("s1", "processed"), ("s2", "accepted"), ("bad", "failed")],
    }
}

fn stages(period: &Period, rows: &[HistoryRow]) -> Chart {
    // Minutes without a processed picture have no mean.
    let mean = |stage: usize| {
        move |rows: &[HistoryRow]| {
            let pictures: f64 = rows.iter().map(|row| row.processed as f64).sum();
            let sum: f64 = rows
                .iter()
                .map(|row| row.stages[stage] * row.processed as f64)
                .sum();
            (pictures > 0.0).then(|| sum / pictures)
        }
    };
    let mut heights = vec![period.points(rows, |rows| mean(0)(rows).map(|_| 0.0))];
    for stage in 0..STAGES.len() {
        let below = &heights[stage];
        let own = period.points(rows, mean(stage));
        let sum = below
            .iter()
            .zip(own)
            .map(|((x, below), (_, own))| (*x, below.zip(own).map(|(a, b)| a + b)));
        heights.push(sum.collect());
    }
    let most = highest(&heights[STAGES.len()]);
    let frame = period.frame(round_up(most, 4.0));
    let words: Vec<_> = STAGES
        .iter()
        .enumerate()
        .filter_map(|(stage, (_, name))| Some(format!("{name} {:.1} ms", mean(stage)(rows)?)))
        .collect();
    let summary = match words.is_empty() {
        true => "Nothing was processed.".into(),
        false => format!("On average: {}.", words.join(", ")),
    };
    let areas = STAGES.iter().zip(heights.windows(2));
    let class = |class: &str| {
        STACKED
            .iter()
            .find(|(name, _)| *name == class)
            .map_or("", |(_, stacked)| *stacked)
    };
    Chart {
        id: "chart-stages",
        title: "Milliseconds per picture, by stage",
        summary,
        from: 0.0,
        shapes: areas
            .map(|((name, _), pair)| (class(name), frame.area(&pair[1], &pair[0])))
            .collect(),
        rows: frame.rows(tick),
        columns: period.columns(&frame),
        marks: Vec::new(),
        legend: STAGES.to_vec(),
    }
}

/// Classes of the stages' areas.
const STACKED: [(&str, &str); 5] = [
    ("s1", "stacked s1"),
    ("s2", "stacked s2"),
    ("s3", "stacked s3"),
    ("s4", "stacked s4"),
    ("s5", "stacked s5"),
];

fn temperature(period: &Period, rows: &[HistoryRow]) -> Option<Chart> {
    let celsius = period.points(rows, |rows| {
        rows.iter().filter_map(|row| row.celsius).reduce(f64::max)
    });
    let now = last(&celsius)?;
    let most = highest(&celsius);
    let frame = period.frame(most.max(100.0));
    Some(Chart {
        id: "chart-temperature",
        title: "Hottest sensor, °C",
        summary: format!("Now {now:.0} °C, at most {most:.0} °C."),
        from: 0.0,
        shapes: vec![("line s2", frame.line(&celsius))],
        rows: frame.rows(tick),
        columns: period.columns(&frame),
        marks: Vec::new(),
        legend: Vec::new(),
    })
}

fn breaker_bands(period: &Period, changes: &[BreakerChange], now: Option<BreakerState>) -> Chart {
    const CLASSES: [(BreakerState, &str, &str); 4] = [
        (BreakerState::Closed, "band closed", "closed"),
        (BreakerState::HalfOpen, "band half_open", "half open"),
        (BreakerState::Open, "band open", "open"),
        (BreakerState::ForcedOpen, "band forced_open", "held open"),
    ];
    let frame = period.frame(1.0);
    let minute = |at_ms: i64| at_ms as f64 / MINUTE_MS as f64;
    // Newest first: each state lasts until the change before it in the list.
    let mut until = period.to as f64;
    let mut bands = Vec::new();
    let mut count = 0;
    for change in changes {
        let (from, state) = (
            minute(change.at_ms),
            change.state.parse::<BreakerState>().ok(),
        );
        if until < period.from as f64 {
            break;
        }
        if let Some((_, class, _)) = CLASSES.iter().find(|(one, ..)| Some(*one) == state) {
            bands.push((*class, frame.band(from, until)));
        }
        count += u64::from(state == Some(BreakerState::Open) && from >= period.from as f64);
        until = from;
    }
    bands.reverse();
    let now = now.map_or_else(
        || "The circuit breaker is not loaded yet".into(),
        |state| {
            format!(
                "The circuit breaker is {}",
                state.as_str().replace('_', " ")
            )
        },
    );
    Chart {
        id: "chart-breaker",
        title: "Circuit breaker",
        summary: format!("{now}; {} in this period.", opened(count)),
        from: charts::BAND - 6.0,
        shapes: bands,
        rows: Vec::new(),
        columns: period.columns(&frame),
        marks: Vec::new(),
        legend: CLASSES
            .iter()
            .map(|(state, _, name)| (state.as_str(), *name))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(minute: i64, pending: u64, processed: u64) -> HistoryRow {
        let stages = [1.0, 20.0, 1.0, 30.0, 2.0];
        HistoryRow {
            minute,
            pending,
            accepted: processed,
            processed,
            failed: 0,
            stages,
            celsius: None,
        }
    }

    #[test]
    fn minutes_are_drawn_in_place_and_an_outage_leaves_a_gap() {
        let period = Period {
            from: 100,
            to: 106,
            step: 2,
            hours: 1,
        };
        let rows = [row(101, 3, 1), row(102, 5, 1), row(105, 2, 0)];
        let points = period.points(&rows, |rows| {
            rows.iter().map(|row| row.pending as f64).reduce(f64::max)
        });
        assert_eq!(
            points,
            [(101.5, Some(5.0)), (103.5, None), (105.5, Some(2.0))]
        );
        let chart = stages(&period, &rows);
        assert!(
            chart.summary.contains("detect 20.0 ms") && chart.shapes.len() == 5,
            "{}",
            chart.summary
        );
        assert!(
            temperature(&period, &rows).is_none(),
            "a board without a sensor has no chart of it"
        );
    }

    #[test]
    fn the_breaker_is_drawn_from_each_change_to_the_next_and_to_now() {
        let period = Period {
            from: 100,
            to: 110,
            step: 1,
            hours: 1,
        };
        let change = |minute: i64, state: &str| BreakerChange {
            at_ms: minute * MINUTE_MS,
            state: state.into(),
            reason: None,
        };
        let changes = [
            change(107, "closed"),
            change(105, "open"),
            change(90, "closed"),
            change(80, "open"),
        ];
        let chart = breaker_bands(&period, &changes, Some(BreakerState::Closed));
        let classes: Vec<_> = chart.shapes.iter().map(|(class, _)| *class).collect();
        assert_eq!(
            classes,
            ["band closed", "band open", "band closed"],
            "what ended before is not drawn"
        );
        assert!(chart.summary.contains("opened once"), "{}", chart.summary);
    }
}
