//! A hostile broker can end a connection, and do no other harm.

use std::time::{Duration, Instant};

use super::super::{Settings, Version};
use super::hostile_broker::{HostileBroker, hostile, publish};
use super::{Client, settings};

/// Duration of random packets in every run; `KITHD_FULL` asks for ten minutes.
fn how_long() -> Duration {
    Duration::from_secs(if std::env::var_os("KITHD_FULL").is_some() {
        600
    } else {
        4
    })
}

async fn survives(version: Version, level: u8) {
    let broker = HostileBroker::running();
    let mut client = Client::start(Settings {
        version,
        max_packet_bytes: 100_000,
        reconnect_least: Duration::from_millis(1),
        reconnect_most: Duration::from_millis(2),
        ..settings(broker.port(), "kith", &["+/snapshot", "in"])
    });
    let (begun, mut sent) = (Instant::now(), 0_u64);
    while begun.elapsed() < how_long() {
        if broker.send("kith", &hostile(level, &["in", "a/snapshot"])) {
            sent += 1;
        }
        // Deliveries are discarded.
        while let Ok(Some(delivery)) =
            tokio::time::timeout(Duration::ZERO, client.deliveries.recv()).await
        {
            delivery.settle();
        }
        assert!(
            !client.task.is_finished(),
            "the connection's task ended after {sent} packets"
        );
    }
    println!(
        "MQTT {level}: {sent} packets, {} connections",
        broker.connections()
    );
    broker.cut();
    // A good message is taken on whichever connection comes next.
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut id = 1000;
    while !broker.has_acknowledged(id) {
        assert!(
            Instant::now() < deadline,
            "a good message was not taken any more"
        );
        id += 1;
        broker.send("kith", &publish(level, b"in", id, &[], b"good"));
        let arrived = tokio::time::timeout(Duration::from_millis(200), async {
            loop {
                let Some(delivery) = client.deliveries.recv().await else {
                    break;
                };
                delivery.settle();
            }
        });
        let _ = arrived.await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_packets_of_mqtt_5_end_no_task() {
    survives(Version::Five, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_packets_of_mqtt_3_1_1_end_no_task() {
    survives(Version::Three, 4).await;
}
