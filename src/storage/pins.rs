//! Pins: checked copies of lists and column pages, in one arena per store and within its byte budget.
//!
//! A snapshot has a [`PinTable`], a place for each list and page. Where the whole index fits what is left of the
//! budget, the snapshot reserves that and its table is *resident*: what is pinned stays, and is read without a lock
//! and without counting references, which two threads would pass back and forth. Other tables are *clocked*: when no
//! room is left, a hand goes round the pins of all of them and drops those that nobody touched since its last
//! round. What finds no room is read from redb, checked and let go again.

use crate::kernel::{Arena, Piece};
use crate::sync::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use parking_lot::{Mutex, RwLock};
use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, OnceLock, Weak};

/// Bytes that pins may take.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    arena: Arena,
    /// Promised to resident tables and not yet taken.
    reserved: AtomicUsize,
    clocks: Mutex<Vec<Weak<Clocked>>>,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let (reserved, clocks) = (AtomicUsize::new(0), Mutex::default());
        Arc::new(Budget { limit, arena: Arena::new(limit), reserved, clocks })
    }

    /// Bytes that pins take.
    pub(crate) fn used(&self) -> usize {
        self.arena.used()
    }

    /// Bytes that are promised and not yet taken.
    #[cfg(feature = "schedules")]
    pub(crate) fn reserved(&self) -> usize {
        self.reserved.load(Relaxed)
    }

    /// Sets `bytes` aside, and an eighth more for what is changed while the version before is still read and for gaps
    /// in the arena; `forgiven` bytes of pins are about to go.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: usize, forgiven: usize) -> Option<Reservation> {
        let wanted = bytes.checked_add(bytes / 8)?;
        let room = self.limit.saturating_add(forgiven);
        let take = |reserved: usize| {
            let promised = reserved.checked_add(wanted)?;
            self.used().checked_add(promised).filter(|sum| *sum <= room).map(|_| promised)
        };
        let others = self.reserved.load(Relaxed);
        let most = room.checked_sub(wanted)?.checked_sub(others)?;
        self.until(most, || self.reserved.fetch_update(Relaxed, Relaxed, take).is_ok())
            .then(|| Reservation { budget: self.clone(), left: AtomicUsize::new(wanted) })
    }

    /// Drops clocked pins until `done`, which needs no more than `most` bytes to be in use; false if it cannot be done.
    /// Nothing is dropped where dropping everything would not help.
    fn until(&self, most: usize, mut done: impl FnMut() -> bool) -> bool {
        if done() {
            return true;
        }
        let clocks: Vec<Arc<Clocked>> = {
            let mut clocks = self.clocks.lock();
            clocks.retain(|clock| clock.strong_count() > 0);
            clocks.iter().filter_map(Weak::upgrade).collect()
        };
        let clocked: usize = clocks.iter().map(|clock| clock.bytes.load(Relaxed)).sum();
        if self.used().saturating_sub(clocked) > most {
            return false;
        }
        // Once round to see what is touched, once more to drop it. Bytes that are free and lie apart may still be too
        // short for a long piece: then only some more are tried.
        let mut more = SCATTERED;
        for _ in 0..2 * clocks.iter().map(|clock| clock.hand.lock().len()).max().unwrap_or(0) {
            for clock in &clocks {
                if !clock.tick() {
                    continue;
                }
                if done() {
                    return true;
                }
                more -= usize::from(self.used() <= most);
                if more == 0 {
                    return false;
                }
            }
        }
        false
    }
}

/// Pins that are dropped for one that would fit by the count of bytes, and finds no stretch.
const SCATTERED: usize = 64;

/// Bytes of a budget that nobody else takes.
pub(crate) struct Reservation {
    budget: Arc<Budget>,
    left: AtomicUsize,
}

impl Reservation {
    /// Takes up to `bytes` of what is left.
    fn spend(&self, bytes: usize) {
        let left = self.left.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(bytes)));
        self.budget.reserved.fetch_sub(left.unwrap_or(0).min(bytes), Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.spend(usize::MAX);
    }
}

/// A pin in use.
pub(crate) enum Pinned<'s> {
    Resident(&'s Piece),
    Shared(Piece),
}

impl Deref for Pinned<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Pinned::Resident(piece) => piece,
            Pinned::Shared(piece) => piece,
        }
    }
}

/// Pins by number.
pub(crate) enum PinTable {
    Resident(Vec<OnceLock<Piece>>, Reservation),
    Clocked(Arc<Clocked>),
}

/// Pins that make room for each other.
pub(crate) struct Clocked {
    places: Vec<Place>,
    /// Numbers in the order in which the hand comes by.
    hand: Mutex<VecDeque<u32>>,
    /// Of the pins, some of which another snapshot may hold as well.
    bytes: AtomicUsize,
    budget: Arc<Budget>,
}

#[derive(Default)]
struct Place {
    piece: RwLock<Option<Piece>>,
    touched: AtomicBool,
}

impl PinTable {
    /// A table of `n` places for an index that has `reserved` room for all of them, or none.
    pub(crate) fn new(n: usize, budget: &Arc<Budget>, reserved: Option<Reservation>) -> Self {
        if let Some(reservation) = reserved {
            return PinTable::Resident((0..n).map(|_| OnceLock::new()).collect(), reservation);
        }
        let places = (0..n).map(|_| Place::default()).collect();
        let clocked = Arc::new(Clocked {
            places,
            hand: Mutex::default(),
            bytes: AtomicUsize::new(0),
            budget: budget.clone(),
        });
        budget.clocks.lock().push(Arc::downgrade(&clocked));
        PinTable::Clocked(clocked)
    }

    pub(crate) fn get(&self, number: u32) -> Option<Pinned<'_>> {
        match self {
            PinTable::Resident(..) => self.resident(number).map(Pinned::Resident),
            PinTable::Clocked(clocked) => clocked.get(number).map(Pinned::Shared),
        }
    }

    /// The pin, if it stays where it is.
    pub(crate) fn resident(&self, number: u32) -> Option<&Piece> {
        match self {
            PinTable::Resident(places, _) => places.get(number as usize)?.get(),
            PinTable::Clocked(_) => None,
        }
    }

    /// True if what is pinned stays.
    pub(crate) fn is_resident(&self) -> bool {
        matches!(self, PinTable::Resident(..))
    }

    /// False if so many bytes can never be pinned at once.
    pub(crate) fn could_hold(&self, bytes: usize) -> bool {
        match self {
            PinTable::Resident(..) => true,
            PinTable::Clocked(clocked) => bytes <= clocked.budget.limit,
        }
    }

    /// Keeps a copy of `parts`, one after the other, if the budget has or makes room.
    pub(crate) fn keep(&self, number: u32, parts: &[&[u8]]) -> Option<Pinned<'_>> {
        match self {
            PinTable::Resident(places, reservation) => {
                let place = places.get(number as usize)?;
                let (budget, mut piece) = (&reservation.budget, None);
                let bytes = Arena::bytes_for(parts.iter().map(|part| part.len()).sum());
                budget.until(budget.limit.checked_sub(bytes)?, || {
                    piece = budget.arena.piece(parts);
                    piece.is_some()
                });
                let piece = piece?;
                // Unless another thread was faster.
                if place.set(piece).is_ok() {
                    reservation.spend(bytes);
                }
                place.get().map(Pinned::Resident)
            }
            PinTable::Clocked(clocked) => clocked.keep(number, parts).map(Pinned::Shared),
        }
    }

    /// What is pinned, by number.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (u32, Piece)> {
        let (resident, clocked) = match self {
            PinTable::Resident(places, _) => (&places[..], &[][..]),
            PinTable::Clocked(clocked) => (&[][..], &clocked.places[..]),
        };
        let resident = resident.iter().map(|place| place.get().cloned());
        let clocked = clocked.iter().map(|place| place.piece.read().clone());
        (0..).zip(resident.chain(clocked)).filter_map(|(number, piece)| Some((number, piece?)))
    }

    /// Pins what another snapshot of the index has pinned.
    pub(crate) fn share(&self, number: u32, piece: Piece) {
        match self {
            PinTable::Resident(places, _) => {
                let _ = places.get(number as usize).map(|place| place.set(piece));
            }
            PinTable::Clocked(clocked) => clocked.put(number, piece),
        }
    }

    /// Leaves what is reserved and not taken to the next snapshot of the index.
    pub(crate) fn give_up_reservation(&self) {
        if let PinTable::Resident(_, reservation) = self {
            reservation.spend(usize::MAX);
        }
    }
}

impl Clocked {
    fn get(&self, number: u32) -> Option<Piece> {
        let place = self.places.get(number as usize)?;
        let piece = place.piece.read().clone()?;
        if !place.touched.load(Relaxed) {
            place.touched.store(true, Relaxed);
        }
        Some(piece)
    }

    fn keep(&self, number: u32, parts: &[&[u8]]) -> Option<Piece> {
        let budget = &self.budget;
        let bytes = Arena::bytes_for(parts.iter().map(|part| part.len()).sum());
        let mut piece = None;
        let most = budget.limit.checked_sub(bytes)?.checked_sub(budget.reserved.load(Relaxed))?;
        budget.until(most, || {
            let promised = budget.reserved.load(Relaxed).saturating_add(bytes);
            if budget.used().saturating_add(promised) <= budget.limit {
                piece = budget.arena.piece(parts);
            }
            piece.is_some()
        });
        let piece = piece?;
        self.put(number, piece.clone());
        Some(piece)
    }

    fn put(&self, number: u32, piece: Piece) {
        let Some(place) = self.places.get(number as usize) else { return };
        place.touched.store(true, Relaxed);
        self.bytes.fetch_add(Arena::bytes_for(piece.len()), Relaxed);
        match place.piece.write().replace(piece) {
            Some(before) => self.let_go(&before),
            None => self.hand.lock().push_back(number),
        }
    }

    fn let_go(&self, piece: &Piece) {
        self.bytes.fetch_sub(Arena::bytes_for(piece.len()), Relaxed);
    }

    /// Moves the hand on by one; true if a pin was dropped.
    fn tick(&self) -> bool {
        let Some(number) = self.hand.lock().pop_front() else { return false };
        let place = &self.places[number as usize];
        if place.touched.swap(false, Relaxed) {
            self.hand.lock().push_back(number);
            return false;
        }
        let gone = place.piece.write().take();
        gone.iter().for_each(|piece| self.let_go(piece));
        true
    }
}

impl std::fmt::Debug for Clocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clocked").field("places", &self.places.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: usize = 64;

    fn table(n: usize, budget: &Arc<Budget>) -> PinTable {
        PinTable::new(n, budget, budget.reserve(n * PIN, 0))
    }

    fn fill(table: &PinTable, n: u32) -> usize {
        (0..n).filter(|&number| table.keep(number, &[&[number as u8; PIN]]).is_some()).count()
    }

    fn holds(table: &PinTable, number: u32) -> bool {
        match table.get(number) {
            Some(pin) => *pin == [number as u8; PIN],
            None => false,
        }
    }

    /// Two indexes were told together that all of each fits, and then neither did.
    #[test]
    fn what_is_promised_to_one_index_is_not_promised_to_another() {
        let budget = Budget::new(100 * PIN);
        let (first, second) = (table(64, &budget), table(64, &budget));
        assert!(matches!((&first, &second), (PinTable::Resident(..), PinTable::Clocked(_))));
        // The second one takes what the first one has not reserved, and never more.
        assert_eq!(fill(&second, 64), 64);
        assert_eq!((0..64).filter(|&number| holds(&second, number)).count(), 100 - 72);
        assert_eq!(fill(&first, 64), 64);
        assert!((0..64).all(|number| holds(&first, number)));
        assert!(budget.used() <= 100 * PIN);
        drop(first);
        assert!(matches!(table(64, &budget), PinTable::Resident(..)));
    }

    /// Pins of one clocked index never made room for those of another.
    #[test]
    fn the_hand_goes_round_all_tables() {
        let budget = Budget::new(10 * PIN);
        let (old, new) = (table(20, &budget), table(20, &budget));
        assert_eq!((fill(&old, 20), fill(&new, 20)), (20, 20));
        assert!((0..20).filter(|&number| holds(&new, number)).count() > 5);
        assert!(budget.used() <= 10 * PIN);
        // A resident one puts them out; what it reserves beyond its own stays free.
        let small = table(8, &budget);
        assert_eq!(fill(&small, 8), 8);
        assert!(matches!(small, PinTable::Resident(..)));
        assert!((0..8).all(|number| holds(&small, number)));
    }

    #[test]
    fn a_touched_pin_outlives_one_that_is_not() {
        let budget = Budget::new(4 * PIN);
        let table = table(8, &budget);
        assert_eq!(fill(&table, 4), 4);
        // A round of the hand takes all touches away and drops the first; 2 is touched again.
        table.keep(4, &[&[4; PIN]]);
        assert!(holds(&table, 2));
        table.keep(5, &[&[5; PIN]]);
        table.keep(6, &[&[6; PIN]]);
        assert!(holds(&table, 2) && !holds(&table, 1) && !holds(&table, 3));
    }

    #[test]
    fn shared_pins_are_counted_once_and_given_back_with_the_last() {
        let budget = Budget::new(100 * PIN);
        let older = table(32, &budget);
        fill(&older, 32);
        older.give_up_reservation();
        let newer = PinTable::new(32, &budget, budget.reserve(0, 0));
        older
            .pieces()
            .filter(|(number, _)| number % 2 == 0)
            .for_each(|(number, piece)| newer.share(number, piece));
        assert_eq!(budget.used(), 32 * PIN);
        drop(older);
        assert_eq!(budget.used(), 16 * PIN);
        assert!((0..32).all(|number| holds(&newer, number) == (number % 2 == 0)));
        drop(newer);
        assert_eq!((budget.used(), budget.reserved.load(Relaxed)), (0, 0));
    }

    /// One pin too long, or one reservation too large, emptied the memory of all indexes and was refused all the same.
    #[test]
    fn what_cannot_fit_drops_nothing() {
        let budget = Budget::new(16 * PIN);
        let there = PinTable::new(16, &budget, None);
        assert_eq!(fill(&there, 16), 16);
        let other = PinTable::new(1, &budget, None);
        assert!(other.keep(0, &[&[0; 17 * PIN]]).is_none());
        assert!(budget.reserve(15 * PIN, 0).is_none() && budget.reserve(usize::MAX, 0).is_none());
        assert!((0..16).all(|number| holds(&there, number)));
        // Nor does one that fits only where others have reserved.
        let small = Budget::new(16 * PIN);
        let (clocked, reserved) = (PinTable::new(4, &small, None), small.reserve(8 * PIN, 0));
        assert!(reserved.is_some() && fill(&clocked, 4) == 4);
        assert!(PinTable::new(1, &small, None).keep(0, &[&[0; 8 * PIN]]).is_none());
        assert!((0..4).all(|number| holds(&clocked, number)));
    }

    /// What no longer fits is not kept, and that is all.
    #[test]
    fn nothing_is_pinned_without_room() {
        let budget = Budget::new(0);
        let table = table(3, &budget);
        assert_eq!(fill(&table, 3), 0);
        assert!(table.get(0).is_none() && table.get(99).is_none());
    }
}
