//! FAISS's blocks of 4-bit codes, to read and to write what it writes.
//!
//! ```text
//! codes    ⌈m/2⌉ bytes each: the even sub-space in the low half of a byte, the odd one in the high half
//! block    bbs entries (a multiple of 32), ⌈m/2⌉ · bbs bytes:
//!          sub-spaces 0 and 1: 32 bytes for entries 0–31 | 32 bytes for 32–63 | …   sub-spaces 2 and 3: …
//! 32 bytes 16 of the even sub-space, 16 of the odd one; byte v of 16: low half = entry ORDER[v], high half = that + 16
//! ```
//! Our own groups ([`Layout::Nibbles`](crate::layout::Layout)) have the entries in their order and their biases behind
//! each group. Bytes from FAISS become such by way of the codes.

/// Entries of FAISS's smallest block.
const GROUP: usize = 32;

/// Entries of the 16 bytes of a sub-space.
const ORDER: [usize; 16] = [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15];

/// How FAISS packs codes of `m` nibbles in blocks of `bbs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CodePacker {
    m: usize,
    bbs: usize,
}

impl CodePacker {
    /// Refuses no sub-spaces and blocks of no multiple of 32, with the reason.
    pub(crate) fn new(m: usize, bbs: usize) -> Result<Self, String> {
        if m == 0 || bbs == 0 || !bbs.is_multiple_of(GROUP) {
            return Err(format!("{m} sub-spaces in blocks of {bbs}: at least 1, and a multiple of 32"));
        }
        match m.div_ceil(2).checked_mul(bbs) {
            Some(_) => Ok(CodePacker { m, bbs }),
            None => Err(format!("{m} sub-spaces in blocks of {bbs}: too large")),
        }
    }

    /// Bytes of a code.
    pub(crate) fn code_bytes(&self) -> usize {
        self.m.div_ceil(2)
    }

    /// Bytes of a block.
    pub(crate) fn block_bytes(&self) -> usize {
        self.code_bytes() * self.bbs
    }

    /// The blocks of these codes; the last is filled up with zeros.
    pub(crate) fn pack(&self, codes: &[u8]) -> Vec<u8> {
        assert!(codes.len().is_multiple_of(self.code_bytes()));
        let n = codes.len() / self.code_bytes();
        let mut blocks = vec![0; n.div_ceil(self.bbs) * self.block_bytes()];
        for (entry, code) in codes.chunks_exact(self.code_bytes()).enumerate() {
            for (pair, byte) in code.iter().enumerate() {
                let (at, shift) = self.place(entry, pair);
                blocks[at] |= (byte & 15) << shift;
                blocks[at + 16] |= (byte >> 4) << shift;
            }
        }
        blocks
    }

    /// The first `n` codes of `blocks`; the reason if they cannot hold so many.
    pub(crate) fn unpack(&self, blocks: &[u8], n: usize) -> Result<Vec<u8>, String> {
        if n.div_ceil(self.bbs).checked_mul(self.block_bytes()).is_none_or(|bytes| bytes > blocks.len()) {
            let bytes = self.block_bytes();
            return Err(format!("{} bytes for {n} codes in blocks of {bytes}", blocks.len()));
        }
        let mut codes = Vec::with_capacity(n * self.code_bytes());
        for entry in 0..n {
            codes.extend((0..self.code_bytes()).map(|pair| {
                let (at, shift) = self.place(entry, pair);
                blocks[at] >> shift & 15 | (blocks[at + 16] >> shift & 15) << 4
            }));
        }
        Ok(codes)
    }

    /// The byte of an entry's even sub-space of a pair, and by how many bits its nibble is shifted.
    fn place(&self, entry: usize, pair: usize) -> (usize, usize) {
        let (block, within) = (entry / self.bbs, entry % self.bbs);
        let (group, e) = (within / GROUP, within % GROUP);
        // ORDER takes turns between the first and the second eight.
        let v = 2 * (e % 8) + e / 8 % 2;
        (block * self.block_bytes() + pair * self.bbs + group * GROUP + v, e / 16 * 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::Random;

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
                let blocks = packer.pack(&codes);
                assert_eq!(blocks, slow_pack(&codes, m, bbs), "{m} {bbs} {n}");
                assert_eq!(packer.unpack(&blocks, n).unwrap(), codes, "{m} {bbs} {n}");
                // Whole blocks of any bytes are the packed form of some codes.
                let any: Vec<u8> =
                    (0..n.div_ceil(bbs) * packer.block_bytes()).map(|_| random.next_u64() as u8).collect();
                let all = packer.unpack(&any, n.div_ceil(bbs) * bbs).unwrap();
                assert_eq!(packer.pack(&all), any);
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
        assert_eq!(packer.unpack(&[], 0).unwrap(), []);
    }
}
