//! Spilling: each vector in two lists, and all verbs as if it stood in one.
//!
//! The worries: a vector found in both lists and answered twice, or worse, taking two of k places so that another
//! one is missing; a verb that changes one of the two entries and forgets the other, so that an old vector is still
//! found, a removed one comes back with its row number's next owner, or the slots point at a neighbour; a repair that
//! takes the second entry for damage, or leaves a vector in one list; and all of it for nothing, if the second list helps
//! no query. So everything is compared with brute force over plain vectors, `verify` runs after each verb (it
//! demands two entries of equal vectors in two lists, and slots that name both), and recall with and without is measured.
//! The random sequences of `operations.rs` spill, too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/redb_index.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod redb_index;
mod support;

use redb::{Database, backends::InMemoryBackend};
use redb_index::{delete, entries, put};
use std::sync::Arc;
use support::*;
use vellum::*;

const DIM: usize = 12;

/// A spilled index that was lived in, and what it should hold.
fn lived_in(text: &str, metric: Metric, data: Rows<'_>) -> (Store, Oracle) {
    let store = memory();
    create(&store, "i", &spec(text, data.dim(), metric).with_block_order(0));
    let oracle = change(&store, "i", |writer| live_in(writer, data));
    assert_sound(&store, "i");
    (store, oracle)
}

/// Every list, k of all sizes, alone and in batches, bit for bit as brute force says.
#[track_caller]
fn assert_exact(reader: &IndexReader<'_>, oracle: &Oracle, queries: Rows<'_>, what: &str) {
    assert_eq!(reader.ids().unwrap(), oracle.ids(), "{what}");
    for k in [1, 2, 10, 97, oracle.vectors.len() + 3] {
        let batch = reader.search_batch(queries, k, &everywhere()).unwrap();
        for (query, found) in queries.iter().zip(&batch) {
            let all = oracle.all(query);
            assert_same(found, &all[..k.min(all.len())], &format!("{what}, k {k}"));
            assert_eq!(bits(&reader.search(query, k, &everywhere()).unwrap()), bits(found), "{what}, k {k}");
        }
    }
}

fn sizes_add_up(reader: &IndexReader<'_>) -> bool {
    reader.list_sizes().unwrap().iter().sum::<usize>() as u64 == 2 * reader.len()
}

// ---------------------------------------------------------------- answers

#[test]
fn all_lists_are_brute_force_over_every_metric_and_code() {
    let (data, queries) = (integers(900, DIM, 3, 1), integers(9, DIM, 3, 2));
    for metric in [Metric::L2, Metric::InnerProduct] {
        for text in ["IVF2_SOAR,Flat", "IVF17_SOAR,Flat", "IVF17_SOAR,SQfp16", "IVF30_SOAR,SQbf16,RFlat"] {
            let (store, oracle) = lived_in(text, metric, rows(&data, DIM));
            let reader = reader(&store, "i");
            assert!(sizes_add_up(&reader), "{text}");
            assert_exact(&reader, &oracle, rows(&queries, DIM), &format!("{text} {metric}"));
        }
    }
    // Lengths of 1 are real numbers.
    let (data, queries) = (reals(900, DIM, 1), reals(9, DIM, 2));
    let (store, oracle) = lived_in("IVF17_SOAR,Flat", Metric::Cosine, rows(&data, DIM));
    for query in rows(&queries, DIM).iter() {
        let found = reader(&store, "i").search(query, 50, &everywhere()).unwrap();
        assert_eq!(found.len(), 50);
        assert_close(&found, &oracle.all(query), Metric::Cosine, "cosine");
    }
}

/// 600 times one vector, and 300 more of two kinds: k cuts through ties of rows that are all found twice.
#[test]
fn ties_of_vectors_found_twice_go_by_id() {
    let mut data = vec![1.0; 600 * DIM];
    data.extend(integers(300, DIM, 2, 3));
    let (store, oracle) = lived_in("IVF5_SOAR,Flat,RF16", Metric::L2, rows(&data, DIM));
    let queries = [vec![1.0; DIM], vec![2.0; DIM]].concat();
    assert_exact(&reader(&store, "i"), &oracle, rows(&queries, DIM), "ties");
}

/// With few lists probed an answer is the best of the distinct vectors in them: the lists are read through the
/// answers to a radius without end, and no k of them is cut short by repeats.
#[test]
fn k_places_are_k_vectors_whatever_is_probed() {
    let (data, queries) = (integers(900, DIM, 9, 4), integers(20, DIM, 9, 5));
    for text in ["IVF25_SOAR,Flat", "IVF25_SOAR,Nibble2", "IVF25_SOAR,Nibble1,RFlat"] {
        let (store, _) = lived_in(text, Metric::L2, rows(&data, DIM));
        let reader = reader(&store, "i");
        for probes in [1, 2, 7] {
            for query in rows(&queries, DIM).iter() {
                // All rows are reranked, so that estimates decide nothing but the order where no rows are kept.
                let params = match reader.spec().kept_rows() {
                    Some(_) => nprobe(probes).rerank(2000),
                    None => nprobe(probes),
                };
                let all = reader.range_search(query, f32::INFINITY, &params).unwrap();
                let mut ids = ids_of(&all);
                ids.sort_unstable();
                assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{text}: an id twice");
                assert_sorted(&all, Metric::L2, text);
                for k in [1, 10, 60, 2000] {
                    let found = reader.search(query, k, &params).unwrap();
                    assert_eq!(bits(&found), bits(&all[..k.min(all.len())]), "{text}, {probes} lists, k {k}");
                }
            }
        }
    }
}

#[test]
fn radius_selector_heap_and_max_codes() {
    let (data, queries) = (integers(900, DIM, 4, 6), integers(8, DIM, 4, 7));
    for text in ["IVF20_SOAR,Flat", "IVF20_SOAR,SQfp16,RFlat"] {
        let (store, oracle) = lived_in(text, Metric::L2, rows(&data, DIM));
        let reader = reader(&store, "i");
        let even = IdSelector::callback(|id| id % 2 == 0);
        let odd = IdSelector::callback(|id| id % 2 == 1);
        let n = oracle.vectors.len();
        for query in rows(&queries, DIM).iter() {
            let ranking = oracle.ranking(query, |id| id % 2 == 0);
            let params = everywhere().selector(even.clone());
            assert_same(&reader.search(query, 30, &params).unwrap(), &ranking[..30], "selector");
            let radius = ranking[40].distance as f32;
            let within: Vec<Exact> =
                ranking.iter().copied().filter(|e| (e.distance as f32) < radius).collect();
            assert_same(&reader.range_search(query, radius, &params).unwrap(), &within, "radius");

            let mut heap = TopK::new(25);
            for part in [&even, &odd] {
                reader.search_into(query, &mut heap, &everywhere().selector(part.clone())).unwrap();
            }
            assert_same(heap.neighbors(), &oracle.all(query)[..25], "heap");

            for most in [1, 7, 40, 3 * n] {
                for selector in [IdSelector::All, even.clone()] {
                    let live = n.min(oracle.ids().iter().filter(|id| selector.contains(**id)).count());
                    let params = everywhere().max_codes(most).selector(selector);
                    let found = reader.search(query, n, &params).unwrap();
                    let (least, most) = (most.div_ceil(2).min(live), most.min(live));
                    assert!((least..=most).contains(&found.len()), "{} of {most}", found.len());
                    assert_sorted(&found, Metric::L2, "max_codes");
                }
            }
        }
    }
}

/// Nibble codes estimate, and an entry's estimate depends on its list. Reranked, the answers are exact again.
#[test]
fn estimates_are_reranked_by_distinct_rows() {
    let data = reals(1200, 32, 8);
    for metric in METRICS {
        let (store, oracle) = lived_in("IVF20_SOAR,Nibble2,RFlat", metric, rows(&data, 32));
        let reader = reader(&store, "i");
        let n = oracle.vectors.len();
        for query in rows(&reals(6, 32, 9), 32).iter() {
            // As many rows as there are: were they entries, half of the vectors would not be among them.
            let found = reader.search(query, n, &everywhere().rerank(n)).unwrap();
            assert_eq!(found.len(), n);
            assert_close(&found, &oracle.all(query), metric, "reranked");
        }
    }
}

/// text-2k by inner product, 40 lists, default training (seed 1234), codes that are exact, k 10: the recall of the lists
/// alone. Measured in 1, 2, 4, 8 lists: 0.445, 0.612, 0.752, 0.880 without and 0.548, 0.757, 0.878, 0.957 with spilling.
/// A second list is worth at least half of what it was here, on other processors too.
#[test]
fn spilling_finds_more_in_as_many_lists() {
    let sample = Sample::load("text-2k");
    let recalls = |text: &str, probes: [usize; 4]| {
        let store = memory();
        create(&store, "i", &spec(text, sample.dim, Metric::InnerProduct));
        change(&store, "i", |writer| {
            train(writer, sample.base());
            writer.add(sample.base()).unwrap();
        });
        assert_sound(&store, "i");
        let reader = reader(&store, "i");
        let found = |n| reader.search_batch(sample.queries(), 10, &nprobe(n)).unwrap();
        probes.map(|n| sample.recall(&found(n), 10))
    };
    let (plain, spilled) = (recalls("IVF40,Flat", [1, 2, 4, 8]), recalls("IVF40_SOAR,Flat", [1, 2, 4, 8]));
    for (plain, spilled) in plain.iter().zip(&spilled) {
        assert!(*spilled >= plain + 0.04, "plain {plain:?}, spilled {spilled:?}");
    }
}

// ---------------------------------------------------------------- change

#[test]
fn nothing_spills_before_training() {
    let data = integers(300, DIM, 9, 10);
    let store = memory();
    create(&store, "i", &spec("IVF8_SOAR,Flat,RF16", DIM, Metric::L2));
    let mut oracle = Oracle::new(Metric::L2, Stored::F32);
    change(&store, "i", |writer| {
        oracle.put_all(writer.add(rows(&data, DIM)).unwrap(), rows(&data, DIM));
        writer.remove_ids(&IdSelector::range(10..60)).unwrap();
        writer.update_vectors(&[3, 200], rows(&data[..2 * DIM], DIM)).unwrap();
        oracle.put_all([3, 200], rows(&data[..2 * DIM], DIM));
        writer.renumber(&mut Observer::none()).unwrap();
    });
    oracle.vectors.retain(|id, _| !(10..60).contains(id));
    assert_sound(&store, "i");
    assert_eq!(reader(&store, "i").list_sizes().unwrap(), [250]);
    assert_exact(&reader(&store, "i"), &oracle, rows(&data[..4 * DIM], DIM), "untrained");
    for seed in [1, 2] {
        let params = TrainParams {
            clustering: ClusteringParams { seed, ..Default::default() },
            ..TrainParams::default()
        };
        let report = change(&store, "i", |w| w.train_stored(&params, &mut Observer::none()).unwrap());
        assert_eq!(report.redistributed, 250);
        assert_sound(&store, "i");
        let reader = reader(&store, "i");
        assert!(sizes_add_up(&reader));
        let stats = reader.stats().unwrap();
        assert_eq!((stats.rows, stats.entries, stats.lists), (250, 500, 8));
        assert!(stats.mean_residual > 0.0 && stats.logical_bytes() > 0);
        assert_exact(&reader, &oracle, rows(&data[..4 * DIM], DIM), "trained");
    }
}

/// One vector moved through lists by hand: both lists stay, one moves, the two change roles, both move. Four lists
/// on a line, so it is known where everything stands: on a line the second list is the second nearest.
#[test]
fn each_place_moves_by_itself() {
    let store = memory();
    create(&store, "i", &spec("IVF4_SOAR,Flat", 1, Metric::L2).with_block_order(0));
    let centroids = TrainParams {
        clustering: ClusteringParams { frozen_centroids: true, niter: 1, ..Default::default() },
        initial: Some(vec![0.0, 10.0, 20.0, 30.0]),
        ..TrainParams::default()
    };
    change(&store, "i", |writer| {
        writer.train(rows(&[0.0, 10.0, 20.0, 30.0], 1), &centroids, &mut Observer::none()).unwrap();
        // Neighbours in every list, to be moved by swaps.
        writer.add(rows(&[0.0, 0.5, 10.0, 19.0, 20.0, 21.0], 1)).unwrap();
        writer.add_with_ids(&[100], rows(&[1.0], 1)).unwrap();
        writer.add_with_ids(&[101, 102, 103, 104], rows(&[2.0, 11.0, 22.0, 9.0], 1)).unwrap();
    });
    assert_sound(&store, "i");
    let steps = [
        ("it stays in lists 0 and 1", 0.25, [6, 9, 5, 2]),
        ("1 and 0: they change roles", 6.0, [6, 9, 5, 2]),
        ("1 and 2: the second moves", 14.0, [5, 9, 6, 2]),
        ("2 and 1: they change roles", 19.5, [5, 9, 6, 2]),
        ("3 and 2: the first becomes the second, the second moves", 26.0, [5, 8, 6, 3]),
        ("0 and 1: both move", 1.0, [6, 9, 5, 2]),
    ];
    for (step, vector, expected) in steps {
        let sizes = change(&store, "i", |writer| {
            writer.update_vectors(&[100], rows(&[vector], 1)).unwrap();
            let found = writer.reader().search(&[vector], 1, &nprobe(1)).unwrap();
            assert_eq!((found[0].id, found[0].distance), (100, 0.0), "{step}");
            assert_eq!(writer.reader().reconstruct(100).unwrap(), [vector]);
            writer.reader().list_sizes().unwrap()
        });
        assert_sound(&store, "i");
        assert_eq!(sizes, expected, "{step}");
    }
}

/// Verbs at random on few lists with tiny blocks, each followed by `verify` and brute force.
#[test]
fn every_change_changes_both_places() {
    let mut random = Random::new(11);
    for text in ["IVF4_SOAR,Flat", "IVF40_SOAR,SQfp16,RF16"] {
        let (data, more) = (integers(700, DIM, 5, 12), integers(4000, DIM, 5, 13));
        let (store, mut oracle) = lived_in(text, Metric::L2, rows(&data, DIM));
        let mut fresh = rows(&more, DIM);
        for round in 0..25 {
            let n = 1 + random.below(60);
            let some = fresh.slice(0..n);
            fresh = fresh.slice(n..fresh.len());
            let mut ids = oracle.ids();
            random.shuffle(&mut ids);
            ids.truncate(n);
            let verb = round % 5;
            change(&store, "i", |writer| match verb {
                0 => writer.update_vectors(&ids, some.slice(0..ids.len())).unwrap(),
                1 => {
                    writer.remove_ids(&IdSelector::batch(ids.iter().copied())).unwrap();
                }
                2 => {
                    ids.iter_mut().step_by(2).for_each(|id| *id += 1 << 20);
                    writer.upsert(&ids, some.slice(0..ids.len())).unwrap();
                }
                3 => {
                    ids = writer.add(some).unwrap().collect();
                }
                _ => {
                    ids.clear();
                    writer.renumber(&mut Observer::none()).unwrap();
                    if round % 2 == 0 {
                        train(writer, rows(&data, DIM));
                    }
                }
            });
            match verb {
                1 => oracle.vectors.retain(|id, _| !ids.contains(id)),
                _ => oracle.put_all(ids.iter().copied(), some),
            }
            assert_sound(&store, "i");
            let reader = reader(&store, "i");
            assert!(sizes_add_up(&reader));
            assert_exact(&reader, &oracle, some.slice(0..1), &format!("{text}, round {round}"));
            for id in oracle.ids().iter().step_by(17) {
                assert_eq!(reader.reconstruct(*id).unwrap(), oracle.vectors[id]);
            }
        }
        change(&store, "i", |writer| writer.clear().unwrap());
        assert_sound(&store, "i");
        assert_eq!(reader(&store, "i").stats().unwrap().entries, 0);
        change(&store, "i", |writer| writer.add(fresh.slice(0..50)).unwrap());
        assert_sound(&store, "i");
        assert!(sizes_add_up(&reader(&store, "i")));
    }
}

/// Kept in a file, copied, compacted, loaded in bulk, its slots read by whoever opens it next.
#[test]
fn files_keep_both_places() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("a.vellum"), folder.path().join("b.vellum"));
    let (data, queries) = (integers(2000, DIM, 5, 14), integers(4, DIM, 5, 15));
    let store = Store::create(&path).unwrap();
    create(&store, "i", &spec("IVF20_SOAR,Flat,RFlat", DIM, Metric::L2));
    change(&store, "i", |writer| train(writer, rows(&data, DIM)));
    let mut load = store.bulk_load("i").unwrap();
    load.add(rows(&data[..1000 * DIM], DIM)).unwrap();
    load.add(rows(&data[1000 * DIM..], DIM)).unwrap();
    load.finish().unwrap();
    let mut oracle = Oracle::new(Metric::L2, Stored::F32);
    oracle.put_all(0..2000, rows(&data, DIM));
    change(&store, "i", |writer| writer.remove_ids(&IdSelector::callback(|id| id % 3 > 0)).unwrap());
    oracle.vectors.retain(|id, _| id % 3 == 0);
    store.compact().unwrap();
    store.backup(&copy, &mut Observer::none()).unwrap();
    drop(store);
    for path in [path, copy] {
        let store = Store::open(&path).unwrap();
        assert_sound(&store, "i");
        let reader = reader(&store, "i");
        assert_eq!(reader.spec().to_string(), "IVF20_SOAR,Flat,RFlat");
        assert!(reader.spec().spill() && sizes_add_up(&reader));
        assert_exact(&reader, &oracle, rows(&queries, DIM), "from a file");
    }
}

/// The answer does not depend on threads, nor does the file's contents.
#[test]
fn threads_change_nothing() {
    let data = reals(3000, DIM, 16);
    let one = |threads| {
        let store = in_memory(Store::builder().thread_pool(pool(threads)));
        create(&store, "i", &spec("IVF30_SOAR,Nibble2,RF16", DIM, Metric::L2));
        change(&store, "i", |writer| {
            writer.add(rows(&data[..1500 * DIM], DIM)).unwrap();
            train(writer, rows(&data, DIM));
            writer.add(rows(&data[1500 * DIM..], DIM)).unwrap();
        });
        let reader = reader(&store, "i");
        let found = reader.search_batch(rows(&data[..40 * DIM], DIM), 20, &nprobe(3)).unwrap();
        (state(&reader), all_bits(&found))
    };
    assert_eq!(one(1), one(3));
}

// ---------------------------------------------------------------- damage

/// A sound index in a database that can be damaged, what it holds, and its tables one update earlier.
fn damageable(text: &str) -> (Arc<Database>, Oracle, [Vec<redb_index::Pair>; 3]) {
    let db = Arc::new(Database::builder().create_with_backend(InMemoryBackend::new()).unwrap());
    let store = Store::builder().attach(db.clone()).unwrap();
    create(&store, "i", &spec(text, DIM, Metric::L2).with_block_order(0));
    let (data, more) = (integers(900, DIM, 30, 17), integers(80, DIM, 30, 18));
    let mut oracle = change(&store, "i", |writer| live_in(writer, rows(&data, DIM)));
    let before = ["blocks", "tails", "slots"].map(|table| entries(&db, "i", table));
    let ids: Vec<u64> = oracle.ids().into_iter().step_by(9).take(80).collect();
    let some = rows(&more[..ids.len() * DIM], DIM);
    change(&store, "i", |writer| writer.update_vectors(&ids, some).unwrap());
    oracle.put_all(ids, some);
    assert_sound(&store, "i");
    (db, oracle, before)
}

fn repair(db: &Arc<Database>) -> (Store, RepairReport) {
    let store = Store::builder().attach(db.clone()).unwrap();
    let txn = store.begin_write().unwrap();
    let report = txn.damaged_index("i").unwrap().repair(&mut Observer::none()).unwrap();
    txn.commit().unwrap();
    (store, report)
}

fn problems(db: &Arc<Database>) -> u64 {
    let store = Store::builder().attach(db.clone()).unwrap();
    store.begin_read().unwrap().verify("i", &mut Observer::none()).unwrap().problem_count
}

#[test]
fn repair_of_a_sound_index_changes_nothing() {
    for text in ["IVF12_SOAR,Flat", "IVF12_SOAR,Nibble1,RFlat"] {
        let (db, ..) = damageable(text);
        let tables = || ["blocks", "tails", "lists", "slots", "ids"].map(|table| payloads(&db, table));
        let before = tables();
        let (store, report) = repair(&db);
        assert_eq!(report, nothing_lost(report.rows), "{text}");
        assert_sound(&store, "i");
        drop(store);
        assert!(before[3] == tables()[3], "{text}: the slots keep their order");
        assert!(before == tables(), "{text}");
    }
}

/// The values of a table without what names the change that wrote them.
fn payloads(db: &Database, table: &str) -> Vec<redb_index::Pair> {
    let mut all = entries(db, "i", table);
    // A frame's change number and checksums; a directory entry's change number, nonce and the sum of residuals.
    if table == "lists" {
        return Vec::new();
    }
    all.iter_mut().for_each(|(_, value)| drop(value.drain(..64)));
    all
}

/// A block that is lost takes one place of its rows: each has another, and gets the lost one back. Without slots it is
/// known no more which list is a vector's nearest, and the residuals say.
#[test]
fn a_lost_block_costs_no_vector() {
    for text in ["IVF12_SOAR,Flat", "IVF4_SOAR,SQfp16,RF16"] {
        for with_slots in [true, false] {
            let (db, oracle, _) = damageable(text);
            let (blocks, slots) = (entries(&db, "i", "blocks"), entries(&db, "i", "slots"));
            let txn = db.begin_write().unwrap();
            let mut rotten = blocks[2].1.clone();
            rotten[100] ^= 1;
            put(&txn, "i", "blocks", &blocks[2].0, &rotten);
            delete(&txn, "i", "blocks", &blocks[5].0);
            if !with_slots {
                slots.iter().for_each(|(key, _)| delete(&txn, "i", "slots", key));
            }
            txn.commit().unwrap();
            assert!(problems(&db) > 0);
            let (store, report) = repair(&db);
            assert!(report.spilled_again > 10 && report.lost_ids.len() < 40, "{text}: {report:?}");
            assert_sound(&store, "i");
            let mut left = oracle.clone();
            left.vectors.retain(|id, _| !report.lost_ids.contains(id));
            let reader = reader(&store, "i");
            assert!(sizes_add_up(&reader));
            // Both blocks may have held both places of a few rows.
            assert_exact(&reader, &left, rows(&integers(5, DIM, 30, 19), DIM), text);
            drop(reader);
            let again = store.begin_write().unwrap();
            let report = again.damaged_index("i").unwrap().repair(&mut Observer::none()).unwrap();
            assert_eq!(report, nothing_lost(report.rows));
            drop(again);
            change(&store, "i", |writer| {
                writer.remove_ids(&IdSelector::callback(|id| id % 2 == 0)).unwrap();
                writer.renumber(&mut Observer::none()).unwrap();
            });
            assert_sound(&store, "i");
        }
    }
}

/// Blocks put back to what they were before an update: sound in themselves, and they hold old vectors. Rows of which
/// one place is new and one is old end up with the new vector in both: the change number of the block tells where both
/// codes must be equal, the kept row where they cannot be.
#[test]
fn of_two_entries_the_new_one_is_believed() {
    for text in ["IVF12_SOAR,Flat", "IVF3_SOAR,Nibble2,RFlat"] {
        let (db, oracle, [before, ..]) = damageable(text);
        let now = entries(&db, "i", "blocks");
        let changed: Vec<_> = before.iter().filter(|old| !now.contains(old)).collect();
        assert!(changed.len() > 1, "{text}");
        for old in [changed[0], changed[changed.len() / 2]] {
            let txn = db.begin_write().unwrap();
            put(&txn, "i", "blocks", &old.0, &old.1);
            txn.commit().unwrap();
            assert!(problems(&db) > 0);
            let (store, report) = repair(&db);
            assert!(
                report.spilled_again + report.decoded_rows > 0 && report.lost_ids.len() < 20,
                "{report:?}"
            );
            assert_sound(&store, "i");
            let reader = reader(&store, "i");
            assert!(sizes_add_up(&reader));
            let survivors: Vec<u64> = reader.ids().unwrap();
            assert_eq!(survivors.len() + report.lost_ids.len(), oracle.vectors.len());
            for id in survivors {
                assert_eq!(reader.reconstruct(id).unwrap(), oracle.vectors[&id], "{text}: id {id}");
            }
        }
    }
}

/// Slots that say something else than the blocks: noticed, and a writer that relies on them refuses.
#[test]
fn slots_of_an_earlier_commit_are_noticed() {
    let (db, _, [.., before]) = damageable("IVF12_SOAR,Flat");
    let now = entries(&db, "i", "slots");
    let (key, old) = before.iter().find(|old| !now.contains(old)).unwrap();
    let txn = db.begin_write().unwrap();
    put(&txn, "i", "slots", key, old);
    txn.commit().unwrap();
    assert!(problems(&db) > 0);
    let store = Store::builder().attach(db.clone()).unwrap();
    let txn = store.begin_write().unwrap();
    let removed = txn.index("i").unwrap().remove_ids(&IdSelector::All);
    assert!(matches!(removed, Err(Error::Corrupt { .. })), "{removed:?}");
    assert!(txn.commit().is_err());
    drop(store);
    let (store, report) = repair(&db);
    assert_eq!(report, nothing_lost(report.rows));
    assert_sound(&store, "i");
}

// ---------------------------------------------------------------- specifications

#[test]
fn spilling_is_part_of_the_specification() {
    let store = memory();
    let txn = store.begin_write().unwrap();
    for refused in [IndexSpec::flat(4, Metric::L2), IndexSpec::ivf(4, Metric::L2, 1)] {
        let refused = txn.create_index("i", &refused.with_spill(true));
        assert!(matches!(refused, Err(Error::Spec { .. })), "{refused:?}");
    }
    let two = IndexSpec::ivf(4, Metric::L2, 2).with_spill(true);
    txn.create_index("i", &two).unwrap();
    let mut writer = txn.index("i").unwrap();
    assert_eq!((writer.spec(), writer.spec().to_string().as_str()), (&two, "IVF2_SOAR,Flat"));
    // Two lists of which one is nearest: both hold everything.
    let data = reals(50, 4, 20);
    writer.add(rows(&data, 4)).unwrap();
    train(&mut writer, rows(&data, 4));
    assert_eq!(writer.reader().list_sizes().unwrap(), [50, 50]);
    assert_eq!(writer.reader().search(&data[..4], 50, &nprobe(1)).unwrap().len(), 50);
}
