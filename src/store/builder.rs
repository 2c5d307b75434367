//! Settings of a store, and the ways to open one.

use super::backup::publish;
use super::handle::Own;
use super::withheld::Withheld;
use super::{Handle, Inner, Store};
use crate::coarse::{Quantizer, Quantizers};
use crate::guard::{Quiet, guarded};
use crate::index::writer::{ensure_catalog, random};
use crate::storage::CATALOG;
use crate::storage::format::store_header;
use crate::{Error, Result};
use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase, StorageBackend, TableError};
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// When a commit is safe from a power cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
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
    pub(crate) quantizers: Quantizers,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            cache_bytes: 1 << 30,
            durability: Durability::Immediate,
            quick_repair: true,
            load_bytes: 64 << 20,
            pool: None,
            quantizers: Quantizers::default(),
        }
    }
}

impl Settings {
    /// redb's own cache: what queries use is pinned in copies of its own, so it can stay small; but a
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
    Backend(Box<dyn Fn() -> io::Result<Box<dyn StorageBackend>> + Send + Sync>),
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

    /// A coarse quantizer of the caller's own, for the indexes that name it. Several may be given, of one name, too, if their
    /// fingerprints are different; training takes the one given last.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a name that is none.
    pub fn quantizer(mut self, quantizer: Arc<dyn Quantizer>) -> Result<Self> {
        self.settings.quantizers.add(quantizer)?;
        Ok(self)
    }

    /// As [`Store::create`].
    pub fn create(self, path: impl AsRef<Path>) -> Result<Store> {
        let path = path.as_ref();
        if path.symlink_metadata().is_ok() {
            return Err(Error::Exists { path: path.into() });
        }
        let partial = partial_of(path);
        let made = guarded(|| make_file(&partial, &self.settings)).and_then(|()| publish(&partial, path));
        if let Err(e) = made {
            // Nothing but our own half-made file.
            let _ = std::fs::remove_file(&partial);
            return Err(e);
        }
        self.open(path)
    }

    /// As [`Store::open`].
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store> {
        let source = Source::Path(path.as_ref().into());
        let db = source.open(&self.settings)?;
        Ok(self.store(Handle::own(db), source))
    }

    /// Opens the store in a file, or makes one if there is no file. A file that is there and no store, an empty
    /// one included, is [`Error::Foreign`] and stays as it is.
    pub fn open_or_create(self, path: impl AsRef<Path>) -> Result<Store> {
        let path = path.as_ref();
        let again = || Builder { settings: self.settings.clone() };
        match again().open(path) {
            Err(Error::NotFound { .. }) => match again().create(path) {
                // Another process was faster.
                Err(Error::Exists { .. }) => again().open(path),
                made => made,
            },
            opened => opened,
        }
    }

    /// Opens a store on any medium that redb can use, or makes one if the medium is empty or holds a redb
    /// database without any table, as a process leaves it that is killed here. `make` is called again by
    /// [`Store::reopen`].
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
        let source = Source::Backend(Box::new(move || Ok(Box::new(make()?))));
        let db = source.open(&self.settings)?;
        Ok(self.store(Handle::own(db), source))
    }

    /// Uses the application's own database, in which its own tables may stand too. Models, snapshots and
    /// pins are then shared by all readers; the application may go on writing through redb, with
    /// [`IndexWriter::open`](crate::IndexWriter::open) in its own transactions. `cache_bytes`
    /// here is for pins alone, less what redb would have got.
    ///
    /// The store keeps the state in which an index was read last, and with it the pages that the application's commits
    /// free: until the first [`begin_read`](Store::begin_read) or commit through the store that comes a second later.
    /// An application that goes on writing and reads no more should begin to read now and then, or drop the store.
    pub fn attach(self, db: Arc<Database>) -> Result<Store> {
        guarded(|| write_catalog(&db))?;
        Ok(self.store(Arc::new(Handle::Attached(db)), Source::Attached))
    }

    fn store(self, db: Arc<Handle>, source: Source) -> Store {
        Store { inner: Arc::new(Inner::new(db, source, self.settings)) }
    }
}

impl Source {
    /// Opens the medium. Nothing is written to it before it is known to be a store that this version reads.
    pub(crate) fn open(&self, settings: &Settings) -> Result<Own> {
        match self {
            Source::Path(path) => {
                let backend = file_backend(path)?;
                check_magic(&backend)?;
                open_withheld(Box::new(backend), settings, |txn| check_catalog(txn).map(|()| Found::Store))
            }
            Source::Backend(make) => {
                let backend = make()?;
                if backend.len()? == 0 {
                    let (backend, withhold) = Withheld::new(backend);
                    // There is nothing that could be lost.
                    withhold.release()?;
                    let db = Own::open(&backend, |medium| open_redb(medium, settings))?;
                    guarded(|| write_catalog(&db))?;
                    return Ok(db);
                }
                check_magic(&*backend)?;
                open_withheld(backend, settings, |txn| match is_bare(txn)? {
                    true => Ok(Found::Bare),
                    false => check_catalog(txn).map(|()| Found::Store),
                })
            }
            Source::Attached => Err(Error::Unsupported { what: "reopening an attached database" }),
        }
    }
}

/// What a medium holds that may be opened.
enum Found {
    Store,
    /// A database without a table: a store that was about to be made.
    Bare,
}

fn open_withheld(
    backend: Box<dyn StorageBackend>,
    settings: &Settings,
    check: impl FnOnce(&ReadTransaction) -> Result<Found>,
) -> Result<Own> {
    let (backend, withhold) = Withheld::new(backend);
    let db = Own::open(&backend, |medium| open_redb(medium, settings))?;
    let found = guarded(|| check(&db.begin_read()?))?;
    withhold.release()?;
    if let Found::Bare = found {
        guarded(|| write_catalog(&db))?;
    }
    Ok(db)
}

fn open_redb(medium: Withheld, settings: &Settings) -> Result<Database> {
    redb_builder(settings).create_with_backend(medium).map_err(open_error)
}

fn redb_builder(settings: &Settings) -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(settings.redb_bytes());
    builder
}

fn open_error(e: DatabaseError) -> Error {
    match e {
        DatabaseError::UpgradeRequired(version) => {
            Error::Foreign { what: format!("a redb file of the old format {version}") }
        }
        DatabaseError::Storage(redb::StorageError::Io(e)) if e.kind() == io::ErrorKind::UnexpectedEof => {
            Error::corrupt("(redb)", 0, "the file ends too early")
        }
        e => e.into(),
    }
}

/// A name beside `path` that nobody else has. A process that is killed while it makes a store or a copy leaves a file of
/// such a name behind, and none at `path`.
pub(super) fn partial_of(path: &Path) -> PathBuf {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{:016x}.partial", random()));
    partial.into()
}

/// Makes an empty store in a new file and closes it.
fn make_file(path: &Path, settings: &Settings) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    let db = Quiet::new(redb_builder(settings).create_file(file).map_err(open_error)?);
    write_catalog(&db)
}

fn file_backend(path: &Path) -> Result<FileBackend> {
    let there = path.metadata().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::NotFound { path: path.into() },
        _ => Error::Io(e),
    })?;
    if there.is_dir() {
        return Err(Error::Foreign { what: "it is a directory".into() });
    }
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    FileBackend::new(file).map_err(open_error)
}

/// The first bytes of every redb file.
const REDB_MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";

pub(super) fn check_magic(backend: &dyn StorageBackend) -> Result<()> {
    let foreign = |what: &str| Err(Error::Foreign { what: what.into() });
    let mut magic = [0; 9];
    match backend.len()? {
        0 => return foreign("it is empty"),
        len if len < magic.len() as u64 => return foreign("it is shorter than any redb file"),
        _ => backend.read(0, &mut magic)?,
    }
    if magic == REDB_MAGIC { Ok(()) } else { foreign("it is no redb file") }
}

/// True if nobody has a table in the database.
fn is_bare(txn: &ReadTransaction) -> Result<bool> {
    Ok(txn.list_tables()?.next().is_none() && txn.list_multimap_tables()?.next().is_none())
}

fn check_catalog(txn: &ReadTransaction) -> Result<()> {
    let catalog = match txn.open_table(CATALOG) {
        Ok(catalog) => catalog,
        Err(TableError::TableDoesNotExist(_)) => {
            return Err(Error::Foreign { what: "a redb file without vellum's catalog".into() });
        }
        Err(
            TableError::TableTypeMismatch { .. }
            | TableError::TableIsMultimap(_)
            | TableError::TableIsNotMultimap(_)
            | TableError::TypeDefinitionChanged { .. },
        ) => {
            return Err(Error::Foreign { what: "a redb file with another kind of catalog".into() });
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

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Path(path) => write!(f, "{}", path.display()),
            Source::Backend(_) => f.write_str("a backend"),
            Source::Attached => f.write_str("an attached database"),
        }
    }
}
