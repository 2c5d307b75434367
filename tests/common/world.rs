//! A store and the model of it, side by side: each operation is done to both and must agree.
//!
//! The model predicts what every call returns, refusals included. After each commit the whole store is
//! inspected: `verify`, sizes, ids, every vector, exhaustive searches; and readers that were kept must
//! still answer as the model of their own commit. When a planned fault strikes, calls may fail (never
//! panic); the store is then reopened and must hold the last acknowledged commit or the one in flight.

use super::disk::{Disk, Fault, Kind};
use super::model::{IndexModel, State};
use super::reads;
use super::script::{End, Operation, Settings, Step};
use std::cell::RefCell;
use std::collections::BTreeMap;
use tempfile::TempDir;
use vellum::{Durability, Error, IndexReader, Observer, ReadTxn, Rows, Store, WriteTxn};

/// Why an operation ended early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Store and model disagree.
    Mismatch(String),
    /// A planned fault made the call fail.
    Fault(Error),
}

pub(crate) type Done<T = ()> = Result<T, Stop>;

pub(crate) fn mismatch<T>(what: impl Into<String>) -> Done<T> {
    Err(Stop::Mismatch(what.into()))
}

/// A fault of the model's, planted to see that the comparison would notice one of the store's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plant {
    Nothing,
    /// The model forgets to remove one vector.
    ForgetRemoval,
    /// The model keeps the old vector of an update.
    ForgetUpdate,
    /// The model thinks that an aborted transaction was committed.
    BelieveAbort,
    /// A kept reader is compared with the newest commit instead of its own.
    NewestForReaders,
    /// The disk goes back to an earlier commit when the store is closed.
    LoseCommit,
    /// The model settles ties by the larger id.
    TiesByLargerId,
    /// The model counts what lies exactly on the radius as within.
    RadiusIncluded,
    /// The model lets the selector's rejects in.
    IgnoreSelector,
    /// The model thinks that a search in given lists looks into all of them.
    EveryList,
    /// The model thinks that a copied part has a vector more.
    CopyMore,
}

/// How often each kind of call was accepted, refused, or failed.
pub(crate) type Seen = BTreeMap<(&'static str, &'static str), u64>;

pub(crate) struct World {
    pub(crate) disk: Disk,
    pub(crate) settings: Settings,
    pub(crate) plant: Plant,
    store: Option<Store>,
    /// What the last acknowledged commit left.
    pub(crate) committed: State,
    /// What a crash may go back to besides: commits that were acknowledged as not yet durable.
    older: Vec<State>,
    /// What a commit was about to leave when it failed.
    pub(crate) in_flight: Vec<State>,
    held: Vec<Held>,
    folder: Option<TempDir>,
    /// The disk as it was before the last commit, for [`Plant::LoseCommit`].
    stale: Option<Vec<u8>>,
    turn: u8,
    pub(crate) seen: RefCell<Seen>,
    /// What was acknowledged while the disk recorded.
    pub(crate) history: Vec<Acknowledged>,
    /// Commits are inspected as soon as they are made.
    pub(crate) inspects: bool,
    /// Of so many operations one is followed by an inspection, besides those that open, repair or compact.
    pub(crate) inspect_every: u8,
}

/// A commit that was acknowledged, and how much the disk had recorded by then.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) at: usize,
    pub(crate) durable: bool,
    pub(crate) state: State,
}

/// A state that is kept, and what the model was at its commit.
struct Held {
    txn: ReadTxn,
    state: State,
    readers: BTreeMap<String, IndexReader<'static>>,
}

const HELD_MAX: usize = 3;

impl World {
    pub(crate) fn new(settings: Settings, plant: Plant) -> Done<Self> {
        let mut world = World::around(Disk::default(), settings, plant);
        world.open()?;
        world.begin()?;
        Ok(world)
    }

    /// A world without a store, on this disk.
    pub(crate) fn around(disk: Disk, settings: Settings, plant: Plant) -> Self {
        World {
            disk,
            settings,
            plant,
            store: None,
            committed: State::new(),
            older: Vec::new(),
            in_flight: Vec::new(),
            held: Vec::new(),
            folder: None,
            stale: None,
            turn: 0,
            seen: RefCell::default(),
            history: Vec::new(),
            inspects: true,
            inspect_every: 1,
        }
    }

    /// A world on what the disk holds already, whose state is not known yet.
    pub(crate) fn on(disk: Disk, settings: Settings, turn: u8) -> Done<Self> {
        let mut world = World::around(disk, settings, Plant::Nothing);
        world.turn = turn;
        world.open()?;
        Ok(world)
    }

    /// The same with a store that is open.
    pub(crate) fn of(disk: Disk, settings: Settings, store: Store, turn: u8) -> Self {
        let mut world = World::around(disk, settings, Plant::Nothing);
        (world.turn, world.store) = (turn, Some(store));
        world
    }

    /// The first index.
    pub(crate) fn begin(&mut self) -> Done {
        let first = Step::Create("a", self.settings.first.clone());
        self.transaction(&[first], End::Commit)
    }

    pub(crate) fn store(&self) -> Store {
        self.store.clone().expect("a store is open between operations")
    }

    pub(crate) fn open(&mut self) -> Done {
        let disk = self.disk.clone();
        let builder = Store::builder()
            .cache_bytes(self.settings.cache_bytes)
            .quick_repair(self.settings.quick_repair)
            .load_bytes(self.settings.load_bytes)
            .durability(if self.settings.durable { Durability::Immediate } else { Durability::None });
        let opened = builder.open_backend(move || Ok(disk.handle()));
        self.store = self.settle("open", &[], opened)?;
        Ok(())
    }

    /// Compares what a call returned with whether the model would refuse it: `Some` if both accept.
    pub(crate) fn settle<T>(
        &self,
        call: &'static str,
        refusals: &[&'static str],
        outcome: vellum::Result<T>,
    ) -> Done<Option<T>> {
        let count = |how| *self.seen.borrow_mut().entry((call, how)).or_default() += 1;
        match outcome {
            Ok(done) if refusals.is_empty() => {
                count("accepted");
                Ok(Some(done))
            }
            Ok(_) => mismatch(format!("{call}: accepted what should be refused as {refusals:?}")),
            Err(e) if refusals.contains(&kind(&e).as_str()) => {
                count("refused");
                Ok(None)
            }
            Err(e) if self.disk.fired() => {
                count("failed");
                Err(Stop::Fault(e))
            }
            Err(e) => mismatch(format!("{call}: refused as {e:?}, expected {refusals:?}")),
        }
    }

    pub(crate) fn count(&self, what: &'static str, how: &'static str) {
        *self.seen.borrow_mut().entry((what, how)).or_default() += 1;
    }

    /// Does one operation, and recovers if a fault struck.
    pub(crate) fn run(&mut self, operation: &Operation) -> Result<(), String> {
        self.turn = self.turn.wrapping_add(1);
        let done = match self.operation(operation) {
            Err(Stop::Mismatch(what)) => return Err(what),
            Err(Stop::Fault(_)) | Ok(()) if self.disk.fired() => self.recover(),
            Err(Stop::Fault(e)) => return Err(format!("{e:?}, but no fault struck")),
            Ok(()) => Ok(()),
        };
        done.map_err(|stop| format!("{stop:?}"))
    }

    /// Makes the first index, as the first operation, and recovers if a fault struck.
    pub(crate) fn start(&mut self) -> Result<(), String> {
        match self.begin() {
            Err(Stop::Fault(_)) | Ok(()) if self.disk.fired() => self.recover(),
            done => done,
        }
        .map_err(|stop| format!("{stop:?}"))
    }

    /// After the last operation: everything closed, opened again and inspected.
    pub(crate) fn finish(&mut self) -> Result<(), String> {
        if self.disk.heal() {
            self.recover().map_err(|stop| format!("{stop:?}"))?;
        }
        self.close().map_err(|stop| format!("{stop:?}"))
    }

    fn operation(&mut self, operation: &Operation) -> Done {
        match operation {
            Operation::Transaction { steps, end } => self.transaction(steps, *end)?,
            Operation::Read { index, read } => {
                let store = self.store();
                let Some(txn) = self.settle("begin_read", &[], store.begin_read())? else { return Ok(()) };
                if let Some(reader) = self.settle("open index", &self.unusable(index), txn.index(index))? {
                    reads::read(self, &reader, &self.committed[*index], read)?;
                }
            }
            Operation::Hold { at_once } => self.hold(*at_once)?,
            Operation::Release if !self.held.is_empty() => drop(self.held.remove(0)),
            Operation::Release => {}
            Operation::Close => self.close()?,
            Operation::Reopen => self.reopen()?,
            Operation::Flush => {
                let store = self.store();
                self.settle("flush", &[], store.flush())?;
                self.older.clear();
                self.record(true);
            }
            Operation::Compact => {
                let store = self.store();
                let refusals: &[_] = if self.held.is_empty() { &[] } else { &["InUse"] };
                self.settle("compact", refusals, store.compact())?;
                self.check()?;
            }
            Operation::Backup => self.backup()?,
            Operation::Load { index, fresh, batches, finish } => {
                let unfinished = self.committed.get(*index).is_some_and(|model| model.loading.is_some());
                if let (Some(spec), false) = (fresh, unfinished) {
                    self.transaction(&[Step::Drop(index), Step::Create(index, spec.clone())], End::Commit)?;
                }
                self.load(index, batches, *finish)?;
            }
            Operation::DiscardLoad { index } => self.discard(index)?,
            Operation::Repair { index } => self.repair(index)?,
            Operation::Fail { after, reads, for_ever } => {
                self.disk.fail(Fault {
                    after: *after,
                    reads: *reads,
                    for_ever: *for_ever,
                    kind: Kind::Short,
                });
            }
        }
        self.compare_held()
    }

    /// Why `index` cannot be opened, as committed.
    fn unusable(&self, index: &str) -> Vec<&'static str> {
        unusable(self.committed.get(index))
    }

    pub(crate) fn acknowledged(&mut self, state: State, durable: bool) {
        let before = std::mem::replace(&mut self.committed, state);
        if durable {
            self.older.clear();
        } else {
            self.older.push(before);
        }
        self.record(durable);
    }

    /// Notes what is committed, if the disk records.
    pub(crate) fn record(&mut self, durable: bool) {
        if let Some(at) = self.disk.recorded() {
            self.history.push(Acknowledged { at, durable, state: self.committed.clone() });
        }
    }

    // ---- transactions ----

    fn transaction(&mut self, steps: &[Step], end: End) -> Done {
        let store = self.store();
        let Some(txn) = self.settle("begin_write", &[], store.begin_write())? else { return Ok(()) };
        if self.plant == Plant::LoseCommit {
            self.stale = Some(self.disk.image());
        }
        let mut state = self.committed.clone();
        for step in steps {
            if let Err(stop) = self.step(&txn, &mut state, step) {
                if end == End::Commit && matches!(stop, Stop::Fault(_)) && txn.commit().is_ok() {
                    return mismatch(format!("committed after {step:?} had failed"));
                }
                return Err(stop);
            }
        }
        self.end(txn, state, end)?;
        self.check_now_and_then()
    }

    fn end(&mut self, txn: WriteTxn, state: State, end: End) -> Done {
        match end {
            End::Drop => drop(txn),
            End::Abort => {
                self.settle("abort", &[], txn.abort())?;
                if self.plant == Plant::BelieveAbort {
                    self.committed = state;
                }
            }
            End::Commit => {
                let outcome = txn.commit();
                if outcome.is_err() {
                    self.in_flight.push(state.clone());
                }
                self.settle("commit", &[], outcome)?;
                self.acknowledged(state, self.settings.durable);
            }
        }
        Ok(())
    }

    // ---- verbs of the store ----

    fn hold(&mut self, at_once: bool) -> Done {
        if self.held.len() == HELD_MAX {
            self.held.remove(0);
        }
        let store = self.store();
        let Some(txn) = self.settle("begin_read", &[], store.begin_read())? else { return Ok(()) };
        let mut held = Held { txn, state: self.committed.clone(), readers: BTreeMap::new() };
        if at_once {
            self.compare(&mut held)?;
        }
        self.held.push(held);
        Ok(())
    }

    /// Kept readers answer as the model at their commit.
    fn compare_held(&mut self) -> Done {
        let mut held = std::mem::take(&mut self.held);
        let done = held.iter_mut().try_for_each(|held| self.compare(held));
        self.held = held;
        done
    }

    fn compare(&self, held: &mut Held) -> Done {
        let state = if self.plant == Plant::NewestForReaders { &self.committed } else { &held.state };
        for (name, model) in state {
            let refusals = unusable(Some(model));
            if !held.readers.contains_key(name)
                && let Some(reader) = self.settle("open index", &refusals, held.txn.index(name))?
            {
                held.readers.insert(name.clone(), reader);
            }
            if let Some(reader) = held.readers.get(name) {
                self.count("kept reader", "compared");
                reads::glance(self, reader, model, self.turn)?;
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Done {
        self.held.clear();
        self.store = None;
        if let Some(image) = self.stale.take() {
            self.disk.restore(image);
        }
        if self.disk.fired() {
            // Commits that were not durable yet may be lost.
            return Ok(());
        }
        self.older.clear();
        self.open()?;
        self.check()
    }

    fn reopen(&mut self) -> Done {
        let store = self.store();
        if !self.held.is_empty() {
            self.settle("reopen while read", &["Locked"], store.reopen())?;
            self.settle("begin_read after that", &["NeedsReopen"], store.begin_read().map(|_| ()))?;
            self.compare_held()?;
            self.held.clear();
        }
        let outcome = store.reopen();
        self.settle("reopen", &[], outcome)?;
        if self.disk.fired() {
            return Ok(());
        }
        self.older.clear();
        self.check()
    }

    fn backup(&mut self) -> Done {
        if self.folder.is_none() {
            self.folder = Some(tempfile::tempdir().expect("a temporary folder"));
        }
        let path = self.folder.as_ref().expect("just made").path().join("copy.vellum");
        let outcome = self.store().backup(&path, &mut Observer::none());
        if outcome.is_err() && path.exists() {
            return mismatch("a backup failed and left its file");
        }
        let Some(report) = self.settle("backup", &[], outcome)? else { return Ok(()) };
        let rows: usize = self.committed.values().map(|model| model.rows.len()).sum();
        if (report.indexes, report.rows) != (self.committed.len(), rows as u64) {
            return mismatch(format!("{report:?} of {} indexes and {rows} rows", self.committed.len()));
        }
        let copy = self.settle("open backup", &[], Store::open(&path))?;
        let same = copy.map_or(Ok(()), |copy| self.inspect(&copy, &self.committed, false));
        std::fs::remove_file(&path).expect("the copy can be removed");
        same
    }

    /// On a healthy store a repair changes nothing, except that it ends an unfinished load.
    fn repair(&mut self, index: &str) -> Done {
        let store = self.store();
        let Some(txn) = self.settle("begin_write", &[], store.begin_write())? else { return Ok(()) };
        let mut state = self.committed.clone();
        let refusals = all([(!state.contains_key(index), "UnknownIndex")]);
        let opened = self.settle("open damaged index", &refusals, txn.damaged_index(index))?;
        let (Some(mut writer), Some(model)) = (opened, state.get_mut(index)) else { return Ok(()) };
        model.loading = None;
        let outcome = writer.repair(&mut Observer::none());
        let report = self.settle("repair", &[], outcome)?.unwrap_or_default();
        let mut nothing = vellum::RepairReport::default();
        nothing.rows = model.rows.len() as u64;
        if report != nothing {
            return mismatch(format!("repair of a healthy index: {report:?}"));
        }
        drop(writer);
        self.end(txn, state, End::Commit)?;
        self.check()
    }

    // ---- comparing whole states ----

    /// What a new reader sees is the last acknowledged commit.
    pub(crate) fn check(&self) -> Done {
        if self.inspects { self.inspect(&self.store(), &self.committed, false) } else { Ok(()) }
    }

    /// The same, but not every time.
    pub(crate) fn check_now_and_then(&self) -> Done {
        if self.turn.is_multiple_of(self.inspect_every) { self.check() } else { Ok(()) }
    }

    /// Reads everything that the store holds against one state after another; which it is. All of it is verified first.
    pub(crate) fn find(&mut self, states: &[&State]) -> Result<usize, String> {
        let store = self.store();
        self.verify(&store).map_err(|stop| format!("{stop:?}"))?;
        let mut reasons = Vec::new();
        for (i, state) in states.iter().enumerate() {
            match self.compare_state(&store, state, true) {
                Ok(()) => {
                    self.committed = (*state).clone();
                    return Ok(i);
                }
                Err(stop) => reasons.push(stop),
            }
        }
        Err(format!("the store is in none of {} states: {reasons:?}", states.len()))
    }

    fn verify(&self, store: &Store) -> Done {
        let Some(txn) = self.settle("begin_read", &[], store.begin_read())? else { return Ok(()) };
        for name in self.settle("indexes", &[], txn.indexes())?.unwrap_or_default() {
            let report = self.settle("verify", &[], txn.verify(&name, &mut Observer::none()))?;
            let report = report.unwrap_or_default();
            if !self.disk.fired() && !report.is_ok() {
                return mismatch(format!("index {name}: {:?}", report.problems));
            }
        }
        Ok(())
    }

    /// Verifies a store and compares everything about it with the model; with `probe` also the next id, which only a
    /// writer shows.
    fn inspect(&self, store: &Store, state: &State, probe: bool) -> Done {
        self.verify(store)?;
        self.compare_state(store, state, probe)
    }

    fn compare_state(&self, store: &Store, state: &State, probe: bool) -> Done {
        let Some(txn) = self.settle("begin_read", &[], store.begin_read())? else { return Ok(()) };
        let names = self.settle("indexes", &[], txn.indexes())?.unwrap_or_default();
        if !names.iter().eq(state.keys()) {
            return mismatch(format!("indexes {names:?}, expected {:?}", state.keys()));
        }
        for (name, model) in state {
            match txn.index(name) {
                Err(Error::Unfinished { rows, .. }) if model.loading == Some(rows) => {}
                Err(Error::Unfinished { rows, .. }) => {
                    return mismatch(format!("{rows} rows loaded, expected {:?}", model.loading));
                }
                opened => {
                    let opened = self.settle("open index", &unusable(Some(model)), opened)?;
                    let Some(reader) = opened else { return mismatch("not loading") };
                    reads::inspect(self, &reader, model, self.turn)?;
                }
            }
        }
        if probe { self.probe(store, state) } else { Ok(()) }
    }

    /// The next id of each index, seen by adding a vector and aborting.
    fn probe(&self, store: &Store, state: &State) -> Done {
        let Some(txn) = self.settle("begin_write", &[], store.begin_write())? else { return Ok(()) };
        for (name, model) in state.iter().filter(|(_, model)| model.loading.is_none()) {
            let Some(mut writer) = self.settle("open writer", &[], txn.index(name))? else { continue };
            let row = super::model::vector(&model.spec, 0);
            let row = Rows::one(&row).expect("one row");
            let ids = match model.spec.keys() {
                true => writer.add_with_keys(&["a key that no other operation uses"], row),
                false => writer.add(row),
            };
            let refusals = all([(model.next_id == u64::MAX, "IndexFull")]);
            let ids = self.settle("add", &refusals, ids)?;
            if ids.is_some_and(|ids| ids.start != model.next_id) {
                return mismatch(format!("index {name}: the next id is not {}", model.next_id));
            }
        }
        self.settle("abort", &[], txn.abort())?;
        Ok(())
    }

    /// A fault struck. While the handle is latched no verb may panic or answer wrongly; once the disk is
    /// well again, reopening brings back the last acknowledged commit or the one in flight.
    fn recover(&mut self) -> Done {
        self.count("fault", "struck");
        let mut states = vec![self.committed.clone()];
        states.append(&mut self.in_flight);
        states.append(&mut self.older);
        if let Some(store) = self.store.clone() {
            if let Err(Stop::Mismatch(what)) = self.verify(&store) {
                return mismatch(format!("after the fault: {what}"));
            }
            self.is_one_of(&store, &states)?;
            let _ = store.flush();
            let _ = store.discard_load("no such index");
            if self.turn.is_multiple_of(2) {
                // Reopening may fail as well, and can be tried again.
                let _ = store.reopen();
            }
        }
        let compared = self.compare_held();
        if let Err(Stop::Mismatch(what)) = compared {
            return mismatch(what);
        }
        self.disk.heal();
        match self.store.clone() {
            None => self.open()?,
            Some(store) => {
                if !self.held.is_empty() {
                    self.settle("reopen while read", &["Locked"], store.reopen())?;
                    self.held.clear();
                }
                self.settle("reopen after a fault", &[], store.reopen())?;
            }
        }
        self.verify(&self.store())?;
        let found = self.is_one_of(&self.store(), &states)?;
        self.count("after a fault", if found == 0 { "last commit" } else { "another commit" });
        self.committed = states.swap_remove(found);
        Ok(())
    }

    /// Which of the states the store is in, or the first that a fault keeps from being compared.
    fn is_one_of(&self, store: &Store, states: &[State]) -> Done<usize> {
        let mut reasons = Vec::new();
        for (i, state) in states.iter().enumerate() {
            match self.compare_state(store, state, true) {
                Err(Stop::Mismatch(what)) => reasons.push(what),
                Err(Stop::Fault(_)) if !self.disk.fired() => return mismatch("a fault that nobody planned"),
                Err(Stop::Fault(_)) | Ok(()) => return Ok(i),
            }
        }
        mismatch(format!("after a fault the store is in none of its states: {reasons:?}"))
    }
}

/// Why an index cannot be opened.
pub(crate) fn unusable(model: Option<&IndexModel>) -> Vec<&'static str> {
    match model {
        None => vec!["UnknownIndex"],
        Some(model) if model.loading.is_some() => vec!["Unfinished"],
        Some(_) => Vec::new(),
    }
}

/// The reasons that hold.
pub(crate) fn all<const N: usize>(reasons: [(bool, &'static str); N]) -> Vec<&'static str> {
    reasons.into_iter().filter_map(|(holds, reason)| holds.then_some(reason)).collect()
}

/// The name of an error's variant.
fn kind(e: &Error) -> String {
    format!("{e:?}").chars().take_while(|c| c.is_alphanumeric()).collect()
}
