//! What searches did and where their time went, for those who ask.
//!
//! A stage is timed once a chunk of queries, not once a list: two readings of the clock for each of some ten lists would
//! be seen in what they measure.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What searches did, added up over all that were given it ([`SearchParams::stats`](crate::SearchParams::stats)), on any
/// thread.
///
/// ```
/// # use std::sync::Arc;
/// # use vellum::{SearchParams, SearchStats};
/// let stats = Arc::new(SearchStats::default());
/// let params = SearchParams::new().nprobe(16).stats(&stats);
/// // … searches with `params` …
/// println!("{} entries scored in {:?}", stats.entries(), stats.time("scan"));
/// ```
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct SearchStats {
    queries: AtomicU64,
    lists: AtomicU64,
    entries: AtomicU64,
    reranked: AtomicU64,
    nanoseconds: [AtomicU64; STAGES.len()],
}

/// The stages of a search, in order.
const STAGES: [&str; 5] = ["prepare", "coarse", "tables", "scan", "rank"];

/// One of [`STAGES`].
#[derive(Clone, Copy)]
pub(crate) enum Stage {
    /// Checks, normalises, prepares the selector.
    Prepare,
    /// Picks the lists.
    Coarse,
    /// What the codec prepares for each query.
    Tables,
    Scan,
    /// Reranks with the kept rows, looks ids up, sorts.
    Rank,
}

impl SearchStats {
    /// The stages that [`time`](Self::time) knows: `prepare` (checks, the selector), `coarse` (which lists), `tables` (what
    /// the codec makes of each query), `scan` (the lists), `rank` (kept rows, ids, order).
    pub fn stages() -> &'static [&'static str] {
        &STAGES
    }

    /// Time spent in a stage, of all threads together; `None` for a stage that there is not.
    pub fn time(&self, stage: &str) -> Option<Duration> {
        let at = STAGES.iter().position(|name| *name == stage)?;
        Some(Duration::from_nanos(self.nanoseconds[at].load(Relaxed)))
    }

    /// Queries.
    pub fn queries(&self) -> u64 {
        self.queries.load(Relaxed)
    }

    /// Lists that they looked into, empty ones left out.
    pub fn lists(&self) -> u64 {
        self.lists.load(Relaxed)
    }

    /// Entries of those lists, those that a selector kept out included; less where `max_codes` ended it, unless there is a
    /// selector, too: then it is known only while scanning, and what was not reached counts as well.
    pub fn entries(&self) -> u64 {
        self.entries.load(Relaxed)
    }

    /// Rows scored again, each once however many stages its kept rows have.
    pub fn reranked(&self) -> u64 {
        self.reranked.load(Relaxed)
    }
}

/// The clock of one chunk of queries; stands still if nobody asked.
pub(crate) struct Clock<'a>(Option<(&'a SearchStats, Instant)>);

impl<'a> Clock<'a> {
    pub(crate) fn start(stats: Option<&'a SearchStats>) -> Self {
        Clock(stats.map(|stats| (stats, Instant::now())))
    }

    /// Books the time since the last call on `stage`.
    pub(crate) fn lap(&mut self, stage: Stage) {
        if let Some((stats, last)) = &mut self.0 {
            let now = Instant::now();
            let nanoseconds = u64::try_from(now.duration_since(*last).as_nanos()).unwrap_or(u64::MAX);
            stats.nanoseconds[stage as usize].fetch_add(nanoseconds, Relaxed);
            *last = now;
        }
    }

    pub(crate) fn looked_at(&self, queries: usize, lists: usize, entries: impl FnOnce() -> u64) {
        if let Some((stats, _)) = &self.0 {
            stats.queries.fetch_add(queries as u64, Relaxed);
            stats.lists.fetch_add(lists as u64, Relaxed);
            stats.entries.fetch_add(entries(), Relaxed);
        }
    }

    pub(crate) fn reranked(&self, rows: usize) {
        if let Some((stats, _)) = &self.0 {
            stats.reranked.fetch_add(rows as u64, Relaxed);
        }
    }
}
