//! Rows of 8-bit steps: x̂ᵢ = low + step·uᵢ, scored as they are and decoded.
//!
//! Plain loops over whole registers, which the compiler turns into the instructions of the table that they are
//! inlined into. Nothing is fused, so all tables give the same bits.

use super::Kernels;
use super::Similarity;
use super::portable::{fold, term};
use super::tag::L2;

pub(super) type Score = unsafe fn(query: &[f32], low: f32, step: f32, codes: &[u8]) -> f32;
pub(super) type Decode = unsafe fn(low: f32, step: f32, codes: &[u8], out: &mut [f32]);

#[allow(unsafe_code)]
impl Kernels {
    /// The score of `query` with the row that `codes` stand for.
    pub(crate) fn steps_score(
        &self,
        similarity: Similarity,
        query: &[f32],
        low: f32,
        step: f32,
        codes: &[u8],
    ) -> f32 {
        assert_eq!(query.len(), codes.len());
        // SAFETY: the table exists only where its instructions do.
        unsafe { self.steps_score[similarity as usize](query, low, step, codes) }
    }

    /// The row that `codes` stand for.
    pub(crate) fn steps_decode(&self, low: f32, step: f32, codes: &[u8], out: &mut [f32]) {
        assert_eq!(out.len(), codes.len());
        // SAFETY: as for `steps_score`.
        unsafe { (self.steps_decode)(low, step, codes, out) }
    }
}

/// Running sums: four AVX2 registers, so that an addition need not wait for the one before.
const LANES: usize = 32;

#[inline(always)]
fn score_body<const S: u8>(query: &[f32], low: f32, step: f32, codes: &[u8]) -> f32 {
    let mut sums = [0.0; LANES];
    let ((qs, q_rest), (us, u_rest)) = (query.as_chunks::<LANES>(), codes.as_chunks::<LANES>());
    for (q, u) in qs.iter().zip(us) {
        for lane in 0..LANES {
            sums[lane] += term::<S>(q[lane], low + step * f32::from(u[lane]));
        }
    }
    for (sum, (q, u)) in sums.iter_mut().zip(q_rest.iter().zip(u_rest)) {
        *sum += term::<S>(*q, low + step * f32::from(*u));
    }
    let sum = fold(std::array::from_fn(|lane| sums[lane] + sums[lane + LANES / 2]));
    if S == L2 { sum } else { 0.0 - sum }
}

#[inline(always)]
fn decode_body(low: f32, step: f32, codes: &[u8], out: &mut [f32]) {
    codes.iter().zip(out).for_each(|(u, x)| *x = low + step * f32::from(*u));
}

pub(super) fn score<const S: u8>(query: &[f32], low: f32, step: f32, codes: &[u8]) -> f32 {
    score_body::<S>(query, low, step, codes)
}

pub(super) fn decode(low: f32, step: f32, codes: &[u8], out: &mut [f32]) {
    decode_body(low, step, codes, out);
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use super::{decode_body, score_body};

    #[target_feature(enable = "avx2")]
    pub(in crate::kernel) fn score<const S: u8>(query: &[f32], low: f32, step: f32, codes: &[u8]) -> f32 {
        score_body::<S>(query, low, step, codes)
    }

    #[target_feature(enable = "avx2")]
    pub(in crate::kernel) fn decode(low: f32, step: f32, codes: &[u8], out: &mut [f32]) {
        decode_body(low, step, codes, out);
    }
}
