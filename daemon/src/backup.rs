//! Backups: one file with the database and the kept enrolment pictures, made, checked and taken back in; the gallery's own
//! daily backup; and what can be had back when the database was damaged. SQL is `store`'s; when, and what follows for the
//! gallery in memory, is `recognition`'s.
//!
//! The file is a plain tar: `manifest.json` first, with size and sha256 of all that follows, then `kithd.db`, then
//! `people/<sha256>`. Nothing is changed before all of it has been read and found to be what the manifest says.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::disk::free_bytes;
use crate::domain::{hex, wall_clock_ms};
use crate::spool;
use crate::store::{
    DATABASE, PictureFile, RestoredGallery, RestoredImages, Salvage, Store, StoreError, gallery_is_whole, prepare_copy,
    schema, set_lost_aside,
};

/// The gallery's own backup, in the state folder.
pub const GALLERY: &str = "gallery.backup";
const MANIFEST: &str = "manifest.json";
/// Of the kept enrolment pictures, in the file as in the state folder.
const PEOPLE: &str = "people";
const FORMAT: u32 = 1;
/// A manifest of a hundred thousand pictures has a tenth of this.
const MANIFEST_BYTES: u64 = 128 << 20;
/// Left free beside all that is written.
const SPARE_BYTES: u64 = 16 << 20;
/// Begins the names of what is only there while a backup is made or taken in.
const TEMPORARY: &str = ".backup-";
const BLOCK: u64 = 512;
const CHUNK: usize = 64 << 10;
const CHUNKS_UNDER_WAY: usize = 8;

/// Why there is no backup, or why it is not taken in.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Not made by us.
    #[error("this is no backup of kithd: {0}")]
    Foreign(String),
    /// Cut off or changed.
    #[error("the backup is damaged, nothing was changed: {0}")]
    Damaged(String),
    /// Made by a newer program.
    #[error(
        "the backup was made by kithd {version} with schema {found}, this one knows {known}; install that version first"
    )]
    Newer {
        /// Who made it.
        version: String,
        /// Its schema.
        found: i64,
        /// The newest this program knows.
        known: i64,
    },
    /// Too little room.
    #[error("there is too little room on the disk of {folder}: it takes {needed} MiB and {free} MiB are free")]
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
    /// The thread that did it panicked.
    #[error("the backup was broken off")]
    BrokenOff,
}

impl BackupError {
    /// Whether the file is at fault, not the board.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Foreign(_) | Self::Damaged(_) | Self::Newer { .. })
    }
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> BackupError {
    let what = what.into();
    |source| BackupError::Io { what, source }
}

/// What is in a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contents {
    /// The whole database, and the pictures people were enrolled from.
    Everything,
    /// People, pictures, embeddings, counter-examples and tombstones.
    Gallery,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Manifest {
    /// Of the format; also what tells a backup from any other file.
    kithd_backup: u32,
    version: String,
    schema: i64,
    device: String,
    created_at_ms: i64,
    contents: Contents,
    /// Changes when the gallery does.
    gallery: Option<String>,
    members: Vec<Member>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Member {
    name: String,
    bytes: u64,
    sha256: String,
}

/// A backup that was made and is ready to be written somewhere.
pub struct Backup {
    manifest: Manifest,
    head: Vec<u8>,
    state_dir: PathBuf,
    /// Has no name any more: gone with the last who reads it.
    database: File,
}

impl Backup {
    /// Copies the database, or of it the gallery, and sums up what there is. Nobody may enrol or erase meanwhile.
    pub async fn make(store: &Store, state_dir: &Path, device: &str, contents: Contents) -> Result<Self, BackupError> {
        let database = state_dir.join(DATABASE);
        let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        let needed = match contents {
            Contents::Everything => bytes(&database) + bytes(&database.with_extension("db-wal")),
            Contents::Gallery => 0,
        };
        make_sure_of_room(state_dir, needed)?;
        let gallery = store.gallery_fingerprint().await?;
        let copy = temporary(state_dir)?.into_temp_path();
        match contents {
            Contents::Everything => store.copy_to(copy.to_path_buf()).await?,
            Contents::Gallery => store.copy_gallery_to(copy.to_path_buf()).await?,
        }
        let pictures = store.enrolment_files().await?;
        let (state_dir, device) = (state_dir.to_path_buf(), device.to_string());
        blocking(move || {
            let mut database = File::open(&copy).map_err(io("the copy of the database"))?;
            copy.close().map_err(io("the copy of the database"))?;
            let mut members = vec![sum_up(DATABASE.into(), &mut database).map_err(io("the copy of the database"))?];
            let mut pictures: Vec<_> = pictures.into_iter().collect();
            pictures.sort();
            for name in pictures {
                // What the disk has lost must not keep the rest from being saved; the row has its embedding.
                let read = File::open(state_dir.join(&name)).and_then(|mut file| sum_up(name.clone(), &mut file));
                match read {
                    Ok(member) if member.name == format!("{PEOPLE}/{}", member.sha256) => members.push(member),
                    Ok(_) => tracing::error!("{name} is damaged and is left out of the backup"),
                    Err(error) => tracing::error!("{name} is left out of the backup: {error}"),
                }
            }
            let manifest = Manifest {
                kithd_backup: FORMAT,
                version: env!("CARGO_PKG_VERSION").into(),
                schema: schema(),
                device,
                created_at_ms: wall_clock_ms(),
                contents,
                gallery,
                members,
            };
            let head = serde_json::to_vec_pretty(&manifest).map_err(|error| io(MANIFEST)(error.into()))?;
            Ok(Self { manifest, head, state_dir, database })
        })
        .await
    }

    /// Size of the file.
    pub fn bytes(&self) -> u64 {
        let of = |bytes: u64| BLOCK + bytes.div_ceil(BLOCK) * BLOCK;
        let members = self.manifest.members.iter().map(|member| of(member.bytes)).sum::<u64>();
        of(self.head.len() as u64) + members + 2 * BLOCK
    }

    /// Writes the file. Fails when somebody was erased since: their pictures are gone.
    pub fn write_to(self, out: impl Write) -> std::io::Result<()> {
        let mut tar = tar::Builder::new(out);
        let header = |bytes: u64| {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes);
            header.set_mode(0o600);
            header.set_mtime(u64::try_from(self.manifest.created_at_ms / 1000).unwrap_or(0));
            header
        };
        tar.append_data(&mut header(self.head.len() as u64), MANIFEST, self.head.as_slice())?;
        for member in &self.manifest.members {
            let (mut picture, mut database);
            let file: &mut dyn Read = if member.name == DATABASE {
                database = &self.database;
                std::io::Seek::rewind(&mut database)?;
                &mut database
            } else {
                picture = File::open(self.state_dir.join(&member.name))?;
                &mut picture
            };
            tar.append_data(&mut header(member.bytes), &member.name, file.take(member.bytes))?;
        }
        tar.into_inner()?.flush()
    }

    /// The file's bytes, for an answer by HTTP.
    pub fn stream(self) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
        let (chunks, receiver) = mpsc::channel(CHUNKS_UNDER_WAY);
        tokio::task::spawn_blocking(move || {
            let out = std::io::BufWriter::with_capacity(CHUNK, Chunks(chunks.clone()));
            if let Err(error) = self.write_to(out) {
                // Gone: then nobody wants to know.
                let _ = chunks.blocking_send(Err(error));
            }
        });
        ReceiverStream::new(receiver)
    }
}

struct Chunks(mpsc::Sender<std::io::Result<Bytes>>);

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The body of a request, to be read by a thread.
pub fn reader<E: std::fmt::Display + Send + 'static>(
    body: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
) -> impl Read + Send + 'static {
    let (chunks, receiver) = mpsc::channel(CHUNKS_UNDER_WAY);
    tokio::spawn(async move {
        let mut body = std::pin::pin!(body);
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| std::io::Error::other(error.to_string()));
            let last = chunk.is_err();
            // Heard to its end even if nobody wants the rest: who sends it hears the answer only then.
            let _ = chunks.send(chunk).await;
            if last {
                break;
            }
        }
    });
    Incoming { receiver, rest: Bytes::new() }
}

struct Incoming {
    receiver: mpsc::Receiver<std::io::Result<Bytes>>,
    rest: Bytes,
}

impl Read for Incoming {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.rest = chunk?,
                None => return Ok(0),
            }
        }
        let bytes = into.len().min(self.rest.len());
        into[..bytes].copy_from_slice(&self.rest.split_to(bytes));
        Ok(bytes)
    }
}

/// A backup that was read and found whole, beside the state it is to be taken into.
pub struct Unpacked {
    /// Who made it, when and of what board: for people.
    pub origin: String,
    /// What is in it.
    pub contents: Contents,
    database: PathBuf,
    pictures: Vec<(PictureFile, PathBuf)>,
    _folder: TempDir,
}

impl Unpacked {
    /// Reads a whole backup, checks every part of it and brings its database to this program's schema.
    pub async fn read(state_dir: &Path, from: impl Read + Send + 'static) -> Result<Self, BackupError> {
        let state_dir = state_dir.to_path_buf();
        blocking(move || unpack(&state_dir, from)).await
    }

    /// Takes the gallery in: files first, then all rows at once. Nobody may enrol or erase meanwhile.
    pub async fn restore_gallery(&mut self, store: &Store, state_dir: &Path) -> Result<RestoredGallery, BackupError> {
        let wanted = store.missing_pictures(self.database.clone()).await?;
        let pictures = std::mem::take(&mut self.pictures);
        let folder = state_dir.join(PEOPLE);
        blocking(move || {
            std::fs::create_dir_all(&folder).map_err(io(folder.display().to_string()))?;
            for (picture, file) in pictures {
                if wanted.contains(&picture) {
                    let target = folder.join(&picture.sha256);
                    std::fs::rename(&file, &target).map_err(io(target.display().to_string()))?;
                }
            }
            File::open(&folder).and_then(|folder| folder.sync_all()).map_err(io(folder.display().to_string()))
        })
        .await?;
        Ok(store.restore_gallery(self.database.clone()).await?)
    }

    /// Takes the past in.
    pub async fn restore_images(
        &self,
        store: &Store,
        gallery: &RestoredGallery,
    ) -> Result<RestoredImages, BackupError> {
        match self.contents {
            Contents::Everything => Ok(store.restore_images(self.database.clone(), gallery).await?),
            Contents::Gallery => Ok(RestoredImages::default()),
        }
    }
}

fn unpack(state_dir: &Path, from: impl Read) -> Result<Unpacked, BackupError> {
    let mut archive = tar::Archive::new(from);
    let cut_off = |error: std::io::Error| BackupError::Damaged(error.to_string());
    let mut entries = archive.entries().map_err(|error| BackupError::Foreign(error.to_string()))?;
    let manifest = match entries.next() {
        Some(Ok(entry)) if entry.path().is_ok_and(|path| path == Path::new(MANIFEST)) => read_manifest(entry)?,
        Some(Err(error)) => return Err(BackupError::Foreign(error.to_string())),
        _ => return Err(BackupError::Foreign(format!("it does not begin with {MANIFEST}"))),
    };
    let bytes: u64 = manifest.members.iter().map(|member| member.bytes).fold(0, u64::saturating_add);
    // Once as files, once more as rows; the journal is emptied in between.
    make_sure_of_room(state_dir, bytes.saturating_mul(2))?;
    let folder = tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(state_dir).map_err(io("the state folder"))?;
    let database = folder.path().join(DATABASE);
    let mut pictures = Vec::new();
    for member in &manifest.members {
        let missing = || BackupError::Damaged(format!("it ends before {}", member.name));
        let mut entry = entries.next().ok_or_else(missing)?.map_err(cut_off)?;
        let named = entry.path().is_ok_and(|path| path == Path::new(&member.name));
        if !named || entry.size() != member.bytes || !entry.header().entry_type().is_file() {
            return Err(BackupError::Damaged(format!("something else lies where {} should be", member.name)));
        }
        let target = folder.path().join(member.name.replace('/', "-"));
        let mut file = File::create_new(&target).map_err(io(target.display().to_string()))?;
        let (written, sha256) = copy(&mut entry, &mut file)?;
        if written != member.bytes || sha256 != member.sha256 {
            return Err(BackupError::Damaged(format!("{} is not what it was when the backup was made", member.name)));
        }
        file.sync_all().map_err(io(target.display().to_string()))?;
        if member.name != DATABASE {
            let picture = PictureFile { file: member.name.clone(), sha256 };
            pictures.push((picture, target));
        }
    }
    match entries.next() {
        None => {}
        Some(Err(error)) => return Err(cut_off(error)),
        Some(Ok(_)) => return Err(BackupError::Damaged(format!("there is more in it than its {MANIFEST} says"))),
    }
    prepare_copy(&database).map_err(|error| match error {
        StoreError::Corrupt(why) => BackupError::Damaged(why),
        error => error.into(),
    })?;
    let Manifest { version, device, created_at_ms, contents, .. } = manifest;
    let made = crate::domain::Moment::from_ms(created_at_ms).text;
    Ok(Unpacked {
        origin: format!("of {device}, made {made} by kithd {version}"),
        contents,
        database,
        pictures,
        _folder: folder,
    })
}

fn read_manifest(entry: impl Read) -> Result<Manifest, BackupError> {
    let mut text = Vec::new();
    entry
        .take(MANIFEST_BYTES)
        .read_to_end(&mut text)
        .map_err(|error| BackupError::Damaged(format!("{MANIFEST}: {error}")))?;
    #[derive(Deserialize)]
    struct Beginning {
        kithd_backup: u32,
        version: String,
        schema: i64,
    }
    let beginning: Beginning = serde_json::from_slice(&text)
        .map_err(|error| BackupError::Foreign(format!("its {MANIFEST} is none of ours: {error}")))?;
    if beginning.kithd_backup != FORMAT || beginning.schema > schema() {
        let Beginning { version, schema: found, .. } = beginning;
        return Err(BackupError::Newer { version, found, known: schema() });
    }
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|error| BackupError::Damaged(format!("its {MANIFEST} cannot be read: {error}")))?;
    let picture = |member: &Member| member.name == format!("{PEOPLE}/{}", member.sha256) && is_sum(&member.sha256);
    let mut names = HashSet::new();
    let in_order = manifest.members.first().is_some_and(|first| first.name == DATABASE)
        && manifest.members.iter().skip(1).all(|member| picture(member) && names.insert(&member.sha256));
    if in_order {
        Ok(manifest)
    } else {
        Err(BackupError::Damaged(format!("its {MANIFEST} names what cannot be in it")))
    }
}

fn is_sum(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
}

/// How many bytes, and their sha256.
fn copy(from: &mut impl Read, to: &mut impl Write) -> Result<(u64, String), BackupError> {
    let (mut sum, mut bytes, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK]);
    loop {
        let read = from.read(&mut chunk).map_err(|error| BackupError::Damaged(error.to_string()))?;
        if read == 0 {
            return Ok((bytes, hex(&sum.finalize())));
        }
        sum.update(&chunk[..read]);
        to.write_all(&chunk[..read]).map_err(io("the state folder"))?;
        bytes += read as u64;
    }
}

fn sum_up(name: String, file: &mut File) -> std::io::Result<Member> {
    let mut sum = Sha256::new();
    let bytes = std::io::copy(file, &mut sum)?;
    Ok(Member { name, bytes, sha256: hex(&sum.finalize()) })
}

fn make_sure_of_room(state_dir: &Path, bytes: u64) -> Result<(), BackupError> {
    let needed = bytes.saturating_add(SPARE_BYTES);
    match free_bytes(state_dir) {
        Some(free) if free < needed => {
            Err(BackupError::NoRoom { folder: state_dir.into(), needed: needed >> 20, free: free >> 20 })
        }
        _ => Ok(()),
    }
}

/// Readable by nobody else.
fn temporary(state_dir: &Path) -> Result<tempfile::NamedTempFile, BackupError> {
    tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(state_dir).map_err(io("the state folder"))
}

/// Removes what a backup left behind that was broken off by the end of the daemon.
fn sweep(state_dir: &Path) {
    for entry in std::fs::read_dir(state_dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            let path = entry.path();
            let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            if let Err(error) = removed {
                tracing::error!("{} is left of a backup and cannot be deleted: {error}", path.display());
            }
        }
    }
}

/// Writes the gallery's own backup, unless it says already what there is to say. True: it was written.
pub async fn keep_gallery(store: &Store, state_dir: &Path, device: &str) -> Result<bool, BackupError> {
    let target = state_dir.join(GALLERY);
    let there = target.exists();
    // Nobody, not even a tombstone: a database that never knew anybody takes nobody's place.
    let Some(gallery) = store.gallery_fingerprint().await? else { return Ok(false) };
    if there && manifest_of(&target).is_some_and(|old| old.gallery.as_ref() == Some(&gallery)) {
        return Ok(false);
    }
    let backup = Backup::make(store, state_dir, device, Contents::Gallery).await?;
    make_sure_of_room(state_dir, backup.bytes())?;
    let mut file = temporary(state_dir)?;
    let state_dir = state_dir.to_path_buf();
    blocking(move || {
        let named = || io(target.display().to_string());
        backup.write_to(std::io::BufWriter::new(&mut file)).map_err(named())?;
        file.as_file().sync_all().map_err(named())?;
        file.persist(&target).map_err(|error| named()(error.error))?;
        File::open(&state_dir).and_then(|folder| folder.sync_all()).map_err(named())
    })
    .await?;
    Ok(true)
}

fn manifest_of(path: &Path) -> Option<Manifest> {
    let mut archive = tar::Archive::new(File::open(path).ok()?);
    let manifest = archive.entries().ok()?.next()?.ok()?;
    read_manifest(manifest).ok()
}

/// Opens the database; of one that turns out to be damaged as much comes back as can be had. The second value is the
/// banner that says so.
pub async fn open(state_dir: &Path) -> Result<(Store, Option<String>), StoreError> {
    // The spool stays: what no row names any more is queued again.
    let kept = [PEOPLE];
    if state_dir.join(GALLERY).exists() {
        set_lost_aside(state_dir, &kept)?;
    }
    let (store, banner) = Store::open(state_dir, &kept)?;
    sweep(state_dir);
    if banner.is_none() {
        return Ok((store, None));
    }
    // Done again where it was broken off.
    for (name, number) in store.damaged_unread().await? {
        let came = recover(&store, state_dir, &name, number).await;
        store.note_recovery(&name, came).await?;
    }
    let banner = store.damaged_banner().await?;
    Ok((store, banner))
}

/// Takes back what can be had of a damaged database; says what came back and what did not.
async fn recover(store: &Store, state_dir: &Path, name: &str, number: u32) -> String {
    let damaged = state_dir.join(name);
    let mut said = Vec::new();
    let from_file = recover_gallery(store, state_dir, &damaged, number).await;
    let from_backup = match File::open(state_dir.join(GALLERY)) {
        Ok(file) => match Unpacked::read(state_dir, file).await {
            Ok(mut backup) => {
                let restored = backup.restore_gallery(store, state_dir).await;
                restored.map(|restored| Some((restored, backup.origin.clone())))
            }
            Err(error) => Err(error),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BackupError::Io { what: GALLERY.into(), source }),
    };
    let people = store.people().await.map_or(0, |people| people.len());
    match (&from_file, &from_backup) {
        (Some(_), _) => said.push(format!("All {people} people came back from the damaged file.")),
        (None, Ok(Some((_, origin)))) => said.push(format!(
            "{people} people came back from the gallery's backup {origin}; who was enrolled after it must be enrolled again."
        )),
        (None, Ok(None)) => {
            said.push("Nobody came back: there was no backup of the gallery yet; people must be enrolled again.".into());
        }
        (None, Err(_)) => said.push("Nobody came back; people must be enrolled again.".into()),
    }
    if let Err(error) = &from_backup {
        // The next daily one must not take its place: somebody may yet restore it.
        let aside = format!("{GALLERY}.damaged-{number}");
        let moved = std::fs::rename(state_dir.join(GALLERY), state_dir.join(&aside)).is_ok();
        let now = if moved { format!(" and is {aside} now") } else { String::new() };
        said.push(format!("The gallery's backup could not be taken in{now}: {error}."));
        if !error.is_refusal() {
            // The board was at fault, not the file.
            let file = state_dir.join(if moved { aside.as_str() } else { GALLERY });
            said.push(format!("Mend that and type: kithd restore {}.", file.display()));
        }
    }
    said.push(recover_images(store, state_dir, &damaged).await);
    said.push("Past results, and messages no broker had yet, did not come back.".into());
    let said = said.join(" ");
    tracing::warn!("{said}");
    said
}

/// People as they were, if all of their tables can be read; `None` if not.
async fn recover_gallery(store: &Store, state_dir: &Path, damaged: &Path, number: u32) -> Option<RestoredGallery> {
    let path = damaged.to_path_buf();
    let whole = tokio::task::spawn_blocking(move || gallery_is_whole(&path)).await.unwrap_or(false);
    if !whole {
        return None;
    }
    let recover = async {
        let wanted = store.missing_pictures(damaged.into()).await?;
        let aside = state_dir.join(format!("{PEOPLE}.damaged-{number}"));
        for picture in wanted {
            // One that is not there is missed when another model pack asks for it.
            let _ = std::fs::rename(aside.join(&picture.sha256), state_dir.join(PEOPLE).join(&picture.sha256));
        }
        if let Ok(folder) = File::open(state_dir.join(PEOPLE)) {
            folder.sync_all().map_err(io(PEOPLE))?;
        }
        Ok::<_, BackupError>(store.restore_gallery(damaged.into()).await?)
    };
    let recovered = recover.await;
    if let Err(error) = &recovered {
        tracing::error!("people could not be read from {}: {error}", damaged.display());
    }
    recovered.ok()
}

/// Unfinished images; their bytes are in the spool.
async fn recover_images(store: &Store, state_dir: &Path, damaged: &Path) -> String {
    let path = damaged.to_path_buf();
    let Ok(Ok(salvaged)) = tokio::task::spawn_blocking(move || Salvage::read(&path)).await else {
        return "Images that waited could not be read.".into();
    };
    let found = salvaged.unfinished();
    let missing = salvaged.files().filter(|file| !spool::is_there(state_dir, file)).count();
    match store.take_salvaged(salvaged).await {
        Ok(lost) => {
            let mut said = format!("{} images that waited are in the queue again.", found as u64 - lost);
            if lost > 0 {
                said.push_str(&format!(" {lost} could not be taken over."));
            }
            if missing > 0 {
                said.push_str(&format!(" The bytes of {missing} of them are lost."));
            }
            said.push_str(" What stood on damaged pages could not be read.");
            said
        }
        Err(error) => format!("Images that waited could not be taken over: {error}."),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| BackupError::BrokenOff)?
}
