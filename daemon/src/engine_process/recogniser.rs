//! Recognises one picture: decode → find → align → embed → encode. Finding, aligning and embedding
//! borrow the cores that no other picture uses; the rest runs on the calling thread.

use std::time::Instant;

use kith_pictures::decode::{DecodeLimits, Remark, Sight, decode, look};
use kith_pictures::encode;
use kith_vision::{
    Comparison, Device, Face, Pack, Precision, QualityLimits, Search, Vision, VisionError,
    compare_precisions,
};

use super::{EngineError, EngineSettings, FoundFace, Reply, StageTimes};

const THUMBNAIL_SIDE: u32 = 240;
const CROP_QUALITY: u8 = 85;

/// Networks and limits; shared by all threads.
pub struct Recogniser {
    vision: Vision,
    limits: DecodeLimits,
    /// Configured value; `None` follows the pack and the picture.
    min_face_px: Option<usize>,
    max_faces: usize,
    turned: bool,
    quality: QualityLimits,
}

impl Recogniser {
    /// Loads and warms the networks.
    pub fn load(
        pack: &Pack,
        precision: Precision,
        device: Device,
        settings: &EngineSettings,
    ) -> Result<Self, EngineError> {
        let vision = Vision::load(pack, precision, device)
            .map_err(failed)?
            .on_cores(settings.threads);
        Ok(Self {
            vision,
            limits: settings.limits,
            min_face_px: settings.min_face_px,
            max_faces: settings.max_faces,
            turned: settings.turned,
            quality: pack.quality_limits().clone(),
        })
    }

    /// Returns the search parameters for a picture of these sides.
    fn search(&self, width: usize, height: usize) -> Search {
        Search {
            min_face_px: self
                .min_face_px
                .unwrap_or_else(|| self.vision.smallest_face(width, height)),
            max_faces: self.max_faces,
            turned: self.turned,
        }
    }

    /// Checks that the bundled picture gives the pack's reference embedding within the precision's
    /// tolerance.
    pub fn self_test(&self, pack: &Pack) -> Result<f32, EngineError> {
        let bytes = pack.self_test_picture().map_err(failed)?;
        let rgb = decode(&bytes, &self.limits).map_err(failed)?;
        let analysis = self
            .vision
            .recognise(&rgb, &self.search(rgb.width, rgb.height))
            .map_err(failed)?;
        self.vision.check_reference(&analysis).map_err(failed)
    }

    /// Times every precision of the pack on the bundled picture, against the one that runs.
    pub fn compare(&self, pack: &Pack) -> Result<Comparison, EngineError> {
        let bytes = pack.self_test_picture().map_err(failed)?;
        let rgb = decode(&bytes, &self.limits).map_err(failed)?;
        compare_precisions(
            pack,
            &self.vision,
            &rgb,
            &self.search(rgb.width, rgb.height),
        )
        .map_err(failed)
    }

    /// Recognises one picture completely.
    pub fn recognise(&self, bytes: &[u8]) -> Result<Reply, EngineError> {
        self.vision.busy(|| self.reply(bytes, false))
    }

    /// Recognises one picture without encoding a thumbnail and crops.
    pub fn find_faces(&self, bytes: &[u8]) -> Result<Reply, EngineError> {
        self.vision.busy(|| self.reply(bytes, true))
    }

    fn reply(&self, bytes: &[u8], faces_only: bool) -> Result<Reply, EngineError> {
        let begun = Instant::now();
        let reduction = |width, height| {
            self.vision
                .reduction(width, height, &self.search(width, height))
        };
        let sight = look(bytes, &self.limits, reduction)
            .map_err(|error| EngineError::Unreadable(error.to_string()))?;
        let Sight {
            picture,
            reduction,
            size,
            remarks,
            whole,
        } = sight;
        let decoded = begun.elapsed();
        let search = self.search(size.0, size.1);
        let part = |bounds| whole.part(bounds);
        let analysis = self
            .vision
            .recognise_reduced(&picture, reduction, &search, part)
            .map_err(|error| match error {
                VisionError::PictureSides { .. } => EngineError::Unreadable(error.to_string()),
                other => failed(other),
            })?;
        let begun = Instant::now();
        let thumbnail = match faces_only {
            true => Vec::new(),
            false => encode::thumbnail(&picture, THUMBNAIL_SIDE).map_err(failed)?,
        };
        let faces = analysis
            .faces
            .into_iter()
            .map(|face| self.found(face, faces_only))
            .collect::<Result<_, _>>()?;
        Ok(Reply {
            size: (size.0 as u32, size.1 as u32),
            faces,
            thumbnail,
            remark: (!remarks.is_empty()).then(|| {
                remarks
                    .iter()
                    .map(Remark::to_string)
                    .collect::<Vec<_>>()
                    .join("; ")
            }),
            times: StageTimes {
                decode: decoded,
                detect: analysis.timings.detect,
                align: analysis.timings.align,
                embed: analysis.timings.embed,
                encode: begun.elapsed(),
            },
        })
    }

    fn found(&self, face: Face, faces_only: bool) -> Result<FoundFace, EngineError> {
        let objection = face
            .quality
            .objection(&self.quality)
            .map(|objection| objection.to_string());
        Ok(FoundFace {
            bounds: [
                face.bounds.left,
                face.bounds.top,
                face.bounds.right,
                face.bounds.bottom,
            ],
            landmarks: face.landmarks,
            score: face.score,
            quality: face.quality.score,
            objection,
            measures: Some(face.quality),
            crop: match faces_only {
                true => Vec::new(),
                false => encode::jpeg(&face.crop, CROP_QUALITY).map_err(failed)?,
            },
            embedding: face.embedding,
        })
    }
}

fn failed(error: impl std::fmt::Display) -> EngineError {
    EngineError::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use image::{RgbImage, imageops};
    use kith_vision::Rgb;

    use super::*;

    /// Makes a 4200×3150 picture with the pack's face twice: one large enough for its crop even in
    /// half size, one not.
    fn two_faces(pack: &Pack) -> Rgb {
        let face = image::load_from_memory(&pack.self_test_picture().unwrap())
            .unwrap()
            .into_rgb8();
        let mut picture = RgbImage::from_pixel(4200, 3150, image::Rgb([96, 104, 112]));
        for (side, x, y) in [(2000, 100, 300), (700, 3000, 1900)] {
            let face = imageops::resize(&face, side, side, imageops::FilterType::CatmullRom);
            imageops::overlay(&mut picture, &face, x, y);
        }
        Rgb {
            width: 4200,
            height: 3150,
            pixels: picture.into_raw(),
        }
    }

    #[test]
    fn a_large_picture_gives_the_faces_it_would_give_as_a_whole() {
        let pack =
            Pack::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/packs/dlib-mtcnn"))
                .unwrap();
        let limits = DecodeLimits {
            max_bytes: 50 << 20,
            max_pixels: 50_000_000,
        };
        let settings = EngineSettings {
            limits,
            min_face_px: None,
            max_faces: 10,
            turned: false,
            threads: 1,
        };
        let recogniser =
            Recogniser::load(&pack, Precision::Float32, Device::Cpu, &settings).unwrap();
        let bytes = encode::jpeg(&two_faces(&pack), 90).unwrap();
        let reply = recogniser.recognise(&bytes).unwrap();
        let whole = decode(&bytes, &limits).unwrap();
        let search = recogniser.search(whole.width, whole.height);
        assert!(
            recogniser
                .vision
                .reduction(whole.width, whole.height, &search)
                > 1
        );
        let expected = recogniser.vision.recognise(&whole, &search).unwrap().faces;
        assert_eq!(
            (reply.size, reply.faces.len(), expected.len()),
            ((4200, 3150), 2, 2)
        );
        for (found, expected) in reply.faces.iter().zip(&expected) {
            let size = expected.bounds.size();
            let points = found
                .landmarks
                .as_flattened()
                .iter()
                .zip(expected.landmarks.as_flattened());
            assert!(
                points.clone().all(|(a, b)| (a - b).abs() < size / 40.0),
                "{points:?}"
            );
            let distance = pack
                .matching()
                .metric
                .distance(&found.embedding, &expected.embedding);
            assert!(
                distance < 0.1,
                "a face of {size} pixels is {distance} away from itself"
            );
            println!("{size} pixels: {distance}");
        }
    }

    #[test]
    fn a_look_has_the_same_faces_and_nothing_encoded() {
        let pack = Pack::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/packs/sface"))
            .unwrap();
        let settings = EngineSettings {
            limits: DecodeLimits {
                max_bytes: 50 << 20,
                max_pixels: 50_000_000,
            },
            min_face_px: None,
            max_faces: 10,
            turned: false,
            threads: 1,
        };
        let recogniser = Recogniser::load(&pack, Precision::Int8, Device::Cpu, &settings).unwrap();
        let bytes = pack.self_test_picture().unwrap();
        let (whole, look) = (
            recogniser.recognise(&bytes).unwrap(),
            recogniser.find_faces(&bytes).unwrap(),
        );
        assert_eq!(look.faces[0].embedding, whole.faces[0].embedding);
        assert!(!whole.thumbnail.is_empty() && !whole.faces[0].crop.is_empty());
        assert!(look.thumbnail.is_empty() && look.faces[0].crop.is_empty());
    }
}
