//! The nearest of 2,048 columns for 20,000 rows: vellum's fused kernel beside matrixmultiply and gemm, each followed by
//! the pass that finds the minimum. One thread; the best of the rounds, taken in turns.
//!
//! ```text
//! cargo run --release --manifest-path benches/gemm/Cargo.toml
//! ```

use std::hint::black_box;
use std::time::Instant;
use vellum::bench_internals::Table;
use vellum::{Metric, Rows};

const ROWS: usize = 20_000;
const COLUMNS: usize = 2048;
const ROUNDS: usize = 7;

fn main() {
    println!("| dim | what | GFLOP/s |\n|---|---|---|");
    for dim in [128, 384] {
        let (x, y) = (noise(ROWS * dim, 1), noise(COLUMNS * dim, 2));
        let (Ok(x), Ok(y)) = (Rows::new(&x, dim), Rows::new(&y, dim)) else { return };
        let mut results: Vec<(String, f64)> = Vec::new();
        for _ in 0..ROUNDS {
            round(x, y, &mut |name, seconds| match results.iter_mut().find(|(known, _)| known == name) {
                Some((_, best)) => *best = best.min(seconds),
                None => results.push((name.into(), seconds)),
            });
        }
        let operations = (2 * ROWS * COLUMNS * dim) as f64;
        for (name, seconds) in results {
            println!("| {dim} | {name} | {:.0} |", operations / seconds / 1e9);
        }
    }
}

/// Runs each candidate once.
fn round(x: Rows<'_>, y: Rows<'_>, report: &mut dyn FnMut(&str, f64)) {
    let (mut columns, mut least) = (vec![0; ROWS], vec![0.0; ROWS]);
    for table in Table::all() {
        let packed = table.columns(y);
        let start = Instant::now();
        packed.nearest(Metric::L2, black_box(x), &mut columns, &mut least);
        report(&format!("vellum, {}", table.name()), start.elapsed().as_secs_f64());
    }
    let mut norms = vec![0.0; COLUMNS];
    Table::all()[0].squared_norms(y, &mut norms);
    let mut products = vec![0.0; ROWS * COLUMNS];
    for (name, multiply) in [("matrixmultiply", matrixmultiply as Multiply), ("gemm", gemm)] {
        let start = Instant::now();
        multiply(black_box(x), y, &mut products);
        let product = start.elapsed().as_secs_f64();
        for (column, row) in columns.iter_mut().zip(products.chunks(COLUMNS)) {
            *column = minimum(row, &norms);
        }
        report(&format!("{name}, product alone"), product);
        report(&format!("{name} and the minimum"), start.elapsed().as_secs_f64());
    }
    black_box(&columns);
}

type Multiply = fn(Rows<'_>, Rows<'_>, &mut [f32]);

/// `x · yᵀ`.
fn matrixmultiply(x: Rows<'_>, y: Rows<'_>, out: &mut [f32]) {
    assert_eq!(out.len(), x.len() * y.len());
    let (m, n, dim) = (x.len(), y.len(), x.dim());
    let (row, column) = (dim as isize, n as isize);
    let (x, y, out) = (x.as_slice().as_ptr(), y.as_slice().as_ptr(), out.as_mut_ptr());
    // SAFETY: m × dim, n × dim (read transposed) and m × n elements, all row-major.
    unsafe { matrixmultiply::sgemm(m, dim, n, 1.0, x, row, 1, y, 1, row, 0.0, out, column, 1) }
}

/// `x · yᵀ`.
fn gemm(x: Rows<'_>, y: Rows<'_>, out: &mut [f32]) {
    assert_eq!(out.len(), x.len() * y.len());
    let (m, n, dim) = (x.len(), y.len(), x.dim());
    let (row, column, alone) = (dim as isize, n as isize, gemm::Parallelism::None);
    let (x, y, out) = (x.as_slice().as_ptr(), y.as_slice().as_ptr(), out.as_mut_ptr());
    // SAFETY: m × dim, n × dim (read transposed) and m × n elements, all row-major.
    unsafe {
        gemm::gemm(
            m, n, dim, out, 1, column, false, x, 1, row, y, row, 1, 0.0, 1.0, false, false, false, alone,
        )
    }
}

/// The column with the least `norm - 2 · product`, by eight running minima, which compilers vectorise.
fn minimum(products: &[f32], norms: &[f32]) -> u32 {
    let (mut least, mut columns) = ([f32::INFINITY; 8], [0u32; 8]);
    for (i, (products, norms)) in products.as_chunks::<8>().0.iter().zip(norms.as_chunks::<8>().0).enumerate()
    {
        for lane in 0..8 {
            let score = norms[lane] - 2.0 * products[lane];
            columns[lane] = if score < least[lane] { i as u32 } else { columns[lane] };
            least[lane] = if score < least[lane] { score } else { least[lane] };
        }
    }
    let best = (0..8).min_by(|&a, &b| least[a].total_cmp(&least[b])).unwrap_or(0);
    columns[best] * 8 + best as u32
}

/// Numbers in -0.5..0.5, the same for the same seed.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}
