//! Frigate as a camera system: its events bring pictures, and who is known in them becomes the
//! event's sub label.
//!
//! Events come by MQTT. Frigate publishes them once and at QoS 0, so its API is asked for them as
//! well, every half minute: that finds what was missed while kithd, the broker or Frigate was away.
//! So events wait in memory only, and a message is acknowledged when it is noted; the position in
//! Frigate's list is a fact in the database. Frigate's own clock, not the board's, tells what is
//! news.

pub mod api;
mod event;
mod labels;
mod tracker;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use self::api::{Api, ApiError, Session};
use self::event::Event;
use self::tracker::{Look, Noted, Rules, Seen, Shot, Tracker};
use super::Intake;
use crate::config;
use crate::domain::{Moment, Origin, Source};
use crate::status::health::{Condition, Health};
use crate::store::Store;

/// Name of the part in health.
pub const PART: &str = "frigate";
/// Fact with the moment of Frigate's clock after which its events are listed.
const POSITION: &str = "frigate_position";
/// Looks that are made at the same time.
const AT_A_TIME: usize = 4;
/// Interval between two lists of events.
const POLL: Duration = Duration::from_secs(30);
/// Wait before the next part of a long list.
const NEXT_PART: Duration = Duration::from_millis(200);
/// Shortest time between two searches for sub labels to set.
const LABEL_PACE: Duration = Duration::from_secs(1);
/// First and longest wait while Frigate is away.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), POLL);
/// Sums of pictures that were taken last, to drop equal ones before they reach the disk.
const REMEMBERED: usize = 64;

/// Returns the distance below which two pictures are of one person, once the gallery is loaded.
pub type Threshold = Arc<dyn Fn() -> Option<f32> + Send + Sync>;

/// Frigate's events, as MQTT and the API report them; clones share them.
#[derive(Clone)]
pub struct Events {
    tracker: Arc<Mutex<Tracker>>,
    wake: Arc<Notify>,
    session: Arc<Session>,
    said: Arc<Mutex<Said>>,
}

/// State for health.
#[derive(Default)]
struct Said {
    /// Reason why Frigate cannot be asked.
    trouble: Option<String>,
    /// Reason why sub labels are not set.
    label_trouble: Option<String>,
    /// Reason why pictures are not accepted.
    paused: Option<String>,
    last: Option<String>,
    taken: u64,
    labels: u64,
    over: u64,
}

/// Dependencies of Frigate's task; clones share the state.
#[derive(Clone)]
pub struct Frigate {
    /// Configuration.
    pub settings: config::Frigate,
    /// Events.
    pub events: Events,
    /// The queue's intake.
    pub intake: Intake,
    /// Images and their results.
    pub store: Store,
    /// Health report of the part.
    pub health: Health,
    /// Threshold of the gallery.
    pub threshold: Threshold,
}

impl Events {
    /// Starts without events.
    pub fn new(settings: &config::Frigate) -> Self {
        let rules = Rules {
            labels: settings.labels.clone(),
            cameras: settings.cameras.clone(),
            every: settings.every,
            pictures: settings.pictures,
            news: settings.news,
        };
        Self {
            tracker: Arc::new(Mutex::new(Tracker::new(rules))),
            wake: Arc::default(),
            session: Session::new(settings.clone()),
            said: Arc::default(),
        }
    }

    /// Takes in a message of the topic `events`. The error tells the operator why it is none.
    pub fn message(&self, message: &[u8]) -> Result<(), String> {
        self.note(Event::of_message(message)?);
        Ok(())
    }

    fn note(&self, event: Event) {
        let moment = Moment::from_ms((event.start * 1000.0) as i64).text;
        let noted = self
            .tracker
            .lock()
            .note(event, Instant::now(), self.session.clock());
        match noted {
            Noted::Begun => self.said.lock().last = Some(moment),
            Noted::Over => self.said.lock().over += 1,
            Noted::Nothing => {}
        }
        self.wake.notify_one();
    }
}

impl Frigate {
    /// Takes pictures and sets sub labels until stopped.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let text = format!("asking Frigate at {}", self.settings.address);
        self.health.set(PART, Condition::Starting, text);
        self.events.tracker.lock().begin_anew();
        let labels = async {
            match self.settings.sub_label {
                Some(_) => self.label().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.poll() => {}
            () = self.watch() => {}
            () = labels => {}
        }
        Ok(())
    }

    /// Lists events every so often; never returns.
    async fn poll(&self) {
        let mut api = Api::new(Arc::clone(&self.events.session));
        let mut wait = WAITS.0;
        loop {
            let pause = match self.list(&mut api).await {
                Ok(()) => {
                    wait = WAITS.0;
                    self.events.tracker.lock().hurry(Instant::now());
                    self.events.wake.notify_one();
                    let recovered = self.events.said.lock().trouble.take().is_some();
                    if recovered {
                        tracing::info!("frigate: it answers again");
                    }
                    POLL
                }
                Err(why) => {
                    self.trouble(why.to_string());
                    let pause = wait;
                    wait = (wait * 2).min(WAITS.1);
                    pause
                }
            };
            self.show();
            sleep(pause).await;
        }
    }

    /// Lists what has begun since the position, and stores the new position.
    async fn list(&self, api: &mut Api) -> anyhow::Result<()> {
        api.version().await?;
        let clock = self.events.session.clock();
        let known = self.store.fact(POSITION).await?;
        let known = known.and_then(|text| text.parse::<f64>().ok());
        let mut after = match (known, clock) {
            // Before the first list ever, nothing was missed.
            (None, Some(clock)) => clock,
            (None, None) => return Ok(()),
            // Older events are no news any more.
            (Some(known), Some(clock)) => {
                let oldest = clock - self.settings.news.as_secs_f64();
                known.max(oldest).min(clock)
            }
            (Some(known), None) => known,
        };
        let first = after;
        loop {
            let events = api.events(after).await?;
            let listed = events.len();
            let newest = events.iter().map(|event| event.start).fold(after, f64::max);
            for event in events {
                self.events.note(event);
            }
            // A page of events that began at the same moment would never end.
            if listed < api::MOST_LISTED || newest <= after {
                break;
            }
            after = newest;
            sleep(NEXT_PART).await;
        }
        let position = {
            let mut tracker = self.events.tracker.lock();
            if let Some(clock) = self.events.session.clock() {
                tracker.expire(clock);
            }
            tracker.position().or(known).unwrap_or(first)
        };
        if known != Some(position) {
            self.store.set_fact(POSITION, position.to_string()).await?;
        }
        Ok(())
    }

    /// Looks at events when they are due; never returns.
    async fn watch(&self) {
        let mut idle: Vec<_> = (0..AT_A_TIME)
            .map(|_| Api::new(Arc::clone(&self.events.session)))
            .collect();
        let recent = Mutex::new(VecDeque::new());
        let mut looks = FuturesUnordered::new();
        loop {
            while let Some(api) = idle.pop() {
                let next = self.events.tracker.lock().next(Instant::now());
                match next {
                    Some(look) => looks.push(self.look(api, look, &recent)),
                    None => {
                        idle.push(api);
                        break;
                    }
                }
            }
            let due = self.events.tracker.lock().due();
            let due = due.filter(|_| !idle.is_empty());
            let due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(api) = looks.next() => idle.push(api),
                () = due => {}
                () = self.events.wake.notified() => {}
            }
        }
    }

    /// Fetches the pictures of one look; returns the client for the next one.
    async fn look(&self, mut api: Api, look: Look, recent: &Mutex<VecDeque<[u8; 32]>>) -> Api {
        let before = if look.first {
            self.store.images_of_event(&look.id).await.unwrap_or(0)
        } else {
            0
        };
        let (mut taken, mut seen) = (0, Seen::All);
        for shot in &look.shots {
            if before + taken >= look.left {
                break;
            }
            match self.shoot(&mut api, &look, *shot, recent).await {
                Ok(is_new) => taken += u32::from(is_new),
                // The camera's picture may be there although the event has none.
                Err(Seen::Missing) => seen = Seen::Missing,
                Err(other) => {
                    seen = other;
                    break;
                }
            }
        }
        let now = Instant::now();
        let mut tracker = self.events.tracker.lock();
        tracker.looked(&look, before + taken, seen, now);
        drop(tracker);
        api
    }

    /// Fetches and accepts a picture; returns whether it is new.
    async fn shoot(
        &self,
        api: &mut Api,
        look: &Look,
        shot: Shot,
        recent: &Mutex<VecDeque<[u8; 32]>>,
    ) -> Result<bool, Seen> {
        let (id, camera) = (&look.id, &look.camera);
        let fetched = api.picture(shot, id, camera, self.intake.max_bytes()).await;
        let picture = match fetched {
            Ok(picture) if picture.is_empty() => return Err(Seen::Missing),
            Ok(picture) => picture,
            Err(error) => return Err(self.not_fetched(&error)),
        };
        let sum: [u8; 32] = Sha256::digest(&picture).into();
        if recent.lock().contains(&sum) {
            return Ok(false);
        }
        let is_new = self.accept(look, shot, picture, &sum).await?;
        let mut recent = recent.lock();
        recent.push_back(sum);
        if recent.len() > REMEMBERED {
            recent.pop_front();
        }
        Ok(is_new)
    }

    fn not_fetched(&self, error: &ApiError) -> Seen {
        match error {
            ApiError::Missing => Seen::Missing,
            ApiError::Refused(_) => {
                tracing::debug!("frigate: {error}");
                Seen::Missing
            }
            _ => {
                self.trouble(error.to_string());
                Seen::Later
            }
        }
    }

    async fn accept(
        &self,
        look: &Look,
        shot: Shot,
        picture: Bytes,
        sum: &[u8; 32],
    ) -> Result<bool, Seen> {
        let file = match shot {
            Shot::Latest => "latest",
            Shot::Best | Shot::Cut | Shot::Final => "snapshot",
        };
        let name = format!("{}/{}/{file}.jpg", look.camera, look.id);
        // The same bytes of one camera are the same picture, whichever event they come with.
        let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        let key = format!("frigate {} {sum}", look.camera);
        let origin = Origin {
            camera: Some(look.camera.clone()),
            event: Some(look.id.clone()),
        };
        let accepted = self
            .intake
            .picture(Source::Frigate, &name, picture, Some(key), origin)
            .await;
        match accepted {
            Ok(accepted) => {
                tracing::debug!(image = accepted.id, new = accepted.new, "frigate: {name}");
                let mut said = self.events.said.lock();
                said.taken += u64::from(accepted.new);
                let resumed = said.paused.take().is_some();
                drop(said);
                if resumed {
                    self.show();
                }
                Ok(accepted.new)
            }
            Err(error) if error.is_temporary() => {
                self.events.said.lock().paused = Some(error.to_string());
                self.show();
                Err(Seen::Later)
            }
            Err(error) => {
                tracing::warn!("frigate: a picture is refused: {error}");
                Ok(false)
            }
        }
    }

    /// Sets sub labels as results come; never returns.
    async fn label(&self) {
        let mut api = Api::new(Arc::clone(&self.events.session));
        let mut changes = self.store.changes();
        let mut wait = WAITS.0;
        loop {
            changes.borrow_and_update();
            let done = self.set_labels(&mut api).await;
            let why = done.err().map(|error| error.to_string());
            let failed = why.is_some();
            let changed = {
                let mut said = self.events.said.lock();
                let changed = said.label_trouble != why;
                said.label_trouble = why;
                changed
            };
            if changed {
                self.show();
            }
            if failed {
                sleep(wait).await;
                wait = (wait * 2).min(WAITS.1);
                continue;
            }
            wait = WAITS.0;
            sleep(LABEL_PACE).await;
            // An event may become known to Frigate's database without a change of ours.
            if let Ok(Err(_)) = timeout(POLL, changes.changed()).await {
                return std::future::pending().await;
            }
        }
    }

    async fn set_labels(&self, api: &mut Api) -> anyhow::Result<()> {
        // Without the gallery's threshold there are no scores yet.
        let Some(threshold) = (self.threshold)() else {
            return Ok(());
        };
        let unlabelled = self.store.unlabelled().await?;
        if unlabelled.is_empty() {
            return Ok(());
        }
        let clock = match self.events.session.clock() {
            Some(clock) => clock,
            None => {
                api.version().await?;
                self.events.session.clock().unwrap_or_default()
            }
        };
        let under_way = |id: &str| self.events.tracker.lock().is_under_way(id);
        let decisions = labels::decide(
            unlabelled,
            &self.settings,
            Some(threshold),
            clock,
            under_way,
        );
        for decision in decisions {
            let Some((image, name, score)) = decision.send else {
                self.store.labelled(decision.images, None).await?;
                continue;
            };
            let event = &decision.event;
            match api.set_sub_label(event, &name, score).await {
                Ok(()) => {
                    tracing::debug!(image, "frigate: sub label of {event} set");
                    self.events.said.lock().labels += 1;
                    let sent = Some((image, score));
                    self.store.labelled(decision.images, sent).await?;
                }
                // Until 0.15 an event is stored only once Frigate has a picture of it.
                Err(ApiError::Missing) if under_way(event) => {}
                Err(error @ (ApiError::Missing | ApiError::Refused(_))) => {
                    tracing::debug!("frigate: sub label of {event} given up: {error}");
                    self.store.labelled(decision.images, None).await?;
                }
                Err(error) => anyhow::bail!("sub labels wait: {error}"),
            }
        }
        Ok(())
    }

    fn trouble(&self, why: String) {
        let new = {
            let mut said = self.events.said.lock();
            let new = said.trouble.is_none();
            said.trouble = Some(why);
            new
        };
        if new {
            self.show();
        }
    }

    /// Reports the state; progress is reported with each list.
    fn show(&self) {
        let (condition, text) = self.line();
        let changed = self.health.set(PART, condition, text.as_str());
        if changed && condition == Condition::Degraded {
            tracing::warn!("frigate: {text}");
        }
    }

    fn line(&self) -> (Condition, String) {
        let said = self.events.said.lock();
        if let Some(why) = &said.trouble {
            return (Condition::Degraded, why.clone());
        }
        let Some(version) = self.events.session.version() else {
            let text = format!("asking Frigate at {}", self.settings.address);
            return (Condition::Starting, text);
        };
        let (under_way, waiting) = self.events.tracker.lock().counts();
        let mut text = format!(
            "Frigate {} at {}; {under_way} events under way",
            version.text, self.settings.address
        );
        if waiting > 0 {
            text.push_str(&format!(", {waiting} ended ones wait for their picture"));
        }
        if let Some(last) = &said.last {
            text.push_str(&format!(", the last began at {last}"));
        }
        text.push_str(&format!(
            "; {} pictures taken, {} sub labels set",
            said.taken, said.labels
        ));
        if said.over > 0 {
            text.push_str(&format!(
                "; {} times too many events at once, found later by the API",
                said.over
            ));
        }
        match said.paused.as_ref().or(said.label_trouble.as_ref()) {
            Some(why) => (Condition::Degraded, format!("{text}; {why}")),
            None => (Condition::Ok, text),
        }
    }
}

/// Asks a Frigate for its version and its events; returns a sentence about it.
pub async fn check(settings: &config::Frigate) -> Result<String, ApiError> {
    let session = Session::new(settings.clone());
    let mut api = Api::new(Arc::clone(&session));
    let version = api.version().await?.text;
    let day = session.clock().unwrap_or_default() - 86_400.0;
    let listed = api.events(day.max(0.0)).await?.len();
    let more = if listed == api::MOST_LISTED {
        "or more "
    } else {
        ""
    };
    Ok(format!(
        "version {version} at {}; {listed} {more}events in the last day",
        settings.address
    ))
}
