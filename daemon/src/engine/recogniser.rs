//! One picture, start to end, on the calling thread: decode → find → align → embed → encode.

use std::time::Instant;

use kith_vision::{
    Comparison, Device, Face, Pack, Precision, QualityLimits, Search, Vision, VisionError, compare_precisions,
};

use super::decode::{DecodeLimits, decode};
use super::{EngineError, EngineSettings, FoundFace, Reply, StageTimes, encode};

const THUMBNAIL_SIDE: u32 = 240;
const CROP_QUALITY: u8 = 85;

/// Networks and limits; shared by all threads.
pub struct Recogniser {
    vision: Vision,
    limits: DecodeLimits,
    search: Search,
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
        let vision = Vision::load(pack, precision, device).map_err(failed)?;
        Ok(Self {
            vision,
            limits: settings.limits,
            search: Search {
                min_face_px: settings.min_face_px.unwrap_or_else(|| pack.min_face_px()),
                max_faces: settings.max_faces,
                turned: settings.turned,
            },
            quality: pack.quality_limits().clone(),
        })
    }

    /// The bundled picture must give the pack's reference embedding within the precision's tolerance.
    pub fn self_test(&self, pack: &Pack) -> Result<f32, EngineError> {
        let bytes = pack.self_test_picture().map_err(failed)?;
        let rgb = decode(&bytes, &self.limits).map_err(failed)?;
        let analysis = self.vision.recognise(&rgb, &self.search).map_err(failed)?;
        self.vision.check_reference(&analysis).map_err(failed)
    }

    /// Times every precision of the pack on the bundled picture, against the one that runs.
    pub fn compare(&self, pack: &Pack) -> Result<Comparison, EngineError> {
        let bytes = pack.self_test_picture().map_err(failed)?;
        let rgb = decode(&bytes, &self.limits).map_err(failed)?;
        compare_precisions(pack, &self.vision, &rgb, &self.search).map_err(failed)
    }

    /// Everything about one picture.
    pub fn recognise(&self, bytes: &[u8]) -> Result<Reply, EngineError> {
        let begun = Instant::now();
        let picture = decode(bytes, &self.limits).map_err(|error| EngineError::Unreadable(error.to_string()))?;
        let decoded = begun.elapsed();
        let analysis = self.vision.recognise(&picture, &self.search).map_err(|error| match error {
            VisionError::PictureSides { .. } => EngineError::Unreadable(error.to_string()),
            other => failed(other),
        })?;
        let begun = Instant::now();
        let thumbnail = encode::thumbnail(&picture, THUMBNAIL_SIDE).map_err(failed)?;
        let faces = analysis.faces.into_iter().map(|face| self.found(face)).collect::<Result<_, _>>()?;
        Ok(Reply {
            size: (picture.width as u32, picture.height as u32),
            faces,
            thumbnail,
            times: StageTimes {
                decode: decoded,
                detect: analysis.timings.detect,
                align: analysis.timings.align,
                embed: analysis.timings.embed,
                encode: begun.elapsed(),
            },
        })
    }

    fn found(&self, face: Face) -> Result<FoundFace, EngineError> {
        let objection = face.quality.objection(&self.quality).map(|objection| objection.to_string());
        Ok(FoundFace {
            bounds: [face.bounds.left, face.bounds.top, face.bounds.right, face.bounds.bottom],
            landmarks: face.landmarks,
            score: face.score,
            quality: face.quality.score,
            objection,
            crop: encode::jpeg(&face.chip, CROP_QUALITY).map_err(failed)?,
            embedding: face.embedding,
        })
    }
}

fn failed(error: impl std::fmt::Display) -> EngineError {
    EngineError::Failed(error.to_string())
}
