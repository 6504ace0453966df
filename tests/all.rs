//! Everything that talks to a running server: one binary, so that it is built once.

mod arguments;
mod check;
mod clients;
mod configs;
mod corpus;
mod dialogs;
mod floor_plan;
mod memory;
mod pipelining;
mod properties;
mod reading;
mod recipients;
mod refusals;
mod smoke;
mod support;
