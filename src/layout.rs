//! How the codes of a block lie side by side.
//!
//! A codec states its [`Layout`]; storage uses it to place, move and cut codes without knowing what
//! they mean. Codes travel through storage entry by entry (*packed*: one after the other), and only a
//! block's encoded form has the layout's order, which is what kernels read.

/// The order of code bytes within a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Entry after entry, `code_bytes` each.
    RowMajor {
        /// Bytes of one code.
        code_bytes: usize,
    },
}

impl Layout {
    /// Bytes of one packed code.
    pub(crate) fn code_bytes(&self) -> usize {
        match *self {
            Layout::RowMajor { code_bytes } => code_bytes,
        }
    }

    /// Bytes that the codes of `n` entries take within a block.
    pub(crate) fn region_bytes(&self, n: usize) -> usize {
        match *self {
            Layout::RowMajor { code_bytes } => n * code_bytes,
        }
    }

    /// Packed codes into the block's order, appended to `region`.
    pub(crate) fn pack(&self, codes: &[u8], region: &mut Vec<u8>) {
        match self {
            Layout::RowMajor { .. } => region.extend_from_slice(codes),
        }
    }

    /// The packed codes of the `n` entries of `region`, appended to `codes`.
    pub(crate) fn unpack(&self, region: &[u8], n: usize, codes: &mut Vec<u8>) {
        match *self {
            Layout::RowMajor { code_bytes } => codes.extend_from_slice(&region[..n * code_bytes]),
        }
    }
}
