//! Recovery of the spool's files at a start.

use super::*;

fn spool() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join(SPOOL)).unwrap();
    folder
}

fn files(folder: &tempfile::TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(folder.path().join(SPOOL)).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| format!("{SPOOL}/{}", entry.unwrap().file_name().to_string_lossy()))
        .collect();
    names.sort();
    names
}

#[test]
fn a_start_tells_promised_files_from_others_by_their_names() {
    let folder = spool();
    let [kept, renamed, lost, dropped] =
        [Source::Http, Source::Mqtt, Source::Camera, Source::Http].map(new_name);
    let [kept, lost] = [accepted_name(&kept, 3), accepted_name(&lost, 7)];
    let foreign = [
        "notes.txt",
        "1.http.1",
        &format!("{}.http.x", "0".repeat(32)),
    ]
    .map(|name| format!("{SPOOL}/{name}"));
    let there = [
        &[
            kept.clone(),
            format!("{renamed}.new"),
            lost.clone(),
            format!("{dropped}.new"),
        ],
        &foreign[..],
    ]
    .concat();
    there
        .iter()
        .for_each(|file| std::fs::write(folder.path().join(file), "picture").unwrap());
    let renamed = accepted_name(&renamed, 4);
    let unnamed = tidy(
        folder.path(),
        &HashSet::from([kept.clone(), renamed.clone()]),
    )
    .unwrap();
    assert_eq!(
        unnamed,
        [Unnamed {
            file: lost.clone(),
            image: 7,
            source: Source::Camera,
            bytes: 7
        }]
    );
    let mut left = [&[kept, renamed, lost], &foreign[..]].concat();
    left.sort();
    assert_eq!(files(&folder), left);
}

#[test]
fn a_folder_or_link_under_a_name_of_ours_is_left_alone() {
    let folder = spool();
    let [accepted, new, link] = [Source::Http, Source::Mqtt, Source::Http].map(new_name);
    let names = [
        accepted_name(&accepted, 3),
        format!("{new}.{NEW}"),
        accepted_name(&link, 4),
    ];
    std::fs::create_dir(folder.path().join(&names[0])).unwrap();
    std::fs::create_dir(folder.path().join(&names[1])).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", folder.path().join(&names[2])).unwrap();
    assert_eq!(tidy(folder.path(), &HashSet::new()).unwrap(), []);
    let mut left = names.to_vec();
    left.sort();
    assert_eq!(files(&folder), left);
}

#[test]
fn a_file_is_read_and_deleted_under_either_of_its_names() {
    let folder = spool();
    for renamed in [false, true] {
        let name = new_name(Source::Http);
        std::io::Write::write_all(&mut create(folder.path(), &name).unwrap(), b"picture").unwrap();
        let file = accepted_name(&name, 1);
        if renamed {
            accept(folder.path(), &file).unwrap();
        }
        assert_eq!(read(folder.path(), &file).unwrap(), b"picture");
        delete(folder.path(), &file).unwrap();
        assert_eq!(files(&folder), [""; 0]);
        // The file is accepted after its removal: an operator dropped the image while the
        // sender got its answer.
        accept(folder.path(), &file).unwrap();
        assert_eq!(
            read(folder.path(), &file).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }
}

#[test]
fn a_name_out_of_a_damaged_database_leads_nowhere() {
    let folder = spool();
    std::fs::write(folder.path().join("token"), "secret").unwrap();
    for file in [
        "token",
        "spool/../token",
        "/etc/hostname",
        "spool",
        "",
        "spool/a/b",
        "spool/..",
    ] {
        assert_eq!(
            read(folder.path(), file).unwrap_err().kind(),
            ErrorKind::InvalidInput,
            "{file}"
        );
        assert_eq!(
            delete(folder.path(), file).unwrap_err().kind(),
            ErrorKind::InvalidInput,
            "{file}"
        );
    }
    assert!(folder.path().join("token").exists());
}
