//! The nibble code: 2 or 1 bits a component, nothing to train, nothing that goes stale.
//!
//! With c the list's centroid, everything rotated (see [`Rotation`]), r = x − c, d components:
//!
//! ```text
//! code     ŷ_j = the nearest of 16 fixed points to each 2 (or 4) components of r·√d/‖r‖
//! scale    s = ‖r‖² / ⟨r, ŷ⟩                                     bf16
//! bias     L2:       b = 2s⟨x, ŷ⟩ − ‖r‖²                          f32, from the rounded s
//!          product:  b = s⟨x, ŷ⟩ − ⟨x, r⟩                         (a score is the negated product)
//! S        Σ_j table_j[code_j] = ⟨q, ŷ⟩        one table a query, for all lists and both metrics
//! L2       ‖q − x‖² ≈ ‖q − c‖² + b − 2s·S
//! product  −⟨q, x⟩  ≈ −⟨q, c⟩  + b − s·S
//! ```
//! The estimate is exact at q = x, whatever s was rounded to, and its error ⟨q − x, r − sŷ⟩ shrinks with the
//! distance. The points are those that lose least of a Gaussian (Lloyd's algorithm: 2 components by quadrature,
//! 4 by two million draws), and a rotated residual is nearly one. The form with s and b follows RaBitQ (Gao and
//! Long 2024); tables of signed bytes have one scale a query.
//!
//! The stored form is drawn in `kernel/nibble`. Points, signs of the rotation, and this page are the format.

use super::{Assigned, Codec, Codes, KeptForm, Probe, Scanner, Visit};
use crate::kernel::{Book, CHOOSE, Found, Kernels, NIBBLE_QUERIES, NibbleQuery, POINTS, Similarity};
use crate::layout::{Factors, Layout};
use crate::math::linalg::dot;
use crate::math::rotation::Rotation;
use crate::{Result, Rows};
use half::bf16;
use std::sync::OnceLock;

/// How many components share a nibble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum NibbleBits {
    /// 2 bits a component: 2 components a nibble.
    Two,
    /// 1 bit a component: 4 components a nibble.
    One,
}

/// A nibble code of `dim` components.
pub(crate) struct Nibble {
    similarity: Similarity,
    rotation: Rotation,
    book: Book,
    /// ⟨r, ŷ⟩² / (‖r‖²·‖ŷ‖²) of a Gaussian: what turns the unbiased scale into the one that decodes best.
    fit: f32,
    subspaces: usize,
    /// The rotated centroids, made when the first row is encoded: a search needs none.
    centroids: OnceLock<Vec<f32>>,
    kernels: &'static Kernels,
}

impl Nibble {
    pub(crate) fn new(dim: usize, bits: NibbleBits, similarity: Similarity) -> Self {
        let (components, fit) = match bits {
            NibbleBits::Two => (2, FIT_2),
            NibbleBits::One => (4, FIT_4),
        };
        // A register holds the tables of four sub-spaces.
        let padded = dim.next_multiple_of(4 * components);
        Nibble {
            similarity,
            rotation: Rotation::new(dim, padded),
            book: book(bits),
            fit,
            subspaces: padded / components,
            centroids: OnceLock::new(),
            kernels: Kernels::get(),
        }
    }

    fn rotated_centroids(&self, centroids: Rows<'_>) -> &[f32] {
        self.centroids.get_or_init(|| {
            let padded = self.rotation.padded();
            let mut rotated = vec![0.0; centroids.len() * padded];
            for (row, out) in centroids.iter().zip(rotated.chunks_exact_mut(padded)) {
                self.rotation.apply(row, out);
            }
            rotated
        })
    }
}

/// Running sums of a product of two vectors: a constant of the format, as their roundings are in the codes.
const SUMS: usize = 8;

/// Buffers for one row or query at a time.
struct Scratch {
    rotated: Vec<f32>,
    residual: Vec<f32>,
    decoded: Vec<f32>,
    planes: Vec<f32>,
    codes: Vec<u8>,
    table: Vec<f32>,
}

impl Scratch {
    fn new(nibble: &Nibble) -> Self {
        let chosen = nibble.subspaces.next_multiple_of(CHOOSE);
        let padded = nibble.rotation.padded();
        Scratch {
            rotated: vec![0.0; padded],
            residual: vec![0.0; padded],
            decoded: vec![0.0; padded],
            planes: vec![0.0; nibble.book.components * chosen],
            codes: vec![0; chosen],
            table: vec![0.0; POINTS * nibble.subspaces],
        }
    }
}

impl Nibble {
    /// The packed code of a row whose rotated residual and rotated self are in `scratch`.
    fn encode_row(&self, scratch: &mut Scratch, code: &mut Vec<u8>) {
        let Scratch { rotated, residual, decoded, planes, codes, .. } = scratch;
        let (components, chosen) = (self.book.components, codes.len());
        let squared = dot::<SUMS>(residual, residual);
        let scale = ((residual.len() as f32).sqrt() / squared.sqrt()).min(f32::MAX);
        for (j, part) in residual.chunks_exact(components).enumerate() {
            for (p, value) in part.iter().enumerate() {
                planes[p * chosen + j] = value * scale;
            }
        }
        self.kernels.nibble_choose(&self.book, planes, codes);
        for (part, &k) in decoded.chunks_exact_mut(components).zip(&*codes) {
            part.iter_mut().zip(&self.book.points).for_each(|(y, points)| *y = points[usize::from(k)]);
        }
        let fit = dot::<SUMS>(residual, decoded);
        // No residual, or one too short to have a direction: the centroid is the estimate.
        let exact = if fit > 0.0 && squared > 0.0 { squared / fit } else { 0.0 };
        let s = bf16::from_f32(if exact.is_finite() { exact } else { 0.0 });
        let product = s.to_f32() * dot::<SUMS>(rotated, decoded);
        let bias = match self.similarity {
            Similarity::L2 => 2.0 * product - squared,
            Similarity::Dot => product - dot::<SUMS>(rotated, residual),
        };
        // Where nothing but the centroid is known, the best estimate of a distance includes the residual's length.
        let bias = match (self.similarity, s == bf16::ZERO) {
            (Similarity::L2, true) => squared,
            _ => bias,
        };
        code.extend(codes[..self.subspaces].as_chunks::<2>().0.iter().map(|[low, high]| low | high << 4));
        code.extend_from_slice(&s.to_le_bytes());
        code.extend_from_slice(&bias.clamp(f32::MIN, f32::MAX).to_le_bytes());
    }
}

impl Codec for Nibble {
    fn layout(&self) -> Layout {
        Layout::Nibbles { subspaces: self.subspaces, factors: Factors::ScaleAndBias, extra: 0 }
    }

    fn check(&self, _rows: Rows<'_>) -> Result<()> {
        Ok(())
    }

    fn encode(&self, rows: Assigned<'_>, codes: &mut Vec<u8>) {
        let mut scratch = Scratch::new(self);
        let padded = self.rotation.padded();
        let centroids = rows.centroids.map(|centroids| self.rotated_centroids(centroids));
        codes.reserve(rows.rows.len() * self.layout().code_bytes());
        for (row, &list) in rows.rows.iter().zip(rows.lists) {
            self.rotation.apply(row, &mut scratch.rotated);
            scratch.residual.copy_from_slice(&scratch.rotated);
            if let Some(centroids) = centroids {
                let centroid = &centroids[list as usize * padded..][..padded];
                scratch.residual.iter_mut().zip(centroid).for_each(|(r, c)| *r -= c);
            }
            self.encode_row(&mut scratch, codes);
        }
    }

    fn decode(&self, centroid: Option<&[f32]>, code: &[u8], row: &mut [f32]) {
        let (pairs, factors) = code.split_at(self.subspaces / 2);
        let s = bf16::from_le_bytes([factors[0], factors[1]]).to_f32() * self.fit;
        let components = self.book.components;
        let mut values = Vec::with_capacity(self.rotation.padded());
        for k in pairs.iter().flat_map(|pair| [pair & 15, pair >> 4]) {
            values.extend((0..components).map(|p| s * self.book.points[p][usize::from(k)]));
        }
        self.rotation.reverse(&mut values);
        row.copy_from_slice(&values[..row.len()]);
        if let Some(centroid) = centroid {
            row.iter_mut().zip(centroid).for_each(|(x, c)| *x += c);
        }
    }

    /// A rotation keeps lengths, so the points say it.
    fn residual(&self, _centroid: &[f32], code: &[u8]) -> f64 {
        let (pairs, factors) = code.split_at(self.subspaces / 2);
        let s = f64::from(bf16::from_le_bytes([factors[0], factors[1]]).to_f32() * self.fit);
        let half = |k: u8| f64::from(self.book.half_norms[usize::from(k)]);
        pairs.iter().map(|pair| 2.0 * (half(pair & 15) + half(pair >> 4))).sum::<f64>() * s * s
    }

    fn scanner<'a>(&'a self, queries: Rows<'a>) -> Box<dyn Scanner + 'a> {
        let mut scratch = Scratch::new(self);
        let width = POINTS * self.subspaces;
        let mut tables = vec![0; queries.len() * width];
        let mut steps = Vec::with_capacity(queries.len());
        for (query, table) in queries.iter().zip(tables.chunks_exact_mut(width)) {
            let mut rotated = std::mem::take(&mut scratch.rotated);
            self.rotation.apply(query, &mut rotated);
            steps.push(self.kernels.nibble_table(&self.book, &rotated, &mut scratch.table, table));
            scratch.rotated = rotated;
        }
        Box::new(NibbleScanner {
            codec: self,
            queries,
            tables,
            steps,
            coarse: Vec::new(),
            visits: Vec::new(),
        })
    }

    fn bounds<'a>(&'a self, _queries: Rows<'a>, _kept: KeptForm) -> Option<Box<dyn Scanner + 'a>> {
        None
    }
}

struct NibbleScanner<'a> {
    codec: &'a Nibble,
    queries: Rows<'a>,
    tables: Vec<i8>,
    steps: Vec<f32>,
    /// The coarse scores of the visits.
    coarse: Vec<f32>,
    visits: Vec<Visit>,
}

impl Scanner for NibbleScanner<'_> {
    fn enter(&mut self, probe: Probe<'_>) {
        self.visits.clear();
        self.visits.extend_from_slice(probe.visits);
        self.coarse.clear();
        // Without centroids all residuals are from the origin.
        let from_origin = |visit: &Visit| match (probe.centroid, self.codec.similarity) {
            (None, Similarity::L2) => {
                let query = self.queries.row(visit.query as usize);
                dot::<SUMS>(query, query)
            }
            _ => visit.coarse,
        };
        self.coarse.extend(probe.visits.iter().map(from_origin));
    }

    fn scan(&mut self, block: Codes<'_>, first: usize, worst: &[f32], live: &[&[u32]], found: &mut [Found]) {
        let Nibble { subspaces, similarity, kernels, .. } = self.codec;
        let width = POINTS * subspaces;
        let sign = match similarity {
            Similarity::L2 => -2.0,
            Similarity::Dot => -1.0,
        };
        let query = |v: usize| {
            let at = self.visits[first + v].query as usize;
            NibbleQuery {
                table: &self.tables[at * width..(at + 1) * width],
                factor: sign * self.steps[at],
                coarse: self.coarse[first + v],
                worst: worst[v],
                live: live[v],
            }
        };
        for start in (0..worst.len()).step_by(NIBBLE_QUERIES) {
            let end = worst.len().min(start + NIBBLE_QUERIES);
            let none = NibbleQuery { table: &[], factor: 0.0, coarse: 0.0, worst: 0.0, live: &[] };
            let mut queries = [none; NIBBLE_QUERIES];
            let queries = &mut queries[..end - start];
            (start..end).zip(&mut *queries).for_each(|(v, out)| *out = query(v));
            // The next pass's tables come from beyond the second-level cache.
            for v in end..worst.len().min(end + NIBBLE_QUERIES) {
                let at = self.visits[first + v].query as usize;
                kernels.prefetch_signed(&self.tables[at * width..(at + 1) * width]);
            }
            let ahead = if start == 0 { block.ahead } else { &[] };
            kernels.nibble_scan(*subspaces, block.bytes, ahead, queries, &mut found[start..end]);
        }
    }
}

/// The code book of 2 or 1 bits, its half norms computed once.
fn book(bits: NibbleBits) -> Book {
    let (components, points): (usize, [[f32; 4]; POINTS]) = match bits {
        NibbleBits::Two => (2, POINTS_2.map(|[x, y]| [x, y, 0.0, 0.0])),
        NibbleBits::One => (4, POINTS_4),
    };
    let mut book = Book { components, points: [[0.0; POINTS]; 4], half_norms: [0.0; POINTS] };
    for (k, point) in points.iter().enumerate() {
        for (p, &value) in point.iter().enumerate() {
            book.points[p][k] = value;
        }
        book.half_norms[k] = point.iter().map(|v| v * v).sum::<f32>() / 2.0;
    }
    book
}

/// 1 less the mean squared error of a component.
const FIT_2: f32 = 0.8924;
const FIT_4: f32 = 0.6584;

/// 16 points for 2 components of a Gaussian.
const POINTS_2: [[f32; 2]; POINTS] = [
    [-1.831067, -0.354237],
    [-1.762459, 0.949426],
    [-1.139314, -1.477804],
    [-0.840214, 0.452997],
    [-0.756941, -0.468063],
    [-0.711215, 1.72463],
    [-0.025198, 0.890357],
    [0.002448, -0.000719],
    [0.028927, -0.956403],
    [0.057721, -2.001929],
    [0.608531, 1.764085],
    [0.786898, -0.423668],
    [0.815711, 0.501995],
    [1.223814, -1.410677],
    [1.70497, 1.052901],
    [1.85218, -0.246869],
];

/// 16 points for 4 components of a Gaussian.
const POINTS_4: [[f32; 4]; POINTS] = [
    [-1.388469, 0.31634, -0.045192, 0.93025],
    [-1.096396, -0.499774, 1.142933, -0.327116],
    [-1.047466, -0.28831, -1.236877, -0.432225],
    [-0.980526, 0.986279, 0.100233, -0.990398],
    [-0.551308, -1.538818, -0.171711, 0.474163],
    [-0.117356, -0.862732, -0.016096, -1.478977],
    [-0.087258, 0.953943, 1.343819, 0.432843],
    [-0.036327, 1.54714, -0.498619, 0.486743],
    [0.002185, -0.008837, 0.000202, -0.00706],
    [0.198122, -0.08511, -1.330122, 1.041541],
    [0.233164, -0.31633, 0.508007, 1.57552],
    [0.623415, 0.570507, -1.18995, -0.886066],
    [0.771085, -0.89003, 1.240639, -0.045341],
    [0.800557, 0.642278, 0.727981, -1.143211],
    [1.15177, -1.057485, -0.645612, -0.16542],
    [1.522804, 0.556925, 0.068559, 0.517914],
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NORM_MAX;
    use crate::math::random::Random;

    const SIMILARITIES: [Similarity; 2] = [Similarity::L2, Similarity::Dot];

    /// Near enough to a Gaussian: the sum of twelve uniform numbers.
    fn gaussian(random: &mut Random) -> f32 {
        ((0..12).map(|_| random.unit()).sum::<f64>() - 6.0) as f32
    }

    fn vector(random: &mut Random, dim: usize, scale: f32) -> Vec<f32> {
        (0..dim).map(|_| gaussian(random) * scale).collect()
    }

    fn exact(similarity: Similarity, q: &[f32], x: &[f32]) -> f64 {
        let pairs = q.iter().zip(x).map(|(q, x)| (f64::from(*q), f64::from(*x)));
        match similarity {
            Similarity::L2 => pairs.map(|(q, x)| (q - x) * (q - x)).sum(),
            Similarity::Dot => -pairs.map(|(q, x)| q * x).sum::<f64>(),
        }
    }

    /// What a search would be told about `rows`, all in the list of `centroid`, for `query`.
    fn estimates(nibble: &Nibble, centroid: Option<&[f32]>, rows: &[f32], query: &[f32]) -> Vec<f32> {
        let dim = query.len();
        let n = rows.len() / dim;
        let centroids = centroid.map(|centroid| Rows::of(centroid, dim));
        let mut packed = Vec::new();
        nibble.encode(Assigned { rows: Rows::of(rows, dim), lists: &vec![0; n], centroids }, &mut packed);
        assert_eq!(packed.len(), n * nibble.layout().code_bytes());
        let mut region = Vec::new();
        nibble.layout().pack(&packed, &mut region);
        let mut scanner = nibble.scanner(Rows::of(query, dim));
        let coarse = centroid.map_or(0.0, |c| exact(nibble.similarity, query, c) as f32);
        scanner.enter(Probe { list: 0, centroid, visits: &[Visit { query: 0, coarse }] });
        let live = vec![u32::MAX; n.div_ceil(32)];
        let mut found = [Found::default()];
        let block = Codes { bytes: &region, n, ahead: &[] };
        scanner.scan(block, 0, &[f32::MAX], &[&live], &mut found);
        assert_eq!(found[0].entries, (0..n as u32).collect::<Vec<_>>());
        found[0].scores.clone()
    }

    /// The property that the bias is made for: a query at the vector itself is told the exact score, up to the rounding
    /// of its table.
    #[test]
    fn an_estimate_is_exact_at_its_vector() {
        let mut random = Random::new(1);
        for (bits, similarity) in
            [NibbleBits::Two, NibbleBits::One].into_iter().flat_map(|b| SIMILARITIES.map(|s| (b, s)))
        {
            for dim in [1, 2, 3, 17, 64, 100, 384] {
                let nibble = Nibble::new(dim, bits, similarity);
                let (centroid, x) = (vector(&mut random, dim, 3.0), vector(&mut random, dim, 4.0));
                let told = f64::from(estimates(&nibble, Some(&centroid), &x, &x)[0]);
                let size = exact(Similarity::L2, &x, &vec![0.0; dim]) + 9.0 * dim as f64;
                assert!((told - exact(similarity, &x, &x)).abs() < 0.05 * size, "{bits:?} {dim} {told}");
            }
        }
    }

    /// The estimate is unbiased and its error is what the code book says: √(MSE/(1−MSE))·‖r‖·‖q−x‖/√d, twice that for
    /// squared distances. The data are Gaussian, where the figures are known: .347 for 2 bits, .72 for 1.
    #[test]
    fn errors_have_the_size_that_the_points_promise() {
        let (dim, n) = (128, 3000);
        for (bits, promised) in [(NibbleBits::Two, 0.347), (NibbleBits::One, 0.72)] {
            for similarity in SIMILARITIES {
                let mut random = Random::new(2);
                let nibble = Nibble::new(dim, bits, similarity);
                let centroid = vector(&mut random, dim, 2.0);
                let rows: Vec<f32> = (0..n)
                    .flat_map(|_| {
                        vector(&mut random, dim, 1.0)
                            .into_iter()
                            .zip(&centroid)
                            .map(|(x, c)| x + c)
                            .collect::<Vec<_>>()
                    })
                    .collect();
                let query = vector(&mut random, dim, 1.0);
                let factor = if similarity == Similarity::L2 { 2.0 } else { 1.0 };
                let errors: Vec<f64> = estimates(&nibble, Some(&centroid), &rows, &query)
                    .iter()
                    .zip(rows.chunks_exact(dim))
                    .map(|(told, x)| {
                        let residual = exact(Similarity::L2, x, &centroid).sqrt();
                        let away = exact(Similarity::L2, x, &query).sqrt();
                        let unit = factor * residual * away / (dim as f64).sqrt();
                        (f64::from(*told) - exact(similarity, &query, x)) / unit
                    })
                    .collect();
                let mean = errors.iter().sum::<f64>() / n as f64;
                let spread = (errors.iter().map(|e| e * e).sum::<f64>() / n as f64).sqrt();
                assert!(mean.abs() < 0.05, "{bits:?} {similarity:?}: mean {mean}");
                assert!((spread / promised - 1.0).abs() < 0.1, "{bits:?} {similarity:?}: spread {spread}");
            }
        }
    }

    /// Every score that `queries` are told of `row` is a number, and the decoded vector is finite.
    fn has_a_place(
        bits: NibbleBits,
        similarity: Similarity,
        centroid: Option<&[f32]>,
        row: &[f32],
        queries: &[&[f32]],
    ) {
        let dim = row.len();
        // A codec keeps the rotated centroids of its model: one for each.
        let nibble = Nibble::new(dim, bits, similarity);
        for query in queries {
            let told = estimates(&nibble, centroid, row, query)[0];
            assert!(
                told.is_finite(),
                "{bits:?} {similarity:?} {row:?} from {centroid:?} to {query:?}: {told}"
            );
        }
        let mut code = Vec::new();
        let centroids = centroid.map(|c| Rows::of(c, dim));
        nibble.encode(Assigned { rows: Rows::of(row, dim), lists: &[0], centroids }, &mut code);
        let mut back = vec![f32::NAN; dim];
        nibble.decode(centroid, &code, &mut back);
        assert!(back.iter().all(|v| v.is_finite()), "{bits:?} {row:?} from {centroid:?}: {back:?}");
    }

    /// Rows with no direction, no length, or lengths at the ends of what the door lets in.
    #[test]
    fn rows_without_a_direction_still_have_a_place() {
        for (bits, similarity) in
            [NibbleBits::Two, NibbleBits::One].into_iter().flat_map(|b| SIMILARITIES.map(|s| (b, s)))
        {
            for dim in [1, 5, 128] {
                for scale in [0.0, 1e-45, 1e-30, 1e-19, 1e17, NORM_MAX / (dim as f32).sqrt()] {
                    let (row, opposite) = (vec![scale; dim], vec![-scale; dim]);
                    for centroid in [None, Some(&row), Some(&opposite), Some(&vec![0.0; dim])] {
                        let queries = [&vec![1.0; dim][..], &row, &opposite];
                        has_a_place(bits, similarity, centroid.map(|c| &c[..]), &row, &queries);
                    }
                }
                // At the centroid the estimate is the coarse score.
                let nibble = Nibble::new(dim, bits, similarity);
                let (row, query) = (vec![2.0; dim], vec![1.0; dim]);
                let told = f64::from(estimates(&nibble, Some(&row), &row, &query)[0]);
                assert!((told - exact(similarity, &query, &row)).abs() < 1e-3 * dim as f64);
            }
        }
    }

    /// The longest rows there are, in lists whose centroids and under queries that are as long, in any directions: the
    /// terms of an estimate are larger than their sum, and none may overflow.
    #[test]
    fn the_longest_rows_have_scores() {
        let mut random = Random::new(4);
        let mut longest = |dim: usize| {
            let mut row = vector(&mut random, dim, 1.0);
            let norm = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            row.iter_mut().for_each(|v| *v = (f64::from(*v) / norm * f64::from(NORM_MAX)) as f32);
            row
        };
        for dim in (1..=8).cycle().take(400).chain([128; 20]) {
            let (row, centroid, query) = (longest(dim), longest(dim), longest(dim));
            let opposite = |of: &[f32]| of.iter().map(|v| -v).collect::<Vec<f32>>();
            let (row_away, centroid_away) = (opposite(&row), opposite(&centroid));
            let queries: [&[f32]; 5] = [&query, &row, &centroid, &row_away, &centroid_away];
            for (bits, similarity) in
                [NibbleBits::Two, NibbleBits::One].into_iter().flat_map(|b| SIMILARITIES.map(|s| (b, s)))
            {
                has_a_place(bits, similarity, Some(&centroid), &row, &queries);
                has_a_place(bits, similarity, None, &row, &queries);
            }
        }
    }

    /// Decoding loses the part of the residual that the points cannot say, .11 of it with 2 bits, .34 with 1.
    #[test]
    fn decoded_vectors_are_as_near_as_the_points_allow() {
        let dim = 256;
        for (bits, lost) in [(NibbleBits::Two, 0.108), (NibbleBits::One, 0.342)] {
            let mut random = Random::new(3);
            let (mut error, mut all) = (0.0, 0.0);
            for _ in 0..300 {
                let (centroid, x) = (vector(&mut random, dim, 5.0), vector(&mut random, dim, 1.0));
                let x: Vec<f32> = x.iter().zip(&centroid).map(|(x, c)| x + c).collect();
                let centroids = Some(Rows::of(&centroid, dim));
                let mut code = Vec::new();
                // A codec keeps the rotated centroids of its model: one for each.
                let nibble = Nibble::new(dim, bits, Similarity::L2);
                nibble.encode(Assigned { rows: Rows::of(&x, dim), lists: &[0], centroids }, &mut code);
                let mut back = vec![0.0; dim];
                nibble.decode(Some(&centroid), &code, &mut back);
                error += exact(Similarity::L2, &x, &back);
                all += exact(Similarity::L2, &x, &centroid);
                let says = nibble.residual(&centroid, &code);
                assert!((says / exact(Similarity::L2, &back, &centroid) - 1.0).abs() < 1e-3);
            }
            assert!((error / all / lost - 1.0).abs() < 0.05, "{bits:?} {}", error / all);
        }
    }
}
