//! Scans with one table of bytes a query: what all 4-bit codes share.

use crate::codec::{Codes, Probe, Scanner};
use crate::kernel::{FAST_QUERIES, FastGroups, FastQuery, FastTables, Found, Kernels};

/// Scores blocks of nibbles, with or without a bias for each entry (`Factors::Bias`, `Factors::None`): the score is what
/// the query's table says, plus the bias, plus the coarse score of the list if codes are residuals.
pub(crate) struct FastScanner {
    kernels: &'static Kernels,
    /// Nibbles of a code, an even number.
    subspaces: usize,
    biased: bool,
    tables: FastTables,
    /// For residuals: each query's coarse score where there are no centroids, which is that against the origin.
    origins: Option<Vec<f32>>,
    /// Of the visits: the query, and what all scores of the list begin with.
    visits: Vec<(usize, f32)>,
}

impl FastScanner {
    /// A scanner of the queries of `tables`, each of `subspaces`. `origins` is `None` if codes are of whole vectors.
    pub(crate) fn new(
        kernels: &'static Kernels,
        subspaces: usize,
        biased: bool,
        tables: FastTables,
        origins: Option<Vec<f32>>,
    ) -> Self {
        FastScanner { kernels, subspaces, biased, tables, origins, visits: Vec::new() }
    }
}

/// Bases are cut to it, and biases to half of it: with the table's part the sum stays finite.
pub(super) const BASE_MAX: f64 = f32::MAX as f64 / 2.0;

impl Scanner for FastScanner {
    fn enter(&mut self, probe: Probe<'_>) {
        let FastScanner { visits, tables, origins, .. } = self;
        visits.clear();
        visits.extend(probe.visits.iter().map(|visit| {
            let query = visit.query as usize;
            let coarse = match (&*origins, probe.centroid) {
                (None, _) => 0.0,
                (Some(_), Some(_)) => visit.coarse,
                (Some(origins), None) => origins[query],
            };
            let base = f64::from(coarse) + tables.steps(query).offset;
            (query, base.clamp(-BASE_MAX, BASE_MAX) as f32)
        }));
    }

    fn scan(&mut self, block: Codes<'_>, first: usize, worst: &[f32], live: &[&[u32]], found: &mut [Found]) {
        let FastScanner { kernels, subspaces, biased, tables, visits, .. } = self;
        let visits = &visits[first..first + worst.len()];
        let query = |v: usize| FastQuery {
            table: tables.table(visits[v].0),
            step: tables.steps(visits[v].0).step,
            base: visits[v].1,
            worst: worst[v],
            live: live[v],
        };
        for start in (0..visits.len()).step_by(FAST_QUERIES) {
            let end = visits.len().min(start + FAST_QUERIES);
            let none = FastQuery { table: &[], step: 0.0, base: 0.0, worst: 0.0, live: &[] };
            let mut queries = [none; FAST_QUERIES];
            let queries = &mut queries[..end - start];
            (start..end).zip(&mut *queries).for_each(|(v, out)| *out = query(v));
            // The next pass's tables come from beyond the second-level cache.
            for (next, _) in visits.iter().skip(end).take(FAST_QUERIES) {
                kernels.prefetch(tables.table(*next));
            }
            let ahead = if start == 0 { block.ahead } else { &[] };
            let groups = FastGroups { subspaces: *subspaces, biased: *biased, bytes: block.bytes, ahead };
            kernels.fast_scan(&groups, queries, &mut found[start..end]);
        }
    }
}
