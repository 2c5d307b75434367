//! The index: verbs over storage, codec and coarse quantizer.
//!
//! [`IndexReader`] answers from a frozen state, [`IndexWriter`] changes tables within a transaction. What
//! only reads is written once, over [`view::View`].

mod add;
mod add_codes;
mod auto;
mod bound;
mod calibrate;
mod codes;
mod digest;
mod exchange;
mod filter;
mod finder;
mod kept;
mod list_view;
mod maintain;
mod merge;
pub(crate) mod model;
mod note;
mod placed;
mod preassigned;
pub(crate) mod reader;
mod remove;
pub(crate) mod renumber;
pub(crate) mod repair;
mod rerank;
mod scanner;
mod search;
mod shards;
mod stats;
mod train;
mod tree;
mod twins;
pub(crate) mod verify;
pub(crate) mod view;
mod window;
pub(crate) mod writer;

pub use calibrate::{CalibrateParams, Calibration, CalibrationSource};
pub use codes::{Code, ListRef, Reconstructed, Slot};
pub use digest::ContentDigest;
pub use exchange::Fingerprint;
pub use maintain::{MaintainParams, MaintainReport};
pub use merge::{MergeProgress, Subset};
pub use placed::Placed;
pub use preassigned::Preassigned;
pub use reader::{IndexReader, Neighbor, TopK};
pub use repair::RepairReport;
pub use scanner::{DistanceComputer, ListScanner, PreparedQuery, Scanned};
pub use stats::{IndexStats, PartStats};
pub use train::{TrainParams, TrainReport};
pub use verify::{Problem, VerifyDepth, VerifyReport};
pub use window::SlidingWindow;
pub use writer::IndexWriter;
