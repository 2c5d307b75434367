//! Which rows the last changes touched, so that a snapshot takes over the pinned pages of all others.
//!
//! The list directory tells which lists changed since an older snapshot; the columns of ids and of kept rows have
//! nothing like it. So writers note the rows they touch, and a commit adds that to the store's [`ChangeLog`]. What the log
//! does not know (changes in an application's own transactions, or too long ago) is read again.

use super::format::Uuid;
use parking_lot::Mutex;
use roaring::RoaringBitmap;
use std::collections::VecDeque;
use std::sync::Arc;

/// Rows whose id or kept rows a change touched.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Touched {
    Rows(RoaringBitmap),
    All,
}

impl Default for Touched {
    fn default() -> Self {
        Touched::Rows(RoaringBitmap::new())
    }
}

impl Touched {
    pub(crate) fn add(&mut self, rows: impl IntoIterator<Item = u32>) {
        if let Touched::Rows(touched) = self {
            touched.extend(rows);
        }
    }

    fn join(&mut self, other: &Touched) {
        match (&mut *self, other) {
            (Touched::Rows(mine), Touched::Rows(theirs)) => *mine |= theirs,
            _ => *self = Touched::All,
        }
    }
}

/// A state of an index: its change number and nonce. The number alone does not do: an application that goes back to a
/// savepoint gives numbers a second time.
pub(crate) type State = (u64, u64);

/// What changed an index from one state to another.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) index: Uuid,
    pub(crate) from: State,
    pub(crate) to: State,
    pub(crate) touched: Touched,
}

/// The changes of one transaction, shared by its writers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes(Arc<Mutex<Vec<Change>>>);

impl Changes {
    /// The indexes that changed.
    pub(crate) fn indexes(&self) -> Vec<Uuid> {
        self.0.lock().iter().map(|change| change.index).collect()
    }

    pub(crate) fn add(&self, change: Change) {
        let mut changes = self.0.lock();
        let continued = changes.iter_mut().find(|c| c.index == change.index && c.to == change.from);
        match continued {
            Some(before) => {
                before.to = change.to;
                before.touched.join(&change.touched);
            }
            None => changes.push(change),
        }
    }
}

/// Transactions whose changes are remembered.
const REMEMBERED: usize = 256;

/// The last changes of a store's indexes.
#[derive(Debug, Default)]
pub(crate) struct ChangeLog(VecDeque<Change>);

impl ChangeLog {
    /// Takes what a transaction changed that has been committed.
    pub(crate) fn append(&mut self, changes: &Changes) {
        self.0.extend(changes.0.lock().drain(..));
        self.0.drain(..self.0.len().saturating_sub(REMEMBERED));
    }

    /// What changed an index between two states; `None` if that is not known.
    pub(crate) fn between(&self, index: Uuid, from: State, to: State) -> Option<Touched> {
        let mut touched = Touched::default();
        let mut at = from;
        // Each step ahead goes to a higher number.
        while at != to {
            let after = |change: &&Change| change.index == index && change.from == at && change.to.0 > at.0;
            let next = self.0.iter().rev().find(after)?;
            touched.join(&next.touched);
            at = next.to;
        }
        Some(touched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(index: u8, from: u64, to: u64, rows: impl IntoIterator<Item = u32>) -> Change {
        let mut touched = Touched::default();
        touched.add(rows);
        Change { index: [index; 16], from: (from, 7 * from), to: (to, 7 * to), touched }
    }

    fn rows(touched: Option<Touched>) -> Option<Vec<u32>> {
        match touched? {
            Touched::Rows(rows) => Some(rows.iter().collect()),
            Touched::All => None,
        }
    }

    #[test]
    fn changes_are_joined_over_transactions_and_gaps_are_unknown() {
        let mut log = ChangeLog::default();
        for txn in [
            vec![change(1, 0, 1, [5]), change(2, 7, 8, [1]), change(1, 1, 2, [6, 7])],
            vec![change(1, 2, 3, [5, 9])],
            // Change 4 was made elsewhere.
            vec![change(1, 4, 5, [8])],
        ] {
            let changes = Changes::default();
            txn.into_iter().for_each(|change| changes.add(change));
            log.append(&changes);
        }
        let state = |seq: u64| (seq, 7 * seq);
        let between = |index, from, to| rows(log.between([index; 16], state(from), state(to)));
        assert_eq!(between(1, 0, 3), Some(vec![5, 6, 7, 9]));
        assert_eq!(between(1, 2, 3), Some(vec![5, 9]));
        assert_eq!(between(1, 3, 3), Some(vec![]));
        assert_eq!(between(2, 7, 8), Some(vec![1]));
        assert_eq!((between(1, 3, 5), between(1, 5, 4), between(3, 0, 1)), (None, None, None));
        // A state between the two changes of a transaction is none that anybody saw.
        assert_eq!(between(1, 1, 2), None);
        // The same number, another state.
        assert_eq!(log.between([1; 16], (0, 0), (3, 22)), None);
    }

    #[test]
    fn a_change_of_everything_hides_the_rest_and_old_ones_are_forgotten() {
        let mut log = ChangeLog::default();
        for seq in 0..2 * REMEMBERED as u64 {
            let changes = Changes::default();
            changes.add(change(1, seq, seq + 1, [seq as u32]));
            log.append(&changes);
        }
        let last = 2 * REMEMBERED as u64;
        let between =
            |log: &ChangeLog, from: u64, to: u64| log.between([1; 16], (from, 7 * from), (to, 7 * to));
        assert_eq!(between(&log, 0, last), None);
        assert!(between(&log, last - REMEMBERED as u64, last).is_some());
        let changes = Changes::default();
        changes.add(Change { touched: Touched::All, ..change(1, last, last + 1, []) });
        log.append(&changes);
        assert_eq!(between(&log, last - 1, last + 1), Some(Touched::All));
    }
}
