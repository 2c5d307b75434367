//! Salvage: what can be read of a broken file, in a new store.
//!
//! ```text
//! medium   the file, opened for reading alone
//! scan     every frame, header, name and key in it, wherever it stands, of whatever age: redb is not asked
//! tables   redb over the same bytes, table by table: what is current, as far as redb gets without failing
//! choose   of each value the version to believe
//! fill     the values into a new store, where `repair` makes an index of them
//! ```
//! Limits. Where redb can say nothing, age goes by the change number in each frame: a value whose newest version was wiped
//! out without a trace may come back as it was in an earlier state, a commit that was cut off may come back in part or
//! whole, and an index that was dropped may come back. [`SalvagedIndex::unproven_values`] counts what that may concern. A key has no
//! frame: without redb's tables, keys are found only if the file holds (or held) one index of keys.

mod choose;
mod fill;
pub(crate) mod medium;
mod scan;
mod tables;

use self::choose::choose;
use self::fill::{Filled, fill, nameless};
use self::medium::Medium;
use self::scan::{Remains, Scan};
use self::tables::{Catalog, Reached};
use super::Store;
use super::backup::publish;
use crate::guard::guarded;
use crate::index::writer::{check_name, random};
use crate::index::{Problem, RepairReport};
use crate::storage::format::Uuid;
use crate::{Error, Observer, Result};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What was saved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SalvageReport {
    /// Why redb cannot open the file, if it cannot: then all was found by looking for vellum's own values.
    pub refused: Option<String>,
    /// The indexes, by name.
    pub indexes: Vec<SalvagedIndex>,
    /// The size of the new file in bytes.
    pub file_bytes: u64,
}

/// What was saved of one index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SalvagedIndex {
    /// Its name in the new store.
    pub name: String,
    /// False if nothing says how it was called.
    pub name_found: bool,
    /// Vectors in the new store.
    pub rows: u64,
    /// How many its header counted; none if no header was found, and then nothing could be saved.
    pub rows_counted: Option<u64>,
    /// The ids that something still knew and that no vector has any more, ascending. There may be others: the vectors that are
    /// lost are [`lost_rows`](Self::lost_rows).
    pub lost_ids: Vec<u64>,
    /// True if what training made was found, or there was nothing: else the index is no longer trained.
    pub model_found: bool,
    /// Blocks and pages that nothing proves to be of the last commit: they were the newest to be found.
    pub unproven_values: u64,
    /// What the repair in the new store did.
    pub repair: RepairReport,
    /// What is still wrong, at most 1,000 of it.
    pub problems: Vec<Problem>,
    /// Why nothing could be saved.
    pub failure: Option<String>,
}

impl SalvagedIndex {
    /// Vectors that the header counted and that are not in the new store.
    pub fn lost_rows(&self) -> u64 {
        self.rows_counted.unwrap_or(0).saturating_sub(self.rows)
    }
}

impl Store {
    /// Copies whatever can be read out of a broken file to a new store. The file is opened for reading alone and never
    /// written; it may be one that redb refuses to open, or panics on. redb is asked table by table what is current; what it
    /// cannot reach is looked for in the raw bytes, where each block and page says what it is, under checksums. An index whose
    /// model is lost comes back untrained, with those vectors that stand as they are (kept rows, codes that are components).
    ///
    /// Two passes over the file, and about 100 bytes of memory a block or page of it. Ticks as `"scan"` in bytes, `"fill"` in
    /// values or vectors, `"repair"` and `"verify"`.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is a file at `new_path`; [`Error::NotFound`]; [`Error::Locked`] while somebody has the broken file
    /// open; [`Error::Foreign`] if it holds nothing of vellum's; [`Error::NewerVersion`]; [`Error::Cancelled`], and then no file is left.
    pub fn salvage(
        path: impl AsRef<Path>,
        new_path: impl AsRef<Path>,
        observer: &mut Observer<'_>,
    ) -> Result<SalvageReport> {
        salvage(path.as_ref(), new_path.as_ref(), Ask::Redb, observer)
    }

    /// The same without asking redb, by the raw bytes alone: for a file on which redb never comes to an end. What was removed,
    /// replaced or dropped may come back, as said above; prefer [`salvage`](Self::salvage).
    ///
    /// # Errors
    /// As [`salvage`](Self::salvage).
    pub fn salvage_by_scan(
        path: impl AsRef<Path>,
        new_path: impl AsRef<Path>,
        observer: &mut Observer<'_>,
    ) -> Result<SalvageReport> {
        salvage(path.as_ref(), new_path.as_ref(), Ask::Nobody, observer)
    }
}

/// Who is asked what is current.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    Redb,
    Nobody,
}

fn salvage(path: &Path, new_path: &Path, ask: Ask, observer: &mut Observer<'_>) -> Result<SalvageReport> {
    if new_path.symlink_metadata().is_ok() {
        return Err(Error::Exists { path: new_path.into() });
    }
    let medium = Medium::open(path)?;
    let mut partial = new_path.as_os_str().to_owned();
    partial.push(format!(".{:016x}.partial", random()));
    let partial = PathBuf::from(partial);
    let made = guarded(|| save(&medium, &partial, ask, observer)).and_then(|mut report| {
        publish(&partial, new_path)?;
        report.file_bytes = fs::metadata(new_path)?.len();
        Ok(report)
    });
    if made.is_err() {
        // Nothing but our own half-made store.
        let _ = fs::remove_file(&partial);
    }
    made
}

fn save(medium: &Medium, partial: &Path, ask: Ask, observer: &mut Observer<'_>) -> Result<SalvageReport> {
    let scan = scan::scan(medium, observer)?;
    let (catalog, refused) = match ask {
        Ask::Nobody => (Catalog::default(), Some("it was not asked".into())),
        Ask::Redb => match tables::reach(medium) {
            Ok(catalog) => (catalog, None),
            Err(e) => (Catalog::default(), Some(e.to_string())),
        },
    };
    if refused.is_some() && scan.indexes.is_empty() {
        return Err(Error::Foreign { what: "nothing of vellum's was found in it".into() });
    }
    let store = Store::create(partial)?;
    let keys = if keys_of_one_index(&scan) { scan.keys.settle() } else { BTreeMap::new() };
    let mut report = SalvageReport { refused, ..SalvageReport::default() };
    for Candidate { name, name_found, uuid, reached } in candidates(&scan, catalog) {
        let none = Remains::default();
        let remains = uuid.and_then(|uuid| scan.indexes.get(&uuid)).unwrap_or(&none);
        let known = reached.is_some();
        let saved = match choose(medium, remains, reached, &keys)? {
            Some(chosen) => {
                let counted = chosen.header.ntotal;
                let filled = fill(&store, medium, &name, &chosen, observer)?;
                let saved = SalvagedIndex { rows_counted: Some(counted), ..SalvagedIndex::default() };
                told(
                    &store,
                    &name,
                    filled,
                    SalvagedIndex { unproven_values: chosen.unproven, ..saved },
                    observer,
                )?
            }
            None => SalvagedIndex { failure: Some("no header was found".into()), ..SalvagedIndex::default() },
        };
        // Pages of an index that was dropped long ago are no loss.
        if known || saved.rows > 0 || saved.rows_counted.is_some() {
            report.indexes.push(SalvagedIndex { name, name_found, ..saved });
        }
    }
    report.indexes.sort_by(|a, b| a.name.cmp(&b.name));
    store.flush()?;
    store.compact()?;
    Ok(report)
}

/// Completes what is said of an index.
fn told(
    store: &Store,
    name: &str,
    filled: Filled,
    saved: SalvagedIndex,
    observer: &mut Observer<'_>,
) -> Result<SalvagedIndex> {
    let saved = match filled {
        Filled::Repaired(repair) => {
            let (rows, lost_ids) = (repair.rows, repair.lost_ids.clone());
            SalvagedIndex { rows, lost_ids, model_found: true, repair, ..saved }
        }
        Filled::Untrained(rows) => SalvagedIndex { rows, ..saved },
        Filled::Lost(e) => return Ok(SalvagedIndex { failure: Some(e.to_string()), ..saved }),
    };
    let problems = store.begin_read()?.verify(name, observer)?.problems;
    Ok(SalvagedIndex { problems, ..saved })
}

/// True if whatever keys the file holds are one index's.
fn keys_of_one_index(scan: &Scan) -> bool {
    let keyed = |remains: &&Remains| remains.headers.iter().any(|header| header.keys);
    let unknown = |remains: &&Remains| remains.headers.is_empty();
    let known = scan.indexes.values().filter(keyed).count();
    known == 1 && !scan.indexes.values().any(|remains| unknown(&remains))
}

/// An index of which something may be left.
struct Candidate {
    name: String,
    name_found: bool,
    uuid: Option<Uuid>,
    reached: Option<Reached>,
}

/// The indexes that redb knows, and, unless those are all, those of which the scan found anything.
fn candidates(scan: &Scan, catalog: Catalog) -> Vec<Candidate> {
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut taken: HashSet<String> = HashSet::new();
    let mut uuids: HashSet<Uuid> = HashSet::new();
    for (name, reached) in catalog.indexes {
        let name_found = check_name(&name).is_ok();
        let uuid = reached.uuid;
        let fallback = || nameless(uuid.unwrap_or_default());
        let name = unused(&mut taken, if name_found { name } else { fallback() });
        uuids.extend(uuid);
        candidates.push(Candidate { name, name_found, uuid, reached: Some(reached) });
    }
    if catalog.whole {
        return candidates;
    }
    let others: BTreeMap<&Uuid, &Remains> =
        scan.indexes.iter().filter(|(uuid, _)| !uuids.contains(*uuid)).collect();
    for (uuid, remains) in others {
        let found = remains.names.iter().find(|name| check_name(name).is_ok());
        let name = unused(&mut taken, found.cloned().unwrap_or_else(|| nameless(*uuid)));
        candidates.push(Candidate { name, name_found: found.is_some(), uuid: Some(*uuid), reached: None });
    }
    candidates
}

/// The name, or one like it if somebody has it already.
fn unused(taken: &mut HashSet<String>, name: String) -> String {
    let mut number = 1;
    let mut unique = name.clone();
    while !taken.insert(unique.clone()) {
        number += 1;
        unique = format!("{}-{number}", name.chars().take(24).collect::<String>());
    }
    unique
}
