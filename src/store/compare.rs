//! Whether two stores hold the same, and what may be said of a file that is not open: its pages, and a new store made of it.

use super::handle::Own;
use super::pages::{check_all_trees, is_settled};
use super::salvage::medium::Medium;
use super::{ReadTxn, Store, builder};
use crate::guard::guarded;
use crate::index::{ContentDigest, VerifyReport};
use crate::store::BackupReport;
use crate::{Error, Observer, Result};
use redb::Database;
use std::collections::BTreeMap;
use std::path::Path;

/// How two stores differ, by names of indexes, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompareReport {
    /// In both and equal.
    pub equal: Vec<String>,
    /// In both, of different contents.
    pub different: Vec<String>,
    /// In the first store alone.
    pub only_here: Vec<String>,
    /// In the second store alone.
    pub only_there: Vec<String>,
}

impl CompareReport {
    /// True if both stores hold the same.
    pub fn is_equal(&self) -> bool {
        self.different.is_empty() && self.only_here.is_empty() && self.only_there.is_empty()
    }

    fn of(here: &BTreeMap<String, ContentDigest>, there: &BTreeMap<String, ContentDigest>) -> Self {
        let mut report = CompareReport::default();
        for (name, digest) in here {
            match there.get(name) {
                None => report.only_here.push(name.clone()),
                Some(other) if other == digest => report.equal.push(name.clone()),
                Some(_) => report.different.push(name.clone()),
            }
        }
        report.only_there = there.keys().filter(|name| !here.contains_key(*name)).cloned().collect();
        report
    }
}

impl ReadTxn {
    /// The [digest](crate::IndexReader::digest) of each index.
    ///
    /// # Errors
    /// Those of [`index`](Self::index) and of [`IndexReader::digest`](crate::IndexReader::digest).
    pub fn digests(&self, observer: &mut Observer<'_>) -> Result<BTreeMap<String, ContentDigest>> {
        let names = self.indexes()?;
        names.into_iter().map(|name| Ok((name.clone(), self.index(&name)?.digest(observer)?))).collect()
    }
}

impl Store {
    /// Compares what this store and another one hold, each as it is when the call begins. Where things stand is no matter: a
    /// backup is equal to its source, and so is a compacted store.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Unfinished`] and the like of an index that cannot be read; [`Error::Cancelled`].
    pub fn compare(&self, other: &Store, observer: &mut Observer<'_>) -> Result<CompareReport> {
        let (here, there) = (self.begin_read()?, other.begin_read()?);
        Ok(CompareReport::of(&here.digests(observer)?, &there.digests(observer)?))
    }

    /// A [backup](Self::backup) that is opened again and compared with the very state that it was made of, whatever the
    /// writer has done since.
    ///
    /// # Errors
    /// Those of [`backup`](Self::backup) and [`compare`](Self::compare); [`Error::Corrupt`] if the copy holds something else: it is left
    /// for inspection.
    pub fn backup_checked(
        &self,
        path: impl AsRef<Path>,
        observer: &mut Observer<'_>,
    ) -> Result<BackupReport> {
        let path = path.as_ref();
        let txn = self.begin_read()?;
        let report = self.backup_of(&txn, path, observer)?;
        let copy = Store::open(path)?.begin_read()?.digests(observer)?;
        let compared = CompareReport::of(&txn.digests(observer)?, &copy);
        match compared.is_equal() {
            true => Ok(report),
            false => Err(Error::corrupt("(backup)", 0, format!("the copy is not its source: {compared:?}"))),
        }
    }

    /// Makes a new store of a backup, or of any store that is closed: every index is verified first, and the new file compared
    /// with the old one. The backup is opened for reading alone. Ticks as `"verify"`, `"backup"` and `"digest"`.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is a file at `path`; [`Error::Corrupt`] with the first problem of a backup that is not sound:
    /// then no file is made ([`salvage`](Self::salvage) takes what can be had); those of [`open`](Self::open).
    pub fn restore(
        backup: impl AsRef<Path>,
        path: impl AsRef<Path>,
        observer: &mut Observer<'_>,
    ) -> Result<BackupReport> {
        let medium = Medium::open(backup.as_ref())?;
        builder::check_magic(&medium)?;
        let store = Store::builder().open_backend(move || Ok(medium.backend()))?;
        let txn = store.begin_read()?;
        for name in txn.indexes()? {
            let report = txn.verify(&name, observer)?;
            if let Some(problem) = report.problems.first() {
                let (table, what) = (&problem.table, &problem.what);
                return Err(Error::corrupt(table, problem.key, format!("{what}: the backup is damaged")));
            }
        }
        drop(txn);
        store.backup_checked(path, observer)
    }

    /// The third depth of verification, below vellum's tables, of a file that is not open: the checksums of all pages of redb's trees, each
    /// that is damaged with its table and its offset in the file; then, if all are sound, redb's own check, of its map of free pages, too.
    /// Nothing is written. Whatever the file is, this comes back: ask it before opening a file of a stranger's.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Foreign`], [`Error::Locked`]. Damage is no error here: it is in the report, in which nothing
    /// else is counted.
    pub fn verify_pages(path: impl AsRef<Path>) -> Result<VerifyReport> {
        let medium = Medium::open(path.as_ref())?;
        builder::check_magic(&medium)?;
        let mut report = VerifyReport::default();
        let medium = medium.backend();
        let trees = |report: &mut VerifyReport| {
            let checked = check_all_trees(&medium, &mut |e| report.note_error(e));
            checked.unwrap_or_else(|e| report.note_error(e));
            report.problems.is_empty()
        };
        let settled = is_settled(&medium).unwrap_or(true);
        if settled && !trees(&mut report) {
            return Ok(report);
        }
        let opened = Own::open(&medium, |medium| {
            let mut builder = Database::builder();
            builder.set_cache_size(64 << 20);
            Ok(builder.create_with_backend(medium).map_err(redb::Error::from)?)
        });
        if opened.is_ok() && !settled && !trees(&mut report) {
            return Ok(report);
        }
        let checked = opened.and_then(|mut database| {
            guarded(|| Ok(database.check_integrity().map_err(redb::Error::from)?))
        });
        match checked {
            Ok(true) => {}
            Ok(false) => report.note("(redb)", 0, "checksums of pages or the map of free pages do not fit"),
            Err(e) => report.note_error(e),
        }
        Ok(report)
    }
}
