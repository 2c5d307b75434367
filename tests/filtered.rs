//! Worry: a filtered top-k search that comes back with fewer than k, or with far ones, because what its selector admits is
//! not in the lists that it probes; or one that answers otherwise in a batch, on threads, from the file, or when its
//! parameters are used again.
//!
//! Noticed by brute force over the admitted vectors: where they are few the answer must be theirs whatever `nprobe`, where
//! they are many there must be k of them, none farther than without going further, and on real vectors .95 of the ten nearest.
#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod support;

use support::*;
use vellum::*;

const N: usize = 2400;
const DIM: usize = 8;

/// Codes of all kinds, with exact rows or none beside them; and whether distances are exact.
const SPECS: [(&str, bool); 8] = [
    ("IVF16,Flat", true),
    ("IVF16,FlatDedup", true),
    ("IVF16_SOAR,SQfp16", true),
    ("IVF16,Nibble", true),
    ("IVF16_SOAR,Nibble2,RU8", true),
    ("IVF16,PQ4,RFlat", true),
    ("Nibble2,RFlat", true),
    ("IVF16,Nibble2,RSQ8", false),
];

fn lived_in(store: &Store, text: &str) -> Oracle {
    create(store, "i", &spec(text, DIM, Metric::L2).with_block_order(0));
    let data = integers(N, DIM, 40, 71);
    change(store, "i", |writer| live_in(writer, rows(&data, DIM)))
}

/// So many ids of the index, spread over it, and some that are not there.
fn some(oracle: &Oracle, count: usize, seed: u64) -> Vec<u64> {
    let mut ids = oracle.ids();
    Random::new(seed).shuffle(&mut ids);
    ids.truncate(count);
    ids.extend([u64::MAX - 1, 77_777_777]);
    ids
}

#[test]
fn few_admitted_vectors_are_all_looked_at() {
    let queries = integers(4, DIM, 40, 72);
    for (text, exact) in SPECS {
        let store = memory();
        let oracle = lived_in(&store, text);
        let reader = reader(&store, "i");
        for count in [0, 1, 5, 30] {
            let ids = some(&oracle, count, 73 + count as u64);
            for selector in [
                IdSelector::batch(ids.clone()),
                IdSelector::bitmap(ids.iter().copied().collect()),
                IdSelector::callback({
                    let ids = ids.clone();
                    move |id| ids.contains(&id)
                }),
            ] {
                let params = nprobe(1).selector(selector);
                for query in rows(&queries, DIM).iter() {
                    let found = reader.search(query, 10, &params).unwrap();
                    let ranking = oracle.ranking(query, |id| ids.contains(&id));
                    let nearest = &ranking[..10.min(ranking.len())];
                    let what = format!("{text}: {count} admitted");
                    match exact {
                        true => assert_same(&found, nearest, &what),
                        false => assert_eq!(found.len(), nearest.len(), "{what}"),
                    }
                }
            }
        }
    }
}

#[test]
fn there_are_k_of_them_and_one_way_to_answer() {
    let queries = integers(9, DIM, 40, 74);
    let queries = rows(&queries, DIM);
    for (text, _) in SPECS {
        let store = in_memory(Store::builder().thread_pool(pool(3)));
        let oracle = lived_in(&store, text);
        let reader = reader(&store, "i");
        // What is not in memory is read from the tables.
        let txn = store.begin_write().unwrap();
        let writer = txn.index("i").unwrap();
        let unpinned = writer.reader();
        for count in [9, 10, 11, 150, 700, oracle.vectors.len() - 1] {
            let ids = some(&oracle, count, 75 + count as u64);
            let bitmap = IdSelector::bitmap(ids.iter().copied().collect());
            let params = nprobe(1).selector(bitmap.clone());
            let batch = reader.search_batch(queries, 10, &params).unwrap();
            for found in &batch {
                assert_eq!(found.len(), count.min(10), "{text}: {count} admitted");
                assert!(found.iter().all(|neighbor| ids.contains(&neighbor.id)));
                assert_sorted(found, Metric::L2, text);
            }
            let expected = all_bits(&batch);
            let what = format!("{text}: {count} admitted");
            for _ in 0..2 {
                let fresh = nprobe(1).selector(bitmap.clone());
                let single = |q| reader.search(q, 10, &fresh).unwrap();
                let single: Vec<_> = queries.iter().map(|q| bits(&single(q))).collect();
                assert_eq!(single, expected, "{what}: one by one");
            }
            for mode in [ParallelMode::Lists, ParallelMode::Pairs] {
                let params = params.clone().parallel_mode(mode);
                let found = reader.search_batch(queries, 10, &params).unwrap();
                assert_eq!(all_bits(&found), expected, "{what}: {mode:?}");
            }
            let callback = IdSelector::callback({
                let ids: std::collections::BTreeSet<u64> = ids.iter().copied().collect();
                move |id| ids.contains(&id)
            });
            if count > N / 16 {
                // A sample of rows tells both that they are not thin.
                let params = nprobe(1).selector(callback);
                let found = reader.search(queries.row(0), 10, &params).unwrap();
                assert_eq!(bits(&found), expected[0], "{what}: by a function");
            }
            let found = unpinned.search_batch(queries, 10, &params).unwrap();
            assert_eq!(all_bits(&found), expected, "{what}: from the tables");
        }
    }
}

#[test]
fn going_further_never_makes_it_worse() {
    let store = memory();
    let oracle = lived_in(&store, "IVF16,Flat");
    let reader = reader(&store, "i");
    let queries = integers(20, DIM, 40, 76);
    let mut better = 0;
    for query in rows(&queries, DIM).iter() {
        for count in [40, 300, 1200] {
            let ids = some(&oracle, count, 77 + count as u64);
            let params = nprobe(2).selector(IdSelector::batch(ids.clone()));
            let further = reader.search(query, 10, &params).unwrap();
            let probed = params.filter_mode(FilterMode::Probed);
            let probed = reader.search(query, 10, &probed).unwrap();
            // The plain meaning: what two lists hold, less what the selector leaves out.
            let open = reader.search(query, N, &nprobe(2)).unwrap();
            let plain: Vec<Neighbor> = open.into_iter().filter(|n| ids.contains(&n.id)).take(10).collect();
            assert_eq!(bits(&probed), bits(&plain));
            let worse = further.iter().zip(&probed).any(|(a, b)| a.distance > b.distance);
            assert!(!worse && further.len() >= probed.len());
            better += usize::from(bits(&further) != bits(&probed));
        }
    }
    assert!(better > 20, "{better} of 60 answers are better");
}

#[test]
fn limits_are_limits() {
    let store = memory();
    let oracle = lived_in(&store, "IVF16,Nibble2,RFlat");
    let reader = reader(&store, "i");
    let query = integers(1, DIM, 40, 78);
    let ids = some(&oracle, 200, 79);
    let params = nprobe(1).selector(IdSelector::batch(ids));
    let probed = reader.search(&query, 200, &params.clone().filter_mode(FilterMode::Probed)).unwrap();
    assert!(probed.len() < 100);
    for limited in [params.clone().max_codes(usize::MAX), params.clone().max_lists(1)] {
        assert_eq!(bits(&reader.search(&query, 200, &limited).unwrap()), bits(&probed));
    }
    assert_eq!(reader.search(&query, 200, &params).unwrap().len(), 200);
    // Ranges and chosen lists know nothing of it.
    let all = reader.range_search(&query, f32::INFINITY, &params).unwrap();
    assert_eq!(all.len(), probed.len());
    let lists = reader.probe(rows(&query, DIM), 1).unwrap();
    let chosen = reader.search_preassigned(rows(&query, DIM), &lists, 200, &params).unwrap();
    assert_eq!(bits(&chosen[0]), bits(&probed));
}

#[test]
fn parameters_that_are_used_again_notice_what_changed() {
    let store = memory();
    let oracle = lived_in(&store, "IVF16,Nibble2,RFlat");
    for count in [30, 900] {
        let ids = some(&oracle, count, 80);
        let params = everywhere().rerank(N).selector(IdSelector::bitmap(ids.iter().copied().collect()));
        let query = integers(1, DIM, 40, 81);
        let answer = |params: &SearchParams| reader(&store, "i").search(&query, 20, params).unwrap();
        let before = answer(&params);
        assert_eq!(bits(&before), bits(&answer(&params)));
        let nearest = before[0].id;
        change(&store, "i", |writer| writer.remove_ids(&IdSelector::Array(vec![nearest])).unwrap());
        let after = answer(&params);
        assert_eq!(bits(&after[..19]), bits(&before[1..]), "{count} admitted");
        // The row that was freed has a new tenant, whom the selector does not hold.
        change(&store, "i", |writer| writer.add_with_ids(&[55_555_555], rows(&query, DIM)).unwrap());
        assert_eq!(bits(&answer(&params)), bits(&after));
        change(&store, "i", |writer| writer.remove_ids(&IdSelector::Array(vec![55_555_555])).unwrap());
        change(&store, "i", |writer| writer.add_with_ids(&[nearest], rows(&query, DIM)).unwrap());
        assert_eq!(answer(&params)[0].id, nearest);
    }
}

#[test]
fn the_mode_can_be_a_default() {
    let store = memory();
    let oracle = lived_in(&store, "IVF16,Nibble2,RFlat");
    let query = integers(1, DIM, 40, 82);
    let params = nprobe(1).selector(IdSelector::batch(some(&oracle, 50, 83)));
    let count = |params: &SearchParams| reader(&store, "i").search(&query, 50, params).unwrap().len();
    assert_eq!(count(&params), 50);
    let probed = SearchParams::new().filter_mode(FilterMode::Probed);
    change(&store, "i", |writer| writer.set_search_defaults(&probed).unwrap());
    assert!(count(&params) < 50);
    assert_eq!(count(&params.filter_mode(FilterMode::Adaptive)), 50);
    assert_sound(&store, "i");
}

/// Of every thousandth, hundredth, tenth and second row; without going further at most .5 of them but for the last.
#[test]
fn recall_of_real_vectors_holds_for_any_share() {
    let sample = Sample::load("sift-10k");
    let n = sample.base().len() as u64;
    let store = memory();
    create(&store, "i", &spec("IVF128,Nibble2,RU8", sample.dim, Metric::L2));
    change(&store, "i", |writer| {
        train(writer, sample.base());
        writer.add(sample.base()).unwrap();
    });
    create(&store, "flat", &IndexSpec::flat(sample.dim, Metric::L2));
    change(&store, "flat", |writer| writer.add(sample.base()).unwrap());
    let (index, flat) = (reader(&store, "i"), reader(&store, "flat"));
    for every in [1000, 100, 10, 2] {
        let ids = (0..n).filter(|id| id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 < (1 << 24) / every);
        let params = SearchParams::new().selector(IdSelector::bitmap(ids.collect()));
        let truth = flat.search_batch(sample.queries(), 10, &params).unwrap();
        let found = index.search_batch(sample.queries(), 10, &params).unwrap();
        let hits = |(found, truth): (&Vec<Neighbor>, &Vec<Neighbor>)| {
            truth.iter().filter(|t| found.iter().any(|f| f.id == t.id)).count()
        };
        let hits: usize = found.iter().zip(&truth).map(hits).sum();
        let all: usize = truth.iter().map(Vec::len).sum();
        let recall = hits as f64 / all as f64;
        assert!(recall >= 0.95, "one row in {every}: {recall}");
    }
}

/// How rows are admitted.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Whichever.
    Random,
    /// Those around some rows, cluster after cluster until there are enough: what has one label lies together.
    Clustered,
    /// Those that are farthest from the query.
    Far,
}

impl Way {
    /// So many ids of `0..n`, of which `nearest` tells for a row those nearest to it, nearest first.
    fn ids(self, count: usize, query: usize, nearest: &dyn Fn(Option<usize>) -> Vec<u64>) -> Vec<u64> {
        let all = nearest(None);
        let n = all.len();
        match self {
            Way::Far => all[n - count..].to_vec(),
            Way::Random => {
                let mut random = Random::new(91);
                let mut ids = distinct(&mut random, n as u64, count);
                ids.sort_unstable();
                ids
            }
            Way::Clustered => {
                // Clusters of a fortieth of the rows; another ten of them for every query.
                let (mut random, mut ids) =
                    (Random::new(1000 + query as u64), std::collections::BTreeSet::new());
                while ids.len() < count {
                    let around = nearest(Some(random.below(n)));
                    ids.extend(around[..n / 40].iter().take(count));
                }
                ids.into_iter().take(count).collect()
            }
        }
    }
}

/// So many different numbers below `n`.
fn distinct(random: &mut Random, n: u64, count: usize) -> Vec<u64> {
    let mut ids = std::collections::BTreeSet::new();
    while ids.len() < count {
        ids.insert(random.below(n as usize) as u64);
    }
    ids.into_iter().collect()
}

/// recall@10 of texts with no parameter but the selector: a thousandth, a hundredth, a tenth and half of the rows, anywhere, in
/// clusters, and up to a tenth as far from the query as can be. The truth is brute force over what is admitted.
#[test]
fn recall_of_texts_holds_wherever_the_admitted_rows_are() {
    let sample = Sample::load("text-2k");
    let (base, n) = (sample.base(), sample.base().len());
    for spelling in ["IVF48,Nibble1,RF16", "IVF48_SOAR,Nibble2,RU8"] {
        let metric = if spelling.contains("SOAR") { Metric::L2 } else { Metric::InnerProduct };
        // Bytes hold no texts: those are scaled to whole numbers of 0 to 255.
        let bytes: Vec<f32> =
            base.as_slice().iter().map(|v| (v * 500.0 + 128.0).round().clamp(0.0, 255.0)).collect();
        let queries: Vec<f32> =
            sample.queries.iter().map(|v| (v * 500.0 + 128.0).round().clamp(0.0, 255.0)).collect();
        let (base, queries) = match metric {
            Metric::L2 => (rows(&bytes, sample.dim), rows(&queries, sample.dim)),
            _ => (base, sample.queries()),
        };
        let store = memory();
        create(&store, "i", &spec(spelling, sample.dim, metric));
        create(&store, "flat", &IndexSpec::flat(sample.dim, metric));
        change(&store, "flat", |writer| writer.add(base).unwrap());
        change(&store, "i", |writer| {
            train(writer, base);
            writer.add(base).unwrap();
        });
        let (index, flat) = (reader(&store, "i"), reader(&store, "flat"));
        let everything = |query: &[f32]| -> Vec<u64> {
            let found = flat.search(query, n, &SearchParams::new()).unwrap();
            found.into_iter().map(|found| found.id).collect()
        };
        for way in [Way::Random, Way::Clustered, Way::Far] {
            // The half that is farthest is out of the question: its nearest are as far as the median, in every direction.
            let shares = if matches!(way, Way::Far) { &[1000, 100, 10][..] } else { &[1000, 100, 10, 2] };
            for &every in shares {
                let (mut hits, mut all) = (0, 0);
                for (number, query) in queries.iter().enumerate() {
                    let nearest = |row: Option<usize>| everything(row.map_or(query, |row| base.row(row)));
                    let ids = way.ids(n / every, number, &nearest);
                    assert_eq!(ids.len(), n / every);
                    let params = SearchParams::new().selector(IdSelector::bitmap(ids.into_iter().collect()));
                    let truth = flat.search(query, 10, &params).unwrap();
                    let found = index.search(query, 10, &params).unwrap();
                    assert_eq!(found.len(), truth.len(), "{spelling}, {way:?}, one row in {every}");
                    hits += truth.iter().filter(|t| found.iter().any(|f| f.id == t.id)).count();
                    all += truth.len();
                }
                let recall = hits as f64 / all as f64;
                assert!(recall >= 0.95, "{spelling}, {way:?}, one row in {every}: {recall}");
            }
        }
    }
}
