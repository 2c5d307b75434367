//! Files of vectors and of numbers, read and written by streaming (cargo feature `files`).
//!
//! What is read, with the bytes drawn in the file of each format:
//!
//! | format | elements | file |
//! |---|---|---|
//! | NumPy `.npy`, versions 1 to 3, C order | f32, f16, u8, i8, i32; numbers also u32, i64, u64 | `npy` |
//! | `.fvecs`, `.bvecs`, `.ivecs` | f32, u8, i32 | `vecs` |
//!
//! A [`VectorReader`] yields batches of rows as `f32`, a [`NumberReader`] batches of integers (ids,
//! exact answers), an [`NpyWriter`] appends to a new file. Memory is bounded by the batch asked for: a
//! file may be larger than memory. Nothing here knows of indexes or stores.
//!
//! Headers are not believed: a layout exists only if the file's length is exactly what the header
//! promises, so nothing is ever allocated for rows that are not there.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use vellum::files::{NpyWriter, VectorReader};
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("base.npy");
//! let mut writer = NpyWriter::table(&path, 2)?;
//! writer.append(&[1.0f32, 2.0, 3.0, 4.0])?;
//! writer.finish()?;
//!
//! let mut reader = VectorReader::open(&path)?;
//! assert_eq!((reader.rows(), reader.dim()), (2, 2));
//! while let Some(batch) = reader.next_batch(4096)? {
//!     for row in batch.chunks_exact(reader.dim()) {
//!         println!("{row:?}");
//!     }
//! }
//! # Ok(())
//! # }
//! ```
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod error;
mod npy;
mod reader;
mod table;
mod vecs;
mod writer;

pub use error::FileError;
pub use reader::{NumberReader, VectorReader};
pub use writer::{NpyElement, NpyWriter};

use std::{fmt, path::Path};

/// The most components that a row may have. Far above any embedding; below what would let one row of a
/// hostile sparse file fill the memory.
pub const DIM_MAX: usize = 1 << 20;

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// NumPy's `.npy`.
    Npy,
    /// Rows of f32, each after its dimension.
    Fvecs,
    /// Rows of u8, each after its dimension.
    Bvecs,
    /// Rows of i32, each after its dimension.
    Ivecs,
}

impl Format {
    /// The format that the path's extension names.
    pub fn of_extension(path: &Path) -> Option<Format> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "npy" => Some(Format::Npy),
            "fvecs" => Some(Format::Fvecs),
            "bvecs" => Some(Format::Bvecs),
            "ivecs" => Some(Format::Ivecs),
            _ => None,
        }
    }
}

/// The type of the components in a file, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Element {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point.
    F16,
    /// Unsigned bytes.
    U8,
    /// Signed bytes.
    I8,
    /// 32-bit signed integers.
    I32,
    /// 32-bit unsigned integers.
    U32,
    /// 64-bit signed integers.
    I64,
    /// 64-bit unsigned integers.
    U64,
}

impl Element {
    /// Bytes of one component.
    pub fn width(self) -> usize {
        match self {
            Element::U8 | Element::I8 => 1,
            Element::F16 => 2,
            Element::F32 | Element::I32 | Element::U32 => 4,
            Element::I64 | Element::U64 => 8,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Element::F32 => "f32",
            Element::F16 => "f16",
            Element::U8 => "u8",
            Element::I8 => "i8",
            Element::I32 => "i32",
            Element::U32 => "u32",
            Element::I64 => "i64",
            Element::U64 => "u64",
        })
    }
}

/// Where the rows of a file lie: row `i` begins at `start + i * stride`, with `prefix` bytes before its
/// components. Built only by [`Layout::checked`], so the rows are known to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    element: Element,
    rows: u64,
    dim: usize,
    /// A one-dimensional array: `dim` is 1, and the rows are its numbers.
    flat: bool,
    start: u64,
    prefix: usize,
}

impl Layout {
    /// This layout, if it has components and a file of `file_bytes` holds exactly its rows.
    fn checked(self, file_bytes: u64) -> Result<Layout, Fault> {
        if self.dim == 0 || self.dim > DIM_MAX {
            return Err(Fault::malformed(
                0,
                format!("{} components per row; 1 to {DIM_MAX} are possible", self.dim),
            ));
        }
        let end = self.rows.checked_mul(self.stride() as u64).and_then(|bytes| bytes.checked_add(self.start));
        match end {
            None => Err(Fault::malformed(
                0,
                format!("{} rows of {} are more than a file can hold", self.rows, self.dim),
            )),
            Some(expected) if expected != file_bytes => Err(Fault::Length { expected, found: file_bytes }),
            Some(_) => Ok(self),
        }
    }

    /// Bytes from one row to the next. At most `prefix + 8 * DIM_MAX`: no overflow.
    fn stride(&self) -> usize {
        self.prefix + self.dim * self.element.width()
    }

    fn offset(&self, row: u64) -> u64 {
        self.start + row * self.stride() as u64
    }
}

/// What is wrong with a file, before its path is known.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Malformed { offset: u64, what: String },
    Unsupported { offset: u64, what: String },
    Length { expected: u64, found: u64 },
}

impl Fault {
    fn malformed(offset: u64, what: impl Into<String>) -> Fault {
        Fault::Malformed { offset, what: what.into() }
    }

    fn unsupported(offset: u64, what: impl Into<String>) -> Fault {
        Fault::Unsupported { offset, what: what.into() }
    }

    fn at(self, path: &Path) -> FileError {
        let path = path.to_path_buf();
        match self {
            Fault::Malformed { offset, what } => FileError::Malformed { path, offset, what },
            Fault::Unsupported { offset, what } => FileError::Unsupported { path, offset, what },
            Fault::Length { expected, found } => FileError::Length { path, expected, found },
        }
    }
}
