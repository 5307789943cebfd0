//! Engine speed on this board: `kithd bench engine`, `bench networks`, and `bench board`, whose
//! output is meant for a report. All runs in this process; `bench boundary` measures the cost of
//! the engine's process boundary.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use image::{ImageFormat, RgbImage, imageops};
use kith_vision::{Metric, Pack, Precision, RUNTIME_VERSION, time_networks};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::app;
use crate::config::Config;
use crate::engine_process::{EngineSettings, Recogniser, Reply, load_pack};
use crate::status::thermal::{Board, BoardReport};

/// Processor features that decide the speed of products: the kernel's name and the common one.
const ABILITIES: [(&str, &str); 9] = [
    ("asimddp", "dotprod"),
    ("asimdhp", "fp16"),
    ("i8mm", "i8mm"),
    ("sve", "sve"),
    ("avx2", "avx2"),
    ("fma", "fma"),
    ("avx_vnni", "avx_vnni"),
    ("avx512f", "avx512f"),
    ("avx512_vnni", "avx512_vnni"),
];

/// Stages that are measured, in this order; the last is everything but the encoding, for comparison
/// with programs that only recognise.
const STAGES: [&str; 7] = [
    "decode",
    "detect",
    "align",
    "embed",
    "encode",
    "whole",
    "decode_to_embed",
];

/// Times of one picture, stage by stage.
struct Stages {
    reply: Reply,
    /// Times of each stage, the shortest first, in the order of [`STAGES`].
    times: [Vec<Duration>; 7],
}

impl Stages {
    fn measure(recogniser: &Recogniser, bytes: &[u8], rounds: usize) -> anyhow::Result<Self> {
        // The first call builds the plans for this picture's size.
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

    fn json(&self) -> Value {
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

fn median(sorted: &[Duration]) -> f64 {
    sorted
        .get(sorted.len() / 2)
        .map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

fn shortest(sorted: &[Duration]) -> f64 {
    sorted.first().map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

/// `kithd bench engine`: measures one picture in the configured precision.
pub fn engine(config: &Config, bytes: &[u8], rounds: usize, as_json: bool) -> anyhow::Result<()> {
    let pack = load_pack(&config.models)?;
    let precision = config
        .models
        .precision
        .unwrap_or_else(|| pack.default_precision(config.engine.device));
    let begun = Instant::now();
    let recogniser =
        Recogniser::load(&pack, precision, config.engine.device, &on_cores(config, 1))?;
    let load = begun.elapsed().as_secs_f64() * 1e3;
    let stages = Stages::measure(&recogniser, bytes, rounds)?;
    if as_json {
        let mut answer = stages.json();
        answer["pack"] = json!(pack.id());
        answer["precision"] = json!(precision.as_str());
        answer["load_ms"] = json!(load);
        println!("{answer}");
        return Ok(());
    }
    let ((width, height), faces) = (stages.reply.size, stages.reply.faces.len());
    println!(
        "{} {precision}, {width}×{height}, {faces} faces, medians of {rounds}, one thread",
        pack.id()
    );
    for (stage, times) in STAGES.iter().zip(&stages.times) {
        println!(
            "{stage:15} {:8.2} ms, shortest {:8.2} ms",
            median(times),
            shortest(times)
        );
    }
    println!("{:15} {load:8.2} ms", "load");
    Ok(())
}

/// Returns the configured settings with this number of cores.
fn on_cores(config: &Config, threads: usize) -> EngineSettings {
    EngineSettings {
        threads,
        ..app::engine_settings(config)
    }
}

/// `kithd bench networks`: measures each network alone.
pub fn networks(config: &Config, rounds: usize, as_json: bool) -> anyhow::Result<()> {
    let pack = load_pack(&config.models)?;
    let rows = network_rows(&pack, config, rounds)?;
    if as_json {
        println!(
            "{}",
            json!({ "pack": pack.id(), "runtime": RUNTIME_VERSION, "rounds": rounds, "networks": rows })
        );
        return Ok(());
    }
    for NetworkRow {
        network,
        precision,
        shape,
        median_ms,
        shortest_ms,
    } in rows
    {
        println!(
            "{network:10} {precision:8} {shape:>14} {median_ms:8.2} ms, shortest {shortest_ms:8.2} ms"
        );
    }
    Ok(())
}

#[derive(Serialize)]
struct NetworkRow {
    network: &'static str,
    precision: &'static str,
    shape: String,
    median_ms: f64,
    shortest_ms: f64,
}

fn network_rows(pack: &Pack, config: &Config, rounds: usize) -> anyhow::Result<Vec<NetworkRow>> {
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

/// Measurements of a picture in one precision.
#[derive(Serialize)]
struct Row {
    precision: &'static str,
    #[serde(flatten)]
    stages: Value,
}

/// Pictures a second with one picture on every core.
#[derive(Serialize)]
struct Throughput {
    precision: &'static str,
    at_once: usize,
    pictures_per_second: f64,
}

/// Result of the pack's self-test picture in one precision.
#[derive(Serialize)]
struct SelfTest {
    precision: &'static str,
    from_reference: f32,
}

/// All results of `bench board`.
#[derive(Serialize)]
struct Speed {
    kithd: &'static str,
    runtime: &'static str,
    pack: String,
    machine: Machine,
    before: BoardReport,
    after: BoardReport,
    self_tests: Vec<SelfTest>,
    /// Pictures in sequence, each on one core.
    one_thread: Vec<Row>,
    /// Pictures in sequence, each on all cores.
    all_cores: Vec<Row>,
    /// Pictures in parallel, one on every core.
    every_core: Vec<Throughput>,
    networks: Vec<NetworkRow>,
}

/// `kithd bench board`: measures stages, networks and throughput in every precision this board has
/// arithmetic for. Fails if a picture does not show its known faces: the speed of a wrong build
/// means nothing.
pub async fn board(config: &Config, rounds: usize, as_json: bool) -> anyhow::Result<()> {
    let before = Board::here().report().await;
    let measured = config.clone();
    let mut speed =
        tokio::task::spawn_blocking(move || measure(&measured, rounds.max(1), before)).await??;
    speed.after = Board::here().report().await;
    if as_json {
        println!("{}", serde_json::to_string(&speed)?);
    } else {
        print!("{}", speed.block()?);
    }
    Ok(())
}

fn measure(config: &Config, rounds: usize, before: BoardReport) -> anyhow::Result<Speed> {
    let pack = load_pack(&config.models)?;
    let device = config.engine.device;
    let machine = Machine::read(Path::new("/"));
    // A large picture takes many times as long, so fewer rounds give the same certainty.
    let few = rounds.div_ceil(5);
    let pictures = [
        (one_face(&pack)?, 1, rounds),
        (four_faces(&pack)?, 4, few),
        (no_face(&pack)?, 0, few),
    ];
    let (mut self_tests, mut every_core) = (Vec::new(), Vec::new());
    let (mut one_thread, mut all_cores) = (Vec::new(), Vec::new());
    for precision in Precision::ALL {
        if !pack.offers(precision) || !device.has_arithmetic_for(precision) {
            continue;
        }
        let name = precision.as_str();
        let stages_on = |cores| -> anyhow::Result<(Recogniser, Vec<Row>)> {
            let recogniser = Recogniser::load(&pack, precision, device, &on_cores(config, cores))?;
            let mut rows = Vec::new();
            for (bytes, faces, rounds) in &pictures {
                let stages = Stages::measure(&recogniser, bytes, *rounds)?;
                check(&pack, &stages.reply, *faces)?;
                rows.push(Row {
                    precision: name,
                    stages: stages.json(),
                });
            }
            Ok((recogniser, rows))
        };
        one_thread.extend(stages_on(1)?.1);
        let (together, rows) = stages_on(machine.cores)?;
        all_cores.extend(rows);
        self_tests.push(SelfTest {
            precision: name,
            from_reference: together.self_test(&pack)?,
        });
        let at_once = machine.cores;
        let pictures_per_second = at_once_per_second(&together, &pictures[0].0, at_once, rounds)?;
        every_core.push(Throughput {
            precision: name,
            at_once,
            pictures_per_second,
        });
    }
    Ok(Speed {
        kithd: env!("CARGO_PKG_VERSION"),
        runtime: RUNTIME_VERSION,
        networks: network_rows(&pack, config, rounds)?,
        pack: pack.id().to_owned(),
        machine,
        before,
        after: BoardReport::default(),
        self_tests,
        one_thread,
        all_cores,
        every_core,
    })
}

/// Checks that the reply has as many faces as the picture, each recognisably the pack's.
fn check(pack: &Pack, reply: &Reply, faces: usize) -> anyhow::Result<()> {
    let found = reply.faces.len();
    let (width, height) = reply.size;
    ensure!(
        found == faces,
        "this build is broken: it finds {found} faces in a {width}×{height} picture of {faces}"
    );
    let metric: Metric = pack.matching().metric;
    for face in &reply.faces {
        let distance = metric.distance(&face.embedding, &pack.self_test().embedding);
        if distance > pack.matching().threshold {
            bail!(
                "this build is broken: it takes the pack's own face for another (distance {distance:.2})"
            );
        }
    }
    Ok(())
}

/// Recognises pictures in parallel, one a thread, `rounds` in sequence on each; returns pictures
/// per second.
fn at_once_per_second(
    recogniser: &Recogniser,
    bytes: &[u8],
    at_once: usize,
    rounds: usize,
) -> anyhow::Result<f64> {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let work = || (0..rounds).try_for_each(|_| recogniser.recognise(bytes).map(drop));
        let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| match thread.join() {
                Ok(ended) => ended.map_err(anyhow::Error::from),
                Err(_) => bail!("a thread panicked"),
            })
    })?;
    Ok((at_once * rounds) as f64 / begun.elapsed().as_secs_f64())
}

/// Makes a plain 640×480 picture with the pack's self-test face, 480 pixels high, in the middle.
pub fn one_face(pack: &Pack) -> anyhow::Result<Vec<u8>> {
    let mut picture = RgbImage::from_pixel(640, 480, GROUND);
    imageops::overlay(&mut picture, &face(pack, 480)?, 80, 0);
    jpeg(&picture)
}

const GROUND: image::Rgb<u8> = image::Rgb([96, 104, 112]);

/// Side of the pack's face in the large pictures, which are 3840×2160.
const TILE: u32 = 960;

/// Makes a picture with the pack's face four times in a row.
fn four_faces(pack: &Pack) -> anyhow::Result<Vec<u8>> {
    let tile = face(pack, TILE)?;
    let mut picture = RgbImage::from_pixel(3840, 2160, GROUND);
    for column in 0..4 {
        imageops::overlay(&mut picture, &tile, i64::from(column * TILE), 600);
    }
    jpeg(&picture)
}

/// Makes a picture of the face's pixels in shuffled squares, in which no face remains.
fn no_face(pack: &Pack) -> anyhow::Result<Vec<u8>> {
    const SQUARE: u32 = 24;
    let tile = face(pack, TILE)?;
    let mut picture = RgbImage::new(3840, 2160);
    for (square, (y, x)) in (0..2160 / SQUARE)
        .flat_map(|y| (0..3840 / SQUARE).map(move |x| (y, x)))
        .enumerate()
    {
        // A step that shares no divisor with the number of squares visits all of them.
        let from = square as u32 * 1009 % (TILE / SQUARE).pow(2);
        let cut = (
            from % (TILE / SQUARE) * SQUARE,
            from / (TILE / SQUARE) * SQUARE,
        );
        let piece = imageops::crop_imm(&tile, cut.0, cut.1, SQUARE, SQUARE);
        imageops::replace(
            &mut picture,
            &*piece,
            i64::from(x * SQUARE),
            i64::from(y * SQUARE),
        );
    }
    jpeg(&picture)
}

fn face(pack: &Pack, side: u32) -> anyhow::Result<RgbImage> {
    let face = image::load_from_memory(&pack.self_test_picture()?)?.into_rgb8();
    Ok(imageops::resize(
        &face,
        side,
        side,
        imageops::FilterType::CatmullRom,
    ))
}

fn jpeg(picture: &RgbImage) -> anyhow::Result<Vec<u8>> {
    let mut jpeg = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut jpeg, ImageFormat::Jpeg)?;
    Ok(jpeg.into_inner())
}

/// The machine that was measured.
#[derive(Debug, PartialEq, Serialize)]
struct Machine {
    model: String,
    cores: usize,
    architecture: &'static str,
    abilities: Vec<&'static str>,
    kernel: String,
    governor: Option<String>,
    megahertz: Option<u64>,
}

impl Machine {
    /// Reads the machine's description; `root` is `/` except in tests.
    fn read(root: &Path) -> Self {
        let read = |file: &str| {
            let text = std::fs::read_to_string(root.join(file)).ok()?;
            Some(
                text.trim_matches(|c: char| c.is_whitespace() || c == '\0')
                    .to_owned(),
            )
        };
        let processor = read("proc/cpuinfo").unwrap_or_default();
        let line = |key: &str| {
            let named = processor.lines().find(|line| {
                line.split(':')
                    .next()
                    .is_some_and(|name| name.trim() == key)
            });
            named
                .and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim())
        };
        let has: Vec<_> = line("Features")
            .or(line("flags"))
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let unknown = || "an unknown board".to_owned();
        Self {
            model: read("proc/device-tree/model")
                .or_else(|| line("model name").map(str::to_owned))
                .unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            architecture: std::env::consts::ARCH,
            abilities: ABILITIES
                .iter()
                .filter(|(name, _)| has.contains(name))
                .map(|(_, name)| *name)
                .collect(),
            kernel: read("proc/sys/kernel/osrelease").unwrap_or_default(),
            governor: read("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            megahertz: read("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
                .and_then(|kilohertz| Some(kilohertz.parse::<u64>().ok()? / 1000)),
        }
    }
}

impl Speed {
    /// Formats the results as Markdown for a report.
    fn block(&self) -> Result<String, std::fmt::Error> {
        let (mut block, machine) = (String::new(), &self.machine);
        writeln!(
            block,
            "**{}**, kithd {}, {}, {}",
            machine.model, self.kithd, self.runtime, self.pack
        )?;
        let clock = machine
            .megahertz
            .map(|megahertz| format!(" of at most {megahertz} MHz"))
            .unwrap_or_default();
        let governor = machine.governor.as_deref().unwrap_or("unknown");
        writeln!(
            block,
            "{} cores{clock}, {} ({}), Linux {}, governor {governor}, {}; then {}",
            machine.cores,
            machine.architecture,
            if machine.abilities.is_empty() {
                "nothing special".into()
            } else {
                machine.abilities.join(" ")
            },
            machine.kernel,
            heat(&self.before),
            heat(&self.after),
        )?;
        stages_table(&mut block, "one core for a picture", &self.one_thread)?;
        stages_table(
            &mut block,
            &format!("{} cores for a picture", machine.cores),
            &self.all_cores,
        )?;
        writeln!(
            block,
            "\n| network alone | input | ms, median (shortest) |\n|---|---|---|"
        )?;
        for NetworkRow {
            network,
            precision,
            shape,
            median_ms,
            shortest_ms,
        } in &self.networks
        {
            writeln!(
                block,
                "| {network} {precision} | {shape} | {median_ms:.2} ({shortest_ms:.2}) |"
            )?;
        }
        writeln!(
            block,
            "\n| 640×480, one face | at once | pictures a second | from the reference |\n|---|---|---|---|"
        )?;
        for (row, test) in self.every_core.iter().zip(&self.self_tests) {
            let Throughput {
                precision,
                at_once,
                pictures_per_second,
            } = row;
            writeln!(
                block,
                "| {precision} | {at_once} | {pictures_per_second:.1} | {:.3} |",
                test.from_reference
            )?;
        }
        Ok(block)
    }
}

fn stages_table(block: &mut String, title: &str, rows: &[Row]) -> std::fmt::Result {
    writeln!(
        block,
        "\n| ms, median (shortest), {title} | {} |",
        STAGES.join(" | ")
    )?;
    writeln!(block, "|---|{}", "---|".repeat(STAGES.len()))?;
    for Row { precision, stages } in rows {
        let (width, height, faces) = (&stages["width"], &stages["height"], &stages["faces"]);
        write!(block, "| {precision}, {width}×{height}, faces: {faces} |")?;
        for stage in STAGES {
            let of = |times: &str| stages[times][stage].as_f64().unwrap_or_default();
            write!(
                block,
                " {:.1} ({:.1}) |",
                of("median_ms"),
                of("shortest_ms")
            )?;
        }
        writeln!(block)?;
    }
    Ok(())
}

fn heat(report: &BoardReport) -> String {
    let celsius = report
        .celsius
        .map_or("no temperature".to_owned(), |celsius| {
            format!("{celsius:.0} °C")
        });
    if report.reasons.is_empty() {
        celsius
    } else {
        format!("{celsius}, throttled: {}", report.reasons.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> Machine {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Machine::read(root.path())
    }

    #[test]
    fn a_raspberry_pi_is_named_with_what_its_processor_can_do() {
        let found = machine(&[
            ("proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0"),
            (
                "proc/cpuinfo",
                "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\nCPU part\t: 0xd0b\n",
            ),
            ("proc/sys/kernel/osrelease", "6.6.31+rpt-rpi-2712\n"),
            (
                "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
                "ondemand\n",
            ),
            (
                "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq",
                "2400000\n",
            ),
        ]);
        assert_eq!(found.model, "Raspberry Pi 5 Model B Rev 1.0");
        assert_eq!(found.abilities, ["dotprod", "fp16"]);
        assert_eq!(
            (found.kernel.as_str(), found.megahertz),
            ("6.6.31+rpt-rpi-2712", Some(2400))
        );
        assert_eq!(found.governor.as_deref(), Some("ondemand"));
    }

    #[test]
    fn a_pc_is_named_by_its_processor_and_silence_is_no_failure() {
        let found = machine(&[(
            "proc/cpuinfo",
            "model name\t: AMD EPYC\nflags\t\t: sse2 avx2 fma avx512_vnni\n",
        )]);
        assert_eq!((found.model.as_str(), found.governor), ("AMD EPYC", None));
        assert_eq!(found.abilities, ["avx2", "fma", "avx512_vnni"]);
        assert_eq!(machine(&[]).model, "an unknown board");
    }
}
