//! Backup files: creating, sending, receiving and checking them, and the daily backup of the
//! gallery. Their SQL is in `store`, the schedule and the update of the gallery in memory are in
//! `people`, and reading a damaged database is in `recovery`.
//!
//! A backup is one SQLite file. An incoming one is written to a file with a name of our own,
//! checked, and copied row by row into a clean database. Only that copy is used, so nothing changes
//! before the whole file has been read.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use crate::files::disk::free_bytes;
use crate::store::{
    self, Contents, DATABASE, ForeignError, LeftOut, NoBackup, Origin, Store, StoreError,
};

/// The daily backup of the gallery, in the state folder.
pub const GALLERY: &str = "gallery.backup";
/// Disk space that must stay free beside everything that is written.
const SPARE_BYTES: u64 = 16 << 20;
/// Prefix of files and folders that exist only while a backup is made or received.
const TEMPORARY: &str = ".backup-";
const CHUNK: usize = 64 << 10;
/// Bytes of an incoming file between two checks of the free disk space.
const LOOK: u64 = 16 << 20;
/// Length of the header that identifies an SQLite file and a backup.
const HEADER: usize = 100;

/// Reasons why a backup cannot be made or is refused.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file is not a kithd backup, or a newer kithd made it.
    #[error(transparent)]
    NoBackup(#[from] NoBackup),
    /// The schema or the size is not one that kithd writes.
    #[error("the backup is refused, nothing was changed: {0}")]
    Refused(String),
    /// The file is cut off or changed.
    #[error("the backup is damaged, nothing was changed: {0}")]
    Damaged(String),
    /// The file holds people only, but a restore replaces everything.
    #[error("the file has people only; add them with kithd people import (POST /v1/people/import)")]
    PeopleOnly,
    /// The disk has too little free space.
    #[error(
        "there is too little room on the disk of {folder}: it takes {needed} MiB and {free} MiB are free"
    )]
    NoRoom {
        /// The state folder.
        folder: PathBuf,
        /// MiB.
        needed: u64,
        /// MiB.
        free: u64,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file or folder could not be used.
    #[error("{what}: {source}")]
    Io {
        /// The file or folder.
        what: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The upload ended early.
    #[error("the backup arrived incomplete, nothing was changed: {0}")]
    BrokenOff(String),
    /// The thread that did the work panicked.
    #[error("the work on the backup panicked; the log says where")]
    Panicked,
}

impl BackupError {
    /// Returns true if the file is at fault, not the board.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::NoBackup(_)
                | Self::Refused(_)
                | Self::Damaged(_)
                | Self::PeopleOnly
                | Self::BrokenOff(_)
        )
    }
}

impl From<ForeignError> for BackupError {
    fn from(error: ForeignError) -> Self {
        match error {
            ForeignError::Refused(why) => Self::Refused(why),
            ForeignError::Damaged(why) => Self::Damaged(why),
            ForeignError::Store(error) => Self::Store(error),
        }
    }
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> BackupError {
    let what = what.into();
    |source| BackupError::Io { what, source }
}

/// A finished backup, ready to be sent. Its temporary file is already unlinked.
pub struct Backup {
    file: File,
    bytes: u64,
}

impl Backup {
    /// Copies the database, or only its people, as it is now. `person` limits the copy to one
    /// person.
    pub async fn make(
        store: &Store,
        state_dir: &Path,
        device: &str,
        contents: Contents,
        person: Option<i64>,
    ) -> Result<Self, BackupError> {
        let copy = copy(store, state_dir, device, contents, person).await?;
        let file = copy.reopen().map_err(io("the copy of the database"))?;
        let bytes = file
            .metadata()
            .map_err(io("the copy of the database"))?
            .len();
        Ok(Self { file, bytes })
    }

    /// Size of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the file.
    pub fn write_to(mut self, mut out: impl Write) -> std::io::Result<()> {
        std::io::copy(&mut self.file, &mut out)?;
        out.flush()
    }

    /// Returns the file's bytes for an HTTP response.
    pub fn stream(self) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
        ReaderStream::with_capacity(tokio::fs::File::from_std(self.file), CHUNK)
    }
}

async fn copy(
    store: &Store,
    state_dir: &Path,
    device: &str,
    contents: Contents,
    person: Option<i64>,
) -> Result<tempfile::NamedTempFile, BackupError> {
    let database = state_dir.join(DATABASE);
    let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    make_sure_of_room(
        state_dir,
        bytes(&database) + bytes(&database.with_extension("db-wal")),
    )?;
    // Only the owner may read it: it holds faces.
    let copy = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .tempfile_in(state_dir)
        .map_err(io("the state folder"))?;
    store
        .make_backup(copy.path().to_path_buf(), contents, device.into(), person)
        .await?;
    Ok(copy)
}

/// A received backup that was read completely, as a clean database in the state folder.
pub struct Received {
    /// The board and program that made it, and its contents.
    pub origin: Origin,
    /// Rows that were not taken.
    pub left_out: LeftOut,
    folder: TempDir,
}

impl Received {
    /// Writes an incoming file to the state folder and makes a clean database of it. `bytes` is its
    /// size if the sender gave one.
    pub async fn receive<E: std::fmt::Display>(
        state_dir: &Path,
        bytes: Option<u64>,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<Self, BackupError> {
        // Four copies: the file, the rows of the clean database, the journal, and the database
        // itself.
        make_sure_of_room(state_dir, bytes.unwrap_or(0).saturating_mul(4))?;
        let folder = folder(state_dir)?;
        let came = folder.path().join("came");
        let mut body = std::pin::pin!(body);
        let written = write(state_dir, &came, &mut body).await;
        if written.is_err() {
            // Read the body to its end: a client gets the answer only after it has sent everything.
            while let Some(Ok(_)) = body.next().await {}
        }
        written?;
        let state_dir = state_dir.to_path_buf();
        blocking(move || Self::check(&state_dir, &came, folder)).await
    }

    /// Makes a clean database of a backup file that is on this board.
    pub async fn own(state_dir: &Path, file: PathBuf) -> Result<Self, BackupError> {
        let state_dir = state_dir.to_path_buf();
        blocking(move || {
            let folder = folder(&state_dir)?;
            Self::check(&state_dir, &file, folder)
        })
        .await
    }

    fn check(state_dir: &Path, file: &Path, folder: TempDir) -> Result<Self, BackupError> {
        use std::io::Read;
        let mut header = Vec::new();
        let named = || io(file.display().to_string());
        let opened = File::open(file).map_err(named())?;
        let bytes = opened.metadata().map_err(named())?.len();
        opened
            .take(HEADER as u64)
            .read_to_end(&mut header)
            .map_err(named())?;
        let schema = store::check_header(&header)?;
        // Three copies: the rows of the clean database, the journal, and the database itself.
        make_sure_of_room(state_dir, bytes.saturating_mul(3))?;
        let (origin, left_out) = store::clean_copy(file, schema, &folder.path().join(DATABASE))?;
        Ok(Self {
            origin,
            left_out,
            folder,
        })
    }

    /// Path of the clean database, which exists as long as this value.
    pub fn clean(&self) -> PathBuf {
        self.folder.path().join(DATABASE)
    }
}

async fn write<E: std::fmt::Display>(
    state_dir: &Path,
    target: &Path,
    body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
) -> Result<(), BackupError> {
    let named = || io(target.display().to_string());
    let mut file = tokio::fs::File::create_new(target).await.map_err(named())?;
    let (mut written, mut looked, mut header) = (0_u64, 0, Vec::new());
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| BackupError::BrokenOff(error.to_string()))?;
        if header.len() < HEADER {
            header.extend_from_slice(&chunk[..chunk.len().min(HEADER - header.len())]);
            if header.len() == HEADER {
                // Refuse other files before gigabytes of them are written.
                store::check_header(&header)?;
            }
        }
        written += chunk.len() as u64;
        if written >= looked {
            make_sure_of_room(state_dir, LOOK + chunk.len() as u64)?;
            looked = written + LOOK;
        }
        file.write_all(&chunk).await.map_err(named())?;
    }
    file.flush().await.map_err(named())
}

/// Makes a temporary folder that only the owner can read.
pub fn folder(state_dir: &Path) -> Result<TempDir, BackupError> {
    tempfile::Builder::new()
        .prefix(TEMPORARY)
        .tempdir_in(state_dir)
        .map_err(io("the state folder"))
}

fn make_sure_of_room(state_dir: &Path, bytes: u64) -> Result<(), BackupError> {
    let needed = bytes.saturating_add(SPARE_BYTES);
    match free_bytes(state_dir) {
        Some(free) if free < needed => Err(BackupError::NoRoom {
            folder: state_dir.into(),
            needed: needed >> 20,
            free: free >> 20,
        }),
        _ => Ok(()),
    }
}

/// Removes temporary files of a backup that the end of the daemon interrupted.
pub fn sweep(state_dir: &Path) {
    for entry in std::fs::read_dir(state_dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            let path = entry.path();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if is_folder {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            if let Err(error) = removed {
                tracing::error!(
                    "{}, a temporary file of a backup, cannot be deleted: {error}",
                    path.display()
                );
            }
        }
    }
}

/// Writes the daily backup of the gallery. Returns false if the existing one is up to date.
pub async fn keep_gallery(
    store: &Store,
    state_dir: &Path,
    device: &str,
) -> Result<bool, BackupError> {
    let target = state_dir.join(GALLERY);
    // There is no person and no tombstone: an empty database must not replace a good backup.
    let Some(gallery) = store.gallery_fingerprint().await? else {
        return Ok(false);
    };
    let there = target.clone();
    let kept = blocking(move || Ok(store::origin(&there).ok())).await?;
    if kept.is_some_and(|kept| kept.contents == Contents::Gallery && kept.gallery == Some(gallery))
    {
        return Ok(false);
    }
    let file = copy(store, state_dir, device, Contents::Gallery, None).await?;
    let state_dir = state_dir.to_path_buf();
    blocking(move || {
        let named = || io(target.display().to_string());
        file.as_file().sync_all().map_err(named())?;
        file.persist(&target)
            .map_err(|error| named()(error.error))?;
        File::open(&state_dir)
            .and_then(|folder| folder.sync_all())
            .map_err(named())
    })
    .await?;
    Ok(true)
}

/// Runs disk work on a thread that may block.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| BackupError::Panicked)?
}
