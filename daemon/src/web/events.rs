//! `GET /events`: tells open pages that something changed, not what; pages then load themselves
//! again.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::Duration;

use axum::Extension;
use axum::extract::{ConnectInfo, State};
use axum::http::HeaderName;
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Sse};
use futures_util::Stream;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::api::View;
use crate::http_server::Client;
use crate::problem::Problem;

/// Shortest time between two events of one stream.
const PAUSE: Duration = Duration::from_millis(500);
/// Time after which a browser reconnects.
const RETRY: Duration = Duration::from_secs(2);
/// Interval of keep-alives, which prevent proxies from closing a quiet stream and detect browsers
/// that are gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Header against proxies that buffer responses, as nginx does.
const UNBUFFERED: (HeaderName, &str) = (HeaderName::from_static("x-accel-buffering"), "no");

/// Most open streams: each is a connection for as long as its page is open.
const MOST: usize = 256;
static STREAMS: LazyLock<Streams> = LazyLock::new(|| Streams {
    open: Mutex::default(),
    most: MOST,
});

/// The open streams, oldest first.
struct Streams {
    open: Mutex<Vec<(Client, CancellationToken)>>,
    most: usize,
}

impl Streams {
    /// Returns a place for a new stream; `None` if there is none. If all are taken, the client with
    /// the most streams loses its oldest one, unless the new client would then have as many.
    fn enter(&self, client: Client) -> Option<CancellationToken> {
        let mut open = self.open.lock();
        open.retain(|(_, over)| !over.is_cancelled());
        if open.len() >= self.most {
            let count = |client: Client| open.iter().filter(|(other, _)| *other == client).count();
            let greediest = open
                .iter()
                .map(|(client, _)| *client)
                .max_by_key(|client| count(*client))?;
            if greediest != client && count(greediest) <= count(client) + 1 {
                return None;
            }
            let oldest = open.iter().position(|(other, _)| *other == greediest)?;
            open.remove(oldest).1.cancel();
        }
        let over = CancellationToken::new();
        open.push((client, over.clone()));
        Some(over)
    }
}

struct Watch {
    store: watch::Receiver<u64>,
    health: watch::Receiver<u64>,
    stop: CancellationToken,
    /// Time of the next event; `None` before the first.
    next: Option<Instant>,
    /// Cancelled when another client takes the place, or by us when the browser is gone.
    over: CancellationToken,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

/// Streams events until the server stops, the store closes, or another client takes its place.
pub async fn events(
    State(view): State<View>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
) -> Result<impl IntoResponse, Problem> {
    // Without an address the client is a command on this board.
    let peer = peer.map_or(
        IpAddr::from(Ipv4Addr::LOCALHOST),
        |Extension(ConnectInfo(peer))| peer.ip(),
    );
    let over = STREAMS.enter(Client::of(peer));
    let over = over.ok_or_else(|| {
        Problem::later("Too many pages are open; this page does not update itself.")
    })?;
    let (store, health) = (view.store.changes(), view.health.changes());
    let watch = Watch {
        store,
        health,
        stop: view.stop,
        next: None,
        over,
    };
    Ok((
        [UNBUFFERED],
        Sse::new(stream(watch)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)),
    ))
}

fn stream(watch: Watch) -> impl Stream<Item = Result<Event, Infallible>> {
    futures_util::stream::unfold(watch, |mut watch| async {
        watch.wait().await.then(|| {
            // Browsers drop an event without data.
            let event = Event::default().event("changed").data("look").retry(RETRY);
            (Ok(event), watch)
        })
    })
}

impl Watch {
    /// Waits; returns true when an event is due. The first is due at once: the page is older than
    /// its stream.
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
                () = self.over.cancelled() => false,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_holds_most_streams_makes_room() {
        let streams = Streams {
            open: Mutex::default(),
            most: 9,
        };
        let client = |last: u8| Client::of(IpAddr::from([10, 0, 0, last]));
        let mut held: Vec<_> = (0..9)
            .map(|n| streams.enter(client(n / 3)).unwrap())
            .collect();
        let open =
            |held: &[CancellationToken]| held.iter().filter(|over| !over.is_cancelled()).count();
        // Three addresses have all places; others get some, down to a fair share.
        held.push(streams.enter(client(7)).unwrap());
        held.push(streams.enter(client(8)).unwrap());
        held.push(streams.enter(client(7)).unwrap());
        assert_eq!(open(&held), 9);
        // A client with the most streams replaces its own oldest; a client that would join them
        // gets no more.
        let _newest = streams.enter(client(7)).unwrap();
        assert!(held[9].is_cancelled() && open(&held) == 8);
        assert!(streams.enter(client(8)).is_none());
        // A browser that is gone frees its place.
        held[10].cancel();
        assert!(streams.enter(client(9)).is_some());
    }
}
