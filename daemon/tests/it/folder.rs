//! Watched folders as their users meet them: taken once, put away, a dead mount, a hundred thousand files.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::support::{Board, full, photo, wait_for};

/// A board that watches a folder of its own, with these further lines of configuration.
fn watching(lines: &str) -> (Board, std::path::PathBuf) {
    let mut board = Board::new();
    let folder = board.folder.path().join("watched");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.display();
    board.set("folder", &format!("[{{path = \"{path}\", settle = \"100ms\", poll = \"200ms\", {lines}}}]"));
    (board, folder)
}

fn part(board: &Board, folder: &Path) -> Value {
    board.get("/v1/status")["parts"][format!("folder {}", folder.display())].clone()
}

fn rows(board: &Board) -> usize {
    board.sql("select count(*) from images")[0].parse().unwrap()
}

fn seen(board: &Board) -> usize {
    board.sql("select count(*) from seen")[0].parse().unwrap()
}

/// Waits until every file so far is known and nothing is being written.
fn settled(board: &Board, folder: &Path, files: usize) {
    wait_for(&format!("{files} files to be taken"), || {
        let part = part(board, folder);
        (part["condition"] == "ok" && part["text"] == format!("{files} files taken that are there")).then_some(())
    });
}

#[test]
fn what_lies_there_is_taken_once_whatever_restarts_and_retention_do_and_a_rewritten_file_again() {
    let (mut board, folder) = watching("full_scan = \"1s\"");
    std::fs::create_dir(folder.join("front door")).unwrap();
    for name in ["a.jpg", "front door/b.JPG"] {
        std::fs::copy(photo("noface.jpg"), folder.join(name)).unwrap();
    }
    std::fs::write(folder.join("c.jpg.part"), "not whole").unwrap();
    board.start();
    settled(&board, &folder, 2);
    let sources = board.sql("select source, path from images order by path");
    assert_eq!(sources, ["a.jpg", "front door/b.JPG"].map(|name| format!("folder|{}/{name}", folder.display())));
    std::fs::copy(photo("noface.jpg"), folder.join("d.jpg")).unwrap();
    settled(&board, &folder, 3);
    for id in 1..=3 {
        assert_eq!(board.ended(id)["state"], "processed");
    }
    assert_eq!(board.stop(), Some(0));

    // As retention does it.
    let database = board.folder.path().join("state/kithd.db");
    let emptied = Command::new("sqlite3").arg(database).arg("delete from outbox; delete from images").status().unwrap();
    assert!(emptied.success());
    board.start();
    settled(&board, &folder, 3);
    assert_eq!(rows(&board), 0);
    std::fs::rename(folder.join("c.jpg.part"), folder.join("c.jpg")).unwrap();
    settled(&board, &folder, 4);
    assert_eq!(board.sql("select path from images"), [folder.join("c.jpg").display().to_string()]);
    std::fs::copy(photo("obama_1.jpg"), folder.join("a.jpg")).unwrap();
    std::fs::remove_file(folder.join("d.jpg")).unwrap();
    wait_for("the rewritten file to be taken again", || (rows(&board) == 2).then_some(()));
    settled(&board, &folder, 3);
    wait_for("the deleted file to be forgotten", || (seen(&board) == 3).then_some(()));
}

#[test]
fn done_and_failed_files_are_moved_once_the_engine_is_vouched_for() {
    let (mut board, folder) = watching("then = \"move\"");
    board.set("breaker.self_test", "1s");
    std::fs::copy(photo("noface.jpg"), folder.join("a.jpg")).unwrap();
    std::fs::write(folder.join("broken.jpg"), "no picture").unwrap();
    board.start();
    for (name, place) in [("a.jpg", "done"), ("broken.jpg", "failed")] {
        wait_for(&format!("{name} in {place}"), || folder.join(place).join(name).exists().then_some(()));
        assert!(!folder.join(name).exists());
    }
    std::fs::copy(photo("obama_1.jpg"), folder.join("a.jpg")).unwrap();
    wait_for("the namesake in done", || folder.join("done/a-2.jpg").exists().then_some(()));
    settled(&board, &folder, 0);
    wait_for("the moved files to be forgotten", || (seen(&board) == 0).then_some(()));
    assert_eq!(rows(&board), 3);
}

#[test]
fn a_mount_that_hangs_is_named_in_time_holds_up_nobody_else_and_is_taken_up_again() {
    let (mut board, folder) = watching("report_after = \"300ms\"");
    let library = board.folder.path().join("slow_mount.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/slow_mount.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status().unwrap();
    assert!(built.success(), "cc could not compile {source}");
    let hang = board.folder.path().join("server-is-away");
    board.environment("LD_PRELOAD", library.to_str().unwrap());
    board.environment("HANG_PATH", "/watched");
    board.environment("HANG_WHILE", hang.to_str().unwrap());
    board.start();
    settled(&board, &folder, 0);
    std::fs::write(&hang, "").unwrap();
    std::fs::copy(photo("noface.jpg"), folder.join("a.jpg")).unwrap();
    wait_for("the mount to be named", || {
        let part = part(&board, &folder);
        (part["condition"] == "degraded" && part["text"].as_str()?.contains("has not answered for 300ms")).then_some(())
    });
    let id = board.post_path(&board.put("noface.jpg", "other.jpg"));
    assert_eq!(board.ended(id)["outcome"], "no_face");
    assert_eq!(rows(&board), 1);
    std::fs::remove_file(&hang).unwrap();
    settled(&board, &folder, 1);
    assert_eq!(board.stop(), Some(0));
}

#[test]
fn a_folder_that_goes_away_is_named_and_forgets_nothing() {
    let (mut board, folder) = watching("full_scan = \"1s\"");
    std::fs::copy(photo("noface.jpg"), folder.join("a.jpg")).unwrap();
    board.start();
    settled(&board, &folder, 1);
    let away = board.folder.path().join("away");
    std::fs::rename(&folder, &away).unwrap();
    wait_for("the folder to be named", || (part(&board, &folder)["condition"] == "degraded").then_some(()));
    std::fs::rename(&away, &folder).unwrap();
    settled(&board, &folder, 1);
    assert_eq!(rows(&board), 1);
}

#[test]
fn a_hundred_thousand_files_are_taken_once_with_flat_memory_and_once_only_over_a_kill() {
    let files = if full() { 100_000 } else { 20_000 };
    let (mut board, folder) = watching("");
    board.set("intake.max_pending", "200000");
    let bytes = std::fs::read(photo("noface.jpg")).unwrap();
    for n in 0..files {
        let inner = folder.join(format!("{:02}", n % 100));
        if n < 100 {
            std::fs::create_dir(&inner).unwrap();
            std::fs::write(inner.join("0.jpg"), &bytes).unwrap();
        } else {
            // One picture under many names: what counts here is names.
            std::fs::hard_link(inner.join("0.jpg"), inner.join(format!("{n}.jpg"))).unwrap();
        }
    }
    // Held back, so that only the taking is seen.
    board.start();
    wait_for("the breaker to be opened", || board.kithd(["breaker", "open"]).status.success().then_some(()));
    let begun = Instant::now();
    settled(&board, &folder, files);
    println!("{:.0} files a second were taken, {files} in all", files as f64 / begun.elapsed().as_secs_f64());
    assert_eq!(rows(&board), files);
    let memory = |board: &Board| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", board.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let held = memory(&board);
    std::fs::copy(photo("noface.jpg"), folder.join("07/news.jpg")).unwrap();
    settled(&board, &folder, files + 1);
    assert!(memory(&board) < held + 20_000, "{} kB after one more file, {held} before", memory(&board));
    board.kill();
    board.start();
    settled(&board, &folder, files + 1);
    assert_eq!(rows(&board), files + 1);
}

#[test]
fn a_name_that_cannot_be_queued_or_a_file_that_cannot_be_moved_keeps_no_other_back() {
    let (mut board, folder) = watching("then = \"move\"");
    board.set("breaker.self_test", "1s");
    std::fs::create_dir_all(folder.join("sub")).unwrap();
    std::fs::create_dir_all(folder.join("done")).unwrap();
    // Where the folder for it would have to be, a file is.
    std::fs::write(folder.join("done/sub"), "in the way").unwrap();
    for name in ["a.jpg", "sub/stuck.jpg", "b.jpg", "bad\nname.jpg"] {
        std::fs::copy(photo("noface.jpg"), folder.join(name)).unwrap();
    }
    board.start();
    for name in ["a.jpg", "b.jpg"] {
        wait_for(&format!("{name} in done"), || folder.join("done").join(name).exists().then_some(()));
    }
    assert_eq!(rows(&board), 3);
    assert!(board.log().contains("is not a usable path"), "{}", board.log());
    wait_for("the stuck file to be named", || {
        let part = part(&board, &folder);
        (part["condition"] == "degraded" && part["text"].as_str()?.contains("stuck.jpg cannot be put away"))
            .then_some(())
    });
    assert_eq!(board.stop(), Some(0));

    // Retention takes its image; it still lies there, and is neither moved nor taken again.
    let database = board.folder.path().join("state/kithd.db");
    let emptied = Command::new("sqlite3").arg(database).arg("delete from outbox; delete from images").status().unwrap();
    assert!(emptied.success());
    std::fs::remove_file(folder.join("done/sub")).unwrap();
    board.start();
    wait_for("the file to be left", || {
        (board.sql("select count(*) from seen where image_id is null") == ["1"]).then_some(())
    });
    std::fs::copy(photo("noface.jpg"), folder.join("c.jpg")).unwrap();
    wait_for("c.jpg in done", || folder.join("done/c.jpg").exists().then_some(()));
    assert!(folder.join("sub/stuck.jpg").exists());
    assert_eq!(rows(&board), 1);
}
