//! Memory goes back to the system as soon as it is free.
//!
//! The C library (glibc) raises the size from which it takes memory from the system piece by piece
//! each time such a piece is freed, and what it takes from its own store then it rarely gives back:
//! after sixty pictures of 4 MiB the daemon kept 110 MiB more. Each of its stores takes 64 MiB of
//! address space, and there are eight for each core. Its settings hold only from a program's first
//! moment and only by the environment. The engine's buffers come and go with each picture, so only
//! its largest ones go back: those of networks while they are made, and of pictures of many
//! megapixels.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::child::THIS_PROGRAM;

/// Larger pieces are the system's own, a store's unused end is cut off beyond it (both in bytes),
/// and the number of stores.
const SETTINGS: [(&str, &str); 3] = [
    ("MALLOC_MMAP_THRESHOLD_", "131072"),
    ("MALLOC_TRIM_THRESHOLD_", "131072"),
    ("MALLOC_ARENA_MAX", "2"),
];

/// Starts this program once more in its place, under the same process number, with the settings.
/// Who set them is left alone.
pub fn give_back() {
    if std::env::var_os(SETTINGS[0].0).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "kithd".into());
    // By its own path: by the link in /proc it would be called "exe" in lists of processes.
    let program = std::env::current_exe().unwrap_or_else(|_| THIS_PROGRAM.into());
    let error = Command::new(program)
        .arg0(name)
        .args(arguments)
        .envs(SETTINGS)
        .exec();
    // It runs without them too.
    eprintln!("kithd: memory will be given back late: {error}");
}

/// A child's, in place of those: what is smaller stays its own from one picture to the next.
pub const OF_A_CHILD: [(&str, &str); 3] = [
    ("MALLOC_MMAP_THRESHOLD_", "4194304"),
    ("MALLOC_TRIM_THRESHOLD_", "8388608"),
    ("MALLOC_ARENA_MAX", "4"),
];
