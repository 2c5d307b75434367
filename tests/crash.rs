//! A crash at any moment, and another one during the recovery from it.
//!
//! The worry is a power cut that takes a commit which was acknowledged, leaves one by half, or leaves a file that opens
//! and goes wrong later. A workload is run once on a disk that records what is done to it (`crash/tape.rs`); each image
//! is the disk after a crash at one of these operations, with its un-synced writes there in part. It is opened as the
//! application would, verified, and everything in it is compared with the model: it must be the state of the last
//! durable commit or of one acknowledged or begun since. Then some go on: more is written, the store is closed, opened,
//! compared again, and redb checks its own pages.
//!
//! `campaign/mod.rs` says how to ask for more images than CI has time for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod campaign;
mod common;
#[path = "crash/tape.rs"]
mod tape;
#[path = "crash/workloads.rs"]
mod workloads;

use campaign::Random;
use common::disk::{Disk, Done};
use common::model::State;
use common::script::{End, Operation, Settings, Step, Verb};
use common::world::{Acknowledged, Plant, World};
use redb::Database;
use std::sync::{Arc, OnceLock};
use tape::Tape;
use workloads::{MODES, Workload, attach, batch, same_documents, shared};

/// A workload that was run once.
struct Recorded {
    name: String,
    settings: Settings,
    /// By an application, in its own database.
    shared: bool,
    tape: Tape,
    history: Vec<Acknowledged>,
}

/// A fault of the disk's or of the store's, planted to see that the campaign would notice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Some syncs do nothing.
    SyncsSkipped,
    /// One write that was synced is not there.
    WriteLost,
    /// Commits that are not durable are taken for durable.
    DurableTooSoon,
}

impl Fault {
    /// What a disk with this fault does instead.
    fn spoil(self, done: Vec<Done>, random: &mut Random) -> Vec<Done> {
        let writes = done.iter().filter(|one| matches!(one, Done::Write(..))).count() as u64;
        let (lost, mut writes_seen) = (random.below(writes), 0);
        let keep = |one: &Done| match one {
            Done::Sync => self != Fault::SyncsSkipped || !random.one_in(3),
            Done::Write(..) => {
                writes_seen += 1;
                self != Fault::WriteLost || writes_seen != lost + 1
            }
            Done::SetLen(_) => true,
        };
        let mut keep = keep;
        // An operation that is not done is one that changes nothing, so that operations keep their numbers.
        done.into_iter().map(|one| if keep(&one) { one } else { Done::Write(0, Vec::new()) }).collect()
    }
}

fn record(workload: Workload, fault: Fault) -> Result<Recorded, String> {
    let disk = Disk::default();
    disk.record();
    let mut world = World::around(disk.clone(), workload.settings.clone(), Plant::Nothing);
    let failed = |what: &dyn std::fmt::Debug| format!("{}: {what:?}", workload.name);
    world.open().map_err(|stop| failed(&stop))?;
    world.record(true);
    world.begin().map_err(|stop| failed(&stop))?;
    for operation in &workload.operations {
        world.run(operation).map_err(|what| failed(&(operation, what)))?;
    }
    Ok(recorded(workload.name.clone(), world, false, fault))
}

fn recorded(name: String, world: World, shared: bool, fault: Fault) -> Recorded {
    let mut random = Random::new(campaign::seed(), name.len() as u64);
    // Before the store is closed: the disk is to crash while it is open.
    let done = fault.spoil(world.disk.recording(), &mut random);
    let mut history = world.history.clone();
    if fault == Fault::DurableTooSoon {
        history.iter_mut().for_each(|one| one.durable = true);
    }
    Recorded { name, settings: world.settings.clone(), shared, tape: Tape::new(&[], done), history }
}

fn record_all(fault: Fault) -> Vec<Recorded> {
    let mut all = Vec::new();
    for mode in MODES {
        all.extend(workloads::workloads(mode).into_iter().map(|one| record(one, fault).unwrap()));
        let disk = Disk::default();
        disk.record();
        all.push(recorded(format!("shared {mode:?}"), shared(&disk, mode), true, fault));
    }
    let scripts = campaign::number("VELLUM_CAMPAIGN_SCRIPTS").unwrap_or(8);
    all.extend((0..scripts).map(|n| record(workloads::random(campaign::seed(), n), fault).unwrap()));
    all
}

fn all() -> &'static [Recorded] {
    static ALL: OnceLock<Vec<Recorded>> = OnceLock::new();
    ALL.get_or_init(|| {
        let all = record_all(Fault::None);
        let sum = |of: fn(&Recorded) -> usize| all.iter().map(of).sum::<usize>();
        println!(
            "{} workloads of {} operations on the disk, {} of them syncs, {} bytes written, {} commits",
            all.len(),
            sum(|one| one.tape.len()),
            sum(|one| one.tape.syncs()),
            sum(|one| one.tape.bytes_written()),
            sum(|one| one.history.len()),
        );
        all
    })
}

impl Recorded {
    /// What a crash before operation `at` may leave; nothing is promised before the store was first opened.
    fn possible(&self, at: usize) -> Vec<&State> {
        let acknowledged = self.history.partition_point(|one| one.at <= at);
        let durable = self.history[..acknowledged].iter().rposition(|one| one.durable).unwrap_or(0);
        // Some calls commit several times before they return.
        let next = self.history.get(acknowledged).map(|one| one.at);
        let end = self.history.partition_point(|one| Some(one.at) <= next.or(Some(usize::MAX)));
        self.history[durable..end].iter().map(|one| &one.state).rev().collect()
    }

    /// Nobody has been told yet that there is a store.
    fn is_being_made(&self, at: usize) -> bool {
        self.history[0].at > at
    }

    /// Opens what is on the disk as the application would.
    fn open(&self, disk: &Disk, turn: u8) -> Result<(World, Option<Arc<Database>>), String> {
        if !self.shared {
            let world = World::on(disk.clone(), self.settings.clone(), turn);
            return world.map(|world| (world, None)).map_err(|stop| format!("{stop:?}"));
        }
        let (db, store) = attach(disk, &self.settings).map_err(|e| format!("attach: {e:?}"))?;
        Ok((World::of(disk.clone(), self.settings.clone(), store, turn), Some(db)))
    }

    /// Opens an image and finds which of the states it holds. `None` where no store had been made, and there is none.
    fn look(&self, disk: &Disk, states: &[&State], making: bool, turn: u8) -> Result<Option<Look>, String> {
        let (mut world, db) = match self.open(disk, turn) {
            Ok(opened) => opened,
            Err(_) if making => return Ok(None),
            Err(e) => return Err(e),
        };
        let found = world.find(states)?;
        if let Some(db) = &db {
            same_documents(db, states[found])?;
        }
        Ok(Some(Look { world, db, found }))
    }
}

/// A store that was opened after a crash.
struct Look {
    world: World,
    db: Option<Arc<Database>>,
    found: usize,
}

impl Look {
    /// Writes more, closes, opens and compares, and lets redb look for itself.
    fn go_on(self, turn: u8) -> Result<(), String> {
        let Look { mut world, db, .. } = self;
        drop(db);
        let names: Vec<&'static str> = ["a", "b", "ça va"]
            .into_iter()
            .filter(|name| world.committed.get(*name).is_some_and(|model| model.loading.is_none()))
            .collect();
        let add = |name| Step::Index { name, verbs: vec![Verb::Add(batch(turn, 20))], suited: true };
        let steps = names.into_iter().map(add).collect();
        world.run(&Operation::Transaction { steps, end: End::Commit })?;
        world.run(&Operation::Close)?;
        let disk = world.disk.clone();
        drop(world);
        let mut db = Database::builder().create_with_backend(disk.handle()).map_err(|e| e.to_string())?;
        match db.check_integrity() {
            Ok(true) => Ok(()),
            other => Err(format!("redb's own check: {other:?}")),
        }
    }
}

fn disk_of(image: Vec<u8>) -> Disk {
    let disk = Disk::default();
    disk.restore(image);
    disk
}

/// One of the workloads, and a point of it: each point comes once before one comes again.
fn point(all: &[Recorded], case: u64) -> (&Recorded, usize) {
    let (which, turn) = (case as usize % all.len(), case as usize / all.len());
    let points = all[which].tape.len() + 1;
    (&all[which], turn.wrapping_mul(7919) % points)
}

fn crash(all: &[Recorded], case: u64, random: &mut Random) -> Result<(), String> {
    let (workload, at) = point(all, case);
    let image = workload.tape.crash(at, random);
    let turn = random.next() as u8;
    let look = || {
        let states = workload.possible(at);
        let making = workload.is_being_made(at);
        let look = workload.look(&disk_of(image), &states, making, turn)?;
        match look {
            Some(look) if turn.is_multiple_of(4) => look.go_on(turn),
            _ => Ok(()),
        }
    };
    look().map_err(|what| format!("{} at {at} of {}: {what}", workload.name, workload.tape.len()))
}

/// Crashes, opens, and crashes while that writes. Once the store was open again, what it showed must stay.
fn crash_twice(all: &[Recorded], case: u64, random: &mut Random, fault: Fault) -> Result<(), String> {
    let (workload, at) = point(all, case);
    let first = workload.tape.crash(at, random);
    let turn = random.next() as u8;
    let states = workload.possible(at);
    let making = workload.is_being_made(at);
    let disk = disk_of(first.clone());
    disk.record();
    let failed = |what: String| format!("{} at {at} of {}: {what}", workload.name, workload.tape.len());
    let look = workload.look(&disk, &states, making, turn).map_err(failed)?;
    let opened = disk.recorded().unwrap_or_default();
    let found = look.as_ref().map(|look| look.found);
    drop(look);
    let tape = Tape::new(&first, fault.spoil(disk.recording(), random));
    let again = random.below(tape.len() as u64 + 1) as usize;
    let second = tape.crash(again, random);
    let kept = match found {
        Some(found) if again >= opened => vec![states[found]],
        _ => states,
    };
    // Where nothing could be opened, nobody has been told of a store yet.
    let making = making && (found.is_none() || again < opened);
    workload
        .look(&disk_of(second), &kept, making, turn)
        .map(|_| ())
        .map_err(|what| failed(format!("and at {again} of {} (opened at {opened}): {what}", tape.len())))
}

#[test]
fn after_a_crash_every_durable_commit_is_there() {
    let all = all();
    campaign::run("crash points", 20_000, |case, random| crash(all, case, random)).expect_clean();
}

#[test]
fn a_crash_during_recovery_loses_nothing_either() {
    let all = all();
    let case = |case, random: &mut Random| crash_twice(all, case, random, Fault::None);
    campaign::run("crashes during recovery", 1_000, case).expect_clean();
}

// ---- tests of the test ----

fn caught(name: &'static str, fault: Fault) {
    let all = record_all(fault);
    campaign::run_exactly(name, 300, |case, random| crash(&all, case, random)).expect_caught();
}

#[test]
fn a_disk_that_skips_syncs_is_noticed() {
    caught("planted: syncs skipped", Fault::SyncsSkipped);
}

#[test]
fn a_durable_write_that_is_lost_is_noticed() {
    caught("planted: a write lost", Fault::WriteLost);
}

#[test]
fn commits_that_are_called_durable_too_soon_are_noticed() {
    caught("planted: durable too soon", Fault::DurableTooSoon);
}

#[test]
fn a_recovery_that_skips_syncs_is_noticed() {
    let all = all();
    let case = |case, random: &mut Random| crash_twice(all, case, random, Fault::SyncsSkipped);
    campaign::run_exactly("planted: syncs skipped during recovery", 400, case).expect_caught();
}
