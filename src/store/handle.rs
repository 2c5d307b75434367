//! The open database: a store's own, or the application's.

use super::pages::check_system_tree;
use super::withheld::Withheld;
use crate::Result;
use crate::guard::{Quiet, guarded};
use redb::Database;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Weak};

/// There until the file is closed: longer than the last reference to the handle, as closing writes and takes its time.
pub(crate) struct Open;

/// Shared by the store, its transactions and its readers; the file is closed with the last of them.
pub(crate) enum Handle {
    Own(Own, Arc<Open>),
    Attached(Arc<Database>),
}

impl Handle {
    pub(crate) fn own(database: Own) -> Arc<Self> {
        Arc::new(Handle::Own(database, Arc::new(Open)))
    }

    /// Counts 1 until nobody holds the handle and the file is closed.
    pub(crate) fn open(&self) -> Weak<Open> {
        match self {
            Handle::Own(_, open) => Arc::downgrade(open),
            Handle::Attached(_) => Weak::new(),
        }
    }

    /// Checks what redb reads when it commits, once a transaction that writes has begun. Of the application's own database only
    /// redb knows the medium.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt).
    pub(crate) fn check_before_writing(&self) -> Result<()> {
        match self {
            Handle::Own(database, _) => database.check_before_writing(),
            Handle::Attached(_) => Ok(()),
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

/// A database on a medium that vellum can read, too. Closed with care: redb writes when it closes, and could end the process on a
/// damaged page.
pub(crate) struct Own {
    database: Quiet<Database>,
    medium: Withheld,
}

impl Own {
    /// Opens a database.
    ///
    /// # Errors
    /// What `open` says of the medium that it is given.
    pub(crate) fn open(medium: &Withheld, open: impl FnOnce(Withheld) -> Result<Database>) -> Result<Self> {
        let database = Quiet::new(guarded(|| open(medium.clone()))?);
        Ok(Own { database, medium: medium.clone() })
    }

    /// Checks what redb reads when it commits. Nothing may be committing meanwhile.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt).
    pub(crate) fn check_before_writing(&self) -> Result<()> {
        check_system_tree(&self.medium)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if self.check_before_writing().is_err() {
            self.database.discard();
        }
    }
}

impl Deref for Own {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.database
    }
}

impl DerefMut for Own {
    fn deref_mut(&mut self) -> &mut Database {
        &mut self.database
    }
}
