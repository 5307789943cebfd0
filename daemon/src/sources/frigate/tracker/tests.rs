//! The state machine of events with a clock of its own.

use super::*;

fn rules(pictures: u32) -> Rules {
    Rules {
        labels: vec!["person".into()],
        cameras: Vec::new(),
        every: Duration::from_secs(1),
        pictures,
        news: Duration::from_secs(3600),
    }
}

fn event(start: f64, camera: &str) -> Event {
    Event {
        id: format!("{start}-{camera}"),
        camera: camera.into(),
        label: "person".into(),
        start,
        ended: false,
        false_positive: false,
        has_snapshot: true,
        best: Some(start),
    }
}

fn ended(event: &Event) -> Event {
    Event {
        ended: true,
        ..event.clone()
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// Looks until nothing is due any more, a second at a time; returns the shots of each second.
fn follow(tracker: &mut Tracker, now: &mut Instant, seconds: usize) -> Vec<Vec<Shot>> {
    let mut shots = Vec::new();
    for _ in 0..seconds {
        while let Some(look) = tracker.next(*now) {
            let taken = look.shots.len().min(look.left as usize) as u32;
            tracker.looked(&look, taken, Seen::All, *now);
            shots.push(look.shots);
        }
        *now += SECOND;
    }
    shots
}

#[tokio::test(start_paused = true)]
async fn an_event_gets_its_pictures_each_second_and_one_at_the_end() {
    let (mut tracker, mut now) = (Tracker::new(rules(5)), Instant::now());
    let one = event(100.0, "door");
    assert_eq!(tracker.note(one.clone(), now, None), Noted::Begun);
    assert_eq!(tracker.note(one.clone(), now, None), Noted::Nothing);
    let shots = follow(&mut tracker, &mut now, 5);
    assert_eq!(
        shots,
        [
            vec![Shot::Best, Shot::Latest],
            vec![Shot::Latest],
            vec![Shot::Latest]
        ]
    );
    assert_eq!(tracker.due(), None);
    let better = Event {
        best: Some(103.0),
        ..ended(&one)
    };
    tracker.note(better, now, None);
    assert_eq!(follow(&mut tracker, &mut now, 5), [[Shot::Final]]);
    assert_eq!(tracker.counts(), (0, 0));
    assert_eq!(
        tracker.note(one, now, None),
        Noted::Nothing,
        "it began again"
    );
    assert_eq!(tracker.position(), Some(40.0));
}

#[tokio::test(start_paused = true)]
async fn the_best_picture_is_fetched_again_only_when_it_is_another() {
    let (mut tracker, mut now) = (Tracker::new(rules(100)), Instant::now());
    let one = event(100.0, "door");
    tracker.note(one.clone(), now, None);
    follow(&mut tracker, &mut now, 2);
    tracker.note(
        Event {
            best: Some(101.5),
            ..one.clone()
        },
        now,
        None,
    );
    assert_eq!(
        follow(&mut tracker, &mut now, 2),
        [vec![Shot::Best, Shot::Latest], vec![Shot::Latest]]
    );
    // At the end it is the same still.
    let same = Event {
        best: Some(101.5),
        ..ended(&one)
    };
    tracker.note(same, now, None);
    assert_eq!(tracker.counts(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn several_people_at_a_camera_are_cut_out_of_it() {
    let (mut tracker, mut now) = (Tracker::new(rules(10)), Instant::now());
    tracker.note(event(100.0, "door"), now, None);
    tracker.note(event(101.0, "door"), now, None);
    tracker.note(event(102.0, "yard"), now, None);
    let shots = follow(&mut tracker, &mut now, 1);
    assert_eq!(
        shots,
        [
            vec![Shot::Cut],
            vec![Shot::Cut],
            vec![Shot::Best, Shot::Latest]
        ]
    );
    tracker.note(ended(&event(100.0, "door")), now, None);
    assert_eq!(
        follow(&mut tracker, &mut now, 1),
        [[Shot::Latest], [Shot::Latest]]
    );
}

#[tokio::test(start_paused = true)]
async fn what_frigate_lacks_is_asked_for_a_few_times_only() {
    let (mut tracker, mut now) = (Tracker::new(rules(10)), Instant::now());
    let one = event(100.0, "door");
    tracker.note(ended(&one), now, None);
    let mut tries = 0;
    for _ in 0..60 {
        if let Some(look) = tracker.next(now) {
            assert_eq!(look.shots, [Shot::Final]);
            tracker.looked(&look, 0, Seen::Missing, now);
            tries += 1;
        }
        now += SECOND;
    }
    assert_eq!((tries, tracker.counts()), (MISSING, (0, 0)));
    let without = Event {
        has_snapshot: false,
        ..ended(&event(200.0, "door"))
    };
    tracker.note(without, now, None);
    assert_eq!(tracker.counts(), (0, 0), "there is nothing to fetch");
}

#[tokio::test(start_paused = true)]
async fn while_frigate_is_away_the_waits_grow_and_end_with_it() {
    let (mut tracker, mut now) = (Tracker::new(rules(10)), Instant::now());
    tracker.note(ended(&event(100.0, "door")), now, Some(100.0));
    let mut waits = Vec::new();
    for _ in 0..7 {
        let look = tracker.next(now).unwrap();
        tracker.looked(&look, 0, Seen::Later, now);
        waits.push(tracker.due().unwrap() - now);
        now = tracker.due().unwrap();
    }
    assert_eq!(waits.map_secs(), [1, 2, 4, 8, 16, 30, 30]);
    let look = tracker.next(now).unwrap();
    tracker.looked(&look, 0, Seen::Later, now);
    assert_eq!(tracker.next(now), None);
    tracker.hurry(now);
    assert!(tracker.next(now).is_some());
    // After an hour it is no news any more.
    tracker.begin_anew();
    tracker.expire(3600.0);
    assert_eq!(tracker.counts(), (0, 1));
    tracker.expire(3701.0);
    assert_eq!(tracker.counts(), (0, 0));
}

trait Seconds {
    fn map_secs(&self) -> Vec<u64>;
}

impl Seconds for Vec<Duration> {
    fn map_secs(&self) -> Vec<u64> {
        self.iter().map(Duration::as_secs).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn other_labels_and_cameras_old_and_false_events_do_not_count() {
    let mut choice = rules(10);
    choice.cameras = vec!["door".into()];
    let (mut tracker, now) = (Tracker::new(choice), Instant::now());
    let good = event(5000.0, "door");
    for wrong in [
        event(5000.0, "yard"),
        Event {
            label: "car".into(),
            ..good.clone()
        },
        Event {
            false_positive: true,
            ..good.clone()
        },
        event(100.0, "door"),
    ] {
        assert_eq!(tracker.note(wrong, now, Some(5000.0)), Noted::Nothing);
    }
    assert_eq!(tracker.note(good, now, Some(5000.0)), Noted::Begun);
}

#[tokio::test(start_paused = true)]
async fn an_end_during_a_look_is_followed_by_the_last_one() {
    let (mut tracker, mut now) = (Tracker::new(rules(10)), Instant::now());
    let one = event(100.0, "door");
    tracker.note(one.clone(), now, None);
    let look = tracker.next(now).unwrap();
    let better = Event {
        best: Some(101.0),
        ..ended(&one)
    };
    tracker.note(better, now, None);
    assert_eq!(tracker.next(now), None, "two looks at one event");
    tracker.looked(&look, 2, Seen::All, now);
    assert_eq!(follow(&mut tracker, &mut now, 1), [[Shot::Final]]);
}

#[tokio::test(start_paused = true)]
async fn the_number_of_watched_and_remembered_events_is_bounded() {
    let (mut tracker, now) = (Tracker::new(rules(10)), Instant::now());
    for at in 0..MOST_WATCHED {
        assert_eq!(tracker.note(event(at as f64, "c"), now, None), Noted::Begun);
    }
    assert_eq!(tracker.note(event(1e6, "c"), now, None), Noted::Over);
    for at in 0..2 * MOST_DONE {
        tracker.forget(at.to_string());
    }
    assert_eq!(
        (tracker.done.len(), tracker.done_order.len()),
        (MOST_DONE, MOST_DONE)
    );
}

#[tokio::test(start_paused = true)]
async fn one_picture_an_event_is_the_one_at_its_begin() {
    let (mut tracker, mut now) = (Tracker::new(rules(1)), Instant::now());
    let one = event(100.0, "door");
    tracker.note(one.clone(), now, None);
    let look = tracker.next(now).unwrap();
    assert_eq!((look.left, look.first), (1, true));
    // A picture of an earlier run counts.
    tracker.looked(&look, 1, Seen::All, now);
    assert!(follow(&mut tracker, &mut now, 3).is_empty());
    tracker.note(ended(&one), now, None);
    assert_eq!(tracker.counts(), (0, 0));
}
