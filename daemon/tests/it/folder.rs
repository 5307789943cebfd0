//! Watched folders as their users meet them: taken once, put away, a dead mount, a hundred thousand
//! files.

use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use crate::support::{TestDaemon, as_plain_user, full, photo, wait_for, with_own_limits};

/// A board that watches a folder of its own, with these further lines of configuration.
fn watching(lines: &str) -> (TestDaemon, std::path::PathBuf) {
    let mut daemon = TestDaemon::new();
    let folder = daemon.folder.path().join("watched");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.display();
    daemon.set(
        "folder",
        &format!("[{{path = \"{path}\", settle = \"100ms\", poll = \"200ms\", {lines}}}]"),
    );
    (daemon, folder)
}

fn part(daemon: &TestDaemon, folder: &Path) -> Value {
    daemon.get("/v1/status")["parts"][format!("folder {}", folder.display())].clone()
}

fn rows(daemon: &TestDaemon) -> usize {
    daemon.sql("select count(*) from images")[0]
        .parse()
        .unwrap()
}

fn seen(daemon: &TestDaemon) -> usize {
    daemon.sql("select count(*) from seen")[0].parse().unwrap()
}

/// Waits until every file so far is known and nothing is being written.
fn settled(daemon: &TestDaemon, folder: &Path, files: usize) {
    wait_for(&format!("{files} files to be taken"), || {
        let part = part(daemon, folder);
        let text = part["text"].as_str()?;
        let still = !text.contains("still being written");
        let taken = text.starts_with(&format!("{files} files in the folder are taken"));
        (part["condition"] == "ok" && taken && still).then_some(())
    });
}

/// Neither a restart nor retention makes it new.
#[test]
fn a_file_is_taken_once_and_again_only_when_rewritten() {
    let (mut daemon, folder) = watching("full_scan = \"1s\"");
    std::fs::create_dir(folder.join("front door")).unwrap();
    for name in ["a.jpg", "front door/b.JPG"] {
        std::fs::copy(photo("noface.jpg"), folder.join(name)).unwrap();
    }
    std::fs::write(folder.join("c.jpg.part"), "not whole").unwrap();
    daemon.start();
    settled(&daemon, &folder, 2);
    let sources = daemon.sql("select source, path from images order by path");
    assert_eq!(
        sources,
        ["a.jpg", "front door/b.JPG"].map(|name| format!("folder|{}/{name}", folder.display()))
    );
    std::fs::copy(photo("noface.jpg"), folder.join("d.jpg")).unwrap();
    settled(&daemon, &folder, 3);
    for id in 1..=3 {
        assert_eq!(daemon.ended(id)["state"], "processed");
    }
    assert_eq!(daemon.stop(), Some(0));

    // Retention does the same.
    daemon.change("delete from results; delete from images");
    daemon.start();
    settled(&daemon, &folder, 3);
    assert_eq!(rows(&daemon), 0);
    std::fs::rename(folder.join("c.jpg.part"), folder.join("c.jpg")).unwrap();
    settled(&daemon, &folder, 4);
    assert_eq!(
        daemon.sql("select path from images"),
        [folder.join("c.jpg").display().to_string()]
    );
    std::fs::copy(photo("obama_1.jpg"), folder.join("a.jpg")).unwrap();
    std::fs::remove_file(folder.join("d.jpg")).unwrap();
    wait_for("the rewritten file to be taken again", || {
        (rows(&daemon) == 2).then_some(())
    });
    settled(&daemon, &folder, 3);
    wait_for("the deleted file to be forgotten", || {
        (seen(&daemon) == 3).then_some(())
    });
}

#[test]
fn finished_files_are_moved_once_the_engine_is_verified() {
    let (mut daemon, folder) = watching("then = \"move\"");
    daemon.set("breaker.self_test", "1s");
    std::fs::copy(photo("noface.jpg"), folder.join("a.jpg")).unwrap();
    std::fs::write(folder.join("broken.jpg"), "no picture").unwrap();
    daemon.start();
    for (name, place) in [("a.jpg", "done"), ("broken.jpg", "failed")] {
        wait_for(&format!("{name} in {place}"), || {
            folder.join(place).join(name).exists().then_some(())
        });
        assert!(!folder.join(name).exists());
    }
    std::fs::copy(photo("obama_1.jpg"), folder.join("a.jpg")).unwrap();
    wait_for("the namesake in done", || {
        folder.join("done/a-2.jpg").exists().then_some(())
    });
    settled(&daemon, &folder, 0);
    wait_for("the moved files to be forgotten", || {
        (seen(&daemon) == 0).then_some(())
    });
    assert_eq!(rows(&daemon), 3);
}

#[test]
fn a_hung_mount_is_named_blocks_no_other_and_is_taken_up_again() {
    let (mut daemon, folder) = watching("report_after = \"300ms\"");
    daemon.preload("slow_mount.c");
    let hang = daemon.folder.path().join("server-is-away");
    daemon.environment("HANG_PATH", "/watched");
    daemon.environment("HANG_WHILE", hang.to_str().unwrap());
    daemon.start();
    settled(&daemon, &folder, 0);
    std::fs::write(&hang, "").unwrap();
    std::fs::copy(photo("noface.jpg"), folder.join("a.jpg")).unwrap();
    wait_for("the mount to be named", || {
        let part = part(&daemon, &folder);
        (part["condition"] == "degraded"
            && part["text"]
                .as_str()?
                .contains("has not answered for 300ms"))
        .then_some(())
    });
    let id = daemon.post_path(&daemon.put("noface.jpg", "other.jpg"));
    assert_eq!(daemon.ended(id)["outcome"], "no_face");
    assert_eq!(rows(&daemon), 1);
    std::fs::remove_file(&hang).unwrap();
    settled(&daemon, &folder, 1);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_folder_that_goes_away_is_named_and_forgets_nothing() {
    let (mut daemon, folder) = watching("full_scan = \"1s\"");
    std::fs::copy(photo("noface.jpg"), folder.join("a.jpg")).unwrap();
    daemon.start();
    settled(&daemon, &folder, 1);
    let away = daemon.folder.path().join("away");
    std::fs::rename(&folder, &away).unwrap();
    wait_for("the folder to be named", || {
        (part(&daemon, &folder)["condition"] == "degraded").then_some(())
    });
    std::fs::rename(&away, &folder).unwrap();
    settled(&daemon, &folder, 1);
    assert_eq!(rows(&daemon), 1);
}

/// A kill of the daemon does not change that.
#[test]
fn a_hundred_thousand_files_are_taken_once_in_flat_memory() {
    let files = if full() { 100_000 } else { 20_000 };
    let (mut daemon, folder) = watching("");
    daemon.set("intake.max_pending", "200000");
    let bytes = std::fs::read(photo("noface.jpg")).unwrap();
    for n in 0..files {
        let inner = folder.join(format!("{:02}", n % 100));
        if n < 100 {
            std::fs::create_dir(&inner).unwrap();
            std::fs::write(inner.join("0.jpg"), &bytes).unwrap();
        } else {
            // Links to one picture serve, because names count here.
            std::fs::hard_link(inner.join("0.jpg"), inner.join(format!("{n}.jpg"))).unwrap();
        }
    }
    // The breaker is open, so that only the taking is measured.
    daemon.start();
    wait_for("the breaker to be opened", || {
        daemon
            .kithd(["breaker", "open"])
            .status
            .success()
            .then_some(())
    });
    let begun = Instant::now();
    settled(&daemon, &folder, files);
    println!(
        "{:.0} files a second were taken, {files} in all",
        files as f64 / begun.elapsed().as_secs_f64()
    );
    assert_eq!(rows(&daemon), files);
    let memory = |daemon: &TestDaemon| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let held = memory(&daemon);
    std::fs::copy(photo("noface.jpg"), folder.join("07/news.jpg")).unwrap();
    settled(&daemon, &folder, files + 1);
    assert!(
        memory(&daemon) < held + 20_000,
        "{} kB after one more file, {held} before",
        memory(&daemon)
    );
    daemon.kill();
    daemon.start();
    settled(&daemon, &folder, files + 1);
    assert_eq!(rows(&daemon), files + 1);
}

#[test]
fn a_bad_name_or_an_immovable_file_keeps_no_other_back() {
    let (mut daemon, folder) = watching("then = \"move\"");
    daemon.set("breaker.self_test", "1s");
    std::fs::create_dir_all(folder.join("sub")).unwrap();
    std::fs::create_dir_all(folder.join("done")).unwrap();
    // A file lies in the place of its folder.
    std::fs::write(folder.join("done/sub"), "in the way").unwrap();
    for name in ["a.jpg", "sub/stuck.jpg", "b.jpg", "bad\nname.jpg"] {
        std::fs::copy(photo("noface.jpg"), folder.join(name)).unwrap();
    }
    daemon.start();
    for name in ["a.jpg", "b.jpg"] {
        wait_for(&format!("{name} in done"), || {
            folder.join("done").join(name).exists().then_some(())
        });
    }
    assert_eq!(rows(&daemon), 3);
    let part_text = part(&daemon, &folder)["text"].to_string();
    assert!(
        part_text.contains("1 name with a line break"),
        "{part_text}"
    );
    wait_for("the stuck file to be named", || {
        let part = part(&daemon, &folder);
        (part["condition"] == "degraded"
            && part["text"]
                .as_str()?
                .contains("stuck.jpg cannot be put away"))
        .then_some(())
    });
    assert_eq!(daemon.stop(), Some(0));

    // Retention takes its image; it still lies there, and is neither moved nor taken again.
    daemon.change("delete from results; delete from images");
    std::fs::remove_file(folder.join("done/sub")).unwrap();
    daemon.start();
    wait_for("the file to be left", || {
        (daemon.sql("select count(*) from seen where image_id is null") == ["1"]).then_some(())
    });
    std::fs::copy(photo("noface.jpg"), folder.join("c.jpg")).unwrap();
    wait_for("c.jpg in done", || {
        folder.join("done/c.jpg").exists().then_some(())
    });
    assert!(folder.join("sub/stuck.jpg").exists());
    assert_eq!(rows(&daemon), 1);
}

/// Returns the text of the folder's part.
fn says(daemon: &TestDaemon, folder: &Path) -> String {
    part(daemon, folder)["text"]
        .as_str()
        .unwrap_or_default()
        .into()
}

fn copy(folder: &Path, name: impl AsRef<Path>) {
    let file = folder.join(name);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::copy(photo("noface.jpg"), file).unwrap();
}

#[test]
fn what_nas_and_desktops_leave_about_is_counted_and_not_taken() {
    let (mut daemon, folder) = watching("full_scan = \"1s\"");
    for system in [
        "@eaDir/a.jpg",
        "@Recycle",
        "#recycle",
        "$RECYCLE.BIN",
        "System Volume Information",
        ".Trash-1000",
        "sub/.stfolder",
    ] {
        copy(&folder, Path::new(system).join("SYNOPHOTO_THUMB_XL.jpg"));
    }
    for taken in [
        "a.Jpg",
        "b.jPeG",
        "c.jfif",
        "d.JPG_large",
        "e.mpo",
        "sub/no ending",
        "sub/Mr. Smith",
    ] {
        copy(&folder, taken);
    }
    for left in [
        "1.HEIC",
        "2.heic",
        "3.heif",
        "._b.jpg",
        "x.jpg.part",
        "a\nb.jpg",
        "x.txt",
        ".hidden.jpg",
    ] {
        copy(&folder, left);
    }
    let latin: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"caf\xe9.jpg");
    copy(&folder, Path::new("sub").join(latin));
    copy(&folder, latin);
    std::fs::write(folder.join("README"), "no picture").unwrap();
    std::os::unix::fs::symlink("/usr", folder.join("usr")).unwrap();
    std::os::unix::fs::symlink("a.Jpg", folder.join("link.jpg")).unwrap();
    std::os::unix::fs::symlink(".", folder.join("loop")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folder.join("socket.jpg")).unwrap();
    daemon.start();
    settled(&daemon, &folder, 7);
    assert_eq!(rows(&daemon), 7);
    for said in [
        "8 files or folders of the system",
        "3 HEIC files (for example \"1.HEIC\"; convert them",
        "3 links",
        "2 names that are not UTF-8 (for example \"caf\\xE9.jpg\"",
        "1 name with a line break or control character (\"a\\nb.jpg\"",
        "1 file that is not whole by its name (\"x.jpg.part\")",
        "1 other file (\"x.txt\")",
        "1 hidden file or folder",
        "1 file without an ending that is no picture (\"README\")",
        "1 device, pipe or socket",
    ] {
        assert!(
            says(&daemon, &folder).contains(said),
            "{said}: {}",
            says(&daemon, &folder)
        );
    }
    let doctor = daemon.kithd(["doctor"]);
    assert!(
        crate::support::text(&doctor).contains("3 HEIC files"),
        "{}",
        crate::support::text(&doctor)
    );
    // Level-triggered: gone when it is.
    for name in ["1.HEIC", "2.heic", "3.heif"] {
        std::fs::remove_file(folder.join(name)).unwrap();
    }
    wait_for("the HEIC files to be forgotten", || {
        (!says(&daemon, &folder).contains("HEIC")).then_some(())
    });
}

#[test]
fn a_linked_folder_is_neither_watched_nor_taken_twice() {
    let (mut daemon, folder) = watching("");
    copy(&folder, "z/x.jpg");
    std::os::unix::fs::symlink("z", folder.join("a")).unwrap();
    std::os::unix::fs::symlink("/usr", folder.join("usr")).unwrap();
    daemon.start();
    settled(&daemon, &folder, 1);
    wait_for("the folders to be watched", || {
        (watches(&daemon) >= 2).then_some(())
    });
    assert!(watches(&daemon) < 20, "{} watches", watches(&daemon));
    assert_eq!(
        daemon.sql("select path from images"),
        [folder.join("z/x.jpg").display().to_string()]
    );
    copy(&folder, "z/new/y.jpg");
    settled(&daemon, &folder, 2);
    wait_for("the new folder to be watched", || {
        (watches(&daemon) >= 3).then_some(())
    });
}

/// Returns the number of folders the kernel watches for the daemon.
fn watches(daemon: &TestDaemon) -> usize {
    let files = std::fs::read_dir(format!("/proc/{}/fdinfo", daemon.pid())).unwrap();
    let info = files.filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok());
    info.map(|text| {
        text.lines()
            .filter(|line| line.starts_with("inotify wd:"))
            .count()
    })
    .sum()
}

#[test]
fn a_folder_that_may_not_be_read_spoils_only_itself() {
    if !as_plain_user("folder::a_folder_that_may_not_be_read_spoils_only_itself") {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let (mut daemon, folder) = watching("full_scan = \"1s\"");
    let (good, bad) = (folder.join("good"), folder.join("bad"));
    for name in ["good/a.jpg", "good/b.jpg", "bad/c.jpg"] {
        copy(&folder, name);
    }
    daemon.start();
    settled(&daemon, &folder, 3);
    std::fs::set_permissions(&bad, std::fs::Permissions::from_mode(0o000)).unwrap();
    let named = || says(&daemon, &folder).contains("bad\" cannot be read: Permission denied");
    wait_for("the folder to be named", || named().then_some(()));
    std::fs::remove_file(good.join("a.jpg")).unwrap();
    wait_for("the deleted file to be forgotten", || {
        (seen(&daemon) == 2).then_some(())
    });
    copy(&folder, "good/d.jpg");
    wait_for("the others to be taken", || {
        (rows(&daemon) == 4).then_some(())
    });
    for _ in 0..20 {
        assert!(named(), "{}", says(&daemon, &folder));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    std::fs::set_permissions(&bad, std::fs::Permissions::from_mode(0o755)).unwrap();
    settled(&daemon, &folder, 3);
    assert_eq!(rows(&daemon), 4);
    let warned = daemon
        .log()
        .lines()
        .filter(|line| line.contains("WARN folder") && line.contains("cannot be read"))
        .count();
    assert_eq!(warned, 1, "said {warned} times: {}", daemon.log());
}

#[test]
fn used_up_watches_are_named_and_used_again_when_there_are_more() {
    if !with_own_limits("folder::used_up_watches_are_named_and_used_again_when_there_are_more") {
        return;
    }
    let limit = |key: &str, number: &str| {
        std::fs::write(format!("/proc/sys/user/max_inotify_{key}"), number).unwrap();
    };
    let (mut daemon, folder) = watching("");
    for n in 0..5 {
        copy(&folder, format!("{n}/a.jpg"));
    }
    limit("watches", "2");
    daemon.start();
    let says = |what: &str| {
        wait_for(what, || {
            let part = part(&daemon, &folder);
            (part["condition"] == "degraded" && part["text"].as_str()?.contains(what)).then_some(())
        });
    };
    says("fs.inotify.max_user_watches");
    wait_for("the files to be taken", || {
        (rows(&daemon) == 5).then_some(())
    });
    copy(&folder, "3/b.jpg");
    wait_for("the new file to be taken all the same", || {
        (rows(&daemon) == 6).then_some(())
    });
    limit("watches", "100");
    settled(&daemon, &folder, 6);
    assert!(watches(&daemon) >= 6, "{} watches", watches(&daemon));
    assert_eq!(daemon.stop(), Some(0));
    limit("instances", "0");
    daemon.start();
    wait_for("the other limit to be named", || {
        part(&daemon, &folder)["text"]
            .as_str()?
            .contains("fs.inotify.max_user_instances")
            .then_some(())
    });
    limit("instances", "10");
    settled(&daemon, &folder, 6);
}

#[test]
fn a_file_that_is_written_over_for_ever_is_taken_now_and_then() {
    let (mut daemon, folder) = watching("");
    copy(&folder, "still.jpg");
    daemon.start();
    settled(&daemon, &folder, 1);
    let (picture, snapshot) = (photo("noface.jpg"), folder.join("snapshot.jpg"));
    // The thread ends when the folder is gone.
    std::thread::spawn(move || {
        while std::fs::copy(&picture, &snapshot).is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(40));
        }
    });
    wait_for("the file to be taken twice", || {
        (rows(&daemon) >= 3).then_some(())
    });
    let image = daemon.ended(2);
    assert_eq!(image["state"], "processed", "{image}");
}

#[test]
fn a_done_folder_that_is_a_link_is_not_followed() {
    let (mut daemon, folder) = watching("then = \"move\"");
    daemon.set("breaker.self_test", "1s");
    let elsewhere = daemon.folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, folder.join("done")).unwrap();
    copy(&folder, "a.jpg");
    copy(&folder, "sub/b.jpg");
    daemon.start();
    wait_for("the link to be named", || {
        let part = part(&daemon, &folder);
        let text = part["text"].as_str()?;
        (part["condition"] == "degraded"
            && text.contains("cannot be put away")
            && text.contains("is a link"))
        .then_some(())
    });
    assert!(
        std::fs::read_dir(&elsewhere).unwrap().next().is_none(),
        "the link was followed"
    );
    assert!(folder.join("a.jpg").exists());
    std::fs::remove_file(folder.join("done")).unwrap();
    wait_for("both files in a real done", || {
        folder.join("done/sub/b.jpg").exists().then_some(())
    });
    settled(&daemon, &folder, 0);
}

#[test]
fn the_longest_names_are_moved_also_beside_their_namesakes() {
    let (mut daemon, folder) = watching("then = \"move\"");
    daemon.set("breaker.self_test", "1s");
    let long = format!("{}.jpg", "é".repeat(125));
    assert_eq!(long.len(), 254);
    for number in 1..=2 {
        copy(&folder, &long);
        daemon.start();
        wait_for("the file in done", || {
            (std::fs::read_dir(folder.join("done")).ok()?.count() == number).then_some(())
        });
        settled(&daemon, &folder, 0);
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[test]
fn two_spellings_of_one_name_are_two_files() {
    let (mut daemon, folder) = watching("");
    copy(&folder, "Jose\u{301}.jpg");
    copy(&folder, "José.jpg");
    daemon.start();
    settled(&daemon, &folder, 2);
    assert_eq!(rows(&daemon), 2);
}

#[test]
fn pictures_below_odd_folders_are_counted_and_never_queued() {
    use std::os::unix::ffi::OsStrExt;
    // A scan happens by notice only.
    let (mut daemon, folder) = watching("full_scan = \"1h\"");
    let odd = [&b"caf\xe9"[..], b"line\nbreak", b"in/nul\xe9l/deep"]
        .map(|name| folder.join(std::ffi::OsStr::from_bytes(name)));
    odd.iter()
        .for_each(|inner| std::fs::create_dir_all(inner).unwrap());
    std::fs::create_dir(folder.join("done")).unwrap();
    std::fs::copy(photo("noface.jpg"), folder.join("done/of mine.jpg")).unwrap();
    daemon.start();
    settled(&daemon, &folder, 0);
    for inner in &odd {
        std::fs::copy(photo("noface.jpg"), inner.join("x.jpg")).unwrap();
    }
    std::fs::copy(photo("noface.jpg"), folder.join("done/another.jpg")).unwrap();
    std::fs::copy(photo("noface.jpg"), folder.join("plain.jpg")).unwrap();
    settled(&daemon, &folder, 1);
    wait_for("the others to be counted", || {
        let part = part(&daemon, &folder);
        let text = part["text"].as_str()?;
        let said = [
            "2 names that are not UTF-8",
            "1 name with a line break",
            "1 folder named done or failed (\"done\"",
        ];
        said.iter().all(|said| text.contains(said)).then_some(())
    });
    assert_eq!(
        daemon.sql("select path from images"),
        [folder.join("plain.jpg").display().to_string()]
    );
}
