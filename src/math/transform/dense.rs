//! Small dense linear algebra in f64: what training a rotation takes, and no more.
//!
//! ```text
//! eigen       A = Zᵀ diag(λ) Z      Householder tridiagonalisation, then QL with implicit shifts
//! orthonormal V = Q R               Householder, Q made explicit: orthonormal whatever the rank of V
//! procrustes  the Q nearest to C    C Cᵀ = U Σ² Uᵀ, Cᵀ U = V Σ made orthonormal by QR, Q = U Vᵀ
//! ```
//! Matrices are rows after rows, and so are sets of vectors: an eigenvector is a row, and what a textbook calls the columns of
//! V are rows here, so that every inner loop runs over adjacent numbers. Loops are shared between threads by rows (or, for the
//! rotations of QL, by strips of columns), and each number is computed by one thread in one order: threads cannot matter.
//!
//! Squaring C costs the singular values below 10⁻⁸ of the largest their accuracy, which Procrustes does not miss: those
//! directions hardly say how to rotate, and QR keeps Q orthonormal all the same.

use crate::math::linalg::dot_f64;
use rayon::prelude::*;

/// Rows after rows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Dense {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) values: Vec<f64>,
}

/// A symmetric matrix taken apart: `vectors` are orthonormal rows, their values descend.
pub(super) struct Eigen {
    pub(super) values: Vec<f64>,
    pub(super) vectors: Dense,
}

/// Numbers that are worth another task.
const TASK: usize = 1 << 14;

impl Dense {
    pub(super) fn zeros(rows: usize, columns: usize) -> Self {
        Dense { rows, columns, values: vec![0.0; rows * columns] }
    }

    pub(super) fn of(rows: usize, columns: usize, values: Vec<f64>) -> Self {
        assert_eq!(values.len(), rows * columns);
        Dense { rows, columns, values }
    }

    pub(super) fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.columns..][..self.columns]
    }

    pub(super) fn transposed(&self) -> Self {
        let mut out = Dense::zeros(self.columns, self.rows);
        for (i, row) in self.values.chunks_exact(self.columns).enumerate() {
            row.iter().enumerate().for_each(|(j, &value)| out.values[j * self.rows + i] = value);
        }
        out
    }

    /// `self · other`: each row of the product is a sum of rows of `other`.
    pub(super) fn times(&self, other: &Dense) -> Dense {
        assert_eq!(self.columns, other.rows);
        let mut out = Dense::zeros(self.rows, other.columns);
        let rows =
            out.values.par_chunks_exact_mut(other.columns).zip(self.values.par_chunks_exact(self.columns));
        rows.with_min_len(rows_a_task(self.columns * other.columns)).for_each(|(out, factors)| {
            for (i, &factor) in factors.iter().enumerate() {
                add_scaled(out, factor, other.row(i));
            }
        });
        out
    }

    /// `self · selfᵀ`.
    fn gram(&self) -> Dense {
        let mut out = Dense::zeros(self.rows, self.rows);
        let rows = out.values.par_chunks_exact_mut(self.rows).enumerate();
        rows.with_min_len(rows_a_task(self.columns * self.rows)).for_each(|(i, out)| {
            out.iter_mut().enumerate().for_each(|(j, out)| *out = dot_f64(self.row(i), self.row(j)));
        });
        out
    }

    pub(super) fn scale(&mut self, by: f64) {
        self.values.iter_mut().for_each(|value| *value *= by);
    }

    /// 1 over the largest magnitude, as a power of two: scaling by it is exact, and keeps squares in range. 1 for zeros.
    fn unit(&self) -> f64 {
        power_below(self.values.iter().fold(0.0f64, |most, value| most.max(value.abs())))
    }
}

/// The power of two that brings `most` between ½ and 2; 1 where there is none.
pub(super) fn power_below(most: f64) -> f64 {
    if most.is_normal() { (-most.log2().floor()).clamp(-1000.0, 1000.0).exp2() } else { 1.0 }
}

fn rows_a_task(work: usize) -> usize {
    TASK.div_ceil(work.max(1))
}

fn add_scaled(out: &mut [f64], factor: f64, row: &[f64]) {
    out.iter_mut().zip(row).for_each(|(out, value)| *out += factor * value);
}

/// A reflection x − 2⟨v, x⟩v of the components from `first` on, where v has length 1; or none.
struct Reflection {
    first: usize,
    unit: Vec<f64>,
}

impl Reflection {
    /// What turns `x` into (α, 0, 0, …), and α.
    fn of(first: usize, x: &[f64]) -> (Self, f64) {
        let most = x.iter().fold(0.0f64, |most, value| most.max(value.abs()));
        let mut unit = x.to_vec();
        if most == 0.0 || x.len() == 1 {
            return (Reflection { first, unit: Vec::new() }, x[0]);
        }
        unit.iter_mut().for_each(|value| *value /= most);
        let norm = dot_f64(&unit, &unit).sqrt();
        // Away from zero, so that nothing cancels.
        let alpha = if unit[0] > 0.0 { -norm } else { norm };
        unit[0] -= alpha;
        let length = dot_f64(&unit, &unit).sqrt();
        unit.iter_mut().for_each(|value| *value /= length);
        (Reflection { first, unit }, alpha * most)
    }

    fn apply(&self, x: &mut [f64]) {
        let x = &mut x[self.first..];
        let product = dot_f64(&self.unit, &x[..self.unit.len()]);
        add_scaled(x, -2.0 * product, &self.unit);
    }
}

/// Row j is H₀ H₁ … eⱼ. A reflection leaves alone what is zero from its first component on.
fn product_of(reflections: &[Reflection], rows: usize, columns: usize) -> Dense {
    let mut out = Dense::zeros(rows, columns);
    let tasks = out.values.par_chunks_exact_mut(columns).enumerate();
    tasks.with_min_len(rows_a_task(columns * reflections.len())).for_each(|(j, row)| {
        row[j] = 1.0;
        let changed = reflections.iter().rev().filter(|reflection| reflection.first <= j);
        changed.for_each(|reflection| reflection.apply(row));
    });
    out
}

/// Orthonormal rows that span what the rows of `vectors` do, one after the other, each on the side of its row; where a row
/// depends on those before it, any that is orthogonal to them. At most as many rows as columns.
pub(super) fn orthonormal(mut vectors: Dense) -> Dense {
    let Dense { rows, columns, .. } = vectors;
    assert!(rows <= columns);
    let (mut reflections, mut turned) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    for k in 0..rows {
        let (done, rest) = vectors.values.split_at_mut((k + 1) * columns);
        let (reflection, alpha) = Reflection::of(k, &done[k * columns + k..]);
        let tasks = rest.par_chunks_exact_mut(columns);
        tasks.with_min_len(rows_a_task(columns - k)).for_each(|row| reflection.apply(row));
        reflections.push(reflection);
        turned.push(alpha < 0.0);
    }
    let mut q = product_of(&reflections, rows, columns);
    for (row, _) in q.values.chunks_exact_mut(columns).zip(turned).filter(|(_, turned)| *turned) {
        row.iter_mut().for_each(|value| *value = -*value);
    }
    q
}

/// Of the matrices of this shape with orthonormal rows (or columns, where there are fewer of them), the one with the largest
/// product with `c`: U Vᵀ of its singular value decomposition.
pub(super) fn procrustes(mut c: Dense) -> Dense {
    if c.rows > c.columns {
        return procrustes(c.transposed()).transposed();
    }
    c.scale(c.unit());
    let u = eigen(c.gram()).vectors;
    let v = orthonormal(u.times(&c));
    u.transposed().times(&v)
}

/// Takes a symmetric matrix apart.
pub(super) fn eigen(mut a: Dense) -> Eigen {
    let n = a.rows;
    assert!(n == a.columns && n > 0);
    let unit = a.unit();
    a.scale(unit);
    let (reflections, diagonal, off) = tridiagonal(a);
    let mut strips = Strips::new(&product_of(&reflections, n, n));
    let mut values = diagonal;
    diagonalise(&mut values, off, &mut |rotations| strips.rotate(rotations));
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    let vectors = strips.rows(&order);
    Eigen { values: order.iter().map(|&i| values[i] / unit).collect(), vectors }
}

/// Reflects `a` to a tridiagonal matrix: its diagonal and what stands beside that.
fn tridiagonal(mut a: Dense) -> (Vec<Reflection>, Vec<f64>, Vec<f64>) {
    let n = a.rows;
    let (mut reflections, mut off) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for k in 0..n - 1 {
        let (reflection, alpha) = Reflection::of(k + 1, &a.row(k)[k + 1..]);
        off.push(alpha);
        if !reflection.unit.is_empty() {
            reflect_both_sides(&mut a, &reflection.unit);
            reflections.push(reflection);
        }
    }
    let diagonal = (0..n).map(|i| a.values[i * n + i]).collect();
    (reflections, diagonal, off)
}

/// The last rows and columns of `a`, as many as `v` is long, become (1 − 2vvᵀ) A (1 − 2vvᵀ) = A − vwᵀ − wvᵀ with
/// w = 2Av − 2⟨v, Av⟩v.
fn reflect_both_sides(a: &mut Dense, v: &[f64]) {
    let (n, first) = (a.columns, a.rows - v.len());
    let rows = a.values[first * n..].par_chunks_exact_mut(n);
    let min = rows_a_task(v.len());
    let mut w: Vec<f64> = vec![0.0; v.len()];
    rows.zip(w.par_iter_mut()).with_min_len(min).for_each(|(row, w)| *w = 2.0 * dot_f64(&row[first..], v));
    let product = dot_f64(v, &w);
    add_scaled(&mut w, -product, v);
    let rows = a.values[first * n..].par_chunks_exact_mut(n).enumerate();
    rows.with_min_len(min).for_each(|(i, row)| {
        let (vi, wi) = (v[i], w[i]);
        for ((out, v), w) in row[first..].iter_mut().zip(v).zip(&w) {
            *out -= vi * w + wi * v;
        }
    });
}

/// Mixes vector `i` and `i + 1`: (c·a − s·b, s·a + c·b).
#[derive(Clone, Copy)]
struct Rotation {
    i: u32,
    c: f64,
    s: f64,
}

/// Rotations that are collected before they are applied: a strip then stays in cache for all of them.
const BATCH: usize = 1 << 16;

/// Steps for one eigenvalue at most. Two or three are what it takes.
const STEPS: usize = 90;

/// QL with implicit shifts: turns `diagonal` into the eigenvalues of the tridiagonal matrix and hands the rotations that do
/// it to `take`. The matrix is of order 1.
fn diagonalise(diagonal: &mut [f64], mut off: Vec<f64>, take: &mut dyn FnMut(&[Rotation])) {
    let n = diagonal.len();
    off.push(0.0);
    let mut rotations = Vec::with_capacity(BATCH + n);
    for first in 0..n {
        for _ in 0..STEPS {
            let last = block_end(diagonal, &off, first);
            if last == first {
                break;
            }
            step(diagonal, &mut off, first, last, &mut rotations);
            if rotations.len() >= BATCH {
                take(&rotations);
                rotations.clear();
            }
        }
    }
    take(&rotations);
}

/// The first index from `first` on behind which the matrix falls apart.
fn block_end(diagonal: &[f64], off: &[f64], first: usize) -> usize {
    let apart = |&m: &usize| {
        let size = diagonal[m].abs() + diagonal[m + 1].abs();
        off[m].abs() <= f64::EPSILON * size.max(f64::EPSILON)
    };
    (first..diagonal.len() - 1).find(apart).unwrap_or(diagonal.len() - 1)
}

/// One step over the block `first ..= last`, which chases the bulge from its end to its front.
fn step(diagonal: &mut [f64], off: &mut [f64], first: usize, last: usize, rotations: &mut Vec<Rotation>) {
    // Wilkinson's shift: the eigenvalue of the leading 2 × 2 that is nearer to the first.
    let g = (diagonal[first + 1] - diagonal[first]) / (2.0 * off[first]);
    let shift = diagonal[first] - off[first] / (g + g.hypot(1.0).copysign(g));
    let (mut bulge, mut s, mut c, mut moved) = (diagonal[last] - shift, 1.0, 1.0, 0.0);
    for i in (first..last).rev() {
        let (f, b) = (s * off[i], c * off[i]);
        let r = f.hypot(bulge);
        off[i + 1] = r;
        if r == 0.0 {
            // Fell apart in the middle: the rest is for the next step.
            diagonal[i + 1] -= moved;
            off[last] = 0.0;
            return;
        }
        (s, c) = (f / r, bulge / r);
        let g = diagonal[i + 1] - moved;
        let turned = (diagonal[i] - g) * s + 2.0 * c * b;
        moved = s * turned;
        diagonal[i + 1] = g + moved;
        bulge = c * turned - b;
        rotations.push(Rotation { i: i as u32, c, s });
    }
    diagonal[first] -= moved;
    off[first] = bulge;
    off[last] = 0.0;
}

/// Columns of a strip.
const STRIP: usize = 16;

/// A matrix in strips of columns: rotations mix rows, so strips do not need each other.
struct Strips {
    columns: usize,
    strips: Vec<Vec<[f64; STRIP]>>,
}

impl Strips {
    fn new(matrix: &Dense) -> Self {
        let strip = |first: usize| {
            let part = |i| {
                let row = &matrix.row(i)[first..];
                std::array::from_fn(|lane| row.get(lane).copied().unwrap_or(0.0))
            };
            (0..matrix.rows).map(part).collect()
        };
        let strips = (0..matrix.columns).step_by(STRIP).map(strip).collect();
        Strips { columns: matrix.columns, strips }
    }

    fn rotate(&mut self, rotations: &[Rotation]) {
        let min = rows_a_task(rotations.len() * STRIP);
        self.strips.par_iter_mut().with_min_len(min).for_each(|strip| {
            for &Rotation { i, c, s } in rotations {
                if let [a, b, ..] = &mut strip[i as usize..] {
                    for lane in 0..STRIP {
                        (a[lane], b[lane]) = (c * a[lane] - s * b[lane], s * a[lane] + c * b[lane]);
                    }
                }
            }
        });
    }

    /// The rows in this order.
    fn rows(&self, order: &[usize]) -> Dense {
        let mut out = Dense::zeros(order.len(), self.columns);
        for (row, &i) in out.values.chunks_exact_mut(self.columns).zip(order) {
            for (part, strip) in row.chunks_mut(STRIP).zip(&self.strips) {
                part.copy_from_slice(&strip[i][..part.len()]);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::gaussian::Gaussian;
    use super::*;

    fn random(rows: usize, columns: usize, seed: u64) -> Dense {
        let mut gaussian = Gaussian::new(seed);
        Dense::of(rows, columns, (0..rows * columns).map(|_| gaussian.draw()).collect())
    }

    fn distance(a: &Dense, b: &Dense) -> f64 {
        assert_eq!((a.rows, a.columns), (b.rows, b.columns));
        a.values.iter().zip(&b.values).fold(0.0, |most, (a, b)| f64::max(most, (a - b).abs()))
    }

    fn identity(n: usize) -> Dense {
        diagonal(&vec![1.0; n])
    }

    fn diagonal(values: &[f64]) -> Dense {
        let mut out = Dense::zeros(values.len(), values.len());
        values.iter().enumerate().for_each(|(i, &value)| out.values[i * values.len() + i] = value);
        out
    }

    /// Breaks on a wrong rotation, a lost reflection, or an order that values and vectors do not share.
    fn check_eigen(a: &Dense) {
        let n = a.rows;
        let size = a.values.iter().fold(0.0f64, |most, value| most.max(value.abs()));
        let Eigen { values, vectors } = eigen(a.clone());
        assert!(values.windows(2).all(|pair| pair[0] >= pair[1]), "descending");
        assert!(distance(&vectors.gram(), &identity(n)) < 1e-12 * n as f64);
        let back = vectors.transposed().times(&diagonal(&values)).times(&vectors);
        assert!(distance(&back, a) <= 1e-13 * size * n as f64, "{n}: {}", distance(&back, a) / size);
    }

    #[test]
    fn symmetric_matrices_are_put_together_again() {
        for n in [1, 2, 3, 4, 5, 17, 64, 130] {
            check_eigen(&random(n, 2 * n, n as u64).gram());
            // Half the rank.
            check_eigen(&random(n, n.div_ceil(2), n as u64).gram());
            let square = random(n, n, 9);
            let mut indefinite = square.transposed();
            add_scaled(&mut indefinite.values, 1.0, &square.values);
            check_eigen(&indefinite);
        }
    }

    #[test]
    fn degenerate_and_extreme_matrices_are_no_exception() {
        check_eigen(&Dense::zeros(5, 5));
        check_eigen(&identity(40));
        check_eigen(&Dense::of(30, 30, vec![1.0; 900]));
        check_eigen(&diagonal(&(0..40).map(|i| 10f64.powi(-i)).collect::<Vec<_>>()));
        for size in [1e-290, 1e-30, 1e30, 1e290] {
            let mut a = random(20, 20, 3).gram();
            a.scale(size);
            check_eigen(&a);
        }
        // A chain of springs: tridiagonal from the start, with values 2 − 2 cos(πk / (n + 1)).
        let n = 50;
        let mut chain = diagonal(&vec![2.0; n]);
        for i in 1..n {
            chain.values[i * n + i - 1] = -1.0;
            chain.values[(i - 1) * n + i] = -1.0;
        }
        check_eigen(&chain);
        for (k, value) in eigen(chain).values.iter().rev().enumerate() {
            let angle = std::f64::consts::PI * (k + 1) as f64 / (n + 1) as f64;
            assert!((value - (2.0 - 2.0 * angle.cos())).abs() < 1e-13);
        }
    }

    #[test]
    fn qr_spans_the_rows_and_is_orthonormal_whatever_their_rank() {
        for (rows, columns) in [(1, 1), (1, 9), (5, 5), (20, 64), (64, 64)] {
            let vectors = random(rows, columns, 7);
            let q = orthonormal(vectors.clone());
            assert!(distance(&q.gram(), &identity(rows)) < 1e-12);
            let r = vectors.times(&q.transposed());
            assert!(distance(&r.times(&q), &vectors) < 1e-12);
            assert!(
                (0..rows).all(|i| r.row(i)[i] > 0.0 && r.row(i)[i + 1..].iter().all(|v| v.abs() < 1e-12))
            );
            let dependent = Dense::of(rows, columns, vectors.row(0).repeat(rows));
            assert!(distance(&orthonormal(dependent).gram(), &identity(rows)) < 1e-12);
            assert!(distance(&orthonormal(Dense::zeros(rows, columns)).gram(), &identity(rows)) < 1e-12);
        }
    }

    /// The oracle: C = P Q with P positive definite, so Q is what is sought.
    #[test]
    fn procrustes_finds_the_rotation_that_was_hidden() {
        for (rows, columns) in [(1, 1), (6, 6), (6, 20), (20, 6), (64, 64)] {
            let short = rows.min(columns);
            let q = orthonormal(random(short, rows.max(columns), 1));
            let stretch = random(short, short + 9, 2).gram();
            let (mut c, q) = (stretch.times(&q), q);
            let (q, stretched) = if rows > columns {
                c = c.transposed();
                (q.transposed(), c)
            } else {
                (q, c)
            };
            for size in [1e-200, 1.0, 1e200] {
                let mut c = stretched.clone();
                c.scale(size);
                assert!(distance(&procrustes(c), &q) < 1e-9, "{rows} {columns}");
            }
        }
    }

    #[test]
    fn procrustes_of_a_deficient_matrix_is_orthonormal_and_the_best() {
        for (rank, n) in [(0, 8), (1, 8), (5, 8), (40, 64)] {
            let c = random(n, rank.max(1), 3).times(&random(rank.max(1), n, 4));
            let c = if rank == 0 { Dense::zeros(n, n) } else { c };
            let q = procrustes(c.clone());
            assert!(distance(&q.gram(), &identity(n)) < 1e-12);
            // The largest product is the sum of the singular values.
            let singular: f64 = eigen(c.gram()).values.iter().map(|value| value.max(0.0).sqrt()).sum();
            let product: f64 = c.values.iter().zip(&q.values).map(|(a, b)| a * b).sum();
            assert!((product - singular).abs() <= 1e-6 * (1.0 + singular), "{product} {singular}");
        }
    }

    #[test]
    fn threads_do_not_matter() {
        let a = random(150, 150, 5);
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let three = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert_eq!(one.install(|| procrustes(a.clone())), three.install(|| procrustes(a.clone())));
    }
}
