//! `.fvecs`, `.bvecs`, `.ivecs`: rows one after the other, each after its own dimension.
//!
//! ```text
//! dim: i32 little-endian | dim components      (f32, u8 or i32)
//! dim: i32 little-endian | dim components      the same dim in every row
//! ...
//! ```
//! There is no header: the first row tells the dimension, the file's length the number of rows. That
//! the other rows agree is checked when they are read.

use super::{Element, Fault, Layout};

/// Bytes before the components of a row.
pub(super) const PREFIX: usize = 4;

/// The layout of a file of `file_bytes` that begins with `prefix`.
pub(super) fn layout(element: Element, prefix: [u8; PREFIX], file_bytes: u64) -> Result<Layout, Fault> {
    let dim = i32::from_le_bytes(prefix);
    let usable = usize::try_from(dim).ok().filter(|dim| (1..=super::DIM_MAX).contains(dim));
    let Some(dim) = usable else {
        return Err(Fault::malformed(
            0,
            format!("the first row says it has {dim} components; 1 to {} are possible", super::DIM_MAX),
        ));
    };
    let one = Layout { element, rows: 1, dim, flat: false, start: 0, prefix: PREFIX };
    // Rounded up, so that a row cut off in the middle makes the file too short.
    Layout { rows: file_bytes.div_ceil(one.stride() as u64), ..one }.checked(file_bytes)
}

/// The components of each row in `bytes`, whose first row is number `first`.
pub(super) fn components<'a>(
    layout: &Layout,
    first: u64,
    bytes: &'a [u8],
) -> impl Iterator<Item = Result<&'a [u8], Fault>> {
    let layout = *layout;
    bytes.chunks_exact(layout.stride()).zip(first..).map(move |(row, number)| {
        let (prefix, components) = row.split_first_chunk::<PREFIX>().unwrap_or((&[0; PREFIX], &[]));
        match i32::from_le_bytes(*prefix) {
            dim if dim as usize == layout.dim => Ok(components),
            dim => Err(Fault::malformed(
                layout.offset(number),
                format!("row {number} says it has {dim} components, the first has {}", layout.dim),
            )),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_row_and_the_length_tell_the_shape() {
        let layout = layout(Element::F32, 3i32.to_le_bytes(), 48).unwrap();
        assert_eq!((layout.rows, layout.dim, layout.stride()), (3, 3, 16));
    }

    #[test]
    fn hostile_dimensions_are_refused() {
        for dim in [0, -1, i32::MIN, i32::MAX, super::super::DIM_MAX as i32 + 1] {
            assert!(matches!(
                layout(Element::U8, dim.to_le_bytes(), 100),
                Err(Fault::Malformed { offset: 0, .. })
            ));
        }
    }

    #[test]
    fn a_row_cut_off_is_a_file_too_short() {
        let cut = layout(Element::U8, 4i32.to_le_bytes(), 15);
        assert_eq!(cut, Err(Fault::Length { expected: 16, found: 15 }));
    }
}
