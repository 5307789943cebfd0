//! `kithd-bench writes`: measures bytes written to the disk per picture, for cards that wear out by
//! writing.
//!
//! The count is `write_bytes` in `/proc/PID/io` of the daemon and its children up to the daemon's
//! end, so it includes copying the journal into the database. The kernel counts each page of the
//! page cache (4 KiB) that becomes dirty. That is what reaches the card, except for the file
//! system's own metadata, which is charged to no process. `cancelled_write_bytes` is not
//! subtracted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use image::{ImageFormat, imageops};
use kithd::for_bench::{DATABASE, load_pack};
use rusqlite::Connection;
use serde_json::json;

use crate::Subject;
use crate::daemon::Daemon;
use crate::requests::{connect, request};

/// Pause between lone pictures, long enough that no two share a commit.
const LONE: Duration = Duration::from_secs(3);
/// File systems in memory, by their numbers from `statfs`(2).
const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58F6];

/// Arguments of `kithd-bench writes`.
#[derive(Debug, clap::Args)]
pub struct Writes {
    /// Pictures of the stream
    #[arg(long, default_value_t = 1000)]
    pictures: u32,
    /// Pictures a second in the stream
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
    /// Lone pictures, 3 s apart, measured after the stream
    #[arg(long, default_value_t = 20)]
    lone: u32,
    /// Broker that receives the results, for example mqtt://127.0.0.1:1883; without one MQTT is
    /// off, which writes less
    #[arg(long)]
    broker: Option<String>,
    /// Folder on a disk in which the state folder is made for the duration of the measurement
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
    /// Answers as JSON
    #[arg(long)]
    json: bool,
}

/// Bytes written for each picture of one run.
struct Row {
    name: String,
    pictures: u32,
    /// Total.
    written: u64,
    /// Share of the thumbnails.
    thumbnails: u64,
    /// Share of the face crops.
    crops: u64,
    /// Bytes passed to write(2) and the like.
    passed: u64,
    commits: f64,
}

impl Row {
    fn without_thumbnails(&self) -> u64 {
        self.written.saturating_sub(self.thumbnails)
    }

    fn rest(&self) -> u64 {
        self.without_thumbnails().saturating_sub(self.crops)
    }
}

/// Measures a stream and lone pictures, each with a daemon and a state folder of its own.
pub async fn writes(mut subject: Subject, args: Writes) -> anyhow::Result<()> {
    let kind = rustix::fs::statfs(&args.folder)
        .with_context(|| args.folder.display().to_string())?
        .f_type as u32;
    if IN_MEMORY.contains(&kind) {
        bail!(
            "{} is in memory, where nothing is written to a disk; name a folder on one with --folder",
            args.folder.display()
        );
    }
    if !(args.rate.is_finite() && args.rate > 0.0) {
        bail!("--rate {} must be above 0", args.rate);
    }
    // Choosing a precision by measurement would restart the engine during the count.
    let config = &mut subject.config;
    if config.models.precision.is_none() {
        let pack = load_pack(&config.models)?;
        config.models.precision = Some(pack.default_precision(config.engine.device));
    }
    let picture = subject.picture()?;
    let pause = Duration::from_secs_f64(1.0 / args.rate);
    let mut rows = Vec::new();
    for (name, pictures, pause) in [
        (format!("{} a second", args.rate), args.pictures, pause),
        ("lone".to_string(), args.lone, LONE),
    ] {
        if pictures > 0 {
            rows.push(measure(&subject, &args, &picture, name, pictures, pause).await?);
        }
    }
    if args.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                json!({ "name": row.name, "pictures": row.pictures, "written": row.written,
                        "thumbnails": row.thumbnails, "crops": row.crops, "rest": row.rest(),
                        "without_thumbnails": row.without_thumbnails(), "passed": row.passed, "commits": row.commits })
            })
            .collect();
        println!("{}", json!(rows));
        return Ok(());
    }
    println!(
        "bytes written for each picture, MQTT {}",
        if args.broker.is_some() { "on" } else { "off" }
    );
    for row in rows {
        println!(
            "{:14} {:6} in all: {} thumbnails, {} crops of faces, {} the rest; {:.2} commits ({} pictures, {} passed to write)",
            row.name,
            row.written,
            row.thumbnails,
            row.crops,
            row.rest(),
            row.commits,
            row.pictures,
            row.passed
        );
    }
    Ok(())
}

async fn measure(
    subject: &Subject,
    args: &Writes,
    picture: &[u8],
    name: String,
    pictures: u32,
    pause: Duration,
) -> anyhow::Result<Row> {
    let temporary = tempfile::Builder::new()
        .prefix("kithd-bench-")
        .tempdir_in(&args.folder)?;
    let folder = temporary.path().canonicalize()?;
    let inbox = folder.join("pictures");
    std::fs::create_dir(&inbox)?;
    let state = folder.join("state");
    let mut daemon = Daemon::start(subject, args.broker.as_deref(), &state, Some(&inbox)).await?;
    daemon.wait_for_engine().await?;
    enroll_three(&daemon, &folder, picture).await?;
    let first = folder.join("picture.jpg");
    std::fs::write(&first, picture)?;
    let mut client = connect(&daemon.address).await?;
    let mut count = async |key: &str| -> anyhow::Result<u64> {
        let status = request(&mut client, "GET", "/v1/status", Vec::new()).await?;
        Ok(status["counts"][key].as_u64().unwrap_or(0))
    };
    // Wait for the enrolment's last commit, which must not be counted.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (before, commits) = (daemon.written()?, daemon.commits().await?);
    let mut sender = connect(&daemon.address).await?;
    let mut clock = tokio::time::interval(pause);
    for n in 0..pictures {
        let path = inbox.join(format!("front-gate-{n:06}.jpg"));
        // Hard links to one file: writing the pictures is the sender's cost, not ours.
        std::fs::hard_link(&first, &path)?;
        clock.tick().await;
        request(
            &mut sender,
            "POST",
            "/image/post",
            json!({ "path": path }).to_string().into_bytes(),
        )
        .await?;
    }
    while count("processed").await? + count("failed").await? < pictures.into()
        || count("unsent").await? > 0
    {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    if count("failed").await? > 0 {
        bail!(
            "{} of {pictures} pictures failed, so that the count means nothing",
            count("failed").await?
        );
    }
    let commits = daemon.commits().await? - commits;
    let after = daemon.stop_and_count().await?;
    let (thumbnails, crops) = picture_bytes(&state)?;
    let each = |bytes: u64| bytes / u64::from(pictures);
    Ok(Row {
        name,
        pictures,
        written: each(after.written.saturating_sub(before.written)),
        // Each is written once to the journal and once to the database.
        thumbnails: each(2 * thumbnails),
        crops: each(2 * crops),
        passed: each(after.passed.saturating_sub(before.passed)),
        commits: commits as f64 / f64::from(pictures),
    })
}

/// Returns the pictures' share of the database: pages of the thumbnails' table, and the crops, which
/// are stored among the faces.
fn picture_bytes(state: &Path) -> rusqlite::Result<(u64, u64)> {
    Connection::open(state.join(DATABASE))?.query_row(
        "SELECT (SELECT coalesce(sum(pgsize), 0) FROM dbstat WHERE name = 'thumbnails'),
                (SELECT coalesce(sum(length(crop)), 0) FROM faces)",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Enrols three people, so that a face has as many candidates as in any larger gallery.
async fn enroll_three(daemon: &Daemon, folder: &Path, picture: &[u8]) -> anyhow::Result<()> {
    let picture = image::load_from_memory(picture)?.into_rgb8();
    let variants = [
        picture.clone(),
        imageops::flip_horizontal(&picture),
        imageops::brighten(&picture, 20),
    ];
    for (number, variant) in (1..).zip(variants) {
        let file = folder.join(format!("person_{number}.jpg"));
        variant.save_with_format(&file, ImageFormat::Jpeg)?;
        let mut command = daemon.command();
        // All three have the same picture.
        command
            .arg("enroll")
            .arg("--anyway")
            .arg("--person")
            .arg(format!("Person {number}"))
            .arg(&file);
        let output = command.output().await?;
        if !output.status.success() {
            bail!(
                "a person could not be enrolled: {}",
                String::from_utf8_lossy(&output.stdout).trim()
            );
        }
    }
    Ok(())
}
