//! Hamming distances: how many bits of two codes differ.
//!
//! ```text
//! score(query, code) = Σ ones(query word ^ code word)        as f32, a whole number; words of 64 bits, the last filled up
//! ```
//! Plain loops over words, with a length that the compiler knows for codes of 4, 8, 16, 32 and 64 bytes, which it turns into
//! the instructions of the table that they are inlined into: `vpopcntq` where the processor has it (eight words at a time),
//! table look-ups in registers with AVX2, `cnt` with NEON. A piece of codes that fits the first-level cache is scored for all
//! queries before the next comes.

use super::Kernels;

/// Bytes of codes that stay in the first-level cache while the queries pass by.
const PASS_BYTES: usize = 16 << 10;

pub(super) type Scan = unsafe fn(queries: &[&[u8]], codes: &[u8], scores: &mut [f32]);

#[allow(unsafe_code)]
impl Kernels {
    /// The distance of every query to every code: `scores[q * n + i]`. Codes are as long as the queries, one after the other.
    pub(crate) fn hamming_scan(&self, queries: &[&[u8]], codes: &[u8], scores: &mut [f32]) {
        if scores.is_empty() {
            return assert!(queries.is_empty() || codes.is_empty());
        }
        let size = queries[0].len();
        // Sums are exact in f32.
        assert!(size > 0 && size < 1 << 20 && queries.iter().all(|query| query.len() == size));
        assert_eq!(codes.len() / size * queries.len(), scores.len());
        assert!(codes.len().is_multiple_of(size));
        // SAFETY: the table exists only where its instructions do.
        unsafe { (self.hamming_scan)(queries, codes, scores) }
    }
}

#[inline(always)]
fn scan_body(queries: &[&[u8]], codes: &[u8], scores: &mut [f32]) {
    let size = queries[0].len();
    let n = codes.len() / size;
    let pass = (PASS_BYTES / size).max(1);
    for first in (0..n).step_by(pass) {
        let range = first..n.min(first + pass);
        let codes = &codes[range.start * size..range.end * size];
        for (query, scores) in queries.iter().zip(scores.chunks_exact_mut(n)) {
            let scores = &mut scores[range.clone()];
            match size {
                4 => quads(query, codes, scores),
                8 => words::<1>(query, codes, scores),
                16 => words::<2>(query, codes, scores),
                32 => words::<4>(query, codes, scores),
                64 => words::<8>(query, codes, scores),
                _ => any(query, codes, scores),
            }
        }
    }
}

/// Codes of four bytes.
#[inline(always)]
fn quads(query: &[u8], codes: &[u8], scores: &mut [f32]) {
    let word = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
    let query = word(&query.as_chunks::<4>().0[0]);
    for (code, score) in codes.as_chunks::<4>().0.iter().zip(scores) {
        *score = (word(code) ^ query).count_ones() as f32;
    }
}

/// Codes of `W` words.
#[inline(always)]
fn words<const W: usize>(query: &[u8], codes: &[u8], scores: &mut [f32]) {
    let query: [u64; W] = std::array::from_fn(|w| u64::from_le_bytes(query.as_chunks::<8>().0[w]));
    for (code, score) in codes.as_chunks::<8>().0.as_chunks::<W>().0.iter().zip(scores) {
        let mut ones = 0;
        for w in 0..W {
            ones += (u64::from_le_bytes(code[w]) ^ query[w]).count_ones();
        }
        *score = ones as f32;
    }
}

#[inline(always)]
fn any(query: &[u8], codes: &[u8], scores: &mut [f32]) {
    let (query_words, query_rest) = query.as_chunks::<8>();
    for (code, score) in codes.chunks_exact(query.len()).zip(scores) {
        let (words, rest) = code.as_chunks::<8>();
        let mut ones = 0;
        for (word, query) in words.iter().zip(query_words) {
            ones += (u64::from_le_bytes(*word) ^ u64::from_le_bytes(*query)).count_ones();
        }
        for (byte, query) in rest.iter().zip(query_rest) {
            ones += (byte ^ query).count_ones();
        }
        *score = ones as f32;
    }
}

pub(super) fn scan(queries: &[&[u8]], codes: &[u8], scores: &mut [f32]) {
    scan_body(queries, codes, scores);
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use super::scan_body;

    /// True if this processor counts the bits of eight words at once.
    pub(in crate::kernel) fn detected() -> bool {
        is_x86_feature_detected!("avx512vpopcntdq")
    }

    #[target_feature(enable = "avx2,popcnt")]
    pub(in crate::kernel) fn avx2(queries: &[&[u8]], codes: &[u8], scores: &mut [f32]) {
        scan_body(queries, codes, scores);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,popcnt")]
    pub(in crate::kernel) fn avx512(queries: &[&[u8]], codes: &[u8], scores: &mut [f32]) {
        scan_body(queries, codes, scores);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq,popcnt")]
    pub(in crate::kernel) fn vpopcntdq(queries: &[&[u8]], codes: &[u8], scores: &mut [f32]) {
        scan_body(queries, codes, scores);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::Random;

    /// Every length and count around the special ones, bit by bit, each query alone and with others.
    #[test]
    fn distances_are_counted_bits() {
        let mut random = Random::new(1);
        for (size, n) in (1..=40).chain([63, 64, 65, 128, 200]).flat_map(|size| [1, 7, 33].map(|n| (size, n)))
        {
            let mut bytes = |count| (0..count).map(|_| random.next_u64() as u8).collect::<Vec<u8>>();
            let (codes, queries) = (bytes(1 + n * size), bytes(5 * size));
            let codes = &codes[1..];
            let queries: Vec<&[u8]> = queries.chunks_exact(size).collect();
            for kernels in Kernels::all() {
                let (mut scores, mut alone) = (vec![f32::NAN; 5 * n], vec![f32::NAN; n]);
                kernels.hamming_scan(&queries, codes, &mut scores);
                for (query, scores) in queries.iter().zip(scores.chunks_exact(n)) {
                    kernels.hamming_scan(&[*query], codes, &mut alone);
                    assert_eq!(alone, scores, "{} {size}", kernels.name);
                    for (code, score) in codes.chunks_exact(size).zip(scores) {
                        let differ = |at: &usize| (code[at / 8] ^ query[at / 8]) >> (at % 8) & 1 == 1;
                        let counted = (0..8 * size).filter(differ).count();
                        assert_eq!(*score, counted as f32, "{} {size}", kernels.name);
                    }
                }
            }
        }
    }

    /// More codes than pass through the first-level cache at once.
    #[test]
    fn long_lists_are_scanned_in_passes() {
        let (size, n) = (32, 1100);
        let codes: Vec<u8> = (0..n).flat_map(|i| [(i % 251) as u8; 32]).collect();
        for kernels in Kernels::all() {
            let mut scores = vec![f32::NAN; 2 * n];
            kernels.hamming_scan(&[&[0; 32], &[255; 32]], &codes, &mut scores);
            for i in 0..n {
                let ones = 32.0 * ((i % 251) as u8).count_ones() as f32;
                assert_eq!((scores[i], scores[n + i]), (ones, 8.0 * size as f32 - ones));
            }
        }
    }

    #[test]
    fn nothing_is_no_work() {
        for kernels in Kernels::all() {
            kernels.hamming_scan(&[], &[1, 2], &mut []);
            kernels.hamming_scan(&[&[1, 2]], &[], &mut []);
        }
    }
}
