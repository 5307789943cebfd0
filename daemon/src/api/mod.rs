//! The HTTP API, a file for each resource: what `/v1` reads and changes, and the page's forms,
//! which make the same changes.
//!
//! Access is not decided here: `web::auth` stands before all routes of the LAN, and every user who
//! may open the control socket may change things. Submitting pictures to the queue is
//! `sources::http`.

mod backup;
pub mod breaker;
pub mod health;
mod identify;
mod images;
mod notify;
mod people;
pub mod presence;
mod rejected;
pub mod request;
mod sightings;
mod strangers;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::post;
use percent_encoding::utf8_percent_encode;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::request::{QUERY_VALUE, with_etag};
use crate::engines::TooManyWait;
use crate::people::People;
use crate::pipeline::Reader;
use crate::problem::{Problem, ProblemDetails};
use crate::queue::Queue;
use crate::sources::mqtt::Door;
use crate::sources::upload::Uploads;
use crate::status::cameras::Cameras;
use crate::status::disk::Disk;
use crate::status::health::Health;
use crate::status::targets::Targets;
use crate::status::thermal::Board;
use crate::store::Store;

/// Version shown on the page, in the API and in the metrics.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Everything that reading routes and pages show; clones share it.
#[derive(Clone)]
pub struct View {
    /// Images, people, results.
    pub store: Store,
    /// State of each part.
    pub health: Health,
    /// People and the gallery.
    pub people: People,
    /// Space on the disk.
    pub disk: Disk,
    /// Temperature and throttling.
    pub board: Board,
    /// Counts of cameras.
    pub camera_counts: Cameras,
    /// Counts of sightings.
    pub sightings: crate::sightings::Counts,
    /// Clock by which the gap between looks is measured.
    pub clock: crate::domain::Clock,
    /// Time without a look after which a sighting ends.
    pub gap: Duration,
    /// Targets of notifications.
    pub targets: Targets,
    /// Name of this device.
    pub device: String,
    /// Names of the configured cameras.
    pub cameras: Arc<[String]>,
    /// MQTT topic that takes paths, for the example on an empty board.
    pub topic: String,
    /// The OpenAPI document of `/v1`; set when all routes are known.
    pub document: Arc<OnceLock<Value>>,
    /// Cancelled when the server stops, so that live pages do not delay it.
    pub stop: CancellationToken,
}

/// Everything that changing routes need; clones share it.
#[derive(Clone)]
pub struct Api {
    /// Everything that reading routes show.
    pub view: View,
    /// The queue of images.
    pub queue: Queue,
    /// Rejected MQTT messages, with the intake that may take them again.
    pub messages: Door,
    /// People and the gallery.
    pub people: People,
    /// Reads files below the configured roots.
    pub reader: Arc<Reader>,
    /// Spools pictures that come with a request.
    pub uploads: Uploads,
}

impl Api {
    /// Returns people once their gallery is in memory.
    fn loaded(&self) -> Result<&People, Problem> {
        match self.people.matcher() {
            Ok(_) => Ok(&self.people),
            Err(_) => Err(Problem::later(
                "The engine is not up yet; /v1/health says why.",
            )),
        }
    }
}

/// `/v1`, with its documentation.
pub fn routes(api: Api) -> OpenApiRouter {
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(reading(api.view.clone()))
        .merge(changing(api))
}

/// The reading half of `/v1`.
pub fn reading(view: View) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(images::images))
        .routes(routes!(images::image))
        .routes(routes!(images::thumbnail))
        .routes(routes!(images::face))
        .routes(routes!(people::list))
        .routes(routes!(people::show))
        .routes(routes!(people::picture))
        .routes(routes!(sightings::list))
        .routes(routes!(sightings::show))
        .routes(routes!(presence::show))
        .routes(routes!(strangers::list))
        .routes(routes!(strangers::show))
        .routes(routes!(health::calibration))
        .routes(routes!(breaker::show))
        .routes(routes!(notify::list))
        .routes(routes!(rejected::list))
        .routes(routes!(rejected::show))
        .routes(routes!(health::status))
        .layer(axum::middleware::from_fn(request::etags))
        .with_state(view)
}

fn changing(api: Api) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(images::try_again))
        .routes(routes!(images::forget))
        .routes(routes!(identify::identify))
        .routes(routes!(breaker::tell))
        .routes(routes!(people::enroll))
        .routes(routes!(people::rename, people::forget))
        .routes(routes!(people::add_picture))
        .routes(routes!(people::delete_picture))
        .routes(routes!(people::merge))
        .routes(routes!(strangers::name))
        .routes(routes!(strangers::ignore))
        .routes(routes!(strangers::name_face, strangers::not_this_person))
        .routes(routes!(notify::test))
        .routes(routes!(rejected::payload))
        .routes(routes!(rejected::try_again))
        .routes(routes!(rejected::forget))
        .routes(routes!(rejected::forget_all))
        .routes(routes!(backup::save, backup::restore))
        .routes(routes!(backup::export))
        .routes(routes!(backup::import))
        .layer(axum::middleware::from_fn(survive_hang_up))
        .with_state(api)
}

/// Builds the page's forms, which need no JavaScript.
pub fn forms(api: Api) -> Router {
    Router::new()
        .route("/images/{id}/retry", post(images::try_again_form))
        .route("/images/{id}/forget", post(images::forget_form))
        .route("/rejected/{id}/retry", post(rejected::try_again_form))
        .route("/rejected/{id}/drop", post(rejected::forget_form))
        .route("/rejected/drop", post(rejected::forget_all_form))
        .route("/breaker", post(breaker::tell_form))
        .route("/people", post(people::forms::enroll))
        .route("/people/{id}/pictures", post(people::forms::add_picture))
        .route("/people/{id}/rename", post(people::forms::rename))
        .route("/people/{id}/merge", post(people::forms::merge))
        .route("/people/{id}/forget", post(people::forms::forget))
        .route(
            "/people/{id}/pictures/{picture}/delete",
            post(people::forms::delete_picture),
        )
        .route("/strangers/{id}/name", post(strangers::name_form))
        .route("/strangers/{id}/ignore", post(strangers::ignore_form))
        .route("/strangers/{id}/watch", post(strangers::watch_form))
        .route(
            "/images/{id}/faces/{number}/person",
            post(strangers::name_face_form),
        )
        .route(
            "/images/{id}/faces/{number}/not-this-person",
            post(strangers::not_this_person_form),
        )
        .with_state(api)
        .layer(axum::middleware::from_fn(survive_hang_up))
}

/// Carries a change to its end even if the client hangs up, so that the gallery in memory is never
/// behind the database.
async fn survive_hang_up(request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    let running = tokio::spawn(next.run(request));
    running.await.unwrap_or_else(|panic| {
        tracing::error!("a request failed by a fault of kithd: {panic}");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The request failed by a fault of kithd; its log says which.",
        )
        .into_response()
    })
}

impl From<TooManyWait> for Problem {
    fn from(_: TooManyWait) -> Self {
        Self::later("Too many requests wait for the engine; try again later.")
    }
}

/// Refuses a request that was understood.
fn refused(sentence: &str) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, sentence)
}

/// Redirects to a page, with a sentence to show there.
fn back(place: &str, told: Result<&str, Problem>) -> Response {
    let (name, text) = match told {
        Ok(done) => ("done", done.to_string()),
        Err(problem) => ("refused", problem.into_parts().1),
    };
    let text = utf8_percent_encode(&text, QUERY_VALUE);
    Redirect::to(&format!("{place}?{name}={text}")).into_response()
}

/// OpenAPI 3.1 of `/v1`, made from the code.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "kithd",
        description = "Pictures in, names out. Reading is open unless the operator closed it; every change needs the \
                       administrator's token (`kithd token`). Errors are RFC 9457 problem details."
    ),
    components(schemas(ProblemDetails)),
    tags(
        (name = "images", description = "Pictures to identify, and their results"),
        (name = "sightings", description = "Who came, and who is here"),
        (name = "people", description = "Enrolled people and their pictures"),
        (name = "strangers", description = "Unknown faces, grouped by likeness"),
        (name = "messages", description = "MQTT messages that were refused and are kept"),
        (name = "notifications", description = "Targets that are told who was seen"),
        (name = "board", description = "Engine, circuit breaker, health, backup")
    )
)]
pub struct Document;

/// `GET /openapi.json`.
pub async fn document(State(view): State<View>, headers: HeaderMap) -> Response {
    match view.document.get() {
        Some(document) => with_etag(&headers, "application/json", document.to_string()),
        None => Problem::later("kithd is starting.").into_response(),
    }
}
