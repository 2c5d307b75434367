//! Headers and list entries with good checksums and a wrong field: what `tests/verify.rs` cannot make. The worry is a
//! field that nobody compares with anything, so that its wrong value passes for a whole index; each is made wrong in
//! turn, and the report must name the table that it stands in.

use super::*;
use crate::Rerank;
use crate::storage::lists::store_entries;
use crate::storage::{load_header, open_write};
use crate::{IndexSpec, Metric, Rows, Store, TrainParams};
use redb::Database;
use redb::backends::InMemoryBackend;
use std::sync::Arc;

const DIM: usize = 2;

/// A field and how it is made wrong.
type Wrong<T> = (&'static str, fn(&mut T));

/// An index of two lists and 40 rows, of which 5 are free again.
fn lived_in() -> Arc<Database> {
    lived_in_as("IVF2,Flat")
}

/// The same, each vector four times where equal ones share entries.
fn lived_in_as(text: &str) -> Arc<Database> {
    let db = Arc::new(Database::builder().create_with_backend(InMemoryBackend::new()).unwrap());
    let store = Store::builder().attach(db.clone()).unwrap();
    let txn = store.begin_write().unwrap();
    let spec = text.parse::<IndexSpec>().unwrap().with_dim(DIM).with_metric(Metric::L2);
    txn.create_index("a", &spec).unwrap();
    let mut writer = txn.index("a").unwrap();
    let data: Vec<f32> = (0..40 * DIM).map(|i| if text == "IVF2,Flat" { i } else { i % 20 } as f32).collect();
    writer.add(Rows::new(&data, DIM).unwrap()).unwrap();
    writer.train_stored(&TrainParams::default(), &mut Observer::none()).unwrap();
    writer.remove_ids(&crate::IdSelector::range(3..8)).unwrap();
    drop(writer);
    txn.commit().unwrap();
    db
}

fn verified(db: &Arc<Database>) -> VerifyReport {
    let store = Store::builder().attach(db.clone()).unwrap();
    store.begin_read().unwrap().verify("a", &mut Observer::none()).unwrap()
}

/// A report after one change of the header.
fn with_header(change: impl FnOnce(&mut Header)) -> VerifyReport {
    with_header_of(lived_in(), change)
}

fn with_header_of(db: Arc<Database>, change: impl FnOnce(&mut Header)) -> VerifyReport {
    let txn = db.begin_write().unwrap();
    let mut tables = open_write(&txn, "a").unwrap();
    let mut header = load_header(&tables.meta, "a/meta").unwrap();
    change(&mut header);
    tables.meta.insert(0, header.encode().as_slice()).unwrap();
    drop(tables);
    txn.commit().unwrap();
    verified(&db)
}

fn with_entry(list: u32, change: impl FnOnce(&mut ListEntry)) -> VerifyReport {
    let db = lived_in();
    let txn = db.begin_write().unwrap();
    let mut tables = open_write(&txn, "a").unwrap();
    let first = load_header(&tables.meta, "a/meta").unwrap().first_list;
    let mut entry = tables.list_entry(first + list).unwrap();
    change(&mut entry);
    store_entries(&mut tables, 1, vec![(first + list, entry)]).unwrap();
    drop(tables);
    txn.commit().unwrap();
    verified(&db)
}

fn names(report: &VerifyReport, table: &str) -> bool {
    report.problems.iter().any(|p| p.table == table || p.what.contains(table))
}

#[test]
fn a_whole_index_has_no_problem() {
    assert_eq!(with_header(|_| ()).problems, []);
    assert_eq!(with_entry(0, |_| ()).problems, []);
}

#[test]
fn every_wrong_field_of_a_header_is_noticed() {
    let fields: [Wrong<Header>; 19] = [
        ("uuid", |h| h.uuid[3] ^= 1),
        ("state", |h| h.state = State::Loading),
        ("writer_open", |h| h.writer_open = true),
        ("trained", |h| h.trained = false),
        ("keys", |h| h.keys = true),
        ("block_order", |h| h.block_order = 0),
        ("dim", |h| h.dim = 3),
        ("nlist", |h| h.nlist = 1),
        ("nlist of billions", |h| h.nlist = u32::MAX),
        ("first_list", |h| h.first_list += 1),
        ("first_list, the last one", |h| h.first_list = u32::MAX),
        ("ntotal", |h| h.ntotal += 1),
        ("ntotal of billions", |h| h.ntotal = u64::MAX),
        ("next_id", |h| h.next_id = 39),
        ("next_row, fewer", |h| h.next_row -= 1),
        ("next_row, more", |h| h.next_row += 1),
        // Nothing of that size may be allocated.
        ("next_row of billions", |h| h.next_row = u32::MAX),
        ("load_rows", |h| h.load_rows = 1),
        ("spec", |h| h.spec = "IVF3,Flat".into()),
    ];
    for (field, change) in fields {
        let report = with_header(change);
        assert!(names(&report, "a/meta"), "{field}: {:?}", report.problems);
    }
    // A change number that is too low, and a nonce of another change: the lists know better.
    assert!(names(&with_header(|h| h.seq -= 1), "a/meta"));
    assert!(names(&with_header(|h| h.nonce ^= 1), "a/meta"));
}

#[test]
fn what_a_header_says_of_shared_entries_is_checked() {
    let shared = || lived_in_as("IVF2,FlatDedup");
    assert_eq!(with_header_of(shared(), |_| ()).problems, []);
    let fields: [Wrong<Header>; 5] = [
        ("twins, more", |h| h.twins += 1),
        ("twins, none", |h| h.twins = 0),
        ("twins of billions", |h| h.twins = u32::MAX),
        ("pages, more", |h| h.twin_pages += 1),
        ("not shared", |h| (h.shared, h.twins, h.twin_pages) = (false, 0, 0)),
    ];
    for (field, change) in fields {
        let report = with_header_of(shared(), change);
        assert!(names(&report, "a/meta"), "{field}: {:?}", report.problems);
    }
    assert!(!with_header(|h| h.shared = true).is_ok());
}

/// What only a header knows: no other table could contradict it.
#[test]
fn some_fields_stand_alone() {
    let alone: [fn(&mut Header); 8] = [
        |h| h.nprobe = 7,
        |h| h.rerank = Some(Rerank::Rows(7)),
        |h| h.rerank = Some(Rerank::Bound(7.0)),
        |h| h.max_codes = 7,
        |h| h.seq += 1,
        |h| h.next_id += 1,
        |h| h.metric = Metric::InnerProduct,
        |h| h.model_version ^= 1,
    ];
    assert!(alone.into_iter().all(|change| with_header(change).is_ok()));
}

#[test]
fn every_wrong_field_of_a_list_entry_is_noticed() {
    let fields: [Wrong<ListEntry>; 8] = [
        ("n, more", |e| e.n += 1),
        ("n, fewer", |e| e.n -= 1),
        ("n of none", |e| e.n = 0),
        ("n of billions", |e| e.n = u32::MAX - 1),
        ("an absent entry", |e| e.n = u32::MAX),
        ("seq", |e| e.seq += 1 << 40),
        ("residual", |e| e.residual = f64::NAN),
        ("an infinite residual", |e| e.residual = f64::INFINITY),
    ];
    for (field, change) in fields {
        let report = with_entry(0, change);
        assert!(names(&report, "a/lists"), "{field}: {:?}", report.problems);
    }
    // An entry of the last change knows its nonce.
    assert!((0..2).any(|list| names(&with_entry(list, |e| e.nonce ^= 1), "a/lists")));
}

#[test]
fn reserved_bytes_of_a_list_entry_are_zero() {
    let entry = ListEntry { n: 3, digest: 6, seq: 4, nonce: 5, residual: 1.5 }.encode();
    for at in 32..48 {
        let mut used = entry;
        used[at] = 1;
        assert_eq!(ListEntry::decode(&used), None, "byte {at}");
    }
}
