//! Whether a kept row and its code are the same vector: a checksum of each that is equal if they are.
//!
//! Both are roundings of one vector. What is left of it after both roundings is the same from either side,
//! as long as one of the two loses nothing that the other keeps; a pair of half precision and bfloat16 cannot
//! be compared this way and is not.

use super::model::Model;
use crate::kernel::{Element, Kernels};

pub(crate) struct KeptCheck {
    code: Element,
    kept: Element,
    vector: Vec<f32>,
    bytes: Vec<u8>,
}

impl KeptCheck {
    /// `None` where no rows are kept, or code and row cannot be compared.
    pub(crate) fn new(model: &Model) -> Option<Self> {
        let (code, kept) = (model.spec.encoding.element()?, model.spec.kept?.element());
        let comparable = code == kept || code == Element::F32 || kept == Element::F32;
        comparable.then(|| KeptCheck { code, kept, vector: vec![0.0; model.spec.dim], bytes: Vec::new() })
    }

    /// Of a vector as its code says.
    pub(crate) fn of_decoded(&mut self, vector: &[f32]) -> u32 {
        self.vector.copy_from_slice(vector);
        self.round(self.kept);
        crc32fast::hash(&self.bytes)
    }

    /// Of a kept row's bytes.
    pub(crate) fn of_kept(&mut self, bytes: &[u8]) -> u32 {
        Kernels::get().decode(self.kept, bytes, &mut self.vector);
        self.round(self.code);
        Kernels::get().decode(self.code, &self.bytes, &mut self.vector);
        self.round(self.kept);
        crc32fast::hash(&self.bytes)
    }

    fn round(&mut self, element: Element) {
        self.bytes.resize(self.vector.len() * element.size(), 0);
        Kernels::get().encode(element, &self.vector, &mut self.bytes);
    }
}
