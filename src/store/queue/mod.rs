//! The queue between connections and a store: batches, one COMMIT each, one answer per mail.

mod batching;
pub(super) mod bisect;
mod pending;
mod writer;

pub use writer::{OpenStore, Saver, Writers};
