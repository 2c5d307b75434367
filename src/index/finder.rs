//! How lists are found, where that is not by the centroids of the model: a section of its own beside them, made with them.
//!
//! ```text
//! 0   u32         crc32 of the section of centroids and of all that follows here
//! 4   u32         0
//! 8   u64         fingerprint of the caller's quantizer; 0 where lists are those of the nearest centroid
//! 16  nlist × d   f32, centroids before transforms; only where there are any: else those of the model are the same
//! ```
//! A quantizer of the caller's must have these centroids to the bit.

use super::model::Model;
use crate::coarse::{Finder, Quantizers};
use crate::storage::sections::Section;
use crate::storage::{BytesTable, Tables};
use crate::{Coarse, Error, IndexSpec, Result};

const HEAD: usize = 16;
/// Where what models differ in begins.
const MEANING: usize = 8;

/// What of the finder codes depend on: empty where there is none.
pub(crate) fn meaning(model: &Model) -> Vec<u8> {
    match &model.finder {
        None => Vec::new(),
        Some(finder) => encode(finder, &model.spec, &[]).split_off(MEANING),
    }
}

/// The bytes of a finder beside these `centroids`, given as they are stored.
pub(crate) fn encode(finder: &Finder, spec: &IndexSpec, centroids: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; MEANING];
    bytes.extend(finder.fingerprint().to_le_bytes());
    if !spec.transforms.is_empty() {
        bytes.extend(finder.centroids().iter().flat_map(|component| component.to_le_bytes()));
    }
    let sum = checksum(centroids, &bytes);
    bytes[..4].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The stored finder beside these `centroids`, if the specification says that there is one. Without `quantizers` the nearest centroid stands
/// in for the caller's: enough to verify and to repair.
pub(crate) fn read<B: BytesTable, M, F, K>(
    tables: &Tables<B, M, F, K>,
    spec: &IndexSpec,
    centroids: &[u8],
    quantizers: Option<&Quantizers>,
) -> Result<Option<Finder>> {
    if !spec.has_finder() {
        return Ok(None);
    }
    let bad = |what: &str| Error::corrupt(&tables.names.model, (Section::Finder as u64) << 32, what);
    let bytes = tables.read_section(Section::Finder)?.ok_or_else(|| bad("how lists are found is missing"))?;
    let sum = bytes.first_chunk().map(|sum| u32::from_le_bytes(*sum));
    if bytes.len() < HEAD || sum != Some(checksum(centroids, &bytes)) {
        return Err(bad("how lists are found is not said of these centroids"));
    }
    decode(spec, &bytes[MEANING..], centroids, quantizers).map(Some).map_err(|e| match e {
        Misfit::Bytes(what) => bad(what),
        Misfit::Quantizer(e) => e,
    })
}

/// Why a finder cannot be had: its bytes are wrong, or nobody gave the quantizer.
pub(crate) enum Misfit {
    Bytes(&'static str),
    Quantizer(Error),
}

/// The finder that [`meaning`] says.
pub(crate) fn decode(
    spec: &IndexSpec,
    meaning: &[u8],
    centroids: &[u8],
    quantizers: Option<&Quantizers>,
) -> Result<Finder, Misfit> {
    let nlist = spec.nlist.unwrap_or(0);
    let (fingerprint, own) = meaning.split_first_chunk::<8>().ok_or(Misfit::Bytes("cut off"))?;
    let stored = if spec.transforms.is_empty() { centroids } else { own };
    let spare = spec.transforms.is_empty() && !own.is_empty();
    if spare || stored.len() != nlist * spec.dim * 4 {
        return Err(Misfit::Bytes("centroids before transforms are not as long as they should be"));
    }
    let stored: Vec<f32> = stored.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
    if stored.iter().any(|component| !component.is_finite()) {
        return Err(Misfit::Bytes("a centroid before transforms is not finite"));
    }
    match (spec.coarse, quantizers) {
        (Coarse::Own(name), Some(quantizers)) => {
            quantizers.find(name.as_str(), u64::from_le_bytes(*fingerprint))
        }
        _ => return Ok(Finder::near(stored, spec.dim, spec.metric.similarity())),
    }
    .and_then(|quantizer| Finder::own(quantizer, spec.dim, nlist))
    .and_then(|finder| same_centroids(spec, &stored, finder))
    .map_err(Misfit::Quantizer)
}

fn same_centroids(spec: &IndexSpec, stored: &[f32], finder: Finder) -> Result<Finder> {
    let its = finder.centroids();
    match its.iter().zip(stored).position(|(a, b)| a.to_bits() != b.to_bits()) {
        None => Ok(finder),
        Some(at) => {
            let name = if let Coarse::Own(name) = spec.coarse { name.to_string() } else { String::new() };
            let what =
                format!("the centroid of list {} is not the one the index was trained with", at / spec.dim);
            Err(Error::Quantizer { name, what })
        }
    }
}

/// Of the centroids and of the section but for its first four bytes.
fn checksum(centroids: &[u8], bytes: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(centroids);
    sum.update(&bytes[4..]);
    sum.finalize()
}
