//! The health page: parts, engines and circuit breaker, sources one by one, the disk, and charts of
//! the last hours.

mod period;

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;

use self::period::{Period, drawn};
use super::{Ago, Frame, Page, Visit, filled, frame};
use crate::api::View;
use crate::domain::{ImageId, Source};
use crate::engines::status::{BreakerLine, EngineLine, EngineReport};
use crate::problem::Problem;
use crate::status::health::{Part, Trouble};
use crate::status::thermal::BoardReport;
use crate::store::BreakerChange;
use crate::web::charts::{self, Chart};
use crate::web::format;

const MINUTE_MS: i64 = 60_000;
/// The periods of the charts: hours, name, and minutes drawn as one point.
const SPANS: [(i64, &str, i64); 4] = [
    (1, "1 hour", 1),
    (6, "6 hours", 3),
    (24, "1 day", 10),
    (168, "1 week", 60),
];
const USUAL: i64 = 6;
/// Changes of the breaker in chart and list.
const CHANGES: usize = 200;
const LISTED: usize = 12;

#[derive(Template)]
#[template(path = "health.html")]
struct HealthPage {
    frame: Frame,
    parts: BTreeMap<&'static str, Part>,
    report: Option<EngineReport>,
    /// Role, state and memory of each engine.
    engines: Vec<(&'static str, EngineLine, Option<String>)>,
    /// Summary of the calls.
    calls: String,
    sources: Vec<SourceLine>,
    changes: Vec<Change>,
    charts: Vec<Chart>,
    /// Hours and name of each period, and true for the shown one.
    spans: Vec<(i64, &'static str, bool)>,
    /// True if the period has no data.
    blank: bool,
    board: BoardReport,
    free: Option<String>,
    reserve: String,
    used: Vec<(&'static str, String)>,
}

struct SourceLine {
    name: String,
    part: Part,
    last: Option<(ImageId, Ago)>,
    failed: Option<(ImageId, String, Ago)>,
    trouble: Option<(String, Ago)>,
}

struct Change {
    at: Ago,
    state: String,
    reason: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    hours: String,
}

/// `GET /health`.
pub async fn show(
    State(view): State<View>,
    visit: Visit,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Page {
    let hours = asked.map(|Query(asked)| asked.hours).unwrap_or_default();
    let hours = if hours.is_empty() {
        USUAL.to_string()
    } else {
        hours
    };
    let span = SPANS.iter().find(|(span, ..)| span.to_string() == hours);
    let &(hours, _, step) = span.ok_or_else(|| {
        Problem::bad_request(format!(
            "\"hours\" is 1, 6, 24 or 168, not \"{hours}\"; choose on the health page."
        ))
    })?;
    let frame = frame(&view, visit, "health");
    let to = frame.now_ms / MINUTE_MS;
    let rows = view
        .store
        .history(to - hours * 60, (hours * 60) as usize + 1)
        .await?;
    let changes = view.store.breaker_history(CHANGES).await?;
    let report = Some(view.people.engines.report());
    let disk = view.disk.report().await?;
    let parts = view.health.parts();
    let period = Period {
        from: to - hours * 60,
        to,
        step,
        hours,
    };
    let page = HealthPage {
        sources: sources(&view, &parts, &frame).await?,
        charts: drawn(
            &period,
            &rows,
            &changes,
            report.as_ref().map(|report| report.breaker.state),
        ),
        blank: rows.is_empty(),
        engines: report.as_ref().map(engines).unwrap_or_default(),
        calls: report
            .as_ref()
            .map(|report| calls(&report.breaker))
            .unwrap_or_default(),
        report,
        changes: changes
            .into_iter()
            .take(LISTED)
            .map(|change| Change::new(change, &frame))
            .collect(),
        spans: SPANS
            .iter()
            .map(|(span, name, _)| (*span, *name, *span == hours))
            .collect(),
        free: disk.free_bytes.map(format::bytes),
        reserve: format::bytes(disk.reserve_bytes),
        used: [
            ("database", disk.used_bytes.database),
            ("of that, thumbnails", disk.used_bytes.thumbnails),
            ("camera pictures", disk.used_bytes.camera),
            ("uploads", disk.used_bytes.uploads),
        ]
        .map(|(name, bytes)| (name, format::bytes(bytes)))
        .into(),
        board: view.board.report().await,
        parts,
        frame,
    };
    Ok(filled(&page))
}

fn engines(report: &EngineReport) -> Vec<(&'static str, EngineLine, Option<String>)> {
    let fallback = report.fallback.clone().map(|engine| ("fallback", engine));
    let both = [("primary", report.primary.clone())]
        .into_iter()
        .chain(fallback);
    both.map(|(role, engine)| {
        let memory = engine.resident_bytes.map(format::bytes);
        (role, engine, memory)
    })
    .collect()
}

fn calls(breaker: &BreakerLine) -> String {
    let failed = breaker
        .failures_by_reason
        .iter()
        .filter(|failed| failed.count > 0);
    let failed = failed.map(|failed| {
        format!(
            ", {} failed ({})",
            format::number(failed.count),
            format::words(failed.reason.as_str())
        )
    });
    let answered = format::number(breaker.successes);
    format!(
        "{answered} answered{}; {} since the start",
        failed.collect::<String>(),
        opened(breaker.trips)
    )
}

fn opened(times: u64) -> String {
    match times {
        0 => "it never opened".into(),
        1 => "it opened once".into(),
        _ => format!("it opened {} times", format::number(times)),
    }
}

/// Lists every source with its newest picture and its last error.
async fn sources(
    view: &View,
    parts: &BTreeMap<&'static str, Part>,
    frame: &Frame,
) -> Result<Vec<SourceLine>, Problem> {
    let troubles = view.health.troubles();
    let mut lines = Vec::new();
    for (name, part) in parts {
        let (source, prefix, camera) = match *name {
            "page" => (Source::Http, String::new(), None),
            "mqtt" => (Source::Mqtt, String::new(), None),
            "frigate" => (Source::Frigate, String::new(), None),
            name => match name.split_once(' ') {
                Some(("folder", path)) => {
                    let prefix = format!("{}/", path.trim_end_matches('/'));
                    (Source::Folder, prefix, None)
                }
                Some(("camera", camera)) => (Source::Camera, String::new(), Some(camera.into())),
                _ => continue,
            },
        };
        let newest = view.store.newest_of_source(source, prefix, camera).await?;
        lines.push(SourceLine {
            name: if *name == "page" {
                "http".into()
            } else {
                (*name).into()
            },
            part: part.clone(),
            last: newest.last.map(|(id, at_ms)| (id, frame.ago(at_ms))),
            failed: newest
                .failed
                .map(|(id, reason, at_ms)| (id, reason, frame.ago(at_ms))),
            trouble: troubles
                .get(name)
                .map(|Trouble { at_ms, text }| (text.clone(), frame.ago(*at_ms))),
        });
    }
    Ok(lines)
}

impl Change {
    fn new(change: BreakerChange, frame: &Frame) -> Self {
        Self {
            at: frame.ago(change.at_ms),
            state: change.state.replace('_', " "),
            reason: change.reason,
        }
    }
}
