//! A question to a loop that only its next turn can answer: whether it still turns. Not for what it
//! then does about it.

use tokio::sync::{mpsc, oneshot};

/// Asks a loop.
#[derive(Clone)]
pub struct Heartbeat(mpsc::Sender<oneshot::Sender<()>>);

/// Answers for a loop, from inside it.
pub struct Pulse(mpsc::Receiver<oneshot::Sender<()>>);

/// The two ends.
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
    /// Answers the next question; waits for it, for ever once nobody asks any more. Give it a place
    /// in the loop's `select!`.
    pub async fn answer(&mut self) {
        match self.0.recv().await {
            // Who asked may have lost patience.
            Some(answer) => drop(answer.send(())),
            None => std::future::pending().await,
        }
    }

    /// Goes on answering while the loop waits for something long.
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
