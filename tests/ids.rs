//! Worry: an id that is assigned twice. Somebody who remembers the first vector by it would then be shown another, and
//! no check of one state of an index can see it.
//!
//! Noticed by assigning ids after everything that could make the index forget how far it had come: removal, reopening,
//! ids given by hand, `clear`, an aborted transaction, the end of the numbers.
#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod support;

use support::*;
use vellum::*;

const DIM: usize = 3;

/// Ids that vellum assigns are new: above every id there ever was, whether given, removed or forgotten by
/// `clear`.
#[test]
fn assigned_ids_are_never_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.vellum");
    let data = reals(5, DIM, 65);
    let five = rows(&data, DIM);
    let store = Store::create(&path).unwrap();
    create(&store, "i", &spec("IVF2,Flat", DIM, Metric::L2));
    let first = change(&store, "i", |writer| writer.add(five).unwrap());
    assert_eq!(first, 0..5);
    change(&store, "i", |writer| {
        writer.remove_ids(&IdSelector::Array(vec![3, 4])).unwrap();
        assert_eq!(writer.add(five.slice(0..1)).unwrap(), 5..6);
        writer.remove_ids(&IdSelector::All).unwrap();
        assert_eq!(writer.add(five.slice(0..0)).unwrap(), 6..6);
    });
    drop(store);
    let store = Store::open(&path).unwrap();
    change(&store, "i", |writer| {
        assert_eq!(writer.add(five).unwrap(), 6..11, "after reopening");
        writer.add_with_ids(&[100, 50], five.slice(0..2)).unwrap();
        assert_eq!(writer.add(five.slice(0..1)).unwrap(), 101..102, "above the ids given");
        writer.upsert(&[200, 7], five.slice(0..2)).unwrap();
        writer.clear().unwrap();
        assert_eq!(writer.add(five.slice(0..1)).unwrap(), 201..202, "after clear");
        // An id that was removed may be given again by hand.
        writer.add_with_ids(&[3], five.slice(0..1)).unwrap();
    });
    // An abandoned transaction gives its numbers back: nobody saw them.
    let txn = store.begin_write().unwrap();
    assert_eq!(txn.index("i").unwrap().add(five).unwrap(), 202..207);
    txn.abort().unwrap();
    assert_eq!(change(&store, "i", |writer| writer.add(five).unwrap()), 202..207);
    assert_sound(&store, "i");
}

/// The largest id that can be given leaves none to assign.
#[test]
fn the_end_of_the_ids() {
    let data = reals(2, DIM, 66);
    let two = rows(&data, DIM);
    let store = memory();
    create(&store, "i", &spec("IVF2,Flat", DIM, Metric::L2));
    change(&store, "i", |writer| {
        writer.add_with_ids(&[u64::MAX - 3], two.slice(0..1)).unwrap();
        assert_eq!(writer.add(two).unwrap(), u64::MAX - 2..u64::MAX);
        assert!(matches!(writer.add(two.slice(0..1)), Err(Error::IndexFull { what: "ids" })));
        assert!(matches!(writer.add(two), Err(Error::IndexFull { what: "ids" })));
        assert_eq!(writer.len(), 3);
        writer.add_with_ids(&[5], two.slice(0..1)).unwrap();
        let found = writer.reader().search(two.row(1), 1, &everywhere()).unwrap();
        assert_eq!(found[0].id, u64::MAX - 1);
    });
    assert_eq!(reader(&store, "i").ids().unwrap(), [5, u64::MAX - 3, u64::MAX - 2, u64::MAX - 1]);
    assert_sound(&store, "i");
}
