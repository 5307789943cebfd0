//! What an engine process gives up once its models are loaded, and a camera process once its camera
//! is open: files, network, new privileges, other processes.
//!
//! A picture is somebody else's bytes, and its decoder may one day have a hole; what comes through
//! it should find a room without doors. Not for the daemon, which needs its doors, and not for
//! limits on memory or time, which the daemon keeps watch over. Each kernel gives what it has:
//! nothing here fails the engine, but the words say how far it went.
//!
//! After it the engine opens no file, so whatever it will ever need it has read by then (the
//! self-test's picture too); it reads none of its own figures under `/proc`, and it leaves its
//! socket's file to the daemon to remove. Panics are caught as before, their backtraces have no
//! names. `available_parallelism` no longer sees a container's limit: ask before.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, RestrictSelfAttr,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
    path_beneath_rules,
};

/// What the process still needs.
#[derive(Debug, Clone)]
pub enum Profile {
    /// Its listening socket, memory and threads.
    Cpu,
    /// A camera that is open already, pipes, memory and threads.
    Camera,
    /// Also the driver's devices and libraries, read only.
    Cuda {
        /// Where compiled kernels are kept: the one folder that stays writable.
        cache: PathBuf,
    },
}

/// How far the kernel went along. Its words are for the log and for Describe.
#[derive(Debug)]
pub struct Confinement {
    profile: Profile,
    privileges: Result<(), String>,
    /// The ABI in force, and whether every thread of the process is bound by it.
    landlock: Result<(ABI, bool), String>,
    /// How many system calls are allowed (cpu, camera) or refused (cuda).
    calls: Result<usize, String>,
    /// Threads that had begun before.
    earlier_threads: usize,
}

/// Gives up what `profile` does not need; not to be undone.
///
/// For cpu and camera it binds the calling thread and those it begins afterwards, so call it while
/// there is no other. For cuda, whose driver has begun threads by then, the refused system calls
/// bind all of them; the files do from Landlock's ABI 8 on, and the words say where they do not.
pub fn confine(profile: &Profile) -> Confinement {
    Confinement {
        profile: profile.clone(),
        earlier_threads: earlier_threads(),
        privileges: rustix::thread::set_no_new_privs(true).map_err(|error| error.to_string()),
        // Before the calls, which no longer allow Landlock's own.
        landlock: restrict_files(profile)
            .map_err(|error| error.to_string())
            .and_then(|status| enforced(&status)),
        calls: seccomp::restrict(profile),
    }
}

/// How many threads there are besides this one. One that was waited for may still be seen for a
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
                        write!(f, "files: the driver's, {} writable", cache.display())?
                    }
                }
                if *abi >= ABI::V4 {
                    write!(f, ", TCP: none")?;
                }
                write!(f, " (Landlock ABI {abi})")?;
            }
            (Err(why), Profile::Cpu | Profile::Camera) if self.calls.is_ok() => {
                write!(f, "files: none to open, by system calls alone ({why})")?;
            }
            (Err(why), _) => write!(f, "files: not restricted ({why})")?,
        }
        match (&self.calls, &self.profile) {
            (Ok(count), Profile::Cpu | Profile::Camera) => {
                write!(f, "; system calls: {count} allowed")?
            }
            (Ok(count), Profile::Cuda { .. }) => write!(f, "; system calls: {count} refused")?,
            (Err(why), _) => write!(f, "; system calls: not restricted ({why})")?,
        }
        if let Err(why) = &self.privileges {
            write!(f, "; new privileges: not refused ({why})")?;
        }
        match (self.earlier_threads, &self.landlock, &self.profile) {
            (0, ..) | (_, Ok((_, true)), Profile::Cuda { .. }) => Ok(()),
            (count, _, Profile::Cpu | Profile::Camera) => {
                write!(f, "; {count} threads begun before: not restricted")
            }
            (count, _, Profile::Cuda { .. }) => {
                write!(f, "; {count} threads begun before: files not restricted")
            }
        }
    }
}

/// Landlock: no file, no TCP, no signal and no abstract socket out of here, as far as the kernel
/// knows them.
fn restrict_files(profile: &Profile) -> Result<RestrictionStatus, RulesetError> {
    match profile {
        // Nothing is granted, so rights of kernels to come can only refuse what the process does
        // not do. What is open stays as it was opened.
        Profile::Cpu | Profile::Camera => Ruleset::default()
            .handle_access(AccessFs::from_all(ABI::V10))?
            .handle_access(AccessNet::from_all(ABI::V10))?
            .scope(Scope::from_all(ABI::V10))?
            .create()?
            .restrict_self(),
        // Local sockets stay: the driver talks to its own services over them.
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
    }
}

/// Libraries the driver loads late and what it reads about the machine. Not the rest of /etc:
/// passwords live there.
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

/// The driver's devices: `nvidia*` on cards; `nvmap`, `nvgpu`, `nvhost-*`, `host1x-*` and `dri` on
/// a Jetson.
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

/// Where seccompiler writes filters.
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
