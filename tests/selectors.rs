//! Worry: a filtered search that leaks what the selector excludes, or loses what it admits: because the
//! bitmap of rows was made before an update moved a row, because a combination lists its ids wrongly,
//! because the way that is cheap for this selector differs from the others.
//!
//! Noticed by comparing every kind of selector, alone and nested, with brute force over the subset; and by
//! taking all three ways to the answer on the same index and query. Which way the library takes depends on
//! sizes alone:
//!
//! | the selector | the search | way |
//! |---|---|---|
//! | can be listed in at most max(256, scanned / 8) ids | any | each id is looked up: a bitmap of their rows |
//! | cannot | scans fewer entries than the index has | the id of each promising entry is tested |
//! | cannot | scans more | all ids are tested once: a bitmap of rows |
#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod support;

use roaring::RoaringTreemap;
use std::collections::BTreeSet;
use support::*;
use vellum::*;

const N: usize = 2400;
const LISTS: usize = 12;

/// An index of integers (so that ties abound and arithmetic is exact) that was lived in, and its copy.
struct Fixture {
    store: Store,
    oracle: Oracle,
    queries: Vec<f32>,
    dim: usize,
}

impl Fixture {
    fn new(metric: Metric) -> Self {
        let dim = 4;
        let store = memory();
        create(&store, "i", &spec(&format!("IVF{LISTS},Flat"), dim, metric).with_block_order(0));
        let data = integers(N, dim, 9, 31);
        let oracle = change(&store, "i", |writer| live_in(writer, rows(&data, dim)));
        Fixture { store, oracle, queries: integers(3, dim, 9, 32), dim }
    }

    fn queries(&self) -> Rows<'_> {
        rows(&self.queries, self.dim)
    }

    /// Asks in every way that takes a selector and compares with brute force over the subset.
    fn check(&self, selector: &IdSelector, keep: impl Fn(u64) -> bool, what: &str) {
        let reader = reader(&self.store, "i");
        let n = self.oracle.vectors.len();
        let farthest = if self.oracle.metric == Metric::L2 { f32::INFINITY } else { f32::NEG_INFINITY };
        for query in self.queries().iter() {
            let ranking = self.oracle.ranking(query, &keep);
            let params = everywhere().selector(selector.clone());
            for k in [1, 10, n] {
                let found = reader.search(query, k, &params).unwrap();
                assert_same(&found, &ranking[..k.min(ranking.len())], &format!("{what}: {k} of all lists"));
            }
            assert_same(&reader.range_search(query, farthest, &params).unwrap(), &ranking, what);
            if let Some(middle) = ranking.get(ranking.len() / 2) {
                let radius = middle.distance as f32;
                let nearer =
                    |e: &Exact| (e.distance != middle.distance) && ranking_before(&self.oracle, e, middle);
                let within: Vec<Exact> = ranking.iter().copied().take_while(nearer).collect();
                assert_same(&reader.range_search(query, radius, &params).unwrap(), &within, what);
            }
            // Few lists: what the same search without a selector finds, less what the selector excludes.
            for probes in [1, 3] {
                let open = reader.search(query, n, &nprobe(probes)).unwrap();
                let kept: Vec<Neighbor> = open.into_iter().filter(|n| keep(n.id)).collect();
                let params = nprobe(probes).selector(selector.clone()).filter_mode(FilterMode::Probed);
                for k in [1, 10, n] {
                    let found = reader.search(query, k, &params).unwrap();
                    assert_eq!(
                        bits(&found),
                        bits(&kept[..k.min(kept.len())]),
                        "{what}: {k} of {probes} lists"
                    );
                }
                let found = reader.range_search(query, farthest, &params).unwrap();
                assert_eq!(bits(&found), bits(&kept), "{what}: range over {probes} lists");
                // A budget of entries that the selector admits all of changes nothing; of half of them,
                // finds half.
                let found = reader.search(query, n, &params.clone().max_codes(kept.len().max(1))).unwrap();
                assert_eq!(bits(&found), bits(&kept), "{what}: exact budget");
                let half = kept.len() / 2;
                if half > 0 {
                    let found = reader.search(query, n, &params.max_codes(half)).unwrap();
                    assert!(found.len() == half && found.iter().all(|n| keep(n.id)), "{what}: half budget");
                }
            }
        }
        for params in [nprobe(1), nprobe(5), everywhere()] {
            let params = params.selector(selector.clone());
            let batch = reader.search_batch(self.queries(), 7, &params).unwrap();
            let single: Vec<_> =
                self.queries().iter().map(|q| bits(&reader.search(q, 7, &params).unwrap())).collect();
            assert_eq!(all_bits(&batch), single, "{what}: batch");
            let batch = reader.range_search_batch(self.queries(), farthest, &params).unwrap();
            let single: Vec<_> = self
                .queries()
                .iter()
                .map(|q| bits(&reader.range_search(q, farthest, &params).unwrap()))
                .collect();
            assert_eq!(all_bits(&batch), single, "{what}: range batch");
        }
    }
}

fn ranking_before(oracle: &Oracle, a: &Exact, b: &Exact) -> bool {
    if oracle.metric.is_similarity() { a.distance > b.distance } else { a.distance < b.distance }
}

/// Each kind of selector with the set it stands for, over ids that are there, were removed, and never were.
fn kinds(oracle: &Oracle, random: &mut Random) -> Vec<(IdSelector, BTreeSet<u64>)> {
    let ids = oracle.ids();
    let mut some = |n: usize| -> Vec<u64> {
        // Repetitions, and every tenth an id that does not exist.
        let mut pick =
            |i: usize| if i % 10 == 9 { 7_000_000 + i as u64 } else { ids[random.below(ids.len())] };
        (0..n).map(&mut pick).collect()
    };
    let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
    let (array, few, many, bitmap) = (some(20), some(200), some(1500), some(900));
    let extremes = [0, u64::MAX, u64::MAX - 1, 1 << 32];
    let (low, high) = (ids[ids.len() / 3], ids[ids.len() / 2]);
    let between: BTreeSet<u64> = ids.iter().copied().filter(|id| (low..high).contains(id)).collect();
    let even: BTreeSet<u64> = ids.iter().copied().filter(|id| id % 2 == 0).collect();
    let everything: BTreeSet<u64> = ids.iter().copied().collect();
    vec![
        (IdSelector::All, everything.clone()),
        (IdSelector::range(low..high), between),
        (IdSelector::range(0..u64::MAX), everything.clone()),
        (IdSelector::range(high..low), BTreeSet::new()),
        (IdSelector::range(5_000_000..6_000_000), BTreeSet::new()),
        (IdSelector::Array(array.clone()), set(&array)),
        (IdSelector::Array(Vec::new()), BTreeSet::new()),
        (IdSelector::Array(extremes.to_vec()), set(&extremes)),
        (IdSelector::batch(few.clone()), set(&few)),
        (IdSelector::batch(many.clone()), set(&many)),
        (IdSelector::batch([]), BTreeSet::new()),
        (IdSelector::bitmap(bitmap.iter().copied().collect()), set(&bitmap)),
        (IdSelector::bitmap(RoaringTreemap::new()), BTreeSet::new()),
        (IdSelector::callback(|id| id % 2 == 0), even),
        (IdSelector::callback(|_| false), BTreeSet::new()),
        (IdSelector::callback(|_| true), everything),
    ]
}

/// A selector nested `depth` deep with its set.
fn nested(oracle: &Oracle, random: &mut Random, depth: usize) -> (IdSelector, BTreeSet<u64>) {
    if depth == 0 {
        let mut kinds = kinds(oracle, random);
        return kinds.swap_remove(random.below(kinds.len()));
    }
    let (a, x) = nested(oracle, random, depth - 1);
    if random.below(4) == 0 {
        let rest = oracle.vectors.keys().copied().filter(|id| !x.contains(id)).collect();
        return (!a, rest);
    }
    let shallower = random.below(depth);
    let (b, y) = nested(oracle, random, shallower);
    match random.below(3) {
        0 => (a.and(b), &x & &y),
        1 => (a.or(b), &x | &y),
        _ => (a.xor(b), &x ^ &y),
    }
}

#[test]
fn every_kind_of_selector() {
    for metric in [Metric::L2, Metric::InnerProduct] {
        let fixture = Fixture::new(metric);
        let mut random = Random::new(33);
        for (selector, set) in kinds(&fixture.oracle, &mut random) {
            fixture.check(&selector, |id| set.contains(&id), &format!("{selector:.60?}"));
            let rest = |id| !set.contains(&id);
            fixture.check(&!selector, rest, "its complement");
        }
    }
}

#[test]
fn nested_selectors() {
    let fixture = Fixture::new(Metric::L2);
    let mut random = Random::new(34);
    let mut sizes = BTreeSet::new();
    for round in 0..60 {
        let (selector, set) = nested(&fixture.oracle, &mut random, 1 + round % 4);
        // A complement speaks of ids outside the index too; what counts is what it says of those inside.
        fixture.check(&selector, |id| set.contains(&id), &format!("round {round}"));
        sizes.insert(fixture.oracle.vectors.keys().filter(|id| set.contains(id)).count());
    }
    assert!(sizes.len() > 15, "the rounds select different numbers of ids: {sizes:?}");
}

/// The same subset said in three ways, at sizes where each way is taken: the answers are the same to the
/// bit.
#[test]
fn three_ways_to_one_answer() {
    let fixture = Fixture::new(Metric::L2);
    let ids = fixture.oracle.ids();
    let reader = reader(&fixture.store, "i");
    for share in [2, 9, 40] {
        let subset: Vec<u64> = ids.iter().copied().step_by(share).collect();
        let set: BTreeSet<u64> = subset.iter().copied().collect();
        let listed = IdSelector::batch(subset.iter().copied());
        let asked = IdSelector::callback(move |id| set.contains(&id));
        // And(listed, _) is listed if the list is short, Not(Not(_)) never is.
        let doubly_negated = !!listed.clone();
        for probes in [1, LISTS / 2, LISTS] {
            // With many queries even long lists are looked up; alone, with few probes, entries are asked.
            for copies in [1, 40] {
                let queries = fixture.queries.repeat(copies);
                let queries = rows(&queries, fixture.dim);
                let answer = |selector: &IdSelector| {
                    let params = nprobe(probes).selector(selector.clone()).filter_mode(FilterMode::Probed);
                    all_bits(&reader.search_batch(queries, 25, &params).unwrap())
                };
                let expected = answer(&listed);
                assert!(expected.iter().any(|found| !found.is_empty()));
                assert_eq!(
                    answer(&asked),
                    expected,
                    "1/{share} of the ids, nprobe {probes}, {copies} copies"
                );
                assert_eq!(answer(&doubly_negated), expected, "1/{share} of the ids, nprobe {probes}");
                let all_together = listed.clone().and(asked.clone()).or(doubly_negated.clone());
                assert_eq!(answer(&all_together), expected);
            }
        }
    }
}

/// The bitmap of rows follows rows that are freed, taken by other ids, and updated; also before the commit.
#[test]
fn selectors_follow_removals_and_updates() {
    let mut fixture = Fixture::new(Metric::L2);
    let mut random = Random::new(35);
    for round in 0..4 {
        let ids = fixture.oracle.ids();
        let gone: Vec<u64> = ids.iter().copied().filter(|_| random.below(3) == 0).collect();
        let (some, dim) = (integers(gone.len(), fixture.dim, 9, 36 + round), fixture.dim);
        let stay: Vec<u64> = ids.iter().copied().filter(|id| !gone.contains(id)).take(gone.len()).collect();
        let back: Vec<u64> = gone.iter().rev().copied().take(gone.len() / 2).collect();
        let wanted = IdSelector::batch(ids.iter().copied().step_by(2));
        let oracle = &mut fixture.oracle;
        let selector = wanted.clone();
        let expected = change(&fixture.store, "i", |writer| {
            assert_eq!(
                writer.remove_ids(&IdSelector::batch(gone.iter().copied())).unwrap(),
                gone.len() as u64
            );
            gone.iter().for_each(|id| drop(oracle.vectors.remove(id)));
            writer.update_vectors(&stay, rows(&some, dim).slice(0..stay.len())).unwrap();
            oracle.put_all(stay.iter().copied(), rows(&some, dim));
            writer.add_with_ids(&back, rows(&some, dim).slice(0..back.len())).unwrap();
            oracle.put_all(back.iter().copied(), rows(&some, dim));
            let params = everywhere().selector(selector);
            all_bits(&writer.reader().search_batch(rows(&fixture.queries, dim), 50, &params).unwrap())
        });
        assert_sound(&fixture.store, "i");
        let params = everywhere().selector(wanted.clone());
        let found = reader(&fixture.store, "i").search_batch(fixture.queries(), 50, &params).unwrap();
        assert_eq!(all_bits(&found), expected, "before and after the commit");
        let keep = |id| wanted.contains(id);
        fixture.check(&wanted, keep, &format!("round {round}"));
        fixture.check(&!wanted.clone(), |id| !wanted.contains(id), &format!("round {round}, the others"));
    }
}

/// A removal takes the same selectors: what it removes is what a search with it would have found.
#[test]
fn removal_by_every_kind_of_selector() {
    let dim = 4;
    let mut random = Random::new(37);
    let fixture = Fixture::new(Metric::L2);
    let kinds = kinds(&fixture.oracle, &mut random);
    let nested: Vec<_> = (0..10).map(|depth| nested(&fixture.oracle, &mut random, 1 + depth % 3)).collect();
    for (selector, set) in kinds.into_iter().chain(nested) {
        let txn = fixture.store.begin_write().unwrap();
        let mut writer = txn.index("i").unwrap();
        let ids = fixture.oracle.ids();
        let (gone, kept): (Vec<u64>, Vec<u64>) = ids.into_iter().partition(|id| set.contains(id));
        let params = everywhere().selector(selector.clone());
        let found = writer.reader().search(&fixture.queries[..dim], N, &params).unwrap();
        assert_eq!(ids_of(&found).into_iter().collect::<BTreeSet<_>>(), gone.iter().copied().collect());
        assert_eq!(writer.remove_ids(&selector).unwrap(), gone.len() as u64, "{selector:.60?}");
        assert_eq!(writer.reader().ids().unwrap(), kept, "{selector:.60?}");
        assert_eq!(writer.remove_ids(&selector).unwrap(), 0, "nothing is left to remove");
        let ranking = fixture.oracle.ranking(&fixture.queries[..dim], |id| !set.contains(&id));
        assert_same(
            &writer.reader().search(&fixture.queries[..dim], N, &everywhere()).unwrap(),
            &ranking,
            "the rest",
        );
        drop(writer);
        txn.abort().unwrap();
    }
}

/// Found here: a range is two numbers, but `remove_ids` and large batches made a list of its ids first; a
/// range of all ids overflowed the capacity of a vector, and one of a billion took 8 GB.
#[test]
fn ranges_of_all_ids_are_not_listed() {
    let fixture = Fixture::new(Metric::L2);
    let everything = || IdSelector::range(0..u64::MAX);
    let billions = || IdSelector::range(0..1 << 50);
    let even = IdSelector::callback(|id| id % 2 == 0);
    fixture.check(&everything().and(billions()), |_| true, "two ranges");
    fixture.check(&billions().and(even.clone()), |id| id % 2 == 0, "half of a range");
    let queries = fixture.queries.repeat(400);
    let params = everywhere().selector(billions());
    let found = reader(&fixture.store, "i").search_batch(rows(&queries, fixture.dim), 5, &params).unwrap();
    assert!(found.iter().all(|found| found.len() == 5));
    let ids = fixture.oracle.ids();
    change(&fixture.store, "i", |writer| {
        let evens = ids.iter().filter(|id| *id % 2 == 0).count() as u64;
        assert_eq!(writer.remove_ids(&billions().xor(everything()).or(even.clone())).unwrap(), evens);
        assert_eq!(writer.remove_ids(&everything().and(billions())).unwrap(), ids.len() as u64 - evens);
        assert_eq!(writer.remove_ids(&everything()).unwrap(), 0);
    });
}

/// FAISS's best-known trap: there, parameters that name only a selector set nprobe back to 1. Here what is
/// not named comes from the defaults stored with the index, through a reopening too.
#[test]
fn a_selector_alone_keeps_the_stored_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.vellum");
    let (dim, data) = (24, reals(900, 24, 38));
    let store = Store::create(&path).unwrap();
    create(&store, "i", &spec("IVF90,SQbf16,RFlat", dim, Metric::L2));
    change(&store, "i", |writer| {
        live_in(writer, rows(&data, dim));
        writer.set_search_defaults(&nprobe(40).max_codes(77).rerank(30)).unwrap();
    });
    drop(store);
    let store = Store::open(&path).unwrap();
    let odd = || IdSelector::callback(|id| id % 2 == 1);
    let answer = |params: SearchParams| {
        let found = reader(&store, "i").search_batch(rows(&data, dim).slice(0..60), 10, &params).unwrap();
        all_bits(&found)
    };
    let (only, all) =
        (SearchParams::new().selector(odd()), nprobe(40).max_codes(77).rerank(30).selector(odd()));
    assert!(answer(only.clone()) == answer(all.clone()));
    // One named, the others stored.
    assert!(answer(only.clone().nprobe(3)) == answer(all.clone().nprobe(3)));
    assert!(answer(only.clone().max_codes(9)) == answer(all.clone().max_codes(9)));
    assert!(answer(only.clone().rerank(10)) == answer(all.clone().rerank(10)));
    for other in [all.clone().nprobe(3), all.clone().max_codes(9), all.clone().rerank(10)] {
        assert!(answer(other) != answer(all.clone()), "each of them matters here");
    }
    // Not stored any more, vellum's own: a thirty-second of the lists but 8 at least, no budget, 4k
    // reranked.
    change(&store, "i", |writer| writer.set_search_defaults(&SearchParams::new()).unwrap());
    assert!(answer(only.clone()) == answer(nprobe(8).max_codes(0).rerank(40).selector(odd())));
    assert!(answer(only) == answer(reader(&store, "i").search_defaults().selector(odd()).rerank(40)));
}
