//! Backup: one frozen state copied to a new file, while readers and the writer go on.
//!
//! Each table is copied in key order into a new file beside the one to be, `{path}.{16 digits}.partial`, which gets
//! its real name only when everything in it is durable. What stands in the copy is compact.

use super::builder::partial_of;
use super::{ReadTxn, Store};
use crate::guard::guarded;
use crate::storage::{self, CATALOG, Names, format::store_header};
use crate::{Error, Observer, Result};
use redb::{Database, Key, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, Value};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::path::Path;

/// What a backup copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// Indexes.
    pub indexes: usize,
    /// Vectors.
    pub rows: u64,
    /// The size of the new file in bytes.
    pub file_bytes: u64,
}

/// Bytes copied in one transaction.
const COPY_BYTES: usize = 32 << 20;

impl Store {
    /// Copies all indexes, as they are when the call begins, to a new file. Tables of the application's
    /// own in an attached database are not copied. Ticks as `"backup"`, in values. A process that is killed in between
    /// leaves a file `{path}.{16 digits}.partial`, which may be deleted.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is a file of that name; [`Error::Cancelled`], and then no file is left.
    pub fn backup(&self, path: impl AsRef<Path>, observer: &mut Observer<'_>) -> Result<BackupReport> {
        self.backup_of(&self.begin_read()?, path.as_ref(), observer)
    }

    /// The same of one state.
    pub(super) fn backup_of(
        &self,
        txn: &ReadTxn,
        path: &Path,
        observer: &mut Observer<'_>,
    ) -> Result<BackupReport> {
        if path.try_exists()? {
            return Err(Error::Exists { path: path.into() });
        }
        let partial = partial_of(path);
        let made = guarded(|| copy_to(txn, &partial, observer)).and_then(|mut report| {
            publish(&partial, path)?;
            report.file_bytes = fs::metadata(path)?.len();
            Ok(report)
        });
        if made.is_err() {
            // Nothing but our own half-made copy.
            let _ = fs::remove_file(&partial);
        }
        made
    }
}

fn copy_to(txn: &ReadTxn, partial: &Path, observer: &mut Observer<'_>) -> Result<BackupReport> {
    let from = txn.redb();
    let indexes = txn.indexes()?;
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(partial)?;
    let mut builder = Database::builder();
    builder.set_cache_size(4 * COPY_BYTES);
    let mut to = builder.create_file(file)?;
    let mut copy = Copy { from, to: &to, observer, done: 0, total: 0 };
    let mut report = BackupReport { indexes: indexes.len(), ..BackupReport::default() };
    for index in &indexes {
        report.rows += storage::read_header(from, index)?.ntotal;
        copy.total += count(from, index)?;
    }
    for index in &indexes {
        copy.index(index)?;
    }
    copy.catalog()?;
    to.compact()?;
    Ok(report)
}

/// Values in all tables of an index.
fn count(from: &ReadTransaction, index: &str) -> Result<u64> {
    let t = storage::open_read(from, index)?;
    let mut values = t.map.len()? + t.free.len()? + t.keymap.len()?;
    values += t.twins.as_ref().map_or(Ok(0), |twins| twins.len())?;
    let (columns, others) =
        ([&t.lists, &t.slots, &t.ids, &t.rows, &t.exact], [&t.meta, &t.model, &t.blocks, &t.tails, &t.keys]);
    for table in columns.into_iter().chain(others) {
        values += table.len()?;
    }
    Ok(values)
}

struct Copy<'a, 'o> {
    from: &'a ReadTransaction,
    to: &'a Database,
    observer: &'a mut Observer<'o>,
    done: u64,
    total: u64,
}

impl Copy<'_, '_> {
    fn index(&mut self, index: &str) -> Result<()> {
        let names = Names::of(index, Default::default());
        for name in names.bytes_tables() {
            self.table::<u64, &[u8]>(TableDefinition::new(name))?;
        }
        if storage::read_header(self.from, index)?.shared {
            self.table::<u64, &[u8]>(TableDefinition::new(&names.twins))?;
        }
        self.table::<u64, u32>(TableDefinition::new(&names.map))?;
        self.table::<u64, ()>(TableDefinition::new(&names.free))?;
        self.table::<&[u8], u64>(TableDefinition::new(&names.keymap))
    }

    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'_, K, V>,
    ) -> Result<()> {
        let from = self.from.open_table(table)?;
        let mut entries = from.iter()?;
        loop {
            let txn = self.begin()?;
            let mut bytes = 0;
            let mut into = txn.open_table(table)?;
            let mut cursor = into.upper_bound_mut(Bound::<K::SelfType<'_>>::Unbounded)?;
            while bytes < COPY_BYTES {
                let Some(entry) = entries.next() else { break };
                let (key, value) = entry?;
                bytes += 64 + V::as_bytes(&value.value()).as_ref().len();
                cursor.insert_before(key.value(), value.value()).map_err(redb::Error::from)?;
                self.done += 1;
            }
            cursor.close()?;
            drop(into);
            txn.commit()?;
            self.observer.tick("backup", self.done.min(self.total), self.total)?;
            if bytes < COPY_BYTES {
                return Ok(());
            }
        }
    }

    /// A transaction into the copy: only what [`publish`] syncs counts.
    fn begin(&self) -> Result<redb::WriteTransaction> {
        let mut txn = self.to.begin_write()?;
        txn.set_durability(redb::Durability::None)?;
        Ok(txn)
    }

    /// Last, durable, and with what a quick opening needs.
    fn catalog(&mut self) -> Result<()> {
        let from = self.from.open_table(CATALOG)?;
        let mut txn = self.to.begin_write()?;
        txn.set_quick_repair(true);
        let mut into = txn.open_table(CATALOG)?;
        for entry in from.iter()? {
            let (name, value) = entry?;
            into.insert(name.value(), value.value())?;
        }
        into.insert("", &store_header::encode()[..])?;
        drop(into);
        txn.commit()?;
        Ok(())
    }
}

/// Gives a finished file its name, durably. An existing file is never replaced.
pub(super) fn publish(partial: &Path, path: &Path) -> Result<()> {
    File::open(partial)?.sync_all()?;
    fs::hard_link(partial, path).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists { path: path.into() },
        _ => Error::Io(e),
    })?;
    fs::remove_file(partial)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()?;
    Ok(())
}
