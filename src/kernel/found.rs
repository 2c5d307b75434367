//! What a scan found, and keeping the better part of it.
//!
//! A scan appends entries and scores to two vectors side by side, and a collector that wants k of them cuts them back
//! to a bound when they have become many. The bound is found by quartering: the range of the scores is quartered until a
//! score is met that k entries and not many more do not exceed. Each round is a pass over a few hundred floats that
//! only counts; a selection would move them about, a heap would pay a logarithm for each. That the bound is not the
//! k-th score itself does no harm: the collector settles which k it is once, at the end.
//!
//! The bodies are plain loops, which the compiler turns into the instructions of the table that they are inlined into.
//! They only compare and quarter, so all tables agree.

use super::Kernels;

/// What a scan found: entries of a block and their scores, in the block's order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) entries: Vec<u32>,
    pub(crate) scores: Vec<f32>,
}

impl Found {
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.scores.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.scores.len()
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        self.entries.truncate(len);
        self.scores.truncate(len);
    }

    /// (entry, score), in the order in which they were found.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, f32)> + '_ {
        self.entries.iter().copied().zip(self.scores.iter().copied())
    }

    pub(crate) fn reserve(&mut self, more: usize) {
        self.entries.reserve(more);
        self.scores.reserve(more);
    }

    pub(crate) fn append(&mut self, other: &Found) {
        self.entries.extend_from_slice(&other.entries);
        self.scores.extend_from_slice(&other.scores);
    }

    pub(crate) fn push(&mut self, entry: u32, score: f32) {
        self.entries.push(entry);
        self.scores.push(score);
    }
}

pub(super) type Bound = unsafe fn(scores: &[f32], least: usize, most: usize) -> f32;
pub(super) type KeepAtMost = unsafe fn(found: &mut Found, bound: f32);

#[allow(unsafe_code)]
impl Kernels {
    /// A score that at least `least` of `scores` do not exceed, and if quartering finds one no more than `most` do not
    /// exceed either. The greatest score where there is none better, or where they are not finite.
    pub(crate) fn bound(&self, scores: &[f32], least: usize, most: usize) -> f32 {
        // SAFETY: the table exists only where its instructions do.
        unsafe { (self.bound)(scores, least, most) }
    }

    /// Keeps what scores at most `bound`.
    pub(crate) fn keep_at_most(&self, found: &mut Found, bound: f32) {
        assert_eq!(found.entries.len(), found.scores.len());
        // SAFETY: as for `bound`; there are as many entries as scores.
        unsafe { (self.keep_at_most)(found, bound) }
    }
}

/// Quarterings of the range of scores before giving up: a float has no more bits than they halve.
const QUARTERINGS: usize = 12;

/// The body of [`Kernels::bound`]. Three counts in one pass cost little more than one.
#[inline(always)]
fn bound_body(scores: &[f32], least: usize, most: usize) -> f32 {
    let (mut low, mut high) = extremes(scores);
    if !(high - low).is_finite() {
        return high;
    }
    for _ in 0..QUARTERINGS {
        let quarter = (high - low) / 4.0;
        let bounds = [low + quarter, low + 2.0 * quarter, low + 3.0 * quarter];
        let counts = count_at_most(scores, bounds);
        match (0..3).find(|&i| counts[i] >= least) {
            None => low = bounds[2],
            Some(i) => {
                high = bounds[i];
                if counts[i] <= most {
                    break;
                }
                low = if i == 0 { low } else { bounds[i - 1] };
            }
        }
    }
    high
}

#[inline(always)]
fn extremes(scores: &[f32]) -> (f32, f32) {
    let (groups, rest) = scores.as_chunks::<16>();
    let (mut low, mut high) = ([f32::INFINITY; 16], [f32::NEG_INFINITY; 16]);
    let mut widen = |least: &[f32; 16], greatest: &[f32; 16]| {
        for lane in 0..16 {
            low[lane] = if least[lane] < low[lane] { least[lane] } else { low[lane] };
            high[lane] = if greatest[lane] > high[lane] { greatest[lane] } else { high[lane] };
        }
    };
    groups.iter().for_each(|group| widen(group, group));
    widen(&last(rest, f32::INFINITY), &last(rest, f32::NEG_INFINITY));
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            low[lane] = if low[lane + half] < low[lane] { low[lane + half] } else { low[lane] };
            high[lane] = if high[lane + half] > high[lane] { high[lane + half] } else { high[lane] };
        }
    }
    (low[0], high[0])
}

/// The scores behind the last whole group, filled up.
#[inline(always)]
fn last(rest: &[f32], filling: f32) -> [f32; 16] {
    let mut group = [filling; 16];
    group[..rest.len()].copy_from_slice(rest);
    group
}

/// How many scores are at most each bound, none of which is infinite.
#[inline(always)]
fn count_at_most(scores: &[f32], bounds: [f32; 3]) -> [usize; 3] {
    let (groups, rest) = scores.as_chunks::<16>();
    let mut counts = [[0u32; 16]; 3];
    let mut add = |group: &[f32; 16]| {
        for (counts, bound) in counts.iter_mut().zip(bounds) {
            for lane in 0..16 {
                counts[lane] += u32::from(group[lane] <= bound);
            }
        }
    };
    groups.iter().for_each(&mut add);
    add(&last(rest, f32::INFINITY));
    counts.map(|counts| counts.iter().sum::<u32>() as usize)
}

/// The body of [`Kernels::keep_at_most`].
#[inline(always)]
fn keep_body(found: &mut Found, bound: f32) {
    let mut kept = 0;
    for at in 0..found.scores.len() {
        let score = found.scores[at];
        found.scores[kept] = score;
        found.entries[kept] = found.entries[at];
        kept += usize::from(score <= bound);
    }
    found.truncate(kept);
}

pub(super) fn bound(scores: &[f32], least: usize, most: usize) -> f32 {
    bound_body(scores, least, most)
}

pub(super) fn keep_at_most(found: &mut Found, bound: f32) {
    keep_body(found, bound);
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use super::{Found, bound_body, keep_body};

    #[target_feature(enable = "avx2")]
    pub(in crate::kernel) fn bound(scores: &[f32], least: usize, most: usize) -> f32 {
        bound_body(scores, least, most)
    }

    #[target_feature(enable = "avx2")]
    pub(in crate::kernel) fn keep_at_most(found: &mut Found, bound: f32) {
        keep_body(found, bound);
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
pub(super) mod avx512 {
    use super::{Found, bound_body};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(in crate::kernel) fn bound(scores: &[f32], least: usize, most: usize) -> f32 {
        bound_body(scores, least, most)
    }

    /// Sixteen at a time, compressed in registers. What is written never overtakes what is still to be read.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(in crate::kernel) fn keep_at_most(found: &mut Found, bound: f32) {
        let n = found.scores.len();
        let bounds = _mm512_set1_ps(bound);
        let mut kept = 0;
        for at in (0..n).step_by(16) {
            let lanes = (n - at).min(16);
            let mask = ((1u32 << lanes) - 1) as __mmask16;
            // SAFETY: the mask has a bit only for the `lanes` elements from `at` on, and as many stand in both vectors;
            // at most `lanes` are written from `kept` on, and `kept` is at most `at`.
            unsafe {
                let scores = _mm512_maskz_loadu_ps(mask, found.scores.as_ptr().add(at));
                let entries = _mm512_maskz_loadu_epi32(mask, found.entries.as_ptr().add(at).cast());
                let near = _mm512_mask_cmp_ps_mask::<_CMP_LE_OQ>(mask, scores, bounds);
                let count = near.count_ones() as usize;
                let out = ((1u32 << count) - 1) as __mmask16;
                let scores = _mm512_maskz_compress_ps(near, scores);
                let entries = _mm512_maskz_compress_epi32(near, entries);
                _mm512_mask_storeu_ps(found.scores.as_mut_ptr().add(kept), out, scores);
                _mm512_mask_storeu_epi32(found.entries.as_mut_ptr().add(kept).cast(), out, entries);
                kept += count;
            }
        }
        found.truncate(kept);
    }
}
