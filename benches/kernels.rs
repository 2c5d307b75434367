//! Kernels and matrices, by table: `cargo bench --features bench-internals --bench kernels`.
//!
//! `scan` reports pairs a second (a pair is one query and one code; 225 codes, the length of a typical
//! list, 16 bytes off a cache line, as redb's values lie). `product` reports multiply-adds a second;
//! `benches/gemm` compares it with the crates that could replace it. Compare within one run only.

#![allow(missing_docs, clippy::expect_used)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use vellum::bench_internals::{Encoder, Scratch, Table, smallest, train};
use vellum::{ClusteringParams, Metric, Rows};

/// Numbers in -0.5..0.5, the same for the same seed.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

/// `rows` of a known length.
fn rows(data: &[f32], dim: usize) -> Rows<'_> {
    Rows::new(data, dim).expect("whole rows")
}

fn scan(c: &mut Criterion) {
    let n = 225;
    for dim in [128, 384] {
        let mut group = c.benchmark_group(format!("scan-{dim}"));
        for (table, element) in
            Table::all().into_iter().flat_map(|t| ["f32", "f16", "bf16", "u8"].map(|e| (t, e)))
        {
            let codes = table.encode(element, &noise(n * dim, 1));
            let mut bytes = vec![0; codes.len() + 128];
            let start = bytes.as_ptr().align_offset(64) + 16;
            bytes[start..start + codes.len()].copy_from_slice(&codes);
            let codes = &bytes[start..start + codes.len()];
            for (metric, count) in
                [Metric::L2, Metric::InnerProduct].into_iter().flat_map(|m| [(m, 1), (m, 8)])
            {
                let queries = noise(count * dim, 2);
                let queries: Vec<&[f32]> = queries.chunks(dim).collect();
                let mut scores = vec![0.0; count * n];
                let id = BenchmarkId::new(table.name(), format!("{element}-{metric}-{count}"));
                group.throughput(Throughput::Elements((count * n) as u64));
                group.bench_function(id, |b| {
                    b.iter(|| table.scan(metric, element, black_box(&queries), codes, &mut scores));
                });
            }
        }
    }
}

/// Rows scored one at a time, as a reranking does: f32, bytes, and 8-bit steps.
fn kept(c: &mut Criterion) {
    let n = 225;
    for dim in [128, 384] {
        let mut group = c.benchmark_group(format!("kept-{dim}"));
        group.throughput(Throughput::Elements(n as u64));
        let query = noise(dim, 2);
        for table in Table::all() {
            for element in ["f32", "u8"] {
                let codes = table.encode(element, &noise(n * dim, 1));
                let mut score = [0.0];
                group.bench_function(BenchmarkId::new(table.name(), element), |b| {
                    b.iter(|| {
                        for row in codes.chunks_exact(codes.len() / n) {
                            table.scan(Metric::L2, element, &[black_box(&query)], row, &mut score);
                            black_box(score);
                        }
                    });
                });
            }
            let codes: Vec<u8> = (0..n * dim).map(|i| (i * 31 % 251) as u8).collect();
            group.bench_function(BenchmarkId::new(table.name(), "steps"), |b| {
                b.iter(|| {
                    for row in codes.chunks_exact(dim) {
                        black_box(table.steps_score(Metric::L2, black_box(&query), row));
                    }
                });
            });
        }
    }
}

/// 960 rows: ten blocks, short enough for a shared machine to leave some samples alone.
const ROWS: usize = 960;
const COLUMNS: usize = 2048;

fn product(c: &mut Criterion) {
    for dim in [128, 384] {
        let (x, y) = (noise(ROWS * dim, 1), noise(COLUMNS * dim, 2));
        let mut group = c.benchmark_group(format!("product-{ROWS}x{COLUMNS}x{dim}"));
        group.throughput(Throughput::Elements((ROWS * COLUMNS * dim) as u64));
        let (mut columns, mut least) = (vec![0; ROWS], vec![0.0; ROWS]);
        let mut scores = vec![0.0; ROWS * COLUMNS];
        for table in Table::all() {
            let packed = table.columns(rows(&y, dim));
            group.bench_function(BenchmarkId::new("nearest", table.name()), |b| {
                b.iter(|| packed.nearest(Metric::L2, rows(black_box(&x), dim), &mut columns, &mut least));
            });
            group.bench_function(BenchmarkId::new("scores", table.name()), |b| {
                b.iter(|| packed.scores(Metric::L2, rows(black_box(&x), dim), &mut scores));
            });
        }
    }
}

/// The coarse quantizer of one query.
fn one_row(c: &mut Criterion) {
    let mut group = c.benchmark_group("scores-1");
    for (n, dim) in [(1024, 128), (2048, 128), (16384, 128), (2048, 384)] {
        let (x, y) = (noise(dim, 1), noise(n * dim, 2));
        let mut scores = vec![0.0; n];
        for table in Table::all() {
            let packed = table.columns(rows(&y, dim));
            group.throughput(Throughput::Bytes((n * dim * 4) as u64));
            group.bench_function(BenchmarkId::new(table.name(), format!("{n}x{dim}")), |b| {
                b.iter(|| packed.scores(Metric::L2, rows(black_box(&x), dim), &mut scores));
            });
        }
    }
}

/// Scores of bytes: 2,048 columns of 128 dimensions are 256 KiB.
fn bytes(c: &mut Criterion) {
    let (n, dim) = (2048, 128);
    let bytes = |count, seed| noise(count, seed).iter().map(|x| (x * 127.0) as i8).collect::<Vec<i8>>();
    let panels: Vec<u8> = bytes(n * dim, 1).iter().map(|x| (x + 63) as u8).collect();
    let bias = noise(n, 2);
    let mut group = c.benchmark_group(format!("bytes-{n}x{dim}"));
    for (table, count) in Table::all().into_iter().flat_map(|table| [1, 4, 16].map(|count| (table, count))) {
        let (queries, factors) = (bytes(count * dim, 3), noise(count, 4));
        let mut scores = vec![0.0; count * n];
        group.throughput(Throughput::Elements((count * n * dim) as u64));
        group.bench_function(BenchmarkId::new(table.name(), count), |b| {
            b.iter(|| table.byte_scores(black_box(&queries), &factors, &panels, &bias, &mut scores));
        });
    }
}

/// The probes of one query and of a batch, by looking at quantised centroids first and by scanning all.
/// Vectors lie about a subspace of 12 dimensions, as real ones more or less do: noise alone would have
/// neighbours at almost one distance.
fn coarse(c: &mut Criterion) {
    let (nlist, dim, rank) = (2048, 128, 12);
    let basis = noise(rank * dim, 1);
    let vectors = |count, seed| {
        let (weights, mut data) = (noise(count * rank, seed), noise(count * dim, seed + 1));
        for (row, weights) in data.chunks_mut(dim).zip(weights.chunks(rank)) {
            for (d, x) in row.iter_mut().enumerate() {
                *x = 0.2 * *x + weights.iter().enumerate().map(|(w, v)| v * basis[w * dim + d]).sum::<f32>();
            }
        }
        data
    };
    let (centroids, queries) = (vectors(nlist, 2), vectors(500, 4));
    let mut group = c.benchmark_group(format!("nearest-of-{nlist}x{dim}"));
    for table in Table::all() {
        for (how, quantised_min) in [("look", 0), ("scan", usize::MAX)] {
            let mut coarse = table.coarse(rows(&centroids, dim), Metric::L2, quantised_min);
            for (count, nprobe) in [1, 500].into_iter().flat_map(|count| [8, 62].map(|n| (count, n))) {
                group.throughput(Throughput::Elements(count as u64));
                let id =
                    BenchmarkId::new(format!("{}-{how}", table.name()), format!("{count}-nprobe-{nprobe}"));
                group.bench_function(id, |b| {
                    b.iter(|| coarse.nearest(rows(black_box(&queries[..count * dim]), dim), nprobe));
                });
            }
        }
    }
}

/// The probes of one query and of a batch among 65,536 lists, by looking at all centroids and by way of a tree of 512
/// super-clusters; what share of the former the latter finds is printed. Vectors lie about a subspace of 24 dimensions
/// of falling weight.
fn tree(c: &mut Criterion) {
    let (nlist, dim, rank, count) = (65_536, 128, 24, 500);
    let basis = noise(rank * dim, 1);
    let vectors = |count, seed| {
        let (weights, mut data) = (noise(count * rank, seed), noise(count * dim, seed + 1));
        for (row, weights) in data.chunks_mut(dim).zip(weights.chunks(rank)) {
            for (d, x) in row.iter_mut().enumerate() {
                let term = |(w, v): (usize, &f32)| v / (1.0 + 0.15 * w as f32) * basis[w * dim + d];
                *x = 0.1 * *x + weights.iter().enumerate().map(term).sum::<f32>();
            }
        }
        data
    };
    let (centroids, queries) = (vectors(nlist, 2), vectors(count, 4));
    let (centroids, queries) = (rows(&centroids, dim), rows(&queries, dim));
    let Some(table) = Table::all().into_iter().next() else { return };
    let mut flat = table.coarse(centroids, Metric::L2, 0);
    let mut tree = table.tree(centroids, Metric::L2, 512).expect("a tree");
    for nprobe in [1, 8, 32, 128, 1024] {
        flat.nearest(queries, nprobe);
        tree.nearest(queries, nprobe);
        let lists = flat.lists().chunks(nprobe).zip(tree.lists().chunks(nprobe));
        let found: usize =
            lists.map(|(all, some)| some.iter().filter(|list| all.contains(list)).count()).sum();
        eprintln!("nprobe {nprobe}: {:.4} of the flat probes", found as f64 / (count * nprobe) as f64);
    }
    let mut group = c.benchmark_group(format!("nearest-of-{nlist}x{dim}"));
    for (how, coarse) in [("flat", &mut flat), ("tree", &mut tree)] {
        for (count, nprobe) in [1, count].into_iter().flat_map(|count| [1, 32, 128].map(|n| (count, n))) {
            group.throughput(Throughput::Elements(count as u64));
            let mut first = 0;
            group.bench_function(BenchmarkId::new(how, format!("{count}-nprobe-{nprobe}")), |b| {
                b.iter(|| {
                    // Another query each time: one alone finds nothing in cache that it brought there itself.
                    first = (first + 1) % (queries.len() + 1 - count);
                    coarse.nearest(black_box(queries.slice(first..first + count)), nprobe);
                });
            });
        }
    }
}

fn selection(c: &mut Criterion) {
    let scores = noise(2048, 1);
    let mut out = Vec::new();
    let mut group = c.benchmark_group("smallest-of-2048");
    for k in [1, 8, 32, 64, 256] {
        group.bench_function(k.to_string(), |b| b.iter(|| smallest(black_box(&scores), k, &mut out)));
    }
    group.finish();
    let mut group = c.benchmark_group("select-at-most-of-2048");
    for (table, share) in
        Table::all().into_iter().flat_map(|table| [0.0, 0.01, 0.5].map(|share| (table, share)))
    {
        group.bench_function(BenchmarkId::new(table.name(), share), |b| {
            b.iter(|| table.select_at_most(black_box(&scores), share - 0.5, &mut out));
        });
    }
}

fn clustering(c: &mut Criterion) {
    let mut group = c.benchmark_group("train-10-iterations");
    group.sample_size(10);
    for (n, k, dim) in [(20_000, 256, 128), (65_536, 256, 8), (65_536, 16, 4)] {
        let x = noise(n * dim, 1);
        let params = ClusteringParams { max_points_per_centroid: n, ..ClusteringParams::default() };
        group.bench_function(format!("{n}x{k}x{dim}"), |b| {
            b.iter(|| train(rows(black_box(&x), dim), k, Metric::L2, &params));
        });
    }
}

/// Rows encoded a second by one core, assignment not included.
fn encoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode-nibbles");
    for (dim, one_bit) in [(128, false), (128, true), (384, true)] {
        let (n, nlist) = (2000, 100);
        let (data, centroids) = (noise(n * dim, 1), noise(nlist * dim, 2));
        let lists: Vec<u32> = (0..n as u32).map(|row| row % nlist as u32).collect();
        let (encoder, mut codes) = (Encoder::new(dim, one_bit), Vec::new());
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function(format!("{dim}/{} bits", if one_bit { 1 } else { 2 }), |b| {
            b.iter(|| encoder.encode(rows(black_box(&data), dim), &lists, rows(&centroids, dim), &mut codes));
        });
    }
}

/// ns per entry and query: divide the time by the elements. 64 sub-spaces are 2 bits of 128 components, 32 one bit.
fn nibbles(c: &mut Criterion) {
    for subspaces in [64, 32] {
        let (bytes, entries) = Table::nibble_group(subspaces);
        let groups = 12;
        let codes: Vec<u8> = noise(groups * bytes, 1).iter().map(|v| (v * 200.0) as i8 as u8).collect();
        let mut group = c.benchmark_group(format!("nibble-{subspaces}"));
        for table in Table::all() {
            for queries in [1, 4] {
                let tables: Vec<Vec<i8>> = (0..queries)
                    .map(|q| noise(16 * subspaces, 2 + q).iter().map(|v| (v * 250.0) as i8).collect())
                    .collect();
                let mut scratch = Scratch::default();
                group.throughput(Throughput::Elements(groups as u64 * entries as u64 * queries));
                group.bench_function(BenchmarkId::new(table.name(), queries), |b| {
                    b.iter(|| {
                        table.nibble_scan(
                            subspaces,
                            black_box(&codes),
                            &tables,
                            f32::NEG_INFINITY,
                            &mut scratch,
                        )
                    });
                });
            }
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(1)).warm_up_time(Duration::from_millis(200));
    targets = encoding, nibbles, scan, kept, product, one_row, bytes, coarse, tree, selection, clustering
}
criterion_main!(benches);
