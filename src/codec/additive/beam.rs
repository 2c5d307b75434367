//! Beam search: the residual quantizer's encoder.
//!
//! Book after book, each of the at most 5 candidates of a row is continued by every word, and the best 5 of all those
//! are kept. Candidates that tie go by their number, (candidate before, word).

use super::books::{Books, Stage};
use crate::Rows;
use crate::kernel::Kernels;
use rayon::prelude::*;

/// Candidates that are kept, at most: FAISS's default.
pub(super) const BEAM: usize = 5;

/// Rows that are worked on together.
const ROWS: usize = 48;

/// The best few of many scores, ascending.
struct Best {
    want: usize,
    len: usize,
    scores: [f32; BEAM],
    numbers: [u32; BEAM],
}

/// Scores looked at together: mostly none of them is good enough.
const GLANCE: usize = 16;

impl Best {
    fn new(want: usize) -> Self {
        Best { want, len: 0, scores: [f32::INFINITY; BEAM], numbers: [0; BEAM] }
    }

    fn worst(&self) -> f32 {
        self.scores[self.want - 1]
    }

    /// Offers `scores`, each with `base` added, numbered from `first`.
    fn offer_all(&mut self, base: f32, scores: &[f32], first: usize) {
        for (at, chunk) in scores.chunks(GLANCE).enumerate() {
            let least = chunk.iter().fold(f32::INFINITY, |least, s| if *s < least { *s } else { least });
            if base + least < self.worst() {
                for (lane, score) in chunk.iter().enumerate() {
                    self.offer(base + score, first + at * GLANCE + lane);
                }
            }
        }
    }

    fn offer(&mut self, score: f32, number: usize) {
        if score < self.worst() {
            let mut at = self.len.min(self.want - 1);
            while at > 0 && self.scores[at - 1] > score {
                (self.scores[at], self.numbers[at]) = (self.scores[at - 1], self.numbers[at - 1]);
                at -= 1;
            }
            (self.scores[at], self.numbers[at]) = (score, number as u32);
            self.len = (self.len + 1).min(self.want);
        }
    }

    /// Where too few scores were numbers, the last candidate is there several times.
    fn fill(&mut self) {
        for at in self.len.max(1)..self.want {
            (self.scores[at], self.numbers[at]) = (self.scores[at - 1], self.numbers[at - 1]);
        }
    }
}

/// The candidates of some rows after some books.
#[derive(Clone)]
pub(super) struct Beams {
    /// Candidates a row.
    pub(super) width: usize,
    /// Words of a candidate so far.
    pub(super) depth: usize,
    /// rows × width × depth
    pub(super) codes: Vec<u16>,
    /// rows × width: ‖r − Σw‖² less ‖r‖²
    pub(super) scores: Vec<f32>,
}

impl Beams {
    /// One empty candidate for each of `n` rows.
    pub(super) fn new(n: usize) -> Self {
        Beams { width: 1, depth: 0, codes: Vec::new(), scores: vec![0.0; n] }
    }

    /// Continues the candidates by the next book, keeping `most` of them.
    pub(super) fn step(&self, books: &Books, rows: Rows<'_>, most: usize) -> Beams {
        let (stage, n) = (&books.stages[self.depth], rows.len());
        let width = most.min(self.width.saturating_mul(stage.words));
        let mut next = Beams {
            width,
            depth: self.depth + 1,
            codes: vec![0; n * width * (self.depth + 1)],
            scores: vec![0.0; n * width],
        };
        let codes = next.codes.par_chunks_mut(ROWS * width * next.depth);
        let scores = next.scores.par_chunks_mut(ROWS * width);
        codes.zip(scores).enumerate().for_each(|(task, (codes, scores))| {
            let first = task * ROWS;
            let rows = rows.slice(first..first + scores.len() / width);
            let mut step = Step { books, stage, before: self, kernels: Kernels::get() };
            step.run(first, rows, codes, scores);
        });
        next
    }

    fn of(&self, row: usize, candidate: usize) -> &[u16] {
        &self.codes[(row * self.width + candidate) * self.depth..][..self.depth]
    }
}

struct Step<'a> {
    books: &'a Books,
    stage: &'a Stage,
    before: &'a Beams,
    kernels: &'static Kernels,
}

impl Step<'_> {
    /// The next candidates of `rows`, of which the first is row `first` of the beams before.
    fn run(&mut self, first: usize, rows: Rows<'_>, codes: &mut [u16], scores: &mut [f32]) {
        let (stage, before) = (self.stage, self.before);
        let width = scores.len() / rows.len();
        let mut own = vec![0.0; rows.len() * stage.words];
        if stage.cross.is_some() {
            stage.own(rows, &mut own);
        }
        let mut sums = vec![0.0; stage.words];
        let outs = codes.chunks_exact_mut(width * (before.depth + 1)).zip(scores.chunks_exact_mut(width));
        for (r, (codes, scores)) in outs.enumerate() {
            let own = &own[r * stage.words..][..stage.words];
            let mut best = Best::new(width);
            for candidate in 0..before.width {
                let chosen = before.of(first + r, candidate);
                match &stage.cross {
                    Some(cross) => self.add_up(own, cross, chosen, &mut sums),
                    None => self.of_residual(rows.row(r), chosen, &mut sums),
                }
                let base = before.scores[(first + r) * before.width + candidate];
                best.offer_all(base, &sums, candidate * stage.words);
            }
            best.fill();
            for (slot, codes) in codes.chunks_exact_mut(before.depth + 1).enumerate() {
                let number = best.numbers[slot] as usize;
                codes[..before.depth].copy_from_slice(before.of(first + r, number / stage.words));
                codes[before.depth] = (number % stage.words) as u16;
                scores[slot] = best.scores[slot];
            }
        }
    }

    /// What each word adds to the score of a candidate, from the tables.
    fn add_up(&self, own: &[f32], cross: &[f32], chosen: &[u16], sums: &mut [f32]) {
        let rows: Vec<&[f32]> = chosen
            .iter()
            .zip(&self.books.starts)
            .map(|(k, start)| self.stage.row(cross, start + usize::from(*k)))
            .collect();
        self.kernels.sum_rows(own, &rows, sums);
    }

    /// The same from the candidate's residual.
    fn of_residual(&self, row: &[f32], chosen: &[u16], sums: &mut [f32]) {
        let mut residual = vec![0.0; row.len()];
        self.books.sum(chosen, &mut residual);
        residual.iter_mut().zip(row).for_each(|(y, x)| *y = x - *y);
        self.stage.own(Rows::of(&residual, row.len()), sums);
    }
}

/// The best code of each of the scaled `rows`: rows × books.
pub(super) fn encode(books: &Books, rows: Rows<'_>, beam: usize) -> Vec<u16> {
    let depth = books.stages.len();
    let mut codes = vec![0; rows.len() * depth];
    let tasks = codes.par_chunks_mut((ROWS * depth).max(1));
    tasks.enumerate().for_each(|(task, codes)| {
        let first = task * ROWS;
        let rows = rows.slice(first..first + codes.len() / depth);
        let mut beams = Beams::new(rows.len());
        for m in 0..depth {
            let most = if m + 1 == depth { 1 } else { beam };
            beams = beams.step(books, rows, most);
        }
        codes.copy_from_slice(&beams.codes);
    });
    codes
}
