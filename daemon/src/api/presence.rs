//! `/v1/presence`: who is here.

use axum::Json;
use axum::extract::State;

use super::View;
use crate::domain::wall_clock_ms;
use crate::problem::Problem;
use crate::sightings::presence::Presence;
use crate::store::StoreError;

/// Returns who is here, and where everybody else was seen last.
#[utoipa::path(get, operation_id = "presence", path = "/v1/presence", tag = "sightings",
    responses((status = 200, body = Presence), Problem))]
pub async fn show(State(view): State<View>) -> Result<Json<Presence>, Problem> {
    Ok(Json(now(&view).await?))
}

/// Returns presence as it is now.
pub async fn now(view: &View) -> Result<Presence, StoreError> {
    let latest = view.store.latest_sightings().await?;
    let (now_ms, came_now_ms) = (wall_clock_ms(), (view.clock)());
    Ok(Presence::of(&view.device, now_ms, came_now_ms, view.gap, &latest).0)
}
