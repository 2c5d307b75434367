//! Worry: an index that chooses by itself and loses something on the way (a vector that came with the add that trained it,
//! the answer of a verb that worked before), trains when it was told not to, trains half, or says something else than what it
//! did.
//!
//! Noticed by brute force before and after the threshold, by verifying after each step, by aborting, and by an observer that
//! breaks off. The least threshold there is, 8,400 vectors, takes 656 components: they are few different numbers, so that
//! ties abound and distances are exact.
#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod support;

use std::ops::ControlFlow;
use support::*;
use vellum::*;

const DIM: usize = 656;
const FROM: usize = 8_400;

/// Vectors in 40 clusters.
fn clustered(n: usize, seed: u64) -> Vec<f32> {
    let centres = integers(40, DIM, 9, 7);
    let mut random = Random::new(seed);
    let mut data = Vec::with_capacity(n * DIM);
    for _ in 0..n {
        let centre = random.below(40);
        data.extend(centres[centre * DIM..][..DIM].iter().map(|c| c + random.below(3) as f32));
    }
    data
}

#[test]
fn it_trains_when_lists_pay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("auto.vellum");
    let store = Store::create(&path).unwrap();
    create(&store, "i", &IndexSpec::auto(DIM, None, Metric::L2));
    let data = clustered(FROM + 20, 1);
    let all = rows(&data, DIM);
    let mut oracle = Oracle::new(Metric::L2, Stored::F32);
    let (before, last) = (all.slice(0..FROM - 1), all.slice(FROM - 1..FROM));

    // Brute force while there are few.
    oracle.put_all(change(&store, "i", |writer| writer.add(before).unwrap()), before);
    let small = reader(&store, "i");
    let report = small.auto().unwrap();
    assert_eq!((report.rows, report.lists, report.next_rows), (8_399, None, Some(8_400)));
    assert!(report.by_itself && !report.is_due());
    assert!(report.to_string().starts_with("brute force over 8399 vectors: lists pay from 8400 on"));
    assert_eq!(small.spec().to_string(), "Auto(IVF215,Nibble1,RSQ8+Flat)");
    assert!(small.spec().is_auto() && !small.is_trained());
    let query = all.row(17);
    let expected = oracle.all(query);
    assert_same(&small.search(query, 10, &SearchParams::new()).unwrap(), &expected[..10], "brute force");
    assert_eq!(small.stats().unwrap().auto, Some(report));

    // Whoever breaks off has the vector, and no lists.
    let txn = store.begin_write().unwrap();
    let mut writer = txn.index("i").unwrap();
    let mut stages = Vec::new();
    let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let tell = told.clone();
    writer.observe_auto_train(move |tick| {
        tell.lock().unwrap().push(tick.stage);
        ControlFlow::Break(())
    });
    writer.add(last).unwrap();
    stages.append(&mut told.lock().unwrap());
    assert_eq!(stages, ["train"]);
    assert!(!writer.reader().is_trained() && writer.len() == FROM as u64 && !writer.is_poisoned());
    assert!(writer.reader().auto().unwrap().is_due());
    drop(writer);
    txn.abort().unwrap();

    // So has who does not want the pause.
    let txn = store.begin_write().unwrap();
    let mut writer = txn.index("i").unwrap();
    writer.auto_train(false);
    writer.add(last).unwrap();
    assert!(!writer.reader().is_trained());
    assert!(writer.reader().auto().unwrap().to_string().contains("; due, train_stored makes 215"));
    drop(writer);
    txn.abort().unwrap();

    // The add that reaches the threshold trains, in its transaction.
    let ids = change(&store, "i", |writer| {
        let ids = writer.add(last).unwrap();
        assert!(writer.reader().is_trained());
        ids
    });
    assert_eq!(ids, 8_399..8_400);
    oracle.put_all(ids, last);
    assert!(!small.is_trained(), "a reader keeps its state");
    assert_sound(&store, "i");
    drop(small);
    drop(store);

    let store = Store::open(&path).unwrap();
    let large = reader(&store, "i");
    assert_eq!(large.spec().to_string(), "Auto(IVF215,Nibble1,RSQ8+Flat)");
    let report = large.auto().unwrap();
    assert_eq!((report.rows, report.lists), (8_400, Some(215)));
    assert!(report.next_rows.unwrap() > 8_400 && report.next_lists > 215, "{report}");
    let everything = everywhere().rerank(FROM);
    for query in [all.row(0), all.row(FROM - 1)] {
        // 8 bits a component choose among those that f32 then puts in order: the ids of near ties may differ.
        let found = large.search(query, 1, &everything).unwrap();
        assert_same(&found, &oracle.all(query)[..1], "all lists");
    }
    drop(large);

    // All verbs go on.
    let rest = all.slice(FROM..FROM + 20);
    change(&store, "i", |writer| {
        let ids: Vec<u64> = (20_000..20_020).collect();
        assert_eq!(writer.upsert(&ids, rest).unwrap(), 20);
        oracle.put_all(ids.clone(), rest);
        writer.update_vectors(&[0], all.slice(5..6)).unwrap();
        oracle.put(0, all.row(5));
        assert_eq!(writer.remove_ids(&IdSelector::range(1..101)).unwrap(), 100);
        (1..101).for_each(|id| drop(oracle.vectors.remove(&id)));
    });
    assert_sound(&store, "i");
    let large = reader(&store, "i");
    assert_eq!(large.ids().unwrap(), oracle.ids());
    assert_eq!(large.reconstruct(0).unwrap(), all.row(5));
    let found = large.search(all.row(5), 1, &SearchParams::new()).unwrap();
    assert_same(&found, &oracle.all(all.row(5))[..1], "a vector that replaced another");
}

#[test]
fn bulk_loads_train_at_their_end() {
    let store = in_memory(Store::builder().load_bytes(4 * DIM * 3_000));
    create(&store, "i", &IndexSpec::auto(DIM, None, Metric::InnerProduct));
    let data = clustered(FROM, 2);
    let mut load = store.bulk_load("i").unwrap();
    load.add(rows(&data, DIM)).unwrap();
    load.finish().unwrap();
    let reader = reader(&store, "i");
    assert_eq!(reader.spec().to_string(), "Auto(IVF215,Nibble1,RSQ8+Flat)");
    assert_eq!((reader.nlist(), reader.len(), reader.auto().unwrap().lists), (215, 8_400, Some(215)));
    assert_sound(&store, "i");
}

#[test]
fn a_sample_or_the_application_trains_it_earlier() {
    let data = integers(500, 12, 9, 3);
    let data = rows(&data, 12);
    for (text, metric, chosen) in [
        ("Auto", Metric::Cosine, "Auto(IVF12,Nibble2,RSQ8+Flat)"),
        ("Auto(Nibble2,RU8)", Metric::L2, "Auto(IVF12,Nibble2,RU8)"),
        ("Auto(SQfp16)", Metric::InnerProduct, "Auto(IVF12,SQfp16)"),
        ("Auto70", Metric::L1, "Auto70(IVF12,Flat)"),
    ] {
        let store = memory();
        create(&store, "i", &spec(text, 12, metric));
        assert_eq!(reader(&store, "i").nlist(), 1);
        change(&store, "i", |writer| {
            writer.add(data).unwrap();
            // 500 vectors make 12 lists.
            writer.train_stored(&TrainParams::default(), &mut Observer::none()).unwrap();
        });
        assert_eq!(reader(&store, "i").spec().to_string(), chosen);
        assert_sound(&store, "i");
        create(&store, "sampled", &spec(text, 12, metric));
        change(&store, "sampled", |writer| {
            train(writer, data);
            writer.add(data).unwrap();
        });
        assert_eq!(reader(&store, "sampled").spec().to_string(), chosen);
        assert_sound(&store, "sampled");
        let found = reader(&store, "sampled").search(data.row(3), 1, &everywhere()).unwrap();
        assert_eq!(found.len(), 1);
        // Lists of the application's own number.
        change(&store, "i", |writer| {
            writer
                .train_with_centroids(data.slice(0..5), data, &TrainParams::default(), &mut Observer::none())
                .unwrap();
        });
        assert_eq!(reader(&store, "i").nlist(), 5);
        assert_sound(&store, "i");
    }
    assert!(reader_of_plain().auto().is_none());
}

fn reader_of_plain() -> IndexReader<'static> {
    let store = memory();
    create(&store, "i", &spec("IVF4,Flat", 3, Metric::L2));
    reader(&store, "i")
}
