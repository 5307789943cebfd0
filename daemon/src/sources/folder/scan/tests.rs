//! The scan on real folders. `tests/it/folder.rs` tests the watching.

use std::os::unix::ffi::OsStrExt;

use super::*;

const SETTLE: Duration = Duration::from_secs(2);

fn rules() -> Rules {
    Rules {
        recursive: true,
        include: Some(Patterns::new(&["*.jpg"]).unwrap()),
        exclude: Patterns::new(&["**/skip/**"]).unwrap(),
        settle: SETTLE,
        then: Then::Move,
    }
}

fn scanner(root: &Path) -> Scanner {
    Scanner::new(root.to_path_buf(), rules(), false, HashMap::new())
}

fn names(looked: &Looked) -> Vec<&str> {
    let mut names: Vec<_> = looked
        .ready
        .iter()
        .map(|found| found.below.to_str().unwrap())
        .collect();
    names.sort_unstable();
    names
}

fn later(times: u32) -> Instant {
    Instant::now() + SETTLE * times
}

#[test]
fn a_file_is_ready_once_it_is_still_and_a_growing_one_waits() {
    let folder = tempfile::tempdir().unwrap();
    let mut scanner = scanner(folder.path());
    fs::write(folder.path().join("a.jpg"), "a").unwrap();
    fs::write(folder.path().join("b.jpg"), "b").unwrap();
    assert!(scanner.look(true, later(0)).unwrap().ready.is_empty());
    fs::write(folder.path().join("b.jpg"), "bigger").unwrap();
    let looked = scanner.look(false, later(1)).unwrap();
    assert_eq!((names(&looked), looked.settling), (vec!["a.jpg"], 1));
    scanner.taken(&looked.ready);
    let looked = scanner.look(false, later(2)).unwrap();
    assert_eq!(names(&looked), ["b.jpg"]);
    // Not accepted because the queue was full, so it is ready again.
    assert_eq!(names(&scanner.look(false, later(3)).unwrap()), ["b.jpg"]);
    scanner.taken(&looked.ready);
    assert!(scanner.look(true, later(4)).unwrap().ready.is_empty());
}

#[test]
fn hidden_temporary_unwanted_linked_and_moved_files_are_skipped() {
    let folder = tempfile::tempdir().unwrap();
    for inner in ["in/deep", "in/skip", "done", "failed", ".cache"] {
        fs::create_dir_all(folder.path().join(inner)).unwrap();
    }
    for name in [
        "a.jpg",
        "in/deep/b.jpg",
        ".hidden.jpg",
        "c.jpg.part",
        "d.tmp",
        "notes.txt",
        "in/skip/e.jpg",
        "done/f.jpg",
        "failed/g.jpg",
        ".cache/h.jpg",
        "~i.jpg",
    ] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    std::os::unix::fs::symlink("/etc/hostname", folder.path().join("link.jpg")).unwrap();
    let mut scanner = scanner(folder.path());
    scanner.look(true, later(0)).unwrap();
    for name in [
        ".hidden.jpg",
        "done/f.jpg",
        "notes.txt",
        "in/skip/e.jpg",
        ".cache/h.jpg",
    ] {
        scanner.touched(Path::new(name), later(0));
    }
    assert_eq!(
        names(&scanner.look(false, later(1)).unwrap()),
        ["a.jpg", "in/deep/b.jpg"]
    );
}

#[test]
fn what_is_left_out_is_counted_while_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut every = Scanner::new(
        folder.path().into(),
        Rules {
            include: None,
            ..rules()
        },
        false,
        HashMap::new(),
    );
    for name in ["a.jpg", "b.HEIC", "c.heic", "d.part", "README"] {
        fs::write(folder.path().join(name), "text").unwrap();
    }
    fs::write(folder.path().join("snapshot"), [0xff, 0xd8, 0xff, 0xe0]).unwrap();
    std::os::unix::fs::symlink(".", folder.path().join("loop")).unwrap();
    every.look(true, later(0)).unwrap();
    let looked = every.look(false, later(1)).unwrap();
    assert_eq!(names(&looked), ["a.jpg", "snapshot"]);
    let left_out = looked.left_out.to_string();
    for said in ["2 HEIC files", "1 link", "not whole", "\"README\""] {
        assert!(left_out.contains(said), "{said}: {left_out}");
    }
    fs::remove_file(folder.path().join("b.HEIC")).unwrap();
    fs::remove_file(folder.path().join("README")).unwrap();
    let left_out = every.look(false, later(2)).unwrap().left_out.to_string();
    assert!(
        left_out.contains("1 HEIC file (\"c.heic\"") && !left_out.contains("README"),
        "{left_out}"
    );
}

#[test]
fn a_file_below_an_odd_folder_is_counted_however_it_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let odd: [(&[u8], &str); 4] = [
        (b"caf\xe9", "not UTF-8"),
        (b"in/caf\xe9/deep", "not UTF-8"),
        (b"line\nbreak", "line break"),
        (b"bell\x07/in", "line break"),
    ];
    let mut scanner = scanner(folder.path());
    for (name, _) in &odd {
        fs::create_dir_all(folder.path().join(OsStr::from_bytes(name))).unwrap();
    }
    assert!(scanner.look(true, later(0)).unwrap().left_out.is_empty());
    for (n, (name, says)) in odd.iter().enumerate() {
        let below = Path::new(OsStr::from_bytes(name)).join("x.jpg");
        fs::write(folder.path().join(&below), "x").unwrap();
        scanner.touched(&below, later(0));
        let looked = scanner.look(false, later(1)).unwrap();
        assert!(
            looked.ready.is_empty() && looked.settling == 0,
            "{below:?}: {looked:?}"
        );
        let left_out = looked.left_out.to_string();
        let count = if n % 2 == 0 { "1 " } else { "2 " };
        assert!(
            left_out.contains(says) && left_out.contains(count),
            "{below:?}: {left_out}"
        );
    }
}

#[test]
fn done_and_failed_are_ours_by_rule_and_counted_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["done/a.jpg", "failed/b.jpg", "in/done/c.jpg"] {
        fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
        fs::write(folder.path().join(name), "x").unwrap();
    }
    for (then, recursive, counted) in [
        (Then::Leave, true, 2),
        (Then::Delete, true, 1),
        (Then::Move, true, 0),
        (Then::Leave, false, 0),
    ] {
        let rules = Rules {
            then,
            recursive,
            ..rules()
        };
        let mut scanner = Scanner::new(folder.path().into(), rules, false, HashMap::new());
        scanner.look(true, later(0)).unwrap();
        scanner.touched(Path::new("done/a.jpg"), later(0));
        let looked = scanner.look(false, later(1)).unwrap();
        let expected: &[&str] = if recursive { &["in/done/c.jpg"] } else { &[] };
        assert_eq!(names(&looked), expected, "{then:?}");
        let said = match counted {
            0 => String::new(),
            1 => "1 folder named done or failed (\"done\"".into(),
            _ => format!("{counted} folders named done or failed"),
        };
        let left_out = looked.left_out.to_string();
        assert_eq!(
            looked.left_out.is_empty(),
            counted == 0,
            "{then:?}: {left_out}"
        );
        assert!(left_out.contains(&said), "{then:?}: {left_out}");
    }
}

#[test]
fn a_refused_file_is_left_out_until_it_changes_or_goes() {
    let folder = tempfile::tempdir().unwrap();
    let mut scanner = scanner(folder.path());
    for name in ["a.jpg", "b.jpg"] {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    scanner.look(true, later(0)).unwrap();
    let looked = scanner.look(false, later(1)).unwrap();
    assert_eq!(names(&looked), ["a.jpg", "b.jpg"]);
    looked.ready.iter().for_each(|file| scanner.refused(file));
    let looked = scanner.look(true, later(2)).unwrap();
    assert_eq!(
        (names(&looked).len(), looked.settling, scanner.known()),
        (0, 0, 0)
    );
    let left_out = looked.left_out.to_string();
    assert!(left_out.contains("2 files that are refused"), "{left_out}");
    fs::write(folder.path().join("a.jpg"), "other").unwrap();
    fs::remove_file(folder.path().join("b.jpg")).unwrap();
    scanner.look(true, later(3)).unwrap();
    let looked = scanner.look(false, later(4)).unwrap();
    assert_eq!(
        (names(&looked), looked.left_out.is_empty()),
        (vec!["a.jpg"], true)
    );
}

#[test]
fn a_file_that_only_grows_is_waited_for_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut scanner = scanner(folder.path());
    for n in 0..40 {
        fs::write(folder.path().join("grows.jpg"), vec![0; n + 1]).unwrap();
        fs::write(folder.path().join("rewritten.jpg"), vec![0; 100 - n]).unwrap();
        let looked = scanner
            .look(true, later(u32::try_from(n).unwrap()))
            .unwrap();
        let growing = looked.growing.as_deref() == Some(Path::new("grows.jpg"));
        assert_eq!(
            (names(&looked), growing),
            if n < 30 {
                (vec![], false)
            } else {
                (vec!["rewritten.jpg"], true)
            }
        );
    }
}

/// The full scan finds files that were rewritten or removed.
#[test]
fn only_changed_folders_are_listed_except_by_a_full_scan() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("in")).unwrap();
    for name in ["in/a.jpg", "in/b.jpg"] {
        fs::write(folder.path().join(name), "old").unwrap();
    }
    let mut scanner = scanner(folder.path());
    scanner.look(true, later(0)).unwrap();
    let looked = scanner.look(false, later(1)).unwrap();
    scanner.taken(&looked.ready);
    scanner.look(false, later(2)).unwrap();
    fs::write(folder.path().join("in/a.jpg"), "rewritten in place").unwrap();
    assert_eq!(scanner.look(false, later(3)).unwrap().settling, 0);
    fs::remove_file(folder.path().join("in/b.jpg")).unwrap();
    let looked = scanner.look(true, later(4)).unwrap();
    assert_eq!(
        (looked.gone, looked.settling),
        (vec![key_of(Path::new("in/b.jpg"))], 1)
    );
    assert_eq!(names(&scanner.look(false, later(5)).unwrap()), ["in/a.jpg"]);
    fs::write(folder.path().join("in/c.jpg"), "new").unwrap();
    scanner.look(false, later(6)).unwrap();
    assert_eq!(
        names(&scanner.look(false, later(7)).unwrap()),
        ["in/a.jpg", "in/c.jpg"]
    );
}

#[test]
fn a_folder_that_is_away_or_was_a_mount_forgets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("mount");
    fs::create_dir(&root).unwrap();
    let seen = HashMap::from([(
        key_of(Path::new("a.jpg")),
        Stamp {
            size: 1,
            mtime_ns: 1,
        },
    )]);
    let mut was_mount = Scanner::new(root.clone(), rules(), true, seen.clone());
    assert!(
        was_mount
            .look(true, later(0))
            .unwrap_err()
            .contains("nothing is mounted there now")
    );
    assert_eq!(was_mount.known(), 1);
    fs::remove_dir(&root).unwrap();
    let mut absent = Scanner::new(root, rules(), false, seen);
    assert!(absent.look(true, later(0)).is_err());
    assert_eq!(absent.known(), 1);
}

#[test]
fn a_file_is_moved_beside_its_namesakes_and_a_newer_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::create_dir(root.join("in")).unwrap();
    let mut scanner = scanner(root);
    let put = |scanner: &mut Scanner, content: &str, failed, delete| {
        fs::write(root.join("in/a.jpg"), content).unwrap();
        let stamp = standing_of(&rustix::fs::stat(root.join("in/a.jpg")).unwrap(), false).stamp;
        assert_eq!(
            scanner.put_away(Path::new("in/a.jpg"), stamp, failed, delete),
            PutAway::Done
        );
    };
    put(&mut scanner, "one", false, false);
    put(&mut scanner, "two", false, false);
    put(&mut scanner, "three", true, true);
    put(&mut scanner, "four", false, true);
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_default();
    assert_eq!(
        (read("done/in/a.jpg"), read("done/in/a-2.jpg")),
        ("one".into(), "two".into())
    );
    assert_eq!(
        (read("failed/in/a.jpg"), read("in/a.jpg")),
        ("three".into(), String::new())
    );
    fs::write(root.join("in/a.jpg"), "newer than what was done").unwrap();
    let old = Stamp {
        size: 3,
        mtime_ns: 5,
    };
    assert_eq!(
        scanner.put_away(Path::new("in/a.jpg"), old, false, true),
        PutAway::Done
    );
    assert_eq!(read("in/a.jpg"), "newer than what was done");
}
