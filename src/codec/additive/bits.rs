//! A string of bits, least significant first: fields follow each other and may cross bytes.

/// Reads field after field.
pub(super) struct BitReader<'a> {
    bytes: std::slice::Iter<'a, u8>,
    /// Bits that were taken from `bytes` and not read yet.
    rest: u64,
    have: u32,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        BitReader { bytes: bytes.iter(), rest: 0, have: 0 }
    }

    /// The next `bits`, at most 32; zeros beyond the end.
    pub(super) fn read(&mut self, bits: u32) -> u32 {
        while self.have < bits {
            self.rest |= u64::from(self.bytes.next().copied().unwrap_or(0)) << self.have;
            self.have += 8;
        }
        let value = self.rest & ((1 << bits) - 1);
        self.rest >>= bits;
        self.have -= bits;
        value as u32
    }
}

/// Writes field after field into zeros.
pub(super) struct BitWriter<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> BitWriter<'a> {
    pub(super) fn new(bytes: &'a mut [u8]) -> Self {
        BitWriter { bytes, at: 0 }
    }

    /// Appends the lowest `bits` of `value`, at most 32.
    pub(super) fn write(&mut self, value: u32, bits: u32) {
        let mut rest = (u64::from(value) & ((1 << bits) - 1)) << (self.at % 8);
        for byte in &mut self.bytes[self.at / 8..] {
            if rest == 0 {
                break;
            }
            *byte |= rest as u8;
            rest >>= 8;
        }
        self.at += bits as usize;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::random::Random;

    #[test]
    fn fields_come_back_and_lie_where_faiss_has_them() {
        let mut random = Random::new(1);
        for _ in 0..200 {
            let sizes: Vec<u32> = (0..1 + random.below(12)).map(|_| 1 + random.below(32) as u32).collect();
            let values: Vec<u32> =
                sizes.iter().map(|bits| (random.next_u64() & ((1u64 << bits) - 1)) as u32).collect();
            let total = sizes.iter().sum::<u32>() as usize;
            let mut bytes = vec![0; total.div_ceil(8)];
            let mut writer = BitWriter::new(&mut bytes);
            sizes.iter().zip(&values).for_each(|(bits, value)| writer.write(*value, *bits));
            let mut reader = BitReader::new(&bytes);
            let back: Vec<u32> = sizes.iter().map(|bits| reader.read(*bits)).collect();
            assert_eq!(back, values);
            // Bit i of the string is bit i % 8 of byte i / 8.
            let mut at = 0;
            for (bits, value) in sizes.iter().zip(&values) {
                for bit in 0..*bits as usize {
                    assert_eq!(u32::from(bytes[(at + bit) / 8] >> ((at + bit) % 8) & 1), value >> bit & 1);
                }
                at += *bits as usize;
            }
            assert_eq!(reader.read(32) >> (8 * bytes.len() - total).min(31), 0);
        }
    }
}
