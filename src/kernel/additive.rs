//! Sums of rows of tables: what encoding additive codes does most.
//!
//! The distance of a vector to a sum of code words is a sum of inner products that are known beforehand, and for all
//! words of the book in question at once it is a sum of rows of those. Plain loops over whole registers; nothing is
//! fused and rows are added in their order, so all tables give the same bits.

use super::Kernels;

pub(super) type SumRows = unsafe fn(first: &[f32], rows: &[&[f32]], out: &mut [f32]);

#[allow(unsafe_code)]
impl Kernels {
    /// `out[i] = first[i] + rows[0][i] + rows[1][i] + …`
    pub(crate) fn sum_rows(&self, first: &[f32], rows: &[&[f32]], out: &mut [f32]) {
        assert!(first.len() == out.len() && rows.iter().all(|row| row.len() == out.len()));
        // SAFETY: the table exists only where its instructions do; the lengths were checked above.
        unsafe { (self.sum_rows)(first, rows, out) }
    }
}

#[inline(always)]
fn sum_body(first: &[f32], rows: &[&[f32]], out: &mut [f32]) {
    let done = sum_groups::<64>(0, first, rows, out);
    let done = sum_groups::<16>(done, first, rows, out);
    sum_groups::<1>(done, first, rows, out);
}

/// As many groups of `N` columns as there are from column `at` on; the column after them.
#[inline(always)]
fn sum_groups<const N: usize>(mut at: usize, first: &[f32], rows: &[&[f32]], out: &mut [f32]) -> usize {
    while at + N <= out.len() {
        let mut sums = [0.0; N];
        sums.copy_from_slice(&first[at..at + N]);
        for row in rows {
            let row = &row[at..at + N];
            for lane in 0..N {
                sums[lane] += row[lane];
            }
        }
        out[at..at + N].copy_from_slice(&sums);
        at += N;
    }
    at
}

pub(super) fn sum_rows(first: &[f32], rows: &[&[f32]], out: &mut [f32]) {
    sum_body(first, rows, out);
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    #[target_feature(enable = "avx2")]
    pub(in crate::kernel) fn sum_rows(first: &[f32], rows: &[&[f32]], out: &mut [f32]) {
        super::sum_body(first, rows, out);
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(in crate::kernel) fn sum_rows(first: &[f32], rows: &[&[f32]], out: &mut [f32]) {
        super::sum_body(first, rows, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::Random;

    /// Breaks if a group of columns is left out, or if a table adds in another order.
    #[test]
    fn all_tables_add_the_same_bits() {
        let mut random = Random::new(1);
        for width in [0, 1, 2, 15, 16, 17, 63, 64, 65, 100, 256] {
            for count in [0, 1, 2, 7] {
                let data: Vec<f32> = (0..width * (count + 1)).map(|_| random.unit() as f32 - 0.5).collect();
                let (first, rest) = data.split_at(width);
                let rows: Vec<&[f32]> = (0..count).map(|r| &rest[r * width..][..width]).collect();
                let expected: Vec<u32> = (0..width)
                    .map(|i| rows.iter().fold(first[i], |sum, row| sum + row[i]).to_bits())
                    .collect();
                for kernels in Kernels::all() {
                    let mut out = vec![f32::NAN; width];
                    kernels.sum_rows(first, &rows, &mut out);
                    let bits: Vec<u32> = out.iter().map(|v| v.to_bits()).collect();
                    assert_eq!(bits, expected, "{} {width} {count}", kernels.name);
                }
            }
        }
    }
}
