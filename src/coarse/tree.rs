//! Two levels: lists belong to super-clusters, and a query looks into the nearest of those only.
//!
//! ```text
//! training:  k-means over the centroids → super-clusters; each list belongs to the nearest
//! a query:   super-clusters, nearest first, until they have nlist^¾ · nprobe^¼ lists or more
//!            those lists as in `flat`: first in 7 bits, then exactly → the nearest nprobe, ties by list
//! ```
//! What is missed are lists of super-clusters that were not looked into; of the lists that were, none is, and scores have
//! the bits that [`FlatCoarse`] gives. With nprobe = nlist all are looked into, and the answer is its answer.
//!
//! **How many lists.** nlist^¾ · nprobe^¼ is 1/16 of 65,536 for one probe, .105, .149, .210, .354 for 8, 32, 128, 1,024.
//! Of the flat quantizer's probes of 500 queries that finds, in 512 super-clusters:
//!
//! | 65,536 centroids of 128 components | 1 | 8 | 32 | 128 | 1,024 probes |
//! |---|---|---|---|---|---|
//! | rows of sift-300k, other rows as queries | .994 | .993 | .993 | .995 | .995 |
//! | about a subspace of 24 dimensions of falling normal weights | .974 | .985 | .988 | .991 | .992 |
//! | the same with uniform weights: `tree` in `benches/kernels.rs` | .990 | .994 | .995 | .995 | .996 |
//! | islands: 500 clusters, their centres at random in 128 dimensions | 1 | 1 | 1 | .964 | .838 |
//!
//! The last is what no tree can follow: beyond its own 131 lists, a query is equally far from all other islands. Lists, not
//! super-clusters, are counted because the latter are of all sizes.
//!
//! **How many super-clusters.** To find .98 of 32 probes sift took .12, .12, .08, .06 of all lists in 256, 512, 1,024,
//! 2,048 super-clusters, and 72, 94, 75, 82 µs: fewer lists in shorter runs of memory. For 128 probes 111, 129, 131, 193
//! µs, on a busy machine. So it hardly matters, and 2·√nlist it is.
//!
//! **Time** of a query in µs, 65,536 lists of 128 components in 512 super-clusters, Xeon with AVX-512, one thread, other
//! work going on: rows of sift-300k by a program that was thrown away; in brackets the bench, one run of it.
//!
//! | nprobe | one: flat | one: tree | of 500: flat | of 500: tree |
//! |---|---|---|---|---|
//! | 1 | 296 (408) | 50 (43) | 62 (72) | 27 (25) |
//! | 32 | 309 (391) | 81 (107) | 59 (89) | 34 (62) |
//! | 128 | 328 (440) | 129 (228) | 79 (106) | 61 (54) |
//! | 1,024 | 398 | 281 | 167 | 161 |
//!
//! With 8,192 lists (1 MiB of codes) the flat quantizer is as fast or faster; from 65,536 on a tree is the default.
//! Codes and centroids on huge pages made no difference that could be told from noise.
//!
//! **Rows go the way of queries.** `assign` is `nearest` of one list: 31 µs a row instead of 95, which would be most of an
//! addition's time. A row's list is the nearest of all for .994 (sift) and .974 (made) of the rows, and the mean of
//! ‖x − c‖² grows by .0003 and .003. And a query that is a stored row goes where the row went. The second list (SOAR) is
//! the best of the 128 nearest: 71 µs instead of 1,222; of rows with the same first list all had the same second.

use super::flat::FlatCoarse;
use super::quantised::{Quantised, View};
use super::shortlist::Shortlist;
use super::{CoarseQuantizer, LAMBDA, NONE, Probes, spill};
use crate::kernel::{BYTE_PANEL, Kernels, Similarity};
use crate::math::kmeans::{ClusteringParams, cluster};
use crate::math::linalg::{Panels, Scattered};
use crate::progress::Observer;
use crate::{Result, Rows};
use rayon::prelude::*;
use std::ops::Range;

/// Which super-cluster each list belongs to, and their centroids: what is stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tree {
    /// By list.
    pub(crate) owners: Vec<u32>,
    /// Row after row.
    pub(crate) centroids: Vec<f32>,
}

impl Tree {
    /// `supers` clusters of `centroids`, the same from the same.
    pub(crate) fn grow(
        centroids: Rows<'_>,
        supers: usize,
        similarity: Similarity,
        observer: &mut Observer<'_>,
    ) -> Result<Self> {
        let spherical = Some(similarity == Similarity::Dot);
        let params = ClusteringParams { spherical, check_finite: false, ..ClusteringParams::default() };
        let found = cluster(centroids, supers, similarity, &params, None, observer)?;
        let mut owners = vec![0; centroids.len()];
        let panels = Panels::new(Rows::of(&found.centroids, centroids.dim()));
        panels.nearest_par(similarity, centroids, &mut owners, &mut vec![0.0; centroids.len()]);
        Ok(Tree { owners, centroids: found.centroids })
    }
}

/// Centroids reached by way of super-clusters.
pub(crate) struct TreeCoarse {
    kernels: &'static Kernels,
    similarity: Similarity,
    /// Of spilling.
    lambda: f32,
    /// The centroids of the super-clusters.
    upper: FlatCoarse,
    branches: Vec<Branch>,
    /// The list of each column: those of a super-cluster ascending, then padding up to a whole panel.
    lists: Vec<u32>,
    centroids: Scattered,
    /// The same centroids in columns.
    quantised: Option<Quantised>,
}

/// A super-cluster: its columns.
#[derive(Clone, Copy, Default)]
struct Branch {
    first: usize,
    /// Without padding.
    len: usize,
}

impl Branch {
    fn lists(self) -> Range<usize> {
        self.first..self.first + self.len
    }

    fn columns(self) -> Range<usize> {
        self.first..self.first + self.len.next_multiple_of(BYTE_PANEL)
    }
}

/// Queries that are looked at together, and rows of one task. Those that look into the same super-cluster read it once:
/// so many make a query of a batch twice as fast as alone.
const QUERIES_AT_ONCE: usize = 64;

/// Approximate scores that are held at once: 4 MiB.
const SCORES_AT_ONCE: usize = 1 << 20;

/// Where more than one in so many of the lists looked at is probed, all of them are scored exactly.
const SHARE: usize = 8;

/// Lists among which the second one of a row is sought.
const SPILL_AMONG: usize = 128;

/// Lists to be looked at. Square roots are rounded alike everywhere.
fn lists_to_see(nlist: usize, nprobe: usize) -> usize {
    let share = nprobe as f64 / nlist as f64;
    ((nlist as f64 * share.sqrt().sqrt()).ceil() as usize).clamp(nprobe, nlist)
}

impl CoarseQuantizer for TreeCoarse {
    fn assign(&self, rows: Rows<'_>, lists: &mut [u32], scores: &mut [f32]) {
        let tasks = lists.par_chunks_mut(QUERIES_AT_ONCE).zip(scores.par_chunks_mut(QUERIES_AT_ONCE));
        tasks.enumerate().for_each_init(Probes::default, |probes, (task, (lists, scores))| {
            let first = task * QUERIES_AT_ONCE;
            self.nearest(rows.slice(first..first + lists.len()), 1, probes);
            lists.copy_from_slice(&probes.lists);
            scores.copy_from_slice(&probes.scores);
        });
    }

    fn spill(&self, rows: Rows<'_>, lists: &[u32], second: &mut [u32]) {
        let tasks = lists.par_chunks(QUERIES_AT_ONCE).zip(second.par_chunks_mut(QUERIES_AT_ONCE)).enumerate();
        tasks.for_each_init(Default::default, |(probes, room): &mut (Probes, _), (task, (lists, second))| {
            let first = task * QUERIES_AT_ONCE;
            let rows = rows.slice(first..first + lists.len());
            self.nearest(rows, SPILL_AMONG, probes);
            let near = probes.lists.chunks_exact_mut(probes.nprobe);
            for (((row, near), list), second) in rows.iter().zip(near).zip(lists).zip(second) {
                near.sort_unstable();
                *second =
                    spill::second_among(self.kernels, &self.centroids, self.lambda, row, *list, near, room);
            }
        });
    }

    fn nearest(&self, queries: Rows<'_>, nprobe: usize, probes: &mut Probes) {
        let nlist = self.centroids().len();
        let to_see = lists_to_see(nlist, nprobe.min(nlist));
        self.nearest_after(queries, nprobe, to_see, probes, |some, work| self.choose(some, to_see, work));
    }

    fn nearest_within(&self, queries: Rows<'_>, supers: usize, nprobe: usize, probes: &mut Probes) {
        let largest = self.branches.iter().map(|branch| branch.len).max().unwrap_or(0);
        let most = supers.saturating_mul(largest).min(self.centroids().len());
        self.nearest_after(queries, nprobe, most, probes, |some, work| self.choose_first(some, supers, work));
    }

    fn scores(&self, query: &[f32], lists: &[u32], scores: &mut Vec<f32>) {
        scores.resize(lists.len(), 0.0);
        let picked = self.centroids.picked(self.similarity, query);
        self.kernels.picked_scores(&picked, lists, scores);
    }

    fn centroids(&self) -> Rows<'_> {
        self.centroids.rows()
    }
}

impl TreeCoarse {
    pub(crate) fn new(centroids: Vec<f32>, dim: usize, similarity: Similarity, tree: Tree) -> Self {
        TreeCoarse::with_kernels(Kernels::get(), centroids, dim, similarity, tree)
    }

    /// The same that finds second lists with this λ.
    pub(crate) fn spilling_by(self, lambda: f32) -> Self {
        TreeCoarse { lambda, ..self }
    }

    /// The same with these kernels.
    pub(crate) fn with_kernels(
        kernels: &'static Kernels,
        centroids: Vec<f32>,
        dim: usize,
        similarity: Similarity,
        tree: Tree,
    ) -> Self {
        let nlist = tree.owners.len();
        assert_eq!(centroids.len(), nlist * dim);
        let (branches, lists) = columns(&tree.owners, tree.centroids.len() / dim);
        // Not where most columns are padding.
        let pays = kernels.bytes_pay() && lists.len() <= 2 * nlist;
        let quantised = pays.then(|| {
            let mut places = vec![0; nlist];
            let used = lists.iter().enumerate().filter(|(_, list)| **list != NONE);
            used.for_each(|(column, list)| places[*list as usize] = column);
            Quantised::placed(Rows::of(&centroids, dim), similarity, lists.len(), |list| places[list])
        });
        TreeCoarse {
            kernels,
            similarity,
            lambda: LAMBDA,
            upper: FlatCoarse::of_kernels(kernels, tree.centroids, dim, similarity),
            branches,
            lists,
            centroids: Scattered::with_kernels(kernels, centroids, dim),
            quantised: quantised.flatten(),
        }
    }

    /// The nearest lists of the super-clusters that `choose` chooses, which have about `to_see` lists.
    fn nearest_after(
        &self,
        queries: Rows<'_>,
        nprobe: usize,
        to_see: usize,
        probes: &mut Probes,
        choose: impl Fn(Rows<'_>, &mut Work),
    ) {
        probes.nprobe = nprobe.min(self.centroids().len());
        probes.lists.clear();
        probes.scores.clear();
        if nprobe == 0 {
            return;
        }
        let at_once = (SCORES_AT_ONCE / to_see.max(1)).clamp(1, QUERIES_AT_ONCE);
        let mut work = Work::default();
        for first in (0..queries.len()).step_by(at_once) {
            let some = queries.slice(first..queries.len().min(first + at_once));
            choose(some, &mut work);
            match &self.quantised {
                Some(quantised) if probes.nprobe <= to_see / SHARE => {
                    self.look(quantised, some, &mut work, probes);
                }
                _ => (0..some.len()).for_each(|q| self.scan(some.row(q), q, &mut work, probes)),
            }
        }
    }

    /// Chooses the `supers` nearest super-clusters of each query; those without lists do not count.
    fn choose_first(&self, queries: Rows<'_>, supers: usize, work: &mut Work) {
        let bare = self.branches.iter().filter(|branch| branch.len == 0).count();
        let mut near = Probes::default();
        self.upper.nearest(queries, supers.saturating_add(bare).min(self.branches.len()), &mut near);
        work.stops.clear();
        work.ends.clear();
        for q in 0..queries.len() {
            let stops = near.of(q).0.iter().map(|stop| self.branches[*stop as usize]);
            work.stops.extend(stops.filter(|branch| branch.len > 0).take(supers));
            work.ends.push(work.stops.len());
        }
    }

    /// Chooses the nearest super-clusters of each query, as many as it takes to have so many lists.
    fn choose(&self, queries: Rows<'_>, lists: usize, work: &mut Work) {
        let supers = self.branches.len();
        // Twice as many as it takes if all are of one size.
        let most = (2 * lists * supers / self.centroids().len() + 8).min(supers);
        let (mut near, mut all) = (Probes::default(), Probes::default());
        self.upper.nearest(queries, most, &mut near);
        work.stops.clear();
        work.ends.clear();
        for (q, near) in near.lists.chunks_exact(most).enumerate() {
            let stops = self.enough(near, lists).unwrap_or_else(|| {
                self.upper.nearest(queries.slice(q..q + 1), supers, &mut all);
                self.enough(&all.lists, lists).unwrap_or(&all.lists)
            });
            work.stops.extend(stops.iter().map(|stop| self.branches[*stop as usize]));
            work.ends.push(work.stops.len());
        }
    }

    /// The first of `stops` that have so many lists, if they have.
    fn enough<'a>(&self, stops: &'a [u32], lists: usize) -> Option<&'a [u32]> {
        let mut found = 0;
        let last = stops.iter().position(|stop| {
            found += self.branches[*stop as usize].len;
            found >= lists
        })?;
        Some(&stops[..=last])
    }

    /// Appends the probes of query `q`: all lists of its stops are scored exactly.
    fn scan(&self, query: &[f32], q: usize, work: &mut Work, probes: &mut Probes) {
        let picked = self.centroids.picked(self.similarity, query);
        let stops = &work.stops[work.of_query(q)];
        let lists = stops.iter().flat_map(|branch| &self.lists[branch.lists()]).copied();
        work.shortlist.scan(self.kernels, &picked, lists, probes);
    }

    /// Appends the probes of each query after a look at the quantised centroids.
    fn look(&self, quantised: &Quantised, queries: Rows<'_>, work: &mut Work, probes: &mut Probes) {
        let size = quantised.code_len();
        work.codes.resize(queries.len() * size, 0);
        let coded = queries.iter().zip(work.codes.chunks_exact_mut(size));
        work.views.clear();
        work.views.extend(coded.map(|(query, codes)| quantised.view(query, codes)));
        self.approximate(quantised, work);
        let mut end = 0;
        for (q, query) in queries.iter().enumerate() {
            let (start, view) = (end, work.views[q]);
            work.lists.clear();
            for branch in &work.stops[work.of_query(q)] {
                work.lists.extend_from_slice(&self.lists[branch.columns()]);
            }
            end += work.lists.len();
            let scores = &work.approximate[start..end];
            let picked = self.centroids.picked(self.similarity, query);
            let within = |threshold| view.map(|view| quantised.limit(&view, threshold));
            let list_of = |pick: u32| work.lists[pick as usize];
            if scores.len() < probes.nprobe
                || !work.shortlist.find(self.kernels, &picked, scores, list_of, within, probes)
            {
                self.scan(query, q, work, probes);
            }
        }
    }

    /// The approximate scores of all stops, one after the other. Queries that have a stop in common are scored together.
    fn approximate(&self, quantised: &Quantised, work: &mut Work) {
        let Work { stops, ends, visits, codes, views, approximate, room, .. } = work;
        approximate.resize(list_visits(stops, ends, visits), 0.0);
        if ends.len() > 1 {
            visits.sort_unstable();
        }
        let mut groups = visits.chunk_by(|a, b| a.column == b.column).peekable();
        while let Some(group) = groups.next() {
            if let Some(next) = groups.peek() {
                quantised.prefetch(next[0].range(), self.kernels);
            }
            room.enter(group, quantised.code_len(), codes, views);
            let (columns, n) = (group[0].range(), group[0].columns);
            if let [visit] = group {
                let out = &mut approximate[visit.from..][..n];
                quantised.scores_of(columns, self.kernels, &room.codes, &room.factors, out);
                continue;
            }
            room.scores.resize(group.len() * n, 0.0);
            quantised.scores_of(columns, self.kernels, &room.codes, &room.factors, &mut room.scores);
            for (visit, scores) in group.iter().zip(room.scores.chunks_exact(n)) {
                approximate[visit.from..][..n].copy_from_slice(scores);
            }
        }
    }
}

/// The visits of all queries, and how many approximate scores they have. Super-clusters without lists are not visited.
fn list_visits(stops: &[Branch], ends: &[usize], visits: &mut Vec<Visit>) -> usize {
    visits.clear();
    let (mut start, mut from) = (0, 0);
    for (query, end) in ends.iter().enumerate() {
        for branch in stops[start..*end].iter().filter(|branch| branch.len > 0) {
            let columns = branch.columns().len();
            visits.push(Visit { column: branch.first, columns, query, from });
            from += columns;
        }
        start = *end;
    }
    from
}

/// The columns of each super-cluster, and the list of each column.
fn columns(owners: &[u32], supers: usize) -> (Vec<Branch>, Vec<u32>) {
    let mut branches = vec![Branch::default(); supers];
    owners.iter().for_each(|owner| branches[*owner as usize].len += 1);
    let mut end = 0;
    for branch in &mut branches {
        branch.first = end;
        end = branch.columns().end;
    }
    let mut lists = vec![NONE; end];
    let mut next: Vec<usize> = branches.iter().map(|branch| branch.first).collect();
    for (list, owner) in (0..).zip(owners) {
        let column = &mut next[*owner as usize];
        lists[*column] = list;
        *column += 1;
    }
    (branches, lists)
}

/// Room to work in, for some queries.
#[derive(Default)]
struct Work {
    /// Super-clusters to look into, query after query, nearest first, and where each query's end.
    stops: Vec<Branch>,
    ends: Vec<usize>,
    codes: Vec<i8>,
    views: Vec<Option<View>>,
    visits: Vec<Visit>,
    approximate: Vec<f32>,
    room: Room,
    /// Of one query, as its approximate scores.
    lists: Vec<u32>,
    shortlist: Shortlist,
}

impl Work {
    /// The stops of query `q`.
    fn of_query(&self, q: usize) -> Range<usize> {
        let start = if q == 0 { 0 } else { self.ends[q - 1] };
        start..self.ends[q]
    }
}

/// The queries that stop in one place.
#[derive(Default)]
struct Room {
    codes: Vec<i8>,
    factors: Vec<f32>,
    scores: Vec<f32>,
}

impl Room {
    /// Puts the codes and factors of these queries together.
    fn enter(&mut self, group: &[Visit], size: usize, codes: &[i8], views: &[Option<View>]) {
        self.codes.clear();
        self.factors.clear();
        for visit in group {
            self.codes.extend_from_slice(&codes[visit.query * size..][..size]);
            self.factors.push(View::factor(views[visit.query].as_ref()));
        }
    }
}

/// One query's stop, and where its approximate scores go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Visit {
    column: usize,
    columns: usize,
    query: usize,
    from: usize,
}

impl Visit {
    fn range(self) -> Range<usize> {
        self.column..self.column + self.columns
    }
}

#[cfg(test)]
mod tests;
