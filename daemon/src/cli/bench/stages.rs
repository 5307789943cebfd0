//! Times of the engine's stages and networks in this process: for `kithd bench board`, and for
//! `kithd-bench`.

use std::time::{Duration, Instant};

use kith_vision::{Pack, time_networks};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::app;
use crate::config::Config;
use crate::engine_process::{EngineSettings, Recogniser, Reply};

/// Stages that are measured, in this order; the last is everything but the encoding, for comparison
/// with programs that only recognise.
pub const STAGES: [&str; 7] = [
    "decode",
    "detect",
    "align",
    "embed",
    "encode",
    "whole",
    "decode_to_embed",
];

/// Times of one picture, stage by stage.
pub struct Stages {
    /// Result of the last round.
    pub reply: Reply,
    /// Times of each stage, the shortest first, in the order of [`STAGES`].
    pub times: [Vec<Duration>; 7],
}

impl Stages {
    /// Recognises a picture once more than `rounds`: the first call builds the plans for its size.
    pub fn measure(recogniser: &Recogniser, bytes: &[u8], rounds: usize) -> anyhow::Result<Self> {
        let mut reply = recogniser.recognise(bytes)?;
        let mut times: [Vec<Duration>; 7] = Default::default();
        for _ in 0..rounds.max(1) {
            let begun = Instant::now();
            reply = recogniser.recognise(bytes)?;
            let took = &reply.times;
            let recognised = took.decode + took.detect + took.align + took.embed;
            let stages = [
                took.decode,
                took.detect,
                took.align,
                took.embed,
                took.encode,
                begun.elapsed(),
                recognised,
            ];
            times
                .iter_mut()
                .zip(stages)
                .for_each(|(of, time)| of.push(time));
        }
        times.iter_mut().for_each(|of| of.sort_unstable());
        Ok(Self { reply, times })
    }

    /// Returns the medians and the shortest times of all stages, in milliseconds.
    pub fn json(&self) -> Value {
        let (width, height) = self.reply.size;
        json!({
            "width": width, "height": height, "faces": self.reply.faces.len(), "rounds": self.times[0].len(),
            "median_ms": by_stage(&self.times, median), "shortest_ms": by_stage(&self.times, shortest),
        })
    }
}

fn by_stage(times: &[Vec<Duration>; 7], of: fn(&[Duration]) -> f64) -> Map<String, Value> {
    STAGES
        .iter()
        .zip(times)
        .map(|(stage, times)| ((*stage).to_owned(), json!(of(times))))
        .collect()
}

/// Returns the median in milliseconds.
pub fn median(sorted: &[Duration]) -> f64 {
    sorted
        .get(sorted.len() / 2)
        .map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

/// Returns the shortest time in milliseconds.
pub fn shortest(sorted: &[Duration]) -> f64 {
    sorted.first().map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

/// Returns the configured settings with this number of cores.
pub fn on_cores(config: &Config, threads: usize) -> EngineSettings {
    EngineSettings {
        threads,
        ..app::engine_settings(config)
    }
}

/// Times of one network in one precision.
#[derive(Serialize)]
pub struct NetworkRow {
    /// Its name in the pack.
    pub network: &'static str,
    /// Its precision.
    pub precision: &'static str,
    /// Sides of its input.
    pub shape: String,
    /// Median, milliseconds.
    pub median_ms: f64,
    /// Shortest time, milliseconds.
    pub shortest_ms: f64,
}

/// Times each network of a pack alone on one thread.
pub fn network_rows(
    pack: &Pack,
    config: &Config,
    rounds: usize,
) -> anyhow::Result<Vec<NetworkRow>> {
    let rows = time_networks(pack, config.engine.device, rounds)?
        .into_iter()
        .map(|one| NetworkRow {
            network: one.network,
            precision: one.precision.as_str(),
            shape: one.shape.map(|side| side.to_string()).join("×"),
            median_ms: median(&one.times),
            shortest_ms: shortest(&one.times),
        });
    Ok(rows.collect())
}
