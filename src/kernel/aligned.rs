//! `AlignedVec`: `f32`s that start on a cache line, so that a vector load never crosses two.

#![allow(unsafe_code)]

use std::ops::{Deref, DerefMut};

/// A cache line of components.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// A fixed number of components, the first at an address that is a multiple of 64.
#[derive(Clone)]
pub(crate) struct AlignedVec {
    lines: Vec<Line>,
    len: usize,
}

impl AlignedVec {
    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        AlignedVec { lines: vec![Line([0.0; 16]); len.div_ceil(16)], len }
    }
}

impl Deref for AlignedVec {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: a `Line` is 16 floats without padding, and `lines` holds at least `len` of them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for AlignedVec {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and `self` is borrowed for as long as the slice lives.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl std::fmt::Debug for AlignedVec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AlignedVec").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_on_a_line_and_keeps_its_length() {
        for len in [0, 1, 15, 16, 17, 1000] {
            let mut floats = AlignedVec::zeros(len);
            assert_eq!((floats.len(), floats.as_ptr() as usize % 64), (len, 0));
            floats.iter_mut().enumerate().for_each(|(i, v)| *v = i as f32);
            assert!(floats.clone().iter().enumerate().all(|(i, &v)| v == i as f32));
        }
    }
}
