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
use crate::layout::Layout;
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

    /// The query's table, and what turns its whole numbers into products.
    fn table(&self, query: &[f32], scratch: &mut Scratch, table: &mut [i8]) -> f32 {
        let components = self.book.components;
        let mut most = 0.0f32;
        let fours = scratch.table.as_chunks_mut::<POINTS>().0;
        for (part, out) in query.chunks_exact(components).zip(fours) {
            *out = [0.0; POINTS];
            for (p, &value) in part.iter().enumerate() {
                out.iter_mut().zip(&self.book.points[p]).for_each(|(out, point)| *out += value * point);
            }
            most = out.iter().fold(most, |most, v| most.max(v.abs()));
        }
        // A query of zeros, or one so short that its steps underflow, has a table of zeros.
        let step = most / 127.0;
        let inverse = if step >= f32::MIN_POSITIVE { 1.0 / step } else { 0.0 };
        for (value, out) in scratch.table.iter().zip(table) {
            // Added to 1.5·2^23 a number is rounded to the nearest whole one, ties to even, in its lowest bits.
            *out = (value * inverse + 12_582_912.0).to_bits() as u8 as i8;
        }
        if inverse == 0.0 { 0.0 } else { step }
    }
}

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

/// Σ a·b in eight running sums: the same bits on every machine.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

impl Nibble {
    /// The packed code of a row whose rotated residual and rotated self are in `scratch`.
    fn encode_row(&self, scratch: &mut Scratch, code: &mut Vec<u8>) {
        let Scratch { rotated, residual, decoded, planes, codes, .. } = scratch;
        let (components, chosen) = (self.book.components, codes.len());
        let squared = dot(residual, residual);
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
        let fit = dot(residual, decoded);
        // No residual, or one too short to have a direction: the centroid is the estimate.
        let exact = if fit > 0.0 && squared > 0.0 { squared / fit } else { 0.0 };
        let s = bf16::from_f32(if exact.is_finite() { exact } else { 0.0 });
        let product = s.to_f32() * dot(rotated, decoded);
        let bias = match self.similarity {
            Similarity::L2 => 2.0 * product - squared,
            Similarity::Dot => product - dot(rotated, residual),
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
        Layout::Nibbles { subspaces: self.subspaces }
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
            steps.push(self.table(&rotated, &mut scratch, table));
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
                dot(query, query)
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
            let mut queries =
                [NibbleQuery { table: &[], factor: 0.0, coarse: 0.0, worst: 0.0, live: &[] }; 4];
            let queries = &mut queries[..end - start];
            (start..end).zip(&mut *queries).for_each(|(v, out)| *out = query(v));
            kernels.nibble_scan(*subspaces, block.bytes, queries, &mut found[start..end]);
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
