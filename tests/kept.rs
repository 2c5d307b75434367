//! Kept rows: every form beside every code that it goes with.
//!
//! The worries: a row that comes back otherwise than its form says; a score that is not that of the row as it is kept;
//! a form that one verb forgets (the second column above all: an update that leaves the old vector in it, a removal that
//! leaves it readable, a renumbering that leaves it behind); rows beside codes that are more exact than they are and
//! yet have the last word; a damaged or outdated row that nobody notices, or that a repair makes worse than it need be.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/redb_index.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod redb_index;
mod support;

use redb::{Database, backends::InMemoryBackend};
use redb_index::{delete, entries, put};
use std::sync::Arc;
use support::*;
use vellum::*;

/// Specifications with a form that is not a plain element, or a code that is not.
const SPECS: [&str; 16] = [
    "IVF6,Flat,RU8",
    "IVF6,SQfp16,RU8",
    "SQbf16,RU8",
    "IVF6,Nibble2,RFlat",
    "IVF6,Nibble2,RF16",
    "IVF6,Nibble2,RU8",
    "IVF6,Nibble2,RSQ8",
    "IVF6,Nibble2,RSQ8+Flat",
    "IVF6,Nibble1,RFlat",
    "IVF6,Nibble1,RF16",
    "IVF6,Nibble1,RU8",
    "IVF6,Nibble1,RSQ8",
    "IVF6,Nibble1,RSQ8+Flat",
    "Nibble2,RU8",
    "Nibble2,RSQ8",
    "Nibble1,RSQ8+Flat",
];

fn cases() -> impl Iterator<Item = (&'static str, Metric)> {
    let all = SPECS.into_iter().flat_map(|text| METRICS.map(|metric| (text, metric)));
    all.filter(|(text, metric)| !(text.ends_with("RU8") && *metric == Metric::Cosine))
}

/// Whole numbers where bytes are kept.
fn data(text: &str, n: usize, dim: usize, seed: u64) -> Vec<f32> {
    match text.ends_with("RU8") {
        true => integers(n, dim, 256, seed).into_iter().map(|v| v - 1.0).collect(),
        false => reals(n, dim, seed),
    }
}

/// A row as 255 steps between its least and its greatest component.
fn in_steps(row: &[f32]) -> Vec<f32> {
    let low = row.iter().copied().fold(f32::INFINITY, f32::min);
    let step = (row.iter().copied().fold(f32::NEG_INFINITY, f32::max) - low) / 255.0;
    let nearest = |x: &f32| if step > 0.0 { low + step * ((x - low) / step).round_ties_even() } else { low };
    row.iter().map(nearest).collect()
}

/// An index that was lived in, and what its kept rows should be.
fn lived_in(store: &Store, text: &str, metric: Metric, dim: usize, n: usize) -> Oracle {
    let data = data(text, n, dim, 61);
    create(store, "i", &spec(text, dim, metric).with_block_order(0));
    let mut oracle = change(store, "i", |writer| live_in(writer, rows(&data, dim)));
    if text.ends_with("RSQ8") {
        oracle.vectors.values_mut().for_each(|row| *row = in_steps(row));
    }
    oracle
}

/// Every vector comes back as its form rounds it, and is found at the distance of that.
#[track_caller]
fn assert_kept(reader: &IndexReader<'_>, oracle: &Oracle, queries: Rows<'_>, what: &str) {
    let (metric, n) = (reader.metric(), oracle.vectors.len());
    assert_eq!(reader.ids().unwrap(), oracle.ids(), "{what}");
    for (id, row) in &oracle.vectors {
        let found = reader.reconstruct(*id).unwrap();
        // Cosine's scaling may differ from the oracle's by a bit, and that may be a step.
        let allowed = if metric == Metric::Cosine { 0.005 } else { 0.0 };
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= allowed;
        assert!(
            found.len() == row.len() && found.iter().zip(row).all(near),
            "{what}, id {id}: {found:?} {row:?}"
        );
    }
    if metric == Metric::Cosine {
        return;
    }
    for query in queries.iter() {
        let ranking = oracle.all(query);
        for k in [1, 10, n] {
            let params = everywhere().rerank(n.max(k));
            let found = reader.search(query, k, &params).unwrap();
            assert_eq!(found.len(), k.min(n), "{what}");
            assert_close(&found, &ranking, metric, what);
        }
        let radius = ranking[n / 3].distance as f32;
        let inside = reader.range_search(query, radius, &everywhere()).unwrap();
        let by_id = |id: u64| ranking.iter().find(|e| e.id == id).unwrap();
        for neighbor in &inside {
            let exact = by_id(neighbor.id);
            let off = (f64::from(neighbor.distance) - exact.distance).abs();
            assert!(off <= ROUNDING * exact.scale + 1e-30, "{what}: {neighbor:?} {exact:?}");
            let within =
                if metric == Metric::L2 { neighbor.distance < radius } else { neighbor.distance > radius };
            assert!(within, "{what}: {neighbor:?} {radius}");
        }
        // Estimates miss a few near the radius, other codes none.
        let least = if reader.spec().to_string().contains("Nibble") { n / 8 } else { n / 3 - 1 };
        assert!(inside.len() >= least, "{what}: {} of {}", inside.len(), n / 3);
    }
}

#[test]
fn every_form_is_what_it_says_through_every_verb() {
    for (text, metric) in cases() {
        let (dim, n) = (24, 300);
        let what = format!("{text} {metric}");
        let folder = tempfile::tempdir().unwrap();
        let (path, copy) = (folder.path().join("a.vellum"), folder.path().join("b.vellum"));
        let store = Store::create(&path).unwrap();
        let mut oracle = lived_in(&store, text, metric, dim, n);
        let queries = data(text, 4, dim, 62);
        let queries = rows(&queries, dim);
        assert_sound(&store, "i");
        assert_kept(&reader(&store, "i"), &oracle, queries, &what);
        // Most go, the others move together.
        let gone = IdSelector::callback(|id| id % 5 != 0);
        change(&store, "i", |writer| writer.remove_ids(&gone).unwrap());
        oracle.vectors.retain(|id, _| id % 5 == 0);
        assert_sound(&store, "i");
        store.compact().unwrap();
        assert_eq!(reader(&store, "i").stats().unwrap().free_rows, 0, "{what}: compacting renumbers");
        assert_sound(&store, "i");
        assert_kept(&reader(&store, "i"), &oracle, queries, &what);
        store.backup(&copy, &mut Observer::none()).unwrap();
        let same = state(&reader(&store, "i"));
        drop(store);
        for path in [&path, &copy] {
            let store = Store::open(path).unwrap();
            assert_sound(&store, "i");
            assert_eq!(state(&reader(&store, "i")), same, "{what}");
        }
        // No vector is left in any column.
        let store = Store::open(&path).unwrap();
        change(&store, "i", |writer| writer.remove_ids(&IdSelector::All).unwrap());
        assert_sound(&store, "i");
        let stats = reader(&store, "i").stats().unwrap();
        let kept: Vec<_> = stats.parts.iter().filter(|part| ["rows", "exact"].contains(&part.name)).collect();
        assert!(kept.len() == 2 && kept.iter().all(|part| part.values == 0), "{what}: {kept:?}");
        change(&store, "i", |writer| {
            writer.add(queries).unwrap();
            writer.clear().unwrap();
        });
        assert_sound(&store, "i");
    }
}

/// A column is named with its index, and goes with it.
#[test]
fn two_stages_are_renamed_and_dropped() {
    let store = memory();
    let oracle = lived_in(&store, "IVF6,Nibble2,RSQ8+Flat", Metric::L2, 16, 200);
    let txn = store.begin_write().unwrap();
    txn.rename_index("i", "j").unwrap();
    txn.create_index("i", &spec("IVF6,Nibble2,RSQ8+Flat", 16, Metric::L2)).unwrap();
    txn.commit().unwrap();
    assert_sound(&store, "j");
    assert_kept(&reader(&store, "j"), &oracle, rows(&reals(2, 16, 1), 16), "renamed");
    let stats = reader(&store, "j").stats().unwrap();
    assert_eq!((stats.row_bytes, stats.code_bytes), (16 + 8 + 64, 4 + 6));
    let txn = store.begin_write().unwrap();
    txn.drop_index("j").unwrap();
    txn.create_index("j", &spec("IVF6,Nibble2,RSQ8+Flat", 16, Metric::L2)).unwrap();
    txn.commit().unwrap();
    assert!(reader(&store, "j").is_empty());
    assert_sound(&store, "j");
}

/// Bytes of 255 are what a column has where it has nothing.
#[test]
fn the_brightest_rows_are_there() {
    for text in ["IVF2,Flat,RU8", "Nibble2,RU8", "Nibble2,RSQ8+Flat"] {
        let store = memory();
        create(&store, "i", &spec(text, 8, Metric::L2));
        let white = vec![255.0; 40 * 8];
        change(&store, "i", |writer| writer.add(rows(&white, 8)).unwrap());
        assert_sound(&store, "i");
        assert_eq!(reader(&store, "i").reconstruct(39).unwrap(), [255.0; 8]);
        change(&store, "i", |writer| {
            let report = writer.repair(&mut Observer::none()).unwrap();
            assert_eq!(report, nothing_lost(40));
            writer.remove_ids(&IdSelector::range(0..39)).unwrap();
        });
        assert_sound(&store, "i");
        assert_eq!(reader(&store, "i").search(&[254.0; 8], 5, &everywhere()).unwrap()[0].distance, 8.0);
    }
}

#[test]
fn what_is_no_byte_is_refused_at_the_door() {
    let store = memory();
    create(&store, "i", &spec("IVF2,Nibble2,RU8", 4, Metric::InnerProduct));
    for wrong in [-1.0, 0.25, 255.5, 256.0, 6e4] {
        let batch = [1.0, 2.0, 3.0, 255.0, 0.0, 9.0, wrong, 1.0];
        let txn = store.begin_write().unwrap();
        let mut writer = txn.index("i").unwrap();
        match writer.add(rows(&batch, 4)).unwrap_err() {
            Error::OutOfRange { row: 1, component: 2, value, element: "u8" } => assert_eq!(value, wrong),
            other => panic!("{other:?}"),
        }
        assert!(writer.is_empty() && !writer.is_poisoned());
    }
    // A query may have any components.
    change(&store, "i", |writer| writer.add(rows(&[1.0, 2.0, 3.0, 4.0], 4)).unwrap());
    let found = reader(&store, "i").search(&[0.5, 0.0, -1.0, 0.0], 1, &everywhere()).unwrap();
    assert_eq!(found[0].distance, -2.5);
}

#[test]
fn what_does_not_fit_together_is_refused_with_the_reason() {
    for text in ["Flat,RSQ8", "IVF4,SQfp16,RSQ8+Flat", "IVF4,SQbf16,RSQ8"] {
        match text.parse::<IndexSpec>() {
            Err(Error::Spec { what, .. }) => assert!(what.contains("more exact"), "{what}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    let store = memory();
    let txn = store.begin_write().unwrap();
    for spec in [
        spec("IVF4,Nibble2,RU8", 4, Metric::Cosine),
        IndexSpec::ivf(4, Metric::L2, 4).with_kept_rows(KeptRows::SQ8),
    ] {
        assert!(matches!(txn.create_index("i", &spec), Err(Error::Spec { .. })), "{spec}");
    }
    // What is left open is decided when the index is made.
    txn.create_index("i", &spec("IVF4,Nibble", 300, Metric::Cosine)).unwrap();
    assert_eq!(txn.index("i").unwrap().spec().to_string(), "IVF4,Nibble1,RSQ8+Flat");
}

/// Until it is trained an index has the vectors themselves in its list, and rounded rows have no say.
#[test]
fn rows_of_steps_wait_for_the_training() {
    let (dim, n) = (12, 200);
    let data = reals(n, dim, 63);
    for text in ["IVF4,Nibble2,RSQ8", "IVF4,Nibble1,RSQ8+Flat"] {
        for metric in METRICS {
            let (store, flat) = (memory(), memory());
            create(&store, "i", &spec(text, dim, metric));
            create(&flat, "i", &spec("Flat", dim, metric));
            for store in [&store, &flat] {
                change(store, "i", |writer| writer.add(rows(&data, dim)).unwrap());
                assert_sound(store, "i");
            }
            let (untrained, flat) = (reader(&store, "i"), reader(&flat, "i"));
            assert_eq!(
                untrained.reconstruct_batch(&untrained.ids().unwrap()).unwrap(),
                flat.reconstruct_batch(&flat.ids().unwrap()).unwrap()
            );
            for query in rows(&reals(5, dim, 64), dim).iter() {
                let found = untrained.search(query, 7, &everywhere()).unwrap();
                assert_eq!(bits(&found), bits(&flat.search(query, 7, &everywhere()).unwrap()));
                let radius = found[6].distance;
                let found = untrained.range_search(query, radius, &everywhere()).unwrap();
                assert_eq!(bits(&found), bits(&flat.range_search(query, radius, &everywhere()).unwrap()));
            }
            // Codes come from the vectors, not from their rounded rows: training on either gives the same answers.
            change(&store, "i", |writer| drop(train(writer, rows(&data, dim))));
            assert_sound(&store, "i");
            let after = memory();
            create(&after, "i", &spec(text, dim, metric));
            change(&after, "i", |writer| {
                train(writer, rows(&data, dim));
                writer.add(rows(&data, dim)).unwrap();
            });
            let (trained, after) = (reader(&store, "i"), reader(&after, "i"));
            for query in rows(&reals(5, dim, 65), dim).iter() {
                let found = trained.search(query, 5, &nprobe(2)).unwrap();
                assert_eq!(
                    bits(&found),
                    bits(&after.search(query, 5, &nprobe(2)).unwrap()),
                    "{text} {metric}"
                );
            }
        }
    }
}

// ---------------------------------------------------------------- damage

const DIM: usize = 16;

struct Damaged {
    db: Arc<Database>,
    vectors: Vec<f32>,
    /// The tables before the first twenty vectors were replaced.
    before: Vec<(&'static str, Vec<redb_index::Pair>)>,
}

const TABLES: [&str; 4] = ["rows", "exact", "blocks", "tails"];

impl Damaged {
    fn new(text: &str) -> Self {
        let db = Arc::new(Database::builder().create_with_backend(InMemoryBackend::new()).unwrap());
        let store = Store::builder().attach(db.clone()).unwrap();
        create(&store, "i", &spec(text, DIM, Metric::L2).with_block_order(0));
        let mut vectors = data(text, 400, DIM, 66);
        change(&store, "i", |writer| {
            writer.add(rows(&vectors, DIM)).unwrap();
            if writer.spec().nlist().is_some() {
                train(writer, rows(&vectors, DIM));
            }
        });
        let before = TABLES.map(|table| (table, entries(&db, "i", table))).to_vec();
        vectors[..20 * DIM].copy_from_slice(&data(text, 20, DIM, 67));
        let ids: Vec<u64> = (0..20).collect();
        change(&store, "i", |writer| writer.update_vectors(&ids, rows(&vectors[..20 * DIM], DIM)).unwrap());
        assert_sound(&store, "i");
        Damaged { db, vectors, before }
    }

    fn lose_first(&self, table: &str) {
        let (key, _) = &entries(&self.db, "i", table)[0];
        let txn = self.db.begin_write().unwrap();
        delete(&txn, "i", table, key);
        txn.commit().unwrap();
    }

    /// Puts the values of a table back to what they were before the update.
    fn put_back(&self, table: &str) {
        let was = &self.before.iter().find(|(name, _)| *name == table).unwrap().1;
        let txn = self.db.begin_write().unwrap();
        was.iter().for_each(|(key, value)| put(&txn, "i", table, key, value));
        txn.commit().unwrap();
    }

    /// What verification says, and how many rows a repair makes anew.
    fn mend(&self, what: &str) -> (VerifyReport, u64) {
        let store = Store::builder().attach(self.db.clone()).unwrap();
        let verify = || store.begin_read().unwrap().verify("i", &mut Observer::none()).unwrap();
        let found = verify();
        assert!(!found.is_ok(), "{what}: nothing noticed");
        let repair = || {
            let txn = store.begin_write().unwrap();
            let report = txn.damaged_index("i").unwrap().repair(&mut Observer::none()).unwrap();
            txn.commit().unwrap();
            report
        };
        let report = repair();
        assert_eq!(report.rows, 400, "{what}");
        assert!(verify().is_ok(), "{what}: {:?}", verify().problems.first());
        assert_eq!(repair(), nothing_lost(400), "{what}: again");
        assert_sound(&store, "i");
        (found, report.decoded_rows)
    }

    fn reconstructed(&self) -> Vec<f32> {
        let store = Store::builder().attach(self.db.clone()).unwrap();
        reader(&store, "i").reconstruct_batch(&(0..400).collect::<Vec<u64>>()).unwrap()
    }

    fn in_steps(&self) -> Vec<f32> {
        self.vectors.chunks(DIM).flat_map(in_steps).collect()
    }
}

#[test]
fn the_second_stage_and_the_first_stand_in_for_each_other() {
    let text = "IVF4,Nibble2,RSQ8+Flat";
    // The first page of rows: made again of the exact ones, which lose nothing.
    let damaged = Damaged::new(text);
    damaged.lose_first("rows");
    let (found, made) = damaged.mend("rows");
    assert!(found.problems.iter().all(|p| p.table == "i/rows"), "{:?}", found.problems[0]);
    assert!(made > 50 && damaged.reconstructed() == damaged.vectors);
    // A page of exact rows: what the first stage knows.
    let damaged = Damaged::new(text);
    damaged.lose_first("exact");
    let (found, made) = damaged.mend("exact");
    assert!(found.problems.iter().all(|p| p.table == "i/exact" || p.table == "i/rows"));
    let (now, steps) = (damaged.reconstructed(), damaged.in_steps());
    let lost = made as usize * DIM;
    assert!(lost > 0 && now[..lost] == steps[..lost] && now[lost..] == damaged.vectors[lost..]);
    // Both: what the codes know.
    let damaged = Damaged::new(text);
    damaged.lose_first("rows");
    damaged.lose_first("exact");
    let (_, made) = damaged.mend("both");
    let off: f32 = damaged.reconstructed().iter().zip(&damaged.vectors).map(|(a, b)| (a - b).powi(2)).sum();
    let all: f32 = damaged.vectors.iter().map(|v| v * v).sum();
    assert!(made > 20 && off > 0.0 && off < 0.2 * all, "{off} of {all}");
}

/// A page with good checksums that went back to an earlier state: another vector than the others say.
#[test]
fn outdated_rows_are_noticed_and_outvoted() {
    for text in ["IVF4,Nibble2,RSQ8+Flat", "IVF4,Nibble1,RSQ8+Flat", "Nibble2,RSQ8+Flat"] {
        let damaged = Damaged::new(text);
        damaged.put_back("rows");
        let (found, made) = damaged.mend("old rows");
        assert!(found.problems.iter().all(|p| p.what.contains("the exact one")), "{:?}", found.problems[0]);
        assert_eq!(made, 20);
        assert!(damaged.reconstructed() == damaged.vectors, "{text}: the exact rows know");
        let damaged = Damaged::new(text);
        damaged.put_back("exact");
        let (found, made) = damaged.mend("old exact rows");
        assert!(found.problems.iter().any(|p| p.table == "i/exact" && p.what.contains("than its code")));
        assert_eq!(made, 20);
        let (now, steps) = (damaged.reconstructed(), damaged.in_steps());
        assert!(now[..20 * DIM] == steps[..20 * DIM], "{text}: the first stage knows");
        assert!(now[20 * DIM..] == damaged.vectors[20 * DIM..]);
    }
    // An outdated code is outvoted by both stages.
    let damaged = Damaged::new("Nibble2,RSQ8+Flat");
    ["blocks", "tails"].iter().for_each(|table| damaged.put_back(table));
    let (_, made) = damaged.mend("old codes");
    assert_eq!(made, 20);
    assert!(damaged.reconstructed() == damaged.vectors);
    // One stage alone: row against code, and the code is what searches find.
    for text in ["IVF4,Nibble2,RFlat", "IVF4,Nibble1,RU8", "IVF4,SQfp16,RU8", "IVF4,Flat,RU8"] {
        let damaged = Damaged::new(text);
        damaged.put_back("rows");
        let (found, made) = damaged.mend(text);
        assert!(found.problems.iter().all(|p| p.table == "i/rows"), "{:?}", found.problems[0]);
        assert_eq!(made, 20, "{text}");
        let now = damaged.reconstructed();
        let exact = !text.contains("Nibble");
        assert!(
            now[20 * DIM..] == damaged.vectors[20 * DIM..] && (!exact || now == damaged.vectors),
            "{text}"
        );
    }
}
