//! Seccomp filters: the system calls that a confined process may make (cpu, camera) or may not make
//! (cuda, producer). Files and network by name are Landlock's, in `confine`.

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

/// Result of a refused call. It is an error, never a kill: a newer C library that makes another
/// call gets by or fails that one operation, and does not end the engine at each start.
const REFUSED: SeccompAction = SeccompAction::Errno(libc::EPERM as u32);

/// Rules of each call: without rules it matches whatever its arguments; with rules, if one of them
/// does.
type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Installs the filter; returns the number of calls that are allowed (cpu, camera) or refused
/// (cuda, producer).
pub(super) fn restrict(profile: &Profile) -> Result<usize, String> {
    match profile {
        Profile::Cpu | Profile::Camera => {
            let mut rules = allowed().map_err(|error| error.to_string())?;
            if matches!(profile, Profile::Camera) {
                // ioctl requests frames from the camera; no other open file understands ioctls.
                rules.insert(libc::SYS_ioctl, vec![]);
            }
            let count = rules.len();
            // The stricter of two filters holds. This filter allows clone3, so that the one that
            // reports it as missing decides; that one is installed first, while another filter can
            // still be installed.
            rules.insert(libc::SYS_clone3, vec![]);
            for program in [without_clone3(), allowing(rules)] {
                let program = program.map_err(|error| error.to_string())?;
                seccompiler::apply_filter(&program).map_err(|error| error.to_string())?;
            }
            Ok(count)
        }
        Profile::Producer { .. } => {
            let program = refusing(leaving()).map_err(|error| error.to_string())?;
            seccompiler::apply_filter(&program).map_err(|error| error.to_string())?;
            Ok(leaving().len())
        }
        Profile::Cuda { .. } => {
            let rules = refused().map_err(|error| error.to_string())?;
            // x32's numbers are duplicates of these calls and are not counted.
            let count = rules.keys().filter(|number| **number & X32 == 0).count();
            let program = refusing(rules).map_err(|error| error.to_string())?;
            seccompiler::apply_filter_all_threads(&program).map_err(|error| error.to_string())?;
            Ok(count)
        }
    }
}

fn allowing(rules: Rules) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, REFUSED, SeccompAction::Allow, ARCH)?.try_into()
}

fn refusing(rules: Rules) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, SeccompAction::Allow, REFUSED, ARCH)?.try_into()
}

/// Makes a filter that reports clone3 as missing. A filter cannot see clone3's flags, and C
/// libraries then start threads with clone.
fn without_clone3() -> Result<BpfProgram, BackendError> {
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    SeccompFilter::new(
        [(libc::SYS_clone3, vec![])].into(),
        SeccompAction::Allow,
        absent,
        ARCH,
    )?
    .try_into()
}

/// Calls that a server on an already listening socket needs, with threads and memory.
const ALLOWED: &[c_long] = &[
    // Connections.
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
    // Open files.
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
    // Clock, random numbers and system limits.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
];

/// Flags of clone that identify a thread of this process, in no namespace of its own.
const CLONE_KIND: i32 = libc::CLONE_THREAD
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// `PR_SET_VMA`, with which C libraries name their memory.
const PR_SET_VMA: i32 = 0x5356_4d41;

fn allowed() -> Result<Rules, BackendError> {
    let mut rules: Rules = ALLOWED.iter().map(|number| (*number, vec![])).collect();
    // Memory, but none that is executable.
    rules.insert(libc::SYS_mmap, vec![rule([masked(2, libc::PROT_EXEC, 0)])?]);
    rules.insert(
        libc::SYS_mprotect,
        vec![rule([masked(2, libc::PROT_EXEC, 0)])?],
    );
    rules.insert(
        libc::SYS_clone,
        vec![rule([masked(0, CLONE_KIND, libc::CLONE_THREAD)])?],
    );
    // Abort signals only this process.
    rules.insert(libc::SYS_tgkill, vec![rule([equal(0, own_process())])?]);
    rules.insert(
        libc::SYS_prctl,
        any_of(0, &[libc::PR_SET_NAME, libc::PR_GET_NAME, PR_SET_VMA])?,
    );
    // All but the command that makes another process get signals.
    rules.insert(
        libc::SYS_fcntl,
        any_of(
            1,
            &[
                libc::F_DUPFD,
                libc::F_DUPFD_CLOEXEC,
                libc::F_GETFD,
                libc::F_SETFD,
                libc::F_GETFL,
                libc::F_SETFL,
            ],
        )?,
    );
    // The standard library makes a socket non-blocking this way.
    rules.insert(
        libc::SYS_ioctl,
        vec![rule([equal(1, libc::FIONBIO as i32)])?],
    );
    // tokio passes signals to its loop this way.
    rules.insert(libc::SYS_socketpair, vec![rule([equal(0, libc::AF_UNIX)])?]);
    // Many C libraries query open files this way; with a path it would reveal which files exist.
    rules.insert(
        libc::SYS_newfstatat,
        vec![rule([masked(3, libc::AT_EMPTY_PATH, libc::AT_EMPTY_PATH)])?],
    );
    // Reads its own limits only: the pointer to new limits is null, in both halves.
    let no_new_limit = SeccompCondition::new(2, Qword, SeccompCmpOp::Eq, 0);
    rules.insert(
        libc::SYS_prlimit64,
        vec![rule([equal(0, 0), no_new_limit])?],
    );
    Ok(rules)
}

/// Calls that no driver makes after loading and that an attacker would want.
const REFUSED_ALWAYS: &[c_long] = &[
    // Other programs, and the memory of other processes.
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
    // Ways around calls that are refused by number.
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
    // Owners, modes and attributes of files, which Landlock does not protect.
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
    // Identity of the process.
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
    // State of the machine.
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

/// The bit of x32's call numbers, a second way to nearly every call on x86_64 kernels that have it.
const X32: c_long = 0x4000_0000;

fn refused() -> Result<Rules, BackendError> {
    let mut rules: Rules = REFUSED_ALWAYS
        .iter()
        .map(|number| (*number, vec![]))
        .collect();
    let others =
        || SeccompCondition::new(0, Dword, SeccompCmpOp::Ne, u64::from(std::process::id()));
    rules.insert(libc::SYS_kill, vec![rule([others()])?]);
    rules.insert(libc::SYS_tgkill, vec![rule([others()])?]);
    // No TCP on kernels whose Landlock does not cover it, nor any other socket that leaves the
    // machine.
    let not = |family: i32| SeccompCondition::new(0, Dword, SeccompCmpOp::Ne, family as u64);
    rules.insert(
        libc::SYS_socket,
        vec![rule([not(libc::AF_UNIX), not(libc::AF_NETLINK)])?],
    );
    if cfg!(target_arch = "x86_64") {
        // 512 to 547 are x32's own numbers for calls with different arguments, execve among them.
        let again: Vec<c_long> = rules
            .keys()
            .copied()
            .chain(512..=547)
            .map(|number| number | X32)
            .collect();
        rules.extend(again.into_iter().map(|number| (number, vec![])));
    }
    Ok(rules)
}

/// Calls with which a process leaves the group that is killed with its camera. Otherwise unknown
/// programs make unknown calls.
fn leaving() -> Rules {
    [libc::SYS_setsid, libc::SYS_setpgid]
        .into_iter()
        .map(|number| (number, vec![]))
        .collect()
}

type Condition = Result<SeccompCondition, BackendError>;

/// Makes a rule that holds if all its conditions do.
fn rule<const N: usize>(conditions: [Condition; N]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}

/// Makes rules for an argument with one of these values.
fn any_of(argument: u8, values: &[i32]) -> Result<Vec<SeccompRule>, BackendError> {
    values
        .iter()
        .map(|value| rule([equal(argument, *value)]))
        .collect()
}

fn equal(argument: u8, value: i32) -> Condition {
    masked(argument, -1, value)
}

/// Makes a condition on the argument's bits under the mask. All arguments in use are 32 bits wide
/// or have their meaning in the lower 32.
fn masked(argument: u8, mask: i32, value: i32) -> Condition {
    let bits = |value: i32| u64::from(value.cast_unsigned());
    SeccompCondition::new(
        argument,
        Dword,
        SeccompCmpOp::MaskedEq(bits(mask)),
        bits(value),
    )
}

fn own_process() -> i32 {
    std::process::id().cast_signed()
}

#[cfg(test)]
mod tests;
