//! What a search may say to the coarse quantizer ([`QuantizerParams`]): how hard to look for the lists that it wants.
//!
//! ```text
//! SearchParams::quantizer_params ─ check(specification) ─→ tree: so many super-clusters | any of ours: all centroids
//!                                                          the caller's: a value that only it understands
//! ```
//! What the quantizer of an index has no use for is refused, never passed over.

use crate::{Coarse, Error, IndexSpec, Result};
use std::any::{Any, type_name};
use std::fmt;
use std::sync::Arc;

/// How the coarse quantizer looks for the lists of a search: FAISS's `quantizer_params`. Given to
/// [`SearchParams::quantizer_params`](crate::SearchParams::quantizer_params) or [`IndexReader::probe_with`](crate::IndexReader::probe_with).
///
/// A quantizer that has no such parameter refuses it with [`Error::Parameter`]. Before training there is one list and nothing to choose,
/// so a parameter that the index will have changes nothing then.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum QuantizerParams {
    /// All centroids are compared. A flat quantizer does nothing else; a tree looks into all of its super-clusters. Refused where the quantizer
    /// is the caller's own.
    Exact,
    /// A tree (`IVF65536(IVF512)`) looks into so many super-clusters, at least 1, the nearest that have lists: the `nprobe` of FAISS's inner index.
    /// More than there are means all of them. They may have fewer lists than `nprobe` asks for; the search then looks into those alone.
    /// Without it a tree looks into as many as have nlist^¾ · nprobe^¼ lists. A search with a selector does not go beyond them
    /// ([`FilterMode::Probed`](crate::FilterMode::Probed)). Refused by indexes without a tree.
    SuperClusters(usize),
    /// A value for a [`Quantizer`](crate::Quantizer) of the caller's own, handed to its [`nearest_with`](crate::Quantizer::nearest_with). Refused
    /// by indexes without one.
    Own(QuantizerValue),
}

/// A value that only the caller's [`Quantizer`](crate::Quantizer) understands.
///
/// ```
/// # use vellum::QuantizerValue;
/// #[derive(Debug)]
/// struct Effort(u32);
///
/// let value = QuantizerValue::new(Effort(3));
/// assert_eq!(value.get::<Effort>()?.0, 3);
/// let wrong = value.get::<u64>().unwrap_err().to_string();
/// assert!(wrong.contains("Effort") && wrong.contains("u64"));
/// # Ok::<(), vellum::Error>(())
/// ```
#[derive(Clone)]
pub struct QuantizerValue {
    value: Arc<dyn Any + Send + Sync>,
    of: &'static str,
}

impl QuantizerValue {
    /// Of any type.
    pub fn new<T: Any + Send + Sync>(value: T) -> Self {
        QuantizerValue { value: Arc::new(value), of: type_name::<T>() }
    }

    /// The value, if it is of this type.
    ///
    /// # Errors
    /// [`Error::Parameter`] with both types if it is of another.
    pub fn get<T: Any>(&self) -> Result<&T> {
        let wrong = || bad(format!("a value of type {}, expected {}", self.of, type_name::<T>()));
        self.value.downcast_ref().ok_or_else(wrong)
    }
}

impl fmt::Debug for QuantizerValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QuantizerValue({})", self.of)
    }
}

impl QuantizerParams {
    /// Refuses what the quantizer of an index has no use for.
    pub(crate) fn check(&self, spec: &IndexSpec) -> Result<()> {
        match (self, spec.coarse) {
            (Self::Exact, Coarse::Own(name)) => {
                Err(bad(format!("`Exact`, and lists are found by the quantizer `{name}`")))
            }
            (Self::SuperClusters(0), _) => Err(bad("0 super-clusters, expected at least 1".into())),
            (Self::SuperClusters(supers), coarse) if !matches!(coarse, Coarse::Tree(_)) => {
                Err(bad(format!("{supers} super-clusters, index `{spec}` has none")))
            }
            (Self::Own(value), coarse) if !matches!(coarse, Coarse::Own(_)) => {
                Err(bad(format!("{value:?}, index `{spec}` has no quantizer of the caller's own")))
            }
            _ => Ok(()),
        }
    }
}

pub(crate) fn bad(what: String) -> Error {
    Error::Parameter { name: "quantizer_params", what }
}
