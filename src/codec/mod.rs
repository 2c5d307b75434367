//! Codecs: vectors to codes, and codes to scores. A codec never sees a table.
//!
//! Three nouns: an [`Encoding`](crate::Encoding) is what a user picks; training turns it into a
//! [`Codec`]; the queries of one pass turn that into a [`Scanner`]. The scanner is told which list it
//! is in ([`Scanner::enter`]) and then scores one block per call for the queries that probe the list,
//! so a codec may keep one table per query for all lists, one per (query, list), or none, and may score
//! several queries in one pass over the codes. Scores are smaller-is-nearer.

mod additive;
mod bounds;
mod code_packer;
mod fast_scan;
mod flat;
mod kept;
mod make;
mod measured;
mod nibble;
mod product;
mod rabitq;
mod scalar;
mod shaped;
mod spectral;

pub use code_packer::CodePacker;
pub(crate) use flat::Flat;
pub(crate) use kept::KeptForm;
pub(crate) use make::{layout, load, misfit, train, training_rows, untrained};
pub(crate) use measured::Measured;

#[cfg(feature = "bench-internals")]
pub(crate) use nibble::{Nibble, NibbleBits};

use crate::kernel::{Found, Similarity};
use crate::layout::Layout;
use crate::math::linalg::mean;
use crate::{Result, Rows};
use std::borrow::Cow;

/// Rows with the lists they were assigned to. A flat code asks for the rows alone; residual codes take
/// them relative to their lists' centroids.
#[derive(Clone, Copy)]
pub(crate) struct Assigned<'a> {
    pub(crate) rows: Rows<'a>,
    /// The list of each row, as a number within the model, and the centroids to look it up in; no
    /// centroids before training.
    pub(crate) lists: &'a [u32],
    pub(crate) centroids: Option<Rows<'a>>,
}

impl<'a> Assigned<'a> {
    /// The mean of the centroids; zeros where there are none.
    pub(crate) fn origin(&self) -> Vec<f32> {
        match self.centroids {
            Some(centroids) => mean(centroids).into_iter().map(|x| x as f32).collect(),
            None => vec![0.0; self.rows.dim()],
        }
    }

    /// The rows relative to the centroids of their lists; as they are where there are no centroids.
    pub(crate) fn residuals(&self) -> Cow<'a, [f32]> {
        let Some(centroids) = self.centroids else { return Cow::Borrowed(self.rows.as_slice()) };
        let mut residuals = self.rows.as_slice().to_vec();
        for (residual, list) in residuals.chunks_exact_mut(self.rows.dim()).zip(self.lists) {
            let centroid = centroids.row(*list as usize);
            residual.iter_mut().zip(centroid).for_each(|(r, c)| *r -= c);
        }
        Cow::Owned(residuals)
    }
}

/// What a code is trained from.
#[derive(Clone, Copy)]
pub(crate) struct Training<'a> {
    /// A sample of the rows, no more of them than the code asks for, with their lists.
    pub(crate) sample: Assigned<'a>,
    pub(crate) similarity: Similarity,
    pub(crate) seed: u64,
    /// Of each k-means, where there is one and it is not for the code to say.
    pub(crate) iterations: Option<usize>,
    /// Rows that each k-means may look at, where that is not for the code to say.
    pub(crate) rows: Option<usize>,
}

/// One query in one probed list. Codes that keep part of the distance in the coarse score add it here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visit {
    /// The query's number within the scanner's queries.
    pub(crate) query: u32,
    /// Its coarse score against the list's centroid.
    pub(crate) coarse: f32,
}

/// A list about to be scanned.
#[derive(Clone, Copy)]
pub(crate) struct Probe<'a> {
    /// Its number within the model.
    pub(crate) list: u32,
    /// The list's centroid; none before training.
    pub(crate) centroid: Option<&'a [f32]>,
    /// The queries that probe it.
    pub(crate) visits: &'a [Visit],
}

/// A trained code.
pub(crate) trait Codec: Send + Sync {
    /// How codes lie in a block.
    fn layout(&self) -> Layout;

    /// Refuses rows that the code cannot hold, before anything is written.
    fn check(&self, rows: Rows<'_>) -> Result<()>;

    /// What training made, as it is stored: empty for a code that needs none.
    fn tables(&self) -> Vec<u8> {
        Vec::new()
    }

    /// True if a code can be turned back into a vector.
    fn decodes(&self) -> bool {
        true
    }

    /// Appends the packed codes of `rows`.
    fn encode(&self, rows: Assigned<'_>, codes: &mut Vec<u8>);

    /// The vector that a packed code stands for; the centroid where the code cannot say more.
    fn decode(&self, centroid: Option<&[f32]>, code: &[u8], row: &mut [f32]);

    /// ‖x − c‖² of the vector that a packed code stands for.
    fn residual(&self, centroid: &[f32], code: &[u8]) -> f64 {
        let mut row = vec![0.0; centroid.len()];
        self.decode(Some(centroid), code, &mut row);
        row.iter().zip(centroid).map(|(x, c)| f64::from(x - c) * f64::from(x - c)).sum()
    }

    /// Lists that its tables are of, where they are of lists.
    fn lists(&self) -> Option<usize> {
        None
    }

    /// Queries that are best scanned for together, at most: their tables should stay in the cache.
    fn batch(&self) -> usize {
        usize::MAX
    }

    /// [`Codec::scanner`] that passes over entries whose code differs from the query's in `bits` bits or more. `None` for
    /// codes whose bits say nothing of distances.
    fn filtered<'a>(&'a self, _queries: Rows<'a>, _bits: u32) -> Option<Box<dyn Scanner + 'a>> {
        None
    }

    /// Prepares to score `queries` (already transformed).
    fn scanner<'a>(&'a self, queries: Rows<'a>) -> Box<dyn Scanner + 'a>;

    /// The same for a range search over rows that are kept as `kept` beside their codes, and will be scored as such: an
    /// entry whose kept row may score within the threshold scores within it here, so that nobody is missed. `None` for a
    /// code that is no more than an estimate, or a form that nobody can say such a thing of: range searches then go by
    /// [`Codec::scanner`] and may miss.
    fn bounds<'a>(&'a self, queries: Rows<'a>, kept: KeptForm) -> Option<Box<dyn Scanner + 'a>>;
}

/// Scores blocks for a set of queries.
pub(crate) trait Scanner {
    /// Enters a list: later scans are of its blocks, for its visits.
    fn enter(&mut self, probe: Probe<'_>);

    /// Scans a block for the visits `first ..` of the entered list, `worst.len()` of them. Appends to `found[v]` the
    /// entries whose bit in `live[v]` is set (32 a word, none beyond the block's last) and whose score for visit
    /// `first + v` is at most `worst[v]`, in the block's order.
    fn scan(&mut self, block: Codes<'_>, first: usize, worst: &[f32], live: &[&[u32]], found: &mut [Found]);
}

/// The codes of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Codes<'a> {
    /// In the layout's order.
    pub(crate) bytes: &'a [u8],
    /// Entries.
    pub(crate) n: usize,
    /// What will be read after this block: worth a prefetch.
    pub(crate) ahead: &'a [u8],
}
