//! Records the board's activity once a minute, for the charts on the page.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::wall_clock_ms;
use crate::queue::{self, Queue};
use crate::status::thermal::Board;
use crate::store::{HistoryRow, Store};

const MINUTE_MS: i64 = 60_000;

/// Records minutes until stopped.
pub async fn keep(
    queue: Queue,
    store: Store,
    board: Board,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(until_the_next(wall_clock_ms())) => {}
            () = stop.cancelled() => return Ok(()),
        }
        let throughput = queue.take_throughput();
        let noted = async {
            let row = HistoryRow {
                // The minute just over, whether this runs slightly before or after its end.
                minute: (wall_clock_ms() - MINUTE_MS / 2).div_euclid(MINUTE_MS),
                pending: store.counts().await?.pending,
                accepted: throughput.accepted,
                processed: throughput.processed,
                failed: throughput.failed,
                stages: throughput.mean_stages(),
                celsius: board.report().await.celsius,
            };
            store.note_minute(row, queue::synchronised()).await
        };
        if let Err(error) = noted.await {
            tracing::warn!("a minute is missing from the history: {error}");
        }
    }
}

/// Returns the time to the end of the clock's minute, or of the next one when it is almost over. A
/// clock that jumps makes one minute shorter or longer, no more.
fn until_the_next(wall_ms: i64) -> Duration {
    let left = MINUTE_MS - wall_ms.rem_euclid(MINUTE_MS);
    let left = if left < MINUTE_MS / 2 {
        left + MINUTE_MS
    } else {
        left
    };
    Duration::from_millis(left.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{NewImage, Source};
    use crate::queue::Rules;

    #[test]
    fn it_is_always_about_a_minute_to_the_next_row() {
        for (wall_ms, left) in [
            (0, 60),
            (1000, 59),
            (29_000, 31),
            (31_000, 89),
            (59_000, 61),
            (60_000, 60),
            (-1000, 61),
        ] {
            assert_eq!(until_the_next(wall_ms).as_secs(), left, "{wall_ms}");
        }
    }

    #[tokio::test]
    async fn each_minute_has_what_was_done_in_it_and_an_empty_one_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        let rules = Rules {
            publish: false,
            ..Rules::for_tests()
        };
        let queue = Queue::open(store.clone(), rules).await.unwrap();
        let image = NewImage::path(Source::Http, "/in/a.jpg");
        queue.submit(vec![image]).await.unwrap();
        store.settle().await.unwrap();
        let zone = folder.path().join("class/thermal/thermal_zone0");
        std::fs::create_dir_all(&zone).unwrap();
        std::fs::write(zone.join("temp"), "45500\n").unwrap();
        let stop = CancellationToken::new();
        let mut changes = store.changes();
        let keeping = tokio::spawn(keep(
            queue,
            store.clone(),
            Board::at(folder.path()),
            stop.clone(),
        ));
        tokio::task::yield_now().await;
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(100)).await;
        tokio::time::resume();
        let rows = loop {
            changes.changed().await.unwrap();
            let rows = store.history(0, 10).await.unwrap();
            if !rows.is_empty() {
                break rows;
            }
        };
        stop.cancel();
        keeping.await.unwrap().unwrap();
        let [row] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!(
            (row.pending, row.accepted, row.processed, row.failed),
            (1, 1, 0, 0)
        );
        assert_eq!((row.stages, row.celsius), ([0.0; 5], Some(45.5)));
        assert!((row.minute - wall_clock_ms() / MINUTE_MS).abs() <= 1);
    }
}
