//! Durability seen from outside: every sync of the real daemon is counted, and slowed, by a
//! preloaded library.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::TestDaemon;

struct Run {
    accepted: usize,
    syncs: usize,
    took: Duration,
}

fn run(delay_ms: u64, clients: usize, each: usize) -> Run {
    let mut daemon = TestDaemon::new();
    daemon.preload("slow_sync.c");
    let counter = daemon.folder.path().join("syncs");
    std::fs::write(&counter, "").unwrap();
    daemon.environment("SYNC_COUNTER", counter.to_str().unwrap());
    daemon.environment("SYNC_DELAY_MS", &delay_ms.to_string());
    daemon.start();
    let syncs = || std::fs::metadata(&counter).unwrap().len() as usize;
    let before = syncs();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for client in 0..clients {
            let (url, inbox) = (
                daemon.url("/image/post"),
                daemon.folder.path().join("inbox"),
            );
            scope.spawn(move || {
                let agent: ureq::Agent = ureq::Agent::config_builder().build().into();
                for n in 0..each {
                    let path = inbox.join(format!("{client}-{n}.jpg"));
                    let body = json!({ "path": path }).to_string();
                    let status = agent.post(&url).send(body.as_bytes()).unwrap().status();
                    assert_eq!(status.as_u16(), 202);
                }
            });
        }
    });
    Run {
        accepted: clients * each,
        syncs: syncs() - before,
        took: begun.elapsed(),
    }
}

/// At least 16 of them share one sync.
#[test]
fn one_client_syncs_per_picture_and_64_clients_share_syncs() {
    let alone = run(0, 1, 50);
    assert!(
        alone.syncs >= alone.accepted,
        "{} syncs for {} accepted pictures",
        alone.syncs,
        alone.accepted
    );
    let many = run(0, 64, 20);
    let per_sync = many.accepted as f64 / many.syncs as f64;
    println!("64 clients: {per_sync:.1} accepted pictures per sync");
    assert!(
        per_sync >= 16.0,
        "{} syncs for {} accepted pictures",
        many.syncs,
        many.accepted
    );
}

#[test]
fn with_slow_syncs_64_clients_are_ten_times_as_fast_as_one() {
    let rate = |run: &Run| run.accepted as f64 / run.took.as_secs_f64();
    let (one, many) = (run(10, 1, 60), run(10, 64, 20));
    let ratio = rate(&many) / rate(&one);
    println!(
        "with 10 ms a sync: {:.0}/s and {:.0}/s, ratio {ratio:.1}",
        rate(&one),
        rate(&many)
    );
    // A sleep in every sync dwarfs the noise of this machine: the ratio is a count of shared syncs,
    // not a time.
    assert!(ratio >= 10.0, "{ratio:.1}");
}
