//! Files, links, pipes and missing folders.

use super::*;
use std::os::unix::fs::symlink;

fn reader(root: &Path) -> Reader {
    Reader::new(&[root.to_path_buf()], root, 1000, Duration::from_secs(2))
}

#[tokio::test]
async fn a_file_below_the_root_is_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("a")).unwrap();
    std::fs::write(folder.path().join("a/x.jpg"), b"bytes").unwrap();
    let read = reader(folder.path())
        .read_path(&folder.path().join("a/x.jpg"))
        .await;
    assert_eq!(read.unwrap(), b"bytes");
}

#[tokio::test]
async fn no_link_is_followed_wherever_it_leads() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.jpg"), b"bytes").unwrap();
    symlink("/etc/passwd", folder.path().join("link")).unwrap();
    symlink("/etc", folder.path().join("folder")).unwrap();
    symlink("x.jpg", folder.path().join("inside")).unwrap();
    symlink(".", folder.path().join("loop")).unwrap();
    for name in ["link", "folder/passwd", "inside", "loop/x.jpg"] {
        let path = folder.path().join(name);
        let read = reader(folder.path()).read_path(&path).await;
        assert_eq!(read, Err(Failure::Link(path.clone())), "{name}");
        let looked = reader(folder.path()).look(vec![(1, path.clone())]).await;
        assert_eq!(looked, [(1, Err(Failure::Link(path)))], "{name}");
    }
    let read = reader(folder.path())
        .read_path(&folder.path().join("../x"))
        .await;
    assert!(matches!(read, Err(Failure::OutsideRoots(_))), "{read:?}");
}

#[tokio::test]
async fn a_folder_a_pipe_and_a_device_are_no_files_and_do_not_hang() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("dir")).unwrap();
    rustix::fs::mknodat(
        CWD,
        folder.path().join("pipe"),
        FileType::Fifo,
        Mode::RUSR,
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    for (name, kind) in [
        ("dir", "a folder"),
        ("pipe", "a pipe"),
        ("socket", "a socket"),
    ] {
        let path = folder.path().join(name);
        let read = reader(folder.path()).read_path(&path).await;
        assert_eq!(read, Err(Failure::NotAFile { path, kind }));
    }
    let read = reader(Path::new("/dev"))
        .read_path(Path::new("/dev/zero"))
        .await;
    assert_eq!(
        read,
        Err(Failure::NotAFile {
            path: "/dev/zero".into(),
            kind: "a character device"
        })
    );
}

#[tokio::test]
async fn a_missing_file_is_told_from_a_missing_root() {
    let folder = tempfile::tempdir().unwrap();
    let missing = reader(folder.path())
        .read_path(&folder.path().join("x"))
        .await;
    assert!(
        matches!(missing, Err(Failure::FileMissing { .. })),
        "{missing:?}"
    );
    let root = folder.path().join("mount");
    let absent = reader(&root).read_path(&root.join("x")).await;
    assert!(
        matches!(absent, Err(Failure::RootAbsent { .. })),
        "{absent:?}"
    );
}

#[tokio::test]
async fn a_file_beyond_the_byte_limit_is_refused_without_reading_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("big"), vec![0; 1001]).unwrap();
    let read = reader(folder.path())
        .read_path(&folder.path().join("big"))
        .await;
    assert_eq!(
        read,
        Err(Failure::TooLarge {
            bytes: 1001,
            limit: 1000
        })
    );
}
