//! Arrays of FAISS's making, for tests: `tests/fixtures/faiss/README.md` says what each is.

/// The bytes of an array, without its header.
pub(crate) fn bytes(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/faiss/{name}.npy", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).unwrap();
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[10 + header..].to_vec()
}

pub(crate) fn floats(name: &str) -> Vec<f32> {
    bytes(name).as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v)).collect()
}

pub(crate) fn numbers(name: &str) -> Vec<u32> {
    bytes(name).as_chunks::<4>().0.iter().map(|v| u32::from_le_bytes(*v)).collect()
}
