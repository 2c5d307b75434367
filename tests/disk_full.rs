//! The disk is full in the middle of every verb that writes. The worry is a panic, an error that does not say what
//! happened, a committed vector that is gone, a verb that was half done, a part of a file that is left behind and goes on
//! taking space, and a store that stays stuck when there is space again.
//!
//! Two media, each in a process of its own. A file-size limit, which fails each write beyond some place of the file (one that
//! is in use, too); and, where a small tmpfs can be mounted, a full file system, where a file may grow but not be
//! filled. The verb is done once where there is space, to know what it needs and what comes of it; then again where there is only
//! a part of that. Then space is made, the store opened again, compared, and the verb must do what it did the first time.
//!
//! `VELLUM_CAMPAIGN_CASES=400 cargo test --release --test disk_full`.
#![cfg(target_os = "linux")]
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

use process::{Task, given, say, task};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use support::{State, change, create, memory, reader, reals, rows, spec, state};
use vellum::*;

const DIM: usize = 24;
const ROWS: usize = 1500;

type Verb = fn(&Store, &Path) -> Result<()>;

const VERBS: [(&str, Verb); 8] = [
    ("add", |store, _| commit(store, |writer| writer.add(rows(&reals(900, DIM, 812), DIM)).map(drop))),
    ("train", |store, _| {
        let params = support::with(|clustering| clustering.niter = 3);
        commit(store, |writer| writer.train_stored(&params, &mut Observer::none()).map(drop))
    }),
    ("replace", |store, _| {
        commit(store, |writer| {
            writer.remove_ids(&IdSelector::range(0..1200))?;
            let ids: Vec<u64> = (600..1400).collect();
            writer.upsert(&ids, rows(&reals(800, DIM, 813), DIM)).map(drop)
        })
    }),
    ("compact", |store, _| store.compact().map(drop)),
    ("merge", |store, _| {
        let other = memory();
        let from = store.begin_read()?.index("i")?;
        create(&other, "i", from.spec());
        change(&other, "i", |writer| {
            writer.import_model(&from.export_model().unwrap(), &mut Observer::none()).unwrap();
            let ids: Vec<u64> = (50_000..50_900).collect();
            writer.add_with_ids(&ids, rows(&reals(900, DIM, 814), DIM)).unwrap();
        });
        drop(from);
        commit(store, |writer| {
            reader(&other, "i").copy_subset_to(writer, &Subset::All, &mut Observer::none()).map(drop)
        })
    }),
    ("load", |store, _| {
        if store.begin_read()?.index("l").is_ok_and(|loaded| !loaded.is_empty()) {
            return Ok(());
        }
        let data = reals(1000, DIM, 815);
        let mut load = store.bulk_load("l")?;
        for at in (load.rows_done() as usize..1000).step_by(50) {
            load.add(rows(&data, DIM).slice(at..1000.min(at + 50)))?;
        }
        load.finish()
    }),
    ("backup", |store, folder| store.backup(folder.join("new"), &mut Observer::none()).map(drop)),
    ("create", |_, folder| Store::create(folder.join("new")).map(drop)),
];

fn commit(store: &Store, verbs: impl FnOnce(&mut IndexWriter<'_>) -> Result<()>) -> Result<()> {
    let txn = store.begin_write()?;
    verbs(&mut txn.index("i")?)?;
    txn.commit()
}

/// What the store holds: the index that is there from the beginning, and the one that is loaded, if that is done.
fn contents(store: &Store) -> (State, Option<State>) {
    let txn = store.begin_read().unwrap();
    for index in ["i", "l"] {
        let report = txn.verify(index, &mut Observer::none()).unwrap();
        assert!(report.is_ok(), "{index}: {:?}", report.problems);
    }
    let loaded = match txn.index("l") {
        Ok(loaded) => Some(state(&loaded)),
        Err(Error::Unfinished { .. }) => None,
        Err(e) => panic!("{e}"),
    };
    (state(&txn.index("i").unwrap()), loaded)
}

fn same(a: &(State, Option<State>), b: &(State, Option<State>)) -> bool {
    let loaded = match (&a.1, &b.1) {
        (Some(a), Some(b)) => a.same_vectors(b),
        (a, b) => a.is_none() && b.is_none(),
    };
    loaded && a.0.same_vectors(&b.0)
}

fn open(path: &Path) -> Store {
    Store::builder().load_bytes(150 * DIM * 4).cache_bytes(1 << 20).open(path).unwrap()
}

fn fill(path: &Path) {
    let store = Store::create(path).unwrap();
    create(&store, "i", &spec("IVF8,SQfp16,RFlat", DIM, Metric::L2));
    create(&store, "l", &spec("Flat", DIM, Metric::L2));
    let data = reals(ROWS, DIM, 811);
    change(&store, "i", |writer| {
        support::train(writer, rows(&data, DIM));
        writer.add(rows(&data, DIM)).unwrap();
    });
    // What can be compacted.
    change(&store, "i", |writer| writer.remove_ids(&IdSelector::range(100..700)).unwrap());
}

/// What limits the disk.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Medium {
    FileSize,
    Tmpfs,
}

impl Medium {
    /// Leaves `permille` of what the verb takes: of the length of the largest file, or of the space on the file system.
    fn limit(self, folder: &Path, taken: &Taken, permille: u64) {
        match self {
            Medium::FileSize => {
                // redb fills a file from its beginning, and much of its length was never written to.
                let (lowest, highest) = (65_536, taken.length_after.max(taken.length_before));
                file_size_limit(&(lowest + (highest - lowest) * permille / 1000).to_string());
            }
            Medium::Tmpfs => {
                let left = (taken.space + 16_384) * permille / 1000;
                let ballast = vec![1; 1 << 16];
                let mut file = File::create(folder.join("ballast")).unwrap();
                let mut size = available(folder).saturating_sub(left);
                while size > 0 {
                    let piece = size.min(ballast.len() as u64);
                    file.write_all(&ballast[..piece as usize]).unwrap();
                    size -= piece;
                }
            }
        }
    }

    fn lift(self, folder: &Path) {
        match self {
            Medium::FileSize => file_size_limit("unlimited"),
            Medium::Tmpfs => fs::remove_file(folder.join("ballast")).unwrap(),
        }
    }
}

/// For this process, from now on.
fn file_size_limit(bytes: &str) {
    let this = std::process::id().to_string();
    let set = Command::new("prlimit").args(["--pid", &this, &format!("--fsize={bytes}:unlimited")]).status();
    assert!(set.unwrap().success(), "prlimit --fsize={bytes}");
}

fn available(folder: &Path) -> u64 {
    let out = Command::new("df").args(["--output=avail", "-B1"]).arg(folder).output().unwrap();
    String::from_utf8(out.stdout).unwrap().lines().nth(1).unwrap().trim().parse().unwrap()
}

/// What a verb takes where there is space enough.
struct Taken {
    length_before: u64,
    length_after: u64,
    space: u64,
}

/// Bytes of all files in a folder: lengths of the largest, and blocks of all.
fn sizes(folder: &Path) -> (u64, u64) {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().metadata().unwrap());
    files.fold((0, 0), |(length, blocks), meta| (length.max(meta.len()), blocks + 512 * meta.blocks()))
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "ballast")
        .collect();
    names.sort();
    names
}

/// Nothing of the store's, but a copy, holes and all.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("--sparse=always").args([from, to]).status().unwrap();
    assert!(copied.success());
}

/// The child's case; whether the limit was felt.
fn fill_the_disk(medium: Medium, verb: &str, permille: u64, lie: bool) -> bool {
    let folder = PathBuf::from(given("FOLDER"));
    let path = folder.join("s.vellum");
    let act = VERBS.iter().find(|(name, _)| *name == verb).unwrap().1;
    // Made once, for both passes; on the same file system.
    let (base, work) = (folder.join("base"), folder.join("work"));
    fs::create_dir(&work).unwrap();
    fill(&base);
    let path_of = |folder: &Path| folder.join(path.file_name().unwrap());

    copy(&base, &path_of(&work));
    let before_bytes = sizes(&work);
    let store = open(&path_of(&work));
    let before = contents(&store);
    act(&store, &work).unwrap();
    let after = contents(&store);
    let expected_names = names(&work);
    drop(store);
    let after_bytes = sizes(&work);
    let taken = Taken {
        length_before: before_bytes.0,
        length_after: after_bytes.0,
        space: after_bytes.1.saturating_sub(before_bytes.1),
    };
    fs::remove_dir_all(&work).unwrap();

    fs::create_dir(&work).unwrap();
    copy(&base, &path_of(&work));
    let store = open(&path_of(&work));
    // Not even the reader of a store whose disk is full sees anything else.
    let held = (verb != "compact").then(|| reader(&store, "i"));
    medium.limit(&folder, &taken, permille);
    let outcome = act(&store, &work);
    if let Some(held) = held {
        match held.ids() {
            Ok(ids) => assert_eq!(ids.len() as u64, before.0.len(), "a reader sees what was not committed"),
            Err(Error::Io(_) | Error::NeedsReopen) => {}
            Err(e) => panic!("a reader while the disk is full: {e:?}"),
        }
    }
    let felt = outcome.is_err();
    match &outcome {
        Ok(()) => assert_eq!(names(&work), expected_names),
        Err(Error::Io(_) | Error::NeedsReopen) => assert_eq!(names(&work), ["s.vellum"], "left behind"),
        Err(e) => panic!("{verb} says {e:?}"),
    }
    medium.lift(&folder);

    store.reopen().unwrap();
    let now = contents(&store);
    if outcome.is_ok() || lie {
        assert!(same(&now, &after), "{verb} was acknowledged and is not there");
    } else if verb == "load" {
        assert!(now.0.same_vectors(&before.0), "loading one index changed another");
    } else {
        // A commit that failed at its very end may be there all the same.
        assert!(same(&now, &before) || same(&now, &after), "{verb} was half done");
    }
    // There is space again: work goes on, once more or for the first time.
    if felt && !same(&now, &after) || verb == "compact" || (felt && ["backup", "create"].contains(&verb)) {
        act(&store, &work).unwrap();
    }
    assert!(same(&contents(&store), &after), "{verb} does something else when there is space again");
    assert_eq!(names(&work), expected_names);
    drop(store);
    assert!(same(&contents(&open(&path_of(&work))), &after));
    if verb == "backup" {
        assert!(same(&contents(&open(&work.join("new"))), &before));
    }
    felt
}

#[test]
#[ignore = "the child process of the other tests"]
fn child() {
    let medium = if given("MEDIUM") == "Tmpfs" { Medium::Tmpfs } else { Medium::FileSize };
    let permille = given("PERMILLE").parse().unwrap();
    say(fill_the_disk(medium, &given("VERB"), permille, task() == "lie"));
}

/// One case in a child; whether it was refused anything.
fn case(task: &str, medium: Medium, verb: &str, permille: u64) -> Result<bool, String> {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_str().unwrap();
    let task = Task::new(task).give("FOLDER", at).give("MEDIUM", format!("{medium:?}"));
    let task = task.give("VERB", verb).give("PERMILLE", permille);
    let task = match medium {
        // Without this the first write beyond the limit would kill the process.
        Medium::FileSize => task.after("trap '' XFSZ"),
        Medium::Tmpfs => {
            task.after(&format!("mount -t tmpfs -o size=24m none {at}")).within(&["unshare", "-rm"])
        }
    };
    let said = task.answer().map_err(|e| format!("{verb} with {permille} ‰ on {medium:?}: {e}"))?;
    Ok(said == "true")
}

fn tmpfs_can_be_had() -> bool {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("mount -t tmpfs -o size=1m none {}", folder.path().to_str().unwrap());
    let tried = Command::new("unshare").args(["-rm", "sh", "-c", &script]).output();
    tried.is_ok_and(|tried| tried.status.success())
}

#[test]
fn a_full_disk_harms_nothing() {
    let tmpfs = tmpfs_can_be_had();
    if !tmpfs {
        println!("disk full: no tmpfs can be mounted here, file-size limits alone");
    }
    let felt = AtomicU64::new(0);
    let outcome = campaign::run("disk full", 20, |number, random| {
        let (verb, _) = VERBS[number as usize % VERBS.len()];
        let medium =
            if tmpfs && number / VERBS.len() as u64 % 2 == 1 { Medium::Tmpfs } else { Medium::FileSize };
        let refused = case("fill", medium, verb, random.below(1000))?;
        felt.fetch_add(refused.into(), Ordering::Relaxed);
        Ok(())
    });
    let felt = felt.into_inner();
    println!("disk full: {felt} verbs were refused, the others had space enough");
    outcome.expect_clean();
    assert!(4 * felt >= outcome.cases, "{felt} refusals in {} cases: the limits are too wide", outcome.cases);
}

/// The comparison has teeth: a verb that failed and is taken for done is found out.
#[test]
fn a_refusal_that_is_taken_for_done_is_noticed() {
    campaign::run_exactly("disk full, planted", 3, |_, random| {
        case("lie", Medium::FileSize, "add", random.below(300)).map(|_| ())
    })
    .expect_caught();
}
