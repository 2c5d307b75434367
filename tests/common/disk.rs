//! A disk in memory: its bytes outlive the stores opened on it, one store at a time holds it, and it
//! fails on request.
//!
//! A store is opened with [`Disk::handle`] as its backend, as often as wanted; all handles write to the
//! same bytes. Like a file it is locked by the handle that has it open, so that a second store on the same
//! bytes is refused and not silently torn. [`Disk::fail`] arms a countdown over the operations that may
//! fail; the one that reaches zero gets an error of the [`Kind`] asked for. [`Disk::record`] begins a log of
//! everything that is done to the bytes, of which the campaign of crashes makes the disk after a crash.

use redb::{BackendError, StorageBackend};
use std::collections::BTreeSet;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    locked: bool,
    fault: Option<Fault>,
    fired: bool,
    operations: u64,
    /// The 4 KiB pages that were read since [`Disk::trace`].
    traced: Option<BTreeSet<u64>>,
    /// What was done since [`Disk::record`].
    recorded: Option<Vec<Done>>,
}

/// Something that was done to a disk and succeeded, or as far as it went.
#[derive(Clone, Debug)]
pub(crate) enum Done {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

/// What is to fail, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// Operations that still succeed.
    pub(crate) after: u64,
    /// Reads count and fail too, or only what writes.
    pub(crate) reads: bool,
    /// Every later operation fails as well, until [`Disk::heal`].
    pub(crate) for_ever: bool,
    pub(crate) kind: Kind,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An input/output error: nothing was written.
    Eio,
    /// No space is left: nothing was written.
    Full,
    /// A write stops half-way.
    Short,
    /// A write is not done and said to be: no fault that a store could notice at once, for tests of tests.
    Lost,
}

impl Kind {
    fn error(self) -> io::Error {
        match self {
            Kind::Eio => io::Error::other("the disk failed, as planned"),
            Kind::Full => io::Error::new(io::ErrorKind::StorageFull, "the disk is full, as planned"),
            Kind::Short | Kind::Lost => {
                io::Error::new(io::ErrorKind::WriteZero, "the disk wrote half, as planned")
            }
        }
    }
}

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A backend on these bytes.
    pub(crate) fn handle(&self) -> Handle {
        Handle { disk: self.clone(), holds: Mutex::new(false) }
    }

    /// Arms a fault.
    pub(crate) fn fail(&self, fault: Fault) {
        self.state().fault = Some(fault);
    }

    /// Disarms the fault; true if it had struck since the last call.
    pub(crate) fn heal(&self) -> bool {
        let mut state = self.state();
        state.fault = None;
        std::mem::take(&mut state.fired)
    }

    /// Operations that the armed fault still lets pass.
    pub(crate) fn left(&self) -> Option<u64> {
        self.state().fault.map(|fault| fault.after)
    }

    /// True if a fault struck since the last [`heal`](Self::heal).
    pub(crate) fn fired(&self) -> bool {
        self.state().fired
    }

    /// The bytes as they are now.
    pub(crate) fn image(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    /// Puts other bytes in place; only while no store is open.
    pub(crate) fn restore(&self, image: Vec<u8>) {
        self.state().bytes = image;
    }

    /// Begins to note which 4 KiB pages are read; returns those noted so far.
    pub(crate) fn trace(&self) -> BTreeSet<u64> {
        self.state().traced.replace(BTreeSet::new()).unwrap_or_default()
    }

    /// Begins to record, from the bytes as they are.
    pub(crate) fn record(&self) {
        self.state().recorded = Some(Vec::new());
    }

    /// How much was recorded so far; `None` where nothing is.
    pub(crate) fn recorded(&self) -> Option<usize> {
        self.state().recorded.as_ref().map(Vec::len)
    }

    /// What was recorded; recording ends.
    pub(crate) fn recording(&self) -> Vec<Done> {
        self.state().recorded.take().unwrap_or_default()
    }

    /// Operations so far, reads included.
    pub(crate) fn operations(&self) -> u64 {
        self.state().operations
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, {:?}", self.bytes.len(), self.fault)
    }
}

impl State {
    /// Counts an operation; how it fails, if it is its turn.
    fn operate(&mut self, read: bool) -> Result<(), Kind> {
        self.operations += 1;
        let Some(fault) = &mut self.fault else { return Ok(()) };
        if read && !fault.reads {
            return Ok(());
        }
        if fault.after > 0 {
            fault.after -= 1;
            return Ok(());
        }
        let kind = fault.kind;
        if !fault.for_ever {
            self.fault = None;
        }
        self.fired = true;
        Err(kind)
    }

    fn note(&mut self, done: impl FnOnce() -> Done) {
        if let Some(recorded) = &mut self.recorded {
            recorded.push(done());
        }
    }
}

/// One opening of a [`Disk`].
#[derive(Debug)]
pub(crate) struct Handle {
    disk: Disk,
    holds: Mutex<bool>,
}

impl Handle {
    fn unlock(&self) {
        let mut holds = self.holds.lock().unwrap();
        if std::mem::take(&mut *holds) {
            self.disk.state().locked = false;
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.unlock();
    }
}

/// What the caller is told.
fn or_lost(turn: Result<(), Kind>) -> io::Result<()> {
    match turn {
        Ok(()) | Err(Kind::Lost) => Ok(()),
        Err(kind) => Err(kind.error()),
    }
}

fn out_of_range() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "beyond the end of the disk")
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.operate(true).map_err(Kind::error)?;
        Ok(state.bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.operate(true).map_err(Kind::error)?;
        let at = offset as usize;
        let bytes = state.bytes.get(at..at + out.len()).ok_or_else(out_of_range)?;
        out.copy_from_slice(bytes);
        if let Some(traced) = &mut state.traced {
            traced.extend(offset / 4096..(offset + out.len() as u64).div_ceil(4096));
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        or_lost(state.operate(false))?;
        state.bytes.resize(len as usize, 0);
        state.note(|| Done::SetLen(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        or_lost(state.operate(false))?;
        state.note(|| Done::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        let turn = state.operate(false);
        let written = match turn {
            Ok(()) => data.len(),
            Err(Kind::Short) => data.len() / 2,
            Err(_) => 0,
        };
        let (at, data) = (offset as usize, &data[..written]);
        state.bytes.get_mut(at..at + written).ok_or_else(out_of_range)?.copy_from_slice(data);
        if written > 0 {
            state.note(|| Done::Write(offset, data.to_vec()));
        }
        or_lost(turn)
    }

    fn close(&self) -> io::Result<()> {
        self.unlock();
        Ok(())
    }

    /// Only the whole disk can be locked.
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        if (start, end) != (Bound::Unbounded, Bound::Unbounded) {
            return Err(BackendError::Unsupported);
        }
        let mut holds = self.holds.lock().unwrap();
        let mut state = self.disk.state();
        let free = !state.locked;
        if free {
            (state.locked, *holds) = (true, true);
        }
        Ok(free)
    }

    fn unlock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<(), BackendError> {
        self.unlock();
        Ok(())
    }
}
