//! What happens within a transaction, to a writer and to the model.

use super::model::{IndexModel, State, components, repeats};
use super::reads;
use super::script::{Batch, Ids, Keys, Step, Verb, Wrong};
use super::world::{Done, Plant, World, all, mismatch, unusable};
use vellum::{IndexWriter, Observer, Rerank, Rows, TrainParams, WriteTxn};

impl World {
    pub(crate) fn step(&self, txn: &WriteTxn, state: &mut State, step: &Step) -> Done {
        let invalid = |name: &str| name.contains('/');
        match step {
            Step::Create(name, spec) => {
                let refusals =
                    all([(invalid(name), "IndexName"), (state.contains_key(*name), "IndexExists")]);
                if self.settle("create_index", &refusals, txn.create_index(name, spec))?.is_some() {
                    state.insert((*name).into(), IndexModel::new(spec));
                }
            }
            Step::Drop(name) => {
                let refusals = all([(!state.contains_key(*name), "UnknownIndex")]);
                if self.settle("drop_index", &refusals, txn.drop_index(name))?.is_some() {
                    state.remove(*name);
                }
            }
            Step::Rename(from, to) => {
                let refusals = all([
                    (invalid(to), "IndexName"),
                    (!state.contains_key(*from), "UnknownIndex"),
                    (state.contains_key(*to), "IndexExists"),
                ]);
                if self.settle("rename_index", &refusals, txn.rename_index(from, to))?.is_some() {
                    let model = state.remove(*from).expect("it was there");
                    state.insert((*to).into(), model);
                }
            }
            Step::DropWhileOpen(name) => {
                let opened = self.settle("open writer", &unusable(state.get(*name)), txn.index(name))?;
                let Some(_writer) = opened else { return Ok(()) };
                let busy = &["InUse"];
                self.settle("drop_index while open", busy, txn.drop_index(name))?;
                self.settle("rename_index while open", busy, txn.rename_index(name, "ça va bien"))?;
                self.settle("open a second writer", busy, txn.index(name).map(|_| ()))?;
            }
            Step::Merge(into, from, add) => {
                let read = self.settle("begin_read", &[], self.store().begin_read())?;
                let Some(other) = read.map(|read| read.index(from)) else { return Ok(()) };
                let Some(other) = self.settle("open index", &[], other)? else { return Ok(()) };
                let rows = self.committed[*from].rows.clone();
                let opened = self.settle("open writer", &[], txn.index(into))?;
                let (Some(mut writer), Some(model)) = (opened, state.get_mut(*into)) else { return Ok(()) };
                let merged = writer.merge_from(&other, *add, &mut Observer::none());
                if self.settle("merge_from", &[], merged)? != Some(rows.len() as u64) {
                    return mismatch(format!("merged {} rows otherwise", rows.len()));
                }
                rows.iter().for_each(|(id, row)| model.insert(id + add, row));
            }
            Step::Copy { from, to, cut } => self.copy(txn, state, from, to, *cut)?,
            Step::Index { name, verbs, suited } => {
                let opened = self.settle("open writer", &unusable(state.get(*name)), txn.index(name))?;
                let (Some(mut writer), Some(model)) = (opened, state.get_mut(*name)) else { return Ok(()) };
                for verb in verbs {
                    let verb = if *suited { verb.suited(model.spec.keys()) } else { verb.clone() };
                    self.verb(&mut writer, model, &verb.shortened(model.spec.dim()))?;
                    if writer.len() != model.rows.len() as u64 || writer.is_poisoned() {
                        return mismatch(format!("{} rows, expected {}", writer.len(), model.rows.len()));
                    }
                }
            }
        }
        let names = self.settle("indexes", &[], txn.indexes())?.unwrap_or_default();
        match names.iter().eq(state.keys()) {
            true => Ok(()),
            false => mismatch(format!("indexes {names:?}, expected {:?}", state.keys())),
        }
    }

    fn verb(&self, writer: &mut IndexWriter<'_>, model: &mut IndexModel, verb: &Verb) -> Done {
        match verb {
            Verb::Add(batch) => self.add(writer, model, batch),
            Verb::AddWithIds(ids, batch) => self.with_ids("add_with_ids", writer, model, ids, batch),
            Verb::AddPreassigned(ids, batch, lists) => {
                self.add_preassigned(writer, model, ids, batch, *lists)
            }
            Verb::AddCodes(ids, batch, lists) => self.add_codes(writer, model, ids, batch, *lists),
            Verb::Upsert(ids, batch) => self.with_ids("upsert", writer, model, ids, batch),
            Verb::Update(ids, batch) => self.with_ids("update_vectors", writer, model, ids, batch),
            Verb::AddWithKeys(keys, batch) => self.with_keys("add_with_keys", writer, model, keys, batch),
            Verb::UpsertWithKeys(keys, batch) => {
                self.with_keys("upsert_with_keys", writer, model, keys, batch)
            }
            Verb::UpdateWithKeys(keys, batch) => {
                self.with_keys("update_with_keys", writer, model, keys, batch)
            }
            Verb::Remove(selector) => {
                let mut gone: Vec<u64> =
                    model.rows.keys().copied().filter(|id| selector.holds(*id)).collect();
                let removed = writer.remove_ids(&selector.selector());
                let removed = self.settle("remove_ids", &[], removed)?;
                if removed != Some(gone.len() as u64) {
                    return mismatch(format!("removed {removed:?}, expected {gone:?}"));
                }
                if self.plant == Plant::ForgetRemoval {
                    gone.pop();
                }
                gone.into_iter().for_each(|id| model.remove(id));
                Ok(())
            }
            Verb::RemoveKeys(keys, n) => {
                let keys = model.keys(keys, *n, Wrong::Nothing);
                let mut gone: Vec<u64> = keys.iter().filter_map(|key| model.keys.get(key).copied()).collect();
                gone.sort_unstable();
                gone.dedup();
                let refusals = all([(!model.spec.keys(), "IdKind")]);
                if let Some(removed) = self.settle("remove_keys", &refusals, writer.remove_keys(&keys))? {
                    if removed != gone.len() as u64 {
                        return mismatch(format!("removed {removed}, expected {gone:?}"));
                    }
                    gone.into_iter().for_each(|id| model.remove(id));
                }
                Ok(())
            }
            Verb::Clear => {
                self.settle("clear", &[], writer.clear())?;
                model.rows.clear();
                model.keys.clear();
                model.scattered = false;
                Ok(())
            }
            Verb::Renumber => {
                let moved = writer.renumber(&mut Observer::none());
                match self.settle("renumber", &[], moved)? {
                    Some(moved) if moved > model.rows.len() as u64 => {
                        mismatch(format!("{moved} of {} rows moved", model.rows.len()))
                    }
                    _ => Ok(()),
                }
            }
            Verb::Train(batch, params) => self.train(writer, model, Some(batch), params),
            Verb::TrainStored(params) => self.train(writer, model, None, params),
            Verb::SetDefaults(params) => {
                let beyond = |value: Option<usize>| value.is_some_and(|v| v == 0 || v > u32::MAX as usize);
                let refused = params.selector.is_some()
                    || (params.rerank.is_some() && model.spec.kept_rows().is_none())
                    || beyond(params.nprobe)
                    || matches!(params.rerank, Some(Rerank::Rows(rows)) if beyond(Some(rows)));
                let refusals = all([(refused, "Parameter")]);
                let set = writer.set_search_defaults(&params.params());
                if self.settle("set_search_defaults", &refusals, set)?.is_some() {
                    model.defaults = params.clone();
                }
                Ok(())
            }
            Verb::Read(read) => reads::read(self, &writer.reader(), model, read),
        }
    }

    fn add(&self, writer: &mut IndexWriter<'_>, model: &mut IndexModel, batch: &Batch) -> Done {
        let (data, dim, refusal) = components(&model.spec, &batch.seeds, batch.wrong, true);
        let (first, n) = (model.next_id, batch.seeds.len() as u64);
        let mut refusals =
            all([(model.spec.keys(), "IdKind"), (first.checked_add(n).is_none(), "IndexFull")]);
        refusals.extend(refusal);
        let added = writer.add(Rows::new(&data, dim).expect("whole rows"));
        if let Some(ids) = self.settle("add", &refusals, added)? {
            if ids != (first..first + n) {
                return mismatch(format!("add gave ids {ids:?}, expected {n} from {first}"));
            }
            ids.zip(data.chunks_exact(dim)).for_each(|(id, row)| model.insert(id, row));
        }
        Ok(())
    }

    fn with_ids(
        &self,
        call: &'static str,
        writer: &mut IndexWriter<'_>,
        model: &mut IndexModel,
        ids: &Ids,
        batch: &Batch,
    ) -> Done {
        let (data, dim, refusal) = components(&model.spec, &batch.seeds, batch.wrong, true);
        let n = batch.seeds.len();
        let ids = model.ids(ids, n, batch.wrong);
        let there = ids.iter().filter(|id| model.rows.contains_key(*id)).count();
        let mut refusals = all([
            (ids.len() != n, "Length"),
            (repeats(&ids), "DuplicateId"),
            (ids.contains(&u64::MAX), "InvalidId"),
            (call != "update_vectors" && model.spec.keys(), "IdKind"),
            (call == "add_with_ids" && there > 0, "DuplicateId"),
            (call == "update_vectors" && there < ids.len(), "UnknownId"),
        ]);
        refusals.extend(refusal);
        let rows = Rows::new(&data, dim).expect("whole rows");
        let new = match call {
            "add_with_ids" => writer.add_with_ids(&ids, rows).map(|()| ids.len()),
            "upsert" => writer.upsert(&ids, rows),
            _ => writer.update_vectors(&ids, rows).map(|()| 0),
        };
        if let Some(new) = self.settle(call, &refusals, new)? {
            if new != ids.len() - there {
                return mismatch(format!("{call}: {new} new of {ids:?}, of which {there} were there"));
            }
            let keep = usize::from(self.plant == Plant::ForgetUpdate && there == n);
            let pairs = ids.into_iter().zip(data.chunks_exact(dim)).skip(keep);
            pairs.for_each(|(id, row)| model.insert(id, row));
        }
        Ok(())
    }

    fn with_keys(
        &self,
        call: &'static str,
        writer: &mut IndexWriter<'_>,
        model: &mut IndexModel,
        keys: &Keys,
        batch: &Batch,
    ) -> Done {
        let (data, dim, refusal) = components(&model.spec, &batch.seeds, batch.wrong, true);
        let n = batch.seeds.len();
        let keys = model.keys(keys, n, batch.wrong);
        let there = keys.iter().filter(|key| model.keys.contains_key(*key)).count();
        let new = (keys.len() - there) as u64;
        let mut refusals = all([
            (!model.spec.keys(), "IdKind"),
            (keys.len() != n, "Length"),
            (keys.iter().any(|key| !(1..=1024).contains(&key.len())), "InvalidId"),
            (repeats(&keys), "DuplicateKey"),
            (call == "add_with_keys" && there > 0, "DuplicateKey"),
            (call == "update_with_keys" && new > 0, "UnknownKey"),
            (model.next_id.checked_add(new).is_none(), "IndexFull"),
        ]);
        refusals.extend(refusal);
        let rows = Rows::new(&data, dim).expect("whole rows");
        let first = model.next_id;
        let done = match call {
            "add_with_keys" => {
                writer.add_with_keys(&keys, rows).map(|ids| (ids == (first..first + new), new))
            }
            "upsert_with_keys" => writer.upsert_with_keys(&keys, rows).map(|n| (true, n as u64)),
            _ => writer.update_with_keys(&keys, rows).map(|()| (true, 0)),
        };
        if let Some(done) = self.settle(call, &refusals, done)? {
            if done != (true, new) {
                return mismatch(format!("{call}: {done:?}, expected {new} new ids from {first}"));
            }
            for (key, row) in keys.into_iter().zip(data.chunks_exact(dim)) {
                let next = model.next_id;
                let id = *model.keys.entry(key).or_insert(next);
                model.insert(id, row);
            }
        }
        Ok(())
    }

    fn train(
        &self,
        writer: &mut IndexWriter<'_>,
        model: &mut IndexModel,
        batch: Option<&Batch>,
        params: &TrainParams,
    ) -> Done {
        let sample = params.sample_rows.unwrap_or(usize::MAX);
        let few = |rows: usize| model.spec.nlist().is_some_and(|nlist| rows.min(sample) < nlist);
        let mut refusals = all([(model.spec.nlist().is_none(), "Spec")]);
        let mut observer = Observer::none();
        let report = match batch {
            None => {
                refusals.extend(few(model.rows.len()).then_some("TooFewRows"));
                self.settle("train_stored", &refusals, writer.train_stored(params, &mut observer))?
            }
            Some(batch) => {
                let (data, dim, refusal) = components(&model.spec, &batch.seeds, batch.wrong, false);
                refusals.extend(refusal);
                refusals.extend(few(batch.seeds.len()).then_some("TooFewRows"));
                let rows = Rows::new(&data, dim).expect("whole rows");
                self.settle("train", &refusals, writer.train(rows, params, &mut observer))?
            }
        };
        let Some(report) = report else { return Ok(()) };
        (model.trained, model.scattered) = (true, false);
        match report.redistributed == model.rows.len() as u64 {
            true => Ok(()),
            false => mismatch(format!("{report:?}, but {} rows", model.rows.len())),
        }
    }
}
