//! Watches a folder tree with inotify: one watch for each folder, none through a symbolic link.
//!
//! Where the kernel reports no changes, or not of all folders, polling takes over, and the caller
//! learns why.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Config, ErrorKind, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Most watches below one folder; changes in the rest are found by polling.
const WATCHES: usize = 10_000;
/// Network file systems, whose changes by other machines the kernel does not report (statfs(2)).
const REMOTE: [u64; 9] = [
    0x6969,      // NFS
    0x517b,      // SMB
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB2
    0x6573_5546, // FUSE
    0x0102_1997, // 9P
    0x00c3_6400, // Ceph
    0x5346_414f, // AFS
    0x0bd0_0bd0, // Lustre
];

/// Changes reported since the last scan.
#[derive(Default)]
pub struct Touched {
    /// Paths below the watched folder.
    pub files: Mutex<HashSet<PathBuf>>,
    /// Signals a write.
    pub wake: Notify,
}

/// The watches of a folder tree.
pub struct Listener {
    root: PathBuf,
    touched: Arc<Touched>,
    watcher: Option<RecommendedWatcher>,
    watched: HashSet<PathBuf>,
}

impl Listener {
    /// Creates a listener without watches.
    pub fn new(root: &Path, touched: Arc<Touched>) -> Self {
        Self {
            root: root.into(),
            touched,
            watcher: None,
            watched: HashSet::new(),
        }
    }

    /// Watches exactly these folders below the root. Each call retries; the returned text says why
    /// some are not watched.
    pub fn follow<'a>(&mut self, folders: impl Iterator<Item = &'a PathBuf>) -> Option<String> {
        let remote = rustix::fs::statfs(&self.root)
            .is_ok_and(|stat| REMOTE.contains(&(stat.f_type as u64 & 0xffff_ffff)));
        if remote {
            return None;
        }
        let wanted: HashSet<&PathBuf> = folders.take(WATCHES).collect();
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            None => match listen(&self.root, Arc::clone(&self.touched)) {
                Ok(watcher) => self.watcher.insert(watcher),
                Err(error) => return Some(deaf(&error)),
            },
        };
        // Stale watches go first: the watch of a renamed folder would go on under its old name.
        self.watched.retain(|folder| {
            let keep = wanted.contains(folder);
            if !keep {
                let _ = watcher.unwatch(&self.root.join(folder)); // ended with the folder
            }
            keep
        });
        let mut why = None;
        let before = self.watched.len();
        for folder in wanted {
            if self.watched.contains(folder) {
                continue;
            }
            match watcher.watch(&self.root.join(folder), RecursiveMode::NonRecursive) {
                Ok(()) => _ = self.watched.insert(folder.clone()),
                Err(error) if matches!(error.kind, ErrorKind::MaxFilesWatch) => {
                    why = Some(deaf(&error));
                    break;
                }
                // The folder is gone by now, or the next scan reports the problem.
                Err(error) => tracing::debug!("{}: not watched: {error}", folder.display()),
            }
        }
        if self.watched.len() > before {
            // Catches changes between the scan and the new watch.
            self.touched.wake.notify_one();
        }
        why
    }
}

fn listen(root: &Path, touched: Arc<Touched>) -> notify::Result<RecommendedWatcher> {
    let root = root.to_path_buf();
    let tell = move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        let news = matches!(
            event.kind,
            EventKind::Create(_)
                | EventKind::Modify(ModifyKind::Name(_))
                | EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Other
        );
        if !news {
            return;
        }
        let below = event
            .paths
            .iter()
            .filter_map(|path| Some(path.strip_prefix(&root).ok()?.to_path_buf()));
        touched.files.lock().extend(below);
        touched.wake.notify_one();
    };
    RecommendedWatcher::new(tell, Config::default().with_follow_symlinks(false))
}

/// Names the exhausted limit and its remedy.
fn deaf(error: &notify::Error) -> String {
    let too_many_instances = match &error.kind {
        ErrorKind::Io(error) => {
            error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error())
        }
        _ => false,
    };
    let raise = |key: &str| {
        format!(
            "the kernel reports no changes, since the limit {key} is reached; raise it: sudo \
             sysctl {key}=524288"
        )
    };
    match &error.kind {
        ErrorKind::MaxFilesWatch => raise("fs.inotify.max_user_watches"),
        _ if too_many_instances => raise("fs.inotify.max_user_instances"),
        _ => format!("the kernel reports no changes ({error})"),
    }
}
