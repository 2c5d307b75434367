//! How the codes of a block lie side by side.
//!
//! A codec states its [`Layout`]; storage uses it to place, move and cut codes without knowing what
//! they mean. Codes travel through storage entry by entry (*packed*: one after the other), and only a
//! block's encoded form has the layout's order, which is what kernels read.

use crate::kernel::GROUP;

/// The order of code bytes within a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Entry after entry, `code_bytes` each.
    RowMajor {
        /// Bytes of one code.
        code_bytes: usize,
    },
    /// Groups of 32 entries: nibbles as drawn in `kernel/nibble`, then the scales of all, the biases of all, the errors of
    /// all, and what else belongs to each entry, entry after entry. Packed, a code is its nibbles (the even sub-space in the low half of a
    /// byte), its factors, and the rest.
    Nibbles {
        /// Nibbles of a code, an even number.
        subspaces: usize,
        factors: Factors,
        /// Bytes more of an entry.
        extra: usize,
    },
}

/// The numbers that an entry's nibbles go with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Factors {
    /// None.
    None,
    /// A bias, f32.
    Bias,
    /// A scale, bf16, and a bias, f32.
    ScaleAndBias,
    /// The same and an error, bf16, which stands behind the bias.
    ScaleBiasAndError,
}

impl Factors {
    fn scale_bytes(self) -> usize {
        if matches!(self, Factors::ScaleAndBias | Factors::ScaleBiasAndError) { 2 } else { 0 }
    }

    fn bias_bytes(self) -> usize {
        if self == Factors::None { 0 } else { 4 }
    }

    fn error_bytes(self) -> usize {
        if self == Factors::ScaleBiasAndError { 2 } else { 0 }
    }

    /// Bytes of an entry's.
    pub(crate) fn bytes(self) -> usize {
        self.scale_bytes() + self.bias_bytes() + self.error_bytes()
    }
}

/// What a group of nibbles is made of.
#[derive(Clone, Copy)]
struct Parts {
    subspaces: usize,
    factors: Factors,
    extra: usize,
}

impl Layout {
    /// Bytes of one packed code.
    pub(crate) fn code_bytes(&self) -> usize {
        match *self {
            Layout::RowMajor { code_bytes } => code_bytes,
            Layout::Nibbles { subspaces, factors, extra } => subspaces / 2 + factors.bytes() + extra,
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

    /// Bytes of what [`group`](Self::group) entries take together.
    pub(crate) fn group_bytes(&self) -> usize {
        self.group() * self.code_bytes()
    }

    /// Bytes that the codes of `n` entries take within a block.
    pub(crate) fn region_bytes(&self, n: usize) -> usize {
        n.div_ceil(self.group()) * self.group_bytes()
    }

    /// Packed codes into the block's order, appended to `region`.
    pub(crate) fn pack(&self, codes: &[u8], region: &mut Vec<u8>) {
        match *self {
            Layout::RowMajor { .. } => region.extend_from_slice(codes),
            Layout::Nibbles { subspaces, factors, extra } => {
                let parts = Parts { subspaces, factors, extra };
                for codes in codes.chunks(self.group_bytes()) {
                    let start = region.len();
                    region.resize(start + self.group_bytes(), 0);
                    parts.pack(codes, &mut region[start..]);
                }
            }
        }
    }

    /// The packed codes of the `n` entries of `region`, appended to `codes`.
    pub(crate) fn unpack(&self, region: &[u8], n: usize, codes: &mut Vec<u8>) {
        match *self {
            Layout::RowMajor { code_bytes } => codes.extend_from_slice(&region[..n * code_bytes]),
            Layout::Nibbles { subspaces, factors, extra } => {
                let parts = Parts { subspaces, factors, extra };
                let groups = region.chunks_exact(self.group_bytes());
                for (first, group) in (0..n).step_by(GROUP).zip(groups) {
                    parts.unpack(group, GROUP.min(n - first), codes);
                }
            }
        }
    }
}

impl Parts {
    /// Where scales, biases, errors and the rest begin in a group.
    fn starts(&self) -> [usize; 4] {
        let scales = GROUP / 2 * self.subspaces;
        let biases = scales + GROUP * self.factors.scale_bytes();
        let errors = biases + GROUP * self.factors.bias_bytes();
        [scales, biases, errors, errors + GROUP * self.factors.error_bytes()]
    }

    /// Up to 32 packed codes into a group of zeros; what it is filled up with scores infinity, if there are biases.
    fn pack(&self, codes: &[u8], group: &mut [u8]) {
        let [scales_at, biases_at, errors_at, extra_at] = self.starts();
        let (scale_bytes, bias_bytes, extra) =
            (self.factors.scale_bytes(), self.factors.bias_bytes(), self.extra);
        let biases = group[biases_at..errors_at].as_chunks_mut::<4>().0;
        biases.fill(f32::INFINITY.to_le_bytes());
        for (e, code) in codes.chunks_exact(self.subspaces / 2 + self.factors.bytes() + extra).enumerate() {
            let (pairs, rest) = code.split_at(self.subspaces / 2);
            let (factors, rest) = rest.split_at(self.factors.bytes());
            let (scale, factors) = factors.split_at(scale_bytes);
            let (bias, error) = factors.split_at(bias_bytes);
            let (at, shift) = (e % 16, 4 * (e / 16));
            for (pair, bytes) in pairs.iter().zip(group[..scales_at].as_chunks_mut::<32>().0) {
                bytes[at] |= (pair & 15) << shift;
                bytes[16 + at] |= (pair >> 4) << shift;
            }
            group[scales_at + e * scale_bytes..][..scale_bytes].copy_from_slice(scale);
            group[biases_at + e * bias.len()..][..bias.len()].copy_from_slice(bias);
            group[errors_at + e * error.len()..][..error.len()].copy_from_slice(error);
            group[extra_at + e * extra..][..extra].copy_from_slice(rest);
        }
    }

    fn unpack(&self, group: &[u8], n: usize, codes: &mut Vec<u8>) {
        let [scales_at, biases_at, errors_at, extra_at] = self.starts();
        let (scale_bytes, bias_bytes, error_bytes) =
            (self.factors.scale_bytes(), self.factors.bias_bytes(), self.factors.error_bytes());
        let nibbles = group[..scales_at].as_chunks::<32>().0;
        for e in 0..n {
            let (at, shift) = (e % 16, 4 * (e / 16));
            let pair = |bytes: &[u8; 32]| bytes[at] >> shift & 15 | (bytes[16 + at] >> shift & 15) << 4;
            codes.extend(nibbles.iter().map(pair));
            codes.extend_from_slice(&group[scales_at + e * scale_bytes..][..scale_bytes]);
            codes.extend_from_slice(&group[biases_at + e * bias_bytes..][..bias_bytes]);
            codes.extend_from_slice(&group[errors_at + e * error_bytes..][..error_bytes]);
            codes.extend_from_slice(&group[extra_at + e * self.extra..][..self.extra]);
        }
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
            Layout::Nibbles { subspaces: 4, factors: Factors::ScaleAndBias, extra: 0 },
            Layout::Nibbles { subspaces: 64, factors: Factors::ScaleAndBias, extra: 0 },
            Layout::Nibbles { subspaces: 6, factors: Factors::None, extra: 0 },
            Layout::Nibbles { subspaces: 2, factors: Factors::Bias, extra: 3 },
            Layout::Nibbles { subspaces: 10, factors: Factors::ScaleAndBias, extra: 17 },
            Layout::Nibbles { subspaces: 4, factors: Factors::ScaleBiasAndError, extra: 5 },
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
