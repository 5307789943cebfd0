//! Backups: made while it works, checked before anything is changed, and what comes back of a damaged database.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Board, part_is_ok, photo, text, wait_for};

fn state(board: &Board, name: &str) -> PathBuf {
    board.folder.path().join("state").join(name)
}

fn save(board: &Board, name: &str) -> String {
    let file = board.folder.path().join(name).display().to_string();
    let output = board.kithd(["backup", &file]);
    assert!(output.status.success(), "{}", text(&output));
    file
}

fn restore(board: &Board, file: &str) -> Value {
    let output = board.kithd(["restore", "--json", file]);
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(board: &Board, file: &str) -> String {
    let output = board.kithd(["restore", file]);
    assert!(!output.status.success(), "{}", text(&output));
    text(&output)
}

fn names(board: &Board) -> Vec<String> {
    board.sql("select name from person order by name")
}

fn known(board: &Board, picture: &str, as_file: &str) -> Value {
    let image = board.ended(board.post_path(&board.put(picture, as_file)));
    image["found"][0]["person"].clone()
}

/// All rows that a restore brings back, as text.
fn past(board: &Board) -> Vec<String> {
    [
        "select id, state, source, path, outcome, reason, engine, picture_key, accepted_at_ms, finished_at_ms from images order by id",
        "select image_id, number, outcome, candidates, hex(embedding), hex(crop) from faces order by image_id, number",
        "select image_id, hex(jpeg) from thumbnails order by image_id",
        "select image_id, result_id, payload from outbox order by image_id, id",
        "select f.image_id, f.number, p.name from faces f left join person p on p.id = f.person_id order by 1, 2",
    ]
    .iter()
    .flat_map(|sql| board.sql(sql))
    .collect()
}

#[test]
fn a_backup_made_while_pictures_are_processed_comes_back_on_another_board_with_people_and_past() {
    let mut board = Board::new();
    board.start();
    board.enroll_everybody();
    let found = board.post_path(&board.put("obama_2.jpg", "found.jpg"));
    board.ended(found);
    board.ended(board.post_path(&board.put("noface.jpg", "noface.jpg")));
    let ids: Vec<_> = (0..6).map(|n| board.post_path(&board.put("group.jpg", &format!("{n}.jpg")))).collect();
    // A link that somebody put where it might be written first is not followed.
    let precious = board.folder.path().join("precious");
    std::fs::write(&precious, "precious").unwrap();
    std::os::unix::fs::symlink(&precious, board.folder.path().join("all.kithd.part")).unwrap();
    let file = save(&board, "all.kithd");
    assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
    // Nothing is left beside it, and nobody else reads it.
    let leftovers = || {
        let entries = std::fs::read_dir(board.folder.path().join("state")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(".backup-")).count()
    };
    assert_eq!(leftovers(), 0);
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions()) & 0o777,
        0o600
    );
    let beside = std::fs::read_dir(board.folder.path()).unwrap();
    assert!(beside.map(|entry| entry.unwrap().file_name()).all(|name| !name.to_string_lossy().starts_with('.')));
    ids.iter().for_each(|id| assert_eq!(board.ended(*id)["state"], "processed"));

    let mut other = Board::new();
    other.start();
    part_is_ok(&other, "engine");
    let restored = restore(&other, &file);
    assert_eq!((restored["people"].as_u64(), restored["pictures"].as_u64()), (Some(3), Some(3)), "{restored}");
    assert!(restored["images"].as_u64().unwrap() >= 2 && restored["left_out"] == 0, "{restored}");
    let kept = past(&board);
    let came: Vec<_> = past(&other);
    // The photograph and the result of whoever was known are there byte for byte.
    assert!(came.iter().all(|row| kept.contains(row)), "{came:?}");
    assert!(came.iter().any(|row| row.ends_with("|Barack Obama")), "{came:?}");
    // People are known at once, and their pictures are kept.
    assert_eq!(known(&other, "biden_2.jpg", "b.jpg"), "Joe Biden");
    assert_eq!(std::fs::read_dir(state(&other, "people")).unwrap().count(), 3);
    // Nothing is published again, and numbers go on after those that came back.
    assert_eq!(other.sql("select count(*) from unsent"), ["0"]);
    // Once more: nothing is missing any more but a picture that the disk has lost since.
    let lost = std::fs::read_dir(state(&other, "people")).unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(&lost).unwrap();
    std::fs::remove_file(&lost).unwrap();
    let again = restore(&other, &file);
    for what in ["people", "pictures", "images", "left_out"] {
        assert_eq!(again[what], 0, "{again}");
    }
    assert!(std::fs::read(&lost).unwrap() == bytes);
    assert_eq!(other.sql("pragma integrity_check"), ["ok"]);
    assert!(other.sql("pragma foreign_key_check").is_empty());
}

#[test]
fn a_restore_takes_nothing_away_that_came_since() {
    let mut board = Board::new();
    board.start();
    board.enroll_everybody();
    let file = save(&board, "old.kithd");
    let id = board.post_path(&board.put("obama_2.jpg", "since.jpg"));
    board.ended(id);
    let waiting = board.post_path(&board.folder.path().join("inbox/not-there-yet.jpg").display().to_string());
    let known_since = photo("biden_2.jpg");
    assert!(
        board.kithd(["enroll", "--person", "Newcomer", "--anyway", known_since.to_str().unwrap()]).status.success()
    );
    assert!(board.kithd(["people", "rename", "Eileen Collins", "Astronaut"]).status.success());
    assert!(board.kithd(["people", "merge", "Newcomer", "Joe Biden"]).status.success());
    let before = past(&board);
    let restored = restore(&board, &file);
    assert_eq!((&restored["people"], &restored["pictures"], &restored["images"]), (&0.into(), &0.into(), &0.into()));
    assert_eq!(names(&board), ["Astronaut", "Barack Obama", "Joe Biden"]);
    let now = past(&board);
    assert!(before.iter().filter(|row| !row.contains("not-there-yet")).all(|row| now.contains(row)));
    board.put("obama_2.jpg", "not-there-yet.jpg");
    assert_eq!(board.ended(waiting)["state"], "processed");
    // Without a daemon as well.
    board.stop();
    let offline = save(&board, "offline.kithd");
    assert_eq!(restore(&board, &offline)["people"], 0);
    assert_eq!(
        board.sql(
            "select count(*) from person_images where person_id = (select id from person where name = 'Joe Biden')"
        ),
        ["2"]
    );
}

#[test]
fn a_person_of_the_same_name_is_the_same_and_one_who_was_put_together_comes_back_as_part_of_the_other() {
    let mut board = Board::new();
    board.enroll_everybody();
    let file = save(&board, "all.kithd");
    let other = Board::new();
    let picture = photo("obama_2.jpg");
    assert!(other.kithd(["enroll", "--person", "Barack Obama", picture.to_str().unwrap()]).status.success());
    let restored = restore(&other, &file);
    assert_eq!((restored["people"].as_u64(), restored["pictures"].as_u64()), (Some(2), Some(3)), "{restored}");
    assert_eq!(names(&other), ["Barack Obama", "Eileen Collins", "Joe Biden"]);
    // Of those two one is erased: neither name nor pictures come back, from either board's backup.
    let from_other = save(&other, "other.kithd");
    assert!(other.kithd(["forget", "--yes", "Barack Obama"]).status.success());
    for file in [&file, &from_other] {
        let restored = restore(&other, file);
        assert_eq!((&restored["people"], &restored["pictures"]), (&0.into(), &0.into()), "{restored}");
    }
    assert_eq!(names(&other), ["Eileen Collins", "Joe Biden"]);
    // A tombstone in a backup holds where it is taken in.
    let with_tombstone = save(&other, "tombstone.kithd");
    board.start();
    part_is_ok(&board, "engine");
    assert_eq!(restore(&board, &with_tombstone)["erased"], 1);
    assert_eq!(names(&board), ["Eileen Collins", "Joe Biden"]);
    assert_eq!(std::fs::read_dir(state(&board, "people")).unwrap().count(), 2);
}

#[test]
fn what_is_no_whole_backup_is_refused_in_a_sentence_and_changes_nothing() {
    let board = Board::new();
    board.enroll_everybody();
    let whole = std::fs::read(save(&board, "all.kithd")).unwrap();
    let mut other = Board::new();
    other.start();
    let file = other.folder.path().join("x.kithd").display().to_string();
    let put = |bytes: &[u8]| std::fs::write(&file, bytes).unwrap();

    // Cut off anywhere: in the manifest, in the database, in a picture, before the last picture.
    for share in [3, 30, 60, 90, 99] {
        put(&whole[..whole.len() * share / 100]);
        let said = refused(&other, &file);
        assert!(said.contains("the backup is damaged") || said.contains("no backup of kithd"), "{share} %: {said}");
    }
    // One bit, in the database and in a picture.
    for at in [whole.len() / 10, whole.len() - 5000] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        put(&bytes);
        let said = refused(&other, &file);
        assert!(
            said.contains("is not what it was when the backup was made, nothing was changed")
                || said.contains("damaged"),
            "{said}"
        );
    }
    // Other people's files.
    put(&std::fs::read(photo("obama_1.jpg")).unwrap());
    assert!(refused(&other, &file).contains("this is no backup of kithd"), "{}", refused(&other, &file));
    put(b"");
    assert!(refused(&other, &file).contains("this is no backup of kithd"));
    let foreign = std::process::Command::new("tar").args(["-cf", &file, "-C", "/etc", "hostname"]).status().unwrap();
    assert!(foreign.success() && refused(&other, &file).contains("it does not begin with manifest.json"));
    // A member more than the manifest says.
    let more = other.folder.path().join("more");
    std::fs::write(&more, "more").unwrap();
    put(&whole);
    let folder = other.folder.path();
    let appended =
        std::process::Command::new("tar").args(["-rf", &file, "-C"]).arg(folder).arg("more").status().unwrap();
    assert!(appended.success() && refused(&other, &file).contains("there is more in it"), "{}", refused(&other, &file));
    // From the future.
    let newer = String::from_utf8_lossy(&whole[512..4096]).into_owned();
    let schema = newer.find("\"schema\": 8").unwrap() + 512;
    let mut bytes = whole.clone();
    bytes[schema + 10] = b'9';
    put(&bytes);
    assert!(refused(&other, &file).contains("made by kithd") && refused(&other, &file).contains("this one knows 8"));

    assert!(names(&other).is_empty());
    assert_eq!(std::fs::read_dir(state(&other, "people")).unwrap().count(), 0);
    assert!(
        std::fs::read_dir(other.folder.path().join("state"))
            .unwrap()
            .all(|entry| { !entry.unwrap().file_name().to_string_lossy().starts_with(".backup-") })
    );
    // And the whole one is taken.
    put(&whole);
    assert_eq!(restore(&other, &file)["people"], 3);
}

/// When the gallery's own backup was written, once it holds so many people.
fn gallery_backup(board: &Board, people: usize) -> std::time::SystemTime {
    let file = state(board, "gallery.backup");
    wait_for("the gallery's backup", || {
        let mut archive = tar::Archive::new(std::fs::File::open(&file).ok()?);
        let manifest: Value = serde_json::from_reader(archive.entries().ok()?.next()?.ok()?).ok()?;
        assert_eq!(manifest["contents"], "gallery");
        (manifest["members"].as_array()?.len() == people + 1).then_some(())
    });
    std::fs::metadata(&file).unwrap().modified().unwrap()
}

#[test]
fn the_gallery_has_its_own_backup_that_is_written_only_when_something_changed() {
    let mut board = Board::new();
    board.start();
    part_is_ok(&board, "gallery backup");
    assert!(!state(&board, "gallery.backup").exists(), "there is nobody to save yet");
    board.enroll_everybody();
    board.stop();
    board.start();
    let written = gallery_backup(&board, 3);
    board.ended(board.post_path(&board.put("obama_2.jpg", "x.jpg")));
    board.stop();
    board.start();
    part_is_ok(&board, "gallery backup");
    assert_eq!(gallery_backup(&board, 3), written, "it was written again for nothing");
    // It holds no picture but those people were enrolled from, and is a backup like any other.
    let mut other = Board::new();
    let restored = restore(&other, state(&board, "gallery.backup").to_str().unwrap());
    assert_eq!((&restored["people"], &restored["images"]), (&3.into(), &0.into()));
    other.start();
    assert_eq!(known(&other, "obama_2.jpg", "y.jpg"), "Barack Obama");
    // Who is erased is out of it at once.
    assert!(board.kithd(["forget", "--yes", "Joe Biden"]).status.success());
    gallery_backup(&board, 2);
}

/// Overwrites a share of a file with rubbish, from one per cent of it to another.
fn spoil(file: &Path, from: u64, to: u64) {
    let mut file = std::fs::File::options().read(true).write(true).open(file).unwrap();
    let bytes = file.metadata().unwrap().len();
    file.seek(SeekFrom::Start(bytes * from / 100)).unwrap();
    let rubbish: Vec<u8> = (0..bytes * (to - from) / 100).map(|n| (n * 31 % 251) as u8).collect();
    file.write_all(&rubbish).unwrap();
}

/// A board with people, a past, and pictures that wait: by path and with their bytes.
fn busy_board() -> (Board, Vec<i64>) {
    let mut board = Board::new();
    board.start();
    board.enroll_everybody();
    board.ended(board.post_path(&board.put("obama_2.jpg", "done.jpg")));
    board.stop();
    board.start();
    gallery_backup(&board, 3);
    part_is_ok(&board, "engine");
    assert!(board.kithd(["breaker", "open"]).status.success());
    let bytes = std::fs::read(photo("biden_2.jpg")).unwrap();
    let ids = (0..10)
        .map(|n| match n % 2 {
            0 => board.post_path(&board.put("obama_2.jpg", &format!("{n}.jpg"))),
            _ => board.post("/v1/images", &[("content-type", "image/jpeg")], &bytes).1["ids"][0].as_i64().unwrap(),
        })
        .collect();
    board.stop();
    (board, ids)
}

/// What the page says of the database.
fn banner(board: &Board) -> String {
    board.get("/v1/status")["parts"]["database"]["text"].as_str().unwrap().to_string()
}

/// Whether the banner counts the rows that came back, those apart whose files alone were there.
fn says_how_many_rows(board: &Board, said: &str) -> bool {
    let rows = &board
        .sql("select count(*) from images where id > 1 and path not like 'spool/%' and path not like '%again.jpg'")[0];
    said.contains(&format!("{rows} images that waited are in the queue again"))
}

/// Everybody is there, every picture with bytes came back, what came back is done, and no number is given twice.
fn goes_on(board: &Board, ids: &[i64]) -> Vec<i64> {
    assert_eq!(names(board), ["Barack Obama", "Eileen Collins", "Joe Biden"]);
    part_is_ok(board, "engine");
    assert!(board.kithd(["breaker", "close"]).status.success());
    let came: Vec<i64> = board.sql("select id from images order by id").iter().map(|id| id.parse().unwrap()).collect();
    assert!(came.iter().all(|id| ids.contains(id)), "{came:?}");
    assert!(ids.iter().skip(1).step_by(2).all(|id| came.contains(id)), "pictures with bytes are missing: {came:?}");
    came.iter().for_each(|id| assert_eq!(board.ended(*id)["outcome"], "known"));
    assert_eq!(known(board, "obama_2.jpg", "again.jpg"), "Barack Obama");
    assert_eq!(board.sql("pragma integrity_check"), ["ok"]);
    came
}

#[test]
fn a_database_without_its_header_comes_back_with_the_people_of_the_daily_backup() {
    let (mut board, ids) = busy_board();
    spoil(&state(&board, "kithd.db"), 0, 1);
    board.start();
    let said = banner(&board);
    assert!(said.contains("3 people came back from the gallery's backup of board"), "{said}");
    assert!(said.contains("10 images that waited are in the queue again"), "{said}");
    assert_eq!(goes_on(&board, &ids), ids);
    // The banner lasts as long as the file does.
    board.stop();
    board.start();
    assert!(board.get_text("/").contains("3 people came back"));
    board.stop();
    for name in ["kithd.db.damaged-1", "people.damaged-1"] {
        let path = state(&board, name);
        if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
    }
    board.start();
    assert!(!board.get_text("/").contains("was damaged"));
}

#[test]
fn a_database_that_is_empty_or_gone_where_there_was_a_gallery_is_damaged_and_no_new_board() {
    for gone in [false, true] {
        let mut board = Board::new();
        board.enroll_everybody();
        board.start();
        let written = gallery_backup(&board, 3);
        board.stop();
        let file = state(&board, "kithd.db");
        if gone {
            std::fs::remove_file(&file).unwrap();
        } else {
            std::fs::File::options().write(true).open(&file).unwrap().set_len(0).unwrap();
        }
        // A command without a daemon does the same.
        if gone {
            save(&board, "all.kithd");
            assert_eq!(names(&board), ["Barack Obama", "Eileen Collins", "Joe Biden"]);
        }
        board.start();
        let said = banner(&board);
        assert!(said.contains("was moved to kithd.db.damaged-1 in"), "gone: {gone}: {said}");
        assert!(said.contains("3 people came back from the gallery's backup of board"), "gone: {gone}: {said}");
        part_is_ok(&board, "gallery backup");
        assert!(gallery_backup(&board, 3) >= written);
        assert_eq!(names(&board), ["Barack Obama", "Eileen Collins", "Joe Biden"]);
        assert_eq!(std::fs::read_dir(state(&board, "people")).unwrap().count(), 3);
        part_is_ok(&board, "engine");
        assert_eq!(known(&board, "obama_2.jpg", "again.jpg"), "Barack Obama");
    }
}

#[test]
fn a_backup_that_the_board_has_no_room_for_is_kept_and_the_operator_told_what_to_do() {
    let mut board = Board::new();
    board.enroll_everybody();
    spoil(&state(&board, "kithd.db"), 0, 1);
    let manifest = serde_json::json!({ "kithd_backup": 1, "version": "0", "schema": 8, "device": "board",
        "created_at_ms": 1, "contents": "gallery", "gallery": null,
        "members": [{ "name": "kithd.db", "bytes": 1_u64 << 50, "sha256": "0".repeat(64) }] })
    .to_string();
    let mut tar = tar::Builder::new(std::fs::File::create(state(&board, "gallery.backup")).unwrap());
    let mut header = tar::Header::new_ustar();
    header.set_size(manifest.len() as u64);
    tar.append_data(&mut header, "manifest.json", manifest.as_bytes()).unwrap();
    tar.into_inner().unwrap();
    board.start();
    let said = banner(&board);
    let aside = state(&board, "gallery.backup.damaged-1");
    assert!(said.contains("there is too little room on the disk"), "{said}");
    assert!(said.contains(&format!("Mend that and type: kithd restore {}.", aside.display())), "{said}");
    assert!(aside.exists());
    assert!(refused(&board, aside.to_str().unwrap()).contains("too little room"));
}

#[test]
fn a_database_that_was_cut_off_gives_back_what_waited_as_far_as_it_can_be_read() {
    for share in [50, 95] {
        let (mut board, ids) = busy_board();
        let file = state(&board, "kithd.db");
        let bytes = std::fs::metadata(&file).unwrap().len();
        std::fs::File::options().write(true).open(&file).unwrap().set_len(bytes * share / 100).unwrap();
        board.start();
        let said = banner(&board);
        assert!(said.contains("was moved to kithd.db.damaged-1"), "{share} %: {said}");
        let came = goes_on(&board, &ids);
        println!("{share} %: {came:?} came back, and: {said}");
        assert!(says_how_many_rows(&board, &said), "{share} %: {said}");
    }
}

#[test]
fn spoiled_pages_in_the_middle_cost_nothing_that_does_not_lie_on_them() {
    let mut came_back = 0;
    for (from, to) in [(10, 13), (35, 40), (60, 62), (97, 99)] {
        let (mut board, ids) = busy_board();
        spoil(&state(&board, "kithd.db"), from, to);
        board.start();
        let said = banner(&board);
        assert!(said.contains("was damaged"), "{from} %: {said}");
        let came = goes_on(&board, &ids);
        println!("{from} %: {came:?} came back, and: {said}");
        assert!(says_how_many_rows(&board, &said), "{from} %: {said}");
        came_back += came.len();
        if came == ids {
            // A number that a sender knows is not given to another picture.
            let next = board.post_path(&board.put("noface.jpg", "next.jpg"));
            assert!(ids.iter().all(|id| *id < next), "{from} %: {next}");
        }
    }
    assert!(came_back >= 30, "only {came_back} of 40 were read");
}

#[test]
fn damage_met_while_it_is_in_use_ends_the_daemon_and_the_next_start_mends_it() {
    let (mut board, _) = busy_board();
    let file = state(&board, "kithd.db");
    board.start();
    spoil(&file, 20, 100);
    let status = format!("/proc/{}/stat", board.pid());
    wait_for("the daemon to end", || {
        // Looked for until somebody comes across it; nobody answers any more then.
        let _ = board.kithd(["people", "rename", "Joe Biden", "Joe Biden"]);
        let _ = ureq::get(board.url("/v1/images/1")).call();
        std::fs::read_to_string(&status).ok().is_none_or(|line| line.contains(") Z ")).then_some(())
    });
    assert!(board.log().contains("is mended by the next start"), "{}", board.log());
    board.kill();
    board.start();
    assert!(banner(&board).contains("3 people came back"), "{}", banner(&board));
    assert_eq!(board.sql("pragma integrity_check"), ["ok"]);
}

#[test]
fn a_backup_that_is_damaged_as_well_is_kept_for_the_operator_and_said() {
    let (mut board, _) = busy_board();
    spoil(&state(&board, "kithd.db"), 0, 1);
    spoil(&state(&board, "gallery.backup"), 50, 51);
    board.start();
    let banner = board.get("/v1/status")["parts"]["database"]["text"].as_str().unwrap().to_string();
    assert!(
        banner.contains("The gallery's backup could not be taken in and is gallery.backup.damaged-1 now"),
        "{banner}"
    );
    assert!(state(&board, "gallery.backup.damaged-1").exists());
    let mut beginning = [0; 13];
    std::fs::File::open(state(&board, "gallery.backup.damaged-1")).unwrap().read_exact(&mut beginning).unwrap();
    assert_eq!(&beginning, b"manifest.json");
}
