//! Equal vectors stored once (`FlatDedup`): answers of `Flat`, storage of the distinct ones.
//!
//! The worries: a row that is not found, found twice, or keeps another vector because the entry it shares was removed, moved
//! or renamed; a selector or a count that goes by entries instead of rows; a chain that a crash, a snapshot or a damaged page
//! leaves half. So every verb is done to two indexes, one `Flat` and one `FlatDedup`, whose answers must be the same bit for
//! bit, and `verify` follows all chains.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed helper is a failed test"
)]

#[path = "common/redb_index.rs"]
#[allow(dead_code, reason = "not all tables are looked at")]
mod redb_index;
mod support;

use redb::{Database, backends::InMemoryBackend};
use redb_index::{delete, entries, put};
use std::sync::Arc;
use support::*;
use vellum::*;

const DIM: usize = 6;
const BOTH: [&str; 2] = ["flat", "dedup"];

/// `n` vectors of `distinct` different ones.
fn repeating(n: usize, distinct: usize, seed: u64) -> Vec<f32> {
    let base = reals(distinct, DIM, seed);
    let mut random = Random::new(seed + 1);
    let pick = |_| random.below(distinct);
    (0..n).map(pick).flat_map(|at| base[at * DIM..(at + 1) * DIM].to_vec()).collect()
}

/// One index of each kind.
fn twice(store: &Store, lists: &str, metric: Metric) {
    for (name, encoding) in BOTH.into_iter().zip(["Flat", "FlatDedup"]) {
        create(store, name, &spec(&format!("{lists}{encoding}"), DIM, metric).with_block_order(0));
    }
}

fn do_to_both(store: &Store, verbs: impl Fn(&mut IndexWriter<'_>)) {
    for name in BOTH {
        change(store, name, &verbs);
    }
}

fn selectors() -> Vec<Option<IdSelector>> {
    vec![
        None,
        Some(IdSelector::range(20..90)),
        Some(IdSelector::Array(vec![1, 5, 6, 77, 120, 121])),
        Some(IdSelector::batch((0..400).step_by(3))),
        Some(IdSelector::callback(|id| id % 7 == 2)),
        Some(!IdSelector::range(0..200)),
    ]
}

fn with_selector(params: &SearchParams, selector: &Option<IdSelector>) -> SearchParams {
    match selector {
        None => params.clone(),
        Some(selector) => params.clone().selector(selector.clone()),
    }
}

/// Everything that can be asked is answered alike, and both are whole.
#[track_caller]
fn assert_alike(store: &Store, queries: Rows<'_>, what: &str) {
    BOTH.iter().for_each(|name| assert_sound(store, name));
    let [flat, dedup] = BOTH.map(|name| reader(store, name));
    let ids = flat.ids().unwrap();
    assert_eq!(ids, dedup.ids().unwrap(), "{what}");
    let vectors = |reader: &IndexReader<'_>| -> Vec<u32> {
        reader.reconstruct_batch(&ids).unwrap().iter().map(|v| v.to_bits()).collect()
    };
    assert_eq!(vectors(&flat), vectors(&dedup), "{what}");
    for selector in selectors() {
        for (nprobe_, k) in [(1, 3), (3, 40), (usize::MAX, 1), (usize::MAX, 500)] {
            let params = with_selector(&nprobe(nprobe_), &selector);
            let found = [&flat, &dedup].map(|r| all_bits(&r.search_batch(queries, k, &params).unwrap()));
            assert_eq!(found[0], found[1], "{what}: {selector:?}, {nprobe_} lists, k = {k}");
            let alone = dedup.search(queries.row(0), k, &params).unwrap();
            assert_eq!(bits(&alone), found[1][0], "{what}: alone");
            // The distance of somebody is a radius that somebody is exactly on.
            let Some(radius) = alone.get(k / 2).map(|n| n.distance) else { continue };
            let found =
                [&flat, &dedup].map(|r| all_bits(&r.range_search_batch(queries, radius, &params).unwrap()));
            assert_eq!(found[0], found[1], "{what}: {selector:?}, {nprobe_} lists, radius {radius}");
        }
    }
    let distinct: std::collections::BTreeSet<Vec<u32>> =
        vectors(&flat).chunks(DIM).map(<[u32]>::to_vec).collect();
    let stats = dedup.stats().unwrap();
    assert_eq!(
        (stats.entries, stats.twins),
        (distinct.len() as u64, (ids.len() - distinct.len()) as u64),
        "{what}"
    );
}

#[test]
fn answers_are_those_of_flat_whatever_happened() {
    let data = repeating(360, 40, 1);
    let queries = rows(&data[..10 * DIM], DIM);
    for (lists, metric) in ["", "IVF7,"].into_iter().flat_map(|lists| METRICS.map(|metric| (lists, metric))) {
        let store = memory();
        twice(&store, lists, metric);
        do_to_both(&store, |writer| {
            live_in(writer, rows(&data, DIM));
        });
        assert_alike(&store, queries, &format!("{lists} {metric}"));
        assert_eq!(reader(&store, "dedup").stats().unwrap().entries, 40);
        if lists.is_empty() {
            continue;
        }
        do_to_both(&store, |writer| {
            train(writer, rows(&reals(100, DIM, 9), DIM));
        });
        assert_alike(&store, queries, &format!("{lists} {metric}, trained again"));
    }
}

#[test]
fn all_metrics_go_with_it() {
    let data: Vec<f32> = repeating(200, 20, 3).iter().map(|v| v.abs()).collect();
    for metric in [Metric::L1, Metric::Linf, Metric::Canberra, Metric::JensenShannon, Metric::NanEuclidean] {
        let mut data = data.clone();
        if metric == Metric::NanEuclidean {
            data.iter_mut().filter(|v| **v > 1.0).for_each(|v| *v = f32::NAN);
        }
        let store = memory();
        twice(&store, "IVF4,", metric);
        do_to_both(&store, |writer| {
            train(writer, rows(&data, DIM));
            writer.add(rows(&data, DIM)).unwrap();
        });
        assert_alike(&store, rows(&data[..5 * DIM], DIM), &metric.to_string());
    }
}

#[test]
fn transforms_come_first() {
    let data = repeating(300, 30, 5);
    let store = memory();
    twice(&store, "PCA4,IVF5,", Metric::L2);
    do_to_both(&store, |writer| {
        writer.add(rows(&data, DIM)).unwrap();
        train(writer, rows(&data, DIM));
        writer.add(rows(&data[..50 * DIM], DIM)).unwrap();
    });
    let [flat, dedup] = BOTH.map(|name| reader(&store, name));
    let found = [&flat, &dedup]
        .map(|r| all_bits(&r.search_batch(rows(&data[..8 * DIM], DIM), 60, &everywhere()).unwrap()));
    assert_eq!(found[0], found[1]);
    assert_eq!(dedup.stats().unwrap().entries, 30);
    assert_sound(&store, "dedup");
}

#[test]
fn a_twin_costs_no_code_and_touches_no_list() {
    let data = reals(200, DIM, 7);
    let store = memory();
    twice(&store, "IVF4,", Metric::L2);
    change(&store, "dedup", |writer| {
        train(writer, rows(&data, DIM));
        writer.add(rows(&data, DIM)).unwrap();
    });
    let bytes = || {
        let stats = reader(&store, "dedup").stats().unwrap();
        let codes = stats.parts.iter().filter(|part| ["blocks", "tails"].contains(&part.name));
        (stats.entries, codes.map(|part| part.stored_bytes).sum::<u64>(), stats.logical_bytes())
    };
    let (entries, codes, logical) = bytes();
    for _ in 0..5 {
        change(&store, "dedup", |writer| {
            writer.add(rows(&data, DIM)).unwrap();
        });
    }
    let (entries_now, codes_now, logical_now) = bytes();
    assert_eq!((entries, codes), (entries_now, codes_now));
    assert_eq!(logical_now - logical, 1000 * (8 + 12 + 8 + 8));
    assert_eq!(reader(&store, "dedup").len(), 1200);
    assert_sound(&store, "dedup");
}

/// The row that an entry names, one in the middle of its chain, the last of it, all of it; moved entries keep theirs.
#[test]
fn removing_any_of_equal_vectors_leaves_the_others() {
    let data = repeating(60, 5, 11);
    for gone in
        [vec![0], vec![59], (0..30).collect(), (1..59).collect(), (0..60).step_by(2).collect::<Vec<u64>>()]
    {
        let store = memory();
        twice(&store, "", Metric::L2);
        do_to_both(&store, |writer| {
            writer.add(rows(&data, DIM)).unwrap();
            writer.remove_ids(&IdSelector::batch(gone.iter().copied())).unwrap();
        });
        assert_alike(&store, rows(&data[..5 * DIM], DIM), &format!("without {gone:?}"));
        // One by one until nothing is left, each in its own transaction.
        for id in reader(&store, "flat").ids().unwrap() {
            do_to_both(&store, |writer| {
                assert_eq!(writer.remove_ids(&IdSelector::range(id..id + 1)).unwrap(), 1)
            });
            assert_sound(&store, "dedup");
        }
        let stats = reader(&store, "dedup").stats().unwrap();
        assert_eq!((stats.rows, stats.entries, stats.twins), (0, 0, 0));
        assert!(stats.parts.iter().all(|part| part.name != "twins" || part.values == 0));
    }
}

#[test]
fn updates_and_upserts_change_chains() {
    let (data, other) = (repeating(90, 6, 13), repeating(90, 6, 14));
    let store = memory();
    twice(&store, "IVF3,", Metric::L2);
    do_to_both(&store, |writer| {
        train(writer, rows(&data, DIM));
        writer.add(rows(&data, DIM)).unwrap();
    });
    for round in 0..6u64 {
        let ids: Vec<u64> = (0..90).filter(|id| (id * 7 + round) % 3 == 0).collect();
        let from = if round % 2 == 0 { &other } else { &data };
        let vectors = rows(from, DIM).slice(0..ids.len());
        do_to_both(&store, |writer| {
            writer.update_vectors(&ids, vectors).unwrap();
            let more: Vec<u64> = ids.iter().map(|id| id + 60).collect();
            writer.upsert(&more, vectors).unwrap();
        });
        assert_alike(&store, rows(&data[..6 * DIM], DIM), &format!("round {round}"));
    }
}

/// What is given up changes nothing, and what fails half-way cannot be committed.
#[test]
fn an_aborted_transaction_leaves_all_chains() {
    let data = repeating(80, 8, 17);
    let store = memory();
    twice(&store, "IVF3,", Metric::L2);
    do_to_both(&store, |writer| {
        writer.add(rows(&data, DIM)).unwrap();
    });
    let before = state(&reader(&store, "dedup"));
    let txn = store.begin_write().unwrap();
    let mut writer = txn.index("dedup").unwrap();
    train(&mut writer, rows(&data, DIM));
    writer.add(rows(&data, DIM)).unwrap();
    writer.remove_ids(&IdSelector::range(0..100)).unwrap();
    assert_eq!(writer.reader().search(&data[..DIM], 200, &everywhere()).unwrap().len(), 60);
    drop(writer);
    txn.abort().unwrap();
    assert_eq!(before, state(&reader(&store, "dedup")));
    assert_alike(&store, rows(&data[..DIM], DIM), "aborted");
}

#[test]
fn max_codes_counts_vectors() {
    let data = repeating(300, 12, 19);
    let store = memory();
    twice(&store, "IVF5,", Metric::L2);
    do_to_both(&store, |writer| {
        train(writer, rows(&data, DIM));
        writer.add(rows(&data, DIM)).unwrap();
    });
    let [flat, dedup] = BOTH.map(|name| reader(&store, name));
    for selector in selectors() {
        let all = with_selector(&everywhere(), &selector);
        let most = flat.search(&data[..DIM], 300, &all).unwrap().len();
        for max_codes in [1, 2, 29, 100, 299, 300, 5000] {
            let params = all.clone().max_codes(max_codes);
            let found = dedup.search(&data[..DIM], 300, &params).unwrap();
            assert_eq!(found.len(), most.min(max_codes), "{selector:?} {max_codes}");
            let batch = dedup.search_batch(rows(&data[..4 * DIM], DIM), 300, &params).unwrap();
            assert_eq!(bits(&found), bits(&batch[0]));
        }
        // Where whole lists are counted, the rows are those of `Flat`.
        let query = &data[..DIM];
        let nearest = with_selector(&nprobe(1), &selector);
        let list = flat.search(query, 300, &nearest).unwrap();
        if !list.is_empty() {
            let params = all.clone().max_codes(list.len());
            assert_eq!(bits(&dedup.search(query, 300, &params).unwrap()), bits(&list), "{selector:?}");
        }
    }
}

#[test]
fn renumbering_keeps_chains() {
    let data = repeating(400, 25, 23);
    let store = memory();
    twice(&store, "IVF4,", Metric::L2);
    do_to_both(&store, |writer| {
        train(writer, rows(&data, DIM));
        writer.add(rows(&data, DIM)).unwrap();
        writer.remove_ids(&IdSelector::callback(|id| id % 4 != 1)).unwrap();
        writer.add(rows(&data[..7 * DIM], DIM)).unwrap();
        assert!(writer.renumber(&mut Observer::none()).unwrap() > 50);
    });
    assert_alike(&store, rows(&data[..6 * DIM], DIM), "renumbered");
    assert_eq!(reader(&store, "dedup").stats().unwrap().free_rows, 0);
    do_to_both(&store, |writer| assert!(writer.remove_ids(&IdSelector::range(0..300)).unwrap() > 0));
    store.compact().unwrap();
    assert_alike(&store, rows(&data[..6 * DIM], DIM), "compacted");
}

#[test]
fn cleared_and_filled_again() {
    let data = repeating(120, 9, 29);
    let store = memory();
    twice(&store, "IVF4,", Metric::L2);
    for round in 0..2 {
        do_to_both(&store, |writer| {
            writer.add(rows(&data, DIM)).unwrap();
            writer.train_stored(&TrainParams::default(), &mut Observer::none()).map(drop).unwrap();
            writer.add(rows(&data, DIM)).unwrap();
        });
        assert_alike(&store, rows(&data[..4 * DIM], DIM), &format!("round {round}"));
        do_to_both(&store, |writer| writer.clear().unwrap());
        let stats = reader(&store, "dedup").stats().unwrap();
        assert_eq!((stats.rows, stats.entries, stats.twins), (0, 0, 0));
        assert_sound(&store, "dedup");
    }
}

#[test]
fn keys_name_twins() {
    let data = repeating(50, 4, 31);
    let store = memory();
    create(&store, "dedup", &spec("IVF2,FlatDedup", DIM, Metric::L2).with_keys(true));
    let keys: Vec<String> = (0..50).map(|i| format!("key {i}")).collect();
    change(&store, "dedup", |writer| {
        writer.add_with_keys(&keys, rows(&data, DIM)).unwrap();
        train(writer, rows(&data, DIM));
        writer.remove_keys(&keys[10..20]).unwrap();
        writer.upsert_with_keys(&keys[15..25], rows(&data[..10 * DIM], DIM)).unwrap();
    });
    let reader = reader(&store, "dedup");
    for (i, key) in keys.iter().enumerate() {
        let vector = match i {
            10..15 => None,
            15..25 => Some(i - 15),
            _ => Some(i),
        };
        let id = reader.id_of_key(key.as_bytes()).unwrap();
        assert_eq!(id.is_some(), vector.is_some());
        if let (Some(id), Some(at)) = (id, vector) {
            assert_eq!(reader.reconstruct(id).unwrap(), data[at * DIM..(at + 1) * DIM]);
            assert_eq!(reader.key(id).unwrap().unwrap(), key.as_bytes());
        }
    }
    assert_sound(&store, "dedup");
}

#[test]
fn merging_and_copying_bring_all_rows() {
    let data = repeating(240, 16, 37);
    let store = memory();
    twice(&store, "IVF4,", Metric::L2);
    let other = spec("IVF4,FlatDedup", DIM, Metric::L2);
    create(&store, "other", &other);
    for (name, part) in [("flat", 0..240), ("dedup", 0..80), ("other", 80..240)] {
        change(&store, name, |writer| {
            train(writer, rows(&data, DIM));
            writer.add(rows(&data, DIM).slice(part.clone())).unwrap();
        });
    }
    let from = reader(&store, "other");
    let merged =
        change(&store, "dedup", |writer| writer.merge_from(&from, 80, &mut Observer::none()).unwrap());
    assert_eq!(merged, 160);
    assert_alike(&store, rows(&data[..6 * DIM], DIM), "merged");
    let part = |part| Subset::ListPart { parts: 3, part };
    for subsets in [
        vec![Subset::Ids(0..70), Subset::Ids(70..1000)],
        (0..3).map(part).collect(),
        [0..33, 33..34, 34..u64::MAX].map(Subset::Elements).to_vec(),
        vec![Subset::IdModulo { modulus: 2, remainder: 0 }, Subset::IdModulo { modulus: 2, remainder: 1 }],
    ] {
        let mut all = Vec::new();
        for (i, subset) in subsets.iter().enumerate() {
            let name = format!("part {i}");
            create(&store, &name, &other);
            change(&store, &name, |writer| {
                train(writer, rows(&data, DIM));
                from.copy_subset_to(writer, subset, &mut Observer::none()).unwrap();
            });
            assert_sound(&store, &name);
            let copy = reader(&store, &name);
            for id in copy.ids().unwrap() {
                assert_eq!(copy.reconstruct(id).unwrap(), from.reconstruct(id).unwrap());
            }
            all.extend(copy.ids().unwrap());
            let txn = store.begin_write().unwrap();
            txn.drop_index(&name).unwrap();
            txn.commit().unwrap();
        }
        all.sort_unstable();
        assert_eq!(all, (0..160).collect::<Vec<u64>>(), "{subsets:?}");
    }
    let plain = from.check_compatible_for_merge(&reader(&store, "flat"));
    assert!(matches!(plain, Err(Error::Incompatible { .. })));
}

#[test]
fn codes_slots_and_lists_name_all_rows() {
    let data = repeating(150, 10, 41);
    let store = memory();
    twice(&store, "IVF3,", Metric::L2);
    do_to_both(&store, |writer| {
        train(writer, rows(&data, DIM));
        writer.add(rows(&data, DIM)).unwrap();
    });
    let index = reader(&store, "dedup");
    let mut seen = Vec::new();
    for list in 0..3 {
        let (ids, codes) = index.list(list).unwrap();
        assert_eq!(codes.len(), ids.len() * index.code_bytes());
        for (id, bytes) in ids.iter().zip(codes.chunks_exact(index.code_bytes())) {
            let Code { slot, bytes: own } = index.code(*id).unwrap();
            assert_eq!((slot.list, &own[..]), (list, bytes));
            assert_eq!(index.slot(*id).unwrap(), slot);
            let lowest = index.id_at(slot).unwrap();
            assert!(lowest <= *id && index.slot(lowest).unwrap() == slot);
            assert_eq!(index.reconstruct_at(slot).unwrap(), index.reconstruct(*id).unwrap());
        }
        seen.extend(ids);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..150).collect::<Vec<u64>>());
    let found = index.search_and_return_codes(rows(&data[..DIM], DIM), 30, &everywhere()).unwrap();
    assert!(found[0].iter().all(|(neighbor, code)| index.code(neighbor.id).unwrap() == *code));
}

/// A row that is put where it does not belong has equal ones elsewhere: entries are shared within a list.
#[test]
fn equal_vectors_of_two_lists_have_two_entries() {
    let data = repeating(40, 1, 43);
    let store = memory();
    twice(&store, "IVF4,", Metric::L2);
    let ids: Vec<u64> = (0..40).collect();
    let lists: Vec<u32> = (0..40).map(|i| i % 4).collect();
    do_to_both(&store, |writer| {
        train(writer, rows(&reals(50, DIM, 44), DIM));
        writer.add_preassigned(&ids, rows(&data, DIM), &lists).unwrap();
    });
    let [flat, dedup] = BOTH.map(|name| reader(&store, name));
    assert_eq!(dedup.list_sizes().unwrap(), [1; 4]);
    for n in 1..5 {
        let found = [&flat, &dedup].map(|r| bits(&r.search(&data[..DIM], 40, &nprobe(n)).unwrap()));
        assert_eq!(found[0], found[1]);
    }
    assert_sound(&store, "dedup");
}

#[test]
fn zero_and_minus_zero_are_two_vectors() {
    let store = memory();
    twice(&store, "", Metric::L2);
    let data = [[0.0f32; DIM], [-0.0; DIM], [0.0; DIM]].concat();
    do_to_both(&store, |writer| {
        writer.add(rows(&data, DIM)).unwrap();
    });
    assert_eq!(reader(&store, "dedup").stats().unwrap().entries, 2);
    assert_alike(&store, rows(&data[..DIM], DIM), "zeros");
}

/// Readers keep their state while chains change under them, and later ones take over what was pinned.
#[test]
fn readers_keep_their_chains() {
    let data = repeating(2000, 50, 47);
    let queries = rows(&data[..20 * DIM], DIM);
    let store = memory();
    twice(&store, "IVF6,", Metric::L2);
    do_to_both(&store, |writer| {
        train(writer, rows(&data, DIM));
        writer.add(rows(&data, DIM)).unwrap();
    });
    let mut held = Vec::new();
    for round in 0..8u64 {
        let [flat, dedup] = BOTH.map(|name| reader(&store, name));
        let answer = all_bits(&flat.search_batch(queries, 70, &everywhere()).unwrap());
        held.push((dedup, answer));
        do_to_both(&store, |writer| {
            writer.remove_ids(&IdSelector::callback(move |id| id % 11 == round)).unwrap();
            writer.add(rows(&data, DIM).slice(0..10 * (1 + round as usize))).unwrap();
        });
        for (reader, answer) in &held {
            assert_eq!(all_bits(&reader.search_batch(queries, 70, &everywhere()).unwrap()), *answer);
        }
    }
    assert_alike(&store, queries, "after all");
}

#[test]
fn bulk_loads_backups_and_new_names() {
    let folder = tempfile::tempdir().unwrap();
    let data = repeating(500, 21, 53);
    let store = in_memory(Store::builder().load_bytes(100 * 4 * DIM));
    twice(&store, "IVF4,", Metric::L2);
    do_to_both(&store, |writer| {
        train(writer, rows(&data, DIM));
    });
    for name in BOTH {
        let mut load = store.bulk_load(name).unwrap();
        load.add(rows(&data[..333 * DIM], DIM)).unwrap();
        drop(load);
        let mut load = store.bulk_load(name).unwrap();
        let done = load.rows_done() as usize;
        load.add(rows(&data[done * DIM..], DIM)).unwrap();
        load.finish().unwrap();
    }
    assert_alike(&store, rows(&data[..5 * DIM], DIM), "loaded");
    let txn = store.begin_write().unwrap();
    for name in BOTH {
        txn.rename_index(name, &format!("{name} x")).unwrap();
        txn.rename_index(&format!("{name} x"), name).unwrap();
    }
    txn.commit().unwrap();
    assert_alike(&store, rows(&data[..5 * DIM], DIM), "renamed");
    let path = folder.path().join("copy.vellum");
    store.backup(&path, &mut Observer::none()).unwrap();
    assert_alike(&Store::open(&path).unwrap(), rows(&data[..5 * DIM], DIM), "copied");
}

#[test]
fn what_does_not_go_with_it_is_refused_with_the_reason() {
    for (text, reason) in [
        ("IVF4,FlatDedup,RFlat", "stored once"),
        ("FlatDedup,RU8", "stored once"),
        ("IVF4_SOAR,FlatDedup", "one entry"),
    ] {
        let refused = text.parse::<IndexSpec>().unwrap_err().to_string();
        assert!(refused.contains(reason), "{text}: {refused}");
    }
    let l1 = spec("IVF4,FlatDedup", DIM, Metric::L1).with_kept_rows(KeptRows::F32);
    let refused = memory().begin_write().unwrap().create_index("l1", &l1);
    assert!(matches!(refused, Err(Error::Spec { .. })));
}

// ---------------------------------------------------------------- damage

/// A database with an index of 700 rows, 90 distinct ones, in columns of more than one page, and an earlier state of it.
struct Damaged {
    db: Arc<Database>,
    oracle: Oracle,
    before: Vec<(&'static str, Vec<redb_index::Pair>)>,
}

impl Damaged {
    fn new() -> Self {
        let db = Arc::new(Database::builder().create_with_backend(InMemoryBackend::new()).unwrap());
        let store = Store::builder().attach(db.clone()).unwrap();
        create(&store, "i", &spec("IVF5,FlatDedup", DIM, Metric::L2).with_block_order(0));
        let data = repeating(1400, 90, 61);
        let mut oracle = Oracle::new(Metric::L2, Stored::F32);
        change(&store, "i", |writer| {
            train(writer, rows(&data, DIM));
            oracle.put_all(writer.add(rows(&data, DIM)).unwrap(), rows(&data, DIM));
        });
        let before = ["twins", "slots"].map(|table| (table, entries(&db, "i", table))).to_vec();
        change(&store, "i", |writer| {
            // The first of every chain goes, others change places.
            let gone: Vec<u64> = (0..500).collect();
            writer.remove_ids(&IdSelector::batch(gone.iter().copied())).unwrap();
            gone.iter().for_each(|id| drop(oracle.vectors.remove(id)));
            let ids: Vec<u64> = (700..1100).collect();
            let vectors = rows(&data, DIM).slice(100..500);
            writer.update_vectors(&ids, vectors).unwrap();
            oracle.put_all(ids, vectors);
        });
        assert_sound(&store, "i");
        Damaged { db, oracle, before }
    }

    fn strike(&self, table: &str, damage: impl Fn(&redb::WriteTransaction, &redb_index::Pair)) {
        let all = entries(&self.db, "i", table);
        let txn = self.db.begin_write().unwrap();
        all.iter().for_each(|pair| damage(&txn, pair));
        txn.commit().unwrap();
    }

    fn problems(&self) -> Vec<Problem> {
        let store = Store::builder().attach(self.db.clone()).unwrap();
        store.begin_read().unwrap().verify("i", &mut Observer::none()).unwrap().problems
    }

    /// Repairs; all that survives is itself, and what does not is named. Returns how many are lost.
    fn repair(&self, what: &str) -> usize {
        assert!(!self.problems().is_empty(), "{what}: not noticed");
        let store = Store::builder().attach(self.db.clone()).unwrap();
        let txn = store.begin_write().unwrap();
        let report = txn.damaged_index("i").unwrap().repair(&mut Observer::none()).unwrap();
        txn.commit().unwrap();
        assert_sound(&store, "i");
        let index = reader(&store, "i");
        for id in index.ids().unwrap() {
            assert_eq!(Some(&index.reconstruct(id).unwrap()), self.oracle.vectors.get(&id), "{what}: {id}");
        }
        let lost = self.oracle.vectors.len() - index.len() as usize;
        assert_eq!(lost, report.lost_ids.len(), "{what}: {report:?}");
        change(&store, "i", |writer| {
            writer.remove_ids(&IdSelector::callback(|id| id % 3 == 0)).unwrap();
            writer.add(rows(&repeating(100, 9, 61), DIM)).unwrap();
        });
        assert_sound(&store, "i");
        lost
    }
}

#[test]
fn a_page_of_twins_that_is_gone_is_noticed_at_the_door() {
    let damaged = Damaged::new();
    let first = entries(&damaged.db, "i", "twins")[0].0.clone();
    damaged.strike("twins", |txn, (key, _)| {
        if *key == first {
            delete(txn, "i", "twins", key)
        }
    });
    let store = Store::builder().attach(damaged.db.clone()).unwrap();
    let refused = |e: Error| matches!(e, Error::Corrupt { table, .. } if table == "i/twins");
    assert!(refused(store.begin_read().unwrap().index("i").unwrap_err()));
    assert!(refused(store.begin_write().unwrap().index("i").unwrap_err()));
    assert!(damaged.problems().iter().any(|p| p.table == "i/twins"));
    drop(store);
    assert_eq!(damaged.repair("a page of twins"), 0);
}

#[test]
fn chains_are_made_again_of_slots_or_slots_of_chains() {
    for (table, how) in
        ["twins", "slots"].into_iter().flat_map(|table| ["delete", "rot", "zero"].map(|how| (table, how)))
    {
        let damaged = Damaged::new();
        damaged.strike(table, |txn, (key, value)| match how {
            "delete" => delete(txn, "i", table, key),
            "zero" => put(txn, "i", table, key, &vec![0; value.len()]),
            _ => {
                let mut rotten = value.clone();
                rotten[100] ^= 1;
                put(txn, "i", table, key, &rotten);
            }
        });
        assert_eq!(damaged.repair(&format!("{table}: {how}")), 0);
    }
}

/// Pages put back to an earlier state are whole, and contradict the others: those that were written last are believed.
#[test]
fn earlier_pages_are_outvoted() {
    for table in ["twins", "slots"] {
        let earlier = Damaged::new().before.iter().find(|(t, _)| *t == table).unwrap().1.len();
        for at in 0..earlier {
            let damaged = Damaged::new();
            let before = &damaged.before.iter().find(|(t, _)| *t == table).unwrap().1;
            let (key, value) = &before[at];
            let txn = damaged.db.begin_write().unwrap();
            put(&txn, "i", table, key, value);
            txn.commit().unwrap();
            assert!(damaged.problems().iter().any(|p| p.table == format!("i/{table}")), "{table} {at}");
            assert_eq!(damaged.repair(&format!("earlier page {at} of {table}")), 0);
        }
    }
}

/// Without both nobody knows whose vector the rows have that no entry names: they are lost, and named.
#[test]
fn without_slots_and_twins_the_rows_of_entries_survive() {
    let damaged = Damaged::new();
    let store = Store::builder().attach(damaged.db.clone()).unwrap();
    let twins = reader(&store, "i").stats().unwrap().twins as usize;
    drop(store);
    damaged.strike("twins", |txn, (key, _)| delete(txn, "i", "twins", key));
    damaged.strike("slots", |txn, (key, _)| delete(txn, "i", "slots", key));
    assert!(twins > 800);
    assert_eq!(damaged.repair("both"), twins);
}

#[test]
fn a_lost_block_costs_the_rows_of_its_entries() {
    let damaged = Damaged::new();
    let table = if entries(&damaged.db, "i", "tails").is_empty() { "blocks" } else { "tails" };
    let first = entries(&damaged.db, "i", table)[0].0.clone();
    damaged.strike(table, |txn, (key, _)| {
        if *key == first {
            delete(txn, "i", table, key)
        }
    });
    let lost = damaged.repair("a block");
    assert!((1..900).contains(&lost), "{lost}");
}

/// Each chain cut, turned round, led astray, or led into another, with a good checksum.
#[test]
fn every_wrong_link_is_noticed() {
    let damaged = Damaged::new();
    let pages = entries(&damaged.db, "i", "twins");
    let (key, page) = &pages[pages.len() - 1];
    let twin = |at: usize| 64 + 8 * at;
    let is_linked = |at: &usize| page[twin(*at)..twin(*at) + 8] != [0xff; 8];
    let linked: Vec<usize> = (0..(page.len() - 64) / 8).filter(is_linked).collect();
    assert!(linked.len() > 100);
    for at in linked.iter().step_by(37) {
        for (field, value) in [(0, 3u32), (0, u32::MAX), (4, u32::MAX), (4, 0), (4, u32::MAX - 1), (4, 777)] {
            let mut wrong = page.clone();
            let place = twin(*at) + field..twin(*at) + field + 4;
            if wrong[place.clone()] == value.to_le_bytes() {
                continue;
            }
            wrong[place].copy_from_slice(&value.to_le_bytes());
            let payload = u32::from_le_bytes(wrong[28..32].try_into().unwrap()) as usize;
            let sum = crc32fast::hash(&wrong[64..64 + payload]);
            wrong[56..60].copy_from_slice(&sum.to_le_bytes());
            let sum = crc32fast::hash(&wrong[..60]);
            wrong[60..64].copy_from_slice(&sum.to_le_bytes());
            let txn = damaged.db.begin_write().unwrap();
            put(&txn, "i", "twins", key, &wrong);
            txn.commit().unwrap();
            let problems = damaged.problems();
            assert!(problems.iter().any(|p| p.table == "i/twins"), "{at} {field} {value}: {problems:?}");
            // Reading may fail, but neither hangs nor panics.
            let store = Store::builder().attach(damaged.db.clone()).unwrap();
            if let Ok(index) = store.begin_read().unwrap().index("i") {
                drop(index.search(&[0.0; DIM], 900, &everywhere()));
            }
        }
    }
    let txn = damaged.db.begin_write().unwrap();
    put(&txn, "i", "twins", key, page);
    txn.commit().unwrap();
    assert_eq!(damaged.problems(), []);
}

/// Scanners, single distances, threads that share a query's lists, limits, and shards see all rows of an entry.
#[test]
fn every_other_way_to_ask_sees_all_rows() {
    let data = repeating(300, 60, 31);
    let store = memory();
    twice(&store, "IVF8,", Metric::L2);
    do_to_both(&store, |writer| {
        train(writer, rows(&data, DIM));
        writer.add(rows(&data, DIM)).unwrap();
        writer.remove_ids(&IdSelector::batch((0..300).step_by(11))).unwrap();
    });
    let [flat, dedup] = BOTH.map(|name| reader(&store, name));
    let queries = rows(&data[..10 * DIM], DIM);
    for (selector, mode) in selectors()
        .into_iter()
        .flat_map(|selector| [ParallelMode::Lists, ParallelMode::Pairs].map(|mode| (selector.clone(), mode)))
    {
        for params in [nprobe(3), everywhere(), everywhere().max_lists(2).ensure_topk_full(true)] {
            let params = with_selector(&params, &selector).parallel_mode(mode);
            let found = [&flat, &dedup].map(|r| all_bits(&r.search_batch(queries, 30, &params).unwrap()));
            assert_eq!(found[0], found[1], "{selector:?} {params:?}");
        }
    }
    for selector in selectors().into_iter().flatten() {
        let scanned = |reader: &IndexReader<'_>| {
            let query = reader.prepare_query(queries.row(3)).unwrap();
            let mut scanner = query.list_scanner();
            scanner.select(&selector).unwrap();
            let mut all = Vec::new();
            for list in 0..reader.nlist() as u32 {
                scanner.enter(list).unwrap();
                let calls = scanner
                    .scan(f32::INFINITY, |entry| {
                        all.push((entry.id, entry.distance.to_bits()));
                        std::ops::ControlFlow::Continue(())
                    })
                    .unwrap();
                assert!(calls <= 300);
            }
            all.sort_unstable();
            all
        };
        assert_eq!(scanned(&flat), scanned(&dedup), "{selector:?}");
    }
    let ids = flat.ids().unwrap();
    let distances = |reader: &IndexReader<'_>| {
        let query = reader.prepare_query(queries.row(5)).unwrap();
        query.distance_computer().distances(&ids).unwrap()
    };
    assert_eq!(distances(&flat), distances(&dedup));
    for (name, part) in [("front", 0..150), ("back", 150..1000)] {
        create(&store, name, &spec("IVF8,FlatDedup", DIM, Metric::L2));
        change(&store, name, |writer| {
            train(writer, rows(&data, DIM));
            dedup.copy_subset_to(writer, &Subset::Ids(part.clone()), &mut Observer::none()).unwrap();
        });
        assert_sound(&store, name);
    }
    let shards = IndexReader::of_shards(&[reader(&store, "front"), reader(&store, "back")]).unwrap();
    for selector in selectors() {
        let params = with_selector(&everywhere(), &selector);
        let found = [&flat, &shards].map(|r| all_bits(&r.search_batch(queries, 40, &params).unwrap()));
        assert_eq!(found[0], found[1], "{selector:?}");
    }
}
