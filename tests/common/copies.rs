//! Vectors that come by another way than the nearest list: into given lists, as codes, and as parts of other indexes.

use super::model::{IndexModel, State, components, repeats, same_vectors};
use super::script::{Batch, Cut, Ids, Lists};
use super::world::{Done, Plant, World, all, mismatch, unusable};
use std::collections::{BTreeMap, BTreeSet};
use vellum::{Encoding, IndexReader, IndexWriter, Observer, Rows, Subset, WriteTxn};

/// Why ids for `n` new vectors must be refused.
pub(crate) fn refused_ids(model: &IndexModel, ids: &[u64], n: usize) -> Vec<&'static str> {
    all([
        (ids.len() != n, "Length"),
        (repeats(ids), "DuplicateId"),
        (ids.contains(&u64::MAX), "InvalidId"),
        (model.spec.keys(), "IdKind"),
        (ids.iter().any(|id| model.rows.contains_key(id)), "DuplicateId"),
    ])
}

impl World {
    pub(crate) fn add_preassigned(
        &self,
        writer: &mut IndexWriter<'_>,
        model: &mut IndexModel,
        ids: &Ids,
        batch: &Batch,
        lists: Lists,
    ) -> Done {
        let (data, dim, refusal) = components(&model.spec, &batch.seeds, batch.wrong, true);
        let n = batch.seeds.len();
        let ids = model.ids(ids, n, batch.wrong);
        let (lists, wrong) = lists.of_rows(n, model.nlist());
        let mut refusals = refused_ids(model, &ids, n);
        refusals.extend(refusal.into_iter().chain(wrong));
        let added = writer.add_preassigned(&ids, Rows::new(&data, dim).expect("whole rows"), &lists);
        if self.settle("add_preassigned", &refusals, added)?.is_some() {
            self.arrived(writer, model, &ids, &lists, &data)?;
        }
        Ok(())
    }

    /// Vectors stand where they were put.
    fn arrived(
        &self,
        writer: &IndexWriter<'_>,
        model: &mut IndexModel,
        ids: &[u64],
        lists: &[u32],
        data: &[f32],
    ) -> Done {
        for ((id, list), row) in ids.iter().zip(lists).zip(data.chunks_exact(model.spec.dim())) {
            let slot = self.settle("slot", &[], writer.reader().slot(*id))?;
            if slot.map(|slot| slot.list) != Some(*list) {
                return mismatch(format!("{id} was put into list {list} and stands at {slot:?}"));
            }
            model.insert(*id, row);
        }
        model.scattered |= model.spec.encoding() == Encoding::FlatDedup && !ids.is_empty();
        Ok(())
    }

    pub(crate) fn add_codes(
        &self,
        writer: &mut IndexWriter<'_>,
        model: &mut IndexModel,
        ids: &Ids,
        batch: &Batch,
        lists: Option<Lists>,
    ) -> Done {
        let (data, dim, refusal) = components(&model.spec, &batch.seeds, batch.wrong, true);
        let (rows, n) = (Rows::new(&data, dim).expect("whole rows"), batch.seeds.len());
        let mut refusals = all([(!model.trained, "Untrained")]);
        refusals.extend(refusal);
        let alone = self.settle("encode", &refusals, writer.reader().encode(rows))?;
        let Some(alone) = alone else { return Ok(()) };
        let ids = model.ids(ids, n, batch.wrong);
        let mut refusals = refused_ids(model, &ids, n);
        refusals.extend(model.spec.kept_rows().map(|_| "Incompatible"));
        let (lists, added) = match lists {
            None => {
                let lists = self.settle("assign", &[], writer.reader().assign(rows))?.unwrap_or_default();
                (lists, writer.add_codes(&ids, &alone))
            }
            Some(lists) => {
                let nlist = model.nlist();
                let (own, _) = Lists { wrong: super::script::WrongList::Nothing, ..lists }.of_rows(n, nlist);
                let encoded = writer.reader().encode_in(rows, &own);
                let codes = self.settle("encode_in", &[], encoded)?.unwrap_or_default();
                let (lists, wrong) = lists.of_rows(n, nlist);
                refusals.extend(wrong);
                let added = writer.add_codes_in(&ids, &lists, &codes);
                (lists, added)
            }
        };
        if self.settle("add_codes", &refusals, added)?.is_some() {
            self.arrived(writer, model, &ids, &lists, &data)?;
        }
        Ok(())
    }

    /// Makes index `to` of the parts of `from`. What came with keys has other ids there, so it goes again.
    pub(crate) fn copy(&self, txn: &WriteTxn, state: &mut State, from: &str, to: &str, cut: Cut) -> Done {
        let Some(read) = self.settle("begin_read", &[], self.store().begin_read())? else { return Ok(()) };
        let opened = self.settle("open index", &unusable(self.committed.get(from)), read.index(from))?;
        let Some(source) = opened else { return Ok(()) };
        let model = &self.committed[from];
        let refusals = all([(to.contains('/'), "IndexName"), (state.contains_key(to), "IndexExists")]);
        if self.settle("create_index", &refusals, txn.create_index(to, &model.spec))?.is_none() {
            return Ok(());
        }
        {
            let Some(mut writer) = self.settle("open writer", &[], txn.index(to))? else { return Ok(()) };
            self.copy_parts(&source, model, &mut writer, cut)?;
        }
        if model.spec.keys() || matches!(cut, Cut::Wrong) {
            self.settle("drop_index", &[], txn.drop_index(to))?;
            return Ok(());
        }
        let mut copy = IndexModel { trained: model.trained, ..IndexModel::new(&model.spec) };
        (copy.rows, copy.scattered) = (model.rows.clone(), model.scattered);
        copy.next_id = copy.rows.last_key_value().map_or(0, |(id, _)| id + 1);
        state.insert(to.into(), copy);
        Ok(())
    }

    fn copy_parts(
        &self,
        source: &IndexReader<'_>,
        model: &IndexModel,
        writer: &mut IndexWriter<'_>,
        cut: Cut,
    ) -> Done {
        if model.trained && model.spec.nlist().is_some() {
            let exported = self.settle("export_model", &[], source.export_model())?.unwrap_or_default();
            let imported = writer.import_model(&exported, &mut Observer::none());
            self.settle("import_model", &[], imported)?;
        }
        let mut lists = BTreeMap::new();
        for id in model.rows.keys() {
            let slot = self.settle("slot", &[], source.slot(*id))?;
            lists.insert(*id, slot.map_or(0, |slot| slot.list));
        }
        let mut copied = BTreeSet::new();
        for subset in subsets(cut) {
            let refusals = all([(matches!(cut, Cut::Wrong), "Parameter")]);
            let n = source.copy_subset_to(writer, &subset, &mut Observer::none());
            let Some(n) = self.settle("copy_subset_to", &refusals, n)? else { continue };
            let expected = size(&subset, &lists) + u64::from(self.plant == Plant::CopyMore);
            if n != expected {
                return mismatch(format!("{n} vectors copied as {subset:?}, expected {expected}"));
            }
            if model.spec.keys() {
                continue;
            }
            let there = self.settle("ids", &[], writer.reader().ids())?.unwrap_or_default();
            copied.extend(lists.iter().filter(|(id, list)| holds(&subset, **id, **list)).map(|(id, _)| *id));
            let exact = !matches!(subset, Subset::Elements(_) | Subset::ListPart { .. });
            if exact && !there.iter().eq(&copied) {
                return mismatch(format!("{subset:?} leaves ids {there:?}, expected {copied:?}"));
            }
        }
        let how = match cut {
            Cut::All => "whole",
            Cut::Ids(_) => "by id",
            Cut::Modulo(_) => "by remainder",
            Cut::Elements(_) => "by rank",
            Cut::ListPart(_) => "lists in parts",
            Cut::Lists(_) => "by list",
            Cut::Wrong => return Ok(()),
        };
        self.count("copied", how);
        self.same_contents(model, &writer.reader())
    }

    /// All parts together are the whole.
    fn same_contents(&self, model: &IndexModel, copy: &IndexReader<'_>) -> Done {
        if copy.len() != model.rows.len() as u64 {
            return mismatch(format!("{} vectors in all parts of {}", copy.len(), model.rows.len()));
        }
        let of_key: BTreeMap<u64, &Vec<u8>> = model.keys.iter().map(|(key, id)| (*id, key)).collect();
        for (id, row) in &model.rows {
            let there = match of_key.get(id) {
                None => Some(*id),
                Some(key) => self.settle("id_of_key", &[], copy.id_of_key(key))?.flatten(),
            };
            let Some(there) = there else { return mismatch(format!("the key of {id} was not copied")) };
            let vector = self.settle("reconstruct", &[], copy.reconstruct(there))?;
            if !vector.is_some_and(|vector| same_vectors(&vector, row)) {
                return mismatch(format!("vector {id} is not as it was"));
            }
        }
        Ok(())
    }
}

fn subsets(cut: Cut) -> Vec<Subset> {
    match cut {
        Cut::All => vec![Subset::All],
        Cut::Ids(at) => vec![Subset::Ids(0..at), Subset::Ids(at..u64::MAX)],
        Cut::Modulo(n) => (0..n).map(|remainder| Subset::IdModulo { modulus: n, remainder }).collect(),
        Cut::Elements(at) => vec![Subset::Elements(0..at), Subset::Elements(at..u64::MAX)],
        Cut::ListPart(parts) => (0..parts).map(|part| Subset::ListPart { parts, part }).collect(),
        Cut::Lists(at) => vec![Subset::Lists(0..at), Subset::Lists(at..u32::MAX)],
        Cut::Wrong => vec![
            Subset::IdModulo { modulus: 0, remainder: 0 },
            Subset::IdModulo { modulus: 2, remainder: 2 },
            Subset::ListPart { parts: 0, part: 0 },
            Subset::ListPart { parts: 3, part: 3 },
        ],
    }
}

/// True if the subset has the vector, for subsets that go by id or list.
fn holds(subset: &Subset, id: u64, list: u32) -> bool {
    match subset {
        Subset::Ids(ids) => ids.contains(&id),
        Subset::IdModulo { modulus, remainder } => id % modulus == *remainder,
        Subset::Lists(lists) => lists.contains(&list),
        _ => true,
    }
}

/// How many vectors the subset has of those in these lists.
fn size(subset: &Subset, lists: &BTreeMap<u64, u32>) -> u64 {
    let n = lists.len() as u64;
    match subset {
        Subset::Elements(ranks) => ranks.end.min(n) - ranks.start.min(n),
        Subset::ListPart { parts, part } => {
            let mut sizes = BTreeMap::<u32, u64>::new();
            lists.values().for_each(|list| *sizes.entry(*list).or_default() += 1);
            sizes.values().map(|n| n * (part + 1) / parts - n * part / parts).sum()
        }
        _ => lists.iter().filter(|(id, list)| holds(subset, **id, **list)).count() as u64,
    }
}
