//! Blocking scan of one watched folder: new files, files that have settled, files that are gone;
//! finished ones are put away (`put_away`). Knows no queue and no database.
//!
//! A scan opens every known folder but lists only those whose modification time changed; a full
//! scan lists all of them and finds files rewritten in place. Symbolic links are not followed. An
//! unreadable folder affects only itself.

mod put_away;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

pub use self::put_away::PutAway;
use self::put_away::{DONE, FAILED};
use super::patterns::Patterns;
use crate::config::Then;
use crate::domain::{FileKey, Stamp};
use crate::files::left_out::{self, LeftOut, Named, Why};
use crate::files::{entries, numbers_last, standing_of, stat_beneath};

/// A file that is rewritten without end is taken as it is after this many times `settle`.
const RESTLESS: u32 = 30;
/// Files without an extension that are opened per scan.
const OPENED: usize = 500;

/// Rules of a scan.
pub struct Rules {
    /// Include subfolders.
    pub recursive: bool,
    /// Names or paths below the folder to take; `None` takes every picture, by its extension or its
    /// bytes.
    pub include: Option<Patterns>,
    /// Names or paths to leave out.
    pub exclude: Patterns,
    /// Time without change of size and modification time before a file is taken.
    pub settle: Duration,
    /// Action on finished files.
    pub then: Then,
}

impl Rules {
    /// Returns whether finished files go into this subfolder.
    fn puts_into(&self, folder: &Path) -> bool {
        match self.then {
            Then::Leave => false,
            Then::Move => true,
            Then::Delete => folder == Path::new(FAILED),
        }
    }
}

/// A file ready to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Path below the folder.
    pub below: PathBuf,
    /// Key in the database.
    pub key: FileKey,
    /// Size and time once settled.
    pub stamp: Stamp,
    /// Inode number; 0 where inode numbers are not stable.
    pub inode: i64,
}

/// Result of a scan.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Settled files.
    pub ready: Vec<Found>,
    /// Files seen before that are gone; only a full scan finds them.
    pub gone: Vec<FileKey>,
    /// Number of files not settled yet.
    pub settling: usize,
    /// A file among these that has been growing for long.
    pub growing: Option<PathBuf>,
    /// The folder is a mount point now.
    pub mounted: bool,
    /// Folders that cannot be read, in words.
    pub trouble: Option<String>,
    /// Files left out, by reason.
    pub left_out: LeftOut,
}

/// A watched folder.
pub struct Scanner {
    root: PathBuf,
    rules: Rules,
    /// It has been a mount point.
    mounted: bool,
    seen: HashMap<FileKey, Stamp>,
    folders: HashMap<PathBuf, Listed>,
    /// Folders that exist and cannot be read, and why.
    unreadable: BTreeMap<PathBuf, String>,
    /// Files missing from a listing since the last full scan.
    vanished: HashSet<FileKey>,
    settling: HashMap<PathBuf, Settling>,
    /// Files that are left out for more than their names: no pictures by their bytes, or refused.
    left_out_files: HashMap<PathBuf, (Stamp, Why)>,
    /// A folder was listed again, is gone or cannot be read, so `left_out_files` must be checked
    /// for vanished files.
    relisted: bool,
}

/// A folder as last listed.
struct Listed {
    mtime: (i64, i64),
    /// Listed twice at this modification time, so no file arrived unseen within one tick of the
    /// file system's clock.
    twice: bool,
    /// Files in it that may be taken.
    keys: Vec<FileKey>,
    left_out: LeftOut,
}

/// A file that has not settled yet.
struct Settling {
    stamp: Stamp,
    /// Time of its last change.
    since: Instant,
    /// Time it was first seen.
    first: Instant,
    /// It grew at every change.
    growing: bool,
}

impl Settling {
    /// Updates the file; true when it has settled, or is rewritten without end.
    fn ready(&mut self, stamp: Stamp, settle: Duration, now: Instant) -> bool {
        self.stands(stamp, now);
        now.duration_since(self.since) >= settle || (!self.growing && self.long(settle, now))
    }

    fn stands(&mut self, stamp: Stamp, now: Instant) {
        if stamp != self.stamp {
            self.growing &= stamp.size > self.stamp.size;
            (self.stamp, self.since) = (stamp, now);
        }
    }

    fn long(&self, settle: Duration, now: Instant) -> bool {
        now.duration_since(self.first) >= settle * RESTLESS
    }
}

impl Scanner {
    /// Creates a scanner for a folder with the files taken before.
    pub fn new(root: PathBuf, rules: Rules, mounted: bool, seen: HashMap<FileKey, Stamp>) -> Self {
        Self {
            root,
            rules,
            mounted,
            seen,
            folders: HashMap::new(),
            unreadable: BTreeMap::new(),
            vanished: HashSet::new(),
            settling: HashMap::new(),
            left_out_files: HashMap::new(),
            relisted: false,
        }
    }

    /// Scans once. The error says why the whole folder is unusable now; nothing is forgotten then.
    pub fn look(&mut self, full: bool, now: Instant) -> Result<Looked, String> {
        let (root, mounted) = self.here()?;
        let mut looked = Looked {
            mounted,
            ..Looked::default()
        };
        self.mounted |= looked.mounted;
        let mut waiting: Vec<PathBuf> = self
            .folders
            .keys()
            .chain(self.unreadable.keys())
            .cloned()
            .collect();
        if !self.folders.contains_key(Path::new("")) {
            waiting.push(PathBuf::new());
        }
        while let Some(folder) = waiting.pop() {
            match self.list_if_changed(&root, &folder, full, now) {
                Ok(inner) => {
                    self.unreadable.remove(&folder);
                    waiting.extend(inner);
                }
                Err(error) if folder.as_os_str().is_empty() => {
                    return Err(io::Error::from(error).to_string());
                }
                // The folder was deleted, or a file or link replaced it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    self.relisted = true;
                    self.unreadable.remove(&folder);
                    self.vanished.extend(
                        self.folders
                            .remove(&folder)
                            .into_iter()
                            .flat_map(|listed| listed.keys),
                    );
                }
                // The files taken from it are not forgotten.
                Err(error) => {
                    self.relisted = true;
                    self.unreadable
                        .insert(folder, io::Error::from(error).to_string());
                }
            }
        }
        if full {
            // A mount that disappears during the scan must not look like deleted files.
            self.here()?;
            looked.gone = self.gone();
        }
        self.collect_ready(&root, now, &mut looked);
        looked.trouble = self.trouble();
        self.folders
            .values()
            .for_each(|listed| looked.left_out.extend(&listed.left_out));
        for (below, (_, why)) in &self.left_out_files {
            looked.left_out.add(*why, below);
        }
        Ok(looked)
    }

    /// Handles a reported write to this file.
    pub fn touched(&mut self, below: &Path, now: Instant) {
        let Some(name) = below.file_name() else {
            return;
        };
        let inside = below.parent().unwrap_or(Path::new(""));
        let mut hidden = inside.components().map(|part| match part {
            Component::Normal(name) => left_out::of_name(name, true).is_some(),
            _ => true,
        });
        if hidden.any(|hidden| hidden)
            || left_out::of_name(name, false).is_some()
            || left_out::of_path(inside).is_some()
            || is_put_away(inside)
        {
            return;
        }
        if !matches!(self.named(below, name), Named::Out(_))
            && let Ok((root, _)) = self.here()
            && let Ok((_, stat)) = stat_beneath(&root, below, OFlags::PATH)
        {
            self.consider(below, &stat, now);
        }
    }

    /// Marks files as accepted and on disk.
    pub fn taken(&mut self, found: &[Found]) {
        for file in found {
            self.settling.remove(&file.below);
            self.seen.insert(file.key, file.stamp);
        }
    }

    /// Counts a file that intake refuses for good as left out, until it changes.
    pub fn refused(&mut self, found: &Found) {
        self.settling.remove(&found.below);
        let why = (found.stamp, Why::Refused);
        self.left_out_files.insert(found.below.clone(), why);
    }

    /// Returns the number of files taken.
    pub fn known(&self) -> usize {
        self.seen.len()
    }

    /// Returns the folders to watch for changes.
    pub fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        self.folders
            .keys()
            .filter(|folder| !self.unreadable.contains_key(*folder))
    }

    /// Opens the root and tells whether it is a mount point.
    fn here(&self) -> Result<(OwnedFd, bool), String> {
        let words = |error: io::Error| error.to_string();
        let flags = OFlags::PATH.bits().cast_signed();
        let root = File::options()
            .read(true)
            .custom_flags(flags)
            .open(&self.root)
            .map_err(words)?;
        let metadata = root.metadata().map_err(words)?;
        if !metadata.is_dir() {
            return Err("it is not a folder".into());
        }
        let above = self.root.parent().map_or(Ok(metadata.dev()), |above| {
            fs::metadata(above).map(|above| above.dev())
        });
        let mounted = above.map_err(words)? != metadata.dev();
        if self.mounted && !mounted {
            return Err("nothing is mounted there now, but it has been a mount point".into());
        }
        Ok((root.into(), mounted))
    }

    /// Lists a folder if it changed; returns new subfolders.
    fn list_if_changed(
        &mut self,
        root: &OwnedFd,
        folder: &Path,
        full: bool,
        now: Instant,
    ) -> Result<Vec<PathBuf>, Errno> {
        // Opening makes an NFS client ask the server; a mere stat would not.
        let (opened, stat) = stat_beneath(root, folder, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mtime = (
            stat.st_mtime,
            i64::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        );
        let before = self.folders.get(folder);
        let same = before.is_some_and(|before| before.mtime == mtime);
        if same && !full && before.is_some_and(|before| before.twice) {
            return Ok(Vec::new());
        }
        self.relisted = true;
        // A folder name that cannot be queued rules out every file below it.
        let odd = left_out::of_path(folder);
        let mut listed = Listed {
            mtime,
            twice: same,
            keys: Vec::new(),
            left_out: LeftOut::default(),
        };
        let mut inner = Vec::new();
        for (name, kind) in entries(&opened)? {
            let below = folder.join(&name);
            if kind == FileType::Directory && is_put_away(&below) {
                if self.rules.recursive && !self.rules.puts_into(&below) {
                    listed.left_out.add(Why::PutAway, &below);
                }
                continue;
            }
            if let Some(why) = left_out::of_entry(&name, kind) {
                listed.left_out.add(why, &below);
                continue;
            }
            if kind == FileType::Directory {
                if self.rules.recursive && !self.folders.contains_key(&below) {
                    inner.push(below);
                }
                continue;
            }
            let out = match self.named(&below, &name) {
                Named::Out(why) => Some(why),
                Named::Picture | Named::Unclear => odd,
            };
            if let Some(why) = out {
                listed.left_out.add(why, &below);
                continue;
            }
            let key = key_of(&below);
            listed.keys.push(key);
            let known = self.seen.contains_key(&key) || self.left_out_files.contains_key(&below);
            if (full || !known)
                && let Ok(stat) = rustix::fs::statat(&opened, &name, AtFlags::SYMLINK_NOFOLLOW)
            {
                self.consider(&below, &stat, now);
            }
        }
        if let Some(before) = self.folders.insert(folder.to_path_buf(), listed) {
            self.vanished.extend(before.keys);
        }
        Ok(inner)
    }

    /// Returns files that were taken and are gone. While a folder cannot be read, only files that a
    /// listing had before count, since the others may be in it.
    fn gone(&mut self) -> Vec<FileKey> {
        let present: HashSet<FileKey> = self
            .folders
            .values()
            .flat_map(|listed| &listed.keys)
            .copied()
            .collect();
        let all_read = self.unreadable.is_empty();
        let vanished = std::mem::take(&mut self.vanished);
        let is_gone =
            |key: &FileKey| !present.contains(key) && (all_read || vanished.contains(key));
        let gone: Vec<_> = self.seen.keys().copied().filter(is_gone).collect();
        gone.iter().for_each(|key| _ = self.seen.remove(key));
        gone
    }

    fn trouble(&self) -> Option<String> {
        let (folder, error) = self.unreadable.first_key_value()?;
        let shown = self.root.join(folder);
        Some(match self.unreadable.len() {
            1 => format!("the folder {shown:?} cannot be read: {error}; kithd reads all others"),
            count => format!(
                "{count} folders cannot be read, for example {shown:?}: {error}; kithd reads all \
                 others"
            ),
        })
    }

    fn named(&self, below: &Path, name: &OsStr) -> Named {
        if self.rules.exclude.is_match(below) {
            return Named::Out(Why::Pattern);
        }
        match &self.rules.include {
            None => left_out::by_ending(name),
            Some(include) if include.is_match(below) => Named::Picture,
            Some(_) => Named::Out(Why::Pattern),
        }
    }

    /// Starts waiting for a file to settle, unless it was taken already or is known to be no
    /// picture.
    fn consider(&mut self, below: &Path, stat: &Stat, now: Instant) {
        let stamp = standing_of(stat, false).stamp;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let no_picture = self
            .left_out_files
            .get(below)
            .is_some_and(|(known, _)| *known == stamp);
        if !regular || no_picture || self.seen.get(&key_of(below)) == Some(&stamp) {
            return;
        }
        self.left_out_files.remove(below);
        let settling = || Settling {
            stamp,
            since: now,
            first: now,
            growing: true,
        };
        self.settling
            .entry(below.to_path_buf())
            .or_insert_with(settling)
            .stands(stamp, now);
    }

    fn collect_ready(&mut self, root: &OwnedFd, now: Instant, looked: &mut Looked) {
        let (settle, lasting) = (self.rules.settle, numbers_last(root));
        let by_ending = self.rules.include.is_none();
        let (left_out_files, mut opened) = (&mut self.left_out_files, 0);
        if std::mem::take(&mut self.relisted) {
            left_out_files.retain(|below, _| stat_beneath(root, below, OFlags::PATH).is_ok());
        }
        self.settling.retain(|below, waiting| {
            let Ok((_, stat)) = stat_beneath(root, below, OFlags::PATH) else {
                return false;
            };
            let mut standing = standing_of(&stat, lasting);
            if !waiting.ready(standing.stamp, settle, now) {
                if waiting.growing && waiting.long(settle, now) {
                    looked.growing = looked
                        .growing
                        .take()
                        .into_iter()
                        .chain([below.clone()])
                        .min();
                }
                return true;
            }
            // Opened for the final check: NFS answers a mere stat from its cache for seconds, as if
            // the file had settled. Without permission to open it, the queue reports that.
            if let Ok((_, stat)) = stat_beneath(root, below, OFlags::RDONLY) {
                standing = standing_of(&stat, lasting);
                if !waiting.ready(standing.stamp, settle, now) {
                    return true;
                }
            }
            let name = below.file_name().unwrap_or_default();
            if by_ending && left_out::by_ending(name) == Named::Unclear {
                if opened == OPENED {
                    return true;
                }
                opened += 1;
                if let Ok(Some(why)) = left_out::by_bytes_beneath(root, below) {
                    left_out_files.insert(below.clone(), (standing.stamp, why));
                    return false;
                }
            }
            let (key, stamp) = (key_of(below), standing.stamp);
            looked.ready.push(Found {
                below: below.clone(),
                key,
                stamp,
                inode: standing.inode,
            });
            true
        });
        looked
            .ready
            .sort_by(|a, b| (a.stamp.mtime_ns, &a.below).cmp(&(b.stamp.mtime_ns, &b.below)));
        looked.settling = self.settling.len() - looked.ready.len();
    }
}

/// Returns a file's key: 16 bytes of the hash of its path below the folder.
pub fn key_of(below: &Path) -> FileKey {
    let digest = Sha256::digest(below.as_os_str().as_encoded_bytes());
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    key
}

/// Returns true for a folder of finished files, and the folders in it.
fn is_put_away(folder: &Path) -> bool {
    [DONE, FAILED].iter().any(|name| folder.starts_with(name))
}

#[cfg(test)]
mod tests;
