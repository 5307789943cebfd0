//! Backups: made while the daemon works, checked before anything changes, and restored in place of
//! the present data.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use rusqlite::Connection;
use serde_json::Value;

use crate::support::{TestDaemon, part_is_ok, photo, sealed, text, wait_for};

fn save(daemon: &TestDaemon, name: &str) -> String {
    let file = daemon.folder.path().join(name).display().to_string();
    let output = daemon.kithd(["backup", &file]);
    assert!(output.status.success(), "{}", text(&output));
    file
}

fn export(daemon: &TestDaemon, name: &str, arguments: &[&str]) -> String {
    let file = daemon.folder.path().join(name).display().to_string();
    let output = daemon.kithd([&["people", "export", &file], arguments].concat());
    assert!(output.status.success(), "{}", text(&output));
    file
}

fn answer(daemon: &TestDaemon, arguments: &[&str]) -> Value {
    let output = daemon.kithd(arguments);
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn restore(daemon: &TestDaemon, file: &str) -> Value {
    answer(daemon, &["restore", "--yes", "--json", file])
}

fn import(daemon: &TestDaemon, file: &str) -> Value {
    answer(daemon, &["people", "import", "--json", file])
}

fn refused(daemon: &TestDaemon, file: &str) -> String {
    let output = daemon.kithd(["restore", "--yes", file]);
    assert!(!output.status.success(), "{}", text(&output));
    text(&output)
}

fn names(daemon: &TestDaemon) -> Vec<String> {
    daemon.sql("select name from person order by name")
}

fn enroll(daemon: &TestDaemon, person: &str, picture: &str) {
    let picture = photo(picture);
    let output = daemon.kithd([
        "enroll",
        "--anyway",
        "--person",
        person,
        picture.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", text(&output));
}

/// Returns all rows of the past as text.
fn past(daemon: &TestDaemon) -> Vec<String> {
    [
        "select id, state, source, path, outcome, reason, engine, picture_key, accepted_at_ms, finished_at_ms from images order by id",
        "select image_id, number, outcome, candidates, hex(embedding), hex(crop) from faces order by image_id, number",
        "select image_id, hex(jpeg) from thumbnails order by image_id",
        "select image_id, result_id, supersedes from results order by image_id, id",
        "select f.image_id, f.number, p.name from faces f left join person p on p.id = f.person_id order by 1, 2",
    ]
    .iter()
    .flat_map(|sql| daemon.sql(sql))
    .collect()
}

/// Counts the files that exist only while a backup is made or restored.
fn leftovers(daemon: &TestDaemon) -> usize {
    let entries = std::fs::read_dir(daemon.folder.path().join("state")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(".backup-")).count()
}

#[test]
fn a_backup_comes_back_on_another_board_with_people_and_past() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    daemon.ended(daemon.post_path(&daemon.put("obama_2.jpg", "found.jpg")));
    daemon.ended(daemon.post_path(&daemon.put("noface.jpg", "noface.jpg")));
    let ids: Vec<_> = (0..6)
        .map(|n| daemon.post_path(&daemon.put("group.jpg", &format!("{n}.jpg"))))
        .collect();
    // A link planted at the temporary file's place is not followed.
    let precious = daemon.folder.path().join("precious");
    std::fs::write(&precious, "precious").unwrap();
    std::os::unix::fs::symlink(&precious, daemon.folder.path().join("all.kithd.part")).unwrap();
    let file = save(&daemon, "all.kithd");
    assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
    // No temporary file is left, and only the owner may read the backup.
    assert_eq!(leftovers(&daemon), 0);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    ids.iter()
        .for_each(|id| assert_eq!(daemon.ended(*id)["state"], "processed"));

    let mut other = TestDaemon::new();
    other.start();
    part_is_ok(&other, "engine");
    let restored = restore(&other, &file);
    assert_eq!(
        (&restored["came"]["people"], &restored["came"]["pictures"]),
        (&3.into(), &3.into()),
        "{restored}"
    );
    assert!(
        restored["came"]["images"].as_u64().unwrap() >= 2 && restored["left_out"] == 0,
        "{restored}"
    );
    let (kept, came) = (past(&daemon), past(&other));
    // Photographs and results come back byte for byte.
    assert!(came.iter().all(|row| kept.contains(row)), "{came:?}");
    assert!(
        came.iter().any(|row| row.ends_with("|Barack Obama")),
        "{came:?}"
    );
    // People are known at once, and their pictures are kept.
    assert_eq!(other.known("biden_2.jpg", "b.jpg"), "Joe Biden");
    assert_eq!(other.sql("select count(*) from enrolment_pictures"), ["3"]);
    // Nothing is published again.
    assert_eq!(other.sql("select count(*) from outbox"), ["0"]);
    assert_eq!(other.sql("pragma integrity_check"), ["ok"]);
    assert!(other.sql("pragma foreign_key_check").is_empty());
    assert_eq!(leftovers(&other), 0);
    // The counters go with the rows.
    let counted =
        other.sql("select state, images from state_counts where images > 0 order by state");
    assert_eq!(
        counted,
        other.sql("select state, count(*) from images group by state order by state")
    );
}

#[test]
fn a_restore_replaces_what_is_here_but_for_what_waits() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    daemon.ended(daemon.post_path(&daemon.put("obama_2.jpg", "before.jpg")));
    let file = save(&daemon, "old.kithd");
    let then = past(&daemon);
    // Since then: another image, another person, another name, and pictures that wait, by path and
    // with bytes.
    daemon.ended(daemon.post_path(&daemon.put("group.jpg", "since.jpg")));
    enroll(&daemon, "Newcomer", "biden_2.jpg");
    assert!(
        daemon
            .kithd(["people", "rename", "Eileen Collins", "Astronaut"])
            .status
            .success()
    );
    part_is_ok(&daemon, "engine");
    assert!(daemon.kithd(["breaker", "open"]).status.success());
    let waiting = daemon.post_path(&daemon.put("obama_2.jpg", "waits.jpg"));
    let bytes = std::fs::read(photo("biden_1.jpg")).unwrap();
    let posted = daemon
        .post("/v1/images", &[("content-type", "image/jpeg")], &bytes)
        .1["ids"][0]
        .as_i64()
        .unwrap();
    // It asks first, or names the option where it cannot ask.
    let asked = daemon.kithd(["restore", &file]);
    assert!(
        !asked.status.success() && text(&asked).contains("--yes"),
        "{}",
        text(&asked)
    );
    assert_eq!(names(&daemon).len(), 4);

    let restored = restore(&daemon, &file);
    assert_eq!(
        (
            &restored["replaced"]["people"],
            &restored["replaced"]["images"]
        ),
        (&4.into(), &2.into()),
        "{restored}"
    );
    assert_eq!(
        (&restored["came"]["people"], &restored["came"]["images"]),
        (&3.into(), &1.into()),
        "{restored}"
    );
    assert_eq!(restored["kept"], 2, "{restored}");
    assert_eq!(
        names(&daemon),
        ["Barack Obama", "Eileen Collins", "Joe Biden"]
    );
    let now: Vec<_> = past(&daemon)
        .into_iter()
        .filter(|row| !row.contains("|pending|"))
        .collect();
    assert_eq!(now, then);
    // Waiting pictures are processed and compared with the restored people.
    assert!(daemon.kithd(["breaker", "close"]).status.success());
    assert_eq!(daemon.ended(waiting)["found"][0]["person"], "Barack Obama");
    assert_eq!(daemon.ended(posted)["found"][0]["person"], "Joe Biden");
    assert_eq!(daemon.get("/v1/status")["counts"]["pending"], 0);
    // A restore works without a daemon, and twice.
    daemon.stop();
    for _ in 0..2 {
        let restored = restore(&daemon, &file);
        assert_eq!(
            (&restored["came"]["people"], &restored["kept"]),
            (&3.into(), &0.into()),
            "{restored}"
        );
        assert_eq!(past(&daemon), then);
    }
}

#[test]
fn results_that_no_broker_has_yet_outlive_a_restore() {
    let mut daemon = TestDaemon::new();
    // No broker listens there: results wait.
    daemon.set("mqtt.enabled", "true");
    daemon.set("mqtt.url", "mqtt://127.0.0.1:9");
    daemon.start_with_everybody();
    let file = save(&daemon, "old.kithd");
    let id = daemon.post_path(&daemon.put("obama_2.jpg", "unsent.jpg"));
    daemon.ended(id);
    wait_for("the result", || {
        (daemon.sql("select count(*) from outbox") == ["1"]).then_some(())
    });
    let result = daemon.sql("select payload from outbox");
    let restored = restore(&daemon, &file);
    assert_eq!(restored["kept"], 1, "{restored}");
    assert_eq!(daemon.sql("select payload from outbox"), result);
    assert_eq!(
        daemon.get(&format!("/v1/images/{id}"))["found"][0]["person"],
        "Barack Obama"
    );
}

#[test]
fn who_was_erased_here_does_not_come_back_by_any_backup() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    daemon.ended(daemon.post_path(&daemon.put("obama_2.jpg", "found.jpg")));
    let everything = save(&daemon, "all.kithd");
    let people = export(&daemon, "people.kithd", &[]);
    assert!(
        daemon
            .kithd(["forget", "--yes", "Barack Obama"])
            .status
            .success()
    );
    let restored = restore(&daemon, &everything);
    assert_eq!(
        (&restored["came"]["people"], &restored["erased"]),
        (&2.into(), &1.into()),
        "{restored}"
    );
    let imported = import(&daemon, &people);
    assert_eq!(
        (&imported["people"], &imported["erased"]),
        (&0.into(), &1.into()),
        "{imported}"
    );
    assert_eq!(names(&daemon), ["Eileen Collins", "Joe Biden"]);
    // Past results do not bring the person back either.
    assert_eq!(daemon.sql("select count(*) from images"), ["1"]);
    assert_eq!(daemon.sql("select count(*) from outbox"), ["0"]);
    let of_erased = "select count(*) from faces, json_each(candidates) as candidate where \
        json_extract(candidate.value, '$[0]') not in (select id from person)";
    assert_eq!(daemon.sql(of_erased), ["0"]);
    assert_eq!(
        daemon.sql("select count(*) from faces where length(crop) > 0"),
        ["0"]
    );
    assert_ne!(daemon.known("obama_2.jpg", "again.jpg"), "Barack Obama");
    // A tombstone of the backup also holds where it is restored: there, too, an older backup brings
    // no erased person back.
    let later = save(&daemon, "later.kithd");
    let other = TestDaemon::new();
    restore(&other, &later);
    assert_eq!(restore(&other, &everything)["erased"], 1);
    assert_eq!(names(&other), ["Eileen Collins", "Joe Biden"]);
}

#[test]
fn what_is_no_whole_backup_is_refused_and_changes_nothing() {
    let daemon = TestDaemon::new();
    daemon.enroll_everybody();
    let whole = std::fs::read(save(&daemon, "all.kithd")).unwrap();
    let mut other = TestDaemon::new();
    other.start();
    let file = other.folder.path().join("x.kithd").display().to_string();
    let put = |bytes: &[u8]| std::fs::write(&file, bytes).unwrap();
    // Backups cut off at any byte.
    let mut random = fastrand::Rng::with_seed(15);
    for at in [0, 1, 99, 100]
        .into_iter()
        .chain((0..10).map(|_| random.usize(..whole.len())))
    {
        put(&whole[..at]);
        let said = refused(&other, &file);
        assert!(
            said.contains("the backup is damaged") || said.contains("not a kithd backup"),
            "{at}: {said}"
        );
    }
    // Backups with overwritten pages.
    let changing = TestDaemon::new();
    for share in [20, 50, 80] {
        let mut bytes = whole.clone();
        let at = bytes.len() * share / 100;
        bytes[at..at + 2000].fill(0xA5);
        put(&bytes);
        let output = changing.kithd(["restore", "--yes", "--json", &file]);
        // Either a tree is broken, or a picture, and then the answer says so.
        let said = text(&output);
        assert!(
            if output.status.success() {
                said.contains("its sha256 says")
            } else {
                said.contains("damaged")
            },
            "{share} %: {said}"
        );
    }
    // Other files.
    put(&std::fs::read(photo("obama_1.jpg")).unwrap());
    assert!(refused(&other, &file).contains("this is not a kithd backup"));
    let plain = other.folder.path().join("plain.db");
    Connection::open(&plain)
        .unwrap()
        .execute_batch("CREATE TABLE person (id, name); VACUUM;")
        .unwrap();
    let said = refused(&other, plain.to_str().unwrap());
    assert!(
        said.contains("an SQLite database, but not one that kithd backup wrote"),
        "{said}"
    );
    let own = daemon.state("kithd.db");
    let said = refused(&other, own.to_str().unwrap());
    assert!(said.contains("not one that kithd backup wrote"), "{said}");
    // Devices and pipes are no files.
    let fifo = other.folder.path().join("fifo");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    for path in [
        "/dev/zero",
        other.folder.path().to_str().unwrap(),
        fifo.to_str().unwrap(),
    ] {
        assert!(refused(&other, path).contains("is not a file"), "{path}");
    }
    // A backup of a newer kithd.
    let mut bytes = whole.clone();
    bytes[60..64].copy_from_slice(&999_i32.to_be_bytes());
    put(&bytes);
    assert!(
        refused(&other, &file).contains("made by a newer kithd (schema 999"),
        "{}",
        refused(&other, &file)
    );
    assert!(names(&other).is_empty());
    assert_eq!(leftovers(&other), 0);
    // The intact backup is restored.
    put(&whole);
    assert_eq!(restore(&other, &file)["came"]["people"], 3);
}

/// Copies a backup and runs SQL in the copy.
fn changed(daemon: &TestDaemon, whole: &str, sql: &str) -> String {
    let file = daemon.folder.path().join("changed.kithd");
    std::fs::copy(whole, &file).unwrap();
    let connection = Connection::open(&file).unwrap();
    connection
        .pragma_update(None, "foreign_keys", false)
        .unwrap();
    connection
        .execute_batch(sql)
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    file.display().to_string()
}

#[test]
fn a_backup_whose_schema_is_not_ours_is_refused_by_name() {
    let daemon = TestDaemon::new();
    daemon.enroll_everybody();
    let whole = save(&daemon, "all.kithd");
    let mut other = TestDaemon::new();
    other.start();
    let endless = "AS WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n) SELECT";
    for (sql, name) in [
        (
            format!(
                "DROP TABLE seen; CREATE VIEW seen {endless} n AS folder_id, n AS key, n AS size, n AS mtime_ns, n AS image_id FROM n"
            ),
            "seen",
        ),
        (
            format!(
                "DROP TABLE person; CREATE VIEW person {endless} n AS id, n AS name, n AS created_at_ms, n AS uid FROM n"
            ),
            "person",
        ),
        (
            format!("DROP TABLE backup; CREATE VIEW backup {endless} n AS contents FROM n"),
            "where it comes from",
        ),
        (
            "CREATE TRIGGER t AFTER INSERT ON person BEGIN DELETE FROM images; END".into(),
            "trigger \"t\"",
        ),
        ("CREATE VIEW v AS SELECT 1".into(), "view \"v\""),
        ("CREATE TABLE more (a)".into(), "table \"more\""),
        (
            "CREATE INDEX more ON person (name, id)".into(),
            "index \"more\"",
        ),
        (
            "DROP TABLE thumbnails; CREATE VIRTUAL TABLE thumbnails USING fts5 (image_id, jpeg)"
                .into(),
            "thumbnails",
        ),
        (
            "ALTER TABLE person_images ADD COLUMN file TEXT".into(),
            "person_images",
        ),
        (
            "ALTER TABLE person ADD COLUMN x INTEGER AS (length(name)) VIRTUAL".into(),
            "person",
        ),
        (
            "ALTER TABLE person RENAME COLUMN uid TO uuid".into(),
            "person",
        ),
        ("DROP TABLE merged".into(), "it has no merged"),
        ("DROP INDEX person_uid".into(), "it has no person_uid"),
    ] {
        let file = changed(&other, &whole, &sql);
        let begun = std::time::Instant::now();
        let said = refused(&other, &file);
        assert!(
            said.contains("nothing was changed") && said.contains(name),
            "{sql}: {said}"
        );
        assert!(
            begun.elapsed().as_secs() < 20,
            "{sql} took {:?}",
            begun.elapsed()
        );
    }
    // A value of another type than its column's.
    let file = changed(
        &other,
        &whole,
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, ') STRICT', ')') WHERE name = 'person_images';",
    );
    let connection = Connection::open(&file).unwrap();
    connection
        .execute_batch(
            "UPDATE person_images SET quality = 'good'; PRAGMA writable_schema = ON;
        UPDATE sqlite_schema SET sql = sql || ' STRICT' WHERE name = 'person_images';",
        )
        .unwrap();
    drop(connection);
    let said = refused(&other, &file);
    assert!(
        said.contains("damaged, nothing was changed") && said.contains("person_images.quality"),
        "{said}"
    );
    assert!(names(&other).is_empty());
}

/// Returns an embedding as an SQL literal.
fn embedding(vector: &[f32]) -> String {
    let hex: String = sealed(vector)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("x'{hex}'")
}

#[test]
fn rows_that_make_no_sense_stay_out_by_name() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    daemon.ended(daemon.post_path(&daemon.put("obama_2.jpg", "found.jpg")));
    let whole = save(&daemon, "all.kithd");
    let vectors =
        |of: &str| format!("UPDATE person_embeddings SET vector = {of} WHERE person_image_id = 3");
    let mut other = TestDaemon::new();
    other.start();
    part_is_ok(&other, "engine");
    let cases: Vec<(String, &str, &[&str])> = vec![
        (vectors("x'0000803f'"), "person_embeddings 3: its vector is damaged: its 4 bytes", &[]),
        (vectors("zeroblob(length(vector))"), "person_embeddings 3: its vector is damaged", &[]),
        (vectors("substr(vector, 2)"), "person_embeddings 3: its vector is damaged", &[]),
        (vectors("x''"), "person_embeddings 3: its vector is damaged: its 0 bytes", &[]),
        (vectors(&embedding(&[1.0])), "person_embeddings 3: its vector is not an embedding: it has 1 numbers", &[]),
        (vectors(&embedding(&[f32::NAN; 128])), "its vector is not an embedding: some values are not finite", &[]),
        (vectors(&embedding(&[0.0; 128])), "person_embeddings 3: its vector is not an embedding: it is zero", &[]),
        (
            "UPDATE person SET id = -3 WHERE id = 3; UPDATE person_images SET person_id = -3 WHERE person_id = 3"
                .into(),
            "person -3 (Joe Biden): its id is -3",
            &["Joe Biden"],
        ),
        (
            "UPDATE person SET id = 9223372036854775807 WHERE id = 3".into(),
            "its id is 9223372036854775807",
            &["Joe Biden"],
        ),
        (
            "UPDATE person SET name = 'Joe' || char(10) || 'Biden' WHERE id = 3".into(),
            "its name has control characters",
            &["Joe Biden"],
        ),
        ("UPDATE person SET name = char(8203) WHERE id = 3".into(), "at least one visible character", &["Joe Biden"]),
        (
            "UPDATE person_images SET image_name = replace(hex(zeroblob(5000000)), '0', 'n') WHERE id = 3".into(),
            "its image_name is too long (10000000 bytes)",
            &[],
        ),
        (
            "UPDATE person SET uid = x'00' WHERE id = 3".into(),
            "person 3 (Joe Biden): its uid is not 16 bytes long",
            &["Joe Biden"],
        ),
        (
            "UPDATE person_images SET quality = 9e999 WHERE id = 3".into(),
            "person_images 3 (biden_1.jpg): its quality is not a finite number",
            &[],
        ),
        (
            "UPDATE person_images SET bounds = '[1,2,3]' WHERE id = 3".into(),
            "person_images 3 (biden_1.jpg): its bounds",
            &[],
        ),
        ("UPDATE person_images SET sha256 = '../../token' WHERE id = 3".into(), "its sha256 is not a sha256", &[]),
        ("UPDATE faces SET candidates = '{}'".into(), "faces 1: its candidates is not what kithd writes there", &[]),
        ("UPDATE images SET timings = '[1]'".into(), "its timings is not what kithd writes there", &[]),
        ("UPDATE images SET id = 0; UPDATE faces SET image_id = 0".into(), "images 0: its id is 0", &[]),
        ("UPDATE images SET accepted_at_ms = -1".into(), "its accepted_at_ms is -1", &[]),
        ("UPDATE thumbnails SET image_id = 77".into(), "thumbnails 77: it belongs to a missing row", &[]),
        (
            "UPDATE enrolment_pictures SET picture = x'00' WHERE person_image_id = 3".into(),
            "its bytes do not match its sha256",
            &[],
        ),
    ];
    for (sql, sentence, missing) in cases {
        let file = changed(&other, &whole, &sql);
        let restored = restore(&other, &file);
        let said = restored["left_out_rows"].to_string();
        assert!(
            said.contains(sentence) && restored["left_out"].as_u64() > Some(0),
            "{sql}: {restored}"
        );
        let mut expected = vec!["Barack Obama", "Eileen Collins", "Joe Biden"];
        expected.retain(|name| !missing.contains(name));
        assert_eq!(names(&other), expected, "{sql}");
        assert_eq!(other.sql("pragma foreign_key_check"), [""; 0], "{sql}");
    }
    // The API says so too, and does not call it a failure.
    let file = changed(&other, &whole, &vectors("x'0000803f'"));
    let authorization = format!("Authorization: Bearer {}", other.token());
    let output = std::process::Command::new("curl")
        .args(["--silent", "--request", "PUT", "--header", &authorization])
        .args(["--write-out", "\n%{http_code}", "--upload-file", &file])
        .arg(other.url("/v1/backup"))
        .output()
        .unwrap();
    let said = text(&output);
    assert!(
        said.ends_with("\n200") && said.contains("person_embeddings 3: its vector is damaged"),
        "{said}"
    );
    // The others stay known, and an embedding that was left out is made anew from the kept picture.
    restore(&other, &changed(&other, &whole, &vectors("x'0000803f'")));
    assert_eq!(other.known("obama_2.jpg", "o.jpg"), "Barack Obama");
    wait_for("the embedding to be made anew", || {
        (other.sql("select count(*) from person_embeddings") == ["3"]).then_some(())
    });
    part_is_ok(&other, "gallery");
    assert_eq!(other.known("biden_2.jpg", "b.jpg"), "Joe Biden");
    // An import applies the same checks.
    let imported = import(
        &other,
        &changed(
            &other,
            &whole,
            "UPDATE person SET name = char(7) WHERE id = 3",
        ),
    );
    assert!(
        imported["left_out_rows"]
            .to_string()
            .contains("control characters"),
        "{imported}"
    );
}

#[test]
fn a_kill_during_a_restore_leaves_the_old_or_the_new() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    daemon.ended(daemon.post_path(&daemon.put("obama_2.jpg", "found.jpg")));
    // Large enough for a kill to fall into it.
    let whole = save(&daemon, "all.kithd");
    let large = changed(
        &daemon,
        &whole,
        "WITH RECURSIVE n (n) AS (SELECT 100 UNION ALL SELECT n + 1 FROM n WHERE n < 20000)
         INSERT INTO images (id, state, source, path, outcome, accepted_at_ms)
         SELECT n, 'processed', 'http', '/' || hex(randomblob(100)), 'no_face', 1 FROM n",
    );
    let mut other = TestDaemon::new();
    other.start();
    enroll(&other, "Newcomer", "biden_2.jpg");
    let waiting = {
        part_is_ok(&other, "engine");
        assert!(other.kithd(["breaker", "open"]).status.success());
        other.post_path(&other.put("obama_2.jpg", "waits.jpg"))
    };
    let (mut old, mut new) = (0, 0);
    for wait_ms in [50, 300, 600, 1000, 1500, 2500, 5000] {
        let mut restoring = other.spawn(["restore", "--yes", &large]);
        std::thread::sleep(std::time::Duration::from_millis(wait_ms));
        other.kill();
        restoring.wait().unwrap();
        other.start();
        match names(&other).as_slice() {
            [one] if one == "Newcomer" => old += 1,
            all => {
                assert_eq!(
                    all,
                    ["Barack Obama", "Eileen Collins", "Joe Biden"],
                    "after {wait_ms} ms"
                );
                assert_eq!(
                    other.sql("select count(*) from images where state = 'processed'"),
                    ["19901"]
                );
                new += 1;
            }
        }
        assert_eq!(other.sql("pragma integrity_check"), ["ok"]);
        assert_eq!(
            other.sql("select count(*) from images where state in ('pending', 'processing')"),
            ["1"]
        );
        // The gallery's own backup may be under way.
        wait_for("the files of the restore to be gone", || {
            (leftovers(&other) == 0).then_some(())
        });
    }
    println!("{old} times the old, {new} times the new");
    restore(&other, &large);
    close_breaker(&other);
    assert_eq!(other.ended(waiting)["found"][0]["person"], "Barack Obama");
}

#[test]
fn people_go_from_board_to_board_and_are_known_there() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    let everybody = export(&daemon, "everybody.kithd", &[]);
    let one = export(&daemon, "one.kithd", &["--person", "Joe Biden"]);
    let unknown = daemon.kithd(["people", "export", "x.kithd", "--person", "Nobody"]);
    assert!(
        !unknown.status.success() && text(&unknown).contains("nobody is enrolled as Nobody"),
        "{}",
        text(&unknown)
    );

    let mut other = TestDaemon::new();
    other.start();
    enroll(&other, "Barack Obama", "obama_2.jpg");
    part_is_ok(&other, "engine");
    let imported = import(&other, &one);
    assert_eq!(
        (
            &imported["people"],
            &imported["known"],
            &imported["pictures"]
        ),
        (&1.into(), &0.into(), &1.into())
    );
    assert_eq!(names(&other), ["Barack Obama", "Joe Biden"]);
    assert_eq!(other.known("biden_2.jpg", "b.jpg"), "Joe Biden");
    // People who are enrolled here, found by uid or name, get the pictures they lack.
    let imported = import(&other, &everybody);
    assert_eq!(
        (
            &imported["people"],
            &imported["known"],
            &imported["pictures"]
        ),
        (&1.into(), &2.into(), &2.into())
    );
    assert_eq!(
        other.sql(
            "select count(*) from person_images pi join person p on p.id = pi.person_id where name = 'Barack Obama'"
        ),
        ["2"]
    );
    // A second import finds nothing missing.
    let again = import(&other, &everybody);
    assert_eq!(
        (&again["people"], &again["known"], &again["pictures"]),
        (&0.into(), &3.into(), &0.into()),
        "{again}"
    );
    // A picture enrolled under another name here stays there, and the answer says so.
    let third = TestDaemon::new();
    enroll(&third, "Delaware Joe", "biden_1.jpg");
    let imported = import(&third, &one);
    assert!(
        imported["left_out_rows"]
            .to_string()
            .contains("the same picture is enrolled as Delaware Joe here")
    );
    // A renamed person is still the same and keeps the name used here.
    assert!(
        other
            .kithd(["people", "rename", "Joe Biden", "Joseph Biden"])
            .status
            .success()
    );
    assert_eq!(import(&other, &one)["known"], 1);
    assert_eq!(
        names(&other),
        ["Barack Obama", "Eileen Collins", "Joseph Biden"]
    );
    // An export cannot be restored, but a backup can be imported.
    assert!(
        refused(&other, &one).contains("kithd people import"),
        "{}",
        refused(&other, &one)
    );
    assert_eq!(
        names(&third),
        ["Delaware Joe"],
        "a person without a picture was added"
    );
    assert_eq!(import(&third, &save(&daemon, "all.kithd"))["people"], 2);
    // A face known here under another name is imported, and the answer gives the command that
    // merges the two.
    let mut fourth = TestDaemon::new();
    fourth.start();
    enroll(&fourth, "Delaware Joe", "biden_2.jpg");
    part_is_ok(&fourth, "engine");
    let imported = import(&fourth, &everybody);
    assert_eq!(
        (
            &imported["people"],
            imported["resembling"].as_array().unwrap().len()
        ),
        (&3.into(), 1),
        "{imported}"
    );
    let said = imported["resembling"][0].as_str().unwrap();
    assert!(
        said.ends_with("kithd people merge \"Joe Biden\" \"Delaware Joe\""),
        "{said}"
    );
    assert_eq!(
        import(&fourth, &everybody)["resembling"],
        serde_json::json!([]),
        "people who were here already"
    );
    // The API needs the token.
    let (status, answer) = other.post("/v1/people/import", &[], &std::fs::read(&one).unwrap());
    assert_eq!(status, 401, "{answer}");
    let (status, answer) =
        other.post_as_admin("/v1/people/import", &[], &std::fs::read(&one).unwrap());
    assert_eq!((status, &answer["known"]), (200, &1.into()), "{answer}");
    let (status, answer) = other.post_as_admin("/v1/people/import", &[], b"no backup");
    assert_eq!(status, 422, "{answer}");
}

/// Waits until the gallery's own backup holds so many people; returns its time of writing.
fn gallery_backup(daemon: &TestDaemon, people: usize) -> std::time::SystemTime {
    let file = daemon.state("gallery.backup");
    wait_for("the gallery's backup", || {
        let connection =
            Connection::open_with_flags(&file, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
        let count = |sql: &str| {
            connection
                .query_row(sql, [], |row| row.get::<_, usize>(0))
                .ok()
        };
        assert_eq!(
            count("select count(*) from backup where contents = 'gallery'")?,
            1
        );
        (count("select count(*) from person")? == people).then_some(())
    });
    std::fs::metadata(&file).unwrap().modified().unwrap()
}

#[test]
fn the_gallerys_own_backup_is_written_when_something_changed() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    part_is_ok(&daemon, "gallery backup");
    assert!(
        !daemon.state("gallery.backup").exists(),
        "there is no person to save yet"
    );
    daemon.enroll_everybody();
    daemon.stop();
    daemon.start();
    let written = gallery_backup(&daemon, 3);
    daemon.ended(daemon.post_path(&daemon.put("obama_2.jpg", "x.jpg")));
    daemon.stop();
    daemon.start();
    part_is_ok(&daemon, "gallery backup");
    assert_eq!(
        gallery_backup(&daemon, 3),
        written,
        "it was written again for nothing"
    );
    // It holds enrolled pictures only and restores like any other backup.
    let mut other = TestDaemon::new();
    let restored = restore(&other, daemon.state("gallery.backup").to_str().unwrap());
    assert_eq!(
        (&restored["came"]["people"], &restored["came"]["images"]),
        (&3.into(), &0.into())
    );
    other.start();
    assert_eq!(other.known("obama_2.jpg", "y.jpg"), "Barack Obama");
    // An erased person leaves it at once.
    assert!(
        daemon
            .kithd(["forget", "--yes", "Joe Biden"])
            .status
            .success()
    );
    gallery_backup(&daemon, 2);
}

/// Overwrites a share of a file with rubbish, from one per cent of it to another.
fn spoil(file: &Path, from: u64, to: u64) {
    let mut file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let bytes = file.metadata().unwrap().len();
    file.seek(SeekFrom::Start(bytes * from / 100)).unwrap();
    let rubbish: Vec<u8> = (0..bytes * (to - from) / 100)
        .map(|n| (n * 31 % 251) as u8)
        .collect();
    file.write_all(&rubbish).unwrap();
}

/// Prepares a stopped board with people, a past, and waiting pictures, by path and with bytes.
fn busy_board() -> (TestDaemon, Vec<i64>) {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    daemon.ended(daemon.post_path(&daemon.put("obama_2.jpg", "done.jpg")));
    daemon.stop();
    daemon.start();
    gallery_backup(&daemon, 3);
    part_is_ok(&daemon, "engine");
    assert!(daemon.kithd(["breaker", "open"]).status.success());
    let bytes = std::fs::read(photo("biden_2.jpg")).unwrap();
    let ids = (0..10)
        .map(|n| match n % 2 {
            0 => daemon.post_path(&daemon.put("obama_2.jpg", &format!("{n}.jpg"))),
            _ => daemon
                .post("/v1/images", &[("content-type", "image/jpeg")], &bytes)
                .1["ids"][0]
                .as_i64()
                .unwrap(),
        })
        .collect();
    daemon.stop();
    (daemon, ids)
}

/// Returns the page's sentence on the database.
fn banner(daemon: &TestDaemon) -> String {
    daemon.get("/v1/status")["parts"]["database"]["text"]
        .as_str()
        .unwrap()
        .to_string()
}

/// Closes a breaker that was opened by hand, once there is an engine.
fn close_breaker(daemon: &TestDaemon) {
    wait_for("the breaker", || {
        daemon
            .kithd(["breaker", "close"])
            .status
            .success()
            .then_some(())
    });
    part_is_ok(daemon, "engine");
}

/// Returns whether the banner counts the recovered rows, without those made from files alone.
fn says_how_many_rows(daemon: &TestDaemon, said: &str) -> bool {
    let rows = &daemon
        .sql("select count(*) from images where id > 1 and path not like 'spool/%' and path not like '%again.jpg'")[0];
    said.contains(&format!("{rows} images that waited are in the queue again"))
}

/// Checks that all people and all pictures with bytes are back, that recovered pictures are
/// processed, and that no number is used twice; returns the recovered numbers.
fn goes_on(daemon: &TestDaemon, ids: &[i64]) -> Vec<i64> {
    assert_eq!(
        names(daemon),
        ["Barack Obama", "Eileen Collins", "Joe Biden"]
    );
    part_is_ok(daemon, "engine");
    assert!(daemon.kithd(["breaker", "close"]).status.success());
    let came: Vec<i64> = daemon
        .sql("select id from images order by id")
        .iter()
        .map(|id| id.parse().unwrap())
        .collect();
    assert!(came.iter().all(|id| ids.contains(id)), "{came:?}");
    assert!(
        ids.iter().skip(1).step_by(2).all(|id| came.contains(id)),
        "pictures with bytes are missing: {came:?}"
    );
    came.iter()
        .for_each(|id| assert_eq!(daemon.ended(*id)["outcome"], "known"));
    assert_eq!(daemon.known("obama_2.jpg", "again.jpg"), "Barack Obama");
    assert_eq!(daemon.sql("pragma integrity_check"), ["ok"]);
    came
}

#[test]
fn a_database_without_its_header_gives_people_of_the_backup() {
    let (mut daemon, ids) = busy_board();
    spoil(&daemon.state("kithd.db"), 0, 1);
    daemon.start();
    let said = banner(&daemon);
    assert!(
        said.contains("3 people came back from the gallery's backup of board"),
        "{said}"
    );
    assert!(said.contains("Waiting images could not be read"), "{said}");
    // The spool keeps images with bytes, each with its number.
    let with_bytes: Vec<i64> = ids.iter().skip(1).step_by(2).copied().collect();
    assert_eq!(goes_on(&daemon, &ids), with_bytes);
    // The banner lasts as long as the file does.
    daemon.stop();
    daemon.start();
    assert!(daemon.get_text("/").contains("3 people came back"));
    daemon.stop();
    std::fs::remove_file(daemon.state("kithd.db.damaged-1")).unwrap();
    daemon.start();
    assert!(!daemon.get_text("/").contains("was damaged"));
}

/// Overwrites a leaf of a table or of its index.
fn wreck(daemon: &TestDaemon, tree: &str) {
    let file = daemon.state("kithd.db");
    let connection = Connection::open(&file).unwrap();
    let page: u64 = connection
        .query_row(
            "SELECT pageno FROM dbstat WHERE name = ?1 AND pagetype = 'leaf' ORDER BY path LIMIT 1",
            [tree],
            |row| row.get(0),
        )
        .unwrap();
    connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    drop(connection);
    let mut bytes = std::fs::read(&file).unwrap();
    let at = usize::try_from(page - 1).unwrap() * 512;
    bytes[at..at + 512].fill(0xA5);
    std::fs::write(&file, bytes).unwrap();
}

#[test]
fn a_wrecked_page_costs_what_lies_on_it() {
    // Tables of the past: no waiting image and no person is lost.
    for tree in [
        "faces",
        "thumbnails",
        "results",
        "images_state_due",
        "history",
    ] {
        let (mut daemon, ids) = busy_board();
        wreck(&daemon, tree);
        daemon.start();
        let said = banner(&daemon);
        assert!(
            said.contains("All 3 people came back from the damaged file"),
            "{tree}: {said}"
        );
        assert!(
            said.contains("10 images that waited are in the queue again"),
            "{tree}: {said}"
        );
        assert_eq!(goes_on(&daemon, &ids), ids, "{tree}");
    }
    // Tables of people: they come from the backup.
    for tree in ["person", "person_images", "person_embeddings", "person_uid"] {
        let (mut daemon, ids) = busy_board();
        wreck(&daemon, tree);
        daemon.start();
        let said = banner(&daemon);
        assert!(
            said.contains("3 people came back from the gallery's backup of board"),
            "{tree}: {said}"
        );
        assert!(
            said.contains("10 images that waited are in the queue again"),
            "{tree}: {said}"
        );
        assert_eq!(goes_on(&daemon, &ids), ids, "{tree}");
    }
    // The table of images: rows on other pages and images with bytes come back.
    let (mut daemon, ids) = busy_board();
    wreck(&daemon, "images");
    daemon.start();
    let said = banner(&daemon);
    assert!(said.contains("All 3 people came back"), "{said}");
    assert!(
        said.contains("The rows of images ") && said.contains(" could not be read"),
        "{said}"
    );
    let came = goes_on(&daemon, &ids);
    assert!(
        came.len() >= 5 && came.len() < ids.len(),
        "{came:?}: {said}"
    );
    assert!(says_how_many_rows(&daemon, &said), "{said}");
    // A number that a sender knows is not given to another picture.
    let next = daemon.post_path(&daemon.put("noface.jpg", "next.jpg"));
    assert!(ids.iter().all(|id| *id < next), "{next}");
}

#[test]
fn files_of_images_that_had_ended_are_not_recognised_again() {
    let (mut daemon, ids) = busy_board();
    daemon.start();
    close_breaker(&daemon);
    ids.iter()
        .for_each(|id| assert_eq!(daemon.ended(*id)["state"], "processed"));
    // A failed image keeps its bytes for a while.
    let failed = daemon
        .post(
            "/v1/images",
            &[("content-type", "image/jpeg")],
            b"\xff\xd8\xff no picture",
        )
        .1["ids"][0]
        .as_i64()
        .unwrap();
    assert_eq!(daemon.ended(failed)["state"], "failed");
    assert_ne!(
        daemon.sql("select count(*) from images where file is not null"),
        ["0"]
    );
    daemon.stop();
    wreck(&daemon, "faces");
    daemon.start();
    assert!(
        banner(&daemon).contains("0 images that waited are in the queue again"),
        "{}",
        banner(&daemon)
    );
    assert_eq!(daemon.sql("select count(*) from images"), ["0"]);
    assert_eq!(std::fs::read_dir(daemon.state("spool")).unwrap().count(), 0);
}

#[test]
fn an_empty_or_missing_database_with_a_gallery_is_damaged() {
    for gone in [false, true] {
        let mut daemon = TestDaemon::new();
        daemon.enroll_everybody();
        daemon.start();
        let written = gallery_backup(&daemon, 3);
        daemon.stop();
        let file = daemon.state("kithd.db");
        if gone {
            std::fs::remove_file(&file).unwrap();
        } else {
            std::fs::File::options()
                .write(true)
                .open(&file)
                .unwrap()
                .set_len(0)
                .unwrap();
        }
        // A command without a daemon does the same.
        if gone {
            save(&daemon, "all.kithd");
            assert_eq!(
                names(&daemon),
                ["Barack Obama", "Eileen Collins", "Joe Biden"]
            );
        }
        daemon.start();
        let said = banner(&daemon);
        assert!(
            said.contains("was moved to kithd.db.damaged-1 in"),
            "gone: {gone}: {said}"
        );
        assert!(
            said.contains("3 people came back from the gallery's backup of board"),
            "gone: {gone}: {said}"
        );
        part_is_ok(&daemon, "gallery backup");
        assert!(gallery_backup(&daemon, 3) >= written);
        assert_eq!(
            names(&daemon),
            ["Barack Obama", "Eileen Collins", "Joe Biden"]
        );
        assert_eq!(daemon.sql("select count(*) from enrolment_pictures"), ["3"]);
        part_is_ok(&daemon, "engine");
        assert_eq!(daemon.known("obama_2.jpg", "again.jpg"), "Barack Obama");
    }
}

#[test]
fn a_backup_that_there_is_no_room_for_is_kept_and_said() {
    let mut daemon = TestDaemon::new();
    daemon.enroll_everybody();
    daemon.start();
    gallery_backup(&daemon, 3);
    daemon.stop();
    spoil(&daemon.state("kithd.db"), 0, 1);
    // A sparse file that appears larger than the disk.
    std::fs::File::options()
        .write(true)
        .open(daemon.state("gallery.backup"))
        .unwrap()
        .set_len(1 << 42)
        .unwrap();
    daemon.start();
    let said = banner(&daemon);
    let aside = daemon.state("gallery.backup.damaged-1");
    assert!(
        said.contains("there is too little room on the disk"),
        "{said}"
    );
    assert!(
        said.contains(&format!(
            "Fix that and run: kithd restore {}.",
            aside.display()
        )),
        "{said}"
    );
    assert!(aside.exists());
    let said = refused(&daemon, aside.to_str().unwrap());
    assert!(said.contains("too little room"), "{said}");
}

#[test]
fn a_database_that_was_cut_off_gives_back_what_can_be_read() {
    for share in [50, 95] {
        let (mut daemon, ids) = busy_board();
        let file = daemon.state("kithd.db");
        let bytes = std::fs::metadata(&file).unwrap().len();
        std::fs::File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_len(bytes * share / 100)
            .unwrap();
        daemon.start();
        let said = banner(&daemon);
        assert!(
            said.contains("was moved to kithd.db.damaged-1"),
            "{share} %: {said}"
        );
        let came = goes_on(&daemon, &ids);
        println!("{share} %: {came:?} came back, and: {said}");
        assert!(
            says_how_many_rows(&daemon, &said) || said.contains("could not be read"),
            "{share} %: {said}"
        );
    }
}

#[test]
fn spoiled_pages_cost_what_lies_on_them() {
    let mut came_back = 0;
    for (from, to) in [(10, 13), (35, 40), (60, 62), (97, 99)] {
        let (mut daemon, ids) = busy_board();
        spoil(&daemon.state("kithd.db"), from, to);
        daemon.start();
        let said = banner(&daemon);
        assert!(said.contains("was damaged"), "{from} %: {said}");
        let came = goes_on(&daemon, &ids);
        println!("{from} %: {came:?} came back, and: {said}");
        assert!(
            says_how_many_rows(&daemon, &said) || said.contains("could not be read"),
            "{from} %: {said}"
        );
        came_back += came.len();
        if came == ids {
            // A number that a sender knows is not given to another picture.
            let next = daemon.post_path(&daemon.put("noface.jpg", "next.jpg"));
            assert!(ids.iter().all(|id| *id < next), "{from} %: {next}");
        }
    }
    assert!(came_back >= 30, "only {came_back} of 40 were read");
}

#[test]
fn damage_met_in_use_ends_the_daemon_and_a_start_mends_it() {
    let (mut daemon, _) = busy_board();
    let file = daemon.state("kithd.db");
    daemon.start();
    spoil(&file, 20, 100);
    let status = format!("/proc/{}/stat", daemon.pid());
    wait_for("the daemon to end", || {
        // These requests read until they meet the damage; then the daemon stops answering.
        let _ = daemon.kithd(["people", "rename", "Joe Biden", "Joe Biden"]);
        let _ = ureq::get(daemon.url("/v1/images/1")).call();
        std::fs::read_to_string(&status)
            .ok()
            .is_none_or(|line| line.contains(") Z "))
            .then_some(())
    });
    assert!(
        daemon.log().contains("is recovered at the next start"),
        "{}",
        daemon.log()
    );
    daemon.kill();
    daemon.start();
    assert!(
        banner(&daemon).contains("3 people came back"),
        "{}",
        banner(&daemon)
    );
    assert_eq!(daemon.sql("pragma integrity_check"), ["ok"]);
}

#[test]
fn a_backup_that_is_damaged_as_well_is_kept_and_said() {
    let (mut daemon, _) = busy_board();
    spoil(&daemon.state("kithd.db"), 0, 1);
    spoil(&daemon.state("gallery.backup"), 50, 51);
    daemon.start();
    let banner = daemon.get("/v1/status")["parts"]["database"]["text"]
        .as_str()
        .unwrap()
        .to_string();
    assert!(
        banner.contains(
            "The gallery's backup could not be restored and is now gallery.backup.damaged-1"
        ),
        "{banner}"
    );
    assert!(daemon.state("gallery.backup.damaged-1").exists());
    let mut beginning = [0; 15];
    std::fs::File::open(daemon.state("gallery.backup.damaged-1"))
        .unwrap()
        .read_exact(&mut beginning)
        .unwrap();
    assert_eq!(&beginning, b"SQLite format 3");
}
