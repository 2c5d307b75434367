//! Searches whose lists are shared out among threads: for one query over many lists, and for few queries over unequal ones.
//!
//! ```text
//! stops of some queries, query after query | … | … | … |    cut into pieces of about as many entries
//!   each piece: collectors of its own queries, one scan  →  (query, its best entries of the piece)
//! per query: what its pieces found  →  one collector  →  rows scored again, ids
//! ```
//! The k best by (score, id) of a union are among the k best of its parts, so the answer is the one of a single scan.

use super::{
    BUFFERS, Collect, Lists, Progress, ROUTE, Request, STOPS_KEPT, Scan, Stop, look_at, probes, scanner,
};
use crate::index::model::Model;
use crate::index::view::{View, ViewIds};
use crate::math::topk::{Entry, Hit};
use crate::profile::{Clock, Stage};
use crate::{Result, Rows};
use rayon::prelude::*;

/// Pieces a thread: lists are unequal in what it takes to scan them.
const PIECES_A_THREAD: usize = 2;

/// Searches for `at_once` queries after the other.
pub(super) fn search(
    view: &dyn View,
    model: &Model,
    queries: Rows<'_>,
    request: &Request<'_>,
    at_once: usize,
) -> Result<Vec<Vec<Hit>>> {
    let mut hits = Vec::with_capacity(queries.len());
    for first in (0..queries.len()).step_by(at_once) {
        let some = queries.slice(first..queries.len().min(first + at_once));
        hits.extend(search_some(view, model, some, first, request)?);
    }
    Ok(hits)
}

fn search_some(
    view: &dyn View,
    model: &Model,
    queries: Rows<'_>,
    first: usize,
    request: &Request<'_>,
) -> Result<Vec<Vec<Hit>>> {
    let mut clock = Clock::start(request.stats);
    let projected = model.project(queries)?;
    let projected = Rows::of(&projected, model.inner_dim());
    let probes: Lists<'_> = probes(model, queries, projected, first, request)?;
    let mut route = ROUTE.take();
    route.lay(view, model, queries, projected, &probes, request)?;
    look_at(&clock, queries.len(), &route.stops);
    clock.lap(Stage::Coarse);
    let pieces = cut(&route.stops, PIECES_A_THREAD * rayon::current_num_threads());
    let scanned: Result<Vec<_>> =
        pieces.into_par_iter().map(|piece| scan(view, model, projected, piece, request)).collect();
    let mut found: Vec<Vec<Vec<Entry>>> = queries.iter().map(|_| Vec::new()).collect();
    for (query, entries) in scanned?.into_iter().flatten() {
        found[query].push(entries);
    }
    if route.stops.capacity() <= STOPS_KEPT {
        ROUTE.set(route);
    }
    clock.lap(Stage::Scan);
    let finish = |(query, parts): (usize, Vec<Vec<Entry>>)| {
        let ids = ViewIds(view);
        let mut collector = Collect::new(request.goal, &ids, model.spills());
        parts.into_iter().flatten().for_each(|entry| collector.offer(entry));
        let clock = Clock::start(request.stats);
        collector.finish(view, model, queries.row(query), request.goal, &clock)
    };
    let hits = found.into_par_iter().enumerate().map(finish).collect();
    clock.lap(Stage::Rank);
    hits
}

/// Cuts stops into so many pieces or fewer, of about as many entries each.
fn cut(stops: &[Stop], pieces: usize) -> Vec<&[Stop]> {
    let all: usize = stops.iter().map(|stop| stop.entries as usize).sum();
    let share = all.div_ceil(pieces).max(1);
    let (mut cut, mut from, mut held) = (Vec::with_capacity(pieces), 0, 0);
    for (at, stop) in stops.iter().enumerate() {
        held += stop.entries as usize;
        if held >= share {
            cut.push(&stops[from..=at]);
            (from, held) = (at + 1, 0);
        }
    }
    if from < stops.len() {
        cut.push(&stops[from..]);
    }
    cut
}

/// What each query of a piece has found in it.
fn scan(
    view: &dyn View,
    model: &Model,
    queries: Rows<'_>,
    piece: &[Stop],
    request: &Request<'_>,
) -> Result<Vec<(usize, Vec<Entry>)>> {
    let (Some(head), Some(tail)) = (piece.first(), piece.last()) else { return Ok(Vec::new()) };
    let (first, last) = (head.visit.query as usize, tail.visit.query as usize);
    let queries = queries.slice(first..last + 1);
    let ids = ViewIds(view);
    let mut collectors: Vec<_> =
        queries.iter().map(|_| Collect::new(request.goal, &ids, model.spills())).collect();
    let mut stops = piece.to_vec();
    stops.iter_mut().for_each(|stop| stop.visit.query -= first as u32);
    if queries.len() > 1 {
        stops.sort_by_key(|stop| stop.list);
    }
    let mut scan = Scan {
        view,
        model,
        request,
        scanner: scanner(model, queries, request),
        progress: Progress::new(request.limits),
        cut: None,
        buffers: BUFFERS.take(),
    };
    scan.all(&stops, &mut collectors)?;
    BUFFERS.set(scan.buffers);
    let numbered = collectors.into_iter().enumerate();
    numbered.map(|(query, collector)| Ok((first + query, collector.into_entries()?))).collect()
}
