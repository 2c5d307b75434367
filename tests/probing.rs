//! Worry: what a search does inside (which lists, in what order, with which limits, on which threads) and what callers may do
//! themselves drift apart.
//!
//! Noticed by doing searches by hand, list by list, and comparing bit for bit; and by asking the same in every mode, alone, in a
//! batch and on several threads.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use support::*;
use vellum::*;

const DIM: usize = 12;
const N: usize = 900;
/// What every kind of code is walked beside: limits, trees, spilled lists, kept rows, transforms.
const SPECS: [&str; 8] = [
    "Flat",
    "IVF11,Flat",
    "IVF11(IVF3),SQfp16,RFlat",
    "IVF11_SOAR,Flat",
    "IVF11_SOAR,Nibble2,RSQ8+Flat",
    "IVF11,PQ6x4fsr",
    "IVF11,Nibble2,RFlat",
    "OPQ4_8,IVF11,PQ4x4,RF16",
];

/// For slots: with and without second lists, with codes that are exact, relative to lists, and scored again.
const PLACED: [&str; 7] = [
    "Flat",
    "IVF11,SQ8",
    "IVF11_SOAR,Flat",
    "IVF11_SOAR,Nibble2,RSQ8+Flat",
    "IVF11_SOAR,SQ8",
    "IVF11(IVF4)_SOAR,PQ6x4fsr",
    "IVF11_SOAR,PQ4x4,RF16",
];

fn filled(text: &str, metric: Metric) -> Store {
    filled_on(text, metric, Store::builder())
}

fn filled_on(text: &str, metric: Metric, builder: Builder) -> Store {
    let store = in_memory(builder);
    let data = suited(text, N, DIM, 1);
    create(&store, "i", &spec(text, DIM, metric).with_block_order(0));
    change(&store, "i", |writer| {
        if writer.spec().nlist().is_some() {
            train(writer, rows(&data, DIM));
        }
        writer.add(rows(&data, DIM)).unwrap();
        writer.remove_ids(&IdSelector::callback(|id| id % 10 == 3)).unwrap();
    });
    store
}

fn each(mut test: impl FnMut(&str, Metric, &IndexReader<'_>)) {
    for (text, metric) in with_every_encoding(&SPECS, "IVF11", 1) {
        test(&text, metric, &reader(&filled(&text, metric), "i"));
    }
}

const MODES: [ParallelMode; 3] = [ParallelMode::Queries, ParallelMode::Lists, ParallelMode::Pairs];

/// A radius with some thirty rows within.
fn radius(index: &IndexReader<'_>, query: &[f32]) -> f32 {
    index.search(query, 30, &everywhere()).unwrap().last().unwrap().distance
}

#[test]
fn lists_that_were_probed_give_what_a_search_gives() {
    let queries = reals(7, DIM, 2);
    let queries = rows(&queries, DIM);
    each(|text, metric, index| {
        for n in [1, 3, 11] {
            let probed = index.probe(queries, n).unwrap();
            let bare = Preassigned::of_lists(
                (0..7).map(|q| probed.lists(q).iter().map(|list| Some(*list)).collect::<Vec<_>>()),
            );
            let expected = all_bits(&index.search_batch(queries, 5, &nprobe(n)).unwrap());
            let within = radius(index, queries.row(0));
            let ranges = all_bits(&index.range_search_batch(queries, within, &nprobe(n)).unwrap());
            for lists in [&probed, &bare] {
                let found = index.search_preassigned(queries, lists, 5, &SearchParams::new()).unwrap();
                assert_eq!(all_bits(&found), expected, "{text} {metric} {n}");
                let found =
                    index.range_search_preassigned(queries, lists, within, &SearchParams::new()).unwrap();
                assert_eq!(all_bits(&found), ranges, "{text} {metric} {n}");
            }
            // One by one, as well.
            let one = index.search_preassigned(
                queries.slice(3..4),
                &index.probe(queries.slice(3..4), n).unwrap(),
                5,
                &SearchParams::new(),
            );
            assert_eq!(all_bits(&one.unwrap())[0], expected[3]);
        }
    });
}

#[test]
fn lists_of_the_callers_choice_are_the_ones_looked_into() {
    let store = filled("IVF11,Flat", Metric::L2);
    let index = reader(&store, "i");
    let data = reals(3, DIM, 4);
    let queries = rows(&data, DIM);
    let lists = Preassigned::of_arrays(&[4, -1, 4, 9, -1, -1, 0, 1, 2], None, 3).unwrap();
    assert_eq!((lists.lists(0), lists.lists(1), lists.lists(2)), (&[4][..], &[9][..], &[0, 1, 2][..]));
    let found = index.search_preassigned(queries, &lists, N, &SearchParams::new()).unwrap();
    for (q, found) in found.iter().enumerate() {
        let expected: BTreeSet<u64> =
            lists.lists(q).iter().flat_map(|list| index.list(*list).unwrap().0).collect();
        assert_eq!(found.len(), expected.len(), "duplicates are scanned once");
        assert_eq!(ids_of(found).into_iter().collect::<BTreeSet<_>>(), expected);
    }
    // The first nprobe of them.
    let first = index.search_preassigned(queries, &lists, N, &nprobe(1)).unwrap();
    assert_eq!(first[2].len(), index.list(0).unwrap().0.len());
    // A query without lists finds nothing.
    let none = Preassigned::of_lists([vec![None], vec![], vec![Some(1)]]);
    let found = index.search_preassigned(queries, &none, 5, &SearchParams::new()).unwrap();
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [0, 0, 5]);
    // With a selector, too.
    let even = SearchParams::new().selector(IdSelector::callback(|id| id % 2 == 0));
    let found = index.search_preassigned(queries, &lists, N, &even).unwrap();
    assert!(found.iter().flatten().all(|n| n.id % 2 == 0) && !found[0].is_empty());
}

#[test]
fn what_cannot_be_probed_is_refused() {
    let store = filled("IVF11,SQ8", Metric::L2);
    let index = reader(&store, "i");
    let data = reals(2, DIM, 5);
    let queries = rows(&data, DIM);
    let search = |lists: &Preassigned| index.search_preassigned(queries, lists, 3, &SearchParams::new());
    let unknown = search(&Preassigned::of_lists([[Some(0)], [Some(11)]]));
    assert!(matches!(unknown, Err(Error::Parameter { name: "list", .. })), "{unknown:?}");
    assert!(matches!(
        search(&Preassigned::of_lists([[Some(0)]])),
        Err(Error::Length { expected: 2, got: 1, .. })
    ));
    for distance in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        let wrong = search(&Preassigned::with_distances([[(Some(0), distance)], [(Some(1), 1.0)]]));
        assert!(matches!(wrong, Err(Error::Parameter { name: "distance", .. })), "{distance}");
    }
    assert!(matches!(Preassigned::of_arrays(&[0; 5], None, 2), Err(Error::Length { .. })));
    assert!(matches!(Preassigned::of_arrays(&[0; 4], Some(&[0.0; 3]), 2), Err(Error::Length { .. })));
    assert!(matches!(Preassigned::of_arrays(&[1 << 40], None, 1), Err(Error::Parameter { .. })));
    assert!(matches!(Preassigned::of_arrays(&[], None, 0), Err(Error::Parameter { .. })));
    assert!(matches!(index.probe(queries, 0), Err(Error::Parameter { name: "nprobe", .. })));
    assert_eq!(index.probe(queries, 99).unwrap().lists(1).len(), 11);
}

#[test]
fn every_mode_gives_the_same_bits() {
    let data = reals(9, DIM, 6);
    let queries = rows(&data, DIM);
    let odd = IdSelector::callback(|id| id % 2 == 1);
    for (text, metric) in with_every_encoding(&SPECS, "IVF11", 1) {
        for threads in [1, 3] {
            let index = reader(&filled_on(&text, metric, Store::builder().thread_pool(pool(threads))), "i");
            let within = radius(&index, queries.row(1));
            for params in [
                nprobe(5),
                everywhere(),
                nprobe(7).max_codes(100),
                nprobe(7).max_lists(2),
                nprobe(7).max_codes(40).max_lists(3).ensure_topk_full(true),
                nprobe(6).selector(odd.clone()),
                nprobe(6).selector(odd.clone()).max_codes(33),
                nprobe(9).max_empty_lists(2),
            ] {
                let top = all_bits(&index.search_batch(queries, 8, &params).unwrap());
                let near = all_bits(&index.range_search_batch(queries, within, &params).unwrap());
                for mode in MODES {
                    let params = params.clone().parallel_mode(mode);
                    let what = format!("{text} {metric} {mode:?} {threads}");
                    assert_eq!(all_bits(&index.search_batch(queries, 8, &params).unwrap()), top, "{what}");
                    assert_eq!(
                        all_bits(&index.range_search_batch(queries, within, &params).unwrap()),
                        near,
                        "{what}"
                    );
                    assert_eq!(bits(&index.search(queries.row(4), 8, &params).unwrap()), top[4], "{what}");
                }
            }
        }
    }
}

/// The lists of one query go to the pool's threads: a selector sees which thread asks.
#[test]
fn one_query_over_many_lists_uses_the_pool() {
    use std::sync::{Arc, Mutex};
    let store = filled_on("IVF11,Flat", Metric::L2, Store::builder().thread_pool(pool(3)));
    let index = reader(&store, "i");
    for (mode, pooled) in MODES.into_iter().zip([false, true, true]) {
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let names = seen.clone();
        let selector = IdSelector::callback(move |_| {
            names.lock().unwrap().insert(rayon::current_thread_index());
            true
        });
        // Fewer entries than rows: the selector is asked entry by entry, where they are scanned.
        let params = nprobe(8).selector(selector).filter_mode(FilterMode::Probed);
        index.search(&[0.5; DIM], 400, &params.parallel_mode(mode)).unwrap();
        let seen = seen.lock().unwrap();
        assert_eq!(seen.iter().any(Option::is_some), pooled, "{mode:?}: {seen:?}");
    }
}

/// Limits by hand: lists in the order of their probes, entries in the order in which they stand.
#[test]
fn limits_end_a_query_where_they_say() {
    let data = reals(6, DIM, 7);
    let queries = rows(&data, DIM);
    for text in ["IVF11,Flat", "IVF11,SQfp16,RFlat"] {
        let index = reader(&filled(text, Metric::L2), "i");
        for selector in [IdSelector::All, IdSelector::callback(|id| id % 3 == 0)] {
            for (max_codes, max_lists, full) in [
                (1, 0, false),
                (50, 0, false),
                (0, 1, false),
                (0, 4, false),
                (170, 2, false),
                (1, 0, true),
                (90, 0, true),
                (0, 1, true),
                (3, 1, true),
                (0, 0, true),
            ] {
                let k = 150;
                let params = nprobe(9).max_codes(max_codes).max_lists(max_lists).ensure_topk_full(full);
                let params = params.selector(selector.clone()).filter_mode(FilterMode::Probed);
                let found = index.search_batch(queries, k, &params).unwrap();
                let probed = index.probe(queries, 9).unwrap();
                for (q, found) in found.iter().enumerate() {
                    let (mut seen, mut lists) = (Vec::new(), 0);
                    for list in probed.lists(q) {
                        let enough = |n: usize, most: usize| most > 0 && n >= most;
                        let spent = enough(seen.len(), max_codes) || enough(lists, max_lists);
                        if spent && (!full || seen.len() >= k) {
                            break;
                        }
                        let ids = index.list(*list).unwrap().0;
                        lists += usize::from(!ids.is_empty());
                        let left = if full || max_codes == 0 { usize::MAX } else { max_codes - seen.len() };
                        seen.extend(ids.into_iter().filter(|id| selector.contains(*id)).take(left));
                    }
                    let only = everywhere().selector(IdSelector::batch(seen.iter().copied()));
                    let expected = index.search(queries.row(q), k, &only).unwrap();
                    assert_eq!(bits(found), bits(&expected), "{text} {max_codes} {max_lists} {full}");
                    assert!(!full || found.len() == k || probed.lists(q).len() == lists);
                }
            }
        }
    }
}

#[test]
fn a_range_search_ends_after_lists_that_add_nothing() {
    let data = reals(6, DIM, 8);
    let queries = rows(&data, DIM);
    for selector in [IdSelector::All, IdSelector::callback(|id| id % 5 == 0)] {
        let index = reader(&filled("IVF11,Flat", Metric::L2), "i");
        let within = index.search(queries.row(0), 4, &everywhere()).unwrap()[3].distance;
        let mut shorter = 0;
        for most in 1..4 {
            let params = everywhere().max_empty_lists(most).selector(selector.clone());
            let found = index.range_search_batch(queries, within, &params).unwrap();
            for (q, found) in found.iter().enumerate() {
                let all = index
                    .range_search(queries.row(q), within, &everywhere().selector(selector.clone()))
                    .unwrap();
                let (mut empty, mut expected) = (0, BTreeSet::new());
                for list in index.probe(queries.slice(q..q + 1), 11).unwrap().lists(0) {
                    if empty == most {
                        break;
                    }
                    let ids = index.list(*list).unwrap().0;
                    let here: Vec<u64> = ids_of(&all).into_iter().filter(|id| ids.contains(id)).collect();
                    empty = if here.is_empty() { empty + 1 } else { 0 };
                    expected.extend(here);
                }
                shorter += usize::from(expected.len() < all.len());
                assert_eq!(ids_of(found).into_iter().collect::<BTreeSet<_>>(), expected);
            }
        }
        assert!(shorter > 0, "the limit had no effect at all");
    }
}

#[test]
fn limits_and_modes_are_stored_with_the_index() {
    let store = filled("IVF11,Flat", Metric::L2);
    let limits = nprobe(3).max_codes(60).max_lists(2).ensure_topk_full(true).max_empty_lists(4);
    change(&store, "i", |writer| {
        writer.set_search_defaults(&limits.clone().parallel_mode(ParallelMode::Pairs)).unwrap();
    });
    let index = reader(&store, "i");
    let stored = format!("{:?}", index.search_defaults());
    for part in
        ["max_lists: Some(2)", "max_empty_lists: Some(4)", "ensure_topk_full: Some(true)", "Some(Pairs)"]
    {
        assert!(stored.contains(part), "{stored}");
    }
    let query = [0.4; DIM];
    let by_default = index.search(&query, 70, &SearchParams::new()).unwrap();
    assert_eq!(bits(&by_default), bits(&index.search(&query, 70, &limits).unwrap()));
    // Single fields are overridden.
    let more = index.search(&query, 70, &SearchParams::new().max_lists(0).max_codes(0)).unwrap();
    assert_eq!(bits(&more), bits(&index.search(&query, 70, &nprobe(3).max_codes(0).max_lists(0)).unwrap()));
    assert_sound(&store, "i");
}

#[test]
fn slots_say_where_neighbours_stand() {
    let data = reals(4, DIM, 9);
    let queries = rows(&data, DIM);
    let some = IdSelector::callback(|id| id % 4 < 2);
    each(|text, metric, index| {
        let params = nprobe(6).selector(some.clone());
        let plain = index.search_batch(queries, 9, &params).unwrap();
        let placed = index.search_slots(queries, 9, &params).unwrap();
        let within = radius(index, queries.row(0));
        let near = index.range_search_batch(queries, within, &params).unwrap();
        let near_placed = index.range_search_slots(queries, within, &params).unwrap();
        for (plain, placed) in plain.iter().chain(&near).zip(placed.iter().chain(&near_placed)) {
            let neighbors: Vec<Neighbor> = placed.iter().map(|placed| placed.neighbor).collect();
            assert_eq!(bits(&neighbors), bits(plain), "{text} {metric}");
            for Placed { neighbor, slot } in placed {
                assert_eq!(index.id_at(*slot).unwrap(), neighbor.id);
                if !text.contains("SOAR") {
                    assert_eq!(index.slot(neighbor.id).unwrap(), *slot);
                }
            }
        }
    });
}

/// Where each id stands in a list, and the list's codes.
type Whole = (BTreeMap<u64, usize>, Vec<u8>);

/// Says of each hit where it must stand: by definition, from whole lists and the scanner.
fn assert_placed(
    (index, lists): (&IndexReader<'_>, &[Whole]),
    query: &[f32],
    looked: &[(u32, f32)],
    placed: &[Placed],
    reranked: bool,
    what: &str,
) {
    let prepared = index.prepare_query(query).unwrap();
    let mut scanner = prepared.list_scanner();
    for Placed { neighbor, slot } in placed {
        let mut entries = Vec::new();
        for (list, distance) in looked {
            let (ids, codes) = &lists[*list as usize];
            if let Some(at) = ids.get(&neighbor.id) {
                scanner.enter_at(*list, *distance).unwrap();
                let code = codes.chunks(index.code_bytes()).nth(*at).unwrap();
                let its = scanner.distance_of_code(code).unwrap().unwrap();
                entries.push((Slot { list: *list, offset: *at as u32 }, its));
            }
        }
        let same = entries.iter().find(|(_, its)| its.to_bits() == neighbor.distance.to_bits());
        assert!(reranked || same.is_some(), "{what}: no entry has the distance {neighbor:?}, {entries:?}");
        let expected = same.or(entries.first()).unwrap().0;
        assert_eq!(*slot, expected, "{what}: {neighbor:?}");
    }
}

/// Slots of searches in lists of the caller's choice, and of any where vectors stand in two lists: the entry that was found.
#[test]
fn slots_are_those_of_the_entries_that_were_found() {
    let data = reals(5, DIM, 12);
    let queries = rows(&data, DIM);
    let some = IdSelector::callback(|id| id % 4 < 2);
    let mut elsewhere = 0;
    let mut check = |text: &str, metric: Metric, index: &IndexReader<'_>| {
        let whole = |list: ListRef<'_>| -> Whole {
            (list.ids().unwrap().into_iter().zip(0..).collect(), list.codes().unwrap())
        };
        let whole: Vec<Whole> = index.lists().map(whole).collect();
        let reranked = index.spec().kept_rows().is_some();
        let within = radius(index, queries.row(0));
        let probed = index.probe(queries, index.nlist().min(4)).unwrap();
        let pairs = |q: usize| -> Vec<(u32, f32)> {
            probed.lists(q).iter().copied().zip(probed.distances(q).unwrap().iter().copied()).collect()
        };
        // The nearest lists the other way round, and distances of them that are not theirs.
        let turned = |q: usize| -> Vec<(u32, f32)> {
            pairs(q).into_iter().rev().map(|(list, distance)| (list, distance * 0.75)).collect()
        };
        let plain = SearchParams::new().filter_mode(FilterMode::Probed);
        for params in [
            plain.clone(),
            plain.clone().nprobe(2),
            plain.clone().selector(some.clone()),
            plain.clone().max_codes(35),
            plain.clone().max_codes(20).selector(some.clone()),
        ] {
            let most = if format!("{params:?}").contains("nprobe: Some(2)") { 2 } else { 4 };
            let what = format!("{text} {metric} {params:?}");
            for turn in [false, true] {
                let lists = |q| if turn { turned(q) } else { pairs(q) };
                let chosen = (0..queries.len()).map(|q| lists(q).into_iter().map(|(l, d)| (Some(l), d)));
                let chosen = Preassigned::with_distances(chosen);
                let found = index.search_preassigned(queries, &chosen, 9, &params).unwrap();
                let placed = index.search_preassigned_slots(queries, &chosen, 9, &params).unwrap();
                let near = index.range_search_preassigned(queries, &chosen, within, &params).unwrap();
                let near_placed =
                    index.range_search_preassigned_slots(queries, &chosen, within, &params).unwrap();
                for (found, placed) in [(found, placed), (near, near_placed)] {
                    for (q, (found, placed)) in found.iter().zip(&placed).enumerate() {
                        let neighbors: Vec<Neighbor> = placed.iter().map(|placed| placed.neighbor).collect();
                        assert_eq!(bits(&neighbors), bits(found), "{what}");
                        let looked: Vec<(u32, f32)> = lists(q).into_iter().take(most).collect();
                        assert_placed((index, &whole), queries.row(q), &looked, placed, reranked, &what);
                        let nearest = |hit: &&Placed| index.slot(hit.neighbor.id).unwrap() != hit.slot;
                        elsewhere += placed.iter().filter(nearest).count();
                    }
                }
            }
            // A search in the nearest lists is one in those lists.
            let params = if most == 4 { params.nprobe(4) } else { params };
            let placed = index.search_slots(queries, 9, &params).unwrap();
            let near = index.range_search_slots(queries, within, &params).unwrap();
            for (q, placed) in placed.iter().enumerate().chain(near.iter().enumerate()) {
                let looked: Vec<(u32, f32)> = pairs(q).into_iter().take(most).collect();
                assert_placed((index, &whole), queries.row(q), &looked, placed, reranked, &what);
            }
        }
    };
    for (text, metric) in PLACED.into_iter().flat_map(|text| METRICS.map(|metric| (text, metric))) {
        check(text, metric, &reader(&filled(text, metric), "i"));
    }
    assert!(elsewhere > 100, "second entries were found, too: {elsewhere}");
}

#[test]
fn scanning_by_hand_gives_what_a_search_gives() {
    let data = reals(3, DIM, 10);
    let queries = rows(&data, DIM);
    let some = IdSelector::callback(|id| id % 7 != 1);
    each(|text, metric, index| {
        for (query, probes) in queries.iter().zip([1, 4, 11]) {
            let prepared = index.prepare_query(query).unwrap();
            let (mut scanner, mut by_hand) = (prepared.list_scanner(), TopK::new(6));
            scanner.select(&some).unwrap();
            assert!(scanner.scan_into(&mut by_hand).is_err(), "no list was entered");
            let all = if metric.is_similarity() { f32::NEG_INFINITY } else { f32::INFINITY };
            for (list, distance) in prepared.probe(probes).unwrap() {
                scanner.enter_at(list, distance).unwrap();
                scanner.scan_into(&mut by_hand).unwrap();
                // The same list, its distance computed; every entry, and its code by itself.
                scanner.enter(list).unwrap();
                let mut entries = Vec::new();
                let calls = scanner.scan(all, |entry| {
                    entries.push(entry);
                    ControlFlow::Continue(())
                });
                assert_eq!(calls.unwrap(), entries.len());
                let (ids, codes) = index.list(list).unwrap();
                let admitted = ids.iter().filter(|id| some.contains(**id)).count();
                assert_eq!(entries.len(), admitted, "{text} {metric}");
                let codes: Vec<&[u8]> = codes.chunks(index.code_bytes()).collect();
                for Scanned { id, slot, distance, .. } in &entries {
                    assert_eq!((slot.list, ids[slot.offset as usize]), (list, *id));
                    let alone = scanner.distance_of_code(codes[slot.offset as usize]).unwrap();
                    assert_eq!(alone.map(f32::to_bits), Some(distance.to_bits()), "{text} {metric}");
                }
                // Nearer than the middle one, and no further than two calls.
                if let Some(middle) = entries.get(entries.len() / 2) {
                    let nearer = |a: f32| {
                        if metric.is_similarity() { a > middle.distance } else { a < middle.distance }
                    };
                    let expected = entries.iter().filter(|entry| nearer(entry.distance)).count();
                    let count = |_| ControlFlow::Continue(());
                    assert_eq!(scanner.scan(middle.distance, count).unwrap(), expected);
                    let mut calls = 0;
                    let two = |_| {
                        calls += 1;
                        if calls == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                    };
                    assert_eq!(scanner.scan(all, two).unwrap(), entries.len().min(2));
                }
            }
            if index.spec().kept_rows().is_none() {
                let found = index.search(query, 6, &nprobe(probes).selector(some.clone())).unwrap();
                assert_eq!(bits(by_hand.neighbors()), bits(&found), "{text} {metric}");
            }
        }
    });
}

#[test]
fn distances_by_id_are_those_that_a_search_reports() {
    let query = reals(1, DIM, 11);
    each(|text, metric, index| {
        let prepared = index.prepare_query(&query).unwrap();
        let mut computer = prepared.distance_computer();
        let found = index.search(&query, 40, &everywhere()).unwrap();
        let distances = computer.distances(&ids_of(&found)).unwrap();
        for (neighbor, distance) in found.iter().zip(distances) {
            assert_eq!(distance.map(f32::to_bits), Some(neighbor.distance.to_bits()), "{text} {metric}");
        }
        assert!(matches!(computer.distance(3), Err(Error::UnknownId { id: 3 })));
        let mut scanner = prepared.list_scanner();
        assert!(scanner.enter(index.nlist() as u32).is_err() && scanner.enter_at(0, f32::NAN).is_err());
        scanner.enter(0).unwrap();
        assert!(matches!(scanner.distance_of_code(&[]), Err(Error::Length { .. })));
        // Any bytes: a distance or none.
        for byte in [0u8, 1, 0x7f, 0x80, 0xff] {
            let distance = scanner.distance_of_code(&vec![byte; index.code_bytes()]).unwrap();
            assert!(distance.is_none_or(f32::is_finite));
        }
    });
}

#[test]
fn distances_of_two_stored_vectors_are_symmetric() {
    let query = reals(1, DIM, 12);
    each(|text, metric, index| {
        let prepared = index.prepare_query(&query).unwrap();
        let computer = prepared.distance_computer();
        let ids = index.ids().unwrap();
        for (a, b) in [(ids[0], ids[7]), (ids[20], ids[3]), (ids[5], ids[5])] {
            let (Ok(x), Ok(y)) = (index.reconstruct(a), index.reconstruct(b)) else {
                assert!(matches!(computer.symmetric(a, b), Err(Error::CannotDecode { .. })));
                continue;
            };
            let pairs = || x.iter().zip(&y).map(|(x, y)| (f64::from(*x), f64::from(*y)));
            let exact: f64 = match metric {
                Metric::L2 => pairs().map(|(x, y)| (x - y).powi(2)).sum(),
                _ => pairs().map(|(x, y)| x * y).sum(),
            };
            let distance = computer.symmetric(a, b).unwrap().unwrap();
            let most = 1e-4 * (1.0 + exact.abs());
            assert!((f64::from(distance) - exact).abs() < most, "{text} {metric}: {distance} {exact}");
            assert_eq!(computer.symmetric(b, a).unwrap().unwrap().to_bits(), distance.to_bits());
        }
        assert!(matches!(computer.symmetric(3, ids[0]), Err(Error::UnknownId { id: 3 })));
    });
}

#[test]
fn lists_are_gone_through() {
    each(|text, _, index| {
        let sizes: Vec<usize> = index.lists().map(|list| list.len().unwrap()).collect();
        assert_eq!(sizes, index.list_sizes().unwrap());
        assert_eq!(index.lists().len(), index.nlist());
        for list in index.lists() {
            let (ids, codes) = index.list(list.number()).unwrap();
            assert_eq!((list.ids().unwrap(), list.codes().unwrap()), (ids, codes), "{text}");
            assert_eq!(list.is_empty().unwrap(), list.len().unwrap() == 0);
        }
        let sorted = index.lists().all(|list| list.ids().unwrap().is_sorted());
        assert_eq!(index.check_ids_sorted().unwrap(), sorted);
    });
}

#[test]
fn residuals_are_rows_less_vectors() {
    let store = filled("IVF11,Flat", Metric::L2);
    let index = reader(&store, "i");
    let data = reals(3, DIM, 12);
    let ids = [5, 17, 5];
    let residuals = index.compute_residual_n(rows(&data, DIM), &ids).unwrap();
    for ((row, residual), id) in data.chunks(DIM).zip(residuals.chunks(DIM)).zip(ids) {
        assert_eq!(residual, index.compute_residual(row, id).unwrap());
    }
    assert!(matches!(index.compute_residual_n(rows(&data, DIM), &[1]), Err(Error::Length { .. })));
    assert!(matches!(
        index.compute_residual_n(rows(&data, DIM), &[1, 2, 3]),
        Err(Error::UnknownId { id: 3 })
    ));
}
