//! Where the bytes of the file are.
//!
//! ```text
//! file   |  live                 |  dead                       |  free                      |
//!        |  pages of the tables  |  pages of earlier states,   |  pages nobody uses, and    |
//!        |  as they are now      |  and redb's own tables      |  what the file grew ahead  |
//! ```
//! redb writes a changed page to a free place, and the old place becomes free when the next commit is durable and no
//! reader sees the old state any more. So a store at work has dead pages, soon used again. And redb doubles the file when
//! no free place is large enough (up to 4 GiB; then it grows by 4 GiB), and gives back by itself only what stands free at the end,
//! half of it a commit, while that is more than half of the file.

use super::{Durability, Store, WriteTxn};
use crate::Result;
use crate::guard::guarded;
use redb::{ReadTransaction, ReadableDatabase, ReadableTableMetadata, TableStats};

/// Where the bytes of a store's file are; see [`Store::space`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSpace {
    /// Size of the file; 0 where the store is no file.
    pub file_bytes: u64,
    /// Pages of all tables in their committed state, the space within them that is not filled included; in an attached
    /// database, of the application's tables too.
    pub live_bytes: u64,
    /// Pages that earlier states still hold, as the last commit and every reader keep some, and redb's own tables. The next
    /// commits use them.
    pub dead_bytes: u64,
    /// The rest of the file, which nothing uses; 0 where the store is no file. [`Store::compact`] gives it back.
    pub free_bytes: u64,
}

impl Store {
    /// Where the bytes of the file are. Waits until no writer is active, and walks all pages: for now and then, not for
    /// each commit.
    ///
    /// A store whose vectors come and go keeps a file of at most about twice what is live: see [`compact`](Self::compact), the
    /// one call that makes it small again, for when to call it.
    ///
    /// # Errors
    /// [`Error::NeedsReopen`](crate::Error::NeedsReopen), [`Error::Corrupt`](crate::Error::Corrupt).
    pub fn space(&self) -> Result<StoreSpace> {
        let inner = &self.inner;
        // While this transaction is open nobody commits, so that both walks see one state.
        let txn = WriteTxn::new(inner.clone(), Durability::Immediate, inner.settings.quick_repair)?;
        let allocated = txn.allocated_bytes()?;
        let database = inner.database()?;
        let live_bytes = guarded(|| live_bytes(&database.begin_read()?))?;
        let file_bytes = inner.file_bytes();
        txn.abort()?;
        Ok(StoreSpace {
            file_bytes,
            live_bytes,
            dead_bytes: allocated.saturating_sub(live_bytes),
            free_bytes: file_bytes.saturating_sub(allocated),
        })
    }
}

fn live_bytes(txn: &ReadTransaction) -> Result<u64> {
    let mut live = 0;
    for table in txn.list_tables()? {
        live += page_bytes(txn.open_untyped_table(table)?.stats()?);
    }
    for table in txn.list_multimap_tables()? {
        live += page_bytes(txn.open_untyped_multimap_table(table)?.stats()?);
    }
    Ok(live)
}

/// The pages of a table, whole.
fn page_bytes(stats: TableStats) -> u64 {
    stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes()
}
