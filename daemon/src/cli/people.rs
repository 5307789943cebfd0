//! `kithd people`: who is enrolled; gives somebody another name, or makes two people one. Through the daemon when it runs.

use std::process::ExitCode;

use anyhow::{Context, bail};

use super::own_gallery;
use crate::config::Config;
use crate::control::Client;
use crate::store::{Changed, Store, people};

/// What can be typed.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    change: Option<Change>,
}

#[derive(Debug, clap::Subcommand)]
enum Change {
    /// Gives somebody another name, in past results too
    Rename {
        /// Their name
        person: String,
        /// The new one
        name: String,
    },
    /// Makes two people one: what is the first one's is the second one's then
    Merge {
        /// Who goes
        person: String,
        /// Who stays
        into: String,
    },
}

/// Changes, or shows.
pub async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let Some(change) = args.change else { return show(config) };
    if let Some(client) = Client::connect(&config.state_dir).await? {
        match &change {
            Change::Rename { person, name } => client.rename(person, name).await?,
            Change::Merge { person, into } => client.merge(person, into).await?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (_held, enroller) = own_gallery(config).await?;
    let id = async |name: &str| {
        let found = enroller.store.person_named(name.into()).await?;
        found.with_context(|| format!("nobody is enrolled as {name}; kithd people shows everybody"))
    };
    let changed = match &change {
        Change::Rename { person, name } => enroller.rename(None, id(person).await?, name).await?,
        Change::Merge { person, into } => enroller.merge(None, id(person).await?, id(into).await?).await?,
    };
    enroller.store.close().await;
    match changed {
        Changed::Done(()) => Ok(ExitCode::SUCCESS),
        Changed::NotFound => bail!("there is no such person any more"),
        Changed::Refused(why) => bail!(why),
    }
}

fn show(config: &Config) -> anyhow::Result<ExitCode> {
    let Some(connection) = Store::open_for_reading(&config.state_dir)? else {
        bail!("there is no database in {} yet: kithd has not run with this state_dir", config.state_dir.display());
    };
    for person in people(&connection)? {
        println!("{}  {} pictures", person.name, person.pictures);
    }
    Ok(ExitCode::SUCCESS)
}
