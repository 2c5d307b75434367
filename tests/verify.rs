//! `verify` notices: a value of any table that is changed, deleted, added, swapped or put back to what it was.
//!
//! The worry is a table, or a kind of damage, that no check looks at: `verify` then says that all is well while
//! answers are wrong, and nobody repairs. So every table of five indexes is damaged through redb itself, one value at
//! a time; each time `verify` must report a problem that names the table. What is well-formed and wrong (a header or
//! a list entry with good checksums) needs the crate's own writers: those cases stand in `src/index/verify.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/redb_index.rs"]
mod redb_index;
mod support;

use redb::{Database, backends::InMemoryBackend};
use redb_index::{BYTES, TABLES, delete, entries, put};
use std::collections::BTreeMap;
use std::sync::Arc;
use support::*;
use vellum::*;

const DIM: usize = 16;
const INDEXES: [&str; 5] = ["numbers", "keyed", "stages", "spilled", "shared"];

type Contents = BTreeMap<(&'static str, &'static str), Vec<redb_index::Pair>>;

fn contents(db: &Database) -> Contents {
    let each = INDEXES.into_iter().flat_map(|index| TABLES.map(|table| (index, table)));
    each.map(|(index, table)| ((index, table), entries(db, index, table))).collect()
}

/// A database with five indexes in which every table has something, and what they held a commit before.
fn build() -> (Arc<Database>, Contents) {
    let db = Arc::new(Database::builder().create_with_backend(InMemoryBackend::new()).unwrap());
    let store = Store::builder().attach(db.clone()).unwrap();
    let mut data = integers(1500, DIM, 60, 1);
    // Far from all others and close together: lists of more than one block.
    data[200 * DIM..500 * DIM].iter_mut().for_each(|component| *component = 2000.0 + *component / 64.0);
    create(&store, "numbers", &spec("IVF90,Flat", DIM, Metric::L2).with_block_order(0));
    create(&store, "keyed", &spec("IVF3,SQfp16,RFlat", DIM, Metric::L2).with_keys(true).with_block_order(0));
    create(&store, "stages", &spec("IVF3,Nibble2,RSQ8+Flat", DIM, Metric::L2).with_block_order(0));
    change(&store, "stages", |writer| {
        writer.add(rows(&data[..600 * DIM], DIM)).unwrap();
        train(writer, rows(&data, DIM));
    });
    change(&store, "numbers", |writer| {
        writer.add(rows(&data, DIM)).unwrap();
        train(writer, rows(&data, DIM));
    });
    create(&store, "spilled", &spec("IVF5(IVF2)_SOAR,Flat", DIM, Metric::L2).with_block_order(0));
    change(&store, "spilled", |writer| {
        writer.add(rows(&data[..300 * DIM], DIM)).unwrap();
        train(writer, rows(&data[..300 * DIM], DIM));
    });
    create(&store, "shared", &spec("IVF5,FlatDedup", DIM, Metric::L2).with_block_order(0));
    change(&store, "shared", |writer| {
        writer.add(rows(&data[..600 * DIM], DIM)).unwrap();
        train(writer, rows(&data[..600 * DIM], DIM));
        writer.add(rows(&data[300 * DIM..900 * DIM], DIM)).unwrap();
    });
    let keys: Vec<String> = (0..600).map(|i| format!("key {i}")).collect();
    change(&store, "keyed", |writer| {
        writer.add_with_keys(&keys, rows(&data[..600 * DIM], DIM)).unwrap();
        train(writer, rows(&data, DIM));
    });
    let before = contents(&db);
    let more = integers(400, DIM, 60, 2);
    change(&store, "numbers", |writer| {
        writer.remove_ids(&IdSelector::callback(|id| id % 5 == 0)).unwrap();
        writer.add(rows(&more[..250 * DIM], DIM)).unwrap();
    });
    change(&store, "spilled", |writer| {
        writer.remove_ids(&IdSelector::callback(|id| id % 5 == 0)).unwrap();
        writer.update_vectors(&[1, 2, 3], rows(&more[..3 * DIM], DIM)).unwrap();
    });
    change(&store, "shared", |writer| {
        writer.remove_ids(&IdSelector::callback(|id| id % 5 == 0)).unwrap();
        writer.update_vectors(&[1, 2, 3, 1001], rows(&data[400 * DIM..404 * DIM], DIM)).unwrap();
    });
    change(&store, "keyed", |writer| {
        writer.remove_keys(&keys[..50]).unwrap();
        writer.upsert_with_keys(&keys[30..80], rows(&more[..50 * DIM], DIM)).unwrap();
    });
    change(&store, "stages", |writer| {
        writer.remove_ids(&IdSelector::range(0..40)).unwrap();
        writer.update_vectors(&(100..150).collect::<Vec<u64>>(), rows(&more[..50 * DIM], DIM)).unwrap();
    });
    INDEXES.iter().for_each(|index| assert_sound(&store, index));
    (db, before)
}

/// One way to damage a table.
#[derive(Debug)]
enum Damage {
    Delete(Vec<u8>),
    /// Written, whether there was one or not.
    Put(Vec<u8>, Vec<u8>),
    Swap(redb_index::Pair, redb_index::Pair),
}

impl Damage {
    fn strike(&self, db: &Database, index: &str, table: &str) {
        let txn = db.begin_write().unwrap();
        match self {
            Damage::Delete(key) => delete(&txn, index, table, key),
            Damage::Put(key, value) => put(&txn, index, table, key, value),
            Damage::Swap((a, x), (b, y)) => {
                put(&txn, index, table, a, y);
                put(&txn, index, table, b, x);
            }
        }
        txn.commit().unwrap();
    }
}

/// Up to `n` of `all`, first and last among them.
fn some<T>(all: &[T], n: usize) -> Vec<&T> {
    let step = (all.len() / n).max(1);
    all.iter().step_by(step).chain(all.last()).collect()
}

/// Bytes of a value that mean something: what a frame says is its payload, and all of anything else.
fn told(table: &str, value: &[u8]) -> Vec<usize> {
    match table {
        // Format version, which says nothing as long as the oldest reader does.
        "meta" => (0..value.len()).filter(|at| !(8..12).contains(at)).collect(),
        "keys" | "map" | "free" | "keymap" => (0..value.len()).collect(),
        _ => (0..64 + u32::from_le_bytes(value[28..32].try_into().unwrap()) as usize).collect(),
    }
}

fn damages(table: &'static str, now: &[redb_index::Pair], before: &[redb_index::Pair]) -> Vec<Damage> {
    let mut damages = Vec::new();
    let bytes = BYTES.contains(&table);
    for (key, value) in some(now, 6) {
        damages.push(Damage::Delete(key.clone()));
        let told = told(table, value);
        for at in some(&told, if bytes { 12 } else { 3 }) {
            let mut rotten = value.clone();
            rotten[*at] ^= 1 << (at % 8);
            damages.push(Damage::Put(key.clone(), rotten));
        }
        if bytes && table != "keys" {
            damages.push(Damage::Put(key.clone(), Vec::new()));
            damages.push(Damage::Put(key.clone(), value[..value.len() / 2].to_vec()));
            damages.push(Damage::Put(key.clone(), vec![0; value.len()]));
        }
    }
    let was: BTreeMap<_, _> = before.iter().cloned().collect();
    let changed: Vec<_> =
        now.iter().filter(|(key, value)| was.get(key).is_some_and(|v| v != value)).collect();
    if !changed.is_empty() {
        damages
            .extend(some(&changed, 8).into_iter().map(|(key, _)| Damage::Put(key.clone(), was[key].clone())));
    }
    let distinct: Vec<_> = some(now, 5).into_iter().cloned().collect();
    for pair in distinct.windows(2).filter(|pair| pair[0].1 != pair[1].1) {
        damages.push(Damage::Swap(pair[0].clone(), pair[1].clone()));
    }
    let (key, value) = now.last().unwrap();
    let strays: [u64; 3] = [1_000, 1 << 40, u64::MAX];
    for stray in strays.map(u64::to_le_bytes).iter().filter(|stray| now.iter().all(|(key, _)| key != *stray))
    {
        let key = if table == "keymap" { [&key[..], &stray[..]].concat() } else { stray.to_vec() };
        damages.push(Damage::Put(key, value.clone()));
    }
    damages
}

#[test]
fn every_kind_of_damage_to_every_table_is_noticed_and_named() {
    let (db, before) = build();
    let now = contents(&db);
    let txn = db.begin_write().unwrap();
    let sound = txn.ephemeral_savepoint().unwrap();
    txn.commit().unwrap();
    let mut silent = Vec::new();
    let mut cases = 0;
    for ((index, table), entries) in &now {
        let unused = match *table {
            "rows" => ["numbers", "spilled", "shared"].contains(index),
            "twins" => *index != "shared",
            "exact" => *index != "stages",
            "keys" | "keymap" => *index != "keyed",
            _ => false,
        };
        assert_eq!(entries.is_empty(), unused, "{index}/{table}: {}", entries.len());
        if entries.is_empty() {
            continue;
        }
        for damage in damages(table, entries, &before[&(*index, *table)]) {
            cases += 1;
            damage.strike(&db, index, table);
            let store = Store::builder().attach(db.clone()).unwrap();
            let report = store.begin_read().unwrap().verify(index, &mut Observer::none());
            let name = format!("{index}/{table}");
            // An index may be without a calibration.
            let optional = matches!(&damage, Damage::Delete(key) if *table == "model" && *key == (10u64 << 32).to_le_bytes());
            let named = optional
                || match &report {
                    Ok(report) => report.problems.iter().any(|p| p.table == name || p.what.contains(&name)),
                    Err(e) => e.to_string().contains(&name),
                };
            if !named {
                let said = report.map(|report| report.problems.into_iter().take(3).collect::<Vec<_>>());
                let short = format!("{damage:?}").chars().take(120).collect::<String>();
                silent.push(format!("{name}: {short}: {said:?}"));
            }
            drop(store);
            let mut txn = db.begin_write().unwrap();
            txn.restore_savepoint(&sound).unwrap();
            txn.commit().unwrap();
        }
    }
    assert!(cases > 600, "{cases} cases");
    assert!(
        silent.is_empty(),
        "{} of {cases} not noticed:\n{}",
        silent.len(),
        silent[..silent.len().min(40)].join("\n")
    );
    let store = Store::builder().attach(db).unwrap();
    INDEXES.iter().for_each(|index| assert_sound(&store, index));
}
