//! The writer thread: one connection, one transaction for all that waits, answers after the commit.
//!
//! It knows nothing of tables. Durability is per operation; a batch that holds one `Flushed` operation is flushed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use super::StoreError;

/// Most operations in one transaction.
const BATCH: usize = 256;
/// How long a batch waits for company when the last one had company; one caller alone never waits.
const GATHER: Duration = Duration::from_millis(4);

/// Longest wait for the last commit at the end.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// When the caller is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// After the commit; a power cut may lose it, and redoing it is harmless (`synchronous=NORMAL`).
    Redoable,
    /// After the commit is on disk (`synchronous=FULL`).
    Flushed,
}

/// An operation that runs inside the batch and answers its caller after the commit.
trait Operation: Send {
    /// Runs it; false asks for its savepoint to be rolled back.
    fn run(&mut self, connection: &Connection) -> bool;
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Call<T, F> {
    operation: Option<F>,
    result: Option<rusqlite::Result<T>>,
    caller: oneshot::Sender<Result<T, StoreError>>,
}

impl<T: Send, F: FnOnce(&Connection) -> rusqlite::Result<T> + Send> Operation for Call<T, F> {
    fn run(&mut self, connection: &Connection) -> bool {
        self.result = self.operation.take().map(|operation| operation(connection));
        matches!(self.result, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let answer = match (self.result, committed) {
            (Some(Err(error)), _) => Err(error.into()),
            (_, Err(error)) => Err(error),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (None, Ok(())) => Err(StoreError::Closed),
        };
        // A caller that went away (a closed HTTP connection) needs no answer.
        let _ = self.caller.send(answer);
    }
}

enum Message {
    Run(Durability, Box<dyn Operation>),
    /// Everything before it is committed, everything after it is refused.
    Close,
}

#[derive(Default)]
struct Counters {
    commits: AtomicU64,
    flushes: AtomicU64,
}

/// Handle to the writer thread.
#[derive(Clone)]
pub(super) struct Writer {
    queue: Sender<Message>,
    changes: watch::Receiver<u64>,
    counters: Arc<Counters>,
    thread: Arc<Mutex<Option<std::thread::JoinHandle<()>>>>,
}

impl Writer {
    pub fn start(connection: Connection) -> Result<Self, StoreError> {
        let (queue, waiting) = channel();
        let (changed, changes) = watch::channel(0);
        let counters = Arc::new(Counters::default());
        let thread_counters = Arc::clone(&counters);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || write_until_closed(&connection, &waiting, &changed, &thread_counters))
            .map_err(|source| StoreError::Io { path: "store-writer thread".into(), source })?;
        Ok(Self { queue, changes, counters, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    pub fn commit_counts(&self) -> (u64, u64) {
        (self.counters.commits.load(Ordering::Relaxed), self.counters.flushes.load(Ordering::Relaxed))
    }

    pub async fn run<T, F>(&self, durability: Durability, operation: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        let call = Call { operation: Some(operation), result: None, caller };
        self.queue.send(Message::Run(durability, Box::new(call))).map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Commits what was handed over before, then ends the thread; later calls are refused.
    pub async fn stop(self) {
        // Fails only when the thread has ended already.
        let _ = self.queue.send(Message::Close);
        let handle = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(handle) = handle {
            // A disk that does not answer must not hold up the exit for ever.
            let ended = tokio::task::spawn_blocking(move || handle.join());
            let _ = tokio::time::timeout(CLOSE_WAIT, ended).await;
        }
    }
}

fn write_until_closed(
    connection: &Connection,
    waiting: &Receiver<Message>,
    changed: &watch::Sender<u64>,
    counters: &Counters,
) {
    let mut last_batch = 1;
    let mut closing = false;
    while !closing && let Ok(Message::Run(durability, operation)) = waiting.recv() {
        let mut needed = durability;
        let mut batch = vec![operation];
        // With company in the last batch, more callers are on their way: one flush should serve them all.
        while batch.len() < BATCH {
            let next = if last_batch > 1 && batch.len() < last_batch {
                match waiting.recv_timeout(GATHER) {
                    Ok(next) => next,
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                }
            } else {
                match waiting.try_recv() {
                    Ok(next) => next,
                    Err(_) => break,
                }
            };
            match next {
                Message::Run(durability, operation) => {
                    needed = needed.max(durability);
                    batch.push(operation);
                }
                Message::Close => {
                    closing = true;
                    break;
                }
            }
        }
        last_batch = batch.len();
        let changes_before = connection.total_changes();
        let committed = commit_batch(connection, needed, &mut batch);
        if committed.is_ok() {
            counters.commits.fetch_add(1, Ordering::Relaxed);
            counters.flushes.fetch_add(u64::from(needed == Durability::Flushed), Ordering::Relaxed);
            if connection.total_changes() != changes_before {
                changed.send_modify(|version| *version += 1);
            }
        } else {
            // The transaction is gone whatever the cause; a rollback with none open is an error to ignore.
            let _ = connection.execute_batch("ROLLBACK");
        }
        for operation in batch {
            operation.answer(match &committed {
                Ok(()) => Ok(()),
                Err(StoreError::DiskFull) => Err(StoreError::DiskFull),
                Err(other) => Err(StoreError::Commit(other.to_string())),
            });
        }
    }
    // A copy of the closed file is then the whole database. Readers that still run make it incomplete, not wrong.
    let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
}

fn commit_batch(
    connection: &Connection,
    durability: Durability,
    batch: &mut [Box<dyn Operation>],
) -> Result<(), StoreError> {
    let synchronous = match durability {
        Durability::Redoable => "NORMAL",
        Durability::Flushed => "FULL",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.execute_batch("BEGIN IMMEDIATE")?;
    for operation in batch {
        connection.execute_batch("SAVEPOINT operation")?;
        if !operation.run(connection) {
            if connection.is_autocommit() {
                // A full disk or an I/O error ended the whole transaction, not only this operation.
                return Err(StoreError::Commit("the disk did not take the transaction".into()));
            }
            connection.execute_batch("ROLLBACK TO operation")?;
        }
        connection.execute_batch("RELEASE operation")?;
    }
    connection.execute_batch("COMMIT")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer() -> (tempfile::TempDir, Writer) {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open(folder.path().join("t.db")).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.execute_batch("CREATE TABLE t (n INTEGER UNIQUE)").unwrap();
        (folder, Writer::start(connection).unwrap())
    }

    #[tokio::test]
    async fn an_operation_that_fails_leaves_its_neighbours_in_the_batch_committed() {
        let (_folder, writer) = writer();
        let insert = |n: i64| writer.run(Durability::Flushed, move |c| c.execute("INSERT INTO t VALUES (?1)", [n]));
        let (first, twin, other) = tokio::join!(insert(1), insert(1), insert(2));
        assert!(first.is_ok() && other.is_ok());
        assert!(matches!(twin, Err(StoreError::Sqlite(_))));
        let count = writer
            .run(Durability::Redoable, |c| c.query_row("SELECT count(*) FROM t", [], |r| r.get::<_, i64>(0)))
            .await;
        assert_eq!(count.unwrap(), 2);
    }

    #[tokio::test]
    async fn callers_that_wait_together_share_a_flush() {
        let (_folder, writer) = writer();
        let calls =
            (0..200).map(|n| writer.run(Durability::Flushed, move |c| c.execute("INSERT INTO t VALUES (?1)", [n])));
        let answers = futures_util::future::join_all(calls).await;
        assert!(answers.iter().all(Result::is_ok));
        let (_, flushes) = writer.commit_counts();
        assert!(flushes <= 200 / 16, "{flushes} flushes for 200 operations");
    }
}
