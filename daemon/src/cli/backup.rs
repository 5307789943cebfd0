//! `kithd backup` and `kithd restore`: one file with everything worth keeping, through the daemon
//! if it runs; and export and import of people only. The file belongs to the user who runs the
//! command.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use tokio_util::io::ReaderStream;

use super::{confirmed, own_gallery, person_id};
use crate::config::Config;
use crate::control::Client;
use crate::people::{Imported, People, Restored};
use crate::state_dir::StateDir;
use crate::store::{Amounts, Store, amounts};

const CHUNK: usize = 64 << 10;

/// Arguments of `kithd backup`.
#[derive(Debug, clap::Args)]
pub struct BackupArgs {
    /// File of the backup; replaced once the new one is complete
    file: PathBuf,
}

/// Arguments of `kithd restore`.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// File written by kithd backup
    file: PathBuf,
    /// Does not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Answers as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `kithd people export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// File for the people; replaced once the new one is complete
    file: PathBuf,
    /// Exports only this person
    #[arg(long)]
    person: Option<String>,
}

/// Arguments of `kithd people import`.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// File written by kithd people export or kithd backup
    file: PathBuf,
    /// Answers as JSON
    #[arg(long)]
    json: bool,
}

/// Saves everything.
pub async fn save(config: &Config, args: BackupArgs) -> anyhow::Result<ExitCode> {
    let bytes = write(config, &args.file, Saved::Everything).await?;
    println!(
        "{} has everything: {} KiB",
        args.file.display(),
        bytes.div_ceil(1024)
    );
    Ok(ExitCode::SUCCESS)
}

/// Saves people, for another board.
pub async fn export(config: &Config, args: ExportArgs) -> anyhow::Result<ExitCode> {
    let content = args.person.clone().unwrap_or_else(|| "everybody".into());
    let bytes = write(config, &args.file, Saved::People(args.person)).await?;
    println!(
        "{} has {content}: {} KiB",
        args.file.display(),
        bytes.div_ceil(1024)
    );
    Ok(ExitCode::SUCCESS)
}

enum Saved {
    Everything,
    People(Option<String>),
}

/// Writes a temporary file beside the target first, so that an existing file is replaced completely
/// or not at all.
async fn write(config: &Config, target: &Path, what: Saved) -> anyhow::Result<u64> {
    let folder = target
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let not_written = || format!("no file was written to {}", target.display());
    // Only the owner may read it: it holds faces. An incomplete backup is deleted when this fails.
    let part = tempfile::Builder::new()
        .prefix(".kithd-backup-")
        .tempfile_in(folder)
        .with_context(not_written)?;
    let bytes = fill(config, part.as_file().try_clone()?, what)
        .await
        .with_context(not_written)?;
    part.persist(target)
        .with_context(|| format!("{} cannot be made", target.display()))?;
    std::fs::File::open(folder)?.sync_all()?;
    Ok(bytes)
}

async fn fill(config: &Config, file: std::fs::File, what: Saved) -> anyhow::Result<u64> {
    if let Some(client) = Client::connect(&config.state_dir).await? {
        let mut file = tokio::fs::File::from_std(file);
        let bytes = match what {
            Saved::Everything => client.backup(&mut file).await?,
            Saved::People(person) => client.export(person.as_deref(), &mut file).await?,
        };
        file.sync_all().await?;
        return Ok(bytes);
    }
    let (_held, people) = existing(config).await?;
    let backup = match what {
        Saved::Everything => people.backup().await?,
        Saved::People(None) => people.export(None).await?,
        Saved::People(Some(name)) => {
            people
                .export(Some(person_id(&people, &name).await?))
                .await?
        }
    };
    let bytes = backup.bytes();
    let written = tokio::task::spawn_blocking(move || {
        backup.write_to(&file)?;
        file.sync_all()
    });
    written.await??;
    people.store.close().await;
    Ok(bytes)
}

/// Asks for confirmation, restores, and reports what was replaced.
pub async fn restore(config: &Config, args: RestoreArgs) -> anyhow::Result<ExitCode> {
    let (file, length) = open(&args.file)?;
    if !args.yes {
        if !std::io::stdin().is_terminal() {
            bail!(
                "kithd restore replaces the people and past images of this board by those of the file; add --yes \
                 where it cannot ask"
            );
        }
        let here = match Store::open_for_reading(&config.state_dir)? {
            Some(connection) => amounts(&connection)?,
            None => Amounts::default(),
        };
        let question = format!(
            "Replace the {} people and {} past images of this board by those of {}? Everything that is not in the file will be lost.",
            here.people,
            here.images,
            args.file.display()
        );
        if !confirmed(&question)? {
            return Ok(ExitCode::FAILURE);
        }
    }
    let restored: Restored = match Client::connect(&config.state_dir).await? {
        Some(client) => client.restore(file, length).await?,
        None => {
            let (_held, people) = own_gallery(config).await?;
            let body = ReaderStream::with_capacity(file, CHUNK);
            let restored = people.restore(Some(length), body).await;
            people.store.close().await;
            restored?
        }
    };
    if args.json {
        println!("{}", serde_json::to_string(&restored)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("The backup {} was restored.", restored.origin);
    for (what, amounts) in [("Replaced", &restored.replaced), ("By", &restored.came)] {
        println!(
            "{what}: {} people, {} enrolled pictures, {} counter-examples, {} past images.",
            amounts.people, amounts.pictures, amounts.counter_examples, amounts.images
        );
    }
    if restored.kept > 0 {
        println!(
            "{} images of this board that are not finished or not delivered yet stayed.",
            restored.kept
        );
    }
    if restored.same_number > 0 {
        println!(
            "{} images of the backup were not restored: images that stayed have the same numbers.",
            restored.same_number
        );
    }
    say_left(restored.erased, restored.left_out, &restored.left_out_rows);
    Ok(ExitCode::SUCCESS)
}

/// Adds people, and reports who was added.
pub async fn import(config: &Config, args: ImportArgs) -> anyhow::Result<ExitCode> {
    let (file, length) = open(&args.file)?;
    let imported: Imported = match Client::connect(&config.state_dir).await? {
        Some(client) => client.import(file, length).await?,
        None => {
            let (_held, people) = own_gallery(config).await?;
            let body = ReaderStream::with_capacity(file, CHUNK);
            let imported = people.import(Some(length), body).await;
            people.store.close().await;
            imported?
        }
    };
    if args.json {
        println!("{}", serde_json::to_string(&imported)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("People of the file {} were added.", imported.origin);
    println!(
        "New: {} people, {} enrolled pictures, {} counter-examples. Known before: {} people.",
        imported.people, imported.pictures, imported.counter_examples, imported.known
    );
    say_left(imported.erased, imported.left_out, &imported.left_out_rows);
    imported
        .resembling
        .iter()
        .for_each(|sentence| println!("{sentence}"));
    Ok(ExitCode::SUCCESS)
}

/// Opens a file and returns its size.
fn open(file: &Path) -> anyhow::Result<(tokio::fs::File, u64)> {
    let cannot = || format!("{} cannot be read", file.display());
    // Check the kind first: opening a pipe waits for its other end.
    if !std::fs::metadata(file).with_context(cannot)?.is_file() {
        bail!("{} is not a file", file.display());
    }
    let opened = std::fs::File::open(file).with_context(cannot)?;
    let length = opened.metadata()?.len();
    Ok((tokio::fs::File::from_std(opened), length))
}

fn say_left(erased: u64, left_out: u64, rows: &[String]) {
    if erased > 0 {
        println!("{erased} people of the file were erased on this board and stay erased.");
    }
    if left_out > 0 {
        println!("{left_out} rows of the file were not taken:");
        rows.iter().for_each(|row| println!("  {row}"));
        if left_out > rows.len() as u64 {
            println!("  and {} more", left_out - rows.len() as u64);
        }
    }
}

/// A folder that was mistyped must not become an empty board.
async fn existing(config: &Config) -> anyhow::Result<(StateDir, People)> {
    let was_here = [crate::store::DATABASE, crate::backup::GALLERY];
    if !was_here
        .iter()
        .any(|file| config.state_dir.join(file).exists())
    {
        bail!(
            "there is no database in {} yet: kithd has not run with this state_dir",
            config.state_dir.display()
        );
    }
    own_gallery(config).await
}
