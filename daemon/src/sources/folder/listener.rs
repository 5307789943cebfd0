//! Has the kernel tell what is written into a watched folder: one watch for each folder in it, none
//! through a link.
//!
//! Where the kernel tells nothing, or not of all folders, looking now and then has to do: the
//! caller is told why.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Config, ErrorKind, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Most folders that are watched below one; changes in the others are seen by looking.
const WATCHES: usize = 10_000;
/// File systems whose changes by others the kernel does not tell us (statfs(2)).
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

/// What the kernel told since the last look.
#[derive(Default)]
pub struct Touched {
    /// Below the watched folder.
    pub files: Mutex<HashSet<PathBuf>>,
    /// Somebody wrote something.
    pub wake: Notify,
}

/// The watches of one folder and of those in it.
pub struct Listener {
    root: PathBuf,
    touched: Arc<Touched>,
    watcher: Option<RecommendedWatcher>,
    watched: HashSet<PathBuf>,
}

impl Listener {
    /// Watches nothing yet.
    pub fn new(root: &Path, touched: Arc<Touched>) -> Self {
        Self {
            root: root.into(),
            touched,
            watcher: None,
            watched: HashSet::new(),
        }
    }

    /// Watches just these folders below the root; tried again with each call, what it says is why
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
        // First those that are gone: the watch of a folder that was renamed goes on under its old
        // name.
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
                // Gone by now, or the next look says what is wrong with it.
                Err(error) => tracing::debug!("{}: not watched: {error}", folder.display()),
            }
        }
        if self.watched.len() > before {
            // What came between the look and the listening.
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
        touched
            .files
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(below);
        touched.wake.notify_one();
    };
    RecommendedWatcher::new(tell, Config::default().with_follow_symlinks(false))
}

/// Which limit is reached, and what to do.
fn deaf(error: &notify::Error) -> String {
    let too_many_instances = match &error.kind {
        ErrorKind::Io(error) => {
            error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error())
        }
        _ => false,
    };
    let raise = |key: &str| {
        format!(
            "the kernel tells no changes, since the limit {key} is reached; raise it: sudo sysctl {key}=524288"
        )
    };
    match &error.kind {
        ErrorKind::MaxFilesWatch => raise("fs.inotify.max_user_watches"),
        _ if too_many_instances => raise("fs.inotify.max_user_instances"),
        _ => format!("the kernel tells no changes ({error})"),
    }
}
