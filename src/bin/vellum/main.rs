//! The command line of vellum.
fn main() {}
