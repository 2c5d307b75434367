//! Worry: a vector that is lost or garbled when lists are split and dissolved around it. A code that stands in a list with
//! another centroid, a slot that points to where the list was, a row that spilling left in a list which is no more: each
//! is found by the next search, or never.
//!
//! Noticed with `verify`, with brute force over all lists, and by comparing every entry with what the same codec makes
//! of the vector under the centroid that the list has now. Indexes of every kind grow in one place and shrink in another, so
//! that lists are split and dissolved, and lists from the end take free numbers.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use std::collections::BTreeMap;
use support::*;
use vellum::*;

const DIM: usize = 8;

fn maintain(store: &Store, params: &MaintainParams) -> MaintainReport {
    change(store, "i", |index| index.maintain(params, &mut Observer::none()).unwrap())
}

fn params() -> MaintainParams {
    MaintainParams { split_beyond: 2.0, dissolve_below: 0.4, ..MaintainParams::default() }
}

/// An index that has grown around one vector, and shrunk in a half of the space. Its second half of lists is unused before.
fn grown(text: &str, metric: Metric) -> (Store, Oracle) {
    let store = memory();
    let spec = spec(text, DIM, metric);
    create(&store, "i", &spec);
    let mut oracle = Oracle::new(metric, Stored::of_rows(&spec));
    let first = integers(500, DIM, 100, 1);
    change(&store, "i", |index| {
        train(index, rows(&first, DIM));
        index.add(rows(&first, DIM)).unwrap();
    });
    oracle.put_all(0..500, rows(&first, DIM));
    grow(&store, &mut oracle, &first[..DIM], 1000..1400);
    let gone: Vec<u64> = (0..500).filter(|id| first[*id as usize * DIM] < 60.0).collect();
    change(&store, "i", |index| index.remove_ids(&IdSelector::batch(gone.clone())).unwrap());
    gone.iter().for_each(|id| drop(oracle.vectors.remove(id)));
    (store, oracle)
}

/// Adds vectors around `middle`, of which each stands there twice.
fn grow(store: &Store, oracle: &mut Oracle, middle: &[f32], ids: std::ops::Range<u64>) {
    let mut near = integers((ids.end - ids.start) as usize / 2, DIM, 30, ids.start);
    near.chunks_exact_mut(DIM).for_each(|row| row.iter_mut().zip(middle).for_each(|(x, c)| *x += c));
    let near = [near.clone(), near].concat();
    let ids: Vec<u64> = ids.collect();
    change(store, "i", |index| index.add_with_ids(&ids, rows(&near, DIM)).unwrap());
    oracle.put_all(ids, rows(&near, DIM));
}

fn open(store: &Store) -> IndexReader<'static> {
    store.begin_read().unwrap().index("i").unwrap()
}

/// Each entry's code is what the codec makes of the vector under the centroid of the list it stands in, and each vector has
/// as many entries as it should.
fn assert_codes_fit(store: &Store, oracle: &Oracle, what: &str) {
    let reader = open(store);
    let places = if reader.spec().spill() { 2 } else { 1 };
    let mut entries = BTreeMap::new();
    for list in 0..reader.nlist() as u32 {
        let (ids, codes) = reader.list(list).unwrap();
        let vectors = reader.reconstruct_batch(&ids).unwrap();
        if ids.is_empty() {
            continue;
        }
        let expected = reader.encode_in(rows(&vectors, DIM), &vec![list; ids.len()]).unwrap();
        assert!(codes == expected, "{what}: the codes of list {list}");
        ids.iter().for_each(|id| *entries.entry(*id).or_insert(0) += 1);
    }
    assert_eq!(entries.keys().copied().collect::<Vec<_>>(), oracle.ids(), "{what}");
    assert!(entries.values().all(|n| *n == places), "{what}: {places} entries each");
}

/// Everything is found, and where codes are exact nothing else is said of it than by brute force.
fn assert_all_there(store: &Store, oracle: &Oracle, what: &str) {
    assert_sound(store, "i");
    let reader = open(store);
    assert_eq!(reader.spec().nlist(), Some(reader.nlist()), "{what}");
    let params = match reader.spec().kept_rows() {
        Some(_) => everywhere().rerank(oracle.vectors.len() + 1),
        None => everywhere(),
    };
    for query in rows(&integers(20, DIM, 130, 9), DIM).iter() {
        let ranking = oracle.all(query);
        assert_close(&reader.search(query, 25, &params).unwrap(), &ranking, oracle.metric, what);
        let all = reader.search(query, oracle.vectors.len() + 1, &params).unwrap();
        assert_eq!(all.len(), oracle.vectors.len(), "{what}");
    }
}

const KINDS: [&str; 12] = [
    "IVF24,Flat",
    "IVF24,SQfp16",
    "IVF24_SOAR,Flat",
    "IVF24,FlatDedup",
    "IVF24,Flat,RU8",
    "IVF24,Nibble2,RFlat",
    "IVF24_SOAR,Nibble1,RFlat",
    "IVF24,PQ4x4fsr,RFlat",
    "IVF24,PQ4,RFlat",
    "IVF24,SQ8,RFlat",
    "IVF24(IVF5),Flat",
    "PCA6,IVF24,RaBitQ,RFlat",
];

#[test]
fn lists_are_split_and_dissolved_and_nothing_is_lost() {
    for text in KINDS {
        for (metric, neighbours) in [(Metric::L2, 8), (Metric::InnerProduct, 0)] {
            let what = format!("{text}, {metric}, {neighbours} neighbours");
            let (store, oracle) = grown(text, metric);
            let (before, sizes) = (open(&store), open(&store).list_sizes().unwrap());
            let answer = before.search(&[50.0; DIM], 30, &everywhere()).unwrap();
            let report = maintain(&store, &MaintainParams { neighbours, ..params() });
            assert!(report.split > 0 && report.dissolved > 0 && report.moved > 0, "{what}: {report:?}");
            assert_eq!((report.lists, report.left), (open(&store).nlist(), 0), "{what}");
            assert_all_there(&store, &oracle, &what);
            assert_codes_fit(&store, &oracle, &what);
            let longest = |sizes: &[usize]| sizes.iter().copied().max().unwrap();
            let after = open(&store).list_sizes().unwrap();
            assert!(longest(&after) < longest(&sizes), "{what}: {sizes:?} to {after:?}");
            // A reader of the old state goes on.
            assert_eq!(before.list_sizes().unwrap(), sizes);
            assert_eq!(bits(&before.search(&[50.0; DIM], 30, &everywhere()).unwrap()), bits(&answer));
        }
    }
}

/// Grows in another place, changes what is there, maintains, again and again, and trains at last: with fewer lists and with
/// more, from a file that is opened again.
#[test]
fn an_index_that_was_maintained_lives_on() {
    for text in ["IVF24,Flat", "IVF24_SOAR,Nibble2,RFlat", "IVF24,FlatDedup"] {
        let (store, mut oracle) = grown(text, Metric::L2);
        let first = integers(500, DIM, 100, 1);
        for round in 0..4u64 {
            let what = format!("{text}, round {round}");
            maintain(&store, &params());
            grow(
                &store,
                &mut oracle,
                &first[(round as usize + 1) * DIM..][..DIM],
                2000 + 500 * round..2300 + 500 * round,
            );
            let gone: Vec<u64> = oracle.ids().into_iter().filter(|id| id % 7 == round).collect();
            change(&store, "i", |index| index.remove_ids(&IdSelector::batch(gone.clone())).unwrap());
            gone.iter().for_each(|id| drop(oracle.vectors.remove(id)));
            let replaced: Vec<u64> = oracle.ids().into_iter().step_by(5).collect();
            let data = integers(replaced.len(), DIM, 130, round);
            change(&store, "i", |index| index.update_vectors(&replaced, rows(&data, DIM)).unwrap());
            oracle.put_all(replaced, rows(&data, DIM));
            assert_all_there(&store, &oracle, &what);
            assert_codes_fit(&store, &oracle, &what);
        }
        let lists = open(&store).nlist();
        assert_ne!(lists, 24, "{text}");
        change(&store, "i", |index| {
            index.train_stored(&TrainParams::default(), &mut Observer::none()).unwrap()
        });
        assert_eq!(open(&store).nlist(), lists, "training keeps the number of lists");
        assert_all_there(&store, &oracle, text);
    }
}

/// Most lists are dissolved, so that lists from the end move into the gaps; of the codes that move nothing changes, not
/// even of such as could not be made again.
#[test]
fn lists_that_take_other_numbers_keep_their_codes() {
    let (store, dim) = (memory(), DIM);
    create(&store, "i", &spec("IVF20,SQ4", dim, Metric::L2));
    let data = integers(1000, dim, 100, 3);
    change(&store, "i", |index| {
        train(index, rows(&data, dim));
        index.add(rows(&data, dim)).unwrap();
    });
    // All but one vector of the first fifteen lists.
    let reader = open(&store);
    let ids: Vec<Vec<u64>> = (0..20).map(|list| reader.list(list).unwrap().0).collect();
    let gone: Vec<u64> = ids[..15].iter().flat_map(|ids| &ids[1..]).copied().collect();
    change(&store, "i", |index| index.remove_ids(&IdSelector::batch(gone.clone())).unwrap());
    let before: BTreeMap<u64, Vec<u8>> =
        open(&store).ids().unwrap().into_iter().map(|id| (id, reader.code(id).unwrap().bytes)).collect();
    let report = maintain(&store, &MaintainParams { split_beyond: 1e9, ..params() });
    assert_eq!((report.split, report.dissolved, report.lists, report.moved), (0, 15, 5, 15));
    assert_sound(&store, "i");
    let after = open(&store);
    for id in ids[15..].iter().flatten() {
        assert_eq!(after.code(*id).unwrap().bytes, before[id], "vector {id}");
    }
    assert_eq!(after.ids().unwrap(), before.keys().copied().collect::<Vec<_>>());
}

/// What one call leaves the next one takes, and then there is nothing to do.
#[test]
fn a_call_takes_on_no_more_than_it_is_told() {
    let (store, oracle) = grown("IVF24,Flat", Metric::L2);
    let small = MaintainParams { rows_max: Some(1), ..params() };
    let mut calls = 0;
    loop {
        let report = maintain(&store, &small);
        assert!(report.split + report.dissolved <= 1, "{report:?}");
        assert_all_there(&store, &oracle, "a list at a time");
        calls += 1;
        if report.left == 0 {
            break;
        }
        assert!(calls < 100, "no end of it");
    }
    assert!(calls > 2);
    let nothing = maintain(&store, &MaintainParams::default());
    assert_eq!((nothing.split, nothing.dissolved, nothing.moved, nothing.left), (0, 0, 0, 0));
    // By a size of lists instead of their mean.
    let report = maintain(&store, &MaintainParams { list_entries: Some(4.0), ..MaintainParams::default() });
    assert!(report.lists > 50, "{report:?}");
    assert_all_there(&store, &oracle, "4 entries a list");
}

/// Equal vectors cannot be told apart: the list stays, and is not waited for.
#[test]
fn equal_vectors_are_not_split() {
    let store = memory();
    create(&store, "i", &spec("IVF4,Flat", 2, Metric::L2));
    let data = integers(40, 2, 50, 5);
    change(&store, "i", |index| {
        train(index, rows(&data, 2));
        index.add(rows(&data, 2)).unwrap();
        index.add(rows(&[7.0; 400], 2)).unwrap();
    });
    let params = MaintainParams { dissolve_below: 0.0, split_beyond: 2.0, ..MaintainParams::default() };
    // The others of its list are split off first.
    let reports = (0..10).map(|_| maintain(&store, &params)).find(|report| report.split == 0);
    let report = reports.unwrap();
    assert_eq!((report.split, report.moved, report.left), (0, 0, 0));
    assert_sound(&store, "i");
}

#[test]
fn what_cannot_be_maintained_is_refused_and_a_cancelled_call_changes_nothing() {
    let (store, _) = grown("IVF24,Flat", Metric::L2);
    let refused = |index: &str, params: MaintainParams| {
        let txn = store.begin_write().unwrap();
        let result = txn.index(index).unwrap().maintain(&params, &mut Observer::none());
        result.unwrap_err()
    };
    let all = MaintainParams::default;
    for (params, expected) in [
        (MaintainParams { split_beyond: 1.0, ..all() }, "split_beyond"),
        (MaintainParams { split_beyond: f64::NAN, ..all() }, "split_beyond"),
        (MaintainParams { dissolve_below: 1.0, ..all() }, "dissolve_below"),
        (MaintainParams { dissolve_below: -0.1, ..all() }, "dissolve_below"),
        (MaintainParams { list_entries: Some(0.5), ..all() }, "list_entries"),
    ] {
        let error = refused("i", params);
        assert!(matches!(error, Error::Parameter { name, .. } if name == expected), "{error:?}");
    }
    create(&store, "flat", &spec("Flat", DIM, Metric::L2));
    assert!(matches!(refused("flat", all()), Error::Spec { .. }));
    create(&store, "new", &spec("IVF4,Flat", DIM, Metric::L2));
    assert!(matches!(refused("new", all()), Error::Untrained { .. }));
    let before = state(&open(&store));
    for cancelled_at in 0.. {
        let mut ticks = 0;
        let mut stop = |_: Tick| {
            ticks += 1;
            if ticks > cancelled_at {
                std::ops::ControlFlow::Break(())
            } else {
                std::ops::ControlFlow::Continue(())
            }
        };
        let txn = store.begin_write().unwrap();
        let result = txn.index("i").unwrap().maintain(&params(), &mut Observer::new(&mut stop));
        txn.commit().unwrap();
        if let Err(Error::Cancelled) = result {
            assert_eq!(state(&open(&store)), before);
            continue;
        }
        assert!(result.unwrap().split > 0 && cancelled_at > 1);
        break;
    }
    assert_ne!(state(&open(&store)), before);
}

#[test]
fn a_transaction_that_is_aborted_leaves_the_old_lists() {
    let (store, oracle) = grown("IVF24_SOAR,Flat", Metric::L2);
    let before = state(&open(&store));
    let txn = store.begin_write().unwrap();
    let report = txn.index("i").unwrap().maintain(&params(), &mut Observer::none()).unwrap();
    assert!(report.split > 0);
    drop(txn);
    assert_eq!(state(&open(&store)), before);
    assert_all_there(&store, &oracle, "aborted");
}

/// A text index whose lists are of one eighth of its vectors, and which then grew by the others: maintained by size, it finds
/// with as many entries scored what an index of as many lists finds that was trained on all.
#[test]
fn recall_is_that_of_a_training_on_all() {
    let sample = Sample::load("text-2k");
    let (n, dim) = (sample.base().len(), sample.dim);
    let store = memory();
    create(&store, "i", &spec("IVF8,Flat", dim, Metric::InnerProduct));
    change(&store, "i", |index| {
        train(index, sample.base().slice(0..n / 8));
        index.add(sample.base()).unwrap();
    });
    let params = MaintainParams { list_entries: Some(50.0), split_beyond: 1.5, ..MaintainParams::default() };
    let report = maintain(&store, &params);
    create(&store, "fresh", &spec(&format!("IVF{},Flat", report.lists), dim, Metric::InnerProduct));
    change(&store, "fresh", |index| {
        train(index, sample.base());
        index.add(sample.base()).unwrap();
    });
    let recall = |name: &str, params: &SearchParams| {
        let reader = store.begin_read().unwrap().index(name).unwrap();
        sample.recall(&reader.search_batch(sample.queries(), 10, params).unwrap(), 10)
    };
    for codes in [200, 400] {
        let params = everywhere().max_codes(codes);
        let (kept, fresh) = (recall("i", &params), recall("fresh", &params));
        println!("{codes} entries: {kept:.3} maintained, {fresh:.3} trained anew, {report:?}");
        assert!(kept >= fresh - 0.03, "{codes} entries: {kept} maintained, {fresh} trained anew");
    }
}
