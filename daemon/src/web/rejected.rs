//! `/v1/rejected`, what is read of it: MQTT messages that were refused and are kept. Their bytes, and what becomes of
//! them, are `admin`'s.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Web;
use super::api::{Asked, Id, limit, number};
use crate::problem::Problem;
use crate::store::RejectedMessage;

/// Which page of the messages.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct RejectedQuery {
    /// So many, 50 unless told.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[param(minimum = 1)]
    cursor: Option<i64>,
}

/// A page of refused messages.
#[derive(Serialize, ToSchema)]
pub struct RejectedPage {
    /// Newest first.
    messages: Vec<RejectedMessage>,
    /// Asks for the page that follows; null: this is the last.
    next_cursor: Option<i64>,
}

/// MQTT messages that were refused and are kept, newest first.
#[utoipa::path(get, path = "/v1/rejected", tag = "messages", params(RejectedQuery),
    responses((status = 200, body = RejectedPage), Problem))]
pub async fn messages(State(web): State<Web>, query: Asked<RejectedQuery>) -> Result<Json<RejectedPage>, Problem> {
    let Asked(query) = query;
    let limit = limit(query.limit)?;
    let cursor = query.cursor.map(|cursor| number(cursor, "cursor")).transpose()?;
    let messages = web.store.rejected_messages(cursor, limit).await?;
    let next_cursor = messages.last().filter(|_| messages.len() == limit).map(|message| message.id);
    Ok(Json(RejectedPage { messages, next_cursor }))
}

/// One refused message, without its bytes.
#[utoipa::path(get, path = "/v1/rejected/{id}", tag = "messages", params(("id" = i64, Path, minimum = 1)),
    responses((status = 200, body = RejectedMessage), Problem))]
pub async fn message(State(web): State<Web>, Id(id): Id) -> Result<Json<RejectedMessage>, Problem> {
    web.store.rejected_message(id).await?.map(Json).ok_or_else(|| no_message(id))
}

/// What is said of a message that is not there.
pub fn no_message(id: i64) -> Problem {
    Problem::not_found(format!("There is no rejected message {id}; it may have been sent again or dropped."))
}
