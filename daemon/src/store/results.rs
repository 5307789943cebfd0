//! SQL of results: made from the rows of an image when it ends, kept as bytes until the broker has
//! acknowledged them. `docs/design/results.md` says why.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Commit, Store, StoreError, is_spoilt, text, text_if_any};
use crate::domain::{ImageId, NamedCandidate, Outcome, PersonId, Source, State, Timings};
use crate::result::{FaceMessage, ResultMessage};

/// A result to publish.
#[derive(Debug)]
pub struct UnsentResult {
    /// Row of the result.
    pub id: i64,
    /// The exact message.
    pub payload: String,
    /// The end as the rows tell it now; `None` once the image is done again.
    pub ended: Option<ResultMessage>,
}

impl Store {
    /// Marks the oldest unsent results as tried and returns them once they are **on disk**.
    ///
    /// The flush makes it safe to publish: finishing an image need not wait for the disk, but a
    /// result that left the board must never be computed again. `device` names the board in a
    /// message that has to be made anew.
    pub async fn take_unsent(
        &self,
        limit: usize,
        device: &str,
    ) -> Result<Vec<UnsentResult>, StoreError> {
        let device = device.to_string();
        self.write(Commit::GroupedDurable, move |connection| {
            let ids: Vec<i64> = connection
                .prepare_cached("SELECT id FROM outbox ORDER BY id LIMIT ?1")?
                .query_map([limit as i64], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            let mut unsent = Vec::with_capacity(ids.len());
            for id in ids {
                unsent.extend(take(connection, id, &device)?);
            }
            Ok(unsent)
        })
        .await
    }

    /// Notes that the broker has the result; if this note is lost, the result is sent once more.
    pub async fn mark_sent(&self, id: i64) -> Result<(), StoreError> {
        self.write(Commit::Deferred, move |connection| {
            delivered(connection, id)
        })
        .await
    }

    /// Notes that the broker refused the result for good.
    pub async fn mark_refused(&self, id: i64, reason: String) -> Result<(), StoreError> {
        self.write(Commit::Deferred, move |connection| {
            connection
                .prepare_cached("UPDATE results SET refused = ?2 WHERE id = ?1")?
                .execute(params![id, reason])?;
            delivered(connection, id)
        })
        .await
    }
}

fn take(connection: &Connection, id: i64, device: &str) -> rusqlite::Result<Option<UnsentResult>> {
    let ended = ended(connection, id, device)?;
    let payload = connection
        .prepare_cached("SELECT payload FROM outbox WHERE id = ?1")?
        .query_row([id], |row| text_if_any(row, 0))?;
    let payload = match (payload, &ended) {
        (Some(payload), _) => payload,
        (None, Some(ended)) => write_message(connection, id, ended)?,
        // The result's rows are lost or replaced, and it must not block the others.
        (None, None) => {
            delivered(connection, id)?;
            return Ok(None);
        }
    };
    connection
        .prepare_cached("UPDATE outbox SET tried = 1 WHERE id = ?1 AND tried = 0")?
        .execute([id])?;
    Ok(Some(UnsentResult { id, payload, ended }))
}

fn delivered(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM outbox WHERE id = ?1")?
        .execute([id])
        .map(drop)
}

/// Puts the message of a result that was just stored into the outbox.
pub(super) fn queue_message(
    connection: &Connection,
    id: i64,
    device: &str,
) -> rusqlite::Result<()> {
    if let Some(ended) = ended(connection, id, device)? {
        write_message(connection, id, &ended)?;
    }
    Ok(())
}

/// Stores the bytes of a message and returns them.
fn write_message(
    connection: &Connection,
    id: i64,
    ended: &ResultMessage,
) -> rusqlite::Result<String> {
    let named = |face: &FaceMessage| {
        let people = face.person.iter().chain(&face.candidates);
        people.map(|person| person.person_id).collect::<Vec<_>>()
    };
    let mut people: Vec<PersonId> = ended.faces.iter().flat_map(named).collect();
    people.sort_unstable();
    people.dedup();
    let payload = serde_json::to_string(ended)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    connection
        .prepare_cached(
            "INSERT INTO outbox (id, people, payload) VALUES (?1, ?2, ?3)
                 ON CONFLICT (id) DO UPDATE SET people = excluded.people, payload = excluded.payload",
        )?
        .execute(params![id, serde_json::json!(people).to_string(), payload])?;
    Ok(payload)
}

/// SQL that is true for the newest result of an image that has ended: the rows of the image tell it.
const NEWEST: &str = "images.state IN ('processed', 'failed') AND NOT EXISTS
    (SELECT 1 FROM results later WHERE later.image_id = results.image_id AND later.id > results.id)";

/// Reads a result from the rows of its image; `None` if they are damaged or tell another one.
fn ended(
    connection: &Connection,
    id: i64,
    device: &str,
) -> rusqlite::Result<Option<ResultMessage>> {
    let read = || -> rusqlite::Result<Option<ResultMessage>> {
        let message = connection
            .prepare_cached(&format!(
                "SELECT result_id, results.supersedes, images.id, source, path, state, outcome, reason, remark,
                        picture_key, width, height, timings, engine, attempts, accepted_at_ms, finished_at_ms,
                        duration_ms, camera, event
                   FROM results JOIN images ON images.id = image_id WHERE results.id = ?1 AND {NEWEST}"
            ))?
            .query_row([id], |row| message(row, device))
            .optional()?;
        let Some(mut message) = message else {
            return Ok(None);
        };
        message.faces = faces(connection, message.image_id)?;
        Ok(Some(message))
    };
    match read() {
        Err(error) if is_spoilt(&error) => {
            tracing::error!(
                result = id,
                "its image's row in the database is damaged: {error}"
            );
            Ok(None)
        }
        read => read,
    }
}

fn message(row: &Row<'_>, device: &str) -> rusqlite::Result<ResultMessage> {
    let outcome = text_if_any(row, 6)?.and_then(|outcome| outcome.parse::<Outcome>().ok());
    // Rows of a failed image may keep what an earlier attempt found.
    let found = |column| text_if_any(row, column).map(|value| value.filter(|_| outcome.is_some()));
    let size = |column| {
        row.get::<_, Option<u32>>(column)
            .map(|value| value.filter(|_| outcome.is_some()))
    };
    Ok(ResultMessage {
        result_id: text(row, 0)?,
        supersedes: text_if_any(row, 1)?,
        image_id: row.get(2)?,
        device: device.into(),
        // Any other value comes from a damaged row.
        source: text(row, 3)?.parse().unwrap_or(Source::Http),
        path: text(row, 4)?,
        camera: text_if_any(row, 18)?,
        event: text_if_any(row, 19)?,
        state: text(row, 5)?.parse().unwrap_or(State::Failed),
        outcome,
        reason: text_if_any(row, 7)?,
        remark: found(8)?,
        picture_key: found(9)?,
        width: size(10)?,
        height: size(11)?,
        faces: Vec::new(),
        timings: found(12)?.and_then(|timings| timings_of(&timings)),
        engine: found(13)?,
        attempts: row.get(14)?,
        accepted_at_ms: row.get(15)?,
        finished_at_ms: row.get::<_, Option<i64>>(16)?.unwrap_or_default(),
        duration_ms: row.get::<_, Option<i64>>(17)?.unwrap_or_default(),
    })
}

fn faces(connection: &Connection, image: ImageId) -> rusqlite::Result<Vec<FaceMessage>> {
    let mut faces = connection.prepare_cached(
        "SELECT bounds, score, quality, objection, outcome, person.id, person.name, distance, margin, candidates
           FROM faces LEFT JOIN person ON person.id = person_id WHERE image_id = ?1 ORDER BY number",
    )?;
    let mut rows = faces.query([image])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let candidates = named_candidates(connection, &text(row, 9)?)?;
        let distance = row.get(7)?;
        let person = row.get::<_, Option<PersonId>>(5)?;
        let person = person.map(|person_id| -> rusqlite::Result<_> {
            let mut listed = candidates.iter();
            let listed = listed.find(|candidate| candidate.person_id == person_id);
            Ok(NamedCandidate {
                person_id,
                name: text(row, 6)?,
                distance: listed.map_or(distance, |candidate| candidate.distance),
            })
        });
        found.push(FaceMessage {
            bounds: serde_json::from_str(&text(row, 0)?).unwrap_or_default(),
            score: row.get(1)?,
            quality: row.get(2)?,
            objection: text_if_any(row, 3)?,
            outcome: text(row, 4)?.parse().unwrap_or(Outcome::Unknown),
            person: person.transpose()?,
            distance,
            margin: row.get(8)?,
            candidates,
        });
    }
    Ok(found)
}

/// Returns the stored candidates of a face with their names, without those who are gone; none of a
/// damaged row.
pub(super) fn named_candidates(
    connection: &Connection,
    candidates: &str,
) -> rusqlite::Result<Vec<NamedCandidate>> {
    let candidates: Vec<(PersonId, Option<f32>)> =
        serde_json::from_str(candidates).unwrap_or_default();
    let mut name = connection.prepare_cached("SELECT name FROM person WHERE id = ?1")?;
    let mut named = Vec::with_capacity(candidates.len());
    for (person_id, distance) in candidates {
        let name = name.query_row([person_id], |row| text(row, 0)).optional()?;
        named.extend(name.map(|name| NamedCandidate {
            person_id,
            name,
            distance,
        }));
    }
    Ok(named)
}

/// Encodes timings as they are stored.
pub(super) fn timings_to_text(timings: &Timings) -> String {
    let Timings {
        decode_ms,
        detect_ms,
        align_ms,
        embed_ms,
        encode_ms,
    } = timings;
    serde_json::json!([decode_ms, detect_ms, align_ms, embed_ms, encode_ms]).to_string()
}

/// Decodes stored timings; `None` of a damaged row.
pub(super) fn timings_of(text: &str) -> Option<Timings> {
    let [decode_ms, detect_ms, align_ms, embed_ms, encode_ms] = serde_json::from_str(text).ok()?;
    Some(Timings {
        decode_ms,
        detect_ms,
        align_ms,
        embed_ms,
        encode_ms,
    })
}

/// SQL for the people that a message in the outbox names; none in a damaged row.
const PEOPLE: &str = "json_each(iif(json_valid(outbox.people), outbox.people, '[]'))";

/// Returns the images with an unsent message that names the person.
pub(super) fn images_naming(
    connection: &Connection,
    person: PersonId,
) -> rusqlite::Result<Vec<ImageId>> {
    connection
        .prepare_cached(&format!(
            "SELECT image_id FROM outbox JOIN results USING (id)
              WHERE EXISTS (SELECT 1 FROM {PEOPLE} WHERE value = ?1)"
        ))?
        .query_map([person], |row| row.get(0))?
        .collect()
}

/// Withdraws the unsent messages of an image.
pub(super) fn withdraw(connection: &Connection, image: ImageId) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM outbox WHERE id IN (SELECT id FROM results WHERE image_id = ?1)",
        )?
        .execute([image])
        .map(drop)
}

/// Has the unsent messages of an image that name a person made again, from rows that no longer do.
///
/// A copy of a tried message may have left the board, so it goes out as a new result that replaces
/// it. A message of an image that is done again is withdrawn: the next result replaces it.
pub(super) fn make_again(
    connection: &Connection,
    image: ImageId,
    person: PersonId,
) -> rusqlite::Result<()> {
    let messages: Vec<(i64, bool, bool)> = connection
        .prepare_cached(&format!(
            "SELECT results.id, tried, {NEWEST} FROM outbox JOIN results USING (id) JOIN images ON images.id = image_id
              WHERE image_id = ?1 AND EXISTS (SELECT 1 FROM {PEOPLE} WHERE value = ?2)"
        ))?
        .query_map([image, person], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?
        .collect::<Result<_, _>>()?;
    for (id, tried, newest) in messages {
        if !newest {
            delivered(connection, id)?;
            continue;
        }
        if tried {
            connection
                .prepare_cached(
                    "UPDATE results SET supersedes = result_id, result_id = result_id || '-erased' WHERE id = ?1",
                )?
                .execute([id])?;
        }
        connection
            .prepare_cached(
                "UPDATE outbox SET tried = 0, people = NULL, payload = NULL WHERE id = ?1",
            )?
            .execute([id])?;
    }
    Ok(())
}
