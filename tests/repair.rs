//! Repair after real damage: what can be saved is saved, under its own name, and the index is whole again.
//!
//! The worries: a repair that fails on the very damage it is for (a directory that is gone, two rows that claim one
//! id); one that loses what could be had from another table, or says nothing of what it lost; one that gives a vector
//! another one's id or key; and an index that verifies and then breaks under the next writer. So tables are
//! deleted and overwritten through redb itself, whole, by the page, and two at a time; afterwards `verify` must be
//! content, every survivor must be found where brute force over the survivors says, and the report must name the rest.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/redb_index.rs"]
mod redb_index;
mod support;

use redb::{Database, backends::InMemoryBackend};
use redb_index::{BYTES, Pair, delete, entries, put};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use support::*;
use vellum::*;

const DIM: usize = 8;
const INDEXES: [&str; 3] = ["numbers", "keyed", "shared"];

/// A database with three indexes, and what they hold.
struct World {
    db: Arc<Database>,
    oracles: BTreeMap<&'static str, Oracle>,
    keys: BTreeMap<u64, String>,
    sound: redb::Savepoint,
    /// The tables one commit earlier.
    before: BTreeMap<(&'static str, &'static str), Vec<Pair>>,
}

/// What can be lost without losing a vector, and what cannot.
const INDIRECT: [&str; 8] = ["lists", "slots", "ids", "map", "free", "keymap", "keys", "twins"];
const VECTORS: [&str; 2] = ["blocks", "tails"];

impl World {
    fn new() -> Self {
        let db = Arc::new(Database::builder().create_with_backend(InMemoryBackend::new()).unwrap());
        let store = Store::builder().attach(db.clone()).unwrap();
        create(&store, "numbers", &spec("IVF90,Flat", DIM, Metric::L2).with_block_order(0));
        let keyed = spec("IVF3,SQfp16,RFlat", DIM, Metric::L2).with_keys(true).with_block_order(0);
        create(&store, "keyed", &keyed);
        let mut oracles = BTreeMap::new();
        // Far from all others and close together: lists of more than one block.
        let mut data = integers(1500, DIM, 90, 1);
        data[600 * DIM..1000 * DIM].iter_mut().for_each(|v| *v = 1500.0 + (*v / 89.0).floor());
        let mut oracle = Oracle::new(Metric::L2, Stored::F32);
        change(&store, "numbers", |writer| {
            oracle.put_all(writer.add(rows(&data, DIM)).unwrap(), rows(&data, DIM));
            train(writer, rows(&data, DIM));
        });
        let mut keyed = Oracle::new(Metric::L2, Stored::F32);
        let mut keys: BTreeMap<u64, String> = BTreeMap::new();
        let names: Vec<String> = (0..700).map(|i| format!("key {i}")).collect();
        change(&store, "keyed", |writer| {
            let ids = writer.add_with_keys(&names, rows(&data[..700 * DIM], DIM)).unwrap();
            keys.extend(ids.clone().zip(names.iter().cloned()));
            keyed.put_all(ids, rows(&data[..700 * DIM], DIM));
            train(writer, rows(&data, DIM));
        });
        create(&store, "shared", &spec("IVF4,FlatDedup", DIM, Metric::L2).with_block_order(0));
        let mut shared = Oracle::new(Metric::L2, Stored::F32);
        let distinct = integers(700, DIM, 90, 4);
        let repeated: Vec<f32> =
            (0..1400).flat_map(|i| distinct[i * 13 % 700 * DIM..][..DIM].to_vec()).collect();
        change(&store, "shared", |writer| {
            shared.put_all(writer.add(rows(&repeated, DIM)).unwrap(), rows(&repeated, DIM));
            train(writer, rows(&distinct, DIM));
        });
        let each = INDEXES.into_iter().flat_map(|index| redb_index::TABLES.map(|table| (index, table)));
        let before = each.map(|(index, table)| ((index, table), entries(&db, index, table))).collect();
        let more = integers(300, DIM, 90, 2);
        change(&store, "numbers", |writer| {
            writer.remove_ids(&IdSelector::callback(|id| id % 5 == 0)).unwrap();
            oracle.vectors.retain(|id, _| id % 5 != 0);
            let ids = writer.add(rows(&more, DIM)).unwrap();
            oracle.put_all(ids, rows(&more, DIM));
        });
        change(&store, "keyed", |writer| {
            writer.remove_keys(&names[..40]).unwrap();
            keyed.vectors.retain(|id, _| *id >= 40);
            keys.retain(|id, _| *id >= 40);
        });
        change(&store, "shared", |writer| {
            writer.remove_ids(&IdSelector::callback(|id| id % 5 == 0)).unwrap();
            shared.vectors.retain(|id, _| id % 5 != 0);
            let ids = writer.add(rows(&repeated[..200 * DIM], DIM)).unwrap();
            shared.put_all(ids, rows(&repeated[..200 * DIM], DIM));
        });
        oracles.insert("shared", shared);
        oracles.insert("numbers", oracle);
        oracles.insert("keyed", keyed);
        let txn = db.begin_write().unwrap();
        let sound = txn.ephemeral_savepoint().unwrap();
        txn.commit().unwrap();
        World { db, oracles, keys, sound, before }
    }

    fn restore(&self) {
        let mut txn = self.db.begin_write().unwrap();
        txn.restore_savepoint(&self.sound).unwrap();
        txn.commit().unwrap();
    }

    /// A store that remembers nothing of the time before the damage.
    fn store(&self) -> Store {
        Store::builder().attach(self.db.clone()).unwrap()
    }

    fn strike(&self, index: &str, damage: &Damage) {
        let all = entries(&self.db, index, damage.table);
        if all.is_empty() {
            return;
        }
        let txn = self.db.begin_write().unwrap();
        let one = damage.at % all.len();
        let picked = if damage.how == How::DeleteAll { 0..all.len() } else { one..one + 1 };
        for (key, value) in &all[picked] {
            match damage.how {
                How::DeleteAll | How::Delete => delete(&txn, index, damage.table, key),
                How::Zero => put(&txn, index, damage.table, key, &vec![0; value.len()]),
                How::Flip => {
                    let mut rotten = value.clone();
                    match rotten.get_mut(70) {
                        Some(byte) => *byte ^= 4,
                        // A short value, and not a frame: nothing but a wrong number.
                        None => rotten.iter_mut().take(1).for_each(|byte| *byte ^= 4),
                    }
                    put(&txn, index, damage.table, key, &rotten);
                }
                How::Earlier => {
                    let earlier = &self.before.iter().find(|((i, t), _)| (*i, *t) == (index, damage.table));
                    let earlier = earlier.unwrap().1.iter().find(|(k, _)| k == key);
                    earlier.into_iter().for_each(|(key, value)| put(&txn, index, damage.table, key, value));
                }
            }
        }
        txn.commit().unwrap();
    }

    /// Repairs, and judges what came of it; `exact` if no witness was left that tells a lie in good faith.
    fn repair(&self, index: &str, exact: bool, what: &str) -> RepairReport {
        let store = self.store();
        let repair = || {
            let txn = store.begin_write().unwrap();
            let report = txn.damaged_index(index).unwrap().repair(&mut Observer::none()).unwrap();
            txn.commit().unwrap();
            report
        };
        let report = repair();
        let verified = store.begin_read().unwrap().verify(index, &mut Observer::none()).unwrap();
        assert!(verified.is_ok(), "{what}: {:?}\nafter {report:?}", verified.problems.first());
        let survivors = self.judge(&store, index, exact, &report, what);
        let before = state(&reader(&store, index));
        let again = repair();
        assert_eq!(again, nothing_lost(report.rows), "{what}: the second repair");
        self.judge(&store, index, exact, &report, what);
        assert_eq!(state(&reader(&store, index)).len(), before.len());
        assert_sound(&store, index);
        self.go_on(&store, index, survivors, what);
        report
    }

    /// Compares with brute force over the survivors, which are returned.
    fn judge(&self, store: &Store, index: &str, exact: bool, report: &RepairReport, what: &str) -> Oracle {
        let all = &self.oracles[index];
        let reader = reader(store, index);
        let ids = reader.ids().unwrap();
        assert_eq!(ids.len() as u64, report.rows, "{what}");
        let mut survivors = Oracle::new(Metric::L2, Stored::F32);
        for &id in &ids {
            let vector = reader.reconstruct(id).unwrap();
            assert!(reader.contains(id).unwrap(), "{what}: {id}");
            if exact {
                assert_eq!(Some(&vector), all.vectors.get(&id), "{what}: id {id}");
            }
            survivors.put(id, &vector);
        }
        let lost: BTreeSet<u64> = report.lost_ids.iter().copied().collect();
        assert!(ids.iter().all(|id| !lost.contains(id)), "{what}: lost and there");
        let gone = all.vectors.keys().filter(|id| !survivors.vectors.contains_key(id));
        let unknown = gone.filter(|id| !lost.contains(id)).count() as u64;
        assert!(
            !exact || unknown <= report.unnamed_entries,
            "{what}: {unknown} gone without a word: {report:?}"
        );
        for query in
            integers(6, DIM, 90, 9).chunks(DIM).chain(all.vectors.values().step_by(400).map(|v| &v[..]))
        {
            let found = reader.search(query, 12, &everywhere()).unwrap();
            assert_same(&found, &survivors.all(query)[..12.min(survivors.vectors.len())], what);
        }
        if reader.spec().keys() {
            let mut made = 0;
            for &id in &ids {
                let key = reader.key(id).unwrap().unwrap();
                assert_eq!(reader.id_of_key(&key).unwrap(), Some(id), "{what}");
                made += u64::from(exact && key != self.keys[&id].as_bytes());
            }
            assert!(made <= report.made_keys, "{what}: {made} other keys, {} said", report.made_keys);
        }
        survivors
    }

    /// The repaired index is written to as if nothing had been.
    fn go_on(&self, store: &Store, index: &str, mut survivors: Oracle, what: &str) {
        let more = integers(60, DIM, 90, 5);
        let gone: Vec<u64> = survivors.ids().into_iter().step_by(7).collect();
        change(store, index, |writer| {
            let removed = writer.remove_ids(&IdSelector::batch(gone.iter().copied())).unwrap();
            assert_eq!(removed, gone.len() as u64, "{what}");
            gone.iter().for_each(|id| drop(survivors.vectors.remove(id)));
            if writer.spec().keys() {
                let names: Vec<String> = (0..60).map(|i| format!("new {i}")).collect();
                survivors.put_all(writer.add_with_keys(&names, rows(&more, DIM)).unwrap(), rows(&more, DIM));
            } else {
                survivors.put_all(writer.add(rows(&more, DIM)).unwrap(), rows(&more, DIM));
                let known: Vec<u64> = survivors.ids().into_iter().rev().step_by(9).collect();
                let vectors = integers(known.len(), DIM, 90, 6);
                writer.upsert(&known, rows(&vectors, DIM)).unwrap();
                survivors.put_all(known, rows(&vectors, DIM));
            }
        });
        assert_sound(store, index);
        let query = &more[..DIM];
        let found = reader(store, index).search(query, 20, &everywhere()).unwrap();
        assert_same(&found, &survivors.all(query)[..20.min(survivors.vectors.len())], what);
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    DeleteAll,
    Delete,
    Zero,
    Flip,
    /// A value of the commit before.
    Earlier,
}

#[derive(Clone, Debug)]
struct Damage {
    table: &'static str,
    how: How,
    /// Which value, counted round.
    at: usize,
}

/// What is left may name a row wrongly: an earlier page with good checksums, or a number nobody can check.
fn misleading(damages: &[Damage]) -> bool {
    let frames = |table| BYTES.contains(&table) && table != "keys";
    let plain = |d: &Damage| matches!(d.how, How::Flip | How::Zero) && !frames(d.table);
    damages.iter().any(|d| d.how == How::Earlier || plain(d))
}

#[test]
fn a_damaged_table_is_rebuilt_and_no_vector_is_lost() {
    let world = World::new();
    for index in INDEXES {
        for table in INDIRECT {
            for how in [How::DeleteAll, How::Delete, How::Zero, How::Flip] {
                for at in [0, 1, 5] {
                    if table == "free" && how != How::Delete && how != How::DeleteAll {
                        continue;
                    }
                    let damage = Damage { table, how, at };
                    let what = format!("{index}: {damage:?}");
                    world.strike(index, &damage);
                    let keys = table == "keys" || table == "keymap";
                    let exact = keys || !misleading(std::slice::from_ref(&damage));
                    // A number in the map that is wrong is outvoted by the column of ids.
                    let report = world.repair(index, exact || table == "map", &what);
                    assert_eq!(report.rows as usize, world.oracles[index].vectors.len(), "{what}");
                    assert_eq!((report.unnamed_entries, report.lost_blocks), (0, 0), "{what}");
                    world.restore();
                }
            }
        }
    }
}

#[test]
fn a_lost_block_costs_its_own_vectors_which_are_named() {
    let world = World::new();
    for index in INDEXES {
        for table in VECTORS {
            for how in [How::Delete, How::Zero, How::Flip, How::DeleteAll] {
                for at in [0, 1, 7] {
                    let damage = Damage { table, how, at };
                    let what = format!("{index}: {damage:?}");
                    world.strike(index, &damage);
                    let report = world.repair(index, true, &what);
                    let lost = world.oracles[index].vectors.len() as u64 - report.rows;
                    assert!(lost > 0 && lost == report.lost_ids.len() as u64, "{what}: {report:?}");
                    world.restore();
                }
            }
        }
    }
}

/// Both tables that know ids have lost them: the vectors go, and are counted; their keys still name them.
#[test]
fn ids_that_nobody_knows_are_counted() {
    let world = World::new();
    for index in INDEXES {
        world.strike(index, &Damage { table: "ids", how: How::Delete, at: 0 });
        world.strike(index, &Damage { table: "map", how: How::DeleteAll, at: 0 });
        let report = world.repair(index, true, index);
        let gone = world.oracles[index].vectors.len() as u64 - report.rows;
        assert!(gone > 0 && report.unnamed_entries == gone, "{report:?}");
        assert_eq!(report.lost_ids.len() as u64, if index == "keyed" { gone } else { 0 });
        world.restore();
    }
}

/// A page of ids of an earlier commit names ids that other rows have by now: the repair failed on the second
/// row of an id.
#[test]
fn two_rows_of_one_id_do_not_stop_a_repair() {
    let world = World::new();
    let index = "numbers";
    let store = world.store();
    // Removed from low rows, and added again to other ones: the lowest free rows are taken by new ids first.
    change(&store, index, |writer| {
        let data = integers(40, DIM, 90, 3);
        let gone: Vec<u64> = (1001..1041).filter(|id| id % 5 != 0).collect();
        writer.remove_ids(&IdSelector::batch(gone.iter().copied())).unwrap();
        writer.add(rows(&data[..gone.len() * DIM], DIM)).unwrap();
        writer.add_with_ids(&gone, rows(&data[..gone.len() * DIM], DIM)).unwrap();
    });
    drop(store);
    let mut doubled = 0;
    for at in 0..entries(&world.db, index, "ids").len() {
        world.strike(index, &Damage { table: "ids", how: How::Earlier, at });
        let (mut seen, mut twice) = (BTreeSet::new(), 0);
        for (_, page) in entries(&world.db, index, "ids") {
            for id in page[64..].chunks_exact(8).map(|id| u64::from_le_bytes(id.try_into().unwrap())) {
                twice += usize::from(id != u64::MAX && id != 0 && !seen.insert(id));
            }
        }
        doubled += twice;
    }
    assert!(doubled > 10, "{doubled} ids stand twice");
    world.repair(index, false, "earlier pages of ids");
}

/// An id that the map has lost while its counts agree is taken for a new one: `upsert` then makes a second row of
/// it, which only `verify` notices. The repair failed on such an index; the row that the map names keeps the id.
#[test]
fn an_id_that_a_writer_could_not_see_is_settled() {
    let world = World::new();
    let index = "numbers";
    let map = entries(&world.db, index, "map");
    let (hidden, row) = &map[500];
    let (id, bogus) = (u64::from_le_bytes(hidden[..].try_into().unwrap()), 5u64.to_le_bytes());
    let txn = world.db.begin_write().unwrap();
    delete(&txn, index, "map", hidden);
    put(&txn, index, "map", &bogus, row);
    txn.commit().unwrap();
    let store = world.store();
    let vector = vec![7.0; DIM];
    change(&store, index, |writer| assert_eq!(writer.upsert(&[id], rows(&vector, DIM)).unwrap(), 1));
    assert!(!store.begin_read().unwrap().verify(index, &mut Observer::none()).unwrap().is_ok());
    drop(store);
    let report = world.repair(index, false, "a hidden id");
    assert_eq!((report.rows, report.unnamed_entries), (1501, 0), "{report:?}");
    world.restore();
}

/// Two rows of one key, or a made-up key that somebody has.
#[test]
fn keys_stay_unique() {
    let world = World::new();
    let index = "keyed";
    let txn = world.db.begin_write().unwrap();
    // Id 50 claims the key of 51 in both tables, 52 has a key that looks like what 53 would be given.
    put(&txn, index, "keys", &50u64.to_le_bytes(), b"key 51");
    put(&txn, index, "keys", &52u64.to_le_bytes(), b"53");
    delete(&txn, index, "keymap", b"key 50");
    delete(&txn, index, "keymap", b"key 52");
    put(&txn, index, "keymap", b"53", &52u64.to_le_bytes());
    delete(&txn, index, "keys", &53u64.to_le_bytes());
    delete(&txn, index, "keymap", b"key 53");
    txn.commit().unwrap();
    let store = world.store();
    let txn = store.begin_write().unwrap();
    let report = txn.damaged_index(index).unwrap().repair(&mut Observer::none()).unwrap();
    txn.commit().unwrap();
    assert_eq!((report.rows, report.made_keys), (660, 2), "{report:?}");
    assert_sound(&store, index);
    let reader = reader(&store, index);
    let keys: Vec<_> = (50..54).map(|id| reader.key(id).unwrap().unwrap()).collect();
    assert_eq!(keys, [&b"50"[..], b"key 51", b"53", b"53'"]);
}

/// Codes that nothing can be made of: the rows whose kept rows are lost are lost, and named; the others are not.
#[test]
fn codes_that_cannot_be_decoded_are_lost_with_their_rows() {
    let db = Arc::new(Database::builder().create_with_backend(InMemoryBackend::new()).unwrap());
    let store = Store::builder().attach(db.clone()).unwrap();
    let dim = 16;
    let data = reals(400, dim, 1);
    for (name, text) in [("kept", "ITQ8,IVF4,SH,RFlat"), ("twice", "ITQ8,IVF4_SOAR,SH,RFlat")] {
        create(&store, name, &spec(text, dim, Metric::L2).with_block_order(0));
        change(&store, name, |writer| {
            train(writer, rows(&data, dim));
            writer.add(rows(&data, dim)).unwrap();
        });
        let pages = entries(&db, name, "rows");
        assert!(pages.len() > 2);
        let txn = db.begin_write().unwrap();
        put(&txn, name, "rows", &pages[1].0, &[7; 100]);
        txn.commit().unwrap();
        let store = Store::builder().attach(db.clone()).unwrap();
        let txn = store.begin_write().unwrap();
        let report = txn.damaged_index(name).unwrap().repair(&mut Observer::none()).unwrap();
        txn.commit().unwrap();
        let lost = report.undecodable_rows;
        assert!((1..400).contains(&lost), "{report:?}");
        assert_eq!(
            (report.rows, report.lost_ids.len() as u64, report.unnamed_entries),
            (400 - lost, lost, 0)
        );
        assert_sound(&store, name);
        let reader = reader(&store, name);
        for id in reader.ids().unwrap() {
            assert_eq!(reader.reconstruct(id).unwrap(), data[id as usize * dim..][..dim]);
        }
    }
}

/// Sixty pairs of damages of any kind: the repair succeeds, the index is whole, and goes on.
#[test]
fn two_damages_at_once() {
    let world = World::new();
    let mut random = Random::new(17);
    let tables: Vec<&str> = INDIRECT.into_iter().chain(VECTORS).chain(["rows"]).collect();
    for case in 0..60 {
        let index = INDEXES[random.below(3)];
        let damages: Vec<Damage> = (0..2)
            .map(|_| {
                let how = [How::DeleteAll, How::Delete, How::Zero, How::Flip, How::Earlier][random.below(5)];
                Damage { table: tables[random.below(tables.len())], how, at: random.below(100) }
            })
            .collect();
        let everything_gone = damages.iter().all(|d| VECTORS.contains(&d.table) && d.how == How::DeleteAll);
        if everything_gone && damages[0].table != damages[1].table {
            continue;
        }
        damages.iter().for_each(|damage| world.strike(index, damage));
        world.repair(index, !misleading(&damages), &format!("case {case}, {index}: {damages:?}"));
        world.restore();
    }
}

/// Writers are not misled by a map that has lost entries: a second row of the same id would be the price.
#[test]
fn a_writer_refuses_a_map_that_has_lost_ids() {
    let world = World::new();
    let tables = ["map", "free", "keys", "keymap", "twins"];
    for (index, table) in INDEXES.into_iter().flat_map(|index| tables.map(|table| (index, table))) {
        if entries(&world.db, index, table).is_empty() {
            continue;
        }
        world.strike(index, &Damage { table, how: How::Delete, at: 3 });
        let store = world.store();
        let name = format!("{index}/{table}");
        let refused = |e: Error| match e {
            Error::Corrupt { table, what, .. } => table == name && what.contains("repair"),
            _ => false,
        };
        assert!(refused(store.begin_write().unwrap().index(index).unwrap_err()), "{name}");
        assert!(refused(store.begin_read().unwrap().index(index).unwrap_err()), "{name}");
        drop(store);
        world.repair(index, true, &name);
        world.restore();
    }
}
