//! Verdicts of the filters on calls that no safe function makes.

use seccompiler::sock_filter;

use super::*;

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
fn the_cpu_engine_makes_no_executable_memory_and_no_process() {
    let program = allowing(allowed().unwrap()).unwrap();
    let verdict = |number, arguments: &[i32]| {
        let arguments: Vec<u64> = arguments
            .iter()
            .map(|value| u64::from(value.cast_unsigned()))
            .collect();
        verdict(&program, number, &arguments)
    };
    let (read_write, code) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::PROT_READ | libc::PROT_EXEC,
    );
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        assert_eq!(verdict(call, &[0, 4096, read_write]), ALLOW);
        assert_eq!(verdict(call, &[0, 4096, libc::PROT_NONE]), ALLOW);
        assert_eq!(verdict(call, &[0, 4096, code]), EPERM);
        assert_eq!(
            verdict(call, &[0, 4096, read_write | libc::PROT_EXEC]),
            EPERM
        );
    }
    let thread = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD;
    assert_eq!(verdict(libc::SYS_clone, &[thread]), ALLOW);
    assert_eq!(verdict(libc::SYS_clone, &[libc::SIGCHLD]), EPERM);
    assert_eq!(
        verdict(libc::SYS_clone, &[thread | libc::CLONE_NEWNET]),
        EPERM
    );
    assert_eq!(
        self::verdict(&without_clone3().unwrap(), libc::SYS_clone3, &[]),
        ENOSYS
    );

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
    let cpu = allowing(allowed().unwrap()).unwrap();
    let cuda = refusing(refused().unwrap()).unwrap();
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
    for call in [
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_openat,
        libc::SYS_prlimit64,
    ] {
        assert_eq!(verdict(&cpu, call, &[1, 0, 1]), EPERM, "{call}");
    }
    let of_family = |family: i32| verdict(&cuda, libc::SYS_socket, &[family as u64]);
    assert_eq!(
        [libc::AF_INET, libc::AF_INET6, libc::AF_PACKET].map(of_family),
        [EPERM; 3]
    );
    assert_eq!([libc::AF_UNIX, libc::AF_NETLINK].map(of_family), [ALLOW; 2]);
    for call in [
        libc::SYS_ioctl,
        libc::SYS_openat,
        libc::SYS_mmap,
        libc::SYS_clone3,
    ] {
        assert_eq!(verdict(&cuda, call, &[0, 0, 7]), ALLOW, "{call}");
    }
}
