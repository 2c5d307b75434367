//! Whether a kept row and its code are the same vector: a checksum of each that is equal if they are.
//!
//! Where codes are components, both are roundings of one vector. What is left of it after both roundings is the same
//! from either side, as long as one of the two loses nothing that the other keeps; a pair of half precision and bfloat16
//! cannot be compared this way and is not. Where codes are estimates, a row that is kept exactly is encoded again: the
//! encoder gives the same bytes on every machine, but for additive codes, whose search for words goes by sums that processors
//! round differently: those are not compared. Nor is a row that is not kept exactly: it is no longer the vector that was
//! encoded.

use super::model::Model;
use crate::Rows;
use crate::codec::{Assigned, KeptForm};
use crate::kernel::{Element, Kernels};

pub(crate) struct KeptCheck<'m> {
    model: &'m Model,
    /// Of the most exact rows.
    form: KeptForm,
    how: How,
    vector: Vec<f32>,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy)]
enum How {
    /// The codes are components of this kind.
    Rounded(Element),
    Encoded,
}

impl<'m> KeptCheck<'m> {
    /// `None` where no rows are kept, or code and row cannot be compared.
    pub(crate) fn new(model: &'m Model) -> Option<Self> {
        let form = model.kept.last()?.form;
        let how = match model.code_element() {
            None if form.is_exact() && model.spec.encoding.is_reproducible() => How::Encoded,
            None => return None,
            Some(code) if code == Element::F32 || form.is_exact() || form.element() == Some(code) => {
                How::Rounded(code)
            }
            Some(_) => return None,
        };
        Some(KeptCheck { model, form, how, vector: vec![0.0; model.spec.dim], bytes: Vec::new() })
    }

    /// Of a code and the vector that it stands for.
    pub(crate) fn of_code(&mut self, code: &[u8], vector: &[f32]) -> u32 {
        match self.how {
            How::Encoded => crc32fast::hash(code),
            How::Rounded(_) => {
                self.bytes.clear();
                self.form.encode(vector, &mut self.bytes);
                crc32fast::hash(&self.bytes)
            }
        }
    }

    /// Of the bytes of a kept row, whose code is in `list` (as a number within the model).
    pub(crate) fn of_kept(&mut self, list: u32, bytes: &[u8]) -> u32 {
        let KeptCheck { model, form, vector, .. } = self;
        match self.how {
            // Nothing was rounded away.
            How::Rounded(Element::F32) => return crc32fast::hash(bytes),
            How::Rounded(code) => {
                form.decode(bytes, vector);
                self.bytes.resize(vector.len() * code.size(), 0);
                Kernels::get().encode(code, vector, &mut self.bytes);
                Kernels::get().decode(code, &self.bytes, vector);
                self.bytes.clear();
                form.encode(vector, &mut self.bytes);
            }
            How::Encoded => {
                form.decode(bytes, vector);
                self.bytes.clear();
                // A row that was stored was projected then.
                let projected = model.project(Rows::of(vector, vector.len())).unwrap_or_default();
                let rows = Rows::of(&projected, model.inner_dim());
                let assigned = Assigned { rows, lists: &[list], centroids: model.centroids() };
                model.codec.encode(assigned, &mut self.bytes);
            }
        }
        crc32fast::hash(&self.bytes)
    }
}
