//! The command line of vellum: one file per group of commands, all over the public API of the crate.
//!
//! ```text
//! main      parses, runs, turns the outcome into an exit code
//! args      what may be typed                   failure   what can go wrong, what to do, exit codes
//! console   text for people, JSON for machines  progress  bars, and Ctrl-C
//! build     create build train add              change    remove update
//! search    search                              inspect   info verify
//! bench     bench                               care      repair calibrate drop rename compact backup export
//! rescue    restore compare salvage             input     ids, batches, queries from files
//! demo      demo, over a sample in the program
//! ```

mod args;
mod bench;
mod build;
mod care;
mod change;
mod console;
mod demo;
mod failure;
mod input;
mod inspect;
mod progress;
mod rescue;
mod search;

use args::{Cli, Command};
use clap::Parser;
use console::Console;
use failure::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let console = Console::new(&cli.common);
    let outcome = progress::catch_interrupts().and_then(|()| run(&cli, &console));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => console.failed(&failure, cli.command.target()),
    }
}

fn run(cli: &Cli, console: &Console) -> Result<(), Failure> {
    let common = &cli.common;
    match &cli.command {
        Command::Demo => demo::demo(common, console),
        Command::Build(args) => build::build(args, common, console),
        Command::Create(args) => build::create(args, common, console),
        Command::Train(args) => build::train(args, common, console),
        Command::Add(args) => build::add(args, common, console),
        Command::Search(args) => search::search(args, common, console),
        Command::Bench(args) => bench::bench(args, common, console),
        Command::Remove(args) => change::remove(args, common, console),
        Command::Update(args) => change::update(args, common, console),
        Command::Info(args) => inspect::info(args, common, console),
        Command::Verify(args) => inspect::verify(args, common, console),
        Command::Repair(args) => care::repair(args, common, console),
        Command::Drop(args) => care::drop_index(args, common, console),
        Command::Rename(args) => care::rename(args, common, console),
        Command::Calibrate(args) => care::calibrate(args, common, console),
        Command::Compact(args) => care::compact(args, common, console),
        Command::Backup(args) => care::backup(args, common, console),
        Command::Restore(args) => rescue::restore(args, console),
        Command::Compare(args) => rescue::compare(args, common, console),
        Command::Salvage(args) => rescue::salvage(args, console),
        Command::Export(args) => care::export(args, common, console),
    }
}
