//! kithd: pictures in, names out, nothing lost. Parses arguments, runs, and sets the exit code.
//! A library so that packages can compile it for size and link `main.rs` for speed.
#![forbid(unsafe_code)]

mod allocator;
mod api;
mod app;
mod assignment;
mod backup;
mod camera_process;
mod child;
mod cli;
mod commands;
mod config;
mod control;
mod domain;
mod engine_process;
mod engines;
mod files;
mod fleet;
pub mod for_bench;
mod http_client;
mod http_server;
mod names;
mod people;
mod pipeline;
mod problem;
mod queue;
mod recovery;
mod result;
mod rpc;
mod sightings;
mod sinks;
mod sources;
mod spool;
mod state_dir;
mod status;
mod store;
mod supervise;
mod topics;
mod web;

use std::process::ExitCode;

use config::Config;
use store::StoreError;

/// EX_CONFIG of sysexits.h: systemd must not restart with a wrong configuration.
const EXIT_CONFIG: u8 = 78;

/// The whole program: it does what was typed and returns the exit code.
pub fn main() -> ExitCode {
    cli::while_somebody_reads(answer)
}

fn answer() -> ExitCode {
    let cli = <cli::Cli as clap::Parser>::parse();
    let config = match Config::load(cli.config.as_deref(), &cli.set) {
        Ok(config) => config,
        Err(problems) => {
            cli::complain(&Config::problems_text(cli.config.as_deref(), &problems));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    match cli::run(cli, config) {
        Ok(code) => code,
        Err(error) => {
            cli::complain(&format!("{error:#}"));
            match error.downcast_ref() {
                Some(
                    StoreError::Newer { .. }
                    | StoreError::Development { .. }
                    | StoreError::NetworkFilesystem { .. },
                ) => ExitCode::from(EXIT_CONFIG),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
