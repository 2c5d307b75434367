//! The writer of `.npy`: appends to a new file, and says in the end how many rows it has.
//!
//! The file is written beside its place under the name `*.partial` and moved there by
//! [`NpyWriter::finish`]: what stands under the name asked for is always whole. The header is written
//! twice, at first to hold its place, and both times with the same length.

use super::{FileError, npy};
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// Numbers that an [`NpyWriter`] writes.
pub trait NpyElement: Copy + private::Sealed {
    /// NumPy's name of the type.
    #[doc(hidden)]
    const DESCR: &'static str;
    /// Writes the number, little-endian.
    #[doc(hidden)]
    fn write(self, out: &mut impl Write) -> io::Result<()>;
}

mod private {
    pub trait Sealed {}
}

macro_rules! npy_element {
    ($($type:ty: $descr:literal),*) => {$(
        impl private::Sealed for $type {}
        impl NpyElement for $type {
            const DESCR: &'static str = $descr;
            fn write(self, out: &mut impl Write) -> io::Result<()> {
                out.write_all(&self.to_le_bytes())
            }
        }
    )*};
}
npy_element!(f32: "<f4", i32: "<i4", i64: "<i8", u64: "<u8");

/// Writes a `.npy` file row by row. Dropping it without [`finish`](NpyWriter::finish) leaves nothing.
#[derive(Debug)]
pub struct NpyWriter<T: NpyElement> {
    out: BufWriter<File>,
    path: PathBuf,
    /// Where the bytes go until they are all there; `None` if `path` is no regular file.
    partial: Option<PathBuf>,
    dim: Option<usize>,
    numbers: u64,
    element: PhantomData<T>,
}

impl<T: NpyElement> NpyWriter<T> {
    /// Begins a one-dimensional array.
    ///
    /// # Errors
    /// [`FileError::Io`], [`FileError::NotFound`] if the folder does not exist. A file of that name is
    /// replaced by [`finish`](Self::finish), not before.
    pub fn flat(path: impl AsRef<Path>) -> Result<Self, FileError> {
        Self::create(path.as_ref(), None)
    }

    /// Begins a table of rows of `dim` numbers.
    ///
    /// # Errors
    /// As [`NpyWriter::flat`]; [`FileError::Shape`] if `dim` is 0.
    pub fn table(path: impl AsRef<Path>, dim: usize) -> Result<Self, FileError> {
        match dim {
            0 => Err(FileError::Shape { path: path.as_ref().into(), len: 0, dim }),
            _ => Self::create(path.as_ref(), Some(dim)),
        }
    }

    /// Appends whole rows.
    ///
    /// # Errors
    /// [`FileError::Shape`] if they are not whole; [`FileError::Io`].
    pub fn append(&mut self, numbers: &[T]) -> Result<(), FileError> {
        let dim = self.dim.unwrap_or(1);
        if !numbers.len().is_multiple_of(dim) {
            return Err(FileError::Shape { path: self.path.clone(), len: numbers.len(), dim });
        }
        numbers.iter().try_for_each(|number| number.write(&mut self.out)).map_err(|e| self.failed(e))?;
        self.numbers += numbers.len() as u64;
        Ok(())
    }

    /// Completes the file and puts it in its place; how many rows it has.
    pub fn finish(mut self) -> Result<u64, FileError> {
        let rows = self.numbers / self.dim.unwrap_or(1) as u64;
        self.complete(rows).map_err(|e| self.failed(e))?;
        Ok(rows)
    }

    fn create(path: &Path, dim: Option<usize>) -> Result<Self, FileError> {
        // A pipe or a device is written to in place; a link keeps pointing to what it points to.
        let in_place = fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let partial = (!in_place).then(|| {
            let mut name = path.clone().into_os_string();
            name.push(".partial");
            PathBuf::from(name)
        });
        let file = File::create(partial.as_ref().unwrap_or(&path)).map_err(|e| FileError::io(&path, 0, e))?;
        let out = BufWriter::with_capacity(256 << 10, file);
        let mut writer = NpyWriter { out, path, partial, dim, numbers: 0, element: PhantomData };
        writer.out.write_all(&npy::header(T::DESCR, 0, dim)).map_err(|e| writer.failed(e))?;
        Ok(writer)
    }

    fn complete(&mut self, rows: u64) -> io::Result<()> {
        self.out.rewind()?;
        self.out.write_all(&npy::header(T::DESCR, rows, self.dim))?;
        self.out.flush()?;
        if let Some(partial) = &self.partial {
            fs::rename(partial, &self.path)?;
            self.partial = None;
        }
        Ok(())
    }

    fn failed(&self, error: io::Error) -> FileError {
        let offset = u64::from(npy::HEADER_BYTES) + self.numbers * size_of::<T>() as u64;
        FileError::Io { path: self.path.clone(), offset, error }
    }
}

impl<T: NpyElement> Drop for NpyWriter<T> {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial {
            // Nobody is left to tell if this fails, and the name says what the file is.
            let _ = fs::remove_file(partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_a_file_that_was_not_finished() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        let mut writer = NpyWriter::table(&path, 2).unwrap();
        writer.append(&[1.0f32, 2.0]).unwrap();
        assert!(matches!(writer.append(&[1.0]), Err(FileError::Shape { len: 1, dim: 2, .. })));
        drop(writer);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_is_replaced_only_by_a_whole_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        fs::write(&path, "old").unwrap();
        let mut writer = NpyWriter::flat(&path).unwrap();
        writer.append(&[7u64]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(writer.finish().unwrap(), 1);
        assert_eq!(fs::read(&path).unwrap().len(), 128 + 8);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_and_an_empty_row_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = folder.path().join("none/a.npy");
        assert!(matches!(NpyWriter::<f32>::flat(&nowhere), Err(FileError::NotFound { .. })));
        assert!(matches!(NpyWriter::<f32>::table(&nowhere, 0), Err(FileError::Shape { .. })));
    }
}
