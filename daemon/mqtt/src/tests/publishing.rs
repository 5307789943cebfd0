//! Publishes and their acknowledgements, as a scripted broker sees them.

use rumqttc::v5::mqttbytes::v5::PubAckReason;
use tokio::time::sleep;

use super::super::{Message, PublishError};
use super::{BRIEFLY, message, publisher};

#[tokio::test]
async fn a_publish_resolves_only_after_its_own_acknowledgement() {
    let (double, mut client) = publisher(|_| {}).await;
    let mut peer = double.accept_publisher().await;
    client.connected().await;
    let publish = |payload: &str| {
        let (publisher, message) = (client.publisher.clone(), message("out", payload));
        tokio::spawn(async move { publisher.publish(message).await })
    };
    let first = publish("first");
    let (first_id, _) = peer.recv_publish().await;
    let second = publish("second");
    let (second_id, _) = peer.recv_publish().await;
    peer.nothing_comes().await;
    assert!(!first.is_finished() && !second.is_finished());

    peer.puback(second_id, PubAckReason::QuotaExceeded).await;
    assert_eq!(
        second.await.unwrap(),
        Err(PublishError::Refused("QuotaExceeded".to_owned()))
    );
    assert!(!first.is_finished());
    peer.puback(first_id, PubAckReason::Success).await;
    assert_eq!(first.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn publishes_leave_in_order_and_at_most_eight_are_under_way() {
    let (double, mut client) = publisher(|_| {}).await;
    let mut peer = double.accept_publisher().await;
    client.connected().await;
    let publisher = client.publisher.clone();
    let all = tokio::spawn(async move {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..200 {
            let publisher = publisher.clone();
            tasks.spawn(async move { publisher.publish(message("out", number.to_string())).await });
            tokio::task::yield_now().await;
        }
        tasks.join_all().await
    });
    let mut under_way = Vec::new();
    for number in 0..8 {
        let (pkid, payload) = peer.recv_publish().await;
        assert_eq!(payload, number.to_string());
        under_way.push(pkid);
    }
    peer.nothing_comes().await;
    // The oldest unanswered publish holds the window, so its packet id cannot be reused while in
    // use.
    for pkid in under_way.drain(1..) {
        peer.puback(pkid, PubAckReason::Success).await;
    }
    peer.nothing_comes().await;
    peer.puback(under_way[0], PubAckReason::Success).await;
    for number in 8..200 {
        let (pkid, payload) = peer.recv_publish().await;
        assert_eq!(payload, number.to_string());
        peer.puback(pkid, PubAckReason::NoMatchingSubscribers).await;
    }
    assert!(all.await.unwrap().into_iter().all(|result| result.is_ok()));
}

#[tokio::test]
async fn a_broker_that_takes_one_message_at_a_time_gets_one_at_a_time() {
    let (double, client) = publisher(|_| {}).await;
    let mut peer = double.accept().await;
    peer.connack(|broker| broker.receive_max = Some(1)).await;
    client.publisher.connected().await.unwrap();
    let (one, two) = (client.publisher.clone(), client.publisher.clone());
    let one = tokio::spawn(async move { one.publish(message("out", "one")).await });
    let (pkid, _) = peer.recv_publish().await;
    let two = tokio::spawn(async move { two.publish(message("out", "two")).await });
    peer.nothing_comes().await;
    peer.puback(pkid, PubAckReason::Success).await;
    let (pkid, payload) = peer.recv_publish().await;
    assert_eq!(payload, "two");
    peer.puback(pkid, PubAckReason::Success).await;
    assert_eq!((one.await.unwrap(), two.await.unwrap()), (Ok(()), Ok(())));
}

#[tokio::test]
async fn every_unfinished_publish_fails_when_the_connection_is_lost() {
    let (double, client) = publisher(|_| {}).await;
    let mut peer = double.accept_publisher().await;
    client.publisher.connected().await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let publisher = client.publisher.clone();
        tasks.spawn(async move { publisher.publish(message("out", "result")).await });
    }
    peer.recv_publish().await;
    drop(peer);
    let results = tasks.join_all().await;
    assert!(
        results
            .iter()
            .all(|result| *result == Err(PublishError::Disconnected)),
        "{results:?}"
    );

    // Nothing is sent again on the next connection: the caller repeats it.
    let mut peer = double.accept_publisher().await;
    peer.nothing_comes().await;
}

#[tokio::test]
async fn a_publish_too_large_for_the_broker_costs_no_connection() {
    let (double, client) = publisher(|_| {}).await;
    let mut peer = double.accept().await;
    peer.connack(|broker| {
        broker.max_packet_size = Some(100);
        broker.retain_available = Some(0);
    })
    .await;
    client.publisher.connected().await.unwrap();
    let publish = |message: Message| client.publisher.publish(message);
    // Packet size: 1 type, 1 length, 2 + 3 topic, 2 packet id, 1 properties.
    assert_eq!(
        publish(message("out", vec![0; 91])).await,
        Err(PublishError::TooLarge {
            bytes: 101,
            limit: 100
        })
    );
    let kept = publish(Message {
        retain: true,
        ..message("out", "state")
    })
    .await;
    assert!(matches!(kept, Err(PublishError::Refused(_))));
    for topic in ["", "a/+", "#", "nul\0"] {
        assert_eq!(
            publish(message(topic, "x")).await,
            Err(PublishError::InvalidTopic(topic.to_owned()))
        );
    }
    let exact = tokio::spawn({
        let publisher = client.publisher.clone();
        async move { publisher.publish(message("out", vec![b'0'; 90])).await }
    });
    let (pkid, _) = peer.recv_publish().await;
    peer.puback(pkid, PubAckReason::Success).await;
    assert_eq!(exact.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn a_broker_that_owes_an_answer_too_long_gets_a_new_connection() {
    let (double, mut client) = publisher(|settings| settings.stalled_after = BRIEFLY).await;
    let mut peer = double.accept_publisher().await;
    client.connected().await;
    sleep(2 * BRIEFLY).await; // Idle is not stalled.
    let publisher = client.publisher.clone();
    let publish = tokio::spawn(async move { publisher.publish(message("out", "result")).await });
    peer.recv_publish().await;
    peer.hung_up().await;
    assert_eq!(publish.await.unwrap(), Err(PublishError::Disconnected));
    let mut peer = double.accept_publisher().await;
    client.connected().await;
    peer.nothing_comes().await;
}
