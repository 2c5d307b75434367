//! Product quantizers: a vector is cut into m equal parts, and each part is replaced by the nearest of 2^bits points of
//! its own sub-space (Jégou, Douze and Schmid 2011). [`ProductBook`] holds the points: what k-means finds, what a code's
//! indices stand for, and the scores of a query with all of them. Lists, biases and biases' bytes are the codecs'.
//!
//! ```text
//! points   sub-space 0: point 0, point 1, … (dsub components each) | sub-space 1: … |      as stored, f32
//! code     8 bits: a byte a sub-space; 16 bits: little-endian u16; else one string of bits, LSB first, filled up
//!          with zeros to ⌈m·bits/8⌉ bytes                                       as FAISS has it
//! ```
//! A code is the same on every machine: distances are summed in one order and not fused (`kernel/points.rs`). Training
//! is the same for any number of threads, as its k-means are.

use super::kmeans::{ClusteringParams, cluster};
use crate::kernel::{AlignedVec, Kernels, POINT_PANEL, Points, Similarity};
use crate::progress::{Observer, Tick};
use crate::{Error, Result, Rows};
use parking_lot::Mutex;
use rayon::prelude::*;
use std::ops::ControlFlow;

/// Bits of an index at most.
pub(crate) const BITS_MAX: usize = 16;

/// Training rows a point, at most: more change the points little.
const ROWS_A_POINT: usize = 256;

/// Iterations of k-means in each sub-space.
const ITERATIONS: usize = 25;

/// Rows that one task encodes: a sub-space's points stay in cache while they pass by.
const ROWS_A_BLOCK: usize = 64;

/// How its points are trained.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) seed: u64,
    /// Of the k-means in each sub-space; 25 if nobody says.
    pub(crate) iterations: Option<usize>,
    /// Rows that it looks at, at most; 256 a point if nobody says.
    pub(crate) rows: Option<usize>,
}

impl From<u64> for Effort {
    fn from(seed: u64) -> Self {
        Effort { seed, iterations: None, rows: None }
    }
}

/// The points of a product quantizer.
#[derive(Clone)]
pub(crate) struct ProductBook {
    dim: usize,
    m: usize,
    bits: usize,
    /// m × 2^bits × dsub.
    centroids: Vec<f32>,
    /// The same in panels, sub-space after sub-space.
    panels: AlignedVec,
    kernels: &'static Kernels,
}

impl ProductBook {
    /// The most rows that training looks at.
    pub(crate) fn training_rows(bits: usize) -> usize {
        ROWS_A_POINT << bits
    }

    /// Trains the points of each sub-space by k-means, sub-spaces in parallel. With fewer rows than points each row is a
    /// point, as often as it takes; with none all are zero. The observer is ticked as `"encoder"`.
    pub(crate) fn train(
        rows: Rows<'_>,
        m: usize,
        bits: usize,
        effort: Effort,
        observer: &mut Observer<'_>,
    ) -> Result<Self> {
        check(rows.dim(), m, bits)?;
        let dsub = rows.dim() / m;
        let progress = Mutex::new(Progress { observer, done: 0, cancelled: false });
        let trained: Result<Vec<Vec<f32>>> = (0..m)
            .into_par_iter()
            .map(|j| {
                let part: Vec<f32> =
                    rows.iter().flat_map(|row| &row[j * dsub..(j + 1) * dsub]).copied().collect();
                let effort = Effort { seed: effort.seed.wrapping_add(j as u64), ..effort };
                points(Rows::of(&part, dsub), 1 << bits, effort, m as u64, &progress)
            })
            .collect();
        Ok(Self::with_centroids(rows.dim(), m, bits, trained?.concat()))
    }

    /// The book of these points, m × 2^bits × dsub.
    pub(crate) fn new(dim: usize, m: usize, bits: usize, centroids: Vec<f32>) -> Result<Self> {
        check(dim, m, bits)?;
        if centroids.len() != dim << bits {
            return Err(Error::Length {
                what: "points of a product quantizer",
                expected: dim << bits,
                got: centroids.len(),
            });
        }
        Rows::of(&centroids, dim / m).check_finite()?;
        Ok(Self::with_centroids(dim, m, bits, centroids))
    }

    fn with_centroids(dim: usize, m: usize, bits: usize, centroids: Vec<f32>) -> Self {
        let (dsub, ksub) = (dim / m, 1usize << bits);
        assert_eq!(centroids.len(), dim * ksub, "points for each sub-space");
        let padded = ksub.next_multiple_of(POINT_PANEL);
        let mut panels = AlignedVec::zeros(padded * dim);
        for (points, panels) in
            centroids.chunks_exact(ksub * dsub).zip(panels.chunks_exact_mut(padded * dsub))
        {
            for k in 0..padded {
                let point = &points[k.min(ksub - 1) * dsub..][..dsub];
                let panel = &mut panels[k / POINT_PANEL * POINT_PANEL * dsub..];
                for (d, value) in point.iter().enumerate() {
                    panel[d * POINT_PANEL + k % POINT_PANEL] = *value;
                }
            }
        }
        ProductBook { dim, m, bits, centroids, panels, kernels: Kernels::get() }
    }

    /// Components of a vector.
    pub(crate) fn dim(&self) -> usize {
        self.dim
    }

    /// Sub-spaces.
    pub(crate) fn m(&self) -> usize {
        self.m
    }

    /// Bits of an index.
    pub(crate) fn bits(&self) -> usize {
        self.bits
    }

    /// Points of a sub-space.
    pub(crate) fn ksub(&self) -> usize {
        1 << self.bits
    }

    /// Components of a sub-space.
    pub(crate) fn dsub(&self) -> usize {
        self.dim / self.m
    }

    /// Bytes of a code.
    pub(crate) fn code_bytes(&self) -> usize {
        code_bytes(self.m, self.bits)
    }

    /// All points, m × 2^bits × dsub.
    pub(crate) fn centroids(&self) -> &[f32] {
        &self.centroids
    }

    /// Point `k` of sub-space `j`.
    pub(crate) fn point(&self, j: usize, k: usize) -> &[f32] {
        assert!(j < self.m && k < self.ksub());
        &self.centroids[(j * self.ksub() + k) * self.dsub()..][..self.dsub()]
    }

    fn points(&self, j: usize) -> Points<'_> {
        let size = self.ksub().next_multiple_of(POINT_PANEL) * self.dsub();
        Points { dim: self.dsub(), len: self.ksub(), panels: &self.panels[j * size..(j + 1) * size] }
    }

    /// The index of the nearest point of each part of each row: `indices[r * m + j]`.
    pub(crate) fn indices(&self, rows: Rows<'_>, indices: &mut [u16]) {
        assert!(rows.dim() == self.dim && indices.len() == rows.len() * self.m);
        let (dsub, mut nearest) = (self.dsub(), [0; ROWS_A_BLOCK]);
        let blocks = rows.as_slice().chunks(ROWS_A_BLOCK * self.dim);
        for (rows, indices) in blocks.zip(indices.chunks_mut(ROWS_A_BLOCK * self.m)) {
            let nearest = &mut nearest[..rows.len() / self.dim];
            for j in 0..self.m {
                self.kernels.points_nearest(&self.points(j), &rows[j * dsub..], self.dim, nearest);
                indices[j..].iter_mut().step_by(self.m).zip(&*nearest).for_each(|(i, k)| *i = *k as u16);
            }
        }
    }

    /// Appends the codes of `rows`.
    pub(crate) fn encode(&self, rows: Rows<'_>, codes: &mut Vec<u8>) {
        let mut indices = vec![0; ROWS_A_BLOCK * self.m];
        codes.reserve(rows.len() * self.code_bytes());
        for first in (0..rows.len()).step_by(ROWS_A_BLOCK) {
            let rows = rows.slice(first..rows.len().min(first + ROWS_A_BLOCK));
            let indices = &mut indices[..rows.len() * self.m];
            self.indices(rows, indices);
            indices.chunks_exact(self.m).for_each(|indices| pack(indices, self.bits, codes));
        }
    }

    /// The vector that a code stands for.
    pub(crate) fn decode(&self, code: &[u8], row: &mut [f32]) {
        assert_eq!(row.len(), self.dim);
        let dsub = self.dsub();
        each_index(code, self.bits, self.m, |j, k| {
            row[j * dsub..(j + 1) * dsub].copy_from_slice(self.point(j, usize::from(k)));
        });
    }

    /// `factor` times the squared distance (or product) of each part of `row` with each point of its sub-space:
    /// `table[j * ksub + k]`.
    pub(crate) fn table(&self, similarity: Similarity, row: &[f32], factor: f32, table: &mut [f32]) {
        assert!(row.len() == self.dim && table.len() == self.m << self.bits);
        let tables = table.chunks_exact_mut(self.ksub());
        for (j, (part, table)) in row.chunks_exact(self.dsub()).zip(tables).enumerate() {
            self.kernels.points_scores(similarity, &self.points(j), part, factor, table);
        }
    }

    /// Puts the points of each sub-space into another order: `order[k]` of sub-space `j` is the old number of the new
    /// point `k`.
    pub(crate) fn permuted(&self, orders: &[Vec<u32>]) -> Self {
        assert_eq!(orders.len(), self.m);
        let mut centroids = Vec::with_capacity(self.centroids.len());
        for (j, order) in orders.iter().enumerate() {
            assert_eq!(order.len(), self.ksub());
            order.iter().for_each(|&k| centroids.extend_from_slice(self.point(j, k as usize)));
        }
        Self::with_centroids(self.dim, self.m, self.bits, centroids)
    }

    /// The points as they are stored, 4 · dim · 2^bits bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.centroids.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    /// The book of stored points; refuses a wrong length and components that are not finite, with the reason.
    pub(crate) fn from_bytes(dim: usize, m: usize, bits: usize, bytes: &[u8]) -> Result<Self, String> {
        check(dim, m, bits).map_err(|error| error.to_string())?;
        let expected = dim.checked_mul(4 << bits);
        if expected != Some(bytes.len()) {
            return Err(format!("{} bytes of points for {dim} components, {m}x{bits}", bytes.len()));
        }
        let centroids: Vec<f32> =
            bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        match centroids.iter().all(|value| value.is_finite()) {
            true => Ok(Self::with_centroids(dim, m, bits, centroids)),
            false => Err("a point that is not finite".into()),
        }
    }
}

impl std::fmt::Debug for ProductBook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ProductBook({} as {}x{})", self.dim, self.m, self.bits)
    }
}

/// Refuses a quantizer that cannot be.
pub(crate) fn check(dim: usize, m: usize, bits: usize) -> Result<()> {
    if bits == 0 || bits > BITS_MAX {
        let what = format!("{bits}, must be 1 to {BITS_MAX}");
        return Err(Error::Parameter { name: "bits of a product quantizer", what });
    }
    if m == 0 || dim == 0 || !dim.is_multiple_of(m) {
        let what = format!("{m}, must divide the {dim} components");
        return Err(Error::Parameter { name: "sub-spaces of a product quantizer", what });
    }
    if dim << bits > FLOATS_MAX {
        let what = format!("{bits}, too many points of {dim} components");
        return Err(Error::Parameter { name: "bits of a product quantizer", what });
    }
    Ok(())
}

/// Floats of all points, at most: 1 GiB.
const FLOATS_MAX: usize = 1 << 28;

/// Bytes of a code of `m` indices.
pub(crate) fn code_bytes(m: usize, bits: usize) -> usize {
    (m * bits).div_ceil(8)
}

/// Appends the code of these indices.
pub(crate) fn pack(indices: &[u16], bits: usize, codes: &mut Vec<u8>) {
    match bits {
        8 => codes.extend(indices.iter().map(|&k| k as u8)),
        16 => codes.extend(indices.iter().flat_map(|k| k.to_le_bytes())),
        _ => {
            let (mut held, mut count) = (0u32, 0);
            for &k in indices {
                held |= u32::from(k) << count;
                count += bits;
                while count >= 8 {
                    codes.push(held as u8);
                    held >>= 8;
                    count -= 8;
                }
            }
            if count > 0 {
                codes.push(held as u8);
            }
        }
    }
}

/// The indices of a code.
pub(crate) fn unpack(code: &[u8], bits: usize, indices: &mut [u16]) {
    each_index(code, bits, indices.len(), |j, k| indices[j] = k);
}

/// Calls `take` with the number of each sub-space and the index that `code` has for it.
fn each_index(code: &[u8], bits: usize, m: usize, mut take: impl FnMut(usize, u16)) {
    assert!((1..=BITS_MAX).contains(&bits) && code.len() == code_bytes(m, bits));
    match bits {
        8 => code.iter().enumerate().for_each(|(j, byte)| take(j, u16::from(*byte))),
        16 => {
            let pairs = code.as_chunks::<2>().0;
            pairs.iter().enumerate().for_each(|(j, pair)| take(j, u16::from_le_bytes(*pair)));
        }
        _ => {
            let (mut held, mut count, mut bytes) = (0u32, 0, code.iter());
            for j in 0..m {
                while count < bits {
                    held |= u32::from(bytes.next().copied().unwrap_or(0)) << count;
                    count += 8;
                }
                take(j, (held & ((1 << bits) - 1)) as u16);
                held >>= bits;
                count -= bits;
            }
        }
    }
}

/// What the sub-spaces report to.
struct Progress<'o, 'c> {
    observer: &'o mut Observer<'c>,
    /// Rows assigned so far, in all sub-spaces.
    done: u64,
    cancelled: bool,
}

/// The points of one of `parts` sub-spaces.
fn points(
    rows: Rows<'_>,
    count: usize,
    effort: Effort,
    parts: u64,
    progress: &Mutex<Progress<'_, '_>>,
) -> Result<Vec<f32>> {
    if rows.len() <= count {
        let given = rows.as_slice().iter().copied().cycle().chain(std::iter::repeat(0.0));
        let wanted = count * rows.dim();
        // Nothing can be repeated where there is nothing.
        return Ok(if rows.is_empty() { vec![0.0; wanted] } else { given.take(wanted).collect() });
    }
    let params = ClusteringParams {
        niter: effort.iterations.unwrap_or(ITERATIONS),
        seed: effort.seed,
        max_points_per_centroid: effort.rows.map_or(ROWS_A_POINT, |rows| rows.div_ceil(count)),
        check_finite: false,
        ..ClusteringParams::default()
    };
    let mut reported = 0;
    let mut report = |tick: Tick| {
        // Whoever finds another one reporting goes on: a callback may itself come back to this pool.
        let Some(mut progress) = progress.try_lock() else { return ControlFlow::Continue(()) };
        progress.done += tick.done - reported;
        reported = tick.done;
        let done = progress.done;
        if !progress.cancelled {
            progress.cancelled = progress.observer.tick("encoder", done, tick.total * parts).is_err();
        }
        if progress.cancelled { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let trained = cluster(rows, count, Similarity::L2, &params, None, &mut Observer::new(&mut report))?;
    Ok(trained.centroids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::Random;

    fn floats(count: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed);
        (0..count).map(|_| random.unit() as f32 - 0.5).collect()
    }

    fn book(rows: &[f32], dim: usize, m: usize, bits: usize) -> ProductBook {
        ProductBook::train(Rows::of(rows, dim), m, bits, 7u64.into(), &mut Observer::none()).unwrap()
    }

    /// The bits one by one.
    fn slow_pack(indices: &[u16], bits: usize) -> Vec<u8> {
        let mut code = vec![0; (indices.len() * bits).div_ceil(8)];
        for (j, k) in indices.iter().enumerate() {
            for b in 0..bits {
                let at = j * bits + b;
                code[at / 8] |= ((k >> b & 1) as u8) << (at % 8);
            }
        }
        code
    }

    #[test]
    fn indices_are_packed_from_the_lowest_bit_on() {
        let mut random = Random::new(3);
        for bits in 1..=16 {
            for m in [1, 2, 3, 7, 8, 16, 33] {
                let indices: Vec<u16> =
                    (0..m).map(|_| (random.next_u64() & ((1 << bits) - 1)) as u16).collect();
                let mut code = Vec::new();
                pack(&indices, bits, &mut code);
                assert_eq!(code, slow_pack(&indices, bits), "{m}x{bits}");
                assert_eq!(code.len(), code_bytes(m, bits));
                let mut back = vec![9; m];
                unpack(&code, bits, &mut back);
                assert_eq!(back, indices);
            }
        }
    }

    #[test]
    fn a_code_is_of_the_nearest_points() {
        for (dim, m, bits, n) in [(1, 1, 3, 50), (6, 3, 1, 40), (12, 4, 5, 300), (16, 2, 8, 1000)] {
            let rows = floats(n * dim, 1);
            let book = book(&rows, dim, m, bits);
            let (mut codes, mut indices) = (Vec::new(), vec![0; n * m]);
            book.encode(Rows::of(&rows, dim), &mut codes);
            book.indices(Rows::of(&rows, dim), &mut indices);
            for (i, row) in rows.chunks_exact(dim).enumerate() {
                let indices = &indices[i * m..(i + 1) * m];
                let mut decoded = vec![0.0; dim];
                book.decode(&codes[i * book.code_bytes()..][..book.code_bytes()], &mut decoded);
                for (j, &chosen) in indices.iter().enumerate() {
                    let part = &row[j * book.dsub()..][..book.dsub()];
                    let far = |k: usize| -> f32 {
                        part.iter().zip(book.point(j, k)).map(|(x, p)| (x - p) * (x - p)).sum()
                    };
                    let least = (0..book.ksub()).map(far).fold(f32::INFINITY, f32::min);
                    assert!(far(usize::from(chosen)) <= least * (1.0 + 1e-6));
                    assert_eq!(
                        decoded[j * book.dsub()..][..book.dsub()],
                        *book.point(j, usize::from(chosen))
                    );
                }
            }
        }
    }

    #[test]
    fn a_table_has_every_product_and_distance() {
        let (dim, m, bits) = (10, 5, 4);
        let book = book(&floats(200 * dim, 2), dim, m, bits);
        let query = floats(dim, 3);
        let mut table = vec![0.0; m << bits];
        for (similarity, factor) in [(Similarity::L2, 1.0), (Similarity::Dot, -2.0)] {
            book.table(similarity, &query, factor, &mut table);
            for j in 0..m {
                for k in 0..16 {
                    let pairs = query[2 * j..][..2].iter().zip(book.point(j, k));
                    let wanted: f32 = match similarity {
                        Similarity::L2 => pairs.map(|(q, p)| (q - p) * (q - p)).sum(),
                        Similarity::Dot => pairs.map(|(q, p)| q * p).sum(),
                    };
                    assert!((table[j * 16 + k] - factor * wanted).abs() < 1e-6);
                }
            }
        }
    }

    fn error(book: &ProductBook, rows: &[f32]) -> f64 {
        let mut codes = Vec::new();
        book.encode(Rows::of(rows, book.dim()), &mut codes);
        let mut decoded = vec![0.0; book.dim()];
        let codes = codes.chunks_exact(book.code_bytes()).zip(rows.chunks_exact(book.dim()));
        let far = |(code, row): (&[u8], &[f32])| {
            book.decode(code, &mut decoded);
            row.iter().zip(&decoded).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>()
        };
        codes.map(far).sum()
    }

    #[test]
    fn more_bits_and_more_sub_spaces_err_less() {
        let rows = floats(600 * 8, 4);
        let errors =
            [(2, 2), (2, 4), (2, 6), (4, 6), (8, 8)].map(|(m, b)| error(&book(&rows, 8, m, b), &rows));
        assert!(errors.is_sorted_by(|a, b| b < a), "{errors:?}");
    }

    #[test]
    fn training_is_the_same_on_any_number_of_threads() {
        let rows = floats(500 * 12, 5);
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| book(&rows, 12, 3, 5).to_bytes())
        };
        assert_eq!(on(1), on(3));
    }

    /// Fewer rows than points, identical rows, none at all: every row that was there decodes to itself.
    #[test]
    fn few_rows_are_points_themselves() {
        for n in [1, 2, 7, 16] {
            let rows = floats(n * 4, 6);
            assert_eq!(error(&book(&rows, 4, 2, 4), &rows), 0.0);
        }
        // The splits of k-means move points by a thousandth.
        assert!(error(&book(&[0.25; 400], 4, 2, 4), &[0.25; 4]) < 1e-6);
        let none = book(&[], 4, 2, 4);
        assert!(none.centroids().iter().all(|value| *value == 0.0));
        let one = book(&[1.0, 2.0, 3.0], 1, 1, 1);
        assert!(error(&one, &[1.0, 2.0, 3.0]) <= 0.5);
    }

    #[test]
    fn huge_rows_keep_finite_points() {
        let rows: Vec<f32> = floats(100 * 4, 8).iter().map(|v| v * 2.0 * crate::NORM_MAX).collect();
        let book = book(&rows, 4, 2, 3);
        assert!(book.centroids().iter().all(|value| value.is_finite()));
        assert!(error(&book, &rows).is_finite());
    }

    #[test]
    fn stored_points_come_back_and_hostile_ones_are_refused() {
        let book = book(&floats(50 * 6, 9), 6, 3, 3);
        let bytes = book.to_bytes();
        let back = ProductBook::from_bytes(6, 3, 3, &bytes).unwrap();
        assert_eq!(back.centroids(), book.centroids());
        assert_eq!(ProductBook::new(6, 3, 3, book.centroids().to_vec()).unwrap().to_bytes(), bytes);
        for (dim, m, bits) in
            [(6, 4, 3), (6, 3, 0), (6, 3, 17), (6, 0, 3), (0, 3, 3), (6, 3, 4), (usize::MAX, 1, 16)]
        {
            assert!(ProductBook::from_bytes(dim, m, bits, &bytes).is_err(), "{dim} {m}x{bits}");
        }
        assert!(ProductBook::from_bytes(6, 3, 3, &bytes[1..]).is_err());
        let mut nan = bytes.clone();
        nan[3] = 0x7f;
        nan[2] = 0xff;
        assert!(ProductBook::from_bytes(6, 3, 3, &nan).is_err());
        assert!(ProductBook::new(6, 3, 3, vec![f32::NAN; 48]).is_err());
        assert!(ProductBook::new(6, 3, 3, vec![0.0; 47]).is_err());
    }

    #[test]
    fn points_in_another_order_decode_the_same() {
        let rows = floats(100 * 4, 10);
        let book = book(&rows, 4, 2, 3);
        let orders = vec![vec![7, 6, 5, 4, 3, 2, 1, 0], vec![1, 0, 3, 2, 5, 4, 7, 6]];
        let other = book.permuted(&orders);
        assert_eq!(other.point(0, 0), book.point(0, 7));
        assert_eq!(error(&other, &rows), error(&book, &rows));
    }

    #[test]
    fn progress_grows_and_cancels() {
        let rows = floats(200 * 4, 11);
        let mut last = 0;
        let mut count = |tick: Tick| {
            assert!(tick.stage == "encoder" && tick.done >= last && tick.done <= tick.total);
            last = tick.done;
            ControlFlow::Continue(())
        };
        ProductBook::train(Rows::of(&rows, 4), 2, 3, 1u64.into(), &mut Observer::new(&mut count)).unwrap();
        assert!(last > 0);
        let mut stop = |_: Tick| ControlFlow::Break(());
        let stopped =
            ProductBook::train(Rows::of(&rows, 4), 2, 3, 1u64.into(), &mut Observer::new(&mut stop));
        assert!(matches!(stopped, Err(Error::Cancelled)));
    }
}
