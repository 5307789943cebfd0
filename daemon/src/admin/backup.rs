//! `/v1/backup`: everything of this board as one file, and such a file back.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{Admin, on_its_own};
use crate::backup::{self, BackupError};
use crate::domain::PictureBytes;
use crate::problem::Problem;
use crate::recognition::Restored;

/// The whole board as one checksummed tar file: database and enrolment pictures. Needs the token: it holds everybody.
#[utoipa::path(get, path = "/v1/backup", tag = "board",
    responses((status = 200, content_type = "application/x-tar", body = PictureBytes), Problem))]
pub async fn save(State(admin): State<Admin>) -> Result<Response, Problem> {
    let backup = admin.enroller.backup().await.map_err(|error| problem(&error.into()))?;
    let headers = [
        (header::CONTENT_LENGTH, backup.bytes().to_string()),
        (header::CONTENT_TYPE, "application/x-tar".into()),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"kithd-backup.tar\"".into()),
        (header::CACHE_CONTROL, "no-store".into()),
    ];
    Ok((headers, Body::from_stream(backup.stream())).into_response())
}

/// Brings back what a backup holds and this board has not; nothing that is here is lost.
#[utoipa::path(put, path = "/v1/backup", tag = "board", request_body(content((PictureBytes = "application/octet-stream"))),
    responses((status = 200, body = Restored), Problem))]
pub async fn restore(State(admin): State<Admin>, body: Body) -> Result<Json<Restored>, Problem> {
    let (up, enroller, health) = (admin.maybe_up(), admin.enroller.clone(), admin.web.health.clone());
    let from = backup::reader(body.into_data_stream());
    let restored = on_its_own(async move { enroller.restore(up.as_ref(), &health, from).await }).await;
    restored.map(Json).map_err(|error| problem(&error))
}

fn problem(error: &anyhow::Error) -> Problem {
    let refused = error.downcast_ref::<BackupError>().is_some_and(BackupError::is_refusal);
    let status = if refused { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::INTERNAL_SERVER_ERROR };
    Problem::new(status, format!("{error:#}"))
}
