//! Named tasks: the first to end for any reason ends the program, and the error names it. A task
//! that can begin anew does so when it panics, after growing waits. A panic of any other task ends
//! the program, and the next start takes up what it left.
//!
//! Stopping has two phases within the drain time: sources and workers end first, then the sinks.
//! Nothing else in the daemon spawns a task that outlives its caller.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::status::health::{Condition, Health};

/// Least time of the delivering phase, however long the first phase took.
const DELIVERY_GRACE: Duration = Duration::from_secs(2);
/// First and longest wait before a task that panicked begins anew.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Time after which a task that began anew counts as well.
const WELL_AFTER: Duration = Duration::from_secs(3600);
/// Part of health that names the tasks that panicked.
const PART: &str = "tasks";

/// Returns the message of a caught panic as a sentence for the operator.
pub fn fault(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("the panic has no message");
    // Panics of slices and strings quote their argument, however long it is.
    let text: String = text.chars().take(200).collect();
    format!("a fault in kithd, please report it: {text}")
}

/// Does the work that one message or command asks for; a panic of it becomes an error, the sentence
/// of [`fault`]. The caller then answers the sender: met again, the input would panic again.
pub async fn guarded<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.map_err(|panic| fault(panic.as_ref()))
}

type Tasks = JoinSet<(&'static str, anyhow::Result<()>)>;

/// The daemon's tasks in two groups.
pub struct Supervisor {
    signals: Signals,
    working: Tasks,
    delivering: Tasks,
    stop: CancellationToken,
    finish: CancellationToken,
    faults: Faults,
}

/// Tasks that panicked and began anew, each with what it said; clones share them.
#[derive(Clone)]
struct Faults {
    health: Health,
    current: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

impl Faults {
    fn note(&self, task: &'static str, fault: String, wait: Duration) {
        let count = self.health.count_fault();
        tracing::error!(
            "the task {task} met {fault}; it begins anew in {wait:?}, and {count} faults were met so far"
        );
        self.change(|current| _ = current.insert(task, fault));
    }

    fn over(&self, task: &'static str) {
        self.change(|current| _ = current.remove(task));
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<&'static str, String>)) {
        let mut current = self.current.lock();
        change(&mut current);
        let count = self.health.faults();
        let said: Vec<_> = current
            .iter()
            .map(|(task, fault)| format!("the task {task} met {fault}"))
            .collect();
        let (condition, text) = match said.as_slice() {
            [] => (
                Condition::Ok,
                format!("all run; {count} faults since the start"),
            ),
            said => (
                Condition::Degraded,
                format!(
                    "{}; it began anew ({count} faults since the start)",
                    said.join("; ")
                ),
            ),
        };
        self.health.set(PART, condition, text);
    }
}

/// Runs a task, again after each panic, until it ends in another way or is stopped.
async fn repeat<F: Future<Output = anyhow::Result<()>>>(
    task: &'static str,
    mut start: impl FnMut() -> F,
    faults: Faults,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut wait = FIRST_WAIT;
    loop {
        let mut run = std::pin::pin!(AssertUnwindSafe(async { start().await }).catch_unwind());
        let ended = match timeout(WELL_AFTER, &mut run).await {
            Ok(ended) => ended,
            Err(_) => {
                if wait > FIRST_WAIT {
                    faults.over(task);
                    wait = FIRST_WAIT;
                }
                run.await
            }
        };
        let Err(panic) = ended else {
            return ended.unwrap_or(Ok(()));
        };
        faults.note(task, fault(panic.as_ref()), wait);
        if stop.run_until_cancelled(sleep(wait)).await.is_none() {
            return Ok(());
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

impl Supervisor {
    /// Listens for stop signals from now on, so that a signal during the start is handled like any
    /// other.
    pub fn new(health: Health) -> anyhow::Result<Self> {
        Ok(Self {
            signals: Signals::new()?,
            working: Tasks::default(),
            delivering: Tasks::default(),
            stop: CancellationToken::new(),
            finish: CancellationToken::new(),
            faults: Faults {
                health,
                current: Arc::default(),
            },
        })
    }

    /// Cancelled when sources, HTTP and the dispatcher must end.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Cancelled when the sinks must end, after all workers have ended.
    pub fn finish(&self) -> CancellationToken {
        self.finish.clone()
    }

    /// Runs a task that ends when `stop` is cancelled.
    pub fn work(
        &mut self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.working
            .spawn(async move { (name, without_panic(task).await) });
    }

    /// Runs a task that ends when `stop` is cancelled, and begins anew when it panics.
    pub fn keep_working<F>(&mut self, name: &'static str, start: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (faults, stop) = (self.faults.clone(), self.stop());
        self.working
            .spawn(async move { (name, repeat(name, start, faults, stop).await) });
    }

    /// Runs a task that ends when `finish` is cancelled.
    pub fn deliver(
        &mut self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.delivering
            .spawn(async move { (name, without_panic(task).await) });
    }

    /// Runs a task that ends when `finish` is cancelled, and begins anew when it panics.
    pub fn keep_delivering<F>(
        &mut self,
        name: &'static str,
        start: impl FnMut() -> F + Send + 'static,
    ) where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (faults, finish) = (self.faults.clone(), self.finish());
        self.delivering
            .spawn(async move { (name, repeat(name, start, faults, finish).await) });
    }

    /// Waits for a stop signal or the first task to end, then stops everything within `drain`.
    ///
    /// A second signal ends the program at once with an error.
    pub async fn run_until_stopped(mut self, drain: Duration) -> anyhow::Result<()> {
        let ended = tokio::select! {
            name = self.signals.next() => {
                tracing::info!("{name} received, stopping");
                None
            }
            Some(end) = self.working.join_next() => Some(end),
            Some(end) = self.delivering.join_next() => Some(end),
        };
        let deadline = Instant::now() + drain;
        self.stop.cancel();
        let stopped = async {
            let working = drain_tasks(&mut self.working, deadline).await;
            self.finish.cancel();
            let delivering = drain_tasks(
                &mut self.delivering,
                deadline.max(Instant::now() + DELIVERY_GRACE),
            )
            .await;
            working.and(delivering)
        };
        tokio::select! {
            result = stopped => result?,
            name = self.signals.next() => bail!("second {name}: stopped at once, unfinished images are resumed at the next start"),
        }
        match ended {
            None => Ok(()),
            Some(end) => Err(match end {
                Ok((name, Ok(()))) => anyhow!("the task {name} ended by itself"),
                Ok((name, Err(error))) => error.context(format!("the task {name} failed")),
                Err(broken) => anyhow!("a task was broken off: {broken}"),
            }),
        }
    }
}

/// A panic as the error that ends the program.
async fn without_panic(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let ended = AssertUnwindSafe(task).catch_unwind().await;
    ended.unwrap_or_else(|panic| {
        bail!(
            "{}; what was accepted is taken up at the next start",
            fault(panic.as_ref())
        )
    })
}

async fn drain_tasks(tasks: &mut Tasks, deadline: Instant) -> anyhow::Result<()> {
    let mut first_error = Ok(());
    loop {
        match timeout_at(deadline, tasks.join_next()).await {
            Ok(None) => return first_error,
            Ok(Some(Ok((name, Err(error))))) => {
                first_error = first_error.and(Err(
                    error.context(format!("while stopping, the task {name} failed"))
                ));
            }
            Ok(Some(_)) => {}
            Err(_) => {
                tracing::warn!(
                    "{} tasks did not end within the drain time and are dropped",
                    tasks.len()
                );
                tasks.abort_all();
                return first_error;
            }
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let of = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_guarded_work_is_an_error_with_its_words() {
        assert_eq!(guarded(async { 7 }).await, Ok(7));
        let index = |list: Vec<u8>| list[5];
        for (met, words) in [
            (
                guarded(async { index(vec![]) }).await,
                "index out of bounds",
            ),
            (guarded(async { panic!("of {}", "ours") }).await, "of ours"),
            (
                guarded(async {
                    tokio::task::yield_now().await;
                    std::panic::panic_any(7)
                })
                .await,
                "no message",
            ),
        ] {
            let said = met.unwrap_err();
            assert!(
                said.starts_with("a fault in kithd") && said.contains(words),
                "{said}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_task_to_end_ends_the_program_and_is_named() {
        let mut tasks = Supervisor::new(Health::default()).unwrap();
        let stop = tasks.stop();
        tasks.work("patient", async move {
            stop.cancelled().await;
            Ok(())
        });
        tasks.work("hasty", async { bail!("no disk") });
        let error = tasks
            .run_until_stopped(Duration::from_secs(1))
            .await
            .unwrap_err();
        assert_eq!(format!("{error:#}"), "the task hasty failed: no disk");
    }

    #[tokio::test(start_paused = true)]
    async fn deliveries_end_after_the_work_and_hung_tasks_are_dropped() {
        let mut tasks = Supervisor::new(Health::default()).unwrap();
        let (stop, finish) = (tasks.stop(), tasks.finish());
        let stop_seen = stop.clone();
        tasks.deliver("sink", async move {
            finish.cancelled().await;
            assert!(stop_seen.is_cancelled());
            Ok(())
        });
        tasks.work("stuck", std::future::pending());
        tasks.work("over", async { Ok(()) });
        let begun = Instant::now();
        let error = tasks
            .run_until_stopped(Duration::from_secs(5))
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "the task over ended by itself");
        assert!(begun.elapsed() < Duration::from_secs(8));
    }
    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_begins_anew_after_growing_waits() {
        let health = Health::default();
        let mut tasks = Supervisor::new(health.clone()).unwrap();
        let begun = Instant::now();
        let (begins, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let (stop, mut runs) = (tasks.stop(), 0);
        tasks.keep_working("history", move || {
            runs += 1;
            let (run, begins, stop) = (runs, begins.clone(), stop.clone());
            async move {
                begins.send(begun.elapsed().as_secs()).unwrap();
                assert!(run > 4, "row {run} of 4");
                stop.cancelled().await;
                Ok(())
            }
        });
        let (stop, watched) = (tasks.stop(), health.clone());
        tasks.work("operator", async move {
            let mut waits = Vec::new();
            for _ in 0..5 {
                waits.extend(seen.recv().await);
            }
            assert_eq!(waits, [0, 1, 3, 7, 15]);
            let part = watched.parts()[PART].clone();
            assert_eq!(part.condition, Condition::Degraded);
            assert_eq!(
                part.text,
                "the task history met a fault in kithd, please report it: row 4 of 4; it began anew (4 faults since the start)"
            );
            sleep(WELL_AFTER + FIRST_WAIT).await;
            assert_eq!(watched.parts()[PART].condition, Condition::Ok);
            stop.cancel();
            Ok(())
        });
        // The operator's end.
        let ended = tasks
            .run_until_stopped(Duration::from_secs(5))
            .await
            .unwrap_err();
        assert_eq!(ended.to_string(), "the task operator ended by itself");
        assert_eq!(health.faults(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_at_each_beginning_can_be_stopped() {
        let mut tasks = Supervisor::new(Health::default()).unwrap();
        tasks.keep_delivering("outbox", || -> std::future::Ready<anyhow::Result<()>> {
            panic!("at once")
        });
        tasks.work("over", async {
            sleep(Duration::from_secs(10_000)).await;
            Ok(())
        });
        let ended = tasks
            .run_until_stopped(Duration::from_secs(5))
            .await
            .unwrap_err();
        assert_eq!(ended.to_string(), "the task over ended by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_of_a_task_that_cannot_restart_ends_the_program_named() {
        let mut tasks = Supervisor::new(Health::default()).unwrap();
        tasks.work("dispatcher", async { panic!("index out of bounds") });
        let error = tasks
            .run_until_stopped(Duration::from_secs(1))
            .await
            .unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "the task dispatcher failed: a fault in kithd, please report it: index out of bounds; what was accepted is taken \
             up at the next start"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_of_a_task_that_begins_anew_ends_the_program() {
        let mut tasks = Supervisor::new(Health::default()).unwrap();
        tasks.keep_working("retention", || async { bail!("the database is closed") });
        let error = tasks
            .run_until_stopped(Duration::from_secs(1))
            .await
            .unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "the task retention failed: the database is closed"
        );
    }
}
