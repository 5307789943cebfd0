//! `kithd-bench sightings`: visits of people in made-up streams beside the sightings that they
//! become. The networks, joining and judgement are the daemon's own; only time is simulated.

mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use fastrand::Rng;
use kith_vision::{Device, Pack, Vision};
use kithd::for_bench::identity::{Template, judge_all};
use kithd::for_bench::joining::{Joined, Look, Open, Rules, join};
use kithd::for_bench::{FoundFace, GalleryRow, Judging, Matcher, Outcome, PersonId, load_pack};
use serde_json::json;

use self::streams::{KINDS, PHOTOGRAPHED, Person, Picture, RATE, Scene, Studio};
use crate::Subject;

/// Arguments of `kithd-bench sightings`.
#[derive(Debug, clap::Args)]
pub struct Sightings {
    /// Photographs of people, as in ../shared/faces
    #[arg(long, value_name = "FOLDER", default_value = "../shared/faces")]
    faces: PathBuf,
    /// Clips to play besides, as in ../shared/video; needs ffmpeg
    #[arg(long, value_name = "FOLDER")]
    video: Option<PathBuf>,
    /// Half of the people: 0 to tune, 1 to report
    #[arg(long, default_value_t = 1)]
    half: usize,
    /// People at most
    #[arg(long, default_value_t = 1_000)]
    people: usize,
    /// Scenes; each kind in turn
    #[arg(long, default_value_t = 240)]
    scenes: usize,
    /// Gap between two sightings of one person, in seconds
    #[arg(long, default_value_t = 60)]
    gap: u64,
    /// Names every visit that is not one sighting or has the wrong name, and in which ways
    #[arg(long)]
    explain: bool,
    /// Answers as JSON
    #[arg(long)]
    json: bool,
}

/// A visit counts from this quality of its best look; below it are patterns that are no faces.
const PERHAPS: f32 = 0.2;

/// A way of bringing pictures.
#[derive(Clone, Copy)]
struct Way {
    rate: u32,
    /// Share of the pictures that are lost.
    dropped: f32,
    /// True if pictures overtake each other.
    reordered: bool,
}

/// A sighting under way, with the visits that its looks are really of.
struct Sighting {
    open: Open,
    visits: BTreeSet<usize>,
    ended: bool,
}

/// The fate of one visit.
#[derive(Default)]
struct Fate {
    sightings: BTreeSet<usize>,
    /// Looks at it, and those in which it may be known.
    looks: u32,
    usable: u32,
    /// Quality of the best.
    best: f32,
    /// When the first look came, and the first right name.
    seen_ms: Option<i64>,
    named_ms: Option<i64>,
}

/// Counts over visits.
#[derive(Default)]
struct Counts {
    visits: u32,
    one: u32,
    sightings: u32,
    with_two: u32,
    of_nobody: u32,
    /// Visits of enrolled people with a usable face, and those with the right name at the end; by
    /// whether one or two pictures are enrolled.
    enrolled: [u32; 2],
    right: [u32; 2],
    wrong_name: u32,
    /// Visits of people who are not enrolled, and those that end with a name, or perhaps one.
    strangers: u32,
    strangers_named: u32,
    strangers_uncertain: u32,
    /// Milliseconds from entering, and from the first look, to the first right name.
    to_name: Vec<i64>,
    from_look: Vec<i64>,
}

/// The result of the measurement.
struct Report {
    people: usize,
    enrolled: usize,
    pictures: usize,
    /// For each way, each kind of scene, and all.
    rows: Vec<(String, Counts)>,
}

/// Measures and prints.
pub fn sightings(subject: &Subject, args: &Sightings) -> anyhow::Result<()> {
    ensure!(args.half < 2, "--half is 0 or 1");
    let models = &subject.config.models;
    let pack = load_pack(models)?;
    let precision = models.precision;
    let precision = precision.unwrap_or(pack.default_precision(Device::Cpu));
    let vision = Vision::load(&pack, precision, Device::Cpu)?;
    let report = measure(&pack, vision, args)?;
    if args.json {
        let rows = report.rows.iter();
        let rows = rows.map(|(name, counts)| (name.clone(), counts.json()));
        println!("{}", serde_json::Value::Object(rows.collect()));
        return Ok(());
    }
    println!(
        "{} people, {} of them enrolled with {} pictures; {} scenes; a gap of {} s",
        report.people, report.enrolled, report.pictures, args.scenes, args.gap
    );
    println!(
        "{:24} visits  one sighting  sightings  with two  no one's  named, of two / one picture  \
         other name  strangers named / uncertain  seconds to the name, from the first look",
        ""
    );
    for (name, counts) in &report.rows {
        println!("{name:24} {counts}");
    }
    Ok(())
}

fn measure(pack: &Pack, vision: Vision, args: &Sightings) -> anyhow::Result<Report> {
    let mut studio = Studio::open(
        vision,
        pack.quality_limits().clone(),
        &args.faces,
        args.half,
        args.people,
    )?;
    let photographed = studio.people.len();
    let mut clips = Vec::new();
    if let Some(folder) = &args.video {
        for pause in [20.0, 90.0] {
            clips.push(studio.singer(folder, pause)?);
            clips.push(studio.seats(folder, pause)?);
        }
    }
    let bench = Bench {
        matchers: [false, true].map(|mirrors| gallery(pack, &studio.people, mirrors)),
        gap: Duration::from_secs(args.gap),
        people: &studio.people,
    };
    let mut ways = Vec::new();
    for rate in [1, 2, 5] {
        for (dropped, reordered) in [(0.0, false), (0.1, false), (0.1, true)] {
            ways.push(Way {
                rate,
                dropped,
                reordered,
            });
        }
    }
    let names = ways.iter().map(ToString::to_string);
    let names = names.chain(KINDS.iter().map(ToString::to_string));
    let names = names.chain(["all".to_string()]);
    let mut rows: Vec<_> = names.map(|name| (name, Counts::default())).collect();
    let all = rows.len() - 1;
    let mut play = |number: usize, scene: &Scene, pictures: &[Picture]| -> anyhow::Result<()> {
        let mut failed: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (at, way) in ways.iter().enumerate() {
            let (sightings, fates) = bench.simulate(scene, pictures, *way, number as u64)?;
            for row in [at, ways.len() + scene.kind, all] {
                bench.count(&mut rows[row].1, scene, &sightings, &fates);
            }
            for visit in bench.failed(scene, &sightings, &fates) {
                failed.entry(visit).or_default().push(way.to_string());
            }
        }
        for (visit, ways) in failed.iter().filter(|_| args.explain) {
            let kind = KINDS[scene.kind];
            eprintln!("scene {number}, {kind}: {visit} ({})", ways.join("; "));
        }
        Ok(())
    };
    // Everyone comes once before anyone comes again.
    let mut order: Vec<usize> = (0..photographed).collect();
    Rng::with_seed(7).shuffle(&mut order);
    let mut people = order.into_iter().cycle();
    for number in 0..args.scenes {
        let scene = studio.scene(number % PHOTOGRAPHED, &mut people, number as u64);
        play(number, &scene, &studio.play(&scene)?)?;
    }
    for (number, (scene, pictures)) in clips.iter().enumerate() {
        play(args.scenes + number, scene, pictures)?;
    }
    let enrolled = studio.people.iter().filter(|person| person.enrolled > 0);
    Ok(Report {
        people: studio.people.len(),
        enrolled: enrolled.count(),
        pictures: studio.people.iter().map(|person| person.enrolled).sum(),
        rows,
    })
}

/// Enrols everybody who is to be.
fn gallery(pack: &Pack, people: &[Person], mirrors: bool) -> Matcher {
    let judging = Judging {
        mirrors,
        ..Judging::default()
    };
    let matcher = Matcher::new(pack, judging);
    let mut rows = Vec::new();
    for (number, person) in people.iter().enumerate() {
        for embedding in person.embeddings() {
            rows.push(GalleryRow {
                person_image_id: rows.len() as i64,
                person_id: number as PersonId,
                name: person.name.clone(),
                image_name: String::new(),
                embedding: embedding.to_vec(),
            });
        }
    }
    matcher.replace(rows, Vec::new());
    matcher
}

struct Bench<'a> {
    /// Without mirrors, and with.
    matchers: [Matcher; 2],
    gap: Duration,
    people: &'a [Person],
}

impl Bench<'_> {
    /// Brings the pictures of a scene, and returns the sightings and what became of each visit.
    fn simulate(
        &self,
        scene: &Scene,
        pictures: &[Picture],
        way: Way,
        seed: u64,
    ) -> anyhow::Result<(Vec<Sighting>, Vec<Fate>)> {
        let matcher = &self.matchers[usize::from(scene.mirrors)];
        let known_from = matcher.known_from();
        let rules = Rules::new(matcher.matching(), known_from, self.gap, scene.mirrors);
        let gap_ms = self.gap.as_millis() as i64;
        let mut sightings: Vec<Sighting> = Vec::new();
        let mut fates: Vec<Fate> = scene.visits.iter().map(|_| Fate::default()).collect();
        for picture in way.of(pictures, seed) {
            let came_ms = picture.came_ms;
            let found = picture.seen.iter().map(|seen| found(&seen.face)).collect();
            let faces = matcher.identify(found)?;
            for sighting in &mut sightings {
                sighting.ended |= came_ms - sighting.open.last_came_ms > gap_ms;
            }
            let at: Vec<usize> = (0..sightings.len())
                .filter(|at| !sightings[*at].ended)
                .collect();
            let open: Vec<Open> = at.iter().map(|at| sightings[*at].open.clone()).collect();
            let looks: Vec<_> = faces
                .iter()
                .map(|face| Look {
                    bounds: face.bounds,
                    quality: face.quality,
                    embedding: &face.embedding,
                    outcome: face.outcome,
                    person: face.person.as_ref().map(|person| person.person_id),
                })
                .collect();
            let joined = join(&rules, &open, &looks, came_ms);
            let mut touched = Vec::new();
            for (look, joined) in looks.iter().zip(joined) {
                let seen = picture
                    .seen
                    .iter()
                    .find(|seen| bounds(&seen.face) == look.bounds);
                let visit = seen.and_then(|seen| seen.visit);
                if let Some(visit) = visit {
                    let fate = &mut fates[visit];
                    fate.looks += 1;
                    fate.best = fate.best.max(look.quality);
                    fate.usable += u32::from(look.quality >= known_from);
                    let seen_ms = fate.seen_ms.unwrap_or(came_ms);
                    fate.seen_ms = Some(seen_ms.min(came_ms));
                }
                let at = match joined {
                    Joined::To(number) => at[number],
                    Joined::New => {
                        sightings.push(Sighting::new(sightings.len(), look, came_ms));
                        sightings.len() - 1
                    }
                    Joined::Nowhere => continue,
                };
                sightings[at].take(look, came_ms, visit, known_from);
                if let Some(visit) = visit {
                    fates[visit].sightings.insert(at);
                }
                touched.push(at);
            }
            let judged: Vec<_> = touched
                .iter()
                .map(|at| (&sightings[*at].open.template, sightings[*at].known()))
                .collect();
            let judged = judge_all(matcher, &judged)?;
            for (at, judged) in touched.iter().zip(judged) {
                let Some(judged) = judged else { continue };
                let open = &mut sightings[*at].open;
                open.outcome = judged.outcome;
                open.person = judged.person.map(|person| person.person_id);
            }
            for (visit, fate) in scene.visits.iter().zip(&mut fates) {
                let named = |at: &usize| {
                    touched.contains(at) && sightings[*at].known() == Some(visit.person as PersonId)
                };
                if fate.named_ms.is_none() && fate.sightings.iter().any(named) {
                    fate.named_ms = Some(came_ms);
                }
            }
        }
        Ok((sightings, fates))
    }

    fn count(&self, counts: &mut Counts, scene: &Scene, sightings: &[Sighting], fates: &[Fate]) {
        counts.sightings += sightings.len() as u32;
        let people = |sighting: &Sighting| -> BTreeSet<usize> {
            let visits = sighting.visits.iter();
            visits.map(|visit| scene.visits[*visit].person).collect()
        };
        for sighting in sightings {
            counts.with_two += u32::from(people(sighting).len() > 1);
            counts.of_nobody += u32::from(sighting.visits.is_empty());
        }
        for (number, (visit, fate)) in scene.visits.iter().zip(fates).enumerate() {
            if fate.best < PERHAPS || visit.double {
                continue;
            }
            counts.visits += 1;
            counts.one += u32::from(is_one(number, scene, fates, sightings));
            let person = &self.people[visit.person];
            if fate.usable == 0 || !person.labelled {
                continue;
            }
            let end = end(&whole(number, scene, fates), sightings);
            let pictures = person.enrolled;
            let is_right = end == (Outcome::Known, Some(visit.person as PersonId));
            if pictures == 0 {
                counts.strangers += 1;
                counts.strangers_named += u32::from(end.0 == Outcome::Known);
                counts.strangers_uncertain += u32::from(end.0 == Outcome::Uncertain);
                continue;
            }
            counts.enrolled[pictures - 1] += 1;
            counts.right[pictures - 1] += u32::from(is_right);
            counts.wrong_name += u32::from(end.0 == Outcome::Known && !is_right);
            if let (Some(named_ms), Some(seen_ms)) = (fate.named_ms, fate.seen_ms) {
                counts.to_name.push(named_ms - visit.began_ms);
                counts.from_look.push((named_ms - seen_ms).max(0));
            }
        }
    }

    /// Returns the visits that are not one sighting or end with a wrong name, in words.
    fn failed(&self, scene: &Scene, sightings: &[Sighting], fates: &[Fate]) -> Vec<String> {
        let mut failed = Vec::new();
        for (at, (visit, fate)) in scene.visits.iter().zip(fates).enumerate() {
            let person = &self.people[visit.person];
            let whole = whole(at, scene, fates);
            let (outcome, named) = end(&whole, sightings);
            let is_right = match person.enrolled {
                _ if !person.labelled => true,
                0 => outcome != Outcome::Known,
                _ => outcome == Outcome::Known && named == Some(visit.person as PersonId),
            };
            let is_one = is_one(at, scene, fates, sightings);
            if fate.best < PERHAPS || visit.double || is_one && (is_right || fate.usable == 0) {
                continue;
            }
            let named = named.map_or("nobody", |named| &self.people[named as usize].name);
            let held = whole.iter().map(|at| &sightings[*at].visits);
            failed.push(format!(
                "visit {at} of {} ({} enrolled): sightings hold visits {:?}, {outcome} {named}",
                person.name,
                person.enrolled,
                held.collect::<Vec<_>>(),
            ));
        }
        failed
    }
}

/// Tells whether all looks of a visit that are in a sighting are in the same one, and no other
/// visit's are. A person and their image in a mirror are one visit; where the configuration says
/// that there are no mirrors, they may be two sightings.
fn is_one(visit: usize, scene: &Scene, fates: &[Fate], sightings: &[Sighting]) -> bool {
    let same = |other: &usize| scene.is_same(visit, *other);
    let alone = |at: &usize| sightings[*at].visits.iter().all(same);
    let of_visit = whole(visit, scene, fates);
    let images = fates.iter().enumerate().filter(|(at, _)| same(at)).count();
    let most = if scene.mirrors { 1 } else { images };
    (1..=most).contains(&of_visit.len()) && of_visit.iter().all(alone)
}

/// Returns the identity of a visit at its end: the best of its sightings'.
fn end(of_visit: &BTreeSet<usize>, sightings: &[Sighting]) -> (Outcome, Option<PersonId>) {
    let of_visit = of_visit.iter().map(|at| &sightings[*at].open);
    let best = of_visit.min_by_key(|open| open.outcome as u8);
    best.map_or((Outcome::NoFace, None), |open| (open.outcome, open.person))
}

/// Returns the sightings of a visit, with those of its image in a mirror.
fn whole(visit: usize, scene: &Scene, fates: &[Fate]) -> BTreeSet<usize> {
    let same = (0..fates.len()).filter(|other| scene.is_same(visit, *other));
    same.flat_map(|other| fates[other].sightings.iter().copied())
        .collect()
}

impl Sighting {
    fn new(number: usize, look: &Look<'_>, came_ms: i64) -> Self {
        Self {
            open: Open {
                id: number as i64,
                began_came_ms: came_ms,
                last_came_ms: came_ms,
                bounds: look.bounds,
                template: Template::default(),
                outcome: look.outcome,
                person: look.person,
            },
            visits: BTreeSet::new(),
            ended: false,
        }
    }

    fn take(&mut self, look: &Look<'_>, came_ms: i64, visit: Option<usize>, known_from: f32) {
        let open = &mut self.open;
        open.began_came_ms = open.began_came_ms.min(came_ms);
        if came_ms >= open.last_came_ms {
            (open.last_came_ms, open.bounds) = (came_ms, look.bounds);
        }
        open.template.add(look.embedding, look.quality, known_from);
        self.visits.extend(visit);
    }

    fn known(&self) -> Option<PersonId> {
        self.open
            .person
            .filter(|_| self.open.outcome == Outcome::Known)
    }
}

impl Way {
    /// Returns the pictures that come this way, in the order in which they are worked on.
    fn of<'a>(&self, pictures: &'a [Picture], seed: u64) -> Vec<&'a Picture> {
        let mut rng = Rng::with_seed(seed ^ u64::from(self.rate));
        let every = f64::from(RATE) / f64::from(self.rate);
        let first = rng.f64() * every;
        let mut coming = Vec::new();
        for picture in pictures {
            let step = (picture.came_ms * i64::from(RATE) / 1000) as f64;
            let taken = ((step - first) / every).ceil() * every + first < step + 1.0;
            if taken && rng.f32() >= self.dropped {
                let delay = if self.reordered { rng.i64(0..2500) } else { 0 };
                coming.push((picture.came_ms + delay, picture));
            }
        }
        coming.sort_by_key(|(at, _)| *at);
        coming.into_iter().map(|(_, picture)| picture).collect()
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/s", self.rate)?;
        if self.dropped > 0.0 {
            f.write_str(", dropped")?;
        }
        if self.reordered {
            f.write_str(", reordered")?;
        }
        Ok(())
    }
}

impl Counts {
    fn json(&self) -> serde_json::Value {
        json!({
            "visits": self.visits, "one_sighting": self.one, "sightings": self.sightings,
            "with_two_people": self.with_two, "of_nobody": self.of_nobody,
            "enrolled": self.enrolled, "right": self.right, "other_name": self.wrong_name,
            "strangers": self.strangers, "strangers_named": self.strangers_named,
            "strangers_uncertain": self.strangers_uncertain,
            "to_name_ms": quantiles(&self.to_name), "from_first_look_ms": quantiles(&self.from_look),
        })
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = |times: &[i64]| {
            let [median, most] = quantiles(times).map(|at| at as f32 / 1e3);
            format!("{median:.1} (90 %: {most:.1})")
        };
        write!(
            f,
            "{:6}  {:10.2} %  {:9}  {:8}  {:8}  {:>11} / {:>11}  {:12}  {:>9} / {:>9}  {}, {}",
            self.visits,
            100.0 * self.one as f32 / self.visits.max(1) as f32,
            self.sightings,
            self.with_two,
            self.of_nobody,
            format!("{} of {}", self.right[1], self.enrolled[1]),
            format!("{} of {}", self.right[0], self.enrolled[0]),
            self.wrong_name,
            format!("{} of {}", self.strangers_named, self.strangers),
            self.strangers_uncertain,
            seconds(&self.to_name),
            seconds(&self.from_look),
        )
    }
}

/// Returns median and 90 % quantile.
fn quantiles(times: &[i64]) -> [i64; 2] {
    let mut times = times.to_vec();
    times.sort_unstable();
    [50, 90].map(|share| {
        times
            .get(times.len() * share / 100)
            .copied()
            .unwrap_or_default()
    })
}

fn bounds(face: &kith_vision::Face) -> [f32; 4] {
    let bounds = face.bounds;
    [bounds.left, bounds.top, bounds.right, bounds.bottom]
}

fn found(face: &kith_vision::Face) -> FoundFace {
    FoundFace {
        bounds: bounds(face),
        landmarks: face.landmarks,
        score: face.score,
        quality: face.quality.score,
        objection: None,
        measures: None,
        embedding: face.embedding.clone(),
        crop: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use kith_vision::Precision;

    use super::*;

    #[test]
    fn every_visit_is_one_sighting_with_the_right_name() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let faces = here.join("../../../shared/faces");
        if !faces.is_dir() {
            println!("not run: the photographs are not beside the repository");
            return;
        }
        let pack = Pack::load(&here.join("../../models/packs/sface")).unwrap();
        let vision = Vision::load(&pack, Precision::Int8, Device::Cpu).unwrap();
        let args = Sightings {
            faces,
            video: None,
            half: 0,
            people: 40,
            scenes: PHOTOGRAPHED,
            gap: 60,
            explain: true,
            json: false,
        };
        let report = measure(&pack, vision, &args).unwrap();
        for (name, counts) in &report.rows {
            println!("{name:24} {counts}");
        }
        let (_, all) = report.rows.last().unwrap();
        assert!(all.visits > 150, "{all}");
        assert_eq!((all.one, all.with_two), (all.visits, 0), "{all}");
        assert_eq!(all.right, all.enrolled, "{all}");
        assert_eq!(all.strangers_named, 0, "{all}");
    }
}
