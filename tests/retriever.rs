//! Worry: an answer that names the wrong thing. Between a query and its answer stand a model, lists, codes, candidates,
//! ids and keys; each of them can be off by one row, and the scores still look right.
//!
//! Noticed with brute force in f64 over vectors in a map by identifier: the grid of cases that TensorFlow Recommenders
//! tests its ScaNN layer with, where one list and all candidates must give exactly that; then the same retriever after
//! saving, reopening, indexing again, changing and rebalancing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use support::*;
use vellum::*;

macro_rules! refused {
    ($result:expr, $pattern:pat) => {
        match $result {
            Err($pattern) => {}
            other => panic!("expected {}, got {other:?}", stringify!($pattern)),
        }
    };
}

/// Vectors by identifier, and nothing clever.
struct Brute {
    measure: Metric,
    vectors: BTreeMap<Identifier, Vec<f32>>,
}

impl Brute {
    fn new(measure: Metric) -> Self {
        Brute { measure, vectors: BTreeMap::new() }
    }

    fn of(measure: Metric, identifiers: &[Identifier], data: Rows<'_>) -> Self {
        let vectors = identifiers.iter().cloned().zip(data.iter().map(<[f32]>::to_vec)).collect();
        Brute { measure, vectors }
    }

    fn score(&self, query: &[f32], row: &[f32]) -> f64 {
        let pairs = || query.iter().zip(row).map(|(a, b)| (f64::from(*a), f64::from(*b)));
        let dot: f64 = pairs().map(|(a, b)| a * b).sum();
        let norm = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        match self.measure {
            Metric::L2 => pairs().map(|(a, b)| (a - b).powi(2)).sum(),
            Metric::Cosine => dot / norm(query) / norm(row),
            _ => dot,
        }
    }

    /// Best first.
    fn ranking(&self, query: &[f32], excluded: &[Identifier]) -> Vec<(Identifier, f64)> {
        let kept = self.vectors.iter().filter(|(identifier, _)| !excluded.contains(identifier));
        let mut all: Vec<_> =
            kept.map(|(identifier, row)| (identifier.clone(), self.score(query, row))).collect();
        let sign = if self.measure == Metric::L2 { 1.0 } else { -1.0 };
        all.sort_by(|a, b| (sign * a.1).total_cmp(&(sign * b.1)));
        all
    }

    /// The k best, but that two may swap whose scores rounding cannot tell apart.
    #[track_caller]
    fn check(&self, found: &[Retrieved], query: &[f32], excluded: &[Identifier], k: usize, what: &str) {
        let ranking = self.ranking(query, excluded);
        assert_eq!(found.len(), k.min(ranking.len()), "{what}: how many");
        let mut seen = BTreeSet::new();
        for (rank, (hit, expected)) in found.iter().zip(&ranking).enumerate() {
            assert!(seen.insert(&hit.identifier), "{what}, rank {rank}: twice");
            assert!(!excluded.contains(&hit.identifier), "{what}, rank {rank}: excluded");
            let own = self.score(query, &self.vectors[&hit.identifier]);
            let score = f64::from(hit.score);
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-4 * b.abs().max(1.0);
            assert!(near(score, own), "{what}, rank {rank}: {hit:?}, its score is {own}");
            let same = hit.identifier == expected.0 || (own - expected.1).abs() <= 1e-5;
            assert!(same, "{what}, rank {rank}: {hit:?}, expected {expected:?}");
        }
    }
}

fn numbers(n: usize) -> Vec<Identifier> {
    (0..n as u64).map(Identifier::from).collect()
}

fn texts(n: usize) -> Vec<Identifier> {
    (0..n).map(|i| Identifier::from(format!("item {i}"))).collect()
}

fn queries_of(data: &[f32], dim: usize) -> Vec<Vec<f32>> {
    data.chunks_exact(dim).map(<[f32]>::to_vec).collect()
}

/// One list, and everything is a candidate.
fn exact(n: usize) -> RetrieverBuilder {
    Retriever::builder().num_leaves(1).num_leaves_to_search(1).num_reordering_candidates(n)
}

const DIM: usize = 4;

/// A case of the grid.
#[derive(Clone, Copy, Debug)]
struct Case {
    k: usize,
    batch: usize,
    queries: usize,
    candidates: usize,
    named: bool,
    excluding: bool,
}

fn grid() -> Vec<Case> {
    let mut cases = Vec::new();
    for k in [5, 10] {
        for batch in [3, 16] {
            for queries in [3, 15, 16] {
                for candidates in [1024, 128] {
                    for named in [true, false] {
                        for excluding in [true, false] {
                            cases.push(Case { k, batch, queries, candidates, named, excluding });
                        }
                    }
                }
            }
        }
    }
    cases
}

fn run(case: Case, measure: Metric) {
    let what = format!("{case:?}, {measure}");
    let data = reals(case.candidates, DIM, 42);
    let queries = queries_of(&reals(case.queries, DIM, 43), DIM);
    let identifiers = if case.named { texts(case.candidates) } else { numbers(case.candidates) };
    let brute = Brute::of(measure, &identifiers, rows(&data, DIM));
    let mut random = Random::new(44);
    let pick = |random: &mut Random| identifiers[random.below(case.candidates)].clone();
    let excluded: Vec<Vec<Identifier>> = queries
        .iter()
        .map(|_| (0..if case.excluding { 5 } else { 0 }).map(|_| pick(&mut random)).collect())
        .collect();

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.vellum");
    let retriever = exact(case.candidates).k(case.k).distance_measure(measure);
    let retriever = retriever.parallelize_batch_searches(case.batch == 16).create(&path).unwrap();
    let ask = |retriever: &Retriever| match case.excluding {
        true => retriever.query_with_exclusions(&queries, excluded.clone(), None).unwrap(),
        false => retriever.retrieve(&queries, None).unwrap(),
    };
    let check = |answers: &[Vec<Retrieved>]| {
        assert_eq!(answers.len(), queries.len());
        for ((answer, query), excluded) in answers.iter().zip(&queries).zip(&excluded) {
            brute.check(answer, query, excluded, case.k, &what);
        }
    };
    let given = || match case.named {
        true => Identifiers::Each(identifiers.clone()),
        false => Identifiers::RowNumbers,
    };
    // Twice: what is indexed again replaces.
    let first = {
        retriever.index(rows(&data, DIM), given()).unwrap();
        ask(&retriever)
    };
    check(&first);
    let batches = data.chunks(case.batch * DIM).zip(identifiers.chunks(case.batch));
    let batches = batches.map(|(data, identifiers)| match case.named {
        true => Ok(Batch { identifiers: identifiers.to_vec().into(), rows: data.to_vec() }),
        false => Ok(Batch::from(data.to_vec())),
    });
    retriever.index_from_iter(DIM, batches).unwrap();
    check(&ask(&retriever));
    assert_eq!(ask(&retriever), first, "{what}: by batches");
    assert_sound(retriever.store(), retriever.name());
    drop(retriever);
    let store = Store::open(&path).unwrap();
    let reopened = Retriever::open(&store, "retriever").unwrap();
    assert_eq!(ask(&reopened), first, "{what}: reopened");
    assert!(reopened.is_exact().unwrap());
}

#[test]
fn grid_of_inner_products() {
    let cases = grid();
    assert_eq!(cases.len(), 96);
    cases.into_iter().for_each(|case| run(case, Metric::InnerProduct));
}

/// Exclusions are exact for every measure, and so is everything else: the grid's larger half again.
#[test]
fn grid_of_other_measures() {
    for measure in [Metric::L2, Metric::Cosine] {
        grid()
            .into_iter()
            .filter(|case| case.k == 10 && case.batch == 16)
            .for_each(|case| run(case, measure));
    }
}

/// Default parameters, all kinds of identifiers: what a retriever answers it answers again, and after reopening.
#[test]
fn kinds_of_identifiers_come_back() {
    let n = 1000;
    let data = reals(n, DIM, 1);
    let queries = queries_of(&reals(20, DIM, 2), DIM);
    let kinds: [Identifiers; 7] = [
        Identifiers::RowNumbers,
        (0..n as u64).map(|i| u64::MAX - 1 - i * i).collect::<Vec<_>>().into(),
        (0..n as u32).collect::<Vec<_>>().into(),
        (0..n as i64).map(|i| i - 500).collect::<Vec<_>>().into(),
        (0..n as i32).map(|i| -i).collect::<Vec<_>>().into(),
        (0..n).map(|i| format!("ä{i}")).collect::<Vec<_>>().into(),
        (0..n).map(|i| (i as f64).to_le_bytes().to_vec()).collect::<Vec<_>>().into(),
    ];
    let mut scores: Option<Vec<Vec<f32>>> = None;
    for identifiers in kinds {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.vellum");
        let retriever = Retriever::builder().create(&path).unwrap();
        retriever.index(rows(&data, DIM), identifiers.clone()).unwrap();
        let answers = retriever.retrieve(&queries, None).unwrap();
        for _ in 0..100 {
            assert_eq!(retriever.retrieve(&queries, None).unwrap(), answers);
        }
        // The same rows, whatever they are called.
        let found: Vec<Vec<f32>> =
            answers.iter().map(|hits| hits.iter().map(|hit| hit.score).collect()).collect();
        assert_eq!(*scores.get_or_insert(found.clone()), found);
        let each = match &identifiers {
            Identifiers::Each(each) => each.clone(),
            _ => numbers(n),
        };
        assert!(answers.iter().flatten().all(|hit| each.contains(&hit.identifier)));
        assert!(!retriever.is_exact().unwrap());
        drop(retriever);
        let store = Store::open(&path).unwrap();
        assert_eq!(Retriever::open(&store, "retriever").unwrap().retrieve(&queries, None).unwrap(), answers);
    }
}

/// One leaf for each of 100 candidates, from batches, with identifiers and without.
#[test]
fn as_many_leaves_as_candidates() {
    let data = reals(100, DIM, 3);
    let query = vec![reals(1, DIM, 4)];
    let retriever = Retriever::builder().in_memory().unwrap();
    retriever.index_from_iter(DIM, data.chunks(20 * DIM).map(|rows| Ok(rows.to_vec()))).unwrap();
    let found = retriever.retrieve(&query, None).unwrap();
    assert!(!found[0].is_empty() && found[0].iter().all(|hit| hit.identifier.as_u64().unwrap() < 100));

    let named = texts(100);
    let batches = data.chunks(20 * DIM).zip(named.chunks(20));
    let batches = batches.map(|(rows, names)| Ok((names.to_vec(), rows.to_vec())));
    retriever.index_from_iter(DIM, batches).unwrap();
    let found_named = retriever.retrieve(&query, None).unwrap();
    let number = |hit: &Retrieved| hit.identifier.as_str().unwrap()["item ".len()..].parse::<u64>().unwrap();
    assert_eq!(
        found_named[0].iter().map(number).collect::<Vec<_>>(),
        found[0].iter().map(|hit| hit.identifier.as_u64().unwrap()).collect::<Vec<_>>()
    );
    retriever.index(rows(&data, DIM), Identifiers::RowNumbers).unwrap();
    assert_eq!(retriever.len().unwrap(), 100);
}

#[test]
fn fewer_than_k_are_fewer_answers() {
    let data = reals(7, DIM, 5);
    let retriever = exact(7).in_memory().unwrap();
    retriever.index(rows(&data, DIM), Identifiers::RowNumbers).unwrap();
    let query = vec![data[..DIM].to_vec()];
    assert_eq!(retriever.retrieve(&query, Some(50)).unwrap()[0].len(), 7);
    let excluded = retriever.query_with_exclusions(&query, [[0u64, 1, 2, 3, 4]], Some(50)).unwrap();
    let left: BTreeSet<_> = excluded[0].iter().map(|hit| hit.identifier.as_u64().unwrap()).collect();
    assert_eq!(left, [5, 6].into());
    let none = retriever.query_with_exclusions(&query, [numbers(7)], None).unwrap();
    assert_eq!(none, [[]]);
    assert!(retriever.retrieve(&[], None).unwrap().is_empty());
    assert_eq!(retriever.query_with_exclusions(&[], Vec::<Vec<u64>>::new(), None).unwrap().len(), 0);
}

#[test]
fn query_models_make_embeddings() {
    let data = reals(64, DIM, 6);
    let names = texts(64);
    let by_name: BTreeMap<String, Vec<f32>> =
        names.iter().zip(rows(&data, DIM).iter()).map(|(n, r)| (n.to_string(), r.to_vec())).collect();
    let retriever = exact(64).distance_measure(Metric::L2).in_memory().unwrap();
    let retriever = retriever.with_query_model(move |queries: &[String]| {
        let missing = |q: &String| Error::Io(std::io::Error::other(format!("no item {q}")));
        let rows: Result<Vec<&Vec<f32>>> =
            queries.iter().map(|q| by_name.get(q).ok_or_else(|| missing(q))).collect();
        Ok(rows?.into_iter().flatten().copied().collect())
    });
    retriever.index(rows(&data, DIM), names).unwrap();
    let queries = ["item 7".to_string(), "item 63".to_string()];
    let found = retriever.retrieve(&queries, Some(1)).unwrap();
    for (query, found) in queries.iter().zip(found) {
        assert_eq!((found[0].identifier.as_str(), found[0].score), (Some(query.as_str()), 0.0));
        assert_eq!(retriever.retrieve_one(query, Some(1)).unwrap(), found);
    }
    refused!(retriever.retrieve(&["nobody".to_string()], None), Error::Io(_));
    let short = retriever.with_query_model(|queries: &[u32]| Ok(vec![1.0; queries.len() * DIM - 1]));
    refused!(short.retrieve(&[1, 2], None), Error::Length { expected: 8, got: 7, .. });
    let none = short.with_query_model(|_: &[u32]| Ok(vec![]));
    refused!(none.retrieve(&[1], None), Error::Length { expected: 4, got: 0, .. });
    let wide = none.with_query_model(|queries: &[u32]| Ok(vec![1.0; queries.len() * 9]));
    refused!(wide.retrieve(&[1, 2], None), Error::Dimension { expected: DIM, got: 9 });
}

/// A builder with other parameters.
type Change = fn(RetrieverBuilder) -> RetrieverBuilder;

/// One of each kind of index that a builder can ask for.
fn kinds_of_retrievers() -> Vec<(&'static str, Change)> {
    vec![
        ("default", |b| b),
        ("without tree", |b| b.without_tree()),
        ("brute force", |b| b.without_tree().score_brute_force(Quantize::Float32)),
        ("brute force f16", |b| b.without_tree().score_brute_force(Quantize::Float16)),
        ("brute force bf16", |b| b.without_tree().score_brute_force(Quantize::Bfloat16)),
        ("brute force int8", |b| b.without_tree().score_brute_force(Quantize::Int8)),
        ("tree of bf16", |b| b.num_leaves(20).num_leaves_to_search(20).score_brute_force(Quantize::Bfloat16)),
        ("reorder f32", |b| b.num_leaves(20).num_leaves_to_search(20).reorder(60, Quantize::Float32)),
        ("reorder f16", |b| b.num_leaves(20).num_leaves_to_search(20).reorder(60, Quantize::Float16)),
        ("reorder bf16", |b| b.num_leaves(20).num_leaves_to_search(20).reorder(60, Quantize::Bfloat16)),
        ("reorder int8", |b| b.num_leaves(20).num_leaves_to_search(20).reorder(60, Quantize::Int8)),
        ("soar", |b| {
            let tree = Tree { num_leaves: 20, num_leaves_to_search: 5, soar: true, ..Tree::default() };
            b.tree(tree).reorder(60, Quantize::Float32)
        }),
        ("k-means++, spherical", |b| {
            let tree = Tree {
                random_init: false,
                spherical: Some(true),
                training_sample_size: 300,
                ..Tree::default()
            };
            b.tree(tree)
        }),
        ("pca", |b| b.num_leaves(20).num_leaves_to_search(20).pca(8).reorder(60, Quantize::Float32)),
        ("truncate", |b| {
            b.num_leaves(20).num_leaves_to_search(20).truncate(8).reorder(60, Quantize::Float32)
        }),
        ("odd blocks", |b| b.num_leaves(20).num_leaves_to_search(20).dimensions_per_block(5)),
        ("lut256", |b| b.score_ah(ScoreAh { hash: Hash::Lut256, ..ScoreAh::default() })),
        ("residuals", |b| b.score_ah(ScoreAh { residual_quantization: Some(true), ..ScoreAh::default() })),
        ("autopilot", |b| b.autopilot(Quantize::Float32)),
        ("autopilot int8", |b| b.autopilot(Quantize::Int8)),
    ]
}

/// Each of them answers the same from a file that was opened again, batches as single queries, parallel as not.
#[test]
fn every_kind_answers_the_same_after_reopening_and_in_every_way_of_asking() {
    let (n, dim) = (600, 12);
    let data = reals(n, dim, 7);
    let queries = queries_of(&reals(33, dim, 8), dim);
    for measure in METRICS {
        for (name, change) in kinds_of_retrievers() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("r.vellum");
            let builder = change(Retriever::builder().k(7).distance_measure(measure));
            let retriever = builder.create(&path).unwrap();
            retriever.index(rows(&data, dim), Identifiers::RowNumbers).unwrap();
            let answers = retriever.retrieve(&queries, None).unwrap();
            let params = SearchParams::new();
            for (query, answer) in queries.iter().zip(&answers) {
                assert_eq!(answer.len(), 7, "{name}, {measure}");
                assert_eq!(retriever.search(query, 7, &params).unwrap(), *answer, "{name}, {measure}");
            }
            assert_eq!(retriever.search_batched(&queries, 7, &params).unwrap(), answers, "{name}, {measure}");
            let parallel = retriever.search_batched_parallel(&queries, 7, &params).unwrap();
            assert_eq!(parallel, answers, "{name}, {measure}");
            let flat: Vec<f32> = queries.concat();
            assert_eq!(retriever.retrieve_embeddings(rows(&flat, dim), None).unwrap(), answers);
            assert_sound(retriever.store(), retriever.name());
            drop(retriever);
            let store = Store::open(&path).unwrap();
            let reopened = Retriever::open(&store, "retriever").unwrap();
            assert_eq!(reopened.retrieve(&queries, None).unwrap(), answers, "{name}, {measure}");
            // What was opened indexes as what was built.
            reopened.index(rows(&data, dim), Identifiers::RowNumbers).unwrap();
            assert_eq!(reopened.retrieve(&queries, None).unwrap(), answers, "{name}, {measure}");
            let exact = matches!(name, "brute force" | "autopilot");
            assert_eq!(reopened.is_exact().unwrap(), exact, "{name}, {measure}");
        }
    }
}

/// Recall@10 over all lists: what candidates are scored again on decides it, and codes alone are far worse.
#[test]
fn options_have_the_recall_that_they_promise() {
    let (n, dim) = (600, 12);
    let data = reals(n, dim, 9);
    let queries = queries_of(&reals(60, dim, 10), dim);
    for measure in METRICS {
        let brute = Brute::of(measure, &numbers(n), rows(&data, dim));
        let recall = |change: Change| {
            let retriever = change(Retriever::builder().distance_measure(measure)).in_memory().unwrap();
            retriever.index(rows(&data, dim), Identifiers::RowNumbers).unwrap();
            let answers = retriever.retrieve(&queries, None).unwrap();
            let hits: usize = answers
                .iter()
                .zip(&queries)
                .map(|(answer, query)| {
                    let truth: Vec<_> =
                        brute.ranking(query, &[]).into_iter().take(10).map(|(i, _)| i).collect();
                    answer.iter().filter(|hit| truth.contains(&hit.identifier)).count()
                })
                .sum();
            hits as f64 / (10 * queries.len()) as f64
        };
        for (name, change) in kinds_of_retrievers() {
            let least = match name {
                "brute force" | "autopilot" => 1.0,
                "brute force f16" | "brute force bf16" | "brute force int8" | "autopilot int8" => 0.94,
                "tree of bf16" => 0.94,
                "reorder f32" | "reorder f16" | "reorder bf16" | "reorder int8" => 0.94,
                _ => continue,
            };
            let recall = recall(change);
            assert!(recall >= least, "{name}, {measure}: {recall}");
        }
    }
}

#[test]
fn changes_are_seen_and_unknown_identifiers_are_errors() {
    let data = reals(300, DIM, 11);
    let queries = queries_of(&reals(10, DIM, 12), DIM);
    for named in [false, true] {
        let identifier = |i: usize| match named {
            true => Identifier::from(format!("item {i}")),
            false => Identifier::from(i as u64),
        };
        let some = |range: std::ops::Range<usize>| range.map(identifier).collect::<Vec<_>>();
        let part = |from: usize, to: usize| rows(&data, DIM).slice(from..to);
        let retriever = exact(1000).distance_measure(Metric::L2).in_memory().unwrap();
        let mut brute = Brute::new(Metric::L2);
        let put = |brute: &mut Brute, identifiers: Vec<Identifier>, rows: Rows<'_>| {
            brute.vectors.extend(identifiers.into_iter().zip(rows.iter().map(<[f32]>::to_vec)));
        };
        let check = |brute: &Brute, what: &str| {
            assert_eq!(retriever.len().unwrap(), brute.vectors.len() as u64, "{what}");
            let answers = retriever.retrieve(&queries, None).unwrap();
            for (answer, query) in answers.iter().zip(&queries) {
                brute.check(answer, query, &[], 10, what);
            }
            assert_sound(retriever.store(), retriever.name());
        };
        refused!(retriever.upsert(some(0..1), part(0, 1)), Error::NotIndexed { .. });
        refused!(retriever.delete(some(0..1)), Error::NotIndexed { .. });
        refused!(retriever.rebalance(), Error::NotIndexed { .. });
        retriever.index(part(0, 100), some(0..100)).unwrap();
        put(&mut brute, some(0..100), part(0, 100));
        check(&brute, "indexed");

        assert_eq!(retriever.upsert(some(90..150), part(200, 260)).unwrap(), 50);
        put(&mut brute, some(90..150), part(200, 260));
        check(&brute, "upserted");

        assert_eq!(retriever.delete([some(10..40), some(12..13)].concat()).unwrap(), 30);
        some(10..40).iter().for_each(|gone| drop(brute.vectors.remove(gone)));
        check(&brute, "deleted");
        for unknown in [some(10..11), [some(50..60), some(10..11)].concat()] {
            match retriever.delete(unknown) {
                Err(Error::UnknownId { id: 10 }) if !named => {}
                Err(Error::UnknownKey { key }) if named => assert_eq!(key, b"item 10"),
                other => panic!("{other:?}"),
            }
        }
        check(&brute, "refused");
        retriever.rebalance().unwrap();
        check(&brute, "rebalanced");

        let all: Vec<Identifier> = brute.vectors.keys().cloned().collect();
        assert_eq!(retriever.delete(all).unwrap(), 120);
        assert!(retriever.is_empty().unwrap());
        assert!(retriever.retrieve(&queries, None).unwrap().iter().all(Vec::is_empty));
        brute.vectors.clear();
        refused!(retriever.rebalance(), Error::TooFewRows { rows: 0, needed: 1 });
        assert_eq!(retriever.upsert(some(0..100), part(100, 200)).unwrap(), 100);
        put(&mut brute, some(0..100), part(100, 200));
        check(&brute, "added again");
    }
}

#[test]
fn an_autopilot_changes_over_when_there_is_more_and_back() {
    let dim = 656;
    // 42 lists of 200 rows: from 8,400 rows on there are lists.
    let data: Vec<f32> = {
        let seeds = reals(8_500, 4, 13);
        seeds
            .chunks_exact(4)
            .flat_map(|s| (0..dim).map(|i| s[i % 4] + (i / 4 % 7) as f32 * s[(i + 1) % 4]))
            .collect()
    };
    let retriever = Retriever::builder().autopilot(Quantize::Float32).in_memory().unwrap();
    let lists = |retriever: &Retriever| retriever.reader().unwrap().spec().nlist();
    retriever.index(rows(&data[..500 * dim], dim), Identifiers::RowNumbers).unwrap();
    assert_eq!((lists(&retriever), retriever.is_exact().unwrap()), (None, true));
    let ids: Vec<u64> = (500..8_500).collect();
    for (ids, rows_of) in ids.chunks(2000).zip(data[500 * dim..].chunks(2000 * dim)) {
        retriever.upsert(ids, rows(rows_of, dim)).unwrap();
    }
    assert_eq!(lists(&retriever), None, "upserts change no list");
    retriever.rebalance().unwrap();
    assert_eq!((lists(&retriever), retriever.len().unwrap()), (Some(42), 8_500));
    assert_eq!(retriever.reader().unwrap().spec().to_string(), "IVF42,PQ328x4fsr_aq0.2,RFlat");
    assert_sound(retriever.store(), retriever.name());
    retriever.delete(&ids[..]).unwrap();
    retriever.rebalance().unwrap();
    assert_eq!((lists(&retriever), retriever.len().unwrap()), (None, 500));
    assert_eq!(retriever.store().begin_read().unwrap().indexes().unwrap(), ["retriever"]);
}

#[test]
fn an_autopilot_counts_batches() {
    let dim = 4;
    let data = reals(5_000, dim, 14);
    let retriever = Retriever::builder().autopilot(Quantize::Int8).in_memory().unwrap();
    retriever.index_from_iter(dim, data.chunks(999 * dim).map(|rows| Ok(rows.to_vec()))).unwrap();
    assert_eq!(retriever.reader().unwrap().spec().to_string(), "IVF1,SQ8");
    assert_eq!(retriever.len().unwrap(), 5_000);
    assert_sound(retriever.store(), retriever.name());
}

/// Errors along a vector are less, so scores of near vectors are nearer to what they should be.
#[test]
fn anisotropic_codes_estimate_large_products_better() {
    let (n, dim) = (2000, 32);
    let mut data = reals(n, dim, 15);
    for row in data.chunks_exact_mut(dim) {
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row.iter_mut().for_each(|v| *v /= norm);
    }
    let error = |threshold: Option<f32>| {
        let ah = ScoreAh { anisotropic_quantization_threshold: threshold, ..ScoreAh::default() };
        let builder =
            Retriever::builder().tree(Tree { num_leaves: 8, num_leaves_to_search: 8, ..Tree::default() });
        let retriever = builder.score_ah(ah).k(1).in_memory().unwrap();
        retriever.index(rows(&data, dim), Identifiers::RowNumbers).unwrap();
        assert_sound(retriever.store(), retriever.name());
        let queries = queries_of(&data[..200 * dim], dim);
        // Each row's product with itself is 1.
        let answers = retriever.retrieve(&queries, None).unwrap();
        answers.iter().map(|hits| f64::from(hits[0].score - 1.0).powi(2)).sum::<f64>()
    };
    // Of length 1 and 32 components: errors along weigh 10 times as much.
    let (plain, weighted) = (error(None), error(Some(0.5)));
    assert!(weighted < 0.7 * plain, "{weighted}, {plain}");
}

#[test]
fn what_cannot_be_is_refused() {
    let data = reals(100, DIM, 16);
    let all = rows(&data, DIM);
    let store = memory();
    let retriever = Retriever::builder().num_leaves(4).build(&store).unwrap();
    let query = vec![data[..DIM].to_vec()];
    refused!(retriever.retrieve(&query, None), Error::NotIndexed { .. });
    refused!(retriever.query_with_exclusions(&query, [[1u64]], None), Error::NotIndexed { .. });
    refused!(retriever.len(), Error::NotIndexed { .. });
    refused!(retriever.is_exact(), Error::NotIndexed { .. });
    refused!(Retriever::open(&store, "retriever"), Error::UnknownIndex { .. });

    // 99 identifiers of 100 candidates, whole or in batches.
    refused!(retriever.index(all, texts(99)), Error::Length { what: "identifiers", expected: 100, got: 99 });
    let short = data.chunks(20 * DIM).map(|rows| Ok((texts(99), rows.to_vec())));
    refused!(retriever.index_from_iter(DIM, short), Error::Length { expected: 20, got: 99, .. });
    let ragged = [Ok(data[..20 * DIM].to_vec()), Ok(data[..7].to_vec())];
    refused!(retriever.index_from_iter(DIM, ragged), Error::Shape { len: 7, dim: DIM });
    refused!(retriever.index_from_iter(0, [Ok(vec![1.0])]), Error::Spec { .. });
    let failing = [Ok(data.clone()), Err(Error::Io(std::io::Error::other("no more")))];
    refused!(retriever.index_from_iter(DIM, failing), Error::Io(_));
    let mixed = [Ok(Batch::from((texts(100), data.clone()))), Ok(Batch::from(data.clone()))];
    refused!(retriever.index_from_iter(DIM, mixed), Error::IdKind { .. });
    let twice = [Ok((texts(100), data.clone())), Ok((texts(100), data.clone()))];
    refused!(retriever.index_from_iter(DIM, twice), Error::DuplicateKey { .. });
    refused!(
        retriever.index_from_iter(DIM, Vec::<Result<Vec<f32>>>::new()),
        Error::TooFewRows { rows: 0, needed: 4 }
    );
    let mut bad = data.clone();
    bad[90 * DIM] = f32::NAN;
    let bad_batches = bad.chunks(20 * DIM).map(|rows| Ok(rows.to_vec()));
    refused!(retriever.index_from_iter(DIM, bad_batches), Error::NotFinite { row: 90, .. });
    refused!(retriever.retrieve(&query, None), Error::NotIndexed { .. });

    refused!(
        retriever.index(all.slice(0..3), Identifiers::RowNumbers),
        Error::TooFewRows { rows: 3, needed: 4 }
    );
    refused!(retriever.index(all.slice(0..4), [1u64, 2, 3, 1]), Error::DuplicateId { id: 1 });
    refused!(retriever.index(all.slice(0..4), [1u64, 2, 3, u64::MAX]), Error::InvalidId { .. });
    refused!(retriever.index(all.slice(0..4), [1i64, 2, 3, i64::MIN]), Error::InvalidId { .. });
    refused!(retriever.index(all.slice(0..4), ["a", "b", "", "c"]), Error::InvalidId { .. });
    let kinds: Vec<Identifier> = vec![1u64.into(), 2u64.into(), 3u64.into(), "a".into()];
    refused!(retriever.index(all.slice(0..4), kinds), Error::IdKind { .. });
    refused!(retriever.retrieve(&query, None), Error::NotIndexed { .. });

    retriever.index(all, Identifiers::RowNumbers).unwrap();
    let before = retriever.retrieve(&query, None).unwrap();
    refused!(retriever.index(all.slice(0..3), Identifiers::RowNumbers), Error::TooFewRows { .. });
    refused!(retriever.retrieve(&query, Some(0)), Error::Parameter { name: "k", .. });
    refused!(retriever.retrieve(&[vec![1.0; 3]], None), Error::Dimension { expected: DIM, got: 3 });
    refused!(retriever.retrieve(&[vec![1.0; 4], vec![1.0; 3]], None), Error::Dimension { .. });
    refused!(retriever.retrieve(&[vec![f32::INFINITY; 4]], None), Error::NotFinite { .. });
    refused!(retriever.retrieve(&[vec![]], None), Error::Length { .. });
    refused!(retriever.query_with_exclusions(&query, [[1u64], [2]], None), Error::Length { .. });
    refused!(retriever.query_with_exclusions(&query, [["a"]], None), Error::IdKind { .. });
    refused!(retriever.upsert([1u64], all.slice(0..2)), Error::Length { .. });
    refused!(retriever.upsert(Identifiers::RowNumbers, all), Error::Length { .. });
    refused!(retriever.upsert(["a"], all.slice(0..1)), Error::IdKind { .. });
    refused!(retriever.upsert([1u64], rows(&data[..3], 3)), Error::Dimension { expected: DIM, got: 3 });
    refused!(retriever.delete(["a"]), Error::IdKind { .. });
    let rerank = SearchParams::new().rerank(20);
    refused!(retriever.search(&query[0], 3, &rerank), Error::Parameter { name: "rerank", .. });
    assert_eq!(retriever.retrieve(&query, None).unwrap(), before, "what is refused changes nothing");
    // Other integers name the same rows.
    assert_eq!(retriever.delete([3i32]).unwrap(), 1);
}

#[test]
fn builders_refuse_what_does_not_fit() {
    let store = memory();
    create(&store, "mine", &spec("Flat", DIM, Metric::L2));
    let parameter = |builder: RetrieverBuilder, expected: &str| match builder.build(&store) {
        Err(Error::Parameter { name, .. }) => assert_eq!(name, expected),
        other => panic!("{expected}: {other:?}"),
    };
    parameter(Retriever::builder().k(0), "k");
    parameter(Retriever::builder().num_leaves(0), "num_leaves");
    parameter(Retriever::builder().num_leaves_to_search(0), "num_leaves_to_search");
    parameter(Retriever::builder().dimensions_per_block(0), "dimensions_per_block");
    parameter(Retriever::builder().num_reordering_candidates(0), "num_reordering_candidates");
    parameter(Retriever::builder().pca(0), "pca");
    parameter(Retriever::builder().autopilot(Quantize::Float32).num_leaves(3), "autopilot");
    parameter(Retriever::builder().without_tree().autopilot(Quantize::Float32), "autopilot");
    refused!(Retriever::builder().name("").build(&store), Error::IndexName { .. });
    refused!(Retriever::builder().name("x".repeat(128)).build(&store), Error::IndexName { .. });
    refused!(Retriever::builder().name("mine").build(&store), Error::IndexExists { .. });
    refused!(Retriever::open(&store, "mine"), Error::Parameter { name: "retriever", .. });

    let data = reals(200, DIM, 17);
    let index = |builder: RetrieverBuilder| {
        builder.in_memory().and_then(|retriever| retriever.index(rows(&data, DIM), Identifiers::RowNumbers))
    };
    refused!(index(Retriever::builder().pca(5)), Error::Spec { .. });
    refused!(index(Retriever::builder().truncate(5)), Error::Spec { .. });
    let threshold = ScoreAh { anisotropic_quantization_threshold: Some(0.2), ..ScoreAh::default() };
    refused!(
        index(Retriever::builder().distance_measure(Metric::L2).score_ah(threshold)),
        Error::Spec { .. }
    );
    refused!(
        index(Retriever::builder().tree(Tree { num_leaves: 1, soar: true, ..Tree::default() })),
        Error::Spec { .. }
    );
    refused!(index(Retriever::builder().distance_measure(Metric::L1)), Error::Spec { .. });
    assert!(
        index(Retriever::builder().distance_measure(Metric::L1).score_brute_force(Quantize::Float32)).is_ok()
    );
}

/// A name that was free when the retriever was built is not taken from another index.
#[test]
fn an_index_of_another_kind_is_not_replaced() {
    let store = memory();
    let retriever = exact(10).build(&store).unwrap();
    create(&store, "retriever", &spec("Flat", DIM, Metric::L2));
    let data = reals(10, DIM, 18);
    refused!(retriever.index(rows(&data, DIM), Identifiers::RowNumbers), Error::IndexExists { .. });
    refused!(retriever.retrieve(&[vec![1.0; DIM]], None), Error::Parameter { name: "retriever", .. });
    assert_eq!(reader(&store, "retriever").spec().to_string(), "Flat");
}

/// Readers keep what they read while a retriever is indexed again, in other dimensions even; two retrievers share a store.
#[test]
fn indexing_again_is_one_transaction() {
    let store = memory();
    let (a, b) = (exact(10).name("a").build(&store).unwrap(), exact(10).name("b").build(&store).unwrap());
    let data = reals(30, 6, 19);
    a.index(rows(&data, 6), Identifiers::RowNumbers).unwrap();
    b.index(rows(&data, 3), texts(60)).unwrap();
    let before = a.reader().unwrap();
    a.index(rows(&data, 3), texts(60)).unwrap();
    assert_eq!((before.dim(), before.len()), (6, 30));
    assert_eq!((a.reader().unwrap().dim(), a.len().unwrap()), (3, 60));
    let query = vec![data[..3].to_vec()];
    assert_eq!(a.retrieve(&query, None).unwrap(), b.retrieve(&query, None).unwrap());
    // A handle from before speaks of what is there now.
    let other = Retriever::open(&store, "a").unwrap();
    b.index(rows(&data, 6), Identifiers::RowNumbers).unwrap();
    a.index(rows(&data, 6), (0..30).collect::<Vec<u64>>()).unwrap();
    assert_eq!(
        other.retrieve(&[data[..6].to_vec()], None).unwrap(),
        b.retrieve(&[data[..6].to_vec()], None).unwrap()
    );
}

/// The note that a retriever keeps its parameters in is any application's.
#[test]
fn notes_are_kept_with_an_index() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("n.vellum");
    let store = Store::create(&path).unwrap();
    create(&store, "i", &spec("IVF2,Flat", DIM, Metric::L2));
    assert_eq!(reader(&store, "i").note().unwrap(), None);
    let data = reals(20, DIM, 20);
    let long: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
    for note in [&b""[..], b"made by model 7", &long, b"short again"] {
        change(&store, "i", |writer| {
            writer.set_note(note).unwrap();
            assert_eq!(writer.reader().note().unwrap().as_deref(), Some(note));
            refused!(writer.set_note(&vec![0; (1 << 20) + 1]), Error::Parameter { name: "note", .. });
        });
        assert_sound(&store, "i");
    }
    change(&store, "i", |writer| {
        train(writer, rows(&data, DIM));
        writer.add(rows(&data, DIM)).unwrap();
        writer.clear().unwrap();
    });
    let txn = store.begin_write().unwrap();
    txn.rename_index("i", "j").unwrap();
    txn.commit().unwrap();
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(reader(&store, "j").note().unwrap().as_deref(), Some(&b"short again"[..]));
    assert_sound(&store, "j");
    create(&store, "i", &spec("Flat", DIM, Metric::L2));
    assert_eq!(reader(&store, "i").note().unwrap(), None);
}
