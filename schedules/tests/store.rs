//! Readers beside a writer, each lock and each atomic of them in an order that a scheduler chose.
//!
//! It breaks where a reader is handed another state than its transaction's, a pin is taken over of what a commit has
//! changed, a dropped index leaves something behind, the budget is exceeded or leaks, a store that was opened again
//! serves what belongs to the handle before, or two locks wait for each other.
//! A case is one schedule of a small story: a writer commits a few changes to two indexes that do not fit the memory
//! together, drops one, makes it again, undoes a change, compacts the store or opens it again; readers come and go, some
//! stay. Each commit also sets a clock, so a reader knows what it must see.

#[path = "../../tests/campaign/mod.rs"]
#[allow(unreachable_pub)]
mod campaign;

use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use shuttle::scheduler::{PctScheduler, RandomScheduler, RoundRobinScheduler, Scheduler};
use shuttle::{Config, Runner, thread};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, Once};
use vellum::*;

const DIM: usize = 2;
const READERS: usize = 2;
const COMMITS: usize = 3;
/// Rows of a new index: with lists of 4 KiB, so that it has pages and blocks enough to take some over and others not.
const ROWS: u64 = 500;

type Rows2 = BTreeMap<u64, [f32; DIM]>;
/// The two indexes after a commit.
type State = [Option<Rows2>; 2];

const NAMES: [&str; 2] = ["a", "b"];

/// A store and what was committed to it. The lock is the standard library's and is held for no other: it is no part of the
/// schedule.
#[derive(Clone)]
struct Story {
    store: Store,
    history: Arc<Mutex<Vec<State>>>,
    cache_bytes: u64,
}

/// Memory that outlives the handle, so that the store can be opened again.
#[derive(Clone, Debug)]
struct Memory(Arc<InMemoryBackend>);

impl StorageBackend for Memory {
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

/// Chance that follows from the case alone.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }

    fn reader(&self, number: u64) -> Self {
        Dice(self.0 ^ (number + 1) << 40)
    }

    fn vector(&mut self) -> [f32; DIM] {
        [self.below(5) as f32, self.below(5) as f32]
    }
}

impl Story {
    fn new(dice: &mut Dice) -> Self {
        // Nothing fits, one index fits, both do: an index of 500 rows pins about 16 KiB.
        let cache_bytes = [0, 26_000, 80_000][dice.below(3) as usize];
        let memory = Memory(Arc::new(InMemoryBackend::new()));
        let store =
            Store::builder().cache_bytes(cache_bytes).open_backend(move || Ok(memory.clone())).unwrap();
        let story = Story { store, history: Arc::default(), cache_bytes: cache_bytes as u64 };
        let txn = story.store.begin_write().unwrap();
        txn.create_index("clock", &IndexSpec::flat(1, Metric::L2)).unwrap();
        txn.index("clock").unwrap().add(Rows::one(&[0.0]).unwrap()).unwrap();
        let state = NAMES.map(|name| Some(Story::create(&txn, name, dice)));
        story.history.lock().unwrap().push(state);
        txn.commit().unwrap();
        story
    }

    fn create(txn: &WriteTxn, name: &str, dice: &mut Dice) -> Rows2 {
        txn.create_index(name, &IndexSpec::flat(DIM, Metric::L2).with_block_order(0)).unwrap();
        let rows: Vec<[f32; DIM]> = (0..ROWS).map(|_| dice.vector()).collect();
        txn.index(name).unwrap().add(Rows::new(rows.as_flattened(), DIM).unwrap()).unwrap();
        (0..).zip(rows).collect()
    }

    fn write(&self, mut dice: Dice) {
        for commit in 1..=COMMITS {
            self.commit(commit, &mut dice);
            match dice.below(6) {
                0 => self.undo(&mut dice),
                1 => self.compact(),
                2 => self.reopen(),
                _ => (),
            }
            self.check_budget();
        }
    }

    fn commit(&self, commit: usize, dice: &mut Dice) {
        let mut state = self.history.lock().unwrap()[commit - 1].clone();
        let txn = self.store.begin_write().unwrap();
        let which = dice.below(2) as usize;
        state[which] = self.change(&txn, NAMES[which], state[which].take(), dice);
        txn.index("clock").unwrap().upsert(&[0], Rows::one(&[commit as f32]).unwrap()).unwrap();
        self.history.lock().unwrap().push(state);
        txn.commit().unwrap();
    }

    /// Changes something and takes it back.
    fn undo(&self, dice: &mut Dice) {
        let state = self.history.lock().unwrap().last().cloned().unwrap();
        let txn = self.store.begin_write().unwrap();
        let which = dice.below(2) as usize;
        self.change(&txn, NAMES[which], state[which].clone(), dice);
        txn.index("clock").unwrap().upsert(&[0], Rows::one(&[-1.0]).unwrap()).unwrap();
        txn.abort().unwrap();
    }

    fn compact(&self) {
        let done = self.store.compact();
        assert!(matches!(done, Ok(_) | Err(Error::InUse { .. })), "{done:?}");
    }

    /// Asks until all readers of the old handle are gone.
    fn reopen(&self) {
        while let Err(e) = self.store.reopen() {
            assert!(matches!(e, Error::Locked), "{e}");
            thread::yield_now();
        }
    }

    fn change(&self, txn: &WriteTxn, name: &str, rows: Option<Rows2>, dice: &mut Dice) -> Option<Rows2> {
        let Some(mut rows) = rows else { return Some(Story::create(txn, name, dice)) };
        let id = dice.below(ROWS);
        match dice.below(6) {
            0 => {
                txn.drop_index(name).unwrap();
                return None;
            }
            1 => {
                txn.drop_index(name).unwrap();
                return Some(Story::create(txn, name, dice));
            }
            2 => {
                txn.index(name).unwrap().remove_ids(&IdSelector::range(id..id + 9)).unwrap();
                rows.retain(|other, _| !(id..id + 9).contains(other));
            }
            _ => {
                let vector = dice.vector();
                txn.index(name)
                    .unwrap()
                    .upsert(&[id, 700], Rows::new(&[vector, vector].concat(), DIM).unwrap())
                    .unwrap();
                rows.extend([(id, vector), (700, vector)]);
            }
        }
        Some(rows)
    }

    fn read(&self, mut dice: Dice) {
        let mut held: Option<(usize, ReadTxn)> = None;
        for _ in 0..3 {
            let txn = match self.store.begin_read() {
                Err(Error::NeedsReopen) => {
                    held = None;
                    thread::yield_now();
                    continue;
                }
                txn => txn.unwrap(),
            };
            let commit = txn.index("clock").unwrap().reconstruct(0).unwrap()[0] as usize;
            self.compare(commit, &txn, &mut dice);
            if let Some((commit, txn)) = &held {
                self.compare(*commit, txn, &mut dice);
            }
            held = held.filter(|_| dice.below(2) == 0).or(Some((commit, txn)));
            self.check_budget();
        }
    }

    fn compare(&self, commit: usize, txn: &ReadTxn, dice: &mut Dice) {
        let which = dice.below(2) as usize;
        let expected = self.history.lock().unwrap()[commit][which].clone();
        let reader = match (txn.index(NAMES[which]), &expected) {
            (Ok(reader), Some(_)) => reader,
            (Err(Error::UnknownIndex { .. }), None) => return,
            (found, _) => panic!("commit {commit}: {:?}", found.map(|reader| reader.len())),
        };
        let rows = expected.unwrap_or_default();
        assert_eq!(reader.len() as usize, rows.len(), "commit {commit}");
        let query = dice.vector();
        let far = |row: &[f32; DIM]| row.iter().zip(&query).map(|(x, q)| (x - q) * (x - q)).sum::<f32>();
        let mut nearest: Vec<(f32, u64)> = rows.iter().map(|(id, row)| (far(row), *id)).collect();
        nearest.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let found = reader.search(&query, 40, &SearchParams::new()).unwrap();
        let found: Vec<(f32, u64)> = found.iter().map(|n| (n.distance, n.id)).collect();
        assert_eq!(found, nearest[..40], "commit {commit}, index {}", NAMES[which]);
        let id = dice.below(ROWS);
        let there = rows.get(&id).map(|row| row.to_vec());
        assert_eq!(reader.reconstruct(id).ok(), there, "commit {commit}");
    }

    fn check_budget(&self) {
        let pinned = self.store.stats().pinned_bytes;
        assert!(pinned <= self.cache_bytes, "{pinned} bytes pinned of {}", self.cache_bytes);
    }

    /// When everybody is gone and so are the indexes, nothing is kept and no byte is pinned or reserved.
    fn end(&self) {
        let txn = self.store.begin_write().unwrap();
        txn.indexes().unwrap().iter().for_each(|name| txn.drop_index(name).unwrap());
        txn.commit().unwrap();
        let [snapshots, models, reserved] = self.store.kept();
        let pinned = self.store.stats().pinned_bytes;
        assert_eq!((snapshots, models, reserved, pinned), (0, 0, 0, 0), "kept for nobody");
    }
}

/// Who does what is settled, when is not.
fn tell(seed: u64) {
    let mut dice = Dice(seed);
    let story = Story::new(&mut dice);
    let mut tasks = Vec::new();
    for number in 0..READERS as u64 {
        let (story, dice) = (story.clone(), dice.reader(number));
        tasks.push(thread::spawn(move || story.read(dice)));
    }
    story.write(dice);
    tasks.into_iter().for_each(|task| task.join().unwrap());
    story.end();
}

/// The same changes and as many readers, one after the other.
fn tell_in_turn(seed: u64) {
    let mut dice = Dice(seed);
    let story = Story::new(&mut dice);
    for commit in 1..=COMMITS {
        story.read(dice.reader(0));
        story.commit(commit, &mut dice);
        story.read(dice.reader(1));
    }
    story.end();
}

/// One schedule of one story. By turns: all choices alike, and priorities that change three times.
fn schedule(number: u64, random: &mut campaign::Random) -> Result<(), String> {
    let (seed, story) = (random.next(), random.next());
    match number % 2 {
        0 => run(RandomScheduler::new_from_seed(seed, 1), move || tell(story)),
        _ => run(PctScheduler::new_from_seed(seed, 3, 1), move || tell(story)),
    }
    Ok(())
}

fn run(scheduler: impl Scheduler + 'static, story: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.failure_persistence = shuttle::FailurePersistence::None;
    Runner::new(scheduler, config).run(story);
}

/// The fault is one for the whole process: one test at a time. Says where something panicked, unless it is meant to.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            if !scheduled::planted() {
                eprintln!("{panic}");
            }
        }))
    });
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[test]
fn campaign_10_schedules() {
    let _turn = turn();
    campaign::run("schedules", 1000, schedule).expect_clean();
}

/// The schedules have teeth: a reader keeps its snapshot for the next ones without asking whether a commit has
/// dropped the index meanwhile. Told one after the other the same story shows nothing of it: only a race does.
#[test]
fn a_planted_race_is_found() {
    let _turn = turn();
    scheduled::plant(true);
    let in_turn = campaign::run_exactly("schedules, planted, one after the other", 20, |_, random| {
        let story = random.next();
        run(RoundRobinScheduler::new(1), move || tell_in_turn(story));
        Ok(())
    });
    let outcome = campaign::run_exactly("schedules, planted", 100, schedule);
    scheduled::plant(false);
    in_turn.expect_clean();
    outcome.expect_caught();
}
