//! The queue between connections and a store: one COMMIT per batch, one outcome per mail.

mod batching;
pub(super) mod bisect;
mod pending;
mod writer;

pub use writer::{SaveQueue, StoreOpener, Writers};
