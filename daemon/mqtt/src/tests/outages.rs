//! Ends and new beginnings of connections, as a scripted broker sees them.

use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::v5::{DisconnectReasonCode, Packet};
use tokio::net::TcpListener;

use super::super::{Settings, State};
use super::double::Double;
use super::{BRIEFLY, Client, message, publisher, settings};

#[tokio::test]
async fn a_broker_silent_on_subscribe_gets_a_new_connection() {
    let double = Double::listen().await;
    let mut client = Client::start(Settings {
        stalled_after: BRIEFLY,
        ..settings(double.port(), "kith", &["in"])
    });
    let mut peer = double.accept().await;
    peer.connack(|_| {}).await;
    assert!(matches!(peer.recv().await, Packet::Subscribe(_)));
    peer.hung_up().await;
    let _peer = double.accept_subscribed().await;
    client.connected().await;
}

#[tokio::test]
async fn the_longest_pause_follows_a_session_taken_by_another_client() {
    let (double, mut client) =
        publisher(|settings| settings.reconnect_most = Duration::from_secs(2)).await;
    let mut peer = double.accept_publisher().await;
    client.connected().await;
    // Sent with an empty list of properties, since rumqttc cannot read it otherwise: see wire.rs.
    peer.send_bytes(&[0xe0, 2, DisconnectReasonCode::SessionTakenOver as u8, 0])
        .await;
    let lost = Instant::now();
    let state = client
        .state(|state| matches!(state, State::Down { .. }))
        .await;
    assert_eq!(
        state.to_string(),
        "no connection: another client has our client id"
    );
    double.accept_publisher().await;
    assert!(
        lost.elapsed() >= Duration::from_millis(1900),
        "{:?}",
        lost.elapsed()
    );
}

#[tokio::test]
async fn a_broker_that_cuts_every_connection_is_not_hammered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let begun = Instant::now();
    let _client = Client::start(settings(port, "kith", &["in"]));
    for _ in 0..6 {
        drop(listener.accept().await);
    }
    // Five pauses of 50, 100, 200, 400 and 400 ms, each halved at most by the jitter.
    assert!(
        begun.elapsed() >= Duration::from_millis(570),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn connections_cut_right_after_they_were_accepted_back_off_too() {
    let (double, _client) = publisher(|_| {}).await;
    let begun = Instant::now();
    for _ in 0..6 {
        double.accept_publisher().await;
    }
    // Five pauses: at least half of 50 + 100 + 200 + 400 + 400 ms.
    assert!(
        begun.elapsed() >= Duration::from_millis(570),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_broker_that_wants_no_keep_alive_is_not_flooded_with_pings() {
    let (double, mut client) = publisher(|_| {}).await;
    let mut peer = double.accept().await;
    peer.connack(|broker| broker.server_keep_alive = Some(0))
        .await;
    client.connected().await;
    // rumqttc sends one ping at once; without our correction it would give up at the second.
    if let Packet::PingReq(_) = peer.recv().await {
        peer.nothing_comes().await;
    }
    assert!(client.state.borrow().is_connected());
}

#[tokio::test]
async fn a_stop_is_bounded_when_the_broker_does_not_answer() {
    let (double, mut client) =
        publisher(|settings| settings.farewell = Some(message("state", "offline"))).await;
    let mut peer = double.accept_publisher().await;
    client.connected().await;
    let begun = Instant::now();
    client.stop().await;
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(peer.recv_publish().await.1, "offline");
    assert!(matches!(peer.recv().await, Packet::Disconnect(_)));
}

#[tokio::test]
async fn a_connection_lost_during_the_farewell_is_a_stop_all_the_same() {
    let (double, mut client) = publisher(|settings| {
        settings.farewell = Some(message("state", "offline"));
    })
    .await;
    let mut peer = double.accept_publisher().await;
    client.connected().await;
    let stop = tokio::spawn(client.stop());
    assert_eq!(peer.recv_publish().await.1, "offline");
    drop(peer);
    stop.await.unwrap();
}

#[tokio::test]
async fn a_client_thrown_out_again_and_again_is_told_so_while_up() {
    let (double, mut client) =
        publisher(|settings| settings.reconnect_most = Duration::from_millis(50)).await;
    for _ in 0..3 {
        let mut peer = double.accept_publisher().await;
        client.state(State::is_connected).await;
        peer.send_bytes(&[0xe0, 2, DisconnectReasonCode::SessionTakenOver as u8, 0])
            .await;
        client
            .state(|state| matches!(state, State::Down { .. }))
            .await;
    }
    let _peer = double.accept_publisher().await;
    let state = client
        .state(|state| matches!(state, State::Hindered(_)))
        .await;
    assert!(
        state
            .to_string()
            .contains("another client has the client id kith (a second board"),
        "{state}"
    );
}
