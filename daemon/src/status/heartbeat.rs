//! A liveness probe for a loop: the loop answers only while it turns. The caller decides what to do
//! about a missing answer.

use tokio::sync::{mpsc, oneshot};

/// Probes a loop.
#[derive(Clone)]
pub struct Heartbeat(mpsc::Sender<oneshot::Sender<()>>);

/// Answers for a loop, from inside it.
pub struct Pulse(mpsc::Receiver<oneshot::Sender<()>>);

/// Creates a connected pair.
pub fn heartbeat() -> (Heartbeat, Pulse) {
    let (asking, asked) = mpsc::channel(1);
    (Heartbeat(asking), Pulse(asked))
}

impl Heartbeat {
    /// Resolves when the loop has answered; false when it has ended.
    pub async fn answered(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        self.0.send(answer).await.is_ok() && answered.await.is_ok()
    }
}

impl Pulse {
    /// Answers the next probe. Waits for it, or for ever once the probe is dropped. Give it a place
    /// in the loop's `select!`.
    pub async fn answer(&mut self) {
        match self.0.recv().await {
            // The prober may have given up.
            Some(answer) => drop(answer.send(())),
            None => std::future::pending().await,
        }
    }

    /// Keeps answering while the loop awaits a long operation.
    pub async fn answer_during<T>(&mut self, long: impl Future<Output = T>) -> T {
        let mut long = std::pin::pin!(long);
        loop {
            tokio::select! {
                done = &mut long => return done,
                () = self.answer() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_loop_that_turns_answers_and_one_that_ended_does_not() {
        let (heart, mut pulse) = heartbeat();
        let turning = tokio::spawn(async move {
            pulse.answer().await;
            pulse
                .answer_during(tokio::time::sleep(std::time::Duration::from_millis(50)))
                .await;
        });
        assert!(heart.answered().await);
        assert!(heart.answered().await);
        turning.await.unwrap();
        assert!(!heart.answered().await);
    }
}
