//! Notifications to systemd (sd_notify): ready, a status line, the watchdog, and stopping.
//!
//! It heals nothing: a loop that hangs gets no more time than the unit's `WatchdogSec`, and systemd
//! restarts the daemon. Engine, camera and mounts are not probed: they have supervisors of their
//! own, and their trouble is no reason to restart.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use systemd::daemon::{
    self, STATE_EXTEND_TIMEOUT_USEC, STATE_READY, STATE_STATUS, STATE_STOPPING, STATE_WATCHDOG,
};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::queue::Queue;
use crate::status::health::{Condition, Health, Part};
use crate::status::heartbeat::Heartbeat;
use crate::store::Store;

/// Longest delay of READY for parts that are still starting: a GPU may compile its kernels for
/// minutes.
const READY_PATIENCE: Duration = Duration::from_secs(90);
/// Stop time beyond the drain: last results, last commit, last requests.
const STOP_MARGIN: Duration = Duration::from_secs(15);
/// Shortest interval between status lines: they are for people, and systemd need not hear about
/// every picture.
const STATUS_PACE: Duration = Duration::from_secs(1);

/// Dependencies of the notifier.
pub struct Notifier {
    /// Store whose writer thread is probed.
    pub store: Store,
    /// Every loop that must turn, by name.
    pub loops: Vec<(&'static str, Heartbeat)>,
    /// State of each part.
    pub health: Health,
    /// Parts that must have reported before the service counts as started.
    pub awaited: Vec<&'static str>,
    /// Counts unfinished images.
    pub queue: Queue,
    /// `stop.drain`: time allowed for an orderly stop.
    pub drain: Duration,
}

impl Notifier {
    /// Notifies systemd until stopped; only waits for the stop without systemd.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            stop.cancelled().await;
            return Ok(());
        }
        let watchdog = match daemon::watchdog_enabled() {
            Ok(0) => None,
            Ok(microseconds) => Some(Duration::from_micros(microseconds)),
            Err(error) => {
                tracing::warn!("the watchdog's interval cannot be read, it is not fed: {error}");
                None
            }
        };
        tokio::select! {
            () = self.report() => {}
            () = feed(&self.store, &self.loops, watchdog) => {}
            () = stop.cancelled() => {}
        }
        let time = (self.drain + STOP_MARGIN).as_micros().to_string();
        tell(&[
            (STATE_STOPPING, "1"),
            (STATE_STATUS, "stopping"),
            (STATE_EXTEND_TIMEOUT_USEC, &time),
        ]);
        Ok(())
    }

    /// Sends READY once everything awaited has reported, and the status line for as long as it
    /// runs.
    async fn report(&self) {
        let patience = Instant::now() + READY_PATIENCE;
        let (mut ready, mut last) = (false, String::new());
        loop {
            let parts = self.health.parts();
            let starting = still_starting(&self.awaited, &parts);
            if !ready && (starting.is_empty() || Instant::now() >= patience) {
                if !starting.is_empty() {
                    tracing::warn!("ready without waiting longer for: {}", starting.join(", "));
                }
                tell(&[(STATE_READY, "1")]);
                ready = true;
            }
            if let Ok((unfinished, _)) = self.queue.load().await {
                let line = status_line(&parts, unfinished);
                if line != last {
                    tell(&[(STATE_STATUS, &line)]);
                    last = line;
                }
            }
            tokio::time::sleep(STATUS_PACE).await;
        }
    }
}

/// Feeds the watchdog whenever every loop has answered; never resolves.
async fn feed(store: &Store, loops: &[(&'static str, Heartbeat)], watchdog: Option<Duration>) {
    let Some(interval) = watchdog else {
        return std::future::pending().await;
    };
    let mut rounds = tokio::time::interval(interval / 4);
    loop {
        rounds.tick().await;
        let asked = loops.iter().map(|(name, heart)| async move {
            (
                *name,
                matches!(timeout(interval / 2, heart.answered()).await, Ok(true)),
            )
        });
        let (written, answers) =
            tokio::join!(timeout(interval / 2, store.answers()), join_all(asked));
        let written = ("writer thread", matches!(written, Ok(true)));
        let silent: Vec<_> = std::iter::once(written)
            .chain(answers)
            .filter(|(_, answered)| !answered)
            .map(|(name, _)| name)
            .collect();
        if silent.is_empty() {
            tell(&[(STATE_WATCHDOG, "1")]);
        } else {
            tracing::error!(
                "no answer within {:?} from: {}; the watchdog is not fed",
                interval / 2,
                silent.join(", ")
            );
        }
    }
}

/// Returns awaited parts that have not reported yet.
fn still_starting(
    awaited: &[&'static str],
    parts: &BTreeMap<&'static str, Part>,
) -> Vec<&'static str> {
    let settled = |name: &str| {
        parts
            .get(name)
            .is_some_and(|part| part.condition != Condition::Starting)
    };
    awaited
        .iter()
        .filter(|name| !settled(name))
        .copied()
        .collect()
}

/// Returns one line for `systemctl status`.
fn status_line(parts: &BTreeMap<&'static str, Part>, unfinished: u64) -> String {
    let mut line = match unfinished {
        0 => "no pictures wait".to_string(),
        1 => "1 picture waits".into(),
        many => format!("{many} pictures wait"),
    };
    for (condition, word) in [
        (Condition::Degraded, "degraded"),
        (Condition::Starting, "starting"),
    ] {
        for (name, part) in parts.iter().filter(|(_, part)| part.condition == condition) {
            line.push_str(&format!("; {word}: {name} ({})", part.text));
        }
    }
    line.replace('\n', " ")
}

fn tell(state: &[(&str, &str)]) {
    // Nothing depends on this while systemd is away, and it sends no answer.
    if let Err(error) = daemon::notify(state.iter()) {
        tracing::debug!("systemd could not be told: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(condition: Condition, text: &str) -> Part {
        Part {
            condition,
            text: text.into(),
        }
    }

    #[test]
    fn degraded_and_off_parts_have_reported_starting_ones_have_not() {
        let parts = BTreeMap::from([
            ("engine", part(Condition::Starting, "loading")),
            ("mqtt", part(Condition::Degraded, "no broker")),
            ("intake", part(Condition::Ok, "accepting")),
            ("camera", part(Condition::Off, "switched off")),
        ]);
        let awaited = ["engine", "mqtt", "intake", "camera", "page"];
        assert_eq!(still_starting(&awaited, &parts), ["engine", "page"]);
    }

    #[test]
    fn the_status_says_what_waits_and_what_is_wrong_on_one_line() {
        let parts = BTreeMap::from([
            ("engine", part(Condition::Ok, "works")),
            ("mqtt", part(Condition::Degraded, "no broker\nat host")),
        ]);
        assert_eq!(
            status_line(&parts, 3),
            "3 pictures wait; degraded: mqtt (no broker at host)"
        );
        assert_eq!(status_line(&BTreeMap::new(), 0), "no pictures wait");
    }
}
