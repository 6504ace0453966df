//! What the tests and benchmarks share.

mod output;
mod requirements;
mod runner;

pub use inventory;
pub use output::record;
pub use requirements::{needs, needs_program, needs_root};
pub use runner::{Build, Test, cache, program, root, run, set_build};
pub use testkit_macros::test;
