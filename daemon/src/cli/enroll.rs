//! `kithd enroll`: enrols pictures of one person, or a folder of known people; through the daemon
//! if it runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::fs::{FileType, Mode, OFlags};
use serde_json::json;

use super::{OwnEngines, own_people};
use crate::config::Config;
use crate::control::Client;
use crate::engines::Admission;
use crate::files::left_out::{self, LeftOut, Named, Why};
use crate::files::{entries, file_name, open_beneath};
use crate::names;
use crate::people::{Enrolment, EnrolmentReport, People, person_of};
use crate::pipeline::{read_below, read_given};
use crate::state_dir::StateDir;

/// Arguments of `kithd enroll`.
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
    /// Enrols even a face that looks like another person, or unlike the person's earlier pictures
    #[arg(long)]
    anyway: bool,
    /// Answers as JSON, one line a picture
    #[arg(long)]
    json: bool,
}

/// Enrols and prints the table; fails if nothing could be enrolled.
pub async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let Known {
        pictures: work,
        left_out,
        unreadable,
    } = match (&args.folder, args.person) {
        (Some(folder), _) => known_people(folder)?,
        (None, Some(person)) => {
            let pictures = args
                .pictures
                .into_iter()
                .map(|picture| (person.clone(), picture))
                .collect();
            Known {
                pictures,
                ..Known::default()
            }
        }
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
        let read = match &args.folder {
            Some(folder) => read_below(folder, &picture, config.intake.max_bytes),
            None => read_given(&picture, config.intake.max_bytes),
        };
        let enrolled = match read {
            Ok(bytes) => {
                door.enroll(&person, &file_name(&picture), bytes, args.anyway)
                    .await
            }
            Err(failure) => Err(anyhow::anyhow!(failure.verdict().sentence)),
        };
        // A picture that cannot be enrolled must not stop the others, nor the final table.
        let report = enrolled.unwrap_or_else(|error| EnrolmentReport {
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
        if !left_out.is_empty() || !unreadable.is_empty() {
            println!(
                "{}",
                json!({ "left_out": left_out.sentences(), "unreadable": unreadable })
            );
        }
    } else {
        print!("{}", table(&reports));
        if !left_out.is_empty() {
            println!("\n{left_out}");
        }
        unreadable.iter().for_each(|folder| println!("{folder}"));
    }
    let useful = reports
        .iter()
        .any(|report| report.enrolment != Enrolment::Rejected);
    Ok(if useful {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The running daemon, or the state folder itself.
enum Door {
    Daemon(Client),
    Own {
        _held: StateDir,
        people: Box<People>,
        engines: OwnEngines,
    },
}

impl Door {
    async fn open(config: &Config) -> anyhow::Result<Self> {
        if let Some(client) = Client::connect(&config.state_dir).await? {
            return Ok(Self::Daemon(client));
        }
        let engines = OwnEngines::start(config).await?;
        let (held, people) = own_people(config, engines.engines.clone()).await?;
        people.load(config.recognition.judging).await?;
        Ok(Self::Own {
            _held: held,
            people: Box::new(people),
            engines,
        })
    }

    async fn enroll(
        &self,
        person: &str,
        name: &str,
        bytes: Vec<u8>,
        anyway: bool,
    ) -> anyhow::Result<EnrolmentReport> {
        match self {
            Self::Daemon(client) => client.enroll(person, name, bytes, anyway).await,
            Self::Own { people, .. } => {
                people
                    .enroll(&Admission::queue(), person, name, bytes, anyway)
                    .await
            }
        }
    }

    async fn close(self) {
        if let Self::Own {
            people, engines, ..
        } = self
        {
            engines.stop().await;
            people.store.close().await;
        }
    }
}

/// The contents of a folder of known people.
#[derive(Default)]
pub struct Known {
    /// Pictures with the person they belong to, in a fixed order.
    pub pictures: Vec<(String, PathBuf)>,
    left_out: LeftOut,
    /// Folders in it that cannot be read, as sentences.
    unreadable: Vec<String>,
}

/// Searches a folder of known people without following links.
pub fn known_people(folder: &Path) -> anyhow::Result<Known> {
    let mut known = Known::default();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(folder, flags, Mode::empty());
    let root = root.with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut folders = vec![PathBuf::new()];
    while let Some(current) = folders.pop() {
        let opened = open_beneath(&root, &current, OFlags::RDONLY | OFlags::DIRECTORY);
        let listed = match opened.and_then(|opened| entries(&opened)) {
            Ok(listed) => listed,
            Err(error) if current.as_os_str().is_empty() => {
                bail!(
                    "{} cannot be read: {}",
                    folder.display(),
                    std::io::Error::from(error)
                );
            }
            Err(error) => {
                let (shown, error) = (folder.join(&current), std::io::Error::from(error));
                known.unreadable.push(format!(
                    "the folder {shown:?} cannot be read: {error}; all others were"
                ));
                continue;
            }
        };
        for (name, kind) in listed {
            let below = current.join(&name);
            if let Some(why) = left_out::of_entry(&name, kind) {
                known.left_out.add(why, &below);
                continue;
            }
            if kind == FileType::Directory {
                folders.push(below);
                continue;
            }
            let why = match left_out::by_ending(&name) {
                // Two folders whose names cannot be read would be one person.
                _ if below.to_str().is_none() => Some(Why::NotUtf8),
                Named::Out(why) => Some(why),
                Named::Picture => None,
                // A file that cannot be read is rejected by name later.
                Named::Unclear => left_out::by_bytes_beneath(&root, &below).unwrap_or_default(),
            };
            let path = folder.join(&below);
            match (why, person_of(folder, &path)) {
                (Some(why), _) => known.left_out.add(why, &below),
                (None, None) => known.left_out.add(Why::CameraName, &below),
                (None, Some(person)) => known.pictures.push((person, path)),
            }
        }
    }
    if known.pictures.is_empty() {
        let out = if known.left_out.is_empty() {
            String::new()
        } else {
            format!("; {}", known.left_out)
        };
        bail!(
            "no pictures of people were found below {}{out}",
            folder.display()
        );
    }
    known.pictures.sort();
    known.unreadable.sort();
    // The first spelling of a name is used for all pictures of the person.
    let mut spellings: BTreeMap<String, String> = BTreeMap::new();
    for (person, _) in &mut known.pictures {
        *person = spellings
            .entry(names::fold(person))
            .or_insert_with(|| person.clone())
            .clone();
    }
    Ok(known)
}

fn table(reports: &[EnrolmentReport]) -> String {
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
    let width = by_person
        .keys()
        .map(|name| name.chars().count())
        .max()
        .unwrap_or(0)
        .max("person".len());
    let mut text = format!("{:width$}  enrolled  already there  rejected\n", "person");
    for (name, (new, old, rejected)) in &by_person {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:width$}  {new:8}  {old:13}  {rejected:8}");
    }
    let remarks: Vec<_> = reports
        .iter()
        .filter_map(|r| r.remark.as_ref().map(|remark| (r, remark)))
        .collect();
    if !remarks.is_empty() {
        text.push('\n');
    }
    for (report, remark) in remarks {
        let verdict = if report.enrolment == Enrolment::Rejected {
            "rejected"
        } else {
            "enrolled"
        };
        let _ = writeln!(
            text,
            "{} ({}) {verdict}: {remark}",
            report.image_name, report.person
        );
    }
    text
}
