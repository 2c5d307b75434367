//! kill -9, and then the store is opened again: by this process and by a fresh one.
//!
//! A child process commits without end and says so after each commit; the parent kills it in the middle of
//! whatever it is doing. The worry is a commit that was acknowledged and is gone, one that is there by half,
//! or a file that only the process that wrote it could read. Each commit changes two indexes, is made of
//! its number alone, and so can be replayed: what is found must be, to the last vector, the state after
//! the last acknowledged commit or the one that was in flight. Between commits the child compacts and makes backups, so
//! that some are killed in the middle of that: compaction must change nothing, and a backup is whole or not there.
//!
//! A case is one store that is killed once or twice: `VELLUM_CAMPAIGN_CASES=1000 cargo test --release --test kill`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod campaign;
#[path = "campaign/process.rs"]
mod process;

use process::{Process, Task, given, say, task};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use vellum::{
    ClusteringParams, Durability, Error, IdSelector, IndexSpec, IndexWriter, Metric, Observer, Rows,
    SearchParams, Store, TrainParams,
};

const DIM: usize = 12;

/// How the store is opened, in all processes of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    Quick,
    Walk,
    /// Commits are not durable until every fourth one is flushed.
    Flushed,
}

impl Setting {
    fn of(name: &str) -> Self {
        [Setting::Quick, Setting::Walk, Setting::Flushed]
            .into_iter()
            .find(|setting| format!("{setting:?}") == name)
            .unwrap()
    }

    fn open(self, path: &Path) -> Store {
        let durability = if self == Setting::Flushed { Durability::None } else { Durability::Immediate };
        Store::builder()
            .quick_repair(self != Setting::Walk)
            .durability(durability)
            .load_bytes(8_000)
            .open_or_create(path)
            .unwrap()
    }
}

/// xorshift: a commit is made of its number.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// Vector number `n`; small whole components, so that distances are exact.
fn vector(n: u64) -> Vec<f32> {
    let mut random = Random(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    (0..DIM).map(|_| random.below(15) as f32 - 7.0).collect()
}

fn vectors(numbers: impl Iterator<Item = u64>) -> Vec<f32> {
    numbers.flat_map(vector).collect()
}

/// What index `data` holds: the number of each id's vector.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    rows: BTreeMap<u64, u64>,
    next_id: u64,
    trained: bool,
}

impl Model {
    fn after(commits: u64) -> Self {
        let mut model = Model::default();
        (0..commits).for_each(|n| model.change(n, None));
        model
    }

    /// The changes of commit `n`, done to the model and, if given, to the index.
    fn change(&mut self, n: u64, mut writer: Option<&mut IndexWriter<'_>>) {
        let mut random = Random((n + 1).wrapping_mul(0x2545_f491_4f6c_dd1d));
        for step in 0..1 + random.below(3) {
            let base = n * 1000 + step * 300;
            match random.below(8) {
                0..=3 => {
                    let count = 1 + random.below(200);
                    let rows = vectors(base..base + count);
                    let ids = self.next_id..self.next_id + count;
                    if let Some(writer) = &mut writer {
                        assert_eq!(writer.add(Rows::new(&rows, DIM).unwrap()).unwrap(), ids);
                    }
                    ids.for_each(|id| {
                        self.rows.insert(id, base + id - self.next_id);
                    });
                    self.next_id += count;
                }
                4 | 5 => {
                    let ids: Vec<u64> =
                        self.rows.keys().copied().filter(|id| id % 7 == random.below(7)).collect();
                    if let Some(writer) = &mut writer {
                        let removed = writer.remove_ids(&IdSelector::batch(ids.iter().copied())).unwrap();
                        assert_eq!(removed, ids.len() as u64);
                    }
                    ids.iter().for_each(|id| {
                        self.rows.remove(id);
                    });
                }
                6 => {
                    let ids: Vec<u64> = self.rows.keys().copied().filter(|id| id % 5 == n % 5).collect();
                    if let Some(writer) = &mut writer {
                        let rows = vectors(ids.iter().map(|id| base + id));
                        writer.update_vectors(&ids, Rows::new(&rows, DIM).unwrap()).unwrap();
                    }
                    ids.iter().for_each(|id| {
                        self.rows.insert(*id, base + id);
                    });
                }
                _ if self.rows.len() >= 8 => {
                    let clustering = ClusteringParams { niter: 3, ..ClusteringParams::default() };
                    let params = TrainParams { clustering, ..TrainParams::default() };
                    if let Some(writer) = &mut writer {
                        writer.train_stored(&params, &mut Observer::none()).unwrap();
                    }
                    self.trained = true;
                }
                _ => {}
            }
        }
    }
}

/// Commits so far: each adds one row to the index `count`.
fn commits(store: &Store) -> u64 {
    match store.begin_read().unwrap().index("count") {
        Ok(reader) => reader.len(),
        Err(Error::UnknownIndex { .. }) => 0,
        Err(e) => panic!("{e}"),
    }
}

/// Where a child puts its backups.
fn backup_of(path: &Path) -> PathBuf {
    path.with_extension("backup")
}

/// The child of the commit tests: commits for ever, and says so; or aborts, and says the same.
fn commit_for_ever(path: &Path, setting: Setting, lie: bool) {
    let store = setting.open(path);
    let first = commits(&store);
    let mut model = Model::after(first);
    for n in first.. {
        let txn = store.begin_write().unwrap();
        if n == 0 {
            let spec = IndexSpec::ivf(DIM, Metric::L2, 8).with_block_order(0);
            txn.create_index("data", &spec).unwrap();
            txn.create_index("count", &IndexSpec::flat(1, Metric::L2)).unwrap();
        }
        let mut before = lie.then(|| model.clone());
        model.change(n, Some(&mut txn.index("data").unwrap()));
        txn.index("count").unwrap().add(Rows::one(&[n as f32]).unwrap()).unwrap();
        if lie && n > 1 {
            txn.abort().unwrap();
            model = before.take().unwrap();
            say(n + 1);
            continue;
        }
        txn.commit().unwrap();
        if setting != Setting::Flushed {
            say(n + 1);
        } else if n % 4 == 3 {
            store.flush().unwrap();
            say(n + 1);
        }
        if n % 5 == 2 {
            store.compact().unwrap();
        }
        if n % 5 == 4 {
            // There may be none yet.
            let _ = fs::remove_file(backup_of(path));
            store.backup(backup_of(path), &mut Observer::none()).unwrap();
        }
    }
}

/// The whole store, compared with the replayed history; how many commits it holds. A backup as well.
fn check(path: &Path, setting: Setting) -> u64 {
    if backup_of(path).exists() {
        holds(&setting.open(&backup_of(path)));
    }
    holds(&setting.open(path))
}

fn holds(store: &Store) -> u64 {
    let n = commits(store);
    if n == 0 {
        return 0;
    }
    let model = Model::after(n);
    let txn = store.begin_read().unwrap();
    for index in ["data", "count"] {
        let report = txn.verify(index, &mut Observer::none()).unwrap();
        assert!(report.is_ok(), "{index} after {n} commits: {report:?}");
    }
    let reader = txn.index("data").unwrap();
    let ids: Vec<u64> = model.rows.keys().copied().collect();
    assert_eq!(reader.ids().unwrap(), ids, "after {n} commits");
    assert_eq!(reader.is_trained(), model.trained);
    let rows = vectors(model.rows.values().copied());
    assert!(reader.reconstruct_batch(&ids).unwrap() == rows, "vectors after {n} commits");
    for (id, number) in model.rows.iter().step_by(97) {
        let found = reader.search(&vector(*number), 1, &SearchParams::new().nprobe(8)).unwrap();
        assert!(found[0].distance == 0.0 && found[0].id <= *id, "{found:?}, expected {id} or a twin");
    }
    n
}

/// Where the other processes begin.
#[test]
#[ignore = "the child process of the other tests"]
fn child() {
    let path = PathBuf::from(given("PATH"));
    let setting = Setting::of(&given("SETTING"));
    match task().as_str() {
        "commit" => commit_for_ever(&path, setting, false),
        "lie" => commit_for_ever(&path, setting, true),
        "check" => say(check(&path, setting)),
        "load" => load_for_ever(&path, setting),
        "unfinished" => say(unfinished(&path, setting)),
        other => panic!("{other}"),
    }
}

fn start(task: &str, path: &Path, setting: Setting) -> Process {
    Task::new(task).give_path("PATH", path).give("SETTING", format!("{setting:?}")).start()
}

/// Waits for `count` acknowledgements and a moment longer, kills; the last number acknowledged.
fn kill_after(mut process: Process, count: u64, spins: u64) -> u64 {
    let mut last = None;
    for _ in 0..count {
        last = Some(process.said().expect("the child died by itself"));
    }
    (0..spins).for_each(|_| std::hint::spin_loop());
    let last = process.kill().or(last);
    last.map_or(0, |n| n.parse().unwrap())
}

/// The answer of a process that ends by itself.
fn result(process: Process) -> u64 {
    process.answer().unwrap().parse().unwrap()
}

/// One store, killed once or twice while it commits; how many commits that were in flight are there.
fn kill_while_committing(task: &str, setting: Setting, chance: &mut campaign::Random) -> Result<u64, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kill.vellum");
    // The flush before the kill, and at most the next one with the four commits before it.
    let in_flight = if setting == Setting::Flushed { 4 } else { 1 };
    let mut survived = 0;
    for round in 0..1 + chance.below(2) {
        let process = start(task, &path, setting);
        let acknowledged = kill_after(process, 1 + chance.below(7), chance.below(2_000_000));
        // Whoever comes first does the recovery.
        let (found, again) = if chance.one_in(2) {
            let found = check(&path, setting);
            (found, result(start("check", &path, setting)))
        } else {
            let found = result(start("check", &path, setting));
            (found, check(&path, setting))
        };
        if found != again || !(acknowledged..=acknowledged + in_flight).contains(&found) {
            return Err(format!(
                "{setting:?}, kill {round}: {found} and {again} commits, {acknowledged} acknowledged"
            ));
        }
        survived += found - acknowledged;
    }
    Ok(survived)
}

#[test]
fn no_acknowledged_commit_is_lost() {
    let survived = AtomicU64::new(0);
    let outcome = campaign::run("kill -9", 50, |case, chance| {
        let setting = [Setting::Quick, Setting::Walk, Setting::Flushed][case as usize % 3];
        survived.fetch_add(kill_while_committing("commit", setting, chance)?, Ordering::Relaxed);
        Ok(())
    });
    println!("kill -9: 0 lost commits, {} in flight survived", survived.into_inner());
    outcome.expect_clean();
}

/// The comparison has teeth: a child that acknowledges what it aborts is found out.
#[test]
fn a_lying_acknowledgement_is_noticed() {
    campaign::run_exactly("kill -9, planted", 4, |_, chance| {
        kill_while_committing("lie", Setting::Quick, chance).map(|_| ())
    })
    .expect_caught();
}

/// The child of the load tests: begins or resumes a load that never ends.
fn load_for_ever(path: &Path, setting: Setting) {
    let store = setting.open(path);
    let txn = store.begin_write().unwrap();
    if txn.indexes().unwrap().is_empty() {
        txn.create_index("data", &IndexSpec::flat(DIM, Metric::L2).with_block_order(0)).unwrap();
    }
    txn.commit().unwrap();
    let mut load = store.bulk_load("data").unwrap();
    let mut next = load.rows_done();
    loop {
        let rows = vectors(next..next + 30);
        load.add(Rows::new(&rows, DIM).unwrap()).unwrap();
        next += 30;
        say(load.rows_done());
    }
}

/// Rows of an unfinished load; its index can be verified, but not used.
fn unfinished(path: &Path, setting: Setting) -> u64 {
    let store = setting.open(path);
    let txn = store.begin_read().unwrap();
    let report = txn.verify("data", &mut Observer::none()).unwrap();
    assert!(report.is_ok(), "{report:?}");
    let Err(Error::Unfinished { rows, .. }) = txn.index("data") else {
        panic!("a load that was killed can be used")
    };
    let write = store.begin_write().unwrap();
    assert!(matches!(write.index("data"), Err(Error::Unfinished { .. })));
    assert_eq!(report.rows, rows);
    rows
}

/// A load that is killed several times, each time resumed, and finished in the end.
fn kill_while_loading(setting: Setting, chance: &mut campaign::Random) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("load.vellum");
    for _ in 0..1 + chance.below(3) {
        let process = start("load", &path, setting);
        let acknowledged = kill_after(process, 5 + chance.below(40), chance.below(1_000_000));
        let rows = unfinished(&path, setting);
        assert_eq!(result(start("unfinished", &path, setting)), rows);
        // A transaction of the load holds at least 8,000 bytes of vectors, and ends with a batch.
        let one = 8_000_u64.div_ceil(30 * DIM as u64 * 4) * 30;
        assert!((acknowledged..=acknowledged + one).contains(&rows), "{rows} of {acknowledged}");
    }
    let store = setting.open(&path);
    let mut load = store.bulk_load("data").unwrap();
    let done = load.rows_done();
    let rows = vectors(done..done + 1000);
    assert_eq!(load.add(Rows::new(&rows, DIM).unwrap()).unwrap(), done..done + 1000);
    load.finish().unwrap();
    drop(store);

    let store = setting.open(&path);
    let txn = store.begin_read().unwrap();
    let reader = txn.index("data").unwrap();
    let ids: Vec<u64> = (0..done + 1000).collect();
    assert_eq!(reader.ids().unwrap(), ids);
    assert!(reader.reconstruct_batch(&ids).unwrap() == vectors(0..done + 1000));
    assert!(txn.verify("data", &mut Observer::none()).unwrap().is_ok());
}

#[test]
fn a_killed_load_is_resumed() {
    campaign::run("kill -9 of a load", 6, |case, chance| {
        kill_while_loading([Setting::Quick, Setting::Walk][case as usize % 2], chance);
        Ok(())
    })
    .expect_clean();
}

#[test]
fn a_killed_load_can_be_thrown_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("discard.vellum");
    kill_after(start("load", &path, Setting::Quick), 20, 0);
    let rows = unfinished(&path, Setting::Quick);
    let store = Setting::Quick.open(&path);
    assert_eq!(store.discard_load("data").unwrap(), rows);
    assert!(matches!(store.discard_load("data"), Err(Error::Parameter { .. })));
    let txn = store.begin_write().unwrap();
    let mut writer = txn.index("data").unwrap();
    assert!(writer.is_empty());
    // Ids are never used twice, not even those of a load that was thrown away.
    assert_eq!(writer.add(Rows::one(&vector(0)).unwrap()).unwrap(), rows..rows + 1);
    drop(writer);
    txn.commit().unwrap();
    assert!(store.begin_read().unwrap().verify("data", &mut Observer::none()).unwrap().is_ok());
}
