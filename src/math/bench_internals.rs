//! A window for `benches/kernels.rs`, compiled only with the feature `bench-internals`: kernels and
//! matrices are private to the crate, so this names them with public types. No promise to anybody.

#![allow(missing_docs)]

use super::linalg::Panels;
use super::{kmeans, topk};
use crate::coarse::{CoarseQuantizer, FlatCoarse, Probes, Tree, TreeCoarse};
use crate::codec::{Assigned, Codec, Nibble, NibbleBits};
use crate::kernel::{ByteProduct, Element, Found, GROUP, Kernels, NibbleQuery, group_bytes};
use crate::{ClusteringParams, IterationStats, Metric, Observer, Result, Rows};

/// Nibble codes of rows by their lists' centroids, under L2, with the kernels of this processor.
pub struct Encoder(Nibble);

impl Encoder {
    pub fn new(dim: usize, one_bit: bool) -> Self {
        let bits = if one_bit { NibbleBits::One } else { NibbleBits::Two };
        Encoder(Nibble::new(dim, bits, Metric::L2.similarity()))
    }

    pub fn encode(&self, rows: Rows<'_>, lists: &[u32], centroids: Rows<'_>, codes: &mut Vec<u8>) {
        codes.clear();
        self.0.encode(Assigned { rows, lists, centroids: Some(centroids) }, codes);
    }
}

/// The kernels of one instruction set.
#[derive(Clone, Copy, Debug)]
pub struct Table(&'static Kernels);

impl Table {
    /// Every table that this processor can run.
    pub fn all() -> Vec<Table> {
        Kernels::all().into_iter().map(Table).collect()
    }

    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// `element` is `f32`, `f16`, `u8`, or else bf16.
    pub fn scan(self, metric: Metric, element: &str, queries: &[&[f32]], codes: &[u8], scores: &mut [f32]) {
        self.0.scan(metric.similarity(), named(element), queries, codes, scores);
    }

    pub fn encode(self, element: &str, rows: &[f32]) -> Vec<u8> {
        let mut codes = vec![0; rows.len() * named(element).size()];
        self.0.encode(named(element), rows, &mut codes);
        codes
    }

    /// One row of 8-bit steps, 128 in the middle.
    pub fn steps_score(self, metric: Metric, query: &[f32], codes: &[u8]) -> f32 {
        self.0.steps_score(metric.similarity(), query, -0.5, 1.0 / 256.0, codes)
    }

    pub fn select_at_most(self, scores: &[f32], threshold: f32, out: &mut Vec<u32>) {
        self.0.select_at_most(scores, threshold, out);
    }

    pub fn prefetch(self, bytes: &[u8]) {
        self.0.prefetch(bytes);
    }

    pub fn squared_norms(self, rows: Rows<'_>, out: &mut [f32]) {
        self.0.squared_norms(rows.as_slice(), rows.dim(), out);
    }

    /// Scans whole groups of nibble codes for up to four tables; returns how many entries were found.
    pub fn nibble_scan(
        self,
        subspaces: usize,
        groups: &[u8],
        tables: &[Vec<i8>],
        worst: f32,
        scratch: &mut Scratch,
    ) -> usize {
        scratch.live.resize(groups.len() / group_bytes(subspaces), u32::MAX);
        let live = &scratch.live[..];
        let query = |table| NibbleQuery { table, factor: -0.1, coarse: 0.0, worst, live };
        let mut queries = [query(&[]); 4];
        tables.iter().zip(&mut queries).for_each(|(table, out)| *out = query(table));
        scratch.found.resize(4, Found::default());
        scratch.found.iter_mut().for_each(Found::clear);
        let found = &mut scratch.found[..tables.len()];
        self.0.nibble_scan(subspaces, groups, &[], &queries[..tables.len()], found);
        found.iter().map(|found| found.iter().count()).sum()
    }

    /// Bytes of a group of nibble codes, and its entries.
    pub fn nibble_group(subspaces: usize) -> (usize, usize) {
        (group_bytes(subspaces), GROUP)
    }

    /// One factor a query, one bias a column, as many components as both say.
    pub fn byte_scores(self, queries: &[i8], factors: &[f32], panels: &[u8], bias: &[f32], out: &mut [f32]) {
        let dim = panels.len() / bias.len();
        self.0.byte_scores(&ByteProduct { dim, queries, factors, panels, bias }, out);
    }

    /// A coarse quantizer; with fewer lists than `quantised_min` it scans all.
    pub fn coarse(self, centroids: Rows<'_>, metric: Metric, quantised_min: usize) -> Coarse {
        let (data, dim) = (centroids.as_slice().to_vec(), centroids.dim());
        let coarse = FlatCoarse::with_kernels(self.0, quantised_min, data, dim, metric.similarity());
        Coarse(Box::new(coarse), Probes::default())
    }

    /// The same by way of a tree of so many super-clusters.
    pub fn tree(self, centroids: Rows<'_>, metric: Metric, supers: usize) -> Result<Coarse> {
        let (data, dim, similarity) = (centroids.as_slice().to_vec(), centroids.dim(), metric.similarity());
        let tree = Tree::grow(centroids, supers, similarity, &mut Observer::none())?;
        let coarse = TreeCoarse::with_kernels(self.0, data, dim, similarity, tree);
        Ok(Coarse(Box::new(coarse), Probes::default()))
    }

    /// Packs columns for a product.
    pub fn columns(self, columns: Rows<'_>) -> Columns {
        Columns(Panels::with_kernels(self.0, columns))
    }
}

/// What a scan needs room for.
#[derive(Debug, Default)]
pub struct Scratch {
    live: Vec<u32>,
    found: Vec<Found>,
}

fn named(element: &str) -> Element {
    match element {
        "f32" => Element::F32,
        "f16" => Element::F16,
        "u8" => Element::U8,
        _ => Element::BF16,
    }
}

/// A coarse quantizer and what it found last.
#[allow(missing_debug_implementations)]
pub struct Coarse(Box<dyn CoarseQuantizer>, Probes);

impl Coarse {
    pub fn nearest(&mut self, queries: Rows<'_>, nprobe: usize) {
        self.0.nearest(queries, nprobe, &mut self.1);
    }

    /// The probes that were found last, query after query.
    pub fn lists(&self) -> &[u32] {
        &self.1.lists
    }
}

/// Packed columns.
#[derive(Debug)]
pub struct Columns(Panels);

impl Columns {
    pub fn scores(&self, metric: Metric, rows: Rows<'_>, out: &mut [f32]) {
        self.0.scores(metric.similarity(), rows, out);
    }

    pub fn nearest(&self, metric: Metric, rows: Rows<'_>, columns: &mut [u32], scores: &mut [f32]) {
        self.0.nearest(metric.similarity(), rows, columns, scores);
    }
}

pub fn smallest(scores: &[f32], k: usize, out: &mut Vec<u32>) {
    topk::smallest(scores, k, out);
}

/// The centroids and what each iteration did.
pub fn train(
    rows: Rows<'_>,
    k: usize,
    metric: Metric,
    params: &ClusteringParams,
) -> Result<(Vec<f32>, Vec<IterationStats>)> {
    let clustering = kmeans::cluster(rows, k, metric.similarity(), params, None, &mut Observer::none())?;
    Ok((clustering.centroids, clustering.iterations))
}
