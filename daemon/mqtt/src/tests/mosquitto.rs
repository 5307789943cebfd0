//! Behaviour with a real broker while nothing fails.

use super::super::{Message, PublishError, Settings, State};
use super::broker::{self, Mosquitto};
use super::{Client, message, settings};

#[tokio::test]
async fn a_message_arrives_whole_with_its_content_type() {
    let broker = Mosquitto::running();
    let mut client = Client::start(settings(broker.port(), "kith", &["in/#"]));
    assert_eq!(
        client.connected().await,
        State::Connected {
            session_present: false
        }
    );
    let picture = Message {
        content_type: Some("image/jpeg".to_owned()),
        ..message("in/door", vec![0xff, 0, 0xd8])
    };
    client.publisher.publish(picture).await.unwrap();
    let delivery = client.recv().await;
    assert_eq!(delivery.topic, "in/door");
    assert_eq!(*delivery.payload, [0xff, 0, 0xd8]);
    assert_eq!(delivery.content_type.as_deref(), Some("image/jpeg"));
    assert!(!delivery.retain && !delivery.redelivered);
    delivery.settle();
}

#[tokio::test]
async fn a_message_of_eight_mebibytes_arrives_and_is_acknowledged() {
    let broker = Mosquitto::running();
    let mut client = Client::start(settings(broker.port(), "kith", &["in"]));
    client.connected().await;
    let large: Vec<u8> = (0..8 * 1024 * 1024)
        .map(|index| (index % 251) as u8)
        .collect();
    client.publish("in", large.clone()).await;
    let delivery = client.recv().await;
    assert!(delivery.payload == large);
    delivery.settle();
    client.nothing_arrives().await;
}

#[tokio::test]
async fn a_message_above_our_limit_does_not_stop_those_behind_it() {
    let broker = Mosquitto::running();
    let mut client = Client::start(Settings {
        max_packet_bytes: 100_000,
        ..settings(broker.port(), "kith", &["in"])
    });
    client.connected().await;
    client.publish("in", "before").await;
    client.publish("in", vec![0; 200_000]).await;
    client.publish("in", "behind").await;
    for expected in ["before", "behind"] {
        let delivery = client.recv().await;
        assert_eq!(delivery.payload, expected.as_bytes());
        delivery.settle();
    }
    assert!(client.state.borrow().is_connected());
}

/// The broker kept the message while the client was away.
#[tokio::test]
async fn a_too_large_kept_message_does_not_stop_those_behind_it() {
    let broker = Mosquitto::running();
    let limited = Settings {
        max_packet_bytes: 100_000,
        ..settings(broker.port(), "kith", &["in"])
    };
    let mut client = Client::start(limited.clone());
    client.connected().await;
    client.stop().await;
    let mut camera = Client::start(settings(broker.port(), "camera", &[]));
    camera.connected().await;
    for payload in [vec![1; 10], vec![0; 200_000], vec![2; 10]] {
        camera.publish("in", payload).await;
    }
    let mut client = Client::start(limited);
    for expected in [1, 2] {
        let delivery = client.recv().await;
        assert_eq!(*delivery.payload, [expected; 10]);
        delivery.settle();
    }
}

#[tokio::test]
async fn a_publish_above_the_brokers_limit_is_refused_here() {
    let broker = Mosquitto::running_with("max_packet_size 10000", &[]);
    let mut client = Client::start(settings(broker.port(), "kith", &[]));
    client.connected().await;
    let refused = client
        .publisher
        .publish(message("out", vec![0; 20_000]))
        .await;
    assert!(
        matches!(refused, Err(PublishError::TooLarge { limit: 10_000, .. })),
        "{refused:?}"
    );
    client.publish("out", vec![0; 5_000]).await;
}

/// It sends the next message once one is settled.
#[tokio::test]
async fn the_broker_keeps_to_the_receive_maximum() {
    let broker = Mosquitto::running();
    let mut client = Client::start(Settings {
        receive_maximum: 3,
        ..settings(broker.port(), "kith", &["in"])
    });
    client.connected().await;
    for number in 0..5 {
        client.publish("in", number.to_string()).await;
    }
    let mut held = [
        client.recv().await,
        client.recv().await,
        client.recv().await,
    ]
    .into_iter();
    client.nothing_arrives().await;
    held.next().unwrap().settle();
    assert_eq!(*client.recv().await.payload, *b"3");
}

#[tokio::test]
async fn a_wrong_password_is_a_state_of_its_own() {
    let broker = Mosquitto::running_with("password_file passwords", &[("passwords", "")]);
    let wrong = Settings {
        username: Some("kith".to_owned()),
        password: Some("wrong".to_owned()),
        ..settings(broker.port(), "kith", &[])
    };
    let mut client = Client::start(wrong);
    let state = client
        .state(|state| matches!(state, State::Refused { .. }))
        .await;
    assert!(state.to_string().contains("NotAuthorized"), "{state}");
}

#[tokio::test]
async fn a_publish_the_broker_forbids_is_refused_with_its_reason() {
    let broker = Mosquitto::running_with("acl_file acl", &[("acl", "topic readwrite allowed\n")]);
    let mut client = Client::start(settings(broker.port(), "kith", &[]));
    client.connected().await;
    client.publish("allowed", "x").await;
    let refused = client.publisher.publish(message("forbidden", "x")).await;
    assert_eq!(
        refused,
        Err(PublishError::Refused("NotAuthorized".to_owned()))
    );
}

#[tokio::test]
async fn a_subscription_granted_at_a_lower_quality_is_a_refusal() {
    let broker = Mosquitto::running_with("max_qos 0", &[]);
    let mut client = Client::start(settings(broker.port(), "kith", &["in"]));
    let state = client.connected().await;
    assert!(
        state.to_string().contains("in (granted at QoS 0 only)"),
        "{state}"
    );
}

#[tokio::test]
async fn a_subscription_the_broker_forbids_is_named_in_the_state() {
    // Access lists forbid messages but grant every subscription; only the plugin refuses one.
    let Some(plugin) = broker::dynamic_security_plugin() else {
        eprintln!("not tested: mosquitto's dynamic security plugin is not installed");
        return;
    };
    let access = r#"{"defaultACLAccess": {"publishClientSend": true, "publishClientReceive": true, "subscribe": false}}"#;
    let configuration = format!(
        "plugin {}\nplugin_opt_config_file access.json",
        plugin.display()
    );
    let broker = Mosquitto::running_with(&configuration, &[("access.json", access)]);
    let mut client = Client::start(settings(broker.port(), "kith", &["in"]));
    let state = client.connected().await;
    assert!(state.to_string().contains("in (NotAuthorized)"), "{state}");
    client.publish("out", "result").await;
}
