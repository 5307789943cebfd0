//! `/v1/breaker`: the circuit breaker and the engines as JSON. Commands of an operator are in
//! `api`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Web;
use crate::engines::status::EngineReport;
use crate::problem::Problem;

/// Engines and breaker, with their one-line summary.
#[derive(Serialize, ToSchema)]
pub struct Engines {
    #[serde(flatten)]
    report: EngineReport,
    /// The state in a sentence.
    sentence: String,
}

impl From<EngineReport> for Engines {
    fn from(report: EngineReport) -> Self {
        Self {
            sentence: report.sentence(),
            report,
        }
    }
}

/// Returns the circuit breaker and the engines.
#[utoipa::path(get, path = "/v1/breaker", tag = "board", responses((status = 200, body = Engines), Problem))]
pub async fn show(State(web): State<Web>) -> Json<Engines> {
    Json(web.people.engines.report().into())
}
