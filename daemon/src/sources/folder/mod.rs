//! Pictures from watched folders, local or on mounts that hang and disappear.
//!
//! `scan` does the file access on a thread that a dead mount may block: this part then reports the
//! folder by name, and everything else goes on. A file is remembered in the same commit that queues
//! it.

mod listener;
mod patterns;
mod scan;

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use self::listener::{Listener, Touched};
use self::patterns::Patterns;
use self::scan::{Found, Looked, PutAway, Rules, Scanner};
use super::{FolderFile, Intake, IntakeError};
use crate::config;
use crate::status::health::{Condition, Health};
use crate::store::{EndedFile, Store, StoreError};

/// Files per commit.
const BATCH: usize = 200;
/// Debounce between an inotify event and the scan: writes come in bursts.
const BURST: Duration = Duration::from_millis(200);

/// Dependencies of a folder's task.
pub struct Folder {
    /// Configuration of the folder.
    pub settings: config::Folder,
    /// Name of the part in health: "folder /mnt/nas".
    pub part: &'static str,
    /// The queue's intake.
    pub intake: Intake,
    /// Store of the files already taken.
    pub store: Store,
    /// Health report of the part.
    pub health: Health,
    /// The trouble logged last, while it lasts.
    pub logged: Mutex<Option<String>>,
}

impl Folder {
    /// Watches the folder until stopped.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        self.health.set(
            self.part,
            Condition::Starting,
            "scanning for the first time",
        );
        loop {
            let error = tokio::select! {
                ended = self.watch() => match ended {
                    Ok(never) => match never {},
                    Err(error) => error,
                },
                () = stop.cancelled() => return Ok(()),
            };
            if matches!(error.downcast_ref(), Some(StoreError::Closed)) {
                return Err(error);
            }
            // A full disk or a busy database must not end the daemon: the list of taken files is
            // read again then.
            self.degraded(&format!("{error:#}"));
            tokio::select! {
                () = tokio::time::sleep(self.settings.poll) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    async fn watch(&self) -> anyhow::Result<Infallible> {
        let Self {
            settings, store, ..
        } = self;
        let (id, mounted) = store
            .folder(settings.path.to_string_lossy().into_owned())
            .await?;
        let seen: HashMap<_, _> = store.seen(id).await?.into_iter().collect();
        let rules = Rules {
            recursive: settings.recursive,
            include: if settings.include.is_empty() {
                None
            } else {
                Some(Patterns::new(&settings.include)?)
            },
            exclude: Patterns::new(&settings.exclude)?,
            settle: settings.settle,
            then: settings.then,
        };
        let mut scanner = Scanner::new(settings.path.clone(), rules, mounted, seen);
        let (mut noted_mount, mut listener) = (mounted, None);
        let touched = Arc::new(Touched::default());
        let mut next_full = Instant::now();
        loop {
            let full = Instant::now() >= next_full;
            let files = std::mem::take(&mut *touched.files.lock());
            let (back, looked) = self
                .answered(move || {
                    let now = Instant::now();
                    files.iter().for_each(|below| scanner.touched(below, now));
                    let looked = scanner.look(full, now);
                    (scanner, looked)
                })
                .await?;
            scanner = back;
            let mut pause = settings.poll;
            match looked {
                Err(why) => {
                    // The watches belong to whatever was mounted there before.
                    listener = None;
                    next_full = Instant::now();
                    self.degraded(&why);
                }
                Ok(looked) => {
                    if full {
                        next_full = Instant::now() + settings.full_scan;
                    }
                    if looked.mounted && !noted_mount {
                        store.folder_is_a_mount(id).await?;
                        noted_mount = true;
                    }
                    let mut ears = listener
                        .take()
                        .unwrap_or_else(|| Listener::new(&settings.path, Arc::clone(&touched)));
                    let deaf;
                    (scanner, ears, deaf) = self
                        .answered(move || {
                            let deaf = ears.follow(scanner.folders());
                            (scanner, ears, deaf)
                        })
                        .await?;
                    listener = Some(ears);
                    if looked.settling > 0 {
                        pause = pause.min(settings.settle);
                    }
                    let taken = self.take(id, &mut scanner, &looked).await?;
                    let kept_back;
                    (scanner, kept_back) = self.put_away(id, scanner).await?;
                    let kept_back = taken.err().or(kept_back).map(|error| error.to_string());
                    let deaf = deaf.map(|why| {
                        format!(
                            "{why}; kithd scans the folder every {:?} meanwhile",
                            settings.poll
                        )
                    });
                    self.show(&scanner, &looked, [looked.trouble.clone(), kept_back, deaf]);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = async { touched.wake.notified().await; tokio::time::sleep(BURST).await } => {}
            }
        }
    }

    /// Queues ready files in commits of their own; the inner error says why the rest waits.
    async fn take(
        &self,
        id: i64,
        scanner: &mut Scanner,
        looked: &Looked,
    ) -> anyhow::Result<Result<(), IntakeError>> {
        if !looked.gone.is_empty() {
            self.store.forget_files(id, looked.gone.clone()).await?;
        }
        for batch in looked.ready.chunks(BATCH) {
            match self.queue(id, scanner, batch).await {
                Ok(()) => {}
                Err(error) if error.is_temporary() => return Ok(Err(error)),
                // A file is refused, or the batch is too large: submit the files one by one.
                Err(_) => {
                    for file in batch {
                        match self.queue(id, scanner, std::slice::from_ref(file)).await {
                            Ok(()) => {}
                            Err(error) if error.is_temporary() => return Ok(Err(error)),
                            // The refusal repeats, so it is logged once per run.
                            Err(error) => {
                                tracing::warn!("{}: not taken: {error}", self.part);
                                scanner.refused(file);
                            }
                        }
                    }
                }
            }
        }
        Ok(Ok(()))
    }

    async fn queue(
        &self,
        id: i64,
        scanner: &mut Scanner,
        files: &[Found],
    ) -> Result<(), IntakeError> {
        self.intake
            .files(
                id,
                self.settings.then != config::Then::Leave,
                self.in_full(files),
            )
            .await?;
        scanner.taken(files);
        Ok(())
    }

    fn in_full(&self, batch: &[Found]) -> Vec<FolderFile> {
        let file = |found: &Found| FolderFile {
            path: self
                .settings
                .path
                .join(&found.below)
                .to_string_lossy()
                .into_owned(),
            key: found.key,
            stamp: found.stamp,
            inode: found.inode,
        };
        batch.iter().map(file).collect()
    }

    /// Moves or deletes files whose images have ended. Returns the problem that holds one back.
    async fn put_away(
        &self,
        id: i64,
        mut scanner: Scanner,
    ) -> anyhow::Result<(Scanner, Option<IntakeError>)> {
        if self.settings.then == config::Then::Leave {
            return Ok((scanner, None));
        }
        let delete = self.settings.then == config::Then::Delete;
        let (mut after, mut kept_back) = (0, None);
        loop {
            let ended = self.store.ended_files(id, after, BATCH).await?;
            let Some(last) = ended.last() else {
                return Ok((scanner, kept_back.map(IntakeError::Storage)));
            };
            after = last.image;
            let root = self.settings.path.clone();
            let (back, done, left, trouble) = self
                .answered(move || {
                    let (mut done, mut left, mut trouble) = (Vec::new(), Vec::new(), None);
                    for EndedFile {
                        key,
                        stamp,
                        path,
                        failed,
                        ..
                    } in ended
                    {
                        // Retention was faster, and the target is no longer known.
                        let Some(below) = path
                            .as_deref()
                            .and_then(|path| Path::new(path).strip_prefix(&root).ok())
                        else {
                            left.push(key);
                            continue;
                        };
                        match scanner.put_away(below, stamp, failed, delete) {
                            PutAway::Done => done.push(key),
                            PutAway::Failed(why) => trouble = trouble.or(Some(why)),
                        }
                    }
                    (scanner, done, left, trouble)
                })
                .await?;
            scanner = back;
            kept_back = kept_back.or(trouble);
            if !done.is_empty() {
                self.store.forget_files(id, done).await?;
            }
            if !left.is_empty() {
                self.store.leave_files(id, left).await?;
            }
        }
    }

    /// Runs work on the folder's thread, and reports while it does not respond.
    async fn answered<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let mut working = tokio::task::spawn_blocking(work);
        let patience = self.settings.report_after;
        match tokio::time::timeout(patience, &mut working).await {
            Ok(answer) => answer,
            Err(_) => {
                self.degraded(&format!(
                    "the folder has not answered for {patience:?}; kithd waits for it"
                ));
                working.await
            }
        }
        .map_err(|panic| {
            anyhow!(
                "the scan of {} panicked: {panic}",
                self.settings.path.display()
            )
        })
    }

    /// Reports the state of the folder, with its troubles, if any.
    fn show(&self, scanner: &Scanner, looked: &Looked, troubles: [Option<String>; 3]) {
        let mut text = format!("{} files in the folder are taken", scanner.known());
        match (looked.settling, &looked.growing) {
            (0, _) => {}
            (count, None) => text += &format!(", {count} still being written"),
            (count, Some(path)) => {
                text += &format!(", {count} still being written, {path:?} for long");
            }
        }
        if !looked.left_out.is_empty() {
            text += &format!("; {}", looked.left_out);
        }
        let troubles: Vec<_> = troubles.into_iter().flatten().collect();
        if troubles.is_empty() {
            *self.logged.lock() = None;
            self.health.set(self.part, Condition::Ok, text);
        } else {
            let trouble = troubles.join("; ");
            self.log(&trouble);
            self.health
                .set(self.part, Condition::Degraded, format!("{trouble}; {text}"));
        }
    }

    fn degraded(&self, why: &str) {
        self.log(why);
        self.health.set(self.part, Condition::Degraded, why);
    }

    /// Logs a trouble once while it lasts, whatever the counts.
    fn log(&self, trouble: &str) {
        let mut logged = self.logged.lock();
        if logged.as_deref() != Some(trouble) {
            tracing::warn!("{}: {trouble}", self.part);
            *logged = Some(trouble.into());
        }
    }
}
