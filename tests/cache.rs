//! Worry: an index larger than its memory. Pins come and go under a budget, snapshots inherit them from
//! older ones, readers hold states that commits have left behind; a pin handed to the wrong list or the
//! wrong state gives a good answer to another question.
//!
//! Noticed by asking a store with a cache of 5 % of its file, and of nothing at all, the same questions as
//! one that holds everything: the answers must be the same to the bit, in every verb, from many threads,
//! with readers held over commits; and what is pinned must never exceed the budget.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use std::path::Path;
use support::*;
use vellum::*;

const INDEX: &str = "sift";

/// The sample in a file, kept rows and all, in small blocks: 11 MB.
fn build(path: &Path, sample: &Sample) -> u64 {
    build_as("IVF64,SQfp16,RFlat", path, sample)
}

fn build_as(text: &str, path: &Path, sample: &Sample) -> u64 {
    let store = Store::create(path).unwrap();
    let spec = spec(text, sample.dim, Metric::L2).with_block_order(0);
    create(&store, INDEX, &spec);
    change(&store, INDEX, |writer| live_in(writer, sample.base()));
    assert_sound(&store, INDEX);
    drop(store);
    std::fs::metadata(path).unwrap().len()
}

/// Every kind of question; returns every answer.
fn ask(reader: &IndexReader<'_>, sample: &Sample, asked: &mut dyn FnMut()) -> Vec<Vec<(u64, u32)>> {
    let queries = sample.queries().slice(0..40);
    let mut answers = Vec::new();
    let odd = || IdSelector::callback(|id| id % 2 == 1);
    let few = || IdSelector::batch((0..200u64).map(|i| i * 50));
    let bound = nprobe(8).rerank(Rerank::Bound(1.0));
    let selected = [nprobe(8).selector(odd()), nprobe(64).selector(few())];
    for params in [nprobe(1), nprobe(8), everywhere(), bound].into_iter().chain(selected) {
        for query in queries.iter().take(10) {
            answers.push(bits(&reader.search(query, 10, &params).unwrap()));
            asked();
            answers.push(bits(&reader.range_search(query, 60_000.0, &params).unwrap()));
            asked();
        }
        answers.extend(all_bits(&reader.search_batch(queries, 10, &params).unwrap()));
        asked();
        answers.extend(all_bits(&reader.range_search_batch(queries, 50_000.0, &params).unwrap()));
        asked();
    }
    answers.push(reader.reconstruct(1).unwrap().iter().map(|v| (1, v.to_bits())).collect());
    answers
}

#[test]
fn a_twentieth_of_the_file_and_nothing_at_all() {
    a_twentieth_and_nothing("IVF64,SQfp16,RFlat");
}

/// The same of codes that stand in groups, and of rows kept in two stages.
#[test]
fn a_twentieth_of_nibbles_and_nothing_at_all() {
    a_twentieth_and_nothing("IVF64,Nibble2,RSQ8+Flat");
}

fn a_twentieth_and_nothing(text: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.vellum");
    let sample = Sample::load("sift-10k");
    let file_bytes = build_as(text, &path, &sample);
    let mut expected = None;
    for cache_bytes in [1 << 30, file_bytes as usize / 20, 0] {
        let store = Store::builder().cache_bytes(cache_bytes).open(&path).unwrap();
        assert_eq!(store.stats().cache_bytes, cache_bytes as u64);
        let mut most = 0;
        let reader = reader(&store, INDEX);
        for round in 0..2 {
            let answers = ask(&reader, &sample, &mut || {
                let pinned = store.stats().pinned_bytes;
                assert!(pinned <= cache_bytes as u64, "{pinned} pinned, {cache_bytes} allowed");
                most = most.max(pinned);
            });
            let expected = expected.get_or_insert_with(|| answers.clone());
            assert!(*expected == answers, "cache of {cache_bytes}, round {round}");
        }
        match cache_bytes {
            0 => assert_eq!(most, 0),
            // Held in memory are all codes and the kept rows asked for; or as much as fits, and that is used.
            large if large == 1 << 30 => assert!(most > file_bytes / 4, "{most} of {file_bytes}"),
            small => assert!(most > small as u64 / 4, "{most} of {small}"),
        }
        drop(reader);
        drop(store);
    }
}

/// The clock hand runs while others search: nobody's answer changes, and the sum of all pins stays within
/// the budget.
#[test]
fn many_threads_in_a_small_cache() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.vellum");
    let sample = Sample::load("sift-10k");
    let file_bytes = build(&path, &sample);
    let cache_bytes = file_bytes as usize / 20;
    let expected = {
        let store = Store::open(&path).unwrap();
        ask(&reader(&store, INDEX), &sample, &mut || {})
    };
    let store = Store::builder().cache_bytes(cache_bytes).open(&path).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let reader = reader(&store, INDEX);
                let answers =
                    ask(&reader, &sample, &mut || assert!(store.stats().pinned_bytes <= cache_bytes as u64));
                assert!(answers == expected);
            });
        }
    });
}

/// Readers of ten states at once, each with its own truth; pins of unchanged lists pass from one to the
/// next.
#[test]
fn readers_held_across_commits() {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::load("sift-10k");
    let queries = sample.queries().slice(0..20);
    let n = 3000;
    for (i, cache_bytes) in [1 << 30, 200_000, 0].into_iter().enumerate() {
        let store =
            Store::builder().cache_bytes(cache_bytes).create(folder.path().join(i.to_string())).unwrap();
        create(&store, INDEX, &spec("IVF32,Flat", sample.dim, Metric::L2).with_block_order(1));
        let mut oracle = Oracle::new(Metric::L2, Stored::F32);
        let ids = change(&store, INDEX, |writer| {
            train(writer, sample.base().slice(0..n));
            writer.add(sample.base().slice(0..n)).unwrap()
        });
        oracle.put_all(ids, sample.base());
        let mut held: Vec<(IndexReader<'static>, Oracle)> = Vec::new();
        for round in 0..10u64 {
            let reader = reader(&store, INDEX);
            reader.search_batch(queries, 10, &everywhere()).unwrap();
            held.push((reader, oracle.clone()));
            // A few lists change, most do not; once all move.
            let fresh = sample.base().slice(n + 10 * round as usize..n + 10 * round as usize + 10);
            let ids: Vec<u64> = (0..10).map(|i| round * 7 + i * 300).collect();
            change(&store, INDEX, |writer| {
                if round == 6 {
                    writer.train_stored(&TrainParams::default(), &mut Observer::none()).unwrap();
                }
                writer.upsert(&ids, fresh).unwrap();
                writer.remove_ids(&IdSelector::Array(vec![round * 11 + 1])).unwrap();
            });
            oracle.put_all(ids, fresh);
            oracle.vectors.remove(&(round * 11 + 1));
            for (reader, oracle) in &held {
                let found = reader.search_batch(queries.slice(0..3), 5, &everywhere()).unwrap();
                for (query, found) in queries.iter().zip(&found) {
                    assert_same(
                        found,
                        &oracle.all(query)[..5],
                        &format!("cache {cache_bytes}, round {round}"),
                    );
                }
                assert!(store.stats().pinned_bytes <= cache_bytes as u64);
            }
        }
        for (reader, oracle) in &held {
            assert_eq!(reader.ids().unwrap(), oracle.ids());
            let found = reader.search(queries.row(7), 100, &everywhere()).unwrap();
            assert_same(&found, &oracle.all(queries.row(7))[..100], "in the end");
        }
        assert_sound(&store, INDEX);
    }
}

/// Pins belong to their index: two indexes of one store under one small budget, asked in turns.
#[test]
fn two_indexes_share_a_budget() {
    let (dim, n) = (16, 2000);
    let cache_bytes = 60_000;
    let store = in_memory(Store::builder().cache_bytes(cache_bytes));
    let mut oracles = Vec::new();
    for (name, seed) in [("a", 96), ("b", 97)] {
        create(&store, name, &spec("IVF20,Flat", dim, Metric::L2).with_block_order(0));
        let data = integers(n, dim, 20, seed);
        oracles.push((name, change(&store, name, |writer| live_in(writer, rows(&data, dim)))));
    }
    let queries = integers(30, dim, 20, 98);
    for query in rows(&queries, dim).iter() {
        for (name, oracle) in &oracles {
            let found = reader(&store, name).search(query, 12, &everywhere()).unwrap();
            assert_same(&found, &oracle.all(query)[..12], name);
            assert!(store.stats().pinned_bytes <= cache_bytes as u64);
        }
    }
}

/// Dropped with the readers and the store's own memory of them, pins give everything back.
#[test]
fn what_was_pinned_is_given_back() {
    let dim = 16;
    let data = reals(2000, dim, 99);
    let store = memory();
    create(&store, "i", &spec("IVF20,Flat", dim, Metric::L2));
    change(&store, "i", |writer| live_in(writer, rows(&data, dim)));
    let held = reader(&store, "i");
    held.search(&data[..dim], 5, &everywhere()).unwrap();
    let pinned = store.stats().pinned_bytes;
    assert!(pinned > 64_000, "{pinned}");
    drop(held);
    // Compaction needs the store alone, so it lets go of what it remembers.
    store.compact().unwrap();
    assert_eq!(store.stats().pinned_bytes, 0);
    reader(&store, "i").search(&data[..dim], 5, &everywhere()).unwrap();
    assert_eq!(store.stats().pinned_bytes, pinned);
}

/// A commit takes from memory what it touched and no more, and what stays is what the file says: after each verb, a
/// store that has pinned everything answers as a copy that remembers nothing.
#[test]
fn pins_outlive_commits_that_did_not_touch_them() {
    let sample = Sample::load("sift-10k");
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("store"), folder.path().join("copy"));
    build(&path, &sample);
    let store = Store::open(&path).unwrap();
    let answers = |store: &Store| ask(&reader(store, INDEX), &sample, &mut || {});
    answers(&store);
    let all = store.stats().pinned_bytes;
    let new = sample.queries();
    type Verb<'a> = (&'a str, f64, &'a dyn Fn(&mut IndexWriter<'_>));
    // A row touches one or two of 64 lists and a page of each column.
    let verbs: [Verb<'_>; 5] = [
        ("add", 0.9, &|w| assert!(w.add(new.slice(0..1)).is_ok())),
        ("update", 0.9, &|w| w.update_vectors(&[5], new.slice(1..2)).unwrap()),
        ("remove", 0.9, &|w| assert!(w.remove_ids(&IdSelector::batch([7])).unwrap() > 0)),
        ("upsert", 0.9, &|w| assert!(w.upsert(&[9], new.slice(2..3)).is_ok())),
        ("remove many", 0.3, &|w| assert!(w.remove_ids(&IdSelector::Range(2000..2025)).unwrap() > 0)),
    ];
    let commit = |verb: &dyn Fn(&mut IndexWriter<'_>)| {
        let txn = store.begin_write().unwrap();
        verb(&mut txn.index(INDEX).unwrap());
        txn.commit().unwrap();
        store.stats().pinned_bytes
    };
    for (name, share, verb) in verbs {
        // Somebody has read since the last commit, so this one hands over a state with everything pinned.
        let handed = commit(&|w| assert!(w.add(new.slice(3..4)).is_ok()));
        assert!(handed as f64 >= 0.999 * all as f64, "{name}: {handed} of {all}");
        // Nobody has since, so this one does not; its pins are taken over when the next reader is opened.
        commit(verb);
        drop(reader(&store, INDEX));
        let kept = store.stats().pinned_bytes;
        assert!(kept as f64 >= share * all as f64 && kept < handed, "{name}: {kept} of {handed}");
        let told = answers(&store);
        store.backup(&copy, &mut Observer::none()).unwrap();
        let fresh = Store::builder().cache_bytes(0).open(&copy).unwrap();
        assert!(told == answers(&fresh), "{name}");
        drop(fresh);
        std::fs::remove_file(&copy).unwrap();
    }
}
