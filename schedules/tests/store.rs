//! Readers beside a writer, each lock and each atomic of them in an order that a scheduler chose.
//!
//! It breaks where a reader is handed another state than its transaction's, a pin is taken over of what a commit has
//! changed, a dropped index leaves something behind, the budget is exceeded or leaks, or two locks wait for each other.
//! A case is one schedule of a small story: a writer commits a few changes to two indexes that do not fit the memory
//! together, drops one, makes it again; readers come and go, some stay. Each commit also sets a clock, so a reader
//! knows what it must see.

#[path = "../../tests/campaign/mod.rs"]
#[allow(unreachable_pub)]
mod campaign;

use redb::backends::InMemoryBackend;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner, thread};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use vellum::*;

const DIM: usize = 2;
const READERS: usize = 2;
const COMMITS: usize = 3;

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

/// Chance that follows from the case alone.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }

    fn vector(&mut self) -> [f32; DIM] {
        [self.below(5) as f32, self.below(5) as f32]
    }
}

impl Story {
    fn new(dice: &mut Dice) -> Self {
        // Nothing fits, one index fits, both do: an index of 500 rows pins about 16 KiB.
        let cache_bytes = [0, 26_000, 80_000][dice.below(3) as usize];
        let store =
            Store::builder().cache_bytes(cache_bytes).open_backend(|| Ok(InMemoryBackend::new())).unwrap();
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
        let rows: Vec<[f32; DIM]> = (0..500).map(|_| dice.vector()).collect();
        txn.index(name).unwrap().add(Rows::new(rows.as_flattened(), DIM).unwrap()).unwrap();
        (0..).zip(rows).collect()
    }

    fn write(&self, mut dice: Dice) {
        for commit in 1..=COMMITS {
            let mut state = self.history.lock().unwrap()[commit - 1].clone();
            let txn = self.store.begin_write().unwrap();
            let which = dice.below(2) as usize;
            state[which] = self.change(&txn, NAMES[which], state[which].take(), &mut dice);
            txn.index("clock").unwrap().upsert(&[0], Rows::one(&[commit as f32]).unwrap()).unwrap();
            self.history.lock().unwrap().push(state);
            txn.commit().unwrap();
            self.check_budget();
        }
    }

    fn change(&self, txn: &WriteTxn, name: &str, rows: Option<Rows2>, dice: &mut Dice) -> Option<Rows2> {
        let Some(mut rows) = rows else { return Some(Story::create(txn, name, dice)) };
        let id = dice.below(500);
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
            let txn = self.store.begin_read().unwrap();
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
        let id = dice.below(500);
        let there = rows.get(&id).map(|row| row.to_vec());
        assert_eq!(reader.reconstruct(id).ok(), there, "commit {commit}");
    }

    fn check_budget(&self) {
        let pinned = self.store.stats().pinned_bytes;
        assert!(pinned <= self.cache_bytes, "{pinned} bytes pinned of {}", self.cache_bytes);
    }

    /// When everybody is gone and so are the indexes, no byte is pinned.
    fn end(&self) {
        let txn = self.store.begin_write().unwrap();
        txn.indexes().unwrap().iter().for_each(|name| txn.drop_index(name).unwrap());
        txn.commit().unwrap();
        assert_eq!(self.store.stats().pinned_bytes, 0, "pinned for nobody");
    }
}

fn tell(seed: u64) {
    let mut dice = Dice(seed);
    let story = Story::new(&mut dice);
    let mut tasks = Vec::new();
    for number in 0..READERS as u64 {
        let (story, dice) = (story.clone(), Dice(seed ^ (number + 1) << 40));
        tasks.push(thread::spawn(move || story.read(dice)));
    }
    story.write(dice);
    tasks.into_iter().for_each(|task| task.join().unwrap());
    story.end();
}

/// One schedule of one story.
fn schedule(number: u64, random: &mut campaign::Random) -> Result<(), String> {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.failure_persistence = shuttle::FailurePersistence::None;
    let (seed, story) = (random.next(), random.next());
    // By turns: all choices alike, and priorities that change three times.
    let scheduler: Box<dyn Scheduler + Send> = match number % 2 {
        0 => Box::new(RandomScheduler::new_from_seed(seed, 1)),
        _ => Box::new(PctScheduler::new_from_seed(seed, 3, 1)),
    };
    Runner::new(scheduler, config).run(move || tell(story));
    Ok(())
}

/// The fault is one for the whole process: one test at a time.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn campaign_10_schedules() {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    campaign::run("schedules", 1000, schedule).expect_clean();
}

/// The schedules have teeth: a reader that finds another thread to have been faster takes what that one made without
/// asking whether it is of the same state. Only a race shows it.
#[test]
fn a_planted_race_is_found() {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    scheduled::plant(true);
    let outcome = campaign::run_exactly("schedules, with a planted race", 300, schedule);
    scheduled::plant(false);
    outcome.expect_caught();
}
