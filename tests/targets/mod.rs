//! What the fuzz targets do with their bytes, for the fuzzer and for `tests/replay.rs`, which feeds them the kept seeds
//! on any compiler.
//!
//! Every target gives `true` for an input that got past its door (that was opened, decoded, read), and panics where
//! hostile bytes do what they must not.

#![allow(dead_code)] // each target and the replay take what they need of this

#[cfg(feature = "fuzz-internals")]
pub(crate) mod block;
pub(crate) mod import;
pub(crate) mod model;
pub(crate) mod open;
pub(crate) mod seal;
pub(crate) mod spec;
pub(crate) mod stores;

/// Bytes taken from the front; zeros when they have run out.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(crate) fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A number of those that go wrong: near nothing, near the largest, near a power of two, or any.
    pub(crate) fn number(&mut self) -> u64 {
        let (kind, small) = (self.byte(), u64::from(self.byte()));
        match kind % 8 {
            0 => small,
            1 => u64::from(u32::MAX) - small,
            2 => u64::MAX - small,
            3 => 1 << (small % 64),
            4 => (1u64 << (small % 64)).wrapping_sub(1),
            5 => small << 8,
            6 => small << 24,
            _ => u64::from(self.word()) << 16 | small,
        }
    }

    pub(crate) fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
