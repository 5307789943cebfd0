//! The spool over kills and lost rows: what was accepted is recognised, what was not is swept, what
//! was erased stays away.

use serde_json::Value;

use crate::support::{TestDaemon, part_is_ok, photo, text, wait_for};

fn spooled(board: &TestDaemon) -> Vec<String> {
    let entries = std::fs::read_dir(board.state("spool")).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn upload(board: &TestDaemon) -> i64 {
    let bytes = std::fs::read(photo("obama_2.jpg")).unwrap();
    let (status, answer) = board.post("/v1/images", &[("content-type", "image/jpeg")], &bytes);
    assert_eq!(status, 202, "{answer}");
    answer["ids"][0].as_i64().unwrap()
}

/// A board on which nothing is recognised before the breaker is closed, with so many pictures
/// accepted as bytes.
fn waiting(count: usize) -> TestDaemon {
    let mut board = TestDaemon::new();
    // Files leave once the self-test has vouched for their results.
    board.set("breaker.self_test", "1s");
    board.start();
    part_is_ok(&board, "engine");
    assert!(board.kithd(["breaker", "open"]).status.success());
    (0..count).for_each(|_| _ = upload(&board));
    assert_eq!(spooled(&board).len(), count);
    board
}

/// Closes the breaker and waits until all are recognised and the spool is empty.
fn all_recognised(board: &TestDaemon, count: usize) {
    part_is_ok(board, "gallery");
    assert!(board.kithd(["breaker", "close"]).status.success());
    wait_for("all pictures", || {
        let counts = &board.get("/v1/status")["counts"];
        (counts["processed"] == count && counts["pending"] == 0 && counts["processing"] == 0)
            .then_some(())
    });
    wait_for("the spool to be emptied", || {
        spooled(board).is_empty().then_some(())
    });
}

fn spool_part(board: &TestDaemon) -> Value {
    board.get("/v1/status")["parts"]["spool"].clone()
}

#[test]
fn after_a_kill_accepted_pictures_are_recognised_and_no_others() {
    let mut board = waiting(20);
    board.kill();
    let names = spooled(&board);
    // Files as left by a kill between commit and renaming, and by one before the commit; and a
    // foreign file.
    let first = board.state("spool").join(&names[0]);
    std::fs::rename(&first, first.with_extension("new")).unwrap();
    std::fs::write(
        board.state(&format!("spool/{}.http.new", "0".repeat(32))),
        "half",
    )
    .unwrap();
    std::fs::write(board.state("spool/notes.txt"), "mine").unwrap();
    board.start();
    assert_eq!(spool_part(&board)["condition"], "ok");
    assert_eq!(spooled(&board), [names, vec!["notes.txt".into()]].concat());
    std::fs::remove_file(board.state("spool/notes.txt")).unwrap();
    all_recognised(&board, 20);
}

#[test]
fn accepted_pictures_outlive_the_loss_of_their_rows() {
    for loss in [
        "missing",
        "empty",
        "older copy",
        "no journal",
        "rows deleted",
    ] {
        let mut board = waiting(2);
        let database = board.state("kithd.db");
        let copy = board.folder.path().join("copy.db");
        if loss == "older copy" {
            board.stop();
            std::fs::copy(&database, &copy).unwrap();
            board.start();
            part_is_ok(&board, "gallery");
            assert!(board.kithd(["breaker", "open"]).status.success());
        }
        (0..3).for_each(|_| _ = upload(&board));
        board.kill();
        let without_journal = || {
            for end in ["-wal", "-shm"] {
                let _ = std::fs::remove_file(board.state(&format!("kithd.db{end}")));
            }
        };
        match loss {
            "missing" => {
                without_journal();
                std::fs::remove_file(&database).unwrap();
            }
            "empty" => {
                without_journal();
                std::fs::write(&database, "").unwrap();
            }
            "older copy" => {
                without_journal();
                std::fs::copy(&copy, &database).map(drop).unwrap();
            }
            "no journal" => without_journal(),
            // Without the triggers, as damage would.
            _ => board.change("drop trigger images_leave_file; delete from images where id > 1;"),
        }
        board.start();
        let part = spool_part(&board);
        // Under the numbers their senders know.
        assert_eq!(
            board.sql("select id from images order by id"),
            ["1", "2", "3", "4", "5"],
            "{loss}"
        );
        assert_eq!(part["condition"], "degraded", "{loss}: {part}");
        assert!(
            part["text"]
                .as_str()
                .unwrap()
                .contains("has lost the rows of "),
            "{loss}: {part}"
        );
        assert!(
            board.get_text("/").contains("has lost the rows of "),
            "{loss}: the page does not say it"
        );
        assert!(
            board.log().contains("has lost the rows of "),
            "{loss}: the log does not say it"
        );
        all_recognised(&board, 5);
        // Only the start that met the loss reports it.
        board.stop();
        board.start();
        assert_eq!(spool_part(&board)["condition"], "ok", "{loss}");
    }
}

#[test]
fn a_picture_that_was_to_be_deleted_before_a_kill_stays_away() {
    let mut board = waiting(2);
    let (status, answer) = board.post_as_admin("/images/1/forget", &[], b"");
    assert!(status < 400, "{status} {answer}");
    board.kill();
    let kept = spooled(&board);
    assert_eq!(kept.len(), 1);
    // A file as left by a kill between commit and deletion.
    let doomed = format!("{}.camera.9", "7".repeat(32));
    std::fs::write(board.state("spool").join(&doomed), "an erased person").unwrap();
    let noted = format!(
        "insert into discarded_files values ('spool/{doomed}'), ('spool/../token'), ('spool/gone.http.5')"
    );
    board.change(&noted);
    board.start();
    assert_eq!(spooled(&board), kept);
    assert!(board.state("token").exists());
    assert_eq!(board.sql("select count(*) from images"), ["1"]);
    wait_for("the list to be emptied", || {
        (board.sql("select count(*) from discarded_files") == ["0"]).then_some(())
    });
    all_recognised(&board, 1);
}

#[test]
fn a_person_who_is_erased_leaves_no_picture_in_the_spool() {
    let mut board = TestDaemon::new();
    board.start();
    part_is_ok(&board, "engine");
    board.enroll_everybody();
    let ids: Vec<_> = (0..2).map(|_| upload(&board)).collect();
    // Their bytes are kept as long as the engine's self-test has not vouched for them.
    ids.iter()
        .for_each(|id| assert_eq!(board.ended(*id)["outcome"], "known"));
    let forgotten = board.kithd(["forget", "--yes", "Barack Obama"]);
    assert!(forgotten.status.success(), "{}", text(&forgotten));
    assert_eq!(spooled(&board), [""; 0]);
    board.kill();
    board.start();
    assert_eq!(spool_part(&board)["condition"], "ok");
    assert_eq!(
        board.sql("select count(*) from images where state <> 'processed'"),
        ["0"]
    );
}
