//! Returns freed memory to the system at once, by starting the program with its own malloc
//! settings.
//!
//! glibc raises its mmap threshold each time a large block is freed, and then rarely returns
//! memory: after sixty pictures of 4 MiB the daemon kept 110 MiB more. Each of its arenas takes 64
//! MiB of address space, and there are eight for each core. The settings take effect only at
//! process start and only through the environment. An engine allocates and frees buffers with each
//! picture, so only its largest ones are returned: those used while networks are built, and those
//! of pictures of many megapixels.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// The running program, even when an upgrade has replaced its file.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

/// The mmap and trim thresholds (bytes) and the number of arenas.
const SETTINGS: [(&str, &str); 3] = [
    ("MALLOC_MMAP_THRESHOLD_", "131072"),
    ("MALLOC_TRIM_THRESHOLD_", "131072"),
    ("MALLOC_ARENA_MAX", "2"),
];

/// Re-executes this program under the same process number with the settings. If the operator has
/// set them already, nothing is done.
pub fn give_back() {
    if std::env::var_os(SETTINGS[0].0).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "kithd".into());
    // The real path: started through the link in /proc, the process would be listed as "exe".
    let program = std::env::current_exe().unwrap_or_else(|_| THIS_PROGRAM.into());
    let error = Command::new(program)
        .arg0(name)
        .args(arguments)
        .envs(SETTINGS)
        .exec();
    // The daemon also runs without the settings.
    eprintln!("kithd: memory will be given back late: {error}");
}

/// The settings of a child process: smaller blocks are kept from one picture to the next.
pub const OF_A_CHILD: [(&str, &str); 3] = [
    ("MALLOC_MMAP_THRESHOLD_", "4194304"),
    ("MALLOC_TRIM_THRESHOLD_", "8388608"),
    ("MALLOC_ARENA_MAX", "4"),
];
