//! Messages taken and acknowledged, as a scripted broker sees them.

use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason, SubscribeReasonCode};
use tokio::time::sleep;

use super::super::state::{Hindrances, Refusal};
use super::super::{Delivery, Settings, State};
use super::double::Double;
use super::{BRIEFLY, Client, PATIENCE, message, settings};

async fn subscriber() -> (Double, Client) {
    let double = Double::listen().await;
    let client = Client::start(settings(double.port(), "kith", &["in"]));
    (double, client)
}

#[tokio::test]
async fn acknowledgements_leave_in_arrival_order() {
    let (double, mut client) = subscriber().await;
    let mut peer = double.accept_subscribed().await;
    for pkid in [11, 5, 12] {
        peer.publish(pkid, "picture").await;
    }
    let (first, second, third) = (
        client.recv().await,
        client.recv().await,
        client.recv().await,
    );
    third.settle();
    second.settle();
    peer.nothing_comes().await;
    first.settle();
    assert_eq!(
        [
            peer.recv_puback().await,
            peer.recv_puback().await,
            peer.recv_puback().await
        ],
        [11, 5, 12]
    );
}

#[tokio::test]
async fn a_delivery_dropped_unsettled_holds_back_later_acks() {
    let (double, mut client) = subscriber().await;
    let mut peer = double.accept_subscribed().await;
    for pkid in 1..=3 {
        peer.publish(pkid, "picture").await;
    }
    client.recv().await.settle();
    drop(client.recv().await);
    client.recv().await.settle();
    assert_eq!(peer.recv_puback().await, 1);
    peer.nothing_comes().await;
}

#[tokio::test]
async fn an_ack_of_a_lost_connection_is_not_sent_on_the_next() {
    let (double, mut client) = subscriber().await;
    let mut peer = double.accept_subscribed().await;
    peer.publish(7, "old").await;
    let old = client.recv().await;
    drop(peer);

    let mut peer = double.accept_subscribed().await;
    peer.publish(7, "another message under the same id").await;
    let new = client.recv().await;
    old.settle();
    peer.nothing_comes().await;
    new.settle();
    assert_eq!(peer.recv_puback().await, 7);
}

#[tokio::test]
async fn a_message_untaken_at_a_lost_connection_is_seen_once() {
    let (double, mut client) = subscriber().await;
    let mut peer = double.accept_subscribed().await;
    peer.publish(1, "picture").await;
    sleep(BRIEFLY).await;
    drop(peer);
    let mut peer = double.accept_subscribed().await;
    peer.publish(1, "picture").await;
    client.recv().await.settle();
    assert_eq!(peer.recv_puback().await, 1);
    client.nothing_arrives().await;
}

#[tokio::test]
async fn qos_0_messages_are_dropped_and_counted_while_too_many_wait() {
    let double = Double::listen().await;
    let mut client = Client::start(Settings {
        receive_maximum: 4,
        ..settings(double.port(), "kith", &["in"])
    });
    let mut peer = double.accept_subscribed().await;
    for _ in 0..10 {
        peer.publish(0, "unguarded").await;
    }
    peer.publish(1, "guarded").await;
    sleep(BRIEFLY).await;
    for _ in 0..4 {
        assert_eq!(*client.recv().await.payload, *b"unguarded");
    }
    client.recv().await.settle();
    assert_eq!(peer.recv_puback().await, 1);
    assert_eq!(client.deliveries.dropped().count(), 6);
}

/// Memory for two messages of sixty bytes.
async fn small_room(unread_most: Duration) -> (Double, Client) {
    let double = Double::listen().await;
    let settings = Settings {
        max_packet_bytes: 400,
        unread_most,
        ..settings(double.port(), "kith", &["in"])
    };
    let client = Client::start(settings);
    (double, client)
}

fn sixty(pkid: u16) -> String {
    format!("{pkid:060}")
}

#[tokio::test]
async fn messages_without_room_wait_unread_until_there_is_some() {
    let (double, mut client) = small_room(PATIENCE).await;
    let mut peer = double.accept_subscribed().await;
    for pkid in 1..=5 {
        peer.publish(pkid, &sixty(pkid)).await;
    }
    let (first, second) = (client.recv().await, client.recv().await);
    client.nothing_arrives().await;
    first.settle();
    second.settle();
    for pkid in 3..=5 {
        let delivery = client.recv().await;
        assert_eq!(delivery.payload, sixty(pkid).as_bytes());
        delivery.settle();
    }
    for pkid in 1..=5 {
        assert_eq!(peer.recv_puback().await, pkid);
    }
}

#[tokio::test]
async fn messages_that_waited_long_are_asked_for_again() {
    let (double, mut client) = small_room(BRIEFLY).await;
    let mut peer = double.accept_subscribed().await;
    for pkid in 1..=5 {
        peer.publish(pkid, &sixty(pkid)).await;
    }
    let held = [client.recv().await, client.recv().await];
    client.nothing_arrives().await;
    let state = client
        .state(|state| matches!(state, State::Hindered(_)))
        .await;
    assert_eq!(
        state.to_string(),
        "connected, but messages wait at the broker until those that came before them are stored"
    );
    held.into_iter().for_each(Delivery::settle);
    for pkid in 1..=2 {
        assert_eq!(peer.recv_puback().await, pkid);
    }
    assert!(matches!(peer.recv().await, Packet::Disconnect(_)));

    let mut peer = double.accept_subscribed().await;
    client
        .state(|state| matches!(state, State::Connected { .. }))
        .await;
    for pkid in 3..=5 {
        peer.publish(pkid, &sixty(pkid)).await;
        let delivery = client.recv().await;
        assert_eq!(delivery.payload, sixty(pkid).as_bytes());
        delivery.settle();
        assert_eq!(peer.recv_puback().await, pkid);
    }
}

#[tokio::test]
async fn deliveries_of_a_lost_connection_take_their_room_too() {
    let (double, mut client) = small_room(BRIEFLY).await;
    let mut peer = double.accept_subscribed().await;
    for pkid in 1..=2 {
        peer.publish(pkid, &sixty(pkid)).await;
    }
    let held = [client.recv().await, client.recv().await];
    drop(peer);
    let mut peer = double.accept_subscribed().await;
    for pkid in 1..=2 {
        peer.publish(pkid, &sixty(pkid)).await;
    }
    client.nothing_arrives().await;
    assert!(
        client.state.borrow().is_connected(),
        "it is not made anew before there is room"
    );
    held.into_iter().for_each(Delivery::settle);
    assert!(matches!(peer.recv().await, Packet::Disconnect(_)));
    let mut peer = double.accept_subscribed().await;
    peer.publish(1, &sixty(1)).await;
    client.recv().await.settle();
    assert_eq!(peer.recv_puback().await, 1);
}

#[tokio::test]
async fn a_refused_subscription_is_a_state_and_publishing_still_works() {
    let (double, mut client) = subscriber().await;
    let mut peer = double.accept().await;
    peer.connack(|_| {}).await;
    peer.suback(SubscribeReasonCode::NotAuthorized).await;
    let state = client.connected().await;
    let refused = vec![Refusal {
        topic: "in".to_owned(),
        reason: "NotAuthorized".to_owned(),
    }];
    let hindrances = Hindrances {
        subscribe: refused,
        client: "kith".to_owned(),
        ..Hindrances::default()
    };
    assert_eq!(state, State::Hindered(hindrances));
    let said = "connected, but the broker refused to subscribe us to in (NotAuthorized); its \
                access list must let";
    assert!(state.to_string().starts_with(said), "{state}");
    let publisher = client.publisher.clone();
    let publish = tokio::spawn(async move { publisher.publish(message("out", "result")).await });
    let (pkid, _) = peer.recv_publish().await;
    peer.puback(pkid, PubAckReason::Success).await;
    assert_eq!(publish.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn a_filter_that_is_none_is_named_and_the_others_are_subscribed() {
    let double = Double::listen().await;
    let mut client = Client::start(settings(double.port(), "kith", &["a/#/b", "in"]));
    let mut peer = double.accept_subscribed().await;
    let state = client.connected().await;
    let said = "connected, but the broker refused to subscribe us to a/#/b (not a topic filter)";
    assert!(state.to_string().starts_with(said), "{state}");
    peer.publish(1, "picture").await;
    client.recv().await.settle();
    assert_eq!(peer.recv_puback().await, 1);
}

/// The broker ignores the Maximum Packet Size of the CONNECT.
#[tokio::test]
async fn a_too_large_message_is_named_in_the_state() {
    let double = Double::listen().await;
    let settings = Settings {
        max_packet_bytes: 1000,
        ..settings(double.port(), "kith", &["in"])
    };
    let mut client = Client::start(settings);
    let mut peer = double.accept_subscribed().await;
    peer.publish(1, &"x".repeat(5000)).await;
    let state = client
        .state(|state| matches!(state, State::Down { .. }))
        .await;
    assert!(
        state.to_string().contains("although our limit is 1000"),
        "{state}"
    );
    // Once the broker has dropped it, the connection works as before.
    let mut peer = double.accept_subscribed().await;
    peer.publish(2, "picture").await;
    client.recv().await.settle();
    assert_eq!(peer.recv_puback().await, 2);
}
