//! vellum: an embedded, transactional, persistent vector store.
//!
//! Inverted lists (what FAISS calls `IndexIVF`) kept in redb: vectors are added, updated, removed and searched in
//! transactions, survive a crash, and are never rebuilt.
//!
//! ```
//! use vellum::{IdSelector, IndexSpec, Metric, Rows, SearchParams, Store};
//!
//! # let folder = tempfile::tempdir()?;
//! let store = Store::create(folder.path().join("vectors.vellum"))?;
//! let txn = store.begin_write()?;
//! txn.create_index("docs", &IndexSpec::flat(2, Metric::L2))?;
//! let mut index = txn.index("docs")?;
//! index.add(Rows::new(&[0.0, 0.0, 3.0, 4.0, 6.0, 8.0], 2)?)?; // ids 0, 1, 2
//! index.remove_ids(&IdSelector::range(2..3))?;
//! drop(index);
//! txn.commit()?;
//!
//! let index = store.begin_read()?.index("docs")?;
//! let nearest = index.search(&[3.0, 3.0], 1, &SearchParams::new())?;
//! assert_eq!((nearest[0].id, nearest[0].distance), (1, 1.0)); // squared L2
//! # Ok::<(), vellum::Error>(())
//! ```
//!
//! # Guarantees
//! - Nothing on disk lives outside redb, and a commit is redb's commit. What is in memory is a cache of committed tables.
//! - A reader keeps the state it began with. One writer at a time; readers never wait for it.
//! - A batch is checked as a whole before the first write; an [`Error`] carries the values that were wrong.
//! - Answers do not depend on threads, batching, block size or cache; ties go to the lower id.
//! - Damaged bytes give [`Error::Corrupt`] or the right answer; [`ReadTxn::verify`] finds what a read cannot (see the README).
//! - Unsafe code stands in `kernel/` alone.
//!
//! # Where to begin
//! [`Store`] opens a file; [`WriteTxn::index`] gives an [`IndexWriter`], [`ReadTxn::index`] an [`IndexReader`]. An index
//! can also live in the application's own redb database: [`IndexWriter::create`], [`Builder::attach`]. Large inputs go through
//! [`Store::bulk_load`]. [`Retriever`] is all that in one thing: vectors and identifiers in, identifiers and scores out. `ARCHITECTURE.md` in the repository draws the floors.

mod autopilot;
mod coarse;
mod codec;
mod encoding;
mod error;
#[cfg(feature = "files")]
pub mod files;
#[cfg(test)]
mod fixtures;
#[cfg(feature = "fuzz-internals")]
#[doc(hidden)]
#[allow(missing_docs)]
pub mod fuzzing;
mod guard;
mod index;
mod kernel;
mod layout;
mod math;
mod metric;
mod params;
mod profile;
mod progress;
mod rerank;
mod retrieval;
mod rows;
mod spec;
mod storage;
mod store;
mod sync;
mod transform;

pub use autopilot::AutoReport;
pub use coarse::{Quantizer, QuantizerName, QuantizerParams, QuantizerValue};
pub use codec::CodePacker;
pub use encoding::{
    AdditiveCode, AdditiveKind, AdditiveNorm, Encoding, FastScan, ProductQuantizer, RaBitQ, Real,
    RefinedProduct, ScalarBits, ScalarQuantizer, ScalarRange, ScalarSteps, SpectralHash, SpectralThreshold,
};
pub use error::{Error, Result};
pub use index::{
    CalibrateParams, Calibration, CalibrationSource, Code, ContentDigest, DistanceComputer, Fingerprint,
    IndexReader, IndexStats, IndexWriter, ListRef, ListScanner, MaintainParams, MaintainReport,
    MergeProgress, Neighbor, PartStats, Placed, Preassigned, PreparedQuery, Problem, Reconstructed,
    RepairReport, Scanned, SlidingWindow, Slot, Subset, TopK, TrainParams, TrainReport, VerifyDepth,
    VerifyReport,
};
#[cfg(feature = "bench-internals")]
#[doc(hidden)]
pub use math::bench_internals;
pub use math::kmeans::{Clustering, ClusteringIndex, ClusteringParams, IterationStats, kmeans, kmeans_with};
pub use math::seeding::Init;
pub use math::selector::{IdSelector, IdSet};
pub use metric::{LpOrder, Metric, NORM_MAX};
pub use params::{FilterMode, ParallelMode, SearchParams};
pub use profile::SearchStats;
pub use progress::{Observer, Tick};
pub use rerank::Rerank;
pub use retrieval::{
    AutopilotMode, Batch, Growth, Hash, Identifier, Identifiers, Quantize, Retrieved, Retriever,
    RetrieverBuilder, ScoreAh, Tree, UpperTree,
};
pub use rows::Rows;
pub use spec::{Coarse, DIM_MAX, IndexSpec, KeptRows, NLIST_MAX};
pub use store::{
    BackupReport, Builder, BulkLoad, CompactReport, CompareReport, Durability, ReadTxn, SalvageReport,
    SalvagedIndex, Store, StoreSpace, StoreStats, WriteTxn,
};
#[cfg(feature = "schedules")]
#[doc(hidden)]
pub use sync::scheduled;
pub use transform::{EigenPower, TransformKind};

/// The README's example, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
