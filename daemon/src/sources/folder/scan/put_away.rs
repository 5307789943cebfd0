//! Putting away of finished files: moves them into the subfolders `done` and `failed`, or deletes
//! them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::Instant;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{Scanner, key_of};
use crate::domain::Stamp;
use crate::files::{open_beneath, standing_of};

/// Subfolder for finished files.
pub const DONE: &str = "done";

/// Subfolder for files whose image failed.
pub const FAILED: &str = "failed";

/// Longest file name, in bytes.
const LONGEST_NAME: usize = 255;

/// Outcome of putting a file away.
#[derive(Debug, PartialEq, Eq)]
pub enum PutAway {
    /// Moved, deleted, gone already, or replaced by another file: forget it.
    Done,
    /// Failed; to be tried again.
    Failed(String),
}

impl Scanner {
    /// Moves or deletes a file whose image has ended, unless another file has replaced it.
    pub fn put_away(&mut self, below: &Path, stamp: Stamp, failed: bool, delete: bool) -> PutAway {
        let result = self.try_to_put_away(below, stamp, failed, delete);
        match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => PutAway::Failed(format!(
                "{} cannot be put away: {error}",
                self.root.join(below).display()
            )),
            _ => {
                self.seen.remove(&key_of(below));
                PutAway::Done
            }
        }
    }

    fn try_to_put_away(
        &mut self,
        below: &Path,
        stamp: Stamp,
        failed: bool,
        delete: bool,
    ) -> io::Result<()> {
        let (root, _) = self.here().map_err(io::Error::other)?;
        let name = below.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let inside = below.parent().unwrap_or(Path::new(""));
        let folder = open_beneath(&root, inside, OFlags::PATH | OFlags::DIRECTORY)?;
        let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if standing_of(&stat, false).stamp != stamp {
            self.seen.remove(&key_of(below));
            self.consider(below, &stat, Instant::now());
            return Ok(());
        }
        if delete && !failed {
            return Ok(rustix::fs::unlinkat(&folder, name, AtFlags::empty())?);
        }
        let target = make_beneath(
            &root,
            &Path::new(if failed { FAILED } else { DONE }).join(inside),
        )?;
        move_to(&folder, name, &target)
    }
}

/// Opens a folder below another, creating it if needed. No part of the path may be a link.
fn make_beneath(root: &OwnedFd, below: &Path) -> io::Result<OwnedFd> {
    let mut folder = root.try_clone()?;
    for part in below.components() {
        match rustix::fs::mkdirat(&folder, part.as_os_str(), Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        folder = open_beneath(&folder, Path::new(&part), OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|error| match error {
                Errno::LOOP => io::Error::other(format!(
                    "{below:?} is a link or lies below one, and links are not followed"
                )),
                _ => error.into(),
            })?;
    }
    Ok(folder)
}

/// Moves a file without replacing another; a taken name gets a number.
fn move_to(folder: &OwnedFd, name: &OsStr, target: &OwnedFd) -> io::Result<()> {
    let mut candidate = name.to_os_string();
    for number in 2.. {
        match rustix::fs::renameat_with(folder, name, target, &candidate, RenameFlags::NOREPLACE) {
            Ok(()) => break,
            Err(Errno::EXIST) => {}
            // NFS and others lack RENAME_NOREPLACE. Checking the name first is enough, since only
            // kithd moves files here.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                match rustix::fs::statat(target, &candidate, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => {
                        return Ok(rustix::fs::renameat(folder, name, target, &candidate)?);
                    }
                    Err(error) => return Err(error.into()),
                    Ok(_) => {}
                }
            }
            Err(error) => return Err(error.into()),
        }
        candidate = numbered(name, number);
    }
    Ok(())
}

/// Returns "a-2.jpg" for "a.jpg", shortened where it is too long for a file name.
fn numbered(name: &OsStr, number: u32) -> OsString {
    let path = Path::new(name);
    let mut ending = OsString::from(format!("-{number}"));
    if let Some(extension) = path.extension() {
        ending.push(".");
        ending.push(extension);
    }
    let stem = path.file_stem().unwrap_or_default();
    let mut length = LONGEST_NAME.saturating_sub(ending.len()).min(stem.len());
    if let Some(text) = stem.to_str() {
        length = text.floor_char_boundary(length);
    }
    let mut numbered = OsString::from_vec(stem.as_bytes()[..length].to_vec());
    numbered.push(ending);
    numbered
}
