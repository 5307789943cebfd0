//! Files below a folder: opened without following links, and identified by size, time and inode
//! number.
//!
//! The permission to read is decided elsewhere: roots belong to the reader, rules of watched
//! folders to `left_out`.

pub mod disk;
pub mod left_out;

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, fstatfs, openat2, statat,
};
use rustix::io::Errno;

use crate::domain::{Stamp, Standing};

/// File systems whose inode numbers last as long as the file (statfs(2)).
const NUMBERED: [u64; 8] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // Btrfs
    0xf2f5_2010, // F2FS
    0x2fc1_2fc1, // ZFS
    0x0102_1994, // tmpfs
    0x794c_7630, // overlayfs
    0x6969,      // NFS
];

/// Opens a path below a folder. `LOOP` means that a part of the path is a link, `XDEV` that it
/// leads out.
///
/// A pipe without a writer or a device does not block the caller.
pub fn open_beneath(folder: impl AsFd, below: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    // The kernel accepts few other flags beside O_PATH.
    let for_paths = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let flags = if flags.contains(OFlags::PATH) {
        flags & for_paths
    } else {
        flags
    };
    let below = if below.as_os_str().is_empty() {
        Path::new(".")
    } else {
        below
    };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(folder, below, flags, Mode::empty(), resolve)
}

/// Opens a path below a folder and returns its metadata too.
pub fn stat_beneath(
    folder: impl AsFd,
    below: &Path,
    flags: OFlags,
) -> Result<(OwnedFd, Stat), Errno> {
    let file = open_beneath(folder, below, flags)?;
    let stat = fstat(&file)?;
    Ok((file, stat))
}

/// Names the kind of a path that is no regular file, with its article.
pub fn special(kind: FileType) -> Option<&'static str> {
    match kind {
        FileType::RegularFile => None,
        FileType::Directory => Some("a folder"),
        FileType::Symlink => Some("a link"),
        FileType::BlockDevice => Some("a block device"),
        FileType::CharacterDevice => Some("a character device"),
        FileType::Fifo => Some("a pipe"),
        FileType::Socket => Some("a socket"),
        _ => Some("of an unknown kind"),
    }
}

/// Returns true if inode numbers on this file system last.
pub fn numbers_last(file: impl AsFd) -> bool {
    fstatfs(file).is_ok_and(|stat| NUMBERED.contains(&(stat.f_type as u64 & 0xffff_ffff)))
}

/// Lists the names in an open folder with their kinds.
pub fn entries(folder: &OwnedFd) -> Result<Vec<(OsString, FileType)>, Errno> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        // Some file systems do not report the kind here.
        let kind = match entry.file_type() {
            FileType::Unknown => match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(_) => continue, // gone by now
            },
            kind => kind,
        };
        entries.push((name.to_os_string(), kind));
    }
    Ok(entries)
}

/// Returns the standing of a file from its metadata and its file system.
pub fn standing_of(stat: &Stat, numbers_last: bool) -> Standing {
    let seconds = stat.st_mtime.wrapping_mul(1_000_000_000);
    let mtime_ns = seconds.wrapping_add(i64::try_from(stat.st_mtime_nsec).unwrap_or_default());
    Standing {
        stamp: Stamp {
            size: stat.st_size,
            mtime_ns,
        },
        inode: if numbers_last {
            stat.st_ino.cast_signed()
        } else {
            0
        },
    }
}

/// Returns the file name of a path, for display.
pub fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}
