//! FAISS's blocks of 4-bit codes, to read and to write what it writes.
//!
//! ```text
//! codes    ⌈m/2⌉ bytes each: the even sub-space in the low half of a byte, the odd one in the high half
//! block    bbs entries (a multiple of 32), ⌈m/2⌉ · bbs bytes:
//!          sub-spaces 0 and 1: 32 bytes for entries 0–31 | 32 bytes for 32–63 | …   sub-spaces 2 and 3: …
//! 32 bytes 16 of the even sub-space, 16 of the odd one; byte v of 16: low half = entry ORDER[v], high half = that + 16;
//!          ORDER takes turns between the first and the second eight: 0 8 1 9 2 10 … 7 15
//! ```
//! of RaBitQ's fast scan (`CodePackerRaBitQ`) the same of the signs' nibbles, and behind all of them entry 0's other bytes | entry 1's | …
//! Our own groups ([`Layout::Nibbles`](crate::layout::Layout)) have the entries in their order and their biases behind
//! each group. Bytes from FAISS become such by way of the codes.

use crate::{Error, Result};

/// Entries of FAISS's smallest block.
const GROUP: usize = 32;

/// How FAISS packs codes of `m` nibbles in blocks of `bbs` entries for its 4-bit fast scan (`CodePackerPQ4`), to read and to write what it
/// writes. Within blocks a byte belongs to two entries; codes are ⌈m/2⌉ bytes each, the even sub-space in the low half of a byte.
///
/// ```
/// # use vellum::CodePacker;
/// let packer = CodePacker::new(4, 32)?;
/// let codes = [0x21, 0x43, 0x65, 0x87]; // two codes of four nibbles
/// let blocks = packer.pack(&codes)?;
/// assert_eq!(blocks.len(), packer.block_bytes());
/// assert_eq!(packer.unpack(&blocks, 2)?, codes);
/// # Ok::<(), vellum::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodePacker {
    m: usize,
    bbs: usize,
    aux: usize,
}

impl CodePacker {
    /// Packs `m` sub-spaces, at least 1, in blocks of `bbs` entries, a multiple of 32.
    ///
    /// # Errors
    /// [`Error::Parameter`] for anything else.
    pub fn new(m: usize, bbs: usize) -> Result<Self> {
        let bad = |what| Err(Error::Parameter { name: "code packer", what });
        if m == 0 || bbs == 0 || !bbs.is_multiple_of(GROUP) {
            return bad(format!("{m} sub-spaces in blocks of {bbs}: at least 1, and a multiple of 32"));
        }
        match m.div_ceil(2).checked_mul(bbs) {
            Some(_) => Ok(CodePacker { m, bbs, aux: 0 }),
            None => bad(format!("{m} sub-spaces in blocks of {bbs}: too large")),
        }
    }

    /// The blocks of RaBitQ's fast scan for vectors of `dim` components (FAISS's `CodePackerRaBitQ`): `m` nibbles of signs, and behind the
    /// nibbles of a whole block `aux` bytes of each entry, its factors and further bits, as they are. A code is ⌈m/2⌉ + `aux` bytes.
    ///
    /// ```
    /// # use vellum::CodePacker;
    /// let packer = CodePacker::new(4, 32)?.with_aux(3)?;
    /// let codes = [0x21, 0x43, 7, 8, 9];
    /// let block = packer.pack(&codes)?;
    /// assert_eq!(block.len(), 2 * 32 + 3 * 32);
    /// assert_eq!((&block[64..67], packer.unpack(&block, 1)?), (&[7, 8, 9][..], codes.to_vec()));
    /// # Ok::<(), vellum::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Parameter`] for blocks that are too large.
    pub fn with_aux(self, aux: usize) -> Result<Self> {
        match aux.checked_add(self.m.div_ceil(2)).and_then(|bytes| bytes.checked_mul(self.bbs)) {
            Some(_) => Ok(CodePacker { aux, ..self }),
            None => {
                let what = format!("{aux} bytes more in blocks of {}: too large", self.bbs);
                Err(Error::Parameter { name: "code packer", what })
            }
        }
    }

    /// Bytes of a code.
    pub fn code_bytes(&self) -> usize {
        self.pairs() + self.aux
    }

    /// Bytes of a block.
    pub fn block_bytes(&self) -> usize {
        self.code_bytes() * self.bbs
    }

    /// Bytes of a code's nibbles.
    fn pairs(&self) -> usize {
        self.m.div_ceil(2)
    }

    /// Where an entry's other bytes begin.
    fn aux_at(&self, entry: usize) -> usize {
        entry / self.bbs * self.block_bytes() + self.pairs() * self.bbs + entry % self.bbs * self.aux
    }

    /// The blocks of these codes, which stand one after the other; the last is filled up with zeros.
    ///
    /// # Errors
    /// [`Error::Length`] if that is no whole number of codes.
    pub fn pack(&self, codes: &[u8]) -> Result<Vec<u8>> {
        if !codes.len().is_multiple_of(self.code_bytes()) {
            let expected = codes.len().next_multiple_of(self.code_bytes());
            return Err(Error::Length { what: "bytes of codes", expected, got: codes.len() });
        }
        let n = codes.len() / self.code_bytes();
        let mut blocks = vec![0; n.div_ceil(self.bbs) * self.block_bytes()];
        for (entry, code) in codes.chunks_exact(self.code_bytes()).enumerate() {
            let (nibbles, aux) = code.split_at(self.pairs());
            blocks[self.aux_at(entry)..][..self.aux].copy_from_slice(aux);
            for (pair, byte) in nibbles.iter().enumerate() {
                let (at, shift) = self.place(entry, pair);
                blocks[at] |= (byte & 15) << shift;
                blocks[at + 16] |= (byte >> 4) << shift;
            }
        }
        Ok(blocks)
    }

    /// The first `n` codes of `blocks`.
    ///
    /// # Errors
    /// [`Error::Length`] if they cannot hold so many.
    pub fn unpack(&self, blocks: &[u8], n: usize) -> Result<Vec<u8>> {
        let expected = n.div_ceil(self.bbs).saturating_mul(self.block_bytes());
        if expected > blocks.len() {
            return Err(Error::Length { what: "bytes of blocks", expected, got: blocks.len() });
        }
        let mut codes = Vec::with_capacity(n * self.code_bytes());
        for entry in 0..n {
            codes.extend((0..self.pairs()).map(|pair| {
                let (at, shift) = self.place(entry, pair);
                blocks[at] >> shift & 15 | (blocks[at + 16] >> shift & 15) << 4
            }));
            codes.extend_from_slice(&blocks[self.aux_at(entry)..][..self.aux]);
        }
        Ok(codes)
    }

    /// The byte of an entry's even sub-space of a pair, and by how many bits its nibble is shifted.
    fn place(&self, entry: usize, pair: usize) -> (usize, usize) {
        let (block, within) = (entry / self.bbs, entry % self.bbs);
        let (group, e) = (within / GROUP, within % GROUP);
        // As the entries take turns.
        let v = 2 * (e % 8) + e / 8 % 2;
        (block * self.block_bytes() + pair * self.bbs + group * GROUP + v, e / 16 * 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::Random;

    /// Entries of the 16 bytes of a sub-space.
    const ORDER: [usize; 16] = [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15];

    /// What the drawing says, byte by byte.
    fn slow_pack(codes: &[u8], m: usize, bbs: usize) -> Vec<u8> {
        let (bytes, mut blocks) = (m.div_ceil(2), Vec::new());
        let n = codes.len() / bytes;
        let byte = |entry: usize, pair: usize| if entry < n { codes[entry * bytes + pair] } else { 0 };
        for block in (0..n).step_by(bbs) {
            for pair in 0..bytes {
                for group in (block..block + bbs).step_by(32) {
                    for shift in [0, 4] {
                        let nibble = |entry: usize| byte(entry, pair) >> shift & 15;
                        blocks.extend(ORDER.map(|e| nibble(group + e) | nibble(group + e + 16) << 4));
                    }
                }
            }
        }
        blocks
    }

    #[test]
    fn codes_are_packed_as_drawn_and_come_back() {
        let mut random = Random::new(1);
        for (m, bbs) in [(1, 32), (2, 32), (5, 64), (16, 32), (16, 96), (31, 256), (64, 128)] {
            let packer = CodePacker::new(m, bbs).unwrap();
            for n in [0, 1, 31, 32, 33, 64, 95, 300] {
                let codes: Vec<u8> = (0..n * packer.code_bytes()).map(|_| random.next_u64() as u8).collect();
                let blocks = packer.pack(&codes).unwrap();
                assert_eq!(blocks, slow_pack(&codes, m, bbs), "{m} {bbs} {n}");
                assert_eq!(packer.unpack(&blocks, n).unwrap(), codes, "{m} {bbs} {n}");
                // Whole blocks of any bytes are the packed form of some codes.
                let any: Vec<u8> =
                    (0..n.div_ceil(bbs) * packer.block_bytes()).map(|_| random.next_u64() as u8).collect();
                let all = packer.unpack(&any, n.div_ceil(bbs) * bbs).unwrap();
                assert_eq!(packer.pack(&all).unwrap(), any);
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (m, bbs) in [(0, 32), (4, 0), (4, 16), (4, 33), (usize::MAX, 64), (2, usize::MAX - 31)] {
            assert_eq!(CodePacker::new(m, bbs).is_err(), (m, bbs) != (2, usize::MAX - 31), "{m} {bbs}");
        }
        let packer = CodePacker::new(4, 32).unwrap();
        assert!(packer.unpack(&[0; 64], 33).is_err() && packer.unpack(&[0; 63], 1).is_err());
        assert!(packer.unpack(&[0; 64], usize::MAX).is_err());
        assert!(packer.unpack(&[], 0).unwrap().is_empty());
    }
}
