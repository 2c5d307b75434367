//! Everything that can go wrong, with the values that made it go wrong.
//!
//! Three kinds: the caller's mistake (the message says what was given and what was expected; nothing
//! was written), bad bytes ([`Error::Corrupt`]; never a panic, never a wrong answer), and the medium's
//! refusals (locked, full, failed, cancelled). Our own bugs are `assert!`s, not errors.

use std::{fmt, io, path::PathBuf};

/// `Result` with vellum's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. A failed call changed nothing that a later `commit` could make visible, unless
/// the variant says otherwise.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Vectors of the wrong dimension.
    Dimension {
        /// The index's dimension.
        expected: usize,
        /// The dimension given.
        got: usize,
    },
    /// A slice that is no whole number of rows.
    Shape {
        /// Components given.
        len: usize,
        /// Components per row.
        dim: usize,
    },
    /// Two inputs that must be equally long are not.
    Length {
        /// What has the wrong length.
        what: &'static str,
        /// The length needed.
        expected: usize,
        /// The length given.
        got: usize,
    },
    /// NaN or infinity in a vector.
    NotFinite {
        /// Row in the batch.
        row: usize,
        /// Component in the row.
        component: usize,
        /// The value found.
        value: f32,
    },
    /// A zero vector where the metric is cosine.
    ZeroVector {
        /// Row in the batch.
        row: usize,
    },
    /// A vector longer than [`NORM_MAX`](crate::NORM_MAX), where its distances would overflow: they would be
    /// infinite or NaN, and a search could rank it nowhere. Cosine has no such vectors.
    TooLong {
        /// Row in the batch.
        row: usize,
        /// Its length.
        norm: f64,
    },
    /// A component that the stored element type cannot hold, such as 1e6 in an f16.
    OutOfRange {
        /// Row in the batch.
        row: usize,
        /// Component in the row.
        component: usize,
        /// The value given.
        value: f32,
        /// The element type.
        element: &'static str,
    },
    /// A component beyond those that the metric takes (see [`Metric`](crate::Metric)): distances would overflow, or mean
    /// nothing.
    OutOfDomain {
        /// Row in the batch.
        row: usize,
        /// Component in the row.
        component: usize,
        /// The value given.
        value: f32,
        /// The least that is allowed.
        least: f32,
        /// The most that is allowed.
        most: f32,
    },
    /// An id that is already there, or twice in one batch.
    DuplicateId {
        /// The id.
        id: u64,
    },
    /// A key that is already there, or twice in one batch.
    DuplicateKey {
        /// The key's bytes.
        key: Vec<u8>,
    },
    /// An id that is not there.
    UnknownId {
        /// The id.
        id: u64,
    },
    /// A key that is not there.
    UnknownKey {
        /// The key's bytes.
        key: Vec<u8>,
    },
    /// An id or a key that cannot be stored.
    InvalidId {
        /// What is wrong with it.
        what: String,
    },
    /// A verb by key on an index of numbers, or the other way round.
    IdKind {
        /// What the index holds.
        what: &'static str,
    },
    /// All 2^32 - 1 row numbers of an index, or all its ids, are in use.
    IndexFull {
        /// What ran out.
        what: &'static str,
    },
    /// A parameter outside its range.
    Parameter {
        /// Its name.
        name: &'static str,
        /// The value given, and what is allowed.
        what: String,
    },
    /// A specification that cannot be read, or names something that does not fit together.
    Spec {
        /// The text or part at fault.
        text: String,
        /// What is wrong with it.
        what: String,
    },
    /// A verb that needs a trained index.
    Untrained {
        /// The index.
        index: String,
    },
    /// Codes that no vector can be made of, and no rows kept beside them.
    CannotDecode {
        /// The encoding.
        encoding: String,
    },
    /// A [`Quantizer`](crate::Quantizer) of the caller's that an index needs and that was not given, that is another than the one it was trained
    /// with, or that answers what cannot be.
    Quantizer {
        /// Its name.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// Two indexes whose codes do not mean the same.
    Incompatible {
        /// What differs.
        what: String,
    },
    /// Fewer training rows than lists.
    TooFewRows {
        /// Rows given.
        rows: usize,
        /// Rows needed.
        needed: usize,
    },
    /// No index of that name.
    UnknownIndex {
        /// The name.
        name: String,
    },
    /// A retriever that was given nothing to search yet: [`Retriever::index`](crate::Retriever::index) comes first.
    NotIndexed {
        /// Its name.
        name: String,
    },
    /// An index of that name exists already.
    IndexExists {
        /// The name.
        name: String,
    },
    /// A name that is empty, too long, or holds a slash.
    IndexName {
        /// The name.
        name: String,
    },
    /// A bulk load of this index was begun and not finished: resume it or discard it.
    Unfinished {
        /// The index.
        index: String,
        /// Rows loaded so far.
        rows: u64,
    },
    /// A writer was dropped without `finish` and its transaction was committed all the same: the
    /// index may be half changed. `repair` mends it.
    WriterLeftOpen {
        /// The index.
        index: String,
    },
    /// A writer that failed half-way refuses to go on: abort the transaction.
    Poisoned {
        /// The index.
        index: String,
    },
    /// Bytes that are not what was written.
    Corrupt {
        /// The table.
        table: String,
        /// The key within it.
        key: u64,
        /// What is wrong.
        what: String,
    },
    /// A file that exists where a new one was to be made.
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file that does not exist.
    NotFound {
        /// The file.
        path: PathBuf,
    },
    /// A file that is no vellum store.
    Foreign {
        /// What was found instead.
        what: String,
    },
    /// Written by a later version that says this one cannot read it.
    NewerVersion {
        /// The oldest version that can read it.
        needed: u32,
        /// The version this code reads.
        supported: u32,
    },
    /// Another process, or another handle in this one, has the store open.
    Locked,
    /// A reader or a writer is active, and the verb needs the store, or the index, alone.
    InUse {
        /// The verb, or what is in use.
        what: &'static str,
    },
    /// The store was opened read-only, or on a backend that cannot do this.
    Unsupported {
        /// What cannot be done.
        what: &'static str,
    },
    /// A search for a recall, in an index that neither its training calibrated nor
    /// [`Store::calibrate`](crate::Store::calibrate) since.
    NotCalibrated {
        /// What the index is.
        index: String,
    },
    /// The progress callback asked to stop. What was not committed is undone.
    Cancelled,
    /// The medium failed.
    Io(io::Error),
    /// An earlier I/O error latched the handle: call [`Store::reopen`](crate::Store::reopen).
    NeedsReopen,
    /// An error of redb without a closer name here.
    Redb(Box<redb::Error>),
}

impl Error {
    /// The same error with its row, if it names one, counted from `first`: for who reads a large input batch by
    /// batch and wants the row's number in the whole.
    pub fn counted_from(mut self, first: usize) -> Self {
        use Error::*;
        if let NotFinite { row, .. }
        | ZeroVector { row }
        | TooLong { row, .. }
        | OutOfRange { row, .. }
        | OutOfDomain { row, .. } = &mut self
        {
            *row = row.saturating_add(first);
        }
        self
    }

    pub(crate) fn corrupt(table: &str, key: u64, what: impl Into<String>) -> Self {
        Error::Corrupt { table: table.into(), key, what: what.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Error::*;
        match self {
            Dimension { expected, got } => write!(f, "dimension {got}, expected {expected}"),
            Shape { len, dim } => write!(f, "{len} components are no whole number of rows of {dim}"),
            Length { what, expected, got } => write!(f, "{got} {what}, expected {expected}"),
            NotFinite { row, component, value } => {
                write!(f, "row {row}, component {component} is {value}: vectors must be finite")
            }
            ZeroVector { row } => write!(f, "row {row} is a zero vector: cosine needs a direction"),
            TooLong { row, norm } => {
                write!(f, "row {row} has length {norm:e}: beyond {:e} distances overflow", crate::NORM_MAX)
            }
            OutOfRange { row, component, value, element } => {
                write!(f, "row {row}, component {component} is {value}: {element} cannot hold it")
            }
            OutOfDomain { row, component, value, least, most } => {
                write!(
                    f,
                    "row {row}, component {component} is {value:e}: the metric takes {least:e} to {most:e}"
                )
            }
            DuplicateId { id } => write!(f, "id {id} is already there"),
            DuplicateKey { key } => write!(f, "key {} is already there", Key(key)),
            UnknownId { id } => write!(f, "id {id} is not there"),
            UnknownKey { key } => write!(f, "key {} is not there", Key(key)),
            InvalidId { what } => write!(f, "invalid id: {what}"),
            IdKind { what } => write!(f, "the index holds {what}"),
            IndexFull { what } => write!(f, "the index is full: no {what} left"),
            Parameter { name, what } => write!(f, "{name}: {what}"),
            Spec { text, what } => write!(f, "`{text}`: {what}"),
            NotCalibrated { index } => {
                write!(f, "index `{index}` is not calibrated: which nprobe has which recall is not known")
            }
            Untrained { index } => write!(f, "index `{index}` is not trained"),
            CannotDecode { encoding } => write!(f, "{encoding} codes cannot be turned back into vectors"),
            Quantizer { name, what } => write!(f, "quantizer `{name}`: {what}"),
            Incompatible { what } => write!(f, "the indexes do not go together: {what}"),
            TooFewRows { rows, needed } => write!(f, "{rows} training rows, {needed} needed"),
            UnknownIndex { name } => write!(f, "no index `{name}` in this store"),
            NotIndexed { name } => write!(f, "retriever `{name}` has nothing to search: index() comes first"),
            IndexExists { name } => write!(f, "index `{name}` exists already"),
            IndexName { name } => {
                write!(f, "index name `{name}`: 1 to 128 bytes, no slash, no control characters")
            }
            Unfinished { index, rows } => {
                write!(f, "a bulk load of index `{index}` stopped after {rows} rows: resume it or discard it")
            }
            WriterLeftOpen { index } => {
                write!(f, "a writer of index `{index}` was committed without finish(): repair() the index")
            }
            Poisoned { index } => {
                write!(f, "a change of index `{index}` failed half-way: abort the transaction")
            }
            Corrupt { table, key, what } => write!(f, "corrupt: table {table}, key {key}: {what}"),
            Exists { path } => write!(f, "{} exists already", path.display()),
            NotFound { path } => write!(f, "{} does not exist", path.display()),
            Foreign { what } => write!(f, "not a vellum store: {what}"),
            NewerVersion { needed, supported } => {
                write!(f, "written for format {needed} or later; this version reads up to {supported}")
            }
            Locked => write!(f, "the store is open elsewhere"),
            InUse { what } => write!(f, "{what}: in use by a reader or a writer"),
            Unsupported { what } => write!(f, "not supported here: {what}"),
            Cancelled => write!(f, "cancelled"),
            Io(e) => write!(f, "input/output: {e}"),
            NeedsReopen => write!(f, "an earlier input/output error latched the store: reopen it"),
            Redb(e) => write!(f, "{e}"),
        }
    }
}

/// A key's bytes, as text where they are text.
struct Key<'a>(&'a [u8]);

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(self.0) {
            Ok(text) => write!(f, "{text:?}"),
            Err(_) => self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io(e) => Some(e),
            Error::Redb(e) => Some(e),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Self {
        Error::Io(e)
    }
}

impl From<redb::Error> for Error {
    fn from(e: redb::Error) -> Self {
        match e {
            redb::Error::Io(e) => Error::Io(e),
            redb::Error::PreviousIo => Error::NeedsReopen,
            redb::Error::DatabaseAlreadyOpen => Error::Locked,
            redb::Error::TableAlreadyOpen(..) => Error::InUse { what: "the index" },
            redb::Error::Corrupted(what) => Error::corrupt("(redb)", 0, what),
            other => Error::Redb(Box::new(other)),
        }
    }
}

/// redb has one error type per verb; all of them widen to `redb::Error`.
macro_rules! from_redb {
    ($($kind:ident),*) => {$(
        impl From<redb::$kind> for Error {
            fn from(e: redb::$kind) -> Self {
                Error::from(redb::Error::from(e))
            }
        }
    )*};
}
from_redb!(
    StorageError,
    TableError,
    CommitError,
    TransactionError,
    DatabaseError,
    CompactionError,
    SetDurabilityError
);
