//! Uploads in progress: bytes are spooled and hashed as they arrive, and deleted unless accepted.
//! `spool` names the files and recovers them at the start.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use super::{Intake, IntakeError};
use crate::domain::{ImageId, Origin, Source, hex};
use crate::names;
use crate::spool;
use kith_pictures::kind::{Base64, HEAD_BYTES, Wrapping, wrapping};

/// Bytes buffered before a write.
pub const PIECE: usize = 128 << 10;

/// A complete picture in the spool, not accepted yet.
pub struct Spooled {
    pub(super) file: Arc<Unaccepted>,
    pub(super) source: Source,
    /// Name of the picture.
    pub name: String,
    /// The camera and the event that it comes from.
    pub(super) origin: Origin,
    /// Size.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub(super) digest: String,
    /// Looks mangled by `curl -d @file`: no line breaks and no zero bytes.
    pub torn: bool,
}

impl Spooled {
    /// Sets the camera and the event that it comes from, which are valid.
    pub(super) fn of(self, origin: Origin) -> Self {
        Self { origin, ..self }
    }
}

/// A file in the spool that is deleted on drop, unless a row names it by then.
pub(super) struct Unaccepted {
    state_dir: Arc<Path>,
    /// Path relative to the state folder.
    pub name: String,
    kept: AtomicBool,
}

impl Unaccepted {
    /// Keeps the file: the row that names it is committed.
    pub fn keep(&self, image: ImageId) {
        self.kept.store(true, Ordering::Relaxed);
        if let Err(error) = spool::accept(&self.state_dir, &spool::accepted_name(&self.name, image))
        {
            // The file is still readable under its first name, and the next start renames it.
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
        // A failed deletion is repeated at the next start.
        let delete = move || drop(spool::drop_new(&state_dir, &name));
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(delete)),
            Err(_) => delete(),
        }
    }
}

/// An upload in progress.
pub struct Incoming {
    intake: Intake,
    limit: usize,
    source: Source,
    name: String,
    /// Name used in a refusal.
    called: String,
    bytes: u64,
    file: Arc<Unaccepted>,
    /// Opened by the first write.
    open: Option<File>,
    hash: Sha256,
    /// Bytes buffered for the next write.
    piece: Vec<u8>,
    wrapped: Wrapped,
    torn: Torn,
}

/// Encoding of the incoming bytes.
enum Wrapped {
    /// Not encoded.
    Not,
    /// Undecided, with the bytes so far.
    Perhaps(Vec<u8>),
    /// Encoded in base64.
    Base64(Base64),
}

/// Bytes seen that `curl -d @file` removes.
#[derive(Default)]
struct Torn {
    line_break: bool,
    zero: bool,
}

impl Incoming {
    /// Starts a picture whose encoding is undone. A refusal begins with `called`.
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

    /// Starts at most `limit` bytes that are kept unchanged.
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

    /// Determines the encoding from the beginning of the data.
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
        // Shared with the writing thread, so that a sender that hangs up does not have the file
        // deleted before it is created.
        let file = Arc::clone(&self.file);
        // On an error the file and hash are lost, and the upload ends.
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

    /// Ends the upload once all bytes have arrived.
    pub async fn end(mut self) -> Result<Spooled, IntakeError> {
        self.unwrap_head()?;
        if let Wrapped::Base64(base64) = &mut self.wrapped {
            let ended = base64.end(&mut self.piece);
            ended.map_err(|why| IntakeError::NotAPicture(self.called.clone(), why))?;
        }
        self.check_size()?;
        self.write().await?;
        // A larger picture contains line breaks by chance, so their absence alone is telling.
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
            origin: Origin::default(),
            bytes,
            digest: hex(&hash.finalize()),
            torn,
        })
    }
}
