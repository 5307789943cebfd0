//! The task that makes sightings of results, in the order they were made, and ends them. It
//! continues after a restart where the database says that it was.
//!
//! Open sightings are kept in memory beside their rows. A row that others change (a face was named, a
//! person erased) is marked `stale` by them: it is then read and judged again, and a change that
//! was computed before is computed again. Late pictures join by the time they came in, also a
//! sighting that has ended since, which is not told then.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Sights;
use super::identity::{self, Template};
use super::joining::{self, Joined, Look, Open, Rules};
use crate::domain::{
    CameraLook, FaceAddress, Outcome, PersonId, SightingId, SightingStep, TrackedFace,
    wall_clock_ms,
};
use crate::people::matcher::Judgement;
use crate::people::{Matcher, People};
use crate::queue::QueueClock;
use crate::status::health::{Condition, Health};
use crate::store::{
    CLOSED, SeenFace, SeenImage, Sighting, SightingChange, StaleSighting, Store, StoreError,
    Telling,
};

/// Pause after an error.
const RETRY: Duration = Duration::from_secs(10);
/// Pause before an end that waits for pictures on their way is looked at again.
const WAIT: Duration = Duration::from_secs(1);
/// Sightings ended by one operation of the writer.
const BATCH: usize = 50;
/// Time between two writes of looks at a followed camera into one sighting, queue clock: each write
/// wears out an SD card.
const WRITTEN_EVERY_MS: i64 = 5000;
/// Time after its last look during which a track keeps its sighting open, queue clock.
const TRACKED_MS: i64 = 10_000;
/// Pause after looks that told nothing: the next ones are then written together, in one commit.
const TOGETHER: Duration = Duration::from_secs(1);
/// Results without a face after which the newest of them is stored: those before it need not be
/// examined again after a restart.
const STORED_EVERY: i64 = 100;

/// Counts since the start, for the metrics; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    inner: Arc<[AtomicU64; 3]>,
}

impl Counts {
    /// Returns how many sightings began, how many ended, and how many are open now.
    pub fn read(&self) -> [u64; 3] {
        [0, 1, 2].map(|at: usize| self.inner[at].load(Ordering::Relaxed))
    }

    fn tell(&self, step: SightingStep) {
        let at = match step {
            SightingStep::Begin => 0,
            SightingStep::End => 1,
            SightingStep::Update => return,
        };
        self.inner[at].fetch_add(1, Ordering::Relaxed);
    }

    fn set_open(&self, open: usize) {
        self.inner[2].store(open as u64, Ordering::Relaxed);
    }
}

/// Everything that the task needs.
#[derive(Clone)]
pub struct Sightings {
    /// Database and gallery.
    pub people: People,
    /// Clock of the gap.
    pub clock: QueueClock,
    /// Time without a look after which a sighting ends.
    pub gap: Duration,
    /// Name of the board, and whether messages are to be made.
    pub telling: Arc<Telling>,
    /// Counts for the metrics.
    pub counts: Counts,
    /// Looks at followed cameras.
    pub sights: Sights,
    /// Health of the task.
    pub health: Health,
}

impl Sightings {
    /// Makes sightings until stopped.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let matcher = tokio::select! {
            matcher = self.people.loaded() => matcher,
            () = stop.cancelled() => return Ok(()),
        };
        let mut work = self.people.store.work();
        let mut restores = self.people.restores.subscribe();
        let mut maker = Maker {
            store: self.people.store.clone(),
            rules: Rules::new(
                matcher.matching(),
                matcher.known_from(),
                self.gap,
                matcher.mirrors(),
            ),
            matcher,
            gap_ms: i64::try_from(self.gap.as_millis()).unwrap_or(i64::MAX),
            telling: self.telling,
            counts: self.counts,
            known: None,
            quiet: false,
            tracks: HashMap::new(),
            written: HashMap::new(),
        };
        let mut looks = self.sights.receiver.lock().await;
        let mut look = None;
        let mut closed = false;
        loop {
            work.mark_unchanged();
            if restores.has_changed().unwrap_or(false) {
                restores.mark_unchanged();
                // The restored backup has sightings that are not in memory.
                maker.known = None;
                maker.tracks.clear();
            }
            let mut seen: Vec<CameraLook> = look.take().into_iter().collect();
            seen.extend(std::iter::from_fn(|| looks.try_recv().ok()));
            let round = async {
                if !closed {
                    maker
                        .close_overdue(self.clock.started_ms(), wall_clock_ms())
                        .await?;
                    closed = true;
                }
                for look in &seen {
                    let ago = i64::try_from(look.came.elapsed().as_millis()).unwrap_or(0);
                    let (came_ms, wall_ms) = (self.clock.now_ms() - ago, wall_clock_ms() - ago);
                    maker.see(look, came_ms, wall_ms).await?;
                }
                maker.round(self.clock.now_ms(), wall_clock_ms()).await
            };
            let pause = match round.await {
                Ok(next) => {
                    self.health
                        .set("sightings", Condition::Ok, "made as results come");
                    next.map_or(Duration::MAX, |due_ms| self.clock.until(due_ms).max(WAIT))
                }
                Err(error) => {
                    // Memory and database may differ.
                    maker.known = None;
                    let text = format!("sightings are not made now: {error}; tried again");
                    if self
                        .health
                        .set("sightings", Condition::Degraded, text.as_str())
                    {
                        tracing::warn!("{text}");
                    }
                    tokio::select! {
                        () = tokio::time::sleep(RETRY) => continue,
                        () = stop.cancelled() => return Ok(()),
                    }
                }
            };
            if std::mem::take(&mut maker.quiet)
                && stop
                    .run_until_cancelled(tokio::time::sleep(TOGETHER))
                    .await
                    .is_none()
            {
                return Ok(());
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
                // The channel closes only when the store ends.
                _ = work.changed() => {}
                seen = looks.recv() => look = seen,
            }
        }
    }
}

/// The rules of one run, and the sightings in memory.
struct Maker {
    store: Store,
    matcher: Arc<Matcher>,
    rules: Rules,
    gap_ms: i64,
    telling: Arc<Telling>,
    counts: Counts,
    known: Option<Known>,
    /// True after a change of rows that told nothing.
    quiet: bool,
    /// The sighting of each track of a followed camera, and when the track was last seen.
    tracks: HashMap<(String, u64), (SightingId, i64)>,
    /// When looks at a followed camera were last written into a sighting.
    written: HashMap<SightingId, i64>,
}

/// Sightings in memory, as their rows have them or a few seconds newer.
struct Known {
    open: Vec<Sighting>,
    /// The newest result whose faces are in sightings, and the one that the database names.
    examined: i64,
    stored: i64,
}

impl Maker {
    fn open(&self) -> usize {
        self.known.as_ref().map_or(0, |known| known.open.len())
    }

    /// Closes sightings of the last run that are over by the wall clock.
    async fn close_overdue(&mut self, started_ms: i64, wall_ms: i64) -> Result<(), StoreError> {
        self.known = None;
        self.store
            .close_sightings(started_ms, wall_ms, self.gap_ms)
            .await
    }

    /// Does everything that is due at `now_ms` (queue clock); returns when the next sighting may
    /// end.
    async fn round(&mut self, now_ms: i64, wall_ms: i64) -> Result<Option<i64>, StoreError> {
        self.catch_up(now_ms, wall_ms).await?;
        let next = self.end(now_ms, wall_ms).await?;
        self.counts.set_open(self.open());
        Ok(next)
    }

    async fn known(&mut self) -> Result<&mut Known, StoreError> {
        let known = match self.known.take() {
            Some(known) => known,
            None => {
                let newest = self.store.newest_result().await?;
                // A database restored from a copy may have fewer results.
                let upto = self.store.sightings_upto().await?.min(newest);
                Known {
                    open: self.store.open_sightings().await?,
                    examined: upto,
                    stored: upto,
                }
            }
        };
        Ok(self.known.insert(known))
    }

    /// Takes all results there are, and judges again what others changed.
    async fn catch_up(&mut self, now_ms: i64, wall_ms: i64) -> Result<(), StoreError> {
        loop {
            let after = self.known().await?.examined;
            let work = self.store.sighting_work(after).await?;
            if let Some(stale) = work.stale {
                self.judge_again(stale, now_ms, wall_ms).await?;
                continue;
            }
            let known = self.known().await?;
            known.examined = work.examined;
            let Some(image) = work.image else {
                if work.examined > after {
                    continue;
                }
                if known.examined >= known.stored + STORED_EVERY {
                    known.stored = known.examined;
                    self.store.set_sightings_upto(after).await?;
                }
                return Ok(());
            };
            self.take(&image).await?;
        }
    }

    /// Gives the faces of an image their sightings.
    async fn take(&mut self, image: &SeenImage) -> Result<(), StoreError> {
        let space = self.matcher.space().to_string();
        let (rules, gap_ms) = (self.rules, self.gap_ms);
        let came_ms = image.came_ms;
        let fits = |sighting: &&Sighting| {
            sighting.source == image.source
                && came_ms >= sighting.began_came_ms - gap_ms
                && came_ms <= sighting.last_came_ms.saturating_add(gap_ms)
                && sighting.until_came_ms.is_none_or(|until| came_ms <= until)
        };
        let mut seen: Vec<Sighting> = {
            let open = &self.known().await?.open;
            open.iter().filter(fits).cloned().collect()
        };
        let ended = self.store.ended_sightings(&image.source, came_ms, gap_ms);
        for late in ended.await? {
            let mut sighting = late.sighting;
            let template = self.template_of(&late.faces);
            set_template(&mut sighting, template, &space);
            seen.push(sighting);
        }
        let open: Vec<Open> = seen.iter().map(|it| as_open(it, &space)).collect();
        let looks: Vec<Look<'_>> = image
            .faces
            .iter()
            .map(|face| Look {
                bounds: face.bounds,
                quality: face.quality,
                embedding: match self.compares(face) {
                    true => &face.embedding,
                    false => &[],
                },
                outcome: face.outcome,
                person: face.person,
            })
            .collect();
        let mut joined = joining::join(&rules, &open, &looks, came_ms);
        without_embeddings(&seen, &looks, &mut joined);

        // Templates of those that get a look, and the faces that join each.
        let mut touched: Vec<(usize, Vec<FaceAddress>)> = Vec::new();
        let mut templates: Vec<Template> = open.into_iter().map(|open| open.template).collect();
        for ((face, look), joined) in image.faces.iter().zip(&looks).zip(joined) {
            let at = match joined {
                Joined::Nowhere => continue,
                Joined::To(at) => at,
                Joined::New => {
                    seen.push(founded(image, &space));
                    templates.push(Template::default());
                    seen.len() - 1
                }
            };
            if !look.embedding.is_empty() {
                templates[at].add(look.embedding, look.quality, self.matcher.known_from());
            }
            add_look(&mut seen[at], image, face);
            match touched.iter_mut().find(|(there, _)| *there == at) {
                Some((_, faces)) => faces.push(face.address.clone()),
                None => touched.push((at, vec![face.address.clone()])),
            }
        }
        let judged: Vec<(&Template, Option<PersonId>)> = touched
            .iter()
            .map(|(at, _)| (&templates[*at], known_as(&seen[*at])))
            .collect();
        let judged = identity::judge_all(&self.matcher, &judged).unwrap_or_else(|error| {
            tracing::warn!(image = ?image.faces.first(), "a sighting cannot be judged: {error}");
            vec![None; touched.len()]
        });
        let mut changes = Vec::with_capacity(touched.len());
        for ((at, faces), judgement) in touched.into_iter().zip(judged) {
            let mut sighting = seen[at].clone();
            match judgement {
                Some(judgement) => apply(&mut sighting, judgement),
                None => {
                    let of = image.faces.iter().filter(|it| faces.contains(&it.address));
                    of.for_each(|face| name_by(&mut sighting, face));
                }
            }
            set_template(&mut sighting, templates[at].clone(), &space);
            changes.push(SightingChange {
                sighting,
                faces,
                at_ms: image.accepted_at_ms,
            });
        }
        if changes.is_empty() {
            self.known().await?.examined = image.result;
            return Ok(());
        }
        self.store_changes(changes, Some(image.result)).await
    }

    /// Adds the faces of a followed camera's frame to open sightings; only pictures begin one. Rows
    /// are written when who it is changes, and otherwise every few seconds.
    async fn see(
        &mut self,
        look: &CameraLook,
        came_ms: i64,
        wall_ms: i64,
    ) -> Result<(), StoreError> {
        let gone =
            |(camera, track): &(String, u64)| *camera == look.camera && !look.live.contains(track);
        self.tracks.retain(|track, _| !gone(track));
        let (space, rules, gap_ms) = (self.matcher.space().to_string(), self.rules, self.gap_ms);
        let known_from = self.matcher.known_from();
        let fits = |sighting: &&Sighting| {
            sighting.source == look.camera
                && sighting.until_came_ms.is_none_or(|until| came_ms <= until)
                && came_ms <= sighting.last_came_ms.saturating_add(gap_ms)
        };
        let seen: Vec<Sighting> = {
            let open = &self.known().await?.open;
            open.iter().filter(fits).cloned().collect()
        };
        if look.faces.is_empty() || seen.is_empty() {
            return Ok(());
        }
        let open: Vec<Open> = seen.iter().map(|it| as_open(it, &space)).collect();
        let places = self.places(look, &seen, &open, &rules, came_ms);
        let mut touched: Vec<(usize, Template)> = Vec::new();
        let mut changed = seen.clone();
        for (face, at) in look.faces.iter().zip(places) {
            let Some(at) = at else { continue };
            let sighting = &mut changed[at];
            sighting.looks += 1;
            if came_ms >= sighting.last_came_ms {
                sighting.last_came_ms = came_ms;
                sighting.last_ms = wall_ms;
                sighting.bounds = face.bounds;
            }
            let mut template = open[at].template.clone();
            template.add(&face.embedding, face.quality, known_from);
            touched.push((at, template));
            let track = (look.camera.clone(), face.track);
            self.tracks.insert(track, (seen[at].id, came_ms));
        }
        let judged: Vec<(&Template, Option<PersonId>)> = touched
            .iter()
            .map(|(at, template)| (template, known_as(&seen[*at])))
            .collect();
        let judged = identity::judge_all(&self.matcher, &judged)
            .unwrap_or_else(|_| vec![None; touched.len()]);
        let mut changes = Vec::new();
        for ((at, template), judgement) in touched.into_iter().zip(judged) {
            let mut sighting = changed[at].clone();
            if let Some(judgement) = judgement {
                apply(&mut sighting, judgement);
            }
            set_template(&mut sighting, template, &space);
            let who = |sighting: &Sighting| (sighting.outcome, sighting.person);
            let written = self.written.get(&sighting.id).copied();
            let due = written.is_none_or(|at_ms| came_ms - at_ms >= WRITTEN_EVERY_MS);
            if due || who(&sighting) != who(&seen[at]) {
                self.written.insert(sighting.id, came_ms);
                changes.push(SightingChange {
                    sighting,
                    faces: Vec::new(),
                    at_ms: wall_ms,
                });
            } else {
                let open = &mut self.known().await?.open;
                if let Some(place) = open.iter_mut().find(|it| it.id == sighting.id) {
                    *place = sighting;
                }
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.store_changes(changes, None).await
    }

    /// Returns the place of each face of a frame among the sightings: that of its track, or the one
    /// it is joined to.
    fn places(
        &self,
        look: &CameraLook,
        seen: &[Sighting],
        open: &[Open],
        rules: &Rules,
        came_ms: i64,
    ) -> Vec<Option<usize>> {
        let looks: Vec<Look<'_>> = look.faces.iter().map(as_look).collect();
        let joined = joining::join(rules, open, &looks, came_ms);
        let of_track = |face: &TrackedFace| {
            let (id, _) = self.tracks.get(&(look.camera.clone(), face.track))?;
            seen.iter().position(|sighting| sighting.id == *id)
        };
        let mut places: Vec<Option<usize>> = look.faces.iter().map(of_track).collect();
        for (at, joined) in joined.into_iter().enumerate() {
            if let Joined::To(place) = joined
                && places[at].is_none()
                && !places.contains(&Some(place))
            {
                places[at] = Some(place);
            }
        }
        places
    }

    /// Returns whether a track of this sighting was seen lately.
    fn is_tracked(&self, id: SightingId, now_ms: i64) -> bool {
        let lately = |seen_ms: i64| now_ms - seen_ms <= TRACKED_MS;
        let mut tracks = self.tracks.values();
        tracks.any(|(of, seen_ms)| *of == id && lately(*seen_ms))
    }

    /// Stores changes, and notes them in memory. If others changed one of them meanwhile, nothing
    /// is stored, and memory is read again.
    async fn store_changes(
        &mut self,
        changes: Vec<SightingChange>,
        upto: Option<i64>,
    ) -> Result<(), StoreError> {
        let telling = Arc::clone(&self.telling);
        let stored = self.store.change_sightings(changes, upto, telling).await?;
        let Some(stored) = stored else {
            self.known = None;
            return Ok(());
        };
        let counts = self.counts.clone();
        let known = self.known().await?;
        if let Some(upto) = upto {
            (known.examined, known.stored) = (upto, upto);
        }
        let mut gone = Vec::new();
        let quiet = stored.iter().all(|change| change.step.is_none());
        for change in stored {
            let sighting = change.sighting;
            let place = known.open.iter().position(|it| it.id == sighting.id);
            match (place, sighting.ended_ms) {
                (Some(at), None) => known.open[at] = sighting,
                (None, None) => known.open.push(sighting),
                (Some(at), Some(_)) => {
                    let ended = known.open.remove(at);
                    gone.push(ended.id);
                }
                (None, Some(_)) => {}
            }
            if let Some(step) = change.step {
                counts.tell(step);
            }
        }
        self.written.retain(|id, _| !gone.contains(id));
        self.quiet = quiet;
        Ok(())
    }

    /// Judges a sighting by the faces it has now; an open one without any ends.
    async fn judge_again(
        &mut self,
        stale: StaleSighting,
        now_ms: i64,
        wall_ms: i64,
    ) -> Result<(), StoreError> {
        let StaleSighting {
            mut sighting,
            faces,
            count,
            beside,
        } = stale;
        if sighting.ended_ms.is_none() && sighting.until_came_ms == Some(CLOSED) {
            // Its person was erased: it ends, and shows none of its faces.
            sighting.ended_ms = Some(wall_ms);
            let change = SightingChange {
                at_ms: sighting.last_ms,
                faces: Vec::new(),
                sighting,
            };
            return self.store_changes(vec![change], None).await;
        }
        let space = self.matcher.space().to_string();
        let template = self.template_of(&faces);
        let named = majority(&faces);
        let present = named.or_else(|| {
            let known = known_as(&sighting);
            known.filter(|known| faces.iter().any(|face| face.person == Some(*known)))
        });
        let judged = identity::judge(&self.matcher, &template, present, &beside);
        let judged = judged.unwrap_or_else(|error| {
            tracing::warn!(
                sighting = sighting.id,
                "a sighting cannot be judged: {error}"
            );
            None
        });
        match judged {
            Some(judgement) => {
                let mut named_by_all = named.filter(|person| !beside.contains(person));
                if judgement.outcome == Outcome::Known {
                    named_by_all = None;
                }
                let candidates = judgement.candidates.clone();
                apply(&mut sighting, judgement);
                if let Some(person) = named_by_all {
                    // An operator's name for its faces stands.
                    let own = candidates.iter().find(|it| it.person_id == person);
                    sighting.distance = own.and_then(|own| own.distance);
                    sighting.margin = None;
                    (sighting.outcome, sighting.person) = (Outcome::Known, Some(person));
                }
            }
            None if !faces.is_empty() && faces.iter().any(|face| face.person.is_some()) => {
                (sighting.outcome, sighting.person) = (Outcome::Unknown, None);
                faces.iter().for_each(|face| name_by(&mut sighting, face));
            }
            // Its faces are erased, and it stays what it is.
            None => {}
        }
        let shown = |face: &&SeenFace| face.crop;
        let best = faces
            .iter()
            .filter(shown)
            .max_by(|a, b| a.quality.total_cmp(&b.quality));
        let kept = sighting
            .face
            .as_ref()
            .is_some_and(|face| faces.iter().any(|it| it.crop && it.address == *face));
        if !kept && (best.is_some() || sighting.ended_ms.is_none()) {
            sighting.face = best.map(|face| face.address.clone());
            sighting.merit = best.map_or(0.0, |face| face.quality);
        }
        if sighting.ended_ms.is_none() {
            let tracked = self.tracks.values().any(|(of, _)| *of == sighting.id);
            sighting.looks = match tracked {
                true => sighting.looks.max(count),
                false => count,
            };
            set_template(&mut sighting, template, &space);
            if faces.is_empty() && !tracked {
                sighting.ended_ms = Some(wall_ms);
                sighting.until_came_ms = Some(now_ms);
            }
        }
        let at_ms = sighting.last_ms;
        let change = SightingChange {
            sighting,
            faces: Vec::new(),
            at_ms,
        };
        self.store_changes(vec![change], None).await
    }

    /// Ends the sightings that nothing was seen of for longer than the gap, and of which no
    /// picture is on its way. Returns when the next may end.
    async fn end(&mut self, now_ms: i64, wall_ms: i64) -> Result<Option<i64>, StoreError> {
        let gap_ms = self.gap_ms;
        let (mut next, mut ends): (Option<i64>, Vec<SightingChange>) = (None, Vec::new());
        let mut later = |due_ms: i64| next = Some(next.map_or(due_ms, |it: i64| it.min(due_ms)));
        let due = |sighting: &Sighting| {
            let gap_after = sighting.last_came_ms.saturating_add(gap_ms);
            sighting.until_came_ms.unwrap_or(gap_after)
        };
        let (mut over, examined) = {
            let known = self.known().await?;
            let (over, open): (Vec<_>, Vec<_>) = known.open.iter().partition(|it| due(it) < now_ms);
            open.into_iter()
                .for_each(|sighting| later(due(sighting) + 1));
            let over: Vec<Sighting> = over.into_iter().cloned().collect();
            (over, known.examined)
        };
        over.retain(|sighting| {
            let tracked = self.is_tracked(sighting.id, now_ms);
            if tracked {
                later(now_ms);
            }
            !tracked
        });
        for sighting in over {
            let due_ms = due(&sighting);
            let (from_ms, upto) = (sighting.began_came_ms, examined);
            if self.store.is_on_its_way(from_ms, due_ms, upto).await? {
                later(now_ms);
                continue;
            }
            let at_ms = sighting.last_ms.saturating_add(gap_ms);
            let ended = Sighting {
                ended_ms: Some(wall_ms.max(sighting.last_ms)),
                until_came_ms: Some(due_ms),
                ..sighting
            };
            ends.push(SightingChange {
                sighting: ended,
                faces: Vec::new(),
                at_ms,
            });
        }
        for batch in ends.chunks(BATCH) {
            self.store_changes(batch.to_vec(), None).await?;
            if self.known.is_none() {
                return Ok(Some(now_ms));
            }
        }
        Ok(next)
    }

    /// Returns whether the embedding of a face can be compared with those of this pack.
    fn compares(&self, face: &SeenFace) -> bool {
        face.space == self.matcher.space() && face.embedding.len() == self.matcher.dimension()
    }

    /// Returns the template of stored faces, oldest first.
    fn template_of(&self, newest_first: &[SeenFace]) -> Template {
        let mut template = Template::default();
        for face in newest_first.iter().rev().filter(|face| self.compares(face)) {
            template.add(&face.embedding, face.quality, self.matcher.known_from());
        }
        template
    }
}

/// Joins faces of an engine that makes no embeddings and names nobody: one unknown sighting at a
/// time for each source.
fn without_embeddings(seen: &[Sighting], looks: &[Look<'_>], joined: &mut [Joined]) {
    let bare = |look: &Look<'_>| look.embedding.is_empty() && look.person.is_none();
    let one = |it: &Sighting| it.total.is_empty() && it.person.is_none() && it.ended_ms.is_none();
    let Some(at) = seen.iter().position(one) else {
        return;
    };
    let taken = joined.contains(&Joined::To(at));
    let mut bare = looks.iter().zip(joined).filter(|(look, _)| bare(look));
    if let (Some((_, joined)), false) = (bare.next(), taken) {
        *joined = Joined::To(at);
    }
}

fn as_open(sighting: &Sighting, space: &str) -> Open {
    let fits = sighting.space == space;
    Open {
        id: sighting.id,
        began_came_ms: sighting.began_came_ms,
        last_came_ms: sighting.last_came_ms,
        bounds: sighting.bounds,
        template: Template {
            total: match fits {
                true => sighting.total.clone(),
                false => Vec::new(),
            },
            weight: if fits { sighting.weight } else { 0.0 },
            looks: sighting.looks,
        },
        outcome: sighting.outcome,
        person: sighting.person,
    }
}

fn as_look(face: &TrackedFace) -> Look<'_> {
    Look {
        bounds: face.bounds,
        quality: face.quality,
        embedding: &face.embedding,
        outcome: face.outcome,
        person: face.person,
    }
}

fn set_template(sighting: &mut Sighting, template: Template, space: &str) {
    sighting.space = space.into();
    (sighting.total, sighting.weight) = (template.total, template.weight);
}

/// Returns the person that a sighting is known as.
fn known_as(sighting: &Sighting) -> Option<PersonId> {
    sighting
        .person
        .filter(|_| sighting.outcome == Outcome::Known)
}

/// Returns the person that more than half of these faces are known as.
fn majority(faces: &[SeenFace]) -> Option<PersonId> {
    let known = |face: &&SeenFace| face.outcome == Outcome::Known;
    let people = || faces.iter().filter(known).filter_map(|face| face.person);
    let count = |person: PersonId| people().filter(|it| *it == person).count();
    let most = people().max_by_key(|person| count(*person))?;
    (2 * count(most) > faces.len()).then_some(most)
}

/// Makes a sighting without a look.
fn founded(image: &SeenImage, space: &str) -> Sighting {
    Sighting {
        id: 0,
        uid: uuid::Uuid::now_v7().to_string(),
        source: image.source.clone(),
        began_ms: image.accepted_at_ms,
        last_ms: image.accepted_at_ms,
        began_came_ms: image.came_ms,
        last_came_ms: image.came_ms,
        until_came_ms: None,
        ended_ms: None,
        bounds: [0.0; 4],
        outcome: Outcome::Unknown,
        person: None,
        stranger: None,
        distance: None,
        margin: None,
        looks: 0,
        space: space.into(),
        total: Vec::new(),
        weight: 0.0,
        face: None,
        merit: 0.0,
        told: None,
        named: Vec::new(),
        stale: 0,
    }
}

/// Adds a look: its time, its place, and its face if that is the best.
fn add_look(sighting: &mut Sighting, image: &SeenImage, face: &SeenFace) {
    sighting.looks += 1;
    if image.came_ms < sighting.began_came_ms {
        sighting.began_came_ms = image.came_ms;
        sighting.began_ms = sighting.began_ms.min(image.accepted_at_ms);
    }
    if image.came_ms >= sighting.last_came_ms {
        sighting.last_came_ms = image.came_ms;
        sighting.last_ms = image.accepted_at_ms;
        sighting.bounds = face.bounds;
    }
    let better = sighting.face.is_none() || face.quality > sighting.merit;
    if better && face.crop {
        sighting.face = Some(face.address.clone());
        sighting.merit = face.quality;
    }
}

fn apply(sighting: &mut Sighting, judgement: Judgement) {
    sighting.outcome = judgement.outcome;
    sighting.person = judgement.person.map(|person| person.person_id);
    sighting.distance = judgement.distance;
    sighting.margin = judgement.margin;
}

/// Names a sighting by a face alone, if that says more.
fn name_by(sighting: &mut Sighting, face: &SeenFace) {
    if (face.outcome as u8) < sighting.outcome as u8 {
        (sighting.outcome, sighting.person) = (face.outcome, face.person);
    }
}

#[cfg(test)]
mod tests;
