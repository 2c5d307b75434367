//! Comparing what stores hold: equal if and only if the contents are, wherever they stand; and what rests on it, a backup
//! that is checked and a restore.
//!
//! Noticed by changing one fact at a time (a component, an id, a key, a default, the note, the lists) and by changing nothing
//! but places (compaction, renumbering, a copy, other blocks being full).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed helper is a failed test")]

mod support;

use std::fs;
use support::*;
use vellum::*;

const DIM: usize = 8;

fn digest(store: &Store, index: &str) -> ContentDigest {
    reader(store, index).digest(&mut Observer::none()).unwrap()
}

fn same(a: &Store, b: &Store) -> CompareReport {
    a.compare(b, &mut Observer::none()).unwrap()
}

/// Two indexes, the same each time.
fn fill(store: &Store) {
    let data = integers(400, DIM, 50, 3);
    create(store, "a", &spec("IVF5,SQfp16,RFlat", DIM, Metric::L2));
    change(store, "a", |writer| {
        writer.add(rows(&data, DIM)).unwrap();
        writer.train_stored(&TrainParams::default(), &mut Observer::none()).unwrap();
        writer.set_note(b"a note").unwrap();
    });
    create(store, "k", &spec("Flat", DIM, Metric::L2).with_keys(true));
    change(store, "k", |writer| writer.add_with_keys(&["x", "y", "z"], rows(&data[..3 * DIM], DIM)).unwrap());
}

#[test]
fn places_are_no_contents() {
    let (one, other) = (memory(), memory());
    fill(&one);
    fill(&other);
    assert!(same(&one, &other).is_equal());
    assert_eq!(same(&one, &other).equal, ["a", "k"]);
    // Other rows in other places, and then the same ids and vectors again.
    let before = digest(&other, "a");
    change(&other, "a", |writer| {
        let gone: Vec<u64> = (0..400).filter(|id| id % 3 == 0).collect();
        let vectors = writer.reader().reconstruct_batch(&gone).unwrap();
        writer.remove_ids(&IdSelector::batch(gone.iter().copied())).unwrap();
        assert_ne!(writer.reader().digest(&mut Observer::none()).unwrap(), before);
        writer.add_with_ids(&gone, rows(&vectors, DIM)).unwrap();
        writer.renumber(&mut Observer::none()).unwrap();
    });
    assert_eq!(digest(&other, "a"), before);
    other.compact().unwrap();
    assert!(same(&one, &other).is_equal());
    assert_eq!(digest(&one, "a").to_string().len(), 32);
}

#[test]
fn every_fact_is_contents() {
    let store = memory();
    fill(&store);
    type Edit = fn(&mut IndexWriter<'_>);
    let edits: [(&str, Edit); 6] = [
        ("a", |writer| {
            let mut vector = writer.reader().reconstruct(7).unwrap();
            vector[3] += 1.0;
            writer.update_vectors(&[7], rows(&vector, DIM)).unwrap();
        }),
        ("a", |writer| assert_eq!(writer.remove_ids(&IdSelector::range(9..10)).unwrap(), 1)),
        ("a", |writer| {
            let vector = writer.reader().reconstruct(11).unwrap();
            writer.remove_ids(&IdSelector::range(11..12)).unwrap();
            writer.add_with_ids(&[9], rows(&vector, DIM)).unwrap();
        }),
        ("a", |writer| writer.set_note(b"another").unwrap()),
        ("a", |writer| writer.set_search_defaults(&nprobe(2)).unwrap()),
        ("k", |writer| {
            let vector = writer.reader().reconstruct(1).unwrap();
            writer.remove_keys(&["y"]).unwrap();
            writer.add_with_keys(&["Y"], rows(&vector, DIM)).unwrap();
        }),
    ];
    let mut seen = vec![digest(&store, "a"), digest(&store, "k")];
    for (index, edit) in edits {
        change(&store, index, edit);
        let now = digest(&store, index);
        assert!(!seen.contains(&now));
        seen.push(now);
    }
}

#[test]
fn stores_that_differ_are_said_to() {
    let (one, other) = (memory(), memory());
    fill(&one);
    fill(&other);
    change(&other, "k", |writer| writer.remove_keys(&["x"]).unwrap());
    create(&one, "here", &spec("Flat", DIM, Metric::L2));
    create(&other, "there", &spec("Flat", DIM, Metric::L2));
    let report = same(&one, &other);
    let expected = CompareReport {
        equal: vec!["a".into()],
        different: vec!["k".into()],
        only_here: vec!["here".into()],
        only_there: vec!["there".into()],
    };
    assert_eq!(report, expected);
    assert!(!report.is_equal());
}

#[test]
fn a_backup_is_checked_and_restored() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let store = memory();
    fill(&store);
    let none = &mut Observer::none();
    let report = store.backup_checked(at("copy"), none).unwrap();
    assert_eq!((report.indexes, report.rows), (2, 403));
    let bytes = fs::read(at("copy")).unwrap();
    assert_eq!(Store::restore(at("copy"), at("again"), none).unwrap().rows, 403);
    assert!(same(&store, &Store::open(at("again")).unwrap()).is_equal());
    assert!(fs::read(at("copy")).unwrap() == bytes, "the backup was written");
    assert!(matches!(Store::restore(at("copy"), at("again"), none), Err(Error::Exists { .. })));
    assert!(matches!(Store::restore(at("none"), at("new"), none), Err(Error::NotFound { .. })));
    // A backup with a bad byte is refused, and no file is made.
    assert!(Store::verify_pages(at("copy")).unwrap().is_ok());
    let mut bad = bytes.clone();
    let block = (0..bad.len()).rev().find(|at| bad[*at..].starts_with(b"VLF1")).unwrap();
    bad[block + 70] ^= 4;
    fs::write(at("bad"), &bad).unwrap();
    assert!(matches!(Store::restore(at("bad"), at("new"), none), Err(Error::Corrupt { .. })));
    assert!(!at("new").exists());
    let pages = Store::verify_pages(at("bad")).unwrap();
    assert!(!pages.is_ok());
    assert!(fs::read(at("bad")).unwrap() == bad, "the file was written");
}

/// The depths: a damaged block is none of the model's, a damaged centroid is both's.
#[test]
fn verification_goes_as_deep_as_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let store = Store::create(&path).unwrap();
    fill(&store);
    drop(store);
    let sound = fs::read(&path).unwrap();
    for (kind, depths) in [(1, [true, false]), (6, [false, false])] {
        let mut bytes = sound.clone();
        let frames: Vec<usize> = (0..bytes.len() - 64)
            .filter(|at| bytes[*at..].starts_with(b"VLF1") && bytes[at + 4] == kind)
            .collect();
        frames.iter().for_each(|at| bytes[at + 70] ^= 1);
        fs::write(&path, &bytes).unwrap();
        assert!(!Store::verify_pages(&path).unwrap().is_ok());
        let store = Store::open(&path).unwrap();
        let read = store.begin_read().unwrap();
        let verified = [VerifyDepth::Model, VerifyDepth::Values]
            .map(|depth| read.verify_to(depth, "a", &mut Observer::none()).unwrap().is_ok());
        assert_eq!(verified, depths, "kind {kind}");
    }
}
