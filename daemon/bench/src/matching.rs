//! `kithd-bench match`: measures the search of one face in a large gallery on one core, beside a
//! plain search of all float32 vectors, and checks that both find the same.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use kith_vision::{Gallery, Metric};
use serde_json::json;

/// Length of an embedding in the bundled pack.
const DIMENSION: usize = 128;
/// Lengths of the part that all faces share, of a person's offset, and of one picture's offset: as
/// in the bundled pack, embeddings are about unit length, 0.29 apart within a person and 0.58
/// between two.
const COMMON: f32 = 0.913;
const PERSON: f32 = 0.352;
const PICTURE: f32 = 0.206;
/// Number of candidates that the matcher keeps with a face.
const TOP: usize = 3;

/// Arguments of `kithd-bench match`.
#[derive(Debug, clap::Args)]
pub struct Match {
    /// Pictures in the gallery
    #[arg(long, default_value_t = 100_000)]
    pictures: usize,
    /// People in the gallery
    #[arg(long, default_value_t = 1_000)]
    people: usize,
    /// Faces to search for, half of them of strangers
    #[arg(long, default_value_t = 400)]
    rounds: usize,
    /// Answers as JSON
    #[arg(long)]
    json: bool,
}

/// Measures and prints.
pub fn matching(args: &Match) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(1);
    let common = direction(&mut random, COMMON);
    let person = |random: &mut fastrand::Rng| sum(&common, &direction(random, PERSON));
    let people: Vec<_> = (0..args.people.max(1))
        .map(|_| person(&mut random))
        .collect();
    let mut gallery = Gallery::new(Metric::Euclidean, DIMENSION);
    // Pictures arrive in mixed order, not grouped by person.
    for picture in 0..args.pictures {
        let at = picture % people.len();
        let face = picture_of(&mut random, &people[at]);
        gallery.push(at as i64, picture as i64, &face)?;
    }
    let (mut quick, mut plain) = (Vec::new(), Vec::new());
    for round in 0..args.rounds.max(2) {
        let of = if round % 2 == 0 {
            people[random.usize(..people.len())].clone()
        } else {
            person(&mut random)
        };
        let face = picture_of(&mut random, &of);
        let begun = Instant::now();
        let found = gallery.nearest(&face, TOP)?;
        quick.push(begun.elapsed());
        let begun = Instant::now();
        let expected = gallery.nearest_plainly(&face, TOP)?;
        plain.push(begun.elapsed());
        ensure!(
            found == expected,
            "the quick search found {found:?}, the plain one {expected:?}: please report this"
        );
    }
    let [quick, plain] = [quick, plain].map(|mut times| -> anyhow::Result<_> {
        times.sort();
        let at = |share: usize| {
            times
                .get(times.len() * share / 100)
                .map(Duration::as_secs_f64)
                .context("no times")
        };
        Ok([at(50)? * 1e3, at(99)? * 1e3])
    });
    let ([median, p99], [plain_median, plain_p99]) = (quick?, plain?);
    if args.json {
        let plain = json!({ "median_ms": plain_median, "p99_ms": plain_p99 });
        let (pictures, people, rounds) = (gallery.len(), gallery.people(), args.rounds);
        let answer = json!({
            "pictures": pictures, "people": people, "rounds": rounds, "median_ms": median, "p99_ms": p99,
            "plain": plain, "bytes": gallery.bytes(),
        });
        println!("{answer}");
    } else {
        println!(
            "one face against {} pictures of {} people on one core, {} faces, half of them strangers':",
            gallery.len(),
            gallery.people(),
            args.rounds
        );
        println!("int8 first      median {median:.2} ms, p99 {p99:.2} ms");
        println!(
            "plain float32   median {plain_median:.2} ms, p99 {plain_p99:.2} ms; the same answers"
        );
        println!("memory          {} MiB", gallery.bytes() >> 20);
    }
    Ok(())
}

fn picture_of(random: &mut fastrand::Rng, person: &[f32]) -> Vec<f32> {
    of_length(1.0, sum(person, &direction(random, PICTURE)))
}

fn sum(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// Returns a vector of a given length in a random direction.
fn direction(random: &mut fastrand::Rng, length: f32) -> Vec<f32> {
    // The sum of twelve uniform numbers is nearly normal, and normal components give uniform
    // directions.
    of_length(
        length,
        (0..DIMENSION)
            .map(|_| (0..12).map(|_| random.f32()).sum::<f32>() - 6.0)
            .collect(),
    )
}

fn of_length(length: f32, vector: Vec<f32>) -> Vec<f32> {
    let long = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector
        .into_iter()
        .map(|value| value * length / long)
        .collect()
}
