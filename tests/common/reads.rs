//! The read verbs, compared with the model: of a frozen reader or of a writer, it is the same code.

use super::model::{IndexModel, components, is_within, same_vectors, sort, vector};
use super::places;
use super::script::{Goal, Params, Read, Sel, Wrong};
use super::world::{Done, Plant, World, mismatch};
use std::collections::BTreeSet;
use vellum::{IndexReader, Neighbor, Rerank, Rows, SearchParams, TopK};

/// Does one read verb.
pub(crate) fn read(world: &World, reader: &IndexReader<'_>, model: &IndexModel, read: &Read) -> Done {
    match read {
        Read::Search { queries, k, params } => {
            let (data, dim, refusal) = components(&model.spec, &queries.seeds, queries.wrong, false);
            let rows = Rows::new(&data, dim).expect("whole rows");
            let mut refusals = refused(model, params, Some(*k));
            refusals.extend(refusal);
            let found = reader.search_batch(rows, *k, &params.params());
            let Some(batch) = world.settle("search_batch", &refusals, found)? else { return Ok(()) };
            for (query, found) in rows.iter().zip(&batch) {
                let alone = reader.search(query, *k, &params.params());
                if world.settle("search", &[], alone)?.as_ref() != Some(found) {
                    return mismatch("a query alone is answered otherwise than in a batch");
                }
                answer(world, model, query, Goal::Nearest(*k), params, None, found)?;
            }
            Ok(())
        }
        Read::Range { queries, radius, params } => {
            let (data, dim, refusal) = components(&model.spec, &queries.seeds, queries.wrong, false);
            let rows = Rows::new(&data, dim).expect("whole rows");
            let mut refusals = refused(model, params, None);
            refusals.extend(refusal);
            refusals.extend(radius.is_nan().then_some("Parameter"));
            let found = reader.range_search_batch(rows, *radius, &params.params());
            let Some(batch) = world.settle("range_search_batch", &refusals, found)? else { return Ok(()) };
            for (query, found) in rows.iter().zip(&batch) {
                let alone = reader.range_search(query, *radius, &params.params());
                if world.settle("range_search", &[], alone)?.as_ref() != Some(found) {
                    return mismatch("a query alone is answered otherwise than in a batch");
                }
                answer(world, model, query, Goal::Within(*radius), params, None, found)?;
            }
            Ok(())
        }
        Read::Into { query, k, selector } => {
            let (data, _, refusal) = components(&model.spec, &query.seeds, query.wrong, false);
            let mut refusals: Vec<_> = refusal.into_iter().collect();
            refusals.extend((*k == 0).then_some("Parameter"));
            let mut heap = TopK::new(*k);
            let (inside, outside) = (selector.selector(), !selector.selector());
            let everything = match model.spec.kept_rows() {
                Some(_) => everything().rerank(usize::MAX),
                None => everything(),
            };
            let exact = !model.estimates() || model.judges_all(model.rows.len(), *k, Some(usize::MAX.into()));
            for (side, seen) in [(inside, Some(selector)), (outside, None)] {
                let params = everything.clone().selector(side);
                let searched = reader.search_into(&data, &mut heap, &params);
                if world.settle("search_into", &refusals, searched)?.is_some() {
                    let mut expected = model.ranked(&data, seen);
                    if exact {
                        expected.truncate(*k);
                        same(heap.neighbors(), &expected)?;
                    } else {
                        part(model, heap.neighbors(), &expected)?;
                    }
                }
            }
            Ok(())
        }
        Read::Preassigned { queries, goal, params, nprobe, lists } => {
            places::preassigned(world, reader, model, queries, *goal, params, *nprobe, *lists)
        }
        Read::Placed { queries, goal, params } => {
            places::placed(world, reader, model, queries, *goal, params)
        }
        Read::Encode(batch) => places::encode(world, reader, model, batch),
        Read::Residual(batch, ids) => places::residual(world, reader, model, batch, ids),
        Read::Reconstruct(ids, n) => {
            let ids = model.ids(ids, *n, Wrong::Nothing);
            let mut expected = Vec::new();
            let mut unknown = Vec::new();
            for id in &ids {
                let there = model.rows.get(id);
                if world.settle("contains", &[], reader.contains(*id))? != Some(there.is_some()) {
                    return mismatch(format!("contains {id}: expected {}", there.is_some()));
                }
                let refusals: &[_] = if there.is_some() { &[] } else { &["UnknownId"] };
                let vector = world.settle("reconstruct", refusals, reader.reconstruct(*id))?;
                let same = match (&vector, there) {
                    (Some(vector), Some(row)) => same_vectors(vector, row),
                    (vector, there) => vector.is_none() && there.is_none(),
                };
                if !same {
                    return mismatch(format!("vector {id} is {vector:?}, expected {there:?}"));
                }
                match there {
                    Some(row) => expected.extend_from_slice(row),
                    None => unknown = vec!["UnknownId"],
                }
            }
            match world.settle("reconstruct_batch", &unknown, reader.reconstruct_batch(&ids))? {
                Some(rows) if !same_vectors(&rows, &expected) => mismatch("reconstruct_batch differs"),
                _ => Ok(()),
            }
        }
        Read::Lookup(keys, ids) => {
            for key in model.keys(keys, 4, Wrong::Nothing) {
                let id = world.settle("id_of_key", &[], reader.id_of_key(&key))?.flatten();
                if id != model.keys.get(&key).copied() {
                    return mismatch(format!("key {key:?} stands for {id:?}"));
                }
            }
            for id in model.ids(ids, 4, Wrong::Nothing) {
                let key = world.settle("key", &[], reader.key(id))?.flatten();
                let expected = model.keys.iter().find(|(_, other)| **other == id).map(|(key, _)| key);
                if key.as_ref() != expected {
                    return mismatch(format!("id {id} has key {key:?}, expected {expected:?}"));
                }
            }
            Ok(())
        }
        Read::Stats => {
            let Some(stats) = world.settle("stats", &[], reader.stats())? else { return Ok(()) };
            let all = (model.places() * model.rows.len()) as u64;
            let expected = model.entries();
            if !expected.contains(&(stats.entries as usize)) || stats.entries + stats.twins != all {
                return mismatch(format!("{} entries, expected {expected:?}", stats.entries));
            }
            let said = (stats.rows, stats.lists, stats.trained, stats.spec);
            let expected = (model.rows.len() as u64, model.nlist(), model.trained, model.spec.clone());
            match same_spec(said == expected, &said.3, &expected.3) {
                true => Ok(()),
                false => mismatch(format!("stats say {said:?}, expected {expected:?}")),
            }
        }
    }
}

/// An index whose vectors need larger blocks than asked for has a larger order than its specification.
fn same_spec(same: bool, is: &vellum::IndexSpec, asked: &vellum::IndexSpec) -> bool {
    same || is.clone().with_block_order(asked.block_order()) == *asked
}

/// All lists, no limit, whatever the defaults.
fn everything() -> SearchParams {
    SearchParams::new().nprobe(usize::MAX).max_codes(0)
}

/// Why the parameters of a search must be refused.
pub(crate) fn refused(model: &IndexModel, params: &Params, k: Option<usize>) -> Vec<&'static str> {
    let rerank = params.rerank.is_some_and(|rerank| {
        let few = matches!(rerank, Rerank::Rows(rows) if rows < k.unwrap_or(1));
        few || model.spec.kept_rows().is_none()
    });
    let refused = params.nprobe == Some(0) || k == Some(0) || rerank;
    if refused { vec!["Parameter"] } else { Vec::new() }
}

/// Compares an answer with brute force: exactly if every list was probed, or else for everything that is
/// true of any subset of the lists. With `among` only these stand in the lists, and all of these lists were probed.
pub(crate) fn answer(
    world: &World,
    model: &IndexModel,
    query: &[f32],
    goal: Goal,
    params: &Params,
    among: Option<&BTreeSet<u64>>,
    found: &[Neighbor],
) -> Done {
    let among = among.filter(|_| world.plant != Plant::EveryList);
    let here = |id: &u64| among.is_none_or(|among| among.contains(id));
    let selector = params.selector.as_ref().filter(|_| world.plant != Plant::IgnoreSelector);
    let mut expected = model.ranked(query, selector);
    expected.retain(|neighbor| here(&neighbor.id));
    // One without a distance is scored, and counted, all the same.
    let admitted = |id: &&u64| here(id) && selector.is_none_or(|s| s.holds(**id));
    let selected = model.rows.keys().filter(admitted).count();
    let all_measured = expected.len() == selected;
    if world.plant == Plant::TiesByLargerId {
        expected.reverse();
        expected.sort_by(|a, b| match model.spec.metric().is_similarity() {
            true => b.distance.total_cmp(&a.distance),
            false => a.distance.total_cmp(&b.distance),
        });
    }
    let max_codes = params.max_codes.or(model.defaults.max_codes).unwrap_or(0);
    let max_codes = if max_codes == 0 { usize::MAX } else { max_codes };
    let mut count = max_codes.min(expected.len());
    match goal {
        Goal::Nearest(k) => count = count.min(k),
        Goal::Within(radius) => {
            let planted = world.plant == Plant::RadiusIncluded;
            let within = |n: &Neighbor| {
                is_within(model.spec.metric(), n.distance, radius) || planted && n.distance == radius
            };
            expected.retain(within);
            count = count.min(expected.len());
        }
    }
    let nprobe = params.nprobe.or(model.defaults.nprobe).unwrap_or(1);
    let every_list = among.is_some() || nprobe >= model.nlist();
    let all_judged = !model.estimates()
        || match goal {
            Goal::Nearest(k) => {
                let rows = among.map_or(model.rows.len(), BTreeSet::len);
                model.judges_all(rows, k, params.rerank.or(model.defaults.rerank))
            }
            Goal::Within(_) => false,
        };
    if every_list && max_codes == usize::MAX && all_judged {
        world.count("answer", "compared with brute force");
        return same(found, &expected[..count]);
    }
    world.count("answer", "compared as a part");
    part(model, found, &expected)?;
    // A selector that leaves somebody out goes on until it has k.
    let probed = params.probed() || model.defaults.probed();
    let further = max_codes == usize::MAX && selected < model.rows.len() && !probed;
    let complete = (every_list || further) && all_measured && matches!(goal, Goal::Nearest(_));
    // max_codes counts entries: where vectors stand in two lists, so many of them may be half as many vectors.
    let fewest = if complete { count.min(max_codes.div_ceil(model.places())) } else { 0 };
    match !(fewest..=count).contains(&found.len()) {
        true => mismatch(format!("{} found, expected {fewest} to {count}: {found:?}", found.len())),
        false => Ok(()),
    }
}

/// Sorted, nobody twice, and everybody at the distance that brute force says.
fn part(model: &IndexModel, found: &[Neighbor], expected: &[Neighbor]) -> Done {
    let mut sorted = found.to_vec();
    sort(model.spec.metric(), &mut sorted);
    same(found, &sorted)?;
    if found.windows(2).any(|pair| pair[0].id == pair[1].id) {
        return mismatch(format!("an id twice in {found:?}"));
    }
    match found.iter().find(|neighbor| !expected.contains(neighbor)) {
        Some(stranger) => mismatch(format!("{stranger:?} is not among {expected:?}")),
        None => Ok(()),
    }
}

pub(crate) fn same(found: &[Neighbor], expected: &[Neighbor]) -> Done {
    match found == expected {
        true => Ok(()),
        false => mismatch(format!("found {found:?}, expected {expected:?}")),
    }
}

/// Everything about an index.
pub(crate) fn inspect(world: &World, reader: &IndexReader<'_>, model: &IndexModel, turn: u8) -> Done {
    let said = (reader.len(), reader.is_trained(), reader.nlist(), reader.dim(), reader.metric());
    let spec = &model.spec;
    let expected = (model.rows.len() as u64, model.trained, model.nlist(), spec.dim(), spec.metric());
    if said != expected {
        return mismatch(format!("{said:?}, expected {expected:?}"));
    }
    let sizes = world.settle("list_sizes", &[], reader.list_sizes())?.unwrap_or_default();
    if sizes.len() != model.nlist() || !model.entries().contains(&sizes.iter().sum::<usize>()) {
        return mismatch(format!("lists of {sizes:?} for {} rows", model.rows.len()));
    }
    let ids: Vec<u64> = model.rows.keys().copied().collect();
    let rows = world.settle("reconstruct_batch", &[], reader.reconstruct_batch(&ids))?.unwrap_or_default();
    let expected: Vec<f32> = model.rows.values().flat_map(|row| row.iter().copied()).collect();
    if !same_vectors(&rows, &expected) {
        return mismatch("a vector is not as it was given");
    }
    for (key, id) in &model.keys {
        if world.settle("id_of_key", &[], reader.id_of_key(key))?.flatten() != Some(*id) {
            return mismatch(format!("key {key:?} does not stand for {id}"));
        }
    }
    defaults(reader, model)?;
    glance(world, reader, model, turn)
}

/// The stored defaults, as far as the model knows them.
fn defaults(reader: &IndexReader<'_>, model: &IndexModel) -> Done {
    let said = format!("{:?}", reader.search_defaults());
    let max_codes = format!("max_codes: Some({})", model.defaults.max_codes.unwrap_or(0));
    let nprobe = model.defaults.nprobe.map(|nprobe| format!("nprobe: Some({nprobe})"));
    let rerank = format!("rerank: {:?}", model.defaults.rerank);
    match [Some(max_codes), nprobe, Some(rerank)].iter().flatten().all(|part| said.contains(part.as_str())) {
        true => Ok(()),
        false => mismatch(format!("defaults {said}, expected {:?}", model.defaults)),
    }
}

/// A few answers of an index, other ones each turn.
pub(crate) fn glance(world: &World, reader: &IndexReader<'_>, model: &IndexModel, turn: u8) -> Done {
    let ids = world.settle("ids", &[], reader.ids())?.unwrap_or_default();
    if reader.len() != model.rows.len() as u64 || !ids.iter().eq(model.rows.keys()) {
        return mismatch(format!("ids {ids:?}, expected {:?}", model.rows.keys()));
    }
    for seed in [turn, turn.wrapping_mul(31)] {
        let query = vector(&model.spec, seed);
        let k = 1 + usize::from(seed) % 20;
        let found = world.settle("search", &[], reader.search(&query, k, &everything()))?;
        let all = Params { nprobe: Some(usize::MAX), max_codes: Some(0), ..Params::default() };
        answer(world, model, &query, Goal::Nearest(k), &all, None, &found.unwrap_or_default())?;
    }
    let last = model.rows.last_key_value();
    if let Some((id, row)) = last {
        let vector = world.settle("reconstruct", &[], reader.reconstruct(*id))?;
        if !vector.as_ref().is_some_and(|vector| same_vectors(vector, row)) {
            return mismatch(format!("vector {id} is {vector:?}, expected {row:?}"));
        }
    }
    let selector = Sel::Multiples(2);
    let query = vector(&model.spec, turn);
    let params = everything().selector(selector.selector());
    let found = world.settle("range_search", &[], reader.range_search(&query, 20.0, &params))?;
    let found = found.unwrap_or_default();
    match model.estimates() {
        true => part(model, &found, &model.within(&query, 20.0, Some(&selector))),
        false => same(&found, &model.within(&query, 20.0, Some(&selector))),
    }
}
