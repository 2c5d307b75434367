//! Settings of a store, and the ways to open one.

use super::{Inner, Store};
use crate::index::writer::ensure_catalog;
use crate::storage::CATALOG;
use crate::storage::format::store_header;
use crate::{Error, Result};
use redb::{BackendError, Database, DatabaseError, ReadableDatabase, StorageBackend, TableError};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// When a commit is safe from a power cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When `commit` returns.
    #[default]
    Immediate,
    /// After the next [`Store::flush`] or immediate commit. A crash before that loses the commits since, in
    /// whole transactions and never in part.
    None,
}

/// Settings of a store.
///
/// ```
/// # use vellum::{Durability, Store};
/// # let folder = tempfile::tempdir().unwrap();
/// let store = Store::builder()
///     .cache_bytes(64 << 20)
///     .durability(Durability::None)
///     .create(folder.path().join("vectors.vellum"))?;
/// # Ok::<(), vellum::Error>(())
/// ```
#[derive(Debug, Default)]
#[must_use]
pub struct Builder {
    settings: Settings,
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) cache_bytes: usize,
    pub(crate) durability: Durability,
    pub(crate) quick_repair: bool,
    pub(crate) load_bytes: usize,
    pub(crate) pool: Option<Arc<rayon::ThreadPool>>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            cache_bytes: 1 << 30,
            durability: Durability::Immediate,
            quick_repair: true,
            load_bytes: 64 << 20,
            pool: None,
        }
    }
}

impl Settings {
    /// redb's own cache: pinned pages live on when redb drops them, so it can stay small; but a
    /// transaction dirtier than half of it is written twice.
    pub(crate) fn redb_bytes(&self) -> usize {
        (self.cache_bytes / 4).min(256 << 20)
    }

    pub(crate) fn pin_bytes(&self) -> usize {
        self.cache_bytes - self.redb_bytes()
    }
}

/// How the store is opened again.
pub(crate) enum Source {
    Path(PathBuf),
    Backend(Box<dyn Fn() -> io::Result<AnyBackend> + Send + Sync>),
    Attached,
}

impl Builder {
    /// Memory for cached data: pinned blocks, and redb's own cache. 1 GiB by default. An index larger
    /// than this is searched all the same, from the file. Vectors being added and models come on top.
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.settings.cache_bytes = bytes;
        self
    }

    /// When commits are durable; [`Durability::Immediate`] by default.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.settings.durability = durability;
        self
    }

    /// Whether each commit also saves what reopening after a crash needs, so that it takes milliseconds
    /// instead of a walk through the whole file; on by default, for one more fsync a commit.
    pub fn quick_repair(mut self, on: bool) -> Self {
        self.settings.quick_repair = on;
        self
    }

    /// Vectors that a bulk load gathers before it commits them, in bytes; 64 MiB by default. Encoding and the
    /// transaction take about twice as much again.
    pub fn load_bytes(mut self, bytes: usize) -> Self {
        self.settings.load_bytes = bytes.max(1);
        self
    }

    /// The threads that batches, training and encoding run on; rayon's global pool by default.
    pub fn thread_pool(mut self, pool: Arc<rayon::ThreadPool>) -> Self {
        self.settings.pool = Some(pool);
        self
    }

    /// As [`Store::create`].
    pub fn create(self, path: impl AsRef<Path>) -> Result<Store> {
        let path = path.as_ref();
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(|e| {
                match e.kind() {
                    io::ErrorKind::AlreadyExists => Error::Exists { path: path.into() },
                    _ => e.into(),
                }
            })?;
        let made = redb_builder(&self.settings).create_file(file).map_err(open_error).and_then(|db| {
            write_catalog(&db)?;
            Ok(db)
        });
        match made {
            Ok(db) => Ok(self.store(Arc::new(db), Source::Path(path.into()))),
            Err(e) => {
                // The file is ours and holds nothing.
                let _ = std::fs::remove_file(path);
                Err(e)
            }
        }
    }

    /// As [`Store::open`].
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store> {
        let source = Source::Path(path.as_ref().into());
        let db = source.open(&self.settings)?;
        Ok(self.store(Arc::new(db), source))
    }

    /// Opens the store in a file, or makes one if there is no file.
    pub fn open_or_create(self, path: impl AsRef<Path>) -> Result<Store> {
        match path.as_ref().try_exists()? {
            true => self.open(path),
            false => self.create(path),
        }
    }

    /// Opens a store on any medium that redb can use, or makes one if the medium is empty. `make`
    /// is called again by [`Store::reopen`].
    ///
    /// ```
    /// # use vellum::Store;
    /// let store = Store::builder().open_backend(|| Ok(redb::backends::InMemoryBackend::new()))?;
    /// # Ok::<(), vellum::Error>(())
    /// ```
    pub fn open_backend<B: StorageBackend>(
        self,
        make: impl Fn() -> io::Result<B> + Send + Sync + 'static,
    ) -> Result<Store> {
        let source = Source::Backend(Box::new(move || Ok(AnyBackend(Box::new(make()?)))));
        let db = source.open(&self.settings)?;
        Ok(self.store(Arc::new(db), source))
    }

    /// Uses the application's own database, in which its own tables may stand too. Models, snapshots and
    /// pins are then shared by all readers; the application may go on writing through redb, with
    /// [`IndexWriter::open`](crate::IndexWriter::open) in its own transactions. `cache_bytes`
    /// here is for pins alone, less what redb would have got.
    pub fn attach(self, db: Arc<Database>) -> Result<Store> {
        write_catalog(&db)?;
        Ok(self.store(db, Source::Attached))
    }

    fn store(self, db: Arc<Database>, source: Source) -> Store {
        Store { inner: Arc::new(Inner::new(db, source, self.settings)) }
    }
}

impl Source {
    pub(crate) fn open(&self, settings: &Settings) -> Result<Database> {
        match self {
            Source::Path(path) => {
                check_file(path)?;
                let db = guarded(|| redb_builder(settings).open(path))?;
                check_catalog(&db)?;
                Ok(db)
            }
            Source::Backend(make) => {
                let backend = make()?;
                let empty = backend.0.len()? == 0;
                let db = guarded(move || redb_builder(settings).create_with_backend(backend))?;
                if empty {
                    write_catalog(&db)?
                } else {
                    check_catalog(&db)?
                }
                Ok(db)
            }
            Source::Attached => Err(Error::Unsupported { what: "reopening an attached database" }),
        }
    }
}

fn redb_builder(settings: &Settings) -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(settings.redb_bytes());
    builder
}

/// redb may panic on a damaged file instead of refusing it.
fn guarded(open: impl FnOnce() -> Result<Database, DatabaseError>) -> Result<Database> {
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(opened) => opened.map_err(open_error),
        Err(_) => Err(Error::corrupt("(redb)", 0, "redb panicked on opening the file")),
    }
}

fn open_error(e: DatabaseError) -> Error {
    match e {
        DatabaseError::UpgradeRequired(version) => {
            Error::Foreign { what: format!("a redb file of the old format {version}") }
        }
        e => e.into(),
    }
}

/// The first bytes of every redb file.
const REDB_MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";

fn check_file(path: &Path) -> Result<()> {
    let mut file = File::open(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::NotFound { path: path.into() },
        _ => Error::Io(e),
    })?;
    if file.metadata()?.is_dir() {
        return Err(Error::Foreign { what: "it is a directory".into() });
    }
    let mut magic = [0; 9];
    match file.read_exact(&mut magic) {
        Ok(()) if magic == REDB_MAGIC => Ok(()),
        Ok(()) => Err(Error::Foreign { what: "it is no redb file".into() }),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            Err(Error::Foreign { what: "it is shorter than any redb file".into() })
        }
        Err(e) => Err(e.into()),
    }
}

fn check_catalog(db: &Database) -> Result<()> {
    let txn = db.begin_read()?;
    let catalog = match txn.open_table(CATALOG) {
        Ok(catalog) => catalog,
        Err(TableError::TableDoesNotExist(_)) => {
            return Err(Error::Foreign { what: "a redb file without vellum's catalog".into() });
        }
        Err(e) => return Err(e.into()),
    };
    match catalog.get("")? {
        Some(value) => store_header::check(value.value()),
        None => Err(Error::Foreign { what: "its catalog has no vellum header".into() }),
    }
}

fn write_catalog(db: &Database) -> Result<()> {
    let txn = db.begin_write()?;
    ensure_catalog(&txn)?;
    txn.commit()?;
    Ok(())
}

/// A backend of any type. Every call is passed on, those with a default of their own as well: the locks
/// keep a second store off a file.
#[derive(Debug)]
pub(crate) struct AnyBackend(Box<dyn StorageBackend>);

impl StorageBackend for AnyBackend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_range(start, end)
    }
    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_range(start, end)
    }
    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.query_lock_range(start, end)
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Path(path) => write!(f, "{}", path.display()),
            Source::Backend(_) => f.write_str("a backend"),
            Source::Attached => f.write_str("an attached database"),
        }
    }
}
