//! Following the faces of a camera: its newest frame goes to the engine when that has room, tracks
//! link the faces of consecutive frames, and a few frames of each track go to the queue.
//!
//! A frame that nothing looks at is dropped and counted; none is repeated. Not for linking faces and
//! choosing frames (`tracks`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Camera;
use super::back_off::BackOff;
use super::tracks::{Event, Frame, Likeness, Tracks};
use crate::domain::{CameraLook, IdentifiedFace, TrackedFace};
use crate::engines::Recognised;
use crate::queue::Failure;

/// Time after the last motion during which every frame is looked at.
const STILL: Duration = Duration::from_secs(3);
/// Time between looks at a face in a picture in which nothing moves.
const RESTING: Duration = Duration::from_secs(1);
/// Interval between checks for tracks that nothing was seen of.
const CHECK: Duration = Duration::from_secs(1);

/// Identifies the faces that an engine found in a frame.
pub type Identify = Arc<dyn Fn(Recognised) -> Result<Vec<IdentifiedFace>, Failure> + Send + Sync>;

/// Takes what is seen of tracks, for their sightings. It must not wait.
pub type Tell = Arc<dyn Fn(CameraLook) + Send + Sync>;

/// The newest frame of a followed camera, on its way from its process to the engine.
#[derive(Default)]
pub struct Newest {
    inner: Mutex<Inner>,
    came: Notify,
}

#[derive(Default)]
struct Inner {
    newest: Option<Look>,
    number: u64,
    /// True if a cut came since the last frame that was looked at.
    cut: bool,
    moved: Option<Instant>,
    looked: Option<Instant>,
    /// True while a face is followed.
    face: bool,
    dropped: u64,
}

/// A frame to be looked at, and when it came.
struct Look {
    frame: Frame,
    came: Instant,
}

impl Newest {
    /// Takes a frame, if something moved lately or there is a face. It replaces one that nothing
    /// has looked at yet.
    pub(super) fn offer(&self, sharpness: f32, cut: bool, moves: bool, jpeg: Bytes, now: Instant) {
        let mut inner = self.inner.lock();
        inner.number += 1;
        inner.cut |= cut;
        // No motion tells of a face that was there from the start.
        if moves || inner.moved.is_none() {
            inner.moved = Some(now);
        }
        let since = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
        let moving = since(inner.moved).is_some_and(|passed| passed < STILL);
        let resting = since(inner.looked).is_none_or(|passed| passed >= RESTING);
        let due = moving || (inner.face && resting);
        if !due {
            return;
        }
        let frame = Frame {
            number: inner.number,
            sharpness,
            cut: false,
            jpeg,
        };
        let replaced = inner.newest.replace(Look { frame, came: now });
        inner.dropped += u64::from(replaced.is_some());
        self.came.notify_one();
    }

    /// Waits for a frame.
    async fn came(&self) {
        while self.inner.lock().newest.is_none() {
            self.came.notified().await;
        }
    }

    /// Takes the frame out.
    fn take(&self) -> Option<Look> {
        let mut inner = self.inner.lock();
        let mut look = inner.newest.take()?;
        look.frame.cut = std::mem::take(&mut inner.cut);
        inner.looked = Some(look.came);
        Some(look)
    }
}

impl Camera {
    /// Follows faces until stopped.
    pub(super) async fn follow(&self, newest: &Newest, stop: &CancellationToken) {
        let Some(pack) = stop.run_until_cancelled(self.engines.loaded()).await else {
            return;
        };
        let mut tracks = Tracks::new(Likeness::of(&pack));
        let mut back_off = BackOff::default();
        let mut well_since = Instant::now();
        loop {
            let events = tracks.expire(Instant::now());
            if !events.is_empty() {
                self.tell_sightings(&tracks, &[], Instant::now());
            }
            self.handle(events).await;
            self.count(newest, &tracks);
            let ready = async {
                let available = self.engines.available(CHECK).await;
                match available {
                    Ok(()) => Ok(timeout(CHECK, newest.came()).await.is_ok()),
                    Err(why) => Err(why),
                }
            };
            match stop.run_until_cancelled(ready).await {
                None => break,
                Some(Ok(true)) => {}
                Some(Ok(false)) => continue,
                Some(Err(why)) => {
                    self.blind(why);
                    continue;
                }
            }
            let mut look = None;
            let looking = self.engines.look(|| {
                look = newest.take();
                let jpeg = look.as_ref().map(|look| look.frame.jpeg.clone());
                jpeg.unwrap_or_default()
            });
            let Some(recognised) = stop.run_until_cancelled(looking).await else {
                break;
            };
            let faces = recognised.and_then(|recognised| (self.identify)(recognised));
            match (faces, look) {
                (Ok(faces), Some(Look { frame, came })) => {
                    {
                        let mut state = self.state();
                        if let Some(follow) = &mut state.counts.follow {
                            follow.looked += 1;
                        }
                        state.blind = None;
                    }
                    let events = tracks.look(&frame, &faces, came);
                    self.tell_sightings(&tracks, &faces, came);
                    self.handle(events).await;
                }
                (Err(Failure::Unreadable { why, .. }), _) => {
                    tracing::debug!("{}: a frame cannot be read: {why}", self.part);
                }
                (Err(failure), _) => {
                    self.blind(failure.verdict().sentence);
                    // Frames that harm the engine each time must not keep it from the queue.
                    let pause = back_off.after(well_since.elapsed());
                    _ = stop.run_until_cancelled(sleep(pause)).await;
                    well_since = Instant::now();
                }
                (Ok(_), None) => {}
            }
        }
        let events = tracks.finish();
        self.tell_sightings(&tracks, &[], Instant::now());
        self.handle(events).await;
        self.count(newest, &tracks);
    }

    async fn handle(&self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Picture { tracks, why, frame } => {
                    tracing::debug!("{}: {why:?} of tracks {tracks:?}", self.part);
                    self.queue(frame.jpeg).await;
                }
                Event::Begun(sight) => {
                    tracing::debug!("{}: track {} begins", self.part, sight.track);
                }
                Event::Changed(sight) => {
                    let outcome = sight.who.outcome;
                    tracing::debug!("{}: track {} is {outcome}", self.part, sight.track);
                }
                Event::Ended(sight) => {
                    let (outcome, looks) = (sight.who.outcome, sight.looks);
                    if let Some(follow) = &mut self.state().counts.follow {
                        follow.end(outcome);
                    }
                    tracing::debug!(
                        "{}: track {} ends, {outcome} by {looks} looks of which the best has \
                         quality {:.2}, {:.1} s long, at {:.0?}",
                        self.part,
                        sight.track,
                        sight.quality,
                        (sight.last - sight.began).as_secs_f32(),
                        sight.bounds,
                    );
                }
            }
        }
    }

    /// Tells the faces of a frame that belong to tracks.
    fn tell_sightings(&self, tracks: &Tracks, faces: &[IdentifiedFace], came: Instant) {
        let of_track = |(track, bounds): (_, Option<[f32; 4]>)| {
            let face = faces.iter().find(|face| Some(face.bounds) == bounds)?;
            Some(TrackedFace {
                track,
                bounds: face.bounds,
                quality: face.quality,
                outcome: face.outcome,
                person: face.person.as_ref().map(|person| person.person_id),
                embedding: face.embedding.clone(),
            })
        };
        (self.tell)(CameraLook {
            camera: self.settings.name.clone(),
            came,
            faces: tracks.places().filter_map(of_track).collect(),
            live: tracks.places().map(|(track, _)| track).collect(),
        });
    }

    fn count(&self, newest: &Newest, tracks: &Tracks) {
        let dropped = {
            let mut inner = newest.inner.lock();
            inner.face = tracks.count() > 0;
            inner.dropped
        };
        let mut state = self.state();
        state.counts.dropped = dropped;
        if let Some(follow) = &mut state.counts.follow {
            follow.tracks = tracks.count();
        }
        self.cameras.set(&self.settings.name, state.counts);
    }

    /// Notes why no frame is looked at.
    fn blind(&self, why: String) {
        {
            let mut state = self.state();
            let since = state
                .blind
                .take()
                .map_or_else(Instant::now, |(since, _)| since);
            state.blind = Some((since, why));
        }
        self.show();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offers frames, five a second; returns how many are there to be looked at if each is taken.
    fn taken(newest: &Newest, now: &mut Instant, frames: usize, moves: bool) -> usize {
        let mut taken = 0;
        for _ in 0..frames {
            *now += Duration::from_millis(200);
            newest.offer(1.0, false, moves, Bytes::new(), *now);
            taken += usize::from(newest.take().is_some());
        }
        taken
    }

    #[test]
    fn frames_are_looked_at_while_there_is_motion_or_a_face() {
        let (newest, mut now) = (Newest::default(), Instant::now());
        assert_eq!(taken(&newest, &mut now, 15, false), 15, "at the start");
        assert_eq!(taken(&newest, &mut now, 50, false), 0);
        assert_eq!(taken(&newest, &mut now, 10, true), 10);
        assert_eq!(taken(&newest, &mut now, 50, false), 14, "after motion");
        newest.inner.lock().face = true;
        assert_eq!(taken(&newest, &mut now, 50, false), 10, "a face at rest");
        assert_eq!(newest.inner.lock().dropped, 0);
    }

    #[test]
    fn a_newer_frame_replaces_one_that_waits_and_keeps_its_cut() {
        let (newest, now) = (Newest::default(), Instant::now());
        for (n, cut) in [false, true, false].into_iter().enumerate() {
            newest.offer(n as f32, cut, true, Bytes::new(), now);
        }
        let frame = newest.take().unwrap().frame;
        assert_eq!((frame.number, frame.sharpness, frame.cut), (3, 2.0, true));
        assert!(newest.take().is_none());
        assert_eq!(newest.inner.lock().dropped, 2);
        newest.offer(0.0, false, true, Bytes::new(), now);
        assert!(!newest.take().unwrap().frame.cut);
    }
}
