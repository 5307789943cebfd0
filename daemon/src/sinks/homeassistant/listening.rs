//! Tells whether Home Assistant hears what is published: after a restart of the broker it is back
//! some seconds later than this board, with a session that holds nothing.

use std::time::Duration;

use kith_mqtt::State;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Longest wait for Home Assistant after a connection: it may send no birth message, or have been
/// connected all the time.
const PATIENCE: Duration = Duration::from_secs(20);

/// Follows the connection and Home Assistant's births. `hears` becomes true when Home Assistant has
/// reported its start on this connection, or had the time to do so.
pub async fn follow(
    mut connection: watch::Receiver<State>,
    mut births: watch::Receiver<u64>,
    hears: watch::Sender<bool>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let work = async {
        loop {
            hears.send_replace(false);
            births.borrow_and_update();
            connection.wait_for(State::is_connected).await?;
            tokio::select! {
                born = births.changed() => born?,
                () = sleep(PATIENCE) => {}
                // A connection that is hindered is still the same.
                down = connection.wait_for(|state| !state.is_connected()) => {
                    down?;
                    continue;
                }
            }
            hears.send_replace(true);
            connection.wait_for(|state| !state.is_connected()).await?;
        }
    };
    let ended: Option<Result<(), watch::error::RecvError>> = stop.run_until_cancelled(work).await;
    if ended.is_some() {
        // The connection has ended for good, which the supervisor reports.
        stop.cancelled().await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: State = State::Connected {
        session_present: false,
    };

    fn down() -> State {
        State::Down {
            reason: "gone".into(),
            since: tokio::time::Instant::now(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn events_wait_for_a_birth_on_each_connection_or_20_s() {
        let (connection, state) = watch::channel(State::Connecting);
        let (birth, births) = watch::channel(0);
        let (hears, mut heard) = watch::channel(true);
        let stop = CancellationToken::new();
        let task = tokio::spawn(follow(state, births, hears, stop.clone()));
        let begun = tokio::time::Instant::now();
        heard.wait_for(|heard| !heard).await.unwrap();
        connection.send_replace(UP);
        heard.wait_for(|heard| *heard).await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs());
        // A birth of the last connection tells nothing about the next.
        birth.send_modify(|births| *births += 1);
        connection.send_replace(down());
        heard.wait_for(|heard| !heard).await.unwrap();
        connection.send_replace(UP);
        let begun = tokio::time::Instant::now();
        tokio::time::sleep(PATIENCE / 2).await;
        assert!(!*heard.borrow());
        birth.send_modify(|births| *births += 1);
        heard.wait_for(|heard| *heard).await.unwrap();
        assert!(begun.elapsed() < PATIENCE);
        stop.cancel();
        task.await.unwrap().unwrap();
    }
}
