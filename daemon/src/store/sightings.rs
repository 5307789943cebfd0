//! SQL of sightings, as the task that makes them writes them: rows, places of faces, and messages
//! until the broker has acknowledged them. `sightings` decides which face belongs where and who it
//! is; triggers mark the rows whose faces others have changed (`stale`).
//!
//! A change of a sighting is told in the transaction that makes it, so that no crash tells it twice in
//! different words, or not at all.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};
use serde_json::json;

use super::facts::store_fact;
use super::timeline::seen_stranger;
use super::{Commit, Store, StoreError, blob_to_vector, text, text_if_any, vector_to_blob};
use crate::domain::{
    FaceAddress, ImageId, NamedCandidate, Outcome, PersonId, SightingId, SightingMessage,
    SightingState, SightingStep, StrangerId,
};

/// Results examined by one operation of the writer.
const BATCH: i64 = 100;
/// Newest faces from which a sighting is judged again.
const MOST_FACES: i64 = 100;
/// Most messages that wait for the broker; the oldest are dropped first.
const MOST_MESSAGES: i64 = 10_000;
/// A wall clock below this was not set: the begin of 2020.
const CLOCK_WAS_SET_MS: i64 = 1_577_836_800_000;
/// Column `until_came_ms` of a sighting that no look joins any more: its person was erased, or it came
/// with a backup.
pub const CLOSED: i64 = -1;
/// Quality by which a face is clearly better than the one told before.
const CLEARLY_BETTER: f32 = 0.15;

/// Fact that holds the newest result whose faces are in sightings.
const SIGHTINGS_UPTO: &str = "sightings_upto";

/// A sighting as its row has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    /// Row; 0 before it is stored.
    pub id: SightingId,
    /// Id wherever it is sent.
    pub uid: String,
    /// Name of the camera, or the way its images came in.
    pub source: String,
    /// First look, wall clock.
    pub began_ms: i64,
    /// Last look, wall clock.
    pub last_ms: i64,
    /// First look, queue clock.
    pub began_came_ms: i64,
    /// Last look, queue clock.
    pub last_came_ms: i64,
    /// Queue clock after which no look joins; `None`: the gap decides.
    pub until_came_ms: Option<i64>,
    /// End, wall clock; `None`: it is open.
    pub ended_ms: Option<i64>,
    /// Left, top, right, bottom of the last look, pixels.
    pub bounds: [f32; 4],
    /// Known, uncertain or unknown.
    pub outcome: Outcome,
    /// The person it is (known) or may be (uncertain).
    pub person: Option<PersonId>,
    /// The stranger it is, if it is not known. Triggers set it.
    pub stranger: Option<StrangerId>,
    /// Distance of all looks as one to the nearest person.
    pub distance: Option<f32>,
    /// Additional distance of the next person.
    pub margin: Option<f32>,
    /// Number of looks.
    pub looks: u32,
    /// Embedding space of `total`.
    pub space: String,
    /// Weighted sum of the embeddings; empty: none, or it has ended.
    pub total: Vec<f32>,
    /// Sum of the weights.
    pub weight: f32,
    /// Its best face.
    pub face: Option<FaceAddress>,
    /// Quality of that face, 0 to 1.
    pub merit: f32,
    /// The state that the last message told.
    pub told: Option<SightingState>,
    /// People whose event was made.
    pub named: Vec<PersonId>,
    /// Number of changes by others, of its faces or people, since it was judged.
    pub stale: i64,
}

/// A face of an image, as a sighting takes it.
#[derive(Debug, Clone)]
pub struct SeenFace {
    /// Its place.
    pub address: FaceAddress,
    /// Left, top, right, bottom in pixels.
    pub bounds: [f32; 4],
    /// Quality, 0 to 1.
    pub quality: f32,
    /// Known, uncertain or unknown, by itself.
    pub outcome: Outcome,
    /// The person it is (known) or may be (uncertain).
    pub person: Option<PersonId>,
    /// Embedding space of `embedding`.
    pub space: String,
    /// Embedding; empty: none or erased.
    pub embedding: Vec<f32>,
    /// True if it can be shown.
    pub crop: bool,
}

/// An image with faces that are in no sighting yet.
#[derive(Debug, Clone)]
pub struct SeenImage {
    /// The result that brought them.
    pub result: i64,
    /// Name of the camera, or the way it came in.
    pub source: String,
    /// Arrival, queue clock.
    pub came_ms: i64,
    /// Arrival, wall clock.
    pub accepted_at_ms: i64,
    /// The faces.
    pub faces: Vec<SeenFace>,
}

/// Next work of the task.
#[derive(Debug, Default)]
pub struct SightingWork {
    /// A sighting to be judged again.
    pub stale: Option<StaleSighting>,
    /// The next image with faces.
    pub image: Option<SeenImage>,
    /// The newest result that was examined; nothing before it is left except `image`.
    pub examined: i64,
}

/// A sighting whose faces or people have changed.
#[derive(Debug)]
pub struct StaleSighting {
    /// Its row.
    pub sighting: Sighting,
    /// Its newest faces.
    pub faces: Vec<SeenFace>,
    /// Number of all its faces.
    pub count: u32,
    /// Known people of the other sightings in its newest image.
    pub beside: Vec<PersonId>,
}

/// A change of a sighting.
#[derive(Debug, Clone)]
pub struct SightingChange {
    /// Its row from now on.
    pub sighting: Sighting,
    /// Faces that join it.
    pub faces: Vec<FaceAddress>,
    /// When the look that causes the change came in, or when the end was due; wall clock.
    pub at_ms: i64,
}

/// Facts that messages about sightings need.
#[derive(Debug, Clone)]
pub struct Telling {
    /// Name of the board.
    pub device: String,
    /// False when MQTT is off and messages need no delivery.
    pub publish: bool,
}

/// A change as it was stored.
#[derive(Debug, Clone)]
pub struct StoredChange {
    /// The row.
    pub sighting: Sighting,
    /// The step that was told.
    pub step: Option<SightingStep>,
}

/// A message about a sighting to publish.
#[derive(Debug)]
pub struct UnsentSighting {
    /// Row of the message.
    pub id: i64,
    /// When what it tells happened, wall clock.
    pub at_ms: i64,
    /// The exact message.
    pub payload: String,
    /// The event that follows it: its person and the exact message.
    pub event: Option<(PersonId, String)>,
}

impl SightingState {
    /// Returns whether this state is worth a message after the one that was told.
    fn is_news_after(&self, told: &Self) -> bool {
        let person = |state: &Self| state.person.as_ref().map(|person| person.person_id);
        let stranger = |state: &Self| state.stranger.as_ref().map(|stranger| stranger.number);
        let better = match (&told.face, &self.face) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(before), Some(now)) => {
                let quality = |state: &Self| state.quality.unwrap_or(0.0);
                before != now && quality(self) >= quality(told) + CLEARLY_BETTER
            }
        };
        let numbered = self.stranger.is_some() && stranger(self) != stranger(told);
        self.outcome != told.outcome || person(self) != person(told) || numbered || better
    }
}

/// Queries and changes of the task.
impl Store {
    /// Returns the newest result whose faces are in sightings.
    pub async fn sightings_upto(&self) -> Result<i64, StoreError> {
        let upto = self.fact(SIGHTINGS_UPTO).await?;
        Ok(upto.and_then(|text| text.parse().ok()).unwrap_or(0))
    }

    /// Stores the newest result that was examined.
    pub async fn set_sightings_upto(&self, result: i64) -> Result<(), StoreError> {
        self.write(Commit::Deferred, move |connection| {
            store_fact(connection, SIGHTINGS_UPTO, &result.to_string())
        })
        .await
    }

    /// Returns the sightings that have not ended, including uncommitted ones.
    pub async fn open_sightings(&self) -> Result<Vec<Sighting>, StoreError> {
        self.write(Commit::None, |connection| {
            connection
                .prepare_cached(&format!("{SIGHTING} WHERE ended_ms IS NULL ORDER BY id"))?
                .query_map([], sighting)?
                .collect()
        })
        .await
    }

    /// Returns a sighting to be judged again, and the next image after the result `after` with
    /// faces that are in no sighting; including uncommitted ones.
    pub async fn sighting_work(&self, after: i64) -> Result<SightingWork, StoreError> {
        self.write(Commit::None, move |connection| {
            let stale = connection
                .prepare_cached(&format!("{SIGHTING} WHERE stale > 0 ORDER BY id LIMIT 1"))?
                .query_row([], sighting)
                .optional()?;
            if let Some(sighting) = stale {
                return Ok(SightingWork {
                    stale: Some(with_faces(connection, sighting)?),
                    image: None,
                    examined: after,
                });
            }
            let results: Vec<(i64, ImageId)> = connection
                .prepare_cached(
                    "SELECT id, image_id FROM results WHERE id > ?1 ORDER BY id LIMIT ?2",
                )?
                .query_map([after, BATCH], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<_, _>>()?;
            let mut examined = after;
            for (result, image) in results {
                let image = seen_image(connection, result, image)?;
                if image.is_some() {
                    return Ok(SightingWork {
                        stale: None,
                        image,
                        examined,
                    });
                }
                examined = result;
            }
            Ok(SightingWork {
                stale: None,
                image: None,
                examined,
            })
        })
        .await
    }

    /// Returns the ended sightings of a source that a look at `came_ms` may belong to, each with
    /// its newest faces.
    pub async fn ended_sightings(
        &self,
        source: &str,
        came_ms: i64,
        gap_ms: i64,
    ) -> Result<Vec<StaleSighting>, StoreError> {
        let source = source.to_string();
        self.write(Commit::None, move |connection| {
            let late: Vec<Sighting> = connection
                .prepare_cached(&format!(
                    "{SIGHTING} WHERE source = ?1 AND ended_ms IS NOT NULL AND last_came_ms >= ?2 - ?3
                        AND began_came_ms <= ?2 + ?3 AND (until_came_ms IS NULL OR until_came_ms >= ?2)
                      ORDER BY last_came_ms LIMIT 100"
                ))?
                .query_map(params![source, came_ms, gap_ms], sighting)?
                .collect::<Result<_, _>>()?;
            late.into_iter().map(|sighting| with_faces(connection, sighting)).collect()
        })
        .await
    }

    /// Stores changes of sightings and puts their messages into the outbox; `upto` is the newest
    /// result whose faces are in sightings then. Returns the rows as stored, or `None` if one of
    /// them was changed by others meanwhile, and nothing is stored.
    pub async fn change_sightings(
        &self,
        changes: Vec<SightingChange>,
        upto: Option<i64>,
        telling: Arc<Telling>,
    ) -> Result<Option<Vec<StoredChange>>, StoreError> {
        self.write(Commit::Grouped, move |connection| {
            for change in &changes {
                if !is_unchanged(connection, &change.sighting)? {
                    return Ok(None);
                }
            }
            if let Some(upto) = upto {
                store_fact(connection, SIGHTINGS_UPTO, &upto.to_string())?;
            }
            let stored = changes
                .iter()
                .map(|change| store_change(connection, change.clone(), &telling));
            stored.collect::<rusqlite::Result<_>>().map(Some)
        })
        .await
    }

    /// Closes the open sightings of the last run whose last look was more than `gap_ms` before
    /// `wall_ms`: looks that come after `started_ms` (queue clock) do not join them. Images that
    /// still wait may hold later looks.
    pub async fn close_sightings(
        &self,
        started_ms: i64,
        wall_ms: i64,
        gap_ms: i64,
    ) -> Result<(), StoreError> {
        self.write(Commit::Durable, move |connection| {
            connection
                .execute(
                    "WITH waiting AS MATERIALIZED (
                        SELECT coalesce(camera, source) AS source, max(accepted_at_ms) AS last_ms FROM images
                         WHERE state IN ('pending', 'processing') AND missing_since_ms IS NULL GROUP BY 1)
                     UPDATE sightings SET until_came_ms = max(?1, last_came_ms)
                      WHERE ended_ms IS NULL AND until_came_ms IS NULL
                        AND ?2 - max(last_ms, coalesce(
                            (SELECT waiting.last_ms FROM waiting WHERE waiting.source = sightings.source), 0)) > ?3",
                    params![started_ms, wall_ms, gap_ms],
                )
                .map(drop)
        })
        .await
    }

    /// Returns whether an image that came in this period, by the queue clock, is still on its way:
    /// unfinished, and not waiting for its file; or with a result after `upto`.
    pub async fn is_on_its_way(
        &self,
        from_ms: i64,
        to_ms: i64,
        upto: i64,
    ) -> Result<bool, StoreError> {
        self.write(Commit::None, move |connection| {
            let any = |sql: &str| connection.prepare_cached(sql)?.exists([from_ms, to_ms]);
            Ok(connection
                .prepare_cached("SELECT 1 FROM results WHERE id > ?1")?
                .exists([upto])?
                || any("SELECT 1 FROM images INDEXED BY images_state_due
                         WHERE state = 'processing' AND came_ms BETWEEN ?1 AND ?2")?
                // Until it is put back, an image is due when it came.
                || any("SELECT 1 FROM images INDEXED BY images_state_due
                         WHERE state = 'pending' AND due_ms BETWEEN ?1 AND ?2 AND due_ms = came_ms
                           AND missing_since_ms IS NULL")?
                || any("SELECT 1 FROM images INDEXED BY images_put_back
                         WHERE state = 'pending' AND missing_since_ms IS NULL AND due_ms > came_ms
                           AND came_ms BETWEEN ?1 AND ?2")?)
        })
        .await
    }

    /// Marks the oldest messages about sightings as tried and returns them once they are **on
    /// disk**; those that happened before `oldest_ms` (wall clock) are dropped.
    pub async fn take_unsent_sightings(
        &self,
        limit: usize,
        oldest_ms: i64,
    ) -> Result<Vec<UnsentSighting>, StoreError> {
        self.write(Commit::GroupedDurable, move |connection| {
            let waiting: Vec<UnsentSighting> = connection
                .prepare_cached(
                    "SELECT id, at_ms, payload, person_id, event FROM sighting_outbox ORDER BY id LIMIT ?1",
                )?
                .query_map([limit as i64], |row| {
                    let (person, event) = (row.get::<_, Option<PersonId>>(3)?, text_if_any(row, 4)?);
                    Ok(UnsentSighting {
                        id: row.get(0)?,
                        at_ms: row.get(1)?,
                        payload: text(row, 2)?,
                        event: person.zip(event),
                    })
                })?
                .collect::<Result<_, _>>()?;
            let (news, old): (Vec<_>, Vec<_>) =
                waiting.into_iter().partition(|message| message.at_ms >= oldest_ms);
            for message in &old {
                delivered(connection, message.id)?;
            }
            for message in &news {
                connection
                    .prepare_cached("UPDATE sighting_outbox SET tried = 1 WHERE id = ?1 AND tried = 0")?
                    .execute([message.id])?;
            }
            Ok(news)
        })
        .await
    }

    /// Notes that the broker has the message, or that it is given up.
    pub async fn mark_sighting_sent(&self, id: i64) -> Result<(), StoreError> {
        self.write(Commit::Deferred, move |connection| {
            delivered(connection, id)
        })
        .await
    }
}

/// Changes that others make, in their own transactions.
impl Store {
    /// Deletes the oldest ended sightings beyond the newest `count`, and those whose last look was
    /// before `before_ms` (wall clock), at most `limit` of each. Returns how many are gone.
    pub async fn remove_sightings(
        &self,
        count: Option<u64>,
        before_ms: Option<i64>,
        limit: usize,
    ) -> Result<usize, StoreError> {
        let limit = limit as i64;
        self.write(Commit::Deferred, move |connection| {
            let mut gone = 0;
            if let Some(count) = count {
                // Numbers are given out in order, and a rare one is missing.
                gone += connection
                    .prepare_cached(
                        "DELETE FROM sightings WHERE id IN (
                            SELECT id FROM sightings WHERE id <= (SELECT max(id) FROM sightings) - ?1
                               AND ended_ms IS NOT NULL ORDER BY id LIMIT ?2)",
                    )?
                    .execute(params![i64::try_from(count).unwrap_or(i64::MAX), limit])?;
            }
            if let Some(before_ms) = before_ms {
                // Before a sighting that is known to be so old are only older ones, whatever the
                // clock said then.
                gone += connection
                    .prepare_cached(
                        "WITH oldest AS (SELECT id, last_ms FROM sightings ORDER BY id LIMIT ?2)
                         DELETE FROM sightings WHERE ended_ms IS NOT NULL AND id <=
                            (SELECT max(id) FROM oldest WHERE last_ms BETWEEN ?3 AND ?1)",
                    )?
                    .execute(params![before_ms, limit, CLOCK_WAS_SET_MS])?;
            }
            Ok(gone)
        })
        .await
    }
}

/// Takes a person who is about to be deleted out of sightings, of which the open ones end without a
/// face, and out of messages about them that no broker has yet. A message that may have left the
/// board is not sent again.
pub(super) fn erase_person(connection: &Connection, person: PersonId) -> rusqlite::Result<()> {
    connection
        .prepare_cached(&format!(
            "UPDATE sightings SET outcome = 'unknown', person_id = NULL, distance = NULL, margin = NULL,
                    total = x'', weight = 0, image_id = NULL, number = NULL, merit = 0,
                    stale = stale + (ended_ms IS NULL), until_came_ms = iif(ended_ms IS NULL, {CLOSED}, until_came_ms),
                    told = iif(json_valid(told), json_set(told, '$.outcome', 'unknown', '$.person', NULL,
                        '$.distance', NULL, '$.margin', NULL, '$.quality', NULL, '$.face', NULL), NULL)
              WHERE person_id = ?1"
        ))?
        .execute([person])?;
    let messages: Vec<(i64, bool, String)> = connection
        .prepare_cached(
            "SELECT id, tried, payload FROM sighting_outbox
              WHERE person_id = ?1 OR EXISTS (SELECT 1 FROM
                    json_each(iif(json_valid(people), people, '[]')) WHERE value = ?1)",
        )?
        .query_map([person], |row| {
            Ok((row.get(0)?, row.get(1)?, text(row, 2)?))
        })?
        .collect::<Result<_, _>>()?;
    for (id, tried, payload) in messages {
        let message = serde_json::from_str::<SightingMessage>(&payload).ok();
        let Some(mut message) = message.filter(|_| !tried) else {
            delivered(connection, id)?;
            continue;
        };
        for state in message.before.iter_mut().chain([&mut message.after]) {
            if state
                .person
                .as_ref()
                .is_some_and(|it| it.person_id == person)
            {
                *state = SightingState {
                    outcome: Outcome::Unknown,
                    person: None,
                    stranger: None,
                    distance: None,
                    margin: None,
                    looks: state.looks,
                    quality: None,
                    face: None,
                };
            }
        }
        connection
            .prepare_cached(
                "UPDATE sighting_outbox SET payload = ?2, people = ?3, person_id = NULL, event = NULL WHERE id = ?1",
            )?
            .execute(params![id, json!(message).to_string(), json!(people_of(&message)).to_string()])?;
    }
    Ok(())
}

/// Makes the sightings of a person those of another, who is the same. Messages that wait say what
/// was known at their time.
pub(super) fn merge_people(
    connection: &Connection,
    id: PersonId,
    into: PersonId,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE sightings SET person_id = ?2, stale = stale + (ended_ms IS NULL),
                    told = iif(json_valid(told) AND told ->> '$.person.person_id' = ?1,
                        json_set(told, '$.person.person_id', ?2, '$.person.name',
                            (SELECT name FROM person WHERE id = ?2)), told)
              WHERE person_id = ?1",
        )?
        .execute([id, into])?;
    connection
        .prepare_cached("UPDATE sighting_outbox SET person_id = ?2 WHERE person_id = ?1")?
        .execute([id, into])
        .map(drop)
}

/// Gives a person's open sightings the new name, which the next message tells as known before.
pub(super) fn rename_person(connection: &Connection, id: PersonId) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE sightings SET stale = stale + 1,
                    told = iif(json_valid(told) AND told ->> '$.person.person_id' = ?1,
                        json_set(told, '$.person.name', (SELECT name FROM person WHERE id = ?1)), told)
              WHERE ended_ms IS NULL AND person_id = ?1",
        )?
        .execute([id])
        .map(drop)
}

/// Makes the sightings of a stranger those of a person. Those of a face that cannot get the name
/// are judged again when that face is relabelled.
pub(super) fn name_stranger(
    connection: &Connection,
    stranger: StrangerId,
    person: PersonId,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE sightings SET outcome = 'known', person_id = ?2, stranger_id = NULL, distance = NULL, margin = NULL,
                    stale = stale + (ended_ms IS NULL)
              WHERE stranger_id = ?1",
        )?
        .execute([stranger, person])
        .map(drop)
}

/// Prepares the sightings of a backup for another board: all have ended, no look of this board joins
/// them, and nothing is told of them.
pub(super) fn prepare_restored(clean: &Connection) -> rusqlite::Result<()> {
    clean.execute_batch(&format!(
        "UPDATE images SET came_ms = 0 WHERE came_ms <> 0;
         UPDATE sightings SET ended_ms = coalesce(ended_ms, last_ms), began_came_ms = 0, last_came_ms = 0,
                until_came_ms = {CLOSED}, total = x'', weight = 0, told = NULL, named = '[]', changed = 0, stale = 0;"
    ))
}

/// Keeps the sightings that are not told to their end, and removes the others. Their people may be
/// others after the restore.
pub(super) fn remove_past(here: &Connection) -> rusqlite::Result<()> {
    here.execute_batch(
        "DELETE FROM sightings WHERE ended_ms IS NOT NULL
            AND id NOT IN (SELECT sighting_id FROM sighting_outbox);",
    )
}

/// Has open sightings judged again, by people who came with a backup.
pub(super) fn judge_all_again(here: &Connection) -> rusqlite::Result<()> {
    let sql = "UPDATE sightings SET stale = stale + 1 WHERE ended_ms IS NULL";
    here.execute(sql, []).map(drop)
}

/// Notes that the results there are, those of a backup, make no sightings.
pub(super) fn skip_results(here: &Connection) -> rusqlite::Result<()> {
    let newest: i64 = here.query_row("SELECT coalesce(max(id), 0) FROM results", [], |row| {
        row.get(0)
    })?;
    store_fact(here, SIGHTINGS_UPTO, &newest.to_string())
}

fn people_of(message: &SightingMessage) -> Vec<PersonId> {
    let states = message.before.iter().chain([&message.after]);
    let mut people: Vec<PersonId> = states
        .filter_map(|state| state.person.as_ref())
        .map(|person| person.person_id)
        .collect();
    people.sort_unstable();
    people.dedup();
    people
}

fn delivered(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM sighting_outbox WHERE id = ?1")?
        .execute([id])
        .map(drop)
}

const SIGHTING: &str = "SELECT id, uid, source, began_ms, last_ms, began_came_ms, last_came_ms, until_came_ms, ended_ms, bounds,
    outcome, person_id, stranger_id, distance, margin, looks, space, total, weight, image_id, number, merit, told, named,
    stale FROM sightings";

fn sighting(row: &Row<'_>) -> rusqlite::Result<Sighting> {
    let json = |column| text_if_any(row, column).map(Option::unwrap_or_default);
    let (image, number): (Option<ImageId>, Option<u32>) = (row.get(19)?, row.get(20)?);
    Ok(Sighting {
        id: row.get(0)?,
        uid: text(row, 1)?,
        source: text(row, 2)?,
        began_ms: row.get(3)?,
        last_ms: row.get(4)?,
        began_came_ms: row.get(5)?,
        last_came_ms: row.get(6)?,
        until_came_ms: row.get(7)?,
        ended_ms: row.get(8)?,
        bounds: serde_json::from_str(&json(9)?).unwrap_or_default(),
        outcome: text(row, 10)?.parse().unwrap_or(Outcome::Unknown),
        person: row.get(11)?,
        stranger: row.get(12)?,
        distance: row.get(13)?,
        margin: row.get(14)?,
        looks: row.get(15)?,
        space: text(row, 16)?,
        total: blob_to_vector(&row.get::<_, Vec<u8>>(17)?),
        weight: row.get(18)?,
        face: image
            .zip(number)
            .map(|(image_id, number)| FaceAddress { image_id, number }),
        merit: row.get(21)?,
        told: serde_json::from_str(&json(22)?).ok(),
        named: serde_json::from_str(&json(23)?).unwrap_or_default(),
        stale: row.get(24)?,
    })
}

const FACE: &str = "SELECT faces.image_id, faces.number, bounds, quality, outcome, person_id, space, embedding, length(crop) > 0
    FROM faces";

fn seen_face(row: &Row<'_>) -> rusqlite::Result<SeenFace> {
    Ok(SeenFace {
        address: FaceAddress {
            image_id: row.get(0)?,
            number: row.get(1)?,
        },
        bounds: serde_json::from_str(&text(row, 2)?).unwrap_or_default(),
        quality: row.get(3)?,
        outcome: text(row, 4)?.parse().unwrap_or(Outcome::Unknown),
        person: row.get(5)?,
        space: text(row, 6)?,
        embedding: blob_to_vector(&row.get::<_, Vec<u8>>(7)?),
        crop: row.get(8)?,
    })
}

fn seen_image(
    connection: &Connection,
    result: i64,
    image: ImageId,
) -> rusqlite::Result<Option<SeenImage>> {
    let faces = connection
        .prepare_cached(&format!(
            "{FACE} WHERE image_id = ?1 AND NOT EXISTS (SELECT 1 FROM sighting_faces m
                WHERE m.image_id = faces.image_id AND m.number = faces.number) ORDER BY number"
        ))?
        .query_map([image], seen_face)?
        .collect::<Result<Vec<_>, _>>()?;
    if faces.is_empty() {
        return Ok(None);
    }
    connection
        .prepare_cached(
            "SELECT coalesce(camera, source), came_ms, accepted_at_ms FROM images
              WHERE id = ?1 AND state = 'processed'",
        )?
        .query_row([image], |row| {
            Ok(SeenImage {
                result,
                source: text(row, 0)?,
                came_ms: row.get(1)?,
                accepted_at_ms: row.get(2)?,
                faces,
            })
        })
        .optional()
}

fn with_faces(connection: &Connection, sighting: Sighting) -> rusqlite::Result<StaleSighting> {
    let faces = connection
        .prepare_cached(&format!(
            "{FACE} JOIN sighting_faces m ON m.image_id = faces.image_id AND m.number = faces.number
              WHERE m.sighting_id = ?1 ORDER BY m.image_id DESC, m.number LIMIT ?2"
        ))?
        .query_map([sighting.id, MOST_FACES], seen_face)?
        .collect::<Result<Vec<_>, _>>()?;
    let count = connection
        .prepare_cached("SELECT count(*) FROM sighting_faces WHERE sighting_id = ?1")?
        .query_row([sighting.id], |row| row.get(0))?;
    let newest = faces.first().map(|face| face.address.image_id);
    let beside = connection
        .prepare_cached(
            "SELECT s.person_id FROM sighting_faces m JOIN sightings s ON s.id = m.sighting_id
              WHERE m.image_id = ?1 AND s.id <> ?2 AND s.outcome = 'known' AND s.person_id IS NOT NULL",
        )?
        .query_map(params![newest, sighting.id], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(StaleSighting {
        sighting,
        faces,
        count,
        beside,
    })
}

/// Returns whether a row is still as the task read it.
fn is_unchanged(connection: &Connection, known: &Sighting) -> rusqlite::Result<bool> {
    if known.id == 0 {
        return Ok(true);
    }
    connection
        .prepare_cached("SELECT 1 FROM sightings WHERE id = ?1 AND stale = ?2")?
        .exists([known.id, known.stale])
}

fn store_change(
    connection: &Connection,
    change: SightingChange,
    telling: &Telling,
) -> rusqlite::Result<StoredChange> {
    let SightingChange {
        sighting: mut seen,
        faces,
        at_ms,
    } = change;
    let had_ended = connection
        .prepare_cached("SELECT 1 FROM sightings WHERE id = ?1 AND ended_ms IS NOT NULL")?
        .exists([seen.id])?;
    let after = state(connection, &mut seen)?;
    let step = match &seen.told {
        _ if had_ended => None,
        None => Some(SightingStep::Begin),
        Some(_) if seen.ended_ms.is_some() => Some(SightingStep::End),
        Some(told) => after.is_news_after(told).then_some(SightingStep::Update),
    };
    let before = seen.told.clone();
    if step.is_some() || had_ended {
        seen.told = Some(after.clone());
    }
    let person = after
        .person
        .as_ref()
        .filter(|_| after.outcome == Outcome::Known);
    let mut event = None;
    if let Some(person) = person
        && matches!(step, Some(SightingStep::Begin | SightingStep::Update))
        && !seen.named.contains(&person.person_id)
    {
        seen.named.push(person.person_id);
        event = Some(person.clone());
    }
    if seen.ended_ms.is_some() {
        // Nothing joins it any more but late looks, for which its faces are read again.
        (seen.total, seen.weight, seen.named) = (Vec::new(), 0.0, Vec::new());
    }
    store_row(connection, &mut seen, step.is_some())?;
    seen.stale = 0;
    for face in &faces {
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO sighting_faces (image_id, number, sighting_id) VALUES (?1, ?2, ?3)",
            )?
            .execute(params![face.image_id, face.number, seen.id])?;
    }
    if let Some(step) = step.filter(|_| telling.publish) {
        let message = SightingMessage {
            step,
            sighting_id: seen.uid.clone(),
            device: telling.device.clone(),
            source: seen.source.clone(),
            began_ms: seen.began_ms,
            last_ms: seen.last_ms,
            ended_ms: seen.ended_ms,
            before,
            after,
        };
        let cause = faces.first().or(seen.face.as_ref());
        let event = match event {
            Some(person) => {
                let event = person_event(connection, &message, &person, cause)?;
                Some((person.person_id, event))
            }
            None => None,
        };
        queue_message(connection, &seen, &message, at_ms, event)?;
    }
    Ok(StoredChange {
        sighting: seen,
        step,
    })
}

/// Returns the state of a sighting as messages tell it. A person who is gone is no longer named.
fn state(connection: &Connection, seen: &mut Sighting) -> rusqlite::Result<SightingState> {
    let mut person = None;
    if let Some(person_id) = seen.person {
        let name = connection
            .prepare_cached("SELECT name FROM person WHERE id = ?1")?
            .query_row([person_id], |row| text(row, 0))
            .optional()?;
        person = name.map(|name| NamedCandidate {
            person_id,
            name,
            distance: seen.distance,
        });
        if person.is_none() {
            (seen.person, seen.outcome) = (None, Outcome::Unknown);
            (seen.distance, seen.margin) = (None, None);
            (seen.face, seen.merit) = (None, 0.0);
            (seen.total, seen.weight) = (Vec::new(), 0.0);
        }
    }
    if seen.outcome == Outcome::Known {
        seen.stranger = None;
    }
    let stranger = match seen.stranger {
        Some(number) => Some(seen_stranger(connection, number, seen.id)?),
        None => None,
    };
    Ok(SightingState {
        outcome: seen.outcome,
        person,
        stranger,
        distance: seen.distance,
        margin: seen.margin,
        looks: seen.looks,
        quality: seen.face.as_ref().map(|_| seen.merit),
        face: seen.face.clone(),
    })
}

/// Inserts or updates the row; `told`: with the next number of a told change.
fn store_row(connection: &Connection, seen: &mut Sighting, told: bool) -> rusqlite::Result<()> {
    let total = match seen.total.is_empty() {
        true => Vec::new(),
        false => vector_to_blob(&seen.total),
    };
    // Not below the number that notifications have followed: the sighting with it may be gone.
    const CHANGED: &str = "(SELECT 1 + max(
        coalesce((SELECT max(changed) FROM sightings), 0),
        coalesce((SELECT CAST(value AS INTEGER) FROM facts WHERE key = 'notified_upto'), 0)))";
    let told_text = seen.told.as_ref().map(|told| json!(told).to_string());
    let values = named_params! {
        ":uid": seen.uid,
        ":source": seen.source,
        ":began": seen.began_ms,
        ":last": seen.last_ms,
        ":began_came": seen.began_came_ms,
        ":last_came": seen.last_came_ms,
        ":until_came": seen.until_came_ms,
        ":ended": seen.ended_ms,
        ":bounds": json!(seen.bounds).to_string(),
        ":outcome": seen.outcome.as_str(),
        ":person": seen.person,
        ":stranger": seen.stranger,
        ":distance": seen.distance,
        ":margin": seen.margin,
        ":looks": seen.looks,
        ":space": seen.space,
        ":total": total,
        ":weight": seen.weight,
        ":image": seen.face.as_ref().map(|face| face.image_id),
        ":number": seen.face.as_ref().map(|face| face.number),
        ":merit": seen.merit,
        ":told": told_text,
        ":named": json!(seen.named).to_string(),
        ":id": (seen.id != 0).then_some(seen.id),
    };
    if seen.id == 0 {
        connection
            .prepare_cached(&format!(
                "INSERT INTO sightings (id, uid, source, began_ms, last_ms, began_came_ms, last_came_ms, until_came_ms,
                        ended_ms, bounds, outcome, person_id, stranger_id, distance, margin, looks, space, total, weight,
                        image_id, number, merit, told, named, changed)
                 VALUES (:id, :uid, :source, :began, :last, :began_came, :last_came, :until_came, :ended, :bounds,
                        :outcome, :person, :stranger, :distance, :margin, :looks, :space, :total, :weight, :image,
                        :number, :merit, :told, :named, {CHANGED})"
            ))?
            .execute(values)?;
        seen.id = connection.last_insert_rowid();
        return Ok(());
    }
    let changed = if told { CHANGED } else { "changed" };
    connection
        .prepare_cached(&format!(
            "UPDATE sightings SET uid = :uid, source = :source, began_ms = :began, last_ms = :last,
                    began_came_ms = :began_came, last_came_ms = :last_came, until_came_ms = :until_came,
                    ended_ms = :ended, bounds = :bounds, outcome = :outcome, person_id = :person,
                    stranger_id = :stranger, distance = :distance, margin = :margin, looks = :looks, space = :space,
                    total = :total, weight = :weight, image_id = :image, number = :number, merit = :merit,
                    told = :told, named = :named, changed = {changed}, stale = 0
              WHERE id = :id"
        ))?
        .execute(values)
        .map(drop)
}

fn queue_message(
    connection: &Connection,
    seen: &Sighting,
    message: &SightingMessage,
    at_ms: i64,
    event: Option<(PersonId, String)>,
) -> rusqlite::Result<()> {
    let (person, event) = event.unzip();
    connection
        .prepare_cached(
            "INSERT INTO sighting_outbox (sighting_id, at_ms, people, payload, person_id, event)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            seen.id,
            at_ms,
            json!(people_of(message)).to_string(),
            json!(message).to_string(),
            person,
            event
        ])?;
    connection
        .prepare_cached("DELETE FROM sighting_outbox WHERE id <= ?1")?
        .execute([connection.last_insert_rowid() - MOST_MESSAGES])
        .map(drop)
}

/// Returns the event that a person is known for the first time in a sighting, with the image whose
/// face shows it.
fn person_event(
    connection: &Connection,
    message: &SightingMessage,
    person: &NamedCandidate,
    face: Option<&FaceAddress>,
) -> rusqlite::Result<String> {
    let after = &message.after;
    let mut event = json!({
        "event_id": format!("{}-{}", message.sighting_id, person.person_id),
        "sighting_id": message.sighting_id,
        "result_id": null,
        "supersedes": null,
        "image_id": null,
        "device": message.device,
        "person": { "id": person.person_id, "name": person.name },
        "distance": after.distance,
        "margin": after.margin,
        "quality": after.quality,
        "box": null,
        "source": "camera",
        "path": null,
        "camera": message.source,
        "event": null,
        "picture_key": null,
        "finished_at_ms": null,
    });
    let Some(face) = face else {
        return Ok(event.to_string());
    };
    let of_image = connection
        .prepare_cached(
            "SELECT source, path, camera, event, picture_key, finished_at_ms, quality, bounds,
                    (SELECT result_id FROM results WHERE image_id = images.id ORDER BY id DESC LIMIT 1),
                    (SELECT supersedes FROM results WHERE image_id = images.id ORDER BY id DESC LIMIT 1)
               FROM images JOIN faces ON faces.image_id = images.id WHERE images.id = ?1 AND number = ?2",
        )?
        .query_row(params![face.image_id, face.number], |row| {
            let bounds: [f32; 4] = serde_json::from_str(&text(row, 7)?).unwrap_or_default();
            Ok([
                ("image_id", json!(face.image_id)),
                ("source", json!(text(row, 0)?)),
                ("path", json!(text(row, 1)?)),
                ("camera", json!(text_if_any(row, 2)?)),
                ("event", json!(text_if_any(row, 3)?)),
                ("picture_key", json!(text_if_any(row, 4)?)),
                ("finished_at_ms", json!(row.get::<_, Option<i64>>(5)?)),
                ("quality", json!(row.get::<_, f32>(6)?)),
                ("box", json!(bounds)),
                ("result_id", json!(text_if_any(row, 8)?)),
                ("supersedes", json!(text_if_any(row, 9)?)),
            ])
        })
        .optional()?;
    for (key, value) in of_image.into_iter().flatten() {
        event[key] = value;
    }
    Ok(event.to_string())
}
