//! Bodies in turns: a few are read at a time, and one that stalls or has used up its turn makes
//! way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{BodyDataStream, Bytes};
use axum::http::StatusCode;
use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::{FORM_PICTURES, HEADERS, JSON_LIMIT};
use crate::problem::Problem;
use kith_pictures::kind::HEAD_BYTES;

/// Time without data after which a body gives up its place.
const STALL: Duration = Duration::from_millis(500);
/// Time a body is read before it yields to others.
const TURN: Duration = Duration::from_secs(2);
/// Size up to which a body needs no place: its connection may buffer as much anyway.
pub(super) const SMALL: usize = 64 << 10;

pub(super) fn too_long(limit: usize) -> Problem {
    let detail = if limit == JSON_LIMIT {
        format!(
            "JSON has at most {limit} bytes here; send fewer paths at a time, and pictures as \
             their bytes"
        )
    } else {
        format!(
            "the body has more than {limit} bytes, {FORM_PICTURES} pictures of intake.max_bytes; \
             send fewer at a time"
        )
    };
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

/// A body that is being read, or waits for its turn.
pub(super) struct Reading {
    pub(super) body: BodyDataStream,
    pub(super) limit: usize,
    pub(super) read: usize,
    /// Semaphore of places; `None` when the body needs none.
    pub(super) places: Option<Arc<Semaphore>>,
    pub(super) place: Option<(OwnedSemaphorePermit, Instant)>,
    pub(super) _under_way: Option<OwnedSemaphorePermit>,
}

impl Reading {
    /// Reads enough bytes to identify the content, or all of them.
    pub(super) async fn head(&mut self) -> Result<Vec<u8>, Problem> {
        let mut head = Vec::new();
        while head.len() < HEAD_BYTES
            && let Some(bytes) = self.next().await?
        {
            head.extend_from_slice(&bytes);
        }
        Ok(head)
    }

    /// Returns the next bytes, once it is this body's turn.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let bytes = match &self.places {
            None => self.body.next().await,
            Some(places) => {
                if self
                    .place
                    .as_ref()
                    .is_some_and(|(_, since)| since.elapsed() > TURN)
                {
                    self.place = None;
                }
                if self.place.is_none() {
                    // The semaphore is never closed.
                    let place = Arc::clone(places).acquire_owned().await;
                    self.place = place.ok().map(|place| (place, Instant::now()));
                }
                match tokio::time::timeout(STALL, self.body.next()).await {
                    Ok(bytes) => bytes,
                    Err(_) => {
                        self.place = None;
                        self.body.next().await
                    }
                }
            }
        };
        let bytes = bytes.transpose().map_err(|error| {
            // axum's own message has no details; its source has.
            let cause = std::error::Error::source(&error)
                .map_or_else(|| error.to_string(), ToString::to_string);
            Problem::bad_request(format!("the body could not be read: {cause}"))
        })?;
        self.read += bytes.as_ref().map_or(0, Bytes::len);
        if self.read > self.limit {
            Err(too_long(self.limit))
        } else {
            Ok(bytes)
        }
    }
}

/// State of a form beyond what its parser reports.
#[derive(Default)]
pub(super) struct Watch {
    /// Bytes read since the parser's last progress.
    swallowed: AtomicUsize,
    pub(super) failure: Mutex<Option<Problem>>,
}

impl Watch {
    pub(super) fn progress(&self) {
        self.swallowed.store(0, Ordering::Relaxed);
    }
}

/// Limits the body given to the form parser, which reads all it can before it yields and buffers
/// the part whose end it seeks: it gets one piece at a time, and not without end.
pub(super) fn in_turns(
    reading: Reading,
    watch: Arc<Watch>,
) -> impl Stream<Item = Result<Bytes, axum::BoxError>> {
    futures_util::stream::unfold(Some((reading, watch)), async |state| {
        let (mut reading, watch) = state?;
        tokio::task::yield_now().await;
        let next = reading.next().await.and_then(|bytes| {
            let read = bytes.as_ref().map_or(0, Bytes::len);
            match watch.swallowed.fetch_add(read, Ordering::Relaxed) {
                HEADERS.. => Err(Problem::bad_request(
                    "the multipart body is broken: the headers of a part do not end",
                )),
                _ => Ok(bytes),
            }
        });
        match next {
            Ok(bytes) => bytes.map(|bytes| (Ok(bytes), Some((reading, watch)))),
            Err(problem) => {
                *watch.failure.lock() = Some(problem);
                Some((Err("refused".into()), None))
            }
        }
    })
}
