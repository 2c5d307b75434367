//! Worry: a search that was asked for a recall and does not have it, because the table of settings was measured wrongly (a
//! query found itself, the truth was not over what is stored), because it is of another training, or because it was lost or
//! believed when it should not be.
//!
//! Noticed by brute force over queries that calibrating has not seen, by measuring again with the queries it has seen, and
//! by asking in every way that must be refused.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use support::*;
use vellum::*;

fn target(recall: f64) -> SearchParams {
    SearchParams::new().target_recall(recall)
}

fn few() -> CalibrateParams {
    CalibrateParams { queries: 600, ks: vec![1, 10], ..CalibrateParams::default() }
}

fn sift(text: &str) -> (Store, Sample) {
    let sample = Sample::load("sift-10k");
    let store = memory();
    create(&store, "i", &spec(text, sample.dim, Metric::L2));
    change(&store, "i", |writer| {
        train(writer, sample.base());
        writer.add(sample.base()).unwrap();
    });
    (store, sample)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T>, expected: &str) {
    match answer {
        Err(Error::Parameter { name, .. }) => assert_eq!(name, expected),
        other => panic!("{other:?}"),
    }
}

/// The sample has 200 queries, so their own recall is known to .02 or so; `benches/recall.rs` has thousands.
#[test]
fn unseen_queries_find_what_was_asked_for() {
    let (store, sample) = sift("IVF64,Nibble2,RU8");
    let params = CalibrateParams { queries: 2000, ks: vec![10], ..CalibrateParams::default() };
    let calibration = store.calibrate("i", &params, &mut Observer::none()).unwrap();
    assert_eq!((calibration.rows(), calibration.queries(), calibration.ks()), (10_000, 2000, vec![10]));
    let reader = reader(&store, "i");
    let mut last = 0;
    for asked in [0.7, 0.8, 0.9, 0.95, 0.99] {
        let found = reader.search_batch(sample.queries(), 10, &target(asked)).unwrap();
        let recall = sample.recall(&found, 10);
        assert!((recall - asked).abs() < 0.06, "asked for {asked}, found {recall}");
        let (nprobe, rerank) = reader.calibration().unwrap().settings(10, asked).unwrap();
        assert!(nprobe >= last, "{asked}");
        last = nprobe;
        // It is those settings, and nothing else.
        let plain = SearchParams::new().nprobe(nprobe).rerank(rerank.unwrap());
        let plain = reader.search_batch(sample.queries(), 10, &plain).unwrap();
        assert_eq!(all_bits(&plain), all_bits(&found));
    }
}

/// With its own queries a table must be right, not nearly right: at a point that was measured the recall is the one
/// that brute force counts.
#[test]
fn what_was_measured_is_what_brute_force_counts() {
    let sample = Sample::load("text-2k");
    for (text, metric) in [
        ("IVF24,Flat", Metric::Cosine),
        ("IVF24_SOAR,Nibble1,RF16", Metric::InnerProduct),
        ("IVF24,SQfp16", Metric::L2),
    ] {
        let store = memory();
        create(&store, "i", &spec(text, sample.dim, metric));
        change(&store, "i", |writer| {
            writer.add(sample.base()).unwrap();
            writer.train_stored(&TrainParams::default(), &mut Observer::none()).unwrap();
        });
        let reader = reader(&store, "i");
        let params = CalibrateParams { ks: vec![3], ..CalibrateParams::default() };
        let queries = sample.queries();
        let measured = reader.calibrate_with(queries, &params, &mut Observer::none()).unwrap();
        let ids = reader.ids().unwrap();
        let mut oracle = Oracle::new(metric, Stored::F32);
        let stored = reader.reconstruct_batch(&ids).unwrap();
        oracle.put_all(ids, rows(&stored, sample.dim));
        for asked in [0.5, 0.8, 0.9] {
            let (nprobe, rerank) = measured.settings(3, asked).unwrap();
            let mut params = SearchParams::new().nprobe(nprobe);
            if let Some(rows) = rerank {
                params = params.rerank(rows);
            }
            let found = reader.search_batch(queries, 3, &params).unwrap();
            let hits = queries.iter().zip(&found).map(|(query, found)| {
                let truth = oracle.all(query);
                found.iter().filter(|n| truth[..3].iter().any(|t| t.id == n.id)).count()
            });
            let recall = hits.sum::<usize>() as f64 / (3 * queries.len()) as f64;
            // Between two points the curve is not straight, and one list may be more than enough.
            assert!(recall > asked - 0.06, "{text}: asked for {asked}, found {recall}");
            assert!(nprobe == 1 || recall < asked + 0.06, "{text}: asked for {asked}, found {recall}");
        }
    }
}

#[test]
fn settings_last_until_the_next_training() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recall.vellum");
    let data = integers(1000, 6, 30, 91);
    let data = rows(&data, 6);
    let store = Store::create(&path).unwrap();
    create(&store, "i", &spec("IVF12,Nibble2,RFlat", 6, Metric::L2));
    let refused = reader(&store, "i").calibrate(&few(), &mut Observer::none());
    assert!(matches!(refused, Err(Error::TooFewRows { rows: 0, needed: 20 })));
    change(&store, "i", |writer| {
        writer.add(data).unwrap();
        writer.train_stored(&TrainParams::default(), &mut Observer::none()).unwrap();
    });
    let asked = |store: &Store| reader(store, "i").search(data.row(0), 10, &target(0.9));
    assert!(matches!(asked(&store), Err(Error::NotCalibrated { .. })));
    // A writer's own, and what stores keep in memory of the index notices.
    let made = change(&store, "i", |writer| writer.calibrate(&few(), &mut Observer::none()).unwrap());
    assert_eq!(reader(&store, "i").calibration(), Some(&made));
    let answer = bits(&asked(&store).unwrap());
    assert_sound(&store, "i");
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(reader(&store, "i").calibration(), Some(&made));
    assert_eq!(bits(&asked(&store).unwrap()), answer);
    // From the reader's state, the same.
    assert_eq!(reader(&store, "i").calibrate(&few(), &mut Observer::none()).unwrap(), made);
    change(&store, "i", |writer| {
        writer.remove_ids(&IdSelector::range(0..100)).unwrap();
        writer.set_calibration(&made).unwrap();
        writer.train_stored(&TrainParams::default(), &mut Observer::none()).unwrap();
        assert!(writer.reader().calibration().is_none());
        // Lists come out as they were only if nothing was removed.
        assert!(matches!(writer.set_calibration(&made), Err(Error::Incompatible { .. })));
    });
    assert!(matches!(asked(&store), Err(Error::NotCalibrated { .. })));
    assert_sound(&store, "i");
}

#[test]
fn nothing_to_calibrate_needs_no_calibration() {
    let data = integers(300, 4, 9, 92);
    for text in ["Flat", "IVF8,Nibble2", "IVF8,Flat", "Auto"] {
        let store = memory();
        create(&store, "i", &spec(text, 4, Metric::L2));
        let mut oracle = Oracle::new(Metric::L2, Stored::F32);
        let ids = change(&store, "i", |writer| writer.add(rows(&data, 4)).unwrap());
        oracle.put_all(ids, rows(&data, 4));
        let found = reader(&store, "i").search(&data[..4], 20, &target(1.0)).unwrap();
        assert_same(&found, &oracle.all(&data[..4])[..20], text);
    }
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let (store, sample) = sift("IVF16,Nibble2,RU8");
    let query = sample.queries().row(0).to_vec();
    let measured = store.calibrate("i", &few(), &mut Observer::none()).unwrap();
    let reader = reader(&store, "i");
    for params in [
        target(0.9).nprobe(3),
        target(0.9).rerank(30),
        target(0.9).max_codes(100),
        target(0.9).max_lists(3),
        target(0.0),
        target(-0.5),
        target(1.01),
        target(f64::NAN),
    ] {
        refused(reader.search(&query, 10, &params), "target_recall");
    }
    refused(reader.search(&query, 11, &target(0.9)), "target_recall");
    refused(reader.search(&query, 0, &target(0.9)), "k");
    refused(reader.range_search(&query, 1e9, &target(0.9)), "target_recall");
    let lists = reader.probe(rows(&query, sample.dim), 3).unwrap();
    let chosen = reader.search_preassigned(rows(&query, sample.dim), &lists, 5, &target(0.9));
    refused(chosen, "target_recall");
    change(&store, "i", |writer| refused(writer.set_search_defaults(&target(0.9)), "target_recall"));
    // k = 5 lies between what was measured.
    let (low, between, high) = (
        measured.settings(1, 0.9).unwrap(),
        measured.settings(5, 0.9).unwrap(),
        measured.settings(10, 0.9).unwrap(),
    );
    assert!(low.0.min(high.0) <= between.0 && between.0 <= low.0.max(high.0), "{low:?} {between:?} {high:?}");
    assert_eq!(reader.search(&query, 5, &target(0.9)).unwrap().len(), 5);

    let calibrate = |params: CalibrateParams| reader.calibrate(&params, &mut Observer::none());
    refused(calibrate(CalibrateParams { queries: 0, ..few() }), "queries");
    refused(calibrate(CalibrateParams { ks: vec![], ..few() }), "ks");
    refused(calibrate(CalibrateParams { ks: vec![3, 0], ..few() }), "ks");
    let many = CalibrateParams { ks: vec![6000], ..few() };
    assert!(matches!(calibrate(many), Err(Error::TooFewRows { rows: 10_000, needed: 12_000 })));
    let mut stop = |_| std::ops::ControlFlow::Break(());
    let stopped = reader.calibrate(&few(), &mut Observer::new(&mut stop));
    assert!(matches!(stopped, Err(Error::Cancelled)));
}

/// Codes that are estimates know no truth; those of one bit a component do not have what they are asked for however many are
/// scored again.
#[test]
fn what_is_not_known_or_not_reached_is_an_error() {
    let (store, _) = sift("IVF16,PQ8");
    refused(store.calibrate("i", &few(), &mut Observer::none()), "calibrate");
    let (store, sample) = sift("IVF16,Nibble1,RU8");
    let params = CalibrateParams { queries: 400, ks: vec![10], ..few() };
    let measured = store.calibrate("i", &params, &mut Observer::none()).unwrap();
    refused(measured.settings(10, 1.0), "target_recall");
    let reader = reader(&store, "i");
    refused(reader.search(sample.queries().row(0), 10, &target(1.0)), "target_recall");
    assert_eq!(reader.search(sample.queries().row(0), 10, &target(0.3)).unwrap().len(), 10);
}
