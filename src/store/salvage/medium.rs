//! The broken file: opened for reading alone, and never written.

use crate::store::withheld::Withheld;
use crate::{Error, Result};
use parking_lot::Mutex;
use redb::StorageBackend;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

/// A file that is read at any place. Clones are the same file.
#[derive(Clone, Debug)]
pub(crate) struct Medium {
    file: Arc<Mutex<File>>,
    pub(crate) len: u64,
}

impl Medium {
    /// Opens a file. It is locked against writers where the file system has locks.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::NotFound { path: path.into() },
            _ => Error::Io(e),
        })?;
        if file.metadata()?.is_dir() {
            return Err(Error::Foreign { what: "it is a directory".into() });
        }
        if let Err(TryLockError::WouldBlock) = file.try_lock_shared() {
            return Err(Error::Locked);
        }
        let len = file.metadata()?.len();
        Ok(Medium { file: Arc::new(Mutex::new(file)), len })
    }

    /// As much as there is of `out` from `offset` on; returns how much.
    pub(crate) fn read_some(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let there = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        let mut file = self.file.lock();
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut out[..there])?;
        Ok(there)
    }

    /// What redb may open: it believes that it writes.
    pub(crate) fn backend(&self) -> Withheld {
        // What is withheld is never released.
        Withheld::new(Box::new(self.clone())).0
    }
}

impl StorageBackend for Medium {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self.read_some(offset, out)? == out.len() {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}
