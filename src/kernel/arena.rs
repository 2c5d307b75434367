//! The arena: one stretch of memory that what is pinned is copied into.
//!
//! Pieces start on a cache line and lie close together on huge pages where the system has them, so that a scan walks
//! them at the speed of memory: f32 lists read from redb's scattered pages instead were a sixth slower. The arena
//! takes memory from the system in slabs, never more than its capacity, and gives a slab back once it is empty. A
//! piece is written once, when it is made, and can be shared.

#![allow(unsafe_code)]

use memmap2::MmapMut;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

/// A cache line, which pieces are whole numbers of.
const LINE: usize = 64;
/// Sixteen huge pages: what an unaligned slab loses at its ends is little.
const SLAB: usize = 32 << 20;
const HUGE_PAGE: usize = 2 << 20;

/// Memory for up to `capacity` bytes of pieces.
pub(crate) struct Arena {
    shared: Arc<Mutex<Slabs>>,
}

/// Bytes that do not change; given back when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Piece {
    start: NonNull<u8>,
    len: usize,
    _share: Arc<Share>,
}

// SAFETY: nobody writes to a piece once it is made, and its memory stays until the last clone is gone.
unsafe impl Send for Piece {}
// SAFETY: as above.
unsafe impl Sync for Piece {}

/// Holds a range of the arena for the clones of a piece.
struct Share {
    arena: Arc<Mutex<Slabs>>,
    range: Range,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.arena.lock().free(self.range);
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the share keeps these bytes from being reused or unmapped; they were written when the piece was made.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

/// Bytes of one slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    slab: usize,
    start: usize,
    len: usize,
}

struct Slab {
    map: MmapMut,
    start: NonNull<u8>,
}

// SAFETY: a slab is memory, which belongs to no thread; `start` points into `map`.
unsafe impl Send for Slab {}

struct Slabs {
    capacity: usize,
    /// By number; the places of slabs that were given back are used again.
    slabs: Vec<Option<Slab>>,
    free: FreeRanges,
    /// Bytes of pieces, and of slabs.
    used: usize,
    mapped: usize,
}

/// The free ranges of all slabs; no two of them touch.
#[derive(Default)]
struct FreeRanges {
    by_start: BTreeMap<(usize, usize), usize>,
    by_len: BTreeSet<(usize, usize, usize)>,
}

impl FreeRanges {
    fn insert(&mut self, Range { slab, start, len }: Range) {
        self.by_start.insert((slab, start), len);
        self.by_len.insert((len, slab, start));
    }

    fn remove(&mut self, Range { slab, start, len }: Range) {
        self.by_start.remove(&(slab, start));
        self.by_len.remove(&(len, slab, start));
    }

    /// Takes `len` bytes from the shortest range that has them.
    fn take(&mut self, len: usize) -> Option<Range> {
        let &(found, slab, start) = self.by_len.range((len, 0, 0)..).next()?;
        self.remove(Range { slab, start, len: found });
        if found > len {
            self.insert(Range { slab, start: start + len, len: found - len });
        }
        Some(Range { slab, start, len })
    }

    /// Gives a range back, and tells what it is part of now.
    fn give_back(&mut self, Range { slab, mut start, mut len }: Range) -> Range {
        let before = self.by_start.range((slab, 0)..(slab, start)).next_back();
        if let Some((&(_, other), &others)) = before.filter(|((_, other), others)| other + *others == start) {
            self.remove(Range { slab, start: other, len: others });
            (start, len) = (other, others + len);
        }
        if let Some(&others) = self.by_start.get(&(slab, start + len)) {
            self.remove(Range { slab, start: start + len, len: others });
            len += others;
        }
        let whole = Range { slab, start, len };
        self.insert(whole);
        whole
    }
}

impl Slabs {
    fn take(&mut self, len: usize) -> Option<Range> {
        let range = self.free.take(len).or_else(|| {
            self.grow(len)?;
            self.free.take(len)
        })?;
        self.used += len;
        Some(range)
    }

    /// Maps another slab, of at least `len` bytes.
    fn grow(&mut self, len: usize) -> Option<()> {
        let left = self.capacity - self.mapped;
        let wanted = len.checked_next_multiple_of(HUGE_PAGE)?.max(SLAB).min(left);
        if wanted < len {
            return None;
        }
        let mut map = MmapMut::map_anon(wanted).ok()?;
        // A wish: without huge pages all works, slower.
        #[cfg(all(target_os = "linux", not(miri)))]
        let _ = map.advise(memmap2::Advice::HugePage);
        let start = NonNull::new(map.as_mut_ptr())?;
        let number = self.slabs.iter().position(Option::is_none).unwrap_or(self.slabs.len());
        self.slabs.resize_with(self.slabs.len().max(number + 1), || None);
        self.slabs[number] = Some(Slab { map, start });
        self.mapped += wanted;
        self.free.insert(Range { slab: number, start: 0, len: wanted });
        Some(())
    }

    fn free(&mut self, range: Range) {
        self.used -= range.len;
        let whole = self.free.give_back(range);
        let Some(slab) = self.slabs[whole.slab].take_if(|slab| slab.map.len() == whole.len) else { return };
        self.free.remove(whole);
        self.mapped -= slab.map.len();
    }
}

impl Arena {
    pub(crate) fn new(capacity: usize) -> Self {
        let slabs = Slabs {
            capacity: capacity / LINE * LINE,
            slabs: Vec::new(),
            free: FreeRanges::default(),
            used: 0,
            mapped: 0,
        };
        Arena { shared: Arc::new(Mutex::new(slabs)) }
    }

    /// Bytes that a piece of `len` bytes takes.
    pub(crate) fn bytes_for(len: usize) -> usize {
        len.max(1).next_multiple_of(LINE)
    }

    /// Bytes that all pieces take.
    pub(crate) fn used(&self) -> usize {
        self.shared.lock().used
    }

    /// A piece of the `parts` one after the other; `None` if no room is left for it.
    pub(crate) fn piece(&self, parts: &[&[u8]]) -> Option<Piece> {
        let len = parts.iter().try_fold(0usize, |len, part| len.checked_add(part.len()))?;
        let mut slabs = self.shared.lock();
        let range = slabs.take(len.max(1).checked_next_multiple_of(LINE)?)?;
        let start = slabs.slabs[range.slab].as_ref().map(|slab| slab.start);
        drop(slabs);
        // Made at once, so that the range is given back whatever follows.
        let share = Arc::new(Share { arena: self.shared.clone(), range });
        // SAFETY: the range lies within its slab, which is not unmapped while a range of it is taken.
        let start = unsafe { start?.add(range.start) };
        let mut at = start;
        for part in parts {
            // SAFETY: the range is at least as long as all parts together, belongs to nobody else, and is no part of
            // any slice that exists.
            unsafe {
                at.copy_from_nonoverlapping(NonNull::from(*part).cast(), part.len());
                at = at.add(part.len());
            }
        }
        Some(Piece { start, len, _share: share })
    }
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slabs = self.shared.lock();
        f.debug_struct("Arena").field("capacity", &slabs.capacity).field("used", &slabs.used).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::Random;

    #[test]
    fn pieces_hold_their_parts_on_whole_lines() {
        let arena = Arena::new(1 << 20);
        let piece = arena.piece(&[b"ab", b"", b"cde"]).unwrap();
        assert_eq!((&*piece, piece.as_ptr() as usize % LINE), (&b"abcde"[..], 0));
        assert_eq!(arena.used(), LINE);
        let empty = arena.piece(&[]).unwrap();
        assert!(empty.is_empty());
        let clone = piece.clone();
        drop(piece);
        assert_eq!((&*clone, arena.used()), (&b"abcde"[..], 2 * LINE));
        drop((clone, empty));
        assert_eq!((arena.used(), arena.shared.lock().mapped), (0, 0));
    }

    #[test]
    fn nothing_is_taken_beyond_the_capacity() {
        assert!(Arena::new(0).piece(&[]).is_none());
        let arena = Arena::new(4096 + 63);
        let pieces: Vec<_> = (0..64).map(|_| arena.piece(&[&[7; 64]]).unwrap()).collect();
        assert!(arena.piece(&[&[7]]).is_none());
        drop(pieces);
        assert!(arena.piece(&[&[7; 4097]]).is_none());
        assert_eq!(arena.piece(&[&[7; 4096]]).unwrap().len(), 4096);
    }

    /// Against a model that knows only the contents.
    #[test]
    fn pieces_that_come_and_go_never_share_a_byte() {
        let mut random = Random::new(5);
        let arena = Arena::new(3 * SLAB / 2);
        let mut pieces: Vec<(u8, usize, Piece)> = Vec::new();
        let largest = if cfg!(miri) { 3000 } else { 3_000_000 };
        for round in 0..if cfg!(miri) { 60 } else { 600 } {
            if random.below(3) < 2 {
                let (fill, len) = (round as u8, 1 + random.below(largest));
                match arena.piece(&[&vec![fill; len]]) {
                    Some(piece) => pieces.push((fill, len, piece)),
                    None => assert!(!pieces.is_empty()),
                }
            } else if !pieces.is_empty() {
                let gone = random.below(pieces.len());
                pieces.swap_remove(gone);
            }
            let used: usize = pieces.iter().map(|(_, len, _)| Arena::bytes_for(*len)).sum();
            let slabs = arena.shared.lock();
            let free: usize = slabs.free.by_start.values().sum();
            assert_eq!((slabs.used, slabs.mapped), (used, used + free));
            assert!(slabs.mapped <= slabs.capacity);
            assert_eq!(slabs.free.by_len.len(), slabs.free.by_start.len());
            drop(slabs);
            if round % 30 == 0 {
                let whole = |(fill, len, piece): &(u8, usize, Piece)| {
                    piece.len() == *len && piece.iter().all(|byte| byte == fill)
                };
                assert!(pieces.iter().all(whole));
            }
        }
        drop(pieces);
        assert_eq!(arena.shared.lock().mapped, 0);
    }
}
