//! A model pack: its `pack.toml` as typed values, every key checked, every file's sha256 compared.
//! Networks are only read here, not understood; that is `runtime`'s.

mod rules;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::VisionError;
use crate::embed::check_embedding;
use crate::gallery::Matching;
use crate::quality::QualityLimits;

/// Raised whenever the code between pixels and embedding changes what it computes, so that
/// embeddings made before are not compared with those made after.
const PIPELINE: &str = "kith-1";

/// Why a pack cannot be used; every message names the file or the key.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file of the pack cannot be read.
    #[error("model pack file {file} cannot be read: {source}")]
    Unreadable {
        /// The file's full path.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// `pack.toml` is not TOML, lacks a key or has one too many.
    #[error("{file}: {reason}")]
    Syntax {
        /// The manifest's full path.
        file: PathBuf,
        /// The parser's words, with the line.
        reason: String,
    },
    /// A key's value breaks its rule.
    #[error("pack.toml: {key} is {value}; it must be {rule}")]
    Value {
        /// Where in `pack.toml`.
        key: String,
        /// What is there.
        value: String,
        /// What may be there.
        rule: &'static str,
    },
    /// A file that is used has no line in `[sha256]`.
    #[error("pack.toml: {file} is used but has no line under [sha256]")]
    Unlisted {
        /// The file's name.
        file: String,
    },
    /// A file is not the one the manifest was written for.
    #[error("model pack file {file} is damaged or replaced: its sha256 is {found}, pack.toml says {expected}")]
    Checksum {
        /// The file's name.
        file: String,
        /// The sum in the manifest.
        expected: String,
        /// The sum of the file.
        found: String,
    },
}

/// Which of a pack's recogniser networks runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floating point.
    Float32,
    /// 8-bit integer convolutions.
    Int8,
}

impl Precision {
    /// As written in configuration and results.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "float32" => Ok(Self::Float32),
            "int8" => Ok(Self::Int8),
            other => Err(format!("{other:?} is not a precision; use \"float32\" or \"int8\"")),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    id: String,
    description: String,
    commercial_use: bool,
    pub(crate) detector: DetectorSpec,
    pub(crate) alignment: Alignment,
    pub(crate) recogniser: RecogniserSpec,
    matching: Matching,
    quality: QualityLimits,
    self_test: SelfTestSpec,
    sha256: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "decoder", rename_all = "lowercase")]
pub(crate) enum DetectorSpec {
    Mtcnn(MtcnnSpec),
    Yunet(YunetSpec),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MtcnnSpec {
    pub(crate) pnet: String,
    pub(crate) rnet: String,
    pub(crate) onet: String,
    pub(crate) min_face_px: usize,
    pub(crate) thresholds: [f32; 3],
    pub(crate) pyramid_factor: f32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct YunetSpec {
    pub(crate) model: String,
    /// Height and width of the network's input.
    pub(crate) input: [usize; 2],
    pub(crate) score_threshold: f32,
    pub(crate) nms_iou: f32,
    pub(crate) min_face_px: usize,
}

/// Where the five landmarks land on the square chip the recogniser is given.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Alignment {
    pub(crate) size: usize,
    pub(crate) template: [[f32; 2]; 5],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Colour {
    Rgb,
    Bgr,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecogniserSpec {
    pub(crate) colour: Colour,
    pub(crate) mean: [f32; 3],
    pub(crate) scale: f32,
    pub(crate) dimension: usize,
    pub(crate) normalise: bool,
    pub(crate) float32: String,
    pub(crate) int8: Option<String>,
    default_precision: Precision,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct SelfTestSpec {
    picture: String,
    embedding: Vec<f32>,
    tolerance: Tolerance,
}

/// The largest distance from the reference embedding at which a self-test still passes.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tolerance {
    /// With the float32 recogniser.
    pub float32: f32,
    /// With the int8 recogniser; needed where the pack has one.
    pub int8: Option<f32>,
}

impl Tolerance {
    /// The tolerance for this precision; a precision the pack does not offer tolerates nothing.
    pub fn of(&self, precision: Precision) -> f32 {
        match precision {
            Precision::Float32 => self.float32,
            Precision::Int8 => self.int8.unwrap_or(0.0),
        }
    }
}

/// A bundled picture of one face whose embedding is known: the engine's check on itself.
#[derive(Debug, Clone)]
pub struct SelfTest {
    /// The picture's full path; its checksum was compared.
    pub picture: PathBuf,
    /// What the float32 recogniser makes of it through the whole pipeline.
    pub embedding: Vec<f32>,
    /// How far off each precision may be.
    pub tolerance: Tolerance,
}

/// A checked model pack.
#[derive(Debug, Clone)]
pub struct Pack {
    folder: PathBuf,
    pub(crate) manifest: Manifest,
    self_test: SelfTest,
    space: String,
}

impl Pack {
    /// Reads `pack.toml` in `folder`, checks every key, and compares every file's sha256.
    pub fn load(folder: &Path) -> Result<Self, PackError> {
        let file = folder.join("pack.toml");
        let text =
            std::fs::read_to_string(&file).map_err(|source| PackError::Unreadable { file: file.clone(), source })?;
        let manifest: Manifest =
            toml::from_str(&text).map_err(|error| PackError::Syntax { file, reason: error.to_string() })?;
        manifest.check()?;
        let self_test = SelfTest {
            picture: folder.join(&manifest.self_test.picture),
            embedding: manifest.self_test.embedding.clone(),
            tolerance: manifest.self_test.tolerance,
        };
        let space = manifest.space();
        let pack = Self { folder: folder.to_owned(), manifest, self_test, space };
        for name in pack.manifest.sha256.keys() {
            pack.read(name)?;
        }
        Ok(pack)
    }

    /// The pack's name.
    pub fn id(&self) -> &str {
        &self.manifest.id
    }

    /// One line for people.
    pub fn description(&self) -> &str {
        &self.manifest.description
    }

    /// Whether the licences of all its networks allow commercial use.
    pub fn commercial_use(&self) -> bool {
        self.manifest.commercial_use
    }

    /// The embedding space: a hash over everything that decides what an embedding means, in hex.
    /// The precision is not part of it.
    pub fn space(&self) -> &str {
        &self.space
    }

    /// What runs when nobody chooses.
    pub fn default_precision(&self) -> Precision {
        self.manifest.recogniser.default_precision
    }

    /// Whether the pack has a recogniser of this precision.
    pub fn offers(&self, precision: Precision) -> bool {
        precision == Precision::Float32 || self.manifest.recogniser.int8.is_some()
    }

    /// The length of an embedding.
    pub fn dimension(&self) -> usize {
        self.manifest.recogniser.dimension
    }

    /// The smallest face worth looking for when nobody chooses.
    pub fn min_face_px(&self) -> usize {
        match &self.manifest.detector {
            DetectorSpec::Mtcnn(spec) => spec.min_face_px,
            DetectorSpec::Yunet(spec) => spec.min_face_px,
        }
    }

    /// How distances become outcomes.
    pub fn matching(&self) -> &Matching {
        &self.manifest.matching
    }

    /// What an enrolment picture must reach.
    pub fn quality_limits(&self) -> &QualityLimits {
        &self.manifest.quality
    }

    /// The bundled picture and what must come of it.
    pub fn self_test(&self) -> &SelfTest {
        &self.self_test
    }

    /// Whether numbers can be an embedding of this pack: as many as it says, finite, not all zero.
    pub fn check_embedding(&self, embedding: &[f32]) -> Result<(), VisionError> {
        check_embedding(embedding, self.dimension())
    }

    /// A file's bytes, once they are the ones the manifest was written for. Read again at each
    /// use, so that what was checked is what is used.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>, PackError> {
        let Some(expected) = self.manifest.sha256.get(name) else {
            return Err(PackError::Unlisted { file: name.to_owned() });
        };
        let file = self.folder.join(name);
        let bytes = std::fs::read(&file).map_err(|source| PackError::Unreadable { file, source })?;
        let found = hex(&Sha256::digest(&bytes));
        if found.eq_ignore_ascii_case(expected) {
            Ok(bytes)
        } else {
            Err(PackError::Checksum { file: name.to_owned(), expected: expected.clone(), found })
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Manifest {
    fn files(&self) -> Vec<&str> {
        let mut files = match &self.detector {
            DetectorSpec::Mtcnn(spec) => vec![spec.pnet.as_str(), &spec.rnet, &spec.onet],
            DetectorSpec::Yunet(spec) => vec![spec.model.as_str()],
        };
        files.extend([self.recogniser.float32.as_str(), self.self_test.picture.as_str()]);
        files.extend(self.recogniser.int8.as_deref());
        files
    }

    fn space(&self) -> String {
        let (alignment, recogniser) = (&self.alignment, &self.recogniser);
        // `check` has made sure that the float32 recogniser is listed.
        let weights = self.sha256.get(&recogniser.float32).map(|sum| sum.to_ascii_lowercase());
        let text = format!(
            "{PIPELINE} {weights:?} {} {:?} {:?} {:?} {:?} {} {} {:?}",
            alignment.size,
            alignment.template,
            recogniser.colour,
            recogniser.mean,
            recogniser.scale,
            recogniser.dimension,
            recogniser.normalise,
            self.matching.metric,
        );
        hex(&Sha256::digest(text))
    }
}
