//! What can be wrong with a file of vectors: always the path, and where in the file.

use super::Element;
use std::{fmt, io, path::PathBuf};

/// Why a file could not be read or written.
#[derive(Debug)]
#[non_exhaustive]
pub enum FileError {
    /// The file does not exist.
    NotFound {
        /// The file.
        path: PathBuf,
    },
    /// Neither the extension nor the first bytes name a format that is read here.
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// Bytes that the format does not allow.
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where, in bytes from the start.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// A proper file, of a kind that is not read here: Fortran order, big-endian, float64 and so on.
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Where, in bytes from the start.
        offset: u64,
        /// What it is, and how to convert it.
        what: String,
    },
    /// The file is shorter or longer than its header says.
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes that the header promises.
        expected: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// Numbers where vectors are needed, or the other way round.
    Element {
        /// The file.
        path: PathBuf,
        /// What it holds.
        element: Element,
        /// What is needed.
        needed: &'static str,
    },
    /// A number that does not fit where it is needed, such as a negative id.
    Value {
        /// The file.
        path: PathBuf,
        /// The row it stands in.
        row: u64,
        /// The number, and what is allowed.
        what: String,
    },
    /// A row that the file does not have.
    Row {
        /// The file.
        path: PathBuf,
        /// The row asked for.
        row: u64,
        /// The rows there are.
        rows: u64,
    },
    /// Components given to a writer that are no whole number of rows.
    Shape {
        /// The file.
        path: PathBuf,
        /// Components given.
        len: usize,
        /// Components per row.
        dim: usize,
    },
    /// The medium failed.
    Io {
        /// The file.
        path: PathBuf,
        /// Where, in bytes from the start.
        offset: u64,
        /// How.
        error: io::Error,
    },
    /// The progress callback asked to stop.
    Cancelled,
}

impl FileError {
    pub(super) fn io(path: impl Into<PathBuf>, offset: u64, error: io::Error) -> FileError {
        match error.kind() {
            io::ErrorKind::NotFound => FileError::NotFound { path: path.into() },
            _ => FileError::Io { path: path.into(), offset, error },
        }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use FileError::*;
        match self {
            NotFound { path } => write!(f, "{}: no such file or folder", path.display()),
            UnknownFormat { path } => {
                write!(f, "{}: neither .npy nor .fvecs, .bvecs, .ivecs", path.display())
            }
            Malformed { path, offset, what } => write!(f, "{}, byte {offset}: {what}", path.display()),
            Unsupported { path, what, .. } => write!(f, "{}: {what}", path.display()),
            Length { path, expected, found } if found < expected => {
                write!(f, "{}: cut off at {found} bytes of {expected}", path.display())
            }
            Length { path, expected, found } => {
                write!(f, "{}: {found} bytes, but its header ends it at {expected}", path.display())
            }
            Element { path, element, needed } => {
                write!(f, "{}: holds {element}, {needed} needed", path.display())
            }
            Value { path, row, what } => write!(f, "{}, row {row}: {what}", path.display()),
            Row { path, row, rows } => write!(f, "{}: row {row} of {rows}", path.display()),
            Shape { path, len, dim } => {
                write!(f, "{}: {len} components are no whole number of rows of {dim}", path.display())
            }
            Io { path, offset, error } => write!(f, "{}, byte {offset}: {error}", path.display()),
            Cancelled => write!(f, "cancelled"),
        }
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            FileError::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}
