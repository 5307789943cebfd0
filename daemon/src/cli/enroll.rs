//! `kithd enroll`: pictures of one person, or a folder of known people; through the daemon when it runs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::{OwnEngines, own_gallery};
use crate::config::Config;
use crate::control::Client;
use crate::names;
use crate::recognition::{Enroller, Enrolment, Matcher, Ready, Report, file_name, person_of, read_given};
use crate::state_dir::StateDir;

const PICTURES: &[&str] = &["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// What can be typed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the person in the pictures
    #[arg(long, required_unless_present = "folder", conflicts_with = "folder")]
    person: Option<String>,
    /// Folder of known people: one sub-folder each, or files named name_1.jpg
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Pictures of the person
    #[arg(required_unless_present = "folder", conflicts_with = "folder")]
    pictures: Vec<PathBuf>,
    /// Even where the face is somebody else's, or another than in the person's earlier pictures
    #[arg(long)]
    anyway: bool,
    /// Answers as JSON, one line a picture
    #[arg(long)]
    json: bool,
}

/// Enrols and shows the table; fails when nothing could be enrolled.
pub async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let work = match (&args.folder, args.person) {
        (Some(folder), _) => known_people(folder)?,
        (None, Some(person)) => args.pictures.into_iter().map(|picture| (person.clone(), picture)).collect(),
        (None, None) => unreachable!("clap requires --person or --folder"),
    };
    let door = Door::open(config).await?;
    let bar = ProgressBar::new(work.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    let mut reports = Vec::new();
    for (person, picture) in work {
        bar.set_message(file_name(&picture));
        let enrolled = match read_given(&picture, config.intake.max_bytes) {
            Ok(bytes) => door.enroll(&person, &file_name(&picture), bytes, args.anyway).await,
            Err(failure) => Err(anyhow::anyhow!(failure.verdict().sentence)),
        };
        // One picture that cannot be taken must not end the others, nor the closing table.
        let report = enrolled.unwrap_or_else(|error| Report {
            image_name: file_name(&picture),
            person: names::clean(&person),
            person_id: None,
            enrolment: Enrolment::Rejected,
            remark: Some(format!("{error:#}")),
            resembles: None,
        });
        reports.push(report);
        bar.inc(1);
    }
    bar.finish_and_clear();
    door.close().await;
    if args.json {
        for report in &reports {
            println!("{}", serde_json::to_string(report)?);
        }
    } else {
        print!("{}", table(&reports));
    }
    let useful = reports.iter().any(|report| report.enrolment != Enrolment::Rejected);
    Ok(if useful { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The running daemon, or the state folder itself.
enum Door {
    Daemon(Client),
    Own { _held: StateDir, enroller: Enroller, up: Arc<Ready>, engines: OwnEngines },
}

impl Door {
    async fn open(config: &Config) -> anyhow::Result<Self> {
        if let Some(client) = Client::connect(&config.state_dir).await? {
            return Ok(Self::Daemon(client));
        }
        let (held, enroller) = own_gallery(config).await?;
        let engines = OwnEngines::start(config).await?;
        let guard = engines.guard.clone();
        let matcher = Matcher::new(guard.pack(), config.recognition.threshold, config.recognition.mirrors);
        let store = &enroller.store;
        let people = store.gallery(matcher.space().into()).await?;
        matcher.replace(people, store.counter_examples(matcher.space().into()).await?)?;
        let up = Arc::new(Ready { guard, matcher, store: Some(enroller.store.clone()) });
        Ok(Self::Own { _held: held, enroller, up, engines })
    }

    async fn enroll(&self, person: &str, name: &str, bytes: Vec<u8>, anyway: bool) -> anyhow::Result<Report> {
        match self {
            Self::Daemon(client) => client.enroll(person, name, bytes, anyway).await,
            Self::Own { enroller, up, .. } => enroller.enroll(up, person, name, bytes, anyway).await,
        }
    }

    async fn close(self) {
        if let Self::Own { enroller, engines, .. } = self {
            engines.stop().await;
            enroller.store.close().await;
        }
    }
}

/// Every picture below a folder with the person it belongs to, in a fixed order.
fn known_people(folder: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(current) = folders.pop() {
        let entries = std::fs::read_dir(&current).with_context(|| format!("{} cannot be read", current.display()))?;
        for entry in entries {
            let path = entry?.path();
            if file_name(&path).starts_with('.') {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
            if PICTURES.contains(&extension.as_str())
                && let Some(person) = person_of(folder, &path)
            {
                found.push((person, path));
            }
        }
    }
    if found.is_empty() {
        bail!("no pictures were found below {}; it takes {}", folder.display(), PICTURES.join(", "));
    }
    found.sort();
    Ok(found)
}

fn table(reports: &[Report]) -> String {
    use std::collections::BTreeMap;
    use std::fmt::Write;

    let mut by_person: BTreeMap<&str, (usize, usize, usize)> = BTreeMap::new();
    for report in reports {
        let counts = by_person.entry(&report.person).or_default();
        match report.enrolment {
            Enrolment::Enrolled => counts.0 += 1,
            Enrolment::AlreadyThere => counts.1 += 1,
            Enrolment::Rejected => counts.2 += 1,
        }
    }
    let width = by_person.keys().map(|name| name.chars().count()).max().unwrap_or(0).max("person".len());
    let mut text = format!("{:width$}  enrolled  already there  rejected\n", "person");
    for (name, (new, old, rejected)) in &by_person {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:width$}  {new:8}  {old:13}  {rejected:8}");
    }
    let remarks: Vec<_> = reports.iter().filter_map(|r| r.remark.as_ref().map(|remark| (r, remark))).collect();
    if !remarks.is_empty() {
        text.push('\n');
    }
    for (report, remark) in remarks {
        let verdict = if report.enrolment == Enrolment::Rejected { "rejected" } else { "enrolled" };
        let _ = writeln!(text, "{} ({}) {verdict}: {remark}", report.image_name, report.person);
    }
    text
}
