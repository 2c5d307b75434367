//! The flat code: the components themselves, as f32, f16 or bf16, row after row.
//!
//! Scores are computed on the stored elements against the f32 query, so a flat f32 index is exact and
//! the half-precision ones lose only what rounding the stored vector lost.

use super::bounds::Bounds;
use super::{Assigned, Codec, Codes, KeptForm, Probe, Scanner, Visit};
use crate::kernel::{Element, Found, Kernels, Similarity};
use crate::layout::Layout;
use crate::{Error, Result, Rows};

/// A flat code of `dim` components.
pub(crate) struct Flat {
    dim: usize,
    element: Element,
    similarity: Similarity,
    kernels: &'static Kernels,
}

/// Queries scored in one kernel call.
const QUERIES_A_PASS: usize = 8;
/// Rows that one query is scored with in one call: a tile of the widest kernel.
const ROWS_A_STEP: usize = 8;

impl Flat {
    pub(crate) fn new(dim: usize, element: Element, similarity: Similarity) -> Self {
        Flat { dim, element, similarity, kernels: Kernels::get() }
    }
}

/// The largest finite f16.
pub(super) const F16_MAX: f32 = 65504.0;

/// Refuses components that round to infinity as `element`, and such as are no whole number from 0 to 255 where that is
/// what it holds.
pub(super) fn check_range(rows: Rows<'_>, element: Element) -> Result<()> {
    let (holds, name): (fn(f32) -> bool, _) = match element {
        Element::F32 => return Ok(()),
        // Half a unit beyond the largest value still rounds down to it.
        Element::F16 => (|v| v.abs() < F16_MAX + 16.0, "f16"),
        Element::BF16 => (|v| half::bf16::from_f32(v).is_finite(), "bf16"),
        Element::U8 => (|v| f32::from(v as u8) == v, "u8"),
    };
    match rows.as_slice().iter().position(|v| !holds(*v)) {
        None => Ok(()),
        Some(at) => Err(Error::OutOfRange {
            row: at / rows.dim(),
            component: at % rows.dim(),
            value: rows.as_slice()[at],
            element: name,
        }),
    }
}

impl Codec for Flat {
    fn layout(&self) -> Layout {
        Layout::RowMajor { code_bytes: self.dim * self.element.size() }
    }

    fn check(&self, rows: Rows<'_>) -> Result<()> {
        check_range(rows, self.element)
    }

    fn encode(&self, rows: Assigned<'_>, codes: &mut Vec<u8>) {
        let values = rows.rows.as_slice();
        let start = codes.len();
        codes.resize(start + values.len() * self.element.size(), 0);
        self.kernels.encode(self.element, values, &mut codes[start..]);
    }

    fn decode(&self, _centroid: Option<&[f32]>, code: &[u8], row: &mut [f32]) {
        self.kernels.decode(self.element, code, row);
    }

    fn scanner<'a>(&'a self, queries: Rows<'a>) -> Box<dyn Scanner + 'a> {
        let Flat { similarity, element, kernels, .. } = *self;
        let score = move |queries: &[&[f32]], codes: &[u8], scores: &mut [f32]| {
            kernels.scan(similarity, element, queries, codes, scores);
        };
        Box::new(RowScanner::new(kernels, queries, score))
    }

    fn bounds<'a>(&'a self, queries: Rows<'a>, kept: KeptForm) -> Option<Box<dyn Scanner + 'a>> {
        // Steps stand beside flat codes only until a nibble code is trained, and then the code has the last word.
        // Its proof is of the nearest components.
        let kept = Some(kept).filter(|kept| !kept.is_shaped())?.element()?;
        let codes = self.scanner(queries);
        Some(match self.element == kept {
            // The same bytes: the score itself.
            true => codes,
            false => Box::new(Bounds::new(codes, queries, self.similarity, self.element, kept)),
        })
    }
}

/// Scans rows of components. `score` is the kernel: the score of every query with every row, `scores[q * n + i]`.
pub(super) struct RowScanner<'a, F> {
    kernels: &'static Kernels,
    queries: Rows<'a>,
    score: F,
    visits: Vec<Visit>,
    scores: Vec<f32>,
    picks: Vec<u32>,
}

impl<'a, F: Fn(&[&[f32]], &[u8], &mut [f32])> RowScanner<'a, F> {
    pub(super) fn new(kernels: &'static Kernels, queries: Rows<'a>, score: F) -> Self {
        RowScanner { kernels, queries, score, visits: Vec::new(), scores: Vec::new(), picks: Vec::new() }
    }
}

impl<F: Fn(&[&[f32]], &[u8], &mut [f32])> Scanner for RowScanner<'_, F> {
    fn enter(&mut self, probe: Probe<'_>) {
        self.visits.clear();
        self.visits.extend_from_slice(probe.visits);
    }

    fn scan(&mut self, block: Codes<'_>, first: usize, worst: &[f32], live: &[&[u32]], found: &mut [Found]) {
        let RowScanner { kernels, queries, score, visits, scores, picks } = self;
        if block.n == 0 {
            return;
        }
        let visits = &visits[first..first + worst.len()];
        scores.resize(QUERIES_A_PASS * block.n, 0.0);
        let mut take = |v: usize, scores: &[f32]| {
            kernels.select_at_most(scores, worst[v], picks);
            for &pick in &*picks {
                if live[v][pick as usize / 32] >> (pick % 32) & 1 == 1 {
                    found[v].push(pick, scores[pick as usize]);
                }
            }
        };
        if let [visit] = visits {
            let (query, scores) = (queries.row(visit.query as usize), &mut scores[..block.n]);
            // One query is bound by memory: what comes next is fetched a piece with each step, as all at once would wait
            // for each other.
            let step_bytes = ROWS_A_STEP * (block.bytes.len() / block.n);
            let mut ahead =
                block.ahead.chunks(block.ahead.len().div_ceil(block.n.div_ceil(ROWS_A_STEP)).max(1));
            for (rows, scores) in block.bytes.chunks(step_bytes).zip(scores.chunks_mut(ROWS_A_STEP)) {
                kernels.prefetch_stream(ahead.next().unwrap_or_default());
                score(&[query], rows, scores);
            }
            return take(0, scores);
        }
        kernels.prefetch(block.ahead);
        for (pass, visits) in visits.chunks(QUERIES_A_PASS).enumerate() {
            let mut rows = [&[][..]; QUERIES_A_PASS];
            for (row, visit) in rows.iter_mut().zip(visits) {
                *row = queries.row(visit.query as usize);
            }
            let scores = &mut scores[..visits.len() * block.n];
            score(&rows[..visits.len()], block.bytes, scores);
            for (v, scores) in (pass * QUERIES_A_PASS..).zip(scores.chunks_exact(block.n)) {
                take(v, scores);
            }
        }
    }
}
