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
//! same, because a score depends on nothing but the query and the entry, and ties are settled by id. A
//! [`ParallelMode`] cuts the work by lists instead (`apart`), each part with collectors of its own: what is among the
//! best of all is among the best of its part.
//!
//! Where vectors stand in two lists an answer is the best rows by (the best score of the row's entries in the probed
//! lists, id): collectors drop repeats. `max_codes` counts entries.
//!
//! Where rows share entries, what is found becomes all rows of its entries before anybody else sees it: the filter, the
//! count of `max_codes` and the collectors then go by rows, and the answer is what it would be if each had an entry.

mod apart;
mod widen;

pub(crate) use widen::{FETCH_BYTES, Plain, Widen, rows_again};

use super::filter::Filter;
use super::model::Model;
use super::preassigned::Preassigned;
use super::rerank::{self, Best};
use super::twins::for_each_twin;
use super::view::{View, ViewIds};
use crate::coarse::{Probes, QuantizerParams};
use crate::codec::{Codes, KeptForm, Probe, Scanner, Visit};
use crate::kernel::Found;
use crate::math::selector::RowSet;
use crate::math::topk::{Collector, Entry, Hit, Radius, TopK};
use crate::profile::{Clock, SearchStats, Stage};
use crate::storage::block::Run;
use crate::{ParallelMode, Result, Rows};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;
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

/// What ends a query before it has seen its lists.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// Entries to score; 0 is no limit.
    pub(crate) max_codes: usize,
    /// Lists with entries to look into; 0 is no limit.
    pub(crate) max_lists: usize,
    /// Not before so many entries were scored, and never within a list; 0 where nobody asked for that.
    pub(crate) at_least: usize,
    /// Lists one after the other that may add nothing to a range search; 0 is no limit.
    pub(crate) max_empty_lists: usize,
}

/// A checked request; parameters are resolved.
#[derive(Clone)]
pub(crate) struct Request<'a> {
    pub(crate) goal: Goal,
    pub(crate) nprobe: usize,
    /// The caller's lists, for all queries of the search, instead of the nearest.
    pub(crate) chosen: Option<&'a Preassigned>,
    pub(crate) limits: Limits,
    pub(crate) mode: ParallelMode,
    pub(crate) filter: &'a Filter,
    /// How a search with a selector goes beyond its lists, if it may.
    pub(crate) widen: Option<Widen>,
    /// How the coarse quantizer is to look for lists.
    pub(crate) quantizer: Option<&'a QuantizerParams>,
    /// Bits in which an entry's code may differ from the query's, less one; 0 for any number.
    pub(crate) hamming: u32,
    /// Some entries are those of several rows.
    pub(crate) shared: bool,
    pub(crate) stats: Option<&'a SearchStats>,
}

impl Goal {
    /// So many times as many rows to score again.
    pub(crate) fn more_rows(self, times: usize) -> Self {
        match self {
            Goal::Rerank { rows, z, k, limit } => {
                Goal::Rerank { rows: rows.saturating_mul(times), z, k, limit }
            }
            other => other,
        }
    }
}

impl Request<'_> {
    /// With a selector, limits count what the selector lets through: known only while scanning, as is how many rows share
    /// an entry.
    fn counts_while_scanning(&self) -> bool {
        let Limits { max_codes, max_lists, at_least, .. } = self.limits;
        (max_codes > 0 || max_lists > 0 && at_least > 0) && (self.shared || !self.filter.is_all())
    }

    /// True if a query's list decides whether the next one is entered.
    fn ends_early(&self) -> bool {
        self.limits.max_empty_lists > 0 && matches!(self.goal, Goal::Radius { .. })
    }

    /// True if queries go list after list, by themselves.
    fn one_by_one(&self) -> bool {
        self.counts_while_scanning() || self.ends_early()
    }

    /// The limits that can be laid down before scanning.
    fn laid_down(&self) -> Limits {
        match self.counts_while_scanning() {
            false => self.limits,
            true if self.limits.at_least > 0 => Limits::default(),
            true => Limits { max_codes: 0, ..self.limits },
        }
    }

    /// The rows to score instead of looking for any.
    fn rows(&self) -> Option<&RowSet> {
        match &self.widen {
            Some(Widen::Rows(rows)) => Some(rows),
            _ => None,
        }
    }

    /// Lists that the coarse quantizer is asked for, at first.
    fn probes(&self) -> usize {
        match self.widen {
            Some(Widen::Lists { first, .. }) => first,
            _ => self.nprobe,
        }
    }

    /// True if each query of a batch visits its nearest list before all others. Where one pass over a list is so cheap
    /// that what follows counts, 1.05 times as fast; flat lists, which are read twice then, lose as much.
    fn nearest_first(&self) -> bool {
        matches!(self.goal, Goal::Rerank { .. }) && self.nprobe > 1
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
    let most = request.chunk(model.geometry.run_entries(), model.places()).min(model.codec.batch());
    let one_by_one = request.one_by_one() || request.rows().is_some();
    match request.mode {
        ParallelMode::Lists if !one_by_one => return apart::search(view, model, queries, request, 1),
        ParallelMode::Pairs if !one_by_one => return apart::search(view, model, queries, request, most),
        _ => {}
    }
    let chunk = match request.one_by_one() {
        true => 1,
        false => n.div_ceil(rayon::current_num_threads()).clamp(1, most),
    };
    let one = |first: usize| search_chunk(view, model, queries, first..n.min(first + chunk), request);
    if n <= chunk {
        return one(0);
    }
    let firsts: Vec<usize> = (0..n).step_by(chunk).collect();
    let found: Result<Vec<_>> = firsts.into_par_iter().map(one).collect();
    Ok(found?.into_iter().flatten().collect())
}

/// The queries of `range`.
fn search_chunk(
    view: &dyn View,
    model: &Model,
    queries: Rows<'_>,
    range: Range<usize>,
    request: &Request<'_>,
) -> Result<Vec<Vec<Hit>>> {
    let ids = ViewIds(view);
    let first = range.start;
    let queries = queries.slice(range);
    if let Some(rows) = request.rows() {
        return score_all(view, model, queries, rows, request);
    }
    let mut collectors: Vec<_> =
        queries.iter().map(|_| Collect::new(request.goal, &ids, model.spills())).collect();
    let mut clock = Clock::start(request.stats);
    let projected = model.project(queries)?;
    let projected = Rows::of(&projected, model.inner_dim());
    let probes = probes(model, queries, projected, first, request)?;
    let mut route = ROUTE.take();
    route.lay(view, model, queries, projected, &probes, request)?;
    let stops = match queries.len() {
        1 => &route.stops[..],
        _ => route.by_list(model.nlist(), request.nearest_first()),
    };
    look_at(&clock, queries.len(), stops);
    clock.lap(Stage::Coarse);
    let mut scan = Scan {
        view,
        model,
        request,
        scanner: scanner(model, projected, request),
        progress: Progress::new(request.limits),
        cut: None,
        buffers: BUFFERS.take(),
    };
    clock.lap(Stage::Tables);
    scan.all(stops, &mut collectors)?;
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

/// The best of these rows by their kept rows.
fn score_all(
    view: &dyn View,
    model: &Model,
    queries: Rows<'_>,
    rows: &RowSet,
    request: &Request<'_>,
) -> Result<Vec<Vec<Hit>>> {
    let (k, limit) = match request.goal {
        Goal::TopK { k, limit } | Goal::Rerank { k, limit, .. } => (k, limit),
        Goal::Radius { .. } => return Ok(queries.iter().map(|_| Vec::new()).collect()),
    };
    let mut clock = Clock::start(request.stats);
    clock.looked_at(queries.len(), 0, || 0);
    let entries: Vec<Entry> = rows.iter().map(|row| Entry { row, score: 0.0 }).collect();
    let best = Best { k, limit, z: None };
    let one = |query| rerank::top_k(view, model, query, entries.clone(), best, &clock);
    let hits = queries.iter().map(one).collect();
    clock.lap(Stage::Rank);
    hits
}

fn look_at(clock: &Clock<'_>, queries: usize, stops: &[Stop]) {
    let filled = stops.iter().filter(|stop| stop.entries > 0).count();
    clock.looked_at(queries, filled, || stops.iter().map(|stop| u64::from(stop.entries)).sum());
}

/// The lists that each query looks into: the nearest, or those that the caller chose for the queries from `first` on.
enum Lists<'a> {
    Nearest(Probes),
    Chosen { chosen: &'a Preassigned, first: usize, most: usize, scores: Vec<Vec<f32>> },
}

fn probes<'a>(
    model: &Model,
    queries: Rows<'_>,
    projected: Rows<'_>,
    first: usize,
    request: &Request<'a>,
) -> Result<Lists<'a>> {
    let Some(chosen) = request.chosen else {
        return Ok(Lists::Nearest(model.probe(queries, projected, request.probes(), request.quantizer)?));
    };
    let scores =
        projected.iter().enumerate().map(|(q, query)| chosen.scores(model, query, first + q)).collect();
    Ok(Lists::Chosen { chosen, first, most: request.nprobe, scores })
}

impl Lists<'_> {
    /// Query by query: lists and coarse scores.
    fn of(&self, query: usize) -> (&[u32], &[f32]) {
        match self {
            Lists::Nearest(probes) => probes.of(query),
            Lists::Chosen { chosen, first, most, scores } => {
                let lists = chosen.lists(first + query);
                (&lists[..lists.len().min(*most)], &scores[query])
            }
        }
    }

    /// Queries.
    fn len(&self) -> usize {
        match self {
            Lists::Nearest(probes) => probes.lists.len() / probes.nprobe.max(1),
            Lists::Chosen { scores, .. } => scores.len(),
        }
    }
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
    /// The stops of all queries, query after query in the order of their probes.
    fn lay(
        &mut self,
        view: &dyn View,
        model: &Model,
        queries: Rows<'_>,
        projected: Rows<'_>,
        lists: &Lists<'_>,
        request: &Request<'_>,
    ) -> Result<()> {
        if let Some(Widen::Lists { .. }) = request.widen {
            return widen::lay(self, view, model, queries, projected, lists, request);
        }
        self.stops.clear();
        let limits = request.laid_down();
        for query in 0..lists.len() {
            let (lists, scores) = lists.of(query);
            let mut progress = Progress::new(limits);
            for (&list, &coarse) in lists.iter().zip(scores) {
                if progress.is_over() {
                    break;
                }
                let of = view.list(list)?.n;
                let entries = (of as usize).min(progress.left());
                progress.enter(of > 0);
                progress.seen += entries;
                if entries > 0 || request.ends_early() {
                    let visit = Visit { query: query as u32, coarse };
                    self.stops.push(Stop { list, visit, entries: entries as u32, of });
                }
            }
        }
        Ok(())
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

    fn offer(&mut self, Entry { row, score }: Entry) {
        match self {
            Collect::TopK(topk) => topk.offer(row, score),
            Collect::Radius(radius) => radius.offer(row, score),
        }
    }

    /// What it found, in no order.
    fn into_entries(self) -> Result<Vec<Entry>> {
        match self {
            Collect::TopK(topk) => topk.finish_entries(),
            Collect::Radius(radius) => Ok(radius.finish_entries()),
        }
    }

    fn threshold(&self) -> f32 {
        match self {
            Collect::TopK(topk) => topk.threshold(),
            Collect::Radius(radius) => radius.threshold(),
        }
    }

    /// Entries that a range search has found so far.
    fn within(&self) -> usize {
        match self {
            Collect::TopK(_) => 0,
            Collect::Radius(radius) => radius.len(),
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
pub(super) fn rows_of(view: &dyn View, filter: &Filter, block: Run<'_>, found: &mut Found) -> Result<()> {
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
    /// Of the one query of a search whose lists decide how far it goes.
    progress: Progress,
    /// Where that many entries were fewer than its rows.
    cut: Option<Cut>,
    buffers: Buffers,
}

/// How far a query has come.
struct Progress {
    limits: Limits,
    /// Entries scored.
    seen: usize,
    /// Lists entered that had any.
    lists: usize,
    /// Lists since the last one that added something.
    empty: usize,
}

impl Progress {
    fn new(limits: Limits) -> Self {
        Progress { limits, seen: 0, lists: 0, empty: 0 }
    }

    /// True if no further list is entered.
    fn is_over(&self) -> bool {
        let Limits { max_codes, max_lists, at_least, max_empty_lists } = self.limits;
        let over = |n: usize, most: usize| most > 0 && n >= most;
        let spent = over(self.seen, max_codes) || over(self.lists, max_lists);
        spent && self.seen >= at_least || over(self.empty, max_empty_lists)
    }

    /// Entries that may be scored in the next list.
    fn left(&self) -> usize {
        match self.limits {
            Limits { max_codes: 0, .. } => usize::MAX,
            Limits { at_least, .. } if at_least > 0 => usize::MAX,
            Limits { max_codes, .. } => max_codes.saturating_sub(self.seen),
        }
    }

    fn enter(&mut self, has_entries: bool) {
        self.lists += usize::from(has_entries);
    }
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
    /// Scans all lists; stops at the same list follow each other.
    fn all(&mut self, stops: &[Stop], collectors: &mut [Collect<'_>]) -> Result<()> {
        let mut groups = stops.chunk_by(|a, b| a.list == b.list).peekable();
        while let Some(group) = groups.next() {
            let ahead = groups.peek().and_then(|next| self.view.peek(next[0].list)).unwrap_or_default();
            if !self.request.one_by_one() {
                self.list(group, ahead, collectors)?;
                continue;
            }
            if self.progress.is_over() {
                break;
            }
            let before = collectors[0].within();
            self.progress.enter(group[0].of > 0);
            self.list(group, ahead, collectors)?;
            self.progress.empty = if collectors[0].within() > before { 0 } else { self.progress.empty + 1 };
        }
        Ok(())
    }

    /// Scans one list for all its stops; `ahead` is what will be read next.
    fn list(&mut self, stops: &[Stop], mut ahead: &[u8], collectors: &mut [Collect<'_>]) -> Result<()> {
        let Scan { view, model, request, scanner, progress, cut: cut_entry, buffers } = self;
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
            let before = progress.left();
            let mut budget = before;
            let counted = request.counts_while_scanning().then_some(&mut budget);
            match request.shared {
                false => live_entries(*view, request.filter, block, counted, &mut buffers.live)?,
                true => {
                    *cut_entry = shared_entries(*view, request.filter, block, counted, &mut buffers.live)?
                }
            }
            progress.seen += before - budget;
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
pub(super) fn live_entries(
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
        (Filter::Rows(set), None) => live.extend(words(block.rows, |row| set.contains(row))),
        (Filter::Without(out), None) => live.extend(words(block.rows, |row| !out.contains(&row))),
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

/// A bit for each row that is admitted.
fn words(rows: &[U32], admits: impl Fn(u32) -> bool + Copy) -> impl Iterator<Item = u32> {
    rows.chunks(32).map(move |rows| {
        let bit = |(e, row): (usize, &U32)| u32::from(admits(row.get())) << e;
        rows.iter().enumerate().map(bit).fold(0, |word, bit| word | bit)
    })
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
