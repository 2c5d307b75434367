//! Worry: a key that leads to another key's vector. Keys stand behind two more tables than ids; a removal
//! that forgets one of them, or an update that gives a key a second id, is not seen by a search, which
//! speaks of ids.
//!
//! Noticed with a map from key to vector that goes through the same operations: after each, every key must
//! lead to its id, its id to it, and its id to its vector.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use support::*;
use vellum::*;

const DIM: usize = 6;

/// Key → (id, vector).
type Model = BTreeMap<Vec<u8>, (u64, Vec<f32>)>;

#[track_caller]
fn assert_equal(reader: &IndexReader<'_>, model: &Model) {
    assert_eq!(reader.len(), model.len() as u64);
    let ids: BTreeSet<u64> = model.values().map(|(id, _)| *id).collect();
    assert_eq!(reader.ids().unwrap(), ids.into_iter().collect::<Vec<_>>());
    for (key, (id, vector)) in model {
        assert_eq!(reader.id_of_key(key).unwrap(), Some(*id), "{key:?}");
        assert_eq!(reader.key(*id).unwrap().as_ref(), Some(key), "{id}");
        assert_eq!(reader.reconstruct(*id).unwrap(), *vector, "{key:?}");
    }
}

/// The keys of an answer, nearest first.
fn keys_found(reader: &IndexReader<'_>, query: &[f32], k: usize) -> Vec<Vec<u8>> {
    let found = reader.search(query, k, &everywhere()).unwrap();
    found.iter().map(|n| reader.key(n.id).unwrap().unwrap()).collect()
}

/// What the keys nearest to `query` should be.
fn keys_expected(model: &Model, query: &[f32], k: usize) -> Vec<Vec<u8>> {
    let mut oracle = Oracle::new(Metric::L2, Stored::F32);
    model.values().for_each(|(id, vector)| oracle.put(*id, vector));
    let by_id: BTreeMap<u64, &Vec<u8>> = model.iter().map(|(key, (id, _))| (*id, key)).collect();
    oracle.all(query).iter().take(k).map(|e| by_id[&e.id].clone()).collect()
}

fn keyed(store: &Store, text: &str) {
    create(store, "k", &spec(text, DIM, Metric::L2).with_keys(true).with_block_order(0));
}

/// Text, bytes that are no text, numbers that look like ids, one byte, prefixes of each other, the longest
/// there is.
fn key(i: usize) -> Vec<u8> {
    match i % 6 {
        0 => format!("https://example.org/page/{i}").into_bytes(),
        1 => vec![0xff, 0x00, (i / 256) as u8, i as u8],
        2 => (i as u64 - 2).to_string().into_bytes(),
        3 if i < 100 => vec![i as u8],
        3 => [&[b'z'; 1000][..], format!("{i:024}").as_bytes()].concat(),
        4 => "ä".repeat(1 + i / 6).into_bytes(),
        _ => "ä".repeat(1 + i / 6).into_bytes()[..1 + 2 * (i / 6)].to_vec(),
    }
}

#[test]
fn keys_lead_to_their_vectors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.vellum");
    let store = Store::create(&path).unwrap();
    keyed(&store, "IVF5,Flat");
    let mut model = Model::new();
    let data = integers(400, DIM, 100, 101);
    let row = |i: usize| &data[i * DIM..(i + 1) * DIM];
    let part = |from: usize, to: usize| rows(&data, DIM).slice(from..to);
    let keys: Vec<Vec<u8>> = (0..200).map(key).collect();
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), 200);

    // Before and after training.
    change(&store, "k", |writer| {
        assert_eq!(writer.add_with_keys(&keys[..100], part(0, 100)).unwrap(), 0..100);
        (0..100).for_each(|i| drop(model.insert(keys[i].clone(), (i as u64, row(i).to_vec()))));
        assert_equal(&writer.reader(), &model);
        train(writer, part(0, 400));
        assert_eq!(writer.add_with_keys(&keys[100..], part(100, 200)).unwrap(), 100..200);
        (100..200).for_each(|i| drop(model.insert(keys[i].clone(), (i as u64, row(i).to_vec()))));
        assert_equal(&writer.reader(), &model);
    });
    assert_sound(&store, "k");

    // Removed by key (one of them twice, one unknown), by id, by selector.
    change(&store, "k", |writer| {
        let gone = [&keys[3][..], &keys[150], &keys[3], b"nobody"];
        assert_eq!(writer.remove_keys(&gone).unwrap(), 2);
        assert_eq!(writer.remove_ids(&IdSelector::Array(vec![7, 3, 9999])).unwrap(), 1);
        assert_eq!(writer.remove_ids(&IdSelector::callback(|id| id >= 190)).unwrap(), 10);
        for i in [3, 150, 7].into_iter().chain(190..200) {
            model.remove(&keys[i]).unwrap();
            assert_eq!(writer.reader().id_of_key(&keys[i]).unwrap(), None);
            assert_eq!(writer.reader().key(i as u64).unwrap(), None);
        }
        assert_equal(&writer.reader(), &model);
    });
    assert_sound(&store, "k");

    // A key that comes back is a new id; an upsert keeps the ids of those that are there; an update keeps
    // all.
    change(&store, "k", |writer| {
        let batch = [&keys[3], &keys[10], &keys[195], &keys[11]];
        assert_eq!(writer.upsert_with_keys(&batch, part(200, 204)).unwrap(), 2);
        for (key, id, i) in [(3, 200, 200), (10, 10, 201), (195, 201, 202), (11, 11, 203)] {
            model.insert(keys[key].clone(), (id, row(i).to_vec()));
        }
        assert_equal(&writer.reader(), &model);
        writer.update_with_keys(&[&keys[195], &keys[20]], part(204, 206)).unwrap();
        model.get_mut(&keys[195]).unwrap().1 = row(204).to_vec();
        model.get_mut(&keys[20]).unwrap().1 = row(205).to_vec();
        // The id that stands for a key may be updated too.
        writer.update_vectors(&[30], part(206, 207)).unwrap();
        model.get_mut(&keys[30]).unwrap().1 = row(206).to_vec();
        assert_equal(&writer.reader(), &model);
    });
    assert_sound(&store, "k");
    for query in [row(300), row(301), row(10)] {
        assert_eq!(keys_found(&reader(&store, "k"), query, 9), keys_expected(&model, query, 9));
    }
    let (old, old_model) = (reader(&store, "k"), model.clone());

    // Undone.
    let txn = store.begin_write().unwrap();
    let mut writer = txn.index("k").unwrap();
    writer.remove_keys(&keys).unwrap();
    assert!(writer.is_empty());
    writer.add_with_keys(&keys, part(0, 200)).unwrap();
    drop(writer);
    txn.abort().unwrap();
    assert_equal(&reader(&store, "k"), &model);

    // Cleared: no key stays behind.
    change(&store, "k", |writer| {
        writer.clear().unwrap();
        assert!(keys.iter().all(|key| writer.reader().id_of_key(key).unwrap().is_none()));
        assert_eq!(
            writer.add_with_keys(&keys[..5], part(0, 5)).unwrap(),
            202..207,
            "ids are never used again"
        );
        model = (0..5).map(|i| (keys[i].clone(), (202 + i as u64, row(i).to_vec()))).collect();
    });
    assert_equal(&old, &old_model);

    // Reopened, renamed, copied.
    drop((old, store));
    let store = Store::open(&path).unwrap();
    assert_equal(&reader(&store, "k"), &model);
    assert_eq!(keys_found(&reader(&store, "k"), row(300), 100), keys_expected(&model, row(300), 5));
    assert_sound(&store, "k");
    let txn = store.begin_write().unwrap();
    txn.rename_index("k", "renamed").unwrap();
    txn.commit().unwrap();
    assert_equal(&reader(&store, "renamed"), &model);
    let copy = folder.path().join("copy.vellum");
    store.backup(&copy, &mut Observer::none()).unwrap();
    assert_equal(&reader(&Store::open(&copy).unwrap(), "renamed"), &model);
}

/// Random adds, upserts, updates and removals by key, beside the map.
#[test]
fn a_long_life_of_keys() {
    let store = memory();
    keyed(&store, "IVF4,SQbf16,RFlat");
    let data = reals(600, DIM, 102);
    change(&store, "k", |writer| train(writer, rows(&data, DIM)));
    let (mut random, mut model, mut next) = (Random::new(103), Model::new(), 0);
    for round in 0..40 {
        let txn = store.begin_write().unwrap();
        let mut writer = txn.index("k").unwrap();
        let (mut draft, mut draft_next) = (model.clone(), next);
        for _ in 0..3 {
            let batch: BTreeSet<Vec<u8>> =
                (0..=random.below(12)).map(|_| format!("key {}", random.below(60)).into_bytes()).collect();
            let mut batch: Vec<Vec<u8>> = batch.into_iter().collect();
            random.shuffle(&mut batch);
            let at = random.below(500);
            let vectors = rows(&data, DIM).slice(at..at + batch.len());
            let known = batch.iter().filter(|key| draft.contains_key(*key)).count();
            let mut put = || {
                for (key, vector) in batch.iter().zip(vectors.iter()) {
                    let id = draft.get(key).map_or(draft_next, |(id, _)| *id);
                    draft_next = draft_next.max(id + 1);
                    draft.insert(key.clone(), (id, vector.to_vec()));
                }
            };
            match random.below(4) {
                0 if known == 0 => {
                    let ids = writer.add_with_keys(&batch, vectors).unwrap();
                    put();
                    assert_eq!(ids.end, draft_next);
                }
                0 => {
                    assert!(matches!(writer.add_with_keys(&batch, vectors), Err(Error::DuplicateKey { .. })))
                }
                1 => {
                    assert_eq!(writer.upsert_with_keys(&batch, vectors).unwrap(), batch.len() - known);
                    put();
                }
                2 if known == batch.len() => {
                    writer.update_with_keys(&batch, vectors).unwrap();
                    put();
                }
                2 => {
                    assert!(matches!(writer.update_with_keys(&batch, vectors), Err(Error::UnknownKey { .. })))
                }
                _ => {
                    assert_eq!(writer.remove_keys(&batch).unwrap(), known as u64);
                    batch.iter().for_each(|key| drop(draft.remove(key)));
                }
            }
        }
        assert_equal(&writer.reader(), &draft);
        drop(writer);
        if round % 5 == 4 {
            txn.abort().unwrap();
        } else {
            txn.commit().unwrap();
            (model, next) = (draft, draft_next);
        }
        assert_equal(&reader(&store, "k"), &model);
    }
    assert!(model.len() > 10 && next > 60, "{} keys, {next} ids", model.len());
    assert_sound(&store, "k");
}
