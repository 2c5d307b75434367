//! Sums of looked-up values, one for each byte of a code, and Hamming distances of codes.
//!
//! ```text
//! entry     m code bytes | what else belongs to it | bias, f32, where there are biases      entry_bytes in all
//! tables    256 values for each of the m bytes
//! even, odd the values of bytes 0, 2, 4, … and of bytes 1, 3, 5, …, each added up in that order from 0
//! score     max(floor, min(f32::MAX, (base + bias) + (even + odd)))           a NaN is f32::MAX
//! ```
//! Nothing is fused and the order is fixed, so all tables give the same bits, alone or in any company.
//!
//! A table of 16 bytes' values is 16 KiB: it stays in the first-level cache while codes stream by. Four entries go
//! together, each with two sums, so that no addition waits for the one before; a word of eight code bytes is loaded at
//! once. With AVX-512, 16 entries go together and their values are gathered: .30 ns a look-up instead of .45 to .6 for 16 bytes
//! (150 entries, on a busy machine), .37 instead of .57 for 32, but .75 instead of .5 for 64, whose tables are longer than that cache.

#![allow(unsafe_code)]

use super::Kernels;

/// Entries to look up, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lookup<'a> {
    /// 256 values for each byte of a code.
    pub(crate) tables: &'a [f32],
    pub(crate) entries: &'a [u8],
    pub(crate) entry_bytes: usize,
    /// True if the last four bytes of an entry are its bias.
    pub(crate) biased: bool,
    pub(crate) base: f32,
    pub(crate) floor: f32,
}

impl Lookup<'_> {
    pub(super) fn check(&self) {
        assert!(self.tables.len().is_multiple_of(256) && self.entry_bytes > 0);
        assert!(self.entries.len().is_multiple_of(self.entry_bytes));
        assert!(self.code_bytes() + if self.biased { 4 } else { 0 } <= self.entry_bytes);
    }

    /// Entries.
    #[inline(always)]
    pub(super) fn count(&self) -> usize {
        self.entries.len() / self.entry_bytes
    }

    #[inline(always)]
    pub(super) fn code_bytes(&self) -> usize {
        self.tables.len() / 256
    }

    #[inline(always)]
    pub(super) fn entry(&self, i: usize) -> &[u8] {
        &self.entries[i * self.entry_bytes..][..self.entry_bytes]
    }

    #[inline(always)]
    pub(super) fn bias(&self, entry: &[u8]) -> f32 {
        match (self.biased, entry.last_chunk()) {
            (true, Some(bias)) => f32::from_le_bytes(*bias),
            _ => 0.0,
        }
    }

    /// A score from its sums.
    #[inline(always)]
    fn score(&self, entry: &[u8], [even, odd]: [f32; 2]) -> f32 {
        settle(self.base, self.bias(entry), even + odd, self.floor)
    }
}

/// A score within its range, whatever overflowed.
#[inline(always)]
pub(crate) fn settle(base: f32, bias: f32, sum: f32, floor: f32) -> f32 {
    let score = (base + bias) + sum;
    let score = if score < f32::MAX { score } else { f32::MAX };
    if score > floor { score } else { floor }
}

pub(super) type Scan = unsafe fn(lookup: &Lookup<'_>, scores: &mut [f32]);
pub(super) type Picked = unsafe fn(lookup: &Lookup<'_>, picks: &[u32], scores: &mut [f32]);
pub(super) type Near =
    unsafe fn(code: &[u8], entries: &[u8], entry_bytes: usize, below: u32, picks: &mut Vec<u32>);

impl Kernels {
    /// The scores of all entries.
    pub(crate) fn lookup(&self, lookup: &Lookup<'_>, scores: &mut [f32]) {
        lookup.check();
        assert_eq!(scores.len() * lookup.entry_bytes, lookup.entries.len());
        // SAFETY: the table exists only where its instructions do; the lengths were checked above.
        unsafe { (self.lookup)(lookup, scores) }
    }

    /// The scores of some entries: the same bits.
    pub(crate) fn lookup_picked(&self, lookup: &Lookup<'_>, picks: &[u32], scores: &mut [f32]) {
        lookup.check();
        assert_eq!(picks.len(), scores.len());
        // SAFETY: as above; a pick beyond the entries panics there.
        unsafe { (self.lookup_picked)(lookup, picks, scores) }
    }

    /// Replaces `picks` by the entries that begin with fewer than `below` bits other than those of `code`, ascending.
    pub(crate) fn hamming_below(
        &self,
        code: &[u8],
        entries: &[u8],
        entry_bytes: usize,
        below: u32,
        picks: &mut Vec<u32>,
    ) {
        assert!(entry_bytes > 0 && code.len() <= entry_bytes && entries.len().is_multiple_of(entry_bytes));
        picks.clear();
        // SAFETY: as above.
        unsafe { (self.hamming_below)(code, entries, entry_bytes, below, picks) }
    }
}

/// Entries that go together.
const TOGETHER: usize = 4;

/// The even and the odd sum of four codes.
#[inline(always)]
fn sums(tables: &[f32], codes: [&[u8]; TOGETHER]) -> [[f32; 2]; TOGETHER] {
    let mut sums = [[0.0; 2]; TOGETHER];
    let (eights, rest) = tables.as_chunks::<256>().0.as_chunks::<8>();
    for (w, tables) in eights.iter().enumerate() {
        for e in 0..TOGETHER {
            let mut word = [0; 8];
            word.copy_from_slice(&codes[e][8 * w..8 * w + 8]);
            let word = u64::from_le_bytes(word);
            for i in 0..8 {
                sums[e][i % 2] += tables[i][usize::from((word >> (8 * i)) as u8)];
            }
        }
    }
    for (j, table) in rest.iter().enumerate() {
        for e in 0..TOGETHER {
            sums[e][j % 2] += table[usize::from(codes[e][8 * eights.len() + j])];
        }
    }
    sums
}

#[inline(always)]
fn some(lookup: &Lookup<'_>, numbers: [usize; TOGETHER], scores: &mut [f32]) {
    let entries = numbers.map(|i| lookup.entry(i));
    let code_bytes = lookup.code_bytes();
    let sums = sums(lookup.tables, entries.map(|entry| &entry[..code_bytes]));
    for ((score, entry), sums) in scores.iter_mut().zip(entries).zip(sums) {
        *score = lookup.score(entry, sums);
    }
}

#[inline(always)]
fn scan_body(lookup: &Lookup<'_>, scores: &mut [f32]) {
    // The last step repeats the last entry.
    let last = scores.len().wrapping_sub(1);
    for (step, scores) in scores.chunks_mut(TOGETHER).enumerate() {
        some(lookup, std::array::from_fn(|i| (step * TOGETHER + i).min(last)), scores);
    }
}

#[inline(always)]
fn picked_body(lookup: &Lookup<'_>, picks: &[u32], scores: &mut [f32]) {
    for (picks, scores) in picks.chunks(TOGETHER).zip(scores.chunks_mut(TOGETHER)) {
        some(lookup, std::array::from_fn(|i| picks[i.min(picks.len() - 1)] as usize), scores);
    }
}

#[inline(always)]
fn near_body(code: &[u8], entries: &[u8], entry_bytes: usize, below: u32, picks: &mut Vec<u32>) {
    let (words, rest) = code.as_chunks::<8>();
    for (i, entry) in entries.chunks_exact(entry_bytes).enumerate() {
        let (theirs, _) = entry.as_chunks::<8>();
        let far =
            |(a, b): (&[u8; 8], &[u8; 8])| (u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b)).count_ones();
        let mut bits: u32 = words.iter().zip(theirs).map(far).sum();
        let tail = rest.iter().zip(&entry[8 * words.len()..]);
        bits += tail.map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
        if bits < below {
            picks.push(i as u32);
        }
    }
}

pub(super) fn scan(lookup: &Lookup<'_>, scores: &mut [f32]) {
    scan_body(lookup, scores);
}

pub(super) fn picked(lookup: &Lookup<'_>, picks: &[u32], scores: &mut [f32]) {
    picked_body(lookup, picks, scores);
}

pub(super) fn near(code: &[u8], entries: &[u8], entry_bytes: usize, below: u32, picks: &mut Vec<u32>) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("popcnt") {
        // SAFETY: just detected.
        return unsafe { near_popcnt(code, entries, entry_bytes, below, picks) };
    }
    near_body(code, entries, entry_bytes, below, picks);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "popcnt")]
fn near_popcnt(code: &[u8], entries: &[u8], entry_bytes: usize, below: u32, picks: &mut Vec<u32>) {
    near_body(code, entries, entry_bytes, below, picks);
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use super::{Lookup, picked_body, scan_body};

    #[target_feature(enable = "avx2")]
    pub(in crate::kernel) fn scan(lookup: &Lookup<'_>, scores: &mut [f32]) {
        scan_body(lookup, scores);
    }

    #[target_feature(enable = "avx2")]
    pub(in crate::kernel) fn picked(lookup: &Lookup<'_>, picks: &[u32], scores: &mut [f32]) {
        picked_body(lookup, picks, scores);
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use super::{Lookup, scan_body};
    use std::arch::x86_64::*;

    /// Entries of a register.
    const LANES: usize = 16;

    /// Beyond so many bytes the tables leave the first-level cache, and gathering is slower.
    const CODE_BYTES_MAX: usize = 48;

    /// Entries' offsets that an `i32` holds.
    const BYTES_MAX: usize = i32::MAX as usize;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(in crate::kernel) fn scan(lookup: &Lookup<'_>, scores: &mut [f32]) {
        let code_bytes = lookup.code_bytes();
        let gathers = code_bytes.is_multiple_of(4) && (4..=CODE_BYTES_MAX).contains(&code_bytes);
        if !gathers || LANES * lookup.entry_bytes > BYTES_MAX {
            return scan_body(lookup, scores);
        }
        let mut first = 0;
        while scores.len() - first >= 2 * LANES {
            some::<2>(lookup, first, &mut scores[first..]);
            first += 2 * LANES;
        }
        if scores.len() - first >= LANES {
            some::<1>(lookup, first, &mut scores[first..]);
            first += LANES;
        }
        let rest = Lookup { entries: &lookup.entries[first * lookup.entry_bytes..], ..*lookup };
        scan_body(&rest, &mut scores[first..]);
    }

    /// `R` registers of entries from `first` on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn some<const R: usize>(lookup: &Lookup<'_>, first: usize, scores: &mut [f32]) {
        let size = lookup.entry_bytes;
        let entries = &lookup.entries[first * size..][..R * LANES * size];
        let scores = &mut scores[..R * LANES];
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let steps = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(size as i32));
        let byte = _mm512_set1_epi32(255);
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        for (w, tables) in lookup.tables.as_chunks::<256>().0.as_chunks::<4>().0.iter().enumerate() {
            for r in 0..R {
                let codes = entries[r * LANES * size + 4 * w..].as_ptr();
                // SAFETY: 4 bytes are read at 4w of each of 16 entries; `code_bytes` is a multiple of 4, so they are within
                // the entry, and the offsets were seen to fit.
                let words = unsafe { _mm512_i32gather_epi32::<1>(steps, codes.cast()) };
                let at = [
                    _mm512_and_si512(words, byte),
                    _mm512_and_si512(_mm512_srli_epi32::<8>(words), byte),
                    _mm512_and_si512(_mm512_srli_epi32::<16>(words), byte),
                    _mm512_srli_epi32::<24>(words),
                ];
                for i in 0..4 {
                    // SAFETY: the indices are below 256, the length of the table.
                    let values = unsafe { _mm512_i32gather_ps::<4>(at[i], tables[i].as_ptr().cast()) };
                    sums[r][i % 2] = _mm512_add_ps(sums[r][i % 2], values);
                }
            }
        }
        let (base, floor) = (_mm512_set1_ps(lookup.base), _mm512_set1_ps(lookup.floor));
        for r in 0..R {
            let bias = if lookup.biased {
                let biases = entries[r * LANES * size + size - 4..].as_ptr();
                // SAFETY: the last 4 bytes of each of 16 entries.
                _mm512_castsi512_ps(unsafe { _mm512_i32gather_epi32::<1>(steps, biases.cast()) })
            } else {
                _mm512_setzero_ps()
            };
            let sum = _mm512_add_ps(sums[r][0], sums[r][1]);
            let score = _mm512_add_ps(_mm512_add_ps(base, bias), sum);
            // Of NaN and another the second operand is the minimum, and of equals the second is the maximum.
            let score = _mm512_min_ps(score, _mm512_set1_ps(f32::MAX));
            let score = _mm512_max_ps(score, floor);
            // SAFETY: `scores` has 16 for each register.
            unsafe { _mm512_storeu_ps(scores[r * LANES..].as_mut_ptr(), score) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::Random;

    struct Case {
        tables: Vec<f32>,
        entries: Vec<u8>,
        entry_bytes: usize,
        biased: bool,
    }

    impl Case {
        fn new(random: &mut Random, m: usize, extra: usize, biased: bool, n: usize) -> Self {
            let tables = (0..256 * m).map(|_| random.unit() as f32 - 0.5).collect();
            let entry_bytes = m + extra + if biased { 4 } else { 0 };
            let mut entries: Vec<u8> = (0..n * entry_bytes).map(|_| random.next_u64() as u8).collect();
            if biased {
                for entry in entries.chunks_exact_mut(entry_bytes) {
                    entry[entry_bytes - 4..].copy_from_slice(&(random.unit() as f32).to_le_bytes());
                }
            }
            Case { tables, entries, entry_bytes, biased }
        }

        fn lookup(&self, base: f32, floor: f32) -> Lookup<'_> {
            let Case { tables, entries, entry_bytes, biased } = self;
            Lookup { tables, entries, entry_bytes: *entry_bytes, biased: *biased, base, floor }
        }
    }

    /// The formula of the file's first lines.
    fn slow(lookup: &Lookup<'_>, i: usize) -> f32 {
        let entry = lookup.entry(i);
        let mut sums = [0.0f32; 2];
        for j in 0..lookup.code_bytes() {
            sums[j % 2] += lookup.tables[256 * j + usize::from(entry[j])];
        }
        let bias = if lookup.biased { f32::from_le_bytes(*entry.last_chunk().unwrap()) } else { 0.0 };
        let score = (lookup.base + bias) + (sums[0] + sums[1]);
        if score.is_nan() { f32::MAX } else { score.min(f32::MAX).max(lookup.floor) }
    }

    /// Breaks if a tail of entries or of bytes is skipped, read twice, or summed in another order.
    #[test]
    fn every_table_gives_the_bits_of_the_formula_alone_and_in_company() {
        let mut random = Random::new(1);
        for m in [1, 2, 3, 4, 7, 8, 12, 16, 17, 20, 32, 48, 65] {
            for n in [0, 1, 2, 3, 4, 5, 15, 16, 17, 31, 33, 48, 100] {
                let case = Case::new(&mut random, m, n % 3, n % 2 == 0, n);
                for floor in [0.0, f32::MIN] {
                    let lookup = case.lookup(0.75, floor);
                    let wanted: Vec<u32> = (0..n).map(|i| slow(&lookup, i).to_bits()).collect();
                    let picks: Vec<u32> = (0..n as u32).rev().step_by(3).collect();
                    for kernels in Kernels::all() {
                        let (mut scores, mut some) = (vec![9.0; n], vec![9.0; picks.len()]);
                        kernels.lookup(&lookup, &mut scores);
                        let bits: Vec<u32> = scores.iter().map(|score| score.to_bits()).collect();
                        assert_eq!(bits, wanted, "{} {m} {n}", kernels.name);
                        kernels.lookup_picked(&lookup, &picks, &mut some);
                        for (pick, score) in picks.iter().zip(some) {
                            assert_eq!(score.to_bits(), wanted[*pick as usize], "{} {m} {n}", kernels.name);
                        }
                    }
                }
            }
        }
    }

    /// No NaN, no infinity, no -0.0, whatever overflows.
    #[test]
    fn scores_stay_in_their_range() {
        for (value, bias, base) in [
            (f32::MAX, f32::MAX, f32::MAX),
            (f32::MAX, f32::MIN, f32::MIN),
            (f32::MIN, f32::MAX, f32::MAX),
            (f32::MIN, f32::MIN, 0.0),
            (-0.0, -0.0, 0.0),
            (f32::INFINITY, f32::NEG_INFINITY, 0.0),
        ] {
            let mut entries = Vec::new();
            for _ in 0..40 {
                entries.extend([0; 8]);
                entries.extend(bias.to_le_bytes());
            }
            let case = Case { tables: vec![value; 8 * 256], entries, entry_bytes: 12, biased: true };
            for floor in [0.0, f32::MIN] {
                for kernels in Kernels::all() {
                    let mut scores = vec![9.0f32; 40];
                    let lookup = case.lookup(base, floor);
                    kernels.lookup(&lookup, &mut scores);
                    for score in scores {
                        assert!(score.is_finite() && score >= floor, "{} {score}", kernels.name);
                        assert!(score.to_bits() != (-0.0f32).to_bits(), "{}", kernels.name);
                        assert_eq!(score.to_bits(), slow(&lookup, 0).to_bits(), "{}", kernels.name);
                    }
                }
            }
        }
    }

    #[test]
    fn near_codes_are_those_of_few_other_bits() {
        let mut random = Random::new(2);
        for m in [1, 2, 5, 8, 9, 16, 20, 33] {
            let case = Case::new(&mut random, m, 1, true, 50);
            let code: Vec<u8> = (0..m).map(|_| random.next_u64() as u8).collect();
            for below in [0, 1, 4 * m as u32, 8 * m as u32 + 1] {
                let bits = |entry: &[u8]| -> u32 {
                    entry.iter().zip(&code).map(|(a, b)| (a ^ b).count_ones()).sum()
                };
                let each = case.entries.chunks_exact(case.entry_bytes).enumerate();
                let wanted: Vec<u32> =
                    each.filter(|(_, entry)| bits(entry) < below).map(|(i, _)| i as u32).collect();
                for kernels in Kernels::all() {
                    let mut picks = vec![7];
                    kernels.hamming_below(&code, &case.entries, case.entry_bytes, below, &mut picks);
                    assert_eq!(picks, wanted, "{} {m} {below}", kernels.name);
                }
            }
        }
    }
}
