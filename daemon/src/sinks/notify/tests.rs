//! Targets and sightings for the tests of this folder; waits, and pictures that are kept.

use super::*;
use crate::config::{Config, Raw};

/// A webhook with more lines of configuration.
pub fn target(more: &str) -> Notify {
    target_at("webhook = \"http://127.0.0.1:9/hook\"", more)
}

/// A target at an address.
pub fn target_at(address: &str, more: &str) -> Notify {
    let text = format!("[[notify]]\nname = \"a\"\n{address}\n{more}");
    let config = Config::check(Raw::parse(&text)).0;
    config.unwrap().notify.remove(0)
}

/// A sighting as a message.
pub fn sighting(outcome: Outcome) -> SightingMessage {
    SightingMessage {
        step: SightingStep::Begin,
        sighting_id: "s".into(),
        device: "board".into(),
        source: "front".into(),
        began_ms: 1000,
        last_ms: 2000,
        ended_ms: None,
        before: None,
        after: SightingState {
            outcome,
            person: None,
            stranger: None,
            distance: None,
            margin: None,
            looks: 1,
            quality: None,
            face: None,
        },
    }
}

#[test]
fn waits_double_up_to_a_limit_and_spread() {
    let wait = |failures, chance| wait_after(failures, chance).as_millis();
    assert_eq!((wait(1, 0.0), wait(1, 1.0)), (1500, 2500));
    assert_eq!((wait(4, 0.5), wait(8, 0.5)), (16_000, 256_000));
    assert_eq!((wait(9, 0.5), wait(u32::MAX, 0.5)), (300_000, 300_000));
}

#[tokio::test]
async fn a_kept_picture_goes_along_if_it_is_a_jpeg_of_some_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kept");
    assert_eq!(kept_jpeg(path.clone()).await, None);
    let small = [&[0xFF, 0xD8, 0xFF][..], &[0; 9]].concat();
    std::fs::write(&path, &small).unwrap();
    assert_eq!(kept_jpeg(path.clone()).await, Some(small.clone()));
    std::fs::write(&path, [&small[..], &vec![0; 4 << 20]].concat()).unwrap();
    assert_eq!(kept_jpeg(path.clone()).await, None);
    std::fs::write(&path, b"\x89PNG").unwrap();
    assert_eq!(kept_jpeg(path).await, None);
}
