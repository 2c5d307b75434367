//! The stored format: files of released versions open, verify, answer and can be changed (campaign 12), and
//! `docs/format.md` says enough to read a store without vellum.
//!
//! `tests/fixtures/format-1/` holds a store and what must be found in it. It was made by [`regenerate`]:
//!
//! ```sh
//! cargo test --test format -- --ignored regenerate
//! ```
//! With the first release version 1 is frozen: from then on nothing makes that folder again, and a later version adds
//! a folder of its own. [`plain`] is the reader of the page; it is run over the fixture and over a larger store made
//! here, and compared with vellum's answers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../campaign/mod.rs"]
mod campaign;
mod fixture;
mod plain;
#[path = "../support/mod.rs"]
mod support;

use plain::Index;
use std::path::Path;
use support::{assert_sound, change, reader};
use vellum::*;

/// Makes the fixture again.
#[test]
#[ignore = "overwrites tests/fixtures/format-1"]
fn regenerate() {
    fixture::make();
}

// ---------------------------------------------------------------- campaign 12

/// A copy of the stored file, as opening one writes to it.
fn copy(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("store.redb");
    std::fs::copy(fixture::folder().join("store.redb"), &path).unwrap();
    path
}

#[test]
fn campaign_12_a_stored_file_opens_verifies_and_answers() {
    let outcome =
        campaign::run_exactly("stored files of format 1", fixture::INDEXES.len() as u64, |case, _| {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(copy(folder.path())).unwrap();
            let name = fixture::INDEXES[case as usize].name;
            assert_sound(&store, name);
            fixture::compare(&store, name)
        });
    outcome.expect_clean();
}

/// The comparison has teeth: a file in which one byte of one vector is another, under checksums that hold, is noticed.
#[test]
fn a_planted_byte_is_noticed() {
    let outcome = campaign::run_exactly("stored files with another vector", 1, |_, _| {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(copy(folder.path())).unwrap();
        let mut vector = reader(&store, "flat").reconstruct(7).unwrap();
        vector[0] += 1.0;
        change(&store, "flat", |writer| writer.update_vectors(&[7], Rows::one(&vector).unwrap()).unwrap());
        fixture::compare(&store, "flat")
    });
    outcome.expect_caught();
}

/// Every verb on a file of an earlier version: it is written as one of this version, and stays sound.
#[test]
fn a_stored_file_can_be_changed() {
    for index in fixture::INDEXES {
        let folder = tempfile::tempdir().unwrap();
        let path = copy(folder.path());
        let store = Store::open(&path).unwrap();
        let (name, before) = (index.name, reader(&store, index.name).len());
        let (dim, keys) = (reader(&store, name).dim(), reader(&store, name).spec().keys());
        let data = fixture::data(9, dim, 99);
        change(&store, name, |writer| {
            match keys {
                true => {
                    let keys: Vec<String> = (0..9).map(|i| format!("new {i}")).collect();
                    writer.upsert_with_keys(&keys, Rows::new(&data, dim).unwrap()).unwrap();
                }
                false => {
                    writer.add(Rows::new(&data, dim).unwrap()).unwrap();
                }
            }
            assert_eq!(writer.remove_ids(&IdSelector::range(0..4)).unwrap(), index.low_ids);
            if writer.reader().spec().nlist().is_some() {
                writer.train_stored(&fixture::training(), &mut Observer::none()).unwrap();
            }
        });
        assert_sound(&store, name);
        assert_eq!(reader(&store, name).len(), before + 9 - index.low_ids);
        store.compact().unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        fixture::INDEXES.iter().for_each(|other| assert_sound(&store, other.name));
        assert!(
            fixture::INDEXES
                .iter()
                .filter(|o| o.name != name)
                .all(|o| fixture::compare(&store, o.name).is_ok())
        );
        drop(store);
        // And what this version writes is what the page says.
        plain::read(&path).unwrap();
    }
}

// ---------------------------------------------------------------- the page

#[test]
fn the_page_says_enough_to_read_the_stored_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = copy(folder.path());
    let indexes = plain::read(&path).unwrap();
    assert!(indexes.iter().map(|index| &index.name).eq(&fixture::names()));
    let store = Store::open(&path).unwrap();
    indexes.iter().for_each(|index| compare(index, &reader(&store, &index.name)));
}

/// Larger than the fixture: lists of many blocks, columns of many pages, sections of several chunks, indexes that were
/// trained twice, are not trained, or are empty.
#[test]
fn the_page_says_enough_to_read_any_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("larger.vellum");
    let store = Store::create(&path).unwrap();
    let specs = [
        ("empty", "IVF4,SQ8", Metric::L2, 3, 0),
        ("waits", "IVF500,PQ4", Metric::L2, 24, 300),
        ("flat", "Flat", Metric::InnerProduct, 33, 1500),
        ("wide", "IVF3,Flat,RFlat", Metric::L2, 1100, 70),
        ("eight", "IVF5,SQ8,RBF16", Metric::Cosine, 19, 900),
        ("four", "PCA12,IVF5,SQ4", Metric::L2, 20, 500),
        ("halves", "IVF9(IVF3),SQbf16,RU8", Metric::L2, 31, 600),
        ("points", "RR32,IVF2_SOAR,PQ8", Metric::L2, 32, 400),
        ("few bits", "IVF2,PQ6x5", Metric::InnerProduct, 24, 200),
        ("scan", "IVF3,PQ12x4fsr", Metric::L2, 24, 700),
        ("nibbles", "IVF4,Nibble2", Metric::L2, 40, 1200),
        ("one bit", "IVF4_SOAR,Nibble1,RF16", Metric::InnerProduct, 100, 500),
        ("raw nibbles", "Nibble2", Metric::L2, 16, 100),
        ("signs", "IVF2,RaBitQ", Metric::L2, 48, 300),
        ("levels", "IVF2,RaBitQ4", Metric::InnerProduct, 30, 300),
        ("shared", "IVF3,FlatDedup", Metric::L2, 2, 2000),
        ("many lists", "IVF600,Flat", Metric::L2, 32, 700),
    ];
    for (i, (name, text, metric, dim, rows)) in specs.into_iter().enumerate() {
        let order = i as u8 % 3;
        let spec = support::spec(text, dim, metric).with_block_order(order);
        support::create(&store, name, &spec);
        let data = fixture::data(rows, dim, i as u64);
        let rows = Rows::new(&data, dim).unwrap();
        change(&store, name, |writer| {
            writer.add(rows).unwrap();
            writer.remove_ids(&IdSelector::callback(|id| id % 7 == 3)).unwrap();
        });
        if spec.nlist().is_some() && rows.len() > 5 && name != "waits" {
            for _ in 0..2 {
                change(&store, name, |w| {
                    w.train_stored(&fixture::training(), &mut Observer::none()).unwrap()
                });
            }
        }
        let more = fixture::data(40, dim, 1000 + i as u64);
        change(&store, name, |writer| {
            writer.add(Rows::new(&more, dim).unwrap()).unwrap();
        });
    }
    drop(store);
    let indexes = plain::read(&path).unwrap();
    assert_eq!(indexes.len(), specs.len());
    assert!(indexes.iter().any(|index| index.lists.iter().any(|list| list.blocks > 9)));
    let store = Store::open(&path).unwrap();
    indexes.iter().for_each(|index| compare(index, &reader(&store, &index.name)));
}

fn near(name: &str, a: &[f32], b: &[f32]) {
    let size = a.iter().chain(b).fold(0f32, |most, x| most.max(x.abs()));
    let off = a.iter().zip(b).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(a.len() == b.len() && off <= 1e-4 * size, "{name}: {off} of {size}");
}

/// What the plain reader found, and what vellum says.
fn compare(index: &Index, reader: &IndexReader<'_>) {
    let name = &index.name;
    assert_eq!((index.header.dim, index.header.nlist as usize), (reader.dim(), reader.nlist()), "{name}");
    assert_eq!(index.header.spec, reader.spec().to_string());
    assert!(index.map.keys().eq(&reader.ids().unwrap()), "{name}");
    let sizes: Vec<usize> = index.lists.iter().map(|list| list.rows.len()).collect();
    assert_eq!(sizes, reader.list_sizes().unwrap(), "{name}");
    let centroids = reader.centroids().map_or(&[][..], |centroids| centroids.as_slice());
    assert_eq!(index.centroids(), centroids, "{name}");
    assert_eq!(index.sections.get(&6).cloned(), reader.note().unwrap(), "{name}");
    for (list, found) in index.lists.iter().zip(reader.lists()) {
        // vellum tells a code for each row of a shared entry.
        let times = |row: &u32| index.chain(*row).len();
        let copies = list.codes.iter().zip(&list.rows).flat_map(|(code, row)| code.repeat(times(row)));
        assert!(copies.eq(found.codes().unwrap()), "{name}, list {}", found.number());
        assert!(list.residual >= 0.0);
    }
    for (&id, &row) in &index.map {
        let place = reader.slot(id).unwrap();
        assert_eq!(index.slots[&row][0], (place.list, place.offset), "{name}: {id}");
        assert_eq!(index.keys.get(&id).cloned(), reader.key(id).unwrap(), "{name}");
        if let Ok(decoded) = index.decoded(row) {
            near(name, &decoded, &reader.decoded(id));
            if let Some(first) = index.first_kept(row).unwrap() {
                // Steps, halves and bytes are of the vector that the code is of, too.
                let size: f32 = first.iter().map(|x| x * x).sum::<f32>().sqrt();
                let off: f32 = first.iter().zip(&decoded).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
                assert!(off <= 0.9 * size + 1e-3, "{name}: {off} of {size}");
            }
        }
        if let Some(kept) = index.kept(row).unwrap() {
            near(name, &kept, &reader.reconstruct(id).unwrap());
        }
    }
}

/// What the code of an id says, whatever is kept beside it.
trait AtCode {
    fn decoded(&self, id: u64) -> Vec<f32>;
}

impl AtCode for IndexReader<'_> {
    fn decoded(&self, id: u64) -> Vec<f32> {
        if !self.is_trained() {
            // Codes of before training are the vectors.
            return self.reconstruct(id).unwrap();
        }
        let code = self.code(id).unwrap();
        let width = self.list_number_bytes();
        let number = code.slot.list.to_le_bytes()[..width].to_vec();
        self.decode(&[number, code.bytes].concat()).unwrap()
    }
}
