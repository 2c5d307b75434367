//! Readers beside a writer: what a reader sees is one commit, and stays that commit while it is held.
//!
//! It breaks where memory is shared between snapshots: a pinned block taken over from an older snapshot
//! though a commit had changed its list, a model of another training, a page that redb reused under a
//! guard, an answer put together of two commits. Here a writer adds, removes, updates, trains, clears,
//! drops, renames and aborts as fast as the readers keep up, and each commit also sets a clock, an index of
//! one vector that says the commit's number. So a reader knows what it must see, and every answer is
//! compared with the model of that commit, when it is new and as long as it is held.
//!
//! Campaign 10: a case is a store with its writer and readers, for [`COMMITS`] commits. Threads meet as the machine has it;
//! `schedules/` runs the same store under a scheduler that decides who goes on.

#![allow(clippy::unwrap_used, clippy::panic)]

mod campaign;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use vellum::{
    ClusteringParams, Error, IdSelector, IndexReader, IndexSpec, IndexWriter, Metric, Neighbor, Observer,
    ReadTxn, Rows, SearchParams, Store, TrainParams,
};

const DIM: usize = 8;
const READERS: usize = 3;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    /// Small whole components: distances are exact, and ties frequent.
    fn vector(&mut self) -> Vec<f32> {
        (0..DIM).map(|_| self.below(7) as f32 - 3.0).collect()
    }
}

/// One commit of the index.
#[derive(Clone, Debug)]
struct Model {
    name: &'static str,
    rows: BTreeMap<u64, Arc<[f32]>>,
    next_id: u64,
    trained: bool,
}

impl Model {
    /// Nearest first, ties by id.
    fn ranked(&self, query: &[f32], keep: impl Fn(u64) -> bool) -> Vec<Neighbor> {
        let distance = |row: &[f32]| row.iter().zip(query).map(|(a, b)| (a - b) * (a - b)).sum();
        let kept = self.rows.iter().filter(|(id, _)| keep(**id));
        let mut found: Vec<_> = kept.map(|(id, row)| Neighbor { id: *id, distance: distance(row) }).collect();
        found.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.id.cmp(&b.id)));
        found
    }
}

/// What writer and readers share: the index after each commit, `None` while it is dropped.
struct Campaign {
    store: Store,
    spec: IndexSpec,
    commits: u64,
    history: Mutex<Vec<Arc<Option<Model>>>>,
    /// A reader that all threads use together, and its commit.
    shared: Mutex<Option<(u64, IndexReader<'static>)>>,
    committed: AtomicU64,
    compared: AtomicU64,
    /// Comparisons of a commit that was no longer the newest.
    older: AtomicU64,
    done: AtomicBool,
    /// Compare with the newest commit instead of the reader's own: a fault that must be noticed.
    planted: bool,
}

struct Held {
    commit: u64,
    txn: ReadTxn,
    reader: Option<IndexReader<'static>>,
}

/// Ends the campaign for the others if its thread panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

impl Campaign {
    fn new(store: Store, spec: IndexSpec, commits: u64, planted: bool) -> Self {
        let txn = store.begin_write().unwrap();
        txn.create_index("clock", &IndexSpec::flat(1, Metric::L2)).unwrap();
        txn.index("clock").unwrap().add(Rows::one(&[0.0]).unwrap()).unwrap();
        txn.commit().unwrap();
        Campaign {
            store,
            spec,
            commits,
            history: Mutex::new(vec![Arc::new(None)]),
            shared: Mutex::default(),
            committed: AtomicU64::new(0),
            compared: AtomicU64::new(0),
            older: AtomicU64::new(0),
            done: AtomicBool::new(false),
            planted,
        }
    }

    /// Runs writer and readers; the first thing that was wrong.
    fn run(&self, seed: u64) -> Result<(), String> {
        let barrier = Barrier::new(READERS + 1);
        thread::scope(|scope| {
            let readers: Vec<_> = (1..=READERS as u64)
                .map(|number| {
                    let barrier = &barrier;
                    scope.spawn(move || self.read(Random(seed * 1000 + number), barrier))
                })
                .collect();
            self.write(Random(seed), &barrier);
            readers.into_iter().try_for_each(|reader| reader.join().unwrap())
        })
    }

    // ---- the writer ----

    fn write(&self, mut random: Random, barrier: &Barrier) {
        let _ends = Ends(&self.done);
        barrier.wait();
        for n in 1..=self.commits {
            let before = Option::clone(&self.history.lock().unwrap()[n as usize - 1]);
            // An aborted change has the number of the next one that commits.
            if random.below(4) == 0 {
                let txn = self.store.begin_write().unwrap();
                self.change(&txn, &before, &mut random);
                txn.abort().unwrap();
            }
            let txn = self.store.begin_write().unwrap();
            let after = self.change(&txn, &before, &mut random);
            txn.index("clock").unwrap().upsert(&[0], Rows::one(&[n as f32]).unwrap()).unwrap();
            self.history.lock().unwrap().push(Arc::new(after));
            txn.commit().unwrap();
            self.committed.store(n, SeqCst);
            // The readers keep up: several comparisons a commit.
            while self.compared.load(SeqCst) < n * 8 && !self.done.load(SeqCst) {
                thread::yield_now();
            }
        }
    }

    fn change(&self, txn: &vellum::WriteTxn, before: &Option<Model>, random: &mut Random) -> Option<Model> {
        let Some(mut model) = before.clone() else {
            txn.create_index("data", &self.spec).unwrap();
            let model = Model { name: "data", rows: BTreeMap::new(), next_id: 0, trained: false };
            return Some(self.verbs(txn, model, random));
        };
        match random.below(16) {
            0 => {
                txn.drop_index(model.name).unwrap();
                return None;
            }
            1 => {
                let name = if model.name == "data" { "renamed" } else { "data" };
                txn.rename_index(model.name, name).unwrap();
                model.name = name;
            }
            2 => {
                // Another index under the same name: nothing of the old one may show through.
                txn.drop_index(model.name).unwrap();
                txn.create_index(model.name, &self.spec).unwrap();
                model = Model { rows: BTreeMap::new(), next_id: 0, trained: false, ..model };
            }
            _ => {}
        }
        Some(self.verbs(txn, model, random))
    }

    fn verbs(&self, txn: &vellum::WriteTxn, mut model: Model, random: &mut Random) -> Model {
        let mut writer = txn.index(model.name).unwrap();
        for _ in 0..1 + random.below(3) {
            self.verb(&mut writer, &mut model, random);
        }
        let query = random.vector();
        let found = writer.reader().search(&query, 5, &everything()).unwrap();
        let mut expected = model.ranked(&query, |_| true);
        expected.truncate(5);
        assert_eq!(found, expected, "the writer's own changes");
        model
    }

    fn verb(&self, writer: &mut IndexWriter<'_>, model: &mut Model, random: &mut Random) {
        let rows =
            |random: &mut Random, n: u64| -> Vec<f32> { (0..n).flat_map(|_| random.vector()).collect() };
        match random.below(12) {
            0..=4 => {
                let n = 1 + random.below(60);
                let data = rows(random, n);
                let ids = writer.add(Rows::new(&data, DIM).unwrap()).unwrap();
                model.rows.extend(ids.clone().zip(data.chunks(DIM).map(Arc::from)));
                model.next_id = ids.end;
            }
            5..=6 => {
                let n = 2 + random.below(6);
                let gone = move |id: u64| id.is_multiple_of(n);
                let removed = writer.remove_ids(&IdSelector::callback(gone)).unwrap();
                let before = model.rows.len();
                model.rows.retain(|id, _| !gone(*id));
                assert_eq!(removed as usize, before - model.rows.len());
            }
            7..=9 => {
                let n = 1 + random.below(9);
                let ids: Vec<u64> =
                    model.rows.keys().copied().filter(|id| random.below(n) == 0 && id % 2 == 0).collect();
                let data = rows(random, ids.len() as u64);
                writer.update_vectors(&ids, Rows::new(&data, DIM).unwrap()).unwrap();
                model.rows.extend(ids.into_iter().zip(data.chunks(DIM).map(Arc::from)));
            }
            10 if self.spec.nlist().is_some_and(|nlist| nlist <= model.rows.len()) => {
                let seed = random.below(1000);
                let clustering = ClusteringParams { niter: 2, seed, ..ClusteringParams::default() };
                let params = TrainParams { clustering, ..TrainParams::default() };
                writer.train_stored(&params, &mut Observer::none()).unwrap();
                model.trained = true;
            }
            11 if random.below(3) == 0 => {
                writer.clear().unwrap();
                model.rows.clear();
            }
            _ => {}
        }
    }

    // ---- the readers ----

    fn read(&self, mut random: Random, barrier: &Barrier) -> Result<(), String> {
        let _ends = Ends(&self.done);
        // The first state is kept to the end, when it is certainly not the newest.
        let mut first = self.hold(false)?;
        barrier.wait();
        let mut held: Vec<Held> = Vec::new();
        while !self.done.load(SeqCst) {
            if held.len() > 3 {
                held.swap_remove(random.below(4) as usize);
            }
            held.push(self.hold(random.below(2) == 0)?);
            for held in &mut held {
                self.compare(held, &mut random)?;
            }
            self.compare_shared(&mut held, &mut random)?;
        }
        self.compare(&mut first, &mut random)?;
        held.iter_mut().try_for_each(|held| self.compare(held, &mut random))
    }

    fn hold(&self, at_once: bool) -> Result<Held, String> {
        let txn = self.store.begin_read().map_err(|e| e.to_string())?;
        let clock = txn.index("clock").unwrap().reconstruct(0).unwrap();
        let mut held = Held { commit: clock[0] as u64, txn, reader: None };
        if at_once {
            self.open(&mut held)?;
        }
        Ok(held)
    }

    fn state(&self, commit: u64) -> Arc<Option<Model>> {
        let history = self.history.lock().unwrap();
        let commit = if self.planted { history.len() as u64 - 1 } else { commit };
        history[commit as usize].clone()
    }

    fn open(&self, held: &mut Held) -> Result<(), String> {
        let name = |model: &Model| model.name;
        let state = self.state(held.commit);
        let name = state.as_ref().as_ref().map_or("data", name);
        held.reader = match held.txn.index(name) {
            Ok(reader) => Some(reader),
            Err(Error::UnknownIndex { .. }) => None,
            Err(e) => return Err(e.to_string()),
        };
        Ok(())
    }

    fn compare(&self, held: &mut Held, random: &mut Random) -> Result<(), String> {
        if held.reader.is_none() {
            self.open(held)?;
        }
        self.compare_reader(held.commit, held.reader.as_ref(), random)?;
        let newest = self.committed.load(SeqCst);
        self.older.fetch_add(u64::from(held.commit < newest), SeqCst);
        self.compared.fetch_add(1, SeqCst);
        Ok(())
    }

    /// One reader in the hands of all threads, now and then replaced by a newer one.
    fn compare_shared(&self, held: &mut [Held], random: &mut Random) -> Result<(), String> {
        let mut shared = self.shared.lock().unwrap();
        if random.below(8) == 0 {
            *shared = held.last().and_then(|held| Some((held.commit, held.reader.clone()?)));
        }
        let shared = shared.clone();
        match shared {
            Some((commit, reader)) => self.compare_reader(commit, Some(&reader), random),
            None => Ok(()),
        }
    }

    fn compare_reader(
        &self,
        commit: u64,
        reader: Option<&IndexReader<'static>>,
        random: &mut Random,
    ) -> Result<(), String> {
        let state = self.state(commit);
        let (reader, model) = match (reader, state.as_ref()) {
            (None, None) => return Ok(()),
            (Some(reader), Some(model)) => (reader, model),
            (reader, _) => return Err(format!("commit {commit}: index there: {}", reader.is_some())),
        };
        let wrong = |what: &str| Err(format!("commit {commit}: {what}"));
        if reader.len() != model.rows.len() as u64
            || reader.is_trained() != model.trained && self.spec.nlist().is_some()
        {
            return wrong("length or training");
        }
        let fail = |e: Error| format!("commit {commit}: {e}");
        let query = random.vector();
        let k = 1 + random.below(30) as usize;
        match random.below(6) {
            0 | 1 => {
                let found = reader.search(&query, k, &everything()).map_err(fail)?;
                let mut expected = model.ranked(&query, |_| true);
                expected.truncate(k);
                if found != expected {
                    return wrong(&format!("found {found:?}, expected {expected:?}"));
                }
            }
            2 => {
                let other = random.vector();
                let queries = [query.clone(), other.clone()].concat();
                let rows = Rows::new(&queries, DIM).unwrap();
                let found = reader.search_batch(rows, k, &everything()).map_err(fail)?;
                for (query, found) in [query, other].iter().zip(found) {
                    let mut expected = model.ranked(query, |_| true);
                    expected.truncate(k);
                    if found != expected {
                        return wrong("a batch");
                    }
                }
            }
            3 => {
                let params = everything().selector(IdSelector::callback(|id| id % 3 == 1));
                let found = reader.range_search(&query, 40.0, &params).map_err(fail)?;
                let mut expected = model.ranked(&query, |id| id % 3 == 1);
                expected.retain(|neighbor| neighbor.distance < 40.0);
                if found != expected {
                    return wrong("a range with a selector");
                }
            }
            4 => {
                let ids = reader.ids().map_err(fail)?;
                if !ids.iter().eq(model.rows.keys()) || reader.contains(model.next_id).map_err(fail)? {
                    return wrong("ids");
                }
            }
            _ => {
                for (id, row) in model.rows.iter().skip(random.below(5) as usize).step_by(7) {
                    if reader.reconstruct(*id).map_err(fail)? != row[..] {
                        return wrong("a vector");
                    }
                }
            }
        }
        Ok(())
    }
}

fn everything() -> SearchParams {
    SearchParams::new().nprobe(usize::MAX)
}

fn spec(text: &str) -> IndexSpec {
    text.parse::<IndexSpec>().unwrap().with_dim(DIM).with_metric(Metric::L2).with_block_order(0)
}

/// Stores that cache nothing, less than the index, and everything.
const CACHES: [usize; 3] = [0, 40_000, 64 << 20];

/// One list and several, codes that are exact for small whole numbers, each way to keep, to spill and to share.
const SPECS: [&str; 5] = ["IVF6,Flat", "Flat", "IVF6,SQfp16,RFlat", "IVF6_SOAR,Flat", "IVF6,FlatDedup"];

/// Commits of a case.
const COMMITS: u64 = 60;

/// A store, its writer and its readers; the comparisons they made of commits that were no longer the newest.
fn case(number: u64, random: &mut campaign::Random, planted: bool) -> Result<u64, String> {
    let text = SPECS[number as usize % SPECS.len()];
    let cache_bytes = CACHES[number as usize / SPECS.len() % CACHES.len()];
    let backend = || Ok(redb::backends::InMemoryBackend::new());
    let store = Store::builder().cache_bytes(cache_bytes).open_backend(backend).unwrap();
    let campaign = Campaign::new(store, spec(text), COMMITS, planted);
    let what = |what| format!("{text}, {cache_bytes} bytes of cache: {what}");
    campaign.run(1 + random.below(1 << 40)).map_err(what)?;
    let older = campaign.older.into_inner();
    if older < READERS as u64 {
        return Err(what(format!("{older} comparisons of an older commit")));
    }
    Ok(campaign.compared.into_inner())
}

#[test]
fn campaign_10_readers_beside_a_writer() {
    let compared = AtomicU64::new(0);
    let outcome = campaign::run("snapshots", 2 * (SPECS.len() * CACHES.len()) as u64, |number, random| {
        compared.fetch_add(case(number, random, false)?, SeqCst);
        Ok(())
    });
    println!("snapshots: {} comparisons of readers with the model of their commit", compared.into_inner());
    outcome.expect_clean();
}

/// The comparison has teeth: readers compared with the newest commit instead of their own are noticed.
#[test]
fn a_planted_reader_of_another_commit_is_noticed() {
    campaign::run_exactly("snapshots, of another commit", 2, |number, random| {
        case(number, random, true).map(drop)
    })
    .expect_caught();
}
