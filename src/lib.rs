//! vellum: an embedded, transactional, persistent vector store.

mod coarse;
mod codec;
mod error;
#[cfg(feature = "files")]
pub mod files;
mod index;
mod kernel;
mod layout;
mod math;
mod metric;
mod progress;
mod rows;
mod spec;
mod storage;
mod store;

pub use error::{Error, Result};
pub use index::{
    IndexReader, IndexStats, IndexWriter, Neighbor, PartStats, Problem, RepairReport, TopK, TrainParams,
    TrainReport, VerifyReport,
};
#[cfg(feature = "bench-internals")]
#[doc(hidden)]
pub use math::bench_internals;
pub use math::kmeans::{ClusteringParams, IterationStats};
pub use math::seeding::Init;
pub use math::selector::{IdSelector, IdSet};
pub use metric::Metric;
pub use progress::{Observer, Tick};
pub use rows::Rows;
pub use spec::{DIM_MAX, Encoding, IndexSpec, KeptRows, NLIST_MAX, SearchParams};
pub use store::{
    BackupReport, Builder, BulkLoad, CompactReport, Durability, ReadTxn, Store, StoreStats, WriteTxn,
};
