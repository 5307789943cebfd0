//! Names and contents of files that are no pictures.

use super::*;
use std::os::unix::ffi::OsStrExt;

#[test]
fn folders_of_nas_and_desktop_systems_are_left_out() {
    for name in [
        "@eaDir",
        "@Recycle",
        "#recycle",
        "#snapshot",
        ".snapshot",
        "$RECYCLE.BIN",
        "System Volume Information",
        "lost+found",
        ".Trash-1000",
        ".Trashes",
        ".stfolder",
        ".stversions",
        ".AppleDouble",
        "__MACOSX",
        "@Recently-Snapshot",
        ".@__thumb",
        "@appstore",
        "SYSTEM VOLUME INFORMATION",
    ] {
        assert_eq!(of_name(OsStr::new(name), true), Some(Why::System), "{name}");
    }
    assert_eq!(of_name(OsStr::new(".git"), true), Some(Why::Hidden));
    for name in ["Anna", "2024", "done", "a.b", "Übersicht"] {
        assert_eq!(of_name(OsStr::new(name), true), None, "{name}");
    }
}

#[test]
fn partial_hidden_and_odd_files_are_left_out_by_their_names() {
    for (name, why) in [
        ("Thumbs.db", Why::System),
        ("._IMG_1.jpg", Why::System),
        (".DS_Store", Why::System),
        ("SYNOPHOTO_THUMB_XL.jpg", Why::System),
        (".hidden.jpg", Why::Hidden),
        ("a.jpg.part", Why::Partial),
        ("a.TMP", Why::Partial),
        ("a.jpg.filepart", Why::Partial),
        ("a.jpg~", Why::Partial),
        ("~$a.jpg", Why::Partial),
        ("a\nb.jpg", Why::ControlCharacters),
    ] {
        assert_eq!(of_name(OsStr::new(name), false), Some(why), "{name}");
    }
    assert_eq!(
        of_name(OsStr::from_bytes(b"\xe9.jpg"), false),
        Some(Why::NotUtf8)
    );
    assert_eq!(of_name(OsStr::new("part.jpg"), false), None);
}

#[test]
fn extensions_ignore_case_and_a_sites_size_suffix_is_none() {
    for name in [
        "a.Jpg",
        "a.jPeG",
        "a.WebP",
        "a.jfif",
        "a.PJPEG",
        "a.JPG_large",
        "a.jpg:orig",
        "a.mpo",
        "a.DIB",
        "a.tiff",
        "a.b.JPE",
    ] {
        assert_eq!(by_ending(OsStr::new(name)), Named::Picture, "{name}");
    }
    for (name, why) in [
        ("a.HEIC", Why::Heic),
        ("a.heif", Why::Heic),
        ("a.AVIF", Why::OtherPicture),
        ("a.CR2", Why::Raw),
        ("a.MOV", Why::Video),
        ("a.txt", Why::NoPicture),
        ("a.json", Why::NoPicture),
    ] {
        assert_eq!(by_ending(OsStr::new(name)), Named::Out(why), "{name}");
    }
    for name in ["snapshot", "Mr. Smith", "2024-01-01 12.30.45", "photo.1"] {
        assert_eq!(by_ending(OsStr::new(name)), Named::Unclear, "{name}");
    }
}

#[test]
fn what_is_left_out_is_counted_with_an_example() {
    let mut left_out = LeftOut::default();
    left_out.add(Why::Heic, Path::new("b/IMG_2.HEIC"));
    let mut other = LeftOut::default();
    other.add(Why::Heic, Path::new("a/IMG_1.HEIC"));
    other.add(Why::NotUtf8, Path::new(OsStr::from_bytes(b"\xe9.jpg")));
    left_out.extend(&other);
    assert_eq!(
        left_out.to_string(),
        "left out: 1 name that is not UTF-8 (\"\\xE9.jpg\"; rename them, for example with convmv), 2 HEIC files (for \
         example \"a/IMG_1.HEIC\"; convert them, or have the phone save JPEG)"
    );
}
