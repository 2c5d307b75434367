//! Arrays of FAISS's making, for tests: `tests/fixtures/faiss/README.md` says what each is.

use crate::Rows;
use crate::codec::{Assigned, Codes, Probe, Scanner, Visit};
use crate::kernel::{Found, Similarity};
use crate::layout::Layout;
use std::collections::BTreeMap;

/// The bytes of an array, without its header.
pub(crate) fn bytes(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/faiss/{name}.npy", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).unwrap();
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[10 + header..].to_vec()
}

pub(crate) fn floats(name: &str) -> Vec<f32> {
    bytes(name).as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v)).collect()
}

pub(crate) fn numbers(name: &str) -> Vec<u32> {
    bytes(name).as_chunks::<4>().0.iter().map(|v| u32::from_le_bytes(*v)).collect()
}

/// What all kinds were given: 1,000 rows, 20 queries, and lists, of 32 components or 27 of them.
pub(crate) struct Given {
    pub(crate) dim: usize,
    pub(crate) rows: Vec<f32>,
    pub(crate) queries: Vec<f32>,
    pub(crate) centroids: Vec<f32>,
    pub(crate) lists: Vec<u32>,
    /// What the arrays of its probes begin with.
    prefix: &'static str,
}

/// Lists that FAISS looks into for a query.
pub(crate) const PROBES: usize = 4;

impl Given {
    /// All 32 components.
    pub(crate) fn whole() -> Self {
        Given::of("shared", 32, "shared")
    }

    /// The same behind FAISS's rotation.
    pub(crate) fn turned() -> Self {
        Given { lists: numbers("shared.both.lists"), ..Given::of("RR32", 32, "shared") }
    }

    /// The first 27, and lists of their own.
    pub(crate) fn odd() -> Self {
        Given::of("shared", 27, "odd")
    }

    fn of(rows: &str, dim: usize, prefix: &'static str) -> Self {
        let cut = |name: &str| {
            let values = floats(&format!("{rows}.both.{name}"));
            values.chunks(32).flat_map(|row| row[..dim].to_vec()).collect()
        };
        let lists = if rows == "RR32" { rows } else { prefix };
        Given {
            dim,
            rows: cut("base"),
            queries: cut("queries"),
            centroids: floats(&format!("{lists}.both.centroids")),
            lists: numbers(&format!("{prefix}.both.lists")),
            prefix,
        }
    }

    pub(crate) fn assigned(&self) -> Assigned<'_> {
        let centroids = Some(Rows::of(&self.centroids, self.dim));
        Assigned { rows: Rows::of(&self.rows, self.dim), lists: &self.lists, centroids }
    }

    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.rows[row * self.dim..][..self.dim]
    }

    pub(crate) fn query(&self, query: usize) -> &[f32] {
        &self.queries[query * self.dim..][..self.dim]
    }

    pub(crate) fn centroid(&self, list: u32) -> &[f32] {
        &self.centroids[list as usize * self.dim..][..self.dim]
    }

    /// The lists that FAISS looks into for a query.
    pub(crate) fn probes(&self, query: usize, similarity: Similarity) -> Vec<u32> {
        let metric = if similarity == Similarity::L2 { "l2" } else { "ip" };
        numbers(&format!("{}.{metric}.probes", self.prefix))[query * PROBES..][..PROBES].to_vec()
    }

    /// Its coarse scores of these, smaller ones nearer.
    fn coarse(&self, query: usize, similarity: Similarity) -> Vec<f32> {
        let (metric, sign) = if similarity == Similarity::L2 { ("l2", 1.0) } else { ("ip", -1.0) };
        let coarse = floats(&format!("{}.{metric}.coarse", self.prefix));
        coarse[query * PROBES..][..PROBES].iter().map(|score| sign * score).collect()
    }

    /// The score of each row that a query meets in its lists, by a scanner of all queries; the packed codes of all rows, in
    /// their layout.
    pub(crate) fn scores(
        &self,
        scanner: &mut dyn Scanner,
        (layout, codes): (Layout, &[u8]),
        similarity: Similarity,
        query: usize,
    ) -> BTreeMap<u32, f32> {
        let (mut scores, width) = (BTreeMap::new(), layout.code_bytes());
        for (list, coarse) in self.probes(query, similarity).into_iter().zip(self.coarse(query, similarity)) {
            let visits = [Visit { query: query as u32, coarse }];
            scanner.enter(Probe { list: 0, centroid: Some(self.centroid(list)), visits: &visits });
            let members: Vec<u32> =
                (0..self.lists.len() as u32).filter(|row| self.lists[*row as usize] == list).collect();
            let packed = members.iter().flat_map(|row| &codes[*row as usize * width..][..width]);
            let mut region = Vec::new();
            layout.pack(&packed.copied().collect::<Vec<u8>>(), &mut region);
            let n = members.len();
            let mut live = vec![u32::MAX; n.div_ceil(32)];
            if let (Some(last), 1..) = (live.last_mut(), n % 32) {
                *last = (1 << (n % 32)) - 1;
            }
            let mut found = [Found::default()];
            scanner.scan(Codes { bytes: &region, n, ahead: &[] }, 0, &[f32::MAX], &[&live], &mut found);
            scores.extend(found[0].iter().map(|(entry, score)| (members[entry as usize], score)));
        }
        scores
    }
}
