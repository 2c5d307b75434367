//! A model by itself: what training made, to be taken into other indexes, so that many stores share one training and can be
//! merged or read as shards.
//!
//! ```text
//! 0    8 bytes   "vellum.m"
//! 8    u32       version, 1
//! 12   u32       crc32 of all that follows
//! 16   16 bytes  fingerprint
//! 32   u32       dimension, of vectors before any transform
//! 36   u32       metric: its tag on disk
//! 40   u32       the bits of Lp's p, else 0
//! 44   five parts, each a u64 length and so many bytes:
//!      specification without kept rows (text) | centroids (f32), and how lists are found, where `finder.rs` draws something |
//!      transforms | tables of the codec | training parameters (text)
//! ```
//! The fingerprint is FNV-1a of 128 bits over dimension, metric and the parts but the last: equal models are equal in all that codes
//! depend on. It tells models apart that are different by mistake; it is no signature. The tree of super-clusters follows from the
//! centroids and is grown again.

use super::finder::{self, Misfit};
use super::model::{Model, Trained, untrained_codec};
use super::reader::IndexReader;
use super::train::{decode_params, encode_params};
use super::writer::IndexWriter;
use crate::coarse::Quantizers;
use crate::codec;
use crate::math::transform::Chain;
use crate::{Error, IndexSpec, Metric, Observer, Result, Rows, metric};
use std::fmt;

const MAGIC: &[u8; 8] = b"vellum.m";
const VERSION: u32 = 1;
const HEAD: usize = 44;
/// Where the checksum begins.
const CHECKED: usize = 16;

/// Which training a model is of: equal for models whose codes mean the same. Made by [`IndexReader::fingerprint`], printed in
/// hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 16]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Fingerprint {
    /// What it is printed as.
    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        let value = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32)?;
        Some(Fingerprint(value.to_be_bytes()))
    }
}

/// The parts of a model that codes depend on, as they are exported.
struct Parts<'m> {
    dim: u32,
    metric: (u8, u32),
    spec: &'m [u8],
    centroids: &'m [u8],
    transforms: &'m [u8],
    codec: &'m [u8],
}

impl Parts<'_> {
    fn all(&self) -> [&[u8]; 4] {
        [self.spec, self.centroids, self.transforms, self.codec]
    }

    fn fingerprint(&self) -> Fingerprint {
        let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        let mut add = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u128::from(*byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
            }
        };
        add(&self.dim.to_le_bytes());
        add(&u32::from(self.metric.0).to_le_bytes());
        add(&self.metric.1.to_le_bytes());
        for part in self.all() {
            add(&(part.len() as u64).to_le_bytes());
            add(part);
        }
        Fingerprint(hash.to_le_bytes())
    }
}

/// What codes depend on of a specification.
fn code_spec(spec: &IndexSpec) -> String {
    IndexSpec { kept: None, auto: None, ..spec.clone() }.to_string()
}

fn with_parts<R>(model: &Model, centroids: Rows<'_>, read: impl FnOnce(&Parts<'_>) -> R) -> R {
    let spec = code_spec(&model.spec);
    let mut centroids: Vec<u8> = centroids.as_slice().iter().flat_map(|c| c.to_le_bytes()).collect();
    centroids.extend(finder::meaning(model));
    let transforms = model.chain.as_ref().map_or(Vec::new(), Chain::to_bytes);
    let codec = if model.spec.encoding.is_learned() { model.codec.tables() } else { Vec::new() };
    read(&Parts {
        dim: model.spec.dim as u32,
        metric: model.metric().to_stored(),
        spec: spec.as_bytes(),
        centroids: &centroids,
        transforms: &transforms,
        codec: &codec,
    })
}

/// Which training a model is of; `None` without lists.
pub(crate) fn fingerprint_of(model: &Model) -> Option<Fingerprint> {
    Some(with_parts(model, model.centroids()?, |parts| parts.fingerprint()))
}

impl IndexReader<'_> {
    /// Which training the index is of; `None` before it and for a flat index.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        fingerprint_of(&self.model)
    }

    /// All that training made, as bytes that [`IndexWriter::import_model`] takes into other indexes: centroids, transforms,
    /// tables of the codes, parameters. No vectors.
    ///
    /// ```no_run
    /// # use vellum::*;
    /// # fn share(index: &IndexReader<'_>, other: &mut IndexWriter<'_>) -> Result<()> {
    /// let model = index.export_model()?;
    /// let fingerprint = other.import_model(&model, &mut Observer::none())?;
    /// assert_eq!(Some(fingerprint), index.fingerprint());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Untrained`].
    pub fn export_model(&self) -> Result<Vec<u8>> {
        let untrained = || Error::Untrained { index: self.model.spec.to_string() };
        let centroids = self.model.centroids().ok_or_else(untrained)?;
        let params = encode_params(&self.training()?.unwrap_or_default());
        Ok(with_parts(&self.model, centroids, |parts| write(parts, &params)))
    }
}

fn write(parts: &Parts<'_>, params: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(parts.fingerprint().0);
    bytes.extend(parts.dim.to_le_bytes());
    bytes.extend(u32::from(parts.metric.0).to_le_bytes());
    bytes.extend(parts.metric.1.to_le_bytes());
    for part in parts.all().into_iter().chain([params]) {
        bytes.extend((part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    let crc = crc32fast::hash(&bytes[CHECKED..]);
    bytes[12..CHECKED].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn corrupt(what: impl Into<String>) -> Error {
    Error::corrupt("an exported model", 0, what)
}

/// Takes bytes apart: the parts, the fingerprint they say they have, the training parameters.
fn read(bytes: &[u8]) -> Result<(Parts<'_>, Fingerprint, &[u8])> {
    let head = bytes.get(..HEAD).ok_or_else(|| corrupt("shorter than its head"))?;
    let word =
        |at: usize| head.get(at..).and_then(|rest| rest.first_chunk()).copied().map_or(0, u32::from_le_bytes);
    if !head.starts_with(MAGIC) {
        return Err(corrupt("no model of vellum's"));
    }
    if word(8) != VERSION {
        return Err(Error::NewerVersion { needed: word(8), supported: VERSION });
    }
    if word(12) != crc32fast::hash(&bytes[CHECKED..]) {
        return Err(corrupt("checksum"));
    }
    let mut fingerprint = [0; 16];
    fingerprint.copy_from_slice(&head[CHECKED..32]);
    let mut rest = &bytes[HEAD..];
    let mut part = || {
        let (len, after) = rest.split_first_chunk::<8>().ok_or_else(|| corrupt("cut off"))?;
        let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| corrupt("a part too long"))?;
        let (part, after) = after.split_at_checked(len).ok_or_else(|| corrupt("a part is cut off"))?;
        rest = after;
        Ok::<&[u8], Error>(part)
    };
    let (spec, centroids, transforms, codec, params) = (part()?, part()?, part()?, part()?, part()?);
    let tag = u8::try_from(word(36)).map_err(|_| corrupt("an unknown metric"))?;
    if !rest.is_empty() {
        return Err(corrupt("longer than its parts"));
    }
    let parts = Parts { dim: word(32), metric: (tag, word(40)), spec, centroids, transforms, codec };
    Ok((parts, Fingerprint(fingerprint), params))
}

impl IndexWriter<'_> {
    /// Takes a model that [`IndexReader::export_model`] gave, of an index of the same specification (kept rows may be
    /// others). What is stored moves to the new lists, as after [`train`](Self::train); ticks as `"tree"` and
    /// `"redistribute"`. An index that has this very model stays as it is. Returns the fingerprint.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for bytes that are no such model; [`Error::NewerVersion`]; [`Error::Incompatible`] for a model of another
    /// specification; [`Error::Quantizer`] if it needs one that was not given; those of training.
    pub fn import_model(&mut self, model: &[u8], observer: &mut Observer<'_>) -> Result<Fingerprint> {
        let (parts, fingerprint, params) = read(model)?;
        if parts.fingerprint() != fingerprint {
            return Err(corrupt("its fingerprint is of another model"));
        }
        let spec = self.model.spec.clone();
        check_spec(&spec, &parts)?;
        if self.reader().fingerprint() == Some(fingerprint) {
            return Ok(fingerprint);
        }
        self.check_decodes()?;
        let params = decode_params(params).map_err(|e| corrupt(e.to_string()))?;
        let trained = trained(&spec, &parts, &self.quantizers, observer)?;
        self.install_trained(trained, None, &params, observer)?;
        Ok(fingerprint)
    }
}

fn check_spec(spec: &IndexSpec, parts: &Parts<'_>) -> Result<()> {
    let differ = |what: String| Err(Error::Incompatible { what });
    let metric =
        Metric::from_stored(parts.metric.0, parts.metric.1).ok_or_else(|| corrupt("an unknown metric"))?;
    let its = std::str::from_utf8(parts.spec).map_err(|_| corrupt("its specification is no text"))?;
    if parts.dim as usize != spec.dim {
        return differ(format!("dimensions {} and {}", spec.dim, parts.dim));
    }
    if metric != spec.metric {
        return differ(format!("metrics {} and {metric}", spec.metric));
    }
    let ours = code_spec(spec);
    if ours != its {
        return differ(format!("`{ours}` and `{its}`"));
    }
    Ok(())
}

/// What the parts are, checked against the specification that they are to serve.
fn trained(
    spec: &IndexSpec,
    parts: &Parts<'_>,
    quantizers: &Quantizers,
    observer: &mut Observer<'_>,
) -> Result<Trained> {
    let (dim, nlist) = (spec.inner_dim(), spec.nlist.unwrap_or(0));
    let split = parts.centroids.split_at_checked(nlist * dim * 4);
    let wrong = || corrupt(format!("{} bytes of centroids", parts.centroids.len()));
    let (bytes, meaning) = split
        .filter(|(_, meaning)| nlist > 0 && meaning.is_empty() != spec.has_finder())
        .ok_or_else(wrong)?;
    let words = bytes.as_chunks::<4>().0;
    let centroids: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
    let rows = Rows::of(&centroids, dim);
    rows.check_finite()
        .and_then(|()| metric::check_centroids(spec.metric, rows))
        .map_err(|e| corrupt(e.to_string()))?;
    let chain = match &spec.transforms[..] {
        [] if parts.transforms.is_empty() => None,
        [] => return Err(corrupt("transforms that nobody asked for")),
        kinds => Some(Chain::from_bytes(kinds, spec.dim, parts.transforms).map_err(corrupt)?),
    };
    let codec = match untrained_codec(spec, spec.encoding, dim) {
        Some(codec) if parts.codec.is_empty() => codec,
        Some(_) => return Err(corrupt("tables of a code that has none")),
        None => codec::load(spec.encoding, dim, spec.metric.similarity(), parts.codec).map_err(corrupt)?,
    };
    if let Some(lists) = codec.lists().filter(|lists| *lists != nlist) {
        return Err(corrupt(format!("tables of the codes of {lists} lists")));
    }
    let tree = Model::grow_tree(spec, &centroids, observer)?;
    let finder = match spec.has_finder() {
        false => None,
        true => Some(finder::decode(spec, meaning, bytes, Some(quantizers)).map_err(|e| match e {
            Misfit::Bytes(what) => corrupt(what),
            Misfit::Quantizer(e) => e,
        })?),
    };
    Ok(Trained { centroids, tree, finder, chain, codec })
}
