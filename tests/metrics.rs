//! Worry: a metric that computes something else than it says, loses a row because a component is missing, forgets its p when the
//! store is opened again, or lets in what it cannot rank.
//!
//! Noticed by comparing every metric beyond L2 and products with its formula in f64 over a lived-in index, with what
//! FAISS found (`tests/fixtures/faiss`), and by giving each of them what it does not take. That every verb goes with them is
//! for `tests/operations.rs`, which draws them too.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use std::path::PathBuf;
use support::*;
use vellum::*;

fn metrics() -> Vec<Metric> {
    let powers = [0.5, 1.0, 2.7, 3.0].map(|p| Metric::lp(p).unwrap());
    let others = [
        Metric::L1,
        Metric::Linf,
        Metric::Canberra,
        Metric::BrayCurtis,
        Metric::JensenShannon,
        Metric::Jaccard,
        Metric::NanEuclidean,
        Metric::Gower,
    ];
    others.into_iter().chain(powers).collect()
}

fn takes_missing(metric: Metric) -> bool {
    matches!(metric, Metric::NanEuclidean | Metric::Gower)
}

/// The formulas of FAISS, in f64; `None` where they give no number.
fn distance(metric: Metric, q: &[f32], x: &[f32]) -> Option<f64> {
    let pairs: Vec<(f64, f64)> = q.iter().zip(x).map(|(q, x)| (f64::from(*q), f64::from(*x))).collect();
    let sum = |term: &dyn Fn(f64, f64) -> f64| pairs.iter().map(|(q, x)| term(*q, *x)).sum::<f64>();
    let gap = |q: f64, x: f64| (q - x).abs();
    let present = || pairs.iter().filter(|(q, x)| !q.is_nan() && !x.is_nan());
    let plog = |p: f64, m: f64| if p == 0.0 { 0.0 } else { p * (p / m).ln() };
    let distance = match metric {
        Metric::L1 => sum(&gap),
        Metric::Linf => pairs.iter().map(|(q, x)| gap(*q, *x)).fold(0.0, f64::max),
        Metric::Lp(p) => sum(&|q, x| gap(q, x).powf(p.get().into())),
        Metric::Canberra => sum(&|q, x| if q == x { 0.0 } else { gap(q, x) / (q.abs() + x.abs()) }),
        Metric::BrayCurtis => sum(&gap) / sum(&|q, x| (q + x).abs()),
        Metric::JensenShannon => 0.5 * sum(&|q, x| plog(q, (q + x) / 2.0) + plog(x, (q + x) / 2.0)),
        Metric::Jaccard => sum(&|q, x| q.min(x)) / sum(&|q, x| q.max(x)),
        Metric::NanEuclidean => {
            let sum: f64 = present().map(|(q, x)| gap(*q, *x).powi(2)).sum();
            pairs.len() as f64 / present().count() as f64 * sum
        }
        Metric::Gower => {
            let part = |(q, x): &(f64, f64)| match (*q >= 0.0, *x >= 0.0) {
                (true, true) => gap(*q, *x),
                (false, false) => f64::from(u8::from(q != x)),
                _ => f64::NAN,
            };
            present().map(part).sum::<f64>() / present().count() as f64
        }
        _ => panic!("{metric} has an oracle of its own"),
    };
    Some(distance).filter(|distance| distance.is_finite())
}

/// What brute force finds: the vectors that have a distance to the query, nearest first, ties by id.
fn ranking(oracle: &Oracle, query: &[f32], keep: impl Fn(u64) -> bool) -> Vec<Exact> {
    let exact = |(id, row): (&u64, &Vec<f32>)| {
        let distance = distance(oracle.metric, query, row)?;
        // Sums of terms of one sign: what rounds is as large as the result. Quotients and powers round thrice.
        Some(Exact { id: *id, distance, scale: 3.0 * distance.abs() })
    };
    let mut all: Vec<Exact> = oracle.vectors.iter().filter(|(id, _)| keep(**id)).filter_map(exact).collect();
    let score = |e: &Exact| if oracle.metric.is_similarity() { -e.distance } else { e.distance };
    all.sort_by(|a, b| score(a).total_cmp(&score(b)).then(a.id.cmp(&b.id)));
    all
}

/// Vectors that the metric is made for; some components are 0, or missing.
fn vectors(metric: Metric, n: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    let component = |at: usize| {
        let value = random.unit();
        match (metric, random.below(10)) {
            (_, 0) if takes_missing(metric) => f32::NAN,
            (Metric::Gower, _) if at % dim % 3 == 1 => -1.0 - random.below(4) as f32,
            (_, 1) => 0.0,
            (Metric::JensenShannon | Metric::Jaccard | Metric::Gower, _) => value,
            _ => 2.0 * value - 1.0,
        }
    };
    (0..n * dim).map(component).collect()
}

#[test]
fn answers_are_those_of_brute_force() {
    for metric in metrics() {
        for (text, dim) in [("Flat", 9), ("IVF7,Flat", 40), ("IVF7,Flat", 1)] {
            let (data, queries) = (vectors(metric, 400, dim, 1), vectors(metric, 9, dim, 2));
            let store = memory();
            create(&store, "i", &spec(text, dim, metric).with_block_order(0));
            let oracle = change(&store, "i", |writer| live_in(writer, rows(&data, dim)));
            assert_sound(&store, "i");
            let reader = reader(&store, "i");
            let what = format!("{text}, {dim}, {metric}");
            let batch = reader.search_batch(rows(&queries, dim), 30, &everywhere()).unwrap();
            let even = everywhere().selector(IdSelector::callback(|id| id % 2 == 0));
            for (query, found) in rows(&queries, dim).iter().zip(&batch) {
                let all = ranking(&oracle, query, |_| true);
                assert_eq!(found.len(), all.len().min(30), "{what}");
                assert_close(found, &all, metric, &what);
                assert_eq!(
                    bits(found),
                    bits(&reader.search(query, 30, &everywhere()).unwrap()),
                    "{what}: alone"
                );
                let some = reader.search(query, 400, &even).unwrap();
                let expected = ranking(&oracle, query, |id| id % 2 == 0);
                assert_eq!(some.len(), expected.len(), "{what}: selected");
                assert_close(&some, &expected, metric, &what);
                // The radius is that of a hit: strictly nearer ones are found, that one is not.
                if let Some(last) = found.last() {
                    let within = reader.range_search(query, last.distance, &everywhere()).unwrap();
                    let nearer = found.iter().filter(|n| n.distance != last.distance);
                    assert_eq!(bits(&within), bits(&nearer.copied().collect::<Vec<_>>()), "{what}: radius");
                }
                let mut heap = TopK::new(30);
                reader.search_into(query, &mut heap, &even).unwrap();
                let odd = everywhere().selector(IdSelector::callback(|id| id % 2 == 1));
                reader.search_into(query, &mut heap, &odd).unwrap();
                assert_eq!(bits(heap.neighbors()), bits(found), "{what}: heap");
            }
        }
    }
}

/// The header holds the metric and its p: another process reads the same answers, and goes on.
#[test]
fn a_metric_is_the_same_when_the_store_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    for (number, metric) in metrics().into_iter().enumerate() {
        let path = folder.path().join(format!("{number}.vellum"));
        let (data, query) = (vectors(metric, 200, 6, 3), vectors(metric, 1, 6, 4));
        let store = Store::create(&path).unwrap();
        create(&store, "i", &spec("IVF5,Flat", 6, metric));
        change(&store, "i", |writer| {
            train(writer, rows(&data, 6));
            writer.add(rows(&data, 6)).unwrap();
        });
        let before = state(&reader(&store, "i"));
        let found = reader(&store, "i").search(&query, 50, &everywhere()).unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        assert_eq!(reader(&store, "i").metric(), metric);
        assert_eq!(state(&reader(&store, "i")), before);
        assert_eq!(bits(&reader(&store, "i").search(&query, 50, &everywhere()).unwrap()), bits(&found));
        assert_sound(&store, "i");
        change(&store, "i", |writer| {
            writer.train_stored(&TrainParams::default(), &mut Observer::none()).unwrap()
        });
        assert_eq!(bits(&reader(&store, "i").search(&query, 50, &everywhere()).unwrap()), bits(&found));
        assert_sound(&store, "i");
    }
}

/// Missing components: whatever NaN they came as, they stay missing through training, repair and retraining; a vector of
/// nothing else is kept and never found.
#[test]
fn missing_components_stay_missing() {
    for metric in [Metric::NanEuclidean, Metric::Gower] {
        let odd = f32::from_bits(0xffff_ffff);
        let data = vectors(metric, 120, 4, 5);
        let store = memory();
        create(&store, "i", &spec("IVF6,Flat", 4, metric));
        change(&store, "i", |writer| {
            writer.add(rows(&[odd; 4], 4)).unwrap();
            train(writer, rows(&data, 4));
            writer.add(rows(&data, 4)).unwrap();
            writer.add(rows(&[odd, 0.5, odd, 0.25], 4)).unwrap();
        });
        change(&store, "i", |writer| {
            assert_eq!(writer.repair(&mut Observer::none()).unwrap().lost_ids, []);
            writer.train_stored(&TrainParams::default(), &mut Observer::none()).unwrap();
        });
        assert_sound(&store, "i");
        let reader = reader(&store, "i");
        assert!(reader.centroids().unwrap().as_slice().iter().all(|v| v.is_finite()));
        let nothing = reader.reconstruct(0).unwrap();
        assert!(nothing.iter().all(|v| v.to_bits() == f32::NAN.to_bits()), "{nothing:?}");
        let some = reader.reconstruct(121).unwrap();
        assert!(some[0].is_nan() && some[1] == 0.5 && some[2].is_nan() && some[3] == 0.25, "{some:?}");
        assert_eq!(reader.search(&[odd; 4], 300, &everywhere()).unwrap(), []);
        let found = reader.search(&[0.5, f32::NAN, 0.5, 0.25], 300, &everywhere()).unwrap();
        assert!(!found.is_empty() && found.iter().all(|n| n.id != 0 && n.distance.is_finite()));
        assert!(reader.stats().unwrap().mean_residual.is_finite());
    }
}

/// A centroid is the mean of what is present, and of categories the commonest.
#[test]
fn centroids_are_of_what_is_present() {
    let nan = f32::NAN;
    let params = ClusteringParams { niter: 3, ..ClusteringParams::default() };
    let centroids = |metric, data: &[f32], dim| {
        let k = 1;
        kmeans(rows(data, dim), k, metric, &params, None, &mut Observer::none()).unwrap().centroids
    };
    assert_eq!(centroids(Metric::NanEuclidean, &[1.0, nan, 3.0, 8.0, nan, nan], 2), [2.0, 8.0]);
    assert_eq!(centroids(Metric::NanEuclidean, &[nan, 1.0, nan, 3.0], 2), [0.0, 2.0]);
    let rows = [0.5, -2.0, 1.0, -7.0, nan, -2.0, 0.0, nan];
    assert_eq!(centroids(Metric::Gower, &rows, 2), [0.5, -2.0]);
}

/// Some pairs have no distance, and then there is no answer, as with FAISS.
#[test]
fn a_pair_without_a_distance_is_not_found() {
    for (metric, row, query) in [
        (Metric::Jaccard, [0.0, 0.0], [0.0, 0.0]),
        (Metric::BrayCurtis, [0.0, 0.0], [0.0, 0.0]),
        (Metric::BrayCurtis, [1.0, -2.0], [-1.0, 2.0]),
        (Metric::Gower, [0.5, 0.5], [0.5, -1.0]),
        (Metric::NanEuclidean, [f32::NAN, 0.5], [0.5, f32::NAN]),
    ] {
        let store = memory();
        create(&store, "i", &spec("Flat", 2, metric));
        change(&store, "i", |writer| writer.add(rows(&[row, [0.5, 0.25]].concat(), 2)).unwrap());
        let reader = reader(&store, "i");
        let found = ids_of(&reader.search(&query, 2, &everywhere()).unwrap());
        assert!(!found.contains(&0), "{metric}: {found:?}");
        let radius = if metric.is_similarity() { f32::NEG_INFINITY } else { f32::INFINITY };
        assert!(!ids_of(&reader.range_search(&query, radius, &everywhere()).unwrap()).contains(&0));
        let own = reader.search(&[0.5, 0.25], 1, &everywhere()).unwrap();
        assert_eq!(ids_of(&own), [1], "{metric}");
    }
}

#[test]
fn what_a_metric_does_not_take_is_refused_and_changes_nothing() {
    for metric in metrics() {
        let data = vectors(metric, 60, 3, 6);
        let store = memory();
        create(&store, "i", &spec("IVF4,Flat", 3, metric));
        change(&store, "i", |writer| live_in(writer, rows(&data, 3)));
        let before = state(&reader(&store, "i"));
        let mut wrong = vec![f32::INFINITY, f32::NEG_INFINITY, 3e38, -3e38];
        wrong.extend((!takes_missing(metric)).then_some(f32::NAN));
        wrong.extend(matches!(metric, Metric::JensenShannon | Metric::Jaccard).then_some(-1e-3));
        wrong.extend((metric == Metric::Gower).then_some(1.001));
        for value in wrong {
            let mut bad = data[..5 * 3].to_vec();
            bad[2 * 3 + 1] = value;
            let batch = rows(&bad, 3);
            let ids: Vec<u64> = before_ids(&store).into_iter().take(5).collect();
            let fresh: Vec<u64> = (900_000..900_005).collect();
            change(&store, "i", |writer| {
                let params = TrainParams::default();
                let initial = TrainParams { initial: Some(bad[3..9].to_vec()), ..params.clone() };
                let good = rows(&data, 3);
                let verbs = [
                    ("add", 2, writer.add(batch).map(drop)),
                    ("add_with_ids", 2, writer.add_with_ids(&fresh, batch)),
                    ("upsert", 2, writer.upsert(&ids, batch).map(drop)),
                    ("update_vectors", 2, writer.update_vectors(&ids, batch)),
                    ("train", 2, writer.train(batch, &params, &mut Observer::none()).map(drop)),
                    ("initial", 1, writer.train(good, &initial, &mut Observer::none()).map(drop)),
                    ("search", 2, writer.reader().search_batch(batch, 3, &everywhere()).map(drop)),
                    ("range", 2, writer.reader().range_search_batch(batch, 1.0, &everywhere()).map(drop)),
                    (
                        "kmeans",
                        2,
                        kmeans(batch, 2, metric, &params.clustering, None, &mut Observer::none()).map(drop),
                    ),
                ];
                for (verb, at, result) in verbs {
                    match result {
                        Err(Error::NotFinite { row, component: 1, .. })
                            if row == at && !value.is_finite() => {}
                        Err(Error::OutOfDomain { row, component: 1, value: v, least, most })
                            if row == at && v == value && !(least..=most).contains(&v) => {}
                        other => panic!("{metric}, {value}, {verb}: {other:?}"),
                    }
                }
                assert!(!writer.is_poisoned());
            });
            assert_eq!(state(&reader(&store, "i")), before, "{metric}, {value}");
        }
        assert_sound(&store, "i");
    }
}

fn before_ids(store: &Store) -> Vec<u64> {
    reader(store, "i").ids().unwrap()
}

#[test]
fn such_metrics_go_with_flat_codes_alone() {
    for metric in metrics() {
        for (text, why) in [
            ("SQfp16", "f32 codes"),
            ("IVF4,SQbf16", "f32 codes"),
            ("IVF4,Nibble2", "f32 codes"),
            ("Flat,RFlat", "add nothing"),
            ("IVF4,Flat,RU8", "add nothing"),
            ("IVF4_SOAR,Flat", "spilling"),
            ("IVF4(IVF2),Flat", "tree"),
            ("PCA2,IVF4,Flat", "mix"),
        ] {
            let store = memory();
            let txn = store.begin_write().unwrap();
            match txn.create_index("i", &spec(text, 4, metric)) {
                Err(Error::Spec { what, .. }) => {
                    assert!(
                        what.contains(why) && what.contains(&metric.to_string()),
                        "{text} {metric}: {what}"
                    );
                }
                other => panic!("{text} {metric}: {other:?}"),
            }
        }
        let store = memory();
        for (name, text) in
            [("a", "Flat"), ("b", "IVF4,Flat"), ("c", "IVF4(Flat),Flat"), ("d", "IVF65536,Flat")]
        {
            create(&store, name, &spec(text, 4, metric));
        }
        assert_eq!(reader(&store, "d").spec().to_string(), "IVF65536(Flat),Flat", "no tree is grown unasked");
    }
}

// ---------------------------------------------------------------- FAISS

/// The numbers of a file of `tests/fixtures/faiss`, of whatever shape.
fn fixture(name: &str) -> Vec<f32> {
    let path: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures", "faiss", &format!("{name}.npy")].iter().collect();
    let bytes = std::fs::read(path).unwrap();
    let body = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..body]).unwrap();
    let (bytes, words) = (&bytes[body..], bytes[body..].as_chunks::<4>().0.iter());
    match header.split('\'').nth(3).unwrap() {
        "|u1" => bytes.iter().map(|v| f32::from(*v)).collect(),
        "<f4" => words.map(|v| f32::from_le_bytes(*v)).collect(),
        "<i4" => words.map(|v| i32::from_le_bytes(*v) as f32).collect(),
        other => panic!("{name}: {other}"),
    }
}

/// FAISS looked into the four lists nearest by L2 under every metric, so here a selector holds what is in them.
#[test]
fn faiss_found_the_same() {
    const DIM: usize = 32;
    let lists = fixture("positive.both.lists");
    let probes = fixture("positive.l2.probes");
    for (name, metric) in [
        ("l1", Metric::L1),
        ("linf", Metric::Linf),
        ("lp3", Metric::lp(3.0).unwrap()),
        ("canberra", Metric::Canberra),
        ("braycurtis", Metric::BrayCurtis),
        ("jensenshannon", Metric::JensenShannon),
        ("jaccard", Metric::Jaccard),
        ("naneuclidean", Metric::NanEuclidean),
        ("gower", Metric::Gower),
    ] {
        let scale = if ["gower", "jensenshannon"].contains(&name) { 256.0 } else { 1.0 };
        let scaled = |name| fixture(name).iter().map(|v| v / scale).collect::<Vec<f32>>();
        let (base, queries) = (scaled("positive.both.base"), scaled("positive.both.queries"));
        let expected = fixture(&format!("Flat.{name}.found"));
        let (ids, distances) = expected.split_at(expected.len() / 2);
        let store = memory();
        create(&store, "i", &spec("IVF8,Flat", DIM, metric));
        change(&store, "i", |writer| {
            train(writer, rows(&base, DIM));
            writer.add(rows(&base, DIM)).unwrap();
        });
        for (q, query) in rows(&queries, DIM).iter().enumerate() {
            let probed = &probes[4 * q..4 * q + 4];
            let within = (0..1000).filter(|id| probed.contains(&lists[*id as usize]));
            let params = everywhere().selector(IdSelector::batch(within));
            let found = reader(&store, "i").search(query, 10, &params).unwrap();
            for (rank, neighbor) in found.iter().enumerate() {
                let (id, distance) = (ids[10 * q + rank], distances[10 * q + rank]);
                let off = (neighbor.distance - distance).abs();
                let what =
                    format!("{metric}, query {q}, rank {rank}: {neighbor:?}, FAISS {id} at {distance}");
                assert!(off <= 1e-5 * distance.abs(), "{what}");
                // Ties, and what rounding makes of them, may stand in another order.
                let tie =
                    |other: usize| (distances[10 * q + other] - distance).abs() <= 2e-5 * distance.abs();
                let same = neighbor.id as f32 == id;
                assert!(same || (0..10).any(|other| other != rank && tie(other)) || rank == 9, "{what}");
            }
            assert_eq!(found.len(), 10);
        }
    }
}

// ---------------------------------------------------------------- the lists of real data

/// Centroids of a k-means under the metric itself, and of one by L2: in either case lists are found by the metric. With all
/// 10,000 descriptors, 50 queries and 8 of 64 lists, recall@10 was .762 and .698 (L∞), .952 and .906 (L½), .934 and .944 (L1),
/// .758 and .782 (Canberra), .938 twice (Bray-Curtis, Jaccard), .920 and .926 (Jensen-Shannon), .934 and .944 (Gower). So
/// the metric's own stay, as in FAISS: they gain more where they gain, and data with missing components have no others.
/// Floors are for seed 1234 on fewer rows, well below what was found.
#[test]
fn lists_of_the_metric_itself_find_as_much_as_those_of_l2() {
    let sample = Sample::load("sift-10k");
    let (data, queries) = (sample.base().slice(0..2000), sample.queries().slice(0..20));
    for (metric, floor) in [(Metric::L1, 0.8), (Metric::Linf, 0.5), (Metric::Canberra, 0.5)] {
        let recall = |params: &TrainParams| {
            let store = memory();
            create(&store, "i", &spec("IVF20,Flat", sample.dim, metric));
            change(&store, "i", |writer| {
                writer.train(data, params, &mut Observer::none()).unwrap();
                writer.add(data).unwrap();
            });
            let reader = reader(&store, "i");
            let exact = reader.search_batch(queries, 10, &everywhere()).unwrap();
            let found = reader.search_batch(queries, 10, &nprobe(4)).unwrap();
            let hits = |(exact, found): (&Vec<Neighbor>, &Vec<Neighbor>)| {
                found.iter().filter(|n| exact.contains(n)).count()
            };
            exact.iter().zip(&found).map(hits).sum::<usize>() as f64 / (10 * queries.len()) as f64
        };
        let own = recall(&TrainParams::default());
        let clustering = ClusteringParams::default();
        let l2 = kmeans(data, 20, Metric::L2, &clustering, None, &mut Observer::none()).unwrap().centroids;
        let frozen = with(|params| (params.frozen_centroids, params.niter) = (true, 1));
        let l2 = recall(&TrainParams { initial: Some(l2), ..frozen });
        println!("{metric}: {own:.3}, with centroids by L2 {l2:.3}");
        assert!(own >= floor && own >= l2 - 0.1, "{metric}: {own}, with centroids by L2 {l2}");
    }
}
