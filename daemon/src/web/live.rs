//! `GET /events`: tells open pages that something changed. It never says what; pages fetch themselves anew.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::Stream;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Web;
use crate::problem::Problem;

/// Shortest time between two events of one stream.
const PAUSE: Duration = Duration::from_millis(500);
/// How soon a browser comes back after the stream broke.
const RETRY: Duration = Duration::from_secs(2);
/// Keeps proxies from closing a quiet stream, and finds browsers that are gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Open streams in all: each is a connection for as long as its page is open.
const MOST: usize = 256;
static STREAMS: Semaphore = Semaphore::const_new(MOST);

struct Watch {
    store: watch::Receiver<u64>,
    health: watch::Receiver<u64>,
    stop: CancellationToken,
    /// When the next event may be sent; `None` before the first.
    next: Option<Instant>,
    _turn: SemaphorePermit<'static>,
}

/// The stream ends when the server stops or the store closes.
pub async fn events(State(web): State<Web>) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let turn = STREAMS.try_acquire().map_err(|_| Problem::later("Too many pages are open; this one stands still."))?;
    let (store, health) = (web.store.changes(), web.health.changes());
    let watch = Watch { store, health, stop: web.stop, next: None, _turn: turn };
    let stream = futures_util::stream::unfold(watch, |mut watch| async {
        watch.wait().await.then(|| {
            // Browsers drop an event without data.
            let event = Event::default().event("changed").data("look").retry(RETRY);
            (Ok(event), watch)
        })
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

impl Watch {
    /// Returns true when an event is due. The first is due at once: the page is older than its stream.
    async fn wait(&mut self) -> bool {
        if let Some(next) = self.next {
            let quiet = async {
                sleep_until(next).await;
                tokio::select! {
                    changed = self.store.changed() => changed.is_ok(),
                    changed = self.health.changed() => changed.is_ok(),
                }
            };
            let due = tokio::select! {
                due = quiet => due,
                () = self.stop.cancelled() => false,
            };
            if !due {
                return false;
            }
        }
        if self.stop.is_cancelled() {
            return false;
        }
        self.store.mark_unchanged();
        self.health.mark_unchanged();
        self.next = Some(Instant::now() + PAUSE);
        true
    }
}
