//! `/v1/breaker`: the circuit breaker and the engines as JSON, and an operator's word to it.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Web;
use crate::desk::{EngineDesk, EngineReport};
use crate::domain::BreakerCommand;
use crate::problem::Problem;

/// What can be said.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Word {
    command: BreakerCommand,
}

/// `GET /v1/breaker`.
pub async fn show(State(web): State<Web>) -> Result<Json<Value>, Problem> {
    Ok(Json(in_json(&(desk(&web)?.report)())))
}

/// `POST /v1/breaker` with `{"command": "open" | "close" | "auto"}`.
pub async fn tell(State(web): State<Web>, word: Result<Json<Word>, JsonRejection>) -> Result<Json<Value>, Problem> {
    let Json(Word { command }) = word.map_err(|_| {
        Problem::bad_request("The body is {\"command\": \"open\"}, \"close\" or \"auto\", as application/json.")
    })?;
    let desk = desk(&web)?;
    (desk.command)(command);
    Ok(Json(in_json(&(desk.report)())))
}

fn desk(web: &Web) -> Result<EngineDesk, Problem> {
    let desk = web.desk.borrow().clone();
    desk.ok_or_else(|| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "The model pack is not loaded; /v1/status says why.")
    })
}

/// The report with its one-line summary.
pub fn in_json(report: &EngineReport) -> Value {
    let mut json = json!(report);
    json["sentence"] = report.sentence().into();
    json
}
