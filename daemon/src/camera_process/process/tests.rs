//! Bursts from a camera made here.

use super::*;

/// Makes a still grey frame with an object in it from `left` on.
fn shot(left: usize) -> Result<Shot, String> {
    let layout = kith_pictures::shot::Layout {
        format: PixelFormat::Rgb,
        width: 64,
        height: 32,
        stride: 3 * 64,
    };
    let frame: Vec<u8> = (0..64 * 32)
        .flat_map(|i| {
            [if (left..left + 16).contains(&(i % 64)) {
                250
            } else {
                90
            }; 3]
        })
        .collect();
    Shot::read(&frame, &layout, 1 << 20)
}

fn settings(lines: &str) -> config::Camera {
    let text = format!("[[camera]]\nname = \"front\"\n{lines}");
    config::Config::check(config::Raw::parse(&text))
        .0
        .unwrap()
        .cameras
        .remove(0)
}

/// Feeds frames, ten a second; returns how many were written as pictures.
fn pictures(
    taking: &mut Taking<'_, Vec<u8>>,
    frames: &mut Instant,
    shots: impl Iterator<Item = usize>,
) -> usize {
    taking.out.clear();
    for left in shots {
        *frames += Duration::from_millis(100);
        if taking.wants(*frames).unwrap() {
            taking.frame(shot(left), *frames).unwrap();
        }
    }
    taking
        .out
        .windows(7)
        .filter(|part| part == b"\"frame\"")
        .count()
}

#[test]
fn a_burst_is_taken_every_interval_and_missed_ones_are_skipped() {
    let settings = settings("every = \"2s\"\nburst = 3\n");
    let mut taking = Taking::new(&settings, 1 << 20, Vec::new());
    let mut now = Instant::now();
    assert_eq!(
        pictures(&mut taking, &mut now, std::iter::repeat_n(0, 10)),
        3
    );
    assert_eq!(
        pictures(&mut taking, &mut now, std::iter::repeat_n(0, 20)),
        3
    );
    now += Duration::from_secs(60);
    assert_eq!(
        pictures(&mut taking, &mut now, std::iter::repeat_n(0, 19)),
        3
    );
}

#[test]
fn motion_takes_a_burst_and_a_still_room_none() {
    let settings = settings("motion = true\nburst = 2\n");
    let mut taking = Taking::new(&settings, 1 << 20, Vec::new());
    let mut now = Instant::now();
    assert_eq!(
        pictures(&mut taking, &mut now, std::iter::repeat_n(0, 50)),
        0
    );
    assert_eq!(pictures(&mut taking, &mut now, 1..40), 2);
}

#[test]
fn broken_frames_leave_the_burst_and_only_they_end_the_process() {
    let settings = settings("every = \"2s\"\nburst = 2\nstall_after = \"5s\"\n");
    let mut taking = Taking::new(&settings, 1 << 20, Vec::new());
    let mut now = Instant::now();
    for _ in 0..WARM_UP {
        assert!(!taking.wants(now).unwrap());
    }
    for shot in [shot(0), Err("torn".into()), shot(0)] {
        now += Duration::from_millis(100);
        assert!(taking.wants(now).unwrap());
        taking.frame(shot, now).unwrap();
    }
    assert!(taking.out.windows(11).any(|part| part == b"\"last\":true"));
    assert_eq!(taking.broken, 1);
    taking.broken("torn", now).unwrap();
    let error = taking
        .broken("torn", now + Duration::from_secs(5))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "only broken frames came for 5s, the last: torn"
    );
}

/// Returns the looks that were written.
async fn looks(written: &[u8]) -> Vec<(bool, bool)> {
    let (mut written, mut looks) = (written, Vec::new());
    while let Ok((message, jpeg)) = wire::read(&mut written, 1 << 20).await {
        if let Message::Look { cut, moves, .. } = message {
            assert!(jpeg.starts_with(b"\xff\xd8"));
            looks.push((cut, moves));
        }
    }
    looks
}

#[tokio::test]
async fn a_followed_camera_hands_frames_over_with_what_moves() {
    let settings = settings("follow = true\nfollow_rate = 5\n");
    let mut taking = Taking::new(&settings, 1 << 20, Vec::new());
    let mut now = Instant::now();
    assert_eq!(
        pictures(&mut taking, &mut now, std::iter::repeat_n(0, 105)),
        0
    );
    // Ten frames a second came, of which the first five warm up.
    assert_eq!(looks(&taking.out).await, [(false, false); 50]);
    pictures(&mut taking, &mut now, 1..40);
    let looks = looks(&taking.out).await;
    assert_eq!(looks.len(), 20);
    assert!(looks[2..].iter().all(|(_, moves)| *moves), "{looks:?}");
}
