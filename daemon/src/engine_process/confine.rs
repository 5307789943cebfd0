//! Confinement: an engine process gives up files, network, new privileges and other processes once
//! its models are loaded, a camera process once its camera is open. A frame producer, which becomes
//! a program of the system or of the operator, gives up kithd's own files.
//!
//! Pictures are untrusted, and a decoder may one day have a vulnerability; an exploit should find
//! nothing to reach. The daemon itself is not confined here, and it watches limits of memory and
//! time. Each kernel applies what it supports: nothing here fails the engine, but the description
//! says how far the confinement goes.
//!
//! Afterwards the engine opens no file, so it must have read everything it will need (also the
//! self-test's picture). It cannot read its own figures under `/proc`, and the daemon removes its
//! socket's file. Panics are caught as before, but backtraces have no names.
//! `available_parallelism` no longer sees a container's limit: call it before.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, RestrictSelfAttr,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
    path_beneath_rules,
};

/// The resources that a process still needs.
#[derive(Debug, Clone)]
pub enum Profile {
    /// Its listening socket, memory and threads.
    Cpu,
    /// A camera that is open already, pipes, memory and threads.
    Camera,
    /// Also the driver's devices and libraries, read only.
    Cuda {
        /// Folder of compiled kernels, the only one that stays writable.
        cache: PathBuf,
    },
    /// Devices, network, other programs, and all files but kithd's own.
    Producer {
        /// Files and folders that it must not see.
        hidden: Vec<PathBuf>,
    },
}

/// The confinement that the kernel applied. Its text is for the log and for Describe.
#[derive(Debug)]
pub struct Confinement {
    profile: Profile,
    privileges: Result<(), String>,
    /// The ABI in force, and true if every thread of the process is bound by it.
    landlock: Result<(ABI, bool), String>,
    /// Number of system calls that are allowed (cpu, camera) or refused (cuda, producer).
    calls: Result<usize, String>,
    /// Threads that were started before.
    earlier_threads: usize,
}

/// Irrevocably gives up what `profile` does not need.
///
/// For cpu and camera it binds the calling thread and threads started afterwards, so call it while
/// there is no other thread. For cuda, whose driver has started threads by then, the refused system
/// calls bind all of them; the file rules do from Landlock's ABI 8 on, and the description says if
/// they do not.
pub fn confine(profile: &Profile) -> Confinement {
    Confinement {
        profile: profile.clone(),
        earlier_threads: earlier_threads(),
        privileges: rustix::thread::set_no_new_privs(true).map_err(|error| error.to_string()),
        // Before the filter of system calls, which no longer allows Landlock's own.
        landlock: restrict_files(profile)
            .map_err(|error| error.to_string())
            .and_then(|status| enforced(&status)),
        calls: seccomp::restrict(profile),
    }
}

/// Returns the number of threads besides this one. A joined thread may still be visible for a
/// moment.
fn earlier_threads() -> usize {
    const LOOKS: usize = 50;
    let count = || {
        std::fs::read_dir("/proc/self/task").map_or(0, |threads| threads.count().saturating_sub(1))
    };
    for _ in 1..LOOKS {
        if count() == 0 {
            return 0;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    count()
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.landlock, &self.profile) {
            (Ok((abi, _)), profile) => {
                match profile {
                    Profile::Cpu | Profile::Camera => write!(f, "files: none")?,
                    Profile::Cuda { cache } => {
                        write!(f, "files: the driver's, {} writable", cache.display())?;
                    }
                    Profile::Producer { .. } => write!(f, "files: all but kithd's")?,
                }
                if *abi >= ABI::V4 && !matches!(profile, Profile::Producer { .. }) {
                    write!(f, ", TCP: none")?;
                }
                write!(f, " (Landlock ABI {abi})")?;
            }
            (Err(why), Profile::Cpu | Profile::Camera) if self.calls.is_ok() => {
                write!(
                    f,
                    "files: none to open, by the system-call filter alone ({why})"
                )?;
            }
            (Err(why), _) => write!(f, "files: not restricted ({why})")?,
        }
        match (&self.calls, &self.profile) {
            (Ok(count), Profile::Cpu | Profile::Camera) => {
                write!(f, "; system calls: {count} allowed")?;
            }
            (_, Profile::Producer { .. }) => {}
            (Ok(count), Profile::Cuda { .. }) => write!(f, "; system calls: {count} refused")?,
            (Err(why), _) => write!(f, "; system calls: not restricted ({why})")?,
        }
        if let Err(why) = &self.privileges {
            write!(f, "; new privileges: not refused ({why})")?;
        }
        match (self.earlier_threads, &self.landlock, &self.profile) {
            (0, ..)
            | (_, Ok((_, true)), Profile::Cuda { .. })
            | (_, _, Profile::Producer { .. }) => Ok(()),
            (count, _, Profile::Cpu | Profile::Camera) => {
                write!(f, "; {count} threads started before: not restricted")
            }
            (count, _, Profile::Cuda { .. }) => {
                write!(f, "; {count} threads started before: files not restricted")
            }
        }
    }
}

/// Restricts by Landlock: no file, TCP, signal or abstract socket beyond this process, as far as
/// the kernel supports it.
fn restrict_files(profile: &Profile) -> Result<RestrictionStatus, RulesetError> {
    match profile {
        // Nothing is granted, so rights that later kernels add can only refuse more. Open files
        // keep their access.
        Profile::Cpu | Profile::Camera => Ruleset::default()
            .handle_access(AccessFs::from_all(ABI::V10))?
            .handle_access(AccessNet::from_all(ABI::V10))?
            .scope(Scope::from_all(ABI::V10))?
            .create()?
            .restrict_self(),
        // Local sockets stay allowed: the driver uses them to reach its own services.
        Profile::Cuda { cache } => {
            let read = AccessFs::ReadFile | AccessFs::ReadDir;
            let device = read | AccessFs::WriteFile | AccessFs::IoctlDev;
            let unwanted =
                AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
            let write: BitFlags<AccessFs> = AccessFs::from_all(ABI::V8) & !unwanted;
            Ruleset::default()
                .handle_access(AccessFs::from_all(ABI::V8))?
                .handle_access(AccessNet::from_all(ABI::V8))?
                .create()?
                .add_rules(path_beneath_rules(READABLE, read))?
                .add_rules(path_beneath_rules(devices(), device))?
                .add_rules(path_beneath_rules([cache], write))?
                .all_threads(true)?
                .restrict_self()
        }
        Profile::Producer { hidden } => {
            let read = AccessFs::from_read(ABI::V5);
            Ruleset::default()
                .handle_access(AccessFs::from_all(ABI::V5))?
                .create()?
                .add_rules(path_beneath_rules(all_but(hidden, &["/"]), read))?
                .add_rules(path_beneath_rules(
                    all_but(hidden, &WRITABLE),
                    AccessFs::from_all(ABI::V5),
                ))?
                .restrict_self()
        }
    }
}

/// Folders that a frame producer may write to: drivers, and what programs put aside.
const WRITABLE: [&str; 2] = ["/dev", "/tmp"];

/// Returns files and folders that together are everything in `folders` but `hidden`. Links are left
/// out: what they point to is listed where it is.
fn all_but(hidden: &[PathBuf], folders: &[&str]) -> Vec<PathBuf> {
    let hidden: Vec<_> = hidden
        .iter()
        .filter_map(|path| path.canonicalize().ok())
        .collect();
    let mut left: Vec<_> = folders.iter().map(PathBuf::from).collect();
    let mut shown = Vec::new();
    while let Some(path) = left.pop() {
        if hidden.contains(&path) {
            continue;
        }
        if !hidden.iter().any(|hidden| hidden.starts_with(&path)) {
            shown.push(path);
            continue;
        }
        let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
        let entries =
            entries.filter(|entry| !entry.file_type().is_ok_and(|kind| kind.is_symlink()));
        left.extend(entries.map(|entry| entry.path()));
    }
    shown
}

/// Libraries that the driver loads late and files it reads about the machine. The rest of /etc
/// stays closed: passwords are there.
const READABLE: [&str; 11] = [
    "/usr",
    "/lib",
    "/lib64",
    "/opt",
    "/etc/ld.so.cache",
    "/etc/nv_tegra_release",
    "/etc/nvidia",
    "/proc",
    "/sys",
    "/dev/random",
    "/dev/urandom",
];

/// Returns the driver's devices: `nvidia*` on cards; `nvmap`, `nvgpu`, `nvhost-*`, `host1x-*` and
/// `dri` on a Jetson.
fn devices() -> Vec<PathBuf> {
    let named = |path: &Path| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        [b"nv".as_slice(), b"host1x", b"dri"]
            .iter()
            .any(|start| name.starts_with(start))
            && !name.starts_with(b"nvme")
    };
    let all = std::fs::read_dir("/dev")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    all.filter(|path| named(path))
        .chain(["/dev/null".into(), "/dev/zero".into()])
        .collect()
}

fn enforced(status: &RestrictionStatus) -> Result<(ABI, bool), String> {
    match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => Ok((effective_abi, status.all_threads)),
        LandlockStatus::NotEnabled => Err("Landlock is not enabled in this kernel".into()),
        LandlockStatus::NotImplemented => Err("this kernel has no Landlock".into()),
    }
}

/// System-call filters, on architectures for which seccompiler writes them.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod seccomp;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod seccomp {
    use super::Profile;

    pub(super) fn restrict(_profile: &Profile) -> Result<usize, String> {
        Err(format!("no filter for {}", std::env::consts::ARCH))
    }
}

#[cfg(test)]
mod tests;
