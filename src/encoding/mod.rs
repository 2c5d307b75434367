//! Encodings: what a vector's code is, and how that is spelled in a specification.

#[allow(dead_code)] // until the factory makes it
mod additive;

pub use additive::{AdditiveCode, AdditiveKind, AdditiveNorm};
