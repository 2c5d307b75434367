//! What is no store: every way of opening says so with the right error, and the file stays as it was.
//!
//! The worry is a file of somebody else's that is taken over (redb writes to a file as soon as it opens it, and
//! `open_or_create` might make a store where there is something), a store of a later version that is written to,
//! a half-made file that nobody can open or create again, and a panic on a file that was cut off. So
//! bytes are compared before and after each attempt, and the error must be the one that tells what is wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use std::collections::BTreeMap;
use std::env;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use vellum::{Error, IndexSpec, Metric, Observer, Result, Rows, SearchParams, Store};

const CATALOG: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("vellum/indexes");

fn meta(index: &str) -> String {
    format!("{index}/meta")
}

type Way = (&'static str, fn(&Path) -> Result<Store>);

/// The ways to open what is there. Each is given the same file.
const WAYS: [Way; 3] = [
    ("open", |path| Store::open(path)),
    ("open_or_create", |path| Store::builder().open_or_create(path)),
    ("open_backend", |path| {
        let path = path.to_owned();
        Store::builder().open_backend(move || {
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            FileBackend::new(file).map_err(io::Error::other)
        })
    }),
];

/// Tries all ways on a file of `bytes`; the errors, which `right` must accept, and nothing may have changed.
fn refused(bytes: &[u8], what: &str, right: impl Fn(&Error) -> bool) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.vellum");
    fs::write(&path, bytes).unwrap();
    for (way, open) in WAYS {
        match open(&path) {
            Ok(_) => panic!("{what}: {way} took it for a store"),
            Err(e) => assert!(right(&e), "{what}: {way} says {e:?}"),
        }
        assert!(fs::read(&path).unwrap() == bytes, "{what}: {way} changed the file");
    }
    let made = Store::create(&path);
    assert!(matches!(&made, Err(Error::Exists { path: p }) if *p == path), "{what}: create says {made:?}");
    assert!(fs::read(&path).unwrap() == bytes, "{what}: create changed the file");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{what}: something was left beside it");
}

fn foreign(e: &Error) -> bool {
    matches!(e, Error::Foreign { .. })
}

/// A closed store with two indexes of three numbers each.
fn store_bytes() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.vellum");
    let store = Store::create(&path).unwrap();
    let txn = store.begin_write().unwrap();
    for index in ["a", "b"] {
        txn.create_index(index, &IndexSpec::flat(1, Metric::L2)).unwrap();
        txn.index(index).unwrap().add(Rows::new(&[1.0, 2.0, 4.0], 1).unwrap()).unwrap();
    }
    txn.commit().unwrap();
    drop(store);
    fs::read(&path).unwrap()
}

/// The bytes of a redb file after `change`.
fn changed(bytes: &[u8], change: impl FnOnce(&redb::WriteTransaction)) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.redb");
    fs::write(&path, bytes).unwrap();
    let db = Database::create(&path).unwrap();
    let txn = db.begin_write().unwrap();
    change(&txn);
    txn.commit().unwrap();
    drop(db);
    fs::read(&path).unwrap()
}

#[test]
fn a_missing_file_is_not_found_and_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("no").join("a.vellum");
    assert!(matches!(Store::open(&path), Err(Error::NotFound { path: p }) if p == path));
    // There is no folder to make it in.
    assert!(matches!(Store::create(&path), Err(Error::Io(_))));
    assert!(matches!(Store::builder().open_or_create(&path), Err(Error::Io(_))));
    let path = folder.path().join("a.vellum");
    assert!(matches!(Store::open(&path), Err(Error::NotFound { path: p }) if p == path));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    drop(Store::builder().open_or_create(&path).unwrap());
    Store::open(&path).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_directory_is_foreign() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Store::open(folder.path()), Err(Error::Foreign { what }) if what.contains("directory")));
    assert!(matches!(Store::builder().open_or_create(folder.path()), Err(Error::Foreign { .. })));
    assert!(matches!(Store::create(folder.path()), Err(Error::Exists { .. })));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Nothing of vellum's leaves an empty file behind, so it is somebody else's. Only a backend that is empty
/// is a place for a new store.
#[test]
fn an_empty_file_is_foreign() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.vellum");
    fs::write(&path, b"").unwrap();
    for (_, open) in &WAYS[..2] {
        assert!(matches!(open(&path), Err(Error::Foreign { what }) if what == "it is empty"));
    }
    assert!(matches!(Store::create(&path), Err(Error::Exists { .. })));
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
}

#[test]
fn files_of_others_are_foreign() {
    let mut seed = 1u64;
    let mut noise = |n: usize| -> Vec<u8> {
        (0..n)
            .map(|_| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (seed >> 56) as u8
            })
            .collect()
    };
    for n in [1, 8, 9, 320, 4095, 4096, 4097, 70_000] {
        refused(&noise(n), &format!("{n} random bytes"), foreign);
        refused(&vec![0; n], &format!("{n} zeros"), foreign);
    }
    refused("Dear diary,\n".repeat(1000).as_bytes(), "a text", foreign);
    refused(b"SQLite format 3\0", "another database", foreign);
}

#[test]
fn other_redb_databases_are_foreign() {
    let other = changed(&[], |txn| {
        let mut table = txn.open_table(TableDefinition::<u64, u64>::new("accounts")).unwrap();
        (0..1000).for_each(|n| drop(table.insert(n, n * n).unwrap()));
    });
    refused(&other, "a redb database", foreign);
    let catalog = changed(&other, |txn| {
        txn.open_table(TableDefinition::<u64, u64>::new("vellum/indexes")).unwrap().insert(1, 1).unwrap();
    });
    refused(&catalog, "a catalog of other types", foreign);
    let multimap = changed(&other, |txn| {
        let table = redb::MultimapTableDefinition::<&str, &[u8]>::new("vellum/indexes");
        txn.open_multimap_table(table).unwrap().insert("", &b"x"[..]).unwrap();
    });
    refused(&multimap, "a catalog that is a multimap", foreign);
    for header in [&b""[..], b"vellum.s", b"vellum.x\x01\0\0\0\x01\0\0\0", &[0; 16], &[255; 17]] {
        let bytes = changed(&other, |txn| {
            txn.open_table(CATALOG).unwrap().insert("", header).unwrap();
        });
        refused(&bytes, &format!("a header of {header:?}"), foreign);
    }
    let without = changed(&store_bytes(), |txn| drop(txn.open_table(CATALOG).unwrap().remove("").unwrap()));
    refused(&without, "a store without its header", foreign);
}

/// A redb file that was not closed is repaired by opening it, which writes a commit: not if it is foreign.
#[test]
fn a_foreign_database_that_was_not_closed_is_not_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.redb");
    let db = Database::create(&path).unwrap();
    for n in 0..3 {
        let txn = db.begin_write().unwrap();
        txn.open_table(TableDefinition::<u64, u64>::new("accounts")).unwrap().insert(n, n).unwrap();
        txn.commit().unwrap();
    }
    let bytes = fs::read(&path).unwrap();
    drop(db);
    assert!(bytes != fs::read(&path).unwrap(), "it was copied while open");
    refused(&bytes, "a redb database that was not closed", foreign);
}

#[test]
fn a_store_that_was_not_closed_opens() {
    let folder = tempfile::tempdir().unwrap();
    for quick in [true, false] {
        let path = folder.path().join(format!("{quick}.vellum"));
        let store = Store::builder().quick_repair(quick).create(&path).unwrap();
        let txn = store.begin_write().unwrap();
        txn.create_index("a", &IndexSpec::flat(1, Metric::L2)).unwrap();
        txn.index("a").unwrap().add(Rows::new(&[1.0, 2.0, 4.0], 1).unwrap()).unwrap();
        txn.commit().unwrap();
        let copy = folder.path().join(format!("{quick}.copy"));
        fs::copy(&path, &copy).unwrap();
        let store = Store::open(&copy).unwrap();
        assert_eq!(store.begin_read().unwrap().index("a").unwrap().len(), 3);
        let txn = store.begin_write().unwrap();
        txn.index("a").unwrap().add(Rows::new(&[8.0], 1).unwrap()).unwrap();
        txn.commit().unwrap();
        drop(store);
        let store = Store::open(&copy).unwrap();
        assert_eq!(store.begin_read().unwrap().index("a").unwrap().len(), 4);
    }
}

#[test]
fn a_store_that_was_cut_off_is_corrupt() {
    let bytes = store_bytes();
    let mut lengths = vec![9, 10, 63, 64, 191, 192, 319, 320, 321, bytes.len() - 1];
    let pages = (1..bytes.len() / 4096).step_by(bytes.len() / 4096 / 24 + 1);
    lengths.extend(pages.flat_map(|page| [page * 4096 - 1, page * 4096, page * 4096 + 1]));
    for len in lengths {
        refused(
            &bytes[..len],
            &format!("{len} of {} bytes", bytes.len()),
            |e| matches!(e, Error::Corrupt { table, .. } if table == "(redb)"),
        );
    }
    for len in 1..9 {
        refused(&bytes[..len], &format!("{len} bytes"), foreign);
    }
}

#[test]
fn a_store_of_a_later_version_is_refused() {
    let header = [&b"vellum.s"[..], &7u32.to_le_bytes(), &7u32.to_le_bytes()].concat();
    let bytes = changed(&store_bytes(), |txn| {
        txn.open_table(CATALOG).unwrap().insert("", &header[..]).unwrap();
    });
    refused(&bytes, "a later store", |e| matches!(e, Error::NewerVersion { needed: 7, supported: 1 }));
}

#[test]
fn an_index_of_a_later_version_leaves_the_others_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.vellum");
    let later = |header: &mut [u8]| header[12..16].copy_from_slice(&9u32.to_le_bytes());
    let bytes = changed(&store_bytes(), |txn| {
        let name = meta("a");
        let mut table = txn.open_table(TableDefinition::<u64, &[u8]>::new(&name)).unwrap();
        let mut header = table.get(0).unwrap().unwrap().value().to_vec();
        later(&mut header);
        table.insert(0, header.as_slice()).unwrap();
    });
    fs::write(&path, bytes).unwrap();
    let store = Store::open(&path).unwrap();
    let newer = |e: Error| matches!(e, Error::NewerVersion { needed: 9, supported: 1 });
    let txn = store.begin_read().unwrap();
    assert_eq!(txn.indexes().unwrap(), ["a", "b"]);
    assert!(newer(txn.index("a").unwrap_err()));
    // It is not damaged, only unknown.
    assert!(newer(txn.verify("a", &mut Observer::none()).unwrap_err()));
    assert!(txn.verify("b", &mut Observer::none()).unwrap().is_ok());
    assert_eq!(txn.index("b").unwrap().search(&[1.9], 1, &SearchParams::new()).unwrap()[0].id, 1);
    let txn = store.begin_write().unwrap();
    assert!(newer(txn.index("a").unwrap_err()));
    assert!(newer(txn.damaged_index("a").unwrap_err()));
    txn.index("b").unwrap().add(Rows::new(&[9.0], 1).unwrap()).unwrap();
    txn.commit().unwrap();
    assert!(newer(store.bulk_load("a").unwrap_err()));
    assert_eq!(store.begin_read().unwrap().index("b").unwrap().len(), 4);
    assert!(newer(store.begin_read().unwrap().index("a").unwrap_err()));
}

#[test]
fn a_store_that_is_open_is_locked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.vellum");
    fs::write(&path, store_bytes()).unwrap();
    let store = Store::open(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    for (way, open) in WAYS {
        assert!(matches!(open(&path), Err(Error::Locked)), "{way}");
    }
    assert!(matches!(Store::create(&path), Err(Error::Exists { .. })));
    assert_eq!(child("refused", &path).wait().unwrap().code(), Some(0));
    assert!(fs::read(&path).unwrap() == bytes);
    assert_eq!(store.begin_read().unwrap().index("a").unwrap().len(), 3);
    drop(store);
    // And the other way round: the other process has it.
    let mut holder = child("hold", &path);
    let mut out = BufReader::new(holder.stdout.take().unwrap());
    wait_for(&mut out, "open");
    for (way, open) in WAYS {
        assert!(matches!(open(&path), Err(Error::Locked)), "{way}");
    }
    holder.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(holder.wait().unwrap().success());
    Store::open(&path).unwrap();
}

// ---- a process that dies while it makes a store ----

/// Killed wherever it happens to be while it makes stores, a process leaves each of them whole or not there.
#[test]
fn a_store_that_was_being_made_is_whole_or_not_there() {
    for round in 0..12 {
        let folder = tempfile::tempdir().unwrap();
        let mut maker = child("make", folder.path());
        let mut out = BufReader::new(maker.stdout.take().unwrap());
        wait_for(&mut out, &format!("made {round}"));
        maker.kill().unwrap();
        maker.wait().unwrap();
        for n in 0.. {
            let path = folder.path().join(format!("{n}.vellum"));
            let there = path.exists();
            assert!(there || n > round, "store {n} was made and is gone");
            let store = Store::builder().open_or_create(&path).unwrap();
            assert!(store.begin_read().unwrap().indexes().unwrap().is_empty());
            drop(store);
            Store::open(&path).unwrap();
            if !there {
                break;
            }
        }
    }
}

/// What a killed `create` leaves beside its file is in nobody's way.
#[test]
fn a_leftover_of_a_create_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.vellum");
    fs::write(folder.path().join("a.vellum.0123456789abcdef.partial"), b"redb").unwrap();
    drop(Store::create(&path).unwrap());
    Store::open(&path).unwrap();
    assert!(matches!(Store::create(&path), Err(Error::Exists { .. })));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

/// A medium that cannot be renamed is made in place: redb's empty database, if that is as far as it came, is
/// taken for one that was being made.
#[test]
fn a_backend_with_a_bare_database_is_a_new_store() {
    #[derive(Clone, Debug)]
    struct Shared(Arc<Mutex<Arc<InMemoryBackend>>>);
    impl Shared {
        fn now(&self) -> Arc<InMemoryBackend> {
            self.0.lock().unwrap().clone()
        }
    }
    impl StorageBackend for Shared {
        fn len(&self) -> io::Result<u64> {
            self.now().len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.now().read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.now().set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.now().sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.now().write(offset, data)
        }
    }
    let medium = Shared(Arc::new(Mutex::new(Arc::new(InMemoryBackend::new()))));
    drop(Database::builder().create_with_backend(medium.clone()).unwrap());
    assert!(medium.len().unwrap() > 0);
    let open = || {
        let medium = medium.clone();
        Store::builder().open_backend(move || Ok(medium.clone()))
    };
    drop(open().unwrap());
    let db = Database::builder().create_with_backend(medium.clone()).unwrap();
    assert!(db.begin_read().unwrap().open_table(CATALOG).unwrap().get("").unwrap().is_some());
    drop(db);
    open().unwrap();
}

/// The same in a file is a database of somebody's who has not put anything into it yet.
#[test]
fn a_file_with_a_bare_database_is_foreign() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.redb");
    drop(Database::create(&path).unwrap());
    let bytes = fs::read(&path).unwrap();
    for (way, open) in &WAYS[..2] {
        assert!(matches!(open(&path), Err(Error::Foreign { .. })), "{way}");
        assert!(fs::read(&path).unwrap() == bytes, "{way}");
    }
}

// ---- children ----

fn child(role: &str, path: &Path) -> std::process::Child {
    Command::new(env::current_exe().unwrap())
        .args(["as_child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env("VELLUM_FOREIGN_ROLE", role)
        .env("VELLUM_FOREIGN_PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_for(out: &mut impl BufRead, line: &str) {
    for said in out.lines() {
        if said.unwrap() == line {
            return;
        }
    }
    panic!("the child ended before it said `{line}`");
}

fn say(line: &str) {
    let mut out = io::stdout().lock();
    writeln!(out, "\n{line}").unwrap();
    out.flush().unwrap();
}

#[test]
#[ignore = "the child process of other tests"]
fn as_child() {
    let path = PathBuf::from(env::var_os("VELLUM_FOREIGN_PATH").unwrap());
    let roles: BTreeMap<&str, fn(&Path)> = BTreeMap::from([
        (
            "refused",
            (|path| {
                for (way, open) in WAYS {
                    assert!(matches!(open(path), Err(Error::Locked)), "{way}");
                }
            }) as fn(&Path),
        ),
        ("hold", |path| {
            let _store = Store::open(path).unwrap();
            say("open");
            io::stdin().read_exact(&mut [0]).unwrap();
        }),
        ("make", |folder| {
            for n in 0.. {
                drop(Store::create(folder.join(format!("{n}.vellum"))).unwrap());
                say(&format!("made {n}"));
            }
        }),
    ]);
    roles[env::var("VELLUM_FOREIGN_ROLE").unwrap().as_str()](&path);
}
