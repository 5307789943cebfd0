//! The daemon's side of a camera: keeps its process running, chooses the best frame of each burst,
//! and queues it. Or follows faces (`follow`), and queues a few frames of each.
//!
//! The process may hang, even in its driver: it is watched, killed and restarted, and blocks no
//! other part. Frames are not kept in memory for later: a frame that the queue refuses is dropped,
//! and the loss is reported.

mod back_off;
mod follow;
mod tracks;

use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::process::ChildStdout;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use self::back_off::BackOff;
use self::follow::Newest;
pub use self::follow::{Identify, Tell};
use super::{Intake, IntakeError};
use crate::camera_process::wire::{self, Message, WireError};
use crate::child::Child;
use crate::config::{self, Producer};
use crate::domain::{Moment, Origin, Source, wall_clock_ms};
use crate::engines::Engines;
use crate::queue::Failure;
use crate::status::cameras::{CameraCounts, Cameras, FollowCounts, trouble};
use crate::status::health::{Condition, Health};

/// Interval between checks for an unplugged camera, and for a changed password.
const LOOK: Duration = Duration::from_millis(500);
/// Minimum time allowed from opening a camera to its first frame.
const OPENING: Duration = Duration::from_secs(10);
/// Longest wait for a killed process to disappear.
const FAREWELL: Duration = Duration::from_secs(2);
/// Deadline for all engine calls of one burst.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time without a look at a followed camera's frames after which that is reported: an engine takes
/// some to start.
const BLIND: Duration = Duration::from_secs(10);
/// Name of the trouble of a login that the camera refuses.
const UNAUTHORISED: &str = "unauthorised";
/// Shortest interval between updates of health, each of which notifies other parts.
const SHOWN_FOR: Duration = Duration::from_secs(10);

/// Dependencies of a camera's task.
pub struct Camera {
    /// Configuration of the camera.
    pub settings: config::Camera,
    /// Most bytes of a frame.
    pub max_frame_bytes: usize,
    /// Name of the part in health: "camera front".
    pub part: &'static str,
    /// Arguments that pass the configuration to its process.
    pub configuration: Vec<String>,
    /// The queue's intake.
    pub intake: Intake,
    /// Engines, to look for faces.
    pub engines: Engines,
    /// Identifies the faces of a followed camera's frames.
    pub identify: Identify,
    /// Takes what a followed camera sees, for sightings.
    pub tell: Tell,
    /// Health of the camera.
    pub health: Health,
    /// Counts of all cameras.
    pub cameras: Cameras,
    /// Current state.
    pub state: Mutex<State>,
}

/// State of a camera.
#[derive(Default)]
pub struct State {
    /// Frames arrive.
    alive: bool,
    /// Reason why no frames arrive.
    trouble: Option<String>,
    /// Reason why frames are not accepted, and the size of the last refused one.
    paused: Option<(String, usize)>,
    /// Rate of the frames.
    pace: Pace,
    /// Expected and real rate of a camera that is too slow.
    slow: Option<(u32, f64)>,
    taken: u64,
    last: String,
    /// Counts for the metrics.
    counts: CameraCounts,
    /// Frames and broken frames of earlier runs of the process.
    before: (u64, u64),
    lost: u64,
    /// Time since which no frame of a followed camera is looked at, and the reason.
    blind: Option<(std::time::Instant, String)>,
    shown: Option<Instant>,
}

/// A frame of a burst.
struct Frame {
    sharpness: f32,
    jpeg: Bytes,
}

/// Reason for abandoning a camera process.
enum End {
    /// The process exited.
    Ended,
    /// The process sent nothing for too long.
    Stalled,
    /// The process broke the protocol.
    Misbehaved(String),
}

impl Camera {
    /// Takes pictures until stopped.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        self.health.set(
            self.part,
            Condition::Starting,
            format!("opening {}", self.settings.producer),
        );
        let newest = self.settings.follow.map(|_| Newest::default());
        {
            let mut state = self.state();
            state.counts.follow = newest.is_some().then(FollowCounts::default);
            self.cameras.set(&self.settings.name, state.counts);
        }
        // A burst may wait while another is judged; a third is dropped.
        let (bursts, mut taken) = mpsc::channel(1);
        let watching = async {
            tokio::select! {
                () = self.watch(&bursts, newest.as_ref()) => {}
                () = stop.cancelled() => {}
            }
            // Ends the judging once the channel is empty.
            drop(bursts);
        };
        let judging = async {
            while let Some(burst) = taken.recv().await {
                self.take(burst).await;
            }
        };
        let following = async {
            if let Some(newest) = &newest {
                self.follow(newest, &stop).await;
            }
        };
        tokio::join!(watching, judging, following);
        Ok(())
    }

    /// Keeps a process running while the camera is plugged in; never returns.
    async fn watch(&self, bursts: &mpsc::Sender<Vec<Frame>>, newest: Option<&Newest>) {
        let mut back_off = BackOff::default();
        let mut refused = BackOff::of_login();
        let mut attempt = 0;
        let mut started = false;
        loop {
            if self.is_unplugged() {
                self.trouble(format!(
                    "unplugged: {} is not there; kithd waits for it",
                    self.settings.producer
                ));
                back_off = BackOff::default();
                sleep(LOOK).await;
                continue;
            }
            if std::mem::replace(&mut started, true) {
                self.state().counts.restarts += 1;
            }
            let password = self.password().await;
            let begun = Instant::now();
            let (why, frames) = self.one_run(bursts, newest, attempt).await;
            attempt = if frames { 0 } else { attempt + 1 };
            if frames {
                refused = BackOff::of_login();
            }
            if trouble(&why) == UNAUTHORISED {
                let pause = refused.pause();
                self.trouble(format!(
                    "{why}; tried again in {} s, or when its password changes",
                    pause.as_secs()
                ));
                if self.password_changes(password, pause).await {
                    refused = BackOff::of_login();
                }
                continue;
            }
            let pause = back_off.after(begun.elapsed());
            // An unplugged camera is handled at the top of the loop.
            if !self.is_unplugged() {
                self.trouble(format!("{why}; tried again in {} s", pause.as_secs()));
                sleep(pause).await;
            }
        }
    }

    /// Returns true if the camera is one of this board's `/dev` and is not there.
    fn is_unplugged(&self) -> bool {
        match &self.settings.producer {
            // A path on the board's own /dev, so this call cannot hang.
            Producer::V4l2 { device, .. } => device.canonicalize().is_err(),
            _ => false,
        }
    }

    /// Returns the contents of the password's file, if there is one.
    async fn password(&self) -> Option<Vec<u8>> {
        let file = self.settings.producer.secret_files()?;
        tokio::fs::read(file).await.ok()
    }

    /// Waits for another password than `before`; false: none came within this time.
    async fn password_changes(&self, before: Option<Vec<u8>>, within: Duration) -> bool {
        let until = Instant::now() + within;
        while Instant::now() < until {
            let now = self.password().await;
            // A file that is being written is empty for a moment.
            if now.as_ref().is_some_and(|now| !now.is_empty()) && now != before {
                return true;
            }
            sleep_until(until.min(Instant::now() + LOOK)).await;
        }
        false
    }

    /// Runs the process until it exits or must be killed; returns the reason, and true if frames
    /// came.
    async fn one_run(
        &self,
        bursts: &mpsc::Sender<Vec<Frame>>,
        newest: Option<&Newest>,
        attempt: u32,
    ) -> (String, bool) {
        let attempt = attempt.to_string();
        let name = &self.settings.name;
        let arguments = ["camera", "run", "--name", name, "--attempt", &attempt];
        let started = Child::spawn(
            "camera",
            self.part,
            &self.configuration,
            arguments,
            Stdio::piped(),
        );
        let (child, stdout) = match started {
            Ok((child, Some(stdout))) => (child, stdout),
            Ok((_, None)) => return ("the camera process has no output".into(), false),
            Err(why) => return (why, false),
        };
        let why = match self.listen(stdout, bursts, newest).await {
            End::Ended => None,
            End::Stalled => Some(format!(
                "stalled: no frame came for {:?}, the camera process was killed",
                self.patience()
            )),
            End::Misbehaved(how) => Some(format!("the camera process was killed: {how}")),
        };
        let frames = {
            let mut state = self.state();
            state.pace = Pace::default();
            state.before = (state.counts.frames, state.counts.broken);
            std::mem::take(&mut state.alive)
        };
        // A process that closed its output and exits reports its own reason.
        if why.is_some() || timeout(FAREWELL, child.ended()).await.is_err() {
            child.kill();
        }
        if timeout(FAREWELL, child.ended()).await.is_err() {
            // A process that hangs in its driver ignores signals, and a second one would hang as
            // well.
            let pid = child.pid;
            self.trouble(format!(
                "the camera process {pid} hangs in its driver and cannot be killed; kithd waits \
                 for it"
            ));
            child.ended().await;
        }
        let why = why.unwrap_or_else(|| child.complaint().unwrap_or_else(|| child.how()));
        (why, frames)
    }

    fn patience(&self) -> Duration {
        if self.state().alive {
            self.settings.stall_after
        } else {
            self.settings.stall_after.max(OPENING)
        }
    }

    /// Forwards bursts until the process must be abandoned; returns the reason.
    async fn listen(
        &self,
        mut stdout: ChildStdout,
        bursts: &mpsc::Sender<Vec<Frame>>,
        newest: Option<&Newest>,
    ) -> End {
        let limit = self.intake.max_bytes().min(self.max_frame_bytes);
        let mut burst = Vec::new();
        loop {
            let message = match timeout(self.patience(), wire::read(&mut stdout, limit)).await {
                Ok(Ok(message)) => message,
                Ok(Err(WireError::Ended(_))) => return End::Ended,
                Ok(Err(error @ WireError::Nonsense(_))) => {
                    return End::Misbehaved(error.to_string());
                }
                Err(_) => return End::Stalled,
            };
            match message {
                (
                    Message::Look {
                        sharpness,
                        cut,
                        moves,
                    },
                    jpeg,
                ) => match newest {
                    Some(newest) => {
                        let now = std::time::Instant::now();
                        newest.offer(sharpness, cut, moves, jpeg.into(), now);
                    }
                    None => return End::Misbehaved("it sent looks unasked".into()),
                },
                // For `kithd camera try`.
                (Message::Begins { .. }, _) => {}
                (Message::Alive { frames, broken }, _) => self.alive(frames, broken).await,
                (Message::Ends { frames, broken }, _) => self.state().came(frames, broken),
                (Message::Frame { sharpness, last }, jpeg) => {
                    burst.push(Frame {
                        sharpness,
                        jpeg: jpeg.into(),
                    });
                    if burst.len() > self.settings.burst {
                        return End::Misbehaved(format!(
                            "it sent more than {} frames",
                            self.settings.burst
                        ));
                    }
                    if last && let Err(dropped) = bursts.try_send(std::mem::take(&mut burst)) {
                        self.dropped(dropped.into_inner().len());
                        self.lost("pictures come faster than kithd can judge them; take fewer");
                    }
                }
            }
        }
    }

    /// Queues one picture of a burst, or reports why not.
    async fn take(&self, burst: Vec<Frame>) {
        // While nothing is accepted, calls to the engine would be wasted.
        let size = burst
            .iter()
            .map(|frame| frame.jpeg.len())
            .max()
            .unwrap_or_default();
        if let Err(error) = self.intake.check_camera_capacity(size).await {
            self.dropped(burst.len());
            return self.pause(&error, size);
        }
        let Some(best) = self.best(&burst).await else {
            return self.lost("the engine can read no frame of the last burst");
        };
        self.accept(best.jpeg.clone()).await;
    }

    /// Queues a frame of a followed camera, or reports why not.
    async fn queue(&self, jpeg: Bytes) {
        if let Err(error) = self.intake.check_camera_capacity(jpeg.len()).await {
            return self.pause(&error, jpeg.len());
        }
        self.accept(jpeg).await;
    }

    async fn accept(&self, jpeg: Bytes) {
        let size = jpeg.len();
        let now = wall_clock_ms();
        let moment = Moment::from_ms(now);
        let name = format!(
            "{} {}.jpg",
            self.settings.name,
            moment.iso.trim_end_matches('Z').replace(':', "-")
        );
        let origin = Origin::camera(&self.settings.name);
        let accepted = self
            .intake
            .picture(Source::Camera, &name, jpeg, None, origin);
        match accepted.await {
            Ok(accepted) => {
                tracing::debug!(image = accepted.id, "{}: {name}", self.part);
                {
                    let mut state = self.state();
                    state.taken += 1;
                    state.last = moment.text;
                }
                self.go_on();
            }
            Err(error) if error.is_temporary() => self.pause(&error, size),
            Err(error) => self.lost(&format!("the last picture was refused: {error}")),
        }
    }

    /// Returns the frame with the best face, or the sharpest frame when no face is found or the
    /// engine is too slow; `None` when no frame can be read.
    async fn best<'a>(&self, burst: &'a [Frame]) -> Option<&'a Frame> {
        if let [only] = burst {
            return Some(only);
        }
        // Starts with the sharpest, in case there is time for only one call.
        let mut frames: Vec<_> = burst.iter().collect();
        frames.sort_by(|a, b| b.sharpness.total_cmp(&a.sharpness));
        let deadline = Instant::now() + PATIENCE;
        let mut judged = Vec::new();
        let mut silent = None;
        for frame in &frames {
            let answer = match &silent {
                Some(_) => None,
                None => timeout_at(deadline, self.engines.best_face(frame.jpeg.clone()))
                    .await
                    .ok(),
            };
            judged.push(match answer {
                Some(Ok(quality)) => Judged::Seen(quality),
                Some(Err(Failure::Unreadable { .. })) => Judged::Unreadable,
                Some(Err(failure)) => {
                    silent = Some(failure.verdict().sentence);
                    Judged::Unasked
                }
                None => {
                    silent.get_or_insert_with(|| format!("no answer within {PATIENCE:?}"));
                    Judged::Unasked
                }
            });
        }
        if let Some(why) = silent {
            tracing::debug!(
                "{}: not every frame was checked for faces: {why}",
                self.part
            );
        }
        let sharpness: Vec<_> = frames.iter().map(|frame| frame.sharpness).collect();
        choose(&sharpness, &judged).map(|at| frames[at])
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    async fn alive(&self, frames: u64, broken: u64) {
        let recovered = {
            let mut state = self.state();
            state.alive = true;
            state.came(frames, broken);
            state.pace.tell(frames, Instant::now());
            state.slow = self
                .expected_rate()
                .zip(state.pace.rate)
                .filter(|(rate, comes)| *comes < f64::from(*rate) / 2.0);
            state.trouble.take().is_some()
        };
        if recovered {
            tracing::info!("{}: frames come again", self.part);
        }
        // Checked at once, since the next picture may be hours away.
        let paused = self.state().paused.as_ref().map(|(_, size)| *size);
        if let Some(size) = paused
            && self.intake.check_camera_capacity(size).await.is_ok()
        {
            self.go_on();
        }
        self.show();
    }

    /// Returns the rate below half of which the camera is too slow; `None`: any is right, as of a
    /// webcam that takes longer exposures at night.
    fn expected_rate(&self) -> Option<u32> {
        match self.settings.producer {
            Producer::V4l2 { .. }
            | Producer::Rtsp {
                key_frames: true, ..
            } => None,
            _ => Some(self.settings.rate),
        }
    }

    fn go_on(&self) {
        if self.state().paused.take().is_some() {
            tracing::info!("{}: pictures are taken again", self.part);
        }
        self.show();
    }

    fn pause(&self, error: &IntakeError, size: usize) {
        self.state().paused = Some((error.to_string(), size));
        self.show();
    }

    /// Counts frames that nothing looked at.
    fn dropped(&self, frames: usize) {
        self.state().counts.dropped += frames as u64;
    }

    fn trouble(&self, why: String) {
        self.state().trouble = Some(why);
        self.show();
    }

    /// Reports a burst that gives no picture.
    fn lost(&self, why: &str) {
        let lost = {
            let mut state = self.state();
            state.lost += 1;
            state.lost
        };
        // Logged at the first, second, fourth, eighth… time.
        if lost.is_power_of_two() {
            tracing::warn!(
                "{}: no picture was taken, {lost} times so far: {why}",
                self.part
            );
        }
        self.show();
    }

    /// Reports trouble at once, and progress at most every [`SHOWN_FOR`].
    fn show(&self) {
        let mut state = self.state();
        let (condition, text) = state.line();
        state.counts.trouble = (condition == Condition::Degraded).then(|| trouble(&text));
        self.cameras.set(&self.settings.name, state.counts);
        if condition == Condition::Ok {
            if state.shown.is_some_and(|shown| shown.elapsed() < SHOWN_FOR) && state.taken != 1 {
                return;
            }
            state.shown = Some(Instant::now());
        } else {
            state.shown = None;
        }
        drop(state);
        if self.health.set(self.part, condition, text.as_str()) && condition == Condition::Degraded
        {
            tracing::warn!("{}: {text}", self.part);
        }
    }
}

impl State {
    /// Counts the frames of this run of the process so far.
    fn came(&mut self, frames: u64, broken: u64) {
        let counts = &mut self.counts;
        counts.frames = counts.frames.max(self.before.0.saturating_add(frames));
        counts.broken = counts.broken.max(self.before.1.saturating_add(broken));
    }

    fn line(&self) -> (Condition, String) {
        match self {
            Self {
                trouble: Some(why), ..
            } => (Condition::Degraded, why.clone()),
            Self {
                paused: Some((why, _)),
                ..
            } => (Condition::Degraded, format!("paused: {why}")),
            Self {
                blind: Some((since, why)),
                ..
            } if since.elapsed() >= BLIND => {
                let text = format!("frames come, but none is looked at: {why}");
                (Condition::Degraded, text)
            }
            Self {
                slow: Some((expected, comes)),
                ..
            } => {
                let text = format!(
                    "too slow for its rate: {comes:.1} frames a second come instead of {expected}; \
                     choose a smaller stream or a lower rate"
                );
                (Condition::Degraded, text)
            }
            Self { alive: false, .. } => {
                (Condition::Starting, "waiting for the first frame".into())
            }
            Self {
                taken,
                last,
                counts,
                lost,
                ..
            } => {
                let mut text = match taken {
                    0 => "frames come, no picture taken yet".into(),
                    1 => format!("1 picture taken, at {last}"),
                    _ => format!("{taken} pictures taken, the last at {last}"),
                };
                let CameraCounts {
                    broken, dropped, ..
                } = counts;
                if *broken > 0 {
                    text.push_str(&format!(", {broken} broken frames dropped"));
                }
                if *lost > 0 {
                    text.push_str(&format!(", {lost} times without a picture"));
                }
                if let Some(FollowCounts { looked, tracks, .. }) = &counts.follow {
                    text.push_str(&format!(", {looked} frames looked at"));
                    if *dropped > 0 {
                        text.push_str(&format!(" ({dropped} dropped while the engine was busy)"));
                    }
                    text.push_str(&match tracks {
                        0 => ", no face now".into(),
                        1 => ", 1 face now".into(),
                        faces => format!(", {faces} faces now"),
                    });
                }
                (Condition::Ok, text)
            }
        }
    }
}

/// The rate of frames, measured over [`Pace::WINDOW`].
#[derive(Default)]
struct Pace {
    /// Beginning of the window, and the number of frames then.
    since: Option<(Instant, u64)>,
    /// Frames a second of the last whole window.
    rate: Option<f64>,
}

impl Pace {
    const WINDOW: Duration = Duration::from_secs(15);

    fn tell(&mut self, frames: u64, now: Instant) {
        let (since, before) = *self.since.get_or_insert((now, frames));
        let passed = now.duration_since(since);
        if passed >= Self::WINDOW {
            self.rate = Some(frames.saturating_sub(before) as f64 / passed.as_secs_f64());
            self.since = Some((now, frames));
        }
    }
}

/// The engine's judgement of a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Judged {
    /// Readable, with the quality of its best face, if any.
    Seen(Option<f32>),
    /// Broken, although its process did not notice.
    Unreadable,
    /// Not judged, for lack of time or an engine.
    Unasked,
}

/// Chooses the frame to keep. Frames with a face are ranked by face quality times sharpness,
/// because quality alone says little about blur in a face sharp enough to be known. Without a face,
/// the sharpest readable frame wins.
fn choose(sharpness: &[f32], judged: &[Judged]) -> Option<usize> {
    let merit = |at: usize| match judged[at] {
        Judged::Seen(Some(quality)) => (
            1,
            quality.max(f32::MIN_POSITIVE) * sharpness[at].max(f32::MIN_POSITIVE),
        ),
        Judged::Seen(None) | Judged::Unasked => (0, sharpness[at]),
        Judged::Unreadable => (-1, 0.0),
    };
    let best = (0..judged.len()).filter(|at| judged[*at] != Judged::Unreadable);
    best.max_by(|a, b| {
        let (a, b) = (merit(*a), merit(*b));
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sharpest_frame_with_a_face_wins_else_the_sharpest() {
        use Judged::{Seen, Unasked, Unreadable};
        let sharpness = [50.0, 40.0, 10.0];
        assert_eq!(
            choose(&sharpness, &[Seen(None), Seen(Some(0.8)), Seen(Some(0.9))]),
            Some(1)
        );
        assert_eq!(
            choose(&sharpness, &[Seen(None), Seen(None), Seen(Some(0.1))]),
            Some(2)
        );
        assert_eq!(
            choose(&sharpness, &[Seen(None), Seen(None), Seen(None)]),
            Some(0)
        );
        assert_eq!(choose(&sharpness, &[Unreadable, Unasked, Unasked]), Some(1));
        assert_eq!(
            choose(&sharpness, &[Unasked, Seen(Some(0.0)), Unasked]),
            Some(1)
        );
        assert_eq!(choose(&sharpness, &[Unreadable; 3]), None);
        // Both faces are sharp; the one turned to the camera wins.
        assert_eq!(
            choose(&[50.0, 49.0], &[Seen(Some(0.3)), Seen(Some(0.9))]),
            Some(1)
        );
    }

    #[test]
    fn a_rate_is_measured_over_a_whole_window() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.tell(3, now);
        pace.tell(30, now + Duration::from_secs(5));
        assert_eq!(pace.rate, None);
        pace.tell(33, now + Pace::WINDOW);
        assert_eq!(pace.rate, Some(2.0));
        pace.tell(33, now + 2 * Pace::WINDOW);
        assert_eq!(pace.rate, Some(0.0));
    }

    #[test]
    fn what_is_shown_is_the_worst_there_is_to_say() {
        let mut state = State::default();
        assert_eq!(state.line().0, Condition::Starting);
        state.alive = true;
        assert_eq!(
            state.line(),
            (Condition::Ok, "frames come, no picture taken yet".into())
        );
        (state.taken, state.last) = (12, "2026-11-23 07:21:05 UTC".into());
        state.before = (100, 1);
        state.came(50, 2);
        let text =
            "12 pictures taken, the last at 2026-11-23 07:21:05 UTC, 3 broken frames dropped";
        assert_eq!(state.line(), (Condition::Ok, text.into()));
        // A process that counts backwards changes nothing.
        state.came(0, 0);
        assert_eq!((state.counts.frames, state.counts.broken), (150, 3));
        state.counts.dropped = 5;
        state.counts.follow = Some(FollowCounts {
            looked: 90,
            tracks: 2,
            ..FollowCounts::default()
        });
        assert!(
            state.line().1.ends_with(
                ", 90 frames looked at (5 dropped while the engine was busy), 2 faces now"
            )
        );
        let since = std::time::Instant::now();
        state.blind = Some((since, "the engine is being started".into()));
        assert_eq!(state.line().0, Condition::Ok, "it takes some time");
        state.slow = Some((5, 2.04));
        let (condition, text) = state.line();
        assert_eq!(condition, Condition::Degraded);
        assert!(
            text.starts_with("too slow for its rate: 2.0 frames"),
            "{text}"
        );
        state.blind = since
            .checked_sub(BLIND)
            .map(|since| (since, "the breaker".into()));
        let text = "frames come, but none is looked at: the breaker";
        assert_eq!(state.line(), (Condition::Degraded, text.into()));
        state.paused = Some(("the disk is full".into(), 1));
        assert_eq!(
            state.line(),
            (Condition::Degraded, "paused: the disk is full".into())
        );
        state.trouble = Some("unplugged".into());
        assert_eq!(state.line(), (Condition::Degraded, "unplugged".into()));
    }
}
