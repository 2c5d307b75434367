//! Kernels: the innermost loops, one table of functions per instruction set.

/// What is computed between two vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Similarity {
    /// Squared Euclidean distance.
    L2,
    /// Inner product; its score is the negated product.
    Dot,
}
