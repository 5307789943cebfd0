//! An operator's commands to the circuit breaker.

use axum::extract::State;
use axum::extract::rejection::{FormRejection, JsonRejection};
use axum::response::Response;
use axum::{Form, Json};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Admin, back};
use crate::domain::BreakerCommand;
use crate::problem::Problem;
use crate::web::breaker::Engines;

/// A command to the circuit breaker.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Word {
    command: BreakerCommand,
}

/// Opens or closes the breaker, or returns it to automatic control.
///
/// Returns its new state.
#[utoipa::path(post, path = "/v1/breaker", tag = "board", request_body = Word,
    responses((status = 200, body = Engines), Problem))]
pub async fn tell(
    State(admin): State<Admin>,
    word: Result<Json<Word>, JsonRejection>,
) -> Result<Json<Engines>, Problem> {
    let Json(Word { command }) = word.map_err(|_| {
        Problem::bad_request(
            "The body is {\"command\": \"open\"}, \"close\" or \"auto\", as application/json.",
        )
    })?;
    let engines = &admin.people.engines;
    engines.command(command);
    Ok(Json(engines.report().into()))
}

/// `POST /breaker`.
pub async fn tell_form(
    State(admin): State<Admin>,
    word: Result<Form<Word>, FormRejection>,
) -> Response {
    let told = word
        .map_err(|_| Problem::bad_request("Say open, close or auto."))
        .map(|Form(Word { command })| {
            let state = admin.people.engines.command(command);
            format!("The circuit breaker is {state}.")
        });
    back("/health", told.as_deref().map_err(Clone::clone))
}
