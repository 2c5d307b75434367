//! Fast scan: sums of table entries picked by 4-bit codes, 32 vectors at a time.
//!
//! ```text
//! group:   sub-space 0: 16 bytes | sub-space 1: 16 bytes | … | biases 32 × f32, if there are any
//! byte p of a sub-space:  low nibble = entry p, high nibble = entry p + 16
//!
//! table byte    t_jk = round((v_jk − least_j) / step)      step = the widest sub-space's span / 255
//! S(entry)      Σ_j t[16·j + nibble j of the entry]                         (whole numbers, exact in i32)
//! score(entry)  (bias + base) + step · S        base = what the list adds + Σ_j least_j
//! ```
//! The table is that of FAISS's fast scan (after André, Kermarrec and Le Scouarnec 2015), but that sums have 32 bits and
//! so steps need not grow with the number of sub-spaces. Each byte is within half a step of its value, so a score of m
//! sub-spaces is within m/2 steps of the one that the values themselves give.
//!
//! S is a whole number and the roundings after it are the same everywhere, so all tables of kernels give the same bits. An
//! entry is found if its score is at most the query's threshold and its bit in `live` is set; the last group of
//! a block is filled up with entries that nobody may find. Where there are no biases, a score only grows with S, so the
//! threshold becomes one on S ([`limit`]) and scores are made for what is found.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod portable;
mod tables;
#[cfg(test)]
mod tests;

pub(crate) use tables::FastTables;

use super::nibble::{GROUP, POINTS};
use super::{Found, Kernels};

/// Queries that one pass takes at most.
pub(crate) const FAST_QUERIES: usize = 4;

/// Sub-spaces that there are at most: so many times 255 is a whole number that an `f32` holds exactly.
const FAST_SUBSPACES_MAX: usize = 1 << 16;

/// Sub-spaces whose sum 16 bits hold.
#[allow(dead_code)] // not where sums have 32 bits throughout
const SHORT_SUBSPACES: usize = 256;

/// Whole groups of entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FastGroups<'a> {
    /// An even number.
    pub(crate) subspaces: usize,
    /// True if each entry has a bias.
    pub(crate) biased: bool,
    pub(crate) bytes: &'a [u8],
    /// What will be read afterwards.
    pub(crate) ahead: &'a [u8],
}

/// One query in one list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FastQuery<'a> {
    /// 16 entries for each sub-space, for a multiple of four of them: what is beyond the last is zero.
    pub(crate) table: &'a [u8],
    /// From one whole number to the next; not negative.
    pub(crate) step: f32,
    pub(crate) base: f32,
    /// Scores beyond it are not wanted.
    pub(crate) worst: f32,
    /// A bit for each entry that may be found, 32 a word.
    pub(crate) live: &'a [u32],
}

pub(super) type FastScan = unsafe fn(groups: &FastGroups<'_>, queries: &[FastQuery<'_>], found: &mut [Found]);
pub(super) type FastTable = unsafe fn(values: &[f32], leasts: &mut [f32], table: &mut [u8]) -> Steps;

/// What a table's bytes stand for: `offset + step · sum`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Steps {
    pub(crate) step: f32,
    /// The sum of the sub-spaces' least values.
    pub(crate) offset: f64,
}

#[allow(unsafe_code)]
impl Kernels {
    /// Scans groups for up to [`FAST_QUERIES`] queries; appends what each finds to `found`. Meanwhile what is ahead is
    /// brought into the cache, a piece with each group: all at once would wait for each other.
    pub(crate) fn fast_scan(&self, groups: &FastGroups<'_>, queries: &[FastQuery<'_>], found: &mut [Found]) {
        let n = groups.count();
        assert!(queries.len() <= FAST_QUERIES && queries.len() == found.len());
        let table_bytes = table_bytes(groups.subspaces);
        assert!(queries.iter().all(|q| q.table.len() == table_bytes && q.live.len() == n));
        for found in &mut *found {
            // A store of a whole register may reach beyond what was found.
            assert_eq!(found.entries.len(), found.scores.len());
            found.entries.reserve((n + 1) * GROUP);
            found.scores.reserve((n + 1) * GROUP);
        }
        // SAFETY: the table exists only where its instructions do; the lengths were checked above.
        unsafe { (self.fast_scan)(groups, queries, found) }
    }

    /// The bytes of a query's values, 16 of them for each sub-space. What is beyond [`VALUE_MAX`] counts as that.
    /// `leasts`, one for each sub-space, is scratch.
    fn fast_table(&self, values: &[f32], leasts: &mut [f32], table: &mut [u8]) -> Steps {
        assert!(!values.is_empty() && values.len() == POINTS * leasts.len());
        assert_eq!(table.len(), table_bytes(values.len() / POINTS));
        // SAFETY: as for `fast_scan`.
        unsafe { (self.fast_table)(values, leasts, table) }
    }
}

/// Bytes of a query's table.
fn table_bytes(subspaces: usize) -> usize {
    POINTS * subspaces.next_multiple_of(4)
}

impl<'a> FastGroups<'a> {
    /// Bytes of a group.
    fn stride(&self) -> usize {
        16 * self.subspaces + if self.biased { 4 * GROUP } else { 0 }
    }

    /// How many there are.
    fn count(&self) -> usize {
        assert!(self.subspaces > 0 && self.subspaces.is_multiple_of(2));
        assert!(self.subspaces <= FAST_SUBSPACES_MAX && self.bytes.len().is_multiple_of(self.stride()));
        let n = self.bytes.len() / self.stride();
        assert!(u32::try_from(n * GROUP).is_ok());
        n
    }

    /// Each group's nibbles and its biases, and a piece of what is ahead: whole lines, and all of it by the last group.
    #[inline(always)]
    fn each(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8], &'a [u8])> + use<'a> {
        let (ahead, stride, nibbles) = (self.ahead, self.stride(), 16 * self.subspaces);
        let groups = (self.bytes.len() / stride).max(1);
        let piece = ahead.len().div_ceil(groups).next_multiple_of(64);
        self.bytes.chunks_exact(stride).enumerate().map(move |(g, group)| {
            let (nibbles, biases) = group.split_at(nibbles);
            let ahead = ahead.get(g * piece..ahead.len().min((g + 1) * piece)).unwrap_or_default();
            (nibbles, biases, ahead)
        })
    }
}

/// The greatest sum whose score is at most the query's threshold, −1 if there is none. Scores without a bias do not
/// fall when sums grow, whatever they are rounded to.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // the others make all scores
fn limit(query: &FastQuery<'_>, subspaces: usize) -> i32 {
    let most = 255 * subspaces as i32;
    let within = |sum: i32| query.base + query.step * sum as f32 <= query.worst;
    if !within(0) {
        return -1;
    }
    if within(most) {
        return most;
    }
    // What division says is off by no more than one, but where the base swallows whole steps.
    let near = ((query.worst - query.base) / query.step) as i32;
    let mut probes = [near, near.saturating_add(1), near.saturating_sub(1)].into_iter();
    let (mut low, mut high) = (0, most);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let at = probes.next().filter(|at| low < *at && *at < high).unwrap_or(middle);
        if within(at) { low = at } else { high = at }
    }
    low
}

/// The largest value of a table in magnitude; what is larger, infinite or NaN is cut to it, so that no score is infinite
/// or NaN.
const VALUE_MAX: f32 = f32::MAX / 8.0;

/// The body of [`Kernels::fast_table`]: plain loops of 16, which the compiler turns into the instructions of the table
/// that it is inlined into. Nothing is fused, so all tables agree.
#[inline(always)]
fn table_body(values: &[f32], leasts: &mut [f32], table: &mut [u8]) -> Steps {
    let values = values.as_chunks::<POINTS>().0;
    let mut widest = 0.0f32;
    for (values, out) in values.iter().zip(&mut *leasts) {
        let (least, most) = extremes(&cut(values));
        widest = if most - least > widest { most - least } else { widest };
        *out = least;
    }
    let (step, inverse) = step(widest, values.len());
    let (tables, _) = table.as_chunks_mut::<POINTS>();
    tables[values.len()..].fill([0; POINTS]);
    for ((values, least), out) in values.iter().zip(&*leasts).zip(tables) {
        let values = cut(values);
        for k in 0..POINTS {
            let steps = (values[k] - least) * inverse;
            let steps = if steps < 255.0 { steps } else { 255.0 };
            // Added to 1.5·2^23 a number is rounded to the nearest whole one, ties to even, in its lowest bits.
            out[k] = (steps + 12_582_912.0).to_bits() as u8;
        }
    }
    Steps { step, offset: offset(leasts) }
}

/// The step of a table whose widest sub-space is this wide, and its inverse: zeros where steps would underflow.
#[inline(always)]
fn step(widest: f32, subspaces: usize) -> (f32, f32) {
    // The largest sum is no more than this apart from the least, whatever the values.
    let step = (widest / 255.0).min(VALUE_MAX / (255 * subspaces) as f32);
    if step >= f32::MIN_POSITIVE { (step, 1.0 / step) } else { (0.0, 0.0) }
}

/// The sum of the sub-spaces' least values, in eight running sums.
#[inline(always)]
fn offset(leasts: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    for leasts in leasts.chunks(8) {
        sums.iter_mut().zip(leasts).for_each(|(sum, least)| *sum += f64::from(*least));
    }
    sums.iter().sum()
}

#[inline(always)]
fn cut(values: &[f32; POINTS]) -> [f32; POINTS] {
    let mut cut = *values;
    for value in &mut cut {
        *value = if *value < VALUE_MAX { *value } else { VALUE_MAX };
        *value = if *value > -VALUE_MAX { *value } else { -VALUE_MAX };
    }
    cut
}

/// The least and the greatest value.
#[inline(always)]
fn extremes(values: &[f32; POINTS]) -> (f32, f32) {
    let lesser = |a: f32, b: f32| if b < a { b } else { a };
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    (fold(values, lesser), fold(values, greater))
}

/// By halves, which compilers vectorise.
#[inline(always)]
fn fold(values: &[f32; POINTS], pick: impl Fn(f32, f32) -> f32) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| pick(values[i], values[i + 8]));
    let four: [f32; 4] = std::array::from_fn(|i| pick(eight[i], eight[i + 4]));
    pick(pick(four[0], four[2]), pick(four[1], four[3]))
}
