//! `/v1/notify`: targets of notifications and their state, and a test of one.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Api, View};
use crate::problem::Problem;
use crate::status::targets::TargetReport;

/// All targets, by name.
#[derive(Serialize, ToSchema)]
pub struct TargetList {
    targets: Vec<TargetReport>,
}

/// Returns the targets of notifications and their state.
#[utoipa::path(get, operation_id = "notification_targets", path = "/v1/notify", tag = "notifications",
    responses((status = 200, body = TargetList), Problem))]
pub async fn list(State(view): State<View>) -> Json<TargetList> {
    Json(TargetList {
        targets: view.targets.all(),
    })
}

/// Outcome of a test.
#[derive(Serialize, ToSchema)]
pub struct Tested {
    /// A sentence.
    text: String,
}

/// Sends a test notification to a target.
///
/// 502 with a sentence if the target does not take it.
#[utoipa::path(post, operation_id = "test_notification_target", path = "/v1/notify/{name}/test", tag = "notifications",
    params(("name" = String, Path, description = "Name of the target")),
    responses((status = 200, body = Tested), Problem))]
pub async fn test(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<Tested>, Problem> {
    let test = api.view.targets.test(&name);
    let test = test.ok_or_else(|| {
        Problem::not_found("There is no target of this name; GET /v1/notify lists them.")
    })?;
    match test().await {
        Ok(text) => Ok(Json(Tested { text })),
        Err(why) => Err(Problem::new(StatusCode::BAD_GATEWAY, why)),
    }
}
