//! Backup files: how one is made, handed out, received and checked, and the gallery's own daily
//! one. Their SQL is `store`'s; when, and what follows for the gallery in memory, is
//! `recognition`'s; what comes back of a damaged database is `recovery`'s.
//!
//! A backup is one SQLite file. One that comes in is written to a file with a name of ours, looked
//! through, and copied row by row into a clean database; only that is taken from, so that nothing
//! is changed before all of it has been read.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use crate::status::disk::free_bytes;
use crate::store::{
    self, Contents, DATABASE, ForeignError, LeftOut, NoBackup, Origin, Store, StoreError,
};

/// The gallery's own backup, in the state folder.
pub const GALLERY: &str = "gallery.backup";
/// Left free beside all that is written.
const SPARE_BYTES: u64 = 16 << 20;
/// Begins the names of what is only there while a backup is made or taken in.
const TEMPORARY: &str = ".backup-";
const CHUNK: usize = 64 << 10;
/// Bytes of an incoming file between two looks at the room there is.
const LOOK: u64 = 16 << 20;
/// What tells SQLite files, and backups among them, from others.
const HEADER: usize = 100;

/// Why there is no backup, or why it is not taken in.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Not made by us, or by a newer program.
    #[error(transparent)]
    NoBackup(#[from] NoBackup),
    /// Its schema or its size is not what we make.
    #[error("the backup is refused, nothing was changed: {0}")]
    Refused(String),
    /// Cut off or changed.
    #[error("the backup is damaged, nothing was changed: {0}")]
    Damaged(String),
    /// It has people only, where everything is to be replaced.
    #[error("the file has people only; add them with kithd people import (POST /v1/people/import)")]
    PeopleOnly,
    /// Too little room.
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
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file or folder.
    #[error("{what}: {source}")]
    Io {
        /// What could not be done.
        what: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file did not come whole.
    #[error("the backup did not come whole, nothing was changed: {0}")]
    BrokenOff(String),
    /// The thread that did it panicked.
    #[error("the work on the backup panicked; the log says where")]
    Panicked,
}

impl BackupError {
    /// Whether the file is at fault, not the board.
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

/// A backup that was made and is ready to be written elsewhere. Its file has no name any more.
pub struct Backup {
    file: File,
    bytes: u64,
}

impl Backup {
    /// Copies the database, or people of it, as it is now. `person`: of them alone.
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

    /// The file's bytes, for an answer by HTTP.
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
    // Readable by nobody else: it holds faces.
    let copy = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .tempfile_in(state_dir)
        .map_err(io("the state folder"))?;
    store
        .make_backup(copy.path().to_path_buf(), contents, device.into(), person)
        .await?;
    Ok(copy)
}

/// A backup that was read and found whole, as a clean database beside the state it is to be taken
/// into.
pub struct Received {
    /// Where it comes from, and what is in it.
    pub origin: Origin,
    /// Rows that stay out.
    pub left_out: LeftOut,
    folder: TempDir,
}

impl Received {
    /// Writes a file that comes in to the state folder and makes a clean database of it. `bytes`:
    /// how large it is, where the sender says so.
    pub async fn receive<E: std::fmt::Display>(
        state_dir: &Path,
        bytes: Option<u64>,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<Self, BackupError> {
        // As a file, as rows of the clean copy, in the journal, and in the database itself.
        make_sure_of_room(state_dir, bytes.unwrap_or(0).saturating_mul(4))?;
        let folder = folder(state_dir)?;
        let came = folder.path().join("came");
        let mut body = std::pin::pin!(body);
        let written = write(state_dir, &came, &mut body).await;
        if written.is_err() {
            // Heard to its end: who sends it hears the answer only then.
            while let Some(Ok(_)) = body.next().await {}
        }
        written?;
        let state_dir = state_dir.to_path_buf();
        blocking(move || Self::check(&state_dir, &came, folder)).await
    }

    /// Makes a clean database of a backup of this board's own.
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
        // Once as rows of the clean copy, once more in the journal, and in the database itself.
        make_sure_of_room(state_dir, bytes.saturating_mul(3))?;
        let (origin, left_out) = store::clean_copy(file, schema, &folder.path().join(DATABASE))?;
        Ok(Self {
            origin,
            left_out,
            folder,
        })
    }

    /// The clean database, there as long as this is.
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
                // What is none is not written in gigabytes.
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

/// A folder that nobody else can look into.
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

/// Removes what a backup left behind that was broken off by the end of the daemon.
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
                    "{} is left of a backup and cannot be deleted: {error}",
                    path.display()
                );
            }
        }
    }
}

/// Writes the gallery's own backup, unless it says already what there is to say. True: it was
/// written.
pub async fn keep_gallery(
    store: &Store,
    state_dir: &Path,
    device: &str,
) -> Result<bool, BackupError> {
    let target = state_dir.join(GALLERY);
    // Nobody, not even a tombstone: a database that never knew anybody takes nobody's place.
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

/// Does what waits for the disk on a thread that may.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| BackupError::Panicked)?
}
