//! Top-k searches with a selector that few rows pass: all of those rows, or more lists than were asked for.
//!
//! ```text
//! matching rows are fewer than pays to look for    their kept rows are scored, all of them; no list is entered
//! else, per query, lists nearest first:            count the entries that the filter admits (a pass over row numbers)
//!   none → passed over; nprobe lists seen and enough admitted → the rest is left alone
//!   lists run out before that → four times as many are asked for, up to all
//! ```
//! How far a query goes follows from the filter, the lists and the query alone, before anything is scored: batches,
//! threads and the way in which the filter is asked change nothing.

use super::{Lists, Request, Route, Stop};
use crate::codec::Visit;
use crate::index::filter::{Filter, Sized};
use crate::index::model::Model;
use crate::index::twins::for_each_twin;
use crate::index::view::View;
use crate::math::selector::RowSet;
use crate::{Result, Rows};
use std::collections::HashMap;
use std::sync::Arc;

/// How a search with a selector goes beyond its `nprobe` lists.
#[derive(Clone)]
pub(crate) enum Widen {
    /// These rows are scored and no others.
    Rows(Arc<RowSet>),
    /// Until so many entries were admitted; `first` lists are asked for to begin with.
    Lists { enough: usize, first: usize },
}

/// Scoring a kept row takes as long as scanning this many bytes of codes, beside its own: it is fetched by itself.
pub(crate) const FETCH_BYTES: usize = 512;

/// So many times the entries that a search scores without a selector should a search score with one that admits such a share of
/// the rows: what a thin one admits lies farther out, in more directions. Of 108,000 texts, half of them or a tenth admitted by
/// their source, `nprobe` 32 of 1,024 found .922 and .973 of the ten nearest with as many, .959 and .992 with twice as many;
/// without a selector .923. One that admits nearly all changes nothing unless what it leaves out is right where the query is.
fn times(share: f64) -> f64 {
    match share {
        0.75.. => 0.5,
        0.6.. => 1.0,
        _ => 2.0,
    }
}

/// So many times the rows are scored again, unless the caller said how many: far from a query vectors are about equally far, and more of
/// them look nearer by their codes than they are. Of 2,000 texts the ten nearest of the tenth that is farthest from each query were found
/// to .857 with as many rows as without a selector. (Of the farthest half .66 are found even so: its nearest are as far as the median, in every
/// direction.)
pub(crate) fn rows_again(share: f64) -> usize {
    match share {
        0.6.. => 1,
        0.25.. => 2,
        _ => 4,
    }
}

/// What a search would do without a selector.
#[derive(Clone, Copy)]
pub(crate) struct Plain {
    pub(crate) nprobe: usize,
    /// Vectors that are wanted, and rows that are scored again.
    pub(crate) k: usize,
    pub(crate) reranked: usize,
}

impl Widen {
    /// What suits the filter; `None` if there is nothing to filter.
    pub(crate) fn of(view: &dyn View, model: &Model, sized: &Sized, plain: Plain) -> Option<Self> {
        if sized.filter.is_all() {
            return None;
        }
        let (nlist, places) = (model.nlist(), model.places());
        // Rows, where those share entries: so they are counted, and the answer is that of an entry each.
        let entries = (view.header().ntotal as usize).saturating_mul(places);
        let share = entries.saturating_mul(plain.nprobe) / nlist;
        let enough = (share as f64 * times(sized.share)) as usize;
        let enough = enough.max(plain.k.saturating_mul(places));
        if let (Filter::Rows(rows), Some(matching), Some(kept)) =
            (&sized.filter, sized.matching, model.judge().and(model.kept.first()))
            && view.is_whole()
        {
            let a_row = (kept.form.width() + FETCH_BYTES).div_ceil(model.codec.layout().code_bytes());
            let scanned = enough.saturating_mul(entries) / (matching * places).max(1);
            if matching <= plain.reranked || matching.saturating_mul(a_row) <= scanned.min(entries) {
                return Some(Widen::Rows(rows.clone()));
            }
        }
        // About so many lists have them, if they are spread evenly.
        let first = match sized.matching {
            Some(matching) => enough.saturating_mul(nlist).saturating_mul(5) / (4 * matching * places).max(1),
            None => plain.nprobe,
        };
        Some(Widen::Lists { enough, first: first.clamp(plain.nprobe, nlist) })
    }
}

/// Lays the stops of all queries, query after query in the order of their probes.
pub(super) fn lay(
    route: &mut Route,
    view: &dyn View,
    model: &Model,
    queries: Rows<'_>,
    projected: Rows<'_>,
    lists: &Lists<'_>,
    request: &Request<'_>,
) -> Result<()> {
    route.stops.clear();
    let Some(Widen::Lists { enough, .. }) = request.widen else { return Ok(()) };
    let mut admitted = Admitted { view, request, counts: HashMap::new() };
    for query in 0..lists.len() {
        let before = route.stops.len();
        let (first, scores) = lists.of(query);
        let mut probed = first.len();
        let mut full = enter(route, &mut admitted, query, (first, scores), enough)?;
        while !full && probed < model.nlist() {
            route.stops.truncate(before);
            probed = probed.saturating_mul(4).min(model.nlist());
            let its = query..query + 1;
            let how = request.quantizer;
            let probes = model.probe(queries.slice(its.clone()), projected.slice(its), probed, how)?;
            full = enter(route, &mut admitted, query, probes.of(0), enough)?;
        }
    }
    Ok(())
}

/// The stops of one query at these lists; true if they have enough.
fn enter(
    route: &mut Route,
    admitted: &mut Admitted<'_>,
    query: usize,
    (lists, scores): (&[u32], &[f32]),
    enough: usize,
) -> Result<bool> {
    let mut seen = 0;
    for (at, (&list, &coarse)) in lists.iter().zip(scores).enumerate() {
        if at >= admitted.request.nprobe && seen >= enough {
            break;
        }
        let of = admitted.view.list(list)?.n;
        // What comes when there are enough need not be counted.
        let here = if seen < enough { admitted.in_list(list)? } else { of as usize };
        seen += here;
        if here > 0 {
            let visit = Visit { query: query as u32, coarse };
            route.stops.push(Stop { list, visit, entries: of, of });
        }
    }
    Ok(seen >= enough)
}

/// How many entries of a list the filter admits (rows, where those share entries), of lists that were asked for.
struct Admitted<'a> {
    view: &'a dyn View,
    request: &'a Request<'a>,
    counts: HashMap<u32, usize>,
}

impl Admitted<'_> {
    fn in_list(&mut self, list: u32) -> Result<usize> {
        if let Some(count) = self.counts.get(&list) {
            return Ok(*count);
        }
        let (view, filter, mut count) = (self.view, self.request.filter, 0);
        view.visit(list, &mut |run| {
            if let (Filter::Rows(rows), false) = (filter, self.request.shared) {
                count += run.rows.iter().filter(|row| rows.contains(row.get())).count();
                return Ok(());
            }
            for row in run.rows {
                let mut take = |row: u32| {
                    count += usize::from(filter.admits(view, row)?);
                    Ok(true)
                };
                match self.request.shared {
                    true => for_each_twin(view, row.get(), take)?,
                    false => take(row.get()).map(drop)?,
                }
            }
            Ok(())
        })?;
        self.counts.insert(list, count);
        Ok(count)
    }
}
