//! Bytes on their way into the spool: written and hashed as they come, and deleted again unless
//! they are accepted.
//!
//! Not for what their file is called or what a start makes of it: that is `spool`.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use super::{Intake, IntakeError};
use crate::domain::{ImageId, Source, hex};
use crate::names;
use crate::picture_kind::{Base64, HEAD_BYTES, Wrapping, wrapping};
use crate::spool;

/// Collected before they are written.
pub const PIECE: usize = 128 << 10;

/// A picture in the spool, whole but promised to nobody.
pub struct Spooled {
    pub(super) file: Arc<Unaccepted>,
    pub(super) source: Source,
    /// What the picture is called.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub(super) digest: String,
    /// It looks as `curl -d @file` leaves a picture: without line breaks and zero bytes.
    pub torn: bool,
}

/// A file in the spool that goes when this is dropped, unless a row names it by then.
pub(super) struct Unaccepted {
    state_dir: Arc<Path>,
    /// Relative to the state folder.
    pub name: String,
    kept: AtomicBool,
}

impl Unaccepted {
    /// The row that names it is committed.
    pub fn keep(&self, image: ImageId) {
        self.kept.store(true, Ordering::Relaxed);
        if let Err(error) = spool::accept(&self.state_dir, &spool::accepted_name(&self.name, image))
        {
            // It is read under its first name, and the next start renames it.
            tracing::warn!("a picture in the spool keeps its first name: {error}");
        }
    }

    pub fn read(&self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        spool::open_new(&self.state_dir, &self.name)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Drop for Unaccepted {
    fn drop(&mut self) {
        if self.kept.load(Ordering::Relaxed) {
            return;
        }
        let (state_dir, name) = (Arc::clone(&self.state_dir), std::mem::take(&mut self.name));
        // If it cannot be deleted, or kithd is stopping, the next start does.
        let delete = move || drop(spool::drop_new(&state_dir, &name));
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(delete)),
            Err(_) => delete(),
        }
    }
}

/// Bytes that are still coming.
pub struct Incoming {
    intake: Intake,
    limit: usize,
    source: Source,
    name: String,
    /// What a refusal says of it.
    called: String,
    bytes: u64,
    file: Arc<Unaccepted>,
    /// From the first write on.
    open: Option<File>,
    hash: Sha256,
    /// To be written.
    piece: Vec<u8>,
    wrapped: Wrapped,
    torn: Torn,
}

/// How the bytes come.
enum Wrapped {
    /// As they are.
    Not,
    /// Decided by their beginning, which is this so far.
    Perhaps(Vec<u8>),
    /// As base64.
    Base64(Base64),
}

/// Which bytes were seen that `curl -d @file` takes out.
#[derive(Default)]
struct Torn {
    line_break: bool,
    zero: bool,
}

impl Incoming {
    /// Of a picture; its wrapping is undone. A refusal begins with what it is `called`.
    pub fn picture(intake: &Intake, source: Source, name: &str, called: String) -> Self {
        Self::new(
            intake,
            source,
            name,
            called,
            intake.max_bytes(),
            Wrapped::Perhaps(Vec::new()),
        )
    }

    /// Of at most `limit` bytes that are kept as they are.
    pub fn raw(intake: &Intake, source: Source, name: &str, limit: usize) -> Self {
        Self::new(intake, source, name, String::new(), limit, Wrapped::Not)
    }

    fn new(
        intake: &Intake,
        source: Source,
        name: &str,
        called: String,
        limit: usize,
        wrapped: Wrapped,
    ) -> Self {
        let (state_dir, file) = (Arc::clone(&intake.state_dir), spool::new_name(source));
        Self {
            intake: intake.clone(),
            limit,
            source,
            name: names::clean(name).chars().take(1000).collect(),
            called,
            bytes: 0,
            file: Arc::new(Unaccepted {
                state_dir,
                name: file,
                kept: AtomicBool::new(false),
            }),
            open: None,
            hash: Sha256::new(),
            piece: Vec::new(),
            wrapped,
            torn: Torn::default(),
        }
    }

    /// Takes the next bytes.
    pub async fn push(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        match &mut self.wrapped {
            Wrapped::Not => self.piece.extend_from_slice(bytes),
            Wrapped::Perhaps(head) => {
                head.extend_from_slice(bytes);
                if head.len() >= HEAD_BYTES {
                    self.unwrap_head()?;
                }
            }
            Wrapped::Base64(base64) => {
                let decoded = base64.decode(bytes, &mut self.piece);
                decoded.map_err(|why| IntakeError::NotAPicture(self.called.clone(), why))?;
            }
        }
        self.check_size()?;
        if self.piece.len() >= PIECE {
            self.write().await
        } else {
            Ok(())
        }
    }

    fn check_size(&self) -> Result<(), IntakeError> {
        let bytes = self.bytes + self.piece.len() as u64;
        if bytes > self.limit as u64 {
            Err(IntakeError::TooLarge { limit: self.limit })
        } else {
            Ok(())
        }
    }

    /// Finds out what the beginning is, which is all there is or enough.
    fn unwrap_head(&mut self) -> Result<(), IntakeError> {
        let Wrapped::Perhaps(head) = &mut self.wrapped else {
            return Ok(());
        };
        let head = std::mem::take(head);
        self.wrapped = Wrapped::Not;
        let refused = |why| IntakeError::NotAPicture(self.called.clone(), why);
        match wrapping(&head).map_err(refused)?.1 {
            Wrapping::Plain(begins) => self.piece.extend_from_slice(&head[begins..]),
            Wrapping::Base64(begins) => {
                let mut base64 = Base64::new(begins);
                base64
                    .decode(&head[begins..], &mut self.piece)
                    .map_err(refused)?;
                self.wrapped = Wrapped::Base64(base64);
            }
        }
        Ok(())
    }

    async fn write(&mut self) -> Result<(), IntakeError> {
        self.intake.check_disk()?;
        self.torn.line_break |= self.piece.iter().any(|byte| matches!(byte, b'\r' | b'\n'));
        self.torn.zero |= self.piece.contains(&0);
        self.bytes += self.piece.len() as u64;
        // Shared with the thread that writes, so that the file is deleted after it was made,
        // whoever hangs up meanwhile.
        let file = Arc::clone(&self.file);
        // All of it is lost with an error: nobody goes on then.
        let (open, mut piece) = (self.open.take(), std::mem::take(&mut self.piece));
        let mut hash = std::mem::take(&mut self.hash);
        let writing = tokio::task::spawn_blocking(move || {
            let mut open = open.map_or_else(|| spool::create(&file.state_dir, &file.name), Ok)?;
            open.write_all(&piece)?;
            hash.update(&piece);
            piece.clear();
            Ok((open, piece, hash))
        });
        let written = writing.await.unwrap_or_else(|error| Err(error.into()));
        let (open, piece, hash) = written.map_err(|error| self.intake.not_written(&error))?;
        (self.open, self.piece, self.hash) = (Some(open), piece, hash);
        Ok(())
    }

    /// All came.
    pub async fn end(mut self) -> Result<Spooled, IntakeError> {
        self.unwrap_head()?;
        if let Wrapped::Base64(base64) = &mut self.wrapped {
            let ended = base64.end(&mut self.piece);
            ended.map_err(|why| IntakeError::NotAPicture(self.called.clone(), why))?;
        }
        self.check_size()?;
        self.write().await?;
        // A picture of some size has either by chance alone.
        const BY_CHANCE: u64 = 4096;
        let torn = !self.torn.line_break && (!self.torn.zero || self.bytes >= BY_CHANCE);
        let Self {
            file,
            source,
            name,
            bytes,
            hash,
            ..
        } = self;
        Ok(Spooled {
            file,
            source,
            name,
            bytes,
            digest: hex(&hash.finalize()),
            torn,
        })
    }
}
