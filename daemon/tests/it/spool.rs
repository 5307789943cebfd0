//! The spool over kills and lost rows: what was accepted is recognised, what was not is swept, what
//! was erased stays away.

use serde_json::Value;

use crate::support::{TestDaemon, part_is_ok, photo, text, wait_for};

fn spooled(daemon: &TestDaemon) -> Vec<String> {
    let entries = std::fs::read_dir(daemon.state("spool")).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn upload(daemon: &TestDaemon) -> i64 {
    let bytes = std::fs::read(photo("obama_2.jpg")).unwrap();
    let (status, answer) = daemon.post("/v1/images", &[("content-type", "image/jpeg")], &bytes);
    assert_eq!(status, 202, "{answer}");
    answer["ids"][0].as_i64().unwrap()
}

/// A board on which nothing is recognised before the breaker is closed, with so many pictures
/// accepted as bytes.
fn waiting(count: usize) -> TestDaemon {
    let mut daemon = TestDaemon::new();
    // Files leave once the self-test has vouched for their results.
    daemon.set("breaker.self_test", "1s");
    daemon.start();
    part_is_ok(&daemon, "engine");
    assert!(daemon.kithd(["breaker", "open"]).status.success());
    (0..count).for_each(|_| _ = upload(&daemon));
    assert_eq!(spooled(&daemon).len(), count);
    daemon
}

/// Closes the breaker and waits until all are recognised and the spool is empty.
fn all_recognised(daemon: &TestDaemon, count: usize) {
    part_is_ok(daemon, "gallery");
    assert!(daemon.kithd(["breaker", "close"]).status.success());
    wait_for("all pictures", || {
        let counts = &daemon.get("/v1/status")["counts"];
        (counts["processed"] == count && counts["pending"] == 0 && counts["processing"] == 0)
            .then_some(())
    });
    wait_for("the spool to be emptied", || {
        spooled(daemon).is_empty().then_some(())
    });
}

fn spool_part(daemon: &TestDaemon) -> Value {
    daemon.get("/v1/status")["parts"]["spool"].clone()
}

#[test]
fn after_a_kill_accepted_pictures_are_recognised_and_no_others() {
    let mut daemon = waiting(20);
    daemon.kill();
    let names = spooled(&daemon);
    // Files as left by a kill between commit and renaming, and by one before the commit; and a
    // foreign file.
    let first = daemon.state("spool").join(&names[0]);
    std::fs::rename(&first, first.with_extension("new")).unwrap();
    std::fs::write(
        daemon.state(&format!("spool/{}.http.new", "0".repeat(32))),
        "half",
    )
    .unwrap();
    std::fs::write(daemon.state("spool/notes.txt"), "mine").unwrap();
    daemon.start();
    assert_eq!(spool_part(&daemon)["condition"], "ok");
    assert_eq!(spooled(&daemon), [names, vec!["notes.txt".into()]].concat());
    std::fs::remove_file(daemon.state("spool/notes.txt")).unwrap();
    all_recognised(&daemon, 20);
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
        let mut daemon = waiting(2);
        let database = daemon.state("kithd.db");
        let copy = daemon.folder.path().join("copy.db");
        if loss == "older copy" {
            daemon.stop();
            std::fs::copy(&database, &copy).unwrap();
            daemon.start();
            part_is_ok(&daemon, "gallery");
            assert!(daemon.kithd(["breaker", "open"]).status.success());
        }
        (0..3).for_each(|_| _ = upload(&daemon));
        daemon.kill();
        let without_journal = || {
            for end in ["-wal", "-shm"] {
                let _ = std::fs::remove_file(daemon.state(&format!("kithd.db{end}")));
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
            _ => daemon.change("drop trigger images_leave_file; delete from images where id > 1;"),
        }
        daemon.start();
        let part = spool_part(&daemon);
        // Under the numbers their senders know.
        assert_eq!(
            daemon.sql("select id from images order by id"),
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
            daemon.get_text("/").contains("has lost the rows of "),
            "{loss}: the page does not say it"
        );
        assert!(
            daemon.log().contains("has lost the rows of "),
            "{loss}: the log does not say it"
        );
        all_recognised(&daemon, 5);
        // Only the start that met the loss reports it.
        daemon.stop();
        daemon.start();
        assert_eq!(spool_part(&daemon)["condition"], "ok", "{loss}");
    }
}

#[test]
fn a_picture_that_was_to_be_deleted_before_a_kill_stays_away() {
    let mut daemon = waiting(2);
    let (status, answer) = daemon.post_as_admin("/images/1/forget", &[], b"");
    assert!(status < 400, "{status} {answer}");
    daemon.kill();
    let kept = spooled(&daemon);
    assert_eq!(kept.len(), 1);
    // A file as left by a kill between commit and deletion.
    let doomed = format!("{}.camera.9", "7".repeat(32));
    std::fs::write(daemon.state("spool").join(&doomed), "an erased person").unwrap();
    let noted = format!(
        "insert into discarded_files values ('spool/{doomed}'), ('spool/../token'), ('spool/gone.http.5')"
    );
    daemon.change(&noted);
    daemon.start();
    assert_eq!(spooled(&daemon), kept);
    assert!(daemon.state("token").exists());
    assert_eq!(daemon.sql("select count(*) from images"), ["1"]);
    wait_for("the list to be emptied", || {
        (daemon.sql("select count(*) from discarded_files") == ["0"]).then_some(())
    });
    all_recognised(&daemon, 1);
}

#[test]
fn a_person_who_is_erased_leaves_no_picture_in_the_spool() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    part_is_ok(&daemon, "engine");
    daemon.enroll_everybody();
    let ids: Vec<_> = (0..2).map(|_| upload(&daemon)).collect();
    // Their bytes are kept as long as the engine's self-test has not vouched for them.
    ids.iter()
        .for_each(|id| assert_eq!(daemon.ended(*id)["outcome"], "known"));
    let forgotten = daemon.kithd(["forget", "--yes", "Barack Obama"]);
    assert!(forgotten.status.success(), "{}", text(&forgotten));
    assert_eq!(spooled(&daemon), [""; 0]);
    daemon.kill();
    daemon.start();
    assert_eq!(spool_part(&daemon)["condition"], "ok");
    assert_eq!(
        daemon.sql("select count(*) from images where state <> 'processed'"),
        ["0"]
    );
}
