//! `Intake`: the only door to the queue.
//!
//! Paths are checked as text and committed. No mount is touched here, so a hung NFS server never
//! blocks a sender. Bytes are on disk before their row is, under a provisional name (`spool`).
//! Whether a picture can be decoded is left to the engine.

pub mod camera;
mod error;
pub mod folder;
pub mod frigate;
pub mod http;
mod incoming;
pub mod mqtt;
pub mod paths;
pub mod rejected;
pub mod upload;

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::domain::{Accepted, FileKey, NewImage, Origin, SeenFile, Source, Stamp};
use crate::files::disk::{self, free_bytes};
use crate::queue::{Queue, QueueError};
use crate::spool;
use crate::status::health::{Condition, Health};
use crate::status::heartbeat::Pulse;
use crate::store::Place;
pub use error::IntakeError;
use incoming::{Incoming, Spooled};
use kith_pictures::kind::NotAPicture;

const CAPACITY_CHECK: Duration = Duration::from_secs(2);
/// Wait before a message that cannot be taken or kept now is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Least free space on a usable disk, whatever the reserve: the database's journal needs this much
/// to end accepted images.
const LEAST_FREE_BYTES: u64 = 4 << 20;
/// Time that a deleted state folder may take to come back.
const GONE_FOR: Duration = Duration::from_secs(60);

/// The door to the queue; clones share it.
#[derive(Clone)]
pub struct Intake {
    queue: Queue,
    limits: Arc<config::Intake>,
    state_dir: Arc<Path>,
    health: Health,
    /// Set by a failed write, until one succeeds.
    broken: Arc<AtomicBool>,
}

/// A submitted path.
#[derive(Debug, Clone)]
pub struct PathSubmission {
    /// Path as sent.
    pub path: String,
    /// The camera and the event that its picture comes from; invalid parts are dropped with a
    /// warning.
    pub origin: Origin,
    /// Key chosen by the sender: the same key yields the same image.
    pub idempotency_key: Option<String>,
}

/// A file found in a watched folder.
#[derive(Debug, Clone)]
pub struct FolderFile {
    /// Full path.
    pub path: String,
    /// Key within its folder.
    pub key: FileKey,
    /// Stamp at the time it was found.
    pub stamp: Stamp,
    /// Inode number; 0 where inode numbers are not stable.
    pub inode: i64,
}

impl Intake {
    /// Creates the spool folder and the intake.
    pub fn new(
        queue: Queue,
        limits: config::Intake,
        state_dir: &Path,
        health: Health,
    ) -> std::io::Result<Self> {
        std::fs::create_dir_all(state_dir.join(spool::SPOOL))?;
        health.set("intake", Condition::Ok, "accepting pictures");
        Ok(Self {
            queue,
            limits: Arc::new(limits),
            state_dir: state_dir.into(),
            health,
            broken: Arc::default(),
        })
    }

    /// Checks whether anything is accepted now.
    pub async fn check_capacity(&self) -> Result<(), IntakeError> {
        self.check_disk()?;
        match self.queue.load().await? {
            (unfinished, limit) if unfinished >= limit => Err(QueueError::Full {
                count: 1,
                unfinished,
                limit,
            }
            .into()),
            _ => Ok(()),
        }
    }

    /// Checks whether a camera frame of this size is accepted now.
    pub async fn check_camera_capacity(&self, bytes: usize) -> Result<(), IntakeError> {
        self.check_capacity().await?;
        if free_bytes(&self.state_dir).is_some_and(|free| free < bytes as u64) {
            return Err(IntakeError::DiskFull);
        }
        Ok(self.queue.check_camera_capacity(bytes as u64).await?)
    }

    /// Returns the largest picture size in bytes.
    pub fn max_bytes(&self) -> usize {
        self.limits.max_bytes
    }

    /// Accepts paths, all or none; they are on disk when this returns.
    pub async fn paths(
        &self,
        source: Source,
        paths: Vec<PathSubmission>,
    ) -> Result<Vec<Accepted>, IntakeError> {
        let images = paths
            .into_iter()
            .map(|mut submission| {
                let path = paths::plain(&submission.path).map_err(IntakeError::Refused)?;
                for sentence in submission.origin.drop_invalid() {
                    tracing::warn!("{path}: {sentence}");
                }
                Ok(NewImage {
                    origin: submission.origin,
                    idempotency_key: submission.idempotency_key,
                    unless_unfinished: source == Source::Mqtt,
                    ..NewImage::path(source, self.checked(&path)?)
                })
            })
            .collect::<Result<Vec<_>, IntakeError>>()?;
        self.submit(images).await
    }

    /// Accepts files of a watched folder, all or none, and remembers them in the same commit.
    /// Unchanged files taken before make no image. `put_away`: move or delete each file once its
    /// image ends.
    pub async fn files(
        &self,
        folder: i64,
        put_away: bool,
        files: Vec<FolderFile>,
    ) -> Result<Vec<Accepted>, IntakeError> {
        let images = files.into_iter().map(
            |FolderFile {
                 path,
                 key,
                 stamp,
                 inode,
             }| {
                Ok(NewImage {
                    seen: Some(SeenFile {
                        folder,
                        key,
                        stamp,
                        inode,
                        put_away,
                    }),
                    ..NewImage::path(Source::Folder, self.checked(&path)?)
                })
            },
        );
        self.submit(images.collect::<Result<_, IntakeError>>()?)
            .await
    }

    /// Accepts the bytes of one picture; bytes and row are on disk when this returns. `name` is the
    /// topic of one that came by MQTT.
    pub async fn picture(
        &self,
        source: Source,
        name: &str,
        bytes: Bytes,
        idempotency_key: Option<String>,
        mut origin: Origin,
    ) -> Result<Accepted, IntakeError> {
        if bytes.is_empty() {
            return Err(IntakeError::NotAPicture(
                "the picture".into(),
                NotAPicture::Empty,
            ));
        }
        if source.is_of_cameras() {
            // The camera pauses and reports it; other sources go on.
            self.queue.check_camera_capacity(bytes.len() as u64).await?;
        }
        // Checked before writing: a waiting MQTT message would otherwise be spooled, hashed and
        // flushed again each second.
        self.check_capacity()
            .await
            .map_err(|error| self.kept_back(error))?;
        let mut incoming = Incoming::raw(self, source, name, self.max_bytes());
        for piece in bytes.chunks(incoming::PIECE) {
            incoming.push(piece).await?;
        }
        let mut picture = incoming.end().await?;
        for sentence in origin.drop_invalid() {
            tracing::warn!("{name}: {sentence}");
        }
        picture.origin = origin;
        if source == Source::Mqtt {
            // The name includes the hash, so that a redelivered message is recognised while the
            // first is unfinished.
            picture.name = format!("{} {}", picture.name, &picture.digest[..12]);
        }
        // A single submission yields a single image.
        let accepted = self.pictures(vec![(picture, idempotency_key)]).await?;
        accepted
            .into_iter()
            .next()
            .ok_or_else(|| IntakeError::Storage("the queue gave no answer".into()))
    }

    /// Accepts spooled pictures, all or none, each with its idempotency key; bytes and rows are on
    /// disk when this returns.
    pub async fn pictures(
        &self,
        pictures: Vec<(Spooled, Option<String>)>,
    ) -> Result<Vec<Accepted>, IntakeError> {
        let intake = self.clone();
        // Runs in its own task: a sender that hangs up must not leave rows and files inconsistent.
        let accepting = tokio::spawn(async move { intake.accept(pictures).await });
        accepting
            .await
            .unwrap_or_else(|_| Err(IntakeError::Storage("kithd is stopping".into())))
    }

    async fn accept(
        &self,
        pictures: Vec<(Spooled, Option<String>)>,
    ) -> Result<Vec<Accepted>, IntakeError> {
        let (mut files, mut images) = (Vec::new(), Vec::new());
        for (picture, idempotency_key) in pictures {
            let Spooled {
                file,
                source,
                name,
                origin,
                bytes,
                digest,
                ..
            } = picture;
            images.push(NewImage {
                origin,
                file: Some(file.name.clone()),
                bytes,
                idempotency_key,
                picture_key: Some(digest),
                unless_unfinished: source == Source::Mqtt,
                ..NewImage::path(source, name)
            });
            files.push(file);
        }
        let state_dir = Arc::clone(&self.state_dir);
        let flushing = tokio::task::spawn_blocking(move || {
            let flushed = spool::flush(&state_dir, files.iter().map(|file| file.name.as_str()));
            flushed.map(|()| files)
        });
        let flushed = flushing.await.unwrap_or_else(|error| Err(error.into()));
        let files = flushed.map_err(|error| self.not_written(&error))?;
        let accepted = self.submit(images).await?;
        let new: Vec<_> = accepted
            .iter()
            .map(|image| image.new.then_some(image.id))
            .collect();
        let renaming = tokio::task::spawn_blocking(move || {
            // Files of known images are not needed: their bytes were accepted before.
            for (file, image) in files.iter().zip(new) {
                image.into_iter().for_each(|image| file.keep(image));
            }
        });
        // If kithd is stopping, the next start renames them.
        _ = renaming.await;
        Ok(accepted)
    }

    /// Maps an I/O error of the spool.
    fn not_written(&self, error: &std::io::Error) -> IntakeError {
        self.kept_back(error.into())
    }

    /// Checks that bytes and rows reach the disk again.
    async fn try_disk(&self) -> Result<(), IntakeError> {
        let state_dir = Arc::clone(&self.state_dir);
        let trying = tokio::task::spawn_blocking(move || spool::try_disk(&state_dir));
        trying
            .await
            .unwrap_or_else(|error| Err(error.into()))
            .map_err(|error| IntakeError::from(&error))?;
        self.queue.try_disk().await?;
        self.broken.store(false, Ordering::Relaxed);
        Ok(())
    }

    async fn submit(&self, images: Vec<NewImage>) -> Result<Vec<Accepted>, IntakeError> {
        self.check_disk()?;
        let accepted = self.queue.submit(images).await.map_err(IntakeError::from);
        match &accepted {
            Ok(_) => {
                self.broken.store(false, Ordering::Relaxed);
                self.health
                    .set("intake", Condition::Ok, "accepting pictures")
            }
            // A smaller batch would be accepted, so the queue is not full.
            Err(IntakeError::Full(_)) if self.check_capacity().await.is_ok() => false,
            Err(error) if error.is_temporary() => self.degraded(error),
            Err(_) => false,
        };
        accepted
    }

    fn kept_back(&self, error: IntakeError) -> IntakeError {
        self.degraded(&error);
        error
    }

    fn degraded(&self, error: &IntakeError) -> bool {
        if matches!(error, IntakeError::Storage(_)) {
            self.broken.store(true, Ordering::Relaxed);
        }
        let said = self
            .health
            .set("intake", Condition::Degraded, error.to_string());
        if said {
            tracing::warn!("not accepting pictures: {error}");
        }
        said
    }

    fn check_disk(&self) -> Result<(), IntakeError> {
        if self.queue.place() != Place::There {
            return Err(self.kept_back(IntakeError::Storage(disk::GONE.into())));
        }
        match free_bytes(&self.state_dir) {
            Some(free) if free < LEAST_FREE_BYTES => Err(self.kept_back(IntakeError::DiskFull)),
            Some(free) if free < self.limits.disk_reserve_bytes => {
                Err(self.kept_back(IntakeError::DiskReserve))
            }
            _ => Ok(()),
        }
    }

    /// Normalises a path that is below a root as text; links are checked when it is opened.
    fn checked(&self, path: &str) -> Result<String, IntakeError> {
        let refused = |why: &str| Err(IntakeError::Refused(format!("{path:?} {why}")));
        if path.is_empty() || path.len() > 4096 || path.contains(char::is_control) {
            return refused("is not a usable path");
        }
        let path_buf = Path::new(path);
        if !path_buf.is_absolute() {
            return refused("is not an absolute path");
        }
        if path_buf
            .components()
            .any(|part| part == Component::ParentDir)
        {
            return refused("contains .., which is not allowed");
        }
        // `components` drops doubled slashes and single dots.
        let plain: PathBuf = path_buf.components().collect();
        if !self
            .limits
            .roots
            .iter()
            .any(|root| plain.starts_with(root) && plain != *root)
        {
            let roots: Vec<_> = self
                .limits
                .roots
                .iter()
                .map(|root| root.display().to_string())
                .collect();
            return refused(&format!(
                "is not below one of intake.roots ({})",
                roots.join(", ")
            ));
        }
        Ok(plain.to_string_lossy().into_owned())
    }
}

/// Clears the "full" and "broken" conditions from health once they are over, so that a load
/// balancer returns. Fails when the state folder stays away: rows written to a deleted file are
/// lost, and only a restart opens the current one.
pub async fn watch_capacity(
    intake: Intake,
    mut pulse: Pulse,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut gone: Option<Instant> = None;
    loop {
        match intake.queue.place() {
            Place::There => gone = None,
            Place::Replaced => {
                anyhow::bail!("another database lies in the state folder; restart kithd to open it")
            }
            Place::Gone if gone.get_or_insert_with(Instant::now).elapsed() > GONE_FOR => {
                anyhow::bail!(disk::GONE)
            }
            Place::Gone => {}
        }
        let capacity = match intake.check_capacity().await {
            Ok(()) if intake.broken.load(Ordering::Relaxed) => intake.try_disk().await,
            capacity => capacity,
        };
        match capacity {
            Ok(()) => {
                _ = intake
                    .health
                    .set("intake", Condition::Ok, "accepting pictures");
            }
            // Reported before the first refusal, so that a load balancer switches in time.
            Err(error) => _ = intake.degraded(&error),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = pulse.answer_during(tokio::time::sleep(CAPACITY_CHECK)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::queue::Rules;
    use crate::store::Store;

    /// Pictures from other sources are accepted.
    #[tokio::test]
    async fn a_full_camera_spool_pauses_only_the_camera() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        let rules = Rules {
            max_camera_bytes: Some(10),
            ..Rules::for_tests()
        };
        let queue = Queue::open(store, rules).await.unwrap();
        let (health, mut limits) = (Health::default(), Config::default().intake);
        limits.disk_reserve_bytes = 0;
        let intake = Intake::new(queue, limits, folder.path(), health.clone()).unwrap();
        let frame = async || {
            intake
                .picture(
                    Source::Camera,
                    "front",
                    Bytes::from_static(b"123456"),
                    None,
                    Origin::camera("front"),
                )
                .await
        };
        frame().await.unwrap();
        let error = frame().await.unwrap_err();
        assert!(
            matches!(error, IntakeError::CameraFull(_)) && error.is_temporary(),
            "{error}"
        );
        assert!(
            error.to_string().contains("retention.camera.bytes = 10"),
            "{error}"
        );
        assert_eq!(
            std::fs::read_dir(folder.path().join(spool::SPOOL))
                .unwrap()
                .count(),
            1,
            "it was written for nothing"
        );
        intake
            .picture(
                Source::Http,
                "upload",
                Bytes::from_static(b"123456"),
                None,
                Origin::default(),
            )
            .await
            .unwrap();
        assert_eq!(health.parts()["intake"].condition, Condition::Ok);
    }
}
