//! Named tasks: the first to end for any reason ends the program, and the error names it.
//!
//! Stopping has two phases within the drain time: sources and workers end first, then the sinks.
//! Nothing else in the daemon spawns a task that outlives its caller.

use std::any::Any;
use std::future::Future;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// Least time of the delivering phase, however long the first phase took.
const DELIVERY_GRACE: Duration = Duration::from_secs(2);

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

type Tasks = JoinSet<(&'static str, anyhow::Result<()>)>;

/// The daemon's tasks in two groups.
pub struct Supervisor {
    signals: Signals,
    working: Tasks,
    delivering: Tasks,
    stop: CancellationToken,
    finish: CancellationToken,
}

impl Supervisor {
    /// Listens for stop signals from now on, so that a signal during the start is handled like any
    /// other.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            signals: Signals::new()?,
            working: Tasks::default(),
            delivering: Tasks::default(),
            stop: CancellationToken::new(),
            finish: CancellationToken::new(),
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
        self.working.spawn(async move { (name, task.await) });
    }

    /// Runs a task that ends when `finish` is cancelled.
    pub fn deliver(
        &mut self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.delivering.spawn(async move { (name, task.await) });
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
                Err(panic) => anyhow!("a task panicked: {panic}"),
            }),
        }
    }
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

    #[tokio::test(start_paused = true)]
    async fn the_first_task_to_end_ends_the_program_and_is_named() {
        let mut tasks = Supervisor::new().unwrap();
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
    async fn deliveries_end_after_the_work_and_a_task_that_hangs_is_dropped_at_the_deadline() {
        let mut tasks = Supervisor::new().unwrap();
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
}
