//! Times each network of a pack on one thread, to compare with other runtimes on the same files.
//! For whole pictures, `Analysis` reports the time of each stage.

use std::time::{Duration, Instant};

use crate::detect::yunet;
use crate::manifest::DetectorSpec;
use crate::recogniser::Recogniser;
use crate::runtime::Network;
use crate::{Device, Pack, Precision, Rgb, VisionError};

/// Runs before the measurement, to fill memory and caches.
const WARM_UP: usize = 3;

/// Times of one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkTime {
    /// Name of the network.
    pub network: &'static str,
    /// Precision of a recogniser; detectors are float32.
    pub precision: Precision,
    /// Input shape: pictures, planes, rows, columns.
    pub shape: [usize; 4],
    /// Times of all runs, in ascending order.
    pub times: Vec<Duration>,
}

/// Runs every network of the pack `rounds` times: P-Net on the first level of a 640×480 picture
/// searched for faces from 40 pixels, R-Net on sixteen faces, O-Net on one, YuNet on its whole
/// input, and the recogniser in each precision.
pub fn time_networks(
    pack: &Pack,
    device: Device,
    rounds: usize,
) -> Result<Vec<NetworkTime>, VisionError> {
    let mut found = Vec::new();
    match &pack.manifest.detector {
        DetectorSpec::Mtcnn(spec) => {
            let networks = [
                ("pnet", &spec.pnet, &["prob", "reg"][..], [1, 3, 144, 192]),
                ("rnet", &spec.rnet, &["prob", "reg"], [16, 3, 24, 24]),
                (
                    "onet",
                    &spec.onet,
                    &["prob", "reg", "points"],
                    [1, 3, 48, 48],
                ),
            ];
            for (network, file, outputs, shape) in networks {
                found.push(detector(pack, network, file, outputs, shape, rounds)?);
            }
        }
        DetectorSpec::Yunet(spec) => {
            let [height, width] = spec.input;
            found.push(detector(
                pack,
                "yunet",
                &spec.model,
                &yunet::OUTPUTS,
                [1, 3, height, width],
                rounds,
            )?);
        }
    }
    let side = pack.manifest.alignment.size;
    let crop = Rgb::new(side, side, noise(3 * side * side))?;
    for precision in Precision::ALL {
        if pack.offers(precision) && device.has_arithmetic_for(precision) {
            let recogniser = Recogniser::load(pack, precision, device)?;
            let times = time(rounds, || recogniser.forward(&crop).map(drop))?;
            found.push(NetworkTime {
                network: "recogniser",
                precision,
                shape: [1, 3, side, side],
                times,
            });
        }
    }
    Ok(found)
}

fn detector(
    pack: &Pack,
    network: &'static str,
    file: &str,
    outputs: &[&'static str],
    shape: [usize; 4],
    rounds: usize,
) -> Result<NetworkTime, VisionError> {
    // The scaling of pixels makes no difference to the time.
    let plan = Network::load(pack, file, outputs)?.plan(
        shape,
        Device::Cpu,
        &pack.manifest.recogniser.pixels(),
    )?;
    let input = noise(shape.iter().product());
    let times = time(rounds, || plan.run(shape, &input).map(drop))?;
    Ok(NetworkTime {
        network,
        precision: Precision::Float32,
        shape,
        times,
    })
}

/// Returns reproducible noise, by Marsaglia's xorshift.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 16) as u8
    };
    (0..count).map(|_| next()).collect()
}

fn time(
    rounds: usize,
    mut run: impl FnMut() -> Result<(), VisionError>,
) -> Result<Vec<Duration>, VisionError> {
    for _ in 0..WARM_UP {
        run()?;
    }
    let mut once = || {
        let begun = Instant::now();
        run().map(|()| begun.elapsed())
    };
    let mut times = (0..rounds.max(1))
        .map(|_| once())
        .collect::<Result<Vec<_>, _>>()?;
    times.sort_unstable();
    Ok(times)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_network_of_the_pack_is_timed_on_its_real_input() {
        let pack =
            Pack::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("packs/dlib-mtcnn")).unwrap();
        let found = time_networks(&pack, Device::Cpu, 2).unwrap();
        let named: Vec<_> = found
            .iter()
            .map(|one| (one.network, one.precision, one.shape[0]))
            .collect();
        for expected in [
            ("pnet", Precision::Float32, 1),
            ("rnet", Precision::Float32, 16),
            ("onet", Precision::Float32, 1),
            ("recogniser", Precision::Float32, 1),
            ("recogniser", Precision::Int8, 1),
        ] {
            assert!(
                named.contains(&expected),
                "{expected:?} is not in {named:?}"
            );
        }
        assert!(
            found
                .iter()
                .all(|one| one.times.len() == 2 && one.times.is_sorted())
        );
    }
}
