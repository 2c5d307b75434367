//! The atomics that readers and the writer share, and what time decides between them.
//!
//! All of it is the standard library's, but in the package `schedules/`, which builds this crate with the feature of
//! that name: there a scheduler decides at every lock (its `parking_lot` is another one) and at every atomic here who goes
//! on, and whether a snapshot has become too old. The feature is none of this package's, so no user can switch it on.

#[cfg(feature = "schedules")]
pub(crate) use scheduled::{AtomicBool, AtomicU64, AtomicUsize, is_old, planted};
pub(crate) use std::sync::atomic::Ordering;
#[cfg(not(feature = "schedules"))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::{Duration, Instant};

/// True if what was made at `born` is older than `most`.
#[cfg(not(feature = "schedules"))]
pub(crate) fn is_old(born: Instant, most: Duration) -> bool {
    born.elapsed() >= most
}

/// True where a race is to go wrong, so that the schedules that look for such can be seen to find it: never here.
#[cfg(not(feature = "schedules"))]
pub(crate) const fn planted() -> bool {
    false
}

#[cfg(feature = "schedules")]
pub mod scheduled {
    //! What the scheduler has in their place.

    use super::{Duration, Instant};
    use shuttle::rand::Rng;
    pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
    use std::sync::atomic::{AtomicBool as Flag, Ordering::SeqCst};

    static PLANTED: Flag = Flag::new(false);

    /// Plants a fault, or takes it out again.
    pub fn plant(fault: bool) {
        PLANTED.store(fault, SeqCst);
    }

    /// True while a fault is planted.
    pub fn planted() -> bool {
        PLANTED.load(SeqCst)
    }

    /// Nobody waits for a second where thousands of schedules are tried: chance says it.
    pub(crate) fn is_old(_born: Instant, _most: Duration) -> bool {
        shuttle::rand::thread_rng().gen_bool(0.2)
    }
}
