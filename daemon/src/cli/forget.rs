//! `kithd forget`: erases a person, through the daemon when it runs.

use std::io::IsTerminal;
use std::process::ExitCode;

use super::{confirmed, own_gallery};
use crate::config::Config;
use crate::control::{Client, unknown_person};

/// Arguments of `kithd forget`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the person
    person: String,
    /// Does not ask for confirmation
    #[arg(long, short)]
    yes: bool,
}

/// Asks for confirmation at a terminal, and erases.
pub async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let person = args.person.trim();
    if !args.yes && std::io::stdin().is_terminal() {
        let question = format!(
            "Erase {person} for good, with pictures, embeddings, and their face and name in past results?"
        );
        if !confirmed(&question)? {
            return Ok(ExitCode::FAILURE);
        }
    }
    let forgotten = match Client::connect(&config.state_dir).await? {
        Some(client) => client.forget(person).await?,
        None => {
            let (_held, people) = own_gallery(config).await?;
            let forgotten = people.forget(person).await;
            people.store.close().await;
            match forgotten? {
                Some(forgotten) => forgotten,
                None => return Err(unknown_person(person)),
            }
        }
    };
    println!("{person} was erased.");
    if forgotten.rest_follows {
        println!(
            "Traces of this person are still in past results, in a backup or in the database's journal: another program may be \
             reading it. The daemon goes on until nothing is left, and says so under \"erasure\" in its health."
        );
    }
    if !forgotten.may_hold_them.is_empty() {
        println!(
            "Files that were moved aside when the database was damaged may still hold this person; delete them in {}: {}",
            config.state_dir.display(),
            forgotten.may_hold_them.join(", ")
        );
    }
    println!(
        "Backup files of kithd backup hold this person too; restoring one on this board does not bring the person back."
    );
    Ok(ExitCode::SUCCESS)
}
