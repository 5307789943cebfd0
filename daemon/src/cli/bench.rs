//! `kithd bench board`: measures the engine on this board; its output is meant for a report. Runs in
//! this process. Measurements for developers are in the crate `kithd-bench`.

pub mod machine;
pub mod pictures;
pub mod stages;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{bail, ensure};
use kith_vision::{Metric, Pack, Precision, RUNTIME_VERSION};
use serde::Serialize;
use serde_json::Value;

use crate::config::Config;
use crate::engine_process::{Recogniser, Reply, load_pack};
use crate::status::thermal::{Board, BoardReport};
use machine::Machine;
use pictures::{four_faces, no_face, one_face};
use stages::{NetworkRow, STAGES, Stages, network_rows, on_cores};

/// Measurements of `kithd bench`.
#[derive(Debug, clap::Subcommand)]
pub enum Bench {
    /// Measures everything worth comparing between boards; prints a block to paste into a report
    Board {
        /// Rounds of a 640×480 picture; large pictures get a fifth as many
        #[arg(long, default_value_t = 30)]
        rounds: usize,
        /// Answers as JSON
        #[arg(long)]
        json: bool,
    },
}

/// Measures stages, networks and throughput in every precision this board has arithmetic for, and
/// prints them. Fails if a picture does not show its known faces: the speed of a wrong build means
/// nothing.
pub async fn run(config: &Config, bench: Bench) -> anyhow::Result<ExitCode> {
    let Bench::Board { rounds, json } = bench;
    let before = Board::here().report().await;
    let measured = config.clone();
    let mut speed =
        tokio::task::spawn_blocking(move || measure(&measured, rounds.max(1), before)).await??;
    speed.after = Board::here().report().await;
    if json {
        println!("{}", serde_json::to_string(&speed)?);
    } else {
        print!("{}", speed.block()?);
    }
    Ok(ExitCode::SUCCESS)
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
