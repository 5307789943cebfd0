//! `GET /metrics` for Prometheus. Values are read when asked for; labels are bounded by our own words.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use prometheus_client::encoding::{EncodeLabelSet, text::encode_registry};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use super::{VERSION, Web};
use crate::domain::State as ImageState;
use crate::health::{Condition, Health};
use crate::problem::Problem;
use crate::store::Counts;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PartLabel {
    part: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InfoLabels {
    version: &'static str,
    device: String,
}

/// All metrics in the Prometheus text format.
pub async fn metrics(State(web): State<Web>) -> Result<impl IntoResponse, Problem> {
    let counts = web.store.counts().await?;
    let mut open_metrics = String::new();
    // Writing into a String fails only if a label set does, and ours are plain text.
    let _ = encode_registry(&mut open_metrics, &gather(&counts, web.store.commit_counts(), &web.health, web.device));
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], classic(&open_metrics)))
}

fn gather(counts: &Counts, (commits, flushes): (u64, u64), health: &Health, device: String) -> Registry {
    let mut registry = Registry::with_prefix("kithd");
    let images = Family::<StateLabel, Gauge>::default();
    for state in ImageState::ALL {
        let number = match state {
            ImageState::Pending => counts.pending,
            ImageState::Processing => counts.processing,
            ImageState::Processed => counts.processed,
            ImageState::Failed => counts.failed,
        };
        images.get_or_create(&StateLabel { state: state.as_str() }).set(number as i64);
    }
    registry.register("images", "Images by state", images);
    let unsent = "Results the broker has not acknowledged yet";
    registry.register("results_unsent", unsent, ConstGauge::new(counts.unsent as i64));
    let rejected = "Messages that made no sense and are kept for the operator";
    registry.register("rejected_messages", rejected, ConstGauge::new(counts.rejected_messages as i64));
    registry.register("people", "Enrolled people", ConstGauge::new(counts.people as i64));
    registry.register("store_commits", "Transactions committed since start", ConstCounter::new(commits));
    registry.register("store_flushes", "Commits since start that waited for the disk", ConstCounter::new(flushes));
    let degraded = Family::<PartLabel, Gauge>::default();
    for (part, line) in health.parts() {
        degraded.get_or_create(&PartLabel { part }).set(i64::from(line.condition == Condition::Degraded));
    }
    registry.register("part_degraded", "1 while a part does not work and is retried", degraded);
    let info = Family::<InfoLabels, Gauge>::default();
    info.get_or_create(&InfoLabels { version: VERSION, device }).set(1);
    registry.register("info", "Always 1; the labels say which kithd this is", info);
    registry
}

/// OpenMetrics names a counter without `_total` in its HELP and TYPE lines; the format every scraper and promtool
/// reads names it with it.
fn classic(open_metrics: &str) -> String {
    let counters: Vec<&str> =
        open_metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut text = String::with_capacity(open_metrics.len() + 64);
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(keyword), Some(name), Some(rest)) if counters.contains(&name) => {
                text.extend(["# ", keyword, " ", name, "_total ", rest]);
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}
