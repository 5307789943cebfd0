//! The SQLite database of images, people and results.
//!
//! One writer thread owns the only writing connection. It takes the waiting operations and runs
//! each in a savepoint of one transaction: many callers share one flush (group commit), and work
//! that can be redone rides along. Reads use a few read-only connections and see committed data.
//! SQL appears only in this folder and in `migrations/`.

mod backup;
mod clustering;
mod damaged;
mod erase;
mod faces;
mod facts;
mod find;
mod fleet;
mod folders;
mod foreign;
mod frigate;
mod history;
mod images;
mod journal;
mod listing;
mod migrate;
mod missing;
mod notifications;
mod operator;
mod people;
mod rejected;
mod restore;
mod results;
mod retention;
mod sightings;
mod sources;
mod spool;
mod strangers;
mod timeline;
mod verification;
mod writer;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row};
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};

use crate::files::disk;
use crate::supervise::fault;
pub use backup::{Contents, NoBackup, Origin, check_header, clean_copy, origin};
pub use clustering::{Joined, Joining, UngroupedFace};
pub use damaged::{Waiting, empty_copy, people_of_damaged, waiting_of_damaged};
pub use faces::{CounterExample, PersonBeside, Relabel, StoredFace, counter_examples};
pub use find::ImageFilter;
pub use fleet::{Captured, Did, FleetCounts, Membership, Now, Question, RecordSum, Taken, Unsent};
pub use folders::EndedFile;
pub use foreign::{ForeignError, LeftOut};
pub use frigate::Unlabelled;
pub use history::{BreakerChange, HistoryRow};
pub use images::{End, Limits, NotAccepted, PutBack};
pub use journal::lost_in_journal;
pub use listing::{
    Counts, FaceBox, FaceRow, ImageDetail, ImageRow, counts, images as newest_images,
};
pub use missing::{Look, Looks};
pub use notifications::{DueNotification, Ending, NotificationStep, Readings, SeenSighting, Told};
pub use operator::ImageChange;
pub use people::{
    EnrolledPicture, GalleryRow, PersonChange, PersonPicture, PersonRow, Unembedded,
    complete_names, gallery, people,
};
pub use rejected::{NewRejected, REJECTED_BEGINNING, RejectedCaps, RejectedMessage};
pub use restore::{Amounts, amounts};
pub use results::UnsentResult;
use retention::RemovedCounts;
pub use retention::{Aged, Held, Kind, Oldest, Removed, Usage};
pub use sightings::{
    CLOSED, SeenFace, SeenImage, Sighting, SightingChange, StaleSighting, Telling, UnsentSighting,
};
use sources::CameraCounts;
pub use strangers::{Came, StrangerFace, StrangerId, StrangerRow};
#[cfg(test)]
pub use timeline::SeenPerson;
pub use timeline::{Latest, Seen, SightingFace, SightingFilter, SightingRow};
use writer::{Commit, Writer};

/// File name of the database inside the state folder.
pub const DATABASE: &str = "kithd.db";
const READERS: usize = 4;
/// Readers for lists and other slow queries; the rest stay free for quick ones.
const DEAR_READERS: usize = 2;
/// Each touched page is written in full, twice, so this is the smallest size there is. Only applies
/// to a new file.
const PAGE_BYTES: i64 = 512;
/// Journal size that triggers a checkpoint. A larger journal copies a page that changes often only
/// once, but a checkpoint blocks the writer, on an SD card for as long as this takes to write.
const JOURNAL_BYTES: i64 = 4 * 1024 * 1024;

/// Emergency reserve for a full disk: without space for its journal the database could not be
/// opened, and no page could say so.
const RESERVE: &str = "kithd.reserve";
const RESERVE_BYTES: u64 = 1024 * 1024;
/// Marker left by a run that met damage: the next start checks the whole database, however long
/// that takes.
const DOUBT: &str = "kithd.doubt";
/// Largest database that is checked in full at every start.
const LOOKED_THROUGH_BYTES: u64 = 128 * 1024 * 1024;
/// Tables the daemon cannot work without; of a larger database, only these are checked.
const NEEDED: [&str; 8] = [
    "person",
    "person_images",
    "person_embeddings",
    "counter_examples",
    "erased",
    "merged",
    "facts",
    "outbox",
];

/// Enough for a journal of a few pages and its index.
const LEAST_RESERVE_BYTES: u64 = 64 * 1024;

/// Database error, worded for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A newer kithd wrote it.
    #[error(
        "{path} was written by a newer kithd (schema {found}, this one knows {known}); install \
         that version or restore the copy beside it"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema number.
        found: i64,
        /// Newest schema this program knows.
        known: i64,
    },
    /// A version from before the first release made it.
    #[error(
        "{path} was made by a development version of kithd (schema {found}), which this one cannot \
         read; move it out of the state folder, start kithd, and enrol people again"
    )]
    Development {
        /// The database.
        path: PathBuf,
        /// Its schema number.
        found: i64,
    },
    /// SQLite's locks do not hold on network filesystems.
    #[error(
        "{path} is on a network filesystem ({kind}), where SQLite can lose data; put the state \
         folder on a local disk"
    )]
    NetworkFilesystem {
        /// The state folder.
        path: PathBuf,
        /// NFS, SMB, …
        kind: &'static str,
    },
    /// No space left.
    #[error("the disk that holds the database is full; free some space")]
    DiskFull,
    /// The disk fails, is read-only or gone.
    #[error("{0}")]
    Disk(&'static str),
    /// The file is damaged.
    #[error("the database is damaged: {0}")]
    Corrupt(String),
    /// The transaction that carried the operation could not be committed.
    #[error("the database could not commit: {0}")]
    Commit(String),
    /// Any other SQLite error.
    #[error("database: {0}")]
    Sqlite(rusqlite::Error),
    /// The folder or file is unusable.
    #[error("{path}: {source}")]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// The writer thread has ended.
    #[error("the database is closed")]
    Closed,
    /// Our own code panicked; the operation left no trace.
    #[error("{0}")]
    Fault(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        if error
            .sqlite_error()
            .is_some_and(|error| error.extended_code == SQLITE_IOERR_SHMSIZE)
        {
            return Self::DiskFull;
        }
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::DiskFull,
            Some(rusqlite::ErrorCode::ReadOnly) => Self::Disk(disk::READ_ONLY),
            Some(rusqlite::ErrorCode::SystemIoFailure) => Self::Disk(disk::FAILING),
            Some(rusqlite::ErrorCode::CannotOpen) => Self::Disk(disk::GONE),
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                Self::Corrupt(error.to_string())
            }
            _ => Self::Sqlite(error),
        }
    }
}

impl StoreError {
    /// Repeats the error for the next caller of the same transaction.
    fn again(&self) -> Self {
        match self {
            Self::DiskFull => Self::DiskFull,
            Self::Disk(why) => Self::Disk(why),
            Self::Commit(why) => Self::Commit(why.clone()),
            other => Self::Commit(other.to_string()),
        }
    }
}

/// Handle to the database; clones share it.
#[derive(Clone)]
pub struct Store {
    writer: Writer,
    readers: Arc<Readers>,
    removed: Arc<RemovedCounts>,
    cameras: Arc<CameraCounts>,
    damage: watch::Sender<Option<String>>,
    /// Number of live [`ClaimsHeld`] guards.
    holding: Arc<AtomicUsize>,
    /// Who is who in the fleet, once it was asked for.
    fleet: Arc<Mutex<Option<fleet::Known>>>,
}

/// Guard that blocks claims while it lives.
pub struct ClaimsHeld(Arc<AtomicUsize>);

impl Drop for ClaimsHeld {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Readers {
    path: PathBuf,
    /// Device and inode of the open file.
    file: (u64, u64),
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    dear: Semaphore,
}

impl Store {
    /// Opens or creates `kithd.db` in `folder`, migrates it and starts the writer thread.
    ///
    /// A damaged file is moved aside, and `crate::recovery` recovers its content. The second value
    /// is a banner that says so, for as long as the damaged file is there.
    pub fn open(folder: &Path) -> Result<(Self, Option<String>), StoreError> {
        refuse_network_filesystem(folder)?;
        let path = folder.join(DATABASE);
        let connection = match open_whole(folder, &path) {
            Err(StoreError::Corrupt(why)) => {
                tracing::error!("the database is damaged and is moved aside: {why}");
                migrate::set_aside(folder)?;
                open_writable(&path)?
            }
            Err(StoreError::DiskFull) if std::fs::remove_file(folder.join(RESERVE)).is_ok() => {
                open_writable(&path)?
            }
            opened => opened?,
        };
        // Usually there is none.
        let _ = std::fs::remove_file(folder.join(DOUBT));
        keep_reserve(folder, false);
        let reader = |_| {
            let reader = open_read_only(&path)?;
            // The first query opens the journal, so that readers keep working if the folder
            // disappears.
            reader.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
            Ok::<_, StoreError>(reader)
        };
        let idle = (0..READERS).map(reader).collect::<Result<_, _>>()?;
        let (permits, dear) = (
            Arc::new(Semaphore::new(READERS)),
            Semaphore::new(DEAR_READERS),
        );
        let file = identity(&path).map_err(|source| StoreError::Io {
            path: path.clone(),
            source,
        })?;
        let banner = damaged::damaged_banner(&connection, folder)?;
        let marker = folder.join(journal::OPEN);
        // Without it a journal that goes missing is not noticed; nothing else depends on it.
        let _ = std::fs::write(&marker, "");
        let store = Self {
            writer: Writer::start(connection, marker)?,
            readers: Arc::new(Readers {
                path,
                file,
                idle: Mutex::new(idle),
                permits,
                dear,
            }),
            removed: Arc::default(),
            cameras: Arc::default(),
            damage: watch::Sender::default(),
            holding: Arc::default(),
            fleet: Arc::default(),
        };
        Ok((store, banner))
    }

    /// Returns the state folder.
    fn state_dir(&self) -> &Path {
        self.readers.path.parent().unwrap_or(Path::new(""))
    }

    /// Blocks claims until the guard is dropped.
    pub fn hold_claims(&self) -> ClaimsHeld {
        self.holding.fetch_add(1, Ordering::SeqCst);
        ClaimsHeld(Arc::clone(&self.holding))
    }

    /// Returns whether claims are blocked.
    pub fn claims_are_held(&self) -> bool {
        self.holding.load(Ordering::SeqCst) > 0
    }

    /// Returns damaged databases that were moved aside and are still in the state folder, by file
    /// name and number.
    pub fn damaged_files(&self) -> Vec<(String, u32)> {
        migrate::damaged(self.state_dir())
    }

    /// Returns the copies of the database that migrations made.
    pub fn copies_before(&self) -> Vec<PathBuf> {
        migrate::copies_before(self.state_dir())
    }

    /// Completes with SQLite's message once the database turns out to be damaged in use; the next
    /// start checks all of it.
    pub async fn damaged(&self) -> String {
        let mut damage = self.damage.subscribe();
        match damage
            .wait_for(Option::is_some)
            .await
            .map(|why| why.clone())
        {
            Ok(Some(why)) => why,
            // Unreachable: `self` owns the sender.
            _ => std::future::pending().await,
        }
    }

    fn note_damage<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Corrupt(why)) = &answer {
            let doubt = self.state_dir().join(DOUBT);
            if let Err(error) = std::fs::write(&doubt, "") {
                tracing::error!("{}: {error}", doubt.display());
            }
            self.damage
                .send_if_modified(|damage| damage.replace(why.clone()).is_none());
        }
        answer
    }

    /// Compares the open file with the one in the state folder. A deleted file still accepts rows,
    /// but they are lost.
    pub fn place(&self) -> Place {
        match identity(&self.readers.path) {
            Ok(found) if found == self.readers.file => Place::There,
            Ok(_) => Place::Replaced,
            Err(_) => Place::Gone,
        }
    }

    /// Returns the size of the journal.
    pub fn journal_bytes(&self) -> u64 {
        journal_bytes(self.state_dir())
    }

    /// Opens an existing database read-only; `None` when there is none yet.
    pub fn open_for_reading(folder: &Path) -> Result<Option<Connection>, StoreError> {
        let path = folder.join(DATABASE);
        if path.exists() {
            open_read_only(&path).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Notifies on every commit.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.writer.changes()
    }

    /// Notifies as soon as an operation is done, for tasks that go on through the writer.
    pub fn work(&self) -> watch::Receiver<u64> {
        self.writer.work()
    }

    /// Returns whether the writer thread still runs; waits until it responds.
    pub async fn answers(&self) -> bool {
        !matches!(
            self.write(Commit::None, |_| Ok(())).await,
            Err(StoreError::Closed)
        )
    }

    /// Returns the number of commits so far, each of which waited for the disk.
    pub fn commits(&self) -> u64 {
        self.writer.commits()
    }

    /// Returns once all earlier operations are committed, which is when readers see them.
    pub async fn settle(&self) -> Result<(), StoreError> {
        self.write(Commit::Durable, |_| Ok(())).await
    }

    /// Runs a read that sees all earlier operations.
    async fn read_latest<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.settle().await?;
        self.read(query).await
    }

    async fn write<T, F>(&self, commit: Commit, operation: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let answer = self.writer.run(commit, operation).await;
        self.note_damage(answer)
    }

    async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let readers = Arc::clone(&self.readers);
        let permit = Arc::clone(&readers.permits)
            .acquire_owned()
            .await
            .map_err(|_| StoreError::Closed)?;
        let task = tokio::task::spawn_blocking(move || {
            // The thread holds the permit: a caller that goes away must not free it while its query
            // still runs.
            let _permit = permit;
            let idle = readers.idle.lock().pop();
            // A connection is missing only after a query panicked with it.
            let connection = idle.map_or_else(|| open_read_only(&readers.path), Ok)?;
            let answer = query(&connection);
            readers.idle.lock().push(connection);
            Ok(answer?)
        });
        let answer = task.await.map_err(|broken| match broken.try_into_panic() {
            Ok(panic) => StoreError::Fault(fault(panic.as_ref())),
            Err(_) => StoreError::Closed,
        })?;
        self.note_damage(answer)
    }

    /// Runs a slow read. Cheap reads do not queue behind slow ones.
    async fn read_dear<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let _turn = self
            .readers
            .dear
            .acquire()
            .await
            .map_err(|_| StoreError::Closed)?;
        self.read(query).await
    }

    /// Waits until everything handed over is committed, then closes the file with an empty journal.
    pub async fn close(self) {
        self.readers.permits.close();
        self.readers.idle.lock().clear();
        self.writer.clone().stop().await;
        // The emptied journal has freed disk space that the next start needs; reserve it before
        // others fill the disk.
        keep_reserve(self.state_dir(), true);
    }
}

/// Moves an empty or missing database aside as damaged, when the caller knows that there was one.
/// Opening it would create a new one whose rows account for nothing.
pub fn set_lost_aside(folder: &Path) -> Result<(), StoreError> {
    let path = folder.join(DATABASE);
    let bytes = std::fs::metadata(&path).map(|file| file.len());
    let missing = bytes
        .as_ref()
        .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    if !missing && !matches!(bytes, Ok(0)) {
        return Ok(());
    }
    tracing::error!(
        "{} is {}",
        path.display(),
        if missing { "missing" } else { "empty" }
    );
    if missing {
        // An empty placeholder, so that the file moved aside tells the operator and triggers
        // recovery.
        std::fs::write(&path, "").map_err(|source| StoreError::Io {
            path: path.clone(),
            source,
        })?;
    }
    migrate::set_aside(folder)
}

/// Opens a database and checks it as far as time allows.
fn open_whole(folder: &Path, path: &Path) -> Result<Connection, StoreError> {
    let bytes = std::fs::metadata(path).map_or(0, |file| file.len());
    let connection = open_writable(path)?;
    if bytes <= LOOKED_THROUGH_BYTES || folder.join(DOUBT).exists() {
        migrate::check_and_reindex(&connection, None)?;
    } else {
        NEEDED
            .iter()
            .try_for_each(|table| migrate::check_and_reindex(&connection, Some(table)))?;
    }
    Ok(connection)
}

/// Opens a database for writing; a new one gets its tables, an older one their present form.
pub fn open_writable(path: &Path) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // Each commit is on disk when it returns.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Rollback data of savepoints stays in memory instead of a temporary file.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // Erasure is final: freed pages are overwritten.
    connection.pragma_update(None, "secure_delete", true)?;
    let page_bytes: i64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    connection.pragma_update(None, "wal_autocheckpoint", JOURNAL_BYTES / page_bytes)?;
    connection.pragma_update(None, "journal_size_limit", 4 * JOURNAL_BYTES)?;
    migrate::migrate(&mut connection, path)?;
    Ok(connection)
}

/// State of the database's path in the state folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The open file.
    There,
    /// A different file.
    Replaced,
    /// No file.
    Gone,
}

fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Returns the size of the journal in a state folder.
pub fn journal_bytes(folder: &Path) -> u64 {
    std::fs::metadata(folder.join(format!("{DATABASE}-wal"))).map_or(0, |file| file.len())
}

/// Returns a warning about a journal of this size, if it is too large. It is truncated once no
/// reader uses it.
pub fn journal_trouble(bytes: u64) -> Option<String> {
    (bytes > 4 * JOURNAL_BYTES as u64).then(|| {
        format!(
            "the journal of the database has grown to {} MiB: another program holds {DATABASE} open and keeps it from being \
             emptied; fuser -v {DATABASE} in the state folder names it, end it",
            bytes >> 20
        )
    })
}

/// Result of `kithd doctor` for a database.
#[derive(Debug)]
pub struct LookedThrough {
    /// Schema number.
    pub schema: i64,
    /// File size.
    pub bytes: u64,
    /// Damaged databases moved aside, beside it.
    pub damaged: Vec<String>,
}

/// Checks a whole database read-only; `None` when there is none yet.
pub fn look_through(folder: &Path) -> Result<Option<LookedThrough>, StoreError> {
    let path = folder.join(DATABASE);
    let bytes = match std::fs::metadata(&path) {
        Ok(file) => file.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::Io { path, source }),
    };
    let connection = open_read_only(&path)?;
    let found = migrate::user_version(&connection)?;
    migrate::check_schema(&path, found)?;
    migrate::check(&connection, None)?;
    let damaged = migrate::damaged(folder)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    Ok(Some(LookedThrough {
        schema: found,
        bytes,
        damaged,
    }))
}

/// Allocates the emergency reserve: at most a quarter of the free space, or, when the space was
/// freed by this very program (`own`), as much as possible.
fn keep_reserve(folder: &Path, own: bool) {
    // An existing reserve is kept.
    let opened = std::fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join(RESERVE));
    let Ok(file) = opened else { return };
    let free =
        rustix::fs::statvfs(folder).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    let sizes = [RESERVE_BYTES, RESERVE_BYTES / 4, LEAST_RESERVE_BYTES].into_iter();
    for bytes in sizes.filter(|bytes| own || *bytes <= free / 4) {
        if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).is_ok() {
            return;
        }
    }
    // The file stays empty, which does no harm.
}

fn open_read_only(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    find::add_name_search(&connection)?;
    Ok(connection)
}

/// Fails when the folder is on a network filesystem or cannot be examined.
pub fn refuse_network_filesystem(folder: &Path) -> Result<(), StoreError> {
    let stat = rustix::fs::statfs(folder).map_err(|error| StoreError::Io {
        path: folder.into(),
        source: error.into(),
    })?;
    match network_filesystem(stat.f_type as u32) {
        Some(kind) => Err(StoreError::NetworkFilesystem {
            path: folder.into(),
            kind,
        }),
        None => Ok(()),
    }
}

/// Returns the name of a network filesystem by its magic number (statfs(2)).
fn network_filesystem(magic: u32) -> Option<&'static str> {
    match magic {
        0x6969 => Some("NFS"),
        0x517B => Some("SMB"),
        0xFF53_4D42 => Some("CIFS"),
        0xFE53_4D42 => Some("SMB2"),
        0x0187 => Some("autofs"),
        _ => None,
    }
}

/// Encodes a vector as little-endian float32 with a checksum: a flipped bit on the disk must not
/// make another face.
pub fn vector_to_blob(vector: &[f32]) -> Vec<u8> {
    let mut blob: Vec<u8> = vector
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let seal = seal(&blob);
    blob.extend(seal);
    blob
}

/// Decodes a vector; a damaged one becomes empty, like an erased one.
pub fn blob_to_vector(blob: &[u8]) -> Vec<f32> {
    match blob.split_last_chunk() {
        Some((values, found)) if *found == seal(values) => values
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect(),
        _ => Vec::new(),
    }
}

fn seal(values: &[u8]) -> [u8; 4] {
    let sum = Sha256::digest(values);
    [sum[0], sum[1], sum[2], sum[3]]
}

/// Reads a text column of any content: one damaged row must not stop a query over all.
fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    Ok(text_if_any(row, column)?.unwrap_or_default())
}

/// SQL for the candidates of a face; none in a damaged row.
const CANDIDATES: &str = "iif(json_valid(faces.candidates), faces.candidates, '[]')";

/// Collects the rows that can be read, and skips damaged ones.
fn readable<T>(rows: impl Iterator<Item = rusqlite::Result<T>>) -> rusqlite::Result<Vec<T>> {
    let mut spoilt = 0;
    let rows = rows.filter(|row| {
        let bad = row.as_ref().is_err_and(is_spoilt);
        spoilt += usize::from(bad);
        !bad
    });
    let rows = rows.collect();
    if spoilt > 0 {
        tracing::error!("{spoilt} rows of the database are damaged and are left out");
    }
    rows
}

/// Returns whether the error concerns one row: a value of the wrong type.
fn is_spoilt(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{
        FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error,
    };
    matches!(
        error,
        FromSqlConversionFailure(..)
            | IntegralValueOutOfRange(..)
            | InvalidColumnType(..)
            | Utf8Error(..)
    )
}

fn text_if_any(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            Some(String::from_utf8_lossy(bytes).into_owned())
        }
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Null => None,
    })
}

#[cfg(test)]
pub(crate) mod fixtures;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn cheap_reads_do_not_wait_behind_dear_ones() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        let (let_go, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let dear: Vec<_> = (0..60)
            .map(|_| {
                let (store, held) = (store.clone(), Arc::clone(&held));
                tokio::spawn(async move { store.read_dear(move |_| Ok(held.lock().recv())).await })
            })
            .collect();
        while store.readers.permits.available_permits() > READERS - DEAR_READERS {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            assert_eq!(store.counts().await.unwrap().pending, 0);
        }
        drop(let_go);
        for one in dear {
            assert!(one.await.unwrap().is_ok());
        }
    }

    #[tokio::test]
    async fn a_reader_that_does_not_end_is_seen_by_the_journals_size() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        assert_eq!(journal_trouble(store.journal_bytes()), None);
        let reader = Store::open_for_reading(folder.path()).unwrap().unwrap();
        reader
            .execute_batch("BEGIN; SELECT count(*) FROM facts")
            .unwrap();
        for n in 0..20 {
            store
                .set_fact(&format!("large {n}"), "x".repeat(1 << 20))
                .await
                .unwrap();
        }
        let said = journal_trouble(store.journal_bytes()).unwrap_or_default();
        assert!(said.contains("fuser -v kithd.db"), "{said}");
        reader.execute_batch("COMMIT").unwrap();
        store.empty_journal().await.unwrap();
        assert_eq!(journal_trouble(store.journal_bytes()), None);
    }

    #[test]
    fn an_error_of_the_disk_is_said_with_its_remedy() {
        let said = |code| {
            let error = rusqlite::ffi::Error::new(code);
            let message = Some("disk I/O error".to_string());
            StoreError::from(rusqlite::Error::SqliteFailure(error, message)).to_string()
        };
        use rusqlite::ffi::{
            SQLITE_CANTOPEN, SQLITE_IOERR_FSYNC, SQLITE_IOERR_READ, SQLITE_IOERR_WRITE,
            SQLITE_READONLY, SQLITE_READONLY_DBMOVED,
        };
        for (codes, sentence) in [
            (
                &[SQLITE_IOERR_READ, SQLITE_IOERR_WRITE, SQLITE_IOERR_FSYNC][..],
                disk::FAILING,
            ),
            (&[SQLITE_READONLY], disk::READ_ONLY),
            (&[SQLITE_CANTOPEN], disk::GONE),
        ] {
            for &code in codes {
                assert_eq!(said(code), sentence, "{code}");
            }
        }
        assert!(!said(SQLITE_READONLY_DBMOVED).contains("I/O error"));
    }

    #[test]
    fn the_file_that_is_open_is_told_from_another_and_from_none() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        let path = folder.path().join(DATABASE);
        assert_eq!(store.place(), Place::There);
        std::fs::rename(&path, folder.path().join("away")).unwrap();
        assert_eq!(store.place(), Place::Gone);
        std::fs::write(&path, "").unwrap();
        assert_eq!(store.place(), Place::Replaced);
        std::fs::rename(folder.path().join("away"), &path).unwrap();
        assert_eq!(store.place(), Place::There);
    }

    #[test]
    fn a_vector_with_any_bit_turned_or_cut_off_is_none() {
        let blob = vector_to_blob(&[1.0, -0.5, 3.25]);
        assert_eq!(blob_to_vector(&blob), [1.0, -0.5, 3.25]);
        for bit in 0..blob.len() * 8 {
            let mut damaged = blob.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(blob_to_vector(&damaged).is_empty(), "bit {bit}");
        }
        for length in 0..blob.len() {
            assert!(blob_to_vector(&blob[..length]).is_empty(), "{length} bytes");
        }
    }

    #[tokio::test]
    async fn rows_a_disk_has_spoilt_cost_themselves_only() {
        let folder = tempfile::tempdir().unwrap();
        let store = fixtures::store(folder.path()).await;
        let ann = fixtures::enroll(&store, "Ann", "a", [1.0, 0.0]).await;
        let bob = fixtures::enroll(&store, "Bob", "b", [0.0, 1.0]).await;
        for (id, person) in [(1, ann), (2, bob)] {
            fixtures::run(
                &store,
                &fixtures::image(id, "known", Some(person), &[person], [0.1, 0.2]),
            )
            .await;
        }
        fixtures::run(
            &store,
            "INSERT INTO images (id, source, path, attempts, accepted_at_ms) VALUES
               (11, 'http', CAST(x'2fff' AS TEXT), 0, 1), (12, 'http', '/a', -7, 1), (13, 'http', '/b', 0, 1);
             UPDATE images SET camera = CAST(x'ff' AS TEXT), event = CAST(x'fe' AS TEXT) WHERE id = 13;
             UPDATE person SET name = CAST(x'41ff' AS TEXT) WHERE name = 'Ann';
             UPDATE faces SET candidates = '[[' || candidates, bounds = CAST(x'ff' AS TEXT) WHERE image_id = 1;
             INSERT INTO outbox (id, people, payload)
               SELECT id, CAST(x'ff' AS TEXT), CAST(x'7bff' AS TEXT) FROM results WHERE image_id = 1;
             INSERT INTO outbox (id) SELECT id FROM results WHERE image_id = 2;
             INSERT INTO folders VALUES (1, '/in', 0);
             INSERT INTO seen VALUES (1, x'01', 1, 1, NULL), (1, zeroblob(16), 1, 1, NULL);
             INSERT INTO history VALUES (1, -1, 0, 0, 0, '', NULL), (2, 1, 1, 1, 0, CAST(x'ff' AS TEXT), NULL);
             INSERT INTO person_embeddings SELECT id, 't', x'00' FROM person_images;",
        )
        .await;
        let claimed: Vec<_> = store
            .claim(10, true, 5)
            .await
            .unwrap()
            .0
            .iter()
            .map(|image| image.id)
            .collect();
        assert_eq!(claimed, [11, 13]);
        store.settle().await.unwrap();
        let row = store.image(12).await.unwrap().unwrap().image;
        assert_eq!(
            (row.state.as_str(), row.reason.as_deref()),
            ("failed", Some("its row in the database is damaged"))
        );
        let names: Vec<_> = store
            .people_after(None, 10)
            .await
            .unwrap()
            .into_iter()
            .map(|row| row.name)
            .collect();
        assert_eq!(names, ["A\u{fffd}", "Bob"]);
        assert_eq!(store.gallery("s".into()).await.unwrap().len(), 2);
        assert!(
            store
                .gallery("t".into())
                .await
                .unwrap()
                .iter()
                .all(|row| row.embedding.is_empty())
        );
        assert_eq!(store.take_unsent(10, "board").await.unwrap().len(), 2);
        assert_eq!(store.seen(1).await.unwrap().len(), 1);
        assert_eq!(store.history(0, 9).await.unwrap().len(), 1);
        // Another person can still be erased.
        store.erase_person(bob).await.unwrap();
        store
            .erase_from_results(&store.erasing().await.unwrap())
            .await
            .unwrap();
        for id in [1, 2] {
            assert!(store.image(id).await.unwrap().is_some());
        }
        // The person with the damaged candidate list can be erased too.
        assert!(store.erase_person(ann).await.unwrap());
    }

    /// The refusal says what to do.
    #[test]
    fn the_database_is_refused_on_network_filesystems_only() {
        let refusal = |kind| {
            StoreError::NetworkFilesystem {
                path: "/mnt/nas".into(),
                kind,
            }
            .to_string()
        };
        for (magic, kind) in [
            (0x6969, "NFS"),
            (0xFF53_4D42, "CIFS"),
            (0xFE53_4D42, "SMB2"),
        ] {
            let kind = network_filesystem(magic)
                .filter(|found| *found == kind)
                .unwrap();
            assert!(
                refusal(kind).contains("put the state folder on a local disk"),
                "{}",
                refusal(kind)
            );
        }
        // ext4, btrfs, F2FS, tmpfs, overlayfs
        for magic in [0xEF53, 0x9123_683E, 0xF2F5_2010, 0x0102_1994, 0x794C_7630] {
            assert_eq!(network_filesystem(magic), None, "{magic:x}");
        }
        let folder = tempfile::tempdir().unwrap();
        assert!(Store::open(folder.path()).is_ok());
    }
}
