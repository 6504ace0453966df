//! The queue between connections and a store: one COMMIT per batch, one outcome per mail.

mod batching;
#[cfg(any(feature = "sqlite", feature = "mysql"))]
pub(super) mod bisect;
mod pending;
mod writer;

pub use writer::{SaveQueue, StoreOpener, WriterThreads};
