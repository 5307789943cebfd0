//! Tracks over the clips of `../shared/video`, which a person has watched. The networks and the
//! judgement are the real ones, at five frames a second.

use std::path::{Path, PathBuf};
use std::process::Command;

use kith_pictures::shot::{Layout, PixelFormat, Shot, is_cut};
use kith_vision::{Caution, Device, Gallery, Pack, Precision, Rgb, Search, Vision};

use super::*;

const RATE: u32 = 5;

/// Returns a file of the clips; `None` where they are not beside the repository.
fn clip(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/video");
    if !folder.is_dir() {
        println!("not run: the clips are not beside the repository");
        return None;
    }
    Some(folder.join(name))
}

/// Follows the faces of a clip; returns the tracks and the numbers of the frames for the queue,
/// which begin with 0.
fn follow(clip: &Path, enrolled: &Path) -> (Vec<Sight>, Vec<(u64, Why)>) {
    let pack =
        Pack::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/packs/sface")).unwrap();
    let vision = Vision::load(&pack, Precision::Int8, Device::Cpu)
        .unwrap()
        .on_cores(2);
    let find = |bytes: &[u8]| {
        let picture = image::load_from_memory(bytes).unwrap().to_rgb8();
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let search = Search {
            min_face_px: vision.smallest_face(width, height),
            max_faces: 20,
            turned: false,
        };
        let picture = Rgb::new(width, height, picture.into_raw()).unwrap();
        vision.recognise(&picture, &search).unwrap().faces
    };
    let mut gallery = Gallery::of(pack.matching(), pack.dimension());
    let enrolled = find(&std::fs::read(enrolled).unwrap());
    gallery.push(1, 1, &enrolled[0].embedding).unwrap();
    let limits = pack.matching().limits(Caution::Balanced, 1, 1);
    let known_from = pack.quality_limits().known_from;
    let identified = |face: kith_vision::Face| {
        let verdict = limits.judge(&gallery.nearest(&face.embedding, 3).unwrap());
        let outcome = match verdict.outcome {
            kith_vision::Outcome::Known if face.quality.score >= known_from => Outcome::Known,
            kith_vision::Outcome::Unknown => Outcome::Unknown,
            _ => Outcome::Uncertain,
        };
        let bounds = face.bounds;
        IdentifiedFace {
            bounds: [bounds.left, bounds.top, bounds.right, bounds.bottom],
            landmarks: face.landmarks,
            score: face.score,
            quality: face.quality.score,
            objection: None,
            outcome,
            person: verdict.person.map(|person_id| NamedCandidate {
                person_id,
                name: String::new(),
                distance: verdict.distance,
            }),
            distance: verdict.distance,
            margin: verdict.margin,
            candidates: Vec::new(),
            embedding: face.embedding,
            crop: Vec::new(),
            enrolled_image: None,
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(clip)
        .args(["-vf", &format!("fps={RATE}"), "-q:v", "3"])
        .arg(folder.path().join("%04d.jpg"))
        .status();
    assert!(made.unwrap().success(), "ffmpeg is needed");
    let mut files: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut tracks = Tracks::new(Likeness::of(&pack));
    let (mut before, mut events) = (Vec::new(), Vec::new());
    let start = Instant::now();
    for (number, file) in (0..).zip(files) {
        let jpeg = Bytes::from(std::fs::read(file).unwrap());
        let layout = Layout {
            format: PixelFormat::Mjpeg,
            width: 1280,
            height: 720,
            stride: 0,
        };
        let shot = Shot::read(&jpeg, &layout, jpeg.len()).unwrap();
        let cells = shot.cells();
        let frame = Frame {
            number,
            sharpness: shot.sharpness(),
            cut: number > 0 && is_cut(&before, &cells),
            jpeg: jpeg.clone(),
        };
        before = cells;
        let faces: Vec<_> = find(&jpeg).into_iter().map(identified).collect();
        let now = start + Duration::from_secs(1) * number as u32 / RATE;
        println!(
            "frame {number}{}",
            if frame.cut { ", after a cut" } else { "" }
        );
        for face in &faces {
            let distances: Vec<_> = tracks
                .tracks
                .iter()
                .map(|track| (track.id, track.distance(face, &tracks.likeness)))
                .collect();
            println!(
                "    {:4.0?} {:.2} {} {:.2?} {distances:.2?}",
                face.bounds, face.quality, face.outcome, face.distance
            );
        }
        events.extend(tracks.look(&frame, &faces, now));
    }
    events.extend(tracks.finish());
    let ended = |event: &Event| match event {
        Event::Ended(sight) => Some(sight.clone()),
        _ => None,
    };
    let picture = |event: &Event| match event {
        Event::Picture { why, frame, .. } => Some((frame.number, *why)),
        _ => None,
    };
    (
        events.iter().filter_map(ended).collect(),
        events.iter().filter_map(picture).collect(),
    )
}

/// Prints what a failed assertion is about, and returns the tracks that were seen so often.
fn long(tracks: &[Sight], looks: u32) -> Vec<&Sight> {
    for track in tracks {
        println!("{track:.2?}");
    }
    tracks.iter().filter(|track| track.looks >= looks).collect()
}

#[test]
fn the_singer_of_one_scene_is_one_track_and_known() {
    let (Some(file), Some(enrolled)) = (clip("hamilton.mp4"), clip("lin_manuel_miranda.png"))
    else {
        return;
    };
    let (tracks, pictures) = follow(&file, &enrolled);
    println!("{pictures:?}");
    // Twenty-one frames after the cut to him, until the one to the audience.
    let singer: Vec<_> = long(&tracks, 20)
        .into_iter()
        .filter(|track| track.who.known() == Some(1))
        .collect();
    assert_eq!(singer.len(), 1);
    assert_eq!(singer[0].looks, 21);
    let of_singer = pictures
        .iter()
        .filter(|(frame, _)| (18..39).contains(frame));
    assert!((1..=3).contains(&of_singer.count()), "{pictures:?}");
    assert!(pictures.len() <= 12, "{pictures:?}");
}

#[test]
fn each_person_on_the_seats_is_one_track() {
    let (Some(file), Some(enrolled)) = (clip("seats.mp4"), clip("lin_manuel_miranda.png")) else {
        return;
    };
    let (tracks, pictures) = follow(&file, &enrolled);
    println!("{pictures:?}");
    // Five faces are large enough; the fifth is half hidden in every third frame.
    assert_eq!((tracks.len(), long(&tracks, 10).len()), (5, 5));
    assert!(tracks.iter().all(|track| track.who.known().is_none()));
    assert!(pictures.len() <= 8, "{pictures:?}");
}
