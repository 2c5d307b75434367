//! Worry: codes that are copied between indexes lose rows, change them, or land where their list means something else.
//!
//! Noticed by comparing what was merged with an index that all vectors were added to, by parts that must share nothing
//! and leave nothing out, and by `verify`, which encodes kept rows again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use support::*;
use vellum::*;

const DIM: usize = 12;
const SPECS: [&str; 6] = [
    "IVF8,Flat",
    "IVF8,SQfp16,RFlat",
    "IVF8,Nibble2,RSQ8+Flat",
    "IVF8_SOAR,Nibble1,RF16",
    "IVF8_SOAR,Flat",
    "Flat",
];

/// Two indexes of one training: "a" with the front rows, "b" with the others, ids from 0 in both.
fn halves(text: &str, metric: Metric, data: &[f32]) -> Store {
    let store = memory();
    let (spec, all) = (spec(text, DIM, metric), rows(data, DIM));
    for (name, part) in [("a", 0..all.len() / 3), ("b", all.len() / 3..all.len())] {
        create(&store, name, &spec);
        change(&store, name, |writer| {
            if spec.nlist().is_some() {
                train(writer, all);
            }
            writer.add(all.slice(part.clone())).unwrap();
        });
    }
    store
}

fn merge(store: &Store, add_id: u64) -> Result<u64> {
    let other = reader(store, "b");
    let txn = store.begin_write()?;
    let mut writer = txn.index("a")?;
    let merged = writer.merge_from(&other, add_id, &mut Observer::none());
    drop(writer);
    if merged.is_ok() {
        txn.commit()?;
    }
    merged
}

#[test]
fn merged_indexes_answer_like_one_that_all_was_added_to() {
    for (text, metric) in with_every_encoding(&SPECS, "IVF8", 2) {
        let data = suited(&text, 600, DIM, 1);
        let store = halves(&text, metric, &data);
        create(&store, "all", &spec(&text, DIM, metric));
        change(&store, "all", |writer| {
            if text != "Flat" {
                train(writer, rows(&data, DIM));
            }
            writer.add(rows(&data, DIM)).unwrap();
        });
        assert_eq!(merge(&store, 200).unwrap(), 400, "{text}");
        assert_sound(&store, "a");
        let (merged, all) = (reader(&store, "a"), reader(&store, "all"));
        let queries = rows(&data[..40 * DIM], DIM);
        for nprobe_ in [1, 3, 8] {
            let [a, b] = [&merged, &all].map(|r| r.search_batch(queries, 7, &nprobe(nprobe_)).unwrap());
            assert_eq!(all_bits(&a), all_bits(&b), "{text} {metric} {nprobe_}");
        }
        for id in [0, 199, 200, 599] {
            assert_eq!(merged.code(id).unwrap().bytes, all.code(id).unwrap().bytes, "{text} {metric}");
            match decodes(&text) {
                true => assert_eq!(merged.reconstruct(id).unwrap(), all.reconstruct(id).unwrap()),
                false => assert!(matches!(merged.reconstruct(id), Err(Error::CannotDecode { .. }))),
            }
        }
    }
}

#[test]
fn what_is_there_already_is_refused_and_nothing_changes() {
    let data = reals(300, DIM, 2);
    let store = halves("IVF8,Flat", Metric::L2, &data);
    let before = state(&reader(&store, "a"));
    assert!(matches!(merge(&store, 99), Err(Error::DuplicateId { id: 99 })));
    assert!(matches!(merge(&store, u64::MAX - 10), Err(Error::InvalidId { .. })));
    assert!(before == state(&reader(&store, "a")));
}

#[test]
fn indexes_that_do_not_go_together_are_refused() {
    let data = reals(300, DIM, 3);
    let store = halves("IVF8,Flat", Metric::L2, &data);
    let refused = |name: &str, text: &str, metric, trained_on: Option<&[f32]>| {
        create(&store, name, &spec(text, DIM, metric));
        change(&store, name, |writer| {
            trained_on.map(|data| train(writer, rows(data, DIM)));
        });
        let what = reader(&store, "a").check_compatible_for_merge(&reader(&store, name)).unwrap_err();
        let Error::Incompatible { what } = what else { panic!("{what:?}") };
        what
    };
    assert!(refused("1", "IVF8,Flat", Metric::InnerProduct, Some(&data)).contains("metrics"));
    assert!(refused("2", "IVF8,SQfp16", Metric::L2, Some(&data)).contains("SQfp16"));
    assert!(refused("3", "IVF8,Flat", Metric::L2, None).contains("trained"));
    assert!(refused("4", "IVF8,Flat", Metric::L2, Some(&data[..100 * DIM])).contains("centroids"));
    let same = reader(&store, "a").check_compatible_for_merge(&reader(&store, "b"));
    assert!(same.is_ok());
}

#[test]
fn keys_come_along() {
    let data = reals(90, DIM, 4);
    let store = memory();
    let spec = spec("IVF4,SQfp16,RFlat", DIM, Metric::L2).with_keys(true);
    let key = |i: usize| format!("key {i}");
    for (name, part) in [("a", 0..40), ("b", 40..90)] {
        create(&store, name, &spec);
        change(&store, name, |writer| {
            train(writer, rows(&data, DIM));
            let keys: Vec<String> = part.clone().map(key).collect();
            writer.add_with_keys(&keys, rows(&data, DIM).slice(part.clone())).unwrap();
        });
    }
    assert_eq!(merge(&store, 0).unwrap(), 50);
    assert_sound(&store, "a");
    let merged = reader(&store, "a");
    for i in 0..90 {
        let id = merged.id_of_key(key(i).as_bytes()).unwrap().unwrap();
        assert_eq!(merged.reconstruct(id).unwrap(), data[i * DIM..(i + 1) * DIM]);
    }
    assert!(matches!(merge(&store, 0), Err(Error::DuplicateKey { .. })));
}

/// The ids of each of the parts that `subsets` make of index "b", copied to an empty index of the same training.
fn parts(store: &Store, text: &str, metric: Metric, subsets: &[Subset]) -> Vec<Vec<u64>> {
    let copy = |(i, subset): (usize, &Subset)| {
        let name = format!("part {i}");
        create(store, &name, &spec(text, DIM, metric));
        let from = reader(store, "b");
        let copied = change(store, &name, |writer| {
            writer.import_model(&from.export_model().unwrap(), &mut Observer::none()).unwrap();
            from.copy_subset_to(writer, subset, &mut Observer::none()).unwrap()
        });
        assert_sound(store, &name);
        let ids = reader(store, &name).ids().unwrap();
        assert_eq!(ids.len() as u64, copied);
        let txn = store.begin_write().unwrap();
        txn.drop_index(&name).unwrap();
        txn.commit().unwrap();
        ids
    };
    subsets.iter().enumerate().map(copy).collect()
}

#[test]
fn subsets_share_nothing_and_leave_nothing_out() {
    let more = [("IVF8_SOAR,Nibble2,RF16".to_string(), Metric::L2)];
    for (text, metric) in every_encoding("IVF8", 2).chain(more) {
        let data = suited(&text, 450, DIM, 5);
        let store = halves(&text, metric, &data);
        let modulo = |remainder| Subset::IdModulo { modulus: 3, remainder };
        let part = |part| Subset::ListPart { parts: 4, part };
        for subsets in [
            vec![Subset::Ids(0..100), Subset::Ids(100..1000)],
            (0..3).map(modulo).collect(),
            (0..4).map(part).collect(),
            [0..77, 77..78, 78..299, 299..u64::MAX].map(Subset::Elements).to_vec(),
            [0..1, 1..5, 5..u32::MAX].map(Subset::Lists).to_vec(),
            vec![Subset::All],
        ] {
            let parts = parts(&store, &text, metric, &subsets);
            let mut all = parts.concat();
            all.sort_unstable();
            assert_eq!(all, (0..300).collect::<Vec<u64>>(), "{text} {subsets:?}");
            match &subsets[0] {
                Subset::Ids(ids) => assert_eq!(parts[0], ids.clone().collect::<Vec<u64>>()),
                Subset::IdModulo { .. } => assert!(parts[1].iter().all(|id| id % 3 == 1)),
                Subset::Elements(_) => {
                    assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [77, 1, 221, 1]);
                }
                _ => {}
            }
        }
    }
}

#[test]
fn subsets_that_are_none_are_refused() {
    let data = reals(60, DIM, 6);
    let store = halves("IVF2,Flat", Metric::L2, &data);
    let from = reader(&store, "b");
    for subset in [
        Subset::IdModulo { modulus: 0, remainder: 0 },
        Subset::IdModulo { modulus: 3, remainder: 3 },
        Subset::ListPart { parts: 0, part: 0 },
        Subset::ListPart { parts: 2, part: 2 },
    ] {
        let refused =
            change(&store, "a", |writer| from.copy_subset_to(writer, &subset, &mut Observer::none()));
        assert!(matches!(refused, Err(Error::Parameter { .. })), "{subset:?}");
    }
}

// ---------------------------------------------------------------- in several transactions

/// Steps of a merge, each in a transaction; what `between` does after each of them.
fn merge_in_steps(store: &Store, rows_max: u64, mut between: impl FnMut(&MergeProgress)) -> MergeProgress {
    loop {
        let other = reader(store, "b");
        let progress = change(store, "a", |writer| {
            writer.merge_some(&other, 1000, rows_max, &mut Observer::none()).unwrap()
        });
        if progress.is_done() {
            return progress;
        }
        between(&progress);
    }
}

#[test]
fn a_merge_in_steps_is_that_of_one() {
    let more = ["IVF8,SQfp16,RFlat", "IVF8_SOAR,Nibble1,RF16", "Flat"];
    let more = more.map(|text| (text.to_string(), Metric::L2));
    for (text, metric) in every_encoding("IVF8", 2).chain(more) {
        let data = suited(&text, 300, DIM, 21);
        // Twice the same rows, for entries that are shared.
        let doubled = [&data[..], &data[..]].concat();
        let store = halves(&text, metric, &doubled);
        let whole = halves(&text, metric, &doubled);
        assert_eq!(merge(&whole, 1000).unwrap(), 400);
        let mut steps = Vec::new();
        let done = merge_in_steps(&store, 37, |progress| {
            assert_sound(&store, "a");
            assert_eq!(reader(&store, "a").merge_progress().unwrap(), Some(*progress));
            steps.push(progress.copied);
        });
        assert_eq!(done, MergeProgress { copied: 400, total: 400, add_id: 1000 });
        assert_eq!(steps, (1..=10).map(|step| step * 37).collect::<Vec<u64>>(), "{text}");
        assert_eq!(reader(&store, "a").merge_progress().unwrap(), None);
        assert_sound(&store, "a");
        let (a, b) = (reader(&store, "a"), reader(&whole, "a"));
        assert_eq!(a.ids().unwrap(), b.ids().unwrap());
        let queries = rows(&data[..30 * DIM], DIM);
        let [a, b] = [&a, &b].map(|r| r.search_batch(queries, 7, &nprobe(3)).unwrap());
        assert_eq!(all_bits(&a), all_bits(&b), "{text}");
        // Begun again, it doubles nothing.
        let other = reader(&store, "b");
        let again = change(&store, "a", |writer| writer.merge_some(&other, 1000, 9, &mut Observer::none()));
        assert!(matches!(again, Err(Error::DuplicateId { .. })));
        assert_eq!(reader(&store, "a").len(), 600);
    }
}

/// What an aborted transaction copied comes again; what was committed does not, whoever goes on with it.
#[test]
fn a_merge_goes_on_where_the_last_commit_left_it() {
    let data = reals(300, DIM, 22);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v");
    let source = halves("IVF4,SQfp16", Metric::L2, &data);
    let other = reader(&source, "b");
    let mut store = Store::create(&path).unwrap();
    create(&store, "a", other.spec());
    change(&store, "a", |writer| {
        writer.import_model(&other.export_model().unwrap(), &mut Observer::none()).unwrap()
    });
    for step in 1..=4 {
        let txn = store.begin_write().unwrap();
        let mut writer = txn.index("a").unwrap();
        let progress = writer.merge_some(&other, 7, 50, &mut Observer::none()).unwrap();
        assert_eq!((progress.copied, progress.total), (step * 50, 200));
        drop(writer);
        txn.abort().unwrap();
        let progress =
            change(&store, "a", |writer| writer.merge_some(&other, 7, 50, &mut Observer::none()).unwrap());
        assert_eq!(progress.copied, step * 50);
        // As after a crash.
        drop(store);
        store = Store::open(&path).unwrap();
    }
    assert_sound(&store, "a");
    let (merged, ids) = (reader(&store, "a"), other.ids().unwrap());
    assert!(merged.ids().unwrap().iter().copied().eq(ids.iter().map(|id| id + 7)));
    for id in ids {
        assert_eq!(merged.reconstruct(id + 7).unwrap(), other.reconstruct(id).unwrap());
    }
}

#[test]
fn a_store_merges_in_as_many_commits_as_it_takes() {
    let data = reals(600, DIM, 23);
    let source = halves("IVF4,Flat", Metric::L2, &data);
    let other = reader(&source, "b");
    // 48 bytes a row: 20 rows a commit.
    let store = in_memory(Store::builder().load_bytes(48 * 20));
    create(&store, "a", other.spec());
    change(&store, "a", |writer| {
        writer.import_model(&other.export_model().unwrap(), &mut Observer::none()).unwrap()
    });
    let mut seen = Vec::new();
    let mut stop = |tick: Tick| {
        seen.push(tick.done);
        if seen.len() == 5 { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
    };
    let cancelled = store.merge_from("a", &other, 0, &mut Observer::new(&mut stop));
    assert!(matches!(cancelled, Err(Error::Cancelled)));
    assert_eq!(seen, [20, 40, 60, 80, 100]);
    assert_eq!(reader(&store, "a").merge_progress().unwrap().unwrap().copied, 100);
    let done = store.merge_from("a", &other, 0, &mut Observer::none()).unwrap();
    assert_eq!((done.copied, reader(&store, "a").len()), (400, 400));
    assert_sound(&store, "a");
}

#[test]
fn a_merge_that_is_not_complete_is_of_one_state_of_one_index() {
    let data = reals(300, DIM, 24);
    let store = halves("IVF8,Flat", Metric::L2, &data);
    let step = |add_id| {
        let other = reader(&store, "b");
        change(&store, "a", |writer| writer.merge_some(&other, add_id, 30, &mut Observer::none()))
    };
    assert_eq!(step(500).unwrap().copied, 30);
    assert!(matches!(step(900), Err(Error::Incompatible { .. })));
    change(&store, "b", |writer| writer.remove_ids(&IdSelector::range(0..1)).unwrap());
    match step(500) {
        Err(Error::Incompatible { what }) => assert!(what.contains("30 of 200"), "{what}"),
        other => panic!("{other:?}"),
    }
    let abandoned = change(&store, "a", |writer| writer.abandon_merge().unwrap());
    assert_eq!(abandoned.unwrap().copied, 30);
    assert_eq!(reader(&store, "a").len(), 130);
    assert_eq!(step(900).unwrap().copied, 30);
    // Somebody else takes an id meanwhile: refused, and it can go on once the id is free again.
    let taken: Vec<u64> = reader(&store, "b").ids().unwrap().iter().map(|id| id + 900).collect();
    let here = reader(&store, "a").ids().unwrap();
    let free: Vec<u64> = taken.into_iter().filter(|id| !here.contains(id)).collect();
    let rows_ = rows(&data[..free.len() * DIM], DIM);
    change(&store, "a", |writer| writer.add_with_ids(&free, rows_).unwrap());
    assert!(matches!(step(900), Err(Error::DuplicateId { .. })));
    change(&store, "a", |writer| writer.remove_ids(&IdSelector::batch(free.iter().copied())).unwrap());
    assert_eq!(step(900).unwrap().copied, 60);
    change(&store, "a", |writer| writer.clear().unwrap());
    assert_eq!(reader(&store, "a").merge_progress().unwrap(), None);
    assert!(matches!(
        change(&store, "a", |writer| writer.merge_some(&reader(&store, "b"), 0, 0, &mut Observer::none())),
        Err(Error::Parameter { name: "rows_max", .. })
    ));
}

/// One list that is many batches long, in one verb: order, ticks and entries are as ever.
#[test]
fn a_long_list_is_copied_in_pieces() {
    let n = 40_000;
    let data = integers(n, 2, 1000, 25);
    let store = memory();
    let spec = spec("Flat", 2, Metric::L2);
    for name in ["a", "b"] {
        create(&store, name, &spec);
    }
    change(&store, "b", |writer| writer.add(rows(&data, 2)).unwrap());
    let (other, mut ticks) = (reader(&store, "b"), Vec::new());
    let mut tick = |tick: Tick| {
        ticks.push((tick.done, tick.total));
        std::ops::ControlFlow::Continue(())
    };
    change(&store, "a", |writer| writer.merge_from(&other, 5, &mut Observer::new(&mut tick)).unwrap());
    let total = n as u64;
    assert_eq!(ticks, [(16 << 10, total), (32 << 10, total), (total, total)]);
    assert_sound(&store, "a");
    let merged = reader(&store, "a");
    for id in [0, 16_383, 16_384, 39_999] {
        assert_eq!(merged.reconstruct(id + 5).unwrap(), other.reconstruct(id).unwrap());
    }
    let part = change(&store, "a", |writer| {
        writer.clear().unwrap();
        let part = Subset::Elements(16_000..33_000);
        other.copy_subset_to(writer, &part, &mut Observer::none()).unwrap()
    });
    assert_eq!(part, 17_000);
    assert_eq!(reader(&store, "a").ids().unwrap(), (16_000..33_000).collect::<Vec<u64>>());
}
