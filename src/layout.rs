//! How the codes of a block lie side by side.
//!
//! A codec states its [`Layout`]; storage uses it to place, move and cut codes without knowing what
//! they mean. Codes travel through storage entry by entry (*packed*: one after the other), and only a
//! block's encoded form has the layout's order, which is what kernels read.

use crate::kernel::{GROUP, group_bytes};

/// The order of code bytes within a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Entry after entry, `code_bytes` each.
    RowMajor {
        /// Bytes of one code.
        code_bytes: usize,
    },
    /// Groups of 32 entries, drawn in `kernel/nibble`. Packed, a code is its nibbles (the even sub-space in the
    /// low half of a byte), its scale (2 bytes) and its bias (4 bytes).
    Nibbles {
        /// Nibbles of a code, a multiple of 4.
        subspaces: usize,
    },
}

/// Where a packed nibble code keeps its scale and its bias, from its end.
const FACTORS: usize = 6;

impl Layout {
    /// Bytes of one packed code.
    pub(crate) fn code_bytes(&self) -> usize {
        match *self {
            Layout::RowMajor { code_bytes } => code_bytes,
            Layout::Nibbles { subspaces } => subspaces / 2 + FACTORS,
        }
    }

    /// Entries that lie together: where blocks hold a whole number of groups, their codes put together are as those of
    /// one larger block.
    pub(crate) fn group(&self) -> usize {
        match self {
            Layout::RowMajor { .. } => 1,
            Layout::Nibbles { .. } => GROUP,
        }
    }

    /// Bytes that the codes of `n` entries take within a block.
    pub(crate) fn region_bytes(&self, n: usize) -> usize {
        match *self {
            Layout::RowMajor { code_bytes } => n * code_bytes,
            Layout::Nibbles { subspaces } => n.div_ceil(GROUP) * group_bytes(subspaces),
        }
    }

    /// Packed codes into the block's order, appended to `region`.
    pub(crate) fn pack(&self, codes: &[u8], region: &mut Vec<u8>) {
        match *self {
            Layout::RowMajor { .. } => region.extend_from_slice(codes),
            Layout::Nibbles { subspaces } => {
                for codes in codes.chunks(GROUP * self.code_bytes()) {
                    let start = region.len();
                    region.resize(start + group_bytes(subspaces), 0);
                    pack_group(subspaces, codes, &mut region[start..]);
                }
            }
        }
    }

    /// The packed codes of the `n` entries of `region`, appended to `codes`.
    pub(crate) fn unpack(&self, region: &[u8], n: usize, codes: &mut Vec<u8>) {
        match *self {
            Layout::RowMajor { code_bytes } => codes.extend_from_slice(&region[..n * code_bytes]),
            Layout::Nibbles { subspaces } => {
                let groups = region.chunks_exact(group_bytes(subspaces));
                for (first, group) in (0..n).step_by(GROUP).zip(groups) {
                    unpack_group(subspaces, group, GROUP.min(n - first), codes);
                }
            }
        }
    }
}

/// Up to 32 packed codes into a group of zeros; what it is filled up with scores infinity.
fn pack_group(subspaces: usize, codes: &[u8], group: &mut [u8]) {
    let (nibbles, factors) = group.split_at_mut(16 * subspaces);
    let (scales, biases) = factors.split_at_mut(2 * GROUP);
    let biases = biases.as_chunks_mut::<4>().0;
    biases.fill(f32::INFINITY.to_le_bytes());
    for (e, code) in codes.chunks_exact(subspaces / 2 + FACTORS).enumerate() {
        let (pairs, factors) = code.split_at(subspaces / 2);
        let (at, shift) = (e % 16, 4 * (e / 16));
        for (pair, bytes) in pairs.iter().zip(nibbles.as_chunks_mut::<32>().0) {
            bytes[at] |= (pair & 15) << shift;
            bytes[16 + at] |= (pair >> 4) << shift;
        }
        scales[2 * e..2 * e + 2].copy_from_slice(&factors[..2]);
        biases[e].copy_from_slice(&factors[2..]);
    }
}

fn unpack_group(subspaces: usize, group: &[u8], n: usize, codes: &mut Vec<u8>) {
    let (nibbles, factors) = group.split_at(16 * subspaces);
    let (scales, biases) = factors.split_at(2 * GROUP);
    for e in 0..n {
        let (at, shift) = (e % 16, 4 * (e / 16));
        let pair = |bytes: &[u8; 32]| bytes[at] >> shift & 15 | (bytes[16 + at] >> shift & 15) << 4;
        codes.extend(nibbles.as_chunks::<32>().0.iter().map(pair));
        codes.extend_from_slice(&scales[2 * e..2 * e + 2]);
        codes.extend_from_slice(&biases[4 * e..4 * e + 4]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::Random;

    #[test]
    fn packed_codes_come_back() {
        let mut random = Random::new(1);
        for layout in [
            Layout::RowMajor { code_bytes: 7 },
            Layout::Nibbles { subspaces: 4 },
            Layout::Nibbles { subspaces: 64 },
        ] {
            for n in [0, 1, 15, 16, 17, 31, 32, 33, 100] {
                let codes: Vec<u8> = (0..n * layout.code_bytes()).map(|_| random.next_u64() as u8).collect();
                let (mut region, mut back) = (vec![9; 3], vec![7; 2]);
                layout.pack(&codes, &mut region);
                assert_eq!(region.len(), 3 + layout.region_bytes(n));
                layout.unpack(&region[3..], n, &mut back);
                assert_eq!(back[2..], codes, "{layout:?}, {n} entries");
            }
        }
    }
}
