//! Worry: a backup that is of no single moment, that replaces what was there, or that leaves half a file
//! behind; and a compaction that moves pages under somebody's feet.
//!
//! Noticed by committing to the store from within the backup's own ticks: the copy must equal the state at
//! the call to the bit. And by cancelling at each tick and looking into the folder.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use support::*;
use vellum::*;

const DIM: usize = 16;

/// Three indexes of different kinds, lived in.
fn fill(store: &Store) {
    for (i, (name, text)) in
        [("a", "IVF8,Flat"), ("b", "SQfp16,RFlat"), ("c", "IVF4,SQbf16")].into_iter().enumerate()
    {
        create(store, name, &spec(text, DIM, METRICS[i]).with_block_order(i as u8));
        let data = reals(600, DIM, 121 + i as u64);
        change(store, name, |writer| {
            live_in(writer, rows(&data, DIM));
            writer.set_search_defaults(&nprobe(3)).unwrap();
        });
    }
    create(store, "k", &spec("Flat", DIM, Metric::L2).with_keys(true));
    change(store, "k", |writer| writer.add_with_keys(&["x", "y"], rows(&reals(2, DIM, 124), DIM)).unwrap());
}

/// What an index says of itself, and its answers.
type Contents = (State, Vec<Vec<(u64, u32)>>);

fn contents(store: &Store) -> BTreeMap<String, Contents> {
    let queries = reals(5, DIM, 125);
    let read = store.begin_read().unwrap();
    let each = |name: String| {
        let reader = read.index(&name).unwrap();
        let found = reader.search_batch(rows(&queries, DIM), 20, &SearchParams::new()).unwrap();
        (name, (state(&reader), all_bits(&found)))
    };
    read.indexes().unwrap().into_iter().map(each).collect()
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn one_moment_while_readers_and_the_writer_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path().join("s.vellum")).unwrap();
    fill(&store);
    let before = contents(&store);
    let held = reader(&store, "a");
    let data = reals(40, DIM, 126);

    // A writer is open and has written when the backup begins, and commits at its first tick.
    let txn = store.begin_write().unwrap();
    txn.index("a").unwrap().clear().unwrap();
    txn.create_index("new", &spec("Flat", DIM, Metric::L2)).unwrap();
    let mut open = Some(txn);
    let mut ticks: Vec<Tick> = Vec::new();
    let mut go_on = |tick: Tick| {
        ticks.push(tick);
        match open.take() {
            Some(txn) => txn.commit().unwrap(),
            None if ticks.len() == 5 => {
                let txn = store.begin_write().unwrap();
                txn.drop_index("b").unwrap();
                txn.rename_index("c", "b").unwrap();
                txn.commit().unwrap();
            }
            None if ticks.len() < 30 => {
                change(&store, "a", |writer| writer.add(rows(&data, DIM)).map(drop).unwrap())
            }
            None => {}
        }
        assert_eq!(held.len(), held.ids().unwrap().len() as u64);
        ControlFlow::Continue(())
    };
    let path = folder.path().join("copy.vellum");
    let report = store.backup(&path, &mut Observer::new(&mut go_on)).unwrap();

    assert!(ticks.iter().all(|tick| tick.stage == "backup" && tick.done <= tick.total));
    assert!(ticks.windows(2).all(|pair| pair[0].done <= pair[1].done && pair[0].total == pair[1].total));
    assert_eq!(ticks.last().unwrap().done, ticks.last().unwrap().total);
    assert!(ticks.len() > 10);
    assert_ne!(contents(&store), before, "the store went on");

    let copy = Store::open(&path).unwrap();
    assert_eq!(contents(&copy), before, "the copy did not");
    let rows_of = |name: &str| before[name].0.len();
    assert_eq!((report.indexes, report.rows), (4, before.keys().map(|name| rows_of(name)).sum::<u64>()));
    assert_eq!(report.file_bytes, fs::metadata(&path).unwrap().len());
    assert_eq!(reader(&copy, "k").id_of_key(b"y").unwrap(), Some(1));
    for name in before.keys() {
        assert_sound(&copy, name);
    }
    assert_eq!(files(folder.path()), ["copy.vellum", "s.vellum"]);
    // A store like any other, and another one than the original.
    let ids = change(&copy, "a", |writer| writer.add(rows(&data, DIM)).unwrap());
    assert!(ids.start > *reader(&copy, "a").ids().unwrap().iter().rev().nth(40).unwrap());
    assert_sound(&copy, "a");
    assert!(matches!(store.begin_read().unwrap().index("c"), Err(Error::UnknownIndex { .. })));
}

#[test]
fn what_is_there_is_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let store = memory();
    fill(&store);
    let (path, none) = (folder.path().join("mine"), &mut Observer::none());
    fs::write(&path, "something of mine").unwrap();
    let exists = |result: Result<BackupReport>, path: &Path| matches!(result, Err(Error::Exists { path: p }) if p == path);
    assert!(exists(store.backup(&path, none), &path));
    assert!(exists(store.backup(folder.path(), none), folder.path()));
    // Also if it comes while the backup runs.
    let late = folder.path().join("late");
    let mut meanwhile = |_: Tick| {
        fs::write(&late, "somebody else's").unwrap();
        ControlFlow::Continue(())
    };
    assert!(exists(store.backup(&late, &mut Observer::new(&mut meanwhile)), &late));
    assert_eq!(fs::read_to_string(&late).unwrap(), "somebody else's");
    assert_eq!(fs::read_to_string(&path).unwrap(), "something of mine");
    assert_eq!(files(folder.path()), ["late", "mine"]);
    // Where there is no folder, there is no backup.
    assert!(matches!(store.backup(folder.path().join("no/folder"), none), Err(Error::Io(_))));
    assert_eq!(files(folder.path()), ["late", "mine"]);
}

#[test]
fn cancelled_at_every_tick() {
    let folder = tempfile::tempdir().unwrap();
    let store = memory();
    fill(&store);
    let before = contents(&store);
    let mut ticks = 0;
    let mut count = |_: Tick| {
        ticks += 1;
        ControlFlow::Continue(())
    };
    store.backup(folder.path().join("whole"), &mut Observer::new(&mut count)).unwrap();
    for stop in (1..=ticks).step_by(3).chain([ticks]) {
        let mut seen = 0;
        let mut cancel = |_: Tick| {
            seen += 1;
            if seen == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let cancelled = store.backup(folder.path().join("part"), &mut Observer::new(&mut cancel));
        assert!(matches!(cancelled, Err(Error::Cancelled)), "tick {stop}: {cancelled:?}");
        assert_eq!(files(folder.path()), ["whole"], "tick {stop}");
    }
    assert_eq!(contents(&store), before);
    // A file with a name like that of a copy in the making is somebody's: it is no obstacle, and stays.
    fs::write(folder.path().join("part.partial"), "half a copy").unwrap();
    store.backup(folder.path().join("part"), &mut Observer::none()).unwrap();
    assert_eq!(files(folder.path()), ["part", "part.partial", "whole"]);
    assert_eq!(fs::read_to_string(folder.path().join("part.partial")).unwrap(), "half a copy");
    assert_eq!(contents(&Store::open(folder.path().join("part")).unwrap()), before);
}

/// The copy was once made in `{path}.partial`, and what had that name was emptied first: here the store itself.
#[test]
fn a_store_with_the_name_of_a_half_made_copy_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.partial");
    let store = Store::create(&path).unwrap();
    fill(&store);
    let before = contents(&store);
    store.backup(folder.path().join("s"), &mut Observer::none()).unwrap();
    assert_eq!(contents(&store), before);
    drop(store);
    for name in ["s", "s.partial"] {
        assert_eq!(contents(&Store::open(folder.path().join(name)).unwrap()), before, "{name}");
    }
}

#[test]
fn of_nothing_and_of_what_is_not_durable_yet() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::builder().durability(Durability::None).create(folder.path().join("s")).unwrap();
    let report = store.backup(folder.path().join("empty"), &mut Observer::none()).unwrap();
    assert_eq!((report.indexes, report.rows), (0, 0));
    let empty = Store::open(folder.path().join("empty")).unwrap();
    assert!(empty.begin_read().unwrap().indexes().unwrap().is_empty());
    fill(&empty);
    // Committed without durability is committed: a backup has it, durably.
    fill(&store);
    store.backup(folder.path().join("copy"), &mut Observer::none()).unwrap();
    assert_eq!(contents(&Store::open(folder.path().join("copy")).unwrap()), contents(&store));
    assert_eq!(contents(&empty), contents(&store));
}

/// A copy of a copy is the same again, and no larger than what it holds needs.
#[test]
fn copies_of_copies() {
    let folder = tempfile::tempdir().unwrap();
    let store = memory();
    fill(&store);
    // Half of it is holes by now.
    for name in ["a", "b", "c"] {
        change(&store, name, |writer| writer.remove_ids(&IdSelector::callback(|id| id % 4 != 0)).unwrap());
    }
    let before = contents(&store);
    let mut sizes = Vec::new();
    let mut from = store;
    for copy in ["1", "2", "3"] {
        let path = folder.path().join(copy);
        sizes.push(from.backup(&path, &mut Observer::none()).unwrap().file_bytes);
        from = Store::open(&path).unwrap();
        assert_eq!(contents(&from), before);
    }
    assert_eq!(sizes[1], sizes[2], "{sizes:?}");
}

// ---------------------------------------------------------------- compaction

#[test]
fn compaction_gives_back_what_was_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.vellum");
    let store = Store::create(&path).unwrap();
    let dim = 96;
    let data = reals(10_000, dim, 127);
    let query = &data[..dim];
    create(&store, "i", &spec("IVF20,Flat", dim, Metric::L2));
    change(&store, "i", |writer| {
        train(writer, rows(&data, dim).slice(0..2000));
        writer.add(rows(&data, dim)).unwrap();
    });
    change(&store, "i", |writer| writer.remove_ids(&IdSelector::range(1000..10_000)).unwrap());
    let before = state(&reader(&store, "i"));
    let answer = bits(&reader(&store, "i").search(query, 30, &everywhere()).unwrap());
    let size = || fs::metadata(&path).unwrap().len();
    let full = size();

    // Not while anybody reads or writes; and being refused changes nothing.
    let in_use =
        |result: Result<CompactReport>| assert!(matches!(result, Err(Error::InUse { .. })), "{result:?}");
    let held = reader(&store, "i");
    in_use(store.compact());
    assert_eq!(held.search(query, 30, &everywhere()).unwrap().len(), 30);
    drop(held);
    let txn = store.begin_read().unwrap();
    in_use(store.compact());
    drop(txn);
    let txn = store.begin_write().unwrap();
    in_use(store.compact());
    txn.abort().unwrap();
    assert_eq!(size(), full);

    let report = store.compact().unwrap();
    assert_eq!((report.before_bytes, report.after_bytes), (full, size()));
    assert!(report.after_bytes < report.before_bytes / 3, "{report:?}: one row in ten is left");
    assert_eq!(store.stats().file_bytes, size());
    let now = reader(&store, "i");
    assert_eq!(state(&now), before);
    assert_eq!(bits(&now.search(query, 30, &everywhere()).unwrap()), answer);
    drop(now);
    assert_sound(&store, "i");
    change(&store, "i", |writer| writer.add(rows(&data, dim).slice(0..100)).unwrap());
    assert_sound(&store, "i");
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(reader(&store, "i").len(), 1100);
    assert_sound(&store, "i");
}
