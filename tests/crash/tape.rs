//! What was done to a disk, and what the disk may hold after a crash at any point of it.
//!
//! ```text
//! done:   write  write  sync  write  set_len  write | write  sync  ...
//!         durable ----------> un-synced ----------->|
//!                                               the crash
//! ```
//! A disk keeps what was synced. Of what was not, every sector keeps a part of its own: it shows the durable bytes with
//! any prefix of the un-synced operations that touch it, as a disk does that has a queue for each; the length is any of
//! those that the disk had since the sync. Sectors are of 512 or of 4,096 bytes. Cutting the length off touches what
//! it cuts off (zeros, should the disk grow again).
//!
//! Durable states share their pages, so that a recording of hundreds of syncs is as large as what was written, and an
//! image of any point costs about one copy of the disk.

use crate::campaign::Random;
use crate::common::disk::Done;
use std::collections::HashMap;
use std::sync::Arc;

const PAGE: usize = 4096;

type Page = Arc<[u8; PAGE]>;

/// The bytes of a disk, in shared pages.
#[derive(Clone)]
struct Pages {
    len: usize,
    pages: Vec<Page>,
}

impl Pages {
    fn of(bytes: &[u8]) -> Self {
        let mut pages = Pages { len: 0, pages: Vec::new() };
        pages.set_len(bytes.len());
        pages.write(0, bytes);
        pages
    }

    fn set_len(&mut self, len: usize) {
        self.pages.truncate(len.div_ceil(PAGE));
        // What is cut off within the last page reads as zeros later.
        if let Some(last) = self.pages.get_mut(len / PAGE).filter(|_| len < self.len) {
            Arc::make_mut(last)[len % PAGE..].fill(0);
        }
        let zeros = Arc::new([0; PAGE]);
        self.pages.resize(len.div_ceil(PAGE), zeros);
        self.len = len;
    }

    fn write(&mut self, mut at: usize, mut data: &[u8]) {
        while !data.is_empty() {
            let n = data.len().min(PAGE - at % PAGE);
            Arc::make_mut(&mut self.pages[at / PAGE])[at % PAGE..][..n].copy_from_slice(&data[..n]);
            (at, data) = (at + n, &data[n..]);
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.pages.len() * PAGE);
        self.pages.iter().for_each(|page| bytes.extend_from_slice(&page[..]));
        bytes.truncate(self.len);
        bytes
    }
}

pub(crate) struct Tape {
    done: Vec<Done>,
    /// Where an operation before it was a sync, and what was durable by then; the first is the beginning.
    durable: Vec<(usize, Pages)>,
}

impl Tape {
    /// Of what was done to a disk that held `base`.
    pub(crate) fn new(base: &[u8], done: Vec<Done>) -> Self {
        let mut pages = Pages::of(base);
        let mut durable = vec![(0, pages.clone())];
        for (at, one) in done.iter().enumerate() {
            match one {
                Done::Write(offset, data) => pages.write(*offset as usize, data),
                Done::SetLen(len) => pages.set_len(*len as usize),
                Done::Sync => durable.push((at + 1, pages.clone())),
            }
        }
        Tape { done, durable }
    }

    pub(crate) fn len(&self) -> usize {
        self.done.len()
    }

    pub(crate) fn bytes_written(&self) -> usize {
        let len = |done: &Done| if let Done::Write(_, data) = done { data.len() } else { 0 };
        self.done.iter().map(len).sum()
    }

    pub(crate) fn syncs(&self) -> usize {
        self.durable.len() - 1
    }

    /// The disk after a crash before operation `at`.
    pub(crate) fn crash(&self, at: usize, random: &mut Random) -> Vec<u8> {
        let which = self.durable.partition_point(|(from, _)| *from <= at) - 1;
        let (from, pages) = &self.durable[which];
        let pending = &self.done[*from..at];
        let mut lens = vec![pages.len];
        lens.extend(pending.iter().filter_map(|done| match done {
            Done::SetLen(len) => Some(*len as usize),
            _ => None,
        }));
        let most = lens.iter().copied().max().unwrap_or(0);
        let mut bytes = pages.bytes();
        bytes.resize(most, 0);
        let sector = if random.one_in(2) { 512 } else { 4096 };
        let mut shown = Shown::new(pending, pages.len, sector, random);
        let mut len = pages.len;
        for done in pending {
            for (sector_number, range) in touched(done, &mut len, sector) {
                if !shown.next(sector_number) {
                    continue;
                }
                match done {
                    Done::Write(offset, data) => {
                        bytes[range.clone()].copy_from_slice(
                            &data[range.start - *offset as usize..range.end - *offset as usize],
                        );
                    }
                    _ => bytes[range].fill(0),
                }
            }
        }
        bytes.truncate(match shown.all {
            Some(true) => len,
            Some(false) => pages.len,
            None => lens[random.below(lens.len() as u64) as usize],
        });
        bytes
    }
}

/// The sectors that an operation touches, and which bytes of the disk in each.
fn touched(
    done: &Done,
    len: &mut usize,
    sector: usize,
) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
    let (start, end) = match done {
        Done::Write(offset, data) => (*offset as usize, *offset as usize + data.len()),
        Done::SetLen(new) => {
            let old = std::mem::replace(len, *new as usize);
            (*new as usize, old.max(*new as usize))
        }
        Done::Sync => (0, 0),
    };
    let sectors = if start == end { 0..0 } else { start / sector..end.div_ceil(sector) };
    sectors.map(move |n| (n, start.max(n * sector)..end.min((n + 1) * sector)))
}

/// How many more of the operations that touch it each sector shows.
struct Shown {
    left: HashMap<usize, u64>,
    /// Everything, or nothing, of what was not synced.
    all: Option<bool>,
}

impl Shown {
    fn new(pending: &[Done], mut len: usize, sector: usize, random: &mut Random) -> Self {
        let mut left = HashMap::<usize, u64>::new();
        let mut sectors = Vec::new();
        for done in pending {
            for (n, _) in touched(done, &mut len, sector) {
                let touches = left.entry(n).or_insert_with(|| {
                    sectors.push(n);
                    0
                });
                *touches += 1;
            }
        }
        // All, none, few lost, few kept, or each as it comes.
        let kind = random.below(8);
        let few = [2, 8, 64][random.below(3) as usize];
        // In the order in which they were touched, so that the same case is the same image.
        for n in sectors {
            let Some(touches) = left.get_mut(&n) else { continue };
            let odd = random.one_in(few);
            *touches = match kind {
                0 => *touches,
                1 => 0,
                2 | 3 if !odd => *touches,
                4 | 5 if !odd => 0,
                _ => random.below(*touches + 1),
            };
        }
        let all = [Some(true), Some(false)].get(kind as usize).copied().flatten();
        Shown { left, all }
    }

    /// True if the sector shows this operation, too.
    fn next(&mut self, sector: usize) -> bool {
        match self.left.get_mut(&sector) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }
}
