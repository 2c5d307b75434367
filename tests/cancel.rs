//! Long work that is stopped: at every tick of every verb that has ticks, and between the batches of those that have none
//! (adding, bulk loads), the store is as it was, or, where a verb commits by itself, as one of its commits left it. Never
//! something in between, never a transaction that commits half of it, and never a store that cannot do the same afterwards.
//!
//! A case is a kind of index, a verb and the tick at which it is told to stop.
//! `VELLUM_CAMPAIGN_CASES=2000 cargo test --release --test cancel`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed helper is a failed test"
)]

mod campaign;
#[path = "common/disk.rs"]
#[allow(dead_code)]
mod disk;
mod support;

use disk::Disk;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::OnceLock;
use support::{State, change, create, memory, reader, reals, rows, spec, state};
use vellum::*;

const DIM: usize = 8;
const ROWS: usize = 700;
/// Kinds of index: lists or one, spilled, kept rows, codes to be trained, transforms, shared entries.
const TEXTS: [&str; 7] = [
    "IVF7,Flat",
    "IVF7,SQfp16,RFlat",
    "IVF7_SOAR,Flat",
    "IVF7,PQ4x4,RFlat",
    "PCAR4,IVF7,SQ8",
    "IVF7,FlatDedup",
    "IVF7,Nibble2,RF16",
];

/// A verb that is told when to stop. Those within a transaction are given its writer.
enum Verb {
    /// Within one transaction, which is committed if the writer allows it.
    Change(fn(&mut IndexWriter<'_>, &mut Observer<'_>) -> Result<()>),
    /// Commits by itself, if at all: what was done by then stays, and is the same index.
    Store(fn(&Store, &Path, &mut Observer<'_>) -> Result<()>),
}

/// Data that is in no index yet.
fn more() -> &'static [f32] {
    static MORE: OnceLock<Vec<f32>> = OnceLock::new();
    MORE.get_or_init(|| reals(300, DIM, 902))
}

fn verbs() -> [(&'static str, Verb); 12] {
    use Verb::{Change, Store};
    [
        ("train", Change(|w, o| w.train(rows(more(), DIM), &few_rounds(), o).map(drop))),
        ("train_stored", Change(|w, o| w.train_stored(&few_rounds(), o).map(drop))),
        ("import_model", Change(|w, o| w.import_model(exported(&w.spec().to_string()), o).map(drop))),
        ("remove", Change(|w, o| w.remove_ids_with(&IdSelector::callback(|id| id % 3 == 0), o).map(drop))),
        ("remove all", Change(|w, o| w.remove_ids_with(&IdSelector::range(0..u64::MAX), o).map(drop))),
        ("renumber", Change(|w, o| w.renumber(o).map(drop))),
        ("repair", Change(|w, o| w.repair(o).map(drop))),
        ("copy", Change(copy)),
        ("add, batch by batch", Change(add_in_batches)),
        ("compact", Store(|store, _, o| store.compact_with(o).map(drop))),
        (
            "verify",
            Store(|store, _, o| {
                let report = store.begin_read()?.verify("i", o)?;
                assert!(report.is_ok());
                Ok(())
            }),
        ),
        ("backup", Store(|store, path, o| store.backup(path, o).map(drop))),
    ]
}

fn few_rounds() -> TrainParams {
    support::with(|clustering| clustering.niter = 3)
}

/// Another index of the same training, copied: its ids are beyond ours.
fn copy(writer: &mut IndexWriter<'_>, observer: &mut Observer<'_>) -> Result<()> {
    let training = writer.reader().export_model()?;
    let other = memory();
    create(&other, "i", writer.spec());
    change(&other, "i", |other| {
        other.import_model(&training, &mut Observer::none()).unwrap();
        let ids: Vec<u64> = (10_000..10_000 + more().len() as u64 / DIM as u64).collect();
        other.add_with_ids(&ids, rows(more(), DIM)).unwrap();
    });
    reader(&other, "i").copy_subset_to(writer, &Subset::All, observer).map(drop)
}

/// What an application does that adds much and can be told to stop: asks between batches, and gives the transaction up.
fn add_in_batches(writer: &mut IndexWriter<'_>, observer: &mut Observer<'_>) -> Result<()> {
    // The only ticks a caller can make are those of a verb: one over nothing.
    for batch in more().chunks(40 * DIM) {
        writer.remove_ids_with(&IdSelector::batch([]), observer)?;
        writer.add(rows(batch, DIM))?;
    }
    Ok(())
}

/// A training of an index like ours.
fn exported(text: &str) -> &'static [u8] {
    static MODELS: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    let models = MODELS.get_or_init(|| {
        let made = TEXTS.map(|text| {
            let store = memory();
            let spec = spec(text, DIM, Metric::L2);
            create(&store, "i", &spec);
            change(&store, "i", |w| {
                w.train(rows(more(), DIM), &few_rounds(), &mut Observer::none()).unwrap()
            });
            let written = store.begin_write().unwrap().index("i").unwrap().spec().to_string();
            (written, reader(&store, "i").export_model().unwrap())
        });
        made.into()
    });
    &models.iter().find(|(written, _)| written == text).unwrap().1
}

/// The bytes of a store with one trained index, of which some vectors were removed since.
fn filled(kind: usize) -> Vec<u8> {
    static IMAGES: [OnceLock<Vec<u8>>; TEXTS.len()] = [const { OnceLock::new() }; TEXTS.len()];
    let make = || {
        let disk = Disk::default();
        let store = open(&disk);
        create(&store, "i", &spec(TEXTS[kind], DIM, Metric::L2).with_block_order(0));
        let data = reals(ROWS, DIM, 901);
        change(&store, "i", |writer| {
            writer.train(rows(&data, DIM), &few_rounds(), &mut Observer::none()).unwrap();
            writer.add(rows(&data, DIM)).unwrap();
        });
        change(&store, "i", |w| w.remove_ids(&IdSelector::callback(|id| id % 2 == 0)).unwrap());
        drop(store);
        disk.image()
    };
    IMAGES[kind].get_or_init(make).clone()
}

fn open(disk: &Disk) -> Store {
    let disk = disk.clone();
    Store::builder().open_backend(move || Ok(disk.handle())).unwrap()
}

/// An observer's callback that stops at tick `stop`, and counts.
struct Stopper {
    seen: u64,
    stop: u64,
}

impl Stopper {
    fn tick(&mut self) -> ControlFlow<()> {
        self.seen += 1;
        if self.seen > self.stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Runs `verb` and stops it at tick `stop`; its outcome and the ticks it made.
fn run(store: &Store, verb: &Verb, path: &Path, stop: u64, fault: Fault) -> (Result<()>, u64) {
    let mut stopper = Stopper { seen: 0, stop };
    let mut each = |_| stopper.tick();
    let observer = &mut Observer::new(&mut each);
    let done = match verb {
        Verb::Store(verb) => verb(store, path, observer),
        Verb::Change(verb) => {
            let txn = store.begin_write().unwrap();
            let mut writer = txn.index("i").unwrap();
            let done = verb(&mut writer, observer);
            let poisoned = writer.is_poisoned();
            drop(writer);
            match (&done, fault) {
                // Whoever stops gives the transaction up; if the verb stopped half-way nobody has a choice.
                (Ok(()), _) => txn.commit().unwrap(),
                (Err(_), Fault::CommitsAll) if !poisoned => txn.commit().unwrap(),
                (Err(_), _) if poisoned => assert!(matches!(txn.commit(), Err(Error::Poisoned { .. }))),
                (Err(_), _) => txn.abort().unwrap(),
            }
            done
        }
    };
    (done, stopper.seen)
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// The application commits what it had done when it was told to stop.
    CommitsAll,
}

fn sound(store: &Store) -> Result<(), String> {
    let report = store.begin_read().unwrap().verify("i", &mut Observer::none()).unwrap();
    if report.is_ok() { Ok(()) } else { Err(format!("{:?}", report.problems)) }
}

/// What the store holds, changes that nobody sees left out.
fn contents(store: &Store) -> State {
    state(&reader(store, "i"))
}

fn case(
    kind: usize,
    name: &str,
    verb: &Verb,
    random: &mut campaign::Random,
    fault: Fault,
) -> Result<(), String> {
    let text = TEXTS[kind];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    // Once to the end, for the number of ticks and what comes of it.
    let disk = Disk::default();
    disk.restore(filled(kind));
    let whole = open(&disk);
    let before = contents(&whole);
    let (done, ticks) = run(&whole, verb, &path, u64::MAX, Fault::None);
    done.map_err(|e| format!("{text}, {name}: {e}"))?;
    if ticks == 0 {
        return Err(format!("{text}, {name} never ticks"));
    }
    let after = contents(&whole);
    drop(whole);
    let _ = std::fs::remove_file(&path);

    let stop = random.below(ticks);
    let wrong = |what: &str| format!("{text}, {name} stopped at tick {stop} of {ticks}: {what}");
    disk.restore(filled(kind));
    let store = open(&disk);
    let (done, _) = run(&store, verb, &path, stop, fault);
    match (done, verb) {
        (Err(Error::Cancelled), _) => {}
        // The last tick of a compaction is after all is done.
        (Ok(()), Verb::Store(_)) if stop + 1 == ticks => {}
        (other, _) => return Err(wrong(&format!("it says {other:?}"))),
    }
    sound(&store).map_err(|e| wrong(&e))?;
    let now = contents(&store);
    let same = match verb {
        Verb::Change(_) => now == before,
        // Renumbering and compaction move things, and are seen by nobody.
        Verb::Store(_) => now.same_vectors(&before),
    };
    if !same {
        return Err(wrong("the store is not as it was"));
    }
    if name == "backup" && std::fs::read_dir(folder.path()).unwrap().count() != 0 {
        return Err(wrong("a part of the backup is left"));
    }
    // And now to its end; after it, and after opening again, it is as if nobody had stopped it.
    let (done, _) = run(&store, verb, &path, u64::MAX, Fault::None);
    done.map_err(|e| wrong(&format!("the second time: {e}")))?;
    drop(store);
    let store = open(&disk);
    sound(&store).map_err(|e| wrong(&e))?;
    if contents(&store).same_vectors(&after) {
        Ok(())
    } else {
        Err(wrong("the second time it does something else"))
    }
}

#[test]
fn stopped_work_leaves_no_trace() {
    let verbs = verbs();
    let outcome = campaign::run("cancel", 200, |number, random| {
        let (name, verb) = &verbs[number as usize % verbs.len()];
        case(number as usize / verbs.len() % TEXTS.len(), name, verb, random, Fault::None)
    });
    outcome.expect_clean();
}

/// A verb that stops between its batches has changed the transaction: whoever commits that is found out.
#[test]
fn a_commit_of_half_the_work_is_noticed() {
    let verbs = verbs();
    let (name, verb) = verbs.iter().find(|(name, _)| name.starts_with("add")).unwrap();
    campaign::run_exactly("cancel, planted", 12, |_, random| case(0, name, verb, random, Fault::CommitsAll))
        .expect_caught();
}

/// A bulk load has no ticks: it commits by itself, says how far it is, and is dropped to stop it.
#[test]
fn a_load_that_is_stopped_goes_on() {
    campaign::run("cancel of a load", 20, |number, random| {
        let disk = Disk::default();
        let made = disk.clone();
        let builder = || Store::builder().load_bytes((1 + number as usize * 7 % 90) * DIM * 4);
        let store = builder().open_backend(move || Ok(made.handle())).unwrap();
        create(&store, "i", &spec(TEXTS[number as usize % TEXTS.len()], DIM, Metric::L2));
        let data = reals(ROWS, DIM, 903);
        let mut stops = 0;
        loop {
            let mut load = store.bulk_load("i").map_err(|e| e.to_string())?;
            let stop = load.rows_done() as usize + 30 + random.below(200) as usize;
            let mut at = load.rows_done() as usize;
            while at < ROWS && at < stop {
                let to = ROWS.min(at + 1 + random.below(60) as usize);
                load.add(rows(&data, DIM).slice(at..to)).map_err(|e| e.to_string())?;
                at = to;
            }
            if at == ROWS {
                load.finish().map_err(|e| e.to_string())?;
                break;
            }
            drop(load);
            stops += 1;
            if !matches!(store.begin_read().unwrap().index("i"), Err(Error::Unfinished { .. })) {
                return Err("a load that was stopped can be used".into());
            }
            sound(&store)?;
            if stops > 60 {
                return Err("the load does not get on".into());
            }
        }
        sound(&store)?;
        let plain = memory();
        create(&plain, "i", &spec(TEXTS[number as usize % TEXTS.len()], DIM, Metric::L2));
        change(&plain, "i", |writer| writer.add(rows(&data, DIM)).unwrap());
        let same = contents(&store).same_vectors(&contents(&plain));
        if same { Ok(()) } else { Err(format!("{stops} stops changed what was loaded")) }
    })
    .expect_clean();
}
