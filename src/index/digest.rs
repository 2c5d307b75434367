//! A number for what an index holds: equal for equal contents, wherever and in whatever order they stand.
//!
//! ```text
//! digest = Σ hash of each fact, modulo 2^128
//! facts    the specification, metric, dimension, search defaults, next id, note, what training made
//!          (id, key)    (id, list within the model, code)    (id, which column, kept row)
//! ```
//! A sum does not depend on the order, so blocks and columns are read once, front to back. Row numbers, offsets within lists and change
//! numbers are no contents: a copy, a compaction or a renumbering has the digest of what it was made of. The hash is FNV-1a of 128
//! bits: against accidents, not against somebody who looks for two indexes of one digest.

use super::reader::IndexReader;
use crate::storage::Stage;
use crate::{Observer, Result};
use std::fmt;

/// What an index holds, in a number: equal if the contents are equal, and different with all but certainty if they are not.
/// Made by [`IndexReader::digest`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentDigest(pub u128);

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Kinds of facts, hashed before them.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Fact {
    Setting = 1,
    Model = 2,
    Key = 3,
    Code = 4,
    Kept = 5,
}

impl ContentDigest {
    fn add(&mut self, fact: Fact, parts: &[&[u8]]) {
        const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
        const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        let mut hash = (BASIS ^ fact as u128).wrapping_mul(PRIME);
        for part in parts {
            // The length first, so that parts cannot run into each other.
            for byte in (part.len() as u64).to_le_bytes().iter().chain(*part) {
                hash = (hash ^ u128::from(*byte)).wrapping_mul(PRIME);
            }
        }
        // The last bytes come through to all bits.
        hash ^= hash >> 67;
        self.0 = self.0.wrapping_add(hash.wrapping_mul(PRIME));
    }
}

/// Rows read at a time.
const BATCH: usize = 4096;

impl IndexReader<'_> {
    /// A number for all that the index holds: two indexes of equal contents have the same, in one store or in two. Reads every
    /// code and every kept row, under their checksums. Ticks as `"digest"`, in vectors; a vector that stands in two lists counts twice.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt), [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn digest(&self, observer: &mut Observer<'_>) -> Result<ContentDigest> {
        let mut digest = ContentDigest::default();
        self.add_settings(&mut digest)?;
        let mut rows: Vec<(u32, u64)> = Vec::new();
        self.view.for_each_id(&mut |row, id| rows.push((row, id)))?;
        for (_, id) in &rows {
            let key = self.key(*id)?.unwrap_or_default();
            digest.add(Fact::Key, &[&id.to_le_bytes(), &key]);
        }
        self.add_codes(&mut digest, rows.len() as u64, observer)?;
        for kept in &self.model.kept {
            self.add_kept(&mut digest, kept.stage, &rows)?;
        }
        Ok(digest)
    }

    fn add_settings(&self, digest: &mut ContentDigest) -> Result<()> {
        let header = self.header();
        digest.add(Fact::Setting, &[header.spec.as_bytes()]);
        let defaults = format!("{:?}", self.search_defaults());
        let numbers = [header.dim.into(), header.block_order.into(), header.keys.into(), header.next_id];
        let numbers: Vec<u8> = numbers.iter().flat_map(|number: &u64| number.to_le_bytes()).collect();
        digest.add(Fact::Setting, &[self.metric().to_string().as_bytes(), defaults.as_bytes(), &numbers]);
        digest.add(Fact::Setting, &[&self.note()?.unwrap_or_default()]);
        if self.model.centroids().is_some() {
            digest.add(Fact::Model, &[&self.export_model()?]);
        }
        Ok(())
    }

    fn add_codes(&self, digest: &mut ContentDigest, total: u64, observer: &mut Observer<'_>) -> Result<()> {
        let (code_bytes, places) = (self.code_bytes(), self.model.places() as u64);
        let mut done = 0;
        for list in 0..self.nlist() as u32 {
            let (ids, codes) = self.list(list)?;
            for (id, code) in ids.iter().zip(codes.chunks_exact(code_bytes)) {
                digest.add(Fact::Code, &[&id.to_le_bytes(), &list.to_le_bytes(), code]);
            }
            done += ids.len() as u64;
            observer.tick("digest", done.min(total * places), total * places)?;
        }
        Ok(())
    }

    fn add_kept(&self, digest: &mut ContentDigest, stage: Stage, rows: &[(u32, u64)]) -> Result<()> {
        for batch in rows.chunks(BATCH) {
            let numbers: Vec<u32> = batch.iter().map(|(row, _)| *row).collect();
            self.view.kept_rows(stage, &numbers, &mut |first, kept| {
                for ((_, id), bytes) in batch.iter().skip(first).zip(kept) {
                    digest.add(Fact::Kept, &[&id.to_le_bytes(), &[stage as u8], bytes]);
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}
