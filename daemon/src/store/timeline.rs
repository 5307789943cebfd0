//! SQL that reads sightings: the timeline by a filter, presence, how often a stranger came.
//! `sightings` writes them.

use rusqlite::{Connection, OptionalExtension, params};

use crate::domain::{SeenStranger, SightingId, StrangerId};

/// Milliseconds of the week that [`SeenStranger::this_week`] counts.
const WEEK_MS: i64 = 7 * 24 * 60 * 60 * 1000;

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
    use super::super::fixtures::{run, store};
    use super::*;

    /// SQL of a sighting that has ended: number, source, begin, outcome, person, stranger.
    fn sighting(
        id: SightingId,
        source: &str,
        began_ms: i64,
        outcome: &str,
        person: Option<i64>,
        stranger: Option<StrangerId>,
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
}
