//! Names of people from the files and folders of a folder of known people.
//!
//! `files::left_out` decides which files of such a folder are left out.

use std::path::Path;

use crate::names;

/// Words with which cameras, phones and programs begin file names, before a number or a date.
const CAMERA_WORDS: [&str; 60] = [
    "img",
    "image",
    "imag",
    "images",
    "imgp",
    "mg",
    "dsc",
    "dscn",
    "dscf",
    "dscs",
    "pxl",
    "mvimg",
    "mvi",
    "pano",
    "burst",
    "gopr",
    "dji",
    "cimg",
    "kimg",
    "fimg",
    "pict",
    "pic",
    "picture",
    "photo",
    "photos",
    "foto",
    "fotos",
    "bild",
    "bilder",
    "imagen",
    "immagine",
    "screenshot",
    "screen",
    "bildschirmfoto",
    "snapshot",
    "snap",
    "scan",
    "vid",
    "video",
    "vlcsnap",
    "wp",
    "wa",
    "whatsapp",
    "telegram",
    "signal",
    "fb",
    "facebook",
    "received",
    "messenger",
    "download",
    "unnamed",
    "untitled",
    "unbenannt",
    "frame",
    "crop",
    "dcim",
    "camera",
    "kamera",
    "unknown",
    "copy",
];
/// Suffixes that file managers give a second copy.
const COPIES: [&str; 6] = [
    " - copy", " - kopie", " copy", " kopie", " - copia", " - copie",
];

/// Returns the person a file belongs to: the name of its sub-folder, else its own name without
/// `_1`. `None` if a camera named it, or it has no name at all.
pub fn person_of(folder: &Path, file: &Path) -> Option<String> {
    let below = file.strip_prefix(folder).ok()?;
    let name = match below.parent()?.components().next() {
        Some(sub) => without_copy(&names::clean(&sub.as_os_str().to_string_lossy())),
        None => {
            let stem = names::clean(&file.file_stem()?.to_string_lossy());
            if by_camera(&stem) {
                return None;
            }
            let stem = without_copy(&stem);
            match stem.rsplit_once(['_', '-', ' ']) {
                Some((name, number))
                    if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) =>
                {
                    names::clean(name)
                }
                _ => stem,
            }
        }
    };
    (!by_camera(&name)).then_some(name)
}

/// Strips copy suffixes: "Anna (2)" and "Anna - Copy" are Anna.
fn without_copy(name: &str) -> String {
    let mut name = name;
    loop {
        let numbered = name
            .strip_suffix(')')
            .and_then(|open| open.rsplit_once('('));
        let shorter = match numbered {
            Some((before, number))
                if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) =>
            {
                before
            }
            _ => {
                let ending = |copy: &&str| {
                    name.get(name.len().checked_sub(copy.len())?..)
                        .filter(|end| end.eq_ignore_ascii_case(copy))
                };
                match COPIES.iter().find_map(ending) {
                    Some(ending) => &name[..name.len() - ending.len()],
                    None => return names::clean(name),
                }
            }
        };
        name = shorter.trim_end();
    }
}

/// Returns true for names by cameras: "IMG_20240101", "20240101_123456", "P1010001", "100APPLE",
/// "_".
fn by_camera(name: &str) -> bool {
    let name = names::fold(name);
    let mut rest = name.as_str();
    if !rest.contains(char::is_alphabetic) {
        return true;
    }
    // Folder names of cameras (DCF): three digits and five letters.
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 3
        && rest.len() == 8
        && rest
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    {
        return true;
    }
    let mut words = 0;
    loop {
        rest = rest.trim_start_matches(['_', '-', ' ', '.', '(']);
        let word = &rest[..rest
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(rest.len())];
        if !CAMERA_WORDS.contains(&word) {
            break;
        }
        words += 1;
        rest = &rest[word.len()..];
    }
    let long_number =
        |text: &str| text.len() >= 4 && text.bytes().take(4).all(|byte| byte.is_ascii_digit());
    let number = rest.starts_with(|c: char| c.is_ascii_digit());
    // A letter before the number: "IMG_E1234", "P1010001".
    let letter = rest.starts_with(|c: char| c.is_ascii_alphabetic())
        && rest.get(1..).is_some_and(long_number);
    (words > 0 && (rest.is_empty() || number)) || letter
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(file: &str) -> Option<String> {
        person_of(Path::new("/k"), Path::new(file))
    }

    #[test]
    fn names_come_from_sub_folders_and_numbered_files() {
        for (file, name) in [
            ("/k/hannibal_1.jpg", "hannibal"),
            ("/k/john smith-02.png", "john smith"),
            ("/k/Ada.jpg", "Ada"),
            ("/k/Ada Lovelace/2019/x.jpg", "Ada Lovelace"),
            ("/k/Anna/IMG_20240101.jpg", "Anna"),
            ("/k/Scanlon_1.jpg", "Scanlon"),
            ("/k/Snapper/a.jpg", "Snapper"),
            ("/k/Sam_1.jpg", "Sam"),
        ] {
            assert_eq!(person(file).as_deref(), Some(name), "{file}");
        }
    }

    #[test]
    fn a_second_copy_is_the_same_person() {
        for file in [
            "/k/Anna (2).jpg",
            "/k/Anna (2)/x.jpg",
            "/k/Anna(3).jpg",
            "/k/Anna - Copy.jpg",
            "/k/Anna - Kopie (2).jpg",
            "/k/Anna_1 (2).jpg",
            "/k/ Anna \u{200b}/x.jpg",
        ] {
            assert_eq!(person(file).as_deref(), Some("Anna"), "{file}");
        }
        assert_eq!(person("/k/Jose\u{301}/x.jpg"), person("/k/José.jpg"));
        assert_eq!(
            person("/k/Anna (Berlin).jpg").as_deref(),
            Some("Anna (Berlin)")
        );
    }

    #[test]
    fn names_that_cameras_and_phones_give_are_nobodys() {
        for file in [
            "IMG_20240101.jpg",
            "IMG_20240101_123456 (2).jpg",
            "IMG-20240101-WA0001.jpg",
            "IMG_E1234.HEIC",
            "DSC_0001.JPG",
            "DSCN0001.jpg",
            "DSCF1234.jpg",
            "PXL_20240101_123456789.jpg",
            "P1010001.JPG",
            "20240101_123456.jpg",
            "_MG_1234.jpg",
            "FB_IMG_1234567890.jpg",
            "WhatsApp Image 2024-01-01 at 12.30.45.jpeg",
            "signal-2024-01-01-123456.jpg",
            "image.jpg",
            "image0.jpeg",
            "Screenshot_20240101-123456_Chrome.png",
            "100_0001.jpg",
            "_1.jpg",
            "DCIM/x.jpg",
            "100APPLE/x.jpg",
            "2024/x.jpg",
            "Camera/x.jpg",
        ] {
            assert_eq!(person(&format!("/k/{file}")), None, "{file}");
        }
    }
}
