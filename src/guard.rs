//! redb's panics on damaged pages, turned into [`Error::Corrupt`].
//!
//! redb checks no checksum when it reads, and a damaged page can make it index out of range or unwrap a
//! `None`. [`guarded`] stands around what calls redb: around single reads in `storage/`, around each change
//! of a writer, around what the store does with transactions. It costs nothing until there is a panic. The
//! application's own panics (in a progress callback, see [`callers`]) pass through, and reading is guarded so
//! tightly that vellum's own assertions do too.
//!
//! After a panic redb may panic again where it gives up what it holds: [`Quiet`] drops with care.

use crate::{Error, Result};
use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Calls redb; a panic is an error. What was being changed must not be used again: writers are poisoned,
/// and readers change nothing.
pub(crate) fn guarded<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(done) => done,
        Err(payload) => match payload.downcast::<Callers>() {
            Ok(callers) => resume_unwind(callers.0),
            Err(payload) => Err(Error::corrupt("(redb)", 0, format!("a panic: {}", message(&*payload)))),
        },
    }
}

/// A panic of the application's, on its way through [`guarded`].
struct Callers(Box<dyn Any + Send>);

/// Calls the application's code from within [`guarded`].
pub(crate) fn callers<T>(call: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| resume_unwind(Box::new(Callers(payload))))
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

/// Something of redb's that may panic when it is dropped, if redb has panicked before.
pub(crate) struct Quiet<T>(Option<T>);

impl<T> Quiet<T> {
    pub(crate) fn new(held: T) -> Self {
        Quiet(Some(held))
    }

    pub(crate) fn into_inner(mut self) -> T {
        match self.0.take() {
            Some(held) => held,
            None => unreachable!("only a drop empties it"),
        }
    }
}

impl<T> Quiet<T> {
    /// Drops it as if a panic passed by, and must be the last that is done with it: redb then closes a file without writing to it.
    pub(crate) fn discard(&mut self) {
        let held = self.0.take();
        let unwind = move || {
            let _held = held;
            // Without the hook: this is no panic that anybody should hear of.
            resume_unwind(Box::new(()));
        };
        let _ = catch_unwind(AssertUnwindSafe(unwind));
    }
}

impl<T> Drop for Quiet<T> {
    fn drop(&mut self) {
        let held = self.0.take();
        // Nobody can be told, and nothing was to be kept.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(held)));
    }
}

impl<T> Deref for Quiet<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(held) => held,
            None => unreachable!("only a drop empties it"),
        }
    }
}

impl<T> DerefMut for Quiet<T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.0 {
            Some(held) => held,
            None => unreachable!("only a drop empties it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error() {
        let done = guarded::<()>(|| panic!("page {}", 7));
        assert!(matches!(done, Err(Error::Corrupt { what, .. }) if what == "a panic: page 7"));
        assert_eq!(guarded(|| Ok(3)).unwrap(), 3);
    }

    #[test]
    fn a_panic_of_the_application_passes_through() {
        let outer = catch_unwind(|| guarded::<()>(|| callers(|| panic!("mine"))));
        assert_eq!(outer.unwrap_err().downcast_ref::<&str>(), Some(&"mine"));
    }

    #[test]
    fn what_is_discarded_sees_a_panic() {
        struct Sees<'s>(&'s mut Vec<bool>);
        impl Drop for Sees<'_> {
            fn drop(&mut self) {
                self.0.push(std::thread::panicking());
            }
        }
        let mut seen = Vec::new();
        drop(Quiet::new(Sees(&mut seen)));
        Quiet::new(Sees(&mut seen)).discard();
        assert_eq!(seen, [false, true]);
    }

    #[test]
    fn what_panics_on_drop_is_dropped_quietly() {
        struct Loud;
        impl Drop for Loud {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        drop(Quiet::new(Loud));
        assert_eq!(Quiet::new(5).into_inner(), 5);
    }
}
