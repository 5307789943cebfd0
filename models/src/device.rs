//! The precision and the device of the recogniser. `runtime` loads and runs the networks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Arithmetic of the recogniser, one network of the pack for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floating point.
    Float32,
    /// 16-bit floating point.
    Float16,
    /// 8-bit integer convolutions.
    Int8,
}

impl Precision {
    /// Every precision, the most exact first.
    pub const ALL: [Self; 3] = [Self::Float32, Self::Float16, Self::Int8];

    /// Returns the name used in configuration and results.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
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
        let found = Self::ALL
            .into_iter()
            .find(|precision| precision.as_str() == text);
        found.ok_or_else(|| {
            format!("{text:?} is not a precision; use \"int8\", \"float16\" or \"float32\"")
        })
    }
}

/// Device of the recogniser. Detectors always run on the processor: their networks are small, and
/// tract has no GPU pooling, so most of each layer's values would be copied to the processor and
/// back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The processor.
    Cpu,
    /// The first NVIDIA GPU. Each thread that uses it creates its own stream and library handles
    /// with its first picture, so few long-lived threads serve it best.
    Cuda,
}

impl Device {
    /// Returns the name used in configuration and results.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }

    /// Tells whether the device computes in this precision. Processors without half-precision
    /// arithmetic emulate float16, which takes two hundred times as long; tract's GPU convolutions
    /// have no int8 at all.
    pub fn has_arithmetic_for(self, precision: Precision) -> bool {
        match (self, precision) {
            (Self::Cpu, Precision::Float16) => processor_has_half_precision(),
            (Self::Cuda, Precision::Int8) => false,
            _ => true,
        }
    }
}

#[cfg(target_arch = "aarch64")]
fn processor_has_half_precision() -> bool {
    std::arch::is_aarch64_feature_detected!("fp16")
}

#[cfg(not(target_arch = "aarch64"))]
fn processor_has_half_precision() -> bool {
    false
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            other => Err(format!(
                "{other:?} is not a device; use \"cpu\" or \"cuda\""
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_refused_with_the_choices() {
        for precision in Precision::ALL {
            assert_eq!(precision.to_string().parse(), Ok(precision));
        }
        for device in [Device::Cpu, Device::Cuda] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        assert!("half".parse::<Precision>().unwrap_err().contains("float16"));
        assert!("gpu".parse::<Device>().unwrap_err().contains("cuda"));
    }

    #[test]
    fn a_gpu_is_offered_no_int8_and_a_cpu_no_emulated_float16() {
        assert!(!Device::Cuda.has_arithmetic_for(Precision::Int8));
        assert!(Device::Cuda.has_arithmetic_for(Precision::Float16));
        assert!(Device::Cpu.has_arithmetic_for(Precision::Int8));
        if cfg!(target_arch = "x86_64") {
            assert!(!Device::Cpu.has_arithmetic_for(Precision::Float16));
        }
    }
}
