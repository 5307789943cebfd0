//! The guard: stands between the queue and the engines, with the circuit breaker in its hand. It
//! decides which engine a picture goes to, what a failure means for the breaker, and when an engine
//! is started, tested and taken down.
//!
//! Not for the breaker's own rules (`breaker`) and not for what a failure means for the picture
//! (`queue::Failure`).

mod books;
mod report;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kith_vision::{Device, Pack, Precision};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

pub use books::Books;
use books::Unbooked;

use crate::config::{self, Elsewhere};
use crate::domain::{BreakerReason, BreakerState, EngineRole, ImageId};
use crate::engines::breaker::{Breaker, Ticket, Transition};
use crate::engines::client::{Answer, CallError, Picture};
use crate::engines::instance::{
    Cause, Deadlines, End, Place, Slot, SlotState, TestFailure, Trouble, Up,
};
use crate::engines::process::ChildSettings;
use crate::engines::status::{EngineDesk, PrecisionTime};
use crate::queue::{Again, Failure};
use crate::status::health::{Condition, Health};

/// How often memory and precision timings are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Before a fallback that did not start is tried again.
const FALLBACK_RETRY: Duration = Duration::from_secs(10);

/// What the guard needs of the configuration.
#[derive(Clone)]
pub struct GuardSettings {
    /// Primary and fallback.
    pub engine: config::Engine,
    /// The breaker's.
    pub breaker: config::Breaker,
    /// Time limits of one picture.
    pub deadlines: Deadlines,
    /// Pictures at the same time.
    pub threads: usize,
    /// `None`: measured once on this board.
    pub precision: Option<Precision>,
    /// Arguments that give an engine process this configuration.
    pub configuration: Vec<String>,
    /// Folder for the engines' sockets.
    pub sockets: std::path::PathBuf,
}

/// The engines behind the breaker; clones share them.
#[derive(Clone)]
pub struct Guard {
    inner: Arc<Inner>,
}

struct Inner {
    settings: GuardSettings,
    pack: Arc<Pack>,
    primary: Slot,
    fallback: Option<Slot>,
    breaker: Mutex<Breaker>,
    books: Option<Books>,
    health: Health,
    /// Changes whenever a picture may have somewhere to go that had not.
    changed: watch::Sender<u64>,
    wake: Notify,
    fallback_calls: AtomicU64,
    precision: Mutex<Option<Precision>>,
    /// The last lie found, until results are vouched for again.
    lie: Mutex<Option<(EngineRole, TestFailure)>>,
    /// What was measured in this run.
    measured: Mutex<Vec<PrecisionTime>>,
    /// Images to get an attempt back; there is something to keep while it is not `None`.
    unbooked: Mutex<Option<Unbooked>>,
}

/// What an engine made of a picture.
#[derive(Debug)]
pub struct Recognised {
    /// Faces or a name.
    pub answer: Answer,
    /// Pack, precision and device.
    pub engine: String,
    /// Which engine.
    pub role: EngineRole,
}

/// Where the next picture goes.
enum Route {
    Primary(Arc<Up>),
    Fallback(Arc<Up>),
    Nowhere(String),
}

impl Guard {
    /// Engines that are not running yet; [`Guard::run`] runs them.
    pub fn new(
        settings: GuardSettings,
        pack: Arc<Pack>,
        health: Health,
        books: Option<Books>,
    ) -> Self {
        let child = |device: Device| {
            Place::Child(ChildSettings {
                device,
                socket: settings.sockets.join(format!("engine-{device}.sock")),
                configuration: settings.configuration.clone(),
                start_deadline: settings.engine.start_deadline,
            })
        };
        let place = match &settings.engine.elsewhere {
            None => child(settings.engine.device),
            Some(Elsewhere::Recognizer { address, paths }) => Place::Recognizer {
                address: address.clone(),
                paths: *paths,
            },
            Some(Elsewhere::Facerecog { address }) => Place::Origin(address.clone()),
        };
        let slot = |place| {
            Slot::new(
                place,
                Arc::clone(&pack),
                settings.deadlines,
                settings.threads,
            )
        };
        let fallback = settings.engine.fallback.then(|| {
            let Place::Child(child) = child(Device::Cpu) else {
                unreachable!("child() makes children")
            };
            slot(Place::Child(ChildSettings {
                socket: settings.sockets.join("engine-fallback.sock"),
                ..child
            }))
        });
        let inner = Inner {
            primary: slot(place),
            fallback,
            breaker: Mutex::new(Breaker::new(settings.breaker.clone(), Instant::now())),
            precision: Mutex::new(settings.precision),
            settings,
            pack,
            books,
            health,
            changed: watch::Sender::new(0),
            wake: Notify::new(),
            fallback_calls: AtomicU64::new(0),
            lie: Mutex::default(),
            measured: Mutex::default(),
            unbooked: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The pack whose embedding space everything is in.
    pub fn pack(&self) -> &Arc<Pack> {
        &self.inner.pack
    }

    /// Pictures that may be in flight or being read at the same time; 0 while there is nowhere to
    /// send them.
    pub fn capacity(&self) -> usize {
        match self.inner.route() {
            Route::Primary(up) | Route::Fallback(up) => 2 * up.threads(),
            Route::Nowhere(_) => 0,
        }
    }

    /// Changes whenever [`Guard::capacity`] may have.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// Waits until pictures have somewhere to go, at most so long; the error says why they have
    /// not.
    pub async fn available(&self, patience: Duration) -> Result<(), String> {
        let mut changes = self.changes();
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            changes.borrow_and_update();
            let Route::Nowhere(why) = self.inner.route() else {
                return Ok(());
            };
            if matches!(
                tokio::time::timeout_at(deadline, changes.changed()).await,
                Err(_) | Ok(Err(_))
            ) {
                return Err(why);
            }
        }
    }

    /// Like [`Guard::available`], but gives up as soon as the breaker is open and no fallback is to
    /// come.
    pub async fn started(&self) -> Result<(), String> {
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            let state = self.inner.breaker().state();
            match self.inner.route() {
                Route::Nowhere(why)
                    if state != BreakerState::Closed && !self.inner.fallback_may_come() =>
                {
                    return Err(why);
                }
                Route::Nowhere(_) => changes.changed().await.map_err(|error| error.to_string())?,
                _ => return Ok(()),
            }
        }
    }

    /// Recognises a picture with whichever engine it may go to.
    pub async fn recognise(
        &self,
        image: Option<ImageId>,
        picture: &Picture,
    ) -> Result<Recognised, Failure> {
        let inner = &self.inner;
        match inner.route() {
            Route::Nowhere(why) => Err(Failure::EngineAway(why)),
            Route::Fallback(up) => inner.call_fallback(&up, picture).await,
            Route::Primary(up) => inner.call_primary(&up, image, picture).await,
        }
    }

    /// The door for those who look on and for operators.
    pub fn desk(&self) -> EngineDesk {
        let (looking, telling) = (Arc::clone(&self.inner), Arc::clone(&self.inner));
        EngineDesk {
            report: Arc::new(move || looking.report()),
            command: Arc::new(move |command| {
                let transition = telling.breaker().command(command, Instant::now());
                telling.announce(transition.as_ref());
                telling.breaker().state()
            }),
        }
    }

    /// Runs the engines until stopped.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let inner = &self.inner;
        inner
            .health
            .set("engine", Condition::Starting, "the engine is being started");
        inner.restore().await;
        let mut rounds = Rounds::new(inner.settings.breaker.self_test);
        loop {
            let woken = inner.wake.notified();
            let round = inner.round(&mut rounds);
            tokio::select! {
                () = round => {}
                () = stop.cancelled() => break,
            }
            inner.show();
            let pause = inner.pause(&rounds);
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep(pause) => {}
                () = inner.an_engine_ends() => {}
                () = stop.cancelled() => break,
            }
        }
        inner
            .unbooked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_default();
        inner.keep_books().await;
        // The dispatcher ends beside this task and lets what is in the engine end first.
        inner.primary.stop("kithd stops").await;
        if let Some(fallback) = &inner.fallback {
            fallback.stop("kithd stops").await;
        }
        Ok(())
    }
}

/// What is due when.
struct Rounds {
    every: Duration,
    test: Instant,
    fallback_start: Instant,
    /// The run of the primary whose end was dealt with.
    buried: u64,
}

impl Rounds {
    fn new(every: Duration) -> Self {
        let now = Instant::now();
        Self {
            every,
            test: now + every,
            fallback_start: now,
            buried: 0,
        }
    }
}

impl Inner {
    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn route(&self) -> Route {
        let ticket = self.breaker().begin();
        if let (Some(_), Some(up)) = (ticket, self.primary.up()) {
            return Route::Primary(up);
        }
        if let Some(up) = self.fallback.as_ref().and_then(Slot::up) {
            return Route::Fallback(up);
        }
        Route::Nowhere(match ticket {
            Some(_) => "the engine is being started".into(),
            None => format!("the circuit breaker is {}", self.report().sentence()),
        })
    }

    fn fallback_may_come(&self) -> bool {
        self.fallback
            .as_ref()
            .is_some_and(|slot| !matches!(&*slot.watch().borrow(), SlotState::Failed(_)))
    }

    async fn call_fallback(&self, up: &Arc<Up>, picture: &Picture) -> Result<Recognised, Failure> {
        let Some(fallback) = &self.fallback else {
            return Err(Failure::EngineAway("there is no fallback".into()));
        };
        let away = |trouble: Trouble| Failure::EngineAway(trouble.to_string());
        let turn = up.turn().await.map_err(away)?;
        self.fallback_calls.fetch_add(1, Ordering::Relaxed);
        match fallback.call(turn, picture.clone()).await {
            Ok(answer) => Ok(Recognised {
                answer,
                engine: up.name(),
                role: EngineRole::Fallback,
            }),
            Err(trouble) => Err(self
                .judged(fallback, up, trouble, EngineRole::Fallback)
                .await),
        }
    }

    async fn call_primary(
        &self,
        up: &Arc<Up>,
        image: Option<ImageId>,
        picture: &Picture,
    ) -> Result<Recognised, Failure> {
        let turn = up
            .turn()
            .await
            .map_err(|trouble| Failure::EngineAway(trouble.to_string()))?;
        // It may have opened while the picture waited for its turn.
        let Some(ticket) = self.breaker().begin() else {
            return Err(Failure::EngineAway("the circuit breaker opened".into()));
        };
        let begun = Instant::now();
        let called = self.primary.call(turn, picture.clone()).await;
        let (now, took) = (Instant::now(), begun.elapsed());
        match called {
            Ok(answer) => {
                let transition =
                    self.breaker()
                        .answered(ticket, image.unwrap_or_default(), took, now);
                self.announce(transition.as_ref());
                if up.resident_bytes() > Some(self.settings.engine.memory_limit_bytes) {
                    self.wake.notify_one();
                }
                Ok(Recognised {
                    answer,
                    engine: up.name(),
                    role: EngineRole::Primary,
                })
            }
            Err(trouble) => {
                let reason = reason_of(&trouble);
                let failure = self
                    .judged(&self.primary, up, trouble, EngineRole::Primary)
                    .await;
                Err(self.counted(ticket, image, reason, failure, took))
            }
        }
    }

    /// What trouble over a picture means. A lone death is the picture's fault if the next engine
    /// passes its self-test.
    async fn judged(&self, slot: &Slot, up: &Up, trouble: Trouble, by: EngineRole) -> Failure {
        let lone = matches!(
            trouble,
            Trouble::Died { lone: true, .. } | Trouble::Overdue { lone: true, .. }
        );
        if lone {
            self.wake.notify_one();
            if let Err(why) = slot.restarted_after(up.generation).await {
                return Failure::EngineAway(why);
            }
        }
        match trouble {
            Trouble::Call(CallError::Unreadable(why)) => Failure::Unreadable { why, by },
            Trouble::Call(CallError::Failed(why)) => Failure::EngineFailed(why),
            Trouble::Call(CallError::Malformed(why)) => Failure::EngineMalformed(why),
            Trouble::Call(CallError::Lost(why)) => Failure::EngineUnreachable(why),
            Trouble::Call(CallError::Deadline(limit)) => {
                Failure::EngineDeadline { limit, lone: false }
            }
            Trouble::Died { how, lone: true } => Failure::EngineDied(how),
            Trouble::Died { how, lone: false } => Failure::EngineDiedAmongSeveral(how),
            Trouble::Overdue { limit, lone } => Failure::EngineDeadline { limit, lone },
            Trouble::Swept(why) => Failure::EngineAway(why),
        }
    }

    /// Tells the breaker. A failure that opens it, or comes when it is open already, is not the
    /// picture's.
    fn counted(
        &self,
        ticket: Ticket,
        image: Option<ImageId>,
        reason: BreakerReason,
        failure: Failure,
        took: Duration,
    ) -> Failure {
        let verdict = failure.verdict();
        let now = Instant::now();
        if let Failure::Unreadable { .. } = failure {
            // An answer like any other.
            let transition = self
                .breaker()
                .answered(ticket, image.unwrap_or_default(), took, now);
            self.announce(transition.as_ref());
            return failure;
        }
        // One death is one failure, however many pictures were in it: it is counted where it is
        // dealt with.
        if !verdict.counts_for_breaker || matches!(failure, Failure::EngineDiedAmongSeveral(_)) {
            return failure;
        }
        // One that is not charged has nothing to be given back.
        let charged = image.filter(|_| verdict.again == Again::Attempt);
        let transition =
            self.breaker()
                .failed(ticket, charged, reason, verdict.sentence.clone(), now);
        self.announce(transition.as_ref());
        // Opened by one picture alone, it is as likely the picture: its attempt stands, so that it
        // ends some day.
        let by_one = transition.is_some_and(|transition| transition.blamed.is_empty());
        let closed = self.breaker().begin() == Some(ticket);
        if by_one || closed {
            failure
        } else {
            Failure::EngineAway(verdict.sentence)
        }
    }

    /// Does what is due, one thing after the other.
    async fn round(&self, rounds: &mut Rounds) {
        self.bury(rounds);
        self.keep_books().await;
        let state = self.breaker().state();
        // Whoever waits for the next start of an engine that is not to be started learns that there
        // is none.
        if state != BreakerState::Closed && self.primary.last_end().is_some() {
            self.primary.stop("it is gone").await;
        }
        self.keep_fallback(state, rounds).await;
        match state {
            BreakerState::Closed => match self.primary.up() {
                None => self.bring_up(rounds).await,
                Some(up) => self.look_after(&up, rounds).await,
            },
            BreakerState::Open => self.ping_if_due(rounds).await,
            // A ping is under way only within a round.
            BreakerState::HalfOpen => {}
            // Whoever forced it may want the device for something else.
            BreakerState::ForcedOpen => self.primary.stop("held back by an operator").await,
        }
        self.changed.send_modify(|version| *version += 1);
    }

    /// Counts an engine's death once; a lone one is judged by the self-test of the next start.
    fn bury(&self, rounds: &mut Rounds) {
        let Some((
            generation,
            End {
                how,
                in_flight,
                cause,
            },
        )) = self.primary.last_end()
        else {
            return;
        };
        if rounds.buried >= generation {
            return;
        }
        rounds.buried = generation;
        tracing::warn!(in_flight, "the engine is gone: {how}");
        let ticket = self.breaker().begin();
        if let (Cause::Died, true, Some(ticket)) = (cause, in_flight != 1, ticket) {
            let transition =
                self.breaker()
                    .failed(ticket, None, BreakerReason::Crash, how, Instant::now());
            self.announce(transition.as_ref());
        }
    }

    async fn bring_up(&self, rounds: &mut Rounds) {
        let precision = self.precision();
        let newest = self.newest_result().await;
        match self
            .primary
            .start(precision, self.measures_precision())
            .await
        {
            Ok(up) => {
                tracing::info!("engine ready: {} at {}", up.name(), self.primary.place());
                self.vouch(EngineRole::Primary, newest).await;
                rounds.test = Instant::now() + rounds.every;
            }
            Err(failure) => {
                self.redo_if_lies(EngineRole::Primary, &failure).await;
                self.forget_precision().await;
                let sentence = format!("the engine cannot start: {failure}");
                let transition = self
                    .breaker()
                    .trip(failure.reason, sentence, Instant::now());
                self.announce(transition.as_ref());
            }
        }
    }

    async fn ping_if_due(&self, rounds: &mut Rounds) {
        let began = self.breaker().begin_ping(Instant::now());
        if began.is_none() {
            return;
        }
        self.announce(began.as_ref());
        let newest = self.newest_result().await;
        let passed = match self.primary.up() {
            Some(up) => self.primary.self_test(&up).await.map(|()| up),
            None => {
                self.primary
                    .start(self.precision(), self.measures_precision())
                    .await
            }
        };
        let transition = match passed {
            Ok(_) => {
                self.vouch(EngineRole::Primary, newest).await;
                rounds.test = Instant::now() + rounds.every;
                self.breaker().ping_passed(Instant::now())
            }
            Err(failure) => {
                self.redo_if_lies(EngineRole::Primary, &failure).await;
                self.primary.kill("its test failed");
                self.breaker()
                    .ping_failed(failure.reason, failure.to_string(), Instant::now())
            }
        };
        self.announce(transition.as_ref());
    }

    /// Tests, memory, precision of an engine that works.
    async fn look_after(&self, up: &Arc<Up>, rounds: &mut Rounds) {
        if Instant::now() >= rounds.test {
            rounds.test = Instant::now() + rounds.every;
            let newest = self.newest_result().await;
            match self.primary.self_test(up).await {
                Ok(()) => self.vouch(EngineRole::Primary, newest).await,
                // Its death is dealt with as such.
                Err(_) if up.is_gone() => return,
                Err(failure) => {
                    // First of all nothing more may come from it.
                    let transition =
                        self.breaker()
                            .trip(failure.reason, failure.to_string(), Instant::now());
                    self.announce(transition.as_ref());
                    self.redo_if_lies(EngineRole::Primary, &failure).await;
                    return;
                }
            }
        }
        let limit = self.settings.engine.memory_limit_bytes;
        // Nothing but the self-test has been in it yet: starting again would help nobody.
        if up.turns() <= 1 && up.resident_bytes() > Some(limit) {
            let sentence = format!(
                "the engine needs more memory to load than engine.memory_limit = {} MiB",
                limit >> 20
            );
            let transition = self
                .breaker()
                .trip(BreakerReason::Start, sentence, Instant::now());
            self.announce(transition.as_ref());
        } else if let Some(bytes) = up.resident_bytes().filter(|bytes| *bytes > limit) {
            let why = format!(
                "it holds {} MiB of memory, more than engine.memory_limit = {} MiB",
                bytes >> 20,
                limit >> 20
            );
            tracing::warn!("the engine is started again: {why}");
            self.primary.stop(&why).await;
            self.wake.notify_one();
        } else if let Some(precision) = self.newly_measured(up).await {
            // Even when it is the one that runs: what was loaded to compare goes with the process.
            tracing::info!(
                "{precision} is the precision for this board; the engine is started again with it"
            );
            self.primary.stop("to run in the measured precision").await;
            self.wake.notify_one();
        }
    }

    async fn keep_fallback(&self, state: BreakerState, rounds: &mut Rounds) {
        let Some(fallback) = &self.fallback else {
            return;
        };
        let up = fallback.up();
        match (state, &up) {
            (BreakerState::Closed, Some(_)) if self.primary.up().is_some() => {
                fallback.stop("the primary engine works again").await;
            }
            (BreakerState::Closed, _) if fallback.last_end().is_some() => {
                fallback.stop("it is gone").await
            }
            (BreakerState::Closed, _) => {}
            (_, None) if Instant::now() >= rounds.fallback_start => {
                let newest = self.newest_result().await;
                match fallback.start(self.settings.precision, false).await {
                    Ok(up) => {
                        tracing::info!("the fallback engine takes over: {}", up.name());
                        self.health.set(
                            "fallback",
                            Condition::Ok,
                            format!("{} takes the pictures", up.name()),
                        );
                        self.vouch(EngineRole::Fallback, newest).await;
                        self.changed.send_modify(|version| *version += 1);
                    }
                    Err(failure) => {
                        rounds.fallback_start = Instant::now() + FALLBACK_RETRY;
                        self.redo_if_lies(EngineRole::Fallback, &failure).await;
                        let text = format!("the fallback engine cannot start: {failure}");
                        if self
                            .health
                            .set("fallback", Condition::Degraded, text.as_str())
                        {
                            tracing::error!("{text}");
                        }
                    }
                }
            }
            (_, Some(up)) if Instant::now() >= rounds.test => {
                rounds.test = Instant::now() + rounds.every;
                let newest = self.newest_result().await;
                match fallback.self_test(up).await {
                    Ok(()) => self.vouch(EngineRole::Fallback, newest).await,
                    Err(failure) => {
                        tracing::error!("the fallback engine is started again: {failure}");
                        self.redo_if_lies(EngineRole::Fallback, &failure).await;
                        fallback.kill("its test failed");
                    }
                }
            }
            (_, _) => {}
        }
        if state == BreakerState::Closed && fallback.up().is_none() {
            self.health.set("fallback", Condition::Ok, "not needed now");
        }
    }

    fn pause(&self, rounds: &Rounds) -> Duration {
        let now = Instant::now();
        let (state, next_ping) = {
            let breaker = self.breaker();
            (breaker.state(), breaker.next_ping(now))
        };
        if state == BreakerState::Closed && self.primary.up().is_none() {
            return Duration::ZERO;
        }
        let tested =
            state == BreakerState::Closed || self.fallback.as_ref().and_then(Slot::up).is_some();
        let test = if tested {
            rounds.test.saturating_duration_since(now)
        } else {
            LOOK
        };
        next_ping.unwrap_or(LOOK).min(test).min(LOOK)
    }

    async fn an_engine_ends(&self) {
        let of = async |slot: Option<&Slot>| match slot.and_then(Slot::up) {
            Some(up) => drop(up.ended().await),
            None => std::future::pending().await,
        };
        tokio::select! {
            () = of(Some(&self.primary)) => {}
            () = of(self.fallback.as_ref()) => {}
        }
    }

    /// Logs a transition, keeps it for the next run, and does what follows from it.
    fn announce(&self, transition: Option<&Transition>) {
        let Some(Transition {
            from,
            to,
            reason,
            sentence,
            blamed,
        }) = transition
        else {
            return;
        };
        let reason = reason.map_or("none", BreakerReason::as_str);
        if *to == BreakerState::Open || *to == BreakerState::ForcedOpen {
            tracing::warn!(
                from = from.as_str(),
                to = to.as_str(),
                reason,
                "circuit breaker: {sentence}"
            );
        } else {
            tracing::info!(
                from = from.as_str(),
                to = to.as_str(),
                reason,
                "circuit breaker: {sentence}"
            );
        }
        // A process that failed is not asked again; one that is only slow, or held back, is let
        // finish.
        let gentle = matches!(reason, "slow" | "operator");
        if *from == BreakerState::Closed && !gentle && self.primary.is_child() {
            self.primary.kill(sentence);
        }
        let mut unbooked = self.unbooked.lock().unwrap_or_else(PoisonError::into_inner);
        let books = unbooked.get_or_insert_default();
        books.blamed.extend(blamed);
        books.changes.push((*to, sentence.clone()));
        drop(unbooked);
        self.show();
        self.changed.send_modify(|version| *version += 1);
        self.wake.notify_one();
    }
}

fn reason_of(trouble: &Trouble) -> BreakerReason {
    match trouble {
        Trouble::Call(CallError::Malformed(_)) => BreakerReason::Malformed,
        Trouble::Call(CallError::Lost(_)) => BreakerReason::Unreachable,
        Trouble::Call(CallError::Deadline(_)) | Trouble::Overdue { .. } => BreakerReason::Deadline,
        Trouble::Call(_) | Trouble::Died { .. } | Trouble::Swept(_) => BreakerReason::Crash,
    }
}
