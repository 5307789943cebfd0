//! `kithd backup` and `kithd restore`: one file with everything worth keeping, through the daemon when it runs. The file
//! belongs to whoever typed the command.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};

use super::own_gallery;
use crate::config::Config;
use crate::control::Client;
use crate::health::Health;

/// What can be typed.
#[derive(Debug, clap::Args)]
pub struct BackupArgs {
    /// Where the backup goes; replaced once the new one is complete
    file: PathBuf,
}

/// What can be typed.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// What kithd backup wrote
    file: PathBuf,
    /// Answers as JSON
    #[arg(long)]
    json: bool,
}

/// Writes the file beside itself first, so that one that was there is replaced whole or not at all.
pub async fn save(config: &Config, args: BackupArgs) -> anyhow::Result<ExitCode> {
    let folder = args.file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let not_written = || format!("no backup was written to {}", args.file.display());
    // It holds faces: nobody else may read it. Half a backup is none: it goes if this fails.
    let part = tempfile::Builder::new().prefix(".kithd-backup-").tempfile_in(folder).with_context(not_written)?;
    let bytes = write(config, part.as_file().try_clone()?).await.with_context(not_written)?;
    part.persist(&args.file).with_context(|| format!("{} cannot be made", args.file.display()))?;
    std::fs::File::open(folder)?.sync_all()?;
    println!("{} has everything: {} KiB", args.file.display(), bytes.div_ceil(1024));
    Ok(ExitCode::SUCCESS)
}

async fn write(config: &Config, file: std::fs::File) -> anyhow::Result<u64> {
    if let Some(client) = Client::connect(&config.state_dir).await? {
        let mut file = tokio::fs::File::from_std(file);
        let bytes = client.backup(&mut file).await?;
        file.sync_all().await?;
        return Ok(bytes);
    }
    let (_held, enroller) = existing(config).await?;
    let backup = enroller.backup().await?;
    let bytes = backup.bytes();
    let written = tokio::task::spawn_blocking(move || {
        backup.write_to(std::io::BufWriter::new(&file))?;
        file.sync_all()
    });
    written.await??;
    enroller.store.close().await;
    Ok(bytes)
}

/// Has it taken in, and says what came back.
pub async fn restore(config: &Config, args: RestoreArgs) -> anyhow::Result<ExitCode> {
    let file = std::fs::File::open(&args.file).with_context(|| format!("{} cannot be read", args.file.display()))?;
    let restored = match Client::connect(&config.state_dir).await? {
        Some(client) => client.restore(tokio::fs::File::from_std(file)).await?,
        None => {
            let (_held, enroller) = own_gallery(config).await?;
            let restored = enroller.restore(None, &Health::default(), std::io::BufReader::new(file)).await;
            enroller.store.close().await;
            restored?
        }
    };
    if args.json {
        println!("{}", serde_json::to_string(&restored)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("The backup {} was taken in.", restored.origin);
    println!(
        "Came back: {} people, {} enrolled pictures, {} counter-examples, {} finished images.",
        restored.people, restored.pictures, restored.counter_examples, restored.images
    );
    if restored.erased > 0 {
        println!("{} people of this board are erased in the backup, and are now here.", restored.erased);
    }
    if restored.left_out > 0 {
        println!("{} images stayed out: their numbers have been given to other pictures here.", restored.left_out);
    }
    Ok(ExitCode::SUCCESS)
}

/// A folder that was mistyped must not become an empty board.
async fn existing(config: &Config) -> anyhow::Result<(crate::state_dir::StateDir, crate::recognition::Enroller)> {
    let was_here = [crate::store::DATABASE, crate::backup::GALLERY];
    if !was_here.iter().any(|file| config.state_dir.join(file).exists()) {
        bail!("there is no database in {} yet: kithd has not run with this state_dir", config.state_dir.display());
    }
    own_gallery(config).await
}
