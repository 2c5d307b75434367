//! The truth: the k nearest of each query by brute force, over vectors that are fetched row by row.

use super::measure::{Held, visits};
use crate::codec::{Assigned, Codec, Codes, Probe, Scanner};
use crate::index::model::untrained_codec;
use crate::kernel::Found;
use crate::math::topk::{Collector, RowIds, TopK};
use crate::{Encoding, Error, IndexSpec, Observer, Result, Rows};
use rayon::prelude::*;
use std::ops::Range;

/// Queries that one thread takes at a time: each time it reads all vectors.
const QUERIES: usize = 1024;
/// Vectors scored at once.
const ROWS: usize = 1024;
/// Queries of one pass over them.
const AT_ONCE: usize = 16;

/// What is sought in.
pub(super) struct Stock<'a> {
    pub(super) spec: &'a IndexSpec,
    /// Row numbers, ascending.
    pub(super) rows: &'a [u32],
    /// Appends the vector of a row.
    pub(super) fetch: &'a (dyn Fn(u32, &mut Vec<f32>) -> Result<()> + Sync),
    pub(super) ids: &'a (dyn RowIds + Sync),
}

impl Stock<'_> {
    /// Finds the k nearest of each query, but of what it leaves out. Ticks as `"truth"`. Runs on the threads of the pool that it is called in.
    pub(super) fn seek(&self, held: &mut Held, k: usize, observer: &mut Observer<'_>) -> Result<()> {
        let codec = untrained_codec(self.spec, Encoding::Flat, self.spec.dim)
            .ok_or(Error::Unsupported { what: "brute force under this metric" })?;
        let (total, threads) = (held.left_out.len(), rayon::current_num_threads());
        let at_once = total.div_ceil(threads).clamp(1, QUERIES);
        let firsts: Vec<usize> = (0..total).step_by(at_once).collect();
        for some in firsts.chunks(threads) {
            observer.tick("truth", some[0] as u64, total as u64)?;
            let one = |first: &usize| self.nearest(&*codec, held, *first..total.min(first + at_once), k);
            let found = some.par_iter().map(one).collect::<Result<Vec<_>>>()?;
            held.truth.extend(found.into_iter().flatten());
        }
        observer.tick("truth", total as u64, total as u64)
    }

    fn nearest(
        &self,
        codec: &dyn Codec,
        held: &Held,
        range: Range<usize>,
        k: usize,
    ) -> Result<Vec<Vec<u32>>> {
        let dim = self.spec.dim;
        let queries = Rows::of(&held.queries[range.start * dim..range.end * dim], dim);
        let left_out = &held.left_out[range];
        let mut nearest: Vec<TopK<'_>> =
            queries.iter().map(|_| TopK::new(k, self.ids, f32::INFINITY)).collect();
        let visits = visits(queries.len());
        let mut scanner = codec.scanner(queries);
        scanner.enter(Probe { list: 0, centroid: None, visits: &visits });
        let mut vectors = Vec::with_capacity(ROWS * dim);
        for rows in self.rows.chunks(ROWS) {
            vectors.clear();
            rows.iter().try_for_each(|row| (self.fetch)(*row, &mut vectors))?;
            offer(&mut *scanner, codec, Rows::of(&vectors, dim), rows, left_out, &mut nearest);
        }
        let rows = |nearest: TopK<'_>| Ok(nearest.finish()?.into_iter().map(|hit| hit.row).collect());
        nearest.into_iter().map(rows).collect()
    }
}

/// Offers the scores of these vectors, but of what a query leaves out.
fn offer(
    scanner: &mut dyn Scanner,
    codec: &dyn Codec,
    vectors: Rows<'_>,
    rows: &[u32],
    left_out: &[Range<u32>],
    nearest: &mut [TopK<'_>],
) {
    let mut bytes = Vec::new();
    codec.encode(Assigned { rows: vectors, lists: &[], centroids: None }, &mut bytes);
    let codes = Codes { bytes: &bytes, n: rows.len(), ahead: &[] };
    let mut found = vec![Found::default(); AT_ONCE];
    for first in (0..nearest.len()).step_by(AT_ONCE) {
        let range = first..nearest.len().min(first + AT_ONCE);
        let live: Vec<Vec<u32>> = left_out[range.clone()].iter().map(|out| words(rows, out)).collect();
        let live: Vec<&[u32]> = live.iter().map(|words| &words[..]).collect();
        let worst: Vec<f32> = nearest[range.clone()].iter().map(|nearest| nearest.threshold()).collect();
        scanner.scan(codes, first, &worst, &live, &mut found[..range.len()]);
        for (nearest, found) in nearest[range].iter_mut().zip(&mut found) {
            found.entries.iter_mut().for_each(|entry| *entry = rows[*entry as usize]);
            nearest.take(found);
            found.clear();
        }
    }
}

/// A bit for each row that is not left out.
fn words(rows: &[u32], out: &Range<u32>) -> Vec<u32> {
    let all = |n: usize| if n < 32 { (1 << n) - 1 } else { u32::MAX };
    let apart = rows.last().is_none_or(|last| *last < out.start) || rows.first() >= Some(&out.end);
    let bit = |(e, row): (usize, &u32)| u32::from(!out.contains(row)) << e;
    let word = |rows: &[u32]| match apart {
        true => all(rows.len()),
        false => rows.iter().enumerate().map(bit).fold(0, |word, bit| word | bit),
    };
    rows.chunks(32).map(word).collect()
}
