//! Readers of vectors and of numbers: they give the bytes of a [`Table`] a type.

use super::table::{Table, format_of};
use super::{Element, FileError, Format};
use crate::Observer;
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

/// The largest magnitude up to which f32 holds every integer.
const EXACT_MAX: u32 = 1 << 24;

/// Rows passed between two reports of progress while sampling.
const TICK_ROWS: u64 = 1 << 14;

/// Reads vectors from a file in batches of `f32`.
///
/// f32, f16, u8, i8 and i32 are converted; an i32 that f32 cannot hold exactly is refused when it is
/// read. NaN and infinities pass: an index refuses them and names their row.
#[derive(Debug)]
pub struct VectorReader<R = File> {
    table: Table<R>,
    halves: Vec<f16>,
}

impl VectorReader {
    /// Opens a file, its format told by its extension, or by its first bytes if it is `.npy`.
    ///
    /// # Errors
    /// Any [`FileError`]: the header is read, and checked against the file's length.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let (file, format) = open_file(path.as_ref())?;
        VectorReader::from_source(file, format, path)
    }
}

impl<R: Read + Seek> VectorReader<R> {
    /// Reads from anything that can seek; `name` stands in the errors.
    ///
    /// # Errors
    /// As [`VectorReader::open`].
    pub fn from_source(source: R, format: Format, name: impl AsRef<Path>) -> Result<Self, FileError> {
        let table = Table::open(source, format, name.as_ref())?;
        let element = table.layout.element;
        let needed = match element {
            Element::U32 | Element::I64 | Element::U64 => Some("vectors of f32, f16, u8, i8 or i32"),
            _ if table.layout.flat => Some("a table of vectors (two dimensions)"),
            _ => None,
        };
        match needed {
            Some(needed) => Err(FileError::Element { path: name.as_ref().into(), element, needed }),
            None => Ok(VectorReader { table, halves: Vec::new() }),
        }
    }

    /// Rows in the file.
    pub fn rows(&self) -> u64 {
        self.table.layout.rows
    }

    /// Components per row; never 0.
    pub fn dim(&self) -> usize {
        self.table.layout.dim
    }

    /// The type of the components in the file.
    pub fn element(&self) -> Element {
        self.table.layout.element
    }

    /// The file's path, or the name that the source was given.
    pub fn path(&self) -> &Path {
        self.table.path()
    }

    /// The row that the next batch begins with.
    pub fn position(&self) -> u64 {
        self.table.next
    }

    /// Up to `rows_max` rows, row-major; `None` at the end. If it fails, the position does not move.
    ///
    /// # Panics
    /// If `rows_max` is 0: a loop over such batches would never end.
    pub fn next_batch(&mut self, rows_max: usize) -> Result<Option<Vec<f32>>, FileError> {
        let rows = self.table.rows_of_batch(rows_max);
        if rows == 0 {
            return Ok(None);
        }
        let mut batch = Vec::with_capacity(rows * self.dim());
        let halves = &mut self.halves;
        self.table.read(rows, |element, bytes| convert(element, bytes, halves, &mut batch))?;
        Ok(Some(batch))
    }

    /// Goes to row `row`; `rows()` is the end.
    ///
    /// # Errors
    /// [`FileError::Row`] beyond the end.
    pub fn seek(&mut self, row: u64) -> Result<(), FileError> {
        self.table.seek(row)
    }

    /// Goes back to the first row.
    pub fn rewind(&mut self) {
        self.table.next = 0;
    }

    /// A random sample of `rows_max` rows without repetition, in the order of the file; all rows if
    /// there are no more. The same `seed` draws the same rows. The position does not move.
    ///
    /// The file is read once, from its beginning to its end, and only the sample is kept in memory. The
    /// observer sees the stage `"sample"`.
    ///
    /// # Errors
    /// [`FileError::Cancelled`] if the observer asks to stop, and as [`next_batch`](Self::next_batch).
    pub fn sample(
        &mut self,
        rows_max: usize,
        seed: u64,
        observer: &mut Observer<'_>,
    ) -> Result<Vec<f32>, FileError> {
        let total = self.rows();
        let wanted = total.min(rows_max as u64) as usize;
        let mut sample = Vec::with_capacity(wanted * self.dim());
        let mut random = SplitMix(seed);
        let mut taken = 0;
        for row in 0..total {
            let missing = (wanted - taken) as u64;
            if missing == 0 {
                break;
            }
            if row.is_multiple_of(TICK_ROWS) {
                tick(observer, row, total)?;
            }
            // Each row is taken with the probability that leaves every subset equally likely.
            if random.below(total - row) < missing {
                let halves = &mut self.halves;
                self.table.read_one(row, |element, bytes| convert(element, bytes, halves, &mut sample))?;
                taken += 1;
            }
        }
        tick(observer, total, total)?;
        Ok(sample)
    }
}

/// Reads whole numbers from a file in batches: ids, one a row, or tables of exact answers.
#[derive(Debug)]
pub struct NumberReader<R = File> {
    table: Table<R>,
}

impl NumberReader {
    /// Opens a file, its format told by its extension, or by its first bytes if it is `.npy`.
    ///
    /// # Errors
    /// Any [`FileError`]: the header is read, and checked against the file's length.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let (file, format) = open_file(path.as_ref())?;
        NumberReader::from_source(file, format, path)
    }
}

impl<R: Read + Seek> NumberReader<R> {
    /// Reads from anything that can seek; `name` stands in the errors.
    ///
    /// # Errors
    /// As [`NumberReader::open`].
    pub fn from_source(source: R, format: Format, name: impl AsRef<Path>) -> Result<Self, FileError> {
        let table = Table::open(source, format, name.as_ref())?;
        match table.layout.element {
            Element::I32 | Element::U32 | Element::I64 | Element::U64 => Ok(NumberReader { table }),
            element => {
                let needed = "whole numbers of 32 or 64 bits";
                Err(FileError::Element { path: name.as_ref().into(), element, needed })
            }
        }
    }

    /// Rows in the file.
    pub fn rows(&self) -> u64 {
        self.table.layout.rows
    }

    /// Numbers per row: 1 for a one-dimensional array.
    pub fn columns(&self) -> usize {
        self.table.layout.dim
    }

    /// The type of the numbers in the file.
    pub fn element(&self) -> Element {
        self.table.layout.element
    }

    /// The file's path, or the name that the source was given.
    pub fn path(&self) -> &Path {
        self.table.path()
    }

    /// The row that the next batch begins with.
    pub fn position(&self) -> u64 {
        self.table.next
    }

    /// Up to `rows_max` rows, row-major, as `u64`, `i64` or whatever integer is wanted; `None` at the
    /// end. If it fails, the position does not move.
    ///
    /// # Errors
    /// [`FileError::Value`] for a number that does not fit, such as a negative id.
    ///
    /// # Panics
    /// If `rows_max` is 0: a loop over such batches would never end.
    pub fn next_batch<T: TryFrom<i128>>(&mut self, rows_max: usize) -> Result<Option<Vec<T>>, FileError> {
        let rows = self.table.rows_of_batch(rows_max);
        if rows == 0 {
            return Ok(None);
        }
        let mut batch = Vec::with_capacity(rows * self.columns());
        self.table.read(rows, |element, bytes| {
            for (at, value) in integers(element, bytes).enumerate() {
                let fits = T::try_from(value);
                batch.push(fits.map_err(|_| Unfit {
                    component: at,
                    what: format!("{value} is no number that can stand here"),
                })?);
            }
            Ok(())
        })?;
        Ok(Some(batch))
    }

    /// Goes to row `row`; `rows()` is the end.
    ///
    /// # Errors
    /// [`FileError::Row`] beyond the end.
    pub fn seek(&mut self, row: u64) -> Result<(), FileError> {
        self.table.seek(row)
    }

    /// Goes back to the first row.
    pub fn rewind(&mut self) {
        self.table.next = 0;
    }
}

/// A number in a piece that cannot be converted.
pub(super) struct Unfit {
    /// Its place among the components of the piece.
    pub(super) component: usize,
    pub(super) what: String,
}

fn open_file(path: &Path) -> Result<(File, Format), FileError> {
    let mut file = File::open(path).map_err(|error| FileError::io(path, 0, error))?;
    let format = format_of(path, &mut file)?;
    Ok((file, format))
}

fn tick(observer: &mut Observer<'_>, done: u64, total: u64) -> Result<(), FileError> {
    observer.tick("sample", done, total).map_err(|_| FileError::Cancelled)
}

/// Appends the components in `bytes` to `batch`.
fn convert(element: Element, bytes: &[u8], halves: &mut Vec<f16>, batch: &mut Vec<f32>) -> Result<(), Unfit> {
    match element {
        Element::F32 => batch.extend(bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four))),
        Element::F16 => {
            halves.clear();
            halves.extend(bytes.as_chunks().0.iter().map(|&two| f16::from_le_bytes(two)));
            let start = batch.len();
            batch.resize(start + halves.len(), 0.0);
            if let Some(end) = batch.get_mut(start..) {
                halves.convert_to_f32_slice(end);
            }
        }
        Element::U8 => batch.extend(bytes.iter().map(|&byte| f32::from(byte))),
        Element::I8 => batch.extend(bytes.iter().map(|&byte| f32::from(byte as i8))),
        Element::I32 => {
            for (component, &four) in bytes.as_chunks().0.iter().enumerate() {
                let value = i32::from_le_bytes(four);
                if value.unsigned_abs() > EXACT_MAX {
                    return Err(Unfit { component, what: format!("{value}: f32 holds no such integer") });
                }
                batch.push(value as f32);
            }
        }
        Element::U32 | Element::I64 | Element::U64 => unreachable!("refused when the file was opened"),
    }
    Ok(())
}

/// The whole numbers in `bytes`; none if `element` is none.
fn integers(element: Element, bytes: &[u8]) -> impl Iterator<Item = i128> {
    let width = element.width();
    bytes.chunks_exact(width).map(move |bytes| match (element, bytes) {
        (Element::I32, &[a, b, c, d]) => i128::from(i32::from_le_bytes([a, b, c, d])),
        (Element::U32, &[a, b, c, d]) => i128::from(u32::from_le_bytes([a, b, c, d])),
        (Element::I64, &[a, b, c, d, e, f, g, h]) => i128::from(i64::from_le_bytes([a, b, c, d, e, f, g, h])),
        (Element::U64, &[a, b, c, d, e, f, g, h]) => i128::from(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
        _ => unreachable!("refused when the file was opened"),
    })
}

/// Steele, Lea and Flood's SplitMix64: a seed to sample by needs no more.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, by the high half of a product: its bias is bound / 2^64.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
