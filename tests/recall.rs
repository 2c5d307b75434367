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

/// Rows that neither training nor index sees: the last 25 of each 100, of which those at the edge are no queries either, as what
/// stood beside them is in the index. What a stretch finds it finds together: so the standard error is that of stretches.
struct Unseen {
    store: Store,
    /// Stretch after stretch.
    queries: Vec<f32>,
    truth: Vec<Vec<u64>>,
}

const EDGE: usize = 5;
const STRETCH: usize = 25 - 2 * EDGE;

impl Unseen {
    fn new(text: &str) -> Self {
        let sample = Sample::load("sift-10k");
        let (mut base, mut queries) = (Vec::new(), Vec::new());
        for part in sample.base.chunks(100 * sample.dim) {
            let (kept, out) = part.split_at(75 * sample.dim);
            base.extend_from_slice(kept);
            queries.extend_from_slice(&out[EDGE * sample.dim..(EDGE + STRETCH) * sample.dim]);
        }
        let base = rows(&base, sample.dim);
        let store = memory();
        create(&store, "flat", &IndexSpec::flat(sample.dim, Metric::L2));
        create(&store, "i", &spec(text, sample.dim, Metric::L2));
        change(&store, "flat", |writer| writer.add(base).unwrap());
        change(&store, "i", |writer| {
            train(writer, base);
            writer.add(base).unwrap();
        });
        let exact =
            reader(&store, "flat").search_batch(rows(&queries, sample.dim), 100, &SearchParams::new());
        let truth = exact.unwrap().iter().map(|found| found.iter().map(|n| n.id).collect()).collect();
        Unseen { store, queries, truth }
    }

    /// The mean recall, and its standard error.
    fn recall(&self, k: usize, params: &SearchParams) -> (f64, f64) {
        let index = reader(&self.store, "i");
        let found = index.search_batch(rows(&self.queries, index.dim()), k, params).unwrap();
        let hits: Vec<usize> = found
            .iter()
            .zip(&self.truth)
            .map(|(found, truth)| found.iter().filter(|n| truth[..k].contains(&n.id)).count())
            .collect();
        let part = |hits: &[usize]| hits.iter().sum::<usize>() as f64 / (k * hits.len()) as f64;
        let parts: Vec<f64> = hits.chunks(STRETCH).map(part).collect();
        let (n, mean) = (parts.len() as f64, part(&hits));
        let variance = parts.iter().map(|part| (part - mean).powi(2)).sum::<f64>() / (n - 1.0);
        (mean, (variance / n).sqrt())
    }

    /// Recall is what was asked for, up to .01 and three standard errors of both means, the calibration's and the one found here; or
    /// above it, where one list less would be below.
    fn check(&self, ks: &[usize]) {
        let index = reader(&self.store, "i");
        let calibration = index.calibration().unwrap();
        for &k in ks {
            for asked in [0.8, 0.9, 0.95, 0.99] {
                let (found, error) = self.recall(k, &target(asked));
                let queries = calibration.queries() as f64;
                // A hit of k is no surer than a hit of 1.
                let theirs = (asked * (1.0 - asked) / queries).sqrt();
                let sought = (2.0 * theirs - 0.01).max(0.0);
                let off = 0.01 + 3.0 * (error * error + theirs * theirs).sqrt();
                let (nprobe, rerank) = index.target_settings(k, asked).unwrap();
                let what = format!(
                    "{:?}, k = {k}: asked for {asked}, found {found} ± {error} with {nprobe} lists",
                    calibration.source()
                );
                assert!(off < 0.085, "{what}: nothing could be told");
                assert!(found >= asked - off, "{what}, allowed {off}");
                let plain = |nprobe| SearchParams::new().nprobe(nprobe).rerank(rerank.unwrap());
                let fewer = if nprobe > 1 { self.recall(k, &plain(nprobe - 1)).0 } else { 0.0 };
                assert!(found.min(fewer) <= asked + sought + off, "{what}, allowed {off}");
            }
        }
    }
}

/// As training calibrates, before there is a vector, and over what is stored; before and after the index has grown or shrunk.
#[test]
fn unseen_queries_find_what_was_asked_for() {
    let unseen = Unseen::new("IVF64,Nibble2,RU8");
    let source = || reader(&unseen.store, "i").calibration().unwrap().source();
    assert_eq!(source(), CalibrationSource::Training);
    unseen.check(&[1, 10, 100]);
    let params = CalibrateParams { queries: 2000, ks: vec![1, 10, 100], ..CalibrateParams::default() };
    let calibration = unseen.store.calibrate("i", &params, &mut Observer::none()).unwrap();
    assert_eq!(source(), CalibrationSource::Stored);
    assert_eq!(calibration.rows(), 7500);
    unseen.check(&[1, 5, 100]);
}

/// Calibrated over a third of the vectors, with three times as many in the index: nothing else is known of growth than what the
/// method says.
#[test]
fn an_index_that_grew_finds_what_was_asked_for() {
    let mut unseen = Unseen::new("IVF64,Nibble2,RU8");
    let all = reader(&unseen.store, "i");
    let ids = all.ids().unwrap();
    let vectors = all.reconstruct_batch(&ids).unwrap();
    let dim = all.dim();
    let store = memory();
    create(&store, "i", &spec("IVF64,Nibble2,RU8", dim, Metric::L2));
    let some: Vec<f32> = vectors.chunks(dim).step_by(3).flatten().copied().collect();
    change(&store, "i", |writer| {
        train(writer, rows(&some, dim));
        writer.add(rows(&vectors, dim)).unwrap();
    });
    drop(all);
    let grown = reader(&store, "i");
    let calibration = grown.calibration().unwrap();
    assert_eq!((calibration.rows(), calibration.is_stale(grown.len())), (2500, true));
    drop(grown);
    unseen.store = store;
    unseen.check(&[10, 100]);
}

/// It is the settings that are said, and nothing else; the more is asked for, the more lists.
#[test]
fn what_is_said_is_what_is_done() {
    let (store, sample) = sift("IVF64,Nibble2,RU8");
    let params = CalibrateParams { queries: 2000, ks: vec![10], ..CalibrateParams::default() };
    let calibration = store.calibrate("i", &params, &mut Observer::none()).unwrap();
    assert_eq!((calibration.rows(), calibration.ks()), (10_000, vec![10]));
    // Fewer than may be, as they are sure enough.
    assert!((1024..2000).contains(&calibration.queries()), "{}", calibration.queries());
    let reader = reader(&store, "i");
    let mut last = 0;
    for asked in [0.7, 0.8, 0.9, 0.95, 0.99] {
        let found = reader.search_batch(sample.queries(), 10, &target(asked)).unwrap();
        let (nprobe, rerank) = reader.target_settings(10, asked).unwrap();
        assert_eq!(calibration.settings(10, asked, 10_000).unwrap(), (nprobe, rerank));
        assert!(nprobe >= last, "{asked}");
        last = nprobe;
        let plain = SearchParams::new().nprobe(nprobe).rerank(rerank.unwrap());
        let plain = reader.search_batch(sample.queries(), 10, &plain).unwrap();
        assert_eq!(all_bits(&plain), all_bits(&found));
    }
}

/// Threads have no say: neither in what training calibrates nor in what is measured later.
#[test]
fn threads_change_nothing() {
    let sample = Sample::load("sift-10k");
    let some = sample.base().slice(0..3000);
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let store = in_memory(Store::builder().thread_pool(std::sync::Arc::new(pool)));
        create(&store, "i", &spec("IVF24,Nibble2,RU8", sample.dim, Metric::L2));
        change(&store, "i", |writer| {
            train(writer, some);
            writer.add(some).unwrap();
        });
        let first = reader(&store, "i").calibration().unwrap().clone();
        (first, store.calibrate("i", &few(), &mut Observer::none()).unwrap())
    };
    assert_eq!(with(1), with(3));
}

/// Every point that was measured is what searches with these settings find, by brute force over the same queries: measuring takes a
/// way of its own.
#[test]
fn what_was_measured_is_what_brute_force_counts() {
    let sample = Sample::load("text-2k");
    for (text, metric) in [
        ("IVF24,Flat", Metric::Cosine),
        ("IVF24_SOAR,Nibble1,RF16", Metric::InnerProduct),
        ("IVF24,SQfp16", Metric::L2),
        ("IVF24,Nibble1,RFlat", Metric::L2),
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
        let truth: Vec<Vec<Exact>> = queries.iter().map(|query| oracle.all(query)[..3].to_vec()).collect();
        let points = measured.measured(3);
        assert!(points.len() > 5 && measured.measured(4).is_empty(), "{text}: {points:?}");
        for (nprobe, rerank, recall) in points {
            let mut params = SearchParams::new().nprobe(nprobe);
            if let Some(rows) = rerank {
                params = params.rerank(rows);
            }
            let found = reader.search_batch(queries, 3, &params).unwrap();
            let hits = found
                .iter()
                .zip(&truth)
                .map(|(found, truth)| found.iter().filter(|n| truth.iter().any(|t| t.id == n.id)).count());
            let counted = hits.sum::<usize>() as f64 / (3 * queries.len()) as f64;
            assert_eq!(counted, recall, "{text}: {nprobe} lists, {rerank:?} rows");
        }
        for asked in [0.5, 0.8, 0.9] {
            let (nprobe, rerank) = measured.settings(3, asked, 2000).unwrap();
            let at_least =
                measured.measured(3).into_iter().filter(|point| point.0 >= nprobe && point.1 == rerank);
            assert!(at_least.into_iter().all(|point| point.2 >= asked), "{text}: {asked}");
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
    let source = || reader(&store, "i").calibration().map(Calibration::source);
    assert_eq!(source(), Some(CalibrationSource::Training));
    assert_eq!(asked(&store).unwrap().len(), 10);
    let none = TrainParams { calibration_queries: Some(0), ..TrainParams::default() };
    change(&store, "i", |writer| writer.train_stored(&none, &mut Observer::none()).unwrap());
    assert_eq!(source(), None);
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
        assert_eq!(writer.reader().calibration().unwrap().source(), CalibrationSource::Training);
        // Lists come out as they were only if nothing was removed.
        assert!(matches!(writer.set_calibration(&made), Err(Error::Incompatible { .. })));
    });
    assert_eq!(asked(&store).unwrap().len(), 10);
    assert_sound(&store, "i");
}

/// A calibration belongs to the transaction of its training.
#[test]
fn a_training_that_is_aborted_leaves_the_calibration_of_before() {
    let (store, sample) = sift("IVF16,Nibble2,RU8");
    let made = store.calibrate("i", &few(), &mut Observer::none()).unwrap();
    let txn = store.begin_write().unwrap();
    let mut writer = txn.index("i").unwrap();
    train(&mut writer, sample.base());
    assert_eq!(writer.reader().calibration().unwrap().source(), CalibrationSource::Training);
    drop(writer);
    txn.abort().unwrap();
    assert_eq!(reader(&store, "i").calibration(), Some(&made));
    // To break off while it is measured changes nothing, either.
    let txn = store.begin_write().unwrap();
    let mut writer = txn.index("i").unwrap();
    let mut stop = |tick: Tick| match tick.stage {
        "calibrate" => std::ops::ControlFlow::Break(()),
        _ => std::ops::ControlFlow::Continue(()),
    };
    let stopped = writer.train(sample.base(), &TrainParams::default(), &mut Observer::new(&mut stop));
    assert!(matches!(stopped, Err(Error::Cancelled)) && !writer.is_poisoned());
    assert_eq!(writer.reader().calibration(), Some(&made));
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
        measured.settings(1, 0.9, 10_000).unwrap(),
        measured.settings(5, 0.9, 10_000).unwrap(),
        measured.settings(10, 0.9, 10_000).unwrap(),
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

/// Codes that are estimates know no truth, and do not have what they are asked for.
#[test]
fn what_is_not_known_or_not_reached_is_an_error() {
    let (store, _) = sift("IVF16,PQ8");
    refused(store.calibrate("i", &few(), &mut Observer::none()), "calibrate");
    // Training has the vectors themselves: what estimates have, they have.
    let (query, estimates) = (Sample::load("sift-10k").queries().row(0).to_vec(), reader(&store, "i"));
    assert_eq!(estimates.search(&query, 10, &target(0.2)).unwrap().len(), 10);
    refused(estimates.search(&query, 10, &target(0.99)), "target_recall");
    let (store, sample) = sift("IVF16,Nibble1,RU8");
    let params = CalibrateParams { queries: 400, ks: vec![10], ..few() };
    let measured = store.calibrate("i", &params, &mut Observer::none()).unwrap();
    let most = measured.measured(10).iter().map(|point| point.2).fold(0.0, f64::max);
    assert!(measured.settings(10, most, 10_000).is_ok());
    let reader = reader(&store, "i");
    assert_eq!(reader.search(sample.queries().row(0), 10, &target(0.3)).unwrap().len(), 10);
}
