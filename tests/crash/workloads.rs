//! Workloads of real verbs, each small: a few transactions over a few dozen vectors.
//!
//! They are operations of the interpreter (`common/`), so each is done to a store and to its model at once; and some are
//! random scripts, for what nobody thought of. [`shared`] is an application that keeps documents of its own in the same
//! database.

use crate::campaign::Random;
use crate::common::disk::Disk;
use crate::common::model::{IndexModel, State};
use crate::common::script::{
    Batch, End, Ids, Keys, Operation, Params, Sel, Settings, Step, Verb, Wrong, decode, encode,
};
use crate::common::world::{Plant, World};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::sync::Arc;
use vellum::{Durability, IndexSpec, IndexWriter, Metric, Observer, Rows, Store, TrainParams};

pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) settings: Settings,
    pub(crate) operations: Vec<Operation>,
}

pub(crate) fn batch(first: u8, n: u8) -> Batch {
    Batch { seeds: (0..n).map(|i| first.wrapping_add(i.wrapping_mul(3))).collect(), wrong: Wrong::Nothing }
}

fn given(first: u64) -> Ids {
    Ids::Given { first, step: 1 }
}

fn some(start: usize) -> Ids {
    Ids::Existing { start, stride: 3 }
}

fn key(first: u8, long: bool) -> Keys {
    Keys::Given { first, step: 1, long }
}

fn on(name: &'static str, verbs: Vec<Verb>) -> Step {
    Step::Index { name, verbs, suited: false }
}

fn all(steps: Vec<Step>) -> Operation {
    Operation::Transaction { steps, end: End::Commit }
}

fn commit(verbs: Vec<Verb>) -> Operation {
    all(vec![on("a", verbs)])
}

fn abort(verbs: Vec<Verb>) -> Operation {
    Operation::Transaction { steps: vec![on("a", verbs)], end: End::Abort }
}

fn add(first: u8, n: u8) -> Verb {
    Verb::Add(batch(first, n))
}

fn train(first: u8) -> Verb {
    Verb::Train(batch(first, 20), TrainParams::default())
}

fn retrain() -> Verb {
    Verb::TrainStored(TrainParams::default())
}

fn load(fresh: Option<IndexSpec>, batches: &[u8], finish: bool) -> Operation {
    let batches = batches.iter().map(|n| (None, batch(n.wrapping_mul(7), *n))).collect();
    Operation::Load { index: "b", fresh, batches, finish }
}

pub(crate) fn spec(text: &str, dim: usize) -> IndexSpec {
    let spec: IndexSpec = text.parse().unwrap();
    spec.with_dim(dim).with_metric(Metric::L2).with_block_order(0)
}

/// Each by its name, the index that is there first, and what is done.
fn plain() -> Vec<(&'static str, IndexSpec, Vec<Operation>)> {
    let flat = || spec("Flat", 24);
    let learned = spec("PQ4x4", 16).encoding();
    vec![
        (
            "add",
            flat(),
            vec![
                commit(vec![add(0, 5)]),
                commit(vec![add(20, 60)]),
                abort(vec![add(7, 30)]),
                commit(vec![Verb::AddWithIds(given(1 << 40), batch(3, 9)), add(90, 1)]),
                commit(vec![add(5, 30)]),
            ],
        ),
        (
            "train",
            spec("IVF5,Flat", 8),
            vec![
                commit(vec![add(0, 40)]),
                commit(vec![retrain()]),
                commit(vec![add(80, 30)]),
                commit(vec![train(11), add(1, 4)]),
                Operation::Close,
                commit(vec![retrain(), Verb::SetDefaults(Params { nprobe: Some(2), ..Params::default() })]),
            ],
        ),
        (
            "remove",
            spec("IVF3,SQfp16,RFlat", 8),
            vec![
                commit(vec![add(0, 60), train(0)]),
                commit(vec![Verb::Remove(Sel::Range(10, 30))]),
                commit(vec![Verb::Remove(Sel::Multiples(3)), add(50, 20)]),
                commit(vec![Verb::Clear]),
                commit(vec![add(9, 12)]),
                commit(vec![Verb::Remove(Sel::All)]),
            ],
        ),
        (
            "update",
            spec("IVF4,SQbf16,RFlat", 8),
            vec![
                commit(vec![add(0, 50), train(5)]),
                commit(vec![Verb::Update(some(1), batch(70, 20))]),
                commit(vec![Verb::Upsert(given(40), batch(9, 25)), retrain()]),
                commit(vec![Verb::Update(some(0), batch(2, 40)), Verb::Remove(Sel::Multiples(4))]),
                commit(vec![Verb::Upsert(given(0), batch(30, 10))]),
            ],
        ),
        (
            "keys",
            spec("IVF3,Flat", 8).with_keys(true),
            vec![
                commit(vec![Verb::AddWithKeys(key(0, false), batch(0, 30))]),
                commit(vec![retrain(), Verb::AddWithKeys(key(100, true), batch(5, 12))]),
                commit(vec![Verb::UpsertWithKeys(key(20, false), batch(9, 20))]),
                commit(vec![Verb::RemoveKeys(key(5, false), 20), Verb::RemoveKeys(key(100, true), 3)]),
                commit(vec![Verb::UpdateWithKeys(key(30, false), batch(1, 9))]),
            ],
        ),
        (
            "merge",
            spec("IVF4,Flat", 8),
            vec![
                commit(vec![train(4), add(0, 30)]),
                all(vec![Step::Create("b", spec("IVF4,Flat", 8)), on("b", vec![train(4), add(60, 25)])]),
                all(vec![Step::Merge("a", "b", 1000)]),
                all(vec![Step::Drop("b"), on("a", vec![Verb::Remove(Sel::Range(1000, 1010))])]),
                commit(vec![add(7, 10)]),
            ],
        ),
        (
            "compact",
            spec("IVF3,SQfp16,RFlat", 24),
            vec![
                commit(vec![add(0, 120)]),
                commit(vec![train(1), add(40, 100)]),
                commit(vec![Verb::Remove(Sel::Not(Box::new(Sel::Multiples(9))))]),
                Operation::Compact,
                commit(vec![add(3, 20)]),
                commit(vec![Verb::Renumber, Verb::Remove(Sel::Range(0, 99))]),
                Operation::Compact,
                commit(vec![add(8, 20)]),
            ],
        ),
        (
            "bulk",
            flat(),
            vec![
                load(Some(spec("IVF3,Flat", 8)), &[10, 30, 5], false),
                commit(vec![add(0, 9)]),
                load(None, &[25, 20], true),
                all(vec![on("b", vec![retrain(), add(1, 5)])]),
                load(Some(flat()), &[30], false),
                Operation::DiscardLoad { index: "b" },
                load(None, &[12], true),
            ],
        ),
        (
            "drop",
            spec("IVF2,Flat", 8),
            vec![
                commit(vec![add(0, 40), train(0)]),
                all(vec![Step::Create("b", flat()), on("b", vec![add(5, 30)])]),
                all(vec![Step::Rename("a", "ça va")]),
                all(vec![Step::Drop("ça va"), Step::Create("a", spec("IVF3,SQfp16", 8))]),
                commit(vec![add(9, 30), retrain()]),
                all(vec![Step::Drop("b"), Step::Rename("a", "b")]),
            ],
        ),
        (
            "several",
            spec("IVF3_SOAR,Flat", 8),
            vec![
                all(vec![
                    Step::Create("b", spec("FlatDedup", 8)),
                    on("a", vec![add(0, 30), train(2)]),
                    on("b", vec![add(1, 30)]),
                ]),
                all(vec![on("b", vec![Verb::Remove(Sel::Multiples(2))]), on("a", vec![add(7, 9)])]),
                Operation::Close,
                abort(vec![add(7, 9), retrain(), Verb::Clear]),
                Operation::Repair { index: "a" },
                all(vec![on("a", vec![Verb::Update(some(2), batch(3, 9))]), on("b", vec![add(0, 20)])]),
                Operation::Reopen,
                all(vec![on("b", vec![Verb::Upsert(given(5), batch(9, 20))]), on("a", vec![retrain()])]),
            ],
        ),
        (
            "nibbles",
            spec("IVF4_SOAR,Nibble2,RSQ8+Flat", 16),
            vec![
                commit(vec![add(0, 70)]),
                commit(vec![retrain()]),
                commit(vec![add(30, 40), Verb::Remove(Sel::Range(5, 25))]),
                commit(vec![Verb::Update(some(3), batch(2, 15))]),
                commit(vec![retrain(), Verb::Renumber]),
            ],
        ),
        (
            "learned",
            spec("IVF3,Flat,RFlat", 16).with_encoding(learned),
            vec![
                commit(vec![add(0, 60)]),
                commit(vec![retrain()]),
                commit(vec![add(60, 20), Verb::Remove(Sel::Multiples(5))]),
                commit(vec![retrain()]),
                commit(vec![Verb::Upsert(given(3), batch(2, 15))]),
            ],
        ),
        (
            "tree",
            spec("IVF9(IVF3),Flat", 8),
            vec![
                commit(vec![add(0, 60), retrain()]),
                commit(vec![add(3, 30)]),
                commit(vec![Verb::Train(batch(0, 60), TrainParams::default())]),
                commit(vec![Verb::Remove(Sel::Range(0, 50)), add(9, 3)]),
            ],
        ),
    ]
}

/// The ways in which a store can be made durable.
pub(crate) const MODES: [(bool, bool); 4] = [(true, true), (true, false), (false, true), (false, false)];

fn settings(first: IndexSpec, (durable, quick_repair): (bool, bool)) -> Settings {
    Settings { cache_bytes: 1 << 20, durable, quick_repair, load_bytes: 500, first }
}

/// A flush after every third operation, where commits are not durable by themselves.
fn flushed(operations: Vec<Operation>, durable: bool) -> Vec<Operation> {
    let flush = |i: usize| (!durable && i % 3 == 2).then_some(Operation::Flush);
    operations.into_iter().enumerate().flat_map(|(i, one)| [Some(one), flush(i)]).flatten().collect()
}

/// Every workload in one mode.
pub(crate) fn workloads(mode: (bool, bool)) -> Vec<Workload> {
    let workload = |(name, first, operations): (&str, IndexSpec, Vec<Operation>)| Workload {
        name: format!("{name} {mode:?}"),
        settings: settings(first, mode),
        operations: flushed(operations, mode.0),
    };
    plain().into_iter().map(workload).collect()
}

/// A random script, without faults and copies to elsewhere.
pub(crate) fn random(seed: u64, number: u64) -> Workload {
    let mut random = Random::new(seed, number);
    let mut bytes = |n: u64| (0..n).map(|_| random.next() as u8).collect::<Vec<u8>>();
    let head = bytes(12);
    let operations: Vec<Vec<u8>> = (0..24).map(|_| bytes(40)).collect();
    let script = decode(&encode(&head, &operations));
    let calm = |operation: &Operation| !matches!(operation, Operation::Fail { .. } | Operation::Backup);
    let operations = script.operations.into_iter().filter(calm).take(12).collect();
    Workload { name: format!("script {number} of seed {seed}"), settings: script.settings, operations }
}

// ---- an application's own database ----

pub(crate) const DOCS: TableDefinition<'_, u64, &str> = TableDefinition::new("docs");

/// The document of a vector.
pub(crate) fn document(row: &[f32]) -> String {
    format!("{row:?}")
}

/// Opens the application's database on a disk and attaches a store to it.
pub(crate) fn attach(disk: &Disk, settings: &Settings) -> vellum::Result<(Arc<Database>, Store)> {
    let opened = Database::builder().set_cache_size(1 << 18).create_with_backend(disk.handle());
    let db = Arc::new(opened.map_err(redb::Error::from)?);
    let store = Store::builder()
        .cache_bytes(settings.cache_bytes)
        .quick_repair(settings.quick_repair)
        .durability(if settings.durable { Durability::Immediate } else { Durability::None })
        .attach(db.clone())?;
    Ok((db, store))
}

pub(crate) fn shared_settings(mode: (bool, bool)) -> Settings {
    settings(spec("IVF4,SQfp16,RFlat", 8), mode)
}

/// The application's transactions: documents, and the vectors that belong to them.
pub(crate) fn shared(disk: &Disk, mode: (bool, bool)) -> World {
    let settings = shared_settings(mode);
    let (db, store) = attach(disk, &settings).unwrap();
    let mut world = World::around(disk.clone(), settings, Plant::Nothing);
    world.record(true);
    for n in 0..10 {
        let state = match n % 4 {
            3 => through_the_store(&store, world.committed.clone(), n),
            _ => by_the_application(&db, world.committed.clone(), n, &world.settings),
        };
        world.acknowledged(state, mode.0);
        if !mode.0 && n % 3 == 2 {
            store.flush().unwrap();
            world.record(true);
        }
    }
    world
}

fn by_the_application(db: &Database, mut state: State, n: u64, settings: &Settings) -> State {
    let mut txn = db.begin_write().unwrap();
    txn.set_quick_repair(settings.quick_repair);
    let durability = if settings.durable { redb::Durability::Immediate } else { redb::Durability::None };
    txn.set_durability(durability).unwrap();
    let mut writer = match n {
        0 => IndexWriter::create(&txn, "a", &settings.first).unwrap(),
        _ => IndexWriter::open(&txn, "a").unwrap(),
    };
    let model = state.entry("a".into()).or_insert_with(|| IndexModel::new(&settings.first));
    let mut docs = txn.open_table(DOCS).unwrap();
    let ids: Vec<u64> = (n * 7..n * 7 + 15).collect();
    let rows: Vec<f32> = ids
        .iter()
        .flat_map(|id| crate::common::model::vector(&settings.first, (id * 11 + n) as u8))
        .collect();
    writer.upsert(&ids, Rows::new(&rows, 8).unwrap()).unwrap();
    for (id, row) in ids.iter().zip(rows.chunks_exact(8)) {
        model.insert(*id, row);
        docs.insert(id, document(row).as_str()).unwrap();
    }
    if n % 2 == 1 {
        writer.train_stored(&TrainParams::default(), &mut Observer::none()).unwrap();
        model.trained = true;
        docs.retain(|id, _| id % 5 != 0).unwrap();
        let gone = Sel::Multiples(5);
        writer.remove_ids(&gone.selector()).unwrap();
        model.rows.retain(|id, _| !gone.holds(*id));
    }
    drop((writer, docs));
    txn.commit().unwrap();
    state
}

/// The store writes, too: a renumbering, which changes no document.
fn through_the_store(store: &Store, state: State, _: u64) -> State {
    let txn = store.begin_write().unwrap();
    txn.index("a").unwrap().renumber(&mut Observer::none()).unwrap();
    txn.commit().unwrap();
    state
}

/// Documents and vectors belong together.
pub(crate) fn same_documents(db: &Database, state: &State) -> Result<(), String> {
    let txn = db.begin_read().map_err(|e| e.to_string())?;
    let found: Vec<(u64, String)> = match txn.open_table(DOCS) {
        Ok(docs) => docs
            .iter()
            .and_then(|all| all.map(|one| one.map(|(id, text)| (id.value(), text.value().into()))).collect())
            .map_err(|e| e.to_string())?,
        Err(redb::TableError::TableDoesNotExist(_)) => Vec::new(),
        Err(e) => return Err(e.to_string()),
    };
    let rows = state.get("a").into_iter().flat_map(|model| &model.rows);
    let expected: Vec<(u64, String)> = rows.map(|(id, row)| (*id, document(row))).collect();
    match found == expected {
        true => Ok(()),
        false => Err(format!("{} documents, expected {}", found.len(), expected.len())),
    }
}
