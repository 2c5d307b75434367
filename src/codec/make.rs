//! From an encoding to its codec: the one place that knows them all.

use super::additive::{Additive, AdditiveFastScan};
use super::fast_scan::ProductFastScan;
use super::nibble::{Nibble, NibbleBits};
use super::product::{Product, Stages};
use super::rabitq::RaBitQ;
use super::scalar::Scalar;
use super::spectral::Spectral;
use super::{Codec, Flat, Training};
use crate::encoding::ScalarQuantizer;
use crate::kernel::Similarity;
use crate::layout::{Factors, Layout};
use crate::{Encoding, Error, Observer, Result};

/// Why vectors of `dim` components cannot be encoded so, if they cannot.
pub(crate) fn misfit(encoding: Encoding, dim: usize) -> Option<String> {
    let reason = |refused: Result<()>| match refused {
        Ok(()) => None,
        Err(Error::Spec { what, .. } | Error::Parameter { what, .. }) => Some(what),
        Err(other) => Some(other.to_string()),
    };
    match encoding {
        Encoding::Product(pq) => reason(Stages::from(pq).check(dim)),
        Encoding::RefinedProduct(pqr) => reason(Stages::from(pqr).check(dim)),
        Encoding::FastScan(params) => {
            let m = usize::from(params.subspaces);
            (m == 0 || !dim.is_multiple_of(m))
                .then(|| format!("{dim} components cannot be cut into {m} equal parts"))
        }
        Encoding::Additive(form) => reason(form.check(dim)),
        _ => None,
    }
}

/// How its codes will lie in a block, or at most so large.
pub(crate) fn layout(encoding: Encoding, dim: usize, similarity: Similarity) -> Layout {
    let row_major = |code_bytes: usize| Layout::RowMajor { code_bytes };
    let nibbles = |subspaces: usize| Layout::Nibbles {
        subspaces: subspaces.next_multiple_of(2),
        factors: Factors::Bias,
        extra: 0,
    };
    match encoding {
        Encoding::Scalar(ScalarQuantizer::Steps(steps)) => row_major((dim * steps.bits.count()).div_ceil(8)),
        Encoding::Product(pq) => row_major((pq.m * pq.bits).div_ceil(8) + BIAS),
        Encoding::RefinedProduct(pqr) => {
            row_major((pqr.m * pqr.bits).div_ceil(8) + (pqr.refine_m * pqr.refine_bits).div_ceil(8) + BIAS)
        }
        Encoding::FastScan(params) => nibbles(usize::from(params.subspaces)),
        Encoding::Additive(form) if form.fast_scan() => nibbles(2 * form.code_bytes()),
        Encoding::Additive(form) => row_major(form.code_bytes()),
        Encoding::SpectralHash(hash) => row_major(hash.bits.map_or(dim, |bits| bits as usize).div_ceil(8)),
        _ => untrained(encoding, dim, similarity).map_or(row_major(4 * dim), |codec| codec.layout()),
    }
}

/// Bytes of a bias.
const BIAS: usize = 4;

/// The codec of an encoding that nothing is learned for; `None` for others.
pub(crate) fn untrained(encoding: Encoding, dim: usize, similarity: Similarity) -> Option<Box<dyn Codec>> {
    let encoding = encoding.resolved(dim);
    if let Some(element) = encoding.element() {
        return Some(Box::new(Flat::new(dim, element, similarity)));
    }
    match encoding {
        Encoding::Nibble1 => Some(Box::new(Nibble::new(dim, NibbleBits::One, similarity))),
        Encoding::Nibble2 => Some(Box::new(Nibble::new(dim, NibbleBits::Two, similarity))),
        _ if encoding.is_learned() => None,
        _ => load(encoding, dim, similarity, &[]).ok(),
    }
}

/// Rows that training wants at most; all if `None`.
pub(crate) fn training_rows(encoding: Encoding) -> Option<usize> {
    match encoding {
        Encoding::Scalar(quantizer) => Scalar::training_rows(quantizer),
        Encoding::Product(pq) => Some(Stages::from(pq).training_rows()),
        Encoding::RefinedProduct(pqr) => Some(Stages::from(pqr).training_rows()),
        Encoding::FastScan(params) => ProductFastScan::training_rows(params),
        Encoding::Additive(form) => Additive::training_rows(&form),
        Encoding::SpectralHash(hash) => Spectral::training_rows(hash),
        _ => Some(0),
    }
}

/// Trains the codec of a learned encoding. Ticks as `"encoder"`.
pub(crate) fn train(
    encoding: Encoding,
    training: &Training<'_>,
    observer: &mut Observer<'_>,
) -> Result<Box<dyn Codec>> {
    Ok(match encoding {
        Encoding::Scalar(quantizer) => Box::new(Scalar::train(quantizer, training, observer)?),
        Encoding::Product(pq) => Box::new(Product::train(pq, training, observer)?),
        Encoding::RefinedProduct(pqr) => Box::new(Product::train(pqr, training, observer)?),
        Encoding::FastScan(params) => Box::new(ProductFastScan::train(params, training, observer)?),
        Encoding::Additive(form) if form.fast_scan() => {
            Box::new(AdditiveFastScan::train(form, training, observer)?)
        }
        Encoding::Additive(form) => Box::new(Additive::train(form, training, observer)?),
        Encoding::SpectralHash(hash) => Box::new(Spectral::train(hash, training, observer)?),
        other => {
            let what = "there is nothing to learn".into();
            return Err(Error::Spec { text: other.to_string(), what });
        }
    })
}

/// The codec that `tables` were stored of, or why they cannot be.
pub(crate) fn load(
    encoding: Encoding,
    dim: usize,
    similarity: Similarity,
    tables: &[u8],
) -> std::result::Result<Box<dyn Codec>, String> {
    Ok(match encoding {
        Encoding::Scalar(quantizer) => Box::new(Scalar::from_tables(quantizer, dim, similarity, tables)?),
        Encoding::Product(pq) => Box::new(Product::from_tables(pq, dim, similarity, tables)?),
        Encoding::RefinedProduct(pqr) => Box::new(Product::from_tables(pqr, dim, similarity, tables)?),
        Encoding::FastScan(params) => {
            Box::new(ProductFastScan::from_tables(params, dim, similarity, tables)?)
        }
        Encoding::Additive(form) if form.fast_scan() => {
            Box::new(AdditiveFastScan::from_tables(form, dim, similarity, tables)?)
        }
        Encoding::Additive(form) => Box::new(Additive::from_tables(form, dim, similarity, tables)?),
        Encoding::SpectralHash(hash) => Box::new(Spectral::from_tables(hash, dim, similarity, tables)?),
        Encoding::RaBitQ(code) => Box::new(RaBitQ::from_tables(code, dim, similarity, tables)?),
        _ => match untrained(encoding, dim, similarity) {
            Some(codec) if tables.is_empty() => codec,
            _ => return Err(format!("{} bytes of tables, {encoding} has none", tables.len())),
        },
    })
}
