//! The connection against a real mosquitto and against a scripted broker.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../../tests/it/broker.rs"]
#[allow(dead_code)]
mod broker;
mod double;
mod hostile;
#[path = "../../../tests/it/hostile_broker.rs"]
#[allow(dead_code)]
mod hostile_broker;
mod incoming;
mod line;
mod mosquitto;
mod outages;
mod publishing;
mod survival;

use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Address, Deliveries, Delivery, Message, Publisher, Settings, State, connect};

/// Longer than any event that should happen at once.
const BRIEFLY: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(15);

/// A running connection.
struct Client {
    publisher: Publisher,
    deliveries: Deliveries,
    state: watch::Receiver<State>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    fn start(settings: Settings) -> Self {
        let (publisher, deliveries, state, connection) = connect(settings);
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(connection.run(async {
            let _ = stopped.await;
        }));
        Self {
            publisher,
            deliveries,
            state,
            stop: Some(stop),
            task,
        }
    }

    async fn state(&mut self, wanted: impl FnMut(&State) -> bool) -> State {
        let found = timeout(PATIENCE, self.state.wait_for(wanted)).await;
        found
            .expect("the state was not reached in time")
            .unwrap()
            .clone()
    }

    async fn connected(&mut self) -> State {
        self.state(State::is_connected).await
    }

    async fn publish(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        timeout(PATIENCE, self.publisher.publish(message(topic, payload)))
            .await
            .unwrap()
            .unwrap();
    }

    async fn recv(&mut self) -> Delivery {
        timeout(PATIENCE, self.deliveries.recv())
            .await
            .expect("nothing arrived in time")
            .unwrap()
    }

    async fn nothing_arrives(&mut self) {
        let silence = timeout(Duration::from_millis(500), self.deliveries.recv()).await;
        assert!(silence.is_err(), "{silence:?}");
    }

    /// Stops the client in order.
    async fn stop(mut self) {
        drop(self.stop.take());
        timeout(PATIENCE, &mut self.task).await.unwrap().unwrap();
    }

    /// Stops the client as a power cut would.
    async fn crash(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

/// Returns a client without subscriptions, and the scripted broker it will connect to.
async fn publisher(change: impl FnOnce(&mut Settings)) -> (double::Double, Client) {
    let double = double::Double::listen().await;
    let mut settings = settings(double.port(), "kith", &[]);
    change(&mut settings);
    (double, Client::start(settings))
}

fn settings(port: u16, client_id: &str, subscriptions: &[&str]) -> Settings {
    let address = Address {
        host: "127.0.0.1".to_owned(),
        port,
        encrypted: false,
    };
    Settings {
        subscriptions: subscriptions
            .iter()
            .map(|&topic| topic.to_owned())
            .collect(),
        reconnect_least: Duration::from_millis(50),
        reconnect_most: Duration::from_millis(400),
        ..Settings::new(address, client_id)
    }
}

fn message(topic: &str, payload: impl Into<Vec<u8>>) -> Message {
    Message {
        topic: topic.to_owned(),
        payload: payload.into(),
        ..Message::default()
    }
}

fn retained(topic: &str, payload: &str) -> Message {
    Message {
        retain: true,
        ..message(topic, payload)
    }
}
