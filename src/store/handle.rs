//! The open database: a store's own, or the application's.

use crate::guard::Quiet;
use redb::Database;
use std::ops::Deref;
use std::sync::{Arc, Weak};

/// There until the file is closed: longer than the last reference to the handle, as closing writes and takes its time.
pub(crate) struct Open;

/// Shared by the store, its transactions and its readers; the file is closed with the last of them.
pub(crate) enum Handle {
    /// Closed with care: redb writes when it closes, and may panic on a damaged page.
    Own(Quiet<Database>, Arc<Open>),
    Attached(Arc<Database>),
}

impl Handle {
    pub(crate) fn own(database: Quiet<Database>) -> Arc<Self> {
        Arc::new(Handle::Own(database, Arc::new(Open)))
    }

    /// Counts 1 until nobody holds the handle and the file is closed.
    pub(crate) fn open(&self) -> Weak<Open> {
        match self {
            Handle::Own(_, open) => Arc::downgrade(open),
            Handle::Attached(_) => Weak::new(),
        }
    }

    /// The database, if nobody else holds it.
    pub(crate) fn alone(this: &mut Arc<Self>) -> Option<&mut Database> {
        match Arc::get_mut(this)? {
            Handle::Own(database, _) => Some(database),
            Handle::Attached(database) => Arc::get_mut(database),
        }
    }
}

impl Deref for Handle {
    type Target = Database;

    fn deref(&self) -> &Database {
        match self {
            Handle::Own(database, _) => database,
            Handle::Attached(database) => database,
        }
    }
}
