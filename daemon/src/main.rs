//! kithd: pictures in, names out, nothing lost. Parses, logs, loads the configuration, runs, and
//! gives the exit code.

mod admin;
mod allocator;
mod app;
mod backup;
mod board;
mod camera;
mod child;
mod cli;
mod commands;
mod config;
mod control;
mod desk;
mod disk;
mod domain;
mod engine;
mod files;
mod former_names;
mod health;
mod heartbeat;
mod history;
mod mqtt;
mod names;
mod notify;
mod picture_kind;
mod problem;
mod queue;
mod recognition;
mod recovery;
mod result;
mod rpc;
mod serve;
mod sinks;
mod sources;
mod spool;
mod state_dir;
mod store;
mod supervise;
mod topics;
mod web;

use std::process::ExitCode;

use clap::Parser;
use config::Config;
use store::StoreError;

/// EX_CONFIG of sysexits.h: systemd must not restart into the same mistake.
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    cli::while_somebody_reads(answer)
}

fn answer() -> ExitCode {
    let cli = cli::Cli::parse();
    let config = match Config::load(cli.config.as_deref(), &cli.set) {
        Ok(config) => config,
        Err(problems) => {
            let source = cli
                .config
                .as_deref()
                .map_or_else(|| config::SYSTEM_CONFIG.into(), |p| p.display().to_string());
            cli::complain(&Config::problems_text(&source, &problems));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    match cli::run(cli, config) {
        Ok(code) => code,
        Err(error) => {
            cli::complain(&format!("{error:#}"));
            match error.downcast_ref() {
                Some(StoreError::Newer { .. } | StoreError::NetworkFilesystem { .. }) => {
                    ExitCode::from(EXIT_CONFIG)
                }
                _ => ExitCode::FAILURE,
            }
        }
    }
}
