//! `/v1/health`: the state of the board; `/v1/calibration`: what the gallery says of the threshold;
//! `/readyz`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::breaker::Engines;
use super::{VERSION, View};
use crate::people::Calibration;
use crate::problem::Problem;
use crate::status::disk::DiskReport;
use crate::status::health::{Condition, Part};
use crate::status::thermal::BoardReport;
use crate::store::Counts;

/// Returns what the gallery says about the threshold.
#[utoipa::path(get, path = "/v1/calibration", tag = "board", responses((status = 200, body = Calibration), Problem))]
pub async fn calibration(State(view): State<View>) -> Result<Json<Calibration>, Problem> {
    let calibration = view.people.calibration().await;
    calibration
        .map(Json)
        .ok_or_else(|| Problem::later("The gallery is not loaded yet; /v1/health says why."))
}

/// State of the board.
#[derive(Serialize, ToSchema)]
pub struct Status {
    device: String,
    version: &'static str,
    counts: Counts,
    disk: DiskReport,
    board: BoardReport,
    /// State of each part.
    #[schema(value_type = BTreeMap<String, Part>)]
    parts: BTreeMap<&'static str, Part>,
    /// Breaker and engines, once the model pack is loaded.
    engine: Engines,
}

/// Returns counts, disk space, temperature, engine, and the state of each part.
#[utoipa::path(get, path = "/v1/health", tag = "board", responses((status = 200, body = Status), Problem))]
pub async fn status(State(view): State<View>) -> Result<Json<Status>, Problem> {
    Ok(Json(Status {
        counts: view.store.counts().await?,
        disk: view.disk.report().await?,
        board: view.board.report().await,
        parts: view.health.parts(),
        engine: Engines::from(view.people.engines.report()),
        device: view.device,
        version: VERSION,
    }))
}

/// `GET /readyz`: says if pictures are accepted now, in the intake's words. Degraded parts appear
/// by name only, since the route needs no token.
pub async fn ready(State(view): State<View>) -> (StatusCode, String) {
    let parts = view.health.parts();
    let (status, text) = match parts.get("intake") {
        Some(part) if part.condition == Condition::Ok => (StatusCode::OK, part.text.as_str()),
        Some(part) => (StatusCode::SERVICE_UNAVAILABLE, part.text.as_str()),
        None => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The intake has not started yet.",
        ),
    };
    let degraded = parts
        .iter()
        .filter(|(name, part)| **name != "intake" && part.condition == Condition::Degraded);
    // Only the kind of a folder or a camera, not its name.
    let mut degraded: Vec<_> = degraded
        .filter_map(|(name, _)| name.split(' ').next())
        .collect();
    degraded.dedup();
    let rest = if degraded.is_empty() {
        String::new()
    } else {
        format!("degraded: {}\n", degraded.join(", "))
    };
    (status, format!("{text}\n{rest}"))
}
