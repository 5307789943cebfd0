//! The writer thread: one connection, one transaction for all waiting operations, and answers
//! as their [`Commit`] says.
//!
//! It knows nothing of tables. Every commit is on disk when it returns (`synchronous=FULL`), and
//! commits wear out an SD card: each rewrites the touched pages and the last block of the journal.
//! Operations that can be redone therefore do not commit on their own: they are answered when done,
//! and their transaction commits with the next urgent operation. A failed commit is reported to
//! callers still waiting; operations already answered are replayed before anything else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use super::StoreError;
use crate::supervise::fault;

/// Most operations in one transaction.
const BATCH: usize = 256;
/// Group-commit window when the last batch had several callers; a lone caller never waits.
const GATHER: Duration = Duration::from_millis(4);
/// Longest time until a [`Commit::Deferred`] is committed.
const NOTE: Duration = Duration::from_secs(1);
/// Group-commit window for results. A result commits at once, unless another result was committed
/// within this window, or pictures arrive at a shorter interval: then it joins the next commit. A
/// lone picture's result never waits.
const COMPANY: Duration = Duration::from_millis(200);
/// Delay that lets a result and the claim of its message share one commit.
const MESSAGE: Duration = Duration::from_millis(5);
/// Interval between attempts to repeat a failed commit.
const RETRY: Duration = Duration::from_secs(2);
/// Longest wait for the last commit at shutdown.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// When an operation is committed and its caller is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// Reads only, including uncommitted rows. Answered at once.
    None,
    /// Answered at once; committed with other operations. A power cut may lose the last second of
    /// these.
    Deferred,
    /// End of an image: answered at once, committed within [`COMPANY`].
    Grouped,
    /// A result about to leave the board: committed within [`COMPANY`], answered after the commit.
    GroupedDurable,
    /// Committed at once, answered after that.
    Durable,
}

impl Commit {
    /// Returns whether it is answered before its commit, and must be replayed if the commit fails.
    fn rides(self) -> bool {
        matches!(self, Self::Deferred | Self::Grouped)
    }
}

/// An operation that runs inside the transaction.
trait Operation: Send {
    /// Runs it, possibly a second time; false rolls its savepoint back.
    fn run(&mut self, connection: &Connection) -> bool;
    /// Answers its caller; only the first answer counts.
    fn answer(&mut self, committed: Result<(), StoreError>);
}

struct Call<T, F> {
    operation: F,
    result: Option<Result<T, StoreError>>,
    caller: Option<oneshot::Sender<Result<T, StoreError>>>,
}

impl<T: Send, F: FnMut(&Connection) -> rusqlite::Result<T> + Send> Operation for Call<T, F> {
    fn run(&mut self, connection: &Connection) -> bool {
        // The thread outlives a panic: without it nothing could be accepted or ended any more.
        let result = catch_unwind(AssertUnwindSafe(|| (self.operation)(connection)));
        let result = match result {
            Ok(result) => result.map_err(StoreError::from),
            Err(panic) => {
                let fault = fault(panic.as_ref());
                tracing::error!("a change of the database met {fault}");
                Err(StoreError::Fault(fault))
            }
        };
        let done = result.is_ok();
        self.result = Some(result);
        done
    }

    fn answer(&mut self, committed: Result<(), StoreError>) {
        let Some(caller) = self.caller.take() else {
            return;
        };
        let answer = match (self.result.take(), committed) {
            (Some(Err(error)), _) | (_, Err(error)) => Err(error),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (None, Ok(())) => Err(StoreError::Closed),
        };
        // A caller that went away (a closed HTTP connection) needs no answer.
        let _ = caller.send(answer);
    }
}

type Waiting = (Commit, Box<dyn Operation>);

enum Message {
    Run(Commit, Box<dyn Operation>),
    /// Commits everything before it; everything after it is refused.
    Close,
}

/// Handle to the writer thread.
#[derive(Clone)]
pub(super) struct Writer {
    queue: Sender<Message>,
    work: watch::Receiver<u64>,
    changes: watch::Receiver<u64>,
    commits: Arc<AtomicU64>,
    thread: Arc<Mutex<Option<std::thread::JoinHandle<()>>>>,
}

impl Writer {
    /// Starts the thread. It removes the marker once the database is closed in order.
    pub fn start(connection: Connection, marker: PathBuf) -> Result<Self, StoreError> {
        let (queue, waiting) = channel();
        let (done, work) = watch::channel(0);
        let (changed, changes) = watch::channel(0);
        let commits = Arc::new(AtomicU64::new(0));
        let pen = WriterThread {
            connection,
            done,
            changed,
            commits: Arc::clone(&commits),
            open: Vec::new(),
            changing: false,
            replaying: false,
            warned: false,
            commit_by: None,
            results_at: None,
            now_at: None,
            stream: false,
            marker,
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || pen.write_until_closed(&waiting))
            .map_err(|source| StoreError::Io {
                path: "store-writer thread".into(),
                source,
            })?;
        Ok(Self {
            queue,
            work,
            changes,
            commits,
            thread: Arc::new(Mutex::new(Some(thread))),
        })
    }

    /// Notifies whenever an operation is done.
    pub fn work(&self) -> watch::Receiver<u64> {
        self.work.clone()
    }

    /// Notifies on every commit.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    pub async fn run<T, F>(&self, commit: Commit, operation: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        let call = Call {
            operation,
            result: None,
            caller: Some(caller),
        };
        self.queue
            .send(Message::Run(commit, Box::new(call)))
            .map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Commits what was handed over before, then ends the thread; later calls are refused.
    pub async fn stop(self) {
        // Fails only when the thread has ended already.
        let _ = self.queue.send(Message::Close);
        let handle = self.thread.lock().take();
        if let Some(handle) = handle {
            // A disk that does not respond must not block the exit for ever.
            let ended = tokio::task::spawn_blocking(move || handle.join());
            let _ = tokio::time::timeout(CLOSE_WAIT, ended).await;
        }
    }
}

/// State of the writer thread.
struct WriterThread {
    connection: Connection,
    done: watch::Sender<u64>,
    changed: watch::Sender<u64>,
    commits: Arc<AtomicU64>,
    /// Operations of the open transaction, in order; when `replaying`, those to replay.
    open: Vec<Waiting>,
    /// An open operation changed a row.
    changing: bool,
    /// The last commit failed after callers had been answered.
    replaying: bool,
    /// The failure was logged; a full disk may last, and hold the log too.
    warned: bool,
    commit_by: Option<Instant>,
    /// Time of the last commit of results.
    results_at: Option<Instant>,
    /// Time of the last commit with an urgent caller.
    now_at: Option<Instant>,
    /// The urgent commit before that was less than [`COMPANY`] earlier.
    stream: bool,
    /// There while the database is open.
    marker: PathBuf,
}

impl WriterThread {
    fn write_until_closed(mut self, waiting: &Receiver<Message>) {
        let mut last_callers = 1;
        let mut closing = false;
        while !closing {
            let first = match self.commit_by {
                None => waiting.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => waiting.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            let (commit, operation) = match first {
                Ok(Message::Run(commit, operation)) => (commit, operation),
                Err(RecvTimeoutError::Timeout) => {
                    // Waiting callers are answered; without any, the commit is retried later.
                    let _ = self.settle();
                    continue;
                }
                Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => break,
            };
            let mut callers = usize::from(commit == Commit::Durable);
            let mut batch = vec![(commit, operation)];
            // The last batch had several callers, so more are on their way: one flush should serve
            // them all.
            while batch.len() < BATCH {
                let next = if (1..last_callers).contains(&callers) {
                    waiting.recv_timeout(GATHER).ok()
                } else {
                    waiting.try_recv().ok()
                };
                match next {
                    Some(Message::Run(commit, operation)) => {
                        callers += usize::from(commit == Commit::Durable);
                        batch.push((commit, operation));
                    }
                    Some(Message::Close) => {
                        closing = true;
                        break;
                    }
                    None => break,
                }
            }
            if callers > 0 {
                last_callers = callers;
            }
            self.take(batch);
        }
        let _ = self.settle();
        // A copy of the closed file is then the whole database. Remaining readers leave it
        // incomplete, not wrong.
        let _ = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        // Before the connection takes the journal with it.
        let _ = std::fs::remove_file(&self.marker);
    }

    /// Runs a batch and commits if it is time.
    fn take(&mut self, mut batch: Vec<Waiting>) {
        if self.replaying
            && let Err(error) = self.settle()
        {
            batch
                .iter_mut()
                .for_each(|(_, operation)| operation.answer(Err(error.again())));
            return;
        }
        // Urgent operations come last: an early answer must not depend on an operation that may
        // still be refused.
        batch.sort_by_key(|(commit, _)| *commit == Commit::Durable);
        let before = self.connection.total_changes();
        let mut waiting = batch.into_iter();
        while let Some((commit, operation)) = waiting.next() {
            if let Err(error) = self.perform(commit, operation) {
                self.failed(&error);
                waiting.for_each(|(_, mut operation)| operation.answer(Err(error.again())));
                return;
            }
        }
        if self.open.is_empty() {
            // Nothing changed, so there is nothing to keep open or write.
            self.end_transaction();
        } else if self.commit_by.is_some_and(|at| at <= Instant::now()) {
            // Waiting callers are answered.
            let _ = self.settle();
        }
        if self.connection.total_changes() != before {
            self.done.send_modify(|version| *version += 1);
        }
    }

    /// Runs one operation in a savepoint; an error concerns the whole transaction.
    fn perform(
        &mut self,
        commit: Commit,
        mut operation: Box<dyn Operation>,
    ) -> Result<(), StoreError> {
        if commit == Commit::None {
            operation.run(&self.connection);
            operation.answer(Ok(()));
            return Ok(());
        }
        let before = self.connection.total_changes();
        let run = self
            .begin()
            .and_then(|()| self.in_savepoint(&mut operation));
        if !matches!(run, Ok(true)) {
            operation.answer(run.as_ref().map(drop).map_err(StoreError::again));
            return run.map(drop);
        }
        let changed = self.connection.total_changes() != before;
        self.changing |= changed;
        let now = Instant::now();
        let company = if self.stream {
            self.now_at.max(self.results_at)
        } else {
            self.results_at
        };
        let results = company.map_or(now, |at| at + COMPANY);
        let by = match commit {
            // An urgent operation without changes waits too: it may have found a row that is not
            // committed yet.
            Commit::Durable => now,
            _ if !changed => {
                operation.answer(Ok(()));
                return Ok(());
            }
            Commit::None | Commit::Deferred => now + NOTE,
            Commit::Grouped => results.max(now + MESSAGE),
            Commit::GroupedDurable => results.max(now),
        };
        if commit.rides() {
            operation.answer(Ok(()));
        }
        self.commit_by = Some(self.commit_by.map_or(by, |at| at.min(by)));
        self.open.push((commit, operation));
        Ok(())
    }

    /// Returns false when it failed and left no trace.
    fn in_savepoint(&self, operation: &mut Box<dyn Operation>) -> Result<bool, StoreError> {
        self.connection.execute_batch("SAVEPOINT operation")?;
        let done = operation.run(&self.connection);
        if !done {
            if self.connection.is_autocommit() {
                // A full disk or an I/O error ended the whole transaction, not only this operation.
                return Err(StoreError::Commit(
                    "the disk could not store the transaction".into(),
                ));
            }
            self.connection.execute_batch("ROLLBACK TO operation")?;
        }
        self.connection.execute_batch("RELEASE operation")?;
        Ok(done)
    }

    fn begin(&self) -> Result<(), StoreError> {
        if self.connection.is_autocommit() {
            self.connection.execute_batch("BEGIN IMMEDIATE")?;
        }
        Ok(())
    }

    /// Commits the open operations, replaying them first if `replaying`, and answers waiting callers.
    fn settle(&mut self) -> Result<(), StoreError> {
        if self.open.is_empty() {
            self.end_transaction();
            return Ok(());
        }
        let committed = self
            .redo()
            .and_then(|()| Ok(self.connection.execute_batch("COMMIT")?));
        if let Err(error) = committed {
            self.failed(&error);
            return Err(error);
        }
        if self.changing {
            let now = Instant::now();
            let has = |kinds: &[Commit]| self.open.iter().any(|(commit, _)| kinds.contains(commit));
            if has(&[Commit::Grouped, Commit::GroupedDurable]) {
                self.results_at = Some(now);
            }
            if has(&[Commit::Durable]) {
                self.stream = self.now_at.is_some_and(|before| now - before < COMPANY);
                self.now_at = Some(now);
            }
            self.commits.fetch_add(1, Ordering::Relaxed);
            self.changed.send_modify(|version| *version += 1);
        }
        if std::mem::take(&mut self.warned) {
            tracing::info!("the database commits again");
        }
        (self.changing, self.replaying, self.commit_by) = (false, false, None);
        for (_, mut operation) in self.open.drain(..) {
            operation.answer(Ok(()));
        }
        Ok(())
    }

    /// Replays operations that callers believe done.
    fn redo(&mut self) -> Result<(), StoreError> {
        if !self.replaying {
            return Ok(());
        }
        self.begin()?;
        let mut replaying = std::mem::take(&mut self.open).into_iter();
        while let Some((commit, mut operation)) = replaying.next() {
            match self.in_savepoint(&mut operation) {
                Ok(true) => self.open.push((commit, operation)),
                Ok(false) => {
                    tracing::error!(
                        "a change was lost: its commit failed, and so did the attempt to repeat it"
                    );
                }
                Err(error) => {
                    self.open.push((commit, operation));
                    self.open.extend(replaying);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Handles a lost transaction: waiting callers get the error, operations already answered are
    /// kept for replay.
    fn failed(&mut self, error: &StoreError) {
        // Without an open transaction ROLLBACK fails, which does no harm.
        let _ = self.connection.execute_batch("ROLLBACK");
        self.open.retain_mut(|(commit, operation)| {
            operation.answer(Err(error.again()));
            commit.rides()
        });
        self.replaying = !self.open.is_empty();
        self.changing = self.replaying;
        self.commit_by = self.replaying.then(|| Instant::now() + RETRY);
        if self.replaying && !std::mem::replace(&mut self.warned, true) {
            tracing::warn!("the database cannot commit, and kithd keeps trying: {error}");
        }
    }

    fn end_transaction(&mut self) {
        (self.changing, self.replaying, self.commit_by) = (false, false, None);
        if !self.connection.is_autocommit() {
            // The transaction wrote nothing, so a failure loses nothing.
            let _ = self.connection.execute_batch("COMMIT");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer() -> (tempfile::TempDir, Writer) {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open(folder.path().join("t.db")).unwrap();
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .unwrap();
        connection
            .execute_batch("CREATE TABLE t (n INTEGER UNIQUE)")
            .unwrap();
        let marker = folder.path().join("open");
        (folder, Writer::start(connection, marker).unwrap())
    }

    #[tokio::test]
    async fn a_failed_operation_leaves_its_batch_neighbours_committed() {
        let (_folder, writer) = writer();
        let insert = |n: i64| {
            writer.run(Commit::Durable, move |c| {
                c.execute("INSERT INTO t VALUES (?1)", [n])
            })
        };
        let (first, twin, other) = tokio::join!(insert(1), insert(1), insert(2));
        assert!(first.is_ok() && other.is_ok());
        assert!(matches!(twin, Err(StoreError::Sqlite(_))));
        let count = writer
            .run(Commit::None, |c| {
                c.query_row("SELECT count(*) FROM t", [], |r| r.get::<_, i64>(0))
            })
            .await;
        assert_eq!(count.unwrap(), 2);
    }

    #[tokio::test]
    async fn a_panicking_operation_leaves_no_trace_and_a_live_thread() {
        let (folder, writer) = writer();
        let panicking = |commit| {
            writer.run(commit, |c| -> rusqlite::Result<()> {
                c.execute("INSERT INTO t VALUES (7)", [])?;
                panic!("index out of bounds")
            })
        };
        for commit in [
            Commit::Deferred,
            Commit::Grouped,
            Commit::GroupedDurable,
            Commit::Durable,
        ] {
            let (before, broken, after) = tokio::join!(
                insert(&writer, commit, 10 * commit as i64 + 1),
                panicking(commit),
                insert(&writer, commit, 10 * commit as i64 + 2)
            );
            assert!(before.is_ok() && after.is_ok(), "{commit:?}");
            assert!(
                matches!(broken, Err(StoreError::Fault(said)) if said.ends_with("index out of bounds"))
            );
        }
        writer.clone().stop().await;
        assert_eq!(committed(&folder), 8);
    }

    #[tokio::test]
    async fn callers_that_wait_together_share_a_flush() {
        let (_folder, writer) = writer();
        let calls = (0..200).map(|n| {
            writer.run(Commit::Durable, move |c| {
                c.execute("INSERT INTO t VALUES (?1)", [n])
            })
        });
        let answers = futures_util::future::join_all(calls).await;
        assert!(answers.iter().all(Result::is_ok));
        let commits = writer.commits();
        assert!(commits <= 200 / 16, "{commits} commits for 200 operations");
    }

    /// Returns the committed rows as another connection sees them.
    fn committed(folder: &tempfile::TempDir) -> i64 {
        let reader = Connection::open(folder.path().join("t.db")).unwrap();
        reader
            .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
            .unwrap()
    }

    async fn insert(writer: &Writer, commit: Commit, n: i64) -> Result<usize, StoreError> {
        writer
            .run(commit, move |c| c.execute("INSERT INTO t VALUES (?1)", [n]))
            .await
    }

    #[tokio::test]
    async fn a_note_is_answered_early_and_shares_the_next_commit() {
        let (folder, writer) = writer();
        insert(&writer, Commit::Deferred, 1).await.unwrap();
        let looked = writer.run(Commit::None, |c| {
            c.query_row("SELECT count(*) FROM t", [], |r| r.get::<_, i64>(0))
        });
        assert_eq!(
            (looked.await.unwrap(), committed(&folder), writer.commits()),
            (1, 0, 0)
        );
        insert(&writer, Commit::Durable, 2).await.unwrap();
        assert_eq!((committed(&folder), writer.commits()), (2, 1));
        insert(&writer, Commit::Deferred, 3).await.unwrap();
        writer.clone().stop().await;
        assert_eq!(committed(&folder), 3);
    }

    /// A result that is to be sent is committed when the operation is answered.
    #[tokio::test]
    async fn quick_results_share_commits_and_sendable_ones_are_durable() {
        let (folder, writer) = writer();
        for n in 0..100 {
            insert(&writer, Commit::Grouped, n).await.unwrap();
        }
        insert(&writer, Commit::GroupedDurable, 100).await.unwrap();
        assert_eq!(committed(&folder), 101);
        assert!(writer.commits() < 20, "{} commits", writer.commits());
    }

    #[tokio::test]
    async fn looking_and_changing_nothing_commit_nothing() {
        let (_folder, writer) = writer();
        for commit in [
            Commit::None,
            Commit::Deferred,
            Commit::Grouped,
            Commit::GroupedDurable,
            Commit::Durable,
        ] {
            writer
                .run(commit, |c| c.execute("DELETE FROM t WHERE n = 7", []))
                .await
                .unwrap();
        }
        assert_eq!(writer.commits(), 0);
    }

    #[tokio::test]
    async fn what_was_answered_before_a_commit_that_failed_is_done_again() {
        let (folder, writer) = writer();
        let reference =
            "CREATE TABLE child (n INTEGER REFERENCES t (n) DEFERRABLE INITIALLY DEFERRED)";
        writer
            .run(Commit::Durable, move |c| c.execute_batch(reference))
            .await
            .unwrap();
        writer
            .run(Commit::None, |c| {
                c.pragma_update(None, "foreign_keys", true)
            })
            .await
            .unwrap();
        insert(&writer, Commit::Deferred, 1).await.unwrap();
        // The statement succeeds; the commit finds that row 99 does not exist.
        let orphan = writer.run(Commit::Durable, |c| {
            c.execute("INSERT INTO child VALUES (99)", [])
        });
        assert!(matches!(orphan.await, Err(StoreError::Commit(_))));
        assert_eq!(committed(&folder), 0);
        insert(&writer, Commit::Durable, 2).await.unwrap();
        assert_eq!(committed(&folder), 2);
    }
}
