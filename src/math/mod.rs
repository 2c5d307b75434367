//! Mathematics over plain slices: products of matrices, clustering, selection of the nearest, sets of
//! ids, random numbers. Nothing here knows of lists, blocks or tables.

pub(crate) mod avq;
#[cfg(feature = "bench-internals")]
pub mod bench_internals;
pub(crate) mod kmeans;
pub(crate) mod linalg;
#[allow(dead_code)] // until a product code is made
pub(crate) mod polysemous;
#[allow(dead_code)] // until a product code is made
pub(crate) mod product;
pub(crate) mod random;
pub(crate) mod rotation;
pub(crate) mod seeding;
pub(crate) mod selector;
pub(crate) mod topk;
pub(crate) mod transform;
