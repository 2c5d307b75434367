//! A backend that writes nothing until it is told to.
//!
//! redb writes to a file as soon as it opens it: a flag in the header, and a whole commit if the file was not
//! closed well. A file that turns out to be no vellum store, or one of a later version, must stay as it was. So a
//! store opens through a [`Withheld`] backend, which keeps what redb writes in memory until the catalog has
//! been read; then [`Withhold::release`] does all of it, in its order, and every later call goes
//! straight through.

use redb::{BackendError, StorageBackend};
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// The backend, as redb has it; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Withheld(Arc<Withhold>);

/// The same, as the store keeps it to let the writes go.
#[derive(Debug)]
pub(crate) struct Withhold {
    inner: Box<dyn StorageBackend>,
    released: AtomicBool,
    /// What was not done yet, oldest first.
    log: Mutex<Vec<Operation>>,
}

#[derive(Debug)]
enum Operation {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

impl Withheld {
    pub(crate) fn new(inner: Box<dyn StorageBackend>) -> (Self, Arc<Withhold>) {
        let withhold = Withhold { inner, released: AtomicBool::new(false), log: Mutex::default() };
        let withhold = Arc::new(withhold);
        (Withheld(withhold.clone()), withhold)
    }
}

impl Withhold {
    /// Does what was withheld, and lets everything through from now on. If it fails, nothing more is written:
    /// the medium is as after a crash at that point.
    pub(crate) fn release(&self) -> io::Result<()> {
        let mut log = self.log.lock();
        for operation in log.drain(..) {
            match operation {
                Operation::Write(offset, data) => self.inner.write(offset, &data)?,
                Operation::SetLen(len) => self.inner.set_len(len)?,
                Operation::Sync => self.inner.sync_data()?,
            }
        }
        self.released.store(true, Ordering::Release);
        Ok(())
    }

    /// Calls `through`, or else puts an operation on the log.
    fn or_log(
        &self,
        through: impl FnOnce() -> io::Result<()>,
        operation: impl FnOnce() -> Operation,
    ) -> io::Result<()> {
        if !self.released.load(Ordering::Acquire) {
            let mut log = self.log.lock();
            // It may have been released since.
            if !self.released.load(Ordering::Acquire) {
                log.push(operation());
                return Ok(());
            }
        }
        through()
    }

    fn len(&self, log: &[Operation]) -> io::Result<u64> {
        let set = log.iter().rev().find_map(|operation| match operation {
            Operation::SetLen(len) => Some(*len),
            _ => None,
        });
        set.map_or_else(|| self.inner.len(), Ok)
    }

    /// Reads what the medium would hold if the log were done.
    fn read_logged(&self, log: &[Operation], offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset + out.len() as u64;
        if end > self.len(log)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let there = self.inner.len()?.saturating_sub(offset).min(out.len() as u64) as usize;
        self.inner.read(offset, &mut out[..there])?;
        out[there..].fill(0);
        for operation in log {
            match operation {
                Operation::Write(at, data) => {
                    let (from, to) = (offset.max(*at), end.min(at + data.len() as u64));
                    if from < to {
                        let source = &data[(from - at) as usize..(to - at) as usize];
                        out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
                    }
                }
                // What was cut off reads as zeros if the medium grows again.
                Operation::SetLen(len) => {
                    let keep = len.saturating_sub(offset).min(out.len() as u64) as usize;
                    out[keep..].fill(0);
                }
                Operation::Sync => {}
            }
        }
        Ok(())
    }
}

impl StorageBackend for Withheld {
    fn len(&self) -> io::Result<u64> {
        let this = &self.0;
        if this.released.load(Ordering::Acquire) {
            return this.inner.len();
        }
        this.len(&this.log.lock())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let this = &self.0;
        if this.released.load(Ordering::Acquire) {
            return this.inner.read(offset, out);
        }
        match &this.log.lock()[..] {
            [] => this.inner.read(offset, out),
            log => this.read_logged(log, offset, out),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.or_log(|| self.0.inner.set_len(len), || Operation::SetLen(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.or_log(|| self.0.inner.sync_data(), || Operation::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.or_log(|| self.0.inner.write(offset, data), || Operation::Write(offset, data.to_vec()))
    }

    fn close(&self) -> io::Result<()> {
        self.0.inner.close()
    }

    // The locks keep a second store off a file: every call is passed on, those with a default of their own
    // as well.
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.inner.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::backends::InMemoryBackend;

    fn contents(backend: &impl StorageBackend) -> Vec<u8> {
        let mut bytes = vec![0; backend.len().unwrap() as usize];
        backend.read(0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_is_read_is_what_would_have_been_written() {
        let inner = InMemoryBackend::new();
        inner.set_len(8).unwrap();
        inner.write(0, b"abcdefgh").unwrap();
        let (backend, withhold) = Withheld::new(Box::new(inner));
        backend.write(2, b"XYZ").unwrap();
        backend.write(4, b"!").unwrap();
        backend.set_len(6).unwrap();
        backend.set_len(10).unwrap();
        backend.sync_data().unwrap();
        assert_eq!(contents(&backend), b"abXY!f\0\0\0\0");
        let mut part = [9; 3];
        backend.read(3, &mut part).unwrap();
        assert_eq!(&part, b"Y!f");
        assert!(backend.read(9, &mut part).is_err());
        let mut untouched = [0; 8];
        withhold.inner.read(0, &mut untouched).unwrap();
        assert_eq!(&untouched, b"abcdefgh");
        withhold.release().unwrap();
        assert_eq!(contents(&backend), b"abXY!f\0\0\0\0");
        backend.write(0, b"9").unwrap();
        assert_eq!(contents(&backend), b"9bXY!f\0\0\0\0");
    }
}
