//! Bulk loads, which commit by themselves: begun, resumed, finished, left unfinished, thrown away.

use super::model::{IndexModel, components, repeats};
use super::script::{Batch, Ids};
use super::world::{Done, World, all, mismatch};
use vellum::Rows;

impl World {
    pub(crate) fn load(
        &mut self,
        index: &'static str,
        batches: &[(Option<Ids>, Batch)],
        finish: bool,
    ) -> Done {
        let mut state = self.committed.clone();
        let mut refusals = all([(!state.contains_key(index), "UnknownIndex")]);
        if let Some(model) = state.get_mut(index) {
            refusals.extend(model.spec.keys().then_some("IdKind"));
            refusals.extend((model.loading.is_none() && !model.rows.is_empty()).then_some("Parameter"));
            model.loading.get_or_insert(0);
        }
        let begun = self.store().bulk_load(index);
        if begun.is_err() && refusals.is_empty() {
            self.in_flight.push(state.clone());
        }
        let Some(mut load) = self.settle("bulk_load", &refusals, begun)? else { return Ok(()) };
        self.acknowledged(state.clone(), true);
        let resumed = state[index].loading != Some(0);
        self.count("bulk_load", if resumed { "resumed" } else { "begun" });

        let mut gathered: Vec<(u64, Vec<f32>)> = Vec::new();
        for (ids, batch) in batches {
            let model = &state[index];
            if Some(load.rows_done()) != model.loading {
                return mismatch(format!("{} rows done, expected {:?}", load.rows_done(), model.loading));
            }
            let (data, dim, refusal) = components(&model.spec, &batch.seeds, batch.wrong, true);
            let n = batch.seeds.len();
            let next = gathered.iter().map(|(id, _)| id + 1).max().unwrap_or(0).max(model.next_id);
            let ids = ids.as_ref().map(|ids| model.ids(ids, n, batch.wrong));
            let full = ids.is_none() && next.checked_add(n as u64).is_none();
            let mut refusals = all([(full, "IndexFull")]);
            refusals.extend(refusal);
            let there =
                |id: &u64| model.rows.contains_key(id) || gathered.iter().any(|(other, _)| id == other);
            if let Some(ids) = &ids {
                let twice = repeats(ids) || ids.iter().any(there);
                refusals.extend(all([
                    (ids.len() != n, "Length"),
                    (ids.contains(&u64::MAX), "InvalidId"),
                    (twice, "DuplicateId"),
                ]));
            }
            let rows = Rows::new(&data, dim).expect("whole rows");
            let outcome = match &ids {
                Some(ids) => load.add_with_ids(ids, rows),
                None if full => load.add(rows).map(|_| ()),
                None => load.add(rows).map(|range| {
                    assert_eq!(range, next..next + n as u64, "ids of a bulk load");
                }),
            };
            if refusals.is_empty() {
                let ids = ids.unwrap_or_else(|| (next..next + n as u64).collect());
                gathered.extend(ids.into_iter().zip(data.chunks_exact(dim).map(<[f32]>::to_vec)));
                // A transaction holds so many rows, however many come at once.
                let rows_per_commit = self.settings.load_bytes.div_ceil(4 * dim);
                let mut states = Vec::new();
                while gathered.len() >= rows_per_commit {
                    let rest = gathered.split_off(rows_per_commit);
                    flush_load(state.get_mut(index).expect("it is there"), &mut gathered);
                    gathered = rest;
                    states.push(state.clone());
                }
                match outcome.is_ok() {
                    true => states.into_iter().for_each(|state| self.acknowledged(state, true)),
                    false => self.in_flight.extend(states),
                }
            }
            self.settle("bulk_load add", &refusals, outcome)?;
        }
        if finish {
            let model = state.get_mut(index).expect("it is there");
            flush_load(model, &mut gathered);
            model.loading = None;
            let outcome = load.finish();
            match outcome.is_ok() {
                true => self.acknowledged(state, true),
                false => self.in_flight.push(state),
            }
            self.settle("bulk_load finish", &[], outcome)?;
        } else {
            drop(load);
        }
        self.check_now_and_then()
    }

    pub(crate) fn discard(&mut self, index: &str) -> Done {
        let mut state = self.committed.clone();
        let loading = state.get(index).is_some_and(|model| model.loading.is_some());
        let refusals = all([(!state.contains_key(index), "UnknownIndex"), (!loading, "Parameter")]);
        let rows = state.get(index).map(|model| model.rows.len() as u64);
        let outcome = self.store().discard_load(index);
        if refusals.is_empty() {
            let model = state.get_mut(index).expect("it is there");
            model.rows.clear();
            model.loading = None;
            match outcome.is_ok() {
                true => self.acknowledged(state, self.settings.durable),
                false => self.in_flight.push(state),
            }
        }
        match self.settle("discard_load", &refusals, outcome)? {
            Some(gone) if Some(gone) != rows => mismatch(format!("discarded {gone} rows, expected {rows:?}")),
            _ => self.check_now_and_then(),
        }
    }
}

/// Commits what a bulk load has gathered, in the model.
fn flush_load(model: &mut IndexModel, gathered: &mut Vec<(u64, Vec<f32>)>) {
    model.loading = Some(model.loading.unwrap_or(0) + gathered.len() as u64);
    for (id, row) in gathered.drain(..) {
        model.insert(id, &row);
    }
}
