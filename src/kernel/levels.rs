//! Products of a query with codes of 2 to 9 bits a component, in whole numbers.
//!
//! ```text
//! level u_j = sign bit · 2^ex + extra bits              0 .. 2^(ex + 1) − 1
//! planes    bit 0 of all levels | bit 1 of all | .. | bit ex − 1 of all       one bit a component, the first lowest
//! signs     u16 a 16 components, apart: they are nibbles of a group, see `sign_words`
//! sum       Σ_j query_j · u_j                            query_j a whole number of 16 bits
//! ```
//! Sums are exact, so all tables give the same. Planes become levels with no shuffle: each is a mask, under which a power
//! of two is added (AVX-512), or 16 bits that are spread over 16 lanes by a comparison (AVX2). A multiplication takes two
//! neighbours at once.

#![allow(unsafe_code)]

use super::Kernels;
use super::nibble::GROUP;

/// Components that stand together: a query and its planes are filled up to a multiple.
pub(crate) const LEVELS: usize = 16;
/// Extra bits of a level at most.
pub(crate) const EXTRA_BITS_MAX: usize = 8;
/// The largest component of a query, in steps.
pub(crate) const LEVEL_QUERY_MAX: f32 = 32_767.0;
/// Components after which running sums are emptied: 2·511·32767 a pair of them, in 8 lanes at least, stay below 2^31.
#[cfg(target_arch = "x86_64")]
const STEP: usize = 512;

/// One code: its sign words and its planes.
#[derive(Clone, Copy)]
pub(crate) struct Levels<'a> {
    pub(crate) signs: &'a [u16],
    /// As many bytes each as `signs` has.
    pub(crate) planes: &'a [u8],
    pub(crate) extra_bits: usize,
}

pub(super) type LevelSum = unsafe fn(query: &[i16], levels: &Levels<'_>) -> i64;
pub(super) type SignWords = unsafe fn(codes: &[u8], words: &mut [[u16; GROUP]]);

impl Kernels {
    /// Σ query_j · u_j.
    pub(crate) fn level_sum(&self, query: &[i16], levels: &Levels<'_>) -> i64 {
        assert!((1..=EXTRA_BITS_MAX).contains(&levels.extra_bits));
        assert_eq!(query.len(), LEVELS * levels.signs.len());
        assert_eq!(levels.planes.len(), 2 * levels.signs.len() * levels.extra_bits);
        // SAFETY: the table exists only where its instructions do; the lengths were checked above.
        unsafe { (self.level_sum)(query, levels) }
    }

    /// The sign bits of a group of nibbles, four components a nibble: `words[w][e]` has those of components 16·w and on
    /// of entry `e`.
    pub(crate) fn sign_words(&self, codes: &[u8], words: &mut [[u16; GROUP]]) {
        assert_eq!(codes.len(), 64 * words.len());
        // SAFETY: as for `level_sum`.
        unsafe { (self.sign_words)(codes, words) }
    }
}

/// The body of [`Kernels::sign_words`]: plain loops of 16, which the compiler turns into the instructions of the table.
#[inline(always)]
fn sign_words_body(codes: &[u8], words: &mut [[u16; GROUP]]) {
    for (four, out) in codes.as_chunks::<64>().0.iter().zip(words) {
        for e in 0..16 {
            let nibbles = [four[e], four[16 + e], four[32 + e], four[48 + e]].map(u16::from);
            let [a, b, c, d] = nibbles.map(|byte| byte & 15);
            out[e] = a | b << 4 | c << 8 | d << 12;
            let [a, b, c, d] = nibbles.map(|byte| byte >> 4);
            out[16 + e] = a | b << 4 | c << 8 | d << 12;
        }
    }
}

/// The body of [`Kernels::level_sum`] where there is no better one.
#[inline(always)]
fn level_sum_body(query: &[i16], levels: &Levels<'_>) -> i64 {
    let words = levels.signs.len();
    let mut total = 0;
    for (w, query) in query.as_chunks::<LEVELS>().0.iter().enumerate() {
        let mut u = [0i32; LEVELS];
        for lane in 0..LEVELS {
            u[lane] = i32::from(levels.signs[w] >> lane & 1) << levels.extra_bits;
        }
        for (bit, plane) in levels.planes.chunks_exact(2 * words).enumerate() {
            let word = u16::from_le_bytes([plane[2 * w], plane[2 * w + 1]]);
            for lane in 0..LEVELS {
                u[lane] |= i32::from(word >> lane & 1) << bit;
            }
        }
        // Sixteen products of 9 and 16 bits.
        let sum: i32 = u.iter().zip(query).map(|(u, q)| u * i32::from(*q)).sum();
        total += i64::from(sum);
    }
    total
}

pub(super) fn level_sum(query: &[i16], levels: &Levels<'_>) -> i64 {
    level_sum_body(query, levels)
}

pub(super) fn sign_words(codes: &[u8], words: &mut [[u16; GROUP]]) {
    sign_words_body(codes, words);
}

/// The word of plane `plane` at word `w`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn word(planes: &[u8], w: usize) -> u16 {
    u16::from_le_bytes([planes[2 * w], planes[2 * w + 1]])
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use super::{GROUP, LEVELS, Levels, STEP, sign_words_body, word};
    use std::arch::x86_64::*;

    /// Lane `i` has bit `i`.
    const BITS: [i16; 16] = {
        let mut bits = [0; 16];
        let mut i = 0;
        while i < 16 {
            bits[i] = (1u16 << i) as i16;
            i += 1;
        }
        bits
    };

    #[target_feature(enable = "avx2")]
    pub(in crate::kernel) fn sign_words(codes: &[u8], words: &mut [[u16; GROUP]]) {
        sign_words_body(codes, words);
    }

    #[target_feature(enable = "avx2")]
    pub(in crate::kernel) fn level_sum(query: &[i16], levels: &Levels<'_>) -> i64 {
        let plane_bytes = 2 * levels.signs.len();
        // SAFETY: 32 bytes are read from an array of 32.
        let bits = unsafe { _mm256_loadu_si256(BITS.as_ptr().cast()) };
        let spread =
            |word: u16| _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16(word as i16), bits), bits);
        let mut total = 0;
        for (step, query) in query.chunks(STEP).enumerate() {
            let mut sums = _mm256_setzero_si256();
            for (i, query) in query.as_chunks::<LEVELS>().0.iter().enumerate() {
                let w = step * (STEP / LEVELS) + i;
                // Twice what there is, less the mask, which is −1 where the bit is set: the highest bit first.
                let mut u = _mm256_sub_epi16(_mm256_setzero_si256(), spread(levels.signs[w]));
                for bit in (0..levels.extra_bits).rev() {
                    let mask = spread(word(&levels.planes[bit * plane_bytes..], w));
                    u = _mm256_sub_epi16(_mm256_add_epi16(u, u), mask);
                }
                // SAFETY: 32 bytes are read from an array of 16 numbers of two.
                let query = unsafe { _mm256_loadu_si256(query.as_ptr().cast()) };
                sums = _mm256_add_epi32(sums, _mm256_madd_epi16(u, query));
            }
            total += sum(sums);
        }
        total
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn sum(sums: __m256i) -> i64 {
        let low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(sums));
        let high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256::<1>(sums));
        let four = _mm256_add_epi64(low, high);
        let two = _mm_add_epi64(_mm256_castsi256_si128(four), _mm256_extracti128_si256::<1>(four));
        _mm_cvtsi128_si64(two) + _mm_extract_epi64::<1>(two)
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use super::{LEVELS, Levels, STEP, word};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(in crate::kernel) fn level_sum(query: &[i16], levels: &Levels<'_>) -> i64 {
        match levels.extra_bits {
            1 => sum_of::<1>(query, levels),
            2 => sum_of::<2>(query, levels),
            3 => sum_of::<3>(query, levels),
            4 => sum_of::<4>(query, levels),
            5 => sum_of::<5>(query, levels),
            6 => sum_of::<6>(query, levels),
            7 => sum_of::<7>(query, levels),
            _ => sum_of::<8>(query, levels),
        }
    }

    /// 32 components at a time; where 16 are left over, their upper neighbours are masked out.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn sum_of<const EXTRA: usize>(query: &[i16], levels: &Levels<'_>) -> i64 {
        assert_eq!(levels.extra_bits, EXTRA);
        let plane_bytes = 2 * levels.signs.len();
        let mut total = 0;
        for (step, query) in query.chunks(STEP).enumerate() {
            let mut sums = _mm512_setzero_si512();
            let first = step * (STEP / LEVELS);
            let (pairs, rest) = query.as_chunks::<{ 2 * LEVELS }>();
            for (i, query) in pairs.iter().enumerate() {
                let w = first + 2 * i;
                let both = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
                let mut u = _mm512_maskz_set1_epi16(both(levels.signs[w], levels.signs[w + 1]), 1 << EXTRA);
                for bit in 0..EXTRA {
                    let plane = &levels.planes[bit * plane_bytes + 2 * w..][..4];
                    let mask = u32::from_le_bytes([plane[0], plane[1], plane[2], plane[3]]);
                    u = _mm512_mask_add_epi16(u, mask, u, _mm512_set1_epi16(1 << bit));
                }
                // SAFETY: 64 bytes are read from an array of 32 numbers of two.
                let query = unsafe { _mm512_loadu_si512(query.as_ptr().cast()) };
                sums = _mm512_add_epi32(sums, _mm512_madd_epi16(u, query));
            }
            if let Some(query) = rest.first_chunk::<LEVELS>() {
                let w = first + 2 * pairs.len();
                let mut u = _mm256_maskz_set1_epi16(levels.signs[w], 1 << EXTRA);
                for bit in 0..EXTRA {
                    let mask = word(&levels.planes[bit * plane_bytes..], w);
                    u = _mm256_mask_add_epi16(u, mask, u, _mm256_set1_epi16(1 << bit));
                }
                // SAFETY: 32 bytes are read from an array of 16 numbers of two.
                let query = unsafe { _mm256_loadu_si256(query.as_ptr().cast()) };
                sums = _mm512_add_epi32(sums, _mm512_zextsi256_si512(_mm256_madd_epi16(u, query)));
            }
            let low = _mm512_cvtepi32_epi64(_mm512_castsi512_si256(sums));
            let high = _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64::<1>(sums));
            total += _mm512_reduce_add_epi64(_mm512_add_epi64(low, high));
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::Random;

    /// Every table gives the sum of the formula, extremes among it, for all bits and lengths around registers and steps.
    #[test]
    fn level_sums_are_the_formula_in_all_tables() {
        let mut random = Random::new(3);
        for words in (1..=9).chain([31, 32, 33, 65]) {
            for extra_bits in 1..=EXTRA_BITS_MAX {
                for extreme in [false, true] {
                    let mut query: Vec<i16> = (0..words * LEVELS).map(|_| random.next_u64() as i16).collect();
                    query.iter_mut().for_each(|q| *q = (*q).max(-i16::MAX));
                    let mut signs: Vec<u16> = (0..words).map(|_| random.next_u64() as u16).collect();
                    let mut planes: Vec<u8> =
                        (0..2 * words * extra_bits).map(|_| random.next_u64() as u8).collect();
                    if extreme {
                        query.fill(-i16::MAX);
                        signs.fill(u16::MAX);
                        planes.fill(u8::MAX);
                    }
                    let bit =
                        |j: usize, bit: usize| i64::from(planes[bit * 2 * words + j / 8] >> (j % 8) & 1);
                    let level = |j: usize| {
                        let sign = i64::from(signs[j / 16] >> (j % 16) & 1);
                        (0..extra_bits).map(|b| bit(j, b) << b).sum::<i64>() + (sign << extra_bits)
                    };
                    let expected: i64 = (0..query.len()).map(|j| i64::from(query[j]) * level(j)).sum();
                    let levels = Levels { signs: &signs, planes: &planes, extra_bits };
                    for kernels in Kernels::all() {
                        let got = kernels.level_sum(&query, &levels);
                        assert_eq!(got, expected, "{} {words} {extra_bits}", kernels.name);
                    }
                }
            }
        }
    }

    #[test]
    fn sign_words_are_the_bits_of_the_nibbles() {
        let mut random = Random::new(4);
        for words in [1, 2, 7] {
            let codes: Vec<u8> = (0..64 * words).map(|_| random.next_u64() as u8).collect();
            for kernels in Kernels::all() {
                let mut out = vec![[0; GROUP]; words];
                kernels.sign_words(&codes, &mut out);
                for e in 0..GROUP {
                    for j in 0..16 * words {
                        let nibble = codes[j / 4 * 16 + e % 16] >> (4 * (e / 16)) & 15;
                        let bit = u16::from(nibble >> (j % 4) & 1);
                        assert_eq!(out[j / 16][e] >> (j % 16) & 1, bit, "{} {e} {j}", kernels.name);
                    }
                }
            }
        }
    }
}
