//! Fills a synthetic database of the size a board has after years, for the benches
//! `page` and `memory`.

use std::path::Path;

use kithd::for_bench::{DATABASE, complete_names, open_writable, vector_to_blob};
use rusqlite::{Connection, params};

/// Row counts of a synthetic database.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Finished images.
    pub images: i64,
    /// Faces in them.
    pub faces: i64,
    /// Enrolled people.
    pub people: i64,
    /// Sightings.
    pub sightings: i64,
}

const DIMENSION: usize = 128;
/// About the size of the engine's crops and thumbnails.
const CROP_BYTES: usize = 2500;
const THUMBNAIL_BYTES: usize = 6000;
/// Default cap of retention.
const THUMBNAILS: i64 = 20_000;
/// Time between two images.
const APART_MS: i64 = 30_000;
/// Time between two sightings.
const VISITS_APART_MS: i64 = 10_000;
/// Sightings that go on.
const OPEN: i64 = 12;

/// Makes `kithd.db` in an empty folder, its embeddings in `space`; the newest image came in at
/// `now_ms`.
pub fn fill(folder: &Path, size: Size, space: &str, now_ms: i64) -> anyhow::Result<()> {
    let connection = open_writable(&folder.join(DATABASE))?;
    // A power cut only costs the benchmark.
    connection.pragma_update(None, "synchronous", "OFF")?;
    // The indexes of a million rows are written in random order.
    connection.pragma_update(None, "cache_size", -500_000)?;
    let mut random = fastrand::Rng::with_seed(6);
    let transaction = connection.unchecked_transaction()?;
    people(&transaction, size.people, space, now_ms)?;
    images(&transaction, size, space, now_ms, &mut random)?;
    sightings(&transaction, size, space, now_ms, &mut random)?;
    history(&transaction, now_ms, &mut random)?;
    transaction.commit()?;
    connection.execute_batch("PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE);")?;
    Ok(())
}

/// Adds sightings of eight cameras: of people, of strangers who came about 20 times each, and of faces
/// that came once. The newest go on.
fn sightings(
    connection: &Connection,
    size: Size,
    space: &str,
    now_ms: i64,
    random: &mut fastrand::Rng,
) -> rusqlite::Result<()> {
    let mut sighting = connection.prepare(
        "INSERT INTO sightings (id, uid, source, began_ms, last_ms, last_came_ms, ended_ms, outcome, person_id, stranger_id,
                                distance, margin, looks, space, total, weight, image_id, number, merit, changed)
         VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7, ?8, ?9, 0.4, 0.2, 12, ?10, x'', 1, ?11, 1, 0.8, ?1)",
    )?;
    let every = (size.images / size.faces.max(1)).max(1);
    for id in 1..=size.sightings {
        let open = size.sightings - id < OPEN;
        let began_ms = now_ms - (size.sightings - id) * VISITS_APART_MS;
        let (outcome, person) = match random.u32(0..100) {
            0..50 => ("known", size.people > 0),
            50..55 => ("uncertain", size.people > 0),
            _ => ("unknown", false),
        };
        let person = person.then(|| random.i64(1..=size.people.max(1)));
        let stranger = (person.is_none() && random.bool())
            .then(|| random.i64(1..=(size.sightings / 80).max(1)));
        let face = 1 + every * random.i64(0..(size.images / every).max(1));
        sighting.execute(params![
            id,
            format!("{id:032x}"),
            format!("camera-{}", random.u32(0..8)),
            began_ms,
            began_ms + 8000,
            (!open).then_some(began_ms + 68_000),
            outcome,
            person,
            stranger,
            space,
            face
        ])?;
    }
    // They are made already, not to be made of the results.
    connection.execute(
        "INSERT OR REPLACE INTO facts SELECT 'sightings_upto', coalesce(max(id), 0) FROM results",
        [],
    )?;
    Ok(())
}

/// Adds a week of minutes to the charts.
fn history(
    connection: &Connection,
    now_ms: i64,
    random: &mut fastrand::Rng,
) -> rusqlite::Result<()> {
    let mut minute = connection.prepare(
        "INSERT INTO history (minute, pending, accepted, processed, failed, stages, celsius)
         VALUES (?1, ?2, ?3, ?3, 0, '[5.0,40.0,1.0,60.0,3.0]', ?4)",
    )?;
    for ago in 1..=7 * 24 * 60 {
        minute.execute(params![
            now_ms / 60_000 - ago,
            random.u32(0..50),
            random.u32(0..30),
            50.0 + random.f64() * 20.0
        ])?;
    }
    Ok(())
}

/// Returns an embedding of person `who`, as far from their other ones as in real pictures, and much
/// farther from other people's.
fn embedding(who: u64, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut own = fastrand::Rng::with_seed(who);
    let vector: Vec<f32> = (0..DIMENSION)
        .map(|_| (own.f32() - 0.5) * 0.3 + (random.f32() - 0.5) * 0.08)
        .collect();
    vector_to_blob(&vector)
}

fn people(connection: &Connection, count: i64, space: &str, now_ms: i64) -> rusqlite::Result<()> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut person = connection.prepare(
        "INSERT INTO person (id, name, created_at_ms, uid) VALUES (?1, ?2, ?3, randomblob(16))",
    )?;
    let mut picture = connection.prepare(
        "INSERT INTO person_images (id, person_id, image_name, sha256, bounds, quality, created_at_ms, crop)
         VALUES (?1, ?1, 'a.jpg', ?2, '[0,0,9,9]', 0.9, ?3, zeroblob(?4))",
    )?;
    let mut vector = connection.prepare(
        "INSERT INTO person_embeddings (person_image_id, space, vector) VALUES (?1, ?3, ?2)",
    )?;
    for id in 1..=count {
        person.execute(params![id, format!("Person {id:04}"), now_ms])?;
        picture.execute(params![id, format!("{id:064}"), now_ms, CROP_BYTES as i64])?;
        vector.execute(params![id, embedding(id as u64, &mut random), space])?;
    }
    complete_names(connection)
}

fn images(
    connection: &Connection,
    size: Size,
    space: &str,
    now_ms: i64,
    random: &mut fastrand::Rng,
) -> rusqlite::Result<()> {
    let mut image = connection.prepare(
        "INSERT INTO images (id, state, source, path, attempts, outcome, reason, engine, picture_key, width, height, timings,
                             accepted_at_ms, finished_at_ms, duration_ms, dated)
         VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6, 'dlib-mtcnn int8 cpu', ?7, 1280, 720, '[5.0,40.0,1.0,60.0,3.0]', ?8, ?8 + 150, 140, 1)",
    )?;
    let mut face = connection.prepare(
        "INSERT INTO faces (image_id, number, outcome, person_id, distance, margin, candidates, score, quality, bounds,
                            landmarks, space, embedding, crop)
         VALUES (?1, 1, ?2, ?3, ?4, 0.1, ?5, 0.99, 0.8, '[100.0,100.0,200.0,220.0]',
                 '[[1.0,1.0],[1.0,1.0],[1.0,1.0],[1.0,1.0],[1.0,1.0]]', ?8, ?6, zeroblob(?7))",
    )?;
    let mut result =
        connection.prepare("INSERT INTO results (result_id, image_id) VALUES (?1, ?2)")?;
    let mut thumbnail =
        connection.prepare("INSERT INTO thumbnails (image_id, jpeg) VALUES (?1, zeroblob(?2))")?;
    let every = (size.images / size.faces.max(1)).max(1);
    for id in 1..=size.images {
        let accepted_ms = now_ms - (size.images - id) * APART_MS;
        let failed = id % 500 == 0;
        let with_face = !failed && id % every == 1 % every;
        let outcome = match random.u32(0..100) {
            _ if failed => None,
            _ if !with_face => Some("no_face"),
            0..40 => Some("known"),
            40..45 => Some("uncertain"),
            _ => Some("unknown"),
        };
        let source = ["camera", "mqtt", "folder", "http"][random.usize(0..4)];
        image.execute(params![
            id,
            if failed { "failed" } else { "processed" },
            source,
            format!("/srv/pictures/{source}/{:04}/{id:08}.jpg", id / 1000),
            outcome,
            failed.then_some("the file is no picture"),
            format!("{id:064}"),
            accepted_ms
        ])?;
        if with_face {
            let person = random.i64(1..=size.people.max(1));
            let named = outcome != Some("unknown") && size.people > 0;
            // Each stranger appears about ten times.
            let who = if named {
                person
            } else {
                size.people + random.i64(1..=(size.faces / 20).max(1))
            };
            face.execute(params![
                id,
                outcome,
                named.then_some(person),
                if named { 0.4 } else { 0.8 },
                format!("[[{person},0.4]]"),
                embedding(who as u64, random),
                CROP_BYTES as i64,
                space
            ])?;
        }
        result.execute(params![format!("result-{id}"), id])?;
        if size.images - id < THUMBNAILS {
            thumbnail.execute(params![id, THUMBNAIL_BYTES as i64])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_filled_database_is_whole_and_of_the_size_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let size = Size {
            images: 100,
            faces: 20,
            people: 7,
            sightings: 50,
        };
        fill(folder.path(), size, "a space", 1_800_000_000_000).unwrap();
        let connection = Connection::open(folder.path().join(DATABASE)).unwrap();
        let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        for (table, rows) in [
            ("images", 100),
            ("faces", 20),
            ("person", 7),
            ("sightings", 50),
        ] {
            let counted = number(&format!("SELECT count(*) FROM {table}")).unwrap();
            assert_eq!(counted, rows, "{table}");
        }
        let unsearchable = number("SELECT count(*) FROM person WHERE folded IS NULL").unwrap();
        let astray = number("SELECT count(*) FROM pragma_foreign_key_check").unwrap();
        assert_eq!([unsearchable, astray], [0, 0]);
    }
}
