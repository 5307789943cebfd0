//! Fixtures shared by the tests of this folder: people, images with faces, and raw SQL.

use std::path::Path;

use super::{Commit, EnrolledPicture, Store, vector_to_blob};
use crate::domain::{PersonId, hex};

pub(super) async fn store(folder: &Path) -> Store {
    Store::open(folder).unwrap().0
}

pub(super) async fn enroll(
    store: &Store,
    person: &str,
    picture: &str,
    vector: [f32; 2],
) -> PersonId {
    let picture = EnrolledPicture {
        image_name: format!("{picture}.jpg"),
        sha256: picture.into(),
        picture: picture.as_bytes().to_vec(),
        bounds: [0.0; 4],
        quality: 1.0,
        crop: b"crop".to_vec(),
        embedding: vector.to_vec(),
        space: "s".into(),
    };
    store.enroll(person.into(), picture).await.unwrap().unwrap();
    store.person_named(person.into()).await.unwrap().unwrap()
}

pub(crate) async fn run(store: &Store, sql: &str) {
    let sql = sql.to_string();
    store
        .write(Commit::Durable, move |connection| {
            connection.execute_batch(&sql)
        })
        .await
        .unwrap();
}

pub(super) async fn rows(store: &Store, sql: &str) -> Vec<String> {
    let sql = sql.to_string();
    store
        .read(move |connection| {
            connection
                .prepare(&sql)?
                .query_map([], |row| row.get(0))?
                .collect()
        })
        .await
        .unwrap()
}

/// Returns the SQL literal of a stored vector.
pub(super) fn blob(vector: [f32; 2]) -> String {
    let bytes = vector_to_blob(&vector);
    format!("x'{}'", hex(&bytes))
}

/// Returns SQL for an image with one face that was matched to a person, with other candidates.
pub(super) fn image(
    id: i64,
    outcome: &str,
    person: Option<PersonId>,
    candidates: &[PersonId],
    vector: [f32; 2],
) -> String {
    let person_id = person.map_or("NULL".into(), |id| id.to_string());
    let listed: Vec<_> = candidates.iter().map(|id| (*id, 0.4)).collect();
    format!(
        "INSERT INTO images (id, state, source, path, outcome, accepted_at_ms) VALUES ({id}, 'processed', 'http', '/{id}', '{outcome}', {id});
         INSERT INTO faces (image_id, number, outcome, person_id, candidates, score, quality, bounds, landmarks, space, embedding, crop)
           VALUES ({id}, 1, '{outcome}', {person_id}, '{}', 1, 1, '[]', '[]', 's', {}, x'01');
         INSERT INTO thumbnails VALUES ({id}, x'02');
         INSERT INTO results (image_id, result_id) VALUES ({id}, 'r{id}');",
        serde_json::json!(listed),
        blob(vector),
    )
}

/// Returns SQL for a sighting that has ended.
pub(crate) fn sighting(
    id: i64,
    source: &str,
    began_ms: i64,
    outcome: &str,
    person: Option<i64>,
    stranger: Option<i64>,
) -> String {
    let number = |number: Option<i64>| number.map_or("NULL".into(), |id| id.to_string());
    format!(
        "INSERT INTO sightings (id, uid, source, began_ms, last_ms, last_came_ms, ended_ms, outcome,
                                person_id, stranger_id, looks, space, total, weight, merit, changed)
           VALUES ({id}, 'u{id}', '{source}', {began_ms}, {began_ms} + 1000, {began_ms} + 1000,
                   {began_ms} + 61000, '{outcome}', {}, {}, 1, 's', x'', 1, 0.5, {id});",
        number(person),
        number(stranger),
    )
}
