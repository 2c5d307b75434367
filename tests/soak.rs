//! A store that is used for a long time: every vector is replaced ten times over, a hundredth in a commit, by all verbs
//! that change a set, with a new training half-way. The worry is what builds up unnoticed: recall that slowly falls, a file
//! that grows, memory that grows, a vector that is stale.
//!
//! After each turnover the index is compared with one that was built afresh from the model's vectors: the same ids, bit for bit
//! the same vectors, recall within a point of the fresh one's, a file of at most 1.5 times the live bytes once `compact` was
//! called where [`vellum::StoreSpace`] says it is due, and memory as it was half-way, after the new training. Each soak is a process of its own, so
//! that its memory is its own.
//!
//! `VELLUM_SOAK_ROWS` (4,000) makes it larger; the other settings are those of all campaigns.
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

use campaign::number;
use process::Task;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use support::{Random, change, create, everywhere, in_memory, memory, reader, rows, spec};
use vellum::*;

const DIM: usize = 48;
/// Clusters of the data.
const CLUSTERS: usize = 60;
const QUERIES: usize = 300;
const NPROBE: usize = 4;
const COMMITS_PER_TURNOVER: usize = 100;

/// What goes wrong, for the test of the test.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// One update in four is written with another vector, and the model does not know.
    WrongVectors,
    /// Removed vectors come back under ids that nobody asks for.
    Leak,
    /// Readers of old states are never dropped.
    HeldReaders,
    /// Half of the vectors goes at the end of each turnover, and nobody calls `compact`: the file is as large as ever.
    NoCompaction,
}

const FAULTS: [Fault; 5] =
    [Fault::None, Fault::WrongVectors, Fault::Leak, Fault::HeldReaders, Fault::NoCompaction];

struct Plan {
    rows: usize,
    turnovers: usize,
    text: String,
    seed: u64,
    fault: Fault,
}

/// Vector number `n`, near one of the clusters.
fn vector(seed: u64, n: u64, out: &mut Vec<f32>) {
    let mut own = Random::new(seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut centre = Random::new(seed ^ 0xc1 ^ (own.below(CLUSTERS) as u64) << 32);
    out.extend((0..DIM).map(|_| centre.unit() + 0.7 * (own.unit() - 0.5)));
}

fn vectors(seed: u64, numbers: impl IntoIterator<Item = u64>) -> Vec<f32> {
    let mut out = Vec::new();
    numbers.into_iter().for_each(|n| vector(seed, n, &mut out));
    out
}

fn params(seed: u64) -> TrainParams {
    let clustering = ClusteringParams { niter: 8, seed, ..ClusteringParams::default() };
    TrainParams { clustering, ..TrainParams::default() }
}

/// The store under use and what must be in it.
struct Soak {
    plan: Plan,
    store: Store,
    /// The number of each id's vector.
    model: BTreeMap<u64, u64>,
    next_id: u64,
    next_vector: u64,
    random: Random,
    held: Vec<IndexReader<'static>>,
}

impl Soak {
    fn begin(plan: Plan, path: &Path) -> Self {
        let store = Store::builder().cache_bytes(8 << 20).create(path).unwrap();
        create(&store, "i", &plan.spec());
        let n = plan.rows as u64;
        let data = vectors(plan.seed, 0..n);
        change(&store, "i", |writer| {
            writer.train(rows(&data, DIM), &params(plan.seed), &mut Observer::none()).unwrap();
            writer.add(rows(&data, DIM)).unwrap();
        });
        let model = (0..n).map(|id| (id, id)).collect();
        let random = Random::new(plan.seed ^ 77);
        Soak { plan, store, model, next_id: n, next_vector: n, random, held: Vec::new() }
    }

    /// One commit in which a hundredth of the vectors is replaced.
    fn commit(&mut self, n: usize) {
        let count = self.plan.rows / COMMITS_PER_TURNOVER;
        match n % 10 {
            6 | 7 => self.update(count),
            8 => {
                self.upsert(count / 2);
                self.replace(count - count / 2, false);
            }
            9 => self.replace(count, true),
            _ => self.replace(count, false),
        }
        let found = reader(&self.store, "i");
        assert_eq!(found.search(&vectors(self.plan.seed, [n as u64]), 5, &nprobe()).unwrap().len(), 5);
        if self.plan.fault == Fault::HeldReaders {
            self.held.push(found);
        }
    }

    fn fresh_ids(&mut self, count: usize) -> Vec<u64> {
        self.next_id += count as u64;
        (self.next_id - count as u64..self.next_id).collect()
    }

    fn fresh_numbers(&mut self, count: usize) -> Vec<u64> {
        self.next_vector += count as u64;
        (self.next_vector - count as u64..self.next_vector).collect()
    }

    /// `count` ids at random.
    fn some(&mut self, count: usize) -> Vec<u64> {
        let mut ids: Vec<u64> = self.model.keys().copied().collect();
        self.random.shuffle(&mut ids);
        ids.truncate(count);
        ids
    }

    /// Removes the oldest ids, or some at random, and adds new ones, which come from another index if `merged`.
    fn replace(&mut self, count: usize, merged: bool) {
        let gone: BTreeSet<u64> = match merged {
            true => self.some(count).into_iter().collect(),
            false => self.model.keys().copied().take(count).collect(),
        };
        let (ids, numbers) = (self.fresh_ids(count), self.fresh_numbers(count));
        let data = vectors(self.plan.seed, numbers.iter().copied());
        let arrivals = merged.then(|| self.arrivals(&ids, &data));
        let leak = self.plan.fault == Fault::Leak;
        change(&self.store, "i", |writer| {
            if !leak {
                let selector = IdSelector::batch(gone.iter().copied());
                assert_eq!(writer.remove_ids(&selector).unwrap(), count as u64);
            }
            match &arrivals {
                Some(other) => {
                    let other = reader(other, "i");
                    let copied = other.copy_subset_to(writer, &Subset::All, &mut Observer::none()).unwrap();
                    assert_eq!(copied, count as u64);
                }
                None => writer.add_with_ids(&ids, rows(&data, DIM)).unwrap(),
            }
        });
        self.model.retain(|id, _| !gone.contains(id));
        self.model.extend(ids.into_iter().zip(numbers));
    }

    /// Another store of the same training with these vectors.
    fn arrivals(&self, ids: &[u64], data: &[f32]) -> Store {
        let other = memory();
        create(&other, "i", &self.plan.spec());
        let training = reader(&self.store, "i").export_model().unwrap();
        change(&other, "i", |writer| {
            writer.import_model(&training, &mut Observer::none()).unwrap();
            writer.add_with_ids(ids, rows(data, DIM)).unwrap();
        });
        other
    }

    fn update(&mut self, count: usize) {
        let (ids, numbers) = (self.some(count), self.fresh_numbers(count));
        let wrong = self.plan.fault == Fault::WrongVectors;
        let written = numbers.iter().map(|n| if wrong && n % 4 == 0 { n + 1_000_000 } else { *n });
        let data = vectors(self.plan.seed, written);
        change(&self.store, "i", |writer| writer.update_vectors(&ids, rows(&data, DIM)).unwrap());
        self.model.extend(ids.into_iter().zip(numbers));
    }

    /// Half of the ids are known, half are new; as many others go.
    fn upsert(&mut self, count: usize) {
        let known = self.some(count / 2);
        let mut gone = self.some(count);
        gone.retain(|id| !known.contains(id));
        let new = self.fresh_ids(gone.len());
        let ids: Vec<u64> = known.into_iter().chain(new).collect();
        let numbers = self.fresh_numbers(ids.len());
        let data = vectors(self.plan.seed, numbers.iter().copied());
        change(&self.store, "i", |writer| {
            writer.remove_ids(&IdSelector::batch(gone.iter().copied())).unwrap();
            writer.upsert(&ids, rows(&data, DIM)).unwrap();
        });
        self.model.retain(|id, _| !gone.contains(id));
        self.model.extend(ids.into_iter().zip(numbers));
    }

    /// Training on what is stored, as one does now and then.
    fn train(&self) {
        let params = params(self.plan.seed);
        change(&self.store, "i", |writer| writer.train_stored(&params, &mut Observer::none()).unwrap());
    }

    /// The index holds the model's vectors, bit for bit, and is sound.
    fn check_contents(&self) -> Result<(), String> {
        let txn = self.store.begin_read().unwrap();
        let report = txn.verify("i", &mut Observer::none()).unwrap();
        if !report.is_ok() {
            return Err(format!("{:?}", report.problems));
        }
        let reader = txn.index("i").unwrap();
        let ids: Vec<u64> = self.model.keys().copied().collect();
        if reader.ids().unwrap() != ids {
            return Err(format!("{} ids, expected {}", reader.len(), ids.len()));
        }
        let data = vectors(self.plan.seed, self.model.values().copied());
        match reader.reconstruct_batch(&ids).unwrap() == data {
            true => Ok(()),
            false => Err("a stored vector is not the last that was written".into()),
        }
    }

    /// Recall@10 of this index and of one that is built now.
    fn recalls(&self) -> (f64, f64) {
        let fresh = in_memory(Store::builder());
        create(&fresh, "i", &self.plan.spec());
        let ids: Vec<u64> = self.model.keys().copied().collect();
        let data = vectors(self.plan.seed, self.model.values().copied());
        change(&fresh, "i", |writer| {
            writer.train(rows(&data, DIM), &params(self.plan.seed), &mut Observer::none()).unwrap();
            writer.add_with_ids(&ids, rows(&data, DIM)).unwrap();
        });
        let queries = vectors(self.plan.seed, (0..QUERIES as u64).map(|n| n + 2_000_000_000));
        let fresh = reader(&fresh, "i");
        let found = |reader: &IndexReader<'_>, params: &SearchParams| {
            let found = reader.search_batch(rows(&queries, DIM), 10, params).unwrap();
            found.into_iter().map(|one| one.iter().map(|n| n.id).collect::<Vec<_>>()).collect::<Vec<_>>()
        };
        let truth = found(&fresh, &everywhere());
        let recall = |found: Vec<Vec<u64>>| {
            let pairs = found.iter().zip(&truth);
            let hits: usize = pairs.map(|(f, t)| f.iter().filter(|id| t.contains(id)).count()).sum();
            hits as f64 / (10 * QUERIES) as f64
        };
        (recall(found(&reader(&self.store, "i"), &nprobe())), recall(found(&fresh, &nprobe())))
    }

    /// What a caretaker does: compacts when the file is more than half as large again as what is live.
    fn tend(&self) -> (f64, f64) {
        let ratio = || {
            let space = self.store.space().unwrap();
            assert_eq!(space.live_bytes + space.dead_bytes + space.free_bytes, space.file_bytes);
            space.file_bytes as f64 / space.live_bytes as f64
        };
        let before = ratio();
        if before > 1.5 && self.plan.fault != Fault::NoCompaction && self.held.is_empty() {
            let report = self.store.compact().unwrap();
            assert_eq!(report.after_bytes, self.store.space().unwrap().file_bytes);
        }
        (before, ratio())
    }
}

fn nprobe() -> SearchParams {
    support::nprobe(NPROBE)
}

impl Plan {
    fn spec(&self) -> IndexSpec {
        spec(&self.text, DIM, Metric::L2)
    }

    fn run(self) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.vellum");
        let (turnovers, fault) = (self.turnovers, self.fault);
        let mut soak = Soak::begin(self, &path);
        let (mut memory, mut lost, mut largest, mut tended) = (Vec::new(), 0.0f64, 0.0f64, 0.0f64);
        for turnover in 0..turnovers {
            for n in 0..COMMITS_PER_TURNOVER {
                soak.commit(turnover * COMMITS_PER_TURNOVER + n);
            }
            if turnover == turnovers / 2 {
                soak.train();
            }
            if fault == Fault::NoCompaction {
                change(&soak.store, "i", |w| w.remove_ids(&IdSelector::callback(|id| id % 2 == 1)).unwrap());
                soak.model.retain(|id, _| id % 2 == 0);
            }
            soak.check_contents()?;
            let (ours, fresh) = soak.recalls();
            let (before, after) = soak.tend();
            eprintln!(
                "turnover {turnover}: recall {ours:.4} (fresh {fresh:.4}), file {before:.2} then {after:.2} × live, {} KiB",
                resident_kib()
            );
            lost = lost.max(fresh - ours);
            largest = largest.max(before);
            tended = tended.max(after);
            memory.push(resident_kib());
        }
        // Behind the training half-way, which leaves what an allocator keeps.
        let settled = memory[memory.len() / 2];
        let last = memory[memory.len() - 1];
        let figures = format!(
            "recall at most {:.2} points below a fresh build, file at most {largest:.2} × live, {tended:.2} when tended, memory {:+} KiB in the second half",
            100.0 * lost,
            last as i64 - settled as i64,
        );
        let grown = last > settled + settled / 10 + 4096;
        if lost >= 0.01 || tended > 1.5 || grown { Err(figures) } else { Ok(figures) }
    }
}

/// Memory of this process; 0 where the system does not tell.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0)
}

#[test]
#[ignore = "the child process of the other tests"]
fn child() {
    let fault = *FAULTS.iter().find(|fault| format!("{fault:?}") == process::task()).unwrap();
    let parse = |name: &str| process::given(name).parse::<u64>().unwrap();
    let plan = Plan {
        rows: parse("ROWS") as usize,
        turnovers: parse("TURNOVERS") as usize,
        text: process::given("SPEC"),
        seed: parse("SEED"),
        fault,
    };
    match plan.run() {
        Ok(figures) => process::say(figures),
        Err(what) => panic!("{what}"),
    }
}

fn soak(rows: u64, turnovers: usize, text: &str, seed: u64, fault: Fault) -> Result<String, String> {
    let task = Task::new(&format!("{fault:?}")).give("ROWS", rows).give("TURNOVERS", turnovers);
    task.give("SPEC", text).give("SEED", seed).answer()
}

/// The codes by turns: case 0 is exact codes, case 1 halves with kept rows, case 2 nibbles with kept rows.
fn text(case: u64) -> &'static str {
    ["IVF40,Flat", "IVF40,SQfp16,RFlat", "IVF40,Nibble2,RFlat"][case as usize % 3]
}

#[test]
fn ten_turnovers_leave_the_store_as_good_as_new() {
    let size = number("VELLUM_SOAK_ROWS").unwrap_or(4000);
    let outcome = campaign::run("soak", 1, |case, random| {
        let figures = soak(size, 10, text(case), random.next() >> 8, Fault::None)?;
        println!("soak of {size} rows, {}: {figures}", text(case));
        Ok(())
    });
    outcome.expect_clean();
}

/// Each fault by itself, in fewer turnovers.
#[test]
fn a_store_that_decays_is_noticed() {
    for fault in &FAULTS[1..] {
        campaign::run_exactly("soak, planted", 1, |_, random| {
            soak(1000, 2, text(0), random.next() >> 8, *fault).map(|_| ())
        })
        .expect_caught();
    }
}
