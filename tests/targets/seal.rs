//! Frames and headers signed again after their bytes were changed, so that hostile values get past the checksums.
//! Offsets are those of `docs/format.md`; nothing here is shared with what is tested.

pub(crate) const FRAME: usize = 64;

/// CRC-32 (IEEE), bit by bit through a small table.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    crc32_of(&[bytes])
}

/// The same of parts, one after the other.
pub(crate) fn crc32_of(parts: &[&[u8]]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let (mut crc, mut bit) = (i as u32, 0);
            while bit < 8 {
                crc = if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    let step = |crc: u32, byte: &u8| TABLE[(crc as u8 ^ byte) as usize] ^ (crc >> 8);
    !parts.iter().flat_map(|part| part.iter()).fold(!0, step)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.first_chunk()).map_or(0, |word| u32::from_le_bytes(*word))
}

pub(crate) fn put(bytes: &mut [u8], at: usize, word: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + word.len()) {
        place.copy_from_slice(word);
    }
}

/// Both checksums of a frame; of a payload that does not fit, only the header's.
pub(crate) fn frame(value: &mut [u8]) {
    if value.len() < FRAME {
        return;
    }
    let len = u32_at(value, 28) as usize;
    if let Some(payload) = value[FRAME..].get(..len) {
        let crc = crc32(payload);
        put(value, 56, &crc.to_le_bytes());
    }
    let crc = crc32(&value[..60]);
    put(value, 60, &crc.to_le_bytes());
}

/// The checksum of an index header.
pub(crate) fn header(value: &mut [u8]) {
    if value.len() >= 20 {
        let crc = crc32(&value[20..]);
        put(value, 16, &crc.to_le_bytes());
    }
}

/// The payload of a frame, as far as there is one.
pub(crate) fn payload(value: &[u8]) -> &[u8] {
    let len = u32_at(value, 28) as usize;
    value.get(FRAME..).map_or(&[], |rest| &rest[..len.min(rest.len())])
}
