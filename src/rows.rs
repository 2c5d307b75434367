//! `Rows`: a borrowed matrix of `f32`, row-major, that cannot be ragged.
//!
//! Every verb that takes vectors takes `Rows`. The dimension travels with the data, so that a wrong
//! dimension is an error at the door ([`Error::Dimension`]) and never an index out of bounds below.

use crate::{Error, Result};

/// A batch of vectors: `len` rows of `dim` components each, borrowed, row-major.
///
/// ```
/// # use vellum::Rows;
/// let data = [1.0, 2.0, 3.0, 4.0];
/// let rows = Rows::new(&data, 2)?;
/// assert_eq!(rows.len(), 2);
/// assert_eq!(rows.row(1), [3.0, 4.0]);
/// # Ok::<(), vellum::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    data: &'a [f32],
    dim: usize,
}

impl<'a> Rows<'a> {
    /// Views `data` as rows of `dim` components.
    ///
    /// # Errors
    /// [`Error::Shape`] if `dim` is 0 or `data.len()` is not a multiple of it.
    pub fn new(data: &'a [f32], dim: usize) -> Result<Self> {
        if dim == 0 || !data.len().is_multiple_of(dim) {
            return Err(Error::Shape { len: data.len(), dim });
        }
        Ok(Rows { data, dim })
    }

    /// Data that this crate made itself, whole rows by construction.
    pub(crate) fn of(data: &'a [f32], dim: usize) -> Self {
        assert!(dim > 0 && data.len().is_multiple_of(dim), "whole rows");
        Rows { data, dim }
    }

    /// One vector as a batch of one.
    pub fn one(row: &'a [f32]) -> Result<Self> {
        Rows::new(row, row.len())
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.data.len() / self.dim
    }

    /// True if there is no row.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Components per row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If `i >= len()`, as slices do.
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.data[i * self.dim..(i + 1) * self.dim]
    }

    /// All components, row after row.
    pub fn as_slice(&self) -> &'a [f32] {
        self.data
    }

    /// Rows `range`.
    ///
    /// # Panics
    /// If the range lies outside `0..len()`, as slices do.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Rows<'a> {
        Rows { data: &self.data[range.start * self.dim..range.end * self.dim], dim: self.dim }
    }

    /// The rows in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [f32]> + Clone + use<'a> {
        self.data.chunks_exact(self.dim)
    }

    /// Refuses NaN and infinities, naming the first.
    pub(crate) fn check_finite(&self) -> Result<()> {
        match self.data.iter().position(|v| !v.is_finite()) {
            None => Ok(()),
            Some(at) => {
                Err(Error::NotFinite { row: at / self.dim, component: at % self.dim, value: self.data[at] })
            }
        }
    }

    /// Refuses a dimension other than `expected`.
    pub(crate) fn check_dim(&self, expected: usize) -> Result<()> {
        if self.dim == expected { Ok(()) } else { Err(Error::Dimension { expected, got: self.dim }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ragged_data_is_refused() {
        assert!(matches!(Rows::new(&[1.0; 5], 2), Err(Error::Shape { len: 5, dim: 2 })));
        assert!(matches!(Rows::new(&[], 0), Err(Error::Shape { .. })));
        assert_eq!(Rows::new(&[], 3).unwrap().len(), 0);
    }

    #[test]
    fn the_first_non_finite_component_is_named() {
        let rows = [1.0, 2.0, f32::NAN, f32::INFINITY];
        let rows = Rows::new(&rows, 2).unwrap();
        assert!(matches!(rows.check_finite(), Err(Error::NotFinite { row: 1, component: 0, .. })));
    }
}
