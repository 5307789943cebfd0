//! Behaviour across crashes of the client, the broker and the line, with a real broker.

use std::collections::BTreeSet;

use super::super::{Delivery, PublishError, Settings, State, Version};
use super::broker::Mosquitto;
use super::line::Line;
use super::{Client, message, retained, settings};

#[tokio::test]
async fn after_our_crash_only_unacknowledged_deliveries_come_again() {
    let broker = Mosquitto::running();
    let mut client = Client::start(settings(broker.port(), "kith", &["in"]));
    client.connected().await;
    for payload in ["one", "two", "three"] {
        client.publish("in", payload).await;
    }
    client.recv().await.settle();
    let second = client.recv().await;
    client.recv().await.settle(); // Waits for the second.
    client.nothing_arrives().await;
    client.crash().await;
    drop(second);

    let mut client = Client::start(settings(broker.port(), "kith", &["in"]));
    assert_eq!(
        client.connected().await,
        State::Connected {
            session_present: true
        }
    );
    for expected in ["two", "three"] {
        let delivery = client.recv().await;
        assert_eq!(delivery.payload, expected.as_bytes());
        assert!(delivery.redelivered);
        delivery.settle();
    }
    client.nothing_arrives().await;
}

#[tokio::test]
async fn messages_sent_while_we_are_stopped_wait_for_us() {
    let broker = Mosquitto::running();
    let mut client = Client::start(settings(broker.port(), "kith", &["in"]));
    client.connected().await;
    client.stop().await;
    let mut camera = Client::start(settings(broker.port(), "camera", &[]));
    camera.connected().await;
    for number in 0..50 {
        camera.publish("in", number.to_string()).await;
    }
    let mut client = Client::start(settings(broker.port(), "kith", &["in"]));
    for number in 0..50 {
        let delivery = client.recv().await;
        assert_eq!(delivery.payload, number.to_string().as_bytes());
        delivery.settle();
    }
    assert_eq!(
        client.connected().await,
        State::Connected {
            session_present: true
        }
    );
}

/// The client's state follows the broker's.
#[tokio::test]
async fn after_a_broker_crash_subscriptions_and_messages_are_back() {
    let mut broker = Mosquitto::running();
    let birth = vec![retained("kith/state", "online")];
    let mut client = Client::start(Settings {
        birth,
        ..settings(broker.port(), "kith", &["in"])
    });
    client.connected().await;
    client.publish("in", "kept by the broker").await;
    let unsettled = client.recv().await;
    broker.wait_for_saved("kept by the broker");
    broker.kill();
    client
        .state(|state| matches!(state, State::Down { .. }))
        .await;
    assert_eq!(
        client.publisher.publish(message("in", "x")).await,
        Err(PublishError::Disconnected)
    );
    unsettled.settle();
    broker.start();
    client.connected().await;
    let again = client.recv().await;
    assert_eq!(
        (&*again.payload, again.redelivered),
        (b"kept by the broker".as_slice(), true)
    );
    again.settle();
    client.publish("in", "new").await;
    assert_eq!(*client.recv().await.payload, *b"new");

    let mut watcher = Client::start(settings(broker.port(), "watcher", &["kith/state"]));
    assert_eq!(*watcher.recv().await.payload, *b"online");
}

#[tokio::test]
async fn retained_messages_come_once_for_each_session() {
    for version in [Version::Five, Version::Three] {
        let mut broker = Mosquitto::running_with("persistence false", &[]);
        let settings = Settings {
            version,
            once_a_session: vec!["in/+".into()],
            ..settings(broker.port(), "kith", &[])
        };
        let kept = retained("in/kept", "state");
        let arrives = async |client: &mut Client, payload: &[u8], retain| {
            let delivery = client.recv().await;
            assert_eq!(
                (&*delivery.payload, delivery.retain),
                (payload, retain),
                "{version:?}"
            );
            delivery.settle();
        };
        let mut client = Client::start(settings.clone());
        client.connected().await;
        client.publisher.publish(kept.clone()).await.unwrap();
        arrives(&mut client, b"state", false).await;
        client.stop().await;
        // The session is there: only what was published since comes.
        let mut client = Client::start(settings.clone());
        client.connected().await;
        client.publish("in/new", "event").await;
        arrives(&mut client, b"event", false).await;
        // The broker has lost the session and what it retained.
        broker.kill();
        client
            .state(|state| matches!(state, State::Down { .. }))
            .await;
        broker.start();
        client.connected().await;
        client.publisher.publish(kept).await.unwrap();
        arrives(&mut client, b"state", false).await;
        client.stop().await;
        let other = Settings {
            client_id: "other".into(),
            ..settings
        };
        arrives(&mut Client::start(other), b"state", true).await;
    }
}

#[tokio::test]
async fn a_broker_that_forgot_our_session_is_subscribed_to_again() {
    let mut broker = Mosquitto::running_with("persistence false", &[]);
    let mut client = Client::start(settings(broker.port(), "kith", &["in"]));
    client.connected().await;
    broker.kill();
    client
        .state(|state| matches!(state, State::Down { .. }))
        .await;
    broker.start();
    assert_eq!(
        client.connected().await,
        State::Connected {
            session_present: false
        }
    );
    client.publish("in", "new").await;
    assert_eq!(*client.recv().await.payload, *b"new");
}

#[tokio::test]
async fn a_broker_absent_at_start_is_met_when_it_comes() {
    let mut broker = Mosquitto::absent();
    let mut client = Client::start(settings(broker.port(), "kith", &["in"]));
    let state = client
        .state(|state| matches!(state, State::Down { .. }))
        .await;
    assert!(state.to_string().contains("refused"), "{state}");
    broker.start();
    client.connected().await;
    client.publish("in", "picture").await;
    client.recv().await.settle();
}

#[tokio::test]
async fn the_will_is_sent_after_a_crash_and_the_farewell_after_a_stop() {
    let broker = Mosquitto::running();
    let mut watcher = Client::start(settings(broker.port(), "watcher", &["kith/state"]));
    watcher.connected().await;
    let stateful = Settings {
        will: Some(retained("kith/state", "vanished")),
        birth: vec![retained("kith/state", "online")],
        farewell: Some(retained("kith/state", "offline")),
        ..settings(broker.port(), "kith", &[])
    };
    for (end_well, last) in [(true, "offline"), (false, "vanished")] {
        let client = Client::start(stateful.clone());
        let online = watcher.recv().await;
        assert_eq!(*online.payload, *b"online");
        online.settle();
        if end_well {
            client.stop().await;
        } else {
            client.crash().await;
        }
        let delivery = watcher.recv().await;
        assert_eq!(delivery.payload, last.as_bytes());
        delivery.settle();
    }
    watcher.nothing_arrives().await;
}

#[tokio::test]
async fn two_clients_with_one_id_say_so() {
    let broker = Mosquitto::running();
    let mut first = Client::start(settings(broker.port(), "kith", &["in"]));
    first.connected().await;
    let mut second = Client::start(settings(broker.port(), "kith", &["in"]));
    second.connected().await;
    let state = first
        .state(|state| matches!(state, State::Down { .. }))
        .await;
    assert!(
        state
            .to_string()
            .contains("another client has our client id"),
        "{state}"
    );
}

/// More messages are in flight in the session than the new maximum allows.
#[tokio::test]
async fn a_lower_receive_maximum_does_not_lock_us_out_of_the_session() {
    let broker = Mosquitto::running();
    let mut client = Client::start(settings(broker.port(), "kith", &["in"]));
    client.connected().await;
    let mut held = Vec::new();
    for number in 0..16 {
        client.publish("in", number.to_string()).await;
        held.push(client.recv().await);
    }
    client.crash().await;
    let mut client = Client::start(Settings {
        receive_maximum: 2,
        ..settings(broker.port(), "kith", &["in"])
    });
    for number in 0..16 {
        let delivery = client.recv().await;
        assert_eq!(delivery.payload, number.to_string().as_bytes());
        delivery.settle();
    }
    client.nothing_arrives().await;
}

#[tokio::test]
async fn nothing_is_lost_while_both_connections_are_cut_repeatedly() {
    const MESSAGES: u32 = 1000;
    let broker = Mosquitto::running();
    let line = Line::to(broker.port()).await;
    let mut client = Client::start(settings(line.port(), "kith", &["in"]));
    client.connected().await;
    let camera = Client::start(settings(line.port(), "camera", &[]));
    let publisher = camera.publisher.clone();
    let outbox = tokio::spawn(async move {
        for number in 0..MESSAGES {
            let mut payload = number.to_be_bytes().to_vec();
            payload.resize(20_000, 0);
            while publisher
                .publish(message("in", payload.clone()))
                .await
                .is_err()
            {
                publisher.connected().await.unwrap();
            }
        }
    });
    let mut seen = BTreeSet::new();
    let (mut received, mut cuts) = (0, 0);
    // Messages are settled out of order, and the line is cut at times while some are held.
    let mut held = Vec::new();
    while seen.len() < MESSAGES as usize {
        let delivery = client.recv().await;
        received += 1;
        seen.insert(u32::from_be_bytes(
            delivery.payload[..4].try_into().unwrap(),
        ));
        held.push(delivery);
        if held.len() == 5 || fastrand::u8(..) < 64 {
            fastrand::shuffle(&mut held);
            if fastrand::u8(..) < 8 {
                line.cut();
                cuts += 1;
            }
            held.drain(..).for_each(Delivery::settle);
        }
    }
    outbox.await.unwrap();
    eprintln!("{received} deliveries of {MESSAGES} messages over {cuts} cuts");
    assert!(cuts > 0);
}
