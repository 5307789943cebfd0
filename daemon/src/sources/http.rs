//! Pictures by HTTP: two routes with paths from facerecog, and `POST /v1/images` with the picture
//! itself.
//!
//! Answers 202 with the ids once they are on disk. `upload` reads the bodies; `web` shows the
//! images.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::paths::{self, NoPaths};
use super::upload::{Brought, Uploads, no_file, without_mark};
use super::{Intake, IntakeError, PathSubmission};
use crate::domain::{Accepted, ImageId, Origin, PictureBytes, Source};
use crate::problem::Problem;
use kith_pictures::kind::{NotAPicture, not_a_picture, sniff};

/// Example of a body with a path.
const ONE: &str = r#"{"path":"/folder/picture.jpg"}"#;
/// Longest name of a picture.
pub const LONGEST_NAME: usize = 255;

/// Routes for submitting pictures.
pub fn router(uploads: Uploads) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(one_path))
        .routes(routes!(many_paths))
        .routes(routes!(picture))
        .with_state(uploads)
}

// `paths::in_json` reads the bodies; these describe them.
/// A picture that this board can read.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct OnePath {
    /// Path below a configured root.
    #[schema(min_length = 1, max_length = 4096, example = "/unknown_images/a.jpg")]
    path: String,
    /// The camera that took it, by its name.
    #[schema(pattern = "^[A-Za-z0-9._-]{1,64}$", example = "front")]
    camera: Option<String>,
    /// The event that it belongs to.
    #[schema(pattern = "^[A-Za-z0-9._-]{1,64}$")]
    event: Option<String>,
}

/// Several pictures by path.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ManyPaths {
    /// Paths, accepted all or none.
    #[schema(min_items = 1)]
    paths: Vec<OnePath>,
    /// The camera that took those that name none.
    #[schema(pattern = "^[A-Za-z0-9._-]{1,64}$", example = "front")]
    camera: Option<String>,
    /// The event of those that name none.
    #[schema(pattern = "^[A-Za-z0-9._-]{1,64}$")]
    event: Option<String>,
}

/// Ids of images that are on disk now.
#[derive(Serialize, ToSchema)]
pub struct Ids {
    /// Ids in the order of submission.
    ids: Vec<ImageId>,
}

/// Header that makes a repeated request return the same image.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code)]
struct IdempotencyKey {
    /// 1 to 255 visible ASCII characters.
    #[param(
        rename = "Idempotency-Key",
        min_length = 1,
        max_length = 255,
        pattern = "^[!-~]+$"
    )]
    idempotency_key: Option<String>,
}

// The content type is ignored: `curl -d` declares a form, and clients of facerecog never set one.
/// Queues one picture by its path: the route of the system kithd descends from.
#[utoipa::path(post, path = "/image/post", tag = "images", params(OriginQuery, IdempotencyKey), request_body = OnePath,
    responses((status = 202, body = Ids), Problem))]
async fn one_path(
    State(uploads): State<Uploads>,
    query: Result<Query<OriginQuery>, QueryRejection>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let origin = query_of(query)?.origin()?;
    let body = uploads.receive_json(request).await?;
    let paths = paths_in(&body.bytes, ONE)?;
    accept_paths(uploads.intake(), &headers, paths, &origin).await
}

/// Queues pictures by their paths, all or none: the route of the system kithd descends from.
#[utoipa::path(post, path = "/images/post", tag = "images", params(OriginQuery, IdempotencyKey),
    request_body = ManyPaths, responses((status = 202, body = Ids), Problem))]
async fn many_paths(
    State(uploads): State<Uploads>,
    query: Result<Query<OriginQuery>, QueryRejection>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let origin = query_of(query)?.origin()?;
    let body = uploads.receive_json(request).await?;
    let paths = paths_in(&body.bytes, r#"{"paths":[{"path":"/folder/picture.jpg"}]}"#)?;
    accept_paths(uploads.intake(), &headers, paths, &origin).await
}

/// Returns the paths in a body.
fn paths_in(body: &[u8], example: &str) -> Result<Vec<paths::Named>, Problem> {
    paths::in_json(body).map_err(|why| match why {
        NoPaths::NotJson(error) => not_json(body, example, error),
        why => Problem::bad_request(format!("the body must be JSON like {example}: it {why}")),
    })
}

/// Parses JSON; an error says what was expected and what came instead.
pub fn parse<'a, T: Deserialize<'a>>(body: &'a [u8], example: &str) -> Result<T, Problem> {
    serde_json::from_slice(without_mark(body))
        .map_err(|error| not_json(body, example, error.to_string()))
}

fn not_json(body: &[u8], example: &str, error: String) -> Problem {
    let came = match (sniff(body), not_a_picture(body)) {
        (Some(format), _) => format!("it is a {format}, which is taken by POST /v1/images"),
        (None, NotAPicture::Known { what, .. }) if what != "JSON" => format!("it is {what}"),
        _ => error,
    };
    Problem::bad_request(format!("the body must be JSON like {example}: {came}"))
}

async fn accept_paths(
    intake: &Intake,
    headers: &HeaderMap,
    paths: Vec<paths::Named>,
    origin: &Origin,
) -> Result<Response, Problem> {
    let key = idempotency_key(headers)?;
    let alone = paths.len() == 1;
    let paths = paths
        .into_iter()
        .enumerate()
        .map(|(n, (path, own))| {
            Ok(PathSubmission {
                path,
                origin: checked(own.or(origin))?,
                // A header may cover a whole list: each path derives its own key from it.
                idempotency_key: key
                    .as_ref()
                    .map(|key| if alone { key.clone() } else { list_key(key, n) }),
            })
        })
        .collect::<Result<_, Problem>>()?;
    Ok(accepted(&intake.paths(Source::Http, paths).await?))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PictureQuery {
    /// Name of the picture when the body is its bytes.
    #[param(max_length = 255)]
    name: Option<String>,
    /// The camera that took the picture, by its name. A body that names one has precedence.
    #[param(pattern = "^[A-Za-z0-9._-]{1,64}$")]
    camera: Option<String>,
    /// The event that it belongs to, by the sender's id.
    #[param(pattern = "^[A-Za-z0-9._-]{1,64}$")]
    event: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct OriginQuery {
    /// The camera that took the pictures, by its name. A body that names one has precedence.
    #[param(pattern = "^[A-Za-z0-9._-]{1,64}$")]
    camera: Option<String>,
    /// The event that they belong to, by the sender's id.
    #[param(pattern = "^[A-Za-z0-9._-]{1,64}$")]
    event: Option<String>,
}

impl OriginQuery {
    fn origin(self) -> Result<Origin, Problem> {
        let Self { camera, event } = self;
        checked(Origin { camera, event })
    }
}

fn query_of<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    Ok(query)
}

/// Refuses an origin that is not valid.
fn checked(origin: Origin) -> Result<Origin, Problem> {
    match origin.objection() {
        Some(why) => Err(Problem::bad_request(why)),
        None => Ok(origin),
    }
}

/// Queues a picture: its bytes, a form with files, or paths as JSON.
#[utoipa::path(post, path = "/v1/images", tag = "images", params(PictureQuery, IdempotencyKey),
    request_body(content((PictureBytes = "application/octet-stream"), (OnePath = "application/json"))),
    responses((status = 202, body = Ids), Problem))]
async fn picture(
    State(uploads): State<Uploads>,
    query: Result<Query<PictureQuery>, QueryRejection>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let query = query_of(query)?;
    if query
        .name
        .as_ref()
        .is_some_and(|name| name.chars().count() > LONGEST_NAME)
    {
        return Err(Problem::bad_request(format!(
            "\"name\" has at most {LONGEST_NAME} letters."
        )));
    }
    let (camera, event) = (query.camera, query.event);
    let origin = checked(Origin { camera, event })?;
    let (intake, key) = (uploads.intake(), idempotency_key(&headers)?);
    // Checked before the whole body is read.
    intake.check_capacity().await?;
    let Brought {
        pictures,
        fields,
        json,
        is_form,
    } = uploads.receive(request, query.name).await?;
    if let Some(json) = json {
        let paths = paths_in(&json.bytes, ONE)?;
        return accept_paths(intake, &headers, paths, &origin).await;
    }
    if pictures.is_empty() {
        return Err(no_file(&fields));
    }
    let origin = checked(in_fields(&fields).or(&origin))?;
    let key = |n| {
        key.as_ref().map(|key| {
            if is_form {
                list_key(key, n)
            } else {
                key.clone()
            }
        })
    };
    let pictures = pictures
        .into_iter()
        .enumerate()
        .map(|(n, picture)| (picture.of(origin.clone()), key(n)));
    Ok(accepted(&intake.pictures(pictures.collect()).await?))
}

/// Returns the origin that the text fields of a form name; a field that was left empty names none.
fn in_fields(fields: &[(String, String)]) -> Origin {
    let field = |wanted: &str| {
        let mut found = fields
            .iter()
            .filter(|(name, text)| name == wanted && !text.is_empty());
        found.next().map(|(_, text)| text.clone())
    };
    Origin {
        camera: field("camera"),
        event: field("event"),
    }
}

/// Returns the key of one picture of a list. No header can contain the separator, so it cannot
/// clash with other keys.
fn list_key(key: &str, n: usize) -> String {
    format!("{key}\u{1f}{n}")
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(key)
            if (1..=255).contains(&key.len())
                && key.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            Ok(Some(key.into()))
        }
        _ => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "Idempotency-Key must be 1 to 255 visible ASCII characters",
        )),
    }
}

fn accepted(images: &[Accepted]) -> Response {
    (
        StatusCode::ACCEPTED,
        Json(Ids {
            ids: images.iter().map(|image| image.id).collect(),
        }),
    )
        .into_response()
}

impl From<IntakeError> for Problem {
    fn from(error: IntakeError) -> Self {
        let status = match &error {
            IntakeError::Refused(_) | IntakeError::NotAPicture(..) => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            IntakeError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            // Nothing is wrong with the picture, so it may be sent again.
            IntakeError::Full(_)
            | IntakeError::CameraFull(_)
            | IntakeError::DiskReserve
            | IntakeError::DiskFull
            | IntakeError::Storage(_) => return Self::later(error.to_string()),
        };
        Self::new(status, error.to_string())
    }
}
