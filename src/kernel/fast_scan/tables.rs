//! The tables of a scanner's queries.

use super::{Steps, table_bytes};
use crate::kernel::{Kernels, POINTS};

/// A table for each query.
#[derive(Clone, Debug)]
pub(crate) struct FastTables {
    subspaces: usize,
    bytes: Vec<u8>,
    steps: Vec<Steps>,
    /// Scratch.
    leasts: Vec<f32>,
}

impl FastTables {
    /// No tables yet, of `subspaces` sub-spaces.
    pub(crate) fn new(subspaces: usize) -> Self {
        FastTables { subspaces, bytes: Vec::new(), steps: Vec::new(), leasts: vec![0.0; subspaces] }
    }

    /// Appends the table of a query: `values[16 · j + k]` is what point `k` of sub-space `j` adds to a score.
    ///
    /// A score from the table is within `subspaces / 2` steps of the sum of the values, and a step is the widest
    /// sub-space's span by 255.
    pub(crate) fn push(&mut self, kernels: &Kernels, values: &[f32]) {
        assert_eq!(values.len(), POINTS * self.subspaces);
        let start = self.bytes.len();
        self.bytes.resize(start + table_bytes(self.subspaces), 0);
        self.steps.push(kernels.fast_table(values, &mut self.leasts, &mut self.bytes[start..]));
    }

    /// The bytes of query `q`.
    pub(crate) fn table(&self, q: usize) -> &[u8] {
        let width = table_bytes(self.subspaces);
        &self.bytes[q * width..(q + 1) * width]
    }

    /// What the bytes of query `q` stand for.
    pub(crate) fn steps(&self, q: usize) -> Steps {
        self.steps[q]
    }
}
