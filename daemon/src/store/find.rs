//! SQL that finds images by a filter, newest first, a page at a time, in bounded time on any size
//! of database.
//!
//! One index supplies the images to examine, and the rest of the filter is applied to each. A page
//! examines a limited number of rows; the cursor says where the next one resumes.

use rusqlite::functions::FunctionFlags;
use rusqlite::types::Value;
use rusqlite::{Connection, ToSql};

use super::listing::{IMAGE_COLUMNS, add_faces, image_row};
use super::{ImageRow, Store, StoreError, readable};
use crate::domain::{ImageId, Outcome, PersonId, Source, State};
use crate::names;

/// Rows examined for one page when the index follows the table's order.
const LOOKED_AT: i64 = 8_000;
/// Rows examined for one page when each needs a lookup of its own.
const FETCHED: i64 = 4_000;
/// Largest disorder of acceptance times among concurrent requests, which take the time before they
/// queue for the writer. `clock_set_back` allows the same.
const DISORDER_MS: i64 = 10_000;

/// Filter on images; the default matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFilter {
    /// Current state.
    pub state: Option<State>,
    /// Recognition outcome.
    pub outcome: Option<Outcome>,
    /// Person that a face is, or may be.
    pub person: Option<PersonId>,
    /// Source it came from.
    pub source: Option<Source>,
    /// Name of the camera that took it.
    pub camera: Option<String>,
    /// Id of the event that it belongs to.
    pub event: Option<String>,
    /// Accepted at or after this moment of the board's clock, milliseconds since 1970.
    pub since_ms: Option<i64>,
    /// Accepted before this moment.
    pub until_ms: Option<i64>,
    /// Text within its path, compared like names: case is ignored, and so are accents that are not
    /// typed.
    pub path: Option<String>,
}

/// A page of images.
#[derive(Debug)]
pub struct Found {
    /// Newest first.
    pub images: Vec<ImageRow>,
    /// Cursor of the next page, which has images below this; `None` on the last page.
    pub next: Option<ImageId>,
    /// The page is short because the row limit was reached; older images are unexamined.
    pub unfinished: bool,
}

/// Query for the ids to examine for one page, and their maximum number.
struct LookedAt {
    sql: Sql,
    most: i64,
}

/// SQL text and the values of its question marks.
#[derive(Default)]
struct Sql {
    text: String,
    values: Vec<Value>,
}

impl Sql {
    fn and(&mut self, condition: &str, value: impl Into<Value>) {
        let word = if self.text.is_empty() { "" } else { " AND " };
        self.text.push_str(&format!("{word}{condition}"));
        self.values.push(value.into());
    }
}

impl Store {
    /// Returns images below the cursor that match the filter, newest first.
    pub async fn find_images(
        &self,
        filter: ImageFilter,
        cursor: Option<ImageId>,
        limit: usize,
    ) -> Result<Found, StoreError> {
        self.read_dear(move |connection| find(connection, &filter, cursor, limit))
            .await
    }
}

/// Registers the SQL function `name_holds(name, folded text)`.
pub(super) fn add_name_search(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_scalar_function("name_holds", 2, flags, |given| {
        let text = |at: usize| {
            given
                .get_raw(at)
                .as_str_or_null()
                .map(Option::unwrap_or_default)
        };
        Ok(names::holds(text(0)?, text(1)?))
    })
}

fn find(
    connection: &Connection,
    filter: &ImageFilter,
    cursor: Option<ImageId>,
    limit: usize,
) -> rusqlite::Result<Found> {
    let few = few(connection, filter.state)?;
    let mut found = Found {
        images: Vec::new(),
        next: None,
        unfinished: false,
    };
    let mut left = LOOKED_AT;
    for (low, high) in between(connection, filter, cursor)? {
        if left <= 0 {
            (found.next, found.unfinished) = (Some(high + 1), true);
            break;
        }
        let looked_at = looked_at(filter, few, low, high, left);
        let (images, more) = some(connection, filter, &looked_at, limit - found.images.len())?;
        found.images.extend(images);
        if more {
            found.next = found.images.last().map(|image| image.id);
            break;
        }
        let (count, last): (i64, Option<ImageId>) = connection
            .prepare_cached(&format!(
                "SELECT count(*), min(id) FROM ({})",
                looked_at.sql.text
            ))?
            .query_row(rusqlite::params_from_iter(&looked_at.sql.values), |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        if count == looked_at.most {
            (found.next, found.unfinished) = (last, last.is_some());
            break;
        }
        left -= count;
    }
    add_faces(connection, &mut found.images)?;
    Ok(found)
}

/// Returns up to `limit` matches among the examined images, and whether there are more.
fn some(
    connection: &Connection,
    filter: &ImageFilter,
    looked_at: &LookedAt,
    limit: usize,
) -> rusqlite::Result<(Vec<ImageRow>, bool)> {
    let asked = asked(filter);
    let condition = if asked.text.is_empty() {
        "1".into()
    } else {
        asked.text
    };
    // An extra row tells whether another page follows.
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {IMAGE_COLUMNS} FROM ({}) found CROSS JOIN images i ON i.id = found.id WHERE {condition} LIMIT ?",
        looked_at.sql.text
    ))?;
    let values = looked_at
        .sql
        .values
        .iter()
        .chain(&asked.values)
        .map(|value| value as &dyn ToSql);
    let wanted = limit as i64 + 1;
    let values: Vec<&dyn ToSql> = values.chain([&wanted as &dyn ToSql]).collect();
    let mut images = readable(statement.query_map(&values[..], image_row)?)?;
    let more = images.len() > limit;
    images.truncate(limit);
    Ok((images, more))
}

/// Returns the id ranges to search, both ends inclusive, newest first.
///
/// Time grows with ids, except where the board's clock was set back: each such place starts a
/// range, and a binary search finds the wanted moments in it. (An index on the time would cost one
/// more page write per picture.) Concurrent images may be slightly out of order, so ranges are
/// widened a little; `asked` is exact.
fn between(
    connection: &Connection,
    filter: &ImageFilter,
    cursor: Option<ImageId>,
) -> rusqlite::Result<Vec<(ImageId, ImageId)>> {
    let mut high = cursor.map_or(i64::MAX, |cursor| cursor - 1);
    if filter.since_ms.is_none() && filter.until_ms.is_none() {
        return Ok(vec![(1, high)]);
    }
    let mut begins: Vec<ImageId> = connection
        .prepare_cached("SELECT id FROM clock_set_back WHERE id <= ?1 ORDER BY id DESC")?
        .query_map([high], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    begins.push(1);
    let mut stretches = Vec::new();
    for begin in begins {
        let first = |moment: Option<i64>, by: i64, without: ImageId| {
            moment.map_or(Ok(without), |moment| {
                first_since(connection, begin, high, moment.saturating_add(by))
            })
        };
        let low = first(filter.since_ms, -DISORDER_MS, begin)?;
        let end = first(filter.until_ms, DISORDER_MS, high.saturating_add(1))? - 1;
        if low <= end {
            stretches.push((low, end));
        }
        high = begin - 1;
    }
    Ok(stretches)
}

/// Returns the first id in `low..=high` accepted at or after a moment, `high + 1` if there is none.
fn first_since(
    connection: &Connection,
    low: ImageId,
    high: ImageId,
    moment: i64,
) -> rusqlite::Result<ImageId> {
    let (first, last): (Option<ImageId>, Option<ImageId>) = connection
        .prepare_cached(
            "SELECT (SELECT min(id) FROM images WHERE id >= ?1), (SELECT max(id) FROM images WHERE id <= ?2)",
        )?
        .query_row([low, high], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (Some(mut low), Some(mut high)) = (first, last.map(|last| last + 1)) else {
        return Ok(low);
    };
    let mut from = connection.prepare_cached(
        "SELECT id, accepted_at_ms FROM images WHERE id >= ?1 ORDER BY id LIMIT 1",
    )?;
    while low < high {
        let middle = low + (high - low) / 2;
        let (id, accepted_ms): (ImageId, i64) =
            from.query_row([middle], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if accepted_ms >= moment {
            high = middle;
        } else {
            low = id + 1;
        }
    }
    Ok(low)
}

/// Returns whether few enough images are in this state to be sorted.
fn few(connection: &Connection, state: Option<State>) -> rusqlite::Result<bool> {
    let Some(state) = state else { return Ok(false) };
    let count: i64 = connection
        .prepare_cached("SELECT images FROM state_counts WHERE state = ?1")?
        .query_row([state.as_str()], |row| row.get(0))?;
    Ok(count <= FETCHED)
}

/// Picks the most selective index, and examines at most `left` rows of it.
fn looked_at(filter: &ImageFilter, few: bool, low: ImageId, high: ImageId, left: i64) -> LookedAt {
    let mut sql = Sql::default();
    let mut chosen =
        |from: &str, id: &str, order: &str, most: i64, first: Option<(&str, Value)>| {
            let most = most.min(left);
            if let Some((condition, value)) = first {
                sql.and(condition, value);
            }
            sql.and(&format!("{id} >= ?"), low);
            sql.and(&format!("{id} <= ?"), high);
            sql.text = format!(
                "SELECT {id} AS id FROM {from} WHERE {} {order} ORDER BY {id} DESC LIMIT {most}",
                sql.text
            );
            most
        };
    let text = |word: &str| Value::from(word.to_string());
    let most = if let Some(event) = &filter.event {
        let first = Some(("event = ?", text(event)));
        chosen("images INDEXED BY images_event", "id", "", FETCHED, first)
    } else if let Some(person) = filter.person {
        // An image may hold the same person twice.
        let from = "faces INDEXED BY faces_person";
        chosen(
            from,
            "image_id",
            "GROUP BY image_id",
            FETCHED,
            Some(("person_id = ?", person.into())),
        )
    } else if let Some(outcome @ (Outcome::Known | Outcome::Uncertain)) = filter.outcome {
        // Only the rare outcomes have an index. The condition is repeated so that SQLite recognises
        // the partial index.
        let named = format!("AND outcome = '{outcome}' AND outcome IN ('known', 'uncertain')");
        chosen(
            "images INDEXED BY images_outcome",
            "id",
            &named,
            FETCHED,
            None,
        )
    } else {
        match filter.state {
            Some(State::Failed) => chosen(
                "images INDEXED BY images_failed",
                "id",
                "AND state = 'failed'",
                FETCHED,
                None,
            ),
            // This index is ordered by due time, so it needs a sort. A large backlog is among the
            // newest images and found by id.
            Some(state @ (State::Pending | State::Processing)) if few => {
                let from = "images INDEXED BY images_state_due";
                chosen(
                    from,
                    "id",
                    "",
                    FETCHED,
                    Some(("state = ?", text(state.as_str()))),
                )
            }
            _ => chosen("images NOT INDEXED", "id", "", LOOKED_AT, None),
        }
    };
    LookedAt { sql, most }
}

/// Exact conditions for each image.
fn asked(filter: &ImageFilter) -> Sql {
    let mut sql = Sql::default();
    if let Some(state) = filter.state {
        sql.and("i.state = ?", state.as_str().to_string());
    }
    if let Some(outcome) = filter.outcome {
        sql.and("i.outcome = ?", outcome.as_str().to_string());
    }
    if let Some(source) = filter.source {
        sql.and("i.source = ?", source.as_str().to_string());
    }
    if let Some(camera) = &filter.camera {
        sql.and("i.camera = ?", camera.clone());
    }
    if let Some(event) = &filter.event {
        sql.and("i.event = ?", event.clone());
    }
    if let Some(since) = filter.since_ms {
        sql.and("i.accepted_at_ms >= ?", since);
    }
    if let Some(until) = filter.until_ms {
        sql.and("i.accepted_at_ms < ?", until);
    }
    if let Some(path) = &filter.path {
        sql.and("name_holds(i.path, ?)", names::fold(path));
    }
    sql
}

#[cfg(test)]
mod tests {
    use super::super::Limits;
    use super::super::writer::Commit;
    use super::*;
    use crate::domain::{NewImage, Origin};

    fn image(path: impl Into<String>) -> NewImage {
        NewImage::path(Source::Http, path)
    }

    #[tokio::test]
    async fn a_window_of_time_is_found_though_the_clock_was_set_back() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        const HOUR: i64 = 3_600_000;
        // Hours by the board's clock: some twice, a start in 1970 in between, and the right time at
        // last.
        let hours = [1, 2, 3, 2, 3, 0, 1, 900, 901, 899, 902];
        for hour in hours {
            for minute in 0..3 {
                let at = hour * HOUR + minute * 60_000;
                store
                    .accept(vec![image("/in/a.jpg")], Limits::NONE, 0, at, true)
                    .await
                    .unwrap()
                    .unwrap();
            }
        }
        let within = |since: Option<i64>, until: Option<i64>| ImageFilter {
            since_ms: since.map(|hour| hour * HOUR),
            until_ms: until.map(|hour| hour * HOUR),
            ..ImageFilter::default()
        };
        for (since, until) in [
            (Some(2), Some(3)),
            (Some(0), Some(1)),
            (Some(1), Some(902)),
            (Some(4), Some(899)),
            (Some(3), None),
            (None, Some(2)),
        ] {
            let expected: Vec<_> = (1..=hours.len() as i64 * 3)
                .rev()
                .filter(|id| {
                    let hour = hours[(id - 1) as usize / 3];
                    since.is_none_or(|since| hour >= since)
                        && until.is_none_or(|until| hour < until)
                })
                .collect();
            let (mut found, mut cursor) = (Vec::new(), None);
            loop {
                let page = store
                    .find_images(within(since, until), cursor, 2)
                    .await
                    .unwrap();
                assert!(!page.unfinished, "{page:?}");
                found.extend(page.images.iter().map(|image| image.id));
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!(found, expected, "{since:?} to {until:?}");
        }
    }

    #[tokio::test]
    async fn a_camera_and_an_event_are_found_among_others() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        let of = |n: i64, camera: &str| NewImage {
            origin: Origin {
                camera: Some(camera.into()),
                event: Some(format!("{}-a", n / 3)),
            },
            ..image(format!("/{n}"))
        };
        let rare = |n| if n == 4 { "attic" } else { "front" };
        let images = (1..=LOOKED_AT + 10).map(|n| of(n, rare(n)));
        let images = images.chain([image("/none")]).collect();
        let accepted = store.accept(images, Limits::NONE, 0, 0, true).await;
        accepted.unwrap().unwrap();
        let event = |event: &str, camera: Option<&str>| ImageFilter {
            event: Some(event.into()),
            camera: camera.map(String::from),
            ..ImageFilter::default()
        };
        // An event is at hand, however old; a camera is searched for.
        let ids = async |filter: ImageFilter, cursor| {
            let found = store.find_images(filter, cursor, 10).await.unwrap();
            let ids: Vec<_> = found.images.iter().map(|image| image.id).collect();
            (ids, found.unfinished, found.next)
        };
        let done = |ids: &[ImageId]| (ids.to_vec(), false, None);
        assert_eq!(ids(event("1-a", None), None).await, done(&[5, 4, 3]));
        assert_eq!(ids(event("1-a", Some("attic")), None).await, done(&[4]));
        assert_eq!(ids(event("1-a", None), Some(4)).await, done(&[3]));
        assert_eq!(ids(event("1", None), None).await, done(&[]));
        let attic = ImageFilter {
            camera: Some("attic".into()),
            ..ImageFilter::default()
        };
        let (none, unfinished, next) = ids(attic.clone(), None).await;
        assert_eq!((none.len(), unfinished), (0, true));
        assert_eq!(ids(attic, next).await, done(&[4]));
        let detail = store.image(4).await.unwrap().unwrap().image;
        assert_eq!(detail.camera.as_deref(), Some("attic"));
        assert_eq!(detail.event.as_deref(), Some("1-a"));
    }

    #[tokio::test]
    async fn a_long_search_resumes_and_a_backlog_is_listed_newest_first() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        let count = LOOKED_AT + FETCHED;
        let images = (1..=count).map(|n| {
            image(if n == 2 {
                "/in/needle.jpg".to_string()
            } else {
                format!("/in/{n}.jpg")
            })
        });
        store
            .accept(images.collect(), Limits::NONE, 0, 0, true)
            .await
            .unwrap()
            .unwrap();
        let needle = ImageFilter {
            path: Some("NEEDLE".into()),
            ..ImageFilter::default()
        };
        let first = store.find_images(needle.clone(), None, 10).await.unwrap();
        assert!(first.images.is_empty() && first.unfinished, "{first:?}");
        assert_eq!(first.next, Some(FETCHED + 1));
        let second = store.find_images(needle, first.next, 10).await.unwrap();
        assert_eq!(
            (second.images[0].id, second.next, second.unfinished),
            (2, None, false)
        );

        store
            .accept(
                vec![image("/in/Zoe\u{308} MÜLLER 100%.jpg")],
                Limits::NONE,
                0,
                0,
                true,
            )
            .await
            .unwrap()
            .unwrap();
        for (text, found) in [
            ("zoë müller", 1),
            ("ZOE", 1),
            ("0%.", 1),
            ("0_.", 0),
            ("zöe", 0),
        ] {
            let spelled = ImageFilter {
                path: Some(text.into()),
                ..ImageFilter::default()
            };
            assert_eq!(
                store
                    .find_images(spelled, None, 10)
                    .await
                    .unwrap()
                    .images
                    .len(),
                found,
                "{text}"
            );
        }
        let last = count + 1;
        store
            .write(Commit::Durable, move |connection| {
                connection.execute("DELETE FROM images WHERE id = ?1", [last])
            })
            .await
            .unwrap();

        let waiting = ImageFilter {
            state: Some(State::Pending),
            ..ImageFilter::default()
        };
        for left in [count, FETCHED] {
            // Due times run against the order of arrival.
            let ids = move |found: Found| {
                found
                    .images
                    .iter()
                    .map(|image| image.id)
                    .collect::<Vec<_>>()
            };
            store
                .write(Commit::Durable, move |connection| {
                    connection.execute("DELETE FROM images WHERE id > ?1", [left])?;
                    connection.execute("UPDATE images SET due_ms = -id", [])
                })
                .await
                .unwrap();
            assert_eq!(
                ids(store.find_images(waiting.clone(), None, 2).await.unwrap()),
                [left, left - 1]
            );
            let oldest = store
                .find_images(waiting.clone(), Some(3), 2)
                .await
                .unwrap();
            assert_eq!((oldest.next, ids(oldest)), (None, vec![2, 1]));
        }
    }
}
