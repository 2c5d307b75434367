//! Reranking up to a bound: how many rows are scored is the query's own affair, and nobody else's.
//!
//! The worries: a bound that never stops or always does; candidates dropped before they could be scored; answers that
//! depend on how the work was cut, since a stop looks at rows in an order; a default that comes back as another one. They
//! would show against a fixed number of rows, which a bound wide enough must equal bit for bit, against a bound of 0, and
//! between threads, batches, blocks, caches and numberings of rows. How many rows are scored, and what recall they buy, is
//! counted where they are scored (`src/index/bound.rs`).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use support::*;
use vellum::*;

const DIM: usize = 24;

/// Specifications of every kind of code and of kept rows, and how many rows for each one wanted are scored by default.
const SPECS: [(&str, usize); 8] = [
    ("IVF9,Nibble2,RFlat", 5),
    ("IVF9,Nibble2,RU8", 5),
    ("IVF9,Nibble1,RF16", 12),
    ("IVF9,Nibble1,RSQ8", 12),
    ("IVF9,Nibble2,RSQ8+Flat", 5),
    ("IVF9_SOAR,Nibble1,RFlat", 12),
    ("IVF9,SQbf16,RFlat", 4),
    ("Flat,RFlat", 4),
];

fn bound(z: f32) -> SearchParams {
    nprobe(6).rerank(Rerank::Bound(z))
}

/// Real numbers, or bytes where only those are kept.
fn data(text: &str, n: usize, seed: u64) -> Vec<f32> {
    if text.ends_with("RU8") { integers(n, DIM, 255, seed) } else { reals(n, DIM, seed) }
}

fn lived_in(text: &str, metric: Metric) -> Store {
    let store = memory();
    create(&store, "i", &spec(text, DIM, metric).with_block_order(0));
    change(&store, "i", |writer| live_in(writer, rows(&data(text, 2000, 1), DIM)));
    store
}

fn cases() -> impl Iterator<Item = (&'static str, usize, Metric)> {
    let fits =
        |(text, _, metric): &(&str, usize, Metric)| *metric != Metric::Cosine || !text.ends_with("RU8");
    SPECS.into_iter().flat_map(|(text, factor)| METRICS.map(|metric| (text, factor, metric))).filter(fits)
}

#[test]
fn a_wide_bound_is_a_fixed_number_of_rows_and_a_narrow_one_answers_too() {
    for (text, factor, metric) in cases() {
        let store = lived_in(text, metric);
        let reader = reader(&store, "i");
        let queries = data(text, 12, 2);
        let queries = rows(&queries, DIM);
        for k in [1, 3, 10, 40] {
            let wide = reader.search_batch(queries, k, &bound(1e9)).unwrap();
            let fixed = nprobe(6).rerank((3 * factor * k / 2).max(32));
            assert_eq!(
                all_bits(&wide),
                all_bits(&reader.search_batch(queries, k, &fixed).unwrap()),
                "{text} {k}"
            );
            // The fewest rows hold k: nothing is missing, and the distances are those of the kept rows.
            let narrow = reader.search_batch(queries, k, &bound(0.0)).unwrap();
            let least = nprobe(6).rerank((2 * k).max(16));
            let least = reader.search_batch(queries, k, &least).unwrap();
            for ((narrow, least), wide) in narrow.iter().zip(&least).zip(&wide) {
                assert_eq!((narrow.len(), least.len()), (k, k), "{text} {k}");
                assert_sorted(narrow, metric, text);
                let score = |n: &Neighbor| if metric.is_similarity() { -n.distance } else { n.distance };
                let worst = |found: &[Neighbor]| score(&found[k - 1]);
                assert!(worst(wide) <= worst(narrow) && worst(narrow) <= worst(least), "{text} {k}");
            }
        }
    }
}

/// Few values, so that estimates and distances tie everywhere: a stop among them takes all of them.
#[test]
fn the_answer_is_the_same_however_the_work_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    for (text, tied) in SPECS.into_iter().flat_map(|(text, _)| [(text, false), (text, true)]) {
        let make = |n, seed| if tied { integers(n, DIM, 2, seed) } else { data(text, n, seed) };
        let (base, queries) = (make(1500, 3), make(30, 4));
        let queries = rows(&queries, DIM);
        let mut expected = None;
        let mut file = 0;
        for (backwards, order, threads, cache_bytes) in [
            (false, 0, 1, 1 << 30),
            (true, 0, 1, 1 << 30),
            (false, 2, 3, 1 << 30),
            (true, 1, 2, 30_000),
            (false, 0, 4, 0),
        ] {
            file += 1;
            let path = folder.path().join(format!("{text}-{tied}-{file}"));
            let store =
                Store::builder().cache_bytes(cache_bytes).thread_pool(pool(threads)).create(&path).unwrap();
            create(&store, "i", &spec(text, DIM, Metric::L2).with_block_order(order));
            change(&store, "i", |writer| {
                if writer.spec().nlist().is_some() {
                    train(writer, rows(&base, DIM));
                }
                // Ids say which vector it is, row numbers when it came.
                let mut ids: Vec<u64> = (0..1500).collect();
                let mut base: Vec<&[f32]> = base.chunks(DIM).collect();
                if backwards {
                    ids.reverse();
                    base.reverse();
                }
                writer.add_with_ids(&ids, rows(&base.concat(), DIM)).unwrap();
            });
            let reader = reader(&store, "i");
            for z in [0.0, 1.0, 3.0] {
                let batch = all_bits(&reader.search_batch(queries, 10, &bound(z)).unwrap());
                for (query, expected) in queries.iter().zip(&batch) {
                    assert_eq!(bits(&reader.search(query, 10, &bound(z)).unwrap()), *expected, "{text} {z}");
                }
                let expected = expected.get_or_insert_with(std::collections::BTreeMap::new);
                let expected = expected.entry(z.to_string()).or_insert_with(|| batch.clone());
                assert_eq!(
                    batch, *expected,
                    "{text} {tied} {z}: {backwards} {order} {threads} {cache_bytes}"
                );
            }
        }
    }
}

/// A range looks at everything within its radius, and a heap is continued: whatever the bound is.
#[test]
fn ranges_do_not_care_and_heaps_go_on() {
    for (text, _, metric) in cases() {
        let store = lived_in(text, metric);
        let reader = reader(&store, "i");
        let query = data(text, 1, 5);
        let radius = reader.search(&query, 50, &nprobe(6)).unwrap()[49].distance;
        let range = |params: &SearchParams| bits(&reader.range_search(&query, radius, params).unwrap());
        assert_eq!(range(&bound(0.0)), range(&nprobe(6)), "{text} {metric}");
        // Both halves through one heap: each answer is one that a search of its half finds.
        let halves = [IdSelector::callback(|id| id % 2 == 0), IdSelector::callback(|id| id % 2 == 1)];
        let mut heap = TopK::new(5);
        let mut all = Vec::new();
        for half in halves {
            let params = bound(3.0).selector(half);
            all.extend(reader.search(&query, 5, &params).unwrap());
            reader.search_into(&query, &mut heap, &params).unwrap();
        }
        assert_eq!(heap.neighbors().len(), 5, "{text} {metric}");
        assert_sorted(heap.neighbors(), metric, text);
        assert!(heap.neighbors().iter().all(|n| all.contains(n)), "{text} {metric}");
    }
}

#[test]
fn defaults_of_both_forms_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.vellum");
    let store = Store::create(&path).unwrap();
    create(&store, "i", &spec("IVF9,Nibble1,RFlat", DIM, Metric::L2));
    change(&store, "i", |writer| live_in(writer, rows(&data("", 2000, 6), DIM)));
    drop(store);
    let queries = data("", 40, 7);
    let queries = rows(&queries, DIM);
    let mut answers = Vec::new();
    for rerank in [Some(Rerank::Bound(0.0)), Some(Rerank::Bound(2.5)), Some(Rerank::Rows(30)), None] {
        let set = |params: SearchParams| rerank.map_or(params.clone(), |rerank| params.rerank(rerank));
        let store = Store::open(&path).unwrap();
        change(&store, "i", |writer| writer.set_search_defaults(&set(nprobe(6))).unwrap());
        drop(store);
        let store = Store::open(&path).unwrap();
        let reader = reader(&store, "i");
        let said = format!("{:?}", reader.search_defaults());
        assert!(said.contains(&format!("rerank: {rerank:?}")), "{said}");
        let found = all_bits(&reader.search_batch(queries, 10, &SearchParams::new()).unwrap());
        let named = all_bits(&reader.search_batch(queries, 10, &set(nprobe(6))).unwrap());
        let told = all_bits(&reader.search_batch(queries, 10, &reader.search_defaults()).unwrap());
        assert!(found == named && found == told, "{rerank:?}");
        // A number stored for few is enough for many.
        assert_eq!(reader.search(queries.row(0), 50, &SearchParams::new()).unwrap().len(), 50);
        assert_sound(&store, "i");
        answers.push(found);
    }
    assert!(answers.windows(2).all(|pair| pair[0] != pair[1]), "each of them matters here");
}
