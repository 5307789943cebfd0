//! The files that are left out of a folder of pictures, watched or enrolled: system folders,
//! partial files, links, files that are no pictures. Each with its reason, counted, with an
//! example.
//!
//! The roots decide what may be read. A damaged picture is not left out: it fails later, with its
//! own reason.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{FileType, OFlags};

use crate::files::open_beneath;
use kith_pictures::kind::{HEAD_BYTES, is_heic, sniff};

/// Extensions of the pictures that the engine reads.
const PICTURES: [&str; 15] = [
    "jpg", "jpeg", "jpe", "jfif", "jfi", "pjpeg", "pjp", "png", "webp", "gif", "bmp", "dib", "tif",
    "tiff", "mpo",
];
/// Extensions of pictures that it does not read, with the reason.
const OTHER_PICTURES: [(&[&str], Why); 4] = [
    (&["heic", "heif", "hif", "heics", "heifs"], Why::Heic),
    (
        &[
            "avif", "avifs", "jxl", "jp2", "j2k", "jpf", "jxr", "psd", "svg", "svgz", "ico",
            "icns", "eps", "ai", "xcf",
        ],
        Why::OtherPicture,
    ),
    (
        &[
            "dng", "cr2", "cr3", "crw", "nef", "nrw", "arw", "srf", "sr2", "raf", "orf", "rw2",
            "raw", "pef", "srw", "x3f", "3fr", "erf", "mrw", "rwl", "iiq", "insp",
        ],
        Why::Raw,
    ),
    (
        &[
            "mp4", "m4v", "mov", "avi", "mkv", "webm", "3gp", "3g2", "mts", "m2ts", "ts", "mpg",
            "mpeg", "wmv", "flv", "lrv", "insv",
        ],
        Why::Video,
    ),
];
/// Folders that NAS and desktop systems keep for themselves, case-insensitive.
const SYSTEM_FOLDERS: [&str; 16] = [
    "@eadir",
    "@recycle",
    "@recently-snapshot",
    "@tmp",
    "@sharebin",
    "@sharesnap",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "recycler",
    "recycled",
    "system volume information",
    "lost+found",
    "__macosx",
    "network trash folder",
    "temporary items",
];
/// Files of NAS and desktop systems.
const SYSTEM_FILES: [&str; 5] = [
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "picasa.ini",
];
/// Prefixes of such files and folders.
const SYSTEM_STARTS: [&str; 13] = [
    "._",
    ".@__",
    ".apple",
    ".ds_store",
    ".fseventsd",
    ".snapshot",
    ".spotlight",
    ".stfolder",
    ".stversions",
    ".trash",
    ".zfs",
    "synophoto_",
    ".sync",
];
/// Extensions that senders and programs use while a file is incomplete.
const PARTIAL: [&str; 15] = [
    "tmp",
    "temp",
    "part",
    "partial",
    "filepart",
    "crdownload",
    "download",
    "opdownload",
    "swp",
    "swx",
    "lock",
    "!ut",
    "aria2",
    "bak",
    "inprogress",
];
/// Longest extension of a name: "Mr. Smith" has none.
const LONGEST_ENDING: usize = 12;

/// Reasons why something is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// A folder or file of the system.
    System,
    /// Its name begins with a dot.
    Hidden,
    /// Its name says that it is incomplete.
    Partial,
    /// A link, whatever its target.
    Link,
    /// A device, pipe or socket.
    Special,
    /// Its name cannot be written as text.
    NotUtf8,
    /// Its name has control characters.
    ControlCharacters,
    /// Apple's format.
    Heic,
    /// Another picture format.
    OtherPicture,
    /// A camera's raw data.
    Raw,
    /// A video.
    Video,
    /// Another kind of file, by its extension.
    NoPicture,
    /// No picture by its bytes; its name has no extension.
    NoPictureInside,
    /// `include` does not name it, or `exclude` does.
    Pattern,
    /// A folder named as the one for finished files.
    PutAway,
    /// `Intake` refuses it for good.
    Refused,
    /// The name comes from a camera or phone and is not a person's.
    CameraName,
}

impl Why {
    /// Returns the words for one and for several, and the remedy.
    const fn words(self) -> [&'static str; 3] {
        match self {
            Self::System => [
                "file or folder of the system",
                "files or folders of the system",
                "",
            ],
            Self::Hidden => ["hidden file or folder", "hidden files or folders", ""],
            Self::Partial => [
                "file that is not whole by its name",
                "files that are not whole by their names",
                "",
            ],
            Self::Link => ["link", "links", "links are not followed"],
            Self::Special => ["device, pipe or socket", "devices, pipes or sockets", ""],
            Self::NotUtf8 => [
                "name that is not UTF-8",
                "names that are not UTF-8",
                "rename them, for example with convmv",
            ],
            Self::ControlCharacters => [
                "name with a line break or control character",
                "names with line breaks or control characters",
                "rename them",
            ],
            Self::Heic => [
                "HEIC file",
                "HEIC files",
                "convert them, or have the phone save JPEG",
            ],
            Self::OtherPicture => [
                "picture of a kind that is not read",
                "pictures of a kind that is not read",
                "convert them to JPEG or PNG",
            ],
            Self::Raw => [
                "raw file of a camera",
                "raw files of a camera",
                "have it save JPEG as well",
            ],
            Self::Video => ["video", "videos", ""],
            Self::NoPicture => ["other file", "other files", ""],
            Self::NoPictureInside => [
                "file without an ending that is no picture",
                "files without an ending that are no pictures",
                "",
            ],
            Self::Pattern => [
                "file by include and exclude",
                "files by include and exclude",
                "",
            ],
            Self::PutAway => [
                "folder named done or failed",
                "folders named done or failed",
                "finished files go there; rename it to have its pictures taken",
            ],
            Self::Refused => [
                "file that is refused",
                "files that are refused",
                "the log says why",
            ],
            Self::CameraName => [
                "picture whose name is no person's",
                "pictures whose names are no person's",
                "put them into a folder with the person's name",
            ],
        }
    }
}

/// Classification of a file by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// A picture.
    Picture,
    /// Only the bytes can tell.
    Unclear,
    /// A file that is left out.
    Out(Why),
}

/// Returns why an entry of a folder is left out whatever its content; `None` for a file or folder
/// to look at.
pub fn of_entry(name: &OsStr, kind: FileType) -> Option<Why> {
    match kind {
        FileType::Symlink => Some(Why::Link),
        FileType::Directory => of_name(name, true),
        FileType::RegularFile => of_name(name, false),
        _ => Some(Why::Special),
    }
}

/// Returns the same by the name alone. A folder whose name is not UTF-8 is searched, so that each
/// file below it is counted.
pub fn of_name(name: &OsStr, folder: bool) -> Option<Why> {
    let text = name.to_string_lossy().to_lowercase();
    let system = if folder {
        &SYSTEM_FOLDERS[..]
    } else {
        &SYSTEM_FILES
    };
    if system.contains(&text.as_str()) || SYSTEM_STARTS.iter().any(|start| text.starts_with(start))
    {
        return Some(Why::System);
    }
    if text.starts_with('.') {
        return Some(Why::Hidden);
    }
    if folder {
        // Prefixes of NAS systems' own folders; each of their releases may add names.
        return text
            .starts_with(['@', '#', '$', '~'])
            .then_some(Why::System);
    }
    let partial = text.ends_with('~') || text.starts_with(['~', '#']);
    if partial
        || PARTIAL.iter().any(|ending| {
            text.strip_suffix(ending)
                .is_some_and(|rest| rest.ends_with('.'))
        })
    {
        return Some(Why::Partial);
    }
    of_path(Path::new(name))
}

/// Returns why a file of this path, or in a folder of this path, cannot be queued: queued paths are
/// text.
pub fn of_path(path: &Path) -> Option<Why> {
    match path.to_str() {
        None => Some(Why::NotUtf8),
        Some(text) if text.contains(char::is_control) => Some(Why::ControlCharacters),
        Some(_) => None,
    }
}

/// Classifies a name by its extension.
pub fn by_ending(name: &OsStr) -> Named {
    let text = name.to_string_lossy().to_lowercase();
    let Some((_, ending)) = text.rsplit_once('.') else {
        return Named::Unclear;
    };
    // Web sites append sizes: "x.jpg_large", "x.jpg:orig", "x.jpeg!d".
    let plain: String = ending
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect();
    if PICTURES.contains(&plain.as_str()) {
        return Named::Picture;
    }
    if let Some((_, why)) = OTHER_PICTURES
        .iter()
        .find(|(endings, _)| endings.contains(&plain.as_str()))
    {
        return Named::Out(*why);
    }
    let ending_like = ending == plain
        && ending.len() <= LONGEST_ENDING
        && ending.bytes().any(|byte| byte.is_ascii_alphabetic());
    if ending_like {
        Named::Out(Why::NoPicture)
    } else {
        Named::Unclear
    }
}

/// Returns why a file below an open folder is left out by its first bytes; `None` for a picture.
pub fn by_bytes_beneath(folder: impl AsFd, below: &Path) -> std::io::Result<Option<Why>> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    let file = File::from(open_beneath(folder, below, OFlags::RDONLY)?);
    file.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(match sniff(&head) {
        Some(_) => None,
        None if is_heic(&head) => Some(Why::Heic),
        None => Some(Why::NoPictureInside),
    })
}

/// Number of files left out for each reason, each with an example.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeftOut(BTreeMap<Why, (u64, String)>);

impl LeftOut {
    /// Counts a file.
    pub fn add(&mut self, why: Why, path: &Path) {
        // Quoted and escaped: a name may hold any character.
        self.count(why, 1, &format!("{path:?}"));
    }

    /// Adds the counts of another list.
    pub fn extend(&mut self, other: &Self) {
        other
            .0
            .iter()
            .for_each(|(why, (count, example))| self.count(*why, *count, example));
    }

    fn count(&mut self, why: Why, count: u64, example: &str) {
        let here = self.0.entry(why).or_insert_with(|| (0, example.into()));
        here.0 += count;
        // The example must not depend on the order of the files.
        if example < here.1.as_str() {
            here.1 = example.into();
        }
    }

    /// Returns true if nothing is left out.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns a sentence for each reason.
    pub fn sentences(&self) -> Vec<String> {
        let sentence = |(why, (count, example)): (&Why, &(u64, String))| {
            let [one, many, advice] = why.words();
            let what = if *count == 1 { one } else { many };
            let such_as = if *count == 1 { "" } else { "for example " };
            let advice = if advice.is_empty() {
                String::new()
            } else {
                format!("; {advice}")
            };
            format!("{count} {what} ({such_as}{example}{advice})")
        };
        self.0.iter().map(sentence).collect()
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "left out: {}", self.sentences().join(", "))
    }
}

#[cfg(test)]
mod tests;
