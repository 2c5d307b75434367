//! Hostile values of tables, straight into what decodes them: blocks, pages of columns, headers.

/// See `src/fuzzing.rs` for the form of the input.
pub(crate) fn check(input: &[u8]) -> bool {
    vellum::fuzzing::value(input)
}
