//! A bit that the disk flips anywhere in the database or its journal: accepted pictures end or are
//! named as lost, and at most one person is affected, and named. The tests in `damage` and `backup`
//! check how rows are recovered.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::support::{TestDaemon, full, part_is_ok, photo, sealed, sha256, text, wait_for};

const PEOPLE: usize = 50;
const PICTURES: usize = 30;
/// Other photographs of the enrolled people.
const KNOWN: [(&str, &str); 3] = [
    ("Barack Obama", "obama_2.jpg"),
    ("Joe Biden", "biden_2.jpg"),
    ("Eileen Collins", "astronaut_2.jpg"),
];
/// Phrases of the page or the log of which one must name anything a start could not keep.
const SAID: [&str; 4] = [
    "was damaged",
    "has lost the rows of",
    "is damaged",
    "could not be read",
];

fn small_picture() -> Vec<u8> {
    let mut bytes = Vec::new();
    image::RgbImage::new(32, 32)
        .write_to(
            &mut std::io::Cursor::new(&mut bytes),
            image::ImageFormat::Png,
        )
        .unwrap();
    bytes
}

/// Adds people with made-up faces to those who are enrolled.
fn add_people(database: &Path, random: &mut fastrand::Rng) {
    let connection = Connection::open(database).unwrap();
    let (space, bytes): (String, usize) = connection
        .query_row(
            "SELECT space, length(vector) FROM person_embeddings",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    for n in KNOWN.len()..PEOPLE {
        let numbers: Vec<f32> = (0..(bytes - 4) / 4).map(|_| random.f32() - 0.5).collect();
        let norm = numbers
            .iter()
            .map(|number| number * number)
            .sum::<f32>()
            .sqrt();
        let vector = sealed(
            &numbers
                .iter()
                .map(|number| number / norm)
                .collect::<Vec<_>>(),
        );
        let mut picture = small_picture();
        picture.push(n as u8);
        let sum = sha256(&picture);
        let name = format!("Person {n:02}");
        connection
            .execute(
                "INSERT INTO person (name, created_at_ms, uid) VALUES (?1, 1, randomblob(16))",
                [&name],
            )
            .unwrap();
        let person = connection.last_insert_rowid();
        connection
            .execute(
                "INSERT INTO person_images (person_id, image_name, sha256, bounds, quality, created_at_ms)
                 VALUES (?1, ?2, ?3, '[0,0,32,32]', 0.9, 1)",
                (person, format!("{n}.png"), sum),
            )
            .unwrap();
        let row = connection.last_insert_rowid();
        connection
            .execute(
                "INSERT INTO enrolment_pictures (person_image_id, picture) VALUES (?1, ?2)",
                (row, picture),
            )
            .unwrap();
        connection
            .execute(
                "INSERT INTO person_embeddings VALUES (?1, ?2, ?3)",
                (row, &space, vector),
            )
            .unwrap();
    }
}

/// Returns the sums and vectors of each person's pictures.
fn people(daemon: &TestDaemon) -> BTreeMap<String, Vec<String>> {
    let mut people: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in daemon.sql(
        "select name || '|' || sha256 || ' ' || hex(vector) from person not indexed
           join person_images pi on pi.person_id = person.id join person_embeddings on person_image_id = pi.id order by 1",
    ) {
        let (name, picture) = line.split_once('|').unwrap();
        people.entry(name.into()).or_default().push(picture.into());
    }
    people
}

/// Prepares a board with people, their backup and waiting pictures, and kills it.
fn prepared(random: &mut fastrand::Rng) -> (TestDaemon, Vec<i64>) {
    let mut daemon = TestDaemon::new();
    daemon.enroll_everybody();
    add_people(&daemon.state("kithd.db"), random);
    daemon.start();
    part_is_ok(&daemon, "engine");
    wait_for("the gallery's backup", || {
        let backup = Connection::open(daemon.state("gallery.backup")).ok()?;
        let people = backup
            .query_row("SELECT count(*) FROM person", [], |row| {
                row.get::<_, usize>(0)
            })
            .ok()?;
        (people == PEOPLE).then_some(())
    });
    daemon.stop();
    daemon.start();
    part_is_ok(&daemon, "engine");
    assert!(daemon.kithd(["breaker", "open"]).status.success());
    let ids = (0..PICTURES)
        .map(|n| {
            let mut picture = small_picture();
            picture.push(n as u8);
            let (status, answer) =
                daemon.post("/v1/images", &[("content-type", "image/png")], &picture);
            assert_eq!(status, 202, "{answer}");
            answer["ids"][0].as_i64().unwrap()
        })
        .collect();
    daemon.kill();
    assert!(
        std::fs::metadata(daemon.state("kithd.db-wal"))
            .unwrap()
            .len()
            > 4096
    );
    (daemon, ids)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, kind) = entry
            .map(|entry| (entry.path(), entry.file_type().unwrap()))
            .unwrap();
        let target = to.join(entry.file_name().unwrap());
        if kind.is_dir() {
            copy(&entry, &target);
        } else if kind.is_file() {
            std::fs::copy(&entry, &target).unwrap();
        }
    }
}

/// Moves the journal into the database; returns the pages of the queue and its indexes.
fn settle(database: &Path) -> Vec<usize> {
    let connection = Connection::open(database).unwrap();
    connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    let mut pages = connection
        .prepare("SELECT pageno FROM dbstat WHERE name LIKE 'images%'")
        .unwrap();
    pages
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

fn flip(file: &Path, bit: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[bit / 8] ^= 1 << (bit % 8);
    std::fs::write(file, bytes).unwrap();
}

fn get(daemon: &TestDaemon, path: &str) -> Option<serde_json::Value> {
    ureq::get(daemon.url(path))
        .call()
        .ok()?
        .body_mut()
        .read_json()
        .ok()
}

/// Starts the daemon, again where it ends because it met damage, and waits until nothing waits. Adds
/// its sentences to `said`. Returns the ids of the photographs sent meanwhile; `None` if something
/// waits for ever.
fn run(daemon: &mut TestDaemon, said: &mut String) -> Option<Vec<i64>> {
    for _ in 0..3 {
        daemon.start();
        let begun = Instant::now();
        let process = format!("/proc/{}/stat", daemon.pid());
        let ended = || {
            std::fs::read_to_string(&process)
                .ok()
                .is_none_or(|line| line.contains(") Z "))
        };
        let (mut sent, mut closed, mut close) = (Vec::new(), false, String::new());
        while begun.elapsed() < Duration::from_secs(30) && !ended() {
            if let Some((_, picture)) = KNOWN.get(sent.len()) {
                let picture = std::fs::read(photo(picture)).unwrap();
                let answer = ureq::post(daemon.url("/v1/images"))
                    .header("content-type", "image/jpeg")
                    .send(&picture);
                let answer: Option<serde_json::Value> = answer
                    .ok()
                    .and_then(|mut answer| answer.body_mut().read_json().ok());
                sent.extend(answer.and_then(|answer| answer["ids"][0].as_i64()));
                continue;
            }
            if !closed {
                let output = daemon.kithd(["breaker", "close"]);
                closed = output.status.success();
                close = text(&output);
            }
            let counts = get(daemon, "/v1/status").map(|status| status["counts"].clone());
            let done =
                counts.is_some_and(|counts| counts["pending"] == 0 && counts["processing"] == 0);
            if closed && done {
                said.push_str(&daemon.get("/v1/status")["parts"].to_string());
                said.push_str(&daemon.log());
                return Some(sent);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        said.push_str(&daemon.log());
        if !ended() {
            said.push_str(&format!("{close}{:?}", get(daemon, "/v1/status")));
            return None;
        }
        daemon.kill();
    }
    None
}

/// Returns true if a sentence speaks of the loss of this image, or of all that waited.
fn image_is_named(said: &str, id: i64) -> bool {
    if said.contains(&format!("images {id}: ")) {
        return true;
    }
    if said.contains("Waiting images could not be read") || said.contains("Nothing came back") {
        return true;
    }
    let ranges = said
        .split("The rows of images ")
        .skip(1)
        .filter_map(|rest| rest.split(" could not be read").next());
    let mut ranges = ranges.flat_map(|ranges| ranges.split(", "));
    ranges.any(|range| {
        let mut ends = range
            .split(" to ")
            .map(|end| end.split(' ').next().unwrap_or_default().parse::<i64>());
        match (ends.next(), ends.next()) {
            (Some(Ok(first)), Some(Ok(last))) => (first..=last).contains(&id),
            (Some(Ok(only)), None) => only == id,
            _ => false,
        }
    })
}

/// Returns true if a sentence speaks of the loss of this person, or of all people.
fn person_is_named(said: &str, name: &str) -> bool {
    let all = [
        "No people came back",
        "Nothing came back",
        "came back from the gallery's backup",
    ];
    said.contains(name) || all.iter().any(|words| said.contains(words))
}

/// Returns true if two pictures, each a sum and a vector, have the same face.
fn same_face(one: &str, other: &str) -> bool {
    let vector = |picture: &str| picture.split_once(' ').map(|(_, vector)| vector.to_owned());
    vector(one) == vector(other)
}

/// Returns the faults found after a bit was flipped.
fn faults(
    daemon: &mut TestDaemon,
    ids: &[i64],
    before: &BTreeMap<String, Vec<String>>,
) -> (Vec<String>, bool) {
    let (mut said, mut faults) = (String::new(), Vec::new());
    let Some(sent) = run(daemon, &mut said) else {
        let rows = daemon
            .sql("select id, state, due_ms, reason from images not indexed where state in ('pending', 'processing')");
        return (
            vec![format!("something waits for ever: {rows:?}: {said}")],
            false,
        );
    };
    let is_said = SAID.iter().any(|words| said.contains(words));
    let ended = daemon.sql(
        "select id from images not indexed where state in ('processed', 'failed') order by id",
    );
    let lost: Vec<_> = ids
        .iter()
        .filter(|id| !ended.contains(&id.to_string()))
        .collect();
    let unnamed: Vec<_> = lost
        .iter()
        .filter(|id| !image_is_named(&said, ***id))
        .collect();
    if !unnamed.is_empty() {
        faults.push(format!("pictures {unnamed:?} of {lost:?} are lost unsaid"));
    }
    let failed = daemon.sql("select id from images not indexed where state = 'failed'");
    if failed.len() > 1 {
        faults.push(format!("pictures {failed:?} failed"));
    }
    let now = people(daemon);
    let affected: Vec<_> = before
        .iter()
        .filter(|(name, pictures)| now.get(*name) != Some(pictures))
        .collect();
    if affected.len() > 1 {
        faults.push(format!(
            "{} people are affected, said: {is_said}",
            affected.len()
        ));
    }
    for (name, pictures) in affected {
        // A turned letter of a name, or of a picture's sum, is no damage that anything could
        // notice.
        let kept = |vectors: &Vec<String>| {
            pictures
                .iter()
                .all(|picture| vectors.iter().any(|now| same_face(picture, now)))
        };
        if !now.values().any(kept) && !person_is_named(&said, name) {
            faults.push(format!("{name} is lost unsaid"));
        }
    }
    let other = KNOWN.iter().zip(&sent).filter(|((person, _), id)| {
        let found = get(daemon, &format!("/v1/images/{id}"))
            .map(|image| image["found"][0]["person"].clone());
        found.as_ref().and_then(|found| found.as_str()) != Some(person)
    });
    let other: Vec<_> = other.map(|((person, _), _)| *person).collect();
    if other.len() > 1 {
        faults.push(format!("{other:?} are not recognised"));
    }
    if !faults.is_empty() {
        faults.push(said);
    }
    (faults, is_said)
}

#[test]
fn a_bit_anywhere_costs_what_is_named_and_nothing_else() {
    let seed = std::env::var("KITHD_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("KITHD_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut daemon, ids) = prepared(&mut random);
    // The folder as the kill left it, and the same with the journal moved into the database.
    let [whole, settled] = ["whole", "settled"].map(|name| daemon.folder.path().join(name));
    std::fs::rename(daemon.state(""), &whole).unwrap();
    copy(&whole, &settled);
    let queue = settle(&settled.join("kithd.db"));
    let mut wrong = Vec::new();
    let mut before = BTreeMap::new();
    let (mut noticed, trials) = (0, if full() { 200 } else { 20 });
    for trial in 0..=trials {
        let (from, file) = match trial % 4 {
            0 | 1 => (&whole, "kithd.db-wal"),
            2 => (&whole, "kithd.db"),
            _ => (&settled, "kithd.db"),
        };
        copy(from, &daemon.state(""));
        let bits = usize::try_from(std::fs::metadata(from.join(file)).unwrap().len()).unwrap() * 8;
        let bit = match from == &settled {
            false => random.usize(..bits),
            // The rows of the waiting pictures lie there.
            true => (queue[random.usize(..queue.len())] - 1) * 4096 + random.usize(..4096),
        };
        let begun = Instant::now();
        if trial == 0 {
            // The state without a flipped bit.
            before = people(&daemon);
            assert_eq!(before.len(), PEOPLE);
        } else {
            flip(&daemon.state(file), bit);
        }
        let (faults, is_said) = faults(&mut daemon, &ids, &before);
        assert!(
            trial > 0 || !is_said,
            "something is said of a database that is whole"
        );
        println!(
            "{trial}: bit {bit} of {file}: said: {is_said}, {:?} {faults:?}",
            begun.elapsed()
        );
        noticed += usize::from(is_said);
        if !faults.is_empty() {
            wrong.push(format!(
                "trial {trial}, bit {bit} of {file}: {}",
                faults.join("; ")
            ));
        }
        daemon.kill();
        std::fs::remove_dir_all(daemon.state("")).unwrap();
    }
    println!(
        "{trials} bits, {noticed} noticed and said, {} wrong",
        wrong.len()
    );
    assert!(wrong.is_empty(), "KITHD_SEED={seed}:\n{}", wrong.join("\n"));
}
