//! `IdSelector`: a set of ids, given as a list, a range, a bitmap, a function, or a combination.
//!
//! A search asks [`IdSelector::contains`] per candidate; removal and tight filters ask
//! [`IdSelector::exact_ids`] first, because walking a few named ids beats testing every entry.

use parking_lot::Mutex;
use roaring::RoaringTreemap;
use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::{Not, Range};
use std::sync::Arc;

/// Which ids take part in a search or a removal.
///
/// Selectors combine:
///
/// ```
/// # use vellum::IdSelector;
/// let mine = IdSelector::range(100..200).and(!IdSelector::batch([150, 151]));
/// assert!(mine.contains(149) && !mine.contains(150) && !mine.contains(200));
/// let even = IdSelector::callback(|id| id % 2 == 0);
/// assert!(!mine.xor(even).contains(148));
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum IdSelector {
    /// Every id.
    All,
    /// The ids of a half-open range: the start, not the end.
    Range(Range<u64>),
    /// The listed ids, tested one by one: for a handful. [`IdSelector::batch`] is for more.
    Array(Vec<u64>),
    /// The ids of a hashed set; made by [`IdSelector::batch`].
    Batch(IdSet),
    /// The ids of a compressed bitmap: the form for large sets.
    Bitmap(RoaringTreemap),
    /// The ids that the inner selector leaves out.
    Not(Box<IdSelector>),
    /// The ids in both.
    And(Box<IdSelector>, Box<IdSelector>),
    /// The ids in at least one.
    Or(Box<IdSelector>, Box<IdSelector>),
    /// The ids in exactly one.
    XOr(Box<IdSelector>, Box<IdSelector>),
    /// The ids for which the function returns true. It is called from several threads, perhaps several
    /// times per id, and must always answer the same.
    Callback(Arc<dyn Fn(u64) -> bool + Send + Sync>),
}

impl IdSelector {
    /// The ids of a half-open range.
    pub fn range(ids: Range<u64>) -> Self {
        IdSelector::Range(ids)
    }

    /// The listed ids, in a hashed set; repetitions do not matter.
    pub fn batch(ids: impl IntoIterator<Item = u64>) -> Self {
        IdSelector::Batch(ids.into_iter().collect())
    }

    /// The ids of a bitmap.
    ///
    /// ```
    /// # use vellum::IdSelector;
    /// let selector = IdSelector::bitmap((0..1_000_000u64).filter(|id| id % 3 == 0).collect());
    /// assert!(selector.contains(999_999) && !selector.contains(1_000_000));
    /// ```
    pub fn bitmap(ids: RoaringTreemap) -> Self {
        IdSelector::Bitmap(ids)
    }

    /// The ids that `accepts` accepts.
    pub fn callback(accepts: impl Fn(u64) -> bool + Send + Sync + 'static) -> Self {
        IdSelector::Callback(Arc::new(accepts))
    }

    /// The ids in both.
    pub fn and(self, other: IdSelector) -> Self {
        IdSelector::And(Box::new(self), Box::new(other))
    }

    /// The ids in at least one of the two.
    pub fn or(self, other: IdSelector) -> Self {
        IdSelector::Or(Box::new(self), Box::new(other))
    }

    /// The ids in exactly one of the two.
    pub fn xor(self, other: IdSelector) -> Self {
        IdSelector::XOr(Box::new(self), Box::new(other))
    }

    /// The ids that are not in this one; `!selector` is the same.
    pub fn negate(self) -> Self {
        IdSelector::Not(Box::new(self))
    }

    /// True if `id` is selected.
    pub fn contains(&self, id: u64) -> bool {
        match self {
            IdSelector::All => true,
            IdSelector::Range(ids) => ids.contains(&id),
            IdSelector::Array(ids) => ids.contains(&id),
            IdSelector::Batch(ids) => ids.contains(id),
            IdSelector::Bitmap(ids) => ids.contains(id),
            IdSelector::Not(inner) => !inner.contains(id),
            IdSelector::And(a, b) => a.contains(id) && b.contains(id),
            IdSelector::Or(a, b) => a.contains(id) || b.contains(id),
            IdSelector::XOr(a, b) => a.contains(id) != b.contains(id),
            IdSelector::Callback(accepts) => accepts(id),
        }
    }

    /// The selected ids, ascending and without repetition, if they can be listed from parts of at most
    /// `limit` ids. `None` says nothing about how many there are.
    pub(crate) fn exact_ids(&self, limit: usize) -> Option<Vec<u64>> {
        match self {
            IdSelector::Range(ids) => listed_range(ids, limit),
            IdSelector::Array(ids) if ids.len() <= limit => Some(sorted(ids.iter().copied())),
            IdSelector::Batch(ids) if ids.len() <= limit => Some(sorted(ids.iter())),
            IdSelector::Bitmap(ids) if ids.len() <= limit as u64 => Some(ids.iter().collect()),
            IdSelector::And(a, b) => match (a.exact_ids(limit), b.exact_ids(limit)) {
                (Some(a), Some(b)) => Some(only(a, |id| b.binary_search(&id).is_ok())),
                (Some(ids), None) => Some(only(ids, |id| b.contains(id))),
                (None, Some(ids)) => Some(only(ids, |id| a.contains(id))),
                (None, None) => None,
            },
            IdSelector::Or(a, b) => Some(sorted(chain(a.exact_ids(limit)?, b.exact_ids(limit)?))),
            IdSelector::XOr(a, b) => {
                let (a, b) = (a.exact_ids(limit)?, b.exact_ids(limit)?);
                let both = only(a.clone(), |id| b.binary_search(&id).is_ok());
                Some(only(sorted(chain(a, b)), |id| both.binary_search(&id).is_err()))
            }
            _ => None,
        }
    }

    /// True if it surely selects every id.
    pub(crate) fn is_all(&self) -> bool {
        match self {
            IdSelector::All => true,
            IdSelector::And(a, b) => a.is_all() && b.is_all(),
            IdSelector::Or(a, b) => a.is_all() || b.is_all(),
            _ => false,
        }
    }
}

impl Not for IdSelector {
    type Output = IdSelector;

    fn not(self) -> IdSelector {
        self.negate()
    }
}

impl fmt::Debug for IdSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdSelector::All => f.write_str("All"),
            IdSelector::Range(ids) => f.debug_tuple("Range").field(ids).finish(),
            IdSelector::Array(ids) => f.debug_tuple("Array").field(ids).finish(),
            IdSelector::Batch(ids) => f.debug_tuple("Batch").field(ids).finish(),
            IdSelector::Bitmap(ids) => write!(f, "Bitmap({} ids)", ids.len()),
            IdSelector::Not(inner) => f.debug_tuple("Not").field(inner).finish(),
            IdSelector::And(a, b) => f.debug_tuple("And").field(a).field(b).finish(),
            IdSelector::Or(a, b) => f.debug_tuple("Or").field(a).field(b).finish(),
            IdSelector::XOr(a, b) => f.debug_tuple("XOr").field(a).field(b).finish(),
            IdSelector::Callback(_) => f.write_str("Callback(..)"),
        }
    }
}

/// A bitmap of row numbers.
pub(crate) struct RowSet {
    words: Vec<u64>,
}

impl RowSet {
    /// None of so many rows.
    pub(crate) fn new(rows: u32) -> Self {
        RowSet { words: vec![0; rows.div_ceil(64) as usize] }
    }

    /// All of so many rows.
    pub(crate) fn full(rows: u32) -> Self {
        RowSet { words: vec![u64::MAX; rows.div_ceil(64) as usize] }
    }

    pub(crate) fn insert(&mut self, row: u32) {
        if let Some(word) = self.words.get_mut(row as usize / 64) {
            *word |= 1 << (row % 64);
        }
    }

    pub(crate) fn remove(&mut self, row: u32) {
        if let Some(word) = self.words.get_mut(row as usize / 64) {
            *word &= !(1 << (row % 64));
        }
    }

    pub(crate) fn contains(&self, row: u32) -> bool {
        self.words.get(row as usize / 64).is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    pub(crate) fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The rows, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        let bits = |(w, word): (usize, &u64)| {
            let word = *word;
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| w as u32 * 64 + bit)
        };
        self.words.iter().enumerate().filter(|(_, word)| **word != 0).flat_map(bits)
    }
}

/// What a selector came to in one state of one index, for the next search of the same.
#[derive(Default)]
pub(crate) struct ResolvedSelector(Mutex<Option<(State, Resolved)>>);

/// What names a state of an index: uuid, change, nonce.
pub(crate) type State = ([u8; 16], u64, u64);

/// The rows of a selector.
#[derive(Clone)]
pub(crate) enum Resolved {
    /// Few.
    Thin(Arc<RowSet>),
    /// Many: about such a share of all.
    Dense(f64),
    /// Many, and worth knowing; about such a share.
    DenseRows(Arc<RowSet>, f64),
}

impl ResolvedSelector {
    /// What is known of `state`.
    pub(crate) fn get(&self, state: State) -> Option<Resolved> {
        self.0.lock().as_ref().filter(|(of, _)| *of == state).map(|(_, resolved)| resolved.clone())
    }

    /// Remembers it.
    pub(crate) fn set(&self, state: State, resolved: Resolved) -> Resolved {
        *self.0.lock() = Some((state, resolved.clone()));
        resolved
    }
}

impl fmt::Debug for ResolvedSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ResolvedSelector").field(&self.0.lock().is_some()).finish()
    }
}

/// The longest range that is listed: a range costs nothing to say, and may name all 2^64 ids.
const LISTED_RANGE_MAX: usize = 1 << 20;

fn listed_range(ids: &Range<u64>, limit: usize) -> Option<Vec<u64>> {
    let count = ids.end.saturating_sub(ids.start);
    (count <= limit.min(LISTED_RANGE_MAX) as u64).then(|| ids.clone().collect())
}

fn chain(a: Vec<u64>, b: Vec<u64>) -> impl Iterator<Item = u64> {
    a.into_iter().chain(b)
}

fn only(mut ids: Vec<u64>, keep: impl Fn(u64) -> bool) -> Vec<u64> {
    ids.retain(|&id| keep(id));
    ids
}

fn sorted(ids: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut ids: Vec<u64> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// A set of ids behind [`IdSelector::Batch`]; cheap to clone.
#[derive(Clone)]
pub struct IdSet {
    ids: Arc<HashSet<u64, IdHash>>,
}

impl IdSet {
    /// True if `id` is in the set.
    pub fn contains(&self, id: u64) -> bool {
        self.ids.contains(&id)
    }

    /// Number of ids.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True if there is no id.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The ids in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.ids.iter().copied()
    }
}

impl FromIterator<u64> for IdSet {
    fn from_iter<I: IntoIterator<Item = u64>>(ids: I) -> Self {
        let mut set = HashSet::with_hasher(IdHash::new());
        set.extend(ids);
        IdSet { ids: Arc::new(set) }
    }
}

impl fmt::Debug for IdSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdSet({} ids)", self.len())
    }
}

/// Hashes one `u64` with two multiplications, where the standard hasher takes twenty nanoseconds per
/// candidate. The key is drawn once per set, so that nobody can prepare ids that collide.
#[derive(Clone)]
struct IdHash {
    key: u64,
}

impl IdHash {
    fn new() -> Self {
        IdHash { key: RandomState::new().hash_one(0) }
    }
}

impl BuildHasher for IdHash {
    type Hasher = IdHasher;

    fn build_hasher(&self) -> IdHasher {
        IdHasher { hash: self.key }
    }
}

struct IdHasher {
    hash: u64,
}

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.hash
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    /// The halves of a 128-bit product, folded, twice.
    fn write_u64(&mut self, id: u64) {
        let fold = |a: u64, b: u64| {
            let product = u128::from(a) * u128::from(b);
            product as u64 ^ (product >> 64) as u64
        };
        self.hash = fold(fold(id ^ self.hash, 0x9e37_79b9_7f4a_7c15) ^ self.hash, 0xd6e8_feb8_6659_fd93);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const UNIVERSE: u64 = 40;

    /// A selector and the set it should equal, among ids below [`UNIVERSE`].
    fn selector() -> impl Strategy<Value = (IdSelector, BTreeSet<u64>)> {
        let ids = || proptest::collection::vec(0..UNIVERSE, 0..12);
        let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
        let leaf = prop_oneof![
            Just((IdSelector::All, (0..UNIVERSE).collect())),
            (0..UNIVERSE, 0..=UNIVERSE).prop_map(|(a, b)| (IdSelector::range(a..b), (a..b).collect())),
            ids().prop_map(move |ids| (IdSelector::Array(ids.clone()), set(&ids))),
            ids().prop_map(move |ids| (IdSelector::batch(ids.clone()), set(&ids))),
            ids().prop_map(move |ids| (IdSelector::bitmap(ids.iter().copied().collect()), set(&ids))),
            (1u64..5).prop_map(|m| {
                (
                    IdSelector::callback(move |id| id % m == 0),
                    (0..UNIVERSE).filter(|id| id % m == 0).collect(),
                )
            }),
        ];
        leaf.prop_recursive(4, 16, 2, |inner| {
            let pair = (inner.clone(), inner.clone(), 0..3usize);
            prop_oneof![
                inner.prop_map(|(s, ids)| (!s, (0..UNIVERSE).filter(|id| !ids.contains(id)).collect())),
                pair.prop_map(|((a, x), (b, y), which)| match which {
                    0 => (a.and(b), &x & &y),
                    1 => (a.or(b), &x | &y),
                    _ => (a.xor(b), &x ^ &y),
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_selector_is_the_set_it_describes((selector, set) in selector(), limit in 0usize..50) {
            for id in 0..UNIVERSE {
                prop_assert_eq!(selector.contains(id), set.contains(&id), "{:?} {}", selector, id);
            }
            if let Some(ids) = selector.exact_ids(limit) {
                prop_assert!(ids.is_sorted_by(|a, b| a < b));
                prop_assert_eq!(ids.into_iter().collect::<BTreeSet<u64>>(), set.clone());
            }
            prop_assert!(!selector.is_all() || set.len() as u64 == UNIVERSE);
        }
    }

    #[test]
    fn what_can_be_listed_is_listed() {
        let few = IdSelector::batch([5, 3, 5]).and(IdSelector::callback(|id| id != 3));
        assert_eq!(few.exact_ids(10), Some(vec![5]));
        assert_eq!(IdSelector::range(0..u64::MAX).exact_ids(1000), None);
        assert_eq!(
            IdSelector::range(7..10).or(IdSelector::Array(vec![1, 1])).exact_ids(3),
            Some(vec![1, 7, 8, 9])
        );
        assert_eq!(IdSelector::range(7..10).exact_ids(2), None);
        assert_eq!(IdSelector::range(0..u64::MAX).and(!IdSelector::All).exact_ids(usize::MAX), None);
        assert_eq!((!IdSelector::All).exact_ids(10), None);
        assert!(IdSelector::All.or(IdSelector::batch([])).is_all());
    }

    #[test]
    fn large_batches_of_regular_ids_do_not_collide() {
        let set: IdSet = (0..1u64 << 16).map(|i| i << 32).collect();
        assert_eq!(set.len(), 1 << 16);
        assert!((0..1u64 << 16).all(|i| set.contains(i << 32) && !set.contains((i << 32) + 1)));
    }
}
