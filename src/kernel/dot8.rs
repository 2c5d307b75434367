//! Scores of bytes: signed queries by unsigned columns, for a first look at many columns.
//!
//! ```text
//!   panel p:   components 0-3: c₀ c₀ c₀ c₀ c₁ c₁ c₁ c₁ … c₁₅ (64 bytes) | components 4-7: … | …
//!              column = 16 p + lane; columns and components are padded with zeros
//! ```
//!
//! One line of 64 bytes is one operand of `vpdpbusd`, which adds four products to each of 16 sums. Codes
//! have 7 bits because AVX2 has no such instruction: its `vpmaddubsw` adds two products in 16 bits, and
//! 2 · 127 · 128 is the most that fits.
//!
//! The sums are exact, and each is turned into a score by a conversion, a product and an addition that are
//! rounded one by one. So all tables give the same bits.

#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Columns of one panel.
pub(crate) const BYTE_PANEL: usize = 16;

/// Bytes of one line: four components of each column of a panel.
const LINE: usize = 4 * BYTE_PANEL;

/// Components at most: the sums of 127 · 128 stay within an `i32`.
const DIM_MAX: usize = 1 << 16;

/// Queries times columns of bytes: `score(q, c) = bias[c] + factors[q] · ⟨query q, column c⟩`.
#[derive(Clone, Copy)]
pub(crate) struct ByteProduct<'a> {
    /// Components with their padding, a multiple of 4.
    pub(crate) dim: usize,
    /// Row-major, `factors.len() * dim`.
    pub(crate) queries: &'a [i8],
    pub(crate) factors: &'a [f32],
    /// Panels of codes up to 127, `bias.len() * dim`.
    pub(crate) panels: &'a [u8],
    /// Infinite for the padding, so that it is never near.
    pub(crate) bias: &'a [f32],
}

impl ByteProduct<'_> {
    pub(super) fn check(&self) {
        assert!(self.dim > 0 && self.dim.is_multiple_of(4) && self.dim <= DIM_MAX);
        assert_eq!(self.queries.len(), self.factors.len() * self.dim);
        assert_eq!(self.panels.len(), self.bias.len() * self.dim);
        assert!(self.bias.len().is_multiple_of(BYTE_PANEL));
    }

    /// Four components of a query in one integer, as they lie in memory.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn four(&self, query: usize, group: usize) -> i32 {
        let at = query * self.dim + group * 4;
        debug_assert!(at + 4 <= self.queries.len());
        // SAFETY: callers stay below the counts of queries and of groups, which `check` compared with the
        // length; the read takes any alignment.
        unsafe { self.queries.as_ptr().add(at).cast::<i32>().read_unaligned() }
    }
}

pub(super) fn portable(product: &ByteProduct<'_>, out: &mut [f32]) {
    let columns = product.bias.len();
    for (p, panel) in product.panels.chunks_exact(product.dim * BYTE_PANEL).enumerate() {
        let bias = &product.bias[p * BYTE_PANEL..][..BYTE_PANEL];
        for (q, query) in product.queries.chunks_exact(product.dim).enumerate() {
            let dots = dots(query, panel);
            let out = &mut out[q * columns + p * BYTE_PANEL..][..BYTE_PANEL];
            for c in 0..BYTE_PANEL {
                out[c] = bias[c] + product.factors[q] * dots[c] as f32;
            }
        }
    }
}

fn dots(query: &[i8], panel: &[u8]) -> [i32; BYTE_PANEL] {
    let mut dots = [0; BYTE_PANEL];
    for (four, line) in query.as_chunks::<4>().0.iter().zip(panel.as_chunks::<LINE>().0) {
        for c in 0..BYTE_PANEL {
            for j in 0..4 {
                dots[c] += i32::from(four[j]) * i32::from(line[4 * c + j]);
            }
        }
    }
    dots
}

/// The form of the AVX-512 table. Processors without VNNI are of the first generation, which gains little
/// from longer registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn avx512(product: &ByteProduct<'_>, out: &mut [f32]) {
    if is_x86_feature_detected!("avx512vnni") {
        // SAFETY: just detected.
        unsafe { vnni(product, out) }
    } else {
        avx2(product, out);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn vnni(product: &ByteProduct<'_>, out: &mut [f32]) {
    let (queries, panels) = (product.factors.len(), product.bias.len() / BYTE_PANEL);
    let (fours, whole) = (queries / 4 * 4, panels / 4 * 4);
    // Panels come in fours so that they stay in cache while all queries pass by.
    for p in (0..whole).step_by(4) {
        (0..fours).step_by(4).for_each(|q| vnni_tile::<4, 4>(product, q, p, out));
        (fours..queries).for_each(|q| vnni_tile::<1, 4>(product, q, p, out));
    }
    for p in whole..panels {
        (0..fours).step_by(4).for_each(|q| vnni_tile::<4, 1>(product, q, p, out));
        (fours..queries).for_each(|q| vnni_tile::<1, 1>(product, q, p, out));
    }
}

/// `Q` queries from `query` by `P` panels from `panel`.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn vnni_tile<const Q: usize, const P: usize>(
    product: &ByteProduct<'_>,
    query: usize,
    panel: usize,
    out: &mut [f32],
) {
    let (columns, size) = (product.bias.len(), product.dim * BYTE_PANEL);
    let panels = product.panels[panel * size..(panel + P) * size].as_ptr();
    let mut sums = [[_mm512_setzero_si512(); P]; Q];
    for group in 0..product.dim / 4 {
        let mut lines = [_mm512_setzero_si512(); P];
        for p in 0..P {
            // SAFETY: `panels` has P panels of `dim / 4` lines.
            lines[p] = unsafe { _mm512_loadu_si512(panels.add(p * size + group * LINE).cast()) };
        }
        for q in 0..Q {
            let four = _mm512_set1_epi32(product.four(query + q, group));
            for p in 0..P {
                sums[q][p] = _mm512_dpbusd_epi32(sums[q][p], lines[p], four);
            }
        }
    }
    for q in 0..Q {
        let factor = _mm512_set1_ps(product.factors[query + q]);
        let first = panel * BYTE_PANEL;
        let bias = &product.bias[first..][..P * BYTE_PANEL];
        let out = &mut out[(query + q) * columns + first..][..P * BYTE_PANEL];
        for p in 0..P {
            let product = _mm512_mul_ps(factor, _mm512_cvtepi32_ps(sums[q][p]));
            // SAFETY: both slices have P times 16 elements.
            unsafe {
                let bias = _mm512_loadu_ps(bias.as_ptr().add(p * BYTE_PANEL));
                _mm512_storeu_ps(out.as_mut_ptr().add(p * BYTE_PANEL), _mm512_add_ps(bias, product));
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn avx2(product: &ByteProduct<'_>, out: &mut [f32]) {
    let (queries, panels) = (product.factors.len(), product.bias.len() / BYTE_PANEL);
    let (fours, twos) = (queries / 4 * 4, panels / 2 * 2);
    for p in (0..twos).step_by(2) {
        for q in (0..fours).step_by(4) {
            avx2_tile::<4, 1>(product, q, p, out);
            avx2_tile::<4, 1>(product, q, p + 1, out);
        }
        (fours..queries).for_each(|q| avx2_tile::<1, 2>(product, q, p, out));
    }
    if twos < panels {
        (0..fours).step_by(4).for_each(|q| avx2_tile::<4, 1>(product, q, twos, out));
        (fours..queries).for_each(|q| avx2_tile::<1, 1>(product, q, twos, out));
    }
}

/// `Q` queries from `query` by `P` panels from `panel`; a panel is two registers of 8 columns.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2_tile<const Q: usize, const P: usize>(
    product: &ByteProduct<'_>,
    query: usize,
    panel: usize,
    out: &mut [f32],
) {
    let (columns, size) = (product.bias.len(), product.dim * BYTE_PANEL);
    let panels = product.panels[panel * size..(panel + P) * size].as_ptr();
    let ones = _mm256_set1_epi16(1);
    let mut sums = [[[_mm256_setzero_si256(); 2]; P]; Q];
    for group in 0..product.dim / 4 {
        let mut lines = [[_mm256_setzero_si256(); 2]; P];
        for p in 0..P {
            for half in 0..2 {
                let at = p * size + group * LINE + half * LINE / 2;
                // SAFETY: `panels` has P panels of `dim / 4` lines of two registers.
                lines[p][half] = unsafe { _mm256_loadu_si256(panels.add(at).cast()) };
            }
        }
        for q in 0..Q {
            let four = _mm256_set1_epi32(product.four(query + q, group));
            for p in 0..P {
                for half in 0..2 {
                    let twos = _mm256_maddubs_epi16(lines[p][half], four);
                    sums[q][p][half] = _mm256_add_epi32(sums[q][p][half], _mm256_madd_epi16(twos, ones));
                }
            }
        }
    }
    for q in 0..Q {
        let factor = _mm256_set1_ps(product.factors[query + q]);
        let first = panel * BYTE_PANEL;
        let bias = &product.bias[first..][..P * BYTE_PANEL];
        let out = &mut out[(query + q) * columns + first..][..P * BYTE_PANEL];
        for p in 0..P {
            for half in 0..2 {
                let at = p * BYTE_PANEL + half * BYTE_PANEL / 2;
                let product = _mm256_mul_ps(factor, _mm256_cvtepi32_ps(sums[q][p][half]));
                // SAFETY: both slices have P times 16 elements.
                unsafe {
                    let bias = _mm256_loadu_ps(bias.as_ptr().add(at));
                    _mm256_storeu_ps(out.as_mut_ptr().add(at), _mm256_add_ps(bias, product));
                }
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
pub(super) fn neon(product: &ByteProduct<'_>, out: &mut [f32]) {
    let (queries, fours) = (product.factors.len(), product.factors.len() / 4 * 4);
    for p in 0..product.bias.len() / BYTE_PANEL {
        (0..fours).step_by(4).for_each(|q| neon_tile::<4>(product, q, p, out));
        (fours..queries).for_each(|q| neon_tile::<1>(product, q, p, out));
    }
}

/// `Q` queries from `query` by one panel, four registers of 4 columns. Codes of 7 bits are signed bytes
/// too, and two of their products fit into 16 bits.
#[cfg(target_arch = "aarch64")]
#[inline]
#[target_feature(enable = "neon")]
fn neon_tile<const Q: usize>(product: &ByteProduct<'_>, query: usize, panel: usize, out: &mut [f32]) {
    let (columns, size) = (product.bias.len(), product.dim * BYTE_PANEL);
    let lines = product.panels[panel * size..(panel + 1) * size].as_chunks::<LINE>().0;
    let mut sums = [[vdupq_n_s32(0); 4]; Q];
    for (group, line) in lines.iter().enumerate() {
        for q in 0..Q {
            let four = &product.queries[(query + q) * product.dim + group * 4..][..4];
            let four = i32::from_ne_bytes([four[0] as u8, four[1] as u8, four[2] as u8, four[3] as u8]);
            let four = vreinterpretq_s8_s32(vdupq_n_s32(four));
            for part in 0..4 {
                // SAFETY: a line has four times 16 bytes.
                let codes = vreinterpretq_s8_u8(unsafe { vld1q_u8(line.as_ptr().add(part * 16)) });
                let low = vmull_s8(vget_low_s8(codes), vget_low_s8(four));
                let high = vmull_high_s8(codes, four);
                sums[q][part] = vpadalq_s16(sums[q][part], vpaddq_s16(low, high));
            }
        }
    }
    for q in 0..Q {
        let factor = vdupq_n_f32(product.factors[query + q]);
        let bias = &product.bias[panel * BYTE_PANEL..][..BYTE_PANEL];
        let out = &mut out[(query + q) * columns + panel * BYTE_PANEL..][..BYTE_PANEL];
        for part in 0..4 {
            let product = vmulq_f32(factor, vcvtq_f32_s32(sums[q][part]));
            // SAFETY: both slices have four times 4 elements.
            unsafe {
                let bias = vld1q_f32(bias.as_ptr().add(part * 4));
                vst1q_f32(out.as_mut_ptr().add(part * 4), vaddq_f32(bias, product));
            }
        }
    }
}
