//! Looking into one watched folder, blocking: what is new, what has been still long enough, what is gone; and putting
//! away what is done. Knows no queue and no database.
//!
//! A look opens every known folder but lists only those whose modification time changed; a full look lists all and
//! finds files that were rewritten in place.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use globset::GlobSet;
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, renameat_with};
use sha2::{Digest, Sha256};

use crate::domain::{FileKey, Stamp};

/// Where files go that are done with, below the watched folder.
pub const DONE: &str = "done";
/// Where files go whose image failed.
pub const FAILED: &str = "failed";

/// What a look goes by.
pub struct Rules {
    /// Folders inside it too.
    pub recursive: bool,
    /// Names or paths below the folder that are taken…
    pub include: GlobSet,
    /// …unless one of these matches as well.
    pub exclude: GlobSet,
    /// Size and time must have been still for so long.
    pub settle: Duration,
}

/// A file that may be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Below the folder.
    pub below: PathBuf,
    /// Names it in the database.
    pub key: FileKey,
    /// Size and time when it was still.
    pub stamp: Stamp,
}

/// What a look found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Still long enough.
    pub ready: Vec<Found>,
    /// Seen before and no longer there; only a full look knows.
    pub gone: Vec<FileKey>,
    /// Not still long enough yet.
    pub settling: usize,
    /// It is a mount point now.
    pub mounted: bool,
    /// The first folder or name that could not be used, in words.
    pub trouble: Option<String>,
}

/// What became of a file that was to be put away.
#[derive(Debug, PartialEq, Eq)]
pub enum PutAway {
    /// Moved or deleted, or gone already, or another file by now: forget it.
    Done,
    /// Later again.
    Failed(String),
}

/// One watched folder.
pub struct Scanner {
    root: PathBuf,
    rules: Rules,
    /// It has been a mount.
    mounted: bool,
    seen: HashMap<FileKey, Stamp>,
    folders: HashMap<PathBuf, Listed>,
    settling: HashMap<PathBuf, (Stamp, Instant)>,
}

/// A folder as it was when last listed.
#[derive(Clone, Copy)]
struct Listed {
    mtime: (i64, i64),
    /// Listed twice at this time: nothing came in the same tick of the file system's clock.
    twice: bool,
}

impl Scanner {
    /// A folder of which these files were taken before.
    pub fn new(root: PathBuf, rules: Rules, mounted: bool, seen: HashMap<FileKey, Stamp>) -> Self {
        Self { root, rules, mounted, seen, folders: HashMap::new(), settling: HashMap::new() }
    }

    /// Looks once. The error says why the folder as a whole cannot be used now; nothing is forgotten then.
    pub fn look(&mut self, full: bool, now: Instant) -> Result<Looked, String> {
        let mut looked = Looked { mounted: self.here()?, ..Looked::default() };
        self.mounted |= looked.mounted;
        let mut present = full.then(HashSet::new);
        let mut waiting: Vec<PathBuf> = self.folders.keys().cloned().collect();
        if !self.folders.contains_key(Path::new("")) {
            waiting.push(PathBuf::new());
        }
        while let Some(folder) = waiting.pop() {
            match self.list_if_changed(&folder, full, now, &mut present) {
                Ok(inner) => waiting.extend(inner),
                Err(error) if folder.as_os_str().is_empty() => return Err(error.to_string()),
                Err(error) => {
                    self.folders.remove(&folder);
                    // One that was deleted is no trouble; one that may not be read hides files, so nothing is gone.
                    if error.kind() != io::ErrorKind::NotFound {
                        present = None;
                        looked.trouble.get_or_insert_with(|| format!("{}: {error}", folder.display()));
                    }
                }
            }
        }
        if let Some(present) = present {
            looked.gone = self.seen.keys().filter(|key| !present.contains(*key)).copied().collect();
            self.seen.retain(|key, _| present.contains(key));
        }
        self.collect_ready(now, &mut looked);
        Ok(looked)
    }

    /// Somebody said that this file was written.
    pub fn touched(&mut self, below: &Path, now: Instant) {
        let hidden = below.components().any(|part| match part {
            Component::Normal(name) => is_hidden_or_temporary(name),
            _ => true,
        });
        if !hidden && !is_put_away(below) && self.wanted(below) {
            self.consider(below, now);
        }
    }

    /// These were accepted: they are on disk.
    pub fn taken(&mut self, found: &[Found]) {
        for file in found {
            self.settling.remove(&file.below);
            self.seen.insert(file.key, file.stamp);
        }
    }

    /// Moves or deletes a file whose image has ended, unless it is another file by now.
    pub fn put_away(&mut self, below: &Path, stamp: Stamp, failed: bool, delete: bool) -> PutAway {
        let file = self.root.join(below);
        let result = match fs::symlink_metadata(&file) {
            Ok(metadata) if stamp_of(&metadata) != stamp => {
                self.seen.remove(&key_of(below));
                self.consider(below, Instant::now());
                Ok(())
            }
            Ok(_) if delete && !failed => fs::remove_file(&file),
            Ok(_) => move_below(&file, &self.root.join(if failed { FAILED } else { DONE }), below),
            Err(error) => Err(error),
        };
        match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                PutAway::Failed(format!("{} cannot be put away: {error}", file.display()))
            }
            _ => {
                self.seen.remove(&key_of(below));
                PutAway::Done
            }
        }
    }

    /// How many files it knows.
    pub fn known(&self) -> usize {
        self.seen.len()
    }

    /// Whether the folder is there, and a mount point.
    fn here(&self) -> Result<bool, String> {
        let root = fs::metadata(&self.root).map_err(|error| error.to_string())?;
        if !root.is_dir() {
            return Err("it is not a folder".into());
        }
        let above = self.root.parent().map_or(Ok(root.dev()), |above| fs::metadata(above).map(|above| above.dev()));
        let mounted = above.map_err(|error| error.to_string())? != root.dev();
        if self.mounted && !mounted {
            return Err("nothing is mounted there now; it has been a mount".into());
        }
        Ok(mounted)
    }

    /// Folders found inside it that were not known.
    fn list_if_changed(
        &mut self,
        folder: &Path,
        full: bool,
        now: Instant,
        present: &mut Option<HashSet<FileKey>>,
    ) -> io::Result<Vec<PathBuf>> {
        let path = self.root.join(folder);
        // Opened, not only asked: on NFS that is what makes the client ask the server.
        let metadata = File::open(&path)?.metadata()?;
        let mtime = (metadata.mtime(), metadata.mtime_nsec());
        let before = self.folders.get(folder).copied();
        let same = before.is_some_and(|before| before.mtime == mtime);
        if same && !full && before.is_some_and(|before| before.twice) {
            return Ok(Vec::new());
        }
        let mut inner = Vec::new();
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            let name = entry.file_name();
            if is_hidden_or_temporary(&name) {
                continue;
            }
            let below = folder.join(&name);
            let kind = entry.file_type()?;
            if kind.is_dir() {
                if self.rules.recursive && !is_put_away(&below) && !self.folders.contains_key(&below) {
                    inner.push(below);
                }
            } else if kind.is_file() && self.wanted(&below) {
                let key = key_of(&below);
                if let Some(present) = present {
                    present.insert(key);
                }
                if full || !self.seen.contains_key(&key) {
                    self.consider(&below, now);
                }
            }
        }
        self.folders.insert(folder.to_path_buf(), Listed { mtime, twice: same });
        Ok(inner)
    }

    fn wanted(&self, below: &Path) -> bool {
        self.rules.include.is_match(below) && !self.rules.exclude.is_match(below)
    }

    /// Begins to wait until a file is still, unless just this one was taken.
    fn consider(&mut self, below: &Path, now: Instant) {
        let Ok(metadata) = fs::symlink_metadata(self.root.join(below)) else { return };
        let stamp = stamp_of(&metadata);
        if !metadata.is_file() || self.seen.get(&key_of(below)) == Some(&stamp) {
            return;
        }
        let waiting = self.settling.entry(below.to_path_buf()).or_insert((stamp, now));
        if waiting.0 != stamp {
            *waiting = (stamp, now);
        }
    }

    fn collect_ready(&mut self, now: Instant, looked: &mut Looked) {
        let root = &self.root;
        let settle = self.rules.settle;
        self.settling.retain(|below, (stamp, since)| {
            let path = root.join(below);
            let Ok(metadata) = fs::symlink_metadata(&path) else { return false };
            let over = now.duration_since(*since) >= settle;
            // Opened when it counts: on NFS what is only asked about is answered from memory for seconds, as if still.
            let current = if over { opened(&path).unwrap_or(stamp_of(&metadata)) } else { stamp_of(&metadata) };
            if current != *stamp {
                (*stamp, *since) = (current, now);
            } else if over {
                if below.to_str().is_some() {
                    looked.ready.push(Found { below: below.clone(), key: key_of(below), stamp: current });
                } else {
                    looked.trouble.get_or_insert_with(|| format!("{}: the name is not UTF-8", below.display()));
                }
            }
            true
        });
        looked.ready.sort_by(|a, b| (a.stamp.mtime_ns, &a.below).cmp(&(b.stamp.mtime_ns, &b.below)));
        looked.settling = self.settling.len() - looked.ready.len();
    }
}

/// Names a file below a folder, in 16 bytes.
pub fn key_of(below: &Path) -> FileKey {
    let digest = Sha256::digest(below.as_os_str().as_encoded_bytes());
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    key
}

/// The stamp of a file by the server's word; `None` where it may not be opened, which the queue will say.
fn opened(path: &Path) -> Option<Stamp> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    File::from(file).metadata().ok().map(|metadata| stamp_of(&metadata))
}

fn stamp_of(metadata: &Metadata) -> Stamp {
    Stamp {
        size: metadata.size().cast_signed(),
        mtime_ns: metadata.mtime().wrapping_mul(1_000_000_000).wrapping_add(metadata.mtime_nsec()),
    }
}

/// Names that senders use while a file is not whole, and what file managers leave about.
fn is_hidden_or_temporary(name: &OsStr) -> bool {
    const ENDINGS: [&str; 8] = ["~", ".tmp", ".temp", ".part", ".partial", ".crdownload", ".swp", ".filepart"];
    let name = name.to_string_lossy().to_ascii_lowercase();
    name.starts_with(['.', '#', '~']) || ENDINGS.iter().any(|ending| name.ends_with(ending))
}

fn is_put_away(below: &Path) -> bool {
    [DONE, FAILED].iter().any(|folder| below.starts_with(folder))
}

/// Keeps the folders below `to` and never replaces a file that is there.
fn move_below(file: &Path, to: &Path, below: &Path) -> io::Result<()> {
    let target = to.join(below);
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut candidate = target.clone();
    for number in 2.. {
        match renameat_with(CWD, file, CWD, &candidate, RenameFlags::NOREPLACE) {
            Ok(()) => break,
            Err(rustix::io::Errno::EXIST) => {}
            // NFS and others know no such rename; the name is asked for first, and only we move files here.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
                if !candidate.try_exists()? {
                    return fs::rename(file, &candidate);
                }
            }
            Err(error) => return Err(error.into()),
        }
        let mut name = target.file_stem().unwrap_or_default().to_os_string();
        name.push(format!("-{number}"));
        if let Some(extension) = target.extension() {
            name.push(".");
            name.push(extension);
        }
        candidate = target.with_file_name(name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use globset::{Glob, GlobSetBuilder};

    const SETTLE: Duration = Duration::from_secs(2);

    fn globs(patterns: &[&str]) -> GlobSet {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            set.add(Glob::new(pattern).unwrap());
        }
        set.build().unwrap()
    }

    fn rules() -> Rules {
        Rules { recursive: true, include: globs(&["*.jpg"]), exclude: globs(&["**/skip/**"]), settle: SETTLE }
    }

    fn scanner(root: &Path) -> Scanner {
        Scanner::new(root.to_path_buf(), rules(), false, HashMap::new())
    }

    fn names(looked: &Looked) -> Vec<&str> {
        let mut names: Vec<_> = looked.ready.iter().map(|found| found.below.to_str().unwrap()).collect();
        names.sort_unstable();
        names
    }

    fn later(times: u32) -> Instant {
        Instant::now() + SETTLE * times
    }

    #[test]
    fn a_file_is_ready_once_it_has_been_still_and_a_growing_one_waits() {
        let folder = tempfile::tempdir().unwrap();
        let mut scanner = scanner(folder.path());
        fs::write(folder.path().join("a.jpg"), "a").unwrap();
        fs::write(folder.path().join("b.jpg"), "b").unwrap();
        assert!(scanner.look(true, later(0)).unwrap().ready.is_empty());
        fs::write(folder.path().join("b.jpg"), "bigger").unwrap();
        let looked = scanner.look(false, later(1)).unwrap();
        assert_eq!((names(&looked), looked.settling), (vec!["a.jpg"], 1));
        scanner.taken(&looked.ready);
        let looked = scanner.look(false, later(2)).unwrap();
        assert_eq!(names(&looked), ["b.jpg"]);
        // Not accepted (the queue was full): it is ready again.
        assert_eq!(names(&scanner.look(false, later(3)).unwrap()), ["b.jpg"]);
        scanner.taken(&looked.ready);
        assert!(scanner.look(true, later(4)).unwrap().ready.is_empty());
    }

    #[test]
    fn hidden_temporary_unwanted_linked_and_put_away_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        for inner in ["in/deep", "in/skip", "done", "failed", ".cache"] {
            fs::create_dir_all(folder.path().join(inner)).unwrap();
        }
        for name in [
            "a.jpg",
            "in/deep/b.jpg",
            ".hidden.jpg",
            "c.jpg.part",
            "d.tmp",
            "notes.txt",
            "in/skip/e.jpg",
            "done/f.jpg",
            "failed/g.jpg",
            ".cache/h.jpg",
            "~i.jpg",
        ] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join("link.jpg")).unwrap();
        let mut scanner = scanner(folder.path());
        scanner.look(true, later(0)).unwrap();
        for name in [".hidden.jpg", "done/f.jpg", "notes.txt", "in/skip/e.jpg", ".cache/h.jpg"] {
            scanner.touched(Path::new(name), later(0));
        }
        assert_eq!(names(&scanner.look(false, later(1)).unwrap()), ["a.jpg", "in/deep/b.jpg"]);
    }

    #[test]
    fn only_changed_folders_are_listed_and_a_full_look_finds_what_was_rewritten_or_went() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        for name in ["in/a.jpg", "in/b.jpg"] {
            fs::write(folder.path().join(name), "old").unwrap();
        }
        let mut scanner = scanner(folder.path());
        scanner.look(true, later(0)).unwrap();
        let looked = scanner.look(false, later(1)).unwrap();
        scanner.taken(&looked.ready);
        scanner.look(false, later(2)).unwrap();
        fs::write(folder.path().join("in/a.jpg"), "rewritten in place").unwrap();
        assert_eq!(scanner.look(false, later(3)).unwrap().settling, 0);
        fs::remove_file(folder.path().join("in/b.jpg")).unwrap();
        let looked = scanner.look(true, later(4)).unwrap();
        assert_eq!((looked.gone, looked.settling), (vec![key_of(Path::new("in/b.jpg"))], 1));
        assert_eq!(names(&scanner.look(false, later(5)).unwrap()), ["in/a.jpg"]);
        fs::write(folder.path().join("in/c.jpg"), "new").unwrap();
        scanner.look(false, later(6)).unwrap();
        assert_eq!(names(&scanner.look(false, later(7)).unwrap()), ["in/a.jpg", "in/c.jpg"]);
    }

    #[test]
    fn a_folder_that_is_away_or_was_a_mount_forgets_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("mount");
        fs::create_dir(&root).unwrap();
        let seen = HashMap::from([(key_of(Path::new("a.jpg")), Stamp { size: 1, mtime_ns: 1 })]);
        let mut was_mount = Scanner::new(root.clone(), rules(), true, seen.clone());
        assert!(was_mount.look(true, later(0)).unwrap_err().contains("nothing is mounted there now"));
        assert_eq!(was_mount.known(), 1);
        fs::remove_dir(&root).unwrap();
        let mut absent = Scanner::new(root, rules(), false, seen);
        assert!(absent.look(true, later(0)).is_err());
        assert_eq!(absent.known(), 1);
    }

    #[test]
    fn files_are_put_away_beside_their_namesakes_and_a_new_file_of_the_name_stays() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("in")).unwrap();
        let mut scanner = scanner(root);
        let put = |scanner: &mut Scanner, content: &str, failed, delete| {
            fs::write(root.join("in/a.jpg"), content).unwrap();
            let stamp = stamp_of(&fs::metadata(root.join("in/a.jpg")).unwrap());
            assert_eq!(scanner.put_away(Path::new("in/a.jpg"), stamp, failed, delete), PutAway::Done);
        };
        put(&mut scanner, "one", false, false);
        put(&mut scanner, "two", false, false);
        put(&mut scanner, "three", true, true);
        put(&mut scanner, "four", false, true);
        let read = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_default();
        assert_eq!((read("done/in/a.jpg"), read("done/in/a-2.jpg")), ("one".into(), "two".into()));
        assert_eq!((read("failed/in/a.jpg"), read("in/a.jpg")), ("three".into(), String::new()));
        fs::write(root.join("in/a.jpg"), "newer than what was done").unwrap();
        let old = Stamp { size: 3, mtime_ns: 5 };
        assert_eq!(scanner.put_away(Path::new("in/a.jpg"), old, false, true), PutAway::Done);
        assert_eq!(read("in/a.jpg"), "newer than what was done");
    }
}
