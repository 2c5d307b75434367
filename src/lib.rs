//! vellum: an embedded, transactional, persistent vector store.

mod error;
#[cfg(feature = "files")]
pub mod files;
mod kernel;
mod math;
mod metric;
mod progress;
mod rows;

pub use error::{Error, Result};
pub use math::kmeans::{ClusteringParams, IterationStats};
pub use math::seeding::Init;
pub use math::selector::{IdSelector, IdSet};
pub use metric::Metric;
pub use progress::{Observer, Tick};
pub use rows::Rows;
