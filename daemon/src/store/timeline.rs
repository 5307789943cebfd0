//! SQL that reads sightings: the timeline by a filter, presence, how often a stranger came.
//! `sightings` writes them.
//!
//! One index supplies the sightings to examine, and the rest of the filter is applied to each. A
//! page examines a limited number of rows; its cursor says where the next one goes on.

use std::collections::BTreeMap;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Store, StoreError, readable, text, text_if_any};
use crate::domain::{
    FaceAddress, ImageId, NamedCandidate, Outcome, PersonId, SeenStranger, SightingId,
    SightingState, StrangerId,
};

/// Milliseconds of the week that [`SeenStranger::this_week`] counts.
const WEEK_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// Rows examined for one page.
const LOOKED_AT: i64 = 8_000;
const DAY_MS: i64 = 24 * 60 * 60 * 1000;
/// Most open sightings that are read.
const OPEN: i64 = 500;
/// Most people of [`Latest`].
const PEOPLE: i64 = 500;
/// Most sources of [`Latest`]: senders name the cameras.
const SOURCES: i64 = 200;

/// Filter on sightings; the default matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SightingFilter {
    /// Person that it is, or may be.
    pub person: Option<PersonId>,
    /// Name of the camera, or the way the images came in.
    pub source: Option<String>,
    /// Outcome by all looks.
    pub outcome: Option<Outcome>,
    /// Stranger that it is.
    pub stranger: Option<StrangerId>,
    /// Began at or after this moment of the board's clock, milliseconds since 1970.
    pub since_ms: Option<i64>,
    /// Began before this moment.
    pub until_ms: Option<i64>,
    /// True for those that go on, false for those that have ended.
    pub open: Option<bool>,
}

/// A sighting as it is stored now.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SightingRow {
    /// Its place in the timeline.
    #[serde(skip)]
    pub id: SightingId,
    /// Id of the sighting wherever it is sent.
    #[serde(rename = "sighting_id")]
    pub uid: String,
    /// Name of the camera, or the way the images came in.
    pub source: String,
    /// First look, wall clock.
    pub began_ms: i64,
    /// Last look, wall clock.
    pub last_ms: i64,
    /// End, wall clock; null while it goes on.
    pub ended_ms: Option<i64>,
    /// Outcome by all its looks.
    #[serde(flatten)]
    pub state: SightingState,
    /// Its best face can be shown.
    pub crop: bool,
}

/// A face of a sighting.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SightingFace {
    /// The image that contains it.
    pub image_id: ImageId,
    /// Number of the face in its image.
    pub number: u32,
    /// Outcome of this face alone.
    pub outcome: String,
    /// Quality, 0 to 1.
    pub quality: f64,
    /// Acceptance of the image, wall clock.
    pub accepted_at_ms: i64,
    /// It can be shown.
    pub crop: bool,
}

/// A page of sightings.
#[derive(Debug)]
pub struct FoundSightings {
    /// Newest first.
    pub sightings: Vec<SightingRow>,
    /// Cursor of the next page, which has sightings below this; `None` on the last page.
    pub next: Option<SightingId>,
    /// The page is short because the row limit was reached; older sightings are unexamined.
    pub unfinished: bool,
}

/// A sighting as presence counts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Id of the sighting wherever it is sent.
    pub uid: String,
    /// Name of the camera, or the way the images came in.
    pub source: String,
    /// Outcome by all looks.
    pub outcome: Outcome,
    /// The person it is or may be.
    pub person: Option<SeenPerson>,
    /// First look, wall clock.
    pub began_ms: i64,
    /// Last look, wall clock.
    pub last_ms: i64,
    /// Last look, queue clock.
    pub last_came_ms: i64,
}

/// A person of a sighting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenPerson {
    /// Number of the person.
    pub id: PersonId,
    /// Name.
    pub name: String,
    /// Last level of the person's topic.
    pub topic: Option<String>,
}

/// The sightings that presence is made of. Their number does not grow with the timeline.
#[derive(Debug, Default)]
pub struct Latest {
    /// Open ones, newest first.
    pub open: Vec<Seen>,
    /// The newest of each known person, newest first.
    pub people: Vec<Seen>,
    /// The newest of each source, by the source's name.
    pub sources: Vec<Seen>,
}

const SIGHTING: &str = "
    SELECT s.id, s.uid, s.source, s.began_ms, s.last_ms, s.ended_ms, s.outcome, s.person_id, p.name, s.stranger_id,
           s.distance, s.margin, s.looks, f.image_id, f.number, f.quality, length(f.crop) > 0";
const WITH: &str = "
    LEFT JOIN person p ON p.id = s.person_id
    LEFT JOIN faces f ON f.image_id = s.image_id AND f.number = s.number";
const SEEN: &str = "
    SELECT s.uid, s.source, s.outcome, p.id, p.name, p.topic, s.began_ms, s.last_ms, s.last_came_ms";

const LAST_SEEN: &str = "
    FROM last_seen l CROSS JOIN sightings s ON s.id = l.sighting_id CROSS JOIN person p ON p.id = l.person_id
   ORDER BY l.sighting_id DESC";

impl Store {
    /// Returns sightings below the cursor that match the filter, newest first.
    pub async fn find_sightings(
        &self,
        filter: SightingFilter,
        cursor: Option<SightingId>,
        limit: usize,
    ) -> Result<FoundSightings, StoreError> {
        self.read_dear(move |connection| find(connection, &filter, cursor, limit))
            .await
    }

    /// Returns the open sightings that match the filter, newest first.
    pub async fn ongoing_sightings(
        &self,
        filter: SightingFilter,
    ) -> Result<Vec<SightingRow>, StoreError> {
        self.read(move |connection| {
            let (condition, values) = conditions(&filter);
            let mut statement = connection.prepare_cached(&format!(
                "{SIGHTING} FROM sightings s INDEXED BY sightings_open {WITH}
                  WHERE s.ended_ms IS NULL AND {condition} ORDER BY s.id DESC LIMIT {OPEN}"
            ))?;
            let rows = statement.query_map(params_from_iter(&values), sighting)?;
            let mut open = readable(rows)?;
            add_strangers(connection, &mut open)?;
            Ok(open)
        })
        .await
    }

    /// Returns a sighting with the newest `limit` of its faces.
    pub async fn sighting(
        &self,
        uid: &str,
        limit: usize,
    ) -> Result<Option<(SightingRow, Vec<SightingFace>)>, StoreError> {
        let uid = uid.to_string();
        self.read(move |connection| {
            let found = connection
                .prepare_cached(&format!("{SIGHTING} FROM sightings s {WITH} WHERE s.uid = ?1"))?
                .query_row([uid], sighting)
                .optional()?;
            let Some(mut row) = found else {
                return Ok(None);
            };
            add_strangers(connection, std::slice::from_mut(&mut row))?;
            let mut faces = connection.prepare_cached(
                "SELECT m.image_id, m.number, f.outcome, f.quality, i.accepted_at_ms, length(f.crop) > 0
                   FROM sighting_faces m JOIN faces f ON f.image_id = m.image_id AND f.number = m.number
                   JOIN images i ON i.id = m.image_id
                  WHERE m.sighting_id = ?1 ORDER BY m.image_id DESC, m.number LIMIT ?2",
            )?;
            let faces = readable(faces.query_map(params![row.id, limit as i64], face)?)?;
            Ok(Some((row, faces)))
        })
        .await
    }

    /// Returns the sightings that presence is made of.
    pub async fn latest_sightings(&self) -> Result<Latest, StoreError> {
        self.read(latest).await
    }

    /// Returns the number of the last told change of any sighting.
    pub async fn sightings_changed(&self) -> Result<i64, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT coalesce(max(changed), 0) FROM sightings")?
                .query_row([], |row| row.get(0))
        })
        .await
    }

    /// Returns the sources of sightings, by name.
    pub async fn sighting_sources(&self) -> Result<Vec<String>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(&format!(
                "{NAMED_SOURCES} SELECT source FROM named WHERE source IS NOT NULL"
            ))?;
            statement.query_map([], |row| text(row, 0))?.collect()
        })
        .await
    }
}

/// The names of sources, each found behind the one before: a scan would read the whole index.
const NAMED_SOURCES: &str = "
    WITH RECURSIVE named(source) AS (
      SELECT min(source) FROM sightings
      UNION ALL SELECT (SELECT min(source) FROM sightings WHERE source > named.source) FROM named
       WHERE named.source IS NOT NULL LIMIT 200)";

fn latest(connection: &Connection) -> rusqlite::Result<Latest> {
    let seen = |from: String| {
        let mut statement = connection.prepare_cached(&format!("{SEEN} {from}"))?;
        let rows = readable(statement.query_map([], seen)?)?;
        Ok::<_, rusqlite::Error>(rows)
    };
    Ok(Latest {
        open: seen(format!(
            "FROM sightings s INDEXED BY sightings_open LEFT JOIN person p ON p.id = s.person_id
              WHERE s.ended_ms IS NULL ORDER BY s.id DESC LIMIT {OPEN}"
        ))?,
        people: seen(format!("{LAST_SEEN} LIMIT {PEOPLE}"))?,
        sources: seen(format!(
            "FROM ({NAMED_SOURCES} SELECT source FROM named) n
               JOIN sightings s ON s.id = (SELECT max(id) FROM sightings WHERE source = n.source)
               LEFT JOIN person p ON p.id = s.person_id ORDER BY s.source LIMIT {SOURCES}"
        ))?,
    })
}

fn find(
    connection: &Connection,
    filter: &SightingFilter,
    cursor: Option<SightingId>,
    limit: usize,
) -> rusqlite::Result<FoundSightings> {
    let mut found = FoundSightings {
        sightings: Vec::new(),
        next: None,
        unfinished: false,
    };
    let below = cursor.map_or(i64::MAX, |cursor| cursor - 1);
    let Some((low, high)) = of_days(connection, filter)? else {
        return Ok(found);
    };
    let (source, value) = looked_at(filter);
    let bounds = [Value::from(low), Value::from(high.min(below))];
    let examined: Vec<Value> = value.into_iter().chain(bounds).collect();
    let (condition, values) = conditions(filter);
    // An extra row tells whether another page follows.
    let mut statement = connection.prepare_cached(&format!(
        "{SIGHTING} FROM ({source}) found CROSS JOIN sightings s ON s.id = found.id {WITH}
          WHERE {condition} LIMIT {}",
        limit + 1
    ))?;
    let rows = statement.query_map(params_from_iter(examined.iter().chain(&values)), sighting)?;
    found.sightings = readable(rows)?;
    if found.sightings.len() > limit {
        found.sightings.truncate(limit);
        found.next = found.sightings.last().map(|last| last.id);
    } else {
        let (count, last): (i64, Option<SightingId>) = connection
            .prepare_cached(&format!("SELECT count(*), min(id) FROM ({source})"))?
            .query_row(params_from_iter(&examined), |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        found.unfinished = count == LOOKED_AT;
        found.next = last.filter(|_| found.unfinished);
    }
    add_strangers(connection, &mut found.sightings)?;
    Ok(found)
}

/// Returns the query for the ids to examine, newest first, and its first value, if it has one; the
/// lowest and the highest id follow.
fn looked_at(filter: &SightingFilter) -> (String, Option<Value>) {
    let (by, value) = if let Some(stranger) = filter.stranger {
        (
            " INDEXED BY sightings_stranger WHERE stranger_id = ? AND",
            Some(stranger.into()),
        )
    } else if let Some(person) = filter.person {
        (
            " INDEXED BY sightings_person WHERE person_id = ? AND",
            Some(person.into()),
        )
    } else if let Some(source) = &filter.source {
        (
            " INDEXED BY sightings_source WHERE source = ? AND",
            Some(source.clone().into()),
        )
    } else if let Some(outcome) = filter.outcome {
        let outcome = outcome.as_str().to_string();
        (
            " INDEXED BY sightings_outcome WHERE outcome = ? AND",
            Some(outcome.into()),
        )
    } else {
        (" WHERE", None)
    };
    let query = format!(
        "SELECT id FROM sightings{by} id BETWEEN ? AND ? ORDER BY id DESC LIMIT {LOOKED_AT}"
    );
    (query, value)
}

/// Returns the whole filter as a condition with its values.
fn conditions(filter: &SightingFilter) -> (String, Vec<Value>) {
    let SightingFilter {
        person,
        source,
        outcome,
        stranger,
        since_ms,
        until_ms,
        open,
    } = filter;
    let outcome = outcome.map(|outcome| outcome.as_str().to_string());
    let fields: [(&str, Option<Value>); 6] = [
        ("s.person_id = ?", person.map(Value::from)),
        ("s.source = ?", source.clone().map(Value::from)),
        ("s.outcome = ?", outcome.map(Value::from)),
        ("s.stranger_id = ?", stranger.map(Value::from)),
        ("s.began_ms >= ?", since_ms.map(Value::from)),
        ("s.began_ms < ?", until_ms.map(Value::from)),
    ];
    let mut conditions = vec![match open {
        None => "1",
        Some(true) => "s.ended_ms IS NULL",
        Some(false) => "s.ended_ms IS NOT NULL",
    }];
    let mut values = Vec::new();
    for (condition, value) in fields {
        if let Some(value) = value {
            conditions.push(condition);
            values.push(value);
        }
    }
    (conditions.join(" AND "), values)
}

/// Returns the lowest and the highest id of the days that the filter's times touch; `None` if there
/// is no sighting on them. Time mostly grows with ids, but the board's clock may be set back.
fn of_days(
    connection: &Connection,
    filter: &SightingFilter,
) -> rusqlite::Result<Option<(SightingId, SightingId)>> {
    if filter.since_ms.is_none() && filter.until_ms.is_none() {
        return Ok(Some((i64::MIN, i64::MAX)));
    }
    let day = |ms: Option<i64>, none: i64| ms.map_or(none, |ms| ms / DAY_MS);
    let (first, last) = (
        day(filter.since_ms, i64::MIN),
        day(filter.until_ms, i64::MAX),
    );
    // Each day is found behind the one before.
    let (low, high): (Option<SightingId>, Option<SightingId>) = connection
        .prepare_cached(
            "WITH RECURSIVE days(day) AS (
               SELECT (SELECT began_ms / 86400000 FROM sightings INDEXED BY sightings_day
                        WHERE began_ms / 86400000 >= ?1 ORDER BY began_ms / 86400000 LIMIT 1)
               UNION ALL SELECT (SELECT began_ms / 86400000 FROM sightings INDEXED BY sightings_day
                                  WHERE began_ms / 86400000 > day ORDER BY began_ms / 86400000 LIMIT 1)
                 FROM days WHERE day < ?2)
             SELECT min((SELECT id FROM sightings INDEXED BY sightings_day
                          WHERE began_ms / 86400000 = day ORDER BY id LIMIT 1)),
                    max((SELECT id FROM sightings INDEXED BY sightings_day
                          WHERE began_ms / 86400000 = day ORDER BY id DESC LIMIT 1))
               FROM days WHERE day <= ?2",
        )?
        .query_row([first, last], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(low.zip(high))
}

/// Adds how often the strangers of a page came: each one's sightings are read once.
fn add_strangers(connection: &Connection, rows: &mut [SightingRow]) -> rusqlite::Result<()> {
    let mut came: BTreeMap<StrangerId, Vec<(SightingId, i64)>> = BTreeMap::new();
    let mut statement = connection.prepare_cached(
        "SELECT id, began_ms FROM sightings INDEXED BY sightings_stranger WHERE stranger_id = ?1 ORDER BY id",
    )?;
    for row in rows {
        let Some(stranger) = row.state.stranger.as_mut() else {
            continue;
        };
        let sightings = match came.entry(stranger.number) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(
                statement
                    .query_map([stranger.number], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect::<rusqlite::Result<_>>()?,
            ),
        };
        let earlier = &sightings[..sightings.partition_point(|(id, _)| *id < row.id)];
        let in_week = earlier
            .iter()
            .filter(|(_, began_ms)| *began_ms > row.began_ms - WEEK_MS);
        stranger.sightings = u32::try_from(earlier.len()).unwrap_or(u32::MAX - 1) + 1;
        stranger.this_week = u32::try_from(in_week.count()).unwrap_or(u32::MAX - 1) + 1;
        stranger.before_ms = earlier.last().map(|(_, began_ms)| *began_ms);
    }
    Ok(())
}

/// Reads a row of [`SIGHTING`]; how often its stranger came is added by [`add_strangers`].
fn sighting(row: &Row<'_>) -> rusqlite::Result<SightingRow> {
    let (outcome, name) = (text(row, 6)?, text_if_any(row, 8)?);
    let (person_id, distance): (Option<PersonId>, Option<f32>) = (row.get(7)?, row.get(10)?);
    let face = row.get::<_, Option<ImageId>>(13)?.zip(row.get(14)?);
    let stranger: Option<StrangerId> = row.get(9)?;
    Ok(SightingRow {
        id: row.get(0)?,
        uid: text(row, 1)?,
        source: text(row, 2)?,
        began_ms: row.get(3)?,
        last_ms: row.get(4)?,
        ended_ms: row.get(5)?,
        state: SightingState {
            outcome: outcome.parse().unwrap_or(Outcome::Unknown),
            person: person_id.zip(name).map(|(person_id, name)| NamedCandidate {
                person_id,
                name,
                distance,
            }),
            stranger: stranger.map(|number| SeenStranger {
                number,
                sightings: 1,
                this_week: 1,
                before_ms: None,
            }),
            distance,
            margin: row.get(11)?,
            looks: row.get(12)?,
            quality: row.get(15)?,
            face: face.map(|(image_id, number)| FaceAddress { image_id, number }),
        },
        crop: row.get::<_, Option<bool>>(16)?.unwrap_or(false),
    })
}

fn face(row: &Row<'_>) -> rusqlite::Result<SightingFace> {
    Ok(SightingFace {
        image_id: row.get(0)?,
        number: row.get(1)?,
        outcome: text(row, 2)?,
        quality: row.get(3)?,
        accepted_at_ms: row.get(4)?,
        crop: row.get(5)?,
    })
}

/// Reads a row of [`SEEN`].
fn seen(row: &Row<'_>) -> rusqlite::Result<Seen> {
    let (id, name, topic) = (row.get(3)?, text_if_any(row, 4)?, text_if_any(row, 5)?);
    let person = Option::<PersonId>::zip(id, name);
    Ok(Seen {
        uid: text(row, 0)?,
        source: text(row, 1)?,
        outcome: text(row, 2)?.parse().unwrap_or(Outcome::Unknown),
        person: person.map(|(id, name)| SeenPerson { id, name, topic }),
        began_ms: row.get(6)?,
        last_ms: row.get(7)?,
        last_came_ms: row.get(8)?,
    })
}

/// Returns how often a stranger came up to the sighting `sighting` of theirs, including it, whether
/// or not its row names the stranger already. Later sightings do not count, so that the numbers of
/// a message repeat. The week ends with the sighting's begin.
pub fn seen_stranger(
    connection: &Connection,
    stranger: StrangerId,
    sighting: SightingId,
) -> rusqlite::Result<SeenStranger> {
    let began_ms: i64 = connection
        .prepare_cached("SELECT began_ms FROM sightings WHERE id = ?1")?
        .query_row([sighting], |row| row.get(0))?;
    let (earlier, this_week): (u32, u32) = connection
        .prepare_cached(
            "SELECT count(*), count(*) FILTER (WHERE began_ms > ?3) FROM sightings
              WHERE stranger_id = ?1 AND id < ?2",
        )?
        .query_row(params![stranger, sighting, began_ms - WEEK_MS], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let before_ms = connection
        .prepare_cached(
            "SELECT began_ms FROM sightings WHERE stranger_id = ?1 AND id < ?2 ORDER BY id DESC LIMIT 1",
        )?
        .query_row([stranger, sighting], |row| row.get(0))
        .optional()?;
    Ok(SeenStranger {
        number: stranger,
        sightings: earlier + 1,
        this_week: this_week + 1,
        before_ms,
    })
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::super::Commit;
    use super::super::fixtures::{enroll, image, rows, run, sighting, store};
    use super::*;

    #[tokio::test]
    async fn a_stranger_s_earlier_sightings_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        for (id, began_ms, stranger) in [
            (1, 1000, Some(12)),
            (2, WEEK_MS, Some(12)),
            (3, WEEK_MS + 500, Some(7)),
            (4, WEEK_MS + 2000, None),
            (5, WEEK_MS + 3000, Some(12)),
        ] {
            run(
                &store,
                &sighting(id, "front", began_ms, "unknown", None, stranger),
            )
            .await;
        }
        let seen = async |stranger, sighting| {
            store
                .read(move |connection| seen_stranger(connection, stranger, sighting))
                .await
                .unwrap()
        };
        let first = seen(12, 1).await;
        assert_eq!(
            (first.sightings, first.this_week, first.before_ms),
            (1, 1, None)
        );
        // Its row does not name the stranger yet; the later one does not count.
        let third = seen(12, 4).await;
        assert_eq!(
            (third.sightings, third.this_week, third.before_ms),
            (3, 2, Some(WEEK_MS))
        );
        assert_eq!(third.number, 12);
    }

    /// Makes a database with 6 sightings of the days 1 to 3: Ann, perhaps Ann, and strangers.
    async fn timeline(folder: &std::path::Path) -> Store {
        let store = store(folder).await;
        let ann = enroll(&store, "Ann", "a", [1.0, 0.0]).await;
        run(&store, &image(1, "known", Some(ann), &[ann], [1.0, 0.0])).await;
        for (id, source, began_ms, outcome, person, stranger) in [
            (1, "front", DAY_MS, "known", Some(ann), None),
            (2, "yard", DAY_MS + 5000, "unknown", None, Some(12)),
            (3, "front", 2 * DAY_MS, "unknown", None, Some(12)),
            // The board's clock was set back.
            (4, "front", DAY_MS + 7000, "uncertain", Some(ann), None),
            (5, "yard", 3 * DAY_MS, "unknown", None, None),
            (6, "yard", 3 * DAY_MS + 1, "known", Some(ann), None),
        ] {
            run(
                &store,
                &sighting(id, source, began_ms, outcome, person, stranger),
            )
            .await;
        }
        run(
            &store,
            "UPDATE sightings SET image_id = 1, number = 1 WHERE id = 1;
             INSERT INTO sighting_faces VALUES (1, 1, 1);
             UPDATE sightings SET ended_ms = NULL WHERE id >= 5;",
        )
        .await;
        store
    }

    #[tokio::test]
    async fn the_timeline_is_found_by_every_filter() {
        let folder = tempfile::tempdir().unwrap();
        let store = timeline(folder.path()).await;
        let ids = async |filter: SightingFilter| {
            let found = store.find_sightings(filter, None, 9).await.unwrap();
            assert!(found.next.is_none() && !found.unfinished);
            found.sightings.iter().map(|row| row.id).collect::<Vec<_>>()
        };
        let all = SightingFilter::default;
        assert_eq!(ids(all()).await, [6, 5, 4, 3, 2, 1]);
        assert_eq!(
            ids(SightingFilter {
                person: Some(1),
                ..all()
            })
            .await,
            [6, 4, 1]
        );
        let front = Some("front".to_string());
        assert_eq!(
            ids(SightingFilter {
                source: front.clone(),
                ..all()
            })
            .await,
            [4, 3, 1]
        );
        let unknown = Some(Outcome::Unknown);
        assert_eq!(
            ids(SightingFilter {
                outcome: unknown,
                ..all()
            })
            .await,
            [5, 3, 2]
        );
        assert_eq!(
            ids(SightingFilter {
                stranger: Some(12),
                ..all()
            })
            .await,
            [3, 2]
        );
        assert_eq!(
            ids(SightingFilter {
                open: Some(false),
                ..all()
            })
            .await,
            [4, 3, 2, 1]
        );
        let day = SightingFilter {
            since_ms: Some(DAY_MS),
            until_ms: Some(2 * DAY_MS),
            ..all()
        };
        assert_eq!(ids(day.clone()).await, [4, 2, 1]);
        let one = SightingFilter {
            person: Some(1),
            source: front,
            outcome: Some(Outcome::Known),
            ..day
        };
        assert_eq!(ids(one).await, [1]);
        let never = SightingFilter {
            since_ms: Some(9 * DAY_MS),
            ..all()
        };
        assert!(ids(never).await.is_empty());

        let first = store.find_sightings(all(), None, 4).await.unwrap();
        assert_eq!(first.next, Some(3));
        let rest = store.find_sightings(all(), first.next, 4).await.unwrap();
        assert_eq!((rest.sightings.len(), rest.next), (2, None));
        let state = &rest.sightings[1].state;
        assert_eq!(state.person.as_ref().unwrap().name, "Ann");
        assert_eq!(
            state.face,
            Some(FaceAddress {
                image_id: 1,
                number: 1
            })
        );
        let third = &first.sightings[3].state.stranger;
        let third = third.as_ref().unwrap();
        let seen = (third.sightings, third.this_week, third.before_ms);
        assert_eq!(seen, (2, 2, Some(DAY_MS + 5000)));
    }

    #[tokio::test]
    async fn presence_reads_open_and_last_sightings_only() {
        let folder = tempfile::tempdir().unwrap();
        let store = timeline(folder.path()).await;
        let latest = store.latest_sightings().await.unwrap();
        let uids = |seen: &[Seen]| seen.iter().map(|one| one.uid.clone()).collect::<Vec<_>>();
        assert_eq!(uids(&latest.open), ["u6", "u5"]);
        assert_eq!(uids(&latest.people), ["u6"]);
        assert_eq!(uids(&latest.sources), ["u4", "u6"]);
        assert_eq!(store.sighting_sources().await.unwrap(), ["front", "yard"]);
        assert_eq!(store.sightings_changed().await.unwrap(), 6);
        let ongoing = store.ongoing_sightings(SightingFilter::default()).await;
        assert_eq!(ongoing.unwrap().len(), 2);
        let (row, faces) = store.sighting("u1", 9).await.unwrap().unwrap();
        assert_eq!((row.id, row.crop, faces.len()), (1, true, 1));
        assert!(store.sighting("u9", 9).await.unwrap().is_none());
    }

    /// The steps that SQLite takes for the people of presence.
    #[tokio::test]
    async fn presence_costs_no_more_with_more_people() {
        let mut steps = Vec::new();
        for people in [1_000, 10_000] {
            let folder = tempfile::tempdir().unwrap();
            let store = store(folder.path()).await;
            let sql = format!(
                "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {people})
                   INSERT INTO person (name, created_at_ms) SELECT 'p' || n, 0 FROM n;
                 WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 2 * {people})
                   INSERT INTO sightings (uid, source, began_ms, last_ms, last_came_ms, ended_ms, outcome,
                          person_id, looks, space, total, weight, merit, changed)
                   SELECT 'u' || n, 'front', n, n, n, n, 'known', 1 + n % {people}, 1, 's', x'', 0, 0, n FROM n;"
            );
            run(&store, &sql).await;
            steps.push(
                store
                    .read(|connection| {
                        let mut statement =
                            connection.prepare(&format!("{SEEN} {LAST_SEEN} LIMIT {PEOPLE}"))?;
                        let seen = readable(statement.query_map([], seen)?)?;
                        assert_eq!(seen.len(), 500);
                        Ok(statement.get_status(StatementStatus::VmStep))
                    })
                    .await
                    .unwrap(),
            );
        }
        assert_eq!(steps[0], steps[1]);
    }

    /// The steps that SQLite takes when a person's newest sighting turns out to be another's.
    #[tokio::test]
    async fn a_changed_sighting_costs_no_more_with_a_long_history() {
        let mut steps = Vec::new();
        for history in [100, 10_000] {
            let folder = tempfile::tempdir().unwrap();
            let store = store(folder.path()).await;
            let sql = format!(
                "INSERT INTO person (id, name, created_at_ms) VALUES (1, 'Ann', 0), (2, 'Bob', 0);
                 WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {history})
                   INSERT INTO sightings (id, uid, source, began_ms, last_ms, last_came_ms, ended_ms, outcome,
                          person_id, looks, space, total, weight, merit, changed)
                   SELECT n, 'u' || n, 'front', n, n, n, n, 'known', 1, 1, 's', x'', 0, 0, n FROM n;"
            );
            run(&store, &sql).await;
            let counted = store.write(Commit::Durable, move |connection| {
                let changes = [
                    "UPDATE sightings SET person_id = 2 WHERE id = ?1",
                    "UPDATE sightings SET outcome = 'uncertain' WHERE id = ?1",
                    "DELETE FROM sightings WHERE id = ?1 - 1",
                ];
                let steps = changes.map(|change| {
                    let mut statement = connection.prepare(change).unwrap();
                    statement.execute([history]).unwrap();
                    statement.get_status(StatementStatus::VmStep)
                });
                Ok(steps)
            });
            steps.push(counted.await.unwrap());
        }
        assert_eq!(steps[0], steps[1]);
    }

    #[tokio::test]
    async fn the_last_sighting_follows_names_merges_and_deletions() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        for name in ["Ann", "Bob"] {
            run(
                &store,
                &format!("INSERT INTO person (name, created_at_ms) VALUES ('{name}', 0)"),
            )
            .await;
        }
        let seen = |id, outcome, person| sighting(id, "front", 0, outcome, person, None);
        for (change, expected) in [
            (seen(1, "known", Some(1)), vec!["1|1"]),
            (seen(2, "uncertain", Some(1)), vec!["1|1"]),
            (seen(3, "unknown", None), vec!["1|1"]),
            (seen(4, "known", Some(1)), vec!["1|4"]),
            (
                "UPDATE sightings SET outcome = 'known', person_id = 2 WHERE id = 3".into(),
                vec!["1|4", "2|3"],
            ),
            (
                "UPDATE sightings SET person_id = 2 WHERE id = 4".into(),
                vec!["1|1", "2|4"],
            ),
            (
                "UPDATE sightings SET outcome = 'uncertain' WHERE id = 4".into(),
                vec!["1|1", "2|3"],
            ),
            ("DELETE FROM sightings WHERE id = 3".into(), vec!["1|1"]),
            (
                "UPDATE sightings SET outcome = 'known' WHERE id = 4".into(),
                vec!["1|1", "2|4"],
            ),
            ("DELETE FROM person WHERE id = 2".into(), vec!["1|1"]),
            ("DELETE FROM sightings".into(), vec![]),
        ] {
            run(&store, &change).await;
            let last = rows(
                &store,
                "SELECT person_id || '|' || sighting_id FROM last_seen ORDER BY person_id",
            )
            .await;
            assert_eq!(last, expected, "{change}");
        }
    }

    /// No query reads all sightings: each searches an index, except the open ones, which are few.
    #[tokio::test]
    async fn every_query_of_the_timeline_uses_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let store = timeline(folder.path()).await;
        let all = SightingFilter::default;
        for filter in [
            all(),
            SightingFilter {
                person: Some(1),
                ..all()
            },
            SightingFilter {
                source: Some("front".into()),
                ..all()
            },
            SightingFilter {
                outcome: Some(Outcome::Known),
                ..all()
            },
            SightingFilter {
                stranger: Some(1),
                ..all()
            },
        ] {
            let (query, value) = looked_at(&filter);
            let query = match value {
                Some(_) => query.replacen('?', "1", 3),
                None => query.replacen('?', "1", 2),
            };
            let plan = store
                .read(move |connection| {
                    connection
                        .prepare(&format!("EXPLAIN QUERY PLAN {query}"))?
                        .query_map([], |row| row.get::<_, String>(3))?
                        .collect::<rusqlite::Result<Vec<_>>>()
                })
                .await
                .unwrap();
            assert_eq!(plan.len(), 1, "{plan:?}");
            assert!(plan[0].starts_with("SEARCH sightings USING"), "{plan:?}");
        }
    }
}
