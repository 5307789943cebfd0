//! `POST /v1/identify`: who is on a picture, now, before any backlog. Nothing is stored.

use std::path::PathBuf;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Admin, refused};
use crate::domain::PictureBytes;
use crate::problem::Problem;
use crate::queue::{Again, Failure};
use crate::recognition::identify as recognise;
use crate::result::{Answer, answer};
use crate::sources::http::read;

const JSON_LIMIT: usize = 64 << 10;

/// A picture that this board can read.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ByPath {
    /// Below one of the configured roots.
    #[schema(value_type = String, min_length = 1, example = "/srv/kithd/inbox/a.jpg")]
    path: PathBuf,
}

/// Who is on a picture: its bytes, or `{"path": …}` as application/json.
// The second kind of body is not declared: clients that openapi-python-client 0.29.1 makes of two kinds cannot be loaded
// where there is no optional parameter beside them.
#[utoipa::path(post, path = "/v1/identify", tag = "images",
    request_body(content((PictureBytes = "application/octet-stream"))),
    responses((status = 200, body = inline(Answer<'static>)), Problem))]
pub async fn identify(State(admin): State<Admin>, request: Request) -> Result<Response, Problem> {
    let up = admin.up()?;
    let (bytes, path) = picture(&admin, request).await?;
    let _turn = admin.engine_turn().await?;
    let identified = recognise(&up, None, bytes, path).await.map_err(|failure| refusal(&failure))?;
    Ok(Json(answer(&identified)).into_response())
}

async fn picture(admin: &Admin, request: Request<Body>) -> Result<(Vec<u8>, Option<PathBuf>), Problem> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    if !kind.starts_with("application/json") {
        let bytes = read(request.into_body(), admin.max_bytes).await?;
        if bytes.is_empty() {
            return Err(refused("The body is empty; it is the bytes of a picture, or {\"path\": …} as JSON."));
        }
        return Ok((bytes.into(), None));
    }
    let body = read(request.into_body(), JSON_LIMIT).await?;
    let ByPath { path } = serde_json::from_slice(&body).map_err(|error| {
        Problem::bad_request(format!("The body must be JSON like {{\"path\": \"/a.jpg\"}}: {error}."))
    })?;
    let bytes = admin.reader.read_path(&path).await.map_err(|failure| refusal(&failure))?;
    Ok((bytes, Some(path)))
}

/// What a failure is over HTTP: the picture's, or ours for now.
fn refusal(failure: &Failure) -> Problem {
    let verdict = failure.verdict();
    match verdict.again {
        Again::Final | Again::WhileFileMissing => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, verdict.sentence),
        _ => Problem::later(verdict.sentence),
    }
}
