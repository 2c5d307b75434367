//! Settling what witnesses say against each other. No table is read or written here: `repair` brings what they say, and
//! writes what was settled.
//!
//! ```text
//! places   each entry claims to be its row's: `Claims` grants one, or two of different lists
//! lists    which of a row's two lists comes first: `Placed`
//! ids      the column of ids and the map: `Witnesses` gives no id to two rows
//! keys     two tables of them: `settle_keys` gives no key to two ids
//! rows     a kept row and its codes: `Agreement`
//! twins    whose entry a row without one shares: `Twins`
//! ```
//! A page that was put back to an earlier state is whole by itself, and only the others show that it is not of this
//! one. So what several agree on is believed first, then what the better witness says, then what is left; what one has
//! been given, no other gets.

use crate::storage::ids::{KEY_BYTES_MAX, Slot, Slots};
use crate::storage::twins::Twin;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Where a row stands, and ‖x − c‖² at its first slot.
#[derive(Clone, Copy, Default)]
pub(super) struct Placed {
    pub(super) slots: Slots,
    residual: f64,
}

impl Placed {
    /// Adds a place. The list that the column named comes first, or else the one of the smaller residual, which is the
    /// nearest as far as the codes can tell.
    pub(super) fn enter(&mut self, slot: Slot, residual: f64, nearest: Option<u32>) {
        let nearer = match (self.slots.first, nearest) {
            (Some(first), Some(list)) if list == first.list || list == slot.list => list == slot.list,
            _ => residual < self.residual,
        };
        if self.slots.first.is_none() || nearer {
            self.residual = residual;
        }
        self.slots.enter(slot);
        if nearer {
            self.slots.lead_with(slot.list);
        }
    }
}

/// An entry's claim to be its row's; the greater one is believed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    /// The row's slots say so, too.
    pub(super) by_slots: bool,
    /// The change that wrote its block.
    pub(super) seq: u64,
    pub(super) slot: Slot,
    /// The checksum of its code where both codes of a row are the same.
    pub(super) sum: u32,
}

/// The claims to a row: one, or two of different lists.
#[derive(Default)]
pub(super) struct Claims {
    best: [Option<Claim>; 2],
    /// Some claim cannot be granted.
    pub(super) rivals: bool,
}

impl Claims {
    /// Hears a claim where a row has `places`.
    pub(super) fn hear(&mut self, claim: Claim, places: usize) {
        let best = &mut self.best[..places];
        let same_list = best.iter().position(|own| own.is_some_and(|own| own.slot.list == claim.slot.list));
        let least = |best: &[Option<Claim>]| (0..best.len()).min_by_key(|at| best[*at]).unwrap_or(0);
        // No claim is less than any: an empty place is the least.
        let own = &mut best[same_list.unwrap_or(least(best))];
        self.rivals |= own.is_some();
        *own = (*own).max(Some(claim));
    }

    /// The places that are granted. Of two entries that are different vectors the one written last is believed: the
    /// other was put back to an earlier state, as a change of a vector writes both.
    pub(super) fn settle(&mut self) -> Slots {
        if let [Some(a), Some(b)] = self.best
            && a.sum != b.sum
        {
            self.rivals = true;
            self.best = [if (a.seq, a) > (b.seq, b) { Some(a) } else { Some(b) }, None];
        }
        let mut slots = Slots::default();
        self.best.iter().flatten().for_each(|claim| slots.enter(claim.slot));
        slots
    }
}

/// Rows that share the entry of another, and who says so: the slot and the twin of each, and the change that wrote the page.
#[derive(Default)]
pub(super) struct Twins {
    pub(super) slots: HashMap<u32, (Slot, u64)>,
    pub(super) twins: HashMap<u32, (Twin, u64)>,
    /// When the page of a row without either was written.
    pub(super) no_slot: HashMap<u32, u64>,
    pub(super) no_twin: HashMap<u32, u64>,
    /// Lists with a block that is gone or of another commit.
    pub(super) doubtful: HashSet<u32>,
}

/// A row that shares an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) row: u32,
    /// Its slot and its twin both say so.
    pub(super) agreed: bool,
}

impl Twins {
    /// The members of each entry, by the row that the entry names. What touches one of slot and twin writes both, so where
    /// they contradict each other the page written first was put back to an earlier state. An entry that only the slot
    /// leads to, while the twin knows another row that has none, is believed where its list is whole.
    pub(super) fn settle(&self, entries: &HashMap<Slot, u32>) -> HashMap<u32, Vec<Member>> {
        let heads: HashMap<u32, Slot> = entries.iter().map(|(slot, head)| (*head, *slot)).collect();
        let rows: BTreeSet<u32> = self.slots.keys().chain(self.twins.keys()).copied().collect();
        let mut members: HashMap<u32, Vec<Member>> = HashMap::new();
        for row in rows.into_iter().filter(|row| !heads.contains_key(row)) {
            if let Some((head, agreed)) = self.head_of(row, entries, &heads) {
                members.entry(head).or_default().push(Member { row, agreed });
            }
        }
        members
    }

    fn head_of(
        &self,
        row: u32,
        entries: &HashMap<Slot, u32>,
        heads: &HashMap<u32, Slot>,
    ) -> Option<(u32, bool)> {
        let (slot, twin) = (self.slots.get(&row), self.twins.get(&row));
        let by_slot = slot.and_then(|(slot, _)| entries.get(slot)).copied();
        let by_twin = twin.map(|(twin, _)| twin.head).filter(|head| heads.contains_key(head));
        let wrote_slot = slot.map(|(_, seq)| seq).or(self.no_slot.get(&row));
        let wrote_twin = twin.map(|(_, seq)| seq).or(self.no_twin.get(&row));
        match (by_slot, by_twin) {
            (Some(a), Some(b)) if a == b => Some((a, true)),
            (Some(a), Some(b)) => Some((if wrote_slot > wrote_twin { a } else { b }, false)),
            (Some(head), None) => {
                let astray =
                    twin.is_some() && slot.is_some_and(|(slot, _)| self.doubtful.contains(&slot.list));
                (wrote_slot >= wrote_twin && !astray).then_some((head, false))
            }
            (None, Some(head)) => (wrote_twin >= wrote_slot).then_some((head, false)),
            (None, None) => None,
        }
    }
}

/// A witness: what it says about something.
type Says<'a, A, B> = &'a dyn Fn(&A) -> Option<B>;

/// Who says which id a row has. The column is the better witness, as its pages are checked as a whole; but
/// it may be one of an earlier commit.
#[derive(Default)]
pub(super) struct Witnesses {
    pub(super) column: HashMap<u32, u64>,
    pub(super) map: HashMap<u32, u64>,
}

impl Witnesses {
    /// The id of each of `rows`, no id twice: first where both agree, then as the column says, then as the
    /// map says. A row that is left over has none.
    pub(super) fn settle(&self, rows: &BTreeSet<u32>) -> HashMap<u32, u64> {
        let agreed = |row: &u32| self.column.get(row).filter(|id| self.map.get(row) == Some(id)).copied();
        let by_column = |row: &u32| self.column.get(row).copied();
        let by_map = |row: &u32| self.map.get(row).copied();
        let (mut named, mut taken) = (HashMap::new(), HashSet::new());
        let rounds: [Says<'_, u32, u64>; 3] = [&agreed, &by_column, &by_map];
        for says in rounds {
            for row in rows {
                if let Some(id) = says(row)
                    && !named.contains_key(row)
                    && taken.insert(id)
                {
                    named.insert(*row, id);
                }
            }
        }
        named
    }
}

/// A key for each of `ids`, no key twice: first where both tables agree, then as `keymap` says, then as `keys`
/// says; those that are left over get their digits. Returns how many did.
pub(super) fn settle_keys(
    ids: impl Iterator<Item = u64> + Clone,
    by_key: &BTreeMap<u64, Vec<u8>>,
    by_id: &BTreeMap<u64, Vec<u8>>,
) -> (BTreeMap<u64, Vec<u8>>, u64) {
    let mut keys: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut taken: HashSet<Vec<u8>> = HashSet::new();
    let agreed = |id: &u64| by_id.get(id).filter(|key| by_key.get(id) == Some(key)).cloned();
    let rounds: [Says<'_, u64, Vec<u8>>; 3] =
        [&agreed, &|id| by_key.get(id).cloned(), &|id| by_id.get(id).cloned()];
    for says in rounds {
        for id in ids.clone() {
            let said = says(&id).filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()));
            if let Some(key) = said
                && !keys.contains_key(&id)
                && taken.insert(key.clone())
            {
                keys.insert(id, key);
            }
        }
    }
    let mut made = 0;
    for id in ids {
        if let Entry::Vacant(place) = keys.entry(id) {
            let mut key = id.to_string().into_bytes();
            // Somebody may have chosen such digits for a key.
            while !taken.insert(key.clone()) {
                key.push(b'\'');
            }
            place.insert(key);
            made += 1;
        }
    }
    (keys, made)
}

/// Whether a row's codes are those of its kept row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Agreement {
    Full,
    /// One of two is, so the other went back to an earlier state.
    Partial,
    None,
}

impl Agreement {
    pub(super) fn of(codes: impl Iterator<Item = bool>) -> Self {
        let (mut agree, mut all) = (0, 0);
        for same in codes {
            agree += usize::from(same);
            all += 1;
        }
        match agree {
            0 => Agreement::None,
            agree if agree == all => Agreement::Full,
            _ => Agreement::Partial,
        }
    }
}
