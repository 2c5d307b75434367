//! What several tests and the fuzz targets share: a disk in memory that can fail, a model of the store,
//! and the interpreter of random operations. The fuzz crate includes this file by its path.

// Each test uses a part of this.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod copies;
pub(crate) mod disk;
mod load;
pub(crate) mod model;
pub(crate) mod ops;
mod places;
pub(crate) mod reads;
pub(crate) mod script;
mod verbs;
pub(crate) mod world;
