//! Model sections: what training left behind, in chunks.
//!
//! A section is a run of bytes of one kind (centroids, training parameters, a codec's tables), cut into
//! frames of at most 65,520 bytes under `kind≪32 | chunk`. The count of chunks and the section's length
//! stand in every chunk, so a missing or foreign chunk is noticed, and nothing is allocated on the word of a length alone.

use super::format::{FRAME, Frame, FrameHead, Kind, seal_frame, value_bytes};
use super::{BytesTable, Tables, WriteTables, fetch};
use crate::{Error, Result};

/// What may stand beside a model whatever it is, and means nothing to codes.
pub(crate) const BESIDE: [Section; 3] = [Section::Note, Section::Merge, Section::Window];

/// What a section holds. Tags are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Section {
    /// nlist × dim f32.
    Centroids = 1,
    /// The training parameters, as written by `train`.
    Training = 2,
    /// Which super-cluster each list belongs to, and their centroids, as drawn in `index/tree.rs`; only where the
    /// specification says that there is a tree.
    Tree = 3,
    /// What training made for the codes, as their codec draws it; only where that is anything.
    Codec = 4,
    /// What is done to vectors first, as `math/transform` draws it; only where the specification says so.
    Transforms = 5,
    /// What the application keeps with the index; only where it has put something there.
    Note = 6,
    /// How lists are found where the centroids do not say it, as drawn in `index/finder.rs`; only where the specification says so.
    Finder = 7,
    /// How far a merge of several transactions has come, as drawn in `index/merge.rs`; only while there is one.
    Merge = 8,
    /// The slices of a sliding window, as drawn in `index/window.rs`; only where there is one.
    Window = 9,
    /// Which recall comes at which settings; only where somebody measured it since the last training.
    Calibration = 10,
}

const ORDER: u8 = 4;
const CHUNK: usize = (4096 << ORDER) - 16 - FRAME;

/// Chunks of a section of so many bytes.
pub(crate) fn chunks(bytes: usize) -> usize {
    bytes.div_ceil(CHUNK).max(1)
}

fn chunk_key(section: Section, chunk: u32) -> u64 {
    (section as u64) << 32 | u64::from(chunk)
}

impl<B: BytesTable, M, F, K> Tables<B, M, F, K> {
    /// The bytes of a section, or `None` if it was never written.
    pub(crate) fn read_section(&self, section: Section) -> Result<Option<Vec<u8>>> {
        let name = &self.names.model;
        let mut bytes = Vec::new();
        let mut chunk = 0;
        loop {
            let key = chunk_key(section, chunk);
            let Some(value) = fetch(&self.model, key)? else {
                return match chunk {
                    0 => Ok(None),
                    _ => Err(Error::corrupt(name, key, "a chunk is missing")),
                };
            };
            let frame = Frame::open(name, Kind::Model, key, value.value())?;
            bytes.extend_from_slice(frame.payload);
            chunk += 1;
            // `capacity` is the number of chunks of the section.
            if chunk >= frame.capacity {
                return Ok(Some(bytes));
            }
        }
    }
}

impl WriteTables<'_> {
    /// Forgets a section, if it is there.
    pub(crate) fn remove_section(&mut self, section: Section) -> Result<()> {
        self.model.retain_in(chunk_key(section, 0)..=chunk_key(section, u32::MAX), |_, _| false)?;
        Ok(())
    }

    /// Replaces a section.
    pub(crate) fn write_section(&mut self, section: Section, bytes: &[u8], seq: u64) -> Result<()> {
        self.remove_section(section)?;
        let chunks = chunks(bytes.len());
        for chunk in 0..chunks {
            let part = &bytes[chunk * CHUNK..bytes.len().min((chunk + 1) * CHUNK)];
            let key = chunk_key(section, chunk as u32);
            let mut value = vec![0; (FRAME + part.len()).next_multiple_of(16).min(value_bytes(ORDER))];
            value[FRAME..FRAME + part.len()].copy_from_slice(part);
            let head = FrameHead {
                index: self.names.model.index,
                kind: Kind::Model,
                order: ORDER,
                key,
                count: chunk as u32,
                capacity: chunks as u32,
                width: 1,
                seq,
            };
            seal_frame(&mut value, head, part.len());
            self.model.insert(key, value.as_slice())?;
        }
        Ok(())
    }
}
