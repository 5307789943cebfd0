//! Reads pictures beneath the roots, once, within a byte limit and a deadline.
//!
//! A hung mount blocks only threads of its own root. Once all of them are stuck, the root counts as
//! absent until one returns.

use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, open};
use rustix::io::Errno;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::domain::{ImageId, Standing};
use crate::files::{numbers_last, special, standing_of, stat_beneath};
use crate::queue::Failure;
use crate::spool;

/// Most threads inside one mount at a time.
const READERS_PER_ROOT: usize = 4;
/// Longest wait for checks of files below one root. A slower mount is checked again the next time.
const LOOK_DEADLINE: Duration = Duration::from_secs(1);

/// Reader of files below the configured roots.
pub struct Reader {
    roots: Vec<Root>,
    state_dir: PathBuf,
    max_bytes: usize,
    deadline: Duration,
}

struct Root {
    path: PathBuf,
    threads: Arc<Semaphore>,
    /// Permit for checks of files that are not read yet, in addition to the readers.
    looker: Arc<Semaphore>,
    /// Number of reads that were given up and whose threads still hang in the mount.
    stuck: Arc<AtomicUsize>,
}

impl Reader {
    /// Makes a reader. A root is opened when a file below it is read, not now.
    pub fn new(roots: &[PathBuf], state_dir: &Path, max_bytes: usize, deadline: Duration) -> Self {
        let roots = roots
            .iter()
            .map(|path| Root {
                path: path.clone(),
                threads: Arc::new(Semaphore::new(READERS_PER_ROOT)),
                looker: Arc::new(Semaphore::new(1)),
                stuck: Arc::default(),
            })
            .collect();
        Self {
            roots,
            state_dir: state_dir.into(),
            max_bytes,
            deadline,
        }
    }

    /// Returns the bytes of a file below a root.
    pub async fn read_path(&self, path: &Path) -> Result<Vec<u8>, Failure> {
        Ok(self.read_standing(path).await?.0)
    }

    /// Returns the bytes, with the file's identity at the time of reading.
    pub async fn read_standing(&self, path: &Path) -> Result<(Vec<u8>, Standing), Failure> {
        let root = self
            .root_of(path)
            .ok_or_else(|| Failure::OutsideRoots(path.into()))?;
        let hung = || Failure::RootAbsent {
            root: root.path.clone(),
            error: format!("it did not answer within {:.0?}", self.deadline),
        };
        if root.stuck.load(Ordering::Acquire) > 0 {
            // A root whose mount hangs is not waited for again: other pictures have their turn.
            return Err(hung());
        }
        let permit = tokio::time::timeout(self.deadline, Arc::clone(&root.threads).acquire_owned())
            .await
            .map_err(|_| hung())?;
        let (root_path, path, max_bytes) = (root.path.clone(), path.to_path_buf(), self.max_bytes);
        // The thread and the caller both swap the flag; the second one sees that the other was
        // first.
        let over = Arc::new(AtomicBool::new(false));
        let (thread_over, stuck) = (Arc::clone(&over), Arc::clone(&root.stuck));
        let reading = tokio::task::spawn_blocking(move || {
            let _permit = permit; // held by the thread, however long the mount keeps it
            let read = read_beneath(&root_path, &path, max_bytes);
            if thread_over.swap(true, Ordering::AcqRel) {
                stuck.fetch_sub(1, Ordering::AcqRel);
            }
            read
        });
        match tokio::time::timeout(self.deadline, reading).await {
            Ok(Ok(read)) => read,
            Ok(Err(_)) => Err(hung()),
            Err(_) => {
                root.stuck.fetch_add(1, Ordering::AcqRel);
                if over.swap(true, Ordering::AcqRel) {
                    root.stuck.fetch_sub(1, Ordering::AcqRel);
                }
                Err(hung())
            }
        }
    }

    /// Checks files without reading them. Files below a root that does not answer in time are left
    /// out.
    pub async fn look(
        &self,
        paths: Vec<(ImageId, PathBuf)>,
    ) -> Vec<(ImageId, Result<Standing, Failure>)> {
        let mut looks = Vec::with_capacity(paths.len());
        let mut by_root: HashMap<&Path, Vec<(ImageId, PathBuf)>> = HashMap::new();
        for (id, path) in paths {
            match self.root_of(&path) {
                Some(root) => by_root.entry(&root.path).or_default().push((id, path)),
                None => looks.push((id, Err(Failure::OutsideRoots(path)))),
            }
        }
        let mut looking = JoinSet::new();
        for root in &self.roots {
            let Some(paths) = by_root.remove(root.path.as_path()) else {
                continue;
            };
            let Ok(permit) = Arc::clone(&root.looker).try_acquire_owned() else {
                continue;
            };
            let root = root.path.clone();
            looking.spawn_blocking(move || {
                let _permit = permit; // held by the thread, however long the mount keeps it
                look_beneath(&root, paths)
            });
        }
        let all = async {
            while let Some(looked) = looking.join_next().await {
                looks.extend(looked.into_iter().flatten());
            }
        };
        // A late thread ends when the mount answers; its result is dropped.
        let _ = tokio::time::timeout(LOOK_DEADLINE, all).await;
        looking.detach_all();
        looks
    }

    fn root_of(&self, path: &Path) -> Option<&Root> {
        let around = self
            .roots
            .iter()
            .filter(|root| path.starts_with(&root.path));
        around.max_by_key(|root| root.path.as_os_str().len())
    }

    /// Returns bytes that intake spooled; the state folder is local.
    pub async fn read_spooled(&self, file: &str) -> Result<Vec<u8>, Failure> {
        let (state_dir, name) = (self.state_dir.clone(), file.to_string());
        let reading = tokio::task::spawn_blocking(move || spool::read(&state_dir, &name));
        let read = reading.await.unwrap_or_else(|error| Err(error.into()));
        read.map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::InvalidInput => Failure::SpoolMissing(file.into()),
            // Too many open files, or a bad sector: worth a retry.
            _ => Failure::FileMissing {
                path: self.state_dir.join(file),
                error: error.to_string(),
            },
        })
    }
}

fn read_beneath(
    root: &Path,
    path: &Path,
    max_bytes: usize,
) -> Result<(Vec<u8>, Standing), Failure> {
    let missing = |error: std::io::Error| Failure::FileMissing {
        path: path.into(),
        error: error.to_string(),
    };
    let folder = open_root(root)?;
    let (file, stat) = open_regular(&folder, root, path)?;
    let standing = standing_of(&stat, numbers_last(&file));
    let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    if size > max_bytes as u64 {
        return Err(Failure::TooLarge {
            bytes: size,
            limit: max_bytes,
        });
    }
    let mut bytes = Vec::with_capacity(size as usize);
    // The file may have grown since: read one byte beyond the limit to notice.
    let file = std::fs::File::from(file);
    (&file)
        .take(max_bytes as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(missing)?;
    if bytes.len() > max_bytes {
        return Err(Failure::TooLarge {
            bytes: bytes.len() as u64,
            limit: max_bytes,
        });
    }
    let after = fstat(&file).map_err(|error| failed(root, path, error))?;
    if standing_of(&after, false).stamp != standing.stamp {
        return Err(missing(std::io::Error::other("it is still being written")));
    }
    Ok((bytes, standing))
}

fn look_beneath(
    root: &Path,
    paths: Vec<(ImageId, PathBuf)>,
) -> Vec<(ImageId, Result<Standing, Failure>)> {
    let folder = open_root(root);
    let look = |path: &Path| {
        let folder = folder.as_ref().map_err(Clone::clone)?;
        // Opened although nothing is read: on NFS that asks the server, and a file without read
        // permission waits too.
        let (file, stat) = open_regular(folder, root, path)?;
        Ok(standing_of(&stat, numbers_last(&file)))
    };
    paths
        .into_iter()
        .map(|(id, path)| (id, look(&path)))
        .collect()
}

fn open_root(root: &Path) -> Result<OwnedFd, Failure> {
    open(
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| Failure::RootAbsent {
        root: root.into(),
        error: describe(error),
    })
}

/// Opens a regular file below a root for reading.
fn open_regular(folder: &OwnedFd, root: &Path, path: &Path) -> Result<(OwnedFd, Stat), Failure> {
    let failed = |error| failed(root, path, error);
    let Ok(below) = path.strip_prefix(root) else {
        return Err(Failure::OutsideRoots(path.into()));
    };
    // Checked before it is opened for reading, so that no device or pipe is opened.
    let (_, stat) = stat_beneath(folder, below, OFlags::PATH).map_err(failed)?;
    regular(path, stat)?;
    let (file, stat) = stat_beneath(folder, below, OFlags::RDONLY).map_err(failed)?;
    Ok((file, regular(path, stat)?))
}

fn regular(path: &Path, stat: Stat) -> Result<Stat, Failure> {
    match special(FileType::from_raw_mode(stat.st_mode)) {
        None => Ok(stat),
        Some(kind) => Err(Failure::NotAFile {
            path: path.into(),
            kind,
        }),
    }
}

fn failed(root: &Path, path: &Path, error: Errno) -> Failure {
    match error {
        Errno::LOOP => Failure::Link(path.into()),
        Errno::XDEV => Failure::OutsideRoots(path.into()),
        // The mount's server is unreachable or has forgotten the file handle.
        Errno::STALE | Errno::IO | Errno::HOSTDOWN | Errno::TIMEDOUT => Failure::RootAbsent {
            root: root.into(),
            error: describe(error),
        },
        _ => Failure::FileMissing {
            path: path.into(),
            error: describe(error),
        },
    }
}

fn describe(error: Errno) -> String {
    std::io::Error::from(error).to_string()
}

/// Reads a file below a folder that the operator named on the command line, without following
/// links.
pub fn read_below(folder: &Path, path: &Path, max_bytes: usize) -> Result<Vec<u8>, Failure> {
    Ok(read_beneath(folder, path, max_bytes)?.0)
}

/// Reads a file that the operator named on the command line, within the limit.
pub fn read_given(path: &Path, max_bytes: usize) -> Result<Vec<u8>, Failure> {
    let missing = |error: std::io::Error| Failure::FileMissing {
        path: path.into(),
        error: error.to_string(),
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|error| missing(error.into()))?;
    let stat = fstat(&file).map_err(|error| missing(error.into()))?;
    regular(path, stat)?;
    let mut bytes = Vec::new();
    std::fs::File::from(file)
        .take(max_bytes as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(missing)?;
    if bytes.len() > max_bytes {
        return Err(Failure::TooLarge {
            bytes: bytes.len() as u64,
            limit: max_bytes,
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
