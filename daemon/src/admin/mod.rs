//! What may be changed over HTTP: retry and forget images, people, strangers, the circuit breaker, backup; and the one
//! question that needs the engine. Each as JSON under `/v1`, and as a form of the page.
//!
//! Who may do it is not decided here: the guard (`web::auth`) stands before all routes of the LAN, and who may open the
//! control socket may change things. Submitting pictures to the queue is `sources::http`.

mod breaker;
mod identify;
mod images;

use std::sync::Arc;

use axum::Router;
use axum::response::{IntoResponse, Redirect, Response};
use tokio::sync::Semaphore;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::domain::hex;
use crate::problem::Problem;
use crate::queue::Queue;
use crate::recognition::{Enroller, Reader, Ready, ReadyWatch};
use crate::web::Web;

/// What the changes are made with; clones share it.
#[derive(Clone)]
pub struct Admin {
    /// What the pages read.
    pub web: Web,
    /// Images.
    pub queue: Queue,
    /// People.
    pub enroller: Enroller,
    /// The engine and the gallery, once they are up.
    pub ready: ReadyWatch,
    /// Opens paths below the configured roots.
    pub reader: Arc<Reader>,
    /// Largest picture.
    pub max_bytes: usize,
    /// For those who wait for the engine.
    pub engine_turns: Arc<Semaphore>,
}

impl Admin {
    /// Requests that wait for the engine at the same time; more are told to come again.
    pub fn engine_turns() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(8))
    }

    fn up(&self) -> Result<Arc<Ready>, Problem> {
        let up = self.ready.borrow().clone();
        up.ok_or_else(|| Problem::later("The engine is not up yet; /v1/health says why."))
    }
}

/// The changing half of `/v1`, with its documentation.
pub fn api(admin: Admin) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(images::try_again))
        .routes(routes!(images::forget))
        .routes(routes!(identify::identify))
        .routes(routes!(breaker::tell))
        .with_state(admin)
}

/// The page's forms, which need no JavaScript.
pub fn forms(admin: Admin) -> Router {
    use axum::routing::post;
    Router::new()
        .route("/images/{id}/retry", post(images::try_again_form))
        .route("/images/{id}/forget", post(images::forget_form))
        .route("/breaker", post(breaker::tell_form))
        .with_state(admin)
}

/// Back to a page of ours, with what to say there.
fn back(place: &str, told: Result<&str, Problem>) -> Response {
    let (name, text) = match told {
        Ok(done) => ("done", done.to_string()),
        Err(problem) => ("refused", problem.into_parts().1),
    };
    let text: String = text.bytes().map(|byte| format!("%{}", hex(&[byte]))).collect();
    Redirect::to(&format!("{place}?{name}={text}")).into_response()
}
