//! Whole pictures through whole packs: the number and places of faces, independent of the picture's
//! shape and size and of their place in it.

use image::imageops;
use kith_vision::{
    Analysis, Face, Metric, Objection, Pack, Precision, QualityLimits, Rgb, Search, Vision,
    VisionError,
};

use crate::shared::{
    SEARCH, analyse, both, bundled, bundled_pack, crate_folder, decode, enlarged, load, placed,
    read, second, shared,
};

fn only(analysis: &Analysis) -> &Face {
    assert_eq!(
        analysis.faces.len(),
        1,
        "{:?}",
        analysis.faces.iter().map(|f| f.bounds).collect::<Vec<_>>()
    );
    &analysis.faces[0]
}

fn largest_landmark_shift(a: &Face, b: &Face, dx: f32, dy: f32) -> f32 {
    let shifts = a
        .landmarks
        .iter()
        .zip(&b.landmarks)
        .map(|(p, q)| (q[0] - p[0] - dx).hypot(q[1] - p[1] - dy));
    shifts.fold(0.0, f32::max)
}

/// A portrait from the labelled set with one clear face of about 110 pixels.
fn portrait(test: &str) -> Option<Rgb> {
    Some(read(
        &shared(test, "faces/lfw-dev")?.join("Abdullatif_Sener_0001.jpg"),
    ))
}

#[test]
fn a_face_lies_where_it_is_in_a_picture_of_any_shape() {
    let Some(portrait) = portrait("shape test") else {
        return;
    };
    for (name, vision) in both("shape test") {
        let alone = analyse(vision, &portrait);
        let alone = only(&alone);
        for (width, height, x, y) in [
            (640, 480, 300, 120),
            (400, 900, 77, 500),
            (1200, 300, 901, 31),
            (251, 253, 1, 3),
        ] {
            let moved = analyse(vision, &placed(&portrait, width, height, x, y));
            let moved = only(&moved);
            let shift = largest_landmark_shift(alone, moved, x as f32, y as f32);
            assert!(
                shift < 5.0,
                "{name}: off by {shift} pixels in {width}×{height}"
            );
            let b = moved.bounds;
            let [nx, ny] = moved.landmarks[2];
            assert!(
                b.left < nx && nx < b.right && b.top < ny && ny < b.bottom,
                "{name}: {b:?}"
            );
            let distance = Metric::Cosine.distance(&alone.embedding, &moved.embedding);
            assert!(
                distance < 0.06,
                "{name}: cosine distance {distance} in {width}×{height}"
            );
        }
    }
}

#[test]
fn landmarks_are_left_eye_right_eye_nose_and_mouth_corners() {
    let Some(portrait) = portrait("landmark order test") else {
        return;
    };
    for (name, vision) in both("landmark order test") {
        let analysis = analyse(vision, &portrait);
        let [left, right, nose, mouth_left, mouth_right] = only(&analysis).landmarks;
        assert!(
            left[0] < right[0] && mouth_left[0] < mouth_right[0],
            "{name}"
        );
        assert!(left[1] < nose[1] && right[1] < nose[1], "{name}");
        assert!(
            nose[1] < mouth_left[1] && nose[1] < mouth_right[1],
            "{name}"
        );
    }
}

#[test]
fn two_faces_side_by_side_are_found_though_boxes_overlap() {
    let Some(portrait) = portrait("overlap test") else {
        return;
    };
    for (name, vision) in both("overlap test") {
        let face = analyse(vision, &portrait);
        let face = only(&face).clone();
        let b = face.bounds;
        // The second portrait covers the first one's background almost up to its face.
        let step = ((b.right - b.left) * 0.86) as isize;
        let right = Rgb::new(250, 250, portrait.pixels.clone()).unwrap();
        let mut both = placed(&right, 500, 250, step, 0);
        for y in 0..250 {
            let end = (b.left as usize + step as usize).min(250);
            both.pixels[3 * 500 * y..3 * (500 * y + end)]
                .copy_from_slice(&portrait.pixels[3 * 250 * y..3 * (250 * y + end)]);
        }
        let found = analyse(vision, &both).faces;
        assert_eq!(
            found.len(),
            2,
            "{name}: {:?}",
            found.iter().map(|f| f.bounds).collect::<Vec<_>>()
        );
        let apart = (found[0].landmarks[2][0] - found[1].landmarks[2][0]).abs();
        assert!(
            (apart - step as f32).abs() < 8.0,
            "{name}: {apart} instead of {step}"
        );
    }
}

#[test]
fn groups_are_counted_about_right() {
    let Some(folder) = shared("group test", "faces/groups") else {
        return;
    };
    for (name, vision) in both("group test") {
        for (file, faces) in [
            ("kit_with_rose.jpg", 2),
            ("bbt1.jpg", 4),
            ("compreface_011_3.jpg", 3),
        ] {
            let found = analyse(vision, &read(&folder.join(file))).faces.len();
            assert_eq!(found, faces, "{name}: {file}");
        }
    }
}

#[test]
fn a_picture_without_a_face_gives_none() {
    for (name, vision) in both("empty picture test") {
        for (width, height) in [(1, 1), (3, 5000), (11, 11), (640, 480)] {
            let grey = Rgb::new(width, height, vec![90; 3 * width * height]).unwrap();
            assert!(
                analyse(vision, &grey).faces.is_empty(),
                "{name}: {width}×{height}"
            );
        }
    }
    let Some(folder) = shared("scenes test", "faces/noface") else {
        return;
    };
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|file| !file.to_string_lossy().contains("tricky_"));
    files.sort();
    assert!(files.len() > 10);
    for (name, vision) in both("scenes test") {
        let with_faces = files
            .iter()
            .filter(|file| !analyse(vision, &read(file)).faces.is_empty())
            .count();
        assert!(
            with_faces * 10 <= files.len(),
            "{name}: faces in {with_faces} of {} scenes",
            files.len()
        );
    }
}

#[test]
fn a_face_cut_by_the_edge_has_a_finite_box_and_embedding() {
    let Some(portrait) = portrait("edge test") else {
        return;
    };
    for (name, vision) in both("edge test") {
        for (x, y) in [(-75, 0), (0, -75), (70, 0), (-85, -70), (0, 80)] {
            let cut = placed(&portrait, 250, 250, x, y);
            for face in analyse(vision, &cut).faces {
                let b = face.bounds;
                let numbers = [
                    b.left,
                    b.top,
                    b.right,
                    b.bottom,
                    face.score,
                    face.quality.score,
                    face.quality.sharpness,
                ];
                assert!(
                    numbers
                        .iter()
                        .chain(face.landmarks.as_flattened())
                        .chain(&face.embedding)
                        .all(|v| v.is_finite()),
                    "{name}"
                );
                assert_eq!(
                    (face.crop.width, face.crop.height, face.crop.pixels.len()),
                    (
                        face.crop.height,
                        face.crop.width,
                        3 * face.crop.width.pow(2)
                    )
                );
            }
        }
        let half_hidden = analyse(vision, &placed(&portrait, 250, 250, -75, 0));
        assert!(
            !half_hidden.faces.is_empty(),
            "{name}: the face starts at the edge and is whole"
        );
    }
}

#[test]
fn twelve_megapixels_give_the_same_face_in_their_own_pixels() {
    let Some(portrait) = portrait("large picture test") else {
        return;
    };
    for (name, vision) in both("large picture test") {
        let alone = analyse(vision, &portrait);
        // The portrait enlarged fourteen times fills a picture of 3500×3500.
        let large = analyse(vision, &enlarged(&portrait, 14));
        let (alone, large) = (only(&alone), only(&large));
        let scaled = Face {
            landmarks: alone.landmarks.map(|p| p.map(|v| v * 14.0 + 6.5)),
            ..alone.clone()
        };
        let shift = largest_landmark_shift(&scaled, large, 0.0, 0.0) / 14.0;
        assert!(
            shift < 4.0,
            "{name}: off by {shift} pixels of the small picture"
        );
        let distance = Metric::Cosine.distance(&alone.embedding, &large.embedding);
        assert!(distance < 0.06, "{name}: cosine distance {distance}");
        let small_in_large = placed(&enlarged(&portrait, 2), 4000, 3000, 3100, 2200);
        assert_eq!(
            analyse(vision, &small_in_large).faces.len(),
            1,
            "{name}: 220 pixels in 12 megapixels"
        );
    }
}

#[test]
fn no_more_faces_than_asked_for_and_the_most_prominent_first() {
    let Some(folder) = shared("max_faces test", "faces/groups") else {
        return;
    };
    let group = read(&folder.join("compreface_016_8.jpg"));
    for (name, vision) in both("max_faces test") {
        let search = Search {
            min_face_px: 24,
            ..SEARCH
        };
        let all = vision.recognise(&group, &search).unwrap().faces;
        assert!(all.len() >= 6, "{name}: {}", all.len());
        let two = vision
            .recognise(
                &group,
                &Search {
                    max_faces: 2,
                    ..search
                },
            )
            .unwrap()
            .faces;
        assert_eq!(two.len(), 2);
        assert!(
            (two[0].landmarks[0][0] - all[0].landmarks[0][0]).abs() < 0.01,
            "{name}"
        );
        assert!(
            vision
                .recognise(
                    &group,
                    &Search {
                        max_faces: 0,
                        ..SEARCH
                    }
                )
                .unwrap()
                .faces
                .is_empty()
        );
    }
}

#[test]
fn faces_smaller_than_asked_for_are_left_out() {
    let Some(portrait) = portrait("min_face_px test") else {
        return;
    };
    for (name, vision) in both("min_face_px test") {
        let none = vision
            .recognise(
                &portrait,
                &Search {
                    min_face_px: 220,
                    ..SEARCH
                },
            )
            .unwrap();
        assert!(none.faces.is_empty(), "{name}");
    }
}

/// Returns the bundled pack's objection to the most prominent face, at its own limits.
fn objection(picture: &Rgb) -> Option<Objection> {
    let pack = Pack::load(&bundled_pack()).unwrap();
    let faces = analyse(bundled(Precision::Float32), picture).faces;
    faces
        .first()
        .unwrap_or_else(|| panic!("no face was found"))
        .quality
        .objection(pack.quality_limits())
}

/// The face is made dark, cut, blurred and small.
#[test]
fn each_way_to_spoil_a_good_face_has_exactly_its_reason() {
    let whole = decode(
        &Pack::load(&bundled_pack())
            .unwrap()
            .self_test_picture()
            .unwrap(),
    );
    let (width, height) = (whole.width as u32, whole.height as u32);
    let image = image::RgbImage::from_raw(width, height, whole.pixels.clone()).unwrap();
    let rgb = |image: image::RgbImage| {
        Rgb::new(
            image.width() as usize,
            image.height() as usize,
            image.into_raw(),
        )
        .unwrap()
    };
    let small = |times: u32| {
        imageops::resize(
            &image,
            width / times,
            height / times,
            imageops::FilterType::Triangle,
        )
    };
    let dark = Rgb {
        pixels: whole.pixels.iter().map(|&byte| byte / 11).collect(),
        ..whole.clone()
    };
    assert_eq!(objection(&whole), None);
    for (picture, reason) in [
        (rgb(small(3)), "too small"),
        // The first picture's left side ends before the eye, the second one's lower side above the
        // corners of the mouth.
        (
            rgb(imageops::crop_imm(&image, 172, 0, width - 172, height).to_image()),
            "cut by the edge",
        ),
        (
            rgb(imageops::crop_imm(&image, 0, 0, width, 140).to_image()),
            "cut by the edge",
        ),
        (dark, "too dark"),
        (rgb(imageops::blur(&image, 5.0)), "too blurred"),
    ] {
        let found = objection(&picture);
        assert_eq!(
            found.map(|objection| objection.reason()),
            Some(reason),
            "{found:?}"
        );
    }
}

#[test]
fn sface_refuses_what_it_makes_little_of_and_says_why() {
    let pack = Pack::load(&crate_folder().join("packs/sface")).unwrap();
    let vision = load(&pack, Precision::Float32).unwrap();
    let whole = decode(&pack.self_test_picture().unwrap());
    let image = image::RgbImage::from_raw(
        whole.width as u32,
        whole.height as u32,
        whole.pixels.clone(),
    )
    .unwrap();
    let rgb = |image: image::RgbImage| {
        Rgb::new(
            image.width() as usize,
            image.height() as usize,
            image.into_raw(),
        )
        .unwrap()
    };
    let mut covered = image.clone();
    imageops::replace(
        &mut covered,
        &image::RgbImage::from_pixel(95, 40, image::Rgb([40; 3])),
        140,
        85,
    );
    let small = imageops::resize(&image, 192, 192, imageops::FilterType::Triangle);
    for (picture, reason) in [
        (image.clone(), None),
        (small, None),
        (imageops::blur(&image, 5.0), Some("too blurred")),
        (covered, Some("covered or unusual")),
    ] {
        let quality = only(&analyse(&vision, &rgb(picture))).quality;
        let found = quality.objection(pack.quality_limits());
        assert_eq!(
            found.map(|objection| objection.reason()),
            reason,
            "{quality:?}"
        );
    }
}

#[test]
fn a_face_squeezed_on_one_side_is_taken_for_turned_to_that_side() {
    let whole = decode(
        &Pack::load(&bundled_pack())
            .unwrap()
            .self_test_picture()
            .unwrap(),
    );
    // The half of the face left of the nose at 184 is squeezed into a tenth, and the other half
    // stretched.
    let (left, nose, right, squeezed) = (140.0, 184.0, 240.0, 144.4);
    let source = |x: f32| match x {
        x if (left..squeezed).contains(&x) => left + (x - left) / (squeezed - left) * (nose - left),
        x if (squeezed..right).contains(&x) => {
            nose + (x - squeezed) / (right - squeezed) * (right - nose)
        }
        x => x,
    };
    let columns: Vec<usize> = (0..whole.width)
        .map(|x| source(x as f32).round() as usize)
        .collect();
    let row = |y: usize| {
        let row = &whole.pixels[3 * y * whole.width..];
        columns
            .iter()
            .flat_map(move |&x| row[3 * x..3 * x + 3].iter().copied())
    };
    let turned = Rgb {
        pixels: (0..whole.height).flat_map(row).collect(),
        ..whole.clone()
    };
    let quality = only(&analyse(bundled(Precision::Float32), &turned)).quality;
    let limits = Pack::load(&bundled_pack())
        .unwrap()
        .quality_limits()
        .clone();
    // A flat picture cannot be turned any further; the pack's own limit is a little beyond.
    let objection = quality.objection(&QualityLimits {
        max_yaw: 0.25,
        ..limits
    });
    assert!(
        matches!(objection, Some(Objection::TurnedAway { yaw, .. }) if yaw < 0.0),
        "{quality:?}"
    );
}

#[test]
fn photographs_of_poor_faces_have_their_reason_good_ones_none() {
    let Some(folder) = shared("quality test", "faces/hard") else {
        return;
    };
    let objection =
        |file: &str| objection(&read(&folder.join(file))).map(|objection| objection.reason());
    for (file, reason) in [
        ("blur_10.jpg", "too blurred"),
        ("dark_x0.12.jpg", "too dark"),
        ("profile_01_lfw_hugo_chavez.jpg", "turned away"),
        ("profiles_ultra_24.jpg", "turned away"),
    ] {
        assert_eq!(objection(file), Some(reason), "{file}");
    }
    for file in [
        "gray.jpg",
        "tilt_30.jpg",
        "dark_2.png",
        "obama2_32bit.png",
        "tiny_face_80px_in_1080p.jpg",
    ] {
        assert_eq!(objection(file), None, "{file}");
    }
}

#[test]
fn colour_order_matters_to_the_recogniser_of_each_pack() {
    let Some(portrait) = portrait("colour test") else {
        return;
    };
    for (name, vision) in both("colour test") {
        let analysis = analyse(vision, &portrait);
        let face = only(&analysis);
        assert_eq!(
            vision.embed(&face.crop).unwrap(),
            face.embedding,
            "{name}: a kept crop gives the same embedding"
        );
        let mut swapped = face.crop.clone();
        swapped
            .pixels
            .chunks_exact_mut(3)
            .for_each(|pixel| pixel.swap(0, 2));
        let distance = Metric::Cosine.distance(&vision.embed(&swapped).unwrap(), &face.embedding);
        assert!(distance > 1e-4, "{name}: {distance}");
    }
}

#[test]
fn a_mirrored_face_has_the_same_embedding_unless_flip_is_off() {
    let Some(portrait) = portrait("flip test") else {
        return;
    };
    let picture = bundled(Precision::Float32);
    let crop = only(&analyse(picture, &portrait)).crop.clone();
    let mut mirrored = crop.clone();
    mirrored.pixels = crop
        .pixels
        .chunks_exact(450)
        .flat_map(|row| row.rchunks_exact(3).flatten().copied())
        .collect();
    let apart = |vision: &Vision| {
        let [a, b] = [&crop, &mirrored].map(|crop| vision.embed(crop).unwrap());
        Metric::Euclidean.distance(&a, &b)
    };
    assert!(apart(picture) < 1e-4, "{}", apart(picture));
    let alone = load(
        &Pack::load(&bundled_pack()).unwrap().with_flip(false),
        Precision::Float32,
    )
    .unwrap();
    assert!(apart(&alone) > 0.01, "{}", apart(&alone));
    let pack = Pack::load(&bundled_pack()).unwrap();
    let self_test = decode(&pack.self_test_picture().unwrap());
    alone.check_reference(&analyse(&alone, &self_test)).unwrap();
}

#[test]
fn an_embedding_is_as_long_as_the_packs_means_make_it() {
    let pack = Pack::load(&bundled_pack()).unwrap();
    let self_test = decode(&pack.self_test_picture().unwrap());
    let file = std::fs::read(bundled_pack().join("cohort.f32")).unwrap();
    let numbers: Vec<f32> = file
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    let alone = load(&pack.clone().with_flip(false), Precision::Float32).unwrap();
    for vision in [
        bundled(Precision::Float32),
        bundled(Precision::Int8),
        &alone,
    ] {
        let embedding = only(&analyse(vision, &self_test)).embedding.clone();
        let length = embedding.iter().map(|v| v * v).sum::<f32>().sqrt();
        let likeness =
            |mean: &[f32]| mean.iter().zip(&embedding).map(|(a, b)| a * b).sum::<f32>() / length;
        let most = numbers.chunks_exact(128).map(likeness).fold(-1.0, f32::max);
        // The constants of pack.toml.
        let expected = ((most - 0.9348) * 3.0).exp();
        assert!((length - expected).abs() < 1e-4, "{length}, not {expected}");
        assert!(
            (length - 1.0).abs() > 1e-3,
            "no length at all would do as well"
        );
    }
}

#[test]
fn pictures_and_crops_of_the_wrong_length_are_refused() {
    let vision = bundled(Precision::Float32);
    let torn = Rgb {
        width: 10,
        height: 10,
        pixels: vec![0; 299],
    };
    assert!(matches!(
        vision.recognise(&torn, &SEARCH),
        Err(VisionError::PictureLength { .. })
    ));
    assert!(matches!(
        vision.embed(&torn),
        Err(VisionError::PictureLength { .. })
    ));
    let crop = Rgb::new(10, 10, vec![0; 300]).unwrap();
    assert!(matches!(
        vision.embed(&crop),
        Err(VisionError::CropSides { expected: 150, .. })
    ));
}

#[test]
fn threads_share_one_vision_and_get_the_same_answer() {
    let Some(portrait) = portrait("thread test") else {
        return;
    };
    let vision = bundled(Precision::Float32);
    let expected = analyse(vision, &portrait).faces;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(analyse(vision, &portrait).faces, expected));
        }
    });
}

#[test]
fn the_second_pack_compares_by_cosine_with_unit_embeddings() {
    let (Some(vision), Some(portrait)) = (second("second pack test"), portrait("second pack test"))
    else {
        return;
    };
    let analysis = analyse(vision, &portrait);
    let embedding = &only(&analysis).embedding;
    assert_eq!(embedding.len(), 256);
    assert!((embedding.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-4);
}

#[test]
fn the_self_test_passes_in_every_precision_and_needs_a_face() {
    let pack = Pack::load(&bundled_pack()).unwrap();
    let picture = decode(&pack.self_test_picture().unwrap());
    for precision in Precision::ALL {
        let vision = bundled(precision);
        let distance = vision.check_reference(&analyse(vision, &picture)).unwrap();
        println!("{precision}: {distance} from the reference");
        let mut blank = picture.clone();
        blank.pixels.fill(90);
        let error = vision
            .check_reference(&analyse(vision, &blank))
            .unwrap_err();
        assert!(
            matches!(error, VisionError::SelfTestFaces { found: 0 }),
            "{error}"
        );
    }
    let Some(vision) = second("second pack's self-test") else {
        return;
    };
    let distance = vision.check_reference(&analyse(vision, &picture)).unwrap();
    println!("second pack: {distance} from the reference");
}

#[test]
fn the_self_test_picture_gives_the_reference_landmarks() {
    // From the numpy pipeline on onnxruntime; its JPEG decoder differs in the last bits.
    let expected = [
        [163.32, 99.45],
        [206.81, 102.71],
        [184.04, 128.23],
        [161.20, 138.73],
        [204.83, 140.77],
    ];
    let pack = Pack::load(&bundled_pack()).unwrap();
    let analysis = analyse(
        bundled(Precision::Float32),
        &decode(&pack.self_test_picture().unwrap()),
    );
    for (found, expected) in only(&analysis).landmarks.iter().zip(&expected) {
        let off = (found[0] - expected[0]).hypot(found[1] - expected[1]);
        assert!(off < 0.5, "{found:?} instead of {expected:?}");
    }
}
