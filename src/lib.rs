//! vellum: an embedded, transactional, persistent vector store.

mod error;
mod kernel;
mod math;
mod metric;
mod progress;
mod rows;

#[cfg(feature = "bench-internals")]
#[doc(hidden)]
pub use math::bench_internals;
pub use error::{Error, Result};
pub use math::kmeans::{ClusteringParams, IterationStats};
pub use math::seeding::Init;
pub use math::selector::{IdSelector, IdSet};
pub use metric::Metric;
pub use progress::{Observer, Tick};
pub use rows::Rows;
