//! Everything that talks to a running server: one binary, so that it is built once.

mod capacity;
mod memory;
mod promise;
mod shutdown;
mod smoke;
mod sqlite_faults;
mod support;
mod time;
mod writer;
