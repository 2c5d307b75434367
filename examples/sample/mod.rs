//! The sample that the examples read: sentence embeddings of 2,000 passages of technical documentation, and of 60 questions
//! (tests/data/README.md).

use std::error::Error;
use vellum::files::VectorReader;

/// Rows, one after the other.
pub(crate) struct Sample {
    pub(crate) data: Vec<f32>,
    pub(crate) dim: usize,
}

/// The passages.
pub(crate) fn passages() -> Result<Sample, Box<dyn Error>> {
    read("text-2k.base.npy")
}

/// The questions.
pub(crate) fn questions() -> Result<Sample, Box<dyn Error>> {
    read("text-2k.query.npy")
}

fn read(file: &str) -> Result<Sample, Box<dyn Error>> {
    let mut reader = VectorReader::open(format!("{}/tests/data/{file}", env!("CARGO_MANIFEST_DIR")))?;
    let (rows, dim) = (reader.rows() as usize, reader.dim());
    let data = reader.next_batch(rows)?.unwrap_or_default();
    Ok(Sample { data, dim })
}
