//! Check of the database's journal at a start: SQLite silently drops committed changes that it
//! cannot read out of a damaged journal, and this notices it. The changes are not recovered.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use super::DATABASE;

/// Marker file in the state folder while the database is open; an orderly close removes it.
pub(super) const OPEN: &str = "kithd.open";

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// Returns a sentence about a journal that has lost changes; `None` if it shows no loss.
pub fn lost_in_journal(folder: &Path) -> Option<String> {
    let file = File::open(folder.join(format!("{DATABASE}-wal")));
    let bytes = file
        .as_ref()
        .ok()
        .and_then(|file| file.metadata().ok())
        .map_or(0, |metadata| metadata.len());
    let how = match file {
        Ok(file) if bytes > 0 => is_cut(BufReader::new(file)).then_some("damaged"),
        // An orderly close empties and removes the journal.
        _ => (folder.join(OPEN).exists() && folder.join(DATABASE).exists()).then_some("missing"),
    }?;
    Some(format!(
        "The journal of the database ({DATABASE}-wal) was {how} at this start: what was changed last, and \
         paths and files that were accepted last, may be lost; send them again. Pictures in the spool whose rows are lost are queued again."
    ))
}

/// Returns true if a commit stands at or behind the first frame that SQLite does not accept. The
/// format is SQLite's, section 4 of
/// <https://www.sqlite.org/fileformat2.html>.
fn is_cut(mut journal: impl Read) -> bool {
    let mut header = [0; HEADER];
    if journal.read_exact(&mut header).is_err() {
        return false;
    }
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0_u32, |sum, byte| (sum << 8) | u32::from(*byte))
    };
    let sum = Sum {
        big_endian: header[3] & 1 == 1,
    };
    let mut sums = sum.add((0, 0), &header[..24]);
    let mut whole = number(&header[..4]) & !1 == 0x377f_0682
        && sums == (number(&header[24..28]), number(&header[28..]));
    let page = number(&header[8..12]) as usize;
    if !page.is_power_of_two() || !(512..=65536).contains(&page) {
        // Without the page size no frame can be found. A journal that was just begun has none.
        return journal.read_exact(&mut [0; FRAME_HEADER]).is_ok();
    }
    let mut frame = vec![0; FRAME_HEADER + page];
    while journal.read_exact(&mut frame).is_ok() {
        // Frames from before the journal's last restart have other salts. A flipped bit changes one
        // bit of them at most.
        let differing_bits = |at: usize| {
            (number(&frame[at..at + 4]) ^ number(&header[at + 8..at + 12])).count_ones()
        };
        let differing_bits = differing_bits(8) + differing_bits(12);
        let next = sum.add(sum.add(sums, &frame[..8]), &frame[FRAME_HEADER..]);
        whole &= differing_bits == 0 && next == (number(&frame[16..20]), number(&frame[20..24]));
        sums = next;
        if !whole && differing_bits <= 1 && number(&frame[4..8]) != 0 {
            return true;
        }
    }
    false
}

struct Sum {
    big_endian: bool,
}

impl Sum {
    fn add(&self, (mut first, mut second): (u32, u32), bytes: &[u8]) -> (u32, u32) {
        for pair in bytes.chunks_exact(8) {
            let word = |at: usize| {
                let bytes = [pair[at], pair[at + 1], pair[at + 2], pair[at + 3]];
                if self.big_endian {
                    u32::from_be_bytes(bytes)
                } else {
                    u32::from_le_bytes(bytes)
                }
            };
            first = first.wrapping_add(word(0)).wrapping_add(second);
            second = second.wrapping_add(word(4)).wrapping_add(first);
        }
        (first, second)
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    /// A folder as a kill leaves it, after so many commits.
    fn killed(commits: usize) -> tempfile::TempDir {
        let (running, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let connection = Connection::open(running.path().join(DATABASE)).unwrap();
        connection
            .execute_batch(
                "PRAGMA page_size = 512; PRAGMA journal_mode = WAL; CREATE TABLE t (n TEXT)",
            )
            .unwrap();
        for n in 0..commits {
            connection
                .execute("INSERT INTO t VALUES (?1)", [format!("{n:0600}")])
                .unwrap();
        }
        for end in ["", "-wal"] {
            let name = format!("{DATABASE}{end}");
            std::fs::copy(running.path().join(&name), folder.path().join(&name)).unwrap();
        }
        std::fs::write(folder.path().join(OPEN), "").unwrap();
        folder
    }

    fn rows(folder: &Path) -> Option<usize> {
        let connection = Connection::open(folder.join(DATABASE)).ok()?;
        connection
            .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
            .ok()
    }

    #[test]
    fn a_bit_of_the_journal_that_loses_commits_is_noticed() {
        let folder = killed(40);
        let journal = folder.path().join(format!("{DATABASE}-wal"));
        assert_eq!(lost_in_journal(folder.path()), None);
        let whole = std::fs::read(&journal).unwrap();
        let database = std::fs::read(folder.path().join(DATABASE)).unwrap();
        for _ in 0..300 {
            let bit = fastrand::usize(..whole.len() * 8);
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&journal, &damaged).unwrap();
            let said = lost_in_journal(folder.path());
            let lost = rows(folder.path()) != Some(40);
            assert!(!lost || said.is_some(), "bit {bit}");
            std::fs::write(folder.path().join(DATABASE), &database).unwrap();
        }
    }

    #[test]
    fn a_torn_or_restarted_journal_has_lost_nothing() {
        let folder = killed(40);
        let journal = folder.path().join(format!("{DATABASE}-wal"));
        let whole = std::fs::read(&journal).unwrap();
        // A transaction whose last frame is not there was never answered.
        for length in [0, 1, HEADER, HEADER + 100, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&journal, &whole[..length]).unwrap();
            assert_eq!(
                lost_in_journal(folder.path()).is_some(),
                length == 0,
                "{length} bytes"
            );
        }
        std::fs::write(&journal, whole).unwrap();
        let connection = Connection::open(folder.path().join(DATABASE)).unwrap();
        let restarted = "PRAGMA wal_checkpoint(RESTART)";
        connection.query_row(restarted, [], |_| Ok(())).unwrap();
        connection
            .execute("INSERT INTO t VALUES ('new')", [])
            .unwrap();
        assert_eq!(lost_in_journal(folder.path()), None);
    }

    #[test]
    fn a_missing_journal_is_noticed_unless_the_end_was_in_order() {
        let folder = killed(4);
        std::fs::remove_file(folder.path().join(format!("{DATABASE}-wal"))).unwrap();
        assert!(
            lost_in_journal(folder.path())
                .unwrap()
                .contains("was missing")
        );
        std::fs::remove_file(folder.path().join(OPEN)).unwrap();
        assert_eq!(lost_in_journal(folder.path()), None);
    }
}
