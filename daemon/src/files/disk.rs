//! The disk below a folder: its free bytes, and its errors as sentences for the operator.

use std::path::Path;

use rustix::io::Errno;

/// Explains an error of the state folder's disk to the operator, with the remedy; `None` for other
/// errors. Names no path, which must not reach clients on the LAN.
pub fn trouble(error: &std::io::Error) -> Option<&'static str> {
    Some(match Errno::from_io_error(error)? {
        Errno::ROFS => READ_ONLY,
        Errno::IO => FAILING,
        Errno::NOENT | Errno::NOTDIR | Errno::STALE => GONE,
        Errno::ACCESS | Errno::PERM => CLOSED,
        Errno::MFILE | Errno::NFILE => {
            "kithd has reached its limit of open files; connect fewer clients, or raise \
             LimitNOFILE="
        }
        _ => return None,
    })
}

/// The file system is mounted read-only.
pub const READ_ONLY: &str = "the disk of the state folder is read-only, as a failing card makes itself; see dmesg, then \
                             replace the card, or mount it for writing and restart kithd";
/// The disk reports I/O errors.
pub const FAILING: &str =
    "the disk of the state folder reports errors; see dmesg, save what is on it, and replace it";
/// The folder was deleted or moved, or its disk unmounted.
pub const GONE: &str = "the state folder, or something in it, was deleted or replaced while kithd runs; put it back, or \
                        restart kithd";
/// Write permission was withdrawn.
pub const CLOSED: &str =
    "the state folder may not be written by the user kithd runs as; give it back to that user";

/// Returns the bytes an unprivileged process may still write on the disk of a folder, if known.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_of_a_disk_has_its_remedy_and_no_path() {
        for (errno, remedy) in [
            (Errno::IO, "save what is on it, and replace it"),
            (Errno::ROFS, "replace the card, or mount it for writing"),
            (Errno::NOENT, "put it back, or restart kithd"),
            (Errno::STALE, "put it back, or restart kithd"),
            (Errno::PERM, "give it back to that user"),
            (Errno::MFILE, "raise LimitNOFILE="),
        ] {
            let sentence = trouble(&errno.into()).unwrap();
            assert!(sentence.contains(remedy), "{errno:?}: {sentence}");
            assert!(!sentence.contains('/'), "{errno:?}: {sentence}");
        }
        assert_eq!(trouble(&Errno::CONNRESET.into()), None);
        assert_eq!(trouble(&std::io::Error::other("not of the system")), None);
    }
}
