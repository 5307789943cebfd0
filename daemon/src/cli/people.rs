//! `kithd people`: lists who is enrolled, renames or merges people, and moves people between
//! boards. Through the daemon if it runs.

use std::process::ExitCode;

use anyhow::bail;

use super::{backup, own_gallery, person_id};
use crate::config::Config;
use crate::control::Client;
use crate::store::{PersonChange, Store, people};

/// Arguments of `kithd people`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    change: Option<Change>,
}

#[derive(Debug, clap::Subcommand)]
enum Change {
    /// Renames a person, in past results too
    Rename(RenameArgs),
    /// Merges the first person into the second, who gets all pictures and results
    Merge(MergeArgs),
    /// Writes people with their pictures to a file, for another board
    Export(backup::ExportArgs),
    /// Adds the people of such a file, or of a backup, to those on this board
    Import(backup::ImportArgs),
}

#[derive(Debug, clap::Args)]
struct RenameArgs {
    /// Present name
    person: String,
    /// New name
    name: String,
}

#[derive(Debug, clap::Args)]
struct MergeArgs {
    /// Person to merge, whose name is lost
    person: String,
    /// Person who remains
    into: String,
}

/// Executes a subcommand; without one, lists the people.
pub async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    match args.change {
        None => show(config),
        Some(Change::Export(args)) => backup::export(config, args).await,
        Some(Change::Import(args)) => backup::import(config, args).await,
        Some(Change::Rename(args)) => rename(config, args).await,
        Some(Change::Merge(args)) => merge(config, args).await,
    }
}

async fn rename(
    config: &Config,
    RenameArgs { person, name }: RenameArgs,
) -> anyhow::Result<ExitCode> {
    if let Some(client) = Client::connect(&config.state_dir).await? {
        client.rename(&person, &name).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let (_held, people) = own_gallery(config).await?;
    let changed = people
        .rename(person_id(&people, &person).await?, &name)
        .await?;
    people.store.close().await;
    told(changed)
}

async fn merge(config: &Config, MergeArgs { person, into }: MergeArgs) -> anyhow::Result<ExitCode> {
    if let Some(client) = Client::connect(&config.state_dir).await? {
        client.merge(&person, &into).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let (_held, people) = own_gallery(config).await?;
    let changed = people
        .merge(
            person_id(&people, &person).await?,
            person_id(&people, &into).await?,
        )
        .await?;
    people.store.close().await;
    told(changed)
}

fn told(changed: PersonChange) -> anyhow::Result<ExitCode> {
    match changed {
        PersonChange::Done => Ok(ExitCode::SUCCESS),
        PersonChange::NotFound => bail!("there is no such person any more"),
        PersonChange::Refused(why) => bail!(why),
    }
}

fn show(config: &Config) -> anyhow::Result<ExitCode> {
    let Some(connection) = Store::open_for_reading(&config.state_dir)? else {
        bail!(
            "there is no database in {} yet: kithd has not run with this state_dir",
            config.state_dir.display()
        );
    };
    for person in people(&connection)? {
        println!("{}  {} pictures", person.name, person.pictures);
    }
    Ok(ExitCode::SUCCESS)
}
