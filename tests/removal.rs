//! Worry: what was removed is still there. Its kept row stays readable in a page it shared with others; pages that hold
//! nothing any more stay in the file; after most of an index went, every page of its columns is held by one survivor.
//! And the cure may be worse: a row that moves to another number takes somebody else's id, key or vector with it.
//!
//! Noticed by looking for the removed vectors' bytes in every value of the database, by comparing an index that was
//! renumbered with the oracle and with what it answered before, by stopping at every single tick, and by the
//! size of the file.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use redb::{ReadableDatabase, ReadableTable, TableDefinition, TableHandle};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use support::*;
use vellum::*;

/// Every value under a number in the database, table after table.
fn values(database: &redb::Database) -> Vec<(String, Vec<u8>)> {
    let txn = database.begin_read().unwrap();
    let mut values = Vec::new();
    for table in txn.list_tables().unwrap() {
        let name = table.name().to_string();
        let definition = TableDefinition::<u64, &[u8]>::new(&name);
        let Ok(table) = txn.open_table(definition) else { continue };
        for entry in table.iter().unwrap() {
            values.push((name.clone(), entry.unwrap().1.value().to_vec()));
        }
    }
    values
}

/// Half of the vectors at random, then all but one of a page, then the rest of it: in no table is anything left of
/// them, and everything of the others.
#[test]
fn removed_vectors_are_in_no_page() {
    let (dim, n) = (8, 900);
    for text in ["IVF5,SQfp16,RFlat", "Flat,RF16", "IVF5,Flat"] {
        let data = reals(n, dim, 131);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.vellum");
        let store = Store::create(&path).unwrap();
        create(&store, "i", &spec(text, dim, Metric::L2).with_block_order(0));
        change(&store, "i", |writer| {
            if writer.spec().nlist().is_some() {
                train(writer, rows(&data, dim));
            }
            writer.add(rows(&data, dim)).unwrap();
        });
        let mut random = Random::new(132);
        let mut ids: Vec<u64> = (0..n as u64).collect();
        random.shuffle(&mut ids);
        let mut gone: BTreeSet<u64> = BTreeSet::new();
        let mut store = Some(store);
        for round in [ids[..n / 2].to_vec(), (100..400).collect(), (0..n as u64 - 1).collect()] {
            let own = store.take().unwrap_or_else(|| Store::open(&path).unwrap());
            let fresh = round.iter().filter(|id| !gone.contains(id)).count() as u64;
            let removed = change(&own, "i", |writer| {
                writer.remove_ids(&IdSelector::batch(round.iter().copied())).unwrap()
            });
            assert_eq!(removed, fresh);
            gone.extend(round);
            assert_sound(&own, "i");
            drop(own);
            let database = redb::Database::open(&path).unwrap();
            let bytes = |row: &[f32], element: Stored| -> Vec<u8> {
                match element {
                    Stored::F32 => row.iter().flat_map(|v| v.to_le_bytes()).collect(),
                    _ => row.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
                }
            };
            let index = spec(text, dim, Metric::L2);
            let forms: BTreeSet<bool> = [Stored::of_codes(&index), Stored::of_rows(&index)]
                .iter()
                .map(|s| *s == Stored::F32)
                .collect();
            let found: Vec<(String, Vec<u8>)> =
                values(&database).into_iter().filter(|(name, _)| !name.ends_with("/model")).collect();
            for (id, row) in rows(&data, dim).iter().enumerate().step_by(7) {
                for single in &forms {
                    let bytes = bytes(row, if *single { Stored::F32 } else { Stored::F16 });
                    let here: Vec<&str> = found
                        .iter()
                        .filter(|(_, value)| value.windows(bytes.len()).any(|part| part == bytes))
                        .map(|(name, _)| name.as_str())
                        .collect();
                    assert_eq!(here.is_empty(), gone.contains(&(id as u64)), "{text}, id {id}: {here:?}");
                }
            }
        }
        // One vector is left, and a page of each column for it.
        let store = Store::open(&path).unwrap();
        let stats = reader(&store, "i").stats().unwrap();
        for part in stats.parts.iter().filter(|part| ["ids", "slots", "rows"].contains(&part.name)) {
            assert!(part.values <= 1, "{text}: {part:?}");
        }
    }
}

/// Rows at the end of the numbers are given back at once; removing all leaves nothing at all.
#[test]
fn nothing_is_left_of_nothing() {
    let (dim, n) = (4, 700);
    let data = reals(n, dim, 133);
    let store = memory();
    create(&store, "i", &spec("IVF3,SQbf16,RFlat", dim, Metric::L2).with_keys(true));
    let keys: Vec<String> = (0..n).map(|i| format!("key {i}")).collect();
    change(&store, "i", |writer| {
        train(writer, rows(&data, dim));
        writer.add_with_keys(&keys, rows(&data, dim)).unwrap();
    });
    let free = |expected| assert_eq!(reader(&store, "i").stats().unwrap().free_rows, expected);
    change(&store, "i", |writer| writer.remove_ids(&IdSelector::range(600..700)).unwrap());
    free(0);
    change(&store, "i", |writer| writer.remove_ids(&IdSelector::range(500..599)).unwrap());
    free(99);
    change(&store, "i", |writer| writer.remove_keys(&["key 599"]).unwrap());
    free(0);
    assert_sound(&store, "i");
    change(&store, "i", |writer| writer.remove_ids(&IdSelector::All).unwrap());
    let stats = reader(&store, "i").stats().unwrap();
    for part in &stats.parts {
        // The directory says that the lists are empty; header and model are not vectors.
        let expected = ["meta", "model", "lists"].contains(&part.name);
        assert_eq!(part.values > 0, expected, "{part:?}");
    }
    assert_sound(&store, "i");
    change(&store, "i", |writer| writer.add_with_keys(&keys[..5], rows(&data, dim).slice(0..5)).unwrap());
    assert_eq!(reader(&store, "i").ids().unwrap(), [700, 701, 702, 703, 704]);
    assert_sound(&store, "i");
}

/// An index of which one vector in `part` is left, at random, and the oracle's copy.
fn decimated(store: &Store, text: &str, metric: Metric, data: Rows<'_>, keyed: bool, part: usize) -> Oracle {
    create(store, "i", &spec(text, data.dim(), metric).with_keys(keyed).with_block_order(0));
    let mut oracle = change(store, "i", |writer| match keyed {
        false => live_in(writer, data),
        true => {
            train(writer, data);
            let keys: Vec<String> = (0..data.len()).map(|i| format!("key {i}")).collect();
            let ids = writer.add_with_keys(&keys, data).unwrap();
            let mut oracle = Oracle::new(metric, Stored::of_rows(writer.spec()));
            oracle.put_all(ids, data);
            oracle
        }
    });
    let mut random = Random::new(134);
    let gone: Vec<u64> = oracle.ids().into_iter().filter(|_| random.below(part) > 0).collect();
    change(store, "i", |writer| writer.remove_ids(&IdSelector::batch(gone.iter().copied())).unwrap());
    gone.iter().for_each(|id| drop(oracle.vectors.remove(id)));
    oracle
}

#[test]
fn renumbered_is_the_same_index() {
    let (dim, n) = (6, 2500);
    let data = reals(n, dim, 135);
    let all = rows(&data, dim);
    for (text, keyed) in [("IVF7,SQfp16,RFlat", false), ("IVF7,Flat", true), ("Flat,RF16", false)] {
        for part in [2, 20, 1000] {
            let store = memory();
            let mut oracle = decimated(&store, text, Metric::L2, all, keyed, part);
            let old = reader(&store, "i");
            let (before, stats) = (state(&old), old.stats().unwrap());
            let params = || if text.contains(",R") { everywhere().rerank(n) } else { everywhere() };
            let search =
                |reader: &IndexReader<'_>| bits(&reader.search(&data[..dim], 50, &params()).unwrap());
            let answer = search(&old);
            assert!(stats.free_rows > 0);
            let moved = change(&store, "i", |writer| writer.renumber(&mut Observer::none()).unwrap());
            assert!(moved > 0 && moved <= oracle.vectors.len() as u64, "{text}: {moved}");
            assert_sound(&store, "i");
            let new = reader(&store, "i");
            assert_eq!(new.stats().unwrap().free_rows, 0);
            assert_eq!(new.ids().unwrap(), oracle.ids());
            assert_close(
                &new.search(&data[..dim], 50, &params()).unwrap(),
                &oracle.all(&data[..dim]),
                Metric::L2,
                text,
            );
            assert_eq!(search(&new), answer);
            for id in oracle.ids() {
                assert_eq!(new.reconstruct(id).unwrap(), oracle.vectors[&id], "{text}, id {id}");
                let key = keyed.then(|| format!("key {id}").into_bytes());
                assert_eq!(new.key(id).unwrap(), key);
                if let Some(key) = key {
                    assert_eq!(new.id_of_key(&key).unwrap(), Some(id));
                }
            }
            // Who reads the old state still does.
            assert_eq!((search(&old), state(&old)), (answer, before));
            // Nothing is left to do, and then life goes on.
            let again = change(&store, "i", |writer| writer.renumber(&mut Observer::none()).unwrap());
            assert_eq!(again, 0);
            let some = oracle.ids().into_iter().step_by(2).collect::<Vec<_>>();
            change(&store, "i", |writer| {
                writer.remove_ids(&IdSelector::batch(some.iter().copied())).unwrap();
                some.iter().for_each(|id| drop(oracle.vectors.remove(id)));
                if !keyed {
                    let ids = writer.add(all.slice(0..300)).unwrap();
                    oracle.put_all(ids, all.slice(0..300));
                }
            });
            assert_sound(&store, "i");
            assert_close(
                &reader(&store, "i").search(&data[..dim], 50, &params()).unwrap(),
                &oracle.all(&data[..dim]),
                Metric::L2,
                text,
            );
        }
    }
}

/// Stopped at each tick in turn: at the first the transaction goes on, later it refuses to commit; in both the store is as
/// it was.
#[test]
fn cancelled_at_every_tick() {
    let (dim, n) = (5, 6000);
    let data = reals(n, dim, 136);
    let store = memory();
    decimated(&store, "IVF9,SQfp16,RFlat", Metric::L2, rows(&data, dim), false, 2);
    let before = state(&reader(&store, "i"));
    type Verb = fn(&mut IndexWriter<'_>, &mut Observer<'_>) -> Result<u64>;
    let verbs: [Verb; 2] = [
        |writer, observer| writer.remove_ids_with(&IdSelector::callback(|id| id % 8 != 1), observer),
        |writer, observer| writer.renumber(observer),
    ];
    for verb in verbs {
        let mut ticks: Vec<Tick> = Vec::new();
        let txn = store.begin_write().unwrap();
        let mut watch = |tick: Tick| {
            ticks.push(tick);
            ControlFlow::Continue(())
        };
        let done = verb(&mut txn.index("i").unwrap(), &mut Observer::new(&mut watch)).unwrap();
        txn.abort().unwrap();
        assert!(ticks.len() >= 10 && done > 0);
        let rises = |a: &Tick, b: &Tick| a.stage != b.stage || a.done <= b.done;
        assert!(
            ticks.is_sorted_by(rises) && ticks.iter().all(|tick| tick.total == done && tick.done <= done)
        );
        for stop in 0..ticks.len() {
            let txn = store.begin_write().unwrap();
            let mut writer = txn.index("i").unwrap();
            let mut seen = 0;
            let mut cancel = |_| {
                seen += 1;
                if seen > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let cancelled = verb(&mut writer, &mut Observer::new(&mut cancel));
            assert!(matches!(cancelled, Err(Error::Cancelled)), "tick {stop}: {cancelled:?}");
            assert_eq!(writer.is_poisoned(), stop > 0);
            drop(writer);
            assert_eq!(txn.commit().is_ok(), stop == 0);
            assert_eq!(state(&reader(&store, "i")), before, "tick {stop}");
        }
    }
    assert_sound(&store, "i");
}

/// Nineteen of twenty vectors removed at random: compaction leaves a tenth of the file at most. Indexes that are
/// dense, empty or unfinished are left alone; cancelled, nothing is lost.
#[test]
fn compaction_shrinks_what_is_left() {
    let (dim, n) = (64, 12_000);
    let data = reals(n, dim, 137);
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path().join("s.vellum")).unwrap();
    create(&store, "dense", &spec("Flat", 2, Metric::L2));
    create(&store, "empty", &spec("Flat", 2, Metric::L2));
    create(&store, "unfinished", &spec("Flat", 2, Metric::L2));
    change(&store, "dense", |writer| writer.add(rows(&data[..100], 2)).unwrap());
    drop(store.bulk_load("unfinished").unwrap());
    create(&store, "i", &spec("IVF16,SQfp16,RFlat", dim, Metric::L2));
    change(&store, "i", |writer| {
        train(writer, rows(&data, dim).slice(0..2000));
        writer.add(rows(&data, dim)).unwrap();
    });
    let full = store.compact().unwrap().after_bytes;
    let dense = state(&reader(&store, "dense"));
    let mut random = Random::new(138);
    let left: BTreeSet<u64> = (0..n as u64).filter(|_| random.below(20) == 0).collect();
    let gone = left.clone();
    change(&store, "i", |writer| {
        writer.remove_ids(&IdSelector::callback(move |id| !gone.contains(&id))).unwrap()
    });
    let answer = bits(&reader(&store, "i").search(&data[..dim], 30, &everywhere()).unwrap());

    let mut stages = Vec::new();
    let mut stop = |tick: Tick| {
        stages.push(tick.stage);
        ControlFlow::Break(())
    };
    let cancelled = store.compact_with(&mut Observer::new(&mut stop));
    assert!(matches!(cancelled, Err(Error::Cancelled)) && stages == ["renumber"], "{stages:?}");
    assert!(reader(&store, "i").stats().unwrap().free_rows > 1000);

    let mut stages = Vec::new();
    let mut watch = |tick: Tick| {
        stages.push(tick.stage);
        ControlFlow::Continue(())
    };
    let report = store.compact_with(&mut Observer::new(&mut watch)).unwrap();
    stages.dedup();
    assert_eq!(stages, ["renumber", "compact"]);
    assert!(
        report.after_bytes * 10 < full,
        "{} of {full} bytes for one vector in twenty",
        report.after_bytes
    );
    let now = reader(&store, "i");
    assert_eq!(now.ids().unwrap(), left.into_iter().collect::<Vec<_>>());
    assert_eq!(bits(&now.search(&data[..dim], 30, &everywhere()).unwrap()), answer);
    assert_eq!(state(&reader(&store, "dense")), dense);
    drop(now);
    for index in ["i", "dense", "empty", "unfinished"] {
        assert_sound(&store, index);
    }
}
