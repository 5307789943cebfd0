//! Pictures by HTTP: the origin's two routes with paths, and `POST /v1/images` with the picture itself.
//!
//! Answers 202 with the ids once they are on disk. Looking at images is in `web`.

use axum::Json;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Intake, IntakeError, PathSubmission};
use crate::domain::{Accepted, ImageId, PictureBytes, Source};
use crate::problem::Problem;

const JSON_LIMIT: usize = 1 << 20;
/// Letters of what a picture is called.
pub const LONGEST_NAME: usize = 255;
/// Room for multipart boundaries and part headers around a picture of the largest size.
const FRAMING: usize = 64 << 10;

/// The submission routes.
pub fn router(intake: Intake) -> OpenApiRouter {
    let bodies = DefaultBodyLimit::max(intake.max_bytes() + FRAMING);
    OpenApiRouter::new()
        .routes(routes!(one_path))
        .routes(routes!(many_paths))
        .layer(DefaultBodyLimit::max(JSON_LIMIT))
        .merge(OpenApiRouter::new().routes(routes!(picture)).layer(bodies))
        .with_state(intake)
}

/// A picture that this board can read.
#[derive(Deserialize, ToSchema)]
pub struct OnePath {
    /// Below one of the configured roots.
    #[schema(min_length = 1, max_length = 4096, example = "/unknown_images/a.jpg")]
    path: String,
}

/// Several of them.
#[derive(Deserialize, ToSchema)]
pub struct ManyPaths {
    /// All or none are accepted.
    #[schema(min_items = 1)]
    paths: Vec<OnePath>,
}

/// Images that are on disk now.
#[derive(Serialize, ToSchema)]
pub struct Ids {
    /// In the order they were sent.
    ids: Vec<ImageId>,
}

/// Sent again under the same key it is the same image.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code)]
struct IdempotencyKey {
    /// 1 to 255 visible ASCII characters.
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    idempotency_key: Option<String>,
}

// The bodies are read as bytes because `curl -d` names them a form: the origin's clients never set a content type.
/// Queues one picture by its path: the route of the system kithd descends from.
#[utoipa::path(post, path = "/image/post", tag = "images", params(IdempotencyKey), request_body = OnePath,
    responses((status = 202, body = Ids), Problem))]
async fn one_path(State(intake): State<Intake>, headers: HeaderMap, body: Bytes) -> Result<Response, Problem> {
    let one: OnePath = parse(&body, r#"{"path":"/folder/picture.jpg"}"#)?;
    accept_paths(&intake, &headers, vec![one]).await
}

/// Queues pictures by their paths, all or none: the route of the system kithd descends from.
#[utoipa::path(post, path = "/images/post", tag = "images", params(IdempotencyKey), request_body = ManyPaths,
    responses((status = 202, body = Ids), Problem))]
async fn many_paths(State(intake): State<Intake>, headers: HeaderMap, body: Bytes) -> Result<Response, Problem> {
    let many: ManyPaths = parse(&body, r#"{"paths":[{"path":"/folder/picture.jpg"}]}"#)?;
    accept_paths(&intake, &headers, many.paths).await
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8], example: &str) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("the body must be JSON like {example}: {error}"))
    })
}

async fn accept_paths(intake: &Intake, headers: &HeaderMap, paths: Vec<OnePath>) -> Result<Response, Problem> {
    if paths.is_empty() {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "the list of paths is empty"));
    }
    let key = idempotency_key(headers)?;
    let alone = paths.len() == 1;
    let paths = paths
        .into_iter()
        .enumerate()
        .map(|(n, one)| PathSubmission {
            path: one.path,
            // One header may cover a whole list: each path gets its own key of it.
            idempotency_key: key.as_ref().map(|key| if alone { key.clone() } else { list_key(key, n) }),
        })
        .collect();
    Ok(accepted(&intake.paths(Source::Http, paths).await?))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PictureQuery {
    /// What the picture is called, where the body is its bytes.
    #[param(max_length = 255)]
    name: Option<String>,
}

/// Queues a picture: its bytes, a form with files, or paths as JSON.
#[utoipa::path(post, path = "/v1/images", tag = "images", params(PictureQuery, IdempotencyKey),
    request_body(content((PictureBytes = "application/octet-stream"), (OnePath = "application/json"))),
    responses((status = 202, body = Ids), Problem))]
async fn picture(
    State(intake): State<Intake>,
    query: Result<Query<PictureQuery>, QueryRejection>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    if query.name.as_ref().is_some_and(|name| name.chars().count() > LONGEST_NAME) {
        return Err(Problem::bad_request(format!("\"name\" has at most {LONGEST_NAME} letters.")));
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let key = idempotency_key(&headers)?;
    if kind.starts_with("multipart/form-data") {
        return multipart(&intake, key, request).await;
    }
    if kind.starts_with("application/json") {
        let body = read(request.into_body(), JSON_LIMIT).await?;
        let paths = match serde_json::from_slice(&body) {
            Ok(ManyPaths { paths }) => paths,
            Err(_) => vec![parse(&body, r#"{"path":"/folder/picture.jpg"}"#)?],
        };
        return accept_paths(&intake, &headers, paths).await;
    }
    let body = read(request.into_body(), intake.max_bytes()).await?;
    let name = query.name.unwrap_or_else(|| "upload".into());
    Ok(accepted(&[intake.picture(Source::Http, &name, body, key).await?]))
}

/// A body of at most so many bytes.
pub async fn read(body: Body, limit: usize) -> Result<Bytes, Problem> {
    to_bytes(body, limit).await.map_err(|error| {
        // axum boxes the limit's error; its source tells it from a client that hung up.
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(current) = cause {
            if current.is::<http_body_util::LengthLimitError>() {
                return IntakeError::TooLarge { limit }.into();
            }
            cause = current.source();
        }
        Problem::new(StatusCode::BAD_REQUEST, format!("the body could not be read: {error}"))
    })
}

async fn multipart(intake: &Intake, key: Option<String>, request: Request) -> Result<Response, Problem> {
    let broken = |error: axum::extract::multipart::MultipartError| {
        if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
            IntakeError::TooLarge { limit: intake.max_bytes() }.into()
        } else {
            Problem::new(StatusCode::BAD_REQUEST, format!("the multipart body is broken: {}", error.body_text()))
        }
    };
    let mut parts = Multipart::from_request(request, &())
        .await
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let mut pictures = Vec::new();
    while let Some(part) = parts.next_field().await.map_err(broken)? {
        // Form fields without a file name are not pictures.
        let Some(name) = part.file_name().map(String::from) else { continue };
        let bytes = part.bytes().await.map_err(broken)?;
        if bytes.len() > intake.max_bytes() {
            return Err(IntakeError::TooLarge { limit: intake.max_bytes() }.into());
        }
        pictures.push((name, bytes));
    }
    if pictures.is_empty() {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "the form holds no file; for example: curl -F picture=@face.jpg …/v1/images",
        ));
    }
    // Only a form that was read to its end is accepted: a sender that is refused would send all of it again.
    let mut answers = Vec::new();
    for (n, (name, bytes)) in pictures.into_iter().enumerate() {
        let key = key.as_ref().map(|key| list_key(key, n));
        answers.push(intake.picture(Source::Http, &name, bytes, key).await?);
    }
    Ok(accepted(&answers))
}

/// The key of one picture of a list; no header can hold the separator, so it meets nobody else's key.
fn list_key(key: &str, n: usize) -> String {
    format!("{key}\u{1f}{n}")
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(Some(key.into()))
        }
        _ => Err(Problem::new(StatusCode::BAD_REQUEST, "Idempotency-Key must be 1 to 255 visible ASCII characters")),
    }
}

fn accepted(images: &[Accepted]) -> Response {
    (StatusCode::ACCEPTED, Json(Ids { ids: images.iter().map(|image| image.id).collect() })).into_response()
}

impl From<IntakeError> for Problem {
    fn from(error: IntakeError) -> Self {
        let status = match &error {
            IntakeError::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
            IntakeError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            // Nothing is wrong with the picture: the same may be sent again.
            IntakeError::Full(_)
            | IntakeError::CameraFull(_)
            | IntakeError::DiskReserve
            | IntakeError::DiskFull
            | IntakeError::Storage(_) => return Self::later(error.to_string()),
        };
        Self::new(status, error.to_string())
    }
}
