//! SQL that takes from a clean copy of a backup: a restore replaces the board's data, an import of
//! people adds to it. `backup` makes the clean copy.
//!
//! Each is one operation of the writer, so after a `kill -9` the board has all of it or nothing.

use std::collections::HashMap;
use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension, params};

use super::backup::{Contents, GALLERY, PAST, blocking, copy_rows, copy_rows_or};
use super::foreign::LeftOut;
use super::{CANDIDATES, Commit, Store, StoreError, erase, fleet, folders, people, sightings};
use crate::domain::PersonId;
use crate::names;

/// Amounts of restored or imported data.
#[derive(
    Debug,
    Default,
    Clone,
    Copy,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    utoipa::ToSchema,
)]
pub struct Amounts {
    /// People.
    pub people: u64,
    /// Enrolled pictures.
    pub pictures: u64,
    /// Counter-examples.
    pub counter_examples: u64,
    /// Finished images.
    pub images: u64,
}

/// Outcome of a restore.
#[derive(Debug, Default, Clone)]
pub struct Replaced {
    /// Data that was here and is gone.
    pub before: Amounts,
    /// Data that came from the backup.
    pub now: Amounts,
    /// Images of this board that stay: unfinished ones, and those with an undelivered result.
    pub kept: u64,
    /// Images of the backup that were left out because a kept image has their number.
    pub left_out: u64,
}

/// Outcome of an import of people.
#[derive(Debug, Default, Clone)]
pub struct Added {
    /// New people, and all pictures and counter-examples that came.
    pub now: Amounts,
    /// People who were here already.
    pub known: u64,
}

impl Store {
    /// Erases from a clean copy the people erased on this board. The caller makes sure that no
    /// person is erased or enrolled until the copy has been taken.
    pub async fn apply_tombstones(&self, clean: PathBuf) -> Result<u64, StoreError> {
        let tombstones: Vec<Vec<u8>> = self
            .read_latest(|connection| {
                let mut erased = connection.prepare("SELECT uid FROM erased")?;
                erased.query_map([], |row| row.get(0))?.collect()
            })
            .await?;
        blocking(move || {
            let clean = Connection::open(&clean)?;
            clean.pragma_update(None, "synchronous", "OFF")?;
            let transaction = clean.unchecked_transaction()?;
            let (mut erased, mut people) = (0, Vec::new());
            for uid in &tombstones {
                let person: Option<PersonId> = transaction
                    .prepare_cached("SELECT id FROM person WHERE uid = ?1")?
                    .query_row([uid], |row| row.get(0))
                    .optional()?;
                if let Some(person) = person {
                    people.extend(erase::erase_person(&transaction, person)?.unwrap_or_default());
                    erased += 1;
                }
            }
            // These tombstones match no person of the backup by uid: they had been merged into
            // another.
            for uid in &tombstones {
                let number = "DELETE FROM merged WHERE uid = ?1 RETURNING person_id";
                let merged: Option<Option<PersonId>> = transaction
                    .prepare_cached(number)?
                    .query_row([uid], |row| row.get(0))
                    .optional()?;
                people.extend(merged.flatten());
            }
            for person in people {
                for image in erase::images_with(&transaction, person)? {
                    erase::erase_from_image(&transaction, image, person, &[])?;
                }
            }
            transaction.commit()?;
            Ok(erased)
        })
        .await
    }

    /// Replaces the board's data by a clean copy, except for unfinished or undelivered images.
    pub async fn replace_by(
        &self,
        clean: PathBuf,
        contents: Contents,
    ) -> Result<Replaced, StoreError> {
        let known = self.fleet.clone();
        self.write(Commit::Durable, move |here| {
            let clean = Connection::open(&clean)?;
            let replaced = replace(here, &clean, contents)?;
            fleet::records_win(here, &known)?;
            Ok(replaced)
        })
        .await
    }

    /// Adds the people of a clean copy to those on this board.
    pub async fn add_people(&self, clean: PathBuf) -> Result<(Added, LeftOut), StoreError> {
        let known = self.fleet.clone();
        self.write(Commit::Durable, move |here| {
            let clean = Connection::open(&clean)?;
            let added = add(here, &clean)?;
            fleet::records_win(here, &known)?;
            Ok(added)
        })
        .await
    }
}

/// Counts people, pictures, counter-examples and finished images.
pub fn amounts(connection: &Connection) -> rusqlite::Result<Amounts> {
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get(0));
    Ok(Amounts {
        people: count("SELECT count(*) FROM person")?,
        pictures: count("SELECT count(*) FROM person_images")?,
        counter_examples: count("SELECT count(*) FROM counter_examples")?,
        images: count("SELECT count(*) FROM images WHERE state IN ('processed', 'failed')")?,
    })
}

fn replace(
    here: &Connection,
    clean: &Connection,
    contents: Contents,
) -> rusqlite::Result<Replaced> {
    let everything = contents == Contents::Everything;
    let mut before = amounts(here)?;
    before.images = 0;
    if everything {
        let gone = here.execute(
            "DELETE FROM images WHERE state IN ('processed', 'failed')
                AND id NOT IN (SELECT image_id FROM results JOIN outbox USING (id))",
            [],
        )?;
        before.images = gone as u64;
        here.execute("DELETE FROM strangers", [])?;
        sightings::remove_past(here)?;
    }
    // Pictures now in the engine were to be matched with people who are gone, so they are redone.
    here.execute(
        "UPDATE images SET state = 'pending' WHERE state = 'processing'",
        [],
    )?;
    // These image numbers may soon belong to other images.
    here.execute(
        "UPDATE seen SET image_id = NULL WHERE image_id NOT IN (SELECT id FROM images)",
        [],
    )?;
    let kept = here.query_row("SELECT count(*) FROM images", [], |row| row.get(0))?;
    erase_from_kept(here, clean)?;
    replace_people(here, clean)?;
    let left_out = if everything {
        add_past(here, clean)?
    } else {
        0
    };
    sightings::judge_all_again(here)?;
    // Numbers once given out are never reused.
    let mut sequences = clean.prepare("SELECT name, seq FROM sqlite_sequence")?;
    let mut rows = sequences.query([])?;
    while let Some(row) = rows.next()? {
        here.execute(
            "UPDATE sqlite_sequence SET seq = max(seq, ?2) WHERE name = ?1",
            params![row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_i64()?],
        )?;
    }
    let mut now = amounts(clean)?;
    if !everything {
        now.images = 0;
    }
    Ok(Replaced {
        before,
        now,
        kept,
        left_out,
    })
}

/// Adds the backup's past beside the kept images. Returns how many images were left out because a
/// kept image has their number.
fn add_past(here: &Connection, clean: &Connection) -> rusqlite::Result<u64> {
    let list =
        |sql: &str| -> rusqlite::Result<String> { here.query_row(sql, [], |row| row.get(0)) };
    // The clean copy is ours to change: rows to leave out are deleted from it, with their
    // dependents.
    let left_out = clean.execute(
        "DELETE FROM images WHERE id IN (SELECT value FROM json_each(?1))",
        [list("SELECT json_group_array(id) FROM images")?],
    )?;
    clean.execute(
        "UPDATE images SET idempotency_key = NULL WHERE idempotency_key IN (SELECT value FROM json_each(?1))",
        [list("SELECT json_group_array(idempotency_key) FROM images WHERE idempotency_key IS NOT NULL")?],
    )?;
    clean.execute(
        "DELETE FROM sightings WHERE id IN (SELECT value FROM json_each(?1)) OR uid IN (SELECT value FROM json_each(?2))",
        [
            list("SELECT json_group_array(id) FROM sightings")?,
            list("SELECT json_group_array(uid) FROM sightings")?,
        ],
    )?;
    sightings::prepare_restored(clean)?;
    for table in PAST {
        match table {
            // Results keep their order and get new numbers: results of this board may use the old
            // ones.
            "results" => {
                let columns = columns(here, table, &["id"])?;
                copy_rows(
                    clean,
                    here,
                    table,
                    &format!("SELECT {columns} FROM results ORDER BY id"),
                    [],
                )?;
            }
            "folders" => folders::take_seen(here, clean)?,
            "seen" => {}
            _ => _ = copy_rows(clean, here, table, &format!("SELECT * FROM {table}"), [])?,
        }
    }
    sightings::skip_results(here)?;
    Ok(left_out as u64)
}

/// Lists a table's columns, except `without`.
fn columns(connection: &Connection, table: &str, without: &[&str]) -> rusqlite::Result<String> {
    let mut names = connection.prepare_cached("SELECT name FROM pragma_table_info(?1)")?;
    let names: Vec<String> = names
        .query_map([table], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(names
        .into_iter()
        .filter(|name| !without.contains(&name.as_str()))
        .collect::<Vec<_>>()
        .join(", "))
}

/// Takes people out of the kept images if their erasure has begun here or they are erased in the
/// backup.
fn erase_from_kept(here: &Connection, clean: &Connection) -> rusqlite::Result<()> {
    let mut people = erase::erasing(here)?;
    let mut here_too = here.prepare("SELECT id FROM person WHERE uid = ?1")?;
    let mut tombstones = clean.prepare("SELECT uid FROM erased")?;
    let mut uids = tombstones.query([])?;
    while let Some(row) = uids.next()? {
        let person: Option<PersonId> = here_too
            .query_row([row.get_ref(0)?.as_blob()?], |row| row.get(0))
            .optional()?;
        people.extend(person);
    }
    for person in people {
        sightings::erase_person(here, person)?;
        for image in erase::images_with(here, person)? {
            erase::erase_from_image(here, image, person, &[])?;
        }
    }
    erase::note_erasing(here, &[])
}

/// Replaces the people by those of the backup. A person with the same number and uid stays named in
/// kept images; all others are no longer named.
fn replace_people(here: &Connection, clean: &Connection) -> rusqlite::Result<()> {
    let people = |connection: &Connection| -> rusqlite::Result<HashMap<PersonId, Option<Vec<u8>>>> {
        let mut all = connection.prepare("SELECT id, uid FROM person")?;
        all.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
    };
    let coming = people(clean)?;
    let same =
        |(id, uid): (&PersonId, &Option<Vec<u8>>)| coming.get(id).is_some_and(|other| other == uid);
    let gone: Vec<PersonId> = people(here)?
        .iter()
        .filter(|person| !same(*person))
        .map(|(id, _)| *id)
        .collect();
    if !gone.is_empty() {
        here.execute(
            &format!(
                "UPDATE faces SET candidates = (SELECT json_group_array(json(c.value)) FROM json_each({CANDIDATES}) c
                                                 WHERE c.value ->> 0 NOT IN (SELECT value FROM json_each(?1)))
                  WHERE EXISTS (SELECT 1 FROM json_each({CANDIDATES}) c
                                 WHERE c.value ->> 0 IN (SELECT value FROM json_each(?1)))"
            ),
            [serde_json::json!(gone).to_string()],
        )?;
    }
    for person in &gone {
        here.prepare_cached("DELETE FROM person WHERE id = ?1")?
            .execute([person])?;
    }
    here.execute_batch(
        "DELETE FROM person_images; DELETE FROM counter_examples; DELETE FROM merged;",
    )?;
    // Two people may have exchanged names, so clear the unique columns first.
    here.execute(
        "UPDATE person SET name = hex(randomblob(32)), folded = NULL, base = NULL, topic = NULL",
        [],
    )?;
    let names = columns(here, "person", &["id"])?;
    let set: Vec<String> = names
        .split(", ")
        .map(|name| format!("{name} = excluded.{name}"))
        .collect();
    let upsert = format!("ON CONFLICT (id) DO UPDATE SET {}", set.join(", "));
    copy_rows_or(
        clean,
        here,
        "person",
        &format!("SELECT id, {names} FROM person"),
        [],
        &upsert,
    )?;
    for table in GALLERY
        .into_iter()
        .filter(|table| !matches!(*table, "person" | "erased"))
    {
        copy_rows(clean, here, table, &format!("SELECT * FROM {table}"), [])?;
    }
    let sql = "SELECT uid, erased_at_ms FROM erased";
    copy_rows_or(
        clean,
        here,
        "erased",
        sql,
        [],
        "ON CONFLICT (uid) DO NOTHING",
    )?;
    // The person numbers of pending merges are stale now.
    here.execute("UPDATE facts SET value = '[]' WHERE key = 'merging'", [])
        .map(drop)
}

fn add(here: &Connection, clean: &Connection) -> rusqlite::Result<(Added, LeftOut)> {
    let (mut added, mut left_out) = (Added::default(), LeftOut::default());
    let coming: Vec<(PersonId, Vec<u8>, String)> = clean
        .prepare("SELECT id, uid, name FROM person ORDER BY id")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    for (id, uid, name) in coming {
        let known = known_as(here, &uid, &name)?;
        let person = match known {
            Some(person) => person,
            None => {
                let names = columns(here, "person", &["id", "folded", "base", "topic"])?;
                copy_rows(
                    clean,
                    here,
                    "person",
                    &format!("SELECT {names} FROM person WHERE id = ?1"),
                    [id],
                )?;
                let person = here.last_insert_rowid();
                people::complete_names(here)?;
                person
            }
        };
        let theirs = add_pictures(here, clean, (id, person), &mut added, &mut left_out)?;
        match known {
            Some(_) => added.known += 1,
            // Other people here have all of their pictures.
            None if theirs == 0 => {
                here.execute("DELETE FROM person WHERE id = ?1", [person])?;
                continue;
            }
            None => added.now.people += 1,
        }
        // A counter-example is dropped where it is the person's own picture.
        let names = columns(here, "counter_examples", &["id", "person_id"])?;
        let examples: Vec<(i64, Vec<u8>)> = clean
            .prepare("SELECT id, vector FROM counter_examples WHERE person_id = ?1")?
            .query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        for (example, vector) in examples {
            let there = here
                .prepare_cached(
                    "SELECT 1 FROM counter_examples WHERE person_id = ?1 AND vector = ?2 UNION ALL
                     SELECT 1 FROM person_embeddings e JOIN person_images pi ON pi.id = e.person_image_id
                      WHERE pi.person_id = ?1 AND e.vector = ?2",
                )?
                .exists(params![person, vector])?;
            if !there {
                let select =
                    format!("SELECT {names}, ?2 AS person_id FROM counter_examples WHERE id = ?1");
                added.now.counter_examples +=
                    copy_rows(clean, here, "counter_examples", &select, [example, person])?;
            }
        }
    }
    Ok((added, left_out))
}

/// Returns the same person on this board: by uid, following merges, otherwise by name.
fn known_as(here: &Connection, uid: &[u8], name: &str) -> rusqlite::Result<Option<PersonId>> {
    let by_uid = here
        .prepare_cached(
            "WITH RECURSIVE they (uid) AS (VALUES (?1) UNION
                 SELECT merged.into_uid FROM merged JOIN they ON merged.uid = they.uid)
             SELECT id FROM person JOIN they USING (uid) LIMIT 1",
        )?
        .query_row([uid], |row| row.get(0))
        .optional()?;
    match by_uid {
        Some(person) => Ok(Some(person)),
        None => people::person_named(here, name),
    }
}

/// Adds pictures that a person lacks, and bytes or embeddings that a picture lacks. Returns how
/// many of the backup's pictures the person now has.
fn add_pictures(
    here: &Connection,
    clean: &Connection,
    (theirs, person): (PersonId, PersonId),
    added: &mut Added,
    left_out: &mut LeftOut,
) -> rusqlite::Result<usize> {
    let mut theirs_here = 0;
    let pictures: Vec<(i64, String, String)> = clean
        .prepare(
            "SELECT id, sha256, image_name FROM person_images WHERE person_id = ?1 ORDER BY id",
        )?
        .query_map([theirs], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    let names = columns(here, "person_images", &["id", "person_id"])?;
    let lacking = "ON CONFLICT DO NOTHING";
    for (picture, sha256, image_name) in pictures {
        let there: Option<(i64, PersonId)> = here
            .prepare_cached("SELECT id, person_id FROM person_images WHERE sha256 = ?1")?
            .query_row([&sha256], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let row = match there {
            Some((row, holder)) if holder == person => row,
            Some(_) => {
                let holder = people::holder(here, &sha256)?.unwrap_or_default();
                left_out.note(|| {
                    format!(
                        "{}: the same picture is enrolled as {holder} here",
                        names::clean(&image_name)
                    )
                });
                continue;
            }
            None => {
                let select =
                    format!("SELECT {names}, ?2 AS person_id FROM person_images WHERE id = ?1");
                copy_rows(clean, here, "person_images", &select, [picture, person])?;
                added.now.pictures += 1;
                here.last_insert_rowid()
            }
        };
        theirs_here += 1;
        for table in ["enrolment_pictures", "person_embeddings"] {
            let names = columns(here, table, &["person_image_id"])?;
            let select = format!(
                "SELECT {names}, ?2 AS person_image_id FROM {table} WHERE person_image_id = ?1"
            );
            copy_rows_or(clean, here, table, &select, [picture, row], lacking)?;
        }
    }
    Ok(theirs_here)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::fixtures::{blob, enroll, image, rows, run, sighting, store};

    const FAR: [f32; 2] = [0.0, 1.0];

    /// Makes a clean copy of a store, with rows that a backup's limits would reject.
    async fn clean(from: &Store, folder: &Path) -> PathBuf {
        let clean = folder.join("clean.db");
        let path = clean.to_string_lossy().into_owned();
        from.read(move |connection| connection.execute("VACUUM INTO ?1", [path]).map(drop))
            .await
            .unwrap();
        run_on(
            &clean,
            "DELETE FROM outbox; DELETE FROM images WHERE state = 'pending'; UPDATE images SET file = NULL",
        );
        clean
    }

    fn run_on(clean: &Path, sql: &str) {
        Connection::open(clean).unwrap().execute_batch(sql).unwrap();
    }

    #[tokio::test]
    async fn people_who_exchanged_names_and_numbers_are_told_apart() {
        let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (store(there.path()).await, store(here.path()).await);
        for (name, picture) in [("Ann", "a"), ("Bob", "b")] {
            enroll(&from, name, picture, FAR).await;
        }
        run(
            &from,
            "UPDATE person SET uid = x'0a' WHERE name = 'Ann'; UPDATE person SET uid = x'0b' WHERE name = 'Bob'",
        )
        .await;
        // On this board the same two have exchanged names, and a third person has a number that is
        // unused in the backup.
        for (name, picture) in [("Bob", "x"), ("Ann", "y"), ("Eve", "z")] {
            enroll(&to, name, picture, FAR).await;
        }
        run(&to, "UPDATE person SET uid = x'0a' WHERE id = 1; UPDATE person SET uid = x'0b' WHERE id = 2").await;
        // These images stay, because their results are undelivered.
        run(&to, &image(7, "known", Some(1), &[1, 3], FAR)).await;
        run(&to, &image(8, "known", Some(3), &[3, 2], FAR)).await;
        run(&to, "INSERT INTO outbox (id) SELECT id FROM results").await;
        let copy = clean(&from, there.path()).await;
        let replaced = to.replace_by(copy, Contents::Everything).await.unwrap();
        assert_eq!(
            (replaced.before.people, replaced.now.people, replaced.kept),
            (3, 2, 2)
        );
        assert_eq!(
            rows(&to, "SELECT id || name FROM person ORDER BY id").await,
            ["1Ann", "2Bob"]
        );
        let faces = "SELECT image_id || ' ' || coalesce(person_id, '-') || ' ' || candidates FROM faces ORDER BY 1";
        assert_eq!(rows(&to, faces).await, ["7 1 [[1,0.4]]", "8 - [[2,0.4]]"]);
        assert_eq!(
            rows(&to, "SELECT sha256 FROM person_images ORDER BY 1").await,
            ["a", "b"]
        );
    }

    #[tokio::test]
    async fn numbers_and_results_of_both_boards_keep_apart() {
        let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (store(there.path()).await, store(here.path()).await);
        for id in [1, 2, 9] {
            run(&from, &image(id, "unknown", None, &[], FAR)).await;
        }
        run(
            &from,
            "UPDATE images SET idempotency_key = 'k', camera = 'front', event = 'e-9' WHERE id = 9; INSERT INTO folders VALUES (1, '/in', 0);
                    INSERT INTO seen VALUES (1, zeroblob(16), 1, 1, 1)",
        )
        .await;
        run(
            &to,
            "INSERT INTO images (id, state, source, path, accepted_at_ms, idempotency_key, file, camera, event)
                    VALUES (2, 'pending', 'frigate', '/waits', 1, 'k', 'spool/w', 'door', '1.5-a'),
                           (3, 'processing', 'http', '/runs', 1, NULL, NULL, NULL, NULL);
                  INSERT INTO images (id, state, outcome, source, path, accepted_at_ms, file)
                    VALUES (20, 'processed', 'no_face', 'camera', '/done', 1, 'spool/d');
                  INSERT INTO folders VALUES (5, '/in', 1), (6, '/other', 1);
                  INSERT INTO seen VALUES (5, x'01', 1, 1, 20), (6, x'02', 1, 1, 2)",
        )
        .await;
        let copy = clean(&from, there.path()).await;
        let replaced = to.replace_by(copy, Contents::Everything).await.unwrap();
        assert_eq!((replaced.left_out, replaced.kept), (1, 2));
        let images = "SELECT id || state || coalesce(idempotency_key, '') FROM images ORDER BY id";
        assert_eq!(
            rows(&to, images).await,
            ["1processed", "2pendingk", "3pending", "9processed"]
        );
        let origins =
            "SELECT id || camera || event FROM images WHERE camera IS NOT NULL ORDER BY id";
        assert_eq!(rows(&to, origins).await, ["2door1.5-a", "9fronte-9"]);
        // A running image must not be ended by its earlier attempt.
        assert_eq!(
            rows(
                &to,
                "SELECT CAST(attempts AS TEXT) FROM images WHERE id = 3"
            )
            .await,
            ["0"]
        );
        assert_eq!(
            rows(&to, "SELECT file FROM discarded_files").await,
            ["spool/d"]
        );
        let seen = "SELECT path || hex(key) || coalesce(image_id, '') FROM seen JOIN folders ON id = folder_id ORDER BY 1";
        assert_eq!(rows(&to, seen).await.len(), 3);
        assert_eq!(
            rows(
                &to,
                "SELECT CAST(image_id AS TEXT) FROM seen WHERE image_id IS NOT NULL"
            )
            .await,
            ["2"]
        );
        // The next number is beyond both.
        run(
            &to,
            "INSERT INTO images (source, path, accepted_at_ms) VALUES ('http', '/next', 1)",
        )
        .await;
        assert_eq!(
            rows(&to, "SELECT CAST(max(id) AS TEXT) FROM images").await,
            ["21"]
        );
        assert_eq!(rows(&to, "PRAGMA foreign_key_check").await, [""; 0]);
        let counts = "SELECT state || images FROM state_counts WHERE images > 0 ORDER BY state";
        assert_eq!(rows(&to, counts).await, ["pending3", "processed2"]);
    }

    #[tokio::test]
    async fn open_sightings_of_a_backup_have_ended_once_restored() {
        let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (store(there.path()).await, store(here.path()).await);
        let open = |id: i64| {
            format!(
                "UPDATE sightings SET ended_ms = NULL, until_came_ms = NULL, weight = 1, total = x'01',
                        told = '{{}}' WHERE id = {id};"
            )
        };
        let ann = enroll(&from, "Ann", "a", FAR).await;
        run(&from, &image(1, "known", Some(ann), &[ann], FAR)).await;
        // The last is one that this board has too.
        for (id, at_ms) in [(1, 1000), (2, 100_000), (9, 200_000)] {
            run(
                &from,
                &sighting(id, "front", at_ms, "known", Some(ann), None),
            )
            .await;
        }
        run(
            &from,
            &format!("{} INSERT INTO sighting_faces VALUES (1, 1, 2)", open(2)),
        )
        .await;
        let bob = enroll(&to, "Bob", "b", FAR).await;
        for (id, at_ms) in [(7, 300_000), (8, 400_000), (9, 500_000)] {
            run(&to, &sighting(id, "yard", at_ms, "known", Some(bob), None)).await;
        }
        // One is told, the end of one waits to be told, one goes on.
        run(&to, &open(9)).await;
        run(
            &to,
            "INSERT INTO sighting_outbox (sighting_id, at_ms, people, payload) VALUES (8, 1, '[]', '{}')",
        )
        .await;
        let copy = clean(&from, there.path()).await;
        to.replace_by(copy, Contents::Everything).await.unwrap();
        let all =
            "SELECT id || ' ' || source || ' ' || last_ms || ' ' || coalesce(ended_ms, 'open')
                     FROM sightings ORDER BY id";
        assert_eq!(
            rows(&to, all).await,
            [
                "1 front 2000 62000",
                "2 front 101000 101000",
                "8 yard 401000 461000",
                "9 yard 501000 open"
            ]
        );
        // Nothing more is told of the one that was open there, and no look joins it.
        let restored = "SELECT '1' FROM sightings WHERE source = 'front'
                         AND (weight > 0 OR length(total) > 0 OR told IS NOT NULL OR stale > 0)";
        assert_eq!(rows(&to, restored).await, [""; 0]);
        let opened: Vec<i64> = to
            .open_sightings()
            .await
            .unwrap()
            .iter()
            .map(|seen| seen.id)
            .collect();
        assert_eq!(opened, [9]);
        let results = "SELECT CAST(max(id) AS TEXT) FROM results";
        assert_eq!(
            rows(&to, results).await,
            [to.sightings_upto().await.unwrap().to_string()]
        );
        // The open one of this board is judged again by the people who came.
        let again = "SELECT id || ' ' || coalesce(person_id, '-') FROM sightings WHERE stale > 0";
        assert_eq!(rows(&to, again).await, ["9 -"]);
        let faces = "SELECT image_id || ' ' || sighting_id FROM sighting_faces";
        assert_eq!(rows(&to, faces).await, ["1 2"]);
    }

    #[tokio::test]
    async fn whoever_was_merged_and_then_erased_stays_away() {
        let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (store(there.path()).await, store(here.path()).await);
        let (ann, bob) = (
            enroll(&from, "Ann", "a", FAR).await,
            enroll(&from, "Bob", "b", [1.0, 0.0]).await,
        );
        run(&from, &image(1, "known", Some(ann), &[ann, bob], FAR)).await;
        run(&from, &image(2, "known", Some(bob), &[bob], FAR)).await;
        run(
            &from,
            &format!(
                "INSERT INTO counter_examples (person_id, space, vector, crop, created_at_ms)
                               VALUES ({bob}, 's', {}, x'77', 1)",
                blob(FAR)
            ),
        )
        .await;
        from.merge_people(ann, bob).await.unwrap();
        for uid in rows(
            &from,
            "SELECT hex(uid) FROM person UNION SELECT hex(uid) FROM merged",
        )
        .await
        {
            run(&to, &format!("INSERT INTO erased VALUES (x'{uid}', 1)")).await;
        }
        let copy = clean(&from, there.path()).await;
        assert_eq!(to.apply_tombstones(copy.clone()).await.unwrap(), 1);
        to.replace_by(copy, Contents::Everything).await.unwrap();
        for nothing in [
            "person",
            "person_images",
            "enrolment_pictures",
            "merged",
            "counter_examples",
        ] {
            assert_eq!(
                rows(&to, &format!("SELECT '1' FROM {nothing}")).await,
                [""; 0],
                "{nothing}"
            );
        }
        assert_eq!(
            rows(&to, "SELECT candidates FROM faces").await,
            ["[]", "[]"]
        );
        assert_eq!(
            rows(&to, "SELECT '1' FROM faces WHERE length(crop) > 0").await,
            [""; 0]
        );
    }
}
