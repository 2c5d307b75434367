//! Worry: a coarse quantizer of the caller's finds other lists than rows went to, answers that depend on it, or an index that is opened without it,
//! or with another one, and searches the wrong lists.
//!
//! Noticed by giving vellum a quantizer that does what its own does: all verbs must then answer bit for bit alike. Quantizers that are missing,
//! different or wrong must be typed errors.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use support::*;
use vellum::*;

const DIM: usize = 8;
const NLIST: usize = 12;

/// Nearest centroids by squared distance, in f64, ties to the lower list; or what a test makes of it.
struct Own {
    name: &'static str,
    fingerprint: u64,
    centroids: Vec<f32>,
    dim: usize,
    /// Lists that it names of those that are asked for.
    most: usize,
    wrong: Option<u32>,
    asked: AtomicUsize,
}

impl Own {
    fn new(centroids: Vec<f32>) -> Self {
        let (most, asked) = (usize::MAX, AtomicUsize::new(0));
        Own { name: "own", fingerprint: 1, centroids, dim: DIM, most, wrong: None, asked }
    }
}

impl Quantizer for Own {
    fn name(&self) -> &str {
        self.name
    }
    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
    fn dim(&self) -> usize {
        self.dim
    }
    fn nlist(&self) -> usize {
        self.centroids.len() / self.dim
    }
    fn centroid(&self, list: u32, centroid: &mut [f32]) {
        centroid.copy_from_slice(&self.centroids[list as usize * self.dim..][..self.dim]);
    }
    fn nearest(&self, queries: Rows<'_>, nprobe: usize, lists: &mut [u32]) -> Result<()> {
        self.asked.fetch_add(queries.len(), Relaxed);
        for (query, lists) in queries.iter().zip(lists.chunks_exact_mut(nprobe)) {
            let far = |c: &[f32]| -> f64 { c.iter().zip(query).map(|(c, q)| f64::from(c - q).powi(2)).sum() };
            let mut all: Vec<(f64, u32)> = self.centroids.chunks(self.dim).map(far).zip(0..).collect();
            all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            for (place, (_, list)) in lists.iter_mut().zip(all).take(self.most) {
                *place = self.wrong.unwrap_or(list);
            }
        }
        Ok(())
    }
}

/// Whole numbers, so that every arithmetic finds the same order: centroids, rows, queries.
fn numbers(seed: u64) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    (integers(NLIST, DIM, 9, seed), integers(500, DIM, 9, seed + 1), integers(40, DIM, 9, seed + 2))
}

/// All lists: the answers are those of brute force.
fn assert_exhaustive(reader: &IndexReader<'_>, data: &[f32], queries: &[f32]) {
    let mut oracle = Oracle::new(Metric::L2, Stored::F32);
    oracle.put_all(0.., rows(data, DIM));
    for query in queries.chunks(DIM) {
        let found = reader.search(query, 10, &nprobe(NLIST)).unwrap();
        assert_same(&found, &oracle.all(query)[..10], "all lists");
    }
}

fn store_with(quantizers: Vec<Own>) -> Store {
    let builder = quantizers.into_iter().fold(Store::builder(), |b, q| b.quantizer(Arc::new(q)).unwrap());
    in_memory(builder)
}

#[test]
fn a_quantizer_that_does_what_vellums_does_has_its_answers() {
    for (codes, metric) in [("Flat", Metric::L2), ("SQ8", Metric::L2), ("SQfp16,RFlat", Metric::L2)] {
        let (centroids, data, queries) = numbers(1);
        let store = store_with(vec![Own::new(centroids.clone())]);
        for (name, how) in [("own", "(own:own)"), ("flat", "(Flat)")] {
            create(&store, name, &spec(&format!("IVF{NLIST}{how},{codes}"), DIM, metric));
        }
        change(&store, "flat", |writer| {
            let centroids = rows(&centroids, DIM);
            writer
                .train_with_centroids(
                    centroids,
                    rows(&data, DIM),
                    &TrainParams::default(),
                    &mut Observer::none(),
                )
                .unwrap();
            writer.add(rows(&data, DIM)).unwrap();
        });
        // Rows before training move to the quantizer's lists with it.
        change(&store, "own", |writer| {
            writer.add(rows(&data[..200 * DIM], DIM)).unwrap();
            train(writer, rows(&data, DIM));
            writer.add(rows(&data[200 * DIM..], DIM)).unwrap();
        });
        for name in ["own", "flat"] {
            change(&store, name, |writer| {
                writer.remove_ids(&IdSelector::range(30..60)).unwrap();
                writer.update_vectors(&[5, 6], rows(&data[100 * DIM..102 * DIM], DIM)).unwrap();
            });
            assert_sound(&store, name);
        }
        let (own, flat) = (reader(&store, "own"), reader(&store, "flat"));
        assert_eq!(own.centroids().unwrap().as_slice(), centroids);
        let queries = rows(&queries, DIM);
        assert_eq!(own.assign(queries).unwrap(), flat.assign(queries).unwrap());
        for n in [1, 3, NLIST] {
            assert_eq!(own.probe(queries, n).unwrap(), flat.probe(queries, n).unwrap());
            for mode in [ParallelMode::Queries, ParallelMode::Lists, ParallelMode::Pairs] {
                let params = nprobe(n).parallel_mode(mode);
                let [a, b] = [&own, &flat].map(|r| r.search_batch(queries, 7, &params).unwrap());
                assert_eq!(all_bits(&a), all_bits(&b), "{codes} {n}");
            }
            let [a, b] = [&own, &flat].map(|r| r.range_search(queries.row(0), 60.0, &nprobe(n)).unwrap());
            assert_eq!(a, b);
        }
        assert_eq!(own.encode(queries).unwrap(), flat.encode(queries).unwrap());
        assert_eq!(own.reconstruct(77).unwrap(), flat.reconstruct(77).unwrap());
        let query = own.prepare_query(queries.row(3)).unwrap();
        assert_eq!(query.probe(4).unwrap(), flat.prepare_query(queries.row(3)).unwrap().probe(4).unwrap());
    }
}

#[test]
fn lists_that_it_does_not_name_are_filled_up_so_that_all_are_all() {
    let (centroids, data, queries) = numbers(4);
    let store = store_with(vec![Own { most: 2, ..Own::new(centroids) }]);
    create(&store, "i", &spec("IVF12(own:own),Flat", DIM, Metric::L2));
    change(&store, "i", |writer| {
        train(writer, rows(&data, DIM));
        writer.add(rows(&data, DIM)).unwrap();
    });
    let reader = reader(&store, "i");
    let probes = reader.probe(rows(&queries, DIM), NLIST).unwrap();
    for query in 0..probes.len() {
        let mut lists = probes.lists(query).to_vec();
        assert!(lists[2..].is_sorted());
        lists.sort_unstable();
        assert!(lists.iter().copied().eq(0..NLIST as u32));
    }
    assert_exhaustive(&reader, &data, &queries);
}

#[test]
fn an_index_that_needs_one_is_not_opened_without_it_or_with_another() {
    let (centroids, data, _) = numbers(7);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v");
    let with = |quantizer: Option<Own>| match quantizer {
        Some(quantizer) => Store::builder().quantizer(Arc::new(quantizer)).unwrap(),
        None => Store::builder(),
    };
    let store = with(Some(Own::new(centroids.clone()))).create(&path).unwrap();
    create(&store, "i", &spec("IVF12(own:own),PQ4", DIM, Metric::L2));
    change(&store, "i", |writer| {
        train(writer, rows(&data, DIM));
        writer.add(rows(&data, DIM)).unwrap();
    });
    let before = reader(&store, "i").search(&data[..DIM], 5, &nprobe(3)).unwrap();
    drop(store);
    let mut moved = centroids.clone();
    moved[3] += 1.0;
    let more: Vec<f32> = [&centroids[..], &centroids[..DIM]].concat();
    for (quantizer, word) in [
        (None, "none of that name"),
        (Some(Own { name: "other", ..Own::new(centroids.clone()) }), "none of that name"),
        (Some(Own { fingerprint: 2, ..Own::new(centroids.clone()) }), "fingerprints [2]"),
        (Some(Own::new(more)), "13 lists"),
        (Some(Own { dim: DIM / 2, ..Own::new(centroids.clone()) }), "of dimension 4"),
        (Some(Own::new(moved)), "the centroid of list 0"),
    ] {
        let store = with(quantizer).open(&path).unwrap();
        let read = store.begin_read().unwrap();
        for refused in [read.index("i").map(|_| ()), store.begin_write().unwrap().index("i").map(|_| ())] {
            match refused {
                Err(Error::Quantizer { name, what }) => {
                    assert!(name == "own" && what.contains(word), "{name}: {what}");
                }
                other => panic!("{other:?}"),
            }
        }
        // What is stored can be looked at without it.
        assert!(read.verify("i", &mut Observer::none()).unwrap().is_ok());
    }
    let store = with(None).open(&path).unwrap();
    store.add_quantizer(Arc::new(Own::new(centroids))).unwrap();
    assert_eq!(reader(&store, "i").search(&data[..DIM], 5, &nprobe(3)).unwrap(), before);
}

#[test]
fn a_later_one_takes_over_with_the_next_training() {
    let (centroids, data, queries) = numbers(10);
    let other = integers(NLIST, DIM, 9, 99);
    let store = store_with(vec![Own::new(centroids.clone())]);
    create(&store, "i", &spec("IVF12(own:own),Flat", DIM, Metric::L2));
    change(&store, "i", |writer| {
        train(writer, rows(&data, DIM));
        writer.add(rows(&data, DIM)).unwrap();
    });
    store.add_quantizer(Arc::new(Own { fingerprint: 2, ..Own::new(other.clone()) })).unwrap();
    assert_eq!(reader(&store, "i").centroids().unwrap().as_slice(), centroids);
    change(&store, "i", |writer| train(writer, rows(&data, DIM)));
    let reader = reader(&store, "i");
    assert_eq!(reader.centroids().unwrap().as_slice(), other);
    assert_sound(&store, "i");
    assert_exhaustive(&reader, &data, &queries);
}

#[test]
fn answers_that_cannot_be_are_errors_and_nothing_is_stored() {
    let (centroids, data, _) = numbers(13);
    for (own, word) in [
        (Own { wrong: Some(12), ..Own::new(centroids.clone()) }, "list 12"),
        (Own { most: 0, ..Own::new(centroids.clone()) }, "no list"),
    ] {
        let store = store_with(vec![own]);
        create(&store, "i", &spec("IVF12(own:own),Flat", DIM, Metric::L2));
        let txn = store.begin_write().unwrap();
        let mut writer = txn.index("i").unwrap();
        let none = Rows::new(&[], DIM).unwrap();
        writer.train(none, &TrainParams::default(), &mut Observer::none()).unwrap();
        match writer.add(rows(&data, DIM)) {
            Err(Error::Quantizer { what, .. }) => assert!(what.contains(word), "{what}"),
            other => panic!("{other:?}"),
        }
        assert!(writer.is_empty() && !writer.is_poisoned());
    }
    let store = store_with(vec![Own { wrong: Some(3), ..Own::new(centroids) }]);
    create(&store, "i", &spec("IVF12(own:own),Flat", DIM, Metric::L2));
    change(&store, "i", |writer| train(writer, rows(&data, DIM)));
    let found = reader(&store, "i").search(&data[..DIM], 1, &nprobe(2));
    assert!(matches!(found, Err(Error::Quantizer { what, .. }) if what.contains("list 3 twice for query 0")));
    assert!(Store::builder().quantizer(Arc::new(Own { name: "a b", ..Own::new(vec![]) })).is_err());
    assert!("IVF4(own:a b),Flat".parse::<IndexSpec>().is_err());
    for text in ["PCA8,IVF4(Raw),SQ8,RFlat", "IVF4(own:graph-2.1)_SOAR,PQ4"] {
        assert_eq!(text.parse::<IndexSpec>().unwrap().to_string(), text);
    }
}

#[test]
fn k_means_is_not_asked_where_a_quantizer_has_the_lists() {
    let (centroids, data, _) = numbers(16);
    let store = store_with(vec![Own::new(centroids.clone())]);
    create(&store, "i", &spec("IVF12(own:own),Flat", DIM, Metric::L2));
    change(&store, "i", |writer| {
        let params = TrainParams::default();
        let report = writer.train(rows(&data, DIM), &params, &mut Observer::none()).unwrap();
        assert!(report.iterations.is_empty());
        assert_eq!(report.objective, objective(rows(&data, DIM), &centroids));
        let refused = writer.train_with_centroids(
            rows(&centroids, DIM),
            rows(&data, DIM),
            &params,
            &mut Observer::none(),
        );
        assert!(matches!(refused, Err(Error::Parameter { name: "centroids", .. })));
    });
}

/// Looks at a few centroids of its own choice, as many as a search says.
struct Hurried(Own);

/// Lists that it names at most.
struct Effort(usize);

impl Quantizer for Hurried {
    fn name(&self) -> &str {
        "hurried"
    }
    fn dim(&self) -> usize {
        self.0.dim()
    }
    fn nlist(&self) -> usize {
        self.0.nlist()
    }
    fn centroid(&self, list: u32, centroid: &mut [f32]) {
        self.0.centroid(list, centroid);
    }
    fn nearest(&self, queries: Rows<'_>, nprobe: usize, lists: &mut [u32]) -> Result<()> {
        self.0.nearest(queries, nprobe, lists)
    }
    fn nearest_with(
        &self,
        queries: Rows<'_>,
        nprobe: usize,
        value: &QuantizerValue,
        lists: &mut [u32],
    ) -> Result<()> {
        let Effort(most) = value.get()?;
        self.nearest(queries, nprobe, lists)?;
        lists
            .chunks_exact_mut(nprobe)
            .for_each(|lists| lists.iter_mut().skip(*most).for_each(|l| *l = u32::MAX));
        Ok(())
    }
}

/// What a search says to a quantizer of the caller's own arrives there, in every form of search; and what it cannot take is an error.
#[test]
fn a_search_has_a_word_with_it() {
    let (centroids, data, queries) = numbers(22);
    let builder = Store::builder()
        .quantizer(Arc::new(Hurried(Own::new(centroids.clone()))))
        .and_then(|builder| builder.quantizer(Arc::new(Own::new(centroids.clone()))));
    let store = in_memory(builder.unwrap());
    for (name, text) in [("i", "IVF12(own:hurried),Flat"), ("plain", "IVF12(own:own),Flat")] {
        create(&store, name, &spec(text, DIM, Metric::L2));
        change(&store, name, |writer| {
            train(writer, rows(&data, DIM));
            writer.add(rows(&data, DIM)).unwrap();
        });
    }
    let (index, queries) = (reader(&store, "i"), rows(&queries, DIM));
    let with = |value| nprobe(5).quantizer_params(QuantizerParams::Own(value));
    for most in [0, 2, 5, 9] {
        // What is left open is filled up with the lowest.
        let near = index.probe(queries, NLIST).unwrap();
        let lists = (0..queries.len()).map(|q| {
            let named = near.lists(q)[..most.min(5)].to_vec();
            let others = (0..NLIST as u32).filter(|list| !named.contains(list)).collect::<Vec<_>>();
            named.iter().copied().chain(others).take(5).map(Some).collect::<Vec<_>>()
        });
        let lists = Preassigned::of_lists(lists);
        let params = with(QuantizerValue::new(Effort(most)));
        let how = QuantizerParams::Own(QuantizerValue::new(Effort(most)));
        let probed = index.probe_with(queries, 5, &how).unwrap();
        assert!((0..queries.len()).all(|q| probed.lists(q) == lists.lists(q)));
        let expected = index.search_preassigned(queries, &lists, 9, &SearchParams::new()).unwrap();
        assert_eq!(all_bits(&index.search_batch(queries, 9, &params).unwrap()), all_bits(&expected));
        let near = index.range_search_preassigned(queries, &lists, 90.0, &SearchParams::new()).unwrap();
        assert_eq!(all_bits(&index.range_search_batch(queries, 90.0, &params).unwrap()), all_bits(&near));
    }
    let refused = |index: &IndexReader<'_>, params: &SearchParams, words: [&str; 2]| match index
        .search_batch(queries, 3, params)
    {
        Err(Error::Parameter { name: "quantizer_params", what }) => {
            assert!(words.iter().all(|word| what.contains(word)), "{what}");
        }
        other => panic!("{other:?}"),
    };
    refused(&index, &with(QuantizerValue::new(7i32)), ["i32", "Effort"]);
    refused(&index, &nprobe(5).quantizer_params(QuantizerParams::Exact), ["Exact", "hurried"]);
    refused(&index, &nprobe(5).quantizer_params(QuantizerParams::SuperClusters(2)), ["2", "has none"]);
    refused(&reader(&store, "plain"), &with(QuantizerValue::new(Effort(1))), ["own", "no parameters"]);
    // Lists among vectors before transforms are compared one and all.
    create(&store, "raw", &spec("PCA6,IVF12(Raw),Flat", DIM, Metric::L2));
    change(&store, "raw", |writer| {
        train(writer, rows(&data, DIM));
        writer.add(rows(&data, DIM)).unwrap();
    });
    let raw = reader(&store, "raw");
    let exact = nprobe(3).quantizer_params(QuantizerParams::Exact);
    assert_eq!(
        all_bits(&raw.search_batch(queries, 5, &exact).unwrap()),
        all_bits(&raw.search_batch(queries, 5, &nprobe(3)).unwrap())
    );
    refused(&raw, &with(QuantizerValue::new(Effort(1))), ["Effort", "no quantizer of the caller's own"]);
}

/// In the application's own transaction, and as an exported model.
#[test]
fn it_goes_with_lone_transactions_models_and_merges() {
    let (centroids, data, queries) = numbers(19);
    let own = || -> Arc<dyn Quantizer> { Arc::new(Own::new(centroids.clone())) };
    let db = redb::Database::builder().create_with_backend(redb::backends::InMemoryBackend::new()).unwrap();
    let txn = db.begin_write().unwrap();
    let text = spec("PCA6,IVF12(own:own)_SOAR,SQ8,RFlat", DIM, Metric::L2);
    drop(IndexWriter::create(&txn, "i", &text).unwrap());
    let mut writer = IndexWriter::open_with(&txn, "i", &[own()]).unwrap();
    train(&mut writer, rows(&data, DIM));
    writer.add(rows(&data, DIM)).unwrap();
    let model = writer.reader().export_model().unwrap();
    let fingerprint = writer.reader().fingerprint();
    drop(writer);
    txn.commit().unwrap();
    let txn = redb::ReadableDatabase::begin_read(&db).unwrap();
    assert!(matches!(IndexReader::open(&txn, "i"), Err(Error::Quantizer { .. })));
    let lone = IndexReader::open_with(&txn, "i", &[own()]).unwrap();
    let store = store_with(vec![]);
    create(&store, "j", &text);
    let refused = change(&store, "j", |writer| writer.import_model(&model, &mut Observer::none()));
    assert!(matches!(refused, Err(Error::Quantizer { .. })));
    store.add_quantizer(own()).unwrap();
    change(&store, "j", |writer| {
        assert_eq!(Some(writer.import_model(&model, &mut Observer::none()).unwrap()), fingerprint);
        assert_eq!(writer.merge_from(&lone, 0, &mut Observer::none()).unwrap(), 500);
    });
    assert_sound(&store, "j");
    let merged = reader(&store, "j");
    let queries = rows(&queries, DIM);
    let [a, b] = [&lone, &merged].map(|r| r.search_batch(queries, 5, &nprobe(4)).unwrap());
    assert_eq!(all_bits(&a), all_bits(&b));
}

/// `IVF…(Raw)`: lists among vectors as they are, codes of what transforms make of them (FAISS's independent quantizer).
#[test]
fn lists_before_transforms_are_those_of_an_index_without_transforms() {
    let (data, queries) = (reals(600, DIM, 5), reals(30, DIM, 6));
    let store = memory();
    create(&store, "raw", &spec("PCA3,IVF12(Raw),SQ8,RFlat", DIM, Metric::L2));
    create(&store, "plain", &spec("IVF12,Flat", DIM, Metric::L2));
    create(&store, "behind", &spec("PCA3,IVF12,SQ8,RFlat", DIM, Metric::L2));
    for name in ["raw", "plain", "behind"] {
        change(&store, name, |writer| {
            train(writer, rows(&data, DIM));
            writer.add(rows(&data, DIM)).unwrap();
        });
        assert_sound(&store, name);
    }
    let [raw, plain, behind] = ["raw", "plain", "behind"].map(|name| reader(&store, name));
    let (data, queries) = (rows(&data, DIM), rows(&queries, DIM));
    assert_eq!(raw.centroids().unwrap().dim(), 3);
    assert_eq!(raw.assign(data).unwrap(), plain.assign(data).unwrap());
    assert_ne!(raw.assign(data).unwrap(), behind.assign(data).unwrap());
    for n in [1, 4] {
        let lists = |reader: &IndexReader<'_>| -> Vec<Vec<u32>> {
            let probes = reader.probe(queries, n).unwrap();
            (0..probes.len()).map(|query| probes.lists(query).to_vec()).collect()
        };
        assert_eq!(lists(&raw), lists(&plain));
        // All rows of the lists are scored again: the answer is that of exact codes in the same lists.
        let [a, b] = [&raw, &plain].map(|r| {
            let params = if r.spec().kept_rows().is_some() { nprobe(n).rerank(600) } else { nprobe(n) };
            r.search_batch(queries, 6, &params).unwrap()
        });
        let ids = |found: &[Vec<Neighbor>]| -> Vec<Vec<u64>> {
            found.iter().map(|found| found.iter().map(|n| n.id).collect()).collect()
        };
        assert_eq!(ids(&a), ids(&b));
    }
    // It survives: a model, a retraining of either half, a refusal where there is nothing to be before.
    let model = raw.export_model().unwrap();
    create(&store, "copy", raw.spec());
    change(&store, "copy", |writer| {
        writer.import_model(&model, &mut Observer::none()).unwrap();
        writer.merge_from(&raw, 0, &mut Observer::none()).unwrap();
        writer.train_codec(data, &TrainParams::default(), &mut Observer::none()).unwrap();
        writer.train_lists(data, &TrainParams::default(), &mut Observer::none()).unwrap();
    });
    assert_sound(&store, "copy");
    assert_eq!(reader(&store, "copy").assign(data).unwrap(), plain.assign(data).unwrap());
    assert!("IVF12(Raw),SQ8".parse::<IndexSpec>().is_err());
}

/// Lists of a metric that is no product, and of dropped rows before training.
#[test]
fn any_metric_goes_with_it() {
    let (centroids, data, queries) = numbers(22);
    let store = store_with(vec![Own::new(centroids)]);
    for metric in [Metric::L1, Metric::Cosine, Metric::InnerProduct] {
        let name = metric.to_string();
        create(&store, &name, &spec("IVF12(own:own),Flat", DIM, metric));
        change(&store, &name, |writer| {
            train(writer, rows(&data, DIM));
            writer.add(rows(&data, DIM)).unwrap();
        });
        assert_sound(&store, &name);
        let reader = reader(&store, &name);
        create(&store, &format!("{name}1"), &spec("Flat", DIM, metric));
        change(&store, &format!("{name}1"), |writer| writer.add(rows(&data, DIM)).unwrap());
        let flat = store.begin_read().unwrap().index(&format!("{name}1")).unwrap();
        for query in queries.chunks(DIM) {
            let [a, b] = [&reader, &flat].map(|r| r.search(query, 9, &nprobe(NLIST)).unwrap());
            assert_eq!(a, b, "{metric}");
        }
    }
}

// ---------------------------------------------------------------- residual lists

/// FAISS's residual coarse quantizer of two levels: list a·n + b stands for first[a] + second[b]. Rows go greedily, queries by all sums.
struct Residual {
    first: Vec<f32>,
    second: Vec<f32>,
}

fn nearest_of(words: &[f32], row: &[f32]) -> u32 {
    let far = |c: &[f32]| -> f64 { c.iter().zip(row).map(|(c, r)| f64::from(c - r).powi(2)).sum() };
    let best = words.chunks(DIM).map(far).zip(0..);
    best.min_by(|a: &(f64, u32), b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))).unwrap().1
}

impl Residual {
    /// Two runs of k-means, the second over what the first leaves.
    fn train(data: Rows<'_>, n: usize) -> Self {
        let params = ClusteringParams::default();
        let run = |rows| kmeans(rows, n, Metric::L2, &params, None, &mut Observer::none()).unwrap().centroids;
        let first = run(data);
        let rest = |row: &[f32]| -> Vec<f32> {
            let word = &first[nearest_of(&first, row) as usize * DIM..][..DIM];
            row.iter().zip(word).map(|(x, w)| x - w).collect()
        };
        let rests: Vec<f32> = data.iter().flat_map(rest).collect();
        let second = run(rows(&rests, DIM));
        Residual { first, second }
    }

    fn words(&self) -> usize {
        self.second.len() / DIM
    }
}

impl Quantizer for Residual {
    fn name(&self) -> &str {
        "residual"
    }
    fn dim(&self) -> usize {
        DIM
    }
    fn nlist(&self) -> usize {
        self.first.len() / DIM * self.words()
    }
    fn centroid(&self, list: u32, centroid: &mut [f32]) {
        let (a, b) = (list as usize / self.words(), list as usize % self.words());
        let words = self.first[a * DIM..].iter().zip(&self.second[b * DIM..]);
        centroid.iter_mut().zip(words).for_each(|(c, (a, b))| *c = a + b);
    }
    fn nearest(&self, queries: Rows<'_>, nprobe: usize, lists: &mut [u32]) -> Result<()> {
        let mut centroid = vec![0.0; DIM];
        for (query, lists) in queries.iter().zip(lists.chunks_exact_mut(nprobe)) {
            let mut all = Vec::new();
            for list in 0..self.nlist() as u32 {
                self.centroid(list, &mut centroid);
                let far: f64 = centroid.iter().zip(query).map(|(c, q)| f64::from(c - q).powi(2)).sum();
                all.push((far, list));
            }
            all.sort_by(|a, b| a.0.total_cmp(&b.0));
            lists.iter_mut().zip(all).for_each(|(place, (_, list))| *place = list);
        }
        Ok(())
    }
    fn assign(&self, rows: Rows<'_>, lists: &mut [u32]) -> Result<()> {
        for (row, list) in rows.iter().zip(lists) {
            let a = nearest_of(&self.first, row);
            let word = &self.first[a as usize * DIM..][..DIM];
            let rest: Vec<f32> = row.iter().zip(word).map(|(x, w)| x - w).collect();
            *list = a * self.words() as u32 + nearest_of(&self.second, &rest);
        }
        Ok(())
    }
}

#[test]
fn a_residual_quantizer_of_two_levels_finds_the_lists() {
    let (data, queries) = (reals(600, DIM, 30), reals(20, DIM, 31));
    let residual = Residual::train(rows(&data, DIM), 4);
    let greedy = {
        let mut lists = vec![0; 600];
        residual.assign(rows(&data, DIM), &mut lists).unwrap();
        lists
    };
    let store = memory();
    store.add_quantizer(Arc::new(residual)).unwrap();
    create(&store, "codes", &spec("IVF1,RQ4x4", DIM, Metric::L2));
    create(&store, "i", &spec("IVF16(own:residual),RQ2x4,RFlat", DIM, Metric::L2));
    change(&store, "codes", |writer| train(writer, rows(&data, DIM)));
    change(&store, "i", |writer| {
        train(writer, rows(&data, DIM));
        writer.add(rows(&data, DIM)).unwrap();
    });
    assert_sound(&store, "i");
    let index = reader(&store, "i");
    let stands: Vec<u32> = (0..600).map(|id| index.slot(id).unwrap().list).collect();
    assert_eq!(stands, greedy);
    let mut oracle = Oracle::new(Metric::L2, Stored::F32);
    oracle.put_all(0.., rows(&data, DIM));
    for query in queries.chunks(DIM) {
        let found = index.search(query, 10, &everywhere().rerank(600)).unwrap();
        assert_close(&found, &oracle.all(query), Metric::L2, "all lists");
    }
    // Flat codes come in as the vectors they stand for.
    let codes = reader(&store, "codes").encode(rows(&data[..50 * DIM], DIM)).unwrap();
    let decoded = reader(&store, "codes").decode(&codes).unwrap();
    let ids = change(&store, "i", |writer| writer.add(rows(&decoded, DIM)).unwrap());
    assert_eq!(reader(&store, "i").reconstruct(ids.start).unwrap(), decoded[..DIM]);
}
