//! Read verbs about lists, places and codes, compared with the model: searches in lists of the caller's choice, slots and
//! codes of what is found, codes of vectors that are nowhere, residuals.
//!
//! Which list a vector stands in the model does not know: it asks the index which ids a list has, and knows the rest.

use super::model::{IndexModel, components, same_vectors, stored};
use super::reads::{answer, refused, same};
use super::script::{Batch, Goal, Ids, Lists, Params};
use super::world::{Done, World, all, mismatch};
use std::collections::BTreeSet;
use std::sync::Arc;
use vellum::{
    Code, Encoding, FilterMode, IndexReader, Neighbor, Placed, Preassigned, Result, Rows, SearchParams,
};

/// Why a search for this must be refused.
fn refusals(model: &IndexModel, goal: Goal, params: &Params) -> Vec<&'static str> {
    let k = if let Goal::Nearest(k) = goal { Some(k) } else { None };
    let mut refusals = refused(model, params, k);
    refusals.extend(matches!(goal, Goal::Within(radius) if radius.is_nan()).then_some("Parameter"));
    refusals
}

fn in_lists(
    reader: &IndexReader<'_>,
    queries: Rows<'_>,
    lists: &Preassigned,
    goal: Goal,
    params: &SearchParams,
) -> Result<Vec<Vec<Neighbor>>> {
    match goal {
        Goal::Nearest(k) => reader.search_preassigned(queries, lists, k, params),
        Goal::Within(radius) => reader.range_search_preassigned(queries, lists, radius, params),
    }
}

fn in_nearest(
    reader: &IndexReader<'_>,
    queries: Rows<'_>,
    goal: Goal,
    params: &SearchParams,
) -> Result<Vec<Vec<Neighbor>>> {
    match goal {
        Goal::Nearest(k) => reader.search_batch(queries, k, params),
        Goal::Within(radius) => reader.range_search_batch(queries, radius, params),
    }
}

#[allow(clippy::too_many_arguments, reason = "the parts of one verb")]
pub(crate) fn preassigned(
    world: &World,
    reader: &IndexReader<'_>,
    model: &IndexModel,
    queries: &Batch,
    goal: Goal,
    params: &Params,
    nprobe: usize,
    lists: Lists,
) -> Done {
    let (data, dim, refusal) = components(&model.spec, &queries.seeds, queries.wrong, false);
    let rows = Rows::new(&data, dim).expect("whole rows");
    probed(world, reader, model, rows, refusal, goal, params, nprobe)?;

    let (named, wrong) = lists.of_queries(rows.len(), model.nlist());
    let mut refusals = refusals(model, goal, params);
    refusals.extend(refusal.into_iter().chain(wrong));
    let lists = Preassigned::of_lists(named.iter().map(|query| query.iter().copied()));
    let found = in_lists(reader, rows, &lists, goal, &params.params());
    let call = match goal {
        Goal::Nearest(_) => "search_preassigned",
        Goal::Within(_) => "range_search_preassigned",
    };
    let Some(batch) = world.settle(call, &refusals, found)? else { return Ok(()) };
    for (q, found) in batch.iter().enumerate() {
        let own = Preassigned::of_lists([named[q].iter().copied()]);
        let alone = in_lists(reader, rows.slice(q..q + 1), &own, goal, &params.params());
        if world.settle("one of them", &[], alone)?.is_none_or(|alone| alone[0] != *found) {
            return mismatch("a query alone is answered otherwise than in a batch");
        }
        let mut among = BTreeSet::new();
        for list in lists.lists(q).iter().take(params.nprobe.unwrap_or(usize::MAX)) {
            among.extend(world.settle("list", &[], reader.list(*list))?.unwrap_or_default().0);
        }
        answer(world, model, rows.row(q), goal, params, Some(&among), found)?;
    }
    Ok(())
}

/// What was probed, searched in, is what a search finds; with the distances of the probe and without.
#[allow(clippy::too_many_arguments, reason = "the parts of one verb")]
fn probed(
    world: &World,
    reader: &IndexReader<'_>,
    model: &IndexModel,
    rows: Rows<'_>,
    refusal: Option<&'static str>,
    goal: Goal,
    params: &Params,
    nprobe: usize,
) -> Done {
    let mut wrong = all([(nprobe == 0, "Parameter")]);
    wrong.extend(refusal);
    let Some(lists) = world.settle("probe", &wrong, reader.probe(rows, nprobe))? else { return Ok(()) };
    let named = |q| lists.lists(q).iter().map(|list| Some(*list)).collect::<Vec<_>>();
    for q in 0..rows.len() {
        let different: BTreeSet<_> =
            lists.lists(q).iter().filter(|l| (**l as usize) < model.nlist()).collect();
        if different.len() != nprobe.min(model.nlist()) {
            return mismatch(format!("{nprobe} lists of {} are {different:?}", model.nlist()));
        }
    }
    // A selector does not go beyond given lists.
    let plain = Params { nprobe: None, ..params.clone() };
    let refusals = refusals(model, goal, &plain);
    let plain = plain.params().filter_mode(FilterMode::Probed);
    let expected = in_nearest(reader, rows, goal, &plain.clone().nprobe(nprobe));
    let Some(expected) = world.settle("search what was probed", &refusals, expected)? else { return Ok(()) };
    let bare = Preassigned::of_lists((0..rows.len()).map(named));
    for lists in [&lists, &bare] {
        let found = in_lists(reader, rows, lists, goal, &plain);
        let found = world.settle("search in probed lists", &[], found)?.unwrap_or_default();
        found.iter().zip(&expected).try_for_each(|(found, expected)| same(found, expected))?;
        if found.len() != expected.len() {
            return mismatch(format!("{} answers to {} queries", found.len(), expected.len()));
        }
    }
    Ok(())
}

pub(crate) fn placed(
    world: &World,
    reader: &IndexReader<'_>,
    model: &IndexModel,
    queries: &Batch,
    goal: Goal,
    params: &Params,
) -> Done {
    let (data, dim, refusal) = components(&model.spec, &queries.seeds, queries.wrong, false);
    let rows = Rows::new(&data, dim).expect("whole rows");
    let mut refusals = refusals(model, goal, params);
    refusals.extend(refusal);
    let params = params.params();
    let (call, found) = match goal {
        Goal::Nearest(k) => ("search_slots", reader.search_slots(rows, k, &params)),
        Goal::Within(radius) => ("range_search_slots", reader.range_search_slots(rows, radius, &params)),
    };
    let Some(found) = world.settle(call, &refusals, found)? else { return Ok(()) };
    let plain = world.settle("search", &[], in_nearest(reader, rows, goal, &params))?.unwrap_or_default();
    if !found.iter().map(|found| neighbors(found)).eq(plain) {
        return mismatch(format!("{call} finds otherwise than a search: {found:?}"));
    }
    found.iter().flatten().try_for_each(|placed| place(world, reader, model, placed))?;
    let Goal::Nearest(k) = goal else { return Ok(()) };
    let coded = reader.search_and_return_codes(rows, k, &params);
    let coded = world.settle("search_and_return_codes", &[], coded)?.unwrap_or_default();
    let whole = reader.search_and_reconstruct(rows, k, &params);
    let whole = world.settle("search_and_reconstruct", &[], whole)?.unwrap_or_default();
    let all = || found.iter().flatten();
    let counts = [all().count(), coded.iter().flatten().count(), whole.iter().flatten().count()];
    if counts != [counts[0]; 3] {
        return mismatch(format!("{counts:?} found"));
    }
    for ((placed, (neighbor, found)), whole) in all().zip(coded.iter().flatten()).zip(whole.iter().flatten())
    {
        // The code is that of a vector's first entry, whichever was found.
        let same_slot = placed.slot == found.slot || model.places() == 2;
        if (placed.neighbor, placed.neighbor) != (*neighbor, whole.neighbor) || !same_slot {
            return mismatch(format!("{placed:?} comes with the code of {neighbor:?} at {:?}", found.slot));
        }
        if !same_vectors(&whole.vector, &model.rows[&neighbor.id]) {
            return mismatch(format!("{neighbor:?} comes with vector {:?}", whole.vector));
        }
        code(world, reader, model, neighbor.id, found)?;
    }
    Ok(())
}

fn neighbors(found: &[Placed]) -> Vec<Neighbor> {
    found.iter().map(|placed| placed.neighbor).collect()
}

/// Slot and id lead to each other, but where equal vectors share an entry, and where a vector has two: then it may be the other.
fn place(world: &World, reader: &IndexReader<'_>, model: &IndexModel, placed: &Placed) -> Done {
    let Placed { neighbor, slot } = placed;
    let by_id = world.settle("slot", &[], reader.slot(neighbor.id))?;
    let at = world.settle("id_at", &[], reader.id_at(*slot))?;
    let twin = |id: u64| {
        let shared = model.spec.encoding() == Encoding::FlatDedup && id <= neighbor.id;
        let equal = |row: &Arc<[f32]>| same_vectors(row, &model.rows[&neighbor.id]);
        shared && model.rows.get(&id).is_some_and(equal)
    };
    let own = by_id == Some(*slot) || model.places() == 2 && by_id.is_some();
    match own && at.is_some_and(|id| id == neighbor.id || twin(id)) {
        true => Ok(()),
        false => mismatch(format!("{placed:?}, but {at:?} is there, and the id at {by_id:?}")),
    }
}

/// The code of a stored vector is the one that its vector gets in that list.
fn code(world: &World, reader: &IndexReader<'_>, model: &IndexModel, id: u64, code: &Code) -> Done {
    let row = &model.rows[&id];
    let rows = Rows::one(row).expect("one row");
    let again = world.settle("encode_in", &[], reader.encode_in(rows, &[code.slot.list]))?;
    if again.as_ref() != Some(&code.bytes) {
        return mismatch(format!("{id} has code {code:?}, its vector {again:?}"));
    }
    if model.estimates() {
        return Ok(());
    }
    let vector = world.settle("reconstruct_at", &[], reader.reconstruct_at(code.slot))?;
    match vector.is_some_and(|vector| same_vectors(&vector, row)) {
        true => Ok(()),
        false => mismatch(format!("{code:?} is not vector {id}")),
    }
}

/// Stand-alone codes are list numbers and codes, and mean vectors.
pub(crate) fn encode(world: &World, reader: &IndexReader<'_>, model: &IndexModel, batch: &Batch) -> Done {
    let (data, dim, refusal) = components(&model.spec, &batch.seeds, batch.wrong, true);
    let rows = Rows::new(&data, dim).expect("whole rows");
    let mut refusals = all([(!model.trained, "Untrained")]);
    refusals.extend(refusal);
    let Some(alone) = world.settle("encode", &refusals, reader.encode(rows))? else { return Ok(()) };
    let lists = world.settle("assign", &[], reader.assign(rows))?.unwrap_or_default();
    let codes = world.settle("encode_in", &[], reader.encode_in(rows, &lists))?.unwrap_or_default();
    let number = reader.list_number_bytes();
    let parts = lists.iter().zip(codes.chunks_exact(reader.code_bytes()));
    let whole: Vec<u8> =
        parts.flat_map(|(list, code)| [&list.to_le_bytes()[..number], code].concat()).collect();
    if lists.len() != rows.len() || alone != whole {
        return mismatch(format!("codes {alone:?} are not those of lists {lists:?}"));
    }
    let mute = matches!(model.spec.encoding(), Encoding::SpectralHash(_)) && !rows.is_empty();
    let decoded = world.settle("decode", &all([(mute, "CannotDecode")]), reader.decode(&alone))?;
    if let Some((_, cut)) = alone.split_last().filter(|_| !mute) {
        world.settle("decode part of a code", &["Length"], reader.decode(cut))?;
    }
    let Some(decoded) = decoded else { return Ok(()) };
    let expected: Vec<f32> = rows.iter().flat_map(|row| stored(&model.spec, row).to_vec()).collect();
    let right = match model.estimates() {
        true => decoded.len() == expected.len() && decoded.iter().all(|v| v.is_finite()),
        false => same_vectors(&decoded, &expected),
    };
    match right {
        true => Ok(()),
        false => mismatch(format!("codes of {expected:?} are decoded as {decoded:?}")),
    }
}

pub(crate) fn residual(
    world: &World,
    reader: &IndexReader<'_>,
    model: &IndexModel,
    batch: &Batch,
    ids: &Ids,
) -> Done {
    let (data, dim, refusal) = components(&model.spec, &batch.seeds, batch.wrong, false);
    let rows = Rows::new(&data, dim).expect("whole rows");
    // The same id twice is no mistake here.
    let ids = model.ids(ids, rows.len(), batch.wrong);
    let unknown = ids.iter().any(|id| !model.rows.contains_key(id));
    let mut refusals = all([(ids.len() != rows.len(), "Length"), (unknown, "UnknownId")]);
    refusals.extend(refusal);
    let residuals = world.settle("compute_residual_n", &refusals, reader.compute_residual_n(rows, &ids))?;
    let Some(residuals) = residuals else { return Ok(()) };
    for ((row, id), residual) in rows.iter().zip(&ids).zip(residuals.chunks_exact(dim)) {
        let pairs = stored(&model.spec, row).to_vec().into_iter().zip(model.rows[id].iter());
        let expected: Vec<f32> = pairs.map(|(x, y)| x - y).collect();
        let alone = world.settle("compute_residual", &[], reader.compute_residual(row, *id))?;
        let alone = alone.unwrap_or_default();
        if !same_vectors(residual, &expected) || !same_vectors(&alone, &expected) {
            return mismatch(format!("{id} leaves {residual:?} and {alone:?}, expected {expected:?}"));
        }
    }
    Ok(())
}
