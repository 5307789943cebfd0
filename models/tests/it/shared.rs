//! Paths of packs and pictures. Licensed photographs are not part of the repository: tests that
//! need them say so and pass if the folder beside the checkout is missing.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kith_vision::{Analysis, Device, Pack, Precision, Rgb, Search, Vision, VisionError};

pub const SEARCH: Search = Search {
    min_face_px: 40,
    max_faces: 64,
    turned: true,
};

pub fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn bundled_pack() -> PathBuf {
    crate_folder().join("packs/dlib-mtcnn")
}

/// Returns the folder `sub` of the shared folder, or prints that `test` was not run.
pub fn shared(test: &str, sub: &str) -> Option<PathBuf> {
    let folder = crate_folder().join("../../shared").join(sub);
    if !folder.is_dir() {
        println!("NOT RUN: {test} needs {}", folder.display());
        return None;
    }
    Some(folder)
}

pub fn read(path: &Path) -> Rgb {
    decode(&std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

pub fn decode(bytes: &[u8]) -> Rgb {
    let picture = image::load_from_memory(bytes).unwrap().to_rgb8();
    Rgb::new(
        picture.width() as usize,
        picture.height() as usize,
        picture.into_raw(),
    )
    .unwrap()
}

/// Loads a pack on the processor, which every machine has.
pub fn load(pack: &Pack, precision: Precision) -> Result<Vision, VisionError> {
    Vision::load(pack, precision, Device::Cpu)
}

/// The bundled pack, loaded once for all tests.
pub fn bundled(precision: Precision) -> &'static Vision {
    static LOADED: [OnceLock<Vision>; Precision::ALL.len()] =
        [const { OnceLock::new() }; Precision::ALL.len()];
    let slot = &LOADED[Precision::ALL
        .iter()
        .position(|&other| other == precision)
        .unwrap()];
    slot.get_or_init(|| load(&Pack::load(&bundled_pack()).unwrap(), precision).unwrap())
}

/// The second pack. The repository has its manifest only; users download its networks, and the
/// tests take them from the shared folder.
pub fn second(test: &str) -> Option<&'static Vision> {
    static LOADED: OnceLock<Vision> = OnceLock::new();
    let models = shared(test, "models")?;
    Some(LOADED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let sources = [
            crate_folder().join("packs/yunet-intel0095"),
            models,
            bundled_pack(),
        ];
        std::fs::copy(
            sources[0].join("pack.toml"),
            folder.path().join("pack.toml"),
        )
        .unwrap();
        let manifest: toml::Table = std::fs::read_to_string(sources[0].join("pack.toml"))
            .unwrap()
            .parse()
            .unwrap();
        for name in manifest["sha256"].as_table().unwrap().keys() {
            let source = sources
                .iter()
                .map(|folder| folder.join(name))
                .find(|file| file.is_file());
            let source = source.unwrap_or_else(|| panic!("{name} is in none of {sources:?}"));
            std::fs::copy(source, folder.path().join(name)).unwrap();
        }
        load(&Pack::load(folder.path()).unwrap(), Precision::Float32).unwrap()
    }))
}

/// Returns both packs by name, as far as they can be loaded.
pub fn both(test: &str) -> Vec<(&'static str, &'static Vision)> {
    let bundled = ("dlib-mtcnn", bundled(Precision::Float32));
    [bundled]
        .into_iter()
        .chain(second(test).map(|second| ("yunet-intel0095", second)))
        .collect()
}

pub fn analyse(vision: &Vision, picture: &Rgb) -> Analysis {
    vision.recognise(picture, &SEARCH).unwrap()
}

/// Places `picture` on a plain canvas, with its left upper corner at (x, y), cut at the edges.
pub fn placed(picture: &Rgb, width: usize, height: usize, x: isize, y: isize) -> Rgb {
    let mut pixels = vec![120; 3 * width * height];
    for row in 0..picture.height {
        for column in 0..picture.width {
            let (to_x, to_y) = (x + column as isize, y + row as isize);
            if (0..width as isize).contains(&to_x) && (0..height as isize).contains(&to_y) {
                let (from, to) = (
                    3 * (row * picture.width + column),
                    3 * (to_y as usize * width + to_x as usize),
                );
                pixels[to..to + 3].copy_from_slice(&picture.pixels[from..from + 3]);
            }
        }
    }
    Rgb::new(width, height, pixels).unwrap()
}

/// Repeats every pixel `times` times across and down.
pub fn enlarged(picture: &Rgb, times: usize) -> Rgb {
    let mut pixels = Vec::with_capacity(picture.pixels.len() * times * times);
    for row in picture.pixels.chunks_exact(3 * picture.width) {
        let line: Vec<u8> = row
            .chunks_exact(3)
            .flat_map(|pixel| std::iter::repeat_n(pixel, times).flatten().copied())
            .collect();
        for _ in 0..times {
            pixels.extend_from_slice(&line);
        }
    }
    Rgb::new(picture.width * times, picture.height * times, pixels).unwrap()
}
