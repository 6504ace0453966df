//! Everything that talks to a running server: one binary, so that it is built once.

mod clients;
mod smoke;
mod support;
