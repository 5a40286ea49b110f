//! Benchmarks of wgrouted.
//!
//! Only the crate's place in the workspace exists so far.
