//! What an engine process gives up once its models are loaded, and a camera process once its camera is open: files,
//! network, new privileges, other processes.
//!
//! A picture is somebody else's bytes, and its decoder may one day have a hole; what comes through it should find a
//! room without doors. Not for the daemon, which needs its doors, and not for limits on memory or time, which the
//! daemon keeps watch over. Each kernel gives what it has: nothing here fails the engine, but the words say how far it
//! went.
//!
//! After it the engine opens no file, so whatever it will ever need it has read by then (the self-test's picture too);
//! it reads none of its own figures under `/proc`, and it leaves its socket's file to the daemon to remove. Panics are
//! caught as before, their backtraces have no names. `available_parallelism` no longer sees a container's limit: ask
//! before.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, RestrictSelfAttr, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, Scope, path_beneath_rules,
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
/// For cpu and camera it binds the calling thread and those it begins afterwards, so call it while there is no other. For cuda,
/// whose driver has begun threads by then, the refused system calls bind all of them; the files do from Landlock's
/// ABI 8 on, and the words say where they do not.
pub fn confine(profile: &Profile) -> Confinement {
    Confinement {
        profile: profile.clone(),
        earlier_threads: earlier_threads(),
        privileges: rustix::thread::set_no_new_privs(true).map_err(|error| error.to_string()),
        // Before the calls, which no longer allow Landlock's own.
        landlock: restrict_files(profile).map_err(|error| error.to_string()).and_then(|status| enforced(&status)),
        calls: calls::restrict(profile),
    }
}

/// How many threads there are besides this one. One that was waited for may still be seen for a moment.
fn earlier_threads() -> usize {
    const LOOKS: usize = 50;
    let count = || std::fs::read_dir("/proc/self/task").map_or(0, |threads| threads.count().saturating_sub(1));
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
                    Profile::Cuda { cache } => write!(f, "files: the driver's, {} writable", cache.display())?,
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
            (Ok(count), Profile::Cpu | Profile::Camera) => write!(f, "; system calls: {count} allowed")?,
            (Ok(count), Profile::Cuda { .. }) => write!(f, "; system calls: {count} refused")?,
            (Err(why), _) => write!(f, "; system calls: not restricted ({why})")?,
        }
        if let Err(why) = &self.privileges {
            write!(f, "; new privileges: not refused ({why})")?;
        }
        match (self.earlier_threads, &self.landlock, &self.profile) {
            (0, ..) | (_, Ok((_, true)), Profile::Cuda { .. }) => Ok(()),
            (count, _, Profile::Cpu | Profile::Camera) => write!(f, "; {count} threads begun before: not restricted"),
            (count, _, Profile::Cuda { .. }) => write!(f, "; {count} threads begun before: files not restricted"),
        }
    }
}

/// Landlock: no file, no TCP, no signal and no abstract socket out of here, as far as the kernel knows them.
fn restrict_files(profile: &Profile) -> Result<RestrictionStatus, RulesetError> {
    match profile {
        // Nothing is granted, so rights of kernels to come can only refuse what the process does not do. What is open
        // stays as it was opened.
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
            let unwanted = AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
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

/// Libraries the driver loads late and what it reads about the machine. Not the rest of /etc: passwords live there.
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

/// The driver's devices: `nvidia*` on cards; `nvmap`, `nvgpu`, `nvhost-*`, `host1x-*` and `dri` on a Jetson.
fn devices() -> Vec<PathBuf> {
    let named = |path: &Path| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        [b"nv".as_slice(), b"host1x", b"dri"].iter().any(|start| name.starts_with(start)) && !name.starts_with(b"nvme")
    };
    let all = std::fs::read_dir("/dev").into_iter().flatten().flatten().map(|entry| entry.path());
    all.filter(|path| named(path)).chain(["/dev/null".into(), "/dev/zero".into()]).collect()
}

fn enforced(status: &RestrictionStatus) -> Result<(ABI, bool), String> {
    match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => Ok((effective_abi, status.all_threads)),
        LandlockStatus::NotEnabled => Err("Landlock is not enabled in this kernel".into()),
        LandlockStatus::NotImplemented => Err("this kernel has no Landlock".into()),
    }
}

/// System calls, where seccompiler writes filters.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod calls {
    use std::collections::BTreeMap;

    use libc::c_long;
    use seccompiler::{
        BackendError, BpfProgram, SeccompAction,
        SeccompCmpArgLen::{Dword, Qword},
        SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
    };

    use super::Profile;

    #[cfg(target_arch = "x86_64")]
    const ARCH: TargetArch = TargetArch::x86_64;
    #[cfg(target_arch = "aarch64")]
    const ARCH: TargetArch = TargetArch::aarch64;

    /// What refused calls return. An error, never a kill: a newer C library that asks for something else gets by or
    /// fails that one thing, and does not end the engine each time it starts.
    const REFUSED: SeccompAction = SeccompAction::Errno(libc::EPERM as u32);

    /// A call without rules matches whatever its arguments; with rules, if one of them does.
    pub(super) type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

    /// How many calls are allowed (cpu, camera) or refused (cuda).
    pub(super) fn restrict(profile: &Profile) -> Result<usize, String> {
        match profile {
            Profile::Cpu | Profile::Camera => {
                let mut rules = allowed().map_err(|error| error.to_string())?;
                if matches!(profile, Profile::Camera) {
                    // How a camera is asked for frames; nothing else is open that understands any.
                    rules.insert(libc::SYS_ioctl, vec![]);
                }
                let count = rules.len();
                // Of two verdicts the stricter holds: this filter leaves clone3 to the one that says it does not exist,
                // which goes first because it still lets another be installed.
                rules.insert(libc::SYS_clone3, vec![]);
                for program in [without_clone3(), allowing(rules)] {
                    let program = program.map_err(|error| error.to_string())?;
                    seccompiler::apply_filter(&program).map_err(|error| error.to_string())?;
                }
                Ok(count)
            }
            Profile::Cuda { .. } => {
                let rules = refused().map_err(|error| error.to_string())?;
                // x32's numbers are the same calls once more, and no call of ours.
                let count = rules.keys().filter(|number| **number & X32 == 0).count();
                let program = refusing(rules).map_err(|error| error.to_string())?;
                seccompiler::apply_filter_all_threads(&program).map_err(|error| error.to_string())?;
                Ok(count)
            }
        }
    }

    pub(super) fn allowing(rules: Rules) -> Result<BpfProgram, BackendError> {
        SeccompFilter::new(rules, REFUSED, SeccompAction::Allow, ARCH)?.try_into()
    }

    pub(super) fn refusing(rules: Rules) -> Result<BpfProgram, BackendError> {
        SeccompFilter::new(rules, SeccompAction::Allow, REFUSED, ARCH)?.try_into()
    }

    /// A filter cannot see clone3's flags; told that there is no such call, C libraries begin threads by clone.
    pub(super) fn without_clone3() -> Result<BpfProgram, BackendError> {
        let absent = SeccompAction::Errno(libc::ENOSYS as u32);
        SeccompFilter::new([(libc::SYS_clone3, vec![])].into(), SeccompAction::Allow, absent, ARCH)?.try_into()
    }

    /// What a server on an already listening socket needs, with threads and memory.
    const ALLOWED: &[c_long] = &[
        // Its connections.
        libc::SYS_accept4,
        libc::SYS_getpeername,
        libc::SYS_getsockname,
        libc::SYS_getsockopt,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_sendto,
        libc::SYS_setsockopt,
        libc::SYS_shutdown,
        // What is open already.
        libc::SYS_close,
        libc::SYS_dup,
        libc::SYS_fstat,
        libc::SYS_lseek,
        libc::SYS_pipe2,
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_write,
        libc::SYS_writev,
        // Waiting.
        libc::SYS_epoll_create1,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
        libc::SYS_eventfd2,
        libc::SYS_futex,
        libc::SYS_ppoll,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_epoll_wait,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
        // Memory.
        libc::SYS_brk,
        libc::SYS_madvise,
        libc::SYS_membarrier,
        libc::SYS_mremap,
        libc::SYS_munmap,
        // Threads.
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_getcpu,
        libc::SYS_getpid,
        libc::SYS_getppid,
        libc::SYS_gettid,
        libc::SYS_rseq,
        libc::SYS_sched_getaffinity,
        libc::SYS_sched_yield,
        libc::SYS_set_robust_list,
        // Signals.
        libc::SYS_restart_syscall,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        // Clock, chance, and how much of everything there is.
        libc::SYS_clock_getres,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_gettimeofday,
        libc::SYS_nanosleep,
        libc::SYS_getrandom,
        libc::SYS_getrusage,
        libc::SYS_sysinfo,
    ];

    /// Bits of clone's flags that decide: a thread of this process, in no namespace of its own.
    const CLONE_KIND: i32 = libc::CLONE_THREAD
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET;

    /// `PR_SET_VMA`, by which C libraries name their memory.
    const PR_SET_VMA: i32 = 0x5356_4d41;

    pub(super) fn allowed() -> Result<Rules, BackendError> {
        let mut rules: Rules = ALLOWED.iter().map(|number| (*number, vec![])).collect();
        // Memory, but none to run code from.
        rules.insert(libc::SYS_mmap, vec![rule([masked(2, libc::PROT_EXEC, 0)])?]);
        rules.insert(libc::SYS_mprotect, vec![rule([masked(2, libc::PROT_EXEC, 0)])?]);
        rules.insert(libc::SYS_clone, vec![rule([masked(0, CLONE_KIND, libc::CLONE_THREAD)])?]);
        // Abort reaches this process alone.
        rules.insert(libc::SYS_tgkill, vec![rule([equal(0, own_process())])?]);
        rules.insert(libc::SYS_prctl, any_of(0, &[libc::PR_SET_NAME, libc::PR_GET_NAME, PR_SET_VMA])?);
        // Not the one that has somebody else signalled.
        rules.insert(
            libc::SYS_fcntl,
            any_of(
                1,
                &[libc::F_DUPFD, libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL],
            )?,
        );
        // How the standard library makes a socket non-blocking.
        rules.insert(libc::SYS_ioctl, vec![rule([equal(1, libc::FIONBIO as i32)])?]);
        // How tokio's signals reach its loop.
        rules.insert(libc::SYS_socketpair, vec![rule([equal(0, libc::AF_UNIX)])?]);
        // The way many C libraries ask about what is open; by path it would tell which files there are.
        rules.insert(libc::SYS_newfstatat, vec![rule([masked(3, libc::AT_EMPTY_PATH, libc::AT_EMPTY_PATH)])?]);
        // Its own limits, to read: the address of new ones is null, both halves of it.
        let no_new_limit = SeccompCondition::new(2, Qword, SeccompCmpOp::Eq, 0);
        rules.insert(libc::SYS_prlimit64, vec![rule([equal(0, 0), no_new_limit])?]);
        Ok(rules)
    }

    /// What no driver does after it has loaded and somebody who broke in would like to.
    const REFUSED_ALWAYS: &[c_long] = &[
        // Other programs, and other processes' insides.
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_pidfd_getfd,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_send_signal,
        libc::SYS_process_madvise,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_ptrace,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
        libc::SYS_tkill,
        // Ways around what is refused by name.
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_io_uring_setup,
        libc::SYS_name_to_handle_at,
        libc::SYS_open_by_handle_at,
        libc::SYS_userfaultfd,
        // Mounts and namespaces.
        libc::SYS_chroot,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fsopen,
        libc::SYS_fspick,
        libc::SYS_mount,
        libc::SYS_mount_setattr,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_pivot_root,
        libc::SYS_setns,
        libc::SYS_umount2,
        libc::SYS_unshare,
        // Owners, modes and attributes of files, which Landlock does not guard.
        libc::SYS_fchmodat,
        libc::SYS_fchownat,
        libc::SYS_lremovexattr,
        libc::SYS_lsetxattr,
        libc::SYS_removexattr,
        libc::SYS_setxattr,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chmod,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chown,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lchown,
        // The process's identity.
        libc::SYS_capset,
        libc::SYS_setfsgid,
        libc::SYS_setfsuid,
        libc::SYS_setgid,
        libc::SYS_setgroups,
        libc::SYS_setregid,
        libc::SYS_setresgid,
        libc::SYS_setresuid,
        libc::SYS_setreuid,
        libc::SYS_setuid,
        // The machine.
        libc::SYS_acct,
        libc::SYS_add_key,
        libc::SYS_adjtimex,
        libc::SYS_bpf,
        libc::SYS_clock_adjtime,
        libc::SYS_clock_settime,
        libc::SYS_delete_module,
        libc::SYS_finit_module,
        libc::SYS_init_module,
        libc::SYS_kexec_load,
        libc::SYS_keyctl,
        libc::SYS_perf_event_open,
        libc::SYS_personality,
        libc::SYS_quotactl,
        libc::SYS_reboot,
        libc::SYS_request_key,
        libc::SYS_setdomainname,
        libc::SYS_sethostname,
        libc::SYS_settimeofday,
        libc::SYS_swapoff,
        libc::SYS_swapon,
        libc::SYS_syslog,
        libc::SYS_vhangup,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_ioperm,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_iopl,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_kexec_file_load,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_modify_ldt,
    ];

    /// The bit of x32's call numbers, a second door to nearly every call on x86_64 kernels that have it.
    const X32: c_long = 0x4000_0000;

    pub(super) fn refused() -> Result<Rules, BackendError> {
        let mut rules: Rules = REFUSED_ALWAYS.iter().map(|number| (*number, vec![])).collect();
        let others = || SeccompCondition::new(0, Dword, SeccompCmpOp::Ne, u64::from(std::process::id()));
        rules.insert(libc::SYS_kill, vec![rule([others()])?]);
        rules.insert(libc::SYS_tgkill, vec![rule([others()])?]);
        // No TCP on kernels whose Landlock does not know it, nor anything else that leaves the machine.
        let not = |family: i32| SeccompCondition::new(0, Dword, SeccompCmpOp::Ne, family as u64);
        rules.insert(libc::SYS_socket, vec![rule([not(libc::AF_UNIX), not(libc::AF_NETLINK)])?]);
        if cfg!(target_arch = "x86_64") {
            // 512 to 547 are x32's own numbers for calls whose arguments differ, execve among them.
            let again: Vec<c_long> = rules.keys().copied().chain(512..=547).map(|number| number | X32).collect();
            rules.extend(again.into_iter().map(|number| (number, vec![])));
        }
        Ok(rules)
    }

    type Condition = Result<SeccompCondition, BackendError>;

    /// Holds if all its conditions do.
    fn rule<const N: usize>(conditions: [Condition; N]) -> Result<SeccompRule, BackendError> {
        SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
    }

    /// The argument is one of these.
    fn any_of(argument: u8, values: &[i32]) -> Result<Vec<SeccompRule>, BackendError> {
        values.iter().map(|value| rule([equal(argument, *value)])).collect()
    }

    fn equal(argument: u8, value: i32) -> Condition {
        masked(argument, -1, value)
    }

    /// The argument's bits under the mask are `value`. All arguments asked about are 32 bits wide or have their meaning
    /// in the lower 32.
    fn masked(argument: u8, mask: i32, value: i32) -> Condition {
        let bits = |value: i32| u64::from(value.cast_unsigned());
        SeccompCondition::new(argument, Dword, SeccompCmpOp::MaskedEq(bits(mask)), bits(value))
    }

    fn own_process() -> i32 {
        std::process::id().cast_signed()
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod calls {
    use super::Profile;

    pub(super) fn restrict(_profile: &Profile) -> Result<usize, String> {
        Err(format!("no filter for {}", std::env::consts::ARCH))
    }
}

#[cfg(test)]
mod tests {
    use std::backtrace::Backtrace;
    use std::fs::File;
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::Command;
    use std::thread;
    use std::time::Instant;

    use kith_vision::{Device, Pack, Precision};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::{DecodeLimits, EngineSettings, Recogniser};
    use super::*;

    /// Set in the process that a test starts from its own program.
    const INSIDE: &str = "KITHD_TEST_CONFINED";

    /// Landlock and the filter bind a thread and what it begins, so the other tests stay free.
    fn on_a_thread_of_its_own<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| scope.spawn(work).join().unwrap())
    }

    fn confined_for_the_cpu() -> Confinement {
        let confinement = confine(&Profile::Cpu);
        println!("{confinement}");
        confinement.calls.as_ref().expect("every machine that runs the tests has seccomp");
        confinement
    }

    fn landlock_abi(confinement: &Confinement) -> Option<ABI> {
        match &confinement.landlock {
            Ok((abi, _)) => Some(*abi),
            Err(why) => {
                println!("NOT RUN: files by Landlock: {why}");
                None
            }
        }
    }

    #[track_caller]
    fn refused<T>(result: std::io::Result<T>) {
        match result {
            Ok(_) => panic!("it was not refused"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}"),
        }
    }

    #[test]
    fn a_confined_engine_opens_no_file_and_no_connection_and_starts_no_program() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let unix = folder.path().join("other");
        let _listening = UnixListener::bind(&unix).unwrap();
        let mut bystander = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&bystander);
        on_a_thread_of_its_own(|| {
            confined_for_the_cpu();
            refused(File::open("/etc/passwd"));
            refused(File::open("/proc/self/maps"));
            refused(File::create(folder.path().join("new")));
            refused(std::fs::metadata("/etc/passwd"));
            refused(std::fs::read_dir("/"));
            refused(std::fs::remove_file(&unix));
            refused(TcpStream::connect(address));
            refused(TcpListener::bind("127.0.0.1:0"));
            refused(UdpSocket::bind("127.0.0.1:0"));
            refused(UnixStream::connect(&unix));
            refused(UnixListener::bind(folder.path().join("mine")));
            refused(Command::new("/bin/true").status());
            refused(rustix::process::kill_process(pid, rustix::process::Signal::KILL).map_err(Into::into));
            refused(rustix::process::test_kill_process(pid).map_err(Into::into));
        });
        assert!(bystander.try_wait().unwrap().is_none(), "somebody else's process was ended");
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    }

    #[test]
    fn landlock_alone_refuses_files_tcp_and_signals_where_the_kernel_has_it() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let mut bystander = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&bystander);
        on_a_thread_of_its_own(|| match enforced(&restrict_files(&Profile::Cpu).unwrap()) {
            Ok((abi, _)) => {
                println!("Landlock ABI {abi}");
                refused(File::open("/etc/passwd"));
                refused(std::fs::read_dir("/"));
                refused(File::create(std::env::temp_dir().join("kithd-confined")));
                refused(Command::new("/bin/true").status());
                if abi >= ABI::V4 {
                    refused(TcpStream::connect(address));
                    refused(TcpListener::bind("127.0.0.1:0"));
                } else {
                    println!("NOT RUN: TCP by Landlock: ABI {abi} does not know it");
                }
                if abi >= ABI::V6 {
                    refused(rustix::process::kill_process(pid, rustix::process::Signal::KILL).map_err(Into::into));
                } else {
                    println!("NOT RUN: signals by Landlock: ABI {abi} does not know them");
                }
            }
            Err(why) => println!("NOT RUN: {why}"),
        });
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    }

    #[test]
    fn a_confined_engine_still_has_its_socket_its_threads_its_memory_and_its_clock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("engine");
        let listener = UnixListener::bind(&path).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        on_a_thread_of_its_own(|| {
            let cores = thread::available_parallelism().unwrap();
            confined_for_the_cpu();

            let (mut served, _) = listener.accept().unwrap();
            client.write_all(b"ask").unwrap();
            let mut asked = [0; 3];
            served.read_exact(&mut asked).unwrap();
            served.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            served.write_all(&asked).unwrap();
            client.read_exact(&mut asked).unwrap();
            assert_eq!(&asked, b"ask");

            // More threads than cores, each with an arena of its own, small and large pieces.
            let threads: Vec<_> = (0..32_usize)
                .map(|thread| {
                    let work = move || {
                        let pieces: Vec<Vec<u8>> = (0..200).map(|piece| vec![1; 64 << (piece % 16)]).collect();
                        thread::yield_now();
                        let mut large = vec![0_u8; 8 << 20];
                        large.resize(48 << 20, 1);
                        pieces.iter().map(Vec::len).sum::<usize>() + large.len() + thread
                    };
                    thread::Builder::new().name(format!("worker {thread}")).spawn(work).unwrap()
                })
                .collect();
            threads.into_iter().for_each(|thread| assert!(thread.join().unwrap() > 48 << 20));

            let begun = Instant::now();
            thread::sleep(Duration::from_millis(20));
            assert!(begun.elapsed() >= Duration::from_millis(20));
            assert!(std::time::SystemTime::now() > std::time::UNIX_EPOCH);
            assert!(thread::available_parallelism().unwrap() >= cores);
            assert_eq!(uuid::Uuid::now_v7().get_version_num(), 7);

            let panic = thread::spawn(|| panic!("a picture's fault: {}", Backtrace::force_capture())).join();
            assert!(panic.unwrap_err().downcast::<String>().unwrap().starts_with("a picture's fault"));
        });
    }

    #[test]
    fn a_runtime_begun_after_confining_serves_and_does_blocking_work() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("engine");
        let listener = UnixListener::bind(&path).unwrap();
        let (confined, client_may_start) = std::sync::mpsc::channel();
        let client = thread::spawn(move || {
            client_may_start.recv().unwrap();
            let mut stream = UnixStream::connect(path).unwrap();
            stream.write_all(b"picture").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        on_a_thread_of_its_own(|| {
            confined_for_the_cpu();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                listener.set_nonblocking(true).unwrap();
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                let mut stopped =
                    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::user_defined2()).unwrap();
                confined.send(()).unwrap();
                let (mut stream, _) = listener.accept().await.unwrap();
                assert!(stream.peer_cred().is_ok());
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).await.unwrap();
                let length = tokio::task::spawn_blocking(move || bytes.len()).await.unwrap();
                let panic = tokio::task::spawn_blocking(|| panic!("a picture's fault")).await;
                assert!(panic.unwrap_err().is_panic());
                tokio::time::sleep(Duration::from_millis(5)).await;
                assert!(tokio::time::timeout(Duration::from_millis(5), stopped.recv()).await.is_err());
                stream.write_all(format!("{length} bytes").as_bytes()).await.unwrap();
            });
        });
        assert_eq!(client.join().unwrap(), "7 bytes");
    }

    #[test]
    fn networks_loaded_before_recognise_after() {
        let pack = Pack::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/packs/dlib-mtcnn")).unwrap();
        let picture = pack.self_test_picture().unwrap().into_owned();
        let settings = EngineSettings {
            limits: DecodeLimits { max_bytes: 32 << 20, max_pixels: 40_000_000 },
            min_face_px: None,
            max_faces: 16,
            turned: true,
            threads: 2,
        };
        let before =
            Recogniser::load(&pack, Precision::Int8, Device::Cpu, &settings).unwrap().recognise(&picture).unwrap();
        on_a_thread_of_its_own(|| {
            let recogniser = Recogniser::load(&pack, Precision::Int8, Device::Cpu, &settings).unwrap();
            confined_for_the_cpu();
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        let after = recogniser.recognise(&picture).unwrap();
                        assert_eq!(after.faces.len(), before.faces.len());
                        assert_eq!(after.faces[0].embedding, before.faces[0].embedding);
                        assert_eq!(after.thumbnail, before.thumbnail);
                    });
                }
            });
            // On both cores, the other picture being gone.
            assert_eq!(recogniser.recognise(&picture).unwrap().faces[0].embedding, before.faces[0].embedding);
        });
    }

    #[test]
    fn a_confined_cuda_engine_keeps_its_libraries_and_its_cache_and_nothing_else() {
        if std::env::var_os(INSIDE).is_none() {
            // The filter binds every thread, so it takes a process of its own.
            let name = thread::current().name().unwrap().to_owned();
            let mut inside = Command::new(std::env::current_exe().unwrap());
            let output = inside.args(["--exact", &name, "--nocapture"]).env(INSIDE, "1").output().unwrap();
            println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success());
            assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
            return;
        }
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        std::fs::create_dir(&cache).unwrap();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let driver = thread::spawn(move || {
            wait.recv().unwrap();
            refused(Command::new("/bin/true").status());
            refused(TcpStream::connect(address));
        });

        let confinement = confine(&Profile::Cuda { cache: cache.clone() });
        println!("{confinement}");
        go.send(()).unwrap();
        driver.join().unwrap();
        refused(Command::new("/bin/true").status());
        refused(TcpStream::connect(address));
        refused(UdpSocket::bind("127.0.0.1:0"));
        refused(rustix::process::test_kill_process(rustix::process::Pid::INIT).map_err(Into::into));
        if landlock_abi(&confinement).is_some() {
            refused(File::open("/etc/passwd"));
            refused(File::create(folder.path().join("beside")));
            refused(File::create("/usr/lib/kithd-confined"));
        }
        std::fs::write(cache.join("kernel.new"), "code").unwrap();
        std::fs::rename(cache.join("kernel.new"), cache.join("kernel")).unwrap();
        assert_eq!(std::fs::read(cache.join("kernel")).unwrap(), b"code");
        std::fs::remove_file(cache.join("kernel")).unwrap();
        std::fs::read_to_string("/proc/cpuinfo").unwrap();
        std::fs::read_dir("/sys").unwrap();
        std::fs::read(std::fs::canonicalize("/etc/ld.so.cache").unwrap()).unwrap();
        File::options().read(true).write(true).open("/dev/null").unwrap();
        UnixStream::pair().unwrap();
        assert_eq!(thread::spawn(|| vec![1_u8; 1 << 20].len()).join().unwrap(), 1 << 20);
    }

    #[test]
    fn the_words_say_what_was_reached() {
        let words = |profile: Profile, landlock: Result<ABI, &str>, calls: Result<usize, &str>, earlier_threads| {
            Confinement {
                profile,
                privileges: Ok(()),
                landlock: landlock.map(|abi| (abi, false)).map_err(str::to_owned),
                calls: calls.map_err(str::to_owned),
                earlier_threads,
            }
            .to_string()
        };
        let cuda = || Profile::Cuda { cache: "/var/cache/kithd".into() };
        assert_eq!(
            words(Profile::Cpu, Ok(ABI::V3), Ok(61), 0),
            "files: none (Landlock ABI 3); system calls: 61 allowed"
        );
        assert_eq!(
            words(Profile::Cpu, Ok(ABI::V7), Err("no filter for arm"), 1),
            "files: none, TCP: none (Landlock ABI 7); system calls: not restricted (no filter for arm); \
             1 threads begun before: not restricted"
        );
        assert_eq!(
            words(Profile::Cpu, Err("this kernel has no Landlock"), Ok(61), 0),
            "files: none to open, by system calls alone (this kernel has no Landlock); system calls: 61 allowed"
        );
        assert_eq!(
            words(cuda(), Ok(ABI::V6), Ok(70), 4),
            "files: the driver's, /var/cache/kithd writable, TCP: none (Landlock ABI 6); system calls: 70 refused; \
             4 threads begun before: files not restricted"
        );
        assert_eq!(
            words(cuda(), Err("this kernel has no Landlock"), Ok(70), 0),
            "files: not restricted (this kernel has no Landlock); system calls: 70 refused"
        );
    }

    /// What the kernel would make of calls that no safe function makes.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    mod filter {
        use libc::c_long;
        use seccompiler::sock_filter;

        use super::super::calls;

        const ALLOW: u32 = 0x7fff_0000;
        const EPERM: u32 = 0x0005_0001;
        const ENOSYS: u32 = 0x0005_0026;

        /// Runs a filter as the kernel does, over `struct seccomp_data`.
        fn verdict(program: &[sock_filter], number: c_long, arguments: &[u64]) -> u32 {
            let arch = program[1].k;
            let mut words = vec![u32::try_from(number).unwrap(), arch, 0, 0];
            for argument in arguments.iter().chain([0; 6].iter()).take(6) {
                words.extend([*argument as u32, (*argument >> 32) as u32]);
            }
            let (mut at, mut value) = (0, 0);
            loop {
                let step = &program[at];
                let jump = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
                at += 1;
                match step.code {
                    0x05 => at += step.k as usize,
                    0x06 => return step.k,
                    0x15 => at += jump(value == step.k),
                    0x20 => value = words[step.k as usize / 4],
                    0x25 => at += jump(value > step.k),
                    0x35 => at += jump(value >= step.k),
                    0x54 => value &= step.k,
                    other => panic!("the kernel knows {other:#x}, this test does not"),
                }
            }
        }

        #[test]
        fn no_memory_of_the_cpu_engine_becomes_code_and_no_thread_becomes_a_process() {
            let program = calls::allowing(calls::allowed().unwrap()).unwrap();
            let verdict = |number, arguments: &[i32]| {
                let arguments: Vec<u64> = arguments.iter().map(|value| u64::from(value.cast_unsigned())).collect();
                verdict(&program, number, &arguments)
            };
            let (read_write, code) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
            for call in [libc::SYS_mmap, libc::SYS_mprotect] {
                assert_eq!(verdict(call, &[0, 4096, read_write]), ALLOW);
                assert_eq!(verdict(call, &[0, 4096, libc::PROT_NONE]), ALLOW);
                assert_eq!(verdict(call, &[0, 4096, code]), EPERM);
                assert_eq!(verdict(call, &[0, 4096, read_write | libc::PROT_EXEC]), EPERM);
            }
            let thread = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
            assert_eq!(verdict(libc::SYS_clone, &[thread]), ALLOW);
            assert_eq!(verdict(libc::SYS_clone, &[libc::SIGCHLD]), EPERM);
            assert_eq!(verdict(libc::SYS_clone, &[thread | libc::CLONE_NEWNET]), EPERM);
            assert_eq!(self::verdict(&calls::without_clone3().unwrap(), libc::SYS_clone3, &[]), ENOSYS);

            let own = std::process::id().cast_signed();
            assert_eq!(verdict(libc::SYS_tgkill, &[own, own, libc::SIGABRT]), ALLOW);
            assert_eq!(verdict(libc::SYS_tgkill, &[1, 1, libc::SIGABRT]), EPERM);
            assert_eq!(verdict(libc::SYS_fcntl, &[3, libc::F_SETFL]), ALLOW);
            assert_eq!(verdict(libc::SYS_fcntl, &[3, libc::F_SETOWN]), EPERM);
            assert_eq!(verdict(libc::SYS_ioctl, &[0, libc::TIOCSTI as i32]), EPERM);
            assert_eq!(verdict(libc::SYS_prctl, &[libc::PR_SET_NAME]), ALLOW);
            assert_eq!(verdict(libc::SYS_prctl, &[libc::PR_SET_DUMPABLE]), EPERM);
            assert_eq!(verdict(libc::SYS_socketpair, &[libc::AF_INET]), EPERM);
        }

        #[test]
        fn neither_profile_lets_the_dangerous_calls_through() {
            let cpu = calls::allowing(calls::allowed().unwrap()).unwrap();
            let cuda = calls::refusing(calls::refused().unwrap()).unwrap();
            for call in [
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_ptrace,
                libc::SYS_open_by_handle_at,
                libc::SYS_mount,
                libc::SYS_bpf,
                libc::SYS_process_vm_readv,
                libc::SYS_process_vm_writev,
                libc::SYS_io_uring_setup,
                libc::SYS_kill,
                libc::SYS_setuid,
                libc::SYS_unshare,
            ] {
                assert_eq!(verdict(&cpu, call, &[]), EPERM, "{call}");
                assert_eq!(verdict(&cuda, call, &[]), EPERM, "{call}");
                if cfg!(target_arch = "x86_64") {
                    assert_eq!(verdict(&cpu, call | 0x4000_0000, &[]), EPERM, "{call}");
                    assert_eq!(verdict(&cuda, call | 0x4000_0000, &[]), EPERM, "{call}");
                }
            }
            for call in [libc::SYS_socket, libc::SYS_connect, libc::SYS_bind, libc::SYS_openat, libc::SYS_prlimit64] {
                assert_eq!(verdict(&cpu, call, &[1, 0, 1]), EPERM, "{call}");
            }
            let of_family = |family: i32| verdict(&cuda, libc::SYS_socket, &[family as u64]);
            assert_eq!([libc::AF_INET, libc::AF_INET6, libc::AF_PACKET].map(of_family), [EPERM; 3]);
            assert_eq!([libc::AF_UNIX, libc::AF_NETLINK].map(of_family), [ALLOW; 2]);
            for call in [libc::SYS_ioctl, libc::SYS_openat, libc::SYS_mmap, libc::SYS_clone3] {
                assert_eq!(verdict(&cuda, call, &[0, 0, 7]), ALLOW, "{call}");
            }
        }
    }
}
