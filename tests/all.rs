//! Everything that talks to a running server: one binary, so that it is built once.

mod smoke;
mod storage;
mod support;
