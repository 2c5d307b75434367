//! From an encoding to its codec: the one place that knows them all.

use super::nibble::{Nibble, NibbleBits};
use super::{Codec, Flat, Training};
use crate::kernel::Similarity;
use crate::{Encoding, Error, Observer, Result};

/// The codec of an encoding that nothing is learned for; `None` for others.
pub(crate) fn untrained(encoding: Encoding, dim: usize, similarity: Similarity) -> Option<Box<dyn Codec>> {
    let encoding = encoding.resolved(dim);
    if let Some(element) = encoding.element() {
        return Some(Box::new(Flat::new(dim, element, similarity)));
    }
    Some(match encoding {
        Encoding::Nibble1 => Box::new(Nibble::new(dim, NibbleBits::One, similarity)),
        Encoding::Nibble2 => Box::new(Nibble::new(dim, NibbleBits::Two, similarity)),
        _ => return None,
    })
}

/// Rows that training wants at most; all if `None`.
pub(crate) fn training_rows(_encoding: Encoding) -> Option<usize> {
    Some(0)
}

/// Trains the codec of `encoding`. Ticks as `"encoder"`.
pub(crate) fn train(
    encoding: Encoding,
    training: &Training<'_>,
    _observer: &mut Observer<'_>,
) -> Result<Box<dyn Codec>> {
    let dim = training.sample.rows.dim();
    untrained(encoding, dim, training.similarity)
        .ok_or_else(|| Error::Spec { text: encoding.to_string(), what: "cannot be trained".into() })
}

/// The codec that `tables` were stored of, or why they cannot be.
pub(crate) fn load(
    encoding: Encoding,
    dim: usize,
    similarity: Similarity,
    tables: &[u8],
) -> std::result::Result<Box<dyn Codec>, String> {
    match untrained(encoding, dim, similarity) {
        Some(codec) if tables.is_empty() => Ok(codec),
        Some(_) => Err(format!("{} bytes of tables, {encoding} has none", tables.len())),
        None => Err(format!("{encoding} cannot be loaded")),
    }
}
