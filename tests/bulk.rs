//! Worry: a load that is more than one transaction. Interrupted, it must be clearly unfinished, say where
//! to go on, and lose nothing that it said was done; finished, it must be the index that one transaction
//! would have made.
//!
//! Noticed by loading in pieces as small as one row, dropping the load (and the store) at every one of
//! them, going on where `rows_done` says, and comparing with an index that was filled at once.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use std::ops::ControlFlow;
use support::*;
use vellum::*;

const DIM: usize = 5;
/// Bytes of a row.
const ROW: usize = 4 * DIM;

fn small(rows: usize) -> Builder {
    Store::builder().load_bytes(rows * ROW)
}

/// Compares an index with one that got the same rows at once.
#[track_caller]
fn assert_as_if_at_once(store: &Store, text: &str, ids: &[u64], data: Rows<'_>, trained: bool) {
    let plain = memory();
    create(&plain, "i", &spec(text, DIM, Metric::L2));
    change(&plain, "i", |writer| {
        if trained {
            train(writer, data);
        }
        writer.add_with_ids(ids, data).unwrap();
    });
    let (loaded, plain) = (reader(store, "i"), reader(&plain, "i"));
    assert_eq!(loaded.ids().unwrap(), plain.ids().unwrap());
    assert_eq!(loaded.list_sizes().unwrap(), plain.list_sizes().unwrap());
    for params in [nprobe(1), nprobe(3), everywhere()] {
        let answers = |reader: &IndexReader<'_>| all_bits(&reader.search_batch(data, 7, &params).unwrap());
        assert!(answers(&loaded) == answers(&plain));
    }
    assert_sound(store, "i");
}

#[test]
fn a_load_in_pieces_is_an_add_at_once() {
    let n = 400;
    let data = reals(n, DIM, 111);
    let all = rows(&data, DIM);
    for text in ["IVF6,Flat", "IVF6,SQbf16,RFlat"] {
        for trained in [false, true] {
            // Rows per transaction, rows per call.
            for (commit, call) in [(1, 1), (64, 1), (50, 64), (7, 100), (1000, 400)] {
                let store = in_memory(small(commit));
                create(&store, "i", &spec(text, DIM, Metric::L2));
                if trained {
                    change(&store, "i", |writer| train(writer, all));
                }
                let mut load = store.bulk_load("i").unwrap();
                for from in (0..n).step_by(call) {
                    let ids = load.add(all.slice(from..n.min(from + call))).unwrap();
                    assert_eq!(ids, from as u64..n.min(from + call) as u64);
                    // Found here: a call with more rows than a transaction should hold made one that held
                    // them all.
                    assert_eq!(
                        load.rows_done() as usize,
                        ids.end as usize / commit * commit,
                        "whole transactions"
                    );
                }
                load.finish().unwrap();
                let ids: Vec<u64> = (0..n as u64).collect();
                assert_as_if_at_once(&store, text, &ids, all, trained);
                // An index like any other now.
                change(&store, "i", |writer| assert_eq!(writer.add(all.slice(0..3)).unwrap(), 400..403));
                assert!(matches!(store.bulk_load("i"), Err(Error::Parameter { .. })));
                assert_sound(&store, "i");
            }
        }
    }
}

/// Dropped with its store after every piece, resumed in a new one: what was committed is there once, what
/// was not is asked for again.
#[test]
fn interrupted_at_every_piece() {
    let (folder, n) = (tempfile::tempdir().unwrap(), 90);
    let path = folder.path().join("s.vellum");
    let data = reals(n, DIM, 112);
    let all = rows(&data, DIM);
    let ids: Vec<u64> = (0..n as u64).map(|i| 5000 - 3 * i).collect();
    let store = Store::create(&path).unwrap();
    create(&store, "i", &spec("IVF3,SQfp16", DIM, Metric::L2));
    change(&store, "i", |writer| train(writer, all));
    drop(store);
    let mut interruptions = 0;
    loop {
        let store = small(8).open(&path).unwrap();
        let mut load = store.bulk_load("i").unwrap();
        let done = load.rows_done() as usize;
        assert_eq!(done, (8 * interruptions).min(n), "whole transactions");
        if interruptions > 0 && done < n {
            // What is there cannot come twice; what waited in memory can.
            assert!(
                matches!(load.add_with_ids(&ids[done - 1..done], all.slice(0..1)), Err(Error::DuplicateId { id }) if id == ids[done - 1])
            );
        }
        let piece = done..n.min(done + 13);
        load.add_with_ids(&ids[piece.clone()], all.slice(piece.clone())).unwrap();
        let committed = load.rows_done();
        if piece.end == n {
            load.finish().unwrap();
            break;
        }
        // Of thirteen rows eight are a transaction, and five went with the load.
        assert_eq!(committed as usize, done + 8);
        drop(load);
        let unfinished =
            |e: &Error| matches!(e, Error::Unfinished { index, rows } if index == "i" && *rows == committed);
        assert!(unfinished(&store.begin_read().unwrap().index("i").unwrap_err()));
        assert!(unfinished(&store.begin_write().unwrap().index("i").unwrap_err()));
        assert_sound(&store, "i");
        interruptions += 1;
    }
    let store = Store::open(&path).unwrap();
    assert_as_if_at_once(&store, "IVF3,SQfp16", &ids, all, true);
}

/// A load goes on beside everything else in the store; what was read before it began stays.
#[test]
fn others_go_on_meanwhile() {
    let data = reals(60, DIM, 113);
    let all = rows(&data, DIM);
    let folder = tempfile::tempdir().unwrap();
    let store = in_memory(small(10));
    for name in ["i", "other"] {
        create(&store, name, &spec("IVF3,Flat", DIM, Metric::L2));
    }
    let before = reader(&store, "i");
    let mut load = store.bulk_load("i").unwrap();
    for step in 0..6 {
        load.add(all.slice(10 * step..10 * step + 10)).unwrap();
        change(&store, "other", |writer| writer.add(all.slice(0..5)).unwrap());
        assert_eq!(reader(&store, "other").len(), 5 * (step as u64 + 1));
        assert!(before.is_empty() && before.search(all.row(0), 3, &everywhere()).unwrap().is_empty());
        assert_sound(&store, "i");
    }
    // Copied as unfinished as it is; the copy can be finished on its own.
    let path = folder.path().join("copy.vellum");
    store.backup(&path, &mut Observer::none()).unwrap();
    load.finish().unwrap();
    let copy = Store::open(&path).unwrap();
    assert!(matches!(copy.begin_read().unwrap().index("i"), Err(Error::Unfinished { rows: 60, .. })));
    copy.bulk_load("i").unwrap().finish().unwrap();
    assert_eq!(state(&reader(&copy, "i")).len(), 60);
    for store in [&store, &copy] {
        let ids: Vec<u64> = (0..60).collect();
        assert_as_if_at_once(store, "IVF3,Flat", &ids, all, false);
    }
}

#[test]
fn discarded() {
    let data = reals(30, DIM, 114);
    let all = rows(&data, DIM);
    let store = in_memory(small(8));
    create(&store, "i", &spec("IVF3,Flat,RF16", DIM, Metric::L2));
    change(&store, "i", |writer| train(writer, all));
    let centroids = reader(&store, "i").centroids().unwrap().as_slice().to_vec();
    let mut load = store.bulk_load("i").unwrap();
    load.add(all).unwrap();
    assert_eq!(store.discard_load("i").unwrap(), 24, "three transactions of eight");
    // The load itself does not know yet; it must not go on where nothing is.
    assert!(matches!(load.add(all), Err(Error::InUse { .. })));
    drop(load);
    let empty = reader(&store, "i");
    assert!(empty.is_empty() && empty.is_trained());
    assert_eq!(empty.centroids().unwrap().as_slice(), centroids);
    assert_sound(&store, "i");
    assert!(matches!(store.discard_load("i"), Err(Error::Parameter { name: "discard_load", .. })));
    // The ids that were given to committed rows are used up.
    assert_eq!(change(&store, "i", |writer| writer.add(all).unwrap()), 24..54);
}

/// Two loads of one index at once, and a load whose index was dropped and made anew: only one of them gets
/// through.
#[test]
fn a_load_never_writes_into_another_one() {
    let data = reals(20, DIM, 115);
    let all = rows(&data, DIM);
    let store = in_memory(small(10));
    create(&store, "i", &spec("Flat", DIM, Metric::L2));
    let (mut first, mut second) = (store.bulk_load("i").unwrap(), store.bulk_load("i").unwrap());
    first.add(all.slice(0..10)).unwrap();
    assert!(matches!(second.add(all.slice(10..20)), Err(Error::InUse { .. })));
    drop(second);
    first.add(all.slice(10..20)).unwrap();
    first.finish().unwrap();
    assert_eq!(reader(&store, "i").reconstruct_batch(&(0..20).collect::<Vec<_>>()).unwrap(), data);

    // Found here: the old load took the new index for its own, because both had loaded nothing yet.
    let spec = spec("Flat", DIM, Metric::L2);
    create(&store, "new", &spec);
    let mut old = store.bulk_load("new").unwrap();
    let txn = store.begin_write().unwrap();
    txn.drop_index("new").unwrap();
    txn.create_index("new", &spec).unwrap();
    txn.commit().unwrap();
    let mut new = store.bulk_load("new").unwrap();
    assert!(matches!(old.add(all.slice(0..10)), Err(Error::InUse { .. })));
    assert!(matches!(old.finish(), Err(Error::InUse { .. })));
    assert_eq!(new.add(all.slice(10..20)).unwrap(), 0..10);
    new.finish().unwrap();
    assert_eq!(
        reader(&store, "new").reconstruct_batch(&(0..10).collect::<Vec<_>>()).unwrap(),
        data[10 * DIM..]
    );

    // Dropped or renamed away, the index is not there.
    create(&store, "gone", &spec);
    let mut load = store.bulk_load("gone").unwrap();
    let txn = store.begin_write().unwrap();
    txn.drop_index("gone").unwrap();
    txn.commit().unwrap();
    assert!(matches!(load.add(all), Err(Error::UnknownIndex { name }) if name == "gone"));
}

/// A load that was renamed while it was unfinished goes on under its new name.
#[test]
fn renamed_and_finished() {
    let data = reals(20, DIM, 116);
    let store = in_memory(small(10));
    create(&store, "i", &spec("Flat", DIM, Metric::L2));
    store.bulk_load("i").unwrap().add(rows(&data, DIM)).unwrap();
    let txn = store.begin_write().unwrap();
    txn.rename_index("i", "j").unwrap();
    txn.commit().unwrap();
    let load = store.bulk_load("j").unwrap();
    assert_eq!(load.rows_done(), 20);
    load.finish().unwrap();
    assert_eq!(reader(&store, "j").reconstruct_batch(&(0..20).collect::<Vec<_>>()).unwrap(), data);
    assert_sound(&store, "j");
}

/// Nothing at all is a load too; and repair makes an unfinished one usable with what is there.
#[test]
fn empty_and_repaired() {
    let data = reals(25, DIM, 117);
    let store = in_memory(small(10));
    create(&store, "i", &spec("IVF3,Flat", DIM, Metric::L2));
    store.bulk_load("i").unwrap().finish().unwrap();
    assert!(reader(&store, "i").is_empty());
    let mut load = store.bulk_load("i").unwrap();
    assert_eq!(load.add(rows(&[], DIM)).unwrap(), 0..0);
    load.add(rows(&data, DIM)).unwrap();
    drop(load);
    let txn = store.begin_write().unwrap();
    let mut ticks = 0;
    let mut count = |tick: Tick| {
        assert!(tick.stage == "repair" && tick.done <= tick.total);
        ticks += 1;
        ControlFlow::Continue(())
    };
    let report = txn.damaged_index("i").unwrap().repair(&mut Observer::new(&mut count)).unwrap();
    assert_eq!((report.rows, report.lost_ids.len()), (20, 0));
    assert!(ticks > 0);
    txn.commit().unwrap();
    assert_eq!(reader(&store, "i").ids().unwrap(), (0..20).collect::<Vec<_>>());
    assert_sound(&store, "i");
    change(&store, "i", |writer| assert_eq!(writer.add(rows(&data, DIM)).unwrap(), 20..45));
}
