//! Mathematics over plain slices.
