//! Reads what waited out of the pages of a damaged database, one by one and without SQLite, which gives up on the whole
//! file when its first page or its schema is spoiled. Not for reading anything that is whole.
//!
//! File format: sqlite.org/fileformat2.html. A row of `images` is told from all others by its columns' types and words.
//! Of several versions of a row in the file the furthest counts; one in the journal is later than all of them, and of
//! those the last one counts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rusqlite::types::Value;

use crate::domain::{ImageId, Source, State};

/// What a database of ours has where the file does not say.
const PAGE_BYTES: usize = super::PAGE_BYTES as usize;
/// Columns of `images` in its first migration; a row that was written before a later one has only those.
const FIRST_COLUMNS: usize = 19;
const TABLE_LEAF: u8 = 0x0D;
const INDEX_LEAF: u8 = 0x0A;
const INDEX_INTERIOR: u8 = 0x02;
const WAL_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// Longer than any row of these tables can be.
const LONGEST_ROW: usize = 1 << 20;

/// Rows as lists of values, in the order of the table's columns.
#[derive(Debug, Default)]
pub struct Rows {
    /// Of `images`, those that wait.
    pub images: BTreeMap<ImageId, Vec<Value>>,
    /// Of `folders`.
    pub folders: Vec<Vec<Value>>,
    /// Of `seen`.
    pub seen: Vec<Vec<Value>>,
    /// The highest number an image had.
    pub highest: ImageId,
}

/// Reads the file and the journal beside it.
pub fn read(damaged: &Path) -> std::io::Result<Rows> {
    let file = File::open(damaged)?;
    let mut head = [0; 100];
    let page_bytes = match file.read_exact_at(&mut head, 0) {
        Ok(()) if head.starts_with(b"SQLite format 3\0") => match u16::from_be_bytes([head[16], head[17]]) {
            1 => 65_536,
            bytes if bytes.is_power_of_two() && bytes >= 512 => bytes.into(),
            _ => PAGE_BYTES,
        },
        _ => PAGE_BYTES,
    };
    let journal = Journal::open(damaged, page_bytes);
    let mut pages =
        Pages { file, page_bytes, journal, in_journal: false, ended: BTreeSet::new(), rows: Rows::default() };
    let mut from = std::io::BufReader::with_capacity(1 << 20, File::open(damaged)?);
    let (mut page, mut number) = (vec![0; page_bytes], 0);
    while from.read_exact(&mut page).is_ok() {
        number += 1;
        // The first one begins with the file's header.
        pages.page(&page, if number == 1 { 100 } else { 0 });
    }
    let ended = std::mem::take(&mut pages.ended);
    pages.rows.images.retain(|id, _| !ended.contains(id));
    pages.in_journal = true;
    for (number, at) in pages.journal.frames.clone() {
        if pages.journal.file.as_ref().is_some_and(|file| file.read_exact_at(&mut page, at).is_ok()) {
            pages.page(&page, if number == 1 { 100 } else { 0 });
        }
    }
    Ok(pages.rows)
}

/// The pages that were changed last.
struct Journal {
    file: Option<File>,
    /// Number of each page and where it stands, as they were written.
    frames: Vec<(u32, u64)>,
    /// Where the last version of each stands.
    last: HashMap<u32, u64>,
}

impl Journal {
    fn open(damaged: &Path, page_bytes: usize) -> Self {
        let mut journal = Self { file: None, frames: Vec::new(), last: HashMap::new() };
        let Ok(file) = File::open(format!("{}-wal", damaged.display())) else { return journal };
        let (mut header, mut frame) = ([0; WAL_HEADER], [0; FRAME_HEADER]);
        let mut at = WAL_HEADER as u64;
        if file.read_exact_at(&mut header, 0).is_ok() {
            // Frames with other salts are left over from before the journal was last emptied.
            while file.read_exact_at(&mut frame, at).is_ok() && frame[8..16] == header[16..24] {
                at += FRAME_HEADER as u64;
                let number = number32(&frame, 0).unwrap_or(0);
                journal.frames.push((number, at));
                journal.last.insert(number, at);
                at += page_bytes as u64;
            }
        }
        journal.file = Some(file);
        journal
    }
}

struct Pages {
    file: File,
    page_bytes: usize,
    journal: Journal,
    /// The pages that are read now are the journal's.
    in_journal: bool,
    /// Images of which some version in the file has ended.
    ended: BTreeSet<ImageId>,
    rows: Rows,
}

impl Pages {
    /// Takes what it knows from one page; `None`: the rest of it makes no sense.
    fn page(&mut self, page: &[u8], header: usize) -> Option<()> {
        let kind = *page.get(header)?;
        let pointers = match kind {
            TABLE_LEAF | INDEX_LEAF => header + 8,
            INDEX_INTERIOR => header + 12,
            _ => return None,
        };
        let count = usize::from(number16(page, header + 3)?);
        for cell in 0..count {
            let at = usize::from(number16(page, pointers + 2 * cell)?);
            // One cell of rubbish says nothing about the others.
            let _ = self.cell(page, kind, at);
        }
        Some(())
    }

    fn cell(&mut self, page: &[u8], kind: u8, at: usize) -> Option<()> {
        let mut at = if kind == INDEX_INTERIOR { at + 4 } else { at };
        let length = usize::try_from(varint(page, &mut at)?).ok()?;
        let row = if kind == TABLE_LEAF { varint(page, &mut at)? } else { 0 };
        if length > LONGEST_ROW {
            return None;
        }
        // How much of a long row lies on its page (section 1.6 of the format).
        let usable = self.page_bytes;
        let (most, least) = (
            if kind == TABLE_LEAF { usable - 35 } else { (usable - 12) * 64 / 255 - 23 },
            (usable - 12) * 32 / 255 - 23,
        );
        let here = match length {
            length if length <= most => length,
            length => {
                let here = least + (length - least) % (usable - 4);
                if here <= most { here } else { least }
            }
        };
        let mut payload = page.get(at..at + here)?.to_vec();
        if here < length {
            // Its columns tell already whether it is worth following.
            columns(&payload)?;
            let mut next = number32(page, at + here)?;
            while payload.len() < length {
                let overflow = self.overflow(next)?;
                payload.extend_from_slice(&overflow[4..usable.min(4 + length - payload.len())]);
                next = number32(&overflow, 0)?;
            }
        }
        let values = record(&payload)?;
        match kind {
            TABLE_LEAF => self.table_row(row, values),
            _ => self.index_row(values),
        }
    }

    /// A page that a long row goes on in, as it was last.
    fn overflow(&self, number: u32) -> Option<Vec<u8>> {
        let mut page = vec![0; self.page_bytes];
        let journal = self.journal.file.as_ref().zip(self.journal.last.get(&number));
        match journal {
            Some((file, at)) => file.read_exact_at(&mut page, *at).ok()?,
            None => {
                let at = u64::from(number).checked_sub(1)? * self.page_bytes as u64;
                self.file.read_exact_at(&mut page, at).ok()?;
            }
        }
        Some(page)
    }

    fn table_row(&mut self, row: i64, mut values: Vec<Value>) -> Option<()> {
        match values.as_slice() {
            [Value::Null, Value::Text(state), Value::Text(source), Value::Text(_), ..]
                if values.len() >= FIRST_COLUMNS && row > 0 =>
            {
                source.parse::<Source>().ok()?;
                let state = state.parse::<State>().ok()?;
                self.rows.highest = self.rows.highest.max(row);
                match state {
                    State::Processed | State::Failed if self.in_journal => _ = self.rows.images.remove(&row),
                    State::Processed | State::Failed => _ = self.ended.insert(row),
                    State::Pending | State::Processing => {
                        values[0] = Value::Integer(row);
                        self.rows.images.insert(row, values);
                    }
                }
            }
            // Of sqlite_sequence.
            [Value::Text(table), Value::Integer(highest)] if table == "images" => {
                self.rows.highest = self.rows.highest.max(*highest);
            }
            // Of folders.
            [Value::Null, Value::Text(path), Value::Integer(0 | 1)] if path.starts_with('/') => {
                values[0] = Value::Integer(row);
                self.rows.folders.push(values);
            }
            _ => {}
        }
        Some(())
    }

    /// Only `seen` begins like this: a number, the beginning of a sum, two numbers.
    fn index_row(&mut self, values: Vec<Value>) -> Option<()> {
        let [Value::Integer(_), Value::Blob(key), Value::Integer(_), Value::Integer(_), _] = values.as_slice() else {
            return None;
        };
        if key.len() == 16 {
            self.rows.seen.push(values);
        }
        Some(())
    }
}

/// Types of a row's columns, and where the first value stands.
fn columns(payload: &[u8]) -> Option<(Vec<i64>, usize)> {
    let mut at = 0;
    let header = usize::try_from(varint(payload, &mut at)?).ok()?;
    let mut types = Vec::new();
    while at < header {
        types.push(varint(payload, &mut at)?);
    }
    (at == header && types.len() <= 64).then_some((types, header))
}

fn record(payload: &[u8]) -> Option<Vec<Value>> {
    let (types, mut at) = columns(payload)?;
    let mut values = Vec::with_capacity(types.len());
    for kind in types {
        let bytes = match kind {
            0 | 8 | 9 => 0,
            1..=4 => kind as usize,
            5 => 6,
            6 | 7 => 8,
            12.. => usize::try_from((kind - 12) / 2).ok()?,
            _ => return None,
        };
        let value = payload.get(at..at.checked_add(bytes)?)?;
        at += bytes;
        let integer = || {
            // Two's complement, big-endian.
            let sign = if value.first().is_some_and(|first| first & 0x80 != 0) { -1 } else { 0 };
            value.iter().fold(sign, |number: i64, byte| number << 8 | i64::from(*byte))
        };
        values.push(match kind {
            0 => Value::Null,
            1..=6 => Value::Integer(integer()),
            7 => Value::Real(f64::from_bits(integer() as u64)),
            8 => Value::Integer(0),
            9 => Value::Integer(1),
            kind if kind % 2 == 0 => Value::Blob(value.to_vec()),
            _ => Value::Text(String::from_utf8(value.to_vec()).ok()?),
        });
    }
    Some(values)
}

/// Seven bits a byte, the most significant first; of a ninth byte all eight.
fn varint(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let mut number: u64 = 0;
    for place in 0..9 {
        let byte = *bytes.get(*at)?;
        *at += 1;
        if place == 8 {
            return Some((number << 8 | u64::from(byte)) as i64);
        }
        number = number << 7 | u64::from(byte & 0x7F);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some(number as i64)
}

fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    /// A database with images in all states, some with paths longer than a page, and files seen in a folder.
    async fn database(folder: &Path) -> Vec<Vec<Value>> {
        let (store, _) = Store::open(folder, &[]).unwrap();
        store
            .write(crate::store::Urgency::Now, |connection| {
                connection.execute_batch(
                    "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 400)
                     INSERT INTO images (id, state, source, path, file, outcome, reason, accepted_at_ms, attempts, due_ms)
                     SELECT n, iif(n % 4 = 0, 'processed', iif(n % 4 = 1, 'pending', iif(n % 4 = 2, 'processing', 'failed'))),
                            'http', '/' || substr(hex(zeroblob(3000)), 1, n * 13), iif(n % 8 = 1, 'spool/x', NULL),
                            iif(n % 4 = 0, 'known', NULL), iif(n % 4 = 3, 'why', NULL), 1795418465000 + n, n % 3, -n
                       FROM n;
                     INSERT INTO folders VALUES (7, '/srv/pictures', 1);
                     INSERT INTO seen SELECT 7, randomblob(16), id, id * 1000000000000, NULL FROM images;
                     DELETE FROM images WHERE id > 390;",
                )
            })
            .await
            .unwrap();
        let waiting = store
            .read(|connection| {
                let mut rows =
                    connection.prepare("SELECT * FROM images WHERE state IN ('pending', 'processing') ORDER BY id")?;
                let columns = rows.column_count();
                rows.query_map([], |row| (0..columns).map(|at| row.get(at)).collect())?.collect()
            })
            .await
            .unwrap();
        store.close().await;
        waiting
    }

    #[tokio::test]
    async fn every_row_that_waits_is_read_as_sqlite_reads_it_even_without_header_and_schema() {
        let folder = tempfile::tempdir().unwrap();
        let waiting = database(folder.path()).await;
        let path = folder.path().join("kithd.db");
        let mut bytes = std::fs::read(&path).unwrap();
        let rows = read(&path).unwrap();
        assert_eq!(rows.images.into_values().collect::<Vec<_>>(), waiting);
        assert_eq!((rows.highest, rows.folders.len(), rows.seen.len()), (400, 1, 400));
        bytes[..PAGE_BYTES].fill(0xA5);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path).unwrap().images.into_values().collect::<Vec<_>>(), waiting);
    }

    #[tokio::test]
    async fn what_the_journal_says_of_a_row_counts_more_than_what_the_file_says() {
        let folder = tempfile::tempdir().unwrap();
        database(folder.path()).await;
        let (store, _) = Store::open(folder.path(), &[]).unwrap();
        // One that failed is tried again, one that waited ends, and one comes whose row is longer than a page.
        store
            .write(crate::store::Urgency::Now, |connection| {
                connection.execute_batch(
                    "UPDATE images SET state = 'pending', reason = NULL, attempts = 0 WHERE id IN (3, 379, 387);
                     UPDATE images SET state = 'processed', outcome = 'known' WHERE id IN (5, 385);
                     UPDATE images SET path = replace(path, '0', '1') WHERE id = 381;
                     INSERT INTO images (id, source, path, accepted_at_ms)
                       VALUES (500, 'http', '/' || hex(randomblob(2000)), 1);",
                )
            })
            .await
            .unwrap();
        let sql = "SELECT * FROM images WHERE state IN ('pending', 'processing') ORDER BY id";
        let waiting: Vec<Vec<Value>> = store
            .read(move |connection| {
                let mut rows = connection.prepare(sql)?;
                let columns = rows.column_count();
                rows.query_map([], |row| (0..columns).map(|at| row.get(at)).collect())?.collect()
            })
            .await
            .unwrap();
        let copy = tempfile::tempdir().unwrap();
        for name in ["kithd.db", "kithd.db-wal"] {
            std::fs::copy(folder.path().join(name), copy.path().join(name)).unwrap();
        }
        let rows = read(&copy.path().join("kithd.db")).unwrap();
        assert!(rows.images.contains_key(&387) && rows.images.contains_key(&500) && !rows.images.contains_key(&385));
        assert_eq!(rows.images.into_values().collect::<Vec<_>>(), waiting);
    }

    #[tokio::test]
    async fn rubbish_anywhere_costs_the_rows_it_lies_on_and_nothing_panics() {
        let folder = tempfile::tempdir().unwrap();
        let waiting = database(folder.path()).await;
        let path = folder.path().join("kithd.db");
        let whole = std::fs::read(&path).unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..200 {
            let mut bytes = whole.clone();
            for _ in 0..round % 20 {
                let at = random.usize(..bytes.len() - 64);
                let length = random.usize(1..64);
                random.fill(&mut bytes[at..at + length]);
            }
            bytes.truncate(whole.len() - random.usize(..whole.len() / 4));
            std::fs::write(&path, &bytes).unwrap();
            let found = read(&path).unwrap().images;
            let same = waiting.iter().filter(|row| found.values().any(|one| one == *row)).count();
            assert!(same > waiting.len() / 2, "round {round}: {same} of {}", waiting.len());
        }
    }
}
