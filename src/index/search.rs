//! The search loop: one for top-k, range, batch and selectors; they differ in their collector.
//!
//! ```text
//! probes of every query (coarse) → stops, grouped by list
//! for each list:   scanner.enter(list, its visits)
//!   for each block:  selector → the entries that may be found
//!     found[visit] = scanner.scan(codes): those of them within its collector's threshold → collector
//! collectors → ids of the winners
//! ```
//! A batch is inverted: each list is read once for all queries that probe it, and the kernel scores
//! several queries in one pass over a block. One query alone takes its lists nearest first, so that its
//! threshold tightens early. Which of the two, in what chunks, on how many threads: the answer is the
//! same, because a score depends on nothing but the query and the entry, and ties are settled by id.
//!
//! Where vectors stand in two lists an answer is the best rows by (the best score of the row's entries in the probed
//! lists, id): collectors drop repeats. `max_codes` counts entries.
//!
//! Where rows share entries, what is found becomes all rows of its entries before anybody else sees it: the filter, the
//! count of `max_codes` and the collectors then go by rows, and the answer is what it would be if each had an entry.

use super::filter::Filter;
use super::model::Model;
use super::rerank::{self, Best};
use super::twins::for_each_twin;
use super::view::{View, ViewIds};
use crate::coarse::Probes;
use crate::codec::{Codes, KeptForm, Probe, Scanner, Visit};
use crate::kernel::Found;
use crate::math::topk::{Collector, Hit, Radius, TopK};
use crate::profile::{Clock, SearchStats, Stage};
use crate::storage::block::Run;
use crate::{Result, Rows};
use rayon::prelude::*;
use std::cell::RefCell;
use zerocopy::little_endian::U32;

/// What to look for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// The k best by (score, id), of scores up to `limit`.
    TopK { k: usize, limit: f32 },
    /// The `rows` best by their codes, and of those the k best by their kept rows, of scores up to `limit`; where there is
    /// a bound of `z` deviations, it tells how many of the rows are scored.
    Rerank { rows: usize, z: Option<f32>, k: usize, limit: f32 },
    /// All scores below a radius; where rows are kept, all that may score below it once they are scored as such.
    Radius { radius: f32, kept: Option<KeptForm> },
}

/// A checked request; parameters are resolved.
pub(crate) struct Request<'a> {
    pub(crate) goal: Goal,
    pub(crate) nprobe: usize,
    /// Entries to score per query; 0 is no limit.
    pub(crate) max_codes: usize,
    pub(crate) filter: &'a Filter,
    /// Bits in which an entry's code may differ from the query's, less one; 0 for any number.
    pub(crate) hamming: u32,
    /// Some entries are those of several rows.
    pub(crate) shared: bool,
    pub(crate) stats: Option<&'a SearchStats>,
}

impl Request<'_> {
    /// With a selector, max_codes counts what the selector lets through: known only while scanning, as is how many rows
    /// share an entry.
    fn counts_while_scanning(&self) -> bool {
        self.max_codes > 0 && (self.shared || !self.filter.is_all())
    }

    /// The limit that can be laid down before scanning.
    fn max_codes(&self) -> usize {
        if self.counts_while_scanning() { 0 } else { self.max_codes }
    }

    /// Queries whose collectors fit into memory together: what they keep where each row stands in `places` lists, and
    /// what a scan of `run` entries may add.
    fn chunk(&self, run: usize, places: usize) -> usize {
        let kept = match self.goal {
            Goal::TopK { k, .. } | Goal::Rerank { rows: k, .. } => k.saturating_mul(2 * places),
            Goal::Radius { .. } => 0,
        };
        (COLLECTOR_BYTES / kept.saturating_add(run).saturating_mul(8)).clamp(1, CHUNK)
    }
}

/// Queries of a batch that one thread takes at a time, and the memory that their collectors may take.
/// Each chunk reads every probed list once from memory, so larger is faster: 2,000 queries in one chunk
/// instead of two are 1.2 times as fast at nprobe 2 over 300,000 rows.
const CHUNK: usize = 4096;
const COLLECTOR_BYTES: usize = 64 << 20;
/// Visits whose scores of one block are held at once.
const VISITS_AT_ONCE: usize = 16;

/// Searches for all (prepared) `queries`: their hits, nearest first.
pub(crate) fn search(
    view: &dyn View,
    model: &Model,
    queries: Rows<'_>,
    request: &Request<'_>,
) -> Result<Vec<Vec<Hit>>> {
    let n = queries.len();
    let chunk = match request.counts_while_scanning() {
        true => 1,
        false => n
            .div_ceil(rayon::current_num_threads())
            .clamp(1, request.chunk(model.geometry.run_entries(), model.places()).min(model.codec.batch())),
    };
    let one = |first: usize| search_chunk(view, model, queries.slice(first..n.min(first + chunk)), request);
    if n <= chunk {
        return one(0);
    }
    let firsts: Vec<usize> = (0..n).step_by(chunk).collect();
    let found: Result<Vec<_>> = firsts.into_par_iter().map(one).collect();
    Ok(found?.into_iter().flatten().collect())
}

fn search_chunk(
    view: &dyn View,
    model: &Model,
    queries: Rows<'_>,
    request: &Request<'_>,
) -> Result<Vec<Vec<Hit>>> {
    let ids = ViewIds(view);
    let mut collectors: Vec<_> =
        queries.iter().map(|_| Collect::new(request.goal, &ids, model.spills())).collect();
    let mut clock = Clock::start(request.stats);
    let projected = model.project(queries)?;
    let projected = Rows::of(&projected, model.inner_dim());
    let probes = model.probe(projected, request.nprobe);
    let mut route = ROUTE.take();
    let stops = route.lay(view, model.nlist(), &probes, request, queries)?;
    clock.looked_at(queries.len(), stops.len(), || stops.iter().map(|stop| u64::from(stop.entries)).sum());
    clock.lap(Stage::Coarse);
    let mut scan = Scan {
        view,
        model,
        request,
        scanner: scanner(model, projected, request),
        budget: request.max_codes,
        cut: None,
        buffers: BUFFERS.take(),
    };
    clock.lap(Stage::Tables);
    let mut groups = stops.chunk_by(|a, b| a.list == b.list).peekable();
    while let Some(group) = groups.next() {
        let ahead = groups.peek().and_then(|next| view.peek(next[0].list));
        scan.list(group, ahead.unwrap_or_default(), &mut collectors)?;
    }
    BUFFERS.set(scan.buffers);
    if route.stops.capacity() <= STOPS_KEPT {
        ROUTE.set(route);
    }
    clock.lap(Stage::Scan);
    let finish =
        |(collector, query): (Collect<'_>, _)| collector.finish(view, model, query, request.goal, &clock);
    let hits = collectors.into_iter().zip(queries.iter()).map(finish).collect();
    clock.lap(Stage::Rank);
    hits
}

fn scanner<'a>(model: &'a Model, queries: Rows<'a>, request: &Request<'_>) -> Box<dyn Scanner + 'a> {
    let special = match request.goal {
        _ if request.hamming > 0 => model.codec.filtered(queries, request.hamming),
        // What bounds say is said of the vectors themselves.
        Goal::Radius { kept: Some(kept), .. } if model.chain.is_none() => model.codec.bounds(queries, kept),
        _ => None,
    };
    special.unwrap_or_else(|| model.codec.scanner(queries))
}

/// One query's stop at one list.
#[derive(Clone, Copy)]
struct Stop {
    list: u32,
    visit: Visit,
    /// Entries it may look at, from the front of the list, and those there are.
    entries: u32,
    of: u32,
}

thread_local! {
    /// A thread's, kept between searches: a batch of 1,000 queries has 128,000 stops of 20 bytes, and to get that much
    /// memory from the system each time costs some percent of it all.
    static ROUTE: RefCell<Route> = RefCell::default();
}

/// Stops in a route that is kept: 5 MB of them, twice.
const STOPS_KEPT: usize = 1 << 18;

/// The stops of all queries, and room to put them in order.
#[derive(Default)]
struct Route {
    stops: Vec<Stop>,
    places: Vec<u32>,
    sorted: Vec<Stop>,
}

impl Route {
    /// The stops of all queries: in probe order for one query, by list for several.
    fn lay(
        &mut self,
        view: &dyn View,
        nlist: usize,
        probes: &Probes,
        request: &Request<'_>,
        queries: Rows<'_>,
    ) -> Result<&[Stop]> {
        self.stops.clear();
        let per_query =
            probes.lists.chunks_exact(probes.nprobe).zip(probes.scores.chunks_exact(probes.nprobe));
        for (query, (lists, scores)) in per_query.enumerate() {
            let mut left = if request.max_codes() == 0 { usize::MAX } else { request.max_codes() };
            for (&list, &coarse) in lists.iter().zip(scores) {
                if left == 0 {
                    break;
                }
                let of = view.list(list)?.n;
                let entries = (of as usize).min(left);
                left -= entries;
                if entries > 0 {
                    let visit = Visit { query: query as u32, coarse };
                    self.stops.push(Stop { list, visit, entries: entries as u32, of });
                }
            }
        }
        if queries.len() == 1 {
            return Ok(&self.stops);
        }
        // Where one pass over a list is so cheap that what follows counts, 1.05 times as fast; flat lists, which are read
        // twice then, lose as much.
        let nearest_first = matches!(request.goal, Goal::Rerank { .. }) && request.nprobe > 1;
        Ok(self.by_list(nlist, nearest_first))
    }

    /// A stable counting sort by list. With `nearest_first` each query's first stop comes before all others: what its
    /// nearest list holds gives it a threshold that the rest seldom passes.
    fn by_list(&mut self, nlist: usize, nearest_first: bool) -> &[Stop] {
        let Route { stops, places, sorted } = self;
        let Some(first) = stops.first() else { return &[] };
        let mut last = u32::MAX;
        places.clear();
        places.extend(stops.iter().map(|stop| {
            let first = std::mem::replace(&mut last, stop.visit.query) != stop.visit.query;
            stop.list + if first && nearest_first { 0 } else { nlist as u32 }
        }));
        let mut ends = vec![0usize; 2 * nlist + 1];
        places.iter().for_each(|place| ends[*place as usize + 1] += 1);
        (0..2 * nlist).for_each(|place| ends[place + 1] += ends[place]);
        sorted.resize(stops.len(), *first);
        for (stop, place) in stops.iter().zip(places) {
            let end = &mut ends[*place as usize];
            sorted[*end] = *stop;
            *end += 1;
        }
        sorted
    }
}

enum Collect<'a> {
    TopK(TopK<'a>),
    Radius(Radius<'a>),
}

impl<'a> Collect<'a> {
    /// Where rows stand in two lists a row may be found twice; each counts once, for reranking too.
    fn new(goal: Goal, ids: &'a ViewIds<'a>, spills: bool) -> Self {
        let top_k = if spills { TopK::of_repeats } else { TopK::new };
        let radius_of = if spills { Radius::of_repeats } else { Radius::new };
        match goal {
            Goal::TopK { k, limit } => Collect::TopK(top_k(k, ids, limit)),
            Goal::Rerank { rows, .. } => Collect::TopK(top_k(rows, ids, f32::INFINITY)),
            Goal::Radius { radius, .. } => Collect::Radius(radius_of(radius, ids)),
        }
    }

    fn take(&mut self, found: &Found) {
        match self {
            Collect::TopK(topk) => topk.take(found),
            Collect::Radius(radius) => radius.take(found),
        }
    }

    fn threshold(&self) -> f32 {
        match self {
            Collect::TopK(topk) => topk.threshold(),
            Collect::Radius(radius) => radius.threshold(),
        }
    }

    fn finish(
        self,
        view: &dyn View,
        model: &Model,
        query: &[f32],
        goal: Goal,
        clock: &Clock<'_>,
    ) -> Result<Vec<Hit>> {
        match (self, goal) {
            (Collect::TopK(found), Goal::Rerank { z, k, limit, .. }) => {
                rerank::top_k(view, model, query, found.finish_entries()?, Best { k, limit, z }, clock)
            }
            (Collect::TopK(found), _) => found.finish(),
            (Collect::Radius(found), Goal::Radius { radius, kept: Some(_) }) => {
                rerank::range(view, model, query, found.finish_entries(), radius, clock)
            }
            (Collect::Radius(found), _) => found.finish(),
        }
    }
}

/// Turns what was found from entries into rows; a filter that goes by ids has its say.
fn rows_of(view: &dyn View, filter: &Filter, block: Run<'_>, found: &mut Found) -> Result<()> {
    for entry in &mut found.entries {
        *entry = block.rows[*entry as usize].get();
    }
    if !matches!(filter, Filter::Ids(_)) {
        return Ok(());
    }
    let mut kept = 0;
    for at in 0..found.len() {
        let (row, score) = (found.entries[at], found.scores[at]);
        if filter.admits(view, row)? {
            (found.entries[kept], found.scores[kept]) = (row, score);
            kept += 1;
        }
    }
    found.truncate(kept);
    Ok(())
}

/// The same where rows share entries: of each the first `most` rows that the filter admits.
fn all_rows_of(
    view: &dyn View,
    filter: &Filter,
    block: Run<'_>,
    cut: Option<Cut>,
    found: &mut Found,
    all: &mut Found,
) -> Result<()> {
    all.clear();
    for (entry, score) in found.iter() {
        let head = block.rows[entry as usize].get();
        let mut left = cut.filter(|cut| cut.head == head).map_or(usize::MAX, |cut| cut.rows);
        for_each_twin(view, head, |row| {
            if filter.admits(view, row)? {
                all.push(row, score);
                left -= 1;
            }
            Ok(left > 0)
        })?;
    }
    std::mem::swap(found, all);
    Ok(())
}

/// The entry with which a count came to its end, and how many of its rows it reached.
#[derive(Clone, Copy)]
struct Cut {
    head: u32,
    rows: usize,
}

/// The state of scanning one chunk of queries.
struct Scan<'a> {
    view: &'a dyn View,
    model: &'a Model,
    request: &'a Request<'a>,
    scanner: Box<dyn Scanner + 'a>,
    /// Entries the one query of a counted search may still score.
    budget: usize,
    /// Where that many were fewer than its rows.
    cut: Option<Cut>,
    buffers: Buffers,
}

thread_local! {
    /// A thread's buffers, kept between searches: with those of the coarse quantizer, made anew they cost one query up
    /// to a tenth of its time.
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

#[derive(Default)]
struct Buffers {
    visits: Vec<Visit>,
    worst: Vec<f32>,
    live: Vec<u32>,
    found: Vec<Found>,
    /// Rows on their way to a collector.
    rows: Found,
}

impl Scan<'_> {
    /// Scans one list for all its stops; `ahead` is what will be read next.
    fn list(&mut self, stops: &[Stop], mut ahead: &[u8], collectors: &mut [Collect<'_>]) -> Result<()> {
        if self.request.counts_while_scanning() && self.budget == 0 {
            return Ok(());
        }
        let Scan { view, model, request, scanner, budget, cut: cut_entry, buffers } = self;
        let list = stops[0].list;
        buffers.visits.clear();
        buffers.visits.extend(stops.iter().map(|stop| stop.visit));
        let some = VISITS_AT_ONCE.min(stops.len());
        if buffers.found.len() < some {
            buffers.found.resize(some, Found::default());
        }
        scanner.enter(Probe { list, centroid: model.centroid(list), visits: &buffers.visits });
        let (mut seen, all) = (0, stops[0].of as usize);
        view.visit(list, &mut |block| {
            let n = block.rows.len();
            let counted = request.counts_while_scanning().then_some(&mut *budget);
            match request.shared {
                false => live_entries(*view, request.filter, block, counted, &mut buffers.live)?,
                true => {
                    *cut_entry = shared_entries(*view, request.filter, block, counted, &mut buffers.live)?
                }
            }
            // Each run of entries fetches its share.
            let share = if seen + n < all { ahead.len() * n / all } else { ahead.len() };
            let codes = Codes { bytes: block.codes, n, ahead: ahead.split_off(..share).unwrap_or_default() };
            for (group, stops) in stops.chunks(VISITS_AT_ONCE).enumerate() {
                let cut = cut_short(stops, seen, &buffers.live, n);
                let mut live = [&buffers.live[..]; VISITS_AT_ONCE];
                cut.iter().for_each(|(v, cut)| live[*v] = cut);
                buffers.worst.clear();
                let threshold = |stop: &Stop| collectors[stop.visit.query as usize].threshold();
                buffers.worst.extend(stops.iter().map(threshold));
                let found = &mut buffers.found[..stops.len()];
                let ahead = if group == 0 { codes.ahead } else { &[] };
                let (codes, first) = (Codes { ahead, ..codes }, group * VISITS_AT_ONCE);
                scanner.scan(codes, first, &buffers.worst, &live[..stops.len()], found);
                for (stop, found) in stops.iter().zip(found).filter(|(_, found)| found.len() > 0) {
                    match request.shared {
                        false => rows_of(*view, request.filter, block, found)?,
                        true => {
                            let all = &mut buffers.rows;
                            all_rows_of(*view, request.filter, block, *cut_entry, found, all)?;
                        }
                    }
                    collectors[stop.visit.query as usize].take(found);
                    found.clear();
                }
            }
            seen += n;
            Ok(())
        })
    }
}

/// The entries of a block that may be found, a bit each: those that the rows of the filter name, and of them no more
/// than `budget`. What needs an id is asked later, of the entries that are near enough, unless each one counts.
fn live_entries(
    view: &dyn View,
    filter: &Filter,
    block: Run<'_>,
    budget: Option<&mut usize>,
    live: &mut Vec<u32>,
) -> Result<()> {
    live.clear();
    match (filter, budget) {
        (Filter::All | Filter::Ids(_), None) => live.extend((0..block.rows.len()).step_by(32).map(|at| {
            let rest = block.rows.len() - at;
            if rest < 32 { (1 << rest) - 1 } else { u32::MAX }
        })),
        (Filter::Rows(set), None) => live.extend(block.rows.chunks(32).map(|rows| {
            let bit = |(e, row): (usize, &U32)| u32::from(set.contains(row.get())) << e;
            rows.iter().enumerate().map(bit).fold(0, |word, bit| word | bit)
        })),
        (_, Some(budget)) => {
            for rows in block.rows.chunks(32) {
                let mut word = 0;
                for (e, row) in rows.iter().enumerate() {
                    if *budget > 0 && filter.admits(view, row.get())? {
                        *budget -= 1;
                        word |= 1 << e;
                    }
                }
                live.push(word);
            }
        }
    }
    Ok(())
}

/// The same where rows share entries. All entries may be found unless rows count: what the filter says of their rows is
/// asked when they are near enough. Returns the entry with which the budget came to its end.
fn shared_entries(
    view: &dyn View,
    filter: &Filter,
    block: Run<'_>,
    budget: Option<&mut usize>,
    live: &mut Vec<u32>,
) -> Result<Option<Cut>> {
    let Some(budget) = budget else {
        return live_entries(view, &Filter::All, block, None, live).map(|()| None);
    };
    live.clear();
    let mut cut = None;
    for heads in block.rows.chunks(32) {
        let mut word = 0;
        for (e, head) in heads.iter().enumerate() {
            if *budget == 0 {
                break;
            }
            let (head, mut rows) = (head.get(), 0);
            for_each_twin(view, head, |row| {
                rows += usize::from(filter.admits(view, row)?);
                Ok(rows < *budget)
            })?;
            *budget -= rows;
            word |= u32::from(rows > 0) << e;
            cut = (*budget == 0).then_some(Cut { head, rows });
        }
        live.push(word);
    }
    Ok(cut)
}

/// The stops that may look at only a part of the block of `n` entries from `seen` on, and at which.
fn cut_short(stops: &[Stop], seen: usize, live: &[u32], n: usize) -> Vec<(usize, Vec<u32>)> {
    let within = |stop: &Stop| (stop.entries as usize).saturating_sub(seen);
    let cut = stops.iter().map(within).enumerate().filter(|(_, within)| *within < n);
    let part = |within: usize| {
        let word = |(w, word): (usize, &u32)| match within.saturating_sub(32 * w) {
            rest @ 0..32 => word & ((1 << rest) - 1),
            _ => *word,
        };
        live.iter().enumerate().map(word).collect()
    };
    cut.map(|(v, within)| (v, part(within))).collect()
}
