//! The open database: a store's own, or the application's.

use crate::guard::Quiet;
use redb::Database;
use std::ops::Deref;
use std::sync::Arc;

/// Shared by the store, its transactions and its readers; the file is closed with the last of them.
pub(crate) enum Handle {
    /// Closed with care: redb writes when it closes, and may panic on a damaged page.
    Own(Quiet<Database>),
    Attached(Arc<Database>),
}

impl Handle {
    pub(crate) fn own(database: Quiet<Database>) -> Arc<Self> {
        Arc::new(Handle::Own(database))
    }

    /// The database, if nobody else holds it.
    pub(crate) fn alone(this: &mut Arc<Self>) -> Option<&mut Database> {
        match Arc::get_mut(this)? {
            Handle::Own(database) => Some(database),
            Handle::Attached(database) => Arc::get_mut(database),
        }
    }
}

impl Deref for Handle {
    type Target = Database;

    fn deref(&self) -> &Database {
        match self {
            Handle::Own(database) => database,
            Handle::Attached(database) => database,
        }
    }
}
