//! The bytes of the rows of a file, whatever its format: opening, checking, reading by batches.
//!
//! Readers of vectors and of numbers stand on it. A batch is read in pieces of [`PIECE_BYTES`], so that
//! the bytes of a batch are never in memory beside its converted numbers.

use super::reader::Unfit;
use super::{Element, Fault, FileError, Format, Layout, npy, vecs};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes read at a time. Larger pieces are no faster, and this one stays in the second-level cache.
const PIECE_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Table<R> {
    source: BufReader<R>,
    path: PathBuf,
    pub(super) layout: Layout,
    /// The row that the next batch begins with.
    pub(super) next: u64,
    /// Where the source stands; unknown after a failure.
    position: Option<u64>,
    piece: Vec<u8>,
}

impl<R: Read + Seek> Table<R> {
    /// Reads the header and checks it against the length of the source.
    pub(super) fn open(source: R, format: Format, path: &Path) -> Result<Self, FileError> {
        let mut source = BufReader::with_capacity(64 << 10, source);
        let io = |error| FileError::io(path, 0, error);
        let file_bytes = source.seek(SeekFrom::End(0)).map_err(io)?;
        source.rewind().map_err(io)?;
        let layout = match format {
            Format::Npy => npy_layout(&mut source, file_bytes),
            Format::Fvecs => vecs_layout(Element::F32, &mut source, file_bytes),
            Format::Bvecs => vecs_layout(Element::U8, &mut source, file_bytes),
            Format::Ivecs => vecs_layout(Element::I32, &mut source, file_bytes),
        };
        let layout = layout.map_err(io)?.map_err(|fault| fault.at(path))?;
        let path = path.to_path_buf();
        Ok(Table { source, path, layout, next: 0, position: None, piece: Vec::new() })
    }

    /// Rows that a batch of up to `rows_max` has.
    ///
    /// # Panics
    /// If `rows_max` is 0: a loop over such batches would never end.
    pub(super) fn rows_of_batch(&self, rows_max: usize) -> usize {
        assert!(rows_max > 0, "a batch needs room for a row");
        (self.layout.rows - self.next).min(rows_max as u64) as usize
    }

    /// Gives `sink` the components of the next `rows` rows, piece by piece. Stays where it was if
    /// anything fails.
    pub(super) fn read(&mut self, rows: usize, mut sink: impl Sink) -> Result<(), FileError> {
        let end = self.next + rows as u64;
        let per_piece = (PIECE_BYTES / self.layout.stride()).max(1) as u64;
        let mut row = self.next;
        while row < end {
            let rows = per_piece.min(end - row);
            self.read_piece(row, rows as usize)?;
            self.give(row, &mut sink)?;
            row += rows;
        }
        self.next = end;
        Ok(())
    }

    /// Gives `sink` the components of one row, wherever it is; leaves `next` alone.
    pub(super) fn read_one(&mut self, row: u64, mut sink: impl Sink) -> Result<(), FileError> {
        self.read_piece(row, 1)?;
        self.give(row, &mut sink)
    }

    pub(super) fn seek(&mut self, row: u64) -> Result<(), FileError> {
        if row > self.layout.rows {
            return Err(FileError::Row { path: self.path.clone(), row, rows: self.layout.rows });
        }
        self.next = row;
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn read_piece(&mut self, row: u64, rows: usize) -> Result<(), FileError> {
        let offset = self.layout.offset(row);
        self.piece.resize(rows * self.layout.stride(), 0);
        let moved = match self.position.take() {
            // Within the buffer this costs nothing, and a scan of sorted rows mostly is.
            Some(position) => self.source.seek_relative(offset.wrapping_sub(position) as i64),
            None => self.source.seek(SeekFrom::Start(offset)).map(drop),
        };
        moved
            .and_then(|()| self.source.read_exact(&mut self.piece))
            .map_err(|error| FileError::io(&self.path, offset, error))?;
        self.position = Some(offset + self.piece.len() as u64);
        Ok(())
    }

    /// Hands the piece, which begins with row `row`, to `sink`, without the rows' prefixes.
    fn give(&self, row: u64, sink: &mut impl Sink) -> Result<(), FileError> {
        let unfit = |row: u64, unfit: Unfit| FileError::Value {
            path: self.path.clone(),
            row: row + (unfit.component / self.layout.dim) as u64,
            what: unfit.what,
        };
        if self.layout.prefix == 0 {
            return sink(self.layout.element, &self.piece).map_err(|e| unfit(row, e));
        }
        for (components, row) in vecs::components(&self.layout, row, &self.piece).zip(row..) {
            let components = components.map_err(|fault| fault.at(&self.path))?;
            sink(self.layout.element, components).map_err(|e| unfit(row, e))?;
        }
        Ok(())
    }
}

/// What takes the components of whole rows, as bytes.
pub(super) trait Sink: FnMut(Element, &[u8]) -> Result<(), Unfit> {}

impl<F: FnMut(Element, &[u8]) -> Result<(), Unfit>> Sink for F {}

/// The format of a file: what its extension says, or `.npy` if it begins like one.
pub(super) fn format_of(path: &Path, source: &mut (impl Read + Seek)) -> Result<Format, FileError> {
    if let Some(format) = Format::of_extension(path) {
        return Ok(format);
    }
    let io = |error| FileError::io(path, 0, error);
    let start = first_bytes::<{ npy::MAGIC.len() }>(source).map_err(io)?;
    source.rewind().map_err(io)?;
    if start == npy::MAGIC { Ok(Format::Npy) } else { Err(FileError::UnknownFormat { path: path.into() }) }
}

type Checked = std::io::Result<Result<Layout, Fault>>;

fn npy_layout(source: &mut (impl Read + Seek), file_bytes: u64) -> Checked {
    let preamble = first_bytes::<{ npy::PREAMBLE }>(source)?;
    let span = match npy::header_span(&preamble) {
        Ok(span) => span,
        Err(fault) => return Ok(Err(fault)),
    };
    if span.1 > file_bytes {
        return Ok(Err(Fault::Length { expected: span.1, found: file_bytes }));
    }
    source.seek(SeekFrom::Start(span.0))?;
    // At most HEADER_MAX bytes: header_span() saw to it.
    let mut header = vec![0; (span.1 - span.0) as usize];
    source.read_exact(&mut header)?;
    Ok(npy::layout(&header, span, file_bytes))
}

fn vecs_layout(element: Element, source: &mut impl Read, file_bytes: u64) -> Checked {
    match <[u8; vecs::PREFIX]>::try_from(first_bytes::<{ vecs::PREFIX }>(source)?) {
        Ok(prefix) => Ok(vecs::layout(element, prefix, file_bytes)),
        Err(_) => Ok(Err(Fault::malformed(0, format!("{file_bytes} bytes hold no row")))),
    }
}

/// The first `N` bytes, or all that there are.
fn first_bytes<const N: usize>(source: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(N);
    source.take(N as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
