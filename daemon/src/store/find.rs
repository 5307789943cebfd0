//! SQL that finds images by what a reader asks for, newest first, a page at a time; quick however many there are.
//!
//! One index gives the images to look at, whatever else is asked of them is held against each. So that no question takes
//! long, only so many are looked at for one page; the cursor says where to go on.

use rusqlite::types::Value;
use rusqlite::{Connection, ToSql};

use super::listing::{IMAGE_COLUMNS, add_faces, image_row};
use super::{ImageRow, Store, StoreError};
use crate::domain::{ImageId, Outcome, PersonId, Source, State};

/// Images looked at for one page, where the index gives them one after the other in the table's order…
const LOOKED_AT: i64 = 8_000;
/// …and where each has to be fetched by itself.
const FETCHED: i64 = 4_000;

/// What is asked of an image; nothing asks for all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFilter {
    /// In this state.
    pub state: Option<State>,
    /// With this outcome.
    pub outcome: Option<Outcome>,
    /// With a face that is this person, or may be.
    pub person: Option<PersonId>,
    /// Come in this way.
    pub source: Option<Source>,
    /// Accepted at this moment of the board's clock or later, milliseconds since 1970.
    pub since_ms: Option<i64>,
    /// Accepted before this moment.
    pub until_ms: Option<i64>,
    /// This text is part of its path; small and capital letters of ASCII are the same.
    pub path: Option<String>,
}

/// A page of images.
#[derive(Debug)]
pub struct Found {
    /// Newest first.
    pub images: Vec<ImageRow>,
    /// The page that follows has images below this; `None`: this is the last.
    pub next: Option<ImageId>,
    /// Fewer than asked for, but older ones have not been looked at yet.
    pub unfinished: bool,
}

/// A piece of SQL and what its question marks stand for.
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
    /// Images that are what is asked for, below the cursor, newest first.
    pub async fn find_images(
        &self,
        filter: ImageFilter,
        cursor: Option<ImageId>,
        limit: usize,
    ) -> Result<Found, StoreError> {
        self.read(move |connection| find(connection, &filter, cursor, limit)).await
    }
}

fn find(
    connection: &Connection,
    filter: &ImageFilter,
    cursor: Option<ImageId>,
    limit: usize,
) -> rusqlite::Result<Found> {
    let Some((low, high)) = between(connection, filter, cursor)? else {
        return Ok(Found { images: Vec::new(), next: None, unfinished: false });
    };
    let (looked_at, most) = looked_at(filter, few(connection, filter.state)?, low, high);
    let asked = asked(filter);
    let condition = if asked.text.is_empty() { "1".into() } else { asked.text };
    // One more than asked for tells whether another page follows.
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {IMAGE_COLUMNS} FROM ({}) found CROSS JOIN images i ON i.id = found.id WHERE {condition} LIMIT ?",
        looked_at.text
    ))?;
    let values = looked_at.values.iter().chain(&asked.values).map(|value| value as &dyn ToSql);
    let wanted = limit as i64 + 1;
    let values: Vec<&dyn ToSql> = values.chain([&wanted as &dyn ToSql]).collect();
    let mut images = statement.query_map(&values[..], image_row)?.collect::<rusqlite::Result<Vec<_>>>()?;
    let more = images.len() > limit;
    images.truncate(limit);
    add_faces(connection, &mut images)?;
    if more {
        return Ok(Found { next: images.last().map(|image| image.id), images, unfinished: false });
    }
    let (count, last): (i64, Option<ImageId>) = connection
        .prepare_cached(&format!("SELECT count(*), min(id) FROM ({})", looked_at.text))?
        .query_row(rusqlite::params_from_iter(&looked_at.values), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let next = last.filter(|_| count == most);
    Ok(Found { images, next, unfinished: next.is_some() })
}

/// The ids to look between, both ends included; `None`: there is nothing.
fn between(
    connection: &Connection,
    filter: &ImageFilter,
    cursor: Option<ImageId>,
) -> rusqlite::Result<Option<(ImageId, ImageId)>> {
    let mut high = cursor.map_or(i64::MAX, |cursor| cursor - 1);
    let mut low = 1;
    if let Some(until) = filter.until_ms {
        high = high.min(first_since(connection, until)? - 1);
    }
    if let Some(since) = filter.since_ms {
        low = first_since(connection, since)?;
    }
    Ok((low <= high).then_some((low, high)))
}

/// The first id accepted at a moment or later, beyond all ids if there is none.
///
/// Found by halving, since ids grow as time does, and an index on the time would be one more page to write with each
/// picture. Where the clock of the board was set back it is one of the places where the moment was passed.
fn first_since(connection: &Connection, moment: i64) -> rusqlite::Result<ImageId> {
    let (mut low, mut high): (ImageId, ImageId) = connection
        .prepare_cached("SELECT coalesce(min(id), 1), coalesce((SELECT max(id) FROM images), 0) + 1 FROM images")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut from =
        connection.prepare_cached("SELECT id, accepted_at_ms FROM images WHERE id >= ?1 ORDER BY id LIMIT 1")?;
    while low < high {
        let middle = low + (high - low) / 2;
        let (id, accepted_ms): (ImageId, i64) = from.query_row([middle], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if accepted_ms >= moment {
            high = middle;
        } else {
            low = id + 1;
        }
    }
    Ok(low)
}

/// Whether so few are in this state that they can be put in order.
fn few(connection: &Connection, state: Option<State>) -> rusqlite::Result<bool> {
    let Some(state) = state else { return Ok(false) };
    let count: i64 = connection
        .prepare_cached("SELECT images FROM tally WHERE state = ?1")?
        .query_row([state.as_str()], |row| row.get(0))?;
    Ok(count <= FETCHED)
}

/// The ids that are looked at for one page, from the index that leaves the fewest; and how many those are at most.
fn looked_at(filter: &ImageFilter, few: bool, low: ImageId, high: ImageId) -> (Sql, i64) {
    let mut sql = Sql::default();
    let mut chosen = |from: &str, id: &str, order: &str, most: i64, first: Option<(&str, Value)>| {
        if let Some((condition, value)) = first {
            sql.and(condition, value);
        }
        sql.and(&format!("{id} >= ?"), low);
        sql.and(&format!("{id} <= ?"), high);
        sql.text = format!("SELECT {id} AS id FROM {from} WHERE {} {order} ORDER BY {id} DESC LIMIT {most}", sql.text);
        most
    };
    let text = |word: &str| Value::from(word.to_string());
    let most = if let Some(person) = filter.person {
        // Somebody may be in an image twice.
        let from = "faces INDEXED BY faces_person";
        chosen(from, "image_id", "GROUP BY image_id", FETCHED, Some(("person_id = ?", person.into())))
    } else if let Some(outcome @ (Outcome::Known | Outcome::Uncertain)) = filter.outcome {
        // The few; the others are most of what there is. Said twice, or SQLite does not see that the index has them.
        let named = format!("AND outcome = '{outcome}' AND outcome IN ('known', 'uncertain')");
        chosen("images INDEXED BY images_outcome", "id", &named, FETCHED, None)
    } else {
        match filter.state {
            Some(State::Failed) => {
                chosen("images INDEXED BY images_failed", "id", "AND state = 'failed'", FETCHED, None)
            }
            // Their index is in the order they are due. A backlog is among the newest, and found there.
            Some(state @ (State::Pending | State::Processing)) if few => {
                let from = "images INDEXED BY images_state_due";
                chosen(from, "id", "", FETCHED, Some(("state = ?", text(state.as_str()))))
            }
            _ => chosen("images NOT INDEXED", "id", "", LOOKED_AT, None),
        }
    };
    (sql, most)
}

/// What each of them must be.
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
    if let Some(since) = filter.since_ms {
        sql.and("i.accepted_at_ms >= ?", since);
    }
    if let Some(until) = filter.until_ms {
        sql.and("i.accepted_at_ms < ?", until);
    }
    if let Some(path) = &filter.path {
        let mut pattern = String::from("%");
        for letter in path.chars() {
            if matches!(letter, '%' | '_' | '\\') {
                pattern.push('\\');
            }
            pattern.push(letter);
        }
        pattern.push('%');
        sql.and(r"i.path LIKE ? ESCAPE '\'", pattern);
    }
    sql
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::NewImage;

    fn image(path: String) -> NewImage {
        NewImage {
            source: Source::Http,
            path,
            file: None,
            bytes: 0,
            idempotency_key: None,
            picture_key: None,
            unless_unfinished: false,
            seen: None,
        }
    }

    #[tokio::test]
    async fn a_long_search_goes_on_where_it_stopped_and_a_backlog_is_listed_newest_first() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path(), &[]).unwrap();
        let count = LOOKED_AT + FETCHED;
        let images = (1..=count).map(|n| image(if n == 2 { "/in/needle.jpg".into() } else { format!("/in/{n}.jpg") }));
        store.accept(images.collect(), 0, 0, true).await.unwrap().unwrap();
        let needle = ImageFilter { path: Some("NEEDLE".into()), ..ImageFilter::default() };
        let first = store.find_images(needle.clone(), None, 10).await.unwrap();
        assert!(first.images.is_empty() && first.unfinished, "{first:?}");
        assert_eq!(first.next, Some(FETCHED + 1));
        let second = store.find_images(needle, first.next, 10).await.unwrap();
        assert_eq!((second.images[0].id, second.next, second.unfinished), (2, None, false));

        let waiting = ImageFilter { state: Some(State::Pending), ..ImageFilter::default() };
        for left in [count, FETCHED] {
            // Due in another order than they came.
            let ids = move |found: Found| found.images.iter().map(|image| image.id).collect::<Vec<_>>();
            store
                .write(crate::store::writer::Urgency::Now, move |connection| {
                    connection.execute("DELETE FROM images WHERE id > ?1", [left])?;
                    connection.execute("UPDATE images SET due_ms = -id", [])
                })
                .await
                .unwrap();
            assert_eq!(ids(store.find_images(waiting.clone(), None, 2).await.unwrap()), [left, left - 1]);
            let oldest = store.find_images(waiting.clone(), Some(3), 2).await.unwrap();
            assert_eq!((oldest.next, ids(oldest)), (None, vec![2, 1]));
        }
    }
}
