//! `/v1/rejected`, the reading routes: MQTT messages that were refused and are kept. Their bytes
//! and the actions on them are in `api`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::api::{Asked, Id, PageQuery};
use super::{Web, cut};
use crate::problem::Problem;
use crate::store::RejectedMessage;

/// A page of refused messages.
#[derive(Serialize, ToSchema)]
pub struct RejectedPage {
    /// Messages, newest first.
    messages: Vec<RejectedMessage>,
    /// Cursor of the next page; null on the last page.
    next_cursor: Option<i64>,
}

/// Lists MQTT messages that were refused and are kept, newest first.
#[utoipa::path(get, path = "/v1/rejected", tag = "messages", params(PageQuery),
    responses((status = 200, body = RejectedPage), Problem))]
pub async fn messages(
    State(web): State<Web>,
    query: Asked<PageQuery>,
) -> Result<Json<RejectedPage>, Problem> {
    let (limit, cursor) = query.0.read()?;
    let mut messages = web.store.rejected_messages(cursor, limit + 1).await?;
    let next_cursor = cut(&mut messages, limit).map(|last| last.id);
    Ok(Json(RejectedPage {
        messages,
        next_cursor,
    }))
}

/// Returns a refused message, without its bytes.
#[utoipa::path(get, path = "/v1/rejected/{id}", tag = "messages", params(("id" = i64, Path, minimum = 1)),
    responses((status = 200, body = RejectedMessage), Problem))]
pub async fn message(State(web): State<Web>, Id(id): Id) -> Result<Json<RejectedMessage>, Problem> {
    web.store
        .rejected_message(id)
        .await?
        .map(Json)
        .ok_or_else(|| no_message(id))
}

/// The problem for a message that does not exist.
pub fn no_message(id: i64) -> Problem {
    Problem::not_found(format!(
        "There is no rejected message {id}; it may have been sent again or dropped."
    ))
}
