//! Somebody else has the file, or the path is not what it seems. The worry is a second writer that is let in and tears the
//! store, a lock that outlives its process and keeps everybody out, a file that is changed although it could not be opened, and
//! a call that hangs or panics on a directory, a link, a pipe or a device.
//!
//! Every case is one such situation; all are run every time. `tests/foreign.rs` has the files that are no stores.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed helper is a failed test"
)]

mod campaign;
#[path = "campaign/process.rs"]
mod process;
mod support;

use process::{Process, Task, given, say, task, wait};
use redb::StorageBackend;
use redb::backends::FileBackend;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{change, create, reader, rows, spec};
use vellum::*;

type Case = (&'static str, fn(&Path) -> std::result::Result<(), String>);

const CASES: [Case; 13] = [
    ("second writer", second_writer),
    ("stale lock", stale_lock),
    ("writers in turn", |folder| writers_in_turn(folder, "in turn")),
    ("read-only file", read_only),
    ("directory", directory),
    ("symbolic links", symbolic_links),
    ("hard link", hard_link),
    ("pipe, socket, device", not_files),
    ("file that is gone", gone),
    ("file that was replaced", replaced),
    ("two backups at once", two_backups),
    ("backup onto something", backup_onto),
    ("leftovers", leftovers),
];

#[test]
fn nobody_is_let_in_twice() {
    campaign::run_exactly("two processes", CASES.len() as u64, |number, _| {
        let (name, case) = CASES[number as usize];
        let folder = tempfile::tempdir().unwrap();
        case(folder.path()).map_err(|e| format!("{name}: {e}"))
    })
    .expect_clean();
}

/// Without the lock the writers tear the store, and the case of writers in turn says so.
#[test]
fn a_missing_lock_is_noticed() {
    campaign::run_exactly("two processes, planted", 1, |_, _| {
        let folder = tempfile::tempdir().unwrap();
        writers_in_turn(folder.path(), "unlocked")
    })
    .expect_caught();
}

fn store_at(path: &Path) -> Store {
    let store = Store::create(path).unwrap();
    create(&store, "i", &spec("Flat", 1, Metric::L2));
    change(&store, "i", |writer| writer.add(rows(&[1.0, 2.0, 4.0], 1)).unwrap());
    store
}

/// The rows of a store that is sound.
fn rows_of(path: &Path) -> u64 {
    let store = Store::open(path).unwrap();
    let txn = store.begin_read().unwrap();
    assert!(txn.verify("i", &mut Observer::none()).unwrap().is_ok());
    txn.index("i").unwrap().len()
}

/// All ways to open a path must fail, and with an error that `right` accepts.
fn refused(path: &Path, right: impl Fn(&Error) -> bool) -> std::result::Result<(), String> {
    let tries = [("open", Store::open(path)), ("open_or_create", Store::builder().open_or_create(path))];
    for (way, tried) in tries {
        match tried {
            Ok(_) => return Err(format!("{way} opened it")),
            Err(e) if right(&e) => {}
            Err(e) => return Err(format!("{way} says {e:?}")),
        }
    }
    match Store::create(path) {
        Err(Error::Exists { path: p }) if p == path => Ok(()),
        made => Err(format!("create says {made:?}")),
    }
}

fn check(holds: bool, what: &str) -> std::result::Result<(), String> {
    if holds { Ok(()) } else { Err(what.into()) }
}

fn start(task: &str, path: &Path) -> Process {
    Task::new(task).give_path("PATH", path).start()
}

#[test]
#[ignore = "the child process of the other tests"]
fn child() {
    let path = PathBuf::from(given("PATH"));
    match task().as_str() {
        // Holds the store with a transaction half done.
        "hold" => {
            let store = Store::open(&path).unwrap();
            let txn = store.begin_write().unwrap();
            let mut writer = txn.index("i").unwrap();
            writer.add(rows(&[8.0], 1)).unwrap();
            say("holding");
            wait();
            drop(writer);
            txn.commit().unwrap();
            say("committed");
        }
        "in turn" => say(take_turns(&path, |path| Store::open(path))),
        "unlocked" => say(take_turns(&path, |path| {
            let path = path.to_owned();
            Store::builder().open_backend(move || Unlocked::open(&path))
        })),
        "refused" => say(
            match refused(
                &path,
                |e| matches!(e, Error::Io(e) if [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem].contains(&e.kind())),
            ) {
                Ok(()) => "refused".into(),
                Err(what) => what,
            },
        ),
        other => panic!("{other}"),
    }
}

// ---------------------------------------------------------------- locks

fn second_writer(folder: &Path) -> std::result::Result<(), String> {
    let path = folder.join("s.vellum");
    drop(store_at(&path));
    let mut other = start("hold", &path);
    other.said().ok_or("the other process did not start")?;
    let bytes = fs::read(&path).unwrap();
    for _ in 0..20 {
        refused(&path, |e| matches!(e, Error::Locked))?;
    }
    check(fs::read(&path).unwrap() == bytes, "the file was changed")?;
    other.go_on();
    other.answer()?;
    check(rows_of(&path) == 4, "what the other process committed is not there")?;
    // And within one process.
    let store = Store::open(&path).unwrap();
    refused(&path, |e| matches!(e, Error::Locked))?;
    check(reader(&store, "i").len() == 4, "the first handle suffered")
}

/// A process that is killed while it holds the store, and writes, keeps nobody out.
fn stale_lock(folder: &Path) -> std::result::Result<(), String> {
    let path = folder.join("s.vellum");
    drop(store_at(&path));
    for _ in 0..3 {
        let mut other = start("hold", &path);
        other.said().ok_or("the other process did not start")?;
        other.kill();
        check(rows_of(&path) == 3, "what was not committed is there")?;
    }
    Ok(())
}

const WRITERS: u64 = 4;
const TURNS: u64 = 12;

/// Some processes write to one store as soon as they are let in; every commit must be there in the end.
fn writers_in_turn(folder: &Path, task: &str) -> std::result::Result<(), String> {
    let path = folder.join("s.vellum");
    drop(store_at(&path));
    let writers: Vec<Process> = (0..WRITERS).map(|_| start(task, &path)).collect();
    for writer in writers {
        writer.answer()?;
    }
    let rows = rows_of(&path);
    check(rows == 3 + WRITERS * TURNS, &format!("{rows} rows after {} commits", WRITERS * TURNS))
}

/// Adds a row in a store of its own, again and again, whenever nobody else has it; how often it was turned away.
fn take_turns(path: &Path, open: fn(&Path) -> Result<Store>) -> u64 {
    let mut turned_away = 0;
    for _ in 0..TURNS {
        let store = loop {
            match open(path) {
                Ok(store) => break store,
                Err(Error::Locked) => {
                    turned_away += 1;
                    std::thread::yield_now();
                }
                Err(e) => panic!("{e:?}"),
            }
        };
        change(&store, "i", |writer| writer.add(rows(&[16.0], 1)).unwrap());
    }
    turned_away
}

/// A file without locks.
#[derive(Debug)]
struct Unlocked(FileBackend);

impl Unlocked {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        FileBackend::new(file).map(Unlocked).map_err(io::Error::other)
    }
}

impl StorageBackend for Unlocked {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

// ---------------------------------------------------------------- paths

/// Root may write to what is read-only by its mode, so for root the file system is.
fn read_only(folder: &Path) -> std::result::Result<(), String> {
    let path = folder.join("s.vellum");
    drop(store_at(&path));
    let bytes = fs::read(&path).unwrap();
    let mut permissions = fs::metadata(&path).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&path, permissions).unwrap();
    let task = Task::new("refused").give_path("PATH", &path);
    let writable = OpenOptions::new().write(true).open(&path).is_ok();
    let task = if writable {
        let at = folder.to_str().unwrap();
        let script = format!("mount --bind {at} {at} && mount -o remount,ro,bind {at}");
        let unshare = ["unshare", "-rm"];
        let tried = Command::new(unshare[0]).args([unshare[1], "sh", "-c", &script]).output();
        if !tried.is_ok_and(|tried| tried.status.success()) {
            println!("two processes: no file can be made read-only for root here");
            return Ok(());
        }
        task.after(&script).within(&unshare)
    } else {
        task
    };
    let answer = task.answer()?;
    check(answer == "refused", &answer)?;
    check(fs::read(&path).unwrap() == bytes, "the file was changed")?;
    check(fs::read_dir(folder).unwrap().count() == 1, "something was left beside it")
}

fn directory(folder: &Path) -> std::result::Result<(), String> {
    let path = folder.join("d");
    fs::create_dir(&path).unwrap();
    refused(&path, |e| matches!(e, Error::Foreign { what } if what.contains("directory")))?;
    // A path that goes on behind a file.
    let file = folder.join("s.vellum");
    drop(store_at(&file));
    let beyond = file.join("x");
    check(matches!(Store::open(&beyond), Err(Error::Io(_))), "a path through a file")?;
    check(matches!(Store::create(&beyond), Err(Error::Io(_))), "a store within a file")?;
    check(rows_of(&file) == 3, "the file suffered")
}

fn symbolic_links(folder: &Path) -> std::result::Result<(), String> {
    let (path, link) = (folder.join("s.vellum"), folder.join("link"));
    let store = store_at(&path);
    symlink(&path, &link).unwrap();
    // The same file under another name has the same lock.
    refused(&link, |e| matches!(e, Error::Locked))?;
    drop(store);
    check(rows_of(&link) == 3, "a store behind a link")?;
    let exists = |made: Result<Store>| matches!(made, Err(Error::Exists { .. }));
    check(exists(Store::create(&link)), "a store was made over a link")?;

    let dangling = folder.join("dangling");
    symlink(folder.join("nothing"), &dangling).unwrap();
    refused(&dangling, |e| matches!(e, Error::NotFound { .. }))?;
    check(!folder.join("nothing").exists(), "something was made behind a link")?;
    let looped = folder.join("loop");
    symlink(&looped, &looped).unwrap();
    refused(&looped, |e| matches!(e, Error::Io(_)))?;
    let to_folder = folder.join("to a folder");
    symlink(folder, &to_folder).unwrap();
    refused(&to_folder, |e| matches!(e, Error::Foreign { .. }))?;
    check(fs::symlink_metadata(&link).unwrap().is_symlink() && rows_of(&path) == 3, "the link was replaced")
}

fn hard_link(folder: &Path) -> std::result::Result<(), String> {
    let (path, link) = (folder.join("s.vellum"), folder.join("link"));
    let store = store_at(&path);
    fs::hard_link(&path, &link).unwrap();
    refused(&link, |e| matches!(e, Error::Locked))?;
    drop(store);
    check(rows_of(&link) == 3 && rows_of(&path) == 3, "one of the two names")
}

fn not_files(folder: &Path) -> std::result::Result<(), String> {
    let (pipe, socket) = (folder.join("pipe"), folder.join("socket"));
    if Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()) {
        refused(&pipe, |e| matches!(e, Error::Foreign { .. } | Error::Io(_)))?;
    }
    let _listening = UnixListener::bind(&socket).unwrap();
    refused(&socket, |e| matches!(e, Error::Foreign { .. } | Error::Io(_)))?;
    for device in ["/dev/null", "/dev/zero"] {
        refused(Path::new(device), |e| matches!(e, Error::Foreign { .. } | Error::Io(_)))
            .map_err(|e| format!("{device}: {e}"))?;
    }
    Ok(())
}

// ---------------------------------------------------------------- files that others move

/// A file that lost its name is there until it is closed; opened again, it is not found.
fn gone(folder: &Path) -> std::result::Result<(), String> {
    let path = folder.join("s.vellum");
    let store = store_at(&path);
    fs::remove_file(&path).unwrap();
    change(&store, "i", |writer| writer.add(rows(&[8.0], 1)).unwrap());
    check(reader(&store, "i").len() == 4, "a store that lost its name")?;
    check(matches!(store.reopen(), Err(Error::NotFound { .. })), "reopened")?;
    check(matches!(store.begin_read(), Err(Error::NeedsReopen)), "read after that")?;
    drop(store_at(&path));
    store.reopen().map_err(|e| e.to_string())?;
    check(reader(&store, "i").len() == 3, "the new file")
}

fn replaced(folder: &Path) -> std::result::Result<(), String> {
    let path = folder.join("s.vellum");
    let store = store_at(&path);
    fs::write(folder.join("text"), "Dear diary").unwrap();
    fs::rename(folder.join("text"), &path).unwrap();
    change(&store, "i", |writer| writer.add(rows(&[8.0], 1)).unwrap());
    check(matches!(store.reopen(), Err(Error::Foreign { .. })), "reopened")?;
    drop(store);
    check(fs::read(&path).unwrap() == b"Dear diary", "the other file was changed")
}

fn two_backups(folder: &Path) -> std::result::Result<(), String> {
    let store = store_at(&folder.join("s.vellum"));
    let to = folder.join("backup");
    let made: Vec<Result<BackupReport>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| store.backup(&to, &mut Observer::none()))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let others = made.iter().filter(|made| matches!(made, Err(Error::Exists { .. }))).count();
    check(made.iter().filter(|made| made.is_ok()).count() == 1 && others == 3, &format!("{made:?}"))?;
    check(rows_of(&to) == 3 && fs::read_dir(folder).unwrap().count() == 2, "the backup")
}

fn backup_onto(folder: &Path) -> std::result::Result<(), String> {
    let path = folder.join("s.vellum");
    let store = store_at(&path);
    let dangling = folder.join("dangling");
    symlink(folder.join("nothing"), &dangling).unwrap();
    // Itself, another name of itself, a folder, a link to nothing.
    fs::hard_link(&path, folder.join("link")).unwrap();
    for onto in [&path, &folder.join("link"), &folder.to_owned(), &dangling] {
        let made = store.backup(onto, &mut Observer::none());
        check(matches!(made, Err(Error::Exists { .. })), &format!("{}: {made:?}", onto.display()))?;
    }
    check(!folder.join("nothing").exists(), "something was made behind a link")?;
    check(fs::read_dir(folder).unwrap().count() == 3, "something was left")?;
    drop(store);
    check(rows_of(&path) == 3, "the store suffered")
}

/// Files that killed processes left behind are in nobody's way, and are nobody's to delete.
fn leftovers(folder: &Path) -> std::result::Result<(), String> {
    let path = folder.join("s.vellum");
    for left in ["s.vellum.partial", "s.vellum.0123456789abcdef.partial", "s.vellum.lock", "backup.partial"] {
        fs::write(folder.join(left), "left").unwrap();
    }
    let store = store_at(&path);
    store.backup(folder.join("backup"), &mut Observer::none()).map_err(|e| e.to_string())?;
    drop(store);
    check(rows_of(&path) == 3 && rows_of(&folder.join("backup")) == 3, "a store beside leftovers")?;
    check(fs::read_dir(folder).unwrap().count() == 6, "a leftover is gone, or there is a new one")
}
