//! Encodings: what a vector's code is, and how that is spelled in a specification.

mod scalar;

pub use scalar::{Real, ScalarBits, ScalarQuantizer, ScalarRange, ScalarSteps};
