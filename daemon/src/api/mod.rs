//! All changes over HTTP: images, people, strangers, circuit breaker, rejected messages and backup;
//! and identification, which needs the engine. Each is JSON under `/v1`, and most are forms of the
//! page too.
//!
//! Access is checked elsewhere: `web::auth` stands before all routes of the LAN, and every user who
//! may open the control socket may change things. `sources::http` submits pictures to the queue.

mod backup;
mod breaker;
mod identify;
mod images;
mod people;
mod rejected;
mod strangers;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::post;
use tokio::sync::{Semaphore, SemaphorePermit};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::domain::hex;
use crate::people::People;
use crate::pipeline::Reader;
use crate::problem::Problem;
use crate::queue::Queue;
use crate::sources::mqtt::Door;
use crate::sources::upload::Uploads;
use crate::web::Web;

/// Longest wait of a request for a permit of the engine.
const TURN: Duration = Duration::from_secs(10);

/// Everything that the routes need; clones share it.
#[derive(Clone)]
pub struct Admin {
    /// Data of the pages.
    pub web: Web,
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
    /// Permits to wait for the engine.
    pub engine_turns: Arc<Semaphore>,
}

impl Admin {
    /// Returns the permits to wait for the engine. Requests beyond them are told to try again
    /// later.
    pub fn engine_turns() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(8))
    }

    /// Waits for a permit.
    async fn engine_turn(&self) -> Result<SemaphorePermit<'_>, Problem> {
        // The semaphore is never closed.
        match tokio::time::timeout(TURN, self.engine_turns.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Problem::later(
                "Too many requests wait for the engine; try again later.",
            )),
        }
    }

    /// Returns people once their gallery is in memory.
    fn loaded(&self) -> Result<People, Problem> {
        match self.people.matcher() {
            Ok(_) => Ok(self.people.clone()),
            Err(_) => Err(Problem::later(
                "The engine is not up yet; /v1/health says why.",
            )),
        }
    }
}

/// Builds the changing routes of `/v1`, with their documentation.
pub fn api(admin: Admin) -> OpenApiRouter {
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
        .routes(routes!(rejected::payload))
        .routes(routes!(rejected::try_again))
        .routes(routes!(rejected::forget))
        .routes(routes!(rejected::forget_all))
        .routes(routes!(backup::save, backup::restore))
        .routes(routes!(backup::export))
        .routes(routes!(backup::import))
        .with_state(admin)
}

/// Builds the page's forms, which need no JavaScript.
pub fn forms(admin: Admin) -> Router {
    Router::new()
        .route("/images/{id}/retry", post(images::try_again_form))
        .route("/images/{id}/forget", post(images::forget_form))
        .route("/rejected/{id}/retry", post(rejected::try_again_form))
        .route("/rejected/{id}/drop", post(rejected::forget_form))
        .route("/rejected/drop", post(rejected::forget_all_form))
        .route("/breaker", post(breaker::tell_form))
        .route("/people", post(people::enroll_form))
        .route("/people/{id}/pictures", post(people::add_picture_form))
        .route("/people/{id}/rename", post(people::rename_form))
        .route("/people/{id}/merge", post(people::merge_form))
        .route("/people/{id}/forget", post(people::forget_form))
        .route(
            "/people/{id}/pictures/{picture}/delete",
            post(people::delete_picture_form),
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
        .with_state(admin)
}

/// Runs a change to its end even if the client disconnects: the gallery in memory must not fall
/// behind the database.
pub async fn on_its_own<T, E>(
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<anyhow::Error> + Send + 'static,
{
    tokio::spawn(work)
        .await
        .unwrap_or_else(|panic| Err(anyhow::Error::from(panic).into()))
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
    let text: String = text
        .bytes()
        .map(|byte| format!("%{}", hex(&[byte])))
        .collect();
    Redirect::to(&format!("{place}?{name}={text}")).into_response()
}
