//! Reads pictures from beneath the roots, once, within a byte limit and a deadline.
//!
//! A hung mount holds a few threads of its own root and nothing else: reads are counted per root, and once its
//! threads are all stuck the root counts as absent until one comes back.

use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
use rustix::io::Errno;
use tokio::sync::Semaphore;

use crate::queue::Failure;
use crate::spool;

/// Threads that may be inside one mount at a time.
const READERS_PER_ROOT: usize = 4;

/// Reads below the configured roots.
pub struct Reader {
    roots: Vec<Root>,
    state_dir: PathBuf,
    max_bytes: usize,
    deadline: Duration,
}

struct Root {
    path: PathBuf,
    threads: Arc<Semaphore>,
    /// Reads that were given up and whose threads the mount still holds.
    stuck: Arc<AtomicUsize>,
}

impl Reader {
    /// Roots are looked at when something below them is read, not now.
    pub fn new(roots: &[PathBuf], state_dir: &Path, max_bytes: usize, deadline: Duration) -> Self {
        let roots = roots
            .iter()
            .map(|path| Root {
                path: path.clone(),
                threads: Arc::new(Semaphore::new(READERS_PER_ROOT)),
                stuck: Arc::default(),
            })
            .collect();
        Self { roots, state_dir: state_dir.into(), max_bytes, deadline }
    }

    /// Bytes of a path below a root.
    pub async fn read_path(&self, path: &Path) -> Result<Vec<u8>, Failure> {
        let root = self
            .roots
            .iter()
            .filter(|root| path.starts_with(&root.path))
            .max_by_key(|root| root.path.as_os_str().len())
            .ok_or_else(|| Failure::OutsideRoots(path.into()))?;
        let hung = || Failure::RootAbsent {
            root: root.path.clone(),
            error: format!("it did not answer within {:.0?}", self.deadline),
        };
        if root.stuck.load(Ordering::Acquire) > 0 {
            // While the mount holds a thread nobody else waits for it: other pictures have their turn.
            return Err(hung());
        }
        let permit =
            tokio::time::timeout(self.deadline, Arc::clone(&root.threads).acquire_owned()).await.map_err(|_| hung())?;
        let (root_path, path, max_bytes) = (root.path.clone(), path.to_path_buf(), self.max_bytes);
        // Whoever swaps second knows that the other was first.
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

    /// Bytes spooled by the intake; the state folder is local.
    pub async fn read_spooled(&self, file: &str) -> Result<Vec<u8>, Failure> {
        let (state_dir, name) = (self.state_dir.clone(), file.to_string());
        let reading = tokio::task::spawn_blocking(move || spool::read(&state_dir, &name));
        let read = reading.await.unwrap_or_else(|error| Err(error.into()));
        read.map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::InvalidInput => Failure::SpoolMissing(file.into()),
            // Too many open files, a bad sector: worth another look.
            _ => Failure::FileMissing { path: self.state_dir.join(file), error: error.to_string() },
        })
    }
}

fn read_beneath(root: &Path, path: &Path, max_bytes: usize) -> Result<Vec<u8>, Failure> {
    let absent = |error: Errno| Failure::RootAbsent { root: root.into(), error: describe(error) };
    let missing = |error: std::io::Error| Failure::FileMissing { path: path.into(), error: error.to_string() };
    let folder = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(absent)?;
    let Ok(below) = path.strip_prefix(root) else { return Err(Failure::OutsideRoots(path.into())) };
    let file = match open_file(&folder, below) {
        Ok(file) => file,
        // A link or .. that leads out.
        Err(Errno::XDEV | Errno::LOOP) => return Err(Failure::OutsideRoots(path.into())),
        Err(Errno::ISDIR | Errno::NXIO | Errno::NODEV) => return Err(Failure::NotAFile(path.into())),
        // A mount whose server forgot it, or does not answer.
        Err(error @ (Errno::STALE | Errno::IO | Errno::HOSTDOWN | Errno::TIMEDOUT)) => return Err(absent(error)),
        Err(error) => return Err(missing(error.into())),
    };
    let stat = fstat(&file).map_err(absent)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Failure::NotAFile(path.into()));
    }
    let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    if size > max_bytes as u64 {
        return Err(Failure::TooLarge { bytes: size, limit: max_bytes });
    }
    let mut bytes = Vec::with_capacity(size as usize);
    // It may have grown since: one byte beyond the limit tells.
    let file = std::fs::File::from(file);
    (&file).take(max_bytes as u64 + 1).read_to_end(&mut bytes).map_err(missing)?;
    if bytes.len() > max_bytes {
        return Err(Failure::TooLarge { bytes: bytes.len() as u64, limit: max_bytes });
    }
    let after = fstat(&file).map_err(absent)?;
    if (after.st_size, after.st_mtime, after.st_mtime_nsec) != (stat.st_size, stat.st_mtime, stat.st_mtime_nsec) {
        return Err(missing(std::io::Error::other("it is still being written")));
    }
    Ok(bytes)
}

/// Non-blocking, so that a pipe without a writer or a device cannot hold the thread.
fn open_file(folder: &OwnedFd, below: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat2(folder, below, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
}

fn describe(error: Errno) -> String {
    std::io::Error::from(error).to_string()
}

/// Bytes of a file the operator named on the command line, within the limit.
pub fn read_given(path: &Path, max_bytes: usize) -> Result<Vec<u8>, Failure> {
    let missing = |error: std::io::Error| Failure::FileMissing { path: path.into(), error: error.to_string() };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|error| missing(error.into()))?;
    let stat = fstat(&file).map_err(|error| missing(error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Failure::NotAFile(path.into()));
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(max_bytes as u64 + 1).read_to_end(&mut bytes).map_err(missing)?;
    if bytes.len() > max_bytes {
        return Err(Failure::TooLarge { bytes: bytes.len() as u64, limit: max_bytes });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn reader(root: &Path) -> Reader {
        Reader::new(&[root.to_path_buf()], root, 1000, Duration::from_secs(2))
    }

    #[tokio::test]
    async fn a_file_below_the_root_is_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        std::fs::write(folder.path().join("a/x.jpg"), b"bytes").unwrap();
        symlink("a/x.jpg", folder.path().join("inside")).unwrap();
        for name in ["a/x.jpg", "inside"] {
            assert_eq!(reader(folder.path()).read_path(&folder.path().join(name)).await.unwrap(), b"bytes");
        }
    }

    #[tokio::test]
    async fn a_link_that_leads_out_of_the_root_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        symlink("/etc/passwd", folder.path().join("link")).unwrap();
        symlink("/etc", folder.path().join("folder")).unwrap();
        for name in ["link", "folder/passwd", "../x"] {
            let read = reader(folder.path()).read_path(&folder.path().join(name)).await;
            assert!(matches!(read, Err(Failure::OutsideRoots(_))), "{name}: {read:?}");
        }
    }

    #[tokio::test]
    async fn a_folder_a_pipe_and_a_device_are_no_files_and_do_not_hang() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("dir")).unwrap();
        rustix::fs::mknodat(CWD, folder.path().join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        for path in [folder.path().join("dir"), folder.path().join("pipe")] {
            let read = reader(folder.path()).read_path(&path).await;
            assert!(matches!(read, Err(Failure::NotAFile(_))), "{path:?}: {read:?}");
        }
        let read = reader(Path::new("/dev")).read_path(Path::new("/dev/zero")).await;
        assert!(matches!(read, Err(Failure::NotAFile(_))), "{read:?}");
    }

    #[tokio::test]
    async fn a_missing_file_is_told_from_a_missing_root() {
        let folder = tempfile::tempdir().unwrap();
        let missing = reader(folder.path()).read_path(&folder.path().join("x")).await;
        assert!(matches!(missing, Err(Failure::FileMissing { .. })), "{missing:?}");
        let root = folder.path().join("mount");
        let absent = reader(&root).read_path(&root.join("x")).await;
        assert!(matches!(absent, Err(Failure::RootAbsent { .. })), "{absent:?}");
    }

    #[tokio::test]
    async fn a_file_beyond_the_byte_limit_is_refused_without_reading_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("big"), vec![0; 1001]).unwrap();
        let read = reader(folder.path()).read_path(&folder.path().join("big")).await;
        assert_eq!(read, Err(Failure::TooLarge { bytes: 1001, limit: 1000 }));
    }
}
