//! The queue between connections and a store: one COMMIT per batch, one outcome per mail.

mod batching;
#[cfg(any(feature = "sqlite", feature = "mysql"))]
pub(super) mod bisect;
mod feed_entries;
mod hold;
mod in_doubt;
mod outcome;
mod pending;
mod receiver;
mod writer;

pub use hold::HoldLimit;
pub use in_doubt::BATCHES_IN_DOUBT_PER_WRITER;
pub use writer::{SaveQueue, StoreOpener, WriterThreads};
