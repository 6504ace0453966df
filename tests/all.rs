//! Everything that talks to a running server: one binary, so that it is built once.

mod clients;
mod floor_plan;
mod smoke;
mod support;
