//! Lists that are found otherwise than by comparing transformed centroids: by a quantizer of the caller's own
//! ([`Quantizer`]), or among vectors as they are before any transform.
//!
//! ```text
//! vector, before transforms ─ finder ─→ lists             rows are assigned, queries probe
//! vector, behind transforms ─ centroids ─→ their scores   what codes are relative to, what distances begin with
//! ```
//! A finder says which lists and in what order, and nothing else: scores are those of the centroids behind the transforms, which
//! the index stores. So a quantizer has no say in distances, and answers over all lists are those of any other.

use super::flat::FlatCoarse;
use super::params::{QuantizerValue, bad};
use super::{CoarseQuantizer, NONE, Probes};
use crate::kernel::Similarity;
use crate::{Error, Result, Rows};
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

/// A coarse quantizer of the caller's own: which list a vector belongs to, and which lists a query should probe.
///
/// It is code, so it is not stored: an index of [`Coarse::Own`](crate::Coarse::Own) stores the name, the fingerprint and the centroids, and cannot
/// be opened, once it is trained, without a quantizer that has the same. Give it to
/// [`Builder::quantizer`](crate::Builder::quantizer) or [`Store::add_quantizer`](crate::Store::add_quantizer), or open an index of the application's own transaction with
/// it. `train` takes the lists as the quantizer has them; k-means is not run.
///
/// Vectors are seen as they were given, before any transform; under cosine they are scaled to length 1. Distances are not asked for: they
/// are computed from the centroids.
///
/// ```
/// # use vellum::*;
/// # use std::sync::Arc;
/// /// Numbers by their whole part, of one component.
/// struct Whole(usize);
///
/// impl Quantizer for Whole {
///     fn name(&self) -> &str {
///         "whole"
///     }
///     fn dim(&self) -> usize {
///         1
///     }
///     fn nlist(&self) -> usize {
///         self.0
///     }
///     fn centroid(&self, list: u32, centroid: &mut [f32]) {
///         centroid[0] = list as f32 + 0.5;
///     }
///     fn nearest(&self, queries: Rows<'_>, nprobe: usize, lists: &mut [u32]) -> Result<()> {
///         for (query, lists) in queries.iter().zip(lists.chunks_exact_mut(nprobe)) {
///             lists[0] = (query[0].max(0.0) as u32).min(self.0 as u32 - 1); // the others are filled up
///         }
///         Ok(())
///     }
/// }
///
/// let store = Store::builder()
///     .quantizer(Arc::new(Whole(10)))?
///     .open_backend(|| Ok(redb::backends::InMemoryBackend::new()))?;
/// let txn = store.begin_write()?;
/// txn.create_index("n", &"IVF10(own:whole),Flat".parse::<IndexSpec>()?.with_dim(1))?;
/// let mut index = txn.index("n")?;
/// index.train(Rows::new(&[], 1)?, &TrainParams::default(), &mut Observer::none())?;
/// index.add(Rows::new(&[3.25, 3.75, 8.0], 1)?)?;
/// drop(index);
/// txn.commit()?;
/// let index = store.begin_read()?.index("n")?;
/// assert_eq!(index.list_sizes()?, [0, 0, 0, 2, 0, 0, 0, 0, 1, 0]);
/// # Ok::<(), Error>(())
/// ```
pub trait Quantizer: Send + Sync {
    /// Its name, the same for as long as an index needs it: 1 to 24 letters, digits, `-`, `_` or `.`.
    fn name(&self) -> &str;

    /// Tells apart what has the same name and assigns differently, such as two trainings of it. 0 unless it is said.
    fn fingerprint(&self) -> u64 {
        0
    }

    /// Components of the vectors it takes: those of the index.
    fn dim(&self) -> usize;

    /// Lists it knows.
    fn nlist(&self) -> usize;

    /// The vector that stands for a list, 0 to [`nlist`](Self::nlist) − 1: what codes of residuals are relative to. Always the same.
    fn centroid(&self, list: u32, centroid: &mut [f32]);

    /// Writes the `nprobe` lists that each query should look into, the most promising first: `nprobe` places a query, query after query, each
    /// `u32::MAX` when they are handed over. Places that are left so are filled up with lists that were not named, the lowest first.
    ///
    /// # Errors
    /// Whatever it likes; the search or the addition fails with it. A list that there is not, or one that is named twice, is [`Error::Quantizer`].
    fn nearest(&self, queries: Rows<'_>, nprobe: usize, lists: &mut [u32]) -> Result<()>;

    /// The same for a search that says how ([`QuantizerParams::Own`](crate::QuantizerParams::Own)): the value is what the search was given. A quantizer
    /// that is not told how to take one refuses it.
    ///
    /// # Errors
    /// As [`nearest`](Self::nearest); [`Error::Parameter`] for a value that is none of its own ([`QuantizerValue::get`]).
    fn nearest_with(
        &self,
        _queries: Rows<'_>,
        _nprobe: usize,
        value: &QuantizerValue,
        _lists: &mut [u32],
    ) -> Result<()> {
        Err(bad(format!("{value:?}, the quantizer `{}` takes no parameters of a search", self.name())))
    }

    /// Writes the list of each row that is to be stored: the first of the nearest, unless it is done otherwise.
    ///
    /// # Errors
    /// As [`nearest`](Self::nearest); a row without a list is [`Error::Quantizer`].
    fn assign(&self, rows: Rows<'_>, lists: &mut [u32]) -> Result<()> {
        self.nearest(rows, 1, lists)
    }
}

/// The name of a [`Quantizer`], within a specification.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuantizerName {
    len: u8,
    bytes: [u8; QuantizerName::MAX],
}

impl QuantizerName {
    const MAX: usize = 24;

    /// A name of 1 to 24 letters, digits, `-`, `_` or `.`.
    ///
    /// # Errors
    /// [`Error::Parameter`] for any other.
    pub fn new(name: &str) -> Result<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if !(1..=Self::MAX).contains(&name.len()) || !name.bytes().all(plain) {
            let what = format!("`{name}`, a name is 1 to {} letters, digits, `-`, `_` or `.`", Self::MAX);
            return Err(Error::Parameter { name: "quantizer", what });
        }
        let mut bytes = [0; Self::MAX];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Ok(QuantizerName { len: name.len() as u8, bytes })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl fmt::Display for QuantizerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for QuantizerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// The quantizers that a store, or whoever opened an index, was given.
#[derive(Clone, Default)]
pub(crate) struct Quantizers(Vec<Arc<dyn Quantizer>>);

impl Quantizers {
    pub(crate) fn of(quantizers: &[Arc<dyn Quantizer>]) -> Result<Self> {
        let mut all = Quantizers::default();
        quantizers.iter().try_for_each(|quantizer| all.add(quantizer.clone()))?;
        Ok(all)
    }

    /// One more; in place of one with the same name and fingerprint.
    pub(crate) fn add(&mut self, quantizer: Arc<dyn Quantizer>) -> Result<()> {
        QuantizerName::new(quantizer.name())?;
        let (name, fingerprint) = (quantizer.name().to_string(), quantizer.fingerprint());
        self.0.retain(|old| old.name() != name || old.fingerprint() != fingerprint);
        self.0.push(quantizer);
        Ok(())
    }

    /// The one that an index was trained with.
    pub(crate) fn find(&self, name: &str, fingerprint: u64) -> Result<Arc<dyn Quantizer>> {
        let fits = |q: &&Arc<dyn Quantizer>| q.name() == name && q.fingerprint() == fingerprint;
        self.0.iter().find(fits).cloned().ok_or_else(|| {
            let given: Vec<u64> =
                self.0.iter().filter(|q| q.name() == name).map(|q| q.fingerprint()).collect();
            let what = match given.len() {
                0 => format!(
                    "none of that name was given, the index needs the one of fingerprint {fingerprint}"
                ),
                _ => format!("given were fingerprints {given:?}, the index needs {fingerprint}"),
            };
            Error::Quantizer { name: name.into(), what }
        })
    }

    /// The one of that name that was given last.
    pub(crate) fn newest(&self, name: &str) -> Result<Arc<dyn Quantizer>> {
        let found = self.0.iter().rfind(|quantizer| quantizer.name() == name).cloned();
        found
            .ok_or_else(|| Error::Quantizer { name: name.into(), what: "none of that name was given".into() })
    }
}

impl fmt::Debug for Quantizers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = self.0.iter().map(|q| (q.name().to_string(), q.fingerprint()));
        f.debug_list().entries(named).finish()
    }
}

/// Finds lists among vectors before transforms.
#[derive(Clone)]
pub(crate) enum Finder {
    Own(Arc<dyn Quantizer>),
    /// The nearest centroids there.
    Near(Arc<FlatCoarse>),
}

impl Finder {
    pub(crate) fn near(centroids: Vec<f32>, dim: usize, similarity: Similarity) -> Self {
        Finder::Near(Arc::new(FlatCoarse::new(centroids, dim, similarity)))
    }

    /// The caller's quantizer, for `nlist` lists of `dim` components.
    pub(crate) fn own(quantizer: Arc<dyn Quantizer>, dim: usize, nlist: usize) -> Result<Self> {
        let (its_dim, its_nlist) = (quantizer.dim(), quantizer.nlist());
        if (its_dim, its_nlist) == (dim, nlist) {
            return Ok(Finder::Own(quantizer));
        }
        let what = format!("{its_nlist} lists of dimension {its_dim}, the index has {nlist} of {dim}");
        Err(Error::Quantizer { name: quantizer.name().into(), what })
    }

    /// What tells one training from another besides the centroids.
    pub(crate) fn fingerprint(&self) -> u64 {
        match self {
            Finder::Own(quantizer) => quantizer.fingerprint(),
            Finder::Near(_) => 0,
        }
    }

    /// Its centroids, before transforms.
    pub(crate) fn centroids(&self) -> Vec<f32> {
        match self {
            Finder::Near(near) => near.centroids().as_slice().to_vec(),
            Finder::Own(quantizer) => {
                let mut centroids = vec![0.0; quantizer.nlist() * quantizer.dim()];
                for (list, centroid) in (0..).zip(centroids.chunks_exact_mut(quantizer.dim())) {
                    quantizer.centroid(list, centroid);
                }
                centroids
            }
        }
    }

    /// The list of each row.
    pub(crate) fn assign(&self, rows: Rows<'_>, lists: &mut [u32]) -> Result<()> {
        match self {
            Finder::Near(near) => {
                near.assign(rows, lists, &mut vec![0.0; rows.len()]);
                Ok(())
            }
            Finder::Own(quantizer) => {
                lists.fill(NONE);
                quantizer.assign(rows, lists)?;
                match (0..).zip(&*lists).find(|(_, list)| **list as usize >= quantizer.nlist()) {
                    None => Ok(()),
                    Some((row, list)) => Err(no_list(&**quantizer, "row", row, *list)),
                }
            }
        }
    }

    /// `nprobe` lists of each query, no more than there are; without scores.
    pub(crate) fn nearest(
        &self,
        queries: Rows<'_>,
        nprobe: usize,
        value: Option<&QuantizerValue>,
        probes: &mut Probes,
    ) -> Result<()> {
        match self {
            Finder::Near(near) => near.nearest(queries, nprobe, probes),
            Finder::Own(quantizer) => {
                let nlist = quantizer.nlist();
                probes.nprobe = nprobe.min(nlist);
                probes.lists.clear();
                probes.lists.resize(queries.len() * probes.nprobe, NONE);
                match value {
                    None => quantizer.nearest(queries, probes.nprobe, &mut probes.lists)?,
                    Some(value) => {
                        quantizer.nearest_with(queries, probes.nprobe, value, &mut probes.lists)?;
                    }
                }
                let each = probes.lists.chunks_exact_mut(probes.nprobe.max(1)).enumerate();
                each.into_iter().try_for_each(|(query, lists)| complete(&**quantizer, query, lists))?;
            }
        }
        Ok(())
    }
}

fn no_list(quantizer: &dyn Quantizer, of: &str, number: usize, list: u32) -> Error {
    let what = match list {
        NONE => format!("no list for {of} {number}"),
        list => format!("list {list} for {of} {number}, there are {}", quantizer.nlist()),
    };
    Error::Quantizer { name: quantizer.name().into(), what }
}

/// Checks the lists of a query and fills up what is left open.
fn complete(quantizer: &dyn Quantizer, query: usize, lists: &mut [u32]) -> Result<()> {
    let mut seen = HashSet::with_capacity(lists.len());
    for list in lists.iter().filter(|list| **list != NONE) {
        if *list as usize >= quantizer.nlist() {
            return Err(no_list(quantizer, "query", query, *list));
        }
        if !seen.insert(*list) {
            let what = format!("list {list} twice for query {query}");
            return Err(Error::Quantizer { name: quantizer.name().into(), what });
        }
    }
    if seen.len() == lists.len() {
        return Ok(());
    }
    let named = lists.iter().copied().filter(|list| *list != NONE);
    let others = (0..quantizer.nlist() as u32).filter(|list| !seen.contains(list));
    let whole: Vec<u32> = named.chain(others).take(lists.len()).collect();
    lists.copy_from_slice(&whole);
    Ok(())
}
