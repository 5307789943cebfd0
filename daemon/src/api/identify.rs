//! `POST /v1/identify` identifies the faces of a picture at once, ahead of the queue, and stores
//! nothing.

use std::path::PathBuf;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;

use super::Api;
use crate::domain::PictureBytes;
use crate::pipeline::Identifier;
use crate::problem::Problem;
use crate::queue::{Again, Failure};
use crate::result::{IdentifyAnswer, answer};
use crate::sources::http::parse;
use crate::sources::upload::Loaded;

/// A picture by its path on the board.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ByPath {
    /// Path below one of the configured roots.
    #[schema(value_type = String, min_length = 1, example = "/srv/kithd/inbox/a.jpg")]
    path: PathBuf,
}

/// Identifies the faces of a picture: its bytes, a form with one file, or `{"path": …}` as JSON.
// The second kind of body is not declared: clients that openapi-python-client 0.29.1 makes of two
// kinds cannot be loaded where there is no optional parameter beside them.
#[utoipa::path(post, path = "/v1/identify", tag = "images",
    request_body(content((PictureBytes = "application/octet-stream"))),
    responses((status = 200, body = inline(IdentifyAnswer<'static>)), Problem))]
pub async fn identify(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    let identifier = Identifier::of(&api.people).map_err(|failure| refusal(&failure))?;
    let brought = api.uploads.receive(request, None).await?;
    let path = brought
        .json
        .as_ref()
        .map(|json| parse::<ByPath>(&json.bytes, r#"{"path":"/a.jpg"}"#))
        .transpose()?;
    let admission = identifier.engines.admit().await?;
    // The memory is reserved until the engine has answered.
    let (bytes, path, _memory) = match path {
        Some(ByPath { path }) => {
            let memory = api
                .uploads
                .reserve_memory(api.uploads.intake().max_bytes() as u64)
                .await;
            let bytes = api
                .reader
                .read_path(&path)
                .await
                .map_err(|failure| refusal(&failure))?;
            (bytes, Some(path), memory)
        }
        None => {
            let Loaded { bytes, memory } = api.uploads.load(brought.picture()?).await?;
            (bytes, None, memory)
        }
    };
    let identified = identifier
        .identify(&admission, None, bytes, path)
        .await
        .map_err(|failure| refusal(&failure))?;
    Ok(Json(answer(&identified)).into_response())
}

/// Returns the HTTP status and sentence for a failure of the picture or of the board.
fn refusal(failure: &Failure) -> Problem {
    let verdict = failure.verdict();
    match verdict.again {
        Again::Final | Again::WhileFileMissing => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, verdict.sentence)
        }
        _ => Problem::later(verdict.sentence),
    }
}
