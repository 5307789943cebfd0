//! Notifications about sightings: webhooks and ntfy, the sections `[[notify]]`.
//!
//! One task follows changes of sightings and writes a row for each notification, by the rules of
//! `rules`, in the transaction that notes the change as followed. Each target has a task of its own
//! that sends its rows in order: a slow or dead target delays no other, nor MQTT. The sighting is
//! read again before each attempt, so a notification says what is true when it is sent; its id stays
//! the same, and stands for one identity.

pub mod request;
mod rules;
mod words;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::request::{Answer, Notification, Picture, send};
use self::rules::{Fate, millis};
use self::words::{Words, now};
use crate::config::{Attach, Notify};
use crate::domain::{
    Clock, Moment, Outcome, SightingMessage, SightingState, SightingStep, wall_clock_ms,
};
use crate::status::health::{Condition, Health};
use crate::status::targets::{TargetReport, Targets};
use crate::store::{DueNotification, Ending, NotificationStep, Readings, Store};

/// Name of the part that follows sightings.
pub const PART: &str = "notifications";
/// First and longest wait of a target that does not take a notification.
const WAITS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// Wait after an error of the database.
const RETRY: Duration = Duration::from_secs(5);
/// Most bytes of a whole picture that is attached; a larger one gives way to its thumbnail.
const MOST_ATTACHED: u64 = 4 << 20;

/// Follows sightings for all targets.
pub struct Follower {
    /// Sightings and notifications.
    pub store: Store,
    /// All targets.
    pub targets: Arc<[Notify]>,
    /// The queue clock.
    pub clock: Clock,
    /// Wakes the tasks of the targets.
    pub woken: watch::Sender<u64>,
    /// Health report of the part.
    pub health: Health,
}

impl Follower {
    /// Follows sightings until stopped.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow() => {}
        }
        Ok(())
    }

    /// Follows sightings; never returns.
    async fn follow(&self) {
        let mut changes = self.store.changes();
        let mut cleared = false;
        loop {
            changes.borrow_and_update();
            let round = async {
                if !cleared {
                    let names = self.targets.iter().map(|target| target.name.clone());
                    self.store.keep_notifications_of(names.collect()).await?;
                    cleared = true;
                }
                self.round().await
            };
            match round.await {
                Ok(()) => {
                    let text = "sightings are followed";
                    self.health.set(PART, Condition::Ok, text);
                }
                Err(error) => {
                    let text = format!("sightings are not followed now: {error}; tried again");
                    if self.health.set(PART, Condition::Degraded, text.as_str()) {
                        tracing::warn!("{text}");
                    }
                    sleep(RETRY).await;
                    continue;
                }
            }
            // The channel closes only when the store ends.
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn round(&self) -> anyhow::Result<()> {
        if !self.store.has_unfollowed_sightings().await? {
            return Ok(());
        }
        loop {
            let clock = readings(&self.clock, &self.targets);
            let targets = Arc::clone(&self.targets);
            let moment = now(clock.now_ms, clock.wall_ms);
            let rules =
                Arc::new(move |seen: &_, told: &[_]| rules::decide(&targets, seen, told, moment));
            let more = self.store.follow_sightings(clock, rules).await?;
            self.woken.send_modify(|round| *round += 1);
            if !more {
                return Ok(());
            }
        }
    }
}

/// Returns the clocks, and since when finished notifications matter to any of the targets: they keep
/// others away, and say that a sighting which is still news was told.
fn readings(clock: &Clock, targets: &[Notify]) -> Readings {
    let now_ms = clock();
    let longest = targets
        .iter()
        .map(|target| target.again_after.max(target.expires));
    Readings {
        now_ms,
        wall_ms: wall_clock_ms(),
        since_ms: now_ms - millis(longest.max().unwrap_or_default()),
    }
}

/// Sends the notifications of one target.
#[derive(Clone)]
pub struct Sender {
    /// The target.
    pub target: Arc<Notify>,
    /// Its name in health.
    pub part: &'static str,
    /// Notifications and pictures.
    pub store: Store,
    /// Folder of kept pictures.
    pub state_dir: PathBuf,
    /// Name of the board.
    pub device: String,
    /// The queue clock.
    pub clock: Clock,
    /// Tells that rows were written.
    pub woken: watch::Receiver<u64>,
    /// Counts of all targets.
    pub targets: Targets,
    /// Health report of the part.
    pub health: Health,
}

/// The step after a round.
enum Next {
    /// Another round at once.
    Again,
    /// A round after this time, or when rows were written.
    Idle(Option<Duration>),
    /// A round after this time, whatever was written.
    BackOff(Duration),
}

impl Sender {
    /// Makes the target known to commands and metrics.
    pub fn announce(&self) {
        let report = TargetReport {
            name: self.target.name.clone(),
            service: self.target.service.as_str(),
            address: self.target.address.to_string(),
            ..TargetReport::default()
        };
        let (target, device) = (Arc::clone(&self.target), self.device.clone());
        let test = move || {
            let (target, device) = (Arc::clone(&target), device.clone());
            async move { test(&target, device).await }.boxed()
        };
        self.targets.add(report, Arc::new(test));
    }

    /// Sends until stopped.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let text = format!("nothing was sent yet; at {}", self.target.address);
        self.health.set(self.part, Condition::Ok, text);
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.send_all() => {}
        }
        Ok(())
    }

    /// Sends whatever is due; never returns.
    async fn send_all(&mut self) {
        let (mut failures, mut cleared) = (0, false);
        loop {
            self.woken.borrow_and_update();
            let round = async {
                if !cleared {
                    // The queue clock knows nothing of the time that the board was off.
                    let before_ms = wall_clock_ms() - millis(self.target.expires);
                    let name = &self.target.name;
                    self.store.expire_notifications(name, before_ms).await?;
                    cleared = true;
                }
                self.round(&mut failures).await
            };
            let next = match round.await {
                Ok(next) => next,
                Err(error) => {
                    let text = format!("notifications are not read now: {error}; tried again");
                    if self
                        .health
                        .set(self.part, Condition::Degraded, text.as_str())
                    {
                        tracing::warn!("{}: {text}", self.part);
                    }
                    Next::BackOff(RETRY)
                }
            };
            match next {
                Next::Again => {}
                Next::BackOff(wait) => sleep(wait).await,
                Next::Idle(wait) => {
                    let wait = async {
                        match wait {
                            Some(wait) => sleep(wait).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        () = wait => {}
                        woken = self.woken.changed() => {
                            // The follower begins anew with the same channel.
                            if woken.is_err() {
                                sleep(RETRY).await;
                            }
                        }
                    }
                }
            }
        }
    }

    /// Handles the next notification of the target.
    async fn round(&self, failures: &mut u32) -> anyhow::Result<Next> {
        let name = &self.target.name;
        let waiting = self.store.waiting_notifications(name).await?;
        self.targets.update(name, |report| report.waiting = waiting);
        let Some((id, due_ms)) = self.store.next_notification(name).await? else {
            return Ok(Next::Idle(None));
        };
        let clock = readings(&self.clock, std::slice::from_ref(&*self.target));
        if let Ok(wait @ 1..) = u64::try_from(due_ms - clock.now_ms) {
            return Ok(Next::Idle(Some(Duration::from_millis(wait))));
        }
        let due = self
            .store
            .due_notification(id, clock.since_ms, &self.device)
            .await?;
        let Some(due) = due else {
            // Its sighting is gone, or names a person who was erased.
            return self.end(id, Ending::Dropped).await;
        };
        match rules::fate(&self.target, &due, now(clock.now_ms, clock.wall_ms)) {
            Fate::Later(due_ms) => {
                self.store.put_notification_off(id, due_ms).await?;
                Ok(Next::Again)
            }
            Fate::Change(steps) => {
                for step in &steps {
                    if let NotificationStep::End(_, ending) = step {
                        self.count(*ending);
                    }
                }
                let expired = steps.contains(&NotificationStep::End(id, Ending::Expired));
                self.store
                    .apply_notification_steps(due.seen, steps, clock)
                    .await?;
                if expired {
                    self.given_up(due.attempts);
                }
                Ok(Next::Again)
            }
            Fate::Send => self.send(due, failures).await,
        }
    }

    async fn send(&self, due: DueNotification, failures: &mut u32) -> anyhow::Result<Next> {
        let id = due.row.id;
        let mut message = due.message;
        let told_before = due.told.iter().any(|row| {
            row.target == self.target.name
                && row.sighting == due.row.sighting
                && row.ending == Some(Ending::Sent)
        });
        if message.step == SightingStep::Update && !told_before {
            message.step = SightingStep::Begin;
        }
        let notification = Notification {
            uid: &due.uid,
            test: false,
            words: Words::of(&self.target, &message),
            picture: self.picture(&message).await?,
            message: &message,
        };
        let (why, asked) = match send(&self.target, &notification, wall_clock_ms()).await {
            Answer::Taken(remark) => {
                *failures = 0;
                self.sent(remark);
                return self.end(id, Ending::Sent).await;
            }
            Answer::Refused(why) => {
                *failures = 0;
                self.trouble(&format!("a notification is lost: {why}"));
                return self.end(id, Ending::Refused).await;
            }
            Answer::Later(why, asked) => (why, asked),
        };
        *failures += 1;
        self.store.note_failed_notification(id).await?;
        let wait = wait_after(*failures, fastrand::f64()).max(asked.unwrap_or_default());
        self.trouble(&format!("notifications wait and are tried again: {why}"));
        Ok(Next::BackOff(wait))
    }

    async fn end(&self, id: i64, ending: Ending) -> anyhow::Result<Next> {
        self.count(ending);
        self.store.end_notification(id, ending).await?;
        Ok(Next::Again)
    }

    fn count(&self, ending: Ending) {
        self.targets
            .update(&self.target.name, |report| match ending {
                Ending::Sent => report.sent += 1,
                Ending::Refused => report.refused += 1,
                Ending::Expired => report.expired += 1,
                Ending::Dropped => report.dropped += 1,
            });
    }

    fn sent(&self, remark: Option<String>) {
        let now_ms = wall_clock_ms();
        let report = self.targets.update(&self.target.name, |report| {
            report.last_sent_ms = Some(now_ms);
            report.trouble = remark.clone();
        });
        match remark {
            Some(remark) => self.degraded(&remark),
            None => {
                let text = format!(
                    "{} sent since start, the last at {}; at {}",
                    report.sent + 1,
                    Moment::from_ms(now_ms).text,
                    self.target.address
                );
                self.health.set(self.part, Condition::Ok, text);
            }
        }
    }

    fn trouble(&self, text: &str) {
        self.targets.update(&self.target.name, |report| {
            report.trouble = Some(text.into());
        });
        self.degraded(text);
    }

    fn given_up(&self, attempts: u32) {
        if attempts > 0 {
            let report = self.targets.update(&self.target.name, |_| {});
            let last = report.trouble.unwrap_or_default();
            tracing::warn!(
                "{}: a notification is no news any more and is given up",
                self.part
            );
            let count = report.expired;
            let text = match last.is_empty() {
                true => format!("{count} notifications were given up since start"),
                false => format!("{count} were given up since start; {last}"),
            };
            self.health.set(self.part, Condition::Degraded, text);
        }
    }

    fn degraded(&self, text: &str) {
        if self.health.set(self.part, Condition::Degraded, text) {
            tracing::warn!("{}: {text}", self.part);
        }
    }

    /// Returns the picture that goes with a notification, if there is one.
    async fn picture(&self, message: &SightingMessage) -> anyhow::Result<Option<Picture>> {
        let Some(face) = &message.after.face else {
            return Ok(None);
        };
        let (kind, jpeg) = match self.target.attach {
            Attach::Nothing => return Ok(None),
            Attach::Face => ("face", self.store.crop(face.image_id, face.number).await?),
            Attach::Picture => {
                let kept = match self.store.kept_file(face.image_id).await? {
                    Some(file) => kept_jpeg(self.state_dir.join(file)).await,
                    None => None,
                };
                let jpeg = match kept {
                    Some(jpeg) => Some(jpeg),
                    None => self.store.thumbnail(face.image_id).await?,
                };
                ("picture", jpeg)
            }
        };
        let jpeg = jpeg.filter(|jpeg| !jpeg.is_empty()).map(Bytes::from);
        Ok(jpeg.map(|jpeg| Picture { kind, jpeg }))
    }
}

/// Returns a kept picture if it is a JPEG of a size that can be attached.
async fn kept_jpeg(path: PathBuf) -> Option<Vec<u8>> {
    // A picture that was removed meanwhile is none.
    let file = tokio::fs::File::open(path).await.ok()?;
    let mut jpeg = Vec::new();
    file.take(MOST_ATTACHED + 1)
        .read_to_end(&mut jpeg)
        .await
        .ok()?;
    (jpeg.starts_with(&[0xFF, 0xD8, 0xFF]) && jpeg.len() as u64 <= MOST_ATTACHED).then_some(jpeg)
}

/// Sends a test notification; both results are a sentence.
pub async fn test(target: &Notify, device: String) -> Result<String, String> {
    let now_ms = wall_clock_ms();
    let message = SightingMessage {
        step: SightingStep::Begin,
        sighting_id: "test".into(),
        device,
        source: "test".into(),
        began_ms: now_ms,
        last_ms: now_ms,
        ended_ms: None,
        before: None,
        after: SightingState {
            outcome: Outcome::Unknown,
            person: None,
            stranger: None,
            distance: None,
            margin: None,
            looks: 0,
            quality: None,
            face: None,
        },
    };
    let notification = Notification {
        uid: &uuid::Uuid::now_v7().to_string(),
        test: true,
        words: Words {
            title: format!("Test of {}", target.name),
            text: format!("kithd on {} can reach this target.", message.device),
        },
        picture: None,
        message: &message,
    };
    match send(target, &notification, now_ms).await {
        Answer::Taken(_) => Ok(format!(
            "{} has taken the test notification",
            target.address
        )),
        Answer::Refused(why) | Answer::Later(why, None) => Err(why),
        Answer::Later(why, Some(wait)) => Err(format!("{why} (not before {wait:?})")),
    }
}

/// Returns the wait after so many failures in a row; `chance` from 0 to 1 spreads targets apart.
fn wait_after(failures: u32, chance: f64) -> Duration {
    let doubled = WAITS
        .0
        .saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(WAITS.1).mul_f64(0.75 + chance / 2.0)
}

#[cfg(test)]
mod tests;
