//! Tracks over made-up faces: places, embeddings and judgements as a camera would give them.

use super::*;

const ALICE: PersonId = 1;
const BOB: PersonId = 2;

/// A camera whose clock stands still between frames.
struct Scene {
    tracks: Tracks,
    now: Instant,
    frame: u64,
    cut: bool,
    sharpness: f32,
    events: Vec<Event>,
}

/// Direction of a person's embedding.
fn embedding(of: usize) -> Vec<f32> {
    let mut embedding = vec![0.0; 8];
    embedding[of] = 1.0;
    embedding
}

fn face(of: usize, x: f32, y: f32, size: f32) -> IdentifiedFace {
    IdentifiedFace {
        bounds: [
            x - size / 2.0,
            y - size / 2.0,
            x + size / 2.0,
            y + size / 2.0,
        ],
        landmarks: [[0.0; 2]; 5],
        score: 1.0,
        quality: 0.9,
        objection: None,
        outcome: Outcome::Unknown,
        person: None,
        distance: Some(0.9),
        margin: None,
        candidates: Vec::new(),
        embedding: embedding(of),
        crop: Vec::new(),
        enrolled_image: None,
    }
}

fn known(person: PersonId, face: IdentifiedFace) -> IdentifiedFace {
    IdentifiedFace {
        outcome: Outcome::Known,
        distance: Some(0.3),
        person: Some(NamedCandidate {
            person_id: person,
            name: format!("person {person}"),
            distance: Some(0.3),
        }),
        ..face
    }
}

fn poor(face: IdentifiedFace) -> IdentifiedFace {
    IdentifiedFace {
        quality: 0.2,
        outcome: Outcome::Uncertain,
        // A blurred face is near to anyone.
        embedding: vec![0.4; 8],
        ..face
    }
}

impl Scene {
    fn new() -> Self {
        let likeness = Likeness {
            metric: Metric::Cosine,
            same_below: 0.52,
            other_from: 0.72,
            replaced_from: 0.82,
            known_from: 0.5,
        };
        Self {
            tracks: Tracks::new(likeness),
            now: Instant::now(),
            frame: 0,
            cut: false,
            sharpness: 1.0,
            events: Vec::new(),
        }
    }

    /// Shows the next frame, a fifth of a second after the one before.
    fn show(&mut self, faces: &[IdentifiedFace]) {
        self.skip(1);
        let frame = Frame {
            number: self.frame,
            sharpness: self.sharpness,
            cut: std::mem::take(&mut self.cut),
            jpeg: Bytes::new(),
        };
        self.events
            .extend(self.tracks.look(&frame, faces, self.now));
    }

    /// Lets frames pass without a look.
    fn skip(&mut self, frames: u64) {
        self.frame += frames;
        self.now += Duration::from_millis(200) * frames as u32;
    }

    fn nobody(&mut self, frames: u64) {
        for _ in 0..frames {
            self.show(&[]);
        }
    }

    fn finish(&mut self) {
        self.events.extend(self.tracks.finish());
    }

    fn begun(&self) -> usize {
        let begun = |event: &&Event| matches!(event, Event::Begun(_));
        self.events.iter().filter(begun).count()
    }

    fn ended(&self) -> Vec<Sight> {
        let ended = |event: &Event| match event {
            Event::Ended(sight) => Some(sight.clone()),
            _ => None,
        };
        self.events.iter().filter_map(ended).collect()
    }

    /// Number of the frame and reason of each picture.
    fn pictures(&self) -> Vec<(u64, Why)> {
        let picture = |event: &Event| match event {
            Event::Picture { why, frame, .. } => Some((frame.number, *why)),
            _ => None,
        };
        self.events.iter().filter_map(picture).collect()
    }

    fn changes(&self) -> Vec<(Outcome, Option<PersonId>)> {
        let change = |event: &Event| match event {
            Event::Changed(sight) => Some((sight.who.outcome, sight.who.known())),
            _ => None,
        };
        self.events.iter().filter_map(change).collect()
    }

    /// The tracks that were seen in the last frame at these places.
    fn track_at(&self, x: f32) -> TrackId {
        let near = |track: &&Track| track.missed == 0 && (centre(track.bounds)[0] - x).abs() < 1.0;
        self.tracks.tracks.iter().find(near).unwrap().id
    }
}

#[test]
fn a_person_who_stays_is_one_track_with_few_pictures() {
    let mut scene = Scene::new();
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..300 {
        let mut jitter = || (random.f32() - 0.5) * 20.0;
        scene.show(&[face(0, 300.0 + jitter(), 200.0 + jitter(), 80.0 + jitter())]);
    }
    scene.finish();
    assert_eq!(scene.begun(), 1);
    let ended = scene.ended();
    assert_eq!((ended.len(), ended[0].looks), (1, 300));
    let pictures = scene.pictures();
    assert_eq!(pictures[0], (1, Why::First));
    assert!(pictures.len() <= 2, "{pictures:?}");
}

#[test]
fn two_who_cross_keep_their_tracks_if_their_faces_differ() {
    let mut scene = Scene::new();
    let mut tracks = (0, 0);
    for n in 0..20_u8 {
        let (left, right) = (100.0 + 20.0 * f32::from(n), 480.0 - 20.0 * f32::from(n));
        let (a, b) = (face(0, left, 200.0, 80.0), face(1, right, 205.0, 80.0));
        match n {
            // The nearer one hides the other.
            9 | 10 => scene.show(&[a]),
            // The engine's order means nothing.
            _ if n % 2 == 0 => scene.show(&[a, b]),
            _ => scene.show(&[b, a]),
        }
        if n == 0 {
            tracks = (scene.track_at(left), scene.track_at(right));
        }
    }
    assert_eq!(tracks, (scene.track_at(480.0), scene.track_at(100.0)));
    assert_eq!(scene.begun(), 2);
}

#[test]
fn two_who_meet_and_turn_back_keep_their_tracks() {
    let mut scene = Scene::new();
    let mut tracks = (0, 0);
    for n in 0..21_u8 {
        // By their movement each would be on the other's side.
        let away = 20.0 * f32::from(n.abs_diff(10)) + 20.0;
        let (left, right) = (300.0 - away, 300.0 + away);
        scene.show(&[face(1, right, 200.0, 60.0), face(0, left, 200.0, 60.0)]);
        let now = (scene.track_at(left), scene.track_at(right));
        if n == 0 {
            tracks = now;
        }
        assert_eq!(now, tracks, "frame {n}");
    }
    assert_eq!(scene.begun(), 2);
}

#[test]
fn two_who_cross_with_poor_faces_follow_their_movement() {
    let mut scene = Scene::new();
    let mut tracks = (0, 0);
    for n in 0..20_u8 {
        let (left, right) = (100.0 + 20.0 * f32::from(n), 480.0 - 20.0 * f32::from(n));
        let (a, b) = (face(0, left, 180.0, 80.0), face(1, right, 220.0, 80.0));
        scene.show(&[poor(a), poor(b)]);
        if n == 0 {
            tracks = (scene.track_at(left), scene.track_at(right));
        }
    }
    assert_eq!(tracks, (scene.track_at(480.0), scene.track_at(100.0)));
}

#[test]
fn a_newcomer_in_the_old_place_gets_a_track_of_their_own() {
    let mut scene = Scene::new();
    for _ in 0..5 {
        scene.show(&[face(0, 300.0, 200.0, 80.0)]);
    }
    for _ in 0..15 {
        scene.show(&[face(1, 300.0, 200.0, 80.0)]);
    }
    assert_eq!((scene.begun(), scene.ended().len()), (2, 1));
    assert_eq!(scene.ended()[0].looks, 5);
}

#[test]
fn a_short_absence_is_one_track_and_a_long_one_two() {
    let mut scene = Scene::new();
    for _ in 0..5 {
        scene.show(&[face(0, 300.0, 200.0, 80.0)]);
    }
    scene.nobody(8);
    assert!(scene.ended().is_empty());
    // Elsewhere in the picture, but the same face.
    scene.show(&[face(0, 600.0, 300.0, 40.0)]);
    assert_eq!(scene.begun(), 1);
    scene.nobody(12);
    assert_eq!(scene.ended().len(), 1);
    scene.show(&[face(0, 300.0, 200.0, 80.0)]);
    assert_eq!(scene.begun(), 2);
}

#[test]
fn frames_that_nothing_looked_at_end_no_track() {
    let mut scene = Scene::new();
    for _ in 0..3 {
        scene.show(&[face(0, 300.0, 200.0, 80.0)]);
    }
    scene.skip(20);
    scene.show(&[face(0, 320.0, 200.0, 80.0)]);
    assert_eq!((scene.begun(), scene.ended().len()), (1, 0));
    // Nothing looks any more.
    scene.skip(20);
    assert!(scene.tracks.expire(scene.now).is_empty());
    scene.skip(20);
    let events = scene.tracks.expire(scene.now);
    assert!(matches!(events.as_slice(), [Event::Ended(_)]), "{events:?}");
}

#[test]
fn a_face_that_runs_is_followed_by_its_movement() {
    let mut scene = Scene::new();
    for n in 0..8_u8 {
        // More than twice its size from look to look, after a first step.
        let x = 100.0 + 55.0 * f32::from(n.min(1)) + 90.0 * f32::from(n.saturating_sub(1));
        scene.show(&[poor(face(0, x, 200.0, 50.0))]);
    }
    assert_eq!(scene.begun(), 1);
    assert_eq!(scene.tracks.tracks.len(), 1);
}

#[test]
fn a_cut_ends_the_tracks_that_are_not_in_the_new_picture() {
    let mut scene = Scene::new();
    for _ in 0..5 {
        scene.show(&[face(0, 300.0, 200.0, 80.0), face(1, 500.0, 200.0, 80.0)]);
    }
    scene.cut = true;
    // The first is seen from elsewhere; where the second was, another one is.
    scene.show(&[face(0, 100.0, 300.0, 200.0), face(2, 500.0, 200.0, 80.0)]);
    assert_eq!((scene.begun(), scene.ended().len()), (3, 1));
    scene.cut = true;
    scene.show(&[]);
    assert_eq!(scene.ended().len(), 3);
}

#[test]
fn a_pattern_seen_once_as_a_poor_face_is_no_track() {
    let mut scene = Scene::new();
    scene.show(&[poor(face(0, 300.0, 200.0, 80.0))]);
    scene.nobody(15);
    scene.finish();
    assert!(scene.events.is_empty(), "{:?}", scene.events);
}

#[test]
fn a_good_face_seen_once_is_a_track_with_a_picture() {
    let mut scene = Scene::new();
    scene.show(&[face(0, 300.0, 200.0, 80.0)]);
    scene.nobody(15);
    assert_eq!(scene.pictures(), [(1, Why::First)]);
    assert_eq!((scene.begun(), scene.ended().len()), (1, 1));
}

#[test]
fn poor_looks_give_a_picture_late_and_a_good_one_at_once() {
    let mut scene = Scene::new();
    for n in 1..=12_u8 {
        let size = if n == 3 { 90.0 } else { 80.0 };
        scene.show(&[poor(face(0, 300.0, 200.0, size))]);
    }
    assert_eq!(scene.pictures(), [(3, Why::First)]);
    scene.show(&[face(0, 300.0, 200.0, 80.0)]);
    assert_eq!(scene.pictures()[1..], [(13, Why::First)]);
    scene.finish();
    assert_eq!(scene.pictures().len(), 2);
}

#[test]
fn the_best_is_taken_at_the_end_only_if_clearly_better() {
    for (nearest, expected) in [(90.0, 1), (240.0, 2)] {
        let mut scene = Scene::new();
        for n in 0..10_u8 {
            let share = f32::from(n.min(6)) / 6.0;
            let size = 80.0 + (nearest - 80.0) * share;
            scene.show(&[face(0, 300.0, 200.0, size)]);
        }
        scene.nobody(15);
        let pictures = scene.pictures();
        assert_eq!(pictures.len(), expected, "{pictures:?}");
        assert!(
            expected == 1 || pictures[1] == (7, Why::Best),
            "{pictures:?}"
        );
    }
}

#[test]
fn a_picture_is_taken_when_it_becomes_clear_who_it_is() {
    let mut scene = Scene::new();
    for _ in 0..3 {
        scene.show(&[face(0, 300.0, 200.0, 80.0)]);
    }
    scene.show(&[known(ALICE, face(0, 300.0, 200.0, 80.0))]);
    for _ in 0..5 {
        scene.show(&[face(0, 300.0, 200.0, 80.0)]);
    }
    scene.finish();
    assert_eq!(scene.pictures(), [(1, Why::First), (4, Why::Clear)]);
    assert_eq!(scene.changes(), [(Outcome::Known, Some(ALICE))]);
    assert_eq!(scene.ended()[0].who.known(), Some(ALICE));
}

#[test]
fn one_look_does_not_make_somebody_out_of_many_unknown_ones() {
    let mut scene = Scene::new();
    for _ in 0..20 {
        scene.show(&[face(0, 300.0, 200.0, 80.0)]);
    }
    scene.show(&[known(ALICE, face(0, 300.0, 200.0, 80.0))]);
    assert!(scene.changes().is_empty());
    for _ in 0..5 {
        scene.show(&[known(ALICE, face(0, 300.0, 200.0, 80.0))]);
    }
    assert_eq!(scene.changes(), [(Outcome::Known, Some(ALICE))]);
}

#[test]
fn a_known_person_becomes_another_only_on_evidence() {
    let mut scene = Scene::new();
    let there = || face(0, 300.0, 200.0, 80.0);
    scene.show(&[known(ALICE, there())]);
    for _ in 0..2 {
        scene.show(&[known(BOB, there())]);
    }
    assert!(scene.changes().is_empty());
    scene.show(&[known(BOB, there())]);
    assert_eq!(scene.changes(), [(Outcome::Known, Some(BOB))]);
    for _ in 0..4 {
        scene.show(&[known(ALICE, there())]);
        scene.show(&[known(BOB, there())]);
    }
    assert_eq!(scene.changes().len(), 1);
    assert_eq!(scene.pictures(), [(1, Why::First), (4, Why::Clear)]);
}

#[test]
fn a_known_person_is_doubted_if_most_looks_are_unknown() {
    let mut scene = Scene::new();
    let there = || face(0, 300.0, 200.0, 80.0);
    scene.show(&[known(ALICE, there())]);
    for _ in 0..10 {
        scene.show(&[there()]);
    }
    assert!(scene.changes().is_empty());
    scene.show(&[there()]);
    assert_eq!(scene.changes(), [(Outcome::Uncertain, None)]);
}

#[test]
fn two_at_once_share_a_picture() {
    let mut scene = Scene::new();
    for _ in 0..5 {
        scene.show(&[face(0, 300.0, 200.0, 80.0), face(1, 500.0, 200.0, 80.0)]);
    }
    scene.nobody(15);
    assert_eq!(scene.pictures(), [(1, Why::First)]);
    assert_eq!(scene.begun(), 2);
    let Some(Event::Picture { tracks, .. }) = scene
        .events
        .iter()
        .find(|event| matches!(event, Event::Picture { .. }))
    else {
        panic!("no picture");
    };
    assert_eq!(tracks.len(), 2);
}

#[test]
fn tracks_and_pictures_are_bounded_whatever_is_seen() {
    let mut scene = Scene::new();
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..200 {
        let faces: Vec<_> = (0..40)
            .map(|_| {
                let (x, y) = (random.f32() * 1280.0, random.f32() * 720.0);
                let mut face = known(random.i64(0..9), face(random.usize(0..8), x, y, 60.0));
                face.quality = random.f32();
                face
            })
            .collect();
        scene.sharpness = random.f32() * 100.0;
        scene.show(&faces);
        assert!(scene.tracks.tracks.len() <= MOST_TRACKS);
    }
    scene.finish();
    let mut each = std::collections::HashMap::<TrackId, u32>::new();
    for event in &scene.events {
        if let Event::Picture { tracks, .. } = event {
            for track in tracks {
                *each.entry(*track).or_default() += 1;
            }
        }
    }
    assert!(
        each.values().all(|count| *count <= MOST_PICTURES + 1),
        "{each:?}"
    );
}

#[test]
fn a_face_without_an_embedding_is_not_followed() {
    let mut scene = Scene::new();
    let mut named = face(0, 300.0, 200.0, 80.0);
    named.embedding.clear();
    scene.show(&[named]);
    assert_eq!(scene.tracks.tracks.len(), 0);
}
