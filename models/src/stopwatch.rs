//! How long each network of a pack takes by itself on this processor, on one thread. For benchmarks; pictures are
//! `Vision`'s.

use std::time::{Duration, Instant};

use crate::manifest::DetectorSpec;
use crate::runtime::{Network, Plan};
use crate::{Device, Pack, Precision, VisionError};

/// One network's times.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkTimes {
    /// Its file.
    pub file: String,
    /// Pictures, channels, height and width of the input.
    pub shape: [usize; 4],
    /// Of all rounds.
    pub median: Duration,
    /// The least disturbed round.
    pub shortest: Duration,
    /// Why it runs in tract's own operators instead of ours, if it does.
    pub left_to_tract: Option<String>,
}

/// The largest level of MTCNN's pyramid for a picture of 640×480 and faces from 40 pixels: height and width.
const PNET_SIDES: [usize; 2] = [144, 192];

/// Times every network of the pack that this processor has arithmetic for, `rounds` times each.
pub fn time_networks(pack: &Pack, rounds: usize) -> Result<Vec<NetworkTimes>, VisionError> {
    // How pixels are scaled makes no difference to the time.
    let pixels = pack.manifest.recogniser.pixels();
    let mut times = Vec::new();
    match &pack.manifest.detector {
        DetectorSpec::Mtcnn(spec) => {
            let [height, width] = PNET_SIDES;
            let cases =
                [(&spec.pnet, [1, 3, height, width]), (&spec.rnet, [16, 3, 24, 24]), (&spec.onet, [1, 3, 48, 48])];
            for (file, shape) in cases {
                let outputs: &[&'static str] = &["prob", "reg"];
                let network = Network::load(pack, file, outputs)?;
                times.push(time(file, &network.plan(shape, Device::Cpu, &pixels)?, shape, rounds)?);
            }
        }
        DetectorSpec::Yunet(spec) => {
            let shape = [1, 3, spec.input[0], spec.input[1]];
            let network = Network::load(pack, &spec.model, &["cls_8"])?;
            times.push(time(&spec.model, &network.plan(shape, Device::Cpu, &pixels)?, shape, rounds)?);
        }
    }
    let side = pack.manifest.alignment.size;
    for precision in Precision::ALL {
        let Some(file) = pack.manifest.recogniser.file(precision) else { continue };
        if Device::Cpu.has_arithmetic_for(precision) {
            let shape = [1, 3, side, side];
            let network = Network::load(pack, file, &["embedding"])?;
            times.push(time(file, &network.plan(shape, Device::Cpu, &pixels)?, shape, rounds)?);
        }
    }
    Ok(times)
}

fn time(file: &str, plan: &Plan, shape: [usize; 4], rounds: usize) -> Result<NetworkTimes, VisionError> {
    let input: Vec<u8> = (0..shape.iter().product()).map(|ix: usize| (ix * 37 % 251) as u8).collect();
    plan.run(shape, &input)?;
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds.max(1) {
        let begun = Instant::now();
        plan.run(shape, &input)?;
        times.push(begun.elapsed());
    }
    times.sort();
    Ok(NetworkTimes {
        file: file.to_owned(),
        shape,
        median: times[times.len() / 2],
        shortest: times[0],
        left_to_tract: plan.left_to_tract().map(str::to_owned),
    })
}
