//! `/v1/breaker`: the circuit breaker and the engines, and an operator's commands to the breaker.

use axum::extract::State;
use axum::extract::rejection::{FormRejection, JsonRejection};
use axum::response::Response;
use axum::{Form, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Api, View, back};
use crate::domain::BreakerCommand;
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
pub async fn show(State(view): State<View>) -> Json<Engines> {
    Json(view.people.engines.report().into())
}

/// A command to the circuit breaker.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BreakerRequest {
    command: BreakerCommand,
}

/// Opens or closes the breaker, or returns it to automatic control.
///
/// Returns its new state.
#[utoipa::path(post, path = "/v1/breaker", tag = "board", request_body = BreakerRequest,
    responses((status = 200, body = Engines), Problem))]
pub async fn tell(
    State(api): State<Api>,
    request: Result<Json<BreakerRequest>, JsonRejection>,
) -> Result<Json<Engines>, Problem> {
    let Json(BreakerRequest { command }) = request.map_err(|_| {
        Problem::bad_request(
            "The body is {\"command\": \"open\"}, \"close\" or \"auto\", as application/json.",
        )
    })?;
    let engines = &api.people.engines;
    engines.command(command);
    Ok(Json(engines.report().into()))
}

/// `POST /breaker`.
pub async fn tell_form(
    State(api): State<Api>,
    request: Result<Form<BreakerRequest>, FormRejection>,
) -> Response {
    let told = request
        .map_err(|_| Problem::bad_request("Say open, close or auto."))
        .map(|Form(BreakerRequest { command })| {
            let state = api.people.engines.command(command);
            format!("The circuit breaker is {state}.")
        });
    back("/health", told.as_deref().map_err(Clone::clone))
}
